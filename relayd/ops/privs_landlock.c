/*
 * The file system fence (landlock(7)). Everything that this kernel can take away is taken away, and
 * given back for the trees that the caller names; execution is never given back. Descriptors that
 * are open already keep what they can. The headers of the build machine may be older than the
 * kernel, so the calls go by number and later rights are spelt out here.
 */
#include "relayd/ops/privs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "policy/base/mem.h"

/* Rights by the version of the interface that brought them. */
#define FS_ABI_1 ((uint64_t)(LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1) /* EXECUTE ... MAKE_SYM */
#define FS_REFER ((uint64_t)1 << 13)                                /* 2: rename over directories */
#define FS_TRUNCATE ((uint64_t)1 << 14)                             /* 3 */
#define FS_IOCTL_DEV ((uint64_t)1 << 15)                            /* 5 */
#define SCOPE_SIGNAL ((uint64_t)1 << 1)                             /* 6: signals to strangers */

#define READ ((uint64_t)LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define APPEND ((uint64_t)LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG)
#define UNLINK ((uint64_t)LANDLOCK_ACCESS_FS_REMOVE_FILE)
/* What a rule for a file, not a directory, may hold. */
#define OF_FILES \
    ((uint64_t)LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | FS_TRUNCATE)

/* struct landlock_ruleset_attr of ABI 6; an older kernel takes a longer one that ends in zeros. */
struct ruleset_attr {
    uint64_t handled_access_fs;
    uint64_t handled_access_net;
    uint64_t scoped;
};

static uint64_t
rights_of(int abi)
{
    return FS_ABI_1 | (abi >= 2 ? FS_REFER : 0) | (abi >= 3 ? FS_TRUNCATE : 0) |
           (abi >= 5 ? FS_IOCTL_DEV : 0);
}

static void
close_fd(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/* A tree that is not there needs no rule. */
static enum err_code
allow(int ruleset, const struct privs_tree *tree, uint64_t handled, struct err *err)
{
    static const uint64_t rights[] = {
        [PRIVS_READ] = READ,
        [PRIVS_APPEND] = APPEND,
        [PRIVS_UNLINK] = UNLINK,
        [PRIVS_ALL] = READ | APPEND | UNLINK | FS_TRUNCATE,
    };
    struct stat st;
    CLEANUP(close_fd) int fd = open(tree->path, O_PATH | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == EACCES))
        return ERR_OK;
    if (fd < 0 || fstat(fd, &st) != 0)
        return err_set(err, ERR_IO, "landlock: %s: %s", tree->path, strerror(errno));
    struct landlock_path_beneath_attr rule = {
        .allowed_access = rights[tree->access] & handled & (S_ISDIR(st.st_mode) ? ~0ull : OF_FILES),
        .parent_fd = fd,
    };
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
        return err_set(err, ERR_IO, "landlock: %s: %s", tree->path, strerror(errno));
    return ERR_OK;
}

enum err_code
privs_landlock(const struct privs_tree *trees, size_t n, int *ret_abi, struct err *err)
{
    *ret_abi = 0;
    if (PRIVS_TRACEABLE)
        return ERR_OK;
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi <= 0)
        return ERR_OK;
    const struct ruleset_attr attr = {
        .handled_access_fs = rights_of((int)abi),
        .scoped = abi >= 6 ? SCOPE_SIGNAL : 0,
    };
    CLEANUP(close_fd)
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
    if (ruleset < 0)
        return err_set(err, ERR_IO, "landlock: %s", strerror(errno));
    for (size_t i = 0; i < n; i++) {
        enum err_code code = allow(ruleset, &trees[i], attr.handled_access_fs, err);
        if (code != ERR_OK)
            return code;
    }
    if (syscall(SYS_landlock_restrict_self, ruleset, 0) != 0)
        return err_set(err, ERR_IO, "landlock: %s", strerror(errno));
    *ret_abi = (int)abi;
    return ERR_OK;
}
