/*
 * conn_close - the end of a connection: at once, or on its own after its last words.
 */
#include "relayd/net/conn_private.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void
conn_free(void *object)
{
    struct conn *c = object;
    conn_tls_free(c->tls);
    conn_wipe_kept(c);
    strbuf_release(&c->kept);
    strbuf_release(&c->gather);
    strbuf_release(&c->out);
    free(c);
}

static void
lingering_add(struct conn *c)
{
    struct loop *loop = c->loop;
    c->next = loop->lingering;
    if (c->next != NULL)
        c->next->prev = c;
    c->prev = NULL;
    loop->lingering = c;
    loop->n_lingering++;
}

static void
lingering_remove(struct conn *c)
{
    struct loop *loop = c->loop;
    if (c->prev == NULL && loop->lingering != c)
        return; /* never added */
    if (c->prev != NULL)
        c->prev->next = c->next;
    else
        loop->lingering = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    loop->n_lingering--;
}

void
conn_retire(struct conn *c)
{
    if (c == NULL)
        return;
    assert(c->state != CONN_DEAD);
    if (c->state == CONN_CLOSING)
        lingering_remove(c);
    c->state = CONN_DEAD;
    conn_reading_stop(c);
    conn_writing_stop(c);
    timer_cancel(loop_clock(c->loop), &c->timer);
    loop_defer_cancel(&c->later);
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    loop_retire(c->loop, c, conn_free);
}

static void
on_closing_timeout(void *arg)
{
    conn_retire(arg);
}

/* CLOSING, and everything is in the kernel. */
void
conn_closing_flushed(struct conn *c)
{
    if (!c->linger || shutdown(c->fd, SHUT_WR) != 0) {
        conn_retire(c);
        return;
    }
    timer_set(loop_clock(c->loop), &c->timer, CONN_LINGER_MS, on_closing_timeout, c);
    conn_reading_start(c);
}

void
conn_shutdown(struct conn *c, bool linger)
{
    bool open = c->state == CONN_OPEN || c->state == CONN_ENDED;
    if (conn_may_send(c)) {
        conn_gather_flush(c);
        if (c->tls != NULL)
            conn_tls_close_notify(c);
    }
    if (!open || c->write_error != 0 ||
        ((linger || conn_out_bytes(c) > 0) && c->loop->n_lingering >= CONN_LINGERING_MAX)) {
        conn_retire(c);
        return;
    }
    /* Nothing to wait for when the peer has closed; but a refused handshake ends with an alert. */
    bool alert = c->tls != NULL && conn_tls_facts(c) == NULL;
    c->linger = linger && (c->state == CONN_OPEN || alert);
    c->state = CONN_CLOSING;
    loop_defer_cancel(&c->later);
    if (!c->in_callback)
        conn_keep_unread(c);
    lingering_add(c);
    if (conn_out_bytes(c) == 0) {
        conn_closing_flushed(c);
    } else {
        conn_reading_stop(c);
        timer_set(loop_clock(c->loop), &c->timer, CONN_FLUSH_MS, on_closing_timeout, c);
    }
}

void
conn_closing_readable(struct conn *c)
{
    ssize_t n = read(c->fd, c->loop->input, LOOP_BUFFER_BYTES);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        conn_retire(c);
}

const char *
conn_end_name(enum conn_end_kind kind)
{
    static const char *const names[] = {
        [CONN_END_EOF] = "eof",         [CONN_END_TRUNCATED] = "truncated",
        [CONN_END_RESET] = "reset",     [CONN_END_TIMEOUT] = "timeout",
        [CONN_END_REFUSED] = "refused", [CONN_END_UNREACHABLE] = "unreachable",
        [CONN_END_LOCAL] = "local",     [CONN_END_TLS] = "tls",
        [CONN_END_ERROR] = "error",
    };
    return names[kind];
}
