/*
 * fuzz_srs - first octet: days since the stamp of the secret's day; then an address, as sender and
 * as recipient. Nothing signed by somebody else is taken; what is given out is a mailbox within the
 * limits, at our domain, and leads back to the sender it was made of, and never to ourselves.
 */
#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "policy/srs.h"
#include "tests/fuzz/check.h"

#include <stdint.h>
#include <stdlib.h>

#define NOW ((msec_t)1577836860000)

static const struct span secrets[] = {{"tops3cr3t", 9}, {"0123456789abcdef", 16}};
static const struct span unknown[] = {{"fedcba9876543210", 16}};
static const struct srs ours = {{"example.com", 11}, secrets, 2};
static const struct srs theirs = {{"example.com", 11}, unknown, 1};

/* Is `address` the mailbox `local` (as it is meant, without quotes) at `domain`? The tag may have
 * changed its case. */
static bool
is_mailbox(struct span address, struct span local, struct span domain)
{
    CLEANUP(strbuf_release) struct strbuf plain = STRBUF_INIT;
    struct mailbox m;

    CHECK(mailbox_parse(address, MAILBOX_UTF8, &m) == MAILBOX_OK);
    mailbox_local_plain(&m, &plain);
    bool local_same = span_istarts(local, SPAN("SRS0")) ? span_ieq(strbuf_span(&plain), local)
                                                        : span_eq(strbuf_span(&plain), local);
    return local_same && span_eq(m.domain, domain);
}

static void
check_reverse(const struct mailbox *rcpt, msec_t now)
{
    CLEANUP(strbuf_release) struct strbuf to = STRBUF_INIT;
    struct mailbox m;

    if (srs_reverse(&ours, rcpt, now, &to) != SRS_OK) {
        CHECK(to.n == 0);
        return;
    }
    CHECK(mailbox_parse(strbuf_span(&to), MAILBOX_UTF8, &m) == MAILBOX_OK);
    CHECK(m.local.n > 0 && !span_ieq(m.domain, ours.domain));
}

static void
check_forward(struct span sender, const struct mailbox *parsed, struct span domain, msec_t now,
              int days)
{
    CLEANUP(strbuf_release)
    struct strbuf out = STRBUF_INIT, back = STRBUF_INIT, no = STRBUF_INIT, local = STRBUF_INIT;
    struct mailbox m;

    mailbox_local_plain(parsed, &local);
    if (!srs_forward(&ours, sender, domain, now, &out)) {
        CHECK(out.n == 0);
        return;
    }
    CHECK(out.n <= SRS_ADDRESS_MAX);
    CHECK(mailbox_parse(strbuf_span(&out), MAILBOX_UTF8, &m) == MAILBOX_OK);
    CHECK(m.local.n <= SRS_LOCAL_MAX && span_eq(m.domain, ours.domain));
    CHECK(srs_reverse(&theirs, &m, now, &no) != SRS_OK && no.n == 0);
    CHECK(srs_reverse(&ours, &m, now, &back) == SRS_OK);
    /* The sender, or of a chain its first hop. */
    if (!is_mailbox(strbuf_span(&back), strbuf_span(&local), domain))
        CHECK(span_istarts(strbuf_span(&local), SPAN("SRS1")));
    strbuf_reset(&back);
    if (srs_reverse(&ours, &m, now + days * DAY, &back) == SRS_OK)
        CHECK(days <= SRS_DAYS_VALID + 1 + SRS_DAYS_SKEW);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char domain[DOMAIN_BUF];
    struct mailbox m;

    if (n == 0)
        return 0;
    CLEANUP(freep) char *copy = xmalloc(n); /* a block of its own: reads beyond are seen */
    memcpy(copy, data + 1, n - 1);
    struct span address = span_of(copy, n - 1);
    if (mailbox_parse(address, MAILBOX_UTF8, &m) != MAILBOX_OK)
        return 0;
    check_reverse(&m, NOW);
    check_reverse(&m, NOW + data[0] * DAY);
    struct span name = m.domain;
    if (!m.literal) {
        if (domain_normalise(m.domain, domain, NULL) != ERR_OK)
            return 0;
        name = span_str(domain);
    }
    if (!span_eq(name, ours.domain))
        check_forward(address, &m, name, NOW, data[0]);
    return 0;
}
