/*
 * api_verbs - acting on the queue: retry, hold, release, remove, bounce, reroute; on one message or
 * on all that match. A verb counts first, answers with the number, and then works in slices:
 *
 *    count (list pages) ─▶ answer {matched, job} ─▶ slice ─▶ slice ─▶ ... ─▶ done
 *                             few: answered when they are done, without a job
 *
 * What a slice does is one store operation on all that the queue finds to match, or looks at each
 * recipient (api_verbs_each.c).
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/api_verbs.h"

static const char *const verb_names[] = {"retry", "hold", "release", "remove", "bounce", "reroute"};

/* ---- the end ---- */

static void
run_free(struct verb_run *run)
{
    for (size_t i = 0; i < VERB_SLICE; i++)
        free(run->attempts[i]);
    for (size_t i = 0; i < run->n_pages; i++)
        queue_page_release(&run->pages[i]);
    free(run->ids);
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

/* At the end with what was done: of those that matched when it began, some may have left since, or
 * be in a transaction, which cannot be bounced. */
static void
run_answer(struct verb_run *run)
{
    if (run->call == NULL)
        return;
    bool running = run->job->state == JOB_RUNNING;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, "matched", (double)(running ? run->matched : run->job->done));
    if (running)
        cJSON_AddStringToObject(json, "job", run->job->id);
    else
        cJSON_AddNullToObject(json, "job");
    control_json(run->call, 200, json);
    run->call = NULL;
}

void
verb_failed(struct verb_run *run, enum err_code code, const char *text)
{
    run->job->state = JOB_FAILED;
    snprintf(run->job->error, sizeof(run->job->error), "%s", text);
    if (run->call != NULL)
        control_error(run->call, code, "%s", text);
    run_free(run);
}

static void run_slice(struct verb_run *run);

void
verb_went_on(struct verb_run *run)
{
    struct daemon *d = run->api->d;
    if (run->more && d->phase == DAEMON_RUNNING) {
        run_slice(run);
        return;
    }
    run->job->state = JOB_DONE;
    if (run->by_row)
        run->job->done = run->matched; /* those too that no row of their own held */
    run_log(run, run->job->done);
    run_answer(run);
    run_free(run);
}

/* ---- slices of one operation ---- */

/* What became of each that was accepted stands in the log: no attempt line comes for these. */
static void
log_removed(const struct verb_run *run, size_t n)
{
    const struct daemon *d = run->api->d;

    for (size_t i = 0; i < n; i++) {
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

void
verb_touched(struct verb_run *run, size_t n, uint64_t txn)
{
    run->job->done += n;
    if (run->verb == VERB_REMOVE)
        log_removed(run, n);
    schedule_touched(run->api->d->schedule, run->touched, n, txn);
    if (run->verb == VERB_RETRY)
        schedule_retried(run->api->d->schedule, run->touched, n);
}

static void
admin_done(struct store_op *op)
{
    struct verb_run *run = CONTAINER_OF(op, struct verb_run, op);

    if (op->code != ERR_OK) {
        verb_failed(run, op->code, op->err.text);
        return;
    }
    run->after = op->admin.after;
    run->more = op->admin.more;
    verb_touched(run, op->admin.n_touched, op->txn_id);
    verb_went_on(run);
}

/* The states, as the queue knows them, of what the verb may act on; 0: nothing. The queue calls
 * what waits for a held domain held; what is in hand it cannot tell from what waits. */
static unsigned
states_of(const struct api_filter *f, enum verb verb)
{
    unsigned waiting = 1u << QUEUE_FRESH | 1u << QUEUE_SCHEDULED, held = 1u << QUEUE_HELD;
    unsigned may = verb == VERB_RELEASE ? held
                   : verb == VERB_RETRY || verb == VERB_HOLD || verb == VERB_REROUTE
                       ? waiting
                       : waiting | held;
    switch (f->state) {
    case API_ANY_STATE:
        return may;
    case API_HELD:
        return may & held;
    case API_SCHEDULED:
        return may & waiting;
    case API_IN_HAND: /* those of a held domain whose transaction has not ended, too */
        return (may & waiting) != 0 ? waiting | held : 0;
    }
    return 0;
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
    run->op.admin.max = VERB_SLICE;
    store_submit(run->api->d->store, &run->op);
}

static void
run_slice(struct verb_run *run)
{
    if (verb_is_each(run))
        verb_each_slice(run);
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
        verb_failed(run, op->code, op->err.text);
        return;
    }
    if (run->verb == VERB_HOLD)
        schedule_hold_domain(d->schedule, run->filter.filter.domain, span_str(run->reason));
    else
        schedule_release_domain(d->schedule, run->filter.filter.domain);
    run->by_row = true;
    if (run->verb == VERB_RELEASE) {
        run_slice(run); /* those that were held one by one, too */
        return;
    }
    run->more = false;
    verb_went_on(run);
}

static bool
is_whole_domain(const struct verb_run *run)
{
    const struct queue_filter *f = &run->filter.filter;
    bool whole = run->filter.state == API_ANY_STATE;
    if (run->verb == VERB_RELEASE)
        whole |= run->filter.state == API_HELD;
    else if (run->verb != VERB_HOLD)
        return false;
    return whole && f->domain.n > 0 && f->id == 0 && f->sender.n == 0 && !f->sender_null &&
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
run_begin(struct verb_run *run)
{
    run->job->matched = run->matched;
    if (run->matched > VERB_NOW_MAX)
        run_answer(run);
    if (is_whole_domain(run))
        hold_row(run);
    else
        run_slice(run);
}

static void
counted(struct store_read *read)
{
    struct verb_run *run = CONTAINER_OF(read, struct verb_run, read);
    const struct daemon *d = run->api->d;

    if (read->code != ERR_OK) {
        verb_failed(run, read->code, read->err.text);
        return;
    }
    run->matched += read->list.page.n_matched;
    bool more = read->list.page.more;
    queue_page_release(&read->list.page);
    if (d->phase != DAEMON_RUNNING) {
        verb_failed(run, ERR_AGAIN, "the daemon is stopping");
        return;
    }
    if (more) {
        store_read(d->store, read);
        return;
    }
    if (run->filter.state == API_SCHEDULED) {
        /* Not one snapshot: near enough for a job's total, and few are told when they are done. */
        size_t in_hand = schedule_in_hand_list(d->schedule, &run->filter.filter, NULL, NULL);
        run->matched -= in_hand < run->matched ? in_hand : run->matched;
    }
    run_begin(run);
}

static void
run_count(struct verb_run *run)
{
    const struct daemon *d = run->api->d;

    if (run->filter.filter.states == 0) {
        verb_went_on(run);
    } else if (run->filter.state == API_IN_HAND) {
        run->matched =
            schedule_in_hand_list(d->schedule, &run->filter.filter, &run->ids, &run->n_ids);
        if (run->n_ids > 0)
            run_begin(run);
        else
            verb_went_on(run);
    } else {
        run->read = (struct store_read){.kind = STORE_READ_LIST, .done = counted};
        run->read.list.filter = run->filter.filter;
        store_read(d->store, &run->read);
    }
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
    run->job = api_job_new(api, verb_names[verb]);
    run_count(run);
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
