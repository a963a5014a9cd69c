/*
 * schedule - which recipient is tried when, by which route, at which site, on how many connections.
 *
 *   accepted ─▶ take ─┐                        ┌─ wait for facts ─┐
 *   fresh page ───────┼─▶ plan (route, site) ──┴──────────────────┴─▶ ready at its site ─▶ link ─▶
 * send lane page ────────┘        ▲    │ no route open: postponed (delivery) │    └───────▶ queue │
 *                     reroute ─┴──────────────────── record ◀──────── attempts ◀───────────┘
 *
 * Knows no SMTP: connections are opened and used through schedule_ops, and come back as the
 * schedule_link_* calls. Knows no rules either: policy/route decides, anew at every attempt, so a
 * changed map takes effect on mail that already waits. Loop thread only; nothing polls.
 */
#pragma once

#include "policy/config.h"
#include "relayd/facts.h"
#include "relayd/net/loop.h"
#include "relayd/relay.h"
#include "relayd/store/store.h"

#define SCHEDULE_HAND_MAX 20000 /* recipients in hand; below half of it more are read */
#define SCHEDULE_PAGE_ROWS 500
#define SITE_READY_MAX 2000 /* waiting at one site; more stay in the queue */
/* A site whose first one waits for so long is slow. If half the hand is taken, it has a share of
 * what is left of that half, so that slow sites together never fill it and others always get in. */
#define SITE_SLOW_MS (3 * SECOND)
#define SITE_READY_SHARE 4 /* a quarter of it */
#define SITE_READY_MIN 100 /* but a transaction's worth at least */
/* ... as long as there are not very many: these minima together are no more than a quarter of the
 * hand. Then a site without a connection keeps nobody, and one with a connection the first one. */
#define SITES_READY_MIN (SCHEDULE_HAND_MAX / 4)
/* Who waits for a suspension to end leaves the hand when half of it is taken, and is looked at
 * again when that ends, or now and then: a reload or a pin may have opened another way. */
#define SITE_SUSPENDED_MS (5 * MINUTE)
/* Of the connections, a quarter is kept for hops and for sites that have taken mail: hosts that
 * accept and never greet may hold all others for minutes, and there can be any number of them. One
 * at least, if there are two. */
#define SCHEDULE_RESERVE_SHARE 4
#define SITE_PROBE_HOP_MS (1 * MINUTE)
#define SITE_PROBE_HOP_MAX_MS (30 * MINUTE)
#define SCHEDULE_OVERFLOW_MS (30 * SECOND) /* those that found a site full are looked at again */

struct schedule;
struct site_link; /* one connection of a site, as schedule sees it */

/* What a connection is wanted for. Valid during the call. */
struct schedule_target {
    const char *route;     /* name */
    const struct hop *hop; /* NULL: direct */
    const char *site;      /* name, for logs */
    enum config_tls tls;   /* the level that holds */
    bool has_fallback;     /* somebody waiting there could go another way */
    uint32_t max_messages; /* of one session */
    const struct facts_endpoints *endpoints;
};

struct schedule_ops {
    /* Begin to connect; returns the connection's handle. Answered by schedule_link_ready, _failed.
     */
    void *(*open)(void *arg, struct site_link *link, const struct schedule_target *target);
    /* One transaction: recipients of one message, all STAGE_BUSY, on a ready connection. Ends with
     * schedule_link_sent(). */
    void (*send)(void *arg, void *conn, struct rcpt *const *rcpts, size_t n);
    void (*quit)(void *arg, void *conn);
    /* Does it still take a transaction? It may be saying QUIT for reasons of its own. */
    bool (*ready)(void *arg, void *conn);
    /* Outcomes that need no connection (no route, no site, a site that is down): to record. */
    void (*attempted)(void *arg, struct attempt *attempts, size_t n);
    /* Could another route cure this failure of a whole site? `host` said so, or "". */
    bool (*curable)(void *arg, const struct outcome *outcome, const char *host);
    /* A rule says hold. */
    void (*hold)(void *arg, struct rcpt *rcpt, struct span reason);
    /* The route that the administrator wants first for this recipient; empty: none. Points into
     * rcpt->attempts. */
    struct span (*wanted_route)(void *arg, const struct rcpt *rcpt);
    /* Has this recipient's expiry, or a warning to its sender, fallen due? */
    bool (*overdue)(void *arg, const struct rcpt *rcpt);
};

/* What decisions are made by; replaced as a whole. */
struct schedule_policy {
    const struct config *config;
    struct geoip *geoip; /* NULL: nothing has a country */
};

struct log;
struct learned;
struct schedule_env {
    struct loop *loop;
    struct log *log;
    struct store *store;
    struct queue *queue; /* for queue_lane() only */
    struct facts *facts;
    struct learned *learned; /* NULL: nothing is learned */
    struct schedule_policy policy;
    size_t max_connections; /* that the descriptors allow */
    const struct schedule_ops *ops;
    void *arg;
};

struct schedule *schedule_new(const struct schedule_env *env);
/* Everything in hand is forgotten: the queue has it. Connections are gone by now. */
void schedule_free(struct schedule *s);
/* These messages are tried first, each by itself, before anything else is taken in hand. Called
 * before schedule_start(). */
void schedule_alone(struct schedule *s, const uint64_t *ids, size_t n);
/* Read what waits: lanes, holds and suspensions, then fresh recipients. */
void schedule_start(struct schedule *s);
/* Start nothing new, quit idle connections; on_drained once, not inside this call, when no
 * transaction is open and every outcome is stored. */
void schedule_drain(struct schedule *s, void (*on_drained)(void *arg), void *arg);
/* Nothing is started or touched any more: connections are about to be cut. Completions of reads and
 * operations may still come, until schedule_free(). */
void schedule_stop(struct schedule *s);
/* Another configuration: recipients that wait at sites are planned anew. */
void schedule_set_policy(struct schedule *s, const struct schedule_policy *policy);

/*
 * A message whose commit is synced, and its recipients as rcpt_new() made them. All of them
 * are the schedule's from now on, and `body` (may be NULL) too. What does not fit in hand is
 * dropped: it is in the queue's fresh table.
 */
void schedule_take(struct schedule *s, struct msg *msg, struct msg_body *body,
                   struct rcpt *const *rcpts, size_t n_rcpts);

/* ---- what connections report ---- */

/* The site that a link works for, for logs and outcomes. */
const char *schedule_link_site(const struct site_link *link);
const char *schedule_link_route(const struct site_link *link);

void schedule_link_ready(struct site_link *link);
/* Connected by way of `port`: a hop's ladder begins there next time. */
void schedule_link_port(struct site_link *link, uint16_t port);
/* Who spoke last on a link that is about to fail, for logs and reports: "192.0.2.1:25" and its
 * name, and how long it took. Both are copied. */
void
schedule_link_met(struct site_link *link, const char *peer, const char *host, msec_t connect_ms);
/* Never ready, and gone. */
void schedule_link_failed(struct site_link *link, const struct outcome *outcome);
/* The recipient is with record already; the transaction goes on with others. */
void schedule_link_decided(struct site_link *link, struct rcpt *rcpt);
/* The transaction is over and its recipients are with record. `trouble` (or NULL): the hop is to be
 * treated as down. */
void schedule_link_sent(struct site_link *link, const struct outcome *trouble);
void schedule_link_closed(struct site_link *link);
/* When the hop that failed this recipient, or the whole direct route, is probed next (wall); 0: it
 * is not down. */
msec_t schedule_probe_at(const struct schedule *s, const struct rcpt *rcpt);
/* A reply says that we are too fast for this recipient's site. */
void schedule_slow(struct schedule *s, const struct rcpt *rcpt);

/* ---- what record decides ---- */

/* The recipient's route failed it: is there another one to take now? What `why` teaches is learned
 * if the rule says so. */
enum rerouted schedule_reroute(struct schedule *s, struct rcpt *rcpt, const struct reroute *why);
/* The recipient's route took it: a good probe, if it was one. */
void schedule_delivered(struct schedule *s, struct rcpt *rcpt);
/* fallback_after of the rule that decides for this recipient; 0: never. */
msec_t schedule_fallback_after(struct schedule *s, const struct rcpt *rcpt);
/* A refusal named our address: does the site have addresses of the other `family` to try before
 * another route? Then it is on its way there. When that family leads nowhere, `refusal` (copied to
 * rcpt->refusal) is what counts. */
bool schedule_other_family(struct schedule *s, struct rcpt *rcpt, uint8_t family,
                           const struct outcome *refusal);
/* After schedule_reroute() said no: has a route that the map gives not refused it in this attempt?
 * It was out of reach, and may take the recipient later. */
bool schedule_route_left(struct schedule *s, const struct rcpt *rcpt);
/* The queue has stored the fate of a recipient (STAGE_RECORDING) in transaction `txn`. */
void schedule_recorded(struct schedule *s, struct rcpt *rcpt, enum rcpt_fate fate, msec_t due_at,
                       uint64_t txn);

/* ---- verbs ---- */

/* A verb changed these recipients in the queue in transaction `txn`. */
void
schedule_touched(struct schedule *s, const struct queue_touched *touched, size_t n, uint64_t txn);
/* The verb was a retry of these: whoever of them meets a site, or a route as a whole, that has been
 * down since before is its probe. Called after schedule_touched(). */
void schedule_retried(struct schedule *s, const struct queue_touched *touched, size_t n);
/* Give up on a recipient that a list page shows: it gets `outcome` through record (which drops it
 * when the revision is another one by now), unless it is in a transaction or has just left. Returns
 * whether it was taken. */
bool
schedule_give_up(struct schedule *s, const struct queue_row *row, const struct outcome *outcome);
/* A held domain was released or a suspension ended: look at everything again. */
void schedule_rescan(struct schedule *s);

/* Suspensions: kind and name as in the state rows SCHEDULE_SUSPEND_SPACE "KIND:NAME". */
#define SCHEDULE_SUSPEND_SPACE "suspend:"
#define SUSPENSION_VALUE_MAX 272
enum pause_kind { PAUSE_DOMAIN, PAUSE_SITE, PAUSE_ROUTE };
const char *pause_kind_name(enum pause_kind kind); /* "domain", "site", "route" */
struct pause {
    enum pause_kind kind;
    char *name;
    char *reason;
    msec_t until_at; /* wall */
    struct pause *next;
};
/* What a suspension's row holds, written to `buf`. */
struct span schedule_suspension_value(char buf[static SUSPENSION_VALUE_MAX], msec_t until_at,
                                      struct span reason);
void schedule_suspend(struct schedule *s, enum pause_kind kind, struct span name, msec_t until_at,
                      struct span reason);
/* Returns how many suspensions of that name ended. */
size_t schedule_resume(struct schedule *s, struct span name);
const struct pause *schedule_pauses(const struct schedule *s);
const struct pause *
schedule_paused(const struct schedule *s, enum pause_kind kind, struct span name);
/* What keeps a site's mail back: a suspension of it, or of its route; NULL: nothing. */
const struct pause *
schedule_site_paused(const struct schedule *s, const char *route, const char *site);
void schedule_hold_domain(struct schedule *s, struct span domain, struct span reason);
void schedule_release_domain(struct schedule *s, struct span domain);
/* Why the domain is on hold; "": no reason was given; NULL: it is not. */
const char *schedule_hold_reason(const struct schedule *s, struct span domain);

/* Pins: by which route the administrator sends a domain's mail for a while. State rows
 * SCHEDULE_PIN_SPACE and the canonical domain. */
#define SCHEDULE_PIN_SPACE "pin:"
#define PIN_VALUE_MAX 128
struct pin {
    char *domain, *route;
    msec_t since_at, until_at; /* wall */
};
/* What a pin's row holds, written to `buf`. */
struct span schedule_pin_value(char buf[static PIN_VALUE_MAX], struct span route, msec_t since_at,
                               msec_t until_at);
/* Pin a domain, in the place of an earlier pin. */
void schedule_pin(struct schedule *s, struct span domain, struct span route, msec_t since_at,
                  msec_t until_at);
/* Whether there was a pin that still held. */
bool schedule_unpin(struct schedule *s, struct span domain);
/* The domain's pin; NULL: none, or its time is over. */
const struct pin *schedule_pinned(const struct schedule *s, struct span domain);
/* Call each (may be NULL) for all that hold; returns their number. */
size_t
schedule_pins(const struct schedule *s, void (*each)(void *arg, const struct pin *pin), void *arg);

/* ---- what is going on ---- */

enum site_state { SITE_UP, SITE_DOWN, SITE_PROBING };
const char *site_state_name(enum site_state state); /* "up", "down", "probing" */

/* May a recipient be brought there now? LAST_RESORT: a probe is under way; wait for it. */
enum site_use { SITE_USE_YES, SITE_USE_LAST_RESORT, SITE_USE_NO };

struct site_info {
    const char *name, *route;
    enum site_state state;
    enum site_use use;
    bool suspended;
    bool curable; /* another route would help; when not UP */
    size_t n_ready, n_busy, n_connections;
    msec_t probe_at;     /* wall; when DOWN */
    unsigned failures;   /* in a row */
    unsigned slowed;     /* halvings of the rate */
    const char *failure; /* text of the last failed connection, when not UP */
};
/* Every site that is known at the moment; sites without work are forgotten after a while. */
void schedule_sites(struct schedule *s, void (*each)(void *arg, const struct site_info *info),
                    void *arg);
/* Not up, or suspended; and which of it: "down", "probing", "suspended", or "up". */
bool site_in_trouble(const struct site_info *info);
const char *site_trouble_name(const struct site_info *info);
/* Those in trouble, where most is waiting first, then where most attempts in a row have failed: at
 * most `max`; returns how many. Valid until the next call into the schedule. */
size_t schedule_worst(struct schedule *s, struct site_info *ret, size_t max);
/* A site by its route and name, if it is known: there may be several (levels of TLS). */
bool
schedule_site_find(struct schedule *s, const char *route, const char *name, struct site_info *ret);
/* The one that planning would choose; `key` as facts_site has it, or the hop's name. False: it is
 * not known yet, and takes whoever comes unless schedule_direct_down(). */
bool schedule_site_chosen(const struct schedule *s, const char *route, const char *key,
                          enum config_tls tls, struct site_info *ret);

/* Is the direct route down as a whole? Then since when, when it is probed next (both wall), and
 * what the last connection met (valid until the next call into the schedule). */
bool schedule_direct_down(const struct schedule *s, msec_t *ret_since_at, msec_t *ret_probe_at,
                          const char **ret_text);

struct schedule_numbers {
    size_t in_hand, ready, busy, recording, sites, sites_down, connections, lanes, bodies_bytes;
    bool fresh_backlog;
};
void schedule_numbers(const struct schedule *s, struct schedule_numbers *ret);
/* Is the recipient in hand (not gone)? For `queue list`. */
bool schedule_in_hand(const struct schedule *s, uint64_t id, uint32_t no);
/* How many recipients in hand match, and their messages: *ret_ids (may be NULL) is malloc'd,
 * ascending, *ret_n long. Of the filter, id, domain, sender and arrived_before are looked at. */
size_t schedule_in_hand_list(const struct schedule *s, const struct queue_filter *filter,
                             uint64_t **ret_ids, size_t *ret_n);
