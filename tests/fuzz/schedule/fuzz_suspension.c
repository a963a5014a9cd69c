/* Rows of suspensions, as a damaged queue may have them: taken, or passed over. */
#include "relayd/schedule/internal.h"
#include "tests/fuzz/check.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    CLEANUP(freep) struct schedule *s = xcalloc(1, sizeof *s);
    struct span value = span_of(copy, n), name = span_cut(&value, '\n');
    name = span_first(name, strnlen(name.p, name.n)); /* no name holds a NUL */

    s->clock = clock_new_stepped(1700000000000);
    map_init(&s->held_domains, (struct map_seed){.k0 = 1});
    pause_load(s, name, value);
    const struct pause *p = schedule_pauses(s);
    if (p != NULL) {
        char buf[SUSPENSION_VALUE_MAX];
        struct span target = name, kind = span_cut(&target, ':'), reason = span_str(p->reason);
        CHECK(p->next == NULL && p->until_at >= 0 && span_eq(target, span_str(p->name)) &&
              span_eq(kind, span_str(pause_kind_name(p->kind))) &&
              schedule_paused(s, p->kind, target) == p);
        if (reason.n + 9 <= sizeof buf && reason.n + 9 == value.n)
            CHECK(span_eq(schedule_suspension_value(buf, p->until_at, reason), value));
    }
    pauses_free(s);
    clock_free(s->clock);
    return 0;
}
