/*
 * slow_sync - a slow disk for one program: 5 ms more for each fsync(), fdatasync(), msync(MS_SYNC)
 * and each write through a descriptor that was opened with O_SYNC or O_DSYNC.
 *
 *     LD_PRELOAD=slow_sync.so PROGRAM...        SLOW_SYNC_MS=20 for another time
 *
 * Only the calling thread or process waits, as with a disk that takes many requests at once. Which
 * descriptors sync is noted when they are opened and asked of the kernel again before it waits, so
 * that sockets and ordinary files cost nothing more. Descriptors from FD_MAX on are not looked at.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FD_MAX 65536
#define DEFAULT_MS 5

static atomic_bool syncs[FD_MAX]; /* this descriptor was opened with O_SYNC or O_DSYNC */
static struct timespec delay;

#define REAL(name)                 \
    static __typeof__(name) *real; \
    if (real == NULL)              \
    real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void
delay_read(void)
{
    const char *text = getenv("SLOW_SYNC_MS");
    long ms = text != NULL ? strtol(text, NULL, 10) : DEFAULT_MS;

    delay = (struct timespec){ms / 1000, ms % 1000 * 1000000L};
}

static void
slow(void)
{
    nanosleep(&delay, NULL);
}

static bool
fd_syncs(int fd)
{
    int flags;

    return fd >= 0 && fd < FD_MAX && syncs[fd] && (flags = fcntl(fd, F_GETFL)) >= 0 &&
           (flags & O_DSYNC) != 0; /* O_SYNC has this bit too */
}

static int
opened(int fd, int flags)
{
    if (fd >= 0 && fd < FD_MAX)
        syncs[fd] = (flags & O_DSYNC) != 0;
    return fd;
}

int
fsync(int fd)
{
    REAL(fsync);
    int done = real(fd);
    slow();
    return done;
}

int
fdatasync(int fd)
{
    REAL(fdatasync);
    int done = real(fd);
    slow();
    return done;
}

int
msync(void *address, size_t n, int flags)
{
    REAL(msync);
    int done = real(address, n, flags);
    if (flags & MS_SYNC)
        slow();
    return done;
}

#define OPEN(name)                                                              \
    int name(const char *path, int flags, ...)                                  \
    {                                                                           \
        REAL(name);                                                             \
        va_list more;                                                           \
        va_start(more, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                           \
        return opened(real(path, flags, mode), flags);                          \
    }

#define OPENAT(name)                                                            \
    int name(int dir, const char *path, int flags, ...)                         \
    {                                                                           \
        REAL(name);                                                             \
        va_list more;                                                           \
        va_start(more, flags);                                                  \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                           \
        return opened(real(dir, path, flags, mode), flags);                     \
    }

#define WRITE(name, parameters, ...)      \
    ssize_t name parameters               \
    {                                     \
        REAL(name);                       \
        ssize_t done = real(__VA_ARGS__); \
        if (fd_syncs(fd))                 \
            slow();                       \
        return done;                      \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
WRITE(write, (int fd, const void *p, size_t n), fd, p, n)
WRITE(pwrite, (int fd, const void *p, size_t n, off_t at), fd, p, n, at)
WRITE(pwrite64, (int fd, const void *p, size_t n, off64_t at), fd, p, n, at)
WRITE(writev, (int fd, const struct iovec *iov, int n), fd, iov, n)
WRITE(pwritev, (int fd, const struct iovec *iov, int n, off_t at), fd, iov, n, at)
WRITE(pwritev64, (int fd, const struct iovec *iov, int n, off64_t at), fd, iov, n, at)
