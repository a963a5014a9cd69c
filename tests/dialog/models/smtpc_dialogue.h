/*
 * smtpc_dialogue - one dialogue of the protocol core of deliver with a server, decoded from a tape,
 * played to the core and to its model at once. For the fuzzer and for the random test.
 */
#pragma once

#include "relayd/deliver/smtpc.h"
#include "tests/dialog/models/tape.h"

/* What dialogues reached, over a run: a test that all of it is. */
struct smtpc_reached {
    uint64_t kinds[3]; /* outcomes, by enum outcome_kind */
    uint64_t ends[5];  /* of sessions, by enum smtpc_end */
    uint64_t path, twice, in_tls, bodies, early;
};

/*
 * Play it, and add what it reached to `reached` (may be NULL). True: core and model agree, and
 * nobody was called delivered whom the server had not taken. Otherwise `why` says where they part,
 * with the dialogue so far.
 */
bool smtpc_dialogue(struct tape tape, struct smtpc_reached *reached, struct strbuf *why);
