/*
 * intake - see intake.h. intake_head.c checks the header and makes our fields, intake_body.c keeps
 * the bytes.
 *
 * Handed over cannot be undone: once the operation with the message is with the store, the client
 * may go, the message stays. `t` is NULL from then on if it does.
 */
#include "relayd/intake.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/intake_private.h"
#include "relayd/ops/log.h"

#define PIECES_MAX 2 /* of a big body on their way to the disk; then the client waits */

struct intake *
intake_new(void)
{
    return xcalloc(1, sizeof(struct intake));
}

void
intake_start(struct intake *intake, const struct intake_env *env)
{
    intake->env = *env;
}

void
intake_free(struct intake *intake)
{
    free(intake);
}

void
intake_numbers(const struct intake *intake, struct intake_numbers *ret)
{
    *ret = intake->numbers;
}

/* ---- life of a message ---- */

static void
msg_end(struct intake_msg *m)
{
    struct intake *intake = m->intake;
    timer_cancel(loop_clock(intake->env.loop), &m->timer);
    store_credit_cancel(intake->env.store, &m->credit);
    if (m->has_credit)
        store_credit_give(intake->env.store, STORE_POOL_INTAKE);
    intake->env.settings_give(intake->env.arg, m->settings);
    for (size_t i = 0; i < m->n_rcpts; i++)
        free(m->texts[i]);
    free(m->texts);
    free(m->rcpts);
    strbuf_release(&m->received);
    strbuf_release(&m->added);
    if (m->sign != NULL)
        dkim_result_release(&m->sign->result);
    free(m->sign);
    free(m->sender);
    free(m->client);
    free(m->body);
    free(m->piece);
    arena_free(m->arena);
    intake->numbers.open--;
    free(m);
}

/* A body that is partly stored and will not be finished. */
static void
drop_done(struct store_op *op)
{
    free(op);
}

static void
drop_chunks(struct intake_msg *m)
{
    if (!m->big || m->handed_over)
        return;
    struct store_op *op = xcalloc(1, sizeof(*op));
    op->kind = STORE_DROP;
    op->done = drop_done;
    op->chunk.id = m->id;
    store_submit(m->intake->env.store, op);
}

void
intake_try_end(struct intake_msg *m)
{
    if (m->pieces_out > 0 || m->signing || m->handed_over)
        return;
    drop_chunks(m);
    msg_end(m);
}

/* Answer a message that is complete, and be done with it. */
static void
msg_answer(struct intake_msg *m, const char *reply)
{
    struct accept_txn *t = m->t;
    m->t = NULL;
    if (t != NULL)
        accept_answer(t, span_str(reply));
    m->intake->numbers.refused += reply[0] != '2';
}

static void
msg_fail(struct intake_msg *m, enum err_code code, const char *text)
{
    struct log_line line;
    bool full = code == ERR_FULL;

    m->intake->numbers.full += full;
    m->intake->numbers.failed += !full;
    log_begin(m->intake->env.log, &line, full ? LOG_WARNING : LOG_ERROR, "not_stored");
    log_cstr(&line, "msg", m->id_text);
    log_cstr(&line, "text", text);
    log_end(&line);
    msg_answer(m, full ? "452 4.3.1 insufficient system storage, try again later"
                       : "451 4.3.0 the queue cannot be written, try again later");
}

/* ---- begin, rcpt ---- */

static void
begin_granted(struct intake_msg *m)
{
    m->has_credit = true;
    timer_cancel(loop_clock(m->intake->env.loop), &m->timer);
    accept_answer(m->t, SPAN_NONE);
}

static void
on_credit(struct store_credit *credit)
{
    begin_granted(CONTAINER_OF(credit, struct intake_msg, credit));
}

static void
on_no_credit(void *arg)
{
    struct intake_msg *m = arg;
    struct accept_txn *t = m->t;
    m->intake->numbers.refused++;
    msg_end(m);
    accept_answer(t, SPAN("452 4.3.1 too many messages are being received, try again later"));
}

static void
sink_begin(void *arg, struct accept_txn *t)
{
    struct intake *intake = arg;
    struct clock *clock = loop_clock(intake->env.loop);
    struct intake_msg *m = xcalloc(1, sizeof(*m));
    char id[QUEUE_ID_TEXT + 1];

    t->data = m;
    m->intake = intake;
    m->t = t;
    m->settings = intake->env.settings_take(intake->env.arg);
    m->id = queue_id_new(intake->env.queue, clock_wall(clock));
    snprintf(m->id_text, sizeof(m->id_text), "%s.%s", m->settings->config->node.name,
             queue_id_format(m->id, id));
    m->begun_at = clock_now(clock);
    m->credit.granted = on_credit;
    intake->numbers.open++;
    if (store_credit_wait(intake->env.store, STORE_POOL_INTAKE, &m->credit))
        begin_granted(m);
    else
        timer_set(clock, &m->timer, INTAKE_CREDIT_MS, on_no_credit, m);
}

static void
sink_rcpt(void *arg, struct accept_txn *t, const struct accept_rcpt *rcpt)
{
    struct intake_msg *m = t->data;
    (void)arg;
    if (m->n_rcpts == m->rcpts_cap) {
        m->rcpts_cap = m->rcpts_cap == 0 ? 1 : m->rcpts_cap * 4;
        m->rcpts = xrealloc(m->rcpts, m->rcpts_cap * sizeof(*m->rcpts));
        m->texts = xrealloc(m->texts, m->rcpts_cap * sizeof(*m->texts));
    }
    size_t a = rcpt->address.n, d = rcpt->domain.n;
    char *text = xmalloc(a + d + rcpt->orcpt.n + 1);
    memcpy(text, rcpt->address.p, a);
    memcpy(text + a, rcpt->domain.p, d);
    if (rcpt->orcpt.n > 0)
        memcpy(text + a + d, rcpt->orcpt.p, rcpt->orcpt.n);
    m->texts[m->n_rcpts] = text;
    m->rcpts[m->n_rcpts] = (struct queue_rcpt){
        .id = m->id,
        .no = (uint32_t)m->n_rcpts,
        .revision = 1,
        .address = span_of(text, a),
        .domain = span_of(text + a, d),
        .state = QUEUE_FRESH,
        .notify = (uint8_t)rcpt->notify,
        .orcpt = span_of(text + a + d, rcpt->orcpt.n),
    };
    m->n_rcpts++;
    accept_answer(t, SPAN_NONE);
}

/* ---- the bytes ---- */

/* Refuse in mid-message; the client sees it after its final dot. */
static void
msg_refuse(struct intake_msg *m, const char *reply)
{
    struct accept_txn *t = m->t;
    m->t = NULL;
    m->intake->numbers.refused++;
    accept_refuse(t, span_str(reply));
    intake_try_end(m);
}

static bool
sink_chunk(void *arg, struct accept_txn *t, struct span bytes)
{
    struct intake_msg *m = t->data;
    const char *refusal;
    (void)arg;

    if (m->big) {
        intake_pieces_add(m, bytes);
    } else {
        intake_body_add(m, bytes);
        if (m->body->n <= INTAKE_SMALL_MAX)
            return true;
        /* The header must be whole before anything of the message is stored. */
        if (!intake_head_is_whole(m))
            return true;
        refusal = intake_head(m);
        if (refusal != NULL) {
            msg_refuse(m, refusal);
            return true;
        }
        intake_become_big(m);
    }
    if (m->piece_code != ERR_OK) {
        m->intake->numbers.full += m->piece_code == ERR_FULL;
        msg_refuse(m, m->piece_code == ERR_FULL
                          ? "452 4.3.1 insufficient system storage, try again later"
                          : "451 4.3.0 the queue cannot be written, try again later");
        return true;
    }
    m->waiting = m->pieces_out >= PIECES_MAX;
    return !m->waiting;
}

static void
sink_abort(void *arg, struct accept_txn *t)
{
    struct intake_msg *m = t->data;
    (void)arg;
    t->data = NULL;
    m->t = NULL;
    intake_try_end(m);
}

/* ---- storing ---- */

static void
log_received(const struct intake_msg *m)
{
    struct log_line line;
    char signed_by[512] = "";
    size_t used = 0;

    for (size_t i = 0; i < m->msg.n_signatures && used < sizeof(signed_by); i++)
        used += (size_t)snprintf(signed_by + used, sizeof(signed_by) - used, "%s%.*s/%.*s",
                                 i == 0 ? "" : " ", SPAN_ARG(m->msg.signatures[i].domain),
                                 SPAN_ARG(m->msg.signatures[i].selector));
    log_begin(m->intake->env.log, &line, LOG_INFO, "received");
    log_cstr(&line, "msg", m->id_text);
    log_str(&line, "sender", m->msg.sender);
    log_uint(&line, "rcpts", m->n_rcpts);
    log_uint(&line, "size", m->msg.body_bytes);
    log_str(&line, "client", m->msg.client);
    log_cstr(&line, "proto", m->protocol);
    log_cstr(&line, "tls", m->tls);
    log_cstr(&line, "user", m->user);
    log_cstr(&line, "message_id", m->message_id);
    log_cstr(&line, "signed", signed_by);
    if (m->lines_broken > 0)
        log_uint(&line, "lines_broken", m->lines_broken);
    if (m->newlines_fixed > 0)
        log_uint(&line, "newlines_fixed", m->newlines_fixed);
    log_ms(&line, "delay", clock_now(loop_clock(m->intake->env.loop)) - m->begun_at);
    log_end(&line);
}

static void
hand_to_schedule(struct intake_msg *m)
{
    struct intake *intake = m->intake;
    struct rcpt **rcpts = xcalloc(m->n_rcpts, sizeof(struct rcpt *));
    struct msg *msg = msg_new(&m->msg, m->settings->config->node.name);

    msg->loaded = true;
    for (size_t i = 0; i < m->n_rcpts; i++)
        rcpts[i] = rcpt_new(&m->rcpts[i], queue_lane(intake->env.queue, m->rcpts[i].domain));
    struct msg_body *body = m->body;
    m->body = NULL;
    intake->env.stored(intake->env.arg, msg, body, rcpts, m->n_rcpts);
    free(rcpts);
}

static void
stored(struct store_op *op)
{
    struct intake_msg *m = CONTAINER_OF(op, struct intake_msg, op);
    struct intake *intake = m->intake;
    char reply[128];

    m->handed_over = false;
    if (op->code != ERR_OK) {
        msg_fail(m, op->code, op->err.text);
        intake_try_end(m);
        return;
    }
    m->big = false; /* its chunks belong to the message now */
    intake->numbers.messages++;
    intake->numbers.bytes += m->msg.body_bytes;
    intake->numbers.signatures += m->msg.n_signatures;
    log_received(m);
    snprintf(reply, sizeof(reply), "250 2.0.0 queued as %s", m->id_text);
    msg_answer(m, reply);
    hand_to_schedule(m);
    msg_end(m);
}

static void
msg_store(struct intake_msg *m)
{
    struct store_op *op = &m->op;

    m->msg.n_signatures = m->sign == NULL ? 0 : m->sign->result.n_signatures;
    for (size_t i = 0; i < m->msg.n_signatures; i++) {
        const struct dkim_signature *s = &m->sign->result.signatures[i];
        m->msg.signatures[i] = (struct queue_signature){.domain = span_str(s->domain),
                                                        .selector = span_str(s->selector),
                                                        .field = span_of(s->field, s->field_bytes)};
        m->msg.size_bytes += s->field_bytes;
    }
    m->msg.size_bytes += m->received.n + m->added.n + m->msg.body_bytes;
    op->kind = m->big ? STORE_ADD_BIG : STORE_ADD;
    op->done = stored;
    op->add.msg = m->msg;
    op->add.rcpts = m->rcpts;
    op->add.n_rcpts = m->n_rcpts;
    if (!m->big) {
        m->bytes = span_of(m->body->bytes, m->body->n);
        op->add.body = &m->bytes;
        op->add.n_body = 1;
    }
    m->handed_over = true;
    store_submit(m->intake->env.store, op);
}

/* ---- signing ---- */

static void
on_signed(struct sign_job *job)
{
    struct intake_msg *m = job->arg;
    struct intake *intake = m->intake;

    m->signing = false;
    if (m->t == NULL) {
        intake_try_end(m); /* the client went before anything was promised */
        return;
    }
    if (job->code != ERR_OK) {
        log_alert(intake->env.log, "dkim", "%s: cannot be signed: %s", m->id_text, job->err.text);
        if (m->settings->config->dkim_failure == CONFIG_DKIM_TEMPFAIL) {
            msg_answer(m, "451 4.7.5 the message cannot be signed at the moment, try again later");
            intake_try_end(m);
            return;
        }
    } else if (job->result.verdict == DKIM_VERDICT_UNSIGNED) {
        intake->numbers.unsigned_by_form++;
        log_text(intake->env.log, LOG_WARNING, "unsigned", "%s: %s", m->id_text,
                 job->result.reason);
    }
    msg_store(m);
}

static void
msg_sign(struct intake_msg *m)
{
    struct intake *intake = m->intake;

    if (!sign_wanted(m->settings, m->facts.from)) {
        msg_store(m);
        return;
    }
    struct sign_job *job = m->sign = xcalloc(1, sizeof(*job));
    job->arg = m;
    job->settings = m->settings;
    job->done = on_signed;
    job->id = span_str(m->id_text);
    job->msg_id = m->id;
    job->print = m->print;
    job->now = clock_wall(loop_clock(intake->env.loop));
    job->n_head = 0;
    job->head[job->n_head++] = strbuf_span(&m->received);
    if (m->added.n > 0)
        job->head[job->n_head++] = strbuf_span(&m->added);
    job->head[job->n_head++] = m->head;
    if (m->big) {
        job->queue = intake->env.queue;
        job->queue_id = m->id;
        job->offset = m->facts.body_at;
    } else {
        job->body = span_from(span_of(m->body->bytes, m->body->n), m->facts.body_at);
    }
    m->signing = true;
    sign_start(intake->env.workers, job);
}

void
intake_complete(struct intake_msg *m)
{
    if (m->piece_code != ERR_OK) {
        msg_fail(m, m->piece_code, m->piece_err.text);
        intake_try_end(m);
        return;
    }
    m->msg.body_bytes = m->big ? m->stored : m->body->n;
    msg_sign(m);
}

static void
sink_end(void *arg, struct accept_txn *t)
{
    struct intake_msg *m = t->data;
    (void)arg;

    m->ended = true;
    m->lines_broken = t->body.lines_broken;
    m->newlines_fixed = t->body.newlines_fixed;
    if (!m->big) {
        intake_body_add(m, SPAN_NONE);
        const char *refusal = intake_head(m);
        if (refusal != NULL) {
            msg_answer(m, refusal);
            intake_try_end(m);
            return;
        }
    } else if (m->piece_n > 0) {
        intake_piece_submit(m);
    }
    intake_envelope(m);
    if (m->pieces_out == 0)
        intake_complete(m);
}

const struct accept_sink *
intake_sink(void)
{
    static const struct accept_sink sink = {
        .begin = sink_begin,
        .rcpt = sink_rcpt,
        .chunk = sink_chunk,
        .end = sink_end,
        .abort = sink_abort,
    };
    return &sink;
}
