/* The sum of a walk, and the memory of opportunistic TLS. */
#include "policy/base/mem.h"
#include "relayd/deliver/tls_memory.h"
#include "relayd/deliver/walk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct outcome refused = {.kind = OUTCOME_FAILED, .code = 554, .text = "refused"};
static const struct outcome refused_too = {.kind = OUTCOME_FAILED, .code = 550, .text = "too"};
static const struct outcome busy = {.kind = OUTCOME_DEFERRED, .code = 421, .text = "busy"};
static const struct outcome garbage = {.kind = OUTCOME_DEFERRED, .text = "garbage"};
static const struct outcome dead = {
    .kind = OUTCOME_DEFERRED, .origin = ORIGIN_NET, .path = true, .text = "dead"};
static const struct outcome no_tls = {
    .kind = OUTCOME_DEFERRED, .origin = ORIGIN_TLS, .path = true, .text = "no tls"};

static void
sums(void **state)
{
    (void)state;
    static const struct {
        const struct outcome *hosts[3];
        bool hop;
        enum outcome_kind kind;
        bool path;
        const char *text;
        size_t at;
    } cases[] = {
        {{&refused, &refused_too}, false, OUTCOME_FAILED, false, "refused", 0},
        {{&dead, &refused}, false, OUTCOME_DEFERRED, false, "refused", 1},
        {{&busy, &refused}, false, OUTCOME_DEFERRED, false, "refused", 1},
        {{&dead, &busy, &dead}, false, OUTCOME_DEFERRED, false, "busy", 1},
        {{&dead, &garbage}, false, OUTCOME_DEFERRED, false, "garbage", 1},
        {{&dead, &dead, &dead}, false, OUTCOME_DEFERRED, true, "dead", 0},
        {{&dead, &no_tls}, false, OUTCOME_DEFERRED, true, "no tls", 1},
        {{&refused, &refused_too}, true, OUTCOME_DEFERRED, true, "refused", 0},
        {{&busy}, true, OUTCOME_DEFERRED, true, "busy", 0},
        {{&busy}, false, OUTCOME_DEFERRED, false, "busy", 0},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct walk w;
        struct outcome sum;
        walk_init(&w);
        for (size_t h = 0; h < 3 && cases[i].hosts[h] != NULL; h++)
            walk_add(&w, h, cases[i].hosts[h]);
        walk_sum(&w, cases[i].hop, &sum);
        assert_int_equal(sum.kind, cases[i].kind);
        assert_int_equal(sum.path, cases[i].path);
        assert_string_equal(sum.text, cases[i].text);
        assert_int_equal(w.best_at, cases[i].at);
    }
}

static void
failed_tls_is_remembered_three_days(void **state)
{
    (void)state;
    struct tls_memory *m = tls_memory_new(10);
    struct span mx = SPAN("mx.test"), other = SPAN("mx2.test");
    tls_memory_failed(m, mx, 1000);
    assert_true(tls_memory_in_clear(m, mx, 1000 + 3 * DAY - 1));
    assert_false(tls_memory_in_clear(m, mx, 1000 + 3 * DAY));
    assert_false(tls_memory_in_clear(m, other, 1000));
    assert_false(tls_memory_was_there(m, mx, 1000));
    tls_memory_worked(m, mx, 2000);
    assert_false(tls_memory_in_clear(m, mx, 2000));
    assert_true(tls_memory_was_there(m, mx, 2000 + 7 * DAY - 1));
    assert_false(tls_memory_was_there(m, mx, 2000 + 7 * DAY));
    tls_memory_failed(m, mx, 3000); /* it worked lately all the same */
    assert_true(tls_memory_was_there(m, mx, 3000));
    assert_true(tls_memory_in_clear(m, mx, 3000));
    tls_memory_free(m);
}

static void
memory_is_bounded_and_forgets_the_oldest(void **state)
{
    (void)state;
    struct tls_memory *m = tls_memory_new(3);
    tls_memory_failed(m, SPAN("a"), 1);
    tls_memory_failed(m, SPAN("b"), 2);
    tls_memory_failed(m, SPAN("c"), 3);
    tls_memory_failed(m, SPAN("a"), 4); /* now "b" is the oldest */
    tls_memory_failed(m, SPAN("d"), 5);
    assert_int_equal(tls_memory_count(m), 3);
    assert_true(tls_memory_in_clear(m, SPAN("a"), 6));
    assert_false(tls_memory_in_clear(m, SPAN("b"), 6));
    assert_true(tls_memory_in_clear(m, SPAN("c"), 6));
    for (int i = 0; i < 1000; i++) {
        char name[16];
        snprintf(name, sizeof(name), "h%d", i);
        tls_memory_worked(m, span_str(name), 10 + i);
    }
    assert_int_equal(tls_memory_count(m), 3);
    assert_true(tls_memory_was_there(m, SPAN("h999"), 2000));
    tls_memory_free(m);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums),
        cmocka_unit_test(failed_tls_is_remembered_three_days),
        cmocka_unit_test(memory_is_bounded_and_forgets_the_oldest),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
