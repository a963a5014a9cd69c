#include "relayd/ops/privs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
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
raise_bind_run(void)
{
    /* permitted and not effective, as behind a file capability "+p" */
    CHECK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
    CHECK(setresgid(12345, 12345, 12345) == 0 && setresuid(12345, 12345, 12345) == 0);
    CHECK(proc_caps("CapEff:") == 0 && (proc_caps("CapPrm:") >> 10 & 1) == 1);
    privs_raise_bind();
    CHECK(proc_caps("CapEff:") == 1ull << 10 && can_bind(25));
}

static void
a_permitted_capability_to_bind_is_made_effective_alone(void **state)
{
    (void)state;
    need_root();
    in_child(raise_bind_run);
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

/* ---- the system-call filter ---- */

static void *
thread_run(void *arg)
{
    return arg;
}

static void
seccomp_run(void)
{
    struct err err;
    struct rlimit limit;
    pthread_t thread;
    CHECK(privs_harden(&err) == ERR_OK);
    CHECK(privs_seccomp(&err) == ERR_OK);
    /* what a relay needs still works */
    FILE *f = fopen("/proc/self/status", "r");
    CHECK(f != NULL && fclose(f) == 0);
    CHECK(can_bind(0));
    CHECK(pthread_create(&thread, NULL, thread_run, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK(kill(getpid(), 0) == 0);
    int left, sock = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(sock >= 0 && ioctl(sock, SIOCOUTQ, &left) == 0 && close(sock) == 0);
    /* what is not listed, or not in this form, is not there */
    CHECK(setuid(getuid()) < 0 && errno == ENOSYS);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) < 0 && errno == ENOSYS);
    CHECK(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) < 0 && errno == ENOSYS);
    CHECK(kill(1, 0) < 0 && errno == ENOSYS);
    CHECK(socket(AF_PACKET, SOCK_RAW, 0) < 0 && errno == ENOSYS);
    CHECK(socket(AF_ALG, SOCK_SEQPACKET, 0) < 0 && errno == ENOSYS);
    CHECK(fork() < 0 && errno == ENOSYS);
    CHECK(symlink("a", "/tmp/b") < 0 && errno == ENOSYS);
    CHECK(ioctl(0, TIOCSTI, "x") < 0 && errno == ENOSYS);
}

static void
filtered_calls_fail_and_others_work(void **state)
{
    (void)state;
    if (PRIVS_TRACEABLE)
        skip();
    in_child(seccomp_run);
}

/* What only an intruder calls. Arguments do not matter: the filter looks at the number. */
static const long deadly[] = {
    SYS_execve,
    SYS_execveat,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_mount,
    SYS_umount2,
    SYS_chroot,
    SYS_pivot_root,
    SYS_unshare,
    SYS_setns,
    SYS_bpf,
    SYS_keyctl,
    SYS_add_key,
    SYS_init_module,
    SYS_finit_module,
    SYS_kexec_load,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_open_by_handle_at,
    SYS_reboot,
    SYS_swapon,
};

static void
calls_of_an_intruder_end_the_process(void **state)
{
    (void)state;
    if (PRIVS_TRACEABLE)
        skip();
    for (size_t i = 0; i < N_ELEMENTS(deadly); i++) {
        struct err err;
        int status;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            signal(SIGSYS, SIG_DFL);
            CHECK(privs_harden(&err) == ERR_OK && privs_seccomp(&err) == ERR_OK);
            syscall(deadly[i], 0, 0, 0, 0, 0);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
            fail_msg("call %ld: status %x", deadly[i], (unsigned)status);
    }
}

/* ---- the file system ---- */

static char tree[64]; /* a directory of this test, for the world */

static const char *
in_tree(const char *name)
{
    static char paths[128][128]; /* more than are asked for */
    static size_t next;
    char *path = paths[next++];
    snprintf(path, sizeof(paths[0]), "%s/%s", tree, name);
    return path;
}

static bool
can_open(const char *name, int flags)
{
    int fd = open(in_tree(name), flags, 0600);
    if (fd >= 0)
        close(fd);
    else
        CHECK(errno == EACCES);
    return fd >= 0;
}

static void
landlock_run(void)
{
    static const char *const made[] = {"read", "read/below", "log", "run", "queue", "other"};
    static const char *const files[] = {"read/below/key", "log/old",    "run/socket",
                                        "queue/data",     "other/file", "single"};
    struct privs_tree trees[] = {
        {in_tree("read"), PRIVS_READ},   {in_tree("log"), PRIVS_APPEND},
        {in_tree("run"), PRIVS_UNLINK},  {in_tree("queue"), PRIVS_ALL},
        {in_tree("single"), PRIVS_READ}, {in_tree("missing"), PRIVS_READ},
    };
    struct err err;
    int abi;

    for (size_t i = 0; i < N_ELEMENTS(made); i++)
        CHECK(mkdir(in_tree(made[i]), 0700) == 0);
    for (size_t i = 0; i < N_ELEMENTS(files); i++)
        CHECK(can_open(files[i], O_WRONLY | O_CREAT));
    int open_before = open(in_tree("other/file"), O_RDWR);
    CHECK(privs_harden(&err) == ERR_OK);
    enum err_code code = privs_landlock(trees, N_ELEMENTS(trees), &abi, &err);
    if (code != ERR_OK)
        fprintf(stderr, "%s\n", err.text);
    CHECK(code == ERR_OK && abi > 0);

    CHECK(can_open("read/below/key", O_RDONLY) && can_open("read", O_RDONLY | O_DIRECTORY));
    CHECK(!can_open("read/below/key", O_WRONLY) && !can_open("read/new", O_WRONLY | O_CREAT));
    CHECK(unlink(in_tree("read/below/key")) != 0);
    CHECK(can_open("log/new", O_WRONLY | O_APPEND | O_CREAT) && can_open("log/old", O_WRONLY));
    CHECK(!can_open("log/old", O_RDONLY) && unlink(in_tree("log/old")) != 0);
    CHECK(!can_open("run/socket", O_RDONLY) && !can_open("run/new", O_WRONLY | O_CREAT));
    CHECK(unlink(in_tree("run/socket")) == 0);
    CHECK(can_open("queue/new", O_RDWR | O_CREAT) && can_open("queue/data", O_RDWR | O_TRUNC));
    CHECK(unlink(in_tree("queue/new")) == 0);
    CHECK(can_open("single", O_RDONLY) && !can_open("single", O_WRONLY));
    CHECK(!can_open("other/file", O_RDONLY) && access(in_tree("other/file"), R_OK) == 0);
    CHECK(write(open_before, "x", 1) == 1);
    /* never anywhere: programs, devices, links, directories */
    CHECK(execl("/bin/true", "true", NULL) < 0 && errno == EACCES);
    CHECK(mkdir(in_tree("queue/sub"), 0700) != 0 && symlink("a", in_tree("queue/link")) != 0);
    CHECK(mkfifo(in_tree("queue/fifo"), 0600) != 0);
}

static void
only_named_trees_are_reachable(void **state)
{
    char command[128];
    struct err err;
    int abi = 0;
    (void)state;
    const bool kernel_has_it = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0;
    if (PRIVS_TRACEABLE || !kernel_has_it) {
        /* there it does nothing, and says so */
        assert_int_equal(privs_landlock(NULL, 0, &abi, &err), ERR_OK);
        assert_int_equal(abi, 0);
        skip();
    }
    snprintf(tree, sizeof(tree), "/tmp/privs-XXXXXX");
    assert_non_null(mkdtemp(tree));
    in_child(landlock_run);
    snprintf(command, sizeof(command), "rm -rf %s", tree);
    assert_int_equal(system(command), 0);
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
        cmocka_unit_test(a_permitted_capability_to_bind_is_made_effective_alone),
        cmocka_unit_test(another_user_is_an_error),
        cmocka_unit_test(an_unknown_user_is_told_how_to_make_it),
        cmocka_unit_test(a_hardened_process_dumps_nothing_and_survives_a_broken_pipe),
        cmocka_unit_test(filtered_calls_fail_and_others_work),
        cmocka_unit_test(calls_of_an_intruder_end_the_process),
        cmocka_unit_test(only_named_trees_are_reachable),
        cmocka_unit_test(descriptors_are_raised_as_far_as_allowed),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
