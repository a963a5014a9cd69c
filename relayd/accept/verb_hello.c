/*
 * verb_hello - EHLO, HELO and STARTTLS: who speaks, and in what. Called by smtpd.c.
 */
#include "relayd/accept/internal.h"

#include "policy/base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

/* A name or a literal goes into our Received field: no blanks, and none of the characters that
 * could end or quote something there. What it says is not checked (RFC 5321 section 4.1.4). */
static bool
helo_valid(struct span name)
{
    if (name.n == 0 || name.n > SMTPD_HELO_MAX)
        return false;
    for (size_t i = 0; i < name.n; i++)
        if (name.p[i] <= 32 || name.p[i] > 126 || strchr("()<>@,;\\\"", name.p[i]) != NULL)
            return false;
    return true;
}

static bool
hello(struct smtpd *s, struct span name, bool esmtp)
{
    if (!helo_valid(name)) {
        smtpd_error(s, "501 5.5.4 a domain name or address literal is needed");
        return false;
    }
    smtpd_txn_end(s);
    free(s->helo);
    s->helo = xstrndup(name.p, name.n);
    s->client.helo = span_str(s->helo);
    s->esmtp = esmtp;
    smtpd_set_state(s, SMTPD_READY);
    return true;
}

void
verb_helo(struct smtpd *s, struct span arg)
{
    if (hello(s, arg, false))
        smtpd_replyf(s, "250 %s", s->conf->hostname);
}

void
verb_ehlo(struct smtpd *s, struct span arg)
{
    if (!hello(s, arg, true))
        return;
    smtpd_replyf(s, "250-%s", s->conf->hostname);
    smtpd_reply(s, "250-PIPELINING");
    smtpd_replyf(s, "250-SIZE %" PRIu64, s->conf->message_bytes);
    smtpd_reply(s, "250-8BITMIME");
    smtpd_reply(s, "250-SMTPUTF8");
    smtpd_reply(s, "250-ENHANCEDSTATUSCODES");
    smtpd_reply(s, "250-DSN");
    smtpd_reply(s, "250-CHUNKING");
    if (s->conf->starttls && !s->tls)
        smtpd_reply(s, "250-STARTTLS");
    if (s->conf->auth && s->tls)
        smtpd_reply(s, "250-AUTH PLAIN LOGIN");
    smtpd_replyf(s, "250 LIMITS RCPTMAX=%" PRIu32, s->conf->max_rcpts);
}

void
verb_starttls(struct smtpd *s, struct span arg)
{
    if (s->tls) {
        smtpd_error(s, "503 5.5.1 TLS is on already");
    } else if (!s->conf->starttls) {
        smtpd_error(s, "502 5.5.1 STARTTLS is not offered");
    } else if (arg.n > 0) {
        smtpd_error(s, "501 5.5.4 STARTTLS takes no parameter");
    } else {
        smtpd_reply(s, "220 2.0.0 go ahead");
        s->want = SMTPD_WANT_TLS;
    }
}

void
smtpd_tls_done(struct smtpd *s, struct span version, struct span cipher)
{
    bool starttls = s->state != SMTPD_NEW;

    assert(!s->tls && s->txn == NULL);
    assert(!starttls || s->want == SMTPD_WANT_TLS);
    free(s->helo);
    free(s->user);
    s->helo = s->user = NULL;
    s->client.helo = s->client.user = SPAN_NONE;
    s->client.tls_version = version;
    s->client.tls_cipher = cipher;
    s->esmtp = false;
    s->tls = true;
    s->want = SMTPD_WANT_INPUT;
    smtpd_rearm(s);
    if (starttls)
        smtpd_set_state(s, SMTPD_HELLO);
}
