/*
 * inbox - the one way from every thread back to the loop.
 *
 * A value that went to a helper thread carries its own completion node; the helper posts the node
 * and the loop calls its `done`. Posting never blocks, never allocates and cannot fail, so nothing
 * can wait on a full queue. All nodes that wait are drained in one wake-up of the loop, in the
 * order in which they were posted; the eventfd is written only when the list was empty.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct event_base;
struct inbox; /* opaque */

struct inbox_node {
    struct inbox_node *next; /* the inbox's while posted */
    /* Called once on the loop's thread. The node is the caller's again: it may be freed or posted
     * anew in here. */
    void (*done)(struct inbox_node *node);
};

/*
 * A new inbox. With a base its eventfd is a persistent read event there; with NULL nothing drives
 * it and the caller uses inbox_wait() and inbox_run(). Aborts when no eventfd is to be had.
 */
struct inbox *inbox_new(struct event_base *base);

/* Takes the event away and closes the eventfd. Nodes still in it are not called; run it first.
 * NULL is fine. */
void inbox_free(struct inbox *inbox);

/* Hand one node to the loop. Any thread. The node must not be posted already. */
void inbox_post(struct inbox *inbox, struct inbox_node *node);

/* The same for a chain linked by `next` and ended by NULL, first one first, with one wake-up. */
void inbox_post_chain(struct inbox *inbox, struct inbox_node *first);

/* Call `done` of everything that was there on entry; returns how many. Loop's thread only. */
size_t inbox_run(struct inbox *inbox);

/* Wait until something is posted or `timeout_ms` is over (-1: for ever); false on timeout. For
 * programs and tests without an event loop. */
bool inbox_wait(struct inbox *inbox, int timeout_ms);
