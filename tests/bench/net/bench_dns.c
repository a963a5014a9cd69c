/*
 * bench_dns - an authoritative DNS server of very many domains, which answers late.
 *
 *     bench_dns [-w MILLISECONDS] LISTEN:PORT ADDRESS...
 *
 * dN.test has the only MX mxN.test, whose A record is one of the addresses, by N; both have no
 * other types, and all other names are NXDOMAIN. Each answer leaves so long after its question
 * came. Prints "queries Q" and "in_flight_max M" at SIGTERM. One UDP socket, one thread; the delay
 * is the same for all, so the answers that wait are a queue.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/net/bench.h"

#define WAITING_MAX 65536 /* answers; a power of two. Beyond it questions are lost, as UDP may */
#define PACKET_BYTES 512
#define ADDRESSES_MAX 32
#define TTL_S 3600

enum { TYPE_A = 1, TYPE_MX = 15, HEADER_BYTES = 12, NXDOMAIN = 3 };

struct answer {
    double due;
    struct sockaddr_in to;
    size_t n;
    uint8_t bytes[PACKET_BYTES];
};

static struct answer *waiting;
static uint32_t head, tail; /* head: the next to send */
static struct in_addr addresses[ADDRESSES_MAX];
static unsigned n_addresses;
static unsigned long long n_queries, in_flight_max;

static void
figures_print(int number)
{
    (void)number;
    printf("queries %llu\nin_flight_max %llu\n", n_queries, in_flight_max);
    fflush(stdout);
    _exit(0);
}

static size_t
put16(uint8_t *p, unsigned value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
    return 2;
}

/* The labels of a name as text with dots; the octets it takes, 0 when it is broken. */
static size_t
name_read(const uint8_t *p, size_t n, char text[static 256])
{
    size_t at = 0, used = 0;

    while (at < n && p[at] != 0) {
        size_t label = p[at];
        if (label > 63 || at + 1 + label >= n || used + label + 2 > 256)
            return 0;
        memcpy(text + used, p + at + 1, label);
        used += label;
        text[used++] = '.';
        at += 1 + label;
    }
    text[used > 0 ? used - 1 : 0] = '\0';
    return at < n ? at + 1 : 0;
}

/* The record's fixed part: a pointer to the name asked for, type, class IN, TTL, length. */
static size_t
record_put(uint8_t *p, unsigned type, unsigned n_data)
{
    size_t at = put16(p, 0xc000 | HEADER_BYTES);

    at += put16(p + at, type);
    at += put16(p + at, 1);
    at += put16(p + at, TTL_S >> 16);
    at += put16(p + at, TTL_S & 0xffff);
    return at + put16(p + at, n_data);
}

static size_t
mx_put(uint8_t *p, unsigned long number)
{
    char host[32];
    int n = snprintf(host, sizeof(host), "mx%lu", number);
    size_t at = record_put(p, TYPE_MX, 2 + 1 + (unsigned)n + 6);

    at += put16(p + at, 10);
    p[at++] = (uint8_t)n;
    memcpy(p + at, host, (size_t)n);
    at += (size_t)n;
    memcpy(p + at, "\4test", 6);
    return at + 6;
}

static size_t
a_put(uint8_t *p, unsigned long number)
{
    size_t at = record_put(p, TYPE_A, 4);

    memcpy(p + at, &addresses[number % n_addresses], 4);
    return at + 4;
}

/* Turn a question into its answer, in place; its octets, 0 for what is no question. */
static size_t
answer_make(uint8_t *p, size_t n)
{
    char name[256];
    unsigned long number = 0;
    int end = 0;
    size_t name_n, at;

    if (n < HEADER_BYTES || (p[2] & 0x80) != 0 || p[4] != 0 || p[5] != 1 ||
        (name_n = name_read(p + HEADER_BYTES, n - HEADER_BYTES, name)) == 0 ||
        (at = HEADER_BYTES + name_n) + 4 > n)
        return 0;
    unsigned type = (unsigned)p[at] << 8 | p[at + 1];
    at += 4;
    bool domain = sscanf(name, "d%lu.test%n", &number, &end) == 1 && name[end] == '\0' && end > 0;
    end = 0;
    bool host =
        !domain && sscanf(name, "mx%lu.test%n", &number, &end) == 1 && name[end] == '\0' && end > 0;
    bool found = (domain && type == TYPE_MX) || (host && type == TYPE_A);
    p[2] = (uint8_t)(0x84 | (p[2] & 0x01)); /* an authoritative answer; RD as it was */
    p[3] = domain || host ? 0 : NXDOMAIN;
    put16(p + 6, found);
    put16(p + 8, 0);
    put16(p + 10, 0);
    if (domain && found)
        at += mx_put(p + at, number);
    else if (found)
        at += a_put(p + at, number);
    return at;
}

static void
questions_read(int fd, double wait)
{
    for (;;) {
        struct answer *a = &waiting[tail % WAITING_MAX];
        socklen_t to_n = sizeof(a->to);
        if (tail - head == WAITING_MAX)
            return;
        /* room behind the question for the record */
        ssize_t n = recvfrom(fd, a->bytes, PACKET_BYTES - 64, MSG_DONTWAIT,
                             (struct sockaddr *)&a->to, &to_n);
        if (n < 0)
            return;
        n_queries++;
        if ((a->n = answer_make(a->bytes, (size_t)n)) == 0)
            continue;
        a->due = bench_seconds() + wait;
        tail++;
        if (tail - head > in_flight_max)
            in_flight_max = tail - head;
    }
}

static void
answers_send(int fd)
{
    double now = bench_seconds();

    for (; head != tail && waiting[head % WAITING_MAX].due <= now; head++) {
        struct answer *a = &waiting[head % WAITING_MAX];
        sendto(fd, a->bytes, a->n, 0, (struct sockaddr *)&a->to, sizeof(a->to));
    }
}

static void
serve(int fd, double wait)
{
    for (;;) {
        struct timespec left = {3600, 0};
        if (head != tail) {
            double s = waiting[head % WAITING_MAX].due - bench_seconds();
            left.tv_sec = 0;
            left.tv_nsec = s > 0 ? (long)(s * 1e9) % 1000000000L : 0;
        }
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ppoll(&p, 1, &left, NULL);
        questions_read(fd, wait);
        answers_send(fd);
    }
}

int
main(int argc, char **argv)
{
    double wait = 0;
    int option, bytes = 8 << 20;
    struct sockaddr_storage at;

    while ((option = getopt(argc, argv, "w:")) != -1) {
        if (option != 'w')
            return 64;
        wait = strtod(optarg, NULL) / 1e3;
    }
    if (argc - optind < 2 || argc - optind > ADDRESSES_MAX + 1 || wait >= 1)
        return 64;
    struct net_addr listen_addr = bench_addr(argv[optind++]);
    for (; optind < argc; optind++)
        if (inet_pton(AF_INET, argv[optind], &addresses[n_addresses++]) != 1)
            return 64;
    waiting = xcalloc(WAITING_MAX, sizeof(*waiting));
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
    if (bind(fd, (struct sockaddr *)&at, net_addr_to_sockaddr(&listen_addr, &at)) != 0) {
        perror("bench_dns");
        return 1;
    }
    signal(SIGTERM, figures_print);
    serve(fd, wait);
    return 0;
}
