/*
 * bench_source - an SMTP client for what smtp-source cannot do: many recipients, each at a domain
 * of its own, and less processor time for each message.
 *
 *     bench_source [-s SESSIONS] [-m MESSAGES] [-r RCPTS] [-l BYTES] [-d DOMAINS] [-f FIRST] [-n]
 *                  ADDRESS:PORT
 *
 * Recipient r of message m is u@dN.test, N = (FIRST + m * RCPTS + r) mod DOMAINS. Envelope commands
 * are pipelined; sessions stay open, or (-n) have one message each. Ends when all messages have
 * been answered, with status 1 at the first reply that is not positive. Prints "seconds S": first
 * connection to last reply.
 */
#include <signal.h>
#include <unistd.h>

#include "relayd/net/conn.h"
#include "tests/bench/net/bench.h"

struct session {
    struct conn *conn;
    struct strbuf out;
    bool greeted, hello;
    unsigned pending; /* replies to MAIL, RCPT and DATA still to come; then the body is sent */
    bool body_sent;
};

static struct loop *loop;
static struct strbuf body = STRBUF_INIT;
static unsigned long n_sessions = 20, n_messages = 1000, n_rcpts = 1, n_domains = 1000, next_domain;
static unsigned long begun, answered;
static bool one_each;
static struct conn_connect how;

static void session_open(struct session *s);

static void
envelope_send(struct session *s)
{
    char rcpt[64];

    if (begun == n_messages) {
        conn_write(s->conn, SPAN("QUIT\r\n"));
        return;
    }
    begun++;
    strbuf_reset(&s->out);
    strbuf_add_str(&s->out, "MAIL FROM:<a@src.test>\r\n");
    for (unsigned long i = 0; i < n_rcpts; i++) {
        snprintf(rcpt, sizeof(rcpt), "RCPT TO:<u@d%lu.test>\r\n", next_domain);
        strbuf_add_str(&s->out, rcpt);
        next_domain = (next_domain + 1) % n_domains;
    }
    strbuf_add_str(&s->out, "DATA\r\n");
    s->pending = (unsigned)n_rcpts + 2;
    s->body_sent = false;
    conn_write(s->conn, strbuf_span(&s->out));
}

static void
on_reply(struct session *s, struct span line)
{
    if (line.p[0] > '3') {
        fprintf(stderr, "bench_source: %.*s\n", (int)line.n, line.p);
        exit(1);
    }
    if (!s->greeted) {
        s->greeted = true;
        conn_write(s->conn, SPAN("EHLO client.test\r\n"));
    } else if (!s->hello) {
        s->hello = true;
        envelope_send(s);
    } else if (s->pending > 0) {
        if (--s->pending == 0) {
            conn_write(s->conn, strbuf_span(&body));
            s->body_sent = true;
        }
    } else if (s->body_sent) {
        s->body_sent = false;
        if (++answered == n_messages)
            loop_stop(loop);
        if (one_each)
            conn_write(s->conn, SPAN("QUIT\r\n"));
        else
            envelope_send(s);
    }
}

static void
on_data(void *arg)
{
    struct session *s = arg;
    struct span in;
    size_t eol;

    while ((eol = span_find_byte(in = conn_input(s->conn), '\n')) != SIZE_MAX) {
        if (eol > 3 && in.p[3] != '-')
            on_reply(s, span_first(in, eol));
        conn_consume(s->conn, eol + 1);
    }
}

static void
on_connected(void *arg)
{
    (void)arg;
}

static void
on_closed(void *arg, const struct conn_end *end)
{
    struct session *s = arg;

    /* Only a session that has said QUIT may end. */
    if (s->pending > 0 || s->body_sent || !s->hello) {
        fprintf(stderr, "bench_source: connection ended: %s\n", end->text);
        exit(1);
    }
    conn_retire(s->conn);
    if (one_each && begun < n_messages)
        session_open(s);
}

static const struct conn_ops ops = {on_connected, on_data, NULL, NULL, on_closed};

static void
session_open(struct session *s)
{
    s->greeted = s->hello = false;
    s->conn = conn_connect(loop, &how, &ops, s);
}

static bool
arguments(int argc, char **argv, size_t *ret_bytes)
{
    int option;

    while ((option = getopt(argc, argv, "s:m:r:l:d:f:n")) != -1) {
        unsigned long n = optarg == NULL ? 0 : strtoul(optarg, NULL, 10);
        if (option == 'n')
            one_each = true;
        else if (option == 's')
            n_sessions = n;
        else if (option == 'm')
            n_messages = n;
        else if (option == 'r')
            n_rcpts = n;
        else if (option == 'l')
            *ret_bytes = n;
        else if (option == 'd')
            n_domains = n;
        else if (option == 'f')
            next_domain = n;
        else
            return false;
    }
    return argc - optind == 1 && n_sessions > 0 && n_messages > 0 && n_rcpts > 0 && n_domains > 0;
}

int
main(int argc, char **argv)
{
    size_t n_bytes = 1024;

    if (!arguments(argc, argv, &n_bytes))
        return 64;
    signal(SIGPIPE, SIG_IGN);
    bench_message(&body, n_bytes);
    how.to = bench_addr(argv[optind]);
    struct session *sessions = xcalloc(n_sessions, sizeof(*sessions));
    loop = loop_new();
    double start = bench_seconds();
    for (unsigned long i = 0; i < n_sessions; i++)
        session_open(&sessions[i]);
    loop_run(loop);
    printf("seconds %.3f\n", bench_seconds() - start);
    return 0;
}
