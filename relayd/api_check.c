/*
 * api_check - `check --diff`: which waiting mail would change its route under another file.
 *
 *    load the file (worker) ─▶ list page ─▶ decide by both maps ─▶ list page ─▶ ... ─▶ answer
 *
 * The answer comes within a second whatever the queue holds: what was not looked at by then is left
 * out, and the answer says so.
 */
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/map.h"
#include "policy/base/mem.h"
#include "policy/config_node.h"
#include "policy/route.h"
#include "relayd/api_internal.h"
#include "relayd/message.h"

#define PAGE_ROWS 500
#define CHECK_MS 800      /* of looking at the queue */
#define CHANGES_MAX 1000u /* lines of the answer */
#define WAY_BYTES 400

struct change {
    char *key; /* domain, from and to, one behind the other */
    const char *domain, *from, *to;
    uint64_t n;
    struct change *next; /* in the order of their first recipient */
};

struct check {
    struct job job;
    struct store_read read;
    struct api *api;
    struct control_call *call;
    char *file;
    struct settings *now, *then; /* `then` NULL: the file is bad */
    struct config_problems problems;
    msec_t until; /* monotonic */
    uint64_t checked;
    bool complete;
    struct map changes;
    struct change *first, **tail;
};

static void
check_free(struct check *c)
{
    while (c->first != NULL) {
        struct change *change = c->first;
        c->first = change->next;
        free(change->key);
        free(change);
    }
    map_release(&c->changes);
    config_problems_release(&c->problems);
    settings_free(c->then);
    daemon_settings_give(c->api->d, c->now);
    free(c->file);
    free(c);
}

static cJSON *
problem_list(const struct check *c)
{
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < c->problems.n; i++) {
        CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
        config_problem_format(&c->problems.items[i], &text);
        cJSON_AddItemToArray(list, cJSON_CreateString(text.p));
    }
    return list;
}

static void
answer_bad(struct check *c)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *error = cJSON_AddObjectToObject(json, "error");
    cJSON_AddStringToObject(error, "code", "inval");
    cJSON_AddStringToObject(error, "text", "the file has errors");
    cJSON_AddItemToObject(json, "problems", problem_list(c));
    control_json(c->call, 400, json);
    check_free(c);
}

static void
answer(struct check *c)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddItemToObject(json, "warnings", problem_list(c));
    cJSON_AddNumberToObject(json, "checked", (double)c->checked);
    cJSON_AddBoolToObject(json, "complete", c->complete);
    cJSON *list = cJSON_AddArrayToObject(json, "changes");
    for (const struct change *change = c->first; change != NULL; change = change->next) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddStringToObject(row, "domain", change->domain);
        cJSON_AddNumberToObject(row, "recipients", (double)change->n);
        cJSON_AddStringToObject(row, "from", change->from);
        cJSON_AddStringToObject(row, "to", change->to);
        cJSON_AddItemToArray(list, row);
    }
    control_json(c->call, 200, json);
    check_free(c);
}

/* The way of a recipient in words: "direct", "direct, then us", "reject: 550 5.1.2 moved". */
static const char *
way(const struct config *config, const struct route_query *query, char buf[static WAY_BYTES])
{
    struct route_decision d;
    int n = 0;

    route_decide(config, query, &d);
    if (d.action != ROUTE_DELIVER) {
        snprintf(buf, WAY_BYTES, "%s%s%.*s", route_action_name(d.action), d.text.n > 0 ? ": " : "",
                 SPAN_ARG(d.text));
        return buf;
    }
    for (size_t i = 0; i < d.n_routes && n < WAY_BYTES; i++)
        n += snprintf(buf + n, WAY_BYTES - (size_t)n, "%s%s", i == 0 ? "" : ", then ",
                      config->routes[d.routes[i]].name);
    return buf;
}

static void
add_change(struct check *c, struct span domain, const char *from, const char *to)
{
    size_t n_from = strlen(from), n_to = strlen(to);
    char *key = xmalloc(domain.n + n_from + n_to + 3);
    memcpy(key, domain.p, domain.n);
    key[domain.n] = '\0';
    memcpy(key + domain.n + 1, from, n_from + 1);
    memcpy(key + domain.n + n_from + 2, to, n_to + 1);
    struct span span = span_of(key, domain.n + n_from + n_to + 2);
    struct change *change = map_get(&c->changes, span);

    if (change != NULL || c->changes.n >= CHANGES_MAX) {
        free(key);
        if (change != NULL)
            change->n++;
        else
            c->complete = false;
        return;
    }
    change = xcalloc(1, sizeof(*change));
    *change = (struct change){.key = key,
                              .domain = key,
                              .from = key + domain.n + 1,
                              .to = key + domain.n + n_from + 2,
                              .n = 1};
    map_put(&c->changes, span, change);
    *c->tail = change;
    c->tail = &change->next;
}

static void
check_row(struct check *c, const struct queue_row *row)
{
    char from[WAY_BYTES], to[WAY_BYTES];
    CLEANUP(freep) char *sender_domain = msg_sender_domain(row->sender);
    const char *at = memrchr(row->rcpt.address.p, '@', row->rcpt.address.n);
    const struct route_query query = {
        .sender = row->sender,
        .sender_domain = span_str(sender_domain),
        .rcpt_local = at == NULL ? row->rcpt.address
                                 : span_of(row->rcpt.address.p, (size_t)(at - row->rcpt.address.p)),
        .domain = row->rcpt.domain,
    };

    c->checked++;
    way(c->now->config, &query, from);
    way(c->then->config, &query, to);
    if (strcmp(from, to) != 0)
        add_change(c, row->rcpt.domain, from, to);
}

static void
page_done(struct store_read *read)
{
    struct check *c = CONTAINER_OF(read, struct check, read);
    struct daemon *d = c->api->d;

    if (read->code != ERR_OK) {
        control_error(c->call, read->code, "%s", read->err.text);
        check_free(c);
        return;
    }
    struct queue_page *page = &read->list.page;
    for (size_t i = 0; i < page->n_rows; i++)
        check_row(c, &page->rows[i]);
    bool more = page->more;
    queue_page_release(page);
    if (more && d->phase == DAEMON_RUNNING && clock_now(loop_clock(d->loop)) < c->until) {
        store_read(d->store, read);
        return;
    }
    c->complete &= !more;
    answer(c);
}

static void
load_run(struct job *job, struct worker *worker)
{
    struct check *c = CONTAINER_OF(job, struct check, job);
    (void)worker;
    if (settings_load(c->file, &c->then, &c->problems) != ERR_OK)
        c->then = NULL;
}

static void
load_done(struct job *job)
{
    struct check *c = CONTAINER_OF(job, struct check, job);
    struct daemon *d = c->api->d;

    if (job->dropped) {
        control_error(c->call, ERR_AGAIN, "the daemon is stopping");
        check_free(c);
        return;
    }
    if (c->then == NULL) {
        answer_bad(c);
        return;
    }
    c->until = clock_now(loop_clock(d->loop)) + CHECK_MS;
    c->read = (struct store_read){.kind = STORE_READ_LIST, .done = page_done};
    c->read.list.max = PAGE_ROWS;
    store_read(d->store, &c->read);
}

static void
check_post(struct control_call *call, void *arg)
{
    struct api *api = arg;
    const char *file = control_body_str(call, "file");
    struct map_seed seed;

    if (file == NULL || file[0] != '/') {
        control_error(call, ERR_INVAL, "file: expected an absolute path");
        return;
    }
    struct check *c = xcalloc(1, sizeof(*c));
    c->api = api;
    c->call = call;
    c->file = xstrdup(file);
    c->now = daemon_settings_take(api->d);
    c->complete = true;
    c->tail = &c->first;
    arc4random_buf(&seed, sizeof(seed));
    map_init(&c->changes, seed);
    c->job.run = load_run;
    c->job.done = load_done;
    workers_submit(api->d->workers, &c->job);
}

const struct control_route api_check_routes[] = {
    {"POST", API_CHECK, check_post, false},
};
const size_t api_n_check_routes = N_ELEMENTS(api_check_routes);
