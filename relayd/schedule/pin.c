/*
 * pin - domains whose mail the administrator sends by one route for a while. Rows of the queue's
 * state, read at the start by pause.c:
 *
 *    pin:DOMAIN -> version byte 1, u64 since, u64 until (wall ms, big-endian), route
 *
 * A pin is a wish and not a fence: its route goes first, the map's routes follow, and what a fence
 * forbids stays forbidden (plan.c).
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/codec.h"
#include "policy/base/mem.h"

#define PIN_VERSION 1
#define PIN_FIXED_BYTES 17

struct span
schedule_pin_value(char buf[static PIN_VALUE_MAX], struct span route, msec_t since_at,
                   msec_t until_at)
{
    assert(route.n <= PIN_VALUE_MAX - PIN_FIXED_BYTES);
    buf[0] = PIN_VERSION;
    write_number(buf + 1, (uint64_t)since_at, 8);
    write_number(buf + 9, (uint64_t)until_at, 8);
    memcpy(buf + PIN_FIXED_BYTES, route.p, route.n);
    return span_of(buf, PIN_FIXED_BYTES + route.n);
}

void
pin_load(struct schedule *s, struct span domain, struct span value)
{
    struct reader r = {.left = value};
    bool known = take_number(&r, 1) == PIN_VERSION;
    msec_t since_at = (msec_t)take_number(&r, 8), until_at = (msec_t)take_number(&r, 8);
    if (!known || r.bad || r.left.n == 0)
        return; /* a newer program's */
    schedule_pin(s, domain, r.left, since_at, until_at);
}

static void
pin_free(struct pin *pin)
{
    free(pin->domain);
    free(pin->route);
    free(pin);
}

void
schedule_pin(struct schedule *s, struct span domain, struct span route, msec_t since_at,
             msec_t until_at)
{
    schedule_unpin(s, domain);
    struct pin *pin = xcalloc(1, sizeof(*pin));
    *pin = (struct pin){.domain = xstrndup(domain.p, domain.n),
                        .route = xstrndup(route.p, route.n),
                        .since_at = since_at,
                        .until_at = until_at};
    map_put(&s->pins, span_str(pin->domain), pin);
}

bool
schedule_unpin(struct schedule *s, struct span domain)
{
    struct pin *pin = map_remove(&s->pins, domain);
    if (pin == NULL)
        return false;
    bool held = pin->until_at > clock_wall(s->clock);
    pin_free(pin);
    return held;
}

const struct pin *
schedule_pinned(const struct schedule *s, struct span domain)
{
    const struct pin *pin = map_get(&s->pins, domain);
    return pin != NULL && pin->until_at > clock_wall(s->clock) ? pin : NULL;
}

size_t
schedule_pins(const struct schedule *s, void (*each)(void *arg, const struct pin *pin), void *arg)
{
    size_t pos = 0, n = 0;
    struct span key;
    void *value;
    while (map_next(&s->pins, &pos, &key, &value)) {
        const struct pin *pin = value;
        if (pin->until_at <= clock_wall(s->clock))
            continue;
        n++;
        if (each != NULL)
            each(arg, pin);
    }
    return n;
}

void
pins_free(struct schedule *s)
{
    size_t pos = 0;
    struct span key;
    void *value;
    while (map_next(&s->pins, &pos, &key, &value))
        pin_free(value);
    map_release(&s->pins);
}
