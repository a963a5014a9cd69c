/*
 * `trace`: what happened to a message.
 */
#include <stdio.h>

#include "policy/base/mem.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/verbs.h"
#include "relayd/ops/api.h"

static enum ctl_color
outcome_color(const char *outcome)
{
    return strcmp(outcome, "delivered") == 0  ? CTL_GOOD
           : strcmp(outcome, "failed") == 0   ? CTL_BAD
           : strcmp(outcome, "deferred") == 0 ? CTL_WARN
                                              : CTL_PLAIN;
}

static void
print_recipients(const struct ctl *ctl, const cJSON *rows)
{
    static const char *const titles[] = {"recipient", "state", "finished"};
    struct ctl_table table;
    char buf[CTL_TIME_BYTES];
    const cJSON *row;
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    cJSON_ArrayForEach(row, rows)
    {
        const char *result = api_str(row, "result", api_str(row, "state", "?"));
        ctl_table_add(&table, api_str(row, "rcpt", NULL));
        ctl_table_add_color(&table, outcome_color(result), result);
        ctl_table_add(&table, ctl_when(api_str(row, "finished_at", NULL), buf));
    }
    ctl_table_print(ctl, &table);
}

/* "550 5.7.1 text" */
static void
add_reply(struct ctl_table *table, const cJSON *event)
{
    double code = api_num(event, "code", 0);
    const char *enh = api_str(event, "enh", ""), *text = api_str(event, "text", "");
    if (code > 0)
        ctl_table_printf(table, "%.0f %s%s%s", code, enh, enh[0] == '\0' ? "" : " ", text);
    else
        ctl_table_add(table, text);
}

static void
print_events(const struct ctl *ctl, const cJSON *events)
{
    static const char *const titles[] = {"time", "event", "recipient", "outcome", "route",
                                         "peer", "phase", "class",     "reply"};
    struct ctl_table table;
    const cJSON *event;
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    cJSON_ArrayForEach(event, events)
    {
        const char *outcome = api_str(event, "outcome", "");
        ctl_table_add(&table, api_str(event, "at", NULL));
        ctl_table_add(&table, api_str(event, "event", NULL));
        ctl_table_add(&table, api_str(event, "rcpt", NULL));
        ctl_table_add_color(&table, outcome_color(outcome), outcome);
        ctl_table_add(&table, api_str(event, "route", NULL));
        ctl_table_add(&table, api_str(event, "peer", NULL));
        ctl_table_add(&table, api_str(event, "phase", NULL));
        ctl_table_add(&table, api_str(event, "class", NULL));
        add_reply(&table, event);
    }
    ctl_table_print(ctl, &table);
}

static void
print_trace(const struct ctl *ctl, const cJSON *json)
{
    char buf[CTL_TIME_BYTES];
    const char *sender = api_str(json, "sender", NULL);
    ctl_print_field(ctl, "id", api_str(json, "id", ""));
    if (sender != NULL)
        ctl_print_field(ctl, "sender", sender[0] == '\0' ? "<>" : sender);
    ctl_print_field(ctl, "arrived", ctl_when(api_str(json, "arrived_at", NULL), buf));
    putchar('\n');
    print_recipients(ctl, cJSON_GetObjectItemCaseSensitive(json, "recipients"));
    putchar('\n');
    print_events(ctl, cJSON_GetObjectItemCaseSensitive(json, "events"));
}

static int
trace_run(struct ctl *ctl)
{
    return ctl_show(ctl, API_TRACE, ctl->args[0], print_trace);
}

const struct ctl_verb ctl_trace_verbs[] = {
    {"trace", "ID", 1, 1, "what happened to a message",
     "Also after it has left the queue, for as long as history is kept (3 d).", NULL, trace_run},
    {0},
};
