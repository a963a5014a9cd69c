/*
 * msec - time as int64_t milliseconds. `_ms` names a duration, `_at` a moment of wall time
 * (since 1970, UTC) unless its comment says monotonic. Code in policy/ and queue/ never reads a
 * clock: callers pass `now`.
 */
#pragma once

#include <stdint.h>

typedef int64_t msec_t;

#define SECOND ((msec_t)1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
