/*
 * bench - what the programs of this folder share: their clock and their arguments.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "policy/base/mem.h"
#include "policy/base/span.h"
#include "relayd/net/addr.h"

/* Seconds of CLOCK_MONOTONIC, as Python's time.monotonic(). */
static inline double
bench_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* "address:port" of the command line; the program ends when it is not one. */
static inline struct net_addr
bench_addr(const char *text)
{
    struct net_addr addr = {0};
    struct err err;

    if (ip_port_parse(span_str(text), 0, &addr.ip, &addr.port, &err) != ERR_OK) {
        fprintf(stderr, "%s: %s\n", text, err.text);
        exit(64);
    }
    return addr;
}

/* A message of about so many octets, its final dot included. */
static inline void
bench_message(struct strbuf *message, size_t n_bytes)
{
    strbuf_add_str(message, "From: a@src.test\r\nTo: b@dest.test\r\nSubject: bench\r\n\r\n");
    for (size_t start = message->n; message->n - start < n_bytes;)
        strbuf_add_str(message, "a line of text, as long as most lines of most messages are.\r\n");
    strbuf_add_str(message, ".\r\n");
}
