#include "tests/unit/store/store_fixture.h"

#include <sys/syscall.h>

static _Atomic long asleep_s; /* added to the time since the machine was started */

int
clock_gettime(clockid_t id, struct timespec *ret)
{
    int code = (int)syscall(SYS_clock_gettime, id, ret);
    if (id == CLOCK_BOOTTIME)
        ret->tv_sec += asleep_s;
    return code;
}

/* ------------------------------------------------------------------------------ group commit */

static void
what_waits_while_a_commit_syncs_becomes_one_commit(void **state)
{
    (void)state;
    enum { N = 300 };
    struct mail first, *mails = xcalloc(N, sizeof(*mails));
    hold_writer(&first);
    for (int i = 0; i < N; i++) {
        mail_fill(&mails[i], "x@d.test");
        store_submit(t.store, &mails[i].op);
    }
    assert_int_equal(numbers().waiting_ops, N + 1);
    int syncs = faults.n_syncs;
    assert_int_equal(inbox_run(t.inbox), 0); /* nothing is answered before its sync */
    pthread_mutex_unlock(&faults.gate);
    wait_done(N + 1);
    assert_int_equal(t.n_commits, 2);
    assert_int_equal(t.commits[0].n_ops, 1);
    assert_int_equal(t.commits[1].n_ops, N);
    assert_int_equal(t.commits[1].n_records, 3 * N);
    assert_int_equal(faults.n_syncs, syncs + 1);
    for (int i = 0; i < N; i++) {
        assert_int_equal(mails[i].op.code, ERR_OK);
        assert_int_equal(mails[i].op.txn_id, t.commits[1].txn_id);
    }
    assert_memory_equal(t.order, "cocoo", 5); /* the note of a commit, then its ops */
    assert_int_equal(numbers().accepted, N + 1);
    assert_int_equal(numbers().queue.fresh, N + 1);
    assert_int_equal(numbers().waiting_ops, 0);
    free(mails);
    assert_sound(&t.f);
}

static void
a_batch_is_capped_in_records_and_bytes(void **state)
{
    (void)state;
    enum { N = 60 };
    struct mail first, *mails = xcalloc(N, sizeof(*mails));
    char *bytes = body_bytes(250000, 1);
    hold_writer(&first);
    for (int i = 0; i < N; i++) { /* 15 MB */
        mail_fill(&mails[i], "x@d.test");
        mails[i].body = span_of(bytes, 250000);
        mails[i].op.add.msg.body_bytes = 250000;
        store_submit(t.store, &mails[i].op);
    }
    pthread_mutex_unlock(&faults.gate);
    wait_done(N + 1);
    assert_in_range(t.n_commits, 4, 6);
    for (size_t i = 0; i < t.n_commits; i++)
        assert_true(t.commits[i].bytes < STORE_BATCH_BYTES + 300000);
    free(mails);
    free(bytes);
    assert_sound(&t.f);
}

static void
a_sync_failure_reaches_nobody_as_success(void **state)
{
    (void)state;
    struct mail first, mails[5], late;
    uint64_t kept = add_mail("kept@d.test");
    hold_writer(&first);
    for (int i = 0; i < 5; i++) {
        mail_fill(&mails[i], "x@d.test");
        store_submit(t.store, &mails[i].op);
    }
    faults.sync_errno = EIO;
    pthread_mutex_unlock(&faults.gate);
    t.n_order = 0;
    wait_done(1 + 6);
    assert_int_equal(t.n_failures, 1);
    assert_int_equal(t.order[0], 'f'); /* told before the ops that it fails */
    assert_int_equal(first.op.code, ERR_IO);
    for (int i = 0; i < 5; i++)
        assert_int_equal(mails[i].op.code, ERR_IO);
    faults_clear(); /* the disk is well again, but what is on it is not known */
    mail_fill(&late, "late@d.test");
    store_submit(t.store, &late.op);
    wait_done(8);
    assert_int_equal(late.op.code, ERR_IO);
    assert_int_equal(t.n_failures, 1);
    assert_true(numbers().failed);
    assert_true(is_there(kept));
    assert_false(is_there(late.op.add.msg.id));
}

/* ---------------------------------------------------------------------------------- full disk */

static void
a_full_batch_refuses_new_mail_and_stores_the_outcomes_alone(void **state)
{
    (void)state;
    uint64_t a = add_mail("a@d.test"), b = add_mail("b@d.test");
    struct queue_change changes[] = {change(a, 1, QUEUE_FINISH), change(b, 1, QUEUE_DEFER)};
    struct store_op outcomes[2];
    struct mail first, mails[3];
    hold_writer(&first);
    for (int i = 0; i < 3; i++) {
        mail_fill(&mails[i], "x@d.test");
        store_submit(t.store, &mails[i].op);
    }
    for (int i = 0; i < 2; i++) {
        outcome_fill(&outcomes[i], &changes[i], 1);
        store_submit(t.store, &outcomes[i]);
    }
    faults.sync_errno = ENOSPC;
    faults.sync_fails = 2; /* of `first`, and of the batch that follows */
    pthread_mutex_unlock(&faults.gate);
    wait_done(2 + 6);
    assert_int_equal(first.op.code, ERR_FULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(mails[i].op.code, ERR_FULL);
        assert_false(is_there(mails[i].op.add.msg.id));
    }
    assert_int_equal(outcomes[0].code, ERR_OK);
    assert_int_equal(outcomes[1].code, ERR_OK);
    assert_int_equal(changes[1].new_revision, 2);
    assert_false(is_there(a));
    assert_int_equal(numbers().full, 4);
    assert_int_equal(numbers().queue.scheduled, 1);
    assert_int_equal(t.n_failures, 0);
    add_mail("again@d.test");
    assert_sound(&t.f);
}

static void
outcomes_wait_for_room_and_new_mail_does_not_wait_with_them(void **state)
{
    (void)state;
    uint64_t a = add_mail("a@d.test"), b = add_mail("b@d.test");
    struct queue_change changes[] = {change(a, 1, QUEUE_FINISH), change(b, 1, QUEUE_FINISH)};
    struct store_op outcomes[2];
    struct mail mail;
    size_t before = t.n_done;
    faults.write_errno = ENOSPC;
    for (int i = 0; i < 2; i++) {
        outcome_fill(&outcomes[i], &changes[i], 1);
        store_submit(t.store, &outcomes[i]);
    }
    while (numbers().blocked < 2)
        sched_yield();
    mail_fill(&mail, "x@d.test");
    store_submit(t.store, &mail.op);
    wait_done(before + 1); /* only the new mail is answered */
    assert_int_equal(mail.op.code, ERR_FULL);
    assert_int_equal(numbers().blocked, 2);
    faults_clear();
    wait_done(before + 3);
    assert_int_equal(outcomes[0].code, ERR_OK);
    assert_int_equal(outcomes[1].code, ERR_OK);
    assert_int_equal(numbers().blocked, 0);
    assert_false(is_there(a) || is_there(b));
    assert_sound(&t.f);
}

static void
a_stop_gives_outcomes_back_that_still_do_not_fit(void **state)
{
    (void)state;
    uint64_t id = add_mail("a@d.test");
    struct queue_change c = change(id, 1, QUEUE_FINISH);
    struct store_op op, late;
    faults.write_errno = ENOSPC;
    outcome_fill(&op, &c, 1);
    store_submit(t.store, &op);
    while (numbers().blocked < 1)
        sched_yield();
    store_stop(t.store);
    wait_done(2);
    assert_int_equal(op.code, ERR_FULL);
    faults_clear();
    outcome_fill(&late, &c, 1); /* after the stop: answered, not stored */
    store_submit(t.store, &late);
    wait_done(3);
    assert_int_equal(late.code, ERR_IO);
    assert_true(is_there(id));
}

enum { MANY = 2000, LARGE = 500 };

/* MANY messages, and a disk that then has so much room and no more. */
static uint64_t *
many_and_room_for(size_t bytes)
{
    struct mail *mails = xcalloc(MANY, sizeof(*mails));
    uint64_t *ids = xcalloc(MANY, sizeof(*ids));
    for (int i = 0; i < MANY; i++) {
        mail_fill(&mails[i], "x@d.test");
        ids[i] = mails[i].op.add.msg.id;
        store_submit(t.store, &mails[i].op);
    }
    wait_done(MANY);
    free(mails);
    faults.disk_end = (long long)(stats_of(&t.f).file_bytes + bytes);
    return ids;
}

/* Retries of messages all over the tables: many pages. */
static void
large_fill(struct store_op *op, struct queue_change changes[static LARGE], const uint64_t *ids)
{
    for (int i = 0; i < LARGE; i++)
        changes[i] = change(ids[i * (MANY / LARGE)], 1, QUEUE_DEFER);
    outcome_fill(op, changes, LARGE);
}

static void
wait_blocked(size_t n)
{
    while (numbers().blocked != n) {
        inbox_run(t.inbox);
        sched_yield();
    }
}

static void
small_outcomes_do_not_wait_behind_a_large_one(void **state)
{
    (void)state;
    static struct queue_change changes[LARGE];
    struct store_op large, small[8];
    struct queue_change delivered[8];
    struct mail mail;
    uint64_t *ids = many_and_room_for(128 << 10);
    large_fill(&large, changes, ids);
    store_submit(t.store, &large);
    wait_blocked(1);
    assert_false(store_delivery_blocked(t.store));
    mail_fill(&mail, "late@d.test"); /* there is room for it, but not for it alone */
    store_submit(t.store, &mail.op);
    wait_done(MANY + 1);
    assert_int_equal(mail.op.code, ERR_FULL);
    for (int i = 0; i < 8; i++) {
        delivered[i] = change(ids[i * 50 + 1], 1, QUEUE_FINISH);
        outcome_fill(&small[i], &delivered[i], 1);
        store_submit(t.store, &small[i]);
    }
    wait_done(MANY + 9);
    for (int i = 0; i < 8; i++)
        assert_int_equal(small[i].code, ERR_OK);
    wait_blocked(1);
    while (store_delivery_blocked(t.store))
        sched_yield();
    faults_clear();
    wait_done(MANY + 10);
    assert_int_equal(large.code, ERR_OK);
    assert_int_equal(numbers().blocked, 0);
    add_mail("again@d.test");
    assert_sound(&t.f);
    free(ids);
}

static void
an_outcome_stays_behind_an_older_one_that_it_meets(void **state)
{
    (void)state;
    static struct queue_change changes[LARGE];
    struct store_op large, same_rcpt, same_fact, other;
    struct store_fact first = {.key = SPAN("learned:d"), .value = SPAN("first")},
                      second = {.key = SPAN("learned:d"), .value = SPAN("second")};
    uint64_t *ids = many_and_room_for(128 << 10);
    struct queue_change met = change(ids[0], 2, QUEUE_FINISH),
                        unmet = change(ids[1], 1, QUEUE_FINISH);
    met.result = QUEUE_FAILED;
    large_fill(&large, changes, ids);
    large.outcomes.facts = &first;
    large.outcomes.n_facts = 1;
    store_submit(t.store, &large);
    wait_blocked(1);
    outcome_fill(&same_rcpt, &met, 1);
    outcome_fill(&same_fact, NULL, 0);
    same_fact.outcomes.facts = &second;
    same_fact.outcomes.n_facts = 1;
    outcome_fill(&other, &unmet, 1);
    store_submit(t.store, &same_rcpt);
    store_submit(t.store, &same_fact);
    store_submit(t.store, &other);
    wait_done(MANY + 1);
    assert_int_equal(other.code, ERR_OK);
    assert_int_equal(other.txn_id, numbers().queue.txn_id);
    wait_blocked(3);
    faults_clear();
    wait_done(MANY + 4);
    assert_int_equal(changes[0].code, ERR_OK);
    assert_int_equal(met.code, ERR_OK); /* of the revision that the older one made */
    struct queue_facts got = {0};
    OK(queue_read_state(t.f.reader, SPAN("learned:"), SPAN_NONE, 9, &got, err));
    assert_int_equal(got.n_rows, 1);
    assert_span(got.rows[0].value, "second");
    queue_facts_release(&got);
    assert_sound(&t.f);
    free(ids);
}

static void
a_delivery_that_waits_for_room_is_told_of(void **state)
{
    (void)state;
    uint64_t a = add_mail("a@d.test"), b = add_mail("b@d.test");
    struct queue_change changes[] = {change(a, 1, QUEUE_DEFER), change(b, 1, QUEUE_FINISH)};
    struct store_op outcomes[2];
    faults.write_errno = ENOSPC;
    outcome_fill(&outcomes[0], &changes[0], 1);
    store_submit(t.store, &outcomes[0]);
    wait_blocked(1);
    assert_false(store_delivery_blocked(t.store)); /* to try again is no harm */
    outcome_fill(&outcomes[1], &changes[1], 1);
    store_submit(t.store, &outcomes[1]);
    wait_blocked(2);
    assert_true(store_delivery_blocked(t.store));
    faults_clear();
    wait_done(4);
    while (store_delivery_blocked(t.store))
        sched_yield();
    assert_int_equal(outcomes[0].code, ERR_OK);
    assert_int_equal(outcomes[1].code, ERR_OK);
}

static void
the_quota_refuses_one_message_not_the_batch(void **state)
{
    (void)state;
    uint64_t id = add_mail("a@d.test");
    struct queue_change c = change(id, 1, QUEUE_FINISH);
    struct store_op op;
    struct mail first, refused;
    size_t before = t.n_done;
    hold_writer(&first);
    assert_true(queue_limits_set(t.f.queue, 4096, 0)); /* below what is used already */
    mail_fill(&refused, "x@d.test");
    store_submit(t.store, &refused.op);
    outcome_fill(&op, &c, 1);
    store_submit(t.store, &op);
    pthread_mutex_unlock(&faults.gate);
    wait_done(before + 3);
    assert_int_equal(refused.op.code, ERR_FULL);
    assert_int_equal(op.code, ERR_OK);
    assert_int_equal(op.txn_id, refused.op.txn_id);
    assert_sound(&t.f);
}

/* ---------------------------------------------------------------------------------- outcomes */

static void
a_notice_and_the_removal_it_tells_of_are_one_commit(void **state)
{
    (void)state;
    uint64_t id = add_mail("a@d.test");
    struct queue_change c = change(id, 1, QUEUE_FINISH);
    struct queue_rcpt sender = recipient(0, "alice@src.test");
    struct span body = SPAN("Your message could not be delivered.\r\n");
    struct store_message notice = {
        .msg = message(&t.f, body.n), .rcpts = &sender, .n_rcpts = 1, .body = &body, .n_body = 1};
    struct store_fact facts[] = {{.key = SPAN("learned:d"), .value = SPAN("1")},
                                 {.key = SPAN("gone:d"), .remove = true}};
    struct store_op op;
    notice.msg.flags = QUEUE_MSG_NOTICE;
    notice.msg.sender = SPAN("");
    c.result = QUEUE_FAILED;
    outcome_fill(&op, &c, 1);
    op.outcomes.notices = &notice;
    op.outcomes.n_notices = 1;
    op.outcomes.facts = facts;
    op.outcomes.n_facts = 2;
    store_submit(t.store, &op);
    wait_done(2);
    assert_int_equal(op.code, ERR_OK);
    assert_int_equal(t.n_commits, 2);
    assert_false(is_there(id));
    assert_true(is_there(notice.msg.id));
    struct queue_facts got = {0};
    OK(queue_read_state(t.f.reader, SPAN("learned:"), SPAN_NONE, 9, &got, err));
    assert_int_equal(got.n_rows, 1);
    queue_facts_release(&got);
    assert_sound(&t.f);
}

static void
a_stale_failure_takes_its_notice_along_but_not_a_delivery(void **state)
{
    (void)state;
    uint64_t ids[3];
    for (int i = 0; i < 3; i++)
        ids[i] = add_mail("a@d.test");
    struct queue_change hold = change(ids[0], 1, QUEUE_HOLD); /* the administrator was faster */
    struct store_op op;
    outcome_fill(&op, &hold, 1);
    store_submit(t.store, &op);
    wait_done(4);
    struct queue_change changes[] = {change(ids[0], 1, QUEUE_FINISH),
                                     change(ids[1], 1, QUEUE_FINISH),
                                     change(ids[2], 1, QUEUE_FINISH)};
    struct queue_rcpt sender = recipient(0, "alice@src.test");
    struct span body = SPAN("x");
    struct store_message notice = {
        .msg = message(&t.f, 1), .rcpts = &sender, .n_rcpts = 1, .body = &body, .n_body = 1};
    notice.msg.flags = QUEUE_MSG_NOTICE;
    changes[0].result = changes[1].result = QUEUE_FAILED;
    outcome_fill(&op, changes, 3);
    op.outcomes.notices = &notice;
    op.outcomes.n_notices = 1;
    store_submit(t.store, &op);
    wait_done(5);
    assert_int_equal(op.code, ERR_STALE);
    assert_int_equal(changes[0].code, ERR_STALE);
    assert_int_equal(changes[1].code, ERR_AGAIN);
    assert_int_equal(changes[2].code, ERR_OK);
    assert_false(is_there(notice.msg.id));
    assert_true(is_there(ids[0]) && is_there(ids[1]) && !is_there(ids[2]));
    assert_int_equal(numbers().stale, 1);
    assert_sound(&t.f);
}

static void
without_a_notice_a_stale_change_is_dropped_alone(void **state)
{
    (void)state;
    uint64_t a = add_mail("a@d.test"), b = add_mail("b@d.test");
    struct queue_change changes[] = {change(a, 7, QUEUE_DEFER), change(b, 1, QUEUE_DEFER),
                                     change(b + 99, 1, QUEUE_DEFER)};
    struct store_op op;
    outcome_fill(&op, changes, 3);
    store_submit(t.store, &op);
    wait_done(3);
    assert_int_equal(op.code, ERR_OK);
    assert_int_equal(changes[0].code, ERR_STALE);
    assert_int_equal(changes[1].code, ERR_OK);
    assert_int_equal(changes[2].code, ERR_NOT_FOUND);
    assert_sound(&t.f);
}

static void
a_malformed_notice_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    uint64_t id = add_mail("a@d.test");
    struct queue_change c = change(id, 1, QUEUE_FINISH);
    struct queue_rcpt sender = recipient(0, "alice@src.test");
    struct span body = SPAN("x");
    struct store_message notice = {
        .msg = message(&t.f, 1), .rcpts = &sender, .n_rcpts = 1, .body = &body, .n_body = 1};
    struct store_op op;
    c.result = QUEUE_FAILED;
    outcome_fill(&op, &c, 1); /* the flag is missing */
    op.outcomes.notices = &notice;
    op.outcomes.n_notices = 1;
    store_submit(t.store, &op);
    wait_done(2);
    assert_int_equal(op.code, ERR_INVAL);
    assert_int_equal(c.code, ERR_AGAIN);
    assert_true(is_there(id));
}

static void
store_reopen(uint64_t history_rows)
{
    store_free(t.store);
    inbox_run(t.inbox);
    fixture_close(&t.f);
    store_open(0, history_rows);
}

/* A new message that is delivered at this moment. */
static void
finish_at(msec_t at)
{
    struct queue_change c = change(add_mail("a@d.test"), 1, QUEUE_FINISH);
    struct store_op op;
    c.finished_at = at;
    outcome_fill(&op, &c, 1);
    store_submit(t.store, &op);
    wait_done(t.n_done + 1);
    assert_int_equal(c.code, ERR_OK);
}

static void
history_is_trimmed_as_it_grows(void **state)
{
    (void)state;
    store_reopen(50);
    for (int i = 0; i < 120; i++)
        finish_at(T0 + HOUR);
    assert_in_range(numbers().queue.history, 48, 51);
    store_reopen(50);
    finish_at(T0 + 30 * DAY); /* all others are older than three days by now */
    finish_at(T0 + 30 * DAY);
    finish_at(T0 + 30 * DAY);
    assert_int_equal(numbers().queue.history, 3);
}

static void
a_clock_that_jumps_ahead_costs_no_history(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++)
        finish_at(T0 + i);
    for (int i = 0; i < 5; i++)
        finish_at(T0 + 10 * DAY + i);
    assert_int_equal(numbers().queue.history, 10);
    for (int i = 0; i < 5; i++) /* and it is put right again */
        finish_at(T0 + HOUR + i);
    assert_int_equal(numbers().queue.history, 15);
}

static void
a_clock_that_has_been_ahead_for_a_day_is_believed(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++)
        finish_at(T0 + i);
    finish_at(T0 + 10 * DAY);
    asleep_s = 23 * 3600;
    finish_at(T0 + 11 * DAY);
    assert_int_equal(numbers().queue.history, 7);
    asleep_s = 25 * 3600;
    finish_at(T0 + 11 * DAY + HOUR);
    asleep_s = 0;
    assert_int_equal(numbers().queue.history, 3); /* the first are older than three days now */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(what_waits_while_a_commit_syncs_becomes_one_commit),
        TEST(a_batch_is_capped_in_records_and_bytes),
        TEST(a_sync_failure_reaches_nobody_as_success),
        TEST(a_full_batch_refuses_new_mail_and_stores_the_outcomes_alone),
        TEST(outcomes_wait_for_room_and_new_mail_does_not_wait_with_them),
        TEST(a_stop_gives_outcomes_back_that_still_do_not_fit),
        TEST(small_outcomes_do_not_wait_behind_a_large_one),
        TEST(an_outcome_stays_behind_an_older_one_that_it_meets),
        TEST(a_delivery_that_waits_for_room_is_told_of),
        TEST(the_quota_refuses_one_message_not_the_batch),
        TEST(a_notice_and_the_removal_it_tells_of_are_one_commit),
        TEST(a_stale_failure_takes_its_notice_along_but_not_a_delivery),
        TEST(without_a_notice_a_stale_change_is_dropped_alone),
        TEST(a_malformed_notice_is_refused_and_changes_nothing),
        TEST(history_is_trimmed_as_it_grows),
        TEST(a_clock_that_jumps_ahead_costs_no_history),
        TEST(a_clock_that_has_been_ahead_for_a_day_is_believed),
    };
    RUN_TESTS(tests);
}
