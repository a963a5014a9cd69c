/*
 * plan - brings recipients into hand (accepted, fresh pages, lane pages) and each to its site.
 *
 *    page / take ─▶ plan_rcpt ─▶ route_decide ─▶ reject, hold, discard ─▶ record
 *                                     │
 *                                     └▶ candidate routes in order ─▶ facts ─▶ site_add
 *                                           all of them down ─▶ postpone, or an attempt if overdue
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"

#define LANE_READS_MAX 2

/* ---- routing ---- */

void
plan_query(const struct rcpt *rcpt, struct route_query *ret)
{
    const char *at = memrchr(rcpt->address.p, '@', rcpt->address.n);
    size_t local = at == NULL ? rcpt->address.n : (size_t)(at - rcpt->address.p);
    *ret = (struct route_query){
        .sender = rcpt->msg->q.sender,
        .sender_domain = span_str(rcpt->msg->sender_domain),
        .rcpt_local = span_first(rcpt->address, local),
        .domain = rcpt->domain,
    };
}

void
plan_fail(struct schedule *s, struct rcpt *rcpt, const struct outcome *outcome, const char *route,
          const char *site)
{
    struct attempt attempt = {.rcpt = rcpt,
                              .outcome = *outcome,
                              .route = route,
                              .site = site,
                              .peer = "",
                              .host = "",
                              .tls = ""};
    rcpt->stage = STAGE_RECORDING;
    s->n_recording++;
    s->env.ops->attempted(s->env.arg, &attempt, 1);
}

/* A whole reply line of a rule ("550 5.1.2 text") as an outcome. */
static void
plan_refuse(struct schedule *s, struct rcpt *rcpt, struct span reply)
{
    struct outcome o;
    struct span text = reply;
    struct span code_text = span_cut(&text, ' ');
    uint64_t code = 550;
    size_t len;

    if (!span_u64(code_text, &code))
        text = reply;
    outcome_set(&o, code >= 500 ? OUTCOME_FAILED : OUTCOME_DEFERRED, ORIGIN_LOCAL, "route", NULL,
                "%.*s", SPAN_ARG(text));
    o.code = (int)code;
    if (enh_parse(text, &o.enh, &len))
        memmove(o.text, o.text + len + 1, strlen(o.text + len) + (o.text[len] == '\0'));
    plan_fail(s, rcpt, &o, "", "");
}

static void
plan_discard(struct schedule *s, struct rcpt *rcpt)
{
    struct attempt attempt = {.rcpt = rcpt,
                              .route = "",
                              .site = "",
                              .peer = "",
                              .host = "",
                              .tls = "",
                              .discarded = true};
    outcome_set(&attempt.outcome, OUTCOME_DELIVERED, ORIGIN_LOCAL, "route", "2.0.0",
                "discarded by a rule of the transport map");
    rcpt->stage = STAGE_RECORDING;
    s->n_recording++;
    s->env.ops->attempted(s->env.arg, &attempt, 1);
}

static void plan_with(struct schedule *s, struct rcpt *rcpt, const struct facts_site *known);

static void
on_facts(void *arg, const struct facts_site *site)
{
    struct rcpt *rcpt = arg;
    rcpt->facts = NULL;
    plan_with(rcpt->schedule, rcpt, site);
}

/* The site of a direct route; NULL: `rcpt` is being looked up, or has failed. */
static struct site *
direct_site(struct schedule *s, struct rcpt *rcpt, enum config_tls tls,
            const struct facts_site *known)
{
    struct facts_site cached;

    if (known == NULL) {
        if (!facts_site_cached(s->env.facts, rcpt->domain.p, &cached)) {
            rcpt->facts = facts_site_start(s->env.facts, rcpt->domain.p, on_facts, rcpt);
            return NULL;
        }
        known = &cached;
    }
    if (!known->ok) {
        plan_fail(s, rcpt, &known->outcome, s->config->routes[0].name, "");
        return NULL;
    }
    return site_get(s, s->config->routes[0].name, known->key, known->name, rcpt->domain.p, tls);
}

/* No route is open: wait in the queue for the first one's probe. */
static void
plan_wait(struct schedule *s, struct rcpt *rcpt, struct site *down)
{
    if (down == NULL) {
        postpone_rcpt(s, rcpt, clock_wall(s->clock) + MINUTE);
        return;
    }
    if (s->env.ops->overdue(s->env.arg, rcpt)) {
        plan_fail(s, rcpt, &down->failure, down->route, down->name);
        return;
    }
    msec_t wait = down->probe_at - clock_now(s->clock);
    postpone_rcpt(s, rcpt, clock_wall(s->clock) + (wait > 0 ? wait : 0));
}

/* A route that the administrator asked for goes first, unless a fence forbids it. */
static void
plan_wanted(struct schedule *s, const struct rcpt *rcpt, struct route_decision *d)
{
    struct span wanted = s->env.ops->wanted_route(s->env.arg, rcpt);
    int r = wanted.n == 0 ? -1 : config_route_find(s->config, wanted);
    if (r < 0 || d->never_via & (route_mask)1 << r)
        return;
    size_t at = 0;
    while (at < d->n_routes && d->routes[at] != (unsigned)r)
        at++;
    if (at == d->n_routes) {
        if (d->n_routes == CONFIG_ROUTES_MAX)
            return;
        d->n_routes++;
    }
    memmove(&d->routes[1], &d->routes[0], at * sizeof(d->routes[0]));
    d->routes[0] = (unsigned)r;
}

static void
plan_deliver(struct schedule *s, struct rcpt *rcpt, struct route_decision *d,
             const struct facts_site *known)
{
    struct site *last_resort = NULL, *down = NULL;

    plan_wanted(s, rcpt, d);
    for (size_t i = 0; i < d->n_routes; i++) {
        unsigned r = d->routes[i];
        if (rcpt->tried & (route_mask)1 << r)
            continue;
        enum config_tls tls = route_tls(s->config, d, r);
        const struct hop *hop = s->config->routes[r].hop;
        struct site *site = hop != NULL ? site_get(s, hop->name, hop->name, hop->name, "", tls)
                                        : direct_site(s, rcpt, tls, known);
        if (site == NULL)
            return;
        switch (site_usable(site)) {
        case SITE_USE_YES:
            site_add(site, rcpt);
            return;
        case SITE_USE_LAST_RESORT:
            last_resort = last_resort == NULL ? site : last_resort;
            break;
        case SITE_USE_NO:
            down = down == NULL ? site : down;
            break;
        }
    }
    if (last_resort != NULL)
        site_add(last_resort, rcpt);
    else
        plan_wait(s, rcpt, down);
}

static void
plan_with(struct schedule *s, struct rcpt *rcpt, const struct facts_site *known)
{
    struct route_query query;
    struct route_decision d;

    rcpt->schedule = s;
    rcpt->stage = STAGE_FACTS;
    if (rcpt->begun_at == 0)
        rcpt->begun_at = clock_wall(s->clock);
    plan_query(rcpt, &query);
    route_decide(s->config, &query, &d);
    switch (d.action) {
    case ROUTE_DELIVER:
        plan_deliver(s, rcpt, &d, known);
        break;
    case ROUTE_HOLD:
        rcpt->stage = STAGE_RECORDING;
        s->n_recording++;
        s->env.ops->hold(s->env.arg, rcpt, d.text);
        break;
    case ROUTE_DISCARD:
        plan_discard(s, rcpt);
        break;
    case ROUTE_REJECT:
    case ROUTE_NONE:
    case ROUTE_FENCED:
        plan_refuse(s, rcpt, d.text);
        break;
    }
}

void
plan_rcpt(struct schedule *s, struct rcpt *rcpt)
{
    assert(rcpt->site == NULL && rcpt->facts == NULL);
    plan_with(s, rcpt, NULL);
}

/* Could this recipient go by route `r` right now? */
static bool
route_open(struct schedule *s, struct rcpt *rcpt, const struct route_decision *d, unsigned r)
{
    enum config_tls tls = route_tls(s->config, d, r);
    const struct hop *hop = s->config->routes[r].hop;
    struct facts_site facts;
    struct site *site;

    if (hop != NULL) {
        site = site_get(s, hop->name, hop->name, hop->name, "", tls);
    } else {
        if (!facts_site_cached(s->env.facts, rcpt->domain.p, &facts))
            return true; /* nothing is known against it */
        if (!facts.ok)
            return false;
        site = site_get(s, s->config->routes[0].name, facts.key, facts.name, rcpt->domain.p, tls);
    }
    return site_usable(site) == SITE_USE_YES;
}

bool
schedule_reroute(struct schedule *s, struct rcpt *rcpt)
{
    struct route_query query;
    struct route_decision d;

    assert(rcpt->stage == STAGE_RECORDING);
    plan_query(rcpt, &query);
    route_decide(s->config, &query, &d);
    if (d.action != ROUTE_DELIVER)
        return false;
    if (rcpt->site != NULL) {
        int r = config_route_find(s->config, span_str(rcpt->site->route));
        if (r >= 0)
            rcpt->tried |= (route_mask)1 << r;
    }
    for (size_t i = 0; i < d.n_routes; i++) {
        unsigned r = d.routes[i];
        if (rcpt->tried & (route_mask)1 << r || !route_open(s, rcpt, &d, r))
            continue;
        s->n_recording--;
        rcpt_set_site(rcpt, NULL);
        plan_with(s, rcpt, NULL);
        return true;
    }
    return false;
}

/* ---- into hand ---- */

static bool
has_room(const struct schedule *s)
{
    return s->hand.n_live < SCHEDULE_HAND_MAX && !s->draining;
}

static void
leave_fresh(struct schedule *s, uint64_t txn)
{
    s->fresh_backlog = true;
    if (txn > s->fresh_left_txn)
        s->fresh_left_txn = txn;
}

void
schedule_take(struct schedule *s, struct msg *msg, struct msg_body *body, struct rcpt *const *rcpts,
              size_t n_rcpts, uint64_t txn)
{
    size_t n_taken = 0;

    if (hand_msg(&s->hand, msg->q.id) != NULL || !has_room(s)) {
        for (size_t i = 0; i < n_rcpts; i++)
            rcpt_free(rcpts[i]);
        msg_free(msg);
        free(body);
        leave_fresh(s, txn);
        return;
    }
    hand_add_msg(&s->hand, msg);
    if (body != NULL) {
        if (s->hand.body_bytes + body->n <= s->config->limits.memory_bytes)
            hand_set_body(&s->hand, msg, body, clock_now(s->clock));
        else
            free(body);
    }
    for (size_t i = 0; i < n_rcpts; i++)
        hand_add_rcpt(&s->hand, msg, rcpts[i]);
    /* Planning may end a recipient's stay, and with the last one the message's. */
    for (size_t i = 0; i < n_rcpts; i++) {
        if (pause_domain(s, rcpts[i]->domain)) {
            schedule_leave(s, rcpts[i], txn);
            leave_fresh(s, txn);
        } else {
            plan_rcpt(s, rcpts[i]);
            n_taken++;
        }
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
    struct msg *msg = msg_new(&q, s->config->node.name);
    hand_add_msg(&s->hand, msg);
    return msg;
}

static void
take_row(struct schedule *s, const struct queue_row *row, uint64_t txn, struct lane *lane)
{
    struct rcpt *old = hand_rcpt(&s->hand, row->rcpt.id, row->rcpt.no);
    if (old != NULL) {
        /* Gone before this page's snapshot, yet due again: come back when it has been forgotten. */
        if (lane != NULL && old->stage == STAGE_GONE && txn >= old->gone_txn)
            lanes_note(&s->lanes, row->lane, clock_wall(s->clock) + 100);
        return;
    }
    if (row->domain_held || pause_domain(s, row->rcpt.domain))
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
        if (page->txn_id >= s->fresh_left_txn)
            s->fresh_backlog = false;
    }
    report_bad(s, page);
    for (size_t i = 0; i < page->n_rows; i++)
        take_row(s, &page->rows[i], page->txn_id, NULL);
    queue_page_release(page);
    free(pr);
    hand_sweep(&s->hand, store_read_floor(s->env.store));
    plan_more(s);
}

static void
read_fresh(struct schedule *s)
{
    struct page_read *pr = xcalloc(1, sizeof(*pr));
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
    plan_more(s);
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
    pr->read.lane.until =
        lane->due_at != INT64_MAX && lane->due_at > now + s->lanes.longest_ms ? INT64_MAX : now;
    pr->read.lane.max = SCHEDULE_PAGE_ROWS;
    s->lane_reads++;
    store_read(s->env.store, &pr->read);
}

void
plan_more(struct schedule *s)
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

void
schedule_leave(struct schedule *s, struct rcpt *rcpt, uint64_t txn)
{
    struct lane *lane = rcpt->from_lane;

    if (rcpt->facts != NULL)
        facts_cancel(rcpt->facts);
    rcpt->facts = NULL;
    rcpt->from_lane = NULL;
    rcpt_set_site(rcpt, NULL);
    hand_leave(&s->hand, rcpt, txn);
    if (lane != NULL)
        lane_drop(lane);
    hand_sweep(&s->hand, store_read_floor(s->env.store));
}

void
schedule_recorded(struct schedule *s, struct rcpt *rcpt, enum rcpt_fate fate, msec_t due_at,
                  uint64_t txn)
{
    uint64_t lane = rcpt->lane;

    assert(rcpt->stage == STAGE_RECORDING);
    s->n_recording--;
    schedule_leave(s, rcpt, txn);
    if (fate == FATE_DEFERRED)
        lanes_note(&s->lanes, lane, due_at);
    else if (fate == FATE_CHANGED)
        lanes_note(&s->lanes, lane, clock_wall(s->clock));
    plan_more(s);
    pump_drained(s);
}
