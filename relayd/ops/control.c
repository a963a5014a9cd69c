/*
 * Connections: reading requests one after the other, their deadlines, and what happens when a
 * client goes away. relayd/net/conn does the bytes, http.c the parsing.
 */
#include "relayd/ops/control.h"

#include <assert.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "policy/base/mem.h"
#include "relayd/ops/api.h"
#include "relayd/ops/control_impl.h"
#include "relayd/ops/log.h"

static void
watch(struct control_conn *cc, msec_t after_ms, void (*cb)(void *arg))
{
    timer_set(loop_clock(cc->control->loop), &cc->timer, after_ms, cb, cc);
}

/* The connection object goes; its conn must have been shut down or retired. */
static void
conn_forget(struct control_conn *cc)
{
    struct control *control = cc->control;
    assert(cc->call == NULL);
    timer_cancel(loop_clock(control->loop), &cc->timer);
    loop_defer_cancel(&cc->read_more);
    LIST_REMOVE(cc, link);
    control->n_conns--;
    control->n_tcp -= cc->tcp;
    free(cc);
}

void
control_conn_cut(struct control_conn *cc)
{
    conn_retire(cc->conn);
    conn_forget(cc);
}

/* The client is gone or given up: its call goes on without it. */
static void
conn_drop(struct control_conn *cc)
{
    struct control_call *call = cc->call;
    cc->call = NULL;
    control_conn_cut(cc);
    if (call == NULL)
        return;
    call->cc = NULL;
    if (call->streaming && call->on_gone != NULL)
        call->on_gone(call, call->stream_arg);
}

/* ---- deadlines ---- */

static void
on_idle(void *arg)
{
    conn_drop(arg);
}

static void
on_request_late(void *arg)
{
    struct control_conn *cc = arg;
    control_refuse(cc->control, cc->conn, 408, "the request did not come in time");
    conn_forget(cc);
}

static void
on_answer_late(void *arg)
{
    struct control_conn *cc = arg;
    struct control_call *call = cc->call;
    assert(call != NULL && !call->streaming);
    log_text(cc->control->log, LOG_WARNING, "control_late", "no answer to %s in %d s",
             call->route->path, (int)(CONTROL_ANSWER_MS / SECOND));
    cc->call = NULL;
    call->cc = NULL;
    control_refuse(cc->control, cc->conn, 504, "the daemon did not answer in time");
    conn_forget(cc);
}

/* Bytes that the kernel has and the client has not taken. */
static int
queued(const struct control_conn *cc)
{
    int n = 0;
    return ioctl(conn_fd(cc->conn), SIOCOUTQ, &n) == 0 ? n : 0;
}

/* A full socket is given more only when most of what it holds has been taken: a slow client may
 * need longer than CONTROL_WRITE_MS for that, so what it holds is looked at too. */
static void
on_output_stuck(void *arg)
{
    struct control_conn *cc = arg;
    size_t pending = conn_out_pending(cc->conn);
    uint64_t sent = conn_bytes_out(cc->conn) - pending;
    if (pending > 0 && sent <= cc->sent_bytes && queued(cc) >= cc->queued)
        conn_drop(cc);
    else
        control_watch_output(cc);
}

void
control_watch_output(struct control_conn *cc)
{
    size_t pending = conn_out_pending(cc->conn);
    cc->sent_bytes = conn_bytes_out(cc->conn) - pending;
    cc->queued = pending > 0 ? queued(cc) : 0;
    if (pending > 0)
        watch(cc, CONTROL_WRITE_MS, on_output_stuck);
    else if (cc->call == NULL)
        watch(cc, CONTROL_IDLE_MS, on_idle);
    else
        timer_cancel(loop_clock(cc->control->loop), &cc->timer);
}

/* ---- requests ---- */

static struct control_call *
call_new(struct control_conn *cc, struct http_request *request)
{
    struct control_call *call = xcalloc(1, sizeof(*call));
    call->control = cc->control;
    call->cc = cc;
    call->request = *request;
    memcpy(call->who, cc->who, sizeof(call->who));
    LIST_INSERT_HEAD(&cc->control->calls, call, link);
    cc->call = call;
    cc->close_after = !request->keep_alive;
    return call;
}

void
control_call_free(struct control_call *call)
{
    LIST_REMOVE(call, link);
    http_request_release(&call->request);
    cJSON_Delete(call->body);
    free(call);
}

/* After an answer: false when the connection has ended. */
static bool
conn_answered(struct control_conn *cc)
{
    if (cc->abort_after) {
        control_conn_cut(cc);
        return false;
    }
    if (cc->close_after) {
        conn_shutdown(cc->conn, true);
        conn_forget(cc);
        return false;
    }
    control_watch_output(cc);
    return true;
}

static void
log_call(const struct control_call *call)
{
    struct log_line line;
    bool changes = call->request.method == HTTP_POST;
    log_begin(call->control->log, &line, changes ? LOG_INFO : LOG_DEBUG, "control");
    log_cstr(&line, "who", call->who);
    log_cstr(&line, "method", changes ? "POST" : "GET");
    log_str(&line, "path", call->request.path);
    if (changes)
        log_str(&line, "body", call->request.body);
    log_int(&line, "status", call->status);
    log_bool(&line, "gone", call->cc == NULL);
    log_end(&line);
}

static void on_read_more(struct deferred *d);

void
control_call_done(struct control_call *call)
{
    struct control_conn *cc = call->cc;
    log_call(call);
    control_call_free(call);
    if (cc == NULL)
        return;
    cc->call = NULL;
    if (cc->dispatching)
        return; /* read_requests() goes on */
    if (conn_answered(cc) && conn_input(cc->conn).n > 0)
        loop_defer(cc->control->loop, &cc->read_more, on_read_more);
}

/* Work through the input until a request has to wait for its answer. */
static void
read_requests(struct control_conn *cc)
{
    while (cc->call == NULL && conn_out_pending(cc->conn) <= CONTROL_OUT_MAX) {
        struct http_request request;
        size_t used;
        struct span input = conn_input(cc->conn);
        if (input.n == 0)
            return;
        bool first_bytes = cc->parser.seen == 0 && cc->parser.head_bytes == 0;
        enum http_result result = http_parse(&cc->parser, input, &request, &used);
        if (result == HTTP_ERROR) {
            control_refuse(cc->control, cc->conn, cc->parser.status, cc->parser.reason);
            conn_forget(cc);
            return;
        }
        if (result == HTTP_MORE) {
            if (first_bytes)
                watch(cc, CONTROL_REQUEST_MS, on_request_late);
            if (cc->parser.wants_continue)
                conn_write(cc->conn, SPAN("HTTP/1.1 100 Continue\r\n\r\n"));
            cc->parser.wants_continue = false;
            return;
        }
        conn_consume(cc->conn, used);
        http_parser_init(&cc->parser);
        cc->dispatching = true;
        watch(cc, CONTROL_ANSWER_MS, on_answer_late);
        control_dispatch(call_new(cc, &request));
        cc->dispatching = false;
        if (cc->call == NULL && !conn_answered(cc))
            return;
    }
}

static void
on_read_more(struct deferred *d)
{
    read_requests(CONTAINER_OF(d, struct control_conn, read_more));
}

static void
on_data(void *arg)
{
    read_requests(arg);
}

static void
on_drained(void *arg)
{
    struct control_conn *cc = arg;
    struct control_call *call = cc->call;
    if (call != NULL && call->streaming) {
        control_watch_output(cc);
        if (call->wants_ready) {
            call->wants_ready = false;
            if (call->on_ready != NULL)
                call->on_ready(call, call->stream_arg);
        }
    } else if (call == NULL) {
        control_watch_output(cc);
        read_requests(cc);
    }
}

static void
on_closed(void *arg, const struct conn_end *end)
{
    (void)end; /* no HTTP client half-closes and waits: however it ended, nobody listens */
    conn_drop(arg);
}

static const struct conn_ops conn_callbacks = {
    .on_data = on_data,
    .on_drained = on_drained,
    .on_closed = on_closed,
};

/* ---- connections ---- */

static void
name_client(struct control_conn *cc, const struct net_addr *peer)
{
    struct ucred cred;
    socklen_t n = sizeof(cred);
    char text[NET_ADDR_TEXT_BYTES];
    if (cc->tcp)
        snprintf(cc->who, sizeof(cc->who), "%s", net_addr_format(peer, text));
    else if (getsockopt(conn_fd(cc->conn), SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0)
        snprintf(cc->who, sizeof(cc->who), "uid=%u pid=%d", (unsigned)cred.uid, (int)cred.pid);
    else
        snprintf(cc->who, sizeof(cc->who), "local");
}

static void
conn_begin(struct control *control, int fd, const struct net_addr *peer,
           const struct net_addr *local, bool tcp)
{
    struct control_conn *cc = xcalloc(1, sizeof(*cc));
    cc->control = control;
    cc->tcp = tcp;
    cc->loopback = tcp && ip_is_loopback(&local->ip);
    cc->conn = conn_accept(control->loop, fd, peer, local, &conn_callbacks, cc);
    conn_read_secret(cc->conn, tcp); /* requests hold the token */
    if (control->n_conns >= CONTROL_CONNS_MAX || (tcp && control->n_tcp >= CONTROL_CONNS_MAX / 2)) {
        control_refuse(control, cc->conn, 503, "too many connections");
        free(cc);
        return;
    }
    http_parser_init(&cc->parser);
    name_client(cc, peer);
    LIST_INSERT_HEAD(&control->conns, cc, link);
    control->n_conns++;
    control->n_tcp += tcp;
    watch(cc, CONTROL_IDLE_MS, on_idle);
}

static void
on_accept_unix(void *arg, int fd, const struct net_addr *peer, const struct net_addr *local)
{
    conn_begin(arg, fd, peer, local, false);
}

static void
on_accept_tcp(void *arg, int fd, const struct net_addr *peer, const struct net_addr *local)
{
    conn_begin(arg, fd, peer, local, true);
}

struct control *
control_new(const struct control_env *env)
{
    struct control *control = xcalloc(1, sizeof(*control));
    api_json_setup();
    control->loop = env->loop;
    control->log = env->log;
    LIST_INIT(&control->conns);
    LIST_INIT(&control->calls);
    return control;
}

void
control_free(struct control *control)
{
    struct control_conn *cc;
    struct control_call *call;
    if (control == NULL)
        return;
    listener_close(control->unix_listener);
    listener_close(control->tcp_listener);
    while ((call = LIST_FIRST(&control->calls)) != NULL) {
        if (call->cc != NULL)
            call->cc->call = NULL;
        control_call_free(call);
    }
    while ((cc = LIST_FIRST(&control->conns)) != NULL)
        control_conn_cut(cc);
    control_set_token(control, SPAN_NONE);
    free(control);
}

void
control_routes(struct control *control, const struct control_route *routes, size_t n, void *arg)
{
    assert(control->n_tables < CONTROL_TABLES_MAX);
    control->tables[control->n_tables++] = (struct control_table){routes, n, arg};
}

void
control_serve_unix(struct control *control, struct listener *listener)
{
    static const struct listener_ops ops = {.on_accept = on_accept_unix};
    assert(control->unix_listener == NULL);
    control->unix_listener = listener;
    listener_start(listener, control->loop, &ops, control);
}

void
control_serve_tcp(struct control *control, struct listener *listener, struct span token)
{
    static const struct listener_ops ops = {.on_accept = on_accept_tcp};
    assert(control->tcp_listener == NULL);
    control->tcp_listener = listener;
    control_set_token(control, token);
    listener_start(listener, control->loop, &ops, control);
}

void
control_set_token(struct control *control, struct span token)
{
    if (control->token != NULL) {
        explicit_bzero(control->token, strlen(control->token));
        free(control->token);
    }
    control->token = token.n == 0 ? NULL : xstrndup(token.p, token.n);
}

void
control_attach(struct control *control, int fd)
{
    conn_begin(control, fd, NULL, NULL, false);
}

size_t
control_connections(const struct control *control)
{
    return control->n_conns;
}

/* ---- what handlers ask ---- */

struct span
control_segment(const struct control_call *call)
{
    return call->segment;
}

struct span
control_query(const struct control_call *call, const char *name)
{
    return http_query(&call->request, name);
}

const cJSON *
control_body(const struct control_call *call)
{
    return call->body;
}

const char *
control_body_str(const struct control_call *call, const char *name)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(call->body, name));
}

const char *
control_who(const struct control_call *call)
{
    return call->who;
}

bool
control_gone(const struct control_call *call)
{
    return call->cc == NULL;
}
