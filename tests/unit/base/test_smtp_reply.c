/* The reply parser: what is a reply, what is none, limits, and that chunking never matters. */
#include "policy/base/mem.h"
#include "policy/base/smtp_reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct parsed {
    enum smtp_reply_status status;
    size_t used;
    struct smtp_reply reply;
    char text[2048];
};

/* Parse the first reply of `in`, `step` bytes at a time. */
static struct parsed
parse(struct span in, size_t step)
{
    struct smtp_reply_parser p;
    struct parsed ret = {.status = SMTP_REPLY_MORE};
    smtp_reply_parser_init(&p);
    while (ret.status == SMTP_REPLY_MORE && ret.used < in.n) {
        size_t used;
        struct span chunk = span_first(span_from(in, ret.used), step);
        ret.status = smtp_reply_parse(&p, chunk, &used, &ret.reply);
        if (ret.status == SMTP_REPLY_MORE)
            assert_int_equal(used, chunk.n);
        ret.used += used;
    }
    if (ret.status == SMTP_REPLY_DONE) {
        assert_true(ret.reply.text.n < sizeof(ret.text));
        memcpy(ret.text, ret.reply.text.p, ret.reply.text.n);
        ret.text[ret.reply.text.n] = '\0';
    }
    smtp_reply_parser_release(&p);
    return ret;
}

static void
good_replies(void **state)
{
    (void)state;
    static const struct {
        struct span in;
        int code;
        const char *enh, *text;
        size_t left;
    } cases[] = {
        {SPAN("250 ok\r\n"), 250, "", "ok", 0},
        {SPAN("250 ok\n"), 250, "", "ok", 0},
        {SPAN("553\r\n"), 553, "", "", 0},
        {SPAN("553 \r\n"), 553, "", "", 0},
        {SPAN("550-5.1.1 no\r\n550 5.1.1 such user\r\n"), 550, "5.1.1", "no\nsuch user", 0},
        {SPAN("550-no\r\n550 5.1.1 such user\r\n"), 550, "5.1.1", "no\nsuch user", 0},
        {SPAN("550 5.7.1\r\n"), 550, "5.7.1", "", 0},
        {SPAN("550 5.7.1x no code\r\n"), 550, "", "5.7.1x no code", 0},
        {SPAN("550 192.0.2.1 is listed\r\n"), 550, "", "192.0.2.1 is listed", 0},
        {SPAN("250-mx\r\n250-SIZE 10\r\n250 DSN\r\n354 go\r\n"), 250, "", "mx\nSIZE 10\nDSN", 8},
        {SPAN("250-\r\n250\r\n"), 250, "", "\n", 0},
        {SPAN("550-one\r\n553 two\r\n"), 553, "", "one\ntwo", 0},
        {SPAN("550 a\0b\x1b\tc\r\n"), 550, "", "a b  c", 0},
        {SPAN("550 a\rb\r\n"), 550, "", "a b", 0},
        {SPAN("421 \xe5\xbf\x99\r\n"), 421, "", "\xe5\xbf\x99", 0},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++)
        for (size_t step = 1; step <= 64; step += step == 3 ? 61 : 1) {
            char enh[16];
            struct parsed p = parse(cases[i].in, step);
            assert_int_equal(p.status, SMTP_REPLY_DONE);
            assert_int_equal(p.reply.code, cases[i].code);
            assert_string_equal(enh_format(p.reply.enh, enh), cases[i].enh);
            assert_string_equal(p.text, cases[i].text);
            assert_int_equal(p.used, cases[i].in.n - cases[i].left);
        }
}

static void
no_replies(void **state)
{
    (void)state;
    static const struct span cases[] = {
        SPAN("\r\n"),           SPAN("25\r\n"),
        SPAN("250ok\r\n"),      SPAN("HTTP/1.1 200 OK\r\n"),
        SPAN("999 what\r\n"),   SPAN("100 continue\r\n"),
        SPAN("600 more\r\n"),   SPAN("250-ok\r\n550 no\r\n"),
        SPAN("250-ok\r\n\r\n"), SPAN("2x0 ok\r\n"),
        SPAN("\0\0\0\r\n"),     SPAN("\x16\x03\x01\x02\n"),
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++)
        for (size_t step = 1; step <= 64; step += 63)
            assert_int_equal(parse(cases[i], step).status, SMTP_REPLY_BAD);
}

static void
limits_hold(void **state)
{
    (void)state;
    CLEANUP(strbuf_release) struct strbuf sb = STRBUF_INIT;
    struct smtp_reply_parser p;
    struct smtp_reply r;
    size_t used;
    /* A line of exactly the limit passes, one byte more does not, with or without its end. */
    strbuf_add_str(&sb, "250 ");
    while (sb.n < SMTP_REPLY_LINE_MAX)
        strbuf_add_byte(&sb, 'x');
    smtp_reply_parser_init(&p);
    assert_int_equal(smtp_reply_parse(&p, strbuf_span(&sb), &used, &r), SMTP_REPLY_MORE);
    assert_int_equal(smtp_reply_parse(&p, SPAN("x"), &used, &r), SMTP_REPLY_BAD);
    assert_non_null(p.why);
    /* BAD stays until a reset. */
    assert_int_equal(smtp_reply_parse(&p, SPAN("250 ok\r\n"), &used, &r), SMTP_REPLY_BAD);
    smtp_reply_parser_reset(&p);
    assert_int_equal(smtp_reply_parse(&p, SPAN("250 ok\r\n"), &used, &r), SMTP_REPLY_DONE);
    for (int i = 0; i < SMTP_REPLY_LINES_MAX - 1; i++)
        assert_int_equal(smtp_reply_parse(&p, SPAN("250-ok\r\n"), &used, &r), SMTP_REPLY_MORE);
    assert_true(smtp_reply_partial(&p));
    assert_int_equal(smtp_reply_parse(&p, SPAN("250 ok\r\n"), &used, &r), SMTP_REPLY_DONE);
    assert_false(smtp_reply_partial(&p));
    for (int i = 0; i < SMTP_REPLY_LINES_MAX; i++)
        assert_int_equal(smtp_reply_parse(&p, SPAN("250-ok\r\n"), &used, &r), SMTP_REPLY_MORE);
    assert_int_equal(smtp_reply_parse(&p, SPAN("250 ok\r\n"), &used, &r), SMTP_REPLY_BAD);
    /* All of a reply. */
    smtp_reply_parser_reset(&p);
    strbuf_reset(&sb);
    strbuf_add_str(&sb, "250-");
    while (sb.n < 1022)
        strbuf_add_byte(&sb, 'x');
    strbuf_add_str(&sb, "\r\n");
    enum smtp_reply_status status = SMTP_REPLY_MORE;
    int n = 0;
    for (; status == SMTP_REPLY_MORE; n++)
        status = smtp_reply_parse(&p, strbuf_span(&sb), &used, &r);
    assert_int_equal(status, SMTP_REPLY_BAD);
    assert_int_equal(n, SMTP_REPLY_BYTES_MAX / 1024 + 1);
    assert_true(p.text.cap <= 2 * SMTP_REPLY_BYTES_MAX + 64);
    smtp_reply_parser_release(&p);
}

static void
several_replies_in_one_chunk(void **state)
{
    (void)state;
    struct smtp_reply_parser p;
    struct smtp_reply r;
    struct span in = SPAN("250 a\r\n250-b\r\n250 c\r\n354 d\r\n");
    static const int codes[] = {250, 250, 354};
    smtp_reply_parser_init(&p);
    for (size_t i = 0; i < 3; i++) {
        size_t used;
        assert_int_equal(smtp_reply_parse(&p, in, &used, &r), SMTP_REPLY_DONE);
        assert_int_equal(r.code, codes[i]);
        in = span_from(in, used);
    }
    assert_int_equal(in.n, 0);
    smtp_reply_parser_release(&p);
}

static void
one_line_of_text(void **state)
{
    (void)state;
    char buf[12];
    struct smtp_reply r = {.code = 550, .text = SPAN("a\n\n b  c\nd")};
    assert_string_equal(smtp_reply_line(&r, buf, sizeof(buf)), "a b c d");
    r.text = SPAN("123456789\xe5\xbf\x99");
    assert_string_equal(smtp_reply_line(&r, buf, sizeof(buf)), "123456789"); /* not half of it */
    r.text = SPAN("1234567890123");
    assert_string_equal(smtp_reply_line(&r, buf, sizeof(buf)), "12345678901");
    assert_string_equal(smtp_reply_line(&r, buf, 1), "");
}

static void
a_character_that_just_fits_is_kept(void **state)
{
    (void)state;
    char buf[12];
    struct smtp_reply r = {.code = 550, .text = SPAN("12345678\xe5\xbf\x99")};
    assert_string_equal(smtp_reply_line(&r, buf, sizeof(buf)), "12345678\xe5\xbf\x99");
}

static void
outcome_by_the_first_digit(void **state)
{
    (void)state;
    static const struct {
        int code;
        enum outcome_kind kind;
    } cases[] = {{250, OUTCOME_DELIVERED},
                 {354, OUTCOME_DEFERRED},
                 {451, OUTCOME_DEFERRED},
                 {550, OUTCOME_FAILED}};
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct outcome o;
        struct smtp_reply r = {
            .code = cases[i].code, .enh = {5, 1, 1}, .text = SPAN("no\nsuch user")};
        smtp_reply_outcome(&r, "rcpt", &o);
        assert_int_equal(o.kind, cases[i].kind);
        assert_int_equal(o.origin, ORIGIN_PEER);
        assert_int_equal(o.code, cases[i].code);
        assert_int_equal(o.enh.klass, 5);
        assert_string_equal(o.phase, "rcpt");
        assert_string_equal(o.text, "no such user");
        assert_false(o.path);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_replies),
        cmocka_unit_test(no_replies),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(several_replies_in_one_chunk),
        cmocka_unit_test(one_line_of_text),
        cmocka_unit_test(a_character_that_just_fits_is_kept),
        cmocka_unit_test(outcome_by_the_first_digit),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
