/*
 * session - one client: drives the protocol core over a connection. Called by accept.c.
 *
 *   session_open ─▶ [PROXY] ─▶ admit ─▶ [HANDSHAKE] ─▶ SMTP ⇄ HANDSHAKE (STARTTLS) ─▶ end
 *
 * session_run() steps the core until it wants bytes, time or an answer. Replies gather in the core
 * and are written once, when it stops: a pipelined group is answered by one segment. Everything
 * that ends a session goes through session_end().
 */
#include "relayd/accept/session.h"

#include "policy/base/mem.h"
#include "policy/config.h"
#include "relayd/net/conn.h"
#include "relayd/net/proxy.h"
#include "relayd/ops/log.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void session_run(struct session *s);

/* ---- the end ---- */

/* A line for each session that did something, or was not as it should be. */
static void
log_session(struct session *s, const char *reason, const char *detail)
{
    const struct smtpd_counts *n = smtpd_counts(s->smtpd);
    const struct accept_client *client = smtpd_client(s->smtpd);
    bool plain = strcmp(reason, "quit") == 0 && n->errors == 0 && n->rcpts_refused == 0;
    struct log_line line;
    char ip[IP_TEXT_MAX];

    if (!log_enabled(s->accept->env.log, plain ? LOG_DEBUG : LOG_INFO))
        return;
    log_begin(s->accept->env.log, &line, plain ? LOG_DEBUG : LOG_INFO, "session");
    log_uint(&line, "conn", s->no);
    log_cstr(&line, "client", ip_format(&s->client.ip, ip));
    log_int(&line, "port", s->client.port);
    log_cstr(&line, "listener", s->listener->config->text);
    log_str(&line, "helo", client->helo);
    log_str(&line, "tls", client->tls_version);
    log_str(&line, "user", client->user);
    log_bool(&line, "trusted", client->trusted);
    log_uint(&line, "commands", n->commands);
    log_uint(&line, "errors", n->errors);
    log_uint(&line, "messages", n->messages);
    log_uint(&line, "refused", n->messages_refused);
    log_uint(&line, "rcpts_refused", n->rcpts_refused);
    log_uint(&line, "bytes_in", conn_bytes_in(s->conn));
    log_ms(&line, "duration", clock_now(s->accept->clock) - s->started_at);
    log_cstr(&line, "reason", reason);
    log_cstr(&line, "detail", detail);
    log_end(&line);
}

/* `polite`: what was written goes out first. The session is freed. */
static void
session_end(struct session *s, const char *reason, const char *detail, bool polite)
{
    struct accept *a = s->accept;

    session_cancel(s);
    if (s->smtpd != NULL)
        log_session(s, reason, detail);
    if (polite)
        conn_shutdown(s->conn, strcmp(reason, "quit") != 0);
    else
        conn_retire(s->conn);
    timer_cancel(a->clock, &s->timer);
    loop_defer_cancel(&s->resume);
    smtpd_free(s->smtpd);
    struct accept_setup *setup = s->setup;
    accept_forget(a, s);
    free(s);
    setup_unref(setup);
}

void
session_drop(struct session *s, const char *reason)
{
    session_end(s, reason, NULL, false);
}

/* ---- time ---- */

static void
on_timer(void *arg)
{
    struct session *s = arg;

    if (s->stage != SESSION_SMTP || s->out_waits) {
        s->accept->stats.timeouts++;
        session_drop(s, s->stage == SESSION_PROXY       ? "proxy timeout"
                        : s->stage == SESSION_HANDSHAKE ? "tls timeout"
                                                        : "stalled");
        return;
    }
    smtpd_timeout(s->smtpd, clock_now(s->accept->clock));
    session_run(s);
}

static void
set_timer(struct session *s, msec_t at)
{
    if (at == INT64_MAX)
        timer_cancel(s->accept->clock, &s->timer);
    else if (!timer_is_set(&s->timer) || s->timer.at != at)
        timer_set_at(s->accept->clock, &s->timer, at, on_timer, s);
}

static msec_t
idle_ms(const struct session *s)
{
    const struct smtpd_conf *conf = &s->listener->conf;

    return s->accept->stressed ? conf->idle_stressed_ms : conf->idle_ms;
}

/* ---- the core's wants ---- */

static void
write_out(struct session *s)
{
    struct strbuf *out = smtpd_out(s->smtpd);

    if (out->n == 0)
        return;
    conn_write(s->conn, strbuf_span(out));
    strbuf_release(out); /* an idle session keeps no buffer */
}

static void
start_tls(struct session *s, enum conn_tls_input input)
{
    struct accept *a = s->accept;

    s->stage = SESSION_HANDSHAKE;
    msec_t limit_ms = idle_ms(s) < SESSION_HANDSHAKE_MS ? idle_ms(s) : SESSION_HANDSHAKE_MS;
    set_timer(s, clock_now(a->clock) + limit_ms);
    if (conn_start_tls(s->conn, s->listener->tls, "", input) != ERR_OK)
        session_drop(s, "early talk"); /* the core has looked: not by any client's doing */
}

/* Ask or tell others what the core wants. False: it waits for an answer now. */
static bool
serve(struct session *s, enum smtpd_want want)
{
    switch (want) {
    case SMTPD_WANT_AUTH:
        if (s->check == NULL)
            session_check_start(s);
        return s->check == NULL;
    case SMTPD_WANT_VERDICT:
        if (!s->asking_rcpt)
            session_ask_rcpt(s);
        return !s->asking_rcpt;
    case SMTPD_WANT_BEGIN:
        if (!s->asking_sink)
            session_ask_begin(s);
        return !s->asking_sink;
    case SMTPD_WANT_RCPT:
        if (!s->asking_sink)
            session_ask_taken(s);
        return !s->asking_sink;
    case SMTPD_WANT_END:
        if (!s->asking_sink)
            session_ask_end(s);
        return !s->asking_sink;
    case SMTPD_WANT_CHUNK:
        session_chunk(s);
        return !s->sink_waits;
    case SMTPD_WANT_ABORT:
        session_abort(s);
        return true;
    default:
        return false;
    }
}

/* It does not take its replies: no more commands are looked at until it has. */
static void
wait_for_client(struct session *s)
{
    s->out_waits = true;
    set_timer(s, clock_now(s->accept->clock) + idle_ms(s));
}

/* The core has stopped at `want`: send what it said, and arrange to go on. May end the session. */
static void
rest(struct session *s, enum smtpd_want want)
{
    write_out(s);
    switch (want) {
    case SMTPD_WANT_CLOSE:
        session_end(s, smtpd_close_reason(s->smtpd), NULL, true);
        return;
    case SMTPD_WANT_TLS:
        start_tls(s, CONN_TLS_NO_INPUT);
        return;
    case SMTPD_WANT_INPUT:
        if (s->eof)
            session_end(s, "gone", NULL, true);
        else if (conn_out_pending(s->conn) > SESSION_OUT_MAX)
            wait_for_client(s);
        else
            set_timer(s, smtpd_deadline(s->smtpd));
        return;
    case SMTPD_WANT_FLUSH:
        if (conn_out_pending(s->conn) <= SESSION_OUT_MAX)
            session_wake(s);
        else
            wait_for_client(s);
        return;
    default:
        set_timer(s, INT64_MAX); /* those who are asked have their own limits */
    }
}

static void
session_run(struct session *s)
{
    msec_t now = clock_now(s->accept->clock);
    struct span input = conn_input(s->conn), left = input;
    enum smtpd_want want;

    if (s->stage != SESSION_SMTP || s->sink_waits || s->out_waits)
        return;
    assert(!s->running);
    session_judge_again(s);
    s->running = true;
    do
        want = smtpd_step(s->smtpd, now, &left);
    while (serve(s, want));
    s->running = false;
    conn_consume(s->conn, input.n - left.n);
    rest(s, want);
}

static void
on_resume(struct deferred *d)
{
    session_run(CONTAINER_OF(d, struct session, resume));
}

void
session_wake(struct session *s)
{
    if (!s->running)
        loop_defer(s->accept->env.loop, &s->resume, on_resume);
}

void
session_stop(struct session *s)
{
    if (s->smtpd == NULL || s->stage != SESSION_SMTP) {
        session_drop(s, "stop");
        return;
    }
    smtpd_stop(s->smtpd);
    session_run(s);
}

void
session_set_stressed(struct session *s, bool stressed)
{
    if (s->smtpd == NULL)
        return;
    smtpd_set_stressed(s->smtpd, clock_now(s->accept->clock), stressed);
    if (s->stage == SESSION_SMTP && !s->out_waits)
        set_timer(s, smtpd_deadline(s->smtpd));
}

/* ---- the beginning ---- */

/* Has the client spoken before our greeting? In clear, what the kernel holds is looked at too. */
static bool
spoke_early(struct session *s)
{
    char byte;

    return conn_input(s->conn).n > 0 ||
           (!s->in_tls && recv(conn_fd(s->conn), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0);
}

static void
greet(struct session *s)
{
    struct accept *a = s->accept;

    s->stage = SESSION_SMTP;
    session_judge(s, SPAN_NONE);
    if (guard_blocks(a->guard, &s->client.ip, clock_now(a->clock)) &&
        !smtpd_client(s->smtpd)->trusted) {
        a->stats.refused_421++;
        smtpd_turn_away(s->smtpd, SPAN("421 4.7.0 too many failed logins, come back later"));
    } else {
        smtpd_start(s->smtpd, clock_now(a->clock), spoke_early(s));
    }
    session_run(s);
}

/* The client's address is known. */
static void
session_identified(struct session *s)
{
    struct accept *a = s->accept;
    const char *refusal = accept_admit(a, s);

    if (refusal != NULL && s->listener->implicit) {
        session_drop(s, "turned away");
        return;
    }
    struct accept_client client = {.session = s->no,
                                   .ip = s->client.ip,
                                   .port = s->client.port,
                                   .listener = span_str(s->listener->config->text)};
    s->smtpd = smtpd_new(&s->listener->conf, &client, a->scratch, s);
    smtpd_set_stressed(s->smtpd, clock_now(a->clock), a->stressed);
    if (refusal != NULL) {
        s->stage = SESSION_SMTP;
        smtpd_turn_away(s->smtpd, span_str(refusal));
        session_run(s);
    } else if (s->listener->implicit) {
        start_tls(s, CONN_TLS_FEED_INPUT);
    } else {
        greet(s);
    }
}

static void
read_proxy_header(struct session *s)
{
    struct proxy_info info;
    size_t length;

    switch (proxy_parse(conn_input(s->conn), &info, &length)) {
    case PROXY_MORE:
        return;
    case PROXY_BAD:
        session_drop(s, "bad proxy header");
        return;
    case PROXY_OK:
        break;
    }
    conn_consume(s->conn, length);
    if (!info.local)
        s->client = info.source;
    session_identified(s);
}

/* ---- the connection's callbacks ---- */

static void
on_data(void *arg)
{
    struct session *s = arg;

    if (s->stage == SESSION_PROXY)
        read_proxy_header(s);
    else
        session_run(s);
}

static void
on_drained(void *arg)
{
    struct session *s = arg;

    if (!s->out_waits)
        return;
    s->out_waits = false;
    session_wake(s);
}

static void
log_tls_failure(struct session *s, const char *text)
{
    struct log_line line;
    char ip[IP_TEXT_MAX];

    log_begin(s->accept->env.log, &line, LOG_INFO, "tls_failed");
    log_uint(&line, "conn", s->no);
    log_cstr(&line, "client", ip_format(&s->client.ip, ip));
    log_cstr(&line, "listener", s->listener->config->text);
    log_cstr(&line, "reason", text);
    log_end(&line);
}

static void
on_tls(void *arg, const struct conn_tls_result *result)
{
    struct session *s = arg;
    struct accept *a = s->accept;

    if (result->failure != TLS_FAIL_NONE) {
        a->stats.tls_failed++;
        log_tls_failure(s, result->text);
        session_drop(s, "tls failed");
        return;
    }
    a->stats.tls_handshakes++;
    a->stats.sessions_tls++;
    s->in_tls = true;
    s->stage = SESSION_SMTP;
    session_judge(s, SPAN_NONE);
    conn_read_secret(s->conn, s->listener->conf.auth); /* until check.c has let somebody in */
    smtpd_tls_done(s->smtpd, span_str(result->facts->version), span_str(result->facts->cipher));
    if (s->listener->implicit)
        greet(s);
    else
        session_run(s);
}

static void
on_closed(void *arg, const struct conn_end *end)
{
    struct session *s = arg;

    /* Who sends all he has and closes his half still gets his replies. */
    if ((end->kind == CONN_END_EOF || end->kind == CONN_END_TRUNCATED) &&
        s->stage == SESSION_SMTP && (!s->out_waits || end->kind == CONN_END_EOF)) {
        s->eof = true;
        session_run(s);
    } else {
        session_end(s, "gone", end->text, false);
    }
}

static const struct conn_ops ops = {
    .on_data = on_data, .on_drained = on_drained, .on_tls = on_tls, .on_closed = on_closed};

static bool
is_proxy(const struct config_listener *listener, const struct ip *ip)
{
    for (size_t i = 0; i < listener->n_proxies; i++)
        if (cidr_has(&listener->proxies[i], ip))
            return true;
    return false;
}

void
session_open(struct accept *a, struct accept_setup *setup, size_t listener, int fd,
             const struct net_addr *peer, const struct net_addr *local)
{
    const struct listener_setup *l = &setup->listeners[listener];

    a->stats.connections++;
    if (l->config->n_proxies > 0 && !is_proxy(l->config, &peer->ip)) {
        close(fd);
        return;
    }
    struct session *s = xcalloc(1, sizeof *s);
    s->accept = a;
    s->setup = setup;
    setup_ref(setup);
    s->listener = l;
    s->client = *peer;
    s->no = ++a->next_session;
    s->started_at = clock_now(a->clock);
    s->conn = conn_accept(a->env.loop, fd, peer, local, &ops, s);
    s->next = a->sessions;
    if (s->next != NULL)
        s->next->prev = s;
    a->sessions = s;
    a->stats.sessions++;
    if (l->config->n_proxies > 0) {
        s->stage = SESSION_PROXY;
        set_timer(s, clock_now(a->clock) + SESSION_PROXY_MS);
    } else {
        session_identified(s);
    }
}
