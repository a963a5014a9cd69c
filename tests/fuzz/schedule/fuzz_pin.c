/* Rows of pinned domains, as a damaged queue may have them: taken, or passed over. */
#include "relayd/schedule/internal.h"
#include "tests/fuzz/check.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    CLEANUP(freep) struct schedule *s = xcalloc(1, sizeof *s);
    struct span value = span_of(copy, n), domain = span_cut(&value, '\n');
    domain = span_first(domain, strnlen(domain.p, domain.n)); /* no name holds a NUL */
    const msec_t now = 1700000000000;

    s->clock = clock_new_stepped(now);
    map_init(&s->pins, (struct map_seed){.k0 = 1});
    pin_load(s, domain, value);
    const struct pin *pin = schedule_pinned(s, domain);
    if (pin != NULL) {
        char buf[PIN_VALUE_MAX];
        CHECK(pin->until_at > now &&
              span_eq(span_first(domain, strlen(pin->domain)), span_str(pin->domain)));
        struct span route = span_str(pin->route);
        if (route.n + 17 <= sizeof buf && route.n + 17 == value.n)
            CHECK(span_eq(schedule_pin_value(buf, route, pin->since_at, pin->until_at), value));
    }
    CHECK(schedule_pins(s, NULL, NULL) == (pin != NULL));
    pins_free(s);
    clock_free(s->clock);
    return 0;
}
