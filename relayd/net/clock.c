/*
 * clock - a binary heap of timers behind one libevent timer.
 *
 * An entry of the heap carries its own copy of the key. Moving a timer to later only changes the
 * timer, and the entry is put right when it reaches the top (top_settle); so pushing a deadline
 * back costs two stores. The libevent timer is armed for the top's key and left alone while that
 * is not later than the top: a fire that finds nothing due only arms it again.
 */
#include "relayd/net/clock.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

#include <event2/event.h>

#include "policy/base/mem.h"

#define STEPPED_START_MS ((msec_t)1000000)

struct entry {
    msec_t at; /* key: not later than the timer's own */
    uint64_t seq;
    struct timer *t;
};

struct clock {
    struct event *ev; /* NULL: stepped */
    msec_t armed_at;  /* when ev fires, INT64_MAX = not armed */
    bool firing;      /* inside fire_due(): armed when it ends */
    struct entry *heap;
    size_t n, cap;
    uint64_t seq;
    msec_t now, wall_at; /* stepped only */
};

static msec_t
read_clock(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (msec_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

msec_t
clock_now(const struct clock *clock)
{
    return clock->ev == NULL ? clock->now : read_clock(CLOCK_MONOTONIC_COARSE);
}

msec_t
clock_wall(const struct clock *clock)
{
    return clock->ev == NULL ? clock->wall_at : read_clock(CLOCK_REALTIME_COARSE);
}

static bool
before(const struct entry *a, const struct entry *b)
{
    return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void
place(struct clock *c, size_t i, struct entry e)
{
    c->heap[i] = e;
    e.t->pos = (uint32_t)(i + 1);
}

static void
sift_up(struct clock *c, size_t i, struct entry e)
{
    while (i > 0 && before(&e, &c->heap[(i - 1) / 2])) {
        place(c, i, c->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(c, i, e);
}

static void
sift_down(struct clock *c, size_t i, struct entry e)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= c->n)
            break;
        if (child + 1 < c->n && before(&c->heap[child + 1], &c->heap[child]))
            child++;
        if (!before(&c->heap[child], &e))
            break;
        place(c, i, c->heap[child]);
        i = child;
    }
    place(c, i, e);
}

static void
take_out(struct clock *c, size_t i)
{
    assert(i < c->n);
    c->heap[i].t->pos = 0;
    struct entry last = c->heap[--c->n];
    if (i == c->n)
        return;
    if (i > 0 && before(&last, &c->heap[(i - 1) / 2]))
        sift_up(c, i, last);
    else
        sift_down(c, i, last);
}

/* The earliest timer with its true key on top, or NULL. */
static struct timer *
top_settle(struct clock *c)
{
    while (c->n > 0) {
        struct entry e = c->heap[0];
        if (e.at == e.t->at && e.seq == e.t->seq)
            return e.t;
        e.at = e.t->at;
        e.seq = e.t->seq;
        sift_down(c, 0, e);
    }
    return NULL;
}

/* Make sure that libevent wakes us for the top. */
static void
arm(struct clock *c)
{
    if (c->ev == NULL || c->firing || c->n == 0 || c->heap[0].at >= c->armed_at)
        return;
    c->armed_at = c->heap[0].at;
    msec_t wait_ms = c->armed_at - clock_now(c);
    if (wait_ms < 0)
        wait_ms = 0;
    struct timeval tv = {wait_ms / 1000, wait_ms % 1000 * 1000};
    event_add(c->ev, &tv);
}

static void
fire(struct clock *c, struct timer *t)
{
    take_out(c, t->pos - 1);
    t->cb(t->arg);
}

static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct clock *c = arg;
    msec_t now = clock_now(c);
    uint64_t newest = c->seq; /* what callbacks set waits for the next tick, due or not */
    struct timer *t;

    c->armed_at = INT64_MAX;
    c->firing = true;
    while ((t = top_settle(c)) != NULL && t->at <= now && t->seq <= newest)
        fire(c, t);
    c->firing = false;
    arm(c);
}

struct clock *
clock_new(struct event_base *base)
{
    struct clock *c = xcalloc(1, sizeof(*c));
    c->ev = event_new(base, -1, 0, on_wake, c);
    if (c->ev == NULL)
        abort();
    c->armed_at = INT64_MAX;
    return c;
}

struct clock *
clock_new_stepped(msec_t wall_at)
{
    struct clock *c = xcalloc(1, sizeof(*c));
    c->now = STEPPED_START_MS;
    c->wall_at = wall_at;
    return c;
}

void
clock_free(struct clock *clock)
{
    if (clock == NULL)
        return;
    for (size_t i = 0; i < clock->n; i++)
        clock->heap[i].t->pos = 0;
    if (clock->ev != NULL)
        event_free(clock->ev);
    free(clock->heap);
    free(clock);
}

void
timer_set_at(struct clock *clock, struct timer *t, msec_t at, void (*cb)(void *arg), void *arg)
{
    t->at = at;
    t->seq = ++clock->seq;
    t->cb = cb;
    t->arg = arg;
    struct entry e = {at, t->seq, t};
    if (t->pos == 0) {
        if (clock->n == clock->cap) {
            clock->cap = clock->cap == 0 ? 64 : clock->cap * 2;
            clock->heap = xrealloc(clock->heap, clock->cap * sizeof(clock->heap[0]));
        }
        sift_up(clock, clock->n++, e);
    } else if (before(&e, &clock->heap[t->pos - 1])) {
        sift_up(clock, t->pos - 1, e);
    }
    arm(clock);
}

void
timer_set(struct clock *clock, struct timer *t, msec_t after_ms, void (*cb)(void *arg), void *arg)
{
    timer_set_at(clock, t, clock_now(clock) + (after_ms < 0 ? 0 : after_ms), cb, arg);
}

void
timer_cancel(struct clock *clock, struct timer *t)
{
    if (t->pos != 0)
        take_out(clock, t->pos - 1);
}

size_t
clock_step(struct clock *clock, msec_t ms)
{
    assert(clock->ev == NULL && ms >= 0);
    msec_t end = clock->now + ms;
    size_t n_fired = 0;
    struct timer *t;

    while ((t = top_settle(clock)) != NULL && t->at <= end) {
        if (t->at > clock->now) {
            clock->wall_at += t->at - clock->now;
            clock->now = t->at;
        }
        fire(clock, t);
        n_fired++;
    }
    clock->wall_at += end - clock->now;
    clock->now = end;
    return n_fired;
}

msec_t
clock_next_at(struct clock *clock)
{
    struct timer *t = top_settle(clock);
    return t == NULL ? INT64_MAX : t->at;
}

size_t
clock_n_timers(const struct clock *clock)
{
    return clock->n;
}
