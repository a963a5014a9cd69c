/*
 * internal - what the files of relayd/schedule share.
 *
 *   pages.c     into hand and out again             plan.c   recipients to sites
 *   ways.c      the routes of a recipient, in order reroute.c  away from a route that failed
 *   site.c      sites and their ready lists         pump.c   what a site does next
 *   share.c     how many may wait at a site         slots.c  who gets a connection
 *   link.c      one connection of a site            pause.c  suspensions and held domains
 *   alone.c     what was in hand at a crash         outage.c  the direct route as a whole
 *   pin.c       domains pinned to a route           info.c   what is told of the sites
 *   attempt.c   outcomes without a connection       postpone.c  back to the queue, no attempt made
 *   hand.c lanes.c  the tables
 */
#pragma once

#include "policy/route.h"
#include "policy/shape.h"
#include "relayd/schedule/hand.h"
#include "relayd/schedule/lanes.h"
#include "relayd/schedule/schedule.h"
#include "relayd/schedule/ways.h"

enum link_state {
    LINK_NEW,
    LINK_RESOLVING, /* the addresses are being looked up */
    LINK_OPENING,   /* connecting */
    LINK_READY,     /* takes a transaction */
    LINK_LOADING,   /* its message is being read from the queue */
    LINK_BUSY,      /* in a transaction, or between it and being ready again */
    LINK_CLOSING,   /* told to quit; it closes soon */
    LINK_DEAD,      /* closed while its message is being read */
};

#define LINK_RCPTS_MAX 100 /* of one transaction (RFC 5321 section 4.5.3.1.8) */

/* Whose answer the failure of a connection is. */
struct link_met {
    msec_t connect_ms;
    char *peer, *host;
};

struct site_link {
    struct site *site;
    struct site_link *next, **prev;
    enum link_state state;
    struct facts_query *facts;
    char *domain;                             /* whose hosts are being looked up; direct only */
    void *conn;                               /* delivery's */
    struct site_link *idle_next, **idle_prev; /* READY: in the list of those */
    struct link_met *met;                     /* of a connection that failed; NULL: nobody */
    struct ip first; /* the address that is tried first; family 0: not known yet */
    size_t n_rcpts;
    struct rcpt *rcpts[LINK_RCPTS_MAX];
};

struct site {
    struct schedule *schedule;
    const char *key;   /* this and the next three are in `strings` */
    const char *hosts; /* direct: the part of `key` that facts made of the MX hosts */
    const char *name;  /* of the best MX host, or of the hop */
    const char *route; /* its route's name: indices change with the configuration */
    enum config_tls tls;
    uint8_t family; /* 4 or 6: at addresses of this family only; 0: any */
    enum site_state state;
    struct rcpt *ready, **ready_tail;
    size_t n_ready;
    uint64_t *lanes; /* of those that found it full and were passed over */
    size_t n_lanes, lanes_cap;
    struct site_link *links;
    size_t n_links, n_open, n_busy; /* all; resolving or opening; with a transaction */
    size_t link_limit;              /* learned from refused extra connections; 0: none */
    msec_t limit_until;             /* monotonic: until then it holds */
    struct shape shape;
    struct timer timer;           /* the next moment at which it may act */
    struct deferred added;        /* recipients came in this tick */
    msec_t probe_at, down_at;     /* monotonic; when DOWN: until when, and since when */
    msec_t tried_at;              /* wall: when the last attempt to connect began */
    unsigned failures;            /* in a row */
    struct outcome_kept *failure; /* of the last connection; NULL: it is up. Kept, because a backlog
                                     has very many sites */
    bool curable;                 /* by another route: the failure is one of the path or of ours */
    bool more;                    /* there are other addresses than those it was given last */
    uint16_t port;                /* of a hop's ladder: what worked */
    msec_t used_at;               /* monotonic */
    size_t n_rcpts;               /* recipients whose `site` it is: it stays as long */
    bool waits_for_slot;          /* in the line for a connection */
    struct site *slot_next, **slot_prev;
    bool proven; /* a hop, or it has taken mail and has not gone down since */
    char strings[];
};

/* Of chance, and of one bad neighbour, come fewer: who can be reached at all reaches most of the
 * others, and one who is reached starts the count anew. */
#define OUTAGE_SITES 5
#define OUTAGE_WINDOW_MS (5 * MINUTE)
#define OUTAGE_NETWORK_V4_BITS 24 /* what one provider's outage takes away, at the least */
#define OUTAGE_NETWORK_V6_BITS 48
#define OUTAGE_GATHER_MS (2 * SECOND) /* a probe is due: those who wait come in hand */

enum outage_state { OUTAGE_NONE, OUTAGE_DOWN, OUTAGE_PROBING };

struct outage {
    enum outage_state state;
    struct outage_place {
        char *name;         /* a network, or a site's key */
        msec_t at;          /* monotonic */
    } places[OUTAGE_SITES]; /* NONE: out of reach since somebody was reached */
    size_t n_places;
    msec_t since_at;           /* wall */
    msec_t tried_at;           /* wall: when the last connection that failed began */
    msec_t probe_at, down_at;  /* monotonic; `down_at`: when the last one of them failed */
    unsigned failures;         /* of probes, and the first one */
    struct outcome failure;    /* the last one */
    const struct site *prober; /* PROBING: opening a connection until the next sweep */
    struct timer gather;
    struct deferred flush;
};

struct alone;
struct pending;
struct postponed;

struct schedule {
    struct schedule_env env;
    struct clock *clock;
    struct schedule_policy policy;
    struct hand hand;
    struct lanes lanes;
    struct map sites;
    struct timer sweep; /* each second: bodies too long in memory, sites without work */
    /* The fresh table is read in passes, as long as something may be left in it. What comes into
     * it may come behind the cursor, since ids commit out of order: then one more pass. */
    bool fresh_backlog, fresh_reading;
    bool fresh_again; /* something was left in it since this pass began */
    bool fresh_stuck; /* likewise, but only a later sweep will let it in */
    struct queue_key fresh_after;
    size_t lane_reads;     /* under way */
    msec_t wall_ahead;     /* of the monotonic clock, when timers were last set by it */
    msec_t lanes_retry_at; /* monotonic: when to list the lanes again, which failed; 0: not */
    /* connections */
    size_t n_links, n_busy;
    struct site_link *idle, **idle_tail; /* READY ones, longest first */
    size_t n_unproven;                   /* of sites that are not proven */
    struct slot_line {
        struct site *first, **tail;
    } lines[2];       /* sites that wait for one: proven ones in lines[true] */
    bool others_turn; /* the last one that got free went to those that are not */
    bool started;     /* holds and suspensions are known */
    bool draining, stopped;
    bool pump_blocked;     /* a delivery cannot be stored: no transaction begins */
    bool outcomes_blocked; /* some outcome cannot be; the administrator knows */
    struct deferred drained, slots;
    void (*on_drained)(void *arg);
    void *drained_arg;
    struct pause *pauses;
    struct timer pause_timer;
    struct map held_domains;     /* canonical domain -> its own text, and the reason */
    struct alone *alone;         /* NULL: none, or all have been tried */
    struct map pins;             /* canonical domain -> struct pin */
    struct postponed *postponed; /* being gathered in this tick */
    size_t n_postponed;
    struct deferred flush;
    struct pending *pending, **pending_tail; /* attempts gathered in this tick */
    struct deferred pending_flush;
    size_t n_ready, n_recording;
    size_t n_slow; /* sites, at the last sweep */
    struct outage outage;
};

/* plan.c */
#define PLAN_LOOKUPS_MAX 8 /* each is made once, and again after a reload: more is a fault */
void plan_rcpt(struct schedule *s, struct rcpt *rcpt); /* route it and bring it to its site */
/* The same, to go on with the attempt under way: what was decided by facts that are gone by now
 * still holds. */
void plan_on(struct schedule *s, struct rcpt *rcpt);
/* Its ways as far as they are known without a look-up; false: facts are missing, there are none. */
bool plan_ways(struct schedule *s, const struct rcpt *rcpt, struct ways *ret);
/* What can be learned of this recipient at this site. */
struct learn_way plan_learn_way(const struct rcpt *rcpt, const struct site *site);
void plan_fail(struct schedule *s, struct rcpt *rcpt, const struct outcome *outcome,
               const char *route, const char *site);

/* pages.c */
void pages_more(struct schedule *s);  /* read pages if there is room */
void pages_fresh(struct schedule *s); /* something was left in the fresh table */
/* A recipient that a list shows, from no lane. */
void pages_take_row(struct schedule *s, const struct queue_row *row, uint64_t txn);

/* site.c */
struct site *site_get(struct schedule *s, const char *route, const char *key, const char *name,
                      enum config_tls tls);
/* The same if it is there, else NULL. */
struct site *
site_find(const struct schedule *s, const char *route, const char *key, enum config_tls tls);
/* The same hosts by one family of addresses only: a site of its own. */
struct site *site_get_family(struct schedule *s, const char *route, const char *key,
                             const char *name, enum config_tls tls, uint8_t family);
/* Bring it here, or back to the queue when the site is full: it may be gone when this returns. */
void site_add(struct site *site, struct rcpt *rcpt);
void site_remove(struct site *site, struct rcpt *rcpt); /* from the ready list */
enum site_use site_usable(const struct site *site);
void site_up(struct site *site);
void site_down(struct site *site, const struct outcome *outcome, const char *host);
/* Somebody asked at `asked_at` (monotonic; 0: nobody) for a try here: if it, or the route as a
 * whole, has been down since before, the probe is due now. */
void site_ask(struct site *site, msec_t asked_at);
/* Those who wait here (of `domain`; NULL: all) plan anew. */
void site_replan(struct site *site, const char *domain);
/* Why, and until when, a site that is not usable is not: its own trouble or the whole route's. */
struct site_trouble {
    struct outcome failure;
    msec_t tried_at; /* wall: when the last attempt began */
    msec_t probe_at; /* monotonic */
    bool curable;    /* by another route */
};
struct site_trouble site_trouble(const struct site *site);
msec_t site_backoff(unsigned failures); /* until a probe: 1 m doubling to 30 m */
bool site_suspended(const struct site *site);
const struct pause *site_pause(const struct site *site); /* of it or its route; NULL: none */
const struct hop *site_hop(const struct site *site);
struct config_shape site_shape(const struct site *site);
void sites_sweep(struct schedule *s, bool all);

void rcpt_set_site(struct rcpt *rcpt, struct site *site); /* or NULL */

/* share.c */
bool site_full(const struct site *site);
/* There is no room for it: back to where it came from. It may be gone when this returns. */
void site_overflow(struct site *site, struct rcpt *rcpt);
/* One has left: is there room again for those that were passed over? */
void site_lanes_back(struct site *site);
/* If the hand is crowded, give back what is beyond its share. Whether it is slow. */
bool site_shed(struct site *site);

/* link.c */
void link_open(struct site *site);
void link_begin(struct site_link *link); /* the next message, on a ready one */
void link_ready(struct site_link *link);
void link_died(struct site_link *link); /* while its message is being read */
/* No further transaction; one under way is finished first. It may be gone when this returns. */
void link_quit(struct site_link *link);
void links_quit(struct site *site);       /* all of a site */
void link_met_free(struct link_met *met); /* NULL is fine */
/* It is gone: free it. The caller pumps its site and, with pump_slots(), those that wait for a
 * connection. */
void link_free(struct site_link *link);
/* The first waiting message's recipients at this site, off its ready list; at least one. */
size_t site_take_group(struct site *site, struct rcpt *ret[LINK_RCPTS_MAX]);

/* pump.c */
void site_pump(struct site *site);
void pump_drained(struct schedule *s);
void pump_sweep(struct schedule *s); /* each second: is there room for outcomes? */

/* slots.c */
bool slot_free(const struct site *site);         /* may it open one more connection? */
void slot_wait(struct site *site);               /* in line; who serves nobody makes room */
bool slot_wanted(const struct site_link *link);  /* would its end help somebody in line? */
void site_prove(struct site *site, bool proven); /* and pumps the lines at the end of the tick */
void pump_slots(struct schedule *s);             /* connections became free */

/* attempt.c */
void attempt_add(struct schedule *s, const struct attempt *attempt); /* copied, names and all */
void attempts_release(struct schedule *s);

/* postpone.c: back to the queue's schedule at `due_at`, no attempt counted. */
void postpone_rcpt(struct schedule *s, struct rcpt *rcpt, msec_t due_at);
/* It is due, but its lane is not read for its sake before `look_at` (wall), or a rescan. */
void postpone_asleep(struct schedule *s, struct rcpt *rcpt, msec_t due_at, msec_t look_at);

/* outage.c */
bool site_is_direct(const struct site *site);
bool outage_down(const struct schedule *s);
msec_t outage_probe_at(const struct schedule *s); /* monotonic; when outage_down() */
/* Is the site's route down as a whole? */
bool outage_covers(const struct site *site);
enum site_use outage_use(const struct site *site); /* of a site that it covers */
/* May the site open a connection, as far as the whole route is concerned? */
bool outage_may_open(const struct site *site);
void outage_blocked(struct schedule *s); /* somebody waits where none may be opened */
/* A link was never ready; `whole`: nor is any other one of its site. */
void
outage_failed(struct site *site, const struct outcome *outcome, const struct ip *first, bool whole);
void outage_reached(struct site *site); /* somebody there has answered */
void outage_sweep(struct schedule *s);
void outage_retry(struct schedule *s);                /* the configuration has changed: probe now */
void outage_ask(struct schedule *s, msec_t asked_at); /* as site_ask() */
void outage_release(struct schedule *s);

/* alone.c */
void alone_start(struct schedule *s, void (*then)(struct schedule *s));
void alone_left(struct schedule *s); /* a recipient has left */
void alone_free(struct schedule *s);

/* pin.c */
void pin_load(struct schedule *s, struct span domain, struct span value);
void pins_free(struct schedule *s);

/* pause.c */
void pause_load(struct schedule *s, struct span name, struct span value); /* a suspension's row */
bool pause_domain(const struct schedule *s, struct span domain);
void pauses_arm(struct schedule *s); /* by the wall clock; again when it has jumped */
void pauses_free(struct schedule *s);
void sites_pump(struct schedule *s); /* all of them */
void pauses_load(struct schedule *s, void (*then)(struct schedule *s));

/* The recipient is out of hand, as of transaction `txn`. */
void schedule_leave(struct schedule *s, struct rcpt *rcpt, uint64_t txn);
/* It is out of hand, and nothing has changed in the queue: a page may bring it back. */
void schedule_drop(struct schedule *s, struct rcpt *rcpt);
