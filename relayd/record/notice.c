/*
 * notice - what the sender is told: reads what is needed of the original, builds the report
 * (policy/dsn), signs it if a key fits, and gives the batch on to the store.
 *
 *    notices_start ─▶ original in memory? ──no──▶ read mail, read its first bytes
 *                            │ yes                             │
 *                            └──────────▶ build one report a kind ◀┘ ─▶ sign each ─▶ batch_submit
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/header.h"
#include "relayd/message.h"
#include "relayd/ops/log.h"
#include "relayd/record/internal.h"
#include "relayd/work/inhand.h"

#define ORIGINAL_BYTES_MAX QUEUE_PAGE_BYTES /* of the original that is looked at */

/* ---- who it goes to ---- */

static void
address_notice(struct notice *n, struct span to)
{
    const char *at = memrchr(to.p, '@', to.n);
    struct span domain = at == NULL ? SPAN_NONE : span_from(to, (size_t)(at + 1 - to.p));

    if (domain_normalise(domain, n->domain, NULL) != ERR_OK)
        snprintf(n->domain, sizeof(n->domain), "%.*s", SPAN_ARG(span_first(domain, DOMAIN_MAX)));
    n->to = xstrndup(to.p, to.n);
    n->rcpt = (struct queue_rcpt){.id = n->id,
                                  .no = 0,
                                  .revision = 1,
                                  .address = span_of(n->to, to.n),
                                  .domain = span_str(n->domain),
                                  .state = QUEUE_FRESH,
                                  .notify = QUEUE_NOTIFY_NEVER};
}

static struct notice *
notice_new(struct batch *b, const char *about)
{
    struct record *r = b->record;
    assert(b->n_notices < NOTICES_MAX);
    if (b->notices == NULL) {
        b->notices = xcalloc(NOTICES_MAX, sizeof(*b->notices));
        b->messages = xcalloc(NOTICES_MAX, sizeof(*b->messages));
    }
    struct notice *n = &b->notices[b->n_notices++];
    n->id = queue_id_new(r->env.queue, clock_wall(loop_clock(r->env.loop)));
    n->about = about;
    n->text = STRBUF_INIT;
    n->flags = QUEUE_MSG_NOTICE;
    return n;
}

/* ---- the report ---- */

/* The header of the original as it was sent: ours on top. */
static void
original_head(const struct batch *b, struct span bytes, size_t *ret_body_at, struct strbuf *out)
{
    const struct queue_msg *q = &b->msg->q;
    struct header_facts facts = {0};

    strbuf_add_span(out, q->received);
    for (size_t i = 0; i < q->n_signatures; i++)
        strbuf_add_span(out, q->signatures[i].field);
    if (header_first_line_is_body(bytes)) {
        *ret_body_at = 0;
        struct span added = q->added;
        if (span_ends(added, SPAN("\r\n\r\n")))
            added.n -= 2;
        strbuf_add_span(out, added);
        return;
    }
    strbuf_add_span(out, q->added);
    if (header_scan(bytes, SPAN_NONE, &facts, NULL) == ERR_OK) {
        strbuf_add(out, bytes.p, facts.head_bytes);
        *ret_body_at = facts.body_at;
    }
}

/* The host that gave us the message, as it called itself, or by its address when it gave no name.
 * `client` is "ip helo", as the queue keeps it. */
static struct span
client_mta(struct span client, char buf[static DOMAIN_BUF])
{
    struct span helo = client, ip = span_cut(&helo, ' ');

    if (ip.n == 0 || domain_valid_host(helo))
        return helo;
    bool v6 = memchr(ip.p, ':', ip.n) != NULL;
    snprintf(buf, DOMAIN_BUF, v6 ? "[IPv6:%.*s]" : "[%.*s]", SPAN_ARG(ip));
    return span_str(buf);
}

static size_t
refusals_of(const struct item *item, struct attempts *a, struct dsn_refusal ret[DSN_REFUSALS_MAX])
{
    size_t n = 0;
    if (attempts_decode(span_of(item->attempts, item->attempts_bytes), a, NULL) != ERR_OK)
        return 0;
    for (int i = a->n_refusals - 1; i >= 0 && n < DSN_REFUSALS_MAX; i--) {
        const struct refusal *f = &a->refusals[i];
        struct span peer = f->peer;
        /* What was noted for the administrator is not for the sender. */
        if (f->route.n == 0 && i < a->n_refusals - 1)
            continue;
        struct span host = span_cut(&peer, ' ');
        size_t port = peer.n;
        while (port > 0 && peer.p[port - 1] != ':')
            port--;
        ret[n++] = (struct dsn_refusal){.route = f->route,
                                        .mta = host,
                                        .ip = span_first(peer, port > 0 ? port - 1 : 0),
                                        .at = f->at,
                                        .code = f->code,
                                        .enh = f->enh,
                                        .text = f->text};
    }
    return n;
}

struct report_rcpts {
    struct dsn_rcpt rcpts[RECORD_RCPTS_MAX];
    struct attempts attempts[RECORD_RCPTS_MAX];
    struct dsn_refusal refusals[RECORD_RCPTS_MAX][DSN_REFUSALS_MAX];
    size_t n;
};

static void
collect_rcpts(const struct batch *b, enum dsn_kind kind, struct report_rcpts *ret)
{
    ret->n = 0;
    for (size_t i = 0; i < b->n_items; i++) {
        const struct item *item = &b->items[i];
        if (!item->tell || item->kind != kind)
            continue;
        size_t k = ret->n++;
        ret->rcpts[k] = (struct dsn_rcpt){
            .address = item->rcpt->address,
            .orcpt = item->rcpt->orcpt,
            .action = item->action,
            .status = item->status,
            .last_attempt_at = clock_wall(loop_clock(b->record->env.loop)),
            .will_retry_until = item->action == DSN_ACTION_DELAYED ? item->retry_until : 0,
            .expired = item->expired,
            .refusals = ret->refusals[k],
            .n_refusals = refusals_of(item, &ret->attempts[k], ret->refusals[k]),
        };
    }
}

static void
build_report(struct batch *b, enum dsn_kind kind, const struct dsn_original *original)
{
    static const char *const abouts[] = {
        [DSN_FAILED] = "failed", [DSN_DELAYED] = "delayed", [DSN_SUCCESS] = "relayed"};
    const struct config *config = b->settings->config;
    struct report_rcpts *rcpts = xmalloc(sizeof(*rcpts));
    enum dsn_language languages[DSN_LANGUAGES_MAX];
    size_t n_languages = 0;
    char id[QUEUE_ID_TEXT + 1];
    struct err err;

    collect_rcpts(b, kind, rcpts);
    if (rcpts->n == 0) {
        free(rcpts);
        return;
    }
    for (size_t i = 0; i < config->n_languages && i < DSN_LANGUAGES_MAX; i++)
        languages[n_languages++] = config->languages[i] == CONFIG_LANG_ZH ? DSN_ZH : DSN_EN;
    struct notice *n = notice_new(b, abouts[kind]);
    CLEANUP(freep)
    char *notice_id = xasprintf("%s.%s", config->node.name, queue_id_format(n->id, id));
    const struct dsn_report report = {
        .kind = kind,
        .languages = languages,
        .n_languages = n_languages,
        .node = span_str(config->node.name),
        .hostname = span_str(config->node.hostname),
        .postmaster = span_str(config->node.postmaster),
        .notice_id = span_str(notice_id),
        .now = clock_wall(loop_clock(b->record->env.loop)),
        .original = original,
        .rcpts = rcpts->rcpts,
        .n_rcpts = rcpts->n,
    };
    if (dsn_build(&report, &n->text, &n->built, &err) != ERR_OK) {
        log_text(b->record->env.log, LOG_ERROR, "notice", "%s: %s", b->msg->id_text, err.text);
        strbuf_release(&n->text);
        b->n_notices--;
    } else {
        n->flags |= (n->built.is_8bit ? QUEUE_MSG_8BIT : 0) |
                    (n->built.smtputf8 ? QUEUE_MSG_SMTPUTF8 | MSG_HEADER_8BIT : 0);
        address_notice(n, b->msg->q.sender);
    }
    free(rcpts);
}

/* ---- signing ---- */

static void
on_signed(struct sign_job *job)
{
    struct notice *n = CONTAINER_OF(job, struct notice, sign);
    struct batch *b = job->arg;
    (void)n;
    /* A notice goes unsigned rather than not at all. */
    if (job->code != ERR_OK)
        log_text(b->record->env.log, LOG_WARNING, "unsigned", "notice: %s", job->err.text);
    if (--b->n_signing == 0)
        batch_submit(b);
}

static void
sign_notices(struct batch *b)
{
    struct record *r = b->record;
    b->n_signing = 1; /* held until all are started */
    for (size_t i = 0; i < b->n_notices; i++) {
        struct notice *n = &b->notices[i];
        struct span text = strbuf_span(&n->text);
        n->facts = xcalloc(1, sizeof(*n->facts));
        if (header_scan(text, SPAN_NONE, n->facts, NULL) != ERR_OK ||
            !sign_wanted(b->settings, n->facts->from))
            continue;
        n->sign.settings = b->settings;
        n->sign.done = on_signed;
        n->sign.arg = b;
        n->sign.id = span_str(b->msg->id_text);
        n->sign.msg_id = b->msg->q.id;
        n->sign.head[0] = span_first(text, n->facts->head_bytes);
        n->sign.n_head = 1;
        n->sign.body = span_from(text, n->facts->body_at);
        n->sign.now = clock_wall(loop_clock(r->env.loop));
        b->n_signing++;
        sign_start(r->env.workers, &n->sign);
    }
    if (--b->n_signing == 0)
        batch_submit(b);
}

/* ---- putting them together ---- */

/* A notice of ours that failed goes on as it is, to the postmaster. */
static void
to_postmaster(struct batch *b, struct span bytes)
{
    const char *postmaster = b->settings->config->node.postmaster;
    if (bytes.n < b->msg->q.body_bytes) {
        /* Longer than any notice we make, or it cannot be read: keep it where it is. */
        log_alert(b->record->env.log, "notice_held", "%s: a notice cannot be delivered and is held",
                  b->msg->id_text);
        for (size_t i = 0; i < b->n_items; i++)
            if (b->items[i].fate == FATE_FINISHED && b->items[i].tell)
                b->items[i].fate = FATE_HELD;
        return;
    }
    struct notice *n = notice_new(b, "forwarded");
    n->flags = b->msg->q.flags & (QUEUE_MSG_8BIT | QUEUE_MSG_SMTPUTF8 | MSG_HEADER_8BIT);
    n->flags |= QUEUE_MSG_NOTICE | MSG_POSTMASTER;
    strbuf_add_span(&n->text, bytes);
    address_notice(n, span_str(postmaster));
    log_alert(b->record->env.log, "notice_undeliverable",
              "%s: a notice cannot be delivered and goes to %s", b->msg->id_text, postmaster);
}

/* Whatever MAIL said of the body: clients send 8-bit content without BODY=8BITMIME too. */
static bool
has_8bit(struct span bytes)
{
    for (size_t i = 0; i < bytes.n; i++)
        if ((unsigned char)bytes.p[i] >= 0x80)
            return true;
    return false;
}

static void
build(struct batch *b, struct span bytes)
{
    const struct queue_msg *q = &b->msg->q;
    CLEANUP(strbuf_release) struct strbuf head = STRBUF_INIT;
    char client[DOMAIN_BUF];
    size_t body_at = bytes.n;
    IN_HAND(q->id);

    if (q->flags & QUEUE_MSG_NOTICE) {
        to_postmaster(b, bytes);
    } else {
        original_head(b, bytes, &body_at, &head);
        const struct dsn_original original = {
            .sender = q->sender,
            .envid = q->envid,
            .id = span_str(b->msg->id_text),
            .client = client_mta(q->client, client),
            /* Without RET the choice is ours (RFC 3461 section 4.3): people want their text back.
             */
            .ret_full = !span_ieq(q->ret, SPAN("HDRS")) && bytes.n >= q->body_bytes,
            .has_8bit = has_8bit(bytes),
            .arrived_at = q->arrived_at,
            .head = strbuf_span(&head),
            .body = span_from(bytes, body_at),
            .size_bytes = q->size_bytes,
        };
        build_report(b, DSN_FAILED, &original);
        build_report(b, DSN_DELAYED, &original);
        build_report(b, DSN_SUCCESS, &original);
    }
    sign_notices(b);
}

static void
original_read(struct store_read *read)
{
    struct batch *b = CONTAINER_OF(read, struct batch, read);
    /* Without its bytes the report says what it can. */
    if (read->code != ERR_OK)
        log_text(b->record->env.log, LOG_ERROR, "notice", "%s: %s", b->msg->id_text,
                 read->err.text);
    build(b, span_of(b->original, read->code == ERR_OK ? read->body.n : 0));
}

static void
read_original(struct batch *b)
{
    if (b->msg->body != NULL) {
        build(b, span_of(b->msg->body->bytes, b->msg->body->n));
        return;
    }
    b->original = xmalloc(ORIGINAL_BYTES_MAX);
    b->read = (struct store_read){.kind = STORE_READ_BODY, .done = original_read};
    b->read.body.id = b->msg->q.id;
    b->read.body.buf = b->original;
    b->read.body.cap = ORIGINAL_BYTES_MAX;
    store_read(b->record->env.store, &b->read);
}

static void
mail_read(struct store_read *read)
{
    struct batch *b = CONTAINER_OF(read, struct batch, read);
    if (read->code == ERR_OK) {
        if (!b->msg->loaded)
            msg_load(b->msg, &read->mail.mail.msg);
        queue_mail_release(&read->mail.mail);
    }
    read_original(b);
}

void
notices_start(struct batch *b)
{
    if (b->msg->loaded) {
        read_original(b);
        return;
    }
    b->read = (struct store_read){.kind = STORE_READ_MAIL, .done = mail_read};
    b->read.mail.id = b->msg->q.id;
    store_read(b->record->env.store, &b->read);
}
