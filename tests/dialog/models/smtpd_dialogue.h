/*
 * smtpd_dialogue - one dialogue of a client with the protocol core of accept, decoded from a tape,
 * played to the core and to its model at once. For the fuzzer and for the random test.
 */
#pragma once

#include "policy/base/span.h"
#include "tests/dialog/models/tape.h"

/* What dialogues reached, over a run: a test that all of it is. */
struct smtpd_reached {
    uint64_t replies[600]; /* by code */
    uint64_t queued, not_queued, aborted, by_bdat, in_tls, timeouts, stops, given_up, late;
};

/*
 * Play it, and add what it reached to `reached` (may be NULL). True: core and model agree.
 * Otherwise `why` says where they part, with the dialogue so far.
 */
bool smtpd_dialogue(struct tape tape, struct smtpd_reached *reached, struct strbuf *why);
