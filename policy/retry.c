/*
 * retry.c - the arithmetic of retry.h. Used by record (due times, expiry, warnings) and by the
 * sweep of deadlines.
 */
#include "policy/retry.h"

#include <assert.h>

#include "policy/base/mem.h"

const struct retry_policy *
retry_policy_default(void)
{
    static const msec_t intervals[] = {5 * MINUTE, 10 * MINUTE, 20 * MINUTE, 40 * MINUTE,
                                       HOUR,       2 * HOUR,    4 * HOUR};
    static const msec_t warnings[] = {4 * HOUR, 24 * HOUR};
    static const struct retry_policy policy = {
        .intervals_ms = intervals,
        .n_intervals = N_ELEMENTS(intervals),
        .jitter_percent = 20,
        .greylist_ms = 6 * MINUTE,
        .max_age_ms = 5 * DAY,
        .max_age_bounce_ms = 2 * DAY,
        .warn_after_ms = warnings,
        .n_warn_after = N_ELEMENTS(warnings),
    };
    return &policy;
}

/* SplitMix64: neighbouring ids and attempts give numbers that have nothing in common. */
static uint64_t
mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static msec_t
interval_ms(const struct retry_policy *policy, unsigned attempt)
{
    assert(policy->n_intervals > 0);
    size_t i = attempt == 0 ? 0 : attempt - 1;
    return policy->intervals_ms[i < policy->n_intervals ? i : policy->n_intervals - 1];
}

/* How far jitter may move an interval, either way. */
static msec_t
jitter_ms(const struct retry_policy *policy, msec_t interval)
{
    assert(policy->jitter_percent <= 90 && interval >= 0);
    return interval / 100 * policy->jitter_percent + interval % 100 * policy->jitter_percent / 100;
}

msec_t
retry_delay_ms(const struct retry_policy *policy, uint64_t msg_id, unsigned attempt,
               bool greylisted)
{
    msec_t interval = interval_ms(policy, attempt);
    msec_t jitter = jitter_ms(policy, interval);
    uint64_t random = mix(mix(msg_id) ^ attempt);
    msec_t delay = interval - jitter + (msec_t)(random % (uint64_t)(2 * jitter + 1));
    if (greylisted && attempt <= 1 && delay < policy->greylist_ms)
        delay = policy->greylist_ms;
    return delay;
}

msec_t
retry_delay_max_ms(const struct retry_policy *policy)
{
    msec_t longest = 0;
    for (size_t i = 0; i < policy->n_intervals; i++)
        if (policy->intervals_ms[i] > longest)
            longest = policy->intervals_ms[i];
    longest += jitter_ms(policy, longest);
    return longest > policy->greylist_ms ? longest : policy->greylist_ms;
}

msec_t
retry_expires_at(const struct retry_policy *policy, msec_t arrived_at, bool null_sender)
{
    return arrived_at + (null_sender ? policy->max_age_bounce_ms : policy->max_age_ms);
}

msec_t
retry_due_at(const struct retry_policy *policy, uint64_t msg_id, unsigned attempt, bool greylisted,
             msec_t now, msec_t expires_at)
{
    msec_t due_at = now + retry_delay_ms(policy, msg_id, attempt, greylisted);
    return due_at > expires_at && expires_at > now ? expires_at : due_at;
}

bool
retry_expired(msec_t expires_at, msec_t attempt_begun_at)
{
    return attempt_begun_at >= expires_at;
}

msec_t
retry_due_clamp(const struct retry_policy *policy, msec_t due_at, msec_t now)
{
    msec_t latest = now + retry_delay_max_ms(policy);
    return due_at > latest ? latest : due_at;
}

unsigned
retry_warnings_due(const struct retry_policy *policy, msec_t arrived_at, msec_t now)
{
    unsigned n = 0;
    while (n < policy->n_warn_after && policy->warn_after_ms[n] < policy->max_age_ms &&
           now - arrived_at >= policy->warn_after_ms[n])
        n++;
    return n;
}

msec_t
retry_next_warning_at(const struct retry_policy *policy, msec_t arrived_at, unsigned warnings_sent)
{
    if (warnings_sent >= policy->n_warn_after ||
        policy->warn_after_ms[warnings_sent] >= policy->max_age_ms)
        return INT64_MAX;
    return arrived_at + policy->warn_after_ms[warnings_sent];
}
