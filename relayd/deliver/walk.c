#include "relayd/deliver/walk.h"

#include <assert.h>

void
walk_init(struct walk *w)
{
    *w = (struct walk){.rank = -1};
}

static int
rank_of(const struct outcome *o)
{
    if (o->kind == OUTCOME_FAILED)
        return 4;
    if (o->origin == ORIGIN_PEER && o->code != 0)
        return 3;
    if (!o->path)
        return 2;
    return o->origin == ORIGIN_TLS ? 1 : 0;
}

void
walk_add(struct walk *w, size_t endpoint, const struct outcome *outcome)
{
    assert(outcome->kind != OUTCOME_DELIVERED);
    int rank = rank_of(outcome);
    w->n++;
    w->n_failed += outcome->kind == OUTCOME_FAILED;
    w->n_path += outcome->path;
    if (rank > w->rank) {
        w->rank = rank;
        w->best = *outcome;
        w->best_at = endpoint;
    }
}

void
walk_sum(const struct walk *w, bool hop, struct outcome *ret)
{
    assert(w->n > 0);
    *ret = w->best;
    if (hop || w->n_failed < w->n)
        ret->kind = OUTCOME_DEFERRED;
    ret->path = hop || w->n_path == w->n;
}
