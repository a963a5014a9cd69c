/* What follows from the options: names of routes, default listeners, values inherited from others.
 */
#include "policy/config_build.h"

#include <stdlib.h>

/* Before the walk, so that a rule may name a hop that stands further down. */
void
config_name_routes(struct builder *b)
{
    struct config *config = b->config;
    const struct config_node *hops = config_given(b, "hops", NULL);
    size_t n = hops != NULL && hops->kind == CONFIG_MAPPING ? hops->n_children : 0;
    if (n > CONFIG_ROUTES_MAX - 1)
        n = CONFIG_ROUTES_MAX - 1; /* the walk reports it */
    config->routes = arena_alloc(b->arena, (n + 1) * sizeof(*config->routes));
    config->routes[0] = (struct route){.name = CONFIG_DIRECT, .kind = ROUTE_DIRECT};
    config->n_routes = 1;
    const struct config_node *hop = n == 0 ? NULL : hops->first;
    for (; config->n_routes <= n; hop = hop->next)
        config->routes[config->n_routes++] = (struct route){
            .name = arena_strndup(b->arena, hop->key.p, hop->key.n), .kind = ROUTE_HOP};
}

static void
join_routes_and_hops(struct config *config)
{
    for (size_t i = 0; i < config->n_hops && i + 1 < config->n_routes; i++) {
        config->hops[i].route = (unsigned)i + 1;
        config->routes[i + 1].hop = &config->hops[i];
    }
}

static void
derive_trust(struct builder *b)
{
    struct config *config = b->config;
    for (size_t i = 0; i < config->n_trusted; i++) {
        struct config_trust *entry = &config->trusted[i];
        if (entry->users.path[0] != '\0') {
            entry->kind = CONFIG_TRUST_USERS;
            config->has_users = true;
        } else if (entry->pin.kind != CONFIG_PIN_NONE) {
            entry->kind = CONFIG_TRUST_CERTIFICATE;
        } else if (entry->host[0] != '\0') {
            entry->kind = CONFIG_TRUST_HOST;
        } else {
            entry->kind = CONFIG_TRUST_CIDR;
        }
    }
}

static void
add_listener(struct builder *b, const char *address, enum config_listener_tls tls, bool auth)
{
    struct config *config = b->config;
    struct config_listener *l = &config->listeners[config->n_listeners++];
    *l = (struct config_listener){
        .mark = {.file = config->file}, .text = address, .tls = tls, .require_auth = auth};
    if (ip_port_parse(span_str(address), 0, &l->ip, &l->port, NULL) != ERR_OK)
        abort(); /* a literal below */
}

static void
default_listeners(struct builder *b)
{
    struct config *config = b->config;
    config->listeners = arena_alloc(b->arena, 6 * sizeof(*config->listeners));
    config->n_listeners = 0;
    add_listener(b, "0.0.0.0:25", CONFIG_LISTENER_STARTTLS, false);
    add_listener(b, "[::]:25", CONFIG_LISTENER_STARTTLS, false);
    if (!config->has_users)
        return;
    add_listener(b, "0.0.0.0:587", CONFIG_LISTENER_STARTTLS, true);
    add_listener(b, "[::]:587", CONFIG_LISTENER_STARTTLS, true);
    add_listener(b, "0.0.0.0:465", CONFIG_LISTENER_IMPLICIT, true);
    add_listener(b, "[::]:465", CONFIG_LISTENER_IMPLICIT, true);
}

static void
derive_listeners(struct builder *b)
{
    struct config *config = b->config;
    if (config_given(b, "listeners", NULL) == NULL)
        default_listeners(b);
    if (config->tls.certificate_file[0] != '\0')
        return;
    for (size_t i = 0; i < config->n_listeners; i++)
        if (config->listeners[i].tls == CONFIG_LISTENER_STARTTLS)
            config->listeners[i].tls = CONFIG_LISTENER_OFF;
}

static void
derive_rule(struct rule *rule, const struct config_node *node)
{
    rule->tls_given = config_node_get(node, "tls") != NULL;
    if (config_node_get(node, "route") != NULL)
        rule->action = RULE_ROUTE;
    else if (rule->reject[0] != '\0')
        rule->action = RULE_REJECT;
    else if (config_node_get(node, "discard") != NULL)
        rule->action = RULE_DISCARD;
    else if (rule->hold[0] != '\0')
        rule->action = RULE_HOLD;
    else
        rule->action = RULE_FENCE;
}

static void
derive_rules(struct builder *b)
{
    struct config *config = b->config;
    const struct config_node *map = config_given(b, "transport_map", NULL);
    const struct config_node *node = map == NULL ? NULL : map->first;
    for (size_t i = 0; i < config->n_rules; i++, node = node->next) {
        config->rules[i].no = (unsigned)i;
        derive_rule(&config->rules[i], node);
    }
}

static void
derive_providers(struct builder *b)
{
    struct config *config = b->config;
    const struct config_node *list = config_given(b, "shaping", "providers");
    const struct config_node *node = list == NULL ? NULL : list->first;
    for (size_t i = 0; i < config->n_providers; i++, node = node->next) {
        struct config_shape *shape = &config->providers[i].shape;
        if (config_node_get(node, "max_connections") == NULL)
            shape->max_connections = config->shaping.max_connections;
        if (config_node_get(node, "max_messages_per_connection") == NULL)
            shape->max_messages_per_connection = config->shaping.max_messages_per_connection;
        if (config_node_get(node, "max_rate") == NULL)
            shape->max_rate = config->shaping.max_rate;
    }
}

static int
compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void
config_derive(struct builder *b)
{
    struct config *config = b->config;
    join_routes_and_hops(config);
    derive_trust(b);
    derive_listeners(b);
    derive_rules(b);
    derive_providers(b);
    if (config->direct.egress.v4.family == 0)
        config->direct.egress.v4 = config->direct.source.v4;
    if (config->direct.egress.v6.family == 0)
        config->direct.egress.v6 = config->direct.source.v6;
    config->queue.min_free_given = config_given(b, "queue", "min_free") != NULL;
    for (size_t i = 0; i < config->n_dkim; i++)
        if (config->dkim[i].selector[0] == '\0')
            config->dkim[i].selector = config->node.name;
    if (config->n_local_domains > 0)
        qsort(config->local_domains, config->n_local_domains, sizeof(char *), compare_names);
}
