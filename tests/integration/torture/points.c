/*
 * points - an LD_PRELOAD library that kills relayd at a named point of its work.
 *
 *     RELAYD_POINT="NAME|N|SIGNAL[|FILE]"
 *
 * At the N-th time that the process comes to the point it sends itself the signal, as kill(2) from
 * outside would; the moment (ns of CLOCK_MONOTONIC) is appended to FILE first. The points are calls
 * into other libraries, told apart by what they carry, so that the program has no code for them.
 * Their names: POINTS in test_a_points.py.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <lmdb.h>

#define REAL(name) ((typeof(&name))real(#name))

static char wanted[64];
static unsigned long long at_call;
static int with_signal, note_fd = -1;
static atomic_ullong calls;

static void *
real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void
points_init(void)
{
    char file[256] = "";
    const char *text = getenv("RELAYD_POINT");

    if (text == NULL ||
        sscanf(text, "%63[^|]|%llu|%d|%255s", wanted, &at_call, &with_signal, file) < 3)
        wanted[0] = '\0';
    else if (file[0] != '\0')
        note_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

static void
point(const char *name)
{
    struct timespec t;

    if (strcmp(name, wanted) != 0 || atomic_fetch_add(&calls, 1) + 1 != at_call)
        return;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (note_fd >= 0)
        dprintf(note_fd, "%lld\n", (long long)t.tv_sec * 1000000000 + t.tv_nsec);
    kill(getpid(), with_signal);
}

/* ---- sockets: accept and deliver ---- */

static bool
has(const void *bytes, size_t n, const char *what)
{
    return n > 0 && memmem(bytes, n, what, strlen(what)) != NULL;
}

static bool
is_socket(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

static void
came(const char *bytes, size_t n)
{
    if (has(bytes, n, "EHLO client.test"))
        point("accept: EHLO read");
    if (has(bytes, n, "MAIL FROM:<"))
        point("accept: envelope read");
    if (n >= 5 && memcmp(bytes + n - 5, "\r\n.\r\n", 5) == 0)
        point("accept: dot read");
    else if (n >= 512)
        point("accept: body read");
    if (has(bytes, n, "220 sink"))
        point("deliver: greeting read");
    if (has(bytes, n, "354 go"))
        point("deliver: 354 read");
    if (has(bytes, n, " taken\r\n"))
        point("deliver: 250 read");
    if (has(bytes, n, "451 "))
        point("deliver: 451 read");
    if (has(bytes, n, "554 "))
        point("deliver: 554 read");
}

ssize_t
read(int fd, void *buf, size_t count)
{
    static typeof(&read) next;
    if (next == NULL)
        next = REAL(read);
    ssize_t n = next(fd, buf, count);
    if (n > 0 && wanted[0] != '\0' && is_socket(fd))
        came(buf, (size_t)n);
    return n;
}

enum sent { SENT_OTHER, SENT_REPLY, SENT_ENVELOPE, SENT_DOT };

static enum sent
sent_kind(const struct msghdr *msg)
{
    for (size_t i = 0; i < msg->msg_iovlen; i++) {
        const struct iovec *v = &msg->msg_iov[i];
        if (has(v->iov_base, v->iov_len, " queued as "))
            return SENT_REPLY;
        if (has(v->iov_base, v->iov_len, "MAIL FROM:<"))
            return SENT_ENVELOPE;
        if (i + 1 == msg->msg_iovlen && v->iov_len >= 3 &&
            memcmp((char *)v->iov_base + v->iov_len - 3, ".\r\n", 3) == 0)
            return SENT_DOT;
    }
    return SENT_OTHER;
}

ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
    static const char *const before[] = {"", "accept: before 250 is sent",
                                         "deliver: before the envelope is sent",
                                         "deliver: before the dot is sent"};
    static const char *const after[] = {"", "accept: after 250 is sent",
                                        "deliver: after the envelope is sent",
                                        "deliver: after the dot is sent"};
    static typeof(&sendmsg) next;
    enum sent kind = wanted[0] != '\0' ? sent_kind(msg) : SENT_OTHER;

    if (next == NULL)
        next = REAL(sendmsg);
    point(before[kind]);
    ssize_t n = next(fd, msg, flags);
    point(after[kind]);
    return n;
}

int
connect(int fd, const struct sockaddr *to, socklen_t n)
{
    static typeof(&connect) next;
    if (next == NULL)
        next = REAL(connect);
    int rc = next(fd, to, n);
    if (to->sa_family == AF_INET && ((const unsigned char *)to->sa_data)[1] == 25)
        point("deliver: connecting");
    return rc;
}

/* ---- the queue: commit and record ---- */

/* Handles of the tables by name, and what the one write transaction has put. */
static MDB_dbi table_message, table_chunk, table_history, table_schedule;
static MDB_txn *writing;
static bool put_message, put_chunk, put_history, put_schedule;
static _Thread_local bool committing, synced;

int
mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode)
{
    int rc = REAL(mdb_env_open)(env, path, flags, mode);
    point("start: the queue is open");
    return rc;
}

int
mdb_dbi_open(MDB_txn *txn, const char *name, unsigned flags, MDB_dbi *dbi)
{
    int rc = REAL(mdb_dbi_open)(txn, name, flags, dbi);
    MDB_dbi *known = name == NULL                    ? NULL
                     : strcmp(name, "message") == 0  ? &table_message
                     : strcmp(name, "body") == 0     ? &table_chunk
                     : strcmp(name, "history") == 0  ? &table_history
                     : strcmp(name, "schedule") == 0 ? &table_schedule
                                                     : NULL;
    if (rc == 0 && known != NULL)
        *known = *dbi;
    point("start: a table is open");
    return rc;
}

int
mdb_txn_begin(MDB_env *env, MDB_txn *parent, unsigned flags, MDB_txn **txn)
{
    int rc = REAL(mdb_txn_begin)(env, parent, flags, txn);
    if (rc == 0 && (flags & MDB_RDONLY) == 0) {
        writing = *txn;
        put_message = put_chunk = put_history = put_schedule = false;
        point("commit: begun");
    } else {
        point("start: a read has begun");
    }
    return rc;
}

int
mdb_cursor_put(MDB_cursor *cursor, MDB_val *key, MDB_val *value, unsigned flags)
{
    int rc = REAL(mdb_cursor_put)(cursor, key, value, flags);
    MDB_dbi table = mdb_cursor_dbi(cursor);
    if (rc != 0)
        return rc;
    put_message |= table == table_message;
    put_chunk |= table == table_chunk;
    put_history |= table == table_history;
    put_schedule |= table == table_schedule;
    point(table == table_message    ? "commit: message put"
          : table == table_chunk    ? "commit: chunk put"
          : table == table_history  ? "record: finished put"
          : table == table_schedule ? "record: deferred put"
                                    : "commit: other put");
    return rc;
}

static void
commit_point(const char *when)
{
    char name[64];
    const char *kinds[] = {put_message && !put_history ? "accept: mail" : NULL,
                           put_chunk ? "accept: chunk" : NULL,
                           put_history ? "record: outcome" : NULL,
                           put_history && put_message ? "record: notice" : NULL,
                           put_schedule ? "record: deferral" : NULL};

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (kinds[i] != NULL) {
            snprintf(name, sizeof(name), "%s %s", kinds[i], when);
            point(name);
        }
    }
}

int
mdb_txn_commit(MDB_txn *txn)
{
    bool is_write = txn == writing;
    if (is_write) {
        point("commit: entered");
        commit_point("before its commit");
        synced = false;
        committing = true;
    }
    int rc = REAL(mdb_txn_commit)(txn);
    if (is_write) {
        committing = false;
        writing = NULL;
        point("commit: returned");
        commit_point("after its commit");
    }
    return rc;
}

int
fdatasync(int fd)
{
    if (committing)
        point("commit: before the sync");
    int rc = REAL(fdatasync)(fd);
    if (committing) {
        synced = true;
        point("commit: after the sync");
    }
    return rc;
}

static void
written(void)
{
    if (committing)
        point(synced ? "commit: meta page written" : "commit: pages written");
}

ssize_t
pwrite(int fd, const void *buf, size_t n, off_t offset)
{
    ssize_t rc = REAL(pwrite)(fd, buf, n, offset);
    written();
    return rc;
}

ssize_t
writev(int fd, const struct iovec *iov, int n)
{
    ssize_t rc = REAL(writev)(fd, iov, n);
    written();
    return rc;
}
