/*
 * A store over a queue of its own, with the loop's side driven by hand, faults under LMDB and
 * readers that can be held up. Included by the tests of relayd/store.
 */
#pragma once

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

FIXTURE_UNUSED static void
note(char what)
{
    if (t.n_order < sizeof(t.order) - 1)
        t.order[t.n_order++] = what;
}

FIXTURE_UNUSED static void
on_commit(void *arg, const struct store_commit *commit)
{
    assert_ptr_equal(arg, &t);
    assert_true(t.n_commits < COMMITS_MAX);
    t.commits[t.n_commits++] = *commit;
    note('c');
}

FIXTURE_UNUSED static void
on_failed(void *arg, const struct err *err)
{
    assert_ptr_equal(arg, &t);
    assert_true(err->text[0] != '\0');
    t.n_failures++;
    note('f');
}

FIXTURE_UNUSED static void
op_done(struct store_op *op)
{
    (void)op;
    t.n_done++;
    note('o');
}

FIXTURE_UNUSED static void
read_done(struct store_read *read)
{
    (void)read;
    t.n_done++;
}

FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static int
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

FIXTURE_UNUSED static int
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
FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static uint64_t
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

FIXTURE_UNUSED static struct queue_change
change(uint64_t id, uint32_t revision, enum queue_verb verb)
{
    return (struct queue_change){.id = id,
                                 .revision = revision,
                                 .verb = verb,
                                 .due_at = T0 + MINUTE,
                                 .result = QUEUE_DELIVERED,
                                 .finished_at = T0 + HOUR};
}

FIXTURE_UNUSED static void
outcome_fill(struct store_op *op, struct queue_change *changes, size_t n)
{
    memset(op, 0, sizeof(*op));
    op->kind = STORE_OUTCOMES;
    op->done = op_done;
    op->outcomes.changes = changes;
    op->outcomes.n_changes = n;
}

FIXTURE_UNUSED static bool
is_there(uint64_t id)
{
    struct queue_mail m = {0};
    enum err_code code = queue_read_mail(t.f.reader, id, &m, NULL);
    queue_mail_release(&m);
    return code == ERR_OK;
}

FIXTURE_UNUSED static struct store_numbers
numbers(void)
{
    struct store_numbers n;
    store_numbers(t.store, &n);
    return n;
}

/* Keep the writer in the sync of one op; what is submitted now waits for the next commit. */
FIXTURE_UNUSED static void
hold_writer(struct mail *m)
{
    int before = faults.n_syncs;
    pthread_mutex_lock(&faults.gate);
    mail_fill(m, "first@d.test");
    store_submit(t.store, &m->op);
    while (faults.n_syncs == before)
        sched_yield();
}
