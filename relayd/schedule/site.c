/*
 * site - the destinations: one for each set of MX hosts, hop, or domain without MX, and TLS level.
 *
 *              a connection could not be made, none other is up
 *        UP ────────────────────────────────────────────▶ DOWN until probe_at
 *         ▲                                                 │ first recipient after probe_at
 *         └──────────── a link says ready ────────────── PROBING (one link)
 *                                                           │ failed: DOWN again, longer
 *
 * Who waits at a site that goes down takes another route now, or goes back to the queue until the
 * probe is due. Called by plan.c and pump.c.
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/learned.h"
#include "relayd/ops/log.h"

#define SITE_UNUSED_MS (10 * MINUTE) /* without work for so long: forgotten, if it is up */

struct site *
site_get(struct schedule *s, const char *route, const char *key, const char *name,
         enum config_tls tls)
{
    return site_get_family(s, route, key, name, tls, 0);
}

/* One block with its strings: a backlog has very many. */
static struct site *
site_new(struct schedule *s, struct span key, const char *route, const char *name)
{
    size_t n_name = strlen(name) + 1, n_route = strlen(route) + 1;
    struct site *site = xcalloc(1, sizeof(*site) + key.n + 1 + n_name + n_route);
    char *p = site->strings;

    site->schedule = s;
    site->ready_tail = &site->ready;
    site->key = memcpy(p, key.p, key.n);
    site->name = memcpy(p += key.n + 1, name, n_name);
    site->route = memcpy(p + n_name, route, n_route);
    return site;
}

#define FULL_KEY_MAX (FACTS_SITE_KEY_MAX + 128)

/* Under which it stands in s->sites. */
static struct span
full_key(char buf[static FULL_KEY_MAX], const char *route, enum config_tls tls, uint8_t family,
         const char *key)
{
    size_t n = (size_t)snprintf(buf, FULL_KEY_MAX, "%s|%d.%u|%s", route, (int)tls, family, key);
    assert(n < FULL_KEY_MAX);
    return span_of(buf, n);
}

struct site *
site_find(const struct schedule *s, const char *route, const char *key, enum config_tls tls)
{
    char full[FULL_KEY_MAX];
    return map_get(&s->sites, full_key(full, route, tls, 0, key));
}

struct site *
site_get_family(struct schedule *s, const char *route, const char *key, const char *name,
                enum config_tls tls, uint8_t family)
{
    char full[FULL_KEY_MAX];
    struct span span = full_key(full, route, tls, family, key);
    struct site *site = map_get(&s->sites, span);
    if (site == NULL) {
        site = site_new(s, span, route, name);
        site->hosts = site->key + (span.n - strlen(key));
        site->tls = tls;
        site->family = family;
        site->proven = site_hop(site) != NULL;
        map_put(&s->sites, span_str(site->key), site);
    }
    site->used_at = clock_now(s->clock);
    return site;
}

static void
site_free(struct site *site)
{
    timer_cancel(site->schedule->clock, &site->timer);
    loop_defer_cancel(&site->added);
    free(site->failure);
    free(site->lanes);
    free(site);
}

const struct hop *
site_hop(const struct site *site)
{
    const struct config *config = site->schedule->policy.config;
    int r = config_route_find(config, span_str(site->route));
    return r < 0 ? NULL : config->routes[r].hop;
}

struct config_shape
site_shape(const struct site *site)
{
    const struct config *config = site->schedule->policy.config;
    const struct hop *hop = site_hop(site);
    if (hop != NULL)
        return (struct config_shape){.max_connections = hop->max_connections,
                                     .max_messages_per_connection =
                                         hop->max_messages_per_connection,
                                     .max_rate = hop->max_rate};
    return *config_shape_find(config, span_str(site->name));
}

const struct pause *
site_pause(const struct site *site)
{
    return schedule_site_paused(site->schedule, site->route, site->name);
}

bool
site_suspended(const struct site *site)
{
    return site_pause(site) != NULL;
}

void
rcpt_set_site(struct rcpt *rcpt, struct site *site)
{
    if (rcpt->site == site)
        return;
    if (rcpt->site != NULL) {
        if (rcpt->probing) { /* unless a verdict was given, another one may try */
            const struct learn_way way = plan_learn_way(rcpt, rcpt->site);
            learned_no_verdict(rcpt->site->schedule->env.learned, &way);
            rcpt->probing = false;
        }
        rcpt->site->n_rcpts--;
    }
    rcpt->site = site;
    if (site != NULL)
        site->n_rcpts++;
}

enum site_use
site_usable(const struct site *site)
{
    if (site_suspended(site))
        return SITE_USE_YES;
    if (outage_covers(site))
        return outage_use(site);
    if (site->state == SITE_UP)
        return SITE_USE_YES;
    if (site->state == SITE_PROBING)
        return SITE_USE_LAST_RESORT;
    return clock_now(site->schedule->clock) >= site->probe_at ? SITE_USE_YES : SITE_USE_NO;
}

struct site_trouble
site_trouble(const struct site *site)
{
    const struct outage *o = &site->schedule->outage;
    if (outage_covers(site))
        return (struct site_trouble){o->failure, o->tried_at, o->probe_at, true};
    struct site_trouble ret = {
        .tried_at = site->tried_at, .probe_at = site->probe_at, .curable = site->curable};
    if (site->failure != NULL)
        outcome_recall(site->failure, &ret.failure);
    return ret;
}

static void
on_added(struct deferred *d)
{
    site_pump(CONTAINER_OF(d, struct site, added));
}

/* What is added in one tick begins at its end: the recipients of a message come one by one, and the
 * first would go alone over a connection that has nothing to do. */
void
site_add(struct site *site, struct rcpt *rcpt)
{
    struct schedule *s = site->schedule;

    if (site_full(site)) {
        site_overflow(site, rcpt);
        return;
    }
    rcpt_set_site(rcpt, site);
    rcpt->stage = STAGE_READY;
    rcpt->ready_at = clock_now(s->clock);
    rcpt->ready_next = NULL;
    rcpt->ready_prev = site->ready_tail;
    *site->ready_tail = rcpt;
    site->ready_tail = &rcpt->ready_next;
    site->n_ready++;
    s->n_ready++;
    loop_defer(s->env.loop, &site->added, on_added);
}

void
site_remove(struct site *site, struct rcpt *rcpt)
{
    assert(rcpt->stage == STAGE_READY && rcpt->site == site);
    *rcpt->ready_prev = rcpt->ready_next;
    if (rcpt->ready_next != NULL)
        rcpt->ready_next->ready_prev = rcpt->ready_prev;
    else
        site->ready_tail = rcpt->ready_prev;
    site->n_ready--;
    site->schedule->n_ready--;
    site_lanes_back(site);
}

void
sites_sweep(struct schedule *s, bool all)
{
    size_t pos = 0;
    struct span key;
    void *value;
    msec_t now = clock_now(s->clock);
    size_t n_slow = 0;

    outage_sweep(s);
    while (map_next(&s->sites, &pos, &key, &value)) {
        struct site *site = value;
        /* Whoever was to be the probe has left: the next one who comes is. */
        if (site->state == SITE_PROBING && site->n_ready == 0 && site->n_links == 0)
            site->state = SITE_DOWN;
        if (!all)
            n_slow += site_shed(site);
        bool idle = site->n_rcpts == 0 && site->n_links == 0 && !site->waits_for_slot;
        bool old = now - site->used_at > SITE_UNUSED_MS &&
                   (site->state == SITE_UP || now - site->probe_at > SITE_PROBE_HOP_MAX_MS);
        if (!all && !(idle && old))
            continue;
        map_remove(&s->sites, span_str(site->key));
        pos--;
        site_free(site);
    }
    s->n_slow = n_slow;
}

void
site_up(struct site *site)
{
    struct schedule *s = site->schedule;
    struct log_line line;

    if (site->state == SITE_UP)
        return;
    log_begin(s->env.log, &line, LOG_WARNING, "site_up");
    log_cstr(&line, "site", site->name);
    log_cstr(&line, "route", site->route);
    log_int(&line, "failures", site->failures);
    log_end(&line);
    site->state = SITE_UP;
    free(site->failure);
    site->failure = NULL;
    site->failures = 0;
    site->link_limit = 0;
}

msec_t
site_backoff(unsigned failures)
{
    unsigned doublings = failures > 6 ? 6 : failures;
    msec_t delay = SITE_PROBE_HOP_MS << (doublings > 0 ? doublings - 1 : 0);
    return delay > SITE_PROBE_HOP_MAX_MS ? SITE_PROBE_HOP_MAX_MS : delay;
}

/* How long until the next probe: the first retry interval, or a hop's. */
static msec_t
probe_delay(const struct site *site)
{
    if (site_hop(site) == NULL)
        return site->schedule->policy.config->queue.intervals_ms[0];
    return site_backoff(site->failures);
}

static void
log_down(const struct site *site, const struct outcome *failure, msec_t delay)
{
    struct log *log = site->schedule->env.log;
    struct log_line line;

    if (site_hop(site) != NULL && site->failures == 1)
        log_alert(log, "hop_down", "hop %s cannot be used: %s", site->name, failure->text);
    log_begin(log, &line, LOG_WARNING, "site_down");
    log_cstr(&line, "site", site->name);
    log_cstr(&line, "route", site->route);
    log_cstr(&line, "phase", failure->phase);
    log_cstr(&line, "text", failure->text);
    log_int(&line, "failures", site->failures);
    log_ms(&line, "probe_in", delay);
    log_end(&line);
}

msec_t
schedule_probe_at(const struct schedule *s, const struct rcpt *rcpt)
{
    const struct site *site = rcpt->site;
    if (site == NULL)
        return 0;
    if (!outage_covers(site) && (site->state == SITE_UP || site_hop(site) == NULL))
        return 0;
    return clock_wall(s->clock) + site_trouble(site).probe_at - clock_now(s->clock);
}

void
site_replan(struct site *site, const char *domain)
{
    struct rcpt *list = NULL, **tail = &list;

    /* First off the site, all of them: planning one may start a transaction with its siblings. */
    for (struct rcpt *rcpt = site->ready, *next; rcpt != NULL; rcpt = next) {
        next = rcpt->ready_next;
        if (domain != NULL && !span_eq(rcpt->domain, span_str(domain)))
            continue;
        site_remove(site, rcpt);
        rcpt_set_site(rcpt, NULL);
        rcpt->stage = STAGE_FACTS;
        rcpt->ready_next = NULL;
        *tail = rcpt;
        tail = &rcpt->ready_next;
    }
    while (list != NULL) {
        struct rcpt *rcpt = list;
        list = rcpt->ready_next;
        plan_rcpt(site->schedule, rcpt);
    }
}

void
site_down(struct site *site, const struct outcome *outcome, const char *host)
{
    struct schedule *s = site->schedule;

    free(site->failure);
    site->failure = outcome_keep(outcome);
    site->curable = s->env.ops->curable(s->env.arg, outcome, host);
    site->failures++;
    if (site->more && !outage_covers(site)) /* else it is not about these addresses */
        facts_next_turn(s->env.facts, site_hop(site) != NULL, site->hosts);
    msec_t delay = probe_delay(site);
    site->down_at = clock_now(s->clock);
    site->probe_at = site->down_at + delay;
    site->state = SITE_DOWN;
    site_prove(site, site_hop(site) != NULL);
    log_down(site, outcome, delay);
    links_quit(site);        /* the probe finds out anew */
    site_replan(site, NULL); /* another route, or back to the queue */
}

void
site_ask(struct site *site, msec_t asked_at)
{
    if (asked_at == 0)
        return;
    if (outage_covers(site))
        outage_ask(site->schedule, asked_at);
    else if (site->state == SITE_DOWN && site->down_at <= asked_at)
        site->probe_at = clock_now(site->schedule->clock);
}
