/*
 * control_impl - what control.c (connections), control_route.c (which handler, who may) and
 * control_answer.c (answers) share.
 */
#pragma once

#include "relayd/ops/control.h"

#include <sys/queue.h>

#include "relayd/net/conn.h"
#include "relayd/net/listener.h"
#include "relayd/ops/http.h"

#define CONTROL_TABLES_MAX 12
#define CONTROL_WHO_BYTES 80

struct control_table {
    const struct control_route *routes;
    size_t n;
    void *arg;
};

struct control {
    struct loop *loop;
    struct log *log;
    struct control_table tables[CONTROL_TABLES_MAX];
    size_t n_tables;
    struct listener *unix_listener, *tcp_listener;
    char *token; /* NULL: none asked for over TCP */
    LIST_HEAD(, control_conn) conns;
    size_t n_conns, n_tcp;
    LIST_HEAD(, control_call) calls; /* all that are not completed */
};

/*
 *            request complete            answered, keep-alive
 *   READING ------------------> WORKING ---------------------> READING
 *      |  ^ input left over        |        answered, close
 *      |  '------------------------'-------------------------> (conn_shutdown)
 *      '-- 408, bad request --> (conn_shutdown)
 * WORKING is `call != NULL`.
 */
struct control_conn {
    LIST_ENTRY(control_conn) link;
    struct control *control;
    struct conn *conn;
    struct http_parser parser;
    struct timer timer;        /* of what is waited for now */
    struct deferred read_more; /* look at input that waited for an answer */
    struct control_call *call; /* the request being worked on */
    /* At the last look, to see progress: */
    uint64_t sent_bytes; /* that the kernel had been given */
    int queued;          /* what it still had of them (SIOCOUTQ) */
    bool tcp;
    bool loopback;    /* it came to a loopback address over TCP */
    bool dispatching; /* inside the handler: an answer now is finished when it returns */
    bool close_after; /* this answer is the last one */
    bool abort_after; /* it broke off: cut the connection, so that the client sees it */
    char who[CONTROL_WHO_BYTES];
};

struct control_call {
    LIST_ENTRY(control_call) link;
    struct control *control;
    struct control_conn *cc; /* NULL: the client has gone */
    struct http_request request;
    const struct control_route *route; /* NULL: refused before a handler was found */
    struct span segment;
    cJSON *body;
    int status; /* of the answer, for the log */
    bool streaming, chunked, wants_ready;
    void (*on_ready)(struct control_call *call, void *arg);
    void (*on_gone)(struct control_call *call, void *arg);
    void *stream_arg;
    char who[CONTROL_WHO_BYTES];
};

/* ---- control.c ---- */

/* The answer of `call` is written: log it, free it, go on with the connection. */
void control_call_done(struct control_call *call);
void control_call_free(struct control_call *call);
/* Cut the connection, which has no call any more. */
void control_conn_cut(struct control_conn *cc);
/* Arm the timer that watches a client who does not take its answer. */
void control_watch_output(struct control_conn *cc);

/* ---- control_route.c ---- */

/* Find and run the handler of cc->call, or answer why not. */
void control_dispatch(struct control_call *call);

/* ---- control_answer.c ---- */

/* A whole error answer that belongs to no call: a broken request, a full house. */
void control_refuse(struct control *control, struct conn *conn, int status, const char *reason);
/* The same for a call that ends before or without its handler. `extra`: more header lines. */
void control_refuse_call(struct control_call *call, int status, const char *code, const char *extra,
                         const char *reason);
