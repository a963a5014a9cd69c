/*
 * `queue list`, `queue show`, `queue body`: looking.
 */
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/verbs.h"
#include "relayd/ops/api.h"
#include "relayd/ops/http.h"

#define LIST_LIMIT_MAX 100000000L

/* ---- filters, for the list and for the verbs that act (queue_act.c) ---- */

static const char *const states[] = {API_STATE_SCHEDULED, API_STATE_IN_HAND, API_STATE_HELD};

void
ctl_filter_get(struct ctl *ctl, struct ctl_filter *ret)
{
    struct err err;
    msec_t older_ms;
    const char *domain = ctl_option(ctl, "--domain");
    *ret = (struct ctl_filter){.state = ctl_option(ctl, "--state"),
                               .sender = ctl_option(ctl, "--sender")};
    if (domain != NULL) {
        if (domain_normalise(span_str(domain), ret->domain, &err) != ERR_OK)
            ctl_usage(ctl, "--domain: %s", err.text);
        ret->any = true;
    }
    if (ctl_option_duration(ctl, "--older", &older_ms)) {
        snprintf(ret->older_ms, sizeof(ret->older_ms), "%lld", (long long)older_ms);
        ret->any = true;
    }
    if (ret->state != NULL) {
        size_t i = 0;
        while (i < N_ELEMENTS(states) && strcmp(states[i], ret->state) != 0)
            i++;
        if (i == N_ELEMENTS(states))
            ctl_usage(ctl, "--state: expected scheduled, in_hand or held");
    }
    ret->any = ret->any || ret->state != NULL || ret->sender != NULL;
}

/* ---- list ---- */

struct list {
    struct ctl *ctl;
    struct ctl_table table;
    long left; /* until --limit */
    bool any;  /* something was printed */
};

static enum ctl_color
state_color(const char *state)
{
    return strcmp(state, API_STATE_HELD) == 0      ? CTL_WARN
           : strcmp(state, API_STATE_IN_HAND) == 0 ? CTL_GOOD
                                                   : CTL_PLAIN;
}

static void
print_item_json(struct list *list, const cJSON *item)
{
    CLEANUP(freep) char *text = cJSON_PrintUnformatted(item);
    if (text != NULL)
        printf("%s%s", list->any ? ",\n" : "[\n", text);
}

static void
add_item(struct ctl_table *table, const cJSON *item)
{
    char buf[CTL_TIME_BYTES];
    const char *state = api_str(item, "state", "?");
    const char *sender = api_str(item, "sender", "");
    ctl_table_add(table, api_str(item, "id", NULL));
    ctl_table_add_color(table, state_color(state), state);
    ctl_table_add(table, ctl_when(api_str(item, "due_at", NULL), buf));
    ctl_table_printf(table, "%.0f", api_num(item, "attempts", 0));
    ctl_table_add(table, api_str(item, "route", NULL));
    ctl_table_add(table, sender[0] == '\0' ? "<>" : sender);
    ctl_table_add(table, api_str(item, "rcpt", NULL));
    ctl_table_add(table, api_str(item, "last_reply", api_str(item, "reason", NULL)));
}

static void
take_items(struct list *list, const cJSON *items)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, items)
    {
        if (list->left-- <= 0)
            return;
        if (list->ctl->json)
            print_item_json(list, item);
        else
            add_item(&list->table, item);
        list->any = true;
    }
}

static void
list_path(const struct ctl_filter *filter, long want, const char *after, struct strbuf *path)
{
    char limit[16];
    snprintf(limit, sizeof(limit), "%ld", want < API_LIST_MAX ? want : (long)API_LIST_MAX);
    strbuf_reset(path);
    strbuf_add_str(path, API_QUEUE);
    ctl_query_add(path, API_F_LIMIT, limit);
    ctl_query_add(path, API_F_DOMAIN, filter->domain[0] == '\0' ? NULL : filter->domain);
    ctl_query_add(path, API_F_STATE, filter->state);
    ctl_query_add(path, API_F_SENDER, filter->sender);
    ctl_query_add(path, API_F_OLDER_MS, filter->older_ms[0] == '\0' ? NULL : filter->older_ms);
    ctl_query_add(path, API_F_AFTER, after);
}

static int
list_run(struct ctl *ctl)
{
    static const char *const titles[] = {"id",    "state",  "due",  ">tries",
                                         "route", "sender", "rcpt", "last reply"};
    CLEANUP(strbuf_release) struct strbuf path = STRBUF_INIT;
    CLEANUP(freep) char *after = NULL;
    struct ctl_filter filter;
    struct list list = {.ctl = ctl};
    int code = 0;
    ctl_filter_get(ctl, &filter);
    list.left = ctl_option_number(ctl, "--limit", 1, LIST_LIMIT_MAX, API_LIST_DEFAULT);
    ctl_table_init(&list.table, titles, N_ELEMENTS(titles));
    do {
        cJSON *page;
        list_path(&filter, list.left, after, &path);
        code = ctl_call(ctl, "GET", path.p, NULL, &page);
        if (code != 0)
            break;
        take_items(&list, cJSON_GetObjectItemCaseSensitive(page, "items"));
        free(after);
        const char *next = api_str(page, "next", NULL);
        after = next == NULL ? NULL : xstrdup(next);
        cJSON_Delete(page);
    } while (after != NULL && list.left > 0);
    if (!ctl->json)
        ctl_table_print(ctl, &list.table);
    else if (code == 0)
        puts(list.any ? "\n]" : "[]");
    if (code == 0 && after != NULL && !ctl->json)
        fprintf(stderr, "there are more; see --limit\n");
    int finished = ctl_finish();
    return code != 0 ? code : finished;
}

/* ---- show ---- */

static void
print_refusals(const struct ctl *ctl, const cJSON *refusals)
{
    const cJSON *refusal;
    char buf[CTL_TIME_BYTES];
    cJSON_ArrayForEach(refusal, refusals)
    {
        printf("    %s by ", ctl_when(api_str(refusal, "at", NULL), buf));
        ctl_print_text(ctl, CTL_PLAIN, api_str(refusal, "route", "-"));
        printf(" at ");
        ctl_print_text(ctl, CTL_PLAIN, api_str(refusal, "phase", "-"));
        printf(": ");
        double reply = api_num(refusal, "code", 0);
        if (reply > 0)
            printf("%.0f ", reply);
        const char *enh = api_str(refusal, "enh", "");
        ctl_print_text(ctl, CTL_PLAIN, enh);
        printf("%s", enh[0] == '\0' ? "" : " ");
        ctl_print_text(ctl, CTL_PLAIN, api_str(refusal, "text", ""));
        putchar('\n');
    }
}

static void
print_recipient(const struct ctl *ctl, const cJSON *rcpt)
{
    char buf[CTL_TIME_BYTES];
    const char *state = api_str(rcpt, "state", "?");
    printf("\n  ");
    ctl_print_text(ctl, CTL_BOLD, api_str(rcpt, "rcpt", "?"));
    printf("  ");
    ctl_print_text(ctl, state_color(state), state);
    printf(", due %s", ctl_when(api_str(rcpt, "due_at", NULL), buf));
    printf(", %.0f attempts, last by ", api_num(rcpt, "attempts", 0));
    ctl_print_text(ctl, CTL_PLAIN, api_str(rcpt, "route", "-"));
    putchar('\n');
    const char *reason = api_str(rcpt, "reason", NULL), *reply = api_str(rcpt, "last_reply", NULL);
    const cJSON *refusals = cJSON_GetObjectItemCaseSensitive(rcpt, "refusals");
    if (reason != NULL) {
        printf("    held: ");
        ctl_print_text(ctl, CTL_PLAIN, reason);
        putchar('\n');
    }
    if (cJSON_GetArraySize(refusals) > 0) {
        print_refusals(ctl, refusals);
    } else if (reply != NULL) {
        printf("    ");
        ctl_print_text(ctl, CTL_PLAIN, reply);
        putchar('\n');
    }
}

static void
print_message(const struct ctl *ctl, const cJSON *message)
{
    char buf[CTL_TIME_BYTES];
    const char *sender = api_str(message, "sender", "");
    const cJSON *signature, *rcpt;
    ctl_print_field(ctl, "id", api_str(message, "id", ""));
    ctl_print_field(ctl, "sender", sender[0] == '\0' ? "<>" : sender);
    ctl_print_field(ctl, "arrived", ctl_when(api_str(message, "arrived_at", NULL), buf));
    ctl_print_field(ctl, "size", ctl_size(api_num(message, "size", 0), buf));
    ctl_print_field(ctl, "client", api_str(message, "client", ""));
    ctl_print_field(ctl, "envid", api_str(message, "envid", ""));
    ctl_print_field(ctl, "notice", api_bool(message, "notice") ? "one of our own" : "");
    cJSON_ArrayForEach(signature, cJSON_GetObjectItemCaseSensitive(message, "signatures"))
        ctl_print_field(ctl, "dkim", cJSON_GetStringValue(signature));
    cJSON_ArrayForEach(rcpt, cJSON_GetObjectItemCaseSensitive(message, "recipients"))
        print_recipient(ctl, rcpt);
}

/* Asks for base/ID and prints the answer with `print`, or as JSON. Shared with `trace`. */
int
ctl_show(struct ctl *ctl, const char *base, const char *id,
         void (*print)(const struct ctl *ctl, const cJSON *json))
{
    CLEANUP(strbuf_release) struct strbuf path = STRBUF_INIT;
    cJSON *json;
    strbuf_printf(&path, "%s/", base);
    http_escape(&path, span_str(id));
    int code = ctl_call(ctl, "GET", path.p, NULL, &json);
    if (code != 0)
        return code;
    if (ctl->json) {
        code = ctl_print_json(json);
    } else {
        print(ctl, json);
        code = ctl_finish();
    }
    cJSON_Delete(json);
    return code;
}

static int
show_run(struct ctl *ctl)
{
    return ctl_show(ctl, API_QUEUE, ctl->args[0], print_message);
}

static int
body_run(struct ctl *ctl)
{
    CLEANUP(strbuf_release) struct strbuf path = STRBUF_INIT;
    strbuf_add_str(&path, API_QUEUE "/");
    http_escape(&path, span_str(ctl->args[0]));
    strbuf_add_str(&path, "/body");
    return ctl_copy(ctl, path.p);
}

static const struct ctl_option list_options[] = {
    CTL_FILTER_OPTIONS,
    {"--limit", "N", "at most so many recipients (default 100)"},
    {0},
};

const struct ctl_verb ctl_queue_verbs[] = {
    {"queue list", "", 0, 0, "recipients that wait",
     "In the order in which they were accepted. With --json an array, one object a line:\n"
     "id rcpt sender state route due_at attempts last_reply and more.",
     list_options, list_run},
    {"queue show", "ID", 1, 1, "a message with all its recipients and what was said of them", NULL,
     NULL, show_run},
    {"queue body", "ID", 1, 1, "a message as it would be sent", NULL, NULL, body_run},
    {0},
};
