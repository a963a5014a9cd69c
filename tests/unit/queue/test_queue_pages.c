#include "tests/unit/queue/fixture.h"

#include "queue/queue_impl.h"

static uint64_t
defer_to(struct fixture *f, uint64_t id, uint32_t no, uint32_t revision, msec_t due_at)
{
    struct queue_change c = {
        .id = id, .no = no, .revision = revision, .verb = QUEUE_DEFER, .due_at = due_at};
    assert_int_equal(apply_one(f, &c), ERR_OK);
    return stats_of(f).txn_id;
}

static void
the_lane_of_a_domain_is_pinned_by_the_file_format(void **state)
{
    struct fixture *f = *state;
    struct queue fixed = {.lane_seed = {0x0123456789abcdefu, 0xfedcba9876543210u}};
    /* SipHash-1-3; computed apart from this code. */
    assert_int_equal(queue_lane(&fixed, SPAN("qq.com")), 0x713078bb38dcbf92u);
    assert_int_equal(queue_lane(&fixed, SPAN("")), 0xf4b3fee397802911u);
    assert_int_not_equal(queue_lane(f->queue, SPAN("a.test")),
                         queue_lane(f->queue, SPAN("b.test")));
}

static void
fresh_recipients_come_in_the_order_of_their_ids_and_page_by_page(void **state)
{
    struct fixture *f = *state;
    enum { N = 50 };
    uint64_t ids[N];
    for (int i = 0; i < N; i++) {
        struct queue_batch *batch = begin(f);
        ids[i] = add_to(f, batch, (const char *const[]){"a@d.test", "b@e.test", NULL});
        commit(batch);
    }
    struct queue_key after = {0};
    struct queue_page page = {0};
    size_t seen = 0;
    do {
        queue_page_release(&page);
        OK(queue_page_fresh(f->reader, &after, 7, &page, err));
        for (size_t i = 0; i < page.n_rows; i++, seen++) {
            const struct queue_row *row = &page.rows[i];
            assert_int_equal(row->rcpt.id, ids[seen / 2]);
            assert_int_equal(row->rcpt.no, seen % 2);
            assert_int_equal(row->rcpt.state, QUEUE_FRESH);
            assert_int_equal(row->lane, queue_lane(f->queue, row->rcpt.domain));
            assert_int_equal(row->arrived_at, T0);
            assert_span(row->sender, "alice@src.test");
        }
        assert_int_equal(page.more, seen < 2 * N);
    } while (page.more);
    queue_page_release(&page);
    assert_int_equal(seen, 2 * N);
}

static void
pages_are_bounded_in_bytes(void **state)
{
    struct fixture *f = *state;
    char *text = body_bytes(QUEUE_ATTEMPTS_MAX, 1);
    for (int i = 0; i < 40; i++) {
        struct queue_change c = {.id = add_one(f, "x@d.test"),
                                 .revision = 1,
                                 .verb = QUEUE_HOLD,
                                 .attempts_set = true,
                                 .attempts = span_of(text, QUEUE_ATTEMPTS_MAX)};
        assert_int_equal(apply_one(f, &c), ERR_OK);
    }
    struct queue_key after = {0};
    struct queue_filter all = {0};
    struct queue_page page = {0};
    size_t pages = 0, rows = 0;
    do {
        OK(queue_list(f->reader, &all, &after, 1000, &page, err));
        rows += page.n_rows;
        pages++;
        assert_true(page.n_rows * QUEUE_ATTEMPTS_MAX <= QUEUE_PAGE_BYTES);
        queue_page_release(&page);
    } while (rows < 40);
    assert_true(pages >= 3);
    free(text);
}

/* ------------------------------------------------------------------------------------- lanes */

static void
lanes_are_found_by_skipping_with_their_earliest_due_time(void **state)
{
    struct fixture *f = *state;
    struct queue_lane_row rows[64];
    uint64_t last = 0, txn;
    size_t n, total = 0;
    bool more = true;
    for (int domain = 0; domain < 20; domain++) {
        char address[32];
        snprintf(address, sizeof(address), "x@d%d.test", domain);
        for (int i = 0; i < 5; i++)
            defer_to(f, add_one(f, address), 0, 1, T0 + 1000 * domain + (i * 3) % 5);
    }
    for (const uint64_t *after = NULL; more; after = &last) {
        OK(queue_lanes(f->reader, after, 6, rows + total, &n, &last, &more, &txn, err));
        total += n;
    }
    assert_int_equal(total, 20);
    for (size_t i = 1; i < total; i++)
        assert_true(rows[i].lane > rows[i - 1].lane);
    for (int domain = 0; domain < 20; domain++) {
        char name[32];
        size_t i = 0;
        snprintf(name, sizeof(name), "d%d.test", domain);
        while (i < total && rows[i].lane != queue_lane(f->queue, span_str(name)))
            i++;
        assert_true(i < total);
        assert_int_equal(rows[i].due_at, T0 + 1000 * domain);
    }
}

static void
a_lane_gives_what_is_due_in_order_and_says_what_comes_next(void **state)
{
    struct fixture *f = *state;
    uint64_t lane = queue_lane(f->queue, SPAN("d.test")), ids[10];
    for (int i = 0; i < 10; i++) {
        ids[i] = add_one(f, "x@d.test");
        defer_to(f, ids[i], 0, 1, T0 + 10 - i);
    }
    defer_to(f, add_one(f, "x@other.test"), 0, 1, T0);
    struct queue_due_key after = {0};
    struct queue_page page = {0};
    OK(queue_page_lane(f->reader, lane, &after, T0 + 5, 3, &page, err));
    assert_int_equal(page.n_rows, 3);
    assert_true(page.more);
    assert_int_equal(page.next_due_at, T0 + 4);
    for (int i = 0; i < 3; i++)
        assert_int_equal(page.rows[i].rcpt.id, ids[9 - i]);
    queue_page_release(&page);
    OK(queue_page_lane(f->reader, lane, &after, T0 + 5, 30, &page, err));
    assert_int_equal(page.n_rows, 2);
    assert_false(page.more);
    assert_int_equal(page.next_due_at, T0 + 6);
    queue_page_release(&page);
    OK(queue_page_lane(f->reader, lane, &after, T0 + 99, 30, &page, err));
    assert_int_equal(page.n_rows, 5);
    assert_int_equal(page.next_due_at, INT64_MAX);
    queue_page_release(&page);
    after = (struct queue_due_key){0};
    OK(queue_page_lane(f->reader, lane + 1, &after, T0 + 99, 30, &page, err));
    assert_int_equal(page.n_rows, 0);
    assert_int_equal(page.next_due_at, INT64_MAX);
    queue_page_release(&page);
}

static void
a_page_tells_how_old_it_is(void **state)
{
    struct fixture *f = *state;
    uint64_t id = add_one(f, "x@d.test");
    struct queue_key after = {0};
    struct queue_page page = {0};
    OK(queue_page_fresh(f->reader, &after, 9, &page, err)); /* held up on its way ... */
    struct queue_change c = {.id = id,
                             .revision = 1,
                             .verb = QUEUE_FINISH,
                             .result = QUEUE_DELIVERED,
                             .finished_at = T0};
    struct queue_batch *batch = begin(f);
    OK(queue_apply(batch, &c, err));
    uint64_t finished_in = commit(batch);
    assert_int_equal(page.n_rows, 1); /* ... and still shows what has finished */
    assert_true(finished_in > page.txn_id);
    queue_page_release(&page);
    after = (struct queue_key){0};
    OK(queue_page_fresh(f->reader, &after, 9, &page, err));
    assert_int_equal(page.n_rows, 0);
    assert_true(page.txn_id >= finished_in);
    queue_page_release(&page);
}

static void
a_reader_between_calls_does_not_keep_old_pages_alive(void **state)
{
    struct fixture *f = *state;
    struct queue_mail m = mail_of(f, add_one(f, "x@d.test"));
    queue_mail_release(&m); /* the reader has read once and rests now */
    for (int warm = 0; warm < 50; warm++)
        defer_to(f, add_one(f, "x@d.test"), 0, 1, T0);
    uint64_t before = stats_of(f).file_bytes;
    for (int i = 0; i < 300; i++) {
        struct queue_change c = {.id = add_one(f, "x@d.test"),
                                 .revision = 1,
                                 .verb = QUEUE_FINISH,
                                 .result = QUEUE_DELIVERED,
                                 .finished_at = T0};
        assert_int_equal(apply_one(f, &c), ERR_OK);
        struct queue_batch *batch = begin(f);
        OK(queue_history_trim(batch, T0 + 1, 0, 100, NULL, err));
        commit(batch);
    }
    assert_true(stats_of(f).file_bytes <= before + 64 * 4096);
    assert_sound(f);
}

/* -------------------------------------------------------------------------------------- list */

static size_t
count(struct fixture *f, struct queue_filter filter)
{
    struct queue_key after = {0};
    struct queue_page rows = {0}, counted = {0};
    OK(queue_list(f->reader, &filter, &after, 1000, &rows, err));
    after = (struct queue_key){0};
    OK(queue_list(f->reader, &filter, &after, 0, &counted, err));
    assert_int_equal(counted.n_matched, rows.n_rows);
    assert_int_equal(rows.n_matched, rows.n_rows);
    assert_int_equal(counted.n_rows, 0);
    queue_page_release(&rows);
    return (size_t)counted.n_matched;
}

static void
a_list_takes_every_filter_alone_and_together(void **state)
{
    struct fixture *f = *state;
    uint64_t first = 0;
    struct span body = SPAN("x");
    for (int i = 0; i < 12; i++) {
        struct queue_rcpt rcpts[] = {recipient(0, "a@d.test"), recipient(1, "b@e.test")};
        struct queue_msg msg = message(f, 1);
        msg.arrived_at = T0 + i * MINUTE;
        msg.sender = i % 3 == 0 ? SPAN("") : i % 3 == 1 ? SPAN("bob@src.test") : msg.sender;
        struct queue_batch *batch = begin(f);
        OK(queue_add(batch, &msg, rcpts, 2, &body, 1, err));
        commit(batch);
        if (i == 0)
            first = msg.id;
        if (i < 4)
            defer_to(f, msg.id, 0, 1, T0 + i);
        struct queue_change hold = {.id = msg.id, .no = 1, .revision = 1, .verb = QUEUE_HOLD};
        if (i < 2)
            assert_int_equal(apply_one(f, &hold), ERR_OK);
    }
    assert_int_equal(count(f, (struct queue_filter){0}), 24);
    assert_int_equal(count(f, (struct queue_filter){.id = first}), 2);
    assert_int_equal(count(f, (struct queue_filter){.id = first + 1000}), 0);
    assert_int_equal(count(f, (struct queue_filter){.domain = SPAN("d.test")}), 12);
    assert_int_equal(count(f, (struct queue_filter){.domain = SPAN("nobody.test")}), 0);
    assert_int_equal(count(f, (struct queue_filter){.sender = SPAN("bob@src.test")}), 8);
    assert_int_equal(count(f, (struct queue_filter){.sender_null = true}), 8);
    assert_int_equal(count(f, (struct queue_filter){.arrived_before = T0 + 5 * MINUTE}), 10);
    assert_int_equal(count(f, (struct queue_filter){.states = 1u << QUEUE_FRESH}), 18);
    assert_int_equal(count(f, (struct queue_filter){.states = 1u << QUEUE_SCHEDULED}), 4);
    assert_int_equal(count(f, (struct queue_filter){.states = 1u << QUEUE_HELD}), 2);
    assert_int_equal(
        count(f, (struct queue_filter){.states = 1u << QUEUE_HELD | 1u << QUEUE_SCHEDULED}), 6);
    assert_int_equal(count(f, (struct queue_filter){.due_before = T0 + 2}), 2);
    assert_int_equal(count(f, (struct queue_filter){.domain = SPAN("e.test"),
                                                    .sender_null = true,
                                                    .arrived_before = T0 + 4 * MINUTE}),
                     2);
}

static void
a_long_list_is_walked_in_bounded_steps(void **state)
{
    struct fixture *f = *state;
    enum { N = QUEUE_SCAN_ROWS + 500 };
    struct queue_rcpt *rcpts = xcalloc(N / 10, sizeof(*rcpts));
    struct span body = SPAN("x");
    struct queue_batch *batch = begin(f);
    for (uint32_t i = 0; i < N / 10; i++)
        rcpts[i] = recipient(i, i == N / 10 - 1 ? "x@last.test" : "x@d.test");
    for (int i = 0; i < 10; i++) {
        struct queue_msg msg = message(f, 1);
        OK(queue_add(batch, &msg, rcpts, N / 10, &body, 1, err));
    }
    commit(batch);
    free(rcpts);
    struct queue_filter last = {.domain = SPAN("last.test")}, all = {0};
    struct queue_key after = {0};
    struct queue_page page = {0};
    OK(queue_list(f->reader, &last, &after, 100, &page, err));
    assert_int_equal(page.n_rows, 9);
    assert_true(page.more);
    queue_page_release(&page);
    OK(queue_list(f->reader, &last, &after, 100, &page, err));
    assert_int_equal(page.n_rows, 1);
    assert_false(page.more);
    queue_page_release(&page);
    after = (struct queue_key){0};
    OK(queue_list(f->reader, &all, &after, 0, &page, err));
    assert_int_equal(page.n_matched, QUEUE_SCAN_ROWS);
    assert_true(page.more);
    OK(queue_list(f->reader, &all, &after, 0, &page, err));
    assert_int_equal(page.n_matched, 500);
    assert_false(page.more);
}

static void
mapped_pages_can_be_given_back(void **state)
{
    struct fixture *f = *state;
    struct queue_mail m;
    uint64_t id = add_one(f, "x@d.test");
    assert_false(queue_map_trim(f->queue, SIZE_MAX)); /* below the limit */
    assert_true(queue_map_trim(f->queue, 0));
    m = mail_of(f, id); /* and they come back */
    queue_mail_release(&m);
    assert_sound(f);
}

/* --------------------------------------------------------------------------------- history */

static void
finish_at(struct fixture *f, uint64_t id, uint32_t no, msec_t at)
{
    struct queue_change c = {
        .id = id, .no = no, .revision = 1, .verb = QUEUE_FINISH, .result = QUEUE_DELIVERED};
    c.finished_at = at;
    assert_int_equal(apply_one(f, &c), ERR_OK);
}

/* All that finished at `since` or later, page by page; returns how many, newest first in `ret`. */
static size_t
recent(struct fixture *f, msec_t since, size_t max, struct queue_past_key *ret, size_t cap)
{
    struct queue_past_key before = {0};
    struct queue_history h = {0};
    size_t n = 0;
    do {
        OK(queue_read_recent(f->reader, &before, since, max, &h, err));
        assert_true(h.n_rows <= max);
        assert_true(!h.more || h.n_rows == max);
        for (size_t i = 0; i < h.n_rows; i++, n++) {
            assert_true(n < cap);
            ret[n] = (struct queue_past_key){h.rows[i].finished_at, h.rows[i].id, h.rows[i].no};
            assert_span(h.rows[i].sender, "alice@src.test");
        }
        queue_history_release(&h);
    } while (h.more);
    return n;
}

static void
history_is_read_newest_first_page_by_page_down_to_a_moment(void **state)
{
    struct fixture *f = *state;
    enum { N = 20 };
    struct queue_past_key got[2 * N];
    assert_int_equal(recent(f, 0, 7, got, N), 0); /* an empty table */
    for (int i = 0; i < N; i++) {
        struct queue_batch *batch = begin(f);
        uint64_t id = add_to(f, batch, (const char *const[]){"a@d.test", "b@e.test", NULL});
        commit(batch);
        /* Both recipients at one moment: a page may end between them. */
        finish_at(f, id, 0, T0 + i * MINUTE);
        finish_at(f, id, 1, T0 + i * MINUTE);
    }
    static const size_t sizes[] = {1, 7, 2 * N, 1000};
    for (size_t s = 0; s < N_ELEMENTS(sizes); s++) {
        assert_int_equal(recent(f, 0, sizes[s], got, 2 * N), 2 * N);
        for (size_t i = 0; i < 2 * N; i++) {
            assert_int_equal(got[i].finished_at, T0 + (msec_t)(N - 1 - i / 2) * MINUTE);
            assert_int_equal(got[i].no, 1 - i % 2);
        }
        /* The moment itself belongs to it. */
        assert_int_equal(recent(f, T0 + 15 * MINUTE, sizes[s], got, 2 * N), 10);
        assert_int_equal(got[9].finished_at, T0 + 15 * MINUTE);
        assert_int_equal(recent(f, T0 + N * MINUTE, sizes[s], got, 2 * N), 0);
    }
}

static void
a_walk_through_recent_history_goes_on_whatever_is_added_and_trimmed(void **state)
{
    struct fixture *f = *state;
    struct queue_past_key before = {0};
    struct queue_history h = {0};
    for (int i = 0; i < 6; i++)
        finish_at(f, add_one(f, "x@d.test"), 0, T0 + i * MINUTE);
    OK(queue_read_recent(f->reader, &before, T0, 2, &h, err));
    assert_int_equal(h.rows[1].finished_at, T0 + 4 * MINUTE);
    queue_history_release(&h);
    finish_at(f, add_one(f, "x@d.test"), 0, T0 + HOUR);
    OK(queue_read_recent(f->reader, &before, T0, 2, &h, err));
    assert_int_equal(h.n_rows, 2);
    assert_int_equal(h.rows[0].finished_at, T0 + 3 * MINUTE);
    queue_history_release(&h);
    /* The row that `before` names, and all older ones, go. */
    struct queue_batch *batch = begin(f);
    OK(queue_history_trim(batch, T0 + 4 * MINUTE, 1000, 100, NULL, err));
    commit(batch);
    OK(queue_read_recent(f->reader, &before, T0, 2, &h, err));
    assert_int_equal(h.n_rows, 0);
    assert_false(h.more);
    queue_history_release(&h);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(the_lane_of_a_domain_is_pinned_by_the_file_format),
        TEST(fresh_recipients_come_in_the_order_of_their_ids_and_page_by_page),
        TEST(pages_are_bounded_in_bytes),
        TEST(lanes_are_found_by_skipping_with_their_earliest_due_time),
        TEST(a_lane_gives_what_is_due_in_order_and_says_what_comes_next),
        TEST(a_page_tells_how_old_it_is),
        TEST(a_reader_between_calls_does_not_keep_old_pages_alive),
        TEST(a_list_takes_every_filter_alone_and_together),
        TEST(a_long_list_is_walked_in_bounded_steps),
        TEST(mapped_pages_can_be_given_back),
        TEST(history_is_read_newest_first_page_by_page_down_to_a_moment),
        TEST(a_walk_through_recent_history_goes_on_whatever_is_added_and_trimmed),
    };
    RUN_TESTS(tests);
}
