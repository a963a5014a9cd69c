#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <time.h>

#include "policy/base/mem.h"
#include "policy/header.h"

static void
assert_span(struct span got, const char *want)
{
    if (!span_eq(got, span_str(want)))
        fail_msg("\"%.*s\" is not \"%s\"", SPAN_ARG(got), want);
}

static void
fields_are_cut_with_their_folds(void **state)
{
    (void)state;
    struct header_field f;
    struct span rest =
        SPAN("A: 1\r\nSubject:two\r\n three\r\n\tfour\r\nX-Y \t: z\r\n\r\nbody: no\r\n");
    assert_true(header_field_next(&rest, &f));
    assert_span(f.name, "A");
    assert_span(f.value, " 1");
    assert_span(f.whole, "A: 1\r\n");
    assert_true(header_field_next(&rest, &f));
    assert_span(f.value, "two\r\n three\r\n\tfour");
    assert_true(header_field_next(&rest, &f));
    assert_span(f.name, "X-Y");
    assert_span(f.value, " z");
    assert_false(header_field_next(&rest, &f));
    assert_span(rest, "\r\nbody: no\r\n");

    rest = SPAN("Last: one");
    assert_true(header_field_next(&rest, &f));
    assert_span(f.value, " one");
    assert_int_equal(rest.n, 0);
    assert_false(header_field_next(&rest, &f));
}

static void
lines_that_are_no_fields_stop_the_walk(void **state)
{
    (void)state;
    static const char *const lines[] = {
        ": x\r\n",     "no colon\r\n",    " blank: x\r\n", "two words: x\r\n",
        "\x7f: x\r\n", "\xc3\xbc: x\r\n", "a\x01: b\r\n",  "From a@b Mon Nov 20 10:00:00 2023\r\n"};
    for (size_t i = 0; i < N_ELEMENTS(lines); i++) {
        struct header_field f;
        struct span rest = span_str(lines[i]);
        if (header_field_next(&rest, &f))
            fail_msg("taken for a field: %s", lines[i]);
        assert_int_equal(rest.n, strlen(lines[i]));
        assert_true(header_first_line_is_body(rest));
    }
    assert_false(header_first_line_is_body(SPAN("")));
    assert_false(header_first_line_is_body(SPAN("\r\nbody")));
    assert_false(header_first_line_is_body(SPAN("Subject: x\r\n")));
}

static void
the_end_of_the_block_is_found_in_pieces(void **state)
{
    (void)state;
    struct span text = SPAN("A: 1\r\nB: 2\r\n\r\nbody\r\n\r\n");
    assert_int_equal(header_block_end(text, 0), 14);
    for (size_t seen = 0; seen < 14; seen++) {
        assert_int_equal(header_block_end(span_first(text, seen), 0), SIZE_MAX);
        assert_int_equal(header_block_end(text, seen), 14);
    }
    assert_int_equal(header_block_end(SPAN("\r\nbody"), 0), 2);
    assert_int_equal(header_block_end(SPAN(""), 0), SIZE_MAX);
    assert_int_equal(header_block_end(SPAN("\r"), 0), SIZE_MAX);
}

static struct header_facts
scan(const char *text)
{
    struct header_facts facts;
    struct err err;
    assert_int_equal(header_scan(span_str(text), SPAN("relay.example.org"), &facts, &err), ERR_OK);
    return facts;
}

static void
facts_of_a_block_are_collected(void **state)
{
    (void)state;
    struct header_facts f =
        scan("Received: from a by relay.example.org (relayd cn) with SMTP id x; d\r\n"
             "received: from a by other.example.org; d\r\nDKIM-Signature: v=1\r\n"
             "FROM: a@b\r\nFrom: second@b\r\nDate: today\r\nMessage-Id: <1@2>\r\n"
             "Subject: hello\r\n there\r\n\r\nDate: body\r\n");
    assert_int_equal(f.n_fields, 8);
    assert_int_equal(f.n_received, 2);
    assert_int_equal(f.n_received_ours, 1);
    assert_true(f.has_date && f.has_message_id && f.has_dkim_signature);
    assert_false(f.broken || f.has_8bit || f.has_nul);
    assert_span(f.from, " a@b");
    assert_span(f.subject, " hello\r\n there");
    assert_span(f.message_id, " <1@2>");
    assert_int_equal(f.body_at, f.head_bytes + 2);
}

static void
an_empty_or_broken_block_is_told(void **state)
{
    (void)state;
    struct header_facts f = scan("");
    assert_int_equal(f.n_fields + f.head_bytes + f.body_at, 0);
    f = scan("\r\nDate: body\r\n");
    assert_int_equal(f.head_bytes, 0);
    assert_int_equal(f.body_at, 2);
    assert_false(f.has_date);
    f = scan("A: 1\r\nbroken\r\nDate: x\r\n\r\n");
    assert_true(f.broken && f.has_date);
    f = scan("Date: the message ends here\r\n");
    assert_true(f.has_date);
    assert_int_equal(f.body_at, f.head_bytes);
    assert_int_equal(f.body_at, 29);
    f = scan("Subject: 12345678\xc3\xa4\r\n\r\n");
    assert_true(f.has_8bit);
    f = scan("A: 1\r\n\r\n\xc3\xa4 body\r\n");
    assert_false(f.has_8bit);
    struct err err;
    assert_int_equal(header_scan(SPAN("A: \0\r\n\r\n"), SPAN("h"), &f, &err), ERR_OK);
    assert_true(f.has_nul);
}

static void
a_block_beyond_the_limit_is_refused_and_one_within_it_is_fast(void **state)
{
    (void)state;
    struct strbuf head = STRBUF_INIT;
    struct header_facts facts;
    struct err err;
    while (head.n < HEADER_BYTES_MAX - 100)
        strbuf_add_str(&head, "X-Header-Of-No-Interest: some value that says nothing much\r\n");
    clock_t start = clock();
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    int rounds = 10; /* memchr is watched too */
#else
    int rounds = 100;
#endif
    for (int i = 0; i < rounds; i++)
        assert_int_equal(header_scan(strbuf_span(&head), SPAN("h"), &facts, &err), ERR_OK);
    /* 100 MiB at a slow 100 MB/s: fails when somebody makes it look at octets one by one. */
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 1.5);
    while (head.n <= HEADER_BYTES_MAX)
        strbuf_add_str(&head, "A:\r\n");
    assert_int_equal(header_scan(strbuf_span(&head), SPAN("h"), &facts, &err), ERR_LIMIT);
    strbuf_release(&head);
}

static void
our_own_received_lines_are_known(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        bool ours;
    } cases[] = {
        {" from a ([1.2.3.4])\r\n\tby relay.example.org (relayd cn) with ESMTP\r\n\tid x; d", true},
        {" from a by RELAY.example.org with SMTP; d", true},
        {" from a by relay.example.org; d", true},
        {" from a by relay.example.org. with SMTP; d", true},
        {" by relay.example.org(relayd); d", true},
        {" from a by relay.example.org (Postfix) with ESMTP id x; d", false},
        {" from relay.example.org by other.example.org (relayd us); d", false},
        {" from a (by relay.example.org (relayd)) by other; d", false},
        {" from a by relay.example.org.evil.example; d", false},
        {" from a; by relay.example.org", true},
        {" from by ([1.2.3.4])\r\n\tby relay.example.org (relayd cn) with SMTP; d", true},
        {" from by by other.example.org; d", false},
        {"", false},
        {" from a (unclosed by relay.example.org", false},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++)
        if (header_received_is_ours(span_str(cases[i].value), SPAN("relay.example.org")) !=
            cases[i].ours)
            fail_msg("%s", cases[i].value);
    assert_false(header_received_is_ours(SPAN(" by "), SPAN("")));
}

static void
the_domain_of_the_first_mailbox_is_found(void **state)
{
    (void)state;
    static const struct {
        const char *from, *domain; /* NULL: none */
    } cases[] = {
        {" a@example.org", "example.org"},
        {" <a@example.org>", "example.org"},
        {" Joe <a@Example.ORG>\r\n", "Example.ORG"},
        {" \"Doe, John\" <a@example.org>", "example.org"},
        {" \"x <y@evil.example>\" <a@example.org>", "example.org"},
        {" \"a\\\"@evil.example\" <a@example.org>", "example.org"},
        {" Doe, John <a@example.org>", "example.org"},
        {" a@example.org, b@example.net", "example.org"},
        {" x@evil.example <a@example.org>, b@c", "example.org"},
        {" (c@d.example) a@example.org (trailing (nested) comment)", "example.org"},
        {" a(one)@(two)example(three).org", "example.org"},
        {" a@example . org", "example.org"},
        {" a@example\r\n .org", "example.org"},
        {" Group: a@example.org, b@example.net;", "example.org"},
        {" Group:; , a@example.org", "example.org"},
        {" Empty group:;", NULL},
        {" undisclosed-recipients:;", NULL},
        {" <@one.example,@two.example:a@example.org>", "example.org"},
        {" \"a b\"@example.org", "example.org"},
        {" \"a@b\"@example.org", "example.org"},
        {" =?utf-8?Q?Doe=2C_John?= <a@example.org>", "example.org"},
        {" =?utf-8?Q?Doe,_(John?= <a@example.org>", "example.org"},
        {" =?utf-8?B?5L2g5aW9?= =?utf-8?Q?<x@evil.example>?= <a@example.org>", "example.org"},
        {" \xe4\xb8\xad\xe6\x96\x87 <a@\xe4\xbe\x8b\xe5\xad\x90.cn>",
         "\xe4\xbe\x8b\xe5\xad\x90.cn"},
        {" a@example.org.", "example.org"},
        {" a@[192.0.2.1]", NULL},
        {" <a@[IPv6:2001:db8::1]>", NULL},
        {" nobody", NULL},
        {" <>", NULL},
        {" <nobody>", NULL},
        {" a@", NULL},
        {" a@.", NULL},
        {" \"unclosed <a@example.org>", NULL},
        {" (unclosed a@example.org", NULL},
        {"", NULL},
        {" ((((((((((((((((", NULL},
        {" <a@example.org", "example.org"},
        {" a@b@example.org", "example.org"},
        {" A (B) <a@example.org> junk", "example.org"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        char domain[HEADER_DOMAIN_MAX + 1];
        bool found = header_from_domain(span_str(cases[i].from), domain);
        if (found != (cases[i].domain != NULL) || (found && strcmp(domain, cases[i].domain) != 0))
            fail_msg("%s: %s", cases[i].from, found ? domain : "none");
    }
}

static void
a_domain_that_is_too_long_is_none(void **state)
{
    (void)state;
    struct strbuf from = STRBUF_INIT;
    char domain[HEADER_DOMAIN_MAX + 1];
    strbuf_add_str(&from, "a@");
    for (size_t i = 0; i < HEADER_DOMAIN_MAX; i++)
        strbuf_add_byte(&from, 'x');
    assert_true(header_from_domain(strbuf_span(&from), domain));
    assert_int_equal(strlen(domain), HEADER_DOMAIN_MAX);
    strbuf_add_str(&from, " . x");
    assert_false(header_from_domain(strbuf_span(&from), domain));
    strbuf_release(&from);
}

/* -- long lines ----------------------------------------------------------------------------------
 */

static void
assert_folds(struct span line, bool can)
{
    struct strbuf out = STRBUF_INIT, joined = STRBUF_INIT;
    strbuf_add_str(&out, "before");
    assert_int_equal(header_line_fold(line, &out), can);
    if (!can) {
        assert_string_equal(out.p, "before");
        strbuf_release(&out);
        return;
    }
    struct span rest = span_from(strbuf_span(&out), strlen("before"));
    for (bool first = true; rest.n > 0; first = false) {
        struct span piece = span_cut(&rest, '\n');
        assert_true(piece.n > 0 && piece.p[piece.n - 1] == '\r');
        piece.n--;
        assert_true(piece.n <= HEADER_LINE_MAX);
        assert_true(first || piece.p[0] == ' ' || piece.p[0] == '\t');
        assert_true(line.n == 0 || span_trim(piece).n > 0);
        strbuf_add_span(&joined, piece); /* RFC 5322 section 2.2.3: unfolding removes CRLF */
    }
    assert_true(span_eq(strbuf_span(&joined), line));
    strbuf_release(&joined);
    strbuf_release(&out);
}

static struct strbuf
line_of(const char *start, const char *word, size_t n, const char *end)
{
    struct strbuf line = STRBUF_INIT;
    strbuf_add_str(&line, start);
    while (line.n < n)
        strbuf_add_str(&line, word);
    strbuf_add_str(&line, end);
    return line;
}

static void
long_header_lines_are_folded_at_blanks_or_refused(void **state)
{
    (void)state;
    static const struct {
        const char *start, *word, *end;
        size_t n;
        bool can;
    } cases[] = {
        {"Subject: short", "x", "", 0, true},
        {"", "x", "", 0, true},
        {"Subject: ", "word ", "end", 10000, true},
        {"References:", " <id@host>", "", 999, true},
        {"References:", "\t<id@host>", "", 50000, true},
        {"Subject:", "x", "", 998, true},
        {"Subject:", "x", "", 999, false},
        {"Subject: ", "x", "", 1006, true}, /* the word alone fits with its blank */
        {"Subject: ", "x", "", 1100, false},
        {"Subject: a ", "x", " b", 1100, false},
        {" folded ", "x", "", 1000, true},
        {" ", "x", "", 1500, false},
        {"Subject: word", " ", "end", 2000, false}, /* more blanks than a line holds */
        {"Subject: word", " ", "", 2000, false},
        {"Subject: one two", " ", "", 1005, true},
        {"Subject", " ", ": x", 1100, false}, /* never before the colon */
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct strbuf line = line_of(cases[i].start, cases[i].word, cases[i].n, cases[i].end);
        assert_folds(strbuf_span(&line), cases[i].can);
        strbuf_release(&line);
    }
}

/* -- fields we add
 * --------------------------------------------------------------------------------- */

static void
dates_agree_with_the_c_library(void **state)
{
    (void)state;
    /* Steps of 12,345,677 s from 1970 to beyond 2100, which is no leap year. */
    for (time_t t = 0; t < 5000000000; t += 12345677) {
        char want[64];
        struct tm tm;
        struct strbuf got = STRBUF_INIT;
        strftime(want, sizeof(want), "%a, %-d %b %Y %H:%M:%S +0000", gmtime_r(&t, &tm));
        header_date_format((msec_t)t * SECOND + 999, &got);
        assert_string_equal(got.p, want);
        strbuf_release(&got);
    }
}

static void
a_received_field_says_who_how_and_when(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    struct header_received r = {.helo = SPAN("client.example"),
                                .client_ip = SPAN("192.0.2.1"),
                                .by = SPAN("relay.example.org"),
                                .node = SPAN("cn"),
                                .protocol = SPAN("ESMTPSA"),
                                .tls_version = SPAN("TLSv1.3"),
                                .tls_cipher = SPAN("TLS_AES_256_GCM_SHA384"),
                                .id = SPAN("cn.0123456789abc"),
                                .rcpt = SPAN("a@b.example"),
                                .now = 1700591100000};
    header_received_format(&r, &out);
    assert_string_equal(out.p, "Received: from client.example ([192.0.2.1])\r\n"
                               "\tby relay.example.org (relayd cn) with ESMTPSA\r\n"
                               "\t(TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n"
                               "\tid cn.0123456789abc for <a@b.example>;\r\n"
                               "\tTue, 21 Nov 2023 18:25:00 +0000\r\n");
    struct header_facts facts;
    struct err err;
    assert_int_equal(header_scan(strbuf_span(&out), r.by, &facts, &err), ERR_OK);
    assert_int_equal(facts.n_received_ours, 1);
    strbuf_release(&out);

    r = (struct header_received){.client_ip = SPAN("2001:db8::1"),
                                 .by = SPAN("h"),
                                 .protocol = SPAN("SMTP"),
                                 .id = SPAN("x")};
    header_received_format(&r, &out);
    assert_string_equal(out.p, "Received: from unknown ([IPv6:2001:db8::1])\r\n"
                               "\tby h (relayd) with SMTP\r\n\tid x;\r\n"
                               "\tThu, 1 Jan 1970 00:00:00 +0000\r\n");
    strbuf_release(&out);
}

static void
a_helo_or_path_with_anything_in_it_stays_inside_its_field(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT, helo = line_of("a(b)\r\nBcc: x\"\x01\xff ", "y", 5000, "");
    struct header_received r = {.helo = strbuf_span(&helo),
                                .client_ip = SPAN("192.0.2.1"),
                                .by = SPAN("h"),
                                .protocol = SPAN("SMTP"),
                                .id = SPAN("x"),
                                .rcpt = SPAN("\"a\r\nb\"@c")};
    struct header_facts facts;
    struct err err;
    header_received_format(&r, &out);
    assert_int_equal(header_scan(strbuf_span(&out), SPAN("h"), &facts, &err), ERR_OK);
    assert_int_equal(facts.n_fields, 1);
    assert_int_equal(facts.n_received_ours, 1);
    assert_false(facts.broken || facts.has_8bit);
    for (struct span rest = strbuf_span(&out); rest.n > 0;)
        assert_true(span_cut(&rest, '\n').n < HEADER_LINE_MAX);
    strbuf_release(&helo);
    strbuf_release(&out);
}

static void
date_and_message_id_are_whole_fields(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    header_add_date(0, &out);
    header_add_message_id(SPAN("cn.1"), SPAN("relay.example.org"), &out);
    assert_string_equal(out.p, "Date: Thu, 1 Jan 1970 00:00:00 +0000\r\n"
                               "Message-ID: <cn.1@relay.example.org>\r\n");
    strbuf_release(&out);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_cut_with_their_folds),
        cmocka_unit_test(lines_that_are_no_fields_stop_the_walk),
        cmocka_unit_test(the_end_of_the_block_is_found_in_pieces),
        cmocka_unit_test(facts_of_a_block_are_collected),
        cmocka_unit_test(an_empty_or_broken_block_is_told),
        cmocka_unit_test(a_block_beyond_the_limit_is_refused_and_one_within_it_is_fast),
        cmocka_unit_test(our_own_received_lines_are_known),
        cmocka_unit_test(the_domain_of_the_first_mailbox_is_found),
        cmocka_unit_test(a_domain_that_is_too_long_is_none),
        cmocka_unit_test(long_header_lines_are_folded_at_blanks_or_refused),
        cmocka_unit_test(dates_agree_with_the_c_library),
        cmocka_unit_test(a_received_field_says_who_how_and_when),
        cmocka_unit_test(a_helo_or_path_with_anything_in_it_stays_inside_its_field),
        cmocka_unit_test(date_and_message_id_are_whole_fields),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
