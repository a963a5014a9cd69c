/*
 * start - from a configuration file to a relay that serves: as root what needs root, then as the
 * user everything else. Each step says itself what was wrong, in one line on stderr.
 */
#include "relayd/start.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/config_node.h"
#include "relayd/blame.h"
#include "relayd/learned.h"
#include "relayd/net/listener.h"
#include "relayd/stop.h"

#define NOFILE_WANTED 65536
#define NOFILE_SPARE 64 /* queue, log, DNS, control, libraries: at most half of all */
#define OUTBOUND_MAX 4000

int
start_fail(int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("relayd: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return code;
}

void
start_print_problems(const struct config_problems *problems)
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
        return start_fail(EX_CANTCREAT, "%s: cannot be made: %s", path, strerror(errno));
    if (geteuid() == 0 && chown(path, user->uid, user->gid) != 0)
        return start_fail(EX_CANTCREAT, "%s: cannot be given to %s: %s", path, user->name,
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
            return start_fail(EX_NOUSER, "user: %s", err.text);
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
        return start_fail(EX_NOPERM, "user %s: %s", user->name, err.text);
    if (privs_harden(&err) != ERR_OK)
        return start_fail(EX_OSERR, "%s", err.text);
    return -1;
}

int
start_load_outline(const char *file, struct config **ret)
{
    struct config_problems problems = {0};
    enum err_code code = config_load(file, NULL, CONFIG_LOAD_OUTLINE, ret, &problems);
    if (code != ERR_OK)
        start_print_problems(&problems);
    config_problems_release(&problems);
    return code == ERR_OK ? -1 : EX_CONFIG;
}

/* ---- what it stands on ---- */

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
        return start_fail(exit_code_of(code), "queue: %s", err.text);
    /* Opening it has synced the directory above, which is nobody's from now on. */
    if (sandbox_enter(d->settings, &d->sandbox, &err) != ERR_OK)
        log_text(d->log, LOG_WARNING, "sandbox", "%s", err.text);
    if (info.on_overlay)
        log_text(d->log, LOG_WARNING, "queue",
                 "%s is on an overlay file system: mail is lost with the container",
                 config->queue.path);
    char in_hand[PATH_MAX];
    snprintf(in_hand, sizeof(in_hand), "%s/in-hand", config->queue.path);
    d->marks = xcalloc(INHAND_SLOTS, sizeof(*d->marks));
    code = inhand_open(in_hand, d->marks, &d->n_marks, &err);
    if (code == ERR_FULL) /* deliveries make room; only the blame for a crash is lost */
        log_text(d->log, LOG_WARNING, "queue", "no message can be blamed for a crash: %s",
                 err.text);
    else if (code != ERR_OK)
        return start_fail(exit_code_of(code), "queue: %s", err.text);
    const struct store_options store = {
        .queue = d->queue,
        .inbox = d->inbox,
        .arg = d,
        .on_failed = daemon_store_failed,
    };
    code = store_new(&store, &d->store, &err);
    if (code != ERR_OK)
        return start_fail(exit_code_of(code), "queue: %s", err.text);
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
        return start_fail(EX_CONFIG, "resolver: %s", err.text);
    d->facts = facts_new(d->dns);
    facts_set_log(d->facts, d->log);
    facts_set_config(d->facts, d->settings->config);
    trusted_use(d->trusted, d->dns, d->facts, d->settings->config);
    return -1;
}

/* The sockets that a start needs root, or its place in line, for. */
static int
bind_sockets(struct daemon *d, const struct config *outline, const struct privs_user *user)
{
    char directory[PATH_MAX];
    struct err err;

    enum err_code code = accept_bind(d->accept, outline, &err);
    if (code == ERR_PERM)
        return start_fail(EX_NOPERM, "%s: ports below 1024 need root or CAP_NET_BIND_SERVICE",
                          err.text);
    if (code != ERR_OK)
        return start_fail(exit_code_of(code), "%s", err.text);
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
        return start_fail(exit_code_of(code), "control.socket: %s", err.text);
    if (outline->http.text[0] != '\0') {
        const struct net_addr addr = {outline->http.ip, outline->http.port};
        code = listener_open(&addr, &d->http_socket, &err);
        if (code != ERR_OK)
            return start_fail(exit_code_of(code), "http.address: %s", err.text);
    }
    d->started.http_address = xstrdup(outline->http.text);
    d->started.control_socket = xstrdup(outline->control_socket);
    return ensure_directory(outline->queue.path, 0700, user);
}

static int
load_settings(struct daemon *d, struct settings **ret)
{
    struct config_problems problems = {0};
    enum err_code code = settings_load(d->config_file, ret, &problems);
    if (code != ERR_OK)
        start_print_problems(&problems);
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
    size_t usable = nofile > NOFILE_SPARE * 2 ? nofile - NOFILE_SPARE : nofile / 2;
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
        control_serve_tcp(d->control, d->http_socket, config->http.token);
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
    log_cstr(&line, "seccomp", d->sandbox.seccomp ? "yes" : "no");
    log_uint(&line, "landlock", (uint64_t)d->sandbox.landlock);
    log_end(&line);
    if (geteuid() == 0)
        log_text(d->log, LOG_WARNING, "root", "running as root: `user: root` says so");
}

/* ---- in order ---- */

/* As root, if we are: ports, sockets, directories; then privileges are gone. */
static int
start_privileged(struct daemon *d, const char *file, size_t max_sessions)
{
    struct config *outline;
    struct privs_user user;

    int code = start_load_outline(file, &outline);
    if (code >= 0)
        return code;
    wire_accept(d, max_sessions);
    code = find_user(outline, &user);
    privs_raise_bind();
    if (code < 0)
        code = bind_sockets(d, outline, &user);
    if (code < 0)
        code = drop_privileges(outline, &user);
    config_free(outline);
    return code;
}

static void
on_learned(void *arg)
{
    struct daemon *d = arg;
    schedule_start(d->schedule);
}

static void
on_blamed(struct daemon *d)
{
    d->blamed = true;
    if (d->accepting)
        learned_load(d->learned, on_learned, d);
}

/* What crashed the last run may come again as soon as we accept, and crash this one before its
 * count is stored: so nothing comes in before. */
static void
count_blamed(struct daemon *d)
{
    d->blame = blame_start(d, d->marks, d->n_marks, on_blamed);
    if (d->n_marks > 0 && !store_settle(d->store, STORE_SETTLE_MS))
        log_text(d->log, LOG_WARNING, "poison", "the disk is slow: evidence may be lost");
}

static int
start_serving(struct daemon *d, size_t max_sessions)
{
    struct err err;

    enum err_code code = log_start(d->log, &err);
    if (code == ERR_OK)
        code = workers_start(d->workers, &err);
    if (code != ERR_OK)
        return start_fail(exit_code_of(code), "%s", err.text);
    wire_stages(d);
    gauges_new(d);
    count_blamed(d);
    serve_control(d);
    struct accept_setup *setup = d->settings->accept;
    d->settings->accept = NULL;
    code = accept_use(d->accept, setup, &err);
    if (code != ERR_OK) {
        accept_setup_free(setup);
        return start_fail(exit_code_of(code), "%s", err.text);
    }
    d->accepting = true;
    if (d->blamed)
        learned_load(d->learned, on_learned, d);
    log_ready(d, max_sessions);
    return -1;
}

int
daemon_start(struct daemon *d)
{
    struct settings *settings;
    struct err err;
    size_t max_sessions = share_descriptors(d);

    int code = start_privileged(d, d->config_file, max_sessions);
    if (code < 0)
        code = load_settings(d, &settings);
    if (code >= 0)
        return code;
    daemon_settings_adopt(d, settings);
    log_set_node(d->log, settings->config->node.name);
    d->started.node = xstrdup(settings->config->node.name);
    d->started.user = xstrdup(settings->config->user);
    d->started.queue_path = xstrdup(settings->config->queue.path);
    if (daemon_log_config(d, settings->config, &err) != ERR_OK)
        return start_fail(EX_CANTCREAT, "log.target: %s", err.text);
    code = open_dns(d);
    if (code < 0)
        code = open_queue(d);
    return code >= 0 ? code : start_serving(d, max_sessions);
}
