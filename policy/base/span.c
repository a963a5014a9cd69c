#include "policy/base/span.h"

#include "policy/base/mem.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

bool
span_eq(struct span a, struct span b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool
span_ieq(struct span a, struct span b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
            return false;
    return true;
}

bool
span_starts(struct span s, struct span prefix)
{
    return s.n >= prefix.n && span_eq(span_first(s, prefix.n), prefix);
}

bool
span_istarts(struct span s, struct span prefix)
{
    return s.n >= prefix.n && span_ieq(span_first(s, prefix.n), prefix);
}

bool
span_ends(struct span s, struct span suffix)
{
    return s.n >= suffix.n && span_eq(span_from(s, s.n - suffix.n), suffix);
}

bool
span_iends(struct span s, struct span suffix)
{
    return s.n >= suffix.n && span_ieq(span_from(s, s.n - suffix.n), suffix);
}

size_t
span_find_byte(struct span s, char c)
{
    const char *at = s.n == 0 ? NULL : memchr(s.p, c, s.n);
    return at == NULL ? SIZE_MAX : (size_t)(at - s.p);
}

size_t
span_find(struct span s, struct span needle)
{
    if (needle.n == 0)
        return 0;
    const char *at = s.n < needle.n ? NULL : memmem(s.p, s.n, needle.p, needle.n);
    return at == NULL ? SIZE_MAX : (size_t)(at - s.p);
}

size_t
span_ifind(struct span s, struct span needle)
{
    for (size_t i = 0; i + needle.n <= s.n; i++)
        if (span_ieq(span_of(s.p + i, needle.n), needle))
            return i;
    return SIZE_MAX;
}

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct span
span_trim(struct span s)
{
    while (s.n > 0 && is_blank(s.p[0]))
        s = span_from(s, 1);
    while (s.n > 0 && is_blank(s.p[s.n - 1]))
        s.n--;
    return s;
}

struct span
span_cut(struct span *s, char c)
{
    size_t at = span_find_byte(*s, c);
    struct span before = *s;
    if (at == SIZE_MAX) {
        *s = span_from(*s, s->n);
        return before;
    }
    before.n = at;
    *s = span_from(*s, at + 1);
    return before;
}

bool
span_u64(struct span s, uint64_t *ret)
{
    uint64_t v = 0;
    if (s.n == 0)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!ascii_digit(s.p[i]) || __builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
            return false;
    }
    *ret = v;
    return true;
}

bool
span_has_control(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if (ascii_control(s.p[i]))
            return true;
    return false;
}

int
span_cmp(struct span a, struct span b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n == 0 ? 0 : memcmp(a.p, b.p, n);
    if (c != 0)
        return c;
    return a.n < b.n ? -1 : a.n > b.n;
}

uint64_t
span_hash(struct span s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (unsigned char)s.p[i]) * 0x100000001b3u;
    return h ^ (h >> 32);
}

void
strbuf_release(struct strbuf *sb)
{
    free(sb->p);
    *sb = STRBUF_INIT;
}

void
strbuf_reset(struct strbuf *sb)
{
    sb->n = 0;
    if (sb->p != NULL)
        sb->p[0] = '\0';
}

void
strbuf_reserve(struct strbuf *sb, size_t extra)
{
    size_t want;
    if (__builtin_add_overflow(sb->n, extra, &want) || want >= SIZE_MAX / 2)
        abort();
    want++;
    if (want <= sb->cap)
        return;
    size_t cap = sb->cap < 64 ? 64 : sb->cap * 2;
    if (cap < want)
        cap = want;
    sb->p = xrealloc(sb->p, cap);
    sb->cap = cap;
}

void
strbuf_add(struct strbuf *sb, const void *p, size_t n)
{
    strbuf_reserve(sb, n);
    if (n > 0)
        memcpy(sb->p + sb->n, p, n);
    sb->n += n;
    sb->p[sb->n] = '\0';
}

void
strbuf_add_span(struct strbuf *sb, struct span s)
{
    strbuf_add(sb, s.p, s.n);
}

void
strbuf_add_str(struct strbuf *sb, const char *s)
{
    strbuf_add(sb, s, strlen(s));
}

void
strbuf_add_byte(struct strbuf *sb, char c)
{
    strbuf_add(sb, &c, 1);
}

void
strbuf_vprintf(struct strbuf *sb, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    strbuf_reserve(sb, STRBUF_PRINTF_GUESS); /* mostly it fits at once */
    size_t room = sb->cap - sb->n;
    int n = vsnprintf(sb->p + sb->n, room, fmt, ap);
    assert(n >= 0);
    if ((size_t)n >= room) {
        strbuf_reserve(sb, (size_t)n);
        vsnprintf(sb->p + sb->n, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    sb->n += (size_t)n;
}

void
strbuf_printf(struct strbuf *sb, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    strbuf_vprintf(sb, fmt, ap);
    va_end(ap);
}

void
strbuf_consume(struct strbuf *sb, size_t n)
{
    assert(n <= sb->n);
    if (n == 0)
        return;
    memmove(sb->p, sb->p + n, sb->n - n);
    sb->n -= n;
    sb->p[sb->n] = '\0';
}

void
strbuf_truncate(struct strbuf *sb, size_t n)
{
    assert(n <= sb->n);
    sb->n = n;
    if (sb->p != NULL)
        sb->p[n] = '\0';
}

char *
strbuf_take(struct strbuf *sb)
{
    strbuf_reserve(sb, 0);
    sb->p[sb->n] = '\0';
    char *p = sb->p;
    *sb = STRBUF_INIT;
    return p;
}
