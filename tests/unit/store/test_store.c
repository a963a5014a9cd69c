#include "tests/unit/queue/fixture.h"

#include <dlfcn.h>
#include <sched.h>

#include "relayd/store/store.h"
#include "tests/unit/queue/faults.h"

/* --------------------------------------------------------------------------------- a store */

#define COMMITS_MAX 4096

static struct {
    struct fixture f;
    struct inbox *inbox;
    struct store *store;
    struct store_commit commits[COMMITS_MAX];
    size_t n_commits, n_failures;
    size_t n_done;   /* ops and reads */
    char order[256]; /* c commit, o op, f failure, as they came to the loop */
    size_t n_order;
} t;

/* Readers wait here once they have their snapshot. */
static pthread_mutex_t reader_gate = PTHREAD_MUTEX_INITIALIZER;
static atomic_int n_snapshots;

int
mdb_txn_renew(MDB_txn *txn)
{
    static int (*real)(MDB_txn *);
    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "mdb_txn_renew");
    int rc = real(txn);
    n_snapshots++;
    pthread_mutex_lock(&reader_gate);
    pthread_mutex_unlock(&reader_gate);
    return rc;
}

static void
note(char what)
{
    if (t.n_order < sizeof(t.order) - 1)
        t.order[t.n_order++] = what;
}

static void
on_commit(void *arg, const struct store_commit *commit)
{
    assert_ptr_equal(arg, &t);
    assert_true(t.n_commits < COMMITS_MAX);
    t.commits[t.n_commits++] = *commit;
    note('c');
}

static void
on_failed(void *arg, const struct err *err)
{
    assert_ptr_equal(arg, &t);
    assert_true(err->text[0] != '\0');
    t.n_failures++;
    note('f');
}

static void
op_done(struct store_op *op)
{
    (void)op;
    t.n_done++;
    note('o');
}

static void
read_done(struct store_read *read)
{
    (void)read;
    t.n_done++;
}

static void
store_open(unsigned n_readers, uint64_t history_rows)
{
    OK(queue_open(&t.f.options, &t.f.queue, &t.f.info, err));
    OK(queue_reader_new(t.f.queue, &t.f.reader, err));
    struct store_options options = {.queue = t.f.queue,
                                    .inbox = t.inbox,
                                    .n_readers = n_readers,
                                    .history_rows = history_rows,
                                    .arg = &t,
                                    .on_failed = on_failed,
                                    .on_commit = on_commit};
    OK(store_new(&options, &t.store, err));
}

static int
setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    faults_clear();
    fixture_make_dir(&t.f);
    t.inbox = inbox_new(NULL);
    store_open(0, 0);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    faults_clear();
    store_free(t.store);
    inbox_run(t.inbox);
    inbox_free(t.inbox);
    fixture_close(&t.f);
    remove_dir(t.f.dir);
    return 0;
}

/* Let the loop run until n completions have come. */
static void
wait_done(size_t n)
{
    while (t.n_done < n) {
        assert_true(inbox_wait(t.inbox, 20000));
        inbox_run(t.inbox);
    }
    assert_int_equal(t.n_done, n);
}

struct mail {
    struct store_op op;
    struct queue_rcpt rcpt;
    struct span body;
};

static void
mail_fill(struct mail *m, const char *address)
{
    memset(m, 0, sizeof(*m));
    m->rcpt = recipient(0, address);
    m->body = SPAN("Subject: x\r\n\r\nhello\r\n");
    m->op.kind = STORE_ADD;
    m->op.done = op_done;
    m->op.add.msg = message(&t.f, m->body.n);
    m->op.add.rcpts = &m->rcpt;
    m->op.add.n_rcpts = 1;
    m->op.add.body = &m->body;
    m->op.add.n_body = 1;
}

static uint64_t
add_mail(const char *address)
{
    struct mail m;
    mail_fill(&m, address);
    store_submit(t.store, &m.op);
    wait_done(t.n_done + 1);
    if (m.op.code != ERR_OK)
        fail_msg("add: %s", m.op.err.text);
    return m.op.add.msg.id;
}

static struct queue_change
change(uint64_t id, uint32_t revision, enum queue_verb verb)
{
    return (struct queue_change){.id = id,
                                 .revision = revision,
                                 .verb = verb,
                                 .due_at = T0 + MINUTE,
                                 .result = QUEUE_DELIVERED,
                                 .finished_at = T0 + HOUR};
}

static void
outcome_fill(struct store_op *op, struct queue_change *changes, size_t n)
{
    memset(op, 0, sizeof(*op));
    op->kind = STORE_OUTCOMES;
    op->done = op_done;
    op->outcomes.changes = changes;
    op->outcomes.n_changes = n;
}

static bool
is_there(uint64_t id)
{
    struct queue_mail m = {0};
    enum err_code code = queue_read_mail(t.f.reader, id, &m, NULL);
    queue_mail_release(&m);
    return code == ERR_OK;
}

static struct store_numbers
numbers(void)
{
    struct store_numbers n;
    store_numbers(t.store, &n);
    return n;
}

/* Keep the writer in the sync of one op; what is submitted now waits for the next commit. */
static void
hold_writer(struct mail *m)
{
    int before = faults.n_syncs;
    pthread_mutex_lock(&faults.gate);
    mail_fill(m, "first@d.test");
    store_submit(t.store, &m->op);
    while (faults.n_syncs == before)
        sched_yield();
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
history_is_trimmed_as_it_grows(void **state)
{
    (void)state;
    store_free(t.store);
    inbox_run(t.inbox);
    fixture_close(&t.f);
    store_open(0, 50);
    for (int i = 0; i < 120; i++) {
        struct queue_change c = change(add_mail("a@d.test"), 1, QUEUE_FINISH);
        struct store_op op;
        outcome_fill(&op, &c, 1);
        store_submit(t.store, &op);
        wait_done(t.n_done + 1);
    }
    assert_in_range(numbers().queue.history, 48, 51);
    struct queue_change c = change(add_mail("a@d.test"), 1, QUEUE_FINISH);
    struct store_op op;
    c.finished_at = T0 + 30 * DAY; /* all others are older than three days by now */
    outcome_fill(&op, &c, 1);
    store_submit(t.store, &op);
    wait_done(t.n_done + 1);
    assert_in_range(numbers().queue.history, 1, 40);
}

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
        TEST(what_waits_while_a_commit_syncs_becomes_one_commit),
        TEST(a_batch_is_capped_in_records_and_bytes),
        TEST(a_sync_failure_reaches_nobody_as_success),
        TEST(a_full_batch_refuses_new_mail_and_stores_the_outcomes_alone),
        TEST(outcomes_wait_for_room_and_new_mail_does_not_wait_with_them),
        TEST(a_stop_gives_outcomes_back_that_still_do_not_fit),
        TEST(the_quota_refuses_one_message_not_the_batch),
        TEST(a_notice_and_the_removal_it_tells_of_are_one_commit),
        TEST(a_stale_failure_takes_its_notice_along_but_not_a_delivery),
        TEST(without_a_notice_a_stale_change_is_dropped_alone),
        TEST(a_malformed_notice_is_refused_and_changes_nothing),
        TEST(history_is_trimmed_as_it_grows),
        TEST(a_big_body_goes_through_chunks_and_may_be_dropped),
        TEST(an_admin_verb_goes_over_all_matches_in_slices),
        TEST(a_refused_admin_slice_may_be_repeated),
        TEST(every_kind_of_read_comes_back),
        TEST(a_delayed_reader_cannot_bring_a_finished_recipient_back),
        TEST(reads_and_ops_of_a_stop_are_all_answered),
        TEST(credits_are_given_in_the_order_of_the_line),
    };
    RUN_TESTS(tests);
}
