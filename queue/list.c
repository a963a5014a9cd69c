/*
 * How: recipients and messages lie in the same order, so a walk over recipients reads each message
 * at most once, and only when the filter or the row asks for it. Held domains are looked up a
 * recipient, but only when there are any.
 */
#include <stdlib.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"

static const struct queue_filter match_all = {.id = 0};

void
queue_matcher_init(struct matcher *m, struct queue *queue, MDB_txn *txn,
                   const struct queue_filter *filter)
{
    struct span space = SPAN(QUEUE_HOLD_SPACE);
    MDB_cursor *cursor;
    MDB_val k = span_val(space), v;
    *m = (struct matcher){
        .queue = queue, .txn = txn, .filter = filter == NULL ? &match_all : filter};
    if (mdb_cursor_open(txn, queue->dbi[TABLE_STATE], &cursor) != 0)
        return;
    m->holds =
        mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE) == 0 && span_starts(val_span(k), space);
    mdb_cursor_close(cursor);
}

bool
queue_matcher_domain_held(struct matcher *m, struct span domain)
{
    char key[QUEUE_STATE_KEY_MAX];
    size_t n = sizeof(QUEUE_HOLD_SPACE) - 1;
    if (!m->holds || domain.n == 0 || n + domain.n > sizeof(key))
        return false;
    memcpy(key, QUEUE_HOLD_SPACE, n);
    memcpy(key + n, domain.p, domain.n);
    MDB_val k = {n + domain.n, key}, v;
    return mdb_get(m->txn, m->queue->dbi[TABLE_STATE], &k, &v) == 0;
}

const struct queue_msg *
queue_matcher_msg(struct matcher *m, uint64_t id)
{
    if (m->msg_id != id) {
        m->msg_id = id;
        m->msg_code = queue_msg_get(m->queue, m->txn, id, &m->msg, NULL);
    }
    return m->msg_code == ERR_OK ? &m->msg.msg : NULL;
}

static bool
msg_matches(struct matcher *m, uint64_t id)
{
    const struct queue_filter *f = m->filter;
    if (f->sender.n == 0 && !f->sender_null && f->arrived_before == 0)
        return true;
    const struct queue_msg *msg = queue_matcher_msg(m, id);
    if (msg == NULL)
        return false;
    if ((f->sender.n > 0 || f->sender_null) && !span_eq(f->sender, msg->sender))
        return false;
    return f->arrived_before == 0 || msg->arrived_at < f->arrived_before;
}

bool
queue_matcher_match(struct matcher *m, const struct queue_rcpt *r, bool *ret_domain_held)
{
    const struct queue_filter *f = m->filter;
    if ((f->id != 0 && r->id != f->id) || (f->domain.n > 0 && !span_eq(f->domain, r->domain)))
        return false;
    *ret_domain_held = queue_matcher_domain_held(m, r->domain);
    enum queue_state shown = *ret_domain_held ? QUEUE_HELD : r->state;
    if (f->states != 0 && (f->states & (1u << shown)) == 0)
        return false;
    if (f->due_before != 0 && (r->state != QUEUE_SCHEDULED || r->due_at >= f->due_before))
        return false;
    return msg_matches(m, r->id);
}

/* Where the walk goes on: with an id in the filter only its own recipients are looked at. */
static struct key
start_key(const struct queue_filter *filter, struct queue_key after)
{
    if (filter->id != 0 && after.id < filter->id)
        return key_id_no(filter->id, 0);
    return key_after(after);
}

enum err_code
queue_list(struct queue_reader *reader, const struct queue_filter *filter, struct queue_key *after,
           size_t max, struct queue_page *ret_page, struct err *err)
{
    struct queue_page page = {.next_due_at = INT64_MAX};
    enum err_code code = queue_reader_begin(reader, &page.txn_id, err);
    if (code != ERR_OK)
        return code;
    CLEANUP(queue_reader_endp) struct queue_reader *end = reader;
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    struct page_builder b;
    struct record_rcpt r;
    struct key key = start_key(filter, *after);
    MDB_val k = key_val(&key), v;
    bool held;
    queue_page_start(&b, end, max, filter);
    int rc = mdb_cursor_open(reader->txn, reader->queue->dbi[TABLE_RECIPIENT], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    for (size_t walked = 0; rc == 0; rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT), walked++) {
        const char *p = k.mv_data;
        if (k.mv_size != KEY_ID_NO_BYTES || (filter->id != 0 && key_number(p, 8) != filter->id))
            break;
        if (walked >= QUEUE_SCAN_ROWS || (max > 0 && queue_page_full(&b))) {
            page.more = true;
            break;
        }
        *after = (struct queue_key){key_number(p, 8), (uint32_t)key_number(p + 8, 4)};
        if (record_rcpt_decode(after->id, after->no, val_span(v), &r, NULL) != ERR_OK) {
            queue_page_bad(&b, after->id, after->no);
        } else if (queue_matcher_match(&b.matcher, &r.rcpt, &held)) {
            page.n_matched++;
            if (max > 0)
                queue_page_add(&b, &r.rcpt, held);
        }
    }
    if (rc != 0 && rc != MDB_NOTFOUND)
        return queue_lmdb_err(reader->queue, rc, "cannot list", err);
    queue_page_pack(&b, &page);
    *ret_page = page;
    return ERR_OK;
}
