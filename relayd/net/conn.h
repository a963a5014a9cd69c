/*
 * conn - one connection: a byte stream over a non-blocking socket, with or without TLS.
 *
 * The driver (session) above owns the connection and its deadlines (clock.h); conn owns the
 * descriptor, the TLS state and buffers that exist only while they hold bytes.
 *
 * Life
 *
 *   conn_connect() --> connecting --on_connected--> open --conn_start_tls()--> handshake
 *   conn_accept()  ------------------------------->  |  <------on_tls(ok)---------'
 *                                                    |
 *         on_closed, or on_tls(failed): exactly one of them, and nothing after it
 *                                                    |
 *                                        conn_shutdown() or conn_retire()
 *
 * Rules
 *  (1) No function here calls back before it returns.
 *  (2) Each start has one completion: conn_connect -> on_connected or on_closed;
 *      conn_start_tls -> on_tls. An open connection ends with one on_closed.
 *  (3) The driver ends a connection with exactly one conn_shutdown() or conn_retire(), at any
 * moment, inside any callback too, also after on_closed. The pointer is dead when that returns; no
 * callback follows. The memory goes at the end of the tick. (4) Everything is called on the loop's
 * thread.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/span.h"
#include "relayd/net/addr.h"
#include "relayd/net/loop.h"
#include "relayd/net/tls.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

#define CONN_INPUT_MAX LOOP_BUFFER_BYTES /* unread plain bytes kept; reading stops beyond */
#define CONN_LINGER_MS (2 * SECOND)      /* for a peer to read our last words and close */
#define CONN_FLUSH_MS (10 * SECOND)      /* for those words to get into the kernel */
#define CONN_LINGERING_MAX 1024 /* connections in that state; beyond it they close at once */
#define CONN_IOV_MAX 16         /* pieces of one conn_writev() */

struct conn; /* opaque */

/* Why a connection ended, or never began. */
enum conn_end_kind {
    CONN_END_EOF,       /* the peer closed in order (FIN; under TLS after close_notify). The way out
                           still works: conn_write() is heard until conn_shutdown() */
    CONN_END_TRUNCATED, /* FIN under TLS without close_notify; judge as an EOF, trust no length */
    CONN_END_RESET,     /* ECONNRESET, EPIPE */
    CONN_END_TIMEOUT,   /* ETIMEDOUT: the kernel gave up */
    CONN_END_REFUSED,   /* connect: ECONNREFUSED */
    CONN_END_UNREACHABLE, /* connect: no route, network or host unreachable, EACCES by a firewall */
    CONN_END_LOCAL,       /* connect: our fault: source address not here, no descriptors or ports */
    CONN_END_TLS,         /* broken record or a fatal alert after the handshake */
    CONN_END_ERROR,       /* any other errno */
};

struct conn_end {
    enum conn_end_kind kind;
    int error;        /* errno, or 0 */
    const char *text; /* one line for humans; valid until the callback returns */
};

struct conn_tls_result {
    enum tls_failure failure;      /* TLS_FAIL_NONE = the handshake is done */
    const struct tls_facts *facts; /* success only; as conn_tls_facts() */
    const char *text;              /* failure only: one line; valid until the callback returns */
};

struct conn_ops {
    /* conn_connect() only. conn_start_tls() and conn_write() are the usual next steps. */
    void (*on_connected)(void *arg);
    /* There are unread bytes: new ones came, or conn_resume() was called over old ones. Look with
     * conn_input(), take with conn_consume(); what is left is kept and shown again with the next.
     */
    void (*on_data)(void *arg);
    /* All output is in the kernel's hands. Once after each time that conn_out_pending() was not 0.
     * May be NULL. */
    void (*on_drained)(void *arg);
    /* The handshake ended. On failure nothing but conn_shutdown() (the peer sees
     * our alert) or conn_retire() is left to do. */
    void (*on_tls)(void *arg, const struct conn_tls_result *result);
    /* The connection ended; unread bytes can still be read. Output is dropped from now on unless
     * kind is CONN_END_EOF. Not reported while reading is paused. */
    void (*on_closed)(void *arg, const struct conn_end *end);
};

/* ---- beginning ---- */

/*
 * Take over a connected, non-blocking stream socket (TCP, or a socketpair in tests). `peer` and
 * `local` are copied; NULL = none. `ops` outlives the connection. Reading begins with the next
 * tick.
 */
struct conn *conn_accept(struct loop *loop, int fd, const struct net_addr *peer,
                         const struct net_addr *local, const struct conn_ops *ops, void *arg);

struct conn_connect {
    struct net_addr to;
    struct ip source; /* bind to this address first (IP_BIND_ADDRESS_NO_PORT); family 0 = any */
    msec_t user_timeout_ms; /* TCP_USER_TIMEOUT: unacknowledged data; 0 = the kernel's ~15 min */
};

/* Begin to connect; nothing of `how` is kept. Every failure comes by on_closed, later. The deadline
 * is the driver's: conn_retire() when it has passed. */
struct conn *conn_connect(struct loop *loop, const struct conn_connect *how,
                          const struct conn_ops *ops, void *arg);

/* Other callbacks from now on (a greeting handler hands over, tests). */
void conn_set_ops(struct conn *c, const struct conn_ops *ops, void *arg);

/* ---- reading ---- */

/* Unread plain bytes, possibly none. Valid until this connection's next call or callback; inside
 * on_data it lies in a buffer shared by all connections, so do not keep pointers into it. */
struct span conn_input(const struct conn *c);
/* The first n unread bytes are done with; n <= conn_input().n. */
void conn_consume(struct conn *c, size_t n);
/*
 * What is read from now on may hold a secret (a password that is to come, a token): bytes that have
 * been consumed are overwritten, here and in OpenSSL, when the callback returns.
 */
void conn_read_secret(struct conn *c, bool secret);
/*
 * Stop and continue reading (back-pressure). Free of charge while the peer is quiet. While paused
 * there is no on_data and no on_closed, except for a failed write. conn_resume() with unread bytes
 * left brings on_data at the end of the tick.
 */
void conn_pause(struct conn *c);
void conn_resume(struct conn *c);

/* ---- writing ---- */

/*
 * Send bytes; what the kernel does not take at once is copied and sent later. Inside this
 * connection's own callback, and while corked, bytes are gathered and go out together when the
 * callback returns (or 64 KiB are together). Before on_connected and during a handshake they wait
 * for it. There is no limit here: a writer of much looks at conn_out_pending() and waits for
 * on_drained. After the end of the connection bytes are dropped.
 */
void conn_write(struct conn *c, struct span bytes);
/* The same for up to CONN_IOV_MAX pieces in one system call. */
void conn_writev(struct conn *c, const struct span *pieces, size_t n);
/* Inside TLS, at once and behind what is gathered: no copy of the plain bytes is made. */
void conn_write_secret(struct conn *c, struct span bytes);
/* Gather what is written until conn_uncork(), which sends it. Does not nest. */
void conn_cork(struct conn *c);
void conn_uncork(struct conn *c);
/* Send what is gathered, then say how many bytes (of cipher text, under TLS) still wait for the
 * peer; when not 0, on_drained follows (unless the connection ends). */
size_t conn_out_pending(struct conn *c);
/* A write failed: nothing leaves any more, and on_closed follows. */
bool conn_out_failed(const struct conn *c);

/* ---- TLS ---- */

enum conn_tls_input {
    CONN_TLS_NO_INPUT,   /* unread plain bytes are an error (STARTTLS) */
    CONN_TLS_FEED_INPUT, /* they are the start of the handshake (implicit TLS behind a PROXY header)
                          */
};

/*
 * Begin a handshake with the next byte; what was written before goes out in clear first. Completion
 * is on_tls. The context decides whether we are server or client; `name` (client: what to verify
 * and ask for, a host name or an IP address; it may be "" only when nothing is verified) is copied.
 * ERR_INVAL, with nothing begun: unread plain bytes under CONN_TLS_NO_INPUT. They were sent before
 * the handshake by the peer or by somebody in between (CVE-2011-0411) and must not be obeyed: a
 * server answers 501 and closes, a client drops the connection.
 */
MUST_CHECK enum err_code
conn_start_tls(struct conn *c, struct tls_ctx *ctx, const char *name, enum conn_tls_input input);
/* Facts of the finished handshake; NULL in clear. Valid as long as the connection. */
const struct tls_facts *conn_tls_facts(const struct conn *c);

/* ---- ending ---- */

/*
 * Send what is pending, then close_notify and FIN, then close. With `linger`, what the peer still
 * sends is read and dropped until it closes or CONN_LINGER_MS pass, so that an unread byte of its
 * does not reset the connection before it has seen our last words. Needs no driver any more;
 * bounded by CONN_FLUSH_MS and CONN_LINGERING_MAX.
 */
void conn_shutdown(struct conn *c, bool linger);
/* Close now; pending output is lost. NULL is fine. */
void conn_retire(struct conn *c);

/* ---- facts ---- */

const struct net_addr *conn_peer(const struct conn *c);
/* Our end; asked of the kernel when first needed. */
const struct net_addr *conn_local(struct conn *c);
/* TCP_USER_TIMEOUT from now on (see conn_connect). */
void conn_set_user_timeout(struct conn *c, msec_t timeout_ms);
int conn_fd(const struct conn *c);             /* for SO_PEERCRED and the like; -1 after the end */
uint64_t conn_bytes_in(const struct conn *c);  /* plain bytes read so far */
uint64_t conn_bytes_out(const struct conn *c); /* plain bytes given to conn_write() so far */
/* "eof", "reset", ...: for logs. */
const char *conn_end_name(enum conn_end_kind kind);
/* Connections of this loop still flushing or lingering behind conn_shutdown(). */
size_t conn_n_lingering(const struct loop *loop);
