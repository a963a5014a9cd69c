/* Several files make one configuration: joining, marks, relative paths, the default rule's place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/policy/config_text.h"

#define NODE "node: {name: cn, hostname: cn.example}\n"
#define TRUST "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
#define MAP "transport_map: [{default: true, route: direct}]\n"

static struct config *
load_fine(const struct text_file *files, size_t n)
{
    struct strbuf out = STRBUF_INIT;
    struct config *config = text_load(files, n, 0, &out);
    if (config == NULL || out.n > 0)
        fail_msg("%s", out.p);
    strbuf_release(&out);
    return config;
}

/* Loading fails, and `expected` is the beginning of a line of the report. */
static void
load_refused(const struct text_file *files, size_t n, const char *expected)
{
    struct strbuf out = STRBUF_INIT;
    assert_null(text_load(files, n, 0, &out));
    const char *at = strstr(out.p, expected);
    if (at == NULL || (at != out.p && at[-1] != '\n'))
        fail_msg("gave %s\n  expected %s", out.p, expected);
    strbuf_release(&out);
}

static void
sections_and_lists_of_files_are_joined(void **state)
{
    (void)state;
    static const struct text_file files[] = {
        {.path = "c.yaml",
         .text = NODE TRUST "include: [conf.d/*.yaml]\nlimits: {sessions: 5}\n"
                            "transport_map:\n  - {domains: [main.example], route: us}\n"
                            "  - {default: true, route: direct}\n"},
        {.path = "conf.d/10-a.yaml",
         .text = "limits: {memory: 1MiB}\nhops: {us: {address: us.example}}\n"
                 "transport_map: [{domains: [a.example], route: jp}]\n"},
        {.path = "conf.d/20-b.yaml",
         .text = "hops: {jp: {address: jp.example}}\nuser: mail\n"
                 "transport_map: [{domains: [b.example], route: us}]\n"
                 "trusted_clients: [{cidr: 10.0.0.0/8}]\n"},
        {.path = "conf.d/ignored.yml", .text = "nonsense: 1\n"},
    };
    struct config *c = load_fine(files, N_ELEMENTS(files));
    assert_int_equal(c->limits.sessions, 5);
    assert_int_equal(c->limits.memory_bytes, 1 << 20);
    assert_string_equal(c->user, "mail");
    assert_int_equal(c->n_hops, 2);
    assert_int_equal(c->n_trusted, 2);
    /* own rules, then the files' in order, the default behind them all */
    assert_int_equal(c->n_rules, 4);
    assert_string_equal(c->rules[0].domains[0].name, "main.example");
    assert_string_equal(c->rules[1].domains[0].name, "a.example");
    assert_string_equal(c->rules[1].mark.file, "conf.d/10-a.yaml");
    assert_int_equal(c->rules[1].mark.line, 3);
    assert_string_equal(c->routes[c->rules[1].route].name, "jp");
    assert_string_equal(c->rules[2].domains[0].name, "b.example");
    assert_true(c->rules[3].is_default);
    config_free(c);
}

static void
the_default_rule_of_an_included_file_stays_last_too(void **state)
{
    (void)state;
    static const struct text_file files[] = {
        {.path = "c.yaml",
         .text = NODE TRUST "include: [a.yaml, b.yaml]\n"
                            "transport_map: [{domains: [main.example], hold: x}]\n"},
        {.path = "a.yaml", .text = MAP},
        {.path = "b.yaml", .text = "transport_map: [{domains: [b.example], hold: x}]\n"},
    };
    struct config *c = load_fine(files, N_ELEMENTS(files));
    assert_string_equal(c->rules[0].domains[0].name, "main.example");
    assert_string_equal(c->rules[1].domains[0].name, "b.example");
    assert_true(c->rules[2].is_default);
    config_free(c);
}

static void
an_included_file_includes_behind_itself(void **state)
{
    (void)state;
    static const struct text_file files[] = {
        {.path = "c.yaml", .text = NODE TRUST "include: [sub/a.yaml]\n" MAP},
        {.path = "sub/a.yaml",
         .text = "include: [b.yaml]\ntransport_map: [{domains: [a.example], hold: x}]\n"},
        {.path = "sub/b.yaml", .text = "transport_map: [{domains: [b.example], hold: x}]\n"},
    };
    struct config *c = load_fine(files, N_ELEMENTS(files));
    assert_string_equal(c->rules[0].domains[0].name, "a.example");
    assert_string_equal(c->rules[1].domains[0].name, "b.example");
    assert_true(c->rules[2].is_default);
    config_free(c);
}

static void
paths_are_relative_to_the_file_that_names_them(void **state)
{
    (void)state;
    static const struct text_file files[] = {
        {.path = "c.yaml", .text = NODE "include: [sub/x.yaml]\nqueue: {path: q}\n" MAP},
        {.path = "sub/x.yaml",
         .text = "tls: {certificate_file: tls/cert.pem, private_key_file: /abs/key.pem}\n"
                 "trusted_clients: [{users_file: users}]\ncontrol: {socket: ./run/sock}\n"
                 "log: {target: relay.log}\n"
                 "transport_map: [{domains_file: list.txt, route: direct}]\n"},
        {.path = "sub/tls/cert.pem", .text = "C", .mode = 0644},
        {.path = "/abs/key.pem", .text = "K"},
        {.path = "sub/users", .text = "U"},
        {.path = "sub/list.txt", .text = "a.example\n", .mode = 0644},
    };
    struct config *c = load_fine(files, N_ELEMENTS(files));
    assert_string_equal(c->queue.path, "q");
    assert_string_equal(c->tls.certificate_file, "sub/tls/cert.pem");
    assert_string_equal(c->tls.private_key.path, "/abs/key.pem");
    assert_string_equal(c->trusted[0].users.path, "sub/users");
    assert_true(span_eq(c->trusted[0].users.bytes, SPAN("U")));
    assert_string_equal(c->control_socket, "sub/./run/sock");
    assert_string_equal(c->log.file, "sub/relay.log");
    assert_string_equal(c->rules[0].domains_file, "sub/list.txt");
    assert_int_equal(c->rules[0].n_file_domains, 1);
    config_free(c);
}

static void
a_key_is_set_in_one_file_only(void **state)
{
    (void)state;
    static const struct {
        const char *other, *expected;
    } cases[] = {
        {"user: b\n", "x.yaml:1:1: key \"user\" is set in two files, first at c.yaml:5"},
        {"limits: {sessions: 6}\n",
         "x.yaml:1:10: limits: key \"sessions\" is set in two files, first at c.yaml:6"},
        {"hops: {us: {address: b}}\n",
         "x.yaml:1:8: hops: key \"us\" is set in two files, first at c.yaml:7"},
        {"limits: []\n", "x.yaml:1:1: key \"limits\" is set in two files"},
        {"transport_map: {}\n", "x.yaml:1:1: key \"transport_map\" is set in two files"},
        {MAP, "c.yaml:3:17: transport_map[1]: a second default rule, the first is at x.yaml:1"},
        {"listners: []\n", "x.yaml:1:1: listners: unknown key; did you mean \"listeners\"?"},
        {"a: [\n", "x.yaml:2:1: "},
        {"- a\n", "x.yaml:1:1: a list stands here, expected a mapping"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        const struct text_file files[] = {
            {.path = "c.yaml",
             .text = NODE TRUST MAP "include: [x.yaml]\nuser: a\nlimits: {sessions: 5}\n"
                                    "hops: {us: {address: a}}\n"},
            {.path = "x.yaml", .text = cases[i].other},
        };
        load_refused(files, N_ELEMENTS(files), cases[i].expected);
    }
}

static void
what_cannot_be_included_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *include, *expected;
    } cases[] = {
        {"include: [gone.yaml]\n", "c.yaml:4:11: include: gone.yaml: No such file or directory"},
        {"include: [perm.yaml]\n",
         "c.yaml:4:11: include: perm.yaml: Permission denied; make it readable: chown"},
        {"include: [self.yaml]\n", "self.yaml:1:11: include: self.yaml is read twice"},
        {"include: [c.yaml]\n", "c.yaml:4:11: include: c.yaml is read twice"},
        {"include: [ok.yaml, ok.yaml]\n", "c.yaml:4:20: include: ok.yaml is read twice"},
        {"include: [{a: b}]\n",
         "c.yaml:4:11: include: a mapping stands here, expected a file name or pattern"},
        {"include: ['']\n", "c.yaml:4:11: include: one value stands here, expected a file name"},
        {"include: gone.yaml\n",
         "c.yaml:4:10: include: one value stands here, expected a list, such as"},
        {"include: [deep/1.yaml]\n",
         "deep/8.yaml:1:10: include: files include each other more than 8 deep"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct text_file files[16] = {
            {.path = "c.yaml"},
            {.path = "perm.yaml", .text = "Permission denied", .code = ERR_PERM},
            {.path = "self.yaml", .text = "include: [self.yaml]\n"},
            {.path = "ok.yaml", .text = "# nothing\n"},
        };
        struct strbuf text = STRBUF_INIT;
        strbuf_printf(&text, NODE TRUST MAP "%s", cases[i].include);
        files[0].text = text.p;
        char paths[10][16], texts[10][32];
        for (int k = 1; k < 10; k++) {
            snprintf(paths[k], sizeof(paths[k]), "deep/%d.yaml", k);
            snprintf(texts[k], sizeof(texts[k]), "include: [%d.yaml]\n", k + 1);
            files[3 + k] = (struct text_file){.path = paths[k], .text = texts[k]};
        }
        load_refused(files, N_ELEMENTS(files), cases[i].expected);
        strbuf_release(&text);
    }
}

static void
a_pattern_that_matches_nothing_is_fine(void **state)
{
    (void)state;
    static const struct text_file files[] = {
        {.path = "c.yaml", .text = NODE TRUST MAP "include: [conf.d/*.yaml]\n"}};
    config_free(load_fine(files, N_ELEMENTS(files)));
}

static void
problems_are_grouped_by_file(void **state)
{
    (void)state;
    static const struct text_file files[] = {
        {.path = "c.yaml", .text = NODE TRUST MAP "include: [z.yaml, a.yaml]\nx1: 1\n"},
        {.path = "a.yaml", .text = "x2: 1\nx3: 1\n"},
        {.path = "z.yaml", .text = "x4: 1\n"},
    };
    struct strbuf out = STRBUF_INIT;
    assert_null(text_load(files, N_ELEMENTS(files), 0, &out));
    const char *order[] = {"c.yaml:5:1: x1", "z.yaml:1:1: x4", "a.yaml:1:1: x2", "a.yaml:2:1: x3"};
    const char *last = out.p;
    for (size_t i = 0; i < N_ELEMENTS(order); i++) {
        const char *at = strstr(out.p, order[i]);
        assert_non_null(at);
        assert_true(at >= last);
        last = at;
    }
    strbuf_release(&out);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sections_and_lists_of_files_are_joined),
        cmocka_unit_test(the_default_rule_of_an_included_file_stays_last_too),
        cmocka_unit_test(an_included_file_includes_behind_itself),
        cmocka_unit_test(paths_are_relative_to_the_file_that_names_them),
        cmocka_unit_test(a_key_is_set_in_one_file_only),
        cmocka_unit_test(what_cannot_be_included_is_told),
        cmocka_unit_test(a_pattern_that_matches_nothing_is_fine),
        cmocka_unit_test(problems_are_grouped_by_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
