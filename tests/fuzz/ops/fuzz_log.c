/*
 * A log line with values of a peer's, in both formats. The first octet: format; the rest are two
 * values. Read again by a reader of ours (logfmt) or by cJSON, the line has the fields that were
 * given, and no other; no octet of it can end a line or drive a terminal.
 */
#include "relayd/ops/api.h"
#include "relayd/ops/log_impl.h"
#include "relayd/ops/utf8.h"
#include "tests/fuzz/check.h"

#include <cjson/cJSON.h>

/* The value behind "key=" at the start of *line, quoted or bare; moves *line behind it. */
static struct span
take_value(struct span *line)
{
    size_t n = 0;

    if (line->n > 0 && line->p[0] == '"') {
        for (n = 1; n < line->n && line->p[n] != '"'; n++)
            n += line->p[n] == '\\';
        CHECK(n < line->n); /* the quote is closed */
        n++;
    } else {
        while (n < line->n && line->p[n] != ' ')
            n++;
    }
    struct span value = span_first(*line, n);
    *line = span_from(*line, n);
    CHECK(line->n == 0 || line->p[0] == ' ');
    *line = span_from(*line, 1);
    return value;
}

/* The plain text of a value that is not cut: escapes undone. */
static void
check_plain(struct span value, struct span given)
{
    struct strbuf json = STRBUF_INIT;

    if (value.n > 0 && value.p[0] != '"') {
        CHECK(span_eq(value, given));
        return;
    }
    strbuf_add_span(&json, value);
    cJSON *string = cJSON_Parse(json.p); /* the escapes are JSON's */
    CHECK(cJSON_IsString(string));
    if (utf8_valid(given) && memchr(given.p, '\0', given.n) == NULL && given.n < 300)
        CHECK(span_eq(span_str(string->valuestring), given));
    cJSON_Delete(string);
    strbuf_release(&json);
}

static void
check_logfmt(struct span line, struct span one, struct span two)
{
    static const char *const keys[] = {"time=", "level=", "event=", "node=", "one=", "n=", "two="};
    struct span given[N_ELEMENTS(keys)] = {[4] = one, [6] = two};

    for (size_t i = 0; i < N_ELEMENTS(keys); i++) {
        CHECK(span_starts(line, span_str(keys[i])));
        line = span_from(line, strlen(keys[i]));
        struct span value = take_value(&line);
        if (i == 4 || i == 6)
            check_plain(value, given[i].p == NULL ? SPAN("") : given[i]);
    }
    CHECK(line.n == 0);
}

static void
check_json(struct log_line *line)
{
    line->text[line->n] = '}';
    cJSON *object = cJSON_ParseWithLength(line->text, line->n + 1);

    CHECK(cJSON_IsObject(object) && cJSON_GetArraySize(object) == 7);
    CHECK(cJSON_IsString(cJSON_GetObjectItem(object, "one")));
    CHECK(cJSON_IsString(cJSON_GetObjectItem(object, "two")));
    CHECK(cJSON_IsNumber(cJSON_GetObjectItem(object, "n")));
    cJSON_Delete(object);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct log *log;
    struct log_line line;

    if (n == 0)
        return 0;
    if (log == NULL)
        log = log_new("node");
    api_json_setup(); /* for check_plain() and check_json() */
    bool json = (bytes[0] & 1) != 0;
    size_t half = (n - 1) / 2;
    CLEANUP(freep) char *a = fuzz_copy(bytes + 1, half);
    CLEANUP(freep) char *b = fuzz_copy(bytes + 1 + half, n - 1 - half);
    struct span one = span_of(a, half), two = span_of(b, n - 1 - half);
    log_set_format(log, json ? LOG_JSON : LOG_LOGFMT);
    log_begin_at(log, &line, LOG_INFO, "fuzz", 1700000000000);
    log_str(&line, "one", one);
    log_uint(&line, "n", n);
    log_str(&line, "two", two);
    CHECK(!line.truncated && line.n + 2 < LOG_LINE_MAX);
    struct span text = span_of(line.text, line.n);
    CHECK(utf8_valid(text));
    for (struct span rest = text; rest.n > 0;) {
        uint32_t cp;
        rest = span_from(rest, utf8_next(rest, &cp));
        CHECK(!utf8_unsafe(cp));
    }
    if (json)
        check_json(&line);
    else
        check_logfmt(text, one, two);
    return 0;
}
