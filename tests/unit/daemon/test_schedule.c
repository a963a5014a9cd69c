/* The schedule at work: what comes into hand, waits, goes out, and comes back. See schedule_rig.h.
 */
#include "tests/unit/daemon/schedule_rig.h"

#define DIRECT "transport_map: [{default: true, route: direct}]\n"
#define HOPS                                                                                   \
    "hops: {us: {address: '198.51.100.250:465', implicit: true, tls: require}, jp: {address: " \
    "jp.example, tls: require}}\n"
#define FALLBACK HOPS "transport_map: [{default: true, route: direct, fallback: [us]}]\n"
#define MANY 100000 /* more connections than any test opens */

/* ---- into hand ---- */

static void
what_is_accepted_goes_out_at_once(void **state)
{
    (void)state;
    rig_schedule(DIRECT, MANY);
    rig_settle();
    rig_accept((const char *const[]){"a@one.test", "b@one.test", "c@two.test", NULL});
    RIG_WAIT(conns_in(RIG_OPENING) == 2);
    struct rig_conn *one = conn_to("mx.one.test", RIG_OPENING);
    assert_non_null(one);
    assert_string_equal(one->route, "direct");
    assert_int_equal(one->port, 25);
    assert_false(one->is_hop);
    assert_false(one->has_fallback);
    conn_ready(one);
    assert_int_equal(one->n_rcpts, 2); /* one transaction for both */
    assert_true(span_eq(one->rcpts[0]->address, SPAN("a@one.test")));
    assert_true(span_eq(one->rcpts[1]->address, SPAN("b@one.test")));
    assert_int_equal(rig_numbers().busy, 1);
    conn_end(one, &r.end, false);
    conn_ready(conn_to("mx.two.test", RIG_OPENING));
    conn_end(conn_to("mx.two.test", RIG_BUSY), &r.end, false);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 3);
    assert_int_equal(rig_numbers().recording, 0);
}

static void
a_backlog_larger_than_the_hand_drains_in_bounded_memory(void **state)
{
    (void)state;
    const size_t n = SCHEDULE_HAND_MAX + SCHEDULE_HAND_MAX / 4;
    char address[64];
    struct queue_batch *batch = begin(&r.f);
    for (size_t i = 0; i < n; i++) {
        snprintf(address, sizeof(address), "u%zu@d%zu.test", i, i % 40);
        add_to(&r.f, batch, (const char *const[]){address, NULL});
    }
    commit(batch);
    r.auto_ready = r.auto_end = true;
    rig_schedule(DIRECT, MANY);
    RIG_WAIT(r.n_delivered == n);
    RIG_WAIT(rig_finished());
    assert_true(r.most_in_hand <= SCHEDULE_HAND_MAX);
    assert_int_equal(r.n_delivered, n);
    rig_pass(2 * SECOND, SECOND);
    assert_false(rig_numbers().fresh_backlog);
}

static void
what_does_not_fit_in_hand_is_found_in_the_queue(void **state)
{
    (void)state;
    const size_t n = SCHEDULE_HAND_MAX + 500;
    char addresses[60][32];
    const char *list[61] = {NULL};
    rig_schedule(DIRECT, 1);
    rig_settle();
    for (size_t i = 0; i < 60; i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "u%zu@d%zu.test", i, i);
        list[i] = addresses[i];
    }
    /* One connection that never gets ready: nothing leaves. */
    for (size_t i = 0; i < n; i += 60)
        rig_accept(list);
    RIG_WAIT(rig_stats().recipients >= n);
    rig_settle();
    assert_true(rig_numbers().in_hand <= SCHEDULE_HAND_MAX + 60);
    assert_true(rig_numbers().fresh_backlog);
    r.auto_ready = r.auto_end = true;
    conn_ready(r.conns[0]);
    for (int i = 0; i < 200 && !rig_finished(); i++)
        rig_pass(SCHEDULE_OVERFLOW_MS, SCHEDULE_OVERFLOW_MS);
    assert_true(rig_finished());
    assert_true(r.n_delivered >= n);
    assert_int_equal(r.most_open, 1);
}

static void
a_page_passes_over_what_is_in_hand(void **state)
{
    (void)state;
    rig_fill(3, "a@one.test");
    rig_schedule(DIRECT, MANY);
    RIG_WAIT(rig_numbers().ready == 3);
    schedule_rescan(r.schedule);
    rig_settle();
    assert_int_equal(rig_numbers().in_hand, 3);
    assert_int_equal(rig_numbers().ready, 3);
    r.auto_ready = r.auto_end = true;
    for (size_t i = 0; i < r.n_conns; i++)
        conn_ready(r.conns[i]);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 3);
}

static void
what_comes_behind_the_cursor_of_a_pass_is_found_by_the_next(void **state)
{
    (void)state;
    const size_t n = SCHEDULE_HAND_MAX / 2 + 4 * SCHEDULE_PAGE_ROWS;
    char address[32];
    /* An id that is older than all that wait, but stored last. */
    uint64_t early = queue_id_new(r.f.queue, T0);
    struct queue_batch *batch = begin(&r.f);
    for (size_t i = 0; i < n; i++) {
        snprintf(address, sizeof(address), "a@d%zu.test", i % 40);
        add_to(&r.f, batch, (const char *const[]){address, NULL});
    }
    commit(batch);
    rig_schedule(DIRECT, 1);
    RIG_WAIT(rig_numbers().in_hand > SCHEDULE_HAND_MAX / 2);
    rig_settle();
    assert_true(rig_numbers().fresh_backlog); /* in the middle of a pass */
    struct rig_mail *m = xcalloc(1, sizeof(*m));
    m->body = SPAN("x\r\n");
    m->op.add.msg = message(&r.f, m->body.n);
    m->op.add.msg.id = early;
    m->rcpts[0] = recipient(0, "late@two.test");
    m->op.kind = STORE_ADD;
    m->op.done = rig_mail_lost;
    m->op.add.rcpts = m->rcpts;
    m->op.add.n_rcpts = 1;
    m->op.add.body = &m->body;
    m->op.add.n_body = 1;
    store_submit(r.store, &m->op);
    rig_settle();
    schedule_rescan(r.schedule);
    r.auto_ready = r.auto_end = true;
    for (size_t i = 0; i < r.n_conns; i++)
        if (r.conns[i]->state == RIG_OPENING)
            conn_ready(r.conns[i]);
    RIG_WAIT(r.n_delivered == n + 1);
    RIG_WAIT(rig_finished());
}

static void
a_deferred_one_comes_back_at_its_moment(void **state)
{
    (void)state;
    struct outcome later;
    outcome_set(&later, OUTCOME_DEFERRED, ORIGIN_PEER, "rcpt", "4.2.1", "later");
    rig_schedule(DIRECT, MANY);
    rig_settle();
    rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_ready(r.conns[0]);
    conn_end(r.conns[0], &later, false);
    rig_settle();
    assert_int_equal(rig_numbers().in_hand, 0);
    assert_int_equal(rig_stats().scheduled, 1);
    rig_pass(5 * MINUTE - SECOND, MINUTE);
    assert_int_equal(r.n_sends, 1);
    rig_pass(2 * SECOND, SECOND);
    assert_int_equal(r.n_sends, 2);
    assert_int_equal(r.n_conns, 1); /* the connection was still there */
    conn_end(r.conns[0], &r.end, false);
    RIG_WAIT(rig_finished());
}

static void
a_restart_goes_on_where_the_queue_stands(void **state)
{
    (void)state;
    struct outcome later;
    outcome_set(&later, OUTCOME_DEFERRED, ORIGIN_PEER, "rcpt", "4.2.1", "later");
    r.auto_ready = r.auto_end = true;
    r.end = later;
    rig_fill(20, "a@one.test");
    rig_schedule(DIRECT, MANY);
    RIG_WAIT(r.n_deferred == 20);
    rig_settle();
    rig_stop();
    config_free(r.config);
    outcome_set(&r.end, OUTCOME_DELIVERED, ORIGIN_PEER, "body-end", "2.0.0", "ok");
    rig_schedule(DIRECT, MANY);
    rig_settle();
    assert_int_equal(r.n_delivered, 0);
    rig_pass(5 * MINUTE, MINUTE);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 20);
}

static void
a_lane_pauses_when_enough_of_it_is_in_hand(void **state)
{
    (void)state;
    struct queue_batch *batch = begin(&r.f);
    for (int i = 0; i < 3 * LANE_HAND_MAX / 2; i++)
        add_to(&r.f, batch, (const char *const[]){"a@slow.test", NULL});
    commit(batch);
    /* All of them deferred before. */
    struct queue_key after = {0};
    static struct queue_touched touched[4000];
    size_t n;
    bool more;
    const struct queue_filter all = {0};
    const struct queue_change defer = {.verb = QUEUE_DEFER, .due_at = T0};
    batch = begin(&r.f);
    OK(queue_apply_filter(batch, &all, &defer, &after, 4000, touched, &n, &more, err));
    commit(batch);
    rig_schedule(DIRECT, MANY);
    RIG_WAIT(rig_numbers().in_hand >= LANE_HAND_MAX);
    rig_settle();
    assert_int_equal(rig_numbers().in_hand, LANE_HAND_MAX);
    r.auto_ready = r.auto_end = true;
    for (size_t i = 0; i < r.n_conns; i++)
        conn_ready(r.conns[i]);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 3 * LANE_HAND_MAX / 2);
}

/* ---- what is in hand ---- */

static void
in_hand_is(const struct queue_filter *filter, size_t n_rcpts, const uint64_t *ids, size_t n_ids)
{
    CLEANUP(freep) uint64_t *found = NULL;
    size_t n;
    assert_int_equal(schedule_in_hand_list(r.schedule, filter, &found, &n), n_rcpts);
    assert_int_equal(schedule_in_hand_list(r.schedule, filter, NULL, NULL), n_rcpts);
    assert_int_equal(n, n_ids);
    assert_memory_equal(found, ids, n * sizeof(*ids));
}

static void
what_is_in_hand_is_listed_by_a_filter(void **state)
{
    uint64_t ids[3];
    (void)state;
    struct queue_batch *batch = begin(&r.f);
    ids[0] = add_to(&r.f, batch, (const char *const[]){"a@one.test", "b@two.test", NULL});
    ids[1] = add_to(&r.f, batch, (const char *const[]){"c@two.test", NULL});
    ids[2] = add_to(&r.f, batch, (const char *const[]){"d@one.test", NULL});
    commit(batch);
    rig_schedule(DIRECT, MANY);
    RIG_WAIT(rig_numbers().ready == 4);
    const uint64_t one_test[] = {ids[0], ids[2]};
    in_hand_is(&(struct queue_filter){0}, 4, ids, 3);
    in_hand_is(&(struct queue_filter){.id = ids[0]}, 2, ids, 1);
    in_hand_is(&(struct queue_filter){.domain = SPAN("one.test")}, 2, one_test, 2);
    in_hand_is(&(struct queue_filter){.id = ids[1], .domain = SPAN("one.test")}, 0, ids, 0);
    in_hand_is(&(struct queue_filter){.sender_null = true}, 0, ids, 0);
    in_hand_is(&(struct queue_filter){.sender = SPAN("nobody@one.test")}, 0, ids, 0);
    in_hand_is(&(struct queue_filter){.arrived_before = 1}, 0, ids, 0);
    in_hand_is(&(struct queue_filter){.arrived_before = INT64_MAX}, 4, ids, 3);
    /* Delivered ones are kept for a while, but are not in hand. */
    RIG_WAIT(conn_to("mx.two.test", RIG_OPENING) != NULL);
    r.auto_end = true;
    conn_ready(conn_to("mx.two.test", RIG_OPENING));
    RIG_WAIT(r.n_delivered == 2);
    rig_settle();
    in_hand_is(&(struct queue_filter){0}, 2, one_test, 2);
}

/* ---- sites ---- */

/* Every recipient in the queue becomes a deferred one that is due. */
static void
all_deferred(size_t n_rcpts)
{
    struct queue_key after = {0};
    const struct queue_filter all = {0};
    const struct queue_change defer = {.verb = QUEUE_DEFER, .due_at = T0};
    struct queue_touched *touched = xcalloc(n_rcpts, sizeof(*touched));
    struct queue_batch *batch = begin(&r.f);
    bool more = true;
    size_t n;
    while (more)
        OK(queue_apply_filter(batch, &all, &defer, &after, n_rcpts, touched, &n, &more, err));
    commit(batch);
    free(touched);
}

static size_t
site_ready(const char *name)
{
    struct site_info info;
    return schedule_site_find(r.schedule, "direct", name, &info) ? info.n_ready : 0;
}

static void
a_full_site_leaves_what_is_deferred_alone(void **state)
{
    (void)state;
    const size_t n_domains = 4, n_each = LANE_HAND_MAX;
    static char names[4][16];
    for (size_t i = 0; i < n_domains; i++) {
        snprintf(names[i], sizeof(names[i]), "d%zu.test", i);
        rig_mx(names[i], "mx.shared.test");
        struct queue_batch *batch = begin(&r.f);
        char address[32];
        snprintf(address, sizeof(address), "a@%s", names[i]);
        for (size_t k = 0; k < n_each; k++)
            add_to(&r.f, batch, (const char *const[]){address, NULL});
        commit(batch);
    }
    all_deferred(n_domains * n_each);
    rig_schedule(DIRECT, 1);
    RIG_WAIT(r.n_conns == 1);
    rig_settle();
    assert_true(site_ready("mx.shared.test") <= SITE_READY_MAX);
    assert_true(site_ready("mx.shared.test") >= SITE_READY_MAX - SCHEDULE_PAGE_ROWS);
    struct store_numbers before, after;
    store_numbers(r.store, &before);
    rig_pass(10 * MINUTE, 10 * SECOND); /* looked at again and again */
    store_numbers(r.store, &after);
    assert_int_equal(after.records, before.records);
    assert_int_equal(rig_stats().scheduled, n_domains * n_each);
    /* And when the site takes them at last, all go without a pause. */
    r.auto_ready = r.auto_end = true;
    conn_ready(r.conns[0]);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, n_domains * n_each);
}

static void
slow_sites_leave_room_for_others(void **state)
{
    (void)state;
    const size_t n_slow = 12, n_each = 2500;
    char address[32];
    for (size_t i = 0; i < n_slow; i++) {
        struct queue_batch *batch = begin(&r.f);
        snprintf(address, sizeof(address), "a@slow%zu.test", i);
        for (size_t k = 0; k < n_each; k++)
            add_to(&r.f, batch, (const char *const[]){address, NULL});
        commit(batch);
    }
    rig_fill(300, "a@quick.test"); /* behind them all */
    rig_schedule(DIRECT, MANY);    /* and no slow one ever answers */
    for (int i = 0; i < 100 && conn_to("mx.quick.test", RIG_OPENING) == NULL; i++)
        rig_pass(SECOND, SECOND);
    r.auto_ready = r.auto_end = true;
    struct rig_conn *c = conn_to("mx.quick.test", RIG_OPENING);
    assert_non_null(c);
    conn_ready(c);
    for (int i = 0; i < 100 && r.n_delivered < 300; i++)
        rig_pass(SECOND, SECOND);
    assert_int_equal(r.n_delivered, 300);
    assert_true(r.most_in_hand <= SCHEDULE_HAND_MAX);
    for (int i = 0; i < 60; i++) { /* and it stays so */
        rig_pass(SECOND, SECOND);
        assert_true(rig_numbers().ready < SCHEDULE_HAND_MAX / 2);
    }
    r.auto_ready = r.auto_end = false;
}

/* 100 recipients for each domain, 50 a message. */
static void
fill_domains(size_t n)
{
    char text[50][32];
    const char *addresses[51] = {NULL};
    struct queue_batch *batch = begin(&r.f);
    for (size_t m = 0; m < 2 * n; m++) {
        for (size_t i = 0; i < 50; i++) {
            snprintf(text[i], sizeof(text[i]), "u%zu@slow%zu.test", i, m / 2);
            addresses[i] = text[i];
        }
        add_to(&r.f, batch, addresses);
    }
    commit(batch);
}

static void
very_many_slow_sites_leave_room_for_others(void **state)
{
    (void)state;
    const size_t n_slow = 220;
    fill_domains(n_slow);
    rig_fill(1, "a@quick.test"); /* behind them all */
    rig_schedule(DIRECT, MANY);
    for (int i = 0; i < 60 && conn_to("mx.quick.test", RIG_OPENING) == NULL; i++)
        rig_pass(SECOND, SECOND);
    assert_non_null(conn_to("mx.quick.test", RIG_OPENING));
    assert_true(rig_numbers().in_hand < SCHEDULE_HAND_MAX / 2);
    assert_true(r.n_conns >= 2 * n_slow + 1); /* each of them is being tried */
}

static void
a_suspended_route_leaves_room_for_others_and_goes_on_later(void **state)
{
    (void)state;
    const size_t n = 220;
    fill_domains(n);
    rig_fill(1, "a@vip.test"); /* behind them all */
    rig_schedule(HOPS "transport_map: [{domains: [vip.test], route: us}, "
                      "{default: true, route: direct}]\n",
                 MANY);
    schedule_suspend(r.schedule, PAUSE_ROUTE, SPAN("direct"), clock_wall(r.clock) + HOUR,
                     SPAN_NONE);
    for (int i = 0; i < 60 && conn_to("us", RIG_OPENING) == NULL; i++)
        rig_pass(SECOND, SECOND);
    assert_non_null(conn_to("us", RIG_OPENING));
    assert_int_equal(r.n_conns, 1);
    rig_pass(MINUTE, 10 * SECOND);
    struct store_numbers before, after;
    store_numbers(r.store, &before);
    rig_pass(9 * MINUTE, 10 * SECOND);
    store_numbers(r.store, &after);
    assert_int_equal(after.records, before.records); /* what left sleeps */
    assert_true(rig_numbers().in_hand <= SCHEDULE_HAND_MAX / 2 + SCHEDULE_PAGE_ROWS);
    r.auto_ready = r.auto_end = true;
    conn_ready(conn_to("us", RIG_OPENING));
    assert_int_equal(schedule_resume(r.schedule, SPAN("direct")), 1);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, n * 100 + 1);
}

static size_t
opened_to(const char *site)
{
    size_t n = 0;
    for (size_t i = 0; i < r.n_conns; i++)
        n += strcmp(r.conns[i]->site, site) == 0;
    return n;
}

static void
hosts_that_never_greet_leave_connections_to_those_that_work(void **state)
{
    (void)state;
    const size_t max = 8, reserve = max / SCHEDULE_RESERVE_SHARE;
    static char addresses[24][32]; /* read by the store's thread */
    rig_schedule(HOPS "transport_map: [{domains: [vip.test], route: us}, "
                      "{default: true, route: direct}]\n",
                 max);
    rig_settle();
    rig_accept_one("a@works.test");
    RIG_WAIT(conn_to("mx.works.test", RIG_OPENING) != NULL);
    conn_ready(conn_to("mx.works.test", RIG_OPENING));
    conn_end(conn_to("mx.works.test", RIG_BUSY), &r.end, false);
    conn_closed(conn_to("mx.works.test", RIG_READY));
    RIG_WAIT(rig_finished());
    for (size_t i = 0; i < N_ELEMENTS(addresses); i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "a@mute%zu.test", i);
        rig_accept_one(addresses[i]);
    }
    rig_settle();
    assert_int_equal(conns_in(RIG_OPENING), max - reserve);
    rig_accept_one("a@vip.test");
    rig_accept_one("b@works.test");
    RIG_WAIT(conns_in(RIG_OPENING) == max);
    assert_non_null(conn_to("us", RIG_OPENING));
    assert_non_null(conn_to("mx.works.test", RIG_OPENING));
    /* What works keeps its connection while the others wait for what they cannot have. */
    r.auto_end = true;
    conn_ready(conn_to("us", RIG_OPENING));
    RIG_WAIT(r.n_delivered == 2);
    for (int i = 0; i < 3; i++) {
        rig_accept_one("c@vip.test");
        rig_settle();
    }
    assert_int_equal(r.n_delivered, 5);
    assert_int_equal(opened_to("us"), 1);
    /* Who has failed is no longer one that works. */
    struct outcome dead = path_failure("no greeting");
    conn_failed(conn_to("mx.works.test", RIG_OPENING), &dead);
    rig_settle();
    assert_int_equal(conns_in(RIG_OPENING), max - reserve);
    size_t i = 0;
    while (r.conns[i]->state != RIG_OPENING)
        i++;
    conn_failed(r.conns[i], &dead);
    rig_settle();
    assert_int_equal(conns_in(RIG_OPENING), max - reserve); /* the next one in line */
    r.auto_ready = true;
    for (i = 0; i < r.n_conns; i++)
        if (r.conns[i]->state == RIG_OPENING)
            conn_ready(r.conns[i]);
    rig_pass(HOUR, MINUTE);
    RIG_WAIT(rig_finished());
    assert_true(r.most_open <= max);
}

static void
a_site_that_cannot_be_reached_is_probed_by_one(void **state)
{
    (void)state;
    struct outcome dead = path_failure("connection refused");
    struct site_info info;
    rig_schedule(DIRECT, MANY);
    rig_settle();
    for (int i = 0; i < 5; i++)
        rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 5);
    for (int i = 0; i < 5; i++)
        conn_failed(r.conns[i], &dead);
    rig_settle();
    /* One message has made the attempt, the others wait for the probe. */
    assert_int_equal(r.n_deferred, 1);
    assert_true(schedule_site_find(r.schedule, "direct", "mx.one.test", &info));
    assert_int_equal(info.state, SITE_DOWN);
    assert_int_equal(rig_numbers().in_hand, 0);
    assert_int_equal(rig_stats().scheduled, 5);
    rig_accept_one("b@one.test"); /* comes meanwhile: waits too */
    rig_pass(5 * MINUTE - SECOND, MINUTE);
    assert_int_equal(r.n_conns, 5);
    rig_pass(2 * SECOND, SECOND);
    assert_int_equal(conns_in(RIG_OPENING), 1);
    assert_int_equal(rig_numbers().ready, 6);
    conn_failed(r.conns[5], &dead);
    rig_settle();
    assert_int_equal(r.n_deferred, 2);
    rig_pass(5 * MINUTE + SECOND, MINUTE);
    assert_int_equal(conns_in(RIG_OPENING), 1);
    r.auto_ready = r.auto_end = true;
    conn_ready(r.conns[6]);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 6);
    assert_true(schedule_site_find(r.schedule, "direct", "mx.one.test", &info));
    assert_int_equal(info.state, SITE_UP);
}

static void
a_retry_is_the_probe_of_its_own_site_once(void **state)
{
    (void)state;
    struct outcome dead = path_failure("connection refused");
    rig_schedule(DIRECT, MANY);
    rig_settle();
    r.defer_ms = HOUR;
    uint64_t one = rig_accept_one("a@one.test");
    rig_accept_one("b@two.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 2);
    conn_failed(conn_to("mx.one.test", RIG_OPENING), &dead);
    conn_failed(conn_to("mx.two.test", RIG_OPENING), &dead);
    rig_settle();
    rig_pass(MINUTE, MINUTE);
    assert_int_equal(rig_verb(one, QUEUE_DEFER), 1);
    RIG_WAIT(r.n_conns == 3);
    clock_step(r.clock, SECOND); /* it takes a moment to fail */
    conn_failed(conn_to("mx.one.test", RIG_OPENING), &dead);
    rig_settle();
    /* It has been tried: what comes now waits for the next probe, and the other one for its own. */
    rig_accept_one("c@one.test");
    rig_settle();
    assert_int_equal(r.n_conns, 3);
    assert_int_equal(rig_stats().scheduled, 3);
    r.auto_ready = r.auto_end = true;
    assert_int_equal(rig_verb(0, QUEUE_DEFER), 3);
    RIG_WAIT(rig_finished());
    assert_int_equal(r.n_delivered, 3);
}

static void
a_probe_whose_recipient_left_is_made_by_the_next(void **state)
{
    (void)state;
    struct outcome dead = path_failure("connection refused");
    struct site_info info;
    rig_schedule(FALLBACK, MANY);
    rig_settle();
    r.reroute = true;
    rig_accept_one("a@one.test");
    RIG_WAIT(conns_in(RIG_OPENING) == 1);
    conn_failed(r.conns[0], &dead);
    RIG_WAIT(conn_to("us", RIG_OPENING) != NULL);
    r.auto_end = true;
    conn_ready(conn_to("us", RIG_OPENING));
    RIG_WAIT(rig_finished());
    rig_pass(5 * MINUTE + SECOND, MINUTE);
    uint64_t id = rig_accept_one("b@one.test");
    RIG_WAIT(conn_to("mx.one.test", RIG_OPENING) != NULL);
    /* The administrator removes it while the probe is under way; the connection is dropped. */
    assert_int_equal(rig_verb(id, QUEUE_FINISH), 1);
    conn_closed(conn_to("mx.one.test", RIG_OPENING));
    rig_pass(2 * SECOND, SECOND);
    assert_true(schedule_site_find(r.schedule, "direct", "mx.one.test", &info));
    assert_int_equal(info.state, SITE_DOWN);
    rig_accept_one("c@one.test");
    RIG_WAIT(conn_to("mx.one.test", RIG_OPENING) != NULL); /* not by the fallback */
    conn_ready(conn_to("mx.one.test", RIG_OPENING));
    RIG_WAIT(rig_finished());
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        T(what_is_accepted_goes_out_at_once),
        T(a_backlog_larger_than_the_hand_drains_in_bounded_memory),
        T(what_does_not_fit_in_hand_is_found_in_the_queue),
        T(a_page_passes_over_what_is_in_hand),
        T(what_comes_behind_the_cursor_of_a_pass_is_found_by_the_next),
        T(a_deferred_one_comes_back_at_its_moment),
        T(a_restart_goes_on_where_the_queue_stands),
        T(a_lane_pauses_when_enough_of_it_is_in_hand),
        T(what_is_in_hand_is_listed_by_a_filter),
        T(a_full_site_leaves_what_is_deferred_alone),
        T(slow_sites_leave_room_for_others),
        T(very_many_slow_sites_leave_room_for_others),
        T(a_suspended_route_leaves_room_for_others_and_goes_on_later),
        T(hosts_that_never_greet_leave_connections_to_those_that_work),
        T(a_site_that_cannot_be_reached_is_probed_by_one),
        T(a_retry_is_the_probe_of_its_own_site_once),
        T(a_probe_whose_recipient_left_is_made_by_the_next),
    };
    RUN_TESTS(tests);
}
