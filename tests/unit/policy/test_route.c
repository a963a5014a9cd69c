/* Which way a recipient goes: rules top down, fences, fallbacks, refusals, and why. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/route.h"
#include "tests/unit/policy/config_text.h"

#define HEAD                                                                                     \
    "node: {name: cn, hostname: cn.example}\n"                                                   \
    "trusted_clients: [{cidr: 127.0.0.0/8}]\n"                                                   \
    "hops: {us: {address: us.example}, jp: {address: jp.example, tls: require}, off: {address: " \
    "'192.0.2.9:25', tls: off}}\n"                                                               \
    "transport_map:\n"

static const struct text_file lists[] = {
    {.path = "overseas.txt",
     .text = "# ours\nfile.example\n*.wild.example # any depth\n\nFILE2.example\r\n",
     .mode = 0644},
};

static struct config *
load(const char *rules)
{
    struct strbuf text = STRBUF_INIT, out = STRBUF_INIT;
    strbuf_printf(&text, HEAD "%s", rules);
    const struct text_file files[] = {{.path = "c.yaml", .text = text.p}, lists[0]};
    struct config *config = text_load(files, N_ELEMENTS(files), 0, &out);
    if (config == NULL)
        fail_msg("%s", out.p);
    strbuf_release(&text);
    strbuf_release(&out);
    return config;
}

static void
decide(const struct config *config, const char *sender, const char *rcpt, struct route_decision *d)
{
    struct route_query query;
    struct err err;
    char sender_domain[DOMAIN_BUF], rcpt_domain[DOMAIN_BUF];
    if (route_query_set(&query, span_str(sender), span_str(rcpt), sender_domain, rcpt_domain,
                        &err) != ERR_OK)
        fail_msg("%s", err.text);
    route_decide(config, &query, d);
}

/* "us jp", "reject 550 ...", "hold why", "discard", "none", "fenced"; the caller's buffer. */
static const char *
told(const struct config *config, const struct route_decision *d, char *buf, size_t n)
{
    struct strbuf text = STRBUF_INIT;
    if (d->action != ROUTE_DELIVER)
        strbuf_add_str(&text, route_action_name(d->action));
    for (size_t i = 0; i < d->n_routes; i++)
        strbuf_printf(&text, "%s%s", i == 0 ? "" : " ", config->routes[d->routes[i]].name);
    if (d->action == ROUTE_REJECT || d->action == ROUTE_HOLD)
        strbuf_printf(&text, " %.*s", SPAN_ARG(d->text));
    snprintf(buf, n, "%s", text.p);
    strbuf_release(&text);
    return buf;
}

struct route_case {
    const char *sender, *rcpt, *expected;
};

static void
check(const char *rules, const struct route_case *cases, size_t n)
{
    struct config *config = load(rules);
    for (size_t i = 0; i < n; i++) {
        struct route_decision d;
        char buf[256];
        decide(config, cases[i].sender, cases[i].rcpt, &d);
        if (strcmp(told(config, &d, buf, sizeof(buf)), cases[i].expected) != 0)
            fail_msg("<%s> to <%s>: %s, expected %s", cases[i].sender, cases[i].rcpt, buf,
                     cases[i].expected);
    }
    config_free(config);
}

static void
the_example_of_the_manual(void **state)
{
    (void)state;
    static const struct route_case cases[] = {
        {"a@b.example", "x@mydomain.com", "office"},
        {"a@b.example", "x@sub.mydomain.com", "direct us"},
        {"a@b.example", "x@gov.example", "direct"}, /* the fallback us is fenced */
        {"a@b.example", "x@abc.com", "us"},
        {"a@b.example", "x@ABC.com", "us"},
        {"a@b.example", "x@y.abc.com", "us"},
        {"a@b.example", "x@z.y.abc.com", "us"},
        {"a@b.example", "x@xabc.com", "direct us"},
        {"a@b.example", "x@file.example", "us"},
        {"a@b.example", "x@file2.example", "us"},
        {"a@b.example", "x@a.b.wild.example", "us"},
        {"a@b.example", "x@wild.example", "direct us"},
        {"a@b.example", "vip@def.com", "direct"},
        {"a@b.example", "VIP@Def.Com", "direct"},
        {"a@b.example", "vip2@def.com", "direct us"},
        {"x@news.mydomain.com", "a@qq.com", "direct"},
        {"x@mydomain.com", "a@qq.com", "direct us"},
        {"x@news.mydomain.com", "a@163.com", "direct us"},
        {"", "a@qq.com", "direct us"},
        {"a@b.example", "x@old-partner.example", "reject 550 5.1.2 this partner has moved"},
        {"a@b.example", "x@quiet.example", "discard"},
        {"a@b.example", "x@wait.example", "hold legal asks"},
    };
    struct strbuf text = STRBUF_INIT, out = STRBUF_INIT;
    strbuf_add_str(
        &text, "node: {name: cn, hostname: cn.example}\n"
               "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
               "hops: {us: {address: us.example}, office: {address: '192.0.2.1:25', tls: off}}\n"
               "local_domains: [mydomain.com]\n"
               "transport_map:\n"
               "  - {domains: [mydomain.com], route: office}\n"
               "  - {domains: [gov.example], never_via: [us]}\n"
               "  - {domains: [abc.com, '*.abc.com'], route: us}\n"
               "  - {domains_file: overseas.txt, route: us}\n"
               "  - {recipients: [vip@def.com], route: direct}\n"
               "  - {senders: ['*@news.mydomain.com'], domains: [qq.com], route: direct}\n"
               "  - {domains: [old-partner.example], reject: '550 5.1.2 this partner has moved'}\n"
               "  - {domains: [quiet.example], discard: true}\n"
               "  - {domains: [wait.example], hold: legal asks}\n"
               "  - {default: true, route: direct, fallback: [us]}\n");
    const struct text_file files[] = {{.path = "c.yaml", .text = text.p}, lists[0]};
    struct config *config = text_load(files, N_ELEMENTS(files), 0, &out);
    assert_non_null(config);
    assert_int_equal(config->rules[3].n_file_domains, 3);
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct route_decision d;
        char buf[256];
        decide(config, cases[i].sender, cases[i].rcpt, &d);
        if (strcmp(told(config, &d, buf, sizeof(buf)), cases[i].expected) != 0)
            fail_msg("<%s> to <%s>: %s, expected %s", cases[i].sender, cases[i].rcpt, buf,
                     cases[i].expected);
    }
    config_free(config);
    strbuf_release(&text);
    strbuf_release(&out);
}

static void
the_first_rule_that_matches_wins_however_it_is_stored(void **state)
{
    (void)state;
    static const struct route_case cases[] = {
        {"a@b.c", "x@file.example", "jp"}, /* exact name above the file */
        {"a@b.c", "x@a.wild.example", "us"},
        {"a@b.c", "x@special.wild.example", "us"}, /* the exact rule stands below */
        {"a@b.c", "x@other.example", "direct"},
        {"a@b.c", "x@top.other.example", "jp"},
    };
    check("  - {domains: [file.example], route: jp}\n"
          "  - {domains_file: overseas.txt, route: us}\n"
          "  - {domains: [special.wild.example], route: jp}\n"
          "  - {domains: [top.other.example], route: jp}\n"
          "  - {domains: ['*.other.example'], route: us}\n"
          "  - {domains: [top.other.example], route: us}\n"
          "  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
}

static void
all_matchers_of_a_rule_must_hold(void **state)
{
    (void)state;
    static const struct route_case cases[] = {
        {"s@s.example", "r@d.example", "us"},     {"x@s.example", "r@d.example", "direct"},
        {"s@s.example", "x@d.example", "direct"}, {"s@s.example", "r@x.example", "direct"},
        {"s@s.example", "any@e.example", "jp"},   {"", "any@e.example", "direct"},
    };
    check("  - {domains: [d.example], recipients: [r@d.example, r@x.example], senders: "
          "[s@s.example], "
          "route: us}\n"
          "  - {recipients: ['*@e.example'], senders: ['*@*.example', '*@s.example'], route: jp}\n"
          "  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
}

static void
addresses_compare_without_case_and_quotes(void **state)
{
    (void)state;
    static const struct route_case cases[] = {
        {"a@b.c", "vip@def.example", "us"},
        {"a@b.c", "ViP@DEF.example", "us"},
        {"a@b.c", "\"vip\"@def.example", "us"},
        {"a@b.c", "\"v\\ip\"@def.example", "us"},
        {"a@b.c", "vip+tag@def.example", "direct"},
        {"a@b.c", "vip@sub.def.example", "direct"},
        {"a@b.c", "\"a b\"@def.example", "jp"},
        {"a@b.c", "\"A B\"@def.example", "jp"},
        {"a@b.c", "\"odd@local\"@def.example", "jp"},
        {"a@b.c", "\xc3\xbc@def.example", "jp"},
        {"a@b.c", "\xc3\x9c@def.example", "direct"}, /* above ASCII bytes compare exactly */
        {"a@b.c", "info@a.b.deep.example", "us"},
        {"a@b.c", "info@deep.example", "direct"},
        {"a@b.c", "other@a.deep.example", "direct"},
        {"a@b.c", "x@any.example", "jp"},
        {"a@b.c", "x@sub.any.example", "direct"},
        {"a@b.c", "x@sub.below.example", "jp"},
        {"a@b.c", "x@below.example", "direct"},
        {"a@b.c",
         "x@b\xc3\xbc"
         "cher.example",
         "us"},
    };
    check("  - {recipients: [vip@def.example, 'info@*.deep.example'], route: us}\n"
          "  - {recipients: ['\"a b\"@def.example', '\"odd@local\"@def.example', "
          "\xc3\xbc@def.example, "
          "'*@any.example', '*@*.below.example'], route: jp}\n"
          "  - {domains: [xn--bcher-kva.example], route: us}\n"
          "  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
}

static void
the_null_sender_is_matched_by_itself_only(void **state)
{
    (void)state;
    static const struct route_case cases[] = {
        {"", "x@d.example", "us"},
        {"<>", "x@d.example", "us"},
        {"a@s.example", "x@d.example", "jp"},
    };
    check("  - {senders: [<>], route: us}\n"
          "  - {senders: ['*@s.example', '*@*.example'], route: jp}\n"
          "  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
    static const struct route_case none[] = {{"", "x@d.example", "direct"}};
    check("  - {senders: ['*@*.example', '*@s.example'], route: jp}\n  - {default: true, route: "
          "direct}\n",
          none, N_ELEMENTS(none));
}

static void
fences_hold_wherever_they_stand(void **state)
{
    (void)state;
    static const struct route_case cases[] = {
        {"a@b.c", "x@free.example", "us jp direct"},
        {"a@b.c", "x@below.example", "jp direct"},   /* a fence behind the winner */
        {"a@b.c", "x@after.example", "us direct"},   /* behind the default rule */
        {"a@b.c", "x@both.below.example", "direct"}, /* two fences */
        {"a@b.c", "x@shadow.example", "us direct"},  /* of a rule that did not win */
        {"secret@b.c", "x@free.example", "direct"},  /* by sender */
        {"a@b.c", "x@own.example", "jp"},            /* the winner's own */
        {"a@b.c", "x@closed.example", "fenced"},
    };
    static const char rules[] =
        "  - {domains: [own.example], route: us, fallback: [jp], never_via: [us]}\n"
        "  - {domains: [closed.example, '*.closed.example'], route: us, fallback: [jp]}\n"
        "  - {domains: [closed.example], never_via: [us]}\n"
        "  - {recipients: ['*@closed.example'], never_via: [jp]}\n"
        "  - {default: true, route: us, fallback: [jp, direct]}\n"
        "  - {domains: [below.example, both.below.example], never_via: [us]}\n"
        "  - {domains: ['*.below.example', after.example], never_via: [jp]}\n"
        "  - {domains: [shadow.example], route: direct, never_via: [jp]}\n"
        "  - {senders: [secret@b.c], never_via: [us, jp]}\n";
    check(rules, cases, N_ELEMENTS(cases));
    struct config *config = load(rules);
    struct route_decision d;
    decide(config, "a@b.c", "x@closed.example", &d);
    assert_int_equal(d.n_fences, 2);
    assert_int_equal(d.fences[0]->no, 2);
    assert_int_equal(d.fences[1]->no, 3);
    assert_int_equal(d.rule->no, 1);
    assert_true(span_starts(d.text, SPAN("550 5.7.1 ")));
    assert_int_equal(d.never_via, 1u << 1 | 1u << 2);
    config_free(config);
}

static void
more_fences_than_are_named_hold_all_the_same(void **state)
{
    (void)state;
    struct strbuf rules = STRBUF_INIT;
    for (int i = 0; i < ROUTE_FENCES_MAX + 5; i++)
        strbuf_printf(&rules, "  - {domains: [f.example], never_via: [%s]}\n",
                      i < ROUTE_FENCES_MAX + 4 ? "us" : "jp");
    strbuf_add_str(&rules, "  - {default: true, route: us, fallback: [jp, direct]}\n");
    struct config *config = load(rules.p);
    struct route_decision d;
    decide(config, "a@b.c", "x@f.example", &d);
    assert_int_equal(d.n_fences, ROUTE_FENCES_MAX);
    assert_int_equal(d.n_routes, 1);
    assert_int_equal(d.routes[0], 0);
    config_free(config);
    strbuf_release(&rules);
}

static void
no_rule_is_550_5_4_4(void **state)
{
    (void)state;
    struct config *config = load("  - {domains: [a.example], route: us}\n");
    struct route_decision d;
    decide(config, "a@b.c", "x@b.example", &d);
    assert_int_equal(d.action, ROUTE_NONE);
    assert_null(d.rule);
    assert_int_equal(d.n_routes, 0);
    assert_true(span_starts(d.text, SPAN("550 5.4.4 ")));
    config_free(config);

    /* without any rule at all */
    const struct text_file files[] = {
        {.path = "c.yaml", .text = "node: {name: cn, hostname: cn.example}\n"}};
    struct strbuf out = STRBUF_INIT;
    config = text_load(files, 1, 0, &out);
    decide(config, "", "x@b.example", &d);
    assert_int_equal(d.action, ROUTE_NONE);
    config_free(config);
    strbuf_release(&out);
}

static void
address_literals_go_by_the_default_rule(void **state)
{
    (void)state;
    static const struct route_case cases[] = {
        {"a@b.c", "x@[192.0.2.1]", "direct"},
        {"a@b.c", "x@[IPv6:2001:db8::1]", "direct"},
    };
    check("  - {domains: [example, '*.example'], route: us}\n  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
}

static void
rules_can_ask_for_more_tls_never_for_less(void **state)
{
    (void)state;
    struct config *config =
        load("  - {domains: [v.example], route: direct, fallback: [us, off, jp], tls: verify}\n"
             "  - {domains: [o.example], route: direct, fallback: [us, off], tls: opportunistic}\n"
             "  - {default: true, route: direct, fallback: [us, off, jp]}\n");
    static const struct {
        const char *rcpt;
        enum config_tls level[4]; /* direct, us, jp, off */
    } cases[] = {
        {"x@v.example",
         {CONFIG_TLS_VERIFY, CONFIG_TLS_VERIFY, CONFIG_TLS_VERIFY, CONFIG_TLS_VERIFY}},
        {"x@o.example",
         {CONFIG_TLS_OPPORTUNISTIC, CONFIG_TLS_VERIFY, CONFIG_TLS_REQUIRE,
          CONFIG_TLS_OPPORTUNISTIC}},
        {"x@d.example",
         {CONFIG_TLS_OPPORTUNISTIC, CONFIG_TLS_VERIFY, CONFIG_TLS_REQUIRE, CONFIG_TLS_OFF}},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct route_decision d;
        decide(config, "a@b.c", cases[i].rcpt, &d);
        for (unsigned r = 0; r < 4; r++)
            assert_int_equal(route_tls(config, &d, r), cases[i].level[r]);
    }
    config_free(config);
}

static void
collect(void *arg, const struct route_step *step)
{
    struct strbuf *out = arg;
    strbuf_printf(out, "%u %s: %s\n", step->rule->mark.line, route_verdict_name(step->verdict),
                  step->why);
}

static void
the_decision_is_explained_rule_by_rule(void **state)
{
    (void)state;
    struct config *config =
        load("  - {domains: [x.example], route: us}\n"
             "  - {domains: ['*.d.example'], senders: ['*@s.example'], route: jp}\n"
             "  - {domains_file: overseas.txt, route: us}\n"
             "  - {domains: [a.d.example], never_via: [us]}\n"
             "  - {recipients: [r@a.d.example], domains: ['*.example'], route: direct}\n"
             "  - {domains: [a.d.example], route: us}\n"
             "  - {default: true, route: direct}\n");
    struct route_query query;
    char sender[DOMAIN_BUF], rcpt[DOMAIN_BUF];
    assert_int_equal(
        route_query_set(&query, SPAN("a@b.c"), SPAN("R@a.D.example"), sender, rcpt, NULL), ERR_OK);
    struct route_decision explained, decided;
    struct strbuf out = STRBUF_INIT;
    route_explain(config, &query, &explained, collect, &out);
    assert_string_equal(
        out.p,
        "5 missed: domain is not in domains\n"
        "6 missed: domain a.d.example is in domains (*.d.example), sender is not in senders\n"
        "7 missed: domain is not in overseas.txt\n"
        "8 fence: domain a.d.example is in domains (a.d.example)\n"
        "9 won: domain a.d.example is in domains (*.example), recipient is in recipients\n"
        "10 shadowed: domain a.d.example is in domains (a.d.example); the rule at line 9 decided\n"
        "11 shadowed: the default rule; the rule at line 9 decided\n");
    route_decide(config, &query, &decided);
    assert_ptr_equal(explained.rule, decided.rule);
    assert_int_equal(explained.n_routes, decided.n_routes);
    assert_string_equal(decided.rule->mark.file, "c.yaml");
    assert_int_equal(decided.rule->mark.line, 9);

    strbuf_reset(&out);
    assert_int_equal(route_query_set(&query, SPAN(""), SPAN("x@file.example"), sender, rcpt, NULL),
                     ERR_OK);
    route_explain(config, &query, &explained, collect, &out);
    assert_non_null(strstr(out.p, "7 won: domain file.example is in overseas.txt\n"));
    strbuf_release(&out);
    config_free(config);
}

static void
queries_are_made_from_text(void **state)
{
    (void)state;
    static const struct {
        const char *sender, *rcpt;
        const char *local, *domain; /* NULL: refused */
    } cases[] = {
        {"a@b.c", "x@D.example", "x", "d.example"},
        {"", "x@d.example", "x", "d.example"},
        {"a@b.c", "\"x@y\"@d.example", "\"x@y\"", "d.example"},
        {"a@b.c", "x@[IPv6:2001:DB8::1]", "x", "[ipv6:2001:db8::1]"},
        {"a@b.c", "x", NULL, NULL},
        {"a@b.c", "@d.example", NULL, NULL},
        {"a@b.c", "", NULL, NULL},
        {"a@b.c", "x@", NULL, NULL},
        {"a@b.c", "x@a..b", NULL, NULL},
        {"a", "x@d.example", NULL, NULL},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct route_query q;
        char sender[DOMAIN_BUF], rcpt[DOMAIN_BUF];
        struct err err;
        enum err_code code = route_query_set(&q, span_str(cases[i].sender), span_str(cases[i].rcpt),
                                             sender, rcpt, &err);
        if ((code == ERR_OK) != (cases[i].local != NULL))
            fail_msg("%s %s: %s", cases[i].sender, cases[i].rcpt, err_code_name(code));
        if (code == ERR_OK) {
            assert_true(span_eq(q.rcpt_local, span_str(cases[i].local)));
            assert_true(span_eq(q.domain, span_str(cases[i].domain)));
        }
    }
}

/* The same map as the index sees it, walked naively: both must agree on everything. */
static const struct rule *
walk_naively(const struct config *config, struct span domain)
{
    for (size_t i = 0; i < config->n_rules; i++) {
        const struct rule *rule = &config->rules[i];
        if (rule->is_default ||
            domain_patterns_find(rule->domains, rule->n_domains, domain) != NULL)
            return rule;
    }
    return NULL;
}

static void
the_index_agrees_with_a_walk_of_the_rules(void **state)
{
    (void)state;
    static const char *const labels[] = {"a", "b", "c", "example", "xn--x"};
    struct strbuf rules = STRBUF_INIT;
    uint64_t random = 4711;
    for (int i = 0; i < 300; i++) {
        strbuf_add_str(&rules, "  - {route: direct, domains: [");
        for (int k = 0; k < 3; k++) {
            strbuf_printf(&rules, "%s'%s", k == 0 ? "" : ", ", random >> 60 & 1 ? "*." : "");
            for (int l = 0; l < 1 + (int)(random >> 33) % 4; l++) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                strbuf_printf(&rules, "%s%s", l == 0 ? "" : ".",
                              labels[(random >> 40) % N_ELEMENTS(labels)]);
            }
            strbuf_add_str(&rules, "'");
        }
        strbuf_add_str(&rules, "]}\n");
    }
    strbuf_add_str(&rules, "  - {default: true, route: us}\n");
    struct config *config = load(rules.p);
    for (int i = 0; i < 5000; i++) {
        struct strbuf domain = STRBUF_INIT;
        int n = 1 + i % 5;
        for (int l = 0; l < n; l++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            strbuf_printf(&domain, "%s%s", l == 0 ? "" : ".",
                          labels[(random >> 40) % N_ELEMENTS(labels)]);
        }
        struct route_query query = {.rcpt_local = SPAN("x"), .domain = strbuf_span(&domain)};
        struct route_decision d;
        route_decide(config, &query, &d);
        if (d.rule != walk_naively(config, query.domain))
            fail_msg("%s: rule %u", domain.p, d.rule->no);
        strbuf_release(&domain);
    }
    config_free(config);
    strbuf_release(&rules);
}

static void
a_preferred_route_goes_first_but_through_no_fence(void **state)
{
    (void)state;
    struct config *config = load("  - {domains: [gov.example], never_via: [us]}\n"
                                 "  - {default: true, route: direct, fallback: [us]}\n");
    struct route_decision d;
    char buf[256];
    decide(config, "a@x.example", "b@y.example", &d);
    assert_true(route_prefer(&d, 1));
    assert_string_equal(told(config, &d, buf, sizeof(buf)), "us direct");
    assert_true(route_prefer(&d, 2)); /* that the rule does not name */
    assert_string_equal(told(config, &d, buf, sizeof(buf)), "jp us direct");
    assert_true(route_prefer(&d, 2));
    assert_string_equal(told(config, &d, buf, sizeof(buf)), "jp us direct");
    decide(config, "a@x.example", "b@gov.example", &d);
    assert_false(route_prefer(&d, 1));
    assert_string_equal(told(config, &d, buf, sizeof(buf)), "direct");
    config_free(config);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_of_the_manual),
        cmocka_unit_test(the_first_rule_that_matches_wins_however_it_is_stored),
        cmocka_unit_test(all_matchers_of_a_rule_must_hold),
        cmocka_unit_test(addresses_compare_without_case_and_quotes),
        cmocka_unit_test(the_null_sender_is_matched_by_itself_only),
        cmocka_unit_test(fences_hold_wherever_they_stand),
        cmocka_unit_test(more_fences_than_are_named_hold_all_the_same),
        cmocka_unit_test(a_preferred_route_goes_first_but_through_no_fence),
        cmocka_unit_test(no_rule_is_550_5_4_4),
        cmocka_unit_test(address_literals_go_by_the_default_rule),
        cmocka_unit_test(rules_can_ask_for_more_tls_never_for_less),
        cmocka_unit_test(the_decision_is_explained_rule_by_rule),
        cmocka_unit_test(queries_are_made_from_text),
        cmocka_unit_test(the_index_agrees_with_a_walk_of_the_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
