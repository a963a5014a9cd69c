/*
 * One connection to one endpoint: the callbacks of net/conn, turned into events of the core.
 */
#include "relayd/deliver/deliver_private.h"

#include "relayd/deliver/tls_memory.h"
#include "relayd/net/conn.h"

#include <assert.h>
#include <stdio.h>

static const struct deliver_endpoint *
endpoint(const struct deliver_conn *c)
{
    return &c->target.endpoints[c->at];
}

static void
on_connect_timeout(void *arg)
{
    struct deliver_conn *c = arg;
    struct outcome o;
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_NET, "connect", "4.4.1",
                "timeout: no connection within %lld s",
                (long long)(c->target.timeouts.connect_ms / SECOND));
    o.path = true;
    deliver_endpoint_failed(c, &o);
}

static void
on_connected(void *arg)
{
    struct deliver_conn *c = arg;
    struct clock *clock = loop_clock(c->env->loop);
    struct span host = span_str(endpoint(c)->host);
    bool memory = c->env->tls_memory != NULL && c->target.tls == TLS_OPPORTUNISTIC;
    struct smtpc_host facts = {
        .implicit_tls = endpoint(c)->implicit_tls,
        .in_clear =
            c->clear || (memory && tls_memory_in_clear(c->env->tls_memory, host, clock_now(clock))),
        .tls_was_there = c->env->tls_memory != NULL &&
                         tls_memory_was_there(c->env->tls_memory, host, clock_now(clock)),
    };
    c->connected = true;
    c->session_started = clock_now(clock);
    deliver_go(c, smtpc_open(c->core, &facts));
}

static void
on_data(void *arg)
{
    struct deliver_conn *c = arg;
    struct conn *conn = c->conn;
    struct span in = conn_input(conn);
    if (c->woken) {
        c->woken = false;
        conn_set_user_timeout(conn, c->target.timeouts.block_ms);
    }
    c->running = true;
    enum smtpc_want want = smtpc_input(c->core, in);
    c->running = false;
    if (c->dead)
        return;
    assert(c->conn == conn);
    conn_consume(conn, in.n);
    deliver_go(c, want);
}

static void
on_drained(void *arg)
{
    struct deliver_conn *c = arg;
    if (c->content.active)
        deliver_content_pump(c);
}

static void
on_tls(void *arg, const struct conn_tls_result *result)
{
    struct deliver_conn *c = arg;
    if (result->failure != TLS_FAIL_NONE) {
        char text[OUTCOME_TEXT_MAX];
        snprintf(text, sizeof(text), "TLS handshake failed: %s", result->text);
        deliver_go(c, smtpc_lost(c->core, SMTPC_LOSS_TLS, text));
        return;
    }
    snprintf(c->tls_text, sizeof(c->tls_text), "%s %s", result->facts->version,
             result->facts->cipher);
    c->peer.tls = c->tls_text;
    c->peer.tls_verified = result->facts->verified;
    if (c->env->tls_memory != NULL)
        tls_memory_worked(c->env->tls_memory, span_str(endpoint(c)->host),
                          clock_now(loop_clock(c->env->loop)));
    deliver_go(c, smtpc_tls_up(c->core));
}

/* The words for the end of an open connection. */
static const char *
end_text(const struct conn_end *end)
{
    switch (end->kind) {
    case CONN_END_EOF:
    case CONN_END_TRUNCATED:
        return "the peer closed the connection";
    case CONN_END_RESET:
        return "the peer reset the connection";
    case CONN_END_TIMEOUT:
        return "timeout: the peer does not acknowledge";
    default:
        return end->text;
    }
}

static void
on_closed(void *arg, const struct conn_end *end)
{
    struct deliver_conn *c = arg;
    if (c->connected) {
        enum smtpc_loss loss = end->kind == CONN_END_TLS ? SMTPC_LOSS_TLS : SMTPC_LOSS_CLOSED;
        deliver_go(c, smtpc_lost(c->core, loss, end_text(end)));
        return;
    }
    struct outcome o;
    outcome_set(&o, OUTCOME_DEFERRED, end->kind == CONN_END_LOCAL ? ORIGIN_LOCAL : ORIGIN_NET,
                "connect", "4.4.1", "%s", end->text);
    o.path = true;
    deliver_endpoint_failed(c, &o);
}

static const struct conn_ops conn_ops = {
    .on_connected = on_connected,
    .on_data = on_data,
    .on_drained = on_drained,
    .on_tls = on_tls,
    .on_closed = on_closed,
};

void
deliver_link_connect(struct deliver_conn *c)
{
    assert(c->conn == NULL && c->at < c->target.n_endpoints);
    const struct deliver_endpoint *e = endpoint(c);
    struct conn_connect how = {
        .to = {.ip = e->ip, .port = e->port},
        .source = e->ip.family == 6 ? c->target.source_v6 : c->target.source_v4,
        .user_timeout_ms = c->target.timeouts.block_ms,
    };
    c->peer = (struct deliver_peer){
        .endpoint = c->at, .ip = e->ip, .port = e->port, .host = e->host, .tls = ""};
    c->connected = c->woken = false;
    c->idle_since = 0;
    c->fresh = true;
    c->content = (struct content){.active = false};
    c->conn = conn_connect(c->env->loop, &how, &conn_ops, c);
    timer_set(loop_clock(c->env->loop), &c->timer, c->target.timeouts.connect_ms,
              on_connect_timeout, c);
}

void
deliver_link_drop(struct deliver_conn *c, bool say_quit, bool in_order)
{
    timer_cancel(loop_clock(c->env->loop), &c->timer);
    c->content.active = false;
    if (c->conn == NULL)
        return;
    if (say_quit)
        conn_write(c->conn, SPAN("QUIT\r\n"));
    if (say_quit || in_order)
        conn_shutdown(c->conn, false);
    else
        conn_retire(c->conn);
    c->conn = NULL;
}

void
deliver_link_flush(struct deliver_conn *c)
{
    struct span out = smtpc_output(c->core);
    if (smtpc_output_is_secret(c->core))
        conn_write_secret(c->conn, out);
    else if (out.n > 0)
        conn_write(c->conn, out);
    smtpc_output_taken(c->core);
}

enum smtpc_want
deliver_link_tls(struct deliver_conn *c, bool *ret_started)
{
    const char *name = c->target.tls_name != NULL ? c->target.tls_name : endpoint(c)->host;
    *ret_started = c->target.tls_ctx != NULL &&
                   conn_start_tls(c->conn, c->target.tls_ctx, name, CONN_TLS_NO_INPUT) == ERR_OK;
    if (*ret_started)
        return SMTPC_WANT_TLS;
    return smtpc_lost(c->core, SMTPC_LOSS_TLS, "TLS cannot be started here");
}
