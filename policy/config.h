/*
 * config - the whole configuration as one immutable value.
 *
 * config_load() (config_load.h) builds it in one arena, in whatever thread; nothing changes
 * afterwards, so any thread may read it without a lock; config_free() frees it all. The meaning,
 * default and range of each option are in the table of config_schema.c, which is also the manual
 * relayd.yaml(5). Here: only what a field holds beyond that.
 *
 * What holds for all fields
 *  (1) Every option is there with its default; nothing needs to be asked twice.
 *  (2) Text and paths are never NULL; "" means not set. Paths are absolute when the path of the
 *      main file was (else relative to the same directory as that).
 *  (3) Domains are canonical (policy/base/domain.h), addresses too (policy/base/ip.h).
 *  (4) Addresses with family 0, ports 0, empty spans: not set. Lists are pointer and n_.
 */
#pragma once

#include "policy/base/domain.h"
#include "policy/base/ip.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"
#include "policy/base/units.h"

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_ROUTES_MAX 64 /* direct and 63 hops: a set of routes is one word */
#define CONFIG_RULES_MAX 4096
#define CONFIG_RESOLVERS_MAX 16
#define CONFIG_PORTS_MAX 8 /* of one hop's ladder */

struct arena;
struct config_node;
struct route_index;

/* Where an element of the file begins: for messages of the form file:line. */
struct config_mark {
    const char *file;
    unsigned line, col; /* from 1; 0: not from a file (a default) */
};

/* A set of routes: bit i is routes[i]. */
typedef uint64_t route_mask;

/* Levels in order of strictness, so that the stricter of two is the greater. */
enum config_tls {
    CONFIG_TLS_OFF,
    CONFIG_TLS_OPPORTUNISTIC,
    CONFIG_TLS_REQUIRE,
    CONFIG_TLS_VERIFY,
};
enum config_tls_version { CONFIG_TLS_1_0, CONFIG_TLS_1_1, CONFIG_TLS_1_2, CONFIG_TLS_1_3 };
enum config_listener_tls {
    CONFIG_LISTENER_OFF,
    CONFIG_LISTENER_STARTTLS,
    CONFIG_LISTENER_IMPLICIT
};
enum config_newline { CONFIG_NEWLINE_NORMALIZE, CONFIG_NEWLINE_REJECT };
enum config_ip_version { CONFIG_IP_AUTO, CONFIG_IP_4, CONFIG_IP_6 };
enum config_dkim_failure { CONFIG_DKIM_TEMPFAIL, CONFIG_DKIM_ACCEPT };
enum config_language { CONFIG_LANG_EN, CONFIG_LANG_ZH };
enum config_log_format { CONFIG_LOG_LOGFMT, CONFIG_LOG_JSON };
enum config_log_level {
    CONFIG_LOG_ALERT,
    CONFIG_LOG_ERROR,
    CONFIG_LOG_WARN,
    CONFIG_LOG_INFO,
    CONFIG_LOG_DEBUG
};
enum config_log_target { CONFIG_LOG_STDERR, CONFIG_LOG_SYSLOG, CONFIG_LOG_FILE };

/* Fingerprint of a certificate or of its public key (SHA-256 of the SubjectPublicKeyInfo). */
struct config_pin {
    enum { CONFIG_PIN_NONE, CONFIG_PIN_CERT, CONFIG_PIN_SPKI } kind;
    uint8_t digest[32];
};

/* A file that others may not read, as it was when the configuration was loaded. */
struct config_secret {
    const char *path;  /* "" when not set */
    struct span bytes; /* the whole content; empty when loaded with CONFIG_LOAD_OUTLINE */
};

/* One address of each family, or none. */
struct config_pair {
    struct ip v4, v6;
};

/* "*@domain", "local@domain", "*@*.domain", "<>". See route.h for how they compare. */
struct address_pattern {
    struct span local; /* unquoted, as written; .p NULL: any */
    struct domain_pattern domain;
    bool null_sender; /* "<>"; the rest is unused */
};

struct config_listener {
    struct config_mark mark; /* line 0: one of the default listeners */
    const char *text;        /* "127.0.0.1:2525", "[::]:25": for logs */
    struct ip ip;
    uint16_t port;
    enum config_listener_tls tls; /* what is served: STARTTLS became OFF without a certificate */
    bool require_auth;
    enum config_newline bare_newline;
    struct cidr *proxies; /* these must speak PROXY v1/v2 here, all others are closed */
    size_t n_proxies;     /* 0: plain listener */
};

enum config_trust_kind {
    CONFIG_TRUST_CIDR,
    CONFIG_TRUST_HOST,
    CONFIG_TRUST_USERS,
    CONFIG_TRUST_CERTIFICATE
};

struct config_trust {
    struct config_mark mark;
    enum config_trust_kind kind;
    struct cidr *cidrs; /* CIDR */
    size_t n_cidrs;
    const char *host; /* HOST: what it stands for is in trust_query.names */
    bool require_auth, require_tls;
    msec_t stale_max_ms;
    bool allow_private;
    struct config_secret users; /* USERS: parsed by policy/users.h */
    struct config_pin pin;      /* CERTIFICATE */
};

struct config_limits {
    uint64_t message_size_bytes;
    uint32_t recipients_per_message, sessions, sessions_per_client, received_hops;
    uint64_t memory_bytes;
};

struct config_queue {
    const char *path;
    uint64_t max_size_bytes, min_free_bytes;
    bool min_free_given;  /* false: the default, to be held to 5 % of the file system */
    msec_t *intervals_ms; /* n_intervals >= 1; the last one repeats */
    size_t n_intervals;
    unsigned jitter_percent;
    msec_t greylist_ms, max_age_ms, max_age_bounce_ms;
    msec_t *warn_after_ms; /* ascending */
    size_t n_warn_after;
};

struct config_server {
    struct ip ip;
    uint16_t port;
};
struct config_resolver {
    struct config_server *servers; /* n_servers 0: /etc/resolv.conf */
    size_t n_servers;
    msec_t timeout_ms;
    uint32_t cache_max;
};

struct config_timeouts {
    msec_t connect_ms, greeting_ms, ehlo_ms, starttls_ms, auth_ms, mail_ms, rcpt_ms, data_ms,
        block_ms, final_dot_ms, quit_ms;
};

struct hop {
    struct config_mark mark;
    const char *name;
    unsigned route;      /* its index in config.routes, >= 1 */
    const char *address; /* as written, for logs */
    const char *host;    /* canonical name; "" when `ip` is set */
    struct ip ip;        /* when the address is a literal */
    uint16_t port;       /* 0: try `ports` in order */
    uint16_t *ports;     /* 465 is implicit TLS */
    size_t n_ports;
    bool implicit; /* implicit TLS on `port` */
    enum config_tls tls;
    const char *ca_file;   /* "": the system's */
    struct config_pin pin; /* instead of a CA */
    const char *username;  /* "": no AUTH */
    struct config_secret password_file;
    struct span password; /* its one line, without the newline */
    const char *certificate_file;
    struct config_secret private_key;
    bool signs;
    struct config_pair egress;
    uint32_t max_connections, max_messages_per_connection;
    struct rate max_rate;
};

struct config_direct {
    uint16_t port;
    struct config_pair source, egress; /* egress: source where it is not given */
    enum config_tls tls;
    const char *ca_file;
    enum config_ip_version ip_version;
    bool allow_private;
};

/* Where mail can go. routes[0] is CONFIG_DIRECT; the hops follow in the order of the file. */
#define CONFIG_DIRECT "direct"
struct route {
    const char *name;
    enum { ROUTE_DIRECT, ROUTE_HOP } kind;
    const struct hop *hop; /* NULL for direct */
};

enum rule_action { RULE_FENCE, RULE_ROUTE, RULE_REJECT, RULE_DISCARD, RULE_HOLD };

struct rule {
    struct config_mark mark;
    unsigned no;             /* its index in config.rules */
    enum rule_action action; /* FENCE: never_via and nothing else */
    bool is_default;
    /* Matchers; n 0: does not ask. All that are given must hold. The lists are for reports: route.c
     * matches by config.index. */
    struct domain_pattern *domains;
    size_t n_domains;
    const char *domains_file;
    size_t n_file_domains; /* what the file held */
    struct address_pattern *recipients, *senders;
    size_t n_recipients, n_senders;
    struct domain_pattern *mx;
    size_t n_mx;
    const char **mx_country; /* "US" */
    size_t n_mx_country;
    /* ROUTE */
    unsigned route;     /* index in config.routes */
    unsigned *fallback; /* likewise, in order, `route` is not among them */
    size_t n_fallback;
    msec_t fallback_after_ms; /* 0: never */
    bool learn;
    bool spf_softfail; /* softfail speaks against a route like fail */
    bool tls_given;
    enum config_tls tls;  /* at least this level, when tls_given */
    route_mask never_via; /* any action */
    const char *reject;   /* REJECT: the reply, "550 5.1.2 this partner has moved" */
    const char *hold;     /* HOLD: the reason */
};

struct config_learning {
    msec_t ttl_ms, max_ttl_ms;
    uint32_t path_errors_count;
    msec_t path_errors_within_ms;
    struct rate max_reroutes;
};

struct config_classify {
    const char *rules_file;
    struct span rules_bytes;         /* its content */
    const struct config_node *rules; /* a sequence, or NULL; see config_node.h */
};

struct config_dkim {
    struct config_mark mark;
    struct domain_pattern *domains;
    size_t n_domains;
    const char *domain; /* d=; "": the name that matched, for a wildcard its base */
    const char *selector;
    struct config_secret key; /* PEM */
};

struct config_srs {
    const char *domain;
    struct config_secret secret_file;
    struct span *secrets; /* one a line */
    size_t n_secrets;
};

struct config_shape {
    uint32_t max_connections, max_messages_per_connection;
    struct rate max_rate;
};
struct config_provider {
    struct config_mark mark;
    struct domain_pattern *mx;
    size_t n_mx;
    struct config_shape shape; /* what it does not give is shaping.default's */
};

struct config_http {
    const char *text; /* "127.0.0.1:8025"; "": off */
    struct ip ip;
    uint16_t port;
    struct config_secret token_file;
    struct span token; /* its one line */
};

struct config_log {
    enum config_log_format format;
    enum config_log_level level;
    enum config_log_target target;
    const char *file; /* for CONFIG_LOG_FILE */
};

struct config {
    struct arena *arena; /* holds all of this */
    const char *file;    /* the main file, as named to config_load() */
    const struct config_node *root;

    struct {
        const char *name, *hostname, *region, *postmaster;
    } node;
    const char *user;
    struct config_listener *listeners;
    size_t n_listeners;
    struct {
        const char *certificate_file; /* "": no certificate */
        struct config_secret private_key;
        enum config_tls_version min_version;
    } tls;
    struct config_trust *trusted;
    size_t n_trusted;
    bool has_users; /* some trusted_clients entry is a users_file: AUTH is offered */
    bool allow_gateway;
    struct config_limits limits;
    struct config_queue queue;
    enum config_language *languages; /* n_languages >= 1 */
    size_t n_languages;
    struct config_resolver resolver;
    struct config_timeouts timeouts;
    struct hop *hops;
    size_t n_hops;
    struct config_direct direct;
    struct route *routes; /* [0] is direct */
    size_t n_routes;
    const char **local_domains; /* in byte order: config_is_local() */
    size_t n_local_domains;
    struct rule *rules; /* in the order in which they are tried */
    size_t n_rules;
    const struct route_index *index; /* route.c's; covers domains_file too */
    const char *geoip_database;
    struct config_learning learning;
    struct config_classify classify;
    struct config_dkim *dkim;
    size_t n_dkim;
    enum config_dkim_failure dkim_failure;
    struct config_srs srs;
    struct config_shape shaping;
    struct config_provider *providers;
    size_t n_providers;
    const char *control_socket;
    struct config_http http;
    struct config_log log;
};

/* Secrets are wiped, then everything is freed. NULL is fine. */
void config_free(struct config *config);

/* Overwrite the text of private keys and users files, once what is needed of it has been made. */
void config_forget_keys(struct config *config);

/* CONFIG_TLS_* as written in the file: "off", "opportunistic", "require", "verify". */
const char *config_tls_name(enum config_tls level);
/* The route of that name, or -1. */
int config_route_find(const struct config *config, struct span name);
/* The limits for the site whose best MX host is `host` (canonical): those of the provider entry
 * with the most specific pattern that matches, whatever their order, else shaping.default's. */
const struct config_shape *config_shape_find(const struct config *config, struct span host);
/* Is the canonical `domain` one of local_domains? */
bool config_is_local(const struct config *config, struct span domain);
