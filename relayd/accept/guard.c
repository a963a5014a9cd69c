/*
 * guard - a map of clients, threaded on a list by when they were last touched. Called by session.c.
 */
#include "relayd/accept/guard.h"

#include "policy/base/mem.h"

#include <assert.h>
#include <stdlib.h>

struct client {
    struct client *newer, *older;
    struct ip ip;                     /* the map's key: all of its bytes */
    msec_t failed_at[GUARD_FAILURES]; /* a ring; 0: none */
    msec_t blocked_until;
    uint8_t next_failure;
    uint8_t n_waiting;
};

struct guard {
    struct map clients;
    struct client *newest, *oldest;
};

struct guard *
guard_new(struct map_seed seed)
{
    struct guard *g = xcalloc(1, sizeof *g);

    map_init(&g->clients, seed);
    return g;
}

static void
unlink_client(struct guard *g, struct client *c)
{
    if (c->newer != NULL)
        c->newer->older = c->older;
    else
        g->newest = c->older;
    if (c->older != NULL)
        c->older->newer = c->newer;
    else
        g->oldest = c->newer;
    c->newer = c->older = NULL;
}

static void
link_newest(struct guard *g, struct client *c)
{
    c->older = g->newest;
    if (g->newest != NULL)
        g->newest->newer = c;
    else
        g->oldest = c;
    g->newest = c;
}

static struct span
key(const struct ip *ip)
{
    return span_of(ip, sizeof *ip);
}

static void
forget(struct guard *g, struct client *c)
{
    unlink_client(g, c);
    map_remove(&g->clients, key(&c->ip));
    free(c);
}

void
guard_free(struct guard *g)
{
    if (g == NULL)
        return;
    while (g->newest != NULL)
        forget(g, g->newest);
    map_release(&g->clients);
    free(g);
}

static struct ip
network(const struct ip *ip)
{
    return ip->family == 6 ? ip_prefix(ip, 64) : *ip;
}

static struct client *
find(struct guard *g, const struct ip *ip)
{
    struct ip net = network(ip);

    return map_get(&g->clients, key(&net));
}

/* Drop the oldest one that has no check under way; those are few. */
static void
make_room(struct guard *g)
{
    struct client *c = g->oldest;

    while (c != NULL && c->n_waiting > 0)
        c = c->newer;
    if (c != NULL)
        forget(g, c);
}

static struct client *
touch(struct guard *g, const struct ip *ip)
{
    struct client *c = find(g, ip);

    if (c != NULL) {
        unlink_client(g, c);
    } else {
        if (g->clients.n >= GUARD_ENTRIES_MAX)
            make_room(g);
        c = xcalloc(1, sizeof *c);
        c->ip = network(ip);
        map_put(&g->clients, key(&c->ip), c);
    }
    link_newest(g, c);
    return c;
}

bool
guard_blocks(struct guard *g, const struct ip *client, msec_t now)
{
    const struct client *c = find(g, client);

    return c != NULL && c->blocked_until > now;
}

bool
guard_enter(struct guard *g, const struct ip *client)
{
    struct client *c = touch(g, client);

    if (c->n_waiting >= GUARD_WAITING_MAX)
        return false;
    c->n_waiting++;
    return true;
}

void
guard_leave(struct guard *g, const struct ip *client)
{
    struct client *c = find(g, client);

    assert(c != NULL && c->n_waiting > 0);
    if (--c->n_waiting == 0 && c->failed_at[0] == 0)
        forget(g, c); /* a good password leaves nothing behind */
}

bool
guard_failed(struct guard *g, const struct ip *client, msec_t now)
{
    struct client *c = touch(g, client);

    assert(now > 0);
    c->failed_at[c->next_failure] = now;
    c->next_failure = (uint8_t)((c->next_failure + 1) % GUARD_FAILURES);
    msec_t first = c->failed_at[c->next_failure]; /* the oldest of the last five */
    if (first == 0 || now - first > GUARD_WINDOW_MS)
        return false;
    c->blocked_until = now + GUARD_BLOCK_MS;
    return true;
}

size_t
guard_entries(const struct guard *g)
{
    return g->clients.n;
}
