/*
 * dsn - delivery status notifications: what the sender is told (RFC 3461, 3464, 6522; RFC 6533 when
 * an address is not ASCII).
 *
 * A pure builder: facts in, one message out (CRLF lines, at most 998 octets each, header and body).
 * Whatever comes from a peer is bounded and escaped: no reply text can add a field, a line or a
 * MIME part to the report.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/outcome.h"
#include "policy/base/span.h"

#define DSN_FULL_MAX_BYTES (128u << 10) /* an original beyond this comes back as headers only */
#define DSN_HEAD_MAX_BYTES (32u << 10)  /* of the original's header block, cut between fields */
#define DSN_RCPTS_MAX 1000u             /* recipients of one report */
#define DSN_REFUSALS_MAX 4u             /* refusals quoted for one recipient, one for each route */
#define DSN_LANGUAGES_MAX 2u

enum dsn_kind {
    DSN_FAILED,  /* NOTIFY=FAILURE, or none given */
    DSN_DELAYED, /* NOTIFY=DELAY, or none given */
    DSN_SUCCESS, /* NOTIFY=SUCCESS */
};

/* Action field of a recipient (RFC 3464 section 2.3.3). */
enum dsn_action { DSN_ACTION_FAILED, DSN_ACTION_DELAYED, DSN_ACTION_DELIVERED, DSN_ACTION_RELAYED };

enum dsn_language { DSN_EN, DSN_ZH };

/* NOTIFY of a recipient (RFC 3461 section 4.1). 0: none was given, which means FAILURE and DELAY.
 */
enum dsn_notify {
    DSN_NOTIFY_NEVER = 1,
    DSN_NOTIFY_SUCCESS = 2,
    DSN_NOTIFY_FAILURE = 4,
    DSN_NOTIFY_DELAY = 8,
};

/* Whether a report of this kind is owed: never for the null sender (RFC 3461 section 6.2). */
bool dsn_wanted(enum dsn_kind kind, unsigned notify, bool null_sender);

/* One refusal, or what stood in the way of one route. */
struct dsn_refusal {
    struct span route; /* "direct", "us" */
    struct span mta;   /* host name of the peer, or empty when there was none */
    struct span ip;    /* its address, or empty */
    msec_t at;
    int code;         /* SMTP reply code, or 0 when no peer said so */
    struct enh enh;   /* klass 0: none */
    struct span text; /* the peer's words, or ours */
};

struct dsn_rcpt {
    struct span address; /* as the client gave it */
    struct span orcpt;   /* "rfc822;user+40..." decoded by nobody, or empty */
    enum dsn_action action;
    struct enh status;                  /* klass 0: X.0.0 by the action */
    msec_t last_attempt_at;             /* 0: none was made */
    msec_t will_retry_until;            /* of DSN_ACTION_DELAYED; 0: left out */
    struct span final_log_id;           /* the next host's queue id, or empty */
    bool expired;                       /* given up because its time ran out */
    const struct dsn_refusal *refusals; /* the newest first; the first one is the Diagnostic-Code */
    size_t n_refusals;
};

struct dsn_original {
    struct span sender; /* reverse path, never null: it gets the report */
    struct span envid;  /* ENVID as given in MAIL (xtext), or empty */
    struct span id;     /* queue id as shown to people */
    struct span client; /* Received-From-MTA, who handed it to us: a name or "[ip]"; or empty */
    bool ret_full;      /* the whole original is wanted back with a failure */
    bool has_8bit;      /* the original holds octets above 127 */
    msec_t arrived_at;
    struct span head;    /* its header block without the empty line, all fields in order */
    struct span body;    /* its body, only read with ret_full when all of it is here */
    uint64_t size_bytes; /* of head and body */
};

struct dsn_report {
    enum dsn_kind kind;
    const enum dsn_language *languages; /* of the human part, in this order; at least one */
    size_t n_languages;
    struct span node;       /* node.name */
    struct span hostname;   /* node.hostname: Reporting-MTA, and MAILER-DAEMON@ of the From field */
    struct span postmaster; /* node.postmaster, told as the one to ask; or empty */
    struct span notice_id;  /* id of this notice: Message-ID and MIME boundary */
    msec_t now;
    const struct dsn_original *original;
    const struct dsn_rcpt *rcpts;
    size_t n_rcpts;
};

/* What the builder says about the message it made. */
struct dsn_built {
    size_t body_at; /* the header block is [0, body_at), with the empty line */
    bool is_8bit;   /* needs 8BITMIME */
    bool smtputf8;  /* the sender, so the To field, is not ASCII: needs SMTPUTF8 */
};

/*
 * Append the report to `out`. Its envelope is the caller's: null reverse path, one recipient
 * (original->sender), NOTIFY=NEVER. ERR_INVAL: a null sender or no recipient; ERR_LIMIT: more than
 * DSN_RCPTS_MAX recipients (make several reports).
 */
MUST_CHECK enum err_code dsn_build(const struct dsn_report *report, struct strbuf *out,
                                   struct dsn_built *ret, struct err *err);
