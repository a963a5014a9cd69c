/*
 * A table of rows for each list of the status, after a short list of facts. The columns are data:
 * a title and the member that it shows.
 */
#include "relayd/ops/page.h"

#include <stdio.h>

#include "policy/base/mem.h"
#include "relayd/ops/api.h"
#include "relayd/ops/utf8.h"

struct column {
    const char *title, *member;
};

#define COLUMNS_MAX 6

static const struct section {
    const char *title, *member;
    struct column columns[COLUMNS_MAX]; /* ended by NULL, or full */
} sections[] = {
    {"Routes",
     "routes",
     {{"route", "name"},
      {"kind", "kind"},
      {"state", "state"},
      {"connections", "connections"},
      {"waiting", "waiting"},
      {"detail", "detail"}}},
    {"Sites in trouble",
     "sites",
     {{"site", "site"},
      {"route", "route"},
      {"state", "state"},
      {"waiting", "waiting"},
      {"next try", "next_at"},
      {"last reply", "last_reply"}}},
    {"Suspended",
     "suspended",
     {{"what", "target"},
      {"kind", "kind"},
      {"until", "until"},
      {"reason", "reason"},
      {NULL, NULL}}},
    {"Alerts",
     "alerts",
     {{"last", "at"}, {"kind", "kind"}, {"times", "count"}, {"text", "text"}, {NULL, NULL}}},
};

static const struct column facts[] = {
    {"hostname", "hostname"},  {"region", "region"},          {"version", "version"},
    {"started", "started_at"}, {"learned routes", "learned"},
};

static const struct column queue_facts[] = {
    {"messages", "messages"},   {"recipients", "recipients"}, {"new", "fresh"},
    {"scheduled", "scheduled"}, {"in hand", "in_hand"},       {"held", "held"},
    {"bytes", "bytes"},         {"oldest", "oldest_at"},
};

static void
add_escaped(struct strbuf *out, const char *text)
{
    CLEANUP(strbuf_release) struct strbuf safe = STRBUF_INIT;
    utf8_add_printable(&safe, span_str(text));
    for (size_t i = 0; i < safe.n; i++) {
        switch (safe.p[i]) {
        case '<':
            strbuf_add_str(out, "&lt;");
            break;
        case '>':
            strbuf_add_str(out, "&gt;");
            break;
        case '&':
            strbuf_add_str(out, "&amp;");
            break;
        case '"':
            strbuf_add_str(out, "&quot;");
            break;
        case '\'':
            strbuf_add_str(out, "&#39;");
            break;
        default:
            strbuf_add_byte(out, safe.p[i]);
        }
    }
}

static void
add_value(struct strbuf *out, const cJSON *value)
{
    if (cJSON_IsString(value))
        add_escaped(out, value->valuestring);
    else if (cJSON_IsNumber(value))
        strbuf_printf(out, "%.0f", value->valuedouble);
    else
        strbuf_add_str(out, "-");
}

static void
add_facts(struct strbuf *out, const cJSON *object, const struct column *columns, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(object, columns[i].member);
        if (value == NULL || cJSON_IsNull(value))
            continue;
        strbuf_printf(out, "<tr><th>%s</th><td>", columns[i].title);
        add_value(out, value);
        strbuf_add_str(out, "</td></tr>\n");
    }
}

static void
add_rates(struct strbuf *out, const cJSON *rates)
{
    const cJSON *rate;
    strbuf_add_str(out, "<h2>Rates</h2>\n<table><tr><th></th><th>last minute</th>"
                        "<th>last hour</th></tr>\n");
    cJSON_ArrayForEach(rate, rates)
    {
        if (rate->string == NULL)
            continue;
        strbuf_add_str(out, "<tr><th>");
        add_escaped(out, rate->string);
        strbuf_printf(out, "</th><td>%.0f</td><td>%.0f</td></tr>\n", api_num(rate, "minute", 0),
                      api_num(rate, "hour", 0));
    }
    strbuf_add_str(out, "</table>\n");
}

static void
add_section(struct strbuf *out, const struct section *section, const cJSON *rows)
{
    const cJSON *row;
    if (cJSON_GetArraySize(rows) == 0)
        return;
    strbuf_printf(out, "<h2>%s</h2>\n<table><tr>", section->title);
    for (size_t i = 0; i < COLUMNS_MAX && section->columns[i].title != NULL; i++)
        strbuf_printf(out, "<th>%s</th>", section->columns[i].title);
    strbuf_add_str(out, "</tr>\n");
    cJSON_ArrayForEach(row, rows)
    {
        strbuf_add_str(out, "<tr>");
        for (size_t i = 0; i < COLUMNS_MAX && section->columns[i].title != NULL; i++) {
            strbuf_add_str(out, "<td>");
            add_value(out, cJSON_GetObjectItemCaseSensitive(row, section->columns[i].member));
            strbuf_add_str(out, "</td>");
        }
        strbuf_add_str(out, "</tr>\n");
    }
    strbuf_add_str(out, "</table>\n");
}

void
page_status(const cJSON *status, struct strbuf *out)
{
    strbuf_add_str(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    strbuf_printf(out, "<meta http-equiv=\"refresh\" content=\"%d\">\n<title>",
                  PAGE_REFRESH_SECONDS);
    add_escaped(out, api_str(status, "node", "relayd"));
    strbuf_add_str(out, ": ");
    add_escaped(out, api_str(status, "state", "unknown"));
    strbuf_add_str(out,
                   "</title>\n<style>body{font:15px sans-serif;margin:2em;max-width:70em}"
                   "table{border-collapse:collapse}th,td{text-align:left;padding:.2em .8em .2em 0;"
                   "border-bottom:1px solid #ddd;overflow-wrap:anywhere}</style></head><body>\n"
                   "<h1>");
    add_escaped(out, api_str(status, "node", "relayd"));
    strbuf_add_str(out, ": ");
    add_escaped(out, api_str(status, "state", "unknown"));
    strbuf_add_str(out, "</h1>\n<table>\n");
    add_facts(out, status, facts, N_ELEMENTS(facts));
    strbuf_add_str(out, "</table>\n<h2>Queue</h2>\n<table>\n");
    add_facts(out, cJSON_GetObjectItemCaseSensitive(status, "queue"), queue_facts,
              N_ELEMENTS(queue_facts));
    strbuf_add_str(out, "</table>\n");
    add_rates(out, cJSON_GetObjectItemCaseSensitive(status, "rates"));
    for (size_t i = 0; i < N_ELEMENTS(sections); i++)
        add_section(out, &sections[i],
                    cJSON_GetObjectItemCaseSensitive(status, sections[i].member));
    strbuf_add_str(out, "</body></html>\n");
}
