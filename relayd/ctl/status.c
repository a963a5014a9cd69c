/*
 * `status`: one screen.
 */
#include <stdio.h>

#include "policy/base/mem.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/verbs.h"
#include "relayd/ops/api.h"

static enum ctl_color
state_color(const char *state)
{
    if (strcmp(state, "running") == 0 || strcmp(state, "ok") == 0)
        return CTL_GOOD;
    if (strcmp(state, "down") == 0 || strcmp(state, "failed") == 0)
        return CTL_BAD;
    return CTL_WARN;
}

static const cJSON *
member(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

static void
print_head(const struct ctl *ctl, const cJSON *status)
{
    char buf[CTL_TIME_BYTES];
    const char *state = api_str(status, "state", "unknown");
    ctl_print_text(ctl, CTL_BOLD, api_str(status, "node", "relayd"));
    printf("  ");
    ctl_print_text(ctl, state_color(state), state);
    printf(" for %s, relayd ", ctl_duration((msec_t)api_num(status, "uptime_ms", 0), buf));
    ctl_print_text(ctl, CTL_PLAIN, api_str(status, "version", "?"));
    printf(", pid %.0f\n", api_num(status, "pid", 0));
    ctl_print_field(ctl, "hostname", api_str(status, "hostname", ""));
    ctl_print_field(ctl, "region", api_str(status, "region", ""));
    const cJSON *config = member(status, "config");
    printf("%-12s ", "config");
    ctl_print_text(ctl, CTL_PLAIN, api_str(config, "file", "-"));
    printf(", loaded %s\n", ctl_when(api_str(config, "loaded_at", NULL), buf));
    const cJSON *certificate = member(status, "certificate");
    const char *expires = api_str(certificate, "expires_at", NULL);
    if (expires != NULL)
        printf("%-12s runs out %s\n", "certificate", ctl_when(expires, buf));
}

static void
print_queue(const cJSON *status)
{
    char used[CTL_TIME_BYTES], max[CTL_TIME_BYTES], buf[CTL_TIME_BYTES];
    const cJSON *queue = member(status, "queue"), *sessions = member(status, "sessions");
    printf("%-12s %.0f messages, %.0f recipients (%.0f new, %.0f scheduled, %.0f in hand, %.0f "
           "held)\n",
           "queue", api_num(queue, "messages", 0), api_num(queue, "recipients", 0),
           api_num(queue, "fresh", 0), api_num(queue, "scheduled", 0), api_num(queue, "in_hand", 0),
           api_num(queue, "held", 0));
    printf("%-12s %s of %s, oldest message %s\n", "", ctl_size(api_num(queue, "bytes", 0), used),
           ctl_size(api_num(queue, "max_bytes", 0), max),
           ctl_when(api_str(queue, "oldest_at", NULL), buf));
    printf("%-12s %.0f in, %.0f out\n", "sessions", api_num(sessions, "in", 0),
           api_num(sessions, "out", 0));
}

static void
print_rates(const struct ctl *ctl, const cJSON *rates)
{
    static const char *const titles[] = {"rates", ">last minute", ">last hour"};
    static const char *const names[] = {"accepted", "delivered", "deferred", "failed"};
    struct ctl_table table;
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    for (size_t i = 0; i < N_ELEMENTS(names); i++) {
        const cJSON *rate = member(rates, names[i]);
        ctl_table_add(&table, names[i]);
        ctl_table_printf(&table, "%.0f", api_num(rate, "minute", 0));
        ctl_table_printf(&table, "%.0f", api_num(rate, "hour", 0));
    }
    putchar('\n');
    ctl_table_print(ctl, &table);
}

/* Shared with `routes`: name, kind, state, connections, waiting, and what is wrong. */
void
ctl_print_routes(const struct ctl *ctl, const cJSON *routes)
{
    static const char *const titles[] = {"route",    "kind",     "state", ">connections",
                                         ">waiting", "next try", "detail"};
    struct ctl_table table;
    char buf[CTL_TIME_BYTES];
    const cJSON *route;
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    cJSON_ArrayForEach(route, routes)
    {
        const char *state = api_str(route, "state", "?");
        ctl_table_add(&table, api_str(route, "name", NULL));
        ctl_table_add(&table, api_str(route, "kind", NULL));
        ctl_table_add_color(&table, state_color(state), state);
        ctl_table_printf(&table, "%.0f", api_num(route, "connections", 0));
        ctl_table_printf(&table, "%.0f", api_num(route, "waiting", 0));
        ctl_table_add(&table, ctl_when(api_str(route, "next_at", NULL), buf));
        ctl_table_add(&table, api_str(route, "detail", api_str(route, "address", NULL)));
    }
    ctl_table_print(ctl, &table);
}

static void
print_sites(const struct ctl *ctl, const cJSON *sites)
{
    static const char *const titles[] = {"sites in trouble", "route",    "state",
                                         ">waiting",         "next try", "last reply"};
    struct ctl_table table;
    char buf[CTL_TIME_BYTES];
    const cJSON *site;
    if (cJSON_GetArraySize(sites) == 0)
        return;
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    cJSON_ArrayForEach(site, sites)
    {
        const char *state = api_str(site, "state", "?");
        ctl_table_add(&table, api_str(site, "site", NULL));
        ctl_table_add(&table, api_str(site, "route", NULL));
        ctl_table_add_color(&table, state_color(state), state);
        ctl_table_printf(&table, "%.0f", api_num(site, "waiting", 0));
        ctl_table_add(&table, ctl_when(api_str(site, "next_at", NULL), buf));
        ctl_table_add(&table, api_str(site, "last_reply", NULL));
    }
    putchar('\n');
    ctl_table_print(ctl, &table);
}

static void
print_suspended(const struct ctl *ctl, const cJSON *rows)
{
    static const char *const titles[] = {"suspended", "kind", "ends", "reason"};
    struct ctl_table table;
    char buf[CTL_TIME_BYTES];
    const cJSON *row;
    if (cJSON_GetArraySize(rows) == 0)
        return;
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    cJSON_ArrayForEach(row, rows)
    {
        ctl_table_add(&table, api_str(row, "target", NULL));
        ctl_table_add(&table, api_str(row, "kind", NULL));
        ctl_table_add(&table, ctl_when(api_str(row, "until", NULL), buf));
        ctl_table_add(&table, api_str(row, "reason", NULL));
    }
    putchar('\n');
    ctl_table_print(ctl, &table);
}

static void
print_alerts(const struct ctl *ctl, const cJSON *alerts)
{
    static const char *const titles[] = {"alerts", "kind", ">times", "text"};
    struct ctl_table table;
    char buf[CTL_TIME_BYTES];
    const cJSON *alert;
    if (cJSON_GetArraySize(alerts) == 0) {
        printf("\nno alerts\n");
        return;
    }
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    cJSON_ArrayForEach(alert, alerts)
    {
        ctl_table_add(&table, ctl_when(api_str(alert, "at", NULL), buf));
        ctl_table_add_color(&table, CTL_BAD, api_str(alert, "kind", NULL));
        ctl_table_printf(&table, "%.0f", api_num(alert, "count", 1));
        ctl_table_add(&table, api_str(alert, "text", NULL));
    }
    putchar('\n');
    ctl_table_print(ctl, &table);
}

static int
status_run(struct ctl *ctl)
{
    cJSON *status;
    int code = ctl_call(ctl, "GET", API_STATUS, NULL, &status);
    if (code != 0)
        return code;
    if (ctl->json) {
        code = ctl_print_json(status);
    } else {
        print_head(ctl, status);
        print_queue(status);
        print_rates(ctl, member(status, "rates"));
        putchar('\n');
        ctl_print_routes(ctl, member(status, "routes"));
        double learned = api_num(status, "learned", 0);
        if (learned > 0)
            printf("%.0f learned and pinned routes (relayctl routes learned)\n", learned);
        print_sites(ctl, member(status, "sites"));
        print_suspended(ctl, member(status, "suspended"));
        print_alerts(ctl, member(status, "alerts"));
        code = ctl_finish();
    }
    cJSON_Delete(status);
    return code;
}

const struct ctl_verb ctl_status_verbs[] = {
    {"status", "", 0, 0, "one screen: up, queue, rates, routes, sites in trouble, alerts", NULL,
     NULL, status_run},
    {0},
};
