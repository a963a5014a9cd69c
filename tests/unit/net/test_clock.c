/* Timers fire in order and on time, whatever is set, moved and cancelled. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/net/clock.h"
#include "relayd/net/loop.h"

struct log {
    struct clock *clock;
    int order[64];
    msec_t at[64];
    size_t n;
};

struct item {
    struct timer timer;
    struct log *log;
    int id;
};

static void
on_item(void *arg)
{
    struct item *item = arg;
    assert_false(timer_is_set(&item->timer));
    assert_true(item->log->n < N_ELEMENTS(item->log->order));
    item->log->at[item->log->n] = clock_now(item->log->clock);
    item->log->order[item->log->n++] = item->id;
}

static void
timers_fire_in_order_of_time_then_of_setting(void **state)
{
    (void)state;
    struct clock *clock = clock_new_stepped(0);
    struct log log = {.clock = clock};
    struct item items[5];
    const msec_t after[] = {30, 10, 20, 10, 30};
    msec_t start = clock_now(clock);

    for (int i = 0; i < 5; i++) {
        items[i] = (struct item){TIMER_INIT, &log, i};
        timer_set(clock, &items[i].timer, after[i], on_item, &items[i]);
    }
    assert_int_equal(clock_step(clock, 9), 0);
    assert_int_equal(clock_step(clock, 11), 3);
    assert_int_equal(clock_step(clock, 1000), 2);
    const int expected[] = {1, 3, 2, 0, 4};
    assert_memory_equal(log.order, expected, sizeof(expected));
    assert_int_equal(log.at[0], start + 10);
    assert_int_equal(log.at[4], start + 30);
    assert_int_equal(clock_now(clock), start + 1020);
    clock_free(clock);
}

static void
a_timer_moved_to_later_fires_once_at_its_new_time(void **state)
{
    (void)state;
    struct clock *clock = clock_new_stepped(0);
    struct log log = {.clock = clock};
    struct item a = {TIMER_INIT, &log, 1}, b = {TIMER_INIT, &log, 2};

    timer_set(clock, &a.timer, 10, on_item, &a);
    timer_set(clock, &b.timer, 20, on_item, &b);
    timer_set(clock, &a.timer, 30, on_item, &a);
    assert_int_equal(clock_n_timers(clock), 2);
    assert_int_equal(clock_next_at(clock), clock_now(clock) + 20);
    clock_step(clock, 100);
    assert_int_equal(log.n, 2);
    assert_int_equal(log.order[0], 2);
    timer_set(clock, &a.timer, 50, on_item, &a);
    timer_set(clock, &a.timer, 5, on_item, &a); /* and to earlier */
    clock_step(clock, 5);
    assert_int_equal(log.n, 3);
    assert_int_equal(clock_next_at(clock), INT64_MAX);
    clock_free(clock);
}

static void
wall_time_advances_with_the_steps(void **state)
{
    (void)state;
    struct clock *clock = clock_new_stepped(1700000000000);
    struct log log = {.clock = clock};
    struct item a = {TIMER_INIT, &log, 1};
    timer_set(clock, &a.timer, 400, on_item, &a);
    clock_step(clock, 1000);
    assert_true(clock_wall(clock) == 1700000001000);
    clock_free(clock);
}

struct again {
    struct timer timer;
    struct clock *clock;
    int n;
};

static void
on_again(void *arg)
{
    struct again *again = arg;
    if (++again->n < 5)
        timer_set(again->clock, &again->timer, 10, on_again, again);
}

static void
a_callback_may_set_its_own_timer_again(void **state)
{
    (void)state;
    struct clock *clock = clock_new_stepped(0);
    struct again again = {.clock = clock};
    timer_set(clock, &again.timer, 10, on_again, &again);
    clock_step(clock, 35);
    assert_int_equal(again.n, 3);
    clock_step(clock, 100);
    assert_int_equal(again.n, 5);
    clock_free(clock);
}

/* ---- the heap against a plain array ---- */

#define N_MODEL 200

struct model {
    struct timer timer;
    struct clock *clock;
    msec_t at; /* -1 = not set */
    uint64_t seq;
};

static struct model models[N_MODEL];
static uint64_t model_seq;
static msec_t last_at;
static uint64_t last_seq;
static size_t n_fired;

static void
on_model(void *arg)
{
    struct model *m = arg;
    assert_true(m->at >= 0);
    assert_int_equal(clock_now(m->clock), m->at);
    assert_true(m->at > last_at || (m->at == last_at && m->seq > last_seq));
    last_at = m->at;
    last_seq = m->seq;
    m->at = -1;
    n_fired++;
}

static void
random_sets_moves_and_cancels_agree_with_a_model(void **state)
{
    (void)state;
    srand(20240229);
    struct clock *clock = clock_new_stepped(0);
    for (int i = 0; i < N_MODEL; i++)
        models[i] = (struct model){.clock = clock, .at = -1};
    for (int step = 0; step < 20000; step++) {
        struct model *m = &models[rand() % N_MODEL];
        int what = rand() % 10;
        if (what < 6) {
            m->at = clock_now(clock) + rand() % 500;
            m->seq = ++model_seq;
            timer_set_at(clock, &m->timer, m->at, on_model, m);
        } else if (what < 8) {
            m->at = -1;
            timer_cancel(clock, &m->timer);
        } else {
            msec_t end = clock_now(clock) + rand() % 40;
            size_t due = 0, set = 0;
            for (int i = 0; i < N_MODEL; i++)
                due += models[i].at >= 0 && models[i].at <= end;
            last_at = -1;
            n_fired = 0;
            assert_int_equal(clock_step(clock, end - clock_now(clock)), due);
            assert_int_equal(n_fired, due);
            for (int i = 0; i < N_MODEL; i++)
                set += models[i].at >= 0;
            assert_int_equal(clock_n_timers(clock), set);
        }
        assert_int_equal(timer_is_set(&m->timer), m->at >= 0);
    }
    clock_free(clock);
}

/* ---- on libevent ---- */

static void
on_stop(void *arg)
{
    loop_stop(arg);
}

static void
a_real_clock_fires_and_never_early(void **state)
{
    (void)state;
    struct loop *loop = loop_new();
    struct clock *clock = loop_clock(loop);
    struct log log = {.clock = clock};
    struct item far = {TIMER_INIT, &log, 9}, near = {TIMER_INIT, &log, 1};
    struct timer stop = TIMER_INIT;
    msec_t start = clock_now(clock);

    timer_set(clock, &far.timer, 60000, on_item, &far);
    timer_set(clock, &near.timer, 30, on_item, &near);
    timer_set(clock, &stop, 60, on_stop, loop);
    timer_set(clock, &near.timer, 50, on_item, &near); /* the first wake-up finds nothing due */
    loop_run(loop);
    assert_int_equal(log.n, 1);
    assert_int_equal(log.order[0], 1);
    assert_true(log.at[0] >= start + 50);
    timer_cancel(clock, &far.timer);
    loop_free(loop);
}

static void
on_zero(void *arg)
{
    struct again *again = arg;
    again->n++;
    timer_set(again->clock, &again->timer, 0, on_zero, again);
}

static void
a_timer_set_to_now_by_its_callback_waits_for_the_next_tick(void **state)
{
    (void)state;
    struct loop *loop = loop_new();
    struct again again = {.clock = loop_clock(loop)};
    timer_set(again.clock, &again.timer, 0, on_zero, &again);
    for (int i = 0; i < 1000 && again.n < 3; i++) {
        int before = again.n;
        loop_run_once(loop, 10);
        assert_true(again.n <= before + 1);
    }
    assert_int_equal(again.n, 3);
    timer_cancel(again.clock, &again.timer);
    loop_free(loop);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_of_time_then_of_setting),
        cmocka_unit_test(a_timer_moved_to_later_fires_once_at_its_new_time),
        cmocka_unit_test(wall_time_advances_with_the_steps),
        cmocka_unit_test(a_callback_may_set_its_own_timer_again),
        cmocka_unit_test(random_sets_moves_and_cancels_agree_with_a_model),
        cmocka_unit_test(a_real_clock_fires_and_never_early),
        cmocka_unit_test(a_timer_set_to_now_by_its_callback_waits_for_the_next_tick),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
