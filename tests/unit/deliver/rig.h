/*
 * rig - a deliver_conn under test and the servers it talks to, in one process on one stepped loop.
 *
 * Sockets are real (loopback), time stands still until clock_step(). A test reads as the dialog:
 * peer_accept, peer_say, peer_hear ... each runs the loop until what it waits for is there, and
 * fails after RIG_PATIENCE rounds without it.
 */
#pragma once

#include "policy/base/mem.h"
#include "relayd/deliver/deliver.h"
#include "relayd/deliver/tls_memory.h"
#include "relayd/net/conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define UNUSED __attribute__((unused))
#define RIG_PATIENCE 400 /* rounds of at most 10 ms */
#define RIG_SERVERS_MAX 6
#define RIG_OUTCOMES_MAX 16

struct server {
    int fd;
    uint16_t port;
};

/* The far end of one connection. */
struct peer {
    struct conn *conn;
    struct strbuf in;
    unsigned n_reads;
    bool closed, tls_up;
    enum tls_failure tls_failure;
};

struct rig {
    struct loop *loop;
    struct deliver_env env;
    struct deliver_target target;
    struct deliver_endpoint endpoints[RIG_SERVERS_MAX];
    struct server servers[RIG_SERVERS_MAX];
    size_t n_servers;
    struct deliver_conn *conn;

    /* What was called back. */
    unsigned n_ready, n_done, n_closed, n_failed;
    struct outcome outcomes[RIG_OUTCOMES_MAX];
    size_t outcome_rcpts[RIG_OUTCOMES_MAX];
    size_t n_outcomes;
    struct outcome failure;
    size_t failure_endpoint;
    struct deliver_report report;
    char report_tls[64];
    bool in_call; /* a public function is on the stack: no callback may come */

    /* What is given. */
    struct deliver_txn *on_ready_txn; /* started inside on_ready */
    struct span body;
    size_t piece;      /* bytes of one answer to want_body */
    bool answer_later; /* want_body is only recorded */
    bool quit_on_done;
    unsigned n_wants;
    uint64_t wanted;
};

/* ---- callbacks ---- */

static void
rig_answer(struct rig *r, struct deliver_txn *txn, uint64_t offset)
{
    struct span rest = span_from(r->body, (size_t)offset);
    struct span piece = span_first(rest, r->piece);
    deliver_body(r->conn, txn, offset, piece, piece.n == rest.n);
}

static void
rig_on_ready(void *arg)
{
    struct rig *r = arg;
    assert_false(r->in_call);
    r->n_ready++;
    if (r->on_ready_txn != NULL) {
        struct deliver_txn *txn = r->on_ready_txn;
        r->on_ready_txn = NULL;
        deliver_txn_start(r->conn, txn);
    }
}

static void
rig_want_body(void *arg, struct deliver_txn *txn, uint64_t offset)
{
    struct rig *r = arg;
    r->n_wants++;
    r->wanted = offset;
    if (!r->answer_later)
        rig_answer(r, txn, offset);
}

static void
rig_on_outcome(void *arg, struct deliver_txn *txn, size_t rcpt, const struct outcome *outcome)
{
    struct rig *r = arg;
    assert_false(r->in_call);
    assert_true(rcpt < txn->n_rcpts && r->n_outcomes < RIG_OUTCOMES_MAX);
    r->outcome_rcpts[r->n_outcomes] = rcpt;
    r->outcomes[r->n_outcomes++] = *outcome;
}

static void
rig_on_txn_done(void *arg, struct deliver_txn *txn, const struct deliver_report *report)
{
    struct rig *r = arg;
    assert_false(r->in_call);
    assert_non_null(txn);
    r->n_done++;
    r->report = *report;
    snprintf(r->report_tls, sizeof(r->report_tls), "%s", report->peer.tls);
    if (r->quit_on_done)
        deliver_quit(r->conn);
}

static void
rig_on_failed(void *arg, const struct outcome *outcome)
{
    struct rig *r = arg;
    assert_false(r->in_call);
    r->n_failed++;
    r->failure = *outcome;
    r->failure_endpoint = deliver_peer(r->conn)->endpoint;
    r->conn = NULL;
}

static void
rig_on_closed(void *arg)
{
    struct rig *r = arg;
    assert_false(r->in_call);
    r->n_closed++;
    r->conn = NULL;
}

static const struct deliver_ops rig_ops = {
    .on_ready = rig_on_ready,
    .want_body = rig_want_body,
    .on_outcome = rig_on_outcome,
    .on_txn_done = rig_on_txn_done,
    .on_failed = rig_on_failed,
    .on_closed = rig_on_closed,
};

/* ---- the rig ---- */

static inline struct rig *
rig_new(void)
{
    struct rig *r = xcalloc(1, sizeof(*r));
    r->loop = loop_new_stepped(0);
    r->env = (struct deliver_env){.loop = r->loop, .tls_memory = tls_memory_new(10)};
    r->target = (struct deliver_target){
        .endpoints = r->endpoints,
        .ehlo_name = "relay.test",
        .timeouts = deliver_timeouts_default,
        .idle_ms = 10 * SECOND,
        .session_ms = 5 * MINUTE,
    };
    r->body = SPAN("hello\r\n");
    r->piece = DELIVER_CHUNK_MAX;
    return r;
}

static inline void
rig_free(struct rig *r)
{
    if (r->conn != NULL)
        deliver_abort(r->conn);
    for (int i = 0; i < 3; i++)
        loop_run_once(r->loop, 0);
    for (size_t i = 0; i < r->n_servers; i++)
        if (r->servers[i].fd >= 0)
            close(r->servers[i].fd);
    clock_step(loop_clock(r->loop), MINUTE); /* connections that still linger */
    loop_run_once(r->loop, 0);
    tls_memory_free(r->env.tls_memory);
    loop_free(r->loop);
    free(r);
}

/* One more endpoint, at 127.0.0.1; with `dead` nobody listens there. */
static inline struct server *
rig_server(struct rig *r, bool dead)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(sin);
    struct server *s = &r->servers[r->n_servers];
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&sin, &n), 0);
    s->port = ntohs(sin.sin_port);
    if (!dead)
        assert_int_equal(listen(s->fd, 8), 0);
    struct deliver_endpoint *e = &r->endpoints[r->n_servers++];
    *e = (struct deliver_endpoint){.port = s->port, .host = "mx.test"};
    assert_true(ip_parse(SPAN("127.0.0.1"), &e->ip));
    r->target.n_endpoints = r->n_servers;
    return s;
}

static inline void
rig_start(struct rig *r)
{
    r->in_call = true;
    r->conn = deliver_start(&r->env, &r->target, &rig_ops, r);
    r->in_call = false;
}

static inline void
rig_txn(struct rig *r, struct deliver_txn *txn)
{
    assert_true(deliver_is_ready(r->conn));
    r->in_call = true;
    deliver_txn_start(r->conn, txn);
    r->in_call = false;
}

static inline void
rig_quit(struct rig *r)
{
    r->in_call = true;
    deliver_quit(r->conn);
    r->in_call = false;
}

/* Run the loop until `*count` is at least `n`. */
static inline void
rig_until(struct rig *r, const unsigned *count, unsigned n)
{
    for (int i = 0; *count < n; i++) {
        if (i == RIG_PATIENCE)
            fail_msg("it does not come");
        loop_run_once(r->loop, 10);
    }
}

/* Let everything settle that can happen without time passing. */
static inline void
rig_settle(struct rig *r)
{
    for (int i = 0; i < 8; i++) /* loopback delivers at once: a few rounds without waiting */
        loop_run_once(r->loop, 0);
}

static inline void
rig_step(struct rig *r, msec_t ms)
{
    rig_settle(r);
    clock_step(loop_clock(r->loop), ms);
    rig_settle(r);
}

/* ---- peers ---- */

static void
peer_on_data(void *arg)
{
    struct peer *p = arg;
    struct span in = conn_input(p->conn);
    strbuf_add_span(&p->in, in);
    conn_consume(p->conn, in.n);
    p->n_reads++;
}

static void
peer_on_closed(void *arg, const struct conn_end *end)
{
    struct peer *p = arg;
    (void)end;
    p->closed = true;
}

static void
peer_on_tls(void *arg, const struct conn_tls_result *result)
{
    struct peer *p = arg;
    p->tls_up = result->failure == TLS_FAIL_NONE;
    p->tls_failure = result->failure;
    p->closed |= !p->tls_up; /* nothing else is said of it */
}

static const struct conn_ops peer_ops = {
    .on_data = peer_on_data,
    .on_tls = peer_on_tls,
    .on_closed = peer_on_closed,
};

/* Wait for the next connection to `s`. */
static inline void
peer_accept(struct rig *r, struct server *s, struct peer *p)
{
    int fd = -1;
    for (int i = 0; fd < 0; i++) {
        if (i == RIG_PATIENCE)
            fail_msg("nobody connects");
        loop_run_once(r->loop, i == 0 ? 0 : 10);
        fd = accept4(s->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    *p = (struct peer){.conn = NULL};
    p->conn = conn_accept(r->loop, fd, NULL, NULL, &peer_ops, p);
}

UNUSED static inline void
peer_say(struct peer *p, const char *text)
{
    conn_write(p->conn, span_str(text));
}

/* Wait until exactly `text` has been heard, then forget it. */
static inline void
peer_hear(struct rig *r, struct peer *p, const char *text)
{
    size_t n = strlen(text);
    for (int i = 0; p->in.n < n; i++) {
        if (i == RIG_PATIENCE)
            fail_msg("not heard: %s, but: %s", text, p->in.n == 0 ? "" : p->in.p);
        loop_run_once(r->loop, 10);
    }
    assert_string_equal(p->in.p, text);
    strbuf_reset(&p->in);
}

static inline void
peer_hear_end(struct rig *r, struct peer *p)
{
    for (int i = 0; !p->closed; i++) {
        if (i == RIG_PATIENCE)
            fail_msg("it is not closed");
        loop_run_once(r->loop, 10);
    }
}

static inline void
peer_free(struct peer *p)
{
    conn_retire(p->conn);
    p->conn = NULL;
    strbuf_release(&p->in);
}

/* Greet, hear EHLO, offer `lines` (EHLO answer). */
static inline void
peer_greet(struct rig *r, struct server *s, struct peer *p, const char *lines)
{
    peer_accept(r, s, p);
    peer_say(p, "220 mx ready\r\n");
    peer_hear(r, p, "EHLO relay.test\r\n");
    peer_say(p, lines);
}

#define PIPELINING "250-mx\r\n250 PIPELINING\r\n"
#define GROUP "MAIL FROM:<a@src.test>\r\nRCPT TO:<x@d.test>\r\nDATA\r\n"
#define CONTENT "Subject: t\r\n\r\nhello\r\n.\r\n"

/* Take the message of rig_message() with its body "hello". */
UNUSED static inline void
peer_take(struct rig *r, struct peer *p)
{
    peer_hear(r, p, GROUP);
    peer_say(p, "250 ok\r\n250 ok\r\n354 go\r\n");
    peer_hear(r, p, CONTENT);
    peer_say(p, "250 2.0.0 queued\r\n");
}

/* ---- messages ---- */

static const struct deliver_rcpt rig_rcpts[] = {
    {.address = {"x@d.test", 8}},
    {.address = {"y@d.test", 8}},
};
static const struct span rig_heads[] = {{"Subject: t\r\n", 12}, {"\r\n", 2}};

static inline struct deliver_txn
rig_message(size_t n_rcpts)
{
    return (struct deliver_txn){.sender = SPAN("a@src.test"),
                                .size_bytes = 21,
                                .rcpts = rig_rcpts,
                                .n_rcpts = n_rcpts,
                                .heads = rig_heads,
                                .n_heads = 2};
}
