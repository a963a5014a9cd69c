/*
 * queue_impl - what the files of queue/ share: tables, keys, the open environment, one transaction.
 */
#pragma once

#include <lmdb.h>
#include <stdatomic.h>
#include <string.h>

#include "policy/base/map.h"
#include "queue/queue.h"
#include "queue/record.h"

enum table {
    TABLE_META,
    TABLE_MESSAGE,
    TABLE_BODY,
    TABLE_INCOMING,
    TABLE_RECIPIENT,
    TABLE_FRESH,
    TABLE_SCHEDULE,
    TABLE_STATE,
    TABLE_HISTORY,
    TABLES,
};
extern const char *const queue_table_names[TABLES];

#define META_FORMAT "format"      /* u32, little-endian */
#define META_NODE "node"          /* text */
#define META_LAST_ID "last_id"    /* u64, little-endian */
#define META_LANE_SECRET "secret" /* 16 bytes */

#define QUEUE_DATA_FILE "data.mdb"
#define QUEUE_LOCK_FILE "relayd.lock" /* flocked; its text says that the queue was made */

/* A body goes into the message record while head and body fill at most four pages of LMDB. */
#define QUEUE_INLINE_BYTES (4 * 4096 - 16)

struct queue {
    MDB_env *env;
    MDB_dbi dbi[TABLES];
    char *path;
    int lock_fd;
    bool read_only;
    size_t page_bytes;
    uint64_t map_bytes;
    _Atomic uint64_t max_bytes;
    _Atomic uint64_t min_free_bytes;
    _Atomic uint64_t last_id;
    uint64_t saved_id; /* last_id as of the last commit; writer only */
    struct map_seed lane_seed;
    char *map; /* where the data file is mapped, for queue_map_trim(); NULL when not known */
    size_t map_seen_bytes;
};

struct queue_batch {
    struct queue *queue;
    MDB_txn *txn;
    MDB_cursor *cursors[TABLES]; /* opened at first use, closed by LMDB with the transaction */
    struct key {
        unsigned char b[28];
        size_t n;
    } last[TABLES]; /* the highest key, for MDB_APPEND; n is 0 when the table was empty */
    bool last_known[TABLES];
    enum err_code dead;
    size_t ops, bytes;
    struct strbuf scratch; /* the record being rewritten: LMDB reuses the page it lies in */
    int room;              /* -1 not asked yet, 0 the disk is short, 1 there is space */
};

struct queue_reader {
    struct queue *queue;
    MDB_txn *txn;           /* reset between calls */
    struct queue_row *rows; /* scratch of pages, reused */
    size_t rows_cap;
};

/* ------------------------------------------------------------------------------------ keys */

/* Big-endian, so that LMDB's memcmp order is the order of numbers. */
static inline void
key_add(struct key *k, uint64_t v, size_t width)
{
    for (size_t i = 0; i < width; i++)
        k->b[k->n + i] = (unsigned char)(v >> (8 * (width - 1 - i)));
    k->n += width;
}

static inline uint64_t
key_number(const void *p, size_t width)
{
    const unsigned char *b = p;
    uint64_t v = 0;
    for (size_t i = 0; i < width; i++)
        v = v << 8 | b[i];
    return v;
}

static inline struct key
key_id(uint64_t id)
{
    struct key k = {.n = 0};
    key_add(&k, id, 8);
    return k;
}

/* recipient and fresh: (id, number); body: (id, chunk) */
static inline struct key
key_id_no(uint64_t id, uint32_t no)
{
    struct key k = key_id(id);
    key_add(&k, no, 4);
    return k;
}

static inline struct key
key_schedule(uint64_t lane, msec_t due_at, uint64_t id, uint32_t no)
{
    struct key k = key_id(lane);
    key_add(&k, (uint64_t)due_at, 8);
    key_add(&k, id, 8);
    key_add(&k, no, 4);
    return k;
}

static inline struct key
key_past(msec_t finished_at, uint64_t id, uint32_t no)
{
    struct key k = key_id((uint64_t)finished_at);
    key_add(&k, id, 8);
    key_add(&k, no, 4);
    return k;
}

#define KEY_ID_BYTES 8
#define KEY_ID_NO_BYTES 12
#define KEY_PAST_BYTES 20
#define KEY_SCHEDULE_BYTES 28

static inline MDB_val
key_val(const struct key *k)
{
    return (MDB_val){k->n, (void *)k->b};
}

static inline struct span
val_span(MDB_val v)
{
    return span_of(v.mv_data, v.mv_size);
}

static inline MDB_val
span_val(struct span s)
{
    return (MDB_val){s.n, (void *)s.p};
}

/* The (id, number) after which a walk goes on: the next possible key. */
static inline struct key
key_after(struct queue_key after)
{
    if (after.no == UINT32_MAX)
        return key_id_no(after.id + 1, 0);
    return after.id == 0 ? key_id_no(0, 0) : key_id_no(after.id, after.no + 1);
}

/* ---------------------------------------------------------------------------------- errors */

/* What LMDB's or the system's `rc` means to a caller, with "PATH: what: why" as text. */
enum err_code queue_lmdb_err(const struct queue *queue, int rc, const char *what, struct err *err);

/* In a batch: also marks it dead. `rc` is not MDB_NOTFOUND or MDB_KEYEXIST. */
enum err_code
queue_batch_fail(struct queue_batch *batch, int rc, const char *what, struct err *err);

/* "the queue's batch is dead" for calls that come after. */
enum err_code queue_batch_dead_err(const struct queue_batch *batch, struct err *err);

/* The disk under the queue has no room for `bytes` more (space, quota of the user). */
bool queue_disk_full(const struct queue *queue, size_t bytes);

/* ------------------------------------------------------------------------------ the parts */

/* Directory and lock file (lock.c). */
enum err_code queue_lock(struct queue *queue, bool create, struct queue_info *info,
                         bool *ret_made_before, struct err *err);
enum err_code queue_lock_mark(struct queue *queue, struct err *err);

/* Make the data file of a new queue, whole or not at all (create.c). The lock file is held. */
enum err_code queue_create(struct queue *queue, struct err *err);

/* Remember where the data file is mapped (map.c). */
void queue_map_find(struct queue *queue);

/* Is the data file as long as its tables need? (check.c) */
enum err_code queue_length_check(struct queue *queue, struct err *err);

/* Deletes half received bodies (incoming.c). */
enum err_code queue_incoming_sweep(struct queue *queue, uint64_t *ret_n, struct err *err);

/* Row operations of a batch (batch.c). */
MDB_cursor *queue_batch_cursor(struct queue_batch *batch, enum table table, int *ret_rc);
/* Position on the key; rc of LMDB (MDB_NOTFOUND). */
int queue_batch_get(struct queue_batch *batch, enum table table, struct span key,
                    struct span *ret_value);
/* Reserve `bytes` for a new (or, with `replace`, any) row. MDB_KEYEXIST when it is there. */
int queue_batch_put(struct queue_batch *batch, enum table table, const struct key *key,
                    size_t bytes, bool replace, void **ret_to);
/* Delete; MDB_NOTFOUND when there is none. */
int queue_batch_delete(struct queue_batch *batch, enum table table, struct span key);
/* Delete the row on which queue_batch_get() stands. */
int queue_batch_delete_current(struct queue_batch *batch, enum table table);
/* Are the values of all rows whose key starts with the id whole (queue_value_whole)? */
int queue_batch_whole_id(struct queue_batch *batch, enum table table, uint64_t id, bool *ret);
/* Delete all rows whose key starts with the id; counts them. */
int queue_batch_delete_id(struct queue_batch *batch, enum table table, uint64_t id, size_t *ret_n);
/* Does a row start with this id? */
int queue_batch_has_id(struct queue_batch *batch, enum table table, uint64_t id, bool *ret);
/* Room for `bytes` of new mail by quota and disk? */
bool queue_batch_room(struct queue_batch *batch, uint64_t bytes, struct err *err);

/* The message row and its recipients, body aside (add.c). */
enum err_code queue_add_rows(struct queue_batch *batch, const struct record_msg *r,
                             const struct queue_rcpt *rcpts, size_t n_rcpts,
                             const struct span *body, size_t n_body, struct err *err);
/* Body chunks from offset on (add.c). */
enum err_code queue_add_chunks(struct queue_batch *batch, uint64_t id, uint32_t chunk,
                               const struct span *body, size_t n_body, struct err *err);

/* Pages in use by tables and free list in this transaction (stats.c). */
uint64_t queue_used_bytes(struct queue *queue, MDB_txn *txn);
void queue_stats_fill(struct queue *queue, MDB_txn *txn, struct queue_stats *ret);
uint64_t queue_disk_free(const struct queue *queue);

/* One snapshot (reader.c): begin, then end on every path. */
enum err_code
queue_reader_begin(struct queue_reader *reader, uint64_t *ret_txn_id, struct err *err);
void queue_reader_end(struct queue_reader *reader);
void queue_reader_endp(struct queue_reader **reader); /* for CLEANUP */
void queue_cursor_closep(MDB_cursor **cursor);        /* for CLEANUP */

/* May a value of message or body be read and deleted? Its pages tell what LMDB believes
 * (structure.h). */
bool queue_value_whole(const struct queue *queue, MDB_val key, MDB_val value);

/* Decode the message or recipient under this key; ERR_NOT_FOUND, ERR_CORRUPT, ERR_IO. */
enum err_code queue_msg_get(struct queue *queue, MDB_txn *txn, uint64_t id, struct record_msg *ret,
                            struct err *err);
enum err_code queue_rcpt_get(struct queue *queue, MDB_txn *txn, uint64_t id, uint32_t no,
                             struct record_rcpt *ret, struct err *err);

/* Matching, shared by list and verbs (list.c). */
struct matcher {
    struct queue *queue;
    MDB_txn *txn;
    const struct queue_filter *filter;
    bool holds;      /* there are domain holds at all */
    uint64_t msg_id; /* whose record is in `msg`, 0 for none */
    struct record_msg msg;
    enum err_code msg_code;
};
void queue_matcher_init(struct matcher *m, struct queue *queue, MDB_txn *txn,
                        const struct queue_filter *filter);
bool queue_matcher_domain_held(struct matcher *m, struct span domain);
/* The message of this id, read once for its recipients; NULL when it cannot be read. */
const struct queue_msg *queue_matcher_msg(struct matcher *m, uint64_t id);
bool queue_matcher_match(struct matcher *m, const struct queue_rcpt *rcpt, bool *ret_domain_held);

/* Pages under construction (page.c): rows point into the map until the page is packed. */
struct page_builder {
    struct queue_reader *reader;
    struct matcher matcher;
    size_t n, bytes, max;
    uint32_t n_bad;
    struct queue_key bad;
};
void queue_page_start(struct page_builder *b, struct queue_reader *reader, size_t max,
                      const struct queue_filter *filter);
bool queue_page_full(const struct page_builder *b);
/* Add the recipient with its message's facts; counts it as bad when the message cannot be read. */
void queue_page_add(struct page_builder *b, const struct queue_rcpt *rcpt, bool domain_held);
void queue_page_bad(struct page_builder *b, uint64_t id, uint32_t no);
void queue_page_pack(struct page_builder *b, struct queue_page *ret);
/* Copy a span's bytes to *at and move both. */
void queue_pack_span(char **at, struct span *s);
