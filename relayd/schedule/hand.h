/*
 * hand - the messages and recipients in hand: the only copy of the queue that the loop keeps.
 *
 * Invariants
 *  (1) A recipient is in the table at most once, whatever pages bring.
 *  (2) A page is stale: it may bring a recipient that was finished or deferred after its snapshot.
 *      So a recipient that leaves stays in the table as STAGE_GONE, with the transaction it left
 *      in, until every read begun before that has returned (hand_sweep with store_read_floor).
 *      What changes in the queue while it is not in hand is noted in `outdated` as long.
 *  (3) A message is in the table while one of its recipients is, gone ones included; its body is
 *      in memory only while one of them is not gone.
 */
#pragma once

#include "policy/base/map.h"
#include "relayd/relay.h"

struct hand {
    struct map msgs;  /* id -> struct msg */
    struct map rcpts; /* (id, no) -> struct rcpt */
    size_t n_live;    /* recipients that are not gone */
    struct rcpt *gone, **gone_tail;
    struct map outdated; /* (id, no) -> struct outdated */
    struct outdated *outdated_first, **outdated_tail;
    struct msg *bodies, **bodies_tail; /* messages with a body in memory, oldest first */
    size_t body_bytes;                 /* of all of them */
};

void hand_init(struct hand *hand);
void hand_release(struct hand *hand); /* frees everything in it */

/* The message, or NULL. */
struct msg *hand_msg(const struct hand *hand, uint64_t id);
/* The recipient, gone or not, or NULL. */
struct rcpt *hand_rcpt(const struct hand *hand, uint64_t id, uint32_t no);

/* Put a message in. It must not be there; it is the table's from now on. */
void hand_add_msg(struct hand *hand, struct msg *msg);
/* Put a recipient of `msg` in. It must not be there. */
void hand_add_rcpt(struct hand *hand, struct msg *msg, struct rcpt *rcpt);

/* The recipient leaves, as of transaction `txn`: it becomes STAGE_GONE. The caller has taken it off
 * its site, lane and look-up. */
void hand_leave(struct hand *hand, struct rcpt *rcpt, uint64_t txn);
/* The recipient leaves as the queue has it: a page that shows it is right and may bring it back. It
 * is freed, and its message with the last one. */
void hand_drop(struct hand *hand, struct rcpt *rcpt);
/* The queue changed a recipient that is not in hand, or gone, in transaction `txn`: what pages from
 * before that say of it is not to be believed. */
void hand_outdate(struct hand *hand, uint64_t id, uint32_t no, uint64_t txn);
/* May a page of transaction `txn` be believed? */
bool hand_believes(const struct hand *hand, uint64_t id, uint32_t no, uint64_t txn);
/* Free those that left in `floor` or before. */
void hand_sweep(struct hand *hand, uint64_t floor);

/* Keep or drop the bytes of a message. hand_set_body() takes the body over; `now` is monotonic. */
void hand_set_body(struct hand *hand, struct msg *msg, struct msg_body *body, msec_t now);
void hand_drop_body(struct hand *hand, struct msg *msg);
