/*
 * api_verbs - acting on the queue: retry, hold, release, remove, bounce, reroute; on one message or
 * on all that match. A verb counts first, answers with the number, and then works in slices:
 *
 *    count (list pages) ─▶ answer {matched, job} ─▶ slice ─▶ slice ─▶ ... ─▶ done
 *                             few: answered when they are done, without a job
 *
 * retry, hold, release and remove are one store operation a slice; bounce, reroute and a hold with
 * a reason look at each recipient: a bounce goes through record like any failure, the others note
 * the route or the reason beside its attempts.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/api_internal.h"
#include "relayd/record/attempts.h"

#define SLICE 500
#define NOW_MAX 500 /* up to so many are done before the answer */

enum verb { VERB_RETRY, VERB_HOLD, VERB_RELEASE, VERB_REMOVE, VERB_BOUNCE, VERB_REROUTE };
static const char *const verb_names[] = {"retry", "hold", "release", "remove", "bounce", "reroute"};

struct verb_run {
    struct api *api;
    enum verb verb;
    struct control_call *call; /* to be answered, or NULL */
    struct api_job *job;
    struct api_filter filter;
    char route[64], reason[256], who[80];
    uint64_t matched;
    struct queue_key after;
    struct store_read read;
    struct store_op op;
    struct queue_touched touched[SLICE];
    struct queue_change changes[SLICE]; /* reroute */
    char *attempts[SLICE];
    uint64_t lanes[SLICE];
    bool more;
    /* the hold row of a whole domain */
    struct store_fact fact;
    char fact_key[DOMAIN_BUF + 8];
};

/* ---- the end ---- */

static void
run_free(struct verb_run *run)
{
    for (size_t i = 0; i < SLICE; i++)
        free(run->attempts[i]);
    free(run);
}

static void
run_log(const struct verb_run *run, uint64_t n)
{
    struct log_line line;
    log_begin(run->api->d->log, &line, LOG_INFO, "queue_verb");
    log_cstr(&line, "verb", verb_names[run->verb]);
    log_uint(&line, "recipients", n);
    log_cstr(&line, "domain", run->filter.domain);
    log_cstr(&line, "route", run->route);
    log_cstr(&line, "reason", run->reason);
    log_cstr(&line, "who", run->who);
    log_end(&line);
}

static void
run_answer(struct verb_run *run)
{
    if (run->call == NULL)
        return;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "matched", (double)run->matched);
    if (run->job->state == JOB_RUNNING)
        cJSON_AddStringToObject(json, "job", run->job->id);
    else
        cJSON_AddNullToObject(json, "job");
    control_json(run->call, 200, json);
    run->call = NULL;
}

static void
run_failed(struct verb_run *run, enum err_code code, const char *text)
{
    run->job->state = JOB_FAILED;
    snprintf(run->job->error, sizeof(run->job->error), "%s", text);
    if (run->call != NULL)
        control_error(run->call, code, "%s", text);
    run_free(run);
}

static void run_slice(struct verb_run *run);

static void
run_went_on(struct verb_run *run)
{
    struct daemon *d = run->api->d;
    if (run->more && d->phase == DAEMON_RUNNING) {
        run_slice(run);
        return;
    }
    run->job->state = JOB_DONE;
    run_log(run, run->job->done);
    run_answer(run);
    run_free(run);
}

/* ---- slices of one operation ---- */

/* What became of each that was accepted stands in the log: no attempt line comes for these. */
static void
log_removed(const struct verb_run *run)
{
    const struct daemon *d = run->api->d;

    for (size_t i = 0; i < run->op.admin.n_touched; i++) {
        struct log_line line;
        char text[QUEUE_ID_TEXT + 1], id[RELAY_ID_TEXT];
        snprintf(id, sizeof(id), "%s.%s", d->settings->config->node.name,
                 queue_id_format(run->touched[i].id, text));
        log_begin(d->log, &line, LOG_INFO, "removed");
        log_cstr(&line, "msg", id);
        log_uint(&line, "no", run->touched[i].no);
        log_cstr(&line, "who", run->who);
        log_end(&line);
    }
}

static void
admin_done(struct store_op *op)
{
    struct verb_run *run = CONTAINER_OF(op, struct verb_run, op);
    struct daemon *d = run->api->d;

    if (op->code != ERR_OK) {
        run_failed(run, op->code, op->err.text);
        return;
    }
    run->job->done += op->admin.n_touched;
    if (run->verb == VERB_REMOVE)
        log_removed(run);
    run->after = op->admin.after;
    run->more = op->admin.more;
    schedule_touched(d->schedule, run->touched, op->admin.n_touched, op->txn_id);
    if (run->verb == VERB_RETRY)
        schedule_retried(d->schedule, run->touched, op->admin.n_touched);
    run_went_on(run);
}

static unsigned
states_of(const struct api_filter *f, enum verb verb)
{
    unsigned waiting = 1u << QUEUE_FRESH | 1u << QUEUE_SCHEDULED, held = 1u << QUEUE_HELD;
    unsigned all = f->state == API_HELD        ? held
                   : f->state == API_ANY_STATE ? waiting | held
                                               : waiting;
    if (verb == VERB_RETRY || verb == VERB_HOLD || verb == VERB_REROUTE)
        return all & waiting;
    return verb == VERB_RELEASE ? all & held : all;
}

static void
admin_slice(struct verb_run *run)
{
    static const enum queue_verb verbs[] = {QUEUE_DEFER, QUEUE_HOLD, QUEUE_RELEASE, QUEUE_FINISH};
    msec_t now = clock_wall(loop_clock(run->api->d->loop));

    run->op = (struct store_op){.kind = STORE_ADMIN, .done = admin_done};
    run->op.admin.filter = run->filter.filter;
    run->op.admin.change = (struct queue_change){
        .verb = verbs[run->verb], .due_at = now, .result = QUEUE_REMOVED, .finished_at = now};
    run->op.admin.after = run->after;
    run->op.admin.touched = run->touched;
    run->op.admin.max = SLICE;
    store_submit(run->api->d->store, &run->op);
}

/* ---- slices that look at each recipient ---- */

static void
give_up(struct verb_run *run, const struct queue_page *page)
{
    struct daemon *d = run->api->d;
    struct outcome o;
    outcome_set(&o, OUTCOME_FAILED, ORIGIN_LOCAL, "queue", "5.0.0",
                "returned to its sender by the administrator%s%s",
                run->reason[0] == '\0' ? "" : ": ", run->reason);
    for (size_t i = 0; i < page->n_rows; i++)
        run->job->done += schedule_give_up(d->schedule, &page->rows[i], &o);
}

static void
noted(struct store_op *op)
{
    struct verb_run *run = CONTAINER_OF(op, struct verb_run, op);
    size_t n = 0;

    if (op->code != ERR_OK) {
        run_failed(run, op->code, op->err.text);
        return;
    }
    for (size_t i = 0; i < op->outcomes.n_changes; i++) {
        const struct queue_change *c = &run->changes[i];
        if (c->code == ERR_OK)
            run->touched[n++] = (struct queue_touched){.id = c->id,
                                                       .no = c->no,
                                                       .revision = c->new_revision,
                                                       .lane = run->lanes[i],
                                                       .due_at = c->due_at};
    }
    run->job->done += n;
    schedule_touched(run->api->d->schedule, run->touched, n, op->txn_id);
    run_went_on(run);
}

/* Each keeps its attempts; noted in them is the wanted route, or why it is held. */
static bool
note_each(struct verb_run *run, const struct queue_page *page)
{
    struct daemon *d = run->api->d;
    msec_t now = clock_wall(loop_clock(d->loop));
    bool hold = run->verb == VERB_HOLD;
    struct outcome held;
    size_t n = 0;

    outcome_set(&held, OUTCOME_DEFERRED, ORIGIN_LOCAL, "queue", "4.2.0", "%s", run->reason);
    for (size_t i = 0; i < page->n_rows; i++) {
        const struct queue_rcpt *rcpt = &page->rows[i].rcpt;
        struct strbuf bytes = STRBUF_INIT;
        struct attempts a;
        if (attempts_decode(rcpt->attempts, &a, NULL) != ERR_OK && !hold)
            continue;
        if (hold)
            attempts_add(&a, &held, SPAN_NONE, SPAN_NONE, now);
        else
            a.route = span_str(run->route);
        attempts_encode(&a, &bytes);
        struct span attempts = strbuf_span(&bytes);
        free(run->attempts[n]);
        run->attempts[n] = strbuf_take(&bytes);
        run->lanes[n] = page->rows[i].lane;
        run->changes[n] = (struct queue_change){.id = rcpt->id,
                                                .no = rcpt->no,
                                                .revision = rcpt->revision,
                                                .verb = hold ? QUEUE_HOLD : QUEUE_DEFER,
                                                .due_at = now,
                                                .attempts_set = true,
                                                .attempts = span_of(run->attempts[n], attempts.n)};
        n++;
    }
    if (n == 0)
        return false;
    run->op = (struct store_op){.kind = STORE_OUTCOMES, .done = noted};
    run->op.outcomes.changes = run->changes;
    run->op.outcomes.n_changes = n;
    store_submit(d->store, &run->op);
    return true;
}

static void
each_page_done(struct store_read *read)
{
    struct verb_run *run = CONTAINER_OF(read, struct verb_run, read);
    struct queue_page *page = &read->list.page;
    bool pending = false;

    if (read->code != ERR_OK) {
        run_failed(run, read->code, read->err.text);
        return;
    }
    run->after = read->list.after;
    run->more = page->more;
    if (run->verb == VERB_BOUNCE)
        give_up(run, page);
    else
        pending = note_each(run, page);
    queue_page_release(page);
    if (!pending)
        run_went_on(run);
}

static void
each_slice(struct verb_run *run)
{
    run->read = (struct store_read){.kind = STORE_READ_LIST, .done = each_page_done};
    run->read.list.filter = run->filter.filter;
    run->read.list.after = run->after;
    run->read.list.max = SLICE;
    store_read(run->api->d->store, &run->read);
}

static void
run_slice(struct verb_run *run)
{
    bool each = run->verb == VERB_BOUNCE || run->verb == VERB_REROUTE ||
                (run->verb == VERB_HOLD && run->reason[0] != '\0');
    if (each)
        each_slice(run);
    else
        admin_slice(run);
}

/* ---- the start ---- */

/* A whole domain is held by one row: also what comes later. */
static void
fact_done(struct store_op *op)
{
    struct verb_run *run = CONTAINER_OF(op, struct verb_run, op);
    struct daemon *d = run->api->d;

    if (op->code != ERR_OK) {
        run_failed(run, op->code, op->err.text);
        return;
    }
    if (run->verb == VERB_HOLD)
        schedule_hold_domain(d->schedule, run->filter.filter.domain, span_str(run->reason));
    else
        schedule_release_domain(d->schedule, run->filter.filter.domain);
    if (run->verb == VERB_RELEASE) {
        run_slice(run); /* those that were held one by one, too */
        return;
    }
    run->job->done = run->matched;
    run->more = false;
    run_went_on(run);
}

static bool
is_whole_domain(const struct verb_run *run)
{
    const struct queue_filter *f = &run->filter.filter;
    return f->domain.n > 0 && f->id == 0 && f->sender.n == 0 && !f->sender_null &&
           f->arrived_before == 0;
}

static void
hold_row(struct verb_run *run)
{
    snprintf(run->fact_key, sizeof(run->fact_key), QUEUE_HOLD_SPACE "%s", run->filter.domain);
    run->fact = (struct store_fact){.key = span_str(run->fact_key),
                                    .value = span_str(run->reason),
                                    .remove = run->verb == VERB_RELEASE};
    run->op = (struct store_op){.kind = STORE_OUTCOMES, .done = fact_done};
    run->op.outcomes.facts = &run->fact;
    run->op.outcomes.n_facts = 1;
    store_submit(run->api->d->store, &run->op);
}

static void
counted(struct store_read *read)
{
    struct verb_run *run = CONTAINER_OF(read, struct verb_run, read);
    bool domain = (run->verb == VERB_HOLD || run->verb == VERB_RELEASE) && is_whole_domain(run);

    if (read->code != ERR_OK) {
        run_failed(run, read->code, read->err.text);
        return;
    }
    run->matched += read->list.page.n_matched;
    bool more = read->list.page.more;
    queue_page_release(&read->list.page);
    if (run->api->d->phase != DAEMON_RUNNING) {
        run_failed(run, ERR_AGAIN, "the daemon is stopping");
        return;
    }
    if (more) {
        store_read(run->api->d->store, read);
        return;
    }
    run->job->matched = run->matched;
    if (run->matched > NOW_MAX)
        run_answer(run);
    if (domain)
        hold_row(run);
    else
        run_slice(run);
}

static void
verb_post(struct control_call *call, struct api *api, enum verb verb)
{
    struct verb_run *run = xcalloc(1, sizeof(*run));
    const char *route = control_body_str(call, API_F_ROUTE);
    const char *reason = control_body_str(call, API_F_REASON);

    run->api = api;
    run->verb = verb;
    run->call = call;
    if (!api_filter_parse(api, call, true, &run->filter)) {
        free(run);
        return;
    }
    if (!run->filter.any_field && !api_bool(control_body(call), API_F_ALL)) {
        control_error(call, ERR_INVAL, "name an id or a filter, or say all");
        free(run);
        return;
    }
    if (route != NULL && config_route_find(api->d->settings->config, span_str(route)) < 0) {
        control_error(call, ERR_INVAL, "route: there is none named %.60s", route);
        free(run);
        return;
    }
    snprintf(run->route, sizeof(run->route), "%s", route == NULL ? "" : route);
    snprintf(run->reason, sizeof(run->reason), "%s", reason == NULL ? "" : reason);
    snprintf(run->who, sizeof(run->who), "%s", control_who(call));
    run->filter.filter.states = states_of(&run->filter, verb);
    if (verb == VERB_RELEASE && is_whole_domain(run))
        run->filter.filter.states = 0; /* all that its row holds */
    run->job = api_job_new(api, verb_names[verb]);
    if (run->filter.filter.states == 0 && verb != VERB_RELEASE) {
        run->more = false;
        run_went_on(run);
        return;
    }
    run->read = (struct store_read){.kind = STORE_READ_LIST, .done = counted};
    run->read.list.filter = run->filter.filter;
    store_read(api->d->store, &run->read);
}

static void
retry_post(struct control_call *call, void *arg)
{
    verb_post(call, arg, VERB_RETRY);
}
static void
hold_post(struct control_call *call, void *arg)
{
    verb_post(call, arg, VERB_HOLD);
}
static void
release_post(struct control_call *call, void *arg)
{
    verb_post(call, arg, VERB_RELEASE);
}
static void
remove_post(struct control_call *call, void *arg)
{
    verb_post(call, arg, VERB_REMOVE);
}
static void
bounce_post(struct control_call *call, void *arg)
{
    verb_post(call, arg, VERB_BOUNCE);
}
static void
reroute_post(struct control_call *call, void *arg)
{
    verb_post(call, arg, VERB_REROUTE);
}

const struct control_route api_verb_routes[] = {
    {"POST", API_QUEUE_RETRY, retry_post, false},
    {"POST", API_QUEUE_HOLD, hold_post, false},
    {"POST", API_QUEUE_RELEASE, release_post, false},
    {"POST", API_QUEUE_REMOVE, remove_post, false},
    {"POST", API_QUEUE_BOUNCE, bounce_post, false},
    {"POST", API_QUEUE_REROUTE, reroute_post, false},
};
const size_t api_n_verb_routes = N_ELEMENTS(api_verb_routes);
