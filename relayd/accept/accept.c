/*
 * accept - listeners, the number of sessions, and the life of it all. Called by the daemon.
 */
#include "relayd/accept/session.h"

#include "policy/base/mem.h"
#include "policy/config.h"
#include "relayd/net/listener.h"
#include "relayd/net/tls.h"
#include "relayd/ops/log.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#define EXHAUSTED_LOG_MS MINUTE /* between two lines that say that descriptors ran out */

/* A listening socket. It may outlive the configuration that asked for it. */
struct accept_listener {
    struct accept *accept;
    struct listener *socket;
    struct net_addr wanted; /* as configured: with port 0, `socket` knows the real one */
    size_t index;           /* in the current setup's listeners */
    bool started, matched;
};

/* ---- sessions ---- */

static void
set_stressed(struct accept *a, bool stressed)
{
    struct session *next;

    if (a->stressed == stressed)
        return;
    a->stressed = stressed;
    for (struct session *s = a->sessions; s != NULL; s = next) {
        next = s->next;
        session_set_stressed(s, stressed);
    }
    log_text(a->env.log, LOG_WARNING, "sessions_stressed", "%s",
             stressed ? "over 80 % of the sessions are taken: idle ones are closed after 10 s"
                      : "enough sessions are free again");
}

static void
watch_stress(struct accept *a)
{
    size_t percent = a->stats.sessions * 100 / a->max_sessions;

    if (percent >= ACCEPT_STRESSED_PERCENT)
        set_stressed(a, true);
    else if (percent < ACCEPT_RELAXED_PERCENT)
        set_stressed(a, false);
}

const char *
accept_admit(struct accept *a, struct session *s)
{
    struct ip ip = s->client.ip.family == 6 ? ip_prefix(&s->client.ip, 64) : s->client.ip;
    struct accept_peer *peer = map_get(&a->peers, span_of(&ip, sizeof ip));

    if (peer != NULL && peer->n_sessions >= s->setup->config->limits.sessions_per_client) {
        a->stats.refused_421++;
        return "421 4.3.2 too many sessions from your address";
    }
    if (peer == NULL) {
        peer = xcalloc(1, sizeof *peer);
        peer->ip = ip;
        map_put(&a->peers, span_of(&peer->ip, sizeof peer->ip), peer);
    }
    peer->n_sessions++;
    s->peer = peer;
    watch_stress(a);
    return NULL;
}

static void
call_drained(struct deferred *d)
{
    struct accept *a = CONTAINER_OF(d, struct accept, drained);
    void (*on_drained)(void *arg) = a->on_drained;

    a->on_drained = NULL;
    if (on_drained != NULL)
        on_drained(a->drained_arg); /* may free us */
}

static void
watch_drain(struct accept *a)
{
    if (a->draining && a->sessions == NULL)
        loop_defer(a->env.loop, &a->drained, call_drained);
}

void
accept_forget(struct accept *a, struct session *s)
{
    if (s->peer != NULL && --s->peer->n_sessions == 0) {
        map_remove(&a->peers, span_of(&s->peer->ip, sizeof s->peer->ip));
        free(s->peer);
    }
    if (s->next != NULL)
        s->next->prev = s->prev;
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        a->sessions = s->next;
    assert(a->stats.sessions > 0);
    a->stats.sessions--;
    a->stats.sessions_tls -= s->in_tls;
    watch_stress(a);
    watch_drain(a);
}

/* ---- listeners ---- */

/* Without waiting: a fresh connection has room for a line. */
static void
say_and_close(int fd, const char *hostname)
{
    CLEANUP(freep) char *line = xasprintf("421 4.3.2 %s too many sessions\r\n", hostname);

    if (write(fd, line, strlen(line)) < 0)
        (void)0; /* he will see the close */
    close(fd);
}

static void
on_accept(void *arg, int fd, const struct net_addr *peer, const struct net_addr *local)
{
    struct accept_listener *l = arg;
    struct accept *a = l->accept;
    const struct listener_setup *setup = &a->setup->listeners[l->index];

    if (a->stats.sessions >= a->max_sessions) {
        a->stats.connections++;
        a->stats.refused_421++;
        if (setup->implicit)
            close(fd);
        else
            say_and_close(fd, setup->conf.hostname);
        return;
    }
    session_open(a, a->setup, l->index, fd, peer, local);
}

static void
on_exhausted(void *arg, int fd, int error)
{
    struct accept_listener *l = arg;
    struct accept *a = l->accept;
    static const char line[] = "421 4.3.2 too many sessions\r\n";
    msec_t now = clock_now(a->clock);

    a->stats.refused_421++;
    if (!a->setup->listeners[l->index].implicit && write(fd, line, sizeof line - 1) < 0)
        (void)0; /* he will see the close */
    if (a->exhausted_at == 0 || now - a->exhausted_at >= EXHAUSTED_LOG_MS) {
        a->exhausted_at = now;
        log_alert(a->env.log, "descriptors", "no connection can be accepted: %s", strerror(error));
    }
}

static const struct listener_ops listener_ops = {.on_accept = on_accept,
                                                 .on_exhausted = on_exhausted};

static struct accept_listener *
listener_find(struct accept *a, const struct net_addr *wanted)
{
    for (size_t i = 0; i < a->n_listeners; i++)
        if (!a->listeners[i]->matched && net_addr_eq(&a->listeners[i]->wanted, wanted))
            return a->listeners[i];
    return NULL;
}

static void
listener_close_at(struct accept *a, size_t i)
{
    listener_close(a->listeners[i]->socket);
    free(a->listeners[i]);
    a->listeners[i] = a->listeners[--a->n_listeners];
}

/* Match the sockets with the configuration, opening those that are missing. On an error what was
 * opened here is closed again when `undo`. */
static enum err_code
open_listeners(struct accept *a, const struct config *config, bool undo, struct err *err)
{
    size_t n_before = a->n_listeners;

    for (size_t i = 0; i < a->n_listeners; i++)
        a->listeners[i]->matched = false;
    for (size_t i = 0; i < config->n_listeners; i++) {
        struct net_addr wanted = {.ip = config->listeners[i].ip, .port = config->listeners[i].port};
        struct accept_listener *l = listener_find(a, &wanted);
        if (l == NULL) {
            struct listener *socket;
            enum err_code code = listener_open(&wanted, &socket, err);
            if (code != ERR_OK) {
                while (undo && a->n_listeners > n_before)
                    listener_close_at(a, a->n_listeners - 1);
                return code;
            }
            l = xcalloc(1, sizeof *l);
            l->accept = a;
            l->socket = socket;
            l->wanted = wanted;
            a->listeners = xrealloc(a->listeners, (a->n_listeners + 1) * sizeof(void *));
            a->listeners[a->n_listeners++] = l;
        }
        l->matched = true;
        l->index = i;
    }
    return ERR_OK;
}

enum err_code
accept_bind(struct accept *a, const struct config *config, struct err *err)
{
    assert(a->setup == NULL);
    return open_listeners(a, config, false, err);
}

/* ---- life ---- */

struct accept *
accept_new(const struct accept_env *env)
{
    struct accept *a = xcalloc(1, sizeof *a);
    struct map_seed seed;

    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        abort();
    a->env = *env;
    a->clock = loop_clock(env->loop);
    a->guard = guard_new(seed);
    a->max_sessions = 1;
    map_init(&a->peers, seed);
    return a;
}

static void
take_setup(struct accept *a, struct accept_setup *setup)
{
    const struct config *config = setup->config;
    struct accept_setup *old = a->setup;

    setup->config_done = a->env.config_done;
    setup->config_arg = a->env.config_arg;
    for (size_t i = 0; i < config->n_listeners; i++)
        setup->listeners[i].conf.event = session_event;
    setup_ref(setup);
    a->setup = setup;
    a->max_sessions = config->limits.sessions;
    if (a->env.max_sessions > 0 && a->env.max_sessions < a->max_sessions)
        a->max_sessions = a->env.max_sessions;
    if (old != NULL)
        setup_unref(old);
}

enum err_code
accept_use(struct accept *a, struct accept_setup *setup, struct err *err)
{
    assert(!a->draining);
    enum err_code code = open_listeners(a, setup->config, true, err);
    if (code != ERR_OK) {
        if (a->setup != NULL && open_listeners(a, a->setup->config, false, NULL) != ERR_OK)
            assert(!"the old listeners are all there");
        return code;
    }
    for (size_t i = a->n_listeners; i-- > 0;)
        if (!a->listeners[i]->matched)
            listener_close_at(a, i);
    take_setup(a, setup);
    for (size_t i = 0; i < a->n_listeners; i++) {
        if (a->listeners[i]->started)
            continue;
        a->listeners[i]->started = true;
        listener_start(a->listeners[i]->socket, a->env.loop, &listener_ops, a->listeners[i]);
    }
    certs_start(a);
    watch_stress(a);
    return ERR_OK;
}

void
accept_drain(struct accept *a, void (*on_drained)(void *arg), void *arg)
{
    struct session *next;

    a->on_drained = on_drained;
    a->drained_arg = arg;
    while (a->n_listeners > 0)
        listener_close_at(a, a->n_listeners - 1);
    for (struct session *s = a->sessions; s != NULL; s = next) {
        next = s->next;
        session_stop(s);
    }
    a->draining = true;
    watch_drain(a);
}

void
accept_free(struct accept *a)
{
    if (a == NULL)
        return;
    a->draining = false;
    while (a->n_listeners > 0)
        listener_close_at(a, a->n_listeners - 1);
    while (a->sessions != NULL)
        session_drop(a->sessions, "stop");
    check_detach_all(a);
    certs_stop(a);
    loop_defer_cancel(&a->drained);
    if (a->setup != NULL)
        setup_unref(a->setup);
    guard_free(a->guard);
    map_release(&a->peers);
    free(a->listeners);
    free(a);
}

void
accept_stats(const struct accept *a, struct accept_stats *ret)
{
    *ret = a->stats;
}

msec_t
accept_certificate_not_after(const struct accept *a)
{
    msec_t first = INT64_MAX;

    for (size_t i = 0; a->setup != NULL && i < a->setup->config->n_listeners; i++) {
        const struct tls_ctx *ctx = a->setup->listeners[i].tls;
        msec_t at = ctx == NULL ? INT64_MAX : tls_ctx_not_after(ctx);
        first = at < first ? at : first;
    }
    return first;
}

bool
accept_listener_text(const struct accept *a, size_t i, char *buf)
{
    if (i >= a->n_listeners)
        return false;
    net_addr_format(listener_addr(a->listeners[i]->socket), buf);
    return true;
}
