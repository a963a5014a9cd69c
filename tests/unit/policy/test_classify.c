/*
 * test_classify.c - rules, words, and the verdicts on tests/data/replies.tsv.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/classify.h"
#include "policy/config_load.h"

static struct classify_rules *
rules_of(const char *yaml)
{
    struct classify_rules *rules = classify_rules_new();
    struct config_problems problems = {0};
    if (!classify_rules_parse(rules, span_str(yaml), "test.yaml", &problems))
        fail_msg("%s", problems.n == 0 ? "no problem told" : problems.items[0].text);
    config_problems_release(&problems);
    return rules;
}

static struct classify_rules *
builtin_rules(void)
{
    struct span text = classify_builtin_text();
    CLEANUP(freep) char *yaml = xstrndup(text.p, text.n);
    return rules_of(yaml);
}

static char *
file_read(const char *path)
{
    struct strbuf text = STRBUF_INIT;
    char piece[4096];
    FILE *f = fopen(path, "rb");
    if (f == NULL)
        fail_msg("can't open %s", path);
    for (size_t n; (n = fread(piece, 1, sizeof(piece), f)) > 0;)
        strbuf_add(&text, piece, n);
    fclose(f);
    return strbuf_take(&text);
}

static void
the_compiled_in_rules_are_those_of_the_file(void **state)
{
    (void)state;
    CLEANUP(freep) char *file = file_read(TESTS_DIR "/../etc/replies.yaml");
    /* If this fails: the object of policy/classify_yaml.c is older than etc/replies.yaml. */
    assert_true(span_eq(classify_builtin_text(), span_str(file)));
    struct classify_rules *rules = builtin_rules();
    assert_true(classify_rules_count(rules) > 150);
    classify_rules_free(rules);
}

/* -- the labelled replies -------------------------------------------------------------------------
 */

struct label {
    enum reply_class klass;
    enum reply_action action;
    enum reply_stage stage;
    struct strbuf text;
};

static void
label_parse(struct span line, struct label *ret)
{
    struct span klass = span_cut(&line, '\t'), action = span_cut(&line, '\t');
    struct span stage = span_cut(&line, '\t');
    ret->text = STRBUF_INIT;
    assert_true(reply_class_parse(klass, &ret->klass));
    assert_true(reply_action_parse(action, &ret->action));
    assert_true(reply_stage_parse(stage, &ret->stage));
    for (size_t at; (at = span_find(line, SPAN("\\n"))) != SIZE_MAX;
         line = span_from(line, at + 2)) {
        strbuf_add_span(&ret->text, span_first(line, at));
        strbuf_add_str(&ret->text, "\r\n");
    }
    strbuf_add_span(&ret->text, line);
}

static bool
is_about_content_or_mailbox(enum reply_class klass)
{
    return klass == REPLY_BAD_MAILBOX || klass == REPLY_INACTIVE_MAILBOX ||
           klass == REPLY_QUOTA_FULL || klass == REPLY_MESSAGE_TOO_LARGE ||
           klass == REPLY_CONTENT_SPAM || klass == REPLY_CONTENT_VIRUS ||
           klass == REPLY_CONTENT_POLICY || klass == REPLY_GREYLISTED;
}

static void
labelled_replies_are_classed_right(void **state)
{
    (void)state;
    struct classify_rules *rules = builtin_rules();
    CLEANUP(freep) char *file = file_read(TESTS_DIR "/data/replies.tsv");
    unsigned n[REPLY_CLASS__COUNT] = {0}, right[REPLY_CLASS__COUNT] = {0}, all = 0, all_right = 0;

    for (struct span rest = span_str(file); rest.n > 0;) {
        struct span line = span_cut(&rest, '\n');
        struct label label;
        if (line.n == 0 || line.p[0] == '#')
            continue;
        label_parse(line, &label);
        struct classify_verdict v =
            classify_text(rules, strbuf_span(&label.text), label.stage, SPAN_NONE);
        bool fine = v.klass == label.klass && v.action == label.action;
        if (!fine)
            print_message("%s %s by %s: %.*s\n", reply_class_name(v.klass),
                          reply_action_name(v.action), v.rule, SPAN_ARG(line));
        if (is_about_content_or_mailbox(label.klass))
            assert_int_not_equal(v.action, REPLY_ACTION_REROUTE);
        n[label.klass]++;
        right[label.klass] += fine;
        all++;
        all_right += fine;
        strbuf_release(&label.text);
    }
    for (int i = 0; i < REPLY_CLASS__COUNT; i++) {
        if (n[i] < 3 || right[i] * 100 < n[i] * 80)
            fail_msg("%s: %u of %u", reply_class_name((enum reply_class)i), right[i], n[i]);
    }
    if (all_right * 100 < all * 97)
        fail_msg("%u of %u are right", all_right, all);
    classify_rules_free(rules);
}

/* -- conditions
 * ------------------------------------------------------------------------------------- */

static void
expect(struct classify_rules *rules, const char *response, enum reply_stage stage, const char *mx,
       enum reply_class klass, enum reply_action action, const char *rule)
{
    struct classify_verdict v = classify_text(rules, span_str(response), stage, span_str(mx));
    if (v.klass != klass || v.action != action || strcmp(v.rule, rule) != 0)
        fail_msg("%s: %s %s by %s", response, reply_class_name(v.klass),
                 reply_action_name(v.action), v.rule);
}

static void
a_rule_holds_when_all_its_conditions_do_and_the_first_one_wins(void **state)
{
    (void)state;
    struct classify_rules *rules = rules_of(
        "rules:\n"
        "- {name: a, class: greylisted, match: 'come back', code: 4xx}\n"
        "- {name: b, class: content-spam, match: ['come back', 'go away'], code: '550 554',"
        " stage: [dot, data]}\n"
        "- {name: c, class: ip-blocklisted, enhanced: [5.7.51x, x.2.2], unless: recipient}\n"
        "- {name: d, class: rate-limited, mx: '*.qq.com mx.Example.net', match: limit}\n"
        "- {name: e, class: quota-full, action: bounce, match: 'go away'}\n");
    assert_int_equal(classify_rules_count(rules), 5);
    expect(rules, "450 Come  Back", REPLY_STAGE_RCPT, "", REPLY_GREYLISTED, REPLY_ACTION_RETRY,
           "a");
    expect(rules, "550 come back", REPLY_STAGE_DOT, "", REPLY_CONTENT_SPAM, REPLY_ACTION_BOUNCE,
           "b");
    expect(rules, "554 go away", REPLY_STAGE_DATA, "", REPLY_CONTENT_SPAM, REPLY_ACTION_BOUNCE,
           "b");
    expect(rules, "554 go away", REPLY_STAGE_RCPT, "", REPLY_QUOTA_FULL, REPLY_ACTION_BOUNCE, "e");
    expect(rules, "551 go away", REPLY_STAGE_DOT, "", REPLY_QUOTA_FULL, REPLY_ACTION_BOUNCE, "e");
    expect(rules, "550 5.7.511 x", REPLY_STAGE_RCPT, "", REPLY_IP_BLOCKLISTED, REPLY_ACTION_REROUTE,
           "c");
    expect(rules, "452 4.2.2 x", REPLY_STAGE_RCPT, "", REPLY_IP_BLOCKLISTED, REPLY_ACTION_REROUTE,
           "c");
    expect(rules, "452 4.2.2 the recipient", REPLY_STAGE_RCPT, "", REPLY_QUOTA_FULL,
           REPLY_ACTION_RETRY, "enhanced-code");
    expect(rules, "550 5.7.52 x", REPLY_STAGE_DOT, "", REPLY_CONTENT_POLICY, REPLY_ACTION_BOUNCE,
           "enhanced-code");
    expect(rules, "450 limit", REPLY_STAGE_RCPT, "mx3.QQ.com", REPLY_RATE_LIMITED,
           REPLY_ACTION_SLOW, "d");
    expect(rules, "450 limit", REPLY_STAGE_RCPT, "MX.example.NET", REPLY_RATE_LIMITED,
           REPLY_ACTION_SLOW, "d");
    expect(rules, "450 limit", REPLY_STAGE_RCPT, "notqq.com", REPLY_SERVER_BUSY, REPLY_ACTION_RETRY,
           "reply-code");
    expect(rules, "450 limit", REPLY_STAGE_RCPT, ".qq.com", REPLY_SERVER_BUSY, REPLY_ACTION_RETRY,
           "reply-code");
    classify_rules_free(rules);
}

static void
earlier_rules_override_the_builtin_ones(void **state)
{
    (void)state;
    struct classify_rules *rules =
        rules_of("rules: [{name: mine, class: content-policy, action: slow, match: no such user}]");
    struct config_problems problems = {0};
    assert_true(classify_rules_parse(rules, classify_builtin_text(), "builtin", &problems));
    expect(rules, "550 5.1.1 No such user", REPLY_STAGE_RCPT, "", REPLY_CONTENT_POLICY,
           REPLY_ACTION_SLOW, "mine");
    expect(rules, "550 5.1.1 User unknown", REPLY_STAGE_RCPT, "", REPLY_BAD_MAILBOX,
           REPLY_ACTION_BOUNCE, "mailbox-plain");
    config_problems_release(&problems);
    classify_rules_free(rules);
}

static void
without_rules_the_numbers_decide(void **state)
{
    (void)state;
    struct classify_rules *rules = classify_rules_new();
    static const struct {
        const char *response;
        enum reply_stage stage;
        enum reply_class klass;
        enum reply_action action;
    } cases[] = {
        {"250 2.1.5 ok", REPLY_STAGE_RCPT, REPLY_OK_NOT_BOUNCE, REPLY_ACTION_NONE},
        {"354 go on", REPLY_STAGE_DATA, REPLY_OK_NOT_BOUNCE, REPLY_ACTION_NONE},
        {"550 5.1.1 x", REPLY_STAGE_RCPT, REPLY_BAD_MAILBOX, REPLY_ACTION_BOUNCE},
        {"450 4.1.1 x", REPLY_STAGE_RCPT, REPLY_BAD_MAILBOX, REPLY_ACTION_RETRY},
        {"550 5.2.1 x", REPLY_STAGE_RCPT, REPLY_INACTIVE_MAILBOX, REPLY_ACTION_BOUNCE},
        {"552 5.2.2 x", REPLY_STAGE_RCPT, REPLY_QUOTA_FULL, REPLY_ACTION_RETRY},
        {"552 5.3.4 x", REPLY_STAGE_DOT, REPLY_MESSAGE_TOO_LARGE, REPLY_ACTION_BOUNCE},
        {"550 5.7.1 x", REPLY_STAGE_DOT, REPLY_OTHER, REPLY_ACTION_BOUNCE},
        {"550 x", REPLY_STAGE_RCPT, REPLY_BAD_MAILBOX, REPLY_ACTION_BOUNCE},
        {"550 x", REPLY_STAGE_MAIL, REPLY_CONTENT_POLICY, REPLY_ACTION_BOUNCE},
        {"554 x", REPLY_STAGE_CONNECT, REPLY_IP_BLOCKLISTED, REPLY_ACTION_REROUTE},
        {"554 x", REPLY_STAGE_DOT, REPLY_OTHER, REPLY_ACTION_BOUNCE},
        {"550 5.7.23 x", REPLY_STAGE_MAIL, REPLY_SPF_FAIL, REPLY_ACTION_REROUTE},
        {"550 5.7.25 x", REPLY_STAGE_MAIL, REPLY_PTR_MISSING, REPLY_ACTION_REROUTE},
        {"502 x", REPLY_STAGE_MAIL, REPLY_PROTOCOL_ERROR, REPLY_ACTION_BOUNCE},
        {"530 x", REPLY_STAGE_MAIL, REPLY_AUTH_REQUIRED, REPLY_ACTION_BOUNCE},
        {"421 x", REPLY_STAGE_CONNECT, REPLY_SERVER_BUSY, REPLY_ACTION_RETRY},
        {"x", REPLY_STAGE_UNKNOWN, REPLY_OTHER, REPLY_ACTION_RETRY},
        {"", REPLY_STAGE_UNKNOWN, REPLY_OTHER, REPLY_ACTION_RETRY},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct classify_verdict v =
            classify_text(rules, span_str(cases[i].response), cases[i].stage, SPAN_NONE);
        if (v.klass != cases[i].klass || v.action != cases[i].action)
            fail_msg("%s: %s %s", cases[i].response, reply_class_name(v.klass),
                     reply_action_name(v.action));
    }
    classify_rules_free(rules);
}

static void
a_reply_in_parts_is_judged_like_the_same_reply_as_text(void **state)
{
    (void)state;
    struct classify_rules *rules = builtin_rules();
    struct classify_reply reply = {.code = 550,
                                   .enh = {5, 7, 606},
                                   .text = SPAN("Access denied, banned sending IP [192.0.2.7]"),
                                   .stage = REPLY_STAGE_RCPT};
    struct classify_verdict v = classify_reply(rules, &reply);
    assert_int_equal(v.klass, REPLY_IP_BLOCKLISTED);
    assert_int_equal(v.action, REPLY_ACTION_REROUTE);
    assert_true(v.ip_keyed && v.scope_ip);
    v = classify_text(rules, SPAN("554 5.7.1 [192.0.2.7] blocked using zen.spamhaus.org"),
                      REPLY_STAGE_RCPT, SPAN_NONE);
    assert_true(v.ip_keyed && !v.scope_ip); /* each domain has its own lists */
    v = classify_text(rules, SPAN("550 5.7.606 Access denied, banned sending IP [192.0.2.7]"),
                      REPLY_STAGE_RCPT, SPAN_NONE);
    assert_int_equal(v.klass, REPLY_IP_BLOCKLISTED);

    /* A limit on our address: reroute and slow; one on the sender: slow only. */
    v = classify_text(rules, SPAN("550 Ip frequency limited"), REPLY_STAGE_RCPT, SPAN_NONE);
    assert_true(v.klass == REPLY_RATE_LIMITED && v.ip_keyed && !v.scope_ip);
    v = classify_text(rules, SPAN("550 Sender frequency limited"), REPLY_STAGE_RCPT, SPAN_NONE);
    assert_true(v.klass == REPLY_RATE_LIMITED && !v.ip_keyed);
    classify_rules_free(rules);
}

static void
a_positive_reply_is_none_whatever_its_words(void **state)
{
    (void)state;
    struct classify_rules *rules = builtin_rules();
    static const char *const replies[] = {"250 user unknown", "220 blocked by spamhaus",
                                          "354 mailbox full", "250-virus\r\n250 spam"};
    for (size_t i = 0; i < N_ELEMENTS(replies); i++) {
        struct classify_verdict v =
            classify_text(rules, span_str(replies[i]), REPLY_STAGE_RCPT, SPAN_NONE);
        assert_int_equal(v.klass, REPLY_OK_NOT_BOUNCE);
        assert_int_equal(v.action, REPLY_ACTION_NONE);
    }
    classify_rules_free(rules);
}

/* -- words
 * ------------------------------------------------------------------------------------------- */

static void
words_are_freed_of_codes_and_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
        int code;
        unsigned klass, subject, detail;
    } cases[] = {
        {"550 5.1.1 No  such\tuser", "No such user", 550, 5, 1, 1},
        {"550-5.7.1 one\r\n550-5.7.1   two\r\n550 5.7.1 three", "one two three", 550, 5, 7, 1},
        {"550-5.7.1 one\n550 5.7.1", "one", 550, 5, 7, 1},
        {"smtp; 554 5.4.6 loop", "loop", 554, 5, 4, 6},
        {"550 #5.1.0 rejected", "rejected", 550, 5, 1, 0},
        {"553 sorry (#5.7.1)", "sorry (#5.7.1)", 553, 5, 7, 1},
        {"4.7.1 Resources restricted", "Resources restricted", 0, 4, 7, 1},
        {"550 5.1.1 <spam@relay.example>: gone", "<#addr>: gone", 550, 5, 1, 1},
        {"550 mail to a.b+c@x.example. refused", "mail to #addr. refused", 550, 0, 0, 0},
        {"554 [192.0.2.7] and 2001:db8::1, ip=192.0.2.8.", "[#ip] and #ip, ip=#ip.", 554, 0, 0, 0},
        {"550 version 1.2.3.400 is no address", "version 1.2.3.400 is no address", 550, 0, 0, 0},
        {"421", "", 421, 0, 0, 0},
        {"5501 is no code", "5501 is no code", 0, 0, 0, 0},
        {"", "", 0, 0, 0, 0},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct strbuf words = STRBUF_INIT;
        struct classify_reply reply = {.text = span_str(cases[i].text)};
        classify_normalise(&reply, &words);
        assert_string_equal(words.p == NULL ? "" : words.p, cases[i].words);
        assert_int_equal(reply.code, cases[i].code);
        assert_int_equal(reply.enh.klass, cases[i].klass);
        assert_int_equal(reply.enh.subject, cases[i].subject);
        assert_int_equal(reply.enh.detail, cases[i].detail);
        strbuf_release(&words);
    }
}

static void
long_texts_are_cut_and_runaway_expressions_end(void **state)
{
    (void)state;
    struct strbuf text = STRBUF_INIT, words = STRBUF_INIT;
    strbuf_add_str(&text, "550 ");
    while (text.n < 100000)
        strbuf_add_str(&text, "aaaaaaaa");
    struct classify_reply reply = {.text = strbuf_span(&text)};
    classify_normalise(&reply, &words);
    assert_true(words.n <= CLASSIFY_TEXT_MAX);
    strbuf_release(&words);

    struct classify_rules *rules =
        rules_of("rules: [{name: runaway, class: other, match: '^(a+)+b$'},"
                 " {name: next, class: content-spam, match: aaa}]");
    expect(rules, text.p, REPLY_STAGE_DOT, "", REPLY_CONTENT_SPAM, REPLY_ACTION_BOUNCE, "next");
    classify_rules_free(rules);
    strbuf_release(&text);
}

/* -- mistakes
 * ------------------------------------------------------------------------------------------ */

static void
mistakes_in_rules_are_told_with_their_places(void **state)
{
    (void)state;
    static const struct {
        const char *yaml, *told;
        unsigned line;
    } cases[] = {
        {"rules:\n- {class: other, match: x}", "needs a name", 2},
        {"rules:\n- {name: a, class: nonsense, match: x}", "no class is named \"nonsense\"", 2},
        {"rules:\n- {name: a, class: other}", "needs match, code, enhanced or mx", 2},
        {"rules:\n- {name: a, class: other, match: '('}", "missing closing parenthesis", 2},
        {"rules:\n- {name: a, class: other, match: x, unless: '['}", "unless: ", 2},
        {"rules:\n- {name: a, class: other, code: 5x0}", "expected at most", 2},
        {"rules:\n- {name: a, class: other, code: 55}", "expected at most", 2},
        {"rules:\n- {name: a, class: other, enhanced: 5.1}", "enhanced: ", 2},
        {"rules:\n- {name: a, class: other, match: x, stage: lunch}", "stage: expected", 2},
        {"rules:\n- {name: a, class: other, match: x, action: panic}", "action: expected", 2},
        {"rules:\n- {name: a, class: other, match: x}\n- {name: a, class: other, match: y}",
         "another rule is named \"a\"", 3},
        {"rules:\n- {name: a, class: other, match: x, colour: red}", "unknown key", 2},
        {"rules:\n- {name: a, class: [other], match: x}", "expected text", 2},
        {"rules:\n- {name: a, class: other, match: [x, [y]]}", "expected text", 2},
        {"rules:\n- just text", "expected a rule", 2},
        {"rules: no", "expected a list", 1},
        {"other: []", "expected `rules:`", 1},
        {"rules: [", "", 1},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct classify_rules *rules = classify_rules_new();
        struct config_problems problems = {0};
        assert_false(classify_rules_parse(rules, span_str(cases[i].yaml), "x.yaml", &problems));
        assert_true(problems.n >= 1);
        if (strstr(problems.items[0].text, cases[i].told) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", problems.items[0].text, cases[i].told);
        if (cases[i].told[0] != '\0')
            assert_int_equal(problems.items[0].mark.line, cases[i].line);
        config_problems_release(&problems);
        classify_rules_free(rules);
    }
}

static void
all_mistakes_are_told_at_once(void **state)
{
    (void)state;
    struct classify_rules *rules = classify_rules_new();
    struct config_problems problems = {0};
    assert_false(classify_rules_parse(rules,
                                      SPAN("rules:\n- {name: a, class: x, match: y}\n"
                                           "- {name: b, class: other, match: fine}\n"
                                           "- {name: c, class: other, match: '('}\n"),
                                      "x.yaml", &problems));
    assert_int_equal(problems.n_errors, 2);
    assert_string_equal(problems.items[0].path, "rules[0]");
    assert_string_equal(problems.items[1].path, "rules[2]");
    assert_int_equal(classify_rules_count(rules), 1);
    config_problems_release(&problems);
    classify_rules_free(rules);
}

static void
names_are_read_as_they_are_written(void **state)
{
    (void)state;
    for (int i = 0; i < REPLY_CLASS__COUNT; i++) {
        enum reply_class klass;
        assert_true(reply_class_parse(span_str(reply_class_name((enum reply_class)i)), &klass));
        assert_int_equal(klass, i);
    }
    for (int i = 0; i < REPLY_STAGE__COUNT; i++) {
        enum reply_stage stage;
        assert_true(reply_stage_parse(span_str(reply_stage_name((enum reply_stage)i)), &stage));
        assert_int_equal(stage, i);
    }
    for (int i = REPLY_ACTION_NONE; i <= REPLY_ACTION_BOUNCE; i++) {
        enum reply_action action;
        assert_true(reply_action_parse(span_str(reply_action_name((enum reply_action)i)), &action));
        assert_int_equal(action, i);
    }
    enum reply_class klass;
    assert_false(reply_class_parse(SPAN(""), &klass));
    assert_int_equal(reply_stage_of_phase("greeting"), REPLY_STAGE_CONNECT);
    assert_int_equal(reply_stage_of_phase("body-end"), REPLY_STAGE_DOT);
    assert_int_equal(reply_stage_of_phase("queue"), REPLY_STAGE_UNKNOWN);
    assert_true(reply_class_is_route_refusal(REPLY_GEO_BLOCKED));
    assert_false(reply_class_is_route_refusal(REPLY_CONTENT_SPAM));
    assert_false(reply_class_is_route_refusal(REPLY_RATE_LIMITED));
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_compiled_in_rules_are_those_of_the_file),
        cmocka_unit_test(labelled_replies_are_classed_right),
        cmocka_unit_test(a_rule_holds_when_all_its_conditions_do_and_the_first_one_wins),
        cmocka_unit_test(earlier_rules_override_the_builtin_ones),
        cmocka_unit_test(without_rules_the_numbers_decide),
        cmocka_unit_test(a_reply_in_parts_is_judged_like_the_same_reply_as_text),
        cmocka_unit_test(a_positive_reply_is_none_whatever_its_words),
        cmocka_unit_test(words_are_freed_of_codes_and_addresses),
        cmocka_unit_test(long_texts_are_cut_and_runaway_expressions_end),
        cmocka_unit_test(mistakes_in_rules_are_told_with_their_places),
        cmocka_unit_test(all_mistakes_are_told_at_once),
        cmocka_unit_test(names_are_read_as_they_are_written),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
