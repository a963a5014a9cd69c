/*
 * api_explain - `explain`: asks the functions that planning asks, so it cannot tell another story.
 *
 *    explain_get ─▶ explain_go ─▶ ways_find ─▶ something missing? ─▶ look it up ─▶ explain_go
 *                                     └▶ no, or it takes too long ─▶ explain_tell
 */
#include "relayd/api_explain.h"

#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"

static void explain_go(struct explain *e, const struct facts_domain *facts);

static void
explain_free(struct explain *e)
{
    struct daemon *d = e->api->d;
    struct explain **link = &e->api->explains;

    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    facts_cancel(e->facts);
    timer_cancel(loop_clock(d->loop), &e->late);
    daemon_settings_give(d, e->settings);
    free(e->spf_why);
    free(e);
}

void
explains_stop(struct api *api)
{
    while (api->explains != NULL)
        explain_free(api->explains);
}

static void
on_late(void *arg)
{
    struct explain *e = arg;
    facts_cancel(e->facts);
    e->facts = NULL;
    e->given_up = true;
    explain_go(e, NULL);
}

static void
on_domain(void *arg, const struct facts_domain *facts)
{
    struct explain *e = arg;
    e->facts = NULL;
    explain_go(e, facts);
}

static void
on_site(void *arg, const struct facts_site *site)
{
    struct explain *e = arg;
    e->facts = NULL;
    e->site = *site;
    e->site_known = true;
    explain_go(e, NULL);
}

static void
on_spf(void *arg, const enum spf_result *results)
{
    struct explain *e = arg;

    e->spf_why = xcalloc(e->n_spf, sizeof(*e->spf_why));
    for (size_t i = 0; i < e->n_spf; i++) {
        e->spf_results[i] = results[i];
        snprintf(e->spf_why[i], sizeof(*e->spf_why), "%s", facts_spf_why(e->facts, i));
    }
    e->facts = NULL;
    e->spf_known = true;
    explain_go(e, NULL);
}

void
explain_ask(const struct explain *e, const struct facts_domain *facts, struct ways_ask *ret)
{
    const struct daemon *d = e->api->d;
    const struct pin *pin = schedule_pinned(d->schedule, span_str(e->domain));

    *ret = (struct ways_ask){
        .config = e->settings->config,
        .learned = d->learned,
        .query = e->query,
        .pinned = pin == NULL ? SPAN_NONE : span_str(pin->route),
        .site = e->site_known ? &e->site : NULL,
    };
    ret->query.facts = facts == NULL ? NULL : &facts->route;
    if (e->spf_known)
        ret->spf = ways_spf(e->spf_results, e->spf_routes, e->n_spf);
}

static bool
goes_direct(const struct explain *e, const struct ways *ways)
{
    for (size_t i = 0; i < ways->n; i++)
        if (e->settings->config->routes[ways->list[i].route].hop == NULL)
            return true;
    return false;
}

/* Facts that a rule asks for: those given, else from the cache. NULL: a look-up is under way, or,
 * when e->given_up, they cannot be had. */
static const struct facts_domain *
find_facts(struct explain *e, const struct facts_domain *given, struct facts_domain *buf,
           struct ways *ways)
{
    struct daemon *d = e->api->d;
    const struct facts_domain *have = given;
    struct ways_ask ask;

    for (;;) {
        explain_ask(e, have, &ask);
        ways_find(&ask, ways);
        if (have != NULL)
            e->dns = have->outcome;
        if (ways->decision.action != ROUTE_FACTS || (have != NULL && !have->ok))
            return have;
        unsigned needs = ways->decision.needs | ROUTE_NEEDS_MX;
        if (!facts_domain_cached(d->facts, e->settings->geoip, e->domain, needs, buf)) {
            if (!e->given_up)
                e->facts = facts_domain_start(d->facts, e->settings->geoip, e->domain, needs,
                                              on_domain, e);
            return have;
        }
        have = buf;
    }
}

/* Look for what is still missing for a delivery; true: something is. */
static bool
find_rest(struct explain *e, const struct ways *ways)
{
    struct daemon *d = e->api->d;

    if (!e->site_known && goes_direct(e, ways)) {
        if (!facts_site_cached(d->facts, e->domain, &e->site)) {
            e->facts = facts_site_start(d->facts, e->domain, on_site, e);
            return true;
        }
        e->site_known = true;
    }
    if (!e->spf_known) {
        e->n_spf = ways_spf_ips(e->settings->config, ways, e->spf_ips, e->spf_routes);
        if (e->n_spf > 0 && e->sender[0] != '\0') {
            e->facts = facts_spf_start(d->facts, e->sender, e->settings->config->node.hostname,
                                       e->spf_ips, e->n_spf, on_spf, e);
            return true;
        }
    }
    return false;
}

static void
explain_go(struct explain *e, const struct facts_domain *given)
{
    struct facts_domain buf;
    struct ways ways;
    struct ways_ask ask;

    if (++e->rounds > EXPLAIN_ROUNDS_MAX)
        e->given_up = true;
    const struct facts_domain *facts = find_facts(e, given, &buf, &ways);
    if (e->facts != NULL || (!e->given_up && find_rest(e, &ways)))
        return;
    explain_ask(e, facts, &ask); /* the site may have just been found */
    ways_find(&ask, &ways);
    explain_tell(e, facts, &ways);
    control_json(e->call, 200, e->json);
    explain_free(e);
}

static void
explain_get(struct control_call *call, void *arg)
{
    struct api *api = arg;
    struct span rcpt = control_query(call, "rcpt"), from = control_query(call, "from");
    struct err err;

    if (rcpt.p == NULL) {
        control_error(call, ERR_INVAL, "rcpt: expected an address");
        return;
    }
    struct explain *e = xcalloc(1, sizeof(*e));
    snprintf(e->rcpt, sizeof(e->rcpt), "%.*s", SPAN_ARG(rcpt));
    snprintf(e->sender, sizeof(e->sender), "%.*s", SPAN_ARG(from));
    if (route_query_set(&e->query, span_str(e->sender), span_str(e->rcpt), e->sender_domain,
                        e->domain, &err) != ERR_OK) {
        control_error(call, ERR_INVAL, "%s", err.text);
        free(e);
        return;
    }
    struct ip ip;
    if (e->domain[0] == '[' && !facts_literal(e->domain, &ip)) {
        control_error(call, ERR_INVAL, "recipient: %s is no address literal", e->domain);
        free(e);
        return;
    }
    e->api = api;
    e->call = call;
    e->settings = daemon_settings_take(api->d);
    e->next = api->explains;
    api->explains = e;
    timer_set(loop_clock(api->d->loop), &e->late, EXPLAIN_WAIT_MS, on_late, e);
    explain_go(e, NULL);
}

const struct control_route api_explain_routes[] = {{"GET", API_EXPLAIN, explain_get, false}};
const size_t api_n_explain_routes = N_ELEMENTS(api_explain_routes);
