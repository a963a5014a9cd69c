/*
 * Faults on demand: this program's own fdatasync(), pwrite() and writev() stand in front of the C
 * library's, also for LMDB (the program exports its symbols), and so does statvfs().
 */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct faults {
    atomic_int sync_errno;   /* of every fdatasync, 0 for none */
    atomic_int sync_fails;   /* only so many of them; -1 for all */
    atomic_int write_errno;  /* of every write of pages (not of a meta page) */
    atomic_llong disk_end;   /* writes of pages beyond this place find no room; 0 for none */
    atomic_bool short_write; /* writes of pages write half */
    atomic_int meta_errno;   /* of the meta page's write */
    atomic_llong disk_free;  /* what statvfs says; -1 for the truth */
    atomic_int n_syncs;
    pthread_mutex_t gate; /* who holds it keeps every fdatasync waiting */
};

static struct faults faults = {
    .disk_free = -1, .sync_fails = -1, .gate = PTHREAD_MUTEX_INITIALIZER};

static inline void
faults_clear(void)
{
    faults.sync_errno = faults.write_errno = faults.meta_errno = 0;
    faults.short_write = false;
    faults.disk_end = 0;
    faults.sync_fails = -1;
    faults.disk_free = -1;
}

#define META_PAGE_WRITE_MAX 200 /* LMDB writes 120 bytes of a meta page, and whole pages else */

int fdatasync(int fd);
int
fdatasync(int fd)
{
    faults.n_syncs++;
    pthread_mutex_lock(&faults.gate);
    pthread_mutex_unlock(&faults.gate);
    if (faults.sync_errno != 0 && faults.sync_fails != 0) {
        if (faults.sync_fails > 0)
            faults.sync_fails--;
        errno = faults.sync_errno;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static inline bool
is_beyond_end(off_t at, size_t n)
{
    return faults.disk_end != 0 && at + (off_t)n > faults.disk_end;
}

ssize_t pwrite(int fd, const void *buf, size_t n, off_t at);
ssize_t
pwrite(int fd, const void *buf, size_t n, off_t at)
{
    bool meta = n < META_PAGE_WRITE_MAX;
    int fault = meta ? faults.meta_errno : faults.write_errno;
    if (fault != 0) {
        errno = fault;
        return -1;
    }
    if (!meta && is_beyond_end(at, n)) {
        errno = ENOSPC;
        return -1;
    }
    if (!meta && faults.short_write)
        n /= 2;
    return syscall(SYS_pwrite64, fd, buf, n, at);
}

ssize_t writev(int fd, const struct iovec *iov, int n);
ssize_t
writev(int fd, const struct iovec *iov, int n)
{
    size_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes += iov[i].iov_len;
    int fault = faults.write_errno;
    if (fault == 0 && is_beyond_end(lseek(fd, 0, SEEK_CUR), bytes))
        fault = ENOSPC;
    if (fault != 0) {
        errno = fault;
        return -1;
    }
    return syscall(SYS_writev, fd, iov, faults.short_write && n > 1 ? 1 : n);
}

int
statvfs(const char *restrict path, struct statvfs *restrict ret)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fstatvfs(fd, ret);
    if (fd >= 0)
        close(fd);
    if (rc == 0 && faults.disk_free >= 0)
        ret->f_bavail = (fsblkcnt_t)((unsigned long long)faults.disk_free / ret->f_frsize);
    return rc;
}
