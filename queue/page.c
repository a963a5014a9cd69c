/*
 * How: rows are gathered with spans that point into the map, as long as the snapshot lives, and
 * packed at the end into one block: rows first, then their bytes.
 */
#include <stdlib.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"

static struct span *
row_span(struct queue_row *row, size_t i)
{
    struct span *const all[] = {&row->rcpt.address, &row->rcpt.domain, &row->rcpt.orcpt,
                                &row->rcpt.attempts, &row->sender};
    return i < N_ELEMENTS(all) ? all[i] : NULL;
}

void
queue_page_start(struct page_builder *b, struct queue_reader *reader, size_t max,
                 const struct queue_filter *filter)
{
    *b = (struct page_builder){.reader = reader, .max = max};
    queue_matcher_init(&b->matcher, reader->queue, reader->txn, filter);
}

bool
queue_page_full(const struct page_builder *b)
{
    return b->n >= b->max || b->bytes >= QUEUE_PAGE_BYTES;
}

void
queue_page_bad(struct page_builder *b, uint64_t id, uint32_t no)
{
    if (b->n_bad++ == 0)
        b->bad = (struct queue_key){id, no};
}

void
queue_page_add(struct page_builder *b, const struct queue_rcpt *rcpt, bool domain_held)
{
    struct queue_reader *reader = b->reader;
    const struct queue_msg *msg = queue_matcher_msg(&b->matcher, rcpt->id);
    struct span *s;
    if (msg == NULL) {
        queue_page_bad(b, rcpt->id, rcpt->no);
        return;
    }
    if (b->n == reader->rows_cap) {
        reader->rows_cap = reader->rows_cap == 0 ? 64 : reader->rows_cap * 2;
        reader->rows = xrealloc(reader->rows, reader->rows_cap * sizeof(reader->rows[0]));
    }
    struct queue_row *row = &reader->rows[b->n++];
    *row = (struct queue_row){.rcpt = *rcpt,
                              .lane = queue_lane(reader->queue, rcpt->domain),
                              .domain_held = domain_held,
                              .arrived_at = msg->arrived_at,
                              .size_bytes = msg->size_bytes,
                              .msg_flags = msg->flags,
                              .sender = msg->sender};
    b->bytes += sizeof(*row);
    for (size_t i = 0; (s = row_span(row, i)) != NULL; i++)
        b->bytes += s->n;
}

void
queue_page_pack(struct page_builder *b, struct queue_page *ret)
{
    struct span *s;
    ret->n_rows = b->n;
    ret->n_bad = b->n_bad;
    ret->bad = b->bad;
    if (b->n == 0)
        return;
    ret->memory = xmalloc(b->bytes);
    ret->rows = ret->memory;
    memcpy(ret->rows, b->reader->rows, b->n * sizeof(ret->rows[0]));
    char *at = (char *)(ret->rows + b->n);
    for (size_t r = 0; r < b->n; r++)
        for (size_t i = 0; (s = row_span(&ret->rows[r], i)) != NULL; i++)
            queue_pack_span(&at, s);
}

void
queue_page_release(struct queue_page *page)
{
    free(page->memory);
    page->memory = page->rows = NULL;
    page->n_rows = 0;
}

/* ------------------------------------------------------------------------------------ fresh */

enum err_code
queue_page_fresh(struct queue_reader *reader, struct queue_key *after, size_t max,
                 struct queue_page *ret_page, struct err *err)
{
    struct queue_page page = {.next_due_at = INT64_MAX};
    enum err_code code = queue_reader_begin(reader, &page.txn_id, err);
    if (code != ERR_OK)
        return code;
    CLEANUP(queue_reader_endp) struct queue_reader *end = reader;
    CLEANUP(queue_cursor_closep) MDB_cursor *cursor = NULL;
    struct page_builder b;
    struct record_rcpt r;
    struct key key = key_after(*after);
    MDB_val k = key_val(&key), v;
    size_t walked = 0;
    queue_page_start(&b, end, max, NULL);
    int rc = mdb_cursor_open(reader->txn, reader->queue->dbi[TABLE_FRESH], &cursor);
    if (rc == 0)
        rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
    for (; rc == 0 && !queue_page_full(&b) && walked < QUEUE_SCAN_ROWS;
         rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT), walked++) {
        if (k.mv_size != KEY_ID_NO_BYTES)
            continue;
        after->id = key_number(k.mv_data, 8);
        after->no = (uint32_t)key_number((const char *)k.mv_data + 8, 4);
        if (queue_rcpt_get(reader->queue, reader->txn, after->id, after->no, &r, NULL) == ERR_OK &&
            r.rcpt.state == QUEUE_FRESH)
            queue_page_add(&b, &r.rcpt, queue_matcher_domain_held(&b.matcher, r.rcpt.domain));
        else
            queue_page_bad(&b, after->id, after->no);
    }
    if (rc != 0 && rc != MDB_NOTFOUND)
        return queue_lmdb_err(reader->queue, rc, "cannot read fresh recipients", err);
    page.more = rc == 0;
    queue_page_pack(&b, &page);
    *ret_page = page;
    return ERR_OK;
}
