#include "tests/unit/queue/fixture.h"

#include "tests/unit/queue/faults.h"

/* Adds a message with a 4 KiB body; the code of queue_add() or of the commit. */
static enum err_code
add_4k(struct fixture *f, uint32_t flags, uint64_t *ret_id)
{
    static char bytes[4096];
    struct span body = span_of(bytes, sizeof(bytes));
    struct queue_rcpt rcpt = recipient(0, "x@d.test");
    struct queue_msg msg = message(f, sizeof(bytes));
    struct queue_batch *batch = begin(f);
    struct err err;
    uint64_t txn;
    msg.flags = flags;
    *ret_id = msg.id;
    enum err_code code = queue_add(batch, &msg, &rcpt, 1, &body, 1, &err);
    if (code == ERR_OK || !queue_batch_dead(batch)) {
        enum err_code committed = queue_commit(batch, &txn, &err);
        return code == ERR_OK ? committed : code;
    }
    queue_abort(batch);
    return code;
}

/* Adds a message whose body is that large. */
static uint64_t
add_bytes(struct fixture *f, size_t n)
{
    char *bytes = body_bytes(n, 1);
    struct span body = span_of(bytes, n);
    struct queue_rcpt rcpt = recipient(0, "x@d.test");
    struct queue_msg msg = message(f, n);
    struct queue_batch *batch = begin(f);
    OK(queue_add(batch, &msg, &rcpt, 1, &body, 1, err));
    commit(batch);
    free(bytes);
    return msg.id;
}

static enum err_code
finish_one(struct fixture *f, uint64_t id)
{
    struct queue_change c = {.id = id,
                             .revision = 1,
                             .verb = QUEUE_FINISH,
                             .result = QUEUE_DELIVERED,
                             .finished_at = T0};
    struct err err;
    uint64_t txn;
    struct queue_batch *batch = begin(f);
    enum err_code code = queue_apply(batch, &c, &err);
    if (code == ERR_OK)
        return queue_commit(batch, &txn, &err);
    queue_abort(batch);
    return code;
}

static void
the_quota_stops_new_mail_at_ninety_percent_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[2000], notice;
    size_t n = 0;
    f->options.max_bytes = 4 * MIB;
    fixture_open(f);
    while (n < N_ELEMENTS(ids) && add_4k(f, 0, &ids[n]) == ERR_OK)
        n++;
    assert_in_range(n, 200, 1000);
    struct queue_stats s = stats_of(f);
    assert_in_range(s.used_bytes, 3 * MIB, 4 * MIB * 9 / 10);
    assert_int_equal(s.quota_bytes, 4 * MIB);
    static char part[QUEUE_CHUNK_BYTES];
    struct span big = span_of(part, sizeof(part));
    struct queue_batch *batch = begin(f);
    FAILS(ERR_FULL, queue_incoming_chunk(batch, queue_id_new(f->queue, T0), 0, &big, 1, err));
    assert_false(queue_batch_dead(batch));
    queue_abort(batch);
    for (int i = 0; i < 50; i++)
        assert_int_equal(add_4k(f, QUEUE_MSG_NOTICE, &notice), ERR_OK);
    assert_int_equal(finish_one(f, ids[0]), ERR_OK);
    for (size_t i = 1; i < n; i++)
        assert_int_equal(finish_one(f, ids[i]), ERR_OK);
    assert_int_equal(add_4k(f, 0, &ids[0]), ERR_OK); /* and there is room again */
    assert_sound(f);
}

static void
a_reload_may_change_the_quota_within_the_map(void **state)
{
    struct fixture *f = *state;
    uint64_t id;
    f->options.max_bytes = 16 * MIB;
    fixture_open(f);
    assert_true(queue_limits_set(f->queue, 1 * MIB, 0));
    while (add_4k(f, 0, &id) == ERR_OK)
        assert_true(stats_of(f).used_bytes < 2 * MIB);
    assert_true(queue_limits_set(f->queue, 8 * MIB, 0));
    assert_int_equal(add_4k(f, 0, &id), ERR_OK);
    assert_false(queue_limits_set(f->queue, 1024 * MIB, 0));
    assert_int_equal(stats_of(f).quota_bytes, 16 * MIB);
}

static void
new_mail_waits_while_the_disk_is_short(void **state)
{
    struct fixture *f = *state;
    uint64_t id, other;
    f->options.min_free_bytes = 100 * MIB;
    fixture_open(f);
    assert_int_equal(add_4k(f, 0, &id), ERR_OK);
    faults.disk_free = 99ll * MIB;
    assert_int_equal(add_4k(f, 0, &other), ERR_FULL);
    assert_int_equal(add_4k(f, QUEUE_MSG_NOTICE, &other), ERR_OK);
    assert_int_equal(finish_one(f, id), ERR_OK);
    assert_int_equal(stats_of(f).disk_free_bytes, 99 * MIB);
    assert_true(queue_limits_set(f->queue, f->options.max_bytes, 50 * MIB));
    assert_int_equal(add_4k(f, 0, &other), ERR_OK);
}

static void
the_default_for_free_space_is_at_most_a_twentieth_of_the_disk(void **state)
{
    struct fixture *f = *state;
    struct statvfs fs;
    f->options.min_free_bytes = -1;
    fixture_open(f);
    assert_int_equal(statvfs(f->dir, &fs), 0);
    uint64_t twentieth = (uint64_t)fs.f_blocks * fs.f_frsize / 20, most = 1024ull * MIB;
    assert_int_equal(stats_of(f).min_free_bytes, twentieth < most ? twentieth : most);
}

static void
a_full_map_kills_the_batch_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    uint64_t ids[4000];
    size_t n = 0;
    enum err_code code = ERR_OK;
    f->options.max_bytes = 1024 * MIB; /* the quota is never reached */
    f->options.map_bytes = 2 * MIB;
    fixture_open(f);
    assert_true(queue_limits_set(f->queue, 0, 0) == false);
    while (n < N_ELEMENTS(ids) && (code = add_4k(f, QUEUE_MSG_NOTICE, &ids[n])) == ERR_OK)
        n++;
    assert_int_equal(code, ERR_FULL);
    assert_int_equal(stats_of(f).messages, n);
    assert_sound(f);
    fixture_reopen(f);
    assert_int_equal(stats_of(f).messages, n);
}

/* max_size was lowered below what waits: that must still get out. */
static void
a_queue_above_its_new_quota_takes_every_outcome(void **state)
{
    struct fixture *f = *state;
    static const size_t sizes[] = {2000, 500000};
    for (size_t i = 0; i < N_ELEMENTS(sizes); i++) {
        uint64_t ids[4000], id;
        size_t n = 0;
        f->options.max_bytes = 64 * MIB;
        fixture_open(f);
        while (n < N_ELEMENTS(ids) && stats_of(f).used_bytes < 12 * MIB)
            ids[n++] = add_bytes(f, sizes[i]);
        f->options.max_bytes = 1 * MIB;
        fixture_reopen(f);
        assert_int_equal(add_4k(f, 0, &id), ERR_FULL);
        for (size_t k = 0; k < n; k++)
            if (finish_one(f, ids[k]) != ERR_OK)
                fail_msg("outcome %zu of %zu does not fit", k, n);
        assert_int_equal(stats_of(f).messages, 0);
        assert_sound(f);
        fixture_close(f);
    }
    fixture_open(f);
}

/* ---------------------------------------------------------------------- failing writes, syncs */

static void
a_full_disk_refuses_the_batch_and_the_next_one_may_succeed(void **state)
{
    struct fixture *f = *state;
    static const int errors[] = {ENOSPC, EDQUOT};
    uint64_t id, kept;
    fixture_open(f);
    assert_int_equal(add_4k(f, 0, &kept), ERR_OK);
    for (size_t i = 0; i < N_ELEMENTS(errors); i++) {
        faults.sync_errno = errors[i];
        assert_int_equal(add_4k(f, 0, &id), ERR_FULL);
        faults_clear();
        faults.write_errno = errors[i];
        assert_int_equal(add_4k(f, 0, &id), ERR_FULL);
        assert_int_equal(finish_one(f, kept), ERR_FULL);
        faults_clear();
        assert_int_equal(stats_of(f).messages, 1 + i);
        assert_int_equal(add_4k(f, 0, &id), ERR_OK);
    }
    assert_sound(f);
    fixture_reopen(f);
    assert_int_equal(stats_of(f).messages, 3);
    assert_sound(f);
}

static void
a_short_write_is_the_disks_only_while_space_is_short(void **state)
{
    struct fixture *f = *state;
    uint64_t id;
    fixture_open(f);
    assert_int_equal(add_4k(f, 0, &id), ERR_OK);
    faults.short_write = true; /* LMDB makes EIO of it */
    assert_int_equal(add_4k(f, QUEUE_MSG_NOTICE, &id), ERR_IO);
    faults.disk_free = 1000;
    assert_int_equal(add_4k(f, QUEUE_MSG_NOTICE, &id), ERR_FULL);
    faults_clear();
    assert_int_equal(add_4k(f, 0, &id), ERR_OK);
    assert_int_equal(stats_of(f).messages, 2);
    assert_sound(f);
}

static void
a_failed_sync_or_meta_page_is_not_excused(void **state)
{
    struct fixture *f = *state;
    struct queue_batch *batch;
    uint64_t id;
    fixture_open(f);
    assert_int_equal(add_4k(f, 0, &id), ERR_OK);
    faults.sync_errno = EIO;
    assert_int_equal(add_4k(f, 0, &id), ERR_IO);
    faults_clear();
    faults.meta_errno = EIO;
    assert_int_equal(add_4k(f, 0, &id), ERR_IO);
    faults_clear();
    FAILS(ERR_IO, queue_begin(f->queue, &batch, err)); /* LMDB refuses everything from here on */
    fixture_reopen(f);
    assert_int_equal(stats_of(f).messages, 1);
    assert_sound(f);
}

static void
a_start_on_a_full_disk_succeeds_and_sweeps_later(void **state)
{
    struct fixture *f = *state;
    fixture_open(f);
    struct queue_batch *batch = begin(f);
    OK(queue_incoming_chunk(batch, queue_id_new(f->queue, T0), 0, &SPAN("half"), 1, err));
    commit(batch);
    faults.write_errno = ENOSPC;
    fixture_reopen(f);
    assert_int_equal(f->info.swept_incoming, 0);
    assert_int_equal(stats_of(f).incoming, 1);
    faults_clear();
    fixture_reopen(f);
    assert_int_equal(f->info.swept_incoming, 1);
    assert_int_equal(stats_of(f).incoming, 0);
    assert_sound(f);
}

static int
teardown(void **state)
{
    faults_clear();
    return fixture_teardown(state);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup_closed, teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(the_quota_stops_new_mail_at_ninety_percent_and_nothing_else),
        TEST(a_reload_may_change_the_quota_within_the_map),
        TEST(new_mail_waits_while_the_disk_is_short),
        TEST(the_default_for_free_space_is_at_most_a_twentieth_of_the_disk),
        TEST(a_queue_above_its_new_quota_takes_every_outcome),
        TEST(a_full_map_kills_the_batch_and_nothing_else),
        TEST(a_full_disk_refuses_the_batch_and_the_next_one_may_succeed),
        TEST(a_short_write_is_the_disks_only_while_space_is_short),
        TEST(a_failed_sync_or_meta_page_is_not_excused),
        TEST(a_start_on_a_full_disk_succeeds_and_sweeps_later),
    };
    RUN_TESTS(tests);
}
