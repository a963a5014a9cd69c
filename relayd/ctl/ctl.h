/*
 * ctl - what the verbs of relayctl share: the table row, the parsed command line, asking the
 * daemon, and printing.
 *
 * A verb is one row of a const table in a file of its group; main.c finds the row, checks the
 * command line against it, and runs it. A verb prints its result on stdout and everything else on
 * stderr, and returns the exit code (sysexits(3); CTL_REFUSED for a plain no).
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <sysexits.h>

#define CTL_REFUSED 1 /* the daemon or the check said no */
#define CTL_ARGS_MAX 8
#define CTL_OPTIONS_MAX 16

struct config;
struct ctl;

struct ctl_option {
    const char *name; /* "--domain" */
    const char *arg;  /* "DOMAIN"; NULL for a flag */
    const char *help;
};

struct ctl_verb {
    const char *name; /* "queue list"; NULL ends a table */
    const char *args; /* "ID", "[RCPT]", "" */
    int min_args, max_args;
    const char *help;                 /* one line */
    const char *more;                 /* a paragraph for --help, or NULL */
    const struct ctl_option *options; /* ended by a NULL name; NULL for none */
    int (*run)(struct ctl *ctl);
};

/* The tables, one a group. */
extern const struct ctl_verb ctl_status_verbs[], ctl_queue_verbs[], ctl_queue_act_verbs[],
    ctl_route_verbs[], ctl_trace_verbs[], ctl_reload_verbs[], ctl_dkim_verbs[],
    ctl_classify_verbs[], ctl_user_verbs[], ctl_tls_verbs[], ctl_verify_verbs[], ctl_help_verbs[];
/* All of them, ended by NULL. */
extern const struct ctl_verb *const ctl_tables[];

struct ctl {
    const char *config_file; /* -c; NULL when not given */
    const char *socket;      /* -s; NULL when not given */
    bool json, color;
    const struct ctl_verb *verb;
    const char *args[CTL_ARGS_MAX];
    int n_args;
    struct {
        const struct ctl_option *option;
        const char *value;
    } options[CTL_OPTIONS_MAX];
    int n_options;
    char *socket_found; /* what ctl_socket() worked out */
};

/* ---- command line (args.c) ---- */

/* The value of an option, "" for a flag that was given, NULL when it was not. */
const char *ctl_option(const struct ctl *ctl, const char *name);
/* A duration option in ms: true when it was given. Exits with usage when it is malformed. */
bool ctl_option_duration(const struct ctl *ctl, const char *name, msec_t *ret);
/* A whole number, or `otherwise`. Exits with usage when it is malformed or outside. */
long ctl_option_number(const struct ctl *ctl, const char *name, long min, long max, long otherwise);
/* Say what is wrong with the command line and how the verb is used, on stderr; exit 64. */
_Noreturn void
ctl_usage(const struct ctl *ctl, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Parse words behind the program's name into *ctl: finds the verb, its options and arguments.
 * Prints help and exits for --help and --version; exits 64 for what is not understood. */
void ctl_parse(struct ctl *ctl, int n_words, char **words);

/* ---- configuration (config.c) ---- */

/*
 * Load the configuration: -c FILE, or the default one. With `outline` secrets and domain lists are
 * not read. Problems go to stderr. NULL and *ret_exit set when that failed. config_free() it.
 */
struct config *ctl_config(const struct ctl *ctl, bool outline, int *ret_exit);
/* The file that -c names, or the default. */
const char *ctl_config_file(const struct ctl *ctl);
/* The control socket: -s, or the configuration's, or the default when there is no configuration. */
const char *ctl_socket(struct ctl *ctl);

/* ---- the daemon (client.c, call.c) ---- */

/*
 * One request. `body` (may be NULL) is printed and freed. On success 0 is returned and *ret is the
 * answer (cJSON_Delete() it). Otherwise the exit code, after one line on stderr: 69 when the daemon
 * does not run, 77 without permission, or what its error stands for.
 */
int ctl_call(struct ctl *ctl, const char *method, const char *path, cJSON *body, cJSON **ret);
/* As ctl_call(), but a daemon that does not run is 69 without a word on stderr. */
int ctl_call_quiet(struct ctl *ctl, const char *method, const char *path, cJSON *body, cJSON **ret);
/* GET `path` and copy the answer's body to stdout as it comes. */
int ctl_copy(struct ctl *ctl, const char *path);

/* Append "?name=value" or "&name=value", escaped; nothing when value is NULL. */
void ctl_query_add(struct strbuf *path, const char *name, const char *value);

/* "FILE: what is wrong" on stderr, with the program's name. Returns the exit code of err->code. */
int ctl_fail(const struct err *err);
int ctl_exit_of(enum err_code code);
void ctl_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- printing (print.c) ---- */

enum ctl_color { CTL_PLAIN, CTL_GOOD, CTL_WARN, CTL_BAD, CTL_DIM, CTL_BOLD };

/* The JSON document on stdout, indented; returns 0, or 74 when stdout failed. */
int ctl_print_json(const cJSON *json);
/* Text of unknown origin, made safe for a terminal. */
void ctl_print_text(const struct ctl *ctl, enum ctl_color color, const char *text);
/* "name:   value" with the name padded; nothing when value is NULL or "". */
void ctl_print_field(const struct ctl *ctl, const char *name, const char *value);
/* flush stdout; 0, or 74 when it failed (a full disk, a closed pipe). */
int ctl_finish(void);

/* "in 5m", "3h ago", "now", "-" for null: of an RFC 3339 string. Returns buf. */
#define CTL_TIME_BYTES 32
char *ctl_when(const char *time, char buf[CTL_TIME_BYTES]);
/* "1h05m", "3d4h", "12s" */
char *ctl_duration(msec_t ms, char buf[CTL_TIME_BYTES]);
/* "12.3 MiB" */
char *ctl_size(double bytes, char buf[CTL_TIME_BYTES]);

/* A table: columns aligned, numbers to the right, the last column free. */
#define CTL_COLUMNS_MAX 10
struct ctl_table {
    const char *const *titles; /* a title that starts with '>' is aligned to the right */
    size_t n_columns;
    char **cells; /* row by row */
    enum ctl_color *colors;
    size_t n_cells, cap;
};
void ctl_table_init(struct ctl_table *table, const char *const *titles, size_t n_columns);
/* NULL and "" are shown as "-". */
void ctl_table_add(struct ctl_table *table, const char *text);
void ctl_table_add_color(struct ctl_table *table, enum ctl_color color, const char *text);
void ctl_table_printf(struct ctl_table *table, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Print with the title row (nothing when there are no rows), and release. */
void ctl_table_print(const struct ctl *ctl, struct ctl_table *table);
void ctl_table_release(struct ctl_table *table); /* without printing */
