/* The file system as a struct config_source: whole regular files, nothing that can block. */
#include "policy/config_load.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/base/mem.h"

static enum err_code
errno_code(int number)
{
    switch (number) {
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
        return ERR_PERM;
    default:
        return ERR_IO;
    }
}

/* By the permissions of the file. Where opening it is refused all the same, it lies outside the
 * trees that a daemon which serves has left itself (relayd/sandbox.c). */
static bool
may_read(const char *path)
{
    return faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) == 0;
}

#define FENCED                                                                              \
    "is in a directory that the running relayd has shut itself out of: restart relayd, or " \
    "move it beside the configuration"

enum err_code
config_open_failed(const char *path, int number, struct err *err)
{
    if (number == EACCES && may_read(path))
        return err_set(err, ERR_IO, "%s", FENCED);
    return err_set(err, errno_code(number), "%s", strerror(number));
}

/* All bytes until the end of the file: files of /proc say that they are empty. */
static enum err_code
read_all(int fd, size_t max, struct strbuf *bytes, struct err *err)
{
    for (;;) {
        if (bytes->cap - bytes->n < 2)
            strbuf_reserve(bytes, bytes->n == 0 ? 16384 : bytes->n);
        ssize_t n = read(fd, bytes->p + bytes->n, bytes->cap - bytes->n - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "%s", strerror(errno));
        if (n == 0)
            return ERR_OK;
        bytes->n += (size_t)n;
        if (bytes->n > max)
            return err_set(err, ERR_LIMIT, "the file is larger than %zu KiB", max >> 10);
    }
}

static enum err_code
read_fd(int fd, size_t max, struct config_blob *ret, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return err_set(err, ERR_IO, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_INVAL, "no regular file");
    struct strbuf bytes = STRBUF_INIT;
    /* Room for all of it at once: growing would leave copies of a secret behind. */
    strbuf_reserve(&bytes, (size_t)st.st_size < max ? (size_t)st.st_size + 64 : max);
    enum err_code code = read_all(fd, max, &bytes, err);
    size_t n = bytes.n;
    if (code != ERR_OK) {
        if (bytes.p != NULL)
            explicit_bzero(bytes.p, bytes.cap);
        strbuf_release(&bytes);
        return code;
    }
    *ret = (struct config_blob){
        .bytes = strbuf_take(&bytes), .n = n, .mode = (uint32_t)st.st_mode & 07777};
    return ERR_OK;
}

static enum err_code
files_read(void *ctx, const char *path, size_t max, struct config_blob *ret, struct err *err)
{
    (void)ctx;
    /* O_NONBLOCK: opening a FIFO that somebody left there must not hang a reload. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return config_open_failed(path, errno, err);
    enum err_code code = read_fd(fd, max, ret, err);
    close(fd);
    return code;
}

static int
compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* glob(3) passes over a directory that is not there; one that cannot be read is an error. */
static int
glob_error(const char *path, int number)
{
    (void)path;
    return number != ENOENT;
}

static enum err_code
glob_failed(const char *pattern, struct err *err)
{
    char *directory = xstrdup(pattern);
    directory[strcspn(directory, "*?[")] = '\0';
    char *slash = strrchr(directory, '/');
    if (slash != NULL)
        slash[1] = '\0';
    bool fenced = slash != NULL && may_read(directory);
    free(directory);
    return err_set(err, ERR_IO, "%s", fenced ? FENCED : "the directory cannot be read");
}

static enum err_code
files_glob(void *ctx, const char *pattern, void (*found)(void *arg, const char *path), void *arg,
           struct err *err)
{
    (void)ctx;
    glob_t paths;
    int rc = glob(pattern, GLOB_NOSORT, glob_error, &paths);
    if (rc == GLOB_NOMATCH)
        return ERR_OK;
    if (rc != 0) {
        globfree(&paths);
        return glob_failed(pattern, err);
    }
    qsort(paths.gl_pathv, paths.gl_pathc, sizeof(char *), compare_paths);
    for (size_t i = 0; i < paths.gl_pathc; i++)
        found(arg, paths.gl_pathv[i]);
    globfree(&paths);
    return ERR_OK;
}

const struct config_source *
config_files_source(void)
{
    static const struct config_source source = {.read = files_read, .glob = files_glob};
    return &source;
}
