/*
 * lanes - one timer for each lane that holds deferred recipients. Used by plan.c.
 */
#include "relayd/schedule/lanes.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"

void
lanes_init(struct lanes *lanes, struct clock *clock, void (*on_due)(void *arg), void *arg)
{
    struct map_seed seed;
    *lanes = (struct lanes){.clock = clock, .on_due = on_due, .arg = arg, .longest_ms = DAY};
    arc4random_buf(&seed, sizeof(seed));
    map_init(&lanes->map, seed);
    lanes->due_tail = &lanes->due;
}

void
lanes_release(struct lanes *lanes)
{
    size_t pos = 0;
    struct span key;
    void *value;
    while (map_next(&lanes->map, &pos, &key, &value)) {
        struct lane *lane = value;
        timer_cancel(lanes->clock, &lane->timer);
        free(lane);
    }
    map_release(&lanes->map);
}

static void
lane_due(void *arg)
{
    struct lane *lane = arg;
    struct lanes *lanes = lane->lanes;
    if (lane->is_due || lane->reading)
        return;
    bool was_empty = lanes->due == NULL;
    lane->is_due = true;
    lane->due_next = NULL;
    *lanes->due_tail = lane;
    lanes->due_tail = &lane->due_next;
    if (was_empty)
        lanes->on_due(lanes->arg);
}

static void
lane_arm(struct lane *lane)
{
    struct lanes *lanes = lane->lanes;
    msec_t wait = lane->due_at - clock_wall(lanes->clock);
    if (wait > lanes->longest_ms)
        wait = 0; /* a clock ran back: pages.c pulls them in */
    timer_set(lanes->clock, &lane->timer, wait, lane_due, lane);
}

static void
lane_free(struct lane *lane)
{
    map_remove(&lane->lanes->map, span_of(&lane->hash, sizeof(lane->hash)));
    timer_cancel(lane->lanes->clock, &lane->timer);
    free(lane);
}

void
lanes_note(struct lanes *lanes, uint64_t hash, msec_t due_at)
{
    struct lane *lane = map_get(&lanes->map, span_of(&hash, sizeof(hash)));
    if (lane == NULL) {
        lane = xcalloc(1, sizeof(*lane));
        lane->hash = hash;
        lane->lanes = lanes;
        lane->due_at = lane->noted_at = lane->again_at = INT64_MAX;
        map_put(&lanes->map, span_of(&lane->hash, sizeof(lane->hash)), lane);
    }
    if (lane->reading) {
        if (due_at < lane->noted_at)
            lane->noted_at = due_at;
        return;
    }
    if (due_at <= lane->after.due_at) /* equal: its id may be lower */
        lane->after = (struct queue_due_key){0};
    if (due_at >= lane->due_at)
        return;
    lane->due_at = due_at;
    if (!lane->is_due && !lane->paused)
        lane_arm(lane);
}

void
lanes_ask(struct lanes *lanes, uint64_t hash)
{
    struct lane *lane = map_get(&lanes->map, span_of(&hash, sizeof(hash)));
    if (lane != NULL)
        lane->asked_at = clock_now(lanes->clock);
}

void
lanes_again(struct lanes *lanes, uint64_t hash)
{
    struct lane *lane = map_get(&lanes->map, span_of(&hash, sizeof(hash)));
    msec_t now = clock_wall(lanes->clock);

    if (lane == NULL)
        return;
    if (lane->reading || lane->due_at == 0)
        lane->again_at = now; /* when the pass under way is over */
    else
        lanes_note(lanes, hash, now);
}

void
lanes_rearm(struct lanes *lanes)
{
    size_t pos = 0;
    struct span key;
    void *value;
    while (map_next(&lanes->map, &pos, &key, &value)) {
        struct lane *lane = value;
        if (timer_is_set(&lane->timer))
            lane_arm(lane);
    }
}

void
lanes_wake(struct lanes *lanes)
{
    size_t pos = 0;
    struct span key;
    void *value;
    while (map_next(&lanes->map, &pos, &key, &value)) {
        struct lane *lane = value;
        if (lane->reading) {
            lane->noted_at = 0;
            continue;
        }
        lane->after = (struct queue_due_key){0};
        lane->due_at = 0; /* as long as it is set, lane_drop() does not free the lane */
        if (!lane->is_due && !lane->paused)
            lane_arm(lane);
    }
}

static msec_t
earlier(msec_t a, msec_t b)
{
    return a < b ? a : b;
}

struct lane *
lanes_take(struct lanes *lanes)
{
    struct lane *lane = lanes->due;
    if (lane == NULL)
        return NULL;
    lanes->due = lane->due_next;
    if (lanes->due == NULL)
        lanes->due_tail = &lanes->due;
    lane->is_due = false;
    lane->reading = true;
    lane->noted_at = INT64_MAX;
    timer_cancel(lanes->clock, &lane->timer);
    return lane;
}

void
lanes_read(struct lane *lane, bool more, msec_t next_due_at)
{
    assert(lane->reading);
    lane->reading = false;
    if (more && lane->n_passed >= LANE_PASS_MAX) {
        more = false; /* what is behind them waits as well: a pass costs what it reads */
        next_due_at = lane->again_at;
    }
    if (more) {
        lane->due_at = 0;
        if (lane->noted_at <= lane->after.due_at)
            lane->after = (struct queue_due_key){0};
        lane->paused = lane->n_hand >= LANE_HAND_MAX;
        if (!lane->paused)
            lane_arm(lane);
        return;
    }
    lane->pulling = false;
    lane->after = (struct queue_due_key){0};
    lane->due_at = earlier(earlier(lane->noted_at, next_due_at), lane->again_at);
    lane->again_at = INT64_MAX;
    lane->n_passed = 0;
    if (lane->due_at != INT64_MAX)
        lane_arm(lane);
    else if (lane->n_hand == 0)
        lane_free(lane);
}

void
lane_hold(struct lane *lane)
{
    lane->n_hand++;
}

void
lane_drop(struct lane *lane)
{
    assert(lane->n_hand > 0);
    lane->n_hand--;
    if (lane->paused && lane->n_hand <= LANE_HAND_MAX / 2) {
        lane->paused = false;
        lane_arm(lane);
    } else if (lane->n_hand == 0 && lane->due_at == INT64_MAX && !lane->reading) {
        lane_free(lane);
    }
}

void
lane_pass(struct lane *lane, msec_t again_at)
{
    bool between_passes = !lane->reading && lane->due_at > 0;

    if (between_passes && again_at < lane->due_at) {
        lane->due_at = again_at;
        if (!lane->is_due)
            lane_arm(lane);
    } else if (!between_passes) {
        lane->again_at = earlier(lane->again_at, again_at);
        lane->n_passed++;
    }
}

size_t
lanes_count(const struct lanes *lanes)
{
    return lanes->map.n;
}
