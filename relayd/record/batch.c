/*
 * batch - the operation that stores the outcomes of one transaction, with the notices they cause.
 *
 * With notices it is all or nothing but for deliveries: a recipient that a verb changed meanwhile
 * makes the store answer ERR_STALE, and the batch starts again without it. Deliveries were made by
 * then; those that the sender is to be told of stay in the batch for their notice. A notice that
 * the store refuses for its form is not tried again: who it tells of is held.
 */
#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/message.h"
#include "relayd/ops/log.h"
#include "relayd/record/internal.h"

struct batch *
batch_new(struct record *r, struct msg *msg, size_t n_items)
{
    struct batch *b = xcalloc(1, sizeof(*b));
    b->record = r;
    b->msg = msg;
    b->settings = r->env.settings_take(r->env.arg);
    b->items = xcalloc(n_items, sizeof(*b->items));
    return b;
}

static void
notices_release(struct batch *b)
{
    for (size_t i = 0; i < b->n_notices; i++) {
        strbuf_release(&b->notices[i].text);
        free(b->notices[i].to);
        free(b->notices[i].facts);
        dkim_result_release(&b->notices[i].sign.result);
        b->notices[i] = (struct notice){0};
    }
    b->n_notices = 0;
}

static void
item_release(struct item *item)
{
    free(item->attempts);
    free(item->detail);
    *item = (struct item){0};
}

static void tell(struct batch *b);

static void
batch_free(struct batch *b)
{
    struct record *r = b->record;
    bool was_telling = b->telling;

    notices_release(b);
    for (size_t i = 0; i < b->n_items; i++)
        item_release(&b->items[i]);
    r->env.settings_give(r->env.arg, b->settings);
    free(b->items);
    free(b->changes);
    free(b->notices);
    free(b->messages);
    free(b->original);
    free(b);
    r->n_telling -= was_telling;
    if (was_telling && r->n_telling < RECORD_TELLING_MAX && !STAILQ_EMPTY(&r->waiting)) {
        b = STAILQ_FIRST(&r->waiting);
        STAILQ_REMOVE_HEAD(&r->waiting, link);
        tell(b);
    }
}

void
batches_drop(struct record *r)
{
    struct batch *b;
    while ((b = STAILQ_FIRST(&r->waiting)) != NULL) {
        STAILQ_REMOVE_HEAD(&r->waiting, link);
        batch_free(b);
    }
}

static void
tell(struct batch *b)
{
    b->telling = true;
    b->record->n_telling++;
    notices_start(b);
}

void
batch_start(struct batch *b)
{
    bool owed = false, delivered = false;
    if (b->n_items == 0) {
        batch_free(b);
        return;
    }
    for (size_t i = 0; i < b->n_items; i++) {
        owed |= b->items[i].tell;
        delivered |= b->items[i].delivered;
    }
    if (!owed)
        batch_submit(b);
    else if (delivered || b->record->n_telling < RECORD_TELLING_MAX)
        tell(b); /* a delivery waits for nobody: until it is stored it may be repeated */
    else
        STAILQ_INSERT_TAIL(&b->record->waiting, b, link);
}

/* ---- into the store ---- */

static struct queue_change
change_of(const struct batch *b, const struct item *item)
{
    struct queue_change change = {
        .id = item->rcpt->key.id,
        .no = (uint32_t)item->rcpt->key.no,
        .revision = item->rcpt->revision,
        .due_at = item->due_at,
        .finished_at = clock_wall(loop_clock(b->record->env.loop)),
    };
    switch (item->fate) {
    case FATE_FINISHED:
        change.verb = QUEUE_FINISH;
        change.result = item->delivered ? QUEUE_DELIVERED : QUEUE_FAILED;
        change.detail = span_of(item->detail, item->detail_bytes);
        break;
    case FATE_HELD:
        change.verb = QUEUE_HOLD;
        break;
    case FATE_DEFERRED:
    case FATE_CHANGED:
        change.verb = QUEUE_DEFER;
        break;
    }
    if (change.verb != QUEUE_FINISH) {
        change.attempts_set = true;
        change.attempts = span_of(item->attempts, item->attempts_bytes);
    }
    return change;
}

/* A stored notice goes its way like any message. */
static void
notice_take(struct batch *b, struct notice *n, const struct store_message *m)
{
    struct record *r = b->record;
    struct msg *msg = msg_new(&m->msg, b->settings->config->node.name);
    struct msg_body *body = xmalloc(sizeof(*body) + n->text.n);
    struct rcpt *rcpt = rcpt_new(&n->rcpt, queue_lane(r->env.queue, n->rcpt.domain));

    msg->loaded = true;
    body->n = n->text.n;
    memcpy(body->bytes, n->text.p, n->text.n);
    metric_inc(r->notices);
    maillog_notice(r, n, &m->msg, msg->id_text, b->msg->id_text);
    r->env.stored(r->env.arg, msg, body, &rcpt, 1);
}

static void
log_stale(struct batch *b, const struct item *item)
{
    struct log_line line;
    log_begin(b->record->env.log, &line, LOG_WARNING, "outcome_dropped");
    log_cstr(&line, "msg", b->msg->id_text);
    log_str(&line, "rcpt", item->rcpt->address);
    log_cstr(&line, "text", "the recipient was changed while it was being tried");
    log_end(&line);
}

/* The store has answered, with `code` for all when the operation failed. */
static void
item_done(struct batch *b, struct item *item, enum err_code code, uint64_t txn)
{
    struct record *r = b->record;
    if (item->is_stored) {
        code = item->stored_code;
        txn = item->stored_txn;
    } else if (code == ERR_OK) {
        code = item->change->code;
    }
    enum rcpt_fate fate = code == ERR_OK ? item->fate : FATE_CHANGED;
    if (code == ERR_STALE || code == ERR_NOT_FOUND)
        log_stale(b, item);
    r->env.recorded(r->env.arg, item->rcpt, fate, item->due_at, txn);
}

/* The store will never take this notice. Nobody is given up without the sender being told. */
static void
item_hold(struct batch *b, struct item *item, const struct err *err)
{
    item->tell = false;
    if (item->fate == FATE_FINISHED && !item->delivered)
        item->fate = FATE_HELD;
    log_alert(b->record->env.log, "notice_refused", "%s: a notice cannot be stored: %s",
              b->msg->id_text, err->text);
}

/* After an operation that was not done whole: does this item's change, or its notice, remain? */
static bool
item_remains(const struct item *item)
{
    return (!item->is_stored && item->change->code == ERR_AGAIN) || (item->delivered && item->tell);
}

static void
item_move(struct item *from, struct item *to, uint64_t txn)
{
    if (!from->is_stored && from->change->code != ERR_AGAIN) {
        from->is_stored = true;
        from->stored_code = from->change->code;
        from->stored_txn = txn;
    }
    from->change = NULL;
    *to = *from;
    *from = (struct item){0};
}

/* Let go of the items that are done with, as those are that a verb changed, and begin again with
 * the others. */
static void
batch_again(struct batch *b, const struct store_op *op)
{
    struct batch *again = batch_new(b->record, b->msg, b->n_items);

    for (size_t i = 0; i < b->n_items; i++) {
        struct item *item = &b->items[i];
        if (op->code != ERR_STALE && item->tell && item_remains(item))
            item_hold(b, item, &op->err);
        if (item_remains(item))
            item_move(item, &again->items[again->n_items++], op->txn_id);
        else
            item_done(b, item, ERR_OK, op->txn_id);
    }
    batch_free(b);
    batch_start(again);
}

static void
batch_done(struct store_op *op)
{
    struct batch *b = CONTAINER_OF(op, struct batch, op);

    if (op->code == ERR_STALE ||
        (b->n_notices > 0 && (op->code == ERR_INVAL || op->code == ERR_LIMIT))) {
        batch_again(b, op);
        return;
    }
    if (op->code != ERR_OK)
        log_text(b->record->env.log, LOG_ERROR, "outcome_not_stored", "%s: %s", b->msg->id_text,
                 op->err.text);
    else
        for (size_t i = 0; i < b->n_notices; i++)
            notice_take(b, &b->notices[i], &b->messages[i]);
    for (size_t i = 0; i < b->n_items; i++)
        item_done(b, &b->items[i], op->code, op->txn_id);
    batch_free(b);
}

static void
notice_message(struct batch *b, struct notice *n, struct store_message *ret)
{
    struct queue_msg *q = &ret->msg;
    *q = (struct queue_msg){
        .id = n->id,
        .arrived_at = clock_wall(loop_clock(b->record->env.loop)),
        .body_bytes = n->text.n,
        .size_bytes = n->text.n,
        .flags = n->flags,
        .client = SPAN("notice"),
        .n_signatures = n->sign.result.n_signatures,
    };
    for (size_t i = 0; i < q->n_signatures; i++) {
        const struct dkim_signature *s = &n->sign.result.signatures[i];
        q->signatures[i] = (struct queue_signature){span_str(s->domain), span_str(s->selector),
                                                    span_of(s->field, s->field_bytes)};
        q->size_bytes += s->field_bytes;
    }
    n->bytes = strbuf_span(&n->text);
    ret->rcpts = &n->rcpt;
    ret->n_rcpts = 1;
    ret->body = &n->bytes;
    ret->n_body = 1;
}

void
batch_submit(struct batch *b)
{
    b->changes = xcalloc(b->n_items, sizeof(*b->changes));
    for (size_t i = 0; i < b->n_items; i++) {
        struct item *item = &b->items[i];
        if (item->is_stored)
            continue;
        item->change = &b->changes[b->n_changes++];
        *item->change = change_of(b, item);
    }
    for (size_t i = 0; i < b->n_notices; i++)
        notice_message(b, &b->notices[i], &b->messages[i]);
    b->op.kind = STORE_OUTCOMES;
    b->op.done = batch_done;
    b->op.outcomes.changes = b->changes;
    b->op.outcomes.n_changes = b->n_changes;
    b->op.outcomes.notices = b->messages;
    b->op.outcomes.n_notices = b->n_notices;
    store_submit(b->record->env.store, &b->op);
}
