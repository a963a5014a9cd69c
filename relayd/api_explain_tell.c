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

void
explain_step(struct explain *e, const char *fmt, ...)
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

const char *
explain_route(const struct explain *e, unsigned route)
{
    return e->settings->config->routes[route].name;
}

const struct hop *
explain_hop(const struct explain *e, unsigned route)
{
    return e->settings->config->routes[route].hop;
}

/* ---- the rule ---- */

static void
on_rule(void *arg, const struct route_step *s)
{
    explain_step(arg, "rule %s:%u: %s: %s", s->rule->mark.file, s->rule->mark.line,
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
        explain_step(e, "fence %s holds", rule);
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
    explain_step(e, "facts of %s: %zu MX hosts, country %s; they hold for %u s more", e->domain,
                 f->mx == ROUTE_FACT_KNOWN ? f->n_hosts : 0,
                 f->country == ROUTE_FACT_KNOWN     ? f->country_code
                 : f->country == ROUTE_FACT_UNKNOWN ? "not asked for"
                                                    : "none",
                 facts->ttl_s);
    if (facts->note[0] != '\0')
        explain_step(e, "facts of %s: %s", e->domain, facts->note);
}

/* The hosts that the key of a site names: all that fit into it. */
static void
add_mx(struct explain *e)
{
    const struct facts_site *site = &e->site;
    cJSON *list = cJSON_AddArrayToObject(e->json, "mx");
    struct span rest = span_str(site->key);

    if (site->no_mx || site->literal) {
        explain_step(
            e, site->literal ? "%s is an address" : "%s has no MX: its own addresses are tried",
            e->domain);
        return;
    }
    /* Behind the last host stand their number and a hash. */
    for (struct span host = span_cut(&rest, ' '); rest.n > 0; host = span_cut(&rest, ' ')) {
        CLEANUP(freep) char *name = xstrndup(host.p, host.n);
        cJSON_AddItemToArray(list, cJSON_CreateString(name));
        explain_step(e, "MX host %s%s", name,
                     strcmp(name, site->name) == 0 ? ", the best one" : "");
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
    explain_step(e, "learned: %s %.*s avoids %.*s since %s until %s: %s, %.200s",
                 learn_scope_name(entry->scope), SPAN_ARG(entry->label), SPAN_ARG(entry->route),
                 log_time_format(entry->since_at, since), log_time_format(entry->until_at, until),
                 entry->klass, entry->text);
    if (way->advice == LEARN_PROBE)
        explain_step(
            e, "learned: its time is over, this recipient would probe %s (%u of %u good probes)",
            explain_route(e, way->route), entry->good, LEARN_GOOD_PROBES);
}

static void
add_spf(struct explain *e)
{
    cJSON *list = cJSON_AddArrayToObject(e->json, "spf");
    char ip[IP_TEXT_MAX];

    for (size_t i = 0; e->spf_known && i < e->n_spf; i++) {
        const char *route = explain_route(e, e->spf_routes[i]);
        const char *result = spf_result_name(e->spf_results[i]);
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "route", route);
        cJSON_AddStringToObject(row, "egress", ip_format(&e->spf_ips[i], ip));
        cJSON_AddStringToObject(row, "result", result);
        api_add_span(row, "why", span_str(e->spf_why[i]));
        cJSON_AddItemToArray(list, row);
        explain_step(e, "SPF of %s for route %s (%s): %s, %s", e->sender_domain, route, ip, result,
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
        explain_step(e, "SRS: %s is not of local_domains, it leaves as %.*s", e->sender,
                     (int)address.n, address.p);
    } else {
        cJSON_AddNullToObject(e->json, "srs");
        explain_step(e, "SRS: %s would become too long and leaves as it is", e->sender);
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
            learned = explain_route(e, ways->list[0].route);
        if (way->spf_fails)
            explain_step(
                e, "route %s goes behind the others: the sender's SPF record does not let it send",
                explain_route(e, way->route));
    }
    if (ways->pinned) {
        learned = pin->route;
        explain_step(e, "pinned to route %s until %s", pin->route,
                     log_time_format(pin->until_at, at));
    } else if (pin != NULL) {
        explain_step(e, "pinned to route %s, which %s", pin->route,
                     config_route_find(e->settings->config, span_str(pin->route)) < 0
                         ? "is not there any more"
                         : "is forbidden here");
    }
    if (learned == NULL)
        cJSON_AddNullToObject(e->json, "learned");
    else
        cJSON_AddStringToObject(e->json, "learned", learned);
    if (ways->n > 0 && !rule->learn && ways->n > 1)
        explain_step(e, "nothing is learned under this rule (learn: true would do it)");
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
        explain_step(e, "hop %s signs itself: our signatures are left out", hop->name);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        char text[600];
        snprintf(text, sizeof(text), "%.*s/%.*s", SPAN_ARG(identities[i].domain),
                 SPAN_ARG(identities[i].selector));
        cJSON_AddItemToArray(list, cJSON_CreateString(text));
        explain_step(e, "signed with DKIM as %s when the From field is of %s", text,
                     e->sender_domain);
    }
    if (n == 0 && e->sender_domain[0] != '\0')
        explain_step(e, "no DKIM key fits %s", e->sender_domain);
}

static void
tell_delivery(struct explain *e, const struct ways *ways)
{
    const struct route_decision *d = &ways->decision;
    unsigned first = ways->list[0].route;
    const struct hop *hop = explain_hop(e, first);
    const char *route = explain_route(e, first);

    cJSON_AddStringToObject(e->json, "route", route);
    cJSON *fallback = cJSON_AddArrayToObject(e->json, "fallback");
    for (size_t i = 1; i < ways->n; i++)
        cJSON_AddItemToArray(fallback, cJSON_CreateString(explain_route(e, ways->list[i].route)));
    cJSON_AddStringToObject(e->json, "tls",
                            config_tls_name(route_tls(e->settings->config, d, first)));
    add_dkim(e, hop);
    if (hop != NULL)
        explain_step(e, "through hop %s at %s", hop->name, hop->address);
    else if (e->site_known && e->site.ok)
        add_mx(e);
    if (hop != NULL || (e->site_known && e->site.ok)) {
        const char *site = hop != NULL ? hop->name : e->site.name;
        cJSON_AddStringToObject(e->json, "site", site);
        add_limits(e, hop);
    } else {
        cJSON_AddNullToObject(e->json, "site");
    }
    explain_next(e, ways);
}

/* Does RCPT refuse the recipient's address literal, before the map is asked? */
static bool
literal_refused(const struct explain *e)
{
    struct ip ip;
    return facts_literal(e->domain, &ip) && facts_literal_refused(e->api->d->facts, &ip);
}

void
explain_tell(struct explain *e, const struct facts_domain *facts, const struct ways *ways)
{
    static const struct ways none;
    struct route_query query = e->query;
    struct route_decision decision;

    e->json = cJSON_CreateObject();
    e->steps = cJSON_CreateArray();
    api_add_span(e->json, "rcpt", span_str(e->rcpt));
    api_add_span(e->json, "sender", span_str(e->sender));
    cJSON_AddItemToObject(e->json, "steps", e->steps);
    query.facts = facts == NULL ? NULL : &facts->route;
    if (literal_refused(e)) {
        explain_step(e, "%s is refused before the map is asked", e->domain);
        decision =
            (struct route_decision){.action = ROUTE_REJECT, .text = SPAN(ACCEPT_LITERAL_REPLY)};
        ways = &none;
    } else {
        route_explain(e->settings->config, &query, &decision, on_rule, e);
    }
    add_facts(e, facts);
    add_decision(e, &decision);
    add_order(e, ways);
    add_spf(e);
    add_srs(e, ways);
    if (decision.action == ROUTE_DELIVER)
        tell_delivery(e, ways);
    else
        explain_end(e, &decision);
}
