/*
 * api_verbs - what api_verbs.c (the call, the count, slices of one operation) and api_verbs_each.c
 * (slices that look at each recipient) share: one verb under way.
 */
#pragma once

#include "relayd/api_internal.h"

#define VERB_SLICE 500   /* recipients a slice: some milliseconds of the writer */
#define VERB_NOW_MAX 500 /* up to so many are done before the answer */

enum verb { VERB_RETRY, VERB_HOLD, VERB_RELEASE, VERB_REMOVE, VERB_BOUNCE, VERB_REROUTE };

struct verb_run {
    struct api *api;
    enum verb verb;
    struct control_call *call; /* to be answered, or NULL */
    struct api_job *job;
    struct api_filter filter;
    char route[64], reason[256], who[80];
    uint64_t matched; /* when it began */
    struct queue_key after;
    struct store_read read;
    struct store_op op;
    struct queue_touched touched[VERB_SLICE];
    bool more;
    /* a slice that looks at each */
    uint64_t *ids; /* of those in hand: the messages to look at; NULL: the whole queue */
    size_t n_ids, at_id;
    struct queue_page pages[VERB_SLICE];
    size_t n_pages, n_rows;
    struct queue_change changes[VERB_SLICE];
    char *attempts[VERB_SLICE];
    uint64_t lanes[VERB_SLICE];
    /* the hold row of a whole domain */
    struct store_fact fact;
    char fact_key[DOMAIN_BUF + 8];
    bool by_row; /* it was written or taken away */
};

/* ---- api_verbs.c ---- */

/* A slice is done: the next one, or the end, which frees the run. */
void verb_went_on(struct verb_run *run);
/* The end: the store failed. Frees the run. */
void verb_failed(struct verb_run *run, enum err_code code, const char *text);
/* run->touched[0..n) were changed in transaction `txn`: count them and tell the schedule. */
void verb_touched(struct verb_run *run, size_t n, uint64_t txn);

/* ---- api_verbs_each.c ---- */

/* Must its slices look at each recipient? */
bool verb_is_each(const struct verb_run *run);
/* The next slice; goes on with verb_went_on() or verb_failed(), perhaps before it returns. */
void verb_each_slice(struct verb_run *run);
