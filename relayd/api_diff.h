/*
 * api_diff - two configurations decide about the same recipients, and what differs is counted.
 *
 *   row ─▶ both decide ─────────────────────────────▶ the same way │ another way: a change
 *              └ a rule asks for facts not yet known ─▶ parked ─▶ look-up ─▶ both decide
 *                                                          └ no answer, or no time ─▶ unknown
 *
 * Each configuration decides with its own map and its own database of countries. Only the maps are
 * compared: what was learned, pinned or suspended is no part of a configuration, and SPF changes
 * the order of routes, never the rule. Used by api_check.c. Loop thread only; nothing waits.
 */
#pragma once

#include "policy/route.h"
#include "relayd/daemon.h"

#define DIFF_CHANGES_MAX 1000 /* rows of each list: more than anybody reads */
#define DIFF_LOOKUPS_MAX 50   /* domains looked up at once: the resolver is the deliveries' too */
#define DIFF_PARKED_MAX 10000 /* recipients that wait for facts, about 300 bytes each */

enum diff_part { DIFF_WAITING, DIFF_HISTORY };
#define DIFF_PARTS 2

/* Recipients of one domain that go another way. */
struct diff_change {
    char *domain; /* and behind it the other two */
    const char *from, *to;
    uint64_t n;
};

struct diff_sums {
    uint64_t checked; /* recipients looked at */
    uint64_t unknown; /* of them: no decision, for want of facts or of an address */
    bool more;        /* changes beyond DIFF_CHANGES_MAX are not in the list */
    size_t n_changes;
    struct diff_change *changes;
};

struct diff;

/* Compare `now` and `then`, which outlive it. */
struct diff *diff_new(struct daemon *d, const struct settings *now, const struct settings *then);
void diff_free(struct diff *diff); /* ends look-ups that are open; NULL is fine */

/* Count one recipient; the query is copied when it has to wait for facts. */
void diff_row(struct diff *diff, enum diff_part part, const struct route_query *query);
/* Count one of which the record does not say enough to decide. */
void diff_row_unknown(struct diff *diff, enum diff_part part);

/* Do some still wait for facts? */
bool diff_busy(const struct diff *diff);
/* Call done(arg) once when none does any more: not before this returns, and not when diff_settle()
 * or diff_free() comes first. It may free the diff. */
void diff_wait(struct diff *diff, void (*done)(void *arg), void *arg);
/* No more waiting: who has no facts by now stays unknown. Puts the changes into their order, the
 * most recipients first. */
void diff_settle(struct diff *diff);

/* What was counted so far; all of it after diff_settle(). */
const struct diff_sums *diff_sums(const struct diff *diff, enum diff_part part);
