/*
 * The bytes of a message on its way in: in memory while they are few; from INTAKE_SMALL_MAX on, in
 * pieces that the store writes as they come.
 */
#include "relayd/intake_private.h"

#include <stdlib.h>

#define PIECE_BYTES ((size_t)QUEUE_CHUNK_BYTES * 8)

/* A piece of a big body, owned by the store until it is done. */
struct piece {
    struct store_op op;
    struct intake_msg *m;
    struct span bytes;
    char data[PIECE_BYTES];
};

void
intake_body_add(struct intake_msg *m, struct span bytes)
{
    size_t n = m->body == NULL ? 0 : m->body->n;
    if (m->body == NULL || m->body_cap - n < bytes.n) {
        size_t cap = m->body_cap == 0 ? 4096 : m->body_cap * 2;
        while (cap - n < bytes.n)
            cap *= 2;
        m->body = xrealloc(m->body, sizeof(*m->body) + cap);
        m->body->n = n;
        m->body_cap = cap;
    }
    if (bytes.n > 0)
        memcpy(m->body->bytes + n, bytes.p, bytes.n);
    m->body->n += bytes.n;
}

static void
piece_done(struct store_op *op)
{
    struct piece *piece = CONTAINER_OF(op, struct piece, op);
    struct intake_msg *m = piece->m;

    m->pieces_out--;
    if (op->code != ERR_OK && m->piece_code == ERR_OK) {
        m->piece_code = op->code;
        m->piece_err = op->err;
    }
    free(piece);
    if (m->t == NULL) {
        intake_try_end(m);
    } else if (m->ended) {
        if (m->pieces_out == 0)
            intake_complete(m);
    } else if (m->waiting) {
        m->waiting = false;
        accept_resume(m->t);
    }
}

void
intake_piece_submit(struct intake_msg *m)
{
    struct piece *piece = m->piece;
    m->piece = NULL;
    piece->m = m;
    piece->bytes = span_of(piece->data, m->piece_n);
    piece->op.kind = STORE_CHUNK;
    piece->op.done = piece_done;
    piece->op.chunk.id = m->id;
    piece->op.chunk.offset = m->stored;
    piece->op.chunk.bytes = &piece->bytes;
    piece->op.chunk.n_bytes = 1;
    m->stored += m->piece_n;
    m->piece_n = 0;
    m->pieces_out++;
    store_submit(m->intake->env.store, &piece->op);
}

void
intake_pieces_add(struct intake_msg *m, struct span bytes)
{
    while (bytes.n > 0) {
        if (m->piece == NULL) {
            m->piece = xmalloc(sizeof(*m->piece));
            memset(m->piece, 0, offsetof(struct piece, data));
        }
        struct span now = span_first(bytes, PIECE_BYTES - m->piece_n);
        memcpy(m->piece->data + m->piece_n, now.p, now.n);
        m->piece_n += now.n;
        bytes = span_from(bytes, now.n);
        if (m->piece_n == PIECE_BYTES)
            intake_piece_submit(m);
    }
}

void
intake_become_big(struct intake_msg *m)
{
    struct msg_body *body = m->body;
    m->big = true;
    m->body = NULL;
    m->body_cap = 0;
    intake_pieces_add(m, span_of(body->bytes, body->n));
    free(body);
}
