/*
 * message - the values of relay.h made and freed: a message in hand, and its recipients.
 *
 * Each owns its texts, copied into one block. Who puts them into a table (schedule) owns them; they
 * know nothing of it.
 */
#pragma once

#include "relayd/relay.h"

/* A recipient with copies of the row's texts; not in the table yet. */
struct rcpt *rcpt_new(const struct queue_rcpt *row, uint64_t lane);
void rcpt_free(struct rcpt *rcpt);

/*
 * A message from what a page or read brought (texts copied), or for one that was just accepted.
 * `node` is for id_text.
 */
struct msg *msg_new(const struct queue_msg *q, const char *node);
/* Fill in what a page left out: `q` is the whole record. */
void msg_load(struct msg *msg, const struct queue_msg *q);
void msg_free(struct msg *msg); /* with its recipients; it is in no table */
/* The canonical domain that rules compare a sender by; "" for the null sender and for an address
 * without one. The caller frees it. */
char *msg_sender_domain(struct span sender);
