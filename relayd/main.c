/*
 * relayd - start and stop.
 *
 * Start: outline of the configuration, ports as root, privileges away, the whole configuration
 * with its secrets, queue, threads, and only then clients. Stop: no new work, what is under way may
 * finish for --drain, then everything that was promised is committed.
 *
 * Exit codes follow sysexits(3): 64 usage, 69 stopped while draining was not done (never: that is
 * 0), 73 a path that cannot be made, 74 the disk failed, 75 try again (in use, newer format), 77 no
 * permission, 78 configuration.
 */
#include <errno.h>
#include <event2/event.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/base/units.h"
#include "policy/config_node.h"
#include "relayd/daemon.h"
#include "relayd/net/listener.h"
#include "relayd/net/sdnotify.h"
#include "relayd/ops/privs.h"
#include "relayd/sign.h"

#define CONFIG_FILE_DEFAULT "/etc/relayd/relayd.yaml"
#define DRAIN_DEFAULT_MS (30 * SECOND)
#define NOFILE_WANTED 65536
#define NOFILE_SPARE 64 /* queue, log, DNS, control and what libraries open */
#define OUTBOUND_MAX 4000

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

static int
fail(int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("relayd: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return code;
}

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
                return fail(EX_USAGE, "--drain %s: %s", optarg, err.text);
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

static void
print_problems(const struct config_problems *problems)
{
    for (size_t i = 0; i < problems->n; i++) {
        CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
        config_problem_format(&problems->items[i], &text);
        fprintf(stderr, "%s\n", text.p);
    }
    if (problems->n_errors + problems->n_warnings > problems->n)
        fprintf(stderr, "relayd: and %zu more\n",
                problems->n_errors + problems->n_warnings - problems->n);
}

static int
exit_code_of(enum err_code code)
{
    switch (code) {
    case ERR_BUSY:
    case ERR_VERSION:
    case ERR_AGAIN:
    case ERR_FULL:
        return EX_TEMPFAIL;
    case ERR_PERM:
    case ERR_NOT_FOUND:
        return EX_CANTCREAT;
    case ERR_INVAL:
    case ERR_LIMIT:
    case ERR_EXISTS:
        return EX_CONFIG;
    default:
        return EX_IOERR;
    }
}

/* ---- privileges ---- */

/* A directory that is missing is made, and given to the user that will need it. */
static int
ensure_directory(const char *path, mode_t mode, const struct privs_user *user)
{
    char parent[PATH_MAX];
    struct stat st;

    if (stat(path, &st) == 0)
        return -1;
    snprintf(parent, sizeof(parent), "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash != NULL && slash != parent) {
        *slash = '\0';
        int code = ensure_directory(parent, 0755, user);
        if (code >= 0)
            return code;
    }
    if (mkdir(path, mode) != 0 && errno != EEXIST)
        return fail(EX_CANTCREAT, "%s: cannot be made: %s", path, strerror(errno));
    if (geteuid() == 0 && chown(path, user->uid, user->gid) != 0)
        return fail(EX_CANTCREAT, "%s: cannot be given to %s: %s", path, user->name,
                    strerror(errno));
    return -1;
}

/* The user to become. A process that is not root stays who it is: when that is the `user`, it still
 * gives up what capabilities it does not need. */
static int
find_user(const struct config *config, struct privs_user *ret)
{
    struct err err;

    if (geteuid() == 0) {
        if (privs_find_user(config->user, ret, &err) != ERR_OK)
            return fail(EX_NOUSER, "user: %s", err.text);
        return -1;
    }
    if (privs_find_user(config->user, ret, &err) != ERR_OK || ret->uid != geteuid())
        *ret = (struct privs_user){.uid = geteuid(), .gid = getegid()};
    return -1;
}

static int
drop_privileges(const struct config *config, const struct privs_user *user)
{
    bool low_port = false;
    struct err err;

    for (size_t i = 0; i < config->n_listeners; i++)
        low_port |= config->listeners[i].port < 1024;
    if (user->name[0] != '\0' && privs_drop(user, low_port, &err) != ERR_OK)
        return fail(EX_NOPERM, "user %s: %s", user->name, err.text);
    if (privs_harden(&err) != ERR_OK)
        return fail(EX_OSERR, "%s", err.text);
    return -1;
}

static int
load_outline(const char *file, struct config **ret)
{
    struct config_problems problems = {0};
    enum err_code code = config_load(file, NULL, CONFIG_LOAD_OUTLINE, ret, &problems);
    if (code != ERR_OK)
        print_problems(&problems);
    config_problems_release(&problems);
    return code == ERR_OK ? -1 : EX_CONFIG;
}

/* Become the user that would read the secrets. A start needs him to be there; the default one may
 * be made later, on another machine. */
static void
check_as_user(const struct config *outline, struct config_problems *problems)
{
    const struct config_node *given = config_node_get(outline->root, "user");
    struct privs_user user;
    struct err err;

    if (geteuid() != 0)
        return;
    if (privs_find_user(outline->user, &user, &err) != ERR_OK)
        config_problem_add(problems, given == NULL ? CONFIG_WARNING : CONFIG_ERROR,
                           given == NULL ? outline->root->mark : given->mark, "user",
                           "%s, so a start as root would fail", err.text);
    else if (privs_drop(&user, false, &err) != ERR_OK)
        fprintf(stderr, "relayd: checking as root: %s\n", err.text);
}

/* --check: the same way as a start, as the same user, but nothing is bound or opened. A file whose
 * outline is wrong is read as a whole all the same: everything is told at once. */
static int
check(const struct options *options)
{
    struct config_problems problems = {0}, ignored = {0};
    struct settings *settings = NULL;
    struct config *outline;

    if (config_load(options->config_file, NULL, CONFIG_LOAD_OUTLINE, &outline, &ignored) ==
        ERR_OK) {
        check_as_user(outline, &problems);
        config_free(outline);
    }
    config_problems_release(&ignored);
    size_t n_before = problems.n_errors;
    if (settings_load(options->config_file, &settings, &problems) == ERR_OK)
        settings_free(settings);
    print_problems(&problems);
    bool ok = settings != NULL && n_before == 0;
    if (ok)
        printf("%s: ok\n", options->config_file);
    config_problems_release(&problems);
    return ok ? EX_OK : EX_CONFIG;
}

/* ---- stop ---- */

static void
stop_now(struct daemon *d)
{
    timer_cancel(loop_clock(d->loop), &d->drain_timer);
    loop_stop(d->loop);
}

static void
on_drain_over(void *arg)
{
    struct daemon *d = arg;
    log_text(d->log, LOG_WARNING, "drain_over",
             "work was still under way: the queue keeps it for the next start");
    stop_now(d);
}

static void
maybe_stopped(struct daemon *d)
{
    if (d->accept_drained && d->schedule_drained)
        stop_now(d);
}

static void
on_accept_drained(void *arg)
{
    struct daemon *d = arg;
    d->accept_drained = true;
    maybe_stopped(d);
}

static void
on_schedule_drained(void *arg)
{
    struct daemon *d = arg;
    d->schedule_drained = true;
    maybe_stopped(d);
}

static void
on_stop_signal(evutil_socket_t signal, short what, void *arg)
{
    struct daemon *d = arg;
    (void)what;
    if (d->phase == DAEMON_STOPPING) {
        stop_now(d);
        return;
    }
    d->phase = DAEMON_STOPPING;
    log_text(d->log, LOG_INFO, "stopping", "%s", signal == SIGINT ? "SIGINT" : "SIGTERM");
    sdnotify_stopping("draining");
    timer_set(loop_clock(d->loop), &d->drain_timer, d->drain_ms, on_drain_over, d);
    accept_drain(d->accept, on_accept_drained, d);
    schedule_drain(d->schedule, on_schedule_drained, d);
}

static void
on_hangup(evutil_socket_t signal, short what, void *arg)
{
    struct daemon *d = arg;
    (void)signal;
    (void)what;
    if (d->phase == DAEMON_RUNNING)
        daemon_reload(d, NULL, NULL);
}

static void
on_store_failed(void *arg, const struct err *err)
{
    struct daemon *d = arg;
    log_alert(d->log, "store_failed", "the queue cannot be written, stopping: %s", err->text);
    d->exit_code = EX_IOERR;
    loop_stop(d->loop);
}

static void
on_watchdog(void *arg)
{
    struct daemon *d = arg;
    sdnotify_watchdog();
    timer_set(loop_clock(d->loop), &d->watchdog_timer, sdnotify_watchdog_ms(), on_watchdog, d);
}

/* ---- start ---- */

static int
open_queue(struct daemon *d)
{
    const struct config *config = d->settings->config;
    const struct queue_options options = {
        .path = config->queue.path,
        .node = config->node.name,
        .max_bytes = config->queue.max_size_bytes,
        .min_free_bytes = config->queue.min_free_given ? (int64_t)config->queue.min_free_bytes : -1,
    };
    struct queue_info info;
    struct err err;

    enum err_code code = queue_open(&options, &d->queue, &info, &err);
    if (code != ERR_OK)
        return fail(exit_code_of(code), "queue: %s", err.text);
    if (info.on_overlay)
        log_text(d->log, LOG_WARNING, "queue",
                 "%s is on an overlay file system: mail is lost with the container",
                 config->queue.path);
    const struct store_options store = {
        .queue = d->queue,
        .inbox = d->inbox,
        .arg = d,
        .on_failed = on_store_failed,
    };
    code = store_new(&store, &d->store, &err);
    if (code != ERR_OK)
        return fail(exit_code_of(code), "queue: %s", err.text);
    return -1;
}

static int
open_dns(struct daemon *d)
{
    struct net_addr servers[DNS_SERVERS_MAX];
    struct dns_config config;
    struct err err;

    daemon_dns_config(d->settings->config, servers, &config);
    if (dns_new(d->loop, &config, &d->dns, &err) != ERR_OK)
        return fail(EX_CONFIG, "resolver: %s", err.text);
    d->facts = facts_new(d->dns);
    facts_set_config(d->facts, d->settings->config);
    return -1;
}

/* The sockets that a start needs root, or its place in line, for. */
static int
bind_sockets(struct daemon *d, const struct config *outline, const struct privs_user *user)
{
    char directory[PATH_MAX];
    struct err err;

    enum err_code code = accept_bind(d->accept, outline, &err);
    if (code != ERR_OK)
        return fail(code == ERR_PERM ? EX_NOPERM : exit_code_of(code), "%s", err.text);
    snprintf(directory, sizeof(directory), "%s", outline->control_socket);
    char *slash = strrchr(directory, '/');
    if (slash != NULL && slash != directory) {
        *slash = '\0';
        int made = ensure_directory(directory, 0755, user);
        if (made >= 0)
            return made;
    }
    code = listener_open_unix(outline->control_socket, 0660, &d->control_socket, &err);
    if (code == ERR_OK && geteuid() == 0)
        code = listener_chown(d->control_socket, user->uid, user->gid, &err);
    if (code != ERR_OK)
        return fail(exit_code_of(code), "control.socket: %s", err.text);
    if (outline->http.text[0] != '\0') {
        const struct net_addr addr = {outline->http.ip, outline->http.port};
        code = listener_open(&addr, &d->http_socket, &err);
        if (code != ERR_OK)
            return fail(exit_code_of(code), "http.address: %s", err.text);
    }
    return ensure_directory(outline->queue.path, 0700, user);
}

static int
load_settings(struct daemon *d, struct settings **ret)
{
    struct config_problems problems = {0};
    enum err_code code = settings_load(d->config_file, ret, &problems);
    if (code != ERR_OK)
        print_problems(&problems);
    else
        daemon_log_problems(d, &problems);
    config_problems_release(&problems);
    return code == ERR_OK ? -1 : EX_CONFIG;
}

/* Descriptors are shared out at the start: a fifth for going out, the rest for coming in. */
static size_t
share_descriptors(struct daemon *d)
{
    uint64_t nofile = 1024;
    struct err err;
    if (privs_raise_nofile(NOFILE_WANTED, &nofile, &err) != ERR_OK)
        fprintf(stderr, "relayd: %s\n", err.text);
    size_t usable = nofile > NOFILE_SPARE * 2 ? nofile - NOFILE_SPARE : NOFILE_SPARE;
    d->max_connections = usable / 5 < OUTBOUND_MAX ? usable / 5 : OUTBOUND_MAX;
    return usable - d->max_connections;
}

static void
serve_control(struct daemon *d)
{
    const struct config *config = d->settings->config;
    const struct control_env env = {.loop = d->loop, .log = d->log};
    d->control = control_new(&env);
    api_new(d);
    control_serve_unix(d->control, d->control_socket);
    d->control_socket = NULL;
    if (d->http_socket != NULL) {
        CLEANUP(freep)
        char *token =
            config->http.token.n == 0 ? NULL : xstrndup(config->http.token.p, config->http.token.n);
        control_serve_tcp(d->control, d->http_socket, token);
        d->http_socket = NULL;
    }
}

static void
log_ready(struct daemon *d, size_t max_sessions)
{
    const struct config *config = d->settings->config;
    struct store_numbers n;
    struct log_line line;
    char listeners[256] = "", text[64];
    size_t used = 0;

    for (size_t i = 0; used < sizeof(listeners) && accept_listener_text(d->accept, i, text); i++)
        used += (size_t)snprintf(listeners + used, sizeof(listeners) - used, "%s%s",
                                 i == 0 ? "" : " ", text);
    store_numbers(d->store, &n);
    log_begin(d->log, &line, LOG_INFO, "ready");
    log_cstr(&line, "version", RELAYD_VERSION);
    log_cstr(&line, "hostname", config->node.hostname);
    log_cstr(&line, "listeners", listeners);
    log_uint(&line, "sessions_max",
             max_sessions < config->limits.sessions ? max_sessions : config->limits.sessions);
    log_uint(&line, "connections_max", d->max_connections);
    log_uint(&line, "recipients", n.queue.recipients);
    log_uint(&line, "uid", geteuid());
    log_end(&line);
    if (geteuid() == 0)
        log_text(d->log, LOG_WARNING, "root", "running as root: `user: root` says so");
}

/* As root, if we are: ports, sockets, directories; then privileges are gone. */
static int
start_privileged(struct daemon *d, const struct options *options, size_t max_sessions)
{
    struct config *outline;
    struct privs_user user;

    int code = load_outline(options->config_file, &outline);
    if (code >= 0)
        return code;
    wire_accept(d, max_sessions);
    code = find_user(outline, &user);
    if (code < 0)
        code = bind_sockets(d, outline, &user);
    if (code < 0)
        code = drop_privileges(outline, &user);
    config_free(outline);
    return code;
}

static int
start_serving(struct daemon *d, size_t max_sessions)
{
    struct err err;

    if (log_start(d->log, &err) != ERR_OK)
        return fail(EX_OSERR, "%s", err.text);
    workers_start(d->workers);
    wire_stages(d);
    gauges_new(d);
    serve_control(d);
    struct accept_setup *setup = d->settings->accept;
    d->settings->accept = NULL;
    enum err_code used = accept_use(d->accept, setup, &err);
    if (used != ERR_OK) {
        accept_setup_free(setup);
        return fail(exit_code_of(used), "%s", err.text);
    }
    schedule_start(d->schedule);
    log_ready(d, max_sessions);
    return -1;
}

static int
start(struct daemon *d, const struct options *options)
{
    struct settings *settings;
    struct err err;
    size_t max_sessions = share_descriptors(d);

    int code = start_privileged(d, options, max_sessions);
    if (code < 0)
        code = load_settings(d, &settings);
    if (code >= 0)
        return code;
    daemon_settings_adopt(d, settings);
    log_set_node(d->log, settings->config->node.name);
    if (daemon_log_config(d, settings->config, &err) != ERR_OK)
        return fail(EX_CANTCREAT, "log.target: %s", err.text);
    if (privs_seccomp(&err) != ERR_OK)
        log_text(d->log, LOG_WARNING, "seccomp", "%s", err.text);
    code = open_dns(d);
    if (code < 0)
        code = open_queue(d);
    return code >= 0 ? code : start_serving(d, max_sessions);
}

static void
run(struct daemon *d)
{
    struct event *signals[3] = {
        evsignal_new(loop_base(d->loop), SIGTERM, on_stop_signal, d),
        evsignal_new(loop_base(d->loop), SIGINT, on_stop_signal, d),
        evsignal_new(loop_base(d->loop), SIGHUP, on_hangup, d),
    };
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        event_add(signals[i], NULL);
    d->phase = DAEMON_RUNNING;
    if (sdnotify_watchdog_ms() > 0)
        on_watchdog(d);
    sdnotify_ready("running");
    loop_run(d->loop);
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        event_free(signals[i]);
}

/* A completion may start something new, which comes back at once now that its helper has stopped.
 */
static void
inbox_drain(struct inbox *inbox)
{
    while (inbox_run(inbox) > 0)
        continue;
}

/* Everything that was handed over is finished; nothing new begins. */
static void
end(struct daemon *d)
{
    if (d->store != NULL) {
        if (d->schedule != NULL)
            schedule_stop(d->schedule);
        accept_free(d->accept);
        d->accept = NULL;
        if (d->delivery != NULL)
            delivery_stop(d->delivery);
        api_stop(d);
        workers_stop(d->workers);
        inbox_drain(d->inbox);
        store_stop(d->store);
        inbox_drain(d->inbox);
        control_free(d->control);
        api_free(d);
        store_free(d->store);
        queue_close(d->queue);
    }
    accept_free(d->accept);
    listener_close(d->control_socket);
    listener_close(d->http_socket);
    wire_free(d);
    for (size_t i = 0; i < d->n_all; i++)
        settings_free(d->all[i]);
    free(d->all);
    facts_free(d->facts);
    dns_free(d->dns);
    workers_free(d->workers);
    inbox_drain(d->inbox);
    inbox_free(d->inbox);
    metrics_free(d->metrics);
    free(d->gauges);
    loop_free(d->loop);
    if (d->exit_code == 0)
        log_text(d->log, LOG_INFO, "stopped", "bye");
    log_stop(d->log, SECOND);
    log_free(d->log);
}

int
main(int argc, char **argv)
{
    struct options options;
    int code = parse_options(argc, argv, &options);
    if (code >= 0)
        return code;
    sdnotify_init();
    signal(SIGPIPE, SIG_IGN);
    if (options.check)
        return check(&options);

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
    code = start(d, &options);
    if (code < 0)
        run(d);
    else
        d->exit_code = code;
    code = d->exit_code;
    end(d);
    free(d);
    return code;
}
