/*
 * The story of one decision, step by step in words and in fields for programs.
 */
#include "relayd/api_explain.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/srs.h"
#include "relayd/learned.h"

static void step(struct explain *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void
step(struct explain *e, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    cJSON *item = cJSON_CreateObject();
    api_add_span(item, "text", span_str(text));
    cJSON_AddItemToArray(e->steps, cJSON_DetachItemFromObject(item, "text"));
    cJSON_Delete(item);
}

static const char *
route_name(const struct explain *e, unsigned route)
{
    return e->settings->config->routes[route].name;
}

static const struct hop *
hop_of(const struct explain *e, unsigned route)
{
    return e->settings->config->routes[route].hop;
}

/* ---- the rule ---- */

static void
on_rule(void *arg, const struct route_step *s)
{
    step(arg, "rule %s:%u: %s: %s", s->rule->mark.file, s->rule->mark.line,
         route_verdict_name(s->verdict), s->why);
}

static void
add_decision(struct explain *e, const struct route_decision *d)
{
    char rule[600];

    cJSON_AddStringToObject(e->json, "action", route_action_name(d->action));
    if (d->rule != NULL) {
        snprintf(rule, sizeof(rule), "%.500s:%u", d->rule->mark.file, d->rule->mark.line);
        cJSON_AddStringToObject(e->json, "rule", rule);
    } else {
        cJSON_AddNullToObject(e->json, "rule");
    }
    cJSON *fences = cJSON_AddArrayToObject(e->json, "fences");
    for (size_t i = 0; i < d->n_fences; i++) {
        snprintf(rule, sizeof(rule), "%.500s:%u", d->fences[i]->mark.file, d->fences[i]->mark.line);
        cJSON_AddItemToArray(fences, cJSON_CreateString(rule));
        step(e, "fence %s holds", rule);
    }
}

/* ---- facts ---- */

/* What the rules saw of the domain, and how much longer that holds. */
static void
add_facts(struct explain *e, const struct facts_domain *facts)
{
    if (facts == NULL) {
        cJSON_AddNullToObject(e->json, "facts");
        return;
    }
    const struct route_facts *f = &facts->route;
    cJSON *json = cJSON_AddObjectToObject(e->json, "facts");
    cJSON *mx = f->mx == ROUTE_FACT_UNKNOWN ? cJSON_AddNullToObject(json, "mx")
                                            : cJSON_AddArrayToObject(json, "mx");
    for (size_t i = 0; i < f->n_hosts && f->mx == ROUTE_FACT_KNOWN; i++)
        cJSON_AddItemToArray(mx, cJSON_CreateString(f->hosts[i]));
    if (f->country == ROUTE_FACT_KNOWN)
        cJSON_AddStringToObject(json, "country", f->country_code);
    else
        cJSON_AddNullToObject(json, "country");
    cJSON_AddNumberToObject(json, "valid_s", facts->ttl_s);
    step(e, "facts of %s: %zu MX hosts, country %s; they hold for %u s more", e->domain,
         f->mx == ROUTE_FACT_KNOWN ? f->n_hosts : 0,
         f->country == ROUTE_FACT_KNOWN     ? f->country_code
         : f->country == ROUTE_FACT_UNKNOWN ? "not asked for"
                                            : "none",
         facts->ttl_s);
    if (facts->note[0] != '\0')
        step(e, "facts of %s: %s", e->domain, facts->note);
}

/* The hosts that the key of a site names: all that fit into it. */
static void
add_mx(struct explain *e)
{
    const struct facts_site *site = &e->site;
    cJSON *list = cJSON_AddArrayToObject(e->json, "mx");
    struct span rest = span_str(site->key);

    if (site->no_mx || site->literal) {
        step(e, site->literal ? "%s is an address" : "%s has no MX: its own addresses are tried",
             e->domain);
        return;
    }
    /* Behind the last host stand their number and a hash. */
    for (struct span host = span_cut(&rest, ' '); rest.n > 0; host = span_cut(&rest, ' ')) {
        CLEANUP(freep) char *name = xstrndup(host.p, host.n);
        cJSON_AddItemToArray(list, cJSON_CreateString(name));
        step(e, "MX host %s%s", name, strcmp(name, site->name) == 0 ? ", the best one" : "");
    }
}

/* ---- the order of the routes ---- */

static void
tell_learned(struct explain *e, const struct way *way)
{
    const struct learn_entry *entry = way->entry;
    char since[LOG_TIME_BYTES], until[LOG_TIME_BYTES];

    if (way->advice == LEARN_FREE || entry == NULL)
        return;
    step(e, "learned: %s %.*s avoids %.*s since %s until %s: %s, %.200s",
         learn_scope_name(entry->scope), SPAN_ARG(entry->label), SPAN_ARG(entry->route),
         log_time_format(entry->since_at, since), log_time_format(entry->until_at, until),
         entry->klass, entry->text);
    if (way->advice == LEARN_PROBE)
        step(e, "learned: its time is over, this recipient would probe %s (%u of %u good probes)",
             route_name(e, way->route), entry->good, LEARN_GOOD_PROBES);
}

static void
add_spf(struct explain *e)
{
    cJSON *list = cJSON_AddArrayToObject(e->json, "spf");
    char ip[IP_TEXT_MAX];

    for (size_t i = 0; e->spf_known && i < e->n_spf; i++) {
        const char *route = route_name(e, e->spf_routes[i]);
        const char *result = spf_result_name(e->spf_results[i]);
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "route", route);
        cJSON_AddStringToObject(row, "egress", ip_format(&e->spf_ips[i], ip));
        cJSON_AddStringToObject(row, "result", result);
        api_add_span(row, "why", span_str(e->spf_why[i]));
        cJSON_AddItemToArray(list, row);
        step(e, "SPF of %s for route %s (%s): %s, %s", e->sender_domain, route, ip, result,
             e->spf_why[i]);
    }
}

static void
add_srs(struct explain *e, const struct ways *ways)
{
    const struct srs srs = srs_of(e->settings->config);
    CLEANUP(strbuf_release) struct strbuf address = STRBUF_INIT;

    if (!ways->srs) {
        cJSON_AddNullToObject(e->json, "srs");
        return;
    }
    if (srs_forward(&srs, span_str(e->sender), span_str(e->sender_domain),
                    clock_wall(loop_clock(e->api->d->loop)), &address)) {
        api_add_span(e->json, "srs", span_of(address.p, address.n));
        step(e, "SRS: %s is not of local_domains, it leaves as %.*s", e->sender, (int)address.n,
             address.p);
    } else {
        cJSON_AddNullToObject(e->json, "srs");
        step(e, "SRS: %s would become too long and leaves as it is", e->sender);
    }
}

/* Which route goes first, and why not the one that the map names first. */
static void
add_order(struct explain *e, const struct ways *ways)
{
    const struct daemon *d = e->api->d;
    const struct pin *pin = schedule_pinned(d->schedule, span_str(e->domain));
    const struct rule *rule = ways->decision.rule;
    const char *learned = NULL;
    char at[LOG_TIME_BYTES];

    for (size_t i = 0; i < ways->n; i++) {
        const struct way *way = &ways->list[i];
        tell_learned(e, way);
        if (way->advice == LEARN_AVOID && ways->list[0].advice != LEARN_AVOID)
            learned = route_name(e, ways->list[0].route);
        if (way->spf_fails)
            step(e, "route %s goes behind the others: the sender's SPF record does not let it send",
                 route_name(e, way->route));
    }
    if (ways->pinned) {
        learned = pin->route;
        step(e, "pinned to route %s until %s", pin->route, log_time_format(pin->until_at, at));
    } else if (pin != NULL) {
        step(e, "pinned to route %s, which %s", pin->route,
             config_route_find(e->settings->config, span_str(pin->route)) < 0
                 ? "is not there any more"
                 : "is forbidden here");
    }
    if (learned == NULL)
        cJSON_AddNullToObject(e->json, "learned");
    else
        cJSON_AddStringToObject(e->json, "learned", learned);
    if (ways->n > 0 && !rule->learn && ways->n > 1)
        step(e, "nothing is learned under this rule (learn: true would do it)");
}

/* ---- the route that is taken ---- */

static void
add_limits(struct explain *e, const struct hop *hop)
{
    char rate[UNITS_TEXT_MAX];
    struct config_shape shape;
    if (hop != NULL)
        shape = (struct config_shape){hop->max_connections, hop->max_messages_per_connection,
                                      hop->max_rate};
    else
        shape = *config_shape_find(e->settings->config, span_str(e->site.name));
    cJSON *limits = cJSON_AddObjectToObject(e->json, "limits");
    cJSON_AddNumberToObject(limits, "max_connections", shape.max_connections);
    cJSON_AddNumberToObject(limits, "max_messages_per_connection",
                            shape.max_messages_per_connection);
    cJSON_AddStringToObject(limits, "max_rate", rate_format(shape.max_rate, rate));
}

static void
add_dkim(struct explain *e, const struct hop *hop)
{
    struct dkim_identity identities[DKIM_SIGNATURES_MAX];
    cJSON *list = cJSON_AddArrayToObject(e->json, "dkim");
    size_t n = dkim_keyring_match(e->settings->keyring, span_str(e->sender_domain), identities);

    if (hop != NULL && hop->signs) {
        step(e, "hop %s signs itself: our signatures are left out", hop->name);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        char text[600];
        snprintf(text, sizeof(text), "%.*s/%.*s", SPAN_ARG(identities[i].domain),
                 SPAN_ARG(identities[i].selector));
        cJSON_AddItemToArray(list, cJSON_CreateString(text));
        step(e, "signed with DKIM as %s when the From field is of %s", text, e->sender_domain);
    }
    if (n == 0 && e->sender_domain[0] != '\0')
        step(e, "no DKIM key fits %s", e->sender_domain);
}

static const struct pause *
paused(const struct explain *e, const char *route, const char *site)
{
    const struct schedule *s = e->api->d->schedule;
    const struct pause *p = schedule_paused(s, PAUSE_SITE, span_str(site));
    if (p == NULL)
        p = schedule_paused(s, PAUSE_ROUTE, span_str(route));
    return p != NULL ? p : schedule_paused(s, PAUSE_DOMAIN, span_str(e->domain));
}

static void
add_suspended(struct explain *e, const char *route, const char *site)
{
    const struct pause *p = paused(e, route, site);
    char at[LOG_TIME_BYTES];

    cJSON_AddBoolToObject(e->json, "suspended", p != NULL);
    if (p != NULL)
        step(e, "suspended: %s %s until %s (%s)", pause_kind_name(p->kind), p->name,
             log_time_format(p->until_at, at), p->reason);
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
        step(e, "route %s is down as a whole since %s: %s; next probe %s", route,
             log_time_format(since, then), text, log_time_format(*ret_at, at));
        return false;
    }
    if (!schedule_site_find(d->schedule, route, name, &info)) {
        step(e, "route %s, site %s: nothing is known against it", route, name);
        return true;
    }
    if (info.state == SITE_UP) {
        step(e, "route %s, site %s: up, %zu waiting, %zu connections%s", route, name, info.n_ready,
             info.n_connections, info.slowed > 0 ? ", slowed down by its own wish" : "");
        return true;
    }
    step(e, "route %s, site %s: %s since %s; next probe %s", route, name,
         site_state_name(info.state), info.failure, log_time_format(info.probe_at, at));
    *ret_at = info.probe_at;
    return info.state == SITE_PROBING || info.probe_at <= clock_wall(loop_clock(d->loop));
}

/* What would happen to a message right now: by which way it goes, or until when it waits. */
static void
add_next(struct explain *e, const struct ways *ways)
{
    msec_t wait_until = 0;
    char at[LOG_TIME_BYTES], next[300] = "";

    for (size_t i = 0; i < ways->n && next[0] == '\0'; i++) {
        const char *route = route_name(e, ways->list[i].route);
        const struct hop *hop = hop_of(e, ways->list[i].route);
        const char *site = hop != NULL ? hop->name : e->site.name;
        msec_t probe_at = 0;
        if (hop == NULL && (!e->site_known || !e->site.ok))
            snprintf(next, sizeof(next), "%s: %.200s",
                     e->site.outcome.kind == OUTCOME_FAILED ? "would fail" : "would wait",
                     e->site_known ? e->site.outcome.text : "DNS has not answered yet");
        else if (tell_site(e, route, site, &probe_at))
            snprintf(next, sizeof(next), "%s route %s",
                     paused(e, route, site) != NULL ? "would wait, suspended, for"
                                                    : "would go at once by",
                     route);
        else if (wait_until == 0 || probe_at < wait_until)
            wait_until = probe_at;
    }
    if (next[0] == '\0')
        snprintf(next, sizeof(next), "no route is open: would wait until %s",
                 log_time_format(wait_until, at));
    api_add_span(e->json, "next", span_str(next));
    api_add_time(e->json, "next_at", wait_until);
    step(e, "%s", next);
}

static void
tell_delivery(struct explain *e, const struct ways *ways)
{
    const struct route_decision *d = &ways->decision;
    unsigned first = ways->list[0].route;
    const struct hop *hop = hop_of(e, first);
    const char *route = route_name(e, first);

    cJSON_AddStringToObject(e->json, "route", route);
    cJSON *fallback = cJSON_AddArrayToObject(e->json, "fallback");
    for (size_t i = 1; i < ways->n; i++)
        cJSON_AddItemToArray(fallback, cJSON_CreateString(route_name(e, ways->list[i].route)));
    cJSON_AddStringToObject(e->json, "tls",
                            config_tls_name(route_tls(e->settings->config, d, first)));
    add_dkim(e, hop);
    if (hop != NULL)
        step(e, "through hop %s at %s", hop->name, hop->address);
    else if (e->site_known && e->site.ok)
        add_mx(e);
    if (hop != NULL || (e->site_known && e->site.ok)) {
        const char *site = hop != NULL ? hop->name : e->site.name;
        cJSON_AddStringToObject(e->json, "site", site);
        add_limits(e, hop);
        add_suspended(e, route, site);
    } else {
        cJSON_AddNullToObject(e->json, "site");
        add_suspended(e, route, "");
    }
    add_next(e, ways);
}

/* No delivery: the map says something else, or facts are missing. */
static void
tell_end(struct explain *e, const struct route_decision *d)
{
    cJSON_AddNullToObject(e->json, "route");
    cJSON_AddArrayToObject(e->json, "fallback");
    cJSON_AddNullToObject(e->json, "site");
    cJSON_AddNullToObject(e->json, "tls");
    cJSON_AddArrayToObject(e->json, "dkim");
    cJSON_AddFalseToObject(e->json, "suspended");
    char next[700];
    if (d->action == ROUTE_FACTS)
        snprintf(next, sizeof(next), "would wait and ask again: %.500s",
                 e->dns.text[0] != '\0' ? e->dns.text : "DNS has not answered yet");
    else
        snprintf(next, sizeof(next), "%s%s%.*s", route_action_name(d->action),
                 d->text.n > 0 ? ": " : "", (int)(d->text.n < 500 ? d->text.n : 500), d->text.p);
    api_add_span(e->json, "next", span_str(next));
    api_add_time(e->json, "next_at", 0);
    step(e, "%s", next);
}

void
explain_tell(struct explain *e, const struct facts_domain *facts, const struct ways *ways)
{
    struct route_query query = e->query;
    struct route_decision decision;

    e->json = cJSON_CreateObject();
    e->steps = cJSON_CreateArray();
    api_add_span(e->json, "rcpt", span_str(e->rcpt));
    api_add_span(e->json, "sender", span_str(e->sender));
    cJSON_AddItemToObject(e->json, "steps", e->steps);
    query.facts = facts == NULL ? NULL : &facts->route;
    route_explain(e->settings->config, &query, &decision, on_rule, e);
    add_facts(e, facts);
    add_decision(e, &decision);
    add_order(e, ways);
    add_spf(e);
    add_srs(e, ways);
    if (decision.action == ROUTE_DELIVER)
        tell_delivery(e, ways);
    else
        tell_end(e, &decision);
}
