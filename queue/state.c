/*
 * How: small facts of policy under readable keys ("space:name"). Keys have different lengths, so
 * they are never appended; a value that a newer program extended keeps its extra fields.
 */
#include <stdlib.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"

static enum err_code
key_check(struct span key, struct err *err)
{
    if (key.n == 0 || key.n > QUEUE_STATE_KEY_MAX)
        return err_set(err, ERR_INVAL, "a state key of %zu bytes: 1 to %d are allowed", key.n,
                       QUEUE_STATE_KEY_MAX);
    return ERR_OK;
}

enum err_code
queue_state_put(struct queue_batch *batch, struct span key, struct span value, struct err *err)
{
    struct record_fact old, r = {.value = value};
    struct span row;
    int rc;
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    enum err_code code = key_check(key, err);
    if (code != ERR_OK)
        return code;
    if (value.n > QUEUE_STATE_VALUE_MAX)
        return err_set(err, ERR_LIMIT, "a state value of %zu bytes: %d are allowed", value.n,
                       QUEUE_STATE_VALUE_MAX);
    rc = queue_batch_get(batch, TABLE_STATE, key, &row);
    if (rc == 0 && record_fact_decode(key, row, &old, NULL) == ERR_OK && old.unknown.n > 0) {
        strbuf_reset(&batch->scratch); /* the page under it is about to change */
        strbuf_add_span(&batch->scratch, old.unknown);
        r.version = old.version;
        r.unknown = strbuf_span(&batch->scratch);
    }
    size_t size = record_fact_size(&r);
    MDB_val k = span_val(key), v = {size, NULL};
    MDB_cursor *cursor =
        rc == 0 || rc == MDB_NOTFOUND ? queue_batch_cursor(batch, TABLE_STATE, &rc) : NULL;
    if (cursor != NULL)
        rc = mdb_cursor_put(cursor, &k, &v, MDB_RESERVE);
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot put a fact", err);
    record_fact_encode(key, &r, v.mv_data, size);
    batch->ops++;
    batch->bytes += key.n + size;
    return ERR_OK;
}

enum err_code
queue_state_delete(struct queue_batch *batch, struct span key, struct err *err)
{
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    enum err_code code = key_check(key, err);
    if (code != ERR_OK)
        return code;
    int rc = queue_batch_delete(batch, TABLE_STATE, key);
    if (rc != 0 && rc != MDB_NOTFOUND)
        return queue_batch_fail(batch, rc, "cannot delete a fact", err);
    return ERR_OK;
}

/* ---------------------------------------------------------------------------------- reading */

struct fact_list {
    struct queue_fact *rows;
    size_t n, cap, bytes;
};

static void
list_add(struct fact_list *list, struct span key, struct span value)
{
    if (list->n == list->cap) {
        list->cap = list->cap == 0 ? 16 : list->cap * 2;
        list->rows = xrealloc(list->rows, list->cap * sizeof(list->rows[0]));
    }
    list->rows[list->n++] = (struct queue_fact){key, value};
    list->bytes += sizeof(list->rows[0]) + key.n + value.n;
}

static void
list_pack(const struct fact_list *list, struct queue_facts *ret)
{
    ret->n_rows = list->n;
    if (list->n == 0)
        return;
    ret->memory = xmalloc(list->bytes);
    ret->rows = ret->memory;
    memcpy(ret->rows, list->rows, list->n * sizeof(ret->rows[0]));
    char *at = (char *)(ret->rows + list->n);
    for (size_t i = 0; i < list->n; i++) {
        queue_pack_span(&at, &ret->rows[i].key);
        queue_pack_span(&at, &ret->rows[i].value);
    }
}

/* Rows with the prefix, from the key `from` on but not that key itself when `skip`. */
static int
collect(MDB_cursor *cursor, struct span prefix, struct span from, bool skip, size_t max,
        struct fact_list *list, bool *ret_more)
{
    MDB_val k = span_val(from), v;
    struct record_fact r;
    int rc = mdb_cursor_get(cursor, &k, &v, from.n == 0 ? MDB_FIRST : MDB_SET_RANGE);
    if (rc == 0 && skip && span_eq(val_span(k), from))
        rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT);
    for (; rc == 0 && span_starts(val_span(k), prefix);
         rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) {
        if (list->n >= max || list->bytes >= QUEUE_PAGE_BYTES) {
            *ret_more = true;
            return 0;
        }
        if (record_fact_decode(val_span(k), val_span(v), &r, NULL) == ERR_OK)
            list_add(list, val_span(k), r.value);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

enum err_code
queue_read_state(struct queue_reader *reader, struct span prefix, struct span after, size_t max,
                 struct queue_facts *ret_facts, struct err *err)
{
    struct queue_facts facts = {.txn_id = 0};
    enum err_code code = queue_reader_begin(reader, &facts.txn_id, err);
    if (code != ERR_OK)
        return code;
    CLEANUP(queue_reader_endp) struct queue_reader *end = reader;
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    struct fact_list list = {.n = 0};
    struct span from = span_cmp(after, prefix) >= 0 ? after : prefix;
    int rc = from.n > QUEUE_STATE_KEY_MAX ? MDB_NOTFOUND : 0;
    if (rc == 0)
        rc = mdb_cursor_open(end->txn, reader->queue->dbi[TABLE_STATE], &cursor);
    if (rc == 0)
        rc = collect(cursor, prefix, from, after.n > 0, max, &list, &facts.more);
    if (rc == 0 || rc == MDB_NOTFOUND) {
        list_pack(&list, &facts);
        *ret_facts = facts;
    } else {
        code = queue_lmdb_err(reader->queue, rc, "cannot read state", err);
    }
    free(list.rows);
    return code;
}

void
queue_facts_release(struct queue_facts *facts)
{
    free(facts->memory);
    facts->memory = facts->rows = NULL;
    facts->n_rows = 0;
}
