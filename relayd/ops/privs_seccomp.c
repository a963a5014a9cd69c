/*
 * The system-call filter: privs.h says what becomes of a call. Whole families are listed rather
 * than what a trace shows today: the filter shall end an intruder, not a night with a newer libc.
 *
 *   lists ─▶ libseccomp, in a child ─▶ program ─▶ every call tried on it (bpf.h) ─▶ the kernel
 */
#include "relayd/ops/privs.h"

#include <errno.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/base/span.h"
#include "relayd/ops/bpf.h"

#define FILTER_SECONDS 10 /* to make the filter; milliseconds are usual */
#define CALLS_MAX 1024    /* numbers of calls that are tried; there are fewer than 500 */

/* What becomes of a call that is in no list. */
#define REFUSED (SECCOMP_RET_ERRNO | ENOSYS)

/* Names of system calls, apart by blanks. */
static const char *const allowed[] = {
    /* descriptors */
    "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek",
    "close close_range dup dup2 dup3 pipe pipe2 fcntl fcntl64 eventfd eventfd2 sendfile",
    "sendfile64",
    /* files: Landlock and permissions say which */
    "open openat openat2 creat stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat",
    "statx statfs statfs64 fstatfs fstatfs64 access faccessat faccessat2 readlink readlinkat",
    "getdents getdents64 getcwd mkdir mkdirat unlink unlinkat ftruncate ftruncate64 fallocate",
    "fadvise64 fadvise64_64 arm_fadvise64_64 readahead fsync fdatasync sync_file_range",
    "sync_file_range2 flock umask chmod fchmod fchmodat",
    /* memory; mprotect also for PCRE2's JIT */
    "brk mmap mmap2 munmap mremap mprotect madvise msync mincore mlock mlock2 munlock",
    "mlockall munlockall memfd_create membarrier",
    /* threads */
    "futex futex_time64 futex_waitv set_robust_list get_robust_list rseq set_tid_address",
    "gettid exit exit_group sched_yield sched_getaffinity sched_setaffinity sched_getparam",
    "sched_getscheduler sched_get_priority_max sched_get_priority_min arch_prctl",
    "set_thread_area get_thread_area set_tls cacheflush riscv_flush_icache riscv_hwprobe",
    "getcpu restart_syscall",
    /* signals */
    "sigaction rt_sigaction sigprocmask rt_sigprocmask sigreturn rt_sigreturn rt_sigpending",
    "rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 sigaltstack signalfd signalfd4",
    "pause alarm",
    /* time */
    "time gettimeofday clock_gettime clock_gettime64 clock_getres clock_getres_time64",
    "nanosleep clock_nanosleep clock_nanosleep_time64 times timerfd_create timerfd_settime",
    "timerfd_settime64 timerfd_gettime timerfd_gettime64 getitimer setitimer timer_create",
    "timer_settime timer_settime64 timer_gettime timer_gettime64 timer_getoverrun",
    "timer_delete",
    /* the network; socket is below */
    "socketpair bind listen accept accept4 connect shutdown getsockname getpeername",
    "getsockopt setsockopt send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg",
    "recvmmsg_time64",
    /* waiting */
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait",
    "epoll_pwait2 poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64",
    /* who and where we are */
    "getpid getppid getpgrp getpgid getsid getuid getuid32 geteuid geteuid32 getgid getgid32",
    "getegid getegid32 getresuid getresuid32 getresgid getresgid32 getgroups getgroups32",
    "capget getrlimit ugetrlimit getrusage getpriority uname sysinfo getrandom",
};

/* Nothing that runs in this process has a use for these. Not listed are what is harmless to be
 * without: those fail with ENOSYS. */
static const char *const deadly[] = {
    "execve execveat fork vfork ptrace process_vm_readv process_vm_writev",
    "pidfd_getfd kcmp mount umount umount2 pivot_root chroot move_mount fsopen fsconfig",
    "fsmount fspick open_tree mount_setattr swapon swapoff reboot kexec_load kexec_file_load",
    "init_module finit_module delete_module acct quotactl quotactl_fd sethostname",
    "setdomainname settimeofday clock_settime clock_settime64 stime iopl ioperm bpf",
    "perf_event_open userfaultfd keyctl add_key request_key unshare setns io_uring_setup",
    "io_uring_enter io_uring_register open_by_handle_at modify_ldt vm86 vm86old uselib",
    "lookup_dcookie syslog vhangup nfsservctl",
};

/* Allowed when argument `arg` is `value`, of the bits in `mask`, and likewise the next argument. */
struct request {
    const char *call;
    unsigned arg;
    uint64_t mask, value;
    uint64_t next_mask, next_value; /* 0: does not matter */
};

#define CALL_NAME_MAX 32
#define WHOLE UINT32_MAX /* the kernel looks at 32 bits of these arguments */
#define SOCKET_TYPE 0xf  /* without SOCK_CLOEXEC and SOCK_NONBLOCK */

static const struct request requests[] = {
    /* glibc asks for clone3() first and does without: its flags are out of a filter's sight */
    {"clone", 0, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM, 0, 0},
    {"socket", 0, WHOLE, AF_UNIX, 0, 0},
    {"socket", 0, WHOLE, AF_INET, SOCKET_TYPE, SOCK_STREAM},
    {"socket", 0, WHOLE, AF_INET, SOCKET_TYPE, SOCK_DGRAM},
    {"socket", 0, WHOLE, AF_INET6, SOCKET_TYPE, SOCK_STREAM},
    {"socket", 0, WHOLE, AF_INET6, SOCKET_TYPE, SOCK_DGRAM},
    {"socket", 0, WHOLE, AF_NETLINK, 0, 0},
    {"ioctl", 1, WHOLE, TCGETS, 0, 0},
    {"ioctl", 1, WHOLE, TIOCGWINSZ, 0, 0},
    {"ioctl", 1, WHOLE, FIONREAD, 0, 0},
    {"ioctl", 1, WHOLE, FIONBIO, 0, 0},
    {"ioctl", 1, WHOLE, FIOCLEX, 0, 0},
    {"ioctl", 1, WHOLE, SIOCOUTQ, 0, 0},
    {"ioctl", 1, WHOLE, SIOCGIFNAME, 0, 0},
    {"ioctl", 1, WHOLE, SIOCGIFINDEX, 0, 0},
    {"ioctl", 1, WHOLE, SIOCGIFCONF, 0, 0},
    {"ioctl", 1, WHOLE, SIOCGIFFLAGS, 0, 0},
    {"prctl", 0, WHOLE, PR_SET_NAME, 0, 0},
    {"prctl", 0, WHOLE, PR_GET_NAME, 0, 0},
    {"prctl", 0, WHOLE, PR_GET_DUMPABLE, 0, 0},
    {"prctl", 0, WHOLE, PR_CAPBSET_READ, 0, 0},
    {"prlimit64", 2, UINT64_MAX, 0, 0, 0}, /* nothing new is set */
};

static void
filter_release(scmp_filter_ctx *filter)
{
    if (*filter != NULL)
        seccomp_release(*filter);
}

static int
number_of(struct span call)
{
    char name[CALL_NAME_MAX];
    snprintf(name, sizeof(name), "%.*s", (int)call.n, call.p);
    return seccomp_syscall_resolve_name(name);
}

/* A call that this machine does not have gets a number that never matches. */
static enum err_code
rule_add(scmp_filter_ctx filter, uint32_t action, struct span call, unsigned n,
         const struct scmp_arg_cmp *compare, struct err *err)
{
    int nr = number_of(call);
    if (nr == __NR_SCMP_ERROR)
        return ERR_OK; /* libseccomp is older than the call */
    int rc = seccomp_rule_add_array(filter, action, nr, n, compare);
    if (rc != 0 && rc != -EDOM) /* EDOM: reached another way on this machine */
        return err_set(err, ERR_IO, "seccomp: %.*s: %s", SPAN_ARG(call), strerror(-rc));
    return ERR_OK;
}

static enum err_code
rules_add_all(scmp_filter_ctx filter, uint32_t action, const char *const *names, size_t n,
              struct err *err)
{
    enum err_code code = ERR_OK;
    for (size_t i = 0; i < n; i++) {
        struct span rest = span_str(names[i]);
        while (rest.n > 0 && code == ERR_OK)
            code = rule_add(filter, action, span_cut(&rest, ' '), 0, NULL, err);
    }
    return code;
}

/* Signals to ourselves: abort(), and a crash handler that passes one on. */
static const char *const kills[] = {"kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"};

#define N_REQUESTS (N_ELEMENTS(requests) + N_ELEMENTS(kills))

static struct request
request_at(size_t i, pid_t self)
{
    if (i < N_ELEMENTS(requests))
        return requests[i];
    return (struct request){kills[i - N_ELEMENTS(requests)], 0, WHOLE, (uint64_t)self, 0, 0};
}

static enum err_code
rules_add(scmp_filter_ctx filter, pid_t self, struct err *err)
{
    enum err_code code = rules_add_all(filter, SCMP_ACT_ALLOW, allowed, N_ELEMENTS(allowed), err);
    if (code == ERR_OK)
        code = rules_add_all(filter, SCMP_ACT_TRAP, deadly, N_ELEMENTS(deadly), err);
    for (size_t i = 0; i < N_REQUESTS && code == ERR_OK; i++) {
        const struct request r = request_at(i, self);
        const struct scmp_arg_cmp compare[] = {
            {r.arg, SCMP_CMP_MASKED_EQ, r.mask, r.value},
            {r.arg + 1, SCMP_CMP_MASKED_EQ, r.next_mask, r.next_value},
        };
        code = rule_add(filter, SCMP_ACT_ALLOW, span_str(r.call), r.next_mask != 0 ? 2 : 1, compare,
                        err);
    }
    return code;
}

/*
 * ---- the program, before it is in force ----
 *
 * Short of memory, libseccomp 2.5 crashes, walks in circles, frees what it has freed, or makes
 * another program than it was told and does not say so. So it works in a child, and each call is
 * tried on what comes from there.
 */

static enum err_code
filter_export(int fd, pid_t self, struct err *err)
{
    CLEANUP(filter_release) scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    if (filter == NULL)
        return err_set(err, ERR_IO, "seccomp: out of memory");
    seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a binary tree */
    enum err_code code = rules_add(filter, self, err);
    if (code != ERR_OK)
        return code;
    int rc = seccomp_export_bpf(filter, fd);
    return rc == 0 ? ERR_OK : err_set(err, ERR_IO, "seccomp: %s", strerror(-rc));
}

/* Leave the program in `fd`, or the words of an error. */
static _Noreturn void
child_run(int fd, pid_t self)
{
    static const int bad_ends[] = {SIGSEGV, SIGBUS, SIGABRT, SIGALRM};
    struct err err;

    for (size_t i = 0; i < N_ELEMENTS(bad_ends); i++)
        signal(bad_ends[i], SIG_DFL);
    alarm(FILTER_SECONDS);
    if (filter_export(fd, self, &err) == ERR_OK)
        _exit(0);
    (void)!write(fd, err.text, strlen(err.text));
    _exit(1);
}

/* The child's status, as waitpid(2) has it. */
static enum err_code
child_wait(pid_t child, int *ret_status, struct err *err)
{
    if (child < 0)
        return err_set(err, ERR_IO, "seccomp: fork: %m");
    while (waitpid(child, ret_status, 0) < 0)
        if (errno != EINTR)
            return err_set(err, ERR_IO, "seccomp: waitpid: %m");
    if (WIFSIGNALED(*ret_status))
        return err_set(err, ERR_IO,
                       "seccomp: libseccomp was ended by SIG%s, probably out of memory",
                       sigabbrev_np(WTERMSIG(*ret_status)));
    return ERR_OK;
}

static bool
answers(const struct sock_fprog *program, const struct seccomp_data *call, uint32_t expected)
{
    uint32_t answer;
    return bpf_answer(program->filter, program->len, call, &answer) && answer == expected;
}

/* With another bit of `mask` in that argument it is no more allowed. */
static bool
other_refused(const struct sock_fprog *program, struct seccomp_data call, unsigned arg,
              uint64_t mask)
{
    call.args[arg] ^= (uint64_t)1 << (63 - __builtin_clzll(mask));
    return answers(program, &call, REFUSED);
}

static bool
request_answered(const struct sock_fprog *program, const struct request *r, int nr)
{
    struct seccomp_data call = {.nr = nr, .arch = seccomp_arch_native()};
    bool two = r->next_mask != 0;

    call.args[r->arg] = r->value;
    if (two)
        call.args[r->arg + 1] = r->next_value;
    return answers(program, &call, SECCOMP_RET_ALLOW) &&
           other_refused(program, call, r->arg, r->mask) &&
           (!two || other_refused(program, call, r->arg + 1, r->next_mask));
}

static void
expect_all(uint32_t expected[CALLS_MAX], const char *const *names, size_t n, uint32_t answer)
{
    for (size_t i = 0; i < n; i++) {
        struct span rest = span_str(names[i]);
        while (rest.n > 0) {
            int nr = number_of(span_cut(&rest, ' '));
            if (nr >= 0 && nr < CALLS_MAX)
                expected[nr] = answer;
        }
    }
}

static bool
is_as_asked(const struct sock_fprog *program, pid_t self)
{
    struct seccomp_data call = {.arch = seccomp_arch_native()};
    uint32_t expected[CALLS_MAX];
    bool depends[CALLS_MAX] = {false}; /* on its arguments */

    for (size_t nr = 0; nr < CALLS_MAX; nr++)
        expected[nr] = REFUSED;
    expect_all(expected, allowed, N_ELEMENTS(allowed), SECCOMP_RET_ALLOW);
    expect_all(expected, deadly, N_ELEMENTS(deadly), SECCOMP_RET_TRAP);
    for (size_t i = 0; i < N_REQUESTS; i++) {
        const struct request r = request_at(i, self);
        int nr = number_of(span_str(r.call));
        if (nr < 0 || nr >= CALLS_MAX)
            continue;
        depends[nr] = true;
        if (!request_answered(program, &r, nr))
            return false;
    }
    for (int nr = 0; nr < CALLS_MAX; nr++) {
        call.nr = nr;
        if (!depends[nr] && !answers(program, &call, expected[nr]))
            return false;
    }
    call = (struct seccomp_data){.arch = ~call.arch};
    return answers(program, &call, SECCOMP_RET_KILL_PROCESS);
}

/* ret->filter is `blocks`. */
static enum err_code
program_make(struct sock_filter blocks[BPF_MAXINSNS], struct sock_fprog *ret, struct err *err)
{
    pid_t self = getpid();
    int status, fd = memfd_create("seccomp", MFD_CLOEXEC);

    if (fd < 0)
        return err_set(err, ERR_IO, "seccomp: memfd_create: %m");
    pid_t child = fork();
    if (child == 0)
        child_run(fd, self);
    enum err_code code = child_wait(child, &status, err);
    ssize_t n = pread(fd, blocks, BPF_MAXINSNS * sizeof(*blocks), 0);
    close(fd);
    if (code != ERR_OK)
        return code;
    if (n < 0 || status != 0)
        return err_set(err, ERR_IO, "%.*s", n < 0 ? 0 : (int)n, (const char *)blocks);
    *ret = (struct sock_fprog){(unsigned short)((size_t)n / sizeof(*blocks)), blocks};
    if (!is_as_asked(ret, self))
        return err_set(err, ERR_IO,
                       "seccomp: libseccomp made another filter than it was asked for, probably "
                       "out of memory");
    return ERR_OK;
}

enum err_code
privs_seccomp(struct err *err)
{
    struct sock_filter blocks[BPF_MAXINSNS];
    struct sock_fprog program;

    if (PRIVS_TRACEABLE)
        return ERR_OK;
    enum err_code code = program_make(blocks, &program, err);
    if (code != ERR_OK)
        return code;
    /* Refusals are in the kernel's log (audit). */
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_LOG, &program) != 0)
        return err_set(err, ERR_IO, "seccomp: %m");
    return ERR_OK;
}
