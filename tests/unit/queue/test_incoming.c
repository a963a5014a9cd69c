#include "tests/unit/queue/fixture.h"

#define PART (4 * QUEUE_CHUNK_BYTES)

static void
put(struct fixture *f, uint64_t id, uint64_t offset, const char *bytes, size_t n)
{
    struct span pieces[] = {span_of(bytes + offset, n / 2),
                            span_of(bytes + offset + n / 2, n - n / 2)};
    struct queue_batch *batch = begin(f);
    OK(queue_incoming_chunk(batch, id, offset, pieces, 2, err));
    commit(batch);
}

static void
put_all(struct fixture *f, uint64_t id, const char *bytes, size_t n)
{
    for (size_t at = 0; at < n || at == 0; at += PART)
        put(f, id, at, bytes, n - at < PART ? n - at : PART);
}

static void
assert_body(struct fixture *f, uint64_t id, const char *bytes, size_t n)
{
    char *buf = xmalloc(QUEUE_PAGE_BYTES);
    size_t at = 0, got;
    do {
        OK(queue_read_body(f->reader, id, at, buf, QUEUE_PAGE_BYTES, &got, err));
        assert_memory_equal(buf, bytes + at, got);
        at += got;
    } while (got > 0);
    assert_int_equal(at, n);
    free(buf);
}

static void
a_big_body_comes_in_parts_and_becomes_a_message(void **state)
{
    struct fixture *f = *state;
    static const size_t sizes[] = {3 * 1024 * 1024 + 17, 2 * PART, 5, 0};
    for (size_t i = 0; i < N_ELEMENTS(sizes); i++) {
        size_t n = sizes[i];
        char *bytes = body_bytes(n, 5);
        struct queue_rcpt rcpt = recipient(0, "x@d.test");
        struct queue_msg msg = message(f, n);
        put_all(f, msg.id, bytes, n);
        assert_int_equal(stats_of(f).incoming, 1);
        assert_int_equal(stats_of(f).messages, i);
        assert_sound(f);
        assert_body(f, msg.id, bytes, n); /* for the job that signs it */
        struct queue_batch *batch = begin(f);
        OK(queue_incoming_finish(batch, &msg, &rcpt, 1, err));
        commit(batch);
        fixture_reopen(f);
        assert_int_equal(f->info.swept_incoming, 0);
        assert_body(f, msg.id, bytes, n);
        assert_sound(f);
        free(bytes);
    }
}

static void
an_end_that_does_not_fit_the_parts_is_refused(void **state)
{
    struct fixture *f = *state;
    size_t n = PART + 100;
    char *bytes = body_bytes(n, 5);
    struct queue_rcpt rcpt = recipient(0, "x@d.test");
    struct queue_msg msg = message(f, n);
    put_all(f, msg.id, bytes, n);
    static const long off[] = {-1, 1, -100, -101, QUEUE_CHUNK_BYTES, -PART};
    for (size_t i = 0; i < N_ELEMENTS(off); i++) {
        struct queue_msg wrong = msg;
        wrong.body_bytes = (uint64_t)((long)n + off[i]);
        struct queue_batch *batch = begin(f);
        FAILS(ERR_INVAL, queue_incoming_finish(batch, &wrong, &rcpt, 1, err));
        assert_false(queue_batch_dead(batch));
        queue_abort(batch);
    }
    struct queue_msg other = message(f, 0);
    struct queue_batch *batch = begin(f);
    FAILS(ERR_NOT_FOUND, queue_incoming_finish(batch, &other, &rcpt, 1, err));
    queue_abort(batch);
    free(bytes);
}

static void
parts_out_of_order_are_refused(void **state)
{
    struct fixture *f = *state;
    struct span x = SPAN("x");
    uint64_t id = queue_id_new(f->queue, T0);
    struct queue_batch *batch = begin(f);
    FAILS(ERR_NOT_FOUND, queue_incoming_chunk(batch, id, QUEUE_CHUNK_BYTES, &x, 1, err));
    FAILS(ERR_INVAL, queue_incoming_chunk(batch, id, 1, &x, 1, err));
    FAILS(ERR_INVAL, queue_incoming_chunk(batch, 0, 0, &x, 1, err));
    OK(queue_incoming_chunk(batch, id, 0, &x, 1, err));
    FAILS(ERR_EXISTS, queue_incoming_chunk(batch, id, 0, &x, 1, err));
    commit(batch);
}

static void
a_dropped_body_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    char *bytes = body_bytes(PART, 1);
    uint64_t id = queue_id_new(f->queue, T0);
    put_all(f, id, bytes, PART);
    struct queue_batch *batch = begin(f);
    OK(queue_incoming_drop(batch, id, err));
    FAILS(ERR_NOT_FOUND, queue_incoming_drop(batch, id, err));
    commit(batch);
    assert_int_equal(stats_of(f).incoming, 0);
    assert_sound(f);
    size_t n;
    FAILS(ERR_NOT_FOUND, queue_read_body(f->reader, id, 0, bytes, PART, &n, err));
    free(bytes);
}

static void
a_start_sweeps_half_received_bodies_and_leaves_whole_ones(void **state)
{
    struct fixture *f = *state;
    size_t n = 10 * 1024 * 1024; /* more rows than one sweep transaction takes, together */
    char *bytes = body_bytes(n, 9);
    struct queue_rcpt rcpt = recipient(0, "x@d.test");
    struct queue_msg msg = message(f, n);
    put_all(f, msg.id, bytes, n);
    struct queue_batch *batch = begin(f);
    OK(queue_incoming_finish(batch, &msg, &rcpt, 1, err));
    commit(batch);
    for (int i = 0; i < 8; i++)
        put_all(f, queue_id_new(f->queue, T0), bytes, n);
    uint64_t before = stats_of(f).used_bytes;
    fixture_reopen(f);
    assert_int_equal(f->info.swept_incoming, 8);
    assert_int_equal(stats_of(f).incoming, 0);
    assert_true(stats_of(f).used_bytes < before / 4);
    assert_body(f, msg.id, bytes, n);
    assert_sound(f);
    free(bytes);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_big_body_comes_in_parts_and_becomes_a_message),
        TEST(an_end_that_does_not_fit_the_parts_is_refused),
        TEST(parts_out_of_order_are_refused),
        TEST(a_dropped_body_leaves_nothing),
        TEST(a_start_sweeps_half_received_bodies_and_leaves_whole_ones),
    };
    RUN_TESTS(tests);
}
