/*
 * test_classify.c - rules, words, and the verdicts on labelled replies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/classify_internal.h"
#include "policy/config_load.h"
#include "tests/unit/policy/replies.h"

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

static void
public_replies_are_judged_right_and_none_is_rerouted_wrongly(void **state)
{
    (void)state;
    struct classify_rules *rules = builtin_rules();
    struct labelled_replies replies = labelled_replies_read(TESTS_DIR "/data/replies-open.jsonl");
    size_t right = 0, missed = 0;
    assert_true(replies.n > 600);
    for (size_t i = 0; i < replies.n; i++) {
        const struct labelled_reply *reply = &replies.items[i];
        struct classify_verdict v = classify_text(rules, reply->response, reply->stage, SPAN_NONE);
        if (decision_of(reply, &v) == DECISION_WRONGLY_REROUTED)
            fail_msg("rerouted by %s: %.*s", v.rule, SPAN_ARG(reply->response));
        right += v.klass == reply->klass;
        missed += decision_of(reply, &v) == DECISION_MISSED;
    }
    if (right * 100 < replies.n * 97 || missed * 100 > replies.n)
        fail_msg("%zu of %zu classes are right, %zu reroutes were missed", right, replies.n,
                 missed);
    labelled_replies_release(&replies);
    classify_rules_free(rules);
}

/* -- one decision in many forms -------------------------------------------------------------------
 */

/* What is about the message, the recipient or the sender's domain, though it speaks of our address
 * or of a list. */
static const char *const never_rerouted[] = {
    "554 5.7.1 Message from [192.0.2.7] contains a URL listed in dbl.spamhaus.org",
    "550 5.7.1 A link in your message is on the Spamhaus DBL; client [192.0.2.7]",
    "554 5.7.1 Blocked: the domain shop.example in the message body is listed by multi.surbl.org",
    "550 5.7.1 URL in body blacklisted by URIBL, see http://lookup.uribl.com/?domain=shop.example",
    "554 5.7.1 Spam score 12.4 exceeds 8, message from 192.0.2.7 rejected",
    "550 5.7.1 Message scored 9.1 by SpamAssassin (RCVD_IN_XBL,URIBL_BLACK), rejected",
    "554 5.7.1 This email from IP 192.0.2.7 was rejected: the message was detected as spam",
    "554 5.7.1 virus Eicar-Test-Signature found, mail from 192.0.2.7 refused",
    "550 5.7.0 phishing URL detected in message from host 192.0.2.7",
    "550 Subject contains blocked words, host 192.0.2.7",
    "550 5.7.1 Attachment type .exe blocked for 192.0.2.7",
    "552 5.3.4 Message too big for 192.0.2.7",
    "550 5.1.1 <joe@example.net>: user unknown (connected from 192.0.2.7)",
    "550 5.1.1 No such user joe; your IP 192.0.2.7 has been logged",
    "550 5.2.1 Mailbox disabled. Your IP is 192.0.2.7",
    "552 5.2.2 Mailbox full (client 192.0.2.7)",
    "550 5.7.1 You have been blocked by the recipient, 192.0.2.7",
    "550 5.7.1 Your sender address is on the recipient's personal block list",
    "550 5.7.1 The reputation of your domain is too low to accept this message from 192.0.2.7",
    "554 5.7.1 rejected due to the poor reputation of a domain used in message transfer",
    "550 5.7.1 Sender domain shop.example is listed by dbl.spamhaus.org",
    "554 5.7.1 From domain is blacklisted in rhsbl.example.org",
    "554 5.7.9 Message not accepted due to DMARC policy, client 192.0.2.7",
    "550 5.7.1 DKIM signature of shop.example did not verify [192.0.2.7]",
    "501 5.5.2 HELO name has invalid syntax from [192.0.2.7]",
    "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname",
    "554 5.7.1 <joe@example.net>: Relay access denied for 192.0.2.7",
    "535 5.7.8 Authentication failed for host [192.0.2.7]",
    "451 4.7.1 Greylisted, your IP 192.0.2.7 is new here; try again in 300 seconds",
    "550 an MX or SRV record indicated no SMTP service",
    "550 5.1.1 收件人不存在",
    "552 5.2.2 用户邮箱已满",
    "550 5.7.1 邮件内容被拒绝",
    "550 5.7.1 Nachricht als Spam abgelehnt",
    "550 5.1.1 Utilisateur inconnu",
    "550 5.1.1 Usuario desconocido",
    "550 5.1.1 нет такого пользователя",
};

/* What is about our address, net or name. */
static const char *const always_rerouted[] = {
    "554 5.7.1 Service unavailable; Client host [192.0.2.7] blocked using bl.example.net",
    "550 5.7.1 Your IP address 192.0.2.7 is listed at dnsbl.example.org",
    "554 5.7.1 [192.0.2.7] rejected: listed on our internal blocklist",
    "550 JunkMail rejected - mx.shop.example [192.0.2.7]:4711 is in an RBL",
    "550 5.7.1 Connections from 192.0.2.7 are refused because of its poor reputation",
    "421 4.7.0 [192.0.2.7] We have detected an unusual rate of mail originating from your IP",
    "554 5.7.1 <mx.shop.example[192.0.2.7]>: Client host rejected: go away",
    "554 5.3.2 Sorry, we do not accept connections from your IP",
    "554 5.7.1 Mail from China is not accepted here",
    "550 5.7.1 Your country (CN) is blocked by this server",
    "450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.7]",
    "554 5.7.1 192.0.2.7 does not have a valid PTR record",
    "421 too many connections from your IP",
    "550 Ip frequency limited",
    "550 5.7.1 Votre adresse IP 192.0.2.7 est sur liste noire",
    "550 5.7.1 Ihre IP-Adresse 192.0.2.7 ist gesperrt",
    "550 5.7.1 Su IP 192.0.2.7 esta en lista negra",
    "550 5.7.1 ваш IP 192.0.2.7 заблокирован",
    "550 5.7.1 您的IP地址已被列入黑名单",
};

static void
put_upper(struct strbuf *out, struct span text)
{
    for (size_t i = 0; i < text.n; i++)
        strbuf_add_byte(out,
                        text.p[i] >= 'a' && text.p[i] <= 'z' ? (char)(text.p[i] - 32) : text.p[i]);
}

static void
put_spread(struct strbuf *out, struct span text)
{
    for (size_t i = 0; i < text.n; i++) {
        strbuf_add_byte(out, text.p[i]);
        if (text.p[i] == ' ')
            strbuf_add_str(out, i % 2 == 0 ? "  " : "\t ");
    }
    strbuf_add_str(out, "  \r\n");
}

/* Every second blank of the words becomes a new line with the codes before it. */
static void
put_lines(struct strbuf *out, struct span text)
{
    size_t n = 4;
    while (n < text.n && (ascii_digit(text.p[n]) || text.p[n] == '.'))
        n++;
    unsigned blanks = 0;
    strbuf_add(out, text.p, 3);
    strbuf_add_byte(out, '-');
    for (size_t i = 4; i < text.n; i++) {
        if (text.p[i] != ' ' || i <= n || blanks++ % 2 == 0) {
            strbuf_add_byte(out, text.p[i]);
            continue;
        }
        strbuf_add_str(out, "\r\n");
        strbuf_add(out, text.p, 3);
        strbuf_add_byte(out, '-');
        strbuf_add(out, text.p + 4, n - 4);
        strbuf_add_byte(out, ' ');
    }
}

static void
put_ticket(struct strbuf *out, struct span text)
{
    strbuf_add_span(out, text);
    strbuf_add_str(out, " <a href=\"https://help.example/?c=17&t=9#x\">help</a> "
                        "[4XyZ12.mx3.example 2026-01-02T03:04:05.678Z 08DE60E9D47B9C8B] - esmtp");
}

static void
put_code_twice(struct strbuf *out, struct span text)
{
    strbuf_add(out, text.p, 3);
    strbuf_add_byte(out, ' ');
    strbuf_add_span(out, text);
}

static void
put_ipv6(struct strbuf *out, struct span text)
{
    for (size_t at; (at = span_find(text, SPAN("192.0.2.7"))) != SIZE_MAX;
         text = span_from(text, at + 9)) {
        strbuf_add_span(out, span_first(text, at));
        strbuf_add_str(out, "2001:db8:0:17::7");
    }
    strbuf_add_span(out, text);
}

static void
put_as_is(struct strbuf *out, struct span text)
{
    strbuf_add_span(out, text);
}

static void
expect_decision(struct classify_rules *rules, const char *text, bool reroute)
{
    static void (*const forms[])(struct strbuf *, struct span) = {
        put_as_is, put_upper, put_spread, put_lines, put_ticket, put_code_twice, put_ipv6,
    };
    static const enum reply_stage stages[] = {REPLY_STAGE_UNKNOWN, REPLY_STAGE_RCPT,
                                              REPLY_STAGE_DOT};
    for (size_t i = 0; i < N_ELEMENTS(forms); i++) {
        struct strbuf form = STRBUF_INIT;
        forms[i](&form, span_str(text));
        for (size_t k = 0; k < N_ELEMENTS(stages); k++) {
            struct classify_verdict v =
                classify_text(rules, strbuf_span(&form), stages[k], SPAN_NONE);
            if ((v.action == REPLY_ACTION_REROUTE) != reroute)
                fail_msg("%s by %s at %s: %s", reply_action_name(v.action), v.rule,
                         reply_stage_name(stages[k]), form.p);
        }
        strbuf_release(&form);
    }
}

static void
a_decision_is_the_same_in_every_form_of_the_text(void **state)
{
    (void)state;
    struct classify_rules *rules = builtin_rules();
    for (size_t i = 0; i < N_ELEMENTS(never_rerouted); i++)
        expect_decision(rules, never_rerouted[i], false);
    for (size_t i = 0; i < N_ELEMENTS(always_rerouted); i++)
        expect_decision(rules, always_rerouted[i], true);
    classify_rules_free(rules);
}

/* -- what is not tried --------------------------------------------------------------------------
 */

/* A piece that the index rules out would not have matched. */
static void
expect_index_sound(struct classify_rules *rules, struct span text)
{
    struct strbuf words = STRBUF_INIT;
    struct classify_reply reply = {.text = text};
    classify_normalise(&reply, &words);
    memcpy(rules->hits, rules->always, (rules->n_pieces + 63) / 64 * sizeof(rules->hits[0]));
    classify_index_find(rules->index, strbuf_span(&words), rules->hits);
    for (size_t i = 0; i < rules->n_pieces; i++) {
        const struct piece *piece = &rules->pieces[i];
        if ((rules->hits[i / 64] >> i % 64 & 1) != 0 || piece->match == NULL)
            continue;
        if (pcre2_match(piece->match, (PCRE2_SPTR)(words.p == NULL ? "" : words.p), words.n, 0, 0,
                        rules->match_data, rules->context) >= 0)
            fail_msg("%s was not tried on: %.*s", piece->rule->name, SPAN_ARG(text));
    }
    strbuf_release(&words);
}

static void
what_the_literals_rule_out_would_not_have_matched(void **state)
{
    (void)state;
    struct classify_rules *rules = builtin_rules();
    struct labelled_replies replies = labelled_replies_read(TESTS_DIR "/data/replies-open.jsonl");
    for (size_t i = 0; i < replies.n; i++)
        expect_index_sound(rules, replies.items[i].response);
    for (size_t i = 0; i < N_ELEMENTS(never_rerouted); i++)
        expect_index_sound(rules, span_str(never_rerouted[i]));
    for (size_t i = 0; i < N_ELEMENTS(always_rerouted); i++)
        expect_index_sound(rules, span_str(always_rerouted[i]));
    labelled_replies_release(&replies);
    classify_rules_free(rules);
}

static void
put_branch(struct span branch, const struct classify_literal *literals, size_t n, void *arg)
{
    struct strbuf *out = arg;
    strbuf_add_span(out, branch);
    strbuf_add_byte(out, '{');
    for (size_t i = 0; i < n; i++) {
        strbuf_add_str(out, i == 0 ? "" : "/");
        strbuf_add(out, literals[i].text, literals[i].n);
    }
    strbuf_add_byte(out, '}');
}

static void
expressions_are_cut_into_branches_with_literals(void **state)
{
    (void)state;
    static const struct {
        const char *regex, *branches;
    } cases[] = {
        {"User unknown", "User unknown{user unknown}"},
        {"one|two", "one{one}two{two}"},
        {"(?:one|two)|(?:(?:three))", "one{one}two{two}three{three}"},
        {"no such (user|host)", "no such (user|host){no such }"},
        {"a (blocked|banned|listed) b", "a (blocked|banned|listed) b{blocked/banned/listed}"},
        {"(is )?(ok|fine)", "(is )?(ok|fine){}"},
        {"gr[ea]y ?list", "gr[ea]y ?list{list}"},
        {"colou?rs?less", "colou?rs?less{colo}"},
        {"abc+def*ghi{2}jkl{0,3}mno", "abc+def*ghi{2}jkl{0,3}mno{abc}"},
        {"\\bspam\\.example\\b", "\\bspam\\.example\\b{spam.example}"},
        {"(?!not )listed(?<=x)", "(?!not )listed(?<=x){listed}"},
        {"[]|a]unknown", "[]|a]unknown{unknown}"},
        {"ab", "ab{}"},
        {"a very long text that has no end here", "a very long text that has no end here"
                                                  "{a very long text that h}"},
        {"one|", "one{one}{}"},
        {"(?i)one|two", "(?i)one|two{}"},
        {"(one)\\1", "(one)\\1{}"},
        {"\\Qa|b\\E", "\\Qa|b\\E{}"},
        {"[[:alpha:]]one", "[[:alpha:]]one{}"},
        {"one\\x41two", "one\\x41two{}"},
        {"one{two", "one{two{}"},
        {"(?<name>one)", "(?<name>one){}"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct strbuf out = STRBUF_INIT;
        classify_branches(span_str(cases[i].regex), put_branch, &out);
        assert_string_equal(out.p, cases[i].branches);
        strbuf_release(&out);
    }
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

/* The same refusal as a 4xx: its code and the enhanced codes behind it. */
static void
put_temporary(struct strbuf *out, struct span text)
{
    for (size_t i = 0; i < text.n; i++) {
        struct span rest = span_from(text, i);
        bool starts = i == 0 || text.p[i - 1] == '\n';
        bool enhanced = i >= 4 && (text.p[i - 1] == ' ' || text.p[i - 1] == '-');
        bool five = text.p[i] == '5' && (starts || (enhanced && span_starts(rest, SPAN("5."))));
        strbuf_add_byte(out, five ? '4' : text.p[i]);
    }
}

static void
expect_no_bounce(struct classify_rules *rules, struct span text, enum reply_stage stage)
{
    struct strbuf form = STRBUF_INIT;
    put_temporary(&form, text);
    struct classify_verdict v = classify_text(rules, strbuf_span(&form), stage, SPAN_NONE);
    if (form.p[0] == '4' && v.action == REPLY_ACTION_BOUNCE)
        fail_msg("given up by %s: %s", v.rule, form.p);
    strbuf_release(&form);
}

static void
nothing_built_in_gives_up_at_a_4xx(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "552 5.3.4 Message too large",
        "4.2.2 out of storage space and inactive",
        "552 5.2.2 https://support.google.com/mail/?p=OverQuotaPerm",
        "552 5.2.2 extended quota violation",
        "554 MI:NHD mx.example",
        "504 HELO must contain a dot",
        "501 invalid helo name",
        "550 message expired, giving up",
        "550 5.7.1 very poor reputation of the sending domain",
        "550 5.7.1 very low reputation of the sending domain",
    };
    struct classify_rules *rules = builtin_rules();
    struct labelled_replies replies = labelled_replies_read(TESTS_DIR "/data/replies-open.jsonl");
    for (size_t i = 0; i < N_ELEMENTS(texts); i++)
        expect_no_bounce(rules, span_str(texts[i]), REPLY_STAGE_RCPT);
    for (size_t i = 0; i < replies.n; i++)
        expect_no_bounce(rules, replies.items[i].response, replies.items[i].stage);
    for (uint16_t subject = 0; subject < 8; subject++) {
        for (uint16_t detail = 0; detail < 40; detail++) {
            const struct classify_reply reply = {.code = 450, .enh = {4, subject, detail}};
            assert_int_not_equal(classify_reply(rules, &reply).action, REPLY_ACTION_BOUNCE);
        }
    }
    labelled_replies_release(&replies);
    classify_rules_free(rules);
}

static void
a_rule_of_ones_own_gives_up_at_a_4xx(void **state)
{
    (void)state;
    struct classify_rules *rules =
        rules_of("rules:\n"
                 "- {name: gone, class: inactive-mailbox, action: bounce, match: 'for ever'}\n"
                 "- {name: size, class: message-too-large, code: 4xx, match: 'large'}\n");
    expect(rules, "452 4.2.2 gone for ever", REPLY_STAGE_RCPT, "", REPLY_INACTIVE_MAILBOX,
           REPLY_ACTION_BOUNCE, "gone");
    expect(rules, "452 4.3.4 too large", REPLY_STAGE_RCPT, "", REPLY_MESSAGE_TOO_LARGE,
           REPLY_ACTION_RETRY, "size");
    /* A reply that lost its code is one of 4xx or 5xx by its enhanced code. */
    expect(rules, "4.3.4 too large", REPLY_STAGE_RCPT, "", REPLY_MESSAGE_TOO_LARGE,
           REPLY_ACTION_RETRY, "size");
    expect(rules, "5.3.4 too large", REPLY_STAGE_RCPT, "", REPLY_MESSAGE_TOO_LARGE,
           REPLY_ACTION_BOUNCE, "enhanced-code");
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
        {"450 2.0.0 x", REPLY_STAGE_RCPT, REPLY_SERVER_BUSY, REPLY_ACTION_RETRY},
        {"554 2.0.0 x", REPLY_STAGE_DOT, REPLY_OTHER, REPLY_ACTION_BOUNCE},
        {"2.0.0 x", REPLY_STAGE_DOT, REPLY_OK_NOT_BOUNCE, REPLY_ACTION_NONE},
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
        {"550 550 OU-001 no", "OU-001 no", 550, 0, 0, 0},
        {"550 5.0.0 550 5.1.1 no", "no", 550, 5, 0, 0},
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
        {"rules:\n- {name: a, class: other, match: x, action: none}", "action: expected", 2},
        {"rules:\n- {name: a, class: ok-not-bounce, match: x}", "rules judge refusals", 2},
        {"rules:\n- {name: a, class: other, match: x}\n- {name: a, class: other, match: y}",
         "another rule is named \"a\"", 3},
        {"rules:\n- {name: a, class: other, match: x, colour: red}", "unknown key", 2},
        {"rules:\n- {name: a, class: [other], match: x}", "expected text", 2},
        {"rules:\n- {name: a, class: other, match: [x, [y]]}", "expected text", 2},
        {"rules:\n- just text", "expected a rule", 2},
        {"rules: no", "expected a list", 1},
        {"other: []", "expected `rules:`", 1},
        {"rules: [", "", 1},
        {"rules: &all []", "anchor", 1},
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
        cmocka_unit_test(public_replies_are_judged_right_and_none_is_rerouted_wrongly),
        cmocka_unit_test(a_decision_is_the_same_in_every_form_of_the_text),
        cmocka_unit_test(what_the_literals_rule_out_would_not_have_matched),
        cmocka_unit_test(expressions_are_cut_into_branches_with_literals),
        cmocka_unit_test(a_rule_holds_when_all_its_conditions_do_and_the_first_one_wins),
        cmocka_unit_test(earlier_rules_override_the_builtin_ones),
        cmocka_unit_test(nothing_built_in_gives_up_at_a_4xx),
        cmocka_unit_test(a_rule_of_ones_own_gives_up_at_a_4xx),
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
