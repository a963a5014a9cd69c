/*
 * How: a few threads take reads from one list, oldest first; each has a queue_reader of its own. A
 * page fault may make one of them wait for the disk, the others go on. Now and then a reader gives
 * mapped pages back, so that a walk over a large queue does not look like memory in use.
 */
#include <assert.h>

#include "policy/base/mem.h"
#include "relayd/store/store_impl.h"
#include "relayd/work/inhand.h"

#define TRIM_EVERY 256 /* reads between two looks at the mapped memory */

static enum err_code
read_lanes(struct queue_reader *reader, struct store_read *r)
{
    uint64_t after = r->lanes.after;
    return queue_lanes(reader, r->lanes.from_start ? NULL : &after, r->lanes.max, r->lanes.rows,
                       &r->lanes.n, &r->lanes.after, &r->lanes.more, &r->txn_id, &r->err);
}

static enum err_code
read_one(struct queue_reader *reader, struct store_read *r)
{
    enum err_code code = ERR_OK;
    IN_HAND(r->kind == STORE_READ_MAIL ? r->mail.id : r->kind == STORE_READ_BODY ? r->body.id : 0);
    switch (r->kind) {
    case STORE_READ_MAIL:
        code = queue_read_mail(reader, r->mail.id, &r->mail.mail, &r->err);
        r->txn_id = r->mail.mail.txn_id;
        break;
    case STORE_READ_BODY:
        code = queue_read_body(reader, r->body.id, r->body.offset, r->body.buf, r->body.cap,
                               &r->body.n, &r->err);
        break;
    case STORE_READ_FRESH:
        code = queue_page_fresh(reader, &r->fresh.after, r->fresh.max, &r->fresh.page, &r->err);
        r->txn_id = r->fresh.page.txn_id;
        break;
    case STORE_READ_LANES:
        code = read_lanes(reader, r);
        break;
    case STORE_READ_LANE:
        code = queue_page_lane(reader, r->lane.lane, &r->lane.after, r->lane.until, r->lane.max,
                               &r->lane.page, &r->err);
        r->txn_id = r->lane.page.txn_id;
        break;
    case STORE_READ_LIST:
        code = queue_list(reader, &r->list.filter, &r->list.after, r->list.max, &r->list.page,
                          &r->err);
        r->txn_id = r->list.page.txn_id;
        break;
    case STORE_READ_HISTORY:
        code = queue_read_history(reader, r->history.id, &r->history.after, r->history.max,
                                  &r->history.history, &r->err);
        r->txn_id = r->history.history.txn_id;
        break;
    case STORE_READ_RECENT:
        code = queue_read_recent(reader, &r->recent.before, r->recent.since, r->recent.max,
                                 &r->recent.history, &r->err);
        r->txn_id = r->recent.history.txn_id;
        break;
    case STORE_READ_STATE:
        code = queue_read_state(reader, r->state.prefix, r->state.after, r->state.max,
                                &r->state.facts, &r->err);
        r->txn_id = r->state.facts.txn_id;
        break;
    case STORE_READ_VERIFY:
        code = queue_verify_step(r->verify.verify, reader, &r->verify.result, &r->err);
        break;
    }
    return code;
}

/* Results start empty, so that a failed read leaves nothing to release. */
static void
results_clear(struct store_read *r)
{
    r->txn_id = 0;
    switch (r->kind) {
    case STORE_READ_MAIL:
        r->mail.mail = (struct queue_mail){.txn_id = 0};
        break;
    case STORE_READ_BODY:
        r->body.n = 0;
        break;
    case STORE_READ_FRESH:
        r->fresh.page = (struct queue_page){.txn_id = 0};
        break;
    case STORE_READ_LANES:
        r->lanes.n = 0;
        r->lanes.more = false;
        break;
    case STORE_READ_LANE:
        r->lane.page = (struct queue_page){.txn_id = 0};
        break;
    case STORE_READ_LIST:
        r->list.page = (struct queue_page){.txn_id = 0};
        break;
    case STORE_READ_HISTORY:
        r->history.history = (struct queue_history){.txn_id = 0};
        break;
    case STORE_READ_RECENT:
        r->recent.history = (struct queue_history){.txn_id = 0};
        break;
    case STORE_READ_STATE:
        r->state.facts = (struct queue_facts){.txn_id = 0};
        break;
    case STORE_READ_VERIFY:
        r->verify.result = (struct queue_verify_result){.finished = false};
        break;
    }
}

static struct store_read *
next_read(struct store *store)
{
    pthread_mutex_lock(&store->read_lock);
    while (store->reads.n == 0 && !store->reads_stopping)
        pthread_cond_wait(&store->read_wake, &store->read_lock);
    struct inbox_node *node = node_list_take(&store->reads);
    pthread_mutex_unlock(&store->read_lock);
    return node == NULL ? NULL : CONTAINER_OF(node, struct store_read, node);
}

void *
store_reader_main(void *arg)
{
    struct store_thread *thread = arg;
    struct store *store = thread->store;
    struct store_read *r;
    for (unsigned n = 1; (r = next_read(store)) != NULL; n++) {
        results_clear(r);
        r->code = read_one(thread->reader, r);
        r->node.done = store_read_done;
        inbox_post(store->inbox, &r->node);
        if (n % TRIM_EVERY == 0)
            queue_map_trim(store->queue, STORE_RSS_FILE_MAX);
    }
    return NULL;
}
