/*
 * conn - sockets, buffers and the life of a connection. TLS records: conn_tls.c.
 *
 * Input is read into a buffer of the loop and shown to the driver there; only what it leaves is
 * copied and kept. Output is written at once; only what the kernel does not take is kept, and only
 * then is EV_WRITE added. EV_READ is added once and taken out when the peer sends while we are
 * paused, so that a pause costs nothing while the peer is quiet.
 *
 * The driver is called from the top level of the loop only (socket events, and conn_on_later() at
 * the end of the tick), never from inside a function that it has called.
 */
#include "relayd/net/conn_private.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include <event2/event.h>

#include "policy/base/mem.h"

#define GATHER_MAX 16384    /* more goes out at once: as long as a TLS record */
#define COMPACT_BYTES 65536 /* sent bytes kept in front of `out` before they are moved away */
#define LAST_READS_MAX 16   /* reads after a failed write, to get the peer's last words */

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

static void
reading_stop(struct conn *c)
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

static void
writing_stop(struct conn *c)
{
    if (c->writing)
        event_del(&c->ev_write);
    c->writing = false;
}

static void
writing_start(struct conn *c)
{
    if (!c->writing) {
        event_add(&c->ev_write, NULL);
        c->writing = true;
    }
}

void
conn_later(struct conn *c)
{
    loop_defer(c->loop, &c->later, on_later);
}

/* ---- output ---- */

static size_t
out_bytes(const struct conn *c)
{
    return c->out.n - c->out_at;
}

static void
out_drop(struct conn *c)
{
    strbuf_release(&c->out);
    c->out_at = 0;
    writing_stop(c);
}

static void
write_failed(struct conn *c, int error)
{
    c->write_error = error;
    out_drop(c);
    if (c->state == CONN_OPEN || c->state == CONN_HANDSHAKE)
        conn_later(c);
}

/* Returns what the kernel took, 0 for "not now", or -1 after write_failed(). */
static ssize_t
kernel_write(struct conn *c, struct iovec *iov, size_t n)
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
    writing_start(c);
}

void
conn_raw_send(struct conn *c, struct iovec *iov, size_t n)
{
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += iov[i].iov_len;
    if (c->write_error != 0 || total == 0)
        return;
    ssize_t sent = out_bytes(c) > 0 ? 0 : kernel_write(c, iov, n);
    if (sent >= 0 && (size_t)sent < total)
        out_append(c, iov, n, (size_t)sent);
}

static bool
may_send(const struct conn *c)
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
    if (c->gather.n == 0 || !may_send(c))
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
    if (total == 0 || (!held && !may_send(c)))
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
    size_t waits = c->write_error != 0 ? 0 : out_bytes(c) + c->gather.n;
    if (waits > 0)
        c->drain_due = true;
    return waits;
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
    if (c->loop->gather.p == NULL && c->gather.cap <= 2 * GATHER_MAX) {
        c->loop->gather = c->gather;
        c->gather = STRBUF_INIT;
    } else {
        strbuf_release(&c->gather);
    }
    if (c->drain_due && out_bytes(c) == 0 && c->state < CONN_CLOSING)
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
    reading_stop(c);
    if (!c->half_open)
        out_drop(c);
    callback_begin(c);
    c->ops->on_closed(c->arg, &end);
    callback_end(c);
}

static enum conn_end_kind
kind_of_errno(int error, bool connecting)
{
    switch (error) {
    case ECONNRESET:
    case EPIPE:
        return CONN_END_RESET;
    case ETIMEDOUT:
        return CONN_END_TIMEOUT;
    default:
        break;
    }
    if (!connecting)
        return error == EHOSTUNREACH || error == ENETUNREACH ? CONN_END_UNREACHABLE
                                                             : CONN_END_ERROR;
    switch (error) {
    case ECONNREFUSED:
        return CONN_END_REFUSED;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case EACCES:
    case EPERM:
    case EPROTO:
    case ENOPROTOOPT:
        return CONN_END_UNREACHABLE;
    case EADDRNOTAVAIL:
    case EADDRINUSE:
    case EAFNOSUPPORT:
    case EAGAIN:
    case EINVAL:
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
        return CONN_END_LOCAL;
    default:
        return CONN_END_ERROR;
    }
}

void
conn_end_errno(struct conn *c, int error)
{
    conn_end(c, kind_of_errno(error, c->state == CONN_CONNECTING), error, NULL);
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
    reading_stop(c);
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
conn_keep_unread(struct conn *c)
{
    bool is_kept =
        c->kept.p != NULL && c->unread.p >= c->kept.p && c->unread.p <= c->kept.p + c->kept.n;
    if (c->unread.n == 0 || c->state >= CONN_CLOSING) {
        strbuf_release(&c->kept);
        c->unread = SPAN_NONE;
    } else if (!is_kept) {
        strbuf_reset(&c->kept);
        strbuf_add_span(&c->kept, c->unread);
        c->unread = strbuf_span(&c->kept);
    }
}

void
conn_deliver(struct conn *c)
{
    c->data_due = false;
    callback_begin(c);
    c->ops->on_data(c->arg);
    callback_end(c);
    conn_keep_unread(c);
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
    if (n == 0)
        conn_end(c, CONN_END_EOF, 0, NULL);
    else if (errno != EAGAIN && errno != EINTR)
        conn_end_errno(c, errno);
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

/* ---- ending ---- */

static void
conn_free(void *object)
{
    struct conn *c = object;
    conn_tls_free(c->tls);
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
    reading_stop(c);
    writing_stop(c);
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
static void
closing_flushed(struct conn *c)
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
    if (may_send(c)) {
        conn_gather_flush(c);
        if (c->tls != NULL)
            conn_tls_close_notify(c);
    }
    if (!open || c->write_error != 0 ||
        ((linger || out_bytes(c) > 0) && c->loop->n_lingering >= CONN_LINGERING_MAX)) {
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
    if (out_bytes(c) == 0) {
        closing_flushed(c);
    } else {
        reading_stop(c);
        timer_set(loop_clock(c->loop), &c->timer, CONN_FLUSH_MS, on_closing_timeout, c);
    }
}

static void
closing_readable(struct conn *c)
{
    ssize_t n = read(c->fd, c->loop->input, LOOP_BUFFER_BYTES);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        conn_retire(c);
}

/* ---- events of the loop ---- */

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct conn *c = arg;

    if (!wants_input(c))
        reading_stop(c);
    else if (c->state == CONN_CLOSING)
        closing_readable(c);
    else if (c->tls != NULL)
        conn_tls_readable(c);
    else
        plain_read(c);
}

static void
connected(struct conn *c)
{
    c->state = CONN_OPEN;
    writing_stop(c);
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
    struct iovec iov = {c->out.p + c->out_at, out_bytes(c)};
    ssize_t sent = kernel_write(c, &iov, 1);
    if (sent < 0) {
        if (c->state == CONN_CLOSING)
            conn_retire(c);
        return;
    }
    c->out_at += (size_t)sent;
    if (out_bytes(c) > 0)
        return;
    out_drop(c);
    if (c->state == CONN_CLOSING)
        closing_flushed(c);
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
    if (c->state < CONN_CLOSING && c->drain_due && out_bytes(c) + c->gather.n == 0 &&
        c->write_error == 0)
        drained(c);
}

/* ---- beginning ---- */

static struct conn *
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

/* A socket on its way to `how->to`, or -1 with errno; *ret_done: connected already. */
static int
connect_begin(const struct conn_connect *how, bool *ret_done)
{
    struct sockaddr_storage to, from;
    socklen_t to_len = net_addr_to_sockaddr(&how->to, &to);
    int one = 1, error;

    if (to_len == 0) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (how->user_timeout_ms > 0) {
        unsigned ms = how->user_timeout_ms > HOUR ? (unsigned)HOUR : (unsigned)how->user_timeout_ms;
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
    }
    if (how->source.family != 0) {
        /* Without this each source address has but one port for all destinations together. */
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
        struct net_addr source = {.ip = how->source};
        if (bind(fd, (struct sockaddr *)&from, net_addr_to_sockaddr(&source, &from)) != 0)
            goto failed;
    }
    *ret_done = connect(fd, (struct sockaddr *)&to, to_len) == 0;
    if (*ret_done || errno == EINPROGRESS)
        return fd;
failed:
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

struct conn *
conn_connect(struct loop *loop, const struct conn_connect *how, const struct conn_ops *ops,
             void *arg)
{
    bool done = false;
    int fd = connect_begin(how, &done);
    int error = errno;
    struct conn *c = conn_make(loop, fd, ops, arg);

    c->state = CONN_CONNECTING;
    c->peer = how->to;
    if (fd < 0)
        c->start_error = error;
    if (fd < 0 || done)
        conn_later(c);
    else
        writing_start(c);
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
