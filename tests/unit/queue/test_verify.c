/*
 * Each test damages a sound queue by hand, through LMDB itself, and expects verify to say so.
 */
#include "tests/unit/queue/fixture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "queue/queue_impl.h"

struct raw {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi[TABLES];
};

static struct raw
raw_open(struct fixture *f)
{
    struct raw r;
    fixture_close(f);
    assert_int_equal(mdb_env_create(&r.env), 0);
    mdb_env_set_maxdbs(r.env, TABLES);
    mdb_env_set_mapsize(r.env, 64 * MIB);
    assert_int_equal(mdb_env_open(r.env, f->dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(r.env, NULL, 0, &r.txn), 0);
    for (int t = 0; t < TABLES; t++)
        assert_int_equal(mdb_dbi_open(r.txn, queue_table_names[t], 0, &r.dbi[t]), 0);
    return r;
}

static void
raw_close(struct fixture *f, struct raw *r)
{
    assert_int_equal(mdb_txn_commit(r->txn), 0);
    mdb_env_close(r->env);
    fixture_open(f);
}

static void
raw_put(struct raw *r, enum table table, const struct key *key, const void *p, size_t n)
{
    MDB_val k = key_val(key), v = {n, (void *)p};
    assert_int_equal(mdb_put(r->txn, r->dbi[table], &k, &v, 0), 0);
}

static void
raw_delete(struct raw *r, enum table table, const struct key *key)
{
    MDB_val k = key_val(key);
    assert_int_equal(mdb_del(r->txn, r->dbi[table], &k, NULL), 0);
}

/* Flip one bit of a row's value. */
static void
raw_flip(struct raw *r, enum table table, const struct key *key, size_t at)
{
    MDB_val k = key_val(key), v;
    assert_int_equal(mdb_get(r->txn, r->dbi[table], &k, &v), 0);
    assert_true(at < v.mv_size);
    char *copy = xmalloc(v.mv_size);
    memcpy(copy, v.mv_data, v.mv_size);
    copy[at] ^= 4;
    raw_put(r, table, key, copy, v.mv_size);
    free(copy);
}

/* Exactly these findings, in this order; each text holds the words given. */
static void
expect(struct fixture *f, size_t n, const char *const *words)
{
    struct queue_verify_result r;
    struct queue_verify *v = verify_all(f, &r);
    for (size_t i = 0; i < r.n_texts && i < n; i++)
        if (strstr(r.texts[i], words[i]) == NULL)
            fail_msg("finding %zu is \"%s\", not \"%s\"", i, r.texts[i], words[i]);
    if (r.n_findings != n)
        fail_msg("%llu findings instead of %zu; the last: %s", (unsigned long long)r.n_findings, n,
                 r.n_texts > 0 ? r.texts[r.n_texts - 1] : "none");
    queue_verify_free(v);
}
#define EXPECT(f, ...)                                                     \
    expect(f, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *), \
           (const char *const[]){__VA_ARGS__})

static uint64_t fresh_id, due_id, held_id, big_id;
#define BIG_BYTES (3 * QUEUE_CHUNK_BYTES + 5)

/* One message of each kind, history and state. */
static int
setup(void **state)
{
    fixture_setup(state);
    struct fixture *f = *state;
    char *bytes = body_bytes(BIG_BYTES, 1);
    struct span body = span_of(bytes, BIG_BYTES);
    struct queue_rcpt rcpt = recipient(0, "x@big.test");
    struct queue_msg msg = message(f, BIG_BYTES);
    fresh_id = add_one(f, "x@fresh.test");
    due_id = add_one(f, "x@due.test");
    held_id = add_one(f, "x@held.test");
    big_id = msg.id;
    struct queue_change defer = {
        .id = due_id, .revision = 1, .verb = QUEUE_DEFER, .due_at = T0 + 5};
    struct queue_change hold = {.id = held_id, .revision = 1, .verb = QUEUE_HOLD};
    struct queue_change done = {.id = add_one(f, "x@done.test"),
                                .revision = 1,
                                .verb = QUEUE_FINISH,
                                .result = QUEUE_DELIVERED,
                                .finished_at = T0};
    struct queue_batch *batch = begin(f);
    OK(queue_add(batch, &msg, &rcpt, 1, &body, 1, err));
    OK(queue_apply(batch, &defer, err));
    OK(queue_apply(batch, &hold, err));
    OK(queue_apply(batch, &done, err));
    OK(queue_state_put(batch, SPAN("learned:x"), SPAN("v"), err));
    commit(batch);
    free(bytes);
    return 0;
}

static void
a_sound_queue_has_no_findings_and_is_counted(void **state)
{
    struct fixture *f = *state;
    struct queue_verify_result r;
    struct queue_verify *v = verify_all(f, &r);
    assert_int_equal(r.n_findings, 0);
    assert_int_equal(r.messages, 4);
    assert_int_equal(r.recipients, 4);
    assert_int_equal(r.body_bytes, 3 * 21 + BIG_BYTES);
    queue_verify_free(v);
}

static void
missing_and_surplus_index_rows_are_found(void **state)
{
    struct fixture *f = *state;
    uint64_t lane = queue_lane(f->queue, SPAN("due.test"));
    struct raw r = raw_open(f);
    struct key fresh = key_id_no(fresh_id, 0), due = key_schedule(lane, T0 + 5, due_id, 0),
               held = key_id_no(held_id, 0), ghost = key_id_no(held_id + 999, 3);
    raw_delete(&r, TABLE_FRESH, &fresh);
    raw_delete(&r, TABLE_SCHEDULE, &due);
    raw_put(&r, TABLE_FRESH, &held, "", 0);
    raw_put(&r, TABLE_FRESH, &ghost, "", 0);
    raw_close(f, &r);
    EXPECT(f, "fresh, but no row in fresh", "scheduled, but no row in schedule",
           "held, but it has a row in fresh", "which is not there");
}

static void
schedule_rows_that_tell_something_else_are_found(void **state)
{
    struct fixture *f = *state;
    uint64_t lane = queue_lane(f->queue, SPAN("due.test"));
    struct raw r = raw_open(f);
    struct key wrong_lane = key_schedule(lane + 1, T0 + 5, due_id, 0),
               wrong_time = key_schedule(lane, T0 + 6, due_id, 0),
               wrong_state = key_schedule(lane, T0 + 7, held_id, 0),
               ghost = key_schedule(lane, T0 + 8, held_id + 999, 0);
    raw_put(&r, TABLE_SCHEDULE, &wrong_lane, "", 0);
    raw_put(&r, TABLE_SCHEDULE, &wrong_time, "", 0);
    raw_put(&r, TABLE_SCHEDULE, &wrong_state, "", 0);
    raw_put(&r, TABLE_SCHEDULE, &ghost, "", 0);
    raw_close(f, &r);
    EXPECT(f, "but it is due at", "which is held", "which is not there",
           "in a lane of another domain");
}

static void
messages_and_recipients_without_each_other_are_found(void **state)
{
    struct fixture *f = *state;
    struct raw r = raw_open(f);
    struct key msg = key_id(fresh_id), rcpt = key_id_no(held_id, 0);
    raw_delete(&r, TABLE_MESSAGE, &msg);
    raw_delete(&r, TABLE_RECIPIENT, &rcpt);
    raw_close(f, &r);
    EXPECT(f, "it has no recipient left", "its message is missing");
}

static void
damaged_records_are_found_and_named(void **state)
{
    struct fixture *f = *state;
    char id[QUEUE_ID_TEXT + 1];
    struct raw r = raw_open(f);
    struct key msg = key_id(fresh_id), rcpt = key_id_no(held_id, 0);
    MDB_val state_key = {9, "learned:x"}, cut = {3, "xyz"};
    MDB_cursor *cursor;
    MDB_val k, v;
    raw_flip(&r, TABLE_MESSAGE, &msg, 40);
    raw_flip(&r, TABLE_RECIPIENT, &rcpt, 12);
    assert_int_equal(mdb_put(r.txn, r.dbi[TABLE_STATE], &state_key, &cut, 0), 0);
    assert_int_equal(mdb_cursor_open(r.txn, r.dbi[TABLE_HISTORY], &cursor), 0);
    assert_int_equal(mdb_cursor_get(cursor, &k, &v, MDB_FIRST), 0);
    assert_int_equal(mdb_cursor_put(cursor, &k, &cut, MDB_CURRENT), 0);
    mdb_cursor_close(cursor);
    raw_close(f, &r);
    EXPECT(f, queue_id_format(fresh_id, id), "wrong checksum", "state learned:x: state record",
           "history of recipient");
}

static void
damaged_bodies_are_found_and_not_read(void **state)
{
    struct fixture *f = *state;
    struct raw r = raw_open(f);
    struct key chunk = key_id_no(big_id, 1), msg = key_id(fresh_id);
    MDB_val k = key_val(&msg), v;
    char buf[64];
    size_t n;
    raw_flip(&r, TABLE_BODY, &chunk, 777);
    assert_int_equal(mdb_get(r.txn, r.dbi[TABLE_MESSAGE], &k, &v), 0);
    raw_flip(&r, TABLE_MESSAGE, &msg, v.mv_size - 3);
    raw_close(f, &r);
    EXPECT(f, "body chunk 1 has a wrong checksum", "the body has a wrong checksum");
    OK(queue_read_body(f->reader, big_id, 0, buf, sizeof(buf), &n, err));
    FAILS(ERR_CORRUPT,
          queue_read_body(f->reader, big_id, QUEUE_CHUNK_BYTES, buf, sizeof(buf), &n, err));
    FAILS(ERR_CORRUPT, queue_read_body(f->reader, fresh_id, 0, buf, sizeof(buf), &n, err));
    struct queue_mail m;
    FAILS(ERR_CORRUPT, queue_read_mail(f->reader, fresh_id, &m, err));
}

static void
bodies_that_are_short_long_or_nobodys_are_found(void **state)
{
    struct fixture *f = *state;
    struct raw r = raw_open(f);
    struct key last = key_id_no(big_id, 3), orphan = key_id_no(held_id + 777, 0),
               second = key_id_no(held_id + 777, 1), unneeded = key_id_no(fresh_id, 0),
               incoming = key_id(held_id);
    char buf[64];
    size_t n;
    raw_delete(&r, TABLE_BODY, &last);
    raw_put(&r, TABLE_BODY, &orphan, "xxxxxxxx", 8);
    raw_put(&r, TABLE_BODY, &second, "xxxxxxxx", 8);
    raw_put(&r, TABLE_BODY, &unneeded, "xxxxxxxx", 8);
    raw_put(&r, TABLE_INCOMING, &incoming, "", 0);
    assert_int_equal(mdb_txn_commit(r.txn), 0);
    mdb_env_close(r.env);
    f->options.read_only = true; /* a start would sweep what `incoming` names */
    fixture_open(f);
    EXPECT(f, "bytes instead of", "chunks of a message that holds its body itself",
           "it belongs to no message", "it is there and still being received");
    FAILS(ERR_CORRUPT,
          queue_read_body(f->reader, big_id, 3 * QUEUE_CHUNK_BYTES, buf, sizeof(buf), &n, err));
}

static void
an_id_above_the_last_one_is_found(void **state)
{
    struct fixture *f = *state;
    struct raw r = raw_open(f);
    MDB_val k = {sizeof(META_LAST_ID) - 1, META_LAST_ID}, v = {8, "\x01\0\0\0\0\0\0\0"};
    assert_int_equal(mdb_put(r.txn, r.dbi[TABLE_META], &k, &v, 0), 0);
    raw_close(f, &r);
    EXPECT(f, "above the last one", "above the last one", "above the last one",
           "above the last one");
    assert_true(queue_id_new(f->queue, 0) > big_id); /* and does no harm */
}

/* ------------------------------------------------------------------------- living with damage */

static void
a_damaged_recipient_is_passed_over_and_can_be_taken_out(void **state)
{
    struct fixture *f = *state;
    uint64_t lane = queue_lane(f->queue, SPAN("due.test"));
    struct raw r = raw_open(f);
    struct key rcpt = key_id_no(due_id, 0), fresh = key_id_no(fresh_id, 0);
    raw_flip(&r, TABLE_RECIPIENT, &rcpt, 20);
    raw_flip(&r, TABLE_RECIPIENT, &fresh, 20);
    raw_close(f, &r);
    struct queue_key after = {0};
    struct queue_due_key due_after = {0};
    struct queue_page page = {0};
    struct queue_filter all = {0};
    OK(queue_page_fresh(f->reader, &after, 9, &page, err));
    assert_int_equal(page.n_rows, 1); /* the big one */
    assert_int_equal(page.n_bad, 1);
    assert_int_equal(page.bad.id, fresh_id);
    queue_page_release(&page);
    OK(queue_page_lane(f->reader, lane, &due_after, T0 + HOUR, 9, &page, err));
    assert_int_equal(page.n_rows, 0);
    assert_int_equal(page.n_bad, 1);
    assert_int_equal(page.next_due_at, INT64_MAX); /* nothing to spin on */
    queue_page_release(&page);
    after = (struct queue_key){0};
    OK(queue_list(f->reader, &all, &after, 9, &page, err));
    assert_int_equal(page.n_bad, 2);
    queue_page_release(&page);
    struct queue_change c = {.id = due_id, .revision = 2, .verb = QUEUE_DEFER, .due_at = T0};
    assert_int_equal(apply_one(f, &c), ERR_CORRUPT);
    c = (struct queue_change){
        .id = due_id, .verb = QUEUE_FINISH, .result = QUEUE_REMOVED, .finished_at = T0};
    assert_int_equal(apply_one(f, &c), ERR_OK);
    assert_true(c.msg_gone);
    struct queue_filter one = {.id = fresh_id};
    struct queue_touched touched[2];
    size_t n;
    bool more;
    after = (struct queue_key){0};
    struct queue_batch *batch = begin(f);
    OK(queue_apply_filter(batch, &one, &c, &after, 2, touched, &n, &more, err));
    assert_int_equal(n, 1);
    commit(batch);
    assert_sound(f);
    assert_int_equal(stats_of(f).messages, 2);
}

static void
verify_runs_beside_a_writer_without_false_findings(void **state)
{
    struct fixture *f = *state;
    struct queue_verify *v = queue_verify_new();
    struct queue_verify_result r;
    unsigned seed = 3;
    uint64_t ids[64] = {0};
    uint32_t revisions[64] = {0};
    for (int i = 0; i < 3000; i++) /* so many that a table takes several steps */
        add_one(f, "x@many.test");
    do {
        struct queue_batch *batch = begin(f);
        for (int k = 0; k < 20; k++) {
            seed = seed * 1103515245u + 12345u;
            size_t i = seed / 65536u % 64;
            struct queue_change c = {.id = ids[i],
                                     .revision = revisions[i],
                                     .verb = seed % 3 == 0   ? QUEUE_FINISH
                                             : seed % 3 == 1 ? QUEUE_DEFER
                                                             : QUEUE_HOLD,
                                     .due_at = T0 + seed % 100,
                                     .result = QUEUE_FAILED,
                                     .finished_at = T0};
            if (ids[i] == 0) {
                ids[i] = add_to(f, batch, (const char *const[]){"x@z.test", NULL});
                revisions[i] = 1;
                continue;
            }
            OK(queue_apply(batch, &c, err));
            revisions[i] = c.new_revision;
            if (c.verb == QUEUE_FINISH)
                ids[i] = 0;
        }
        commit(batch);
        OK(queue_verify_step(v, f->reader, &r, err));
    } while (!r.finished);
    if (r.n_findings > 0)
        fail_msg("%s", r.texts[0]);
    assert_true(r.messages > 2900);
    queue_verify_free(v);
    assert_sound(f);
}

/* A start refuses such a file; this one rots while it is open. */
static void
keys_that_run_back_end_the_walk_of_their_table(void **state)
{
    struct fixture *f = *state;
    struct queue_verify_result result;
    struct key key = key_id(due_id), low = key_id(1);
    char path[128];
    struct stat st;
    snprintf(path, sizeof(path), "%s/" QUEUE_DATA_FILE, f->dir);
    int fd = open(path, O_RDWR);
    assert_int_equal(fstat(fd, &st), 0);
    char *map = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    assert_ptr_not_equal(map, MAP_FAILED);
    for (char *p = map; (p = memmem(p, (size_t)(map + st.st_size - p), key.b, key.n)) != NULL;)
        memcpy(p, low.b, low.n);
    munmap(map, (size_t)st.st_size);
    struct queue_verify *v = verify_all(f, &result);
    assert_true(result.n_findings > 0);
    assert_non_null(strstr(result.texts[0], "cannot be read any further"));
    queue_verify_free(v);
    struct err err;
    fixture_close(f);
    assert_int_equal(queue_open(&f->options, &f->queue, NULL, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "(message): key"));
    f->queue = NULL;
}

static void
findings_beyond_the_limit_are_counted(void **state)
{
    struct fixture *f = *state;
    struct queue_verify_result result;
    struct raw r = raw_open(f);
    for (uint32_t i = 0; i < QUEUE_FINDINGS_MAX + 50; i++) {
        struct key ghost = key_id_no(held_id + 999, i);
        raw_put(&r, TABLE_FRESH, &ghost, "", 0);
    }
    raw_close(f, &r);
    struct queue_verify *v = verify_all(f, &result);
    assert_int_equal(result.n_findings, QUEUE_FINDINGS_MAX + 50);
    assert_int_equal(result.n_texts, QUEUE_FINDINGS_MAX);
    queue_verify_free(v);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, fixture_teardown)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_sound_queue_has_no_findings_and_is_counted),
        TEST(missing_and_surplus_index_rows_are_found),
        TEST(schedule_rows_that_tell_something_else_are_found),
        TEST(messages_and_recipients_without_each_other_are_found),
        TEST(damaged_records_are_found_and_named),
        TEST(damaged_bodies_are_found_and_not_read),
        TEST(bodies_that_are_short_long_or_nobodys_are_found),
        TEST(an_id_above_the_last_one_is_found),
        TEST(a_damaged_recipient_is_passed_over_and_can_be_taken_out),
        TEST(verify_runs_beside_a_writer_without_false_findings),
        TEST(keys_that_run_back_end_the_walk_of_their_table),
        TEST(findings_beyond_the_limit_are_counted),
    };
    RUN_TESTS(tests);
}
