/*
 * source - clients that keep a relay busy and write down what it promised.
 *
 *     source [-s SESSIONS] [-r RCPTS] [-d DOMAINS] [-f FIRST] [-m MESSAGES] -l LEDGER ADDRESS PORT
 *
 * Each session sends one message after the other; when the relay goes away it connects again. Each
 * transaction is a new message, so that a copy of one is never its client's doing. Every tenth
 * message has five recipients (with -r all have RCPTS). Ledger: "S n rcpts" before the final dot is
 * sent, "P n" when 250 was read, "R n code" for any other answer. SIGTERM: the sessions end with
 * the message in hand; so after MESSAGES.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "torture.h"

#define RCPTS_MAX 100
#define AGAIN_MS 5 /* the relay is being started */

static struct sockaddr_in relay;
static unsigned n_sessions = 8, n_rcpts, n_domains = 8;
static uint64_t n_messages = UINT64_MAX;
static atomic_ullong next_number;
static uint64_t first;
static atomic_bool stopping;

struct session {
    pthread_t thread;
    struct input in;
    char message[MESSAGE_MAX], stuffed[MESSAGE_MAX + MESSAGE_MAX / 2];
};

static void
on_term(int number)
{
    (void)number;
    atomic_store(&stopping, true);
}

/* The code of a whole reply; 0 at the end of the stream. */
static int
reply_read(struct session *s)
{
    char line[512];

    do {
        if (!input_line(&s->in, line, sizeof(line)))
            return 0;
    } while (line[0] != '\0' && line[3] == '-');
    return (int)strtol(line, NULL, 10);
}

static size_t
stuff(char *to, struct text from)
{
    size_t n = 0;

    for (size_t i = 0; i < from.n; i++) {
        if (from.p[i] == '.' && (i == 0 || from.p[i - 1] == '\n'))
            to[n++] = '.';
        to[n++] = from.p[i];
    }
    memcpy(to + n, ".\r\n", 3);
    return n + 3;
}

static unsigned
rcpts_of(uint64_t n)
{
    return n_rcpts > 0 ? n_rcpts : n % 10 == 9 ? 5 : 1;
}

static bool
envelope_send(struct session *s, uint64_t n)
{
    char out[64 * (RCPTS_MAX + 2)];
    unsigned rcpts = rcpts_of(n);
    int at = snprintf(out, sizeof(out), "MAIL FROM:<a@src.test>\r\n");

    for (unsigned r = 0; r < rcpts; r++)
        at += snprintf(out + at, sizeof(out) - (size_t)at, "RCPT TO:<u%u.%llu@d%llu.test>\r\n", r,
                       (unsigned long long)n, (unsigned long long)((n + r) % n_domains));
    at += snprintf(out + at, sizeof(out) - (size_t)at, "DATA\r\n");
    if (!send_all(s->in.fd, out, (size_t)at))
        return false;
    for (unsigned i = 0; i < rcpts + 1; i++)
        if (reply_read(s) != 250)
            return false;
    return reply_read(s) == 354;
}

/* One transaction; false when the session is over. */
static bool
message_send(struct session *s, uint64_t n)
{
    struct text message = message_make(s->message, n);
    size_t stuffed = stuff(s->stuffed, message);
    size_t half = stuffed / 2;

    if (!envelope_send(s, n))
        return false;
    if (half > 1000) {
        if (!send_all(s->in.fd, s->stuffed, half))
            return false;
    } else {
        half = 0;
    }
    ledger("S %llu %u\n", (unsigned long long)n, rcpts_of(n));
    if (!send_all(s->in.fd, s->stuffed + half, stuffed - half))
        return false;
    int code = reply_read(s);
    if (code == 250)
        ledger("P %llu\n", (unsigned long long)n);
    else if (code != 0)
        ledger("R %llu %d\n", (unsigned long long)n, code);
    return code != 0;
}

static bool
session_open(struct session *s)
{
    int on = 1;

    s->in.at = s->in.n = 0;
    s->in.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(s->in.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return connect(s->in.fd, (struct sockaddr *)&relay, sizeof(relay)) == 0 &&
           reply_read(s) == 220 && send_all(s->in.fd, "EHLO client.test\r\n", 18) &&
           reply_read(s) == 250;
}

static void *
session_run(void *arg)
{
    struct session *s = arg;
    uint64_t n;

    while (!atomic_load(&stopping)) {
        bool good = session_open(s);
        while (good && !atomic_load(&stopping)) {
            n = atomic_fetch_add(&next_number, 1);
            if (n - first >= n_messages) {
                atomic_store(&stopping, true);
                break;
            }
            good = message_send(s, n);
        }
        if (good)
            send_all(s->in.fd, "QUIT\r\n", 6);
        close(s->in.fd);
        if (!good)
            usleep(AGAIN_MS * 1000);
    }
    return NULL;
}

int
main(int argc, char **argv)
{
    int option;

    while ((option = getopt(argc, argv, "s:r:d:f:m:l:")) != -1) {
        unsigned long long n = strtoull(optarg != NULL ? optarg : "", NULL, 10);
        if (option == 's')
            n_sessions = (unsigned)n;
        else if (option == 'r')
            n_rcpts = n < RCPTS_MAX ? (unsigned)n : RCPTS_MAX;
        else if (option == 'd')
            n_domains = (unsigned)n;
        else if (option == 'f')
            first = n;
        else if (option == 'm')
            n_messages = n;
        else if (option == 'l')
            ledger_open(optarg);
        else
            return 64;
    }
    if (argc - optind != 2 || ledger_fd == 0)
        return 64;
    atomic_store(&next_number, first);
    relay.sin_family = AF_INET;
    relay.sin_port = htons((uint16_t)strtoul(argv[optind + 1], NULL, 10));
    if (inet_pton(AF_INET, argv[optind], &relay.sin_addr) != 1)
        return 64;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, on_term);
    printf("ready\n");
    fflush(stdout);
    struct session *sessions = calloc(n_sessions, sizeof(*sessions));
    for (unsigned i = 0; i < n_sessions; i++)
        pthread_create(&sessions[i].thread, NULL, session_run, &sessions[i]);
    for (unsigned i = 0; i < n_sessions; i++)
        pthread_join(sessions[i].thread, NULL);
    return 0;
}
