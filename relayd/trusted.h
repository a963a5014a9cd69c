/*
 * trusted - the addresses that the names of trusted_clients have, kept current in the background.
 *
 * Sessions only look at the set as it is (trusted_names()); nobody ever waits for DNS. Each name is
 * asked for (A and AAAA) as its TTL runs out, and what the answers say is what is trusted:
 *
 *   addresses        these, from now on; one that has left the answer is trusted no more
 *   NXDOMAIN, NODATA nobody
 *   SERVFAIL, timeout, more than TRUST_ADDRESSES_MAX addresses: the last answer stays for stale_max
 *                    after it would have been renewed, with an alert; then nobody
 *   nothing yet      unknown, for stale_max at the most: who may be meant is told to come again
 *
 * Refused one by one, with a line in the log: addresses of this machine (those of the loopback
 * network belong to allow_private), and what trust_address_fault() says. A family that fails leaves
 * the other alone. Each change is logged as event=trusted_name. Never by PTR. Loop thread only.
 */
#pragma once

#include "policy/base/msec.h"
#include "policy/trust.h"

#include <stddef.h>

struct config;
struct dns;
struct facts;
struct log;
struct loop;

/* DDNS zones have TTLs of 30 s and more; one of 0 or 1 s must not keep the resolver busy. */
#define TRUSTED_REFRESH_MIN_MS (5 * SECOND)
/* Whatever the TTL: who gives an address up does not want it trusted for another day. The question
 * then passes our own cache by. */
#define TRUSTED_REFRESH_MAX_MS (1 * HOUR)
/* After a failure: soon, for at boot the resolver is often not there yet; then half as often each
 * time. */
#define TRUSTED_RETRY_MIN_MS (10 * SECOND)
#define TRUSTED_RETRY_MAX_MS (5 * MINUTE)

struct trusted; /* opaque */

/* Empty, so that listeners can be opened before there is DNS. */
struct trusted *trusted_new(struct loop *loop, struct log *log);
/* No look-up afterwards; the set is gone. Before dns and facts are freed. NULL is fine. */
void trusted_free(struct trusted *t);

/*
 * Work by the host entries of `config` from now on, at start and at each reload: new names are
 * asked for at once, names that stay keep what is known of them, others are forgotten. `dns` and
 * `facts` (whose configuration has been set) are the same ones in every call. Nothing of `config`
 * is kept.
 */
void trusted_use(struct trusted *t, struct dns *dns, const struct facts *facts,
                 const struct config *config);

/* The set. The pointer holds as long as `t`; the content changes between ticks. */
const struct trust_names *trusted_names(const struct trusted *t);

/* For /metrics. */
struct trusted_info {
    const char *host;
    size_t n_addresses;
    msec_t stale_ms; /* for how long DNS has failed; 0: it does not */
};
void trusted_each(const struct trusted *t, void (*fn)(void *arg, const struct trusted_info *info),
                  void *arg);
