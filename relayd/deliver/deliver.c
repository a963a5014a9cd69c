/*
 * The driver: the walk over endpoints, what happens between two transactions, and the public
 * functions. deliver_go() is the hub: whatever happened, the core says what it wants, and this does
 * it until something has to be waited for.
 *
 * Callbacks of the caller run with `running` set; a public function called inside one only records
 * what is asked, and deliver_go() sees it when the callback has returned. Outside of callbacks the
 * functions act at once, but what would have to call back is put off to the end of the tick.
 */
#include "relayd/deliver/deliver.h"

#include "policy/base/mem.h"
#include "relayd/deliver/deliver_private.h"
#include "relayd/deliver/tls_memory.h"
#include "relayd/net/conn.h"
#include "relayd/work/inhand.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static struct clock *
clock_of(const struct deliver_conn *c)
{
    return loop_clock(c->env->loop);
}

/* ---- the end ---- */

static void
conn_free(void *object)
{
    struct deliver_conn *c = object;
    smtpc_free(c->core);
    if (c->target.auth_password != NULL)
        explicit_bzero((char *)c->target.auth_password, strlen(c->target.auth_password));
    free(c->block);
    free(c);
}

/* Nothing of ours is touched after this but the memory itself, until the end of the tick. */
static void
bury(struct deliver_conn *c, bool in_order)
{
    assert(!c->dead);
    deliver_link_drop(c, false, in_order);
    loop_defer_cancel(&c->kick);
    c->dead = true;
    loop_retire(c->env->loop, c, conn_free);
}

static void
finish(struct deliver_conn *c, bool in_order, const struct outcome *failure)
{
    assert(smtpc_txn(c->core) == NULL && c->next == NULL);
    bury(c, in_order);
    if (failure != NULL)
        c->ops->on_failed(c->arg, failure);
    else
        c->ops->on_closed(c->arg);
}

/* ---- the core's callbacks ---- */

static void
peer_refresh(struct deliver_conn *c)
{
    c->peer.dsn_offered = smtpc_offers(c->core)->dsn;
    c->peer.n_messages = smtpc_n_txns(c->core);
    c->peer.reused = c->peer.n_messages > 1;
}

static void
core_on_outcome(void *arg, struct deliver_txn *txn, size_t rcpt, const struct outcome *outcome)
{
    struct deliver_conn *c = arg;
    if (c->dead)
        return;
    peer_refresh(c);
    c->content.active = false; /* outcomes while content is sent: the session is being cut */
    c->ops->on_outcome(c->arg, txn, rcpt, outcome);
}

static void
core_on_txn_done(void *arg, struct deliver_txn *txn)
{
    struct deliver_conn *c = arg;
    if (c->dead)
        return;
    peer_refresh(c);
    struct deliver_report report = {
        .peer = c->peer,
        .connect_ms = c->ready_took_ms,
        .transfer_ms = clock_now(clock_of(c)) - c->txn_started,
        .hop_trouble = smtpc_hop_trouble(c->core),
    };
    c->ready_took_ms = 0;
    c->ops->on_txn_done(c->arg, txn, &report);
}

static void
core_trace(void *arg, char direction, struct span line)
{
    struct deliver_conn *c = arg;
    if (!c->dead)
        c->env->trace(c->env->trace_arg, &c->peer, direction, line);
}

/* ---- the walk ---- */

static void
walk_start(struct deliver_conn *c)
{
    walk_init(&c->walk);
    c->n_tried = 0;
    c->walk_started = clock_now(clock_of(c));
}

/* All endpoints failed: that is the outcome of whoever waits, and of the connection. */
static void
walk_over(struct deliver_conn *c)
{
    struct outcome sum;
    size_t at = c->walk.best_at;
    walk_sum(&c->walk, c->target.hop, &sum);
    if (at != c->at) { /* the peer that is told of is the one whose words are quoted */
        const struct deliver_endpoint *e = &c->target.endpoints[at];
        c->peer = (struct deliver_peer){
            .endpoint = at, .ip = e->ip, .port = e->port, .host = e->host, .tls = ""};
    }
    if (smtpc_txn(c->core) != NULL) {
        c->running = true;
        smtpc_txn_decide(c->core, &sum);
        c->running = false;
        if (c->dead)
            return;
    }
    finish(c, false, c->ever_ready ? NULL : &sum);
}

void
deliver_endpoint_failed(struct deliver_conn *c, const struct outcome *o)
{
    deliver_link_drop(c, false, false);
    walk_add(&c->walk, c->at, o);
    c->clear = false;
    if (c->quitting && smtpc_txn(c->core) == NULL) {
        finish(c, false, NULL);
        return;
    }
    if (++c->n_tried >= c->target.n_endpoints) {
        walk_over(c);
        return;
    }
    c->at = (c->at + 1) % c->target.n_endpoints;
    deliver_link_connect(c);
}

/* The core has no use for this session any more. */
static void
session_over(struct deliver_conn *c)
{
    enum smtpc_end end = smtpc_end(c->core);
    bool polite = smtpc_end_polite(c->core);
    if (end != SMTPC_END_OVER)
        deliver_link_drop(c, polite, false);
    switch (end) {
    case SMTPC_END_OVER:
        finish(c, polite, NULL);
        break;
    case SMTPC_END_STOP:
        walk_init(&c->walk);
        c->n_tried = c->target.n_endpoints;
        deliver_endpoint_failed(c, smtpc_failure(c->core));
        break;
    case SMTPC_END_NEXT:
        deliver_endpoint_failed(c, smtpc_failure(c->core));
        break;
    case SMTPC_END_CLEAR:
        if (c->env->tls_memory != NULL)
            tls_memory_failed(c->env->tls_memory, span_str(c->target.endpoints[c->at].host),
                              clock_now(clock_of(c)));
        c->clear = true;
        deliver_link_connect(c);
        break;
    case SMTPC_END_AGAIN:
        walk_start(c);
        deliver_link_connect(c);
        break;
    }
}

/* ---- ready ---- */

static void
on_idle(void *arg)
{
    struct deliver_conn *c = arg;
    c->offered = false;
    deliver_go(c, smtpc_quit(c->core));
}

/* When no further transaction may start in this session; INT64_MAX: never. */
static msec_t
session_ends(const struct deliver_conn *c)
{
    return c->target.session_ms == 0 ? INT64_MAX : c->session_started + c->target.session_ms;
}

static bool
session_used_up(const struct deliver_conn *c)
{
    unsigned n = smtpc_n_txns(c->core), stated = smtpc_offers(c->core)->mail_max;
    return (c->target.max_messages > 0 && n >= c->target.max_messages) ||
           (stated > 0 && n >= stated) || clock_now(clock_of(c)) >= session_ends(c);
}

static enum smtpc_want
txn_begin(struct deliver_conn *c)
{
    struct deliver_txn *txn = c->next;
    c->next = NULL;
    c->offered = false;
    c->txn_started = clock_now(clock_of(c));
    if (c->idle_since != 0 && c->txn_started - c->idle_since >= DELIVER_WAKE_IDLE_MS &&
        c->target.timeouts.block_ms > DELIVER_WAKE_ACK_MS) {
        conn_set_user_timeout(c->conn, DELIVER_WAKE_ACK_MS);
        c->woken = true;
    }
    c->idle_since = 0;
    if (smtpc_n_txns(c->core) > 0)
        walk_start(c); /* what failed before this session is long ago */
    c->running = true;
    enum smtpc_want want = smtpc_txn_start(c->core, txn);
    c->running = false;
    return want;
}

/* The core takes a transaction: offer that. False: nobody wants it now, wait. */
static bool
offer(struct deliver_conn *c, enum smtpc_want *want)
{
    if (c->fresh)
        c->ready_took_ms = clock_now(clock_of(c)) - c->walk_started;
    c->fresh = false;
    c->ever_ready = true;
    peer_refresh(c);
    if (!c->quitting && !session_used_up(c)) {
        c->offered = true;
        c->running = true;
        c->ops->on_ready(c->arg);
        c->running = false;
        if (c->dead)
            return false;
        if (c->next != NULL) {
            *want = txn_begin(c);
            return !c->dead;
        }
    }
    if (c->quitting || !c->offered) {
        c->offered = false;
        *want = smtpc_quit(c->core);
        return true;
    }
    smtpc_idle(c->core);
    msec_t now = clock_now(clock_of(c)), end = session_ends(c);
    c->idle_since = now;
    msec_t idle_ends = now + c->target.idle_ms;
    timer_set_at(clock_of(c), &c->timer, idle_ends < end ? idle_ends : end, on_idle, c);
    return false;
}

/* ---- the hub ---- */

static void
on_deadline(void *arg)
{
    struct deliver_conn *c = arg;
    deliver_go(c, smtpc_lost(c->core, SMTPC_LOSS_TIMEOUT, "timeout: no reply in time"));
}

static void
deadline_set(struct deliver_conn *c)
{
    unsigned no = smtpc_wait_no(c->core);
    if (timer_is_set(&c->timer) && no == c->wait_no)
        return; /* more bytes of the same reply */
    c->wait_no = no;
    timer_set(clock_of(c), &c->timer, smtpc_timeout_ms(c->core), on_deadline, c);
}

void
deliver_go(struct deliver_conn *c, enum smtpc_want want)
{
    IN_HAND(0);
    while (!c->dead) {
        const struct deliver_txn *txn = smtpc_txn(c->core);
        bool started;
        inhand_enter(txn == NULL ? 0 : txn->msg_id); /* the next one may have begun */
        switch (want) {
        case SMTPC_WANT_REPLY:
            deliver_link_flush(c);
            deadline_set(c);
            return;
        case SMTPC_WANT_TLS:
            deliver_link_flush(c);
            want = deliver_link_tls(c, &started);
            if (started) {
                deadline_set(c);
                return;
            }
            break;
        case SMTPC_WANT_TXN:
            if (!offer(c, &want))
                return;
            break;
        case SMTPC_WANT_BODY:
            if (!c->content.active)
                deliver_content_start(c);
            return;
        case SMTPC_WANT_CLOSE:
            session_over(c);
            return;
        }
    }
}

/* ---- public ---- */

/* The strings of a target, one behind the other. */
static const char *
copy(char **room, const char *text)
{
    if (text == NULL)
        return NULL;
    size_t n = strlen(text) + 1;
    char *at = memcpy(*room, text, n);
    *room += n;
    return at;
}

static size_t
text_size(const char *text)
{
    return text == NULL ? 0 : strlen(text) + 1;
}

/* One block for all of it: there may be thousands of connections. */
static void
target_copy(struct deliver_conn *c, const struct deliver_target *from)
{
    struct deliver_target *to = &c->target;
    size_t list_bytes = from->n_endpoints * sizeof(*from->endpoints);
    size_t n = list_bytes + text_size(from->ehlo_name) + text_size(from->tls_name) +
               text_size(from->auth_username) + text_size(from->auth_password);
    for (size_t i = 0; i < from->n_endpoints; i++)
        n += text_size(from->endpoints[i].host);
    struct deliver_endpoint *list = xmalloc(n);
    char *room = (char *)list + list_bytes;
    memcpy(list, from->endpoints, list_bytes);
    for (size_t i = 0; i < from->n_endpoints; i++) {
        assert(list[i].host != NULL && list[i].ip.family != 0);
        list[i].host = copy(&room, list[i].host);
    }
    *to = *from;
    to->endpoints = c->block = list;
    to->ehlo_name = copy(&room, from->ehlo_name);
    to->tls_name = copy(&room, from->tls_name);
    to->auth_username = copy(&room, from->auth_username);
    to->auth_password = copy(&room, from->auth_password);
    assert(room == (char *)list + n);
}

struct deliver_conn *
deliver_start(const struct deliver_env *env, const struct deliver_target *target,
              const struct deliver_ops *ops, void *arg)
{
    assert(target->n_endpoints > 0 && target->n_endpoints <= DELIVER_ENDPOINTS_MAX);
    assert(target->tls == TLS_OFF || target->tls_ctx != NULL);
    assert((target->auth_username == NULL) == (target->auth_password == NULL));
    assert(target->idle_ms > 0);
    struct deliver_conn *c = xcalloc(1, sizeof(*c));
    c->env = env;
    c->ops = ops;
    c->arg = arg;
    target_copy(c, target);
    struct smtpc_config config = {
        .ehlo_name = c->target.ehlo_name,
        .hop = target->hop,
        .tls = target->tls,
        .tls_gone_is_path = target->tls_gone_is_path,
        .auth_username = c->target.auth_username,
        .auth_password = c->target.auth_password,
        .timeouts = target->timeouts,
        .hop_trouble = env->hop_trouble,
        .hop_trouble_arg = env->hop_trouble_arg,
    };
    struct smtpc_ops core_ops = {
        .on_outcome = core_on_outcome,
        .on_txn_done = core_on_txn_done,
        .trace = env->trace == NULL ? NULL : core_trace,
    };
    c->core = smtpc_new(&config, &core_ops, c);
    walk_start(c);
    deliver_link_connect(c);
    return c;
}

/* What a public function may not do before it returns, done at the end of the tick. */
static void
on_kick(struct deferred *d)
{
    struct deliver_conn *c = CONTAINER_OF(d, struct deliver_conn, kick);
    if (c->next != NULL)
        deliver_go(c, txn_begin(c));
    else
        finish(c, false, NULL);
}

void
deliver_txn_start(struct deliver_conn *c, struct deliver_txn *txn)
{
    assert(deliver_is_ready(c));
    c->next = txn;
    if (c->running)
        return;
    timer_cancel(clock_of(c), &c->timer);
    if (smtpc_txn_fits(c->core, txn))
        deliver_go(c, txn_begin(c));
    else
        loop_defer(c->env->loop, &c->kick, on_kick);
}

void
deliver_quit(struct deliver_conn *c)
{
    assert(!c->dead);
    if (c->quitting)
        return;
    c->quitting = true;
    if (c->running || c->next != NULL)
        return;
    if (c->offered) {
        c->offered = false;
        deliver_go(c, smtpc_quit(c->core));
    } else if (!c->ever_ready) {
        deliver_link_drop(c, false, false);
        loop_defer(c->env->loop, &c->kick, on_kick);
    }
}

void
deliver_abort(struct deliver_conn *c)
{
    if (!c->dead)
        bury(c, false);
}

bool
deliver_is_ready(const struct deliver_conn *c)
{
    return !c->dead && c->offered && c->next == NULL && !c->quitting;
}

const struct deliver_peer *
deliver_peer(const struct deliver_conn *c)
{
    return &c->peer;
}
