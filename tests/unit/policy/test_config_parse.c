/* YAML into nodes with marks, and what is refused on the way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/config_node.h"

static void
tree(const struct config_node *node, struct strbuf *out)
{
    if (node->kind == CONFIG_SCALAR) {
        strbuf_printf(out, node->plain ? "%.*s" : "'%.*s'", SPAN_ARG(node->text));
        return;
    }
    strbuf_add_byte(out, node->kind == CONFIG_MAPPING ? '{' : '[');
    for (const struct config_node *child = node->first; child != NULL; child = child->next) {
        if (node->kind == CONFIG_MAPPING)
            strbuf_printf(out, "%.*s=", SPAN_ARG(child->key));
        tree(child, out);
        if (child->next != NULL)
            strbuf_add_byte(out, ' ');
    }
    strbuf_add_byte(out, node->kind == CONFIG_MAPPING ? '}' : ']');
}

/* The tree and, behind a '|' each, the problems. */
static char *
parsed(struct span text)
{
    struct arena *arena = arena_new();
    struct config_problems problems = {0};
    struct strbuf out = STRBUF_INIT;
    const struct config_node *root = config_parse(arena, "f", text, &problems);
    if (root != NULL)
        tree(root, &out);
    for (size_t i = 0; i < problems.n; i++) {
        strbuf_add_byte(&out, '|');
        config_problem_format(&problems.items[i], &out);
    }
    config_problems_release(&problems);
    arena_free(arena);
    return strbuf_take(&out);
}

static void
scalars_stay_text_and_keep_their_order(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"", "{}"},
        {"# only a comment\n", "{}"},
        {"---\n", "{}"},
        {"b: 1\na: 2\n", "{b=1 a=2}"},
        {"a: no\nno: off\n", "{a=no no=off}"},
        {"a: ~\nb: null\nc: 0025\nd: 1e3\ne: 12:30\nf: 1_000\n",
         "{a=~ b=null c=0025 d=1e3 e=12:30 f=1_000}"},
        {"a:\n", "{a=}"},
        {"a: ''\n", "{a=''}"},
        {"a: 'no'\nb: \"x\\ty\"\n", "{a='no' b='x\ty'}"},
        {"a: [1, [2, {b: c}]]\n", "{a=[1 [2 {b=c}]]}"},
        {"{\"a\": {\"b\": [true, 1, \"x\"]}}", "{a={b=[true 1 'x']}}"},
        {"- a\n- b\n", "[a b]"},
        {"\xef\xbb\xbf"
         "a: b\n",
         "{a=b}"},
        {"a: |\n  x\n  y\n", "{a='x\ny\n'}"},
        {"a: b\r\nc: d\r\n", "{a=b c=d}"},
        {"k: \xe4\xbe\x8b\n", "{k=\xe4\xbe\x8b}"},
        {"%YAML 1.1\n---\na: b\n...\n", "{a=b}"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        char *out = parsed(span_str(cases[i].in));
        assert_string_equal(out, cases[i].out);
        free(out);
    }
}

static void
what_is_no_plain_yaml_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *in, *expected; /* somewhere in the problems */
    } cases[] = {
        {"a: b\na: c\n", "f:2:1: key \"a\" is set twice, first at line 1"},
        {"a: {x: 1, y: 2, x: 3}\n", "f:1:17: key \"x\" is set twice"},
        {"a: 1\n'a': 2\n", "f:2:1: key \"a\" is set twice"},
        {"a: &x b\n", "f:1:4: anchors (&name) are not supported"},
        {"a: &x [b]\n", "f:1:4: anchors"},
        {"a: &x {b: c}\n", "f:1:4: anchors"},
        {"&x a: b\n", "f:1:1: anchors"},
        {"a: b\nc: *x\n", "f:2:4: aliases (*name) are not supported"},
        {"a: &x [*x]\n", "f:1:8: aliases"},
        {"a: !!str b\n", "f:1:4: tags (!name) are not supported"},
        {"a: !secret [b]\n", "f:1:4: tags"},
        {"a: !x {}\n", "f:1:4: tags"},
        {"<<: {a: b}\n", "f:1:1: merge keys"},
        {"a: b\n---\nc: d\n", "f:2:1: a second document"},
        {"? [a]\n: b\n", "f:1:3: a list stands where a key is expected"},
        {"{{a: b}: c}\n", "f:1:2: a mapping stands where a key is expected"},
        {"a: [1\n",
         "f:2:1: did not find expected ',' or ']' (while parsing a flow sequence at line 1)"},
        {"a: b: c\n", "f:1:5: mapping values are not allowed"},
        {"\ta: b\n", "f:1:1: "},
        {"a: 'b\n\n\n", "while scanning a quoted scalar at line 1"},
        {"a: \"\\q\"\n", "f:1:"},
        {"a: \"x\\0y\"\n", "f:1:4: text with a NUL"},
        {"a: @b\n", "f:1:4: "},
        {"a: b\n\xff\n", "f:2:1: byte 0xff is not UTF-8"},
        {"a: x\xc3\n", "f:1:5: byte 0xc3 is not UTF-8"},
        {"a: \xc0\xaf\n", "f:1:4: byte 0xc0 is not UTF-8"},
        {"a: \xed\xa0\x80\n", "f:1:4: byte 0xed is not UTF-8"},
        {"a: \xf4\x90\x80\x80\n", "f:1:4: byte 0xf4 is not UTF-8"},
        {"a: \xe4\xbe\x8b\x01\n", "f:1:5: control character 0x01"},
        {"a: \x7f\n", "f:1:4: control character 0x7f"},
        {"a: \x1b[2J\n", "f:1:4: control character 0x1b"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        char *out = parsed(span_str(cases[i].in));
        if (strstr(out, cases[i].expected) == NULL)
            fail_msg("%s\n  gave %s", cases[i].in, out);
        free(out);
    }
    char *out = parsed(span_of("a: b\nc: \0d\n", 11));
    assert_string_equal(out, "|f:2:4: control character 0x00, expected text");
    free(out);
}

static void
all_problems_of_a_file_are_found_in_one_go(void **state)
{
    (void)state;
    char *out = parsed(SPAN("a: &x 1\na: !t 2\nb: {c: 1, c: 2}\n"));
    assert_string_equal(out, "{a=1 b={c=1}}"
                             "|f:1:4: anchors (&name) are not supported, write it out"
                             "|f:2:4: tags (!name) are not supported, expected plain YAML"
                             "|f:2:1: key \"a\" is set twice, first at line 1"
                             "|f:3:11: key \"c\" is set twice, first at line 3");
    free(out);
}

static void
depth_is_bounded(void **state)
{
    (void)state;
    struct strbuf text = STRBUF_INIT;
    for (int i = 0; i < CONFIG_DEPTH_MAX; i++)
        strbuf_add_byte(&text, '[');
    for (int i = 0; i < CONFIG_DEPTH_MAX; i++)
        strbuf_add_byte(&text, ']');
    char *out = parsed(strbuf_span(&text));
    assert_null(strchr(out, '|'));
    free(out);
    strbuf_reset(&text);
    for (int i = 0; i < 100000; i++)
        strbuf_add_byte(&text, '[');
    out = parsed(strbuf_span(&text));
    assert_string_equal(out, "|f:1:33: nested more than 32 levels deep");
    free(out);
    strbuf_release(&text);
}

static void
a_file_larger_than_a_configuration_is_refused(void **state)
{
    (void)state;
    struct strbuf text = STRBUF_INIT;
    while (text.n <= CONFIG_FILE_MAX)
        strbuf_add_str(&text, "# a comment that goes on and on\n");
    char *out = parsed(strbuf_span(&text));
    assert_string_equal(out, "|f:1:1: the file is larger than 4 MiB");
    free(out);
    strbuf_release(&text);
}

static void
a_mapping_of_many_keys_is_no_burden(void **state)
{
    (void)state;
    struct strbuf text = STRBUF_INIT;
    for (int i = 0; i < 100000; i++)
        strbuf_printf(&text, "k%d: v\n", i);
    strbuf_add_str(&text, "k50000: again\n");
    struct arena *arena = arena_new();
    struct config_problems problems = {0};
    const struct config_node *root = config_parse(arena, "f", strbuf_span(&text), &problems);
    assert_non_null(root);
    assert_int_equal(root->n_children, 100000);
    assert_int_equal(problems.n_errors, 1);
    assert_int_equal(problems.items[0].mark.line, 100001);
    config_problems_release(&problems);
    arena_free(arena);
    strbuf_release(&text);
}

static void
marks_and_lookup(void **state)
{
    (void)state;
    struct arena *arena = arena_new();
    struct config_problems problems = {0};
    const struct config_node *root =
        config_parse(arena, "f", SPAN("a:\n  b: 1\n  cc: [x,\n    y]\n"), &problems);
    const struct config_node *a = config_node_get(root, "a"), *cc = config_node_get(a, "cc");
    assert_int_equal(a->mark.line, 2);
    assert_int_equal(a->mark.col, 3);
    assert_int_equal(a->key_mark.line, 1);
    assert_int_equal(cc->mark.line, 3);
    assert_int_equal(cc->mark.col, 7);
    assert_int_equal(cc->last->mark.line, 4);
    assert_int_equal(cc->last->mark.col, 5);
    assert_string_equal(cc->mark.file, "f");
    assert_null(config_node_get(root, "b"));
    assert_null(config_node_get(cc, "b"));
    assert_null(config_node_get(NULL, "b"));
    arena_free(arena);
}

static void
problems_are_one_line_each_and_bounded(void **state)
{
    (void)state;
    struct config_problems problems = {0};
    for (int i = 0; i < CONFIG_PROBLEMS_MAX + 5; i++)
        config_problem_add(&problems, i % 2 == 0 ? CONFIG_ERROR : CONFIG_WARNING,
                           (struct config_mark){"x.yaml", 3, 7}, "a.b", "line\nbreak %d \x1b", i);
    assert_int_equal(problems.n, CONFIG_PROBLEMS_MAX);
    assert_int_equal(problems.n_errors + problems.n_warnings, CONFIG_PROBLEMS_MAX + 5);
    struct strbuf text = STRBUF_INIT;
    config_problem_format(&problems.items[0], &text);
    assert_string_equal(text.p, "x.yaml:3:7: a.b: line?break 0 ?");
    strbuf_reset(&text);
    config_problem_format(&problems.items[1], &text);
    assert_string_equal(text.p, "x.yaml:3:7: a.b: warning: line?break 1 ?");
    strbuf_release(&text);
    config_problems_release(&problems);
    assert_int_equal(problems.n, 0);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_stay_text_and_keep_their_order),
        cmocka_unit_test(what_is_no_plain_yaml_is_refused_with_its_place),
        cmocka_unit_test(all_problems_of_a_file_are_found_in_one_go),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(a_file_larger_than_a_configuration_is_refused),
        cmocka_unit_test(a_mapping_of_many_keys_is_no_burden),
        cmocka_unit_test(marks_and_lookup),
        cmocka_unit_test(problems_are_one_line_each_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
