/*
 * bench_sink - an SMTP server that throws messages away: where smtp-sink lacks TLS, AUTH, several
 * addresses or figures.
 *
 *     bench_sink [-m MESSAGES] [-c CERTIFICATE -k KEY] [-a] ADDRESS:PORT...
 *
 * -a asks for AUTH PLAIN (any password is right). It ends after so many messages, or at SIGTERM,
 * and prints "NAME VALUE" lines: messages, bytes, connections, connections_max (at once),
 * handshakes, ended (CLOCK_MONOTONIC of the last message).
 */
#include <signal.h>
#include <unistd.h>

#include "tests/bench/net/sink.h"

static struct sink sink;
static uint64_t messages_max;
static double ended;

static void
on_message(void *arg)
{
    (void)arg;
    if (sink.n_messages == messages_max) {
        ended = bench_seconds();
        loop_stop(sink.loop);
    }
}

static void
figures_print(int number)
{
    printf("messages %llu\nbytes %llu\nconnections %llu\nconnections_max %u\nhandshakes %llu\n"
           "ended %.6f\n",
           (unsigned long long)sink.n_messages, (unsigned long long)sink.n_bytes,
           (unsigned long long)sink.n_connections, sink.open_max, (unsigned long long)sink.n_tls,
           ended > 0 ? ended : bench_seconds());
    fflush(stdout);
    if (number != 0)
        _exit(0);
}

static void
tls_load(const char *certificate, const char *key)
{
    struct tls_server_config config = {certificate, key, NULL, false, "sink"};
    struct err err;

    if (tls_server_new(&config, &sink.tls, &err) != ERR_OK) {
        fprintf(stderr, "sink: %s\n", err.text);
        exit(1);
    }
}

int
main(int argc, char **argv)
{
    const char *certificate = NULL, *key = NULL;
    int option;

    while ((option = getopt(argc, argv, "m:c:k:a")) != -1) {
        if (option == 'm')
            messages_max = strtoull(optarg, NULL, 10);
        else if (option == 'c')
            certificate = optarg;
        else if (option == 'k')
            key = optarg;
        else if (option == 'a')
            sink.auth = true;
        else
            return 64;
    }
    sink.loop = loop_new();
    sink.on_message = on_message;
    if (certificate != NULL)
        tls_load(certificate, key);
    for (; optind < argc; optind++)
        sink_listen(&sink, bench_addr(argv[optind]));
    signal(SIGTERM, figures_print);
    signal(SIGPIPE, SIG_IGN);
    loop_run(sink.loop);
    loop_run_once(sink.loop, 0);
    figures_print(0);
    return 0;
}
