/*
 * facts - what DNS says about how a domain's mail is reached (RFC 5321 section 5.1).
 *
 * Two questions, two steps: which *site* serves a domain (its MX host names; asked for each
 * recipient, usually answered at once from the cache of dns), and at which addresses that site's
 * hosts can be reached right now (asked when a connection is opened). A third is asked only where
 * the transport map has rules by MX or country: what such rules match (facts_domain_*).
 *
 * Bounded whatever the zone says: FACTS_TRY_HOSTS hosts are offered with FACTS_TRY_ADDRESSES
 * addresses each, other ones when these have failed. FACTS_HOSTS_MAX hosts are looked at, and as
 * many more only while none of them has any address: our own limits make no mail fail. Loop thread
 * only.
 */
#pragma once

#include "policy/base/domain.h"
#include "policy/base/ip.h"
#include "policy/base/outcome.h"
#include "policy/base/span.h"
#include "policy/spf.h"
#include "policy/route.h"

#include <stdbool.h>
#include <stddef.h>

struct config;
struct dns;
struct geoip;
struct hop;
struct log;

#define FACTS_HOSTS_MAX 20 /* MX hosts looked up together, best first, until one has an address */
#define FACTS_TRY_HOSTS 5  /* of them tried in one attempt */
#define FACTS_TRY_ADDRESSES 2 /* of each host */
#define FACTS_ENDPOINTS_MAX (FACTS_TRY_HOSTS * FACTS_TRY_ADDRESSES)
#define FACTS_SITE_KEY_MAX 1024
#define FACTS_MX_MAX 256           /* MX hosts that rules see, the best ones; as DNS_RECORDS_MAX */
#define FACTS_MX_TEXT_BYTES 8192   /* and their names together; 100 hosts of 80 bytes fit */
#define FACTS_COUNTRY_HOSTS_MAX 20 /* MX hosts asked for an address until one has any */

struct facts;
struct facts_query; /* a look-up under way */

struct facts *facts_new(struct dns *dns);
void facts_free(struct facts *facts); /* no look-up is under way any more */

/* Tell there what was odd about the facts of a domain. Without: nothing is told. */
void facts_set_log(struct facts *facts, struct log *log);

/*
 * Learn our own addresses for the loop check: the interfaces of this machine and the listeners of
 * `config`. Called at start and at each reload; `config` stays alive until the next call.
 */
void facts_set_config(struct facts *facts, const struct config *config);

/* Which site serves a domain. */
struct facts_site {
    bool ok;                      /* else `outcome` says why: deferred or failed */
    bool literal;                 /* the domain is an address in brackets */
    bool no_mx;                   /* no MX: the domain's own addresses */
    char key[FACTS_SITE_KEY_MAX]; /* the same for all domains with the same MX host names */
    char name[DOMAIN_BUF];        /* for people: the best host */
    struct outcome outcome;
};

/* Answer from what is known already; false: not known yet, use facts_site_start(). */
bool facts_site_cached(struct facts *facts, const char *domain, struct facts_site *ret);

/* Look `domain` up (canonical, or an address literal in its brackets); done(arg, site) is called
 * exactly once, never before this returns, unless cancelled. The site is valid during the call. */
struct facts_query *
facts_site_start(struct facts *facts, const char *domain,
                 void (*done)(void *arg, const struct facts_site *site), void *arg);

/*
 * What rules by MX and country see of a domain. Points into itself: not to be copied.
 *
 * Without MX there is no host, and the country is that of the domain's own address; the same holds
 * for an address literal. A null MX, a domain that does not exist, and an MX at special addresses
 * only have no country. Of several addresses of a host the lowest IPv4 address counts, without one
 * the lowest IPv6 address, whatever order DNS gives them in.
 */
struct facts_domain {
    bool ok;                /* all that was asked for is known (which may be: there is none) */
    struct outcome outcome; /* !ok: deferred, DNS is in trouble. What is known of `route` is right
                               all the same: decide by it, and wait only if that asks again */
    struct route_facts route;
    uint32_t ttl_s; /* how much longer all of it holds */
    char note[200]; /* for logs and explain: what was left out or odd; "" */
    /* Of facts_domain_start(): what the same MX answer says of the site, if it was asked for one.
     */
    bool site_known;
    struct facts_site site;
    const char *hosts[FACTS_MX_MAX];
    size_t n_text;
    char text[FACTS_MX_TEXT_BYTES];
};

/*
 * The facts of `needs` (ROUTE_NEEDS_*) for `domain` (canonical, or an address literal in its
 * brackets) if the cache of dns has them; false: not known yet, use facts_domain_start(). `geoip`
 * NULL: nothing has a country.
 */
bool facts_domain_cached(struct facts *facts, const struct geoip *geoip, const char *domain,
                         unsigned needs, struct facts_domain *ret);

/* Look them up. done(arg, domain) is called exactly once, never before this returns, unless
 * cancelled; the facts are valid during the call. `geoip` is held meanwhile: a reload may come. */
struct facts_query *
facts_domain_start(struct facts *facts, struct geoip *geoip, const char *domain, unsigned needs,
                   void (*done)(void *arg, const struct facts_domain *domain), void *arg);

/* Where to connect, in the order to try. */
struct facts_endpoint {
    struct ip ip;
    uint16_t port;
    bool implicit_tls;
    const char *host;
};

struct facts_endpoints {
    bool ok;         /* n >= 1; else `outcome` */
    const char *key; /* direct: of the site that serves the domain by now, as in struct facts_site;
                        "" when none does. A hop: "" */
    size_t n;
    const struct facts_endpoint *list;
    bool more; /* there are others than these */
    struct outcome outcome;
};

/*
 * The addresses of the hosts that serve `domain` directly: by preference, equal ones shuffled, our
 * own listeners and everything behind them dropped, special addresses dropped unless
 * direct.allow_private. `done` as above.
 */
struct facts_query *
facts_direct_start(struct facts *facts, const char *domain,
                   void (*done)(void *arg, const struct facts_endpoints *e), void *arg);

/* The addresses of a hop, for every port of its ladder; `first_port` (0: none) comes first. `hop`
 * is not used after the call: a reload may come before the answer. */
struct facts_query *
facts_hop_start(struct facts *facts, const struct hop *hop, uint16_t first_port,
                void (*done)(void *arg, const struct facts_endpoints *e), void *arg);

/* How long it is remembered which ones have failed: longer than from one retry to the next. */
#define FACTS_TURN_KEEP_MS DAY
/* All endpoints have failed, and there are more: the next look-up begins behind them. `key` as in
 * struct facts_endpoints, or the hop's name. */
void facts_next_turn(struct facts *facts, bool hop, const char *key);

/* ---- SPF: facts_spf.c ---- */

#define FACTS_SPF_WAIT_MS 2000      /* an attempt waits no longer; what is open is temperror */
#define FACTS_SPF_ADDRESSES_MAX 128 /* at once: v4 and v6 of CONFIG_ROUTES_MAX routes */
#define FACTS_SPF_QUESTIONS_MAX 500 /* to DNS, likewise; beyond it what is open is temperror */
#define FACTS_SPF_CACHE_MAX 10000   /* results kept, one for each domain and address */
#define FACTS_SPF_TTL_MAX_S 3600    /* whatever the zones say */
#define FACTS_SPF_FAILURE_TTL_S 10  /* temperror: not each message of a burst waits anew */

/*
 * Which of `n` addresses of ours may send mail of `sender` (local@domain, canonical)? ret[i] is for
 * ips[i]; an address of family 0 is SPF_NONE, and so is everything for the null sender "": there is
 * no domain that a receiver could blame but that of our own HELO name. `helo` is what we say after
 * EHLO. False: not known yet, use facts_spf_start().
 *
 * Results that the local part or `helo` had a say in (macros) are never known beforehand: take them
 * from done(), do not wait for this to return true.
 */
bool facts_spf_cached(struct facts *facts, const char *sender, const char *helo,
                      const struct ip *ips, size_t n, enum spf_result *ret);

/* Look it up; everything is copied. done(arg, results) is called exactly once, within
 * FACTS_SPF_WAIT_MS, never before this returns, unless cancelled; results[n] are valid during it.
 */
struct facts_query *
facts_spf_start(struct facts *facts, const char *sender, const char *helo, const struct ip *ips,
                size_t n, void (*done)(void *arg, const enum spf_result *results), void *arg);

/* Inside done(): the address that results[i] is for; NULL: there are not so many. */
const struct ip *facts_spf_ip(const struct facts_query *query, size_t i);
/* Inside done(): why results[i] is what it is, for `explain`: "-all at example.com". */
const char *facts_spf_why(const struct facts_query *query, size_t i);

/* No callback once this has returned. NULL is fine. */
void facts_cancel(struct facts_query *query);

/* Does this machine have that address, on an interface or for a listener? */
bool facts_is_here(const struct facts *facts, const struct ip *ip);

/* Is this one of our own listeners? */
bool facts_is_own(const struct facts *facts, const struct ip *ip, uint16_t port);

/* The address in an address literal with its brackets. */
bool facts_literal(const char *domain, struct ip *ret);
/* No client's mail is taken for a literal of this address: it is our own, or not one of the
 * Internet. */
bool facts_literal_refused(const struct facts *facts, const struct ip *ip);
