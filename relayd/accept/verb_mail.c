/*
 * verb_mail - MAIL: opens a transaction, and the sink's when the client may relay. Called by
 * smtpd.c.
 *
 * A stranger's transaction gets no sink here: it would take a credit for mail that nobody may send.
 * verb_rcpt.c asks for one when a recipient of his is taken after all.
 */
#include "relayd/accept/internal.h"

#include "policy/base/domain.h"
#include "policy/base/mem.h"

#include <stdlib.h>

/* What the parameters say; spans into the line. */
struct params {
    uint64_t size_bytes;
    bool body_8bit, smtputf8, too_large;
    struct span ret, envid;
    unsigned seen; /* bits of keys[] */
};

static const char *const keys[] = {"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"};
enum key { KEY_SIZE, KEY_BODY, KEY_SMTPUTF8, KEY_RET, KEY_ENVID, KEY_AUTH, KEY_NONE };

static enum key
key_find(struct span name)
{
    for (size_t i = 0; i < N_ELEMENTS(keys); i++)
        if (span_ieq(name, span_str(keys[i])))
            return (enum key)i;
    return KEY_NONE;
}

/* RFC 1870 section 4: up to 20 digits, more than fit into 64 bits among them. */
static const char *
size_parse(struct span value, struct params *p)
{
    if (value.n == 0 || value.n > 20)
        return "501 5.5.4 bad SIZE";
    for (size_t i = 0; i < value.n; i++)
        if (!ascii_digit(value.p[i]))
            return "501 5.5.4 bad SIZE";
    p->too_large = !span_u64(value, &p->size_bytes);
    return NULL;
}

/* One parameter; NULL, or the reply that refuses it. */
static const char *
param_take(const struct smtpd *s, const struct smtpd_param *param, struct params *p)
{
    enum key key = key_find(param->key);

    if (key == KEY_NONE || (key == KEY_AUTH && !s->conf->auth))
        return "555 5.5.4 parameter not known";
    if ((p->seen & 1u << key) != 0)
        return "501 5.5.4 parameter given twice";
    p->seen |= 1u << key;
    if (param->has_value == (key == KEY_SMTPUTF8))
        return "501 5.5.4 bad parameter";
    switch (key) {
    case KEY_SIZE:
        return size_parse(param->value, p);
    case KEY_BODY:
        p->body_8bit = span_ieq(param->value, SPAN("8BITMIME"));
        return p->body_8bit || span_ieq(param->value, SPAN("7BIT")) ? NULL
                                                                    : "501 5.5.4 BODY not known";
    case KEY_SMTPUTF8:
        p->smtputf8 = true;
        return NULL;
    case KEY_RET:
        p->ret = span_ieq(param->value, SPAN("FULL"))   ? SPAN("FULL")
                 : span_ieq(param->value, SPAN("HDRS")) ? SPAN("HDRS")
                                                        : SPAN_NONE;
        return p->ret.n > 0 ? NULL : "501 5.5.4 RET is FULL or HDRS";
    case KEY_ENVID:
        p->envid = param->value;
        return param_envid_valid(param->value) ? NULL : "501 5.5.4 bad ENVID";
    case KEY_AUTH: /* RFC 4954 section 5: taken note of by nobody; it gives no trust */
        return span_eq(param->value, SPAN("<>")) || param_envid_valid(param->value)
                   ? NULL
                   : "501 5.5.4 bad AUTH";
    case KEY_NONE:
        break;
    }
    return NULL;
}

static const char *
params_take(const struct smtpd *s, struct span rest, struct params *p)
{
    struct smtpd_param param;
    int more;

    while ((more = param_next(&rest, &param)) > 0) {
        const char *refusal = param_take(s, &param, p);
        if (refusal != NULL)
            return refusal;
    }
    return more < 0 ? "501 5.5.4 bad parameter syntax" : NULL;
}

/* Cut "FROM:" and the path off *arg. NULL, or the reply. */
static const char *
path_take(struct span *arg, struct mailbox *ret)
{
    size_t length;

    if (!span_istarts(*arg, SPAN("FROM:")))
        return "501 5.5.4 MAIL FROM:<address> is needed";
    *arg = span_trim(span_from(*arg, 5));
    switch (mailbox_path_parse(*arg, MAILBOX_NULL | MAILBOX_UTF8, ret, &length)) {
    case MAILBOX_OK:
        break;
    case MAILBOX_TOO_LONG:
        return "501 5.1.7 sender address too long";
    case MAILBOX_ROUTE:
        return "501 5.1.7 source routes are not accepted";
    case MAILBOX_NO_DOMAIN:
        return "501 5.1.7 sender address has no domain";
    case MAILBOX_QUAD:
        return "501 5.1.7 an IP address for a domain needs brackets";
    default:
        return "501 5.1.7 bad sender address syntax";
    }
    *arg = span_from(*arg, length);
    return arg->n == 0 || *arg->p == ' ' ? NULL : "501 5.1.7 bad sender address syntax";
}

/* The spans of `mail`, in one block of its own. `domain` is canonical, or a literal as written. */
static void
txn_fill(struct smtpd_txn *t, const struct mailbox *m, struct span domain, const struct params *p)
{
    struct span shown = span_is_ascii(m->domain) ? m->domain : domain;
    struct strbuf text = STRBUF_INIT;

    strbuf_reserve(&text, m->local.n + 1 + shown.n + domain.n + p->envid.n + 1);
    const char *start = text.p; /* nothing below outgrows what was reserved */
    strbuf_add_span(&text, m->local);
    if (m->local.n > 0) {
        strbuf_add_byte(&text, '@');
        strbuf_add_span(&text, shown);
    }
    t->mail.sender = span_of(start, text.n);
    t->mail.sender_domain = span_of(start + text.n, domain.n);
    strbuf_add_span(&text, domain);
    t->mail.envid = span_of(start + text.n, p->envid.n);
    strbuf_add_span(&text, p->envid);
    t->mail.ret = p->ret;
    t->mail.size_bytes = p->size_bytes;
    t->mail.body_8bit = p->body_8bit;
    t->mail.smtputf8 = p->smtputf8;
    t->mail_text = strbuf_take(&text);
}

/* Everything that can be wrong with the command itself; NULL, or the reply. */
static const char *
judge(struct smtpd *s, struct span arg, struct mailbox *m, struct params *p,
      char domain[DOMAIN_BUF])
{
    const char *refusal = path_take(&arg, m);

    if (refusal == NULL)
        refusal = params_take(s, arg, p);
    if (refusal != NULL)
        return refusal;
    if (m->utf8 && !p->smtputf8)
        return "553 5.6.7 a non-ASCII address needs SMTPUTF8";
    if (!m->literal && m->domain.n > 0 && domain_normalise(m->domain, domain, NULL) != ERR_OK)
        return "501 5.1.7 bad sender domain";
    return NULL;
}

void
verb_mail(struct smtpd *s, struct span arg)
{
    char domain[DOMAIN_BUF] = "";
    struct params p = {.size_bytes = 0};
    struct mailbox m = {.quoted = false};

    if (s->conf->require_auth && s->user == NULL) {
        smtpd_error(s, s->conf->starttls && !s->tls ? "530 5.7.0 STARTTLS and AUTH come first"
                                                    : "530 5.7.0 authentication required");
        return;
    }
    const char *refusal = judge(s, arg, &m, &p, domain);
    if (refusal != NULL) {
        smtpd_error(s, refusal);
        return;
    }
    if (p.too_large || p.size_bytes > s->conf->message_bytes) {
        smtpd_refusal(s, "552 5.3.4 message too large");
        return;
    }
    struct smtpd_txn *t = xcalloc(1, sizeof *t);
    txn_fill(t, &m, m.literal ? m.domain : span_str(domain), &p);
    t->mail.client = &s->client;
    t->max_bytes = s->conf->message_bytes;
    s->client.protocol = smtpd_protocol(s, p.smtputf8);
    s->txn = t;
    if (s->client.trusted) {
        t->has_sink = true;
        s->want = SMTPD_WANT_BEGIN;
    } else {
        smtpd_set_state(s, SMTPD_MAIL);
        smtpd_reply(s, "250 2.1.0 ok");
    }
}

void
mail_begun(struct smtpd *s, struct span refusal)
{
    s->verb = "MAIL";
    if (refusal.n == 0) {
        smtpd_set_state(s, SMTPD_MAIL);
        smtpd_reply(s, "250 2.1.0 ok");
        return;
    }
    smtpd_reply_foreign(s, refusal, "45");
    smtpd_tell(s, SMTPD_EVENT_REFUSED, smtpd_last_reply(s), false);
    s->txn->has_sink = false;
    smtpd_txn_end(s);
}
