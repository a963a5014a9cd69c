/*
 * delivery_private - one connection, shared by delivery.c (its life, and what it sends) and
 * delivery_outcome.c (what was decided); nobody else includes this.
 */
#pragma once

#include "relayd/delivery.h"

#define DELIVERY_HEADS_MAX (2 + QUEUE_SIGNATURES_MAX)

struct delivery {
    struct delivery_env env;
    struct deliver_env deliver;
    struct connection *connections;
    size_t n_connections;
};

/* A host as it was when it decided about somebody: one transaction may meet several. */
struct decider {
    struct decider *before;
    size_t endpoint;
    uint8_t family; /* 0: nobody was reached */
    bool dsn_offered;
    char peer[IP_PORT_TEXT_MAX], host[DOMAIN_BUF], tls[DELIVER_TLS_TEXT_MAX];
};

struct connection {
    struct delivery *d;
    struct connection *next, **prev;
    struct site_link *link;
    struct deliver_conn *conn; /* NULL: gone */
    struct settings *settings;
    const struct hop *hop;
    bool was_ready;
    bool has_v4, has_v6; /* addresses that the hosts of a direct site have */
    msec_t opened_at;    /* monotonic */
    /* the transaction */
    struct deferred part; /* some of it is to be recorded before its end */
    msec_t sent_at, connect_ms;
    struct outcome *path_trouble; /* of somebody who was recorded before the end; NULL: of nobody */
    struct msg *msg;              /* NULL: none */
    struct deliver_txn txn;
    struct deliver_rcpt *rcpts;
    struct attempt *attempts;
    struct decider *deciders; /* the newest first; the attempts point to them */
    struct span heads[DELIVERY_HEADS_MAX];
    struct strbuf srs; /* the sender that stands for the message's; empty: none */
    unsigned reads;    /* of bodies, under way */
};

/* deliver_ops, with the connection. */
void
delivery_on_outcome(void *arg, struct deliver_txn *txn, size_t rcpt, const struct outcome *outcome);
void delivery_on_txn_done(void *arg, struct deliver_txn *txn, const struct deliver_report *report);
void delivery_deciders_free(struct decider *d); /* all of the list */
