/* Which deaths leave a mark, and what it says. Each case dies in a child of its own. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "relayd/work/inhand.h"

#define ID 0x1234567890abcdefu
#define PRINT 77u

static char path[64];
static char told[32768]; /* what the last child said on stderr */

static size_t
open_marks(struct inhand_mark marks[INHAND_SLOTS])
{
    struct err err;
    size_t n;
    if (inhand_open(path, marks, &n, &err) != ERR_OK)
        fail_msg("%s", err.text);
    return n;
}

static void
fault(void)
{
    char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *(volatile char *)page = 1;
}

static void *
fault_in_thread(void *arg)
{
    (void)arg;
    IN_HAND(ID + 1);
    fault();
    return NULL;
}

/* From now on the system call raises SIGSYS, as relayd/ops/privs.h has it. */
static void
refuse(unsigned call)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {N_ELEMENTS(filter), filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

enum death {
    FAULT,
    TRAP,
    ABORT,
    REFUSED,
    SENT_SEGV,
    SENT_ABRT,
    KILLED,
    LEFT,
    NESTED,
    THREAD,
    EMPTY
};

static _Noreturn void
die(enum death death)
{
    struct inhand_mark marks[INHAND_SLOTS];
    pthread_t thread;
    /* cmocka's own handlers would come back from the fault. */
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL, SIGSYS};
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        signal(signals[i], SIG_DFL);
    inhand_watch();
    open_marks(marks);
    uint64_t before = death == EMPTY ? 0 : inhand_enter(ID);
    inhand_print(PRINT);
    switch (death) {
    case FAULT:
    case EMPTY:
        fault();
        break;
    case TRAP:
        __builtin_trap(); /* SIGILL: not one of those that are watched */
    case ABORT:
        abort();
    case REFUSED:
        refuse(SYS_getpriority);
        syscall(SYS_getpriority, 0, 0);
        break;
    case SENT_SEGV:
    case SENT_ABRT:
    case KILLED:
        if (fork() == 0) {
            kill(getppid(), death == KILLED ? SIGKILL : death == SENT_SEGV ? SIGSEGV : SIGABRT);
            _exit(0);
        }
        for (;;)
            pause();
    case LEFT:
        inhand_leave(before);
        fault();
        break;
    case NESTED: {
        IN_HAND(ID + 5);
        fault();
        break;
    }
    case THREAD:
        if (pthread_create(&thread, NULL, fault_in_thread, NULL) == 0)
            pthread_join(thread, NULL);
        break;
    }
    _exit(0);
}

static void
read_told(int fd)
{
    size_t n = 0;
    ssize_t more;
    while ((more = read(fd, told + n, sizeof(told) - 1 - n)) > 0)
        n += (size_t)more;
    told[n] = '\0';
    close(fd);
}

/* The child's signal; its marks are read by a second child, since a process opens the file once. */
static size_t
marks_of(enum death death, int *ret_signal, struct inhand_mark *ret)
{
    int status, channel[2];
    struct {
        size_t n;
        struct inhand_mark marks[INHAND_SLOTS];
    } found;

    assert_int_equal(pipe(channel), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(channel[1], STDERR_FILENO);
        die(death);
    }
    close(channel[1]);
    read_told(channel[0]);
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status));
    *ret_signal = WTERMSIG(status);
    assert_int_equal(pipe(channel), 0);
    if (fork() == 0) {
        found.n = open_marks(found.marks);
        if (write(channel[1], &found, sizeof(found)) != sizeof(found))
            _exit(1);
        _exit(0);
    }
    wait(&status);
    assert_int_equal(read(channel[0], &found, sizeof(found)), sizeof(found));
    close(channel[0]);
    close(channel[1]);
    if (found.n > 0)
        *ret = found.marks[0];
    return found.n;
}

static int
make_path(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/inhand-%d", getpid());
    unlink(path);
    return 0;
}

static int
remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

static void
a_crash_of_our_own_blames_what_is_in_hand(void **state)
{
    (void)state;
    static const struct {
        enum death death;
        int signal;
        uint64_t id;
    } cases[] = {{FAULT, SIGSEGV, ID},
                 {ABORT, SIGABRT, ID},
                 {REFUSED, SIGSYS, ID},
                 {NESTED, SIGSEGV, ID + 5}};
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct inhand_mark mark = {0};
        int signal;
        assert_int_equal(marks_of(cases[i].death, &signal, &mark), 1);
        assert_int_equal(signal, cases[i].signal);
        assert_int_equal(mark.signal, cases[i].signal);
        assert_true(mark.id == cases[i].id);
        assert_true(mark.print == PRINT);
    }
}

static void
a_crash_in_a_thread_blames_what_that_thread_has(void **state)
{
    (void)state;
    struct inhand_mark mark = {0};
    int signal;
    assert_int_equal(marks_of(THREAD, &signal, &mark), 1);
    assert_int_equal(signal, SIGSEGV);
    assert_true(mark.id == ID + 1);
    assert_int_equal(mark.print, 0);
}

static void
signals_from_outside_and_idle_hands_blame_nobody(void **state)
{
    (void)state;
    static const struct {
        enum death death;
        int signal;
    } cases[] = {{SENT_SEGV, SIGSEGV},
                 {SENT_ABRT, SIGABRT},
                 {KILLED, SIGKILL},
                 {LEFT, SIGSEGV},
                 {TRAP, SIGILL}};
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct inhand_mark mark;
        int signal;
        assert_int_equal(marks_of(cases[i].death, &signal, &mark), 0);
        assert_int_equal(signal, cases[i].signal);
    }
}

/* Sanitizers say their part too. */
static void
a_crash_of_our_own_is_said(void **state)
{
    (void)state;
    static const struct {
        enum death death;
        const char *text, *never;
    } cases[] = {{FAULT, "relayd: crashed by SIGSEGV\n", NULL},
                 {EMPTY, "relayd: crashed by SIGSEGV\n", NULL},
                 {REFUSED, "relayd: system call ", "crashed"},
                 {ABORT, "", "relayd:"},
                 {SENT_SEGV, "", "relayd:"}};
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct inhand_mark mark;
        int signal;
        marks_of(cases[i].death, &signal, &mark);
        assert_non_null(strstr(told, cases[i].text));
        if (cases[i].never != NULL)
            assert_null(strstr(told, cases[i].never));
    }
}

static void
marks_are_read_once(void **state)
{
    (void)state;
    struct inhand_mark marks[INHAND_SLOTS], mark;
    int signal;
    assert_int_equal(marks_of(FAULT, &signal, &mark), 1); /* read by that child */
    assert_int_equal(open_marks(marks), 0);
}

static void
a_file_that_is_not_ours_says_nothing(void **state)
{
    (void)state;
    struct inhand_mark marks[INHAND_SLOTS];
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 10000; i++)
        fputc(i, f);
    fclose(f);
    assert_int_equal(open_marks(marks), 0);
}

static void
fingerprints_are_the_same_in_every_run(void **state)
{
    (void)state;
    assert_true(inhand_hash("From: a@b\r\n", 11) == inhand_hash("From: a@b\r\n", 11));
    assert_true(inhand_hash("a", 1) == 0xaf63dc4c8601ec8cu);
    assert_true(inhand_hash("a", 1) != inhand_hash("b", 1));
    assert_true(inhand_hash("", 0) != 0);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_crash_of_our_own_blames_what_is_in_hand, make_path,
                                        remove_path),
        cmocka_unit_test_setup_teardown(a_crash_in_a_thread_blames_what_that_thread_has, make_path,
                                        remove_path),
        cmocka_unit_test_setup_teardown(signals_from_outside_and_idle_hands_blame_nobody, make_path,
                                        remove_path),
        cmocka_unit_test_setup_teardown(a_crash_of_our_own_is_said, make_path, remove_path),
        cmocka_unit_test_setup_teardown(marks_are_read_once, make_path, remove_path),
        cmocka_unit_test_setup_teardown(a_file_that_is_not_ours_says_nothing, make_path,
                                        remove_path),
        cmocka_unit_test(fingerprints_are_the_same_in_every_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
