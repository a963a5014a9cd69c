/*
 * learn - the rules: what an entry says, and what a result does to it. The picture is in learn.h.
 *
 * Every call looks up two rows, the domain's and the site's, and treats them alike: a probe takes
 * the slots of both, and its result counts for both.
 */
#include "policy/learn.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/classify.h"
#include "policy/learn_internal.h"

/* The rows that a way touches; NULL: none. */
struct pair_of_rows {
    struct learn_row *row[2]; /* by scope */
};

static struct pair_of_rows
rows_of(const struct learn *l, const struct learn_way *way)
{
    return (struct pair_of_rows){{
        [LEARN_DOMAIN] = learn_row_find(l, LEARN_DOMAIN, way->domain, way->route),
        [LEARN_SITE] = learn_row_find(l, LEARN_SITE, way->site, way->route),
    }};
}

static void
tell(struct learn *l, enum learn_change change, const struct learn_row *row)
{
    l->changed(l->arg, change, &row->e);
}

/* An end that no refusal can have set: the clock ran back, or max_ttl was made shorter. */
static void
pull_in(struct learn *l, struct learn_row *row, msec_t now)
{
    if (row->e.until_at - now <= l->config.max_ttl_ms)
        return;
    if (row->e.ttl_ms > l->config.max_ttl_ms)
        row->e.ttl_ms = l->config.max_ttl_ms;
    learn_row_set_until(l, row, now + row->e.ttl_ms);
    tell(l, LEARN_PULLED_IN, row);
}

static bool
due(const struct learn_row *row, msec_t now)
{
    return learn_state(&row->e, now) == LEARN_PROBING;
}

/* ---- slots ---- */

static bool
slot_is_of(const struct learn_row *row, const struct learn_way *way)
{
    return way->key.id != 0 && row->slot.id == way->key.id && row->slot.no == way->key.no;
}

/* Whether somebody probes. A lease from the future is one of before the clock ran back. */
static bool
slot_taken(const struct learn_row *row, msec_t now)
{
    return row->slot.id != 0 && row->slot.at <= now && now - row->slot.at < LEARN_LEASE_MS;
}

static void
slot_free(struct learn_row *row)
{
    row->slot.id = 0;
}

void
learn_no_verdict(struct learn *l, const struct learn_way *way)
{
    const struct pair_of_rows rows = rows_of(l, way);
    for (size_t i = 0; i < N_ELEMENTS(rows.row); i++)
        if (rows.row[i] != NULL && slot_is_of(rows.row[i], way))
            slot_free(rows.row[i]);
}

/* ---- asking ---- */

static enum learn_advice
row_advice(struct learn *l, struct learn_row *row, const struct learn_way *way, msec_t now)
{
    pull_in(l, row, now);
    if (!due(row, now) || (slot_taken(row, now) && !slot_is_of(row, way)))
        return LEARN_AVOID;
    return LEARN_PROBE;
}

enum learn_advice
learn_advise(struct learn *l, const struct learn_way *way, msec_t now,
             const struct learn_entry **ret_why)
{
    enum learn_advice worst = LEARN_FREE;
    const struct learn_entry *why = NULL;
    const struct pair_of_rows rows = rows_of(l, way);

    for (size_t i = 0; i < N_ELEMENTS(rows.row); i++) {
        if (rows.row[i] == NULL)
            continue;
        enum learn_advice advice = row_advice(l, rows.row[i], way, now);
        if (advice > worst) {
            worst = advice;
            why = &rows.row[i]->e;
        }
    }
    if (ret_why != NULL)
        *ret_why = why;
    return worst;
}

bool
learn_probe(struct learn *l, const struct learn_way *way, msec_t now)
{
    const struct pair_of_rows rows = rows_of(l, way);

    if (way->key.id == 0 || learn_advise(l, way, now, NULL) != LEARN_PROBE)
        return false;
    for (size_t i = 0; i < N_ELEMENTS(rows.row); i++) {
        struct learn_row *row = rows.row[i];
        if (row == NULL)
            continue;
        bool again = slot_is_of(row, way);
        row->slot.id = way->key.id;
        row->slot.no = way->key.no;
        row->slot.at = now;
        if (!again)
            tell(l, LEARN_PROBED, row);
    }
    return true;
}

/* ---- refusals ---- */

static void
put_reply(struct learn_entry *e, const struct learn_reply *reply)
{
    if (reply->to.n <= LEARN_ROUTE_MAX)
        snprintf(e->to, sizeof(e->to), "%.*s", SPAN_ARG(reply->to));
    e->klass = learn_class(reply->klass);
    e->code = reply->code;
    e->enh = reply->enh;
    learn_put_text(e->text, reply->text);
}

static void
row_renew(struct learn *l, struct learn_row *row, msec_t now)
{
    msec_t max = l->config.max_ttl_ms;

    row->e.ttl_ms = row->e.ttl_ms > max / 2 ? max : 2 * row->e.ttl_ms;
    row->e.good = 0;
    row->e.renewals++;
    slot_free(row);
    learn_row_set_until(l, row, now + row->e.ttl_ms);
    tell(l, LEARN_RENEWED, row);
}

/* The route that `row` says to avoid was refused once more: in mail that was on its way before it
 * was learned, or in a probe. */
static void
row_refused(struct learn *l, struct learn_row *row, const struct learn_way *way,
            const struct learn_reply *reply, msec_t now)
{
    bool probe = slot_is_of(row, way);

    pull_in(l, row, now);
    put_reply(&row->e, reply);
    if (probe || due(row, now))
        row_renew(l, row, now);
}

static void
row_learn(struct learn *l, enum learn_scope scope, const struct learn_way *way,
          const struct learn_reply *reply, msec_t now)
{
    bool site = scope == LEARN_SITE;
    struct learn_entry e = {
        .scope = scope,
        .name = site ? way->site : way->domain,
        .label = site ? span_first(way->label, LEARN_NAME_MAX) : way->domain,
        .route = way->route,
        .since_at = now,
        .ttl_ms = l->config.ttl_ms,
        .until_at = now + l->config.ttl_ms,
        .site_hash = site ? 0 : learn_site_hash(way->site),
    };
    put_reply(&e, reply);
    const struct learn_row *row = learn_row_add(l, &e);
    if (row != NULL)
        tell(l, LEARN_LEARNED, row);
}

void
learn_refused(struct learn *l, const struct learn_way *way, const struct learn_reply *reply,
              msec_t now)
{
    const struct pair_of_rows rows = rows_of(l, way);
    struct learn_row *domain = rows.row[LEARN_DOMAIN], *site = rows.row[LEARN_SITE];

    if (span_eq(reply->klass, span_str(reply_class_name(REPLY_RATE_LIMITED))) ||
        (reply->early && way->site.n == 0)) {
        learn_no_verdict(l, way);
        return;
    }
    bool for_site = way->site.n > 0 &&
                    (reply->early || reply->scope_ip ||
                     learn_row_agreed(l, learn_site_hash(way->site), way->route, way->domain, now));
    if (domain != NULL) {
        if (way->site.n > 0)
            learn_row_set_site(l, domain, learn_site_hash(way->site));
        row_refused(l, domain, way, reply, now);
    }
    if (site != NULL)
        row_refused(l, site, way, reply, now);
    if (domain == NULL && !reply->early)
        row_learn(l, LEARN_DOMAIN, way, reply, now);
    if (site == NULL && for_site)
        row_learn(l, LEARN_SITE, way, reply, now);
}

void
learn_path_failed(struct learn *l, const struct learn_way *way, const struct learn_reply *reply,
                  msec_t now)
{
    const char *klass = reply_class_name(REPLY_ROUTING_ERROR);
    struct learn_row *site = learn_row_find(l, LEARN_SITE, way->site, way->route);
    struct learn_reply path = *reply;

    path.klass = span_str(klass);
    learn_no_verdict(l, way);
    if (way->site.n == 0)
        return;
    bool known = site != NULL && due(site, now) && strcmp(site->e.klass, klass) == 0;
    if (known)
        learn_path_reset(l, way->site, way->route);
    else if (!learn_path_count(l, way->site, way->route, now))
        return;
    if (site != NULL)
        row_refused(l, site, way, &path, now);
    else
        row_learn(l, LEARN_SITE, way, &path, now);
}

/* ---- success ---- */

static void
row_delivered(struct learn *l, struct learn_row *row, const struct learn_way *way, msec_t now)
{
    bool own = slot_is_of(row, way);

    if (!own && !due(row, now))
        return;
    if (own)
        slot_free(row);
    if (++row->e.good >= LEARN_GOOD_PROBES)
        learn_row_remove(l, row, LEARN_FORGOTTEN);
    else
        tell(l, LEARN_GOOD, row);
}

void
learn_delivered(struct learn *l, const struct learn_way *way, msec_t now)
{
    const struct pair_of_rows rows = rows_of(l, way);

    learn_path_reset(l, way->site, way->route);
    for (size_t i = 0; i < N_ELEMENTS(rows.row); i++)
        if (rows.row[i] != NULL)
            row_delivered(l, rows.row[i], way, now);
}

/* ---- names ---- */

const char *
learn_scope_name(enum learn_scope scope)
{
    return scope == LEARN_SITE ? "site" : "domain";
}

const char *
learn_state_name(enum learn_state state)
{
    return state == LEARN_PROBING ? "probing" : "avoiding";
}

static const struct {
    const char *name;
    bool removes;
} changes[LEARN_CHANGE__COUNT] = {
    [LEARN_LEARNED] = {"learned", false},     [LEARN_RENEWED] = {"renewed", false},
    [LEARN_PROBED] = {"probe", false},        [LEARN_GOOD] = {"good_probe", false},
    [LEARN_FORGOTTEN] = {"forgotten", true},  [LEARN_REMOVED] = {"removed", true},
    [LEARN_SWEPT] = {"swept", true},          [LEARN_EVICTED] = {"evicted", true},
    [LEARN_PULLED_IN] = {"pulled_in", false},
};

const char *
learn_change_name(enum learn_change change)
{
    return changes[change].name;
}

bool
learn_change_removes(enum learn_change change)
{
    return changes[change].removes;
}

enum learn_state
learn_state(const struct learn_entry *e, msec_t now)
{
    return now < e->until_at ? LEARN_AVOIDING : LEARN_PROBING;
}

/* ---- life ---- */

struct learn *
learn_new(struct map_seed seed, const struct config_learning *config,
          void (*changed)(void *arg, enum learn_change change, const struct learn_entry *e),
          void *arg)
{
    struct learn *l = xcalloc(1, sizeof(*l));
    l->changed = changed;
    l->arg = arg;
    map_init(&l->rows, seed);
    map_init(&l->groups, seed);
    map_init(&l->counters, seed);
    map_init(&l->pairs, seed);
    learn_set_config(l, config);
    return l;
}

void
learn_free(struct learn *l)
{
    if (l == NULL)
        return;
    learn_table_free(l);
    learn_counts_free(l);
    free(l);
}

void
learn_set_config(struct learn *l, const struct config_learning *config)
{
    assert(config->ttl_ms > 0 && config->max_ttl_ms >= config->ttl_ms);
    l->config = *config;
}
