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
    if (p == NULL)
        p = schedule_paused(s, PAUSE_SITE, span_str(site));
    return p != NULL ? p : schedule_paused(s, PAUSE_ROUTE, span_str(route));
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

/* How a way's site is right now; false: it cannot take anybody before *ret_at (wall). */
static bool
tell_site(struct explain *e, const char *route, const char *name, msec_t *ret_at)
{
    struct daemon *d = e->api->d;
    struct site_info info;
    char at[LOG_TIME_BYTES];
    const char *text;
    msec_t since;

    if (strcmp(route, CONFIG_DIRECT) == 0 &&
        schedule_direct_down(d->schedule, &since, ret_at, &text)) {
        char then[LOG_TIME_BYTES];
        explain_step(e, "route %s is down as a whole since %s: %s; next probe %s", route,
                     log_time_format(since, then), text, log_time_format(*ret_at, at));
        return false;
    }
    if (!schedule_site_find(d->schedule, route, name, &info)) {
        explain_step(e, "route %s, site %s: nothing is known against it", route, name);
        return true;
    }
    if (info.state == SITE_UP) {
        explain_step(e, "route %s, site %s: up, %zu waiting, %zu connections%s", route, name,
                     info.n_ready, info.n_connections,
                     info.slowed > 0 ? ", slowed down by its own wish" : "");
        return true;
    }
    explain_step(e, "route %s, site %s: %s since %s; next probe %s", route, name,
                 site_state_name(info.state), info.failure, log_time_format(info.probe_at, at));
    *ret_at = info.probe_at;
    return info.state == SITE_PROBING || info.probe_at <= clock_wall(loop_clock(d->loop));
}

/* By which of the ways it would go, or until when it would wait. */
static void
ask_ways(struct explain *e, const struct ways *ways, struct next *next)
{
    char at[LOG_TIME_BYTES];

    for (size_t i = 0; i < ways->n && next->text[0] == '\0'; i++) {
        const char *route = explain_route(e, ways->list[i].route);
        const struct hop *hop = explain_hop(e, ways->list[i].route);
        const char *site = hop != NULL ? hop->name : e->site.name;
        msec_t probe_at = 0;
        if (hop == NULL && (!e->site_known || !e->site.ok))
            snprintf(next->text, sizeof(next->text), "%s: %.200s",
                     e->site.outcome.kind == OUTCOME_FAILED ? "would fail" : "would wait",
                     e->site_known ? e->site.outcome.text : "DNS has not answered yet");
        else if (tell_site(e, route, site, &probe_at))
            snprintf(next->text, sizeof(next->text), "%s route %s",
                     paused(e, route, site) != NULL ? "would wait, suspended, for"
                                                    : "would go at once by",
                     route);
        else if (next->at == 0 || probe_at < next->at)
            next->at = probe_at;
    }
    if (next->text[0] == '\0')
        snprintf(next->text, sizeof(next->text), "no route is open: would wait until %s",
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
