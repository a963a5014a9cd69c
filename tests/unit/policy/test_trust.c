/* Who may relay: any one entry suffices, nobody else may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <string.h>

#include <cmocka.h>

#include "policy/trust.h"
#include "tests/unit/policy/config_text.h"

#define CERT "0101010101010101010101010101010101010101010101010101010101010101"
#define SPKI "0202020202020202020202020202020202020202020202020202020202020202"

static const char text[] = "node: {name: cn, hostname: cn.example}\n"
                           "tls: {certificate_file: cert.pem, private_key_file: key.pem}\n"
                           "transport_map: [{default: true, route: direct}]\n"
                           "trusted_clients:\n"
                           "  - {cidr: [127.0.0.0/8, '2001:db8::/32']}\n"
                           "  - {cidr: 10.0.0.0/8, require: [auth]}\n"
                           "  - {cidr: 10.1.0.0/16, require: [tls]}\n"
                           "  - {cidr: 10.2.0.0/16, require: [auth, tls]}\n";

static struct config *
load(const char *more)
{
    struct strbuf yaml = STRBUF_INIT, out = STRBUF_INIT;
    strbuf_add_str(&yaml, text);
    strbuf_add_str(&yaml, more);
    const struct text_file files[] = {
        {.path = "c.yaml", .text = yaml.p},
        {.path = "cert.pem", .text = "C"},
        {.path = "key.pem", .text = "K"},
        {.path = "users", .text = ""},
    };
    struct config *config = text_load(files, N_ELEMENTS(files), 0, &out);
    if (config == NULL)
        fail_msg("%s", out.p);
    strbuf_release(&yaml);
    strbuf_release(&out);
    return config;
}

struct trust_case {
    const char *peer;
    bool tls;
    const char *user;
    int cert, spki; /* the byte that fills the digest; 0: none shown */
    bool relay;
    const char *why;
};

static void
check(const struct config *config, const struct trust_case *c)
{
    uint8_t cert[32], spki[32];
    memset(cert, c->cert, sizeof(cert));
    memset(spki, c->spki, sizeof(spki));
    struct trust_query query = {
        .tls = c->tls,
        .auth_user = span_str(c->user),
        .cert_digest = c->cert == 0 ? NULL : cert,
        .spki_digest = c->spki == 0 ? NULL : spki,
    };
    assert_true(ip_parse(span_str(c->peer), &query.peer));
    struct trust_decision d;
    bool relay = trust_check(config, &query, &d);
    if (relay != c->relay || d.relay != relay || (d.entry != NULL) != relay ||
        strcmp(d.why, c->why) != 0)
        fail_msg("%s: relay=%d %s", c->peer, relay, d.why);
}

static const char nothing[] = "no entry of trusted_clients matches";

static void
any_one_entry_suffices(void **state)
{
    (void)state;
    static const struct trust_case cases[] = {
        {"127.0.0.1", false, "", 0, 0, true, "cidr 127.0.0.0/8"},
        {"::ffff:127.0.0.1", false, "", 0, 0, true, "cidr 127.0.0.0/8"},
        {"2001:db8::5", false, "", 0, 0, true, "cidr 2001:db8::/32"},
        {"192.0.2.1", false, "", 0, 0, false, nothing},
        {"192.0.2.1", true, "", 0, 0, false, nothing},
        {"192.0.2.1", true, "alice", 0, 0, true, "user alice"},
        {"192.0.2.1", true, "", 1, 9, true, "client certificate"},
        {"192.0.2.1", true, "", 9, 2, true, "client certificate"},
        {"192.0.2.1", true, "", 2, 1, false, nothing}, /* each pin looks at its own digest */
        {"192.0.2.1", true, "", 9, 9, false, nothing},
        {"10.0.0.1", true, "", 0, 0, false, "cidr 10.0.0.0/8 asks for auth"},
        {"10.0.0.1", false, "bob", 0, 0, true, "cidr 10.0.0.0/8"},
        {"10.1.0.1", false, "", 0, 0, false, "cidr 10.1.0.0/16 asks for tls"},
        {"10.1.0.1", true, "", 0, 0, true, "cidr 10.1.0.0/16"},
        {"10.2.0.1", false, "", 0, 0, false, "cidr 10.2.0.0/16 asks for auth and tls"},
        {"10.2.0.1", true, "", 0, 0, false, "cidr 10.2.0.0/16 asks for auth"},
    };
    struct config *config = load("  - {users_file: users}\n"
                                 "  - {client_certificate: 'SHA256:" CERT "'}\n"
                                 "  - {client_certificate: 'SPKI:" SPKI "'}\n");
    for (size_t i = 0; i < N_ELEMENTS(cases); i++)
        check(config, &cases[i]);
    config_free(config);
}

static void
a_stranger_gets_nothing_whatever_is_shown(void **state)
{
    (void)state;
    const struct text_file files[] = {{.path = "c.yaml",
                                       .text =
                                           "node: {name: cn, hostname: cn.example}\n"
                                           "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
                                           "transport_map: [{default: true, route: direct}]\n"}};
    struct strbuf out = STRBUF_INIT;
    struct config *config = text_load(files, 1, 0, &out);
    static const struct trust_case cases[] = {
        {"192.0.2.1", true, "alice", 1, 2, false, nothing},
        {"126.255.255.255", false, "", 0, 0, false, nothing},
        {"::7f00:1", false, "", 0, 0, false, nothing}, /* not IPv4-mapped */
        {"::1", false, "", 0, 0, false, nothing},      /* has to be trusted by itself */
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++)
        check(config, &cases[i]);
    struct trust_query nobody = {0};
    struct trust_decision d;
    assert_false(trust_check(config, &nobody, &d));
    config_free(config);
    strbuf_release(&out);
}

/* A decision about `peer` with what the names stand for. */
static struct trust_decision
by_name(const struct config *config, const struct trust_names *names, const char *peer, bool tls,
        const char *user)
{
    struct trust_query query = {.tls = tls, .auth_user = span_str(user), .names = names};
    struct trust_decision d;
    assert_true(ip_parse(span_str(peer), &query.peer));
    trust_check(config, &query, &d);
    return d;
}

static void
a_name_stands_for_its_addresses_of_the_moment(void **state)
{
    (void)state;
    static const struct {
        const char *peer;
        bool tls;
        const char *user;
        bool relay;
        const char *why;
    } cases[] = {
        {"192.0.2.1", false, "", true, "host office.example"},
        {"::ffff:192.0.2.1", false, "", true, "host office.example"},
        {"2001:db9::1", false, "", true, "host office.example"},
        {"2001:db9::2", false, "", false, nothing},
        {"192.0.2.2", false, "", false, "host home.example asks for auth and tls"},
        {"192.0.2.2", true, "", false, "host home.example asks for auth"},
        {"192.0.2.2", true, "bob", true, "host home.example"},
        {"192.0.2.3", true, "bob", false, nothing}, /* of no entry */
    };
    static const struct text_file files[] = {
        {.path = "cert.pem", .text = "CERT", .mode = 0644},
        {.path = "key.pem", .text = "KEY"},
        {.path = "users", .text = "u"},
        {.path = "c.yaml",
         .text = "node: {name: cn, hostname: cn.example}\n"
                 "tls: {certificate_file: cert.pem, private_key_file: key.pem}\n"
                 "trusted_clients:\n"
                 "  - {host: office.example}\n"
                 "  - {host: Home.Example, require: [auth, tls]}\n"
                 "  - {users_file: users}\n"
                 "transport_map: [{default: true, route: direct}]\n"}};
    struct strbuf out = STRBUF_INIT;
    struct config *config = text_load(files, N_ELEMENTS(files), 0, &out);
    assert_non_null(config);
    config->n_trusted = 2; /* the users are there for the check of `require` only */
    struct ip office[2], home, other;
    assert_true(ip_parse(SPAN("192.0.2.1"), &office[0]));
    assert_true(ip_parse(SPAN("2001:db9::1"), &office[1]));
    assert_true(ip_parse(SPAN("192.0.2.2"), &home));
    assert_true(ip_parse(SPAN("192.0.2.3"), &other));
    const struct trust_name list[] = {
        {.host = "other.example", .addresses = &other, .n_addresses = 1},
        {.host = "home.example", .addresses = &home, .n_addresses = 1},
        {.host = "office.example", .addresses = office, .n_addresses = 2}};
    const struct trust_names names = {.list = list, .n = N_ELEMENTS(list)};
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct trust_decision d =
            by_name(config, &names, cases[i].peer, cases[i].tls, cases[i].user);
        if (d.relay != cases[i].relay || strcmp(d.why, cases[i].why) != 0)
            fail_msg("%s: relay=%d %s", cases[i].peer, d.relay, d.why);
        assert_true((d.entry != NULL) == d.relay);
        d = by_name(config, NULL, cases[i].peer, cases[i].tls, cases[i].user);
        assert_false(d.relay);
    }
    config_free(config);
    strbuf_release(&out);
}

static void
a_name_that_is_not_known_yet_may_be_anybody_of_the_family(void **state)
{
    (void)state;
    static const struct {
        const char *peer;
        bool v4_unknown, v6_unknown, listed, relay, undecided;
    } cases[] = {
        {"192.0.2.1", true, true, true, false, true},
        {"2001:db9::1", true, true, true, false, true},
        {"192.0.2.1", true, false, true, false, true},
        {"2001:db9::1", true, false, true, false, false},
        {"192.0.2.1", false, true, true, false, false},
        {"2001:db9::1", false, true, true, false, true},
        {"192.0.2.1", false, false, true, false, false},
        {"192.0.2.1", true, true, false, false, false}, /* a reload has taken it away */
        {"10.9.0.1", true, true, true, true, false},    /* trusted anyhow */
    };
    static const struct text_file files[] = {
        {.path = "c.yaml",
         .text = "node: {name: cn, hostname: cn.example}\n"
                 "trusted_clients: [{host: office.example}, {cidr: 10.9.0.0/16}]\n"
                 "transport_map: [{default: true, route: direct}]\n"}};
    struct strbuf out = STRBUF_INIT;
    struct config *config = text_load(files, N_ELEMENTS(files), 0, &out);
    assert_non_null(config);
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        const struct trust_name office = {.host = "office.example",
                                          .v4_unknown = cases[i].v4_unknown,
                                          .v6_unknown = cases[i].v6_unknown};
        const struct trust_names names = {.list = &office, .n = cases[i].listed};
        const struct trust_decision d = by_name(config, &names, cases[i].peer, false, "");
        if (d.relay != cases[i].relay || d.undecided != cases[i].undecided)
            fail_msg("case %zu: relay=%d undecided=%d", i, d.relay, d.undecided);
    }
    config_free(config);
    strbuf_release(&out);
}

static void
a_name_cannot_have_any_address(void **state)
{
    (void)state;
    static const struct {
        const char *ip, *fault, *fault_in_labs;
    } cases[] = {
        {"203.0.113.5", NULL, NULL},
        {"2001:db8::1", NULL, NULL},
        {"0.0.0.0", "unspecified", "unspecified"},
        {"::", "unspecified", "unspecified"},
        {"224.0.0.1", "multicast", "multicast"},
        {"255.255.255.255", "multicast", "multicast"},
        {"ff02::1", "multicast", "multicast"},
        {"240.0.0.1", "reserved", "reserved"},
        {"127.0.0.1", "loopback", NULL},
        {"::1", "loopback", NULL},
        {"10.0.0.1", "private", NULL},
        {"100.64.0.1", "private", NULL},
        {"fd00::1", "private", NULL},
        {"169.254.1.1", "link-local", NULL},
        {"fe80::1", "link-local", NULL},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct ip ip;
        assert_true(ip_parse(span_str(cases[i].ip), &ip));
        for (int labs = 0; labs < 2; labs++) {
            const char *fault = trust_address_fault(&ip, labs),
                       *expected = labs ? cases[i].fault_in_labs : cases[i].fault;
            if ((fault == NULL) != (expected == NULL) ||
                (fault != NULL && strcmp(fault, expected) != 0))
                fail_msg("%s: %s", cases[i].ip, fault);
        }
    }
}

static void
a_long_user_name_is_cut_in_the_reason(void **state)
{
    (void)state;
    struct config *config = load("  - {users_file: users}\n");
    char name[300];
    memset(name, 'u', sizeof(name));
    struct trust_query query = {.auth_user = span_of(name, sizeof(name))};
    assert_true(ip_parse(SPAN("192.0.2.1"), &query.peer));
    struct trust_decision d;
    assert_true(trust_check(config, &query, &d));
    assert_int_equal(strlen(d.why), strlen("user ") + 100);
    config_free(config);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_one_entry_suffices),
        cmocka_unit_test(a_stranger_gets_nothing_whatever_is_shown),
        cmocka_unit_test(a_name_stands_for_its_addresses_of_the_moment),
        cmocka_unit_test(a_name_that_is_not_known_yet_may_be_anybody_of_the_family),
        cmocka_unit_test(a_name_cannot_have_any_address),
        cmocka_unit_test(a_long_user_name_is_cut_in_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
