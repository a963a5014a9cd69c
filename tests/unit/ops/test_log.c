#include "relayd/ops/log.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/ops/log_impl.h"
#include "relayd/ops/utf8.h"

static char dir[64];
static char path[128];

static int
setup(void **state)
{
    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/test_log.XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/log", dir);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static char *
slurp(const char *file)
{
    struct strbuf text = STRBUF_INIT;
    char buf[4096];
    size_t n;
    FILE *f = fopen(file, "r");
    assert_non_null(f);
    while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
        strbuf_add(&text, buf, n);
    fclose(f);
    return strbuf_take(&text);
}

/* One field logged without the thread; the line is returned. */
static char *
line_of(enum log_format format, struct span value)
{
    struct log_line line;
    struct err err;
    struct log *log = log_new(NULL);
    unlink(path);
    assert_int_equal(log_set_target(log, path, &err), ERR_OK);
    log_set_format(log, format);
    log_begin_at(log, &line, LOG_INFO, "test", 0);
    log_str(&line, "v", value);
    log_end(&line);
    log_free(log);
    return slurp(path);
}

#define LOGFMT_HEAD "time=1970-01-01T00:00:00.000Z level=info event=test v="
#define JSON_HEAD \
    "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"info\",\"event\":\"test\",\"v\":"

static const struct {
    struct span value;
    const char *logfmt, *json; /* as written */
} escapes[] = {
    {{"a@b.example", 11}, "a@b.example", "\"a@b.example\""},
    {{"", 0}, "\"\"", "\"\""},
    {{"two words", 9}, "\"two words\"", "\"two words\""},
    {{"a=b", 3}, "\"a=b\"", "\"a=b\""},
    {{"say \"hi\"", 8}, "\"say \\\"hi\\\"\"", "\"say \\\"hi\\\"\""},
    {{"back\\slash", 10}, "\"back\\\\slash\"", "\"back\\\\slash\""},
    {{"x\r\nlevel=alert", 14}, "\"x\\r\\nlevel=alert\"", "\"x\\r\\nlevel=alert\""},
    {{"tab\there", 8}, "\"tab\\there\"", "\"tab\\there\""},
    {{"\x1b[31mred", 8}, "\"\\u001b[31mred\"", "\"\\u001b[31mred\""},
    {{"nul\0nul", 7}, "\"nul\\u0000nul\"", "\"nul\\u0000nul\""},
    {{"\x7f", 1}, "\"\\u007f\"", "\"\\u007f\""},
    {{"\xc2\x9b"
      "31m",
      5},
     "\"\\u009b31m\"",
     "\"\\u009b31m\""}, /* C1 CSI in UTF-8 */
    {{"\x9b"
      "31m",
      4},
     "\"\xef\xbf\xbd"
     "31m\"",
     "\"\xef\xbf\xbd"
     "31m\""}, /* C1 CSI as a byte */
    {{"\xc0\x8a", 2}, "\"\xef\xbf\xbd\xef\xbf\xbd\"", "\"\xef\xbf\xbd\xef\xbf\xbd\""},
    {{"\xed\xa0\x80", 3},
     "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"",
     "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""}, /* a surrogate */
    {{"cut\xe4\xb8", 5}, "\"cut\xef\xbf\xbd\xef\xbf\xbd\"", "\"cut\xef\xbf\xbd\xef\xbf\xbd\""},
    {{"\xe4\xb8\xad\xe6\x96\x87", 6},
     "\"\xe4\xb8\xad\xe6\x96\x87\"",
     "\"\xe4\xb8\xad\xe6\x96\x87\""},
    {{"\xe2\x80\xa8", 3}, "\"\\u2028\"", "\"\\u2028\""},
    {{"\xe2\x80\xae", 3}, "\"\\u202e\"", "\"\\u202e\""},
    {{"\xf3\xa0\x80\x81", 4}, "\"\\udb40\\udc01\"", "\"\\udb40\\udc01\""},
    {{"\xf0\x9f\x93\xa7", 4}, "\"\xf0\x9f\x93\xa7\"", "\"\xf0\x9f\x93\xa7\""},
};

static void
a_value_cannot_end_its_line_or_forge_a_field(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(escapes); i++) {
        char want[512];
        CLEANUP(freep) char *logfmt = line_of(LOG_LOGFMT, escapes[i].value);
        snprintf(want, sizeof(want), "%s%s\n", LOGFMT_HEAD, escapes[i].logfmt);
        assert_string_equal(logfmt, want);
        CLEANUP(freep) char *json = line_of(LOG_JSON, escapes[i].value);
        snprintf(want, sizeof(want), "%s%s}\n", JSON_HEAD, escapes[i].json);
        assert_string_equal(json, want);
    }
}

static void
every_byte_gives_one_line_of_valid_json(void **state)
{
    (void)state;
    for (int c = 0; c < 256; c++) {
        char value[3] = {'<', (char)c, '>'};
        CLEANUP(freep) char *json = line_of(LOG_JSON, span_of(value, 3));
        size_t n = strlen(json);
        assert_ptr_equal(strchr(json, '\n'), json + n - 1);
        assert_true(utf8_valid(span_of(json, n)));
        cJSON *parsed = cJSON_Parse(json);
        assert_non_null(parsed);
        assert_non_null(cJSON_GetStringValue(cJSON_GetObjectItem(parsed, "v")));
        cJSON_Delete(parsed);
        CLEANUP(freep) char *logfmt = line_of(LOG_LOGFMT, span_of(value, 3));
        assert_ptr_equal(strchr(logfmt, '\n'), logfmt + strlen(logfmt) - 1);
    }
}

static void
a_long_value_is_cut_at_a_character(void **state)
{
    (void)state;
    char value[6000];
    for (size_t i = 0; i < sizeof(value); i += 3)
        memcpy(value + i, "\xe4\xb8\xad", 3);
    CLEANUP(freep) char *json = line_of(LOG_JSON, span_of(value, sizeof(value)));
    assert_true(strlen(json) < LOG_VALUE_MAX + 200);
    assert_true(utf8_valid(span_str(json)));
    assert_true(span_ends(span_str(json), SPAN("...\"}\n")));
}

static void
fields_that_do_not_fit_are_left_out_and_the_line_says_so(void **state)
{
    (void)state;
    char value[LOG_VALUE_MAX];
    memset(value, 'x', sizeof(value));
    for (int format = LOG_LOGFMT; format <= LOG_JSON; format++) {
        struct log_line line;
        struct err err;
        struct log *log = log_new("cn");
        unlink(path);
        assert_int_equal(log_set_target(log, path, &err), ERR_OK);
        log_set_format(log, (enum log_format)format);
        log_begin(log, &line, LOG_INFO, "test");
        for (int i = 0; i < 6; i++)
            log_str(&line, "v", span_of(value, sizeof(value) - 10));
        log_end(&line);
        log_free(log);
        CLEANUP(freep) char *text = slurp(path);
        assert_true(strlen(text) <= LOG_LINE_MAX);
        assert_true(span_ends(span_str(text), format == LOG_JSON ? SPAN(",\"truncated\":true}\n")
                                                                 : SPAN(" truncated=true\n")));
        if (format == LOG_JSON) {
            cJSON *parsed = cJSON_Parse(text);
            assert_non_null(parsed);
            cJSON_Delete(parsed);
        }
    }
}

static void
numbers_times_and_flags_are_plain(void **state)
{
    (void)state;
    struct log_line line;
    struct err err;
    struct log *log = log_new("cn");
    assert_int_equal(log_set_target(log, path, &err), ERR_OK);
    unlink(path);
    assert_int_equal(log_set_target(log, path, &err), ERR_OK);
    log_begin_at(log, &line, LOG_WARNING, "test", 1789887600123);
    log_int(&line, "i", INT64_MIN);
    log_uint(&line, "u", UINT64_MAX);
    log_bool(&line, "b", true);
    log_ms(&line, "d", 1234);
    log_ms(&line, "n", -5);
    log_at(&line, "at", 951782400000);
    log_cstr(&line, "absent", NULL);
    log_printf(&line, "p", "%d of %s", 3, "x");
    log_end(&line);
    log_free(log);
    CLEANUP(freep) char *text = slurp(path);
    assert_string_equal(text, "time=2026-09-20T07:00:00.123Z level=warning event=test node=cn "
                              "i=-9223372036854775808 u=18446744073709551615 b=true d=1.234 "
                              "n=-0.005 at=2000-02-29T00:00:00.000Z p=\"3 of x\"\n");
}

static void
times_agree_with_libc(void **state)
{
    (void)state;
    for (msec_t at = -62167219200000; at < 253402300799999; at += 86399 * 1000 * 97LL + 1) {
        char mine[LOG_TIME_BYTES], theirs[64];
        time_t seconds = (time_t)(at >= 0 ? at / 1000 : -((-at + 999) / 1000));
        struct tm tm;
        gmtime_r(&seconds, &tm);
        snprintf(theirs, sizeof(theirs), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900,
                 tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec,
                 (int)(at - (msec_t)seconds * 1000));
        assert_string_equal(log_time_format(at, mine), theirs);
    }
}

static void
lines_below_the_level_are_not_written(void **state)
{
    (void)state;
    struct err err;
    struct log *log = log_new(NULL);
    unlink(path);
    assert_int_equal(log_set_target(log, path, &err), ERR_OK);
    log_text(log, LOG_DEBUG, "quiet", "no");
    log_set_level(log, LOG_ERROR);
    log_text(log, LOG_WARNING, "quiet", "no");
    log_text(log, LOG_ERROR, "loud", "yes");
    log_free(log);
    CLEANUP(freep) char *text = slurp(path);
    assert_null(strstr(text, "quiet"));
    assert_non_null(strstr(text, "event=loud text=yes\n"));
}

struct writer {
    struct log *log;
    int no;
};

#define WRITERS 4
#define LINES_EACH 2000

static void *
write_lines(void *arg)
{
    struct writer *writer = arg;
    for (int i = 0; i < LINES_EACH; i++) {
        struct log_line line;
        log_begin(writer->log, &line, LOG_INFO, "line");
        log_int(&line, "writer", writer->no);
        log_int(&line, "i", i);
        log_end(&line);
    }
    return NULL;
}

static void
threads_log_at_once_and_each_keeps_its_order(void **state)
{
    (void)state;
    struct err err;
    struct writer writers[WRITERS];
    pthread_t threads[WRITERS];
    int next[WRITERS] = {0};
    struct log *log = log_new(NULL);
    unlink(path);
    assert_int_equal(log_set_target(log, path, &err), ERR_OK);
    assert_int_equal(log_start(log, &err), ERR_OK);
    for (int i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){log, i};
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    assert_true(log_flush(log, 20 * SECOND));
    assert_int_equal(log_written(log) + log_dropped(log), WRITERS * LINES_EACH);
    assert_int_equal(log_dropped(log), 0);
    CLEANUP(freep) char *text = slurp(path);
    for (char *p = text; (p = strstr(p, "writer=")) != NULL; p++) {
        int no, i;
        assert_int_equal(sscanf(p, "writer=%d i=%d\n", &no, &i), 2);
        assert_int_equal(i, next[no]++);
    }
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(next[i], LINES_EACH);
    log_free(log);
}

/* A pipe that nobody reads, as stderr. */
struct blocked_stderr {
    int saved, pipe[2];
};

static struct blocked_stderr
block_stderr(void)
{
    struct blocked_stderr b = {.saved = dup(2)};
    assert_int_equal(pipe(b.pipe), 0);
    assert_int_equal(dup2(b.pipe[1], 2), 2);
    return b;
}

static void
unblock_stderr(struct blocked_stderr *b)
{
    dup2(b->saved, 2);
    close(b->saved);
    close(b->pipe[0]);
    close(b->pipe[1]);
}

static void
a_target_that_blocks_costs_lines_but_no_time_and_they_are_counted(void **state)
{
    (void)state;
    struct err err;
    char value[1000];
    memset(value, 'x', sizeof(value));
    struct blocked_stderr b = block_stderr();
    struct log *log = log_new(NULL);
    assert_int_equal(log_set_target(log, "stderr", &err), ERR_OK);
    assert_int_equal(log_start(log, &err), ERR_OK);
    uint64_t sent = 0;
    int64_t begun = log_monotonic_ms();
    while (log_dropped(log) == 0 && sent < 100000) { /* fills pipe, both buffers */
        struct log_line line;
        log_begin(log, &line, LOG_INFO, "flood");
        log_str(&line, "v", span_of(value, sizeof(value)));
        log_end(&line);
        sent++;
    }
    assert_true(log_dropped(log) > 0);
    assert_true(log_monotonic_ms() - begun < 20 * SECOND);
    assert_false(log_flush(log, 50));

    /* Somebody reads again: the loss is reported in a line of its own. */
    struct strbuf seen = STRBUF_INIT;
    int64_t until = log_monotonic_ms() + 30 * SECOND;
    while (log_monotonic_ms() < until) {
        char buf[65536];
        struct pollfd pfd = {.fd = b.pipe[0], .events = POLLIN};
        if (poll(&pfd, 1, 100) == 0)
            continue;
        ssize_t n = read(b.pipe[0], buf, sizeof(buf));
        assert_true(n > 0);
        strbuf_add(&seen, buf, (size_t)n);
        if (strstr(seen.p, "event=log_dropped") != NULL)
            break;
    }
    bool reported = strstr(seen.p, "level=warning event=log_dropped count=") != NULL;
    log_stop(log, 100); /* nobody reads: it must come back all the same */
    log_free(log);
    unblock_stderr(&b);
    assert_true(reported);
    strbuf_release(&seen);
}

static void
stopping_with_a_blocked_target_ends_in_time(void **state)
{
    (void)state;
    struct err err;
    char value[1000];
    memset(value, 'x', sizeof(value));
    struct blocked_stderr b = block_stderr();
    struct log *log = log_new(NULL);
    assert_int_equal(log_set_target(log, "stderr", &err), ERR_OK);
    assert_int_equal(log_start(log, &err), ERR_OK);
    for (int i = 0; i < 500; i++)
        log_text(log, LOG_INFO, "flood", "%.*s", (int)sizeof(value), value);
    int64_t begun = log_monotonic_ms();
    log_stop(log, 200);
    int64_t took = log_monotonic_ms() - begun;
    uint64_t written = log_written(log), dropped = log_dropped(log);
    unblock_stderr(&b);
    log_free(log);
    assert_true(took < 5 * SECOND);
    assert_true(dropped > 0);
    assert_int_equal(written + dropped, 500);
}

static void
a_file_is_opened_again_on_request(void **state)
{
    (void)state;
    struct err err;
    char moved[160];
    snprintf(moved, sizeof(moved), "%s.1", path);
    struct log *log = log_new(NULL);
    unlink(path);
    assert_int_equal(log_set_target(log, path, &err), ERR_OK);
    assert_int_equal(log_start(log, &err), ERR_OK);
    log_text(log, LOG_INFO, "before", "x");
    assert_true(log_flush(log, 10 * SECOND));
    assert_int_equal(rename(path, moved), 0);
    log_reopen(log);
    struct stat st;
    for (int64_t until = log_monotonic_ms() + 10 * SECOND;
         stat(path, &st) != 0 && log_monotonic_ms() < until;)
        log_flush(log, 10);
    log_text(log, LOG_INFO, "after", "x");
    log_free(log);
    CLEANUP(freep) char *old = slurp(moved);
    CLEANUP(freep) char *new = slurp(path);
    assert_non_null(strstr(old, "event=before"));
    assert_null(strstr(old, "event=after"));
    assert_non_null(strstr(new, "event=after"));
    assert_int_equal(st.st_mode & 0777 & ~(mode_t)0640, 0);
}

static void
a_bad_target_is_an_error_and_the_old_one_stays(void **state)
{
    (void)state;
    struct err err;
    struct log *log = log_new(NULL);
    unlink(path);
    assert_int_equal(log_set_target(log, path, &err), ERR_OK);
    assert_int_equal(log_set_target(log, "/nonexistent/dir/log", &err), ERR_IO);
    assert_non_null(strstr(err.text, "/nonexistent/dir/log: No such file"));
    assert_int_equal(log_set_target(log, dir, &err), ERR_IO);
    log_text(log, LOG_INFO, "still", "here");
    log_free(log);
    CLEANUP(freep) char *text = slurp(path);
    assert_non_null(strstr(text, "event=still"));
}

static void
syslog_gets_one_datagram_a_line_with_its_priority(void **state)
{
    (void)state;
    struct err err;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/devlog", dir);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    struct log *log = log_new(NULL);
    assert_int_equal(log_set_target(log, "syslog", &err), ERR_OK);
    free(log->sink->path);
    log->sink->path = xstrdup(addr.sun_path);
    log_text(log, LOG_ALERT, "fire", "now");
    char buf[1000];
    ssize_t n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
    assert_true(n > 0);
    buf[n] = '\0';
    assert_true(strncmp(buf, "<17>", 4) == 0);
    assert_non_null(strstr(buf, " relayd["));
    assert_true(span_ends(span_str(buf), SPAN("level=alert event=fire text=now")));

    /* syslogd goes and comes back */
    close(fd);
    unlink(addr.sun_path);
    log_text(log, LOG_INFO, "lost", "x");
    assert_int_equal(log_dropped(log), 1);
    fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    log_text(log, LOG_INFO, "back", "x");
    n = recv(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
    assert_true(n > 0);
    buf[n] = '\0';
    assert_true(strncmp(buf, "<22>", 4) == 0);
    close(fd);
    log_free(log);
}

static void
the_journal_gets_level_prefixes_and_nobody_else_does(void **state)
{
    (void)state;
    struct err err;
    struct stat st;
    char env[64], buf[1000];
    struct blocked_stderr b = block_stderr();
    assert_int_equal(fstat(2, &st), 0);
    snprintf(env, sizeof(env), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", env, 1);
    struct log *log = log_new(NULL);
    log_text(log, LOG_WARNING, "one", "x");
    setenv("JOURNAL_STREAM", "1:2", 1); /* inherited, but stderr is something else */
    assert_int_equal(log_set_target(log, "stderr", &err), ERR_OK);
    log_text(log, LOG_WARNING, "two", "x");
    unsetenv("JOURNAL_STREAM");
    log_free(log);
    ssize_t n = read(b.pipe[0], buf, sizeof(buf) - 1);
    unblock_stderr(&b);
    assert_true(n > 0);
    buf[n] = '\0';
    assert_true(strncmp(buf, "<4>time=", 8) == 0);
    char *second = strchr(buf, '\n') + 1;
    assert_true(strncmp(second, "time=", 5) == 0);
}

static void
alerts_are_kept_newest_first_and_repeats_are_counted_not_logged(void **state)
{
    (void)state;
    struct err err;
    struct log_alert_entry alerts[LOG_ALERTS_KEPT];
    struct log *log = log_new(NULL);
    unlink(path);
    assert_int_equal(log_set_target(log, path, &err), ERR_OK);
    log_alert(log, "hop_down", "us: %s", "refused");
    log_alert(log, "dkim_key", "gone");
    log_alert(log, "hop_down", "us: refused");
    assert_int_equal(log_alerts_total(log), 3);
    assert_int_equal(log_alerts(log, alerts, LOG_ALERTS_KEPT), 2);
    assert_string_equal(alerts[0].kind, "hop_down");
    assert_int_equal(alerts[0].count, 2);
    assert_string_equal(alerts[1].text, "gone");
    for (int i = 0; i < 30; i++)
        log_alert(log, "many", "no %d", i);
    assert_int_equal(log_alerts(log, alerts, LOG_ALERTS_KEPT), LOG_ALERTS_KEPT);
    assert_string_equal(alerts[0].text, "no 29");
    assert_string_equal(alerts[LOG_ALERTS_KEPT - 1].text, "no 10");
    log_free(log);
    CLEANUP(freep) char *text = slurp(path);
    int lines = 0;
    for (char *p = text; (p = strstr(p, "alert=hop_down")) != NULL; p++)
        lines++;
    assert_int_equal(lines, 1);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_cannot_end_its_line_or_forge_a_field),
        cmocka_unit_test(every_byte_gives_one_line_of_valid_json),
        cmocka_unit_test(a_long_value_is_cut_at_a_character),
        cmocka_unit_test(fields_that_do_not_fit_are_left_out_and_the_line_says_so),
        cmocka_unit_test(numbers_times_and_flags_are_plain),
        cmocka_unit_test(times_agree_with_libc),
        cmocka_unit_test(lines_below_the_level_are_not_written),
        cmocka_unit_test(threads_log_at_once_and_each_keeps_its_order),
        cmocka_unit_test(a_target_that_blocks_costs_lines_but_no_time_and_they_are_counted),
        cmocka_unit_test(stopping_with_a_blocked_target_ends_in_time),
        cmocka_unit_test(a_file_is_opened_again_on_request),
        cmocka_unit_test(a_bad_target_is_an_error_and_the_old_one_stays),
        cmocka_unit_test(syslog_gets_one_datagram_a_line_with_its_priority),
        cmocka_unit_test(the_journal_gets_level_prefixes_and_nobody_else_does),
        cmocka_unit_test(alerts_are_kept_newest_first_and_repeats_are_counted_not_logged),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
