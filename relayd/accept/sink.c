/*
 * sink - between the core's wants and the daemon's callbacks: verdicts and the sink of messages.
 * Called by session.c; the daemon answers with the accept_ functions below.
 *
 * An answer that comes inside the call only reaches the core, and session_run() goes on by itself.
 * A later one wakes the session at the end of the tick, so that no callback of the daemon's is ever
 * called from inside its own answer.
 */
#include "relayd/accept/session.h"

#include "policy/base/mem.h"
#include "relayd/net/conn.h"

#include <assert.h>
#include <stdlib.h>

static struct session *
session_of(struct accept_txn *t)
{
    struct session_txn *txn = CONTAINER_OF(t, struct session_txn, pub);

    assert(txn->session->txn == txn);
    return txn->session;
}

static void
txn_free(struct session *s)
{
    free(s->txn);
    s->txn = NULL;
    s->asking_sink = false;
    if (s->sink_waits) {
        s->sink_waits = false;
        conn_resume(s->conn);
    }
}

void
session_ask_rcpt(struct session *s)
{
    struct accept_env *env = &s->accept->env;

    s->rcpt = (struct accept_rcpt_request){.mail = smtpd_mail(s->smtpd),
                                           .rcpt = smtpd_rcpt(s->smtpd),
                                           .stranger = smtpd_rcpt_is_strangers(s->smtpd)};
    s->asking_rcpt = true;
    env->rcpt(env->rcpt_arg, &s->rcpt);
}

static void
verdict(struct accept_rcpt_request *req, struct span reply, struct span instead)
{
    struct session *s = CONTAINER_OF(req, struct session, rcpt);

    assert(s->asking_rcpt);
    s->asking_rcpt = false;
    smtpd_verdict(s->smtpd, reply, instead);
    session_wake(s);
}

void
accept_rcpt_accept(struct accept_rcpt_request *req, struct span instead)
{
    verdict(req, SPAN_NONE, instead);
}

void
accept_rcpt_refuse(struct accept_rcpt_request *req, struct span reply)
{
    verdict(req, reply.n > 0 ? reply : SPAN("451 4.3.0 refused"), SPAN_NONE);
}

void
session_ask_begin(struct session *s)
{
    struct accept_env *env = &s->accept->env;

    assert(s->txn == NULL);
    s->txn = xcalloc(1, sizeof *s->txn);
    s->txn->session = s;
    s->txn->pub.mail = smtpd_mail(s->smtpd);
    s->asking_sink = true;
    env->sink->begin(env->sink_arg, &s->txn->pub);
}

void
session_ask_taken(struct session *s)
{
    struct accept_env *env = &s->accept->env;

    s->asking_sink = true;
    env->sink->rcpt(env->sink_arg, &s->txn->pub, smtpd_rcpt(s->smtpd));
}

void
session_ask_end(struct session *s)
{
    struct accept_env *env = &s->accept->env;

    s->txn->pub.body = *smtpd_body(s->smtpd);
    s->asking_sink = true;
    env->sink->end(env->sink_arg, &s->txn->pub);
}

void
session_chunk(struct session *s)
{
    struct accept_env *env = &s->accept->env;
    struct session_txn *txn = s->txn;

    bool more = env->sink->chunk(env->sink_arg, &txn->pub, smtpd_chunk(s->smtpd));
    /* It may have refused inside the call, and the transaction be gone. */
    if (!more && s->txn == txn) {
        s->sink_waits = true;
        conn_pause(s->conn);
    }
}

void
session_abort(struct session *s)
{
    struct accept_env *env = &s->accept->env;

    if (s->txn == NULL)
        return;
    env->sink->abort(env->sink_arg, &s->txn->pub);
    txn_free(s);
}

void
session_cancel(struct session *s)
{
    struct accept_env *env = &s->accept->env;

    session_check_detach(s);
    if (s->asking_rcpt) {
        s->asking_rcpt = false;
        env->rcpt_cancel(env->rcpt_arg, &s->rcpt);
    }
    session_abort(s);
}

void
accept_answer(struct accept_txn *t, struct span reply)
{
    struct session *s = session_of(t);
    bool ending = smtpd_is_ending(s->smtpd);

    assert(s->asking_sink);
    s->asking_sink = false;
    smtpd_answer(s->smtpd, reply);
    if (ending || !smtpd_has_sink(s->smtpd))
        txn_free(s);
    else
        t->n_rcpts = smtpd_n_rcpts(s->smtpd);
    session_wake(s);
}

void
accept_resume(struct accept_txn *t)
{
    struct session *s = session_of(t);

    if (!s->sink_waits)
        return;
    s->sink_waits = false;
    conn_resume(s->conn);
    session_wake(s);
}

void
accept_refuse(struct accept_txn *t, struct span reply)
{
    struct session *s = session_of(t);

    assert(!s->asking_sink && reply.n > 0);
    smtpd_refuse(s->smtpd, clock_now(s->accept->clock), reply);
    txn_free(s);
    session_wake(s);
}
