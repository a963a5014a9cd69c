/*
 * queue - durable store of accepted messages and of the fate of each recipient, on LMDB.
 *
 * Pure storage: no sockets, no events, no clock (callers pass the time), no decisions. One thread
 * at a time writes (queue_begin to queue_commit on one thread); any number of threads read, each
 * with a queue_reader of its own. Errors are returned, never logged.
 *
 * Tables                                                                     (README.md: formats)
 *   meta       format version, node, last message id, lane secret
 *   message    id -> envelope, our header fields, signatures, and a small body
 *   body       id, chunk -> bytes of a body that is not small
 *   incoming   id -> nothing: a body still being received; a start deletes these and their chunks
 *   recipient  id, number -> address, state, due, revision, and an opaque attempt record
 *   fresh      id, number -> nothing: recipients never deferred
 *   schedule   lane, due, id, number -> nothing; lane = keyed hash of the canonical domain
 *   state      facts of policy, namespaced: learned routes, holds by domain, ...
 *   history    finish time, id, number -> outcome, for `trace`
 *
 * Invariants
 *   (1) What a successful queue_commit() holds survives power loss.
 *   (2) A recipient is in exactly one of fresh, scheduled, held, finished.
 *   (3) A message and its body exist while one of its recipients is unfinished, and no longer.
 *   (4) Every change names the recipient's revision; a mismatch changes nothing (ERR_STALE), except
 *       a delivery, which always finishes the recipient.
 *   (5) Every record carries a version and a checksum; fields that this program does not know are
 *       kept, and a newer program reads an older queue.
 *   (6) Ids never repeat and never run back, whatever the clock does.
 *   (7) No read transaction outlives a call: every reading function copies out and resets.
 *   (8) A page is stale when it is used: it carries the transaction id of its snapshot.
 * queue_verify_*() checks (2), (3), (5), (6) and the indexes behind them.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct queue;        /* an open queue */
struct queue_batch;  /* an open write transaction */
struct queue_reader; /* one thread's read handle */

#define QUEUE_FORMAT 1          /* of the whole file; a newer one is refused */
#define QUEUE_CHUNK_BYTES 16364 /* of a body; 4 bytes of checksum make it four pages of LMDB */
#define QUEUE_RCPTS_MAX 65535   /* of one message: far above any limits.recipients_per_message */
#define QUEUE_SIGNATURES_MAX 16
#define QUEUE_HEAD_MAX (2 << 20) /* bytes of a message record without its body */
#define QUEUE_FIELD_MAX 4096     /* bytes of an address, ORCPT, ENVID, client text */
#define QUEUE_ATTEMPTS_MAX 16384 /* bytes of an attempt record */
#define QUEUE_STATE_KEY_MAX 400  /* LMDB keys end at 511 */
#define QUEUE_STATE_VALUE_MAX 65536
#define QUEUE_PAGE_BYTES (256 << 10) /* what one reading call copies out, about */
#define QUEUE_SCAN_ROWS                                                                      \
    20000                /* rows one reading call walks over, so that no snapshot lives long \
                          */
#define QUEUE_ID_TEXT 13 /* characters of an id as text, without NODE. */

/* ---------------------------------------------------------------------------------- values */

/* Flags of a message. */
#define QUEUE_MSG_8BIT 0x01u     /* BODY=8BITMIME */
#define QUEUE_MSG_SMTPUTF8 0x02u /* SMTPUTF8 was asked for */
#define QUEUE_MSG_NOTICE 0x04u   /* ours: exempt from quota and min_free */
#define QUEUE_MSG_CHUNKED                                                                       \
    0x08u                     /* out: the body is in chunks (queue_read_body); set by the queue \
                               */
#define QUEUE_MSG_USER 0x100u /* this bit and above: the daemon's own, kept as they are */

struct queue_signature {
    struct span domain, selector; /* to leave it out where the next host signs the same */
    struct span field;            /* the whole DKIM-Signature field, CRLF at its end */
};

struct queue_msg {
    uint64_t id; /* from queue_id_new() */
    msec_t arrived_at;
    uint64_t size_bytes; /* as sent: head and body */
    uint64_t body_bytes; /* of the body part alone; checked against what is handed in */
    uint32_t flags;
    struct span sender;     /* "" is the null sender */
    struct span client;     /* "ip name" for notices and logs */
    struct span ret, envid; /* RFC 3461: "FULL", "HDRS" or ""; ENVID as given */
    struct span received;   /* our Received field, CRLF at its end */
    struct span added;      /* other fields that we add, each with CRLF; or just CRLF */
    size_t n_signatures;
    struct queue_signature signatures[QUEUE_SIGNATURES_MAX];
    struct span body; /* out only: the body when it lies in the record, empty when CHUNKED */
};

enum queue_state { QUEUE_FRESH = 1, QUEUE_SCHEDULED = 2, QUEUE_HELD = 3 };

/* RFC 3461 NOTIFY, as bits; none set means the default (failure and delay). */
#define QUEUE_NOTIFY_NEVER 0x01u
#define QUEUE_NOTIFY_SUCCESS 0x02u
#define QUEUE_NOTIFY_FAILURE 0x04u
#define QUEUE_NOTIFY_DELAY 0x08u

struct queue_rcpt {
    uint64_t id;            /* of the message */
    uint32_t no;            /* within it; set by the caller, ascending, no gaps needed */
    uint32_t revision;      /* out: 1 for a new one, one more at every change */
    struct span address;    /* as the client gave it, domain normalised to A-labels */
    struct span domain;     /* canonical: what lane, rules and holds look at */
    enum queue_state state; /* out of reads; in queue_add() FRESH, SCHEDULED (due_at) or HELD */
    msec_t due_at;          /* 0 when fresh */
    uint8_t notify;
    struct span orcpt;    /* "rfc822;..." as given, or "" */
    struct span attempts; /* relayd/record's own, opaque here */
};

/* ------------------------------------------------------------------------------- open, close */

struct queue_options {
    const char *path;       /* directory; made 0700 when missing */
    const char *node;       /* node name kept in meta; NULL leaves what is there */
    uint64_t max_bytes;     /* quota: new mail is refused above 90 % of it; 0 = 64 GiB */
    int64_t min_free_bytes; /* disk space left alone; -1 = 1 GiB or 5 % of the file system */
    uint64_t map_bytes;     /* 0 = 4 x max_bytes; tests make it small. At least 2 x the data file */
    bool read_only;         /* for relayctl: looks, never creates, sweeps or writes */
};

/* What queue_open() found. */
struct queue_info {
    bool created;            /* it was not there before */
    bool on_overlay;         /* overlayfs: mail is lost with the container; warn */
    uint32_t stale_readers;  /* reader slots of dead processes that were cleared */
    uint64_t swept_incoming; /* half received bodies that were deleted */
    uint32_t format;         /* of the file */
    char node[64];           /* who had it last */
};

/*
 * Open (and create) the queue in options->path: takes our lock file first, refuses network file
 * systems, checks sizes and format, clears dead readers, deletes half received bodies.
 * `ret_info` may be NULL.
 *
 * ERR_BUSY (another process has it), ERR_PERM (cannot be read or written, or is open to others),
 * ERR_VERSION (newer format: the text names both), ERR_CORRUPT (cut short, not a queue, or it was
 * there and its data file is gone: never replaced by an empty one), ERR_INVAL (network file
 * system), ERR_NOT_FOUND (read_only and not there), ERR_FULL, ERR_IO.
 */
MUST_CHECK enum err_code queue_open(const struct queue_options *options, struct queue **ret_queue,
                                    struct queue_info *ret_info, struct err *err);

/* All readers are freed and no batch is open by now. NULL is fine. */
void queue_close(struct queue *queue);

/* Clear reader slots of dead processes; writer's thread. Returns how many. */
unsigned queue_readers_check(struct queue *queue);

/* New limits after a reload; any thread. max_bytes may not pass what the map was made for: it is
 * then clamped to a quarter of the map, and false is returned. */
bool queue_limits_set(struct queue *queue, uint64_t max_bytes, int64_t min_free_bytes);

/* Give the map's resident pages back to the kernel when the process maps more than `max_bytes` of
 * file pages (architecture.md: 64 MiB). Any thread; true when it did. */
bool queue_map_trim(struct queue *queue, size_t max_bytes);

/* ------------------------------------------------------------------------------------ ids */

/* A new id: max(last + 1, now << 16). Any thread, never blocks. */
uint64_t queue_id_new(struct queue *queue, msec_t now);
/* The moment in the id: for sweeps only, it is not the arrival time. */
msec_t queue_id_moment(uint64_t id);
/* 13 characters (Crockford base32) and a NUL; returns buf. */
char *queue_id_format(uint64_t id, char buf[static QUEUE_ID_TEXT + 1]);
/* Reads "XXXXXXXXXXXXX" or "NODE.XXXXXXXXXXXXX", any case; false when it is neither. */
bool queue_id_parse(struct span text, uint64_t *ret_id);

/* Lane of a canonical domain; any thread. The key is this queue's secret, so that nobody can choose
 * domains that share a lane. */
uint64_t queue_lane(const struct queue *queue, struct span domain);

/* ---------------------------------------------------------------------------------- writing */

/*
 * Open the write transaction. ERR_IO when the queue cannot be written any more (after a failed
 * commit of the meta page LMDB refuses everything: leave and start anew).
 */
MUST_CHECK enum err_code
queue_begin(struct queue *queue, struct queue_batch **ret_batch, struct err *err);

/*
 * Commit and sync; the batch is gone whatever is returned. On ERR_OK everything in it survives
 * power loss and *ret_txn_id is its transaction (the one before when it changed nothing). ERR_FULL:
 * nothing of it is stored (ENOSPC, EDQUOT, map full, or EIO while the disk is nearly full), later
 * batches may succeed. Anything else: do not write again, the state of the disk is not known.
 */
MUST_CHECK enum err_code
queue_commit(struct queue_batch *batch, uint64_t *ret_txn_id, struct err *err);
void queue_abort(struct queue_batch *batch); /* NULL is fine */

/* The batch has failed as a whole (a call returned ERR_FULL or ERR_IO for it): only abort it. */
bool queue_batch_dead(const struct queue_batch *batch);
/* Record operations and bytes in it so far, to know when it is large enough. */
size_t queue_batch_ops(const struct queue_batch *batch);
size_t queue_batch_bytes(const struct queue_batch *batch);

/*
 * Check what queue_add() and queue_incoming_finish() would refuse for its form, without a batch:
 * ERR_INVAL or ERR_LIMIT. After ERR_OK an add fails only with ERR_FULL, ERR_EXISTS or ERR_IO.
 */
MUST_CHECK enum err_code
queue_msg_check(const struct queue_msg *msg, const struct queue_rcpt *rcpts, size_t n_rcpts,
                struct err *err);

/*
 * Add one message and its recipients; the body is the concatenation of `body[0..n_body)`, which
 * together hold msg->body_bytes.
 *
 * Nothing is durable, and 250 must not be sent (RFC 5321 section 6.1), until queue_commit()
 * succeeds. Everything is only read; bytes are copied once, into the page that is written.
 * ERR_FULL with a live batch: quota or min_free, this message is not in it, answer 452 4.3.1;
 * notices are exempt. ERR_FULL or ERR_IO with a dead batch: abort it. ERR_EXISTS, ERR_INVAL,
 * ERR_LIMIT: nothing was added.
 */
MUST_CHECK enum err_code
queue_add(struct queue_batch *batch, const struct queue_msg *msg, const struct queue_rcpt *rcpts,
          size_t n_rcpts, const struct span *body, size_t n_body, struct err *err);

/*
 * Store a part of a body that is still being received. `offset` is a multiple of QUEUE_CHUNK_BYTES
 * and so is the length of every part but the last; the first call (offset 0) notes the id under
 * incoming. Errors as queue_add(); after ERR_FULL the caller drops the body.
 */
MUST_CHECK enum err_code
queue_incoming_chunk(struct queue_batch *batch, uint64_t id, uint64_t offset,
                     const struct span *bytes, size_t n_bytes, struct err *err);

/* The body is complete: store message and recipients and forget that it was incoming. The stored
 * chunks must hold msg->body_bytes (ERR_INVAL). Otherwise as queue_add(). */
MUST_CHECK enum err_code
queue_incoming_finish(struct queue_batch *batch, const struct queue_msg *msg,
                      const struct queue_rcpt *rcpts, size_t n_rcpts, struct err *err);

/* Forget a half received body. ERR_NOT_FOUND when there is none. */
MUST_CHECK enum err_code
queue_incoming_drop(struct queue_batch *batch, uint64_t id, struct err *err);

enum queue_verb {
    QUEUE_DEFER,   /* to scheduled, at due_at: deferral, retry now, reroute, ready list full */
    QUEUE_HOLD,    /* to held */
    QUEUE_RELEASE, /* from held to scheduled at due_at; ERR_STALE when it is not held */
    QUEUE_FINISH,  /* out of the queue and into history */
};

enum queue_result {
    QUEUE_DELIVERED = 1, /* the next host took it: finishes whatever the revision is */
    QUEUE_FAILED = 2,    /* given up, the sender is told */
    QUEUE_REMOVED = 3,   /* by the administrator, nobody is told */
    QUEUE_REPLACED = 4,  /* its place was taken by other recipients or messages */
};

/* One change of one recipient. */
struct queue_change {
    uint64_t id;
    uint32_t no;
    uint32_t revision; /* that the caller knows */
    enum queue_verb verb;
    msec_t due_at;            /* DEFER, RELEASE */
    bool attempts_set;        /* DEFER, HOLD, RELEASE: replace the attempt record */
    struct span attempts;     /* with this */
    enum queue_result result; /* FINISH */
    msec_t finished_at;       /* FINISH */
    struct span detail;       /* FINISH: relayd/record's own, opaque; kept in history */

    enum err_code code;    /* out: what queue_apply() returned */
    uint32_t new_revision; /* out: after DEFER, HOLD, RELEASE */
    bool msg_gone;         /* out: that was the message's last recipient */
};

static inline bool
queue_change_is_delivery(const struct queue_change *c)
{
    return c->verb == QUEUE_FINISH && c->result == QUEUE_DELIVERED;
}

/*
 * Make one change. ERR_STALE: the revision is another one, nothing was changed. ERR_NOT_FOUND: the
 * recipient is finished. ERR_CORRUPT: its record cannot be read (a FINISH takes it out all the
 * same and returns ERR_OK). ERR_INVAL, ERR_LIMIT: the change itself. None of these hurts the batch.
 * ERR_FULL, ERR_IO: the batch is dead.
 */
MUST_CHECK enum err_code
queue_apply(struct queue_batch *batch, struct queue_change *change, struct err *err);

/* Would queue_apply() say ERR_OK, ERR_STALE, ERR_NOT_FOUND or ERR_CORRUPT? Changes nothing. */
MUST_CHECK enum err_code
queue_apply_check(struct queue_batch *batch, const struct queue_change *change, struct err *err);

/* Put or delete one row of policy's state; a missing row may be deleted. Keys are "space:name". */
MUST_CHECK enum err_code
queue_state_put(struct queue_batch *batch, struct span key, struct span value, struct err *err);
MUST_CHECK enum err_code
queue_state_delete(struct queue_batch *batch, struct span key, struct err *err);

/* The state row that holds a whole domain is QUEUE_HOLD_SPACE followed by the canonical domain; its
 * value is the caller's (who, when, why). Lists show such recipients as held. */
#define QUEUE_HOLD_SPACE "hold:"

/*
 * Delete history rows that finished before `before_at` or are more than `max_rows`, oldest first,
 * at most `max_deletes` of them. *ret_deleted may be NULL.
 */
MUST_CHECK enum err_code
queue_history_trim(struct queue_batch *batch, msec_t before_at, uint64_t max_rows,
                   size_t max_deletes, size_t *ret_deleted, struct err *err);

/* What a batch of verbs looks at; unset fields match everything. */
struct queue_filter {
    uint64_t id;        /* 0: any */
    struct span domain; /* canonical */
    struct span sender; /* exact; use sender_null for "" */
    bool sender_null;
    unsigned states;       /* bits 1 << enum queue_state; 0: any */
    msec_t arrived_before; /* 0: any */
    msec_t due_before;     /* 0: any; only scheduled ones match when set */
};

/* A place in the order of (id, number); {0, 0} is before everything. */
struct queue_key {
    uint64_t id;
    uint32_t no;
};

/* A recipient touched by queue_apply_filter(). */
struct queue_touched {
    uint64_t id;
    uint32_t no;
    uint32_t revision; /* new one; 0 when finished */
    uint64_t lane;
    msec_t due_at;
    bool msg_gone;
};

/*
 * One slice of a verb on all that matches: walks at most QUEUE_SCAN_ROWS recipients after *after,
 * applies `change` (its id, no and revision are ignored) to at most `max` of them, notes each in
 * `touched`, and moves *after. *ret_more is false when the end was reached. Recipients already as
 * wanted (held ones for HOLD, others for RELEASE) are passed over. Errors as queue_apply().
 */
MUST_CHECK enum err_code
queue_apply_filter(struct queue_batch *batch, const struct queue_filter *filter,
                   const struct queue_change *change, struct queue_key *after, size_t max,
                   struct queue_touched *touched, size_t *ret_n, bool *ret_more, struct err *err);

/* ---------------------------------------------------------------------------------- reading */

/* A handle for one thread; freed before queue_close(). ERR_LIMIT when all slots are taken. */
MUST_CHECK enum err_code
queue_reader_new(struct queue *queue, struct queue_reader **ret_reader, struct err *err);
void queue_reader_free(struct queue_reader *reader); /* NULL is fine */

/* A message with its unfinished recipients; one block of memory behind all spans. */
struct queue_mail {
    uint64_t txn_id;
    struct queue_msg msg; /* with msg.body when it is small */
    struct queue_rcpt *rcpts;
    size_t n_rcpts;
    uint32_t n_bad; /* recipients whose record cannot be read; they are left out */
    void *memory;
};

/* ERR_NOT_FOUND, ERR_CORRUPT (the text says what), ERR_IO. queue_mail_release() afterwards. */
MUST_CHECK enum err_code queue_read_mail(struct queue_reader *reader, uint64_t id,
                                         struct queue_mail *ret_mail, struct err *err);
void queue_mail_release(struct queue_mail *mail); /* a zeroed one is fine */

/*
 * Copy body bytes from `offset` on into buf: at most `cap`, at most QUEUE_PAGE_BYTES. *ret_n is 0
 * at the end. Works for stored messages and for incoming bodies. ERR_NOT_FOUND, ERR_CORRUPT (a
 * checksum or a chunk is wrong), ERR_IO.
 */
MUST_CHECK enum err_code queue_read_body(struct queue_reader *reader, uint64_t id, uint64_t offset,
                                         char *buf, size_t cap, size_t *ret_n, struct err *err);

/* One recipient with what planning needs to know of its message. */
struct queue_row {
    struct queue_rcpt rcpt;
    uint64_t lane;
    bool domain_held; /* a QUEUE_HOLD_SPACE row names its domain */
    msec_t arrived_at;
    uint64_t size_bytes;
    uint32_t msg_flags;
    struct span sender;
};

struct queue_page {
    uint64_t txn_id; /* of the snapshot: drop what finished in a later one */
    struct queue_row *rows;
    size_t n_rows;
    uint64_t n_matched;   /* list: rows that matched, also when only counted */
    bool more;            /* go on with the key that was moved */
    msec_t next_due_at;   /* lane page: the first due time beyond what was asked, INT64_MAX none */
    uint32_t n_bad;       /* rows passed over because their record cannot be read */
    struct queue_key bad; /* the first of them */
    void *memory;
};
/* Frees the rows; `more`, `txn_id` and the other numbers stay. A zeroed page is fine. */
void queue_page_release(struct queue_page *page);

/* Fresh recipients after *after, at most `max`; moves *after. */
MUST_CHECK enum err_code queue_page_fresh(struct queue_reader *reader, struct queue_key *after,
                                          size_t max, struct queue_page *ret_page, struct err *err);

/* A place in a lane; all zero is its beginning. */
struct queue_due_key {
    msec_t due_at;
    uint64_t id;
    uint32_t no;
};

/* Recipients of a lane after *after that are due at `until` or before, at most `max`. */
MUST_CHECK enum err_code
queue_page_lane(struct queue_reader *reader, uint64_t lane, struct queue_due_key *after,
                msec_t until, size_t max, struct queue_page *ret_page, struct err *err);

struct queue_lane_row {
    uint64_t lane;
    msec_t due_at; /* its earliest */
};

/*
 * The lanes after *after (NULL at the start: from the first one) with their earliest due time, by
 * skip-scan: at most `max` into `rows`. *ret_last is the last lane seen; pass it as *after next
 * time while *ret_more.
 */
MUST_CHECK enum err_code queue_lanes(struct queue_reader *reader, const uint64_t *after, size_t max,
                                     struct queue_lane_row *rows, size_t *ret_n, uint64_t *ret_last,
                                     bool *ret_more, uint64_t *ret_txn_id, struct err *err);

/*
 * Recipients that match, in the order of (id, number), after *after: at most `max` rows (0: only
 * counted into n_matched). Walks at most QUEUE_SCAN_ROWS, so a page may be short or empty with
 * `more` set.
 */
MUST_CHECK enum err_code
queue_list(struct queue_reader *reader, const struct queue_filter *filter, struct queue_key *after,
           size_t max, struct queue_page *ret_page, struct err *err);

/* A finished recipient. */
struct queue_past {
    uint64_t id;
    uint32_t no;
    msec_t finished_at, arrived_at;
    enum queue_result result;
    struct span sender, address, detail;
};

struct queue_history {
    uint64_t txn_id;
    struct queue_past *rows;
    size_t n_rows;
    bool more;
    void *memory;
};
void queue_history_release(struct queue_history *history); /* as queue_page_release() */

/* A place in history; all zero is its beginning (queue_read_recent(): its end). */
struct queue_past_key {
    msec_t finished_at;
    uint64_t id;
    uint32_t no;
};

/*
 * History rows of message `id` (0: of all), oldest first, after *after; at most `max`. Walks over
 * the rows of all messages, from the first one: an id says when the message came by a clock that
 * may have been wrong. Pages as queue_list().
 */
MUST_CHECK enum err_code
queue_read_history(struct queue_reader *reader, uint64_t id, struct queue_past_key *after,
                   size_t max, struct queue_history *ret_history, struct err *err);

/*
 * History rows of all messages that finished at `since` or later, newest first, before *before (all
 * zero: from the newest); at most `max`. Moves *before. Pages as queue_list(); rows that are added
 * meanwhile come before the first page and are not seen.
 */
MUST_CHECK enum err_code
queue_read_recent(struct queue_reader *reader, struct queue_past_key *before, msec_t since,
                  size_t max, struct queue_history *ret_history, struct err *err);

struct queue_fact {
    struct span key, value;
};

struct queue_facts {
    uint64_t txn_id;
    struct queue_fact *rows;
    size_t n_rows;
    bool more; /* pass the last row's key as `after` */
    void *memory;
};
void queue_facts_release(struct queue_facts *facts); /* as queue_page_release() */

/* State rows whose key starts with `prefix`, after the key `after` (empty: from the first). */
MUST_CHECK enum err_code
queue_read_state(struct queue_reader *reader, struct span prefix, struct span after, size_t max,
                 struct queue_facts *ret_facts, struct err *err);

/* ------------------------------------------------------------------------------ size, verify */

struct queue_stats {
    uint64_t txn_id;
    uint64_t messages, recipients, fresh, scheduled, held, incoming, history, state;
    uint64_t used_bytes;  /* pages that hold something: what the quota is about */
    uint64_t file_bytes;  /* of the data file; never shrinks */
    uint64_t quota_bytes; /* max_bytes as it holds now */
    uint64_t disk_free_bytes, min_free_bytes;
    msec_t oldest_at; /* when the oldest message arrived; 0 when there is none */
};

/* Numbers of the last commit; constant time. Not for the loop's thread (it may touch the disk). */
MUST_CHECK enum err_code
queue_read_stats(struct queue_reader *reader, struct queue_stats *ret, struct err *err);
/* Numbers inside an open batch. */
void queue_batch_stats(struct queue_batch *batch, struct queue_stats *ret);

/*
 * Verify: every invariant and index, in steps that each hold a snapshot for a moment, so that it
 * runs beside a daemon at work. What one step compares, it compares inside one snapshot.
 */
struct queue_verify; /* where it stands, and what it found */

#define QUEUE_FINDINGS_MAX 1000 /* texts kept; more are only counted */

struct queue_verify_result {
    bool finished;
    const char *table; /* being walked: for progress */
    uint64_t rows;     /* checked so far */
    uint64_t messages, recipients, body_bytes;
    uint64_t n_findings;      /* 0 at the end: all is well */
    size_t n_texts;           /* texts[0..n_texts), owned by the verify object */
    const char *const *texts; /* "recipient 0ABC...-3: scheduled, but no row in schedule" */
};

struct queue_verify *queue_verify_new(void);
void queue_verify_free(struct queue_verify *verify); /* NULL is fine */
/* One step; call until ret->finished. Errors (ERR_IO) are about reading, not findings. */
MUST_CHECK enum err_code queue_verify_step(struct queue_verify *verify, struct queue_reader *reader,
                                           struct queue_verify_result *ret, struct err *err);
