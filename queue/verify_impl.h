/*
 * verify_impl - what verify.c (steps and findings) and verify_rows.c (one check a table) share.
 */
#pragma once

#include "queue/queue_impl.h"

struct queue_verify {
    enum table table; /* being walked; TABLES: the pages; beyond: finished */
    struct key_text {
        unsigned char b[QUEUE_STATE_KEY_MAX + 112];
        size_t n;
    } at; /* the last key looked at, n is 0 at a table's beginning */
    uint64_t rows, messages, recipients, body_bytes, n_findings;
    size_t step_bytes; /* of bodies, in this step */
    char **texts;
    size_t n_texts, texts_cap;

    /* Of this step's snapshot. */
    struct queue *queue;
    MDB_txn *txn;
    MDB_cursor *cursors[TABLES];
    uint64_t last_id;
};

void queue_verify_finding(struct queue_verify *v, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Check the row and what belongs to it. A check may move `at` beyond it (skip). rc of LMDB. */
int queue_verify_row(struct queue_verify *v, struct span key, struct span value);

/* Are all pages either in use or free? */
int queue_verify_pages(struct queue_verify *v);
