/*
 * store_impl - what the files of relayd/store share: which thread owns which field.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "policy/base/map.h"
#include "relayd/store/store.h"

/* A list linked through inbox_node.next, first in, first out. */
struct node_list {
    struct inbox_node *first, **end;
    size_t n;
};

void node_list_init(struct node_list *list);
void node_list_add(struct node_list *list, struct inbox_node *node);
struct inbox_node *node_list_take(struct node_list *list);
/* Append all of `from`, which is empty afterwards. */
void node_list_move(struct node_list *to, struct node_list *from);

struct credit_pool {
    size_t limit, used;
    struct store_credit *first, *last; /* waiting */
};

/* Of one commit, on its way to the loop. */
struct commit_note {
    struct inbox_node node;
    struct store *store;
    struct store_commit commit;
};

struct store {
    struct store_options options; /* constant */
    struct queue *queue;
    struct inbox *inbox;

    /* Loop only. */
    struct credit_pool pools[STORE_POOLS];
    struct store_numbers numbers;
    uint64_t loop_txn;                         /* the newest commit that the loop knows of */
    struct store_read *first_read, *last_read; /* under way, in the order of their begin */
    bool stopped;

    /* Writer and loop. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct node_list submitted; /* under lock */
    size_t n_awaited;           /* under lock: of those, how many somebody waits for */
    bool stopping;              /* under lock */
    atomic_size_t n_blocked;    /* as of the end of the last round, and no more than there are */
    atomic_bool delivery_blocked;
    pthread_t writer_thread;
    bool writer_runs; /* it was started */

    /* Writer only. */
    struct node_list todo;    /* taken over, not yet looked at */
    struct node_list blocked; /* outcomes that did not fit; tried before everything else */
    struct node_list passed;  /* in a round: those of them that had their turn, and stay */
    bool one_by_one;          /* they did not fit together */
    bool failed;
    struct err failure;
    msec_t history_at;   /* the history's idea of now, wall; 0 before the first outcome */
    msec_t history_seen; /* boot time: when it was that */
    msec_t ahead_since;  /* boot time: since when the clock has been ahead of it; 0: it is not */
    size_t n_commits, n_shown; /* of something; up to which room was made visible (room_show) */

    struct inbox_node failed_node; /* announces the failure, once */

    /* Readers and loop. */
    pthread_mutex_t read_lock;
    pthread_cond_t read_wake;
    struct node_list reads;            /* under read_lock */
    bool reads_stopping;               /* under read_lock */
    unsigned n_readers, n_readers_run; /* how many, and how many of them were started */
    struct store_thread {
        struct store *store;
        struct queue_reader *reader;
        pthread_t thread;
    } * readers;
};

static inline struct store_op *
op_of(struct inbox_node *node)
{
    return (struct store_op *)((char *)node - offsetof(struct store_op, node));
}

/* writer.c */
void *store_writer_main(void *arg);

/* blocked.c: outcomes that wait for room. A round tries them one by one. */
struct blocked_round {
    struct map touched; /* message ids and keys of state that ops passed over touch */
    size_t too_large;   /* steps that did not fit */
};
/* These are tried again; everything else learns that the queue is full. */
bool store_op_must_fit(const struct store_op *op);
void blocked_round_begin(struct blocked_round *r);
/* The next one to try, off the list: it fitted, or blocked_round_failed(). NULL: no other would. */
struct store_op *blocked_round_next(struct store *store, struct blocked_round *r);
void blocked_round_failed(struct store *store, struct blocked_round *r, struct store_op *op);
/* Its deliveries alone from now on, if it has such besides notices; what else is in it is for its
 * owner to submit again (ERR_STALE, as when a verb was faster). */
bool blocked_split(struct store_op *op);
void blocked_round_end(struct store *store, struct blocked_round *r);
/* Something did not fit: if it is a delivery, tell the loop. */
void blocked_warn(struct store *store);
/* Tell the loop how many wait; blocked_lower(): if they are fewer than it knows of. */
void blocked_publish(struct store *store);
void blocked_lower(struct store *store);

/* apply.c: put one op into the batch; op->code tells, the batch may be dead afterwards. */
struct finished {
    size_t n; /* recipients */
    msec_t latest_at;
};
void store_op_apply(struct queue_batch *batch, struct store_op *op, struct finished *finished);

/* readers.c */
void *store_reader_main(void *arg);

/* store.c: on the loop, what a completed node does. */
void store_op_done(struct inbox_node *node);
void store_commit_done(struct inbox_node *node);
void store_read_done(struct inbox_node *node);
