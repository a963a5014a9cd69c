/* The direct route as a whole: when it is down, who goes where meanwhile, and how it comes back. */
#include "tests/unit/daemon/schedule_rig.h"

#define DIRECT "transport_map: [{default: true, route: direct}]\n"
#define FALLBACK                                                                             \
    "hops: {us: {address: '198.51.100.250:465', implicit: true, tls: require}}\n"            \
    "transport_map: [{domains: [only.test], route: direct}, {default: true, route: direct, " \
    "fallback: [us]}]\n"
#define MANY 100000
#define HOSTS 9

static const char *const addresses[HOSTS] = {"x@a0.test", "x@a1.test", "x@a2.test",
                                             "x@a3.test", "x@a4.test", "x@a5.test",
                                             "x@a6.test", "x@a7.test", "x@a8.test"};
static const char *const hosts[HOSTS] = {"mx.a0.test", "mx.a1.test", "mx.a2.test",
                                         "mx.a3.test", "mx.a4.test", "mx.a5.test",
                                         "mx.a6.test", "mx.a7.test", "mx.a8.test"};
static struct outcome dead;

/* Every host has a network of its own. */
static void
start(const char *config)
{
    dead = path_failure("connection refused");
    for (uint32_t i = 0; i < HOSTS; i++)
        rig_name(hosts[i])->ip = 0x0b000001u + (i << 8);
    rig_schedule(config, MANY);
    rig_settle();
}

static bool
is_down(void)
{
    msec_t since_at, probe_at;
    const char *text;
    return schedule_direct_down(r.schedule, &since_at, &probe_at, &text);
}

/* A message for it, and nobody is there. */
static void
dies(size_t i, const struct outcome *o)
{
    rig_accept_one(addresses[i]);
    RIG_WAIT(conn_to(hosts[i], RIG_OPENING) != NULL);
    conn_failed(conn_to(hosts[i], RIG_OPENING), o);
    rig_settle();
}

static void
go_down(void)
{
    for (size_t i = 0; i < OUTAGE_SITES; i++) {
        assert_false(is_down());
        dies(i, &dead);
    }
    assert_true(is_down());
}

/* The probe that is opening; there is no other. */
static struct rig_conn *
the_probe(void)
{
    assert_int_equal(conns_in(RIG_OPENING), 1);
    return r.conns[r.n_conns - 1];
}

/* Let the moment of the probe come. */
static struct rig_conn *
probe_after(msec_t ms)
{
    size_t n = r.n_conns;
    rig_pass(ms - SECOND, MINUTE);
    assert_int_equal(r.n_conns, n);
    rig_pass(OUTAGE_GATHER_MS + 2 * SECOND, SECOND);
    assert_int_equal(r.n_conns, n + 1);
    return the_probe();
}

/* ---- down, and not down ---- */

static void
unrelated_dead_sites_take_the_route_down_until_a_probe_is_answered(void **state)
{
    (void)state;
    msec_t since_at, probe_at;
    const char *text;
    start(DIRECT);
    r.defer_ms = 7 * HOUR; /* of those who made an attempt */
    go_down();
    assert_int_equal(log_alerts_total(r.log), 1);
    assert_true(schedule_direct_down(r.schedule, &since_at, &probe_at, &text));
    assert_int_equal(since_at, clock_wall(r.clock));
    assert_int_equal(probe_at, since_at + MINUTE);
    assert_string_equal(text, "connection refused");
    assert_int_equal(r.last_probe_at, probe_at); /* who made the last attempt waits for it too */
    for (size_t i = 5; i < HOSTS; i++)
        rig_accept_one(addresses[i]);
    rig_settle();
    assert_int_equal(r.n_conns, 5); /* nobody else is tried */
    assert_int_equal(r.n_deferred, 5);
    assert_int_equal(rig_stats().scheduled, HOSTS);
    assert_int_equal(rig_numbers().in_hand, 0);

    struct rig_conn *probe = probe_after(MINUTE);
    rig_accept_one("x@late.test"); /* waits in hand for the probe under way */
    rig_settle();
    assert_int_equal(r.n_conns, 6);
    assert_true(is_down());
    assert_int_equal(rig_numbers().ready, 5);
    r.auto_ready = r.auto_end = true;
    conn_ready(probe);
    assert_false(is_down());
    RIG_WAIT(r.n_delivered == 5);
    assert_int_equal(r.n_deferred, 5);
    assert_int_equal(log_alerts_total(r.log), 1);
    struct site_info info;
    assert_true(schedule_site_find(r.schedule, "direct", hosts[0], &info));
    assert_int_equal(info.state, SITE_DOWN);
    assert_true(info.probe_at <= clock_wall(r.clock)); /* probed by the first one who comes */
    rig_accept_one(addresses[0]);
    RIG_WAIT(r.n_delivered == 6);
}

static void
one_provider_is_not_the_world(void **state)
{
    (void)state;
    char address[32];
    start(DIRECT);
    for (int i = 0; i < 10; i++) { /* without an entry all hosts are in one network */
        snprintf(address, sizeof(address), "x@b%d.test", i);
        rig_accept_one(address);
        RIG_WAIT(conns_in(RIG_OPENING) == 1);
        conn_failed(r.conns[r.n_conns - 1], &dead);
        rig_settle();
    }
    assert_int_equal(r.n_deferred, 10);
    for (size_t i = 0; i < 3; i++)
        dies(i, &dead);
    assert_false(is_down()); /* four networks */
    dies(3, &dead);
    assert_true(is_down());
}

static void
who_is_reached_starts_the_count_anew(void **state)
{
    (void)state;
    struct outcome words = path_failure("try later"), lost = path_failure("closed"),
                   dns = path_failure("no address");
    words.path = false;
    words.origin = ORIGIN_PEER;
    words.phase = "greeting";
    words.code = 421;
    lost.phase = "ehlo";
    dns.origin = ORIGIN_DNS;
    const struct {
        const struct outcome *end; /* NULL: ready */
        bool reached;
    } cases[] = {{NULL, true}, {&words, true}, {&lost, true}, {&dns, false}};
    start(DIRECT);
    for (size_t k = 0; k < N_ELEMENTS(cases); k++) {
        for (size_t i = 0; i < 4; i++)
            dies(i, &dead);
        assert_false(is_down());
        if (cases[k].end != NULL) {
            dies(5, cases[k].end);
        } else {
            rig_accept_one(addresses[5]);
            RIG_WAIT(conn_to(hosts[5], RIG_OPENING) != NULL);
            conn_ready(conn_to(hosts[5], RIG_OPENING));
            conn_end(conn_to(hosts[5], RIG_BUSY), &r.end, false);
            conn_closed(conn_to(hosts[5], RIG_READY));
        }
        dies(4, &dead);
        if (is_down() == cases[k].reached)
            fail_msg("case %zu", k);
        rig_verb(0, QUEUE_FINISH);
        rig_pass(OUTAGE_WINDOW_MS + MINUTE, MINUTE); /* and all of them may be tried again */
    }
}

static void
failures_count_for_a_while_and_each_site_once(void **state)
{
    (void)state;
    start(DIRECT);
    r.defer_ms = 7 * HOUR;
    for (size_t i = 0; i < 4; i++)
        dies(i, &dead);
    rig_pass(OUTAGE_WINDOW_MS + SECOND, MINUTE);
    for (size_t i = 3; i < 7; i++)
        dies(i, &dead); /* a3 for the second time */
    assert_false(is_down());
    dies(7, &dead);
    assert_true(is_down());
}

/* ---- while it is down ---- */

static void
mail_with_another_route_takes_it_without_a_try(void **state)
{
    (void)state;
    start(FALLBACK);
    r.reroute = true;
    go_down();
    assert_int_equal(r.n_rerouted, 5);
    rig_accept_one(addresses[5]);
    rig_accept_one("x@only.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 6); /* all at the hop */
    for (size_t i = 0; i < r.n_conns; i++)
        assert_true(r.conns[i]->state == RIG_GONE || r.conns[i]->is_hop);
    r.auto_ready = r.auto_end = true;
    for (size_t i = 0; i < r.n_conns; i++)
        if (r.conns[i]->state == RIG_OPENING)
            conn_ready(r.conns[i]);
    RIG_WAIT(r.n_delivered == 6);
    rig_settle();
    assert_int_equal(rig_stats().scheduled, 1);
    r.auto_ready = false;
    struct rig_conn *probe = probe_after(MINUTE);
    assert_string_equal(probe->site, "mx.only.test");
    rig_accept_one(addresses[6]); /* does not wait for the probe either */
    RIG_WAIT(r.n_delivered == 7);
    assert_int_equal(conns_in(RIG_OPENING), 1);
    assert_true(is_down());
}

static void
probes_grow_rarer_and_go_round(void **state)
{
    (void)state;
    static const int minutes[] = {1, 2, 4, 8, 16, 30, 30};
    char last[256] = "";
    start(DIRECT);
    r.defer_ms = 7 * HOUR;
    go_down();
    for (size_t i = 5; i < HOSTS; i++)
        for (int k = 0; k < 4; k++)
            rig_accept_one(addresses[i]);
    rig_settle();
    for (size_t i = 0; i < N_ELEMENTS(minutes); i++) {
        struct rig_conn *probe = probe_after(minutes[i] * MINUTE);
        assert_string_not_equal(probe->site, last);
        snprintf(last, sizeof(last), "%s", probe->site);
        assert_int_equal(rig_stats().recipients - r.n_deferred, rig_numbers().ready);
        conn_failed(probe, &dead);
        rig_settle();
        assert_int_equal(rig_numbers().in_hand, 0); /* back to the queue, untried */
        assert_int_equal(r.n_deferred, 5 + i + 1);  /* but for the probe's */
        assert_int_equal(r.last_probe_at,
                         clock_wall(r.clock) + minutes[i + 1 < 7 ? i + 1 : i] * MINUTE);
    }
    assert_int_equal(log_alerts_total(r.log), 1);
}

static void
the_overdue_have_made_the_attempt_that_failed_last(void **state)
{
    (void)state;
    start(DIRECT);
    rig_pass(MINUTE, MINUTE);
    msec_t tried_at = clock_wall(r.clock);
    go_down();
    rig_pass(30 * SECOND, SECOND);
    r.overdue = true;
    rig_accept_one(addresses[6]);
    RIG_WAIT(r.n_deferred == 6);
    assert_string_equal(r.last_text, "connection refused");
    assert_string_equal(r.last_site, hosts[6]);
    assert_int_equal(r.last_begun_at, tried_at);
    assert_int_equal(r.n_conns, 5);
}

static void
what_was_opening_may_show_that_it_is_no_outage(void **state)
{
    (void)state;
    start(DIRECT);
    rig_accept_one(addresses[7]);
    rig_accept_one(addresses[8]);
    RIG_WAIT(conns_in(RIG_OPENING) == 2);
    struct rig_conn *good = conn_to(hosts[7], RIG_OPENING), *bad = conn_to(hosts[8], RIG_OPENING);
    go_down();
    rig_accept_one(addresses[6]);
    rig_settle();
    conn_failed(bad, &dead); /* one more */
    rig_settle();
    assert_true(is_down());
    assert_int_equal(r.n_conns, 7);
    conn_ready(good);
    assert_false(is_down());
    r.auto_ready = r.auto_end = true;
    conn_end(good, &r.end, false);
    rig_pass(6 * MINUTE, MINUTE);
    RIG_WAIT(rig_finished());
}

static void
what_was_looked_up_meanwhile_is_not_opened(void **state)
{
    (void)state;
    start(DIRECT);
    rig_name(hosts[7])->rcode = -1; /* its address is a while in coming */
    rig_accept_one(addresses[7]);
    RIG_WAIT(rig_numbers().ready == 1);
    go_down();
    assert_int_equal(rig_numbers().ready, 1);
    rig_name(hosts[7])->rcode = 0;
    for (int i = 0; i < 20 && rig_numbers().in_hand > 0; i++)
        rig_pass(SECOND, SECOND);
    assert_int_equal(rig_numbers().in_hand, 0); /* waits in the queue */
    assert_int_equal(r.n_conns, 5);
    assert_true(is_down());
}

static void
mail_that_waits_for_a_connection_of_its_site_leaves_with_it(void **state)
{
    (void)state;
    start("shaping: {providers: [{mx: [mx.a8.test], max_connections: 1}], default: {max_rate: "
          "none}}\n" DIRECT);
    rig_accept_one(addresses[8]);
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[0]);
    go_down();
    r.conns[0]->quit = true; /* it has carried as many messages as it may */
    assert_int_equal(rig_numbers().busy, 1);
    rig_accept_one(addresses[8]); /* not even by the connection that is there */
    rig_settle();
    assert_int_equal(rig_numbers().ready, 0);
    conn_end(r.conns[0], &r.end, false);
    rig_settle();
    assert_int_equal(rig_numbers().in_hand, 0);
    assert_int_equal(r.n_conns, 6);
    assert_true(is_down());
}

/* ---- the probe ---- */

static void
a_probe_without_mail_is_followed_by_another(void **state)
{
    (void)state;
    start(DIRECT);
    r.defer_ms = 7 * HOUR;
    go_down();
    rig_name(hosts[5])->rcode = -1;
    uint64_t id = rig_accept_one(addresses[5]);
    rig_settle();
    rig_pass(MINUTE + OUTAGE_GATHER_MS + SECOND, MINUTE);
    assert_int_equal(rig_numbers().connections, 1); /* a look-up */
    rig_accept_one(addresses[6]);
    rig_settle();
    assert_int_equal(rig_verb(id, QUEUE_FINISH), 1);
    rig_name(hosts[5])->rcode = 0;
    for (int i = 0; i < 30 && conns_in(RIG_OPENING) == 0; i++)
        rig_pass(SECOND, SECOND);
    assert_string_equal(the_probe()->site, hosts[6]);
    assert_true(is_down());
    /* And nobody waits at all. */
    conn_failed(the_probe(), &dead);
    rig_settle();
    rig_verb(0, QUEUE_FINISH);
    rig_pass(10 * MINUTE, MINUTE);
    assert_int_equal(r.n_conns, 6);
    rig_accept_one(addresses[7]); /* the next one who comes is the probe */
    rig_pass(OUTAGE_GATHER_MS + SECOND, SECOND);
    assert_string_equal(the_probe()->site, hosts[7]);
}

static void
a_site_that_is_down_itself_may_be_the_probe(void **state)
{
    (void)state;
    start(DIRECT);
    r.defer_ms = 7 * HOUR;
    go_down();
    rig_accept_one(addresses[0]);
    rig_settle();
    struct rig_conn *probe = probe_after(MINUTE); /* sooner than its own one */
    assert_string_equal(probe->site, hosts[0]);
    r.auto_end = true;
    conn_ready(probe);
    assert_false(is_down());
    RIG_WAIT(r.n_delivered == 1);
}

static void
a_reload_probes_at_once(void **state)
{
    (void)state;
    start(DIRECT);
    go_down();
    rig_accept_one(addresses[5]);
    rig_settle();
    conn_failed(probe_after(MINUTE), &dead);
    rig_settle();
    struct config *old = r.config;
    r.config = rig_config(DIRECT);
    facts_set_config(r.facts, r.config);
    schedule_set_policy(r.schedule, &(struct schedule_policy){.config = r.config});
    config_free(old);
    rig_accept_one(addresses[6]);
    rig_pass(OUTAGE_GATHER_MS + SECOND, SECOND);
    struct rig_conn *probe = the_probe();
    assert_string_equal(probe->site, hosts[6]);
    r.auto_end = true;
    conn_ready(probe);
    assert_false(is_down());
}

static void
a_retry_is_the_probe_of_the_route(void **state)
{
    (void)state;
    start(DIRECT);
    go_down();
    uint64_t id = rig_accept_one(addresses[5]);
    rig_settle();
    rig_pass(10 * SECOND, SECOND); /* a minute is to go */
    assert_int_equal(r.n_conns, 5);
    assert_int_equal(rig_verb(id, QUEUE_DEFER), 1);
    rig_pass(OUTAGE_GATHER_MS + SECOND, SECOND);
    assert_int_equal(r.n_conns, 6);
    conn_failed(the_probe(), &dead);
    rig_pass(20 * SECOND, SECOND);
    assert_int_equal(r.n_conns, 6); /* once */
    rig_accept_one(addresses[5]);
    rig_settle();
    assert_int_equal(r.n_conns, 6);
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        T(unrelated_dead_sites_take_the_route_down_until_a_probe_is_answered),
        T(one_provider_is_not_the_world),
        T(who_is_reached_starts_the_count_anew),
        T(failures_count_for_a_while_and_each_site_once),
        T(mail_with_another_route_takes_it_without_a_try),
        T(probes_grow_rarer_and_go_round),
        T(the_overdue_have_made_the_attempt_that_failed_last),
        T(what_was_opening_may_show_that_it_is_no_outage),
        T(what_was_looked_up_meanwhile_is_not_opened),
        T(mail_that_waits_for_a_connection_of_its_site_leaves_with_it),
        T(a_probe_without_mail_is_followed_by_another),
        T(a_site_that_is_down_itself_may_be_the_probe),
        T(a_reload_probes_at_once),
        T(a_retry_is_the_probe_of_the_route),
    };
    RUN_TESTS(tests);
}
