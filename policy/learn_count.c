/*
 * learn_count - what is counted before something is learned or refused: attempts that failed on the
 * path, by site and route, and recipients that a refusal moved, by pair of routes.
 */
#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/learn_internal.h"

/* ---- failed paths ---- */

struct learn_counter {
    struct learn_counter *newer, *older;
    msec_t *at; /* when, ascending; fewer than path_errors.count */
    size_t n, cap;
    size_t key_bytes;
    char key[]; /* route, NUL, site */
};

#define PAIR_MAX (LEARN_ROUTE_MAX + 1 + LEARN_NAME_MAX)

/* Two names as one key; empty when they are beyond the limits. */
static struct span
pair_key(char buf[static PAIR_MAX], struct span route, struct span name)
{
    if (!learn_span_fits(route, LEARN_ROUTE_MAX) || !learn_span_fits(name, LEARN_NAME_MAX))
        return SPAN_NONE;
    memcpy(buf, route.p, route.n);
    buf[route.n] = '\0';
    memcpy(buf + route.n + 1, name.p, name.n);
    return span_of(buf, route.n + 1 + name.n);
}

static void
counter_unlink(struct learn *l, struct learn_counter *c)
{
    *(c->newer != NULL ? &c->newer->older : &l->newest) = c->older;
    *(c->older != NULL ? &c->older->newer : &l->oldest) = c->newer;
}

static void
counter_to_front(struct learn *l, struct learn_counter *c)
{
    c->newer = NULL;
    c->older = l->newest;
    *(l->newest != NULL ? &l->newest->newer : &l->oldest) = c;
    l->newest = c;
}

static void
counter_free(struct learn *l, struct learn_counter *c)
{
    counter_unlink(l, c);
    map_remove(&l->counters, span_of(c->key, c->key_bytes));
    free(c->at);
    free(c);
}

static struct learn_counter *
counter_get(struct learn *l, struct span key)
{
    struct learn_counter *c = map_get(&l->counters, key);

    if (c != NULL) {
        counter_unlink(l, c);
    } else {
        if (l->counters.n >= LEARN_COUNTERS_MAX)
            counter_free(l, l->oldest);
        c = xcalloc(1, sizeof(*c) + key.n);
        c->key_bytes = key.n;
        memcpy(c->key, key.p, key.n);
        map_put(&l->counters, span_of(c->key, key.n), c);
    }
    counter_to_front(l, c);
    return c;
}

bool
learn_path_count(struct learn *l, struct span site, struct span route, msec_t now)
{
    char buf[PAIR_MAX];
    struct span key = pair_key(buf, route, site);
    size_t kept = 0;

    if (key.n == 0)
        return false;
    struct learn_counter *c = counter_get(l, key);
    for (size_t i = 0; i < c->n; i++)
        if (c->at[i] <= now && now - c->at[i] < l->config.path_errors_within_ms)
            c->at[kept++] = c->at[i];
    c->n = kept;
    if (c->n > 0 && now - c->at[c->n - 1] < LEARN_PATH_GAP_MS)
        return false;
    if (c->n + 1 >= l->config.path_errors_count) {
        counter_free(l, c);
        return true;
    }
    if (c->n == c->cap) {
        c->cap = c->cap == 0 ? 2 : 2 * c->cap;
        c->at = xrealloc(c->at, c->cap * sizeof(c->at[0]));
    }
    c->at[c->n++] = now;
    return false;
}

void
learn_path_reset(struct learn *l, struct span site, struct span route)
{
    char buf[PAIR_MAX];
    if (l->counters.n == 0)
        return;
    struct span key = pair_key(buf, route, site);
    struct learn_counter *c = key.n == 0 ? NULL : map_get(&l->counters, key);
    if (c != NULL)
        counter_free(l, c);
}

/* ---- reroutes ---- */

/* A window of the rate's length in steps, and one step more: the oldest one counts whole, so that
 * no such time, wherever it begins, sees more than the rate. */
#define STEPS 12
/* Pairs of routes: more than names of routes make that one configuration may have. */
#define PAIRS_MAX (CONFIG_ROUTES_MAX * CONFIG_ROUTES_MAX)

struct pair {
    msec_t per_ms;              /* of the rate that it counts for */
    int64_t newest;             /* number of the step under way */
    uint32_t counts[STEPS + 1]; /* ring, by number of the step */
    bool alerted;
    msec_t alerted_at;
    char key[]; /* from, NUL, to */
};

static msec_t
step_ms(const struct pair *p)
{
    return (p->per_ms + STEPS - 1) / STEPS;
}

/* Bring the ring to `now`. Steps that lie ahead (the clock ran back a little) are the present; far
 * ahead they are nonsense. */
static void
pair_turn(struct pair *p, msec_t now)
{
    int64_t step = now / step_ms(p);

    assert(now >= 0);
    if (step > p->newest + STEPS || step < p->newest - STEPS) {
        memset(p->counts, 0, sizeof(p->counts));
        p->newest = step;
    }
    while (p->newest < step)
        p->counts[++p->newest % (STEPS + 1)] = 0;
}

static bool
pair_idle(const struct pair *p, msec_t now)
{
    int64_t step = now / step_ms(p);
    return step > p->newest + STEPS || step < p->newest - STEPS;
}

static void
pairs_drop_idle(struct learn *l, msec_t now)
{
    size_t pos = 0;
    struct span key;
    void *value;
    while (map_next(&l->pairs, &pos, &key, &value)) {
        if (!pair_idle(value, now))
            continue;
        map_remove(&l->pairs, key);
        free(value);
        pos--;
    }
}

/* NULL: there is no room. */
static struct pair *
pair_get(struct learn *l, struct span from, struct span to, msec_t now)
{
    char buf[PAIR_MAX];
    struct span key = pair_key(buf, from, to);

    if (key.n == 0)
        return NULL;
    struct pair *p = map_get(&l->pairs, key);
    if (p == NULL) {
        if (l->pairs.n >= PAIRS_MAX)
            pairs_drop_idle(l, now);
        if (l->pairs.n >= PAIRS_MAX)
            return NULL;
        p = xcalloc(1, sizeof(*p) + key.n);
        memcpy(p->key, key.p, key.n);
        map_put(&l->pairs, span_of(p->key, key.n), p);
    }
    if (p->per_ms != l->config.max_reroutes.per_ms) {
        p->per_ms = l->config.max_reroutes.per_ms;
        p->newest = now / step_ms(p);
        p->alerted = false;
        memset(p->counts, 0, sizeof(p->counts));
    }
    return p;
}

bool
learn_may_reroute(struct learn *l, struct span from, struct span to, msec_t now, bool *ret_alert)
{
    struct rate rate = l->config.max_reroutes;
    uint64_t n = 0;

    *ret_alert = false;
    if (rate.count == 0)
        return true;
    struct pair *p = pair_get(l, from, to, now);
    if (p == NULL)
        return false;
    pair_turn(p, now);
    for (size_t i = 0; i < N_ELEMENTS(p->counts); i++)
        n += p->counts[i];
    if (n < rate.count) {
        p->counts[p->newest % (STEPS + 1)]++;
        return true;
    }
    if (!p->alerted || now - p->alerted_at >= rate.per_ms || now < p->alerted_at) {
        p->alerted = true;
        p->alerted_at = now;
        *ret_alert = true;
    }
    return false;
}

void
learn_counts_free(struct learn *l)
{
    size_t pos = 0;
    struct span key;
    void *value;

    while (l->oldest != NULL)
        counter_free(l, l->oldest);
    map_release(&l->counters);
    while (map_next(&l->pairs, &pos, &key, &value))
        free(value);
    map_release(&l->pairs);
}
