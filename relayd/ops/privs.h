/*
 * privs - becoming an ordinary user, and what else a daemon gives up at its start.
 *
 * Capabilities, no_new_privs, Landlock and seccomp belong to a thread: all of this is called before
 * the first thread starts. Order in start.c: the outline of the configuration, privs_find_user(),
 * privs_raise_nofile(), bind ports, privs_drop(), privs_harden(), read secrets, open the queue,
 * privs_landlock(), privs_seccomp(), start threads.
 */
#pragma once

#include "policy/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PRIVS_GROUPS_MAX 64

struct privs_user {
    char name[64];
    uid_t uid;
    gid_t gid;
    gid_t groups[PRIVS_GROUPS_MAX]; /* as initgroups(3) would set them */
    int n_groups;
};

/*
 * Look `name` up. ERR_NOT_FOUND with a sentence that says how to make the user (systemd-sysusers or
 * adduser); ERR_LIMIT when it is in more than PRIVS_GROUPS_MAX groups; ERR_IO.
 */
MUST_CHECK enum err_code privs_find_user(const char *name, struct privs_user *ret, struct err *err);

/*
 * Make CAP_NET_BIND_SERVICE effective where it is only permitted, as by the file capability "+p" of
 * the image: a program with "+ep" could not be started at all where the capability is not allowed.
 */
void privs_raise_bind(void);

/*
 * Become `user` for good: groups, gids and uids (real, effective, saved), then every capability
 * out of all sets but, with `keep_bind`, CAP_NET_BIND_SERVICE, which lets a reload bind a new port
 * below 1024. Verified afterwards: an identity that could be taken back is ERR_PERM. Does nothing
 * but check when the process is that user already (systemd started it so); a process that is
 * neither root nor that user gets ERR_PERM. For root itself (`user: root`) nothing is dropped.
 */
MUST_CHECK enum err_code privs_drop(const struct privs_user *user, bool keep_bind, struct err *err);

/* Builds with a sanitizer stay traceable, since the leak checker traces its own process, and may
 * run a symbolizer: there PR_SET_DUMPABLE, the system-call filter and Landlock are left out. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PRIVS_TRACEABLE 1
#else
#define PRIVS_TRACEABLE 0
#endif

/* no_new_privs, PR_SET_DUMPABLE 0 (no ptrace, no core, /proc/self is root's), RLIMIT_CORE 0,
 * umask 077, and SIGPIPE ignored. ERR_IO names what failed. */
MUST_CHECK enum err_code privs_harden(struct err *err);

/*
 * Raise the soft limit of descriptors to `want`, or to the hard limit when that is lower (root
 * raises the hard limit too). Never lowers it. Sets *ret_soft to what is in force now.
 */
MUST_CHECK enum err_code privs_raise_nofile(uint64_t want, uint64_t *ret_soft, struct err *err);

/* May this process bind ports below 1024: CAP_NET_BIND_SERVICE is effective (root, or systemd's
 * AmbientCapabilities), or net.ipv4.ip_unprivileged_port_start is low enough for `port`. */
bool privs_may_bind(uint16_t port);

/*
 * The system-call filter, an allow-list: what libc, OpenSSL, LMDB, c-ares and libevent need to
 * serve.
 *  - Calls that only an intruder makes (execve, ptrace, mount, bpf, ...) raise SIGSYS: the daemon
 *    ends (relayd/work/inhand.h blames what was in hand), and the kernel's log names the call.
 *  - Any other call fails with ENOSYS, as on a kernel that does not have it yet: what a later libc
 *    tries first it does without.
 *  - socket() knows TCP and UDP, UNIX and NETLINK; kill() only this process; clone()
 *    only threads; prlimit() only reads; prctl() and ioctl() a few requests.
 * Needs no_new_privs or root; after privs_landlock(), before threads. Each call is tried on the
 * program before the kernel gets it. ERR_IO when the kernel has no seccomp (before Linux 4.14), or
 * the program is not what it was meant to be; there is no filter then.
 */
MUST_CHECK enum err_code privs_seccomp(struct err *err);

enum privs_access {
    PRIVS_READ,   /* files and lists of directories */
    PRIVS_APPEND, /* new files, and writing to files */
    PRIVS_UNLINK, /* only removing files */
    PRIVS_ALL,    /* all of this, and truncation */
};

struct privs_tree {
    const char *path; /* a file, or a directory with all below it */
    enum privs_access access;
};

/*
 * The file system fence: from now on this process reaches `trees` and nothing else by name, never
 * executes a file, and (from ABI 6 on) signals nobody else. What is not there is passed over. Open
 * descriptors, sockets and the existence of files (stat, access) are not affected. *ret_abi is the
 * version of Landlock that is in force; 0, and ERR_OK, on a kernel without it. Needs no_new_privs;
 * before threads. ERR_IO names the tree.
 */
MUST_CHECK enum err_code
privs_landlock(const struct privs_tree *trees, size_t n, int *ret_abi, struct err *err);
