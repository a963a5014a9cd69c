/*
 * The targets. Lines are gathered in `out` and written with one call. What is not a regular file (a
 * pipe, a terminal, the journal's socket) may stop taking bytes: there we poll first and write at
 * most PIPE_BUF bytes, so that log_stop() is never held up longer than it allows.
 */
#include "relayd/ops/log_impl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "policy/base/mem.h"

#define POLL_MS 100
#define SYSLOG_SOCKET "/dev/log"
#define SYSLOG_FACILITY_MAIL (2 << 3)
#define SYSLOG_SEND_SECONDS 1 /* a syslogd that does not read costs a line that, not for ever */

/* Levels as sd-daemon(3) and syslog(3) number them. */
static const int priorities[] = {
    [LOG_ALERT] = 1, [LOG_ERROR] = 3, [LOG_WARNING] = 4, [LOG_INFO] = 6, [LOG_DEBUG] = 7,
};

/* JOURNAL_STREAM=DEV:INODE names the journal's socket; it is ours when stderr is that socket. */
static bool
stderr_is_journal(void)
{
    const char *env = getenv("JOURNAL_STREAM");
    struct stat st;
    unsigned long long dev, ino;
    if (env == NULL || sscanf(env, "%llu:%llu", &dev, &ino) != 2 || fstat(STDERR_FILENO, &st) != 0)
        return false;
    return st.st_dev == (dev_t)dev && st.st_ino == (ino_t)ino;
}

/* By the permissions: then it is the sandbox (relayd/sandbox.h) that refuses. */
static bool
may_write(const char *path)
{
    char directory[PATH_MAX];
    if (faccessat(AT_FDCWD, path, F_OK, AT_EACCESS) == 0)
        return faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0;
    snprintf(directory, sizeof(directory), "%s", path);
    char *slash = strrchr(directory, '/');
    if (slash == NULL)
        return false;
    slash[slash == directory] = '\0';
    return faccessat(AT_FDCWD, directory, W_OK | X_OK, AT_EACCESS) == 0;
}

static enum err_code
file_open(const char *path, int *ret_fd, struct err *err)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
    struct stat st;
    if (fd < 0 && errno == EACCES && may_write(path))
        return err_set(err, ERR_IO,
                       "log file %s: in a directory that the running relayd has shut itself out "
                       "of: restart relayd",
                       path);
    if (fd < 0)
        return err_set(err, ERR_IO, "log file %s: %s", path, strerror(errno));
    if (fstat(fd, &st) != 0 || S_ISDIR(st.st_mode)) {
        close(fd);
        return err_set(err, ERR_IO, "log file %s: not a file", path);
    }
    *ret_fd = fd;
    return ERR_OK;
}

static bool
fd_is_slow(int fd)
{
    struct stat st;
    return fstat(fd, &st) != 0 || !S_ISREG(st.st_mode);
}

enum err_code
log_sink_new(const char *target, struct log_sink **ret, struct err *err)
{
    struct log_sink sink = {.fd = -1};
    if (strcmp(target, "stderr") == 0) {
        sink.kind = SINK_STDERR;
        sink.fd = STDERR_FILENO;
        sink.journal = stderr_is_journal();
    } else if (strcmp(target, "syslog") == 0) {
        sink.kind = SINK_SYSLOG;
        sink.path = xstrdup(SYSLOG_SOCKET);
    } else {
        sink.kind = SINK_FILE;
        enum err_code code = file_open(target, &sink.fd, err);
        if (code != ERR_OK)
            return code;
        sink.path = xstrdup(target);
    }
    sink.slow = sink.fd >= 0 && fd_is_slow(sink.fd);
    sink.out = xmalloc(LOG_SINK_OUT_BYTES);
    *ret = xmalloc(sizeof(sink));
    **ret = sink;
    return ERR_OK;
}

void
log_sink_free(struct log_sink *sink)
{
    if (sink == NULL)
        return;
    if (sink->kind != SINK_STDERR && sink->fd >= 0)
        close(sink->fd);
    free(sink->path);
    free(sink->out);
    free(sink);
}

enum err_code
log_sink_reopen(struct log_sink *sink, struct err *err)
{
    int fd;
    if (sink->kind != SINK_FILE)
        return ERR_OK;
    enum err_code code = file_open(sink->path, &fd, err);
    if (code != ERR_OK)
        return code;
    close(sink->fd);
    sink->fd = fd;
    sink->slow = fd_is_slow(fd);
    sink->mid_line = false;
    return ERR_OK;
}

static bool
gave_up(const _Atomic int64_t *give_up_at)
{
    int64_t at = atomic_load_explicit(give_up_at, memory_order_relaxed);
    return at != 0 && log_monotonic_ms() >= at;
}

/* Returns the number of bytes that got out. */
static size_t
write_out(struct log_sink *sink, const char *p, size_t n, const _Atomic int64_t *give_up_at)
{
    size_t done = 0;
    while (done < n) {
        size_t piece = n - done;
        if (sink->slow) {
            struct pollfd pfd = {.fd = sink->fd, .events = POLLOUT};
            if (gave_up(give_up_at))
                break;
            if (poll(&pfd, 1, POLL_MS) == 0)
                continue;
            if (piece > PIPE_BUF)
                piece = PIPE_BUF;
        }
        ssize_t wrote = write(sink->fd, p + done, piece);
        if (wrote < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (wrote <= 0)
            break;
        done += (size_t)wrote;
    }
    return done;
}

static size_t
count_lines(const char *p, size_t n)
{
    size_t lines = 0;
    for (const char *end = p + n; (p = memchr(p, '\n', (size_t)(end - p))) != NULL; p++)
        lines++;
    return lines;
}

size_t
log_sink_flush(struct log_sink *sink, const _Atomic int64_t *give_up_at)
{
    size_t n = sink->n_out;
    sink->n_out = 0;
    if (n == 0)
        return 0;
    if (sink->mid_line && write_out(sink, "\n", 1, give_up_at) == 1)
        sink->mid_line = false;
    size_t done = sink->mid_line ? 0 : write_out(sink, sink->out, n, give_up_at);
    if (done > 0)
        sink->mid_line = sink->out[done - 1] != '\n';
    return count_lines(sink->out + done, n - done);
}

static bool
syslog_connect(struct log_sink *sink)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = SYSLOG_SEND_SECONDS};
    if (strlen(sink->path) >= sizeof(addr.sun_path))
        return false;
    memcpy(addr.sun_path, sink->path, strlen(sink->path));
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0) {
        close(fd);
        return false;
    }
    sink->fd = fd;
    return true;
}

/* <PRI>Mmm dd hh:mm:ss relayd[PID]: LINE, the form that local syslog daemons read. */
static size_t
syslog_line(struct log_sink *sink, enum log_level level, struct span line)
{
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t now = (time_t)(log_wall_ms() / 1000);
    struct tm tm;
    localtime_r(&now, &tm);
    int head = snprintf(sink->out, LOG_SINK_OUT_BYTES, "<%d>%s %2d %02d:%02d:%02d relayd[%d]: ",
                        SYSLOG_FACILITY_MAIL | priorities[level], months[tm.tm_mon % 12],
                        tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)getpid());
    assert(head > 0 && (size_t)head + line.n < LOG_SINK_OUT_BYTES);
    memcpy(sink->out + head, line.p, line.n - 1); /* without its LF */
    size_t n = (size_t)head + line.n - 1;
    for (int attempt = 0; attempt < 2; attempt++) {
        if (sink->fd < 0 && !syslog_connect(sink))
            return 1;
        if (send(sink->fd, sink->out, n, MSG_NOSIGNAL) == (ssize_t)n)
            return 0;
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EMSGSIZE || errno == ENOBUFS)
            return 1;
        close(sink->fd); /* syslogd was restarted */
        sink->fd = -1;
    }
    return 1;
}

size_t
log_sink_line(struct log_sink *sink, enum log_level level, struct span line,
              const _Atomic int64_t *give_up_at)
{
    if (sink->kind == SINK_SYSLOG)
        return gave_up(give_up_at) ? 1 : syslog_line(sink, level, line);
    size_t lost = 0;
    if (sink->n_out + line.n + 3 > LOG_SINK_OUT_BYTES)
        lost = log_sink_flush(sink, give_up_at);
    if (sink->journal) {
        char prefix[3] = {'<', (char)('0' + priorities[level]), '>'};
        memcpy(sink->out + sink->n_out, prefix, sizeof(prefix));
        sink->n_out += sizeof(prefix);
    }
    memcpy(sink->out + sink->n_out, line.p, line.n);
    sink->n_out += line.n;
    return lost;
}
