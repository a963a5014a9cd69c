/*
 * smtpd - a session's states, what it wants of its driver, and the driver's answers. Driven by
 * session.c; commands are cut off and looked up in command.c, replies are in reply.c.
 *
 *   state  NEW ─greeting─▶ HELLO ─EHLO─▶ READY ─MAIL─▶ MAIL ─RCPT─▶ RCPT ─BDAT─▶ BDAT
 *                                          ▲                           │DATA       │BDAT LAST
 *                                          └────────── the message has ended ──────┘
 */
#include "relayd/accept/internal.h"

#include "policy/base/mem.h"

#include <assert.h>
#include <stdlib.h>

void
smtpd_set_state(struct smtpd *s, enum smtpd_state state)
{
    assert(s->state != SMTPD_OVER);
    s->state = (uint8_t)state;
}

void
smtpd_close(struct smtpd *s, const char *reason, const char *text)
{
    if (s->state == SMTPD_OVER)
        return;
    if (text != NULL)
        smtpd_reply(s, text);
    smtpd_txn_end(s);
    smtpd_set_state(s, SMTPD_OVER);
    s->close_reason = reason;
    s->mode = MODE_COMMAND;
}

void
smtpd_rearm(struct smtpd *s)
{
    s->deadline_at = SMTPD_NO_DEADLINE;
}

/* ---- transactions ---- */

static void
txn_free(struct smtpd_txn *t)
{
    if (t == NULL)
        return;
    free(t->rcpt_node);
    while (t->rcpts != NULL) {
        struct smtpd_rcpt_node *node = t->rcpts;
        t->rcpts = node->next;
        free(node);
    }
    map_release(&t->seen);
    free(t->mail_text);
    free(t->refusal);
    free(t);
}

void
smtpd_txn_end(struct smtpd *s)
{
    struct smtpd_txn *t = s->txn;

    if (t == NULL)
        return;
    assert(s->dead_txn == NULL);
    s->txn = NULL;
    if (t->has_sink || s->abort_due) {
        t->has_sink = false;
        s->abort_due = true;
        s->dead_txn = t;
    } else {
        txn_free(t);
    }
    if (s->state & (SMTPD_MAIL | SMTPD_RCPT | SMTPD_BDAT))
        smtpd_set_state(s, SMTPD_READY);
}

struct span
smtpd_protocol(const struct smtpd *s, bool smtputf8)
{
    static const char *const words[2][2][2] = {
        {{"ESMTP", "ESMTPA"}, {"ESMTPS", "ESMTPSA"}},
        {{"UTF8SMTP", "UTF8SMTPA"}, {"UTF8SMTPS", "UTF8SMTPSA"}}};

    return span_str(s->esmtp ? words[smtputf8][s->tls][s->user != NULL] : "SMTP");
}

/* ---- the driver's side ---- */

struct smtpd *
smtpd_new(const struct smtpd_conf *conf, const struct accept_client *client, char *scratch,
          void *event_arg)
{
    struct smtpd *s = xcalloc(1, sizeof *s);

    s->conf = conf;
    s->client = *client;
    s->scratch = scratch;
    s->event_arg = event_arg;
    s->state = SMTPD_NEW;
    s->verb = "connect";
    s->close_reason = "";
    s->deadline_at = SMTPD_NO_DEADLINE;
    return s;
}

void
smtpd_free(struct smtpd *s)
{
    if (s == NULL)
        return;
    auth_release(s);
    txn_free(s->txn);
    txn_free(s->dead_txn);
    strbuf_release(&s->out);
    free(s->helo);
    free(s->user);
    free(s);
}

void
smtpd_start(struct smtpd *s, msec_t now, bool early)
{
    assert(s->state == SMTPD_NEW);
    s->now = now;
    if (early) {
        s->counts.errors++;
        smtpd_close(s, "early talk", "554 5.5.0 the server speaks first");
        return;
    }
    smtpd_replyf(s, "220 %s ESMTP relayd", s->conf->hostname);
    smtpd_set_state(s, SMTPD_HELLO);
}

void
smtpd_turn_away(struct smtpd *s, struct span reply)
{
    assert(s->state == SMTPD_NEW);
    smtpd_reply_foreign(s, reply, "45");
    smtpd_close(s, "turned away", NULL);
}

static bool
is_asking(const struct smtpd *s)
{
    switch ((enum smtpd_want)s->want) {
    case SMTPD_WANT_TLS:
    case SMTPD_WANT_AUTH:
    case SMTPD_WANT_VERDICT:
    case SMTPD_WANT_BEGIN:
    case SMTPD_WANT_RCPT:
    case SMTPD_WANT_END:
        return true;
    default:
        return false;
    }
}

/* What was wanted last has been done: a chunk was taken, an abort was told. */
static void
settle(struct smtpd *s)
{
    if (s->want == SMTPD_WANT_ABORT) {
        txn_free(s->dead_txn);
        s->dead_txn = NULL;
    }
    if (s->want == SMTPD_WANT_CHUNK && s->txn != NULL && s->deadline_at != SMTPD_NO_DEADLINE) {
        msec_t delay_ms = s->now - s->txn->chunk_at; /* the sink's, not the client's */
        s->armed_at += delay_ms;
        s->deadline_at += delay_ms;
    }
    s->chunk = SPAN_NONE;
    s->want = SMTPD_WANT_INPUT;
}

static void
arm(struct smtpd *s)
{
    if (s->deadline_at != SMTPD_NO_DEADLINE)
        return;
    msec_t ms = s->stressed ? s->conf->idle_stressed_ms : s->conf->idle_ms;
    s->armed_at = s->now;
    s->deadline_at = s->now + (body_draining(s) && ms > SMTPD_DRAIN_MS ? SMTPD_DRAIN_MS : ms);
    if (s->txn != NULL)
        s->txn->window_bytes = s->txn->data.n_bytes;
}

/* One piece of input. False when more is needed. */
static bool
input_step(struct smtpd *s, struct span *in)
{
    switch ((enum smtpd_mode)s->mode) {
    case MODE_COMMAND:
        if (s->stopping && (s->state & (SMTPD_BDAT | SMTPD_NEW)) == 0) {
            s->verb = "stop";
            smtpd_replyf(s, "421 4.3.2 %s is shutting down", s->conf->hostname);
            smtpd_close(s, "stop", NULL);
            return true;
        }
        return line_step(s, in);
    case MODE_AUTH:
        return line_step(s, in);
    case MODE_LONG_LINE:
        return long_line_step(s, in);
    case MODE_DATA:
    case MODE_CHUNK:
        return body_step(s, in);
    }
    return false;
}

enum smtpd_want
smtpd_step(struct smtpd *s, msec_t now, struct span *in)
{
    s->now = now;
    if (is_asking(s))
        return s->want;
    settle(s);
    for (;;) {
        if (s->abort_due) {
            s->abort_due = false;
            s->want = SMTPD_WANT_ABORT;
        } else if (s->want != SMTPD_WANT_INPUT) {
            break;
        } else if (s->state == SMTPD_OVER) {
            s->want = SMTPD_WANT_CLOSE;
        } else if (s->counts.errors >= SMTPD_ERRORS_MAX && s->mode == MODE_COMMAND) {
            smtpd_replyf(s, "421 4.7.0 %s too many errors", s->conf->hostname);
            smtpd_close(s, "errors", NULL);
            continue;
        } else if (s->out.n >= SMTPD_OUT_MAX) {
            s->want = SMTPD_WANT_FLUSH;
        } else if (s->state != SMTPD_NEW && input_step(s, in)) {
            continue;
        } else {
            arm(s);
        }
        break;
    }
    return s->want;
}

void
smtpd_timeout(struct smtpd *s, msec_t now)
{
    s->now = now;
    if (s->want != SMTPD_WANT_INPUT || s->state == SMTPD_OVER)
        return;
    smtpd_rearm(s);
    if (s->mode == MODE_DATA || s->mode == MODE_CHUNK) {
        body_timeout(s);
        return;
    }
    smtpd_replyf(s, "421 4.4.2 %s idle for too long", s->conf->hostname);
    smtpd_close(s, "idle", NULL);
}

void
smtpd_set_stressed(struct smtpd *s, msec_t now, bool stressed)
{
    msec_t at = now + s->conf->idle_stressed_ms;

    s->stressed = stressed;
    if (body_draining(s) || s->deadline_at == SMTPD_NO_DEADLINE)
        return;
    if (stressed && s->deadline_at > at)
        s->deadline_at = at;
    else if (!stressed && (s->mode == MODE_DATA || s->mode == MODE_CHUNK))
        s->deadline_at = s->armed_at + s->conf->idle_ms; /* a message is given its time back */
}

void
smtpd_stop(struct smtpd *s)
{
    s->stopping = true;
}

void
smtpd_set_trusted(struct smtpd *s, bool trusted)
{
    s->client.trusted = trusted;
}

void
smtpd_set_undecided(struct smtpd *s, bool undecided)
{
    s->undecided = undecided;
}

void
smtpd_answer(struct smtpd *s, struct span reply)
{
    enum smtpd_want want = s->want;

    s->want = SMTPD_WANT_INPUT;
    smtpd_rearm(s);
    switch (want) {
    case SMTPD_WANT_BEGIN:
        if (s->txn->rcpt_node == NULL)
            mail_begun(s, reply);
        else
            rcpt_begun(s, reply);
        return;
    case SMTPD_WANT_RCPT:
        rcpt_taken(s, reply);
        return;
    case SMTPD_WANT_END:
        body_ended(s, reply);
        return;
    default:
        assert(!"an answer that nobody asked for");
    }
}

void
smtpd_refuse(struct smtpd *s, msec_t now, struct span reply)
{
    s->now = now;
    assert(s->txn != NULL && s->txn->has_sink);
    assert(!is_asking(s) || s->want == SMTPD_WANT_VERDICT);
    body_refuse(s, reply, false);
}

struct strbuf *
smtpd_out(struct smtpd *s)
{
    return &s->out;
}

msec_t
smtpd_deadline(const struct smtpd *s)
{
    return s->want == SMTPD_WANT_INPUT ? s->deadline_at : SMTPD_NO_DEADLINE;
}

const struct accept_client *
smtpd_client(const struct smtpd *s)
{
    return &s->client;
}

const struct accept_mail *
smtpd_mail(const struct smtpd *s)
{
    return &s->txn->mail;
}

const struct accept_rcpt *
smtpd_rcpt(const struct smtpd *s)
{
    return &s->txn->rcpt;
}

struct span
smtpd_chunk(const struct smtpd *s)
{
    return s->chunk;
}

const struct accept_body *
smtpd_body(const struct smtpd *s)
{
    return &s->txn->body;
}

uint32_t
smtpd_n_rcpts(const struct smtpd *s)
{
    return s->txn->n_rcpts;
}

bool
smtpd_rcpt_is_strangers(const struct smtpd *s)
{
    return s->txn->rcpt_stranger;
}

bool
smtpd_has_sink(const struct smtpd *s)
{
    return (s->txn != NULL && s->txn->has_sink) || s->abort_due;
}

bool
smtpd_is_ending(const struct smtpd *s)
{
    return s->want == SMTPD_WANT_END;
}

const char *
smtpd_close_reason(const struct smtpd *s)
{
    return s->close_reason;
}

const struct smtpd_counts *
smtpd_counts(const struct smtpd *s)
{
    return &s->counts;
}
