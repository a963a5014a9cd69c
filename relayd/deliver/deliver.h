/*
 * deliver - one connection to a site: a walk over its endpoints, then transaction after
 * transaction.
 *
 * deliver_start() walks the endpoints in the given order until one answers EHLO properly (and TLS
 * and AUTH are done where the target wants them). From then on the connection says `on_ready`
 * whenever it can take a transaction, and stays idle in between until it is told to quit, its peer
 * closes it, or one of its limits is reached.
 *
 *      deliver_start
 *           |                      all endpoints failed, never ready
 *        WALKING ------------------------------------------------> on_failed   (gone)
 *           | on_ready   ^
 *           v            | 4xx or lost before the final dot:
 *         IDLE --------> BUSY     next endpoint, same transaction
 *           ^  txn_start |
 *           +------------+ on_outcome x n, on_txn_done, on_ready
 *           |
 *        QUITTING, or closed by the peer ------------------------> on_closed   (gone)
 *
 * Invariants
 *  (1) Each recipient of a transaction gets exactly one on_outcome, then on_txn_done follows once;
 *      deliver_abort() is the only way to end a transaction without them.
 *  (2) A connection ends with exactly one of on_failed (all endpoints failed and it was never
 *      ready) and on_closed (everything else). The pointer is dead when that callback returns.
 *  (3) deliver_start, deliver_txn_start, deliver_body and deliver_quit never call back before they
 *      return, except that deliver_body may ask for more by want_body. All of them may be called
 *      inside any callback of the same connection.
 *  (4) Message content is sent only after a 354, and never to a host that refused all recipients.
 *  (5) After the final dot has left, the message is never sent again by this connection.
 *
 * Loop thread only. Nothing here logs; the daemon does, from what the callbacks carry.
 */
#pragma once

#include "policy/base/ip.h"
#include "policy/base/msec.h"
#include "policy/base/outcome.h"
#include "policy/base/smtp_reply.h"
#include "policy/base/span.h"
#include "relayd/net/loop.h"
#include "relayd/net/tls.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tls_memory; /* relayd/deliver/tls_memory.h */

#define DELIVER_RCPTS_MAX 100     /* of one transaction (RFC 5321 section 4.5.3.1.8) */
#define DELIVER_UNSENT_MAX 262144 /* bytes a connection buffers towards a slow peer */
#define DELIVER_CHUNK_MAX 131072  /* bytes of one deliver_body() */
#define DELIVER_TLS_TEXT_MAX 64   /* "TLSv1.3 TLS_AES_256_GCM_SHA384" and its NUL */
#define DELIVER_ENDPOINTS_MAX 64  /* 5 hosts x 2 addresses, or a hop's ports x addresses */
#define DELIVER_MIN_RATE_BYTES \
    1024 /* a second, over each timeouts.block_ms of body: slower is dead */

/* One place to connect to. A hop's ladder is ports x addresses, written out in order. */
struct deliver_endpoint {
    struct ip ip;
    uint16_t port;
    bool implicit_tls; /* TLS from the first byte (port 465) */
    const char *host;  /* MX host or hop host name, A-labels; SNI, TLS name and log text */
};

/* config `timeouts:`; each covers a whole reply (RFC 5321 section 4.5.3.2). */
struct deliver_timeouts {
    msec_t connect_ms, greeting_ms, ehlo_ms, starttls_ms, auth_ms, mail_ms, rcpt_ms, data_ms;
    msec_t block_ms; /* window of the body's minimum rate */
    msec_t final_dot_ms, quit_ms;
};
/* The defaults of config.md. */
extern const struct deliver_timeouts deliver_timeouts_default;

/* Where to, and how. deliver_start() copies all of it but `tls_ctx`. */
struct deliver_target {
    const struct deliver_endpoint *endpoints; /* tried in this order */
    size_t n_endpoints;                       /* 1..DELIVER_ENDPOINTS_MAX */
    const char *ehlo_name;                    /* node.hostname */
    bool hop; /* one of our own: its trouble before MAIL is the path's (behaviour.md) */

    enum tls_level tls;
    struct tls_ctx *tls_ctx; /* client context of that level, NULL only with TLS_OFF. Kept by the
                                caller until on_failed, on_closed or deliver_abort */
    const char *tls_name;    /* name or address to verify and to send as SNI; NULL: each
                                endpoint's host */
    bool tls_gone_is_path;   /* opportunistic: a host whose TLS worked within 7 d and that no longer
                                offers it counts as failed on the path. Set it where the rule has a
                                fallback; otherwise such a host gets the mail in clear */
    const char *auth_username, *auth_password; /* NULL: no AUTH. Only ever sent inside TLS */
    struct ip source_v4, source_v6;            /* bind address; family 0: the system's choice */
    struct deliver_timeouts timeouts;
    unsigned max_messages; /* transactions of one session, then QUIT; 0: no limit */
    msec_t idle_ms;        /* without a transaction, then QUIT: 10 s, hop 60 s; not 0 */
    msec_t session_ms;     /* age at which no further transaction starts: 5 min; 0: no limit */
};

struct deliver_rcpt {
    struct span address; /* local@domain without <>, domain in A-labels */
    struct span orcpt;   /* "rfc822;xtext" as it goes on the wire, or "utf-8;" and an address, which
                            goes in ASCII behind a MAIL without SMTPUTF8; empty: none */
    uint8_t notify;      /* DELIVER_NOTIFY_*; 0: not given */
};
#define DELIVER_NOTIFY_NEVER 1
#define DELIVER_NOTIFY_SUCCESS 2
#define DELIVER_NOTIFY_FAILURE 4
#define DELIVER_NOTIFY_DELAY 8

/*
 * One message to some of its recipients. Owned by the caller and unchanged, with everything its
 * spans point to, until on_txn_done (or deliver_abort) returns.
 */
struct deliver_txn {
    struct span sender;  /* without <>; empty: the null sender */
    struct span ret;     /* "FULL", "HDRS" or empty */
    struct span envid;   /* xtext as it goes on the wire; empty: none */
    uint64_t size_bytes; /* head and body as they are before dot-stuffing */
    bool is_8bit;        /* BODY=8BITMIME where that is offered; else sent as it is */
    bool needs_smtputf8; /* an address or header needs it: a host without it fails 5.6.7 */
    const struct deliver_rcpt *rcpts;
    size_t n_rcpts;           /* 1..DELIVER_RCPTS_MAX */
    const struct span *heads; /* whole CRLF-terminated fields, in order, sent before the body */
    size_t n_heads;
    uint64_t msg_id; /* what is in hand while this is worked on (relayd/work/inhand.h) */
    void *user;      /* the caller's */
};

/* Who is, or last was, at the other end. Valid until the callback that reads it returns. */
struct deliver_peer {
    size_t endpoint; /* index into the target's list */
    struct ip ip;
    uint16_t port;
    const char *host;
    const char *tls;     /* "TLSv1.3 TLS_AES_256_GCM_SHA384", or "" in clear */
    bool tls_verified;   /* the chain or the pin, and the name, held */
    bool dsn_offered;    /* by the EHLO answer: NOTIFY and ORCPT were passed on */
    bool reused;         /* the connection had served a transaction before this one */
    unsigned n_messages; /* transactions started on this session, this one included */
};

/* What a finished transaction tells besides its outcomes. */
struct deliver_report {
    struct deliver_peer peer;
    msec_t connect_ms;  /* walk, TLS and AUTH until ready; 0 on a reused connection */
    msec_t transfer_ms; /* from the transaction's first command to its last reply */
    bool hop_trouble;   /* the hop answered with trouble at or after MAIL: treat the site as down */
};

struct deliver_ops {
    /* A transaction may be started: now, in here, or later. */
    void (*on_ready)(void *arg);
    /*
     * The body's bytes from `offset` are wanted: answer with deliver_body(), in here or later. It
     * starts at 0 again when the transaction goes to another endpoint or to a second group of
     * recipients (452). A small body answered in here leaves together with the head in one write.
     */
    void (*want_body)(void *arg, struct deliver_txn *txn, uint64_t offset);
    void (*on_outcome)(void *arg, struct deliver_txn *txn, size_t rcpt,
                       const struct outcome *outcome);
    void (*on_txn_done)(void *arg, struct deliver_txn *txn, const struct deliver_report *report);
    /*
     * No endpoint got as far as ready. `outcome` sums up the per-host answers: FAILED only when
     * every host refused with 5xx and it is no hop; `path` when every host failed on the path, and
     * always at a hop; otherwise the most telling answer of a host, deferred.
     */
    void (*on_failed)(void *arg, const struct outcome *outcome);
    void (*on_closed)(void *arg);
};

/* Shared by all connections of the daemon; outlives them. */
struct deliver_env {
    struct loop *loop;
    struct tls_memory *tls_memory;
    /*
     * Is this reply of a hop, at MAIL or later, about the hop and not about the message (classed
     * relay-denied, auth-required or tls-required)? 530, 535, 538 and 454 are so by themselves and
     * are not asked about. May be NULL: no.
     */
    bool (*hop_trouble)(void *arg, const struct smtp_reply *reply, const char *phase);
    void *hop_trouble_arg;
    /* Session trace, one line without CRLF at a time, never a password or content; may be NULL. */
    void (*trace)(void *arg, const struct deliver_peer *peer, char direction, struct span line);
    void *trace_arg;
};

struct deliver_conn;

/* Begin to walk. `env` and `ops` outlive the connection, `arg` goes to every callback. */
struct deliver_conn *
deliver_start(const struct deliver_env *env, const struct deliver_target *target,
              const struct deliver_ops *ops, void *arg);

/* Start a transaction. Only between on_ready and the next start, and not after deliver_quit(). */
void deliver_txn_start(struct deliver_conn *conn, struct deliver_txn *txn);

/*
 * Answer want_body: the body's bytes from `offset`, at most DELIVER_CHUNK_MAX; `last` with the end
 * of the body (also with no bytes). The bytes are CRLF text, not dot-stuffed; they are written or
 * copied before this returns. An answer to a question that is no longer open (another offset, the
 * transaction moved on) is ignored, so a late reader does no harm.
 */
void deliver_body(struct deliver_conn *conn, struct deliver_txn *txn, uint64_t offset,
                  struct span bytes, bool last);

/* The body cannot be read: the session is cut before the dot, who has no outcome is deferred. Calls
 * back before it returns, up to on_closed. Ignored when nothing is asked. */
void deliver_body_failed(struct deliver_conn *conn, struct deliver_txn *txn, const char *why);

/* End politely: idle: QUIT now; busy: after this transaction; walking without one: at once. */
void deliver_quit(struct deliver_conn *conn);

/* Close at once and forget; no callback follows. Not after on_failed or on_closed. */
void deliver_abort(struct deliver_conn *conn);

/* on_ready was called and no transaction has been started since. */
bool deliver_is_ready(const struct deliver_conn *conn);
const struct deliver_peer *deliver_peer(const struct deliver_conn *conn);
