/*
 * How: one function a kind of operation, inside an open batch. An operation that is refused for its
 * own fault leaves nothing behind in the batch; what kills the batch is writer.c's business.
 */
#include <assert.h>

#include "relayd/store/store_impl.h"
#include "relayd/work/inhand.h"

/* ---------------------------------------------------------------------------------- outcomes */

static enum err_code
notice_check(const struct store_message *n, struct err *err)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n->n_body; i++)
        bytes += n->body[i].n;
    if (bytes != n->msg.body_bytes || (n->msg.flags & QUEUE_MSG_NOTICE) == 0)
        return err_set(err, ERR_INVAL, "a notice of %llu bytes, flags %x, with %llu bytes",
                       (unsigned long long)n->msg.body_bytes, (unsigned)n->msg.flags,
                       (unsigned long long)bytes);
    return queue_msg_check(&n->msg, n->rcpts, n->n_rcpts, err);
}

/* With notices it is all or nothing: would every change that is not a delivery be made? */
static enum err_code
notices_check(struct queue_batch *batch, struct store_op *op)
{
    enum err_code code = ERR_OK;
    for (size_t i = 0; code == ERR_OK && i < op->outcomes.n_notices; i++)
        code = notice_check(&op->outcomes.notices[i], &op->err);
    for (size_t i = 0; i < op->outcomes.n_changes; i++) {
        struct queue_change *c = &op->outcomes.changes[i];
        struct err err;
        c->code = queue_apply_check(batch, c, &err);
        if (queue_batch_dead(batch)) {
            op->err = err;
            return err.code;
        }
        if (c->code != ERR_OK && !queue_change_is_delivery(c) && code == ERR_OK)
            code = err_set(&op->err, ERR_STALE, "recipient %u: %s", (unsigned)c->no, err.text);
    }
    return code;
}

static void
finished_add(struct finished *f, size_t n, msec_t at)
{
    f->n += n;
    if (at > f->latest_at)
        f->latest_at = at;
}

/* Make the changes, or only the deliveries among them. Stale ones are dropped, each with its code.
 */
static void
changes_apply(struct queue_batch *batch, struct store_op *op, bool only_deliveries,
              struct finished *finished)
{
    for (size_t i = 0; i < op->outcomes.n_changes && !queue_batch_dead(batch); i++) {
        struct queue_change *c = &op->outcomes.changes[i];
        struct err err = {.code = ERR_OK};
        if (only_deliveries && !queue_change_is_delivery(c)) {
            if (c->code == ERR_OK)
                c->code = ERR_AGAIN;
            continue;
        }
        enum err_code code = queue_apply(batch, c, &err);
        if (queue_batch_dead(batch)) {
            op->code = code;
            op->err = err;
        }
        if (code == ERR_OK && c->verb == QUEUE_FINISH)
            finished_add(finished, 1, c->finished_at);
    }
}

static void
facts_apply(struct queue_batch *batch, struct store_op *op)
{
    for (size_t i = 0; i < op->outcomes.n_facts && !queue_batch_dead(batch); i++) {
        const struct store_fact *f = &op->outcomes.facts[i];
        struct err err;
        enum err_code code = f->remove ? queue_state_delete(batch, f->key, &err)
                                       : queue_state_put(batch, f->key, f->value, &err);
        if (code != ERR_OK) { /* a key or value out of its limits: the others still hold */
            op->code = code;
            op->err = err;
        }
    }
}

static void
outcomes_apply(struct queue_batch *batch, struct store_op *op, struct finished *finished)
{
    op->code = ERR_OK;
    if (op->outcomes.n_notices > 0) {
        op->code = notices_check(batch, op);
        if (queue_batch_dead(batch))
            return;
    }
    if (op->code == ERR_OK && op->outcomes.only_deliveries)
        op->code = err_set(&op->err, ERR_STALE, "no room for its notices");
    if (op->code != ERR_OK) {
        changes_apply(batch, op, true, finished);
        return;
    }
    for (size_t i = 0; i < op->outcomes.n_notices; i++) {
        const struct store_message *n = &op->outcomes.notices[i];
        op->code = queue_add(batch, &n->msg, n->rcpts, n->n_rcpts, n->body, n->n_body, &op->err);
        if (op->code != ERR_OK) {
            /* Its form was checked, so only an id used twice is left, and the first notice of an
             * operation is added before anything else of it. */
            assert(queue_batch_dead(batch) || i == 0);
            return;
        }
    }
    changes_apply(batch, op, false, finished);
    facts_apply(batch, op);
}

/* ------------------------------------------------------------------------------------- admin */

static void
admin_apply(struct queue_batch *batch, struct store_op *op, struct finished *finished)
{
    op->code = queue_apply_filter(batch, &op->admin.filter, &op->admin.change, &op->admin.reached,
                                  op->admin.max, op->admin.touched, &op->admin.n_touched,
                                  &op->admin.more, &op->err);
    if (op->code == ERR_OK && op->admin.change.verb == QUEUE_FINISH && op->admin.n_touched > 0)
        finished_add(finished, op->admin.n_touched, op->admin.change.finished_at);
}

/* -------------------------------------------------------------------------------------- each */

/* The message that is blamed if this operation crashes us; 0: none alone. */
static uint64_t
op_message(const struct store_op *op)
{
    switch (op->kind) {
    case STORE_ADD:
    case STORE_ADD_BIG:
        return op->add.msg.id;
    case STORE_CHUNK:
    case STORE_DROP:
        return op->chunk.id;
    case STORE_OUTCOMES:
        return op->outcomes.n_changes > 0 ? op->outcomes.changes[0].id : 0;
    case STORE_ADMIN:
        break;
    }
    return 0;
}

void
store_op_apply(struct queue_batch *batch, struct store_op *op, struct finished *finished)
{
    const struct store_message *a = &op->add;
    IN_HAND(op_message(op));
    switch (op->kind) {
    case STORE_ADD:
        op->code = queue_add(batch, &a->msg, a->rcpts, a->n_rcpts, a->body, a->n_body, &op->err);
        break;
    case STORE_ADD_BIG:
        op->code = queue_incoming_finish(batch, &a->msg, a->rcpts, a->n_rcpts, &op->err);
        break;
    case STORE_CHUNK:
        op->code = queue_incoming_chunk(batch, op->chunk.id, op->chunk.offset, op->chunk.bytes,
                                        op->chunk.n_bytes, &op->err);
        break;
    case STORE_DROP:
        op->code = queue_incoming_drop(batch, op->chunk.id, &op->err);
        if (op->code == ERR_NOT_FOUND)
            op->code = ERR_OK;
        break;
    case STORE_OUTCOMES:
        outcomes_apply(batch, op, finished);
        break;
    case STORE_ADMIN:
        op->admin.reached = op->admin.after; /* `after` moves only when it is committed */
        admin_apply(batch, op, finished);
        break;
    }
}
