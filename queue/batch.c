/*
 * How: one LMDB write transaction with one cursor a table. A put into a table whose keys ascend
 * uses MDB_APPEND while the key lies behind the last one (full leaves, no search), and an ordinary
 * put otherwise, because ids commit out of order. Values are reserved in the page and written
 * there.
 *
 *   begin --> open --> commit -> gone
 *               |  \-> abort --> gone
 *               v
 *             dead (a call failed for good) --> abort, or commit, which aborts and tells why
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"

#define ROOM_PERCENT 90    /* of the quota: the rest is for outcomes and notices */
#define FILE_SPARE_SHARE 8 /* of what is used, left free in the file for outcomes */
#define FILE_SPARE_BYTES (1u << 20)
#define DISK_SHORT_BYTES (16u << 20) /* below it a short write is the disk's, not a fault */

/* ------------------------------------------------------------------------------------ disk */

uint64_t
queue_disk_free(const struct queue *queue)
{
    struct statvfs fs;
    if (statvfs(queue->path, &fs) != 0)
        return UINT64_MAX;
    return (uint64_t)fs.f_bavail * fs.f_frsize;
}

bool
queue_disk_full(const struct queue *queue, size_t bytes)
{
    if (queue_disk_free(queue) < DISK_SHORT_BYTES + bytes)
        return true;
    /* Quotas of users and projects do not show in statvfs: ask for the space. */
    int fd = open(queue->path, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno == ENOSPC || errno == EDQUOT;
    bool full =
        fallocate(fd, 0, 0, (off_t)bytes + (1 << 20)) != 0 && (errno == ENOSPC || errno == EDQUOT);
    close(fd);
    return full;
}

/*
 * The file never shrinks: after a backlog has drained the disk looks as full as before, but pages
 * in the file are free, and mail that fits into those takes nothing from the disk.
 */
static bool
room_in_file(const struct queue_batch *batch, uint64_t bytes)
{
    struct queue *queue = batch->queue;
    uint64_t used = queue_used_bytes(queue, batch->txn);
    struct stat st;
    int fd;
    if (mdb_env_get_fd(queue->env, &fd) != 0 || fstat(fd, &st) != 0)
        return false;
    /* Some of it stays for outcomes, and for pages that are free but not next to each other. */
    return used + used / FILE_SPARE_SHARE + FILE_SPARE_BYTES + bytes <= (uint64_t)st.st_size;
}

bool
queue_batch_room(struct queue_batch *batch, uint64_t bytes, struct err *err)
{
    struct queue *queue = batch->queue;
    uint64_t quota = atomic_load_explicit(&queue->max_bytes, memory_order_relaxed);
    uint64_t min_free = atomic_load_explicit(&queue->min_free_bytes, memory_order_relaxed);
    if (queue_used_bytes(queue, batch->txn) + bytes > quota / 100 * ROOM_PERCENT) {
        err_set(err, ERR_FULL, "the queue has reached %d %% of max_size", ROOM_PERCENT);
        return false;
    }
    if (batch->room < 0)
        batch->room = queue_disk_free(queue) >= min_free;
    if (batch->room == 0 && !room_in_file(batch, bytes)) {
        err_set(err, ERR_FULL, "less than min_free is left on the disk of the queue");
        return false;
    }
    return true;
}

/* ---------------------------------------------------------------------------------- errors */

enum err_code
queue_batch_fail(struct queue_batch *batch, int rc, const char *what, struct err *err)
{
    enum err_code code = queue_lmdb_err(batch->queue, rc, what, err);
    if (code != ERR_FULL)
        code = ERR_IO; /* whatever it is, this transaction cannot be trusted */
    if (err != NULL)
        err->code = code;
    batch->dead = code;
    return code;
}

enum err_code
queue_batch_dead_err(const struct queue_batch *batch, struct err *err)
{
    return err_set(err, batch->dead, "queue %s: an earlier change of this batch failed",
                   batch->queue->path);
}

/* ---------------------------------------------------------------------- begin, commit, abort */

enum err_code
queue_begin(struct queue *queue, struct queue_batch **ret_batch, struct err *err)
{
    assert(!queue->read_only);
    struct queue_batch *batch = xcalloc(1, sizeof(*batch));
    batch->queue = queue;
    batch->room = -1;
    int rc = mdb_txn_begin(queue->env, NULL, 0, &batch->txn);
    if (rc != 0) {
        free(batch);
        queue_lmdb_err(queue, rc, "cannot begin a transaction", err);
        if (err != NULL)
            err->code = ERR_IO;
        return ERR_IO;
    }
    *ret_batch = batch;
    return ERR_OK;
}

static void
batch_free(struct queue_batch *batch)
{
    strbuf_release(&batch->scratch);
    free(batch);
}

void
queue_abort(struct queue_batch *batch)
{
    if (batch == NULL)
        return;
    mdb_txn_abort(batch->txn);
    batch_free(batch);
}

/* The last id given out goes along with whatever is committed. */
static int
last_id_keep(struct queue_batch *batch, uint64_t last)
{
    unsigned char b[8];
    MDB_val key = {sizeof(META_LAST_ID) - 1, META_LAST_ID}, value = {sizeof(b), b};
    for (size_t i = 0; i < sizeof(b); i++)
        b[i] = (unsigned char)(last >> (8 * i));
    return mdb_put(batch->txn, batch->queue->dbi[TABLE_META], &key, &value, 0);
}

enum err_code
queue_commit(struct queue_batch *batch, uint64_t *ret_txn_id, struct err *err)
{
    struct queue *queue = batch->queue;
    uint64_t last = atomic_load_explicit(&queue->last_id, memory_order_relaxed);
    size_t bytes = batch->bytes;
    if (batch->dead != ERR_OK) {
        enum err_code code = queue_batch_dead_err(batch, err);
        queue_abort(batch);
        return code;
    }
    if (batch->ops == 0) {
        /* LMDB would not commit either, and would give its number to the next transaction. */
        *ret_txn_id = mdb_txn_id(batch->txn) - 1;
        queue_abort(batch);
        return ERR_OK;
    }
    if (last != queue->saved_id) {
        int rc = last_id_keep(batch, last);
        if (rc != 0) {
            enum err_code code = queue_batch_fail(batch, rc, "cannot note the last id", err);
            queue_abort(batch);
            return code;
        }
    }
    uint64_t txn_id = mdb_txn_id(batch->txn);
    int rc = mdb_txn_commit(batch->txn);
    batch_free(batch);
    if (rc == 0) {
        queue->saved_id = last;
        *ret_txn_id = txn_id;
        return ERR_OK;
    }
    enum err_code code = queue_lmdb_err(queue, rc, "cannot commit", err);
    if (code != ERR_FULL)
        code = rc == EIO && queue_disk_full(queue, bytes) ? ERR_FULL : ERR_IO;
    if (err != NULL)
        err->code = code;
    return code;
}

bool
queue_batch_dead(const struct queue_batch *batch)
{
    return batch->dead != ERR_OK;
}

size_t
queue_batch_ops(const struct queue_batch *batch)
{
    return batch->ops;
}

size_t
queue_batch_bytes(const struct queue_batch *batch)
{
    return batch->bytes;
}

/* ------------------------------------------------------------------------------------ rows */

MDB_cursor *
queue_batch_cursor(struct queue_batch *batch, enum table table, int *ret_rc)
{
    *ret_rc = 0;
    if (batch->cursors[table] == NULL)
        *ret_rc = mdb_cursor_open(batch->txn, batch->queue->dbi[table], &batch->cursors[table]);
    return *ret_rc == 0 ? batch->cursors[table] : NULL;
}

int
queue_batch_get(struct queue_batch *batch, enum table table, struct span key,
                struct span *ret_value)
{
    int rc;
    MDB_val k = span_val(key), v;
    MDB_cursor *cursor = queue_batch_cursor(batch, table, &rc);
    if (cursor == NULL || (rc = mdb_cursor_get(cursor, &k, &v, MDB_SET)) != 0)
        return rc;
    *ret_value = val_span(v);
    return 0;
}

/* May the key be appended? Learns the table's last key at the first question. */
static bool
is_behind_last(struct queue_batch *batch, enum table table, MDB_cursor *cursor,
               const struct key *key)
{
    struct key *last = &batch->last[table];
    if (!batch->last_known[table]) {
        MDB_val k, v;
        int rc = mdb_cursor_get(cursor, &k, &v, MDB_LAST);
        if (rc == 0 && k.mv_size <= sizeof(last->b)) {
            memcpy(last->b, k.mv_data, k.mv_size);
            last->n = k.mv_size;
        } else if (rc != MDB_NOTFOUND) {
            return false;
        }
        batch->last_known[table] = true;
    }
    if (span_cmp(span_of(key->b, key->n), span_of(last->b, last->n)) <= 0)
        return false;
    *last = *key;
    return true;
}

int
queue_batch_put(struct queue_batch *batch, enum table table, const struct key *key, size_t bytes,
                bool replace, void **ret_to)
{
    int rc;
    MDB_val k = key_val(key), v = {bytes, NULL};
    MDB_cursor *cursor = queue_batch_cursor(batch, table, &rc);
    if (cursor == NULL)
        return rc;
    unsigned flags = MDB_RESERVE | (replace ? 0 : MDB_NOOVERWRITE);
    if (!replace && table != TABLE_SCHEDULE && is_behind_last(batch, table, cursor, key))
        flags = MDB_RESERVE | MDB_APPEND;
    rc = mdb_cursor_put(cursor, &k, &v, flags);
    if (rc != 0)
        return rc;
    *ret_to = v.mv_data;
    batch->ops++;
    batch->bytes += key->n + bytes;
    return 0;
}

int
queue_batch_delete_current(struct queue_batch *batch, enum table table)
{
    batch->ops++;
    return mdb_cursor_del(batch->cursors[table], 0);
}

int
queue_batch_delete(struct queue_batch *batch, enum table table, struct span key)
{
    struct span ignored;
    int rc = queue_batch_get(batch, table, key, &ignored);
    return rc == 0 ? queue_batch_delete_current(batch, table) : rc;
}

/* Stand on the first row that starts with the id; MDB_NOTFOUND when there is none. */
static int
seek_id(struct queue_batch *batch, enum table table, uint64_t id)
{
    int rc;
    struct key key = key_id(id);
    MDB_val k = key_val(&key), v;
    MDB_cursor *cursor = queue_batch_cursor(batch, table, &rc);
    if (cursor == NULL || (rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE)) != 0)
        return rc;
    return k.mv_size >= KEY_ID_BYTES && key_number(k.mv_data, 8) == id ? 0 : MDB_NOTFOUND;
}

int
queue_batch_whole_id(struct queue_batch *batch, enum table table, uint64_t id, bool *ret)
{
    MDB_val k, v;
    *ret = true;
    int rc = seek_id(batch, table, id);
    MDB_cursor *cursor = batch->cursors[table];
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &k, &v, MDB_GET_CURRENT);
    for (; rc == 0 && *ret && k.mv_size >= KEY_ID_BYTES && key_number(k.mv_data, 8) == id;
         rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT))
        *ret = queue_value_whole(batch->queue, k, v);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

int
queue_batch_delete_id(struct queue_batch *batch, enum table table, uint64_t id, size_t *ret_n)
{
    int rc;
    *ret_n = 0;
    while ((rc = seek_id(batch, table, id)) == 0) {
        if ((rc = queue_batch_delete_current(batch, table)) != 0)
            return rc;
        ++*ret_n;
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

int
queue_batch_has_id(struct queue_batch *batch, enum table table, uint64_t id, bool *ret)
{
    int rc = seek_id(batch, table, id);
    *ret = rc == 0;
    return rc == MDB_NOTFOUND ? 0 : rc;
}
