/*
 *   rows ─▶ counted with the new marks ─▶ stored ─▶ held (3 or more) ─▶ retried alone (1, 2) ─▶
 * done
 *
 * A row is version byte 1, u32 count, u64 when (wall ms), big-endian; one that has not changed for
 * BLAME_KEEP_MS is removed.
 */
#include "relayd/blame.h"

#include <stdio.h>
#include <stdlib.h>

#include "policy/base/codec.h"
#include "policy/base/mem.h"
#include "relayd/daemon.h"

#define SPACE "blame:"
#define OF_MSG SPACE "msg:"
#define OF_PRINT SPACE "print:"
#define ROWS_MAX 1000
#define ROW_VERSION 1
#define ROW_BYTES 13
#define BLAME_KEEP_MS (30 * DAY)
#define LOG_MS SECOND /* how long a start waits for its alert to be written */

struct row {
    char key[64];
    char value[ROW_BYTES];
    uint64_t id, print; /* one of them */
    uint32_t count;
    msec_t at;
    bool fresh; /* blamed by the last crash */
};

struct blame {
    struct daemon *d;
    void (*done)(struct daemon *d);
    struct inhand_mark marks[INHAND_SLOTS];
    size_t n_marks;
    struct row *rows;
    size_t n_rows;
    struct store_read read;
    struct store_op op;
    struct store_fact *facts;
    size_t next; /* row to hold */
    struct queue_touched touched[1000];
};

void
blame_free(struct blame *blame)
{
    if (blame == NULL)
        return;
    free(blame->rows);
    free(blame->facts);
    free(blame);
}

bool
blame_refuses(const struct blame *blame, uint64_t print)
{
    for (size_t i = 0; i < blame->n_rows; i++)
        if (blame->rows[i].print == print && blame->rows[i].count >= BLAME_REFUSE)
            return print != 0;
    return false;
}

/* ---- rows ---- */

static struct row *
row_find(struct blame *b, uint64_t id, uint64_t print)
{
    char text[QUEUE_ID_TEXT + 1];
    for (size_t i = 0; i < b->n_rows; i++)
        if (b->rows[i].id == id && b->rows[i].print == print)
            return &b->rows[i];
    struct row *row = &b->rows[b->n_rows++];
    *row = (struct row){.id = id, .print = print};
    if (id != 0)
        snprintf(row->key, sizeof(row->key), OF_MSG "%s", queue_id_format(id, text));
    else
        snprintf(row->key, sizeof(row->key), OF_PRINT "%016llx", (unsigned long long)print);
    return row;
}

static void
row_take(struct blame *b, const struct queue_fact *fact)
{
    uint64_t id = 0, print = 0;
    struct span name = fact->key;
    struct reader r = {.left = fact->value};
    bool known = take_number(&r, 1) == ROW_VERSION;
    uint64_t count = take_number(&r, 4), at = take_number(&r, 8);

    if (!known || r.bad)
        return;
    if (span_starts(name, SPAN(OF_MSG))) {
        if (!queue_id_parse(span_from(name, strlen(OF_MSG)), &id))
            return;
    } else {
        CLEANUP(freep) char *hex = xstrndup(name.p, name.n);
        print = strtoull(hex + strlen(OF_PRINT), NULL, 16);
    }
    struct row *row = row_find(b, id, print);
    row->count = (uint32_t)count;
    row->at = (msec_t)at;
}

static void
row_encode(struct row *row)
{
    row->value[0] = ROW_VERSION;
    write_number(row->value + 1, row->count, 4);
    write_number(row->value + 5, (uint64_t)row->at, 8);
}

/* ---- what follows ---- */

static void
tell(struct blame *b, const struct row *row)
{
    struct daemon *d = b->d;
    char text[QUEUE_ID_TEXT + 1];
    const char *node = d->settings->config->node.name;

    if (row->id == 0)
        log_alert(d->log, "poison",
                  "a message with the header %016llx was being received when relayd crashed%s",
                  (unsigned long long)row->print,
                  row->count >= BLAME_REFUSE ? ": it is refused from now on" : "");
    else
        log_alert(d->log, "poison", "%s.%s was in hand when relayd crashed, %u. time: %s", node,
                  queue_id_format(row->id, text), (unsigned)row->count,
                  row->count >= BLAME_HOLD ? "held" : "retried alone");
}

static void
finish(struct blame *b)
{
    uint64_t alone[INHAND_SLOTS];
    size_t n = 0;
    for (size_t i = 0; i < b->n_rows && n < N_ELEMENTS(alone); i++)
        if (b->rows[i].fresh && b->rows[i].id != 0 && b->rows[i].count < BLAME_HOLD)
            alone[n++] = b->rows[i].id;
    schedule_alone(b->d->schedule, alone, n);
    b->done(b->d);
}

static void hold_next(struct blame *b);
static void hold_slice(struct blame *b, uint64_t id, struct queue_key after);

/* A message may have more recipients than one operation touches. */
static void
held(struct store_op *op)
{
    struct blame *b = CONTAINER_OF(op, struct blame, op);
    if (op->code != ERR_OK)
        log_text(b->d->log, LOG_ERROR, "poison", "%s", op->err.text);
    if (op->code == ERR_OK && op->admin.more)
        hold_slice(b, op->admin.filter.id, op->admin.after);
    else
        hold_next(b);
}

static void
hold_slice(struct blame *b, uint64_t id, struct queue_key after)
{
    b->op = (struct store_op){.kind = STORE_ADMIN, .done = held};
    b->op.admin.filter.id = id;
    b->op.admin.change.verb = QUEUE_HOLD;
    b->op.admin.after = after;
    b->op.admin.touched = b->touched;
    b->op.admin.max = N_ELEMENTS(b->touched);
    store_submit(b->d->store, &b->op);
}

static void
hold_next(struct blame *b)
{
    while (b->next < b->n_rows) {
        const struct row *row = &b->rows[b->next++];
        if (!row->fresh || row->id == 0 || row->count < BLAME_HOLD)
            continue;
        hold_slice(b, row->id, (struct queue_key){0});
        return;
    }
    finish(b);
}

static void
stored(struct store_op *op)
{
    struct blame *b = CONTAINER_OF(op, struct blame, op);
    if (op->code != ERR_OK)
        log_text(b->d->log, LOG_ERROR, "poison", "%s", op->err.text);
    hold_next(b);
}

/* Count the new marks; write what changed, remove what is old. */
static void
count(struct blame *b)
{
    msec_t now = clock_wall(loop_clock(b->d->loop));
    size_t n = 0;

    for (size_t i = 0; i < b->n_marks; i++) {
        const struct inhand_mark *mark = &b->marks[i];
        /* A header is told apart from a message: what was stored is blamed by its id. */
        struct row *row = row_find(b, mark->print != 0 ? 0 : mark->id, mark->print);
        row->count++;
        row->at = now;
        row->fresh = true;
        tell(b, row);
    }
    /* It may crash us again at once, and this is what somebody must read. */
    if (b->n_marks > 0 && !log_flush(b->d->log, LOG_MS))
        log_text(b->d->log, LOG_WARNING, "poison", "the log is slow");
    b->facts = xcalloc(b->n_rows + 1, sizeof(*b->facts));
    for (size_t i = 0; i < b->n_rows; i++) {
        struct row *row = &b->rows[i];
        bool old = now - row->at > BLAME_KEEP_MS;
        if (!row->fresh && !old)
            continue;
        row_encode(row);
        b->facts[n++] = (struct store_fact){
            .key = span_str(row->key), .value = span_of(row->value, ROW_BYTES), .remove = old};
    }
    if (n == 0) {
        finish(b);
        return;
    }
    b->op = (struct store_op){.kind = STORE_OUTCOMES, .done = stored};
    b->op.outcomes.facts = b->facts;
    b->op.outcomes.n_facts = n;
    store_submit(b->d->store, &b->op);
}

static void
rows_read(struct store_read *read)
{
    struct blame *b = CONTAINER_OF(read, struct blame, read);
    b->rows = xcalloc(ROWS_MAX + INHAND_SLOTS, sizeof(*b->rows));
    if (read->code != ERR_OK) {
        log_text(b->d->log, LOG_ERROR, "poison", "%s", read->err.text);
    } else {
        for (size_t i = 0; i < read->state.facts.n_rows; i++)
            row_take(b, &read->state.facts.rows[i]);
        queue_facts_release(&read->state.facts);
    }
    count(b);
}

struct blame *
blame_start(struct daemon *d, const struct inhand_mark *marks, size_t n_marks,
            void (*done)(struct daemon *d))
{
    struct blame *b = xcalloc(1, sizeof(*b));
    b->d = d;
    b->done = done;
    b->n_marks = n_marks;
    memcpy(b->marks, marks, n_marks * sizeof(*marks));
    b->read = (struct store_read){.kind = STORE_READ_STATE, .done = rows_read};
    b->read.state.prefix = SPAN(SPACE);
    b->read.state.max = ROWS_MAX;
    store_read(d->store, &b->read);
    return b;
}
