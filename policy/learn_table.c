/*
 * learn_table - the learned routes: found by scope, route and name, by the end of their time (a
 * binary heap, for sweeping and for making room), and by the site of a domain.
 */
#include <assert.h>
#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "policy/learn_internal.h"

#define KEY_MAX (2 + LEARN_ROUTE_MAX + LEARN_NAME_MAX)

uint64_t
learn_site_hash(struct span site)
{
    static const struct map_seed fixed = {0x6c6561726e656421u, 0x73697465206b6579u};
    if (site.n == 0)
        return 0;
    uint64_t hash = map_hash(fixed, site);
    return hash == 0 ? 1 : hash;
}

/* ---- the heap ---- */

static void
heap_put(struct learn *l, size_t at, struct learn_row *row)
{
    l->heap[at] = row;
    row->heap_at = at;
}

/* Bring the row at `at` to its place. */
static void
heap_settle(struct learn *l, size_t at)
{
    struct learn_row *row = l->heap[at];

    while (at > 0 && l->heap[(at - 1) / 2]->e.until_at > row->e.until_at) {
        heap_put(l, at, l->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (size_t child; (child = 2 * at + 1) < l->n; at = child) {
        if (child + 1 < l->n && l->heap[child + 1]->e.until_at < l->heap[child]->e.until_at)
            child++;
        if (l->heap[child]->e.until_at >= row->e.until_at)
            break;
        heap_put(l, at, l->heap[child]);
    }
    heap_put(l, at, row);
}

static void
heap_add(struct learn *l, struct learn_row *row)
{
    if (l->n == l->heap_cap) {
        l->heap_cap = l->heap_cap == 0 ? 64 : 2 * l->heap_cap;
        l->heap = xrealloc(l->heap, l->heap_cap * sizeof(struct learn_row *));
    }
    heap_put(l, l->n++, row);
    heap_settle(l, row->heap_at);
}

static void
heap_remove(struct learn *l, struct learn_row *row)
{
    size_t at = row->heap_at;

    assert(at < l->n && l->heap[at] == row);
    if (at != --l->n) {
        heap_put(l, at, l->heap[l->n]);
        heap_settle(l, at);
    }
}

void
learn_row_set_until(struct learn *l, struct learn_row *row, msec_t until_at)
{
    row->e.until_at = until_at;
    heap_settle(l, row->heap_at);
}

/* ---- domains of one site ---- */

static struct span
group_key(char buf[static 8 + LEARN_ROUTE_MAX], uint64_t site_hash, struct span route)
{
    memcpy(buf, &site_hash, 8);
    memcpy(buf + 8, route.p, route.n);
    return span_of(buf, 8 + route.n);
}

static void
group_leave(struct learn *l, struct learn_row *row)
{
    char buf[8 + LEARN_ROUTE_MAX];

    if (row->of_site_prev == NULL)
        return;
    *row->of_site_prev = row->of_site;
    if (row->of_site != NULL)
        row->of_site->of_site_prev = row->of_site_prev;
    row->of_site = NULL;
    row->of_site_prev = NULL;
    struct span key = group_key(buf, row->e.site_hash, row->e.route);
    struct learn_group *group = map_get(&l->groups, key);
    if (group->first == NULL) {
        map_remove(&l->groups, key);
        free(group);
    }
}

static void
group_join(struct learn *l, struct learn_row *row)
{
    char buf[8 + LEARN_ROUTE_MAX];

    if (row->e.scope != LEARN_DOMAIN || row->e.site_hash == 0)
        return;
    struct span key = group_key(buf, row->e.site_hash, row->e.route);
    struct learn_group *group = map_get(&l->groups, key);
    if (group == NULL) {
        group = xcalloc(1, sizeof(*group) + key.n);
        group->key_bytes = key.n;
        memcpy(group->key, key.p, key.n);
        map_put(&l->groups, span_of(group->key, key.n), group);
    }
    row->of_site = group->first;
    row->of_site_prev = &group->first;
    if (row->of_site != NULL)
        row->of_site->of_site_prev = &row->of_site;
    group->first = row;
}

void
learn_row_set_site(struct learn *l, struct learn_row *row, uint64_t site_hash)
{
    if (row->e.scope != LEARN_DOMAIN || row->e.site_hash == site_hash)
        return;
    group_leave(l, row);
    row->e.site_hash = site_hash;
    group_join(l, row);
}

bool
learn_row_agreed(const struct learn *l, uint64_t site_hash, struct span route, struct span domain,
                 msec_t now)
{
    char buf[8 + LEARN_ROUTE_MAX];

    if (site_hash == 0 || !learn_span_fits(route, LEARN_ROUTE_MAX))
        return false;
    const struct learn_group *group = map_get(&l->groups, group_key(buf, site_hash, route));
    if (group == NULL)
        return false;
    for (const struct learn_row *row = group->first; row != NULL; row = row->of_site)
        if (now < row->e.until_at && !span_eq(row->e.name, domain))
            return true;
    return false;
}

/* ---- rows ---- */

static struct span
row_key(char buf[static KEY_MAX], enum learn_scope scope, struct span name, struct span route)
{
    char *at = buf;
    *at++ = scope == LEARN_SITE ? 's' : 'd';
    memcpy(at, route.p, route.n);
    at += route.n;
    *at++ = '\0';
    memcpy(at, name.p, name.n);
    return span_of(buf, 2 + route.n + name.n);
}

static bool
fits(enum learn_scope scope, struct span name, struct span route)
{
    return learn_span_fits(name, scope == LEARN_SITE ? LEARN_NAME_MAX : DOMAIN_MAX) &&
           learn_span_fits(route, LEARN_ROUTE_MAX);
}

struct learn_row *
learn_row_find(const struct learn *l, enum learn_scope scope, struct span name, struct span route)
{
    char buf[KEY_MAX];
    if (l->n == 0 || !fits(scope, name, route))
        return NULL;
    return map_get(&l->rows, row_key(buf, scope, name, route));
}

struct learn_row *
learn_row_add(struct learn *l, const struct learn_entry *e)
{
    char buf[KEY_MAX];
    size_t n_label = e->scope == LEARN_SITE ? e->label.n : 0;

    if (!fits(e->scope, e->name, e->route))
        return NULL;
    struct span key = row_key(buf, e->scope, e->name, e->route);
    assert(map_get(&l->rows, key) == NULL);
    if (l->n >= LEARN_ENTRIES_MAX)
        learn_row_remove(l, l->heap[0], LEARN_EVICTED);
    struct learn_row *row = xcalloc(1, sizeof(*row) + key.n + n_label);
    row->e = *e;
    row->key_bytes = key.n;
    memcpy(row->key, key.p, key.n);
    if (n_label > 0)
        memcpy(row->key + key.n, e->label.p, n_label);
    row->e.route = span_of(row->key + 1, e->route.n);
    row->e.name = span_of(row->key + 2 + e->route.n, e->name.n);
    row->e.label = e->scope == LEARN_SITE ? span_of(row->key + key.n, n_label) : row->e.name;
    map_put(&l->rows, span_of(row->key, key.n), row);
    heap_add(l, row);
    group_join(l, row);
    return row;
}

/* Take it out of everything. */
static void
row_unlink(struct learn *l, struct learn_row *row)
{
    group_leave(l, row);
    heap_remove(l, row);
    map_remove(&l->rows, span_of(row->key, row->key_bytes));
}

void
learn_row_remove(struct learn *l, struct learn_row *row, enum learn_change why)
{
    assert(learn_change_removes(why));
    row_unlink(l, row);
    l->changed(l->arg, why, &row->e);
    free(row);
}

void
learn_table_free(struct learn *l)
{
    while (l->n > 0) {
        struct learn_row *row = l->heap[l->n - 1];
        row_unlink(l, row);
        free(row);
    }
    assert(l->groups.n == 0);
    free(l->heap);
    map_release(&l->rows);
    map_release(&l->groups);
}

size_t
learn_count(const struct learn *l)
{
    return l->n;
}

void
learn_each(const struct learn *l, void (*each)(void *arg, const struct learn_entry *e), void *arg)
{
    for (size_t i = 0; i < l->n; i++)
        each(arg, &l->heap[i]->e);
}

/* Whether a row that is to be forgotten was learned at this site, by the same route. */
static bool
taught_by(const struct learn_row *site, struct learn_row *const *rows, size_t n)
{
    uint64_t hash = learn_site_hash(site->e.name);
    for (size_t i = 0; i < n; i++)
        if (rows[i]->e.scope == LEARN_DOMAIN && rows[i]->e.site_hash == hash &&
            span_eq(rows[i]->e.route, site->e.route))
            return true;
    return false;
}

size_t
learn_forget(struct learn *l, struct span name)
{
    size_t n = 0, n_named;
    /* Collected first: a removal moves rows in the heap. */
    struct learn_row **rows = xcalloc(l->n + 1, sizeof(*rows));

    for (size_t i = 0; i < l->n; i++)
        if (span_ieq(l->heap[i]->e.label, name) || span_eq(l->heap[i]->e.name, name))
            rows[n++] = l->heap[i];
    n_named = n;
    for (size_t i = 0; n_named > 0 && i < l->n; i++) {
        struct learn_row *row = l->heap[i];
        if (row->e.scope == LEARN_SITE && !span_ieq(row->e.label, name) &&
            !span_eq(row->e.name, name) && taught_by(row, rows, n_named))
            rows[n++] = row;
    }
    for (size_t i = 0; i < n; i++)
        learn_row_remove(l, rows[i], LEARN_REMOVED);
    free(rows);
    return n;
}

size_t
learn_sweep(struct learn *l, msec_t now, size_t max)
{
    size_t n = 0;
    while (n < max && l->n > 0 && now - l->heap[0]->e.until_at >= l->config.max_ttl_ms) {
        learn_row_remove(l, l->heap[0], LEARN_SWEPT);
        n++;
    }
    return n;
}
