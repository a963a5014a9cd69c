/*
 * `reload`, and `check`: a configuration by itself, or against the mail that waits.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "policy/config_load.h"
#include "relayd/check.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ops/api.h"

static void
print_warnings(const cJSON *json)
{
    const cJSON *warning;
    cJSON_ArrayForEach(
        warning, cJSON_GetObjectItemCaseSensitive(json, "warnings")) if (cJSON_IsString(warning))
        ctl_complain("%s", warning->valuestring);
}

static int
reload_run(struct ctl *ctl)
{
    cJSON *answer;
    int code = ctl_call(ctl, "POST", API_RELOAD, NULL, &answer);
    if (code != 0)
        return code;
    if (ctl->json) {
        code = ctl_print_json(answer);
    } else {
        print_warnings(answer);
        puts("reloaded");
        code = ctl_finish();
    }
    cJSON_Delete(answer);
    return code;
}

/* ---- check ---- */

struct part {
    const char *title, *changes, *checked, *unknown, *complete; /* members of the answer */
};

/* One of the two lists, and in a sentence below it what was looked at. */
static void
print_changes(const struct ctl *ctl, const cJSON *json, const struct part *part)
{
    static const char *const titles[] = {"domain", ">recipients", "from", "to"};
    const cJSON *changes = cJSON_GetObjectItemCaseSensitive(json, part->changes), *row;
    struct ctl_table table;
    double moved = 0, unknown = api_num(json, part->unknown, 0);

    printf("%s\n\n", part->title);
    ctl_table_init(&table, titles, N_ELEMENTS(titles));
    cJSON_ArrayForEach(row, changes)
    {
        moved += api_num(row, "recipients", 0);
        ctl_table_add(&table, api_str(row, "domain", NULL));
        ctl_table_printf(&table, "%.0f", api_num(row, "recipients", 0));
        ctl_table_add(&table, api_str(row, "from", NULL));
        ctl_table_add(&table, api_str(row, "to", NULL));
    }
    ctl_table_print(ctl, &table);
    printf("%s%.0f of %.0f recipients would go another way", moved > 0 ? "\n" : "", moved,
           api_num(json, part->checked, 0));
    if (unknown > 0)
        printf("; %.0f unknown, for want of an answer from DNS", unknown);
    puts(api_bool(json, part->complete) ? "" : "; not all were looked at");
}

static void
print_diff(const struct ctl *ctl, const cJSON *json)
{
    static const struct part waiting = {"Waiting mail", "changes", "checked", "unknown",
                                        "waiting_complete"};
    static const struct part history = {"Mail of the last 24 hours", "history", "history_checked",
                                        "history_unknown", "history_complete"};
    char title[160];
    struct part past = history;

    print_warnings(json);
    print_changes(ctl, json, &waiting);
    if (!api_bool(json, "history_complete")) {
        snprintf(title, sizeof(title), "Mail that finished since %.80s",
                 api_str(json, "history_since", "?"));
        past.title = title;
    }
    putchar('\n');
    print_changes(ctl, json, &past);
}

static int
diff_run(struct ctl *ctl, const char *file)
{
    char path[PATH_MAX];
    cJSON *answer, *body;
    if (realpath(file, path) == NULL) {
        ctl_complain("%s: %s", file, strerror(errno));
        return EX_NOINPUT;
    }
    body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "file", path);
    int code = ctl_call(ctl, "POST", API_CHECK, body, &answer);
    if (code != 0)
        return code;
    if (ctl->json) {
        code = ctl_print_json(answer);
    } else {
        print_diff(ctl, answer);
        code = ctl_finish();
    }
    cJSON_Delete(answer);
    return code;
}

/* What `relayd --check` says. */
static int
check_run(struct ctl *ctl)
{
    CLEANUP(config_problems_release) struct config_problems problems = {0};
    const char *file = ctl_option(ctl, "--diff");
    if (file != NULL)
        return diff_run(ctl, file);
    bool ok = check_config(ctl_config_file(ctl), &problems);
    cJSON *json = cJSON_CreateObject(), *list;
    cJSON_AddBoolToObject(json, "ok", ok);
    list = cJSON_AddArrayToObject(json, "problems");
    for (size_t i = 0; i < problems.n; i++) {
        CLEANUP(strbuf_release) struct strbuf line = STRBUF_INIT;
        config_problem_format(&problems.items[i], &line);
        cJSON_AddItemToArray(list, cJSON_CreateString(line.p));
        if (!ctl->json)
            fprintf(stderr, "%s\n", line.p);
    }
    size_t n = problems.n_errors + problems.n_warnings;
    if (n > problems.n && !ctl->json)
        ctl_complain("and %zu more", n - problems.n);
    if (ctl->json)
        ctl_print_json(json);
    else if (ok)
        printf("%s is good\n", ctl_config_file(ctl));
    cJSON_Delete(json);
    int finished = ctl_finish();
    return ok ? finished : EX_CONFIG;
}

static const struct ctl_option check_options[] = {
    {"--diff", "NEW.yaml",
     "tell which waiting mail, and which of the last day's, would go another way under this file"},
    {0}};

const struct ctl_verb ctl_reload_verbs[] = {
    {"reload", "", 0, 0, "apply the changed configuration",
     "A file with errors is reported, and the old configuration stays.", NULL, reload_run},
    {"check", "", 0, 0, "check the configuration, or compare a new one with the mail",
     "Without --diff the file of -c is checked as relayd --check does it, without the daemon.\n"
     "With --diff the daemon decides by both files, for what waits and for what finished in the\n"
     "last 24 hours, each by its own rules and country database; pinned and learned routes are\n"
     "left out. What it has no time for within a second is said.",
     check_options, check_run},
    {0},
};
