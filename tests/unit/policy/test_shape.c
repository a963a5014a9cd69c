/* Rates hold over time, allow a second's burst, are halved on complaint and come back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "policy/base/mem.h"
#include "policy/shape.h"

/* Send as fast as allowed for `for_ms`; returns the number of messages. */
static int
drain(struct shape *s, struct shape_rate rate, msec_t start, msec_t for_ms)
{
    int n = 0;
    for (msec_t now = start; now < start + for_ms;) {
        msec_t at = shape_next_at(s, rate, now);
        if (at > now) {
            now = at;
            continue;
        }
        shape_take(s, rate, now);
        n++;
        assert_true(n < 1000000);
    }
    return n;
}

static void
the_long_run_rate_is_the_configured_one(void **state)
{
    (void)state;
    const struct {
        struct shape_rate rate;
        msec_t for_ms;
        int low, high;
    } cases[] = {
        {{100, SECOND}, 10 * SECOND, 1000, 1101},
        {{60, MINUTE}, 10 * MINUTE, 600, 601},
        {{500, DAY}, 2 * DAY, 1000, 1001},
        {{7, SECOND}, 100 * SECOND, 700, 708},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct shape s = {0};
        int n = drain(&s, cases[i].rate, 12345, cases[i].for_ms);
        assert_in_range(n, cases[i].low, cases[i].high);
    }
}

static void
no_limit_never_waits_and_slowing_limits_it(void **state)
{
    (void)state;
    struct shape s = {0};
    struct shape_rate none = {0};
    for (int i = 0; i < 1000; i++)
        shape_take(&s, none, 5);
    assert_int_equal(shape_next_at(&s, none, 5), 5);
    assert_true(shape_slow(&s, 5));
    int n = drain(&s, none, 5, 10 * SECOND);
    assert_in_range(n, 500, 551);
}

static void
each_complaint_halves_and_each_quiet_step_recovers(void **state)
{
    (void)state;
    struct shape s = {0};
    struct shape_rate rate = {100, SECOND};
    assert_true(shape_slow(&s, -SHAPE_SLOW_ONCE_MS));
    assert_true(shape_slow(&s, 0));
    assert_in_range(drain(&s, rate, 0, 10 * SECOND), 250, 276);
    assert_false(shape_recover(&s, SHAPE_RECOVER_MS - 1));
    assert_true(shape_recover(&s, SHAPE_RECOVER_MS));
    assert_int_equal(s.slowed, 1);
    assert_true(shape_recover(&s, 2 * SHAPE_RECOVER_MS));
    assert_int_equal(s.slowed, 0);
    for (int i = 0; i < 100; i++)
        assert_true(shape_slow(&s, i * SHAPE_SLOW_ONCE_MS));
    assert_int_equal(s.slowed, SHAPE_SLOWED_MAX);
}

static void
the_complaints_of_one_burst_are_one(void **state)
{
    (void)state;
    struct shape s = {0};
    assert_true(shape_slow(&s, 1000));
    for (int i = 0; i < 100; i++)
        assert_false(shape_slow(&s, 1000 + i));
    assert_int_equal(s.slowed, 1);
    assert_true(shape_slow(&s, 1000 + SHAPE_SLOW_ONCE_MS));
    assert_int_equal(s.slowed, 2);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_long_run_rate_is_the_configured_one),
        cmocka_unit_test(no_limit_never_waits_and_slowing_limits_it),
        cmocka_unit_test(each_complaint_halves_and_each_quiet_step_recovers),
        cmocka_unit_test(the_complaints_of_one_burst_are_one),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
