/* The tables of what is in hand: lifetimes, stale pages, bodies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "relayd/message.h"
#include "relayd/schedule/hand.h"

static struct hand hand;

static int
setup(void **state)
{
    (void)state;
    hand_init(&hand);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    hand_release(&hand); /* what is left in it too: the sanitizer would tell */
    return 0;
}

static struct msg *
add_msg(uint64_t id)
{
    const struct queue_msg q = {.id = id, .sender = SPAN("a@Src.TEST")};
    struct msg *msg = msg_new(&q, "cn");
    hand_add_msg(&hand, msg);
    return msg;
}

static struct rcpt *
add_rcpt(struct msg *msg, uint32_t no)
{
    const struct queue_rcpt row = {.id = msg->q.id,
                                   .no = no,
                                   .revision = 1,
                                   .state = QUEUE_FRESH,
                                   .address = SPAN("b@one.test"),
                                   .domain = SPAN("one.test"),
                                   .attempts = SPAN("opaque")};
    struct rcpt *rcpt = rcpt_new(&row, 7);
    hand_add_rcpt(&hand, msg, rcpt);
    return rcpt;
}

static void
add_body(struct msg *msg, size_t n, msec_t now)
{
    struct msg_body *body = xmalloc(sizeof(*body) + n);
    body->n = n;
    memset(body->bytes, 'x', n);
    hand_set_body(&hand, msg, body, now);
}

static void
what_is_put_in_is_found(void **state)
{
    (void)state;
    struct msg *msg = add_msg(5);
    struct rcpt *a = add_rcpt(msg, 0), *b = add_rcpt(msg, 1);
    assert_ptr_equal(hand_msg(&hand, 5), msg);
    assert_ptr_equal(hand_rcpt(&hand, 5, 0), a);
    assert_ptr_equal(hand_rcpt(&hand, 5, 1), b);
    assert_null(hand_rcpt(&hand, 5, 2));
    assert_null(hand_rcpt(&hand, 6, 0));
    assert_int_equal(hand.n_live, 2);
    assert_string_equal(msg->sender_domain, "src.test");
    assert_true(a->fresh);
}

static void
who_left_is_known_until_no_older_page_can_come(void **state)
{
    (void)state;
    struct msg *msg = add_msg(5);
    struct rcpt *a = add_rcpt(msg, 0);
    add_rcpt(msg, 1);
    hand_leave(&hand, a, 10);
    assert_int_equal(hand.n_live, 1);
    assert_int_equal(a->stage, STAGE_GONE);
    assert_null(a->attempts);
    hand_sweep(&hand, 9);
    assert_ptr_equal(hand_rcpt(&hand, 5, 0), a);
    hand_sweep(&hand, 10);
    assert_null(hand_rcpt(&hand, 5, 0));
    assert_ptr_equal(hand_msg(&hand, 5), msg); /* for the other one */
    hand_leave(&hand, hand_rcpt(&hand, 5, 1), 11);
    hand_sweep(&hand, 11);
    assert_null(hand_msg(&hand, 5));
}

static void
who_goes_back_unchanged_leaves_no_trace(void **state)
{
    (void)state;
    struct msg *msg = add_msg(5);
    struct rcpt *a = add_rcpt(msg, 0), *b = add_rcpt(msg, 1);
    add_body(msg, 100, 0);
    hand_drop(&hand, a);
    assert_null(hand_rcpt(&hand, 5, 0));
    assert_non_null(msg->body);
    hand_leave(&hand, b, 10); /* gone, but not forgotten: it keeps the message */
    assert_null(msg->body);
    struct rcpt *again = add_rcpt(msg, 0);
    hand_drop(&hand, again);
    assert_ptr_equal(hand_msg(&hand, 5), msg);
    assert_int_equal(hand.n_live, 0);
    hand_sweep(&hand, 10);
    assert_null(hand_msg(&hand, 5));
}

static void
a_change_behind_our_back_outdates_older_pages(void **state)
{
    (void)state;
    assert_true(hand_believes(&hand, 5, 0, 9));
    hand_outdate(&hand, 5, 0, 10);
    assert_false(hand_believes(&hand, 5, 0, 9));
    assert_true(hand_believes(&hand, 5, 0, 10));
    assert_true(hand_believes(&hand, 5, 1, 9));
    hand_outdate(&hand, 5, 0, 12); /* once more */
    assert_false(hand_believes(&hand, 5, 0, 11));
    hand_sweep(&hand, 10);
    assert_false(hand_believes(&hand, 5, 0, 11)); /* the later one holds */
    hand_sweep(&hand, 12);
    assert_true(hand_believes(&hand, 5, 0, 1));

    struct rcpt *gone = add_rcpt(add_msg(6), 0);
    hand_leave(&hand, gone, 20);
    hand_outdate(&hand, 6, 0, 25);
    hand_sweep(&hand, 24);
    assert_non_null(hand_rcpt(&hand, 6, 0));
    hand_sweep(&hand, 25);
    assert_null(hand_rcpt(&hand, 6, 0));
}

static void
bodies_go_with_the_last_one_who_needs_them(void **state)
{
    (void)state;
    struct msg *one = add_msg(1), *two = add_msg(2), *three = add_msg(3);
    struct rcpt *a = add_rcpt(one, 0), *b = add_rcpt(two, 0);
    add_rcpt(three, 0);
    add_body(one, 100, 1);
    add_body(two, 200, 2);
    add_body(three, 400, 3);
    assert_int_equal(hand.body_bytes, 700);
    assert_ptr_equal(hand.bodies, one); /* the oldest first */
    hand_leave(&hand, b, 10);
    assert_int_equal(hand.body_bytes, 500);
    assert_null(two->body);
    hand_drop_body(&hand, one);
    assert_ptr_equal(hand.bodies, three);
    hand_drop_body(&hand, three);
    hand_drop_body(&hand, three); /* it may be gone already */
    assert_int_equal(hand.body_bytes, 0);
    assert_null(hand.bodies);
    add_body(one, 50, 4); /* and come back */
    assert_ptr_equal(hand.bodies, one);
    assert_ptr_equal(a->msg, one);
}

static void
ten_thousand_come_and_go(void **state)
{
    (void)state;
    for (uint64_t id = 1; id <= 5000; id++) {
        struct msg *msg = add_msg(id);
        add_rcpt(msg, 0);
        add_rcpt(msg, 1);
    }
    assert_int_equal(hand.n_live, 10000);
    for (uint64_t id = 1; id <= 5000; id++) {
        hand_leave(&hand, hand_rcpt(&hand, id, (uint32_t)(id % 2)), id);
        if (id % 3 == 0)
            hand_drop(&hand, hand_rcpt(&hand, id, 1 - (uint32_t)(id % 2)));
    }
    hand_sweep(&hand, 5000);
    assert_int_equal(hand.n_live, 5000 - 5000 / 3);
    for (uint64_t id = 1; id <= 5000; id++)
        assert_int_equal(hand_msg(&hand, id) == NULL, id % 3 == 0);
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(what_is_put_in_is_found),
        T(who_left_is_known_until_no_older_page_can_come),
        T(who_goes_back_unchanged_leaves_no_trace),
        T(a_change_behind_our_back_outdates_older_pages),
        T(bodies_go_with_the_last_one_who_needs_them),
        T(ten_thousand_come_and_go),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
