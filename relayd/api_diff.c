#include "relayd/api_diff.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/map.h"
#include "policy/base/mem.h"
#include "policy/geoip.h"

#define WAY_BYTES 400

/* A recipient that waits for facts; its texts are behind it. */
struct parked {
    struct parked *next;
    enum diff_part part;
    struct route_query query;
    char text[];
};

/* A domain whose facts were asked for. */
struct asked {
    struct diff *diff;
    char *domain;
    unsigned needs;
    struct facts_query *query; /* under way */
    struct parked *rows;
    struct asked *next; /* in line */
    bool in_line;
};

struct diff {
    struct facts *facts;
    const struct settings *now, *then;
    struct diff_sums sums[DIFF_PARTS];
    struct map changes[DIFF_PARTS]; /* domain, from, to -> 1 + index */
    struct map domains;             /* name -> struct asked */
    struct asked *line, **line_end;
    size_t n_open, n_parked;
    void (*done)(void *arg);
    void *arg;
};

struct diff *
diff_new(struct daemon *d, const struct settings *now, const struct settings *then)
{
    struct diff *diff = xcalloc(1, sizeof(*diff));
    struct map_seed seed;

    diff->facts = d->facts;
    diff->now = now;
    diff->then = then;
    diff->line_end = &diff->line;
    arc4random_buf(&seed, sizeof(seed));
    for (size_t i = 0; i < DIFF_PARTS; i++)
        map_init(&diff->changes[i], seed);
    map_init(&diff->domains, seed);
    return diff;
}

static void
rows_free(struct diff *diff, struct asked *asked)
{
    while (asked->rows != NULL) {
        struct parked *row = asked->rows;
        asked->rows = row->next;
        diff->n_parked--;
        free(row);
    }
}

void
diff_free(struct diff *diff)
{
    struct span name;
    void *value;

    if (diff == NULL)
        return;
    for (size_t pos = 0; map_next(&diff->domains, &pos, &name, &value);) {
        struct asked *asked = value;
        facts_cancel(asked->query);
        rows_free(diff, asked);
        free(asked->domain);
        free(asked);
    }
    map_release(&diff->domains);
    for (size_t part = 0; part < DIFF_PARTS; part++) {
        struct diff_sums *sums = &diff->sums[part];
        for (size_t i = 0; i < sums->n_changes; i++)
            free(sums->changes[i].domain);
        free(sums->changes);
        map_release(&diff->changes[part]);
    }
    free(diff);
}

/* ---- two decisions ---- */

/* The way in words: "direct", "direct, then us", "reject: 550 5.1.2 moved". */
static const char *
way(const struct config *config, const struct route_decision *d, char buf[static WAY_BYTES])
{
    int n = 0;

    if (d->action != ROUTE_DELIVER) {
        snprintf(buf, WAY_BYTES, "%s%s%.*s", route_action_name(d->action),
                 d->text.n > 0 ? ": " : "", SPAN_ARG(d->text));
        return buf;
    }
    for (size_t i = 0; i < d->n_routes && n < WAY_BYTES; i++)
        n += snprintf(buf + n, WAY_BYTES - (size_t)n, "%s%s", i == 0 ? "" : ", then ",
                      config->routes[d->routes[i]].name);
    return buf;
}

static void
count_change(struct diff *diff, enum diff_part part, struct span domain, const char *from,
             const char *to)
{
    struct diff_sums *sums = &diff->sums[part];
    size_t n_from = strlen(from) + 1, n_to = strlen(to) + 1;
    char *key = xmalloc(domain.n + 1 + n_from + n_to);

    memcpy(key, domain.p, domain.n);
    key[domain.n] = '\0';
    memcpy(key + domain.n + 1, from, n_from);
    memcpy(key + domain.n + 1 + n_from, to, n_to);
    struct span span = span_of(key, domain.n + n_from + n_to);
    size_t at = (size_t)(uintptr_t)map_get(&diff->changes[part], span);
    if (at > 0 || sums->n_changes == DIFF_CHANGES_MAX) {
        if (at > 0)
            sums->changes[at - 1].n++;
        else
            sums->more = true;
        free(key);
        return;
    }
    if (sums->changes == NULL)
        sums->changes = xcalloc(DIFF_CHANGES_MAX, sizeof(sums->changes[0]));
    sums->changes[sums->n_changes++] = (struct diff_change){
        .domain = key, .from = key + domain.n + 1, .to = key + domain.n + 1 + n_from, .n = 1};
    map_put(&diff->changes[part], span, (void *)(uintptr_t)sums->n_changes);
}

/* Which look-up serves both: where there is a database the address is looked for, and whose it is
 * says each database by itself. */
static struct geoip *
any_geoip(const struct diff *diff)
{
    return diff->now->geoip != NULL ? diff->now->geoip : diff->then->geoip;
}

static void
decide(const struct settings *settings, const struct route_query *query,
       const struct facts_domain *have, struct route_decision *ret)
{
    struct route_query asked = *query;
    struct route_facts facts;

    if (have != NULL) {
        facts = have->route;
        if (settings->geoip == NULL)
            facts.country = ROUTE_FACT_NONE;
        else if (facts.country != ROUTE_FACT_UNKNOWN && facts.address.family != 0)
            facts.country = geoip_country(settings->geoip, &facts.address, facts.country_code)
                                ? ROUTE_FACT_KNOWN
                                : ROUTE_FACT_NONE;
        asked.facts = &facts;
    }
    route_decide(settings->config, &asked, ret);
}

/* Compare the two decisions. Returns which facts one of them still asks for; 0: it is counted. */
static unsigned
weigh(struct diff *diff, enum diff_part part, const struct route_query *query,
      const struct facts_domain *have)
{
    struct route_decision now, then;
    char from[WAY_BYTES], to[WAY_BYTES];

    decide(diff->now, query, have, &now);
    decide(diff->then, query, have, &then);
    if (now.action == ROUTE_FACTS || then.action == ROUTE_FACTS) {
        assert((now.needs | then.needs) != 0);
        return now.needs | then.needs;
    }
    way(diff->now->config, &now, from);
    way(diff->then->config, &then, to);
    if (strcmp(from, to) != 0)
        count_change(diff, part, query->domain, from, to);
    return 0;
}

/* ---- facts ---- */

static struct span
put_text(char **at, struct span text)
{
    struct span copy = span_of(*at, text.n);
    if (text.n > 0)
        memcpy(*at, text.p, text.n);
    *at += text.n;
    return copy;
}

static struct parked *
parked_new(enum diff_part part, const struct route_query *query)
{
    const struct route_query *q = query;
    struct parked *row =
        xmalloc(sizeof(*row) + q->sender.n + q->sender_domain.n + q->rcpt_local.n + q->domain.n);
    char *at = row->text;

    row->part = part;
    row->query = (struct route_query){.sender = put_text(&at, q->sender),
                                      .sender_domain = put_text(&at, q->sender_domain),
                                      .rcpt_local = put_text(&at, q->rcpt_local),
                                      .domain = put_text(&at, q->domain)};
    return row;
}

static struct asked *
asked_get(struct diff *diff, const char *domain)
{
    struct asked *asked = map_get(&diff->domains, span_str(domain));
    if (asked != NULL)
        return asked;
    asked = xcalloc(1, sizeof(*asked));
    asked->diff = diff;
    asked->domain = xstrdup(domain);
    map_put(&diff->domains, span_str(asked->domain), asked);
    return asked;
}

static void
line_add(struct diff *diff, struct asked *asked)
{
    if (asked->in_line || asked->query != NULL)
        return;
    asked->in_line = true;
    asked->next = NULL;
    *diff->line_end = asked;
    diff->line_end = &asked->next;
}

static void on_facts(void *arg, const struct facts_domain *have);

static void
start_more(struct diff *diff)
{
    while (diff->line != NULL && diff->n_open < DIFF_LOOKUPS_MAX) {
        struct asked *asked = diff->line;
        diff->line = asked->next;
        if (diff->line == NULL)
            diff->line_end = &diff->line;
        asked->in_line = false;
        diff->n_open++;
        asked->query = facts_domain_start(diff->facts, any_geoip(diff), asked->domain, asked->needs,
                                          on_facts, asked);
    }
}

static void
park(struct diff *diff, enum diff_part part, const struct route_query *query, const char *domain,
     unsigned needs)
{
    if (diff->n_parked == DIFF_PARKED_MAX) {
        diff->sums[part].unknown++;
        return;
    }
    struct asked *asked = asked_get(diff, domain);
    struct parked *row = parked_new(part, query);
    row->next = asked->rows;
    asked->rows = row;
    diff->n_parked++;
    /* More than what is being asked: its rows ask again when that is there. */
    if (asked->query == NULL)
        asked->needs |= needs;
    line_add(diff, asked);
    start_more(diff);
}

static void
on_facts(void *arg, const struct facts_domain *have)
{
    struct asked *asked = arg;
    struct diff *diff = asked->diff;
    struct parked *rows = asked->rows;
    unsigned known = asked->needs;

    asked->query = NULL;
    asked->rows = NULL;
    diff->n_open--;
    for (struct parked *row = rows, *next; row != NULL; row = next) {
        next = row->next;
        unsigned needs = weigh(diff, row->part, &row->query, have);
        if (have->ok && (needs & ~known) != 0) {
            asked->needs |= needs;
            row->next = asked->rows;
            asked->rows = row;
            continue;
        }
        diff->sums[row->part].unknown += needs != 0;
        diff->n_parked--;
        free(row);
    }
    if (asked->rows != NULL)
        line_add(diff, asked);
    start_more(diff);
    if (!diff_busy(diff) && diff->done != NULL)
        diff->done(diff->arg); /* last: it may free the diff */
}

void
diff_row(struct diff *diff, enum diff_part part, const struct route_query *query)
{
    struct facts_domain have;
    char domain[DOMAIN_BUF];
    unsigned asked = 0, needs = weigh(diff, part, query, NULL);

    diff->sums[part].checked++;
    if (needs != 0)
        snprintf(domain, sizeof(domain), "%.*s", SPAN_ARG(query->domain));
    while ((needs & ~asked) != 0) {
        asked |= needs | ROUTE_NEEDS_MX;
        if (!facts_domain_cached(diff->facts, any_geoip(diff), domain, asked, &have)) {
            park(diff, part, query, domain, asked);
            return;
        }
        needs = weigh(diff, part, query, &have);
        if (!have.ok)
            break;
    }
    diff->sums[part].unknown += needs != 0;
}

void
diff_row_unknown(struct diff *diff, enum diff_part part)
{
    diff->sums[part].checked++;
    diff->sums[part].unknown++;
}

/* ---- the end ---- */

bool
diff_busy(const struct diff *diff)
{
    return diff->n_parked > 0;
}

void
diff_wait(struct diff *diff, void (*done)(void *arg), void *arg)
{
    assert(diff_busy(diff));
    diff->done = done;
    diff->arg = arg;
}

static int
by_number(const void *a, const void *b)
{
    const struct diff_change *x = a, *y = b;
    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    int order = strcmp(x->domain, y->domain);
    return order != 0 ? order : strcmp(x->from, y->from);
}

void
diff_settle(struct diff *diff)
{
    struct span name;
    void *value;

    diff->done = NULL;
    diff->line = NULL;
    diff->line_end = &diff->line;
    for (size_t pos = 0; map_next(&diff->domains, &pos, &name, &value);) {
        struct asked *asked = value;
        facts_cancel(asked->query);
        asked->query = NULL;
        asked->in_line = false;
        for (const struct parked *row = asked->rows; row != NULL; row = row->next)
            diff->sums[row->part].unknown++;
        rows_free(diff, asked);
    }
    diff->n_open = 0;
    for (size_t part = 0; part < DIFF_PARTS; part++) {
        struct diff_sums *sums = &diff->sums[part];
        map_release(&diff->changes[part]); /* its indices no longer hold */
        if (sums->n_changes > 0)
            qsort(sums->changes, sums->n_changes, sizeof(sums->changes[0]), by_number);
    }
}

const struct diff_sums *
diff_sums(const struct diff *diff, enum diff_part part)
{
    return &diff->sums[part];
}
