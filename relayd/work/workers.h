/*
 * workers - threads for what computes long: signatures, password hashes, configurations.
 *
 * A job is a value owned by its submitter: run() is called on a worker, then done() on the loop
 * through the inbox. Each submit has exactly one done(). A worker keeps no state between jobs, but
 * for slots (worker_local) that hold what is dear to make, such as one DKIM_LIB a thread.
 * Signals do not come to workers (thread.h).
 */
#pragma once

#include "relayd/work/inbox.h"

#include "policy/base/err.h"

#include <stdbool.h>
#include <stddef.h>

#define WORKERS_MAX 64
#define WORKER_SLOTS_MAX 8

struct workers; /* opaque */
struct worker;  /* one thread, opaque */

enum job_class {
    JOB_NORMAL,
    JOB_HASH, /* a password hash: dear on purpose; at most one runs at any time */
};

struct job {
    struct job *next; /* the workers' while submitted */
    enum job_class job_class;
    /* On a worker thread. */
    void (*run)(struct job *job, struct worker *worker);
    /* On the loop, once run() has returned or the job was dropped; the job may be freed here. */
    void (*done)(struct job *job);
    bool dropped; /* out: workers_stop() came before it was run */
    struct inbox_node node;
};

/* What every worker has one of. make() runs on the worker at the first worker_local(), free() on
 * the same thread when it ends. */
struct worker_slot {
    void *(*make)(void *arg);
    void (*free)(void *value);
    void *arg;
};

/*
 * `n_threads` workers (0: one a core, at most WORKERS_MAX), which post to `inbox`. `slots` is
 * copied; a slot is named by its index in it. Nothing runs before workers_start().
 */
struct workers *workers_new(unsigned n_threads, struct inbox *inbox,
                            const struct worker_slot *slots, size_t n_slots);

/* Start the threads, once: after privileges were dropped, since those belong to a thread. Jobs that
 * were submitted before run now. ERR_AGAIN: the system has not so many; workers_stop() ends those
 * that there are. */
MUST_CHECK enum err_code workers_start(struct workers *workers, struct err *err);

/* Queue a job; any thread. Never blocks on the job's own work. */
void workers_submit(struct workers *workers, struct job *job);

/* This worker's value of slot `slot`, made at the first call. Only inside run(). */
void *worker_local(struct worker *worker, size_t slot);

/* Index of this worker, 0 to n-1: for per-thread tables such as the in-hand file. */
unsigned worker_index(const struct worker *worker);

/* How many threads; and how many jobs wait for one (for metrics). */
unsigned workers_count(const struct workers *workers);
size_t workers_waiting(struct workers *workers);

/*
 * Finish what runs, drop what waits (its done() is posted with `dropped` set), end the threads.
 * The caller runs the inbox afterwards, then calls workers_free(). Submitting after a stop drops
 * the job the same way.
 */
void workers_stop(struct workers *workers);
void workers_free(struct workers *workers); /* stops first when needed; NULL is fine */
