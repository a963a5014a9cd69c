/* EHLO answers: whatever they say, an offer is one of a few, its numbers are sane, and the order of
 * the lines behind the first does not matter for what is offered at all. */
#include "relayd/deliver/smtpc_private.h"
#include "tests/fuzz/check.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    struct strbuf turned = STRBUF_INIT;
    struct smtpc_offers o, again;
    struct span text = span_of(copy, n);

    smtpc_offers_parse(text, &o);
    CHECK(o.rcpt_max <= 1000000 && o.mail_max <= 1000000);
    CHECK(o.size || o.size_max == 0);
    struct span first = span_cut(&text, '\n');
    while (text.n > 0) {
        struct strbuf line = STRBUF_INIT;
        strbuf_add_str(&line, "\n");
        strbuf_add_span(&line, span_cut(&text, '\n'));
        strbuf_add_span(&line, strbuf_span(&turned));
        strbuf_release(&turned);
        turned = line;
    }
    struct strbuf all = STRBUF_INIT;
    strbuf_add_span(&all, first);
    strbuf_add_span(&all, strbuf_span(&turned));
    smtpc_offers_parse(strbuf_span(&all), &again);
    CHECK(o.pipelining == again.pipelining && o.eight_bit == again.eight_bit &&
          o.smtputf8 == again.smtputf8 && o.dsn == again.dsn && o.starttls == again.starttls &&
          o.auth_plain == again.auth_plain && o.auth_login == again.auth_login &&
          o.size == again.size);
    strbuf_release(&turned);
    strbuf_release(&all);
    return 0;
}
