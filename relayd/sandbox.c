/*
 * sandbox - collects the trees and enters.
 */
#include "relayd/sandbox.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/ops/privs.h"

#define RESOLV_CONF "/etc/resolv.conf"

static const struct privs_tree fixed[] = {
    {"/etc", PRIVS_READ},
    {"/usr", PRIVS_READ},
    {"/lib", PRIVS_READ},
    {"/lib32", PRIVS_READ},
    {"/lib64", PRIVS_READ},
    {"/run/secrets", PRIVS_READ},
    /* where /etc/resolv.conf may lead from one day to the next */
    {"/run/systemd/resolve", PRIVS_READ},
    {"/run/NetworkManager", PRIVS_READ},
    {"/run/resolvconf", PRIVS_READ},
    {"/run/connman", PRIVS_READ},
    {"/proc", PRIVS_READ}, /* /proc/self: memory in use. Of others, what ps shows */
    {"/dev/null", PRIVS_APPEND},
    {"/dev/random", PRIVS_READ},
    {"/dev/urandom", PRIVS_READ},
};

struct trees {
    struct privs_tree *items;
    size_t n, n_room;
};

static void
trees_release(struct trees *trees)
{
    for (size_t i = 0; i < trees->n; i++)
        free((char *)trees->items[i].path);
    free(trees->items);
}

/* `path` is the list's from now on. */
static void
add(struct trees *trees, char *path, enum privs_access access)
{
    for (size_t i = 0; i < trees->n; i++) {
        if (trees->items[i].access == access && strcmp(trees->items[i].path, path) == 0) {
            free(path);
            return;
        }
    }
    if (trees->n == trees->n_room) {
        trees->n_room = trees->n_room * 2 + 32;
        trees->items = xrealloc(trees->items, trees->n_room * sizeof(*trees->items));
    }
    trees->items[trees->n++] = (struct privs_tree){path, access};
}

/* The directory that holds `path`; for a file right in the root, the file itself. */
static void
add_parent(struct trees *trees, const char *path, enum privs_access access)
{
    char *parent = xstrdup(path);
    char *slash = strrchr(parent, '/');
    if (slash != NULL && slash != parent)
        *slash = '\0';
    add(trees, parent, access);
}

/* A file that is read: where it is named, and where links lead to (/etc/letsencrypt/live to
 * ../archive); both with what is beside it, for it will be replaced there. */
static void
add_file(struct trees *trees, const char *path)
{
    char real[PATH_MAX];
    add_parent(trees, path, PRIVS_READ);
    if (realpath(path, real) != NULL)
        add_parent(trees, real, PRIVS_READ);
}

/* An include pattern: the directory in front of the first wildcard. */
static void
add_pattern(struct trees *trees, const char *pattern)
{
    char *directory = xstrdup(pattern);
    directory[strcspn(directory, "*?[")] = '\0';
    add_parent(trees, directory, PRIVS_READ);
    free(directory);
}

/* It may lead to a directory that a network manager has yet to make, as at boot: then to the next
 * one above that is there. */
static void
add_resolv_conf(struct trees *trees)
{
    char path[PATH_MAX];
    struct stat st;
    ssize_t n = readlink(RESOLV_CONF, path, sizeof(path) - 1);
    if (n <= 0)
        return; /* no link: /etc is there */
    path[n] = '\0';
    add_file(trees, RESOLV_CONF);
    for (char *slash; path[0] == '/' && (slash = strrchr(path, '/')) != path; *slash = '\0') {
        if (stat(path, &st) == 0) {
            add(trees, xstrdup(path), PRIVS_READ);
            return;
        }
    }
}

/* Where OpenSSL looks for CAs, if told elsewhere than in /etc or /usr. */
static void
add_ca(struct trees *trees)
{
    const char *file = getenv("SSL_CERT_FILE"), *directory = getenv("SSL_CERT_DIR");
    if (file != NULL)
        add_file(trees, file);
    if (directory != NULL)
        add(trees, xstrdup(directory), PRIVS_READ);
}

enum err_code
sandbox_enter(const struct settings *settings, struct sandbox *ret, struct err *err)
{
    const struct config *config = settings->config;
    CLEANUP(trees_release) struct trees trees = {0};
    struct err no_seccomp;

    for (size_t i = 0; i < N_ELEMENTS(fixed); i++)
        add(&trees, xstrdup(fixed[i].path), fixed[i].access);
    for (size_t at = 0; at < settings->files.n; at += strlen(settings->files.p + at) + 1) {
        const char *path = settings->files.p + at;
        if (strpbrk(path, "*?[") != NULL)
            add_pattern(&trees, path);
        add_file(&trees, path);
    }
    add_resolv_conf(&trees);
    add_ca(&trees);
    add(&trees, xstrdup(config->queue.path), PRIVS_ALL);
    add_parent(&trees, config->control_socket, PRIVS_UNLINK);
    if (config->log.target == CONFIG_LOG_FILE)
        add_parent(&trees, config->log.file, PRIVS_APPEND);

    enum err_code code = privs_landlock(trees.items, trees.n, &ret->landlock, err);
    enum err_code filtered = privs_seccomp(&no_seccomp);
    ret->seccomp = filtered == ERR_OK && !PRIVS_TRACEABLE;
    if (code != ERR_OK)
        return code;
    if (filtered != ERR_OK)
        *err = no_seccomp;
    return filtered;
}
