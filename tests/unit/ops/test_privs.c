#include "relayd/ops/privs.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "policy/base/mem.h"

/* What is given up is given up for good, so each case runs in a child. It reports by its exit. */
#define CHECK(what)                                            \
    do {                                                       \
        if (!(what)) {                                         \
            fprintf(stderr, "line %d: %s\n", __LINE__, #what); \
            _exit(1);                                          \
        }                                                      \
    } while (0)

static void
in_child(void (*run)(void))
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        run();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void
need_root(void)
{
    if (geteuid() != 0)
        skip();
}

static bool
can_bind(uint16_t port)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 || errno == EADDRINUSE;
    close(fd);
    return ok;
}

/* A line of /proc/self/status as hexadecimal: CapEff, CapBnd ... */
static unsigned long long
proc_caps(const char *name)
{
    char line[256];
    unsigned long long value = ~0ull;
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f != NULL);
    while (fgets(line, sizeof(line), f) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            value = strtoull(line + strlen(name) + 1, NULL, 16);
    fclose(f);
    return value;
}

static void
drop_run(void)
{
    struct privs_user user;
    struct err err;
    CHECK(privs_find_user("nobody", &user, &err) == ERR_OK);
    CHECK(privs_drop(&user, false, &err) == ERR_OK);
    CHECK(getuid() == user.uid && geteuid() == user.uid && getgid() == user.gid);
    CHECK(getgroups(0, NULL) == user.n_groups);
    CHECK(proc_caps("CapPrm:") == 0 && proc_caps("CapEff:") == 0 && proc_caps("CapBnd:") == 0);
    CHECK(setuid(0) != 0 && setgid(0) != 0);
    CHECK(access("/etc/shadow", R_OK) != 0);
    CHECK(privs_may_bind(25) == can_bind(25));
    CHECK(privs_drop(&user, false, &err) == ERR_OK); /* again: only looked at */
}

static void
root_is_given_up_for_good(void **state)
{
    (void)state;
    need_root();
    in_child(drop_run);
}

static void
keep_bind_run(void)
{
    struct privs_user user;
    struct err err;
    CHECK(privs_find_user("nobody", &user, &err) == ERR_OK);
    CHECK(privs_drop(&user, true, &err) == ERR_OK);
    CHECK(proc_caps("CapEff:") == 1ull << 10 && proc_caps("CapPrm:") == 1ull << 10);
    CHECK(privs_may_bind(25) && can_bind(25));
    CHECK(setuid(0) != 0);
}

static void
binding_low_ports_is_kept_on_request_and_nothing_else(void **state)
{
    (void)state;
    need_root();
    in_child(keep_bind_run);
}

static void
wrong_user_run(void)
{
    struct privs_user nobody, root;
    struct err err;
    CHECK(privs_find_user("nobody", &nobody, &err) == ERR_OK);
    CHECK(privs_find_user("root", &root, &err) == ERR_OK);
    CHECK(privs_drop(&root, false, &err) == ERR_OK); /* user: root stays root */
    CHECK(geteuid() == 0);
    CHECK(setresgid(12345, 12345, 12345) == 0 && setresuid(12345, 12345, 12345) == 0);
    CHECK(privs_drop(&nobody, false, &err) == ERR_PERM);
    CHECK(strstr(err.text, "running as uid 12345, but `user` is nobody") != NULL);
    CHECK(privs_drop(&root, false, &err) == ERR_PERM);
}

static void
another_user_is_an_error(void **state)
{
    (void)state;
    need_root();
    in_child(wrong_user_run);
}

static void
an_unknown_user_is_told_how_to_make_it(void **state)
{
    (void)state;
    struct privs_user user;
    struct err err;
    assert_int_equal(privs_find_user("no-such-user-here", &user, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "adduser --system --group"));
}

static void
harden_run(void)
{
    struct err err;
    struct rlimit core;
    CHECK(privs_harden(&err) == ERR_OK);
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    CHECK(prctl(PR_GET_DUMPABLE) == PRIVS_TRACEABLE);
    CHECK(getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 && core.rlim_max == 0);
    CHECK(umask(0) == 077);
    int fds[2];
    CHECK(pipe(fds) == 0 && close(fds[0]) == 0);
    CHECK(write(fds[1], "x", 1) < 0 && errno == EPIPE); /* and we still live */
}

static void
a_hardened_process_dumps_nothing_and_survives_a_broken_pipe(void **state)
{
    (void)state;
    in_child(harden_run);
}

static void
seccomp_run(void)
{
    struct err err;
    char *argv[] = {"/bin/true", NULL};
    CHECK(privs_harden(&err) == ERR_OK);
    CHECK(privs_seccomp(&err) == ERR_OK);
    CHECK(execve("/bin/true", argv, argv + 1) < 0 && errno == EPERM);
    CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 && errno == EPERM);
    CHECK(chroot("/") < 0 && errno == EPERM);
    /* what a relay needs still works */
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f != NULL && fclose(f) == 0);
    CHECK(can_bind(0));
}

static void
filtered_calls_fail_and_others_work(void **state)
{
    (void)state;
    if (PRIVS_TRACEABLE)
        skip();
    in_child(seccomp_run);
}

static void
nofile_run(void)
{
    struct rlimit limit = {100, 200};
    struct err err;
    uint64_t soft = 0;
    if (geteuid() == 0) /* else the hard limit could not be passed anyway */
        CHECK(setresuid(12345, 12345, 12345) == 0);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(privs_raise_nofile(150, &soft, &err) == ERR_OK && soft == 150);
    CHECK(privs_raise_nofile(1000, &soft, &err) == ERR_OK && soft == 200);
    CHECK(privs_raise_nofile(10, &soft, &err) == ERR_OK && soft == 200); /* never lowered */
}

static void
descriptors_are_raised_as_far_as_allowed(void **state)
{
    (void)state;
    in_child(nofile_run);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(root_is_given_up_for_good),
        cmocka_unit_test(binding_low_ports_is_kept_on_request_and_nothing_else),
        cmocka_unit_test(another_user_is_an_error),
        cmocka_unit_test(an_unknown_user_is_told_how_to_make_it),
        cmocka_unit_test(a_hardened_process_dumps_nothing_and_survives_a_broken_pipe),
        cmocka_unit_test(filtered_calls_fail_and_others_work),
        cmocka_unit_test(descriptors_are_raised_as_far_as_allowed),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
