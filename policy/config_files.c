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
        return err_set(err, errno_code(errno), "%s", strerror(errno));
    enum err_code code = read_fd(fd, max, ret, err);
    close(fd);
    return code;
}

static int
compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum err_code
files_glob(void *ctx, const char *pattern, void (*found)(void *arg, const char *path), void *arg,
           struct err *err)
{
    (void)ctx;
    glob_t paths;
    int rc = glob(pattern, GLOB_NOSORT, NULL, &paths);
    if (rc == GLOB_NOMATCH)
        return ERR_OK;
    if (rc != 0)
        return err_set(err, ERR_IO, "the directory cannot be read");
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
