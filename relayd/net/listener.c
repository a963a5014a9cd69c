/*
 * listener - accept4() in bursts on one persistent read event.
 *
 * States: open (bound, no event) -> running <-> paused (by the owner) or resting (after EMFILE,
 * until a timer ends it). The event exists while running only. A level-triggered event that stays
 * readable while accept fails would spin (655,497 callbacks in 0.3 s were seen), hence the rest.
 */
#include "relayd/net/listener.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <event2/event.h>
#include <event2/event_struct.h>

#include "policy/base/mem.h"

struct listener {
    struct loop *loop; /* NULL until started */
    const struct listener_ops *ops;
    void *arg;
    int fd;
    int reserve_fd; /* given up to take one connection when there is no other descriptor */
    bool paused, closed;
    bool bound_any;       /* the local end differs between connections */
    struct net_addr addr; /* family 0: unix */
    char *path;           /* unix */
    struct event ev;
    struct timer rest;
};

static int
reserve_open(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static struct net_addr
local_of(const struct listener *l, int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    if (!l->bound_any || getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
        return l->addr;
    return net_addr_from_sockaddr((const struct sockaddr *)&ss);
}

static void
watch(struct listener *l)
{
    if (l->loop != NULL && !l->paused && !timer_is_set(&l->rest))
        event_add(&l->ev, NULL);
}

static void
on_rested(void *arg)
{
    watch(arg);
}

/* No descriptor or memory for a connection: tell one of those that wait, and rest. */
static void
exhausted(struct listener *l, int error)
{
    event_del(&l->ev);
    timer_set(loop_clock(l->loop), &l->rest, LISTENER_PAUSE_MS, on_rested, l);
    if (l->ops->on_exhausted == NULL)
        return;
    if (l->reserve_fd >= 0)
        close(l->reserve_fd);
    l->reserve_fd = -1;
    int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        l->ops->on_exhausted(l->arg, fd, error);
        close(fd);
    }
    if (!l->closed)
        l->reserve_fd = reserve_open();
}

static void
listener_destroy(void *object)
{
    struct listener *l = object;
    free(l->path);
    free(l);
}

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct listener *l = arg;

    for (int i = 0; i < LISTENER_BURST && !l->paused && !l->closed; i++) {
        struct sockaddr_storage ss;
        socklen_t len = sizeof(ss);
        int peer_fd = accept4(fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (peer_fd >= 0) {
            struct net_addr peer = {0};
            if (l->path == NULL)
                peer = net_addr_from_sockaddr((const struct sockaddr *)&ss);
            struct net_addr local = local_of(l, peer_fd);
            l->ops->on_accept(l->arg, peer_fd, &peer, &local);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            exhausted(l, errno);
            return;
        } else if (errno == EAGAIN || errno == EINVAL || errno == EBADF) {
            return;
        } /* else that connection is gone already (ECONNABORTED, network errors): the next */
    }
}

static enum err_code
bind_error(struct err *err, int error, const char *where)
{
    enum err_code code = error == EADDRINUSE                 ? ERR_BUSY
                         : error == EACCES || error == EPERM ? ERR_PERM
                         : error == EADDRNOTAVAIL || error == EAFNOSUPPORT || error == ENOENT ||
                                 error == ENOTDIR || error == ENAMETOOLONG
                             ? ERR_INVAL
                             : ERR_IO;
    return err_set(err, code, "listen on %s: %s", where, strerror(error));
}

static struct listener *
listener_make(int fd)
{
    struct listener *l = xcalloc(1, sizeof(*l));
    l->fd = fd;
    l->reserve_fd = reserve_open();
    return l;
}

/* A listening TCP socket, or -1 with errno. What is set here its connections inherit. */
static int
tcp_socket(const struct net_addr *addr)
{
    struct sockaddr_storage ss;
    socklen_t len = net_addr_to_sockaddr(addr, &ss);
    int one = 1;

    if (len == 0) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (ss.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&ss, len) == 0 && listen(fd, LISTENER_BACKLOG) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

enum err_code
listener_open(const struct net_addr *addr, struct listener **ret, struct err *err)
{
    char where[NET_ADDR_TEXT_BYTES];
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);

    int fd = tcp_socket(addr);
    if (fd < 0)
        return bind_error(err, errno, net_addr_format(addr, where));
    struct listener *l = listener_make(fd);
    l->addr = *addr;
    l->bound_any = ip_is_unspecified(&addr->ip);
    if (getsockname(fd, (struct sockaddr *)&ss, &len) == 0)
        l->addr = net_addr_from_sockaddr((const struct sockaddr *)&ss);
    *ret = l;
    return ERR_OK;
}

/* Does somebody accept connections at this path? */
static bool
unix_answers(const struct sockaddr_un *sun)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool answers = fd >= 0 && (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0 ||
                               errno == EAGAIN /* its backlog is full */);
    if (fd >= 0)
        close(fd);
    return answers;
}

/* Take away a socket that a dead process left; true when the path is free. Only ever a socket. */
static bool
unix_clear(const struct sockaddr_un *sun)
{
    struct stat st;
    if (lstat(sun->sun_path, &st) != 0)
        return true;
    return S_ISSOCK(st.st_mode) && !unix_answers(sun) && unlink(sun->sun_path) == 0;
}

enum err_code
listener_open_unix(const char *path, mode_t mode, struct listener **ret, struct err *err)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};

    if (strlen(path) >= sizeof(sun.sun_path))
        return bind_error(err, ENAMETOOLONG, path);
    memcpy(sun.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return bind_error(err, errno, path);
    mode_t old = umask(0777); /* nobody may connect before the mode is right */
    int error = 0;
    if (!unix_clear(&sun))
        error = EADDRINUSE;
    else if (bind(fd, (struct sockaddr *)&sun, sizeof(sun)) != 0)
        error = errno;
    umask(old);
    if (error == 0 && (chmod(path, mode) != 0 || listen(fd, LISTENER_BACKLOG) != 0)) {
        error = errno;
        unlink(path);
    }
    if (error != 0) {
        close(fd);
        return bind_error(err, error, path);
    }
    struct listener *l = listener_make(fd);
    l->path = xstrdup(path);
    *ret = l;
    return ERR_OK;
}

enum err_code
listener_chown(struct listener *l, uid_t uid, gid_t gid, struct err *err)
{
    assert(l->path != NULL);
    if (chown(l->path, uid, gid) != 0)
        return err_set(err, errno == EPERM ? ERR_PERM : ERR_IO, "chown %s: %s", l->path,
                       strerror(errno));
    return ERR_OK;
}

void
listener_start(struct listener *l, struct loop *loop, const struct listener_ops *ops, void *arg)
{
    assert(l->loop == NULL);
    l->loop = loop;
    l->ops = ops;
    l->arg = arg;
    event_assign(&l->ev, loop_base(loop), l->fd, EV_READ | EV_PERSIST, on_readable, l);
    watch(l);
}

void
listener_pause(struct listener *l)
{
    l->paused = true;
    if (l->loop != NULL)
        event_del(&l->ev);
}

void
listener_resume(struct listener *l)
{
    l->paused = false;
    watch(l);
}

void
listener_close(struct listener *l)
{
    if (l == NULL)
        return;
    l->closed = true;
    if (l->path != NULL)
        unlink(l->path);
    if (l->loop != NULL) {
        event_del(&l->ev);
        timer_cancel(loop_clock(l->loop), &l->rest);
    }
    close(l->fd);
    if (l->reserve_fd >= 0)
        close(l->reserve_fd);
    l->reserve_fd = -1;
    if (l->loop != NULL)
        loop_retire(l->loop, l, listener_destroy);
    else
        listener_destroy(l);
}

const struct net_addr *
listener_addr(const struct listener *l)
{
    return &l->addr;
}
