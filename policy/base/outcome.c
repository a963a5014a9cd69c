#include "policy/base/outcome.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "policy/base/mem.h"

/* As much of an outcome as is used: `text`, its last member, ends with its NUL. */
struct outcome_kept {
    size_t n;
    char bytes[];
};

const char *
outcome_kind_name(enum outcome_kind kind)
{
    static const char *const names[] = {"delivered", "deferred", "failed"};
    return names[kind];
}

const char *
outcome_origin_name(enum outcome_origin origin)
{
    static const char *const names[] = {"peer", "local", "dns", "net", "tls"};
    return names[origin];
}

void
outcome_set(struct outcome *o, enum outcome_kind kind, enum outcome_origin origin,
            const char *phase, const char *enh, const char *fmt, ...)
{
    size_t len;
    *o = (struct outcome){.kind = kind, .origin = origin, .phase = phase};
    if (enh != NULL)
        enh_parse(span_str(enh), &o->enh, &len);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(o->text, sizeof(o->text), fmt, ap);
    va_end(ap);
}

struct outcome_kept *
outcome_keep(const struct outcome *o)
{
    size_t n = offsetof(struct outcome, text) + strlen(o->text) + 1;
    struct outcome_kept *kept = xmalloc(sizeof(*kept) + n);

    kept->n = n;
    memcpy(kept->bytes, o, n);
    return kept;
}

void
outcome_recall(const struct outcome_kept *kept, struct outcome *ret)
{
    memcpy(ret, kept->bytes, kept->n);
}

const char *
outcome_kept_text(const struct outcome_kept *kept)
{
    return kept->bytes + offsetof(struct outcome, text);
}

static bool
number_parse(struct span s, size_t *i, uint16_t *ret)
{
    unsigned v = 0;
    size_t start = *i;
    while (*i < s.n && ascii_digit(s.p[*i]) && *i - start < 3)
        v = v * 10 + (unsigned)(s.p[(*i)++] - '0');
    *ret = (uint16_t)v;
    return *i > start;
}

bool
enh_parse(struct span s, struct enh *ret, size_t *ret_len)
{
    struct enh e = {0};
    size_t i = 2;
    if (s.n < 5 || (s.p[0] != '2' && s.p[0] != '4' && s.p[0] != '5') || s.p[1] != '.')
        return false;
    e.klass = (uint8_t)(s.p[0] - '0');
    if (!number_parse(s, &i, &e.subject) || i >= s.n || s.p[i] != '.')
        return false;
    i++;
    if (!number_parse(s, &i, &e.detail))
        return false;
    if (i < s.n && (ascii_digit(s.p[i]) || s.p[i] == '.'))
        return false; /* an IP address, or a number of more than three digits */
    *ret = e;
    *ret_len = i;
    return true;
}

char *
enh_format(struct enh e, char *buf)
{
    if (e.klass == 0)
        buf[0] = '\0';
    else
        snprintf(buf, 16, "%u.%u.%u", (unsigned)e.klass, (unsigned)e.subject % 1000,
                 (unsigned)e.detail % 1000);
    return buf;
}

struct enh
outcome_status(const struct outcome *o)
{
    uint8_t klass = o->kind == OUTCOME_DELIVERED ? 2 : o->kind == OUTCOME_DEFERRED ? 4 : 5;
    struct enh e = o->enh;
    if (e.klass == 0)
        e = (struct enh){.klass = klass, .subject = 0, .detail = 0};
    e.klass = klass;
    return e;
}
