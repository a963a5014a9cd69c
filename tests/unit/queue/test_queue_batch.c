#include "tests/unit/queue/fixture.h"

static struct queue_change
change(uint64_t id, uint32_t no, uint32_t revision, enum queue_verb verb)
{
    return (struct queue_change){.id = id,
                                 .no = no,
                                 .revision = revision,
                                 .verb = verb,
                                 .due_at = T0 + MINUTE,
                                 .result = QUEUE_FAILED,
                                 .finished_at = T0 + HOUR};
}

static void
assert_counts(struct fixture *f, unsigned fresh, unsigned scheduled, unsigned held)
{
    struct queue_stats s = stats_of(f);
    assert_int_equal(s.fresh, fresh);
    assert_int_equal(s.scheduled, scheduled);
    assert_int_equal(s.held, held);
    assert_int_equal(s.recipients, fresh + scheduled + held);
    assert_sound(f);
}

/* -------------------------------------------------------------------------------------- add */

static void
a_message_is_read_back_with_everything_it_had(void **state)
{
    struct fixture *f = *state;
    struct span pieces[] = {SPAN("Subject: x\r\n"), SPAN(""), SPAN("\r\nhel"), SPAN("lo\r\n")};
    struct queue_rcpt rcpts[] = {recipient(3, "x@d.test"), recipient(7, "y@e.test")};
    struct queue_msg msg = message(f, 12 + 5 + 4);
    msg.flags = QUEUE_MSG_8BIT | QUEUE_MSG_USER;
    msg.envid = SPAN("e");
    msg.ret = SPAN("FULL");
    msg.added = SPAN("\r\n");
    msg.n_signatures = 1;
    msg.signatures[0] = (struct queue_signature){SPAN("src.test"), SPAN("cn"), SPAN("DKIM: 1\r\n")};
    rcpts[0].orcpt = SPAN("rfc822;X");
    rcpts[0].notify = QUEUE_NOTIFY_NEVER;
    rcpts[1].state = QUEUE_SCHEDULED;
    rcpts[1].due_at = T0 + 9;
    struct queue_batch *batch = begin(f);
    OK(queue_add(batch, &msg, rcpts, 2, pieces, N_ELEMENTS(pieces), err));
    uint64_t txn = commit(batch);
    struct queue_mail m = mail_of(f, msg.id);
    assert_int_equal(m.txn_id, txn);
    assert_int_equal(m.msg.flags, QUEUE_MSG_8BIT | QUEUE_MSG_USER);
    assert_span(m.msg.sender, "alice@src.test");
    assert_span(m.msg.envid, "e");
    assert_span(m.msg.added, "\r\n");
    assert_span(m.msg.signatures[0].field, "DKIM: 1\r\n");
    assert_span(m.msg.body, "Subject: x\r\n\r\nhello\r\n");
    assert_int_equal(m.n_rcpts, 2);
    assert_int_equal(m.rcpts[0].no, 3);
    assert_int_equal(m.rcpts[0].revision, 1);
    assert_int_equal(m.rcpts[0].notify, QUEUE_NOTIFY_NEVER);
    assert_span(m.rcpts[0].orcpt, "rfc822;X");
    assert_int_equal(m.rcpts[1].state, QUEUE_SCHEDULED);
    assert_int_equal(m.rcpts[1].due_at, T0 + 9);
    assert_span(m.rcpts[1].domain, "e.test");
    queue_mail_release(&m);
    assert_counts(f, 1, 1, 0);
}

static void
bodies_of_every_size_come_back_byte_for_byte(void **state)
{
    struct fixture *f = *state;
    static const size_t sizes[] = {0,
                                   1,
                                   1500,
                                   4096,
                                   16000,
                                   QUEUE_CHUNK_BYTES - 300,
                                   QUEUE_CHUNK_BYTES,
                                   QUEUE_CHUNK_BYTES + 1,
                                   3 * QUEUE_CHUNK_BYTES,
                                   250000};
    uint64_t ids[N_ELEMENTS(sizes)];
    struct queue_rcpt rcpt = recipient(0, "x@d.test");
    char *buf = xmalloc(QUEUE_PAGE_BYTES);
    for (size_t i = 0; i < N_ELEMENTS(sizes); i++) {
        char *bytes = body_bytes(sizes[i], (unsigned)i);
        struct span half[] = {span_of(bytes, sizes[i] / 3),
                              span_of(bytes + sizes[i] / 3, sizes[i] - sizes[i] / 3)};
        struct queue_msg msg = message(f, sizes[i]);
        struct queue_batch *batch = begin(f);
        OK(queue_add(batch, &msg, &rcpt, 1, half, 2, err));
        commit(batch);
        ids[i] = msg.id;
        free(bytes);
    }
    fixture_reopen(f);
    for (size_t i = 0; i < N_ELEMENTS(sizes); i++) {
        char *bytes = body_bytes(sizes[i], (unsigned)i);
        size_t at = 0, n, step = sizes[i] / 5 + 1;
        do { /* in steps that fall across the chunks */
            OK(queue_read_body(f->reader, ids[i], at, buf, step, &n, err));
            assert_memory_equal(buf, bytes + at, n);
            at += n;
        } while (n > 0);
        assert_int_equal(at, sizes[i]);
        OK(queue_read_body(f->reader, ids[i], sizes[i] + 77, buf, 10, &n, err));
        assert_int_equal(n, 0);
        struct queue_mail m = mail_of(f, ids[i]);
        bool chunked = (m.msg.flags & QUEUE_MSG_CHUNKED) != 0;
        assert_int_equal(m.msg.body.n, chunked ? 0 : sizes[i]);
        assert_int_equal(chunked, sizes[i] >= QUEUE_CHUNK_BYTES - 100);
        queue_mail_release(&m);
        free(bytes);
    }
    free(buf);
    assert_sound(f);
    for (size_t i = 0; i < N_ELEMENTS(sizes); i++) {
        struct queue_change c = change(ids[i], 0, 1, QUEUE_FINISH);
        assert_int_equal(apply_one(f, &c), ERR_OK);
        assert_true(c.msg_gone);
    }
    assert_int_equal(stats_of(f).messages, 0);
    assert_sound(f); /* no chunk is left behind */
}

static void
an_abort_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct queue_batch *batch = begin(f);
    uint64_t id = add_to(f, batch, (const char *const[]){"x@d.test", NULL});
    queue_abort(batch);
    struct queue_mail m;
    FAILS(ERR_NOT_FOUND, queue_read_mail(f->reader, id, &m, err));
    assert_counts(f, 0, 0, 0);
}

static void
messages_of_a_wrong_form_are_refused_and_leave_the_batch_usable(void **state)
{
    struct fixture *f = *state;
    struct span body = SPAN("x");
    struct queue_rcpt rcpts[] = {recipient(1, "x@d.test"), recipient(1, "y@d.test")};
    struct queue_msg good = message(f, 1), bad;
    char *long_text = body_bytes(QUEUE_HEAD_MAX + 1, 1);
    struct queue_batch *batch = begin(f);
    FAILS(ERR_INVAL, queue_add(batch, &good, rcpts, 2, &body, 1, err)); /* numbers */
    FAILS(ERR_INVAL, queue_add(batch, &good, rcpts, 0, &body, 1, err));
    FAILS(ERR_INVAL, queue_add(batch, &good, rcpts, 1, &body, 0, err)); /* body length */
    FAILS(ERR_LIMIT, queue_add(batch, &good, rcpts, QUEUE_RCPTS_MAX + 1, &body, 1, err));
    bad = good;
    bad.id = 0;
    FAILS(ERR_INVAL, queue_add(batch, &bad, rcpts, 1, &body, 1, err));
    bad = good;
    bad.sender = span_of(long_text, QUEUE_FIELD_MAX + 1);
    FAILS(ERR_LIMIT, queue_add(batch, &bad, rcpts, 1, &body, 1, err));
    bad = good;
    bad.received = span_of(long_text, QUEUE_HEAD_MAX + 1);
    FAILS(ERR_LIMIT, queue_add(batch, &bad, rcpts, 1, &body, 1, err));
    rcpts[0].attempts = span_of(long_text, QUEUE_ATTEMPTS_MAX + 1);
    FAILS(ERR_LIMIT, queue_add(batch, &good, rcpts, 1, &body, 1, err));
    rcpts[0] = recipient(1, "x@d.test");
    rcpts[0].due_at = -1;
    FAILS(ERR_INVAL, queue_add(batch, &good, rcpts, 1, &body, 1, err));
    rcpts[0].due_at = 0;
    OK(queue_add(batch, &good, rcpts, 1, &body, 1, err));
    FAILS(ERR_EXISTS, queue_add(batch, &good, rcpts, 1, &body, 1, err));
    assert_false(queue_batch_dead(batch));
    commit(batch);
    free(long_text);
    assert_counts(f, 1, 0, 0);
}

static void
ids_may_be_committed_out_of_order(void **state)
{
    struct fixture *f = *state;
    struct span body = SPAN("x");
    struct queue_rcpt rcpt = recipient(0, "x@d.test");
    struct queue_msg msgs[40];
    for (size_t i = 0; i < 40; i++)
        msgs[i] = message(f, 1);
    for (size_t i = 0; i < 40; i += 10) { /* 9 8 7 ... 0, 19 18 ... */
        struct queue_batch *batch = begin(f);
        for (size_t j = 10; j-- > 0;)
            OK(queue_add(batch, &msgs[i + j], &rcpt, 1, &body, 1, err));
        commit(batch);
    }
    assert_counts(f, 40, 0, 0);
    struct queue_key after = {0};
    struct queue_page page = {0};
    OK(queue_page_fresh(f->reader, &after, 100, &page, err));
    assert_int_equal(page.n_rows, 40);
    for (size_t i = 0; i < 40; i++)
        assert_int_equal(page.rows[i].rcpt.id, msgs[i].id);
    queue_page_release(&page);
}

/* ---------------------------------------------------------------------------------- changes */

static void
a_recipient_goes_through_all_its_states(void **state)
{
    struct fixture *f = *state;
    uint64_t id = add_one(f, "x@d.test");
    assert_counts(f, 1, 0, 0);
    struct queue_change c = change(id, 0, 1, QUEUE_DEFER);
    c.attempts_set = true;
    c.attempts = SPAN("attempt one");
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_int_equal(c.new_revision, 2);
    assert_counts(f, 0, 1, 0);
    c = change(id, 0, 2, QUEUE_DEFER); /* again, attempts kept */
    c.due_at = T0 + HOUR;
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_counts(f, 0, 1, 0);
    struct queue_mail m = mail_of(f, id);
    assert_span(m.rcpts[0].attempts, "attempt one");
    assert_int_equal(m.rcpts[0].due_at, T0 + HOUR);
    assert_int_equal(m.rcpts[0].revision, 3);
    queue_mail_release(&m);
    c = change(id, 0, 3, QUEUE_HOLD);
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_counts(f, 0, 0, 1);
    c = change(id, 0, 4, QUEUE_RELEASE);
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_counts(f, 0, 1, 0);
    c = change(id, 0, 5, QUEUE_FINISH);
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_true(c.msg_gone);
    assert_counts(f, 0, 0, 0);
    assert_int_equal(stats_of(f).messages, 0);
    assert_int_equal(stats_of(f).history, 1);
    FAILS(ERR_NOT_FOUND, queue_read_mail(f->reader, id, &m, err));
    c = change(id, 0, 6, QUEUE_FINISH);
    assert_int_equal(apply_one(f, &c), ERR_NOT_FOUND);
}

static void
a_fresh_recipient_may_be_held_and_released(void **state)
{
    struct fixture *f = *state;
    uint64_t id = add_one(f, "x@d.test");
    struct queue_change c = change(id, 0, 1, QUEUE_RELEASE);
    assert_int_equal(apply_one(f, &c), ERR_STALE); /* it is not held */
    c = change(id, 0, 1, QUEUE_HOLD);
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_counts(f, 0, 0, 1);
    c = change(id, 0, 2, QUEUE_RELEASE);
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_counts(f, 0, 1, 0);
}

static void
a_message_lives_until_its_last_recipient_is_finished(void **state)
{
    struct fixture *f = *state;
    struct queue_batch *batch = begin(f);
    uint64_t id = add_to(f, batch, (const char *const[]){"a@d.test", "b@d.test", "c@e.test", NULL});
    commit(batch);
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t no = i == 0 ? 1 : i == 1 ? 0 : 2; /* not in their order */
        struct queue_change c = change(id, no, 1, QUEUE_FINISH);
        assert_int_equal(apply_one(f, &c), ERR_OK);
        assert_int_equal(c.msg_gone, i == 2);
        assert_int_equal(stats_of(f).messages, i == 2 ? 0 : 1);
        assert_sound(f);
    }
}

static void
a_wrong_revision_changes_nothing_but_a_delivery_always_counts(void **state)
{
    struct fixture *f = *state;
    static const enum queue_verb verbs[] = {QUEUE_DEFER, QUEUE_HOLD, QUEUE_RELEASE, QUEUE_FINISH};
    uint64_t id = add_one(f, "x@d.test");
    struct queue_change c = change(id, 0, 1, QUEUE_HOLD);
    assert_int_equal(apply_one(f, &c), ERR_OK);
    for (size_t i = 0; i < N_ELEMENTS(verbs); i++) {
        for (uint32_t revision = 0; revision < 4; revision++) {
            c = change(id, 0, revision, verbs[i]);
            if (revision == 2)
                continue;
            assert_int_equal(apply_one(f, &c), ERR_STALE);
            assert_int_equal(c.code, ERR_STALE);
        }
    }
    assert_counts(f, 0, 0, 1);
    c = change(id, 0, 1, QUEUE_FINISH);
    c.result = QUEUE_DELIVERED;
    struct queue_batch *batch = begin(f);
    OK(queue_apply_check(batch, &c, err));
    queue_abort(batch);
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_counts(f, 0, 0, 0);
}

static void
a_batch_that_changed_nothing_has_no_transaction_of_its_own(void **state)
{
    struct fixture *f = *state;
    uint64_t id = add_one(f, "x@d.test");
    uint64_t before = stats_of(f).txn_id;
    struct queue_change c = change(id, 0, 9, QUEUE_HOLD);
    struct queue_batch *batch = begin(f);
    FAILS(ERR_STALE, queue_apply(batch, &c, err));
    assert_int_equal(commit(batch), before);
    batch = begin(f);
    c = change(id, 0, 1, QUEUE_HOLD);
    OK(queue_apply(batch, &c, err));
    assert_int_equal(commit(batch), before + 1);
    assert_int_equal(stats_of(f).txn_id, before + 1);
}

static void
changes_of_a_wrong_form_are_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t id = add_one(f, "x@d.test");
    char *text = body_bytes(QUEUE_ATTEMPTS_MAX + 1, 2);
    struct queue_change c = change(id, 0, 1, QUEUE_DEFER);
    c.due_at = -1;
    assert_int_equal(apply_one(f, &c), ERR_INVAL);
    c = change(id, 0, 1, QUEUE_DEFER);
    c.attempts_set = true;
    c.attempts = span_of(text, QUEUE_ATTEMPTS_MAX + 1);
    assert_int_equal(apply_one(f, &c), ERR_LIMIT);
    c = change(id, 0, 1, QUEUE_FINISH);
    c.result = 0;
    assert_int_equal(apply_one(f, &c), ERR_INVAL);
    c = change(id, 0, 1, QUEUE_FINISH);
    c.detail = span_of(text, QUEUE_ATTEMPTS_MAX + 1);
    assert_int_equal(apply_one(f, &c), ERR_LIMIT);
    free(text);
    assert_counts(f, 1, 0, 0);
}

static void
long_attempt_records_grow_and_shrink_among_many(void **state)
{
    struct fixture *f = *state;
    enum { N = 200 };
    uint64_t ids[N];
    uint32_t revisions[N];
    char *text = body_bytes(QUEUE_ATTEMPTS_MAX, 3);
    unsigned seed = 7;
    for (size_t i = 0; i < N; i++) {
        ids[i] = add_one(f, "somebody@d.test");
        revisions[i] = 1;
    }
    for (int round = 0; round < 20; round++) {
        struct queue_batch *batch = begin(f);
        for (int k = 0; k < 50; k++) {
            seed = seed * 1103515245u + 12345u;
            size_t i = seed / 65536u % N;
            struct queue_change c = change(ids[i], 0, revisions[i], QUEUE_DEFER);
            c.due_at = T0 + seed % 1000;
            c.attempts_set = true;
            c.attempts = span_of(text + i, seed % 7 == 0 ? 8000 : seed % 300);
            OK(queue_apply(batch, &c, err));
            revisions[i] = c.new_revision;
        }
        commit(batch);
        assert_sound(f);
    }
    for (size_t i = 0; i < N; i++) {
        struct queue_mail m = mail_of(f, ids[i]);
        assert_int_equal(m.rcpts[0].revision, revisions[i]);
        assert_span(m.rcpts[0].address, "somebody@d.test");
        assert_memory_equal(m.rcpts[0].attempts.p, text + i, m.rcpts[0].attempts.n);
        queue_mail_release(&m);
    }
    free(text);
}

/* ------------------------------------------------------------------------------ state, hold */

static void
state_rows_are_put_replaced_deleted_and_walked_by_prefix(void **state)
{
    struct fixture *f = *state;
    struct queue_facts facts = {0};
    struct queue_batch *batch = begin(f);
    OK(queue_state_put(batch, SPAN("learned:a"), SPAN("1"), err));
    OK(queue_state_put(batch, SPAN("learned:b"), SPAN("2"), err));
    OK(queue_state_put(batch, SPAN("learned:c"), SPAN(""), err));
    OK(queue_state_put(batch, SPAN("learnee"), SPAN("x"), err));
    OK(queue_state_put(batch, SPAN("alpha"), SPAN("x"), err));
    OK(queue_state_put(batch, SPAN("learned:b"), SPAN("two"), err));
    OK(queue_state_delete(batch, SPAN("learned:a"), err));
    OK(queue_state_delete(batch, SPAN("learned:nothing"), err));
    FAILS(ERR_INVAL, queue_state_put(batch, SPAN(""), SPAN("x"), err));
    commit(batch);
    OK(queue_read_state(f->reader, SPAN("learned:"), SPAN_NONE, 1, &facts, err));
    assert_int_equal(facts.n_rows, 1);
    assert_true(facts.more);
    assert_span(facts.rows[0].key, "learned:b");
    assert_span(facts.rows[0].value, "two");
    struct queue_facts next = {0};
    OK(queue_read_state(f->reader, SPAN("learned:"), facts.rows[0].key, 9, &next, err));
    assert_int_equal(next.n_rows, 1);
    assert_false(next.more);
    assert_span(next.rows[0].key, "learned:c");
    assert_int_equal(next.rows[0].value.n, 0);
    queue_facts_release(&facts);
    queue_facts_release(&next);
    OK(queue_read_state(f->reader, SPAN_NONE, SPAN_NONE, 9, &facts, err));
    assert_int_equal(facts.n_rows, 4);
    queue_facts_release(&facts);
    assert_sound(f);
}

static size_t
apply_all(struct fixture *f, const struct queue_filter *filter, struct queue_change *c, size_t max)
{
    struct queue_key after = {0};
    struct queue_touched touched[8];
    bool more = true;
    size_t n, total = 0;
    while (more) {
        struct queue_batch *batch = begin(f);
        OK(queue_apply_filter(batch, filter, c, &after, max, touched, &n, &more, err));
        commit(batch);
        total += n;
        for (size_t i = 0; i < n; i++)
            assert_true(touched[i].id != 0 &&
                        (touched[i].revision == 0) == (c->verb == QUEUE_FINISH));
    }
    return total;
}

static void
verbs_work_on_all_that_matches_in_slices(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 10; i++) {
        struct queue_batch *batch = begin(f);
        add_to(f, batch, (const char *const[]){"a@d.test", "b@e.test", "c@d.test", NULL});
        commit(batch);
    }
    struct queue_filter d = {.domain = SPAN("d.test")}, all = {0}, none = {.sender_null = true};
    struct queue_change c = change(0, 0, 0, QUEUE_HOLD);
    assert_int_equal(apply_all(f, &none, &c, 8), 0);
    assert_int_equal(apply_all(f, &d, &c, 3), 20);
    assert_counts(f, 10, 0, 20);
    assert_int_equal(apply_all(f, &d, &c, 3), 0); /* they are held already */
    c = change(0, 0, 0, QUEUE_RELEASE);
    assert_int_equal(apply_all(f, &all, &c, 8), 20);
    assert_counts(f, 10, 20, 0);
    struct queue_filter scheduled = {.states = 1u << QUEUE_SCHEDULED};
    c = change(0, 0, 0, QUEUE_DEFER); /* retry now */
    assert_int_equal(apply_all(f, &scheduled, &c, 8), 20);
    c = change(0, 0, 0, QUEUE_FINISH);
    c.result = QUEUE_REMOVED;
    struct queue_key after = {0};
    struct queue_page page = {0};
    OK(queue_list(f->reader, &d, &after, 1, &page, err));
    struct queue_filter one = {.id = page.rows[0].rcpt.id};
    queue_page_release(&page);
    assert_int_equal(apply_all(f, &one, &c, 8), 3);
    assert_int_equal(stats_of(f).messages, 9);
    assert_int_equal(apply_all(f, &all, &c, 2), 27);
    assert_counts(f, 0, 0, 0);
    assert_int_equal(stats_of(f).history, 30);
}

static void
one_row_holds_a_whole_domain(void **state)
{
    struct fixture *f = *state;
    uint64_t d = add_one(f, "x@d.test"), e = add_one(f, "x@e.test");
    struct queue_key after = {0};
    struct queue_page page = {0};
    struct queue_batch *batch = begin(f);
    OK(queue_state_put(batch, SPAN(QUEUE_HOLD_SPACE "d.test"), SPAN("why"), err));
    commit(batch);
    OK(queue_page_fresh(f->reader, &after, 9, &page, err));
    assert_int_equal(page.n_rows, 2); /* the record itself did not change */
    assert_true(page.rows[0].domain_held);
    assert_false(page.rows[1].domain_held);
    queue_page_release(&page);
    struct queue_filter held = {.states = 1u << QUEUE_HELD}, fresh = {.states = 1u << QUEUE_FRESH};
    after = (struct queue_key){0};
    OK(queue_list(f->reader, &held, &after, 9, &page, err));
    assert_int_equal(page.n_rows, 1);
    assert_int_equal(page.rows[0].rcpt.id, d);
    queue_page_release(&page);
    after = (struct queue_key){0};
    OK(queue_list(f->reader, &fresh, &after, 9, &page, err));
    assert_int_equal(page.n_rows, 1);
    assert_int_equal(page.rows[0].rcpt.id, e);
    queue_page_release(&page);
    batch = begin(f);
    OK(queue_state_delete(batch, SPAN(QUEUE_HOLD_SPACE "d.test"), err));
    commit(batch);
    after = (struct queue_key){0};
    OK(queue_list(f->reader, &held, &after, 9, &page, err));
    assert_int_equal(page.n_rows, 0);
    queue_page_release(&page);
}

/* --------------------------------------------------------------------------------- history */

static void
finish_at(struct fixture *f, msec_t at, const char *detail)
{
    struct queue_change c = change(add_one(f, "x@d.test"), 0, 1, QUEUE_FINISH);
    c.finished_at = at;
    c.detail = span_str(detail);
    assert_int_equal(apply_one(f, &c), ERR_OK);
}

static void
history_keeps_what_happened_and_is_found_by_id(void **state)
{
    struct fixture *f = *state;
    struct queue_batch *batch = begin(f);
    uint64_t id = add_to(f, batch, (const char *const[]){"a@d.test", "b@d.test", NULL});
    commit(batch);
    finish_at(f, T0 + 1, "other");
    struct queue_change a = change(id, 0, 1, QUEUE_FINISH), b = change(id, 1, 1, QUEUE_FINISH);
    a.result = QUEUE_DELIVERED;
    a.finished_at = T0 + 5;
    a.detail = SPAN("250 ok");
    b.finished_at = T0 + 3;
    assert_int_equal(apply_one(f, &a), ERR_OK);
    assert_int_equal(apply_one(f, &b), ERR_OK);
    struct queue_past_key after = {0};
    struct queue_history h = {0};
    OK(queue_read_history(f->reader, id, &after, 9, &h, err));
    assert_int_equal(h.n_rows, 2);
    assert_false(h.more);
    assert_int_equal(h.rows[0].no, 1);
    assert_int_equal(h.rows[0].result, QUEUE_FAILED);
    assert_int_equal(h.rows[1].no, 0);
    assert_int_equal(h.rows[1].result, QUEUE_DELIVERED);
    assert_int_equal(h.rows[1].finished_at, T0 + 5);
    assert_int_equal(h.rows[1].arrived_at, T0);
    assert_span(h.rows[1].detail, "250 ok");
    assert_span(h.rows[1].address, "a@d.test");
    assert_span(h.rows[0].sender, "alice@src.test");
    assert_span(h.rows[1].sender, "alice@src.test");
    queue_history_release(&h);
    after = (struct queue_past_key){0};
    OK(queue_read_history(f->reader, 0, &after, 2, &h, err));
    assert_int_equal(h.n_rows, 2);
    assert_true(h.more);
    queue_history_release(&h);
    OK(queue_read_history(f->reader, 0, &after, 2, &h, err));
    assert_int_equal(h.n_rows, 1);
    assert_false(h.more);
    queue_history_release(&h);
}

/* Ids never run back; what is told of times comes from the records. */
static void
times_are_told_by_records_and_not_by_ids_that_run_ahead(void **state)
{
    struct fixture *f = *state;
    queue_id_new(f->queue, T0 + 3650 * DAY); /* a clock that was wrong */
    uint64_t id = add_one(f, "x@d.test");
    assert_true(queue_id_moment(id) >= T0 + 3650 * DAY);
    assert_int_equal(stats_of(f).oldest_at, T0);
    struct queue_change c = change(id, 0, 1, QUEUE_FINISH);
    assert_int_equal(apply_one(f, &c), ERR_OK);
    struct queue_past_key after = {0};
    struct queue_history h = {0};
    OK(queue_read_history(f->reader, id, &after, 9, &h, err));
    assert_int_equal(h.n_rows, 1);
    queue_history_release(&h);
    assert_int_equal(stats_of(f).oldest_at, 0);
}

static void
history_is_trimmed_by_age_and_by_number_from_its_old_end(void **state)
{
    struct fixture *f = *state;
    size_t n;
    for (int i = 0; i < 20; i++)
        finish_at(f, T0 + i * HOUR, "x");
    struct queue_batch *batch = begin(f);
    OK(queue_history_trim(batch, T0 + 5 * HOUR, 1000, 3, &n, err));
    assert_int_equal(n, 3); /* no more than asked for */
    OK(queue_history_trim(batch, T0 + 5 * HOUR, 1000, 100, &n, err));
    assert_int_equal(n, 2);
    OK(queue_history_trim(batch, 0, 10, 100, &n, err));
    assert_int_equal(n, 5);
    OK(queue_history_trim(batch, 0, 10, 100, &n, err));
    assert_int_equal(n, 0);
    commit(batch);
    struct queue_past_key after = {0};
    struct queue_history h = {0};
    OK(queue_read_history(f->reader, 0, &after, 100, &h, err));
    assert_int_equal(h.n_rows, 10);
    assert_int_equal(h.rows[0].finished_at, T0 + 10 * HOUR);
    queue_history_release(&h);
    assert_sound(f);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, fixture_setup, fixture_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_message_is_read_back_with_everything_it_had),
        TEST(bodies_of_every_size_come_back_byte_for_byte),
        TEST(an_abort_leaves_nothing),
        TEST(messages_of_a_wrong_form_are_refused_and_leave_the_batch_usable),
        TEST(ids_may_be_committed_out_of_order),
        TEST(a_recipient_goes_through_all_its_states),
        TEST(a_fresh_recipient_may_be_held_and_released),
        TEST(a_message_lives_until_its_last_recipient_is_finished),
        TEST(a_wrong_revision_changes_nothing_but_a_delivery_always_counts),
        TEST(a_batch_that_changed_nothing_has_no_transaction_of_its_own),
        TEST(changes_of_a_wrong_form_are_refused),
        TEST(long_attempt_records_grow_and_shrink_among_many),
        TEST(state_rows_are_put_replaced_deleted_and_walked_by_prefix),
        TEST(verbs_work_on_all_that_matches_in_slices),
        TEST(one_row_holds_a_whole_domain),
        TEST(history_keeps_what_happened_and_is_found_by_id),
        TEST(times_are_told_by_records_and_not_by_ids_that_run_ahead),
        TEST(history_is_trimmed_by_age_and_by_number_from_its_old_end),
    };
    RUN_TESTS(tests);
}
