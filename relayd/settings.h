/*
 * settings - a configuration with all that is made of it: keys, TLS contexts, reply rules.
 *
 * Built whole or not at all, by any thread that may block (it reads files); then immutable, but
 * for `refs`, which only the loop touches. --check, start and reload build the same thing, so what
 * a check accepts a start accepts.
 */
#pragma once

#include "policy/classify.h"
#include "policy/config.h"
#include "policy/config_load.h"
#include "policy/dkim.h"
#include "policy/retry.h"

struct accept_setup;
struct geoip;
struct tls_ctx;

#define SETTINGS_TLS_LEVELS 4 /* enum config_tls */

struct settings {
    struct config *config;
    struct accept_setup *accept; /* NULL once accept has taken it */
    struct dkim_keyring *keyring;
    struct classify_rules *rules; /* the loop's */
    struct retry_policy retry;
    struct geoip *geoip; /* NULL: no geoip.database */
    struct tls_ctx *direct_tls[SETTINGS_TLS_LEVELS];
    struct tls_ctx *(*hop_tls)[SETTINGS_TLS_LEVELS]; /* [n_hops]; NULL where no rule can ask */
    struct strbuf
        files; /* absolute paths of what was read and of include patterns, NUL behind each */
    unsigned refs;
};

/*
 * Load `path` and build everything. ERR_INVAL: `problems` says all that is wrong, with places.
 * On ERR_OK there may be warnings in it, and *ret has one reference.
 */
MUST_CHECK enum err_code
settings_load(const char *path, struct settings **ret, struct config_problems *problems);

/* Free it; any thread, nobody refers to it any more. NULL is fine. */
void settings_free(struct settings *settings);

/* The TLS context for a route's level; NULL for CONFIG_TLS_OFF. `hop` NULL: direct. */
struct tls_ctx *
settings_tls(const struct settings *settings, const struct hop *hop, enum config_tls level);
