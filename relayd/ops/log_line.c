/*
 * One line: fields are appended to the buffer in struct log_line, escaped on the way. A field that
 * does not fit is taken back whole, so a line is always well-formed; LINE_RESERVE is kept for the
 * mark that says so and for the end of the line.
 */
#include "relayd/ops/log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

#include "relayd/ops/log_impl.h"
#include "relayd/ops/utf8.h"

#define LINE_RESERVE 32
#define KEY_MAX 40

/* A cursor into the line; once something did not fit, `full` stays. */
struct out {
    struct log_line *line;
    size_t n, cap;
    bool full;
};

static struct out
out_open(struct log_line *line)
{
    return (struct out){line, line->n, LOG_LINE_MAX - LINE_RESERVE, false};
}

static void
out_bytes(struct out *out, const char *p, size_t n)
{
    if (out->full || n > out->cap - out->n) {
        out->full = true;
        return;
    }
    memcpy(out->line->text + out->n, p, n);
    out->n += n;
}

static void
out_byte(struct out *out, char c)
{
    out_bytes(out, &c, 1);
}

/* The field becomes part of the line, or the line says that something is missing. */
static void
out_close(struct out *out)
{
    if (out->full)
        out->line->truncated = true;
    else
        out->line->n = out->n;
}

static void
out_key(struct out *out, const char *key)
{
    size_t n = strlen(key);
    assert(n > 0 && n <= KEY_MAX);
    for (size_t i = 0; i < n; i++)
        assert((key[i] >= 'a' && key[i] <= 'z') || ascii_digit(key[i]) || key[i] == '_');
    bool first = out->n == 0 || (out->n == 1 && out->line->text[0] == '{');
    if (out->line->format == LOG_JSON) {
        if (!first)
            out_byte(out, ',');
        out_byte(out, '"');
        out_bytes(out, key, n);
        out_bytes(out, "\":", 2);
    } else {
        if (!first)
            out_byte(out, ' ');
        out_bytes(out, key, n);
        out_byte(out, '=');
    }
}

/* Writes \n, \", \u202e (a surrogate pair above U+FFFF) ... to buf; returns the length. */
static size_t
escape_format(uint32_t cp, char buf[16])
{
    static const char plain[] = "\"\\\n\r\t", letter[] = "\"\\nrt";
    const char *at = cp != 0 && cp < 0x80 ? strchr(plain, (int)cp) : NULL;
    if (at != NULL) {
        buf[0] = '\\';
        buf[1] = letter[at - plain];
        return 2;
    }
    if (cp > 0xffff)
        return (size_t)snprintf(buf, 16, "\\u%04x\\u%04x", (unsigned)(0xd7c0 + (cp >> 10)),
                                (unsigned)(0xdc00 + (cp & 0x3ff)));
    return (size_t)snprintf(buf, 16, "\\u%04x", (unsigned)cp);
}

static void
out_quoted(struct out *out, struct span value)
{
    size_t start = out->n;
    out_byte(out, '"');
    while (value.n > 0 && !out->full) {
        uint32_t cp;
        char buf[16];
        const char *p = value.p;
        size_t used = utf8_next(value, &cp), n = used;
        if (used == 0) {
            used = 1, p = "\xef\xbf\xbd", n = 3; /* U+FFFD */
        } else if (cp == '"' || cp == '\\' || utf8_unsafe(cp)) {
            n = escape_format(cp, buf), p = buf;
        }
        if (out->n - start + n > LOG_VALUE_MAX) {
            out_bytes(out, "...", 3);
            break;
        }
        out_bytes(out, p, n);
        value = span_from(value, used);
    }
    out_byte(out, '"');
}

/* May it stand in logfmt without quotes: printable ASCII, no blank, quote, backslash or '='. */
static bool
is_bare(struct span value)
{
    if (value.n == 0 || value.n > LOG_VALUE_MAX)
        return false;
    for (size_t i = 0; i < value.n; i++) {
        char c = value.p[i];
        if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\')
            return false;
    }
    return true;
}

void
log_str(struct log_line *line, const char *key, struct span value)
{
    if (line->log == NULL)
        return;
    struct out out = out_open(line);
    out_key(&out, key);
    if (line->format == LOG_LOGFMT && is_bare(value))
        out_bytes(&out, value.p, value.n);
    else
        out_quoted(&out, value);
    out_close(&out);
}

void
log_cstr(struct log_line *line, const char *key, const char *value)
{
    if (value != NULL)
        log_str(line, key, span_str(value));
}

#define LOG_NUMBER_BYTES 21 /* a sign and 20 digits */

static void
put_digits(char *p, unsigned value, int n)
{
    for (int i = n - 1; i >= 0; i--, value /= 10)
        p[i] = (char)('0' + value % 10);
}

/* Numbers and true/false: the same in both formats. */
static void
add_raw(struct log_line *line, const char *key, const char *text, int n)
{
    assert(n > 0);
    struct out out = out_open(line);
    out_key(&out, key);
    out_bytes(&out, text, (size_t)n);
    out_close(&out);
}

/* The digits of a number, at the end of `buf`; snprintf() is most of a log line's cost. */
static char *
digits(uint64_t value, char buf[static LOG_NUMBER_BYTES])
{
    char *p = buf + LOG_NUMBER_BYTES;
    do
        *--p = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    return p;
}

static void
add_number(struct log_line *line, const char *key, bool negative, uint64_t value)
{
    char buf[LOG_NUMBER_BYTES];
    char *p = digits(value, buf);
    if (negative)
        *--p = '-';
    add_raw(line, key, p, (int)(buf + sizeof(buf) - p));
}

void
log_int(struct log_line *line, const char *key, int64_t value)
{
    if (line->log != NULL)
        add_number(line, key, value < 0, value < 0 ? -(uint64_t)value : (uint64_t)value);
}

void
log_uint(struct log_line *line, const char *key, uint64_t value)
{
    if (line->log != NULL)
        add_number(line, key, false, value);
}

void
log_bool(struct log_line *line, const char *key, bool value)
{
    if (line->log != NULL)
        add_raw(line, key, value ? "true" : "false", value ? 4 : 5);
}

void
log_ms(struct log_line *line, const char *key, msec_t ms)
{
    if (line->log == NULL)
        return;
    char buf[LOG_NUMBER_BYTES + 4];
    uint64_t abs = ms < 0 ? -(uint64_t)ms : (uint64_t)ms;
    char *p = digits(abs / 1000, buf);
    buf[LOG_NUMBER_BYTES] = '.';
    put_digits(buf + LOG_NUMBER_BYTES + 1, (unsigned)(abs % 1000), 3);
    if (ms < 0)
        *--p = '-';
    add_raw(line, key, p, (int)(buf + sizeof(buf) - p));
}

void
log_at(struct log_line *line, const char *key, msec_t at)
{
    char buf[LOG_TIME_BYTES];
    if (line->log != NULL)
        log_str(line, key, span_str(log_time_format(at, buf)));
}

void
log_printf(struct log_line *line, const char *key, const char *fmt, ...)
{
    if (line->log == NULL)
        return;
    char buf[LOG_VALUE_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf, sizeof(buf), fmt, ap);
    va_end(ap);
    log_str(line, key, span_str(buf));
}

char *
log_time_format(msec_t at, char buf[LOG_TIME_BYTES])
{
    const msec_t least = -62167219200000, most = 253402300799999; /* years 0 and 9999 */
    at = at < least ? least : at > most ? most : at;
    int64_t days = at >= 0 ? at / DAY : -((-at + DAY - 1) / DAY);
    unsigned ms = (unsigned)(at - days * DAY);
    /* Civil date from days, by eras of 400 years that begin in March. */
    int64_t z = days + 719468;
    int64_t era = (z >= 0 ? z : z - 146096) / 146097;
    unsigned doe = (unsigned)(z - era * 146097);
    unsigned yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    unsigned doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    unsigned mp = (5 * doy + 2) / 153;
    unsigned month = mp < 10 ? mp + 3 : mp - 9;
    unsigned year = (unsigned)((int64_t)yoe + era * 400 + (month <= 2));
    memcpy(buf, "0000-00-00T00:00:00.000Z", LOG_TIME_BYTES);
    put_digits(buf, year, 4);
    put_digits(buf + 5, month, 2);
    put_digits(buf + 8, doy - (153 * mp + 2) / 5 + 1, 2);
    put_digits(buf + 11, ms / 3600000, 2);
    put_digits(buf + 14, ms / 60000 % 60, 2);
    put_digits(buf + 17, ms / 1000 % 60, 2);
    put_digits(buf + 20, ms % 1000, 3);
    return buf;
}

void
log_begin_at(struct log *log, struct log_line *line, enum log_level level, const char *event,
             msec_t at)
{
    line->log = log_enabled(log, level) ? log : NULL;
    if (line->log == NULL)
        return;
    line->level = level;
    line->format = (enum log_format)atomic_load_explicit(&log->format, memory_order_relaxed);
    line->truncated = false;
    line->n = 0;
    if (line->format == LOG_JSON)
        line->text[line->n++] = '{';
    log_at(line, "time", at);
    log_cstr(line, "level", log_level_name(level));
    log_cstr(line, "event", event);
    if (log->node[0] != '\0')
        log_cstr(line, "node", log->node);
}

void
log_begin(struct log *log, struct log_line *line, enum log_level level, const char *event)
{
    if (log_enabled(log, level))
        log_begin_at(log, line, level, event, log_wall_ms());
    else
        line->log = NULL;
}

void
log_end(struct log_line *line)
{
    if (line->log == NULL)
        return;
    const char *tail = line->format == LOG_JSON ? line->truncated ? ",\"truncated\":true}\n" : "}\n"
                       : line->truncated        ? " truncated=true\n"
                                                : "\n";
    size_t n = strlen(tail);
    assert(line->n + n <= LOG_LINE_MAX);
    memcpy(line->text + line->n, tail, n);
    line->n += n;
    log_submit(line->log, line->level, span_of(line->text, line->n));
    line->log = NULL;
}

void
log_text(struct log *log, enum log_level level, const char *event, const char *fmt, ...)
{
    if (!log_enabled(log, level))
        return;
    struct log_line line;
    char buf[LOG_VALUE_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(buf, sizeof(buf), fmt, ap);
    va_end(ap);
    log_begin(log, &line, level, event);
    log_cstr(&line, "text", buf);
    log_end(&line);
}
