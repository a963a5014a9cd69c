/*
 * api_learned - routes that go before the map's own choice: shown, forgotten, and set by hand.
 */
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/api_internal.h"
#include "relayd/learned.h"

#define PIN_MAX_MS (365 * DAY)
/* Learned routes of one answer: the loop makes it in one go, and nobody reads more of them. */
#define LIST_MAX 10000u

static void
add_pin(void *arg, const struct pin *pin)
{
    cJSON *row = cJSON_CreateObject();
    cJSON_AddStringToObject(row, "kind", "domain");
    cJSON_AddStringToObject(row, "key", pin->domain);
    cJSON_AddStringToObject(row, "route", pin->route);
    cJSON_AddNullToObject(row, "instead_of");
    cJSON_AddNullToObject(row, "class");
    cJSON_AddNullToObject(row, "text");
    api_add_time(row, "since", pin->since_at);
    api_add_time(row, "until", pin->until_at);
    cJSON_AddTrueToObject(row, "pinned");
    cJSON_AddStringToObject(row, "state", "pinned");
    cJSON_AddNumberToObject(row, "renewals", 0);
    cJSON_AddItemToArray(arg, row);
}

struct listing {
    cJSON *rows;
    size_t n, more; /* shown; and left out */
    msec_t now;
};

static void
add_learned(void *arg, const struct learn_entry *e)
{
    struct listing *listing = arg;

    if (listing->n == LIST_MAX) {
        listing->more++;
        return;
    }
    listing->n++;
    cJSON *row = cJSON_CreateObject();

    cJSON_AddStringToObject(row, "kind", learn_scope_name(e->scope));
    api_add_span(row, "key", e->label);
    if (e->to[0] != '\0')
        cJSON_AddStringToObject(row, "route", e->to);
    else
        cJSON_AddNullToObject(row, "route");
    api_add_span(row, "instead_of", e->route);
    cJSON_AddStringToObject(row, "class", e->klass);
    if (e->code != 0)
        cJSON_AddNumberToObject(row, "code", e->code);
    else
        cJSON_AddNullToObject(row, "code");
    api_add_enh(row, "enh", e->enh);
    api_add_span(row, "text", span_str(e->text));
    api_add_time(row, "since", e->since_at);
    api_add_time(row, "until", e->until_at);
    cJSON_AddNumberToObject(row, "ttl_ms", (double)e->ttl_ms);
    cJSON_AddFalseToObject(row, "pinned");
    cJSON_AddStringToObject(row, "state", learn_state_name(learn_state(e, listing->now)));
    cJSON_AddNumberToObject(row, "good_probes", e->good);
    cJSON_AddNumberToObject(row, "renewals", e->renewals);
    cJSON_AddItemToArray(listing->rows, row);
}

static void
learned_get(struct control_call *call, void *arg)
{
    struct api *api = arg;
    cJSON *json = cJSON_CreateObject();
    struct listing listing = {.rows = cJSON_AddArrayToObject(json, "learned"),
                              .now = clock_wall(loop_clock(api->d->loop))};
    schedule_pins(api->d->schedule, add_pin, listing.rows);
    learned_each(api->d->learned, add_learned, &listing);
    cJSON_AddNumberToObject(json, "more", (double)listing.more);
    control_json(call, 200, json);
}

struct pin_call {
    struct store_op op;
    struct api *api;
    struct control_call *call;
    bool pin;
    char domain[DOMAIN_BUF], route[80], who[80];
    msec_t since_at, until_at;
    char key[sizeof(SCHEDULE_PIN_SPACE) + DOMAIN_BUF], value[PIN_VALUE_MAX];
    struct store_fact fact;
};

/* A domain that was refused before RCPT has no entry of its own: only its site has. */
static size_t
forget_learned(struct daemon *d, const char *domain)
{
    struct facts_site site;
    size_t n = learned_forget(d->learned, span_str(domain));

    if (facts_site_cached(d->facts, domain, &site) && site.ok)
        n += learned_forget(d->learned, span_str(site.key));
    return n;
}

static void
pin_done(struct store_op *op)
{
    struct pin_call *pc = CONTAINER_OF(op, struct pin_call, op);
    struct daemon *d = pc->api->d;
    struct log_line line;

    if (op->code != ERR_OK) {
        control_error(pc->call, op->code, "%s", op->err.text);
        free(pc);
        return;
    }
    cJSON *json = cJSON_CreateObject();
    log_begin(d->log, &line, LOG_WARNING, pc->pin ? "pinned" : "forgotten");
    log_cstr(&line, "domain", pc->domain);
    if (pc->pin) {
        schedule_pin(d->schedule, span_str(pc->domain), span_str(pc->route), pc->since_at,
                     pc->until_at);
        log_cstr(&line, "route", pc->route);
        log_at(&line, "until", pc->until_at);
        cJSON_AddStringToObject(json, "domain", pc->domain);
        cJSON_AddStringToObject(json, "route", pc->route);
        api_add_time(json, "until", pc->until_at);
    } else {
        /* What was learned is gone at once, its rows with the next operation of the store. */
        size_t n = forget_learned(d, pc->domain);
        n += schedule_unpin(d->schedule, span_str(pc->domain));
        log_uint(&line, "n", n);
        cJSON_AddNumberToObject(json, "forgotten", (double)n);
    }
    log_cstr(&line, "who", pc->who);
    log_end(&line);
    control_json(pc->call, 200, json);
    free(pc);
}

/* A domain in its canonical form; to be forgotten, an address literal too. */
static bool
take_domain(const char *text, bool pin, char ret[static DOMAIN_BUF], struct err *err)
{
    if (pin || text[0] != '[' || strlen(text) >= DOMAIN_BUF)
        return domain_normalise(span_str(text), ret, err) == ERR_OK;
    memcpy(ret, text, strlen(text) + 1);
    return true;
}

/* What both calls ask; NULL: answered. */
static struct pin_call *
pin_call_new(struct control_call *call, struct api *api, bool pin)
{
    const char *domain = control_body_str(call, API_F_DOMAIN);
    struct pin_call *pc = xcalloc(1, sizeof(*pc));
    struct err err;

    pc->api = api;
    pc->call = call;
    pc->pin = pin;
    if (domain == NULL || !take_domain(domain, pin, pc->domain, &err)) {
        control_error(call, ERR_INVAL, "domain: %s",
                      domain == NULL ? "expected a domain name" : err.text);
        free(pc);
        return NULL;
    }
    snprintf(pc->key, sizeof(pc->key), SCHEDULE_PIN_SPACE "%s", pc->domain);
    snprintf(pc->who, sizeof(pc->who), "%s", control_who(call));
    pc->fact.key = span_str(pc->key);
    pc->op.kind = STORE_OUTCOMES;
    pc->op.done = pin_done;
    pc->op.outcomes.facts = &pc->fact;
    pc->op.outcomes.n_facts = 1;
    return pc;
}

static void
forget_post(struct control_call *call, void *arg)
{
    struct api *api = arg;
    struct pin_call *pc = pin_call_new(call, api, false);
    if (pc == NULL)
        return;
    pc->fact.remove = true;
    store_submit(api->d->store, &pc->op);
}

static void
pin_post(struct control_call *call, void *arg)
{
    struct api *api = arg;
    const char *route = control_body_str(call, API_F_ROUTE);
    double for_ms = api_num(control_body(call), "for_ms", 0);

    if (route == NULL || strlen(route) >= sizeof(((struct pin_call *)NULL)->route) ||
        config_route_find(api->d->settings->config, span_str(route)) < 0) {
        control_error(call, ERR_INVAL, "route: there is none named %.60s",
                      route == NULL ? "" : route);
        return;
    }
    if (for_ms < 1 || for_ms > (double)PIN_MAX_MS) {
        control_error(call, ERR_INVAL, "for_ms: expected 1 ms to 365d");
        return;
    }
    struct pin_call *pc = pin_call_new(call, api, true);
    if (pc == NULL)
        return;
    snprintf(pc->route, sizeof(pc->route), "%s", route);
    pc->since_at = clock_wall(loop_clock(api->d->loop));
    pc->until_at = pc->since_at + (msec_t)for_ms;
    pc->fact.value = schedule_pin_value(pc->value, span_str(pc->route), pc->since_at, pc->until_at);
    store_submit(api->d->store, &pc->op);
}

const struct control_route api_learned_routes[] = {
    {"GET", API_ROUTES_LEARNED, learned_get, false},
    {"POST", API_ROUTES_FORGET, forget_post, false},
    {"POST", API_ROUTES_PIN, pin_post, false},
};
const size_t api_n_learned_routes = N_ELEMENTS(api_learned_routes);
