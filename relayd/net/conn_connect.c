/*
 * conn_connect - the beginning of an outbound connection, and what errno says about its end.
 */
#include "relayd/net/conn_private.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum conn_end_kind
conn_end_kind_of(int error, bool connecting)
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

static void
user_timeout_set(int fd, msec_t timeout_ms)
{
    unsigned ms = timeout_ms > HOUR ? (unsigned)HOUR : (unsigned)timeout_ms;
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

void
conn_set_user_timeout(struct conn *c, msec_t timeout_ms)
{
    if (c->fd >= 0)
        user_timeout_set(c->fd, timeout_ms);
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
    if (how->user_timeout_ms > 0)
        user_timeout_set(fd, how->user_timeout_ms);
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
        conn_writing_start(c);
    return c;
}
