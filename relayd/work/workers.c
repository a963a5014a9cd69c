/*
 * How: one mutex, one list a class. A worker takes the oldest job it may run; when both classes
 * wait it takes turns, so that a flood of password checks cannot starve signatures nor the other
 * way round. JOB_HASH is skipped while one of them runs.
 *
 *   submitted -> running -> done (posted to the inbox)
 *       `------ stop -----> dropped (posted with `dropped` set)
 */
#include "relayd/work/workers.h"

#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/work/thread.h"

#define JOB_CLASSES 2

struct job_list {
    struct job *first, **end;
};

struct worker {
    struct workers *workers;
    unsigned index;
    pthread_t thread;
    void *values[WORKER_SLOTS_MAX];
};

struct workers {
    struct inbox *inbox;
    struct worker_slot slots[WORKER_SLOTS_MAX];
    size_t n_slots;
    unsigned n, n_run; /* how many, and how many of them were started: loop only */
    bool joined;       /* loop only */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    struct job_list waiting[JOB_CLASSES];
    size_t n_waiting;
    bool hash_runs;
    bool hash_turn; /* whose turn it is when both classes wait */
    bool stopping;

    struct worker all[];
};

static void
list_add(struct job_list *list, struct job *job)
{
    job->next = NULL;
    *list->end = job;
    list->end = &job->next;
}

static struct job *
list_take(struct job_list *list)
{
    struct job *job = list->first;
    if (job == NULL)
        return NULL;
    list->first = job->next;
    if (list->first == NULL)
        list->end = &list->first;
    job->next = NULL;
    return job;
}

static void
on_done(struct inbox_node *node)
{
    struct job *job = CONTAINER_OF(node, struct job, node);
    job->done(job);
}

/* The job that may run next, or NULL; the lock is held. */
static struct job *
next_job(struct workers *w)
{
    struct job_list *normal = &w->waiting[JOB_NORMAL], *hash = &w->waiting[JOB_HASH];
    bool may_hash = hash->first != NULL && !w->hash_runs;
    struct job *job;
    if (may_hash && (normal->first == NULL || w->hash_turn)) {
        job = list_take(hash);
        w->hash_runs = true;
        w->hash_turn = false;
    } else {
        job = list_take(normal);
        w->hash_turn = true;
    }
    if (job != NULL)
        w->n_waiting--;
    return job;
}

static void
slots_free(struct worker *worker)
{
    struct workers *w = worker->workers;
    for (size_t i = 0; i < w->n_slots; i++)
        if (worker->values[i] != NULL && w->slots[i].free != NULL)
            w->slots[i].free(worker->values[i]);
}

static void *
worker_main(void *arg)
{
    struct worker *worker = arg;
    struct workers *w = worker->workers;
    struct job *job = NULL;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->stopping && (job = next_job(w)) == NULL)
            pthread_cond_wait(&w->wake, &w->lock);
        if (w->stopping)
            break;
        bool hash = job->job_class == JOB_HASH;
        pthread_mutex_unlock(&w->lock);
        job->run(job, worker);
        inbox_post(w->inbox, &job->node); /* the job may be gone from here on */
        pthread_mutex_lock(&w->lock);
        if (hash) {
            w->hash_runs = false;
            if (w->waiting[JOB_HASH].first != NULL)
                pthread_cond_signal(&w->wake);
        }
    }
    pthread_mutex_unlock(&w->lock);
    slots_free(worker);
    return NULL;
}

struct workers *
workers_new(unsigned n_threads, struct inbox *inbox, const struct worker_slot *slots,
            size_t n_slots)
{
    assert(n_slots <= WORKER_SLOTS_MAX);
    if (n_threads == 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        n_threads = cores < 1 ? 1 : (unsigned)cores;
    }
    if (n_threads > WORKERS_MAX)
        n_threads = WORKERS_MAX;
    struct workers *w = xcalloc(1, sizeof(*w) + n_threads * sizeof(w->all[0]));
    w->inbox = inbox;
    w->n = n_threads;
    w->n_slots = n_slots;
    for (size_t i = 0; i < n_slots; i++)
        w->slots[i] = slots[i];
    for (size_t i = 0; i < JOB_CLASSES; i++)
        w->waiting[i].end = &w->waiting[i].first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, NULL);
    for (unsigned i = 0; i < n_threads; i++) {
        w->all[i].workers = w;
        w->all[i].index = i;
    }
    return w;
}

enum err_code
workers_start(struct workers *w, struct err *err)
{
    enum err_code code = ERR_OK;

    assert(w->n_run == 0);
    while (code == ERR_OK && w->n_run < w->n) {
        struct worker *worker = &w->all[w->n_run];
        char name[16];
        snprintf(name, sizeof(name), "worker-%u", worker->index % 1000);
        code = thread_start(&worker->thread, name, worker_main, worker, err);
        w->n_run += code == ERR_OK;
    }
    return code;
}

void
workers_submit(struct workers *w, struct job *job)
{
    assert((unsigned)job->job_class < JOB_CLASSES);
    job->node.done = on_done;
    job->dropped = false;
    pthread_mutex_lock(&w->lock);
    bool stopped = w->stopping;
    if (!stopped) {
        list_add(&w->waiting[job->job_class], job);
        w->n_waiting++;
        pthread_cond_signal(&w->wake);
    }
    pthread_mutex_unlock(&w->lock);
    if (stopped) {
        job->dropped = true;
        inbox_post(w->inbox, &job->node);
    }
}

void *
worker_local(struct worker *worker, size_t slot)
{
    struct workers *w = worker->workers;
    assert(slot < w->n_slots);
    if (worker->values[slot] == NULL)
        worker->values[slot] = w->slots[slot].make(w->slots[slot].arg);
    return worker->values[slot];
}

unsigned
worker_index(const struct worker *worker)
{
    return worker->index;
}

unsigned
workers_count(const struct workers *w)
{
    return w->n;
}

size_t
workers_waiting(struct workers *w)
{
    pthread_mutex_lock(&w->lock);
    size_t n = w->n_waiting;
    pthread_mutex_unlock(&w->lock);
    return n;
}

void
workers_stop(struct workers *w)
{
    if (w->joined)
        return;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    struct job *dropped[JOB_CLASSES];
    for (size_t i = 0; i < JOB_CLASSES; i++) {
        dropped[i] = w->waiting[i].first;
        w->waiting[i] = (struct job_list){.end = &w->waiting[i].first};
    }
    w->n_waiting = 0;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->n_run; i++)
        pthread_join(w->all[i].thread, NULL);
    w->joined = true;
    for (size_t i = 0; i < JOB_CLASSES; i++) {
        for (struct job *job = dropped[i], *next; job != NULL; job = next) {
            next = job->next;
            job->dropped = true;
            inbox_post(w->inbox, &job->node);
        }
    }
}

void
workers_free(struct workers *w)
{
    if (w == NULL)
        return;
    workers_stop(w);
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
