/*
 * How: the loop's side. Submitting links the op and wakes a thread that sleeps; completions come
 * back through the inbox in the order of their commits, a note about each commit before its ops.
 */
#include "relayd/store/store.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "policy/base/mem.h"
#include "relayd/store/store_impl.h"
#include "relayd/work/thread.h"

/* Outcomes that come to wait for room post nothing: so often settling looks for itself. */
#define SETTLE_LOOK_MS 20

/* ------------------------------------------------------------------------------------- lists */

void
node_list_init(struct node_list *list)
{
    *list = (struct node_list){.end = &list->first};
}

void
node_list_add(struct node_list *list, struct inbox_node *node)
{
    node->next = NULL;
    *list->end = node;
    list->end = &node->next;
    list->n++;
}

struct inbox_node *
node_list_take(struct node_list *list)
{
    struct inbox_node *node = list->first;
    if (node == NULL)
        return NULL;
    list->first = node->next;
    if (list->first == NULL)
        list->end = &list->first;
    node->next = NULL;
    list->n--;
    return node;
}

void
node_list_move(struct node_list *to, struct node_list *from)
{
    if (from->n == 0)
        return;
    *to->end = from->first;
    to->end = from->end;
    to->n += from->n;
    node_list_init(from);
}

/* ------------------------------------------------------------------------------ start, stop */

static void
locks_init(struct store *store)
{
    pthread_condattr_t attr;
    pthread_mutex_init(&store->lock, NULL);
    pthread_mutex_init(&store->read_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&store->wake, &attr);
    pthread_cond_init(&store->read_wake, &attr);
    pthread_condattr_destroy(&attr);
}

static void
readers_free(struct store *store)
{
    for (unsigned i = 0; i < store->n_readers; i++)
        queue_reader_free(store->readers[i].reader);
    free(store->readers);
}

static enum err_code
readers_new(struct store *store, struct err *err)
{
    enum err_code code = ERR_OK;
    store->n_readers = store->options.n_readers == 0 ? STORE_READERS : store->options.n_readers;
    store->readers = xcalloc(store->n_readers, sizeof(store->readers[0]));
    for (unsigned i = 0; code == ERR_OK && i < store->n_readers; i++) {
        store->readers[i].store = store;
        code = queue_reader_new(store->queue, &store->readers[i].reader, err);
    }
    if (code == ERR_OK)
        code = queue_read_stats(store->readers[0].reader, &store->numbers.queue, err);
    return code;
}

static void
pools_init(struct store *store)
{
    static const size_t limits[STORE_POOLS] = {[STORE_POOL_INTAKE] = 4096,
                                               [STORE_POOL_DELIVERY] = 4096,
                                               [STORE_POOL_READ] = 256,
                                               [STORE_POOL_ADMIN] = 16};
    for (size_t i = 0; i < STORE_POOLS; i++)
        store->pools[i].limit = limits[i];
}

static void
destroy(struct store *store)
{
    readers_free(store);
    pthread_cond_destroy(&store->wake);
    pthread_cond_destroy(&store->read_wake);
    pthread_mutex_destroy(&store->lock);
    pthread_mutex_destroy(&store->read_lock);
    free(store);
}

static enum err_code
threads_start(struct store *store, struct err *err)
{
    enum err_code code =
        thread_start(&store->writer_thread, "store-writer", store_writer_main, store, err);
    store->writer_runs = code == ERR_OK;
    while (code == ERR_OK && store->n_readers_run < store->n_readers) {
        struct store_thread *reader = &store->readers[store->n_readers_run];
        code = thread_start(&reader->thread, "store-reader", store_reader_main, reader, err);
        store->n_readers_run += code == ERR_OK;
    }
    return code;
}

enum err_code
store_new(const struct store_options *options, struct store **ret_store, struct err *err)
{
    struct store *store = xcalloc(1, sizeof(*store));
    store->options = *options;
    store->queue = options->queue;
    store->inbox = options->inbox;
    if (store->options.history_keep_ms == 0)
        store->options.history_keep_ms = STORE_HISTORY_KEEP_MS;
    if (store->options.history_rows == 0)
        store->options.history_rows = STORE_HISTORY_ROWS;
    node_list_init(&store->submitted);
    node_list_init(&store->todo);
    node_list_init(&store->blocked);
    node_list_init(&store->passed);
    node_list_init(&store->reads);
    locks_init(store);
    pools_init(store);
    enum err_code code = readers_new(store, err);
    store->loop_txn = store->numbers.queue.txn_id;
    if (code == ERR_OK)
        code = threads_start(store, err);
    if (code == ERR_OK)
        *ret_store = store;
    else
        store_free(store);
    return code;
}

static msec_t
now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (msec_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

bool
store_delivery_blocked(const struct store *store)
{
    return atomic_load(&((struct store *)store)->delivery_blocked);
}

/* The writer lowers n_blocked before it posts an op: the loop never sees too many as blocked. */
static bool
is_settled(struct store *store)
{
    return store->numbers.waiting_reads == 0 &&
           store->numbers.waiting_ops == atomic_load(&store->n_blocked);
}

bool
store_settle(struct store *store, msec_t max_ms)
{
    msec_t until = now_ms() + max_ms;
    for (;;) {
        /* What helpers have ended may begin the next operation: it comes first. */
        bool ran = inbox_run(store->inbox) > 0;
        if (!ran && is_settled(store))
            return true;
        if (now_ms() >= until)
            return false;
        if (!ran)
            inbox_wait(store->inbox, SETTLE_LOOK_MS);
    }
}

void
store_stop(struct store *store)
{
    if (store->stopped)
        return;
    store->stopped = true;
    pthread_mutex_lock(&store->lock);
    store->stopping = true;
    pthread_cond_signal(&store->wake);
    pthread_mutex_unlock(&store->lock);
    pthread_mutex_lock(&store->read_lock);
    store->reads_stopping = true;
    pthread_cond_broadcast(&store->read_wake);
    pthread_mutex_unlock(&store->read_lock);
    if (store->writer_runs)
        pthread_join(store->writer_thread, NULL);
    for (unsigned i = 0; i < store->n_readers_run; i++)
        pthread_join(store->readers[i].thread, NULL);
}

void
store_free(struct store *store)
{
    if (store == NULL)
        return;
    store_stop(store);
    destroy(store);
}

/* -------------------------------------------------------------------------------- operations */

void
store_submit(struct store *store, struct store_op *op)
{
    op->store = store;
    op->code = ERR_OK;
    op->err.code = ERR_OK;
    op->err.text[0] = '\0';
    op->txn_id = 0;
    store->numbers.waiting_ops++;
    if (store->stopped) {
        op->code = err_set(&op->err, ERR_IO, "the store has stopped");
        op->node.done = store_op_done;
        inbox_post(store->inbox, &op->node);
        return;
    }
    pthread_mutex_lock(&store->lock);
    node_list_add(&store->submitted, &op->node);
    bool awaited = op->kind != STORE_OUTCOMES;
    bool first = awaited ? store->n_awaited++ == 0 : store->submitted.n == 1;
    pthread_mutex_unlock(&store->lock);
    if (first) /* not under the lock: who wakes wants it at once */
        pthread_cond_signal(&store->wake);
}

void
store_op_done(struct inbox_node *node)
{
    struct store_op *op = op_of(node);
    struct store_numbers *n = &op->store->numbers;
    n->waiting_ops--;
    n->full += op->code == ERR_FULL;
    n->accepted += op->code == ERR_OK && (op->kind == STORE_ADD || op->kind == STORE_ADD_BIG);
    if (op->kind == STORE_OUTCOMES)
        for (size_t i = 0; i < op->outcomes.n_changes; i++)
            n->stale += op->outcomes.changes[i].code == ERR_STALE;
    op->done(op);
}

void
store_commit_done(struct inbox_node *node)
{
    struct commit_note *note = CONTAINER_OF(node, struct commit_note, node);
    struct store *store = note->store;
    struct store_numbers *n = &store->numbers;
    const struct store_commit *c = &note->commit;
    store->loop_txn = c->txn_id;
    n->queue = c->stats;
    n->commits++;
    n->ops += c->n_ops;
    n->records += c->n_records;
    n->bytes += c->bytes;
    n->apply_us += (uint64_t)c->apply_us;
    n->sync_us += (uint64_t)c->sync_us;
    if (store->options.on_commit != NULL)
        store->options.on_commit(store->options.arg, c);
    free(note);
}

/* ------------------------------------------------------------------------------------- reads */

void
store_read(struct store *store, struct store_read *read)
{
    read->store = store;
    read->code = ERR_OK;
    read->err.code = ERR_OK;
    read->err.text[0] = '\0';
    read->begun_txn = store->loop_txn;
    read->next = NULL;
    read->prev = store->last_read;
    if (store->last_read != NULL)
        store->last_read->next = read;
    else
        store->first_read = read;
    store->last_read = read;
    store->numbers.waiting_reads++;
    if (store->stopped) {
        read->code = err_set(&read->err, ERR_IO, "the store has stopped");
        read->node.done = store_read_done;
        inbox_post(store->inbox, &read->node);
        return;
    }
    pthread_mutex_lock(&store->read_lock);
    node_list_add(&store->reads, &read->node);
    pthread_cond_signal(&store->read_wake);
    pthread_mutex_unlock(&store->read_lock);
}

void
store_read_done(struct inbox_node *node)
{
    struct store_read *read = CONTAINER_OF(node, struct store_read, node);
    struct store *store = read->store;
    if (read->prev != NULL)
        read->prev->next = read->next;
    else
        store->first_read = read->next;
    if (read->next != NULL)
        read->next->prev = read->prev;
    else
        store->last_read = read->prev;
    read->prev = read->next = NULL;
    store->numbers.waiting_reads--;
    read->done(read);
}

uint64_t
store_read_floor(const struct store *store)
{
    return store->first_read != NULL ? store->first_read->begun_txn : store->loop_txn;
}

void
store_numbers(const struct store *store, struct store_numbers *ret)
{
    *ret = store->numbers;
    ret->blocked = atomic_load(&((struct store *)store)->n_blocked);
}
