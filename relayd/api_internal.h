/*
 * api_internal - what the api_*.c files share. Paths and field names: relayd/ops/api.h; what each
 * call answers: relayd/ops/README.md.
 *
 *   api.c status, health, reload    api_queue.c list, show, body    api_verbs*.c retry, hold, ...
 *   api_explain*.c explain    api_route.c routes, suspend    api_trace.c trace
 *   api_jobs.c long jobs and verify    api_check.c, api_diff.c a new configuration against the mail
 *   api_learned.c pinned routes
 */
#pragma once

#include "relayd/daemon.h"
#include "relayd/ops/api.h"

#define API_RATE_STEP_MS (10 * SECOND)
#define API_RATE_STEPS 361             /* an hour and one */
#define API_OLDER_MAX_MS (10000 * DAY) /* more is a mistake: no queue is that old */
#define API_STATUS_SITES_MAX 20        /* those in trouble, the worst ones: it is one screen */
#define API_JOBS_KEPT 50               /* finished jobs that can still be asked for */

enum api_rate { RATE_ACCEPTED, RATE_DELIVERED, RATE_DEFERRED, RATE_FAILED, RATE__COUNT };

struct api_job;
struct explain;

struct api {
    struct daemon *d;
    struct timer rate_timer;
    uint64_t rates[API_RATE_STEPS][RATE__COUNT]; /* totals, a ring */
    size_t rate_at, n_rates;
    struct api_job *jobs; /* newest first */
    uint64_t last_job;
    struct check *checks;     /* under way */
    struct explain *explains; /* that wait for DNS */
};

extern const struct control_route api_queue_routes[], api_verb_routes[], api_route_routes[],
    api_trace_routes[], api_job_routes[], api_check_routes[], api_learned_routes[],
    api_explain_routes[];
extern const size_t api_n_queue_routes, api_n_verb_routes, api_n_route_routes, api_n_trace_routes,
    api_n_job_routes, api_n_check_routes, api_n_learned_routes, api_n_explain_routes;

/* Read {id} of the path; false: the call has been answered. */
bool api_id(struct control_call *call, uint64_t *ret);
/* The same for any text. */
bool api_id_parse(struct control_call *call, struct span text, uint64_t *ret);
void api_add_id(cJSON *object, const char *name, const struct daemon *d, uint64_t id);
void api_add_enh(cJSON *object, const char *name, struct enh e);

/* An ITEM of the queue list from a row. */
cJSON *api_item(struct daemon *d, const struct queue_row *row);
/* Is his domain on hold now? A row of a page says what was so when it was read. */
bool api_domain_held(const struct daemon *d, const struct queue_rcpt *rcpt);
/* The state word of a recipient. */
const char *api_state(const struct daemon *d, const struct queue_rcpt *rcpt, bool domain_held);

/* End the checks that only wait for facts (api_check.c); others end by themselves. */
void api_checks_stop(struct api *api);

/* The routes and how they are (api_route.c); the caller owns it. */
cJSON *api_routes(struct daemon *d);

/* The filter of a call, from its query (GET) or body (POST). Texts point into `text`. */
struct api_filter {
    struct queue_filter filter;
    bool any_field; /* something was named */
    enum { API_ANY_STATE, API_SCHEDULED, API_IN_HAND, API_HELD } state;
    char domain[DOMAIN_BUF];
    char sender[512];
};
/* False: the call has been answered. */
bool api_filter_parse(struct api *api, struct control_call *call, bool from_body,
                      struct api_filter *ret);
bool api_filter_keeps(const struct api_filter *f, const char *state);

/* Long work that a call started; the loop drives it in slices. */
struct api_job {
    struct api *api;
    struct api_job *next;
    uint64_t no;
    char id[32];
    const char *kind;
    enum { JOB_RUNNING, JOB_DONE, JOB_FAILED } state;
    uint64_t done, matched;
    char error[256];
    struct control_call *call; /* still to be answered, or NULL */
    struct queue_verify *verify;
    struct queue_verify_result result;
    struct store_read read;
};
struct api_job *api_job_new(struct api *api, const char *kind);
void api_jobs_free(struct api *api);
void explains_stop(struct api *api); /* they are not answered any more */
