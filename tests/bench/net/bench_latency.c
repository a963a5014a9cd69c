/*
 * bench_latency - how long one message takes through a relay, one message at a time.
 *
 *     bench_latency [-m MESSAGES] [-l BYTES] RELAY:PORT SINK:PORT
 *
 * Client and destination are this one program, so that both ends read one clock. Each message goes
 * over a connection of its own; the next begins when this one has been delivered, answered and its
 * connection closed. Prints for each "FROM_CONNECT FROM_DOT" in microseconds: until the destination
 * has read the final dot, since the client began to connect and since it had sent its own final
 * dot. The dot may be delivered before the 250 reaches the client; both are waited for.
 */
#include <signal.h>
#include <unistd.h>

#include "tests/bench/net/sink.h"

#define STALLED_MS (60 * SECOND)

enum step { GREETING, HELLO, MAIL, RCPT, DATA, BODY, QUIT };

static const char *const commands[] = {
    [GREETING] = "EHLO client.test\r\n",
    [HELLO] = "MAIL FROM:<a@src.test>\r\n",
    [MAIL] = "RCPT TO:<b@dest.test>\r\n",
    [RCPT] = "DATA\r\n",
    [BODY] = "QUIT\r\n",
};

static struct sink sink;
static struct net_addr relay;
static struct strbuf body = STRBUF_INIT;
static struct timer stalled;
static struct conn *client;
static enum step step;
static long left;
static double connect_at, dot_at, delivered_at;

static void client_open(void);

static void
on_stalled(void *arg)
{
    (void)arg;
    fprintf(stderr, "bench_latency: nothing was delivered for %d s\n", (int)(STALLED_MS / SECOND));
    exit(1);
}

/* Both ends are done with this message. */
static void
next(void)
{
    printf("%.1f %.1f\n", (delivered_at - connect_at) * 1e6, (delivered_at - dot_at) * 1e6);
    if (--left == 0)
        loop_stop(sink.loop);
    else
        client_open();
}

static void
on_message(void *arg)
{
    (void)arg;
    delivered_at = bench_seconds();
    if (client == NULL)
        next();
}

static void
on_reply(struct span line)
{
    if (line.p[0] > '3') {
        fprintf(stderr, "bench_latency: %.*s\n", (int)line.n, line.p);
        exit(1);
    }
    if (step == DATA) {
        conn_write(client, strbuf_span(&body));
        dot_at = bench_seconds();
    } else if (step != QUIT)
        conn_write(client, span_str(commands[step]));
    step = step == QUIT ? QUIT : step + 1;
}

static void
on_data(void *arg)
{
    struct span in;
    size_t eol;

    (void)arg;
    while ((eol = span_find_byte(in = conn_input(client), '\n')) != SIZE_MAX) {
        /* "250-": more lines follow */
        if (eol > 3 && in.p[3] != '-')
            on_reply(span_first(in, eol));
        conn_consume(client, eol + 1);
    }
}

static void
on_closed(void *arg, const struct conn_end *end)
{
    (void)arg;
    if (step != QUIT) {
        fprintf(stderr, "bench_latency: connection ended: %s\n", end->text);
        exit(1);
    }
    conn_retire(client);
    client = NULL;
    if (delivered_at > 0)
        next();
}

static void
on_connected(void *arg)
{
    (void)arg;
}

static const struct conn_ops client_ops = {on_connected, on_data, NULL, NULL, on_closed};

static void
client_open(void)
{
    struct conn_connect how = {.to = relay};

    step = GREETING;
    delivered_at = 0;
    timer_set(loop_clock(sink.loop), &stalled, STALLED_MS, on_stalled, NULL);
    connect_at = bench_seconds();
    client = conn_connect(sink.loop, &how, &client_ops, NULL);
}

int
main(int argc, char **argv)
{
    size_t n_bytes = 4096;
    int option;

    left = 1000;
    while ((option = getopt(argc, argv, "m:l:")) != -1) {
        if (option == 'm')
            left = strtol(optarg, NULL, 10);
        else if (option == 'l')
            n_bytes = strtoul(optarg, NULL, 10);
        else
            return 64;
    }
    if (argc - optind != 2 || left <= 0)
        return 64;
    signal(SIGPIPE, SIG_IGN);
    bench_message(&body, n_bytes);
    relay = bench_addr(argv[optind]);
    sink.loop = loop_new();
    sink.on_message = on_message;
    sink_listen(&sink, bench_addr(argv[optind + 1]));
    client_open();
    loop_run(sink.loop);
    return 0;
}
