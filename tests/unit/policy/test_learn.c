/* What is learned and for whom, reroutes, clocks and room. */
#include "tests/unit/policy/learn_rig.h"

/* ---- what is learned, and for whom ---- */

static void
a_refusal_at_rcpt_is_learned_for_the_domain_alone(void **state)
{
    (void)state;
    assert_int_equal(advice(direct("a.test", 1)), LEARN_FREE);
    refuse(direct("a.test", 1));
    assert_int_equal(t.n[LEARN_LEARNED], 1);
    assert_int_equal(t.last.scope, LEARN_DOMAIN);
    assert_string_equal(t.last_name, "a.test");
    assert_string_equal(t.last.to, "us");
    assert_string_equal(t.last.klass, "ip-blocklisted");
    assert_string_equal(t.last.text, "blocked");
    assert_int_equal(t.last.code, 550);
    assert_int_equal(t.last.until_at, T0 + TTL);
    assert_int_equal(advice(direct("a.test", 2)), LEARN_AVOID);
    assert_int_equal(scope_that_decides(direct("a.test", 2)), LEARN_DOMAIN);
    assert_int_equal(advice(direct("b.test", 2)), LEARN_FREE);
    /* nor by another route */
    assert_int_equal(advice(through_hop("a.test", 2)), LEARN_FREE);
}

static void
a_refusal_before_rcpt_is_learned_for_the_site(void **state)
{
    (void)state;
    refuse_early(direct("a.test", 1));
    assert_int_equal(learn_count(t.l), 1);
    assert_int_equal(t.last.scope, LEARN_SITE);
    assert_int_equal(advice(direct("other.test", 2)), LEARN_AVOID);
    assert_int_equal(scope_that_decides(direct("other.test", 2)), LEARN_SITE);
    struct learn_way elsewhere = direct("other.test", 2);
    elsewhere.site = SPAN("mx.elsewhere.example 1/00");
    assert_int_equal(advice(elsewhere), LEARN_FREE);
}

static void
through_a_hop_only_refusals_of_recipients_are_learned(void **state)
{
    (void)state;
    refuse_early(through_hop("a.test", 1));
    path_failed(through_hop("a.test", 1));
    assert_int_equal(learn_count(t.l), 0);
    refuse(through_hop("a.test", 1));
    assert_int_equal(learn_count(t.l), 1);
    assert_int_equal(t.last.scope, LEARN_DOMAIN);
    assert_int_equal(advice(through_hop("a.test", 2)), LEARN_AVOID);
    /* hops have no site on which two domains could agree */
    refuse(through_hop("b.test", 3));
    assert_int_equal(learn_count(t.l), 2);
    assert_int_equal(t.last.scope, LEARN_DOMAIN);
}

static void
two_domains_that_agree_teach_their_site(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    refuse(direct("a.test", 2)); /* the same one does not agree with itself */
    assert_int_equal(learn_count(t.l), 1);
    t.now += HOUR;
    refuse(direct("b.test", 3));
    assert_int_equal(learn_count(t.l), 3);
    assert_int_equal(t.last.scope, LEARN_SITE);
    assert_int_equal(advice(direct("c.test", 4)), LEARN_AVOID);
}

static void
domains_of_different_sites_routes_or_times_do_not_agree(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    struct learn_way elsewhere = direct("b.test", 2);
    elsewhere.site = SPAN("mx.elsewhere.example 1/00");
    refuse(elsewhere);
    struct learn_way other_route = direct("c.test", 3);
    other_route.route = SPAN("jp");
    refuse(other_route);
    t.now += TTL; /* what a.test was told is over */
    refuse(direct("d.test", 4));
    assert_int_equal(learn_count(t.l), 4);
    assert_int_equal(t.last.scope, LEARN_DOMAIN);
}

static void
a_domain_that_moved_agrees_with_its_new_site(void **state)
{
    (void)state;
    struct learn_way before = direct("a.test", 1);
    before.site = SPAN("mx.old.example 1/00");
    refuse(before);
    refuse(direct("a.test", 2));
    refuse(direct("b.test", 3));
    assert_int_equal(learn_count(t.l), 3);
    assert_int_equal(t.last.scope, LEARN_SITE);
    assert_string_equal(t.last_name, SITE);
}

static void
what_is_keyed_to_our_address_is_learned_for_the_site_too(void **state)
{
    (void)state;
    struct learn_reply reply = at_rcpt;
    struct learn_way way = direct("a.test", 1);
    reply.scope_ip = true;
    learn_refused(t.l, &way, &reply, t.now);
    assert_int_equal(learn_count(t.l), 2);
    assert_int_equal(advice(direct("b.test", 2)), LEARN_AVOID);
    way = through_hop("a.test", 1);
    learn_refused(t.l, &way, &reply, t.now);
    assert_int_equal(learn_count(t.l), 3);
}

static void
a_rate_limit_is_never_learned(void **state)
{
    (void)state;
    struct learn_reply reply = early();
    struct learn_way way = direct("a.test", 1);
    reply.klass = SPAN("rate-limited");
    reply.scope_ip = true;
    learn_refused(t.l, &way, &reply, t.now);
    reply.early = false;
    learn_refused(t.l, &way, &reply, t.now);
    assert_int_equal(learn_count(t.l), 0);
    /* and to a probe it is no verdict: the next one may go */
    refuse(way);
    t.now += TTL;
    assert_true(probe(way));
    learn_refused(t.l, &way, &reply, t.now);
    assert_int_equal(t.n[LEARN_RENEWED], 0);
    assert_int_equal(advice(direct("a.test", 2)), LEARN_PROBE);
}

static void
mail_in_flight_only_brings_the_newest_reply(void **state)
{
    (void)state;
    struct learn_reply reply = at_rcpt;
    struct learn_way way = direct("a.test", 2);
    const struct learn_entry *e;

    refuse(direct("a.test", 1));
    t.now += TTL - 1;
    reply.klass = SPAN("geo-blocked");
    reply.text = SPAN("go away");
    reply.to = SPAN("jp");
    learn_refused(t.l, &way, &reply, t.now);
    deliver(direct("a.test", 3));
    assert_int_equal(learn_advise(t.l, &way, t.now, &e), LEARN_AVOID);
    assert_string_equal(e->klass, "geo-blocked");
    assert_string_equal(e->text, "go away");
    assert_string_equal(e->to, "jp");
    assert_int_equal(e->until_at, T0 + TTL);
    assert_int_equal(e->good, 0);
    assert_int_equal(t.n[LEARN_RENEWED] + t.n[LEARN_GOOD], 0);
}

static void
a_reply_is_kept_short_and_whole(void **state)
{
    (void)state;
    struct learn_reply reply = at_rcpt;
    struct learn_way way = direct("a.test", 1);
    char text[300];
    memset(text, 'x', sizeof(text));
    memcpy(text + LEARN_TEXT_MAX - 1, "\xe4\xb8\xad", 3); /* cut through a character */
    reply.text = span_of(text, sizeof(text));
    learn_refused(t.l, &way, &reply, t.now);
    assert_int_equal(strlen(t.last.text), LEARN_TEXT_MAX - 1);
    reply.text = span_of(text, LEARN_TEXT_MAX - 1);
    way.domain = SPAN("b.test");
    learn_refused(t.l, &way, &reply, t.now);
    assert_int_equal(strlen(t.last.text), LEARN_TEXT_MAX - 1);
}

/* ---- reroutes ---- */

static bool
may(const char *from, const char *to, bool *alert)
{
    return learn_may_reroute(t.l, span_str(from), span_str(to), t.now, alert);
}

static void
refusals_move_so_many_recipients_and_no_more(void **state)
{
    (void)state;
    bool alert;
    for (int i = 0; i < 200; i++) {
        assert_true(may("direct", "us", &alert));
        assert_false(alert);
        t.now += SECOND;
    }
    assert_false(may("direct", "us", &alert));
    assert_true(alert);
    assert_false(may("direct", "us", &alert));
    assert_false(alert);                      /* once in a window */
    assert_true(may("direct", "jp", &alert)); /* each pair by itself */
    assert_true(may("us", "direct", &alert));
    t.now += HOUR - 201 * SECOND;
    assert_false(may("direct", "us", &alert));
    t.now += 10 * MINUTE;
    assert_true(may("direct", "us", &alert));
}

static void
no_window_however_it_lies_sees_more_than_the_rate(void **state)
{
    (void)state;
    static msec_t at[4000];
    size_t n = 0, first = 0, most = 0, alerts = 0;
    bool alert;
    for (; t.now < T0 + 10 * HOUR; t.now += 7 * SECOND) { /* asks 514 times an hour */
        if (may("direct", "us", &alert)) {
            at[n++] = t.now;
            while (at[first] <= t.now - HOUR)
                first++;
            most = n - first > most ? n - first : most;
        }
        alerts += alert;
    }
    assert_int_equal(most, 200);
    assert_in_range(n, 1700, 2000); /* and not much less than it in the long run */
    assert_in_range(alerts, 5, 10);
}

static void
without_a_limit_there_is_none_and_a_new_one_holds(void **state)
{
    (void)state;
    bool alert;
    t.config.max_reroutes = (struct rate){0, 0};
    learn_set_config(t.l, &t.config);
    for (int i = 0; i < 1000; i++)
        assert_true(may("direct", "us", &alert));
    t.config.max_reroutes = (struct rate){2, SECOND};
    learn_set_config(t.l, &t.config);
    assert_true(may("direct", "us", &alert));
    assert_true(may("direct", "us", &alert));
    assert_false(may("direct", "us", &alert));
    t.config.max_reroutes = (struct rate){3, MINUTE};
    learn_set_config(t.l, &t.config);
    for (int i = 0; i < 3; i++)
        assert_true(may("direct", "us", &alert));
    assert_false(may("direct", "us", &alert));
}

static void
a_clock_that_jumps_does_not_stop_reroutes_for_ever(void **state)
{
    (void)state;
    bool alert;
    while (may("direct", "us", &alert))
        continue;
    t.now -= 2 * MINUTE; /* a little back: still the same window */
    assert_false(may("direct", "us", &alert));
    t.now -= 30 * DAY;
    assert_true(may("direct", "us", &alert));
    while (may("direct", "us", &alert))
        continue;
    assert_true(alert);
    t.now += 300 * DAY;
    assert_true(may("direct", "us", &alert));
}

/* ---- clocks, sweeping, room ---- */

static void
an_end_that_is_absurdly_far_is_pulled_in(void **state)
{
    (void)state;
    t.now = T0 + 900 * DAY; /* a clock that was wrong */
    refuse(direct("a.test", 1));
    t.now = T0;
    assert_int_equal(advice(direct("a.test", 2)), LEARN_AVOID);
    assert_int_equal(t.n[LEARN_PULLED_IN], 1);
    assert_int_equal(t.last.until_at, T0 + TTL);
    t.now += TTL;
    assert_int_equal(advice(direct("a.test", 2)), LEARN_PROBE);
    assert_int_equal(t.n[LEARN_PULLED_IN], 1);
}

static void
a_shorter_longest_time_holds_for_what_is_there(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    t.config.ttl_ms = t.config.max_ttl_ms = HOUR;
    learn_set_config(t.l, &t.config);
    assert_int_equal(advice(direct("a.test", 2)), LEARN_AVOID);
    assert_int_equal(t.last.until_at, T0 + HOUR);
    t.now += HOUR;
    refuse(direct("a.test", 2));
    assert_int_equal(t.last.ttl_ms, HOUR);
}

static void
what_nobody_probes_is_swept(void **state)
{
    (void)state;
    refuse(direct("a.test", 1));
    t.now += HOUR;
    refuse(through_hop("b.test", 2));
    t.now = T0 + TTL + MAX_TTL - 1;
    assert_int_equal(learn_sweep(t.l, t.now, 9), 0);
    t.now += 1;
    assert_int_equal(learn_sweep(t.l, t.now, 9), 1);
    assert_int_equal(t.n[LEARN_SWEPT], 1);
    assert_string_equal(t.last_name, "a.test");
    assert_int_equal(advice(direct("a.test", 3)), LEARN_FREE);
    assert_int_equal(advice(through_hop("b.test", 3)), LEARN_PROBE);
    refuse(direct("c.test", 4));
    t.now += 30 * DAY; /* no more at a time than asked for */
    assert_int_equal(learn_sweep(t.l, t.now, 1), 1);
    assert_int_equal(learn_sweep(t.l, t.now, 1), 1);
    assert_int_equal(learn_sweep(t.l, t.now, 1), 0);
}

static void
a_full_table_puts_out_what_ends_first(void **state)
{
    (void)state;
    char name[64];
    for (size_t i = 0; i < LEARN_ENTRIES_MAX; i++) {
        snprintf(name, sizeof(name), "d%zu.test", i);
        t.now = T0 + (msec_t)(i * 7919 % LEARN_ENTRIES_MAX); /* in no order */
        refuse(through_hop(name, 1));
    }
    assert_int_equal(t.n[LEARN_EVICTED], 0);
    t.now = T0 + HOUR;
    refuse(through_hop("one.test", 1));
    assert_int_equal(t.n[LEARN_EVICTED], 1);
    assert_int_equal(learn_count(t.l), LEARN_ENTRIES_MAX);
    assert_int_equal(advice(through_hop("d0.test", 1)), LEARN_FREE);
    assert_int_equal(advice(through_hop("d1.test", 1)), LEARN_AVOID);
    assert_int_equal(advice(through_hop("one.test", 1)), LEARN_AVOID);
    /* and they are swept in the order of their times */
    for (msec_t first = T0 + 1; t.n[LEARN_SWEPT] < 1000; first++) {
        size_t n = t.n[LEARN_SWEPT];
        learn_sweep(t.l, first + TTL + MAX_TTL, 9);
        assert_int_equal(t.n[LEARN_SWEPT], n + 1);
        assert_int_equal(t.last.since_at, first);
    }
}

static void
the_administrator_can_forget_a_domain_or_a_site(void **state)
{
    (void)state;
    struct learn_way elsewhere = direct("a.test", 9);
    elsewhere.site = SPAN("mx.elsewhere.example 1/00");
    elsewhere.label = SPAN("mx.elsewhere.example");
    refuse_early(elsewhere);
    refuse(through_hop("a.test", 3));
    refuse(direct("b.test", 2));
    refuse_early(direct("c.test", 5));
    assert_int_equal(learn_count(t.l), 4);
    assert_int_equal(learn_forget(t.l, SPAN("c.test")), 0); /* nothing tells of its site */
    assert_int_equal(learn_forget(t.l, SPAN("A.test")), 1);
    assert_int_equal(t.n[LEARN_REMOVED], 1);
    assert_int_equal(advice(direct("a.test", 4)), LEARN_AVOID); /* by the site */
    assert_int_equal(learn_forget(t.l, SPAN("mx1.qq.example")), 1);
    assert_int_equal(t.last.scope, LEARN_SITE);
    assert_int_equal(advice(direct("a.test", 4)), LEARN_FREE);
    assert_int_equal(advice(direct("b.test", 4)), LEARN_AVOID);
    assert_int_equal(learn_forget(t.l, elsewhere.site), 1);
    assert_int_equal(learn_count(t.l), 1);
}

static void
forgetting_a_domain_forgets_its_site_by_that_route_too(void **state)
{
    (void)state;
    struct learn_way other_route = direct("x.test", 9), elsewhere = direct("y.test", 9);
    other_route.route = SPAN("jp");
    refuse_early(other_route);
    elsewhere.site = SPAN("mx.elsewhere.example 1/00");
    refuse_early(elsewhere);
    refuse(direct("a.test", 1));
    refuse(direct("b.test", 2));
    assert_int_equal(learn_count(t.l), 5);
    assert_int_equal(learn_forget(t.l, SPAN("a.test")), 2);
    assert_int_equal(advice(direct("a.test", 3)), LEARN_FREE);
    assert_int_equal(advice(direct("b.test", 3)), LEARN_AVOID);
    assert_int_equal(advice(other_route), LEARN_AVOID);
    assert_int_equal(advice(elsewhere), LEARN_AVOID);
}

static void
names_beyond_the_limits_are_not_learned(void **state)
{
    (void)state;
    char name[LEARN_NAME_MAX + 2];
    struct learn_way way = direct("a.test", 1);
    memset(name, 'x', sizeof(name));
    way.domain = span_of(name, 254);
    refuse(way);
    way = direct("a.test", 1);
    way.site = span_of(name, LEARN_NAME_MAX + 1);
    refuse_early(way);
    for (int i = 0; i < 5; i++, t.now += MINUTE)
        path_failed(way);
    way = direct("a.test", 1);
    way.route = span_of(name, LEARN_ROUTE_MAX + 1);
    refuse(way);
    assert_int_equal(learn_count(t.l), 0);
    way = direct("a.test", 1);
    way.domain = span_of(name, 253);
    way.site = span_of(name, LEARN_NAME_MAX);
    way.route = span_of(name, LEARN_ROUTE_MAX);
    refuse(way);
    refuse_early(way);
    assert_int_equal(learn_count(t.l), 2);
    assert_int_equal(advice(way), LEARN_AVOID);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_refusal_at_rcpt_is_learned_for_the_domain_alone),
        TEST(a_refusal_before_rcpt_is_learned_for_the_site),
        TEST(through_a_hop_only_refusals_of_recipients_are_learned),
        TEST(two_domains_that_agree_teach_their_site),
        TEST(domains_of_different_sites_routes_or_times_do_not_agree),
        TEST(a_domain_that_moved_agrees_with_its_new_site),
        TEST(what_is_keyed_to_our_address_is_learned_for_the_site_too),
        TEST(a_rate_limit_is_never_learned),
        TEST(mail_in_flight_only_brings_the_newest_reply),
        TEST(a_reply_is_kept_short_and_whole),
        TEST(refusals_move_so_many_recipients_and_no_more),
        TEST(no_window_however_it_lies_sees_more_than_the_rate),
        TEST(without_a_limit_there_is_none_and_a_new_one_holds),
        TEST(a_clock_that_jumps_does_not_stop_reroutes_for_ever),
        TEST(an_end_that_is_absurdly_far_is_pulled_in),
        TEST(a_shorter_longest_time_holds_for_what_is_there),
        TEST(what_nobody_probes_is_swept),
        TEST(a_full_table_puts_out_what_ends_first),
        TEST(the_administrator_can_forget_a_domain_or_a_site),
        TEST(forgetting_a_domain_forgets_its_site_by_that_route_too),
        TEST(names_beyond_the_limits_are_not_learned),
    };
    RUN_TESTS(tests);
}
