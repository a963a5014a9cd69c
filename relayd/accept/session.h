/*
 * session - what the files of the driver share: accept.c, session.c, sink.c, check.c, certs.c.
 *
 * The driver owns the connection, the deadline and the way to workers, verdicts and sink;
 * everything about the protocol is in the core (smtpd.h). All of it runs on the loop's thread.
 */
#pragma once

#include "policy/base/map.h"
#include "relayd/accept/accept.h"
#include "relayd/accept/data.h"
#include "relayd/accept/guard.h"
#include "relayd/accept/setup.h"
#include "relayd/accept/smtpd.h"
#include "relayd/net/addr.h"
#include "relayd/net/clock.h"
#include "relayd/net/loop.h"

struct accept_listener;
struct check;
struct conn;
struct conn_end;
struct listener;

#define SESSION_PROXY_MS (10 * SECOND)     /* for the header of a proxy */
#define SESSION_HANDSHAKE_MS (60 * SECOND) /* for TLS; 10 s when stressed */
#define SESSION_OUT_MAX 65536 /* unsent replies beyond which no more commands are looked at */
#define ACCEPT_STRESSED_PERCENT 80
#define ACCEPT_RELAXED_PERCENT 70

/* Sessions of one network address (IPv6: of one /64). */
struct accept_peer {
    struct ip ip; /* the key */
    uint32_t n_sessions;
};

/* What a session waits for besides bytes. */
enum session_stage {
    SESSION_PROXY,     /* the header of a proxy */
    SESSION_HANDSHAKE, /* TLS, implicit or after STARTTLS */
    SESSION_SMTP,
};

struct session_txn {
    struct accept_txn pub;
    struct session *session;
};

struct session {
    struct session *next, *prev; /* of accept.sessions */
    struct accept *accept;
    struct accept_setup *setup;            /* referenced */
    const struct listener_setup *listener; /* part of it */
    struct conn *conn;
    struct smtpd *smtpd; /* NULL before the client is known */
    struct accept_peer *peer;
    struct session_txn *txn;         /* open in the sink */
    struct check *check;             /* a password being checked */
    struct accept_rcpt_request rcpt; /* while `asking_rcpt` */
    struct timer timer;
    struct deferred resume;
    struct net_addr client;
    uint64_t no;
    msec_t started_at;
    uint64_t names_version; /* of the trusted names that it was judged by */
    uint8_t stage;
    bool running;     /* inside session_run(): answers only mark, it goes on by itself */
    bool asking_rcpt; /* a verdict is awaited */
    bool asking_sink; /* an answer of the sink */
    bool sink_waits;  /* the sink takes no more for now */
    bool out_waits;   /* the client takes no more replies for now */
    bool eof;         /* the client sends nothing more, but listens */
    bool in_tls;
};

struct accept {
    struct accept_env env;
    struct clock *clock;
    struct accept_setup *setup; /* the current one, referenced; NULL before the start */
    struct accept_listener **listeners;
    size_t n_listeners;
    struct session *sessions;
    size_t max_sessions;
    struct map peers;
    struct guard *guard;
    struct check *checks; /* with workers */
    struct accept_stats stats;
    uint64_t next_session;
    struct timer certificate_timer;
    struct certs_job *certs_job; /* with a worker */
    bool stressed, draining;
    struct deferred drained;
    void (*on_drained)(void *arg);
    void *drained_arg;
    msec_t exhausted_at;
    char scratch[DATA_SCRATCH_BYTES];
};

/* ---- session.c ---- */

/* A connection on `listener`: takes `fd`. */
void session_open(struct accept *a, struct accept_setup *setup, size_t listener, int fd,
                  const struct net_addr *peer, const struct net_addr *local);
/* End it now; the sink is aborted, what is asked for is cancelled. */
void session_drop(struct session *s, const char *reason);
/* Go on at the end of the tick: an answer has come. */
void session_wake(struct session *s);
/* The daemon stops, or is stressed. May end the session. */
void session_stop(struct session *s);
void session_set_stressed(struct session *s, bool stressed);
/* smtpd_conf.event of all sessions. */
void session_event(void *arg, const struct smtpd_event *event);

/* ---- sink.c: what the core wants of others ---- */

/* Each asks, and may be answered inside the call. */
void session_ask_rcpt(struct session *s);
void session_ask_begin(struct session *s);
void session_ask_taken(struct session *s); /* sink: rcpt */
void session_ask_end(struct session *s);
void session_chunk(struct session *s);
void session_abort(struct session *s);  /* tell the sink */
void session_cancel(struct session *s); /* everything asked for, and the sink */

/* ---- trust.c ---- */

/* Tell the core whether this client may relay, as things stand. */
void session_judge(struct session *s, struct span user);
/* The same, when the trusted names have changed since. */
void session_judge_again(struct session *s);

/* ---- check.c ---- */

/* Have smtpd_auth() checked, within the limits of the guard. */
void session_check_start(struct session *s);
/* Its result is no longer wanted. */
void session_check_detach(struct session *s);
void check_detach_all(struct accept *a); /* accept is going away */

/* ---- certs.c ---- */

void certs_start(struct accept *a); /* the hourly look */
void certs_stop(struct accept *a);

/* ---- accept.c ---- */

/* May one more session of this client begin? NULL: yes, it is counted; else the reply. */
const char *accept_admit(struct accept *a, struct session *s);
/* The session has ended: uncount and forget it. */
void accept_forget(struct accept *a, struct session *s);
