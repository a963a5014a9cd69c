#include "relayd/ctl/files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/base/mem.h"

static enum err_code
code_of_errno(int number)
{
    switch (number) {
    case EEXIST:
        return ERR_EXISTS;
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_PERM;
    default:
        return ERR_IO;
    }
}

static enum err_code
file_error(const char *path, int number, struct err *err)
{
    return err_set(err, code_of_errno(number), "%s: %s", path,
                   number == EEXIST ? "it is there already and is not overwritten"
                                    : strerror(number));
}

/* 0, or errno. */
static int
write_all(int fd, struct span bytes)
{
    while (bytes.n > 0) {
        ssize_t n = write(fd, bytes.p, bytes.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        bytes = span_from(bytes, (size_t)n);
    }
    return fsync(fd) == 0 ? 0 : errno;
}

enum err_code
ctl_file_create(const char *path, mode_t mode, struct span bytes, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return file_error(path, errno, err);
    int failed = fchmod(fd, mode) == 0 ? write_all(fd, bytes) : errno;
    if (close(fd) != 0 && failed == 0)
        failed = errno;
    if (failed == 0)
        return ERR_OK;
    unlink(path);
    return file_error(path, failed, err);
}

void
ctl_file_discard(const char *path)
{
    unlink(path);
}

enum err_code
ctl_file_read(const char *path, size_t max, struct strbuf *ret, struct err *err)
{
    char buf[8192];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return file_error(path, errno, err);
    while ((n = read(fd, buf, sizeof(buf))) > 0 && ret->n <= max)
        strbuf_add(ret, buf, (size_t)n);
    int failed = n < 0 ? errno : 0;
    close(fd);
    explicit_bzero(buf, sizeof(buf));
    if (failed != 0)
        return file_error(path, failed, err);
    if (ret->n > max)
        return err_set(err, ERR_LIMIT, "%s: larger than %zu bytes", path, max);
    return ERR_OK;
}
