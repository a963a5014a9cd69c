/*
 * How: a counter and a line of those who wait, per pool; all on the loop's thread. Who comes while
 * others wait stands behind them. A credit given back goes to the first in the line at once.
 */
#include <assert.h>

#include "relayd/store/store_impl.h"

static void
unlink_waiting(struct credit_pool *pool, struct store_credit *c)
{
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        pool->first = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    else
        pool->last = c->prev;
    c->prev = c->next = NULL;
    c->waiting = false;
}

/* A callback may take, wait, cancel or give: look anew each time. */
static void
grant(struct credit_pool *pool)
{
    while (pool->first != NULL && pool->used < pool->limit) {
        struct store_credit *c = pool->first;
        unlink_waiting(pool, c);
        pool->used++;
        c->granted(c);
    }
}

void
store_credit_limit(struct store *store, enum store_pool pool, size_t limit)
{
    store->pools[pool].limit = limit;
    grant(&store->pools[pool]);
}

bool
store_credit_take(struct store *store, enum store_pool which)
{
    struct credit_pool *pool = &store->pools[which];
    if (pool->first != NULL || pool->used >= pool->limit)
        return false;
    pool->used++;
    return true;
}

bool
store_credit_wait(struct store *store, enum store_pool which, struct store_credit *credit)
{
    struct credit_pool *pool = &store->pools[which];
    assert(!credit->waiting);
    if (store_credit_take(store, which))
        return true;
    credit->pool = which;
    credit->waiting = true;
    credit->next = NULL;
    credit->prev = pool->last;
    if (pool->last != NULL)
        pool->last->next = credit;
    else
        pool->first = credit;
    pool->last = credit;
    return false;
}

void
store_credit_cancel(struct store *store, struct store_credit *credit)
{
    if (credit->waiting)
        unlink_waiting(&store->pools[credit->pool], credit);
}

void
store_credit_give(struct store *store, enum store_pool which)
{
    struct credit_pool *pool = &store->pools[which];
    assert(pool->used > 0);
    pool->used--;
    grant(pool);
}

size_t
store_credit_used(const struct store *store, enum store_pool pool)
{
    return store->pools[pool].used;
}
