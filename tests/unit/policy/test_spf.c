/* What RFC 7208 says comes out, for the cases of spf_cases.txt; and what is asked, and told besides
 * the result. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/policy/spf_zone.h"

static void
every_case_comes_out_as_the_rfc_says(void **state)
{
    size_t n;
    (void)state;
    assert_int_equal(zone_run(TESTS_DIR "/unit/policy/spf_cases.txt", &n), 0);
    assert_in_range(n, 300, 10000);
}

static void
zone_text(const char *const *records, size_t n)
{
    zone_clear();
    for (size_t i = 0; i < n; i++) {
        struct span rest = span_str(records[i]), name = span_cut(&rest, ' '),
                    type = span_cut(&rest, ' ');
        zone_add(name, type, rest);
    }
}

static struct spf_query
query(const char *ip, const char *sender)
{
    struct spf_query q = {.sender = span_str(sender), .helo = SPAN("relay.test")};
    assert_true(ip_parse(span_str(ip), &q.ip));
    return q;
}

static bool
asked(const struct spf_verdict *v, enum spf_type type, const char *name)
{
    for (size_t i = 0; i < v->n_questions; i++)
        if (v->questions[i].type == type && strcmp(v->questions[i].name, name) == 0)
            return true;
    return false;
}

static void
the_terms_of_a_record_are_asked_for_together(void **state)
{
    static const char *const records[] = {
        "one.test TXT v=spf1 include:a.test mx:%{d} exists:%{l}.one.test a ptr -all",
        "one.test MX mx.one.test",
        "a.test TXT v=spf1 a:b.test include:c.test ~all",
    };
    struct spf_query q = query("192.0.2.1", "me@one.test");
    struct spf_answers *answers = spf_answers_new((struct map_seed){0});
    struct spf_verdict v;

    (void)state;
    zone_text(records, N_ELEMENTS(records));
    assert_false(spf_check(&q, answers, &v));
    assert_int_equal(v.n_questions, 1);
    assert_true(asked(&v, SPF_TXT, "one.test"));

    zone_answer(answers, &v.questions[0], 300);
    assert_false(spf_check(&q, answers, &v));
    assert_int_equal(v.n_questions, 5);
    assert_true(asked(&v, SPF_TXT, "a.test"));
    assert_true(asked(&v, SPF_MX, "one.test"));
    assert_true(asked(&v, SPF_A, "me.one.test"));
    assert_true(asked(&v, SPF_A, "one.test"));
    assert_true(asked(&v, SPF_PTR, "1.2.0.192.in-addr.arpa"));

    struct spf_verdict first = v;
    for (size_t i = 0; i < 2; i++) /* the include and the mx */
        zone_answer(answers, &first.questions[i], 300);
    assert_false(spf_check(&q, answers, &v));
    assert_true(asked(&v, SPF_A, "b.test"));
    assert_true(asked(&v, SPF_TXT, "c.test"));
    assert_true(asked(&v, SPF_A, "mx.one.test"));
    spf_answers_free(answers);
}

static void
looking_ahead_does_not_pass_the_limit_of_terms(void **state)
{
    static const char *const records[] = {
        "one.test TXT v=spf1 a:a1.test a:a2.test a:a3.test a:a4.test a:a5.test a:a6.test a:a7.test "
        "a:a8.test a:a9.test a:a10.test a:a11.test a:a12.test -all",
    };
    struct spf_query q = query("192.0.2.1", "me@one.test");
    struct spf_answers *answers = spf_answers_new((struct map_seed){0});
    struct spf_verdict v;

    (void)state;
    zone_text(records, N_ELEMENTS(records));
    assert_false(spf_check(&q, answers, &v));
    zone_answer(answers, &v.questions[0], 300);
    assert_false(spf_check(&q, answers, &v));
    assert_int_equal(v.n_questions, SPF_TERMS_MAX);
    assert_false(asked(&v, SPF_A, "a11.test"));
    spf_answers_free(answers);
}

static void
nothing_is_asked_behind_a_term_that_matches(void **state)
{
    static const char *const records[] = {
        "one.test TXT v=spf1 a:a1.test ip4:192.0.2.1 a:a2.test -all",
    };
    struct spf_query q = query("192.0.2.1", "me@one.test");
    struct spf_answers *answers = spf_answers_new((struct map_seed){0});
    struct spf_verdict v;

    (void)state;
    zone_text(records, N_ELEMENTS(records));
    assert_false(spf_check(&q, answers, &v));
    zone_answer(answers, &v.questions[0], 300);
    assert_false(spf_check(&q, answers, &v)); /* a1.test might not answer: no result yet */
    assert_int_equal(v.n_questions, 1);
    assert_true(asked(&v, SPF_A, "a1.test"));
    spf_answers_free(answers);
}

static void
with_many_answers_known_terms_are_asked_for_one_by_one(void **state)
{
    static const char *const records[] = {
        "one.test TXT v=spf1 a:a1.test a:a2.test a:a3.test -all",
    };
    struct spf_query q = query("192.0.2.1", "me@one.test");
    struct spf_answers *answers = spf_answers_new((struct map_seed){0});
    struct spf_verdict v;

    (void)state;
    zone_text(records, N_ELEMENTS(records));
    for (int i = 1; i < SPF_AHEAD_MAX; i++) {
        char name[32];
        snprintf(name, sizeof(name), "x%d.test", i);
        spf_answers_add(answers, SPF_A, name, SPF_VOID, 300, NULL, 0);
    }
    assert_false(spf_check(&q, answers, &v));
    zone_answer(answers, &v.questions[0], 300);
    assert_false(spf_check(&q, answers, &v));
    assert_int_equal(v.n_questions, 1);
    assert_int_equal(zone_check(&q, answers, &v), SPF_AHEAD_MAX + 3);
    assert_int_equal(v.result, SPF_PERMERROR);
    spf_answers_free(answers);
}

static void
one_set_of_answers_serves_several_addresses(void **state)
{
    static const char *const records[] = {
        "one.test TXT v=spf1 include:a.test mx -all",
        "a.test TXT v=spf1 ip4:192.0.2.1 ~all",
        "one.test MX mx.one.test",
        "mx.one.test A 192.0.2.2",
    };
    struct spf_answers *answers = spf_answers_new((struct map_seed){0});
    struct spf_query q = query("192.0.2.2", "me@one.test");
    struct spf_verdict v;

    (void)state;
    zone_text(records, N_ELEMENTS(records));
    size_t n = zone_check(&q, answers, &v);
    assert_int_equal(v.result, SPF_PASS);
    q = query("192.0.2.1", "me@one.test");
    assert_true(spf_check(&q, answers, &v));
    assert_int_equal(v.result, SPF_PASS);
    q = query("192.0.2.3", "you@one.test");
    assert_true(spf_check(&q, answers, &v));
    assert_int_equal(v.result, SPF_FAIL);
    assert_int_equal(spf_answers_count(answers), n);
    spf_answers_free(answers);
}

static void
a_result_says_whether_it_is_the_domains_alone(void **state)
{
    static const char *const records[] = {
        "local.test TXT v=spf1 ip4:192.0.2.1 exists:%{l}.local.test -all",
        "sender.test TXT v=spf1 exists:%{S}.sender.test -all",
        "helo.test TXT v=spf1 a:%{h} -all",
        "plain.test TXT v=spf1 exists:%{ir}.%{o}.%{d}.%{p}.%{v} -all exp=%{l}.plain.test",
        "behind.test TXT v=spf1 redirect=local.test",
    };
    static const struct {
        const char *ip, *sender;
        bool personal;
    } cases[] = {
        {"192.0.2.1", "a@local.test", false}, /* it did not come to that */
        {"192.0.2.2", "a@local.test", true},
        {"192.0.2.2", "a@sender.test", true},
        {"192.0.2.2", "a@helo.test", true},
        {"192.0.2.2", "a@plain.test", false},
        {"192.0.2.2", "a@behind.test", true},
        {"192.0.2.2", "a@nothing.test", false},
        {"192.0.2.2", "", true},
    };

    (void)state;
    zone_text(records, N_ELEMENTS(records));
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct spf_answers *answers = spf_answers_new((struct map_seed){0});
        struct spf_query q = query(cases[i].ip, cases[i].sender);
        struct spf_verdict v;
        zone_check(&q, answers, &v);
        assert_int_equal(v.personal, cases[i].personal);
        spf_answers_free(answers);
    }
}

static void
a_result_holds_as_long_as_what_it_rests_on(void **state)
{
    static const char *const records[] = {
        "one.test TXT v=spf1 a:a.test ip4:192.0.2.1 -all",
        "a.test A 192.0.2.9",
    };
    struct spf_answers *answers = spf_answers_new((struct map_seed){0});
    struct spf_query q = query("192.0.2.1", "me@one.test");
    struct spf_verdict v;

    (void)state;
    zone_text(records, N_ELEMENTS(records));
    spf_answers_add(answers, SPF_A, "other.test", SPF_VOID, 1, NULL, 0); /* nobody asked */
    assert_false(spf_check(&q, answers, &v));
    zone_answer(answers, &v.questions[0], 500);
    assert_false(spf_check(&q, answers, &v));
    zone_answer(answers, &v.questions[0], 77);
    assert_true(spf_check(&q, answers, &v));
    assert_int_equal(v.ttl_s, 77);
    q = query("192.0.2.1", "me@[192.0.2.1]");
    assert_true(spf_check(&q, answers, &v));
    assert_int_equal(v.ttl_s, UINT32_MAX);
    spf_answers_free(answers);
}

/* A record of `n` octets that says pass in the end. */
static char *
long_record(size_t n)
{
    char *text = xmalloc(n + 1);
    memcpy(text, "v=spf1", 6);
    memset(text + 6, ' ', n - 6);
    memcpy(text + n - 4, " all", 4);
    text[n] = '\0';
    return text;
}

static void
a_record_has_a_greatest_length(void **state)
{
    static const struct {
        size_t n;
        enum spf_result result;
    } cases[] = {{SPF_RECORD_MAX, SPF_PASS}, {SPF_RECORD_MAX + 1, SPF_PERMERROR}};

    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        CLEANUP(freep) char *text = long_record(cases[i].n);
        struct spf_answers *answers = spf_answers_new((struct map_seed){0});
        struct spf_query q = query("192.0.2.1", "me@one.test");
        struct spf_record record = {.text = span_str(text)};
        struct spf_verdict v;
        spf_answers_add(answers, SPF_TXT, "ONE.test", SPF_FOUND, 1, &record, 1);
        assert_true(spf_check(&q, answers, &v));
        assert_int_equal(v.result, cases[i].result);
        spf_answers_free(answers);
    }
}

static void
what_cannot_be_checked_has_no_result(void **state)
{
    CLEANUP(freep) char *big = xmalloc(SPF_SENDER_MAX + 2);
    struct spf_answers *answers = spf_answers_new((struct map_seed){0});
    struct spf_query q = query("192.0.2.1", "me@one.test");
    struct spf_verdict v;

    (void)state;
    memset(big, 'a', SPF_SENDER_MAX + 1);
    q.sender = span_of(big, SPF_SENDER_MAX + 1);
    assert_true(spf_check(&q, answers, &v));
    assert_int_equal(v.result, SPF_NONE);
    q = query("192.0.2.1", "me@one.test");
    q.ip = (struct ip){0};
    assert_true(spf_check(&q, answers, &v));
    assert_int_equal(v.result, SPF_NONE);
    assert_string_equal(v.why, "no address");
    spf_answers_free(answers);
}

static void
macros_cannot_make_a_name_large(void **state)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    struct spf_answers *answers = spf_answers_new((struct map_seed){0});
    struct spf_query q = query("2001:db8::1", "me@one.test");
    struct spf_verdict v;

    (void)state;
    strbuf_add_str(&text, "v=spf1 exists:");
    while (text.n < 8000)
        strbuf_add_str(&text, "%{I}.");
    strbuf_add_str(&text, "one.test -all");
    struct spf_record record = {.text = strbuf_span(&text)};
    spf_answers_add(answers, SPF_TXT, "one.test", SPF_FOUND, 1, &record, 1);
    assert_false(spf_check(&q, answers, &v));
    assert_int_equal(v.n_questions, 1);
    assert_in_range(strlen(v.questions[0].name), 200, 253);
    assert_true(span_ends(span_str(v.questions[0].name), SPAN(".0.1.one.test")));
    spf_answers_free(answers);
}

static void
results_have_the_names_of_the_rfc(void **state)
{
    static const char *const names[] = {"none",     "neutral",   "pass",     "fail",
                                        "softfail", "temperror", "permerror"};
    (void)state;
    for (unsigned i = 0; i < N_ELEMENTS(names); i++)
        assert_string_equal(spf_result_name((enum spf_result)i), names[i]);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_case_comes_out_as_the_rfc_says),
        cmocka_unit_test(the_terms_of_a_record_are_asked_for_together),
        cmocka_unit_test(looking_ahead_does_not_pass_the_limit_of_terms),
        cmocka_unit_test(nothing_is_asked_behind_a_term_that_matches),
        cmocka_unit_test(with_many_answers_known_terms_are_asked_for_one_by_one),
        cmocka_unit_test(one_set_of_answers_serves_several_addresses),
        cmocka_unit_test(a_result_says_whether_it_is_the_domains_alone),
        cmocka_unit_test(a_result_holds_as_long_as_what_it_rests_on),
        cmocka_unit_test(a_record_has_a_greatest_length),
        cmocka_unit_test(what_cannot_be_checked_has_no_result),
        cmocka_unit_test(macros_cannot_make_a_name_large),
        cmocka_unit_test(results_have_the_names_of_the_rfc),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    zone_clear();
    return failed;
}
