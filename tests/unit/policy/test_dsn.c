/*
 * test_dsn.c - reports, read back by Python's email package (read_dsn.py), which prints one fact a
 * line; the tests look for those lines.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/dsn.h"

#define NOW ((msec_t)1700591100000) /* Tue, 21 Nov 2023 18:25:00 +0000 */

#define HEAD                                                                                 \
    "Received: from a by b; c\r\nFrom: Alice <alice@example.org>\r\nTo: bob@example.net\r\n" \
    "Subject: Hello\r\nMessage-ID: <1.2@example.org>\r\n"
#define BODY "Hi Bob.\r\n.dots\r\n"

static const enum dsn_language english[] = {DSN_EN}, both[] = {DSN_EN, DSN_ZH},
                               chinese[] = {DSN_ZH};

static const struct dsn_original plain_original = {
    .sender = SPAN("alice@example.org"),
    .id = SPAN("cn.0123456789abc"),
    .client = SPAN("mail.example.org"),
    .arrived_at = NOW - 5 * DAY,
    .head = SPAN(HEAD),
    .body = SPAN(BODY),
    .size_bytes = sizeof(HEAD) + sizeof(BODY),
};

static const struct dsn_refusal plain_refusal = {
    .route = SPAN("direct"),
    .mta = SPAN("mx1.example.net"),
    .ip = SPAN("198.51.100.3"),
    .at = NOW - MINUTE,
    .code = 550,
    .enh = {5, 1, 1},
    .text = SPAN("5.1.1 <bob@example.net>: no such user here"),
};

static const struct dsn_rcpt plain_rcpt = {
    .address = SPAN("bob@example.net"),
    .action = DSN_ACTION_FAILED,
    .status = {5, 1, 1},
    .last_attempt_at = NOW - MINUTE,
    .refusals = &plain_refusal,
    .n_refusals = 1,
};

static struct dsn_report
report_of(const struct dsn_original *original, const struct dsn_rcpt *rcpts, size_t n)
{
    return (struct dsn_report){
        .kind = DSN_FAILED,
        .languages = english,
        .n_languages = 1,
        .node = SPAN("cn"),
        .hostname = SPAN("relay.example.org"),
        .postmaster = SPAN("postmaster@example.org"),
        .notice_id = SPAN("cn.0123456789abd"),
        .now = NOW,
        .original = original,
        .rcpts = rcpts,
        .n_rcpts = n,
    };
}

static void
build(const struct dsn_report *report, struct strbuf *out, struct dsn_built *built)
{
    struct err err;
    assert_int_equal(dsn_build(report, out, built, &err), ERR_OK);
    assert_true(span_ends(span_first(strbuf_span(out), built->body_at), SPAN("\r\n\r\n")));
}

/* What Python reads, or a failed test; the caller frees it. */
static char *
read_back(struct span message)
{
    char path[] = "/tmp/test_dsn.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, message.p, message.n), message.n);
    close(fd);
    CLEANUP(freep)
    char *command =
        xasprintf("/usr/bin/python3 %s/unit/policy/read_dsn.py %s 2>&1", TESTS_DIR, path);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    struct strbuf text = STRBUF_INIT;
    char piece[4096];
    strbuf_add_byte(&text, '\n');
    for (size_t n; (n = fread(piece, 1, sizeof(piece), f)) > 0;)
        strbuf_add(&text, piece, n);
    int status = pclose(f);
    unlink(path);
    if (status != 0)
        fail_msg("read_dsn.py: %s", text.p);
    return strbuf_take(&text);
}

static char *
build_and_read(const struct dsn_report *report)
{
    struct strbuf out = STRBUF_INIT;
    struct dsn_built built;
    build(report, &out, &built);
    char *facts = read_back(strbuf_span(&out));
    strbuf_release(&out);
    return facts;
}

static bool
has_line(const char *facts, const char *line)
{
    CLEANUP(freep) char *whole = xasprintf("\n%s\n", line);
    return strstr(facts, whole) != NULL;
}

static void
assert_lines(const char *facts, const char *const *lines, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!has_line(facts, lines[i]))
            fail_msg("no line \"%s\" in:%s", lines[i], facts);
}
#define ASSERT_LINES(facts, ...)                            \
    assert_lines(facts, (const char *const[]){__VA_ARGS__}, \
                 N_ELEMENTS(((const char *const[]){__VA_ARGS__})))

/* -- kinds --------------------------------------------------------------------------------------
 */

static void
a_failure_is_reported_in_full(void **state)
{
    (void)state;
    struct dsn_report report = report_of(&plain_original, &plain_rcpt, 1);
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(
        facts, "bare-newlines 0", "defects 0", "type multipart/report",
        "report-type delivery-status", "header Date: Tue, 21 Nov 2023 18:25:00 +0000",
        "header From: Mail Delivery System <MAILER-DAEMON@relay.example.org>",
        "header To: alice@example.org", "header Auto-Submitted: auto-replied",
        "header MIME-Version: 1.0", "header Message-ID: <cn.0123456789abd@relay.example.org>",
        "header In-Reply-To: <1.2@example.org>", "header References: <1.2@example.org>",
        "part 0 text/plain quoted-printable", "part 1 message/delivery-status 7bit",
        "part 2 text/rfc822-headers 7bit", "message Reporting-MTA: dns; relay.example.org",
        "message Received-From-MTA: dns; mail.example.org",
        "message Arrival-Date: Thu, 16 Nov 2023 18:25:00 +0000", "message X-Relayd-Node: cn",
        "message X-Relayd-Id: cn.0123456789abc", "rcpt 0 Final-Recipient: rfc822; bob@example.net",
        "rcpt 0 Action: failed", "rcpt 0 Status: 5.1.1", "rcpt 0 Remote-MTA: dns; mx1.example.net",
        "rcpt 0 Diagnostic-Code: smtp; 550 5.1.1 <bob@example.net>: no such user here",
        "rcpt 0 Last-Attempt-Date: Tue, 21 Nov 2023 18:24:00 +0000",
        "rcpt 0 X-Relayd-Route: direct", "original Subject: Hello",
        "original From: Alice <alice@example.org>",
        "text This is the mail relay relay.example.org (node cn).",
        "text <bob@example.net>: was not delivered",
        "text     Tue, 21 Nov 2023 18:24:00 +0000, by route \"direct\", host mx1.example.net "
        "[198.51.100.3]:",
        "text         550 5.1.1 <bob@example.net>: no such user here",
        "text For help write to postmaster@example.org and give the id cn.0123456789abc.");
    assert_null(strstr(facts, "Will-Retry-Until"));
    assert_null(strstr(facts, "original-body"));
    assert_null(strstr(facts, "Original-Recipient"));
    assert_null(strstr(facts, "Original-Envelope-Id"));
    assert_null(strstr(facts, "header Content-Transfer-Encoding"));
}

/* The reply parser takes the enhanced code out of the text: the report shows the reply whole. */
static void
the_reply_is_quoted_with_its_enhanced_code(void **state)
{
    (void)state;
    struct dsn_refusal refusals[2] = {plain_refusal, plain_refusal};
    struct dsn_rcpt rcpt = plain_rcpt;
    refusals[0].code = 450;
    refusals[0].enh = (struct enh){4, 2, 1};
    refusals[0].text = SPAN("mailbox busy");
    refusals[1].code = 554;
    refusals[1].enh = (struct enh){0, 0, 0};
    refusals[1].text = SPAN("go away");
    rcpt.refusals = refusals;
    rcpt.n_refusals = 2;
    struct dsn_report report = report_of(&plain_original, &rcpt, 1);
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(facts, "rcpt 0 Diagnostic-Code: smtp; 450 4.2.1 mailbox busy",
                 "rcpt 0 X-Relayd-Refusal: direct; mx1.example.net; 554 go away",
                 "text         450 4.2.1 mailbox busy", "text         554 go away");
}

static void
a_delay_names_the_time_until_which_it_is_tried(void **state)
{
    (void)state;
    struct dsn_rcpt rcpt = plain_rcpt;
    struct dsn_refusal refusal = plain_refusal;
    refusal.code = 0;
    refusal.mta = SPAN_NONE;
    refusal.text = SPAN("connect to mx1.example.net: timed out");
    rcpt.action = DSN_ACTION_DELAYED;
    rcpt.status = (struct enh){4, 4, 1};
    rcpt.will_retry_until = NOW + DAY;
    rcpt.refusals = &refusal;
    struct dsn_report report = report_of(&plain_original, &rcpt, 1);
    report.kind = DSN_DELAYED;
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(facts, "rcpt 0 Action: delayed", "rcpt 0 Status: 4.4.1",
                 "rcpt 0 Will-Retry-Until: Wed, 22 Nov 2023 18:25:00 +0000",
                 "rcpt 0 Diagnostic-Code: X-relayd; connect to mx1.example.net: timed out",
                 "text     It will be tried until Wed, 22 Nov 2023 18:25:00 +0000.",
                 "text     Tue, 21 Nov 2023 18:24:00 +0000, by route \"direct\":");
    assert_null(strstr(facts, "Remote-MTA"));
}

static void
success_tells_delivered_from_relayed(void **state)
{
    (void)state;
    struct dsn_rcpt rcpts[] = {plain_rcpt, plain_rcpt};
    rcpts[0].action = DSN_ACTION_RELAYED;
    rcpts[1].action = DSN_ACTION_DELIVERED;
    rcpts[0].status = rcpts[1].status = (struct enh){0, 0, 0};
    rcpts[0].final_log_id = SPAN("4Sb1xq2");
    rcpts[0].n_refusals = rcpts[1].n_refusals = 0;
    struct dsn_original original = plain_original;
    original.ret_full = true; /* headers only all the same: RFC 3461 section 4.3 */
    struct dsn_report report = report_of(&original, rcpts, 2);
    report.kind = DSN_SUCCESS;
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(facts, "rcpt 0 Action: relayed", "rcpt 0 Status: 2.0.0",
                 "rcpt 0 Final-Log-ID: 4Sb1xq2", "rcpt 1 Action: delivered", "rcpt 1 Status: 2.0.0",
                 "part 2 text/rfc822-headers 7bit",
                 "header Subject: Delivered: your message has been passed on");
}

static void
the_class_of_a_status_fits_the_action(void **state)
{
    (void)state;
    struct dsn_rcpt rcpts[] = {plain_rcpt, plain_rcpt, plain_rcpt};
    rcpts[0].status = (struct enh){4, 2, 2}; /* given up by us */
    rcpts[1].status = (struct enh){4, 2, 2}; /* its time ran out: RFC 3464 section 2.3.4 */
    rcpts[1].expired = true;
    rcpts[2].status = (struct enh){0, 0, 0};
    struct dsn_report report = report_of(&plain_original, rcpts, 3);
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(facts, "rcpt 0 Status: 5.2.2", "rcpt 1 Status: 4.2.2", "rcpt 2 Status: 5.0.0",
                 "text     Given up: the time for delivery ran out.");
}

static void
every_route_that_refused_is_quoted(void **state)
{
    (void)state;
    struct dsn_refusal refusals[] = {plain_refusal, plain_refusal, plain_refusal};
    refusals[1].route = SPAN("us");
    refusals[1].mta = SPAN("mail-us.example.org");
    refusals[1].text = SPAN("5.7.1 blocked by the list");
    refusals[2].route = SPAN("jp");
    refusals[2].code = 0;
    refusals[2].mta = SPAN_NONE;
    refusals[2].text = SPAN("connection refused");
    struct dsn_rcpt rcpt = plain_rcpt;
    rcpt.refusals = refusals;
    rcpt.n_refusals = 3;
    struct dsn_report report = report_of(&plain_original, &rcpt, 1);
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(facts,
                 "rcpt 0 X-Relayd-Refusal: us; mail-us.example.org; 550 5.7.1 blocked by the list",
                 "rcpt 0 X-Relayd-Refusal: jp; ; connection refused",
                 "text         550 5.7.1 blocked by the list", "text         connection refused");
}

/* -- RET, ORCPT, ENVID, NOTIFY -------------------------------------------------------------------
 */

static void
ret_full_returns_the_message_unless_it_is_large(void **state)
{
    (void)state;
    struct dsn_original original = plain_original;
    original.ret_full = true;
    struct dsn_report report = report_of(&original, &plain_rcpt, 1);
    CLEANUP(freep) char *small = build_and_read(&report);
    ASSERT_LINES(small, "part 2 message/rfc822 7bit", "original Subject: Hello",
                 "original-body Hi Bob.", "original-body .dots",
                 "text Your message follows in the third part.");

    original.size_bytes = DSN_FULL_MAX_BYTES + 1;
    CLEANUP(freep) char *large = build_and_read(&report);
    ASSERT_LINES(large, "part 2 text/rfc822-headers 7bit",
                 "text The headers of your message follow in the third part.");

    original.size_bytes = plain_original.size_bytes + 10; /* not all of it is at hand */
    CLEANUP(freep) char *absent = build_and_read(&report);
    ASSERT_LINES(absent, "part 2 text/rfc822-headers 7bit");
}

static void
a_large_header_block_is_cut_between_fields(void **state)
{
    (void)state;
    struct strbuf head = STRBUF_INIT, out = STRBUF_INIT;
    struct dsn_built built;
    while (head.n < 3 * DSN_HEAD_MAX_BYTES)
        strbuf_add_str(&head, "X-Filler: a line that\r\n goes on\r\n");
    struct dsn_original original = plain_original;
    original.head = strbuf_span(&head);
    struct dsn_report report = report_of(&original, &plain_rcpt, 1);
    build(&report, &out, &built);
    assert_true(out.n < DSN_HEAD_MAX_BYTES + 8192);
    assert_non_null(strstr(out.p, " goes on\r\n\r\n--=_"));
    strbuf_release(&head);
    strbuf_release(&out);
}

static void
orcpt_and_envid_come_back_decoded(void **state)
{
    (void)state;
    struct dsn_original original = plain_original;
    original.envid = SPAN("QQ314159+2B1");
    struct dsn_rcpt rcpts[] = {plain_rcpt, plain_rcpt, plain_rcpt};
    rcpts[0].orcpt = SPAN("rfc822;bob+2Btag@example.com");
    rcpts[1].orcpt = SPAN("rfc822;bad+zz@example.com");
    rcpts[2].orcpt = SPAN("bad type;x@y");
    struct dsn_report report = report_of(&original, rcpts, 3);
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(facts, "message Original-Envelope-Id: QQ314159+1",
                 "rcpt 0 Original-Recipient: rfc822; bob+tag@example.com",
                 "rcpt 0 Final-Recipient: rfc822; bob@example.net",
                 "rcpt 1 Original-Recipient: rfc822; bad+zz@example.com",
                 "rcpt 2 Final-Recipient: rfc822; bob@example.net");
    assert_null(strstr(facts, "rcpt 2 Original-Recipient"));
}

static void
notify_and_the_null_sender_decide_who_gets_a_report(void **state)
{
    (void)state;
    static const struct {
        unsigned notify;
        bool failed, delayed, success;
    } cases[] = {
        {0, true, true, false},
        {DSN_NOTIFY_NEVER, false, false, false},
        {DSN_NOTIFY_FAILURE, true, false, false},
        {DSN_NOTIFY_DELAY, false, true, false},
        {DSN_NOTIFY_SUCCESS, false, false, true},
        {DSN_NOTIFY_SUCCESS | DSN_NOTIFY_FAILURE | DSN_NOTIFY_DELAY, true, true, true},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        assert_int_equal(dsn_wanted(DSN_FAILED, cases[i].notify, false), cases[i].failed);
        assert_int_equal(dsn_wanted(DSN_DELAYED, cases[i].notify, false), cases[i].delayed);
        assert_int_equal(dsn_wanted(DSN_SUCCESS, cases[i].notify, false), cases[i].success);
        for (enum dsn_kind kind = DSN_FAILED; kind <= DSN_SUCCESS; kind++)
            assert_false(dsn_wanted(kind, cases[i].notify, true));
    }
}

static void
a_report_needs_a_sender_and_a_bounded_number_of_recipients(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    struct dsn_built built;
    struct err err;
    struct dsn_original original = plain_original;
    struct dsn_report report = report_of(&original, &plain_rcpt, 0);
    assert_int_equal(dsn_build(&report, &out, &built, &err), ERR_INVAL);
    report.n_rcpts = DSN_RCPTS_MAX + 1;
    assert_int_equal(dsn_build(&report, &out, &built, &err), ERR_LIMIT);
    report.n_rcpts = 1;
    original.sender = SPAN_NONE;
    assert_int_equal(dsn_build(&report, &out, &built, &err), ERR_INVAL);
    assert_int_equal(out.n, 0);
}

static void
a_thousand_recipients_share_one_report(void **state)
{
    (void)state;
    static struct dsn_rcpt rcpts[DSN_RCPTS_MAX];
    for (size_t i = 0; i < DSN_RCPTS_MAX; i++)
        rcpts[i] = plain_rcpt;
    struct dsn_report report = report_of(&plain_original, rcpts, DSN_RCPTS_MAX);
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(facts, "rcpt 999 Action: failed",
                 "text ... and 950 more: see the second part of this report.");
}

/* -- languages, UTF-8 -----------------------------------------------------------------------------
 */

static void
languages_follow_one_another_in_their_order(void **state)
{
    (void)state;
    struct dsn_report report = report_of(&plain_original, &plain_rcpt, 1);
    report.languages = both;
    report.n_languages = 2;
    CLEANUP(freep) char *facts = build_and_read(&report);
    const char *en = strstr(facts, "text This is the mail relay relay.example.org");
    const char *zh = strstr(facts, "text 这里是邮件中继服务器 relay.example.org（节点 cn）。");
    assert_true(en != NULL && zh != NULL && en < zh);
    ASSERT_LINES(facts, "defects 0", "part 0 text/plain quoted-printable",
                 "header Subject: Undeliverable: your message was not delivered",
                 "text <bob@example.net>: 未能送达");

    report.languages = chinese;
    report.n_languages = 1;
    for (enum dsn_kind kind = DSN_FAILED; kind <= DSN_SUCCESS; kind++) {
        static const char *const subjects[] = {"header Subject: 退信：您的邮件未能送达",
                                               "header Subject: 延迟：您的邮件尚未送达",
                                               "header Subject: 送达：您的邮件已转交"};
        report.kind = kind;
        CLEANUP(freep) char *text = build_and_read(&report);
        ASSERT_LINES(text, subjects[kind], "defects 0");
        assert_null(strstr(text, "This is the mail relay"));
    }
}

static void
utf8_addresses_make_an_internationalised_report(void **state)
{
    (void)state;
    struct dsn_original original = plain_original;
    struct dsn_refusal refusal = plain_refusal;
    refusal.text = SPAN("5.1.1 用户不存在");
    original.sender = SPAN("发件人@example.org");
    original.head = SPAN("Subject: 你好\r\nFrom: 发件人@example.org\r\n");
    struct dsn_rcpt rcpt = plain_rcpt;
    rcpt.address = SPAN("收件人@example.net");
    rcpt.refusals = &refusal;
    struct dsn_report report = report_of(&original, &rcpt, 1);
    struct strbuf out = STRBUF_INIT;
    struct dsn_built built;
    build(&report, &out, &built);
    assert_true(built.smtputf8 && built.is_8bit);
    CLEANUP(freep) char *facts = read_back(strbuf_span(&out));
    ASSERT_LINES(facts, "report-type global-delivery-status", "header To: 发件人@example.org",
                 "part 1 message/global-delivery-status 8bit", "part 2 message/global-headers 8bit",
                 "header Content-Transfer-Encoding: 8bit",
                 "rcpt 0 Final-Recipient: utf-8; 收件人@example.net",
                 "rcpt 0 Diagnostic-Code: smtp; 550 5.1.1 用户不存在", "original Subject: 你好");
    strbuf_release(&out);

    original.ret_full = true;
    original.has_8bit = true;
    original.size_bytes = original.head.n + original.body.n + 2;
    CLEANUP(freep) char *full = build_and_read(&report);
    ASSERT_LINES(full, "part 2 message/global 8bit");

    original.sender = plain_original.sender; /* only a recipient: the header stays ASCII */
    build(&report, &out, &built);
    assert_true(built.is_8bit && !built.smtputf8);
    strbuf_release(&out);
}

static void
an_8bit_original_makes_an_8bit_report(void **state)
{
    (void)state;
    struct dsn_original original = plain_original;
    original.head = SPAN("Subject: gr\xfc\xdf\r\n");
    original.has_8bit = true;
    struct dsn_report report = report_of(&original, &plain_rcpt, 1);
    struct strbuf out = STRBUF_INIT;
    struct dsn_built built;
    build(&report, &out, &built);
    assert_true(built.is_8bit && !built.smtputf8);
    assert_non_null(strstr(out.p, "Subject: gr\xfc\xdf\r\n"));
    assert_non_null(strstr(out.p, "text/rfc822-headers\r\nContent-Transfer-Encoding: 8bit\r\n"));
    strbuf_release(&out);
}

/* -- what peers may write
 * --------------------------------------------------------------------------- */

static void
a_hostile_reply_adds_no_field_line_or_part(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "no\r\nX-Injected: 1\r\n\r\nFinal-Recipient: rfc822; evil@example.com\r\nAction: delivered",
        "no\nX-Injected: 1",
        "no\rX-Injected: 1",
        "\r\n\r\n--=_cn.0123456789abd.0--\r\n\r\nX-Injected: 1",
        "\x1b[31mred\x07\x7f\x01",
        "\xc2\x9b"
        "31m \xe2\x80\xae"
        "desrever \xff\xfe\xc0\xaf",
    };
    for (size_t i = 0; i < N_ELEMENTS(texts); i++) {
        struct dsn_refusal refusal = plain_refusal;
        refusal.text = refusal.mta = refusal.route = span_str(texts[i]);
        struct dsn_rcpt rcpt = plain_rcpt;
        struct dsn_refusal refusals[] = {refusal, refusal};
        rcpt.refusals = refusals;
        rcpt.n_refusals = 2;
        rcpt.final_log_id = refusal.text;
        rcpt.orcpt = SPAN("rfc822;a+0D+0AX-Injected:+201@b");
        struct dsn_original original = plain_original;
        original.client = refusal.text;
        original.envid = SPAN("a+0D+0AX-Injected:+201");
        struct dsn_report report = report_of(&original, &rcpt, 1);
        report.languages = both;
        report.n_languages = 2;
        struct strbuf out = STRBUF_INIT;
        struct dsn_built built;
        build(&report, &out, &built);
        for (size_t j = 0; j < out.n; j++) {
            unsigned char c = (unsigned char)out.p[j];
            if ((c < ' ' && c != '\r' && c != '\n' && c != '\t') || c > 126)
                fail_msg("octet %02x of reply %zu got through", c, i);
        }
        CLEANUP(freep) char *facts = read_back(strbuf_span(&out));
        ASSERT_LINES(facts, "defects 0", "bare-newlines 0", "rcpt 0 Action: failed",
                     "part 2 text/rfc822-headers 7bit");
        assert_null(strstr(facts, "X-Injected: 1\n\n"));
        assert_null(strstr(facts, "rcpt 0 X-Injected"));
        assert_null(strstr(facts, "message X-Injected"));
        assert_null(strstr(facts, "header X-Injected"));
        assert_null(strstr(facts, "rcpt 1"));
        assert_null(strstr(facts, "part 3"));
        assert_null(strstr(facts, "\xe2\x80\xae"));
        assert_null(strstr(facts, "\xc2\x9b"));
        strbuf_release(&out);
    }
}

static void
no_line_is_longer_than_998_and_all_is_bounded(void **state)
{
    (void)state;
    struct strbuf huge = STRBUF_INIT, out = STRBUF_INIT;
    while (huge.n < 100000)
        strbuf_add_byte(&huge, '\xff');
    struct dsn_refusal refusal = plain_refusal;
    refusal.text = refusal.mta = refusal.route = refusal.ip = strbuf_span(&huge);
    struct dsn_refusal refusals[] = {refusal, refusal, refusal, refusal};
    struct dsn_rcpt rcpt = plain_rcpt;
    rcpt.refusals = refusals;
    rcpt.n_refusals = 4;
    rcpt.final_log_id = strbuf_span(&huge);
    struct dsn_report report = report_of(&plain_original, &rcpt, 1);
    struct dsn_built built;
    build(&report, &out, &built);
    assert_true(out.n < 60000);
    for (struct span rest = strbuf_span(&out); rest.n > 0;)
        assert_true(span_cut(&rest, '\n').n <= 999);
    CLEANUP(freep) char *facts = read_back(strbuf_span(&out));
    ASSERT_LINES(facts, "defects 0", "rcpt 0 Action: failed");
    strbuf_release(&huge);
    strbuf_release(&out);
}

static void
the_boundary_is_not_in_the_original(void **state)
{
    (void)state;
    struct dsn_original original = plain_original;
    original.ret_full = true;
    original.body = SPAN("--=_cn.0123456789abd.0\r\nContent-Type: text/plain\r\n\r\nfake\r\n"
                         "--=_cn.0123456789abd.1--\r\n");
    original.size_bytes = original.head.n + original.body.n + 2;
    struct dsn_report report = report_of(&original, &plain_rcpt, 1);
    CLEANUP(freep) char *facts = build_and_read(&report);
    ASSERT_LINES(facts, "defects 0", "part 2 message/rfc822 7bit",
                 "original-body --=_cn.0123456789abd.1--");
    assert_null(strstr(facts, "part 3"));
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_is_reported_in_full),
        cmocka_unit_test(the_reply_is_quoted_with_its_enhanced_code),
        cmocka_unit_test(a_delay_names_the_time_until_which_it_is_tried),
        cmocka_unit_test(success_tells_delivered_from_relayed),
        cmocka_unit_test(the_class_of_a_status_fits_the_action),
        cmocka_unit_test(every_route_that_refused_is_quoted),
        cmocka_unit_test(ret_full_returns_the_message_unless_it_is_large),
        cmocka_unit_test(a_large_header_block_is_cut_between_fields),
        cmocka_unit_test(orcpt_and_envid_come_back_decoded),
        cmocka_unit_test(notify_and_the_null_sender_decide_who_gets_a_report),
        cmocka_unit_test(a_report_needs_a_sender_and_a_bounded_number_of_recipients),
        cmocka_unit_test(a_thousand_recipients_share_one_report),
        cmocka_unit_test(languages_follow_one_another_in_their_order),
        cmocka_unit_test(utf8_addresses_make_an_internationalised_report),
        cmocka_unit_test(an_8bit_original_makes_an_8bit_report),
        cmocka_unit_test(a_hostile_reply_adds_no_field_line_or_part),
        cmocka_unit_test(no_line_is_longer_than_998_and_all_is_bounded),
        cmocka_unit_test(the_boundary_is_not_in_the_original),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
