/*
 * units - durations, sizes, rates and percentages as people write them.
 *
 * Numbers are decimal, without sign, fraction or leading zeros; one unit, no combinations, no
 * space: "90s", not "1m30s" and not "90 s". A bare "0" needs no unit. Every *_parse() returns
 * ERR_INVAL with what was expected and leaves *ret alone; every *_format() writes the shortest text
 * that parses to the same value and returns buf (UNITS_TEXT_MAX bytes).
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <stdint.h>

#define UNITS_TEXT_MAX 32

/* ms, s, m, h, d; at most 10,000 days. */
MUST_CHECK enum err_code duration_parse(struct span text, msec_t *ret, struct err *err);
char *duration_format(msec_t ms, char buf[static UNITS_TEXT_MAX]);

/* B, KiB, MiB, GiB, TiB; at most 1024 TiB. */
MUST_CHECK enum err_code size_parse(struct span text, uint64_t *ret, struct err *err);
char *size_format(uint64_t bytes, char buf[static UNITS_TEXT_MAX]);

/* At most `count` events in each `per_ms`; count 0: no limit. */
struct rate {
    uint32_t count;
    msec_t per_ms;
};

/* "100/s", "60/min", "200/h", "500/day" (also sec, m, hour, d), or "none". A count of 0 is refused:
 * it would read as "none" and mean "never". */
MUST_CHECK enum err_code rate_parse(struct span text, struct rate *ret, struct err *err);
char *rate_format(struct rate rate, char buf[static UNITS_TEXT_MAX]);

/* "20%", 0..100. */
MUST_CHECK enum err_code percent_parse(struct span text, unsigned *ret, struct err *err);
/* A whole number without unit. */
MUST_CHECK enum err_code number_parse(struct span text, uint64_t *ret, struct err *err);
