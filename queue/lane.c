/*
 * How: all waiting recipients of a domain lie together in the order of their due times, behind an
 * 8-byte hash of the domain. Finding the lanes skips from the first key of one to the first key of
 * the next (two searches a lane), so that a start need not walk a million rows.
 *
 * The hash is part of the file format (map_hash: SipHash-1-3 with the secret in meta); a unit test
 * pins its value.
 */
#include "policy/base/mem.h"
#include "queue/queue_impl.h"

uint64_t
queue_lane(const struct queue *queue, struct span domain)
{
    return map_hash(queue->lane_seed, domain);
}

static struct key
key_after_due(uint64_t lane, struct queue_due_key after)
{
    if (after.due_at == 0 && after.id == 0 && after.no == 0)
        return key_schedule(lane, 0, 0, 0);
    if (after.no == UINT32_MAX)
        return key_schedule(lane, after.due_at, after.id + 1, 0);
    return key_schedule(lane, after.due_at, after.id, after.no + 1);
}

/* Add the recipient of a schedule row to the page, if it and the row agree. */
static void
row_add(struct page_builder *b, const struct queue_due_key *at)
{
    struct record_rcpt r;
    struct queue_reader *reader = b->reader;
    if (queue_rcpt_get(reader->queue, reader->txn, at->id, at->no, &r, NULL) != ERR_OK ||
        r.rcpt.state != QUEUE_SCHEDULED || r.rcpt.due_at != at->due_at) {
        queue_page_bad(b, at->id, at->no);
        return;
    }
    queue_page_add(b, &r.rcpt, queue_matcher_domain_held(&b->matcher, r.rcpt.domain));
}

enum err_code
queue_page_lane(struct queue_reader *reader, uint64_t lane, struct queue_due_key *after,
                msec_t until, size_t max, struct queue_page *ret_page, struct err *err)
{
    struct queue_page page = {.next_due_at = INT64_MAX};
    enum err_code code = queue_reader_begin(reader, &page.txn_id, err);
    if (code != ERR_OK)
        return code;
    CLEANUP(queue_reader_endp) struct queue_reader *end = reader;
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    struct page_builder b;
    struct key key = key_after_due(lane, *after);
    MDB_val k = key_val(&key), v;
    queue_page_start(&b, end, max, NULL);
    int rc = mdb_cursor_open(reader->txn, reader->queue->dbi[TABLE_SCHEDULE], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    for (size_t walked = 0; rc == 0; rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT), walked++) {
        if (k.mv_size != KEY_SCHEDULE_BYTES || key_number(k.mv_data, 8) != lane)
            break;
        const char *p = k.mv_data;
        struct queue_due_key at = {(msec_t)key_number(p + 8, 8), key_number(p + 16, 8),
                                   (uint32_t)key_number(p + 24, 4)};
        if (at.due_at > until) {
            page.next_due_at = at.due_at;
            break;
        }
        if (queue_page_full(&b) || walked >= QUEUE_SCAN_ROWS) {
            page.more = true;
            page.next_due_at = at.due_at;
            break;
        }
        row_add(&b, &at);
        *after = at;
    }
    if (rc != 0 && rc != MDB_NOTFOUND)
        return queue_lmdb_err(reader->queue, rc, "cannot read a lane", err);
    queue_page_pack(&b, &page);
    *ret_page = page;
    return ERR_OK;
}

enum err_code
queue_lanes(struct queue_reader *reader, const uint64_t *after, size_t max,
            struct queue_lane_row *rows, size_t *ret_n, uint64_t *ret_last, bool *ret_more,
            uint64_t *ret_txn_id, struct err *err)
{
    enum err_code code = queue_reader_begin(reader, ret_txn_id, err);
    if (code != ERR_OK)
        return code;
    CLEANUP(queue_reader_endp) struct queue_reader *end = reader;
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    size_t n = 0;
    int rc = mdb_cursor_open(end->txn, reader->queue->dbi[TABLE_SCHEDULE], &cursor);
    uint64_t lane = after == NULL ? 0 : *after + 1;
    bool done = after != NULL && *after == UINT64_MAX;
    while (rc == 0 && !done && n < max) {
        struct key key = key_id(lane);
        MDB_val k = key_val(&key), v;
        rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
        if (rc != 0 || k.mv_size != KEY_SCHEDULE_BYTES)
            break;
        rows[n].lane = key_number(k.mv_data, 8);
        rows[n].due_at = (msec_t)key_number((const char *)k.mv_data + 8, 8);
        done = rows[n].lane == UINT64_MAX;
        lane = rows[n++].lane + 1;
    }
    if (rc != 0 && rc != MDB_NOTFOUND)
        return queue_lmdb_err(reader->queue, rc, "cannot read the lanes", err);
    *ret_n = n;
    *ret_more = rc == 0 && !done && n == max;
    if (n > 0)
        *ret_last = rows[n - 1].lane;
    return ERR_OK;
}
