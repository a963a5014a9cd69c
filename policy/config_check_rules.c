/* Cross checks of transport_map and local_domains. */
#include "policy/config_build.h"

#include "policy/route.h"

/* Does the rule have at least one matcher? */
static bool
has_matcher(const struct config_node *rule)
{
    static const char *const matchers[] = {"domains", "domains_file", "recipients",
                                           "senders", "mx",           "mx_country"};
    for (size_t i = 0; i < N_ELEMENTS(matchers); i++)
        if (config_node_get(rule, matchers[i]) != NULL)
            return true;
    return false;
}

/* What the rule says to do, one thing only, and the options that go with it. */
static void
check_action(struct builder *b, const struct rule *rule, const struct config_node *node,
             const char *path)
{
    static const char *const actions[] = {"route", "reject", "discard", "hold"};
    static const char *const of_route[] = {"fallback", "fallback_after", "learn", "spf_softfail",
                                           "tls"};
    unsigned n = 0;
    for (size_t i = 0; i < N_ELEMENTS(actions); i++)
        n += config_node_get(node, actions[i]) != NULL;
    if (n > 1)
        CONFIG_FAULT(b, rule->mark, path,
                     "expected one of route, reject, discard, hold, not several");
    if (n == 0 && config_node_get(node, "never_via") == NULL)
        CONFIG_FAULT(b, rule->mark, path,
                     "says nothing to do, expected one of route, reject, discard, hold, never_via");
    for (size_t i = 0; i < N_ELEMENTS(of_route); i++)
        if (config_node_get(node, of_route[i]) != NULL && config_node_get(node, "route") == NULL)
            CONFIG_FAULT(b, rule->mark, path, "%s without a route", of_route[i]);
}

/* The route itself among its fallbacks is left out: nothing would come of it. */
static void
drop_self(struct builder *b, struct rule *rule, const char *path)
{
    size_t n = 0;
    for (size_t i = 0; i < rule->n_fallback; i++)
        if (rule->fallback[i] != rule->route)
            rule->fallback[n++] = rule->fallback[i];
    if (n < rule->n_fallback)
        CONFIG_WARN(b, rule->mark, path, "route %s is its own fallback, which is ignored",
                    b->config->routes[rule->route].name);
    rule->n_fallback = n;
}

static void
check_fallback(struct builder *b, struct rule *rule, const struct config_node *node,
               const char *path)
{
    route_mask seen = 0;
    if (rule->action != RULE_ROUTE)
        return;
    if (config_node_get(node, "fallback_after") != NULL && rule->n_fallback == 0)
        CONFIG_FAULT(b, rule->mark, path, "fallback_after without a fallback");
    drop_self(b, rule, path);
    for (size_t i = 0; i < rule->n_fallback; i++) {
        route_mask bit = (route_mask)1 << rule->fallback[i];
        if ((seen & bit) != 0)
            CONFIG_FAULT(b, rule->mark, path, "route %s stands twice in fallback",
                         b->config->routes[rule->fallback[i]].name);
        seen |= bit;
    }
}

static void
check_country(struct builder *b, const struct config_node *node, const char *path)
{
    const struct config_node *countries = config_node_get(node, "mx_country");
    if (countries != NULL && b->config->geoip_database[0] == '\0')
        CONFIG_FAULT(b, countries->mark, path, "mx_country needs geoip.database");
}

static void
check_rule(struct builder *b, struct rule *rule, const struct config_node *node, const char *path,
           const struct rule *default_rule)
{
    if (node->kind != CONFIG_MAPPING)
        return; /* reported by the walk */
    check_action(b, rule, node, path);
    check_fallback(b, rule, node, path);
    check_country(b, node, path);
    if (rule->is_default && has_matcher(node))
        CONFIG_FAULT(b, rule->mark, path,
                     "the default rule matches everything and takes no matcher");
    else if (!rule->is_default && !has_matcher(node))
        CONFIG_FAULT(b, rule->mark, path,
                     "matches nothing in particular, expected domains, domains_file, recipients, "
                     "senders, mx, mx_country, or default: true");
    if (rule->is_default && default_rule != NULL && default_rule != rule)
        CONFIG_FAULT(b, rule->mark, path, "a second default rule, the first is at %s:%u",
                     default_rule->mark.file, default_rule->mark.line);
    else if (default_rule != NULL && rule->no > default_rule->no && rule->action != RULE_FENCE)
        CONFIG_WARN(b, rule->mark, path,
                    "stands behind the default rule at line %u and never decides",
                    default_rule->mark.line);
}

/* Bounces to our own people go home by a rule of their own, not by the default to our public MX. */
static void
check_local_domain(struct builder *b, const char *domain, const struct config_node *list)
{
    /* Our own mail is not to depend on what DNS says of us. */
    static const struct route_facts none = {.mx = ROUTE_FACT_NONE, .country = ROUTE_FACT_NONE};
    struct route_query query = {
        .rcpt_local = SPAN("postmaster"), .domain = span_str(domain), .facts = &none};
    struct route_decision decision;
    route_decide(b->config, &query, &decision);
    if (decision.rule != NULL && !decision.rule->is_default)
        return;
    for (size_t i = 0; i < b->config->n_rules; i++) {
        const struct rule *rule = &b->config->rules[i];
        if (rule->action != RULE_FENCE &&
            domain_patterns_find(rule->domains, rule->n_domains, query.domain) != NULL)
            return; /* with a sender or recipient matcher besides */
    }
    CONFIG_WARN(
        b, list->mark, "local_domains",
        "no rule of transport_map names %s: bounces to our own people go by the default rule",
        domain);
}

void
config_check_rules(struct builder *b)
{
    const struct config *config = b->config;
    const struct config_node *map = config_given(b, "transport_map", NULL);
    const struct config_node *node = map == NULL ? NULL : map->first;
    const struct rule *default_rule = NULL;
    for (size_t i = 0; i < config->n_rules && default_rule == NULL; i++)
        if (config->rules[i].is_default)
            default_rule = &config->rules[i];
    for (size_t i = 0; i < config->n_rules; i++, node = node->next)
        check_rule(b, &config->rules[i], node, arena_printf(b->arena, "transport_map[%zu]", i),
                   default_rule);
    if (default_rule == NULL)
        CONFIG_WARN(b, map == NULL ? b->root->mark : map->mark, "transport_map",
                    "no default rule: what no rule matches is refused with 550 5.4.4");
    const struct config_node *list = config_given(b, "local_domains", NULL);
    bool outline = (b->flags & CONFIG_LOAD_OUTLINE) != 0; /* lists in files are not there */
    for (size_t i = 0; i < config->n_local_domains && !outline; i++)
        check_local_domain(b, config->local_domains[i], list);
}
