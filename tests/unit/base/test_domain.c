/* Domain names in canonical form, and patterns of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <string.h>

#include <cmocka.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"

#define L63 "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk"

static void
names_have_one_canonical_form(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out; /* NULL: refused */
    } cases[] = {
        {"example.com", "example.com"},
        {"EXAMPLE.Com.", "example.com"},
        {"localhost", "localhost"},
        {"no", "no"},
        {"_dmarc.example.com", "_dmarc.example.com"},
        {"xn--BCHER-kva.Example", "xn--bcher-kva.example"},
        {"b\xc3\xbc"
         "cher.example",
         "xn--bcher-kva.example"},
        {"B\xc3\x9c"
         "CHER.example",
         "xn--bcher-kva.example"},
        {"bu\xcc\x88"
         "cher.example",
         "xn--bcher-kva.example"},          /* decomposed */
        {"fa\xc3\x9f.de", "xn--fa-hia.de"}, /* non-transitional */
        {"\xe4\xbe\x8b\xe5\xad\x90.\xe6\xb5\x8b\xe8\xaf\x95", "xn--fsqu00a.xn--0zwm56d"},
        {"\xe4\xbe\x8b\xe5\xad\x90\xe3\x80\x82"
         "cn",
         "xn--fsqu00a.cn"}, /* ideographic full stop */
        {"1.example", "1.example"},
        {"163.com", "163.com"},
        {"3com", "3com"},
        {L63 ".example", L63 ".example"},
        {"", NULL},
        {".", NULL},
        {"..", NULL},
        {"example..com", NULL},
        {".example.com", NULL},
        {"example.com..", NULL},
        {"a" L63 ".example", NULL},
        {L63 "." L63 "." L63 "." L63, NULL}, /* 255 */
        {"-a.example", NULL},
        {"a-.example", NULL},
        {"a b.example", NULL},
        {"a@b.example", NULL},
        {"a/b", NULL},
        {"*.example.com", NULL},
        {"192.0.2.1", NULL},
        {"[192.0.2.1]", NULL},
        {"example.123", NULL},
        {"\xff\xfe.example", NULL},
        {"a\xe2\x80\x8b\xe2\x80\xae.example", NULL}, /* bidirectional override */
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        char out[DOMAIN_BUF];
        struct err err = {0};
        enum err_code code = domain_normalise(span_str(cases[i].in), out, &err);
        if ((code == ERR_OK) != (cases[i].out != NULL))
            fail_msg("%s: %s %s", cases[i].in, err_code_name(code), err.text);
        if (code == ERR_OK)
            assert_string_equal(out, cases[i].out);
        else
            assert_true(strlen(err.text) > 0);
    }
    char out[DOMAIN_BUF];
    assert_int_equal(domain_normalise(span_of("a\0b.example", 11), out, NULL), ERR_INVAL);
    assert_int_equal(domain_normalise(span_of("\xc3\xbc\0b.example", 12), out, NULL), ERR_INVAL);
    assert_int_equal(domain_normalise(SPAN_NONE, out, NULL), ERR_INVAL);
}

static void
a_name_of_253_octets_is_the_longest(void **state)
{
    (void)state;
    char name[300], out[DOMAIN_BUF];
    memset(name, 'a', sizeof(name));
    for (size_t i = 50; i < sizeof(name); i += 50)
        name[i] = '.';
    assert_int_equal(domain_normalise(span_of(name, 253), out, NULL), ERR_OK);
    assert_int_equal(strlen(out), 253);
    assert_int_equal(domain_normalise(span_of(name, 254), out, NULL), ERR_INVAL);
}

static void
normalising_twice_changes_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {"Ex.COM.", "fa\xc3\x9f.DE", "XN--FSQU00A.cn"};
    for (size_t i = 0; i < N_ELEMENTS(names); i++) {
        char once[DOMAIN_BUF], twice[DOMAIN_BUF];
        assert_int_equal(domain_normalise(span_str(names[i]), once, NULL), ERR_OK);
        assert_int_equal(domain_normalise(span_str(once), twice, NULL), ERR_OK);
        assert_string_equal(once, twice);
    }
}

static void
host_names_are_checked_without_changing_them(void **state)
{
    (void)state;
    assert_true(domain_valid_host(SPAN("mx1.Example.com")));
    assert_true(domain_valid_host(SPAN("mx_under.example.com")));
    assert_false(domain_valid_host(SPAN("mx1.example.com.")));
    assert_false(domain_valid_host(SPAN("")));
    assert_false(domain_valid_host(SPAN("192.0.2.1")));
    assert_false(domain_valid_host(SPAN("mx 1.example")));
    assert_false(domain_valid_host(SPAN("mx\\0001.example")));
    assert_false(domain_valid_host(span_of("mx\0.example", 11)));
    assert_false(domain_valid_host(SPAN("b\xc3\xbc"
                                        "cher.example")));
}

static void
patterns_match_a_name_or_what_is_below_it(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool matches;
    } cases[] = {
        {"abc.com", "abc.com", true},
        {"ABC.com", "abc.com", true},
        {"abc.com", "x.abc.com", false},
        {"*.abc.com", "abc.com", false},
        {"*.abc.com", "x.abc.com", true},
        {"*.abc.com", "y.x.abc.com", true},
        {"*.abc.com", "xabc.com", false},
        {"*.abc.com", ".abc.com", false},
        {"*.com", "abc.com", true},
        {"*.com", "com", false},
        {"*.b\xc3\xbc"
         "cher.de",
         "x.xn--bcher-kva.de", true},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        char buf[DOMAIN_BUF];
        struct domain_pattern p;
        assert_int_equal(domain_pattern_parse(span_str(cases[i].pattern), buf, &p, NULL), ERR_OK);
        if (domain_pattern_matches(&p, span_str(cases[i].name)) != cases[i].matches)
            fail_msg("%s against %s", cases[i].name, cases[i].pattern);
    }
}

static void
a_star_stands_in_front_only(void **state)
{
    (void)state;
    static const char *const wrong[] = {"*",   "*.",    "**.a",  "a*.b", "*a.b",
                                        "a.*", "a.*.b", "*.*.a", "."};
    for (size_t i = 0; i < N_ELEMENTS(wrong); i++) {
        char buf[DOMAIN_BUF];
        struct domain_pattern p;
        if (domain_pattern_parse(span_str(wrong[i]), buf, &p, NULL) == ERR_OK)
            fail_msg("%s was taken", wrong[i]);
    }
}

static void
parents_end_at_the_last_label(void **state)
{
    (void)state;
    struct span name = domain_parent(SPAN("a.b.c"));
    assert_true(span_eq(name, SPAN("b.c")));
    name = domain_parent(name);
    assert_true(span_eq(name, SPAN("c")));
    assert_int_equal(domain_parent(name).n, 0);
}

static void
the_first_pattern_that_matches_is_found(void **state)
{
    (void)state;
    const struct domain_pattern patterns[] = {
        {"a.example", false}, {"example", true}, {"b.example", false}};
    assert_ptr_equal(domain_patterns_find(patterns, 3, SPAN("a.example")), &patterns[0]);
    assert_ptr_equal(domain_patterns_find(patterns, 3, SPAN("b.example")), &patterns[1]);
    assert_null(domain_patterns_find(patterns, 3, SPAN("example")));
    assert_null(domain_patterns_find(NULL, 0, SPAN("example")));
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_have_one_canonical_form),
        cmocka_unit_test(a_name_of_253_octets_is_the_longest),
        cmocka_unit_test(normalising_twice_changes_nothing),
        cmocka_unit_test(host_names_are_checked_without_changing_them),
        cmocka_unit_test(patterns_match_a_name_or_what_is_below_it),
        cmocka_unit_test(a_star_stands_in_front_only),
        cmocka_unit_test(parents_end_at_the_last_label),
        cmocka_unit_test(the_first_pattern_that_matches_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
