/*
 * How it works: one entry a host in a keyed map, all entries also in a list ordered by their last
 * event, so that the oldest can go when the table is full.
 */
#include "relayd/deliver/tls_memory.h"

#include "policy/base/map.h"
#include "policy/base/mem.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

struct entry {
    struct entry *older, *newer;
    msec_t at; /* of the last event */
    bool failed;
    bool has_worked;
    msec_t worked; /* when it last worked */
    size_t host_n;
    char host[];
};

struct tls_memory {
    struct map map;
    struct entry *oldest, *newest;
    size_t max;
};

struct tls_memory *
tls_memory_new(size_t max)
{
    assert(max > 0);
    struct tls_memory *m = xcalloc(1, sizeof(*m));
    struct map_seed seed;
    arc4random_buf(&seed, sizeof(seed));
    map_init(&m->map, seed);
    m->max = max;
    return m;
}

static void
unlink_entry(struct tls_memory *m, struct entry *e)
{
    if (e->older != NULL)
        e->older->newer = e->newer;
    else
        m->oldest = e->newer;
    if (e->newer != NULL)
        e->newer->older = e->older;
    else
        m->newest = e->older;
    e->older = e->newer = NULL;
}

static void
link_newest(struct tls_memory *m, struct entry *e)
{
    e->older = m->newest;
    if (m->newest != NULL)
        m->newest->newer = e;
    else
        m->oldest = e;
    m->newest = e;
}

static void
drop_oldest(struct tls_memory *m)
{
    struct entry *e = m->oldest;
    unlink_entry(m, e);
    map_remove(&m->map, span_of(e->host, e->host_n));
    free(e);
}

void
tls_memory_free(struct tls_memory *m)
{
    if (m == NULL)
        return;
    while (m->oldest != NULL)
        drop_oldest(m);
    map_release(&m->map);
    free(m);
}

static struct entry *
touch(struct tls_memory *m, struct span host, msec_t now)
{
    struct entry *e = map_get(&m->map, host);
    if (e != NULL) {
        unlink_entry(m, e);
    } else {
        if (m->map.n >= m->max)
            drop_oldest(m);
        e = xcalloc(1, sizeof(*e) + host.n);
        e->host_n = host.n;
        memcpy(e->host, host.p, host.n);
        map_put(&m->map, span_of(e->host, e->host_n), e);
    }
    link_newest(m, e);
    e->at = now;
    return e;
}

void
tls_memory_failed(struct tls_memory *m, struct span host, msec_t now)
{
    if (host.n > 0)
        touch(m, host, now)->failed = true;
}

void
tls_memory_worked(struct tls_memory *m, struct span host, msec_t now)
{
    if (host.n == 0)
        return;
    struct entry *e = touch(m, host, now);
    e->failed = false;
    e->has_worked = true;
    e->worked = now;
}

bool
tls_memory_in_clear(const struct tls_memory *m, struct span host, msec_t now)
{
    const struct entry *e = map_get(&m->map, host);
    return e != NULL && e->failed && now - e->at < TLS_MEMORY_FAILED_MS;
}

bool
tls_memory_was_there(const struct tls_memory *m, struct span host, msec_t now)
{
    const struct entry *e = map_get(&m->map, host);
    return e != NULL && e->has_worked && now - e->worked < TLS_MEMORY_WORKED_MS;
}

size_t
tls_memory_count(const struct tls_memory *m)
{
    return m->map.n;
}
