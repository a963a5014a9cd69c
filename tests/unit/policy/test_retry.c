#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "policy/retry.h"

#define NOW ((msec_t)1700000000000)

static void
assert_between(msec_t value, msec_t low, msec_t high)
{
    if (value < low || value > high)
        fail_msg("%lld is not in %lld..%lld", (long long)value, (long long)low, (long long)high);
}

static void
delays_follow_the_intervals_with_twenty_percent_jitter(void **state)
{
    (void)state;
    static const msec_t want[] = {5 * MINUTE, 10 * MINUTE, 20 * MINUTE, 40 * MINUTE, HOUR,
                                  2 * HOUR,   4 * HOUR,    4 * HOUR,    4 * HOUR};
    const struct retry_policy *p = retry_policy_default();
    for (unsigned attempt = 1; attempt <= N_ELEMENTS(want); attempt++) {
        msec_t lowest = INT64_MAX, highest = 0, sum = 0, base = want[attempt - 1];
        for (uint64_t id = 1; id <= 10000; id++) {
            msec_t delay = retry_delay_ms(p, id << 16, attempt, false);
            lowest = delay < lowest ? delay : lowest;
            highest = delay > highest ? delay : highest;
            sum += delay;
        }
        /* The whole range is used, evenly, and nothing outside it. */
        assert_between(lowest, base * 80 / 100, base * 81 / 100);
        assert_between(highest, base * 119 / 100, base * 120 / 100);
        assert_between(sum / 10000, base * 99 / 100, base * 101 / 100);
    }
    assert_int_equal(retry_delay_ms(p, 7, 0, false) >= 4 * MINUTE, 1);
}

static void
jitter_is_a_function_of_message_and_attempt(void **state)
{
    (void)state;
    const struct retry_policy *p = retry_policy_default();
    assert_int_equal(retry_delay_ms(p, 7, 3, false), retry_delay_ms(p, 7, 3, false));
    assert_int_not_equal(retry_delay_ms(p, 7, 3, false), retry_delay_ms(p, 8, 3, false));
    assert_int_not_equal(retry_delay_ms(p, 7, 7, false), retry_delay_ms(p, 7, 8, false));
}

static void
greylisting_holds_back_the_first_delay_only(void **state)
{
    (void)state;
    const struct retry_policy *p = retry_policy_default();
    for (uint64_t id = 1; id < 1000; id++) {
        assert_true(retry_delay_ms(p, id, 1, true) >= 6 * MINUTE);
        assert_int_equal(retry_delay_ms(p, id, 2, true), retry_delay_ms(p, id, 2, false));
    }
}

static void
a_policy_without_jitter_is_exact(void **state)
{
    (void)state;
    msec_t intervals[] = {1000, 2000};
    struct retry_policy p = {.intervals_ms = intervals, .n_intervals = 2, .max_age_ms = DAY};
    assert_int_equal(retry_delay_ms(&p, 1, 1, false), 1000);
    assert_int_equal(retry_delay_ms(&p, 1, 9, false), 2000);
    assert_int_equal(retry_delay_max_ms(&p), 2000);
    p.greylist_ms = 5000;
    assert_int_equal(retry_delay_ms(&p, 1, 1, true), 5000);
    assert_int_equal(retry_delay_max_ms(&p), 5000);
}

static void
messages_expire_after_five_days_bounces_after_two(void **state)
{
    (void)state;
    const struct retry_policy *p = retry_policy_default();
    assert_int_equal(retry_expires_at(p, NOW, false), NOW + 5 * DAY);
    assert_int_equal(retry_expires_at(p, NOW, true), NOW + 2 * DAY);
}

static void
the_last_attempt_is_made_at_the_deadline(void **state)
{
    (void)state;
    const struct retry_policy *p = retry_policy_default();
    msec_t expires_at = NOW + 5 * DAY;
    assert_int_equal(retry_due_at(p, 7, 20, false, expires_at - HOUR, expires_at), expires_at);
    assert_true(retry_due_at(p, 7, 20, false, NOW, expires_at) < NOW + 5 * HOUR);
    /* Past already (a long stop): one more attempt, later, and never in the past. */
    assert_true(retry_due_at(p, 7, 20, false, expires_at, expires_at) > expires_at + 3 * HOUR);
}

static void
only_an_attempt_made_after_the_deadline_expires_a_recipient(void **state)
{
    (void)state;
    assert_false(retry_expired(NOW, NOW - 1));
    assert_true(retry_expired(NOW, NOW));

    /* The relay was stopped for ten days: the first attempt after that is the one that counts. */
    const struct retry_policy *p = retry_policy_default();
    msec_t expires_at = retry_expires_at(p, NOW, false);
    assert_false(retry_expired(expires_at, NOW + 2 * HOUR));
    assert_true(retry_expired(expires_at, NOW + 10 * DAY));
}

static void
a_schedule_ends_with_one_attempt_after_the_deadline(void **state)
{
    (void)state;
    const struct retry_policy *p = retry_policy_default();
    for (uint64_t id = 1; id < 200; id++) {
        msec_t t = NOW, expires_at = retry_expires_at(p, NOW, false);
        unsigned attempt = 1;
        while (!retry_expired(expires_at, t)) {
            msec_t due_at = retry_due_at(p, id, attempt++, false, t, expires_at);
            assert_true(due_at > t);
            t = due_at;
        }
        assert_int_equal(t, expires_at);
        /* 4 h 15 min for the first six, then every four hours, each 20 % more or less. */
        assert_between(attempt, 31, 42);
    }
}

static void
due_times_beyond_the_longest_delay_are_pulled_in(void **state)
{
    (void)state;
    const struct retry_policy *p = retry_policy_default();
    msec_t longest = 4 * HOUR + 48 * MINUTE;
    assert_int_equal(retry_delay_max_ms(p), longest);
    assert_int_equal(retry_due_clamp(p, NOW + 300 * DAY, NOW), NOW + longest);
    assert_int_equal(retry_due_clamp(p, NOW + longest, NOW), NOW + longest);
    assert_int_equal(retry_due_clamp(p, NOW - DAY, NOW), NOW - DAY);
}

static void
warnings_fall_due_at_four_and_at_twenty_four_hours(void **state)
{
    (void)state;
    const struct retry_policy *p = retry_policy_default();
    assert_int_equal(retry_warnings_due(p, NOW, NOW), 0);
    assert_int_equal(retry_warnings_due(p, NOW, NOW + 4 * HOUR - 1), 0);
    assert_int_equal(retry_warnings_due(p, NOW, NOW + 4 * HOUR), 1);
    assert_int_equal(retry_warnings_due(p, NOW, NOW + 24 * HOUR), 2);
    assert_int_equal(retry_warnings_due(p, NOW, NOW + 400 * DAY), 2);
    assert_int_equal(retry_warnings_due(p, NOW, NOW - DAY), 0);
    assert_int_equal(retry_next_warning_at(p, NOW, 0), NOW + 4 * HOUR);
    assert_int_equal(retry_next_warning_at(p, NOW, 1), NOW + 24 * HOUR);
    assert_int_equal(retry_next_warning_at(p, NOW, 2), INT64_MAX);

    struct retry_policy none = *p;
    none.n_warn_after = 0;
    assert_int_equal(retry_warnings_due(&none, NOW, NOW + 4 * DAY), 0);
    assert_int_equal(retry_next_warning_at(&none, NOW, 0), INT64_MAX);

    struct retry_policy brief = *p;
    brief.max_age_ms = 6 * HOUR; /* expires before the second warning */
    assert_int_equal(retry_warnings_due(&brief, NOW, NOW + 30 * HOUR), 1);
    assert_int_equal(retry_next_warning_at(&brief, NOW, 1), INT64_MAX);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delays_follow_the_intervals_with_twenty_percent_jitter),
        cmocka_unit_test(jitter_is_a_function_of_message_and_attempt),
        cmocka_unit_test(greylisting_holds_back_the_first_delay_only),
        cmocka_unit_test(a_policy_without_jitter_is_exact),
        cmocka_unit_test(messages_expire_after_five_days_bounces_after_two),
        cmocka_unit_test(the_last_attempt_is_made_at_the_deadline),
        cmocka_unit_test(only_an_attempt_made_after_the_deadline_expires_a_recipient),
        cmocka_unit_test(a_schedule_ends_with_one_attempt_after_the_deadline),
        cmocka_unit_test(due_times_beyond_the_longest_delay_are_pulled_in),
        cmocka_unit_test(warnings_fall_due_at_four_and_at_twenty_four_hours),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
