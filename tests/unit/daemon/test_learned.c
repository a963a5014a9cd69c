/*
 * The keeper of learned routes before a store of the test's own, whose answers come when the test
 * says so. Its way through the real one is tested in test_learned_store.c.
 */
#include "tests/unit/queue/fixture.h"

#include "relayd/learned.h"
#include "relayd/net/loop.h"
#include "relayd/ops/log.h"
#include "relayd/ops/metrics.h"
#include "relayd/store/store.h"

#define ROWS_MAX 4096
#define OPS_MAX 16

static struct {
    char dir[64], log_file[96];
    struct loop *loop;
    struct log *log;
    struct metrics *metrics;
    struct learned *l;
    /* the store */
    struct row {
        char *key;
        size_t value_bytes;
        char *value;
    } rows[ROWS_MAX];
    size_t n_rows;
    struct store_op *ops[OPS_MAX]; /* submitted, not answered */
    size_t n_ops;
    struct store_read *read; /* likewise */
    size_t n_reads;
    int n_loaded;
} t;

static const struct config_learning config = {.ttl_ms = 6 * HOUR,
                                              .max_ttl_ms = 7 * DAY,
                                              .path_errors_count = 3,
                                              .path_errors_within_ms = HOUR,
                                              .max_reroutes = {2, HOUR}};

/* ---- the store ---- */

void
store_submit(struct store *store, struct store_op *op)
{
    assert_ptr_equal(store, &t);
    assert_int_equal(op->kind, STORE_OUTCOMES);
    assert_int_equal(op->outcomes.n_changes + op->outcomes.n_notices, 0);
    assert_in_range(op->outcomes.n_facts, 1, LEARNED_WRITE_ROWS);
    assert_in_range(t.n_ops, 0, OPS_MAX - 1);
    t.ops[t.n_ops++] = op;
}

void
store_read(struct store *store, struct store_read *read)
{
    assert_ptr_equal(store, &t);
    assert_null(t.read);
    assert_int_equal(read->kind, STORE_READ_STATE);
    t.read = read;
    t.n_reads++;
}

static size_t
row_at(struct span key)
{
    size_t i = 0;
    while (i < t.n_rows && span_cmp(span_str(t.rows[i].key), key) < 0)
        i++;
    return i;
}

static void
apply(const struct store_fact *f)
{
    size_t i = row_at(f->key);
    bool there = i < t.n_rows && span_eq(span_str(t.rows[i].key), f->key);

    if (there) {
        free(t.rows[i].key);
        free(t.rows[i].value);
        memmove(&t.rows[i], &t.rows[i + 1], (--t.n_rows - i) * sizeof(t.rows[0]));
    }
    if (f->remove)
        return;
    assert_in_range(t.n_rows, 0, ROWS_MAX - 1);
    memmove(&t.rows[i + 1], &t.rows[i], (t.n_rows++ - i) * sizeof(t.rows[0]));
    t.rows[i] = (struct row){.key = xstrndup(f->key.p, f->key.n),
                             .value = xstrndup(f->value.p, f->value.n),
                             .value_bytes = f->value.n};
}

/* Answer the oldest operation; returns how many rows it held. */
static size_t
answer(enum err_code code)
{
    assert_true(t.n_ops > 0);
    struct store_op *op = t.ops[0];
    size_t n = op->outcomes.n_facts;
    memmove(t.ops, t.ops + 1, --t.n_ops * sizeof(t.ops[0]));
    for (size_t i = 0; i < n && code == ERR_OK; i++)
        apply(&op->outcomes.facts[i]);
    op->code = code;
    if (code != ERR_OK)
        err_set(&op->err, code, "disk on fire");
    op->done(op);
    return n;
}

static void
answer_read(enum err_code code)
{
    struct store_read *read = t.read;
    struct queue_facts *facts = &read->state.facts;
    size_t from = read->state.after.n == 0 ? 0 : row_at(read->state.after) + 1;

    assert_non_null(read);
    t.read = NULL;
    read->code = code;
    memset(facts, 0, sizeof(*facts));
    if (code == ERR_OK) {
        size_t n = t.n_rows - from < read->state.max ? t.n_rows - from : read->state.max;
        facts->memory = facts->rows = xcalloc(n + 1, sizeof(facts->rows[0]));
        facts->n_rows = n;
        facts->more = from + n < t.n_rows;
        for (size_t i = 0; i < n; i++) {
            struct row *row = &t.rows[from + i];
            facts->rows[i].key = span_str(row->key);
            facts->rows[i].value = span_of(row->value, row->value_bytes);
        }
    } else {
        err_set(&read->err, code, "disk on fire");
    }
    read->done(read);
}

/* ---- the rig ---- */

static void
tick(void)
{
    loop_run_once(t.loop, 0);
}

static void
on_loaded(void *arg)
{
    assert_ptr_equal(arg, &t);
    t.n_loaded++;
}

static void
keeper_new(void)
{
    t.metrics = metrics_new();
    const struct learned_env env = {.loop = t.loop,
                                    .log = t.log,
                                    .metrics = t.metrics,
                                    .store = (struct store *)&t,
                                    .config = &config};
    t.l = learned_new(&env);
}

static void
keeper_free(void)
{
    learned_free(t.l);
    metrics_free(t.metrics);
    t.l = NULL;
    t.metrics = NULL;
}

static void
load(void)
{
    int before = t.n_loaded;
    learned_load(t.l, on_loaded, &t);
    assert_int_equal(t.n_loaded, before);
    while (t.read != NULL)
        answer_read(ERR_OK);
    assert_int_equal(t.n_loaded, before + 1);
}

static int
setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    snprintf(t.dir, sizeof(t.dir), "/tmp/relayd-learned-XXXXXX");
    assert_non_null(mkdtemp(t.dir));
    snprintf(t.log_file, sizeof(t.log_file), "%s/log", t.dir);
    t.loop = loop_new_stepped(T0);
    t.log = log_new(NULL);
    OK(log_set_target(t.log, t.log_file, err));
    keeper_new();
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    keeper_free();
    while (t.n_ops > 0)
        answer(ERR_FULL);
    loop_free(t.loop);
    log_free(t.log);
    for (size_t i = 0; i < t.n_rows; i++) {
        free(t.rows[i].key);
        free(t.rows[i].value);
    }
    remove_dir(t.dir);
    return 0;
}

static struct learn_way
way_of(const char *domain, uint64_t id)
{
    return (struct learn_way){.domain = span_str(domain),
                              .site = SPAN("mx1.test mx2.test 2/00"),
                              .label = SPAN("mx1.test"),
                              .route = SPAN("direct"),
                              .key = {id, 0}};
}

static void
refuse(const char *domain, uint64_t id)
{
    const struct learn_way way = way_of(domain, id);
    const struct learn_reply reply = {.to = SPAN("us"),
                                      .klass = SPAN("ip-blocklisted"),
                                      .code = 550,
                                      .enh = {5, 7, 1},
                                      .text = SPAN("blocked \"you\"")};
    learned_refused(t.l, &way, &reply);
}

static enum learn_advice
advice(const char *domain, uint64_t id)
{
    const struct learn_way way = way_of(domain, id);
    return learned_advise(t.l, &way, NULL);
}

/* How many lines of the log hold both texts. */
static size_t
logged(const char *one, const char *two)
{
    char line[LOG_LINE_MAX + 2];
    size_t n = 0;
    FILE *f = fopen(t.log_file, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL)
        n += strstr(line, one) != NULL && strstr(line, two) != NULL;
    fclose(f);
    return n;
}

/* Is this line in the exposition? */
static bool
measured(const char *line)
{
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    char whole[256];
    metrics_write(t.metrics, &out);
    snprintf(whole, sizeof(whole), "\n%s\n", line);
    return strstr(out.p, whole) != NULL;
}

/* ---- tests ---- */

static void
changes_of_a_tick_travel_in_one_operation(void **state)
{
    (void)state;
    load();
    refuse("a.test", 1);
    refuse("b.test", 2);
    assert_int_equal(t.n_ops, 0); /* not before the tick is over */
    tick();
    assert_int_equal(t.n_ops, 1);
    refuse("c.test", 3);
    refuse("d.test", 4);
    tick();
    tick();
    assert_int_equal(t.n_ops, 1);        /* one at a time */
    assert_int_equal(answer(ERR_OK), 3); /* a, b and their site */
    assert_int_equal(t.n_ops, 1);        /* what changed meanwhile */
    assert_int_equal(answer(ERR_OK), 2);
    assert_int_equal(t.n_ops, 0);
    assert_int_equal(t.n_rows, 5);
    assert_string_equal(t.rows[0].key, "learned:domain:a.test:direct");
}

static void
what_was_stored_is_known_after_a_restart(void **state)
{
    (void)state;
    load();
    refuse("a.test", 1);
    tick();
    answer(ERR_OK);
    keeper_free();
    keeper_new();
    assert_int_equal(advice("a.test", 2), LEARN_FREE);
    load();
    assert_int_equal(advice("a.test", 2), LEARN_AVOID);
    assert_int_equal(learned_count(t.l), 1);
    assert_true(measured("relayd_learned_routes{route=\"direct\"} 1"));
    tick();
    assert_int_equal(t.n_ops, 0); /* nothing changed */
}

static void
many_rows_are_read_in_pages_and_written_in_portions(void **state)
{
    (void)state;
    enum { N = 2500 };
    char name[32];
    load();
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof(name), "d%d.test", i);
        refuse(name, 1);
    }
    tick();
    assert_int_equal(answer(ERR_OK), LEARNED_WRITE_ROWS);
    assert_int_equal(answer(ERR_OK), LEARNED_WRITE_ROWS);
    assert_int_equal(answer(ERR_OK), N + 1 - 2 * LEARNED_WRITE_ROWS);
    assert_int_equal(t.n_rows, N + 1);
    keeper_free();
    keeper_new();
    t.n_reads = 0;
    load();
    assert_int_equal(t.n_reads, 3);
    assert_int_equal(learned_count(t.l), N + 1);
    assert_true(measured("relayd_learned_routes{route=\"direct\"} 2501"));
}

static void
a_row_that_makes_no_sense_is_logged_and_left(void **state)
{
    (void)state;
    apply(&(struct store_fact){.key = SPAN("learned:domain:x.test:direct"), .value = SPAN("\1x")});
    load();
    assert_int_equal(learned_count(t.l), 0);
    assert_int_equal(t.n_rows, 1);
    assert_int_equal(logged("event=learned_row", "x.test"), 1);
    /* learned anew, it is written over */
    refuse("x.test", 1);
    tick();
    answer(ERR_OK);
    assert_int_equal(t.n_rows, 1);
    assert_true(t.rows[0].value_bytes > 50);
}

static void
rows_that_cannot_be_read_raise_an_alert_and_delivery_begins(void **state)
{
    (void)state;
    learned_load(t.l, on_loaded, &t);
    answer_read(ERR_IO);
    assert_int_equal(t.n_loaded, 1);
    assert_int_equal(logged("alert=queue_damaged", "disk on fire"), 1);
}

static void
a_failed_write_is_logged_and_goes_with_the_next_change(void **state)
{
    (void)state;
    load();
    refuse("a.test", 1);
    refuse("b.test", 2);
    tick();
    assert_int_equal(learned_forget(t.l, SPAN("a.test")), 2); /* newer than what fails */
    tick();
    answer(ERR_IO);
    assert_int_equal(logged("event=learned_write", "disk on fire"), 1);
    assert_int_equal(t.n_ops, 0);
    tick();
    assert_int_equal(t.n_ops, 0);
    refuse("c.test", 3);
    tick();
    assert_int_equal(answer(ERR_OK), 4); /* a's removal, b, the site, c */
    assert_int_equal(t.n_rows, 3);
    assert_string_equal(t.rows[0].key, "learned:domain:b.test:direct");
    assert_string_equal(t.rows[1].key, "learned:domain:c.test:direct");
}

static void
an_hourly_sweep_tries_what_failed_again_and_removes_what_nobody_probes(void **state)
{
    (void)state;
    load();
    refuse("a.test", 1);
    tick();
    answer(ERR_IO);
    clock_step(loop_clock(t.loop), HOUR);
    tick();
    answer(ERR_OK);
    assert_int_equal(t.n_rows, 1);
    clock_step(loop_clock(t.loop), 6 * HOUR + 7 * DAY - 2 * HOUR);
    tick();
    assert_int_equal(t.n_ops, 0);
    clock_step(loop_clock(t.loop), 2 * HOUR);
    tick();
    answer(ERR_OK);
    assert_int_equal(t.n_rows, 0);
    assert_int_equal(logged("event=forgotten reason=unused", "name=a.test"), 1);
    assert_true(measured("relayd_learned_total{change=\"swept\",route=\"direct\"} 1"));
    assert_true(measured("relayd_learned_routes{route=\"direct\"} 0"));
}

static void
a_great_many_are_swept_in_portions(void **state)
{
    (void)state;
    char name[32];
    load();
    for (int i = 0; i < 2500; i++) {
        snprintf(name, sizeof(name), "d%d.test", i);
        refuse(name, 1);
    }
    tick();
    while (t.n_ops > 0)
        answer(ERR_OK);
    clock_step(loop_clock(t.loop), 6 * HOUR + 7 * DAY);
    assert_int_equal(learned_count(t.l), 2501 - LEARNED_SWEEP_ROWS);
    clock_step(loop_clock(t.loop), SECOND);
    assert_int_equal(learned_count(t.l), 2501 - 2 * LEARNED_SWEEP_ROWS);
    clock_step(loop_clock(t.loop), SECOND);
    assert_int_equal(learned_count(t.l), 0);
    tick();
    while (t.n_ops > 0)
        answer(ERR_OK);
    assert_int_equal(t.n_rows, 0);
}

static void
each_step_is_logged_and_counted(void **state)
{
    (void)state;
    const struct learn_way way = way_of("a.test", 7);
    load();
    refuse("a.test", 1);
    assert_int_equal(logged("event=learned", " scope=domain name=a.test route=direct to=us "
                                             "class=ip-blocklisted code=550 enh=5.7.1 "),
                     1);
    assert_int_equal(logged("event=learned", "text=\"blocked \\\"you\\\"\""), 1);
    clock_step(loop_clock(t.loop), 6 * HOUR);
    assert_true(learned_probe(t.l, &way));
    refuse("a.test", 7);
    assert_int_equal(logged("event=probe", "name=a.test"), 1);
    assert_int_equal(logged("event=renewed", "ttl=43200.000"), 1);
    clock_step(loop_clock(t.loop), 12 * HOUR);
    for (int i = 0; i < 3; i++) {
        assert_true(learned_probe(t.l, &way));
        learned_delivered(t.l, &way);
    }
    assert_int_equal(logged("event=good_probe", "good=2"), 1);
    assert_int_equal(logged("event=forgotten", "reason=probes"), 1);
    assert_true(measured("relayd_learned_total{change=\"learned\",route=\"direct\"} 1"));
    assert_true(measured("relayd_learned_total{change=\"renewed\",route=\"direct\"} 1"));
    assert_true(measured("relayd_learned_total{change=\"good_probe\",route=\"direct\"} 2"));
    assert_true(measured("relayd_learned_total{change=\"forgotten\",route=\"direct\"} 1"));
    assert_true(measured("relayd_learned_routes{route=\"direct\"} 0"));
    tick();
    answer(ERR_OK);
    assert_int_equal(t.n_rows, 0);
}

static void
too_many_reroutes_raise_one_alert(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++)
        assert_true(learned_may_reroute(t.l, SPAN("direct"), SPAN("us")));
    for (int i = 0; i < 5; i++)
        assert_false(learned_may_reroute(t.l, SPAN("direct"), SPAN("us")));
    assert_int_equal(logged("alert=reroutes_exceeded", "by direct and sent by us"), 1);
    assert_int_equal(log_alerts_total(t.log), 1);
    assert_true(measured("relayd_reroutes_exceeded_total{from=\"direct\",to=\"us\"} 5"));
}

static void
a_probe_and_mail_in_flight_write_nothing(void **state)
{
    (void)state;
    const struct learn_way way = way_of("a.test", 7);
    load();
    refuse("a.test", 1);
    tick();
    answer(ERR_OK);
    refuse("a.test", 2);
    clock_step(loop_clock(t.loop), 6 * HOUR);
    assert_true(learned_probe(t.l, &way));
    learned_no_verdict(t.l, &way);
    assert_int_equal(advice("a.test", 8), LEARN_PROBE);
    tick();
    assert_int_equal(t.n_ops, 0);
}

static void
a_stop_hands_over_what_is_left_and_writes_no_more(void **state)
{
    (void)state;
    load();
    refuse("a.test", 1);
    tick();
    refuse("b.test", 2);
    learned_stop(t.l);
    assert_int_equal(t.n_ops, 2); /* at once, behind the one under way */
    refuse("c.test", 3);
    tick();
    assert_int_equal(t.n_ops, 2);
    answer(ERR_OK);
    answer(ERR_OK);
    refuse("d.test", 4);
    tick();
    assert_int_equal(t.n_ops, 0);
    assert_int_equal(t.n_rows, 3); /* a, b, their site */
}

static void
operations_that_outlive_the_keeper_free_themselves(void **state)
{
    (void)state;
    load();
    refuse("a.test", 1);
    tick();
    refuse("b.test", 2);
    learned_load(t.l, on_loaded, &t);
    keeper_free();
    answer(ERR_FULL);
    answer_read(ERR_OK);
    assert_int_equal(t.n_loaded, 1);
    tick();
    assert_int_equal(t.n_ops, 0);
    keeper_new();
}

static void
without_a_table_nothing_is_learned(void **state)
{
    (void)state;
    const struct learn_way way = way_of("a.test", 1);
    const struct learn_reply reply = {.klass = SPAN("ip-blocklisted")};
    const struct learn_entry *why = (const struct learn_entry *)&way;
    learned_refused(NULL, &way, &reply);
    learned_path_failed(NULL, &way, &reply);
    learned_delivered(NULL, &way);
    learned_no_verdict(NULL, &way);
    assert_int_equal(learned_advise(NULL, &way, &why), LEARN_FREE);
    assert_null(why);
    assert_false(learned_probe(NULL, &way));
    assert_true(learned_may_reroute(NULL, SPAN("direct"), SPAN("us")));
    assert_int_equal(learned_count(NULL) + learned_forget(NULL, SPAN("a.test")), 0);
    learned_stop(NULL);
}

int
main(int argc, char **argv)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(changes_of_a_tick_travel_in_one_operation),
        TEST(what_was_stored_is_known_after_a_restart),
        TEST(many_rows_are_read_in_pages_and_written_in_portions),
        TEST(a_row_that_makes_no_sense_is_logged_and_left),
        TEST(rows_that_cannot_be_read_raise_an_alert_and_delivery_begins),
        TEST(a_failed_write_is_logged_and_goes_with_the_next_change),
        TEST(an_hourly_sweep_tries_what_failed_again_and_removes_what_nobody_probes),
        TEST(a_great_many_are_swept_in_portions),
        TEST(each_step_is_logged_and_counted),
        TEST(too_many_reroutes_raise_one_alert),
        TEST(a_probe_and_mail_in_flight_write_nothing),
        TEST(a_stop_hands_over_what_is_left_and_writes_no_more),
        TEST(operations_that_outlive_the_keeper_free_themselves),
        TEST(without_a_table_nothing_is_learned),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
