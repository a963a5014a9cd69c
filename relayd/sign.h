/*
 * sign - DKIM signatures by the workers: one job a message, for intake and for our own notices.
 */
#pragma once

#include "policy/dkim.h"
#include "queue/queue.h"
#include "relayd/settings.h"
#include "relayd/work/workers.h"

#define SIGN_HEAD_BLOCKS_MAX 4
#define SIGN_SLOT 0 /* the workers' slot that holds one struct dkim_signer a thread */

/* Give this to workers_new() as slot SIGN_SLOT. */
struct worker_slot sign_worker_slot(void);

/*
 * Owned by the caller until done(); everything that it points to stays as it is. The settings hold
 * their keyring alive: the caller keeps a reference.
 */
struct sign_job {
    struct job job;
    const struct settings *settings;
    void (*done)(struct sign_job *job); /* on the loop */
    void *arg;                          /* the caller's */
    struct span id;
    uint64_t msg_id, print; /* what is blamed if this crashes; print 0: msg_id is stored */
    struct span head[SIGN_HEAD_BLOCKS_MAX]; /* in the order sent, without the empty line */
    size_t n_head;
    struct span body;    /* in memory; or, with `queue` set, read from there: */
    struct queue *queue; /* a stored (incoming) body: `queue_id` from `offset` on */
    uint64_t queue_id, offset;
    msec_t now;
    /* Out. */
    enum err_code code;
    struct err err;
    struct dkim_result result; /* the caller's after done(): dkim_result_release() */
    /* sign.c's own while it reads */
    struct queue_reader *reader;
    char *chunk;
    bool body_given;
};

/* Would mail with this From domain be signed at all? Cheap: spares the way to a worker. */
bool sign_wanted(const struct settings *settings, struct span from_value);

/* Sign in a worker; `job->done` is called on the loop, never inside this call. */
void sign_start(struct workers *workers, struct sign_job *job);
