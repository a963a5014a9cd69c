/*
 * smtpc - the SMTP client's protocol core: bytes in, commands out, no I/O and no clock.
 *
 * Every input (bytes, TLS up, the connection lost, a transaction, the body sent) returns what the
 * driver has to do next. The driver (deliver.c) owns the descriptor, TLS, deadlines and the walk
 * over endpoints; the dialog tests and the fuzzer drive the same core without any of these.
 *
 *   smtpc_open -> GREETING -> EHLO [-> HELO] [-> STARTTLS -> tls -> EHLO] [-> AUTH] -> WANT_TXN
 *   smtpc_txn_start -> [RSET] MAIL RCPT... DATA -> WANT_BODY -> smtpc_body_sent -> dot -> WANT_TXN
 *
 * One FIFO of commands in flight serves pipelined and plain sessions alike: a reply belongs to its
 * head (RFC 5321 section 4.3.1, RFC 2920). The core outlives its sessions: smtpc_open() starts the
 * next one (next endpoint, or the same one in clear), and the transaction in hand goes on there
 * with the recipients that have no outcome yet.
 *
 * Invariants
 *  (1) A reply is only matched to a command whose bytes the driver has taken (smtpc_output_taken).
 *  (2) WANT_BODY only after a 354 to a DATA behind which at least one recipient was taken.
 *  (3) AUTH is only ever put out inside TLS; MAIL never in clear under REQUIRE and VERIFY.
 *  (4) Each recipient gets one on_outcome, on_txn_done comes after the last one.
 */
#pragma once

#include "relayd/deliver/deliver.h"

/* What the driver does next, after sending smtpc_output(). */
enum smtpc_want {
    SMTPC_WANT_REPLY, /* wait for one, smtpc_timeout_ms() from now */
    SMTPC_WANT_TLS,   /* handshake, then smtpc_tls_up() or smtpc_lost() */
    SMTPC_WANT_TXN,   /* nothing to do: smtpc_txn_start(), or smtpc_quit() */
    SMTPC_WANT_BODY,  /* heads and body, dot-stuffed (body.h), then smtpc_body_sent() */
    SMTPC_WANT_CLOSE, /* drop the connection; smtpc_end() says how to go on */
};

enum smtpc_end {
    SMTPC_END_OVER,  /* the session is over; no transaction is in hand */
    SMTPC_END_NEXT,  /* this host failed (smtpc_failure): next endpoint, transaction or not */
    SMTPC_END_STOP,  /* it failed, and the other endpoints would as well: walk no further */
    SMTPC_END_CLEAR, /* opportunistic TLS failed: the same endpoint in clear */
    SMTPC_END_AGAIN, /* a reused session has ended, or takes no more: the same endpoint afresh, no
                        cost */
};

enum smtpc_loss {
    SMTPC_LOSS_CLOSED,  /* closed or reset */
    SMTPC_LOSS_TIMEOUT, /* the deadline of a reply, of TLS, or the body's minimum rate */
    SMTPC_LOSS_TLS,     /* handshake or verification failed, or garbage inside TLS */
};

/* Fixed for the life of a core; what it points to outlives the core. */
struct smtpc_config {
    const char *ehlo_name;
    bool hop;
    enum tls_level tls;
    bool tls_gone_is_path;
    const char *auth_username, *auth_password; /* NULL: none */
    struct deliver_timeouts timeouts;
    bool (*hop_trouble)(void *arg, const struct smtp_reply *reply, const char *phase);
    void *hop_trouble_arg;
};

struct smtpc_ops {
    void (*on_outcome)(void *arg, struct deliver_txn *txn, size_t rcpt,
                       const struct outcome *outcome);
    void (*on_txn_done)(void *arg, struct deliver_txn *txn);
    /* One line of the dialog, secrets masked; direction '>' out, '<' in. May be NULL. */
    void (*trace)(void *arg, char direction, struct span line);
};

/* What is known of the endpoint when its session starts. */
struct smtpc_host {
    bool implicit_tls;  /* the driver shakes hands first: smtpc_open() returns WANT_TLS */
    bool in_clear;      /* its opportunistic TLS failed lately: do not ask for it */
    bool tls_was_there; /* its TLS worked within 7 d */
};

/* What the last EHLO answer offered. */
struct smtpc_offers {
    bool pipelining, eight_bit, smtputf8, dsn, starttls, auth_plain, auth_login, size;
    uint64_t size_max; /* 0: no limit stated */
    unsigned rcpt_max; /* LIMITS RCPTMAX (RFC 9422); 0: none */
    unsigned mail_max; /* LIMITS MAILMAX; 0: none */
};

struct smtpc;

struct smtpc *smtpc_new(const struct smtpc_config *config, const struct smtpc_ops *ops, void *arg);
void smtpc_free(struct smtpc *s); /* NULL is fine; calls nothing back */

/* A connection is there. */
enum smtpc_want smtpc_open(struct smtpc *s, const struct smtpc_host *host);
/* TLS is up, after SMTPC_WANT_TLS. Everything learned before is forgotten (RFC 3207 section 4.2).
 */
enum smtpc_want smtpc_tls_up(struct smtpc *s);
/*
 * Bytes of the peer, any chunking. Replies are handled as they complete; with the first byte that
 * nobody asked for (behind the reply to STARTTLS, while idle, before a command has left) and with
 * the first that is no SMTP the session is over: SMTPC_WANT_CLOSE.
 */
enum smtpc_want smtpc_input(struct smtpc *s, struct span bytes);
/* The connection is gone. `text` is for humans. Always returns SMTPC_WANT_CLOSE. */
enum smtpc_want smtpc_lost(struct smtpc *s, enum smtpc_loss loss, const char *text);

/*
 * Take a transaction, after SMTPC_WANT_TXN. With smtpc_txn_fits() false it is decided (SIZE,
 * SMTPUTF8, bytes that cannot stand in a command) by on_outcome and on_txn_done inside this call.
 */
enum smtpc_want smtpc_txn_start(struct smtpc *s, struct deliver_txn *txn);
bool smtpc_txn_fits(const struct smtpc *s, const struct deliver_txn *txn);
/* Ready, and no transaction was started in the same breath: the peer may hang up from now on, which
 * then costs the next transaction nothing. */
void smtpc_idle(struct smtpc *s);
/* All of the body and its final dot have left. */
enum smtpc_want smtpc_body_sent(struct smtpc *s);
/* The body can't be had: who has no outcome is deferred, the session ends before the dot. */
enum smtpc_want smtpc_body_failed(struct smtpc *s, const char *why);
/* Give everybody without an outcome this one; the transaction is done. */
void smtpc_txn_decide(struct smtpc *s, const struct outcome *outcome);
/* QUIT, after SMTPC_WANT_TXN. */
enum smtpc_want smtpc_quit(struct smtpc *s);

/* Commands to send. Call smtpc_output_taken() once they are on their way. */
struct span smtpc_output(const struct smtpc *s);
void smtpc_output_taken(struct smtpc *s);
bool smtpc_output_is_secret(const struct smtpc *s); /* there is a password in it; only inside TLS */

/* After SMTPC_WANT_CLOSE. */
enum smtpc_end smtpc_end(const struct smtpc *s);
/* After SMTPC_WANT_CLOSE: the peer is in step with us, so QUIT may be said before the descriptor is
 * closed in order. Otherwise cut it: buffered content must not end up complete. */
bool smtpc_end_polite(const struct smtpc *s);
/* After END_NEXT and END_STOP: what this host did. */
const struct outcome *smtpc_failure(const struct smtpc *s);

/* The phase that the next event will be blamed on: "greeting", "ehlo", ... */
const char *smtpc_phase(const struct smtpc *s);
/* Deadline of what is waited for (a whole reply, the handshake). */
msec_t smtpc_timeout_ms(const struct smtpc *s);
/* Changes whenever that deadline starts anew: with each reply, not with each byte of one. */
unsigned smtpc_wait_no(const struct smtpc *s);
/* A command whose reply is outstanding has been sent: a reply may come now. */
bool smtpc_expects_reply(const struct smtpc *s);
const struct smtpc_offers *smtpc_offers(const struct smtpc *s);
struct deliver_txn *smtpc_txn(const struct smtpc *s); /* in hand, or NULL */
bool smtpc_in_tls(const struct smtpc *s);
unsigned smtpc_n_txns(const struct smtpc *s); /* started in this session */
/* A hop answered with trouble in the last or current transaction. */
bool smtpc_hop_trouble(const struct smtpc *s);
