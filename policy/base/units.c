#include "policy/base/units.h"

#include <inttypes.h>
#include <stdio.h>

struct unit {
    const char *name;
    uint64_t value;
};

/* Largest first: *_format() takes the first that divides. */
static const struct unit duration_units[] = {
    {"d", DAY}, {"h", HOUR}, {"m", MINUTE}, {"s", SECOND}, {"ms", 1}, {NULL, 0},
};
static const struct unit size_units[] = {
    {"TiB", (uint64_t)1 << 40},
    {"GiB", (uint64_t)1 << 30},
    {"MiB", (uint64_t)1 << 20},
    {"KiB", (uint64_t)1 << 10},
    {"B", 1},
    {NULL, 0},
};
/* The first of each length is the one written. */
static const struct unit rate_units[] = {
    {"s", SECOND},  {"sec", SECOND}, {"min", MINUTE}, {"m", MINUTE}, {"h", HOUR},
    {"hour", HOUR}, {"day", DAY},    {"d", DAY},      {NULL, 0},
};

#define DURATION_MAX ((uint64_t)10000 * DAY)
#define SIZE_VALUE_MAX ((uint64_t)1 << 50)

/* Digits without leading zeros; *text moves behind them. */
static bool
take_number(struct span *text, uint64_t *ret)
{
    size_t n = 0;
    while (n < text->n && ascii_digit(text->p[n]))
        n++;
    if (n == 0 || (n > 1 && text->p[0] == '0') || !span_u64(span_first(*text, n), ret))
        return false;
    *text = span_from(*text, n);
    return true;
}

static const struct unit *
find_unit(const struct unit *units, struct span name)
{
    for (const struct unit *u = units; u->name != NULL; u++)
        if (span_eq(name, span_str(u->name)))
            return u;
    return NULL;
}

/* NUMBER UNIT into *ret; false when it is not that or passes `max`. */
static bool
parse_scaled(struct span text, const struct unit *units, uint64_t max, uint64_t *ret)
{
    uint64_t number;
    if (!take_number(&text, &number))
        return false;
    if (number == 0 && text.n == 0) {
        *ret = 0;
        return true;
    }
    const struct unit *unit = find_unit(units, text);
    if (unit == NULL || __builtin_mul_overflow(number, unit->value, &number) || number > max)
        return false;
    *ret = number;
    return true;
}

static char *
format_scaled(uint64_t value, const struct unit *units, char *buf)
{
    const struct unit *u = units;
    while (u[1].name != NULL && (value == 0 || value % u->value != 0))
        u++;
    if (value == 0)
        snprintf(buf, UNITS_TEXT_MAX, "0");
    else
        snprintf(buf, UNITS_TEXT_MAX, "%" PRIu64 "%s", value / u->value, u->name);
    return buf;
}

enum err_code
duration_parse(struct span text, msec_t *ret, struct err *err)
{
    uint64_t ms;
    if (!parse_scaled(text, duration_units, DURATION_MAX, &ms))
        return err_set(
            err, ERR_INVAL,
            "no duration, expected a number and one of ms, s, m, h, d, such as 30s or 5m");
    *ret = (msec_t)ms;
    return ERR_OK;
}

char *
duration_format(msec_t ms, char buf[static UNITS_TEXT_MAX])
{
    if (ms < 0) {
        buf[0] = '-';
        format_scaled((uint64_t)-ms, duration_units, buf + 1);
        return buf;
    }
    return format_scaled((uint64_t)ms, duration_units, buf);
}

enum err_code
size_parse(struct span text, uint64_t *ret, struct err *err)
{
    if (!parse_scaled(text, size_units, SIZE_VALUE_MAX, ret))
        return err_set(
            err, ERR_INVAL,
            "no size, expected a number and one of B, KiB, MiB, GiB, TiB, such as 50MiB");
    return ERR_OK;
}

char *
size_format(uint64_t bytes, char buf[static UNITS_TEXT_MAX])
{
    return format_scaled(bytes, size_units, buf);
}

enum err_code
rate_parse(struct span text, struct rate *ret, struct err *err)
{
    if (span_eq(text, SPAN("none"))) {
        *ret = (struct rate){0, 0};
        return ERR_OK;
    }
    uint64_t count;
    const struct unit *unit = NULL;
    if (take_number(&text, &count) && text.n > 0 && text.p[0] == '/')
        unit = find_unit(rate_units, span_from(text, 1));
    if (unit == NULL || count == 0 || count > UINT32_MAX)
        return err_set(err, ERR_INVAL,
                       "no rate, expected a number and one of /s, /min, /h, /day, such as 60/min, "
                       "or none");
    *ret = (struct rate){.count = (uint32_t)count, .per_ms = (msec_t)unit->value};
    return ERR_OK;
}

char *
rate_format(struct rate rate, char buf[static UNITS_TEXT_MAX])
{
    snprintf(buf, UNITS_TEXT_MAX, "none");
    for (const struct unit *u = rate_units; rate.count > 0 && u->name != NULL; u++) {
        if ((msec_t)u->value == rate.per_ms) {
            snprintf(buf, UNITS_TEXT_MAX, "%" PRIu32 "/%s", rate.count, u->name);
            break;
        }
    }
    return buf;
}

enum err_code
percent_parse(struct span text, unsigned *ret, struct err *err)
{
    uint64_t number;
    if (!take_number(&text, &number) || !span_eq(text, SPAN("%")) || number > 100)
        return err_set(err, ERR_INVAL, "no percentage, expected 0%% to 100%%");
    *ret = (unsigned)number;
    return ERR_OK;
}

enum err_code
number_parse(struct span text, uint64_t *ret, struct err *err)
{
    uint64_t number;
    if (!take_number(&text, &number) || text.n > 0)
        return err_set(err, ERR_INVAL, "no whole number, expected decimal digits");
    *ret = number;
    return ERR_OK;
}
