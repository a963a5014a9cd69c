/*
 * torture - what the source and the sink of the crash tests agree about: the messages, which are
 * functions of their number, and the ledger, which is lines of text.
 *
 * Message n is the same bytes whoever makes it, so that the sink compares what arrived octet by
 * octet. Recipient r of it is <u(r).(n)@d((n + r) mod DOMAINS).test>, so that a delivery report
 * tells of which message it is by its Final-Recipient alone.
 */
#pragma once

#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE_MAX (1 << 20)

/* Permanent refusals are by number, so that a message is refused always or never. */
#define REFUSED_RCPT 61 /* one recipient of so many, at RCPT */
#define REFUSED_DOT 67  /* one message of so many, at the dot */

struct text {
    char *p;
    size_t n;
};

static inline uint64_t
now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t
random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static inline bool
refused_at_dot(uint64_t n)
{
    return n % REFUSED_DOT == 5;
}

static inline bool
refused_at_rcpt(uint64_t n, uint64_t r)
{
    return (n * 31 + r) % REFUSED_RCPT == 7;
}

/* Octets of the body of message n: most are small, one in 50 middling, and one in 500 comes to the
 * queue in chunks (more than 256 KiB). */
static inline size_t
message_bytes(uint64_t n)
{
    uint64_t draw = n * 0x9e3779b97f4a7c15u >> 40;

    if (n % 500 == 7)
        return 270000 + draw % 300000;
    if (n % 50 == 3)
        return 20000 + draw % 40000;
    return draw % 6000;
}

/* Message n with CRLF, dots not stuffed; `to` has room for MESSAGE_MAX. */
static inline struct text
message_make(char *to, uint64_t n)
{
    uint64_t state = n;
    size_t end = message_bytes(n);
    int head = snprintf(to, 512,
                        "Message-ID: <torture.%llu@src.test>\r\nFrom: a@src.test\r\n"
                        "To: b@dest.test\r\nSubject: torture %llu\r\n"
                        "Date: Fri, 20 Nov 2026 10:00:00 +0000\r\n\r\n",
                        (unsigned long long)n, (unsigned long long)n);
    size_t at = (size_t)head;

    for (end += at; at < end;) {
        unsigned width = (unsigned)(random_next(&state) % 78);
        for (unsigned i = 0; i < width; i++) {
            unsigned c = (unsigned)(random_next(&state) % 224);
            if (i == 0 && c < 40)
                to[at++] = '.';
            else
                to[at++] = (char)(c < 95 ? c + 32 : c + 32 - (c < 128 ? 60 : 0));
        }
        to[at++] = '\r';
        to[at++] = '\n';
    }
    return (struct text){to, at};
}

/* The ledger: each line is one write(2), so that a killed process has told what it did. */
static int ledger_fd;

static inline void
ledger_open(const char *path)
{
    ledger_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (ledger_fd < 0) {
        perror(path);
        exit(1);
    }
}

__attribute__((format(printf, 1, 2))) static inline void
ledger(const char *format, ...)
{
    char line[256];
    va_list args;

    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (write(ledger_fd, line, (size_t)n) != n)
        abort();
}

/* A buffer of input of one connection, taken line by line. */
struct input {
    int fd;
    size_t at, n;
    char bytes[65536];
};

/* Have `at` point to unread octets; false at the end of the stream. */
static inline bool
input_fill(struct input *in)
{
    if (in->at < in->n)
        return true;
    ssize_t n = read(in->fd, in->bytes, sizeof(in->bytes));
    in->at = 0;
    in->n = n > 0 ? (size_t)n : 0;
    return n > 0;
}

/* A line without its CRLF, cut at `room`; false at the end of the stream. */
static inline bool
input_line(struct input *in, char *line, size_t room)
{
    size_t n = 0;

    while (input_fill(in)) {
        char c = in->bytes[in->at++];
        if (c == '\n') {
            line[n > 0 && line[n - 1] == '\r' ? n - 1 : n] = '\0';
            return true;
        }
        if (n + 1 < room)
            line[n++] = c;
    }
    return false;
}

static inline bool
send_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t sent = write(fd, p, n);
        if (sent <= 0)
            return false;
        p += sent;
        n -= (size_t)sent;
    }
    return true;
}
