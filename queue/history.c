/*
 * How: rows lie in the order of their finish times, so trimming takes from the front, and what is
 * recent is read from the back. A message is found by walking.
 */
#include <stdlib.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"

enum err_code
queue_history_trim(struct queue_batch *batch, msec_t before_at, uint64_t max_rows,
                   size_t max_deletes, size_t *ret_deleted, struct err *err)
{
    MDB_stat stat;
    MDB_val k, v;
    size_t n = 0;
    int rc;
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    MDB_cursor *cursor = queue_batch_cursor(batch, TABLE_HISTORY, &rc);
    if (cursor != NULL)
        rc = mdb_stat(batch->txn, batch->queue->dbi[TABLE_HISTORY], &stat);
    while (rc == 0 && n < max_deletes) {
        rc = mdb_cursor_get(cursor, &k, &v, MDB_FIRST);
        if (rc != 0)
            break;
        if (stat.ms_entries - n <= max_rows && k.mv_size == KEY_PAST_BYTES &&
            (msec_t)key_number(k.mv_data, 8) >= before_at)
            break;
        rc = queue_batch_delete_current(batch, TABLE_HISTORY);
        n++;
    }
    if (rc != 0 && rc != MDB_NOTFOUND)
        return queue_batch_fail(batch, rc, "cannot trim history", err);
    if (ret_deleted != NULL)
        *ret_deleted = n;
    return ERR_OK;
}

/* ---------------------------------------------------------------------------------- reading */

struct past_list {
    struct queue_past *rows;
    size_t n, cap, bytes;
};

static void
list_add(struct past_list *list, const struct queue_past *past)
{
    if (list->n == list->cap) {
        list->cap = list->cap == 0 ? 16 : list->cap * 2;
        list->rows = xrealloc(list->rows, list->cap * sizeof(list->rows[0]));
    }
    list->rows[list->n++] = *past;
    list->bytes += sizeof(*past) + past->sender.n + past->address.n + past->detail.n;
}

static void
list_pack(const struct past_list *list, struct queue_history *ret)
{
    ret->n_rows = list->n;
    if (list->n == 0)
        return;
    ret->memory = xmalloc(list->bytes);
    ret->rows = ret->memory;
    memcpy(ret->rows, list->rows, list->n * sizeof(ret->rows[0]));
    char *at = (char *)(ret->rows + list->n);
    for (size_t i = 0; i < list->n; i++) {
        queue_pack_span(&at, &ret->rows[i].sender);
        queue_pack_span(&at, &ret->rows[i].address);
        queue_pack_span(&at, &ret->rows[i].detail);
    }
}

static struct key
start_key(const struct queue_past_key *after)
{
    if (after->finished_at == 0 && after->id == 0 && after->no == 0)
        return key_past(0, 0, 0);
    return after->no == UINT32_MAX ? key_past(after->finished_at, after->id + 1, 0)
                                   : key_past(after->finished_at, after->id, after->no + 1);
}

static struct queue_past_key
place_of(const MDB_val *key)
{
    const char *p = key->mv_data;
    return (struct queue_past_key){(msec_t)key_number(p, 8), key_number(p + 8, 8),
                                   (uint32_t)key_number(p + 16, 4)};
}

/* A row that cannot be read is passed over: `verify` names it. */
static void
list_take(struct past_list *list, const struct queue_past_key *at, const MDB_val *value)
{
    struct record_past r;
    if (record_past_decode(at->finished_at, at->id, at->no, val_span(*value), &r, NULL) == ERR_OK)
        list_add(list, &r.past);
}

static bool
list_full(const struct past_list *list, size_t walked, size_t max)
{
    return walked >= QUEUE_SCAN_ROWS || list->n >= max || list->bytes >= QUEUE_PAGE_BYTES;
}

/* The end of a walk: `rc` is 0 or MDB_NOTFOUND when it went well. */
static enum err_code
list_finish(struct past_list *list, struct queue_reader *reader, int rc,
            struct queue_history *history, struct queue_history *ret, struct err *err)
{
    enum err_code code = ERR_OK;
    if (rc == 0 || rc == MDB_NOTFOUND) {
        list_pack(list, history);
        *ret = *history;
    } else {
        code = queue_lmdb_err(reader->queue, rc, "cannot read history", err);
    }
    free(list->rows);
    return code;
}

enum err_code
queue_read_history(struct queue_reader *reader, uint64_t id, struct queue_past_key *after,
                   size_t max, struct queue_history *ret_history, struct err *err)
{
    struct queue_history history = {.txn_id = 0};
    enum err_code code = queue_reader_begin(reader, &history.txn_id, err);
    if (code != ERR_OK)
        return code;
    CLEANUP(queue_reader_endp) struct queue_reader *end = reader;
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    struct past_list list = {.n = 0};
    struct key key = start_key(after);
    MDB_val k = key_val(&key), v;
    int rc = mdb_cursor_open(end->txn, reader->queue->dbi[TABLE_HISTORY], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    for (size_t walked = 0; rc == 0; rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT), walked++) {
        if (list_full(&list, walked, max)) {
            history.more = true;
            break;
        }
        if (k.mv_size != KEY_PAST_BYTES)
            continue;
        *after = place_of(&k);
        if (id == 0 || after->id == id)
            list_take(&list, after, &v);
    }
    return list_finish(&list, reader, rc, &history, ret_history, err);
}

/* To the newest row before `before`. */
static int
seek_before(MDB_cursor *cursor, const struct queue_past_key *before, MDB_val *k, MDB_val *v)
{
    struct key key = key_past(before->finished_at, before->id, before->no);
    *k = key_val(&key);
    if (before->finished_at == 0 && before->id == 0 && before->no == 0)
        return mdb_cursor_get(cursor, k, v, MDB_LAST);
    int rc = mdb_cursor_get(cursor, k, v, MDB_SET_RANGE);
    return mdb_cursor_get(cursor, k, v, rc == MDB_NOTFOUND ? MDB_LAST : MDB_PREV);
}

enum err_code
queue_read_recent(struct queue_reader *reader, struct queue_past_key *before, msec_t since,
                  size_t max, struct queue_history *ret_history, struct err *err)
{
    struct queue_history history = {.txn_id = 0};
    enum err_code code = queue_reader_begin(reader, &history.txn_id, err);
    if (code != ERR_OK)
        return code;
    CLEANUP(queue_reader_endp) struct queue_reader *end = reader;
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    struct past_list list = {.n = 0};
    MDB_val k, v;
    int rc = mdb_cursor_open(end->txn, reader->queue->dbi[TABLE_HISTORY], &cursor);
    if (rc == 0)
        rc = seek_before(cursor, before, &k, &v);
    for (size_t walked = 0; rc == 0; rc = mdb_cursor_get(cursor, &k, &v, MDB_PREV), walked++) {
        if (k.mv_size != KEY_PAST_BYTES)
            continue;
        struct queue_past_key at = place_of(&k);
        if (at.finished_at < since)
            break;
        if (list_full(&list, walked, max)) {
            history.more = true;
            break;
        }
        *before = at;
        list_take(&list, before, &v);
    }
    return list_finish(&list, reader, rc, &history, ret_history, err);
}

void
queue_history_release(struct queue_history *history)
{
    free(history->memory);
    history->memory = history->rows = NULL;
    history->n_rows = 0;
}
