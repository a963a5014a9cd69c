/*
 * One row an option, in the order of the manual. Columns: path, type, default (YAML), then what
 * differs from nothing. The order of words is the order of the enum in config.h.
 */
#include "policy/config_schema.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "policy/base/msec.h"
#include "policy/base/units.h"
#include "policy/config.h"

#define OPTION(path_, type_, value_, example_, ...)                                            \
    {                                                                                          \
        .path = path_, .type = type_, .value = value_, .example = example_, .doc = __VA_ARGS__ \
    }
#define TOP(field) .at = offsetof(struct config, field)
#define TOP_LIST(field) \
    .at = offsetof(struct config, field), .at_n = offsetof(struct config, n_##field)
#define IN(type, field) .at = offsetof(struct type, field)
#define IN_LIST(type, field) \
    .at = offsetof(struct type, field), .at_n = offsetof(struct type, n_##field)
#define IN_CONFIG_LIST(field, count) \
    .at = offsetof(struct config, field), .at_n = offsetof(struct config, count)
#define NO_FIELD .at = OPTION_NO_FIELD
#define RANGE(low, high) .min = (low), .max = (high)
#define WORDS(...)                 \
    .words = (const char *const[]) \
    {                              \
        __VA_ARGS__, NULL          \
    }
#define ONE_MS RANGE(1, 60 * MINUTE)

#define KiB ((uint64_t)1 << 10)
#define MiB ((uint64_t)1 << 20)
#define GiB ((uint64_t)1 << 30)
#define TiB ((uint64_t)1 << 40)

#define TLS_WORDS WORDS("off", "opportunistic", "require", "verify")

const struct option config_schema[] = {
    OPTION(
        "include", OPT_INCLUDE, NULL, "[routes.d/*.yaml]",
        "Further files, by name or glob pattern. Sections are joined, a key may be set in one file "
        "only. Lists are joined: the entries of the file itself, then those of its includes in "
        "byte order of their names; the default rule stays behind the rules of all other files."),

    OPTION("node", OPT_SECTION, NULL, NULL, "Who this node is.", .required = true),
    OPTION("node.name", OPT_NAME, NULL, "cn",
           "Short name: the default DKIM selector; in trace ids and metrics.", TOP(node.name),
           .required = true),
    OPTION("node.hostname", OPT_DOMAIN, NULL, "smtp-cn.mydomain.com",
           "Name said in EHLO and in the greeting; must match the PTR record of the address the "
           "world sees.",
           TOP(node.hostname), .required = true),
    OPTION("node.region", OPT_TEXT, NULL, "CN", "Where it stands; shown in status.",
           TOP(node.region)),
    OPTION("node.postmaster", OPT_MAILBOX, NULL, "postmaster@mydomain.com",
           "Gets alerts, and notices that cannot be delivered.", TOP(node.postmaster)),
    OPTION("user", OPT_TEXT, "relayd", NULL,
           "Started as root, the daemon becomes this user; root stays root.", TOP(user)),

    OPTION("listeners", OPT_SECTIONS, NULL, "[{address: 127.0.0.1:2525}]",
           "Where SMTP is spoken. Default: 0.0.0.0:25 and [::]:25 with starttls; with a users_file "
           "also port 587 with starttls and port 465 with implicit TLS, which both require AUTH.",
           TOP_LIST(listeners), .size = sizeof(struct config_listener)),
    OPTION("listeners[].address", OPT_LISTEN, NULL, "127.0.0.1:2525", "Address and port.",
           IN(config_listener, text), .at_n = offsetof(struct config_listener, ip),
           .at_extra = offsetof(struct config_listener, port), .required = true),
    OPTION("listeners[].tls", OPT_WORD, "starttls", NULL, "Without a certificate starttls is off.",
           IN(config_listener, tls), WORDS("off", "starttls", "implicit")),
    OPTION("listeners[].require_auth", OPT_BOOL, "false", NULL, "No mail before AUTH.",
           IN(config_listener, require_auth)),
    OPTION("listeners[].bare_newline", OPT_WORD, "normalize", NULL,
           "normalize: in a message a bare LF becomes CRLF and a bare CR a space, before signing; "
           "reject: 550 5.5.2.",
           IN(config_listener, bare_newline), WORDS("normalize", "reject")),
    OPTION("listeners[].proxy_protocol", OPT_CIDRS, NULL, "[192.0.2.7/32]",
           "The proxies that speak PROXY v1/v2 here; all others are closed. Default: none, a plain "
           "listener.",
           IN(config_listener, proxies), .at_n = offsetof(struct config_listener, n_proxies),
           RANGE(1, 1000)),

    OPTION("tls", OPT_SECTION, NULL, NULL, "The certificate shown to clients."),
    OPTION("tls.certificate_file", OPT_FILE, NULL, "tls/fullchain.pem",
           "Certificate chain in PEM; `relayctl tls self-signed' makes one. Read again hourly and "
           "on SIGHUP.",
           TOP(tls.certificate_file)),
    OPTION("tls.private_key_file", OPT_SECRET, NULL, "tls/privkey.pem", "Its private key.",
           TOP(tls.private_key)),
    OPTION("tls.min_version", OPT_WORD, "\"1.2\"", NULL, "Oldest version that clients may use.",
           TOP(tls.min_version), WORDS("1.0", "1.1", "1.2", "1.3")),

    OPTION("trusted_clients", OPT_SECTIONS, NULL, "[{cidr: 127.0.0.0/8}]",
           "Who may relay; nobody else may. Any one entry suffices, and an entry is exactly one of "
           "cidr, host, users_file and client_certificate.",
           IN_CONFIG_LIST(trusted, n_trusted), .size = sizeof(struct config_trust)),
    OPTION("trusted_clients[].cidr", OPT_CIDRS, NULL, "[127.0.0.0/8, \"2001:db8::/32\"]",
           "Address blocks; one alone needs no list.", IN_LIST(config_trust, cidrs),
           RANGE(1, 10000)),
    OPTION("trusted_clients[].host", OPT_DOMAIN, NULL, "office.example-ddns.net",
           "A name (DDNS) whose addresses are trusted, at most 16 of them, resolved in the "
           "background as its TTL runs out. An address that leaves the answer is trusted no more. "
           "Before DNS has answered for the first time, who may be meant is told to come again.",
           IN(config_trust, host)),
    OPTION("trusted_clients[].require", OPT_FLAGS, NULL, "[auth]",
           "What is asked besides the address of a cidr or host entry: auth, tls or both. Default: "
           "nothing.",
           IN(config_trust, require_auth), WORDS("auth", "tls"), RANGE(0, 2)),
    OPTION("trusted_clients[].stale_max", OPT_DURATION, "24h", NULL,
           "How long a host's last answer is kept when DNS fails; that the name does not exist is "
           "an answer.",
           IN(config_trust, stale_max_ms), RANGE(0, 30 * DAY)),
    OPTION("trusted_clients[].allow_private", OPT_BOOL, "false", NULL,
           "Accept loopback and private addresses of a host (labs).",
           IN(config_trust, allow_private)),
    OPTION("trusted_clients[].users_file", OPT_SECRET, NULL, "users",
           "SMTP AUTH inside TLS; lines made with `relayctl user add NAME --file users'.",
           IN(config_trust, users)),
    OPTION("trusted_clients[].client_certificate", OPT_PIN, NULL, "SHA256:ab...",
           "Fingerprint of a client's certificate, or SPKI: and that of its key.",
           IN(config_trust, pin)),
    OPTION("allow_gateway", OPT_BOOL, "false", NULL,
           "In a container a trusted block that holds the default gateway may trust the whole "
           "world (userland proxy): refused unless true.",
           TOP(allow_gateway)),

    OPTION("limits", OPT_SECTION, NULL, NULL, "What clients may ask for."),
    OPTION("limits.message_size", OPT_SIZE, "50MiB", NULL, "Largest message.",
           TOP(limits.message_size_bytes), RANGE(1 * KiB, 2 * GiB)),
    OPTION("limits.recipients_per_message", OPT_NUMBER, "1000", NULL, "The rest gets 452 4.5.3.",
           TOP(limits.recipients_per_message), RANGE(1, 10000)),
    OPTION("limits.sessions", OPT_NUMBER, "12000", NULL,
           "Sessions at a time; also bounded by the descriptors there are.", TOP(limits.sessions),
           RANGE(1, 1000000)),
    OPTION("limits.sessions_per_client", OPT_NUMBER, "200", NULL, "Of one address.",
           TOP(limits.sessions_per_client), RANGE(1, 1000000)),
    OPTION("limits.received_hops", OPT_NUMBER, "100", NULL,
           "Received fields; a message with more is looping.", TOP(limits.received_hops),
           RANGE(1, 10000)),
    OPTION("limits.memory", OPT_SIZE, "32MiB", NULL,
           "Bodies kept in memory until their first attempt.", TOP(limits.memory_bytes),
           RANGE(0, 64 * GiB)),

    OPTION("queue", OPT_SECTION, NULL, NULL, "Where accepted mail waits, and how long."),
    OPTION("queue.path", OPT_PATH, "/var/lib/relayd/queue", NULL,
           "Directory of the queue; on a local file system.", TOP(queue.path)),
    OPTION("queue.max_size", OPT_SIZE, "64GiB", NULL, "Quota on what the queue may hold.",
           TOP(queue.max_size_bytes), RANGE(1 * MiB, 16 * TiB)),
    OPTION("queue.min_free", OPT_SIZE, "1GiB", NULL,
           "Disk space left alone: below it clients get 452. The default is at most 5 % of the "
           "file system.",
           TOP(queue.min_free_bytes), RANGE(0, 16 * TiB)),
    OPTION("queue.retry", OPT_SECTION, NULL, NULL, "When deferred mail is tried again."),
    OPTION("queue.retry.intervals", OPT_DURATIONS, "[5m, 10m, 20m, 40m, 1h, 2h, 4h]", NULL,
           "Waits before the second, third, ... attempt; the last one repeats.",
           TOP(queue.intervals_ms), .at_n = offsetof(struct config, queue.n_intervals),
           RANGE(1, 100)),
    OPTION("queue.retry.jitter", OPT_PERCENT, "20%", NULL,
           "Each wait is longer or shorter by up to this.", TOP(queue.jitter_percent)),
    OPTION("queue.retry.greylist", OPT_DURATION, "6m", NULL,
           "Shortest first wait after a greylisting reply.", TOP(queue.greylist_ms),
           RANGE(0, 1 * DAY)),
    OPTION("queue.retry.max_age", OPT_DURATION, "5d", NULL,
           "Then the sender is told; never without an attempt made after it.",
           TOP(queue.max_age_ms), RANGE(1, 60 * DAY)),
    OPTION("queue.retry.max_age_bounce", OPT_DURATION, "2d", NULL,
           "The same for mail from the null sender.", TOP(queue.max_age_bounce_ms),
           RANGE(1, 60 * DAY)),
    OPTION("queue.warn_after", OPT_DURATIONS, "[4h, 24h]", NULL,
           "Ages at which the sender is told of a delay; [] for never.", TOP(queue.warn_after_ms),
           .at_n = offsetof(struct config, queue.n_warn_after), RANGE(0, 20)),
    OPTION("notices", OPT_SECTION, NULL, NULL, "Notices to senders (RFC 3464)."),
    OPTION("notices.language", OPT_WORDS, "[en, zh]", NULL,
           "Languages of the human part, in this order.", IN_CONFIG_LIST(languages, n_languages),
           WORDS("en", "zh"), RANGE(1, 2)),

    OPTION("resolver", OPT_SECTION, NULL, NULL, "DNS."),
    OPTION("resolver.servers", OPT_SERVERS, NULL, "[127.0.0.1:53]",
           "Servers to ask; without a port it is 53. Default: those of /etc/resolv.conf.",
           IN_CONFIG_LIST(resolver.servers, resolver.n_servers), RANGE(1, CONFIG_RESOLVERS_MAX)),
    OPTION("resolver.timeout", OPT_DURATION, "5s", NULL, "Of one query to one server.",
           TOP(resolver.timeout_ms), RANGE(10, 60 * SECOND)),
    OPTION("resolver.cache_max", OPT_NUMBER, "100000", NULL, "Answers kept.",
           TOP(resolver.cache_max), RANGE(1, 10000000)),

    OPTION("timeouts", OPT_SECTION, NULL, NULL,
           "Of a delivery (RFC 5321 section 4.5.3.2); each covers a whole reply."),
    OPTION("timeouts.connect", OPT_DURATION, "30s", NULL, "TCP connect to one address.",
           TOP(timeouts.connect_ms), ONE_MS),
    OPTION("timeouts.greeting", OPT_DURATION, "5m", NULL, "The 220.", TOP(timeouts.greeting_ms),
           ONE_MS),
    OPTION("timeouts.ehlo", OPT_DURATION, "5m", NULL, "EHLO and HELO.", TOP(timeouts.ehlo_ms),
           ONE_MS),
    OPTION("timeouts.starttls", OPT_DURATION, "60s", NULL, "STARTTLS and the handshake.",
           TOP(timeouts.starttls_ms), ONE_MS),
    OPTION("timeouts.auth", OPT_DURATION, "60s", NULL, "AUTH.", TOP(timeouts.auth_ms), ONE_MS),
    OPTION("timeouts.mail", OPT_DURATION, "5m", NULL, "MAIL FROM.", TOP(timeouts.mail_ms), ONE_MS),
    OPTION("timeouts.rcpt", OPT_DURATION, "5m", NULL, "RCPT TO.", TOP(timeouts.rcpt_ms), ONE_MS),
    OPTION("timeouts.data", OPT_DURATION, "2m", NULL, "The 354.", TOP(timeouts.data_ms), ONE_MS),
    OPTION("timeouts.block", OPT_DURATION, "3m", NULL, "Progress while the message is sent.",
           TOP(timeouts.block_ms), ONE_MS),
    OPTION("timeouts.final_dot", OPT_DURATION, "10m", NULL, "The reply to the final dot.",
           TOP(timeouts.final_dot_ms), ONE_MS),
    OPTION("timeouts.quit", OPT_DURATION, "10s", NULL, "QUIT.", TOP(timeouts.quit_ms), ONE_MS),

    OPTION("hops", OPT_TABLE, NULL, "{us: {address: mail-us.mydomain.com}}",
           "Hosts that relay for us: our nodes abroad, our own mail server, or any smart host. The "
           "name ([a-z0-9-], not \"direct\") is what routes refer to.",
           TOP_LIST(hops), .at_extra = offsetof(struct hop, name), .size = sizeof(struct hop),
           RANGE(0, CONFIG_ROUTES_MAX - 1)),
    OPTION("hops.*.address", OPT_ENDPOINT, NULL, "mail-us.mydomain.com",
           "host, host:port, or [v6]:port. No MX look-up; the address may be private. Without a "
           "port the ladder of `ports' is tried.",
           .required = true),
    OPTION("hops.*.ports", OPT_PORTS, "[465, 587, 25]", NULL,
           "The next one when one is blocked; what worked is remembered. 465 is implicit TLS.",
           IN_LIST(hop, ports), RANGE(1, CONFIG_PORTS_MAX)),
    OPTION("hops.*.implicit", OPT_BOOL, "false", NULL, "Implicit TLS on the given port.",
           IN(hop, implicit)),
    OPTION("hops.*.tls", OPT_WORD, "verify", NULL,
           "verify checks the chain and the name or IP address.", IN(hop, tls), TLS_WORDS),
    OPTION("hops.*.ca_file", OPT_FILE, NULL, "ca.pem", "CAs to trust instead of the system's.",
           IN(hop, ca_file)),
    OPTION("hops.*.fingerprint", OPT_PIN, NULL, "SHA256:ab...",
           "Pin of the hop's certificate (or SPKI: of its key) instead of a CA.", IN(hop, pin)),
    OPTION("hops.*.auth", OPT_SECTION, NULL, "{username: cn, password_file: us.secret}",
           "AUTH, only inside TLS."),
    OPTION("hops.*.auth.username", OPT_TEXT, NULL, "cn", "User name.", IN(hop, username),
           .required = true),
    OPTION("hops.*.auth.password_file", OPT_SECRET, NULL, "us.secret",
           "File with the password in one line.", IN(hop, password_file), .required = true),
    OPTION("hops.*.certificate_file", OPT_FILE, NULL, "node.pem", "Client certificate.",
           IN(hop, certificate_file)),
    OPTION("hops.*.private_key_file", OPT_SECRET, NULL, "node.key", "Its private key.",
           IN(hop, private_key)),
    OPTION("hops.*.signs", OPT_BOOL, "false", NULL,
           "This hop signs itself: our DKIM signatures are left out for it.", IN(hop, signs)),
    OPTION("hops.*.egress", OPT_SECTION, NULL, "{v4: 198.51.100.7}",
           "The address the world sees there, for SPF."),
    OPTION("hops.*.egress.v4", OPT_IP4, NULL, "198.51.100.7", "IPv4.", IN(hop, egress.v4)),
    OPTION("hops.*.egress.v6", OPT_IP6, NULL, "\"2001:db8::7\"", "IPv6.", IN(hop, egress.v6)),
    OPTION("hops.*.max_connections", OPT_NUMBER, "10", NULL, "At a time.", IN(hop, max_connections),
           RANGE(1, 10000)),
    OPTION("hops.*.max_messages_per_connection", OPT_NUMBER, "1000", NULL, "Then a new connection.",
           IN(hop, max_messages_per_connection), RANGE(1, 1000000)),
    OPTION("hops.*.max_rate", OPT_RATE, "none", "100/s", "Messages in a time.", IN(hop, max_rate)),

    OPTION("direct", OPT_SECTION, NULL, NULL,
           "The route \"direct\": straight to the recipient's MX."),
    OPTION("direct.port", OPT_PORT, "25", NULL, "Port of the MX.", TOP(direct.port)),
    OPTION("direct.source", OPT_SECTION, NULL, "{v4: 203.0.113.5}",
           "Address to bind. Default: the system's choice."),
    OPTION("direct.source.v4", OPT_IP4, NULL, "203.0.113.5", "IPv4.", TOP(direct.source.v4)),
    OPTION("direct.source.v6", OPT_IP6, NULL, "\"2001:db8::5\"",
           "IPv6; when it is set, IPv6 is tried first.", TOP(direct.source.v6)),
    OPTION("direct.egress", OPT_SECTION, NULL, "{v4: 203.0.113.5}",
           "The address the world sees (NAT). Default: source."),
    OPTION("direct.egress.v4", OPT_IP4, NULL, "203.0.113.5", "IPv4.", TOP(direct.egress.v4)),
    OPTION("direct.egress.v6", OPT_IP6, NULL, "\"2001:db8::5\"", "IPv6.", TOP(direct.egress.v6)),
    OPTION("direct.tls", OPT_WORD, "opportunistic", NULL,
           "To MXs; verify checks the chain and the MX's name.", TOP(direct.tls), TLS_WORDS),
    OPTION("direct.ca_file", OPT_FILE, NULL, "ca.pem", "For verify; default: the system's.",
           TOP(direct.ca_file)),
    OPTION("direct.ip_version", OPT_WORD, "auto", NULL,
           "auto: IPv4 first, IPv6 first only with direct.source.v6 set.", TOP(direct.ip_version),
           WORDS("auto", "4", "6")),
    OPTION("direct.allow_private", OPT_BOOL, "false", NULL,
           "Deliver to MXs at loopback, private or link-local addresses (labs).",
           TOP(direct.allow_private)),

    OPTION("local_domains", OPT_DOMAINS, NULL, "[mydomain.com]", "Domains that are ours.",
           TOP_LIST(local_domains), RANGE(0, 100000)),
    OPTION("transport_map", OPT_SECTIONS, NULL, "[{default: true, route: direct}]",
           "Which way mail goes, for each recipient by itself: the first rule whose matchers all "
           "hold wins.",
           IN_CONFIG_LIST(rules, n_rules), .size = sizeof(struct rule), RANGE(0, CONFIG_RULES_MAX)),
    OPTION(
        "transport_map[].domains", OPT_PATTERNS, NULL, "[abc.com, \"*.abc.com\"]",
        "Matcher: the recipient's domain. *. is any depth of subdomains, without the name itself.",
        IN_LIST(rule, domains), RANGE(1, 1000000)),
    OPTION("transport_map[].domains_file", OPT_PATH, NULL, "overseas-domains.txt",
           "Matcher: the same from a file, one a line, # comments. Together with domains either "
           "may match.",
           IN(rule, domains_file)),
    OPTION("transport_map[].recipients", OPT_ADDRESSES, NULL, "[vip@def.com]",
           "Matcher: the recipient. local@domain, *@domain, or *@*.domain; case does not matter.",
           IN_LIST(rule, recipients), RANGE(1, 1000000)),
    OPTION("transport_map[].senders", OPT_ADDRESSES, NULL, "[\"*@news.mydomain.com\"]",
           "Matcher: the envelope sender, likewise; <> is the null sender.", IN_LIST(rule, senders),
           RANGE(1, 1000000)),
    OPTION("transport_map[].mx", OPT_PATTERNS, NULL, "[\"*.google.com\"]",
           "Matcher: any MX host name of the domain. While DNS does not answer, no rule below is "
           "taken: the recipient waits. A domain without MX does not match.",
           IN_LIST(rule, mx), RANGE(1, 10000)),
    OPTION("transport_map[].mx_country", OPT_COUNTRIES, NULL, "[US, CA]",
           "Matcher: country of the best MX's address (without MX: of the domain's own), by "
           "geoip.database; codes of ISO 3166-1. Private addresses have none.",
           IN_LIST(rule, mx_country), RANGE(1, 300)),
    OPTION("transport_map[].default", OPT_TRUE, NULL, "true",
           "Matches whatever reaches it; takes no other matcher. Without such a rule, what no rule "
           "matches is 550 5.4.4 at RCPT.",
           IN(rule, is_default)),
    OPTION("transport_map[].route", OPT_ROUTE, NULL, CONFIG_DIRECT, "direct, or the name of a hop.",
           IN(rule, route)),
    OPTION("transport_map[].fallback", OPT_ROUTES, NULL, "[us]",
           "Next routes, in order, when this one cannot be reached or refuses us.",
           IN_LIST(rule, fallback), RANGE(0, CONFIG_ROUTES_MAX)),
    OPTION("transport_map[].fallback_after", OPT_DURATION, NULL, "2h",
           "Nothing but 4xx for so long: the next route (never for greylisting or a full mailbox). "
           "Default: never.",
           IN(rule, fallback_after_ms), RANGE(1, 30 * DAY)),
    OPTION("transport_map[].learn", OPT_BOOL, "false", NULL,
           "A refusal that another route could cure moves the destination there for a while.",
           IN(rule, learn)),
    OPTION(
        "transport_map[].spf_softfail", OPT_BOOL, "false", NULL,
        "A route from which the sender's SPF record says softfail goes behind the others, as one "
        "with fail does.",
        IN(rule, spf_softfail)),
    OPTION("transport_map[].tls", OPT_WORD, NULL, "verify", "Stricter than the route's own level.",
           IN(rule, tls), TLS_WORDS),
    OPTION("transport_map[].never_via", OPT_FENCES, NULL, "[us]",
           "Routes never used for what this rule matches, wherever the rule stands. A rule with "
           "never_via alone is a pure fence.",
           IN(rule, never_via), RANGE(1, CONFIG_ROUTES_MAX)),
    OPTION("transport_map[].reject", OPT_REPLY, NULL, "\"550 5.1.2 this partner has moved\"",
           "Instead of a route: refuse with this reply.", IN(rule, reject)),
    OPTION("transport_map[].discard", OPT_TRUE, NULL, "true",
           "Instead of a route: accept and drop.", NO_FIELD),
    OPTION("transport_map[].hold", OPT_TEXT, NULL, "\"reason\"",
           "Instead of a route: accept and hold, for this reason.", IN(rule, hold)),

    OPTION("geoip", OPT_SECTION, NULL, NULL, "Countries of addresses."),
    OPTION("geoip.database", OPT_PATH, NULL, "/usr/share/GeoIP/GeoLite2-Country.mmdb",
           "A country database in MaxMind's format, for mx_country. Read anew at each reload.",
           TOP(geoip_database)),
    OPTION("learning", OPT_SECTION, NULL, NULL, "How rules with learn: true learn."),
    OPTION("learning.ttl", OPT_DURATION, "6h", NULL,
           "How long a learned route holds; doubles at each renewal.", TOP(learning.ttl_ms),
           RANGE(1, 60 * DAY)),
    OPTION("learning.max_ttl", OPT_DURATION, "7d", NULL, "At most.", TOP(learning.max_ttl_ms),
           RANGE(1, 365 * DAY)),
    OPTION(
        "learning.path_errors", OPT_SECTION, NULL, "{count: 3, within: 1h}",
        "Attempts in which every host failed on the path, before the path's failure is learned."),
    OPTION("learning.path_errors.count", OPT_NUMBER, "3", NULL, "So many",
           TOP(learning.path_errors_count), RANGE(1, 1000)),
    OPTION("learning.path_errors.within", OPT_DURATION, "1h", NULL, "in so long.",
           TOP(learning.path_errors_within_ms), RANGE(1, 30 * DAY)),
    OPTION("learning.max_reroutes", OPT_RATE, "200/h", NULL,
           "For each pair of routes; beyond it mail is deferred with an alert.",
           TOP(learning.max_reroutes)),
    OPTION("classify", OPT_SECTION, NULL, NULL, "What replies of other servers mean."),
    OPTION("classify.rules_file", OPT_FILE, NULL, "replies.yaml", "Replaces the built-in rules.",
           TOP(classify.rules_file)),
    OPTION("classify.rules", OPT_NODES, NULL, "[]",
           "Rules tried before them. A 4xx is given up only where a rule of one's own says bounce.",
           TOP(classify.rules)),

    OPTION("dkim", OPT_SECTIONS, NULL, "[{domains: [mydomain.com], key_file: mydomain.com.pem}]",
           "Signatures. Matched against the domain of the first From: mailbox; each entry that "
           "matches adds one.",
           TOP_LIST(dkim), .size = sizeof(struct config_dkim), RANGE(0, 100000)),
    OPTION("dkim[].domains", OPT_PATTERNS, NULL, "[mydomain.com, \"*.mydomain.com\"]",
           "Domains it signs for.", IN_LIST(config_dkim, domains), RANGE(1, 100000),
           .required = true),
    OPTION(
        "dkim[].domain", OPT_DOMAIN, NULL, "mydomain.com",
        "The signature's d=. Default: the exact name that matched, for a wildcard its base domain.",
        IN(config_dkim, domain)),
    OPTION("dkim[].key_file", OPT_SECRET, NULL, "dkim/mydomain.com.pem",
           "Private key in PEM, RSA or Ed25519.", IN(config_dkim, key), .required = true),
    OPTION("dkim[].selector", OPT_SELECTOR, NULL, "cn", "The signature's s=. Default: node.name.",
           IN(config_dkim, selector)),
    OPTION("dkim_failure", OPT_WORD, "tempfail", NULL,
           "When a key or the library fails: tempfail (451), or accept (unsigned, with an alert).",
           TOP(dkim_failure), WORDS("tempfail", "accept")),
    OPTION(
        "srs", OPT_SECTION, NULL, "{domain: fwd.mydomain.com, secret_file: srs.secret}",
        "Rewrite envelope senders that are not in local_domains, by the sender rewriting scheme, "
        "so that SPF holds for mail that is only passed on. Bounces to a rewritten sender are "
        "taken from anyone for 21 days, up to 1 MiB each, and go to the original sender. Never "
        "rewritten: the null sender, a sender at srs.domain, and one that would get longer than "
        "128 octets before its @ (srs_too_long in the log). Nodes that pass mail to each other "
        "share domain and secrets, or only one of them has this section."),
    OPTION("srs.domain", OPT_DOMAIN, NULL, "fwd.mydomain.com",
           "Domain of the rewritten senders: its MX is this node, its SPF record permits the "
           "addresses that mail leaves from, and nobody has a mailbox there.",
           TOP(srs.domain), .required = true),
    OPTION("srs.secret_file", OPT_SECRET, NULL, "srs.secret",
           "One secret a line, of 16 characters or more: the first signs, all verify. To make one: "
           "openssl rand -base64 32 > srs.secret; chown relayd srs.secret; chmod 600 srs.secret. "
           "To change it, put the new one in front, and delete the old one after 21 days.",
           TOP(srs.secret_file), .required = true),

    OPTION("shaping", OPT_SECTION, NULL, NULL,
           "Limits for sites reached directly, never for hops; rates count messages."),
    OPTION("shaping.default", OPT_SECTION, NULL, NULL,
           "For every site that no provider entry fits."),
    OPTION("shaping.default.max_connections", OPT_NUMBER, "5", NULL, "At a time.",
           TOP(shaping.max_connections), RANGE(1, 10000)),
    OPTION("shaping.default.max_messages_per_connection", OPT_NUMBER, "100", NULL,
           "Then a new connection.", TOP(shaping.max_messages_per_connection), RANGE(1, 1000000)),
    OPTION("shaping.default.max_rate", OPT_RATE, "100/s", NULL, "Messages in a time.",
           TOP(shaping.max_rate)),
    OPTION("shaping.providers", OPT_SECTIONS, NULL, "[{mx: [\"*.qq.com\"], max_connections: 4}]",
           "Sites that differ; the most specific entry wins. What an entry does not say is "
           "shaping.default's.",
           TOP_LIST(providers), .size = sizeof(struct config_provider), RANGE(0, 10000)),
    OPTION("shaping.providers[].mx", OPT_PATTERNS, NULL, "[\"*.qq.com\"]", "MX host names.",
           IN_LIST(config_provider, mx), RANGE(1, 10000), .required = true),
    OPTION("shaping.providers[].max_connections", OPT_NUMBER, NULL, "4", "At a time.",
           IN(config_provider, shape.max_connections), RANGE(1, 10000)),
    OPTION("shaping.providers[].max_messages_per_connection", OPT_NUMBER, NULL, "8",
           "Then a new connection.", IN(config_provider, shape.max_messages_per_connection),
           RANGE(1, 1000000)),
    OPTION("shaping.providers[].max_rate", OPT_RATE, NULL, "60/min", "Messages in a time.",
           IN(config_provider, shape.max_rate)),

    OPTION("control", OPT_SECTION, NULL, NULL, "Where relayctl talks to the daemon."),
    OPTION("control.socket", OPT_PATH, "/run/relayd/control.sock", NULL,
           "Unix socket, 0660, owned by `user'.", TOP(control_socket)),
    OPTION("http", OPT_SECTION, NULL, NULL,
           "Status page, /metrics and the API over TCP; off unless set."),
    OPTION("http.address", OPT_LISTEN, NULL, "127.0.0.1:8025", "Address and port.", TOP(http.text),
           .at_n = offsetof(struct config, http.ip), .at_extra = offsetof(struct config, http.port),
           .required = true),
    OPTION("http.token_file", OPT_SECRET, NULL, "http.token",
           "Bearer token in one line; required unless the address is loopback.",
           TOP(http.token_file)),
    OPTION("log", OPT_SECTION, NULL, NULL, "The log."),
    OPTION("log.format", OPT_WORD, "logfmt", NULL, "Form of a line.", TOP(log.format),
           WORDS("logfmt", "json")),
    OPTION("log.level", OPT_WORD, "info", NULL, "Least level written.", TOP(log.level),
           WORDS("alert", "error", "warn", "info", "debug")),
    OPTION("log.target", OPT_LOG_TARGET, "stderr", NULL,
           "stderr, syslog, or a file, which is opened again on SIGHUP.", TOP(log.target)),
};

const size_t config_schema_n = N_ELEMENTS(config_schema);

const struct option *
config_schema_find(const char *path)
{
    for (size_t i = 0; i < config_schema_n; i++)
        if (strcmp(config_schema[i].path, path) == 0)
            return &config_schema[i];
    return NULL;
}

const char *
config_schema_leaf(const struct option *option)
{
    const char *dot = strrchr(option->path, '.');
    return dot == NULL ? option->path : dot + 1;
}

bool
config_schema_is_child(const struct option *option, const char *parent)
{
    const char *leaf = config_schema_leaf(option);
    size_t n = strlen(parent);
    if (n == 0)
        return leaf == option->path;
    return leaf == option->path + n + 1 && strncmp(option->path, parent, n) == 0;
}

static const char *const type_forms[] = {
    [OPT_SECTION] = "a mapping",
    [OPT_SECTIONS] = "a list of mappings",
    [OPT_TABLE] = "a mapping from names to mappings",
    [OPT_INCLUDE] = "a list of file names or patterns",
    [OPT_TEXT] = "text",
    [OPT_NAME] = "a name of a-z, 0-9 and -",
    [OPT_DOMAIN] = "a domain name",
    [OPT_SELECTOR] = "a selector (letters, digits, - and dots)",
    [OPT_MAILBOX] = "an address local@domain",
    [OPT_BOOL] = "true or false",
    [OPT_TRUE] = "true",
    [OPT_NUMBER] = "a number",
    [OPT_PORT] = "a port from 1 to 65535",
    [OPT_SIZE] = "a size",
    [OPT_DURATION] = "a duration",
    [OPT_RATE] = "a rate such as 500/day, 60/min or 100/s, or none",
    [OPT_PERCENT] = "a percentage from 0% to 100%",
    [OPT_PATH] = "a path",
    [OPT_FILE] = "a file",
    [OPT_SECRET] = "a file that others cannot read",
    [OPT_LISTEN] = "ADDRESS:PORT or [IPV6]:PORT",
    [OPT_ENDPOINT] = "HOST, HOST:PORT or [IPV6]:PORT",
    [OPT_IP4] = "an IPv4 address",
    [OPT_IP6] = "an IPv6 address",
    [OPT_PIN] = "SHA256: or SPKI: and 64 hexadecimal digits",
    [OPT_REPLY] = "a reply such as \"550 5.7.1 text\"",
    [OPT_LOG_TARGET] = "stderr, syslog or a file",
    [OPT_ROUTE] = "direct or the name of a hop",
    [OPT_DURATIONS] = "a list of durations",
    [OPT_PORTS] = "a list of ports",
    [OPT_CIDRS] = "an address block or a list of them",
    [OPT_DOMAINS] = "a list of domain names",
    [OPT_PATTERNS] = "a list of names and *.names",
    [OPT_ADDRESSES] = "a list of addresses (local@domain, *@domain)",
    [OPT_COUNTRIES] = "a list of two-letter country codes",
    [OPT_SERVERS] = "a list of addresses",
    [OPT_ROUTES] = "a list of routes",
    [OPT_FENCES] = "a list of routes",
    [OPT_NODES] = "a list",
};

static void
print_words(const struct option *option, FILE *out)
{
    fputs(option->type == OPT_WORD ? "one of " : "a list of ", out);
    for (const char *const *w = option->words; *w != NULL; w++)
        fprintf(out, "%s%s", w == option->words ? "" : ", ", *w);
}

static void
print_range(const struct option *option, FILE *out)
{
    char low[UNITS_TEXT_MAX], high[UNITS_TEXT_MAX];
    switch (option->type) {
    case OPT_NUMBER:
        fprintf(out, " from %" PRIu64 " to %" PRIu64, option->min, option->max);
        break;
    case OPT_SIZE:
        fprintf(out, " from %s to %s", size_format(option->min, low),
                size_format(option->max, high));
        break;
    case OPT_DURATION:
        fprintf(out, " from %s to %s", duration_format((msec_t)option->min, low),
                duration_format((msec_t)option->max, high));
        break;
    default:
        break;
    }
}

char *
config_schema_form(const struct option *option, char *buf, size_t n)
{
    assert(n > 0);
    FILE *out = fmemopen(buf, n, "w");
    if (out == NULL)
        out_of_memory();
    if (option->words != NULL) {
        print_words(option, out);
    } else {
        fputs(type_forms[option->type], out);
        print_range(option, out);
    }
    fclose(out);
    buf[n - 1] = '\0';
    return buf;
}
