/*
 * How it works: smtpc_send() puts a command into `out` and its row number into the FIFO; the reply
 * to the head goes to that row's handler, which returns what the driver does next. This file holds
 * the table, the FIFO and the events; the handlers are in smtpc_session.c (up to "ready") and
 * smtpc_txn.c (from there on).
 */
#include "relayd/deliver/smtpc_private.h"

#include "policy/base/mem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const struct deliver_timeouts deliver_timeouts_default = {
    .connect_ms = 30 * SECOND,
    .greeting_ms = 5 * MINUTE,
    .ehlo_ms = 5 * MINUTE,
    .starttls_ms = 60 * SECOND,
    .auth_ms = 60 * SECOND,
    .mail_ms = 5 * MINUTE,
    .rcpt_ms = 5 * MINUTE,
    .data_ms = 2 * MINUTE,
    .block_ms = 3 * MINUTE,
    .final_dot_ms = 10 * MINUTE,
    .quit_ms = 10 * SECOND,
};

#define TIMEOUT(field) offsetof(struct deliver_timeouts, field)

/* One row per thing that a reply can answer: its phase, its deadline, its handler. */
static const struct command {
    const char *name; /* phase= in logs and reports; never rename */
    size_t timeout;
    enum smtpc_want (*on_reply)(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
} commands[CMD__COUNT] = {
    [CMD_GREETING] = {"greeting", TIMEOUT(greeting_ms), smtpc_on_greeting},
    [CMD_EHLO] = {"ehlo", TIMEOUT(ehlo_ms), smtpc_on_ehlo},
    [CMD_HELO] = {"ehlo", TIMEOUT(ehlo_ms), smtpc_on_helo},
    [CMD_STARTTLS] = {"starttls", TIMEOUT(starttls_ms), smtpc_on_starttls},
    [CMD_AUTH_PLAIN] = {"auth", TIMEOUT(auth_ms), smtpc_on_auth_plain},
    [CMD_AUTH_LOGIN] = {"auth", TIMEOUT(auth_ms), smtpc_on_auth_login},
    [CMD_AUTH_USER] = {"auth", TIMEOUT(auth_ms), smtpc_on_auth_user},
    [CMD_AUTH_PASS] = {"auth", TIMEOUT(auth_ms), smtpc_on_auth},
    [CMD_RSET] = {"mail", TIMEOUT(mail_ms), smtpc_on_rset},
    [CMD_MAIL] = {"mail", TIMEOUT(mail_ms), smtpc_on_mail},
    [CMD_RCPT] = {"rcpt", TIMEOUT(rcpt_ms), smtpc_on_rcpt},
    [CMD_DATA] = {"data", TIMEOUT(data_ms), smtpc_on_data},
    [CMD_EMPTY_DOT] = {"data", TIMEOUT(data_ms), smtpc_on_empty_dot},
    [CMD_BODY_END] = {"body-end", TIMEOUT(final_dot_ms), smtpc_on_body_end},
    [CMD_QUIT] = {"quit", TIMEOUT(quit_ms), smtpc_on_quit},
};

const char *
smtpc_cmd_name(enum smtpc_cmd cmd)
{
    return commands[cmd].name;
}

struct smtpc *
smtpc_new(const struct smtpc_config *config, const struct smtpc_ops *ops, void *arg)
{
    struct smtpc *s = xcalloc(1, sizeof(*s));
    s->config = *config;
    s->ops = *ops;
    s->arg = arg;
    s->answered = -1;
    smtp_reply_parser_init(&s->parser);
    return s;
}

static void
out_clear(struct smtpc *s)
{
    if (s->out_secret && s->out.p != NULL)
        explicit_bzero(s->out.p, s->out.cap);
    s->out_secret = false;
    strbuf_reset(&s->out);
}

void
smtpc_free(struct smtpc *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < DELIVER_RCPTS_MAX; i++)
        free(s->answer[i]);
    out_clear(s);
    strbuf_release(&s->out);
    smtp_reply_parser_release(&s->parser);
    free(s);
}

bool
smtpc_idle_fifo(const struct smtpc *s)
{
    return s->head == s->tail;
}

void
smtpc_expect(struct smtpc *s, enum smtpc_cmd cmd, size_t rcpt)
{
    assert(s->tail - s->head < IN_FLIGHT_MAX);
    s->in_flight[s->tail++ % IN_FLIGHT_MAX] = (struct sent){(uint8_t)cmd, (uint8_t)rcpt};
}

void
smtpc_send(struct smtpc *s, enum smtpc_cmd cmd, size_t rcpt, const char *fmt, ...)
{
    size_t start = s->out.n;
    va_list ap;
    va_start(ap, fmt);
    strbuf_vprintf(&s->out, fmt, ap);
    va_end(ap);
    struct span line = span_of(s->out.p + start, s->out.n - start);
    assert(span_find_byte(line, '\n') == SIZE_MAX && span_find_byte(line, '\r') == SIZE_MAX);
    bool secret = cmd == CMD_AUTH_PLAIN || cmd == CMD_AUTH_USER || cmd == CMD_AUTH_PASS;
    if (s->ops.trace != NULL)
        s->ops.trace(s->arg, '>', secret ? SPAN("(credentials)") : line);
    s->out_secret |= secret;
    strbuf_add(&s->out, "\r\n", 2);
    smtpc_expect(s, cmd, rcpt);
}

enum smtpc_want
smtpc_close(struct smtpc *s, enum smtpc_end end)
{
    assert(end != SMTPC_END_OVER || s->txn == NULL);
    s->state = STATE_CLOSED;
    s->want = SMTPC_WANT_CLOSE;
    s->end = end;
    s->polite = false;
    s->head = s->flushed = s->tail = 0;
    out_clear(s);
    return SMTPC_WANT_CLOSE;
}

enum smtpc_want
smtpc_host_failed(struct smtpc *s, const struct outcome *o, enum smtpc_end end)
{
    s->failure = *o;
    if (s->config.hop) {
        s->failure.kind = OUTCOME_DEFERRED;
        s->failure.path = true;
    }
    smtpc_close(s, end);
    s->polite = s->answered >= 0 && o->code != 421; /* it has just answered a command */
    return SMTPC_WANT_CLOSE;
}

/* ---- events ---- */

static void
trace_reply(struct smtpc *s, const struct smtp_reply *r)
{
    char text[OUTCOME_TEXT_MAX + 1], enh[16], line[OUTCOME_TEXT_MAX + 32];
    if (s->ops.trace == NULL)
        return;
    enh_format(r->enh, enh);
    int n = snprintf(line, sizeof(line), "%d %s%s%s", r->code, enh, enh[0] == '\0' ? "" : " ",
                     smtp_reply_line(r, text, sizeof(text)));
    s->ops.trace(s->arg, '<', span_of(line, (size_t)n < sizeof(line) ? (size_t)n : 0));
}

static enum smtpc_want
reply(struct smtpc *s, const struct smtp_reply *r)
{
    trace_reply(s, r);
    s->wait_no++;
    if (!smtpc_expects_reply(s))
        return smtpc_early_reply(s, r);
    struct sent sent = s->in_flight[s->head++ % IN_FLIGHT_MAX];
    s->tls_heard |= s->in_tls;
    s->answered = (int)sent.cmd;
    enum smtpc_want want = commands[sent.cmd].on_reply(s, sent.rcpt, r);
    s->answered = -1;
    return want;
}

/* Why no byte may come now; NULL when one may. */
static const char *
unasked(const struct smtpc *s)
{
    if (s->state == STATE_TLS)
        return "bytes in clear behind the reply to STARTTLS";
    if (s->state == STATE_BODY || smtpc_expects_reply(s))
        return NULL;
    return "bytes that nobody asked for";
}

enum smtpc_want
smtpc_input(struct smtpc *s, struct span bytes)
{
    while (bytes.n > 0 && s->state != STATE_CLOSED) {
        struct smtp_reply r;
        size_t used;
        const char *why = unasked(s);
        if (why != NULL)
            return s->want = smtpc_violation(s, why);
        enum smtp_reply_status status = smtp_reply_parse(&s->parser, bytes, &used, &r);
        bytes = span_from(bytes, used);
        if (status == SMTP_REPLY_BAD)
            return s->want = smtpc_violation(s, s->parser.why);
        if (status == SMTP_REPLY_DONE)
            s->want = reply(s, &r);
    }
    return s->want;
}

/* The command that the next event, or the reply being handled, belongs to; -1: none. */
static int
cmd_now(const struct smtpc *s)
{
    if (s->answered >= 0)
        return s->answered;
    return smtpc_idle_fifo(s) ? -1 : s->in_flight[s->head % IN_FLIGHT_MAX].cmd;
}

/* What went wrong has to do with TLS, and the policy allows to do without it. */
static bool
clear_will_do(const struct smtpc *s)
{
    bool asked =
        s->state == STATE_TLS || (s->in_tls && !s->tls_heard) || cmd_now(s) == CMD_STARTTLS;
    return asked && s->config.tls == TLS_OPPORTUNISTIC && !s->host.implicit_tls &&
           s->config.auth_username == NULL;
}

/* Nobody was served yet. A host that is ready and spoils it in the same breath belongs here too: it
 * would be opened again and again, and nobody be told. */
static bool
in_setup(const struct smtpc *s)
{
    return s->state == STATE_SETUP || s->state == STATE_TLS ||
           (s->state == STATE_IDLE && s->n_txns == 0 && !s->idled);
}

enum smtpc_want
smtpc_violation(struct smtpc *s, const char *why)
{
    const char *phase = smtpc_phase(s);
    struct outcome o;
    assert(s->state != STATE_CLOSED);
    if (in_setup(s)) {
        if (clear_will_do(s))
            return smtpc_close(s, SMTPC_END_CLEAR);
        outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_PEER, phase, "4.5.0", "protocol error: %s", why);
        return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
    }
    if (s->state == STATE_IDLE || s->state == STATE_QUIT)
        return smtpc_close(s, SMTPC_END_OVER);
    return smtpc_txn_violation(s, phase, why);
}

enum smtpc_want
smtpc_lost(struct smtpc *s, enum smtpc_loss loss, const char *text)
{
    const char *phase = smtpc_phase(s);
    struct outcome o;
    assert(s->state != STATE_CLOSED);
    if (in_setup(s)) {
        if (clear_will_do(s))
            return smtpc_close(s, SMTPC_END_CLEAR);
        bool tls = loss == SMTPC_LOSS_TLS;
        outcome_set(&o, OUTCOME_DEFERRED, tls ? ORIGIN_TLS : ORIGIN_NET, phase,
                    tls ? "4.7.5" : "4.4.2", "%s", text);
        o.path = true;
        return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
    }
    if (s->state == STATE_IDLE || s->state == STATE_QUIT)
        return smtpc_close(s, SMTPC_END_OVER);
    return smtpc_txn_lost(s, loss, phase, text);
}

/* ---- facts ---- */

struct span
smtpc_output(const struct smtpc *s)
{
    return strbuf_span(&s->out);
}

bool
smtpc_output_is_secret(const struct smtpc *s)
{
    return s->out_secret;
}

void
smtpc_output_taken(struct smtpc *s)
{
    out_clear(s);
    s->flushed = s->tail;
}

bool
smtpc_expects_reply(const struct smtpc *s)
{
    return s->head != s->flushed;
}

const char *
smtpc_phase(const struct smtpc *s)
{
    if (cmd_now(s) >= 0)
        return commands[cmd_now(s)].name;
    if (s->state == STATE_TLS)
        return "starttls";
    return s->state == STATE_BODY ? "data" : "mail";
}

msec_t
smtpc_timeout_ms(const struct smtpc *s)
{
    size_t at = TIMEOUT(starttls_ms);
    if (!smtpc_idle_fifo(s))
        at = commands[s->in_flight[s->head % IN_FLIGHT_MAX].cmd].timeout;
    msec_t ms;
    memcpy(&ms, (const char *)&s->config.timeouts + at, sizeof(ms));
    return ms;
}

enum smtpc_end
smtpc_end(const struct smtpc *s)
{
    assert(s->state == STATE_CLOSED);
    return s->end;
}

bool
smtpc_end_polite(const struct smtpc *s)
{
    return s->polite;
}

const struct outcome *
smtpc_failure(const struct smtpc *s)
{
    return &s->failure;
}

const struct smtpc_offers *
smtpc_offers(const struct smtpc *s)
{
    return &s->offers;
}

struct deliver_txn *
smtpc_txn(const struct smtpc *s)
{
    return s->txn;
}

bool
smtpc_in_tls(const struct smtpc *s)
{
    return s->in_tls;
}

unsigned
smtpc_wait_no(const struct smtpc *s)
{
    return s->wait_no;
}

unsigned
smtpc_n_txns(const struct smtpc *s)
{
    return s->n_txns;
}

bool
smtpc_hop_trouble(const struct smtpc *s)
{
    return s->hop_trouble;
}
