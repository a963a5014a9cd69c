/*
 * learn - learned routes: mail for a domain or a site that avoids one route for a while, because
 * that route was refused there (behaviour.md, "Routing and learning").
 *
 *                      refused: ttl, good = 0                 until is over
 *   (nothing) ─────────────────────────────▶ AVOIDING ─────────────────────────▶ PROBING
 *        ▲  ▲                                   ▲  │ refused (mail in flight):      │ │ │
 *        │  │                                   │  └▶ its newest reply, no more     │ │ │
 *        │  │                                   └───────────────────────────────────┘ │ │
 *        │  │                 a probe is refused: ttl doubles up to max_ttl, good = 0  │ │
 *        │  └──────────────────────────────────────────────────────────────────────────┘ │
 *        │                                    LEARN_GOOD_PROBES good ones: forgotten     │
 *        └───────────────────────────────────────────────────────────────────────────────┘
 *                                                   nobody asked for max_ttl: swept
 *
 * While PROBING one recipient at a time goes by the avoided route (its slot, see learn_probe()),
 * the others still avoid it. An entry only ever says "not by this route, if there is another one":
 * it adds no route and crosses no fence. Routes are held by name, since configurations change; an
 * entry whose route is gone does nothing and is swept in the end.
 *
 * Pure: no clock (`now` is wall time), nothing is written. What has to be stored, logged and
 * counted is told through `changed`. Everything but the entries themselves (who probes, failed
 * paths, reroutes) is forgotten at a restart.
 *
 * Clocks jump: a moment further off than max_ttl is pulled in, when it is read and when it is asked
 * for. A clock that runs ahead for a while at worst forgets, and what was refused is learned again.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/map.h"
#include "policy/base/outcome.h"
#include "policy/config.h"

/* Good probes that end an entry: one may be luck, of a pool with one clean address. */
#define LEARN_GOOD_PROBES 3u
/* A recipient that took the slot and said nothing more (removed, held, stuck) blocks others for so
 * long: more than a connection and its transaction take. */
#define LEARN_LEASE_MS (15 * MINUTE)
/* Learned at most: more destinations that refuse us than a relay has whose mail still goes out.
 * 52 MiB with usual names, 171 MiB if all are the longest. Beyond it the one whose time ends first
 * goes. */
#define LEARN_ENTRIES_MAX 100000u
/* Sites whose path failed lately. Beyond it the counter that failed longest ago goes. */
#define LEARN_COUNTERS_MAX 10000u
/* Recipients of one attempt fail on the path together, and count once. */
#define LEARN_PATH_GAP_MS SECOND
#define LEARN_TEXT_MAX 200u  /* octets kept of a reply: reasons stand at its start */
#define LEARN_ROUTE_MAX 64u  /* octets of a route's name; the configuration allows 32 */
#define LEARN_NAME_MAX 1024u /* octets of a site's key (facts.h); a domain has DOMAIN_MAX */

/* Whose mail, by which route. `site` is facts_site.key, `label` its best host, for people; both are
 * empty when the route is a hop, whose mail does not touch the site. */
struct learn_way {
    struct span domain; /* canonical */
    struct span site, label;
    struct span route;
    struct { /* the recipient that asks; id 0: nobody */
        uint64_t id, no;
    } key;
};

/* What taught it. Only read. */
struct learn_reply {
    struct span to;    /* the route that took over, for people; or empty */
    struct span klass; /* a class's name (classify.h) */
    int code;          /* 0: none */
    struct enh enh;
    struct span text;
    bool early;    /* it came before RCPT: at connect, TLS, greeting, EHLO, AUTH or MAIL */
    bool scope_ip; /* `scope: ip`: it is said to be about our address, whatever the domain */
};

enum learn_scope { LEARN_DOMAIN, LEARN_SITE };

/* A learned route, as `changed` and learn_each() show it. Valid during the call. */
struct learn_entry {
    enum learn_scope scope;
    struct span name;             /* the domain, or the site's key */
    struct span label;            /* the domain, or the site's best host */
    struct span route;            /* the one to avoid */
    char to[LEARN_ROUTE_MAX + 1]; /* who took over at the newest refusal; "": not known */
    const char *klass;            /* of the newest refusal, as the next three; a static name */
    int code;
    struct enh enh;
    char text[LEARN_TEXT_MAX + 1];
    msec_t since_at, until_at;
    msec_t ttl_ms; /* how long it was learned for, the last time */
    uint32_t renewals;
    uint32_t good;      /* good probes since then */
    uint64_t site_hash; /* of a domain: which site serves it; 0: not known, or a hop */
};

enum learn_advice {
    LEARN_FREE,  /* nothing speaks against it */
    LEARN_PROBE, /* avoid it, but this recipient may probe it: learn_probe() before it goes */
    LEARN_AVOID,
};

enum learn_state { LEARN_AVOIDING, LEARN_PROBING };

enum learn_change {
    LEARN_LEARNED,
    LEARN_RENEWED,   /* a probe was refused */
    LEARN_PROBED,    /* a recipient took the slot: nothing to be stored */
    LEARN_GOOD,      /* a good probe, not the last one */
    LEARN_FORGOTTEN, /* the last good probe; gone, as all that follow but the last one */
    LEARN_REMOVED,   /* by learn_forget() */
    LEARN_SWEPT,
    LEARN_EVICTED,   /* there are LEARN_ENTRIES_MAX */
    LEARN_PULLED_IN, /* its end was absurdly far off */
    LEARN_CHANGE__COUNT
};

/* "domain", "site"; "avoiding", "probing"; "learned", "renewed", ... as logged and counted. */
const char *learn_scope_name(enum learn_scope scope);
const char *learn_state_name(enum learn_state state);
const char *learn_change_name(enum learn_change change);
/* The entry is gone, so its row is to be removed. */
bool learn_change_removes(enum learn_change change);
enum learn_state learn_state(const struct learn_entry *e, msec_t now);

struct learn; /* opaque */

/* `changed` is called from within the calls below, which it may not make itself. `config` is
 * copied. The seed is random in a daemon: names come from strangers. */
struct learn *
learn_new(struct map_seed seed, const struct config_learning *config,
          void (*changed)(void *arg, enum learn_change change, const struct learn_entry *e),
          void *arg);
void learn_free(struct learn *l);
void learn_set_config(struct learn *l, const struct config_learning *config);

/* ---- asking ---- */

/*
 * How this recipient stands to a route. The domain's and the site's entry are both asked: AVOID
 * wins over PROBE, PROBE over FREE. *ret_why (may be NULL) becomes the entry that decided, NULL
 * with FREE; it is valid until the next call that changes something.
 */
enum learn_advice learn_advise(struct learn *l, const struct learn_way *way, msec_t now,
                               const struct learn_entry **ret_why);

/*
 * The recipient really goes this way: it takes the slot of all entries that are due, for
 * LEARN_LEASE_MS, so that its result counts for the domain and for the site. The same recipient may
 * take it again, which renews the lease. False when the advice is not PROBE (any more).
 */
bool learn_probe(struct learn *l, const struct learn_way *way, msec_t now);

/* ---- results ---- */

/*
 * The route was refused, by a refusal that another route could cure (classify.h). Before RCPT it is
 * learned for the site, and through a hop not at all; later for the domain, and also for the site
 * when it is keyed to our address or another domain of that site has the same route refused at the
 * moment. An entry there is renewed when it was due, else it only gets the newest reply. A rate
 * limit is never learned: it counts as no verdict.
 */
void learn_refused(struct learn *l, const struct learn_way *way, const struct learn_reply *reply,
                   msec_t now);

/*
 * Every host of the site failed on the path in this attempt. The path_errors.count-th time within
 * path_errors.within it is learned for the site, as routing-error; so it is at once when the
 * attempt was the probe of an entry that a failed path has taught. Through a hop: nothing (the hop
 * is looked after by itself). The slot is free again.
 */
void learn_path_failed(struct learn *l, const struct learn_way *way,
                       const struct learn_reply *reply, msec_t now);

/* It was accepted: a good probe of every entry whose time is over or whose slot this recipient
 * has, else nothing. The site's failed paths are forgotten. Cheap when nothing is learned. */
void learn_delivered(struct learn *l, const struct learn_way *way, msec_t now);

/* It ended in neither (greylisted, mailbox, content, dropped): its slots are free again. */
void learn_no_verdict(struct learn *l, const struct learn_way *way);

/*
 * May a recipient that `from` refused go by `to` now? Counts it when it may. Not more than
 * learning.max_reroutes in any such time, for each pair of routes: a spam run that all receivers
 * refuse must not burn the second address too. *ret_alert is set when this is the first no of a
 * window.
 *
 * Only refusals are asked for here. Who follows a learned route is not counted: that is one
 * decision about a destination, made once, and a company's daily mail to it must not stop at 200/h.
 * Nor is a failed path: no reputation is at stake, and all the mail of a dead link is to move.
 */
bool
learn_may_reroute(struct learn *l, struct span from, struct span to, msec_t now, bool *ret_alert);

/* ---- the table ---- */

size_t learn_count(const struct learn *l);
/* In no order; the table may not be changed meanwhile. */
void
learn_each(const struct learn *l, void (*each)(void *arg, const struct learn_entry *e), void *arg);
/* Forget all entries of the domain, or of the site with this label or key; and of the site that a
 * forgotten domain was refused at, by the same route, since it would hold the domain as before.
 * Returns how many. */
size_t learn_forget(struct learn *l, struct span name);
/* Forget what has been due for max_ttl without a verdict: nobody writes there. Call it now and
 * then; returns how many, at most `max`. */
size_t learn_sweep(struct learn *l, msec_t now, size_t max);

/* ---- rows ----
 *
 * The key of a row is LEARN_ROW_SPACE, the scope and, bounded, name and route; the value, version
 * 1, all numbers big-endian:
 *   u8 version, u16 length of what follows that version 1 knows, then
 *   u8 scope (0 domain, 1 site), u64 since, u64 until, u64 ttl (ms), u32 renewals, u32 good,
 *   u64 site hash, u16 code, u8 enh class, u16 subject, u16 detail,
 *   and six strings (u16 length, bytes): name, label, route, to, class, text.
 * Bytes behind that length are a newer program's fields: ignored.
 */
#define LEARN_ROW_SPACE "learned:"
#define LEARN_ROW_KEY_MAX 384u
#define LEARN_ROW_VALUE_MAX 4096u

/* Write the row's key (NUL-terminated) to `buf`; returns its length. */
size_t learn_row_key(const struct learn_entry *e, char buf[static LEARN_ROW_KEY_MAX]);
/* Append the row's value. */
void learn_row_value(const struct learn_entry *e, struct strbuf *out);
/* Decode a row; the spans of the entry point into `value`. ERR_CORRUPT when it breaks its own rules
 * or does not belong to this key. */
MUST_CHECK enum err_code
learn_row_decode(struct span key, struct span value, struct learn_entry *ret, struct err *err);
/* Take a stored row into the table at the start, its times made plausible. What was taken is not
 * told to `changed` (what that changed, or put out, is). Errors as above, and ERR_EXISTS. */
MUST_CHECK enum err_code
learn_load(struct learn *l, struct span key, struct span value, msec_t now, struct err *err);
