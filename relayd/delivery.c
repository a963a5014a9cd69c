/*
 * delivery - see delivery.h. One `struct connection` a link, from open to on_failed or on_closed;
 * it outlives them only while a read of its message's body is under way.
 */
#include "relayd/delivery_private.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/srs.h"
#include "relayd/deliver/tls_memory.h"
#include "relayd/intake.h"
#include "relayd/net/tls.h"
#include "relayd/ops/log.h"
#include "relayd/work/inhand.h"

/* Classes of refusals that speak of the hop itself and not of the message. */
static bool
hop_trouble(void *arg, const struct smtp_reply *reply, const char *phase)
{
    struct delivery *d = arg;
    struct settings *settings = d->env.settings_take(d->env.arg);
    const struct classify_reply r = {.code = reply->code,
                                     .enh = reply->enh,
                                     .text = reply->text,
                                     .stage = reply_stage_of_phase(phase)};
    enum reply_class klass = classify_reply(settings->rules, &r).klass;
    d->env.settings_give(d->env.arg, settings);
    return klass == REPLY_RELAY_DENIED || klass == REPLY_AUTH_REQUIRED ||
           klass == REPLY_TLS_REQUIRED;
}

struct delivery *
delivery_new(const struct delivery_env *env)
{
    struct delivery *d = xcalloc(1, sizeof(*d));
    d->env = *env;
    d->deliver = (struct deliver_env){
        .loop = env->loop,
        .tls_memory = tls_memory_new(TLS_MEMORY_MAX),
        .hop_trouble = hop_trouble,
        .hop_trouble_arg = d,
    };
    return d;
}

size_t
delivery_connections(const struct delivery *d)
{
    return d->n_connections;
}

static void
connection_free(struct connection *c)
{
    if (c->conn != NULL || c->reads > 0)
        return;
    loop_defer_cancel(&c->part);
    *c->prev = c->next;
    if (c->next != NULL)
        c->next->prev = c->prev;
    c->d->n_connections--;
    c->d->env.settings_give(c->d->env.arg, c->settings);
    free(c->rcpts);
    free(c->attempts);
    delivery_deciders_free(c->deciders);
    free(c->path_trouble);
    strbuf_release(&c->srs);
    free(c);
}

void
delivery_stop(struct delivery *d)
{
    for (struct connection *c = d->connections, *next; c != NULL; c = next) {
        next = c->next;
        if (c->conn != NULL)
            deliver_abort(c->conn);
        c->conn = NULL;
        connection_free(c);
    }
}

void
delivery_free(struct delivery *d)
{
    if (d == NULL)
        return;
    assert(d->connections == NULL);
    tls_memory_free(d->deliver.tls_memory);
    free(d);
}

/* ---- the body ---- */

struct body_read {
    struct store_read read;
    struct connection *c;
    struct msg *msg;
    char bytes[DELIVER_CHUNK_MAX];
};

/* It is damaged; or it is gone, since a verb removed the message while it was on its way. */
static void
body_unread(struct connection *c, const struct store_read *read)
{
    const char *why = "the message was removed from the queue";
    if (read->code != ERR_NOT_FOUND) {
        why = "the message cannot be read from the queue";
        log_alert(c->d->env.log, "queue_damaged", "%s: its body cannot be read: %s",
                  c->msg->id_text, read->err.text);
    }
    deliver_body_failed(c->conn, &c->txn, why);
}

static void
body_read_done(struct store_read *read)
{
    struct body_read *br = CONTAINER_OF(read, struct body_read, read);
    struct connection *c = br->c;

    IN_HAND(read->body.id);
    if (c->conn != NULL && c->msg == br->msg) {
        uint64_t end = read->body.offset + read->body.n;
        if (read->code != ERR_OK) {
            body_unread(c, read);
        } else {
            deliver_body(c->conn, &c->txn, read->body.offset, span_of(br->bytes, read->body.n),
                         read->body.n == 0 || end >= c->msg->q.body_bytes);
        }
    }
    c->reads--; /* not before: a body that cannot be read ends the connection in there */
    free(br);
    connection_free(c);
}

static void
want_body(void *arg, struct deliver_txn *txn, uint64_t offset)
{
    struct connection *c = arg;
    const struct msg_body *body = c->msg->body;
    IN_HAND(c->msg->q.id);

    if (body != NULL) {
        struct span rest = span_from(span_of(body->bytes, body->n), offset);
        bool last = rest.n <= DELIVER_CHUNK_MAX;
        deliver_body(c->conn, txn, offset, span_first(rest, DELIVER_CHUNK_MAX), last);
        return;
    }
    struct body_read *br = xmalloc(sizeof(*br));
    memset(br, 0, offsetof(struct body_read, bytes));
    br->c = c;
    br->msg = c->msg;
    br->read.kind = STORE_READ_BODY;
    br->read.done = body_read_done;
    br->read.body.id = c->msg->q.id;
    br->read.body.offset = offset;
    br->read.body.buf = br->bytes;
    br->read.body.cap = sizeof(br->bytes);
    c->reads++;
    store_read(c->d->env.store, &br->read);
}

/* ---- a transaction ---- */

static bool
is_ascii(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] >= 0x80)
            return false;
    return true;
}

/* RFC 6531 is needed only when the client asked for it and something in the message is UTF-8. */
static bool
needs_smtputf8(const struct msg *msg, struct rcpt *const *rcpts, size_t n)
{
    if (!(msg->q.flags & QUEUE_MSG_SMTPUTF8))
        return false;
    if (msg->q.flags & MSG_HEADER_8BIT || !is_ascii(msg->q.sender))
        return true;
    for (size_t i = 0; i < n; i++)
        if (!is_ascii(rcpts[i]->address))
            return true;
    return false;
}

static size_t
set_heads(struct connection *c, uint64_t *ret_bytes)
{
    const struct queue_msg *q = &c->msg->q;
    size_t n = 0;

    c->heads[n++] = q->received;
    if (c->hop == NULL || !c->hop->signs)
        for (size_t i = 0; i < q->n_signatures; i++)
            c->heads[n++] = q->signatures[i].field;
    c->heads[n++] = q->added;
    *ret_bytes = q->body_bytes;
    for (size_t i = 0; i < n; i++)
        *ret_bytes += c->heads[i].n;
    return n;
}

static void
set_rcpts(struct connection *c, struct rcpt *const *rcpts, size_t n)
{
    c->rcpts = xcalloc(n, sizeof(*c->rcpts));
    c->attempts = xcalloc(n, sizeof(*c->attempts));
    for (size_t i = 0; i < n; i++) {
        c->rcpts[i] = (struct deliver_rcpt){
            .address = rcpts[i]->address, .orcpt = rcpts[i]->orcpt, .notify = rcpts[i]->notify};
        c->attempts[i].rcpt = rcpts[i];
    }
}

static void
log_srs_too_long(const struct connection *c)
{
    struct log_line line;

    log_begin(c->d->env.log, &line, LOG_WARNING, "srs_too_long");
    log_cstr(&line, "msg", c->msg->id_text);
    log_str(&line, "sender", c->msg->q.sender);
    log_end(&line);
}

/*
 * The envelope sender. The settings are those in force and not the connection's: a bounce is
 * checked with secrets of today. The day is that of the arrival, so that all attempts have one
 * sender, as greylisting wants.
 */
static struct span
sender_of(struct connection *c)
{
    const struct queue_msg *q = &c->msg->q;
    struct settings *settings = c->d->env.settings_take(c->d->env.arg);
    const struct srs srs = srs_of(settings->config);
    struct span domain = span_str(c->msg->sender_domain);

    strbuf_reset(&c->srs);
    if (srs_applies(&srs, q->sender, domain, settings->config) &&
        !srs_forward(&srs, q->sender, domain, q->arrived_at, &c->srs))
        log_srs_too_long(c);
    c->d->env.settings_give(c->d->env.arg, settings);
    return c->srs.n > 0 ? strbuf_span(&c->srs) : q->sender;
}

void
delivery_send(void *conn, struct rcpt *const *rcpts, size_t n)
{
    struct connection *c = conn;

    assert(c->msg == NULL && n > 0);
    c->msg = rcpts[0]->msg;
    c->sent_at = clock_now(loop_clock(c->d->env.loop));
    IN_HAND(c->msg->q.id);
    set_rcpts(c, rcpts, n);
    c->txn = (struct deliver_txn){
        .sender = sender_of(c),
        .ret = c->msg->q.ret,
        .envid = c->msg->q.envid,
        .is_8bit = c->msg->q.flags & QUEUE_MSG_8BIT,
        .needs_smtputf8 = needs_smtputf8(c->msg, rcpts, n),
        .rcpts = c->rcpts,
        .n_rcpts = n,
        .heads = c->heads,
        .msg_id = c->msg->q.id,
        .user = c,
    };
    c->txn.n_heads = set_heads(c, &c->txn.size_bytes);
    deliver_txn_start(c->conn, &c->txn);
}

/* ---- a connection ---- */

static void
on_ready(void *arg)
{
    struct connection *c = arg;
    if (!c->was_ready && c->hop != NULL)
        schedule_link_port(c->link, deliver_peer(c->conn)->port);
    c->connect_ms = c->was_ready ? 0 : clock_now(loop_clock(c->d->env.loop)) - c->opened_at;
    c->was_ready = true;
    schedule_link_ready(c->link);
}

static void
on_failed(void *arg, const struct outcome *outcome)
{
    struct connection *c = arg;
    const struct deliver_peer *peer = deliver_peer(c->conn);
    char text[IP_PORT_TEXT_MAX];

    schedule_link_met(c->link, ip_port_format(&peer->ip, peer->port, text),
                      peer->host == NULL ? "" : peer->host,
                      clock_now(loop_clock(c->d->env.loop)) - c->opened_at);
    c->conn = NULL;
    schedule_link_failed(c->link, outcome);
    connection_free(c);
}

static void
on_closed(void *arg)
{
    struct connection *c = arg;
    c->conn = NULL;
    /* Told to quit before it was ever ready: nobody waits for it any more. */
    schedule_link_closed(c->link);
    connection_free(c);
}

static const struct deliver_ops ops = {
    .on_ready = on_ready,
    .want_body = want_body,
    .on_outcome = delivery_on_outcome,
    .on_txn_done = delivery_on_txn_done,
    .on_failed = on_failed,
    .on_closed = on_closed,
};

static struct deliver_timeouts
timeouts_of(const struct config_timeouts *t)
{
    return (struct deliver_timeouts){
        .connect_ms = t->connect_ms,
        .greeting_ms = t->greeting_ms,
        .ehlo_ms = t->ehlo_ms,
        .starttls_ms = t->starttls_ms,
        .auth_ms = t->auth_ms,
        .mail_ms = t->mail_ms,
        .rcpt_ms = t->rcpt_ms,
        .data_ms = t->data_ms,
        .block_ms = t->block_ms,
        .final_dot_ms = t->final_dot_ms,
        .quit_ms = t->quit_ms,
    };
}

void *
delivery_open(struct delivery *d, struct site_link *link, const struct schedule_target *target)
{
    struct connection *c = xcalloc(1, sizeof(*c));
    struct deliver_endpoint endpoints[DELIVER_ENDPOINTS_MAX];
    size_t n = target->endpoints->n;
    char *password = NULL;

    c->d = d;
    c->link = link;
    c->settings = d->env.settings_take(d->env.arg);
    c->hop = target->hop;
    c->opened_at = clock_now(loop_clock(d->env.loop));
    c->next = d->connections;
    c->prev = &d->connections;
    if (c->next != NULL)
        c->next->prev = &c->next;
    d->connections = c;
    d->n_connections++;

    const struct config *config = c->settings->config;
    if (n > DELIVER_ENDPOINTS_MAX)
        n = DELIVER_ENDPOINTS_MAX;
    for (size_t i = 0; i < n; i++) {
        const struct facts_endpoint *e = &target->endpoints->list[i];
        c->has_v4 |= c->hop == NULL && e->ip.family == 4;
        c->has_v6 |= c->hop == NULL && e->ip.family == 6;
        endpoints[i] = (struct deliver_endpoint){e->ip, e->port, e->implicit_tls, e->host};
    }
    bool auth = c->hop != NULL && c->hop->username[0] != '\0';
    if (auth)
        password = xstrndup(c->hop->password.p, c->hop->password.n);
    const struct deliver_target t = {
        .endpoints = endpoints,
        .n_endpoints = n,
        .ehlo_name = config->node.hostname,
        .hop = c->hop != NULL,
        .tls = (enum tls_level)target->tls,
        .tls_ctx = settings_tls(c->settings, c->hop, target->tls),
        .tls_gone_is_path = target->has_fallback,
        .auth_username = auth ? c->hop->username : NULL,
        .auth_password = password,
        .source_v4 = c->hop == NULL ? config->direct.source.v4 : (struct ip){0},
        .source_v6 = c->hop == NULL ? config->direct.source.v6 : (struct ip){0},
        .timeouts = timeouts_of(&config->timeouts),
        .max_messages = target->max_messages,
        .idle_ms = c->hop == NULL ? DELIVERY_IDLE_MS : DELIVERY_IDLE_HOP_MS,
        .session_ms = DELIVERY_SESSION_MS,
    };
    c->conn = deliver_start(&d->deliver, &t, &ops, c);
    if (password != NULL)
        explicit_bzero(password, strlen(password));
    free(password);
    return c;
}

void
delivery_quit(void *conn)
{
    struct connection *c = conn;
    if (c->conn != NULL)
        deliver_quit(c->conn);
}

bool
delivery_ready(void *conn)
{
    const struct connection *c = conn;
    return c->conn != NULL && deliver_is_ready(c->conn);
}
