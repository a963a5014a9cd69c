/*
 * Identity, capabilities and limits. Capabilities go through the plain system calls: libcap would
 * be a library for thirty lines.
 */
#include "relayd/ops/privs.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PORT_START "/proc/sys/net/ipv4/ip_unprivileged_port_start"
#define CAP_WORDS 2 /* _LINUX_CAPABILITY_VERSION_3: 64 bits */
#define CAP_PROBE_MAX 63
#define BIND ((uint64_t)1 << CAP_NET_BIND_SERVICE)

enum err_code
privs_find_user(const char *name, struct privs_user *ret, struct err *err)
{
    struct privs_user user = {.n_groups = PRIVS_GROUPS_MAX};
    if (strlen(name) >= sizeof(user.name))
        return err_set(err, ERR_INVAL, "user: the name is too long");
    errno = 0;
    const struct passwd *pw = getpwnam(name);
    if (pw == NULL && errno != 0 && errno != ENOENT && errno != ESRCH)
        return err_set(err, ERR_IO, "user %s: %s", name, strerror(errno));
    if (pw == NULL)
        return err_set(err, ERR_NOT_FOUND,
                       "user %s does not exist; make it with: adduser --system --group "
                       "--no-create-home %s",
                       name, name);
    snprintf(user.name, sizeof(user.name), "%s", name);
    user.uid = pw->pw_uid;
    user.gid = pw->pw_gid;
    if (getgrouplist(name, pw->pw_gid, user.groups, &user.n_groups) < 0)
        return err_set(err, ERR_LIMIT, "user %s is in more than %d groups", name, PRIVS_GROUPS_MAX);
    *ret = user;
    return ERR_OK;
}

/* ---- capabilities ---- */

struct caps {
    uint64_t effective, permitted, inheritable;
};

static bool
caps_get(struct caps *ret)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[CAP_WORDS];
    if (syscall(SYS_capget, &head, data) != 0)
        return false;
    ret->effective = (uint64_t)data[1].effective << 32 | data[0].effective;
    ret->permitted = (uint64_t)data[1].permitted << 32 | data[0].permitted;
    ret->inheritable = (uint64_t)data[1].inheritable << 32 | data[0].inheritable;
    return true;
}

static bool
caps_put(const struct caps *caps)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[CAP_WORDS];
    for (int i = 0; i < CAP_WORDS; i++)
        data[i] = (struct __user_cap_data_struct){
            .effective = (uint32_t)(caps->effective >> 32 * i),
            .permitted = (uint32_t)(caps->permitted >> 32 * i),
            .inheritable = (uint32_t)(caps->inheritable >> 32 * i),
        };
    return syscall(SYS_capset, &head, data) == 0;
}

static bool
caps_set(uint64_t mask)
{
    return caps_put(&(struct caps){.effective = mask, .permitted = mask});
}

void
privs_raise_bind(void)
{
    struct caps caps;
    if (!caps_get(&caps) || (caps.permitted & BIND) == 0 || (caps.effective & BIND) != 0)
        return;
    caps.effective |= BIND;
    caps_put(&caps); /* else the bind says what is wrong */
}

/* Leave only what is in `keep`, in every set of this thread. */
static enum err_code
caps_reduce(uint64_t keep, struct err *err)
{
    struct caps caps;
    if (!caps_get(&caps))
        return err_set(err, ERR_IO, "capget: %s", strerror(errno));
    keep &= caps.permitted;
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if ((caps.effective & (1u << CAP_SETPCAP)) != 0)
        for (unsigned cap = 0; cap <= CAP_PROBE_MAX; cap++)
            if ((keep >> cap & 1) == 0 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
                prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    if (!caps_set(keep))
        return err_set(err, ERR_IO, "capset: %s", strerror(errno));
    if (!caps_get(&caps) || caps.permitted != keep || caps.effective != keep)
        return err_set(err, ERR_PERM, "capabilities could not be given up");
    return ERR_OK;
}

/* ---- identity ---- */

static enum err_code
identity_check(const struct privs_user *user, struct err *err)
{
    uid_t ruid, euid, suid;
    gid_t rgid, egid, sgid;
    if (getresuid(&ruid, &euid, &suid) != 0 || getresgid(&rgid, &egid, &sgid) != 0)
        return err_set(err, ERR_IO, "getresuid: %s", strerror(errno));
    if (ruid != user->uid || euid != user->uid || suid != user->uid)
        return err_set(err, ERR_PERM,
                       "running as uid %u, but `user` is %s (uid %u): start as root or as that "
                       "user, or change `user`",
                       (unsigned)euid, user->name, (unsigned)user->uid);
    if (rgid != user->gid || egid != user->gid || sgid != user->gid)
        return err_set(err, ERR_PERM, "running as gid %u, but the group of %s is gid %u",
                       (unsigned)egid, user->name, (unsigned)user->gid);
    return ERR_OK;
}

enum err_code
privs_drop(const struct privs_user *user, bool keep_bind, struct err *err)
{
    if (geteuid() != 0 || user->uid == 0) {
        enum err_code code = user->uid == 0 && geteuid() == 0 ? ERR_OK : identity_check(user, err);
        if (code != ERR_OK || user->uid == 0)
            return code;
        return caps_reduce(keep_bind ? BIND : 0, err);
    }
    if (setgroups((size_t)user->n_groups, user->groups) != 0)
        return err_set(err, ERR_PERM, "setgroups: %s", strerror(errno));
    if (setresgid(user->gid, user->gid, user->gid) != 0)
        return err_set(err, ERR_PERM, "setresgid: %s", strerror(errno));
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0)
        return err_set(err, ERR_IO, "PR_SET_KEEPCAPS: %s", strerror(errno));
    if (setresuid(user->uid, user->uid, user->uid) != 0)
        return err_set(err, ERR_PERM, "setresuid: %s", strerror(errno));
    prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
    /* Changing the uid emptied the effective set; SETPCAP is needed to empty the bounding set. */
    if (!caps_set((uint64_t)1 << CAP_SETPCAP | BIND))
        caps_set(BIND); /* a container that took SETPCAP away */
    enum err_code code = caps_reduce(keep_bind ? BIND : 0, err);
    if (code == ERR_OK)
        code = identity_check(user, err);
    if (code == ERR_OK && (setresuid(0, 0, 0) == 0 || setresgid(0, 0, 0) == 0))
        return err_set(err, ERR_PERM, "root could be taken back");
    return code;
}

enum err_code
privs_harden(struct err *err)
{
    const struct rlimit none = {0, 0};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return err_set(err, ERR_IO, "PR_SET_NO_NEW_PRIVS: %s", strerror(errno));
    if (!PRIVS_TRACEABLE && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return err_set(err, ERR_IO, "PR_SET_DUMPABLE: %s", strerror(errno));
    if (setrlimit(RLIMIT_CORE, &none) != 0)
        return err_set(err, ERR_IO, "RLIMIT_CORE: %s", strerror(errno));
    umask(077);
    signal(SIGPIPE, SIG_IGN);
    return ERR_OK;
}

enum err_code
privs_raise_nofile(uint64_t want, uint64_t *ret_soft, struct err *err)
{
    struct rlimit limit, more;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return err_set(err, ERR_IO, "RLIMIT_NOFILE: %s", strerror(errno));
    if (want > limit.rlim_cur) {
        more = limit;
        more.rlim_cur = want;
        if (want > limit.rlim_max)
            more.rlim_max = want;
        if (setrlimit(RLIMIT_NOFILE, &more) == 0) {
            limit = more;
        } else if (limit.rlim_cur < limit.rlim_max) {
            limit.rlim_cur = want < limit.rlim_max ? want : limit.rlim_max;
            if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
                return err_set(err, ERR_IO, "RLIMIT_NOFILE: %s", strerror(errno));
        }
    }
    *ret_soft = limit.rlim_cur;
    return ERR_OK;
}

bool
privs_may_bind(uint16_t port)
{
    struct caps caps;
    unsigned start = 1024;
    if (port >= start || (caps_get(&caps) && (caps.effective >> CAP_NET_BIND_SERVICE & 1) != 0))
        return true;
    FILE *f = fopen(PORT_START, "re");
    if (f == NULL)
        return false;
    if (fscanf(f, "%u", &start) != 1)
        start = 1024;
    fclose(f);
    return port >= start;
}
