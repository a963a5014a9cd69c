/*
 * deliver_private - what the files of the driver share: deliver.c (walk, life and the public
 * functions), deliver_link.c (one connection to one endpoint), deliver_content.c (the body's way
 * out).
 */
#pragma once

#include "relayd/deliver/body.h"
#include "relayd/deliver/deliver.h"
#include "relayd/deliver/smtpc.h"
#include "relayd/deliver/walk.h"
#include "relayd/net/clock.h"
#include "relayd/net/loop.h"

struct conn;

/* Content on its way, between WANT_BODY and the dot's departure. */
struct content {
    bool active;
    bool heads_sent;
    bool asked;      /* want_body is open for `offset` */
    bool all_given;  /* the final dot is written, perhaps not yet sent */
    bool pumping;    /* deliver_content_pump() is on the stack */
    uint64_t offset; /* of the body's next byte */
    struct body_stuffer stuffer;
    uint64_t window_bytes; /* sent when the rate window began */
};

struct deliver_conn {
    const struct deliver_env *env;
    const struct deliver_ops *ops;
    void *arg;
    struct deliver_target target;
    void *block; /* holds what `target` points to */

    struct smtpc *core;
    struct conn *conn; /* NULL between two endpoints and after the end */
    bool connected;
    struct timer timer; /* the one thing that is waited for: connect, a reply, idle, body rate */
    struct deferred kick;
    unsigned wait_no; /* of the core, when `timer` was set for a reply */

    size_t at;           /* endpoint */
    size_t n_tried;      /* endpoints failed in this walk */
    bool clear;          /* this endpoint once more without TLS */
    struct walk walk;    /* their failures */
    msec_t walk_started; /* monotonic */
    msec_t session_started;
    bool fresh;           /* this session has not been ready yet */
    msec_t ready_took_ms; /* walk until ready; taken by the session's first report */
    msec_t txn_started;
    msec_t idle_since; /* monotonic: no transaction since; 0: none is missing */
    bool woken; /* a transaction began on a connection that had been idle; nothing heard yet */
    struct deliver_peer peer;
    char tls_text[DELIVER_TLS_TEXT_MAX];

    struct deliver_txn *next; /* given by deliver_txn_start, not yet started */
    bool offered;             /* on_ready was called and no transaction came since */
    bool ever_ready;
    bool quitting; /* deliver_quit was called */
    bool running;  /* a callback of ours may be on the stack: record, do not act */
    bool dead;     /* retired; nothing may be touched or called any more */

    struct content content;
};

/* After so long without a transaction the path may have died unseen: an address changed, a NAT
 * forgot us. Then what we send must be acknowledged by the peer's kernel within WAKE_ACK_MS, or the
 * connection counts as closed meanwhile. The minutes of RFC 5321 are for its server to think. */
#define DELIVER_WAKE_IDLE_MS SECOND
#define DELIVER_WAKE_ACK_MS (20 * SECOND)

/* deliver.c: act on what the core wants, until something has to be waited for. */
void deliver_go(struct deliver_conn *c, enum smtpc_want want);
/* deliver.c: this endpoint's connection is used up; `o` is its failure. */
void deliver_endpoint_failed(struct deliver_conn *c, const struct outcome *o);

/* deliver_link.c: connect to endpoint `c->at`. */
void deliver_link_connect(struct deliver_conn *c);
/* deliver_link.c: drop the connection: cut it, or after QUIT in order. NULL conn is fine. */
void deliver_link_drop(struct deliver_conn *c, bool say_quit, bool in_order);
/* deliver_link.c: hand the core's commands to the connection. */
void deliver_link_flush(struct deliver_conn *c);
/* deliver_link.c: start the handshake; returns what the core wants when that can't be. */
enum smtpc_want deliver_link_tls(struct deliver_conn *c, bool *ret_started);

/* deliver_content.c */
void deliver_content_start(struct deliver_conn *c);
/* Ask for the next piece when there is room, notice that the dot has left. */
void deliver_content_pump(struct deliver_conn *c);
