/*
 * outage - the direct route as a whole: is nobody to be reached on port 25?
 *
 *          OUTAGE_SITES unrelated sites out of reach, and nobody reached since the first of them
 *    NONE ─────────────────────────────────────────▶ DOWN until probe_at: 1 m doubling to 30 m
 *     ▲                                                │ the moment has come, and mail waits
 *     └──── somebody was reached, by whatever link ─ PROBING: one connection of one site
 *                                                      │ out of reach again ─▶ DOWN
 *
 * While it lasts no other connection is opened directly. Mail with another usable route takes that
 * (plan.c asks site_usable()); the rest waits in the queue for the probe, and in hand while one is
 * under way. What was opening before goes on, since it may show that this is no outage. The probe
 * goes to the site whose last try is the longest ago, so that one dead site does not keep the whole
 * route down. Called by pump.c, link.c and site.c.
 */
#include "relayd/schedule/internal.h"

#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"

bool
site_is_direct(const struct site *site)
{
    return strcmp(site->route, CONFIG_DIRECT) == 0;
}

bool
outage_down(const struct schedule *s)
{
    return s->outage.state != OUTAGE_NONE;
}

bool
outage_covers(const struct site *site)
{
    return outage_down(site->schedule) && site_is_direct(site);
}

msec_t
outage_probe_at(const struct schedule *s)
{
    return s->outage.probe_at;
}

static bool
is_due(const struct schedule *s)
{
    return s->outage.state == OUTAGE_DOWN && clock_now(s->clock) >= s->outage.probe_at;
}

enum site_use
outage_use(const struct site *site)
{
    const struct schedule *s = site->schedule;
    /* Who comes now waits in hand: for the probe under way, or to be chosen for it. */
    return s->outage.state == OUTAGE_PROBING || is_due(s) ? SITE_USE_LAST_RESORT : SITE_USE_NO;
}

bool
outage_may_open(const struct site *site)
{
    const struct outage *o = &site->schedule->outage;
    return !outage_covers(site) || (o->state == OUTAGE_PROBING && o->prober == site);
}

bool
schedule_direct_down(const struct schedule *s, msec_t *ret_since_at, msec_t *ret_probe_at,
                     const char **ret_text)
{
    const struct outage *o = &s->outage;
    if (!outage_down(s))
        return false;
    *ret_since_at = o->since_at;
    *ret_probe_at = clock_wall(s->clock) + o->probe_at - clock_now(s->clock);
    *ret_text = o->failure.text;
    return true;
}

/* ---- whose mail waits ---- */

/* A connection that may still serve those who wait. */
static bool
has_live_link(const struct site *site)
{
    for (const struct site_link *link = site->links; link != NULL; link = link->next)
        if (link->state != LINK_CLOSING && link->state != LINK_DEAD)
            return true;
    return false;
}

/* The direct sites where somebody waits, to be freed; planning may add others. */
static struct site **
waiting_sites(struct schedule *s, size_t *ret_n)
{
    struct site **sites = xcalloc(s->sites.n + 1, sizeof(*sites));
    size_t pos = 0;
    struct span key;
    void *value;

    *ret_n = 0;
    while (map_next(&s->sites, &pos, &key, &value)) {
        struct site *site = value;
        if (site_is_direct(site) && site->n_ready > 0 && !site_suspended(site))
            sites[(*ret_n)++] = site;
    }
    return sites;
}

/* The state has changed: who waits goes on, or leaves. */
static void
on_flush(struct deferred *d)
{
    struct schedule *s = CONTAINER_OF(d, struct schedule, outage.flush);
    size_t n;

    if (s->draining)
        return;
    struct site **sites = waiting_sites(s, &n);
    for (size_t i = 0; i < n; i++) {
        bool stays = outage_down(s)
                         ? s->outage.state == OUTAGE_PROBING || is_due(s) || has_live_link(sites[i])
                         : site_usable(sites[i]) != SITE_USE_NO;
        if (!stays)
            site_replan(sites[i], NULL);
        else if (!outage_down(s))
            site_pump(sites[i]);
    }
    free(sites);
}

static void
flush(struct schedule *s)
{
    loop_defer(s->env.loop, &s->outage.flush, on_flush);
}

/* ---- the probe ---- */

static void
on_gathered(void *arg)
{
    struct schedule *s = arg;
    struct site *best = NULL;
    size_t n;

    if (s->draining || s->outage.state != OUTAGE_DOWN)
        return;
    struct site **sites = waiting_sites(s, &n);
    for (size_t i = 0; i < n; i++)
        if (best == NULL || sites[i]->tried_at < best->tried_at)
            best = sites[i];
    free(sites);
    if (best == NULL)
        return; /* the next one who comes is the probe */
    s->outage.state = OUTAGE_PROBING;
    s->outage.prober = best;
    site_pump(best);
}

void
outage_blocked(struct schedule *s)
{
    if (s->outage.state == OUTAGE_PROBING)
        return;
    if (!is_due(s))
        flush(s);
    else if (!timer_is_set(&s->outage.gather))
        timer_set(s->clock, &s->outage.gather, OUTAGE_GATHER_MS, on_gathered, s);
}

void
outage_sweep(struct schedule *s)
{
    struct outage *o = &s->outage;

    /* Its mail was removed, or its link was told to quit: another one is chosen. */
    if (o->state != OUTAGE_PROBING || o->prober->n_open > 0)
        return;
    o->state = OUTAGE_DOWN;
    o->prober = NULL;
    outage_blocked(s);
}

void
outage_retry(struct schedule *s)
{
    if (s->outage.state == OUTAGE_DOWN)
        s->outage.probe_at = clock_now(s->clock);
}

void
outage_ask(struct schedule *s, msec_t asked_at)
{
    if (s->outage.down_at <= asked_at)
        outage_retry(s);
}

/* ---- down ---- */

static void
places_clear(struct outage *o)
{
    for (size_t i = 0; i < o->n_places; i++)
        free(o->places[i].name);
    o->n_places = 0;
}

/* Sites are unrelated when they are in different networks: one provider's trouble is not ours. */
static void
place_name(const struct site *site, const struct ip *first, char buf[static IP_TEXT_MAX],
           struct span *ret)
{
    if (first->family == 0) {
        *ret = span_str(site->key);
        return;
    }
    struct ip net =
        ip_prefix(first, first->family == 4 ? OUTAGE_NETWORK_V4_BITS : OUTAGE_NETWORK_V6_BITS);
    *ret = span_str(ip_format(&net, buf));
}

/* Note that this place is out of reach, and forget what is too long ago. */
static void
place_note(struct outage *o, struct span name, msec_t now)
{
    size_t n = 0;
    for (size_t i = 0; i < o->n_places; i++) {
        struct outage_place *p = &o->places[i];
        if (now - p->at > OUTAGE_WINDOW_MS || span_eq(span_str(p->name), name))
            free(p->name);
        else
            o->places[n++] = *p;
    }
    o->places[n++] = (struct outage_place){.name = xstrndup(name.p, name.n), .at = now};
    o->n_places = n;
}

static void
log_failed_probe(const struct schedule *s, const struct site *site, msec_t delay)
{
    const struct outage *o = &s->outage;
    struct log_line line;

    log_begin(s->env.log, &line, LOG_WARNING, "route_probe_failed");
    log_cstr(&line, "route", CONFIG_DIRECT);
    log_cstr(&line, "site", site->name);
    log_cstr(&line, "text", o->failure.text);
    log_int(&line, "failures", o->failures);
    log_ms(&line, "probe_in", delay);
    log_end(&line);
}

/* For the first time, or once more. */
static void
go_down(struct schedule *s, const struct site *site, const struct outcome *outcome)
{
    struct outage *o = &s->outage;
    msec_t delay = site_backoff(++o->failures);

    o->failure = *outcome;
    o->tried_at = site->tried_at;
    o->down_at = clock_now(s->clock);
    o->probe_at = o->down_at + delay;
    o->prober = NULL;
    if (o->state == OUTAGE_NONE) {
        o->since_at = clock_wall(s->clock);
        log_alert(s->env.log, "route_down",
                  "route direct: %zu sites in different networks were out of reach and nobody was "
                  "reached, the last one is %s: %s",
                  o->n_places, site->name, outcome->text);
        places_clear(o);
    } else {
        log_failed_probe(s, site, delay);
    }
    o->state = OUTAGE_DOWN;
    flush(s);
}

/* Nothing came from the other side. A TLS handshake that fails, or silence after the greeting, is
 * somebody's trouble, but not the path's to everybody. */
static bool
is_dead_path(const struct outcome *o)
{
    return o->path && o->origin == ORIGIN_NET &&
           (strcmp(o->phase, "connect") == 0 || strcmp(o->phase, "greeting") == 0);
}

void
outage_failed(struct site *site, const struct outcome *outcome, const struct ip *first, bool whole)
{
    struct schedule *s = site->schedule;
    struct outage *o = &s->outage;
    char buf[IP_TEXT_MAX];
    struct span name;

    if (!site_is_direct(site))
        return;
    bool dead = is_dead_path(outcome);
    if (!dead && outcome->origin != ORIGIN_DNS && outcome->origin != ORIGIN_LOCAL) {
        outage_reached(site);
        return;
    }
    if (o->state == OUTAGE_PROBING && o->prober == site) {
        go_down(s, site, outcome);
    } else if (o->state == OUTAGE_NONE && dead && whole && site->family == 0) {
        place_name(site, first, buf, &name);
        place_note(o, name, clock_now(s->clock));
        if (o->n_places == OUTAGE_SITES)
            go_down(s, site, outcome);
    } else if (outage_down(s) && dead && site->tried_at > o->tried_at) {
        o->tried_at = site->tried_at;
    }
}

/* ---- up ---- */

/* Sites that went down on the path had no more than the route's trouble, as far as we know. */
static void
sites_retry(struct schedule *s)
{
    size_t pos = 0;
    struct span key;
    void *value;

    while (map_next(&s->sites, &pos, &key, &value)) {
        struct site *site = value;
        struct outcome failure;
        if (!site_is_direct(site) || site->state != SITE_DOWN)
            continue;
        outcome_recall(site->failure, &failure);
        if (is_dead_path(&failure))
            site->probe_at = clock_now(s->clock);
    }
}

void
outage_reached(struct site *site)
{
    struct schedule *s = site->schedule;
    struct outage *o = &s->outage;
    struct log_line line;

    if (!site_is_direct(site))
        return;
    places_clear(o);
    if (o->state == OUTAGE_NONE)
        return;
    log_begin(s->env.log, &line, LOG_WARNING, "route_up");
    log_cstr(&line, "route", CONFIG_DIRECT);
    log_cstr(&line, "site", site->name);
    log_ms(&line, "down_for", clock_wall(s->clock) - o->since_at);
    log_int(&line, "failures", o->failures);
    log_end(&line);
    o->state = OUTAGE_NONE;
    o->failures = 0;
    o->prober = NULL;
    timer_cancel(s->clock, &o->gather);
    sites_retry(s);
    flush(s);
}

void
outage_release(struct schedule *s)
{
    timer_cancel(s->clock, &s->outage.gather);
    loop_defer_cancel(&s->outage.flush);
    places_clear(&s->outage);
    s->outage.state = OUTAGE_NONE;
}
