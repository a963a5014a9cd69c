/*
 * How: a big body is stored while it is received, chunk by chunk, under the id that its message
 * will have; a row in `incoming` says that the message is not there yet. The end of the message
 * removes that row in the transaction that adds the message, so after a crash the row tells which
 * chunks belong to nobody.
 *
 *   nothing --chunk at 0--> incoming --finish--> message
 *                              |  ^chunk
 *                              `--drop, or the next start--> nothing
 */
#include <assert.h>

#include "queue/queue_impl.h"

#define SWEEP_OPS 4000 /* rows a transaction deletes at a start */

enum err_code
queue_incoming_chunk(struct queue_batch *batch, uint64_t id, uint64_t offset,
                     const struct span *bytes, size_t n_bytes, struct err *err)
{
    struct key key = key_id(id);
    struct span row;
    void *to;
    size_t total = 0;
    int rc;
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    if (id == 0 || offset % QUEUE_CHUNK_BYTES != 0 || offset / QUEUE_CHUNK_BYTES > UINT32_MAX / 2)
        return err_set(err, ERR_INVAL, "a part of a body at offset %llu",
                       (unsigned long long)offset);
    for (size_t i = 0; i < n_bytes; i++)
        total += bytes[i].n;
    if (!queue_batch_room(batch, total, err))
        return ERR_FULL;
    rc = queue_batch_get(batch, TABLE_INCOMING, span_of(key.b, key.n), &row);
    if (rc == MDB_NOTFOUND && offset != 0)
        return err_set(err, ERR_NOT_FOUND, "no body is being received under this id");
    if (rc == 0 && offset == 0)
        return err_set(err, ERR_EXISTS, "a body is already being received under this id");
    if (rc == MDB_NOTFOUND)
        rc = queue_batch_put(batch, TABLE_INCOMING, &key, 0, false, &to);
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot note a body being received", err);
    return queue_add_chunks(batch, id, (uint32_t)(offset / QUEUE_CHUNK_BYTES), bytes, n_bytes, err);
}

/* Do the stored chunks end exactly at `body_bytes`? */
static enum err_code
length_check(struct queue_batch *batch, uint64_t id, uint64_t body_bytes, struct err *err)
{
    uint32_t n = (uint32_t)((body_bytes + QUEUE_CHUNK_BYTES - 1) / QUEUE_CHUNK_BYTES);
    struct key beyond = key_id_no(id, n), last = key_id_no(id, n - 1);
    struct span row = SPAN_NONE;
    int rc = queue_batch_get(batch, TABLE_BODY, span_of(beyond.b, beyond.n), &row);
    bool good = rc == MDB_NOTFOUND;
    if (rc == MDB_NOTFOUND && n > 0) {
        rc = queue_batch_get(batch, TABLE_BODY, span_of(last.b, last.n), &row);
        good = rc == 0 &&
               (uint64_t)(n - 1) * QUEUE_CHUNK_BYTES + row.n - RECORD_SUM_BYTES == body_bytes;
    }
    if (rc != 0 && rc != MDB_NOTFOUND)
        return queue_batch_fail(batch, rc, "cannot read a body", err);
    if (!good)
        return err_set(err, ERR_INVAL, "the stored parts of the body are not %llu bytes",
                       (unsigned long long)body_bytes);
    return ERR_OK;
}

enum err_code
queue_incoming_finish(struct queue_batch *batch, const struct queue_msg *msg,
                      const struct queue_rcpt *rcpts, size_t n_rcpts, struct err *err)
{
    struct key key = key_id(msg->id);
    struct span row;
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    enum err_code code = queue_msg_check(msg, rcpts, n_rcpts, err);
    if (code != ERR_OK)
        return code;
    int rc = queue_batch_get(batch, TABLE_INCOMING, span_of(key.b, key.n), &row);
    if (rc == MDB_NOTFOUND)
        return err_set(err, ERR_NOT_FOUND, "no body is being received under this id");
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot read", err);
    code = length_check(batch, msg->id, msg->body_bytes, err);
    if (code != ERR_OK)
        return code;
    struct record_msg r = {.msg = *msg};
    r.msg.flags |= QUEUE_MSG_CHUNKED;
    code = queue_add_rows(batch, &r, rcpts, n_rcpts, NULL, 0, err);
    if (code != ERR_OK)
        return code;
    rc = queue_batch_delete(batch, TABLE_INCOMING, span_of(key.b, key.n));
    return rc == 0 ? ERR_OK : queue_batch_fail(batch, rc, "cannot finish a body", err);
}

enum err_code
queue_incoming_drop(struct queue_batch *batch, uint64_t id, struct err *err)
{
    struct key key = key_id(id);
    size_t n;
    bool whole = true, owned = false;
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    int rc = queue_batch_delete(batch, TABLE_INCOMING, span_of(key.b, key.n));
    if (rc == MDB_NOTFOUND)
        return err_set(err, ERR_NOT_FOUND, "no body is being received under this id");
    /* A damaged row may name a message that is there, and damaged pages those of others: such
     * chunks stay, and verify names them. */
    if (rc == 0)
        rc = queue_batch_has_id(batch, TABLE_MESSAGE, id, &owned);
    if (rc == 0)
        rc = queue_batch_whole_id(batch, TABLE_BODY, id, &whole);
    if (rc == 0 && whole && !owned)
        rc = queue_batch_delete_id(batch, TABLE_BODY, id, &n);
    return rc == 0 ? ERR_OK : queue_batch_fail(batch, rc, "cannot drop a body", err);
}

/* ----------------------------------------------------------------------------------- sweep */

/* Deletes some; *ret_more tells whether others are left. */
static enum err_code
sweep_some(struct queue_batch *batch, uint64_t *n, bool *ret_more, struct err *err)
{
    int rc;
    MDB_val key, value;
    while (queue_batch_ops(batch) < SWEEP_OPS) {
        MDB_cursor *cursor = queue_batch_cursor(batch, TABLE_INCOMING, &rc);
        if (cursor != NULL)
            rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
        if (rc == MDB_NOTFOUND) {
            *ret_more = false;
            return ERR_OK;
        }
        if (rc != 0 || key.mv_size != KEY_ID_BYTES)
            return queue_batch_fail(batch, rc == 0 ? MDB_CORRUPTED : rc, "cannot sweep", err);
        enum err_code code = queue_incoming_drop(batch, key_number(key.mv_data, 8), err);
        if (code != ERR_OK)
            return code;
        ++*n;
    }
    *ret_more = true;
    return ERR_OK;
}

enum err_code
queue_incoming_sweep(struct queue *queue, uint64_t *ret_n, struct err *err)
{
    bool more = true;
    *ret_n = 0;
    while (more) {
        struct queue_batch *batch;
        uint64_t n = 0, txn_id;
        enum err_code code = queue_begin(queue, &batch, err);
        if (code != ERR_OK)
            return code;
        code = sweep_some(batch, &n, &more, err);
        if (code != ERR_OK || n == 0) {
            queue_abort(batch);
            return code;
        }
        code = queue_commit(batch, &txn_id, err);
        if (code != ERR_OK)
            return code;
        *ret_n += n;
    }
    return ERR_OK;
}
