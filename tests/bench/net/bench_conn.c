/*
 * bench_conn - what a connection costs: an SMTP-shaped exchange (five commands, a body of 10 KiB)
 * between two ends on one loop over loopback TCP, and the memory of idle connections.
 *
 * The figures are for both ends together, system calls included: a relay pays about that much, as
 * it is a server on one side and a client on the other. Run: bench_conn [messages]
 */
#include <assert.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/net/conn.h"
#include "relayd/net/listener.h"

#define N_STEPS 5
#define BODY_BYTES 10240
#define N_IDLE 1000

static const char *const commands[N_STEPS] = {"EHLO x\r\n", "MAIL FROM:<a@b.test>\r\n",
                                              "RCPT TO:<c@d.test>\r\n", "DATA\r\n", ""};

struct bench {
    struct loop *loop;
    struct listener *listener;
    struct tls_ctx *server_ctx, *client_ctx; /* NULL: in clear */
    int left;                                /* messages to send, those under way included */
    int n_open;                              /* clients */
    int per_connection;
    int n_handshakes;
    char body[BODY_BYTES];
};

struct end {
    struct bench *bench;
    struct conn *conn;
    struct timer deadline;
    int step, n_sent;
    size_t body_left;
};

static void client_open(struct bench *b);

static void
on_deadline(void *arg)
{
    (void)arg;
    abort();
}

/* As drivers do: a new deadline with each command. */
static void
deadline_push(struct end *e)
{
    timer_set(loop_clock(e->bench->loop), &e->deadline, 5 * MINUTE, on_deadline, e);
}

static void
end_close(struct end *e)
{
    timer_cancel(loop_clock(e->bench->loop), &e->deadline);
    conn_retire(e->conn);
    free(e);
}

static void
on_closed(void *arg, const struct conn_end *end)
{
    (void)end;
    end_close(arg);
}

static void
server_data(void *arg)
{
    struct end *e = arg;
    struct span in;
    deadline_push(e);
    while ((in = conn_input(e->conn)).n > 0) {
        if (e->body_left > 0) {
            size_t n = in.n < e->body_left ? in.n : e->body_left;
            e->body_left -= n;
            conn_consume(e->conn, n);
            if (e->body_left == 0)
                conn_write(e->conn, SPAN("250 2.0.0 queued\r\n"));
            continue;
        }
        size_t eol = span_find(in, SPAN("\r\n"));
        if (eol == SIZE_MAX)
            return;
        if (in.p[0] == 'D')
            e->body_left = BODY_BYTES;
        conn_consume(e->conn, eol + 2);
        conn_write(e->conn, SPAN("250 2.1.0 fine\r\n"));
    }
}

static void
server_tls(void *arg, const struct conn_tls_result *result)
{
    (void)arg;
    assert(result->failure == TLS_FAIL_NONE);
}

static const struct conn_ops server_ops = {NULL, server_data, NULL, server_tls, on_closed};

static void
on_accept(void *arg, int fd, const struct net_addr *peer, const struct net_addr *local)
{
    struct end *e = xcalloc(1, sizeof(*e));
    e->bench = arg;
    e->conn = conn_accept(e->bench->loop, fd, peer, local, &server_ops, e);
    if (e->bench->server_ctx != NULL &&
        conn_start_tls(e->conn, e->bench->server_ctx, "", CONN_TLS_NO_INPUT) != ERR_OK)
        abort();
}

static const struct listener_ops listener_ops = {on_accept, NULL};

static void
client_step(struct end *e)
{
    struct bench *b = e->bench;
    deadline_push(e);
    if (e->step == N_STEPS - 1)
        conn_write(e->conn, span_of(b->body, BODY_BYTES));
    else if (e->step < N_STEPS)
        conn_write(e->conn, span_str(commands[e->step]));
    if (e->step++ < N_STEPS)
        return;
    e->step = 1;
    b->left--;
    if (b->left >= b->n_open && ++e->n_sent < b->per_connection) {
        client_step(e);
        return;
    }
    end_close(e);
    if (b->left >= b->n_open)
        client_open(b);
    else if (--b->n_open == 0)
        loop_stop(b->loop);
}

static void
client_data(void *arg)
{
    struct end *e = arg;
    conn_consume(e->conn, conn_input(e->conn).n);
    client_step(e);
}

static void
client_tls(void *arg, const struct conn_tls_result *result)
{
    struct end *e = arg;
    assert(result->failure == TLS_FAIL_NONE);
    e->bench->n_handshakes++;
    client_step(e);
}

static void
client_connected(void *arg)
{
    struct end *e = arg;
    if (e->bench->client_ctx == NULL)
        client_step(e);
    else if (conn_start_tls(e->conn, e->bench->client_ctx, "x.test", CONN_TLS_NO_INPUT) != ERR_OK)
        abort();
}

static const struct conn_ops client_ops = {client_connected, client_data, NULL, client_tls,
                                           on_closed};

static void
client_open(struct bench *b)
{
    struct end *e = xcalloc(1, sizeof(*e));
    struct conn_connect how = {.to = *listener_addr(b->listener)};
    e->bench = b;
    e->conn = conn_connect(b->loop, &how, &client_ops, e);
}

static double
cpu_us(void)
{
    struct rusage ru;
    getrusage(RUSAGE_SELF, &ru);
    return (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1e6 +
           (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec);
}

static void
run(struct bench *b, const char *what, int n, int per_connection, int at_once)
{
    b->left = n;
    b->per_connection = per_connection;
    b->n_open = at_once;
    double start = cpu_us();
    for (int i = 0; i < at_once; i++)
        client_open(b);
    loop_run(b->loop);
    double us = cpu_us() - start;
    printf("%-44s %7.1f us CPU a message (both ends)\n", what, us / n);
}

static void
idle_connected(void *arg)
{
    struct end *e = arg;
    if (e->bench->client_ctx == NULL) {
        e->bench->left--;
        return;
    }
    client_connected(arg);
}

static void
idle_tls(void *arg, const struct conn_tls_result *result)
{
    struct end *e = arg;
    (void)result;
    e->bench->left--;
}

static const struct conn_ops idle_ops = {idle_connected, client_data, NULL, idle_tls, on_closed};

/* Heap of N_IDLE connections, both ends of each, that have said nothing for a while. */
static void
idle(struct bench *b, const char *what)
{
    static struct end ends[N_IDLE];
    size_t before = mallinfo2().uordblks;
    b->left = N_IDLE;
    for (int i = 0; i < N_IDLE; i++) {
        struct conn_connect how = {.to = *listener_addr(b->listener)};
        ends[i] = (struct end){.bench = b};
        ends[i].conn = conn_connect(b->loop, &how, &idle_ops, &ends[i]);
    }
    while (b->left > 0)
        loop_run_once(b->loop, 10);
    for (int i = 0; i < 10; i++)
        loop_run_once(b->loop, 10);
    printf("%-44s %7zu bytes of heap for each end\n", what,
           (mallinfo2().uordblks - before) / N_IDLE / 2 - sizeof(struct end) / 2);
    for (int i = 0; i < N_IDLE; i++)
        conn_retire(ends[i].conn);
    for (int i = 0; i < 20; i++)
        loop_run_once(b->loop, 10);
}

static struct tls_ctx *
server_ctx_make(void)
{
    struct strbuf cert = STRBUF_INIT, key = STRBUF_INIT;
    struct tls_pin pin;
    struct err err;
    char cert_file[] = "/tmp/bench-conn-XXXXXX", key_file[] = "/tmp/bench-conn-XXXXXX";
    int cert_fd = mkstemp(cert_file), key_fd = mkstemp(key_file);
    struct tls_server_config config = {cert_file, key_file, NULL, false, "bench"};
    struct tls_ctx *ctx;
    if (tls_self_signed("x.test", 10, &cert, &key, &pin, &err) != ERR_OK ||
        write(cert_fd, cert.p, cert.n) != (ssize_t)cert.n ||
        write(key_fd, key.p, key.n) != (ssize_t)key.n ||
        tls_server_new(&config, &ctx, &err) != ERR_OK)
        abort();
    close(cert_fd);
    close(key_fd);
    unlink(cert_file);
    unlink(key_file);
    strbuf_release(&cert);
    tls_wipe(&key);
    return ctx;
}

int
main(int argc, char **argv)
{
    int n = argc > 1 ? atoi(argv[1]) : 20000;
    struct bench *b = xcalloc(1, sizeof(*b));
    struct net_addr addr = {0};
    struct tls_client_config config = {.level = TLS_OPPORTUNISTIC};
    struct err err;

    memset(b->body, 'x', sizeof(b->body));
    b->loop = loop_new();
    if (!ip_parse(SPAN("127.0.0.1"), &addr.ip) ||
        listener_open(&addr, &b->listener, &err) != ERR_OK)
        return 1;
    listener_start(b->listener, b->loop, &listener_ops, b);
    run(b, "in clear, a new connection each", n, 1, 50);
    run(b, "in clear, 100 messages a connection", n, 100, 50);
    idle(b, "idle in clear");
    b->server_ctx = server_ctx_make();
    if (tls_client_new(&config, &b->client_ctx, &err) != ERR_OK)
        return 1;
    run(b, "TLS, a new connection each", n / 10, 1, 50);
    run(b, "TLS, 100 messages a connection", n, 100, 50);
    idle(b, "idle under TLS");
    return 0;
}
