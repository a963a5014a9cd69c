/*
 * share - how many may wait at a site, and where the others go: a site that is slow or suspended
 * must not keep the hand from those that are not. Called by site.c.
 *
 *    site_add ─▶ full? ─▶ overflow ─┬─ from a lane: passed over, the lane is read again later
 *    sweep ────▶ shed ─────▲        └─ else: into the schedule, once
 */
#include "relayd/schedule/internal.h"

#include "policy/base/mem.h"

static bool
is_crowded(const struct schedule *s)
{
    return s->hand.n_live > SCHEDULE_HAND_MAX / 2;
}

static bool
is_slow(const struct site *site)
{
    return site->ready != NULL &&
           clock_now(site->schedule->clock) - site->ready->ready_at > SITE_SLOW_MS;
}

/* How many may wait here while it is slow. */
static size_t
slow_share(const struct site *site)
{
    const struct schedule *s = site->schedule;
    size_t room = SCHEDULE_HAND_MAX / 2, n = s->n_ready;
    size_t share = n < room ? (room - n) / SITE_READY_SHARE : 0;
    size_t least = SITE_READY_MIN;

    if (s->n_slow * least > SITES_READY_MIN)
        least = SITES_READY_MIN / s->n_slow;
    if (least == 0 && site->n_links > 0)
        least = 1; /* whom the connection is for */
    return share > least ? share : least;
}

bool
site_full(const struct site *site)
{
    if (site->n_ready >= SITE_READY_MAX)
        return true;
    if (site_suspended(site))
        return is_crowded(site->schedule);
    return is_slow(site) && site->n_ready >= slow_share(site);
}

/* When one that finds no room now is looked at again (wall). */
static msec_t
again_at(const struct site *site)
{
    const struct pause *pause = site_pause(site);
    msec_t now = clock_wall(site->schedule->clock);

    if (pause == NULL)
        return now + SCHEDULE_OVERFLOW_MS;
    return pause->until_at < now + SITE_SUSPENDED_MS ? pause->until_at : now + SITE_SUSPENDED_MS;
}

/* Those of the lane come as soon as there is room here. */
static void
note_lane(struct site *site, uint64_t lane)
{
    if (site->n_lanes == site->lanes_cap) {
        site->lanes_cap = site->lanes_cap == 0 ? 8 : site->lanes_cap * 2;
        site->lanes = xrealloc(site->lanes, site->lanes_cap * sizeof(*site->lanes));
    }
    if (site->n_lanes == 0 || site->lanes[site->n_lanes - 1] != lane)
        site->lanes[site->n_lanes++] = lane;
}

/* What came from a lane stands in the schedule already: a large backlog must not be written anew
 * all the time. Who leaves for a suspension, or since nothing may wait here, does not come back
 * because the site is empty now. */
void
site_overflow(struct site *site, struct rcpt *rcpt)
{
    struct schedule *s = site->schedule;
    bool suspended = site_suspended(site);
    msec_t now = clock_wall(s->clock), again = again_at(site);

    if (rcpt->from_lane == NULL || rcpt->attempts_new) {
        postpone_asleep(s, rcpt, now, suspended ? again : now);
        return;
    }
    if (!suspended && slow_share(site) > 0)
        note_lane(site, rcpt->lane);
    lane_pass(rcpt->from_lane, again);
    schedule_drop(s, rcpt);
}

void
site_lanes_back(struct site *site)
{
    size_t half = (is_slow(site) ? slow_share(site) : SITE_READY_MAX) / 2;

    if (site->n_lanes == 0 || site->n_ready > half || site_suspended(site))
        return;
    for (size_t i = 0; i < site->n_lanes; i++)
        lanes_again(&site->schedule->lanes, site->lanes[i]);
    site->n_lanes = 0;
}

bool
site_shed(struct site *site)
{
    struct schedule *s = site->schedule;
    bool suspended = site_suspended(site), slow = !suspended && is_slow(site);
    size_t n = 0;

    if (!is_crowded(s) || !(suspended || slow))
        return slow;
    size_t keep = suspended ? 0 : slow_share(site);
    for (struct rcpt *rcpt = site->ready, *next; rcpt != NULL; rcpt = next) {
        next = rcpt->ready_next;
        if (n++ < keep)
            continue;
        site_remove(site, rcpt);
        rcpt_set_site(rcpt, NULL);
        rcpt->stage = STAGE_FACTS;
        site_overflow(site, rcpt);
    }
    return slow;
}
