/*
 * A disk that fails at the n-th call. Preloaded into relayd; only files of one directory are
 * touched by it.
 *
 *   FAULT_DIR    the directory: calls on descriptors of files in it are counted
 *   FAULT_CALL   fdatasync fsync pwrite writev lseek ftruncate pread: which call fails
 *   FAULT_AT     the number of the first one that fails, from 1
 *   FAULT_TIMES  so many fail; -1: all from then on
 *   FAULT_ERRNO  the number of the error
 *   FAULT_HOW    none: nothing is done; half: half of it is written and nothing is said (a short
 *                write); late: it is done, and yet said to have failed
 *   FAULT_OFF    once this file exists nothing fails any more
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define TOLD_MAX 3 /* lines about it in the log; a fault that stays would fill it */

enum how { FINE, NONE, HALF, LATE };

static const char *dir, *call, *off;
static long at, times;
static int fault_errno;
static enum how fault_how;
static atomic_long n_calls;

__attribute__((constructor)) static void
setup(void)
{
    const char *how = getenv("FAULT_HOW");
    dir = getenv("FAULT_DIR");
    call = getenv("FAULT_CALL");
    off = getenv("FAULT_OFF");
    if (dir == NULL || call == NULL || how == NULL)
        return;
    at = atol(getenv("FAULT_AT"));
    times = atol(getenv("FAULT_TIMES"));
    fault_errno = atoi(getenv("FAULT_ERRNO"));
    fault_how = strcmp(how, "half") == 0 ? HALF : strcmp(how, "late") == 0 ? LATE : NONE;
}

static int
is_ours(int fd)
{
    char link[64], path[PATH_MAX];
    size_t n_dir = strlen(dir);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof(path) - 1);
    if (n < (ssize_t)n_dir || memcmp(path, dir, n_dir) != 0)
        return 0;
    return n == (ssize_t)n_dir || path[n_dir] == '/';
}

static enum how
fault(const char *name, int fd)
{
    char text[128];
    if (at == 0 || strcmp(name, call) != 0 || !is_ours(fd))
        return FINE;
    long n = atomic_fetch_add(&n_calls, 1) + 1;
    if (n < at || (times >= 0 && n >= at + times) || (off != NULL && access(off, F_OK) == 0))
        return FINE;
    if (n < at + TOLD_MAX) {
        int size = snprintf(text, sizeof(text), "event=fault call=%s n=%ld errno=%d\n", name, n,
                            fault_errno);
        if (syscall(SYS_write, 2, text, (size_t)size) != size)
            abort();
    }
    return fault_how;
}

/* The end of a call that was to fail: with NONE nothing was done, with LATE all of it. */
static ssize_t
end(enum how how, ssize_t result)
{
    if (how == FINE || how == HALF || result < 0)
        return result;
    errno = fault_errno;
    return -1;
}

int
fdatasync(int fd)
{
    enum how how = fault("fdatasync", fd);
    return (int)end(how, how == NONE ? 0 : syscall(SYS_fdatasync, fd));
}

int
fsync(int fd)
{
    enum how how = fault("fsync", fd);
    return (int)end(how, how == NONE ? 0 : syscall(SYS_fsync, fd));
}

ssize_t
pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
    enum how how = fault("pwrite", fd);
    if (how == HALF)
        n /= 2;
    return end(how, how == NONE ? 0 : syscall(SYS_pwrite64, fd, bytes, n, offset));
}

/* LMDB writes neighbouring pages with one call; a disk that fills up takes the first of them. */
ssize_t
writev(int fd, const struct iovec *iov, int n)
{
    enum how how = fault("writev", fd);
    if (how == HALF && n > 1)
        n /= 2;
    return end(how, how == NONE ? 0 : syscall(SYS_writev, fd, iov, n));
}

off_t
lseek(int fd, off_t offset, int whence)
{
    enum how how = fault("lseek", fd);
    return end(how, how == NONE ? 0 : syscall(SYS_lseek, fd, offset, whence));
}

int
ftruncate(int fd, off_t size)
{
    enum how how = fault("ftruncate", fd);
    return (int)end(how, how == NONE ? 0 : syscall(SYS_ftruncate, fd, size));
}

ssize_t
pread(int fd, void *bytes, size_t n, off_t offset)
{
    enum how how = fault("pread", fd);
    if (how == HALF)
        n /= 2;
    return end(how, how == NONE ? 0 : syscall(SYS_pread64, fd, bytes, n, offset));
}
