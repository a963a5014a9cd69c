/* Durations, sizes, rates, percentages: parsing, printing, refusing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <string.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "policy/base/units.h"

struct text_case {
    const char *in;
    int64_t value;   /* -1: refused */
    const char *out; /* how it is printed; NULL: as it came in */
};

static void
durations(void **state)
{
    (void)state;
    static const struct text_case cases[] = {
        {"30s", 30 * SECOND, NULL},
        {"5m", 5 * MINUTE, NULL},
        {"2h", 2 * HOUR, NULL},
        {"5d", 5 * DAY, NULL},
        {"250ms", 250, NULL},
        {"0", 0, NULL},
        {"0s", 0, "0"},
        {"60s", MINUTE, "1m"},
        {"24h", DAY, "1d"},
        {"90s", 90 * SECOND, NULL},
        {"10000d", 10000 * DAY, NULL},
        {"10001d", -1, NULL},
        {"", -1, NULL},
        {"s", -1, NULL},
        {"5", -1, NULL},
        {"5 m", -1, NULL},
        {" 5m", -1, NULL},
        {"5m ", -1, NULL},
        {"1m30s", -1, NULL},
        {"1.5h", -1, NULL},
        {"-5m", -1, NULL},
        {"+5m", -1, NULL},
        {"05m", -1, NULL},
        {"5M", -1, NULL},
        {"5min", -1, NULL},
        {"5w", -1, NULL},
        {"0x5m", -1, NULL},
        {"99999999999999999999d", -1, NULL},
        {"9223372036854775807d", -1, NULL},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        msec_t ms = -7;
        struct err err = {0};
        char buf[UNITS_TEXT_MAX];
        enum err_code code = duration_parse(span_str(cases[i].in), &ms, &err);
        if (cases[i].value < 0) {
            if (code != ERR_INVAL || ms != -7 || strstr(err.text, "expected") == NULL)
                fail_msg("%s: %s %s", cases[i].in, err_code_name(code), err.text);
            continue;
        }
        if (code != ERR_OK || ms != cases[i].value)
            fail_msg("%s: %s %lld", cases[i].in, err_code_name(code), (long long)ms);
        assert_string_equal(duration_format(ms, buf), cases[i].out ? cases[i].out : cases[i].in);
    }
    char buf[UNITS_TEXT_MAX];
    assert_string_equal(duration_format(-90 * SECOND, buf), "-90s");
}

static void
sizes(void **state)
{
    (void)state;
    static const struct text_case cases[] = {
        {"50MiB", 50 << 20, NULL},
        {"0", 0, NULL},
        {"1B", 1, NULL},
        {"1024B", 1024, "1KiB"},
        {"1025B", 1025, NULL},
        {"64GiB", (int64_t)64 << 30, NULL},
        {"1024TiB", (int64_t)1 << 50, NULL},
        {"1025TiB", -1, NULL},
        {"17592186044416TiB", -1, NULL},
        {"50", -1, NULL},
        {"50MB", -1, NULL},
        {"50M", -1, NULL},
        {"50mib", -1, NULL},
        {"050MiB", -1, NULL},
        {"1.5GiB", -1, NULL},
        {"-1B", -1, NULL},
        {"", -1, NULL},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        uint64_t bytes = 7;
        char buf[UNITS_TEXT_MAX];
        enum err_code code = size_parse(span_str(cases[i].in), &bytes, NULL);
        if (cases[i].value < 0) {
            if (code != ERR_INVAL || bytes != 7)
                fail_msg("%s was taken", cases[i].in);
            continue;
        }
        if (code != ERR_OK || bytes != (uint64_t)cases[i].value)
            fail_msg("%s: %s", cases[i].in, err_code_name(code));
        assert_string_equal(size_format(bytes, buf), cases[i].out ? cases[i].out : cases[i].in);
    }
}

static void
rates(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        uint32_t count;
        msec_t per_ms;
        const char *out;
    } cases[] = {
        {"500/day", 500, DAY, "500/day"}, {"500/d", 500, DAY, "500/day"},
        {"60/min", 60, MINUTE, "60/min"}, {"60/m", 60, MINUTE, "60/min"},
        {"100/s", 100, SECOND, "100/s"},  {"100/sec", 100, SECOND, "100/s"},
        {"200/h", 200, HOUR, "200/h"},    {"200/hour", 200, HOUR, "200/h"},
        {"none", 0, 0, "none"},           {"4294967295/s", UINT32_MAX, SECOND, "4294967295/s"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct rate rate;
        char buf[UNITS_TEXT_MAX];
        assert_int_equal(rate_parse(span_str(cases[i].in), &rate, NULL), ERR_OK);
        assert_int_equal(rate.count, cases[i].count);
        assert_int_equal(rate.per_ms, cases[i].per_ms);
        assert_string_equal(rate_format(rate, buf), cases[i].out);
    }
    static const char *const wrong[] = {"",      "5",     "/s",    "0/s",  "5/",           "5/week",
                                        "5 / s", "05/s",  "5/s/s", "-5/s", "4294967296/s", "None",
                                        "1.5/s", "5per s"};
    for (size_t i = 0; i < N_ELEMENTS(wrong); i++) {
        struct rate rate = {7, 7};
        if (rate_parse(span_str(wrong[i]), &rate, NULL) != ERR_INVAL || rate.count != 7)
            fail_msg("%s was taken", wrong[i]);
    }
}

static void
percentages_and_numbers(void **state)
{
    (void)state;
    unsigned percent;
    assert_int_equal(percent_parse(SPAN("0%"), &percent, NULL), ERR_OK);
    assert_int_equal(percent, 0);
    assert_int_equal(percent_parse(SPAN("100%"), &percent, NULL), ERR_OK);
    assert_int_equal(percent, 100);
    static const char *const wrong[] = {"", "20", "101%", "-1%", "1.5%", "%", "20%%", "020%"};
    for (size_t i = 0; i < N_ELEMENTS(wrong); i++)
        assert_int_equal(percent_parse(span_str(wrong[i]), &percent, NULL), ERR_INVAL);

    uint64_t number;
    assert_int_equal(number_parse(SPAN("18446744073709551615"), &number, NULL), ERR_OK);
    assert_true(number == UINT64_MAX);
    static const char *const no_numbers[] = {
        "", "18446744073709551616", "1e3", "0x10", "0025", "1_000", "12:30", "-1"};
    for (size_t i = 0; i < N_ELEMENTS(no_numbers); i++)
        assert_int_equal(number_parse(span_str(no_numbers[i]), &number, NULL), ERR_INVAL);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations),
        cmocka_unit_test(sizes),
        cmocka_unit_test(rates),
        cmocka_unit_test(percentages_and_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
