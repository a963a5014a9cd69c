/*
 * What no single option can know. Each function looks at one part of the finished configuration;
 * marks come from the elements, or from the nodes of the options involved. Runs after errors too:
 * text is never NULL, lists may be empty.
 */
#include "policy/config_build.h"

#include <stdio.h>

/* The mark of an option that was given, else of its section, else of the file. */
static struct config_mark
mark_at(const struct builder *b, const char *section, const char *key)
{
    const struct config_node *node = config_given(b, section, key);
    if (node == NULL)
        node = config_given(b, section, NULL);
    return node == NULL ? b->root->mark : node->mark;
}

static const struct config_node *
child_at(const struct config_node *list, size_t i)
{
    const struct config_node *node = list == NULL ? NULL : list->first;
    while (node != NULL && i-- > 0)
        node = node->next;
    return node;
}

static void
check_certificate(struct builder *b)
{
    const struct config *config = b->config;
    bool has_certificate = config->tls.certificate_file[0] != '\0';
    bool has_key = config->tls.private_key.path[0] != '\0';
    if (has_certificate != has_key)
        CONFIG_FAULT(b, mark_at(b, "tls", NULL),
                     has_key ? "tls.certificate_file" : "tls.private_key_file",
                     "is missing, a certificate and its key belong together");
}

static void
check_listener_tls(struct builder *b, const struct config_listener *l, const char *path,
                   bool says_starttls)
{
    const struct config *config = b->config;
    bool has_certificate = config->tls.certificate_file[0] != '\0';
    if (l->tls == CONFIG_LISTENER_IMPLICIT && !has_certificate && l->mark.line > 0)
        CONFIG_FAULT(b, l->mark, path,
                     "implicit TLS without a certificate, expected tls.certificate_file");
    if (says_starttls && !has_certificate)
        CONFIG_WARN(b, l->mark, path, "starttls is off, for there is no tls.certificate_file");
    if (!l->require_auth || l->mark.line == 0)
        return;
    if (!config->has_users)
        CONFIG_FAULT(b, l->mark, path,
                     "requires AUTH and nobody can, expected a users_file in trusted_clients");
    else if (l->tls == CONFIG_LISTENER_OFF && has_certificate)
        CONFIG_FAULT(b, l->mark, path, "requires AUTH, which is offered inside TLS only");
}

static void
check_listeners(struct builder *b)
{
    const struct config *config = b->config;
    const struct config_node *list = config_given(b, "listeners", NULL);
    const struct config_node *node = list == NULL ? NULL : list->first;
    if (list != NULL && config->n_listeners == 0)
        CONFIG_FAULT(b, list->mark, "listeners", "is empty, so nothing could be received");
    for (size_t i = 0; i < config->n_listeners; i++) {
        const struct config_listener *l = &config->listeners[i];
        const char *path = arena_printf(b->arena, "listeners[%zu]", i);
        const struct config_node *tls = config_node_get(node, "tls");
        check_listener_tls(b, l, path, tls != NULL && span_eq(tls->text, SPAN("starttls")));
        for (size_t j = 0; j < i; j++) {
            const struct config_listener *other = &config->listeners[j];
            if (l->port != 0 && l->port == other->port && ip_eq(&l->ip, &other->ip))
                CONFIG_FAULT(b, l->mark, path, "%s is listened on already, by the entry at line %u",
                             l->text, other->mark.line);
        }
        node = node == NULL ? NULL : node->next;
    }
}

static void
check_trust_entry(struct builder *b, const struct config_trust *entry,
                  const struct config_node *node, const char *path)
{
    static const char *const kinds[] = {"cidr", "host", "users_file", "client_certificate"};
    static const char *const host_only[] = {"stale_max", "allow_private"};
    unsigned n = 0;
    for (size_t i = 0; i < N_ELEMENTS(kinds); i++)
        n += config_node_get(node, kinds[i]) != NULL;
    if (n != 1)
        CONFIG_FAULT(b, entry->mark, path,
                     "expected exactly one of cidr, host, users_file, client_certificate");
    for (size_t i = 0; i < N_ELEMENTS(host_only); i++)
        if (config_node_get(node, host_only[i]) != NULL && config_node_get(node, "host") == NULL)
            CONFIG_FAULT(b, entry->mark, path, "%s belongs to host entries", host_only[i]);
    if (config_node_get(node, "require") != NULL && config_node_get(node, "cidr") == NULL &&
        config_node_get(node, "host") == NULL)
        CONFIG_FAULT(b, entry->mark, path, "require belongs to cidr and host entries");
    bool by_address = entry->kind == CONFIG_TRUST_CIDR || entry->kind == CONFIG_TRUST_HOST;
    if (by_address && entry->require_auth && !b->config->has_users)
        CONFIG_FAULT(b, entry->mark, path,
                     "requires auth and nobody can, expected an entry with a users_file too");
    if (entry->kind == CONFIG_TRUST_CIDR && !entry->require_auth)
        for (size_t i = 0; i < entry->n_cidrs; i++)
            if (entry->cidrs[i].bits == 0)
                CONFIG_WARN(b, entry->mark, path,
                            "trusts the whole Internet, which makes an open relay");
}

/* What a name stands for is one thing, however many entries name it. */
static void
check_trusted_name(struct builder *b, size_t at, const char *path)
{
    const struct config_trust *entry = &b->config->trusted[at];
    for (size_t i = 0; i < at; i++) {
        const struct config_trust *other = &b->config->trusted[i];
        if (other->kind != CONFIG_TRUST_HOST || strcmp(other->host, entry->host) != 0)
            continue;
        if (other->stale_max_ms != entry->stale_max_ms ||
            other->allow_private != entry->allow_private)
            CONFIG_FAULT(b, entry->mark, path,
                         "%s has another stale_max or allow_private in the entry at line %u",
                         entry->host, other->mark.line);
        return;
    }
}

static void
check_trusted(struct builder *b)
{
    const struct config *config = b->config;
    const struct config_node *list = config_given(b, "trusted_clients", NULL);
    if (config->n_trusted == 0)
        CONFIG_WARN(b, list == NULL ? b->root->mark : list->mark, "trusted_clients",
                    "is empty, so nobody may relay");
    for (size_t i = 0; i < config->n_trusted; i++) {
        const struct config_trust *entry = &config->trusted[i];
        const char *path = arena_printf(b->arena, "trusted_clients[%zu]", i);
        check_trust_entry(b, entry, child_at(list, i), path);
        if (entry->kind == CONFIG_TRUST_HOST)
            check_trusted_name(b, i, path);
        bool needs_tls = entry->kind == CONFIG_TRUST_USERS ||
                         entry->kind == CONFIG_TRUST_CERTIFICATE || entry->require_tls;
        if (needs_tls && config->tls.certificate_file[0] == '\0')
            CONFIG_FAULT(b, entry->mark, path,
                         "works inside TLS only and there is no certificate, expected "
                         "tls.certificate_file and tls.private_key_file");
    }
}

static void
check_queue(struct builder *b)
{
    const struct config_queue *queue = &b->config->queue;
    struct config_mark mark = mark_at(b, "queue", NULL);
    if (queue->n_intervals > 0 && queue->intervals_ms[0] > queue->max_age_ms)
        CONFIG_WARN(b, mark, "queue.retry",
                    "the first interval is longer than max_age: one attempt only");
    for (size_t i = 1; i < queue->n_warn_after; i++)
        if (queue->warn_after_ms[i] <= queue->warn_after_ms[i - 1])
            CONFIG_FAULT(b, mark_at(b, "queue", "warn_after"), "queue.warn_after",
                         "is not in ascending order");
    if (config_given(b, "queue", "min_free") != NULL && queue->min_free_bytes == 0)
        CONFIG_WARN(b, mark_at(b, "queue", "min_free"), "queue.min_free",
                    "0 leaves no room for the rest of the system");
}

static bool
is_own_listener(const struct config *config, const struct ip *ip, uint16_t port)
{
    for (size_t i = 0; i < config->n_listeners; i++) {
        const struct config_listener *l = &config->listeners[i];
        if (l->port == port &&
            (ip_eq(&l->ip, ip) ||
             (ip_is_unspecified(&l->ip) && ip_is_loopback(ip) && l->ip.family == ip->family)))
            return true;
    }
    return false;
}

static void
check_hop_tls(struct builder *b, const struct hop *hop, const struct config_node *node,
              const char *path)
{
    bool verifies = hop->tls == CONFIG_TLS_VERIFY;
    bool has_ca = hop->ca_file[0] != '\0', has_pin = hop->pin.kind != CONFIG_PIN_NONE;
    if (has_ca && has_pin)
        CONFIG_FAULT(b, hop->mark, path, "ca_file and fingerprint exclude each other");
    if ((has_ca || has_pin) && !verifies)
        CONFIG_FAULT(b, hop->mark, path, "%s is asked only with tls: verify, not with tls: %s",
                     has_ca ? "ca_file" : "fingerprint", config_tls_name(hop->tls));
    if ((hop->certificate_file[0] != '\0') != (hop->private_key.path[0] != '\0'))
        CONFIG_FAULT(b, hop->mark, path, "certificate_file and private_key_file belong together");
    if (hop->certificate_file[0] != '\0' && hop->tls == CONFIG_TLS_OFF)
        CONFIG_FAULT(b, hop->mark, path, "a client certificate is of no use with tls: off");
    if (config_node_get(node, "auth") != NULL && hop->tls == CONFIG_TLS_OFF)
        CONFIG_FAULT(b, hop->mark, path,
                     "auth is done inside TLS only, expected tls: verify or require");
    if (hop->implicit && hop->tls == CONFIG_TLS_OFF)
        CONFIG_FAULT(b, hop->mark, path, "implicit TLS and tls: off exclude each other");
}

static void
check_hops(struct builder *b)
{
    const struct config *config = b->config;
    const struct config_node *table = config_given(b, "hops", NULL);
    for (size_t i = 0; i < config->n_hops; i++) {
        const struct hop *hop = &config->hops[i];
        const struct config_node *node = child_at(table, i);
        const char *path = arena_printf(b->arena, "hops.%.40s", hop->name);
        check_hop_tls(b, hop, node, path);
        if (hop->implicit && hop->port == 0)
            CONFIG_FAULT(b, hop->mark, path,
                         "implicit is for an address with a port; 465 is implicit anyway");
        if (hop->port != 0 && config_node_get(node, "ports") != NULL)
            CONFIG_FAULT(b, hop->mark, path, "ports is for an address without a port");
        if (hop->ip.family != 0 && (ip_is_unspecified(&hop->ip) || ip_is_multicast(&hop->ip)))
            CONFIG_FAULT(b, hop->mark, path, "%s is no address to connect to", hop->address);
        if (hop->port != 0 && hop->ip.family != 0 && is_own_listener(config, &hop->ip, hop->port))
            CONFIG_FAULT(b, hop->mark, path, "%s is a listener of this node itself: a mail loop",
                         hop->address);
    }
}

static void
check_direct(struct builder *b)
{
    const struct config_direct *direct = &b->config->direct;
    if (direct->ca_file[0] != '\0' && direct->tls != CONFIG_TLS_VERIFY) {
        bool rule_verifies = false;
        for (size_t i = 0; i < b->config->n_rules; i++)
            rule_verifies = rule_verifies || (b->config->rules[i].tls_given &&
                                              b->config->rules[i].tls == CONFIG_TLS_VERIFY);
        if (!rule_verifies)
            CONFIG_WARN(b, mark_at(b, "direct", "ca_file"), "direct.ca_file",
                        "no effect without tls: verify here or in a rule");
    }
}

static void
check_dkim(struct builder *b)
{
    const struct config *config = b->config;
    const struct config_node *list = config_given(b, "dkim", NULL);
    for (size_t i = 0; i < config->n_dkim; i++) {
        const struct config_dkim *entry = &config->dkim[i];
        const char *path = arena_printf(b->arena, "dkim[%zu]", i);
        if (entry->domain[0] == '\0' || config_node_get(child_at(list, i), "domain") == NULL)
            continue;
        /* DMARC aligns d= with the From domain: the same name or a parent of it. */
        for (size_t j = 0; j < entry->n_domains; j++) {
            struct span name = span_str(entry->domains[j].name), d = span_str(entry->domain);
            if (!span_eq(name, d) && !domain_is_under(name, d))
                CONFIG_WARN(b, entry->mark, path,
                            "signs for %s with d=%s, which DMARC does not align", name.p, d.p);
        }
    }
}

static void
check_srs(struct builder *b)
{
    const struct config *config = b->config;
    const char *domain = config->srs.domain;
    const char *at = strrchr(config->node.postmaster, '@');
    struct config_mark mark = mark_at(b, "srs", "domain");
    if (domain[0] == '\0')
        return;
    /* Whoever lives there would get no mail any more. */
    if (config_is_local(config, span_str(domain)))
        CONFIG_FAULT(b, mark, "srs.domain",
                     "%s is one of local_domains, expected a domain without mailboxes: what is "
                     "not sent to a rewritten sender is refused there",
                     domain);
    if (at != NULL && span_ieq(span_str(at + 1), span_str(domain)))
        CONFIG_WARN(b, mark, "srs.domain", "mail to node.postmaster, %s, is refused there",
                    config->node.postmaster);
    if (config->n_local_domains == 0)
        CONFIG_WARN(b, mark, "local_domains",
                    "is empty, so srs rewrites every sender, your own people too");
}

static void
check_http(struct builder *b)
{
    const struct config_http *http = &b->config->http;
    if (http->text[0] != '\0' && !ip_is_loopback(&http->ip) && http->token_file.path[0] == '\0')
        CONFIG_FAULT(b, mark_at(b, "http", "address"), "http.token_file",
                     "is missing, required unless the address is loopback");
}

static void
check_learning(struct builder *b)
{
    const struct config_learning *learning = &b->config->learning;
    if (learning->max_ttl_ms < learning->ttl_ms)
        CONFIG_FAULT(b, mark_at(b, "learning", NULL), "learning", "max_ttl is shorter than ttl");
}

void
config_check(struct builder *b)
{
    check_certificate(b);
    check_listeners(b);
    check_trusted(b);
    config_check_gateway(b);
    check_queue(b);
    check_hops(b);
    check_direct(b);
    config_check_rules(b);
    check_dkim(b);
    check_srs(b);
    check_http(b);
    check_learning(b);
    config_check_map(b);
}
