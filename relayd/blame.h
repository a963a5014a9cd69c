/*
 * blame - what is done with messages that were in hand when this program crashed: the first two
 * times each is retried alone, so that the next crash is evidence against nobody else; the third
 * time it is held, with an alert. A header that crashed intake twice is refused when it comes
 * again.
 *
 * Counts are state rows "blame:msg:ID" and "blame:print:HEX"; the evidence is relayd/work/inhand's.
 */
#pragma once

#include "relayd/work/inhand.h"

#include <stdbool.h>

#define BLAME_HOLD 3   /* crashes with a message in hand: it is held */
#define BLAME_REFUSE 2 /* crashes of intake with a header in hand: it is refused */

struct blame;
struct daemon;

/* Count what the last run left (copied), act on it, then call done(daemon) once: the schedule may
 * start, with schedule_alone() set. */
struct blame *blame_start(struct daemon *d, const struct inhand_mark *marks, size_t n_marks,
                          void (*done)(struct daemon *d));
/* Whether a header of this fingerprint is to be refused. */
bool blame_refuses(const struct blame *blame, uint64_t print);
/* Every operation has come back. NULL is fine. */
void blame_free(struct blame *blame);
