/*
 * codec - numbers and strings of records that the queue keeps for others: big-endian, length first,
 * bounded. For attempts, histories, learned routes, pins, suspensions and blame.
 */
#pragma once

#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>

/* A reader that goes bad at the first read past the end and stays so. */
struct reader {
    struct span left;
    bool bad;
};

static inline uint64_t
take_number(struct reader *r, size_t n)
{
    uint64_t v = 0;
    if (r->left.n < n) {
        r->bad = true;
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        v = v << 8 | (unsigned char)r->left.p[i];
    r->left = span_from(r->left, n);
    return v;
}

static inline struct span
take_string(struct reader *r, size_t length_bytes)
{
    size_t n = take_number(r, length_bytes);
    if (r->left.n < n) {
        r->bad = true;
        return SPAN_NONE;
    }
    struct span s = span_first(r->left, n);
    r->left = span_from(r->left, n);
    return s;
}

static inline void
put_number(struct strbuf *out, uint64_t v, size_t n)
{
    for (size_t i = n; i-- > 0;)
        strbuf_add_byte(out, (char)(v >> (8 * i)));
}

/* The same into a record of one size: the `n` bytes from `at` on. */
static inline void
write_number(char *at, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        at[i] = (char)(v >> (8 * (n - 1 - i)));
}

/* What is longer than `max` loses its end; `max` fits into the length. */
static inline void
put_string(struct strbuf *out, struct span s, size_t length_bytes, size_t max)
{
    s = span_first(s, max);
    put_number(out, s.n, length_bytes);
    strbuf_add_span(out, s);
}
