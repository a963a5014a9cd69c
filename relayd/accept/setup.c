/*
 * setup - from a configuration to what sessions use: limits, users, certificates. Called by the
 * daemon at start and by a worker at reload.
 */
#include "relayd/accept/setup.h"

#include "policy/base/mem.h"
#include "policy/config.h"
#include "relayd/net/addr.h"
#include "relayd/net/tls.h"

#include <assert.h>
#include <ifaddrs.h>
#include <stdlib.h>
#include <sys/random.h>

#define IDLE_MS (5 * MINUTE)           /* RFC 5321 section 4.5.3.2.7 */
#define IDLE_STRESSED_MS (10 * SECOND) /* above 80 % of limits.sessions */

/* Our own addresses, so that a literal of them is known. Without them only the listeners' count. */
static void
find_own(struct accept_setup *setup)
{
    struct ifaddrs *all = NULL;
    size_t n = 0;

    if (getifaddrs(&all) != 0)
        all = NULL;
    for (const struct ifaddrs *i = all; i != NULL; i = i->ifa_next)
        n++;
    setup->own = xcalloc(n + setup->config->n_listeners + 1, sizeof *setup->own);
    for (const struct ifaddrs *i = all; i != NULL; i = i->ifa_next) {
        if (i->ifa_addr == NULL)
            continue;
        struct ip ip = net_addr_from_sockaddr(i->ifa_addr).ip;
        if (ip.family != 0)
            setup->own[setup->n_own++] = ip;
    }
    for (size_t i = 0; i < setup->config->n_listeners; i++)
        setup->own[setup->n_own++] = setup->config->listeners[i].ip;
    if (all != NULL)
        freeifaddrs(all);
}

static enum err_code
read_users(struct accept_setup *setup, struct err *err)
{
    const struct config *config = setup->config;

    setup->users = xcalloc(config->n_trusted + 1, sizeof *setup->users);
    for (size_t i = 0; i < config->n_trusted; i++) {
        const struct config_trust *trust = &config->trusted[i];
        setup->asks_certificate |= trust->kind == CONFIG_TRUST_CERTIFICATE;
        if (trust->kind != CONFIG_TRUST_USERS)
            continue;
        enum err_code code =
            users_parse(trust->users.bytes, trust->users.path, &setup->users[setup->n_users], err);
        if (code != ERR_OK)
            return code;
        setup->n_users++;
    }
    return ERR_OK;
}

static const char *
version_text(enum config_tls_version version)
{
    static const char *const texts[] = {[CONFIG_TLS_1_0] = "1.0",
                                        [CONFIG_TLS_1_1] = "1.1",
                                        [CONFIG_TLS_1_2] = "1.2",
                                        [CONFIG_TLS_1_3] = "1.3"};
    return texts[version];
}

enum err_code
setup_tls(const struct accept_setup *setup, size_t listener, struct tls_ctx **ret, struct err *err)
{
    const struct config *config = setup->config;
    struct tls_server_config server = {
        .certificate_file = config->tls.certificate_file,
        .private_key_file = config->tls.private_key.path,
        .min_version = version_text(config->tls.min_version),
        .ask_client_certificate = setup->asks_certificate,
        .session_scope = config->listeners[listener].text,
    };
    return tls_server_new(&server, ret, err);
}

static enum err_code
make_listener(struct accept_setup *setup, size_t i, struct map_seed seed, struct err *err)
{
    const struct config *config = setup->config;
    const struct config_listener *from = &config->listeners[i];
    struct listener_setup *l = &setup->listeners[i];

    l->config = from;
    l->implicit = from->tls == CONFIG_LISTENER_IMPLICIT;
    l->conf = (struct smtpd_conf){
        .hostname = config->node.hostname,
        .postmaster = setup->postmaster,
        .srs_domain = config->srs.domain == NULL ? "" : config->srs.domain,
        .seed = seed,
        .own = setup->own,
        .n_own = setup->n_own,
        .message_bytes = config->limits.message_size_bytes,
        .stranger_bytes = ACCEPT_STRANGER_BYTES_MAX,
        .header_bytes = ACCEPT_HEADER_MAX,
        .max_rcpts = config->limits.recipients_per_message,
        .starttls = from->tls == CONFIG_LISTENER_STARTTLS,
        .auth = setup->n_users > 0,
        .require_auth = from->require_auth,
        .reject_newlines = from->bare_newline == CONFIG_NEWLINE_REJECT,
        .idle_ms = IDLE_MS,
        .idle_stressed_ms = IDLE_STRESSED_MS,
    };
    return from->tls == CONFIG_LISTENER_OFF ? ERR_OK : setup_tls(setup, i, &l->tls, err);
}

enum err_code
accept_setup_new(const struct config *config, struct accept_setup **ret, struct err *err)
{
    struct accept_setup *setup = xcalloc(1, sizeof *setup);
    struct map_seed seed;

    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        abort();
    setup->config = config;
    setup->listeners = xcalloc(config->n_listeners + 1, sizeof *setup->listeners);
    setup->postmaster = config->node.postmaster[0] != '\0'
                            ? xstrdup(config->node.postmaster)
                            : xasprintf("postmaster@%s", config->node.hostname);
    find_own(setup);
    enum err_code code = read_users(setup, err);
    for (size_t i = 0; i < config->n_listeners && code == ERR_OK; i++)
        code = make_listener(setup, i, seed, err);
    if (code != ERR_OK) {
        accept_setup_free(setup);
        return code;
    }
    *ret = setup;
    return ERR_OK;
}

void
accept_setup_free(struct accept_setup *setup)
{
    if (setup == NULL)
        return;
    assert(setup->refs == 0);
    for (size_t i = 0; i < setup->config->n_listeners; i++)
        tls_ctx_free(setup->listeners[i].tls);
    for (size_t i = 0; i < setup->n_users; i++)
        users_free(setup->users[i]);
    free(setup->users);
    free(setup->listeners);
    free(setup->own);
    free(setup->postmaster);
    free(setup);
}

void
setup_ref(struct accept_setup *setup)
{
    setup->refs++;
}

void
setup_unref(struct accept_setup *setup)
{
    assert(setup->refs > 0);
    if (--setup->refs > 0)
        return;
    const struct config *config = setup->config;
    void (*done)(void *arg, const struct config *config) = setup->config_done;
    void *arg = setup->config_arg;
    accept_setup_free(setup);
    if (done != NULL)
        done(arg, config);
}

const struct users *
setup_users(const struct accept_setup *setup, struct span name)
{
    for (size_t i = 0; i < setup->n_users; i++)
        if (users_has(setup->users[i], name))
            return setup->users[i];
    return setup->n_users > 0 ? setup->users[0] : NULL;
}
