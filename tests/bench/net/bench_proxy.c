/*
 * bench_proxy - a pass-through without storage: accept, connect, copy octets both ways.
 *
 *     bench_proxy LISTEN:PORT TARGET:PORT
 *
 * What a relay could do at best if it kept nothing: one thread, one epoll loop, one buffer for each
 * direction. Runs until it is killed.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/bench/net/bench.h"

#define PIPE_BYTES 65536
#define EVENTS_MAX 128

struct end {
    struct end *other, *next; /* next: of those closed in this batch */
    int fd;
    bool eof;     /* it has sent all it will, and that has been passed on */
    size_t at, n; /* what it sent and the other has not taken yet: pipe[at] to pipe[n] */
    char pipe[PIPE_BYTES];
};

static int poller;
static struct sockaddr_storage target;
static socklen_t target_n;
static struct end *closed;

static void
watch(int operation, struct end *e)
{
    /* Read while our pipe is empty; write while the other's is not. */
    uint32_t events = (e->n == 0 && !e->eof ? EPOLLIN : 0u) | (e->other->n > 0 ? EPOLLOUT : 0u);
    struct epoll_event event = {.events = events, .data.ptr = e};

    epoll_ctl(poller, operation, e->fd, &event);
}

static void
pair_open(int fd)
{
    struct end *a = xcalloc(1, sizeof(*a)), *b = xcalloc(1, sizeof(*b));
    int one = 1;

    a->fd = fd;
    a->other = b;
    b->fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    b->other = a;
    setsockopt(a->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(b->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(b->fd, (struct sockaddr *)&target, target_n) != 0 && errno != EINPROGRESS) {
        perror("bench_proxy: connect");
        exit(1);
    }
    watch(EPOLL_CTL_ADD, a);
    watch(EPOLL_CTL_ADD, b);
}

/* Pass on what e has sent; false when that side is broken. */
static bool
pass(struct end *e)
{
    while (e->at < e->n) {
        ssize_t n = send(e->other->fd, e->pipe + e->at, e->n - e->at, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN;
        e->at += (size_t)n;
    }
    e->at = e->n = 0;
    return true;
}

/* One event; false when the pair is done. */
static bool
on_event(struct end *e, uint32_t events)
{
    if ((events & EPOLLOUT) && !pass(e->other))
        return false;
    if (e->n == 0 && !e->eof && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
        ssize_t n = read(e->fd, e->pipe, PIPE_BYTES);
        if (n < 0 && errno != EAGAIN)
            return false;
        if (n == 0) {
            e->eof = true;
            shutdown(e->other->fd, SHUT_WR);
        }
        e->n = n > 0 ? (size_t)n : 0;
        if (!pass(e))
            return false;
    }
    return !(e->eof && e->other->eof);
}

/* Memory goes after the batch of events, in which the other end may still come. */
static void
pair_close(struct end *e)
{
    struct end *both[] = {e, e->other};

    for (int i = 0; i < 2; i++) {
        close(both[i]->fd);
        both[i]->fd = -1;
    }
    e->next = closed;
    closed = e;
}

static void
closed_free(void)
{
    while (closed != NULL) {
        struct end *e = closed;
        closed = e->next;
        free(e->other);
        free(e);
    }
}

static int
listener_make(struct net_addr addr)
{
    struct sockaddr_storage at;
    socklen_t at_n = net_addr_to_sockaddr(&addr, &at);
    int one = 1, fd = socket(at.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&at, at_n) != 0 || listen(fd, 1000) != 0) {
        perror("bench_proxy");
        exit(1);
    }
    return fd;
}

static void
batch(int listener)
{
    struct epoll_event events[EVENTS_MAX];
    int fd, n = epoll_wait(poller, events, EVENTS_MAX, -1);

    for (int i = 0; i < n; i++) {
        struct end *e = events[i].data.ptr;
        if (e == NULL) {
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
                pair_open(fd);
        } else if (e->fd < 0) {
            continue;
        } else if (on_event(e, events[i].events)) {
            watch(EPOLL_CTL_MOD, e);
            watch(EPOLL_CTL_MOD, e->other);
        } else {
            pair_close(e);
        }
    }
    closed_free();
}

int
main(int argc, char **argv)
{
    if (argc != 3)
        return 64;
    struct net_addr target_addr = bench_addr(argv[2]);
    target_n = net_addr_to_sockaddr(&target_addr, &target);
    int listener = listener_make(bench_addr(argv[1]));
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;)
        batch(listener);
}
