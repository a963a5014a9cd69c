/*
 * smtpc_private - what the files of the protocol core share: smtpc.c (table, FIFO,
 * events), smtpc_session.c (greeting, EHLO, TLS, AUTH), smtpc_txn.c (transactions),
 * smtpc_commands.c (MAIL and RCPT) and smtpc_offers.c (EHLO answers).
 */
#pragma once

#define SMTPC_ORCPT_MAX 500 /* octets of an ORCPT (RFC 3461 section 4.2) */

#include "relayd/deliver/smtpc.h"

/* One value per thing that a reply can answer. */
enum smtpc_cmd {
    CMD_GREETING,
    CMD_EHLO,
    CMD_HELO,
    CMD_STARTTLS,
    CMD_AUTH_PLAIN,
    CMD_AUTH_LOGIN,
    CMD_AUTH_USER,
    CMD_AUTH_PASS,
    CMD_RSET,
    CMD_MAIL,
    CMD_RCPT,
    CMD_DATA,
    CMD_EMPTY_DOT, /* 354 although nobody was taken: RFC 2920 section 3.1 */
    CMD_BODY_END,
    CMD_QUIT,
    CMD__COUNT
};

enum smtpc_state {
    STATE_CLOSED, /* no session */
    STATE_SETUP,  /* greeting ... AUTH */
    STATE_TLS,    /* the handshake */
    STATE_IDLE,
    STATE_TXN,  /* MAIL ... DATA, before any content */
    STATE_BODY, /* content is being sent */
    STATE_DOT,  /* the final dot has left */
    STATE_QUIT,
};

/* A recipient of the transaction in hand. */
enum rcpt_state {
    RCPT_PENDING, /* not asked in this group */
    RCPT_TAKEN,   /* 250: waits for the dot */
    RCPT_AGAIN,   /* 452: waits for the next group */
    RCPT_REFUSED, /* in a session that served before: waits for the reply to DATA */
    RCPT_DECIDED, /* has its outcome */
};

enum group_step { STEP_RSET, STEP_MAIL, STEP_RCPT, STEP_DATA, STEP_NONE };

/* One MAIL ... dot on one session; a transaction needs more than one when some get a 452. */
struct group {
    enum group_step next;
    size_t next_rcpt;
    size_t n_asked, n_taken;
    bool mail_ok;
    bool ended; /* by a dot: the peer has forgotten the transaction */
    bool delivered;
};

struct sent {
    uint8_t cmd;
    uint8_t rcpt;
};

#define IN_FLIGHT_MAX 256 /* > DELIVER_RCPTS_MAX + RSET, MAIL, DATA; a power of two */

struct smtpc {
    struct smtpc_config config;
    struct smtpc_ops ops;
    void *arg;

    /* The session. */
    enum smtpc_state state;
    struct smtpc_host host;
    struct smtpc_offers offers;
    bool in_tls;
    bool tls_heard; /* a reply came inside TLS: it works */
    bool needs_rset;
    bool idled;     /* waited in IDLE: the peer may have hung up meanwhile */
    bool took_mail; /* a MAIL was taken: a refusal of a later one may be this session's only */
    unsigned n_txns;
    enum smtpc_end end;
    bool polite; /* the peer knows where we are: QUIT may be said */
    struct outcome failure;

    /* Commands in flight: [head, tail); those before `flushed` have left. */
    struct sent in_flight[IN_FLIGHT_MAX];
    uint32_t head, flushed, tail;
    struct smtp_reply_parser parser;
    enum smtpc_want want; /* what was answered last */
    unsigned wait_no;
    int answered; /* enum smtpc_cmd whose reply is being handled; -1: none */
    struct strbuf out;
    bool out_secret; /* `out` holds a password */

    /* The transaction in hand. */
    struct deliver_txn *txn;
    struct group group;
    bool reused; /* its session had served before, or waited */
    bool heard;  /* a reply to one of its commands has come */
    bool early;  /* half a reply was there when the final dot left */
    bool hop_trouble;
    size_t n_undecided;
    uint8_t rcpts[DELIVER_RCPTS_MAX];          /* enum rcpt_state */
    struct outcome *answer[DELIVER_RCPTS_MAX]; /* of RCPT_AGAIN and RCPT_REFUSED; else NULL */
};

/* The row of a command: see smtpc.c. */
const char *smtpc_cmd_name(enum smtpc_cmd cmd);

/* Put a command out and expect its reply. `fmt` without CRLF; SPAN_ARG is safe for checked text. */
void smtpc_send(struct smtpc *s, enum smtpc_cmd cmd, size_t rcpt, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Expect a reply for what is not a line of `out` (greeting, final dot). */
void smtpc_expect(struct smtpc *s, enum smtpc_cmd cmd, size_t rcpt);
/* The session is dropped: `end` says how to go on. */
enum smtpc_want smtpc_close(struct smtpc *s, enum smtpc_end end);
/* This host failed with `o`: the next endpoint. At a hop it is the path's failure. */
enum smtpc_want smtpc_host_failed(struct smtpc *s, const struct outcome *o, enum smtpc_end end);
/* The peer broke the protocol: a reply that is none or too long, bytes nobody asked for. */
enum smtpc_want smtpc_violation(struct smtpc *s, const char *why);
/* Nothing in flight: reply handlers of smtpc_txn.c go on by this. */
bool smtpc_idle_fifo(const struct smtpc *s);

enum smtpc_want smtpc_on_greeting(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_ehlo(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_helo(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_starttls(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_auth(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_auth_plain(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_auth_login(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_auth_user(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_quit(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);

/* smtpc_txn.c: the session is ready for a transaction, which may be in hand already. */
enum smtpc_want smtpc_session_ready(struct smtpc *s);
/* A new session: whoever has no outcome is to be asked again. */
void smtpc_txn_rewind(struct smtpc *s);
/* The session ended under the transaction: decide who must be, or leave it for the next host. */
enum smtpc_want
smtpc_txn_lost(struct smtpc *s, enum smtpc_loss loss, const char *phase, const char *text);
enum smtpc_want smtpc_txn_violation(struct smtpc *s, const char *phase, const char *why);
/* A reply while content is being sent. */
enum smtpc_want smtpc_early_reply(struct smtpc *s, const struct smtp_reply *r);

enum smtpc_want smtpc_on_rset(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_mail(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_rcpt(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_data(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_empty_dot(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);
enum smtpc_want smtpc_on_body_end(struct smtpc *s, size_t rcpt, const struct smtp_reply *r);

/* smtpc_commands.c. False: this host can't take it, and *ret says why. */
bool smtpc_fits(const struct smtpc *s, const struct deliver_txn *txn, struct outcome *ret);
void smtpc_send_mail(struct smtpc *s);
void smtpc_send_rcpt(struct smtpc *s, size_t rcpt);

/* smtpc_offers.c: what the text of an EHLO answer offers. */
void smtpc_offers_parse(struct span text, struct smtpc_offers *ret);
