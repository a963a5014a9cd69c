/*
 * relayd - the program: options, --check, and from start (start.c) over running to the end
 * (stop.c).
 *
 * Exit codes follow sysexits(3): 64 usage, 67 no such user, 73 a path that cannot be made, 74 the
 * disk failed, 75 try again (queue in use, newer format, address in use), 77 no permission, 78
 * configuration.
 */
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#include "policy/base/crypto.h"
#include "policy/base/mem.h"
#include "policy/base/units.h"
#include "relayd/check.h"
#include "relayd/net/sdnotify.h"
#include "relayd/sign.h"
#include "relayd/start.h"
#include "relayd/stop.h"
#include "relayd/work/inhand.h"

#define CONFIG_FILE_DEFAULT "/etc/relayd/relayd.yaml"
#define DRAIN_DEFAULT_MS (30 * SECOND)

struct options {
    const char *config_file;
    bool check;
    msec_t drain_ms;
};

static const char usage_text[] =
    "usage: relayd [-c FILE] [--check] [--drain 30s]\n"
    "\n"
    "  -c, --config FILE  configuration, default " CONFIG_FILE_DEFAULT "\n"
    "      --check        check it, print every problem as FILE:LINE:COLUMN, and exit 0 or 78\n"
    "      --drain TIME   how long SIGTERM lets work under way finish, default 30s\n"
    "      --version      print the version\n"
    "  -h, --help         this text\n"
    "\n"
    "SIGHUP reloads the configuration, SIGTERM stops, a second SIGTERM stops at once.\n";

/* Returns -1 to go on, else the exit code. */
static int
parse_options(int argc, char **argv, struct options *ret)
{
    static const struct option longopts[] = {
        {"config", required_argument, NULL, 'c'}, {"check", no_argument, NULL, 'k'},
        {"drain", required_argument, NULL, 'd'},  {"version", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},         {0},
    };
    struct err err;
    int c;

    *ret = (struct options){.config_file = CONFIG_FILE_DEFAULT, .drain_ms = DRAIN_DEFAULT_MS};
    while ((c = getopt_long(argc, argv, "c:h", longopts, NULL)) != -1) {
        switch (c) {
        case 'c':
            ret->config_file = optarg;
            break;
        case 'k':
            ret->check = true;
            break;
        case 'd':
            if (duration_parse(span_str(optarg), &ret->drain_ms, &err) != ERR_OK)
                return start_fail(EX_USAGE, "--drain %s: %s", optarg, err.text);
            break;
        case 'v':
            puts("relayd " RELAYD_VERSION);
            return 0;
        case 'h':
            fputs(usage_text, stdout);
            return 0;
        default:
            fputs(usage_text, stderr);
            return EX_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "relayd: unexpected argument: %s\n%s", argv[optind], usage_text);
        return EX_USAGE;
    }
    return -1;
}

static int
check(const char *file)
{
    CLEANUP(config_problems_release) struct config_problems problems = {0};
    bool ok = check_config(file, &problems);

    start_print_problems(&problems);
    if (ok)
        printf("%s: ok\n", file);
    return ok ? EX_OK : EX_CONFIG;
}

int
main(int argc, char **argv)
{
    struct options options;
    crypto_memory_setup();
    int code = parse_options(argc, argv, &options);
    if (code >= 0)
        return code;
    sdnotify_init();
    signal(SIGPIPE, SIG_IGN);
    if (options.check)
        return check(options.config_file);
    daemon_signals_hold();
    inhand_watch();

    char path[PATH_MAX];
    const struct worker_slot slots[] = {[SIGN_SLOT] = sign_worker_slot()};
    struct daemon *d = xcalloc(1, sizeof(*d));
    d->config_file = realpath(options.config_file, path) == NULL ? options.config_file : path;
    d->drain_ms = options.drain_ms;
    d->loop = loop_new();
    d->started_at = clock_wall(loop_clock(d->loop));
    d->inbox = inbox_new(loop_base(d->loop));
    d->workers = workers_new(0, d->inbox, slots, N_ELEMENTS(slots));
    d->log = log_new(NULL);
    d->metrics = metrics_new();
    code = daemon_start(d);
    if (code < 0)
        daemon_run(d);
    else
        d->exit_code = code;
    code = d->exit_code;
    daemon_end(d);
    free(d);
    return code;
}
