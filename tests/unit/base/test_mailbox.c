/* Addresses and xtext: RFC 5321 section 4.1.2, RFC 6531 section 3.3, RFC 3461 section 4. */
#include "policy/base/mailbox.h"
#include "policy/base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

struct mailbox_case {
    const char *text;
    unsigned admit;
    enum mailbox_fault want;
    const char *local, *domain;
};

static const struct mailbox_case cases[] = {
    {"a@b.test", 0, MAILBOX_OK, "a", "b.test"},
    {"a.b-c+d_e@x-y.b.test", 0, MAILBOX_OK, "a.b-c+d_e", "x-y.b.test"},
    {"!#$%&'*+-/=?^_`{|}~@b", 0, MAILBOX_OK, "!#$%&'*+-/=?^_`{|}~", "b"},
    {"\"\"@b.test", 0, MAILBOX_OK, "\"\"", "b.test"},
    {"\"a b\"@b.test", 0, MAILBOX_OK, "\"a b\"", "b.test"},
    {"\"a@b\\\"c\\\\\"@b.test", 0, MAILBOX_OK, "\"a@b\\\"c\\\\\"", "b.test"},
    {"a@[192.0.2.1]", 0, MAILBOX_OK, "a", "[192.0.2.1]"},
    {"a@[IPv6:2001:db8::1]", 0, MAILBOX_OK, "a", "[IPv6:2001:db8::1]"},
    {"a@under_score.test", 0, MAILBOX_OK, "a", "under_score.test"},
    {"a@1.2.3.test", 0, MAILBOX_OK, "a", "1.2.3.test"},
    {"", 0, MAILBOX_BAD, NULL, NULL},
    {"", MAILBOX_NULL, MAILBOX_OK, "", ""},
    {"a", 0, MAILBOX_NO_DOMAIN, NULL, NULL},
    {"postmaster", 0, MAILBOX_NO_DOMAIN, NULL, NULL},
    {"PostMaster", MAILBOX_POSTMASTER, MAILBOX_OK, "PostMaster", ""},
    {"postmaste", MAILBOX_POSTMASTER, MAILBOX_NO_DOMAIN, NULL, NULL},
    {"@b.test", 0, MAILBOX_ROUTE, NULL, NULL},
    {"@x,@y:a@b.test", 0, MAILBOX_ROUTE, NULL, NULL},
    {"a@", 0, MAILBOX_BAD, NULL, NULL},
    {"a@b@c", 0, MAILBOX_BAD, NULL, NULL},
    {".a@b", 0, MAILBOX_BAD, NULL, NULL},
    {"a.@b", 0, MAILBOX_BAD, NULL, NULL},
    {"a..b@c", 0, MAILBOX_BAD, NULL, NULL},
    {"a b@c", 0, MAILBOX_BAD, NULL, NULL},
    {"a(b)@c", 0, MAILBOX_BAD, NULL, NULL},
    {"\"a@c", 0, MAILBOX_BAD, NULL, NULL},
    {"\"a\\\"@c", 0, MAILBOX_BAD, NULL, NULL},
    {"\"a\"b@c", 0, MAILBOX_BAD, NULL, NULL},
    {"a\"b\"@c", 0, MAILBOX_BAD, NULL, NULL},
    {"\"a\tb\"@c", 0, MAILBOX_BAD, NULL, NULL},
    {"a@-b", 0, MAILBOX_BAD, NULL, NULL},
    {"a@b-", 0, MAILBOX_BAD, NULL, NULL},
    {"a@b..c", 0, MAILBOX_BAD, NULL, NULL},
    {"a@.b", 0, MAILBOX_BAD, NULL, NULL},
    {"a@b.", 0, MAILBOX_BAD, NULL, NULL},
    {"a@b c", 0, MAILBOX_BAD, NULL, NULL},
    {"a@192.0.2.1", 0, MAILBOX_QUAD, NULL, NULL},
    {"a@999.1.1.1", 0, MAILBOX_QUAD, NULL, NULL},
    {"a@b.1", 0, MAILBOX_BAD, NULL, NULL},
    {"a@[192.0.2.256]", 0, MAILBOX_BAD, NULL, NULL},
    {"a@[0300.0.2.1]", 0, MAILBOX_BAD, NULL, NULL},
    {"a@[2001:db8::1]", 0, MAILBOX_BAD, NULL, NULL},
    {"a@[IPv6:192.0.2.1]", 0, MAILBOX_BAD, NULL, NULL},
    {"a@[x:y]", 0, MAILBOX_BAD, NULL, NULL},
    {"a@[]", 0, MAILBOX_BAD, NULL, NULL},
    {"a@[192.0.2.1", 0, MAILBOX_BAD, NULL, NULL},
    {"a@[192.0.2.1].test", 0, MAILBOX_BAD, NULL, NULL},
    {"用户@例子.test", 0, MAILBOX_NEEDS_UTF8, NULL, NULL},
    {"用户@例子.test", MAILBOX_UTF8, MAILBOX_OK, "用户", "例子.test"},
    {"\"用 户\"@b.test", MAILBOX_UTF8, MAILBOX_OK, "\"用 户\"", "b.test"},
    {"a@例子。test", MAILBOX_UTF8, MAILBOX_OK, "a", "例子。test"},
    {"\xff@b", MAILBOX_UTF8, MAILBOX_BAD, NULL, NULL},
    {"\xc2\x85@b", MAILBOX_UTF8, MAILBOX_BAD, NULL, NULL},
    {"\xc0\xaf@b", MAILBOX_UTF8, MAILBOX_BAD, NULL, NULL},
    {"\xed\xa0\x80@b", MAILBOX_UTF8, MAILBOX_BAD, NULL, NULL},
};

static void
test_mailboxes_are_what_rfc_5321_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        const struct mailbox_case *c = &cases[i];
        struct mailbox m;
        if (mailbox_parse(span_str(c->text), c->admit, &m) != c->want)
            fail_msg("%s: %s", c->text,
                     mailbox_fault_text(mailbox_parse(span_str(c->text), c->admit, &m)));
        if (c->want != MAILBOX_OK)
            continue;
        assert_true(span_eq(m.local, span_str(c->local)));
        assert_true(span_eq(m.domain, span_str(c->domain)));
        assert_int_equal(m.quoted, c->local[0] == '"');
        assert_int_equal(m.literal, c->domain[0] == '[');
    }
}

static void
test_a_path_is_the_mailbox_in_brackets_and_says_where_it_ends(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        const struct mailbox_case *c = &cases[i];
        CLEANUP(freep) char *path = xasprintf("<%s> SIZE=1", c->text);
        struct mailbox m;
        size_t length = 0;
        if (mailbox_path_parse(span_str(path), c->admit, &m, &length) != c->want)
            fail_msg("%s", path);
        if (c->want != MAILBOX_OK)
            continue;
        assert_int_equal(length, strlen(c->text) + 2);
        assert_true(span_eq(m.local, span_str(c->local)));
    }
}

static void
test_a_path_needs_both_brackets(void **state)
{
    static const char *const bad[] = {"",      "<",      "a@b",    "<a@b",          "a@b>",
                                      "<a@b ", "<<a@b>", " <a@b>", "<a@[192.0.2.1>"};
    struct mailbox m;
    size_t length;

    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        assert_int_equal(mailbox_path_parse(span_str(bad[i]), MAILBOX_NULL, &m, &length),
                         MAILBOX_BAD);
    assert_int_equal(mailbox_path_parse(SPAN("<\">\"@b.test>"), 0, &m, &length), MAILBOX_OK);
    assert_int_equal(length, 12);
}

static char *
repeat(char c, size_t n)
{
    char *s = xmalloc(n + 1);

    memset(s, c, n);
    s[n] = '\0';
    return s;
}

static enum mailbox_fault
of_lengths(size_t local, size_t label, size_t labels)
{
    CLEANUP(freep) char *l = repeat('l', local);
    CLEANUP(freep) char *d = repeat('d', label);
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    struct mailbox m;

    strbuf_printf(&text, "%s@", l);
    for (size_t i = 0; i < labels; i++)
        strbuf_printf(&text, "%s.", d);
    strbuf_add_str(&text, "test");
    return mailbox_parse(strbuf_span(&text), 0, &m);
}

static void
test_limits_leave_room_for_what_the_rfc_promises(void **state)
{
    (void)state;
    assert_int_equal(of_lengths(64, 10, 1), MAILBOX_OK);
    assert_int_equal(of_lengths(MAILBOX_LOCAL_MAX, 10, 1), MAILBOX_OK);
    assert_int_equal(of_lengths(MAILBOX_LOCAL_MAX + 1, 10, 1), MAILBOX_TOO_LONG);
    assert_int_equal(of_lengths(1, 63, 1), MAILBOX_OK);
    assert_int_equal(of_lengths(1, 64, 1), MAILBOX_BAD);
    /* "<", "lllll@", four labels of 60 with their dots, "test", ">": 256 octets */
    assert_int_equal(of_lengths(5, 60, 4), MAILBOX_OK);
    assert_int_equal(of_lengths(6, 60, 4), MAILBOX_TOO_LONG);
    assert_int_equal(of_lengths(1, 63, 4), MAILBOX_TOO_LONG);
}

static void
test_a_literal_gives_its_address(void **state)
{
    struct mailbox m;

    (void)state;
    assert_int_equal(mailbox_parse(SPAN("a@[ipv6:2001:DB8::1]"), 0, &m), MAILBOX_OK);
    assert_true(span_eq(mailbox_literal(&m), SPAN("2001:DB8::1")));
    assert_int_equal(mailbox_parse(SPAN("a@[192.0.2.1]"), 0, &m), MAILBOX_OK);
    assert_true(span_eq(mailbox_literal(&m), SPAN("192.0.2.1")));
    assert_int_equal(mailbox_parse(SPAN("a@b.test"), 0, &m), MAILBOX_OK);
    assert_int_equal(mailbox_literal(&m).n, 0);
}

/* What stands behind a NUL was not looked at, and passed on as part of the domain. */
static void
test_a_literal_holds_no_nul(void **state)
{
    struct mailbox m;

    (void)state;
    assert_int_equal(mailbox_parse(SPAN("a@[192.0.2.1\0]"), 0, &m), MAILBOX_BAD);
    assert_int_equal(mailbox_parse(SPAN("a@[IPv6:2001:db8::\0\n]"), 0, &m), MAILBOX_BAD);
}

static void
test_the_plain_local_part_has_no_quotes(void **state)
{
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    struct mailbox m;

    (void)state;
    assert_int_equal(mailbox_parse(SPAN("\"a\\\"b \\\\c\"@b.test"), 0, &m), MAILBOX_OK);
    mailbox_local_plain(&m, &out);
    assert_string_equal(out.p, "a\"b \\c");
    strbuf_reset(&out);
    assert_int_equal(mailbox_parse(SPAN("a.b@b.test"), 0, &m), MAILBOX_OK);
    mailbox_local_plain(&m, &out);
    assert_string_equal(out.p, "a.b");
}

/* 21Nails (CVE-2020-28026): a newline in ORCPT became a line of the spool file. */
static void
test_xtext_brings_no_control_characters(void **state)
{
    static const char *const bad[] = {"a+0D+0Ab", "+00", "+1F", "+7F", "+",   "+4",    "+4g",
                                      "+0a",      "+2b", "a=b", "a b", "a\n", "a\x7f", "\xc3\xbc"};
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;

    (void)state;
    strbuf_add_str(&out, "kept");
    for (size_t i = 0; i < N_ELEMENTS(bad); i++) {
        assert_false(xtext_decode(span_str(bad[i]), &out));
        assert_string_equal(out.p, "kept");
    }
    assert_true(xtext_decode(SPAN("Bob+2Bx+3D+20+FF"), &out));
    assert_true(span_eq(strbuf_span(&out), SPAN("keptBob+x= \xff")));
}

static void
test_xtext_comes_back_as_it_was(void **state)
{
    CLEANUP(strbuf_release) struct strbuf coded = STRBUF_INIT, plain = STRBUF_INIT;
    char all[256 - 32 - 1];
    size_t n = 0;

    (void)state;
    for (int c = 32; c < 256; c++)
        if (c != 127)
            all[n++] = (char)c;
    xtext_encode(span_of(all, n), &coded);
    assert_true(xtext_decode(strbuf_span(&coded), &plain));
    assert_true(span_eq(strbuf_span(&plain), span_of(all, n)));
    strbuf_reset(&coded);
    xtext_encode(SPAN("a\r\n+="), &coded);
    assert_string_equal(coded.p, "a+0D+0A+2B+3D");
}

static void
test_utf8_is_checked_to_the_letter(void **state)
{
    static const char *const good[] = {"",
                                       "a",
                                       "\xc2\x80",
                                       "\xe0\xa0\x80",
                                       "\xef\xbf\xbf",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc1\xbf",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xc2",
                                      "\xe2\x82",
                                      "\xf0\x90\x80",
                                      "\xe2\x82x"};

    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(good); i++)
        assert_true(mailbox_utf8_valid(span_str(good[i])));
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        assert_false(mailbox_utf8_valid(span_str(bad[i])));
}

static void
test_utf8_goes_into_ascii_by_code_points(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"", ""},
        {"utf-8;a@b.test", "utf-8;a@b.test"},
        {"utf-8;\\x{2B}@b", "utf-8;\\x{2B}@b"},
        {"utf-8;用户@b.test", "utf-8;\\x{7528}\\x{6237}@b.test"},
        {"\xc2\xa0\xdf\xbf", "\\x{A0}\\x{7FF}"},
        {"\xe0\xa0\x80\xef\xbf\xbd", "\\x{800}\\x{FFFD}"},
        {"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\\x{10000}\\x{10FFFF}"},
        {"\xffz", "?z"},
    };
    for (size_t i = 0; i < N_ELEMENTS(pairs); i++) {
        CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
        strbuf_add_str(&out, "=");
        utf8_addr_to_ascii(span_str(pairs[i][0]), &out);
        assert_string_equal(out.p + 1, pairs[i][1]);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mailboxes_are_what_rfc_5321_says),
        cmocka_unit_test(test_a_path_is_the_mailbox_in_brackets_and_says_where_it_ends),
        cmocka_unit_test(test_a_path_needs_both_brackets),
        cmocka_unit_test(test_limits_leave_room_for_what_the_rfc_promises),
        cmocka_unit_test(test_a_literal_gives_its_address),
        cmocka_unit_test(test_a_literal_holds_no_nul),
        cmocka_unit_test(test_the_plain_local_part_has_no_quotes),
        cmocka_unit_test(test_xtext_brings_no_control_characters),
        cmocka_unit_test(test_xtext_comes_back_as_it_was),
        cmocka_unit_test(test_utf8_is_checked_to_the_letter),
        cmocka_unit_test(test_utf8_goes_into_ascii_by_code_points),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
