/* Durations, sizes, rates, percentages and numbers: what is taken is written and taken again. */
#include "policy/base/units.h"
#include "tests/fuzz/check.h"

/* A refusal says why, in a line; and leaves the value alone. */
static void
check_err(enum err_code code, const struct err *err)
{
    CHECK(code == ERR_OK || (code == ERR_INVAL && err->text[0] != '\0'));
}

static void
check_duration(struct span text)
{
    msec_t ms = -1, again = -1;
    char buf[UNITS_TEXT_MAX];
    struct err err = {.text = ""};
    enum err_code code = duration_parse(text, &ms, &err);

    check_err(code, &err);
    CHECK((code == ERR_OK) == (ms >= 0));
    if (code == ERR_OK)
        CHECK(ms <= 10000 * DAY &&
              duration_parse(span_str(duration_format(ms, buf)), &again, NULL) == ERR_OK &&
              again == ms);
}

static void
check_size(struct span text)
{
    uint64_t bytes = UINT64_MAX, again = 0;
    char buf[UNITS_TEXT_MAX];
    struct err err = {.text = ""};
    enum err_code code = size_parse(text, &bytes, &err);

    check_err(code, &err);
    CHECK((code == ERR_OK) == (bytes <= (uint64_t)1024 << 40));
    if (code == ERR_OK)
        CHECK(size_parse(span_str(size_format(bytes, buf)), &again, NULL) == ERR_OK &&
              again == bytes);
}

static void
check_rate(struct span text)
{
    struct rate rate = {.per_ms = -1}, again = {.per_ms = -1};
    char buf[UNITS_TEXT_MAX];
    struct err err = {.text = ""};
    enum err_code code = rate_parse(text, &rate, &err);

    check_err(code, &err);
    if (code != ERR_OK) {
        CHECK(rate.per_ms == -1);
        return;
    }
    CHECK(rate.count == 0 || rate.per_ms > 0);
    CHECK(rate_parse(span_str(rate_format(rate, buf)), &again, NULL) == ERR_OK &&
          again.count == rate.count && (rate.count == 0 || again.per_ms == rate.per_ms));
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    struct span text = span_of(copy, n);
    unsigned percent = 101;
    uint64_t number = 0, plain = 0;

    check_duration(text);
    check_size(text);
    check_rate(text);
    CHECK((percent_parse(text, &percent, NULL) == ERR_OK) == (percent <= 100));
    if (number_parse(text, &number, NULL) == ERR_OK)
        CHECK(span_u64(text, &plain) && plain == number);
    return 0;
}
