/*
 * How: each reader keeps one LMDB read transaction, renewed for a call and reset at its end, so no
 * snapshot outlives a call and the writer can reuse pages. What is returned is copied out.
 */
#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"
#include "queue/structure.h"

/* -------------------------------------------------------------------------------- snapshots */

enum err_code
queue_reader_new(struct queue *queue, struct queue_reader **ret_reader, struct err *err)
{
    struct queue_reader *reader = xcalloc(1, sizeof(*reader));
    reader->queue = queue;
    int rc = mdb_txn_begin(queue->env, NULL, MDB_RDONLY, &reader->txn);
    if (rc != 0) {
        free(reader);
        return queue_lmdb_err(queue, rc, "no more readers", err);
    }
    mdb_txn_reset(reader->txn);
    *ret_reader = reader;
    return ERR_OK;
}

void
queue_reader_free(struct queue_reader *reader)
{
    if (reader == NULL)
        return;
    mdb_txn_abort(reader->txn);
    free(reader->rows);
    free(reader);
}

enum err_code
queue_reader_begin(struct queue_reader *reader, uint64_t *ret_txn_id, struct err *err)
{
    int rc = mdb_txn_renew(reader->txn);
    if (rc != 0)
        return queue_lmdb_err(reader->queue, rc, "cannot read", err);
    *ret_txn_id = mdb_txn_id(reader->txn);
    return ERR_OK;
}

void
queue_reader_end(struct queue_reader *reader)
{
    mdb_txn_reset(reader->txn);
}

void
queue_reader_endp(struct queue_reader **reader)
{
    if (*reader != NULL)
        queue_reader_end(*reader);
}

void
queue_cursor_closep(MDB_cursor **cursor)
{
    if (*cursor != NULL)
        mdb_cursor_close(*cursor);
}

/* ---------------------------------------------------------------------------------- records */

bool
queue_value_whole(const struct queue *queue, MDB_val key, MDB_val value)
{
    return queue_structure_value(value.mv_data, value.mv_size, key.mv_size, queue->page_bytes,
                                 queue->map, queue->map_seen_bytes);
}

enum err_code
queue_msg_get(struct queue *queue, MDB_txn *txn, uint64_t id, struct record_msg *ret,
              struct err *err)
{
    struct key key = key_id(id);
    MDB_val k = key_val(&key), v;
    int rc = mdb_get(txn, queue->dbi[TABLE_MESSAGE], &k, &v);
    if (rc == MDB_NOTFOUND)
        return err_set(err, ERR_NOT_FOUND, "no such message");
    if (rc != 0)
        return queue_lmdb_err(queue, rc, "cannot read a message", err);
    if (!queue_value_whole(queue, k, v))
        return err_set(err, ERR_CORRUPT, "the pages of a message record have a damaged head");
    return record_msg_decode(id, val_span(v), ret, err);
}

enum err_code
queue_rcpt_get(struct queue *queue, MDB_txn *txn, uint64_t id, uint32_t no, struct record_rcpt *ret,
               struct err *err)
{
    struct key key = key_id_no(id, no);
    MDB_val k = key_val(&key), v;
    int rc = mdb_get(txn, queue->dbi[TABLE_RECIPIENT], &k, &v);
    if (rc == MDB_NOTFOUND)
        return err_set(err, ERR_NOT_FOUND, "no such recipient");
    if (rc != 0)
        return queue_lmdb_err(queue, rc, "cannot read a recipient", err);
    return record_rcpt_decode(id, no, val_span(v), ret, err);
}

/* ------------------------------------------------------------------------------------- mail */

void
queue_pack_span(char **at, struct span *s)
{
    if (s->n > 0)
        memcpy(*at, s->p, s->n);
    s->p = *at;
    *at += s->n;
}

/* Call `each` with every span of a message. */
static void
msg_spans(struct queue_msg *m, void (*each)(void *arg, struct span *s), void *arg)
{
    struct span *const all[] = {&m->sender,   &m->client, &m->ret, &m->envid,
                                &m->received, &m->added,  &m->body};
    for (size_t i = 0; i < N_ELEMENTS(all); i++)
        each(arg, all[i]);
    for (size_t i = 0; i < m->n_signatures; i++) {
        each(arg, &m->signatures[i].domain);
        each(arg, &m->signatures[i].selector);
        each(arg, &m->signatures[i].field);
    }
}

static void
rcpt_spans(struct queue_rcpt *r, void (*each)(void *arg, struct span *s), void *arg)
{
    each(arg, &r->address);
    each(arg, &r->domain);
    each(arg, &r->orcpt);
    each(arg, &r->attempts);
}

static void
count_bytes(void *total, struct span *s)
{
    *(size_t *)total += s->n;
}

static void
copy_bytes(void *at, struct span *s)
{
    queue_pack_span(at, s);
}

struct rcpt_list {
    struct queue_rcpt *rows;
    size_t n, cap, bytes;
    uint32_t n_bad;
};

static int
rcpts_collect(struct queue_reader *reader, uint64_t id, struct rcpt_list *list)
{
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    struct key key = key_id_no(id, 0);
    MDB_val k = key_val(&key), v;
    struct record_rcpt r;
    int rc = mdb_cursor_open(reader->txn, reader->queue->dbi[TABLE_RECIPIENT], &cursor);
    if (rc != 0)
        return rc;
    for (rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
         rc == 0 && k.mv_size == KEY_ID_NO_BYTES && key_number(k.mv_data, 8) == id;
         rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) {
        uint32_t no = (uint32_t)key_number((const char *)k.mv_data + 8, 4);
        if (record_rcpt_decode(id, no, val_span(v), &r, NULL) != ERR_OK) {
            list->n_bad++;
            continue;
        }
        if (list->n == list->cap) {
            list->cap = list->cap == 0 ? 8 : list->cap * 2;
            list->rows = xrealloc(list->rows, list->cap * sizeof(list->rows[0]));
        }
        list->rows[list->n++] = r.rcpt;
        rcpt_spans(&r.rcpt, count_bytes, &list->bytes);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static void
mail_pack(const struct record_msg *m, const struct rcpt_list *list, struct queue_mail *ret)
{
    size_t total = list->n * sizeof(list->rows[0]) + list->bytes;
    ret->msg = m->msg;
    msg_spans(&ret->msg, count_bytes, &total);
    ret->memory = xmalloc(total);
    ret->rcpts = ret->memory;
    ret->n_rcpts = list->n;
    ret->n_bad = list->n_bad;
    char *at = (char *)ret->memory + list->n * sizeof(list->rows[0]);
    if (list->n > 0)
        memcpy(ret->rcpts, list->rows, list->n * sizeof(list->rows[0]));
    msg_spans(&ret->msg, copy_bytes, &at);
    for (size_t i = 0; i < list->n; i++)
        rcpt_spans(&ret->rcpts[i], copy_bytes, &at);
}

enum err_code
queue_read_mail(struct queue_reader *reader, uint64_t id, struct queue_mail *ret_mail,
                struct err *err)
{
    struct record_msg m;
    struct rcpt_list list = {.n = 0};
    struct queue_mail mail = {.txn_id = 0};
    enum err_code code = queue_reader_begin(reader, &mail.txn_id, err);
    if (code != ERR_OK)
        return code;
    code = queue_msg_get(reader->queue, reader->txn, id, &m, err);
    if (code == ERR_OK)
        code = record_body_check(&m, err);
    if (code == ERR_OK) {
        int rc = rcpts_collect(reader, id, &list);
        if (rc != 0)
            code = queue_lmdb_err(reader->queue, rc, "cannot read recipients", err);
    }
    if (code == ERR_OK) {
        mail_pack(&m, &list, &mail);
        *ret_mail = mail;
    }
    queue_reader_end(reader);
    free(list.rows);
    return code;
}

void
queue_mail_release(struct queue_mail *mail)
{
    free(mail->memory);
    *mail = (struct queue_mail){.txn_id = 0};
}

/* ------------------------------------------------------------------------------------- body */

static enum err_code
chunks_copy(struct queue_reader *reader, uint64_t id, uint64_t body_bytes, uint64_t offset,
            char *buf, size_t cap, size_t *ret_n, struct err *err)
{
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    size_t done = 0;
    int rc = mdb_cursor_open(reader->txn, reader->queue->dbi[TABLE_BODY], &cursor);
    if (rc != 0)
        return queue_lmdb_err(reader->queue, rc, "cannot read a body", err);
    while (done < cap && offset + done < body_bytes) {
        uint32_t chunk = (uint32_t)((offset + done) / QUEUE_CHUNK_BYTES);
        size_t skip = (size_t)((offset + done) % QUEUE_CHUNK_BYTES);
        uint64_t want = body_bytes - (uint64_t)chunk * QUEUE_CHUNK_BYTES;
        struct key key = key_id_no(id, chunk);
        MDB_val k = key_val(&key), v;
        struct span bytes;
        rc = mdb_cursor_get(cursor, &k, &v, MDB_SET);
        if (rc == MDB_NOTFOUND)
            return err_set(err, ERR_CORRUPT, "body chunk %u is missing", (unsigned)chunk);
        if (rc != 0)
            return queue_lmdb_err(reader->queue, rc, "cannot read a body", err);
        if (!queue_value_whole(reader->queue, k, v))
            return err_set(err, ERR_CORRUPT, "the pages of body chunk %u have a damaged head",
                           (unsigned)chunk);
        enum err_code code = record_chunk_decode(id, chunk, val_span(v), &bytes, err);
        if (code != ERR_OK)
            return code;
        if (bytes.n != (want < QUEUE_CHUNK_BYTES ? want : QUEUE_CHUNK_BYTES))
            return err_set(err, ERR_CORRUPT, "body chunk %u has %zu bytes", (unsigned)chunk,
                           bytes.n);
        bytes = span_first(span_from(bytes, skip), cap - done);
        memcpy(buf + done, bytes.p, bytes.n);
        done += bytes.n;
    }
    *ret_n = done;
    return ERR_OK;
}

/* How long a body that is still incoming is: its last chunk tells. */
static enum err_code
incoming_bytes(struct queue_reader *reader, uint64_t id, uint64_t *ret, struct err *err)
{
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    struct key key = key_id(id), beyond = key_id(id + 1);
    MDB_val k = key_val(&key), v;
    struct queue *queue = reader->queue;
    int rc = mdb_get(reader->txn, queue->dbi[TABLE_INCOMING], &k, &v);
    if (rc == MDB_NOTFOUND)
        return err_set(err, ERR_NOT_FOUND, "no such message");
    if (rc == 0)
        rc = mdb_cursor_open(reader->txn, queue->dbi[TABLE_BODY], &cursor);
    if (rc != 0)
        return queue_lmdb_err(queue, rc, "cannot read a body", err);
    k = key_val(&beyond);
    rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    rc = mdb_cursor_get(cursor, &k, &v, rc == 0 ? MDB_PREV : MDB_LAST);
    *ret = 0;
    if (rc == 0 && k.mv_size == KEY_ID_NO_BYTES && key_number(k.mv_data, 8) == id &&
        v.mv_size > RECORD_SUM_BYTES)
        *ret = key_number((const char *)k.mv_data + 8, 4) * QUEUE_CHUNK_BYTES + v.mv_size -
               RECORD_SUM_BYTES;
    return ERR_OK;
}

enum err_code
queue_read_body(struct queue_reader *reader, uint64_t id, uint64_t offset, char *buf, size_t cap,
                size_t *ret_n, struct err *err)
{
    struct record_msg m;
    uint64_t txn_id, body_bytes = 0;
    size_t n = 0;
    if (cap > QUEUE_PAGE_BYTES)
        cap = QUEUE_PAGE_BYTES;
    enum err_code code = queue_reader_begin(reader, &txn_id, err);
    if (code != ERR_OK)
        return code;
    code = queue_msg_get(reader->queue, reader->txn, id, &m, err);
    if (code == ERR_OK && (m.msg.flags & QUEUE_MSG_CHUNKED) == 0) {
        code = record_body_check(&m, err);
        struct span part = span_first(
            offset < m.msg.body.n ? span_from(m.msg.body, (size_t)offset) : SPAN_NONE, cap);
        n = part.n;
        if (code == ERR_OK && n > 0)
            memcpy(buf, part.p, n);
    } else {
        if (code == ERR_OK)
            body_bytes = m.msg.body_bytes;
        else if (code == ERR_NOT_FOUND)
            code = incoming_bytes(reader, id, &body_bytes, err);
        if (code == ERR_OK)
            code = chunks_copy(reader, id, body_bytes, offset, buf, cap, &n, err);
    }
    queue_reader_end(reader);
    if (code == ERR_OK)
        *ret_n = n;
    return code;
}
