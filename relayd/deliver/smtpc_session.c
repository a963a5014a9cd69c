/*
 * The session of the protocol core up to "ready": greeting, EHLO or HELO, STARTTLS, AUTH; and QUIT.
 *
 *   smtpc_open -> greeting -> ehlo -+-> starttls -> (handshake) -> ehlo -+-> auth -> ready
 *        `--(handshake)----^        +-> helo ----------------------------+
 */
#include "relayd/deliver/smtpc_private.h"

#include <assert.h>
#include <string.h>

static enum smtpc_want
greeting_wait(struct smtpc *s)
{
    s->state = STATE_SETUP;
    smtpc_expect(s, CMD_GREETING, 0);
    s->flushed = s->tail; /* nothing has to be sent for it */
    return s->want = SMTPC_WANT_REPLY;
}

enum smtpc_want
smtpc_open(struct smtpc *s, const struct smtpc_host *host)
{
    assert(s->state == STATE_CLOSED && smtpc_idle_fifo(s));
    s->host = *host;
    s->offers = (struct smtpc_offers){0};
    s->in_tls = s->tls_heard = s->needs_rset = s->idled = s->took_mail = false;
    s->n_txns = 0;
    s->wait_no++;
    smtp_reply_parser_reset(&s->parser);
    smtpc_txn_rewind(s);
    if (host->implicit_tls) {
        s->state = STATE_TLS;
        return s->want = SMTPC_WANT_TLS;
    }
    return greeting_wait(s);
}

enum smtpc_want
smtpc_tls_up(struct smtpc *s)
{
    assert(s->state == STATE_TLS && smtpc_idle_fifo(s));
    s->in_tls = true;
    s->offers = (struct smtpc_offers){0};
    s->wait_no++;
    smtp_reply_parser_reset(&s->parser);
    if (s->host.implicit_tls)
        return greeting_wait(s);
    s->state = STATE_SETUP;
    smtpc_send(s, CMD_EHLO, 0, "EHLO %s", s->config.ehlo_name);
    return s->want = SMTPC_WANT_REPLY;
}

/* The greeting or EHLO was refused: that host's answer, not yet the recipients'. */
static enum smtpc_want
host_refused(struct smtpc *s, enum smtpc_cmd cmd, const struct smtp_reply *r)
{
    struct outcome o;
    smtp_reply_outcome(r, smtpc_cmd_name(cmd), &o);
    return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
}

enum smtpc_want
smtpc_on_greeting(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    if (r->code / 100 == 3)
        return smtpc_violation(s, "an odd greeting");
    if (r->code / 100 != 2)
        return host_refused(s, CMD_GREETING, r);
    smtpc_send(s, CMD_EHLO, 0, "EHLO %s", s->config.ehlo_name);
    return SMTPC_WANT_REPLY;
}

/* Whether plain SMTP without any extension would do here. */
static bool
helo_will_do(const struct smtpc *s)
{
    bool gone = s->config.tls_gone_is_path && s->host.tls_was_there && !s->host.in_clear;
    return s->config.tls < TLS_REQUIRE && s->config.auth_username == NULL && !gone;
}

/* TLS is wanted and can't be had. */
static enum smtpc_want
tls_missing(struct smtpc *s, const char *why)
{
    struct outcome o;
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_TLS, "starttls", "4.7.4", "%s", why);
    o.path = s->host.tls_was_there;
    return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
}

static enum smtpc_want
auth_missing(struct smtpc *s, const char *why)
{
    struct outcome o;
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_PEER, "auth", "4.7.0", "%s", why);
    o.path = true;
    return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
}

/* Base64 of n bytes into `out` with its NUL: 4 * ((n + 2) / 3) + 1 bytes. */
static void
base64(const char *bytes, size_t n, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)(unsigned char)bytes[i] << 16;
        if (i + 1 < n)
            v |= (uint32_t)(unsigned char)bytes[i + 1] << 8;
        if (i + 2 < n)
            v |= (unsigned char)bytes[i + 2];
        *out++ = digits[v >> 18];
        *out++ = digits[v >> 12 & 63];
        *out++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *out++ = i + 2 < n ? digits[v & 63] : '=';
    }
    *out = '\0';
}

#define AUTH_TEXT_MAX 512 /* of a user name or password; config keeps them shorter */

static void
auth_text_send(struct smtpc *s, enum smtpc_cmd cmd, const char *prefix, const char *p, size_t n)
{
    char text[4 * ((2 * AUTH_TEXT_MAX + 4) / 3) + 1];
    base64(p, n, text);
    smtpc_send(s, cmd, 0, "%s%s", prefix, text);
    explicit_bzero(text, sizeof(text));
}

static enum smtpc_want
auth_start(struct smtpc *s)
{
    size_t user_n = strlen(s->config.auth_username), pass_n = strlen(s->config.auth_password);
    if (!s->in_tls)
        return auth_missing(s, "AUTH is only done inside TLS, and there is none");
    if (user_n > AUTH_TEXT_MAX || pass_n > AUTH_TEXT_MAX)
        return auth_missing(s, "the user name or password is too long for AUTH");
    if (s->offers.auth_plain) {
        char text[2 * AUTH_TEXT_MAX + 3]; /* NUL, user, NUL, password: RFC 4616 */
        text[0] = '\0';
        memcpy(text + 1, s->config.auth_username, user_n + 1);
        memcpy(text + user_n + 2, s->config.auth_password, pass_n);
        auth_text_send(s, CMD_AUTH_PLAIN, "AUTH PLAIN ", text, user_n + pass_n + 2);
        explicit_bzero(text, sizeof(text));
    } else if (s->offers.auth_login) {
        smtpc_send(s, CMD_AUTH_LOGIN, 0, "AUTH LOGIN");
    } else {
        return auth_missing(s, "neither AUTH PLAIN nor AUTH LOGIN is offered");
    }
    return SMTPC_WANT_REPLY;
}

/* EHLO (or HELO) is answered: TLS, then AUTH, then ready. */
static enum smtpc_want
setup_next(struct smtpc *s)
{
    if (!s->in_tls && s->config.tls != TLS_OFF && !s->host.in_clear) {
        if (s->offers.starttls) {
            smtpc_send(s, CMD_STARTTLS, 0, "STARTTLS");
            return SMTPC_WANT_REPLY;
        }
        if (s->config.tls >= TLS_REQUIRE)
            return tls_missing(s, "TLS is required and not offered");
        if (s->config.tls_gone_is_path && s->host.tls_was_there)
            return tls_missing(s, "TLS worked here lately and is no longer offered");
    }
    assert(s->in_tls || s->config.tls < TLS_REQUIRE);
    if (s->config.auth_username != NULL)
        return auth_start(s);
    return smtpc_session_ready(s);
}

enum smtpc_want
smtpc_on_ehlo(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    if (r->code / 100 == 2) {
        smtpc_offers_parse(r->text, &s->offers);
        return setup_next(s);
    }
    if (r->code / 100 == 3)
        return smtpc_violation(s, "an odd reply to EHLO");
    bool unknown = r->code == 500 || r->code == 501 || r->code == 502 || r->code == 504 ||
                   (r->code == 550 && r->enh.klass == 0);
    if (unknown && helo_will_do(s)) {
        smtpc_send(s, CMD_HELO, 0, "HELO %s", s->config.ehlo_name);
        return SMTPC_WANT_REPLY;
    }
    struct outcome o;
    smtp_reply_outcome(r, "ehlo", &o);
    if (unknown) { /* without EHLO no TLS and no AUTH: nothing is said about any recipient */
        o.kind = OUTCOME_DEFERRED;
        o.path = s->host.tls_was_there;
    }
    return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
}

enum smtpc_want
smtpc_on_helo(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    if (r->code / 100 == 3)
        return smtpc_violation(s, "an odd reply to HELO");
    if (r->code / 100 != 2)
        return host_refused(s, CMD_HELO, r);
    s->offers = (struct smtpc_offers){0};
    return setup_next(s);
}

enum smtpc_want
smtpc_on_starttls(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    if (r->code == 220) {
        s->state = STATE_TLS;
        return SMTPC_WANT_TLS;
    }
    if (r->code / 100 < 4)
        return smtpc_violation(s, "an odd reply to STARTTLS");
    if (s->config.tls >= TLS_REQUIRE || r->code == 421 ||
        (s->config.tls_gone_is_path && s->host.tls_was_there)) {
        struct outcome o;
        smtp_reply_outcome(r, "starttls", &o);
        o.kind = OUTCOME_DEFERRED;
        o.path = r->code != 421 && s->host.tls_was_there;
        return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
    }
    s->host.in_clear = true; /* opportunistic: offered, not given; this session goes on */
    return setup_next(s);
}

static enum smtpc_want
auth_refused(struct smtpc *s, const struct smtp_reply *r)
{
    struct outcome o;
    smtp_reply_outcome(r, "auth", &o);
    o.kind = OUTCOME_DEFERRED;
    o.path = true;
    /* The same credentials would be refused at the next port too, and count against us there. */
    return smtpc_host_failed(s, &o, r->code / 100 == 5 ? SMTPC_END_STOP : SMTPC_END_NEXT);
}

enum smtpc_want
smtpc_on_auth(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    if (r->code / 100 == 3)
        return smtpc_violation(s, "an odd reply to AUTH");
    return r->code / 100 == 2 ? smtpc_session_ready(s) : auth_refused(s, r);
}

enum smtpc_want
smtpc_on_auth_plain(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    if (r->code == 504 && s->offers.auth_login) { /* offered, but not known after all */
        smtpc_send(s, CMD_AUTH_LOGIN, 0, "AUTH LOGIN");
        return SMTPC_WANT_REPLY;
    }
    return smtpc_on_auth(s, rcpt, r);
}

enum smtpc_want
smtpc_on_auth_login(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    if (r->code != 334)
        return r->code / 100 < 4 ? smtpc_violation(s, "an odd reply to AUTH")
                                 : smtpc_on_auth(s, rcpt, r);
    const char *user = s->config.auth_username;
    auth_text_send(s, CMD_AUTH_USER, "", user, strlen(user));
    return SMTPC_WANT_REPLY;
}

enum smtpc_want
smtpc_on_auth_user(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    if (r->code != 334)
        return r->code / 100 < 4 ? smtpc_violation(s, "an odd reply to AUTH")
                                 : smtpc_on_auth(s, rcpt, r);
    const char *password = s->config.auth_password;
    auth_text_send(s, CMD_AUTH_PASS, "", password, strlen(password));
    return SMTPC_WANT_REPLY;
}

enum smtpc_want
smtpc_quit(struct smtpc *s)
{
    assert(s->state == STATE_IDLE && s->txn == NULL);
    s->state = STATE_QUIT;
    s->wait_no++;
    smtpc_send(s, CMD_QUIT, 0, "QUIT");
    return s->want = SMTPC_WANT_REPLY;
}

enum smtpc_want
smtpc_on_quit(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    (void)r;
    smtpc_close(s, SMTPC_END_OVER);
    s->polite = true;
    return SMTPC_WANT_CLOSE;
}
