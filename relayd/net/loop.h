/*
 * loop - what everything on one event loop shares: the libevent base, the clock, the read and write
 * buffers, and the work put off to the end of the tick.
 *
 * "End of the tick" is a callback of its own: it runs when the libevent callback that asked for it
 * has returned, with nothing of ours on the stack. That is where objects retired inside callbacks
 * are freed, and where a completion goes that a start function already knows but may not yet tell.
 *
 * One thread owns a loop and all that hangs on it; nothing here is locked.
 */
#pragma once

#include "relayd/net/clock.h"

#include <stdbool.h>
#include <stddef.h>

#define LOOP_BUFFER_BYTES                                                   \
    65536 /* one read takes at most this much: fairness between connections \
           */

struct loop; /* opaque */

/* Work put off, embedded in its owner; all zero is idle. */
struct deferred {
    struct deferred *next, *prev; /* the loop's ring; NULL = idle */
    void (*cb)(struct deferred *d);
};

/* A loop with a base of its own (EVENT_BASE_FLAG_NOLOCK) and a real clock. Aborts when the system
 * gives no epoll: there is nothing to run without. */
struct loop *loop_new(void);
/* The same with a stepped clock for tests: sockets are real, time is clock_step()'s. */
struct loop *loop_new_stepped(msec_t wall_at);
/* Runs what is still put off, then frees base and clock. Everything on the loop is gone by then. */
void loop_free(struct loop *loop);

/* Both belong to the loop and live as long. */
struct event_base *loop_base(struct loop *loop);
struct clock *loop_clock(struct loop *loop);

/* Run until loop_stop(). */
void loop_run(struct loop *loop);
/* Make loop_run() return at the end of this tick. From a callback of this loop. */
void loop_stop(struct loop *loop);
/* Wait at most `max_wait_ms` (0: not at all) for events, handle one round of them and what they put
 * off. For tests, and to empty the loop at the end. */
void loop_run_once(struct loop *loop, msec_t max_wait_ms);

/* Call cb(d) at the end of this tick, in the order asked. Asking again while it waits does nothing.
 * What such a callback puts off itself runs after the next look at the sockets, so work that yields
 * this way starves nobody. */
void loop_defer(struct loop *loop, struct deferred *d, void (*cb)(struct deferred *d));
/* Does not run once this has returned. Idle is fine. */
void loop_defer_cancel(struct deferred *d);
/* free_fn(object) at the end of this tick, after everything that loop_defer() was asked for. */
void loop_retire(struct loop *loop, void *object, void (*free_fn)(void *object));
