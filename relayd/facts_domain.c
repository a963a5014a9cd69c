/*
 * facts_domain - what rules by MX and country see of a domain: its MX hosts, and the country of the
 * best one's address.
 *
 *     MX ─▶ A of the best host ─▶ its AAAA ─▶ A of the next host ─▶ ... ─▶ country
 *           (without MX: of the domain)  each step only where the one before found no address
 *
 * One question at a time, each answer taken once, so that it ends whatever the zone says: after
 * 1 + 2 * FACTS_COUNTRY_HOSTS_MAX questions at most. The same steps run over the cache alone
 * (facts_domain_cached) and with questions (facts_domain_start). Called by relayd/schedule, by
 * verdict.c and by `explain`.
 */
#include "relayd/facts_private.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/geoip.h"

enum step { STEP_MX, STEP_A, STEP_AAAA, STEP_DONE };

struct domain_lookup {
    const char *domain;
    unsigned needs;
    const struct geoip *geoip;
    enum step step;
    size_t host;  /* STEP_A, STEP_AAAA: of which host; without MX the domain itself is host 0 */
    bool special; /* this host has special addresses */
    struct facts_domain *ret;
    /* Of a look-up with questions. */
    struct geoip *held;
    void (*done)(void *arg, const struct facts_domain *domain);
};

static void
note(struct domain_lookup *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void
note(struct domain_lookup *l, const char *fmt, ...)
{
    size_t n = strlen(l->ret->note);
    va_list ap;
    if (n > 0 && n + 3 < sizeof(l->ret->note)) {
        memcpy(l->ret->note + n, "; ", 3);
        n += 2;
    }
    va_start(ap, fmt);
    vsnprintf(l->ret->note + n, sizeof(l->ret->note) - n, fmt, ap);
    va_end(ap);
}

/* ---- the steps ---- */

/* What was found out holds: the country `known`, or none. */
static void
finish(struct domain_lookup *l, enum route_known country)
{
    l->ret->route.country = country;
    l->ret->ok = true;
    l->step = STEP_DONE;
}

static void
give_up(struct domain_lookup *l, const char *what, const char *name, const struct dns_answer *a)
{
    outcome_set(&l->ret->outcome, OUTCOME_DEFERRED, ORIGIN_DNS, "dns", "4.4.3",
                "looking up %s of %s: %s", what, name, a->text);
    l->step = STEP_DONE;
}

static void
take_address(struct domain_lookup *l, const struct ip *ip)
{
    struct route_facts *route = &l->ret->route;
    route->address = *ip;
    finish(l,
           geoip_country(l->geoip, ip, route->country_code) ? ROUTE_FACT_KNOWN : ROUTE_FACT_NONE);
}

/* The MX is known. Go on to the country if that is wanted and can be had. */
static void
begin_country(struct domain_lookup *l)
{
    if ((l->needs & ROUTE_NEEDS_COUNTRY) == 0)
        finish(l, ROUTE_FACT_UNKNOWN);
    else if (l->geoip == NULL)
        finish(l, ROUTE_FACT_NONE);
    else
        l->step = STEP_A;
}

static int
by_preference(const void *a, const void *b)
{
    const struct dns_record *x = *(const struct dns_record *const *)a;
    const struct dns_record *y = *(const struct dns_record *const *)b;
    if (x->preference != y->preference)
        return x->preference < y->preference ? -1 : 1;
    return strcmp(x->host, y->host);
}

/* The names, best host first, as many as there is room for. */
static void
take_hosts(struct domain_lookup *l, const struct dns_answer *mx)
{
    static_assert(FACTS_MX_MAX == DNS_RECORDS_MAX, "every host of an answer may be there");
    const struct dns_record *sorted[DNS_RECORDS_MAX];
    struct facts_domain *ret = l->ret;
    size_t n = 0;

    for (size_t i = 0; i < mx->n_records && n < DNS_RECORDS_MAX; i++)
        if (mx->records[i].host_ok && mx->records[i].host[0] != '\0')
            sorted[n++] = &mx->records[i];
    qsort(sorted, n, sizeof(sorted[0]), by_preference);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(sorted[i]->host) + 1;
        if (ret->n_text + len > sizeof(ret->text))
            break;
        ret->hosts[ret->route.n_hosts++] = memcpy(ret->text + ret->n_text, sorted[i]->host, len);
        ret->n_text += len;
    }
    if (ret->route.n_hosts < mx->n_records || mx->truncated)
        note(l, "%zu of %s%zu MX names taken", ret->route.n_hosts,
             mx->truncated ? "more than " : "", mx->n_records);
}

static void
take_mx(struct domain_lookup *l, const struct dns_answer *mx)
{
    struct route_facts *route = &l->ret->route;

    if (l->done != NULL) {
        facts_site_from_answer(l->domain, mx, &l->ret->site);
        l->ret->site_known = true;
    }
    if (dns_status_temporary(mx->status)) {
        give_up(l, "MX", l->domain, mx);
        return;
    }
    route->mx = ROUTE_FACT_NONE;
    if (mx->status == DNS_OK && !mx->null_mx)
        take_hosts(l, mx);
    if (route->n_hosts > 0)
        route->mx = ROUTE_FACT_KNOWN;
    if (route->n_hosts > 0 || mx->status == DNS_NODATA) {
        begin_country(l);
        return;
    }
    note(l, mx->status != DNS_OK ? "the domain does not exist"
            : mx->null_mx        ? "null MX"
                                 : "no MX names a host");
    finish(l, ROUTE_FACT_NONE);
}

/* The lowest address that is not special; NULL: none. */
static const struct ip *
lowest(struct domain_lookup *l, const struct dns_answer *a)
{
    const struct ip *best = NULL;
    for (size_t i = 0; i < a->n_records; i++) {
        const struct ip *ip = &a->records[i].ip;
        if (ip_is_special(ip))
            l->special = true;
        else if (best == NULL || ip_cmp(ip, best) < 0)
            best = ip;
    }
    return best;
}

static const char *
host_name(const struct domain_lookup *l)
{
    return l->ret->route.n_hosts == 0 ? l->domain : l->ret->hosts[l->host];
}

/* This host has no address of the Internet: the next question. */
static void
next_step(struct domain_lookup *l)
{
    if (l->step == STEP_A) {
        l->step = STEP_AAAA;
        return;
    }
    if (l->special) {
        note(l, "%s has private addresses only", host_name(l));
        finish(l, ROUTE_FACT_NONE);
        return;
    }
    l->step = STEP_A;
    l->host++;
    if (l->host < l->ret->route.n_hosts && l->host < FACTS_COUNTRY_HOSTS_MAX)
        return;
    note(l, "none of the %zu best hosts has an address", l->host);
    finish(l, ROUTE_FACT_NONE);
}

static void
take_addresses(struct domain_lookup *l, const struct dns_answer *a)
{
    if (dns_status_temporary(a->status)) {
        give_up(l, "the address", host_name(l), a);
        return;
    }
    const struct ip *ip = a->status == DNS_OK ? lowest(l, a) : NULL;
    if (ip != NULL)
        take_address(l, ip);
    else
        next_step(l);
}

static void
take(struct domain_lookup *l, const struct dns_answer *answer)
{
    if (answer->ttl_s < l->ret->ttl_s)
        l->ret->ttl_s = answer->ttl_s;
    if (l->step == STEP_MX)
        take_mx(l, answer);
    else
        take_addresses(l, answer);
}

static const char *
question(const struct domain_lookup *l, enum dns_type *ret_type)
{
    static const enum dns_type types[] = {
        [STEP_MX] = DNS_MX, [STEP_A] = DNS_A, [STEP_AAAA] = DNS_AAAA};
    *ret_type = types[l->step];
    return l->step == STEP_MX ? l->domain : host_name(l);
}

/* Take what the cache knows; true: all is said. */
static bool
run(struct dns *dns, struct domain_lookup *l)
{
    while (l->step != STEP_DONE) {
        enum dns_type type;
        const char *name = question(l, &type);
        const struct dns_answer *answer = dns_cached(dns, name, type);
        if (answer == NULL)
            return false;
        take(l, answer);
    }
    return true;
}

static void
begin(struct domain_lookup *l)
{
    struct facts_domain *ret = l->ret;
    struct ip ip;

    ret->ok = false;
    memset(&ret->outcome, 0, sizeof(ret->outcome));
    ret->route = (struct route_facts){.hosts = ret->hosts};
    ret->ttl_s = DNS_TTL_MAX_S;
    ret->site_known = false;
    ret->note[0] = '\0';
    ret->n_text = 0;
    if (l->domain[0] != '[')
        return;
    ret->route.mx = ROUTE_FACT_NONE;
    if (facts_literal(l->domain, &ip))
        take_address(l, &ip);
    else
        finish(l, ROUTE_FACT_NONE);
}

bool
facts_domain_cached(struct facts *facts, const struct geoip *geoip, const char *domain,
                    unsigned needs, struct facts_domain *ret)
{
    struct domain_lookup l = {.domain = domain, .needs = needs, .geoip = geoip, .ret = ret};
    begin(&l);
    return run(facts->dns, &l);
}

/* ---- with questions ---- */

void
facts_domain_free(struct domain_lookup *l)
{
    if (l == NULL)
        return;
    geoip_close(l->held);
    free(l->ret);
    free(l);
}

static void
on_answer(void *arg, const struct dns_answer *answer)
{
    struct facts_query *q = arg;
    struct domain_lookup *l = q->lookup;
    enum dns_type type;

    q->mx = NULL;
    if (l->step != STEP_DONE) /* else an address literal: see facts_domain_start() */
        take(l, answer);
    if (run(q->facts->dns, l)) {
        if (l->ret->note[0] != '\0')
            facts_tell(q->facts, LOG_INFO, "facts", l->domain, FACTS_ODD_FACTS, l->ret->note);
        l->done(q->arg, l->ret);
        facts_query_free(q);
        return;
    }
    const char *name = question(l, &type);
    q->mx = dns_query(q->facts->dns, name, type, on_answer, q);
}

struct facts_query *
facts_domain_start(struct facts *facts, struct geoip *geoip, const char *domain, unsigned needs,
                   void (*done)(void *arg, const struct facts_domain *domain), void *arg)
{
    struct facts_query *q = facts_query_new(facts, domain, arg);
    struct domain_lookup *l = q->lookup = xcalloc(1, sizeof(*l));

    assert(needs != 0);
    *l = (struct domain_lookup){.domain = q->domain,
                                .needs = needs,
                                .geoip = geoip,
                                .ret = xmalloc(sizeof(*l->ret)),
                                .held = geoip_take(geoip),
                                .done = done};
    begin(l);
    /* dns answers a literal with DNS_BADNAME, from the next tick: just the delay wanted. */
    q->mx = dns_query(facts->dns, domain, DNS_MX, on_answer, q);
    return q;
}
