/*
 * facts_private - what the files of facts share; nobody else includes this.
 */
#pragma once

#include "policy/base/map.h"
#include "policy/config.h"
#include "relayd/facts.h"
#include "relayd/net/dns.h"
#include "relayd/ops/log.h"

#define FACTS_OWN_ADDRESSES_MAX 256
#define FACTS_TOLD_MAX 4096  /* domains remembered to have been told of; 32 KiB */
#define FACTS_TURNS_MAX 4096 /* sites remembered by facts_next_turn(); 96 KiB */
#define FACTS_NOTE_BYTES 400 /* of one such line: a few hosts and why; the rest is "..." */

/* Of one site whose first addresses have failed. */
struct facts_turn {
    uint64_t site;   /* hash of its key */
    msec_t until_at; /* monotonic */
    unsigned turn;
};

struct facts {
    struct dns *dns;
    const struct config *config;
    struct log *log;                        /* NULL: none */
    struct ip own[FACTS_OWN_ADDRESSES_MAX]; /* of this machine's interfaces */
    size_t n_own;
    struct spf_cache *spf; /* NULL until the first look-up */
    struct map_seed told_seed;
    uint64_t told[FACTS_TOLD_MAX]; /* by domain: hash of it and of what was told; 0: nothing */
    struct facts_turn turns[FACTS_TURNS_MAX]; /* by hash of the site's key */
};

/* What was left out of a domain's hosts. */
enum facts_dropped {
    FACTS_DROPPED_NAME = 1,    /* an MX that names no host */
    FACTS_DROPPED_NULL = 2,    /* a null MX among others (RFC 7505 forbids that) */
    FACTS_DROPPED_ADDRESS = 4, /* an address that mail is not delivered to */
    FACTS_DROPPED_OURSELVES = 8,
    FACTS_DROPPED_REST = 16, /* hosts beyond FACTS_HOSTS_MAX, not needed */
    FACTS_ODD_FACTS = 32,    /* facts_domain.c: what rules see is not all */
};

/* Say that once of a domain; `kinds` are bits of enum facts_dropped: others are told anew. */
void facts_tell(struct facts *facts, enum log_level level, const char *event, const char *domain,
                unsigned kinds, const char *reason);
void facts_told_forget(struct facts *facts);

/* How often all addresses that were given of a site have failed; 0 for most. */
unsigned facts_turn(struct facts *facts, bool hop, const char *key);
/* Which of `n_usable` hosts, of `n_hosts` looked up, comes first in this turn, and which of `n`
 * addresses of one family of a host. The others follow, the last one before the first. */
size_t facts_first_host(unsigned turn, size_t n_hosts, size_t n_usable);
size_t facts_first_address(unsigned turn, size_t n_hosts, size_t n);

/* One host of a direct look-up and its two questions. */
struct host_lookup {
    struct facts_query *query;
    char *name;
    uint16_t preference;
    struct dns_query *asked[2]; /* A, AAAA */
    struct ip addresses[2][FACTS_TRY_ADDRESSES];
    size_t n_addresses[2];
    size_t n_all[2]; /* of which they were taken */
    bool temporary, own;
};

/* An MX host that can be asked for. */
struct mx_host {
    char *name;
    uint16_t preference;
    uint32_t shuffle; /* order among equals */
};

struct hop_port {
    uint16_t port;
    bool implicit_tls;
};

/* A look-up of what rules see, question by question: facts_domain.c. */
struct domain_lookup;
void facts_domain_free(struct domain_lookup *lookup); /* NULL is fine */

/* A look-up of what a sender's SPF record says, and results kept: facts_spf.c. */
struct spf_lookup;
void facts_spf_free(struct spf_lookup *lookup); /* NULL is fine */
struct spf_cache;
void facts_spf_cache_free(struct spf_cache *cache); /* likewise */

struct facts_query {
    struct facts *facts;
    char *domain;
    void (*on_site)(void *arg, const struct facts_site *site);
    void (*on_endpoints)(void *arg, const struct facts_endpoints *endpoints);
    void *arg;
    char *hop; /* its name; NULL: direct */
    struct hop_port ports[CONFIG_PORTS_MAX];
    size_t n_ports;
    struct dns_query *mx; /* or whatever one question is under way */
    struct domain_lookup *lookup;
    struct spf_lookup *spf;
    struct mx_host *mx_hosts; /* all of them, in the order to try */
    size_t n_mx_hosts, mx_next;
    bool mx_truncated;                         /* there are more of them than dns keeps */
    struct host_lookup hosts[FACTS_HOSTS_MAX]; /* those looked up now */
    size_t n_hosts, n_open;
    char key[FACTS_SITE_KEY_MAX];
    unsigned turn;
    unsigned dropped;            /* bits of enum facts_dropped */
    char note[FACTS_NOTE_BYTES]; /* which ones */
};

/* A query about `domain` (copied), not asked yet. */
struct facts_query *facts_query_new(struct facts *facts, const char *domain, void *arg);
void facts_query_free(struct facts_query *q);

/* What an MX answer says of the site; false in ret->ok with an outcome when it serves none. */
void
facts_site_from_answer(const char *domain, const struct dns_answer *mx, struct facts_site *ret);
