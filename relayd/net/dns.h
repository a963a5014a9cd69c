/*
 * dns - questions to the resolver, on the loop: c-ares for the transport (UDP, EDNS, TCP after
 * truncation), our own ids, fail-over between servers, walk over the answer, and cache.
 *
 * NXDOMAIN, NODATA and SERVFAIL are three different things and stay so. Same questions are joined,
 * at most DNS_IN_FLIGHT_MAX are under way for each server, the rest wait in line. Single thread.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/ip.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"
#include "relayd/net/addr.h"
#include "relayd/net/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_SERVERS_MAX 16
/* For each server. Three questions a domain: 640 domains a second of a resolver that takes 200 ms.
 * With more, answers that come at once do not fit the socket's buffer, nor do questions that the
 * resolver has not read (then sending fails). */
#define DNS_IN_FLIGHT_MAX 384
#define DNS_WAITING_MAX 100000 /* questions in line; beyond it DNS_SERVFAIL at once */
#define DNS_CNAME_MAX 8        /* links of one chain */
#define DNS_RECORDS_MAX 256    /* kept of one answer, of MX the best; the rest are left out */
#define DNS_TTL_MAX_S 86400    /* whatever the zone says */
#define DNS_TTL_MIN_S 1
#define DNS_NEGATIVE_MAX_S 900    /* NXDOMAIN and NODATA (RFC 2308: min of SOA TTL and MINIMUM) */
#define DNS_NEGATIVE_DEFAULT_S 30 /* without a SOA */
#define DNS_FAILURE_TTL_S 5       /* SERVFAIL, timeout: enough to break a stampede */

enum dns_type {
    DNS_A = 1,
    DNS_CNAME = 5,
    DNS_SOA = 6,
    DNS_PTR = 12,
    DNS_MX = 15,
    DNS_TXT = 16,
    DNS_AAAA = 28,
    DNS_TLSA = 52,
};

enum dns_status {
    DNS_OK,       /* at least one record */
    DNS_NXDOMAIN, /* the name does not exist: permanent */
    DNS_NODATA,   /* it exists without such records */
    DNS_SERVFAIL, /* no usable answer: SERVFAIL, REFUSED, malformed, CNAME loop, queue full: later
                   */
    DNS_TIMEOUT,  /* no server answered: later */
    DNS_BADNAME,  /* not a name that can be asked for: permanent */
};

struct dns_record {
    uint16_t preference; /* MX */
    bool host_ok;        /* MX, PTR, CNAME: `host` is a valid host name (letters, digits, hyphens,
                            underscores; 253 octets); do not connect to others */
    const char *host;    /* MX, PTR, CNAME: lower case, no final dot, "" = the root; else NULL */
    struct ip ip;        /* A, AAAA */
    struct span data;    /* TXT: its strings joined; TLSA: the four fields as on the wire */
};

/* What a question led to. Owned by dns; valid until the callback it was given to returns. */
struct dns_answer {
    enum dns_status status;
    uint16_t type;
    bool ad;        /* authenticated data, and the server is at a loopback address, so believable */
    bool null_mx;   /* MX: exactly one record, naming the root (RFC 7505) */
    bool truncated; /* more than DNS_RECORDS_MAX records came */
    uint32_t ttl_s; /* how much longer it holds */
    const char *name; /* where the CNAME chain led; the question's name when there was none */
    size_t n_records;
    const struct dns_record *records; /* in the server's order */
    const char *text; /* one line for logs and deferrals: "NXDOMAIN", "timeout (127.0.0.1:53)" */
};

struct dns_config {
    const struct net_addr *servers; /* in order of preference; none = those of /etc/resolv.conf */
    size_t n_servers;
    msec_t timeout_ms; /* for one try at one server; 0 = 5 s. Two rounds over all servers */
    size_t cache_max;  /* answers kept; 0 = 100,000 */
};

struct dns;       /* opaque */
struct dns_query; /* one caller's interest in one question */

/* ERR_INVAL (no server, too many), ERR_IO. Reads /etc/resolv.conf when no server is named. */
MUST_CHECK enum err_code
dns_new(struct loop *loop, const struct dns_config *config, struct dns **ret, struct err *err);
/* Other servers, timeout, cache size. Questions under way are asked again of the new servers; the
 * cache stays unless the servers changed. On an error nothing changes. Not from a dns callback. */
MUST_CHECK enum err_code
dns_reconfigure(struct dns *dns, const struct dns_config *config, struct err *err);
/* The loop it runs on. */
struct loop *dns_loop(const struct dns *dns);
/* No callback afterwards; queries still open are gone. Not from a dns callback. NULL is fine. */
void dns_free(struct dns *dns);

/*
 * Ask for `name` (A-labels, with or without a final dot, odd octets as \DDD; copied) and `type`.
 * cb(arg, answer) is called exactly once, never before this returns, unless dns_cancel() comes
 * first. The query is gone when cb is called. Returns the handle for dns_cancel(), never NULL.
 */
struct dns_query *dns_query(struct dns *dns, const char *name, enum dns_type type,
                            void (*cb)(void *arg, const struct dns_answer *answer), void *arg);
/* No callback once this has returned. The question itself goes on and fills the cache. */
void dns_cancel(struct dns_query *query);
/* The answer if it is known already, else NULL; valid until the next call of this module or the end
 * of the tick. Nothing is sent. */
const struct dns_answer *dns_cached(struct dns *dns, const char *name, enum dns_type type);
/* Forget what is known of one question, so that the next one goes out. Not from a dns callback. */
void dns_forget(struct dns *dns, const char *name, enum dns_type type);
/* Forget everything known: `relayctl`, tests. */
void dns_flush(struct dns *dns);

/* "ok", "nxdomain", ...: for logs. */
const char *dns_status_name(enum dns_status status);
/* SERVFAIL and TIMEOUT: ask again later. */
bool dns_status_temporary(enum dns_status status);
/* "4.3.2.1.in-addr.arpa" for DNS_PTR; returns buf. */
#define DNS_REVERSE_BYTES 80
char *dns_reverse_name(const struct ip *ip, char buf[DNS_REVERSE_BYTES]);

/* Numbers for metrics, since the start. */
struct dns_stats {
    uint64_t questions, cache_hits, sent, answers, timeouts, servfails, tcp;
    size_t in_flight, waiting, cached;
};
struct dns_stats dns_stats(const struct dns *dns);
