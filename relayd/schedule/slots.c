/*
 * slots - who gets a connection when there are not enough for all. Called by pump.c and link.c.
 *
 * Hosts that accept and never greet hold a connection for minutes (RFC 5321 section 4.5.3.2), and
 * one sender can name any number of them. So a part of the connections is for proven sites alone:
 * hops, and sites that have taken mail and have not gone down since. Each kind waits in a line of
 * its own, and what gets free goes to both in turn.
 */
#include "relayd/schedule/internal.h"

/* How many of the connections sites that are not proven may have. */
static size_t
unproven_max(const struct schedule *s)
{
    size_t max = s->env.max_connections, reserve = max / SCHEDULE_RESERVE_SHARE;
    return reserve > 0 ? max - reserve : max > 1 ? max - 1 : max;
}

bool
slot_free(const struct site *site)
{
    const struct schedule *s = site->schedule;
    return s->n_links < s->env.max_connections && (site->proven || s->n_unproven < unproven_max(s));
}

/* Would the end of this link let `waiting` open one? */
static bool
makes_room(const struct site_link *link, const struct site *waiting)
{
    const struct schedule *s = waiting->schedule;
    return waiting->proven || !link->site->proven || s->n_unproven < unproven_max(s);
}

bool
slot_wanted(const struct site_link *link)
{
    const struct schedule *s = link->site->schedule;
    for (size_t i = 0; i < N_ELEMENTS(s->lines); i++) {
        const struct site *first = s->lines[i].first;
        if (first != NULL && !slot_free(first) && makes_room(link, first))
            return true;
    }
    return false;
}

static void
enter(struct site *site)
{
    struct slot_line *line = &site->schedule->lines[site->proven];
    site->waits_for_slot = true;
    site->slot_next = NULL;
    site->slot_prev = line->tail;
    *line->tail = site;
    line->tail = &site->slot_next;
}

static void
leave(struct site *site)
{
    *site->slot_prev = site->slot_next;
    if (site->slot_next != NULL)
        site->slot_next->slot_prev = site->slot_prev;
    else
        site->schedule->lines[site->proven].tail = site->slot_prev;
    site->waits_for_slot = false;
}

void
slot_wait(struct site *site)
{
    struct site_link *idle = site->schedule->idle;

    if (site->waits_for_slot)
        return;
    enter(site);
    while (idle != NULL && !makes_room(idle, site))
        idle = idle->idle_next;
    if (idle != NULL)
        link_quit(idle);
}

static void
on_slots(struct deferred *d)
{
    struct schedule *s = CONTAINER_OF(d, struct schedule, slots);
    if (!s->draining)
        pump_slots(s);
}

void
site_prove(struct site *site, bool proven)
{
    struct schedule *s = site->schedule;
    bool waits = site->waits_for_slot;

    if (site->proven == proven)
        return;
    if (waits)
        leave(site);
    site->proven = proven;
    s->n_unproven = proven ? s->n_unproven - site->n_links : s->n_unproven + site->n_links;
    if (waits)
        enter(site);
    loop_defer(s->env.loop, &s->slots, on_slots); /* not now: record may be at work */
}

/* Who may open one now. */
static struct site *
next_in_line(struct schedule *s)
{
    struct site *proven = s->lines[true].first, *other = s->lines[false].first;

    if (proven != NULL && !slot_free(proven))
        proven = NULL;
    if (other != NULL && !slot_free(other))
        other = NULL;
    if (proven == NULL || other == NULL)
        return proven != NULL ? proven : other;
    s->others_turn = !s->others_turn;
    return s->others_turn ? other : proven;
}

void
pump_slots(struct schedule *s)
{
    struct site *site;
    while ((site = next_in_line(s)) != NULL) {
        leave(site);
        site_pump(site);
    }
}
