/*
 * message - makes the values of relay.h. Called by intake and record for what they have just
 * stored, and by schedule for what pages bring.
 */
#include "relayd/message.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"

static struct span
text_put(char **at, struct span s)
{
    struct span copy = span_of(*at, s.n);
    if (s.n > 0)
        memcpy(*at, s.p, s.n);
    (*at)[s.n] = '\0';
    *at += s.n + 1;
    return copy;
}

struct rcpt *
rcpt_new(const struct queue_rcpt *row, uint64_t lane)
{
    struct rcpt *rcpt =
        xcalloc(1, sizeof(*rcpt) + row->address.n + row->domain.n + row->orcpt.n + 3);
    char *at = rcpt->text;
    rcpt->key.id = row->id;
    rcpt->key.no = row->no;
    rcpt->revision = row->revision;
    rcpt->notify = row->notify;
    rcpt->fresh = row->state == QUEUE_FRESH;
    rcpt->due_at = row->due_at;
    rcpt->lane = lane;
    rcpt->address = text_put(&at, row->address);
    rcpt->domain = text_put(&at, row->domain);
    rcpt->orcpt = text_put(&at, row->orcpt);
    if (row->attempts.n > 0) {
        rcpt->attempts = xstrndup(row->attempts.p, row->attempts.n);
        rcpt->attempts_bytes = row->attempts.n;
    }
    rcpt->stage = STAGE_FACTS;
    return rcpt;
}

void
rcpt_free(struct rcpt *rcpt)
{
    free(rcpt->attempts);
    free(rcpt->refusal);
    free(rcpt);
}

/* Copy every text of `q` into one block; the body stays out. */
static void
msg_copy(struct msg *msg, const struct queue_msg *q)
{
    size_t n = q->sender.n + q->client.n + q->ret.n + q->envid.n + q->received.n + q->added.n + 6;
    for (size_t i = 0; i < q->n_signatures; i++)
        n += q->signatures[i].domain.n + q->signatures[i].selector.n + q->signatures[i].field.n + 3;
    char *at = msg->block = xmalloc(n);
    msg->q = *q;
    msg->q.body = SPAN_NONE;
    msg->q.sender = text_put(&at, q->sender);
    msg->q.client = text_put(&at, q->client);
    msg->q.ret = text_put(&at, q->ret);
    msg->q.envid = text_put(&at, q->envid);
    msg->q.received = text_put(&at, q->received);
    msg->q.added = text_put(&at, q->added);
    for (size_t i = 0; i < q->n_signatures; i++) {
        msg->q.signatures[i].domain = text_put(&at, q->signatures[i].domain);
        msg->q.signatures[i].selector = text_put(&at, q->signatures[i].selector);
        msg->q.signatures[i].field = text_put(&at, q->signatures[i].field);
    }
}

char *
msg_sender_domain(struct span sender)
{
    char name[DOMAIN_BUF];
    const char *at = sender.n == 0 ? NULL : memrchr(sender.p, '@', sender.n);
    if (at == NULL)
        return xstrdup("");
    struct span domain = span_of(at + 1, (size_t)(sender.p + sender.n - at - 1));
    if (domain_normalise(domain, name, NULL) != ERR_OK)
        return xstrndup(domain.p, domain.n);
    return xstrdup(name);
}

struct msg *
msg_new(const struct queue_msg *q, const char *node)
{
    char id[QUEUE_ID_TEXT + 1];
    struct msg *msg = xcalloc(1, sizeof(*msg));
    msg_copy(msg, q);
    snprintf(msg->id_text, sizeof(msg->id_text), "%s.%s", node, queue_id_format(q->id, id));
    msg->sender_domain = msg_sender_domain(msg->q.sender);
    return msg;
}

void
msg_load(struct msg *msg, const struct queue_msg *q)
{
    assert(q->id == msg->q.id);
    void *old = msg->block;
    msg_copy(msg, q);
    free(old);
    msg->loaded = true;
}

void
msg_free(struct msg *msg)
{
    for (struct rcpt *rcpt = msg->rcpts, *next; rcpt != NULL; rcpt = next) {
        next = rcpt->next_of_msg;
        rcpt_free(rcpt);
    }
    free(msg->sender_domain);
    free(msg->body);
    free(msg->block);
    free(msg);
}
