/*
 * learned - the learned routes of a running daemon.
 *
 *   plan, record ─▶ learned_*() ─▶ policy/learn ─▶ on_changed ─▶ log, metrics
 *                                                     └▶ pending rows ─▶ (end of tick) an op ─▶
 * store ▲ what failed and did not change │ └────────────────────────────────┘
 */
#include "relayd/learned.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/net/loop.h"
#include "relayd/ops/log.h"
#include "relayd/ops/metrics.h"
#include "relayd/store/store.h"

#define LOAD_ROWS 1000

/* A row to be written: its newest state. */
struct pending {
    bool remove;
    size_t key_bytes, value_bytes;
    char bytes[]; /* key, value */
};

/* An operation under way; it owns its rows. */
struct write {
    struct store_op op;
    struct learned *learned; /* NULL: freed meanwhile */
    struct write *next, **prev;
    struct store_fact *facts;
    size_t n;
    struct pending *rows[];
};

struct load {
    struct store_read read;
    struct learned *learned; /* NULL: freed meanwhile */
    void (*then)(void *arg);
    void *arg;
    char after[QUEUE_STATE_KEY_MAX];
};

struct learned {
    struct learned_env env;
    struct learn *table;
    struct map pending; /* by key */
    struct deferred flush;
    struct write *writes;
    struct load *load; /* under way */
    struct timer sweep_timer;
    bool stopping;
    struct metric_family *routes, *changes, *exceeded;
};

static msec_t
now_of(const struct learned *l)
{
    return clock_wall(loop_clock(l->env.loop));
}

/* ---- writing ---- */

static void write_start(struct learned *l);

static void
write_done(struct store_op *op)
{
    struct write *w = CONTAINER_OF(op, struct write, op);
    struct learned *l = w->learned;
    bool keep = l != NULL && op->code != ERR_OK && !l->stopping;

    if (l != NULL) {
        *w->prev = w->next;
        if (w->next != NULL)
            w->next->prev = w->prev;
        if (op->code != ERR_OK)
            log_text(l->env.log, LOG_ERROR, "learned_write", "%zu learned routes not stored: %s",
                     w->n, op->err.text);
    }
    for (size_t i = 0; i < w->n; i++) {
        if (keep && map_get(&l->pending, w->facts[i].key) == NULL)
            map_put(&l->pending, w->facts[i].key, w->rows[i]);
        else
            free(w->rows[i]);
    }
    /* After a failure the next change tries again. */
    if (l != NULL && op->code == ERR_OK && !l->stopping && l->pending.n > 0)
        write_start(l);
    free(w->facts);
    free(w);
}

/* One operation with what is pending, or as much of it as one may hold. */
static void
write_start(struct learned *l)
{
    size_t n = l->pending.n < LEARNED_WRITE_ROWS ? l->pending.n : LEARNED_WRITE_ROWS, pos = 0;
    struct write *w = xcalloc(1, sizeof(*w) + n * sizeof(w->rows[0]));
    void *value;

    w->facts = xcalloc(n, sizeof(w->facts[0]));
    while (w->n < n && map_next(&l->pending, &pos, NULL, &value)) {
        struct pending *row = w->rows[w->n] = value;
        w->facts[w->n++] = (struct store_fact){
            .key = span_of(row->bytes, row->key_bytes),
            .value = span_of(row->bytes + row->key_bytes, row->value_bytes),
            .remove = row->remove,
        };
    }
    for (size_t i = 0; i < n; i++)
        map_remove(&l->pending, w->facts[i].key);
    w->learned = l;
    w->next = l->writes;
    w->prev = &l->writes;
    if (w->next != NULL)
        w->next->prev = &w->next;
    l->writes = w;
    w->op.kind = STORE_OUTCOMES;
    w->op.done = write_done;
    w->op.outcomes.facts = w->facts;
    w->op.outcomes.n_facts = n;
    store_submit(l->env.store, &w->op);
}

static void
on_flush(struct deferred *flush)
{
    struct learned *l = CONTAINER_OF(flush, struct learned, flush);
    if (l->writes == NULL && l->pending.n > 0)
        write_start(l);
}

static void
put_pending(struct learned *l, const struct learn_entry *e, bool remove)
{
    CLEANUP(strbuf_release) struct strbuf value = STRBUF_INIT;
    char key[LEARN_ROW_KEY_MAX];
    size_t n = learn_row_key(e, key);

    if (l->stopping)
        return; /* the store takes no more */
    if (!remove)
        learn_row_value(e, &value);
    struct pending *row = xcalloc(1, sizeof(*row) + n + value.n);
    *row = (struct pending){.remove = remove, .key_bytes = n, .value_bytes = value.n};
    memcpy(row->bytes, key, n);
    if (value.n > 0)
        memcpy(row->bytes + n, value.p, value.n);
    free(map_put(&l->pending, span_of(row->bytes, n), row));
    loop_defer(l->env.loop, &l->flush, on_flush);
}

/* ---- telling ---- */

static void
count(struct learned *l, const struct learn_entry *e, enum learn_change change)
{
    const struct span route = e->route;
    const struct span labels[] = {span_str(learn_change_name(change)), route};

    metric_inc(metric_with_spans(l->changes, labels, N_ELEMENTS(labels)));
    int by = change == LEARN_LEARNED ? 1 : learn_change_removes(change) ? -1 : 0;
    struct metric *gauge = metric_with_spans(l->routes, &route, 1);
    metric_set(gauge, metric_value(gauge) + by);
}

static void
tell(struct learned *l, const struct learn_entry *e, enum learn_change change)
{
    static const struct {
        enum log_level level;
        const char *reason;
    } how[LEARN_CHANGE__COUNT] = {
        [LEARN_LEARNED] = {LOG_WARNING, NULL},    [LEARN_RENEWED] = {LOG_WARNING, NULL},
        [LEARN_PROBED] = {LOG_INFO, NULL},        [LEARN_GOOD] = {LOG_INFO, NULL},
        [LEARN_FORGOTTEN] = {LOG_INFO, "probes"}, [LEARN_REMOVED] = {LOG_INFO, "administrator"},
        [LEARN_SWEPT] = {LOG_INFO, "unused"},     [LEARN_EVICTED] = {LOG_WARNING, "full"},
        [LEARN_PULLED_IN] = {LOG_INFO, NULL},
    };
    char enh[16];
    struct log_line line;

    log_begin(l->env.log, &line, how[change].level,
              learn_change_removes(change) ? "forgotten" : learn_change_name(change));
    log_cstr(&line, "reason", how[change].reason);
    log_cstr(&line, "scope", learn_scope_name(e->scope));
    log_str(&line, "name", e->label);
    log_str(&line, "route", e->route);
    log_cstr(&line, "to", e->to);
    log_cstr(&line, "class", e->klass);
    log_int(&line, "code", e->code);
    log_cstr(&line, "enh", enh_format(e->enh, enh));
    log_at(&line, "until", e->until_at);
    log_ms(&line, "ttl", e->ttl_ms);
    log_uint(&line, "good", e->good);
    log_cstr(&line, "text", e->text);
    log_end(&line);
}

static void
on_changed(void *arg, enum learn_change change, const struct learn_entry *e)
{
    struct learned *l = arg;

    if (l->load == NULL) /* what is loaded is counted when all of it is there */
        count(l, e, change);
    tell(l, e, change);
    if (change != LEARN_PROBED)
        put_pending(l, e, learn_change_removes(change));
}

/* ---- life ---- */

struct learned *
learned_new(const struct learned_env *env)
{
    struct learned *l = xcalloc(1, sizeof(*l));
    struct map_seed seed;

    arc4random_buf(&seed, sizeof(seed));
    l->env = *env;
    l->env.config = NULL;
    l->table = learn_new(seed, env->config, on_changed, l);
    map_init(&l->pending, seed);
    l->routes = metrics_family(env->metrics, METRIC_GAUGE, "relayd_learned_routes",
                               "Destinations that avoid a route because it was refused there.",
                               "route", NULL);
    l->changes = metrics_family(env->metrics, METRIC_COUNTER, "relayd_learned_total",
                                "Changes of learned routes.", "change", "route", NULL);
    l->exceeded = metrics_family(env->metrics, METRIC_COUNTER, "relayd_reroutes_exceeded_total",
                                 "Refused recipients that learning.max_reroutes kept from going by "
                                 "the next route.",
                                 "from", "to", NULL);
    return l;
}

void
learned_free(struct learned *l)
{
    size_t pos = 0;
    void *value;

    if (l == NULL)
        return;
    for (struct write *w = l->writes; w != NULL; w = w->next)
        w->learned = NULL;
    if (l->load != NULL)
        l->load->learned = NULL;
    timer_cancel(loop_clock(l->env.loop), &l->sweep_timer);
    loop_defer_cancel(&l->flush);
    while (map_next(&l->pending, &pos, NULL, &value))
        free(value);
    map_release(&l->pending);
    learn_free(l->table);
    free(l);
}

void
learned_set_config(struct learned *l, const struct config_learning *config)
{
    learn_set_config(l->table, config);
}

void
learned_stop(struct learned *l)
{
    if (l == NULL)
        return;
    l->stopping = true;
    timer_cancel(loop_clock(l->env.loop), &l->sweep_timer);
    loop_defer_cancel(&l->flush);
    while (l->pending.n > 0)
        write_start(l); /* behind the one under way */
}

static void
on_sweep(void *arg)
{
    struct learned *l = arg;
    bool more = learn_sweep(l->table, now_of(l), LEARNED_SWEEP_ROWS) == LEARNED_SWEEP_ROWS;
    if (l->pending.n > 0)
        loop_defer(l->env.loop, &l->flush, on_flush);
    timer_set(loop_clock(l->env.loop), &l->sweep_timer, more ? SECOND : LEARNED_SWEEP_MS, on_sweep,
              l);
}

/* ---- loading ---- */

static void
count_loaded(void *arg, const struct learn_entry *e)
{
    struct learned *l = arg;
    struct metric *gauge = metric_with_spans(l->routes, &e->route, 1);
    metric_set(gauge, metric_value(gauge) + 1);
}

static void
load_over(struct load *load)
{
    struct learned *l = load->learned;

    l->load = NULL;
    learn_each(l->table, count_loaded, l);
    timer_set(loop_clock(l->env.loop), &l->sweep_timer, LEARNED_SWEEP_MS, on_sweep, l);
    load->then(load->arg);
    free(load);
}

static void load_page(struct load *load, struct span after);

static void
load_done(struct store_read *read)
{
    struct load *load = CONTAINER_OF(read, struct load, read);
    struct queue_facts *facts = &read->state.facts;
    struct learned *l = load->learned;

    if (read->code != ERR_OK) {
        if (l != NULL)
            log_alert(l->env.log, "queue_damaged", "the learned routes cannot be read: %s",
                      read->err.text);
    } else {
        for (size_t i = 0; l != NULL && i < facts->n_rows; i++) {
            struct err err;
            struct span key = facts->rows[i].key;
            if (learn_load(l->table, key, facts->rows[i].value, now_of(l), &err) != ERR_OK)
                log_text(l->env.log, LOG_ERROR, "learned_row", "%.*s: %s", SPAN_ARG(key), err.text);
        }
        struct queue_facts page = *facts;
        if (l != NULL && page.more && page.n_rows > 0) {
            load_page(load, page.rows[page.n_rows - 1].key);
            queue_facts_release(&page);
            return;
        }
        queue_facts_release(&page);
    }
    if (l != NULL)
        load_over(load);
    else
        free(load);
}

static void
load_page(struct load *load, struct span after)
{
    assert(after.n <= sizeof(load->after));
    if (after.n > 0)
        memcpy(load->after, after.p, after.n);
    load->read = (struct store_read){
        .kind = STORE_READ_STATE,
        .done = load_done,
        .state = {.prefix = SPAN(LEARN_ROW_SPACE),
                  .after = span_of(load->after, after.n),
                  .max = LOAD_ROWS},
    };
    store_read(load->learned->env.store, &load->read);
}

void
learned_load(struct learned *l, void (*then)(void *arg), void *arg)
{
    assert(l->load == NULL);
    l->load = xcalloc(1, sizeof(*l->load));
    l->load->learned = l;
    l->load->then = then;
    l->load->arg = arg;
    load_page(l->load, SPAN_NONE);
}

/* ---- asking and results ---- */

enum learn_advice
learned_advise(struct learned *l, const struct learn_way *way, const struct learn_entry **ret_why)
{
    if (l != NULL)
        return learn_advise(l->table, way, now_of(l), ret_why);
    if (ret_why != NULL)
        *ret_why = NULL;
    return LEARN_FREE;
}

bool
learned_probe(struct learned *l, const struct learn_way *way)
{
    return l != NULL && learn_probe(l->table, way, now_of(l));
}

void
learned_refused(struct learned *l, const struct learn_way *way, const struct learn_reply *reply)
{
    if (l != NULL)
        learn_refused(l->table, way, reply, now_of(l));
}

void
learned_path_failed(struct learned *l, const struct learn_way *way, const struct learn_reply *reply)
{
    if (l != NULL)
        learn_path_failed(l->table, way, reply, now_of(l));
}

void
learned_delivered(struct learned *l, const struct learn_way *way)
{
    if (l != NULL)
        learn_delivered(l->table, way, now_of(l));
}

void
learned_no_verdict(struct learned *l, const struct learn_way *way)
{
    if (l != NULL)
        learn_no_verdict(l->table, way);
}

bool
learned_may_reroute(struct learned *l, struct span from, struct span to)
{
    bool alert;
    const struct span labels[] = {from, to};

    if (l == NULL || learn_may_reroute(l->table, from, to, now_of(l), &alert))
        return true;
    metric_inc(metric_with_spans(l->exceeded, labels, N_ELEMENTS(labels)));
    if (alert)
        log_alert(l->env.log, "reroutes_exceeded",
                  "learning.max_reroutes: so many recipients were refused by %.*s and sent by %.*s "
                  "that more are deferred",
                  SPAN_ARG(from), SPAN_ARG(to));
    return false;
}

/* ---- for people ---- */

size_t
learned_count(const struct learned *l)
{
    return l == NULL ? 0 : learn_count(l->table);
}

void
learned_each(const struct learned *l, void (*each)(void *arg, const struct learn_entry *e),
             void *arg)
{
    if (l != NULL)
        learn_each(l->table, each, arg);
}

size_t
learned_forget(struct learned *l, struct span name)
{
    return l == NULL ? 0 : learn_forget(l->table, name);
}
