/*
 * Each route of the decision gets a rank; the lowest goes first, equal ones stay in the map's
 * order.
 */
#include "relayd/schedule/ways.h"

#include "policy/srs.h"
#include "relayd/learned.h"

/* Why a route goes behind others, the weakest reason first. */
enum rank {
    RANK_SPF = 1,    /* this sender would be refused there */
    RANK_LEARNED = 2 /* everybody was refused there */
};

static unsigned
rank(const struct way *way)
{
    return (way->spf_fails ? RANK_SPF : 0) + (way->advice == LEARN_AVOID ? RANK_LEARNED : 0);
}

/* A stable sort of a handful. */
static void
sort(struct ways *ways)
{
    for (size_t i = 1; i < ways->n; i++) {
        struct way way = ways->list[i];
        size_t at = i;
        for (; at > 0 && rank(&ways->list[at - 1]) > rank(&way); at--)
            ways->list[at] = ways->list[at - 1];
        ways->list[at] = way;
    }
}

/* The administrator's route first, unless a fence forbids it. */
static bool
prefer(const struct ways_ask *ask, struct span name, struct route_decision *d)
{
    int r = name.n == 0 ? -1 : config_route_find(ask->config, name);
    return r >= 0 && route_prefer(d, (unsigned)r);
}

static void
advise(const struct ways_ask *ask, struct way *way)
{
    const struct route *route = &ask->config->routes[way->route];
    struct learn_way asked = {
        .domain = ask->query.domain, .route = span_str(route->name), .key = {ask->id, ask->no}};

    if (route->hop == NULL && ask->site != NULL && ask->site->ok) {
        asked.site = span_str(ask->site->key);
        asked.label = span_str(ask->site->name);
    }
    way->advice = learned_advise(ask->learned, &asked, &way->entry);
}

void
ways_find(const struct ways_ask *ask, struct ways *ret)
{
    struct route_decision *d = &ret->decision;

    ret->n = 0;
    ret->wanted = ret->pinned = ret->srs = false;
    if (ask->decided != NULL)
        route_decide_again(ask->config, ask->decided->rule, ask->decided->never_via, d);
    else
        route_decide(ask->config, &ask->query, d);
    if (d->action != ROUTE_DELIVER)
        return;
    const struct srs srs = srs_of(ask->config);
    ret->srs = srs.domain.n > 0 &&
               srs_applies(&srs, ask->query.sender, ask->query.sender_domain, ask->config);
    ret->wanted = prefer(ask, ask->wanted, d);
    if (!ret->wanted)
        ret->pinned = prefer(ask, ask->pinned, d);
    bool learns = d->rule->learn && !ret->wanted && !ret->pinned;
    route_mask minded = ask->spf.fail | (d->rule->spf_softfail ? ask->spf.softfail : 0);
    for (size_t i = 0; i < d->n_routes; i++) {
        struct way *way = &ret->list[ret->n++];
        *way = (struct way){.route = d->routes[i], .advice = LEARN_FREE};
        if (learns)
            advise(ask, way);
        way->spf_fails = !ret->srs && (minded >> way->route & 1);
    }
    if (!ret->wanted && !ret->pinned)
        sort(ret);
}

/* ---- SPF ---- */

static size_t
add(const struct ip *ip, unsigned route, struct ip *ips, unsigned *routes, size_t n)
{
    if (ip->family == 0)
        return n;
    ips[n] = *ip;
    routes[n] = route;
    return n + 1;
}

size_t
ways_spf_ips(const struct config *config, const struct ways *ways,
             struct ip ips[static WAYS_SPF_MAX], unsigned routes[static WAYS_SPF_MAX])
{
    size_t n = 0;

    if (ways->n < 2 || ways->srs)
        return 0;
    for (size_t i = 0; i < ways->n; i++) {
        unsigned r = ways->list[i].route;
        const struct hop *hop = config->routes[r].hop;
        const struct config_pair *egress = hop == NULL ? &config->direct.egress : &hop->egress;
        n = add(&egress->v4, r, ips, routes, n);
        n = add(&egress->v6, r, ips, routes, n);
    }
    return n;
}

struct rcpt_spf
ways_spf(const enum spf_result *results, const unsigned *routes, size_t n)
{
    struct rcpt_spf spf = {.asked = true, .known = true};
    route_mask good = 0;

    for (size_t i = 0; i < n; i++) {
        route_mask bit = (route_mask)1 << routes[i];
        if (results[i] == SPF_FAIL)
            spf.fail |= bit;
        else if (results[i] == SPF_SOFTFAIL)
            spf.softfail |= bit;
        else
            good |= bit;
    }
    spf.softfail &= ~good;
    spf.fail &= ~(good | spf.softfail);
    return spf;
}

struct rcpt_spf
ways_spf_found(const struct config *config, const struct ip *ips, const enum spf_result *results,
               size_t n)
{
    enum spf_result found[WAYS_SPF_MAX];
    unsigned routes[WAYS_SPF_MAX];
    size_t n_found = 0;

    for (unsigned r = 0; r < config->n_routes; r++) {
        const struct hop *hop = config->routes[r].hop;
        const struct config_pair *egress = hop == NULL ? &config->direct.egress : &hop->egress;
        for (int family = 4; family <= 6; family += 2) {
            const struct ip *ip = family == 4 ? &egress->v4 : &egress->v6;
            size_t i = 0;
            while (i < n && !ip_eq(&ips[i], ip))
                i++;
            if (i == n || ip->family == 0)
                continue;
            found[n_found] = results[i];
            routes[n_found++] = r;
        }
    }
    return ways_spf(found, routes, n_found);
}
