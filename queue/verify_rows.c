/*
 * How: one function a table; verify.c calls it for each row inside one snapshot. Index rows are
 * checked from both sides: the recipient looks for its row, and each row for its recipient.
 */
#include "queue/verify_impl.h"

#define ID_TEXT(id) queue_id_format(id, (char[QUEUE_ID_TEXT + 1]){0})

static const char *
state_name(enum queue_state state)
{
    static const char *const names[] = {
        [QUEUE_FRESH] = "fresh", [QUEUE_SCHEDULED] = "scheduled", [QUEUE_HELD] = "held"};
    return names[state];
}

static bool
key_has(struct queue_verify *v, struct span key, size_t bytes)
{
    if (key.n == bytes)
        return true;
    queue_verify_finding(v, "table %s: a key of %zu bytes instead of %zu",
                         queue_table_names[v->table], key.n, bytes);
    return false;
}

/* 0 there, MDB_NOTFOUND, or another rc. */
static int
look(struct queue_verify *v, enum table table, const struct key *key, MDB_val *ret)
{
    MDB_val k = key_val(key);
    return mdb_cursor_get(v->cursors[table], &k, ret, MDB_SET);
}

/* The first row of `table` that starts with the id. */
static int
look_id(struct queue_verify *v, enum table table, uint64_t id)
{
    struct key key = key_id(id);
    MDB_val k = key_val(&key), value;
    int rc = mdb_cursor_get(v->cursors[table], &k, &value, MDB_SET_RANGE);
    if (rc == 0 && (k.mv_size < KEY_ID_BYTES || key_number(k.mv_data, 8) != id))
        return MDB_NOTFOUND;
    return rc;
}

static bool
is_trouble(int rc)
{
    return rc != 0 && rc != MDB_NOTFOUND;
}

/* ------------------------------------------------------------------------------------- meta */

static int
meta_row(struct queue_verify *v, struct span key, struct span value)
{
    static const struct {
        const char *name;
        size_t bytes;
    } known[] = {{META_FORMAT, 4}, {META_LAST_ID, 8}, {META_LANE_SECRET, 16}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (span_eq(key, span_str(known[i].name)) && value.n != known[i].bytes)
            queue_verify_finding(v, "meta %s has %zu bytes instead of %zu", known[i].name, value.n,
                                 known[i].bytes);
    return 0;
}

/* ---------------------------------------------------------------------------------- message */

/* The chunks of a body, from the first to the last, and none behind it. */
static int
chunks_check(struct queue_verify *v, const struct queue_msg *m)
{
    uint64_t bytes = 0;
    struct err err;
    struct span chunk_bytes;
    MDB_val value;
    for (uint32_t chunk = 0;; chunk++) {
        struct key key = key_id_no(m->id, chunk);
        int rc = look(v, TABLE_BODY, &key, &value);
        if (is_trouble(rc))
            return rc;
        if (rc == MDB_NOTFOUND)
            break;
        if (!queue_value_whole(v->queue, key_val(&key), value)) {
            queue_verify_finding(v, "message %s: the pages of body chunk %u have a damaged head",
                                 ID_TEXT(m->id), (unsigned)chunk);
            return 0;
        }
        if (record_chunk_decode(m->id, chunk, val_span(value), &chunk_bytes, &err) != ERR_OK) {
            queue_verify_finding(v, "message %s: %s", ID_TEXT(m->id), err.text);
            return 0;
        }
        bytes += chunk_bytes.n;
        if (chunk_bytes.n < QUEUE_CHUNK_BYTES && bytes < m->body_bytes) {
            queue_verify_finding(v, "message %s: body chunk %u is short (%zu bytes)",
                                 ID_TEXT(m->id), (unsigned)chunk, chunk_bytes.n);
            return 0;
        }
    }
    v->body_bytes += bytes;
    v->step_bytes += bytes;
    if (bytes != m->body_bytes)
        queue_verify_finding(v, "message %s: its body has %llu bytes instead of %llu",
                             ID_TEXT(m->id), (unsigned long long)bytes,
                             (unsigned long long)m->body_bytes);
    return 0;
}

static int
body_check(struct queue_verify *v, const struct record_msg *r)
{
    struct err err;
    if ((r->msg.flags & QUEUE_MSG_CHUNKED) != 0)
        return chunks_check(v, &r->msg);
    if (record_body_check(r, &err) != ERR_OK)
        queue_verify_finding(v, "message %s: %s", ID_TEXT(r->msg.id), err.text);
    v->body_bytes += r->msg.body_bytes;
    v->step_bytes += r->msg.body_bytes;
    return 0;
}

static int
message_row(struct queue_verify *v, struct span key, struct span value)
{
    struct record_msg r;
    struct err err;
    if (!key_has(v, key, KEY_ID_BYTES))
        return 0;
    uint64_t id = key_number(key.p, 8);
    v->messages++;
    if (id > v->last_id)
        queue_verify_finding(v, "message %s: its id is above the last one in meta (%s)",
                             ID_TEXT(id), ID_TEXT(v->last_id));
    int rc = look_id(v, TABLE_RECIPIENT, id);
    if (rc == MDB_NOTFOUND)
        queue_verify_finding(v, "message %s: it has no recipient left", ID_TEXT(id));
    if (is_trouble(rc))
        return rc;
    MDB_val k = {key.n, (void *)key.p}, row = {value.n, (void *)value.p};
    if (!queue_value_whole(v->queue, k, row)) {
        queue_verify_finding(v, "message %s: the pages of its record have a damaged head",
                             ID_TEXT(id));
        return 0;
    }
    if (record_msg_decode(id, value, &r, &err) != ERR_OK) {
        queue_verify_finding(v, "message %s: %s", ID_TEXT(id), err.text);
        return 0;
    }
    return body_check(v, &r);
}

/* ---------------------------------------------------------------------------- body, incoming */

/* One look a body: its other chunks are skipped. */
static int
body_row(struct queue_verify *v, struct span key, struct span value)
{
    struct record_msg r;
    MDB_val row;
    (void)value;
    if (!key_has(v, key, KEY_ID_NO_BYTES))
        return 0;
    uint64_t id = key_number(key.p, 8);
    struct key id_key = key_id(id), skip = key_id_no(id, UINT32_MAX);
    memcpy(v->at.b, skip.b, skip.n);
    v->at.n = skip.n;
    int rc = look(v, TABLE_MESSAGE, &id_key, &row);
    if (rc == 0 && record_msg_decode(id, val_span(row), &r, NULL) == ERR_OK &&
        (r.msg.flags & QUEUE_MSG_CHUNKED) == 0)
        queue_verify_finding(v, "body %s: chunks of a message that holds its body itself",
                             ID_TEXT(id));
    if (rc != MDB_NOTFOUND)
        return rc;
    rc = look(v, TABLE_INCOMING, &id_key, &row);
    if (rc == MDB_NOTFOUND)
        queue_verify_finding(v, "body %s: it belongs to no message", ID_TEXT(id));
    return is_trouble(rc) ? rc : 0;
}

static int
incoming_row(struct queue_verify *v, struct span key, struct span value)
{
    MDB_val row;
    (void)value;
    if (!key_has(v, key, KEY_ID_BYTES))
        return 0;
    struct key id_key = key_id(key_number(key.p, 8));
    int rc = look(v, TABLE_MESSAGE, &id_key, &row);
    if (rc == 0)
        queue_verify_finding(v, "message %s: it is there and still being received",
                             ID_TEXT(key_number(key.p, 8)));
    return is_trouble(rc) ? rc : 0;
}

/* -------------------------------------------------------------------------------- recipient */

static int
index_check(struct queue_verify *v, const struct queue_rcpt *r)
{
    MDB_val row;
    struct key fresh = key_id_no(r->id, r->no);
    int rc = look(v, TABLE_FRESH, &fresh, &row);
    if (is_trouble(rc))
        return rc;
    if ((rc == 0) != (r->state == QUEUE_FRESH))
        queue_verify_finding(v, "recipient %s-%u: %s, but %s row in fresh", ID_TEXT(r->id),
                             (unsigned)r->no, state_name(r->state), rc == 0 ? "it has a" : "no");
    if (r->state != QUEUE_SCHEDULED)
        return 0; /* a row in schedule that should not be is found there */
    struct key due = key_schedule(queue_lane(v->queue, r->domain), r->due_at, r->id, r->no);
    rc = look(v, TABLE_SCHEDULE, &due, &row);
    if (rc == MDB_NOTFOUND)
        queue_verify_finding(v, "recipient %s-%u: scheduled, but no row in schedule",
                             ID_TEXT(r->id), (unsigned)r->no);
    return is_trouble(rc) ? rc : 0;
}

static int
recipient_row(struct queue_verify *v, struct span key, struct span value)
{
    struct record_rcpt r;
    struct err err;
    if (!key_has(v, key, KEY_ID_NO_BYTES))
        return 0;
    uint64_t id = key_number(key.p, 8);
    uint32_t no = (uint32_t)key_number(key.p + 8, 4);
    v->recipients++;
    int rc = look_id(v, TABLE_MESSAGE, id);
    if (rc == MDB_NOTFOUND)
        queue_verify_finding(v, "recipient %s-%u: its message is missing", ID_TEXT(id),
                             (unsigned)no);
    if (is_trouble(rc))
        return rc;
    if (record_rcpt_decode(id, no, value, &r, &err) != ERR_OK) {
        queue_verify_finding(v, "recipient %s-%u: %s", ID_TEXT(id), (unsigned)no, err.text);
        return 0;
    }
    if (r.rcpt.revision == 0)
        queue_verify_finding(v, "recipient %s-%u: revision 0", ID_TEXT(id), (unsigned)no);
    return index_check(v, &r.rcpt);
}

/* --------------------------------------------------------------------------- fresh, schedule */

/* The recipient of an index row, or a finding. MDB_NOTFOUND when there is nothing to compare. */
static int
rcpt_of(struct queue_verify *v, uint64_t id, uint32_t no, struct record_rcpt *ret)
{
    MDB_val row;
    struct key key = key_id_no(id, no);
    int rc = look(v, TABLE_RECIPIENT, &key, &row);
    if (rc == MDB_NOTFOUND)
        queue_verify_finding(v, "%s: a row for recipient %s-%u, which is not there",
                             queue_table_names[v->table], ID_TEXT(id), (unsigned)no);
    if (rc == 0 && record_rcpt_decode(id, no, val_span(row), ret, NULL) != ERR_OK)
        rc = MDB_NOTFOUND; /* table recipient has told */
    return rc;
}

static int
fresh_row(struct queue_verify *v, struct span key, struct span value)
{
    struct record_rcpt r;
    (void)value;
    if (!key_has(v, key, KEY_ID_NO_BYTES))
        return 0;
    int rc = rcpt_of(v, key_number(key.p, 8), (uint32_t)key_number(key.p + 8, 4), &r);
    /* A recipient that is not fresh has told about this row itself. */
    return is_trouble(rc) ? rc : 0;
}

static int
schedule_row(struct queue_verify *v, struct span key, struct span value)
{
    struct record_rcpt r;
    (void)value;
    if (!key_has(v, key, KEY_SCHEDULE_BYTES))
        return 0;
    uint64_t lane = key_number(key.p, 8), id = key_number(key.p + 16, 8);
    msec_t due_at = (msec_t)key_number(key.p + 8, 8);
    uint32_t no = (uint32_t)key_number(key.p + 24, 4);
    int rc = rcpt_of(v, id, no, &r);
    if (rc != 0)
        return is_trouble(rc) ? rc : 0;
    if (r.rcpt.state != QUEUE_SCHEDULED)
        queue_verify_finding(v, "schedule: a row for recipient %s-%u, which is %s", ID_TEXT(id),
                             (unsigned)no, state_name(r.rcpt.state));
    else if (r.rcpt.due_at != due_at)
        queue_verify_finding(v, "schedule: recipient %s-%u at %lld, but it is due at %lld",
                             ID_TEXT(id), (unsigned)no, (long long)due_at,
                             (long long)r.rcpt.due_at);
    else if (queue_lane(v->queue, r.rcpt.domain) != lane)
        queue_verify_finding(v, "schedule: recipient %s-%u is in a lane of another domain",
                             ID_TEXT(id), (unsigned)no);
    return 0;
}

/* --------------------------------------------------------------------------- state, history */

static int
state_row(struct queue_verify *v, struct span key, struct span value)
{
    struct record_fact r;
    struct err err;
    if (record_fact_decode(key, value, &r, &err) != ERR_OK)
        queue_verify_finding(v, "state %.*s: %s", (int)(key.n < 100 ? key.n : 100), key.p,
                             err.text);
    return 0;
}

static int
history_row(struct queue_verify *v, struct span key, struct span value)
{
    struct record_past r;
    struct err err;
    if (!key_has(v, key, KEY_PAST_BYTES))
        return 0;
    uint64_t id = key_number(key.p + 8, 8);
    uint32_t no = (uint32_t)key_number(key.p + 16, 4);
    if (record_past_decode((msec_t)key_number(key.p, 8), id, no, value, &r, &err) != ERR_OK)
        queue_verify_finding(v, "history of recipient %s-%u: %s", ID_TEXT(id), (unsigned)no,
                             err.text);
    return 0;
}

int
queue_verify_row(struct queue_verify *v, struct span key, struct span value)
{
    static int (*const checks[TABLES])(struct queue_verify *, struct span, struct span) = {
        [TABLE_META] = meta_row,           [TABLE_MESSAGE] = message_row,
        [TABLE_BODY] = body_row,           [TABLE_INCOMING] = incoming_row,
        [TABLE_RECIPIENT] = recipient_row, [TABLE_FRESH] = fresh_row,
        [TABLE_SCHEDULE] = schedule_row,   [TABLE_STATE] = state_row,
        [TABLE_HISTORY] = history_row,
    };
    return checks[v->table](v, key, value);
}

/* ------------------------------------------------------------------------------------ pages */

/* Pages that are neither used nor free are lost until the queue is compacted. */
int
queue_verify_pages(struct queue_verify *v)
{
    MDB_cursor *cursor;
    MDB_val k, value;
    MDB_envinfo info;
    uint64_t n_free = 0;
    int rc = mdb_cursor_open(v->txn, 0, &cursor);
    if (rc != 0)
        return rc;
    while ((rc = mdb_cursor_get(cursor, &k, &value, MDB_NEXT)) == 0) {
        size_t n = 0;
        if (value.mv_size >= sizeof(n))
            memcpy(&n, value.mv_data, sizeof(n));
        n_free += n;
    }
    mdb_cursor_close(cursor);
    mdb_env_info(v->queue->env, &info);
    uint64_t used = queue_used_bytes(v->queue, v->txn) / v->queue->page_bytes;
    /* The last page is known for the newest snapshot only: beside a busy writer it is not asked. */
    if (rc == MDB_NOTFOUND && info.me_last_txnid == mdb_txn_id(v->txn) &&
        used + n_free != info.me_last_pgno + 1)
        queue_verify_finding(v, "pages: %llu used and %llu free of %llu", (unsigned long long)used,
                             (unsigned long long)n_free, (unsigned long long)info.me_last_pgno + 1);
    return rc;
}
