/*
 * Learned routes on their way through the real store into a real queue, and back after a restart.
 */
#include "tests/unit/queue/fixture.h"

#include "relayd/learned.h"
#include "relayd/net/loop.h"
#include "relayd/ops/log.h"
#include "relayd/ops/metrics.h"
#include "relayd/store/store.h"

#define DOMAINS 2500 /* three pages, three operations */

static struct {
    struct fixture f;
    struct loop *loop;
    struct inbox *inbox;
    struct log *log;
    struct metrics *metrics;
    struct store *store;
    struct learned *l;
    bool loaded;
} t;

static const struct config_learning config = {.ttl_ms = 6 * HOUR,
                                              .max_ttl_ms = 7 * DAY,
                                              .path_errors_count = 3,
                                              .path_errors_within_ms = HOUR,
                                              .max_reroutes = {200, HOUR}};

#define WAIT(condition)                                         \
    do {                                                        \
        int rounds_ = 0;                                        \
        while (!(condition)) {                                  \
            if (++rounds_ > 20000)                              \
                fail_msg("it never came true: %s", #condition); \
            loop_run_once(t.loop, 1);                           \
        }                                                       \
    } while (0)

static bool
store_idle(void)
{
    struct store_numbers n;
    store_numbers(t.store, &n);
    return n.waiting_ops == 0;
}

static void
on_loaded(void *arg)
{
    *(bool *)arg = true;
}

static void
begin_run(void)
{
    const struct store_options options = {.queue = t.f.queue, .inbox = t.inbox};
    OK(store_new(&options, &t.store, err));
    t.metrics = metrics_new();
    const struct learned_env env = {
        .loop = t.loop, .log = t.log, .metrics = t.metrics, .store = t.store, .config = &config};
    t.l = learned_new(&env);
    t.loaded = false;
    learned_load(t.l, on_loaded, &t.loaded);
    assert_false(t.loaded);
    WAIT(t.loaded);
}

/* In the order of daemon_end(). */
static void
end_run(void)
{
    learned_stop(t.l);
    store_stop(t.store);
    while (inbox_run(t.inbox) > 0)
        continue;
    store_free(t.store);
    learned_free(t.l);
    metrics_free(t.metrics);
}

static int
setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    fixture_make_dir(&t.f);
    fixture_open(&t.f);
    t.loop = loop_new_stepped(T0);
    t.inbox = inbox_new(loop_base(t.loop));
    t.log = log_new(NULL);
    OK(log_set_target(t.log, "/dev/null", err));
    begin_run();
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    end_run();
    inbox_free(t.inbox);
    loop_free(t.loop);
    log_free(t.log);
    fixture_close(&t.f);
    remove_dir(t.f.dir);
    return 0;
}

static void
refuse(const char *domain)
{
    const struct learn_way way = {.domain = span_str(domain),
                                  .site = SPAN("mx1.test mx2.test 2/00"),
                                  .label = SPAN("mx1.test"),
                                  .route = SPAN("direct")};
    const struct learn_reply reply = {.klass = SPAN("geo-blocked"), .text = SPAN("go away")};
    learned_refused(t.l, &way, &reply);
}

static enum learn_advice
advice(const char *domain)
{
    const struct learn_way way = {.domain = span_str(domain), .route = SPAN("direct")};
    return learned_advise(t.l, &way, NULL);
}

static size_t
rows_on_disk(void)
{
    char after[QUEUE_STATE_KEY_MAX];
    struct queue_facts page = {.more = true};
    struct span from = SPAN_NONE;
    size_t n = 0;

    while (page.more) {
        OK(queue_read_state(t.f.reader, SPAN(LEARN_ROW_SPACE), from, DOMAINS, &page, err));
        n += page.n_rows;
        if (page.n_rows > 0) {
            struct span last = page.rows[page.n_rows - 1].key;
            memcpy(after, last.p, last.n);
            from = span_of(after, last.n);
        }
        queue_facts_release(&page);
    }
    return n;
}

static void
what_was_learned_survives_a_restart_and_what_was_forgotten_stays_so(void **state)
{
    (void)state;
    char name[32];
    for (int i = 0; i < DOMAINS; i++) {
        snprintf(name, sizeof(name), "d%d.test", i);
        refuse(name);
    }
    WAIT(rows_on_disk() == DOMAINS + 1); /* and their site */
    end_run();
    begin_run();
    assert_int_equal(learned_count(t.l), DOMAINS + 1);
    assert_int_equal(advice("d2499.test"), LEARN_AVOID);
    assert_int_equal(learned_forget(t.l, SPAN("mx1.test")), 1);
    assert_int_equal(learned_forget(t.l, SPAN("d7.test")), 1);
    WAIT(rows_on_disk() == DOMAINS - 1 && store_idle());
    end_run();
    begin_run();
    assert_int_equal(learned_count(t.l), DOMAINS - 1);
    assert_int_equal(advice("d7.test"), LEARN_FREE);
    clock_step(loop_clock(t.loop), 14 * DAY);
    WAIT(rows_on_disk() == 0 && store_idle());
}

static void
a_stop_in_the_same_tick_loses_nothing(void **state)
{
    (void)state;
    refuse("a.test");
    end_run();
    begin_run();
    assert_int_equal(advice("a.test"), LEARN_AVOID);
    refuse("b.test");
    loop_run_once(t.loop, 0); /* under way */
    refuse("c.test");
    end_run();
    begin_run();
    assert_int_equal(advice("b.test"), LEARN_AVOID);
    assert_int_equal(advice("c.test"), LEARN_AVOID);
}

int
main(int argc, char **argv)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_was_learned_survives_a_restart_and_what_was_forgotten_stays_so),
        TEST(a_stop_in_the_same_tick_loses_nothing),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
