/*
 * log - one line for each thing worth telling, as logfmt or JSON, that never slows the loop down.
 *
 * A line is built on the caller's stack and copied into a ring; the log thread drains the ring to
 * stderr, syslog or a file. Any thread may log. A full ring drops lines, counts them, and says so
 * in a line of its own as soon as there is room again.
 *
 *     struct log_line line;
 *     log_begin(log, &line, LOG_INFO, "attempt");
 *     log_str(&line, "msg", span_str(id));
 *     log_ms(&line, "delay", 1234);
 *     log_end(&line);
 *
 * gives: time=2026-09-20T07:00:00.123Z level=info event=attempt msg=cn.0000000000000 delay=1.234
 *
 * Invariants
 *  (1) One log_end() is at most one line. No value can end its line or forge a field: control
 *      bytes, quotes, backslashes, DEL, C1 controls, line separators and bidi overrides are
 *      escaped, bytes that are not UTF-8 become U+FFFD, in both formats.
 *  (2) Logging never blocks on the target and never allocates.
 *  (3) Lines of one thread keep their order.
 *
 * Do not include <syslog.h> beside this header: the level names clash.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>

enum log_level {
    LOG_ALERT,   /* somebody must act: alerts are also counted and kept for `status` */
    LOG_ERROR,   /* something failed that should not */
    LOG_WARNING, /* works, but not as it should */
    LOG_INFO,    /* the life of messages and of the daemon */
    LOG_DEBUG,
};

enum log_format { LOG_LOGFMT, LOG_JSON };

#define LOG_LINE_MAX                                                             \
    8192 /* bytes of a finished line; fields that no longer fit are left out and \
            the line ends with truncated=true */
#define LOG_VALUE_MAX                                                           \
    2048 /* bytes of one value as written; longer ones are cut, marked by "..." \
          */
#define LOG_RING_BYTES ((size_t)1 << 20) /* about 4,000 lines: a second of heavy traffic */
#define LOG_ALERTS_KEPT 20               /* the newest alerts, for `status` */

struct log; /* opaque; created by main, freed last */

/*
 * A line being built. On the stack; nothing to free. Everything in it belongs to log.c. When the
 * level is filtered out, every call on it is a cheap no-op.
 */
struct log_line {
    struct log *log; /* NULL: filtered out */
    enum log_level level;
    enum log_format format;
    bool truncated;
    size_t n;
    char text[LOG_LINE_MAX];
};

/*
 * A log that writes logfmt to stderr at once, in the caller's thread, until log_start(). `node` is
 * added to each line as node=... when it is not NULL.
 */
struct log *log_new(const char *node);

/* Stops the thread if it runs, closes the target. NULL is fine. */
void log_free(struct log *log);

/* The node name for lines from now on; call it before log_start(). */
void log_set_node(struct log *log, const char *node);

/* Lines begun from now on have this format and are dropped below this level. Any thread. */
void log_set_format(struct log *log, enum log_format format);
void log_set_level(struct log *log, enum log_level level);
bool log_enabled(const struct log *log, enum log_level level);

/* "alert", "error", "warning", "info", "debug"; and back. */
const char *log_level_name(enum log_level level);
bool log_level_parse(struct span name, enum log_level *ret);

/*
 * Where lines go from now on: "stderr", "syslog" (the socket /dev/log), or the path of a file that
 * is appended to (created 0640). Opens the file at once, so that a bad path is an error here and
 * the old target stays. Lines to stderr start with <N> when stderr is the journal (JOURNAL_STREAM).
 */
MUST_CHECK enum err_code log_set_target(struct log *log, const char *target, struct err *err);

/* Close and open a FILE target again (after logrotate). Async-signal-safe is not promised: call it
 * from the loop. A file that cannot be opened keeps the old one and logs an error. */
void log_reopen(struct log *log);

/* Start the log thread. Call it after privileges were dropped. ERR_AGAIN: there is none. */
MUST_CHECK enum err_code log_start(struct log *log, struct err *err);

/* Write what is in the ring, for at most `max_ms`, and end the thread; later lines are written at
 * once. Lines that could not be written in time are counted as dropped. */
void log_stop(struct log *log, msec_t max_ms);

/* Wait until every line that was ended before this call has been written, at most `max_ms`. False
 * when time ran out. */
bool log_flush(struct log *log, msec_t max_ms);

/* Lines dropped since the start (ring full, or the target failed), and lines written. */
uint64_t log_dropped(const struct log *log);
uint64_t log_written(const struct log *log);

/*
 * Begin a line. `event` and all keys are literals of [a-z0-9_]; this is asserted. log_begin()
 * reads the wall clock; log_begin_at() takes the moment from the caller.
 */
void log_begin(struct log *log, struct log_line *line, enum log_level level, const char *event);
void log_begin_at(struct log *log, struct log_line *line, enum log_level level, const char *event,
                  msec_t at);

/* Add one field. A span with no bytes is written as an empty value: key="" */
void log_str(struct log_line *line, const char *key, struct span value);
void log_cstr(struct log_line *line, const char *key, const char *value); /* NULL: left out */
void log_int(struct log_line *line, const char *key, int64_t value);
void log_uint(struct log_line *line, const char *key, uint64_t value);
void log_bool(struct log_line *line, const char *key, bool value);
/* A duration, written in seconds with three decimals: 1.234 */
void log_ms(struct log_line *line, const char *key, msec_t ms);
/* A moment, written as RFC 3339 with milliseconds in UTC. */
void log_at(struct log_line *line, const char *key, msec_t at);
void log_printf(struct log_line *line, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Hand the line over. The line may not be used after it. */
void log_end(struct log_line *line);

/* A whole line with one field, text="...". */
void log_text(struct log *log, enum log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/*
 * An alert: a line at level alert with alert=KIND and text="...". `kind` is a stable short name
 * (hop_down, dkim_key, store_failed ...) by which alerts are counted. The newest ones are kept for
 * `status`; a repeat of the same kind and text within an hour raises its count and is not logged
 * again, so that a broken hop does not fill the log.
 */
void log_alert(struct log *log, const char *kind, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* An alert that has been raised. */
struct log_alert_entry {
    char kind[32];
    char text[256]; /* one line, not escaped */
    msec_t first_at, last_at;
    uint64_t count;
};

/* Copy up to `max` alerts, newest first, into `ret`; returns how many. Any thread. */
size_t log_alerts(struct log *log, struct log_alert_entry *ret, size_t max);
uint64_t log_alerts_total(const struct log *log);

/* `at` as 2026-09-20T07:00:00.123Z, 24 bytes and a NUL. Years outside 0..9999 are clamped. */
#define LOG_TIME_BYTES 25
char *log_time_format(msec_t at, char buf[LOG_TIME_BYTES]);
