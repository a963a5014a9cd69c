/*
 * lanes - when each lane of the queue's schedule is next due. A lane holds the deferred recipients
 * of one domain; the queue knows them all, here is one small object for each lane that is not
 * empty, with a timer of its own.
 *
 * Invariant: a lane's timer is set, or it is in the line of due lanes, or a page of it is being
 * read, or it is paused because LANE_HAND_MAX of its recipients are in hand, or nothing of it is
 * due and only recipients in hand keep it.
 */
#pragma once

#include "policy/base/map.h"
#include "queue/queue.h"
#include "relayd/net/clock.h"

#define LANE_HAND_MAX                                                          \
    1000 /* of a lane's recipients in hand: a slow domain does not fill memory \
          */

#define LANE_PASS_MAX 1000 /* recipients passed over in a row before the lane sleeps */

struct lanes;

struct lane {
    uint64_t hash;
    struct lanes *lanes;
    struct timer timer;
    msec_t due_at;   /* wall: the earliest known */
    msec_t noted_at; /* wall: earliest noted while a page was being read; INT64_MAX none */
    msec_t again_at; /* wall: when those passed over are looked at again; INT64_MAX none */
    msec_t asked_at; /* monotonic: when a verb last asked for a try now; 0: never */
    struct queue_due_key after; /* where the next page goes on; all zero: at the beginning */
    struct lane *due_next;
    unsigned n_passed;
    unsigned n_hand; /* recipients in hand that its pages brought */
    bool reading;    /* a page is being read */
    bool is_due;     /* in the line */
    bool pulling;    /* this pass takes all of it, due or not: a clock ran back */
    bool paused;     /* more is due, but enough of it is in hand */
};

struct lanes {
    struct clock *clock;
    struct map map;
    struct lane *due, **due_tail; /* lanes whose time has come, in order */
    msec_t longest_ms;            /* no due time is further away than this: a clock ran back */
    void (*on_due)(void *arg);    /* the line became non-empty */
    void *arg;
};

void lanes_init(struct lanes *lanes, struct clock *clock, void (*on_due)(void *arg), void *arg);
void lanes_release(struct lanes *lanes);

/* A recipient of this lane is due at `due_at`. */
void lanes_note(struct lanes *lanes, uint64_t hash, msec_t due_at);
/* A verb asks for another try now of recipients of this lane, which have been noted. */
void lanes_ask(struct lanes *lanes, uint64_t hash);
/* Those of this lane that were passed over are looked at again now, if there is the lane. */
void lanes_again(struct lanes *lanes, uint64_t hash);
/* The wall clock was set, or the machine slept: timers go by another clock. */
void lanes_rearm(struct lanes *lanes);
/* Look into every lane now: a hold or suspension has ended. */
void lanes_wake(struct lanes *lanes);
/* The next due lane, taken off the line and marked as being read; NULL when none is due. */
struct lane *lanes_take(struct lanes *lanes);
/*
 * The page has been read: `more` due ones are behind lane->after (read on at once), else the next
 * is due at `next_due_at` (INT64_MAX: none; the lane is freed). What was noted meanwhile counts
 * too.
 */
void lanes_read(struct lane *lane, bool more, msec_t next_due_at);
/* A recipient that a page of this lane brought is in hand; it has left. */
void lane_hold(struct lane *lane);
void lane_drop(struct lane *lane);
/* It goes back as it is, because its site is full: once this pass is over, the lane is read from
 * its beginning at `again_at`. lane_drop() follows. */
void lane_pass(struct lane *lane, msec_t again_at);
size_t lanes_count(const struct lanes *lanes);
