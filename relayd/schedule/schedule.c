/*
 * schedule - start, stop, reload and numbers; the work is in plan.c, site.c and pump.c.
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"

#define SWEEP_MS SECOND
#define JUMP_MS (2 * SECOND)      /* less is what time servers do */
#define BODY_KEEP_MS (2 * SECOND) /* a body whose first attempt has not come by then is dropped */
#define LANES_PAGE 10000

static void
on_lanes_due(void *arg)
{
    pages_more(arg);
}

/* Bodies that wait for longer than a moment, oldest first; those in a transaction are read again.
 */
static void
bodies_sweep(struct schedule *s, msec_t now)
{
    while (s->hand.bodies != NULL && now - s->hand.bodies->body_since > BODY_KEEP_MS)
        hand_drop_body(&s->hand, s->hand.bodies);
}

static void read_lanes(struct schedule *s);

/* Due times are of the wall clock, and timers are not: after a jump they are set anew. */
static void
clock_watch(struct schedule *s, msec_t now)
{
    msec_t ahead = clock_wall(s->clock) - now, moved = ahead - s->wall_ahead;

    if (moved < JUMP_MS && moved > -JUMP_MS)
        return;
    s->wall_ahead = ahead;
    lanes_rearm(&s->lanes);
    pauses_arm(s);
}

static void
on_sweep(void *arg)
{
    struct schedule *s = arg;
    msec_t now = clock_now(s->clock);
    clock_watch(s, now);
    bodies_sweep(s, now);
    if (s->lanes_retry_at != 0 && now >= s->lanes_retry_at)
        read_lanes(s);
    hand_sweep(&s->hand, store_read_floor(s->env.store));
    sites_sweep(s, false);
    pump_sweep(s);
    if (s->fresh_stuck)
        pages_fresh(s);
    s->fresh_stuck = false;
    pages_more(s);
    timer_set(s->clock, &s->sweep, SWEEP_MS, on_sweep, s);
}

static void
set_longest(struct schedule *s)
{
    const struct config_queue *queue = &s->policy.config->queue;
    msec_t longest = SITE_PROBE_HOP_MAX_MS;
    for (size_t i = 0; i < queue->n_intervals; i++)
        if (queue->intervals_ms[i] > longest)
            longest = queue->intervals_ms[i];
    if (queue->greylist_ms > longest)
        longest = queue->greylist_ms;
    s->lanes.longest_ms = longest * 2;
}

struct schedule *
schedule_new(const struct schedule_env *env)
{
    struct schedule *s = xcalloc(1, sizeof(*s));
    struct map_seed seed;

    s->env = *env;
    s->clock = loop_clock(env->loop);
    s->wall_ahead = clock_wall(s->clock) - clock_now(s->clock);
    s->policy = env->policy;
    arc4random_buf(&seed, sizeof(seed));
    map_init(&s->sites, seed);
    map_init(&s->held_domains, seed);
    map_init(&s->pins, seed);
    hand_init(&s->hand);
    lanes_init(&s->lanes, s->clock, on_lanes_due, s);
    for (size_t i = 0; i < N_ELEMENTS(s->lines); i++)
        s->lines[i].tail = &s->lines[i].first;
    s->idle_tail = &s->idle;
    s->pending_tail = &s->pending;
    set_longest(s);
    return s;
}

void
schedule_free(struct schedule *s)
{
    size_t pos = 0;
    struct span key;
    void *value;

    if (s == NULL)
        return;
    timer_cancel(s->clock, &s->sweep);
    loop_defer_cancel(&s->flush);
    loop_defer_cancel(&s->drained);
    loop_defer_cancel(&s->slots);
    attempts_release(s);
    while (map_next(&s->hand.rcpts, &pos, &key, &value)) {
        struct rcpt *rcpt = value;
        facts_cancel(rcpt->facts);
        rcpt->facts = NULL;
    }
    pos = 0;
    while (map_next(&s->sites, &pos, &key, &value)) {
        struct site *site = value;
        for (struct site_link *link = site->links, *next; link != NULL; link = next) {
            next = link->next;
            facts_cancel(link->facts);
            free(link->domain);
            free(link);
        }
    }
    free(s->postponed);
    outage_release(s);
    sites_sweep(s, true);
    map_release(&s->sites);
    lanes_release(&s->lanes);
    hand_release(&s->hand);
    alone_free(s);
    pauses_free(s);
    pins_free(s);
    free(s);
}

/* ---- start ---- */

struct lanes_read {
    struct store_read read;
    struct schedule *schedule;
    struct queue_lane_row rows[LANES_PAGE];
};

static void
lanes_page_done(struct store_read *read)
{
    struct lanes_read *lr = CONTAINER_OF(read, struct lanes_read, read);
    struct schedule *s = lr->schedule;

    if (read->code != ERR_OK) {
        log_alert(s->env.log, "queue_damaged", "the schedule cannot be read: %s", read->err.text);
        s->lanes_retry_at = clock_now(s->clock) + MINUTE;
        free(lr);
        return;
    }
    for (size_t i = 0; i < read->lanes.n; i++)
        lanes_note(&s->lanes, lr->rows[i].lane, lr->rows[i].due_at);
    if (read->lanes.more && !s->draining) {
        read->lanes.from_start = false;
        store_read(s->env.store, read);
        return;
    }
    free(lr);
}

static void
read_lanes(struct schedule *s)
{
    struct lanes_read *lr = xcalloc(1, sizeof(*lr));
    s->lanes_retry_at = 0;
    lr->schedule = s;
    lr->read.kind = STORE_READ_LANES;
    lr->read.done = lanes_page_done;
    lr->read.lanes.from_start = true;
    lr->read.lanes.rows = lr->rows;
    lr->read.lanes.max = LANES_PAGE;
    store_read(s->env.store, &lr->read);
}

static void
start_reading(struct schedule *s)
{
    if (s->draining)
        return;
    s->started = true;
    read_lanes(s);
    pages_fresh(s);
    pages_more(s);
    timer_set(s->clock, &s->sweep, SWEEP_MS, on_sweep, s);
}

static void
start_alone(struct schedule *s)
{
    alone_start(s, start_reading);
}

void
schedule_start(struct schedule *s)
{
    if (!s->stopped)
        pauses_load(s, start_alone);
}

void
schedule_rescan(struct schedule *s)
{
    pages_fresh(s);
    read_lanes(s);
    lanes_wake(&s->lanes);
    pages_more(s);
}

void
schedule_stop(struct schedule *s)
{
    s->draining = s->stopped = true;
    s->on_drained = NULL;
    timer_cancel(s->clock, &s->sweep);
}

/* ---- reload ---- */

void
schedule_set_policy(struct schedule *s, const struct schedule_policy *policy)
{
    size_t pos = 0;
    struct span key;
    void *value;
    struct site **sites = xcalloc(s->sites.n + 1, sizeof(*sites));
    size_t n = 0;

    s->policy = *policy;
    set_longest(s);
    while (map_next(&s->hand.rcpts, &pos, &key, &value)) {
        struct rcpt *rcpt = value;
        rcpt->tried = rcpt->refused = 0; /* routes have other numbers now */
        rcpt->spf = (struct rcpt_spf){0};
        rcpt->decided.known = false;
    }
    pos = 0;
    outage_retry(s); /* by another source address, for one */
    /* Planning adds sites: walk over a copy. */
    while (map_next(&s->sites, &pos, &key, &value))
        sites[n++] = value;
    for (size_t i = 0; i < n; i++) {
        /* A hop may have been mended: do not wait for the old probe. */
        if (sites[i]->state == SITE_DOWN)
            sites[i]->probe_at = clock_now(s->clock);
        sites[i]->link_limit = 0;
        /* Connections know the old addresses and passwords. */
        links_quit(sites[i]);
    }
    for (size_t i = 0; i < n; i++)
        site_replan(sites[i], NULL);
    free(sites);
    pump_slots(s);
}

/* ---- verbs ---- */

void
schedule_touched(struct schedule *s, const struct queue_touched *touched, size_t n, uint64_t txn)
{
    for (size_t i = 0; i < n; i++) {
        struct rcpt *rcpt = hand_rcpt(&s->hand, touched[i].id, touched[i].no);
        if (rcpt == NULL || rcpt->stage == STAGE_GONE) {
            if (store_read_floor(s->env.store) < txn)
                hand_outdate(&s->hand, touched[i].id, touched[i].no, txn);
        } else if (rcpt->stage == STAGE_READY || rcpt->stage == STAGE_FACTS) {
            schedule_leave(s, rcpt, txn);
        }
        /* One in a transaction finishes it; its outcome names the old revision. */
        if (touched[i].revision != 0)
            lanes_note(&s->lanes, touched[i].lane, touched[i].due_at);
    }
    pages_more(s);
}

void
schedule_retried(struct schedule *s, const struct queue_touched *touched, size_t n)
{
    for (size_t i = 0; i < n; i++)
        lanes_ask(&s->lanes, touched[i].lane);
}

bool
schedule_in_hand(const struct schedule *s, uint64_t id, uint32_t no)
{
    const struct rcpt *rcpt = hand_rcpt(&s->hand, id, no);
    return rcpt != NULL && rcpt->stage != STAGE_GONE;
}

static size_t
msg_in_hand(const struct msg *msg, const struct queue_filter *f)
{
    size_t n = 0;

    if ((f->id != 0 && msg->q.id != f->id) ||
        ((f->sender.n > 0 || f->sender_null) && !span_eq(f->sender, msg->q.sender)) ||
        (f->arrived_before != 0 && msg->q.arrived_at >= f->arrived_before))
        return 0;
    for (const struct rcpt *rcpt = msg->rcpts; rcpt != NULL; rcpt = rcpt->next_of_msg)
        n += rcpt->stage != STAGE_GONE && (f->domain.n == 0 || span_eq(f->domain, rcpt->domain));
    return n;
}

static int
id_cmp(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

size_t
schedule_in_hand_list(const struct schedule *s, const struct queue_filter *filter,
                      uint64_t **ret_ids, size_t *ret_n)
{
    uint64_t *ids = ret_ids == NULL ? NULL : xcalloc(s->hand.msgs.n + 1, sizeof(*ids));
    size_t pos = 0, n_ids = 0, n_rcpts = 0;
    struct span key;
    void *value;

    while (map_next(&s->hand.msgs, &pos, &key, &value)) {
        const struct msg *msg = value;
        size_t n = msg_in_hand(msg, filter);
        n_rcpts += n;
        if (n > 0 && ids != NULL)
            ids[n_ids++] = msg->q.id;
    }
    if (ids != NULL) {
        qsort(ids, n_ids, sizeof(*ids), id_cmp);
        *ret_ids = ids;
        *ret_n = n_ids;
    }
    return n_rcpts;
}

void
schedule_numbers(const struct schedule *s, struct schedule_numbers *ret)
{
    size_t pos = 0;
    struct span key;
    void *value;

    *ret = (struct schedule_numbers){
        .in_hand = s->hand.n_live,
        .ready = s->n_ready,
        .recording = s->n_recording,
        .sites = s->sites.n,
        .busy = s->n_busy,
        .connections = s->n_links,
        .lanes = lanes_count(&s->lanes),
        .bodies_bytes = s->hand.body_bytes,
        .fresh_backlog = s->fresh_backlog,
    };
    while (map_next(&s->sites, &pos, &key, &value)) {
        const struct site *site = value;
        ret->sites_down += site->state != SITE_UP;
    }
}
