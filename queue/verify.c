/*
 * How: one table after the other, a limited number of rows a step, going on behind the last key
 * looked at. Each step has a snapshot of its own, so rows that come and go between steps are either
 * seen whole or not at all; nothing is compared across snapshots. A table that LMDB itself cannot
 * read is a finding, and the next one is looked at.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "queue/verify_impl.h"

#define STEP_ROWS 1000
#define STEP_BODY_BYTES (8u << 20)
#define PHASE_PAGES TABLES
#define PHASE_DONE (TABLES + 1)

struct queue_verify *
queue_verify_new(void)
{
    return xcalloc(1, sizeof(struct queue_verify));
}

void
queue_verify_free(struct queue_verify *v)
{
    if (v == NULL)
        return;
    for (size_t i = 0; i < v->n_texts; i++)
        free(v->texts[i]);
    free(v->texts);
    free(v);
}

void
queue_verify_finding(struct queue_verify *v, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    v->n_findings++;
    if (v->n_texts == QUEUE_FINDINGS_MAX)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (v->n_texts == v->texts_cap) {
        v->texts_cap = v->texts_cap == 0 ? 16 : v->texts_cap * 2;
        v->texts = xrealloc(v->texts, v->texts_cap * sizeof(v->texts[0]));
    }
    v->texts[v->n_texts++] = xstrdup(text);
}

static void
next_table(struct queue_verify *v)
{
    v->table++;
    v->at.n = 0;
}

static int
seek(struct queue_verify *v, MDB_cursor *cursor, MDB_val *k, MDB_val *value)
{
    if (v->at.n == 0)
        return mdb_cursor_get(cursor, k, value, MDB_FIRST);
    *k = (MDB_val){v->at.n, v->at.b};
    int rc = mdb_cursor_get(cursor, k, value, MDB_SET_RANGE);
    if (rc == 0 && span_eq(val_span(*k), span_of(v->at.b, v->at.n)))
        rc = mdb_cursor_get(cursor, k, value, MDB_NEXT);
    return rc;
}

static int
walk(struct queue_verify *v)
{
    MDB_val k, value;
    MDB_cursor *cursor = v->cursors[v->table];
    int rc = seek(v, cursor, &k, &value);
    for (size_t n = 0; rc == 0 && n < STEP_ROWS && v->step_bytes < STEP_BODY_BYTES; n++) {
        /* On pages that are not what they should be keys are empty or run back, without end. */
        if (k.mv_size == 0 || k.mv_size > sizeof(v->at.b) ||
            span_cmp(val_span(k), span_of(v->at.b, v->at.n)) <= 0)
            return MDB_CORRUPTED;
        memcpy(v->at.b, k.mv_data, k.mv_size);
        v->at.n = k.mv_size;
        v->rows++;
        rc = queue_verify_row(v, val_span(k), val_span(value));
        if (rc == 0)
            rc = seek(v, cursor, &k, &value);
    }
    return rc;
}

static int
snapshot_start(struct queue_verify *v)
{
    int rc = 0;
    MDB_val k = {sizeof(META_LAST_ID) - 1, META_LAST_ID}, value;
    v->step_bytes = 0;
    v->last_id = 0;
    for (enum table t = 0; rc == 0 && t < TABLES; t++)
        rc = mdb_cursor_open(v->txn, v->queue->dbi[t], &v->cursors[t]);
    if (rc == 0 && mdb_get(v->txn, v->queue->dbi[TABLE_META], &k, &value) == 0 &&
        value.mv_size == 8)
        for (size_t i = 0; i < 8; i++)
            v->last_id |= (uint64_t)((unsigned char *)value.mv_data)[i] << (8 * i);
    return rc;
}

static void
snapshot_end(struct queue_verify *v)
{
    for (enum table t = 0; t < TABLES; t++) {
        if (v->cursors[t] != NULL)
            mdb_cursor_close(v->cursors[t]);
        v->cursors[t] = NULL;
    }
    v->txn = NULL;
}

static const char *
phase_name(unsigned phase)
{
    return phase < TABLES ? queue_table_names[phase] : phase == PHASE_PAGES ? "pages" : "";
}

enum err_code
queue_verify_step(struct queue_verify *v, struct queue_reader *reader,
                  struct queue_verify_result *ret, struct err *err)
{
    uint64_t txn_id;
    if ((unsigned)v->table < PHASE_DONE) {
        enum err_code code = queue_reader_begin(reader, &txn_id, err);
        if (code != ERR_OK)
            return code;
        v->queue = reader->queue;
        v->txn = reader->txn;
        int rc = snapshot_start(v);
        if (rc == 0)
            rc = (unsigned)v->table == PHASE_PAGES ? queue_verify_pages(v) : walk(v);
        snapshot_end(v);
        queue_reader_end(reader);
        if (rc != 0 && rc != MDB_NOTFOUND)
            queue_verify_finding(v, "table %s cannot be read any further: %s", phase_name(v->table),
                                 mdb_strerror(rc));
        if (rc != 0)
            next_table(v);
    }
    *ret = (struct queue_verify_result){.finished = (unsigned)v->table >= PHASE_DONE,
                                        .table = phase_name(v->table),
                                        .rows = v->rows,
                                        .messages = v->messages,
                                        .recipients = v->recipients,
                                        .body_bytes = v->body_bytes,
                                        .n_findings = v->n_findings,
                                        .n_texts = v->n_texts,
                                        .texts = (const char *const *)v->texts};
    return ERR_OK;
}
