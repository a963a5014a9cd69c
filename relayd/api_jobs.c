/*
 * api_jobs - what takes longer than an answer may: verbs on many recipients, verify. A job is kept
 * for a while after its end, so that it can be asked for.
 */
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/api_internal.h"

static void
job_free(struct api_job *job)
{
    queue_verify_free(job->verify);
    free(job);
}

/* Forget the oldest finished ones. */
static void
jobs_trim(struct api *api)
{
    size_t n = 0;
    for (struct api_job **link = &api->jobs; *link != NULL;) {
        struct api_job *job = *link;
        if (++n <= API_JOBS_KEPT || job->state == JOB_RUNNING) {
            link = &job->next;
            continue;
        }
        *link = job->next;
        job_free(job);
    }
}

struct api_job *
api_job_new(struct api *api, const char *kind)
{
    struct api_job *job = xcalloc(1, sizeof(*job));
    jobs_trim(api);
    job->api = api;
    job->kind = kind;
    job->no = ++api->last_job;
    snprintf(job->id, sizeof(job->id), "%s-%llu", kind, (unsigned long long)job->no);
    job->next = api->jobs;
    api->jobs = job;
    return job;
}

void
api_jobs_free(struct api *api)
{
    while (api->jobs != NULL) {
        struct api_job *job = api->jobs;
        api->jobs = job->next;
        job_free(job);
    }
}

static cJSON *
job_json(const struct api_job *job)
{
    static const char *const states[] = {"running", "done", "failed"};
    const struct queue_verify_result *r = &job->result;
    cJSON *json = cJSON_CreateObject();

    cJSON_AddStringToObject(json, "job", job->id);
    cJSON_AddStringToObject(json, "kind", job->kind);
    cJSON_AddStringToObject(json, "state", states[job->state]);
    cJSON_AddNumberToObject(json, "done", (double)(job->verify != NULL ? r->rows : job->done));
    if (job->verify != NULL)
        cJSON_AddNullToObject(json, "total");
    else
        cJSON_AddNumberToObject(json, "total", (double)job->matched);
    cJSON_AddNumberToObject(json, "matched", (double)job->matched);
    cJSON_AddNumberToObject(json, "findings", (double)r->n_findings);
    cJSON *problems = cJSON_AddArrayToObject(json, "problems");
    for (size_t i = 0; i < r->n_texts; i++)
        cJSON_AddItemToArray(problems, cJSON_CreateString(r->texts[i]));
    if (job->error[0] != '\0')
        api_add_span(json, "error", span_str(job->error));
    else
        cJSON_AddNullToObject(json, "error");
    return json;
}

static void
job_get(struct control_call *call, void *arg)
{
    struct api *api = arg;
    struct span id = control_segment(call);
    for (const struct api_job *job = api->jobs; job != NULL; job = job->next) {
        if (span_eq(span_str(job->id), id)) {
            control_json(call, 200, job_json(job));
            return;
        }
    }
    control_error(call, ERR_NOT_FOUND, "no such job");
}

/* ---- verify: one short step after the other, between other reads ---- */

static void
verify_done(struct store_read *read)
{
    struct api_job *job = CONTAINER_OF(read, struct api_job, read);
    struct daemon *d = job->api->d;

    job->result = read->verify.result;
    if (read->code != ERR_OK) {
        job->state = JOB_FAILED;
        snprintf(job->error, sizeof(job->error), "%.255s", read->err.text);
    } else if (job->result.finished || d->phase != DAEMON_RUNNING) {
        job->state = JOB_DONE;
        if (job->result.n_findings > 0)
            log_alert(d->log, "queue_damaged", "verify: %llu findings, the first: %s",
                      (unsigned long long)job->result.n_findings,
                      job->result.n_texts > 0 ? job->result.texts[0] : "");
    } else {
        store_read(d->store, read);
    }
}

static void
verify_post(struct control_call *call, void *arg)
{
    struct api *api = arg;
    struct api_job *job = api_job_new(api, "verify");
    job->verify = queue_verify_new();
    job->read.kind = STORE_READ_VERIFY;
    job->read.done = verify_done;
    job->read.verify.verify = job->verify;
    store_read(api->d->store, &job->read);
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "job", job->id);
    control_json(call, 200, json);
}

const struct control_route api_job_routes[] = {
    {"GET", API_JOBS "/{id}", job_get, false},
    {"POST", API_VERIFY, verify_post, false},
};
const size_t api_n_job_routes = N_ELEMENTS(api_job_routes);
