/*
 * facts - the MX rules of RFC 5321 section 5.1 over relayd/net/dns: which site serves a domain, and
 * which addresses are ours.
 *
 *   facts_site_*    MX of the domain -> key of the set of hosts          (schedule, per recipient)
 *   facts_domain_*  facts_domain.c
 *   facts_spf_*     facts_spf.c
 *   facts_direct_*, facts_hop_*: facts_endpoints.c
 *
 * Called by relayd/schedule through wire.c and by `explain`.
 */
#include "relayd/facts_private.h"

#include <assert.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"

struct facts *
facts_new(struct dns *dns)
{
    struct facts *facts = xcalloc(1, sizeof(*facts));
    facts->dns = dns;
    arc4random_buf(&facts->told_seed, sizeof(facts->told_seed));
    return facts;
}

void
facts_free(struct facts *facts)
{
    if (facts != NULL)
        facts_spf_cache_free(facts->spf);
    free(facts);
}

void
facts_set_log(struct facts *facts, struct log *log)
{
    facts->log = log;
}

void
facts_set_config(struct facts *facts, const struct config *config)
{
    struct ifaddrs *list = NULL;

    facts->config = config;
    facts_told_forget(facts);
    facts->n_own = 0;
    if (getifaddrs(&list) != 0)
        return;
    for (struct ifaddrs *i = list; i != NULL && facts->n_own < FACTS_OWN_ADDRESSES_MAX;
         i = i->ifa_next) {
        if (i->ifa_addr == NULL)
            continue;
        struct ip ip = ip_from_sockaddr(i->ifa_addr, NULL);
        if (ip.family != 0)
            facts->own[facts->n_own++] = ip;
    }
    freeifaddrs(list);
}

static bool
is_interface(const struct facts *facts, const struct ip *ip)
{
    if (ip_is_loopback(ip) || ip_is_unspecified(ip))
        return true;
    for (size_t i = 0; i < facts->n_own; i++)
        if (ip_eq(&facts->own[i], ip))
            return true;
    return false;
}

bool
facts_is_here(const struct facts *facts, const struct ip *ip)
{
    const struct config *config = facts->config;
    for (size_t i = 0; i < facts->n_own; i++)
        if (ip_eq(&facts->own[i], ip))
            return true;
    for (size_t i = 0; i < config->n_listeners; i++)
        if (ip_eq(&config->listeners[i].ip, ip))
            return true;
    return false;
}

bool
facts_literal_refused(const struct facts *facts, const struct ip *ip)
{
    return facts_is_here(facts, ip) || ip_is_special(ip);
}

bool
facts_is_own(const struct facts *facts, const struct ip *ip, uint16_t port)
{
    const struct config *config = facts->config;
    for (size_t i = 0; i < config->n_listeners; i++) {
        const struct config_listener *l = &config->listeners[i];
        if (l->port != port)
            continue;
        if (ip_eq(&l->ip, ip))
            return true;
        /* A listener on 0.0.0.0 or [::] is at every address of this machine. */
        if (ip_is_unspecified(&l->ip) && is_interface(facts, ip))
            return true;
    }
    return false;
}

/* ---- which site ---- */

static int
by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Of those that are hosts at all; without any, "" */
static const char *
best_host(const struct dns_answer *mx)
{
    const struct dns_record *best = NULL;
    for (size_t i = 0; i < mx->n_records; i++) {
        const struct dns_record *r = &mx->records[i];
        if (!r->host_ok)
            continue;
        if (best == NULL || r->preference < best->preference ||
            (r->preference == best->preference && strcmp(r->host, best->host) < 0))
            best = r;
    }
    return best == NULL ? "" : best->host;
}

/* The key: the sorted host names. More of them than fit are told apart by a hash. */
static void
site_from_hosts(const char *domain, const struct dns_answer *mx, struct facts_site *ret)
{
    const char *best = best_host(mx);
    const char *names[DNS_RECORDS_MAX];
    size_t n = mx->n_records < DNS_RECORDS_MAX ? mx->n_records : DNS_RECORDS_MAX;
    uint64_t hash = 0;
    size_t used = 0;

    for (size_t i = 0; i < n; i++)
        names[i] = mx->records[i].host;
    qsort(names, n, sizeof(names[0]), by_name);
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(names[i]);
        hash = hash * 31 + span_hash(span_str(names[i]));
        if (used + len + 24 >= sizeof(ret->key))
            continue;
        memcpy(ret->key + used, names[i], len);
        used += len;
        ret->key[used++] = ' ';
    }
    snprintf(ret->key + used, sizeof(ret->key) - used, "%zu/%016llx", n, (unsigned long long)hash);
    snprintf(ret->name, sizeof(ret->name), "%s", best[0] == '\0' ? domain : best);
    ret->ok = true;
}

static void
site_from_domain(const char *domain, struct facts_site *ret)
{
    snprintf(ret->key, sizeof(ret->key), "%s", domain);
    snprintf(ret->name, sizeof(ret->name), "%s", domain);
    ret->ok = true;
}

/* What the MX answer alone says, for the site and for the endpoints alike; true: go on. */
static bool
mx_usable(const char *domain, const struct dns_answer *mx, struct outcome *ret)
{
    if (mx->status == DNS_OK && mx->null_mx) {
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_DNS, "dns", "5.1.10",
                    "domain %s accepts no mail (null MX, RFC 7505)", domain);
        return false;
    }
    if (mx->status == DNS_OK || mx->status == DNS_NODATA)
        return true;
    if (mx->status == DNS_NXDOMAIN || mx->status == DNS_BADNAME) {
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_DNS, "dns", "5.1.2", "domain %s does not exist: %s",
                    domain, mx->text);
        return false;
    }
    outcome_set(ret, OUTCOME_DEFERRED, ORIGIN_DNS, "dns", "4.4.3", "looking up MX of %s: %s",
                domain, mx->text);
    return false;
}

void
facts_site_from_answer(const char *domain, const struct dns_answer *mx, struct facts_site *ret)
{
    memset(ret, 0, offsetof(struct facts_site, key));
    ret->key[0] = ret->name[0] = '\0';
    if (!mx_usable(domain, mx, &ret->outcome))
        return;
    ret->no_mx = mx->status == DNS_NODATA;
    if (ret->no_mx)
        site_from_domain(domain, ret);
    else
        site_from_hosts(domain, mx, ret);
}

bool
facts_site_cached(struct facts *facts, const char *domain, struct facts_site *ret)
{
    if (domain[0] == '[') {
        memset(ret, 0, offsetof(struct facts_site, key));
        ret->literal = true;
        site_from_domain(domain, ret);
        return true;
    }
    const struct dns_answer *mx = dns_cached(facts->dns, domain, DNS_MX);
    if (mx == NULL)
        return false;
    facts_site_from_answer(domain, mx, ret);
    return true;
}

bool
facts_literal(const char *domain, struct ip *ret)
{
    struct span s = span_str(domain);
    if (s.n < 2 || s.p[0] != '[' || s.p[s.n - 1] != ']')
        return false;
    s = span_of(s.p + 1, s.n - 2);
    if (span_istarts(s, SPAN("IPv6:")))
        s = span_from(s, 5);
    return ip_parse(s, ret);
}

struct facts_query *
facts_query_new(struct facts *facts, const char *domain, void *arg)
{
    struct facts_query *q = xcalloc(1, sizeof(*q));
    q->facts = facts;
    q->domain = xstrdup(domain);
    q->arg = arg;
    return q;
}

void
facts_query_free(struct facts_query *q)
{
    for (size_t i = 0; i < q->n_hosts; i++)
        free(q->hosts[i].name);
    for (size_t i = 0; i < q->n_mx_hosts; i++)
        free(q->mx_hosts[i].name);
    free(q->mx_hosts);
    facts_domain_free(q->lookup);
    facts_spf_free(q->spf);
    free(q->domain);
    free(q->hop);
    free(q);
}

static void
on_site_mx(void *arg, const struct dns_answer *mx)
{
    struct facts_query *q = arg;
    struct facts_site site;
    q->mx = NULL;
    facts_site_from_answer(q->domain, mx, &site);
    q->on_site(q->arg, &site);
    facts_query_free(q);
}

struct facts_query *
facts_site_start(struct facts *facts, const char *domain,
                 void (*done)(void *arg, const struct facts_site *site), void *arg)
{
    assert(domain[0] != '['); /* always known: facts_site_cached() */
    struct facts_query *q = facts_query_new(facts, domain, arg);
    q->on_site = done;
    q->mx = dns_query(facts->dns, domain, DNS_MX, on_site_mx, q);
    return q;
}

void
facts_cancel(struct facts_query *q)
{
    if (q == NULL)
        return;
    if (q->mx != NULL)
        dns_cancel(q->mx);
    for (size_t i = 0; i < q->n_hosts; i++)
        for (int family = 0; family < 2; family++)
            if (q->hosts[i].asked[family] != NULL)
                dns_cancel(q->hosts[i].asked[family]);
    facts_query_free(q);
}
