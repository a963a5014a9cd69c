/*
 * pump - opens links while messages wait, gives each ready one the next transaction, computes the
 * next moment at which a site may act, and takes in what connections report. Called by site.c,
 * plan.c and delivery.
 */
#include "relayd/schedule/internal.h"

#include <assert.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"

#define LINK_LIMIT_MS (10 * MINUTE) /* a refused extra connection: after that we ask for more */

/* ---- the pump ---- */

static struct site_link *
ready_link(const struct site *site)
{
    const struct schedule *s = site->schedule;
    struct site_link *link = site->links;
    while (link != NULL &&
           (link->state != LINK_READY || !s->env.ops->ready(s->env.arg, link->conn)))
        link = link->next;
    return link;
}

/* How many messages wait, counted up to `max` (their recipients stand next to each other). */
static size_t
messages_waiting(const struct site *site, size_t max)
{
    size_t n = 0;
    const struct msg *last = NULL;
    for (const struct rcpt *rcpt = site->ready; rcpt != NULL && n < max; rcpt = rcpt->ready_next) {
        n += rcpt->msg != last;
        last = rcpt->msg;
    }
    return n;
}

/* Is one more connection wanted for what waits here? A site that is not up is probed by one. */
static bool
wants_link(struct site *site)
{
    size_t limit = site_shape(site).max_connections;

    if (site->state != SITE_UP || outage_covers(site))
        return site->n_open == 0;
    if (clock_now(site->schedule->clock) >= site->limit_until)
        site->link_limit = 0;
    if (site->link_limit != 0 && limit > site->link_limit)
        limit = site->link_limit;
    return site->n_links < limit && site->n_open < messages_waiting(site, site->n_open + 1);
}

static void
open_links(struct site *site)
{
    struct schedule *s = site->schedule;

    if (!outage_may_open(site)) {
        outage_blocked(s);
        return;
    }
    while (wants_link(site)) {
        if (!slot_free(site)) {
            slot_wait(site);
            return;
        }
        if (site->state == SITE_DOWN)
            site->state = SITE_PROBING;
        link_open(site);
    }
}

static void
on_timer(void *arg)
{
    site_pump(arg);
}

/* The next moment at which something may begin here, as far as the clock decides it. */
static bool
pump_may(struct site *site, msec_t now)
{
    struct clock *clock = site->schedule->clock;

    const struct pause *pause = site_pause(site);
    if (pause != NULL) {
        timer_set(clock, &site->timer, pause->until_at - clock_wall(clock), on_timer, site);
        return false;
    }
    if (site->state == SITE_DOWN && now < site->probe_at && !outage_covers(site)) {
        timer_set_at(clock, &site->timer, site->probe_at, on_timer, site);
        return false;
    }
    return true;
}

/* Who is delivered now, and whose outcome finds no room either, gets his mail again after a crash.
 * pump_sweep() sees when it is over. */
static bool
pump_blocked(struct schedule *s)
{
    if (store_delivery_blocked(s->env.store))
        s->pump_blocked = true;
    return s->pump_blocked;
}

void
pump_sweep(struct schedule *s)
{
    struct store_numbers n;
    struct log_line line;

    store_numbers(s->env.store, &n);
    if (n.blocked > 0 && !s->outcomes_blocked)
        log_alert(s->env.log, "outcomes_blocked",
                  "no room in the queue for %zu outcomes: no mail is accepted, %s", n.blocked,
                  store_delivery_blocked(s->env.store) ? "none is delivered" : "retries wait");
    if (n.blocked == 0 && s->outcomes_blocked) {
        log_begin(s->env.log, &line, LOG_WARNING, "outcomes_stored");
        log_end(&line);
    }
    s->outcomes_blocked = n.blocked > 0;
    if (s->pump_blocked && !store_delivery_blocked(s->env.store)) {
        s->pump_blocked = false;
        sites_pump(s);
    }
}

void
site_pump(struct site *site)
{
    struct schedule *s = site->schedule;
    msec_t now = clock_now(s->clock);

    if (s->draining || site->n_ready == 0 || pump_blocked(s) || !pump_may(site, now))
        return;
    struct rate max = site_shape(site).max_rate;
    const struct shape_rate rate = {max.count, max.per_ms};
    shape_recover(&site->shape, now);
    while (site->n_ready > 0) {
        struct site_link *link = ready_link(site);
        if (link == NULL) {
            open_links(site);
            return;
        }
        msec_t at = shape_next_at(&site->shape, rate, now);
        if (at > now) {
            timer_set_at(s->clock, &site->timer, at, on_timer, site);
            return;
        }
        shape_take(&site->shape, rate, now);
        link_begin(link);
    }
}

static void
check_drained(struct deferred *d)
{
    struct schedule *s = CONTAINER_OF(d, struct schedule, drained);
    void (*on_drained)(void *arg) = s->on_drained;

    if (on_drained == NULL || s->n_recording > 0 || s->n_busy > 0)
        return;
    s->on_drained = NULL;
    on_drained(s->drained_arg);
}

void
pump_drained(struct schedule *s)
{
    if (s->on_drained != NULL && s->n_recording == 0 && s->n_busy == 0)
        loop_defer(s->env.loop, &s->drained, check_drained);
}

/* ---- what connections report ---- */

void
schedule_link_ready(struct site_link *link)
{
    struct site *site = link->site;
    struct schedule *s = site->schedule;
    bool opened = link->state == LINK_OPENING;

    link_ready(link);
    if (opened) {
        site_up(site);
        outage_reached(site);
    }
    if (!s->draining)
        site_pump(site);
    if (link->state == LINK_READY && (s->draining || slot_wanted(link)))
        link_quit(link);
}

void
schedule_link_port(struct site_link *link, uint16_t port)
{
    link->site->port = port;
}

void
schedule_slow(struct schedule *s, const struct rcpt *rcpt)
{
    struct site *site = rcpt->site;
    struct log_line line;

    if (site == NULL || !shape_slow(&site->shape, clock_now(s->clock)))
        return;
    log_begin(s->env.log, &line, LOG_WARNING, "site_slowed");
    log_cstr(&line, "site", site->name);
    log_cstr(&line, "route", site->route);
    log_uint(&line, "halvings", site->shape.slowed);
    log_end(&line);
}

/* The first message that waits has made this attempt. `met` may be NULL. */
static void
attempt_group(struct site *site, const struct outcome *outcome, const struct link_met *met,
              bool down)
{
    struct schedule *s = site->schedule;
    struct rcpt *rcpts[LINK_RCPTS_MAX];
    struct attempt attempts[LINK_RCPTS_MAX];
    size_t n = site->ready == NULL ? 0 : site_take_group(site, rcpts);

    for (size_t i = 0; i < n; i++) {
        rcpts[i]->stage = STAGE_RECORDING;
        s->n_recording++;
        attempts[i] = (struct attempt){.rcpt = rcpts[i],
                                       .outcome = *outcome,
                                       .route = site->route,
                                       .site = site->name,
                                       .peer = met == NULL ? "" : met->peer,
                                       .host = met == NULL ? "" : met->host,
                                       .tls = "",
                                       .connect_ms = met == NULL ? 0 : met->connect_ms,
                                       .hop = site_hop(site) != NULL};
    }
    if (down)
        site_down(site, outcome, met == NULL ? "" : met->host);
    else
        site_up(site);
    if (n > 0)
        s->env.ops->attempted(s->env.arg, attempts, n);
}

static size_t
links_serving(const struct site *site)
{
    size_t n = 0;
    for (const struct site_link *link = site->links; link != NULL; link = link->next)
        n += link->state == LINK_READY || link->state == LINK_LOADING || link->state == LINK_BUSY;
    return n;
}

void
schedule_link_met(struct site_link *link, const char *peer, const char *host, msec_t connect_ms)
{
    link_met_free(link->met);
    link->met = xcalloc(1, sizeof(*link->met));
    *link->met = (struct link_met){connect_ms, xstrdup(peer), xstrdup(host)};
}

void
schedule_link_failed(struct site_link *link, const struct outcome *outcome)
{
    struct site *site = link->site;
    struct schedule *s = site->schedule;
    bool quit = link->state == LINK_CLOSING;
    struct link_met *met = link->met;
    const struct ip first = link->first;

    link->met = NULL;
    link_free(link);
    size_t n_serving = site->state == SITE_UP ? links_serving(site) : 0;
    bool decides = n_serving == 0 && site->n_open == 0 && !quit;
    if (!quit)
        outage_failed(site, outcome, &first, decides);
    if (n_serving > 0 && !quit && outcome->origin != ORIGIN_DNS) {
        /* Others are connected: the site takes no more than these for a while. */
        site->link_limit = n_serving;
        site->limit_until = clock_now(s->clock) + LINK_LIMIT_MS;
    } else if (decides) {
        /* A refusal by every host is an answer to this message; else it is the site's trouble. */
        attempt_group(site, outcome, met, outcome->kind != OUTCOME_FAILED);
    }
    link_met_free(met);
    pump_slots(s);
    if (decides || quit)
        site_pump(site); /* else those that are open or opening go on with it */
    pump_drained(s);
}

void
schedule_link_decided(struct site_link *link, struct rcpt *rcpt)
{
    size_t i = 0;

    assert(link->state == LINK_BUSY && link->n_rcpts > 1);
    while (link->rcpts[i] != rcpt)
        i++;
    link->rcpts[i] = link->rcpts[--link->n_rcpts];
    rcpt->stage = STAGE_RECORDING;
    link->site->schedule->n_recording++;
}

void
schedule_link_sent(struct site_link *link, const struct outcome *trouble)
{
    struct site *site = link->site;
    struct schedule *s = site->schedule;

    assert(link->state == LINK_BUSY);
    for (size_t i = 0; i < link->n_rcpts; i++) {
        link->rcpts[i]->stage = STAGE_RECORDING;
        s->n_recording++;
    }
    link->n_rcpts = 0;
    site->n_busy--;
    s->n_busy--;
    site->used_at = clock_now(s->clock);
    if (trouble != NULL)
        site_down(site, trouble, "");
}

void
schedule_link_closed(struct site_link *link)
{
    struct site *site = link->site;
    struct schedule *s = site->schedule;

    if (link->state == LINK_LOADING) {
        link_died(link);
        return;
    }
    link_free(link);
    pump_slots(s); /* those in line come before us */
    site_pump(site);
}

void
schedule_drain(struct schedule *s, void (*on_drained)(void *arg), void *arg)
{
    size_t pos = 0;
    struct span key;
    void *value;

    s->draining = true;
    s->on_drained = on_drained;
    s->drained_arg = arg;
    while (map_next(&s->sites, &pos, &key, &value)) {
        struct site *site = value;
        timer_cancel(s->clock, &site->timer);
        links_quit(site);
    }
    pump_drained(s);
}
