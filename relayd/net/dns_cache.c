#include "relayd/net/dns_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "policy/base/mem.h"

struct dns_cache {
    struct map map;
    TAILQ_HEAD(dns_used, dns_entry) used; /* most recently used first */
    size_t max;
};

struct span
dns_key(char buf[DNS_KEY_BYTES], const char *name, uint16_t type)
{
    size_t n = strlen(name);
    assert(n + 2 <= DNS_KEY_BYTES);
    buf[0] = (char)(type >> 8);
    buf[1] = (char)type;
    memcpy(buf + 2, name, n);
    return span_of(buf, n + 2);
}

struct dns_entry *
dns_entry_new(struct span key, struct dns_found *found, enum dns_status status, uint32_t ttl_s,
              msec_t now, const char *text)
{
    size_t n_text = strlen(text) + 1;
    struct dns_entry *e = xcalloc(1, sizeof(*e) + key.n + 1 + n_text);

    memcpy(e->bytes, key.p, key.n); /* a NUL follows: the name is a C string */
    e->key = span_of(e->bytes, key.n);
    e->n_refs = 1;
    e->found = found;
    e->expires_at = now + (msec_t)ttl_s * SECOND;
    e->answer = (struct dns_answer){
        .status = status,
        .type = (uint16_t)((uint8_t)key.p[0] << 8 | (uint8_t)key.p[1]),
        .ttl_s = ttl_s,
        .name = e->bytes + 2,
        .text = memcpy(e->bytes + key.n + 1, text, n_text),
    };
    if (found != NULL) {
        e->answer.ad = found->ad;
        e->answer.null_mx = found->null_mx;
        e->answer.truncated = found->truncated;
        e->answer.name = found->name;
        e->answer.n_records = found->n_records;
        e->answer.records = found->records;
    }
    return e;
}

void
dns_entry_ref(struct dns_entry *e)
{
    e->n_refs++;
}

void
dns_entry_unref(struct dns_entry *e)
{
    if (e == NULL || --e->n_refs > 0)
        return;
    assert(!e->cached);
    free(e->found);
    free(e);
}

void
dns_entry_age(struct dns_entry *e, msec_t now)
{
    msec_t left_ms = e->expires_at - now;
    e->answer.ttl_s = left_ms <= 0 ? 0 : (uint32_t)((left_ms + SECOND - 1) / SECOND);
}

struct dns_cache *
dns_cache_new(size_t max)
{
    struct dns_cache *c = xcalloc(1, sizeof(*c));
    struct map_seed seed;
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        abort();
    map_init(&c->map, seed);
    TAILQ_INIT(&c->used);
    c->max = max;
    return c;
}

static void
drop(struct dns_cache *c, struct dns_entry *e)
{
    map_remove(&c->map, e->key);
    TAILQ_REMOVE(&c->used, e, link);
    e->cached = false;
    dns_entry_unref(e);
}

void
dns_cache_forget(struct dns_cache *c, struct span key)
{
    struct dns_entry *e = map_get(&c->map, key);
    if (e != NULL)
        drop(c, e);
}

void
dns_cache_clear(struct dns_cache *c)
{
    struct dns_entry *e;
    while ((e = TAILQ_FIRST(&c->used)) != NULL)
        drop(c, e);
}

void
dns_cache_free(struct dns_cache *c)
{
    if (c == NULL)
        return;
    dns_cache_clear(c);
    map_release(&c->map);
    free(c);
}

void
dns_cache_put(struct dns_cache *c, struct dns_entry *e)
{
    struct dns_entry *old = map_get(&c->map, e->key);
    if (old != NULL)
        drop(c, old);
    map_put(&c->map, e->key, e);
    TAILQ_INSERT_HEAD(&c->used, e, link);
    e->cached = true;
    dns_entry_ref(e);
    dns_cache_set_max(c, c->max);
}

struct dns_entry *
dns_cache_get(struct dns_cache *c, struct span key, msec_t now)
{
    struct dns_entry *e = map_get(&c->map, key);
    if (e == NULL)
        return NULL;
    if (e->expires_at <= now) {
        drop(c, e);
        return NULL;
    }
    TAILQ_REMOVE(&c->used, e, link);
    TAILQ_INSERT_HEAD(&c->used, e, link);
    dns_entry_age(e, now);
    return e;
}

void
dns_cache_set_max(struct dns_cache *c, size_t max)
{
    c->max = max;
    while (c->map.n > c->max)
        drop(c, TAILQ_LAST(&c->used, dns_used));
}

size_t
dns_cache_n(const struct dns_cache *c)
{
    return c->map.n;
}
