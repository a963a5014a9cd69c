/*
 * accept - receives mail: listeners, sessions, and the protocol of RFC 5321 and its extensions.
 *
 * The daemon gives an environment (clock, log, workers) and two sets of callbacks: the verdict on a
 * recipient (the transport map) and the sink that takes the message. accept knows neither queue nor
 * routes. Everything runs on the loop thread.
 *
 *     client ──bytes──▶ session ──▶ smtpd ──▶ rcpt verdict
 *                                     └─────▶ sink: begin, rcpt*, chunk*, end | abort
 *
 * What reaches chunk() is the normalised message: without dot-stuffing, each line ending in CRLF
 * and the last one too, no bare CR or LF, no NUL; body lines of more than 998 octets broken with
 * CRLF SP. Lines of the header block are not broken: their reader folds them (policy/header.h) or
 * refuses. The header block (up to the first empty line) is at most ACCEPT_HEADER_MAX; when the
 * first line is no field the whole message counts as body, and the empty line before it is the
 * sink's to add.
 *
 * Invariants
 *  (1) Nobody who does not match trusted_clients gets a recipient accepted, but for addresses at
 *      srs.domain, for which the verdict callback alone is responsible.
 *  (2) 250 to a message is sent only after the sink answered its end().
 *  (3) A sink transaction sees begin, then rcpt one at a time, then chunks, then end; abort may
 * come at any moment and is the last call; without abort, the answer to end is the last event.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "relayd/accept/envelope.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct accept; /* opaque */
struct config;
struct log;
struct loop;
struct trust_names;
struct workers;

#define ACCEPT_HEADER_MAX ((size_t)1 << 20)           /* as HEADER_BYTES_MAX: beyond it 554 5.6.0 */
#define ACCEPT_STRANGER_BYTES_MAX ((uint64_t)1 << 20) /* a bounce that comes back by SRS */

/*
 * A verdict that is asked for: may this recipient be taken? Lives until it is answered or
 * cancelled. Exactly one of the two answers is given, at once or later.
 */
struct accept_rcpt_request {
    const struct accept_mail *mail;
    const struct accept_rcpt *rcpt;
    bool stranger; /* the client may not relay: this is an address at srs.domain, and only a valid
                      SRS address may be accepted */
    void *data;    /* the answerer's own */
};

/* Take the recipient. `instead` (copied) replaces its address: an SRS address decoded; empty: as it
 * is. An `instead` that is no mailbox counts as a refusal with 550 5.1.1. */
void accept_rcpt_accept(struct accept_rcpt_request *req, struct span instead);
/* Refuse it with a whole reply line without CRLF: "554 5.7.1 text". Copied. */
void accept_rcpt_refuse(struct accept_rcpt_request *req, struct span reply);

/* One message on its way into the sink. */
struct accept_txn {
    const struct accept_mail *mail;
    struct accept_body body; /* complete when end() is called */
    uint32_t n_rcpts;        /* taken so far */
    void *data;              /* the sink's own; NULL at begin() */
};

/*
 * The sink. begin, rcpt and end are answered with accept_answer(), each exactly once, inside the
 * call or later. `arg` is accept_env.sink_arg.
 */
struct accept_sink {
    /* Will there be room? At MAIL for a trusted client, else at the first recipient taken. No later
     * than 5 s: a client waits. A refusal (452 4.3.1) ends the transaction; no abort follows it. */
    void (*begin)(void *arg, struct accept_txn *t);
    /* One more recipient, never the same address twice. A refusal concerns this one only. */
    void (*rcpt)(void *arg, struct accept_txn *t, const struct accept_rcpt *rcpt);
    /* Bytes of the message, in order, valid during the call. False: taken, but wait: no more comes
     * before accept_resume(). */
    bool (*chunk)(void *arg, struct accept_txn *t, struct span bytes);
    /* The message is complete. The answer is the reply to the client; see accept_answer(). Handed
     * over means handed over: an abort after this only drops the answer. */
    void (*end)(void *arg, struct accept_txn *t);
    /* The client is gone, has changed its mind, or broke a rule: forget it. `t` is dead when it
     * returns, and no answer may follow. */
    void (*abort)(void *arg, struct accept_txn *t);
};

/*
 * Answer begin, rcpt or end. Empty: yes (only for begin and rcpt). Else a whole reply line without
 * CRLF, copied: a refusal, or for end also "250 2.0.0 queued as ID". After the answer to end, and
 * after a refused begin, `t` is dead.
 */
void accept_answer(struct accept_txn *t, struct span reply);
/* The sink can take chunks again. */
void accept_resume(struct accept_txn *t);
/* Refuse in mid-message (after an accepted begin, before end): the rest is read and dropped, then
 * the client gets `reply` (a whole line, copied). `t` is dead when this returns: no abort follows.
 */
void accept_refuse(struct accept_txn *t, struct span reply);

struct accept_env {
    struct loop *loop;
    struct log *log;
    struct workers *workers; /* password checks and certificate files */
    /* What the names of trusted_clients stand for. Changes between calls, never inside one; each
     * session looks again before it goes on. NULL: nobody is trusted by name. */
    const struct trust_names *names;
    void *rcpt_arg;
    void (*rcpt)(void *rcpt_arg, struct accept_rcpt_request *req);
    /* The client is gone before the answer: none may follow. `req` is dead when it returns. */
    void (*rcpt_cancel)(void *rcpt_arg, struct accept_rcpt_request *req);
    void *sink_arg;
    const struct accept_sink *sink;
    /* The configuration of a setup is no longer used by accept: the last session that began under
     * it has ended. NULL: nobody wants to know. */
    void *config_arg;
    void (*config_done)(void *config_arg, const struct config *config);
    size_t
        max_sessions; /* what the descriptors allow (limits.sessions is a bound besides); 0: any */
};

/* The environment is copied; what it points to outlives the accept object. */
struct accept *accept_new(const struct accept_env *env);

/*
 * Open the listeners of `config` before privileges are dropped, without taking connections yet. An
 * outline (CONFIG_LOAD_OUTLINE) is enough; nothing of it is kept. ERR_BUSY (address in use),
 * ERR_PERM, ERR_INVAL, ERR_IO: the text names the address; what was opened before stays open.
 */
MUST_CHECK enum err_code
accept_bind(struct accept *a, const struct config *config, struct err *err);

/*
 * What accept makes of a configuration: users, certificates, limits. Reads the certificate files
 * and parses the users files' text, so on a reload a worker calls it; any thread may. `config`
 * stays valid until env.config_done (or until the setup is freed unused).
 * ERR_INVAL, ERR_NOT_FOUND, ERR_PERM, ERR_IO with a sentence that names the file.
 */
struct accept_setup;
MUST_CHECK enum err_code
accept_setup_new(const struct config *config, struct accept_setup **ret, struct err *err);
void accept_setup_free(struct accept_setup *setup); /* one that was never given to accept_use() */

/*
 * Work by this setup from now on: open what listeners are new, close those that are gone, take
 * connections. The first call is the start, later ones are reloads. Sessions go on under the setup
 * they began with. On ERR_OK the setup is accept's; on an error (as accept_bind()) it stays the
 * caller's and everything is as before.
 */
MUST_CHECK enum err_code accept_use(struct accept *a, struct accept_setup *setup, struct err *err);

/* Read changed certificate files again, in a worker; accept does so by itself every hour. A file
 * that is no good raises an alert, and the old certificate stays. */
void accept_refresh_certificates(struct accept *a);

/*
 * Stop: no new connections, idle sessions get 421 4.3.2, one in the middle of a message may finish
 * it. `on_drained(arg)` is called once when the last session has gone, never inside this call.
 */
void accept_drain(struct accept *a, void (*on_drained)(void *arg), void *arg);
/* Close everything at once: sink transactions are aborted, verdicts cancelled. NULL is fine. */
void accept_free(struct accept *a);

/* Numbers for /metrics and status; all but the first two only grow. */
struct accept_stats {
    uint32_t sessions;     /* open now */
    uint32_t sessions_tls; /* of these inside TLS */
    uint64_t connections;  /* ever */
    uint64_t refused_421;  /* turned away at the door: too many, or throttled */
    uint64_t messages;     /* accepted with 250 */
    uint64_t messages_refused;
    uint64_t bytes; /* of accepted messages */
    uint64_t rcpts_refused;
    uint64_t relay_denied; /* of these: strangers */
    uint64_t auth_ok, auth_failed, auth_throttled;
    uint64_t tls_handshakes, tls_failed;
    uint64_t timeouts;
};
void accept_stats(const struct accept *a, struct accept_stats *ret);

/* The certificate in use runs out at this moment (wall time); INT64_MAX without one. */
msec_t accept_certificate_not_after(const struct accept *a);

/* The address of listener number `i` as "127.0.0.1:2525", with the real port where 0 was asked for;
 * false when there is no such listener. `buf` holds NET_ADDR_TEXT_BYTES. */
bool accept_listener_text(const struct accept *a, size_t i, char *buf);
