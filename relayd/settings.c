/*
 * settings - builds what a configuration names. Called by main.c at start and --check, and by a
 * worker at reload.
 */
#include "relayd/settings.h"

#include <assert.h>
#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/config_node.h"
#include "policy/geoip.h"
#include "policy/users.h"
#include "relayd/accept/accept.h"
#include "relayd/net/tls.h"

/* Where section.key stands in the files, or the nearest thing to it that does. */
static struct config_mark
place(const struct config *config, const char *section, const char *key)
{
    const struct config_node *node = config_node_get(config->root, section);
    const struct config_node *child = config_node_get(node, key);
    if (child != NULL)
        return child->mark;
    return node != NULL ? node->mark : config->root->mark;
}

static void
build_keyring(struct settings *settings, struct config_problems *problems)
{
    const struct config *config = settings->config;
    settings->keyring = dkim_keyring_new();
    for (size_t i = 0; i < config->n_dkim; i++) {
        const struct config_dkim *entry = &config->dkim[i];
        struct dkim_key *key;
        struct err err;

        const struct dkim_entry add = {.domains = entry->domains,
                                       .n_domains = entry->n_domains,
                                       .domain = span_str(entry->domain),
                                       .selector = span_str(entry->selector)};
        enum err_code code = dkim_key_parse(entry->key.bytes, &key, &err);
        if (code != ERR_OK)
            config_problem_add(problems, CONFIG_ERROR, entry->mark, "dkim.key_file", "%s: %s",
                               entry->key.path, err.text);
        else if (dkim_keyring_add(settings->keyring, &add, key, &err) != ERR_OK)
            config_problem_add(problems, CONFIG_ERROR, entry->mark, "dkim", "%s", err.text);
    }
}

static void
build_rules(struct settings *settings, struct config_problems *problems)
{
    const struct config_classify *classify = &settings->config->classify;
    settings->rules = classify_rules_new();
    if (classify->rules != NULL)
        classify_rules_add_node(settings->rules, classify->rules, "classify.rules", problems);
    if (classify->rules_file[0] != '\0')
        classify_rules_parse(settings->rules, classify->rules_bytes, classify->rules_file,
                             problems);
    else
        classify_rules_parse(settings->rules, classify_builtin_text(), "(built-in replies.yaml)",
                             problems);
}

static struct tls_ctx *
client_context(const struct hop *hop, const char *ca_file, enum config_tls level,
               struct config_mark mark, const char *path, struct config_problems *problems)
{
    struct tls_pin pin;
    struct tls_client_config c = {
        .level = (enum tls_level)level,
        .legacy = hop == NULL && level == CONFIG_TLS_OPPORTUNISTIC,
        .ca_file = ca_file[0] == '\0' ? NULL : ca_file,
    };
    struct tls_ctx *ctx = NULL;
    struct err err;

    if (hop != NULL && hop->pin.kind != CONFIG_PIN_NONE) {
        pin.kind = hop->pin.kind == CONFIG_PIN_CERT ? TLS_PIN_CERT : TLS_PIN_SPKI;
        memcpy(pin.sha256, hop->pin.digest, sizeof(pin.sha256));
        c.pins = &pin;
        c.n_pins = 1;
    }
    if (hop != NULL && hop->certificate_file[0] != '\0') {
        c.certificate_file = hop->certificate_file;
        c.private_key_file = hop->private_key.path;
    }
    if (tls_client_new(&c, &ctx, &err) != ERR_OK)
        config_problem_add(problems, CONFIG_ERROR, mark, path, "%s", err.text);
    return ctx;
}

/* Levels that a route can be used at: its own, and what rules ask beyond it. */
static bool
level_is_used(const struct config *config, enum config_tls own, enum config_tls level)
{
    if (level == own)
        return true;
    for (size_t i = 0; i < config->n_rules; i++)
        if (config->rules[i].tls_given && config->rules[i].tls == level && level > own)
            return true;
    return false;
}

static void
build_tls(struct settings *settings, struct config_problems *problems)
{
    const struct config *config = settings->config;
    static_assert((int)CONFIG_TLS_VERIFY == (int)TLS_VERIFY && (int)CONFIG_TLS_OFF == (int)TLS_OFF,
                  "the levels of config and tls have the same order");

    settings->hop_tls = xcalloc(config->n_hops, sizeof(*settings->hop_tls));
    for (int level = CONFIG_TLS_OPPORTUNISTIC; level <= CONFIG_TLS_VERIFY; level++) {
        if (level_is_used(config, config->direct.tls, (enum config_tls)level))
            settings->direct_tls[level] =
                client_context(NULL, config->direct.ca_file, (enum config_tls)level,
                               place(config, "direct", "ca_file"), "direct.ca_file", problems);
        for (size_t i = 0; i < config->n_hops; i++) {
            const struct hop *hop = &config->hops[i];
            char path[80];
            snprintf(path, sizeof(path), "hops.%.60s", hop->name);
            if (level_is_used(config, hop->tls, (enum config_tls)level))
                settings->hop_tls[i][level] = client_context(
                    hop, hop->ca_file, (enum config_tls)level, hop->mark, path, problems);
        }
    }
}

/* What accept will make of files, tried beforehand: so that each fault has its place. */
static void
check_accept(const struct config *config, struct config_problems *problems)
{
    struct err err;
    for (size_t i = 0; i < config->n_trusted; i++) {
        const struct config_trust *trust = &config->trusted[i];
        struct users *users = NULL;
        if (trust->kind == CONFIG_TRUST_USERS &&
            users_parse(trust->users.bytes, trust->users.path, &users, &err) != ERR_OK)
            config_problem_add(problems, CONFIG_ERROR, trust->mark, "trusted_clients.users_file",
                               "%s", err.text);
        users_free(users);
    }
    if (config->tls.certificate_file[0] == '\0')
        return;
    const struct tls_server_config server = {.certificate_file = config->tls.certificate_file,
                                             .private_key_file = config->tls.private_key.path};
    struct tls_ctx *ctx = NULL;
    if (tls_server_new(&server, &ctx, &err) != ERR_OK)
        config_problem_add(problems, CONFIG_ERROR, place(config, "tls", "certificate_file"), "tls",
                           "%s", err.text);
    tls_ctx_free(ctx);
}

static void
build_geoip(struct settings *settings, struct config_problems *problems)
{
    const struct config *config = settings->config;
    const char *path = config->geoip_database;
    struct err err;
    if (path[0] != '\0')
        strbuf_add(&settings->files, path, strlen(path) + 1);
    if (path[0] != '\0' && geoip_open(path, &settings->geoip, &err) != ERR_OK)
        config_problem_add(problems, CONFIG_ERROR, place(config, "geoip", "database"),
                           "geoip.database", "%s: %s", path, err.text);
}

/* Can the log be written there? Asked of the kernel, so that --check makes no file. */
static void
check_log(const struct config *config, struct config_problems *problems)
{
    char directory[PATH_MAX];
    struct stat st;
    const char *file = config->log.file;

    if (config->log.target != CONFIG_LOG_FILE)
        return;
    int rc = access(file, W_OK);
    if (rc == 0 && stat(file, &st) == 0 && S_ISDIR(st.st_mode)) {
        errno = EISDIR;
        rc = -1;
    } else if (rc != 0 && errno == ENOENT) {
        snprintf(directory, sizeof(directory), "%s", file);
        rc = access(dirname(directory), W_OK | X_OK);
    }
    if (rc != 0)
        config_problem_add(problems, CONFIG_ERROR, place(config, "log", "target"), "log.target",
                           "%s: cannot be written: %s", file, strerror(errno));
}

static void
build_retry(struct settings *settings)
{
    const struct config_queue *queue = &settings->config->queue;
    settings->retry = (struct retry_policy){
        .intervals_ms = queue->intervals_ms,
        .n_intervals = queue->n_intervals,
        .jitter_percent = queue->jitter_percent,
        .greylist_ms = queue->greylist_ms,
        .max_age_ms = queue->max_age_ms,
        .max_age_bounce_ms = queue->max_age_bounce_ms,
        .warn_after_ms = queue->warn_after_ms,
        .n_warn_after = queue->n_warn_after,
    };
}

/* ---- which files that takes ---- */

static enum err_code
read_and_note(void *ctx, const char *path, size_t max, struct config_blob *ret, struct err *err)
{
    strbuf_add(ctx, path, strlen(path) + 1);
    const struct config_source *files = config_files_source();
    return files->read(files->ctx, path, max, ret, err);
}

static enum err_code
glob_and_note(void *ctx, const char *pattern, void (*found)(void *arg, const char *path), void *arg,
              struct err *err)
{
    strbuf_add(ctx, pattern, strlen(pattern) + 1);
    const struct config_source *files = config_files_source();
    return files->glob(files->ctx, pattern, found, arg, err);
}

enum err_code
settings_load(const char *path, struct settings **ret, struct config_problems *problems)
{
    struct config *config;
    struct err err;
    CLEANUP(strbuf_release) struct strbuf files = STRBUF_INIT;
    const struct config_source source = {&files, read_and_note, glob_and_note, NULL};
    size_t n_before = problems->n_errors;

    if (config_load(path, &source, 0, &config, problems) != ERR_OK)
        return ERR_INVAL;
    struct settings *settings = xcalloc(1, sizeof(*settings));
    settings->config = config;
    settings->files = files;
    files = STRBUF_INIT;
    settings->refs = 1;
    build_keyring(settings, problems);
    build_rules(settings, problems);
    build_tls(settings, problems);
    build_geoip(settings, problems);
    build_retry(settings);
    check_accept(config, problems);
    check_log(config, problems);
    if (problems->n_errors == n_before &&
        accept_setup_new(config, &settings->accept, &err) != ERR_OK)
        config_problem_add(problems, CONFIG_ERROR, config->root->mark, "", "%s", err.text);
    if (problems->n_errors > n_before) {
        settings_free(settings);
        return ERR_INVAL;
    }
    config_forget_keys(config);
    *ret = settings;
    return ERR_OK;
}

void
settings_free(struct settings *settings)
{
    if (settings == NULL)
        return;
    for (int level = 0; level < SETTINGS_TLS_LEVELS; level++) {
        tls_ctx_free(settings->direct_tls[level]);
        for (size_t i = 0; i < settings->config->n_hops; i++)
            tls_ctx_free(settings->hop_tls[i][level]);
    }
    free(settings->hop_tls);
    if (settings->accept != NULL)
        accept_setup_free(settings->accept);
    dkim_keyring_free(settings->keyring);
    classify_rules_free(settings->rules);
    geoip_close(settings->geoip);
    config_free(settings->config);
    strbuf_release(&settings->files);
    free(settings);
}

struct tls_ctx *
settings_tls(const struct settings *settings, const struct hop *hop, enum config_tls level)
{
    if (hop == NULL)
        return settings->direct_tls[level];
    return settings->hop_tls[hop - settings->config->hops][level];
}
