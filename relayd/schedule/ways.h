/*
 * ways - the routes that a recipient may take, in the order in which they are tried.
 *
 *   the map's rule ─▶ route, fallbacks, without what a fence forbids      (policy/route)
 *     ─▶ first what the administrator wants: a message's own route, a pin
 *     ─▶ else last what has been learned to refuse us, under a rule with `learn`
 *     ─▶ and behind the others what the sender's SPF record does not let send
 *
 * Planning, rerouting and explain ask here, so they cannot tell different stories. Nothing is
 * looked up: what is missing is named, and the caller asks again with it.
 */
#pragma once

#include "policy/learn.h"
#include "policy/route.h"
#include "policy/spf.h"
#include "relayd/facts.h"
#include "relayd/relay.h"

struct learned;

/* What is known when the order is asked for. */
struct ways_ask {
    const struct config *config;
    struct learned *learned; /* NULL: nothing is learned */
    struct route_query query;
    uint64_t id, no;    /* who asks, since one recipient at a time may probe; 0: nobody */
    struct span wanted; /* the administrator's route for this message, or empty */
    struct span pinned; /* ... for this domain */
    const struct facts_site *site; /* NULL: not known, then only the domain's routes are learned */
    struct rcpt_spf spf;
    const struct rcpt_decided *decided; /* not NULL: the map has been asked, do not ask again */
};

struct way {
    unsigned route; /* of config.routes */
    enum learn_advice advice;
    const struct learn_entry *entry; /* that advises; valid until something is learned; or NULL */
    bool spf_fails; /* the sender's SPF record does not let it send, and the rule minds */
};

struct ways {
    struct route_decision decision; /* ROUTE_FACTS: `needs` must be looked up first */
    size_t n;                       /* none but for ROUTE_DELIVER */
    struct way list[CONFIG_ROUTES_MAX];
    bool wanted, pinned; /* the first one is what the administrator wants */
    bool srs;            /* the sender is rewritten: SPF is not in question */
};

/* Decide. The result points into ask->config. */
void ways_find(const struct ways_ask *ask, struct ways *ret);

/* The addresses that the world sees, of routes among which SPF could choose, and whose they are;
 * returns their number, at most WAYS_SPF_MAX. None: SPF is not in question. */
#define WAYS_SPF_MAX (2 * CONFIG_ROUTES_MAX)
size_t ways_spf_ips(const struct config *config, const struct ways *ways,
                    struct ip ips[static WAYS_SPF_MAX], unsigned routes[static WAYS_SPF_MAX]);
/* Put the results by address together by route: a route fails when all its addresses do, since it
 * is not known which one will be used. */
struct rcpt_spf ways_spf(const enum spf_result *results, const unsigned *routes, size_t n);
/* The same from the addresses that were asked for: since then routes may have changed places. */
struct rcpt_spf ways_spf_found(const struct config *config, const struct ip *ips,
                               const enum spf_result *results, size_t n);
