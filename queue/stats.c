/*
 * How: LMDB keeps entries and pages of each table in its root record, so the numbers of waiting
 * recipients and the pages in use cost a few loads; nothing is counted by us. Pages in the free
 * list and pages that wait for old readers are not in use.
 */
#include <sys/stat.h>

#include "queue/queue_impl.h"

#define LMDB_TABLES 2 /* its free list and its list of tables */

static uint64_t
pages_of(MDB_txn *txn, MDB_dbi dbi)
{
    MDB_stat s;
    if (mdb_stat(txn, dbi, &s) != 0)
        return 0;
    return s.ms_branch_pages + s.ms_leaf_pages + s.ms_overflow_pages;
}

uint64_t
queue_used_bytes(struct queue *queue, MDB_txn *txn)
{
    uint64_t pages = 2; /* the meta pages */
    for (MDB_dbi dbi = 0; dbi < LMDB_TABLES; dbi++)
        pages += pages_of(txn, dbi);
    for (enum table t = 0; t < TABLES; t++)
        pages += pages_of(txn, queue->dbi[t]);
    return pages * queue->page_bytes;
}

static uint64_t
entries_of(struct queue *queue, MDB_txn *txn, enum table table)
{
    MDB_stat s;
    return mdb_stat(txn, queue->dbi[table], &s) == 0 ? s.ms_entries : 0;
}

/* The lowest id is the oldest one's, but the moment in it may be ahead of any clock. */
static msec_t
oldest_at(struct queue *queue, MDB_txn *txn)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    struct record_msg m;
    uint64_t id = 0;
    if (mdb_cursor_open(txn, queue->dbi[TABLE_MESSAGE], &cursor) != 0)
        return 0;
    if (mdb_cursor_get(cursor, &key, &value, MDB_FIRST) == 0 && key.mv_size == KEY_ID_BYTES)
        id = key_number(key.mv_data, 8);
    mdb_cursor_close(cursor);
    if (id == 0)
        return 0;
    return queue_msg_get(queue, txn, id, &m, NULL) == ERR_OK ? m.msg.arrived_at
                                                             : queue_id_moment(id);
}

void
queue_stats_fill(struct queue *queue, MDB_txn *txn, struct queue_stats *ret)
{
    int fd;
    struct stat st;
    *ret = (struct queue_stats){.txn_id = mdb_txn_id(txn)};
    ret->messages = entries_of(queue, txn, TABLE_MESSAGE);
    ret->recipients = entries_of(queue, txn, TABLE_RECIPIENT);
    ret->fresh = entries_of(queue, txn, TABLE_FRESH);
    ret->scheduled = entries_of(queue, txn, TABLE_SCHEDULE);
    uint64_t indexed = ret->fresh + ret->scheduled;
    ret->held = ret->recipients > indexed ? ret->recipients - indexed : 0;
    ret->incoming = entries_of(queue, txn, TABLE_INCOMING);
    ret->history = entries_of(queue, txn, TABLE_HISTORY);
    ret->state = entries_of(queue, txn, TABLE_STATE);
    ret->used_bytes = queue_used_bytes(queue, txn);
    if (mdb_env_get_fd(queue->env, &fd) == 0 && fstat(fd, &st) == 0)
        ret->file_bytes = (uint64_t)st.st_size;
    ret->quota_bytes = atomic_load_explicit(&queue->max_bytes, memory_order_relaxed);
    ret->min_free_bytes = atomic_load_explicit(&queue->min_free_bytes, memory_order_relaxed);
    ret->disk_free_bytes = queue_disk_free(queue);
    ret->oldest_at = oldest_at(queue, txn);
}

enum err_code
queue_read_stats(struct queue_reader *reader, struct queue_stats *ret, struct err *err)
{
    uint64_t txn_id;
    enum err_code code = queue_reader_begin(reader, &txn_id, err);
    if (code != ERR_OK)
        return code;
    queue_stats_fill(reader->queue, reader->txn, ret);
    queue_reader_end(reader);
    return ERR_OK;
}

void
queue_batch_stats(struct queue_batch *batch, struct queue_stats *ret)
{
    queue_stats_fill(batch->queue, batch->txn, ret);
}
