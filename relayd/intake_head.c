/*
 * intake_head - the header of a message that comes in: loop check, line lengths, the fields that we
 * add. With normalised newlines and broken body lines these are all the changes that are ever made.
 */
#include "relayd/intake_private.h"

#include <stdio.h>
#include <stdlib.h>

#include "policy/base/ip.h"
#include "relayd/ops/log.h"
#include "relayd/work/inhand.h"

bool
intake_head_is_whole(struct intake_msg *m)
{
    struct span text = span_of(m->body->bytes, m->body->n);
    size_t seen = m->head_seen;
    m->head_seen = text.n;
    return header_first_line_is_body(text) || header_block_end(text, seen) != SIZE_MAX;
}

static bool
has_long_line(struct span head)
{
    while (head.n > HEADER_LINE_MAX) {
        size_t n = span_find_byte(head, '\n');
        if (n == SIZE_MAX || n > HEADER_LINE_MAX + 1)
            return true;
        head = span_from(head, n + 1);
    }
    return false;
}

/* Put the header block anew with its long lines folded. False: a line has no blank to fold at. */
static bool
fold_head(struct intake_msg *m)
{
    struct span all = span_of(m->body->bytes, m->body->n);
    struct span head = span_first(all, m->facts.head_bytes);
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;

    while (head.n > 0) {
        struct span line = span_cut(&head, '\n');
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
        if (!header_line_fold(line, &out))
            return false;
    }
    struct span rest = span_from(all, m->facts.head_bytes);
    struct msg_body *body = xmalloc(sizeof(*body) + out.n + rest.n);
    memcpy(body->bytes, out.p, out.n);
    memcpy(body->bytes + out.n, rest.p, rest.n);
    body->n = m->body_cap = out.n + rest.n;
    m->facts.body_at += out.n - m->facts.head_bytes;
    m->facts.head_bytes = out.n;
    free(m->body);
    m->body = body;
    return true;
}

static void
add_received(struct intake_msg *m, msec_t now)
{
    const struct config *config = m->settings->config;
    const struct accept_client *client = m->t->mail->client;
    char ip[IP_TEXT_MAX];
    const struct header_received received = {
        .helo = client->helo,
        .client_ip = span_str(ip_format(&client->ip, ip)),
        .by = span_str(config->node.hostname),
        .node = span_str(config->node.name),
        .protocol = client->protocol,
        .tls_version = client->tls_version,
        .tls_cipher = client->tls_cipher,
        .id = span_str(m->id_text),
        .rcpt = m->n_rcpts == 1 ? m->rcpts[0].address : SPAN_NONE,
        .now = now,
    };
    header_received_format(&received, &m->received);
}

/* Date and Message-ID when missing; never under somebody's signature, which may cover them. */
static void
add_fields(struct intake_msg *m, bool no_header, msec_t now)
{
    if (no_header || !m->facts.has_dkim_signature) {
        if (!m->facts.has_date)
            header_add_date(now, &m->added);
        if (!m->facts.has_message_id)
            header_add_message_id(span_str(m->id_text),
                                  span_str(m->settings->config->node.hostname), &m->added);
    }
    if (no_header)
        strbuf_add_str(&m->added, "\r\n");
}

static void
keep_head(struct intake_msg *m)
{
    struct span head = span_of(m->body->bytes, m->facts.head_bytes);
    snprintf(m->message_id, sizeof(m->message_id), "%.*s",
             SPAN_ARG(span_trim(m->facts.message_id)));
    /* The body may move to the disk: the signer needs these bytes later. */
    m->arena = arena_new();
    ptrdiff_t from = m->facts.from.p == NULL ? 0 : m->facts.from.p - m->body->bytes;
    char *copy = arena_strndup(m->arena, head.p, head.n);
    m->head = span_of(copy, head.n);
    if (m->facts.from.p != NULL)
        m->facts.from.p = copy + from;
}

/* Of the header as it came: the client sends the same one again after a crash of ours. */
static uint64_t
fingerprint(struct span text)
{
    size_t n = span_find(text, SPAN("\r\n\r\n"));
    return inhand_hash(text.p, n == SIZE_MAX ? text.n : n);
}

const char *
intake_head(struct intake_msg *m)
{
    const struct intake_env *env = &m->intake->env;
    const struct config *config = m->settings->config;
    struct span text = span_of(m->body->bytes, m->body->n);

    m->print = fingerprint(text);
    if (env->poison(env->arg, m->print)) {
        log_alert(env->log, "poison", "%s: refused, its header has crashed relayd before",
                  m->id_text);
        return "554 5.6.0 this message cannot be processed here";
    }
    IN_HAND(m->id);
    inhand_print(m->print);
    struct span hostname = span_str(config->node.hostname);
    bool no_header = header_first_line_is_body(text);
    msec_t now = clock_wall(loop_clock(m->intake->env.loop));

    if (!no_header) {
        if (header_scan(text, hostname, &m->facts, NULL) != ERR_OK)
            return "554 5.6.0 the message header is too large";
        if (m->facts.n_received >= config->limits.received_hops || m->facts.n_received_ours >= 2)
            return "554 5.4.6 too many hops: this message is looping";
        if (has_long_line(span_first(text, m->facts.head_bytes))) {
            if (!fold_head(m))
                return "550 5.6.0 a header line is longer than 998 octets and cannot be folded";
            text = span_of(m->body->bytes, m->body->n);
            if (header_scan(text, hostname, &m->facts, NULL) != ERR_OK)
                return "554 5.6.0 the message header is too large";
        }
        keep_head(m);
    }
    add_received(m, now);
    add_fields(m, no_header, now);
    return NULL;
}

void
intake_envelope(struct intake_msg *m)
{
    const struct accept_mail *mail = m->t->mail;
    const struct accept_client *client = mail->client;
    char ip[IP_TEXT_MAX];

    m->sender = xasprintf("%.*s%.*s%.*s", SPAN_ARG(mail->sender), SPAN_ARG(mail->ret),
                          SPAN_ARG(mail->envid));
    m->client = xasprintf("%s %.*s", ip_format(&client->ip, ip), SPAN_ARG(client->helo));
    m->msg.id = m->id;
    m->msg.arrived_at = clock_wall(loop_clock(m->intake->env.loop));
    m->msg.flags = (mail->body_8bit ? QUEUE_MSG_8BIT : 0) |
                   (mail->smtputf8 ? QUEUE_MSG_SMTPUTF8 : 0) |
                   (m->facts.has_8bit ? MSG_HEADER_8BIT : 0);
    m->msg.sender = span_of(m->sender, mail->sender.n);
    m->msg.ret = span_of(m->sender + mail->sender.n, mail->ret.n);
    m->msg.envid = span_of(m->sender + mail->sender.n + mail->ret.n, mail->envid.n);
    m->msg.client = span_str(m->client);
    m->msg.received = strbuf_span(&m->received);
    m->msg.added = strbuf_span(&m->added);
    snprintf(m->protocol, sizeof(m->protocol), "%.*s", SPAN_ARG(client->protocol));
    if (client->tls_version.n > 0)
        snprintf(m->tls, sizeof(m->tls), "%.*s %.*s", SPAN_ARG(client->tls_version),
                 SPAN_ARG(client->tls_cipher));
    snprintf(m->user, sizeof(m->user), "%.*s", SPAN_ARG(client->user));
}
