/* Outcomes that wait for room: what goes before others, and when room is seen. */
#include "tests/unit/store/store_fixture.h"

#include <dlfcn.h>

#define LARGE_BYTES (200 << 10)
#define N_LARGE 8

static atomic_bool begin_fails;

int
mdb_txn_begin(MDB_env *env, MDB_txn *parent, unsigned flags, MDB_txn **ret)
{
    static int (*real)(MDB_env *, MDB_txn *, unsigned, MDB_txn **);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "mdb_txn_begin");
    return (flags & MDB_RDONLY) == 0 && begin_fails ? ENOMEM : real(env, parent, flags, ret);
}

static char large[LARGE_BYTES];

/* Some large messages, and a disk with less room than one of them takes. */
static void
fill_disk(void)
{
    memset(large, 'x', sizeof(large));
    for (int i = 0; i < N_LARGE; i++) {
        struct mail m;
        mail_fill(&m, "large@large.test");
        m.op.add.msg = message(&t.f, LARGE_BYTES);
        m.body = span_of(large, LARGE_BYTES);
        store_submit(t.store, &m.op);
        wait_done(t.n_done + 1);
        assert_int_equal(m.op.code, ERR_OK);
    }
}

struct outcome_op {
    struct store_op op;
    struct queue_change changes[2];
    struct queue_rcpt sender;
    struct store_message notice;
    struct span body;
};

/* `failed` is given up, with a large notice; `delivered` (0: nobody) has been delivered. */
static void
fill_with_notice(struct outcome_op *o, uint64_t failed, uint64_t delivered)
{
    o->changes[0] = change(failed, 1, QUEUE_FINISH);
    o->changes[0].result = QUEUE_FAILED;
    o->changes[1] = change(delivered, 1, QUEUE_FINISH);
    outcome_fill(&o->op, o->changes, delivered == 0 ? 1 : 2);
    o->sender = recipient(0, "alice@src.test");
    o->body = span_of(large, LARGE_BYTES);
    o->notice = (struct store_message){.msg = message(&t.f, LARGE_BYTES),
                                       .rcpts = &o->sender,
                                       .n_rcpts = 1,
                                       .body = &o->body,
                                       .n_body = 1};
    o->notice.msg.flags = QUEUE_MSG_NOTICE;
    o->op.outcomes.notices = &o->notice;
    o->op.outcomes.n_notices = 1;
}

static void
wait_blocked(size_t n)
{
    while (numbers().blocked != n)
        sched_yield();
}

static void
a_delivery_does_not_wait_for_the_room_of_a_notice(void **state)
{
    (void)state;
    struct outcome_op o;
    fill_disk();
    uint64_t delivered = add_mail("a@d.test"), failed = add_mail("b@d.test");
    faults.disk_end = (long long)(stats_of(&t.f).file_bytes + (100 << 10));
    fill_with_notice(&o, failed, delivered);
    store_submit(t.store, &o.op);
    wait_done(t.n_done + 1);
    assert_int_equal(o.op.code, ERR_STALE);
    assert_int_equal(o.changes[0].code, ERR_AGAIN);
    assert_int_equal(o.changes[1].code, ERR_OK);
    assert_false(is_there(delivered));
    assert_true(is_there(failed));
    while (store_delivery_blocked(t.store)) /* said behind the answer */
        sched_yield();
    faults_clear();
}

static void
room_is_seen_where_nothing_else_goes_on(void **state)
{
    (void)state;
    static struct queue_touched touched[64];
    struct outcome_op o;
    fill_disk();
    uint64_t failed = add_mail("b@d.test");
    faults.disk_end = (long long)(stats_of(&t.f).file_bytes + (100 << 10));
    fill_with_notice(&o, failed, 0);
    store_submit(t.store, &o.op);
    wait_blocked(1);
    struct store_op removal = {.kind = STORE_ADMIN, .done = op_done};
    removal.admin.filter.domain = SPAN("large.test");
    removal.admin.change = change(0, 0, QUEUE_FINISH);
    removal.admin.change.result = QUEUE_REMOVED;
    removal.admin.touched = touched;
    removal.admin.max = N_ELEMENTS(touched);
    store_submit(t.store, &removal);
    wait_done(t.n_done + 2);
    assert_int_equal(removal.admin.n_touched, N_LARGE);
    assert_int_equal(o.op.code, ERR_OK);
    faults_clear();
}

static void
every_outcome_is_answered_when_no_transaction_can_begin(void **state)
{
    (void)state;
    uint64_t a = add_mail("a@d.test"), b = add_mail("b@d.test");
    struct queue_change x = change(a, 1, QUEUE_FINISH), y = change(b, 1, QUEUE_FINISH);
    struct store_op ops[2];
    faults.write_errno = ENOSPC;
    outcome_fill(&ops[0], &x, 1);
    outcome_fill(&ops[1], &y, 1);
    size_t before = t.n_done;
    store_submit(t.store, &ops[0]);
    store_submit(t.store, &ops[1]);
    wait_blocked(2);
    begin_fails = true;
    wait_done(before + 2);
    assert_int_equal(numbers().waiting_ops, 0);
    begin_fails = false;
    faults_clear();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_delivery_does_not_wait_for_the_room_of_a_notice),
        TEST(room_is_seen_where_nothing_else_goes_on),
        TEST(every_outcome_is_answered_when_no_transaction_can_begin),
    };
    RUN_TESTS(tests);
}
