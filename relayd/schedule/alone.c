/*
 * alone - messages that were in hand when the last run crashed: before anything else is taken in
 * hand each of them is tried by itself, so that another crash is evidence against it alone.
 */
#include "relayd/schedule/internal.h"

#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"

#define ALONE_MS MINUTE /* a slow peer does not keep all other mail waiting for longer */

struct alone {
    struct schedule *schedule;
    void (*then)(struct schedule *s);
    struct store_read read;
    struct timer timer;
    struct deferred next;
    bool reading;
    size_t at, n;
    uint64_t ids[];
};

void
schedule_alone(struct schedule *s, const uint64_t *ids, size_t n)
{
    if (n == 0)
        return;
    s->alone = xcalloc(1, sizeof(*s->alone) + n * sizeof(ids[0]));
    s->alone->schedule = s;
    s->alone->n = n;
    memcpy(s->alone->ids, ids, n * sizeof(ids[0]));
}

void
alone_free(struct schedule *s)
{
    if (s->alone == NULL)
        return;
    timer_cancel(s->clock, &s->alone->timer);
    loop_defer_cancel(&s->alone->next);
    free(s->alone);
    s->alone = NULL;
}

static void alone_next(struct alone *a);

static void
on_time(void *arg)
{
    struct alone *a = arg;
    log_text(a->schedule->env.log, LOG_WARNING, "alone", "it takes long: the others go on");
    alone_next(a);
}

static void
alone_read(struct store_read *read)
{
    struct alone *a = CONTAINER_OF(read, struct alone, read);
    struct schedule *s = a->schedule;

    a->reading = false;
    if (s->stopped) {
        if (read->code == ERR_OK)
            queue_page_release(&read->list.page);
        return;
    }
    if (read->code == ERR_OK) {
        for (size_t i = 0; i < read->list.page.n_rows; i++)
            pages_take_row(s, &read->list.page.rows[i], read->txn_id);
        queue_page_release(&read->list.page);
    }
    if (s->hand.n_live == 0)
        alone_next(a);
    else
        timer_set(s->clock, &a->timer, ALONE_MS, on_time, a);
}

static void
alone_next(struct alone *a)
{
    struct schedule *s = a->schedule;

    timer_cancel(s->clock, &a->timer);
    if (s->draining)
        return;
    if (a->at == a->n) {
        void (*then)(struct schedule * s) = a->then;
        alone_free(s);
        then(s);
        return;
    }
    a->reading = true;
    a->read = (struct store_read){.kind = STORE_READ_LIST, .done = alone_read};
    a->read.list.filter.id = a->ids[a->at++];
    a->read.list.filter.states = 1u << QUEUE_FRESH | 1u << QUEUE_SCHEDULED;
    a->read.list.max = SCHEDULE_PAGE_ROWS;
    store_read(s->env.store, &a->read);
}

void
alone_start(struct schedule *s, void (*then)(struct schedule *s))
{
    if (s->alone == NULL) {
        then(s);
        return;
    }
    s->alone->then = then;
    alone_next(s->alone);
}

static void
on_left(struct deferred *d)
{
    struct alone *a = CONTAINER_OF(d, struct alone, next);
    if (!a->reading && a->schedule->hand.n_live == 0)
        alone_next(a);
}

void
alone_left(struct schedule *s)
{
    if (s->alone != NULL && !s->alone->reading && s->hand.n_live == 0)
        loop_defer(s->env.loop, &s->alone->next, on_left);
}
