/* Who guesses passwords is shut out, and only he. */
#include "relayd/accept/guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct ip
ip(const char *text)
{
    struct ip ret;

    if (!ip_parse(span_str(text), &ret))
        abort();
    return ret;
}

static int
make(void **state)
{
    *state = guard_new((struct map_seed){1, 2});
    return 0;
}

static int
drop(void **state)
{
    guard_free(*state);
    return 0;
}

static void
test_five_failures_within_ten_minutes_block_for_ten(void **state)
{
    struct guard *g = *state;
    struct ip bad = ip("192.0.2.1"), good = ip("192.0.2.2");

    for (int i = 0; i < 4; i++)
        assert_false(guard_failed(g, &bad, 1000 + i));
    assert_false(guard_blocks(g, &bad, 1004));
    assert_true(guard_failed(g, &bad, 1004));
    assert_true(guard_blocks(g, &bad, 1004));
    assert_true(guard_blocks(g, &bad, 1003 + GUARD_BLOCK_MS));
    assert_false(guard_blocks(g, &bad, 1004 + GUARD_BLOCK_MS));
    assert_false(guard_blocks(g, &good, 1004));
}

static void
test_slow_failures_do_not_add_up(void **state)
{
    struct guard *g = *state;
    struct ip clumsy = ip("192.0.2.1");

    for (int i = 0; i < 50; i++)
        assert_false(guard_failed(g, &clumsy, 1 + i * (GUARD_WINDOW_MS / 4 + 1)));
}

static void
test_the_window_slides(void **state)
{
    struct guard *g = *state;
    struct ip bad = ip("192.0.2.1");

    assert_false(guard_failed(g, &bad, 1));
    for (int i = 0; i < 3; i++)
        assert_false(guard_failed(g, &bad, GUARD_WINDOW_MS + i));
    assert_false(guard_failed(g, &bad, GUARD_WINDOW_MS + 5)); /* the first is too old */
    assert_true(guard_failed(g, &bad, GUARD_WINDOW_MS + 6));
}

static void
test_one_ipv6_network_is_one_client(void **state)
{
    struct guard *g = *state;

    for (int i = 0; i < 5; i++) {
        char text[64];
        snprintf(text, sizeof text, "2001:db8:0:1::%d", i + 1);
        struct ip client = ip(text);
        guard_failed(g, &client, 1000);
    }
    struct ip same = ip("2001:db8:0:1:ffff::1"), other = ip("2001:db8:0:2::1");
    assert_true(guard_blocks(g, &same, 1000));
    assert_false(guard_blocks(g, &other, 1000));
    assert_int_equal(guard_entries(g), 1);
}

static void
test_two_checks_may_wait_and_a_good_one_leaves_nothing(void **state)
{
    struct guard *g = *state;
    struct ip client = ip("192.0.2.1");

    assert_true(guard_enter(g, &client));
    assert_true(guard_enter(g, &client));
    assert_false(guard_enter(g, &client));
    guard_leave(g, &client);
    assert_true(guard_enter(g, &client));
    guard_leave(g, &client);
    guard_leave(g, &client);
    assert_int_equal(guard_entries(g), 0);
}

static void
test_memory_is_bounded_and_waiting_ones_stay(void **state)
{
    struct guard *g = *state;
    struct ip waiting = ip("192.0.2.1"), client = {.family = 4, .bytes = {10, 0, 0, 0}};

    assert_true(guard_enter(g, &waiting));
    for (uint32_t i = 0; i < GUARD_ENTRIES_MAX + 1000; i++) {
        client.bytes[1] = (uint8_t)(i >> 16);
        client.bytes[2] = (uint8_t)(i >> 8);
        client.bytes[3] = (uint8_t)i;
        guard_failed(g, &client, 1000);
    }
    assert_int_equal(guard_entries(g), GUARD_ENTRIES_MAX);
    guard_leave(g, &waiting); /* asserts that it is still there */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_five_failures_within_ten_minutes_block_for_ten),
        TEST(test_slow_failures_do_not_add_up),
        TEST(test_the_window_slides),
        TEST(test_one_ipv6_network_is_one_client),
        TEST(test_two_checks_may_wait_and_a_good_one_leaves_nothing),
        TEST(test_memory_is_bounded_and_waiting_ones_stay),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
