/*
 * What would become of a message right now: held, kept back, sent by which way, or until when it
 * waits. The order of the questions is that of relayd/schedule: pages.c takes nothing of a domain
 * in hand that is held or suspended, and plan.c walks the ways.
 */
#include "relayd/api_explain.h"

#include <stdio.h>

/* What keeps the mail of this way back, the whole domain's first; NULL: nothing. */
static const struct pause *
paused(const struct explain *e, const char *route, const char *site)
{
    const struct schedule *s = e->api->d->schedule;
    const struct pause *p = schedule_paused(s, PAUSE_DOMAIN, span_str(e->domain));
    return p != NULL ? p : schedule_site_paused(s, route, site);
}

static void
add_suspended(struct explain *e, const char *route, const char *site)
{
    const struct pause *p = paused(e, route, site);
    char at[LOG_TIME_BYTES];

    cJSON_AddBoolToObject(e->json, "suspended", p != NULL);
    if (p != NULL)
        explain_step(e, "suspended: %s %s until %s (%s)", pause_kind_name(p->kind), p->name,
                     log_time_format(p->until_at, at), p->reason);
}

/* The last line of the story. */
struct next {
    char text[700]; /* "": not known yet */
    msec_t at;      /* wall; 0: at once, or nobody knows */
};

static void
add_next(struct explain *e, const struct next *next)
{
    api_add_span(e->json, "next", span_str(next->text));
    api_add_time(e->json, "next_at", next->at);
    explain_step(e, "%s", next->text);
}

/* The domain's mail stays in the queue, whatever the map says of it. */
static void
ask_domain(struct explain *e, struct next *next)
{
    const struct schedule *s = e->api->d->schedule;
    const char *reason = schedule_hold_reason(s, span_str(e->domain));
    const struct pause *p = schedule_paused(s, PAUSE_DOMAIN, span_str(e->domain));
    char at[LOG_TIME_BYTES];

    cJSON_AddBoolToObject(e->json, "held", reason != NULL);
    if (reason != NULL) {
        explain_step(e, "domain %s is on hold", e->domain);
        snprintf(next->text, sizeof(next->text), "would be held%s%.500s",
                 reason[0] == '\0' ? "" : ": ", reason);
    } else if (p != NULL) {
        next->at = p->until_at;
        snprintf(next->text, sizeof(next->text), "would wait, suspended, until %s",
                 log_time_format(p->until_at, at));
    }
}

/* What planning would find at the site of a way. */
struct door {
    const char *route, *site; /* names */
    enum site_use use;
    bool curable;    /* when not usable: another route would help */
    msec_t probe_at; /* wall; likewise */
};

/* Fill in the rest of `door`, and tell it. */
static void
tell_site(struct explain *e, const char *key, enum config_tls tls, struct door *door)
{
    const struct daemon *d = e->api->d;
    const char *route = door->route, *name = door->site, *text;
    char at[LOG_TIME_BYTES], then[LOG_TIME_BYTES];
    struct site_info info;
    msec_t since;

    if (strcmp(route, CONFIG_DIRECT) == 0 &&
        schedule_direct_down(d->schedule, &since, &door->probe_at, &text)) {
        explain_step(e, "route %s is down as a whole since %s: %s; next probe %s", route,
                     log_time_format(since, then), text, log_time_format(door->probe_at, at));
        bool due = door->probe_at <= clock_wall(loop_clock(d->loop));
        door->use = due ? SITE_USE_LAST_RESORT : SITE_USE_NO;
        door->curable = true;
        return;
    }
    door->use = SITE_USE_YES;
    if (!schedule_site_chosen(d->schedule, route, key, tls, &info)) {
        explain_step(e, "route %s, site %s: nothing is known against it", route, name);
        return;
    }
    if (info.state == SITE_UP) {
        explain_step(e, "route %s, site %s: up, %zu waiting, %zu connections%s", route, name,
                     info.n_ready, info.n_connections,
                     info.slowed > 0 ? ", slowed down by its own wish" : "");
        return;
    }
    door->use = info.use;
    door->curable = info.curable;
    door->probe_at = info.probe_at;
    explain_step(e, "route %s, site %s: %s since %s; next probe %s%s", route, name,
                 site_state_name(info.state), info.failure, log_time_format(info.probe_at, at),
                 info.curable ? "" : "; another route would not cure it");
}

/* A way's door; false: `next` says why there is none. */
static bool
find_door(struct explain *e, const struct route_decision *d, unsigned r, struct door *ret,
          struct next *next)
{
    const struct hop *hop = explain_hop(e, r);

    if (hop == NULL && (!e->site_known || !e->site.ok)) {
        snprintf(next->text, sizeof(next->text), "%s: %.200s",
                 e->site.outcome.kind == OUTCOME_FAILED ? "would fail" : "would wait",
                 e->site_known ? e->site.outcome.text : "DNS has not answered yet");
        return false;
    }
    *ret = (struct door){.route = explain_route(e, r), .site = hop ? hop->name : e->site.name};
    if (paused(e, ret->route, ret->site) != NULL) {
        snprintf(next->text, sizeof(next->text), "would wait, suspended, for route %s", ret->route);
        return false;
    }
    tell_site(e, hop != NULL ? hop->name : e->site.key, route_tls(e->settings->config, d, r), ret);
    return true;
}

/* By which of the ways it would go, or until when it would wait: as plan_deliver() does it. */
static void
ask_ways(struct explain *e, const struct ways *ways, struct next *next)
{
    struct door last_resort = {0}, down = {0}, door;
    bool stays = false; /* where no other way would help */
    char at[LOG_TIME_BYTES];

    for (size_t i = 0; i < ways->n && !stays; i++) {
        if (!find_door(e, &ways->decision, ways->list[i].route, &door, next))
            return;
        if (door.use == SITE_USE_YES) {
            snprintf(next->text, sizeof(next->text), "would go at once by route %s", door.route);
            return;
        }
        if (door.use == SITE_USE_LAST_RESORT && last_resort.route == NULL)
            last_resort = door;
        if (door.use == SITE_USE_NO && down.route == NULL)
            down = door;
        stays = !door.curable;
    }
    if (last_resort.route != NULL) {
        snprintf(next->text, sizeof(next->text), "would wait for the probe of route %s",
                 last_resort.route);
        return;
    }
    next->at = down.probe_at;
    snprintf(next->text, sizeof(next->text), "%s: would wait until %s",
             stays ? "another route would not help" : "no route is open",
             log_time_format(next->at, at));
}

void
explain_next(struct explain *e, const struct ways *ways)
{
    unsigned first = ways->list[0].route;
    const struct hop *hop = explain_hop(e, first);
    bool known = e->site_known && e->site.ok;
    struct next next = {0};

    add_suspended(e, explain_route(e, first), hop != NULL ? hop->name : known ? e->site.name : "");
    ask_domain(e, &next);
    if (next.text[0] == '\0')
        ask_ways(e, ways, &next);
    add_next(e, &next);
}

void
explain_end(struct explain *e, const struct route_decision *d)
{
    struct next next = {0};

    cJSON_AddNullToObject(e->json, "route");
    cJSON_AddArrayToObject(e->json, "fallback");
    cJSON_AddNullToObject(e->json, "site");
    cJSON_AddNullToObject(e->json, "tls");
    cJSON_AddArrayToObject(e->json, "dkim");
    add_suspended(e, "", "");
    if (d->action == ROUTE_FACTS || d->action == ROUTE_HOLD || d->action == ROUTE_DISCARD)
        ask_domain(e, &next); /* else it is not even taken */
    else
        cJSON_AddFalseToObject(e->json, "held");
    if (next.text[0] == '\0' && d->action == ROUTE_FACTS)
        snprintf(next.text, sizeof(next.text), "would wait and ask again: %.500s",
                 e->dns.text[0] != '\0' ? e->dns.text : "DNS has not answered yet");
    else if (next.text[0] == '\0')
        snprintf(next.text, sizeof(next.text), "%s%s%.*s", route_action_name(d->action),
                 d->text.n > 0 ? ": " : "", (int)(d->text.n < 500 ? d->text.n : 500), d->text.p);
    add_next(e, &next);
}
