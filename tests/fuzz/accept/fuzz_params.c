/*
 * The arguments of MAIL and RCPT under arbitrary octets: the first line goes behind "MAIL FROM:",
 * the second behind "RCPT TO:", in a session that may relay. Whatever is taken has the form that
 * the rest of the daemon relies on.
 */
#include "policy/base/domain.h"
#include "policy/base/mailbox.h"
#include "policy/base/mem.h"
#include "relayd/accept/data.h"
#include "relayd/accept/internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

/* No control characters, and no octet that ends a line or a path's parameter. */
static void
check_word(struct span word)
{
    for (size_t i = 0; i < word.n; i++)
        CHECK((unsigned char)word.p[i] > 32 && word.p[i] != 127);
}

static void
check_domain(struct span domain)
{
    char again[DOMAIN_BUF];

    CHECK(domain.n <= DOMAIN_BUF - 1);
    if (domain.n == 0 || domain.p[0] == '[')
        return;
    CHECK(span_is_ascii(domain));
    CHECK(domain_normalise(domain, again, NULL) == ERR_OK);
    CHECK(span_eq(span_str(again), domain));
}

static void
check_mail(const struct accept_mail *mail)
{
    struct mailbox m;

    CHECK((mail->sender.n == 0) == (mail->sender_domain.n == 0));
    if (mail->sender.n > 0) {
        CHECK(mailbox_parse(mail->sender, MAILBOX_UTF8, &m) == MAILBOX_OK);
        CHECK(!m.utf8 || mail->smtputf8);
    }
    check_domain(mail->sender_domain);
    CHECK(mail->envid.n <= ACCEPT_ENVID_MAX);
    check_word(mail->envid);
    CHECK(mail->ret.n == 0 || span_eq(mail->ret, SPAN("FULL")) || span_eq(mail->ret, SPAN("HDRS")));
}

static void
check_rcpt(const struct accept_rcpt *rcpt, const struct accept_mail *mail)
{
    struct mailbox m;

    CHECK(mailbox_parse(rcpt->address, MAILBOX_UTF8, &m) == MAILBOX_OK);
    CHECK(!m.utf8 || mail->smtputf8);
    CHECK(rcpt->domain.n > 0);
    check_domain(rcpt->domain);
    CHECK(rcpt->notify <= 15);
    CHECK((rcpt->notify & ACCEPT_NOTIFY_NEVER) == 0 || rcpt->notify == ACCEPT_NOTIFY_NEVER);
    CHECK(rcpt->orcpt.n <= ACCEPT_ORCPT_MAX);
    CHECK(rcpt->orcpt.n == 0 || span_find_byte(rcpt->orcpt, ';') != SIZE_MAX);
    check_word(rcpt->orcpt);
}

/* Step until more input is wanted; everything is answered with yes. */
static void
drive(struct smtpd *s, struct span in)
{
    enum smtpd_want want;

    while ((want = smtpd_step(s, 1000, &in)) != SMTPD_WANT_INPUT) {
        switch (want) {
        case SMTPD_WANT_BEGIN:
            check_mail(smtpd_mail(s));
            smtpd_answer(s, SPAN_NONE);
            break;
        case SMTPD_WANT_VERDICT:
            check_rcpt(smtpd_rcpt(s), smtpd_mail(s));
            smtpd_verdict(s, SPAN_NONE, SPAN_NONE);
            break;
        case SMTPD_WANT_RCPT:
            check_rcpt(smtpd_rcpt(s), smtpd_mail(s));
            smtpd_answer(s, SPAN_NONE);
            break;
        case SMTPD_WANT_ABORT:
        case SMTPD_WANT_FLUSH:
            break;
        default:
            abort(); /* nothing else follows MAIL and RCPT */
        }
        strbuf_release(smtpd_out(s));
    }
    strbuf_release(smtpd_out(s));
}

/* Words alone: parameters are cut in order, and cover the line. */
static void
check_cutting(struct span line)
{
    struct smtpd_param param;
    struct span rest = line;

    while (param_next(&rest, &param) > 0) {
        CHECK(param.key.n > 0 && param.key.p >= line.p && rest.p >= param.key.p + param.key.n);
        CHECK(!param.has_value || param.value.p + param.value.n <= rest.p);
        (void)param_notify(param.value);
    }
    CHECK(rest.p <= line.p + line.n);
}

static void
command(struct strbuf *out, const char *verb, struct span arg)
{
    strbuf_add_str(out, verb);
    for (size_t i = 0; i < arg.n; i++)
        if (arg.p[i] != '\r' && arg.p[i] != '\n')
            strbuf_add_byte(out, arg.p[i]);
    strbuf_add_str(out, "\r\n");
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static char scratch[DATA_SCRATCH_BYTES];
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    struct ip own = {.family = 4, .bytes = {192, 0, 2, 1}};
    struct accept_client client = {.session = 1, .ip = own, .listener = SPAN("x")};
    struct smtpd_conf conf = {.hostname = "relay.test",
                              .postmaster = "postmaster@relay.test",
                              .srs_domain = "",
                              .own = &own,
                              .n_own = 1,
                              .message_bytes = UINT64_MAX,
                              .header_bytes = 1000,
                              .max_rcpts = 4,
                              .idle_ms = 5 * MINUTE,
                              .idle_stressed_ms = 10 * SECOND};
    struct span rcpt = span_of(bytes, n), mail = span_cut(&rcpt, '\n');
    struct smtpd *s = smtpd_new(&conf, &client, scratch, NULL);

    check_cutting(mail);
    check_cutting(rcpt);
    smtpd_set_trusted(s, true);
    smtpd_start(s, 1000, false);
    drive(s, SPAN("EHLO fuzz.test\r\n"));
    command(&text, "MAIL FROM:", mail);
    command(&text, "RCPT TO:", rcpt);
    /* And recipients behind a sender that is good, so that both lines are looked at. */
    command(&text, "RSET", SPAN_NONE);
    command(&text, "MAIL FROM:<>", SPAN(" SMTPUTF8"));
    command(&text, "RCPT TO:", mail);
    command(&text, "RCPT TO:", rcpt);
    drive(s, strbuf_span(&text));
    smtpd_free(s);
    return 0;
}
