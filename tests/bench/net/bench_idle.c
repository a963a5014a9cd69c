/*
 * bench_idle - many clients that have said EHLO and then nothing more.
 *
 *     bench_idle [-n CONNECTIONS] [-t] ADDRESS:PORT
 *
 * -t: STARTTLS first (the certificate is not looked at). Prints "open N" when all are idle, keeps
 * them until its standard input ends, and fails when one is refused or closed meanwhile. At most
 * OPENING_MAX are on their way at once.
 */
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "relayd/net/conn.h"
#include "tests/bench/net/bench.h"

#define OPENING_MAX 200

enum step { GREETING, HELLO, STARTTLS, HANDSHAKE, HELLO_TLS, IDLE };

struct client {
    struct conn *conn;
    enum step step;
};

static struct loop *loop;
static struct tls_ctx *tls;
static struct conn_connect how;
static struct client *clients;
static unsigned long n_clients = 10000, n_started, n_idle;

static void
on_idle(void)
{
    if (++n_idle == n_clients) {
        printf("open %lu\n", n_idle);
        fflush(stdout);
    }
}

static void
on_reply(struct client *c, struct span line)
{
    if (line.p[0] != '2') {
        fprintf(stderr, "bench_idle: %.*s\n", (int)line.n, line.p);
        exit(1);
    }
    if (c->step == GREETING || (c->step == HELLO && tls != NULL))
        conn_write(c->conn,
                   c->step == GREETING ? SPAN("EHLO client.test\r\n") : SPAN("STARTTLS\r\n"));
    if (c->step == HELLO && tls == NULL)
        c->step = IDLE;
    else
        c->step++;
    if (c->step == STARTTLS + 1 && conn_start_tls(c->conn, tls, "", CONN_TLS_NO_INPUT) != ERR_OK)
        exit(1);
    if (c->step == IDLE)
        on_idle();
}

static void
on_data(void *arg)
{
    struct client *c = arg;
    struct span in;
    size_t eol;

    while ((eol = span_find_byte(in = conn_input(c->conn), '\n')) != SIZE_MAX) {
        struct span line = span_first(in, eol);
        bool last = eol > 3 && in.p[3] != '-';
        char text[256];
        /* What is left unread would be an error for STARTTLS: take it first. */
        size_t n = line.n < sizeof(text) ? line.n : sizeof(text);
        memcpy(text, line.p, n);
        conn_consume(c->conn, eol + 1);
        if (last)
            on_reply(c, span_of(text, n));
    }
}

static void
on_tls(void *arg, const struct conn_tls_result *result)
{
    struct client *c = arg;

    if (result->failure != TLS_FAIL_NONE) {
        fprintf(stderr, "bench_idle: %s\n", result->text);
        exit(1);
    }
    c->step = HELLO_TLS;
    conn_write(c->conn, SPAN("EHLO client.test\r\n"));
}

static void
on_connected(void *arg)
{
    (void)arg;
}

static void
on_closed(void *arg, const struct conn_end *end)
{
    (void)arg;
    fprintf(stderr, "bench_idle: connection ended: %s\n", end->text);
    exit(1);
}

static const struct conn_ops ops = {on_connected, on_data, NULL, on_tls, on_closed};

static bool
stdin_ended(void)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char c;

    return poll(&p, 1, 0) > 0 && read(STDIN_FILENO, &c, 1) <= 0;
}

int
main(int argc, char **argv)
{
    struct tls_client_config config = {.level = TLS_REQUIRE};
    struct err err;
    int option;

    while ((option = getopt(argc, argv, "n:t")) != -1) {
        if (option == 'n')
            n_clients = strtoul(optarg, NULL, 10);
        else if (option != 't' || tls_client_new(&config, &tls, &err) != ERR_OK)
            return 64;
    }
    if (argc - optind != 1)
        return 64;
    signal(SIGPIPE, SIG_IGN);
    how.to = bench_addr(argv[optind]);
    clients = xcalloc(n_clients, sizeof(*clients));
    loop = loop_new();
    while (!stdin_ended()) {
        for (; n_started < n_clients && n_started - n_idle < OPENING_MAX; n_started++)
            clients[n_started].conn = conn_connect(loop, &how, &ops, &clients[n_started]);
        loop_run_once(loop, 100);
    }
    return 0;
}
