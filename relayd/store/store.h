/*
 * store - the threads around queue/: one writer with group commit, a few readers.
 *
 * The only user of the queue in the daemon. The loop hands over operations (store_op) and reads
 * (store_read) as values; each comes back through the inbox exactly once, on the loop's thread,
 * never before the call that started it has returned. What is handed over cannot be taken back: op,
 * read and every buffer they point to belong to the store, unchanged, until done() is called. Who
 * loses interest remembers that in his own object and frees it in done().
 *
 * An op's done() with ERR_OK means: committed and synced; now the 250 may be sent.
 *
 * The writer takes all that waits, up to STORE_BATCH_BYTES or STORE_BATCH_OPS, as one transaction
 * with one pair of syncs. When a transaction does not fit (disk, map), its new mail gets ERR_FULL
 * and its outcomes are tried again alone; outcomes that still do not fit stay with the store,
 * which tries again every second, because losing one means delivering twice. While they wait, new
 * mail gets ERR_FULL: what room there is belongs to them. After any other failed commit the store
 * has failed: the batch and everything after it gets ERR_IO and on_failed is called once (the
 * daemon exits 74 and goes by what is on disk).
 */
#pragma once

#include "queue/queue.h"
#include "relayd/work/inbox.h"

#define STORE_BATCH_BYTES (4u << 20)
#define STORE_BATCH_OPS 4000u
#define STORE_READERS 2u /* threads: one may wait for the disk while the other serves */
#define STORE_RSS_FILE_MAX (64u << 20) /* mapped file pages in memory before readers drop them */
#define STORE_HISTORY_KEEP_MS (3 * DAY)
#define STORE_HISTORY_ROWS 1000000u
/* store_settle() at the end of the daemon: some hundred syncs of a slow disk, and twice that is
 * well inside what a service manager waits for (TimeoutStopSec=60 after 30 s of drain). */
#define STORE_SETTLE_MS (5 * SECOND)

struct store; /* opaque */

/* Of one commit, for metrics. */
struct store_commit {
    uint64_t txn_id;
    uint32_t n_ops;     /* store_ops in it */
    uint32_t n_records; /* record operations */
    uint64_t bytes;
    int64_t apply_us;         /* filling the transaction */
    int64_t sync_us;          /* writing and syncing it */
    struct queue_stats stats; /* of the queue after it: waiting numbers, used bytes */
};

struct store_options {
    struct queue *queue;    /* borrowed: outlives the store */
    struct inbox *inbox;    /* borrowed */
    unsigned n_readers;     /* 0: STORE_READERS */
    msec_t history_keep_ms; /* 0: STORE_HISTORY_KEEP_MS */
    uint64_t history_rows;  /* 0: STORE_HISTORY_ROWS */
    void *arg;
    /* On the loop, once, before the completions that it fails. */
    void (*on_failed)(void *arg, const struct err *err);
    /* On the loop, after each commit and before its completions. May be NULL. */
    void (*on_commit)(void *arg, const struct store_commit *commit);
};

/* Start the threads (signals blocked in them). ERR_LIMIT, ERR_IO. Loop's thread, as all below. */
MUST_CHECK enum err_code
store_new(const struct store_options *options, struct store **ret_store, struct err *err);

/*
 * Run the inbox until no operation and no read is under way, those included that a completion
 * begins: what goes through several of them ends whole. Outcomes that wait for room on the disk are
 * not waited for. False: `max_ms` was over before.
 */
bool store_settle(struct store *store, msec_t max_ms);
/*
 * Commit everything that was submitted, finish every read, end the threads. Completions are in the
 * inbox afterwards: run it, then store_free(). Outcomes that do not fit even now get ERR_FULL.
 */
void store_stop(struct store *store);
void store_free(struct store *store); /* stops first when needed; NULL is fine */

/* -------------------------------------------------------------------------------- operations */

enum store_kind {
    STORE_ADD,      /* `add`: a message with its body in memory */
    STORE_CHUNK,    /* `chunk`: a part of a big body */
    STORE_ADD_BIG,  /* `add`: the message whose body came in chunks (body is ignored) */
    STORE_DROP,     /* `chunk.id`: forget a half received body; missing is fine */
    STORE_OUTCOMES, /* `outcomes`: changes, state rows and notices, all in one commit */
    STORE_ADMIN,    /* `admin`: one slice of a verb on all that matches a filter */
};

struct store_message {
    struct queue_msg msg;
    const struct queue_rcpt *rcpts;
    size_t n_rcpts;
    const struct span *body; /* pieces in order */
    size_t n_body;
};

/* One row of policy's state. */
struct store_fact {
    struct span key;
    struct span value;
    bool remove;
};

struct store_op {
    enum store_kind kind;
    void (*done)(struct store_op *op); /* on the loop; the op may be freed there */

    union {
        struct store_message add;
        struct {
            uint64_t id, offset; /* offset: a multiple of QUEUE_CHUNK_BYTES */
            const struct span *bytes;
            size_t n_bytes;
        } chunk;
        /*
         * Each change has its own code afterwards (ERR_STALE, ERR_NOT_FOUND: dropped, log it).
         * Notices carry QUEUE_MSG_NOTICE. With notices it is all or nothing: when a change that
         * is not a delivery is stale, only deliveries are made, the op's code is ERR_STALE and
         * changes that would have been good carry ERR_AGAIN: build a new op from those.
         */
        struct {
            struct queue_change *changes;
            size_t n_changes;
            const struct store_fact *facts;
            size_t n_facts;
            const struct store_message *notices;
            size_t n_notices;
            bool only_deliveries; /* store's own: its notices find no room (ERR_STALE) */
        } outcomes;
        /* `touched` has room for `max`; go on with a new op while `more`. */
        struct {
            struct queue_filter filter;
            struct queue_change change; /* verb, due_at, attempts, result, detail */
            struct queue_key after;     /* in and out */
            struct queue_touched *touched;
            size_t max;
            size_t n_touched;         /* out */
            bool more;                /* out */
            struct queue_key reached; /* the store's own */
        } admin;
    };

    /* Out. */
    enum err_code code; /* ERR_OK, ERR_FULL, ERR_IO, ERR_STALE, ERR_INVAL, ERR_LIMIT, ERR_EXISTS,
                           ERR_NOT_FOUND (ADD_BIG without its chunks) */
    struct err err;
    uint64_t txn_id; /* that it was committed in */

    /* The store's own. */
    struct inbox_node node;
    struct store *store;
};

/* Hand an op over. Loop's thread; wakes the writer when it sleeps. */
void store_submit(struct store *store, struct store_op *op);

/* ------------------------------------------------------------------------------------- reads */

enum store_read_kind {
    STORE_READ_MAIL,
    STORE_READ_BODY,
    STORE_READ_FRESH,
    STORE_READ_LANES,
    STORE_READ_LANE,
    STORE_READ_LIST,
    STORE_READ_HISTORY,
    STORE_READ_RECENT,
    STORE_READ_STATE,
    STORE_READ_VERIFY, /* one step */
};

/* Members named as in queue.h; results belong to the caller, who releases them. */
struct store_read {
    enum store_read_kind kind;
    void (*done)(struct store_read *read); /* on the loop */

    union {
        struct {
            uint64_t id;
            struct queue_mail mail; /* out */
        } mail;
        struct {
            uint64_t id, offset;
            char *buf; /* the caller's, `cap` bytes */
            size_t cap;
            size_t n; /* out; 0 at the end */
        } body;
        struct {
            struct queue_key after; /* in and out */
            size_t max;
            struct queue_page page; /* out */
        } fresh;
        struct {
            bool from_start;
            uint64_t after;              /* in (unless from_start) and out */
            struct queue_lane_row *rows; /* the caller's, room for `max` */
            size_t max;
            size_t n;  /* out */
            bool more; /* out */
        } lanes;
        struct {
            uint64_t lane;
            struct queue_due_key after; /* in and out */
            msec_t until;
            size_t max;
            struct queue_page page; /* out */
        } lane;
        struct {
            struct queue_filter filter;
            struct queue_key after; /* in and out */
            size_t max;
            struct queue_page page; /* out */
        } list;
        struct {
            uint64_t id;
            struct queue_past_key after; /* in and out */
            size_t max;
            struct queue_history history; /* out */
        } history;
        struct {
            struct queue_past_key before; /* in and out */
            msec_t since;
            size_t max;
            struct queue_history history; /* out */
        } recent;
        struct {
            struct span prefix, after;
            size_t max;
            struct queue_facts facts; /* out */
        } state;
        struct {
            struct queue_verify *verify;       /* the caller's */
            struct queue_verify_result result; /* out */
        } verify;
    };

    /* Out. */
    enum err_code code;
    struct err err;
    uint64_t txn_id; /* of the snapshot (all but BODY and VERIFY) */

    /* The store's own. */
    struct inbox_node node;
    struct store *store;
    uint64_t begun_txn;
    struct store_read *prev, *next;
};

/* Start a read on one of the reader threads. Loop's thread. */
void store_read(struct store *store, struct store_read *read);

/*
 * The highest transaction that every read now under way is sure to have seen: what finished in it
 * or before cannot come back in a page, and may be forgotten by the loop.
 */
uint64_t store_read_floor(const struct store *store);

/* --------------------------------------------------------------------------- credits, numbers */

/*
 * Credits bound what is in flight. They are taken when work starts and given back when it is over,
 * so that nothing ever waits in the middle. Loop's thread only.
 */
enum store_pool { STORE_POOL_INTAKE, STORE_POOL_DELIVERY, STORE_POOL_READ, STORE_POOL_ADMIN };
#define STORE_POOLS 4

struct store_credit {
    /* Called from a later store_credit_give() or _limit() when the wait is over; it is taken. */
    void (*granted)(struct store_credit *credit);
    struct store_credit *prev, *next; /* the store's while waiting */
    enum store_pool pool;
    bool waiting;
};

/* Sizes at the start: 4,096 messages coming in, 4,096 deliveries, 256 reads, 16 admin slices. */
void store_credit_limit(struct store *store, enum store_pool pool, size_t limit);
/* One credit, if there is one and nobody waits for it. */
MUST_CHECK bool store_credit_take(struct store *store, enum store_pool pool);
/* One credit now (true) or later, in turn, through `granted` (false). */
MUST_CHECK bool
store_credit_wait(struct store *store, enum store_pool pool, struct store_credit *credit);
/* Stop waiting; fine when it does not wait. */
void store_credit_cancel(struct store *store, struct store_credit *credit);
void store_credit_give(struct store *store, enum store_pool pool);
size_t store_credit_used(const struct store *store, enum store_pool pool);

/* Running numbers, for metrics and status. Loop's thread; never touches the disk. */
struct store_numbers {
    struct queue_stats queue; /* as of the last commit (at first: of the start) */
    uint64_t commits, ops, records, bytes;
    uint64_t full;     /* ops that got ERR_FULL */
    uint64_t stale;    /* changes dropped for their revision */
    uint64_t accepted; /* messages added by ADD and ADD_BIG */
    uint64_t apply_us, sync_us;
    size_t waiting_ops; /* submitted and not yet done */
    size_t waiting_reads;
    size_t blocked; /* outcomes that did not fit even alone, and those that wait behind them */
    bool failed;
};
void store_numbers(const struct store *store, struct store_numbers *ret);
/* Is a delivery among those, or among what is tried alone just now? Each further one would be made
 * twice if the process died now. Any thread; a moment late. */
bool store_delivery_blocked(const struct store *store);
