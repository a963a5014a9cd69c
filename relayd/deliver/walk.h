/*
 * walk - what the endpoints of one attempt said, summed up: a value, no I/O.
 *
 * A 5xx greeting or EHLO answer is that host's, not the recipient's: the sum fails only when all of
 * them said so. Which host's words stand in the sum: a 5xx before a 4xx (it tells more: blocked,
 * geo-blocked ...), a reply before our own complaint, that before a dead path; of equals the first.
 */
#pragma once

#include "policy/base/outcome.h"

#include <stddef.h>

struct walk {
    size_t n, n_failed, n_path;
    int rank; /* of `best` */
    struct outcome best;
    size_t best_at; /* the endpoint it came from */
};

/* Nothing tried yet; also to start over. */
void walk_init(struct walk *w);
/* One endpoint's failure: FAILED or DEFERRED, never DELIVERED. */
void walk_add(struct walk *w, size_t endpoint, const struct outcome *outcome);
/* The sum; at least one was added. At a hop it is always deferred and the path's. */
void walk_sum(const struct walk *w, bool hop, struct outcome *ret);
