/* The lanes' timers, with a stepped clock and no queue: the test says what the pages held. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "relayd/schedule/lanes.h"

#define T0 ((msec_t)1700000000000)

static struct clock *clock;
static struct lanes lanes;
static int n_due;

static void
on_due(void *arg)
{
    assert_ptr_equal(arg, &n_due);
    n_due++;
}

static int
setup(void **state)
{
    (void)state;
    n_due = 0;
    clock = clock_new_stepped(T0);
    lanes_init(&lanes, clock, on_due, &n_due);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    lanes_release(&lanes);
    assert_int_equal(clock_n_timers(clock), 0);
    clock_free(clock);
    return 0;
}

static void
a_lane_is_due_at_its_earliest_moment(void **state)
{
    (void)state;
    lanes_note(&lanes, 7, T0 + 5 * MINUTE);
    lanes_note(&lanes, 7, T0 + MINUTE);
    lanes_note(&lanes, 7, T0 + 2 * MINUTE);
    assert_int_equal(lanes_count(&lanes), 1);
    clock_step(clock, MINUTE - 1);
    assert_null(lanes_take(&lanes));
    clock_step(clock, 1);
    assert_int_equal(n_due, 1);
    struct lane *lane = lanes_take(&lanes);
    assert_non_null(lane);
    assert_int_equal(lane->hash, 7);
    assert_null(lanes_take(&lanes));
    lanes_read(lane, false, T0 + 2 * MINUTE);
    clock_step(clock, MINUTE);
    assert_ptr_equal(lanes_take(&lanes), lane);
    lanes_read(lane, false, INT64_MAX);
    assert_int_equal(lanes_count(&lanes), 0);
}

static void
lanes_are_taken_in_the_order_they_fell_due(void **state)
{
    (void)state;
    for (uint64_t i = 1; i <= 5; i++)
        lanes_note(&lanes, i, T0 + (msec_t)(6 - i) * SECOND);
    clock_step(clock, MINUTE);
    assert_int_equal(n_due, 1); /* the line became non-empty once */
    for (uint64_t i = 5; i >= 1; i--) {
        struct lane *lane = lanes_take(&lanes);
        assert_int_equal(lane->hash, i);
        lanes_read(lane, false, INT64_MAX);
    }
    assert_null(lanes_take(&lanes));
}

static void
what_is_noted_while_a_page_is_read_is_not_lost(void **state)
{
    (void)state;
    lanes_note(&lanes, 7, T0);
    clock_step(clock, 0);
    struct lane *lane = lanes_take(&lanes);
    lanes_note(&lanes, 7, T0 + MINUTE);
    lanes_note(&lanes, 7, T0 + 2 * MINUTE);
    lanes_read(lane, false, T0 + HOUR); /* the snapshot did not know of it */
    clock_step(clock, MINUTE - 1);
    assert_null(lanes_take(&lanes));
    clock_step(clock, 1);
    assert_ptr_equal(lanes_take(&lanes), lane);
    lanes_read(lane, false, INT64_MAX);
}

static void
a_page_that_was_full_goes_on_behind_its_last_row(void **state)
{
    (void)state;
    lanes_note(&lanes, 7, T0);
    clock_step(clock, 0);
    struct lane *lane = lanes_take(&lanes);
    lane->after = (struct queue_due_key){T0 - 5, 42, 1};
    lanes_note(&lanes, 7, T0 + MINUTE); /* behind it: the next page shows it */
    lanes_read(lane, true, T0);
    clock_step(clock, 0);
    assert_ptr_equal(lanes_take(&lanes), lane);
    assert_int_equal(lane->after.id, 42);
    lanes_read(lane, false, INT64_MAX);
    assert_int_equal(lanes_count(&lanes), 0);
}

static void
what_comes_before_the_cursor_makes_it_begin_again(void **state)
{
    (void)state;
    static const msec_t noted[] = {T0 - 6, T0 - 5}; /* earlier; and equal, with whatever id */
    for (int when = 0; when < 2; when++) {
        for (int i = 0; i < 2; i++) {
            lanes_note(&lanes, 7, T0);
            clock_step(clock, 0);
            struct lane *lane = lanes_take(&lanes);
            lane->after = (struct queue_due_key){T0 - 5, 42, 1};
            if (when == 0)
                lanes_note(&lanes, 7, noted[i]);
            lanes_read(lane, true, T0);
            if (when == 1)
                lanes_note(&lanes, 7, noted[i]);
            clock_step(clock, 0);
            assert_ptr_equal(lanes_take(&lanes), lane);
            assert_int_equal(lane->after.id, 0);
            lanes_read(lane, false, INT64_MAX);
        }
    }
}

static void
enough_in_hand_pauses_a_lane_until_half_of_it_has_left(void **state)
{
    (void)state;
    lanes_note(&lanes, 7, T0);
    clock_step(clock, 0);
    struct lane *lane = lanes_take(&lanes);
    for (int i = 0; i < LANE_HAND_MAX; i++)
        lane_hold(lane);
    lane->after = (struct queue_due_key){T0, 9, 9};
    lanes_read(lane, true, T0);
    clock_step(clock, HOUR);
    assert_null(lanes_take(&lanes));
    lanes_note(&lanes, 7, T0 - MINUTE);
    clock_step(clock, HOUR);
    assert_null(lanes_take(&lanes)); /* still */
    for (int i = 0; i < LANE_HAND_MAX / 2; i++)
        lane_drop(lane);
    clock_step(clock, 0);
    assert_ptr_equal(lanes_take(&lanes), lane);
    assert_int_equal(lane->after.id, 0); /* what was noted lies before the cursor */
    lanes_read(lane, false, INT64_MAX);
    for (int i = 0; i < LANE_HAND_MAX / 2; i++) {
        assert_int_equal(lanes_count(&lanes), 1);
        lane_drop(lane);
    }
    assert_int_equal(lanes_count(&lanes), 0);
}

static void
waking_looks_at_every_lane_from_its_beginning(void **state)
{
    (void)state;
    lanes_note(&lanes, 1, T0 + DAY); /* far away */
    lanes_note(&lanes, 2, T0);
    lanes_note(&lanes, 3, T0);
    clock_step(clock, 0);
    struct lane *reading = lanes_take(&lanes);
    struct lane *kept = lanes_take(&lanes); /* by a recipient in hand alone */
    lane_hold(kept);
    lanes_read(kept, false, INT64_MAX);
    lanes_wake(&lanes);
    lanes_read(reading, false, INT64_MAX);
    clock_step(clock, 0);
    bool seen[4] = {false};
    for (int i = 0; i < 3; i++) {
        struct lane *lane = lanes_take(&lanes);
        assert_non_null(lane);
        seen[lane->hash] = true;
        if (lane != kept)
            lanes_read(lane, false, INT64_MAX);
    }
    assert_true(seen[1] && seen[2] && seen[3]);
    lane_drop(kept); /* the last one leaves while its page is being read */
    lanes_read(kept, false, INT64_MAX);
    assert_int_equal(lanes_count(&lanes), 0);
}

static void
a_lane_in_the_line_outlives_its_last_recipient_in_hand(void **state)
{
    (void)state;
    lanes_note(&lanes, 3, T0);
    clock_step(clock, 0);
    struct lane *lane = lanes_take(&lanes);
    lane_hold(lane);
    lanes_read(lane, false, INT64_MAX);
    lanes_wake(&lanes);
    clock_step(clock, 0);
    lane_drop(lane);
    assert_ptr_equal(lanes_take(&lanes), lane);
    lanes_read(lane, false, INT64_MAX);
    assert_int_equal(lanes_count(&lanes), 0);
}

static void
those_passed_over_are_looked_at_again_when_the_pass_is_over(void **state)
{
    (void)state;
    lanes_note(&lanes, 7, T0);
    clock_step(clock, 0);
    struct lane *lane = lanes_take(&lanes);
    lane_hold(lane);
    lane_pass(lane, T0 + 30 * SECOND); /* one of this page */
    lane->after = (struct queue_due_key){T0, 42, 1};
    lanes_read(lane, true, T0);
    clock_step(clock, 0);
    assert_ptr_equal(lanes_take(&lanes), lane);
    assert_int_equal(lane->after.id, 42); /* the pass goes on */
    lanes_read(lane, false, INT64_MAX);
    clock_step(clock, 30 * SECOND - 1);
    assert_null(lanes_take(&lanes));
    clock_step(clock, 1);
    assert_ptr_equal(lanes_take(&lanes), lane);
    lanes_read(lane, false, T0 + HOUR);
    lane_pass(lane, T0 + MINUTE); /* looked up for a while, and found its site full then */
    lane_drop(lane);
    clock_step(clock, 30 * SECOND);
    assert_ptr_equal(lanes_take(&lanes), lane);
    lanes_read(lane, false, INT64_MAX);
    assert_int_equal(lanes_count(&lanes), 0);
}

static void
a_lane_sleeps_when_too_many_are_passed_over(void **state)
{
    (void)state;
    lanes_note(&lanes, 7, T0);
    clock_step(clock, 0);
    struct lane *lane = lanes_take(&lanes);
    lane_hold(lane);
    for (int i = 0; i < LANE_PASS_MAX; i++)
        lane_pass(lane, T0 + 30 * SECOND);
    lane->after = (struct queue_due_key){T0, 42, 1};
    lanes_read(lane, true, T0);
    clock_step(clock, 30 * SECOND - 1);
    assert_null(lanes_take(&lanes));
    clock_step(clock, 1);
    assert_ptr_equal(lanes_take(&lanes), lane);
    assert_int_equal(lane->after.id, 0); /* from its beginning */
    lanes_read(lane, true, T0);          /* and it is awake again */
    clock_step(clock, 0);
    assert_ptr_equal(lanes_take(&lanes), lane);
    lanes_read(lane, false, INT64_MAX);
    lane_drop(lane);
}

static void
room_at_their_site_brings_them_back_early(void **state)
{
    (void)state;
    lanes_note(&lanes, 7, T0);
    clock_step(clock, 0);
    struct lane *lane = lanes_take(&lanes);
    lane_hold(lane);
    lane_pass(lane, T0 + 30 * SECOND);
    lanes_again(&lanes, 7); /* while a page is being read */
    lanes_read(lane, false, INT64_MAX);
    clock_step(clock, 0);
    assert_ptr_equal(lanes_take(&lanes), lane);
    lane_pass(lane, T0 + 30 * SECOND);
    lanes_read(lane, false, INT64_MAX);
    lanes_again(&lanes, 7); /* while it sleeps */
    lanes_again(&lanes, 8); /* not known any more */
    clock_step(clock, 0);
    assert_ptr_equal(lanes_take(&lanes), lane);
    lane_drop(lane);
    lanes_read(lane, false, INT64_MAX);
    assert_int_equal(lanes_count(&lanes), 0);
}

static void
a_due_time_behind_all_reason_is_looked_at_at_once(void **state)
{
    (void)state;
    lanes.longest_ms = HOUR;
    lanes_note(&lanes, 7, T0 + 300 * DAY); /* the clock ran back since */
    clock_step(clock, 0);
    struct lane *lane = lanes_take(&lanes);
    assert_non_null(lane);
    lanes_read(lane, false, INT64_MAX);
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_lane_is_due_at_its_earliest_moment),
        T(lanes_are_taken_in_the_order_they_fell_due),
        T(what_is_noted_while_a_page_is_read_is_not_lost),
        T(a_page_that_was_full_goes_on_behind_its_last_row),
        T(what_comes_before_the_cursor_makes_it_begin_again),
        T(enough_in_hand_pauses_a_lane_until_half_of_it_has_left),
        T(waking_looks_at_every_lane_from_its_beginning),
        T(a_lane_in_the_line_outlives_its_last_recipient_in_hand),
        T(those_passed_over_are_looked_at_again_when_the_pass_is_over),
        T(a_lane_sleeps_when_too_many_are_passed_over),
        T(room_at_their_site_brings_them_back_early),
        T(a_due_time_behind_all_reason_is_looked_at_at_once),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
