/*
 * `queue retry|hold|release|remove|bounce|reroute`: acting on one message or on all that match. The
 * daemon answers at once with how many that are, and works through them.
 */
#include <stdio.h>
#include <stdlib.h>

#include "relayd/ctl/ctl.h"
#include "relayd/ctl/verbs.h"
#include "relayd/ops/api.h"

/* The body of the request: an id, a filter, or everything if that was said. */
static cJSON *
selection(struct ctl *ctl)
{
    struct ctl_filter filter;
    bool all = ctl_option(ctl, "--all") != NULL;
    cJSON *body = cJSON_CreateObject();
    ctl_filter_get(ctl, &filter);
    if ((ctl->n_args > 0) + filter.any + all > 1)
        ctl_usage(ctl, "give an ID, or a filter, or --all");
    if (ctl->n_args == 0 && !filter.any && !all)
        ctl_usage(ctl, "what? Give an ID, a filter such as --domain, or --all");
    if (ctl->n_args > 0)
        cJSON_AddStringToObject(body, API_F_ID, ctl->args[0]);
    if (all)
        cJSON_AddTrueToObject(body, API_F_ALL);
    if (filter.domain[0] != '\0')
        cJSON_AddStringToObject(body, API_F_DOMAIN, filter.domain);
    if (filter.state != NULL)
        cJSON_AddStringToObject(body, API_F_STATE, filter.state);
    if (filter.sender != NULL)
        cJSON_AddStringToObject(body, API_F_SENDER, filter.sender);
    if (filter.older_ms[0] != '\0')
        cJSON_AddNumberToObject(body, API_F_OLDER_MS, strtod(filter.older_ms, NULL));
    return body;
}

/* The result of the job, when --wait was given. */
static int
wait_for(struct ctl *ctl, const char *job, cJSON **answer)
{
    cJSON *last;
    int code = ctl_job_wait(ctl, job, &last);
    if (code != 0)
        return code;
    cJSON_Delete(*answer);
    *answer = last;
    if (strcmp(api_str(last, "state", "failed"), "done") == 0)
        return 0;
    ctl_complain("%s", api_str(last, "error", "the job failed"));
    return CTL_REFUSED;
}

static int
act(struct ctl *ctl, const char *path, const char *done, cJSON *body)
{
    cJSON *answer;
    int code = ctl_call(ctl, "POST", path, body, &answer);
    if (code != 0)
        return code;
    double matched = api_num(answer, "matched", 0);
    const char *job = api_str(answer, "job", NULL);
    bool waited = ctl_option(ctl, "--wait") != NULL && job != NULL;
    if (waited)
        code = wait_for(ctl, job, &answer);
    if (ctl->json) {
        int printed = ctl_print_json(answer);
        code = code != 0 ? code : printed;
    } else if (code == 0) {
        printf("%.0f recipient%s %s%s\n", matched, matched == 1 ? "" : "s", done,
               job == NULL || waited ? "" : ", being worked through");
        code = ctl_finish();
    }
    cJSON_Delete(answer);
    /* A message that is not there is an error; a filter that matches nothing is not. */
    if (code == 0 && matched == 0 && ctl->n_args > 0) {
        ctl_complain("%s: nothing there to act on", ctl->args[0]);
        return EX_NOINPUT;
    }
    return code;
}

static int
retry_run(struct ctl *ctl)
{
    return act(ctl, API_QUEUE_RETRY, "due now", selection(ctl));
}

static int
hold_run(struct ctl *ctl)
{
    cJSON *body = selection(ctl);
    const char *reason = ctl_option(ctl, "--reason");
    if (reason != NULL)
        cJSON_AddStringToObject(body, API_F_REASON, reason);
    return act(ctl, API_QUEUE_HOLD, "held", body);
}

static int
release_run(struct ctl *ctl)
{
    return act(ctl, API_QUEUE_RELEASE, "released", selection(ctl));
}

static int
remove_run(struct ctl *ctl)
{
    return act(ctl, API_QUEUE_REMOVE, "removed without a word to the sender", selection(ctl));
}

static int
bounce_run(struct ctl *ctl)
{
    cJSON *body = selection(ctl);
    const char *reason = ctl_option(ctl, "--reason");
    if (reason != NULL)
        cJSON_AddStringToObject(body, API_F_REASON, reason);
    return act(ctl, API_QUEUE_BOUNCE, "given up, the senders are told", body);
}

static int
reroute_run(struct ctl *ctl)
{
    const char *to = ctl_option(ctl, "--to");
    cJSON *body = selection(ctl);
    if (to != NULL)
        cJSON_AddStringToObject(body, API_F_ROUTE, to);
    return act(ctl, API_QUEUE_REROUTE, "rerouted", body);
}

#define COMMON                                       \
    {"--all", NULL, "every recipient in the queue"}, \
    {                                                \
        "--wait", NULL, "come back when all is done" \
    }

static const struct ctl_option plain_options[] = {CTL_FILTER_OPTIONS, COMMON, {0}};
static const struct ctl_option reason_options[] = {
    CTL_FILTER_OPTIONS, COMMON, {"--reason", "TEXT", "why; shown and logged"}, {0}};
static const struct ctl_option reroute_options[] = {
    CTL_FILTER_OPTIONS,
    COMMON,
    {"--to", "ROUTE", "a hop, or direct; without it the map is asked again"},
    {0}};

const struct ctl_verb ctl_queue_act_verbs[] = {
    {"queue retry", "[ID]", 0, 1, "try now", NULL, plain_options, retry_run},
    {"queue hold", "[ID]", 0, 1, "do not try until released",
     "With --domain alone the domain itself is held: mail that comes later waits too.",
     reason_options, hold_run},
    {"queue release", "[ID]", 0, 1, "end a hold, and try", NULL, plain_options, release_run},
    {"queue remove", "[ID]", 0, 1, "throw away; nobody is told", NULL, plain_options, remove_run},
    {"queue bounce", "[ID]", 0, 1, "give up and tell the sender", NULL, reason_options, bounce_run},
    {"queue reroute", "[ID]", 0, 1, "ask the map again and send now, or by the route given",
     "Refusals by other routes are forgotten, so that the first route that fits is tried again.",
     reroute_options, reroute_run},
    {0},
};
