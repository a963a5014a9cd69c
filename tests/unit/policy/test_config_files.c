/*
 * The real file system, and the files of etc/: the annotated one against the option table, the
 * examples by loading them, the manual by rendering it again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "policy/config_node.h"
#include "policy/config_schema.h"
#include "policy/route.h"
#include "tests/unit/policy/config_text.h"

#define ETC TESTS_DIR "/../etc/"

static char *dir; /* of the running test, with a '/' at its end */

static int
remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int
make_dir(void **state)
{
    (void)state;
    char name[] = "/tmp/config-XXXXXX";
    if (mkdtemp(name) == NULL)
        return -1;
    dir = xasprintf("%s/", name);
    return 0;
}

static int
remove_dir(void **state)
{
    (void)state;
    int rc = nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(dir);
    return rc;
}

static void
write_file(const char *name, const char *text, mode_t mode)
{
    char *path = xasprintf("%s%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, mode), 0);
    free(path);
}

static char *
read_text(const char *path)
{
    struct config_blob blob;
    struct err err = {0};
    const struct config_source *source = config_files_source();
    if (source->read(source->ctx, path, 1 << 20, &blob, &err) != ERR_OK)
        fail_msg("%s: %s", path, err.text);
    assert_int_equal(strlen(blob.bytes), blob.n);
    return blob.bytes;
}

/* Load a file of the test's directory; what is wrong goes to `out`. */
static struct config *
load(const char *name, struct strbuf *out)
{
    struct config_problems problems = {0};
    struct config *config = NULL;
    char *path = xasprintf("%s%s", dir, name);
    if (config_load(path, NULL, 0, &config, &problems) != ERR_OK)
        assert_null(config);
    for (size_t i = 0; i < problems.n; i++) {
        config_problem_format(&problems.items[i], out);
        strbuf_add_byte(out, '\n');
    }
    config_problems_release(&problems);
    free(path);
    return config;
}

static void
files_are_read_whole_with_their_mode(void **state)
{
    (void)state;
    const struct config_source *source = config_files_source();
    struct config_blob blob;
    struct err err;
    write_file("a", "hello\n", 0640);
    write_file("empty", "", 0600);
    char *path = xasprintf("%sa", dir);
    assert_int_equal(source->read(source->ctx, path, 100, &blob, &err), ERR_OK);
    assert_int_equal(blob.n, 6);
    assert_string_equal(blob.bytes, "hello\n");
    assert_int_equal(blob.mode, 0640);
    free(blob.bytes);
    assert_int_equal(source->read(source->ctx, path, 6, &blob, &err), ERR_OK);
    free(blob.bytes);
    assert_int_equal(source->read(source->ctx, path, 5, &blob, &err), ERR_LIMIT);
    free(path);
    path = xasprintf("%sempty", dir);
    assert_int_equal(source->read(source->ctx, path, 5, &blob, &err), ERR_OK);
    assert_int_equal(blob.n, 0);
    assert_string_equal(blob.bytes, "");
    free(blob.bytes);
    free(path);
    /* the kernel says that files of /proc are empty */
    char *status = read_text("/proc/self/status");
    assert_non_null(strstr(status, "Name:"));
    free(status);
}

static void
what_is_no_regular_file_is_refused_without_waiting(void **state)
{
    (void)state;
    const struct config_source *source = config_files_source();
    struct config_blob blob;
    struct err err;
    char *fifo = xasprintf("%sfifo", dir), *gone = xasprintf("%sgone", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(source->read(source->ctx, fifo, 100, &blob, &err), ERR_INVAL);
    assert_int_equal(source->read(source->ctx, dir, 100, &blob, &err), ERR_INVAL);
    assert_int_equal(source->read(source->ctx, "/dev/null", 100, &blob, &err), ERR_INVAL);
    assert_int_equal(source->read(source->ctx, gone, 100, &blob, &err), ERR_NOT_FOUND);
    free(fifo);
    free(gone);
}

static void
a_node_is_loaded_from_disk(void **state)
{
    (void)state;
    char *home = read_text(ETC "home.yaml");
    write_file("home.yaml", home, 0644);
    free(home);
    write_file("us.secret", "geheim\n", 0640);
    write_file("mydomain.com.pem", "KEY\n", 0600);
    struct strbuf out = STRBUF_INIT;
    struct config *c = load("home.yaml", &out);
    if (c == NULL)
        fail_msg("%s", out.p);
    if (out.n > 0)
        fail_msg("%s", out.p); /* not a warning */
    assert_int_equal(c->n_routes, 3);
    assert_true(span_eq(c->hops[0].password, SPAN("geheim")));
    char *key = xasprintf("%smydomain.com.pem", dir);
    assert_string_equal(c->dkim[0].key.path, key);
    free(key);
    struct route_query query = {.rcpt_local = SPAN("x"), .domain = SPAN("y.abc.com")};
    struct route_decision d;
    route_decide(c, &query, &d);
    assert_string_equal(c->routes[d.routes[0]].name, "us");
    config_free(c);
    strbuf_release(&out);
}

static void
a_key_that_the_world_may_read_is_refused(void **state)
{
    (void)state;
    char *overseas = read_text(ETC "overseas.yaml");
    write_file("c.yaml", overseas, 0644);
    free(overseas);
    write_file("fullchain.pem", "C", 0644);
    write_file("privkey.pem", "K", 0600);
    write_file("users", "", 0600);
    write_file("mydomain.com.pem", "KEY\n", 0604);
    struct strbuf out = STRBUF_INIT;
    assert_null(load("c.yaml", &out));
    assert_non_null(strstr(out.p, "mydomain.com.pem: others can read it (mode 0604)"));
    strbuf_reset(&out);
    write_file("mydomain.com.pem", "KEY\n", 0640);
    struct config *c = load("c.yaml", &out);
    if (c == NULL || out.n > 0)
        fail_msg("%s", out.p);
    assert_int_equal(c->n_listeners, 6);
    config_free(c);
    strbuf_release(&out);
}

static void
a_key_that_we_may_not_read_prints_the_chown_line(void **state)
{
    (void)state;
    if (getuid() != 0)
        skip(); /* another user's file needs another user */
    write_file("c.yaml",
               "node: {name: cn, hostname: cn.example}\nuser: nobody\n"
               "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
               "dkim: [{domains: [a.example], key_file: k.pem}]\n"
               "transport_map: [{default: true, route: direct}]\n",
               0644);
    write_file("k.pem", "K", 0600);
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(seteuid(65534), 0);
    struct strbuf out = STRBUF_INIT, expected = STRBUF_INIT;
    struct config *c = load("c.yaml", &out);
    assert_int_equal(seteuid(0), 0);
    assert_null(c);
    strbuf_printf(&expected, "make it readable: chown nobody %sk.pem\n", dir);
    if (strstr(out.p, expected.p) == NULL)
        fail_msg("%s", out.p);
    strbuf_release(&out);
    strbuf_release(&expected);
}

static void
included_files_come_in_byte_order(void **state)
{
    (void)state;
    char *sub = xasprintf("%sr.d", dir);
    assert_int_equal(mkdir(sub, 0755), 0);
    free(sub);
    write_file("c.yaml",
               "node: {name: cn, hostname: cn.example}\ninclude: [r.d/*.yaml]\n"
               "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
               "transport_map: [{default: true, route: direct}]\n",
               0644);
    static const char *const names[] = {"r.d/b.yaml", "r.d/B.yaml", "r.d/10.yaml", "r.d/a.yaml"};
    static const char *const order[] = {"10.example", "b-upper.example", "a.example", "b.example"};
    static const char *const domains[] = {"b.example", "b-upper.example", "10.example",
                                          "a.example"};
    for (size_t i = 0; i < N_ELEMENTS(names); i++) {
        char *text = xasprintf("transport_map: [{domains: [%s], hold: x}]\n", domains[i]);
        write_file(names[i], text, 0644);
        free(text);
    }
    write_file("r.d/.hidden.yaml", "nonsense: 1\n", 0644);
    struct strbuf out = STRBUF_INIT;
    struct config *c = load("c.yaml", &out);
    if (c == NULL)
        fail_msg("%s", out.p);
    for (size_t i = 0; i < N_ELEMENTS(order); i++)
        assert_string_equal(c->rules[i].domains[0].name, order[i]);
    assert_true(c->rules[4].is_default);
    config_free(c);
    strbuf_release(&out);
}

static void
the_file_for_trying_things_loads_as_it_is(void **state)
{
    (void)state;
    struct config_problems problems = {0};
    struct config *c = NULL;
    assert_int_equal(config_load(ETC "dev.yaml", NULL, 0, &c, &problems), ERR_OK);
    assert_int_equal(problems.n, 0);
    assert_int_equal(c->n_listeners, 1);
    assert_string_equal(c->listeners[0].text, "127.0.0.1:2525");
    assert_true(c->direct.allow_private);
    assert_non_null(strstr(c->queue.path, "/build/"));
    assert_non_null(strstr(c->control_socket, "/build/"));
    config_free(c);
    config_problems_release(&problems);
}

/* Take the '#' from every line that has no space behind it. */
static char *
uncomment(const char *text)
{
    struct strbuf out = STRBUF_INIT;
    struct span rest = span_str(text);
    while (rest.n > 0) {
        struct span line = span_cut(&rest, '\n');
        size_t hash = 0;
        while (hash < line.n && line.p[hash] == ' ')
            hash++;
        bool option = hash + 1 < line.n && line.p[hash] == '#' && line.p[hash + 1] != ' ';
        strbuf_add_span(&out, span_first(line, hash));
        strbuf_add_span(&out, span_from(line, option ? hash + 1 : hash));
        strbuf_add_byte(&out, '\n');
    }
    return strbuf_take(&out);
}

/* The node at a path of the table: "[]" is the first element that has the rest, "*" the first name.
 */
static const struct config_node *
find_node(const struct config_node *node, const char *path)
{
    if (node == NULL || path[0] == '\0')
        return node;
    if (path[0] == '.')
        return find_node(node, path + 1);
    if (path[0] == '*')
        return find_node(node->first, path + 1);
    if (path[0] == '[') {
        for (const struct config_node *child = node->first; child != NULL; child = child->next) {
            const struct config_node *found = find_node(child, path + 2);
            if (found != NULL)
                return found;
        }
        return NULL;
    }
    char key[64];
    size_t n = strcspn(path, ".[");
    snprintf(key, sizeof(key), "%.*s", (int)n, path);
    return find_node(config_node_get(node, key), path + n);
}

static bool
same_tree(const struct config_node *a, const struct config_node *b)
{
    if (a->kind != b->kind || a->n_children != b->n_children || !span_eq(a->text, b->text))
        return false;
    const struct config_node *x = a->first, *y = b->first;
    for (; x != NULL; x = x->next, y = y->next)
        if (!same_tree(x, y))
            return false;
    return true;
}

static struct span
line_of(const char *text, unsigned no)
{
    struct span rest = span_str(text), line = SPAN_NONE;
    while (no-- > 0)
        line = span_cut(&rest, '\n');
    return line;
}

static void
the_annotated_file_has_every_option_and_its_default(void **state)
{
    (void)state;
    char *text = read_text(ETC "relayd.yaml"), *whole = uncomment(text);
    struct arena *arena = arena_new();
    struct config_problems problems = {0};
    const struct config_node *root = config_parse(arena, "relayd.yaml", span_str(whole), &problems);
    if (root == NULL || problems.n > 0)
        fail_msg("line %u: %s", problems.items[0].mark.line, problems.items[0].text);
    for (size_t i = 0; i < config_schema_n; i++) {
        const struct option *option = &config_schema[i];
        const struct config_node *node = find_node(root, option->path);
        if (node == NULL)
            fail_msg("etc/relayd.yaml does not show %s", option->path);
        struct span line = line_of(text, node->key_mark.line);
        bool commented = span_starts(span_trim(line), SPAN("#"));
        bool example = span_find(line, SPAN("e.g.")) != SIZE_MAX;
        bool is_value = option->type > OPT_INCLUDE;
        if (is_value && commented && example != (option->value == NULL))
            fail_msg("%s: \"e.g.\" belongs to what has no default: %.*s", option->path,
                     SPAN_ARG(line));
        if (option->value == NULL)
            continue;
        const struct config_node *value =
            config_parse(arena, "", span_str(option->value), &problems);
        if (!same_tree(node, value) && commented)
            fail_msg("%s: the default is %s, the file says %.*s", option->path, option->value,
                     SPAN_ARG(line));
    }
    config_problems_release(&problems);
    arena_free(arena);
    free(text);
    free(whole);
}

static void
the_annotated_file_loads_with_and_without_its_comments(void **state)
{
    (void)state;
    char *text = read_text(ETC "relayd.yaml"), *whole = uncomment(text);
    struct strbuf out = STRBUF_INIT;
    const struct text_file plain[] = {{.path = "c.yaml", .text = text}};
    struct config *c = text_load(plain, 1, 0, &out);
    if (c == NULL || out.n > 0)
        fail_msg("%s", out.p);
    config_free(c);
    /* All at once it is no sensible node; but no value is malformed and no key unknown. */
    const struct text_file all[] = {{.path = "c.yaml", .text = whole}};
    assert_null(text_load(all, 1, CONFIG_LOAD_OUTLINE, &out));
    static const char *const expected[] = {
        "ca_file and fingerprint exclude each other",
    };
    struct span rest = strbuf_span(&out);
    while (rest.n > 0) {
        struct span line = span_cut(&rest, '\n');
        bool known = false;
        for (size_t i = 0; i < N_ELEMENTS(expected); i++)
            known = known || span_find(line, span_str(expected[i])) != SIZE_MAX;
        if (!known)
            fail_msg("%.*s", SPAN_ARG(line));
    }
    strbuf_release(&out);
    free(text);
    free(whole);
}

static void
the_manual_is_what_the_table_renders(void **state)
{
    (void)state;
    char *stored = read_text(ETC "man/relayd.yaml.5"), *rendered = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&rendered, &n);
    assert_non_null(out);
    config_schema_print_man(out);
    assert_int_equal(fclose(out), 0);
    if (strcmp(stored, rendered) != 0)
        fail_msg(
            "etc/man/relayd.yaml.5 is out of date: build/*/tests/test_config_files --print-man > "
            "etc/man/relayd.yaml.5");
    free(stored);
    free(rendered);
}

int
main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--print-man") == 0) {
        config_schema_print_man(stdout);
        return 0;
    }
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_are_read_whole_with_their_mode, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(what_is_no_regular_file_is_refused_without_waiting,
                                        make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_node_is_loaded_from_disk, make_dir, remove_dir),
        cmocka_unit_test_setup_teardown(a_key_that_the_world_may_read_is_refused, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(a_key_that_we_may_not_read_prints_the_chown_line, make_dir,
                                        remove_dir),
        cmocka_unit_test_setup_teardown(included_files_come_in_byte_order, make_dir, remove_dir),
        cmocka_unit_test(the_file_for_trying_things_loads_as_it_is),
        cmocka_unit_test(the_annotated_file_has_every_option_and_its_default),
        cmocka_unit_test(the_annotated_file_loads_with_and_without_its_comments),
        cmocka_unit_test(the_manual_is_what_the_table_renders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
