/*
 * api_trace - what happened to a message: what waits of it (its attempts so far) and what has
 * finished (history), oldest first.
 */
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/api_internal.h"
#include "relayd/record/attempts.h"
#include "relayd/record/detail.h"

#define HISTORY_PAGE 500
#define TRACE_EVENTS_MAX 5000

struct trace {
    struct store_read mail, history;
    struct api *api;
    struct control_call *call;
    uint64_t id;
    cJSON *json, *rcpts, *events;
    bool found;
    size_t n_events;
};

static cJSON *
event_new(struct trace *t, const char *event, msec_t at, struct span rcpt)
{
    cJSON *json = cJSON_CreateObject();
    api_add_time(json, "at", at);
    api_add_span(json, "rcpt", rcpt);
    cJSON_AddStringToObject(json, "event", event);
    cJSON_AddItemToArray(t->events, json);
    t->n_events++;
    return json;
}

static void
add_attempts(struct trace *t, const struct queue_rcpt *rcpt)
{
    struct attempts a;
    if (attempts_decode(rcpt->attempts, &a, NULL) != ERR_OK)
        return;
    for (int i = 0; i < a.n_refusals; i++) {
        const struct refusal *f = &a.refusals[i];
        cJSON *json = event_new(t, "attempt", f->at, rcpt->address);
        struct span peer = f->peer;
        api_add_span(json, "route", f->route);
        api_add_span(json, "site", span_cut(&peer, ' '));
        api_add_span(json, "peer", peer);
        api_add_span(json, "phase", f->phase);
        cJSON_AddNumberToObject(json, "code", f->code);
        api_add_enh(json, "enh", f->enh);
        api_add_span(json, "class", a.klass);
        cJSON_AddStringToObject(json, "outcome", "deferred");
        api_add_span(json, "text", f->text);
    }
}

static void
add_waiting(struct trace *t, const struct queue_mail *mail)
{
    api_add_span(t->json, "sender", mail->msg.sender);
    api_add_time(t->json, "arrived_at", mail->msg.arrived_at);
    cJSON_AddNumberToObject(t->json, "size", (double)mail->msg.size_bytes);
    for (size_t i = 0; i < mail->n_rcpts; i++) {
        const struct queue_rcpt *rcpt = &mail->rcpts[i];
        cJSON *json = cJSON_CreateObject();
        api_add_span(json, "rcpt", rcpt->address);
        cJSON_AddNumberToObject(json, "no", rcpt->no);
        cJSON_AddStringToObject(json, "state",
                                api_state(t->api->d, rcpt, api_domain_held(t->api->d, rcpt)));
        cJSON_AddNullToObject(json, "result");
        cJSON_AddNullToObject(json, "finished_at");
        cJSON_AddItemToArray(t->rcpts, json);
        add_attempts(t, rcpt);
    }
    t->found = true;
}

static void
add_finished(struct trace *t, const struct queue_past *past)
{
    static const char *const results[] = {
        [QUEUE_DELIVERED] = "delivered",
        [QUEUE_FAILED] = "failed",
        [QUEUE_REMOVED] = "removed",
        [QUEUE_REPLACED] = "replaced",
    };
    const char *result = past->result >= QUEUE_DELIVERED && past->result <= QUEUE_REPLACED
                             ? results[past->result]
                             : "unknown";
    struct detail d;

    if (!t->found) {
        api_add_span(t->json, "sender", past->sender);
        api_add_time(t->json, "arrived_at", past->arrived_at);
        t->found = true;
    }
    cJSON *rcpt = cJSON_CreateObject();
    api_add_span(rcpt, "rcpt", past->address);
    cJSON_AddNumberToObject(rcpt, "no", past->no);
    cJSON_AddStringToObject(rcpt, "state", "finished");
    cJSON_AddStringToObject(rcpt, "result", result);
    api_add_time(rcpt, "finished_at", past->finished_at);
    cJSON_AddItemToArray(t->rcpts, rcpt);
    cJSON *json = event_new(t, result, past->finished_at, past->address);
    if (detail_decode(past->detail, &d, NULL) != ERR_OK || past->detail.n == 0)
        return;
    api_add_span(json, "route", d.route);
    api_add_span(json, "site", d.site);
    api_add_span(json, "peer", d.peer);
    api_add_span(json, "host", d.host);
    api_add_span(json, "tls", d.tls);
    api_add_span(json, "phase", d.phase);
    cJSON_AddNumberToObject(json, "code", d.code);
    api_add_enh(json, "enh", d.enh);
    api_add_span(json, "class", d.klass);
    cJSON_AddStringToObject(json, "outcome", result);
    cJSON_AddNumberToObject(json, "attempts", d.attempts);
    api_add_span(json, "text", d.text);
}

static void
trace_end(struct trace *t, enum err_code code, const char *text)
{
    if (code != ERR_OK) {
        cJSON_Delete(t->json);
        control_error(t->call, code, "%s", text);
    } else if (!t->found) {
        cJSON_Delete(t->json);
        control_error(t->call, ERR_NOT_FOUND,
                      "no message with this id waits or has finished lately");
    } else {
        control_json(t->call, 200, t->json);
    }
    free(t);
}

static void
history_done(struct store_read *read)
{
    struct trace *t = CONTAINER_OF(read, struct trace, history);
    struct queue_history *history = &read->history.history;

    if (read->code != ERR_OK) {
        trace_end(t, read->code, read->err.text);
        return;
    }
    for (size_t i = 0; i < history->n_rows; i++)
        add_finished(t, &history->rows[i]);
    bool more = history->more && t->n_events < TRACE_EVENTS_MAX;
    queue_history_release(history);
    if (more)
        store_read(t->api->d->store, read);
    else
        trace_end(t, ERR_OK, "");
}

static void
mail_done(struct store_read *read)
{
    struct trace *t = CONTAINER_OF(read, struct trace, mail);

    if (read->code == ERR_OK) {
        add_waiting(t, &read->mail.mail);
        queue_mail_release(&read->mail.mail);
    } else if (read->code != ERR_NOT_FOUND) {
        trace_end(t, read->code, read->err.text);
        return;
    }
    t->history.kind = STORE_READ_HISTORY;
    t->history.done = history_done;
    t->history.history.id = t->id;
    t->history.history.max = HISTORY_PAGE;
    store_read(t->api->d->store, &t->history);
}

static void
trace_get(struct control_call *call, void *arg)
{
    struct api *api = arg;
    uint64_t id;
    if (!api_id(call, &id))
        return;
    struct trace *t = xcalloc(1, sizeof(*t));
    t->api = api;
    t->call = call;
    t->id = id;
    t->json = cJSON_CreateObject();
    api_add_id(t->json, "id", api->d, id);
    t->rcpts = cJSON_AddArrayToObject(t->json, "recipients");
    t->events = cJSON_AddArrayToObject(t->json, "events");
    t->mail.kind = STORE_READ_MAIL;
    t->mail.done = mail_done;
    t->mail.mail.id = id;
    store_read(api->d->store, &t->mail);
}

const struct control_route api_trace_routes[] = {
    {"GET", API_TRACE "/{id}", trace_get, false},
};
const size_t api_n_trace_routes = N_ELEMENTS(api_trace_routes);
