/* What readers of a finished configuration call. */
#include "policy/config.h"

#include <string.h>

#include "policy/base/mem.h"

static void
wipe(struct span bytes)
{
    if (bytes.n > 0)
        explicit_bzero((void *)bytes.p, bytes.n); /* the arena's memory, ours to write */
}

static void
forget(struct span *bytes)
{
    wipe(*bytes);
    *bytes = SPAN_NONE;
}

void
config_forget_keys(struct config *config)
{
    forget(&config->tls.private_key.bytes);
    for (size_t i = 0; i < config->n_trusted; i++)
        forget(&config->trusted[i].users.bytes);
    for (size_t i = 0; i < config->n_hops; i++)
        forget(&config->hops[i].private_key.bytes);
    for (size_t i = 0; i < config->n_dkim; i++)
        forget(&config->dkim[i].key.bytes);
}

void
config_free(struct config *config)
{
    if (config == NULL)
        return;
    config_forget_keys(config);
    for (size_t i = 0; i < config->n_hops; i++)
        wipe(config->hops[i].password_file.bytes);
    wipe(config->srs.secret_file.bytes);
    wipe(config->http.token_file.bytes);
    arena_free(config->arena);
}

const char *
config_tls_name(enum config_tls level)
{
    static const char *const names[] = {"off", "opportunistic", "require", "verify"};
    return (size_t)level < N_ELEMENTS(names) ? names[level] : "unknown";
}

int
config_route_find(const struct config *config, struct span name)
{
    for (size_t i = 0; i < config->n_routes; i++)
        if (span_eq(name, span_str(config->routes[i].name)))
            return (int)i;
    return -1;
}

const struct config_shape *
config_shape_find(const struct config *config, struct span host)
{
    const struct config_shape *best = &config->shaping;
    size_t best_n = 0;
    for (size_t i = 0; i < config->n_providers; i++) {
        const struct config_provider *provider = &config->providers[i];
        for (size_t k = 0; k < provider->n_mx; k++) {
            /* What matches the same host is nested: the longer name is the more specific one. */
            size_t n = strlen(provider->mx[k].name);
            if (n > best_n && domain_pattern_matches(&provider->mx[k], host)) {
                best_n = n;
                best = &provider->shape;
            }
        }
    }
    return best;
}

bool
config_is_local(const struct config *config, struct span domain)
{
    size_t low = 0, high = config->n_local_domains;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *name = config->local_domains[middle];
        size_t n = strlen(name);
        int order = memcmp(domain.p, name, domain.n < n ? domain.n : n);
        if (order == 0 && domain.n == n)
            return true;
        if (order < 0 || (order == 0 && domain.n < n))
            high = middle;
        else
            low = middle + 1;
    }
    return false;
}
