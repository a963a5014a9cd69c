/*
 * retry - when to try again, when to give up, when to tell the sender (RFC 5321 section 4.5.4).
 *
 * Pure arithmetic on wall time. Jitter is a function of (message id, attempt), so that the
 * recipients of one message that are deferred together come back together.
 */
#pragma once

#include "policy/base/msec.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* queue.retry and queue.warn_after of the configuration. The arrays belong to the configuration. */
struct retry_policy {
    const msec_t *intervals_ms; /* at least one; the last one repeats */
    size_t n_intervals;
    unsigned jitter_percent; /* 20 means 80 % to 120 % of the interval; at most 90 */
    msec_t greylist_ms;      /* the first delay after a greylisting reply is at least this */
    msec_t max_age_ms;
    msec_t max_age_bounce_ms;    /* with a null sender */
    const msec_t *warn_after_ms; /* ascending ages at which a delay notice is due; may be none */
    size_t n_warn_after;
};

/* A 5xx that is known to mean "later" is deferred for at most this long (behaviour.md). */
#define RETRY_SOFT_REJECT_MAX (24 * HOUR)

/* 5m 10m 20m 40m 1h 2h 4h, 20 %, greylist 6m, 5d, 2d, warnings at 4h and 24h. */
const struct retry_policy *retry_policy_default(void);

/*
 * How long to wait after failed attempt number `attempt` (1 is the first one), with jitter. With
 * `greylisted` the first delay is at least policy->greylist_ms.
 */
msec_t retry_delay_ms(const struct retry_policy *policy, uint64_t msg_id, unsigned attempt,
                      bool greylisted);

/* The longest delay that retry_delay_ms() can return. */
msec_t retry_delay_max_ms(const struct retry_policy *policy);

/* When a message that arrived at `arrived_at` expires. */
msec_t retry_expires_at(const struct retry_policy *policy, msec_t arrived_at, bool null_sender);

/*
 * When a recipient is due again after attempt number `attempt`, deferred at `now`: the delay, but
 * not behind `expires_at`, so that the last attempt is made at the deadline and not hours after it.
 * A deadline that is past already changes nothing.
 */
msec_t retry_due_at(const struct retry_policy *policy, uint64_t msg_id, unsigned attempt,
                    bool greylisted, msec_t now, msec_t expires_at);

/*
 * Whether a recipient has expired: its latest attempt failed and was begun at or after the
 * deadline. Time alone never expires anything, so a clock that jumps or a long stop throws no mail
 * away.
 */
bool retry_expired(msec_t expires_at, msec_t attempt_begun_at);

/* A due time from storage, pulled in to at most the longest delay from now (a clock ran back). */
msec_t retry_due_clamp(const struct retry_policy *policy, msec_t due_at, msec_t now);

/*
 * How many delay notices should have been sent for a message of this age: compare with the number
 * sent. Several that fall due at once are sent as one, so record the returned number. Never more
 * than n_warn_after; those that would come when the message has expired don't count.
 */
unsigned retry_warnings_due(const struct retry_policy *policy, msec_t arrived_at, msec_t now);

/* Age at which the next notice falls due, as wall time; INT64_MAX when none does. */
msec_t
retry_next_warning_at(const struct retry_policy *policy, msec_t arrived_at, unsigned warnings_sent);
