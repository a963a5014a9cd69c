/* What is learned is tried again: refusals when their time is over, and paths. */
#include "tests/unit/policy/learn_rig.h"

/* ---- probing ---- */

static void
when_its_time_is_over_one_recipient_at_a_time_may_probe(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    t.now = T0 + TTL - 1;
    assert_int_equal(advice(direct("a.test", 2)), LEARN_AVOID);
    assert_false(probe(direct("a.test", 2)));
    t.now = T0 + TTL;
    assert_int_equal(advice(direct("a.test", 2)), LEARN_PROBE);
    assert_int_equal(advice(direct("a.test", 3)), LEARN_PROBE); /* nobody went yet */
    assert_false(probe(direct("a.test", 0)));                   /* nobody may not */
    assert_true(probe(direct("a.test", 2)));
    assert_int_equal(t.n[LEARN_PROBED], 1);
    assert_int_equal(advice(direct("a.test", 2)), LEARN_PROBE);
    assert_int_equal(advice(direct("a.test", 3)), LEARN_AVOID);
    assert_false(probe(direct("a.test", 3)));
    struct learn_way other_rcpt = direct("a.test", 2);
    other_rcpt.key.no = 1;
    assert_int_equal(advice(other_rcpt), LEARN_AVOID);
}

static void
a_lease_ends_and_asking_again_renews_it(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    t.now += TTL;
    assert_true(probe(direct("a.test", 2)));
    t.now += LEARN_LEASE_MS - 1;
    assert_int_equal(advice(direct("a.test", 3)), LEARN_AVOID);
    assert_true(probe(direct("a.test", 2)));
    assert_int_equal(t.n[LEARN_PROBED], 1); /* the same probe */
    t.now += LEARN_LEASE_MS - 1;
    assert_int_equal(advice(direct("a.test", 3)), LEARN_AVOID);
    t.now += 1;
    assert_true(probe(direct("a.test", 3)));
    assert_int_equal(advice(direct("a.test", 2)), LEARN_AVOID);
    /* the first one's late end does not take the slot from the second */
    learn_no_verdict(t.l, &(struct learn_way){.domain = SPAN("a.test"),
                                              .site = SPAN(SITE),
                                              .route = SPAN("direct"),
                                              .key = {2, 0}});
    assert_int_equal(advice(direct("a.test", 4)), LEARN_AVOID);
    /* a clock that runs back ends a lease */
    t.now -= MINUTE;
    assert_int_equal(advice(direct("a.test", 4)), LEARN_PROBE);
}

static void
three_good_probes_forget(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    t.now += TTL;
    for (uint64_t id = 2; id <= 3; id++) {
        assert_true(probe(direct("a.test", id)));
        deliver(direct("a.test", id));
        assert_int_equal(t.last.good, id - 1);
        /* at once */
        assert_int_equal(advice(direct("a.test", 9)), LEARN_PROBE);
    }
    assert_int_equal(t.n[LEARN_GOOD], 2);
    assert_true(probe(direct("a.test", 4)));
    deliver(direct("a.test", 4));
    assert_int_equal(t.n[LEARN_FORGOTTEN], 1);
    assert_int_equal(learn_count(t.l), 0);
    assert_int_equal(advice(direct("a.test", 5)), LEARN_FREE);
}

static void
a_success_without_the_slot_counts_once_the_time_is_over(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    deliver(direct("a.test", 2));
    t.now += TTL;
    assert_true(probe(direct("a.test", 3)));
    deliver(direct("a.test", 2)); /* sent that way by an administrator */
    assert_int_equal(t.last.good, 1);
    assert_int_equal(advice(direct("a.test", 4)), LEARN_AVOID); /* 3 is still at it */
    /* the slot's owner counts even when the clock ran back meanwhile */
    t.now -= HOUR;
    deliver(direct("a.test", 3));
    assert_int_equal(t.last.good, 2);
    deliver(direct("a.test", 3));
    assert_int_equal(t.n[LEARN_GOOD], 2);
}

static void
a_refused_probe_doubles_the_time_up_to_the_longest(void **state)
{
    (void)state;
    static const msec_t want[] = {12 * HOUR, 24 * HOUR, 48 * HOUR, 96 * HOUR,
                                  7 * DAY,   7 * DAY,   7 * DAY};
    refuse(direct("a.test", 1));
    for (size_t i = 0; i < N_ELEMENTS(want); i++) {
        t.now = t.last.until_at;
        assert_true(probe(direct("a.test", 2 + i)));
        if (i == 1) {
            deliver(direct("a.test", 2 + i)); /* one good probe, which the next one undoes */
            assert_true(probe(direct("a.test", 50)));
        }
        refuse(direct("a.test", i == 1 ? 50 : 2 + i));
        assert_int_equal(t.n[LEARN_RENEWED], i + 1);
        assert_int_equal(t.last.renewals, i + 1);
        assert_int_equal(t.last.ttl_ms, want[i]);
        assert_int_equal(t.last.until_at, t.now + want[i]);
        assert_int_equal(t.last.good, 0);
        assert_int_equal(t.last.since_at, T0);
        assert_int_equal(advice(direct("a.test", 99)), LEARN_AVOID);
    }
    assert_int_equal(learn_count(t.l), 1);
}

static void
the_probing_recipient_counts_though_the_clock_ran_back(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    t.now += TTL;
    assert_true(probe(direct("a.test", 2)));
    t.now -= MINUTE;
    refuse(direct("a.test", 3)); /* in flight */
    assert_int_equal(t.n[LEARN_RENEWED], 0);
    refuse(direct("a.test", 2));
    assert_int_equal(t.n[LEARN_RENEWED], 1);
    refuse(direct("a.test", 2));
    assert_int_equal(t.n[LEARN_RENEWED], 1);
}

static void
a_probe_that_ends_without_a_verdict_frees_the_slot(void **state)
{
    (void)state;
    const struct learn_way way = direct("a.test", 2);
    refuse(direct("a.test", 1));
    t.now += TTL;
    assert_true(probe(way));
    learn_no_verdict(t.l, &way);
    assert_int_equal(advice(direct("a.test", 3)), LEARN_PROBE);
    assert_int_equal(t.n[LEARN_GOOD] + t.n[LEARN_RENEWED], 0);
    /* at a hop, trouble before RCPT is the hop's */
    refuse(through_hop("a.test", 1));
    t.now += TTL;
    assert_true(probe(through_hop("a.test", 2)));
    refuse_early(through_hop("a.test", 2));
    assert_int_equal(t.n[LEARN_RENEWED], 0);
    assert_int_equal(advice(through_hop("a.test", 3)), LEARN_PROBE);
}

static void
one_result_counts_for_domain_and_site(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    refuse(direct("b.test", 2)); /* the site too: all three end together */
    t.now += TTL;
    assert_int_equal(advice(direct("a.test", 3)), LEARN_PROBE);
    assert_true(probe(direct("a.test", 3)));
    assert_int_equal(t.n[LEARN_PROBED], 2);
    assert_int_equal(advice(direct("b.test", 4)), LEARN_AVOID); /* the site is being probed */
    deliver(direct("a.test", 3));
    assert_int_equal(t.n[LEARN_GOOD], 2);
    assert_int_equal(advice(direct("b.test", 4)), LEARN_PROBE);
    for (uint64_t id = 5; id < 7; id++) {
        assert_true(probe(direct("a.test", id)));
        deliver(direct("a.test", id));
    }
    assert_int_equal(t.n[LEARN_FORGOTTEN], 2);
    assert_int_equal(learn_count(t.l), 1); /* b.test has its own refusal to disprove */
    assert_int_equal(advice(direct("a.test", 8)), LEARN_FREE);
    assert_int_equal(scope_that_decides(direct("b.test", 8)), LEARN_DOMAIN);
}

static void
one_refusal_renews_domain_and_site(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    refuse(direct("b.test", 2));
    t.now += TTL;
    assert_true(probe(direct("a.test", 3)));
    refuse_early(direct("a.test", 3));
    assert_int_equal(t.n[LEARN_RENEWED], 2);
    t.now += TTL;
    assert_int_equal(advice(direct("b.test", 4)),
                     LEARN_AVOID); /* by the site, until 12 h are over */
    assert_int_equal(scope_that_decides(direct("b.test", 4)), LEARN_SITE);
}

static void
what_still_holds_wins_over_what_is_due(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    t.now += HOUR;
    refuse(direct("b.test", 2)); /* b.test and the site, an hour later */
    t.now = T0 + TTL;
    assert_int_equal(scope_that_decides(direct("a.test", 3)), LEARN_SITE);
    assert_int_equal(advice(direct("a.test", 3)), LEARN_AVOID);
    assert_false(probe(direct("a.test", 3)));
    t.now += HOUR;
    assert_true(probe(direct("a.test", 3)));
}

/* ---- paths ---- */

static void
a_path_is_learned_when_it_has_failed_often_enough(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        path_failed(direct("a.test", 1));
        path_failed(direct("b.test", 2)); /* of the same attempt */
        t.now += 20 * MINUTE;
    }
    assert_int_equal(learn_count(t.l), 0);
    path_failed(direct("c.test", 3));
    assert_int_equal(learn_count(t.l), 1);
    assert_int_equal(t.last.scope, LEARN_SITE);
    assert_string_equal(t.last.klass, "routing-error");
    assert_string_equal(t.last.text, "timed out");
    assert_int_equal(t.last.until_at, t.now + TTL);
    assert_int_equal(advice(direct("d.test", 4)), LEARN_AVOID);
}

static void
failures_further_apart_or_with_a_success_between_are_not_added_up(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++) { /* two in any hour */
        path_failed(direct("a.test", 1));
        t.now += 30 * MINUTE;
    }
    assert_int_equal(learn_count(t.l), 0);
    t.now += HOUR;
    for (int i = 0; i < 10; i++) {
        path_failed(direct("a.test", 1));
        t.now += MINUTE;
        if (i % 2 == 1)
            deliver(direct("b.test", 2));
    }
    assert_int_equal(learn_count(t.l), 0);
    /* the window slides: 0:00, 0:50, 1:05, 1:10 */
    path_failed(direct("a.test", 1));
    t.now += 50 * MINUTE;
    path_failed(direct("a.test", 1));
    t.now += 15 * MINUTE;
    path_failed(direct("a.test", 1));
    assert_int_equal(learn_count(t.l), 0);
    t.now += 5 * MINUTE;
    path_failed(direct("a.test", 1));
    assert_int_equal(learn_count(t.l), 1);
}

static void
a_probe_that_meets_the_same_dead_path_renews_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++, t.now += MINUTE)
        path_failed(direct("a.test", 1));
    t.now = t.last.until_at;
    assert_true(probe(direct("a.test", 2)));
    path_failed(direct("a.test", 2));
    assert_int_equal(t.n[LEARN_RENEWED], 1);
    assert_int_equal(t.last.ttl_ms, 2 * TTL);
}

static void
a_probe_of_a_refusal_that_meets_a_dead_path_is_no_verdict(void **state)
{
    (void)state;
    refuse_early(direct("a.test", 1));
    t.now += TTL;
    assert_true(probe(direct("a.test", 2)));
    path_failed(direct("a.test", 2));
    assert_int_equal(t.n[LEARN_RENEWED], 0);
    assert_int_equal(advice(direct("a.test", 3)), LEARN_PROBE);
    for (int i = 0; i < 2; i++) { /* until it has failed often enough */
        t.now += MINUTE;
        path_failed(direct("a.test", 3));
    }
    assert_int_equal(t.n[LEARN_RENEWED], 1);
    assert_string_equal(t.last.klass, "routing-error");
}

static void
counters_of_paths_are_bounded(void **state)
{
    (void)state;
    char site[64];
    struct learn_way way = direct("a.test", 1);
    for (size_t i = 0; i <= LEARN_COUNTERS_MAX; i++) {
        snprintf(site, sizeof(site), "mx%zu.example 1/00", i);
        way.site = span_str(site);
        path_failed(way);
        t.now += 2 * SECOND;
        if (i == 1) {
            way.site = SPAN("mx0.example 1/00"); /* fails again: now mx1 is the oldest */
            path_failed(way);
        }
        t.now -= 2 * SECOND;
    }
    t.now += 4 * SECOND;
    way.site = SPAN("mx1.example 1/00"); /* its counter was put out: this is the first failure */
    path_failed(way);
    t.now += 2 * SECOND;
    path_failed(way);
    assert_int_equal(learn_count(t.l), 0);
    way.site = SPAN("mx3.example 1/00"); /* its third one */
    path_failed(way);
    t.now += 2 * SECOND;
    path_failed(way);
    assert_int_equal(learn_count(t.l), 1);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(when_its_time_is_over_one_recipient_at_a_time_may_probe),
        TEST(a_lease_ends_and_asking_again_renews_it),
        TEST(three_good_probes_forget),
        TEST(a_success_without_the_slot_counts_once_the_time_is_over),
        TEST(a_refused_probe_doubles_the_time_up_to_the_longest),
        TEST(the_probing_recipient_counts_though_the_clock_ran_back),
        TEST(a_probe_that_ends_without_a_verdict_frees_the_slot),
        TEST(one_result_counts_for_domain_and_site),
        TEST(one_refusal_renews_domain_and_site),
        TEST(what_still_holds_wins_over_what_is_due),
        TEST(a_path_is_learned_when_it_has_failed_often_enough),
        TEST(failures_further_apart_or_with_a_success_between_are_not_added_up),
        TEST(a_probe_that_meets_the_same_dead_path_renews_at_once),
        TEST(a_probe_of_a_refusal_that_meets_a_dead_path_is_no_verdict),
        TEST(counters_of_paths_are_bounded),
    };
    RUN_TESTS(tests);
}
