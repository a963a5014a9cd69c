/*
 * api_route - routes and how they are, suspend and resume.
 */
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
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
            snprintf(sums->detail, sizeof(sums->detail), "%.255s", info->failure);
    }
}

/* The direct route as a whole: then `sums` tells of that. */
static bool
direct_down(const struct daemon *d, struct route_sums *sums)
{
    msec_t since_at;
    const char *text;

    if (!schedule_direct_down(d->schedule, &since_at, &sums->next_at, &text))
        return false;
    snprintf(sums->detail, sizeof(sums->detail), "%.255s", text);
    return true;
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
        bool down = hop != NULL ? sums.down : direct_down(d, &sums);
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
    char value[SUSPENSION_VALUE_MAX];
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
    snprintf(sc->keys[i], sizeof(sc->keys[i]), SCHEDULE_SUSPEND_SPACE "%s:%s",
             pause_kind_name(kind), sc->target);
    sc->facts[i] = (struct store_fact){.key = span_str(sc->keys[i]), .remove = !sc->suspend};
    if (!sc->suspend)
        return;
    sc->facts[i].value = schedule_suspension_value(sc->value, sc->until_at, span_str(sc->reason));
}

static void
suspend_call(struct control_call *call, struct api *api, bool suspend)
{
    const char *target = control_body_str(call, "target");
    const char *reason = control_body_str(call, API_F_REASON);
    bool given = cJSON_HasObjectItem(control_body(call), "for_ms");
    double for_ms = given ? api_num(control_body(call), "for_ms", 0) : (double)SUSPEND_DEFAULT_MS;
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
    {"GET", API_ROUTES, routes_get, false},
    {"POST", API_SUSPEND, suspend_post, false},
    {"POST", API_RESUME, resume_post, false},
};
const size_t api_n_route_routes = N_ELEMENTS(api_route_routes);
