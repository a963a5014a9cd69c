/*
 * How: the directory is ours alone (0700) and holds our lock file beside LMDB's two. The lock file
 * is flocked before LMDB is opened, so two daemons never share a queue, and its text remembers that
 * a queue was made here: a data file that vanished later is an error, not a fresh start.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "queue/queue_impl.h"

#define LOCK_TEXT "relayd queue: remove this file together with data.mdb, or not at all\n"

static enum err_code
system_err(const char *path, const char *what, struct err *err)
{
    int why = errno;
    enum err_code code = ERR_IO;
    if (why == EACCES || why == EPERM || why == EROFS)
        code = ERR_PERM;
    else if (why == ENOSPC || why == EDQUOT)
        code = ERR_FULL;
    else if (why == ENOENT || why == ENOTDIR)
        code = ERR_NOT_FOUND;
    return err_set(err, code, "queue %s: %s: %s", path, what, strerror(why));
}

/* Nothing in it but what a queue has? Then its mode may be put right. */
static bool
is_ours(const char *path)
{
    DIR *dir = opendir(path);
    bool ours = dir != NULL, marked = false;
    struct dirent *e;
    while (dir != NULL && (e = readdir(dir)) != NULL) {
        if (strcmp(e->d_name, QUEUE_LOCK_FILE) == 0)
            marked = true;
        else if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
                 strcmp(e->d_name, "lost+found") != 0)
            ours = false;
    }
    if (dir != NULL)
        closedir(dir);
    return ours || marked;
}

static enum err_code
directory_ready(const char *path, bool create, struct err *err)
{
    struct stat st;
    if (create && mkdir(path, 0700) != 0 && errno != EEXIST)
        return system_err(path, "cannot make the directory", err);
    if (stat(path, &st) != 0)
        return system_err(path, "cannot look at the directory", err);
    if (!S_ISDIR(st.st_mode))
        return err_set(err, ERR_INVAL, "queue %s: this is not a directory", path);
    if ((st.st_mode & 077) == 0 || !create)
        return ERR_OK;
    if (!is_ours(path))
        return err_set(err, ERR_PERM,
                       "queue %s: the directory holds other things and is open to others (mode "
                       "%04o): give the queue its own",
                       path, (unsigned)st.st_mode & 07777);
    if (chmod(path, 0700) != 0)
        return system_err(path, "the directory is open to others, and chmod 0700", err);
    return ERR_OK;
}

/* LMDB maps the file and locks with shared memory: neither works over a network. */
static enum err_code
file_system_check(const char *path, struct queue_info *info, struct err *err)
{
    struct statfs fs;
    const char *name = NULL;
    if (statfs(path, &fs) != 0)
        return system_err(path, "cannot look at the file system", err);
    switch ((unsigned long)fs.f_type) {
    case NFS_SUPER_MAGIC:
        name = "NFS";
        break;
    case SMB_SUPER_MAGIC:
    case 0xff534d42ul: /* CIFS */
    case 0xfe534d42ul: /* SMB2 */
        name = "CIFS";
        break;
    case AFS_SUPER_MAGIC:
        name = "AFS";
        break;
    case V9FS_MAGIC:
        name = "9P";
        break;
    case CEPH_SUPER_MAGIC:
        name = "Ceph";
        break;
    default:
        break;
    }
    if (name != NULL)
        return err_set(err, ERR_INVAL,
                       "queue %s: it lies on a network file system (%s), where neither locks nor "
                       "syncs can be trusted: use a local disk",
                       path, name);
    info->on_overlay = fs.f_type == OVERLAYFS_SUPER_MAGIC;
    return ERR_OK;
}

enum err_code
queue_lock(struct queue *queue, bool create, struct queue_info *info, bool *ret_made_before,
           struct err *err)
{
    char name[4096], text[16];
    enum err_code code = directory_ready(queue->path, create, err);
    if (code == ERR_OK)
        code = file_system_check(queue->path, info, err);
    if (code != ERR_OK)
        return code;
    snprintf(name, sizeof(name), "%s/" QUEUE_LOCK_FILE, queue->path);
    queue->lock_fd = open(name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT : 0), 0600);
    if (queue->lock_fd < 0)
        return system_err(queue->path, "cannot open " QUEUE_LOCK_FILE, err);
    if (flock(queue->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return err_set(err, ERR_BUSY, "queue %s: another process uses it", queue->path);
        return system_err(queue->path, "cannot lock " QUEUE_LOCK_FILE, err);
    }
    ssize_t n = pread(queue->lock_fd, text, sizeof(text), 0);
    if (n < 0)
        return system_err(queue->path, "cannot read " QUEUE_LOCK_FILE, err);
    *ret_made_before = n > 0; /* whatever it says now: it is written when the queue is there */
    return ERR_OK;
}

static enum err_code
directory_sync(const char *path, const char *beneath, struct err *err)
{
    char name[4096];
    snprintf(name, sizeof(name), "%s%s", path, beneath);
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return system_err(path, "cannot open the directory", err);
    int rc = fsync(fd);
    enum err_code code = rc == 0 ? ERR_OK : system_err(path, "cannot sync the directory", err);
    close(fd);
    return code;
}

enum err_code
queue_lock_mark(struct queue *queue, struct err *err)
{
    size_t n = sizeof(LOCK_TEXT) - 1;
    /* The names of the files, and of the directory itself, must survive what the mail survives. */
    enum err_code code = directory_sync(queue->path, "", err);
    if (code == ERR_OK)
        code = directory_sync(queue->path, "/..", err);
    if (code != ERR_OK)
        return code;
    if (pwrite(queue->lock_fd, LOCK_TEXT, n, 0) != (ssize_t)n || fsync(queue->lock_fd) != 0)
        return system_err(queue->path, "cannot write " QUEUE_LOCK_FILE, err);
    return ERR_OK;
}
