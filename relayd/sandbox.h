/*
 * sandbox - what a daemon that serves can still reach on its machine, decided once at the start.
 *
 * By Landlock (relayd/ops/privs.h), where the kernel has it:
 *   read     the directories of all files that the configuration named at the start, with all below
 *            them; /etc, /usr, /lib* (resolver, CA, time zones, what libc loads), the directory
 *            that /etc/resolv.conf leads to, /run/secrets, /proc
 *   write    the queue's directory; the log file's directory (a rotated log is opened anew)
 *   remove   the control socket, in its directory
 * A reload can therefore name new files in those directories, not in others: that takes a restart,
 * and the reload says so. By seccomp: a list of system calls.
 */
#pragma once

#include "policy/base/err.h"
#include "relayd/settings.h"

struct sandbox {
    int landlock; /* version in force; 0: none */
    bool seccomp; /* the filter is in force */
};

/*
 * Shut this thread, and those that it starts, in. Needs no_new_privs; the directories of queue and
 * control socket exist. What the kernel does not have is left out, *ret says what is in force.
 * ERR_IO: something of it failed, and the rest was done all the same.
 */
MUST_CHECK enum err_code
sandbox_enter(const struct settings *settings, struct sandbox *ret, struct err *err);
