/*
 * The command line: [-c FILE | -s SOCKET] [--json] VERB [OPTIONS] [ARGS], options anywhere. A verb
 * is one word or two; the longest match wins, so "routes learned" is not "routes" with an argument.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "policy/base/units.h"
#include "relayd/ctl/ctl.h"

static const struct ctl_option no_options[] = {{NULL, NULL, NULL}};

static const struct ctl_option *
options_of(const struct ctl_verb *verb)
{
    return verb->options == NULL ? no_options : verb->options;
}

/* ---- help ---- */

static void
print_synopsis(FILE *out, const struct ctl_verb *verb)
{
    fprintf(out, "usage: relayctl [-c FILE | -s SOCKET] [--json] %s", verb->name);
    for (const struct ctl_option *o = options_of(verb); o->name != NULL; o++)
        fprintf(out, o->arg == NULL ? " [%s]" : " [%s %s]", o->name, o->arg);
    fprintf(out, "%s%s\n", verb->args[0] == '\0' ? "" : " ", verb->args);
}

static void
print_verb_help(const struct ctl_verb *verb)
{
    print_synopsis(stdout, verb);
    printf("\n%s\n", verb->help);
    if (verb->more != NULL)
        printf("\n%s\n", verb->more);
    for (const struct ctl_option *o = options_of(verb); o->name != NULL; o++) {
        char left[64];
        snprintf(left, sizeof(left), "%s%s%s", o->name, o->arg == NULL ? "" : " ",
                 o->arg == NULL ? "" : o->arg);
        printf("%s  %-24s %s\n", o == verb->options ? "\n" : "", left, o->help);
    }
}

static void
print_verbs(FILE *out)
{
    fprintf(out, "usage: relayctl [-c FILE | -s SOCKET] [--json] VERB [OPTIONS] [ARGS]\n\n");
    for (size_t t = 0; ctl_tables[t] != NULL; t++) {
        for (const struct ctl_verb *v = ctl_tables[t]; v->name != NULL; v++) {
            char left[64];
            snprintf(left, sizeof(left), "%s%s%s", v->name, v->args[0] == '\0' ? "" : " ", v->args);
            fprintf(out, "  %-34s %s\n", left, v->help);
        }
    }
    fprintf(out, "\n  -c FILE      the configuration (default /etc/relayd/relayd.yaml)\n"
                 "  -s SOCKET    the daemon's control socket\n"
                 "  --json       print JSON\n"
                 "  --help       behind a verb: its options\n"
                 "  --version    print the version\n");
}

void
ctl_usage(const struct ctl *ctl, const char *fmt, ...)
{
    va_list ap;
    fputs("relayctl: ", stderr);
    if (ctl->verb != NULL)
        fprintf(stderr, "%s: ", ctl->verb->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    if (ctl->verb != NULL) {
        print_synopsis(stderr, ctl->verb);
        fprintf(stderr, "Try: relayctl %s --help\n", ctl->verb->name);
    } else {
        print_verbs(stderr);
    }
    exit(EX_USAGE);
}

/* ---- options of the verb ---- */

const char *
ctl_option(const struct ctl *ctl, const char *name)
{
    for (int i = 0; i < ctl->n_options; i++)
        if (strcmp(ctl->options[i].option->name, name) == 0)
            return ctl->options[i].value;
    return NULL;
}

bool
ctl_option_duration(const struct ctl *ctl, const char *name, msec_t *ret)
{
    struct err err;
    const char *text = ctl_option(ctl, name);
    if (text == NULL)
        return false;
    if (duration_parse(span_str(text), ret, &err) != ERR_OK)
        ctl_usage(ctl, "%s: %s", name, err.text);
    return true;
}

long
ctl_option_number(const struct ctl *ctl, const char *name, long min, long max, long otherwise)
{
    uint64_t value;
    const char *text = ctl_option(ctl, name);
    if (text == NULL)
        return otherwise;
    if (!span_u64(span_str(text), &value) || value > (uint64_t)max || (long)value < min)
        ctl_usage(ctl, "%s: expected a number from %ld to %ld", name, min, max);
    return (long)value;
}

/* ---- parsing ---- */

struct words {
    char **word;
    int n, at;
};

/* The value of an option that takes one: behind '=' or the next word. */
static const char *
take_value(const struct ctl *ctl, struct words *words, const char *name, const char *inline_value)
{
    if (inline_value != NULL)
        return inline_value;
    if (words->at >= words->n)
        ctl_usage(ctl, "%s needs a value", name);
    return words->word[words->at++];
}

static void
verb_option(struct ctl *ctl, struct words *words, struct span name, const char *inline_value)
{
    for (const struct ctl_option *o = options_of(ctl->verb); o->name != NULL; o++) {
        if (!span_eq(name, span_str(o->name)))
            continue;
        if (ctl_option(ctl, o->name) != NULL)
            ctl_usage(ctl, "%s is given twice", o->name);
        if (o->arg == NULL && inline_value != NULL)
            ctl_usage(ctl, "%s takes no value", o->name);
        if (ctl->n_options == CTL_OPTIONS_MAX)
            ctl_usage(ctl, "too many options");
        ctl->options[ctl->n_options].option = o;
        ctl->options[ctl->n_options].value =
            o->arg == NULL ? "" : take_value(ctl, words, o->name, inline_value);
        ctl->n_options++;
        return;
    }
    ctl_usage(ctl, "unknown option %.*s", SPAN_ARG(name));
}

/* An option that every verb knows; false when it is none. */
static bool
global_option(struct ctl *ctl, struct words *words, struct span name, const char *inline_value)
{
    if (span_eq(name, SPAN("-c")) || span_eq(name, SPAN("--config"))) {
        ctl->config_file = take_value(ctl, words, "-c", inline_value);
    } else if (span_eq(name, SPAN("-s")) || span_eq(name, SPAN("--socket"))) {
        ctl->socket = take_value(ctl, words, "-s", inline_value);
    } else if (span_eq(name, SPAN("--json"))) {
        ctl->json = true;
    } else if (span_eq(name, SPAN("--help")) || span_eq(name, SPAN("-h"))) {
        if (ctl->verb != NULL)
            print_verb_help(ctl->verb);
        else
            print_verbs(stdout);
        exit(ctl_finish());
    } else if (span_eq(name, SPAN("--version"))) {
        printf("relayctl %s\n", RELAYD_VERSION);
        exit(ctl_finish());
    } else {
        return false;
    }
    return true;
}

static const struct ctl_verb *
find_verb(const char *name)
{
    for (size_t t = 0; ctl_tables[t] != NULL; t++)
        for (const struct ctl_verb *v = ctl_tables[t]; v->name != NULL; v++)
            if (strcmp(v->name, name) == 0)
                return v;
    return NULL;
}

/* Is `word` the first of some two words? */
static bool
is_group(const char *word)
{
    size_t n = strlen(word);
    for (size_t t = 0; ctl_tables[t] != NULL; t++)
        for (const struct ctl_verb *v = ctl_tables[t]; v->name != NULL; v++)
            if (strncmp(v->name, word, n) == 0 && v->name[n] == ' ')
                return true;
    return false;
}

static void
take_verb(struct ctl *ctl, struct words *words, const char *word)
{
    char name[64];
    const char *next = words->at < words->n ? words->word[words->at] : NULL;
    if (next != NULL) {
        snprintf(name, sizeof(name), "%s %s", word, next);
        ctl->verb = find_verb(name);
        if (ctl->verb != NULL) {
            words->at++;
            return;
        }
    }
    ctl->verb = find_verb(word);
    if (ctl->verb != NULL)
        return;
    if (!is_group(word))
        ctl_usage(ctl, "unknown verb %s", word);
    if (next == NULL)
        ctl_usage(ctl, "%s: a second word is missing", word);
    if (strcmp(next, "--help") == 0 || strcmp(next, "-h") == 0) {
        print_verbs(stdout);
        exit(ctl_finish());
    }
    ctl_usage(ctl, "unknown verb %s %s", word, next);
}

static void
take_argument(struct ctl *ctl, const char *word)
{
    if (ctl->n_args == ctl->verb->max_args)
        ctl_usage(ctl, "%s is one argument too many", word);
    ctl->args[ctl->n_args++] = word;
}

void
ctl_parse(struct ctl *ctl, int n_words, char **list)
{
    struct words words = {list, n_words, 0};
    bool only_arguments = false;
    while (words.at < words.n) {
        const char *word = words.word[words.at++];
        if (only_arguments || word[0] != '-' || word[1] == '\0') {
            if (ctl->verb == NULL)
                take_verb(ctl, &words, word);
            else
                take_argument(ctl, word);
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_arguments = true;
            continue;
        }
        struct span value = span_str(word), name = span_cut(&value, '=');
        bool has_value = word[1] == '-' && name.n < strlen(word);
        if (!has_value)
            name = span_str(word);
        const char *inline_value = has_value ? value.p : NULL;
        if (global_option(ctl, &words, name, inline_value))
            continue;
        if (ctl->verb == NULL)
            ctl_usage(ctl, "unknown option %s", word);
        verb_option(ctl, &words, name, inline_value);
    }
    if (ctl->verb == NULL)
        ctl_usage(ctl, "no verb");
    if (ctl->config_file != NULL && ctl->socket != NULL)
        ctl_usage(ctl, "-c and -s exclude each other");
    if (ctl->n_args < ctl->verb->min_args)
        ctl_usage(ctl, "%s is missing", ctl->verb->args);
}

/* ---- help as a verb ---- */

static void
add_string_or_null(cJSON *object, const char *name, const char *value)
{
    if (value == NULL)
        cJSON_AddNullToObject(object, name);
    else
        cJSON_AddStringToObject(object, name, value);
}

static int
help_run(struct ctl *ctl)
{
    if (!ctl->json) {
        print_verbs(stdout);
        return ctl_finish();
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t t = 0; ctl_tables[t] != NULL; t++) {
        for (const struct ctl_verb *v = ctl_tables[t]; v->name != NULL; v++) {
            cJSON *row = cJSON_CreateObject();
            cJSON_AddStringToObject(row, "verb", v->name);
            cJSON_AddStringToObject(row, "args", v->args);
            cJSON_AddStringToObject(row, "help", v->help);
            cJSON *options = cJSON_AddArrayToObject(row, "options");
            for (const struct ctl_option *o = options_of(v); o->name != NULL; o++) {
                cJSON *option = cJSON_CreateObject();
                cJSON_AddStringToObject(option, "name", o->name);
                add_string_or_null(option, "arg", o->arg);
                cJSON_AddStringToObject(option, "help", o->help);
                cJSON_AddItemToArray(options, option);
            }
            cJSON_AddItemToArray(list, row);
        }
    }
    int code = ctl_print_json(list);
    cJSON_Delete(list);
    return code;
}

const struct ctl_verb ctl_help_verbs[] = {
    {"help", "", 0, 0, "every verb in one line; with --json all verbs and options", NULL, NULL,
     help_run},
    {0},
};
