/*
 * api_explain - what api_explain.c (looks up what is missing), api_explain_tell.c (says what is
 * decided) and api_explain_next.c (and what would become of it now) share; nobody else includes
 * this.
 */
#pragma once

#include "relayd/api_internal.h"
#include "relayd/schedule/ways.h"

/* The verb answers within a second, whatever DNS does. */
#define EXPLAIN_WAIT_MS 800
/* Answers that live for a second only must not be asked for again for ever. */
#define EXPLAIN_ROUNDS_MAX 10

struct explain {
    struct api *api;
    struct explain *next; /* of those that have not been answered */
    struct control_call *call;
    struct settings *settings; /* that the decision points into */
    struct route_query query;
    char sender[SPF_SENDER_MAX], rcpt[512], sender_domain[DOMAIN_BUF], domain[DOMAIN_BUF];
    /* looking up */
    struct facts_query *facts; /* under way */
    struct timer late;
    unsigned rounds;
    bool given_up; /* what is not known by now is not asked for */
    bool site_known, spf_known;
    struct facts_site site;
    struct outcome dns; /* why facts are missing; kind 0: they are not */
    size_t n_spf;
    struct ip spf_ips[WAYS_SPF_MAX];
    unsigned spf_routes[WAYS_SPF_MAX];
    enum spf_result spf_results[WAYS_SPF_MAX];
    char (*spf_why)[SPF_WHY_BYTES]; /* [n_spf]; malloc'd */
    /* telling */
    cJSON *json, *steps;
};

/* The question as planning would put it, with what is known so far. */
void explain_ask(const struct explain *e, const struct facts_domain *facts, struct ways_ask *ret);
/* Everything is known that will be: fill e->json. */
void explain_tell(struct explain *e, const struct facts_domain *facts, const struct ways *ways);
/* One line of the story. */
void explain_step(struct explain *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A route's name, and its hop; NULL: direct. */
const char *explain_route(const struct explain *e, unsigned route);
const struct hop *explain_hop(const struct explain *e, unsigned route);
/* The map says to deliver: by which of the ways, and when? */
void explain_next(struct explain *e, const struct ways *ways);
/* The map says something else, or facts are missing. */
void explain_end(struct explain *e, const struct route_decision *d);
