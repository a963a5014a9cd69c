/*
 * span - a view of bytes that somebody else owns; and strbuf, a byte string that grows.
 *
 * A span is not NUL-terminated and may hold any byte. A strbuf always keeps a NUL behind its bytes,
 * so `sb.p` of a non-empty strbuf is also a C string.
 */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct span {
    const char *p;
    size_t n;
};

#define SPAN_NONE ((struct span){NULL, 0})
/* A span over a string literal. */
#define SPAN(literal) ((struct span){"" literal, sizeof(literal) - 1})
/* printf("%.*s", SPAN_ARG(s)): only for text known to be clean. */
#define SPAN_ARG(s) (int)(s).n, (s).p == NULL ? "" : (s).p

static inline struct span
span_of(const void *p, size_t n)
{
    return (struct span){p, n};
}

static inline struct span
span_str(const char *s)
{
    return (struct span){s, s == NULL ? 0 : strlen(s)};
}

static inline struct span
span_from(struct span s, size_t start)
{
    return start >= s.n ? (struct span){s.p == NULL ? NULL : s.p + s.n, 0}
                        : (struct span){s.p + start, s.n - start};
}

static inline struct span
span_first(struct span s, size_t n)
{
    return (struct span){s.p, n < s.n ? n : s.n};
}

bool span_eq(struct span a, struct span b);
bool span_ieq(struct span a, struct span b); /* ASCII case ignored */
bool span_starts(struct span s, struct span prefix);
bool span_istarts(struct span s, struct span prefix);
bool span_ends(struct span s, struct span suffix);
bool span_iends(struct span s, struct span suffix);
/* Index of the byte or text, or SIZE_MAX. */
size_t span_find_byte(struct span s, char c);
size_t span_find(struct span s, struct span needle);
size_t span_ifind(struct span s, struct span needle);
/* Without spaces and tabs (and CR, LF) at both ends. */
struct span span_trim(struct span s);
/* Cut at the first `c`: returns what is before, moves *s behind it. All of it when there is none.
 */
struct span span_cut(struct span *s, char c);
/* Decimal number of digits only, no sign, no overflow; false otherwise. */
bool span_u64(struct span s, uint64_t *ret);
/* Could it end a line, or move a terminal's cursor? */
bool span_has_control(struct span s);
/* memcmp order, shorter first. */
int span_cmp(struct span a, struct span b);
/* FNV-style fast hash for trusted keys; a table that peers can fill uses map.h's keyed hash. */
uint64_t span_hash(struct span s);

static inline char
ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}
static inline bool
ascii_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}
static inline bool
ascii_digit(char c)
{
    return c >= '0' && c <= '9';
}
static inline bool
ascii_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

struct strbuf {
    char *p;
    size_t n, cap;
};

#define STRBUF_PRINTF_GUESS 63 /* what most formatted texts fit into */
#define STRBUF_INIT ((struct strbuf){NULL, 0, 0})

void strbuf_release(struct strbuf *sb); /* also for CLEANUP; leaves it empty and usable */
void strbuf_reset(struct strbuf *sb);   /* empty, memory kept */
void strbuf_reserve(struct strbuf *sb, size_t extra);
void strbuf_add(struct strbuf *sb, const void *p, size_t n);
void strbuf_add_span(struct strbuf *sb, struct span s);
void strbuf_add_str(struct strbuf *sb, const char *s);
void strbuf_add_byte(struct strbuf *sb, char c);
void strbuf_printf(struct strbuf *sb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strbuf_vprintf(struct strbuf *sb, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));
/* Drop the first n bytes. */
void strbuf_consume(struct strbuf *sb, size_t n);
/* Cut to n bytes. */
void strbuf_truncate(struct strbuf *sb, size_t n);
/* The bytes as a malloc'd C string that the caller frees; the strbuf is empty afterwards. */
char *strbuf_take(struct strbuf *sb);

static inline struct span
strbuf_span(const struct strbuf *sb)
{
    return (struct span){sb->p, sb->n};
}
