/*
 * sink - remote servers that misbehave in measured doses and write down what they took.
 *
 *     sink [-e SEED] [-t FAULTS] -l LEDGER PORT ADDRESS...
 *
 * In FAULTS of 1,000 cases each (SIGUSR1: no more, SIGUSR2: again): 451 at RCPT, 451 at the dot,
 * the connection closed after the dot with the message taken, the same with it forgotten, reset in
 * the middle of DATA. 554 comes for the numbers that torture.h names, always, for all but reports.
 *
 * Ledger, one line a recipient: "A n r how good time opened" for a message, "B n r how good time
 * opened" for a report of its failure; how: C when the 250 was sent, U when it was not; good: 1
 * when every octet is as it was sent; time: of the 250, and when the connection was accepted, ns of
 * CLOCK_MONOTONIC. "? ..." for what is none of ours.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "torture.h"

#define RCPTS_MAX 128
#define DATA_MAX (2 * MESSAGE_MAX)
#define STACK_BYTES (256 << 10)
#define LISTENERS_MAX 64

static unsigned long faults;
static atomic_bool behaving;
static atomic_ullong draws;

struct rcpt {
    unsigned long long n, r;
};

struct session {
    struct input in;
    uint64_t opened;
    bool report;
    struct rcpt rcpts[RCPTS_MAX];
    unsigned n_rcpts;
    struct text data;
    char *expected;
};

static void
on_signal(int number)
{
    atomic_store(&behaving, number == SIGUSR1);
}

static bool
fault(void)
{
    uint64_t state = atomic_fetch_add(&draws, 1) * 0x9e3779b97f4a7c15u;

    return !atomic_load(&behaving) && random_next(&state) % 1000 < faults;
}

static bool
say(struct session *s, const char *line)
{
    return send_all(s->in.fd, line, strlen(line));
}

static void
reset(struct session *s)
{
    struct linger hard = {1, 0};

    setsockopt(s->in.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
}

/* The message up to its dot, dots unstuffed; false at the end of the stream, or a fault. */
static bool
data_read(struct session *s)
{
    bool line_start = true, breaks = fault();

    for (s->data.n = 0; input_fill(&s->in);) {
        const char *p = s->in.bytes + s->in.at;
        size_t left = s->in.n - s->in.at;
        if (breaks) {
            reset(s);
            return false;
        }
        if (line_start && p[0] == '.') {
            char rest[3];
            s->in.at++;
            if (!input_fill(&s->in))
                return false;
            line_start = false;
            if (s->in.bytes[s->in.at] == '\r')
                return input_line(&s->in, rest, sizeof(rest));
            continue;
        }
        const char *eol = memchr(p, '\n', left);
        size_t n = eol != NULL ? (size_t)(eol - p) + 1 : left;
        if (s->data.n + n > DATA_MAX)
            return false;
        memcpy(s->data.p + s->data.n, p, n);
        s->data.n += n;
        s->in.at += n;
        line_start = eol != NULL;
    }
    return false;
}

/* Our part of what arrived begins with our first field; the relay's trace is above. */
static bool
is_whole(struct session *s, unsigned long long n)
{
    const char *ours = memmem(s->data.p, s->data.n, "Message-ID: <torture.", 21);
    if (ours == NULL)
        return false;
    struct text expected = message_make(s->expected, n);
    size_t left = s->data.n - (size_t)(ours - s->data.p);
    return left == expected.n && memcmp(ours, expected.p, left) == 0;
}

static void
report_note(struct session *s, char how, uint64_t at)
{
    static const char field[] = "\nFinal-Recipient: rfc822; u";
    const char *p = s->data.p, *end = s->data.p + s->data.n;
    struct rcpt rcpt;
    bool failed = memmem(p, s->data.n, "\nAction: failed", 15) != NULL;
    unsigned found = 0;

    while ((p = memmem(p, (size_t)(end - p), field, sizeof(field) - 1)) != NULL) {
        char text[64] = "";
        p += sizeof(field) - 1;
        memcpy(text, p, (size_t)(end - p) < 63 ? (size_t)(end - p) : 63);
        if (!failed || sscanf(text, "%llu.%llu@", &rcpt.r, &rcpt.n) != 2)
            break;
        ledger("B %llu %llu %c 1 %llu %llu\n", rcpt.n, rcpt.r, how, (unsigned long long)at,
               (unsigned long long)s->opened);
        found++;
    }
    if (found == 0)
        ledger("? a report of no recipient of ours\n");
}

static void
note(struct session *s, char how, uint64_t at)
{
    if (s->report) {
        report_note(s, how, at);
        return;
    }
    bool good = is_whole(s, s->rcpts[0].n);
    for (unsigned i = 0; i < s->n_rcpts; i++)
        ledger("A %llu %llu %c %d %llu %llu\n", s->rcpts[i].n, s->rcpts[i].r, how,
               good && s->rcpts[i].n == s->rcpts[0].n, (unsigned long long)at,
               (unsigned long long)s->opened);
}

/* false: the session is over. */
static bool
do_data(struct session *s)
{
    if (s->n_rcpts == 0)
        return say(s, "554 5.5.1 no valid recipients\r\n");
    if (!say(s, "354 go\r\n") || !data_read(s))
        return false;
    if (!s->report && refused_at_dot(s->rcpts[0].n))
        return say(s, "554 5.6.0 never taken here\r\n");
    if (fault())
        return say(s, "451 4.3.0 not now\r\n");
    if (fault()) {
        note(s, 'U', now_ns());
        return false;
    }
    if (fault())
        return false;
    uint64_t at = now_ns();
    bool told = say(s, "250 2.0.0 taken\r\n");
    note(s, told ? 'C' : 'U', at);
    return told;
}

static bool
do_rcpt(struct session *s, const char *line)
{
    struct rcpt rcpt = {0, 0};

    if (!s->report) {
        if (sscanf(line, "RCPT TO:<u%llu.%llu@", &rcpt.r, &rcpt.n) != 2 ||
            s->n_rcpts == RCPTS_MAX) {
            ledger("? %.100s\n", line);
            return false;
        }
        if (refused_at_rcpt(rcpt.n, rcpt.r))
            return say(s, "554 5.1.1 nobody of that name\r\n");
    }
    if (fault())
        return say(s, "451 4.2.0 not now\r\n");
    s->rcpts[s->n_rcpts++] = rcpt;
    return say(s, "250 2.1.5 ok\r\n");
}

static bool
command(struct session *s, const char *line)
{
    if (strncmp(line, "EHLO", 4) == 0)
        return say(s, "250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n"
                      "250 ENHANCEDSTATUSCODES\r\n");
    if (strncmp(line, "MAIL FROM:<", 11) == 0) {
        s->report = line[11] == '>';
        s->n_rcpts = 0;
        return say(s, "250 2.1.0 ok\r\n");
    }
    if (strncmp(line, "RCPT", 4) == 0)
        return do_rcpt(s, line);
    if (strcmp(line, "DATA") == 0)
        return do_data(s);
    if (strcmp(line, "RSET") == 0)
        s->n_rcpts = 0;
    if (strcmp(line, "QUIT") == 0) {
        say(s, "221 2.0.0 bye\r\n");
        return false;
    }
    return say(s, "250 2.0.0 ok\r\n");
}

static void *
session_run(void *arg)
{
    struct session *s = arg;
    char line[1024];

    if (say(s, "220 sink.test ESMTP\r\n"))
        while (input_line(&s->in, line, sizeof(line)) && command(s, line))
            ;
    close(s->in.fd);
    free(s->data.p);
    free(s->expected);
    free(s);
    return NULL;
}

static void *
listener_run(void *arg)
{
    int listener = *(int *)arg, fd, on = 1;
    pthread_attr_t attr;
    pthread_t thread;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        struct session *s = calloc(1, sizeof(*s));
        s->opened = now_ns();
        s->in.fd = fd;
        s->data.p = malloc(DATA_MAX);
        s->expected = malloc(MESSAGE_MAX);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        if (pthread_create(&thread, &attr, session_run, s) != 0)
            abort();
    }
    return NULL;
}

static int
listen_at(const char *address, const char *port)
{
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)strtoul(port, NULL, 10))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (inet_pton(AF_INET, address, &at.sin_addr) != 1 ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, 512) != 0) {
        perror(address);
        exit(1);
    }
    return fd;
}

int
main(int argc, char **argv)
{
    static int listeners[LISTENERS_MAX];
    pthread_t thread;
    int option, n = 0;

    while ((option = getopt(argc, argv, "e:t:l:")) != -1) {
        if (option == 'e')
            atomic_store(&draws, strtoull(optarg, NULL, 10) << 32);
        else if (option == 't')
            faults = strtoul(optarg, NULL, 10);
        else if (option == 'l')
            ledger_open(optarg);
        else
            return 64;
    }
    if (argc - optind < 2 || argc - optind > LISTENERS_MAX || ledger_fd == 0)
        return 64;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    for (int i = optind + 1; i < argc; i++)
        listeners[n++] = listen_at(argv[i], argv[optind]);
    for (int i = 0; i < n; i++)
        pthread_create(&thread, NULL, listener_run, &listeners[i]);
    printf("ready\n");
    fflush(stdout);
    pthread_join(thread, NULL);
    return 0;
}
