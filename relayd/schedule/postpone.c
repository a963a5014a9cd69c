/*
 * postpone - recipients that leave memory without an attempt: their site is full or down. What
 * comes together in one tick is stored by one operation.
 */
#include "relayd/schedule/internal.h"

#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"

#define POSTPONE_MAX 500 /* recipients of one operation */

struct postponed {
    struct store_op op;
    struct schedule *schedule;
    size_t n;
    struct rcpt *rcpts[POSTPONE_MAX];
    struct queue_change changes[POSTPONE_MAX];
    msec_t look_at[POSTPONE_MAX];
};

static void
postponed_done(struct store_op *op)
{
    struct postponed *p = CONTAINER_OF(op, struct postponed, op);
    struct schedule *s = p->schedule;

    for (size_t i = 0; i < p->n; i++) {
        struct queue_change *change = &p->changes[i];
        bool stored = op->code == ERR_OK && change->code == ERR_OK;
        if (op->code != ERR_OK)
            log_text(s->env.log, LOG_ERROR, "postpone", "%s: %s", p->rcpts[i]->msg->id_text,
                     op->err.text);
        schedule_recorded(s, p->rcpts[i], stored ? FATE_DEFERRED : FATE_CHANGED, p->look_at[i],
                          op->txn_id);
    }
    free(p);
}

static void
postponed_flush(struct deferred *d)
{
    struct schedule *s = CONTAINER_OF(d, struct schedule, flush);
    struct postponed *p = s->postponed;

    if (p == NULL)
        return;
    s->postponed = NULL;
    p->op.kind = STORE_OUTCOMES;
    p->op.done = postponed_done;
    p->op.outcomes.changes = p->changes;
    p->op.outcomes.n_changes = p->n;
    store_submit(s->env.store, &p->op);
}

void
postpone_asleep(struct schedule *s, struct rcpt *rcpt, msec_t due_at, msec_t look_at)
{
    if (s->postponed == NULL) {
        s->postponed = xcalloc(1, sizeof(*s->postponed));
        s->postponed->schedule = s;
        loop_defer(s->env.loop, &s->flush, postponed_flush);
    }
    struct postponed *p = s->postponed;
    rcpt->stage = STAGE_RECORDING;
    s->n_recording++;
    p->rcpts[p->n] = rcpt;
    p->look_at[p->n] = look_at;
    p->changes[p->n++] =
        (struct queue_change){.id = rcpt->key.id,
                              .no = (uint32_t)rcpt->key.no,
                              .revision = rcpt->revision,
                              .verb = QUEUE_DEFER,
                              .due_at = due_at,
                              .attempts_set = rcpt->attempts_new,
                              .attempts = span_of(rcpt->attempts, rcpt->attempts_bytes)};
    if (p->n == POSTPONE_MAX)
        postponed_flush(&s->flush);
}

void
postpone_rcpt(struct schedule *s, struct rcpt *rcpt, msec_t due_at)
{
    postpone_asleep(s, rcpt, due_at, due_at);
}
