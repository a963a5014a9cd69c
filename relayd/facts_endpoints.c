/*
 * facts_endpoints - at which addresses a site or a hop can be reached (RFC 5321 section 5.1).
 *
 *   facts_direct_*  MX -> A and AAAA of each host -> endpoints in order  (schedule, per connection)
 *   facts_hop_*     A and AAAA of the hop -> ports x addresses           (likewise)
 *
 * Called by relayd/schedule through wire.c and by `explain`.
 */
#include "relayd/facts_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"

#define ENDPOINTS_MAX (FACTS_TRY_HOSTS * FACTS_TRY_ADDRESSES)
#define HOP_ADDRESSES_MAX (2 * FACTS_TRY_ADDRESSES)
#define HOP_ENDPOINTS_MAX (HOP_ADDRESSES_MAX * CONFIG_PORTS_MAX)

/* ---- what is left out ---- */

static void drop(struct facts_query *q, enum facts_dropped why, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void
drop(struct facts_query *q, enum facts_dropped why, const char *fmt, ...)
{
    size_t n = strlen(q->note);
    va_list ap;
    q->dropped |= why;
    if (n > 0) {
        if (n + 6 > sizeof(q->note))
            return; /* full: it ends in "..." */
        memcpy(q->note + n, "; ", 3);
        n += 2;
    }
    va_start(ap, fmt);
    int more = vsnprintf(q->note + n, sizeof(q->note) - n, fmt, ap);
    va_end(ap);
    if (n + (size_t)more >= sizeof(q->note) - 6)
        memcpy(q->note + sizeof(q->note) - 4, "...", 4);
}

/* Mail is delivered to addresses of the Internet, and where direct.allow_private says so to those
 * of a lab; never to those that are nobody's. "" or the kind of address. */
static const char *
address_refused(const struct config *config, const struct ip *ip)
{
    bool lab = ip_is_loopback(ip) || ip_is_private(ip) || ip_is_link_local(ip);
    if (!ip_is_special(ip) || (lab && config->direct.allow_private))
        return "";
    return ip_class_name(ip);
}

/* ---- the end ---- */

static void
finish_failed(struct facts_query *q, const struct outcome *outcome)
{
    struct facts_endpoints e = {.outcome = *outcome, .key = q->key};
    q->on_endpoints(q->arg, &e);
    facts_query_free(q);
}

static int
by_preference(const void *a, const void *b)
{
    const struct mx_host *x = a, *y = b;
    if (x->preference != y->preference)
        return x->preference < y->preference ? -1 : 1;
    return x->shuffle < y->shuffle ? -1 : x->shuffle > y->shuffle;
}

/* An MX that is us means that we are one of the domain's relays: going on to it, or to a worse one,
 * would be a loop (RFC 5321 section 5.1). */
static size_t
hosts_before_us(const struct facts_query *q)
{
    unsigned limit = UINT16_MAX + 1u;
    for (size_t i = 0; i < q->n_hosts; i++)
        if (q->hosts[i].own && q->hosts[i].preference < limit)
            limit = q->hosts[i].preference;
    size_t n = 0;
    while (n < q->n_hosts && q->hosts[n].preference < limit)
        n++;
    return n;
}

/* The addresses of one host to try: the preferred family first, then the other one. */
static size_t
host_endpoints(const struct facts_query *q, const struct host_lookup *h, struct facts_endpoint *ret)
{
    const struct config *config = q->facts->config;
    enum config_ip_version version = config->direct.ip_version;
    bool six_first = version == CONFIG_IP_6 ||
                     (version == CONFIG_IP_AUTO && config->direct.source.v6.family == 6);
    int first = six_first ? 1 : 0;
    size_t n = 0;

    for (size_t turn = 0; turn < FACTS_TRY_ADDRESSES && n < FACTS_TRY_ADDRESSES; turn++) {
        for (int k = 0; k < 2 && n < FACTS_TRY_ADDRESSES; k++) {
            int family = k == 0 ? first : 1 - first;
            if (turn < h->n_addresses[family])
                ret[n++] = (struct facts_endpoint){
                    .ip = h->addresses[family][turn], .port = config->direct.port, .host = h->name};
        }
    }
    return n;
}

static bool
any_temporary(const struct facts_query *q)
{
    for (size_t i = 0; i < q->n_hosts; i++)
        if (q->hosts[i].temporary)
            return true;
    return false;
}

/* Nothing to connect to: say which of the reasons it was. */
static void
no_address_outcome(const struct facts_query *q, size_t n_before_us, struct outcome *ret)
{
    if (any_temporary(q))
        outcome_set(ret, OUTCOME_DEFERRED, ORIGIN_DNS, "dns", "4.4.3",
                    "looking up the addresses of %s: no answer from DNS", q->domain);
    else if (n_before_us < q->n_hosts)
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_LOCAL, "dns", "5.4.6",
                    "mail for %s loops back to this host: its best MX is one of our listeners",
                    q->domain);
    else if (q->mx_truncated)
        outcome_set(ret, OUTCOME_DEFERRED, ORIGIN_LOCAL, "dns", "4.4.4",
                    "none of the %zu MX hosts of %s that were looked at has an address",
                    q->n_mx_hosts, q->domain);
    else if ((q->dropped & FACTS_DROPPED_ADDRESS) != 0)
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_LOCAL, "dns", "5.4.4",
                    "no host of %s has an address that mail is delivered to: %s", q->domain,
                    q->note);
    else if (q->n_hosts == 1 && strcmp(q->hosts[0].name, q->domain) == 0)
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_DNS, "dns", "5.1.2",
                    "domain %s has neither MX nor address", q->domain);
    else
        outcome_set(ret, OUTCOME_FAILED, ORIGIN_DNS, "dns", "5.4.4",
                    "no MX host of %s has an address", q->domain);
}

static void
tell_dropped(const struct facts_query *q)
{
    if (q->dropped != 0)
        facts_tell(q->facts, q->dropped == FACTS_DROPPED_REST ? LOG_INFO : LOG_WARNING,
                   "mx_dropped", q->domain, q->dropped, q->note);
}

static void next_hosts(struct facts_query *q);

static void
finish_direct(struct facts_query *q)
{
    struct facts_endpoint list[ENDPOINTS_MAX];
    struct facts_endpoints e = {.list = list, .key = q->key};
    const struct host_lookup *usable[FACTS_HOSTS_MAX];
    size_t n_hosts = hosts_before_us(q), n_usable = 0, n_all = 0;

    for (size_t i = 0; i < n_hosts; i++) {
        const struct host_lookup *h = &q->hosts[i];
        if (h->n_all[0] + h->n_all[1] > 0)
            usable[n_usable++] = h;
        n_all += h->n_all[0] + h->n_all[1];
    }
    size_t first = facts_first_host(q->turn, q->n_hosts, n_usable);
    for (size_t i = 0; i < n_usable && i < FACTS_TRY_HOSTS; i++)
        e.n += host_endpoints(q, usable[(first + i) % n_usable], list + e.n);
    e.ok = e.n > 0;
    e.more = n_all > e.n;
    if (!e.ok && n_hosts == q->n_hosts && !any_temporary(q) && q->mx_next < q->n_mx_hosts) {
        next_hosts(q);
        return;
    }
    if (!e.ok)
        no_address_outcome(q, n_hosts, &e.outcome);
    else if (n_hosts < q->n_hosts)
        drop(q, FACTS_DROPPED_OURSELVES, "%zu hosts that are no better than this relay",
             q->n_hosts - n_hosts);
    if (q->mx_next < q->n_mx_hosts)
        drop(q, FACTS_DROPPED_REST, "%zu more hosts", q->n_mx_hosts - q->mx_next);
    tell_dropped(q);
    q->on_endpoints(q->arg, &e);
    facts_query_free(q);
}

static void
finish_hop(struct facts_query *q)
{
    struct facts_endpoint list[HOP_ENDPOINTS_MAX];
    struct facts_endpoints e = {.list = list, .key = ""};
    const struct host_lookup *h = &q->hosts[0];

    for (size_t p = 0; p < q->n_ports; p++)
        for (int family = 0; family < 2; family++)
            for (size_t a = 0; a < h->n_addresses[family]; a++)
                list[e.n++] = (struct facts_endpoint){.ip = h->addresses[family][a],
                                                      .port = q->ports[p].port,
                                                      .implicit_tls = q->ports[p].implicit_tls,
                                                      .host = h->name};
    e.ok = e.n > 0;
    e.more = h->n_all[0] > h->n_addresses[0] || h->n_all[1] > h->n_addresses[1];
    if (!e.ok) {
        outcome_set(&e.outcome, OUTCOME_DEFERRED, ORIGIN_DNS, "dns", "4.4.3",
                    "hop %s: no address for %s", q->hop, h->name);
        e.outcome.path = true;
    }
    q->on_endpoints(q->arg, &e);
    facts_query_free(q);
}

static void
lookup_done(struct facts_query *q)
{
    if (q->n_open > 0)
        return;
    if (q->hop != NULL)
        finish_hop(q);
    else
        finish_direct(q);
}

/* May mail go there? */
static bool
take_address(struct host_lookup *h, const struct ip *ip)
{
    struct facts_query *q = h->query;
    const struct config *config = q->facts->config;
    const char *refused = address_refused(config, ip);
    char text[IP_TEXT_MAX];

    if (facts_is_own(q->facts, ip, config->direct.port)) {
        h->own = true;
        drop(q, FACTS_DROPPED_OURSELVES, "%s at %s is this relay", h->name, ip_format(ip, text));
        return false;
    }
    if (refused[0] != '\0') {
        drop(q, FACTS_DROPPED_ADDRESS, "%s at %s (%s)", h->name, ip_format(ip, text), refused);
        return false;
    }
    return true;
}

static void
take_addresses(struct host_lookup *h, int family, const struct dns_answer *answer)
{
    const struct facts_query *q = h->query;
    const struct ip *all[DNS_RECORDS_MAX];
    size_t n = 0;

    h->temporary |= dns_status_temporary(answer->status);
    if (answer->status != DNS_OK)
        return;
    for (size_t i = 0; i < answer->n_records && n < DNS_RECORDS_MAX; i++) {
        const struct ip *ip = &answer->records[i].ip;
        if (q->hop != NULL || take_address(h, ip))
            all[n++] = ip;
    }
    size_t first = facts_first_address(q->turn, q->n_hosts, n);
    for (size_t i = 0; i < n && i < FACTS_TRY_ADDRESSES; i++)
        h->addresses[family][i] = *all[(first + i) % n];
    h->n_addresses[family] = n < FACTS_TRY_ADDRESSES ? n : FACTS_TRY_ADDRESSES;
    h->n_all[family] = n;
}

static void
on_a(void *arg, const struct dns_answer *answer)
{
    struct host_lookup *h = arg;
    h->asked[0] = NULL;
    h->query->n_open--;
    take_addresses(h, 0, answer);
    lookup_done(h->query);
}

static void
on_aaaa(void *arg, const struct dns_answer *answer)
{
    struct host_lookup *h = arg;
    h->asked[1] = NULL;
    h->query->n_open--;
    take_addresses(h, 1, answer);
    lookup_done(h->query);
}

static void
ask_addresses(struct facts_query *q)
{
    enum config_ip_version version =
        q->hop == NULL ? q->facts->config->direct.ip_version : CONFIG_IP_AUTO;
    for (size_t i = 0; i < q->n_hosts; i++) {
        struct host_lookup *h = &q->hosts[i];
        h->query = q;
        if (version != CONFIG_IP_6) {
            q->n_open++;
            h->asked[0] = dns_query(q->facts->dns, h->name, DNS_A, on_a, h);
        }
        if (version != CONFIG_IP_4) {
            q->n_open++;
            h->asked[1] = dns_query(q->facts->dns, h->name, DNS_AAAA, on_aaaa, h);
        }
    }
}

static void
add_host(struct facts_query *q, const char *name, uint16_t preference)
{
    struct host_lookup *h = &q->hosts[q->n_hosts++];
    h->name = xstrdup(name);
    h->preference = preference;
}

/* The hosts whose names can be asked for, in the order to try. */
static void
take_hosts(struct facts_query *q, const struct dns_answer *mx)
{
    q->mx_hosts = xcalloc(mx->n_records, sizeof(*q->mx_hosts));
    q->mx_truncated = mx->truncated;
    for (size_t i = 0; i < mx->n_records; i++) {
        const struct dns_record *r = &mx->records[i];
        if (r->host_ok)
            q->mx_hosts[q->n_mx_hosts++] = (struct mx_host){
                .name = xstrdup(r->host), .preference = r->preference, .shuffle = arc4random()};
        else if (r->host[0] == '\0')
            drop(q, FACTS_DROPPED_NULL, "a null MX among others");
        else
            drop(q, FACTS_DROPPED_NAME, "%.100s is no host name", r->host);
    }
    qsort(q->mx_hosts, q->n_mx_hosts, sizeof(q->mx_hosts[0]), by_preference);
}

/* Look the next FACTS_HOSTS_MAX of them up, in the place of those before. */
static void
next_hosts(struct facts_query *q)
{
    for (size_t i = 0; i < q->n_hosts; i++)
        free(q->hosts[i].name);
    memset(q->hosts, 0, sizeof(q->hosts));
    q->n_hosts = 0;
    while (q->n_hosts < FACTS_HOSTS_MAX && q->mx_next < q->n_mx_hosts) {
        const struct mx_host *host = &q->mx_hosts[q->mx_next++];
        add_host(q, host->name, host->preference);
    }
    ask_addresses(q);
}

static void
on_direct_mx(void *arg, const struct dns_answer *mx)
{
    struct facts_query *q = arg;
    struct facts_site site;
    struct outcome outcome;

    q->mx = NULL;
    facts_site_from_answer(q->domain, mx, &site);
    if (!site.ok) {
        finish_failed(q, &site.outcome);
        return;
    }
    snprintf(q->key, sizeof(q->key), "%s", site.key);
    q->turn = facts_turn(q->facts, false, q->key);
    if (mx->status == DNS_NODATA) {
        add_host(q, q->domain, 0);
        ask_addresses(q);
        return;
    }
    take_hosts(q, mx);
    if (q->n_mx_hosts == 0) {
        outcome_set(&outcome, OUTCOME_FAILED, ORIGIN_DNS, "dns", "5.4.4",
                    "no MX of %s names a host: %s", q->domain, q->note);
        tell_dropped(q);
        finish_failed(q, &outcome);
        return;
    }
    next_hosts(q);
}

/* Address literals need no DNS, but answer like everything else: not before the start returns. */
static void
on_literal(void *arg, const struct dns_answer *unused)
{
    struct facts_query *q = arg;
    struct ip ip = {0};

    (void)unused;
    q->mx = NULL;
    struct facts_endpoint endpoint = {.port = q->facts->config->direct.port, .host = q->domain};
    struct facts_endpoints e = {.n = 1, .list = &endpoint, .ok = true, .key = q->domain};
    if (!facts_literal(q->domain, &ip)) {
        outcome_set(&e.outcome, OUTCOME_FAILED, ORIGIN_LOCAL, "dns", "5.1.3",
                    "%s is not an IP address", q->domain);
        e.ok = false;
    } else if (facts_is_own(q->facts, &ip, endpoint.port) ||
               address_refused(q->facts->config, &ip)[0] != '\0') {
        outcome_set(&e.outcome, OUTCOME_FAILED, ORIGIN_LOCAL, "dns", "5.1.2",
                    "%s is not an address that mail is delivered to", q->domain);
        e.ok = false;
    }
    endpoint.ip = ip;
    q->on_endpoints(q->arg, &e);
    facts_query_free(q);
}

struct facts_query *
facts_direct_start(struct facts *facts, const char *domain,
                   void (*done)(void *arg, const struct facts_endpoints *e), void *arg)
{
    struct facts_query *q = facts_query_new(facts, domain, arg);
    q->on_endpoints = done;
    /* dns answers a literal with DNS_BADNAME, from the next tick: just the delay wanted. */
    q->mx = dns_query(facts->dns, domain, DNS_MX, domain[0] == '[' ? on_literal : on_direct_mx, q);
    return q;
}

static void
on_hop_address(void *arg, const struct dns_answer *unused)
{
    (void)unused;
    struct facts_query *q = arg;
    q->mx = NULL;
    finish_hop(q);
}

/* The ports to try, in order: what worked last time first. */
static void
take_ports(struct facts_query *q, const struct hop *hop, uint16_t first_port)
{
    if (hop->port != 0) {
        q->ports[q->n_ports++] = (struct hop_port){hop->port, hop->implicit};
        return;
    }
    for (int first = 1; first >= 0; first--)
        for (size_t i = 0; i < hop->n_ports && q->n_ports < CONFIG_PORTS_MAX; i++)
            if ((hop->ports[i] == first_port) == first)
                q->ports[q->n_ports++] = (struct hop_port){hop->ports[i], hop->ports[i] == 465};
}

struct facts_query *
facts_hop_start(struct facts *facts, const struct hop *hop, uint16_t first_port,
                void (*done)(void *arg, const struct facts_endpoints *e), void *arg)
{
    struct facts_query *q = facts_query_new(facts, hop->address, arg);
    q->on_endpoints = done;
    q->hop = xstrdup(hop->name);
    q->turn = facts_turn(facts, true, hop->name);
    take_ports(q, hop, first_port);
    if (hop->ip.family != 0) {
        char text[IP_TEXT_MAX];
        add_host(q, ip_format(&hop->ip, text), 0);
        int family = hop->ip.family == 4 ? 0 : 1;
        q->hosts[0].addresses[family][q->hosts[0].n_addresses[family]++] = hop->ip;
        q->mx = dns_query(facts->dns, "", DNS_A, on_hop_address, q);
        return q;
    }
    add_host(q, hop->host, 0);
    ask_addresses(q);
    return q;
}
