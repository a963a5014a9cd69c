/*
 * api_route - decisions: explain, routes, suspend and resume.
 *
 * explain asks the same functions that planning asks, so it cannot tell another story.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/route.h"
#include "relayd/api_internal.h"

#define SUSPEND_DEFAULT_MS HOUR
#define SUSPEND_MAX_MS (365 * DAY)

/* ---- routes ---- */

struct route_sums {
    const char *route;
    size_t waiting, connections;
    bool down, suspended;
    msec_t next_at;
    char detail[256];
};

static void
sum_site(void *arg, const struct site_info *info)
{
    struct route_sums *sums = arg;
    if (strcmp(info->route, sums->route) != 0)
        return;
    sums->waiting += info->n_ready;
    sums->connections += info->n_connections;
    if (info->state != SITE_UP && !sums->down) {
        sums->down = true;
        sums->next_at = info->probe_at;
        if (info->failure != NULL)
            snprintf(sums->detail, sizeof(sums->detail), "%.255s", info->failure->text);
    }
}

static void
add_egress(cJSON *json, const struct config_pair *egress)
{
    char text[IP_TEXT_MAX];
    cJSON *pair = cJSON_AddObjectToObject(json, "egress");
    if (egress->v4.family != 0)
        cJSON_AddStringToObject(pair, "v4", ip_format(&egress->v4, text));
    if (egress->v6.family != 0)
        cJSON_AddStringToObject(pair, "v6", ip_format(&egress->v6, text));
}

cJSON *
api_routes(struct daemon *d)
{
    const struct config *config = d->settings->config;
    cJSON *list = cJSON_CreateArray();

    for (size_t i = 0; i < config->n_routes; i++) {
        const struct route *route = &config->routes[i];
        const struct hop *hop = route->hop;
        struct route_sums sums = {.route = route->name};
        schedule_sites(d->schedule, sum_site, &sums);
        sums.suspended = schedule_paused(d->schedule, PAUSE_ROUTE, span_str(route->name)) != NULL;
        /* One dead site does not make the direct route dead. */
        bool down = sums.down && hop != NULL;
        cJSON *json = cJSON_CreateObject();
        cJSON_AddStringToObject(json, "name", route->name);
        cJSON_AddStringToObject(json, "kind", hop == NULL ? "direct" : "hop");
        if (hop != NULL)
            cJSON_AddStringToObject(json, "address", hop->address);
        else
            cJSON_AddNullToObject(json, "address");
        cJSON_AddStringToObject(json, "tls",
                                config_tls_name(hop == NULL ? config->direct.tls : hop->tls));
        cJSON_AddStringToObject(json, "state", sums.suspended ? "suspended" : down ? "down" : "ok");
        if (down)
            api_add_span(json, "detail", span_str(sums.detail));
        else
            cJSON_AddNullToObject(json, "detail");
        cJSON_AddNumberToObject(json, "connections", (double)sums.connections);
        cJSON_AddNumberToObject(json, "waiting", (double)sums.waiting);
        api_add_time(json, "next_at", down ? sums.next_at : 0);
        add_egress(json, hop == NULL ? &config->direct.egress : &hop->egress);
        cJSON_AddItemToArray(list, json);
    }
    return list;
}

static void
routes_get(struct control_call *call, void *arg)
{
    struct api *api = arg;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToObject(json, "routes", api_routes(api->d));
    control_json(call, 200, json);
}

/* ---- explain ---- */

struct explain {
    struct api *api;
    struct control_call *call;
    cJSON *json, *steps;
    struct settings *settings; /* that the decision points into */
    struct route_decision decision;
    struct route_query query;
    char sender[512], rcpt[512], sender_domain[DOMAIN_BUF], domain[DOMAIN_BUF];
    struct facts_query *facts;
};

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

static void
on_rule(void *arg, const struct route_step *s)
{
    step(arg, "rule %s:%u: %s: %s", s->rule->mark.file, s->rule->mark.line,
         route_verdict_name(s->verdict), s->why);
}

/* `host`: the best MX host, or NULL for a hop. */
static void
add_limits(struct explain *e, const struct hop *hop, const char *host)
{
    char rate[UNITS_TEXT_MAX];
    struct config_shape shape;
    if (hop != NULL)
        shape = (struct config_shape){hop->max_connections, hop->max_messages_per_connection,
                                      hop->max_rate};
    else
        shape = *config_shape_find(e->settings->config, span_str(host));
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

/* The hosts that the key of a site names: all that fit into it. */
static void
add_mx(struct explain *e, const struct facts_site *site)
{
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

static void
add_site(struct explain *e, const char *route, const char *name)
{
    struct daemon *d = e->api->d;
    struct site_info info;

    cJSON_AddStringToObject(e->json, "site", name);
    if (!schedule_site_find(d->schedule, route, name, &info)) {
        step(e, "site %s: nothing is known against it", name);
    } else if (info.state == SITE_UP) {
        step(e, "site %s: up, %zu waiting, %zu connections", name, info.n_ready,
             info.n_connections);
    } else {
        char at[LOG_TIME_BYTES];
        step(e, "site %s: %s since %s; next probe %s", name, site_state_name(info.state),
             info.failure->text, log_time_format(info.probe_at, at));
    }
    const struct pause *p = schedule_paused(d->schedule, PAUSE_SITE, span_str(name));
    if (p == NULL)
        p = schedule_paused(d->schedule, PAUSE_ROUTE, span_str(route));
    if (p == NULL)
        p = schedule_paused(d->schedule, PAUSE_DOMAIN, span_str(e->domain));
    if (p != NULL) {
        char at[LOG_TIME_BYTES];
        cJSON_AddTrueToObject(e->json, "suspended");
        step(e, "suspended: %s %s until %s (%s)", pause_kind_name(p->kind), p->name,
             log_time_format(p->until_at, at), p->reason);
    } else {
        cJSON_AddFalseToObject(e->json, "suspended");
    }
}

static void
explain_end(struct explain *e)
{
    struct daemon *d = e->api->d;
    control_json(e->call, 200, e->json);
    daemon_settings_give(d, e->settings);
    free(e);
}

static void
on_site(void *arg, const struct facts_site *site)
{
    struct explain *e = arg;
    if (!site->ok) {
        cJSON_AddNullToObject(e->json, "site");
        step(e, "%s: %s", site->outcome.kind == OUTCOME_FAILED ? "would fail" : "would wait",
             site->outcome.text);
    } else {
        add_mx(e, site);
        add_limits(e, NULL, site->name);
        add_site(e, e->settings->config->routes[0].name, site->name);
    }
    explain_end(e);
}

static void
explain_deliver(struct explain *e)
{
    struct daemon *d = e->api->d;
    const struct config *config = e->settings->config;
    const struct route_decision *dec = &e->decision;
    unsigned first = dec->routes[0];
    const struct hop *hop = config->routes[first].hop;
    struct facts_site cached;

    cJSON_AddStringToObject(e->json, "route", config->routes[first].name);
    cJSON *fallback = cJSON_AddArrayToObject(e->json, "fallback");
    for (size_t i = 1; i < dec->n_routes; i++)
        cJSON_AddItemToArray(fallback, cJSON_CreateString(config->routes[dec->routes[i]].name));
    cJSON_AddStringToObject(e->json, "tls", config_tls_name(route_tls(config, dec, first)));
    add_dkim(e, hop);
    if (hop != NULL) {
        add_limits(e, hop, NULL);
        step(e, "through hop %s at %s", hop->name, hop->address);
        add_site(e, hop->name, hop->name);
        explain_end(e);
    } else if (facts_site_cached(d->facts, e->domain, &cached)) {
        on_site(e, &cached);
    } else {
        facts_site_start(d->facts, e->domain, on_site, e);
    }
}

static void
add_decision(struct explain *e)
{
    const struct route_decision *dec = &e->decision;
    char rule[600];

    cJSON_AddStringToObject(e->json, "action", route_action_name(dec->action));
    if (dec->rule != NULL) {
        snprintf(rule, sizeof(rule), "%.500s:%u", dec->rule->mark.file, dec->rule->mark.line);
        cJSON_AddStringToObject(e->json, "rule", rule);
    } else {
        cJSON_AddNullToObject(e->json, "rule");
    }
    cJSON *fences = cJSON_AddArrayToObject(e->json, "fences");
    for (size_t i = 0; i < dec->n_fences; i++) {
        snprintf(rule, sizeof(rule), "%.500s:%u", dec->fences[i]->mark.file,
                 dec->fences[i]->mark.line);
        cJSON_AddItemToArray(fences, cJSON_CreateString(rule));
    }
}

/* The administrator's own choice for the domain, where no fence forbids it. */
static void
add_pin(struct explain *e)
{
    const struct pin *pin = schedule_pinned(e->api->d->schedule, span_str(e->domain));
    int r = pin == NULL ? -1 : config_route_find(e->settings->config, span_str(pin->route));
    char at[LOG_TIME_BYTES];

    if (r >= 0 && e->decision.action == ROUTE_DELIVER && route_prefer(&e->decision, (unsigned)r)) {
        cJSON_AddStringToObject(e->json, "learned", pin->route);
        step(e, "pinned to route %s until %s", pin->route, log_time_format(pin->until_at, at));
        return;
    }
    cJSON_AddNullToObject(e->json, "learned");
    if (pin != NULL)
        step(e, "pinned to route %s, which %s", pin->route,
             r < 0 ? "is not there any more" : "is forbidden here");
}

static void
explain_get(struct control_call *call, void *arg)
{
    struct api *api = arg;
    struct span rcpt = control_query(call, "rcpt"), from = control_query(call, "from");
    struct err err;

    if (rcpt.p == NULL) {
        control_error(call, ERR_INVAL, "rcpt: expected an address");
        return;
    }
    struct explain *e = xcalloc(1, sizeof(*e));
    snprintf(e->rcpt, sizeof(e->rcpt), "%.*s", SPAN_ARG(rcpt));
    snprintf(e->sender, sizeof(e->sender), "%.*s", SPAN_ARG(from));
    if (route_query_set(&e->query, span_str(e->sender), span_str(e->rcpt), e->sender_domain,
                        e->domain, &err) != ERR_OK) {
        control_error(call, ERR_INVAL, "%s", err.text);
        free(e);
        return;
    }
    e->api = api;
    e->call = call;
    e->settings = daemon_settings_take(api->d);
    e->json = cJSON_CreateObject();
    api_add_span(e->json, "rcpt", span_str(e->rcpt));
    api_add_span(e->json, "sender", span_str(e->sender));
    e->steps = cJSON_CreateArray();
    route_explain(e->settings->config, &e->query, &e->decision, on_rule, e);
    add_decision(e);
    add_pin(e);
    cJSON_AddItemToObject(e->json, "steps", e->steps);
    if (e->decision.action == ROUTE_DELIVER) {
        explain_deliver(e);
        return;
    }
    cJSON_AddNullToObject(e->json, "route");
    cJSON_AddArrayToObject(e->json, "fallback");
    cJSON_AddNullToObject(e->json, "site");
    cJSON_AddNullToObject(e->json, "tls");
    cJSON_AddArrayToObject(e->json, "dkim");
    step(e, "%s: %.*s", route_action_name(e->decision.action), SPAN_ARG(e->decision.text));
    explain_end(e);
}

/* ---- suspend, resume ---- */

struct suspend_call {
    struct store_op op;
    struct api *api;
    struct control_call *call;
    bool suspend;
    enum pause_kind kind;
    char target[256], reason[256], who[80];
    msec_t until_at;
    struct store_fact facts[PAUSE_ROUTE + 1];
    char keys[PAUSE_ROUTE + 1][300];
    char value[9 + 256];
};

static void
suspend_done(struct store_op *op)
{
    struct suspend_call *sc = CONTAINER_OF(op, struct suspend_call, op);
    struct daemon *d = sc->api->d;
    cJSON *json = cJSON_CreateObject();
    struct log_line line;

    if (op->code != ERR_OK) {
        cJSON_Delete(json);
        control_error(sc->call, op->code, "%s", op->err.text);
        free(sc);
        return;
    }
    log_begin(d->log, &line, LOG_WARNING, sc->suspend ? "suspended" : "resumed");
    log_cstr(&line, "target", sc->target);
    if (sc->suspend) {
        schedule_suspend(d->schedule, sc->kind, span_str(sc->target), sc->until_at,
                         span_str(sc->reason));
        log_cstr(&line, "kind", pause_kind_name(sc->kind));
        log_at(&line, "until", sc->until_at);
        log_cstr(&line, "reason", sc->reason);
        cJSON_AddStringToObject(json, "target", sc->target);
        cJSON_AddStringToObject(json, "kind", pause_kind_name(sc->kind));
        api_add_time(json, "until", sc->until_at);
    } else {
        size_t n = schedule_resume(d->schedule, span_str(sc->target));
        cJSON_AddNumberToObject(json, "resumed", (double)n);
    }
    log_cstr(&line, "who", sc->who);
    log_end(&line);
    control_json(sc->call, 200, json);
    free(sc);
}

/* A name is a route's, else a known site's, else a domain's. */
static enum pause_kind
kind_of(struct daemon *d, const char *target)
{
    const struct config *config = d->settings->config;
    struct site_info info;
    if (config_route_find(config, span_str(target)) >= 0)
        return PAUSE_ROUTE;
    return schedule_site_find(d->schedule, config->routes[0].name, target, &info) ? PAUSE_SITE
                                                                                  : PAUSE_DOMAIN;
}

static void
set_fact(struct suspend_call *sc, size_t i, enum pause_kind kind)
{
    snprintf(sc->keys[i], sizeof(sc->keys[i]), "suspend:%s:%s", pause_kind_name(kind), sc->target);
    sc->facts[i] = (struct store_fact){.key = span_str(sc->keys[i]), .remove = !sc->suspend};
    if (!sc->suspend)
        return;
    size_t n = strlen(sc->reason);
    sc->value[0] = 1;
    for (int b = 0; b < 8; b++)
        sc->value[1 + b] = (char)(sc->until_at >> (56 - 8 * b));
    memcpy(sc->value + 9, sc->reason, n);
    sc->facts[i].value = span_of(sc->value, 9 + n);
}

static void
suspend_call(struct control_call *call, struct api *api, bool suspend)
{
    const char *target = control_body_str(call, "target");
    const char *reason = control_body_str(call, API_F_REASON);
    double for_ms = api_num(control_body(call), "for_ms", (double)SUSPEND_DEFAULT_MS);
    char domain[DOMAIN_BUF];
    struct err err;

    if (target == NULL || target[0] == '\0' || strlen(target) >= 250 || for_ms < 1 ||
        for_ms > (double)SUSPEND_MAX_MS) {
        control_error(call, ERR_INVAL,
                      "target: expected a route, site or domain; for_ms: 1 ms to 365d");
        return;
    }
    struct suspend_call *sc = xcalloc(1, sizeof(*sc));
    sc->api = api;
    sc->call = call;
    sc->suspend = suspend;
    snprintf(sc->target, sizeof(sc->target), "%s", target);
    snprintf(sc->reason, sizeof(sc->reason), "%.250s", reason == NULL ? "" : reason);
    snprintf(sc->who, sizeof(sc->who), "%s", control_who(call));
    sc->kind = kind_of(api->d, target);
    if (sc->kind == PAUSE_DOMAIN) {
        if (domain_normalise(span_str(target), domain, &err) != ERR_OK) {
            control_error(call, ERR_INVAL,
                          "target: no route or site of this name, and no domain: %s", err.text);
            free(sc);
            return;
        }
        snprintf(sc->target, sizeof(sc->target), "%s", domain);
    }
    sc->until_at = clock_wall(loop_clock(api->d->loop)) + (msec_t)for_ms;
    sc->op.kind = STORE_OUTCOMES;
    sc->op.done = suspend_done;
    sc->op.outcomes.facts = sc->facts;
    if (suspend) {
        set_fact(sc, 0, sc->kind);
        sc->op.outcomes.n_facts = 1;
    } else {
        for (size_t k = PAUSE_DOMAIN; k <= PAUSE_ROUTE; k++)
            set_fact(sc, k, (enum pause_kind)k);
        sc->op.outcomes.n_facts = PAUSE_ROUTE + 1;
    }
    store_submit(api->d->store, &sc->op);
}

static void
suspend_post(struct control_call *call, void *arg)
{
    suspend_call(call, arg, true);
}

static void
resume_post(struct control_call *call, void *arg)
{
    suspend_call(call, arg, false);
}

const struct control_route api_route_routes[] = {
    {"GET", API_EXPLAIN, explain_get, false},
    {"GET", API_ROUTES, routes_get, false},
    {"POST", API_SUSPEND, suspend_post, false},
    {"POST", API_RESUME, resume_post, false},
};
const size_t api_n_route_routes = N_ELEMENTS(api_route_routes);
