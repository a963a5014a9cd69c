/*
 * reroute - what becomes of a recipient whose route has failed it: the next route, the other family
 * of addresses, or none; and what that teaches. Called by record through wire.
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/learned.h"

/* How this recipient could go by route `r` right now. */
static enum site_use
route_use(struct schedule *s, struct rcpt *rcpt, const struct route_decision *d, unsigned r)
{
    const struct config *config = s->policy.config;
    enum config_tls tls = route_tls(config, d, r);
    const struct hop *hop = config->routes[r].hop;
    struct facts_site facts;
    struct site *site;

    if (hop != NULL) {
        site = site_get(s, hop->name, hop->name, hop->name, tls);
    } else {
        if (!facts_site_cached(s->env.facts, rcpt->domain.p, &facts))
            return SITE_USE_YES; /* nothing is known against it */
        if (!facts.ok)
            return SITE_USE_NO;
        site = site_get_family(s, config->routes[0].name, facts.key, facts.name, tls, rcpt->family);
    }
    return site_usable(site);
}

msec_t
schedule_fallback_after(struct schedule *s, const struct rcpt *rcpt)
{
    struct ways ways;
    plan_ways(s, rcpt, &ways);
    return ways.n == 0 ? 0 : ways.decision.rule->fallback_after_ms;
}

bool
schedule_route_left(struct schedule *s, const struct rcpt *rcpt)
{
    struct ways ways;
    if (!plan_ways(s, rcpt, &ways))
        return true; /* a reload came, and what the new map gives is not known */
    for (size_t i = 0; i < ways.n; i++)
        if (!(rcpt->refused & (route_mask)1 << ways.list[i].route))
            return true;
    return false;
}

/* The route by which the recipient has just failed; -1: by none that is still there. */
static int
failed_route(const struct schedule *s, const struct rcpt *rcpt)
{
    return rcpt->site == NULL ? -1
                              : config_route_find(s->policy.config, span_str(rcpt->site->route));
}

/* The next route that is open, and cures what the failed one was refused for; NULL: none. */
static const struct way *
next_way(struct schedule *s, struct rcpt *rcpt, const struct ways *ways, const struct reroute *why)
{
    for (size_t i = 0; i < ways->n; i++) {
        const struct way *way = &ways->list[i];
        if (rcpt->tried & (route_mask)1 << way->route || (why->spf && way->spf_fails) ||
            route_use(s, rcpt, &ways->decision, way->route) == SITE_USE_NO)
            continue;
        return way;
    }
    return NULL;
}

static void
go(struct schedule *s, struct rcpt *rcpt)
{
    s->n_recording--;
    rcpt_set_site(rcpt, NULL);
    plan_on(s, rcpt);
    pump_drained(s);
}

/* What the refusal tells of later mail. */
static void
teach(struct schedule *s, const struct rcpt *rcpt, const struct ways *ways, const char *to,
      const struct reroute *why)
{
    const struct outcome *o = why->outcome;

    if (rcpt->site == NULL || !ways->decision.rule->learn)
        return;
    const struct learn_way way = plan_learn_way(rcpt, rcpt->site);
    const struct learn_reply reply = {
        .to = span_str(to),
        .klass = span_str(why->klass),
        .code = o->code,
        .enh = o->enh,
        .text = span_str(o->text),
        .early = why->early,
        .scope_ip = why->scope_ip,
    };
    if (!why->refused)
        learned_path_failed(s->env.learned, &way, &reply);
    else if (why->learn)
        learned_refused(s->env.learned, &way, &reply);
}

void
schedule_delivered(struct schedule *s, struct rcpt *rcpt)
{
    if (rcpt->site == NULL)
        return;
    const struct learn_way way = plan_learn_way(rcpt, rcpt->site);
    learned_delivered(s->env.learned, &way);
    site_prove(rcpt->site, true);
    rcpt->probing = false;
}

enum rerouted
schedule_reroute(struct schedule *s, struct rcpt *rcpt, const struct reroute *why)
{
    struct ways ways;
    int from = failed_route(s, rcpt);

    assert(rcpt->stage == STAGE_RECORDING);
    if (from >= 0) {
        rcpt->tried |= (route_mask)1 << from;
        if (why->refused)
            rcpt->refused |= (route_mask)1 << from;
    }
    plan_ways(s, rcpt, &ways);
    const struct way *way = next_way(s, rcpt, &ways, why);
    if (way == NULL)
        return REROUTED_NOT;
    const char *to = s->policy.config->routes[way->route].name;
    if (why->refused && from >= 0 &&
        !learned_may_reroute(s->env.learned, span_str(s->policy.config->routes[from].name),
                             span_str(to)))
        return REROUTED_TOO_OFTEN;
    teach(s, rcpt, &ways, to, why);
    free(rcpt->refusal); /* the failed route's, which `why` may have spoken of until here */
    rcpt->refusal = NULL;
    rcpt->family = 0;
    go(s, rcpt);
    return REROUTED;
}

bool
schedule_other_family(struct schedule *s, struct rcpt *rcpt, uint8_t family,
                      const struct outcome *refusal)
{
    struct site *site = rcpt->site;

    assert(rcpt->stage == STAGE_RECORDING && (family == 4 || family == 6));
    if (rcpt->family != 0 || site == NULL || site_hop(site) != NULL ||
        s->policy.config->direct.ip_version != CONFIG_IP_AUTO)
        return false;
    struct site *other =
        site_get_family(s, site->route, site->hosts, site->name, site->tls, family);
    if (site_usable(other) != SITE_USE_YES)
        return false; /* it led nowhere lately */
    rcpt->family = family;
    rcpt->refusal = xmalloc(sizeof(*rcpt->refusal));
    *rcpt->refusal = *refusal;
    go(s, rcpt);
    return true;
}
