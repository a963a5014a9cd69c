/*
 * attempt - outcomes that need no connection: a rule, DNS, a site that is down, the administrator.
 * What comes together in one tick goes to record together, so that the recipients of a message who
 * fail for the same reason share one notice. Called by plan.c and pages.c.
 */
#include "relayd/schedule/internal.h"

#include <stdlib.h>

#include "policy/base/mem.h"

struct pending {
    struct attempt attempt;
    char *route, *site; /* what the attempt's names point to */
    struct pending *next;
};

static struct pending *
pending_free(struct pending *p)
{
    struct pending *next = p->next;
    free(p->route);
    free(p->site);
    free(p);
    return next;
}

/* The first message's attempts, as many as one transaction may have. */
static struct pending *
send_group(struct schedule *s, struct pending *list)
{
    struct attempt attempts[LINK_RCPTS_MAX];
    const struct msg *msg = list->attempt.rcpt->msg;
    struct pending *end = list;
    size_t n = 0;

    for (; end != NULL && end->attempt.rcpt->msg == msg && n < LINK_RCPTS_MAX; end = end->next)
        attempts[n++] = end->attempt;
    s->env.ops->attempted(s->env.arg, attempts, n);
    while (list != end)
        list = pending_free(list);
    return end;
}

static void
attempts_flush(struct deferred *d)
{
    struct schedule *s = CONTAINER_OF(d, struct schedule, pending_flush);
    struct pending *list = s->pending;

    s->pending = NULL;
    s->pending_tail = &s->pending;
    while (list != NULL)
        list = send_group(s, list);
}

void
attempt_add(struct schedule *s, const struct attempt *attempt)
{
    struct pending *p = xcalloc(1, sizeof(*p));

    p->attempt = *attempt;
    p->attempt.route = p->route = xstrdup(attempt->route);
    p->attempt.site = p->site = xstrdup(attempt->site);
    *s->pending_tail = p;
    s->pending_tail = &p->next;
    attempt->rcpt->stage = STAGE_RECORDING;
    s->n_recording++;
    loop_defer(s->env.loop, &s->pending_flush, attempts_flush);
}

void
attempts_release(struct schedule *s)
{
    loop_defer_cancel(&s->pending_flush);
    while (s->pending != NULL)
        s->pending = pending_free(s->pending);
}
