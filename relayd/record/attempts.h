/*
 * attempts - what is remembered of a recipient's attempts so far: the opaque record that the queue
 * keeps for us in each recipient that was deferred.
 *
 * Encoded form, version 1, all numbers big-endian:
 *   u8 version, u16 length of what follows that version 1 knows, then
 *   u32 count, u32 warned, u64 first_deferral_at, u64 soft_since, u8 class length, class,
 *   u8 route length, route,
 *   u8 number of refusals, each: u64 at, u16 code, u8 enh class, u16 subject, u16 detail,
 *   and four strings (u16 length, bytes): route, phase, peer, text.
 * Bytes behind that length are a newer program's fields: kept and written back.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/outcome.h"

#define ATTEMPTS_REFUSALS_MAX 4

/* One refusal or failure, as a report quotes it. Spans point into the decoded bytes or the
 * caller's. */
struct refusal {
    msec_t at;
    int code; /* 0: the peer sent none */
    struct enh enh;
    struct span route, phase, peer, text;
};

struct attempts {
    uint32_t count;  /* attempts made that ended in a deferral */
    uint32_t warned; /* delay notices sent */
    msec_t first_deferral_at;
    msec_t soft_since; /* when a 5xx first made it wait (RETRY_SOFT_REJECT_MAX); 0: none did */
    struct span klass; /* of the last answer */
    struct span route; /* the administrator wants this one first; empty: the map decides */
    int n_refusals;
    struct refusal refusals[ATTEMPTS_REFUSALS_MAX]; /* the newest of each route, oldest first */
    struct span unknown;                            /* a newer version's fields */
};

/* Decode; an empty span is a recipient without attempts. ERR_CORRUPT when it breaks its own rules.
 */
MUST_CHECK enum err_code attempts_decode(struct span bytes, struct attempts *ret, struct err *err);

/* Append the record to `out`, what a newer program added behind it. Texts longer than
 * OUTCOME_TEXT_MAX (class and chosen route: 255) lose their end. */
void attempts_encode(const struct attempts *a, struct strbuf *out);

/*
 * Remember `o` on `route`: replaces that route's earlier refusal, or the oldest one when all
 * places are taken. The spans of `o` and `route` must outlive `a`.
 */
void attempts_add(struct attempts *a, const struct outcome *o, struct span route, struct span peer,
                  msec_t now);
