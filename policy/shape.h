/*
 * shape - how fast a site may be used: a rate as a value, and the moment of the next message.
 *
 * GCRA (generic cell rate algorithm): one number a site, the time up to which the site's allowance
 * is used. Nothing polls: shape_next_at() says when the next message may go, and the caller sets a
 * timer for it. A burst of one second's (at least one message's) worth may go at once.
 */
#pragma once

#include "policy/base/msec.h"

#include <stdbool.h>

/* `count` messages per `per_ms`; count 0 means no limit. */
struct shape_rate {
    uint32_t count;
    msec_t per_ms;
};

struct shape {
    int64_t used_until_us; /* monotonic microseconds; GCRA's theoretical arrival time */
    uint32_t slowed;       /* how often the rate is halved at the moment */
    msec_t slowed_at;      /* monotonic; when it was last slowed or let recover by a step */
};

#define SHAPE_SLOWED_MAX 10            /* at most a 1,024th of the rate */
#define SHAPE_RECOVER_MS (10 * MINUTE) /* without a new complaint, one halving is taken back */
#define SHAPE_SLOW_ONCE_MS \
    (10 * SECOND) /* what is complained of meanwhile was sent at the old rate */

/* When the next message may go (monotonic ms): `now` or later. */
msec_t shape_next_at(const struct shape *s, struct shape_rate rate, msec_t now);

/* Count one message that goes now. */
void shape_take(struct shape *s, struct shape_rate rate, msec_t now);

/* The site says we are too fast: halve its rate. A site without a rate is slowed from 100/s. One
 * burst may bring many complaints: it is halved once in SHAPE_SLOW_ONCE_MS. True when it was. */
bool shape_slow(struct shape *s, msec_t now);

/* Take back halvings whose time has passed; true when the effective rate changed. */
bool shape_recover(struct shape *s, msec_t now);
