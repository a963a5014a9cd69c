/*
 * pages - brings recipients into hand: just accepted ones, pages of the fresh table, pages of lanes
 * that are due; and lets them go again. plan.c says where each of them goes.
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/message.h"
#include "relayd/ops/log.h"

#define LANE_READS_MAX 2

static bool
has_room(const struct schedule *s)
{
    return s->hand.n_live < SCHEDULE_HAND_MAX && !s->draining;
}

void
pages_fresh(struct schedule *s)
{
    s->fresh_backlog = s->fresh_again = true;
}

/* Recipients of a held or suspended domain stay in the queue: the end of it looks there again. */
static size_t
take_rcpts(struct schedule *s, struct msg *msg, struct rcpt *const *rcpts, size_t n_rcpts)
{
    size_t n = 0;
    for (size_t i = n_rcpts; i-- > 0;) { /* added in front: the first one stays the first */
        if (pause_domain(s, rcpts[i]->domain)) {
            rcpt_free(rcpts[i]);
        } else {
            hand_add_rcpt(&s->hand, msg, rcpts[i]);
            n++;
        }
    }
    return n;
}

static bool
take_fits(const struct schedule *s, const struct msg *msg)
{
    /* A page may have been faster; before the start holds are not known yet. */
    return s->started && has_room(s) && hand_msg(&s->hand, msg->q.id) == NULL;
}

void
schedule_take(struct schedule *s, struct msg *msg, struct msg_body *body, struct rcpt *const *rcpts,
              size_t n_rcpts)
{
    if (!take_fits(s, msg)) {
        for (size_t i = 0; i < n_rcpts; i++)
            rcpt_free(rcpts[i]);
        msg_free(msg);
        free(body);
        pages_fresh(s);
        return;
    }
    size_t n = take_rcpts(s, msg, rcpts, n_rcpts);
    if (n == 0) {
        msg_free(msg);
        free(body);
        return;
    }
    hand_add_msg(&s->hand, msg);
    if (body != NULL && s->hand.body_bytes + body->n <= s->policy.config->limits.memory_bytes)
        hand_set_body(&s->hand, msg, body, clock_now(s->clock));
    else
        free(body);
    /* Planning one may end its stay, but not that of the others. */
    for (struct rcpt *rcpt = msg->rcpts, *next; n > 0; rcpt = next, n--) {
        next = rcpt->next_of_msg;
        plan_rcpt(s, rcpt);
    }
}

/* A message of which only what planning needs is known. */
static struct msg *
msg_of_row(struct schedule *s, const struct queue_row *row)
{
    const struct queue_msg q = {.id = row->rcpt.id,
                                .arrived_at = row->arrived_at,
                                .size_bytes = row->size_bytes,
                                .flags = row->msg_flags,
                                .sender = row->sender};
    struct msg *msg = msg_new(&q, s->policy.config->node.name);
    hand_add_msg(&s->hand, msg);
    return msg;
}

static void
take_row(struct schedule *s, const struct queue_row *row, uint64_t txn, struct lane *lane)
{
    struct rcpt *old = hand_rcpt(&s->hand, row->rcpt.id, row->rcpt.no);
    if (old != NULL) {
        /* Gone before this page's snapshot, yet due again: come back when it has been forgotten. */
        if (old->stage == STAGE_GONE && txn >= old->gone_txn) {
            if (lane != NULL)
                lanes_note(&s->lanes, row->lane, clock_wall(s->clock) + 100);
            else
                s->fresh_stuck = true;
        }
        return;
    }
    if (row->domain_held || pause_domain(s, row->rcpt.domain) ||
        !hand_believes(&s->hand, row->rcpt.id, row->rcpt.no, txn))
        return;
    struct msg *msg = hand_msg(&s->hand, row->rcpt.id);
    if (msg == NULL)
        msg = msg_of_row(s, row);
    struct rcpt *rcpt = rcpt_new(&row->rcpt, row->lane);
    hand_add_rcpt(&s->hand, msg, rcpt);
    if (lane != NULL) {
        rcpt->from_lane = lane;
        lane_hold(lane);
    }
    plan_rcpt(s, rcpt);
}

void
pages_take_row(struct schedule *s, const struct queue_row *row, uint64_t txn)
{
    take_row(s, row, txn, NULL);
}

bool
schedule_give_up(struct schedule *s, const struct queue_row *row, const struct outcome *outcome)
{
    struct rcpt *rcpt = hand_rcpt(&s->hand, row->rcpt.id, row->rcpt.no);

    if (rcpt == NULL) {
        struct msg *msg = hand_msg(&s->hand, row->rcpt.id);
        if (msg == NULL)
            msg = msg_of_row(s, row);
        rcpt = rcpt_new(&row->rcpt, row->lane);
        hand_add_rcpt(&s->hand, msg, rcpt);
    } else if (rcpt->stage == STAGE_READY) {
        site_remove(rcpt->site, rcpt);
    } else if (rcpt->stage == STAGE_FACTS) {
        facts_cancel(rcpt->facts);
        rcpt->facts = NULL;
    } else {
        return false;
    }
    plan_fail(s, rcpt, outcome, "", "");
    return true;
}

static void
report_bad(struct schedule *s, const struct queue_page *page)
{
    char id[QUEUE_ID_TEXT + 1];
    if (page->n_bad > 0)
        log_alert(s->env.log, "queue_damaged",
                  "%u recipients cannot be read, the first is %s-%u: run relayctl verify",
                  (unsigned)page->n_bad, queue_id_format(page->bad.id, id), (unsigned)page->bad.no);
}

static void
read_failed(struct schedule *s, const struct store_read *read)
{
    log_text(s->env.log, LOG_ERROR, "queue_read", "%s", read->err.text);
}

struct page_read {
    struct store_read read;
    struct schedule *schedule;
    struct lane *lane; /* NULL: the fresh table */
};

static void
fresh_done(struct store_read *read)
{
    struct page_read *pr = CONTAINER_OF(read, struct page_read, read);
    struct schedule *s = pr->schedule;

    s->fresh_reading = false;
    if (read->code != ERR_OK) {
        read_failed(s, read);
        free(pr);
        return;
    }
    struct queue_page *page = &read->fresh.page;
    s->fresh_after = read->fresh.after;
    if (!page->more) {
        s->fresh_after = (struct queue_key){0};
        s->fresh_backlog = s->fresh_again;
    }
    report_bad(s, page);
    for (size_t i = 0; i < page->n_rows; i++)
        take_row(s, &page->rows[i], page->txn_id, NULL);
    queue_page_release(page);
    free(pr);
    hand_sweep(&s->hand, store_read_floor(s->env.store));
    pages_more(s);
}

static void
read_fresh(struct schedule *s)
{
    struct page_read *pr = xcalloc(1, sizeof(*pr));
    if (s->fresh_after.id == 0)
        s->fresh_again = false;
    pr->schedule = s;
    pr->read.kind = STORE_READ_FRESH;
    pr->read.done = fresh_done;
    pr->read.fresh.after = s->fresh_after;
    pr->read.fresh.max = SCHEDULE_PAGE_ROWS;
    s->fresh_reading = true;
    store_read(s->env.store, &pr->read);
}

static void
lane_done(struct store_read *read)
{
    struct page_read *pr = CONTAINER_OF(read, struct page_read, read);
    struct schedule *s = pr->schedule;
    struct lane *lane = pr->lane;

    s->lane_reads--;
    if (read->code != ERR_OK) {
        read_failed(s, read);
        lanes_read(lane, false, clock_wall(s->clock) + MINUTE);
        free(pr);
        return;
    }
    struct queue_page *page = &read->lane.page;
    report_bad(s, page);
    lane->after = read->lane.after;
    bool asleep = page->n_rows > 0 &&
                  (page->rows[0].domain_held || pause_domain(s, page->rows[0].rcpt.domain));
    lane_hold(lane); /* taking rows may end the last one's stay, and with it the lane's */
    for (size_t i = 0; i < page->n_rows; i++)
        take_row(s, &page->rows[i], page->txn_id, lane);
    if (asleep)
        lanes_read(lane, false, clock_wall(s->clock) + s->lanes.longest_ms / 2);
    else
        lanes_read(lane, page->more, page->next_due_at);
    lane_drop(lane);
    queue_page_release(page);
    free(pr);
    hand_sweep(&s->hand, store_read_floor(s->env.store));
    pages_more(s);
}

static void
read_lane(struct schedule *s, struct lane *lane)
{
    struct page_read *pr = xcalloc(1, sizeof(*pr));
    msec_t now = clock_wall(s->clock);

    pr->schedule = s;
    pr->lane = lane;
    pr->read.kind = STORE_READ_LANE;
    pr->read.done = lane_done;
    pr->read.lane.lane = lane->hash;
    pr->read.lane.after = lane->after;
    /* Due further away than anything we would have asked for: a clock ran back. Pull it in. */
    lane->pulling |= lane->due_at != INT64_MAX && lane->due_at > now + s->lanes.longest_ms;
    pr->read.lane.until = lane->pulling ? INT64_MAX : now;
    pr->read.lane.max = SCHEDULE_PAGE_ROWS;
    s->lane_reads++;
    store_read(s->env.store, &pr->read);
}

void
pages_more(struct schedule *s)
{
    if (s->draining || s->hand.n_live > SCHEDULE_HAND_MAX / 2)
        return;
    while (s->lane_reads < LANE_READS_MAX) {
        struct lane *lane = lanes_take(&s->lanes);
        if (lane == NULL)
            break;
        read_lane(s, lane);
    }
    if (s->fresh_backlog && !s->fresh_reading)
        read_fresh(s);
}

/* Off everything that knows it but the tables of hand. Returns the lane to be told, or NULL. */
static struct lane *
detach(struct rcpt *rcpt)
{
    struct lane *lane = rcpt->from_lane;

    facts_cancel(rcpt->facts);
    rcpt->facts = NULL;
    rcpt->from_lane = NULL;
    if (rcpt->stage == STAGE_READY)
        site_remove(rcpt->site, rcpt);
    rcpt_set_site(rcpt, NULL);
    return lane;
}

void
schedule_leave(struct schedule *s, struct rcpt *rcpt, uint64_t txn)
{
    struct lane *lane = detach(rcpt);

    hand_leave(&s->hand, rcpt, txn);
    if (lane != NULL)
        lane_drop(lane);
    hand_sweep(&s->hand, store_read_floor(s->env.store));
    alone_left(s);
}

void
schedule_drop(struct schedule *s, struct rcpt *rcpt)
{
    struct lane *lane = detach(rcpt);

    hand_drop(&s->hand, rcpt);
    if (lane != NULL)
        lane_drop(lane);
}

void
schedule_recorded(struct schedule *s, struct rcpt *rcpt, enum rcpt_fate fate, msec_t due_at,
                  uint64_t txn)
{
    uint64_t lane = rcpt->lane;

    assert(rcpt->stage == STAGE_RECORDING);
    s->n_recording--;
    if (fate == FATE_CHANGED && rcpt->fresh)
        pages_fresh(s); /* what became of it is not known: it may still be there */
    schedule_leave(s, rcpt, txn);
    if (fate == FATE_DEFERRED)
        lanes_note(&s->lanes, lane, due_at);
    else if (fate == FATE_CHANGED)
        lanes_note(&s->lanes, lane, clock_wall(s->clock));
    pages_more(s);
    pump_drained(s);
}
