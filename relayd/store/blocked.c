/*
 * How: outcomes that did not fit wait in one list, oldest first. In a round each is tried alone.
 * What does not fit is passed over, and from then on only smaller ones are tried, so that a large
 * one does not keep those behind it that would make room. An op that touches a message or a row of
 * state that one before it touches stays behind that one.
 */
#include <stdlib.h>

#include "relayd/store/store_impl.h"

#define BODY_BYTES_PER_STEP 4096u /* a page; as much as a change about */

bool
store_op_must_fit(const struct store_op *op)
{
    return op->kind == STORE_OUTCOMES || op->kind == STORE_DROP;
}

/* How much room it needs, about: only good to compare. */
static size_t
steps_of(const struct store_op *op)
{
    if (op->kind != STORE_OUTCOMES)
        return 1;
    size_t n = op->outcomes.n_changes + op->outcomes.n_facts;
    for (size_t i = 0; i < op->outcomes.n_notices; i++)
        n += 1 + op->outcomes.notices[i].n_rcpts +
             (size_t)(op->outcomes.notices[i].msg.body_bytes / BODY_BYTES_PER_STEP);
    return n;
}

static struct span
id_span(const uint64_t *id)
{
    return span_of((const char *)id, sizeof(*id));
}

/* Does it touch what one touches that was passed over? */
static bool
is_behind(const struct blocked_round *r, const struct store_op *op)
{
    if (op->kind != STORE_OUTCOMES)
        return map_get(&r->touched, id_span(&op->chunk.id)) != NULL;
    for (size_t i = 0; i < op->outcomes.n_changes; i++)
        if (map_get(&r->touched, id_span(&op->outcomes.changes[i].id)) != NULL)
            return true;
    for (size_t i = 0; i < op->outcomes.n_facts; i++)
        if (map_get(&r->touched, op->outcomes.facts[i].key) != NULL)
            return true;
    return false;
}

/* The keys are in the op, which stays as it is until done(). */
static void
pass_over(struct store *store, struct blocked_round *r, struct store_op *op)
{
    node_list_add(&store->passed, &op->node);
    if (op->kind != STORE_OUTCOMES) {
        map_put(&r->touched, id_span(&op->chunk.id), op);
        return;
    }
    for (size_t i = 0; i < op->outcomes.n_changes; i++)
        map_put(&r->touched, id_span(&op->outcomes.changes[i].id), op);
    for (size_t i = 0; i < op->outcomes.n_facts; i++)
        map_put(&r->touched, op->outcomes.facts[i].key, op);
}

void
blocked_round_begin(struct blocked_round *r)
{
    struct map_seed seed;
    arc4random_buf(&seed, sizeof(seed));
    *r = (struct blocked_round){.too_large = SIZE_MAX};
    map_init(&r->touched, seed);
}

struct store_op *
blocked_round_next(struct store *store, struct blocked_round *r)
{
    struct inbox_node *node;
    while (r->too_large > 1 && (node = node_list_take(&store->blocked)) != NULL) {
        struct store_op *op = op_of(node);
        if (steps_of(op) < r->too_large && !is_behind(r, op))
            return op;
        pass_over(store, r, op);
    }
    return NULL;
}

void
blocked_round_failed(struct store *store, struct blocked_round *r, struct store_op *op)
{
    r->too_large = steps_of(op);
    pass_over(store, r, op);
}

void
blocked_round_end(struct store *store, struct blocked_round *r)
{
    node_list_move(&store->passed, &store->blocked);
    node_list_move(&store->blocked, &store->passed);
    map_release(&r->touched);
}

/* ------------------------------------------------------------------------ what the loop sees */

static bool
has_delivery(const struct store_op *op)
{
    if (op->kind == STORE_OUTCOMES)
        for (size_t i = 0; i < op->outcomes.n_changes; i++)
            if (queue_change_is_delivery(&op->outcomes.changes[i]))
                return true;
    return false;
}

/* A delivery must not wait for the room that a notice needs: it is made again after a crash. */
bool
blocked_split(struct store_op *op)
{
    if (op->kind != STORE_OUTCOMES || op->outcomes.n_notices == 0 || !has_delivery(op))
        return false;
    op->outcomes.only_deliveries = true;
    return true;
}

static bool
holds_delivery(const struct node_list *list)
{
    for (struct inbox_node *n = list->first; n != NULL; n = n->next)
        if (has_delivery(op_of(n)))
            return true;
    return false;
}

/* At once: while they are tried alone, with a sync each, many more could be delivered. */
void
blocked_warn(struct store *store)
{
    if (!atomic_load(&store->delivery_blocked) && holds_delivery(&store->blocked))
        atomic_store(&store->delivery_blocked, true);
}

void
blocked_publish(struct store *store)
{
    atomic_store(&store->delivery_blocked, holds_delivery(&store->blocked));
    atomic_store(&store->n_blocked, store->blocked.n);
}

void
blocked_lower(struct store *store)
{
    size_t n = store->blocked.n + store->passed.n;
    if (n < atomic_load(&store->n_blocked))
        atomic_store(&store->n_blocked, n);
}
