/*
 * hand - table of the messages and recipients in hand. Used by plan.c and site.c.
 */
#include "relayd/schedule/hand.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/message.h"

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
