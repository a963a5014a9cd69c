/*
 * plan - brings each recipient in hand to its site.
 *
 *    pages.c ─▶ plan_rcpt ─▶ ways_find ─▶ reject, hold, discard ─▶ record
 *                  ▲             │
 *                  │             ├▶ facts that a rule asks for, or SPF ─┐
 *                  └─────────────┼──────────────────────────────────────┘
 *                                └▶ routes in order ─▶ facts (MX) ─▶ site_add
 *                                      all of them down ─▶ postpone, or an attempt if overdue
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdio.h>

#include "policy/base/mem.h"
#include "relayd/learned.h"

static void
plan_query(const struct rcpt *rcpt, struct route_query *ret)
{
    const char *at = memrchr(rcpt->address.p, '@', rcpt->address.n);
    size_t local = at == NULL ? rcpt->address.n : (size_t)(at - rcpt->address.p);
    *ret = (struct route_query){
        .sender = rcpt->msg->q.sender,
        .sender_domain = span_str(rcpt->msg->sender_domain),
        .rcpt_local = span_first(rcpt->address, local),
        .domain = rcpt->domain,
    };
}

void
plan_fail(struct schedule *s, struct rcpt *rcpt, const struct outcome *outcome, const char *route,
          const char *site)
{
    struct attempt attempt = {.rcpt = rcpt,
                              .outcome = *outcome,
                              .route = route,
                              .site = site,
                              .peer = "",
                              .host = "",
                              .tls = ""};
    attempt_add(s, &attempt);
}

/* A whole reply line of a rule ("550 5.1.2 text") as an outcome. */
static void
plan_refuse(struct schedule *s, struct rcpt *rcpt, struct span reply)
{
    struct outcome o;
    struct span text = reply;
    struct span code_text = span_cut(&text, ' ');
    uint64_t code = 550;
    size_t len;

    if (!span_u64(code_text, &code))
        text = reply;
    outcome_set(&o, code >= 500 ? OUTCOME_FAILED : OUTCOME_DEFERRED, ORIGIN_LOCAL, "route", NULL,
                "%.*s", SPAN_ARG(text));
    o.code = (int)code;
    if (enh_parse(text, &o.enh, &len))
        memmove(o.text, o.text + len + 1, strlen(o.text + len) + (o.text[len] == '\0'));
    plan_fail(s, rcpt, &o, "", "");
}

static void
plan_discard(struct schedule *s, struct rcpt *rcpt)
{
    struct attempt attempt = {.rcpt = rcpt,
                              .route = "",
                              .site = "",
                              .peer = "",
                              .host = "",
                              .tls = "",
                              .discarded = true};
    outcome_set(&attempt.outcome, OUTCOME_DELIVERED, ORIGIN_LOCAL, "route", "2.0.0",
                "discarded by a rule of the transport map");
    attempt_add(s, &attempt);
}

/* What has just been looked up for this recipient; it may be too short-lived for a cache. */
struct known {
    const struct facts_site *site;
    const struct facts_domain *domain;
};

static void plan_with(struct schedule *s, struct rcpt *rcpt, const struct known *known);

static void
on_site(void *arg, const struct facts_site *site)
{
    struct rcpt *rcpt = arg;
    rcpt->facts = NULL;
    plan_with(rcpt->schedule, rcpt, &(struct known){.site = site});
}

static void
on_domain(void *arg, const struct facts_domain *domain)
{
    struct rcpt *rcpt = arg;
    rcpt->facts = NULL;
    plan_with(rcpt->schedule, rcpt,
              &(struct known){.domain = domain, .site = domain->site_known ? &domain->site : NULL});
}

/* May one more look-up be begun? Else the recipient waits for the next attempt. What each of them
 * found is kept or used at once, so only reloads make a plan ask again and again. */
static bool
plan_asks(struct schedule *s, struct rcpt *rcpt)
{
    struct outcome o;

    if (rcpt->lookups++ < PLAN_LOOKUPS_MAX)
        return true;
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_DNS, "dns", "4.4.3",
                "what DNS says of %s changes faster than it can be used", rcpt->domain.p);
    plan_fail(s, rcpt, &o, "", "");
    return false;
}

/* The site of a direct route; NULL: `rcpt` is being looked up, or has failed. */
static struct site *
direct_site(struct schedule *s, struct rcpt *rcpt, enum config_tls tls,
            const struct facts_site *known)
{
    struct facts_site cached;

    if (known == NULL) {
        if (!facts_site_cached(s->env.facts, rcpt->domain.p, &cached)) {
            if (plan_asks(s, rcpt))
                rcpt->facts = facts_site_start(s->env.facts, rcpt->domain.p, on_site, rcpt);
            return NULL;
        }
        known = &cached;
    }
    if (!known->ok) {
        plan_fail(s, rcpt, &known->outcome, s->policy.config->routes[0].name, "");
        return NULL;
    }
    return site_get_family(s, s->policy.config->routes[0].name, known->key, known->name, tls,
                           rcpt->family);
}

/* No route is open: wait in the queue for the first one's probe. */
static void
plan_wait(struct schedule *s, struct rcpt *rcpt, struct site *down)
{
    if (down == NULL) {
        postpone_rcpt(s, rcpt, clock_wall(s->clock) + MINUTE);
        return;
    }
    const struct site_trouble trouble = site_trouble(down);
    if (s->env.ops->overdue(s->env.arg, rcpt)) {
        /* The site's last attempt was this recipient's too, made when that one was: it expires it
         * only if it was made after the deadline. */
        rcpt->begun_at = trouble.tried_at;
        int r = config_route_find(s->policy.config, span_str(down->route));
        if (r >= 0)
            rcpt->tried |= (route_mask)1 << r; /* or the next route would lead back here */
        plan_fail(s, rcpt, &trouble.failure, down->route, down->name);
        return;
    }
    msec_t wait = trouble.probe_at - clock_now(s->clock);
    postpone_rcpt(s, rcpt, clock_wall(s->clock) + (wait > 0 ? wait : 0));
}

/* ---- in which order ---- */

static void
plan_ask(struct schedule *s, const struct rcpt *rcpt, struct ways_ask *ret)
{
    const struct pin *pin = schedule_pinned(s, rcpt->domain);

    *ret = (struct ways_ask){
        .config = s->policy.config,
        .learned = s->env.learned,
        .id = rcpt->key.id,
        .no = rcpt->key.no,
        .wanted = s->env.ops->wanted_route(s->env.arg, rcpt),
        .pinned = pin == NULL ? SPAN_NONE : span_str(pin->route),
        .spf = rcpt->spf,
    };
    plan_query(rcpt, &ret->query);
}

/* Its site, where something may have been learned for it; NULL: not known, or of no interest. */
static const struct facts_site *
plan_site(struct schedule *s, const struct rcpt *rcpt, struct facts_site *buf)
{
    return learned_count(s->env.learned) > 0 && facts_site_cached(s->env.facts, rcpt->domain.p, buf)
               ? buf
               : NULL;
}

/* The facts of a decision are not to be had any more: what was decided by them holds for this
 * attempt. False: nothing was. */
static bool
plan_as_decided(const struct rcpt *rcpt, struct ways_ask *ask, struct ways *ret)
{
    if (!rcpt->decided.known)
        return false;
    ask->decided = &rcpt->decided;
    ways_find(ask, ret);
    return true;
}

/* The recipient's ways as far as is known without a look-up; false: facts are missing. */
bool
plan_ways(struct schedule *s, const struct rcpt *rcpt, struct ways *ret)
{
    struct ways_ask ask;
    struct facts_domain domain;
    struct facts_site site;

    plan_ask(s, rcpt, &ask);
    ask.site = plan_site(s, rcpt, &site);
    ways_find(&ask, ret);
    for (bool ok = true; ok && ret->decision.action == ROUTE_FACTS; ok = domain.ok) {
        if (!facts_domain_cached(s->env.facts, s->policy.geoip, rcpt->domain.p,
                                 ret->decision.needs | ROUTE_NEEDS_MX, &domain))
            break;
        ask.query.facts = &domain.route;
        ways_find(&ask, ret);
    }
    return ret->decision.action != ROUTE_FACTS || plan_as_decided(rcpt, &ask, ret);
}

static void
on_spf(void *arg, const enum spf_result *results)
{
    struct rcpt *rcpt = arg;
    struct schedule *s = rcpt->schedule;
    struct ip ips[WAYS_SPF_MAX];
    const struct ip *ip;
    size_t n = 0;

    for (; n < WAYS_SPF_MAX && (ip = facts_spf_ip(rcpt->facts, n)) != NULL; n++)
        ips[n] = *ip;
    rcpt->facts = NULL;
    if (rcpt->spf.asked) /* else a reload came, and it is about other addresses */
        rcpt->spf = ways_spf_found(s->policy.config, ips, results, n);
    plan_with(s, rcpt, &(struct known){0});
}

/* The sender with its canonical domain. */
static void
sender_of(const struct msg *msg, char buf[static SPF_SENDER_MAX])
{
    struct span sender = msg->q.sender;
    const char *at = sender.n == 0 ? NULL : memrchr(sender.p, '@', sender.n);

    buf[0] = '\0';
    if (at != NULL)
        snprintf(buf, SPF_SENDER_MAX, "%.*s@%s", (int)(at - sender.p), sender.p,
                 msg->sender_domain);
}

/* Is it known what the sender's SPF record says of the routes? False: it is being looked up. */
static bool
plan_spf(struct schedule *s, struct rcpt *rcpt, const struct ways *ways)
{
    struct ip ips[WAYS_SPF_MAX];
    unsigned routes[WAYS_SPF_MAX];
    enum spf_result results[WAYS_SPF_MAX];
    char sender[SPF_SENDER_MAX];
    size_t n = rcpt->spf.known ? 0 : ways_spf_ips(s->policy.config, ways, ips, routes);

    if (n == 0)
        return true;
    const char *helo = s->policy.config->node.hostname;
    sender_of(rcpt->msg, sender);
    if (facts_spf_cached(s->env.facts, sender, helo, ips, n, results)) {
        rcpt->spf = ways_spf(results, routes, n);
        return true;
    }
    if (!plan_asks(s, rcpt))
        return false;
    rcpt->spf.asked = true;
    rcpt->facts = facts_spf_start(s->env.facts, sender, helo, ips, n, on_spf, rcpt);
    return false;
}

/* ---- where to ---- */

struct learn_way
plan_learn_way(const struct rcpt *rcpt, const struct site *site)
{
    struct learn_way way = {.domain = rcpt->domain,
                            .route = span_str(site->route),
                            .key = {rcpt->key.id, rcpt->key.no}};
    if (site_hop(site) == NULL) {
        way.site = span_str(site->hosts);
        way.label = span_str(site->name);
    }
    return way;
}

/* The recipient is to find out whether a route that was refused is open again. */
static void
plan_probe(struct schedule *s, struct rcpt *rcpt, const struct way *way, const struct site *site)
{
    const struct learn_way asked = plan_learn_way(rcpt, site);
    if (way->advice == LEARN_PROBE)
        rcpt->probing = learned_probe(s->env.learned, &asked);
}

static void
plan_deliver(struct schedule *s, struct rcpt *rcpt, const struct ways *ways,
             const struct facts_site *known)
{
    struct site *last_resort = NULL, *down = NULL;

    for (size_t i = 0; i < ways->n; i++) {
        unsigned r = ways->list[i].route;
        if (rcpt->tried & (route_mask)1 << r)
            continue;
        enum config_tls tls = route_tls(s->policy.config, &ways->decision, r);
        const struct hop *hop = s->policy.config->routes[r].hop;
        struct site *site = hop != NULL ? site_get(s, hop->name, hop->name, hop->name, tls)
                                        : direct_site(s, rcpt, tls, known);
        if (site == NULL)
            return;
        if (rcpt->from_lane != NULL)
            site_ask(site, rcpt->from_lane->asked_at);
        enum site_use use = site_usable(site);
        if (use == SITE_USE_YES) {
            rcpt_set_site(rcpt, site);
            plan_probe(s, rcpt, &ways->list[i], site);
            site_add(site, rcpt);
            return;
        }
        if (use == SITE_USE_LAST_RESORT && last_resort == NULL)
            last_resort = site;
        if (use == SITE_USE_NO && down == NULL)
            down = site;
        if (!site_trouble(site).curable)
            break; /* it answers, or DNS does not: no reason to go elsewhere */
    }
    if (last_resort != NULL)
        site_add(last_resort, rcpt);
    else
        plan_wait(s, rcpt, down);
}

static void
plan_keep(struct rcpt *rcpt, const struct route_decision *d)
{
    if (d->action == ROUTE_DELIVER)
        rcpt->decided = (struct rcpt_decided){
            .known = true, .rule = (uint16_t)d->rule->no, .never_via = d->never_via};
}

/* Ask until every fact that a rule needs is there. False: it is being looked up; or it could not be
 * found out, and the recipient waits, since by a later rule it might go where it must not. */
static bool
plan_facts(struct schedule *s, struct rcpt *rcpt, struct ways_ask *ask, const struct known *known,
           struct facts_domain *domain, struct ways *ways)
{
    const struct facts_domain *have = known->domain;

    for (;;) {
        ask->query.facts = have == NULL ? NULL : &have->route;
        ways_find(ask, ways);
        if (ways->decision.action != ROUTE_FACTS) {
            if (have != NULL)
                plan_keep(rcpt, &ways->decision);
            return true;
        }
        if (have != NULL && !have->ok) {
            if (plan_as_decided(rcpt, ask, ways))
                return true;
            plan_fail(s, rcpt, &have->outcome, "", "");
            return false;
        }
        unsigned needs = ways->decision.needs | ROUTE_NEEDS_MX;
        if (!facts_domain_cached(s->env.facts, s->policy.geoip, rcpt->domain.p, needs, domain)) {
            if (plan_as_decided(rcpt, ask, ways))
                return true;
            if (plan_asks(s, rcpt))
                rcpt->facts = facts_domain_start(s->env.facts, s->policy.geoip, rcpt->domain.p,
                                                 needs, on_domain, rcpt);
            return false;
        }
        have = domain;
    }
}

static void
plan_with(struct schedule *s, struct rcpt *rcpt, const struct known *known)
{
    struct ways_ask ask;
    struct ways ways;
    struct facts_domain domain;
    struct facts_site site;

    rcpt->schedule = s;
    rcpt->stage = STAGE_FACTS;
    if (rcpt->begun_at == 0)
        rcpt->begun_at = clock_wall(s->clock);
    plan_ask(s, rcpt, &ask);
    ask.site = known->site != NULL ? known->site : plan_site(s, rcpt, &site);
    if (!plan_facts(s, rcpt, &ask, known, &domain, &ways))
        return;
    switch (ways.decision.action) {
    case ROUTE_DELIVER:
        if (!plan_spf(s, rcpt, &ways))
            return;
        if (rcpt->spf.known && !ask.spf.known) {
            ask.spf = rcpt->spf;
            ways_find(&ask, &ways);
        }
        plan_deliver(s, rcpt, &ways, ask.site);
        break;
    case ROUTE_HOLD:
        rcpt->stage = STAGE_RECORDING;
        s->n_recording++;
        s->env.ops->hold(s->env.arg, rcpt, ways.decision.text);
        break;
    case ROUTE_DISCARD:
        plan_discard(s, rcpt);
        break;
    case ROUTE_REJECT:
    case ROUTE_NONE:
    case ROUTE_FENCED:
        plan_refuse(s, rcpt, ways.decision.text);
        break;
    case ROUTE_FACTS:
        assert(!"every fact has been given");
    }
}

void
plan_on(struct schedule *s, struct rcpt *rcpt)
{
    assert(rcpt->site == NULL && rcpt->facts == NULL);
    rcpt->lookups = 0;
    plan_with(s, rcpt, &(struct known){0});
}

void
plan_rcpt(struct schedule *s, struct rcpt *rcpt)
{
    rcpt->decided.known = false;
    plan_on(s, rcpt);
}
