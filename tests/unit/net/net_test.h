/*
 * net_test - what the tests of net/ share: a driver that writes down what it is told, and waiting
 * for a condition by running the loop.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/base/span.h"
#include "relayd/net/conn.h"
#include "relayd/net/loop.h"

/* Run the loop until `condition`; a test that gets stuck fails here instead of hanging. */
#define WAIT_FOR(loop, condition)          \
    do {                                   \
        int rounds_ = 0;                   \
        while (!(condition)) {             \
            assert_true(++rounds_ < 5000); \
            loop_run_once(loop, 2);        \
        }                                  \
    } while (0)

/* A connection's driver under test. */
struct driver {
    struct conn *conn;
    struct strbuf got;
    size_t take_max; /* bytes consumed in one on_data; SIZE_MAX = all */
    int n_connected, n_data, n_drained, n_tls, n_closed;
    enum conn_end_kind end_kind;
    int end_error;
    enum tls_failure failure;
    char text[160];                     /* of the end, or of the failed handshake */
    bool in_call;                       /* a function of conn is running: no callback may come */
    void (*on_data)(struct driver *d);  /* more to do in on_data, or NULL */
    void (*on_event)(struct driver *d); /* in any other callback, or NULL */
    void *extra;
};

static inline void
driver_connected(void *arg)
{
    struct driver *d = arg;
    assert_false(d->in_call);
    d->n_connected++;
    if (d->on_event != NULL)
        d->on_event(d);
}

static inline void
driver_data(void *arg)
{
    struct driver *d = arg;
    assert_false(d->in_call);
    assert_int_equal(d->n_closed, 0);
    d->n_data++;
    struct span in = span_first(conn_input(d->conn), d->take_max);
    strbuf_add_span(&d->got, in);
    conn_consume(d->conn, in.n);
    if (d->on_data != NULL)
        d->on_data(d);
}

static inline void
driver_drained(void *arg)
{
    struct driver *d = arg;
    assert_false(d->in_call);
    d->n_drained++;
    if (d->on_event != NULL)
        d->on_event(d);
}

static inline void
driver_tls(void *arg, const struct conn_tls_result *result)
{
    struct driver *d = arg;
    assert_false(d->in_call);
    d->n_tls++;
    d->failure = result->failure;
    assert_int_equal(result->facts == NULL, result->failure != TLS_FAIL_NONE);
    snprintf(d->text, sizeof(d->text), "%s", result->text);
    if (d->on_event != NULL)
        d->on_event(d);
}

static inline void
driver_closed(void *arg, const struct conn_end *end)
{
    struct driver *d = arg;
    assert_false(d->in_call);
    assert_int_equal(d->n_closed, 0);
    d->n_closed++;
    d->end_kind = end->kind;
    d->end_error = end->error;
    snprintf(d->text, sizeof(d->text), "%s", end->text);
    if (d->on_event != NULL)
        d->on_event(d);
}

static const struct conn_ops driver_ops = {driver_connected, driver_data, driver_drained,
                                           driver_tls, driver_closed};

static inline void
driver_release(struct driver *d)
{
    strbuf_release(&d->got);
}

static inline void
fd_nonblock(int fd)
{
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
}

/* A driver on one end of a socketpair; *ret_fd is the other, non-blocking. */
static inline void
driver_on_pair(struct driver *d, struct loop *loop, int *ret_fd)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    *d = (struct driver){.take_max = SIZE_MAX};
    d->conn = conn_accept(loop, fds[0], NULL, NULL, &driver_ops, d);
    *ret_fd = fds[1];
}

static inline void
fd_write(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

/* What can be read now, added to `sb`; false at the end of the stream. */
static inline bool
fd_read(int fd, struct strbuf *sb)
{
    char buf[65536];
    ssize_t n;
    while ((n = read(fd, buf, sizeof(buf))) > 0)
        strbuf_add(sb, buf, (size_t)n);
    if (n < 0)
        assert_int_equal(errno, EAGAIN);
    return n < 0;
}

/* A pattern in which every misplaced byte shows. */
static inline char
pattern_byte(size_t i)
{
    return (char)(i * 31 + (i >> 8) * 7 + (i >> 16));
}

static inline void
pattern_fill(char *p, size_t start, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = pattern_byte(start + i);
}

static inline bool
pattern_holds(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != pattern_byte(i))
            return false;
    return true;
}
