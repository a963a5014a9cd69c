/*
 * reply - the replies of the protocol core, and what the log is told of them. Used by all its
 * files.
 */
#include "relayd/accept/internal.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#define REPLY_TEXT_MAX 500 /* RFC 5321 section 4.5.3.1.5: 512 with code and CRLF */

void
smtpd_reply(struct smtpd *s, const char *text)
{
    strbuf_add_str(&s->out, text);
    strbuf_add(&s->out, "\r\n", 2);
}

void
smtpd_replyf(struct smtpd *s, const char *fmt, ...)
{
    char text[REPLY_TEXT_MAX + 1];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    smtpd_reply(s, text);
}

void
smtpd_reply_foreign(struct smtpd *s, struct span text, const char *classes)
{
    size_t start = s->out.n;
    bool code = text.n >= 3 && text.p[0] != '\0' && strchr(classes, text.p[0]) != NULL &&
                ascii_digit(text.p[1]) && ascii_digit(text.p[2]) &&
                (text.n == 3 || text.p[3] == ' ');

    if (!code)
        strbuf_add_str(&s->out, "451 4.3.0 ");
    text = span_first(text, REPLY_TEXT_MAX);
    while (text.n > 0 && !mailbox_utf8_valid(span_from(text, text.n - 1)) &&
           ((unsigned char)text.p[text.n - 1] & 0xc0) != 0x80)
        text.n--; /* a character cut in half */
    bool utf8 = mailbox_utf8_valid(text);
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        bool odd = ascii_control(c) || (!utf8 && (unsigned char)c >= 128);
        strbuf_add_byte(&s->out, odd ? '?' : c);
    }
    assert(s->out.n > start);
    strbuf_add(&s->out, "\r\n", 2);
}

struct span
smtpd_last_reply(const struct smtpd *s)
{
    struct span all = span_first(strbuf_span(&s->out), s->out.n < 2 ? 0 : s->out.n - 2);
    const char *nl = all.n == 0 ? NULL : memrchr(all.p, '\n', all.n);

    return nl == NULL ? all : span_of(nl + 1, (size_t)(all.p + all.n - nl - 1));
}

void
smtpd_tell(struct smtpd *s, enum smtpd_event_kind kind, struct span text, bool stranger)
{
    if (s->conf->event == NULL)
        return;
    struct smtpd_event e = {.kind = kind, .verb = s->verb, .text = text, .stranger = stranger};
    if (s->auth != NULL)
        e.user = s->auth->pub.name;
    if (s->txn != NULL) {
        e.sender = s->txn->mail.sender;
        e.rcpt = s->txn->rcpt.address;
        e.body = &s->txn->body;
    }
    s->conf->event(s->event_arg, &e);
}

void
smtpd_refusal(struct smtpd *s, const char *text)
{
    smtpd_reply(s, text);
    smtpd_tell(s, SMTPD_EVENT_REFUSED, span_str(text), false);
}

void
smtpd_error(struct smtpd *s, const char *text)
{
    s->counts.errors++;
    smtpd_refusal(s, text);
}
