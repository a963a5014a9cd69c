/* What becomes of an outcome. */
#include "tests/unit/daemon/fates_rig.h"

/* ---- delivered, deferred ---- */

static void
a_delivery_ends_in_history(void **state)
{
    (void)state;
    struct outcome ok = reply(250, "2.0.0", "queued as 77");
    uint64_t id = mail_make(&(struct mail){0}, 1);
    record_all(&ok);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 0);
    assert_int_equal(stats_of(&t.f).recipients, 0);
    struct queue_past_key after = {0};
    struct queue_history past;
    struct detail d;
    OK(queue_read_history(t.f.reader, id, &after, 10, &past, err));
    assert_int_equal(past.n_rows, 1);
    assert_int_equal(past.rows[0].result, QUEUE_DELIVERED);
    OK(detail_decode(past.rows[0].detail, &d, err));
    assert_int_equal(d.code, 250);
    assert_int_equal(d.attempts, 1);
    assert_span(d.route, "direct");
    assert_span(d.klass, "ok");
    assert_span(d.text, "queued as 77");
    queue_history_release(&past);
    struct record_numbers n;
    record_numbers(t.record, &n);
    assert_int_equal(n.delivered, 1);
}

static void
deferrals_follow_the_schedule_and_stay_together(void **state)
{
    (void)state;
    static const int minutes[] = {5, 10, 20, 40, 60, 120, 240, 240};
    struct outcome later = reply(451, "4.3.0", "queue busy");
    uint64_t id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_NEVER}, 3);
    record_all(&later);
    for (int i = 0; i < 3; i++)
        assert_int_equal(t.fates[i], FATE_DEFERRED);
    assert_int_equal(t.due_at[0], t.due_at[1]); /* jitter is the message's */
    assert_int_equal(t.due_at[0], t.due_at[2]);

    id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_NEVER}, 1);
    for (size_t i = 0; i < N_ELEMENTS(minutes); i++) {
        record_all(&later);
        assert_int_equal(t.fates[0], FATE_DEFERRED);
        msec_t wait = t.due_at[0] - clock_wall(t.clock);
        assert_in_range(wait, minutes[i] * MINUTE * 8 / 10, minutes[i] * MINUTE * 12 / 10);
        clock_step(t.clock, wait);
        mail_again(id);
        assert_int_equal(t.rcpts[0]->due_at, clock_wall(t.clock));
    }
    assert_int_equal(t.n_told, 0);
}

static void
greylisting_waits_at_least_its_time_once(void **state)
{
    (void)state;
    struct outcome grey = reply(451, "4.7.1", "Greylisted, please come back later");
    for (int i = 0; i < 10; i++) {
        uint64_t id = mail_make(&(struct mail){0}, 1);
        record_all(&grey);
        msec_t wait = t.due_at[0] - clock_wall(t.clock);
        assert_in_range(wait, 6 * MINUTE, 6 * MINUTE);
        clock_step(t.clock, wait);
        mail_again(id);
        record_all(&grey);
        assert_in_range(t.due_at[0] - clock_wall(t.clock), 8 * MINUTE, 12 * MINUTE);
    }
}

static void
who_met_a_dead_hop_waits_for_its_probe(void **state)
{
    (void)state;
    struct outcome dead;
    outcome_set(&dead, OUTCOME_DEFERRED, ORIGIN_NET, "connect", "4.4.1", "connection refused");
    dead.path = true;
    mail_make(&(struct mail){0}, 1);
    t.probe_at = clock_wall(t.clock) + MINUTE;
    record_all(&dead);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    assert_int_equal(t.due_at[0], t.probe_at);
    assert_int_equal(t.n_reroutes, 1);
}

static void
only_an_attempt_past_the_deadline_expires(void **state)
{
    (void)state;
    struct outcome later = reply(451, "4.3.0", "queue busy");
    uint64_t id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_FAILURE}, 1);
    clock_step(t.clock, 5 * DAY - HOUR);
    t.rcpts[0]->begun_at = clock_wall(t.clock);
    clock_step(t.clock, 2 * HOUR); /* a long transaction, or a clock that jumped */
    record_all(&later);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    assert_int_equal(t.n_told, 0);
    clock_step(t.clock, t.due_at[0] - clock_wall(t.clock));
    mail_again(id);
    assert_true(record_overdue(t.record, t.rcpts[0]));
    record_all(&later);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_string_equal(t.told[0].to, "alice@src.test");
    assert_told(0, "Status: 5.4.7");
    assert_told(0, "Action: failed");
    assert_told(0, "queue busy");
}

static void
the_last_attempt_is_made_at_the_deadline(void **state)
{
    (void)state;
    struct outcome later = reply(451, "4.3.0", "queue busy");
    mail_make(&(struct mail){.notify = QUEUE_NOTIFY_NEVER}, 1);
    msec_t deadline = record_expires_at(t.record, &t.msg->q);
    assert_int_equal(deadline, T0 + 5 * DAY);
    clock_step(t.clock, 5 * DAY - MINUTE);
    t.rcpts[0]->begun_at = clock_wall(t.clock);
    record_all(&later);
    assert_int_equal(t.due_at[0], deadline);
    mail_make(&(struct mail){.sender = ""}, 1);
    assert_int_equal(record_expires_at(t.record, &t.msg->q), t.msg->q.arrived_at + 2 * DAY);
}

static void
a_5xx_that_means_later_is_deferred_for_a_day(void **state)
{
    (void)state;
    struct outcome soft = reply(550, "5.7.1", "Greylisted, see the web page");
    uint64_t id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_FAILURE}, 1);
    for (;;) {
        record_all(&soft);
        if (t.fates[0] != FATE_DEFERRED)
            break;
        assert_true(clock_wall(t.clock) - T0 < 24 * HOUR);
        clock_step(t.clock, t.due_at[0] - clock_wall(t.clock));
        mail_again(id);
    }
    assert_int_equal(clock_wall(t.clock) - T0, 24 * HOUR);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Greylisted, see the web page");
}

static void
the_day_of_a_soft_5xx_begins_with_the_first_one(void **state)
{
    (void)state;
    struct outcome down = reply(451, "4.3.0", "queue busy");
    struct outcome soft = reply(550, "5.7.1", "Greylisted, see the web page");
    uint64_t id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_NEVER}, 1);
    record_all(&down);
    clock_step(t.clock, 30 * HOUR);
    mail_again(id);
    record_all(&soft);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    clock_step(t.clock, 12 * HOUR);
    mail_again(id);
    record_all(&down); /* in between */
    clock_step(t.clock, 12 * HOUR - MINUTE);
    mail_again(id);
    record_all(&soft);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    assert_int_equal(t.due_at[0] - clock_wall(t.clock), MINUTE);
    clock_step(t.clock, MINUTE);
    mail_again(id);
    record_all(&soft);
    assert_int_equal(t.fates[0], FATE_FINISHED);
}

static void
a_4xx_is_given_up_by_a_rule_of_ones_own_but_not_for_the_hops_sake(void **state)
{
    (void)state;
    const struct classify_rule own = {.name = SPAN("own"),
                                      .klass = SPAN("inactive-mailbox"),
                                      .action = SPAN("bounce"),
                                      .match = SPAN("frobnicated")};
    struct outcome gone = reply(452, "4.2.2", "frobnicated");
    OK(classify_rules_add(t.settings.rules, &own, err));
    t.fallback_after = 1;
    mail_make(&(struct mail){.notify = QUEUE_NOTIFY_FAILURE}, 1);
    record_all(&gone);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_reroutes, 0);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Action: failed");
    assert_told(0, "Status: 5.2.2");
    assert_told(0, "Diagnostic-Code: smtp; 452 4.2.2 frobnicated");

    gone.path = true;
    mail_make(&(struct mail){0}, 1);
    record_all(&gone);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    gone = reply(452, "4.3.4", "message too large");
    mail_make(&(struct mail){0}, 1);
    record_all(&gone);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
}

static void
a_rate_limit_slows_the_site(void **state)
{
    (void)state;
    struct outcome fast = reply(452, "4.7.28", "message rate exceeded, slow down");
    mail_make(&(struct mail){0}, 1);
    record_all(&fast);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    assert_int_equal(t.n_slow, 1);
}

/* ---- another route ---- */

static void
a_reroute_keeps_the_refusal_for_the_report(void **state)
{
    (void)state;
    struct outcome listed =
        reply(554, "5.7.1", "Client host blocked using zen.spamhaus.org, see the page");
    struct outcome unknown = reply(550, "5.1.1", "no such user here");
    mail_make(&(struct mail){.in_memory = true}, 1);
    t.rerouted = REROUTED;
    struct attempt a = attempt_of(0, &listed);
    record_attempts(t.record, &a, 1);
    assert_int_equal(t.n_reroutes, 1);
    assert_int_equal(t.n_recorded, 0);
    assert_true(t.rcpts[0]->attempts_bytes > 0);
    assert_true(t.rcpts[0]->attempts_new);
    t.rcpts[0]->stage = STAGE_RECORDING;
    a = attempt_of(0, &unknown);
    a.route = "us";
    a.host = "mx2.one.test";
    record_attempts(t.record, &a, 1);
    wait_recorded(1);
    assert_int_equal(t.n_reroutes, 1); /* a mailbox is unknown by every route */
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "no such user here");
    assert_told(0, "zen.spamhaus.org");
    assert_told(0, "Status: 5.1.1");
}

static void
a_refusal_that_no_route_cures_is_final_unless_one_was_out_of_reach(void **state)
{
    (void)state;
    struct outcome listed =
        reply(554, "5.7.1", "Client host blocked using zen.spamhaus.org, see the page");
    mail_make(&(struct mail){0}, 1);
    t.route_left = true;
    record_all(&listed);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    mail_make(&(struct mail){0}, 1);
    t.route_left = false;
    record_all(&listed);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
}

static void
a_failure_of_all_hosts_is_judged_like_an_attempt(void **state)
{
    (void)state;
    struct outcome o = reply(554, "5.7.1", "blocked using zen.spamhaus.org");
    assert_true(record_curable(t.record, &o, "mx.one.test"));
    o = reply(421, "4.3.2", "try again later");
    assert_false(record_curable(t.record, &o, "mx.one.test"));
    o.path = true;
    assert_true(record_curable(t.record, &o, ""));
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_DNS, "dns", "4.4.3", "SERVFAIL");
    assert_false(record_curable(t.record, &o, ""));
}

/* ---- the end ---- */

static void
a_delivery_that_still_reads_its_original_survives_a_stop(void **state)
{
    (void)state;
    struct outcome ok = reply(250, "2.0.0", "ok");
    mail_make(&(struct mail){.notify = QUEUE_NOTIFY_SUCCESS}, 1); /* neither loaded nor in memory */
    struct attempt a = attempt_of(0, &ok);
    record_attempts(t.record, &a, 1);
    /* As the daemon ends. */
    assert_true(store_settle(t.store, STORE_SETTLE_MS));
    workers_stop(t.workers);
    assert_true(store_settle(t.store, STORE_SETTLE_MS));
    store_stop(t.store);
    assert_int_equal(t.n_recorded, 1);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_int_equal(stats_of(&t.f).messages, 1); /* the notice */
}

/* ---- hold, damage ---- */

static void
a_hold_keeps_its_reason(void **state)
{
    (void)state;
    uint64_t id = mail_make(&(struct mail){0}, 1);
    record_hold(t.record, t.rcpts[0], SPAN("a rule says so"));
    wait_recorded(1);
    assert_int_equal(t.fates[0], FATE_HELD);
    struct queue_mail mail;
    struct attempts a = attempts_in_queue(id, &mail);
    assert_int_equal(mail.rcpts[0].state, QUEUE_HELD);
    assert_int_equal(a.n_refusals, 1);
    assert_span(a.refusals[0].text, "held: a rule says so");
    assert_int_equal(a.count, 0);
    queue_mail_release(&mail);
}

static void
a_damaged_record_of_attempts_is_begun_anew(void **state)
{
    (void)state;
    struct outcome later = reply(451, "4.3.0", "busy");
    uint64_t id = mail_make(&(struct mail){0}, 1);
    t.rcpts[0]->attempts = xstrdup("\1garbage");
    t.rcpts[0]->attempts_bytes = 8;
    assert_int_equal(record_wanted_route(t.rcpts[0]).n, 0);
    record_all(&later);
    struct queue_mail mail;
    struct attempts a = attempts_in_queue(id, &mail);
    assert_int_equal(a.count, 1);
    queue_mail_release(&mail);
}

static void
fields_of_a_newer_program_are_kept_while_there_is_room(void **state)
{
    (void)state;
    struct outcome later = reply(451, "4.3.0", "busy");
    static const size_t sizes[] = {100, QUEUE_ATTEMPTS_MAX - 100};
    for (size_t i = 0; i < N_ELEMENTS(sizes); i++) {
        char *unknown = body_bytes(sizes[i], 7);
        struct attempts a = {.unknown = span_of(unknown, sizes[i]), .route = SPAN("us")};
        struct strbuf bytes = STRBUF_INIT;
        uint64_t id = mail_make(&(struct mail){0}, 1);
        attempts_encode(&a, &bytes);
        t.rcpts[0]->attempts_bytes = bytes.n;
        t.rcpts[0]->attempts = strbuf_take(&bytes);
        assert_span(record_wanted_route(t.rcpts[0]), "us");
        record_all(&later);
        assert_int_equal(t.fates[0], FATE_DEFERRED);
        struct queue_mail mail;
        a = attempts_in_queue(id, &mail);
        assert_int_equal(a.unknown.n, i == 0 ? sizes[i] : 0);
        assert_span(a.route, "us");
        queue_mail_release(&mail);
        free(unknown);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        T(a_delivery_ends_in_history),
        T(deferrals_follow_the_schedule_and_stay_together),
        T(greylisting_waits_at_least_its_time_once),
        T(who_met_a_dead_hop_waits_for_its_probe),
        T(only_an_attempt_past_the_deadline_expires),
        T(the_last_attempt_is_made_at_the_deadline),
        T(a_5xx_that_means_later_is_deferred_for_a_day),
        T(the_day_of_a_soft_5xx_begins_with_the_first_one),
        T(a_4xx_is_given_up_by_a_rule_of_ones_own_but_not_for_the_hops_sake),
        T(a_rate_limit_slows_the_site),
        T(a_reroute_keeps_the_refusal_for_the_report),
        T(a_refusal_that_no_route_cures_is_final_unless_one_was_out_of_reach),
        T(a_failure_of_all_hosts_is_judged_like_an_attempt),
        T(a_delivery_that_still_reads_its_original_survives_a_stop),
        T(a_hold_keeps_its_reason),
        T(a_damaged_record_of_attempts_is_begun_anew),
        T(fields_of_a_newer_program_are_kept_while_there_is_room),
    };
    RUN_TESTS(tests);
}
