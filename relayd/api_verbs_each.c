/*
 * api_verbs_each - the slices of a verb that look at each recipient: a bounce goes through record
 * like any failure, reroute and a hold with a reason note the route or the reason beside its
 * attempts, and a verb that names a state takes who is in it.
 *
 * What is in hand only the loop knows, so the queue cannot match it: rows are gathered, then looked
 * at again and acted on in one go. A change names the revision of its row, so one whose outcome was
 * faster is left alone.
 *
 *    list page ─────────────────────────┐
 *    message in hand ─▶ its page ─▶ ... ┴▶ still in that state? ─▶ one operation ─▶ next slice
 */
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/api_verbs.h"
#include "relayd/record/attempts.h"

bool
verb_is_each(const struct verb_run *run)
{
    if (run->verb == VERB_RELEASE)
        return false; /* only what a row of its own holds, and the queue knows that */
    return run->verb == VERB_BOUNCE || run->verb == VERB_REROUTE ||
           (run->verb == VERB_HOLD && run->reason[0] != '\0') || run->filter.state != API_ANY_STATE;
}

/* Is it in the state that was asked for: by its page, and by what has become of its domain since?
 */
static bool
is_meant(const struct verb_run *run, const struct queue_row *row)
{
    const struct daemon *d = run->api->d;
    return api_filter_keeps(&run->filter, api_state(d, &row->rcpt, row->domain_held)) &&
           api_filter_keeps(&run->filter, api_state(d, &row->rcpt, api_domain_held(d, &row->rcpt)));
}

/* ---- acting ---- */

static void
changed(struct store_op *op)
{
    struct verb_run *run = CONTAINER_OF(op, struct verb_run, op);
    size_t n = 0;

    if (op->code != ERR_OK) {
        verb_failed(run, op->code, op->err.text);
        return;
    }
    for (size_t i = 0; i < op->outcomes.n_changes; i++) {
        const struct queue_change *c = &run->changes[i];
        if (c->code == ERR_OK)
            run->touched[n++] = (struct queue_touched){.id = c->id,
                                                       .no = c->no,
                                                       .revision = c->new_revision,
                                                       .lane = run->lanes[i],
                                                       .due_at = c->due_at,
                                                       .msg_gone = c->msg_gone};
    }
    verb_touched(run, n, op->txn_id);
    verb_went_on(run);
}

/* Its attempts with the wanted route or the reason noted in them; false: they cannot be read. */
static bool
note(struct verb_run *run, const struct queue_rcpt *rcpt, msec_t now, size_t at)
{
    bool hold = run->verb == VERB_HOLD;
    struct strbuf bytes = STRBUF_INIT;
    struct outcome held; /* its text is in `a` until that is encoded */
    struct attempts a;

    if (attempts_decode(rcpt->attempts, &a, NULL) != ERR_OK) {
        if (!hold)
            return false;
        a = (struct attempts){0};
    }
    if (hold) {
        outcome_set(&held, OUTCOME_DEFERRED, ORIGIN_LOCAL, "queue", "4.2.0", "%s", run->reason);
        attempts_add(&a, &held, SPAN_NONE, SPAN_NONE, now);
    } else {
        a.route = span_str(run->route);
    }
    attempts_encode(&a, &bytes);
    size_t n = strbuf_span(&bytes).n;
    free(run->attempts[at]);
    run->attempts[at] = strbuf_take(&bytes);
    run->changes[at].attempts_set = true;
    run->changes[at].attempts = span_of(run->attempts[at], n);
    return true;
}

/* False: it stays as it is. */
static bool
change_make(struct verb_run *run, const struct queue_row *row, msec_t now, size_t at)
{
    static const enum queue_verb verbs[] = {[VERB_RETRY] = QUEUE_DEFER,
                                            [VERB_HOLD] = QUEUE_HOLD,
                                            [VERB_REMOVE] = QUEUE_FINISH,
                                            [VERB_REROUTE] = QUEUE_DEFER};
    const struct queue_rcpt *rcpt = &row->rcpt;

    run->changes[at] = (struct queue_change){.id = rcpt->id,
                                             .no = rcpt->no,
                                             .revision = rcpt->revision,
                                             .verb = verbs[run->verb],
                                             .due_at = now,
                                             .result = QUEUE_REMOVED,
                                             .finished_at = now};
    run->lanes[at] = row->lane;
    if (run->verb == VERB_REROUTE || (run->verb == VERB_HOLD && run->reason[0] != '\0'))
        return note(run, rcpt, now, at);
    return true;
}

static bool
give_up(struct verb_run *run, const struct queue_row *row)
{
    struct outcome o;
    outcome_set(&o, OUTCOME_FAILED, ORIGIN_LOCAL, "queue", "5.0.0",
                "returned to its sender by the administrator%s%s",
                run->reason[0] == '\0' ? "" : ": ", run->reason);
    return schedule_give_up(run->api->d->schedule, row, &o);
}

/* All that was gathered. */
static void
act(struct verb_run *run)
{
    struct daemon *d = run->api->d;
    msec_t now = clock_wall(loop_clock(d->loop));
    size_t n = 0;

    for (size_t p = 0; p < run->n_pages; p++) {
        for (size_t i = 0; i < run->pages[p].n_rows; i++) {
            const struct queue_row *row = &run->pages[p].rows[i];
            if (!is_meant(run, row))
                continue;
            if (run->verb == VERB_BOUNCE)
                run->job->done += give_up(run, row);
            else
                n += change_make(run, row, now, n);
        }
        queue_page_release(&run->pages[p]);
    }
    run->n_pages = run->n_rows = 0;
    if (n == 0) {
        verb_went_on(run);
        return;
    }
    run->op = (struct store_op){.kind = STORE_OUTCOMES, .done = changed};
    run->op.outcomes.changes = run->changes;
    run->op.outcomes.n_changes = n;
    store_submit(d->store, &run->op);
}

/* ---- gathering ---- */

static void gather(struct verb_run *run);

static void
gathered(struct store_read *read)
{
    struct verb_run *run = CONTAINER_OF(read, struct verb_run, read);
    struct queue_page *page = &read->list.page;

    if (read->code != ERR_OK) {
        verb_failed(run, read->code, read->err.text);
        return;
    }
    run->after = read->list.after;
    run->more = page->more;
    run->n_rows += page->n_rows;
    if (page->n_rows > 0)
        run->pages[run->n_pages++] = *page;
    else
        queue_page_release(page);
    if (run->ids == NULL) {
        act(run);
        return;
    }
    run->at_id += !page->more;
    run->more = run->at_id < run->n_ids;
    if (run->more && run->n_rows < VERB_SLICE && run->api->d->phase == DAEMON_RUNNING)
        gather(run);
    else
        act(run);
}

static void
gather(struct verb_run *run)
{
    run->read = (struct store_read){.kind = STORE_READ_LIST, .done = gathered};
    run->read.list.filter = run->filter.filter;
    if (run->ids != NULL)
        run->read.list.filter.id = run->ids[run->at_id];
    run->read.list.after = run->after;
    run->read.list.max = VERB_SLICE - run->n_rows;
    store_read(run->api->d->store, &run->read);
}

void
verb_each_slice(struct verb_run *run)
{
    gather(run);
}
