/*
 * conn_out - the way out of a connection: gathering, one system call, and what waits for EV_WRITE.
 */
#include "relayd/net/conn_private.h"

#include <assert.h>
#include <errno.h>

#include <event2/event.h>

#define GATHER_MAX 16384    /* more goes out at once: as long as a TLS record */
#define COMPACT_BYTES 65536 /* sent bytes kept in front of `out` before they are moved away */

void
conn_writing_stop(struct conn *c)
{
    if (c->writing)
        event_del(&c->ev_write);
    c->writing = false;
}

void
conn_writing_start(struct conn *c)
{
    if (!c->writing) {
        event_add(&c->ev_write, NULL);
        c->writing = true;
    }
}

size_t
conn_out_bytes(const struct conn *c)
{
    return c->out.n - c->out_at;
}

void
conn_out_drop(struct conn *c)
{
    strbuf_release(&c->out);
    c->out_at = 0;
    conn_writing_stop(c);
}

static void
write_failed(struct conn *c, int error)
{
    c->write_error = error;
    conn_out_drop(c);
    if (c->state == CONN_OPEN || c->state == CONN_HANDSHAKE)
        conn_later(c);
}

/* Returns what the kernel took, 0 for "not now", or -1 after write_failed(). */
ssize_t
conn_kernel_write(struct conn *c, struct iovec *iov, size_t n)
{
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n};
    ssize_t sent;
    do
        sent = sendmsg(c->fd, &msg, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return sent;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)
        return 0;
    write_failed(c, errno);
    return -1;
}

static void
out_append(struct conn *c, const struct iovec *iov, size_t n, size_t skip)
{
    if (c->out_at >= COMPACT_BYTES) {
        strbuf_consume(&c->out, c->out_at);
        c->out_at = 0;
    }
    for (size_t i = 0; i < n; i++) {
        size_t cut = skip < iov[i].iov_len ? skip : iov[i].iov_len;
        strbuf_add(&c->out, (const char *)iov[i].iov_base + cut, iov[i].iov_len - cut);
        skip -= cut;
    }
    conn_writing_start(c);
}

void
conn_raw_send(struct conn *c, struct iovec *iov, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += iov[i].iov_len;
    if (c->write_error != 0 || total == 0)
        return;
    ssize_t sent = conn_out_bytes(c) > 0 ? 0 : conn_kernel_write(c, iov, n);
    if (sent >= 0 && (size_t)sent < total)
        out_append(c, iov, n, (size_t)sent);
}

bool
conn_may_send(const struct conn *c)
{
    return c->write_error == 0 &&
           (c->state == CONN_OPEN || (c->state == CONN_ENDED && c->half_open));
}

static void
send_plain(struct conn *c, struct iovec *iov, size_t n)
{
    if (c->tls == NULL)
        conn_raw_send(c, iov, n);
    else
        conn_tls_send(c, iov, n);
}

void
conn_gather_flush(struct conn *c)
{
    if (c->gather.n == 0 || !conn_may_send(c))
        return;
    struct iovec iov = {c->gather.p, c->gather.n};
    send_plain(c, &iov, 1);
    strbuf_reset(&c->gather);
}

void
conn_writev(struct conn *c, const struct span *pieces, size_t n)
{
    struct iovec iov[CONN_IOV_MAX + 1];
    size_t total = 0, n_iov = 0;
    bool held = c->state == CONN_CONNECTING || c->state == CONN_HANDSHAKE;

    assert(n <= CONN_IOV_MAX && c->state < CONN_CLOSING);
    for (size_t i = 0; i < n; i++)
        total += pieces[i].n;
    c->bytes_out += total;
    if (total == 0 || (!held && !conn_may_send(c)))
        return;
    if (held || ((c->corked || c->in_callback) && c->gather.n + total <= GATHER_MAX)) {
        for (size_t i = 0; i < n; i++)
            strbuf_add_span(&c->gather, pieces[i]);
        return;
    }
    if (c->gather.n > 0)
        iov[n_iov++] = (struct iovec){c->gather.p, c->gather.n};
    for (size_t i = 0; i < n; i++)
        if (pieces[i].n > 0)
            iov[n_iov++] = (struct iovec){(void *)(uintptr_t)pieces[i].p, pieces[i].n};
    send_plain(c, iov, n_iov);
    strbuf_reset(&c->gather);
}

void
conn_write(struct conn *c, struct span bytes)
{
    conn_writev(c, &bytes, 1);
}

void
conn_write_secret(struct conn *c, struct span bytes)
{
    struct iovec iov = {(void *)(uintptr_t)bytes.p, bytes.n};

    assert(c->tls != NULL && c->state != CONN_HANDSHAKE && c->state < CONN_CLOSING);
    conn_gather_flush(c);
    if (bytes.n == 0 || !conn_may_send(c))
        return;
    c->bytes_out += bytes.n;
    send_plain(c, &iov, 1);
}

void
conn_cork(struct conn *c)
{
    c->corked = true;
}

void
conn_uncork(struct conn *c)
{
    c->corked = false;
    if (!c->in_callback) {
        conn_gather_flush(c);
        if (c->gather.n == 0)
            strbuf_release(&c->gather);
    }
}

size_t
conn_out_pending(struct conn *c)
{
    conn_gather_flush(c);
    size_t waits = c->write_error != 0 ? 0 : conn_out_bytes(c) + c->gather.n;
    if (waits > 0)
        c->drain_due = true;
    return waits;
}

bool
conn_out_failed(const struct conn *c)
{
    return c->write_error != 0;
}
