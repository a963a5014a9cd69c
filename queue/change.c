/*
 * How: read the recipient, compare the revision, take it out of its index, then either write it
 * back with a new state and revision or move it into history. The last recipient of a message takes
 * message and body along. The old record is copied first: LMDB may reuse the page it lies in.
 *
 *            add                    DEFER (deferral, retry, reroute, full list)
 *             |             .------------------------------.
 *             v             v                              |
 *           fresh ----> scheduled ----------------------> same
 *             |  HOLD       |  HOLD   ^ RELEASE, DEFER
 *             `------+------'         |
 *                    `------------> held
 *           any state -- FINISH --> history
 */
#include <assert.h>

#include "queue/queue_impl.h"

/* -------------------------------------------------------------------------------- look first */

static enum err_code
form_check(const struct queue_change *c, struct err *err)
{
    if (c->verb == QUEUE_FINISH) {
        if (c->result < QUEUE_DELIVERED || c->result > QUEUE_REPLACED || c->finished_at < 0)
            return err_set(err, ERR_INVAL, "a finish with result %d at %lld", (int)c->result,
                           (long long)c->finished_at);
        if (c->detail.n > QUEUE_ATTEMPTS_MAX)
            return err_set(err, ERR_LIMIT, "a history detail of %zu bytes", c->detail.n);
        return ERR_OK;
    }
    if (c->verb != QUEUE_HOLD && c->due_at < 0)
        return err_set(err, ERR_INVAL, "a recipient that is due before 1970");
    if (c->attempts_set && c->attempts.n > QUEUE_ATTEMPTS_MAX)
        return err_set(err, ERR_LIMIT, "an attempt record of %zu bytes", c->attempts.n);
    return ERR_OK;
}

/* The recipient as it stands, its bytes copied into the batch's scratch. */
static enum err_code
load(struct queue_batch *batch, uint64_t id, uint32_t no, struct record_rcpt *ret, struct err *err)
{
    struct key key = key_id_no(id, no);
    struct span row;
    int rc = queue_batch_get(batch, TABLE_RECIPIENT, span_of(key.b, key.n), &row);
    if (rc == MDB_NOTFOUND)
        return err_set(err, ERR_NOT_FOUND, "this recipient is finished");
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot read a recipient", err);
    strbuf_reset(&batch->scratch);
    strbuf_add_span(&batch->scratch, row);
    return record_rcpt_decode(id, no, strbuf_span(&batch->scratch), ret, err);
}

static enum err_code
revision_check(const struct queue_change *c, const struct queue_rcpt *r, struct err *err)
{
    if (queue_change_is_delivery(c))
        return ERR_OK; /* it has left: keeping it would deliver it again */
    if (c->revision != r->revision)
        return err_set(err, ERR_STALE, "revision %u is %u by now", (unsigned)c->revision,
                       (unsigned)r->revision);
    if (c->verb == QUEUE_RELEASE && r->state != QUEUE_HELD)
        return err_set(err, ERR_STALE, "this recipient is not held");
    return ERR_OK;
}

/* --------------------------------------------------------------------------------- indexes */

static int
index_delete(struct queue_batch *batch, const struct queue_rcpt *r)
{
    int rc = 0;
    struct key key;
    if (r->state == QUEUE_FRESH) {
        key = key_id_no(r->id, r->no);
        rc = queue_batch_delete(batch, TABLE_FRESH, span_of(key.b, key.n));
    } else if (r->state == QUEUE_SCHEDULED) {
        key = key_schedule(queue_lane(batch->queue, r->domain), r->due_at, r->id, r->no);
        rc = queue_batch_delete(batch, TABLE_SCHEDULE, span_of(key.b, key.n));
    }
    return rc == MDB_NOTFOUND ? 0 : rc; /* verify would have told; the change repairs it */
}

/* For a record that cannot be read: whatever row names this recipient, wherever it is. */
static int
index_delete_blind(struct queue_batch *batch, uint64_t id, uint32_t no)
{
    struct key key = key_id_no(id, no);
    MDB_val k, v;
    int rc = queue_batch_delete(batch, TABLE_FRESH, span_of(key.b, key.n));
    if (rc != 0 && rc != MDB_NOTFOUND)
        return rc;
    MDB_cursor *cursor = queue_batch_cursor(batch, TABLE_SCHEDULE, &rc);
    if (cursor == NULL)
        return rc;
    for (rc = mdb_cursor_get(cursor, &k, &v, MDB_FIRST); rc == 0;
         rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) {
        if (k.mv_size == KEY_SCHEDULE_BYTES &&
            memcmp((const char *)k.mv_data + 16, key.b, key.n) == 0)
            return queue_batch_delete_current(batch, TABLE_SCHEDULE);
    }
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* ----------------------------------------------------------------------------------- finish */

/* History keeps the sender too: the message may be gone when somebody asks. */
static enum err_code
past_put(struct queue_batch *batch, const struct queue_change *c, const struct queue_rcpt *rcpt,
         struct err *err)
{
    struct record_msg m;
    struct record_past r = {.past = {.id = c->id,
                                     .no = c->no,
                                     .finished_at = c->finished_at,
                                     .result = c->result,
                                     .detail = c->detail}};
    void *to;
    char sender[QUEUE_FIELD_MAX];
    enum err_code code = queue_msg_get(batch->queue, batch->txn, c->id, &m, NULL);
    if (code == ERR_OK && m.msg.sender.n <= sizeof(sender)) {
        if (m.msg.sender.n > 0)
            memcpy(sender, m.msg.sender.p, m.msg.sender.n);
        r.past.sender = span_of(sender, m.msg.sender.n);
        r.past.arrived_at = m.msg.arrived_at;
    }
    if (rcpt != NULL)
        r.past.address = rcpt->address;
    size_t size = record_past_size(&r);
    struct key key = key_past(c->finished_at, c->id, c->no);
    int rc = queue_batch_put(batch, TABLE_HISTORY, &key, size, false, &to);
    if (rc == MDB_KEYEXIST)
        rc = queue_batch_put(batch, TABLE_HISTORY, &key, size, true, &to);
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot write history", err);
    record_past_encode(&r, to, size);
    return ERR_OK;
}

static int
msg_delete(struct queue_batch *batch, uint64_t id)
{
    size_t n;
    struct key key = key_id(id);
    struct record_msg m;
    bool whole, body_whole = true;
    /* A record that cannot be read may have chunks. */
    enum err_code code = queue_msg_get(batch->queue, batch->txn, id, &m, NULL);
    bool chunks = code != ERR_OK || (m.msg.flags & QUEUE_MSG_CHUNKED) != 0;
    int rc = queue_batch_whole_id(batch, TABLE_MESSAGE, id, &whole);
    if (rc == 0 && chunks)
        rc = queue_batch_whole_id(batch, TABLE_BODY, id, &body_whole);
    if (rc != 0 || !whole || !body_whole)
        return rc; /* deleting it would free pages of others: it stays, and verify names it */
    rc = queue_batch_delete(batch, TABLE_MESSAGE, span_of(key.b, key.n));
    if (rc == MDB_NOTFOUND)
        rc = 0;
    if (rc == 0 && chunks)
        rc = queue_batch_delete_id(batch, TABLE_BODY, id, &n);
    return rc;
}

/* `rcpt` is NULL when its record cannot be read. */
static enum err_code
finish(struct queue_batch *batch, struct queue_change *c, const struct queue_rcpt *rcpt,
       struct err *err)
{
    struct key key = key_id_no(c->id, c->no);
    bool others = true;
    enum err_code code = past_put(batch, c, rcpt, err);
    if (code != ERR_OK)
        return code;
    int rc = rcpt != NULL ? index_delete(batch, rcpt) : index_delete_blind(batch, c->id, c->no);
    if (rc == 0)
        rc = queue_batch_delete(batch, TABLE_RECIPIENT, span_of(key.b, key.n));
    if (rc == 0)
        rc = queue_batch_has_id(batch, TABLE_RECIPIENT, c->id, &others);
    if (rc == 0 && !others) {
        rc = msg_delete(batch, c->id);
        c->msg_gone = true;
    }
    return rc == 0 ? ERR_OK : queue_batch_fail(batch, rc, "cannot finish a recipient", err);
}

/* ----------------------------------------------------------------------------------- update */

static enum err_code
update(struct queue_batch *batch, struct queue_change *c, struct record_rcpt *r, struct err *err)
{
    void *to;
    int rc = index_delete(batch, &r->rcpt);
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot change a recipient", err);
    r->rcpt.state = c->verb == QUEUE_HOLD ? QUEUE_HELD : QUEUE_SCHEDULED;
    if (c->verb != QUEUE_HOLD)
        r->rcpt.due_at = c->due_at;
    if (c->attempts_set)
        r->rcpt.attempts = c->attempts;
    if (++r->rcpt.revision == 0)
        r->rcpt.revision = 1;
    size_t size = record_rcpt_size(r);
    struct key key = key_id_no(c->id, c->no);
    rc = queue_batch_put(batch, TABLE_RECIPIENT, &key, size, true, &to);
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot change a recipient", err);
    record_rcpt_encode(r, to, size);
    if (r->rcpt.state == QUEUE_SCHEDULED) {
        key = key_schedule(queue_lane(batch->queue, r->rcpt.domain), r->rcpt.due_at, c->id, c->no);
        rc = queue_batch_put(batch, TABLE_SCHEDULE, &key, 0, false, &to);
        if (rc != 0)
            return queue_batch_fail(batch, rc, "cannot schedule a recipient", err);
    }
    c->new_revision = r->rcpt.revision;
    return ERR_OK;
}

/* ----------------------------------------------------------------------------------- public */

enum err_code
queue_apply_check(struct queue_batch *batch, const struct queue_change *change, struct err *err)
{
    struct record_rcpt r;
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    enum err_code code = form_check(change, err);
    if (code == ERR_OK)
        code = load(batch, change->id, change->no, &r, err);
    if (code == ERR_CORRUPT && change->verb == QUEUE_FINISH)
        return ERR_OK;
    return code == ERR_OK ? revision_check(change, &r.rcpt, err) : code;
}

enum err_code
queue_apply(struct queue_batch *batch, struct queue_change *change, struct err *err)
{
    struct record_rcpt r;
    enum err_code code;
    change->new_revision = 0;
    change->msg_gone = false;
    if (batch->dead != ERR_OK)
        return change->code = queue_batch_dead_err(batch, err);
    code = form_check(change, err);
    if (code == ERR_OK)
        code = load(batch, change->id, change->no, &r, err);
    if (code == ERR_OK)
        code = revision_check(change, &r.rcpt, err);
    if (code == ERR_OK && change->verb != QUEUE_FINISH)
        code = update(batch, change, &r, err);
    else if (code == ERR_OK)
        code = finish(batch, change, &r.rcpt, err);
    else if (code == ERR_CORRUPT && change->verb == QUEUE_FINISH)
        code = finish(batch, change, NULL, err);
    return change->code = code;
}

/* ----------------------------------------------------------------------------- verbs on many */

static bool
is_wanted(const struct queue_change *change, const struct queue_rcpt *r)
{
    if (change->verb == QUEUE_HOLD)
        return r->state != QUEUE_HELD;
    if (change->verb == QUEUE_RELEASE)
        return r->state == QUEUE_HELD;
    return true;
}

static enum err_code
touch(struct queue_batch *batch, const struct queue_rcpt *r, const struct queue_change *wanted,
      struct queue_touched *ret, struct err *err)
{
    struct queue_change c = *wanted;
    uint64_t lane = queue_lane(batch->queue, r->domain);
    c.id = r->id;
    c.no = r->no;
    c.revision = r->revision;
    enum err_code code = queue_apply(batch, &c, err);
    *ret = (struct queue_touched){.id = c.id,
                                  .no = c.no,
                                  .revision = c.new_revision,
                                  .lane = lane,
                                  .due_at = c.due_at,
                                  .msg_gone = c.msg_gone};
    return code;
}

/* The next recipient after *after by a fresh search: changes move the rows under a cursor. */
static int
next_rcpt(struct queue_batch *batch, const struct queue_filter *filter, struct queue_key *after,
          struct span *ret_row)
{
    struct queue_key from = *after;
    if (filter->id != 0 && from.id < filter->id)
        from = (struct queue_key){filter->id - 1, UINT32_MAX};
    struct key key = key_after(from);
    MDB_val k = key_val(&key), v;
    int rc;
    MDB_cursor *cursor = queue_batch_cursor(batch, TABLE_RECIPIENT, &rc);
    if (cursor == NULL || (rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE)) != 0)
        return rc;
    if (k.mv_size != KEY_ID_NO_BYTES)
        return MDB_CORRUPTED;
    after->id = key_number(k.mv_data, 8);
    after->no = (uint32_t)key_number((const char *)k.mv_data + 8, 4);
    *ret_row = val_span(v);
    return filter->id != 0 && after->id != filter->id ? MDB_NOTFOUND : 0;
}

enum err_code
queue_apply_filter(struct queue_batch *batch, const struct queue_filter *filter,
                   const struct queue_change *change, struct queue_key *after, size_t max,
                   struct queue_touched *touched, size_t *ret_n, bool *ret_more, struct err *err)
{
    struct matcher matcher;
    struct record_rcpt r;
    struct span row;
    bool held;
    int rc = 0;
    size_t n = 0;
    *ret_n = 0;
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    enum err_code code = form_check(change, err);
    if (code != ERR_OK)
        return code;
    queue_matcher_init(&matcher, batch->queue, batch->txn, filter);
    for (size_t walked = 0; walked < QUEUE_SCAN_ROWS && n < max; walked++) {
        if ((rc = next_rcpt(batch, filter, after, &row)) != 0)
            break;
        if (record_rcpt_decode(after->id, after->no, row, &r, NULL) != ERR_OK) {
            if (filter->id == 0 || change->verb != QUEUE_FINISH)
                continue;
            /* Named by its id and to be taken out: that needs no readable record. */
            r.rcpt = (struct queue_rcpt){.id = after->id, .no = after->no};
        } else if (!queue_matcher_match(&matcher, &r.rcpt, &held) || !is_wanted(change, &r.rcpt)) {
            continue;
        }
        code = touch(batch, &r.rcpt, change, &touched[n], err);
        if (code != ERR_OK)
            return code;
        matcher.msg_id = 0; /* the write may have moved the record it points to */
        n++;
    }
    if (rc != 0 && rc != MDB_NOTFOUND)
        return queue_batch_fail(batch, rc, "cannot walk the recipients", err);
    *ret_n = n;
    *ret_more = rc == 0;
    return ERR_OK;
}
