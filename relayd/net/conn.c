/*
 * conn - sockets, buffers and the life of a connection. TLS records: conn_tls.c.
 *
 * Input is read into a buffer of the loop and shown to the driver there; only what it leaves is
 * copied and kept. Output is written at once; only what the kernel does not take is kept, and only
 * then is EV_WRITE added. EV_READ is added once and taken out when the peer sends while we are
 * paused, so that a pause costs nothing while the peer is quiet.
 *
 * The driver is called from the top level of the loop only (socket events, and on_later() at
 * the end of the tick), never from inside a function that it has called.
 */
#include "relayd/net/conn_private.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <event2/event.h>

#include "policy/base/mem.h"

#define GATHER_KEPT_MAX 65536 /* lent memory that grew beyond is given back */
#define LAST_READS_MAX 16     /* reads after a failed write, to get the peer's last words */

static void on_readable(evutil_socket_t fd, short what, void *arg);
static void on_writable(evutil_socket_t fd, short what, void *arg);
static void on_later(struct deferred *d);

/* ---- events ---- */

static bool
wants_input(const struct conn *c)
{
    switch (c->state) {
    case CONN_HANDSHAKE:
        return true;
    case CONN_OPEN:
        return !c->paused && c->unread.n < CONN_INPUT_MAX && (c->tls == NULL || !c->tls->ended);
    case CONN_CLOSING:
        return c->linger;
    default:
        return false;
    }
}

void
conn_reading_stop(struct conn *c)
{
    if (c->reading)
        event_del(&c->ev_read);
    c->reading = false;
}

void
conn_reading_start(struct conn *c)
{
    if (!c->reading && wants_input(c)) {
        event_add(&c->ev_read, NULL);
        c->reading = true;
    }
}

void
conn_later(struct conn *c)
{
    loop_defer(c->loop, &c->later, on_later);
}

/* ---- calling the driver ---- */

static void
callback_begin(struct conn *c)
{
    assert(!c->in_callback);
    c->in_callback = true;
    if (c->gather.p == NULL) {
        c->gather = c->loop->gather;
        c->loop->gather = STRBUF_INIT;
    }
}

static void
callback_end(struct conn *c)
{
    c->in_callback = false;
    if (!c->corked)
        conn_gather_flush(c);
    if (c->state >= CONN_CLOSING)
        strbuf_reset(&c->gather);
    if (c->gather.n > 0) /* held back for a handshake, or corked */
        return;
    if (c->loop->gather.p == NULL && c->gather.cap <= GATHER_KEPT_MAX) {
        c->loop->gather = c->gather;
        c->gather = STRBUF_INIT;
    } else {
        strbuf_release(&c->gather);
    }
    if (c->drain_due && conn_out_bytes(c) == 0 && c->state < CONN_CLOSING)
        conn_later(c);
}

void
conn_end(struct conn *c, enum conn_end_kind kind, int error, const char *text)
{
    struct conn_end end = {kind, error, text};
    if (end.text == NULL)
        end.text = kind == CONN_END_EOF ? "connection closed by the peer"
                   : kind == CONN_END_TRUNCATED
                       ? "connection closed by the peer without close_notify"
                       : strerror(error);
    if (c->state == CONN_HANDSHAKE) {
        conn_tls_failed(c, TLS_FAIL_CLOSED, end.text);
        return;
    }
    c->state = CONN_ENDED;
    c->half_open = kind == CONN_END_EOF && c->write_error == 0;
    conn_reading_stop(c);
    if (!c->half_open)
        conn_out_drop(c);
    callback_begin(c);
    c->ops->on_closed(c->arg, &end);
    callback_end(c);
}

void
conn_end_errno(struct conn *c, int error)
{
    conn_end(c, conn_end_kind_of(error, c->state == CONN_CONNECTING), error, NULL);
}

void
conn_tls_done(struct conn *c)
{
    struct conn_tls_result result = {TLS_FAIL_NONE, &c->tls->facts, ""};
    c->state = CONN_OPEN;
    callback_begin(c);
    c->ops->on_tls(c->arg, &result);
    callback_end(c);
}

void
conn_tls_failed(struct conn *c, enum tls_failure failure, const char *text)
{
    struct conn_tls_result result = {failure, NULL, text};
    c->state = CONN_ENDED;
    conn_reading_stop(c);
    strbuf_release(&c->gather); /* what waited for TLS is not for anybody else */
    callback_begin(c);
    c->ops->on_tls(c->arg, &result);
    callback_end(c);
}

/* ---- input ---- */

size_t
conn_unread_to_front(struct conn *c)
{
    if (c->unread.n > 0)
        memmove(c->loop->input, c->unread.p, c->unread.n);
    return c->unread.n;
}

void
conn_wipe_input(struct conn *c, size_t used)
{
    if (c->secret)
        explicit_bzero(c->loop->input, used);
}

void
conn_wipe_kept(struct conn *c)
{
    if (c->secret && c->kept.p != NULL)
        explicit_bzero(c->kept.p, c->kept.cap);
}

void
conn_read_secret(struct conn *c, bool secret)
{
    c->secret = secret;
    conn_tls_set_secret(c);
}

void
conn_keep_unread(struct conn *c)
{
    bool is_kept =
        c->kept.p != NULL && c->unread.p >= c->kept.p && c->unread.p <= c->kept.p + c->kept.n;
    if (c->unread.n == 0 || c->state >= CONN_CLOSING) {
        conn_wipe_kept(c);
        strbuf_release(&c->kept);
        c->unread = SPAN_NONE;
    } else if (!is_kept) {
        conn_wipe_kept(c);
        strbuf_reset(&c->kept);
        strbuf_add_span(&c->kept, c->unread);
        c->unread = strbuf_span(&c->kept);
    }
}

void
conn_deliver(struct conn *c)
{
    bool in_loop = c->unread.p == c->loop->input;
    size_t n = c->unread.n;

    c->data_due = false;
    callback_begin(c);
    c->ops->on_data(c->arg);
    callback_end(c);
    conn_keep_unread(c);
    if (in_loop)
        conn_wipe_input(c, n);
    conn_reading_start(c);
}

/* One read of a connection in clear; false when nothing came (or the end, which was told). */
static bool
plain_read(struct conn *c)
{
    size_t n_old = conn_unread_to_front(c);
    ssize_t n = read(c->fd, c->loop->input + n_old, LOOP_BUFFER_BYTES);
    if (n > 0) {
        c->bytes_in += (uint64_t)n;
        c->unread = span_of(c->loop->input, n_old + (size_t)n);
        conn_deliver(c);
        return true;
    }
    int error = errno;
    conn_wipe_input(c, n_old);
    if (n == 0)
        conn_end(c, CONN_END_EOF, 0, NULL);
    else if (error != EAGAIN && error != EINTR)
        conn_end_errno(c, error);
    return false;
}

struct span
conn_input(const struct conn *c)
{
    return c->unread;
}

void
conn_consume(struct conn *c, size_t n)
{
    assert(n <= c->unread.n && c->state < CONN_CLOSING);
    c->unread = span_from(c->unread, n);
    if (c->in_callback)
        return; /* conn_deliver() tidies up */
    conn_keep_unread(c);
    conn_reading_start(c);
}

void
conn_pause(struct conn *c)
{
    c->paused = true;
    c->data_due = false;
}

void
conn_resume(struct conn *c)
{
    c->paused = false;
    if (c->state != CONN_OPEN)
        return;
    c->data_due = c->unread.n > 0;
    if (c->data_due || (c->tls != NULL && c->tls->ended))
        conn_later(c);
    conn_reading_start(c);
}

/* ---- events of the loop ---- */

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;

    if (!wants_input(c))
        conn_reading_stop(c);
    else if (c->state == CONN_CLOSING)
        conn_closing_readable(c);
    else if (c->tls != NULL)
        conn_tls_readable(c);
    else
        plain_read(c);
}

static void
connected(struct conn *c)
{
    c->state = CONN_OPEN;
    conn_writing_stop(c);
    conn_reading_start(c);
    callback_begin(c);
    c->ops->on_connected(c->arg);
    callback_end(c);
}

static void
connecting_writable(struct conn *c)
{
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    if (error == 0)
        connected(c);
    else
        conn_end_errno(c, error);
}

static void
drained(struct conn *c)
{
    c->drain_due = false;
    if (c->ops->on_drained == NULL)
        return;
    callback_begin(c);
    c->ops->on_drained(c->arg);
    callback_end(c);
}

static void
on_writable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;

    if (c->state == CONN_CONNECTING) {
        connecting_writable(c);
        return;
    }
    struct iovec iov = {c->out.p + c->out_at, conn_out_bytes(c)};
    ssize_t sent = conn_kernel_write(c, &iov, 1);
    if (sent < 0) {
        if (c->state == CONN_CLOSING)
            conn_retire(c);
        return;
    }
    c->out_at += (size_t)sent;
    if (conn_out_bytes(c) > 0)
        return;
    conn_out_drop(c);
    if (c->state == CONN_CLOSING)
        conn_closing_flushed(c);
    else if (c->drain_due)
        drained(c);
}

/* The way out broke: read what the peer said before, then tell. */
static void
write_error_tell(struct conn *c)
{
    for (int i = 0; i < LAST_READS_MAX && wants_input(c); i++) {
        if (!(c->tls != NULL ? conn_tls_readable(c) : plain_read(c)))
            break;
    }
    if (c->state == CONN_OPEN || c->state == CONN_HANDSHAKE)
        conn_end_errno(c, c->write_error);
}

/* Everything that waited for the end of the tick. Each step may end the connection. */
static void
on_later(struct deferred *d)
{
    struct conn *c = CONTAINER_OF(d, struct conn, later);

    if (c->state == CONN_CONNECTING) {
        if (c->start_error != 0)
            conn_end_errno(c, c->start_error);
        else
            connected(c);
        return;
    }
    if (c->state == CONN_HANDSHAKE && !c->tls->begun)
        conn_tls_begin(c);
    if (c->state == CONN_OPEN && c->data_due && !c->paused)
        conn_deliver(c);
    if (c->write_error != 0 && (c->state == CONN_OPEN || c->state == CONN_HANDSHAKE))
        write_error_tell(c);
    if (c->state == CONN_OPEN && !c->paused && c->tls != NULL && c->tls->ended)
        conn_end(c, c->tls->end_kind, 0, c->tls->end_kind == CONN_END_TLS ? c->tls->text : NULL);
    if (c->state < CONN_CLOSING && c->drain_due && conn_out_bytes(c) + c->gather.n == 0 &&
        c->write_error == 0)
        drained(c);
}

/* ---- beginning ---- */

struct conn *
conn_make(struct loop *loop, int fd, const struct conn_ops *ops, void *arg)
{
    struct conn *c = xcalloc(1, sizeof(*c));
    c->loop = loop;
    c->ops = ops;
    c->arg = arg;
    c->fd = fd;
    event_assign(&c->ev_read, loop->base, fd, EV_READ | EV_PERSIST, on_readable, c);
    event_assign(&c->ev_write, loop->base, fd, EV_WRITE | EV_PERSIST, on_writable, c);
    return c;
}

struct conn *
conn_accept(struct loop *loop, int fd, const struct net_addr *peer, const struct net_addr *local,
            const struct conn_ops *ops, void *arg)
{
    struct conn *c = conn_make(loop, fd, ops, arg);
    if (peer != NULL)
        c->peer = *peer;
    if (local != NULL) {
        c->local = *local;
        c->local_known = true;
    }
    c->state = CONN_OPEN;
    conn_reading_start(c);
    return c;
}

void
conn_set_ops(struct conn *c, const struct conn_ops *ops, void *arg)
{
    c->ops = ops;
    c->arg = arg;
}

/* ---- facts ---- */

const struct net_addr *
conn_peer(const struct conn *c)
{
    return &c->peer;
}

const struct net_addr *
conn_local(struct conn *c)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    if (!c->local_known && c->fd >= 0 && getsockname(c->fd, (struct sockaddr *)&ss, &len) == 0) {
        c->local = net_addr_from_sockaddr((const struct sockaddr *)&ss);
        c->local_known = c->state != CONN_CONNECTING;
    }
    return &c->local;
}

int
conn_fd(const struct conn *c)
{
    return c->fd;
}

uint64_t
conn_bytes_in(const struct conn *c)
{
    return c->bytes_in;
}

uint64_t
conn_bytes_out(const struct conn *c)
{
    return c->bytes_out;
}

size_t
conn_n_lingering(const struct loop *loop)
{
    return loop->n_lingering;
}
