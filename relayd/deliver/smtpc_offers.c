/* The keywords of an EHLO answer (RFC 5321 section 4.1.1.1). Unknown ones are passed over. */
#include "relayd/deliver/smtpc_private.h"

static void
auth_parse(struct span words, struct smtpc_offers *o)
{
    while (words.n > 0) {
        struct span word = span_cut(&words, ' ');
        if (span_ieq(word, SPAN("PLAIN")))
            o->auth_plain = true;
        else if (span_ieq(word, SPAN("LOGIN")))
            o->auth_login = true;
    }
}

/* RFC 9422: "LIMITS RCPTMAX=100 MAILMAX=20 RCPTDOMAINMAX=1". */
static void
limits_parse(struct span words, struct smtpc_offers *o)
{
    while (words.n > 0) {
        struct span value = span_cut(&words, ' ');
        struct span name = span_cut(&value, '=');
        uint64_t n;
        if (!span_u64(value, &n) || n == 0 || n > 1000000)
            continue;
        if (span_ieq(name, SPAN("RCPTMAX")))
            o->rcpt_max = (unsigned)n;
        else if (span_ieq(name, SPAN("MAILMAX")))
            o->mail_max = (unsigned)n;
    }
}

static void
line_parse(struct span line, struct smtpc_offers *o)
{
    struct span rest = line;
    struct span word = span_cut(&rest, ' ');
    if (span_ieq(word, SPAN("PIPELINING"))) {
        o->pipelining = true;
    } else if (span_ieq(word, SPAN("8BITMIME"))) {
        o->eight_bit = true;
    } else if (span_ieq(word, SPAN("SMTPUTF8"))) {
        o->smtputf8 = true;
    } else if (span_ieq(word, SPAN("DSN"))) {
        o->dsn = true;
    } else if (span_ieq(word, SPAN("STARTTLS"))) {
        o->starttls = true;
    } else if (span_ieq(word, SPAN("SIZE"))) {
        o->size = true;
        if (!span_u64(span_trim(rest), &o->size_max))
            o->size_max = 0;
    } else if (span_ieq(word, SPAN("AUTH"))) {
        auth_parse(rest, o);
    } else if (span_istarts(word, SPAN("AUTH="))) { /* servers of the year 2000 */
        auth_parse(span_from(line, 5), o);
    } else if (span_ieq(word, SPAN("LIMITS"))) {
        limits_parse(rest, o);
    }
}

void
smtpc_offers_parse(struct span text, struct smtpc_offers *ret)
{
    *ret = (struct smtpc_offers){0};
    span_cut(&text, '\n'); /* the first line greets */
    while (text.n > 0)
        line_parse(span_trim(span_cut(&text, '\n')), ret);
}
