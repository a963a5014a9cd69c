/*
 * internal - what record.c (fates), batch.c (the operation), notice.c (reports) and maillog.c
 * share.
 */
#pragma once

#include "policy/dsn.h"
#include "relayd/ops/metrics.h"
#include "relayd/record/attempts.h"
#include "relayd/record/record.h"
#include "relayd/sign.h"

#include <sys/queue.h>

#define RECORD_RCPTS_MAX 100 /* of one transaction */
/* Batches whose notices are being made: each may hold 256 KiB of its original, and the report. When
 * thousands fail at once, by a verb or at the end of their time, the others wait. */
#define RECORD_TELLING_MAX 32

struct record {
    struct record_env env;
    struct metric_family *outcomes[6]; /* by enum maillog_outcome; NULL: not counted */
    uint64_t totals[6];                /* by enum maillog_outcome */
    struct metric *notices;
    size_t n_telling;
    STAILQ_HEAD(, batch) waiting; /* to tell somebody */
};

/* One recipient of a batch and what is to become of it. */
struct item {
    struct rcpt *rcpt;
    enum rcpt_fate fate;
    msec_t due_at;
    msec_t retry_until; /* of FATE_DEFERRED: when it is given up, as things are */
    bool tell;          /* a notice of `kind` is owed to the sender */
    enum dsn_kind kind;
    enum dsn_action action;
    struct enh status;
    bool expired;
    char *attempts; /* encoded anew; malloc'd */
    size_t attempts_bytes;
    char *detail; /* of FATE_FINISHED; malloc'd */
    size_t detail_bytes;
    bool delivered;
    struct queue_change *change; /* in the operation under way; NULL: none, since it is stored */
    bool is_stored;              /* an operation before has made its change: a notice is owed */
    enum err_code stored_code;
    uint64_t stored_txn;
};

#define NOTICES_MAX 3 /* failed, delayed, success: one of each */

struct notice {
    uint64_t id;
    const char *about; /* "failed", "delayed", "relayed", or "forwarded" to the postmaster */
    struct strbuf text;
    struct dsn_built built;
    struct header_facts *facts;
    struct sign_job sign;
    struct queue_rcpt rcpt;
    char *to; /* its address: the original may be loaded anew meanwhile */
    char domain[DOMAIN_BUF];
    uint32_t flags;
    struct span bytes;
};

/* The outcomes of one transaction on their way into the store. */
struct batch {
    struct store_op op;
    struct store_read read;
    struct record *record;
    struct settings *settings;
    struct msg *msg; /* in hand as long as its items are */
    size_t n_items, n_notices, n_signing;
    struct item *items;
    struct queue_change *changes; /* of the items that are not stored yet, in their order */
    size_t n_changes;
    struct notice *notices;         /* NULL while nobody is told: most deliveries */
    struct store_message *messages; /* of them */
    char *original;                 /* the original's first bytes, when they had to be read */
    bool telling;                   /* one of record's n_telling */
    STAILQ_ENTRY(batch) link;       /* in record's waiting */
};

/* batch.c */
struct batch *batch_new(struct record *r, struct msg *msg, size_t n_items);
/* Build the notices that are owed, sign them, store everything, tell schedule. Owns the batch. */
void batch_start(struct batch *b);
void batch_submit(struct batch *b);  /* notices are ready */
void batches_drop(struct record *r); /* those that wait: the queue keeps what they are about */

/* notice.c: read what is needed of the original, build and sign; ends with batch_submit(). */
void notices_start(struct batch *b);

/* maillog.c */
struct verdict {
    const char *klass;        /* "ip-blocklisted", "routing-error", ... */
    enum reply_action action; /* for a peer's refusal */
    bool greylisted, rate_limited, ip_keyed, scope_ip, spf_fail;
    bool same_everywhere; /* greylisting, a full mailbox: no other route would be told otherwise */
};
enum maillog_outcome {
    MAILLOG_DELIVERED,
    MAILLOG_DEFERRED,
    MAILLOG_FAILED,
    MAILLOG_REROUTED,
    MAILLOG_HELD,
    MAILLOG_DISCARDED,
};
void maillog_attempt(struct record *r, const struct attempt *a, const struct verdict *v,
                     const struct attempts *before, enum maillog_outcome outcome, msec_t due_at);
/* The `received` line of a notice of ours, as every message has one. */
void maillog_notice(struct record *r, const struct notice *n, const struct queue_msg *stored,
                    const char *id_text, const char *original);
void maillog_metrics(struct record *r);
