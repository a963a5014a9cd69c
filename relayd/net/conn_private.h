/*
 * conn_private - what conn.c (socket, buffers, life) and conn_tls.c (records) share.
 */
#pragma once

#include <event2/event_struct.h>

#include "relayd/net/conn.h"
#include "relayd/net/loop_private.h"
#include "relayd/net/tls_private.h"

enum conn_state {
    CONN_CONNECTING,
    CONN_HANDSHAKE,
    CONN_OPEN,    /* in clear, or under TLS */
    CONN_ENDED,   /* the driver knows; it has not let go yet */
    CONN_CLOSING, /* conn_shutdown(): flushing, then perhaps lingering, on its own */
    CONN_DEAD,    /* let go; the memory goes at the end of the tick */
};

struct conn_tls {
    SSL *ssl;                    /* NULL: could not even begin, `text` says why */
    struct span source;          /* cipher text for OpenSSL, within one conn_tls_feed() */
    struct strbuf early;         /* CONN_TLS_FEED_INPUT: came before the handshake was begun */
    bool begun;                  /* the first step was made */
    bool ended;                  /* no more will be read: `end_kind`; told when all before it is */
    enum conn_end_kind end_kind; /* EOF after close_notify, or TLS */
    char text[96];               /* what OpenSSL said */
    struct tls_facts facts;
};

struct conn {
    struct loop *loop;
    const struct conn_ops *ops;
    void *arg;
    int fd;
    enum conn_state state;
    bool reading, writing; /* the events are added */
    bool paused;
    bool corked;
    bool in_callback; /* one of the driver's callbacks runs: gather */
    bool drain_due;   /* conn_out_pending() was not 0: on_drained is owed */
    bool data_due;    /* conn_resume() over unread bytes: on_data is owed */
    bool half_open;   /* ENDED by the peer's EOF: the way out still works */
    bool local_known;
    bool linger;
    bool secret;        /* conn_read_secret() */
    int start_error;    /* CONNECTING: failed before it was begun */
    int write_error;    /* the way out is broken: errno */
    struct span unread; /* plain input: in `kept`, or in loop->input within a callback */
    struct strbuf kept;
    struct strbuf gather; /* plain output not yet sent or encrypted */
    struct strbuf out;    /* for the kernel, from out_at */
    size_t out_at;
    struct conn_tls *tls;
    struct deferred later;
    struct timer timer;       /* CLOSING */
    struct conn *prev, *next; /* CLOSING: in loop->lingering */
    struct net_addr peer, local;
    uint64_t bytes_in, bytes_out;
    struct event ev_read, ev_write;
};

/* conn.c */

struct conn *conn_make(struct loop *loop, int fd, const struct conn_ops *ops, void *arg);

/* Add EV_READ if input is wanted and it is not there. */
void conn_reading_start(struct conn *c);
void conn_reading_stop(struct conn *c);
/* Run on_later() at the end of the tick. */
void conn_later(struct conn *c);
/* Tell the driver of the handshake's success / that the connection is over. Top level only. */
void conn_tls_done(struct conn *c);
void conn_tls_failed(struct conn *c, enum tls_failure failure, const char *text);
void conn_end(struct conn *c, enum conn_end_kind kind, int error, const char *text);
void conn_end_errno(struct conn *c, int error);
/* Give what is in loop->input to the driver, and keep what it leaves. */
void conn_deliver(struct conn *c);
void conn_keep_unread(struct conn *c);
/* Overwrite `used` bytes of loop->input, if they are secret. */
void conn_wipe_input(struct conn *c, size_t used);
void conn_wipe_kept(struct conn *c);
/* Move unread bytes to the front of loop->input, where more can be put behind; returns their
 * number. Nothing is lost when nothing comes. */
size_t conn_unread_to_front(struct conn *c);

/* conn_out.c */

void conn_writing_start(struct conn *c);
void conn_writing_stop(struct conn *c);
/* Write now, or behind what already waits. Never calls back. */
void conn_raw_send(struct conn *c, struct iovec *iov, size_t n);
/* Returns what the kernel took, 0 for "not now", or -1 when the way out has broken. */
ssize_t conn_kernel_write(struct conn *c, struct iovec *iov, size_t n);
/* Send what the driver's callback has gathered so far. */
void conn_gather_flush(struct conn *c);
size_t conn_out_bytes(const struct conn *c);
void conn_out_drop(struct conn *c);
bool conn_may_send(const struct conn *c);

/* conn_close.c: CLOSING, and everything is in the kernel / the peer still sends */

void conn_closing_flushed(struct conn *c);
void conn_closing_readable(struct conn *c);

/* conn_connect.c */

enum conn_end_kind conn_end_kind_of(int error, bool connecting);

/* conn_tls.c */

void conn_tls_free(struct conn_tls *tls);
/* The first step of a handshake. */
void conn_tls_begin(struct conn *c);
/* Read from the socket and go on with what came. */
bool conn_tls_readable(struct conn *c); /* false when nothing came */
/* Tell OpenSSL whether to overwrite its plain text. */
void conn_tls_set_secret(struct conn *c);
/* Encrypt and send. */
void conn_tls_send(struct conn *c, const struct iovec *iov, size_t n);
/* Send close_notify, if the session is in a state for it. */
void conn_tls_close_notify(struct conn *c);
