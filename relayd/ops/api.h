/*
 * api - the names that relayd and relayctl share: paths, JSON fields, and their text forms.
 *
 * README.md in this folder describes each call. Members may be added; none is renamed. Moments are
 * RFC 3339 strings in UTC with milliseconds, durations are integers in milliseconds whose names end
 * in _ms, sizes are integers in bytes.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <cjson/cJSON.h>

#define API_STATUS "/v1/status"
#define API_QUEUE "/v1/queue"             /* GET list; GET /ID; GET /ID/body */
#define API_QUEUE_RETRY "/v1/queue/retry" /* POST, as the next five */
#define API_QUEUE_HOLD "/v1/queue/hold"
#define API_QUEUE_RELEASE "/v1/queue/release"
#define API_QUEUE_REMOVE "/v1/queue/remove"
#define API_QUEUE_BOUNCE "/v1/queue/bounce"
#define API_QUEUE_REROUTE "/v1/queue/reroute"
#define API_EXPLAIN "/v1/explain"
#define API_ROUTES "/v1/routes"
#define API_ROUTES_LEARNED "/v1/routes/learned"
#define API_ROUTES_FORGET "/v1/routes/forget"
#define API_ROUTES_PIN "/v1/routes/pin"
#define API_SUSPEND "/v1/suspend"
#define API_RESUME "/v1/resume"
#define API_TRACE "/v1/trace" /* GET /ID */
#define API_RELOAD "/v1/reload"
#define API_CHECK "/v1/check"
#define API_VERIFY "/v1/verify"
#define API_JOBS "/v1/jobs" /* GET /ID */
#define API_PAGE "/"
#define API_METRICS "/metrics"
#define API_HEALTHZ "/healthz"

#define API_LIST_MAX 1000 /* items of one page of the queue list */
#define API_LIST_DEFAULT 100

/* The filter of queue verbs and of the list, as query parameters and as body members. */
#define API_F_ID "id"
#define API_F_DOMAIN "domain"     /* canonical domain of the recipient */
#define API_F_STATE "state"       /* scheduled | in_hand | held */
#define API_F_SENDER "sender"     /* "<>": the null sender */
#define API_F_OLDER_MS "older_ms" /* arrived longer ago than this */
#define API_F_LIMIT "limit"
#define API_F_AFTER "after" /* the `next` of the page before */
#define API_F_ALL "all"     /* true: everything; the only way to name no filter */
#define API_F_ROUTE "route" /* reroute: where to; not given: ask the map again */
#define API_F_REASON "reason"

/* States of a recipient, as shown. A fresh one (never tried) is scheduled. */
#define API_STATE_SCHEDULED "scheduled"
#define API_STATE_IN_HAND "in_hand"
#define API_STATE_HELD "held"

/* From now on no cJSON call fails for want of memory (policy/base/mem.h). */
void api_json_setup(void);

/* Add a moment; 0 or less gives null. */
void api_add_time(cJSON *object, const char *name, msec_t at);
/* Add bytes of unknown origin as a string: what is not UTF-8 becomes U+FFFD. */
void api_add_span(cJSON *object, const char *name, struct span value);
/* Parse what api_add_time() wrote. */
bool api_time_parse(const char *text, msec_t *ret);

/* Members of an object, with a default when missing or of another type. */
const char *api_str(const cJSON *object, const char *name, const char *otherwise);
double api_num(const cJSON *object, const char *name, double otherwise);
bool api_bool(const cJSON *object, const char *name);
