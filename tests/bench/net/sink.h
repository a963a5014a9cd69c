/*
 * sink - the server side that bench_sink and bench_latency share: takes every message and throws it
 * away, with pipelining, STARTTLS and AUTH PLAIN when asked for. Only these two programs include
 * it.
 *
 * A message counts when its final dot has been read; the 250 goes out when on_message returns.
 */
#pragma once

#include <assert.h>
#include <string.h>

#include "relayd/net/conn.h"
#include "relayd/net/listener.h"
#include "tests/bench/net/bench.h"

#define SINK_LISTENERS_MAX 64

struct sink {
    struct loop *loop;
    struct tls_ctx *tls; /* NULL: no STARTTLS */
    bool auth;           /* MAIL is refused before AUTH */
    void (*on_message)(void *arg);
    void *arg;
    uint64_t n_messages, n_bytes, n_connections, n_tls;
    unsigned open, open_max;
    struct listener *listeners[SINK_LISTENERS_MAX];
    size_t n_listeners;
};

struct sink_session {
    struct sink *sink;
    struct conn *conn;
    bool authenticated, wants_tls;
    bool in_data;
    unsigned dot; /* how many octets of CRLF . CRLF have been seen in a row */
};

/* Octets of `in` up to the end of the message (CRLF . CRLF), all of them when it is not there. */
static inline size_t
sink_dot(struct sink_session *s, struct span in, bool *ret_ended)
{
    static const char mark[] = "\r\n.\r\n";

    *ret_ended = false;
    for (size_t i = 0; i < in.n; i++) {
        if (s->dot == 0) {
            const char *cr = memchr(in.p + i, '\r', in.n - i);
            if (cr == NULL)
                return in.n;
            i = (size_t)(cr - in.p);
        }
        if (in.p[i] == mark[s->dot])
            s->dot++;
        else
            s->dot = in.p[i] == '\r' ? 1 : 0;
        if (s->dot == 5) {
            *ret_ended = true;
            return i + 1;
        }
    }
    return in.n;
}

static inline void
sink_ehlo(struct sink_session *s)
{
    bool tls = s->sink->tls != NULL && conn_tls_facts(s->conn) == NULL;

    conn_write(s->conn, SPAN("250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n"));
    if (tls)
        conn_write(s->conn, SPAN("250-STARTTLS\r\n"));
    if (s->sink->auth)
        conn_write(s->conn, SPAN("250-AUTH PLAIN\r\n"));
    conn_write(s->conn, SPAN("250 ENHANCEDSTATUSCODES\r\n"));
}

/* One command; false when the session has ended. */
static inline bool
sink_command(struct sink_session *s, struct span line)
{
    if (span_istarts(line, SPAN("EHLO")) || span_istarts(line, SPAN("HELO")))
        sink_ehlo(s);
    else if (span_istarts(line, SPAN("STARTTLS")) && s->sink->tls != NULL) {
        conn_write(s->conn, SPAN("220 2.0.0 go\r\n"));
        s->wants_tls = true;
    } else if (span_istarts(line, SPAN("AUTH PLAIN "))) {
        s->authenticated = true;
        conn_write(s->conn, SPAN("235 2.7.0 fine\r\n"));
    } else if (s->sink->auth && !s->authenticated && span_istarts(line, SPAN("MAIL")))
        conn_write(s->conn, SPAN("530 5.7.0 who are you\r\n"));
    else if (span_istarts(line, SPAN("DATA"))) {
        conn_write(s->conn, SPAN("354 go\r\n"));
        s->in_data = true;
        s->dot = 2; /* the CRLF of the command counts */
    } else if (span_istarts(line, SPAN("QUIT"))) {
        conn_write(s->conn, SPAN("221 2.0.0 bye\r\n"));
        s->sink->open--;
        conn_shutdown(s->conn, false);
        free(s);
        return false;
    } else
        conn_write(s->conn, SPAN("250 2.0.0 ok\r\n"));
    return true;
}

static inline void
sink_on_data(void *arg)
{
    struct sink_session *s = arg;
    struct span in;

    while ((in = conn_input(s->conn)).n > 0 && !s->wants_tls) {
        if (s->in_data) {
            bool ended;
            size_t n = sink_dot(s, in, &ended);
            s->sink->n_bytes += n;
            conn_consume(s->conn, n);
            if (ended) {
                s->in_data = false;
                s->sink->n_messages++;
                conn_write(s->conn, SPAN("250 2.0.0 ok\r\n"));
                s->sink->on_message(s->sink->arg);
            }
            continue;
        }
        size_t eol = span_find_byte(in, '\n');
        if (eol == SIZE_MAX)
            break;
        if (!sink_command(s, span_first(in, eol)))
            return;
        conn_consume(s->conn, eol + 1);
    }
    if (s->wants_tls) {
        s->wants_tls = false;
        s->sink->n_tls++;
        if (conn_start_tls(s->conn, s->sink->tls, "", CONN_TLS_NO_INPUT) != ERR_OK)
            abort();
    }
}

static inline void
sink_on_closed(void *arg, const struct conn_end *end)
{
    struct sink_session *s = arg;

    (void)end;
    s->sink->open--;
    conn_retire(s->conn);
    free(s);
}

static inline void
sink_on_tls(void *arg, const struct conn_tls_result *result)
{
    struct conn_end end = {.kind = CONN_END_TLS};

    if (result->failure != TLS_FAIL_NONE) {
        fprintf(stderr, "sink: %s\n", result->text);
        sink_on_closed(arg, &end);
    }
}

static const struct conn_ops sink_conn_ops = {NULL, sink_on_data, NULL, sink_on_tls,
                                              sink_on_closed};

static inline void
sink_on_accept(void *arg, int fd, const struct net_addr *peer, const struct net_addr *local)
{
    struct sink_session *s = xcalloc(1, sizeof(*s));

    s->sink = arg;
    s->conn = conn_accept(s->sink->loop, fd, peer, local, &sink_conn_ops, s);
    s->sink->n_connections++;
    if (++s->sink->open > s->sink->open_max)
        s->sink->open_max = s->sink->open;
    conn_write(s->conn, SPAN("220 sink.test ESMTP\r\n"));
}

static const struct listener_ops sink_listener_ops = {sink_on_accept, NULL};

/* Listen at one more address; the program ends when that cannot be. */
static inline void
sink_listen(struct sink *sink, struct net_addr addr)
{
    struct err err;

    assert(sink->n_listeners < SINK_LISTENERS_MAX);
    struct listener **l = &sink->listeners[sink->n_listeners++];
    if (listener_open(&addr, l, &err) != ERR_OK) {
        fprintf(stderr, "sink: %s\n", err.text);
        exit(1);
    }
    listener_start(*l, sink->loop, &sink_listener_ops, sink);
}
