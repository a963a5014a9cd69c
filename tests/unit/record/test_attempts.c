/* The attempt record: what is written is read back, damage is named, newer fields survive. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/record/attempts.h"

static struct outcome
refused(const char *text, int code)
{
    struct outcome o;
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_PEER, "rcpt", "4.7.1", "%s", text);
    o.code = code;
    return o;
}

static void
round_trip_keeps_every_field(void **state)
{
    (void)state;
    struct attempts a = {.count = 7,
                         .warned = 1,
                         .first_deferral_at = 1234567890123,
                         .soft_since = 5,
                         .klass = SPAN("greylisted"),
                         .route = SPAN("us")};
    struct outcome first = refused("greylisted, come back", 451), second = refused("no", 550);
    attempts_add(&a, &first, SPAN("direct"), SPAN("192.0.2.1:25"), 100);
    attempts_add(&a, &second, SPAN("us"), SPAN("198.51.100.2:465"), 200);
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    attempts_encode(&a, &bytes);

    struct attempts b;
    struct err err;
    assert_int_equal(attempts_decode(strbuf_span(&bytes), &b, &err), ERR_OK);
    assert_int_equal(b.count, 7);
    assert_int_equal(b.warned, 1);
    assert_int_equal(b.first_deferral_at, 1234567890123);
    assert_int_equal(b.soft_since, 5);
    assert_true(span_eq(b.klass, SPAN("greylisted")));
    assert_true(span_eq(b.route, SPAN("us")));
    assert_int_equal(b.n_refusals, 2);
    assert_true(span_eq(b.refusals[0].text, SPAN("greylisted, come back")));
    assert_int_equal(b.refusals[1].code, 550);
    assert_true(span_eq(b.refusals[1].route, SPAN("us")));
    assert_true(span_eq(b.refusals[1].peer, SPAN("198.51.100.2:465")));
    assert_int_equal(b.refusals[1].enh.subject, 7);
}

static void
a_newer_programs_fields_are_written_back(void **state)
{
    (void)state;
    struct attempts a = {.count = 1, .unknown = SPAN("from the future")}, b;
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    attempts_encode(&a, &bytes);
    bytes.p[0] = 2;
    assert_int_equal(attempts_decode(strbuf_span(&bytes), &b, NULL), ERR_OK);
    assert_true(span_eq(b.unknown, SPAN("from the future")));
}

static void
every_truncation_is_an_error_or_empty(void **state)
{
    (void)state;
    struct attempts a = {.count = 3}, b;
    struct outcome o = refused("text", 450);
    attempts_add(&a, &o, SPAN("direct"), SPAN("x"), 1);
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    attempts_encode(&a, &bytes);
    for (size_t n = 1; n < bytes.n; n++)
        assert_int_equal(attempts_decode(span_of(bytes.p, n), &b, NULL), ERR_CORRUPT);
}

static void
one_place_a_route_and_the_oldest_goes_when_full(void **state)
{
    (void)state;
    struct attempts a = {0};
    struct outcome o = refused("text", 450);
    attempts_add(&a, &o, SPAN("direct"), SPAN(""), 1);
    attempts_add(&a, &o, SPAN("us"), SPAN(""), 2);
    attempts_add(&a, &o, SPAN("direct"), SPAN(""), 3);
    assert_int_equal(a.n_refusals, 2);
    assert_true(span_eq(a.refusals[0].route, SPAN("us")));
    assert_int_equal(a.refusals[1].at, 3);
    attempts_add(&a, &o, SPAN("a"), SPAN(""), 4);
    attempts_add(&a, &o, SPAN("b"), SPAN(""), 5);
    attempts_add(&a, &o, SPAN("c"), SPAN(""), 6);
    assert_int_equal(a.n_refusals, ATTEMPTS_REFUSALS_MAX);
    assert_true(span_eq(a.refusals[0].route, SPAN("direct")));
    assert_true(span_eq(a.refusals[3].route, SPAN("c")));
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_keeps_every_field),
        cmocka_unit_test(a_newer_programs_fields_are_written_back),
        cmocka_unit_test(every_truncation_is_an_error_or_empty),
        cmocka_unit_test(one_place_a_route_and_the_oldest_goes_when_full),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
