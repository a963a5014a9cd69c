/* Fallbacks, dead hops, suspensions, verbs, reload and stop: what changes a recipient's way. */
#include "tests/unit/daemon/schedule_rig.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>

#define DIRECT "transport_map: [{default: true, route: direct}]\n"
#define HOPS                                                                                   \
    "hops: {us: {address: '198.51.100.250:465', implicit: true, tls: require}, jp: {address: " \
    "jp.example, tls: require}}\n"
#define FALLBACK HOPS "transport_map: [{default: true, route: direct, fallback: [us]}]\n"
#define BY_HOP HOPS "transport_map: [{default: true, route: us}]\n"
#define MANY 100000

static void
start(const char *config, size_t max_connections)
{
    rig_schedule(config, max_connections);
    rig_settle();
}

static struct site_info
site_of(const char *route, const char *name)
{
    struct site_info info;
    assert_true(schedule_site_find(r.schedule, route, name, &info));
    return info;
}

/* The store's readers wait here once they have their snapshot. */
static pthread_mutex_t reader_gate = PTHREAD_MUTEX_INITIALIZER;
static atomic_int n_snapshots;
static pthread_t test_thread;

int
mdb_txn_renew(MDB_txn *txn)
{
    static int (*real)(MDB_txn *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "mdb_txn_renew");
    int rc = real(txn);
    if (pthread_equal(pthread_self(), test_thread))
        return rc;
    n_snapshots++;
    pthread_mutex_lock(&reader_gate);
    pthread_mutex_unlock(&reader_gate);
    return rc;
}

/* ---- another route ---- */

static void
a_path_failure_takes_the_fallback_at_once(void **state)
{
    (void)state;
    struct outcome dead = path_failure("connection refused");
    start(FALLBACK, MANY);
    r.reroute = r.auto_end = true;
    rig_accept_one("a@one.test");
    rig_accept_one("b@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 2);
    assert_true(r.conns[0]->has_fallback);
    conn_failed(r.conns[0], &dead);
    conn_failed(r.conns[1], &dead);
    RIG_WAIT(conn_to("us", RIG_OPENING) != NULL);
    struct rig_conn *us = conn_to("us", RIG_OPENING);
    assert_true(us->is_hop);
    assert_int_equal(us->port, 465);
    assert_int_equal(us->tls, CONFIG_TLS_REQUIRE);
    for (size_t i = 2; i < r.n_conns; i++)
        conn_ready(r.conns[i]);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_deferred, 0);
    assert_int_equal(r.n_rerouted, 1); /* the other one had not been tried */
    assert_int_equal(r.n_delivered, 2);
    rig_accept_one("c@one.test"); /* and as long as it is down */
    RIG_WAIT(rig_finished());
    assert_null(conn_to("mx.one.test", RIG_OPENING));
}

static void
dns_trouble_takes_no_fallback(void **state)
{
    (void)state;
    rig_name("one.test")->rcode = 2;
    start(FALLBACK, MANY);
    r.reroute = true;
    rig_accept_one("a@one.test");
    RIG_WAIT(r.n_deferred == 1);
    rig_settle();
    assert_int_equal(r.n_conns, 0);
    /* Nor when the MX has an answer, and its address has none. */
    rig_name("mx.two.test")->rcode = 2;
    rig_accept_one("a@two.test");
    RIG_WAIT(r.n_deferred == 2);
    assert_int_equal(site_of("direct", "mx.two.test").state, SITE_DOWN);
    rig_accept_one("b@two.test");
    rig_settle();
    assert_int_equal(r.n_conns, 0);
    assert_int_equal(rig_stats().scheduled, 3);
    assert_int_equal(r.n_deferred, 2); /* it waits, untried */
}

static void
hosts_that_only_say_later_keep_their_mail(void **state)
{
    (void)state;
    struct outcome later;
    outcome_set(&later, OUTCOME_DEFERRED, ORIGIN_PEER, "greeting", "4.3.2", "try later");
    start(FALLBACK, MANY);
    r.reroute = true;
    rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_failed(r.conns[0], &later);
    rig_accept_one("b@one.test");
    rig_settle();
    assert_int_equal(r.n_conns, 1);
    assert_int_equal(rig_stats().scheduled, 2);
}

static void
a_domain_that_does_not_exist_fails_all_its_recipients_together(void **state)
{
    (void)state;
    rig_name("nx.test")->rcode = 3;
    start(DIRECT, MANY);
    rig_accept((const char *const[]){"a@nx.test", "b@nx.test", "c@nx.test", NULL});
    RIG_WAIT(r.n_failed == 3);
    assert_int_equal(r.n_batches, 1);
    assert_non_null(strstr(r.last_text, "does not exist"));
    assert_string_equal(r.last_route, "direct");
    RIG_WAIT(rig_finished());
}

static void
a_host_without_an_address_fails_its_mail(void **state)
{
    (void)state;
    rig_name("mx.one.test")->no_address = true;
    start(DIRECT, MANY);
    rig_accept_one("a@one.test");
    rig_accept_one("b@one.test");
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_failed, 2);
    assert_int_equal(r.n_conns, 0);
}

static void
with_every_route_down_mail_waits_uncounted(void **state)
{
    (void)state;
    struct outcome dead = path_failure("connection refused");
    start(FALLBACK, MANY);
    r.reroute = true;
    rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_failed(r.conns[0], &dead);
    RIG_WAIT(conn_to("us", RIG_OPENING) != NULL);
    conn_failed(conn_to("us", RIG_OPENING), &dead);
    RIG_WAIT(r.n_deferred == 1);
    rig_accept_one("b@one.test");
    rig_settle();
    assert_int_equal(r.n_deferred, 1);
    assert_int_equal(rig_stats().scheduled, 2);
    assert_int_equal(rig_numbers().in_hand, 0);
    /* One whose warning or deadline is past: the site's failure is its own. */
    r.overdue = true;
    rig_accept_one("c@one.test");
    RIG_WAIT(r.n_deferred == 2);
    assert_string_equal(r.last_text, "connection refused");
    assert_string_equal(r.last_site, "mx.one.test");
}

static void
a_dead_hop_is_probed_at_growing_intervals(void **state)
{
    (void)state;
    static const int minutes[] = {1, 2, 4, 8, 16, 30, 30};
    struct outcome dead = path_failure("AUTH refused");
    start(BY_HOP, MANY);
    r.defer_ms = 7 * HOUR; /* those who made the attempt */
    for (int i = 0; i < 12; i++)
        rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 10); /* hops.*.max_connections */
    for (int i = 0; i < 10; i++)
        conn_failed(r.conns[i], &dead);
    for (size_t i = 0; i < N_ELEMENTS(minutes); i++) {
        rig_settle();
        assert_int_equal(site_of("us", "us").state, SITE_DOWN);
        size_t n = r.n_conns;
        rig_pass(minutes[i] * MINUTE - SECOND, MINUTE);
        assert_int_equal(r.n_conns, n);
        rig_pass(2 * SECOND, SECOND);
        assert_int_equal(r.n_conns, n + 1); /* one probe */
        conn_failed(r.conns[n], &dead);
    }
    rig_pass(30 * MINUTE + SECOND, MINUTE);
    conn_ready(r.conns[r.n_conns - 1]);
    assert_int_equal(site_of("us", "us").state, SITE_UP);
    assert_int_equal(site_of("us", "us").n_busy, 1);
}

static void
trouble_after_mail_takes_the_hop_down_with_all_its_connections(void **state)
{
    (void)state;
    struct outcome trouble = path_failure("454 4.7.0 TLS not available");
    start(BY_HOP, MANY);
    for (int i = 0; i < 4; i++)
        rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 4);
    conn_ready(r.conns[0]);
    conn_ready(r.conns[1]);
    conn_end(r.conns[0], &trouble, true);
    assert_int_equal(site_of("us", "us").state, SITE_DOWN);
    rig_settle();
    assert_int_equal(conns_in(RIG_GONE), 3); /* but for the one in a transaction */
    assert_int_equal(r.conns[1]->state, RIG_BUSY);
    conn_end(r.conns[1], &r.end, false);
    rig_settle();
    assert_int_equal(conns_in(RIG_GONE), 4);
    assert_int_equal(site_of("us", "us").state, SITE_DOWN);
    rig_pass(MINUTE + SECOND, MINUTE);
    assert_int_equal(r.n_conns, 5);
    r.auto_end = r.auto_ready = true;
    conn_ready(r.conns[4]);
    rig_pass(5 * MINUTE, MINUTE);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 4);
}

static void
the_route_that_is_wanted_goes_first_unless_it_is_fenced(void **state)
{
    (void)state;
    start(HOPS "transport_map: [{recipients: ['secret@one.test'], never_via: [us]}, "
               "{default: true, route: direct}]\n",
          MANY);
    r.wanted = "us";
    rig_accept_one("a@one.test");
    RIG_WAIT(conn_to("us", RIG_OPENING) != NULL);
    rig_accept_one("secret@one.test");
    RIG_WAIT(conn_to("mx.one.test", RIG_OPENING) != NULL);
    assert_int_equal(r.n_conns, 2);
}

static void
rules_reject_hold_and_discard(void **state)
{
    (void)state;
    start("transport_map: [{domains: [gone.test], reject: '550 5.1.2 has moved'}, "
          "{domains: [wait.test], hold: 'by hand'}, {domains: [null.test], discard: true}]\n",
          MANY);
    rig_accept(
        (const char *const[]){"a@gone.test", "a@wait.test", "a@null.test", "a@no.test", NULL});
    RIG_WAIT(r.n_failed == 2 && r.n_held == 1 && r.n_delivered == 1);
    rig_settle();
    assert_int_equal(rig_stats().held, 1);
    assert_int_equal(rig_stats().recipients, 1);
    assert_int_equal(r.n_conns, 0);
}

static void
the_retry_begins_behind_the_addresses_that_failed(void **state)
{
    (void)state;
    static const char *const hosts[] = {"mx.one.test", "jp.example"};
    struct outcome dead = path_failure("connection refused");
    for (size_t i = 0; i < N_ELEMENTS(hosts); i++) {
        struct rig_name *n = rig_name(hosts[i]);
        n->ip = 0xc6336401;
        n->n_more = 2;
    }
    start(HOPS "transport_map: [{domains: [two.test], route: jp}, {default: true, route: "
               "direct}]\n",
          MANY);
    for (int by_hop = 0; by_hop < 2; by_hop++) {
        size_t n = r.n_conns;
        rig_accept_one(by_hop ? "a@two.test" : "a@one.test");
        RIG_WAIT(r.n_conns == n + 1);
        assert_int_equal(r.conns[n]->ip.bytes[3], 1);
        conn_failed(r.conns[n], &dead);
        rig_pass(10 * MINUTE, MINUTE);
        assert_int_equal(r.n_conns, n + 2);
        assert_int_equal(r.conns[n + 1]->ip.bytes[3], 3);
        conn_ready(r.conns[n + 1]);
        RIG_WAIT(r.conns[n + 1]->state == RIG_BUSY);
        conn_end(r.conns[n + 1], &r.end, false);
        conn_closed(r.conns[n + 1]);
        rig_pass(HOUR, MINUTE); /* the site is forgotten, what has failed is not */
        rig_accept_one(by_hop ? "b@two.test" : "b@one.test");
        RIG_WAIT(r.n_conns == n + 3);
        assert_int_equal(r.conns[n + 2]->ip.bytes[3], 3);
    }
}

/* ---- by facts of the domain ---- */

#define BY_MX                                                           \
    HOPS "transport_map: [{mx: ['*.else.test'], route: jp}, {default: " \
         "true, route: direct, fallback: [us]}]\n"

static void
the_fallback_is_taken_though_what_chose_it_has_run_out(void **state)
{
    (void)state;
    struct outcome dead = path_failure("connection reset");
    rig_mx("one.test", "mx.one.test")->ttl_s = 1;
    start(BY_MX, MANY);
    rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    assert_true(r.conns[0]->has_fallback);
    conn_ready(r.conns[0]);
    rig_pass(3 * SECOND, SECOND);
    struct facts_domain gone;
    assert_false(facts_domain_cached(r.facts, NULL, "one.test", ROUTE_NEEDS_MX, &gone));
    rig_name("one.test")->rcode = -1; /* and it is not asked again */
    assert_true(schedule_route_left(r.schedule, r.conns[0]->rcpts[0]));
    r.reroute = r.auto_end = true;
    conn_end(r.conns[0], &dead, false);
    assert_int_equal(r.n_rerouted, 1);
    RIG_WAIT(conn_to("us", RIG_OPENING) != NULL);
    conn_ready(conn_to("us", RIG_OPENING));
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 1);
}

static void reload(const char *text);

static void
after_a_reload_a_route_may_be_left_until_facts_say_no(void **state)
{
    (void)state;
    rig_mx("one.test", "mx.one.test")->ttl_s = 1;
    start(BY_MX, MANY);
    rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[0]);
    rig_pass(3 * SECOND, SECOND);
    reload(DIRECT);
    r.conns[0]->rcpts[0]->refused = 1;
    assert_false(schedule_route_left(r.schedule, r.conns[0]->rcpts[0]));
    reload("transport_map: [{mx: ['*.else.test'], reject: '550 5.7.1 no'}, {default: true, route: "
           "direct}]\n");
    r.conns[0]->rcpts[0]->refused = 1;
    assert_true(schedule_route_left(r.schedule, r.conns[0]->rcpts[0]));
    conn_end(r.conns[0], &r.end, false);
}

static void
a_plan_asks_so_often_and_no_more(void **state)
{
    (void)state;
    const struct rcpt *found;
    rig_mx("one.test", "mx.one.test");
    start("direct: {egress: {v4: 192.0.2.1}, allow_private: true}\n"
          "hops: {us: {address: '198.51.100.250:465', egress: {v4: 192.0.2.2}}}\n"
          "transport_map: [{mx: ['*.else.test'], route: us}, {default: true, route: direct, "
          "fallback: [us]}]\n",
          MANY);
    uint64_t id = rig_accept_one("a@one.test");
    RIG_WAIT((found = hand_rcpt(&r.schedule->hand, id, 0)) != NULL && found->facts != NULL);
    assert_int_equal(found->lookups, 1);
    hand_rcpt(&r.schedule->hand, id, 0)->lookups = PLAN_LOOKUPS_MAX; /* reload upon reload */
    RIG_WAIT(r.n_deferred == 1);
    assert_non_null(strstr(r.last_text, "changes faster"));
    assert_int_equal(r.n_conns, 0);
    rig_pass(r.defer_ms + 3 * SECOND, 10 * SECOND);
    assert_int_equal(conns_in(RIG_OPENING), 1);
}

/* ---- sites and their domains ---- */

static void
domains_of_one_set_of_hosts_share_a_connection(void **state)
{
    (void)state;
    rig_mx("one.test", "mx.big.test");
    rig_mx("two.test", "mx.big.test");
    start(DIRECT, 1);
    rig_accept_one("a@one.test");
    rig_accept_one("a@two.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1 && rig_numbers().ready == 2);
    r.auto_end = true;
    conn_ready(r.conns[0]);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_conns, 1);
    assert_int_equal(r.conns[0]->n_txns, 2);
}

static void
a_domain_that_moves_while_it_waits_is_followed(void **state)
{
    (void)state;
    rig_mx("one.test", "mx.big.test")->ttl_s = 1;
    rig_mx("two.test", "mx.big.test")->ttl_s = 1;
    rig_mx("three.test", "mx.three.test");
    start(DIRECT, 1);
    rig_accept_one("a@three.test"); /* has the only connection */
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    rig_accept_one("a@one.test");
    rig_accept_one("a@two.test");
    RIG_WAIT(rig_numbers().ready == 3);
    rig_mx("one.test", "mx.new.test")->ttl_s = 1;
    rig_pass(5 * SECOND, SECOND);
    conn_closed(r.conns[0]);
    r.auto_ready = r.auto_end = true;
    for (int i = 0; i < 200 && !rig_finished(); i++) {
        for (size_t k = 0; k < r.n_conns; k++)
            if (r.conns[k]->state == RIG_OPENING)
                rig_wake(r.conns[k]);
        rig_pass(SECOND, SECOND);
    }
    assert_true(rig_finished());
    assert_int_equal(r.n_delivered, 3);
    struct rig_conn *old = NULL, *new = NULL;
    for (size_t i = 0; i < r.n_conns; i++) {
        if (strcmp(r.conns[i]->site, "mx.big.test") == 0)
            old = r.conns[i];
        if (strcmp(r.conns[i]->site, "mx.new.test") == 0)
            new = r.conns[i];
    }
    assert_non_null(old);
    assert_non_null(new);
    assert_int_equal(old->n_txns, 1);
    assert_int_equal(new->n_txns, 1);
}

static void
answers_that_hold_for_no_time_are_enough(void **state)
{
    (void)state;
    struct rig_name *n = rig_mx("one.test", "mx.one.test");
    n->ttl_s = 0;
    start(DIRECT, MANY);
    r.auto_ready = r.auto_end = true;
    rig_accept_one("a@one.test");
    RIG_WAIT(rig_finished());
    assert_true(n->asked <= 2);
}

static void
connections_that_are_refused_limit_their_number_for_a_while(void **state)
{
    (void)state;
    struct outcome busy = path_failure("421 too many connections");
    start(DIRECT, MANY);
    for (int i = 0; i < 6; i++)
        rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 5); /* shaping.default.max_connections */
    conn_ready(r.conns[0]);
    conn_ready(r.conns[1]);
    for (int i = 2; i < 5; i++)
        conn_failed(r.conns[i], &busy);
    rig_settle();
    assert_int_equal(r.n_deferred, 0);
    assert_int_equal(r.n_conns, 5); /* nobody asked again */
    assert_int_equal(site_of("direct", "mx.one.test").state, SITE_UP);
    conn_end(r.conns[0], &r.end, false);
    rig_settle();
    assert_int_equal(r.n_conns, 5);
    rig_pass(10 * MINUTE + SECOND, MINUTE);
    conn_end(r.conns[0], &r.end, false);
    rig_settle();
    assert_true(r.n_conns > 5);
}

static void
a_rate_spreads_messages_over_time(void **state)
{
    (void)state;
    start("shaping: {providers: [{mx: [mx.one.test], max_rate: 6/min}]}\n" DIRECT, MANY);
    r.auto_ready = r.auto_end = true;
    for (int i = 0; i < 12; i++)
        rig_accept_one("a@one.test");
    RIG_WAIT(r.n_delivered >= 1);
    rig_settle();
    size_t n = r.n_delivered;
    assert_in_range(n, 1, 2);
    rig_pass(30 * SECOND, SECOND);
    assert_in_range(r.n_delivered, n + 2, n + 4);
    rig_pass(2 * MINUTE, SECOND);
    assert_true(rig_finished());
}

/* ---- connections ---- */

static void
sites_take_turns_for_the_connections_there_are(void **state)
{
    (void)state;
    char addresses[20][32]; /* kept until they are stored */
    start(DIRECT, 2);
    r.auto_ready = r.auto_end = true;
    for (int i = 0; i < 20; i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "a@d%d.test", i % 10);
        rig_accept_one(addresses[i]);
    }
    RIG_WAIT(rig_finished()); /* idle ones make room: no time has to pass */
    assert_int_equal(r.most_open, 2);
    assert_int_equal(r.n_delivered, 20);
}

static void
an_idle_connection_makes_room(void **state)
{
    (void)state;
    start(DIRECT, 1);
    rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[0]);
    conn_end(r.conns[0], &r.end, false);
    rig_settle();
    assert_int_equal(conns_in(RIG_READY), 1); /* idle, and the only one there may be */
    rig_accept_one("a@two.test");
    RIG_WAIT(conn_to("mx.two.test", RIG_OPENING) != NULL);
    assert_int_equal(r.conns[0]->state, RIG_GONE);
}

static void
a_site_with_more_to_send_queues_up_again(void **state)
{
    (void)state;
    start("shaping: {providers: [{mx: [mx.one.test], max_connections: 1}]}\n" DIRECT, 1);
    for (int i = 0; i < 3; i++)
        rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    rig_accept_one("a@two.test");
    RIG_WAIT(rig_numbers().ready == 4);
    rig_settle(); /* and the second site stands in line */
    conn_ready(r.conns[0]);
    r.conns[0]->quit = true; /* it has carried as many messages as it may */
    conn_end(r.conns[0], &r.end, false);
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    assert_string_equal(r.conns[1]->site, "mx.two.test");
    r.auto_ready = r.auto_end = true;
    conn_ready(r.conns[1]);
    RIG_WAIT(rig_finished());
}

static void
a_connection_on_its_way_out_gets_no_message(void **state)
{
    (void)state;
    start(DIRECT, MANY);
    rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[0]);
    conn_end(r.conns[0], &r.end, false);
    r.conns[0]->state = RIG_CLOSING; /* its idle time is over: QUIT is sent */
    rig_accept_one("b@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    assert_int_equal(r.n_conns, 2);
    conn_closed(r.conns[0]);
    conn_ready(r.conns[1]);
    conn_end(r.conns[1], &r.end, false);
    RIG_WAIT(rig_finished());
}

static void
a_connection_may_go_while_its_message_is_read(void **state)
{
    (void)state;
    rig_fill(1, "a@one.test"); /* from the queue: it has to be read */
    start(DIRECT, MANY);
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[0]);
    assert_int_equal(r.conns[0]->state, RIG_READY); /* being read */
    conn_closed(r.conns[0]);
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[1]); /* loaded by now */
    assert_int_equal(r.conns[1]->state, RIG_BUSY);
    conn_end(r.conns[1], &r.end, false);
    RIG_WAIT(rig_finished());
}

static void
a_connection_may_begin_to_close_while_its_message_is_read(void **state)
{
    (void)state;
    rig_fill(1, "a@one.test");
    start("shaping: {providers: [{mx: [mx.one.test], max_connections: 1}]}\n" DIRECT, MANY);
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[0]);
    r.conns[0]->state = RIG_CLOSING; /* QUIT is sent, its answer not here yet */
    rig_settle();
    assert_int_equal(r.n_sends, 0);
    assert_int_equal(r.n_conns, 1); /* the site takes one connection at a time */
    conn_closed(r.conns[0]);
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[1]);
    conn_end(r.conns[1], &r.end, false);
    RIG_WAIT(rig_finished());
}

/* ---- suspended, held ---- */

static void
a_suspended_site_waits_and_goes_on(void **state)
{
    (void)state;
    start(FALLBACK, MANY);
    r.auto_ready = r.auto_end = true;
    msec_t until = clock_wall(r.clock) + HOUR;
    schedule_suspend(r.schedule, PAUSE_SITE, SPAN("mx.one.test"), until, SPAN("slow"));
    rig_accept_one("a@one.test");
    rig_accept_one("a@two.test");
    RIG_WAIT(r.n_delivered == 1);
    rig_settle();
    assert_true(site_of("direct", "mx.one.test").suspended);
    assert_int_equal(site_of("direct", "mx.one.test").n_ready, 1); /* no fallback either */
    rig_pass(59 * MINUTE, MINUTE);
    assert_int_equal(r.n_delivered, 1);
    rig_pass(MINUTE + SECOND, MINUTE); /* its time is over */
    RIG_WAIT(rig_finished());
    assert_null(schedule_pauses(r.schedule));
    schedule_suspend(r.schedule, PAUSE_ROUTE, SPAN("direct"), until + DAY, SPAN(""));
    rig_accept_one("b@one.test");
    rig_settle();
    assert_int_equal(rig_numbers().ready, 1);
    assert_int_equal(schedule_resume(r.schedule, SPAN("DIRECT")), 1);
    RIG_WAIT(rig_finished());
}

static void
a_suspended_domain_stays_in_the_queue(void **state)
{
    (void)state;
    start(DIRECT, MANY);
    rig_accept_one("a@one.test"); /* waits in hand when it comes */
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    schedule_suspend(r.schedule, PAUSE_DOMAIN, SPAN("one.test"), clock_wall(r.clock) + HOUR,
                     SPAN("why"));
    assert_int_equal(rig_numbers().in_hand, 0);
    r.auto_ready = r.auto_end = true;
    conn_ready(r.conns[0]);
    rig_accept_one("b@one.test");
    rig_accept_one("b@two.test");
    RIG_WAIT(r.n_delivered == 1);
    rig_pass(59 * MINUTE, MINUTE);
    assert_int_equal(r.n_delivered, 1);
    assert_int_equal(rig_stats().fresh, 2);
    rig_pass(MINUTE + SECOND, MINUTE);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 3);
}

static void
put_state(const char *key)
{
    struct queue_batch *batch = begin(&r.f);
    OK(queue_state_put(batch, span_str(key), SPAN("by hand"), err));
    commit(batch);
}

static void
a_held_domain_is_held_from_the_start_on(void **state)
{
    (void)state;
    put_state(QUEUE_HOLD_SPACE "one.test");
    rig_fill(3, "a@one.test");
    rig_fill(2, "a@two.test");
    r.auto_ready = r.auto_end = true;
    pthread_mutex_lock(&reader_gate); /* holds take a while to read */
    rig_schedule(DIRECT, MANY);
    rig_accept_one("now@one.test");
    RIG_WAIT(r.n_accepting == 0);
    for (int i = 0; i < 50; i++)
        rig_run();
    assert_int_equal(r.n_sends, 0);
    pthread_mutex_unlock(&reader_gate);
    RIG_WAIT(r.n_delivered == 2);
    rig_pass(10 * SECOND, SECOND);
    assert_int_equal(r.n_delivered, 2);
    assert_int_equal(rig_numbers().in_hand, 0);
    static struct store_fact fact;
    static struct store_op op;
    fact = (struct store_fact){.key = SPAN(QUEUE_HOLD_SPACE "one.test"), .remove = true};
    op = (struct store_op){.kind = STORE_OUTCOMES, .done = rig_op_ignored};
    op.outcomes.facts = &fact;
    op.outcomes.n_facts = 1;
    store_submit(r.store, &op);
    rig_settle();
    schedule_release_domain(r.schedule, SPAN("one.test"));
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 6);
}

/* ---- verbs ---- */

static void
verbs_take_waiting_recipients_out_of_hand(void **state)
{
    (void)state;
    rig_name("slow.test")->rcode = -1; /* its MX is being looked up for a while */
    start(DIRECT, MANY);
    uint64_t removed = rig_accept((const char *const[]){"a@one.test", "b@slow.test", NULL});
    uint64_t held = rig_accept_one("c@one.test");
    uint64_t again = rig_accept_one("d@one.test");
    RIG_WAIT(rig_numbers().ready == 3);
    assert_int_equal(rig_verb(removed, QUEUE_FINISH), 2);
    assert_int_equal(rig_verb(held, QUEUE_HOLD), 1);
    assert_int_equal(rig_numbers().in_hand, 1);
    assert_int_equal(rig_verb(again, QUEUE_DEFER), 1); /* due now: comes back by its lane */
    RIG_WAIT(rig_numbers().in_hand == 1);
    r.auto_ready = r.auto_end = true;
    for (size_t i = 0; i < r.n_conns; i++)
        conn_ready(r.conns[i]);
    rig_pass(2 * SECOND, SECOND);
    assert_int_equal(r.n_delivered, 1);
    assert_int_equal(rig_verb(held, QUEUE_RELEASE), 1);
    rig_pass(2 * SECOND, SECOND);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 2);
}

static void
a_verb_on_one_in_a_transaction_waits_for_its_end(void **state)
{
    (void)state;
    struct outcome later;
    outcome_set(&later, OUTCOME_DEFERRED, ORIGIN_PEER, "rcpt", "4.2.1", "later");
    start(DIRECT, MANY);
    uint64_t id = rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[0]);
    assert_int_equal(rig_verb(id, QUEUE_HOLD), 1);
    assert_int_equal(rig_numbers().in_hand, 1);
    conn_end(r.conns[0], &later, false);
    rig_pass(10 * MINUTE, MINUTE);
    assert_int_equal(rig_stats().held, 1); /* the verb has won */
    assert_int_equal(rig_numbers().in_hand, 0);
    assert_int_equal(r.n_sends, 1);
}

static void
a_page_older_than_a_verb_or_a_delivery_brings_nothing_back(void **state)
{
    (void)state;
    r.auto_ready = r.auto_end = true;
    start(DIRECT, MANY);
    schedule_hold_domain(r.schedule, SPAN("two.test"), SPAN("by hand"));
    uint64_t held = rig_accept_one("a@two.test"); /* not in hand */
    rig_settle();
    assert_int_equal(rig_numbers().in_hand, 0);
    rig_accept_one("a@one.test");
    RIG_WAIT(rig_numbers().busy == 1 || r.n_delivered == 1 || rig_numbers().ready == 1);

    pthread_mutex_lock(&reader_gate);
    int before = n_snapshots;
    schedule_release_domain(r.schedule, SPAN("two.test")); /* reads fresh and lanes */
    while (n_snapshots < before + 2)
        sched_yield(); /* both pages are of now */
    assert_int_equal(rig_verb(held, QUEUE_HOLD), 1);
    RIG_WAIT(r.n_delivered == 1 && rig_numbers().in_hand == 0);
    size_t sends = r.n_sends;
    pthread_mutex_unlock(&reader_gate);
    rig_pass(3 * SECOND, SECOND);
    assert_int_equal(r.n_sends, sends);
    assert_int_equal(rig_stats().held, 1);
    assert_int_equal(rig_stats().recipients, 1);
    assert_int_equal(r.n_twice, 0);
}

static void
giving_up_takes_a_recipient_from_wherever_it_waits(void **state)
{
    (void)state;
    struct outcome no;
    outcome_set(&no, OUTCOME_FAILED, ORIGIN_LOCAL, "queue", "5.0.0", "returned by hand");
    start(DIRECT, MANY);
    schedule_hold_domain(r.schedule, SPAN("two.test"), SPAN("by hand"));
    uint64_t ids[2] = {rig_accept_one("a@one.test"), rig_accept_one("a@two.test")};
    RIG_WAIT(rig_numbers().ready == 1);
    rig_settle();
    for (int i = 0; i < 2; i++) {
        struct queue_mail mail = mail_of(&r.f, ids[i]);
        const struct queue_row row = {.rcpt = mail.rcpts[0],
                                      .lane = queue_lane(r.f.queue, mail.rcpts[0].domain),
                                      .sender = mail.msg.sender};
        assert_true(schedule_give_up(r.schedule, &row, &no));
        assert_false(schedule_give_up(r.schedule, &row, &no));
        queue_mail_release(&mail);
    }
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_failed, 2);
}

/* ---- reload, stop ---- */

static void
reload(const char *text)
{
    struct config *old = r.config;
    r.config = rig_config(text);
    facts_set_config(r.facts, r.config);
    schedule_set_policy(r.schedule, &(struct schedule_policy){.config = r.config});
    config_free(old); /* nobody may look at it any more */
}

static void
a_reload_moves_what_waits(void **state)
{
    (void)state;
    rig_name("slow.test")->rcode = -1;
    start(HOPS "transport_map: [{domains: [two.test], route: jp}, {default: true, route: "
               "direct}]\n",
          MANY);
    rig_accept_one("a@one.test");
    rig_accept_one("a@two.test");
    rig_accept_one("a@slow.test");
    rig_accept_one("b@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) >= 3);
    conn_ready(conn_to("mx.one.test", RIG_OPENING)); /* one is busy */
    rig_name("jp.example")->rcode = -1;
    rig_accept_one("b@two.test"); /* and an address is being looked up */
    rig_settle();
    reload("hops: {us: {address: '198.51.100.251:465', implicit: true, tls: require}}\n"
           "transport_map: [{default: true, route: us}]\n");
    RIG_WAIT(conn_to("us", RIG_OPENING) != NULL);
    assert_null(conn_to("jp", RIG_OPENING)); /* told to quit */
    conn_end(conn_to("mx.one.test", RIG_BUSY), &r.end, false);
    r.auto_ready = r.auto_end = true;
    for (size_t i = 0; i < r.n_conns; i++)
        if (r.conns[i]->state == RIG_OPENING)
            rig_wake(r.conns[i]);
    for (int i = 0; i < 60 && !rig_finished(); i++)
        rig_pass(SECOND, SECOND);
    assert_true(rig_finished());
    for (size_t i = 0; i < r.n_conns; i++)
        if (strcmp(r.conns[i]->route, "us") != 0)
            assert_true(r.conns[i]->n_txns <= 1 && r.conns[i]->state == RIG_GONE);
}

static void
on_drained(void *arg)
{
    assert_ptr_equal(arg, &r);
    assert_false(r.drained);
    r.drained = true;
}

static void
a_drain_waits_for_transactions_and_their_outcomes(void **state)
{
    (void)state;
    struct outcome dead = path_failure("lost");
    rig_fill(1, "q@three.test");
    start(FALLBACK, MANY);
    rig_accept_one("a@one.test");
    rig_accept_one("a@two.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 3);
    conn_ready(conn_to("mx.one.test", RIG_OPENING));
    conn_ready(conn_to("mx.three.test", RIG_OPENING)); /* its message is being read */
    rig_accept_one("b@four.test");                     /* its address will be looked up */
    schedule_drain(r.schedule, on_drained, &r);
    assert_false(r.drained);
    rig_settle();
    assert_false(r.drained);
    assert_int_equal(conns_in(RIG_BUSY), 1);
    r.reroute = true; /* goes by another route, and is not sent */
    conn_end(conn_to("mx.one.test", RIG_BUSY), &dead, false);
    RIG_WAIT(r.drained);
    assert_int_equal(r.n_rerouted, 1);
    assert_int_equal(rig_numbers().connections, 0);
    assert_int_equal(rig_stats().recipients, 4); /* the next start has them all */
    rig_pass(5 * SECOND, SECOND);
    assert_int_equal(r.n_sends, 1);
}

static void
with_nothing_to_do_a_drain_ends_at_once(void **state)
{
    (void)state;
    start(DIRECT, MANY);
    schedule_drain(r.schedule, on_drained, &r);
    assert_false(r.drained);
    rig_run();
    rig_run();
    assert_true(r.drained);
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        T(a_path_failure_takes_the_fallback_at_once),
        T(dns_trouble_takes_no_fallback),
        T(hosts_that_only_say_later_keep_their_mail),
        T(a_domain_that_does_not_exist_fails_all_its_recipients_together),
        T(a_host_without_an_address_fails_its_mail),
        T(with_every_route_down_mail_waits_uncounted),
        T(a_dead_hop_is_probed_at_growing_intervals),
        T(trouble_after_mail_takes_the_hop_down_with_all_its_connections),
        T(the_route_that_is_wanted_goes_first_unless_it_is_fenced),
        T(rules_reject_hold_and_discard),
        T(the_retry_begins_behind_the_addresses_that_failed),
        T(the_fallback_is_taken_though_what_chose_it_has_run_out),
        T(after_a_reload_a_route_may_be_left_until_facts_say_no),
        T(a_plan_asks_so_often_and_no_more),
        T(domains_of_one_set_of_hosts_share_a_connection),
        T(a_domain_that_moves_while_it_waits_is_followed),
        T(answers_that_hold_for_no_time_are_enough),
        T(connections_that_are_refused_limit_their_number_for_a_while),
        T(a_rate_spreads_messages_over_time),
        T(sites_take_turns_for_the_connections_there_are),
        T(an_idle_connection_makes_room),
        T(a_site_with_more_to_send_queues_up_again),
        T(a_connection_on_its_way_out_gets_no_message),
        T(a_connection_may_go_while_its_message_is_read),
        T(a_connection_may_begin_to_close_while_its_message_is_read),
        T(a_suspended_site_waits_and_goes_on),
        T(a_suspended_domain_stays_in_the_queue),
        T(a_held_domain_is_held_from_the_start_on),
        T(verbs_take_waiting_recipients_out_of_hand),
        T(a_verb_on_one_in_a_transaction_waits_for_its_end),
        T(a_page_older_than_a_verb_or_a_delivery_brings_nothing_back),
        T(giving_up_takes_a_recipient_from_wherever_it_waits),
        T(a_reload_moves_what_waits),
        T(a_drain_waits_for_transactions_and_their_outcomes),
        T(with_nothing_to_do_a_drain_ends_at_once),
    };
    test_thread = pthread_self();
    RUN_TESTS(tests);
}
