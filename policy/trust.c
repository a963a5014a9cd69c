/* One pass over trusted_clients; the first entry that grants wins, else the nearest miss is told.
 */
#include "policy/trust.h"

#include <stdio.h>
#include <string.h>

static const struct cidr *
find_cidr(const struct config_trust *entry, const struct ip *peer)
{
    for (size_t i = 0; i < entry->n_cidrs; i++)
        if (cidr_has(&entry->cidrs[i], peer))
            return &entry->cidrs[i];
    return NULL;
}

static bool
pin_matches(const struct config_pin *pin, const struct trust_query *query)
{
    const uint8_t *shown = pin->kind == CONFIG_PIN_SPKI ? query->spki_digest : query->cert_digest;
    return shown != NULL && memcmp(pin->digest, shown, sizeof(pin->digest)) == 0;
}

static bool
has_address(const struct trust_name *name, const struct ip *ip)
{
    for (size_t i = 0; i < name->n_addresses; i++)
        if (ip_eq(&name->addresses[i], ip))
            return true;
    return false;
}

/* Is this one of the addresses of the entry's name, as things stand? */
static bool
has_name(const struct config_trust *entry, const struct trust_query *query)
{
    const struct trust_names *names = query->names;
    for (size_t i = 0; names != NULL && i < names->n; i++)
        if (strcmp(names->list[i].host, entry->host) == 0)
            return has_address(&names->list[i], &query->peer);
    return false;
}

/* May it turn out to be one of them? */
static bool
may_have_name(const struct config_trust *entry, const struct trust_query *query)
{
    const struct trust_names *names = query->names;
    for (size_t i = 0; names != NULL && i < names->n; i++)
        if (strcmp(names->list[i].host, entry->host) == 0)
            return query->peer.family == 4 ? names->list[i].v4_unknown : names->list[i].v6_unknown;
    return false; /* a reload has taken it away: nobody */
}

/* The address matches, as `what` says: does the client show what the entry asks besides? */
static bool
check_required(const struct config_trust *entry, const struct trust_query *query, const char *kind,
               const char *what, struct trust_decision *ret)
{
    bool needs_auth = entry->require_auth && query->auth_user.n == 0;
    bool needs_tls = entry->require_tls && !query->tls;
    snprintf(ret->why, sizeof(ret->why), "%s %s%s%s%s%s", kind, what,
             needs_auth || needs_tls ? " asks for " : "", needs_auth ? "auth" : "",
             needs_auth && needs_tls ? " and " : "", needs_tls ? "tls" : "");
    return !needs_auth && !needs_tls;
}

static bool
check_cidr(const struct config_trust *entry, const struct trust_query *query,
           struct trust_decision *ret)
{
    const struct cidr *block = find_cidr(entry, &query->peer);
    char text[CIDR_TEXT_MAX];
    return block != NULL && check_required(entry, query, "cidr", cidr_format(block, text), ret);
}

static bool
check_entry(const struct config_trust *entry, const struct trust_query *query,
            struct trust_decision *ret)
{
    switch (entry->kind) {
    case CONFIG_TRUST_CIDR:
        return check_cidr(entry, query, ret);
    case CONFIG_TRUST_USERS:
        if (query->auth_user.n == 0)
            return false;
        snprintf(ret->why, sizeof(ret->why), "user %.*s",
                 (int)(query->auth_user.n < 100 ? query->auth_user.n : 100), query->auth_user.p);
        return true;
    case CONFIG_TRUST_CERTIFICATE:
        if (!pin_matches(&entry->pin, query))
            return false;
        snprintf(ret->why, sizeof(ret->why), "client certificate");
        return true;
    case CONFIG_TRUST_HOST:
        return has_name(entry, query) && check_required(entry, query, "host", entry->host, ret);
    }
    return false;
}

bool
trust_check(const struct config *config, const struct trust_query *query,
            struct trust_decision *ret)
{
    *ret = (struct trust_decision){.why = "no entry of trusted_clients matches"};
    for (size_t i = 0; i < config->n_trusted; i++) {
        if (check_entry(&config->trusted[i], query, ret)) {
            ret->relay = true;
            ret->entry = &config->trusted[i];
            ret->undecided = false;
            return true;
        }
        if (config->trusted[i].kind == CONFIG_TRUST_HOST &&
            may_have_name(&config->trusted[i], query))
            ret->undecided = true;
    }
    return false;
}

const char *
trust_address_fault(const struct ip *ip, bool allow_private)
{
    bool is_inside = ip_is_loopback(ip) || ip_is_private(ip) || ip_is_link_local(ip);
    if (!ip_is_special(ip) || (is_inside && allow_private))
        return NULL;
    return ip_class_name(ip);
}
