/*
 * The system-call filter. A deny-list on purpose: an allow-list breaks with an update of libc or
 * OpenSSL, in the middle of the night. systemd's SystemCallFilter narrows further where it runs us.
 */
#include "relayd/ops/privs.h"

#include <errno.h>
#include <seccomp.h>
#include <string.h>

#include "policy/base/mem.h"

static const char *const denied[] = {
    /* other processes */
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "kcmp",
    "pidfd_getfd",
    /* other programs */
    "execve",
    "execveat",
    "fork",
    "vfork",
    /* the system */
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "open_tree",
    "swapon",
    "swapoff",
    "reboot",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "acct",
    "quotactl",
    "sethostname",
    "setdomainname",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
    "iopl",
    "ioperm",
    "nfsservctl",
    /* doors into the kernel that have been open too often */
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "keyctl",
    "add_key",
    "request_key",
    "unshare",
    "setns",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "lookup_dcookie",
    "vmsplice",
    "name_to_handle_at",
    "open_by_handle_at",
    "personality",
    "modify_ldt",
};

static void
filter_release(scmp_filter_ctx *filter)
{
    if (*filter != NULL)
        seccomp_release(*filter);
}

enum err_code
privs_seccomp(struct err *err)
{
    if (PRIVS_TRACEABLE)
        return ERR_OK;
    CLEANUP(filter_release) scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    if (filter == NULL)
        return err_set(err, ERR_IO, "seccomp is not available");
    for (size_t i = 0; i < N_ELEMENTS(denied); i++) {
        int nr = seccomp_syscall_resolve_name(denied[i]);
        if (nr == __NR_SCMP_ERROR)
            continue; /* not known on this machine */
        int rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), nr, 0);
        if (rc != 0)
            return err_set(err, ERR_IO, "seccomp: %s: %s", denied[i], strerror(-rc));
    }
    int rc = seccomp_load(filter);
    if (rc != 0)
        return err_set(err, ERR_IO, "seccomp: %s", strerror(-rc));
    return ERR_OK;
}
