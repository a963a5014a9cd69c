/*
 * plan - brings each recipient in hand to its site.
 *
 *    pages.c ─▶ plan_rcpt ─▶ route_decide ─▶ reject, hold, discard ─▶ record
 *                                     │
 *                                     └▶ candidate routes in order ─▶ facts ─▶ site_add
 *                                           all of them down ─▶ postpone, or an attempt if overdue
 */
#include "relayd/schedule/internal.h"

#include <assert.h>

#include "policy/base/mem.h"

void
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

static void plan_with(struct schedule *s, struct rcpt *rcpt, const struct facts_site *known);

static void
on_facts(void *arg, const struct facts_site *site)
{
    struct rcpt *rcpt = arg;
    rcpt->facts = NULL;
    plan_with(rcpt->schedule, rcpt, site);
}

/* The site of a direct route; NULL: `rcpt` is being looked up, or has failed. */
static struct site *
direct_site(struct schedule *s, struct rcpt *rcpt, enum config_tls tls,
            const struct facts_site *known)
{
    struct facts_site cached;

    if (known == NULL) {
        if (!facts_site_cached(s->env.facts, rcpt->domain.p, &cached)) {
            rcpt->facts = facts_site_start(s->env.facts, rcpt->domain.p, on_facts, rcpt);
            return NULL;
        }
        known = &cached;
    }
    if (!known->ok) {
        plan_fail(s, rcpt, &known->outcome, s->config->routes[0].name, "");
        return NULL;
    }
    return site_get_family(s, s->config->routes[0].name, known->key, known->name, tls,
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
    if (s->env.ops->overdue(s->env.arg, rcpt)) {
        /* The site's last attempt was this recipient's too, made when that one was: it expires it
         * only if it was made after the deadline. */
        rcpt->begun_at = down->tried_at;
        plan_fail(s, rcpt, &down->failure, down->route, down->name);
        return;
    }
    msec_t wait = down->probe_at - clock_now(s->clock);
    postpone_rcpt(s, rcpt, clock_wall(s->clock) + (wait > 0 ? wait : 0));
}

/* A route that the administrator asked for goes first, for this recipient or for its domain, unless
 * a fence forbids it. */
static void
plan_wanted(const struct schedule *s, const struct rcpt *rcpt, struct route_decision *d)
{
    struct span wanted = s->env.ops->wanted_route(s->env.arg, rcpt);
    const struct pin *pin = schedule_pinned(s, rcpt->domain);

    if (wanted.n == 0 && pin != NULL)
        wanted = span_str(pin->route);
    int r = wanted.n == 0 ? -1 : config_route_find(s->config, wanted);
    if (r >= 0)
        route_prefer(d, (unsigned)r);
}

static void
plan_deliver(struct schedule *s, struct rcpt *rcpt, struct route_decision *d,
             const struct facts_site *known)
{
    struct site *last_resort = NULL, *down = NULL;

    plan_wanted(s, rcpt, d);
    for (size_t i = 0; i < d->n_routes; i++) {
        unsigned r = d->routes[i];
        if (rcpt->tried & (route_mask)1 << r)
            continue;
        enum config_tls tls = route_tls(s->config, d, r);
        const struct hop *hop = s->config->routes[r].hop;
        struct site *site = hop != NULL ? site_get(s, hop->name, hop->name, hop->name, tls)
                                        : direct_site(s, rcpt, tls, known);
        if (site == NULL)
            return;
        enum site_use use = site_usable(site);
        if (use == SITE_USE_YES) {
            site_add(site, rcpt);
            return;
        }
        if (use == SITE_USE_LAST_RESORT && last_resort == NULL)
            last_resort = site;
        if (use == SITE_USE_NO && down == NULL)
            down = site;
        if (!site->curable)
            break; /* it answers, or DNS does not: no reason to go elsewhere */
    }
    if (last_resort != NULL)
        site_add(last_resort, rcpt);
    else
        plan_wait(s, rcpt, down);
}

static void
plan_with(struct schedule *s, struct rcpt *rcpt, const struct facts_site *known)
{
    struct route_query query;
    struct route_decision d;

    rcpt->schedule = s;
    rcpt->stage = STAGE_FACTS;
    if (rcpt->begun_at == 0)
        rcpt->begun_at = clock_wall(s->clock);
    plan_query(rcpt, &query);
    route_decide(s->config, &query, &d);
    switch (d.action) {
    case ROUTE_DELIVER:
        plan_deliver(s, rcpt, &d, known);
        break;
    case ROUTE_HOLD:
        rcpt->stage = STAGE_RECORDING;
        s->n_recording++;
        s->env.ops->hold(s->env.arg, rcpt, d.text);
        break;
    case ROUTE_DISCARD:
        plan_discard(s, rcpt);
        break;
    case ROUTE_REJECT:
    case ROUTE_NONE:
    case ROUTE_FENCED:
        plan_refuse(s, rcpt, d.text);
        break;
    }
}

void
plan_rcpt(struct schedule *s, struct rcpt *rcpt)
{
    assert(rcpt->site == NULL && rcpt->facts == NULL);
    plan_with(s, rcpt, NULL);
}

/* How this recipient could go by route `r` right now. */
static enum site_use
route_use(struct schedule *s, struct rcpt *rcpt, const struct route_decision *d, unsigned r)
{
    enum config_tls tls = route_tls(s->config, d, r);
    const struct hop *hop = s->config->routes[r].hop;
    struct facts_site facts;
    struct site *site;

    if (hop != NULL) {
        site = site_get(s, hop->name, hop->name, hop->name, tls);
    } else {
        if (!facts_site_cached(s->env.facts, rcpt->domain.p, &facts))
            return SITE_USE_YES; /* nothing is known against it */
        if (!facts.ok)
            return SITE_USE_NO;
        site =
            site_get_family(s, s->config->routes[0].name, facts.key, facts.name, tls, rcpt->family);
    }
    return site_usable(site);
}

/* The routes that planning would look at, in order; none when the map says something else. */
static void
routes_of(const struct schedule *s, const struct rcpt *rcpt, struct route_decision *ret)
{
    struct route_query query;
    plan_query(rcpt, &query);
    route_decide(s->config, &query, ret);
    if (ret->action == ROUTE_DELIVER)
        plan_wanted(s, rcpt, ret);
    else
        ret->n_routes = 0;
}

msec_t
schedule_fallback_after(const struct schedule *s, const struct rcpt *rcpt)
{
    struct route_decision d;
    routes_of(s, rcpt, &d);
    return d.n_routes == 0 ? 0 : d.rule->fallback_after_ms;
}

bool
schedule_route_left(struct schedule *s, const struct rcpt *rcpt)
{
    struct route_decision d;
    routes_of(s, rcpt, &d);
    for (size_t i = 0; i < d.n_routes; i++)
        if (!(rcpt->refused & (route_mask)1 << d.routes[i]))
            return true;
    return false;
}

bool
schedule_reroute(struct schedule *s, struct rcpt *rcpt, bool refused)
{
    struct route_decision d;

    assert(rcpt->stage == STAGE_RECORDING);
    if (rcpt->site != NULL) {
        int r = config_route_find(s->config, span_str(rcpt->site->route));
        if (r >= 0)
            rcpt->tried |= (route_mask)1 << r;
        if (r >= 0 && refused)
            rcpt->refused |= (route_mask)1 << r;
    }
    routes_of(s, rcpt, &d);
    for (size_t i = 0; i < d.n_routes; i++) {
        unsigned r = d.routes[i];
        if (rcpt->tried & (route_mask)1 << r || route_use(s, rcpt, &d, r) == SITE_USE_NO)
            continue;
        s->n_recording--;
        rcpt_set_site(rcpt, NULL);
        plan_with(s, rcpt, NULL);
        pump_drained(s);
        return true;
    }
    return false;
}

bool
schedule_other_family(struct schedule *s, struct rcpt *rcpt, uint8_t family,
                      const struct outcome *refusal)
{
    struct site *site = rcpt->site;

    assert(rcpt->stage == STAGE_RECORDING && (family == 4 || family == 6));
    if (rcpt->family != 0 || site == NULL || site_hop(site) != NULL ||
        s->config->direct.ip_version != CONFIG_IP_AUTO)
        return false;
    struct site *other =
        site_get_family(s, site->route, site->hosts, site->name, site->tls, family);
    if (site_usable(other) != SITE_USE_YES)
        return false; /* it led nowhere lately */
    rcpt->family = family;
    rcpt->refusal = xmalloc(sizeof(*rcpt->refusal));
    *rcpt->refusal = *refusal;
    s->n_recording--;
    rcpt_set_site(rcpt, NULL);
    plan_with(s, rcpt, NULL);
    pump_drained(s);
    return true;
}
