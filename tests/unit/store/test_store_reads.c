#include "tests/unit/store/store_fixture.h"

#include <limits.h>

/* ------------------------------------------------------------------------ big bodies, admin */

static void
a_big_body_goes_through_chunks_and_may_be_dropped(void **state)
{
    (void)state;
    size_t part = 8 * QUEUE_CHUNK_BYTES, total = 2 * part + 77;
    char *bytes = body_bytes(total, 4);
    struct span pieces[3];
    struct store_op ops[3], drop;
    struct mail mail;
    mail_fill(&mail, "x@d.test");
    mail.op.kind = STORE_ADD_BIG;
    mail.op.add.msg.body_bytes = total;
    for (size_t i = 0; i < 3; i++) {
        memset(&ops[i], 0, sizeof(ops[i]));
        pieces[i] = span_of(bytes + i * part, i == 2 ? 77 : part);
        ops[i].kind = STORE_CHUNK;
        ops[i].done = op_done;
        ops[i].chunk.id = mail.op.add.msg.id;
        ops[i].chunk.offset = i * part;
        ops[i].chunk.bytes = &pieces[i];
        ops[i].chunk.n_bytes = 1;
        store_submit(t.store, &ops[i]);
    }
    store_submit(t.store, &mail.op); /* in order behind its parts */
    wait_done(4);
    assert_int_equal(mail.op.code, ERR_OK);
    assert_true(is_there(mail.op.add.msg.id));
    ops[0].chunk.id = drop.chunk.id = queue_id_new(t.f.queue, T0);
    store_submit(t.store, &ops[0]);
    drop.kind = STORE_DROP;
    drop.done = op_done;
    drop.chunk.id = ops[0].chunk.id;
    store_submit(t.store, &drop);
    wait_done(6);
    assert_int_equal(drop.code, ERR_OK);
    store_submit(t.store, &drop); /* dropping twice is fine */
    wait_done(7);
    assert_int_equal(drop.code, ERR_OK);
    assert_int_equal(numbers().queue.incoming, 0);
    free(bytes);
    assert_sound(&t.f);
}

static void
an_admin_verb_goes_over_all_matches_in_slices(void **state)
{
    (void)state;
    enum { N = 25 };
    struct queue_touched touched[10];
    size_t total = 0, slices = 0;
    for (int i = 0; i < N; i++)
        add_mail(i % 5 == 0 ? "x@other.test" : "x@d.test");
    struct store_op op = {.kind = STORE_ADMIN, .done = op_done};
    op.admin.filter.domain = SPAN("d.test");
    op.admin.change.verb = QUEUE_HOLD;
    op.admin.touched = touched;
    op.admin.max = 8;
    do {
        store_submit(t.store, &op);
        wait_done(t.n_done + 1);
        assert_int_equal(op.code, ERR_OK);
        total += op.admin.n_touched;
        slices++;
    } while (op.admin.more);
    assert_int_equal(total, 20);
    assert_int_equal(slices, 3);
    assert_int_equal(numbers().queue.held, 20);
    assert_sound(&t.f);
}

static void
a_refused_admin_slice_may_be_repeated(void **state)
{
    (void)state;
    struct queue_touched touched[10];
    add_mail("x@d.test");
    struct store_op op = {.kind = STORE_ADMIN, .done = op_done};
    op.admin.change.verb = QUEUE_HOLD;
    op.admin.touched = touched;
    op.admin.max = 8;
    faults.write_errno = ENOSPC;
    store_submit(t.store, &op);
    wait_done(2);
    assert_int_equal(op.code, ERR_FULL);
    assert_int_equal(op.admin.after.id, 0); /* it did not move */
    faults_clear();
    store_submit(t.store, &op);
    wait_done(3);
    assert_int_equal(op.code, ERR_OK);
    assert_int_equal(op.admin.n_touched, 1);
}

/* ------------------------------------------------------------------------------------- reads */

static void
read_and_wait(struct store_read *r)
{
    r->done = read_done;
    store_read(t.store, r);
    wait_done(t.n_done + 1);
    if (r->code != ERR_OK)
        fail_msg("read %d: %s", (int)r->kind, r->err.text);
}

static void
every_kind_of_read_comes_back(void **state)
{
    (void)state;
    char buf[100];
    struct queue_lane_row lanes[4];
    uint64_t id = add_mail("x@d.test"), due = add_mail("y@e.test"), gone = add_mail("z@f.test");
    struct queue_change changes[] = {change(due, 1, QUEUE_DEFER), change(gone, 1, QUEUE_FINISH)};
    struct store_fact fact = {.key = SPAN("learned:d"), .value = SPAN("1")};
    struct store_op op;
    outcome_fill(&op, changes, 2);
    op.outcomes.facts = &fact;
    op.outcomes.n_facts = 1;
    store_submit(t.store, &op);
    wait_done(4);

    struct store_read r = {.kind = STORE_READ_MAIL, .mail.id = id};
    read_and_wait(&r);
    assert_int_equal(r.mail.mail.n_rcpts, 1);
    assert_int_equal(r.txn_id, op.txn_id);
    queue_mail_release(&r.mail.mail);
    r = (struct store_read){.kind = STORE_READ_BODY,
                            .body = {.id = id, .offset = 9, .buf = buf, .cap = 3}};
    read_and_wait(&r);
    assert_int_equal(r.body.n, 3);
    assert_memory_equal(buf, "x\r\n", 3);
    r = (struct store_read){.kind = STORE_READ_FRESH, .fresh.max = 9};
    read_and_wait(&r);
    assert_int_equal(r.fresh.page.n_rows, 1);
    assert_int_equal(r.fresh.after.id, id);
    queue_page_release(&r.fresh.page);
    r = (struct store_read){.kind = STORE_READ_LANES,
                            .lanes = {.from_start = true, .rows = lanes, .max = 4}};
    read_and_wait(&r);
    assert_int_equal(r.lanes.n, 1);
    assert_int_equal(lanes[0].lane, queue_lane(t.f.queue, SPAN("e.test")));
    r = (struct store_read){.kind = STORE_READ_LANE,
                            .lane = {.lane = lanes[0].lane, .until = T0 + HOUR, .max = 9}};
    read_and_wait(&r);
    assert_int_equal(r.lane.page.n_rows, 1);
    assert_int_equal(r.lane.page.rows[0].rcpt.id, due);
    queue_page_release(&r.lane.page);
    r = (struct store_read){.kind = STORE_READ_LIST, .list.max = 9};
    read_and_wait(&r);
    assert_int_equal(r.list.page.n_rows, 2);
    queue_page_release(&r.list.page);
    r = (struct store_read){.kind = STORE_READ_HISTORY, .history = {.id = gone, .max = 9}};
    read_and_wait(&r);
    assert_int_equal(r.history.history.n_rows, 1);
    queue_history_release(&r.history.history);
    r = (struct store_read){.kind = STORE_READ_RECENT, .recent = {.since = T0, .max = 9}};
    read_and_wait(&r);
    assert_int_equal(r.recent.history.n_rows, 1);
    assert_int_equal(r.recent.before.id, gone);
    queue_history_release(&r.recent.history);
    r = (struct store_read){.kind = STORE_READ_STATE, .state = {.max = 9}};
    read_and_wait(&r);
    assert_int_equal(r.state.facts.n_rows, 1);
    queue_facts_release(&r.state.facts);
    struct queue_verify *v = queue_verify_new();
    do {
        r = (struct store_read){.kind = STORE_READ_VERIFY, .verify.verify = v};
        read_and_wait(&r);
    } while (!r.verify.result.finished);
    assert_int_equal(r.verify.result.n_findings, 0);
    queue_verify_free(v);
    r = (struct store_read){.kind = STORE_READ_MAIL, .mail.id = 5, .done = read_done};
    store_read(t.store, &r);
    wait_done(t.n_done + 1);
    assert_int_equal(r.code, ERR_NOT_FOUND);
    assert_null(r.mail.mail.memory);
}

static void
a_delayed_reader_cannot_bring_a_finished_recipient_back(void **state)
{
    (void)state;
    uint64_t id = add_mail("x@d.test");
    uint64_t before = store_read_floor(t.store);
    struct queue_change c = change(id, 1, QUEUE_FINISH);
    struct store_op op;
    struct store_read r = {.kind = STORE_READ_FRESH, .done = read_done, .fresh.max = 9};
    int snapshots = n_snapshots;
    size_t done = t.n_done;
    pthread_mutex_lock(&reader_gate);
    store_read(t.store, &r);
    while (n_snapshots == snapshots) /* the reader has its snapshot and waits */
        sched_yield();
    outcome_fill(&op, &c, 1);
    store_submit(t.store, &op);
    wait_done(done + 1);
    assert_int_equal(op.code, ERR_OK);
    assert_int_equal(store_read_floor(t.store), before); /* the loop must still remember */
    assert_true(op.txn_id > store_read_floor(t.store));
    pthread_mutex_unlock(&reader_gate);
    wait_done(done + 2);
    assert_int_equal(r.fresh.page.n_rows, 1); /* here it is, delivered already */
    assert_true(r.txn_id < op.txn_id);        /* and by this it is dropped */
    queue_page_release(&r.fresh.page);
    assert_int_equal(store_read_floor(t.store), op.txn_id);
}

/* An operation whose end begins a read, whose end begins an operation, as an outcome with a notice
 * does; `laps` times. */
struct journey {
    struct mail mail;
    struct store_read read;
    struct queue_change change;
    struct store_op last;
    int laps;
    size_t n_good;
};

static void
journey_ended(struct store_op *op)
{
    struct journey *j = CONTAINER_OF(op, struct journey, last);
    j->n_good += op->code == ERR_OK;
    if (--j->laps > 0)
        store_read(t.store, &j->read);
}

static void
journey_read(struct store_read *read)
{
    struct journey *j = CONTAINER_OF(read, struct journey, read);
    j->n_good += read->code == ERR_OK;
    if (read->code == ERR_OK)
        queue_mail_release(&read->mail.mail);
    j->change = change(j->mail.op.add.msg.id, 1, QUEUE_FINISH);
    outcome_fill(&j->last, &j->change, 1);
    j->last.done = journey_ended;
    store_submit(t.store, &j->last);
}

static void
journey_begun(struct store_op *op)
{
    struct journey *j = CONTAINER_OF(op, struct journey, mail.op);
    j->n_good += op->code == ERR_OK;
    j->read = (struct store_read){
        .kind = STORE_READ_MAIL, .done = journey_read, .mail.id = op->add.msg.id};
    store_read(t.store, &j->read);
}

static void
journey_start(struct journey *j, int laps)
{
    *j = (struct journey){.laps = laps};
    mail_fill(&j->mail, "x@d.test");
    j->mail.op.done = journey_begun;
    store_submit(t.store, &j->mail.op);
}

static void
what_takes_several_steps_ends_whole_before_a_stop(void **state)
{
    (void)state;
    enum { N = 50 };
    struct journey *journeys = xcalloc(N, sizeof(*journeys));
    for (int i = 0; i < N; i++)
        journey_start(&journeys[i], 1);
    assert_true(store_settle(t.store, STORE_SETTLE_MS));
    assert_int_equal(numbers().waiting_ops, 0);
    assert_int_equal(numbers().waiting_reads, 0);
    store_stop(t.store);
    assert_int_equal(inbox_run(t.inbox), 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(journeys[i].n_good, 3);
        assert_false(is_there(journeys[i].mail.op.add.msg.id));
    }
    assert_true(store_settle(t.store, STORE_SETTLE_MS)); /* of nothing */
    free(journeys);
}

static void
settling_has_an_end(void **state)
{
    (void)state;
    struct journey j;
    journey_start(&j, INT_MAX);
    assert_false(store_settle(t.store, 50));
    j.laps = 1;
    assert_true(store_settle(t.store, STORE_SETTLE_MS));
}

static void
outcomes_without_room_are_not_waited_for(void **state)
{
    (void)state;
    struct store_op op;
    uint64_t id = add_mail("x@d.test");
    struct queue_change c = change(id, 1, QUEUE_FINISH);
    outcome_fill(&op, &c, 1);
    faults.write_errno = ENOSPC;
    store_submit(t.store, &op);
    assert_true(store_settle(t.store, STORE_SETTLE_MS));
    assert_int_equal(numbers().blocked, 1);
    faults_clear();
    store_stop(t.store); /* tries them for the last time */
    wait_done(2);
    assert_int_equal(op.code, ERR_OK);
    assert_false(is_there(id));
}

static void
reads_and_ops_of_a_stop_are_all_answered(void **state)
{
    (void)state;
    enum { N = 200 };
    struct mail *mails = xcalloc(N, sizeof(*mails));
    struct store_read *reads = xcalloc(N, sizeof(*reads));
    for (int i = 0; i < N; i++) {
        mail_fill(&mails[i], "x@d.test");
        store_submit(t.store, &mails[i].op);
        reads[i] = (struct store_read){
            .kind = STORE_READ_MAIL, .done = read_done, .mail.id = mails[i].op.add.msg.id};
        store_read(t.store, &reads[i]);
    }
    store_stop(t.store);
    wait_done(2 * N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(mails[i].op.code, ERR_OK);
        assert_true(is_there(mails[i].op.add.msg.id));
        queue_mail_release(&reads[i].mail.mail);
    }
    struct store_read late = {.kind = STORE_READ_MAIL, .done = read_done};
    store_read(t.store, &late);
    wait_done(2 * N + 1);
    assert_int_equal(late.code, ERR_IO);
    assert_int_equal(numbers().waiting_reads, 0);
    free(mails);
    free(reads);
}

/* ----------------------------------------------------------------------------------- credits */

static struct {
    struct store_credit credit;
    int n_granted;
} waiters[4];
static int grant_order[8], n_grants;

static void
granted(struct store_credit *credit)
{
    size_t i = (size_t)((char *)credit - (char *)waiters) / sizeof(waiters[0]);
    waiters[i].n_granted++;
    grant_order[n_grants++] = (int)i;
}

static void
credits_are_given_in_the_order_of_the_line(void **state)
{
    (void)state;
    memset(waiters, 0, sizeof(waiters));
    n_grants = 0;
    store_credit_limit(t.store, STORE_POOL_INTAKE, 2);
    assert_true(store_credit_take(t.store, STORE_POOL_INTAKE));
    assert_true(store_credit_take(t.store, STORE_POOL_INTAKE));
    assert_false(store_credit_take(t.store, STORE_POOL_INTAKE));
    assert_true(store_credit_take(t.store, STORE_POOL_READ)); /* pools are apart */
    for (int i = 0; i < 4; i++) {
        waiters[i].credit.granted = granted;
        assert_false(store_credit_wait(t.store, STORE_POOL_INTAKE, &waiters[i].credit));
    }
    store_credit_cancel(t.store, &waiters[1].credit);
    store_credit_cancel(t.store, &waiters[1].credit); /* twice is fine */
    store_credit_give(t.store, STORE_POOL_INTAKE);
    assert_int_equal(n_grants, 1);
    assert_int_equal(store_credit_used(t.store, STORE_POOL_INTAKE), 2);
    assert_false(store_credit_take(t.store, STORE_POOL_INTAKE)); /* others were first */
    store_credit_limit(t.store, STORE_POOL_INTAKE, 3);
    store_credit_give(t.store, STORE_POOL_INTAKE);
    assert_int_equal(n_grants, 3);
    assert_int_equal(grant_order[0], 0);
    assert_int_equal(grant_order[1], 2);
    assert_int_equal(grant_order[2], 3);
    assert_int_equal(waiters[1].n_granted, 0);
    assert_int_equal(store_credit_used(t.store, STORE_POOL_INTAKE), 3);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_big_body_goes_through_chunks_and_may_be_dropped),
        TEST(an_admin_verb_goes_over_all_matches_in_slices),
        TEST(a_refused_admin_slice_may_be_repeated),
        TEST(every_kind_of_read_comes_back),
        TEST(a_delayed_reader_cannot_bring_a_finished_recipient_back),
        TEST(what_takes_several_steps_ends_whole_before_a_stop),
        TEST(settling_has_an_end),
        TEST(outcomes_without_room_are_not_waited_for),
        TEST(reads_and_ops_of_a_stop_are_all_answered),
        TEST(credits_are_given_in_the_order_of_the_line),
    };
    RUN_TESTS(tests);
}
