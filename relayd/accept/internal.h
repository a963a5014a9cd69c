/*
 * internal - what the files of the protocol core share: smtpd.c, command.c, verb_*.c, auth.c,
 * params.c, reply.c.
 *
 * Three things say where a session is, each for its own question: `state`, what the client may say
 * next; `mode`, what its next bytes are; `want`, what the driver was asked for.
 */
#pragma once

#include "policy/base/map.h"
#include "relayd/accept/data.h"
#include "relayd/accept/smtpd.h"

#define SMTPD_NO_DEADLINE INT64_MAX

/* What the client has said so far. Bits, so that a verb can name several. */
enum smtpd_state {
    SMTPD_NEW = 1,   /* not greeted yet */
    SMTPD_HELLO = 2, /* greeted; no EHLO or HELO yet */
    SMTPD_READY = 4, /* no transaction */
    SMTPD_MAIL = 8,  /* MAIL was taken, no recipient yet */
    SMTPD_RCPT = 16, /* and a recipient */
    SMTPD_BDAT = 32, /* and a chunk that was not the last */
    SMTPD_OVER = 64, /* to be closed */
};

enum smtpd_mode {
    MODE_COMMAND,
    MODE_AUTH,      /* a line that answers 334 */
    MODE_LONG_LINE, /* the rest of a line that is too long already */
    MODE_DATA,
    MODE_CHUNK, /* octets of a BDAT */
};

enum smtpd_auth_stage { AUTH_PLAIN, AUTH_LOGIN_NAME, AUTH_LOGIN_PASSWORD };

struct smtpd_auth_state {
    struct smtpd_auth pub;
    enum smtpd_auth_stage stage;
    struct strbuf name, password;
};

/* A recipient of the transaction: its texts, and the key by which it is known again. */
struct smtpd_rcpt_node {
    struct smtpd_rcpt_node *next;
    size_t n_key;
    char text[]; /* key (local part, "@", canonical domain), then address, then ORCPT */
};

/* From MAIL to the end of the message. */
struct smtpd_txn {
    struct accept_mail mail;
    char *mail_text;                   /* what the spans of `mail` point into */
    struct accept_rcpt rcpt;           /* in hand */
    struct smtpd_rcpt_node *rcpt_node; /* its text; NULL: none in hand */
    bool rcpt_stranger;
    struct smtpd_rcpt_node *rcpts; /* taken */
    struct map seen;               /* of these by key; made at the second one */
    uint32_t n_rcpts, n_refused;
    bool has_sink;
    uint64_t max_bytes;
    struct data data;
    struct accept_body body;
    char *refusal;         /* the message is refused already: the reply to give at its end */
    msec_t chunk_at;       /* when the chunk in hand was handed on */
    uint64_t window_bytes; /* octets when the current deadline was set */
};

struct smtpd {
    const struct smtpd_conf *conf;
    char *scratch;
    void *event_arg;
    msec_t now, deadline_at;
    msec_t armed_at; /* when the time until deadline_at began */
    struct strbuf out;
    struct accept_client client;
    char *helo, *user;
    struct smtpd_auth_state *auth;
    struct smtpd_txn *txn, *dead_txn; /* dead: until the sink has been told */
    struct span chunk;
    uint64_t chunk_left;       /* of the current BDAT */
    const char *chunk_refusal; /* static: the chunk is dropped, then this is said */
    const char *close_reason;
    const char *verb; /* in hand, for events */
    struct smtpd_counts counts;
    uint8_t state, mode, want;
    bool chunk_last;
    bool abort_due, stopping, stressed, undecided;
    bool esmtp; /* EHLO, not HELO */
    bool tls;
};

/* ---- smtpd.c ---- */

/* Add a reply line (no CRLF in `text`). */
void smtpd_reply(struct smtpd *s, const char *text);
void smtpd_replyf(struct smtpd *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for a text from outside the core: made harmless, and of the right form: its code begins
 * with one of `classes`, else it goes behind "451 4.3.0 ", so that no refusal looks like a yes. */
void smtpd_reply_foreign(struct smtpd *s, struct span text, const char *classes);
/* Reply with an error of the client's: it counts towards SMTPD_ERRORS_MAX. */
void smtpd_error(struct smtpd *s, const char *text);
/* Reply with a refusal that does not count. */
void smtpd_refusal(struct smtpd *s, const char *text);
/* Reply (text NULL: said already) and close. */
void smtpd_close(struct smtpd *s, const char *reason, const char *text);
/* Tell the driver; `text` is the reply, without CRLF. */
void smtpd_tell(struct smtpd *s, enum smtpd_event_kind kind, struct span text, bool stranger);
void smtpd_set_state(struct smtpd *s, enum smtpd_state state);
/* Forget the transaction, if there is one; its sink is aborted by the next step. */
void smtpd_txn_end(struct smtpd *s);
/* The last reply line in `out`, without CRLF. */
struct span smtpd_last_reply(const struct smtpd *s);
/* The next input has a new deadline. */
void smtpd_rearm(struct smtpd *s);
/* RFC 3848 and RFC 6531 section 4.3: what the Received field says after "with". */
struct span smtpd_protocol(const struct smtpd *s, bool smtputf8);

/* ---- command.c ---- */

/* One line of MODE_COMMAND or MODE_AUTH off *in. False when there is no whole one. */
bool line_step(struct smtpd *s, struct span *in);
/* MODE_LONG_LINE: drop the rest, then say so. False when its end is not here. */
bool long_line_step(struct smtpd *s, struct span *in);

/* ---- verbs: `arg` is what stands behind the verb, without blanks around it ---- */

void verb_ehlo(struct smtpd *s, struct span arg);
void verb_helo(struct smtpd *s, struct span arg);
void verb_starttls(struct smtpd *s, struct span arg);
void verb_auth(struct smtpd *s, struct span arg);
void verb_mail(struct smtpd *s, struct span arg);
void verb_rcpt(struct smtpd *s, struct span arg);
void verb_data(struct smtpd *s, struct span arg);
void verb_bdat(struct smtpd *s, struct span arg);
void verb_rset(struct smtpd *s, struct span arg);
void verb_noop(struct smtpd *s, struct span arg);
void verb_quit(struct smtpd *s, struct span arg);
void verb_vrfy(struct smtpd *s, struct span arg);
void verb_expn(struct smtpd *s, struct span arg);
void verb_help(struct smtpd *s, struct span arg);

/* ---- what follows a verb ---- */

/* A line in answer to 334. */
void auth_line(struct smtpd *s, struct span line);
void auth_release(struct smtpd *s); /* wipes */
/* The sink has answered WANT_BEGIN, when MAIL or when RCPT asked. */
void mail_begun(struct smtpd *s, struct span refusal);
void rcpt_begun(struct smtpd *s, struct span refusal);
void rcpt_taken(struct smtpd *s, struct span refusal);
void rcpt_drop(struct smtpd *s); /* forget the recipient in hand */
/* Go on with the body over *in; true when `want` says what comes next, false for more commands. */
bool body_step(struct smtpd *s, struct span *in);
void body_ended(struct smtpd *s, struct span reply);
/* The message is refused from now on: abort the sink, drain, then say `reply` (copied). */
void body_refuse(struct smtpd *s, struct span reply, bool tell_sink);
/* It is refused already and only read to its end. */
bool body_draining(const struct smtpd *s);
/* Its deadline has passed. */
void body_timeout(struct smtpd *s);

/* ---- params.c ---- */

bool span_is_ascii(struct span s);

struct smtpd_param {
    struct span key, value;
    bool has_value;
};

/* Cut the next parameter off *rest (RFC 5321 section 4.1.1.11): 1, 0 at the end, -1 for bad syntax.
 */
int param_next(struct span *rest, struct smtpd_param *ret);
/* RFC 3461 section 4.1; 0: bad. */
unsigned param_notify(struct span value);
/* RFC 3461 section 4.2, RFC 6533 section 3: type ";" xtext, or utf-8-addr. */
bool param_orcpt_valid(struct span value);
bool param_envid_valid(struct span value);
