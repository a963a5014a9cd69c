/*
 * smtpd - the SMTP server's protocol core: bytes in, replies out, and what it wants next. No I/O,
 * no clock (callers pass now), no log: it tells events.
 *
 *     smtpd_start(s, now, early);
 *     for (;;) {
 *         want = smtpd_step(s, now, &input);      // input moves past what was taken
 *         ... do what it wants, answer it, step again; INPUT, FLUSH and CLOSE: send smtpd_out()
 * first
 *     }
 *
 * The caller keeps what was not taken and shows it again with the bytes that follow; a command is
 * taken when it is whole. At most SMTPD_INPUT_MIN octets are ever left untaken under WANT_INPUT.
 *
 * Invariants
 *  (1) Each WANT_ that asks (AUTH, VERDICT, BEGIN, RCPT, END) is answered by one call of its answer
 *      function; until then smtpd_step() takes no input and wants the same again.
 *  (2) After WANT_BEGIN was answered with yes, exactly one of WANT_ABORT, the answer to WANT_END,
 * or smtpd_refuse() ends the sink's transaction; with smtpd_has_sink() true when the session is
 *      dropped it is the caller who aborts it.
 *  (3) Whatever ends a message (refused or not) leaves no sender and no recipient behind.
 *  (4) Nothing said before STARTTLS or in another session is known afterwards, errors counted
 * aside. (5) No reply holds a CR, LF or control character that a peer or a callback brought.
 *
 * States: see README.md.
 */
#pragma once

#include "policy/base/map.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"
#include "relayd/accept/envelope.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SMTPD_LINE_MAX 2048       /* octets of a command with its CRLF: over it 500 5.5.2 */
#define SMTPD_AUTH_LINE_MAX 12288 /* of an AUTH response (RFC 4954 section 4) */
#define SMTPD_INPUT_MIN SMTPD_AUTH_LINE_MAX
#define SMTPD_OUT_MAX 16384 /* replies gathered before WANT_FLUSH */
#define SMTPD_ERRORS_MAX 20 /* unknown verbs, syntax and sequence errors, failed AUTHs */
#define SMTPD_HELO_MAX 255
#define SMTPD_DRAIN_MS (30 * SECOND) /* for the rest of a message that is refused already */
#define SMTPD_RATE_MIN 100           /* octets a second that a message must come in with */

enum smtpd_want {
    SMTPD_WANT_INPUT,   /* the next bytes, until smtpd_deadline() */
    SMTPD_WANT_FLUSH,   /* many replies wait: send them and step again when the client took them */
    SMTPD_WANT_TLS,     /* send smtpd_out(), do the handshake, then smtpd_tls_done() */
    SMTPD_WANT_AUTH,    /* check smtpd_auth(), then smtpd_auth_done() */
    SMTPD_WANT_VERDICT, /* may smtpd_rcpt() be taken? smtpd_verdict() */
    SMTPD_WANT_BEGIN,   /* sink: begin smtpd_mail(), then smtpd_answer() */
    SMTPD_WANT_RCPT,    /* sink: add smtpd_rcpt(), then smtpd_answer() */
    SMTPD_WANT_CHUNK,   /* sink: take smtpd_chunk(), then step again */
    SMTPD_WANT_END,     /* sink: end, with smtpd_body(), then smtpd_answer() */
    SMTPD_WANT_ABORT,   /* sink: abort, then step again */
    SMTPD_WANT_CLOSE,   /* send smtpd_out(), then close; smtpd_close_reason() says why */
};

enum smtpd_event_kind {
    SMTPD_EVENT_REFUSED,     /* a command, recipient or message was refused: verb, text */
    SMTPD_EVENT_ACCEPTED,    /* a message was: text is the reply, body */
    SMTPD_EVENT_AUTH_OK,     /* user, mechanism in `verb` */
    SMTPD_EVENT_AUTH_FAILED, /* likewise; text says why */
};

struct smtpd_event {
    enum smtpd_event_kind kind;
    const char *verb;         /* "RCPT"; "dot" for a whole message; "connect" */
    struct span text;         /* the reply line, without CRLF */
    struct span user;         /* as the client gave it, any bytes */
    struct span sender, rcpt; /* of the transaction, where there is one */
    const struct accept_body *body;
    bool stranger; /* relaying was denied */
};

/* What all sessions of one listener share. Outlives them. */
struct smtpd_conf {
    const char *hostname;
    const char *postmaster; /* what <postmaster> stands for: a whole address */
    const char *srs_domain; /* canonical; strangers' recipients there are asked for. "": none */
    struct map_seed seed;   /* random: for sets of what clients send */
    const struct ip *own;   /* our own addresses: literals of them are refused */
    size_t n_own;
    uint64_t message_bytes, stranger_bytes, header_bytes;
    uint32_t max_rcpts;
    bool starttls;        /* offered */
    bool auth;            /* offered inside TLS */
    bool require_auth;    /* no MAIL without */
    bool reject_newlines; /* else normalised */
    msec_t idle_ms, idle_stressed_ms;
    void (*event)(void *arg, const struct smtpd_event *event); /* NULL: nobody listens */
};

struct smtpd; /* opaque */

/* `client` is copied; its spans for listener outlive the session. `scratch` (DATA_SCRATCH_BYTES)
 * may be shared by all sessions of a thread. */
struct smtpd *smtpd_new(const struct smtpd_conf *conf, const struct accept_client *client,
                        char *scratch, void *event_arg);
void smtpd_free(struct smtpd *s);

/* Greet. `early`: the client has spoken before; it gets 554 5.5.0 and is closed. */
void smtpd_start(struct smtpd *s, msec_t now, bool early);
/* Instead of a greeting: turn the client away with a whole reply line ("421 4.3.2 ..."). */
void smtpd_turn_away(struct smtpd *s, struct span reply);

/* Go on over *in, which is moved past what was taken, until something is wanted. */
enum smtpd_want smtpd_step(struct smtpd *s, msec_t now, struct span *in);

/* Replies to send. The caller empties it (strbuf_consume or _release) as they go. */
struct strbuf *smtpd_out(struct smtpd *s);

/* Monotonic moment for smtpd_timeout() while it wants INPUT; INT64_MAX: none. */
msec_t smtpd_deadline(const struct smtpd *s);
/* The deadline has passed: a 421, or a refusal that was being drained; or more time for a message
 * that comes in fast enough. Step afterwards. */
void smtpd_timeout(struct smtpd *s, msec_t now);
/* Few sessions are left (or again enough): idle ones get less time. May pull in the deadline. */
void smtpd_set_stressed(struct smtpd *s, msec_t now, bool stressed);
/* The daemon stops: 421 4.3.2 as soon as no message is under way. Step afterwards. */
void smtpd_stop(struct smtpd *s);

/* Does the client match trusted_clients, as things stand? To be said before smtpd_start(), and
 * again before smtpd_tls_done() and smtpd_auth_done(). */
void smtpd_set_trusted(struct smtpd *s, bool trusted);
/* Is that not known yet? Then who is not trusted gets 450 instead of 554. Said with it. */
void smtpd_set_undecided(struct smtpd *s, bool undecided);

/* The handshake is done (RFC 3207 section 4.2: everything before it is forgotten). The texts
 * outlive the session. For implicit TLS call it before smtpd_start(). */
void smtpd_tls_done(struct smtpd *s, struct span version, struct span cipher);

struct smtpd_auth {
    const char *mechanism;      /* "PLAIN", "LOGIN" */
    struct span name, password; /* any bytes; wiped once answered */
};
enum smtpd_auth_verdict {
    SMTPD_AUTH_OK,
    SMTPD_AUTH_BAD,       /* 535 5.7.8 */
    SMTPD_AUTH_BUSY,      /* 454 4.7.0: too many checks wait; no failure is counted */
    SMTPD_AUTH_THROTTLED, /* 421 4.7.0 and close */
};
const struct smtpd_auth *smtpd_auth(const struct smtpd *s);
void smtpd_auth_done(struct smtpd *s, enum smtpd_auth_verdict verdict);

/* What is asked for or handed on; valid while it is wanted (mail: the whole transaction). */
const struct accept_client *smtpd_client(const struct smtpd *s);
const struct accept_mail *smtpd_mail(const struct smtpd *s);
const struct accept_rcpt *smtpd_rcpt(const struct smtpd *s);
struct span smtpd_chunk(const struct smtpd *s); /* maybe a view into the input: take it first */
const struct accept_body *smtpd_body(const struct smtpd *s);
uint32_t smtpd_n_rcpts(const struct smtpd *s); /* taken in this transaction */
/* The client is a stranger to whom the recipient in hand is not relayed, but perhaps returned. */
bool smtpd_rcpt_is_strangers(const struct smtpd *s);
/* The sink's transaction is open: begun (or being begun), not ended, not aborted. */
bool smtpd_has_sink(const struct smtpd *s);
/* It was ended and the answer is awaited. */
bool smtpd_is_ending(const struct smtpd *s);

/* VERDICT: an empty `reply` takes the recipient, at the address `instead` when that is not empty.
 */
void smtpd_verdict(struct smtpd *s, struct span reply, struct span instead);
/* BEGIN, RCPT: empty is yes, else a refusal; END: the reply. Whole lines without CRLF. */
void smtpd_answer(struct smtpd *s, struct span reply);
/* The sink refuses in mid-message: it is over for the sink; the rest is drained, then replied to.
 * Inside a transaction that has a sink, unless the sink itself is being asked (BEGIN, RCPT, END).
 */
void smtpd_refuse(struct smtpd *s, msec_t now, struct span reply);

/* "quit", "idle", "errors", "early talk", "bare newline", "stop", ...; static. */
const char *smtpd_close_reason(const struct smtpd *s);

struct smtpd_counts {
    uint32_t commands, errors, messages, messages_refused, rcpts_refused, relay_denied;
    uint64_t bytes; /* of accepted messages */
};
const struct smtpd_counts *smtpd_counts(const struct smtpd *s);
