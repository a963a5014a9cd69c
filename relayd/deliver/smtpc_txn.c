/*
 * Transactions of the protocol core: MAIL, RCPT, DATA, the dot, and who gets which outcome.
 *
 *   start -> group: [RSET] MAIL RCPT x n DATA -> 354 -> body -> dot -> outcomes
 *              ^                                                        |
 *              +---------- somebody was delivered, others got a 452 ----+
 *
 * With PIPELINING a group leaves in one piece and its replies are read in order; without,
 * group_go() sends the next command when the last one is answered. The same handlers serve both.
 *
 * In a session that has served before, a late second reply to its last dot may have shifted all
 * that follow, and each recipient would get his neighbour's answer. So refusals of recipients count
 * there only when DATA is answered as it must be, and a refused MAIL or DATA is asked again afresh.
 */
#include "relayd/deliver/smtpc_private.h"

#include "policy/base/mem.h"

#include <assert.h>
#include <stdlib.h>

/* ---- outcomes ---- */

static void
decide(struct smtpc *s, size_t rcpt, const struct outcome *o)
{
    assert(s->rcpts[rcpt] != RCPT_DECIDED && s->n_undecided > 0);
    s->rcpts[rcpt] = RCPT_DECIDED;
    s->n_undecided--;
    s->ops.on_outcome(s->arg, s->txn, rcpt, o);
    free(s->answer[rcpt]);
    s->answer[rcpt] = NULL;
}

/* Everybody in `state` gets `o`; whoever has an answer of his own gets that instead. */
static void
decide_all(struct smtpc *s, enum rcpt_state state, const struct outcome *o)
{
    for (size_t i = 0; i < s->txn->n_rcpts; i++)
        if (s->rcpts[i] == state)
            decide(s, i, s->answer[i] != NULL ? s->answer[i] : o);
}

static void
decide_rest(struct smtpc *s, const struct outcome *o)
{
    decide_all(s, RCPT_TAKEN, o);
    decide_all(s, RCPT_PENDING, o);
    decide_all(s, RCPT_AGAIN, o);
    decide_all(s, RCPT_REFUSED, o);
    assert(s->n_undecided == 0);
}

static void
txn_done(struct smtpc *s)
{
    assert(s->n_undecided == 0);
    struct deliver_txn *txn = s->txn;
    s->txn = NULL;
    s->ops.on_txn_done(s->arg, txn);
}

/* The session is of no further use; nobody is left waiting. */
static enum smtpc_want
done_and_close(struct smtpc *s)
{
    txn_done(s);
    return smtpc_close(s, SMTPC_END_OVER);
}

void
smtpc_txn_decide(struct smtpc *s, const struct outcome *outcome)
{
    assert(s->txn != NULL && s->state == STATE_CLOSED);
    decide_rest(s, outcome);
    txn_done(s);
}

/* Does the reply speak of the hop itself, and not of this message? */
static bool
is_hop_trouble(struct smtpc *s, const struct smtp_reply *r, enum smtpc_cmd cmd)
{
    if (!s->config.hop || r->code / 100 < 4)
        return false;
    bool trouble = r->code == 530 || r->code == 535 || r->code == 538 || r->code == 454;
    if (!trouble && s->config.hop_trouble != NULL)
        trouble = s->config.hop_trouble(s->config.hop_trouble_arg, r, smtpc_cmd_name(cmd));
    s->hop_trouble |= trouble;
    return trouble;
}

/* The outcome of a 4xx or 5xx from MAIL on. */
static void
refusal(struct smtpc *s, const struct smtp_reply *r, enum smtpc_cmd cmd, struct outcome *ret)
{
    smtp_reply_outcome(r, smtpc_cmd_name(cmd), ret);
    if (is_hop_trouble(s, r, cmd)) {
        ret->kind = OUTCOME_DEFERRED;
        ret->path = true;
    }
}

/* He is to be asked in the next group; what he got so far is forgotten. */
static void
ask_again(struct smtpc *s, size_t rcpt)
{
    s->rcpts[rcpt] = RCPT_PENDING;
    free(s->answer[rcpt]);
    s->answer[rcpt] = NULL;
}

/* The session ends before DATA was answered in step: a refusal in it may be somebody else's. */
static void
doubt_refusals(struct smtpc *s)
{
    for (size_t i = 0; i < s->txn->n_rcpts; i++)
        if (s->rcpts[i] == RCPT_REFUSED)
            ask_again(s, i);
}

/* 421 ends the session at whatever command: all who wait are deferred by its text. */
static enum smtpc_want
shut_down(struct smtpc *s, const struct smtp_reply *r, enum smtpc_cmd cmd)
{
    struct outcome o;
    doubt_refusals(s);
    refusal(s, r, cmd, &o);
    decide_rest(s, &o);
    return done_and_close(s);
}

/* ---- groups ---- */

void
smtpc_txn_rewind(struct smtpc *s)
{
    for (size_t i = 0; s->txn != NULL && i < s->txn->n_rcpts; i++)
        if (s->rcpts[i] != RCPT_DECIDED)
            ask_again(s, i);
}

/* The next recipient to ask in this group, or SIZE_MAX. */
static size_t
next_rcpt(struct smtpc *s)
{
    struct group *g = &s->group;
    size_t max = s->offers.rcpt_max;
    if (max > 0 && g->n_asked >= max)
        return SIZE_MAX;
    while (g->next_rcpt < s->txn->n_rcpts && s->rcpts[g->next_rcpt] != RCPT_PENDING)
        g->next_rcpt++;
    return g->next_rcpt < s->txn->n_rcpts ? g->next_rcpt : SIZE_MAX;
}

/* Send the group's next command. */
static void
step_send(struct smtpc *s)
{
    struct group *g = &s->group;
    switch (g->next) {
    case STEP_RSET:
        smtpc_send(s, CMD_RSET, 0, "RSET");
        s->needs_rset = false;
        g->next = STEP_MAIL;
        break;
    case STEP_MAIL:
        smtpc_send_mail(s);
        g->next = STEP_RCPT;
        break;
    case STEP_RCPT: {
        size_t i = next_rcpt(s);
        assert(i != SIZE_MAX); /* a group is begun for somebody, and left when nobody is next */
        smtpc_send_rcpt(s, i);
        g->next_rcpt = i + 1;
        g->n_asked++;
        if (next_rcpt(s) == SIZE_MAX)
            g->next = STEP_DATA;
        break;
    }
    case STEP_DATA:
        smtpc_send(s, CMD_DATA, 0, "DATA");
        g->next = STEP_NONE;
        break;
    case STEP_NONE:
        assert(!"nothing to send");
    }
}

static enum smtpc_want group_begin(struct smtpc *s);
static enum smtpc_want group_end(struct smtpc *s);

/* Go on after a reply: wait for the next one, send the next command, or end the group. */
static enum smtpc_want
group_go(struct smtpc *s)
{
    struct group *g = &s->group;
    if (!smtpc_idle_fifo(s))
        return SMTPC_WANT_REPLY;
    bool refused = g->next > STEP_MAIL && g->next != STEP_NONE && !g->mail_ok;
    bool nobody = g->next == STEP_DATA && g->n_taken == 0;
    if (g->next == STEP_NONE || refused || nobody)
        return group_end(s);
    step_send(s);
    return SMTPC_WANT_REPLY;
}

static enum smtpc_want
group_begin(struct smtpc *s)
{
    s->group = (struct group){.next = s->needs_rset ? STEP_RSET : STEP_MAIL};
    s->state = STATE_TXN;
    s->heard = false;
    s->n_txns++;
    step_send(s);
    while (s->offers.pipelining && s->group.next != STEP_NONE)
        step_send(s);
    return SMTPC_WANT_REPLY;
}

/*
 * All replies of the group are in. Who was not asked yet gets a group of his own; who got a 452
 * does when this group delivered to somebody, or else keeps that answer.
 */
static enum smtpc_want
group_end(struct smtpc *s)
{
    bool more = false;
    s->needs_rset = s->group.mail_ok && !s->group.ended;
    decide_all(s, RCPT_REFUSED, NULL);
    for (size_t i = 0; i < s->txn->n_rcpts; i++) {
        if (s->rcpts[i] == RCPT_AGAIN && !s->group.delivered)
            decide(s, i, s->answer[i]);
        if (s->rcpts[i] == RCPT_AGAIN)
            ask_again(s, i);
        more |= s->rcpts[i] == RCPT_PENDING;
    }
    if (more) {
        s->reused = true;
        return group_begin(s);
    }
    txn_done(s);
    s->state = STATE_IDLE;
    s->idled = false;
    return SMTPC_WANT_TXN;
}

enum smtpc_want
smtpc_session_ready(struct smtpc *s)
{
    assert(smtpc_idle_fifo(s));
    s->state = STATE_IDLE;
    if (s->txn == NULL)
        return SMTPC_WANT_TXN;
    return smtpc_txn_start(s, s->txn); /* it came with us from another session */
}

enum smtpc_want
smtpc_txn_start(struct smtpc *s, struct deliver_txn *txn)
{
    assert(s->state == STATE_IDLE && smtpc_idle_fifo(s));
    assert(txn->n_rcpts > 0 && txn->n_rcpts <= DELIVER_RCPTS_MAX);
    if (s->txn == NULL) {
        s->txn = txn;
        s->n_undecided = txn->n_rcpts;
        memset(s->rcpts, RCPT_PENDING, sizeof(s->rcpts));
        s->hop_trouble = false;
    }
    assert(s->txn == txn);
    s->reused = s->n_txns > 0 || s->idled;
    s->heard = false;
    s->wait_no++;
    struct outcome o;
    if (smtpc_fits(s, txn, &o))
        return s->want = group_begin(s);
    decide_rest(s, &o);
    txn_done(s);
    return s->want = SMTPC_WANT_TXN;
}

void
smtpc_idle(struct smtpc *s)
{
    assert(s->state == STATE_IDLE);
    s->idled = true;
}

/* ---- replies ---- */

enum smtpc_want
smtpc_on_rset(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    if (r->code / 100 != 2) /* this session is out of step; nothing was said about the message */
        return smtpc_close(s, SMTPC_END_AGAIN);
    return group_go(s);
}

enum smtpc_want
smtpc_on_mail(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    struct outcome o;
    if (r->code == 421 && s->reused)
        return smtpc_close(s, SMTPC_END_AGAIN); /* it hung up while we were idle */
    if (r->code / 100 >= 4 && s->took_mail)
        return smtpc_close(s, SMTPC_END_AGAIN); /* so many a session, or it answers the last dot */
    if (r->code / 100 == 3)
        return smtpc_violation(s, "an odd reply to MAIL");
    s->heard = true;
    if (r->code / 100 == 2) {
        s->group.mail_ok = s->took_mail = true;
        return group_go(s);
    }
    refusal(s, r, CMD_MAIL, &o);
    if (o.kind == OUTCOME_DEFERRED && !s->config.hop)
        return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
    decide_rest(s, &o);
    return r->code == 421 ? done_and_close(s) : group_go(s);
}

/* 452, and the 552 that RFC 5321 section 4.5.3.1.10 knows as its older form. */
static bool
is_too_many(const struct smtp_reply *r)
{
    return r->code == 452 ||
           (r->code == 552 && (r->enh.klass == 0 || (r->enh.subject == 5 && r->enh.detail == 3)));
}

enum smtpc_want
smtpc_on_rcpt(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    if (r->code == 421)
        return s->n_undecided == 0 ? done_and_close(s) : shut_down(s, r, CMD_RCPT);
    if (!s->group.mail_ok)
        return group_go(s); /* pipelined behind a refused MAIL: decided already */
    if (r->code / 100 == 3)
        return smtpc_violation(s, "an odd reply to RCPT");
    if (r->code / 100 == 2) {
        s->rcpts[rcpt] = RCPT_TAKEN;
        s->group.n_taken++;
        return group_go(s);
    }
    struct outcome o;
    refusal(s, r, CMD_RCPT, &o);
    bool too_many = is_too_many(r) && !o.path;
    if (too_many)
        o.kind = OUTCOME_DEFERRED;
    if (too_many || s->reused) {
        s->answer[rcpt] = xmalloc(sizeof(o));
        *s->answer[rcpt] = o;
        s->rcpts[rcpt] = too_many ? RCPT_AGAIN : RCPT_REFUSED;
    } else {
        decide(s, rcpt, &o);
    }
    return group_go(s);
}

enum smtpc_want
smtpc_on_data(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    if (r->code == 421)
        return s->n_undecided == 0 ? done_and_close(s) : shut_down(s, r, CMD_DATA);
    if (r->code == 354)
        decide_all(s, RCPT_REFUSED, NULL);
    if (r->code == 354 && s->group.n_taken > 0) {
        s->state = STATE_BODY;
        return SMTPC_WANT_BODY;
    }
    if (r->code == 354) { /* it waits for content that is meant for nobody: give it none */
        strbuf_add(&s->out, ".\r\n", 3);
        smtpc_expect(s, CMD_EMPTY_DOT, 0);
        return SMTPC_WANT_REPLY;
    }
    if (r->code / 100 < 4)
        return smtpc_violation(s, "a reply to DATA that is neither 354 nor a refusal");
    if (s->group.n_taken > 0 && s->reused)
        return smtpc_close(s, SMTPC_END_AGAIN); /* whose answer is it? */
    if (s->group.n_taken > 0) {
        struct outcome o;
        refusal(s, r, CMD_DATA, &o);
        decide_all(s, RCPT_TAKEN, &o);
    }
    return group_go(s);
}

enum smtpc_want
smtpc_on_empty_dot(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    if (r->code == 421)
        return s->n_undecided == 0 ? done_and_close(s) : shut_down(s, r, CMD_EMPTY_DOT);
    s->group.ended = true;
    return group_go(s);
}

enum smtpc_want
smtpc_body_sent(struct smtpc *s)
{
    assert(s->state == STATE_BODY && smtpc_idle_fifo(s));
    s->state = STATE_DOT;
    s->early = smtp_reply_partial(&s->parser);
    s->wait_no++;
    smtpc_expect(s, CMD_BODY_END, 0);
    smtpc_output_taken(s);
    return s->want = SMTPC_WANT_REPLY;
}

enum smtpc_want
smtpc_on_body_end(struct smtpc *s, size_t rcpt, const struct smtp_reply *r)
{
    (void)rcpt;
    struct outcome o;
    if (r->code / 100 == 3)
        return smtpc_violation(s, "an odd reply to the final dot");
    if (r->code / 100 == 2 && s->early)
        return smtpc_violation(s, "a reply to content before it was all sent");
    if (r->code == 421)
        return shut_down(s, r, CMD_BODY_END);
    s->group.ended = true;
    s->group.delivered = r->code / 100 == 2;
    if (s->group.delivered)
        smtp_reply_outcome(r, "body-end", &o);
    else
        refusal(s, r, CMD_BODY_END, &o);
    decide_all(s, RCPT_TAKEN, &o);
    s->state = STATE_TXN;
    return group_end(s);
}

/* ---- the session fails under the transaction ---- */

enum smtpc_want
smtpc_early_reply(struct smtpc *s, const struct smtp_reply *r)
{
    struct outcome o;
    if (r->code / 100 < 4)
        return smtpc_violation(s, "a reply to content before it was all sent");
    refusal(s, r, CMD_DATA, &o);
    decide_all(s, RCPT_TAKEN, &o);
    o.kind = OUTCOME_DEFERRED; /* for whom this group did not ask yet */
    decide_rest(s, &o);
    return done_and_close(s);
}

/* The session is over behind the dot (or, with `dot` false, before it) without its reply. */
static enum smtpc_want
defer_and_close(struct smtpc *s, bool dot, struct outcome *o)
{
    static const char twice[] = ", after the final dot: it may be delivered twice";
    struct outcome rest = *o;
    size_t n = strlen(o->text);
    if (dot && n + sizeof(twice) <= sizeof(o->text)) {
        memcpy(o->text + n, twice, sizeof(twice));
        o->maybe_twice = true;
    }
    decide_all(s, RCPT_TAKEN, o);
    decide_rest(s, &rest);
    return done_and_close(s);
}

enum smtpc_want
smtpc_txn_violation(struct smtpc *s, const char *phase, const char *why)
{
    struct outcome o;
    doubt_refusals(s);
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_PEER, phase, "4.5.0", "protocol error: %s", why);
    return defer_and_close(s, s->state == STATE_DOT, &o);
}

enum smtpc_want
smtpc_txn_lost(struct smtpc *s, enum smtpc_loss loss, const char *phase, const char *text)
{
    struct outcome o;
    doubt_refusals(s);
    if (s->n_undecided == 0)
        return done_and_close(s);
    if (s->reused && !s->heard && s->state == STATE_TXN && loss != SMTPC_LOSS_TIMEOUT)
        return smtpc_close(s, SMTPC_END_AGAIN);
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_NET, phase, "4.4.2", "%s", text);
    if (s->state == STATE_DOT)
        return defer_and_close(s, true, &o);
    o.path = true;
    return smtpc_host_failed(s, &o, SMTPC_END_NEXT);
}

enum smtpc_want
smtpc_body_failed(struct smtpc *s, const char *why)
{
    struct outcome o;
    assert(s->state == STATE_BODY);
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_LOCAL, "data", "4.3.0", "%s", why);
    decide_rest(s, &o);
    return done_and_close(s);
}
