/*
 * setup - what accept makes of one configuration. Private to relayd/accept.
 *
 * Immutable but for its references and TLS contexts, which belong to the loop once it is in use.
 */
#pragma once

#include "policy/users.h"
#include "relayd/accept/accept.h"
#include "relayd/accept/smtpd.h"

struct tls_ctx;
struct config_listener;

struct listener_setup {
    const struct config_listener *config;
    struct smtpd_conf conf;
    struct tls_ctx *tls; /* NULL: none here */
    bool implicit;
};

struct accept_setup {
    const struct config *config;
    unsigned refs; /* loop only; 0: not in use yet */
    void (*config_done)(void *arg, const struct config *config);
    void *config_arg;
    struct listener_setup *listeners; /* as config->listeners */
    struct users **users;             /* one for each users_file */
    size_t n_users;
    bool asks_certificate; /* some entry of trusted_clients wants one */
    char *postmaster;
    struct ip *own;
    size_t n_own;
};

/* Hold it, and let go: the last one frees it and tells config_done. Loop only. */
void setup_ref(struct accept_setup *setup);
void setup_unref(struct accept_setup *setup);

/* Make the TLS context of one listener from the files; any thread. */
MUST_CHECK enum err_code
setup_tls(const struct accept_setup *setup, size_t listener, struct tls_ctx **ret, struct err *err);
/* The table that a name is checked against; NULL: there is none. */
const struct users *setup_users(const struct accept_setup *setup, struct span name);
