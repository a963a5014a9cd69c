/*
 * reload - a new configuration, all or nothing: built by a worker, swapped in by the loop. What is
 * wrong with it is logged and told to whoever asked, and the old one stays.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/config_node.h"
#include "relayd/daemon.h"
#include "relayd/net/sdnotify.h"

struct reload {
    struct job job;
    struct reload *next;
    struct daemon *d;
    struct settings *settings; /* NULL: refused */
    struct config_problems problems;
    void (*done)(void *arg, bool ok, const struct config_problems *problems);
    void *arg;
};

void
daemon_log_problems(struct daemon *d, const struct config_problems *problems)
{
    struct log_line line;
    for (size_t i = 0; i < problems->n; i++) {
        CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
        bool is_error = problems->items[i].severity == CONFIG_ERROR;
        config_problem_format(&problems->items[i], &text);
        log_begin(d->log, &line, is_error ? LOG_ERROR : LOG_WARNING, "config");
        log_str(&line, "text", strbuf_span(&text));
        log_end(&line);
    }
}

void
daemon_dns_config(const struct config *config, struct net_addr *servers, struct dns_config *ret)
{
    static_assert(CONFIG_RESOLVERS_MAX <= DNS_SERVERS_MAX, "none is left out");
    for (size_t i = 0; i < config->resolver.n_servers; i++)
        servers[i] =
            (struct net_addr){config->resolver.servers[i].ip, config->resolver.servers[i].port};
    *ret = (struct dns_config){.servers = servers,
                               .n_servers = config->resolver.n_servers,
                               .timeout_ms = config->resolver.timeout_ms,
                               .cache_max = config->resolver.cache_max};
}

enum err_code
daemon_log_config(struct daemon *d, const struct config *config, struct err *err)
{
    static const enum log_level levels[] = {
        [CONFIG_LOG_ALERT] = LOG_ALERT,  [CONFIG_LOG_ERROR] = LOG_ERROR,
        [CONFIG_LOG_WARN] = LOG_WARNING, [CONFIG_LOG_INFO] = LOG_INFO,
        [CONFIG_LOG_DEBUG] = LOG_DEBUG,
    };
    const char *target = config->log.target == CONFIG_LOG_STDERR   ? "stderr"
                         : config->log.target == CONFIG_LOG_SYSLOG ? "syslog"
                                                                   : config->log.file;
    log_set_format(d->log, config->log.format == CONFIG_LOG_JSON ? LOG_JSON : LOG_LOGFMT);
    log_set_level(d->log, levels[config->log.level]);
    return log_set_target(d->log, target, err);
}

/* Where an option is in the file; the whole file when it is not there. */
static struct config_mark
mark_of(const struct config *config, const char *section_key, const char *key)
{
    const struct config_node *section = config_node_get(config->root, section_key);
    const struct config_node *node = config_node_get(section, key);
    node = node != NULL ? node : section != NULL ? section : config->root;
    return node->mark;
}

/* Options that were used up at the start: say so, for the file and the daemon differ from now on.
 */
static void
warn_of_restart(const struct daemon *d, const struct config *new, struct config_problems *problems)
{
    const struct {
        const char *path, *old, *new, *section, *key, *meanwhile;
    } options[] = {
        {"user", d->started.user, new->user, "user", "", ""},
        {"queue.path", d->started.queue_path, new->queue.path, "queue", "path", ""},
        {"control.socket", d->started.control_socket, new->control_socket, "control", "socket", ""},
        {"http.address", d->started.http_address, new->http.text, "http", "address",
         d->started.http_address[0] == '\0' ? ""
                                            : ": until then the old one is served, with the "
                                              "token that it had"},
    };
    for (size_t i = 0; i < N_ELEMENTS(options); i++)
        if (strcmp(options[i].old, options[i].new) != 0)
            config_problem_add(problems, CONFIG_WARNING,
                               mark_of(new, options[i].section, options[i].key), options[i].path,
                               "takes effect at the next start only%s", options[i].meanwhile);
}

/* Ids, the log, and the selectors that have its name go by the node's name: all of them, or none.
 */
static bool
is_other_node(const struct daemon *d, const struct config *new, struct config_problems *problems)
{
    if (strcmp(d->started.node, new->node.name) == 0)
        return false;
    config_problem_add(problems, CONFIG_ERROR, mark_of(new, "node", "name"), "node.name",
                       "another name takes a restart: this relayd is \"%s\"", d->started.node);
    return true;
}

/* The token of the address that is served; that of another one waits for the next start. */
static void
use_token(struct daemon *d, const struct config *config)
{
    if (strcmp(d->started.http_address, config->http.text) == 0)
        control_set_token(d->control, config->http.token);
}

/* Everything that can refuse comes before everything that cannot. */
static enum err_code
swap(struct daemon *d, struct settings *settings, struct err *err)
{
    const struct config *config = settings->config;
    struct net_addr servers[DNS_SERVERS_MAX];
    struct dns_config dns;

    daemon_dns_config(config, servers, &dns);
    enum err_code code = dns_reconfigure(d->dns, &dns, err);
    if (code != ERR_OK)
        return code;
    code = accept_use(d->accept, settings->accept, err);
    if (code != ERR_OK) {
        struct err again;
        daemon_dns_config(d->settings->config, servers, &dns);
        if (dns_reconfigure(d->dns, &dns, &again) != ERR_OK)
            log_text(d->log, LOG_ERROR, "resolver", "%s", again.text);
        return code;
    }
    settings->accept = NULL;
    daemon_settings_adopt(d, settings);
    struct err ignored;
    if (daemon_log_config(d, config, &ignored) != ERR_OK)
        log_text(d->log, LOG_ERROR, "log_target", "%s", ignored.text);
    if (!queue_limits_set(d->queue, config->queue.max_size_bytes,
                          config->queue.min_free_given ? (int64_t)config->queue.min_free_bytes
                                                       : -1))
        log_text(d->log, LOG_WARNING, "config",
                 "queue.max_size grows beyond what the queue was opened for: it takes a restart");
    daemon_policy_changed(d);
    use_token(d, config);
    return ERR_OK;
}

static void
reload_run(struct job *job, struct worker *worker)
{
    struct reload *r = CONTAINER_OF(job, struct reload, job);
    (void)worker;
    if (settings_load(r->d->config_file, &r->settings, &r->problems) != ERR_OK)
        r->settings = NULL;
}

static void reload_start(struct daemon *d);

/* `r` is over: on with those who wait behind it, or tell them that it is too late. */
static void
reload_next(struct reload *r)
{
    struct daemon *d = r->d;

    d->reload = r->next;
    free(r);
    while (d->reload != NULL && d->phase != DAEMON_RUNNING) {
        r = d->reload;
        d->reload = r->next;
        if (r->done != NULL)
            r->done(r->arg, false, &r->problems);
        free(r);
    }
    if (d->reload != NULL)
        reload_start(d);
}

static void
reload_done(struct job *job)
{
    struct reload *r = CONTAINER_OF(job, struct reload, job);
    struct daemon *d = r->d;
    struct err err = {0};
    bool ok = false;

    if (r->settings != NULL && is_other_node(d, r->settings->config, &r->problems)) {
        settings_free(r->settings);
        r->settings = NULL;
    }
    if (r->settings != NULL)
        warn_of_restart(d, r->settings->config, &r->problems);
    daemon_log_problems(d, &r->problems);
    bool too_late = r->settings != NULL && d->phase != DAEMON_RUNNING;
    if (r->settings != NULL && !too_late) {
        ok = swap(d, r->settings, &err) == ERR_OK;
        if (!ok) {
            settings_free(r->settings);
            config_problem_add(&r->problems, CONFIG_ERROR, (struct config_mark){0}, "", "%s",
                               err.text);
        }
    } else {
        settings_free(r->settings);
    }
    d->reload_error[0] = '\0';
    if (ok) {
        d->reloaded_at = clock_wall(loop_clock(d->loop));
        log_text(d->log, LOG_INFO, "reloaded", "%s", d->config_file);
    } else if (!job->dropped && !too_late) {
        snprintf(d->reload_error, sizeof(d->reload_error), "%s",
                 err.text[0] != '\0' ? err.text : "the file has errors, see the log");
        log_alert(d->log, "reload_failed", "the old configuration stays: %s", d->reload_error);
    }
    if (d->phase == DAEMON_RUNNING)
        sdnotify_ready(NULL);
    if (r->done != NULL)
        r->done(r->arg, ok, &r->problems);
    config_problems_release(&r->problems);
    reload_next(r);
}

/* The first of the line. */
static void
reload_start(struct daemon *d)
{
    struct reload *r = d->reload;
    r->job.run = reload_run;
    r->job.done = reload_done;
    sdnotify_reloading();
    log_reopen(d->log);
    accept_refresh_certificates(d->accept);
    workers_submit(d->workers, &r->job);
}

void
daemon_reload(struct daemon *d,
              void (*done)(void *arg, bool ok, const struct config_problems *problems), void *arg)
{
    /* One at a time, so that the file that was read last is the one in force. A signal is content
     * with the next one; verbs wait for an answer of their own. */
    struct reload **end = &d->reload;
    while (*end != NULL)
        end = &(*end)->next;
    if (done == NULL && d->reload != NULL && end != &d->reload->next)
        return;
    struct reload *r = xcalloc(1, sizeof(*r));
    r->d = d;
    r->done = done;
    r->arg = arg;
    *end = r;
    if (d->reload == r)
        reload_start(d);
}
