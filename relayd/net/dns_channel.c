/*
 * dns_channel - c-ares with one server, one try, and no opinion about the answer.
 *
 * c-ares 1.18 keeps what it is good at: UDP and TCP sockets, fetching again over TCP what came
 * truncated, matching answers to questions. Its ids are predictable, it turns SERVFAIL into
 * "connection refused", and one FORMERR switches EDNS off for a whole channel; so the question is
 * ours, fail-over is ours (dns.c), and each server has a channel of its own.
 *
 * Time-outs are the caller's. c-ares's own are looked at by a slow tick while anything is under
 * way: asking it when the next is due costs 121 us with 10,000 outstanding.
 */
#include "relayd/net/dns_channel.h"

#include <stdlib.h>
#include <sys/queue.h>

#include <ares.h>
#include <event2/event.h>

#include "policy/base/mem.h"

#define TICK_MS 100
/* DNS_IN_FLIGHT_MAX questions that nobody has read yet, or answers at once. The kernel gives what
 * net.core.wmem_max and rmem_max allow, 208 KiB by default, and doubles that. */
#define SOCKET_BUFFER_BYTES (512 * 1024)
#define EDNS_BYTES 1232

struct dns_try {
    TAILQ_ENTRY(dns_try) link;
    struct dns_channel *ch;
    void *arg;
    bool sending; /* inside ares_send() */
    bool abandoned;
    bool failed; /* inside ares_send(); told at the end of the tick */
    const char *text;
    struct deferred later;
};

struct watched {
    SLIST_ENTRY(watched) link;
    ares_socket_t fd;
    struct event *ev;
};

struct dns_channel {
    struct loop *loop;
    ares_channel ares;
    const struct dns_channel_ops *ops;
    void *owner;
    bool freeing;
    size_t n;
    uint64_t n_tcp;
    TAILQ_HEAD(, dns_try) tries;
    SLIST_HEAD(, watched) sockets;
    struct timer tick;
};

static void
try_free(struct dns_try *t)
{
    TAILQ_REMOVE(&t->ch->tries, t, link);
    t->ch->n--;
    loop_defer_cancel(&t->later);
    free(t);
}

static void
try_end(struct dns_try *t, enum dns_try_result result, struct span message, const char *text)
{
    struct dns_channel *ch = t->ch;
    bool told = !t->abandoned;
    void *arg = t->arg;
    try_free(t);
    if (told)
        ch->ops->on_try(arg, result, message, text);
    ch->ops->on_room(ch->owner);
}

static void
on_try_later(struct deferred *d)
{
    struct dns_try *t = CONTAINER_OF(d, struct dns_try, later);
    try_end(t, DNS_TRY_FAILED, SPAN_NONE, t->text);
}

static void
on_ares(void *arg, int status, int timeouts, unsigned char *message, int n)
{
    (void)timeouts;
    struct dns_try *t = arg;
    bool answer = message != NULL && n > 0;

    if (t->ch->freeing) {
        try_free(t);
    } else if (t->sending) {
        t->failed = true;
        t->text = ares_strerror(status);
    } else if (answer) {
        try_end(t, DNS_TRY_ANSWER, span_of(message, (size_t)n), "");
    } else {
        try_end(t, status == ARES_ETIMEOUT ? DNS_TRY_TIMEOUT : DNS_TRY_FAILED, SPAN_NONE,
                ares_strerror(status));
    }
}

/* ---- c-ares on the loop ---- */

static void
on_tick(void *arg)
{
    struct dns_channel *ch = arg;
    ares_process_fd(ch->ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
    if (ch->n > 0)
        timer_set(loop_clock(ch->loop), &ch->tick, TICK_MS, on_tick, ch);
}

static void
on_io(evutil_socket_t fd, short what, void *arg)
{
    struct dns_channel *ch = arg;
    ares_process_fd(ch->ares, (what & EV_READ) != 0 ? fd : ARES_SOCKET_BAD,
                    (what & EV_WRITE) != 0 ? fd : ARES_SOCKET_BAD);
}

/* c-ares tells what it waits for on `fd`; nothing at all: it is about to close it. */
static void
on_socket_state(void *data, ares_socket_t fd, int readable, int writable)
{
    struct dns_channel *ch = data;
    struct watched *w;

    SLIST_FOREACH(w, &ch->sockets, link)
    {
        if (w->fd == fd)
            break;
    }
    if (w != NULL)
        event_free(w->ev);
    if (!readable && !writable) {
        if (w != NULL) {
            SLIST_REMOVE(&ch->sockets, w, watched, link);
            free(w);
        }
        return;
    }
    if (w == NULL) {
        w = xcalloc(1, sizeof(*w));
        w->fd = fd;
        SLIST_INSERT_HEAD(&ch->sockets, w, link);
    }
    short what = (short)(EV_PERSIST | (readable ? EV_READ : 0) | (writable ? EV_WRITE : 0));
    w->ev = event_new(loop_base(ch->loop), fd, what, on_io, ch);
    if (w->ev == NULL || event_add(w->ev, NULL) != 0)
        abort();
}

static int
on_socket_made(ares_socket_t fd, int type, void *data)
{
    (void)fd;
    struct dns_channel *ch = data;
    ch->n_tcp += type == SOCK_STREAM;
    return 0;
}

static int
server_set(struct dns_channel *ch, const struct net_addr *server)
{
    struct sockaddr_storage ss;
    struct ares_addr_port_node node = {.udp_port = server->port, .tcp_port = server->port};

    if (net_addr_to_sockaddr(server, &ss) == 0)
        return ARES_EBADSTR;
    node.family = ss.ss_family;
    if (node.family == AF_INET)
        memcpy(&node.addr.addr4, server->ip.bytes, 4);
    else
        memcpy(&node.addr.addr6, server->ip.bytes, 16);
    return ares_set_servers_ports(ch->ares, &node);
}

struct dns_channel *
dns_channel_new(struct loop *loop, const struct net_addr *server, msec_t timeout_ms,
                const struct dns_channel_ops *ops, void *owner, const char **ret_reason)
{
    struct dns_channel *ch = xcalloc(1, sizeof(*ch));
    char lookups[] = "b", no_file[] = "/dev/null";
    struct ares_options options = {
        .flags = ARES_FLAG_EDNS | ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES | ARES_FLAG_NOCHECKRESP,
        .timeout = (int)(timeout_ms < HOUR ? timeout_ms : HOUR),
        .tries = 1,
        .ednspsz = EDNS_BYTES,
        .lookups = lookups,
        .resolvconf_path = no_file,
        .socket_send_buffer_size = SOCKET_BUFFER_BYTES,
        .socket_receive_buffer_size = SOCKET_BUFFER_BYTES,
        .sock_state_cb = on_socket_state,
        .sock_state_cb_data = ch,
    };

    ch->loop = loop;
    ch->ops = ops;
    ch->owner = owner;
    TAILQ_INIT(&ch->tries);
    SLIST_INIT(&ch->sockets);
    int status = ares_library_init_mem(ARES_LIB_INIT_ALL, xmalloc, free, xrealloc);
    if (status == ARES_SUCCESS)
        status = ares_init_options(&ch->ares, &options,
                                   ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES |
                                       ARES_OPT_EDNSPSZ | ARES_OPT_LOOKUPS | ARES_OPT_RESOLVCONF |
                                       ARES_OPT_SOCK_SNDBUF | ARES_OPT_SOCK_RCVBUF |
                                       ARES_OPT_SOCK_STATE_CB);
    if (status != ARES_SUCCESS) {
        *ret_reason = ares_strerror(status);
        free(ch);
        return NULL;
    }
    ares_set_socket_callback(ch->ares, on_socket_made, ch);
    status = server_set(ch, server);
    if (status != ARES_SUCCESS) {
        *ret_reason = ares_strerror(status);
        dns_channel_free(ch);
        return NULL;
    }
    return ch;
}

void
dns_channel_free(struct dns_channel *ch)
{
    struct dns_try *t;
    if (ch == NULL)
        return;
    ch->freeing = true;
    timer_cancel(loop_clock(ch->loop), &ch->tick);
    ares_destroy(ch->ares); /* ends its tries by on_ares() */
    while ((t = TAILQ_FIRST(&ch->tries)) != NULL)
        try_free(t); /* those that failed at once and were not told yet */
    ares_library_cleanup();
    free(ch);
}

struct dns_try *
dns_channel_send(struct dns_channel *ch, const uint8_t *question, size_t n, void *arg)
{
    struct dns_try *t = xcalloc(1, sizeof(*t));
    t->ch = ch;
    t->arg = arg;
    TAILQ_INSERT_TAIL(&ch->tries, t, link);
    ch->n++;
    t->sending = true;
    ares_send(ch->ares, question, (int)n, on_ares, t);
    t->sending = false;
    if (t->failed)
        loop_defer(ch->loop, &t->later, on_try_later);
    else if (!timer_is_set(&ch->tick))
        timer_set(loop_clock(ch->loop), &ch->tick, TICK_MS, on_tick, ch);
    return t;
}

void
dns_try_abandon(struct dns_try *t)
{
    t->abandoned = true;
}

size_t
dns_channel_n(const struct dns_channel *ch)
{
    return ch->n;
}

uint64_t
dns_channel_n_tcp(const struct dns_channel *ch)
{
    return ch->n_tcp;
}
