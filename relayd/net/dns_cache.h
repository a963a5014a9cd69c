/*
 * dns_cache - answers by question, the least recently used going first. Loop thread only.
 */
#pragma once

#include "policy/base/map.h"
#include "relayd/net/dns.h"
#include "relayd/net/dns_wire.h"

#include <sys/queue.h>

/*
 * One answer with what it is made of. Counted, because it may leave the cache while a callback that
 * looks at it is still to run.
 */
struct dns_entry {
    struct dns_answer answer; /* ttl_s is set when it is given out */
    msec_t expires_at;        /* monotonic */
    unsigned n_refs;
    bool cached;
    TAILQ_ENTRY(dns_entry) link; /* most recently used first */
    struct dns_found *found;     /* owned; NULL for failures */
    struct span key;             /* in `bytes` */
    char bytes[];                /* key, then the text */
};

#define DNS_KEY_BYTES (DNS_NAME_BYTES + 2)

struct dns_cache;

/* The key of a question, in `buf`: two octets of type, then the canonical name. */
struct span dns_key(char buf[DNS_KEY_BYTES], const char *name, uint16_t type);

/* An answer of one reference. Takes over `found`, which may be NULL: then status and name are
 * given. `ttl_s` counts from `now`. */
struct dns_entry *dns_entry_new(struct span key, struct dns_found *found, enum dns_status status,
                                uint32_t ttl_s, msec_t now, const char *text);
void dns_entry_ref(struct dns_entry *e);
void dns_entry_unref(struct dns_entry *e); /* NULL is fine */

struct dns_cache *dns_cache_new(size_t max);
void dns_cache_free(struct dns_cache *c); /* NULL is fine */
/* Keep it (with a reference of its own) in place of an older one. */
void dns_cache_put(struct dns_cache *c, struct dns_entry *e);
/* A borrowed entry that holds at `now`, its ttl_s set; or NULL. */
struct dns_entry *dns_cache_get(struct dns_cache *c, struct span key, msec_t now);
void dns_cache_forget(struct dns_cache *c, struct span key); /* none there is fine */
void dns_cache_clear(struct dns_cache *c);
void dns_cache_set_max(struct dns_cache *c, size_t max);
size_t dns_cache_n(const struct dns_cache *c);
/* What is left of its life. */
void dns_entry_age(struct dns_entry *e, msec_t now);
