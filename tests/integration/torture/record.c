/*
 * record - LD_PRELOAD library that records what a daemon does to the files of one directory, and
 * what it says and hears about mail, in their order. RECORD_DIR names the directory, RECORD_LOG the
 * log (record_log.h).
 *
 * What may reach the disk is noted before the call that writes it, what is durable after the call
 * that syncs it; an acknowledgement before it is sent, a remote's reply after it was read. So the
 * log never shows a queue that is safer than it was.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "record_log.h"

#define FDS 65536
#define EXPORT __attribute__((visibility("default")))

static struct watched {
    ino_t file; /* 0: the directory itself */
    bool watched, synchronous;
} fds[FDS];

static const char *dir;
static size_t dir_n;
static char *map;
static struct record_head *head;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The function that would run without this library. Other libraries call some of these before the
 * constructor here has run, so each is looked up when it is needed. */
#define REAL(name)                        \
    static __typeof__(name) *real_##name; \
    if (real_##name == NULL)              \
    *(void **)&real_##name = dlsym(RTLD_NEXT, #name)

/* ------------------------------------------------------------------------------------ log */

/* Returns where the record begins. */
static uint64_t
add(enum record_kind kind, uint64_t file, uint64_t offset, uint64_t ref, const struct iovec *iov,
    int n_iov)
{
    struct record r = {.kind = kind, .file = file, .offset = offset, .ref = ref};
    for (int i = 0; i < n_iov; i++)
        r.n += (uint32_t)iov[i].iov_len;
    pthread_mutex_lock(&lock);
    uint64_t at = head->used, end = at + sizeof(r);
    if (end + r.n + 8 > RECORD_LOG_BYTES)
        abort();
    memcpy(map + at, &r, sizeof(r));
    for (int i = 0; i < n_iov; i++) {
        if (iov[i].iov_len > 0)
            memcpy(map + end, iov[i].iov_base, iov[i].iov_len);
        end += iov[i].iov_len;
    }
    head->used = (end + 7) / 8 * 8;
    pthread_mutex_unlock(&lock);
    return at;
}

static void
add_text(enum record_kind kind, uint64_t file, const char *text, size_t n)
{
    add(kind, file, 0, 0, &(struct iovec){(void *)text, n}, 1);
}

/* A new log begins with the files that are there already: as durable as after a power cut. */
static void
add_file(const char *name)
{
    REAL(open);
    REAL(close);
    char path[4096];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = real_open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        return;
    char *bytes = malloc((size_t)st.st_size + 1);
    if (pread(fd, bytes, (size_t)st.st_size, 0) != st.st_size)
        abort();
    struct iovec iov = {bytes, (size_t)st.st_size};
    add_text(RECORD_CREATE, st.st_ino, name, strlen(name));
    add(RECORD_WRITE, st.st_ino, 0, 0, &iov, 1);
    uint64_t at = add(RECORD_SYNC_BEGIN, st.st_ino, 0, 0, NULL, 0);
    add(RECORD_SYNC_END, st.st_ino, 0, at, NULL, 0);
    at = add(RECORD_SYNC_BEGIN, 0, 0, 0, NULL, 0);
    add(RECORD_SYNC_END, 0, 0, at, NULL, 0);
    free(bytes);
    real_close(fd);
}

/* The process before may have been killed between a record and its call. It has one thread that
 * writes, so only its last write can be that: see what the file really holds. */
static void
look_back(const char *name)
{
    REAL(open);
    REAL(close);
    char path[4096];
    struct stat st;
    const struct record *last = NULL;
    for (uint64_t at = sizeof(*head); at < head->used;) {
        const struct record *r = (const struct record *)(map + at);
        if (r->kind == RECORD_WRITE || r->kind == RECORD_WRITE_SYNC)
            last = r;
        at = (at + sizeof(*r) + r->n + 7) / 8 * 8;
    }
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = real_open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0 || last == NULL || last->file != st.st_ino)
        return;
    char *bytes = malloc((size_t)last->n + 1);
    ssize_t n = pread(fd, bytes, last->n, (off_t)last->offset);
    if (n != (ssize_t)last->n || memcmp(bytes, last + 1, last->n) != 0) {
        struct iovec iov = {bytes, n < 0 ? 0 : (size_t)n};
        add(RECORD_UNDONE, st.st_ino, 0, (uint64_t)((const char *)last - map), NULL, 0);
        add(RECORD_WRITE, st.st_ino, last->offset, 0, &iov, 1);
    }
    free(bytes);
    real_close(fd);
}

__attribute__((constructor)) static void
begin(void)
{
    REAL(open);
    REAL(close);
    REAL(ftruncate);
    dir = getenv("RECORD_DIR");
    const char *path = getenv("RECORD_LOG");
    if (dir == NULL || path == NULL)
        abort();
    dir_n = strlen(dir);
    int fd = real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || real_ftruncate(fd, RECORD_LOG_BYTES) != 0)
        abort();
    map = mmap(NULL, RECORD_LOG_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    real_close(fd);
    if (map == MAP_FAILED)
        abort();
    head = (struct record_head *)map;
    if (head->used == 0) {
        memcpy(head->magic, RECORD_MAGIC, sizeof(RECORD_MAGIC));
        head->used = sizeof(*head);
        add_file("data.mdb");
        add_file("relayd.lock");
    } else {
        look_back("data.mdb");
    }
    add(RECORD_START, 0, 0, 0, NULL, 0);
}

/* ---------------------------------------------------------------------------------- names */

/* The name beneath the directory: "" for itself, NULL for what lies elsewhere and for files that
 * are mapped and never synced: what those hold after a cut is not known anyway. */
static const char *
name_of(const char *path)
{
    if (map == NULL || strncmp(path, dir, dir_n) != 0)
        return NULL;
    if (path[dir_n] == '\0')
        return path + dir_n;
    const char *name = path + dir_n + 1;
    bool beneath = path[dir_n] == '/' && strchr(name, '/') == NULL && strcmp(name, "..") != 0;
    bool unsynced = strcmp(name, "lock.mdb") == 0 || strcmp(name, "in-hand") == 0;
    return beneath && !unsynced ? name : NULL;
}

static int
open_any(const char *path, int flags, mode_t mode)
{
    struct stat st;
    const char *name = (flags & O_TMPFILE) == O_TMPFILE ? NULL : name_of(path);
    bool new = name != NULL && (flags & O_CREAT) != 0 && stat(path, &st) != 0 && errno == ENOENT;
    REAL(open);
    int fd = real_open(path, flags, mode);
    if (name == NULL || fd < 0 || fd >= FDS)
        return fd;
    bool is_file = *name != '\0' && fstat(fd, &st) == 0;
    fds[fd] = (struct watched){is_file ? st.st_ino : 0, true, (flags & O_DSYNC) != 0};
    if (new)
        add_text(RECORD_CREATE, fds[fd].file, name, strlen(name));
    else if (is_file && (flags & O_TRUNC) != 0)
        add(RECORD_TRUNCATE, fds[fd].file, 0, 0, NULL, 0);
    return fd;
}

EXPORT int
open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    va_list ap;
    va_start(ap, flags);
    if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE)
        mode = va_arg(ap, mode_t);
    va_end(ap);
    return open_any(path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...) __attribute__((alias("open")));

EXPORT int
close(int fd)
{
    REAL(close);
    if (fd >= 0 && fd < FDS)
        fds[fd].watched = false;
    return real_close(fd);
}

EXPORT int
rename(const char *from, const char *to)
{
    REAL(rename);
    struct stat st;
    const char *a = name_of(from), *b = name_of(to);
    if (a != NULL && b != NULL && stat(from, &st) == 0) {
        struct iovec iov[] = {{(void *)a, strlen(a) + 1}, {(void *)b, strlen(b)}};
        add(RECORD_RENAME, st.st_ino, 0, 0, iov, 2);
    }
    return real_rename(from, to);
}

EXPORT int
unlink(const char *path)
{
    REAL(unlink);
    const char *name = name_of(path);
    if (name != NULL && access(path, F_OK) == 0)
        add_text(RECORD_UNLINK, 0, name, strlen(name));
    return real_unlink(path);
}

/* --------------------------------------------------------------------------------- writes */

static struct watched *
watched(int fd)
{
    return fd >= 0 && fd < FDS && fds[fd].watched ? &fds[fd] : NULL;
}

static ssize_t
done(const struct watched *w, uint64_t at, const struct iovec *iov, int n_iov, ssize_t written)
{
    int why = errno;
    ssize_t n = 0;
    for (int i = 0; i < n_iov; i++)
        n += (ssize_t)iov[i].iov_len;
    if (written != n)
        add(RECORD_FAILED, w->file, 0, at, NULL, 0);
    else if (w->synchronous)
        add(RECORD_DONE, w->file, 0, at, NULL, 0);
    errno = why;
    return written;
}

static uint64_t
note(const struct watched *w, const struct iovec *iov, int n_iov, off_t offset)
{
    return add(w->synchronous ? RECORD_WRITE_SYNC : RECORD_WRITE, w->file, (uint64_t)offset, 0, iov,
               n_iov);
}

EXPORT ssize_t
pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
    REAL(pwritev);
    struct watched *w = watched(fd);
    if (w == NULL)
        return real_pwritev(fd, iov, n, offset);
    uint64_t at = note(w, iov, n, offset);
    return done(w, at, iov, n, real_pwritev(fd, iov, n, offset));
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *iov, int n, off_t offset)
    __attribute__((alias("pwritev")));

EXPORT ssize_t
pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
    REAL(pwrite);
    struct watched *w = watched(fd);
    if (w == NULL)
        return real_pwrite(fd, bytes, n, offset);
    struct iovec iov = {(void *)bytes, n};
    uint64_t at = note(w, &iov, 1, offset);
    return done(w, at, &iov, 1, real_pwrite(fd, bytes, n, offset));
}

EXPORT ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t offset)
    __attribute__((alias("pwrite")));

EXPORT ssize_t
writev(int fd, const struct iovec *iov, int n)
{
    REAL(writev);
    struct watched *w = watched(fd);
    if (w == NULL)
        return real_writev(fd, iov, n);
    uint64_t at = note(w, iov, n, lseek(fd, 0, SEEK_CUR));
    return done(w, at, iov, n, real_writev(fd, iov, n));
}

EXPORT ssize_t
write(int fd, const void *bytes, size_t n)
{
    REAL(write);
    struct watched *w = watched(fd);
    if (w == NULL)
        return real_write(fd, bytes, n);
    struct iovec iov = {(void *)bytes, n};
    uint64_t at = note(w, &iov, 1, lseek(fd, 0, SEEK_CUR));
    return done(w, at, &iov, 1, real_write(fd, bytes, n));
}

EXPORT int
ftruncate(int fd, off_t size)
{
    REAL(ftruncate);
    struct watched *w = watched(fd);
    if (w != NULL)
        add(RECORD_TRUNCATE, w->file, (uint64_t)size, 0, NULL, 0);
    return real_ftruncate(fd, size);
}

EXPORT int ftruncate64(int fd, off_t size) __attribute__((alias("ftruncate")));

static int
sync_any(int fd, int (*real)(int))
{
    struct watched *w = watched(fd);
    if (w == NULL)
        return real(fd);
    uint64_t at = add(RECORD_SYNC_BEGIN, w->file, 0, 0, NULL, 0);
    int rc = real(fd), why = errno;
    add(rc == 0 ? RECORD_SYNC_END : RECORD_FAILED, w->file, 0, at, NULL, 0);
    errno = why;
    return rc;
}

EXPORT int
fsync(int fd)
{
    REAL(fsync);
    return sync_any(fd, real_fsync);
}

EXPORT int
fdatasync(int fd)
{
    REAL(fdatasync);
    return sync_any(fd, real_fdatasync);
}

/* ------------------------------------------------------------------------------- dialogues */

/* Note what follows each `mark` up to the end of its line. */
static void
look(enum record_kind kind, const char *mark, const char *p, size_t n)
{
    size_t mark_n = strlen(mark);
    for (const char *at, *end = p + n; (at = memmem(p, n, mark, mark_n)) != NULL;) {
        p = at + mark_n;
        n = (size_t)(end - p);
        const char *eol = memchr(p, '\r', n);
        add_text(kind, 0, p, eol == NULL ? n : (size_t)(eol - p));
    }
}

EXPORT ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
    REAL(sendmsg);
    for (size_t i = 0; map != NULL && i < msg->msg_iovlen; i++)
        look(RECORD_ACK, " queued as ", msg->msg_iov[i].iov_base, msg->msg_iov[i].iov_len);
    return real_sendmsg(fd, msg, flags);
}

EXPORT ssize_t
read(int fd, void *bytes, size_t n)
{
    REAL(read);
    ssize_t got = real_read(fd, bytes, n);
    int why = errno;
    if (got > 0 && map != NULL)
        look(RECORD_TAKEN, " took ", bytes, (size_t)got);
    errno = why;
    return got;
}
