/* What only the whole configuration can tell: routes, rules, listeners, trust, containers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <string.h>

#include <cmocka.h>

#include "tests/unit/policy/config_text.h"

#define NODE "node: {name: cn, hostname: cn.example}\n"
#define TRUST "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
#define MAP "transport_map: [{default: true, route: direct}]\n"
#define TLS "tls: {certificate_file: cert.pem, private_key_file: key.pem}\n"
#define HOPS "hops: {us: {address: us.example}, jp: {address: jp.example}}\n"
#define US "hops: {us: {address: us.example}}\n"
#define VIA_US "transport_map: [{default: true, route: us}]\n"
#define DEFAULT "  - {default: true, route: direct}\n"
#define PIN "'SHA256:ab54a98ceb1f0ad2ab54a98ceb1f0ad2ab54a98ceb1f0ad2ab54a98ceb1f0ad2'"

static const struct text_file around[] = {
    {.path = "cert.pem", .text = "CERT", .mode = 0644},
    {.path = "key.pem", .text = "KEY"},
    {.path = "pass", .text = "s3cret\n"},
    {.path = "users", .text = "u"},
    {.path = "none.txt", .text = "# nothing\n\n", .mode = 0644},
    {.path = "list.txt", .text = "a.example\n", .mode = 0644},
    {.path = "bad.txt",
     .text = "# ok\na.example\n  b c \n*.ok.example # fine\n192.0.2.1\n",
     .mode = 0644},
    {.path = "perm.txt", .text = "Permission denied", .code = ERR_PERM},
};

static struct config *
load(const char *text, const struct text_file *more, struct strbuf *out)
{
    struct text_file files[N_ELEMENTS(around) + 1];
    memcpy(files, around, sizeof(around));
    files[N_ELEMENTS(around)] = (struct text_file){.path = "c.yaml", .text = text};
    struct text_files all = {.files = files, .n = N_ELEMENTS(files), .more = more};
    struct config_source source = text_source(&all);
    struct config_problems problems = {0};
    struct config *config = NULL;
    if (config_load("c.yaml", &source, 0, &config, &problems) != ERR_OK)
        assert_null(config);
    for (size_t i = 0; i < problems.n; i++) {
        config_problem_format(&problems.items[i], out);
        strbuf_add_byte(out, '\n');
    }
    config_problems_release(&problems);
    return config;
}

struct check_case {
    const char *text;
    const char *expected; /* the beginning of a line; NULL: no problem at all */
};

enum verdict { FINE, WARNED, REFUSED };

static void
check_case(const struct check_case *c, const struct text_file *more, enum verdict verdict)
{
    struct strbuf out = STRBUF_INIT;
    struct config *config = load(c->text, more, &out);
    const char *report = out.n == 0 ? "" : out.p;
    if ((config != NULL) != (verdict != REFUSED))
        fail_msg("%s\n  gave %s", c->text, report);
    if (c->expected == NULL) {
        if (out.n > 0)
            fail_msg("%s\n  gave %s", c->text, report);
    } else {
        const char *at = strstr(report, c->expected);
        if (at == NULL || (at != report && at[-1] != '\n'))
            fail_msg("%s\n  gave %s\n  expected %s", c->text, report, c->expected);
        bool warns = strstr(report, "warning: ") != NULL;
        if (verdict == WARNED && !warns)
            fail_msg("%s\n  gave %s", c->text, report);
    }
    config_free(config);
    strbuf_release(&out);
}

static void
check_cases(const struct check_case *cases, size_t n, enum verdict verdict)
{
    for (size_t i = 0; i < n; i++)
        check_case(&cases[i], NULL, verdict);
}

static void
routes_name_hops_that_exist(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE TRUST HOPS "transport_map:\n  - {domains: [a.b], route: uss}\n" DEFAULT,
         "c.yaml:5:29: transport_map[0].route: \"uss\" is no hop, expected one of direct, us, jp; "
         "did you "
         "mean \"us\"?\n"},
        {NODE TRUST HOPS
         "transport_map:\n  - {domains: [a.b], route: us, fallback: [jp, dircet]}\n" DEFAULT,
         "c.yaml:5:48: transport_map[0].fallback: \"dircet\" is no hop, expected one of direct, "
         "us, jp; "
         "did you mean \"direct\"?\n"},
        {NODE TRUST HOPS "transport_map:\n  - {domains: [a.b], never_via: [xx]}\n" DEFAULT,
         "c.yaml:5:34: transport_map[0].never_via: \"xx\" is no hop"},
        {NODE TRUST "transport_map: [{default: true, route: us}]\n",
         "c.yaml:3:40: transport_map[0].route: \"us\" is no hop, expected one of direct\n"},
    };
    check_cases(cases, N_ELEMENTS(cases), REFUSED);
    /* hops may stand below the rules */
    static const struct check_case fine = {
        NODE TRUST "transport_map: [{default: true, route: us, fallback: [jp]}]\n" HOPS, NULL};
    check_case(&fine, NULL, FINE);
}

static void
a_rule_says_one_thing_about_some_recipients(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE TRUST "transport_map:\n  - {domains: [a.b]}\n" DEFAULT,
         "c.yaml:4:5: transport_map[0]: says nothing to do, expected one of route, reject"},
        {NODE TRUST "transport_map:\n  - {domains: [a.b], route: direct, hold: x}\n" DEFAULT,
         "c.yaml:4:5: transport_map[0]: expected one of route, reject, discard, hold, not several"},
        {NODE TRUST
         "transport_map:\n  - {domains: [a.b], discard: true, reject: '550 5.7.1 x'}\n" DEFAULT,
         "c.yaml:4:5: transport_map[0]: expected one of route, reject, discard, hold, not several"},
        {NODE TRUST "transport_map:\n  - {domains: [a.b], discard: false}\n" DEFAULT,
         "c.yaml:4:31: transport_map[0].discard: \"false\" has no meaning here, expected true"},
        {NODE TRUST "transport_map:\n  - {route: direct}\n" DEFAULT,
         "c.yaml:4:5: transport_map[0]: matches nothing in particular, expected domains"},
        {NODE TRUST HOPS "transport_map:\n  - {never_via: [us]}\n" DEFAULT,
         "c.yaml:5:5: transport_map[0]: matches nothing in particular"},
        {NODE TRUST "transport_map:\n  - {default: true, domains: [a.b], route: direct}\n",
         "c.yaml:4:5: transport_map[0]: the default rule matches everything and takes no matcher"},
        {NODE TRUST "transport_map:\n  - {default: false, route: direct}\n",
         "c.yaml:4:15: transport_map[0].default: \"false\" has no meaning here"},
        {NODE TRUST "transport_map:\n" DEFAULT DEFAULT,
         "c.yaml:5:5: transport_map[1]: a second default rule, the first is at c.yaml:4"},
        {NODE TRUST HOPS "transport_map:\n  - {domains: [a.b], hold: x, fallback: [us]}\n" DEFAULT,
         "c.yaml:5:5: transport_map[0]: fallback without a route"},
        {NODE TRUST
         "transport_map:\n  - {domains: [a.b], reject: '550 5.1.1 x', tls: verify}\n" DEFAULT,
         "c.yaml:4:5: transport_map[0]: tls without a route"},
        {NODE TRUST "transport_map:\n  - {domains: [a.b], discard: true, learn: true}\n" DEFAULT,
         "c.yaml:4:5: transport_map[0]: learn without a route"},
        {NODE TRUST HOPS
         "transport_map:\n  - {domains: [a.b], never_via: [us], spf_softfail: true}\n" DEFAULT,
         "c.yaml:5:5: transport_map[0]: spf_softfail without a route"},
        {NODE TRUST HOPS
         "transport_map:\n  - {domains: [a.b], route: us, fallback: [jp, jp]}\n" DEFAULT,
         "c.yaml:5:5: transport_map[0]: route jp stands twice in fallback"},
        {NODE TRUST
         "transport_map:\n  - {domains: [a.b], route: direct, fallback_after: 1h}\n" DEFAULT,
         "c.yaml:4:5: transport_map[0]: fallback_after without a fallback"},
        {NODE TRUST "transport_map:\n  - {recipients: [a.b], route: direct}\n" DEFAULT,
         "c.yaml:4:19: transport_map[0].recipients: \"a.b\": no '@' with something before it"},
        {NODE TRUST "transport_map:\n  - {recipients: ['@a.b'], route: direct}\n" DEFAULT,
         "c.yaml:4:19: transport_map[0].recipients: \"@a.b\": no '@' with something before it"},
        {NODE TRUST "transport_map:\n  - {senders: ['a*@a.b'], route: direct}\n" DEFAULT,
         "c.yaml:4:16: transport_map[0].senders: \"a*@a.b\": '*' stands for a whole local part"},
        {NODE TRUST "transport_map:\n  - {senders: ['*@*a.b'], route: direct}\n" DEFAULT,
         "c.yaml:4:16: transport_map[0].senders: \"*@*a.b\": '*' stands only in front"},
        {NODE TRUST "transport_map:\n  - 5\n" DEFAULT,
         "c.yaml:4:5: transport_map[0]: one value stands here"},
    };
    check_cases(cases, N_ELEMENTS(cases), REFUSED);
}

static void
replies_of_reject_are_replies(void **state)
{
    (void)state;
    static const char *const wrong[] = {
        "451 4.7.1 later",  "550 moved",       "550 5.1 moved",
        "550 5.1.2",        "550 4.1.2 moved", "550 5..2 moved",
        "5505.1.2 moved",   "599 5.1.2 moved", "550-5.1.2 moved",
        "550 5.1.2. moved", "550 5.x.2 moved", "550 5.1.2 \xc3\xbc",
        "250 2.0.0 thanks", "moved",
    };
    for (size_t i = 0; i < N_ELEMENTS(wrong); i++) {
        struct strbuf text = STRBUF_INIT;
        strbuf_printf(&text,
                      NODE TRUST "transport_map:\n  - {domains: [a.b], reject: \"%s\"}\n" DEFAULT,
                      wrong[i]);
        struct check_case c = {text.p, "c.yaml:4:30: transport_map[0].reject: "};
        check_case(&c, NULL, REFUSED);
        strbuf_release(&text);
    }
    static const struct check_case fine[] = {
        {NODE TRUST "transport_map:\n  - {domains: [a.b], reject: '550 5.1.2 this partner has "
                    "moved'}\n" DEFAULT,
         NULL},
        {NODE TRUST "transport_map:\n  - {domains: [a.b], reject: '554 5.7.100 x'}\n" DEFAULT,
         NULL},
    };
    check_cases(fine, N_ELEMENTS(fine), FINE);
}

static void
what_works_but_is_probably_not_meant_is_a_warning(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE TRUST, "c.yaml:1:1: transport_map: warning: no default rule: what no rule matches is "
                     "refused with 550 5.4.4"},
        {NODE TRUST "transport_map:\n  - {domains: [a.b], route: direct}\n",
         "c.yaml:4:3: transport_map: warning: no default rule"},
        {NODE MAP, "c.yaml:1:1: trusted_clients: warning: is empty, so nobody may relay"},
        {NODE MAP "trusted_clients: []\n", "c.yaml:3:18: trusted_clients: warning: is empty"},
        {NODE MAP "trusted_clients: [{cidr: 0.0.0.0/0}]\n",
         "c.yaml:3:19: trusted_clients[0]: warning: trusts the whole Internet, which makes an open "
         "relay"},
        {NODE TRUST "transport_map:\n" DEFAULT "  - {domains: [a.b], route: direct}\n",
         "c.yaml:5:5: transport_map[1]: warning: stands behind the default rule at line 4 and "
         "never decides"},
        {NODE TRUST MAP "local_domains: [a.example]\n",
         "c.yaml:4:16: local_domains: warning: no rule of transport_map names a.example"},
        {NODE TRUST "local_domains: [a.example]\ntransport_map:\n  - {domains: ['*.a.example'], "
                    "route: direct}\n" DEFAULT,
         "c.yaml:3:16: local_domains: warning: no rule of transport_map names a.example"},
        {NODE TRUST MAP "listeners: [{address: '127.0.0.1:25', tls: starttls}]\n",
         "c.yaml:4:13: listeners[0]: warning: starttls is off, for there is no "
         "tls.certificate_file"},
        {NODE TRUST "transport_map:\n  - {domains_file: none.txt, route: direct}\n" DEFAULT,
         "c.yaml:4:20: transport_map[0].domains_file: warning: none.txt holds no domain"},
        {NODE TRUST MAP "queue: {min_free: 0}\n",
         "c.yaml:4:19: queue.min_free: warning: 0 leaves no room"},
        {NODE TRUST MAP "queue: {retry: {max_age: 1m}}\n",
         "c.yaml:4:8: queue.retry: warning: the first interval"},
        {NODE TRUST MAP "direct: {ca_file: cert.pem}\n",
         "c.yaml:4:19: direct.ca_file: warning: no effect without"},
        {NODE TRUST MAP "dkim: [{domains: [a.example], domain: b.example, key_file: key.pem}]\n",
         "c.yaml:4:8: dkim[0]: warning: signs for a.example with d=b.example, which DMARC does not "
         "align"},
    };
    check_cases(cases, N_ELEMENTS(cases), WARNED);
}

static void
what_is_meant_passes_without_a_word(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE TRUST MAP, NULL},
        {NODE MAP TLS "trusted_clients:\n  - {host: a.example, require: [auth], stale_max: 1h}\n"
                      "  - {host: a.example, require: [tls], stale_max: 1h}\n"
                      "  - {users_file: users}\n",
         NULL},
        {NODE TRUST US "transport_map:\n  - {domains: [b.c], route: us}\n" DEFAULT
                       "  - {domains: [a.b], never_via: [us]}\n",
         NULL},
        {NODE TRUST "local_domains: [a.example]\ntransport_map:\n  - {domains: [a.example], route: "
                    "direct}\n" DEFAULT,
         NULL},
        {NODE TRUST "local_domains: [a.example]\ntransport_map:\n  - {domains_file: list.txt, "
                    "route: direct}\n" DEFAULT,
         NULL},
        {NODE TRUST "local_domains: [a.example]\ntransport_map:\n  - {recipients: ['*@a.example'], "
                    "route: direct}\n" DEFAULT,
         NULL},
        {NODE TRUST "local_domains: [a.example]\ntransport_map:\n"
                    "  - {domains: [a.example], senders: [x@y.example], route: direct}\n" DEFAULT,
         NULL},
        {NODE TRUST MAP "listeners: [{address: '127.0.0.1:25'}, {address: '127.0.0.1:26'}]\n",
         NULL},
        {NODE TRUST MAP "listeners: [{address: '0.0.0.0:25'}, {address: '[::]:25'}]\n", NULL},
        {NODE TRUST MAP "http: {address: '127.0.0.1:8025'}\n", NULL},
        {NODE TRUST MAP "http: {address: '[::1]:8025'}\n", NULL},
        {NODE TRUST MAP "tls:\nlimits:\nhops:\ndkim:\n",
         NULL}, /* sections with every line commented out */
        {NODE TRUST MAP "direct: {tls: verify, ca_file: cert.pem}\n", NULL},
        {NODE TRUST MAP
         "dkim: [{domains: ['*.a.example'], domain: a.example, key_file: key.pem}]\n",
         NULL},
    };
    check_cases(cases, N_ELEMENTS(cases), FINE);
}

/* A map between the lines of HOPS and the default rule, which uses both: its first rule is line 5.
 */
#define MAP_OF(rules) \
    NODE TRUST HOPS "transport_map:\n" rules "  - {default: true, route: jp, fallback: [us]}\n"
#define NEVER "warning: never decides, for the rule at c.yaml:5 matches all that it does\n"
#define NEVER_MANY \
    "warning: never decides, for rules above match all that it does, the first at c.yaml:5\n"

static void
a_rule_that_earlier_ones_cover_is_told(void **state)
{
    (void)state;
#define UPPER(matchers) "  - {" matchers ", route: us}\n"
#define LOWER(matchers) "  - {" matchers ", hold: why}\n"
#define TOLD(first, second, how)                                                 \
    {                                                                            \
        MAP_OF(UPPER(first) LOWER(second)), "c.yaml:6:5: transport_map[1]: " how \
    }
    static const struct check_case cases[] = {
        TOLD("domains: [a.b]", "domains: [A.B]", NEVER),
        TOLD("domains: [c.d, a.b]", "domains: [a.b], senders: [x@y.z]", NEVER),
        TOLD("domains: ['*.b']", "domains: [a.b, x.y.b]", NEVER),
        TOLD("domains: ['*.b']", "domains: ['*.a.b']", NEVER),
        TOLD("domains: ['*.b', b]", "domains: ['*.b', b]", NEVER),
        TOLD("domains_file: list.txt", "domains: [a.example]", NEVER),
        TOLD("recipients: ['*@a.b']", "domains: [a.b]", NEVER),
        TOLD("recipients: ['*@*.b']", "domains: ['*.a.b'], mx: [m.n]", NEVER),
        TOLD("domains: [a.b]", "recipients: [x@a.b]", NEVER),
        TOLD("recipients: ['*@a.b']", "recipients: [x@a.b, '*@a.b']", NEVER),
        TOLD("recipients: ['X@*.b']", "recipients: [x@a.b, '\"x\"@*.a.b']", NEVER),
        TOLD("recipients: [x@a.b]", "domains: ['*.b'], recipients: [x@a.b, x@c.d]", NEVER),
        TOLD("senders: ['*@y.z']", "domains: [a.b], senders: [x@y.z]", NEVER),
        TOLD("senders: ['<>']", "senders: ['<>'], domains: [a.b]", NEVER),
        TOLD("mx: ['*.m.n']", "mx: [h.m.n, '*.h.m.n']", NEVER),
        {MAP_OF("  - {domains: [a.b], discard: true}\n"
                "  - {domains: [c.d], reject: '550 5.1.2 x'}\n"
                "  - {domains: [a.b, c.d], route: us}\n"),
         "c.yaml:7:5: transport_map[2]: " NEVER_MANY},
        {MAP_OF("  - {domains: [a.b], recipients: ['*@a.b'], route: us}\n"
                "  - {domains: [a.b], never_via: [jp], route: us}\n"),
         "c.yaml:6:5: transport_map[1]: " NEVER},
        {MAP_OF("  - {domains: [a.b], recipients: [x@c.d], route: us}\n"),
         "c.yaml:5:5: transport_map[0]: warning: matches nobody, for none of its recipients is in "
         "one of its domains\n"},
    };
    check_cases(cases, N_ELEMENTS(cases), WARNED);
#define KEPT(first, second)                      \
    {                                            \
        MAP_OF(UPPER(first) LOWER(second)), NULL \
    }
    static const struct check_case fine[] = {
        KEPT("domains: [a.b]", "domains: [a.b, a.c]"),
        KEPT("domains: ['*.a.b']", "domains: [a.b]"),
        KEPT("domains: [a.b]", "domains: ['*.a.b']"),
        KEPT("domains: ['*.a.b']", "domains: ['*.b']"),
        KEPT("domains: [a.b], senders: [x@y.z]", "domains: [a.b]"),
        KEPT("domains: [a.b], recipients: [x@a.b]", "domains: [a.b]"),
        KEPT("domains: [a.b], mx: [m.n]", "domains: [a.b]"),
        KEPT("senders: ['*@*.z']", "domains: [a.b]"), /* the null sender */
        KEPT("senders: ['*@y.z']", "senders: [x@y.z, '<>']"),
        KEPT("recipients: [x@a.b]", "recipients: ['*@a.b']"),
        KEPT("recipients: ['x@*.b']", "domains: [a.b]"),
        KEPT("mx: [h.m.n]", "mx: ['*.m.n']"),
        KEPT("domains: [a.b]", "domains_file: list.txt"),
        KEPT("domains_file: list.txt", "domains: ['*.a.example']"),
        KEPT("domains: [a.b]", "mx: [a.b]"),
        {MAP_OF("  - {domains: [a.b], never_via: [jp]}\n  - {domains: [a.b], route: us}\n"), NULL},
    };
    check_cases(fine, N_ELEMENTS(fine), FINE);
}

#define REFUSES "warning: every recipient of this rule will be refused with 550 5.7.1, for "

static void
a_rule_whose_routes_are_all_fenced_off_is_told(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {MAP_OF("  - {domains: [a.b], route: us, never_via: [us]}\n"),
         "c.yaml:5:5: transport_map[0]: " REFUSES "its never_via forbids all its routes\n"},
        {MAP_OF("  - {domains_file: list.txt, route: us, fallback: [jp], never_via: [us, jp]}\n"),
         "c.yaml:5:5: transport_map[0]: " REFUSES "its never_via forbids all its routes\n"},
        {NODE TRUST US "transport_map: [{default: true, route: us, never_via: [us]}]\n",
         "c.yaml:4:17: transport_map[0]: " REFUSES "its never_via"},
        {MAP_OF("  - {domains: [a.b, c.a.b], route: us}\n"
                "  - {domains: ['*.b'], never_via: [us]}\n"),
         "c.yaml:5:5: transport_map[0]: " REFUSES
         "fences forbid all its routes, the one at c.yaml:6 among them\n"},
        {MAP_OF("  - {domains: [a.b], route: us, fallback: [jp], never_via: [jp]}\n"
                "  - {recipients: ['*@a.b'], hold: x, never_via: [us]}\n"),
         "c.yaml:5:5: transport_map[0]: " REFUSES
         "fences forbid all its routes, the one at c.yaml:6 among them\n"},
        {MAP_OF("  - {domains: [a.b, c.d], route: us}\n"
                "  - {domains: [a.b], never_via: [us]}\n"
                "  - {domains: [c.d], never_via: [us]}\n"),
         "c.yaml:5:5: transport_map[0]: " REFUSES "fences forbid all its routes"},
    };
    check_cases(cases, N_ELEMENTS(cases), WARNED);
    static const struct check_case fine[] = {
        {MAP_OF("  - {domains: [a.b], route: us, fallback: [jp], never_via: [us]}\n"), NULL},
        {MAP_OF("  - {domains: [a.b, c.d], route: us}\n  - {domains: [a.b], never_via: [us]}\n"),
         NULL},
        {MAP_OF("  - {domains: [a.b], route: us}\n"
                "  - {domains: [a.b], senders: [x@y.z], never_via: [us]}\n"),
         NULL},
    };
    check_cases(fine, N_ELEMENTS(fine), FINE);
}

static void
a_hop_that_nothing_uses_is_told(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE TRUST US MAP, "c.yaml:3:8: hops.us: warning: no rule sends anything there, by route "
                            "or fallback\n"},
        {NODE TRUST US "transport_map:\n  - {domains: [a.b], never_via: [us]}\n" DEFAULT,
         "c.yaml:3:8: hops.us: warning: no rule sends anything there"},
    };
    check_cases(cases, N_ELEMENTS(cases), WARNED);
}

static void
a_route_that_is_its_own_fallback_is_told_and_left_out(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    struct config *config = load(
        NODE TRUST HOPS "transport_map:\n  - {domains: [a.b], route: us, fallback: [us, jp, us], "
                        "fallback_after: 1h}\n"
                        "  - {default: true, route: direct, fallback: [direct]}\n",
        NULL, &out);
    assert_string_equal(out.p, "c.yaml:5:5: transport_map[0]: warning: route us is its own "
                               "fallback, which is ignored\n"
                               "c.yaml:6:5: transport_map[1]: warning: route direct is its own "
                               "fallback, which is ignored\n");
    assert_non_null(config);
    assert_int_equal(config->rules[0].n_fallback, 1);
    assert_int_equal(config->rules[0].fallback[0], 2);
    assert_int_equal(config->rules[1].n_fallback, 0);
    config_free(config);
    strbuf_release(&out);
}

static void
warnings_about_the_map_wait_until_it_can_be_read(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    assert_null(load(NODE TRUST US "transport_map: [{default: true, route: uss}]\n", NULL, &out));
    assert_non_null(strstr(out.p, "did you mean \"us\"?"));
    assert_null(strstr(out.p, "no rule sends anything there"));
    strbuf_release(&out);
}

#define OURS                                                                                     \
    "local_domains: [mydomain.com]\ntransport_map: [{domains: [mydomain.com], route: direct},\n" \
    " {default: true, route: direct}]\n"
#define SECRET "0123456789abcdef"

static const struct text_file srs_secrets[] = {
    {.path = "two", .text = SECRET "-first\n\n  " SECRET "\r\n"},
    {.path = "short", .text = SECRET "\nfifteen-chars-1\n"},
    {.path = "blank", .text = "\n \n"},
    {.path = "many",
     .text = SECRET "\n" SECRET "\n" SECRET "\n" SECRET "\n" SECRET "\n" SECRET "\n" SECRET
                    "\n" SECRET "\n" SECRET "\n" SECRET "\n" SECRET "\n" SECRET "\n" SECRET
                    "\n" SECRET "\n" SECRET "\n" SECRET "\n" SECRET "\n"},
    {.path = NULL},
};

static void
srs_has_secrets_worth_the_name(void **state)
{
    (void)state;
    struct strbuf out = STRBUF_INIT;
    struct config *c = load(NODE TRUST OURS "srs: {domain: FWD.mydomain.com, secret_file: two}\n",
                            srs_secrets, &out);
    if (c == NULL || out.n > 0)
        fail_msg("%s", out.p);
    assert_string_equal(c->srs.domain, "fwd.mydomain.com");
    assert_int_equal(c->srs.n_secrets, 2);
    assert_true(span_eq(c->srs.secrets[0], SPAN(SECRET "-first")));
    assert_true(span_eq(c->srs.secrets[1], SPAN(SECRET)));
    config_free(c);
    strbuf_release(&out);

    static const struct check_case bad[] = {
        {NODE TRUST OURS "srs: {domain: f.test, secret_file: short}\n",
         "c.yaml:6:36: srs.secret_file: short: line 2 has 15 characters, expected at least 16: "
         "openssl rand -base64 32"},
        {NODE TRUST OURS "srs: {domain: f.test, secret_file: blank}\n",
         "c.yaml:6:36: srs.secret_file: blank: holds no secret, expected one a line"},
        {NODE TRUST OURS "srs: {domain: f.test, secret_file: many}\n",
         "c.yaml:6:36: srs.secret_file: many: holds 17 secrets, expected at most 16"},
    };
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        check_case(&bad[i], srs_secrets, REFUSED);
}

static void
srs_has_a_domain_where_nobody_lives(void **state)
{
    (void)state;
    static const struct check_case refused[] = {
        {NODE TRUST OURS "srs: {domain: mydomain.com, secret_file: two}\n",
         "c.yaml:6:15: srs.domain: mydomain.com is one of local_domains, expected a domain without "
         "mailboxes"},
        {NODE TRUST OURS "srs: {domain: fwd.mydomain.com}\n", "c.yaml:6:6: srs.secret_file"},
        {NODE TRUST OURS "srs: {secret_file: two}\n", "c.yaml:6:6: srs.domain"},
    };
    for (size_t i = 0; i < N_ELEMENTS(refused); i++)
        check_case(&refused[i], srs_secrets, REFUSED);
    static const struct check_case warned[] = {
        {NODE TRUST MAP "srs: {domain: fwd.mydomain.com, secret_file: two}\n",
         "c.yaml:4:15: local_domains: warning: is empty, so srs rewrites every sender"},
        {"node: {name: cn, hostname: cn.example, postmaster: pm@FWD.mydomain.com}\n" TRUST OURS
         "srs: {domain: fwd.mydomain.com, secret_file: two}\n",
         "c.yaml:6:15: srs.domain: warning: mail to node.postmaster, pm@fwd.mydomain.com, is "
         "refused there"},
    };
    for (size_t i = 0; i < N_ELEMENTS(warned); i++)
        check_case(&warned[i], srs_secrets, WARNED);
}

static void
listeners_and_certificates_fit_together(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE TRUST MAP "listeners: [{address: '127.0.0.1:25'}, {address: '127.0.0.1:25'}]\n",
         "c.yaml:4:40: listeners[1]: 127.0.0.1:25 is listened on already, by the entry at line 4"},
        {NODE TRUST MAP
         "listeners: [{address: '127.0.0.1:25'}, {address: '[::ffff:127.0.0.1]:25'}]\n",
         "c.yaml:4:40: listeners[1]: 127.0.0.1:25 is listened on already"},
        {NODE TRUST MAP "listeners: [{address: '127.0.0.1:465', tls: implicit}]\n",
         "c.yaml:4:13: listeners[0]: implicit TLS without a certificate, expected "
         "tls.certificate_file"},
        {NODE TRUST MAP TLS "listeners: [{address: '127.0.0.1:587', require_auth: true}]\n",
         "c.yaml:5:13: listeners[0]: requires AUTH and nobody can, expected a users_file"},
        {NODE MAP TLS "trusted_clients: [{users_file: users}]\n"
                      "listeners: [{address: '127.0.0.1:587', tls: off, require_auth: true}]\n",
         "c.yaml:5:13: listeners[0]: requires AUTH, which is offered inside TLS only"},
        {NODE TRUST MAP "tls: {certificate_file: cert.pem}\n",
         "c.yaml:4:6: tls.private_key_file: is missing, a certificate and its key belong together"},
        {NODE TRUST MAP "tls: {private_key_file: key.pem}\n",
         "c.yaml:4:6: tls.certificate_file: is missing"},
        {NODE MAP "trusted_clients: [{users_file: users}]\n",
         "c.yaml:3:19: trusted_clients[0]: works inside TLS only and there is no certificate"},
        {NODE MAP "trusted_clients: [{client_certificate: " PIN "}]\n",
         "c.yaml:3:19: trusted_clients[0]: works inside TLS only"},
        {NODE MAP "trusted_clients: [{cidr: 10.0.0.0/8, require: [tls]}]\n",
         "c.yaml:3:19: trusted_clients[0]: works inside TLS only"},
        {NODE TRUST MAP "http: {address: '0.0.0.0:8025'}\n",
         "c.yaml:4:17: http.token_file: is missing, required unless the address is loopback"},
    };
    check_cases(cases, N_ELEMENTS(cases), REFUSED);
}

static void
an_entry_of_trust_is_of_one_kind(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE MAP "trusted_clients: [{}]\n", "c.yaml:3:19: trusted_clients[0]: expected exactly "
                                             "one of cidr, host, users_file, client_certificate"},
        {NODE MAP TLS "trusted_clients: [{cidr: 10.0.0.0/8, users_file: users}]\n",
         "c.yaml:4:19: trusted_clients[0]: expected exactly one of"},
        {NODE MAP TLS "trusted_clients: [{users_file: users, require: [tls]}]\n",
         "c.yaml:4:19: trusted_clients[0]: require belongs to cidr and host entries"},
        {NODE MAP "trusted_clients: [{cidr: 10.0.0.0/8, stale_max: 1h}]\n",
         "c.yaml:3:19: trusted_clients[0]: stale_max belongs to host entries"},
        {NODE MAP "trusted_clients: [{cidr: 10.0.0.0/8, allow_private: true}]\n",
         "c.yaml:3:19: trusted_clients[0]: allow_private belongs to host entries"},
        {NODE MAP TLS "trusted_clients: [{cidr: 10.0.0.0/8, require: [auth]}]\n",
         "c.yaml:4:19: trusted_clients[0]: requires auth and nobody can"},
        {NODE MAP TLS "trusted_clients: [{host: a.example, require: [auth]}]\n",
         "c.yaml:4:19: trusted_clients[0]: requires auth and nobody can"},
        {NODE MAP "trusted_clients: [{host: a.example, require: [tls]}]\n",
         "c.yaml:3:19: trusted_clients[0]: works inside TLS only and there is no certificate"},
        {NODE MAP "trusted_clients: [{host: a.example}, {host: A.example, stale_max: 1h}]\n",
         "c.yaml:3:38: trusted_clients[1]: a.example has another stale_max or allow_private in the "
         "entry at line 3"},
        {NODE MAP "trusted_clients: [{host: 192.0.2.1}]\n",
         "c.yaml:3:26: trusted_clients[0].host: "},
        {NODE MAP "trusted_clients: [{cidr: 10.0.0.0/8, require: [spf]}]\n",
         "c.yaml:3:48: trusted_clients[0].require: \"spf\" is not known here, expected a list of "
         "auth, tls"},
    };
    check_cases(cases, N_ELEMENTS(cases), REFUSED);
}

static void
hops_can_be_reached_as_they_say(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE TRUST MAP
         "hops: {us: {address: a, tls: off, auth: {username: b, password_file: pass}}}\n",
         "c.yaml:4:8: hops.us: auth is done inside TLS only"},
        {NODE TRUST MAP "hops: {us: {address: a, implicit: true}}\n",
         "c.yaml:4:8: hops.us: implicit is for an address with a port"},
        {NODE TRUST MAP "hops: {us: {address: 'a:465', implicit: true, tls: off}}\n",
         "c.yaml:4:8: hops.us: implicit TLS and tls: off exclude each other"},
        {NODE TRUST MAP "hops: {us: {address: 'a:25', ports: [25]}}\n",
         "c.yaml:4:8: hops.us: ports is for an address without a port"},
        {NODE TRUST MAP "hops: {us: {address: a, tls: require, fingerprint: " PIN "}}\n",
         "c.yaml:4:8: hops.us: fingerprint is asked only with tls: verify, not with tls: require"},
        {NODE TRUST MAP "hops: {us: {address: a, tls: opportunistic, ca_file: cert.pem}}\n",
         "c.yaml:4:8: hops.us: ca_file is asked only with tls: verify"},
        {NODE TRUST MAP "hops: {us: {address: a, ca_file: cert.pem, fingerprint: " PIN "}}\n",
         "c.yaml:4:8: hops.us: ca_file and fingerprint exclude each other"},
        {NODE TRUST MAP "hops: {us: {address: a, certificate_file: cert.pem}}\n",
         "c.yaml:4:8: hops.us: certificate_file and private_key_file belong together"},
        {NODE TRUST MAP "hops: {us: {address: 0.0.0.0}}\n",
         "c.yaml:4:8: hops.us: 0.0.0.0 is no address to connect to"},
        {NODE TRUST MAP "hops: {us: {address: '127.0.0.1:25', tls: off}}\n",
         "c.yaml:4:8: hops.us: 127.0.0.1:25 is a listener of this node itself: a mail loop"},
        {NODE TRUST MAP
         "listeners: [{address: '192.0.2.1:26'}]\nhops: {us: {address: '192.0.2.1:26'}}\n",
         "c.yaml:5:8: hops.us: 192.0.2.1:26 is a listener of this node itself"},
    };
    check_cases(cases, N_ELEMENTS(cases), REFUSED);
    static const struct check_case fine[] = {
        {NODE TRUST VIA_US "listeners: [{address: '127.0.0.1:2525'}]\n"
                           "hops: {us: {address: '127.0.0.1:25', tls: off}}\n",
         NULL},
        {NODE TRUST VIA_US "hops: {us: {address: '192.0.2.1:25', tls: off}}\n", NULL},
    };
    check_cases(fine, N_ELEMENTS(fine), FINE);
}

static void
lists_of_domains_are_checked_line_by_line(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {NODE TRUST "transport_map:\n  - {domains_file: bad.txt, route: direct}\n" DEFAULT,
         "bad.txt:3:1: \"b c\": the domain name has a character that no domain name may hold\n"
         "bad.txt:5:1: \"192.0.2.1\": the domain name ends in a number"},
        {NODE TRUST "transport_map:\n  - {domains_file: gone.txt, route: direct}\n" DEFAULT,
         "c.yaml:4:20: transport_map[0].domains_file: gone.txt: No such file or directory"},
        {NODE TRUST "transport_map:\n  - {domains_file: perm.txt, route: direct}\n" DEFAULT,
         "c.yaml:4:20: transport_map[0].domains_file: perm.txt: user relayd cannot read it "
         "(Permission "
         "denied), make it readable: chown relayd perm.txt"},
    };
    check_cases(cases, N_ELEMENTS(cases), REFUSED);
}

static void
a_list_full_of_mistakes_reports_some_and_counts_the_rest(void **state)
{
    (void)state;
    struct strbuf list = STRBUF_INIT, out = STRBUF_INIT;
    for (int i = 0; i < 100; i++)
        strbuf_add_str(&list, "a b\n");
    const struct text_file more[] = {{.path = "many.txt", .text = list.p, .mode = 0644}, {0}};
    assert_null(load(NODE TRUST
                     "transport_map:\n  - {domains_file: many.txt, route: direct}\n" DEFAULT,
                     more, &out));
    assert_non_null(strstr(out.p, "many.txt:20:1: "));
    assert_null(strstr(out.p, "many.txt:21:1: "));
    assert_non_null(strstr(out.p, "many.txt:100:1: 80 more lines like these"));
    strbuf_release(&list);
    strbuf_release(&out);
}

/* As a container's kernel prints them: 172.17.0.1 and fe80::1 are the gateways. */
static const struct text_file docker[] = {
    {.path = "/.dockerenv", .text = ""},
    {.path = "/proc/net/route",
     .text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
             "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
             "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"},
    {.path = "/proc/net/ipv6_route",
     .text = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
             "fd000000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"},
    {0},
};
static const struct text_file kubernetes[] = {
    {.path = "/proc/self/mounts",
     .text = "overlay / overlay rw,relatime 0 0\nproc /proc proc rw 0 0\n"},
    {.path = "/proc/net/route",
     .text = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"},
    {0},
};
static const struct text_file machine[] = {
    {.path = "/proc/self/mounts",
     .text = "/dev/vda1 / ext4 rw 0 0\noverlay /var/lib/docker/x overlay rw 0 0\n"},
    {.path = "/proc/net/route",
     .text = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"},
    {0},
};

static void
a_container_does_not_trust_its_gateway(void **state)
{
    (void)state;
    static const struct check_case refused[] = {
        {NODE MAP "trusted_clients: [{cidr: [10.0.0.0/8, 172.16.0.0/12]}]\n",
         "c.yaml:3:19: trusted_clients[0].cidr: 172.16.0.0/12 holds the default gateway 172.17.0.1 "
         "of this "
         "container, by which strangers may come; expected a smaller block, or allow_gateway: "
         "true"},
        {NODE MAP "trusted_clients: [{cidr: 172.17.0.1}]\n",
         "c.yaml:3:19: trusted_clients[0].cidr: 172.17.0.1/32 holds the default gateway"},
    };
    for (size_t i = 0; i < N_ELEMENTS(refused); i++) {
        check_case(&refused[i], docker, REFUSED);
        check_case(&refused[i], kubernetes, REFUSED);
        check_case(&(struct check_case){refused[i].text, NULL}, machine, FINE);
        check_case(&(struct check_case){refused[i].text, NULL}, NULL, FINE);
    }
    static const struct check_case v6 = {
        NODE MAP "trusted_clients: [{cidr: 'fd00::/8'}]\n",
        "c.yaml:3:19: trusted_clients[0].cidr: fd00::/8 holds the default gateway fd00::1"};
    check_case(&v6, docker, REFUSED);
    static const struct check_case fine[] = {
        {NODE MAP "trusted_clients: [{cidr: 172.16.0.0/12}]\nallow_gateway: true\n", NULL},
        {NODE MAP "trusted_clients: [{cidr: 172.18.0.0/16}]\n", NULL},
        {NODE MAP TLS
         "trusted_clients: [{cidr: 172.16.0.0/12, require: [auth]}, {users_file: users}]\n",
         NULL},
        {NODE TRUST MAP, NULL},
    };
    for (size_t i = 0; i < N_ELEMENTS(fine); i++)
        check_case(&fine[i], docker, FINE);
}

static void
nonsense_from_the_kernel_is_survived(void **state)
{
    (void)state;
    static const char *const routes[] = {
        "",
        "\n\n",
        "eth0",
        "eth0\t00000000\t0100\t0003\t0\t0\t0\t00000000\n",
        "eth0\t00000000\tzz0011AC\t0003\t0\t0\t0\t00000000\n",
        "eth0\t00000000\t010011AC\t0001\t0\t0\t0\t00000000\n", /* no gateway */
        "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t000000FF\n", /* no default route */
    };
    for (size_t i = 0; i < N_ELEMENTS(routes); i++) {
        const struct text_file more[] = {
            {.path = "/.dockerenv", .text = ""},
            {.path = "/proc/net/route", .text = routes[i]},
            {.path = "/proc/net/ipv6_route", .text = routes[i]},
            {0},
        };
        check_case(
            &(struct check_case){NODE MAP "trusted_clients: [{cidr: 172.16.0.0/12}]\n", NULL}, more,
            FINE);
    }
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_name_hops_that_exist),
        cmocka_unit_test(a_rule_says_one_thing_about_some_recipients),
        cmocka_unit_test(replies_of_reject_are_replies),
        cmocka_unit_test(what_works_but_is_probably_not_meant_is_a_warning),
        cmocka_unit_test(what_is_meant_passes_without_a_word),
        cmocka_unit_test(a_rule_that_earlier_ones_cover_is_told),
        cmocka_unit_test(a_rule_whose_routes_are_all_fenced_off_is_told),
        cmocka_unit_test(a_hop_that_nothing_uses_is_told),
        cmocka_unit_test(a_route_that_is_its_own_fallback_is_told_and_left_out),
        cmocka_unit_test(warnings_about_the_map_wait_until_it_can_be_read),
        cmocka_unit_test(srs_has_secrets_worth_the_name),
        cmocka_unit_test(srs_has_a_domain_where_nobody_lives),
        cmocka_unit_test(listeners_and_certificates_fit_together),
        cmocka_unit_test(an_entry_of_trust_is_of_one_kind),
        cmocka_unit_test(hops_can_be_reached_as_they_say),
        cmocka_unit_test(lists_of_domains_are_checked_line_by_line),
        cmocka_unit_test(a_list_full_of_mistakes_reports_some_and_counts_the_rest),
        cmocka_unit_test(a_container_does_not_trust_its_gateway),
        cmocka_unit_test(nonsense_from_the_kernel_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
