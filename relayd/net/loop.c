/*
 * loop - one libevent base with its clock, and the end of each tick.
 *
 * The end of a tick is an event made active by the first that asks for it: libevent runs it behind
 * the callbacks that are already active, from its own top level. What is asked for while it runs
 * goes through a zero timeout instead, which lets libevent look at the sockets in between.
 */
#include "relayd/net/loop.h"

#include <assert.h>
#include <stdlib.h>

#include <event2/event.h>

#include "policy/base/mem.h"
#include "relayd/net/conn.h"
#include "relayd/net/loop_private.h"

static void
retired_free(struct loop *loop)
{
    /* By index: freeing one may retire another. */
    for (size_t i = 0; i < loop->n_retired; i++) {
        struct retired r = loop->retired[i];
        r.free_fn(r.object);
    }
    loop->n_retired = 0;
}

static void
ring_init(struct deferred *head)
{
    head->next = head->prev = head;
}

/* All entries of `from` to `to`, which is overwritten. */
static void
ring_move(struct deferred *from, struct deferred *to)
{
    ring_init(to);
    if (from->next == from)
        return;
    *to = *from;
    to->next->prev = to;
    to->prev->next = to;
    ring_init(from);
}

static void
on_end_of_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct loop *loop = arg;
    struct deferred round;

    loop->asked = false;
    loop->ending = true;
    ring_move(&loop->deferred, &round);
    while (round.next != &round) {
        struct deferred *d = round.next;
        loop_defer_cancel(d);
        d->cb(d);
    }
    loop->ending = false;
    retired_free(loop);
}

static void
end_of_tick_ask(struct loop *loop)
{
    if (loop->asked)
        return;
    loop->asked = true;
    if (!loop->ending) {
        event_active(loop->end_of_tick, EV_TIMEOUT, 0);
    } else {
        static const struct timeval at_once = {0, 0};
        event_add(loop->end_of_tick, &at_once);
    }
}

static struct loop *
loop_make(void)
{
    struct loop *loop = xcalloc(1, sizeof(*loop));
    event_set_mem_functions(xmalloc, xrealloc, free);
    struct event_config *config = event_config_new();
    if (event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK) != 0)
        abort();
    loop->base = event_base_new_with_config(config);
    event_config_free(config);
    if (loop->base == NULL)
        abort();
    loop->end_of_tick = event_new(loop->base, -1, 0, on_end_of_tick, loop);
    ring_init(&loop->deferred);
    return loop;
}

struct loop *
loop_new(void)
{
    struct loop *loop = loop_make();
    loop->clock = clock_new(loop->base);
    return loop;
}

struct loop *
loop_new_stepped(msec_t wall_at)
{
    struct loop *loop = loop_make();
    loop->clock = clock_new_stepped(wall_at);
    return loop;
}

void
loop_free(struct loop *loop)
{
    while (loop->lingering != NULL)
        conn_retire(loop->lingering);
    while (loop->deferred.next != &loop->deferred || loop->n_retired > 0)
        on_end_of_tick(-1, 0, loop);
    event_free(loop->end_of_tick);
    clock_free(loop->clock);
    event_base_free(loop->base);
    free(loop->retired);
    strbuf_release(&loop->gather);
    strbuf_release(&loop->cipher_out);
    free(loop);
}

struct event_base *
loop_base(struct loop *loop)
{
    return loop->base;
}

struct clock *
loop_clock(struct loop *loop)
{
    return loop->clock;
}

void
loop_run(struct loop *loop)
{
    event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY);
}

void
loop_stop(struct loop *loop)
{
    event_base_loopexit(loop->base, NULL);
}

static void
on_waited(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg;
}

void
loop_run_once(struct loop *loop, msec_t max_wait_ms)
{
    if (max_wait_ms <= 0) {
        event_base_loop(loop->base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
        return;
    }
    struct timeval tv = {max_wait_ms / 1000, max_wait_ms % 1000 * 1000};
    struct event *waited = event_new(loop->base, -1, 0, on_waited, NULL);
    if (waited == NULL)
        abort();
    event_add(waited, &tv);
    event_base_loop(loop->base, EVLOOP_ONCE);
    event_free(waited);
}

void
loop_defer(struct loop *loop, struct deferred *d, void (*cb)(struct deferred *d))
{
    if (d->next != NULL) {
        assert(d->cb == cb);
        return;
    }
    struct deferred *head = &loop->deferred;
    d->cb = cb;
    d->next = head;
    d->prev = head->prev;
    d->prev->next = d;
    head->prev = d;
    end_of_tick_ask(loop);
}

void
loop_defer_cancel(struct deferred *d)
{
    if (d->next == NULL)
        return;
    d->prev->next = d->next;
    d->next->prev = d->prev;
    d->next = d->prev = NULL;
}

void
loop_retire(struct loop *loop, void *object, void (*free_fn)(void *object))
{
    if (loop->n_retired == loop->cap_retired) {
        loop->cap_retired = loop->cap_retired == 0 ? 64 : loop->cap_retired * 2;
        loop->retired = xrealloc(loop->retired, loop->cap_retired * sizeof(loop->retired[0]));
    }
    loop->retired[loop->n_retired++] = (struct retired){object, free_fn};
    if (!loop->ending) /* else this very round frees it */
        end_of_tick_ask(loop);
}
