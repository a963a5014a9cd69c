/*
 * api_check - `check --diff`: which waiting mail, and which of the last day's, would go another way
 * under another file.
 *
 *    load the file (worker) ─▶ pages of the queue ─▶ pages of the history, newest first ─▶ answer
 *                                  └──────── each row: api_diff ──┘        └ facts are waited for ┘
 *
 * The answer comes within a second, but for the time that a large file takes to load, whatever the
 * queue holds: each part has its time, and the answer says what was not looked at.
 */
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/config_node.h"
#include "relayd/api_diff.h"
#include "relayd/api_internal.h"
#include "relayd/message.h"

#define PAGE_ROWS 500
#define HISTORY_MS DAY

/* Since the call came. A file that takes longer to load than LOAD_MS has the answer wait for it,
 * since the rest would be no answer. */
#define LOAD_MS 200
#define WAITING_UNTIL_MS 400
#define HISTORY_UNTIL_MS 700
#define FACTS_UNTIL_MS 850

struct check {
    struct job job;
    struct store_read read;
    struct api *api;
    struct control_call *call;
    struct check *next;
    char *file;
    struct settings *now, *then; /* `then` NULL: the file is bad */
    struct config_problems problems;
    msec_t begun_at; /* monotonic */
    msec_t since;    /* wall: down to where history was looked at */
    struct diff *diff;
    bool waiting_complete, history_complete;
    struct timer timer; /* while facts are waited for */
};

static void
check_free(struct check *c)
{
    struct check **at = &c->api->checks;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    timer_cancel(loop_clock(c->api->d->loop), &c->timer);
    diff_free(c->diff);
    config_problems_release(&c->problems);
    settings_free(c->then);
    daemon_settings_give(c->api->d, c->now);
    free(c->file);
    free(c);
}

static bool
time_left(const struct check *c, msec_t until_ms)
{
    return clock_now(loop_clock(c->api->d->loop)) < c->begun_at + until_ms;
}

/* ---- the answer ---- */

static cJSON *
problem_list(const struct check *c)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < c->problems.n; i++) {
        CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
        config_problem_format(&c->problems.items[i], &text);
        cJSON_AddItemToArray(list, cJSON_CreateString(text.p));
    }
    return list;
}

static void
answer_bad(struct check *c)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *error = cJSON_AddObjectToObject(json, "error");
    cJSON_AddStringToObject(error, "code", "inval");
    cJSON_AddStringToObject(error, "text", "the file has errors");
    cJSON_AddItemToObject(json, "problems", problem_list(c));
    control_json(c->call, 400, json);
    check_free(c);
}

static void
answer_error(struct check *c, enum err_code code, const char *text)
{
    control_error(c->call, code, "%s", text);
    check_free(c);
}

static void
add_changes(cJSON *json, const char *name, const struct diff_sums *sums)
{
    cJSON *list = cJSON_AddArrayToObject(json, name);
    for (size_t i = 0; i < sums->n_changes; i++) {
        const struct diff_change *change = &sums->changes[i];
        cJSON *row = cJSON_CreateObject();
        api_add_span(row, "domain", span_str(change->domain));
        cJSON_AddNumberToObject(row, "recipients", (double)change->n);
        api_add_span(row, "from", span_str(change->from));
        api_add_span(row, "to", span_str(change->to));
        cJSON_AddItemToArray(list, row);
    }
}

static void
answer(struct check *c)
{
    const struct diff_sums *waiting = diff_sums(c->diff, DIFF_WAITING);
    const struct diff_sums *history = diff_sums(c->diff, DIFF_HISTORY);
    cJSON *json = cJSON_CreateObject();

    diff_settle(c->diff);
    c->waiting_complete &= !waiting->more;
    c->history_complete &= !history->more;
    cJSON_AddItemToObject(json, "warnings", problem_list(c));
    cJSON_AddBoolToObject(json, "complete", c->waiting_complete && c->history_complete);
    cJSON_AddNumberToObject(json, "checked", (double)waiting->checked);
    cJSON_AddNumberToObject(json, "unknown", (double)waiting->unknown);
    cJSON_AddBoolToObject(json, "waiting_complete", c->waiting_complete);
    add_changes(json, "changes", waiting);
    cJSON_AddNumberToObject(json, "history_checked", (double)history->checked);
    cJSON_AddNumberToObject(json, "history_unknown", (double)history->unknown);
    cJSON_AddBoolToObject(json, "history_complete", c->history_complete);
    api_add_time(json, "history_since", c->since);
    add_changes(json, "history", history);
    control_json(c->call, 200, json);
    check_free(c);
}

static void
on_settled(void *arg)
{
    answer(arg);
}

/* Everything has been looked at that there was time for. */
static void
finish(struct check *c)
{
    struct daemon *d = c->api->d;
    if (!diff_busy(c->diff) || d->phase != DAEMON_RUNNING || !time_left(c, FACTS_UNTIL_MS)) {
        answer(c);
        return;
    }
    diff_wait(c->diff, on_settled, c);
    timer_set_at(loop_clock(d->loop), &c->timer, c->begun_at + FACTS_UNTIL_MS, on_settled, c);
}

/* ---- history ---- */

static void
past_row(struct check *c, const struct queue_past *past)
{
    struct route_query query;
    char unused[DOMAIN_BUF], domain[DOMAIN_BUF];

    /* The record of a message or recipient that could not be read left these out. */
    if (past->arrived_at == 0 || past->address.n == 0 ||
        route_query_set(&query, SPAN_NONE, past->address, unused, domain, NULL) != ERR_OK) {
        diff_row_unknown(c->diff, DIFF_HISTORY);
        return;
    }
    CLEANUP(freep) char *sender_domain = msg_sender_domain(past->sender);
    query.sender = past->sender;
    query.sender_domain = span_str(sender_domain);
    diff_row(c->diff, DIFF_HISTORY, &query);
}

static void
history_done(struct store_read *read)
{
    struct check *c = CONTAINER_OF(read, struct check, read);
    struct daemon *d = c->api->d;

    if (read->code != ERR_OK) {
        answer_error(c, read->code, read->err.text);
        return;
    }
    struct queue_history *history = &read->recent.history;
    for (size_t i = 0; i < history->n_rows; i++)
        past_row(c, &history->rows[i]);
    bool more = history->more;
    queue_history_release(history);
    if (more && d->phase == DAEMON_RUNNING && time_left(c, HISTORY_UNTIL_MS)) {
        store_read(d->store, read);
        return;
    }
    c->history_complete = !more;
    c->since = more ? read->recent.before.finished_at : read->recent.since;
    finish(c);
}

static void
history_start(struct check *c)
{
    struct daemon *d = c->api->d;
    c->read = (struct store_read){.kind = STORE_READ_RECENT, .done = history_done};
    c->read.recent.since = clock_wall(loop_clock(d->loop)) - HISTORY_MS;
    c->read.recent.max = PAGE_ROWS;
    store_read(d->store, &c->read);
}

/* ---- what waits ---- */

static void
waiting_row(struct check *c, const struct queue_row *row)
{
    CLEANUP(freep) char *sender_domain = msg_sender_domain(row->sender);
    const char *at = memrchr(row->rcpt.address.p, '@', row->rcpt.address.n);
    const struct route_query query = {
        .sender = row->sender,
        .sender_domain = span_str(sender_domain),
        .rcpt_local = at == NULL ? row->rcpt.address
                                 : span_of(row->rcpt.address.p, (size_t)(at - row->rcpt.address.p)),
        .domain = row->rcpt.domain,
    };
    diff_row(c->diff, DIFF_WAITING, &query);
}

static void
waiting_done(struct store_read *read)
{
    struct check *c = CONTAINER_OF(read, struct check, read);
    struct daemon *d = c->api->d;

    if (read->code != ERR_OK) {
        answer_error(c, read->code, read->err.text);
        return;
    }
    struct queue_page *page = &read->list.page;
    for (size_t i = 0; i < page->n_rows; i++)
        waiting_row(c, &page->rows[i]);
    bool more = page->more;
    queue_page_release(page);
    if (more && d->phase == DAEMON_RUNNING && time_left(c, WAITING_UNTIL_MS)) {
        store_read(d->store, read);
        return;
    }
    c->waiting_complete = !more;
    if (d->phase == DAEMON_RUNNING)
        history_start(c);
    else
        answer_error(c, ERR_AGAIN, "the daemon is stopping");
}

/* ---- the call ---- */

static void
load_run(struct job *job, struct worker *worker)
{
    struct check *c = CONTAINER_OF(job, struct check, job);
    (void)worker;
    if (settings_load(c->file, &c->then, &c->problems) != ERR_OK)
        c->then = NULL;
}

static void
load_done(struct job *job)
{
    struct check *c = CONTAINER_OF(job, struct check, job);
    struct daemon *d = c->api->d;
    msec_t now = clock_now(loop_clock(d->loop));

    if (job->dropped || d->phase != DAEMON_RUNNING) {
        answer_error(c, ERR_AGAIN, "the daemon is stopping");
        return;
    }
    if (c->then == NULL) {
        answer_bad(c);
        return;
    }
    if (c->begun_at < now - LOAD_MS)
        c->begun_at = now - LOAD_MS;
    c->diff = diff_new(d, c->now, c->then);
    c->read = (struct store_read){.kind = STORE_READ_LIST, .done = waiting_done};
    c->read.list.max = PAGE_ROWS;
    store_read(d->store, &c->read);
}

static void
check_post(struct control_call *call, void *arg)
{
    struct api *api = arg;
    const char *file = control_body_str(call, "file");

    if (file == NULL || file[0] != '/') {
        control_error(call, ERR_INVAL, "file: expected an absolute path");
        return;
    }
    struct check *c = xcalloc(1, sizeof(*c));
    c->api = api;
    c->call = call;
    c->next = api->checks;
    api->checks = c;
    c->file = xstrdup(file);
    c->now = daemon_settings_take(api->d);
    c->begun_at = clock_now(loop_clock(api->d->loop));
    c->job.run = load_run;
    c->job.done = load_done;
    workers_submit(api->d->workers, &c->job);
}

void
api_checks_stop(struct api *api)
{
    for (struct check *c = api->checks, *next; c != NULL; c = next) {
        next = c->next;
        if (timer_is_set(&c->timer))
            answer(c);
    }
}

const struct control_route api_check_routes[] = {
    {"POST", API_CHECK, check_post, false},
};
const size_t api_n_check_routes = N_ELEMENTS(api_check_routes);
