/*
 * How: a stack with one atomic head. Posters push with compare-and-swap; the loop takes the whole
 * stack at once and reverses it, so there is no ABA and order is kept. Who finds the stack empty
 * writes the eventfd; the loop reads the eventfd before it takes the stack, so a push after the
 * take finds an empty stack and wakes it again.
 */
#include "relayd/work/inbox.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <event2/event.h>

#include "policy/base/mem.h"

struct inbox {
    _Atomic(struct inbox_node *) head; /* newest first */
    int fd;
    struct event *event; /* NULL when undriven */
};

static void
on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    inbox_run(arg);
}

struct inbox *
inbox_new(struct event_base *base)
{
    struct inbox *inbox = xcalloc(1, sizeof(*inbox));
    inbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (inbox->fd < 0) {
        fputs("relayd: no eventfd for the inbox\n", stderr);
        abort();
    }
    if (base != NULL) {
        inbox->event = event_new(base, inbox->fd, EV_READ | EV_PERSIST, on_readable, inbox);
        if (inbox->event == NULL || event_add(inbox->event, NULL) != 0) {
            fputs("relayd: the event loop refuses the inbox\n", stderr);
            abort();
        }
    }
    return inbox;
}

void
inbox_free(struct inbox *inbox)
{
    if (inbox == NULL)
        return;
    if (inbox->event != NULL)
        event_free(inbox->event);
    close(inbox->fd);
    free(inbox);
}

static void
wake(struct inbox *inbox)
{
    uint64_t one = 1;
    while (write(inbox->fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
    /* EAGAIN: the counter is full, so the loop is awake anyway. */
}

/* Push a chain whose first element is the newest; `last` is its oldest. */
static void
push(struct inbox *inbox, struct inbox_node *first, struct inbox_node *last)
{
    struct inbox_node *head = atomic_load_explicit(&inbox->head, memory_order_relaxed);
    do {
        last->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&inbox->head, &head, first,
                                                    memory_order_acq_rel, memory_order_relaxed));
    /* `first` may be done and freed from here on. */
    if (head == NULL)
        wake(inbox);
}

void
inbox_post(struct inbox *inbox, struct inbox_node *node)
{
    push(inbox, node, node);
}

static struct inbox_node *
reversed(struct inbox_node *node)
{
    struct inbox_node *out = NULL;
    while (node != NULL) {
        struct inbox_node *next = node->next;
        node->next = out;
        out = node;
        node = next;
    }
    return out;
}

void
inbox_post_chain(struct inbox *inbox, struct inbox_node *first)
{
    if (first != NULL)
        push(inbox, reversed(first), first);
}

size_t
inbox_run(struct inbox *inbox)
{
    uint64_t count;
    size_t n = 0;
    while (read(inbox->fd, &count, sizeof(count)) < 0 && errno == EINTR)
        ;
    struct inbox_node *node =
        reversed(atomic_exchange_explicit(&inbox->head, NULL, memory_order_acq_rel));
    while (node != NULL) {
        struct inbox_node *next = node->next;
        node->next = NULL;
        node->done(node);
        node = next;
        n++;
    }
    return n;
}

bool
inbox_wait(struct inbox *inbox, int timeout_ms)
{
    struct pollfd p = {.fd = inbox->fd, .events = POLLIN};
    int rc;
    do {
        rc = poll(&p, 1, timeout_ms);
    } while (rc < 0 && errno == EINTR);
    return rc > 0;
}
