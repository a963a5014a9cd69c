/*
 * relay - the values that the stages hand to each other. Declares only.
 *
 * A message is *in hand* while at least one of its recipients is being worked on: looked up,
 * waiting at its site, in a transaction, or being recorded. schedule owns both structs; delivery
 * and record read them, and record answers with a fate.
 */
#pragma once

#include "policy/base/msec.h"
#include "policy/base/outcome.h"
#include "policy/base/span.h"
#include "queue/queue.h"

#include <stdbool.h>
#include <stdint.h>

#define RELAY_ID_TEXT 80 /* NODE.XXXXXXXXXXXXX and a NUL */

/* Flags of a message beside those of queue.h. */
#define MSG_HEADER_8BIT QUEUE_MSG_USER       /* a header field holds an octet above 127 */
#define MSG_POSTMASTER (QUEUE_MSG_USER << 1) /* a notice on its last way, to the postmaster */

struct facts_query;
struct lane;
struct rcpt;
struct schedule;
struct site;

/* The client's bytes (header and body as accepted), while they are in memory. */
struct msg_body {
    size_t n;
    char bytes[];
};

/* A message in hand. The spans of `q` point into `block` (and its body is not used here). */
struct msg {
    struct queue_msg q;
    char id_text[RELAY_ID_TEXT];
    char *sender_domain;   /* canonical; "" for the null sender and without one */
    struct msg_body *body; /* NULL: read it from the queue */
    bool loaded;           /* `q` is whole; false: a page brought only what planning needs */
    struct rcpt *rcpts;    /* those in hand, linked by next_of_msg */
    void *block;           /* malloc'd */
    /* schedule's own */
    struct msg *body_next, **body_prev; /* in the list of messages with a body in memory */
    msec_t body_since;                  /* monotonic */
};

/* What the sender's SPF record says of the addresses of routes (bits of the configuration's). */
struct rcpt_spf {
    bool asked, known;
    uint64_t fail, softfail;
};

/* Which rule of the map sends it somewhere, where facts of its domain had a say. They may be gone
 * from the cache of dns long before the recipient's attempt is over. */
struct rcpt_decided {
    uint64_t never_via; /* what fences forbid (bits of the configuration's routes) */
    uint16_t rule;      /* its number in the map */
    bool known;
};

/* Where a recipient in hand stands. */
enum rcpt_stage {
    STAGE_FACTS,     /* its MX is being looked up */
    STAGE_READY,     /* waits at its site */
    STAGE_BUSY,      /* in a transaction */
    STAGE_RECORDING, /* its outcome is being stored */
    STAGE_GONE,      /* out of hand; kept until no page can bring it back (schedule/hand.h) */
};

struct rcpt {
    struct {
        uint64_t id, no; /* the message's, and its number in it */
    } key;
    struct msg *msg;
    struct rcpt *next_of_msg;
    uint32_t revision;
    uint8_t notify;                     /* QUEUE_NOTIFY_* */
    bool fresh;                         /* still in the queue's fresh table: never deferred */
    struct span address, domain, orcpt; /* `domain` is NUL-terminated */
    uint64_t lane;
    msec_t due_at;
    char *attempts; /* encoded (record/attempts.h), malloc'd; NULL: none */
    size_t attempts_bytes;
    bool attempts_new; /* they say more than what the queue holds */
    msec_t begun_at;   /* wall: when the attempt under way began; 0 before the first one */
    /* schedule's own */
    struct schedule *schedule;
    enum rcpt_stage stage;
    uint64_t tried;   /* routes (bits of the configuration's routes) that failed in this attempt */
    uint64_t refused; /* of them: those that refused it, and were not just out of reach */
    struct rcpt_spf spf; /* as it was found for this attempt */
    struct rcpt_decided decided;
    bool probing;    /* it tries a route that was learned to refuse us */
    uint8_t lookups; /* that planning it has begun so far */
    uint8_t family;  /* 4 or 6: directly by this family only, the other one was refused; 0: any */
    struct outcome *refusal; /* what the other family was told; malloc'd, NULL: nothing */
    struct site *site;
    struct rcpt *ready_next, **ready_prev;
    msec_t ready_at; /* monotonic: since when it waits there */
    struct facts_query *facts;
    struct lane *from_lane; /* whose page brought it; NULL: fresh or just accepted */
    uint64_t gone_txn;
    struct rcpt *gone_next;
    char text[]; /* what the spans point to */
};

/* How one recipient's attempt went, as logged, counted, learned and told. Valid during the call. */
struct attempt {
    struct rcpt *rcpt;
    struct outcome outcome;
    const char *route, *site; /* names; "" when none was reached */
    const char *peer;         /* "192.0.2.1:25", or "" when nobody was reached */
    const char *host;         /* the peer's name, or "" */
    const char *tls;          /* "TLSv1.3 TLS_AES_256_GCM_SHA384", or "" */
    struct span srs;          /* the envelope sender it was sent with; empty: the message's own */
    msec_t connect_ms, transfer_ms;
    bool hop;             /* the route was a hop */
    bool dsn_passed_on;   /* the peer offered DSN, so it will tell of success itself */
    uint8_t other_family; /* 4 or 6: the peer has addresses of this family besides; 0: it has not */
    bool discarded;       /* a rule with `discard`: finished without a delivery */
};

/* Why a recipient is to leave its route, and what that teaches. Valid during the call. */
struct reroute {
    const struct outcome *outcome;
    const char *klass; /* "ip-blocklisted", ... */
    bool refused;      /* in words, not on the path */
    bool spf;          /* for the sender's SPF record: only a route that it lets pass is a cure */
    bool learn;        /* the next message for the destination would be refused alike */
    bool scope_ip;     /* ... and for whatever else its site serves */
    bool early;        /* it came before RCPT */
};
enum rerouted {
    REROUTED_NOT,       /* no other route is open */
    REROUTED,           /* it is on its way, and must not be touched any more */
    REROUTED_TOO_OFTEN, /* the next route has been given its share (learning.max_reroutes) */
};

/* What record decided on and the queue has stored. */
enum rcpt_fate {
    FATE_FINISHED, /* delivered, failed or removed */
    FATE_DEFERRED, /* due again at due_at */
    FATE_HELD,     /* waits for the administrator */
    FATE_CHANGED,  /* a verb was faster: what the queue holds now goes */
};
