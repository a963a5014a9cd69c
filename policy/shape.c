#include "policy/shape.h"

#include <assert.h>

#define SHAPE_BURST_US (1000 * 1000)
#define SHAPE_UNLIMITED_COUNT 100 /* a second: what a slowed site without a rate starts from */

/* Microseconds that one message uses up; 0 when there is no limit. */
static int64_t
message_us(const struct shape *s, struct shape_rate rate)
{
    if (rate.count == 0) {
        if (s->slowed == 0)
            return 0;
        rate = (struct shape_rate){SHAPE_UNLIMITED_COUNT, SECOND};
    }
    assert(rate.per_ms > 0);
    int64_t us = rate.per_ms * 1000 / rate.count;
    if (us == 0)
        us = 1;
    return us << s->slowed;
}

/* A message may go while the used time runs at most this far ahead of now. */
static int64_t
burst_us(int64_t each_us)
{
    return each_us >= SHAPE_BURST_US ? 0 : SHAPE_BURST_US - each_us;
}

msec_t
shape_next_at(const struct shape *s, struct shape_rate rate, msec_t now)
{
    int64_t each_us = message_us(s, rate);
    if (each_us == 0)
        return now;
    int64_t at_us = s->used_until_us - burst_us(each_us);
    msec_t at = (at_us + 999) / 1000;
    return at > now ? at : now;
}

void
shape_take(struct shape *s, struct shape_rate rate, msec_t now)
{
    int64_t each_us = message_us(s, rate);
    if (each_us == 0)
        return;
    int64_t now_us = now * 1000;
    if (s->used_until_us < now_us)
        s->used_until_us = now_us;
    s->used_until_us += each_us;
}

bool
shape_slow(struct shape *s, msec_t now)
{
    if (s->slowed > 0 && now - s->slowed_at < SHAPE_SLOW_ONCE_MS)
        return false;
    if (s->slowed < SHAPE_SLOWED_MAX)
        s->slowed++;
    s->slowed_at = now;
    return true;
}

bool
shape_recover(struct shape *s, msec_t now)
{
    bool changed = false;
    while (s->slowed > 0 && now - s->slowed_at >= SHAPE_RECOVER_MS) {
        s->slowed--;
        s->slowed_at += SHAPE_RECOVER_MS;
        changed = true;
    }
    return changed;
}
