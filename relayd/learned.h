/*
 * learned - keeps the learned routes of policy/learn.h: reads their rows at the start, stores what
 * changes, logs and counts it, sweeps once an hour. Everything on the loop's thread; `now` is the
 * loop's wall time.
 *
 * The changes of one tick travel in one operation of the store, and at most one is under way: what
 * changes meanwhile waits for it, and a row that changed twice is written once. A write that failed
 * is logged and tried again with the next change. A crash may lose the changes of the last moment:
 * then the same refusal teaches them again.
 *
 * Log lines: event=learned, renewed, probe (a recipient took the slot), good_probe, pulled_in, and
 * forgotten with reason=probes, administrator, unused or full; the alert reroutes_exceeded.
 * Metrics: relayd_learned_routes, relayd_learned_total, relayd_reroutes_exceeded_total.
 */
#pragma once

#include "policy/learn.h"

struct log;
struct loop;
struct metrics;
struct store;

#define LEARNED_SWEEP_MS HOUR
/* Swept at once; if there are more, they follow each second, so that the loop is not held up. */
#define LEARNED_SWEEP_ROWS 1000u
/* Rows of one operation, so that forgetting a great many does not hold up mail's commits. */
#define LEARNED_WRITE_ROWS 1000u

struct learned; /* opaque */

struct learned_env { /* all borrowed: they outlive it */
    struct loop *loop;
    struct log *log;
    struct metrics *metrics;
    struct store *store;
    const struct config_learning *config; /* copied */
};

struct learned *learned_new(const struct learned_env *env);
/* Before the log, the metrics and the loop, at any time: writes that are still under way free
 * themselves when they come back. NULL is fine. */
void learned_free(struct learned *l);
/* At a reload. Copied. */
void learned_set_config(struct learned *l, const struct config_learning *config);

/* Read the rows; `then` is called when they are in, from the loop, never before this returns. Rows
 * that cannot be read raise an alert, and delivery begins without them. Once, before it begins. */
void learned_load(struct learned *l, void (*then)(void *arg), void *arg);
/* Hand what is not stored yet to the store, and begin nothing new; before store_stop(). */
void learned_stop(struct learned *l);

/* ---- as in policy/learn.h; a NULL table knows nothing and learns nothing ---- */

enum learn_advice
learned_advise(struct learned *l, const struct learn_way *way, const struct learn_entry **ret_why);
bool learned_probe(struct learned *l, const struct learn_way *way);
void
learned_refused(struct learned *l, const struct learn_way *way, const struct learn_reply *reply);
void learned_path_failed(struct learned *l, const struct learn_way *way,
                         const struct learn_reply *reply);
void learned_delivered(struct learned *l, const struct learn_way *way);
void learned_no_verdict(struct learned *l, const struct learn_way *way);
/* Raises the alert itself. */
bool learned_may_reroute(struct learned *l, struct span from, struct span to);

/* ---- for people ---- */

size_t learned_count(const struct learned *l);
void learned_each(const struct learned *l, void (*each)(void *arg, const struct learn_entry *e),
                  void *arg);
/* At once; the rows are removed with the next operation. Returns how many there were. */
size_t learned_forget(struct learned *l, struct span name);
