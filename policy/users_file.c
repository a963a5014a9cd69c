/*
 * users_file - reads and rewrites users files. Called by relayctl, and by accept's tests.
 *
 * A file is replaced as a whole under a lock on its directory: read, change one line in memory,
 * write a temporary file beside it, sync it, rename it over the old one, sync the directory. A
 * reader sees the old text or the new one.
 */
#include "policy/users.h"

#include "policy/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static void
closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static void
text_wipe(struct strbuf *sb)
{
    if (sb->p != NULL)
        explicit_bzero(sb->p, sb->cap);
    strbuf_release(sb);
}

static enum err_code
open_error(const char *path, struct err *err)
{
    if (errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "%s: no such file", path);
    if (errno != EACCES)
        return err_set(err, ERR_IO, "%s: %m", path);
    struct passwd *me = getpwuid(geteuid());
    return err_set(err, ERR_PERM, "%s: may not be read: chown %s %s", path,
                   me == NULL ? "USER" : me->pw_name, path);
}

/* The whole file, and what fstat() said. */
static enum err_code
file_read(const char *path, struct strbuf *ret, struct stat *ret_stat, struct err *err)
{
    CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char block[65536];
    ssize_t n;

    if (fd < 0)
        return open_error(path, err);
    if (fstat(fd, ret_stat) != 0)
        return err_set(err, ERR_IO, "%s: %m", path);
    if (!S_ISREG(ret_stat->st_mode))
        return err_set(err, ERR_INVAL, "%s: not a regular file", path);
    while ((n = read(fd, block, sizeof block)) > 0) {
        if (ret->n + (size_t)n > USERS_FILE_MAX)
            return err_set(err, ERR_LIMIT, "%s: larger than %u octets", path, USERS_FILE_MAX);
        strbuf_add(ret, block, (size_t)n);
    }
    explicit_bzero(block, sizeof block);
    return n == 0 ? ERR_OK : err_set(err, ERR_IO, "%s: %m", path);
}

enum err_code
users_load(const char *path, struct users **ret, struct err *err)
{
    CLEANUP(text_wipe) struct strbuf text = STRBUF_INIT;
    struct stat st;
    enum err_code code = file_read(path, &text, &st, err);

    if (code != ERR_OK)
        return code;
    if ((st.st_mode & 07) != 0)
        return err_set(err, ERR_PERM, "%s: others can read or write it: chmod 0600 %s", path, path);
    return users_parse(strbuf_span(&text), path, ret, err);
}

static enum err_code
write_all(int fd, struct span text)
{
    while (text.n > 0) {
        ssize_t n = write(fd, text.p, text.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return ERR_IO;
        text = span_from(text, (size_t)n);
    }
    return fsync(fd) == 0 ? ERR_OK : ERR_IO;
}

/* Put `text` in the place of the file; `old` is NULL when it is a new one. */
static enum err_code
file_replace(const char *path, int dir, struct span text, const struct stat *old, struct err *err)
{
    CLEANUP(freep) char *temporary = xasprintf("%s.new", path);

    unlink(temporary); /* of one that was killed; we hold the lock */
    CLEANUP(closep)
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(err, errno == EACCES ? ERR_PERM : ERR_IO, "%s: %m", temporary);
    if (old != NULL && (old->st_uid != geteuid() || old->st_gid != getegid()) &&
        fchown(fd, old->st_uid, old->st_gid) != 0) {
        err_set(err, ERR_PERM, "%s: the owner of the old file cannot be kept: %m", path);
        unlink(temporary);
        return ERR_PERM;
    }
    if (write_all(fd, text) != ERR_OK || rename(temporary, path) != 0 || fsync(dir) != 0) {
        err_set(err, ERR_IO, "%s: %m", path);
        unlink(temporary);
        return ERR_IO;
    }
    return ERR_OK;
}

/* Copy `text` to `out` with `line` in the place of the user's (or at the end when he has none);
 * an empty `line` takes him out. Returns whether he was there. */
static bool
rewrite(struct span text, struct span name, struct span line, struct strbuf *out)
{
    bool found = false;

    while (text.n > 0) {
        struct span old = span_cut(&text, '\n'), of = old;
        bool his = old.n > 0 && old.p[0] != '#' && span_eq(span_cut(&of, ':'), name);
        if (!his || line.n > 0) {
            strbuf_add_span(out, his ? line : old);
            strbuf_add_byte(out, '\n');
        }
        found = found || his;
    }
    if (!found && line.n > 0) {
        strbuf_add_span(out, line);
        strbuf_add_byte(out, '\n');
    }
    return found;
}

/* An empty `line`: remove. */
static enum err_code
change(const char *path, struct span name, struct span line, struct err *err)
{
    CLEANUP(text_wipe) struct strbuf text = STRBUF_INIT, changed = STRBUF_INIT;
    CLEANUP(freep) char *real = realpath(path, NULL); /* a link stays a link */
    CLEANUP(freep) char *copy = xstrdup(real == NULL ? path : real);
    CLEANUP(closep) int dir = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct users *users;
    struct stat st;

    if (dir < 0 || flock(dir, LOCK_EX) != 0)
        return err_set(err, errno == EACCES ? ERR_PERM : ERR_IO, "%s: %m", copy);
    enum err_code code = file_read(path, &text, &st, err);
    bool fresh = code == ERR_NOT_FOUND && line.n > 0;
    if (code != ERR_OK && !fresh)
        return code;
    code = users_parse(strbuf_span(&text), path, &users, err);
    if (code != ERR_OK)
        return code; /* a broken file is not made another one by us */
    users_free(users);
    if (!rewrite(strbuf_span(&text), name, line, &changed) && line.n == 0)
        return err_set(err, ERR_NOT_FOUND, "%s: there is no user %.*s", path, SPAN_ARG(name));
    return file_replace(real == NULL ? path : real, dir, strbuf_span(&changed), fresh ? NULL : &st,
                        err);
}

enum err_code
users_add(const char *path, struct span name, struct span password, struct err *err)
{
    CLEANUP(text_wipe) struct strbuf line = STRBUF_INIT;
    char hash[USERS_HASH_BUF];

    if (!users_name_valid(name))
        return err_set(err, ERR_INVAL,
                       "expected a name of 1 to %d characters without blanks and colons",
                       USERS_NAME_MAX);
    enum err_code code = users_hash(password, hash, err);
    if (code != ERR_OK)
        return code;
    strbuf_printf(&line, "%.*s:%s", SPAN_ARG(name), hash);
    explicit_bzero(hash, sizeof hash);
    return change(path, name, strbuf_span(&line), err);
}

enum err_code
users_remove(const char *path, struct span name, struct err *err)
{
    return change(path, name, SPAN_NONE, err);
}
