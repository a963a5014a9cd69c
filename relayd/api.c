/*
 * api - the control socket's calls: status, health, metrics, reload.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/api_internal.h"
#include "relayd/learned.h"
#include "relayd/ops/page.h"

/* ---- helpers for all api files ---- */

bool
api_id(struct control_call *call, uint64_t *ret)
{
    return api_id_parse(call, control_segment(call), ret);
}

bool
api_id_parse(struct control_call *call, struct span text, uint64_t *ret)
{
    if (!queue_id_parse(text, ret)) {
        control_error(call, ERR_INVAL, "%.*s is not a message id: expected NODE.XXXXXXXXXXXXX",
                      SPAN_ARG(span_first(text, 80)));
        return false;
    }
    /* No message has it, and to filters it means all of them. */
    if (*ret == 0) {
        control_error(call, ERR_NOT_FOUND, "no message with this id");
        return false;
    }
    return true;
}

void
api_add_id(cJSON *object, const char *name, const struct daemon *d, uint64_t id)
{
    char text[QUEUE_ID_TEXT + 1], whole[RELAY_ID_TEXT];
    snprintf(whole, sizeof(whole), "%s.%s", d->settings->config->node.name,
             queue_id_format(id, text));
    cJSON_AddStringToObject(object, name, whole);
}

void
api_add_enh(cJSON *object, const char *name, struct enh e)
{
    char text[16];
    cJSON_AddStringToObject(object, name, enh_format(e, text));
}

/* ---- rates ---- */

static void
rates_now(const struct api *api, uint64_t ret[RATE__COUNT])
{
    struct record_numbers r;
    struct intake_numbers i;

    record_numbers(api->d->record, &r);
    intake_numbers(api->d->intake, &i);
    ret[RATE_ACCEPTED] = i.messages;
    ret[RATE_DELIVERED] = r.delivered;
    ret[RATE_DEFERRED] = r.deferred;
    ret[RATE_FAILED] = r.failed;
}

static void
rates_sample(void *arg)
{
    struct api *api = arg;

    api->rate_at = (api->rate_at + 1) % API_RATE_STEPS;
    rates_now(api, api->rates[api->rate_at]);
    if (api->n_rates < API_RATE_STEPS)
        api->n_rates++;
    timer_set(loop_clock(api->d->loop), &api->rate_timer, API_RATE_STEP_MS, rates_sample, api);
}

/* Events since `steps` samples ago, the moment counted in. */
static double
rate_of(const struct api *api, const uint64_t now[RATE__COUNT], enum api_rate what, size_t steps)
{
    if (steps >= api->n_rates)
        steps = api->n_rates - 1;
    size_t then = (api->rate_at + API_RATE_STEPS - steps) % API_RATE_STEPS;
    return (double)(now[what] - api->rates[then][what]);
}

static void
add_rates(const struct api *api, cJSON *json)
{
    static const char *const names[] = {"accepted", "delivered", "deferred", "failed"};
    uint64_t now[RATE__COUNT];
    rates_now(api, now);
    cJSON *rates = cJSON_AddObjectToObject(json, "rates");
    for (size_t i = 0; i < RATE__COUNT; i++) {
        cJSON *rate = cJSON_AddObjectToObject(rates, names[i]);
        cJSON_AddNumberToObject(rate, "minute", rate_of(api, now, (enum api_rate)i, 6));
        cJSON_AddNumberToObject(rate, "hour",
                                rate_of(api, now, (enum api_rate)i, API_RATE_STEPS - 1));
    }
}

/* ---- status ---- */

static void
add_queue(struct daemon *d, cJSON *json)
{
    struct store_numbers n;
    struct schedule_numbers s;
    store_numbers(d->store, &n);
    schedule_numbers(d->schedule, &s);
    cJSON *queue = cJSON_AddObjectToObject(json, "queue");
    cJSON_AddNumberToObject(queue, "messages", (double)n.queue.messages);
    cJSON_AddNumberToObject(queue, "recipients", (double)n.queue.recipients);
    cJSON_AddNumberToObject(queue, "fresh", (double)n.queue.fresh);
    cJSON_AddNumberToObject(queue, "scheduled", (double)n.queue.scheduled);
    cJSON_AddNumberToObject(queue, "in_hand", (double)s.in_hand);
    cJSON_AddNumberToObject(queue, "held", (double)n.queue.held);
    cJSON_AddNumberToObject(queue, "bytes", (double)n.queue.used_bytes);
    cJSON_AddNumberToObject(queue, "max_bytes", (double)n.queue.quota_bytes);
    /* A clock that was ahead when it came says nothing about its age. */
    bool known = n.queue.oldest_at <= clock_wall(loop_clock(d->loop));
    api_add_time(queue, "oldest_at", known ? n.queue.oldest_at : 0);
}

static void
add_sites(struct daemon *d, cJSON *json)
{
    struct site_info worst[API_STATUS_SITES_MAX];
    size_t n = schedule_worst(d->schedule, worst, N_ELEMENTS(worst));
    cJSON *list = cJSON_AddArrayToObject(json, "sites");

    for (size_t i = 0; i < n; i++) {
        const struct site_info *info = &worst[i];
        cJSON *site = cJSON_CreateObject();
        cJSON_AddStringToObject(site, "site", info->name);
        cJSON_AddStringToObject(site, "route", info->route);
        cJSON_AddStringToObject(site, "state", site_trouble_name(info));
        cJSON_AddNumberToObject(site, "waiting", (double)info->n_ready);
        if (info->failure != NULL)
            api_add_span(site, "last_reply", span_str(info->failure));
        else
            cJSON_AddNullToObject(site, "last_reply");
        api_add_time(site, "next_at", info->probe_at);
        cJSON_AddItemToArray(list, site);
    }
}

static void
add_suspended(struct daemon *d, cJSON *json)
{
    cJSON *list = cJSON_AddArrayToObject(json, "suspended");
    size_t n = 0;
    for (const struct pause *p = schedule_pauses(d->schedule); p != NULL && n < 20; p = p->next) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "target", p->name);
        cJSON_AddStringToObject(row, "kind", pause_kind_name(p->kind));
        api_add_time(row, "until", p->until_at);
        api_add_span(row, "reason", span_str(p->reason));
        cJSON_AddItemToArray(list, row);
        n++;
    }
}

static void
add_alerts(struct daemon *d, cJSON *json)
{
    struct log_alert_entry alerts[LOG_ALERTS_KEPT];
    size_t n = log_alerts(d->log, alerts, N_ELEMENTS(alerts));
    cJSON *list = cJSON_AddArrayToObject(json, "alerts");
    for (size_t i = 0; i < n; i++) {
        cJSON *alert = cJSON_CreateObject();
        api_add_time(alert, "at", alerts[i].last_at);
        cJSON_AddStringToObject(alert, "kind", alerts[i].kind);
        api_add_span(alert, "text", span_str(alerts[i].text));
        cJSON_AddNumberToObject(alert, "count", (double)alerts[i].count);
        cJSON_AddItemToArray(list, alert);
    }
}

static void
add_node(struct daemon *d, cJSON *json)
{
    const struct config *config = d->settings->config;
    struct accept_stats stats;
    accept_stats(d->accept, &stats);
    cJSON_AddStringToObject(json, "version", RELAYD_VERSION);
    cJSON_AddStringToObject(json, "node", config->node.name);
    cJSON_AddStringToObject(json, "hostname", config->node.hostname);
    cJSON_AddStringToObject(json, "region", config->node.region);
    cJSON_AddNumberToObject(json, "pid", getpid());
    cJSON_AddStringToObject(json, "state", d->phase == DAEMON_STOPPING ? "draining" : "running");
    api_add_time(json, "started_at", d->started_at);
    cJSON_AddNumberToObject(json, "uptime_ms",
                            (double)(clock_wall(loop_clock(d->loop)) - d->started_at));
    cJSON *file = cJSON_AddObjectToObject(json, "config");
    cJSON_AddStringToObject(file, "file", d->config_file);
    api_add_time(file, "loaded_at", d->reloaded_at == 0 ? d->started_at : d->reloaded_at);
    if (d->reload_error[0] != '\0')
        api_add_span(file, "reload_error", span_str(d->reload_error));
    cJSON *sessions = cJSON_AddObjectToObject(json, "sessions");
    cJSON_AddNumberToObject(sessions, "in", stats.sessions);
    cJSON_AddNumberToObject(sessions, "out", (double)delivery_connections(d->delivery));
}

static void
add_certificate(struct daemon *d, cJSON *json)
{
    msec_t until = accept_certificate_not_after(d->accept);
    if (until == INT64_MAX) {
        cJSON_AddNullToObject(json, "certificate");
        return;
    }
    cJSON *certificate = cJSON_AddObjectToObject(json, "certificate");
    cJSON_AddStringToObject(certificate, "file", d->settings->config->tls.certificate_file);
    api_add_time(certificate, "expires_at", until);
}

static cJSON *
status_json(struct api *api)
{
    struct daemon *d = api->d;
    cJSON *json = cJSON_CreateObject();

    add_node(d, json);
    add_queue(d, json);
    add_rates(api, json);
    cJSON_AddItemToObject(json, "routes", api_routes(d));
    add_sites(d, json);
    add_suspended(d, json);
    size_t learned = learned_count(d->learned) + schedule_pins(d->schedule, NULL, NULL);
    cJSON_AddNumberToObject(json, "learned", (double)learned);
    add_alerts(d, json);
    add_certificate(d, json);
    return json;
}

static void
status_get(struct control_call *call, void *arg)
{
    control_json(call, 200, status_json(arg));
}

/* The same for people with a browser. */
static void
page_get(struct control_call *call, void *arg)
{
    cJSON *json = status_json(arg);
    CLEANUP(strbuf_release) struct strbuf html = STRBUF_INIT;
    page_status(json, &html);
    cJSON_Delete(json);
    control_text(call, 200, PAGE_CONTENT_TYPE, strbuf_span(&html));
}

static void
healthz_get(struct control_call *call, void *arg)
{
    struct daemon *d = ((struct api *)arg)->d;
    struct store_numbers n;
    store_numbers(d->store, &n);
    if (n.failed)
        control_text(call, 503, "text/plain", SPAN("the queue cannot be written\n"));
    else if (d->phase != DAEMON_RUNNING)
        control_text(call, 503, "text/plain", SPAN("stopping\n"));
    else
        control_text(call, 200, "text/plain", SPAN("ok\n"));
}

static void
metrics_get(struct control_call *call, void *arg)
{
    struct daemon *d = ((struct api *)arg)->d;
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    metrics_write(d->metrics, &out);
    control_text(call, 200, METRICS_CONTENT_TYPE, strbuf_span(&out));
}

/* ---- reload ---- */

static void
on_reloaded(void *arg, bool ok, const struct config_problems *problems)
{
    struct control_call *call = arg;
    cJSON *json = cJSON_CreateObject();
    cJSON *list;

    if (ok) {
        cJSON_AddBoolToObject(json, "reloaded", true);
        list = cJSON_AddArrayToObject(json, "warnings");
    } else {
        cJSON *error = cJSON_AddObjectToObject(json, "error");
        cJSON_AddStringToObject(error, "code", "inval");
        cJSON_AddStringToObject(error, "text", "the old configuration stays");
        list = cJSON_AddArrayToObject(json, "problems");
    }
    for (size_t i = 0; i < problems->n; i++) {
        CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
        config_problem_format(&problems->items[i], &text);
        cJSON_AddItemToArray(list, cJSON_CreateString(text.p));
    }
    control_json(call, ok ? 200 : 400, json);
}

static void
reload_post(struct control_call *call, void *arg)
{
    struct api *api = arg;
    daemon_reload(api->d, on_reloaded, call);
}

static const struct control_route routes[] = {
    {"GET", "/", page_get, false},
    {"GET", API_STATUS, status_get, false},
    {"GET", API_HEALTHZ, healthz_get, true},
    {"GET", API_METRICS, metrics_get, false},
    {"POST", API_RELOAD, reload_post, false},
};

void
api_new(struct daemon *d)
{
    struct api *api = d->api = xcalloc(1, sizeof(*api));
    api->d = d;
    rates_sample(api);
    control_routes(d->control, routes, N_ELEMENTS(routes), api);
    control_routes(d->control, api_queue_routes, api_n_queue_routes, api);
    control_routes(d->control, api_verb_routes, api_n_verb_routes, api);
    control_routes(d->control, api_route_routes, api_n_route_routes, api);
    control_routes(d->control, api_trace_routes, api_n_trace_routes, api);
    control_routes(d->control, api_job_routes, api_n_job_routes, api);
    control_routes(d->control, api_check_routes, api_n_check_routes, api);
    control_routes(d->control, api_learned_routes, api_n_learned_routes, api);
    control_routes(d->control, api_explain_routes, api_n_explain_routes, api);
}

void
api_stop(struct daemon *d)
{
    if (d->api == NULL)
        return;
    timer_cancel(loop_clock(d->loop), &d->api->rate_timer);
    explains_stop(d->api);
    api_checks_stop(d->api);
}

void
api_free(struct daemon *d)
{
    if (d->api == NULL)
        return;
    api_jobs_free(d->api);
    free(d->api);
    d->api = NULL;
}
