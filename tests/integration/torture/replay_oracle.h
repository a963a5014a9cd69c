/*
 * replay_oracle - may a queue that was found after a power cut be as it is?
 *
 * It opens, as relayctl and as the daemon open it; `verify` finds nothing; every recipient of every
 * message that was acknowledged before the cut is in it, with the message as it was sent, byte for
 * byte. A recipient may be absent only when its next host's 250 was read before the cut, or when
 * the report of its failure is in the queue, or was itself taken before the cut. The next id is
 * above all that were acknowledged.
 */
#pragma once

#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct promise_rcpt {
    struct span address; /* of this message alone */
    bool taken;          /* the next host's 250 was read */
    bool told;           /* and that of a report of its failure */
    bool reported;       /* in this state: a report names it */
    bool present;        /* in this state: it is in the queue */
};

struct promise {
    uint64_t id;
    struct span bytes; /* as sent */
    struct promise_rcpt *rcpts;
    size_t n_rcpts;
    bool acked;
};

struct ledger {
    char *memory;
    struct promise *promises; /* by id */
    size_t n;
    struct promise_rcpt **by_address;
    size_t n_rcpts;
    uint64_t top_id; /* of the acknowledged ones */
    size_t n_acked;
    size_t n_unknown; /* acknowledgements that the client has not read, as when we were killed */
};

/* Read "ID BYTES RCPT RCPT ...\n" and so many bytes, message after message. False: no such file. */
bool ledger_read(const char *path, struct ledger *ret);
void ledger_free(struct ledger *ledger);

/* An id was acknowledged; a remote said what it took: addresses, or "dsn=ADDRESS" for each that a
 * report was about. */
void ledger_ack(struct ledger *ledger, struct span id);
void ledger_ack_all(struct ledger *ledger);
void ledger_taken(struct ledger *ledger, struct span words);

/* Open and judge the queue in `dir`. False: `why` (of `n` bytes) says what is wrong. */
bool oracle_judge(struct ledger *ledger, const char *dir, char *why, size_t n);
