/*
 * auth - AUTH PLAIN and LOGIN (RFC 4954, RFC 4616), only inside TLS. Called by smtpd.c.
 *
 * The core only collects name and password; the driver throttles and has them checked by a worker
 * (WANT_AUTH). Both are wiped as soon as they are judged.
 */
#include "relayd/accept/internal.h"

#include "policy/base/mem.h"
#include "policy/users.h"

#include <assert.h>
#include <stdlib.h>

static void
wipe(struct strbuf *sb)
{
    if (sb->p != NULL)
        explicit_bzero(sb->p, sb->cap);
    strbuf_release(sb);
}

void
auth_release(struct smtpd *s)
{
    if (s->auth == NULL)
        return;
    wipe(&s->auth->name);
    wipe(&s->auth->password);
    free(s->auth);
    s->auth = NULL;
}

static int
base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (ascii_digit(c))
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* RFC 4648 section 4, strict: whole groups, padding only at the end. */
static bool
base64_decode(struct span in, struct strbuf *out)
{
    if (in.n % 4 != 0)
        return false;
    strbuf_reserve(out, in.n / 4 * 3); /* never moved, so no copy of a password stays behind */
    for (size_t i = 0; i < in.n; i += 4) {
        bool last = i + 4 == in.n;
        size_t pad = !last ? 0 : in.p[i + 2] == '=' ? 2 : in.p[i + 3] == '=';
        uint32_t bits = 0;
        if (pad == 2 && in.p[i + 3] != '=')
            return false;
        for (size_t k = 0; k < 4; k++) {
            int v = k >= 4 - pad ? 0 : base64_value(in.p[i + k]);
            if (v < 0)
                return false;
            bits = bits << 6 | (uint32_t)v;
        }
        for (size_t k = 0; k < 3 - pad; k++)
            strbuf_add_byte(out, (char)(bits >> (16 - 8 * k)));
    }
    return true;
}

static void
give_up(struct smtpd *s, const char *text)
{
    s->mode = MODE_COMMAND;
    smtpd_error(s, text);
    auth_release(s);
}

static void
failed(struct smtpd *s, const char *why)
{
    static const char text[] = "535 5.7.8 authentication failed";

    s->mode = MODE_COMMAND;
    s->counts.errors++;
    smtpd_reply(s, text);
    s->verb = s->auth->pub.mechanism;
    smtpd_tell(s, SMTPD_EVENT_AUTH_FAILED, span_str(why), false);
    auth_release(s);
}

static void
ask(struct smtpd *s)
{
    struct smtpd_auth_state *a = s->auth;

    s->mode = MODE_COMMAND;
    a->pub.name = strbuf_span(&a->name);
    a->pub.password = strbuf_span(&a->password);
    s->want = SMTPD_WANT_AUTH; /* also for a hopeless name: it takes as long as another */
}

/* authzid NUL authcid NUL password (RFC 4616 section 2). */
static void
plain_response(struct smtpd *s, struct span line)
{
    struct smtpd_auth_state *a = s->auth;
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;

    if (!base64_decode(line, &text)) {
        wipe(&text);
        give_up(s, "501 5.5.2 bad base64");
        return;
    }
    struct span rest = strbuf_span(&text), as = span_cut(&rest, '\0');
    size_t nul = span_find_byte(rest, '\0');
    struct span name = span_cut(&rest, '\0');
    if (nul == SIZE_MAX || name.n == 0 || span_find_byte(rest, '\0') != SIZE_MAX) {
        wipe(&text);
        give_up(s, "501 5.5.2 bad PLAIN response");
        return;
    }
    strbuf_add_span(&a->name, name);
    a->pub.name = strbuf_span(&a->name);
    if (as.n > 0 && !span_eq(as, name)) {
        wipe(&text);
        failed(s, "to act as another user");
        return;
    }
    strbuf_reserve(&a->password, rest.n);
    strbuf_add_span(&a->password, rest);
    wipe(&text);
    ask(s);
}

static void
response(struct smtpd *s, struct span line)
{
    struct smtpd_auth_state *a = s->auth;

    switch (a->stage) {
    case AUTH_PLAIN:
        plain_response(s, line);
        return;
    case AUTH_LOGIN_NAME:
        if (!base64_decode(line, &a->name)) {
            give_up(s, "501 5.5.2 bad base64");
            return;
        }
        a->pub.name = strbuf_span(&a->name);
        a->stage = AUTH_LOGIN_PASSWORD;
        s->mode = MODE_AUTH;
        smtpd_reply(s, "334 UGFzc3dvcmQ6");
        return;
    case AUTH_LOGIN_PASSWORD:
        if (!base64_decode(line, &a->password))
            give_up(s, "501 5.5.2 bad base64");
        else
            ask(s);
        return;
    }
}

void
auth_line(struct smtpd *s, struct span line)
{
    s->verb = "AUTH";
    if (span_eq(line, SPAN("*")))
        give_up(s, "501 5.7.0 authentication cancelled");
    else
        response(s, line);
}

void
verb_auth(struct smtpd *s, struct span arg)
{
    struct span initial = arg, mechanism = span_cut(&initial, ' ');
    bool plain = span_ieq(mechanism, SPAN("PLAIN"));

    if (!s->conf->auth) {
        smtpd_error(s, "502 5.5.1 AUTH is not offered");
    } else if (!s->tls) {
        smtpd_error(s, "538 5.7.11 AUTH needs TLS, say STARTTLS first");
    } else if (s->user != NULL) {
        smtpd_error(s, "503 5.5.1 already authenticated");
    } else if (!plain && !span_ieq(mechanism, SPAN("LOGIN"))) {
        smtpd_error(s, "504 5.5.4 mechanism not known");
    } else {
        s->auth = xcalloc(1, sizeof *s->auth);
        s->auth->pub.mechanism = plain ? "PLAIN" : "LOGIN";
        s->auth->stage = plain ? AUTH_PLAIN : AUTH_LOGIN_NAME;
        if (initial.n > 0) {
            response(s, span_eq(initial, SPAN("=")) ? SPAN_NONE : initial);
        } else {
            s->mode = MODE_AUTH;
            smtpd_reply(s, plain ? "334 " : "334 VXNlcm5hbWU6");
        }
    }
}

const struct smtpd_auth *
smtpd_auth(const struct smtpd *s)
{
    assert(s->auth != NULL);
    return &s->auth->pub;
}

void
smtpd_auth_done(struct smtpd *s, enum smtpd_auth_verdict verdict)
{
    assert(s->want == SMTPD_WANT_AUTH && s->auth != NULL);
    s->want = SMTPD_WANT_INPUT;
    smtpd_rearm(s);
    s->verb = s->auth->pub.mechanism;
    switch (verdict) {
    case SMTPD_AUTH_OK:
        s->user = xstrndup(s->auth->pub.name.p, s->auth->pub.name.n);
        s->client.user = span_str(s->user);
        smtpd_reply(s, "235 2.7.0 welcome");
        smtpd_tell(s, SMTPD_EVENT_AUTH_OK, smtpd_last_reply(s), false);
        break;
    case SMTPD_AUTH_BAD:
        failed(s, "unknown user or wrong password");
        return;
    case SMTPD_AUTH_BUSY:
        smtpd_reply(s, "454 4.7.0 busy, try again later");
        smtpd_tell(s, SMTPD_EVENT_REFUSED, smtpd_last_reply(s), false);
        break;
    case SMTPD_AUTH_THROTTLED:
        s->counts.errors++;
        smtpd_replyf(s, "421 4.7.0 %s too many failed logins, come back later", s->conf->hostname);
        smtpd_tell(s, SMTPD_EVENT_REFUSED, smtpd_last_reply(s), false);
        smtpd_close(s, "throttled", NULL);
        break;
    }
    auth_release(s);
}
