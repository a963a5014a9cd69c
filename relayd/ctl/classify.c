/*
 * `classify`: SMTP replies in, what they mean out, one JSON object a line.
 */
#include "policy/classify.h"

#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/config.h"
#include "policy/config_load.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ops/api.h"
#include "relayd/ops/utf8.h"

static void
free_rules(struct classify_rules **rules)
{
    classify_rules_free(*rules);
}

/* The built-in rules, or those of -c FILE: its own rules before its rules_file. */
static int
rules_load(const struct ctl *ctl, struct classify_rules *rules)
{
    CLEANUP(config_problems_release) struct config_problems problems = {0};
    struct config *config = NULL;
    struct span text = classify_builtin_text();
    const char *file = "replies.yaml";
    bool ok = true;
    if (ctl->config_file != NULL) {
        int code = 0;
        config = ctl_config(ctl, true, &code);
        if (config == NULL)
            return code;
        if (config->classify.rules != NULL)
            ok =
                classify_rules_add_node(rules, config->classify.rules, "classify.rules", &problems);
        if (config->classify.rules_bytes.n > 0) {
            text = config->classify.rules_bytes;
            file = config->classify.rules_file;
        }
    }
    ok = classify_rules_parse(rules, text, file, &problems) && ok;
    for (size_t i = 0; i < problems.n; i++) {
        CLEANUP(strbuf_release) struct strbuf line = STRBUF_INIT;
        config_problem_format(&problems.items[i], &line);
        ctl_complain("%s", line.p);
    }
    config_free(config);
    return ok ? 0 : EX_CONFIG;
}

static void
print_line(cJSON *json)
{
    CLEANUP(freep) char *text = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    if (text != NULL)
        puts(text);
}

/* One line of input. False when it could not be understood; a line is printed all the same, so that
 * input and output stay in step. */
static bool
classify_line(struct classify_rules *rules, struct span line, enum reply_stage stage)
{
    cJSON *in = utf8_valid(line) ? cJSON_ParseWithLength(line.p, line.n) : NULL;
    const char *response = api_str(in, "response", NULL), *name = api_str(in, "stage", NULL);
    cJSON *out = cJSON_CreateObject();
    bool ok = response != NULL && (name == NULL || reply_stage_parse(span_str(name), &stage));
    if (ok) {
        struct classify_verdict verdict =
            classify_text(rules, span_str(response), stage, span_str(api_str(in, "mx", "")));
        cJSON_AddStringToObject(out, "response", response);
        cJSON_AddStringToObject(out, "class", reply_class_name(verdict.klass));
        cJSON_AddStringToObject(out, "action", reply_action_name(verdict.action));
        cJSON_AddStringToObject(out, "rule", verdict.rule);
    } else {
        api_add_span(out, "response", response == NULL ? line : span_str(response));
        cJSON_AddStringToObject(out, "error",
                                response == NULL ? "expected a JSON object with the member response"
                                                 : "unknown stage");
    }
    print_line(out);
    cJSON_Delete(in);
    return ok;
}

static int
classify_run(struct ctl *ctl)
{
    CLEANUP(free_rules) struct classify_rules *rules = classify_rules_new();
    CLEANUP(freep) char *buf = NULL;
    enum reply_stage stage = REPLY_STAGE_UNKNOWN;
    size_t cap = 0, bad = 0;
    ssize_t n;
    const char *name = ctl_option(ctl, "--stage");
    if (name != NULL && !reply_stage_parse(span_str(name), &stage))
        ctl_usage(ctl, "--stage: expected connect, helo, mail, rcpt, data, dot, tls or unknown");
    int code = rules_load(ctl, rules);
    if (code != 0)
        return code;
    while ((n = getline(&buf, &cap, stdin)) > 0) {
        struct span line = span_trim(span_of(buf, (size_t)n));
        if (line.n > 0)
            bad += !classify_line(rules, line, stage);
    }
    code = ctl_finish();
    if (code == 0 && bad > 0) {
        ctl_complain("%zu line%s could not be understood", bad, bad == 1 ? "" : "s");
        return EX_DATAERR;
    }
    return code;
}

static const struct ctl_option classify_options[] = {
    {"--stage", "STAGE",
     "connect, helo, mail, rcpt, data, dot, tls or unknown, for lines that say none"},
    {0},
};

const struct ctl_verb ctl_classify_verbs[] = {
    {"classify", "", 0, 0, "say what SMTP replies mean",
     "Reads one JSON object a line, {\"response\": \"550 5.7.1 ...\", \"stage\": \"rcpt\"}, and "
     "prints one\n"
     "a line with response, class, action and rule. Needs no daemon; with -c the rules of that\n"
     "configuration are used.",
     classify_options, classify_run},
    {0},
};
