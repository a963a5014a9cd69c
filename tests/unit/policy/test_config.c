/* One file into struct config: defaults, every type of value, and what is said about wrong ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/config_node.h"
#include "policy/config_schema.h"
#include "tests/unit/policy/config_text.h"

#define NODE "node: {name: cn, hostname: cn.example}\n"
#define TRUST "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
#define MAP "transport_map: [{default: true, route: direct}]\n"
/* Three lines: what a case adds begins at line 4. */
#define BASE NODE TRUST MAP

#define PIN "ab54a98ceb1f0ad2ab54a98ceb1f0ad2ab54a98ceb1f0ad2ab54a98ceb1f0ad2"

static const struct text_file secrets[] = {
    {.path = "pass", .text = "s3cret\n"},
    {.path = "pass-crlf", .text = "s3cret\r\n"},
    {.path = "pass-two", .text = "alpha7\nbeta7\n"},
    {.path = "pass-nul", .text = "a\0b\n", .n = 4},
    {.path = "pass-empty", .text = ""},
    {.path = "key.pem", .text = "KEY"},
    {.path = "group.pem", .text = "KEY", .mode = 0640},
    {.path = "world.pem", .text = "KEY", .mode = 0644},
    {.path = "write.pem", .text = "KEY", .mode = 0602},
    {.path = "perm.pem", .text = "Permission denied", .code = ERR_PERM},
    {.path = "fifo", .text = "no regular file", .code = ERR_INVAL},
    {.path = "cert.pem", .text = "CERT", .mode = 0644},
    {.path = "users", .text = "", .mode = 0640},
    {.path = "token", .text = "tok\n"},
    {.path = "rules.yaml", .text = "rules: []\n", .mode = 0644},
};

/* Load one text beside the secrets above. */
static struct config *
load(const char *text, unsigned flags, struct strbuf *out)
{
    struct text_file files[N_ELEMENTS(secrets) + 1];
    memcpy(files, secrets, sizeof(secrets));
    files[N_ELEMENTS(secrets)] = (struct text_file){.path = "c.yaml", .text = text};
    return text_load(files, N_ELEMENTS(files), flags, out);
}

static struct config *
load_fine(const char *text)
{
    struct strbuf out = STRBUF_INIT;
    struct config *config = load(text, 0, &out);
    if (config == NULL || out.n > 0)
        fail_msg("%s\n%s", text, out.p);
    strbuf_release(&out);
    return config;
}

static void
every_option_has_its_default(void **state)
{
    (void)state;
    struct config *c = load_fine(BASE);
    assert_string_equal(c->file, "c.yaml");
    assert_string_equal(c->node.name, "cn");
    assert_string_equal(c->node.hostname, "cn.example");
    assert_string_equal(c->node.region, "");
    assert_string_equal(c->node.postmaster, "");
    assert_string_equal(c->user, "relayd");
    assert_int_equal(c->n_listeners, 2);
    assert_string_equal(c->listeners[0].text, "0.0.0.0:25");
    assert_int_equal(c->listeners[0].tls, CONFIG_LISTENER_OFF); /* no certificate */
    assert_int_equal(c->listeners[0].mark.line, 0);
    assert_string_equal(c->listeners[1].text, "[::]:25");
    assert_int_equal(c->listeners[1].ip.family, 6);
    assert_int_equal(c->listeners[1].port, 25);
    assert_int_equal(c->tls.min_version, CONFIG_TLS_1_2);
    assert_false(c->has_users);
    assert_false(c->allow_gateway);
    assert_int_equal(c->limits.message_size_bytes, 50 << 20);
    assert_int_equal(c->limits.recipients_per_message, 1000);
    assert_int_equal(c->limits.sessions, 12000);
    assert_int_equal(c->limits.sessions_per_client, 200);
    assert_int_equal(c->limits.received_hops, 100);
    assert_int_equal(c->limits.memory_bytes, 32 << 20);
    assert_string_equal(c->queue.path, "/var/lib/relayd/queue");
    assert_int_equal(c->queue.max_size_bytes, (uint64_t)64 << 30);
    assert_int_equal(c->queue.min_free_bytes, 1 << 30);
    assert_false(c->queue.min_free_given);
    assert_int_equal(c->queue.n_intervals, 7);
    assert_int_equal(c->queue.intervals_ms[0], 5 * MINUTE);
    assert_int_equal(c->queue.intervals_ms[6], 4 * HOUR);
    assert_int_equal(c->queue.jitter_percent, 20);
    assert_int_equal(c->queue.greylist_ms, 6 * MINUTE);
    assert_int_equal(c->queue.max_age_ms, 5 * DAY);
    assert_int_equal(c->queue.max_age_bounce_ms, 2 * DAY);
    assert_int_equal(c->queue.n_warn_after, 2);
    assert_int_equal(c->queue.warn_after_ms[1], DAY);
    assert_int_equal(c->n_languages, 2);
    assert_int_equal(c->languages[0], CONFIG_LANG_EN);
    assert_int_equal(c->languages[1], CONFIG_LANG_ZH);
    assert_int_equal(c->resolver.n_servers, 0);
    assert_int_equal(c->resolver.timeout_ms, 5 * SECOND);
    assert_int_equal(c->resolver.cache_max, 100000);
    assert_int_equal(c->timeouts.connect_ms, 30 * SECOND);
    assert_int_equal(c->timeouts.final_dot_ms, 10 * MINUTE);
    assert_int_equal(c->timeouts.quit_ms, 10 * SECOND);
    config_free(c);
}

static void
every_option_of_delivery_has_its_default(void **state)
{
    (void)state;
    struct config *c =
        load_fine(NODE TRUST "transport_map: [{default: true, route: us}]\n"
                             "hops: {us: {address: us.example}}\n"
                             "shaping: {providers: [{mx: ['*.qq.com'], max_connections: 4}]}\n");
    assert_int_equal(c->n_routes, 2);
    assert_string_equal(c->routes[0].name, "direct");
    assert_int_equal(c->routes[0].kind, ROUTE_DIRECT);
    assert_null(c->routes[0].hop);
    assert_string_equal(c->routes[1].name, "us");
    assert_int_equal(c->routes[1].kind, ROUTE_HOP);
    const struct hop *us = c->routes[1].hop;
    assert_ptr_equal(us, &c->hops[0]);
    assert_int_equal(us->route, 1);
    assert_string_equal(us->host, "us.example");
    assert_int_equal(us->ip.family, 0);
    assert_int_equal(us->port, 0);
    assert_int_equal(us->n_ports, 3);
    assert_int_equal(us->ports[0], 465);
    assert_int_equal(us->ports[2], 25);
    assert_false(us->implicit);
    assert_int_equal(us->tls, CONFIG_TLS_VERIFY);
    assert_string_equal(us->ca_file, "");
    assert_int_equal(us->pin.kind, CONFIG_PIN_NONE);
    assert_string_equal(us->username, "");
    assert_int_equal(us->max_connections, 10);
    assert_int_equal(us->max_messages_per_connection, 1000);
    assert_int_equal(us->max_rate.count, 0);
    assert_int_equal(us->mark.line, 4);
    assert_int_equal(c->direct.port, 25);
    assert_int_equal(c->direct.tls, CONFIG_TLS_OPPORTUNISTIC);
    assert_int_equal(c->direct.ip_version, CONFIG_IP_AUTO);
    assert_false(c->direct.allow_private);
    assert_int_equal(c->learning.ttl_ms, 6 * HOUR);
    assert_int_equal(c->learning.max_ttl_ms, 7 * DAY);
    assert_int_equal(c->learning.path_errors_count, 3);
    assert_int_equal(c->learning.path_errors_within_ms, HOUR);
    assert_int_equal(c->learning.max_reroutes.count, 200);
    assert_int_equal(c->dkim_failure, CONFIG_DKIM_TEMPFAIL);
    assert_int_equal(c->shaping.max_connections, 5);
    assert_int_equal(c->shaping.max_rate.count, 100);
    assert_int_equal(c->providers[0].shape.max_connections, 4);
    assert_int_equal(c->providers[0].shape.max_messages_per_connection, 100);
    assert_int_equal(c->providers[0].shape.max_rate.count, 100);
    assert_string_equal(c->control_socket, "/run/relayd/control.sock");
    assert_string_equal(c->http.text, "");
    assert_int_equal(c->log.format, CONFIG_LOG_LOGFMT);
    assert_int_equal(c->log.level, CONFIG_LOG_INFO);
    assert_int_equal(c->log.target, CONFIG_LOG_STDERR);
    config_free(c);
}

static void
values_reach_their_fields(void **state)
{
    (void)state;
    struct config *c = load_fine(
        "node: {name: cn, hostname: CN.B\xc3\xbc"
        "cher.example, region: no, postmaster: Pm@EXAMPLE.com}\n"
        "user: root\n"
        "listeners:\n"
        "  - {address: 'localhost:2525', tls: off, bare_newline: reject, proxy_protocol: "
        "192.0.2.7}\n"
        "  - {address: '[2001:DB8::1]:465', tls: implicit, require_auth: yes}\n"
        "tls: {certificate_file: cert.pem, private_key_file: group.pem, min_version: '1.3'}\n"
        "trusted_clients:\n"
        "  - {cidr: [10.0.0.0/8, '::ffff:192.0.2.0/120'], require: [tls, auth]}\n"
        "  - {users_file: users}\n"
        "  - {client_certificate: 'SPKI:" PIN "'}\n"
        "transport_map: [{default: true, route: us, fallback: [six, four]}]\n"
        "hops:\n"
        "  us: {address: 'US.example:2525', implicit: true, fingerprint: 'sha256:" PIN "',\n"
        "       auth: {username: cn, password_file: pass-crlf}, signs: on,\n"
        "       certificate_file: cert.pem, private_key_file: key.pem,\n"
        "       egress: {v4: 198.51.100.7, v6: '2001:db8::7'}, max_rate: 60/min}\n"
        "  six: {address: '2001:db8::9', tls: require, ports: [25]}\n"
        "  four: {address: '192.0.2.4:25', tls: off}\n"
        "direct: {source: {v4: 203.0.113.5}, egress: {v6: '2001:db8::5'}, ip_version: 4}\n"
        "local_domains: []\n"
        "resolver: {servers: [127.0.0.1, '[::1]:5353']}\n"
        "queue: {min_free: 1GiB, warn_after: []}\n"
        "notices: {language: [zh]}\n"
        "dkim:\n"
        "  - {domains: [a.example, '*.a.example'], key_file: key.pem}\n"
        "  - {domains: [a.example], key_file: key.pem, selector: 20240601, domain: A.example}\n"
        "http: {address: '0.0.0.0:8025', token_file: token}\n"
        "log: {format: json, level: debug, target: log/relayd.log}\n");
    assert_string_equal(c->node.hostname, "cn.xn--bcher-kva.example");
    assert_string_equal(c->node.region, "no");
    assert_string_equal(c->node.postmaster, "Pm@example.com");
    assert_string_equal(c->user, "root");
    assert_string_equal(c->listeners[0].text, "127.0.0.1:2525");
    assert_int_equal(c->listeners[0].bare_newline, CONFIG_NEWLINE_REJECT);
    assert_int_equal(c->listeners[0].n_proxies, 1);
    assert_int_equal(c->listeners[0].proxies[0].bits, 32);
    assert_int_equal(c->listeners[0].mark.line, 4);
    assert_string_equal(c->listeners[1].text, "[2001:db8::1]:465");
    assert_int_equal(c->listeners[1].tls, CONFIG_LISTENER_IMPLICIT);
    assert_true(c->listeners[1].require_auth);
    assert_int_equal(c->tls.min_version, CONFIG_TLS_1_3);
    assert_true(span_eq(c->tls.private_key.bytes, SPAN("KEY")));
    assert_int_equal(c->trusted[0].n_cidrs, 2);
    assert_int_equal(c->trusted[0].cidrs[1].ip.family, 4);
    assert_true(c->trusted[0].require_auth && c->trusted[0].require_tls);
    assert_int_equal(c->trusted[1].kind, CONFIG_TRUST_USERS);
    assert_string_equal(c->trusted[1].users.path, "users");
    assert_true(c->has_users);
    assert_int_equal(c->trusted[2].pin.kind, CONFIG_PIN_SPKI);
    assert_int_equal(c->trusted[2].pin.digest[0], 0xab);
    assert_int_equal(c->trusted[2].pin.digest[31], 0xd2);
    const struct hop *us = &c->hops[0];
    assert_string_equal(us->host, "us.example");
    assert_string_equal(us->address, "US.example:2525");
    assert_int_equal(us->port, 2525);
    assert_true(us->implicit && us->signs);
    assert_true(span_eq(us->password, SPAN("s3cret")));
    assert_string_equal(us->username, "cn");
    assert_int_equal(us->egress.v4.family, 4);
    assert_int_equal(us->egress.v6.family, 6);
    assert_int_equal(us->max_rate.per_ms, MINUTE);
    assert_int_equal(us->pin.kind, CONFIG_PIN_CERT);
    assert_int_equal(c->hops[1].ip.family, 6);
    assert_int_equal(c->hops[1].port, 0);
    assert_string_equal(c->hops[1].host, "");
    assert_int_equal(c->hops[1].n_ports, 1);
    assert_int_equal(c->hops[2].ip.family, 4);
    assert_int_equal(c->hops[2].port, 25);
    assert_int_equal(c->direct.egress.v4.family, 4); /* source's */
    assert_int_equal(c->direct.egress.v6.family, 6);
    assert_int_equal(c->direct.source.v6.family, 0);
    assert_int_equal(c->direct.ip_version, CONFIG_IP_4);
    assert_int_equal(c->resolver.n_servers, 2);
    assert_int_equal(c->resolver.servers[0].port, 53);
    assert_int_equal(c->resolver.servers[1].port, 5353);
    assert_true(c->queue.min_free_given);
    assert_int_equal(c->queue.n_warn_after, 0);
    assert_int_equal(c->n_languages, 1);
    assert_int_equal(c->languages[0], CONFIG_LANG_ZH);
    assert_string_equal(c->dkim[0].selector, "cn");
    assert_string_equal(c->dkim[0].domain, "");
    assert_true(c->dkim[0].domains[1].subdomains);
    assert_true(span_eq(c->dkim[0].key.bytes, SPAN("KEY")));
    assert_string_equal(c->dkim[1].selector, "20240601");
    assert_string_equal(c->dkim[1].domain, "a.example");
    assert_true(span_eq(c->http.token, SPAN("tok")));
    assert_int_equal(c->log.target, CONFIG_LOG_FILE);
    assert_string_equal(c->log.file, "log/relayd.log");
    config_free(c);
}

static void
norway_is_a_domain(void **state)
{
    (void)state;
    struct config *c =
        load_fine(NODE TRUST "local_domains: [no, on]\n"
                             "transport_map:\n  - {domains: [no, on, '*.no'], route: direct}\n"
                             "  - {default: yes, route: direct}\n");
    assert_true(config_is_local(c, SPAN("no")));
    assert_true(config_is_local(c, SPAN("on")));
    assert_false(config_is_local(c, SPAN("n")));
    assert_false(config_is_local(c, SPAN("noo")));
    assert_string_equal(c->rules[0].domains[0].name, "no");
    assert_string_equal(c->rules[0].domains[2].name, "no");
    config_free(c);
}

static void
a_users_file_adds_the_submission_ports(void **state)
{
    (void)state;
    struct config *c =
        load_fine(NODE "trusted_clients: [{users_file: users}]\n" MAP
                       "tls: {certificate_file: cert.pem, private_key_file: key.pem}\n");
    static const struct {
        const char *text;
        enum config_listener_tls tls;
        bool auth;
    } expected[] = {
        {"0.0.0.0:25", CONFIG_LISTENER_STARTTLS, false},
        {"[::]:25", CONFIG_LISTENER_STARTTLS, false},
        {"0.0.0.0:587", CONFIG_LISTENER_STARTTLS, true},
        {"[::]:587", CONFIG_LISTENER_STARTTLS, true},
        {"0.0.0.0:465", CONFIG_LISTENER_IMPLICIT, true},
        {"[::]:465", CONFIG_LISTENER_IMPLICIT, true},
    };
    assert_int_equal(c->n_listeners, N_ELEMENTS(expected));
    for (size_t i = 0; i < N_ELEMENTS(expected); i++) {
        assert_string_equal(c->listeners[i].text, expected[i].text);
        assert_int_equal(c->listeners[i].tls, expected[i].tls);
        assert_int_equal(c->listeners[i].require_auth, expected[i].auth);
    }
    config_free(c);
}

struct fault {
    const char *text, *expected; /* expected: a whole line of the report, or its beginning */
};

static void
check_faults(const char *base, const struct fault *cases, size_t n, bool is_error)
{
    for (size_t i = 0; i < n; i++) {
        struct strbuf text = STRBUF_INIT, out = STRBUF_INIT;
        strbuf_printf(&text, "%s%s", base, cases[i].text);
        struct config *config = load(text.p, 0, &out);
        const char *at = out.n == 0 ? NULL : strstr(out.p, cases[i].expected);
        if (at == NULL || (at != out.p && at[-1] != '\n') || (config == NULL) != is_error)
            fail_msg("%s\n  gave %s\n  expected %s", cases[i].text, out.n == 0 ? "nothing" : out.p,
                     cases[i].expected);
        config_free(config);
        strbuf_release(&text);
        strbuf_release(&out);
    }
}

static void
wrong_keys_and_shapes(void **state)
{
    (void)state;
    static const struct fault cases[] = {
        {"listners: []\n", "c.yaml:4:1: listners: unknown key; did you mean \"listeners\"?"},
        {"limits: {sesions: 5}\n",
         "c.yaml:4:10: limits.sesions: unknown key; did you mean \"sessions\"?"},
        {"limits:\n  mesage_size: 1MiB\n",
         "c.yaml:5:3: limits.mesage_size: unknown key; did you mean \"message_size\"?"},
        {"sessions: 5\n", "c.yaml:4:1: sessions: unknown key; did you mean limits.sessions?"},
        {"zzzzzz: 5\n", "c.yaml:4:1: zzzzzz: unknown key, expected one of those in relayd.yaml(5)"},
        {"'': 5\n", "c.yaml:4:1: unknown key"},
        {"\"no\\nde\\e\": 5\n", "c.yaml:4:1: no?de?: unknown key"},
        {"hops: {us: {adress: a}}\n",
         "c.yaml:4:13: hops.us.adress: unknown key; did you mean \"address\"?"},
        {"hops: {'*': {address: a}}\n", "c.yaml:4:8: hops.*: no usable name"},
        {"'listeners[]': 5\n", "c.yaml:4:1: listeners[]: unknown key"},
        {"'hops.*': 5\n", "c.yaml:4:1: hops.*: unknown key"},
        {"limits.sessions: 5\n", "c.yaml:4:1: limits.sessions: unknown key"},
        {"user: a\nuser: b\n", "c.yaml:5:1: key \"user\" is set twice, first at line 4"},
        {"limits: 5\n",
         "c.yaml:4:9: limits: one value stands here, expected a mapping (key: value)"},
        {"limits: []\n", "c.yaml:4:9: limits: a list stands here, expected a mapping (key: value)"},
        {"listeners: {}\n",
         "c.yaml:4:12: listeners: a mapping stands here, expected a list of mappings"},
        {"listeners: 5\n",
         "c.yaml:4:12: listeners: one value stands here, expected a list of mappings"},
        {"listeners: [5]\n",
         "c.yaml:4:13: listeners[0]: one value stands here, expected a mapping (key: value)"},
        {"listeners: [{tls: off}]\n",
         "c.yaml:4:13: listeners[0].address: is missing, expected a value such as 127.0.0.1:2525"},
        {"listeners: []\n", "c.yaml:4:12: listeners: is empty"},
        {"hops: []\n", "c.yaml:4:7: hops: a list stands here, expected names with a mapping each"},
        {"hops: {us: }\n", "c.yaml:4:12: hops.us.address: is missing"},
        {"hops: {direct: {address: a}}\n", "c.yaml:4:8: hops.direct: no usable name"},
        {"hops: {US: {address: a}}\n", "c.yaml:4:8: hops.US: no usable name"},
        {"hops: {us: {address: a, auth: {username: b}}}\n",
         "c.yaml:4:31: hops.us.auth.password_file: is missing"},
        {"user:\n", "c.yaml:4:6: user: nothing stands here, expected text"},
        {"user: [a]\n", "c.yaml:4:7: user: a list stands here, expected text"},
        {"user: {a: b}\n", "c.yaml:4:7: user: a mapping stands here, expected text"},
        {"local_domains: a.example\n",
         "c.yaml:4:16: local_domains: \"a.example\" stands here, expected a list"},
        {"local_domains:\n", "c.yaml:4:15: local_domains: nothing stands here, expected a list"},
        {"local_domains: [[a]]\n", "c.yaml:4:17: local_domains: a list stands here"},
        {"include: a.yaml\n", "c.yaml:4:10: include: one value stands here, expected a list"},
        {"classify: {rules: {}}\n",
         "c.yaml:4:19: classify.rules: a mapping stands here, expected a list"},
        {"a: *b\n", "c.yaml:4:4: aliases"},
        /* the second of two lists is longer than the first */
        {"transport_map: [{domains: [a.b], hold: x}, {domains: [c.d], hold: x}]\n",
         "c.yaml:4:1: key \"transport_map\" is set twice, first at line 3"},
    };
    check_faults(BASE, cases, N_ELEMENTS(cases), true);
}

static void
what_is_required_is_missed(void **state)
{
    (void)state;
    static const struct fault cases[] = {
        {TRUST MAP, "c.yaml:1:1: node: is missing, expected a section"},
        {"", "c.yaml:1:1: node: is missing, expected a section"},
        {"# nothing\n", "c.yaml:1:1: node: is missing"},
        {"node:\n" TRUST MAP, "c.yaml:1:6: node.name: is missing, expected a value such as cn"},
        {"node: {name: cn}\n", "c.yaml:1:7: node.hostname: is missing"},
        {"- a\n", "c.yaml:1:1: a list stands here, expected a mapping with keys such as node:"},
        {"text\n", "c.yaml:1:1: one value stands here, expected a mapping"},
    };
    check_faults("", cases, N_ELEMENTS(cases), true);
}

static void
wrong_values(void **state)
{
    (void)state;
    static const struct fault cases[] = {
        {"allow_gateway: 1\n",
         "c.yaml:4:16: allow_gateway: \"1\" is not true or false, expected true or false"},
        {"allow_gateway: 'true'\n",
         "c.yaml:4:16: allow_gateway: \"true\" is not true or false (without quotes), expected"},
        {"allow_gateway: [true]\n", "c.yaml:4:16: allow_gateway: a list is not true or false"},
        {"limits: {sessions: 1e3}\n", "c.yaml:4:20: limits.sessions: \"1e3\" is no whole number, "
                                      "expected a number from 1 to 1000000"},
        {"limits: {sessions: 0025}\n", "c.yaml:4:20: limits.sessions: \"0025\" is no whole number"},
        {"limits: {sessions: 0}\n", "c.yaml:4:20: limits.sessions: \"0\" is out of range"},
        {"limits: {sessions: 1000001}\n",
         "c.yaml:4:20: limits.sessions: \"1000001\" is out of range"},
        {"limits: {sessions: 99999999999999999999}\n", "c.yaml:4:20: limits.sessions: "},
        {"limits: {sessions: -1}\n", "c.yaml:4:20: limits.sessions: \"-1\" is no whole number"},
        {"limits: {message_size: 50}\n",
         "c.yaml:4:24: limits.message_size: \"50\": no size, expected"},
        {"limits: {message_size: 1B}\n", "c.yaml:4:24: limits.message_size: \"1B\" is out of "
                                         "range, expected a size from 1KiB to 2GiB"},
        {"timeouts: {connect: 30}\n",
         "c.yaml:4:21: timeouts.connect: \"30\": no duration, expected"},
        {"timeouts: {connect: 0}\n", "c.yaml:4:21: timeouts.connect: \"0\" is out of range"},
        {"timeouts: {connect: 61m}\n", "c.yaml:4:21: timeouts.connect: \"61m\" is out of range, "
                                       "expected a duration from 1ms to 1h"},
        {"queue: {retry: {jitter: 20}}\n",
         "c.yaml:4:25: queue.retry.jitter: \"20\" is no percentage"},
        {"queue: {retry: {intervals: []}}\n",
         "c.yaml:4:28: queue.retry.intervals: a list of 0 stands here"},
        {"queue: {retry: {intervals: [0]}}\n",
         "c.yaml:4:29: queue.retry.intervals: \"0\": a duration of nothing"},
        {"queue: {retry: {intervals: [5m, x]}}\n",
         "c.yaml:4:33: queue.retry.intervals: \"x\": no duration"},
        {"queue: {warn_after: [4h, 4h]}\n",
         "c.yaml:4:21: queue.warn_after: is not in ascending order"},
        {"tls: {min_version: 1.4}\n", "c.yaml:4:20: tls.min_version: \"1.4\" is not known here, "
                                      "expected one of 1.0, 1.1, 1.2, 1.3"},
        {"log: {level: inof}\n",
         "c.yaml:4:14: log.level: \"inof\" is not known here, expected one of alert, "
         "error, warn, info, debug; did you mean \"info\"?"},
        {"notices: {language: [fr]}\n", "c.yaml:4:22: notices.language: \"fr\" is not known here"},
        {"notices: {language: []}\n", "c.yaml:4:21: notices.language: a list of 0"},
        {"listeners: [{address: 2525}]\n",
         "c.yaml:4:23: listeners[0].address: \"2525\": no IP address"},
        {"listeners: [{address: 'mail.example:25'}]\n", "c.yaml:4:23: listeners[0].address: "},
        {"listeners: [{address: '127.0.0.1:0'}]\n", "c.yaml:4:23: listeners[0].address: "},
        {"listeners: [{address: '127.0.0.1:25', proxy_protocol: [10.0.0.1/8]}]\n",
         "c.yaml:4:56: listeners[0].proxy_protocol: \"10.0.0.1/8\": bits behind the prefix are "
         "set, "
         "expected 10.0.0.0/8"},
        {"hops: {us: {address: 'a:b'}}\n",
         "c.yaml:4:22: hops.us.address: \"a:b\" is no host with a port"},
        {"hops: {us: {address: 'a:0'}}\n", "c.yaml:4:22: hops.us.address: "},
        {"hops: {us: {address: 'a b'}}\n",
         "c.yaml:4:22: hops.us.address: \"a b\": the domain name has"},
        {"hops: {us: {address: '192.0.2.999'}}\n", "c.yaml:4:22: hops.us.address: "},
        {"hops: {us: {address: '[::1'}}\n", "c.yaml:4:22: hops.us.address: "},
        {"hops: {us: {address: a, ports: [465, 0]}}\n",
         "c.yaml:4:38: hops.us.ports: \"0\" is no port"},
        {"hops: {us: {address: a, ports: 465}}\n",
         "c.yaml:4:32: hops.us.ports: \"465\" stands here, expected a list"},
        {"hops: {us: {address: a, ports: [1, 2, 3, 4, 5, 6, 7, 8, 9]}}\n",
         "c.yaml:4:32: hops.us.ports: a list of 9 stands here, from 1 to 8 fit"},
        {"hops: {us: {address: a, fingerprint: 'SHA256:abcd'}}\n",
         "c.yaml:4:38: hops.us.fingerprint: \"SHA256:abcd\" is no fingerprint, expected SHA256: or "
         "SPKI:"},
        {"hops: {us: {address: a, fingerprint: 'MD5:" PIN "'}}\n",
         "c.yaml:4:38: hops.us.fingerprint: "},
        {"hops: {us: {address: a, fingerprint: 'SPKI:" PIN "0'}}\n",
         "c.yaml:4:38: hops.us.fingerprint: "},
        {"hops: {us: {address: a, max_rate: 100}}\n",
         "c.yaml:4:35: hops.us.max_rate: \"100\": no rate"},
        {"direct: {source: {v4: '::1'}}\n",
         "c.yaml:4:23: direct.source.v4: \"::1\" is none, expected an IPv4 address"},
        {"direct: {source: {v6: 127.0.0.1}}\n", "c.yaml:4:23: direct.source.v6: "},
        {"direct: {port: 65536}\n", "c.yaml:4:16: direct.port: \"65536\" is no port"},
        {"local_domains: ['*.a']\n",
         "c.yaml:4:17: local_domains: \"*.a\": the domain name has a character"},
        {"resolver: {servers: [dns.example]}\n",
         "c.yaml:4:22: resolver.servers: \"dns.example\": no IP address"},
        {"resolver: {servers: [127.0.0.1, 127.0.0.1, 127.0.0.1, 127.0.0.1, 127.0.0.1, 127.0.0.1, "
         "127.0.0.1, 127.0.0.1, 127.0.0.1, 127.0.0.1, 127.0.0.1, 127.0.0.1, 127.0.0.1, 127.0.0.1, "
         "127.0.0.1, 127.0.0.1, 127.0.0.1]}\n",
         "c.yaml:4:21: resolver.servers: a list of 17"},
        {"resolver: {cache_max: 0}\n", "c.yaml:4:23: resolver.cache_max: \"0\" is out of range, "
                                       "expected a number from 1 to 10000000"},
        {"dkim: [{domains: [a.b], key_file: key.pem, selector: 'a..b'}]\n",
         "c.yaml:4:54: dkim[0].selector: \"a..b\" is no selector"},
        {"dkim: [{domains: [], key_file: key.pem}]\n", "c.yaml:4:18: dkim[0].domains: a list of 0"},
        {"user: \"a\\nb\"\n", "c.yaml:4:7: user: \"a?b\" is no single line"},
        {"shaping: {providers: [{max_connections: 1}]}\n",
         "c.yaml:4:23: shaping.providers[0].mx: is missing"},
        {"trusted_clients: []\n", "c.yaml:4:1: key \"trusted_clients\" is set twice"},
    };
    check_faults(BASE, cases, N_ELEMENTS(cases), true);
    static const struct fault nodes[] = {
        {"node: {name: CN, hostname: a.b}\n", "c.yaml:3:14: node.name: \"CN\" is no name of at "
                                              "most 32 characters, expected a name of a-z"},
        {"node: {name: -a, hostname: a.b}\n", "c.yaml:3:14: node.name: "},
        {"node: {name: cn, hostname: a..b}\n",
         "c.yaml:3:28: node.hostname: \"a..b\": the domain name has an empty label"},
        {"node: {name: cn, hostname: 192.0.2.1}\n", "c.yaml:3:28: node.hostname: "},
        {"node: {name: cn, hostname: a.b, postmaster: me}\n",
         "c.yaml:3:45: node.postmaster: \"me\" is no mail address, expected an address "
         "local@domain"},
        {"node: {name: cn, hostname: a.b, postmaster: '<a@b>'}\n",
         "c.yaml:3:45: node.postmaster: "},
    };
    check_faults(TRUST MAP, nodes, N_ELEMENTS(nodes), true);
}

static void
secrets_that_others_read_or_we_cannot_are_refused(void **state)
{
    (void)state;
    static const struct fault cases[] = {
        {"dkim: [{domains: [a.b], key_file: world.pem}]\n",
         "c.yaml:4:35: dkim[0].key_file: world.pem: others can read it (mode 0644), take that "
         "away: "
         "chmod o= world.pem"},
        {"dkim: [{domains: [a.b], key_file: write.pem}]\n",
         "c.yaml:4:35: dkim[0].key_file: write.pem: others can write it (mode 0602)"},
        {"dkim: [{domains: [a.b], key_file: perm.pem}]\n",
         "c.yaml:4:35: dkim[0].key_file: perm.pem: user relayd cannot read it (Permission denied), "
         "make it readable: chown relayd perm.pem"},
        {"user: mail\ndkim: [{domains: [a.b], key_file: perm.pem}]\n",
         "c.yaml:5:35: dkim[0].key_file: perm.pem: user mail cannot read it (Permission denied), "
         "make it readable: chown mail perm.pem"},
        {"dkim: [{domains: [a.b], key_file: nothing.pem}]\n",
         "c.yaml:4:35: dkim[0].key_file: nothing.pem: No such file or directory"},
        {"dkim: [{domains: [a.b], key_file: fifo}]\n",
         "c.yaml:4:35: dkim[0].key_file: fifo: no regular file"},
        {"dkim: [{domains: [a.b], key_file: pass-empty}]\n",
         "c.yaml:4:35: dkim[0].key_file: pass-empty: is empty"},
        {"tls: {certificate_file: cert.pem, private_key_file: world.pem}\n",
         "c.yaml:4:53: tls.private_key_file: world.pem: others can read it"},
        {"tls: {certificate_file: none.pem, private_key_file: key.pem}\n",
         "c.yaml:4:25: tls.certificate_file: none.pem: No such file"},
        {"tls: {certificate_file: perm.pem, private_key_file: key.pem}\n",
         "c.yaml:4:25: tls.certificate_file: perm.pem: user relayd cannot read it"},
        {"hops: {us: {address: a, auth: {username: b, password_file: world.pem}}}\n",
         "c.yaml:4:60: hops.us.auth.password_file: world.pem: others can read it"},
        {"hops: {us: {address: a, auth: {username: b, password_file: pass-two}}}\n",
         "c.yaml:4:60: hops.us.auth.password_file: pass-two: holds no single line"},
        {"hops: {us: {address: a, auth: {username: b, password_file: pass-nul}}}\n",
         "c.yaml:4:60: hops.us.auth.password_file: pass-nul: holds no single line"},
        {"hops: {us: {address: a, certificate_file: cert.pem, private_key_file: world.pem}}\n",
         "c.yaml:4:71: hops.us.private_key_file: world.pem: others can read it"},
        {"hops: {us: {address: a, ca_file: none.pem}}\n",
         "c.yaml:4:34: hops.us.ca_file: none.pem: No such"},
        {"http: {address: '127.0.0.1:80', token_file: world.pem}\n",
         "c.yaml:4:45: http.token_file: world.pem: others can read it"},
    };
    check_faults(BASE, cases, N_ELEMENTS(cases), true);
    static const struct fault users[] = {
        {"tls: {certificate_file: cert.pem, private_key_file: key.pem}\ntrusted_clients: "
         "[{users_file: world.pem}]\n",
         "c.yaml:4:32: trusted_clients[0].users_file: world.pem: others can read it"},
        {"srs: {domain: a.b, secret_file: world.pem}\n",
         "c.yaml:3:33: srs.secret_file: world.pem: others can"},
    };
    check_faults(NODE MAP, users, N_ELEMENTS(users), true);
}

static void
a_secret_never_shows_in_a_report(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    struct config *config = load(
        BASE
        "hops: {us: {address: a, tls: nonsense, auth: {username: b, password_file: pass-two}}}\n",
        0, &out);
    assert_null(config);
    assert_non_null(strstr(out.p, "pass-two: holds no single line"));
    assert_null(strstr(out.p, "alpha7"));
    assert_null(strstr(out.p, "beta7"));
    strbuf_release(&out);
}

static void
an_outline_reads_no_secret(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    struct config *c = load(
        NODE
        "trusted_clients: [{users_file: perm.pem}]\n"
        "tls: {certificate_file: cert.pem, private_key_file: perm.pem}\n"
        "hops: {us: {address: a, auth: {username: b, password_file: perm.pem}}}\n"
        "transport_map: [{domains_file: nowhere.txt, route: us}, {default: true, route: direct}]\n",
        CONFIG_LOAD_OUTLINE, &out);
    if (c == NULL)
        fail_msg("%s", out.p);
    assert_int_equal(c->n_listeners, 6);
    assert_string_equal(c->user, "relayd");
    assert_int_equal(c->hops[0].password.n, 0);
    config_free(c);
    strbuf_release(&out);
}

#define GEOIP "geoip: {database: /x.mmdb}\n"

static void
rules_by_mx_and_country_say_what_is_wrong(void **state)
{
    (void)state;
    static const struct fault cases[] = {
        {"transport_map: [{mx: ['*.a.*'], route: direct}, {default: true, route: direct}]\n",
         "c.yaml:3:23: transport_map[0].mx: \"*.a.*\""},
        {"transport_map: [{mx: [], route: direct}, {default: true, route: direct}]\n",
         "c.yaml:3:22: transport_map[0].mx: a list of 0 stands here, from 1 to 10000 fit"},
        {"transport_map: [{mx_country: [CN], route: direct}, {default: true, route: direct}]\n",
         "c.yaml:3:30: transport_map[0]: mx_country needs geoip.database"},
        {GEOIP "transport_map: [{mx_country: [usa], route: direct}]\n",
         "c.yaml:4:31: transport_map[0].mx_country: \"usa\" is no country code, expected"},
        {GEOIP "transport_map: [{mx_country: ['7x'], route: direct}]\n",
         "c.yaml:4:31: transport_map[0].mx_country: \"7x\" is no country code, expected"},
        {GEOIP "transport_map: [{mx_country: [CN, ZZ], route: direct}]\n",
         "c.yaml:4:35: transport_map[0].mx_country: \"ZZ\" is no country code of ISO 3166-1,"},
        {GEOIP "transport_map: [{mx_country: [uk], route: direct}]\n",
         "c.yaml:4:31: transport_map[0].mx_country: \"uk\" is no country code of ISO 3166-1, which "
         "has GB,"},
        {GEOIP "transport_map: [{default: true, mx: [a.b], route: direct}]\n",
         "c.yaml:4:17: transport_map[0]: the default rule matches everything and takes no matcher"},
        {GEOIP "transport_map: [{route: direct}]\n",
         "c.yaml:4:17: transport_map[0]: matches nothing in particular, expected domains, "
         "domains_file, recipients, senders, mx, mx_country, or default: true"},
    };
    check_faults(NODE TRUST, cases, N_ELEMENTS(cases), true);
    /* Norway is no falsehood, and the case of a code does not matter. */
    struct config *c =
        load_fine(NODE TRUST GEOIP
                  "transport_map: [{mx: [MX.Example, '*.Example'], mx_country: [NO, us, xk], "
                  "route: direct}, {default: true, route: direct}]\n");
    const struct rule *rule = &c->rules[0];
    assert_string_equal(c->geoip_database, "/x.mmdb");
    assert_int_equal(rule->n_mx, 2);
    assert_string_equal(rule->mx[0].name, "mx.example");
    assert_true(rule->mx[1].subdomains);
    assert_int_equal(rule->n_mx_country, 3);
    assert_string_equal(rule->mx_country[0], "NO");
    assert_string_equal(rule->mx_country[1], "US");
    assert_string_equal(rule->mx_country[2], "XK");
    config_free(c);
}

static void
what_rules_learn_by_reaches_its_fields(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    struct config *c =
        load(NODE TRUST "hops: {us: {address: a}}\n"
                        "transport_map: [{default: true, route: direct, fallback: [us], "
                        "fallback_after: 2h, learn: true}]\n"
                        "learning: {ttl: 1h, path_errors: {count: 7}}\n"
                        "geoip: {database: /x.mmdb}\n"
                        "classify: {rules_file: rules.yaml, rules: [{a: b}]}\n",
             0, &out);
    assert_non_null(c);
    assert_true(c->rules[0].learn);
    assert_int_equal(c->rules[0].fallback_after_ms, 2 * HOUR);
    assert_int_equal(c->learning.ttl_ms, HOUR);
    assert_int_equal(c->learning.path_errors_count, 7);
    assert_string_equal(c->geoip_database, "/x.mmdb");
    assert_true(span_eq(c->classify.rules_bytes, SPAN("rules: []\n")));
    assert_int_equal(c->classify.rules->n_children, 1);
    config_free(c);
    strbuf_release(&out);
}

static void
all_problems_come_at_once_from_top_to_bottom(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    struct config *config = load("limits: {sessions: many, sesions: 1}\n"
                                 "node: {name: cn}\n"
                                 "transport_map: [{domains: ['a*'], route: uss}]\n"
                                 "trusted_clients: [{cidr: x}]\n"
                                 "hops: {us: {address: a, tls: of}}\n",
                                 0, &out);
    assert_null(config);
    static const char *const lines[] = {
        "c.yaml:1:20: limits.sessions: ",
        "c.yaml:1:26: limits.sesions: ",
        "c.yaml:2:7: node.hostname: ",
        "c.yaml:3:16: transport_map: warning: no default rule",
        "c.yaml:3:28: transport_map[0].domains: ",
        "c.yaml:3:42: transport_map[0].route: ",
        "c.yaml:4:26: trusted_clients[0].cidr: ",
        "c.yaml:5:30: hops.us.tls: ",
    };
    struct span rest = strbuf_span(&out);
    for (size_t i = 0; i < N_ELEMENTS(lines); i++) {
        struct span line = span_cut(&rest, '\n');
        if (!span_starts(line, span_str(lines[i])))
            fail_msg("line %zu is %.*s", i, SPAN_ARG(line));
    }
    assert_int_equal(rest.n, 0);
    strbuf_release(&out);
}

static uint32_t
connections_of(const struct config *config, const char *host)
{
    return config_shape_find(config, span_str(host))->max_connections;
}

static void
the_most_specific_provider_wins_whatever_the_order(void **state)
{
    (void)state;
    struct config *c =
        load_fine(BASE "shaping:\n"
                       "  default: {max_connections: 9}\n"
                       "  providers:\n"
                       "    - {mx: ['*.qq.com'], max_connections: 4}\n"
                       "    - {mx: ['mx3.qq.com'], max_connections: 1}\n"
                       "    - {mx: ['x.test', '*.biz.qq.com'], max_connections: 2}\n");
    assert_int_equal(connections_of(c, "mx1.qq.com"), 4);
    assert_int_equal(connections_of(c, "mx3.qq.com"), 1);
    assert_int_equal(connections_of(c, "mx.biz.qq.com"), 2);
    assert_int_equal(connections_of(c, "a.mx.biz.qq.com"), 2);
    assert_int_equal(connections_of(c, "x.test"), 2);
    assert_int_equal(connections_of(c, "qq.com"), 9);
    assert_int_equal(connections_of(c, "notqq.com"), 9);
    config_free(c);
}

static void
the_table_is_sound(void **state)
{
    (void)state;
    for (size_t i = 0; i < config_schema_n; i++) {
        const struct option *option = &config_schema[i];
        char form[256];
        assert_ptr_equal(config_schema_find(option->path), option); /* no path twice */
        assert_true(strlen(option->doc) > 0);
        assert_true(strlen(config_schema_form(option, form, sizeof(form))) > 0);
        bool words =
            option->type == OPT_WORD || option->type == OPT_WORDS || option->type == OPT_FLAGS;
        assert_int_equal(option->words != NULL, words);
        if (strchr(option->path, '.') == NULL)
            continue;
        char parent[128];
        snprintf(parent, sizeof(parent), "%.*s",
                 (int)(strlen(option->path) - strlen(config_schema_leaf(option)) - 1),
                 option->path);
        assert_true(config_schema_is_child(option, parent));
        size_t n = strlen(parent);
        if (n > 2 && (strcmp(parent + n - 2, "[]") == 0 || strcmp(parent + n - 2, ".*") == 0))
            parent[n - 2] = '\0';
        if (config_schema_find(parent) == NULL)
            fail_msg("%s has no parent", option->path);
    }
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_option_has_its_default),
        cmocka_unit_test(every_option_of_delivery_has_its_default),
        cmocka_unit_test(values_reach_their_fields),
        cmocka_unit_test(norway_is_a_domain),
        cmocka_unit_test(a_users_file_adds_the_submission_ports),
        cmocka_unit_test(wrong_keys_and_shapes),
        cmocka_unit_test(what_is_required_is_missed),
        cmocka_unit_test(wrong_values),
        cmocka_unit_test(secrets_that_others_read_or_we_cannot_are_refused),
        cmocka_unit_test(a_secret_never_shows_in_a_report),
        cmocka_unit_test(an_outline_reads_no_secret),
        cmocka_unit_test(rules_by_mx_and_country_say_what_is_wrong),
        cmocka_unit_test(what_rules_learn_by_reaches_its_fields),
        cmocka_unit_test(all_problems_come_at_once_from_top_to_bottom),
        cmocka_unit_test(the_most_specific_provider_wins_whatever_the_order),
        cmocka_unit_test(the_table_is_sound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
