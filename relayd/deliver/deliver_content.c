/*
 * Content: heads and body through the dot-stuffer into the connection.
 *
 * The next piece is asked for when little is waiting for the peer, so that a connection never holds
 * more than DELIVER_UNSENT_MAX. The body's deadline is a rate: each block_ms at least
 * DELIVER_MIN_RATE_BYTES a second must have left, unless it was our own reader that was slow.
 */
#include "relayd/deliver/deliver_private.h"

#include "relayd/net/conn.h"
#include "relayd/work/inhand.h"

#include <assert.h>

#define REFILL_BELOW_BYTES 65536 /* ask for more when less than this waits */

/* Even if each line of a piece gets a dot ("\r\n." to "\r\n.."), the limit holds. */
_Static_assert(REFILL_BELOW_BYTES + DELIVER_CHUNK_MAX / 3 * 4 < DELIVER_UNSENT_MAX,
               "a piece must fit");

static void on_rate(void *arg);

static uint64_t
bytes_sent(struct deliver_conn *c)
{
    uint64_t out = conn_bytes_out(c->conn), pending = conn_out_pending(c->conn);
    return out > pending ? out - pending : 0;
}

static void
window_start(struct deliver_conn *c)
{
    c->content.window_bytes = bytes_sent(c);
    timer_set(loop_clock(c->env->loop), &c->timer, c->target.timeouts.block_ms, on_rate, c);
}

/* A window of block_ms is over. */
static void
on_rate(void *arg)
{
    struct deliver_conn *c = arg;
    assert(c->content.active && !c->running);
    uint64_t least = (uint64_t)c->target.timeouts.block_ms * DELIVER_MIN_RATE_BYTES / SECOND;
    size_t pending = conn_out_pending(c->conn);
    bool ours = c->content.asked && pending == 0;
    if (ours || bytes_sent(c) - c->content.window_bytes >= least) {
        window_start(c);
        return;
    }
    deliver_go(c, smtpc_lost(c->core, SMTPC_LOSS_TIMEOUT, "timeout: content was taken too slowly"));
}

void
deliver_content_start(struct deliver_conn *c)
{
    c->content = (struct content){.active = true};
    window_start(c);
    deliver_content_pump(c);
}

void
deliver_content_pump(struct deliver_conn *c)
{
    struct content *k = &c->content;
    if (k->pumping)
        return;
    IN_HAND(smtpc_txn(c->core)->msg_id);
    k->pumping = true;
    while (!c->dead && k->active && !k->asked && !k->all_given &&
           conn_out_pending(c->conn) < REFILL_BELOW_BYTES) {
        bool was_running = c->running;
        k->asked = true;
        c->running = true;
        c->ops->want_body(c->arg, smtpc_txn(c->core), k->offset);
        c->running = was_running;
    }
    k->pumping = false;
    if (c->dead || !k->active || !k->all_given || conn_out_pending(c->conn) > 0 ||
        conn_out_failed(c->conn))
        return;
    k->active = false;
    timer_cancel(loop_clock(c->env->loop), &c->timer);
    deliver_go(c, smtpc_body_sent(c->core));
}

/* Pieces on their way to one conn_writev(). */
struct batch {
    struct span pieces[CONN_IOV_MAX];
    size_t n;
};

static void
batch_send(struct deliver_conn *c, struct batch *b)
{
    if (b->n > 0)
        conn_writev(c->conn, b->pieces, b->n);
    b->n = 0;
}

/* Dot-stuff `bytes` into the batch; sends it whenever it is full. */
static void
batch_add(struct deliver_conn *c, struct batch *b, struct span bytes)
{
    while (bytes.n > 0) {
        size_t used;
        if (CONN_IOV_MAX - b->n < BODY_PIECES_MIN)
            batch_send(c, b);
        b->n +=
            body_stuff(&c->content.stuffer, bytes, b->pieces + b->n, CONN_IOV_MAX - b->n, &used);
        bytes = span_from(bytes, used);
    }
}

/* `last` or not, what is written here leaves in as few calls as it can. */
static void
content_write(struct deliver_conn *c, struct span bytes, bool last)
{
    struct content *k = &c->content;
    struct batch b = {.n = 0};
    conn_cork(c->conn);
    const struct deliver_txn *txn = smtpc_txn(c->core);
    for (size_t i = 0; !k->heads_sent && i < txn->n_heads; i++)
        batch_add(c, &b, txn->heads[i]);
    k->heads_sent = true;
    batch_add(c, &b, bytes);
    if (last) {
        if (b.n == CONN_IOV_MAX)
            batch_send(c, &b);
        b.pieces[b.n++] = body_end(&k->stuffer);
    }
    batch_send(c, &b);
    conn_uncork(c->conn);
}

void
deliver_body(struct deliver_conn *c, struct deliver_txn *txn, uint64_t offset, struct span bytes,
             bool last)
{
    struct content *k = &c->content;
    assert(bytes.n <= DELIVER_CHUNK_MAX);
    if (c->dead || !k->active || !k->asked || k->offset != offset || smtpc_txn(c->core) != txn)
        return;
    assert(last || bytes.n > 0);
    k->asked = false;
    k->all_given = last;
    k->offset += bytes.n;
    content_write(c, bytes, last);
    deliver_content_pump(c);
}

void
deliver_body_failed(struct deliver_conn *c, struct deliver_txn *txn, const char *why)
{
    struct content *k = &c->content;
    if (c->dead || !k->active || !k->asked || smtpc_txn(c->core) != txn)
        return;
    deliver_go(c, smtpc_body_failed(c->core, why));
}
