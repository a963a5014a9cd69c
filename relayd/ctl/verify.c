/*
 * `verify`: every invariant of the queue. Through the daemon while one runs, in short steps beside
 * its work; otherwise by opening the queue, which nobody else has then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/config.h"
#include "queue/queue.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/verbs.h"
#include "relayd/ops/api.h"

/* `job` as GET /v1/jobs/JOB gives it. */
static int
report(const struct ctl *ctl, const cJSON *job)
{
    const cJSON *problem;
    double findings = api_num(job, "findings", 0);
    const char *error = api_str(job, "error", NULL);
    bool done = strcmp(api_str(job, "state", "failed"), "done") == 0;
    if (ctl->json) {
        ctl_print_json(job);
    } else {
        cJSON_ArrayForEach(problem, cJSON_GetObjectItemCaseSensitive(job, "problems"))
        {
            if (!cJSON_IsString(problem))
                continue;
            ctl_print_text(ctl, CTL_BAD, problem->valuestring);
            putchar('\n');
        }
        if (done && findings == 0)
            printf("the queue is sound, %.0f records checked\n", api_num(job, "done", 0));
        else if (done)
            printf("%.0f problems in %.0f records\n", findings, api_num(job, "done", 0));
    }
    int code = ctl_finish();
    if (!done)
        ctl_complain("%s", error == NULL ? "verifying failed" : error);
    return !done || findings > 0 ? CTL_REFUSED : code;
}

/* ---- without the daemon ---- */

static enum err_code
walk(struct queue *queue, cJSON *job, struct err *err)
{
    struct queue_verify_result result = {0};
    struct queue_reader *reader;
    enum err_code code = queue_reader_new(queue, &reader, err);
    if (code != ERR_OK)
        return code;
    struct queue_verify *verify = queue_verify_new();
    while (code == ERR_OK && !result.finished) {
        code = queue_verify_step(verify, reader, &result, err);
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\r%s: %llu\033[K", result.table == NULL ? "" : result.table,
                    (unsigned long long)result.rows);
    }
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K");
    cJSON_AddNumberToObject(job, "done", (double)result.rows);
    cJSON_AddNumberToObject(job, "messages", (double)result.messages);
    cJSON_AddNumberToObject(job, "recipients", (double)result.recipients);
    cJSON_AddNumberToObject(job, "findings", (double)result.n_findings);
    cJSON *problems = cJSON_AddArrayToObject(job, "problems");
    for (size_t i = 0; i < result.n_texts; i++)
        cJSON_AddItemToArray(problems, cJSON_CreateString(result.texts[i]));
    queue_verify_free(verify);
    queue_reader_free(reader);
    return code;
}

static int
verify_offline(struct ctl *ctl)
{
    struct err err;
    struct queue *queue;
    int code = 0;
    struct config *config = ctl_config(ctl, true, &code);
    if (config == NULL)
        return code;
    struct queue_options options = {.path = config->queue.path,
                                    .max_bytes = config->queue.max_size_bytes,
                                    .min_free_bytes = -1,
                                    .read_only = true};
    ctl_complain("relayd is not running, so %s is read directly", config->queue.path);
    enum err_code opened = queue_open(&options, &queue, NULL, &err);
    config_free(config);
    if (opened != ERR_OK)
        return ctl_fail(&err);
    cJSON *job = cJSON_CreateObject();
    cJSON_AddStringToObject(job, "kind", "verify");
    enum err_code walked = walk(queue, job, &err);
    queue_close(queue);
    cJSON_AddStringToObject(job, "state", walked == ERR_OK ? "done" : "failed");
    if (walked != ERR_OK)
        cJSON_AddStringToObject(job, "error", err.text);
    code = report(ctl, job);
    cJSON_Delete(job);
    return code;
}

static int
verify_run(struct ctl *ctl)
{
    cJSON *answer, *job;
    int code = ctl_call_quiet(ctl, "POST", API_VERIFY, NULL, &answer);
    if (code == EX_UNAVAILABLE)
        return verify_offline(ctl);
    if (code != 0)
        return code;
    code = ctl_job_wait(ctl, api_str(answer, "job", ""), &job);
    cJSON_Delete(answer);
    if (code != 0)
        return code;
    code = report(ctl, job);
    cJSON_Delete(job);
    return code;
}

const struct ctl_verb ctl_verify_verbs[] = {
    {"verify", "", 0, 0, "check every invariant of the queue",
     "While the daemon runs it does so itself, in short steps; otherwise the queue of the\n"
     "configuration is opened.",
     NULL, verify_run},
    {0},
};
