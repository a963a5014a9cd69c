/*
 * `explain`, `routes`, `suspend`, `resume`: where mail goes, and why.
 */
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/verbs.h"
#include "relayd/ops/api.h"

/* ---- explain ---- */

/* "a, b, c" of an array of strings. */
static void
print_list(const struct ctl *ctl, const char *name, const cJSON *list)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        if (cJSON_IsString(item))
            strbuf_printf(&text, "%s%s", text.n == 0 ? "" : ", ", item->valuestring);
    }
    ctl_print_field(ctl, name, text.p);
}

static void
print_limits(const cJSON *limits)
{
    if (!cJSON_IsObject(limits))
        return;
    printf("%-12s %.0f connections, %.0f messages each, %s\n", "limits",
           api_num(limits, "max_connections", 0), api_num(limits, "max_messages_per_connection", 0),
           api_str(limits, "max_rate", "none"));
}

static void
print_explanation(const struct ctl *ctl, const cJSON *json)
{
    static const char *const fields[][2] = {
        {"recipient", "rcpt"}, {"sender", "sender"},   {"action", "action"},
        {"rule", "rule"},      {"route", "route"},     {"site", "site"},
        {"tls", "tls"},        {"learned", "learned"}, {"suspended", "suspended"},
        {"srs", "srs"},        {"next", "next"},
    };
    static const char *const lists[][2] = {
        {"fallback", "fallback"}, {"fences", "fences"}, {"mx", "mx"}, {"dkim", "dkim"}};
    const cJSON *step;
    for (size_t i = 0; i < N_ELEMENTS(fields); i++)
        ctl_print_field(ctl, fields[i][0], api_str(json, fields[i][1], ""));
    for (size_t i = 0; i < N_ELEMENTS(lists); i++)
        print_list(ctl, lists[i][0], cJSON_GetObjectItemCaseSensitive(json, lists[i][1]));
    print_limits(cJSON_GetObjectItemCaseSensitive(json, "limits"));
    printf("\nsteps\n");
    cJSON_ArrayForEach(step, cJSON_GetObjectItemCaseSensitive(json, "steps"))
    {
        if (!cJSON_IsString(step))
            continue;
        printf("  ");
        ctl_print_text(ctl, CTL_PLAIN, step->valuestring);
        putchar('\n');
    }
}

/* One request; the answer is printed with `print`, or as JSON. */
static int
ask(struct ctl *ctl, const char *method, const char *path, cJSON *body,
    void (*print)(const struct ctl *ctl, const cJSON *json))
{
    cJSON *json;
    int code = ctl_call(ctl, method, path, body, &json);
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
explain_run(struct ctl *ctl)
{
    CLEANUP(strbuf_release) struct strbuf path = STRBUF_INIT;
    strbuf_add_str(&path, API_EXPLAIN);
    ctl_query_add(&path, "rcpt", ctl->args[0]);
    ctl_query_add(&path, "from", ctl_option(ctl, "--from"));
    return ask(ctl, "GET", path.p, NULL, print_explanation);
}

/* ---- routes ---- */

static void
print_routes(const struct ctl *ctl, const cJSON *json)
{
    ctl_print_routes(ctl, cJSON_GetObjectItemCaseSensitive(json, "routes"));
}

static int
routes_run(struct ctl *ctl)
{
    return ask(ctl, "GET", API_ROUTES, NULL, print_routes);
}

/* "550 5.7.1 words", as far as they are known. */
static void
print_reply(const cJSON *row, struct strbuf *out)
{
    double code = api_num(row, "code", 0);
    const char *enh = api_str(row, "enh", "");

    strbuf_reset(out);
    if (code > 0)
        strbuf_printf(out, "%.0f ", code);
    if (enh[0] != '\0')
        strbuf_printf(out, "%s ", enh);
    strbuf_add_str(out, api_str(row, "text", ""));
}

static void
print_learned(const struct ctl *ctl, const cJSON *json)
{
    static const char *const titles[] = {"kind",  "key",   "route", "instead of", "class",
                                         "since", "until", "state", "good",       "reply"};
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(json, "learned"), *row;
    CLEANUP(strbuf_release) struct strbuf reply = STRBUF_INIT;
    struct ctl_table table;
    char buf[CTL_TIME_BYTES], good[16];
    if (cJSON_GetArraySize(rows) == 0) {
        printf("nothing learned, nothing pinned\n");
        return;
    }
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    cJSON_ArrayForEach(row, rows)
    {
        ctl_table_add(&table, api_str(row, "kind", NULL));
        ctl_table_add(&table, api_str(row, "key", NULL));
        ctl_table_add(&table, api_str(row, "route", NULL));
        ctl_table_add(&table, api_str(row, "instead_of", NULL));
        ctl_table_add(&table, api_str(row, "class", NULL));
        ctl_table_add(&table, ctl_when(api_str(row, "since", NULL), buf));
        ctl_table_add(&table, ctl_when(api_str(row, "until", NULL), buf));
        ctl_table_add(&table, api_str(row, "state", NULL));
        snprintf(good, sizeof(good), "%.0f", api_num(row, "good_probes", 0));
        ctl_table_add(&table, api_bool(row, "pinned") ? NULL : good);
        print_reply(row, &reply);
        ctl_table_add(&table, reply.p);
    }
    ctl_table_print(ctl, &table);
    if (api_num(json, "more", 0) > 0)
        printf("and %.0f more\n", api_num(json, "more", 0));
}

static int
learned_run(struct ctl *ctl)
{
    return ask(ctl, "GET", API_ROUTES_LEARNED, NULL, print_learned);
}

/* The first argument as a canonical domain, in a new request body. */
static cJSON *
domain_body(const struct ctl *ctl)
{
    char domain[DOMAIN_BUF];
    struct err err;
    if (domain_normalise(span_str(ctl->args[0]), domain, &err) != ERR_OK)
        ctl_usage(ctl, "%s: %s", ctl->args[0], err.text);
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "domain", domain);
    return body;
}

/* The same, or an address literal. */
static cJSON *
name_body(const struct ctl *ctl)
{
    if (ctl->args[0][0] != '[')
        return domain_body(ctl);
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "domain", ctl->args[0]);
    return body;
}

static int
forget_run(struct ctl *ctl)
{
    cJSON *answer;
    int code = ctl_call(ctl, "POST", API_ROUTES_FORGET, name_body(ctl), &answer);
    if (code != 0)
        return code;
    double n = api_num(answer, "forgotten", 0);
    if (ctl->json)
        ctl_print_json(answer);
    else
        printf("%.0f route%s forgotten\n", n, n == 1 ? "" : "s");
    cJSON_Delete(answer);
    code = ctl_finish();
    return code == 0 && n == 0 ? EX_NOINPUT : code;
}

static void
print_until(const struct ctl *ctl, const cJSON *json)
{
    char buf[CTL_TIME_BYTES];
    const char *kind = api_str(json, "kind", NULL);
    if (kind != NULL) {
        ctl_print_text(ctl, CTL_PLAIN, kind);
        putchar(' ');
    }
    ctl_print_text(ctl, CTL_BOLD, api_str(json, "target", api_str(json, "domain", "")));
    const char *route = api_str(json, "route", NULL);
    if (route != NULL) {
        printf(" goes by ");
        ctl_print_text(ctl, CTL_BOLD, route);
    } else {
        printf(" is suspended");
    }
    printf("; ends %s\n", ctl_when(api_str(json, "until", NULL), buf));
}

static msec_t
needed_duration(const struct ctl *ctl)
{
    msec_t for_ms;
    if (!ctl_option_duration(ctl, "--for", &for_ms) || for_ms <= 0)
        ctl_usage(ctl, "--for DURATION is missing");
    return for_ms;
}

static int
pin_run(struct ctl *ctl)
{
    msec_t for_ms = needed_duration(ctl);
    cJSON *body = domain_body(ctl);
    cJSON_AddStringToObject(body, "route", ctl->args[1]);
    cJSON_AddNumberToObject(body, "for_ms", (double)for_ms);
    return ask(ctl, "POST", API_ROUTES_PIN, body, print_until);
}

/* ---- suspend ---- */

static int
suspend_run(struct ctl *ctl)
{
    msec_t for_ms = needed_duration(ctl);
    const char *reason = ctl_option(ctl, "--reason");
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "target", ctl->args[0]);
    cJSON_AddNumberToObject(body, "for_ms", (double)for_ms);
    if (reason != NULL)
        cJSON_AddStringToObject(body, "reason", reason);
    return ask(ctl, "POST", API_SUSPEND, body, print_until);
}

static int
resume_run(struct ctl *ctl)
{
    cJSON *answer, *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "target", ctl->args[0]);
    int code = ctl_call(ctl, "POST", API_RESUME, body, &answer);
    if (code != 0)
        return code;
    bool resumed = api_num(answer, "resumed", 0) > 0;
    if (ctl->json) {
        ctl_print_json(answer);
    } else {
        ctl_print_text(ctl, CTL_BOLD, ctl->args[0]);
        printf(resumed ? " is delivered to again\n" : " was not suspended\n");
    }
    cJSON_Delete(answer);
    code = ctl_finish();
    return code == 0 && !resumed ? EX_NOINPUT : code;
}

static const struct ctl_option explain_options[] = {
    {"--from", "ADDRESS", "the envelope sender; without it the null sender"}, {0}};
static const struct ctl_option for_options[] = {{"--for", "DURATION", "how long, as 2h or 7d"},
                                                {0}};
static const struct ctl_option suspend_options[] = {
    {"--for", "DURATION", "how long, as 2h or 7d"},
    {"--reason", "TEXT", "why; shown and logged"},
    {0},
};

const struct ctl_verb ctl_route_verbs[] = {
    {"explain", "RCPT", 1, 1, "every step of the decision for a recipient",
     "Shows the rule (file and line), facts, learned state, route, fallback, site, limits, TLS\n"
     "and DKIM identity, as the next attempt would find them. Nothing is sent.",
     explain_options, explain_run},
    {"routes", "", 0, 0, "the routes and how they are", NULL, NULL, routes_run},
    {"routes learned", "", 0, 0, "learned and pinned routes", NULL, NULL, learned_run},
    {"routes forget", "DOMAIN", 1, 1, "forget what was learned or pinned for a domain",
     "What was learned for the domain's site goes too. A site may be named itself, by its best\n"
     "MX host, as `routes learned` shows it.",
     NULL, forget_run},
    {"routes pin", "DOMAIN ROUTE", 2, 2, "send a domain by a route for some time", NULL,
     for_options, pin_run},
    {"suspend", "SITE|DOMAIN|ROUTE", 1, 1, "pause delivery", NULL, suspend_options, suspend_run},
    {"resume", "SITE|DOMAIN|ROUTE", 1, 1, "end a pause", NULL, NULL, resume_run},
    {0},
};
