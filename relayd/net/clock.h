/*
 * clock - the time, and the only timers of the daemon.
 *
 * One clock belongs to one event loop and is used by that thread alone. Timers sit in a binary heap
 * of ours behind a single libevent timer, which is armed again only when an earlier moment comes to
 * the top; so tests can drive the same code with clock_step() and no libevent at all.
 *
 * Time comes from the kernel's coarse clocks (a few ns a call, 1-4 ms steps): it may be read
 * freely. A timer never fires early by clock_now(), and fires late by a few milliseconds on an idle
 * loop.
 */
#pragma once

#include "policy/base/msec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event_base;
struct clock; /* opaque */

/*
 * One timer, embedded in its owner's struct. All zero is a valid idle timer (TIMER_INIT); the
 * fields are the clock's. An owner cancels its timers before it is freed.
 */
struct timer {
    msec_t at;    /* monotonic: when it is to fire */
    uint64_t seq; /* order among equals: the one set first fires first */
    uint32_t pos; /* place in the heap plus 1; 0 = idle */
    void (*cb)(void *arg);
    void *arg;
};

#define TIMER_INIT ((struct timer){0})

/* A real clock whose timers run on `base`. Freed before the base. */
struct clock *clock_new(struct event_base *base);
/*
 * A clock that stands still until clock_step(). Monotonic time starts at 1,000,000 ms, wall time at
 * `wall_at`; both advance together.
 */
struct clock *clock_new_stepped(msec_t wall_at);
void clock_free(struct clock *clock); /* NULL is fine; timers still set just never fire */

/* Monotonic milliseconds; never runs back. For durations and timers, never stored. */
msec_t clock_now(const struct clock *clock);
/* Wall time, milliseconds since 1970 UTC. May jump. For Date fields, due times and logs. */
msec_t clock_wall(const struct clock *clock);

/*
 * Call cb(arg) from the loop at monotonic `at` (or at the next tick when that has passed); never
 * before this call returns. The timer is idle when cb runs, so cb may set it again or free its
 * owner. Setting a timer that is set moves it; moving it to later costs next to nothing, so a
 * deadline may be pushed back with every command.
 */
void
timer_set_at(struct clock *clock, struct timer *t, msec_t at, void (*cb)(void *arg), void *arg);
/* The same, `after_ms` from now; negative counts as 0. */
void
timer_set(struct clock *clock, struct timer *t, msec_t after_ms, void (*cb)(void *arg), void *arg);
/* Never fires once this has returned. An idle timer is fine. */
void timer_cancel(struct clock *clock, struct timer *t);

static inline bool
timer_is_set(const struct timer *t)
{
    return t->pos != 0;
}

/*
 * Stepped clock only: advance by `ms`, firing every timer due on the way in order, each at its own
 * moment (also those set meanwhile). Returns how many fired.
 */
size_t clock_step(struct clock *clock, msec_t ms);
/* Monotonic moment of the earliest timer, INT64_MAX when there is none. */
msec_t clock_next_at(struct clock *clock);
/* Timers that are set: for tests and metrics. */
size_t clock_n_timers(const struct clock *clock);
