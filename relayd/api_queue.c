/*
 * api_queue - looking at the queue: list, show, body.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/api_internal.h"
#include "relayd/record/attempts.h"

#define BODY_PIECE_BYTES 65536

bool
api_domain_held(const struct daemon *d, const struct queue_rcpt *rcpt)
{
    return schedule_hold_reason(d->schedule, rcpt->domain) != NULL;
}

const char *
api_state(const struct daemon *d, const struct queue_rcpt *rcpt, bool domain_held)
{
    if (rcpt->state == QUEUE_HELD)
        return API_STATE_HELD;
    if (schedule_in_hand(d->schedule, rcpt->id, rcpt->no))
        return API_STATE_IN_HAND;
    return domain_held ? API_STATE_HELD : API_STATE_SCHEDULED;
}

static void
add_refusals(cJSON *item, const struct attempts *a)
{
    cJSON *list = cJSON_AddArrayToObject(item, "refusals");
    for (int i = 0; i < a->n_refusals; i++) {
        const struct refusal *f = &a->refusals[i];
        cJSON *json = cJSON_CreateObject();
        api_add_span(json, "route", f->route);
        api_add_time(json, "at", f->at);
        api_add_span(json, "phase", f->phase);
        api_add_span(json, "peer", f->peer);
        cJSON_AddNumberToObject(json, "code", f->code);
        api_add_enh(json, "enh", f->enh);
        api_add_span(json, "text", f->text);
        cJSON_AddItemToArray(list, json);
    }
}

static void
add_hold_reason(cJSON *item, const char *reason)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    strbuf_add_str(&text, "its domain is held");
    if (reason != NULL && reason[0] != '\0')
        strbuf_printf(&text, ": %s", reason);
    api_add_span(item, "reason", strbuf_span(&text));
}

/* What is told of a recipient by list and show alike. */
static void
add_rcpt(cJSON *item, struct daemon *d, const struct queue_rcpt *rcpt, bool domain_held,
         struct attempts *a)
{
    const char *state = api_state(d, rcpt, domain_held);
    const struct refusal *last = NULL, *held = NULL;

    /* The newest that a route gave; a hold notes its reason without one. */
    if (attempts_decode(rcpt->attempts, a, NULL) == ERR_OK)
        for (int i = 0; i < a->n_refusals; i++)
            *(a->refusals[i].route.n > 0 ? &last : &held) = &a->refusals[i];
    api_add_span(item, "rcpt", rcpt->address);
    cJSON_AddStringToObject(item, "state", state);
    if (last != NULL)
        api_add_span(item, "route", last->route);
    else
        cJSON_AddNullToObject(item, "route");
    api_add_time(item, "due_at", rcpt->due_at);
    cJSON_AddNumberToObject(item, "attempts", a->count);
    if (last != NULL) {
        char enh[16];
        CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
        if (last->code > 0)
            strbuf_printf(&text, "%d ", last->code);
        if (last->enh.klass > 0)
            strbuf_printf(&text, "%s ", enh_format(last->enh, enh));
        strbuf_add_span(&text, last->text);
        api_add_span(item, "last_reply", strbuf_span(&text));
    } else {
        cJSON_AddNullToObject(item, "last_reply");
    }
    if (rcpt->state == QUEUE_HELD && held != NULL)
        api_add_span(item, "reason", held->text);
    else if (domain_held)
        add_hold_reason(item, schedule_hold_reason(d->schedule, rcpt->domain));
    else
        cJSON_AddNullToObject(item, "reason");
}

cJSON *
api_item(struct daemon *d, const struct queue_row *row)
{
    cJSON *item = cJSON_CreateObject();
    struct attempts a;
    api_add_id(item, "id", d, row->rcpt.id);
    api_add_span(item, "sender", row->sender);
    add_rcpt(item, d, &row->rcpt, row->domain_held, &a);
    api_add_time(item, "arrived_at", row->arrived_at);
    cJSON_AddNumberToObject(item, "size", (double)row->size_bytes);
    return item;
}

/* ---- list ---- */

/* A key of the list as text: "ID-NO". */
static bool
key_parse(struct span text, struct queue_key *ret)
{
    uint64_t no;
    struct span rest = text;
    struct span id = span_cut(&rest, '-');
    if (!queue_id_parse(id, &ret->id) || !span_u64(rest, &no) || no > UINT32_MAX)
        return false;
    ret->no = (uint32_t)no;
    return true;
}

struct list_call {
    struct store_read read;
    struct api *api;
    struct control_call *call;
    struct api_filter filter;
};

static void
list_done(struct store_read *read)
{
    struct list_call *lc = CONTAINER_OF(read, struct list_call, read);
    struct daemon *d = lc->api->d;
    struct queue_page *page = &read->list.page;

    if (read->code != ERR_OK) {
        control_error(lc->call, read->code, "%s", read->err.text);
        free(lc);
        return;
    }
    cJSON *json = cJSON_CreateObject();
    cJSON *items = cJSON_AddArrayToObject(json, "items");
    for (size_t i = 0; i < page->n_rows; i++) {
        const struct queue_row *row = &page->rows[i];
        if (api_filter_keeps(&lc->filter, api_state(d, &row->rcpt, row->domain_held)))
            cJSON_AddItemToArray(items, api_item(d, row));
    }
    if (page->more) {
        char id[QUEUE_ID_TEXT + 1], key[64];
        snprintf(key, sizeof(key), "%s-%u", queue_id_format(read->list.after.id, id),
                 (unsigned)read->list.after.no);
        cJSON_AddStringToObject(json, "next", key);
    } else {
        cJSON_AddNullToObject(json, "next");
    }
    queue_page_release(page);
    control_json(lc->call, 200, json);
    free(lc);
}

static void
list_get(struct control_call *call, void *arg)
{
    struct api *api = arg;
    struct list_call *lc = xcalloc(1, sizeof(*lc));
    struct span limit = control_query(call, API_F_LIMIT);
    struct span after = control_query(call, API_F_AFTER);
    uint64_t max = API_LIST_DEFAULT;

    lc->api = api;
    lc->call = call;
    if (!api_filter_parse(api, call, false, &lc->filter)) {
        free(lc);
        return;
    }
    if ((limit.p != NULL && (!span_u64(limit, &max) || max == 0 || max > API_LIST_MAX)) ||
        (after.p != NULL && !key_parse(after, &lc->read.list.after))) {
        control_error(call, ERR_INVAL, "limit: expected 1 to %d; after: the `next` of a page",
                      API_LIST_MAX);
        free(lc);
        return;
    }
    lc->read.kind = STORE_READ_LIST;
    lc->read.done = list_done;
    lc->read.list.filter = lc->filter.filter;
    lc->read.list.max = max;
    store_read(api->d->store, &lc->read);
}

/* ---- show ---- */

struct mail_call {
    struct store_read read;
    struct api *api;
    struct control_call *call;
    struct queue_mail mail;
    struct store_read body;
    uint64_t offset;
    bool reading, gone;
    char bytes[BODY_PIECE_BYTES];
};

static cJSON *
mail_json(struct daemon *d, const struct queue_mail *mail)
{
    const struct queue_msg *q = &mail->msg;
    cJSON *json = cJSON_CreateObject();
    api_add_id(json, "id", d, q->id);
    api_add_span(json, "sender", q->sender);
    api_add_time(json, "arrived_at", q->arrived_at);
    api_add_time(json, "expires_at", record_expires_at(d->record, q));
    cJSON_AddNumberToObject(json, "size", (double)q->size_bytes);
    api_add_span(json, "client", q->client);
    cJSON_AddBoolToObject(json, "notice", (q->flags & QUEUE_MSG_NOTICE) != 0);
    cJSON_AddBoolToObject(json, "smtputf8", (q->flags & QUEUE_MSG_SMTPUTF8) != 0);
    api_add_span(json, "ret", q->ret);
    api_add_span(json, "envid", q->envid);
    cJSON *signatures = cJSON_AddArrayToObject(json, "signatures");
    for (size_t i = 0; i < q->n_signatures; i++) {
        CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
        strbuf_printf(&text, "%.*s/%.*s", SPAN_ARG(q->signatures[i].domain),
                      SPAN_ARG(q->signatures[i].selector));
        cJSON_AddItemToArray(signatures, cJSON_CreateString(text.p));
    }
    cJSON *rcpts = cJSON_AddArrayToObject(json, "recipients");
    for (size_t i = 0; i < mail->n_rcpts; i++) {
        const struct queue_rcpt *rcpt = &mail->rcpts[i];
        cJSON *item = cJSON_CreateObject();
        struct attempts a;
        add_rcpt(item, d, rcpt, api_domain_held(d, rcpt), &a);
        cJSON_AddNumberToObject(item, "no", rcpt->no);
        cJSON_AddNumberToObject(item, "revision", rcpt->revision);
        cJSON_AddNumberToObject(item, "notify", rcpt->notify);
        api_add_span(item, "orcpt", rcpt->orcpt);
        add_refusals(item, &a);
        cJSON_AddItemToArray(rcpts, item);
    }
    return json;
}

static void
mail_free(struct mail_call *mc)
{
    queue_mail_release(&mc->mail);
    free(mc);
}

static void
show_done(struct store_read *read)
{
    struct mail_call *mc = CONTAINER_OF(read, struct mail_call, read);
    if (read->code != ERR_OK) {
        control_error(mc->call, read->code, "%s", read->err.text);
    } else {
        mc->mail = read->mail.mail;
        control_json(mc->call, 200, mail_json(mc->api->d, &mc->mail));
    }
    mail_free(mc);
}

static void
mail_start(struct control_call *call, struct api *api, void (*done)(struct store_read *read))
{
    uint64_t id;
    if (!api_id(call, &id))
        return;
    struct mail_call *mc = xcalloc(1, sizeof(*mc));
    mc->api = api;
    mc->call = call;
    mc->read.kind = STORE_READ_MAIL;
    mc->read.done = done;
    mc->read.mail.id = id;
    store_read(api->d->store, &mc->read);
}

static void
show_get(struct control_call *call, void *arg)
{
    mail_start(call, arg, show_done);
}

/* ---- body: streamed, one piece in memory ---- */

static void body_next(struct mail_call *mc);

static void
body_done(struct store_read *read)
{
    struct mail_call *mc = CONTAINER_OF(read, struct mail_call, body);

    mc->reading = false;
    if (mc->gone) {
        control_stream_end(mc->call);
        mail_free(mc);
        return;
    }
    if (read->code != ERR_OK) {
        control_stream_abort(mc->call);
        mail_free(mc);
        return;
    }
    if (read->body.n == 0) {
        control_stream_end(mc->call);
        mail_free(mc);
        return;
    }
    mc->offset += read->body.n;
    if (control_stream(mc->call, span_of(mc->bytes, read->body.n)))
        body_next(mc);
}

static void
body_next(struct mail_call *mc)
{
    mc->body = (struct store_read){.kind = STORE_READ_BODY, .done = body_done};
    mc->body.body.id = mc->mail.msg.id;
    mc->body.body.offset = mc->offset;
    mc->body.body.buf = mc->bytes;
    mc->body.body.cap = sizeof(mc->bytes);
    mc->reading = true;
    store_read(mc->api->d->store, &mc->body);
}

static void
body_ready(struct control_call *call, void *arg)
{
    struct mail_call *mc = arg;
    (void)call;
    if (!mc->reading)
        body_next(mc);
}

static void
body_gone(struct control_call *call, void *arg)
{
    struct mail_call *mc = arg;
    mc->gone = true;
    if (mc->reading)
        return;
    control_stream_end(call);
    mail_free(mc);
}

static void
body_mail_done(struct store_read *read)
{
    struct mail_call *mc = CONTAINER_OF(read, struct mail_call, read);
    const struct queue_msg *q = &read->mail.mail.msg;
    CLEANUP(strbuf_release) struct strbuf head = STRBUF_INIT;

    if (read->code != ERR_OK) {
        control_error(mc->call, read->code, "%s", read->err.text);
        mail_free(mc);
        return;
    }
    mc->mail = read->mail.mail;
    strbuf_add_span(&head, q->received);
    for (size_t i = 0; i < q->n_signatures; i++)
        strbuf_add_span(&head, q->signatures[i].field);
    strbuf_add_span(&head, q->added);
    control_stream_begin(mc->call, 200, "message/rfc822", body_ready, body_gone, mc);
    if (control_stream(mc->call, strbuf_span(&head)))
        body_next(mc);
}

static void
body_get(struct control_call *call, void *arg)
{
    mail_start(call, arg, body_mail_done);
}

const struct control_route api_queue_routes[] = {
    {"GET", API_QUEUE, list_get, false},
    {"GET", API_QUEUE "/{id}", show_get, false},
    {"GET", API_QUEUE "/{id}/body", body_get, false},
};
const size_t api_n_queue_routes = N_ELEMENTS(api_queue_routes);
