/*
 * hand - table of the messages and recipients in hand. Used by plan.c and site.c.
 */
#include "relayd/schedule/hand.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"

/* Of a recipient and its number, as the tables know it. */
struct hand_key {
    uint64_t id, no;
};

struct outdated {
    struct hand_key key;
    uint64_t txn;
    struct outdated *next;
};

void
hand_init(struct hand *hand)
{
    struct map_seed seed;
    *hand = (struct hand){0};
    arc4random_buf(&seed, sizeof(seed));
    map_init(&hand->msgs, seed);
    map_init(&hand->rcpts, seed);
    map_init(&hand->outdated, seed);
    hand->outdated_tail = &hand->outdated_first;
    hand->gone_tail = &hand->gone;
    hand->bodies_tail = &hand->bodies;
}

static void
outdated_sweep(struct hand *hand, uint64_t floor)
{
    while (hand->outdated_first != NULL && hand->outdated_first->txn <= floor) {
        struct outdated *o = hand->outdated_first;
        hand->outdated_first = o->next;
        if (hand->outdated_first == NULL)
            hand->outdated_tail = &hand->outdated_first;
        if (map_get(&hand->outdated, span_of(&o->key, sizeof(o->key))) == o)
            map_remove(&hand->outdated, span_of(&o->key, sizeof(o->key)));
        free(o);
    }
}

void
hand_release(struct hand *hand)
{
    size_t pos = 0;
    struct span key;
    void *value;
    outdated_sweep(hand, UINT64_MAX);
    map_release(&hand->outdated);
    while (map_next(&hand->msgs, &pos, &key, &value))
        msg_free(value);
    map_release(&hand->msgs);
    map_release(&hand->rcpts);
}

struct msg *
hand_msg(const struct hand *hand, uint64_t id)
{
    return map_get(&hand->msgs, span_of(&id, sizeof(id)));
}

struct rcpt *
hand_rcpt(const struct hand *hand, uint64_t id, uint32_t no)
{
    const struct hand_key key = {id, no};
    return map_get(&hand->rcpts, span_of(&key, sizeof(key)));
}

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

void
hand_add_msg(struct hand *hand, struct msg *msg)
{
    void *old = map_put(&hand->msgs, span_of(&msg->q.id, sizeof(msg->q.id)), msg);
    assert(old == NULL);
}

void
hand_add_rcpt(struct hand *hand, struct msg *msg, struct rcpt *rcpt)
{
    assert(rcpt->key.id == msg->q.id);
    void *old = map_put(&hand->rcpts, span_of(&rcpt->key, sizeof(rcpt->key)), rcpt);
    assert(old == NULL);
    rcpt->msg = msg;
    rcpt->next_of_msg = msg->rcpts;
    msg->rcpts = rcpt;
    hand->n_live++;
}

static bool
msg_is_live(const struct msg *msg)
{
    for (const struct rcpt *rcpt = msg->rcpts; rcpt != NULL; rcpt = rcpt->next_of_msg)
        if (rcpt->stage != STAGE_GONE)
            return true;
    return false;
}

static void
assert_free(const struct rcpt *rcpt)
{
    assert(rcpt->stage != STAGE_GONE && rcpt->site == NULL && rcpt->facts == NULL &&
           rcpt->from_lane == NULL);
}

void
hand_leave(struct hand *hand, struct rcpt *rcpt, uint64_t txn)
{
    assert_free(rcpt);
    rcpt->stage = STAGE_GONE;
    rcpt->gone_txn = txn;
    rcpt->gone_next = NULL;
    *hand->gone_tail = rcpt;
    hand->gone_tail = &rcpt->gone_next;
    hand->n_live--;
    free(rcpt->attempts);
    rcpt->attempts = NULL;
    rcpt->attempts_bytes = 0;
    if (!msg_is_live(rcpt->msg))
        hand_drop_body(hand, rcpt->msg);
}

static void
remove_rcpt(struct hand *hand, struct rcpt *rcpt)
{
    struct msg *msg = rcpt->msg;
    struct rcpt **link = &msg->rcpts;
    map_remove(&hand->rcpts, span_of(&rcpt->key, sizeof(rcpt->key)));
    while (*link != rcpt)
        link = &(*link)->next_of_msg;
    *link = rcpt->next_of_msg;
    rcpt_free(rcpt);
    if (msg->rcpts == NULL) {
        map_remove(&hand->msgs, span_of(&msg->q.id, sizeof(msg->q.id)));
        msg_free(msg);
    }
}

void
hand_drop(struct hand *hand, struct rcpt *rcpt)
{
    struct msg *msg = rcpt->msg;
    assert_free(rcpt);
    hand->n_live--;
    rcpt->stage = STAGE_GONE;
    if (!msg_is_live(msg))
        hand_drop_body(hand, msg);
    remove_rcpt(hand, rcpt);
}

void
hand_outdate(struct hand *hand, uint64_t id, uint32_t no, uint64_t txn)
{
    struct rcpt *rcpt = hand_rcpt(hand, id, no);
    if (rcpt != NULL) {
        assert(rcpt->stage == STAGE_GONE);
        rcpt->gone_txn = txn;
        return;
    }
    struct outdated *o = xcalloc(1, sizeof(*o));
    o->key = (struct hand_key){id, no};
    o->txn = txn;
    *hand->outdated_tail = o;
    hand->outdated_tail = &o->next;
    map_put(&hand->outdated, span_of(&o->key, sizeof(o->key)), o);
}

bool
hand_believes(const struct hand *hand, uint64_t id, uint32_t no, uint64_t txn)
{
    const struct hand_key key = {id, no};
    const struct outdated *o = map_get(&hand->outdated, span_of(&key, sizeof(key)));
    return o == NULL || txn >= o->txn;
}

void
hand_sweep(struct hand *hand, uint64_t floor)
{
    outdated_sweep(hand, floor);
    while (hand->gone != NULL && hand->gone->gone_txn <= floor) {
        struct rcpt *rcpt = hand->gone;
        hand->gone = rcpt->gone_next;
        if (hand->gone == NULL)
            hand->gone_tail = &hand->gone;
        remove_rcpt(hand, rcpt);
    }
}

void
hand_set_body(struct hand *hand, struct msg *msg, struct msg_body *body, msec_t now)
{
    assert(msg->body == NULL);
    msg->body = body;
    msg->body_since = now;
    msg->body_next = NULL;
    msg->body_prev = hand->bodies_tail;
    *hand->bodies_tail = msg;
    hand->bodies_tail = &msg->body_next;
    hand->body_bytes += body->n;
}

void
hand_drop_body(struct hand *hand, struct msg *msg)
{
    if (msg->body == NULL)
        return;
    *msg->body_prev = msg->body_next;
    if (msg->body_next != NULL)
        msg->body_next->body_prev = msg->body_prev;
    else
        hand->bodies_tail = msg->body_prev;
    hand->body_bytes -= msg->body->n;
    free(msg->body);
    msg->body = NULL;
}
