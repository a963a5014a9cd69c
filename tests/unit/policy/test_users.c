/* Users files: parsing, checking passwords, rewriting. */
#include "policy/base/mem.h"
#include "policy/users.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define HASH "$y$j9T$4DPHXmsGlDiCXyFnmRbBh1$F4yHaMJmyYjXGw8Sb8ihAXb/jhbTqnGCzcBE8kPjMQ2"

static char dir[] = "/tmp/relayd-users-XXXXXX";
static char path[64];

static int
make_dir(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/users", dir);
    return 0;
}

static int
remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static char *
slurp(void)
{
    static char text[8192];
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    assert_true(n >= 0);
    close(fd);
    text[n] = '\0';
    return text;
}

static void
put(const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    fchmod(fd, mode);
    close(fd);
}

static void
test_a_user_who_was_added_gets_in_and_nobody_else(void **state)
{
    struct err err;
    struct users *u;
    struct stat st;

    (void)state;
    unlink(path);
    assert_int_equal(users_add(path, SPAN("alice"), SPAN("secret"), &err), ERR_OK);
    assert_int_equal(users_add(path, SPAN("bob@src.test"), SPAN("other one"), &err), ERR_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_true(strncmp(slurp(), "alice:$y$", 9) == 0);
    assert_null(strstr(slurp(), "secret"));

    assert_int_equal(users_load(path, &u, &err), ERR_OK);
    assert_int_equal(users_count(u), 2);
    assert_true(users_has(u, SPAN("alice")));
    assert_false(users_has(u, SPAN("Alice")));
    assert_true(users_verify(u, SPAN("alice"), SPAN("secret")));
    assert_true(users_verify(u, SPAN("bob@src.test"), SPAN("other one")));
    assert_false(users_verify(u, SPAN("alice"), SPAN("other one")));
    assert_false(users_verify(u, SPAN("alice"), SPAN("")));
    assert_false(users_verify(u, SPAN("alice"), SPAN("secret\0x")));
    assert_false(users_verify(u, SPAN("alice"), SPAN("secre")));
    assert_false(users_verify(u, SPAN("Alice"), SPAN("secret")));
    assert_false(users_verify(u, SPAN("carol"), SPAN("secret")));
    assert_false(users_verify(u, SPAN("carol"), SPAN("decoy")));
    assert_false(users_verify(u, SPAN(""), SPAN("secret")));
    users_free(u);
}

static void
test_adding_again_changes_the_password_and_keeps_the_rest(void **state)
{
    struct err err;
    struct users *u;

    (void)state;
    put("# our people\n\nalice:" HASH "\nbob:" HASH "\n", 0640);
    assert_int_equal(users_add(path, SPAN("alice"), SPAN("new"), &err), ERR_OK);
    assert_int_equal(strncmp(slurp(), "# our people\n\nalice:$y$", 23), 0);
    assert_non_null(strstr(slurp(), "\nbob:" HASH "\n"));
    assert_int_equal(users_load(path, &u, &err), ERR_OK);
    assert_true(users_verify(u, SPAN("alice"), SPAN("new")));
    users_free(u);

    assert_int_equal(users_remove(path, SPAN("bob"), &err), ERR_OK);
    assert_null(strstr(slurp(), "bob"));
    assert_int_equal(users_remove(path, SPAN("bob"), &err), ERR_NOT_FOUND);
    assert_int_equal(users_remove(path, SPAN("# our people"), &err), ERR_NOT_FOUND);
}

static void
test_a_line_without_its_newline_stays_a_line(void **state)
{
    struct err err;
    struct users *u;

    (void)state;
    put("alice:" HASH, 0600);
    assert_int_equal(users_add(path, SPAN("bob"), SPAN("x"), &err), ERR_OK);
    assert_int_equal(users_load(path, &u, &err), ERR_OK);
    assert_int_equal(users_count(u), 2);
    users_free(u);
}

static void
test_bad_files_are_refused_by_line(void **state)
{
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"alice\n", "users:1: expected name:hash"},
        {"\n# x\n:" HASH "\n", "users:3: expected a name"},
        {"a b:" HASH "\n", "users:1: expected a name"},
        {"alice:\n", "users:1: expected a password hash"},
        {"alice:secret\n", "users:1: "},
        {"alice:$1$abcdefgh$0123456789012345678901\n", "users:1: the hash is of a weak kind"},
        {"alice:" HASH " \n", "users:1: a hash holds no blanks"},
        {"alice:" HASH "\nalice:" HASH "\n", "users: user alice is there twice"},
    };
    struct users *u;
    struct err err;

    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        assert_int_equal(users_parse(span_str(cases[i].text), "users", &u, &err), ERR_INVAL);
        if (strncmp(err.text, cases[i].want, strlen(cases[i].want)) != 0)
            fail_msg("%s", err.text);
        assert_null(strstr(err.text, "$y$"));
        assert_null(strstr(err.text, "secret"));
    }
}

static void
test_a_broken_file_is_not_rewritten(void **state)
{
    struct err err;

    (void)state;
    put("broken\n", 0600);
    assert_int_equal(users_add(path, SPAN("bob"), SPAN("x"), &err), ERR_INVAL);
    assert_string_equal(slurp(), "broken\n");
}

static void
test_names_and_passwords_that_would_break_the_file_are_refused(void **state)
{
    static const char *const names[] = {"", "a:b", "a b", "a\nb", "#a", "\xff", "a\x7f"};
    struct err err;

    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(names); i++)
        assert_int_equal(users_add(path, span_str(names[i]), SPAN("x"), &err), ERR_INVAL);
    assert_int_equal(users_add(path, SPAN("a"), SPAN(""), &err), ERR_INVAL);
    assert_int_equal(users_add(path, SPAN("a"), SPAN("x\0y"), &err), ERR_INVAL);
    char *longest = xcalloc(1, USERS_PASSWORD_MAX + 1);
    memset(longest, 'x', USERS_PASSWORD_MAX + 1);
    assert_int_equal(users_add(path, SPAN("a"), span_of(longest, USERS_PASSWORD_MAX + 1), &err),
                     ERR_INVAL);
    free(longest);
}

static void
test_a_file_that_others_can_read_is_refused(void **state)
{
    struct err err;
    struct users *u;

    (void)state;
    put("alice:" HASH "\n", 0644);
    assert_int_equal(users_load(path, &u, &err), ERR_PERM);
    put("alice:" HASH "\n", 0640);
    assert_int_equal(users_load(path, &u, &err), ERR_OK);
    users_free(u);
    unlink(path);
    assert_int_equal(users_load(path, &u, &err), ERR_NOT_FOUND);
    assert_int_equal(users_remove(path, SPAN("alice"), &err), ERR_NOT_FOUND);
}

static void
test_a_link_stays_a_link(void **state)
{
    CLEANUP(freep) char *link = xasprintf("%s.link", path);
    struct err err;
    struct stat st;

    (void)state;
    put("", 0600);
    assert_int_equal(symlink(path, link), 0);
    assert_int_equal(users_add(link, SPAN("alice"), SPAN("x"), &err), ERR_OK);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_non_null(strstr(slurp(), "alice:"));
    unlink(link);
}

static void
test_two_who_add_at_once_both_stay(void **state)
{
    struct err err;
    struct users *u;
    pid_t pids[6];
    int status;

    (void)state;
    unlink(path);
    for (size_t i = 0; i < N_ELEMENTS(pids); i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i] == 0) {
            char name[2] = {(char)('a' + i), '\0'};
            _exit(users_add(path, span_str(name), SPAN("x"), &err) != ERR_OK);
        }
    }
    for (size_t i = 0; i < N_ELEMENTS(pids); i++) {
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(users_load(path, &u, &err), ERR_OK);
    assert_int_equal(users_count(u), N_ELEMENTS(pids));
    users_free(u);
}

static int64_t
cpu_us(const struct users *u, struct span name)
{
    struct timespec a, b;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (int i = 0; i < 5; i++)
        assert_false(users_verify(u, name, SPAN("wrong")));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    return (b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000;
}

static void
test_an_unknown_user_costs_what_a_known_one_costs(void **state)
{
    static const char *const texts[] = {"", "alice:" HASH "\n"};
    struct users *u;
    struct err err;

    (void)state;
    assert_int_equal(users_parse(SPAN("alice:" HASH "\n"), "users", &u, &err), ERR_OK);
    int64_t known = cpu_us(u, SPAN("alice"));
    users_free(u);
    for (size_t i = 0; i < N_ELEMENTS(texts); i++) {
        assert_int_equal(users_parse(span_str(texts[i]), "users", &u, &err), ERR_OK);
        int64_t unknown = cpu_us(u, SPAN("nobody"));
        users_free(u);
        assert_true(unknown > known / 2 && unknown < known * 2);
    }
}

static void
test_generated_passwords_are_long_and_never_the_same(void **state)
{
    char a[USERS_GENERATED_MAX], b[USERS_GENERATED_MAX];

    (void)state;
    assert_int_equal(strlen(users_generate(a)), 24);
    assert_string_not_equal(a, users_generate(b));
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_user_who_was_added_gets_in_and_nobody_else),
        cmocka_unit_test(test_adding_again_changes_the_password_and_keeps_the_rest),
        cmocka_unit_test(test_a_line_without_its_newline_stays_a_line),
        cmocka_unit_test(test_bad_files_are_refused_by_line),
        cmocka_unit_test(test_a_broken_file_is_not_rewritten),
        cmocka_unit_test(test_names_and_passwords_that_would_break_the_file_are_refused),
        cmocka_unit_test(test_a_file_that_others_can_read_is_refused),
        cmocka_unit_test(test_a_link_stays_a_link),
        cmocka_unit_test(test_two_who_add_at_once_both_stay),
        cmocka_unit_test(test_an_unknown_user_costs_what_a_known_one_costs),
        cmocka_unit_test(test_generated_passwords_are_long_and_never_the_same),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
