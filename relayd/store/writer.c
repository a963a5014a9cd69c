/*
 * How: the writer takes whatever was submitted while the last commit was syncing and makes it one
 * transaction. One operation a sync when there is little to do, hundreds when there is much. A
 * client that waits for its 250 never waits for a timer; outcomes, for which nobody waits, are
 * given OUTCOME_WAIT_MS to share the next message's sync, or each other's.
 *
 *   submitted --> todo --> in the batch --commit--> done: ERR_OK or its own fault
 *                  ^            |
 *                  |            |-- does not fit: new mail ERR_FULL; outcomes --> blocked --.
 *                  `------------|------- first of all, alone, every second <---------------'
 *                               `-- any other failure: ERR_IO, for ever after
 */
#include <assert.h>
#include <stdlib.h>
#include <time.h>

#include "policy/base/mem.h"
#include "relayd/store/store_impl.h"

#define BLOCKED_RETRY_MS 1000 /* a disk that was full gets room by somebody's hand, not sooner */
#define ALONE_MAX 16    /* outcomes, one commit each; by then there may be room for all of them */
#define HISTORY_SPEED 2 /* of history's clock behind the wall's */
#define READERS_CHECK_MS (30 * SECOND) /* a killed relayctl or mdb_copy pins pages until then */

/* Short beside a delivery, because a death in this time means to deliver again. It saves a quarter
 * of the commits when 20 clients each bring a message and go (0.24 a message without, 0.17 with
 * it). */
#define OUTCOME_WAIT_MS 5

struct batch {
    struct queue_batch *queue_batch;
    struct node_list ops;
    struct finished finished;
    int64_t begun_us;
};

static int64_t
now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ------------------------------------------------------------------------------------- done */

/* Completions of a batch go in one chain: the loop is woken once. */
static void
post_all(struct store *store, struct node_list *list)
{
    *list->end = NULL;
    inbox_post_chain(store->inbox, list->first);
    node_list_init(list);
}

static void
done_add(struct node_list *done, struct store_op *op)
{
    op->node.done = store_op_done;
    node_list_add(done, &op->node);
}

static void
on_failed(struct inbox_node *node)
{
    struct store *store = CONTAINER_OF(node, struct store, failed_node);
    store->numbers.failed = true;
    if (store->options.on_failed != NULL)
        store->options.on_failed(store->options.arg, &store->failure);
}

static void
list_fail(struct store *store, struct node_list *from, struct node_list *done)
{
    struct inbox_node *node;
    while ((node = node_list_take(from)) != NULL) {
        struct store_op *op = op_of(node);
        op->code = ERR_IO;
        op->err = store->failure;
        op->err.code = ERR_IO;
        done_add(done, op);
    }
}

/* No further commit: what is on the disk is not known any more. */
static void
store_fail(struct store *store, const struct err *err, struct node_list *in_batch)
{
    struct node_list done;
    node_list_init(&done);
    store->failed = true;
    store->failure = *err;
    store->failed_node.done = on_failed;
    node_list_add(&done, &store->failed_node);
    if (in_batch != NULL)
        list_fail(store, in_batch, &done);
    list_fail(store, &store->passed, &done);
    list_fail(store, &store->blocked, &done);
    blocked_publish(store);
    post_all(store, &done);
}

/* ---------------------------------------------------------------------------- does not fit */

static void
full_add(struct node_list *done, struct store_op *op, const char *why)
{
    op->code = err_set(&op->err, ERR_FULL, "%s", why);
    done_add(done, op);
}

/* Outcomes are kept, the caller tries them alone. */
static void
batch_full(struct store *store, struct batch *b, const struct err *err)
{
    struct node_list done, kept;
    struct inbox_node *node;
    node_list_init(&done);
    node_list_init(&kept);
    store->one_by_one = true;
    while ((node = node_list_take(&b->ops)) != NULL) {
        struct store_op *op = op_of(node);
        if (store_op_must_fit(op))
            node_list_add(&kept, node);
        else
            full_add(&done, op, err->text);
    }
    node_list_move(&kept, &store->blocked); /* the older ones first */
    node_list_move(&store->blocked, &kept);
    blocked_warn(store);
    post_all(store, &done);
}

/* ----------------------------------------------------------------------------------- commit */

static struct commit_note *
note_new(struct store *store, struct batch *b)
{
    struct commit_note *note = xcalloc(1, sizeof(*note));
    note->store = store;
    note->node.done = store_commit_done;
    note->commit.n_ops = (uint32_t)b->ops.n;
    note->commit.n_records = (uint32_t)queue_batch_ops(b->queue_batch);
    note->commit.bytes = queue_batch_bytes(b->queue_batch);
    queue_batch_stats(b->queue_batch, &note->commit.stats);
    return note;
}

static void
batch_done(struct store *store, struct batch *b, struct commit_note *note)
{
    struct node_list done;
    struct inbox_node *node;
    node_list_init(&done);
    node_list_add(&done, &note->node);
    while ((node = node_list_take(&b->ops)) != NULL) {
        struct store_op *op = op_of(node);
        op->txn_id = note->commit.txn_id;
        if (op->kind == STORE_ADMIN && op->code == ERR_OK)
            op->admin.after = op->admin.reached;
        done_add(&done, op);
    }
    post_all(store, &done);
}

/*
 * What the clock says when it goes on as clocks do. Behind a jump ahead history comes with double
 * speed: a wrong clock that is put right the same day costs nothing of what has just happened.
 */
static msec_t
history_now(struct store *store, msec_t finished_at)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    msec_t seen = (msec_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    msec_t most = store->history_at + HISTORY_SPEED * (seen - store->history_seen);
    bool ahead = store->history_at != 0 && finished_at > most;
    if (!ahead || store->ahead_since == 0)
        store->ahead_since = ahead ? seen : 0;
    /* What has been so for a day is the time: the clock was behind before. */
    bool believed = !ahead || seen - store->ahead_since >= DAY;
    store->history_at = believed ? finished_at : most;
    store->history_seen = seen;
    return store->history_at;
}

static enum err_code
history_trim(struct store *store, struct batch *b, struct err *err)
{
    if (b->finished.n == 0)
        return ERR_OK;
    msec_t now = history_now(store, b->finished.latest_at);
    return queue_history_trim(b->queue_batch, now - store->options.history_keep_ms,
                              store->options.history_rows, 2 * b->finished.n + 16, NULL, err);
}

/* Commit what is in the batch; false when it did not fit. */
static bool
batch_commit(struct store *store, struct batch *b, struct err *err)
{
    enum err_code code = history_trim(store, b, err);
    if (code == ERR_OK) {
        struct commit_note *note = note_new(store, b);
        int64_t filled_us = now_us();
        code = queue_commit(b->queue_batch, &note->commit.txn_id, err);
        if (code == ERR_OK) {
            note->commit.stats.txn_id = note->commit.txn_id;
            note->commit.apply_us = filled_us - b->begun_us;
            note->commit.sync_us = now_us() - filled_us;
            store->n_commits++;
            blocked_lower(store);
            batch_done(store, b, note);
            return true;
        }
        free(note);
    } else {
        queue_abort(b->queue_batch);
    }
    if (code == ERR_FULL)
        return false;
    store_fail(store, err, &b->ops);
    return true;
}

/* ------------------------------------------------------------------------------------- fill */

/* Under the lock. */
static void
submitted_take(struct store *store)
{
    node_list_move(&store->todo, &store->submitted);
    store->n_awaited = 0;
}

static bool
batch_has_room(const struct batch *b)
{
    return queue_batch_ops(b->queue_batch) < STORE_BATCH_OPS &&
           queue_batch_bytes(b->queue_batch) < STORE_BATCH_BYTES &&
           !queue_batch_dead(b->queue_batch);
}

/* Put ops from the list into the batch, at most `max`. False when the batch died of the last. */
static bool
batch_fill(struct batch *b, struct node_list *from, size_t max, struct err *err)
{
    struct inbox_node *node;
    while (b->ops.n < max && batch_has_room(b) && (node = node_list_take(from)) != NULL) {
        struct store_op *op = op_of(node);
        node_list_add(&b->ops, node);
        store_op_apply(b->queue_batch, op, &b->finished);
        if (queue_batch_dead(b->queue_batch)) {
            *err = op->err;
            err->code = op->code;
            return false;
        }
    }
    return true;
}

static bool
batch_begin(struct store *store, struct batch *b)
{
    struct err err;
    *b = (struct batch){.begun_us = now_us()};
    node_list_init(&b->ops);
    if (queue_begin(store->queue, &b->queue_batch, &err) == ERR_OK)
        return true;
    store_fail(store, &err, NULL);
    return false;
}

/* A batch that died while it was filled. */
static void
batch_died(struct store *store, struct batch *b, const struct err *err)
{
    queue_abort(b->queue_batch);
    if (err->code == ERR_FULL)
        batch_full(store, b, err);
    else
        store_fail(store, err, &b->ops);
}

/* One transaction of the first `max` of the list; false when it did not fit, and they are blocked
 * again. */
static bool
outcomes_run(struct store *store, struct node_list *from, size_t max)
{
    struct batch b;
    struct err err;
    if (!batch_begin(store, &b)) {
        struct node_list done; /* the store has failed, and these are in none of its lists */
        node_list_init(&done);
        list_fail(store, from, &done);
        if (done.n > 0)
            post_all(store, &done);
        return true;
    }
    bool fits = batch_fill(&b, from, max, &err);
    if (!fits)
        batch_died(store, &b, &err);
    else if (!(fits = batch_commit(store, &b, &err)))
        batch_full(store, &b, &err);
    return fits || store->failed;
}

/* Some that fit by themselves; false when there is none. */
static bool
blocked_round(struct store *store)
{
    struct blocked_round round;
    struct store_op *op;
    struct node_list one;
    size_t n = 0;
    blocked_round_begin(&round);
    while (n < ALONE_MAX && !store->failed && (op = blocked_round_next(store, &round)) != NULL) {
        node_list_init(&one);
        node_list_add(&one, &op->node);
        bool fits = outcomes_run(store, &one, 1);
        if (!fits && blocked_split(op)) {
            node_list_add(&one, node_list_take(&store->blocked));
            fits = outcomes_run(store, &one, 1);
        }
        if (fits)
            n++;
        else
            blocked_round_failed(store, &round, op_of(node_list_take(&store->blocked)));
    }
    blocked_round_end(store, &round);
    return n > 0;
}

/*
 * LMDB gives the pages that a commit freed to the one after the next, and a transaction that does
 * not fit is none: without one more commit that room would never be seen where nothing else goes
 * on. So there is one, of nothing, behind each that was real.
 */
static void
room_show(struct store *store)
{
    const struct span key = SPAN("room:now");
    struct batch b;
    struct err err;
    if (store->blocked.n == 0 || store->failed || store->n_shown == store->n_commits ||
        !batch_begin(store, &b))
        return;
    store->n_shown = store->n_commits;
    enum err_code code = queue_state_put(b.queue_batch, key, key, &err);
    if (code == ERR_OK)
        code = queue_state_delete(b.queue_batch, key, &err);
    if (code != ERR_OK) {
        err.code = code;
        batch_died(store, &b, &err);
    } else if (!batch_commit(store, &b, &err)) {
        batch_full(store, &b, &err);
    } else {
        store->n_shown = store->n_commits;
    }
}

/* Outcomes that did not fit: alone, and together again once some have fitted. */
static void
blocked_try(struct store *store)
{
    while (store->blocked.n > 0 && !store->failed) {
        if (store->one_by_one && !blocked_round(store))
            break;
        store->one_by_one = false;
        if (store->blocked.n > 0 && !store->failed)
            outcomes_run(store, &store->blocked, SIZE_MAX);
    }
    room_show(store);
    blocked_publish(store);
}

/* One transaction of everything that waits. */
static void
batch_run(struct store *store)
{
    struct batch b;
    struct err err;
    if (!batch_begin(store, &b))
        return;
    do {
        if (!batch_fill(&b, &store->todo, SIZE_MAX, &err)) {
            batch_died(store, &b, &err);
            blocked_try(store);
            return;
        }
        if (batch_has_room(&b) && store->blocked.n == 0) {
            pthread_mutex_lock(&store->lock);
            submitted_take(store);
            pthread_mutex_unlock(&store->lock);
        }
    } while (store->todo.n > 0 && batch_has_room(&b));
    if (!batch_commit(store, &b, &err)) {
        batch_full(store, &b, &err);
        blocked_try(store);
    }
}

/* While older outcomes wait for room, newer ones wait behind them, and new mail takes none of what
 * there is. */
static void
todo_sort(struct store *store)
{
    struct node_list others, done;
    struct inbox_node *node;
    node_list_init(&others);
    node_list_init(&done);
    while ((node = node_list_take(&store->todo)) != NULL) {
        struct store_op *op = op_of(node);
        if (store_op_must_fit(op))
            node_list_add(&store->blocked, node);
        else if (op->kind == STORE_ADMIN)
            node_list_add(&others, node);
        else
            full_add(&done, op, "outcomes wait for room in the queue");
    }
    node_list_move(&store->todo, &others);
    blocked_publish(store);
    if (done.n > 0)
        post_all(store, &done);
}

static void
todo_run(struct store *store)
{
    struct node_list done;
    while (store->todo.n > 0) {
        if (store->failed) {
            node_list_init(&done);
            list_fail(store, &store->todo, &done);
            post_all(store, &done);
            return;
        }
        if (store->blocked.n > 0)
            todo_sort(store);
        if (store->todo.n > 0)
            batch_run(store);
    }
}

/* ------------------------------------------------------------------------------------- wait */

static struct timespec
deadline(int64_t in_ms)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += in_ms / 1000;
    t.tv_nsec += (in_ms % 1000) * 1000000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* Under the lock: until something is there (or, `awaited`, something that somebody waits for), or
 * the time is over. */
static void
wait_submitted(struct store *store, bool awaited, int64_t at_most_ms)
{
    struct timespec until = deadline(at_most_ms);
    int rc = 0;
    while ((awaited ? store->n_awaited : store->submitted.n) == 0 && !store->stopping && rc == 0)
        rc = pthread_cond_timedwait(&store->wake, &store->lock, &until);
}

/* Sleep until there is something to do; false when it is time to end. */
static bool
wait_for_work(struct store *store)
{
    pthread_mutex_lock(&store->lock);
    wait_submitted(store, false, store->blocked.n > 0 ? BLOCKED_RETRY_MS : READERS_CHECK_MS);
    if (store->submitted.n > 0)
        wait_submitted(store, true, OUTCOME_WAIT_MS);
    submitted_take(store);
    bool go_on = store->todo.n > 0 || !store->stopping;
    pthread_mutex_unlock(&store->lock);
    return go_on;
}

/* The end: outcomes that do not fit even now are given back. */
static void
give_up_blocked(struct store *store)
{
    struct node_list done;
    struct inbox_node *node;
    node_list_init(&done);
    while ((node = node_list_take(&store->blocked)) != NULL)
        full_add(&done, op_of(node), "no room for outcomes until the end");
    blocked_publish(store);
    post_all(store, &done);
}

void *
store_writer_main(void *arg)
{
    struct store *store = arg;
    int64_t checked_us = now_us(), tried_us = 0;
    while (wait_for_work(store)) {
        int64_t now = now_us();
        if (now - checked_us >= READERS_CHECK_MS * 1000) {
            checked_us = now;
            queue_readers_check(store->queue);
        }
        if (store->blocked.n > 0 && now - tried_us >= BLOCKED_RETRY_MS * 1000) {
            tried_us = now;
            blocked_try(store);
        }
        todo_run(store);
    }
    blocked_try(store);
    give_up_blocked(store);
    return NULL;
}
