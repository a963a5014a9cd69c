/* Rules by MX and country: what is known, what is not, and what a decision asks for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/route.h"
#include "tests/unit/policy/config_text.h"

#define HEAD                                                                              \
    "node: {name: cn, hostname: cn.example}\n"                                            \
    "trusted_clients: [{cidr: 127.0.0.0/8}]\n"                                            \
    "hops: {us: {address: us.example}, jp: {address: jp.example}, de: {address: a.de}}\n" \
    "geoip: {database: /x.mmdb}\n"                                                        \
    "transport_map:\n"

static struct config *
load(const char *rules)
{
    struct strbuf text = STRBUF_INIT, out = STRBUF_INIT;
    strbuf_printf(&text, HEAD "%s", rules);
    const struct text_file files[] = {{.path = "c.yaml", .text = text.p}};
    struct config *config = text_load(files, N_ELEMENTS(files), 0, &out);
    if (config == NULL)
        fail_msg("%s%s", text.p, out.p);
    strbuf_release(&text);
    strbuf_release(&out);
    return config;
}

#define HOSTS_MAX 4

/* "?" not known, "-" none, else host names or a country. */
struct known {
    struct route_facts facts;
    char text[200];
    const char *hosts[HOSTS_MAX];
};

static const struct route_facts *
known(struct known *k, const char *mx, const char *country)
{
    memset(k, 0, sizeof(*k));
    k->facts.hosts = k->hosts;
    if (mx[0] != '?')
        k->facts.mx = mx[0] == '-' ? ROUTE_FACT_NONE : ROUTE_FACT_KNOWN;
    if (k->facts.mx == ROUTE_FACT_KNOWN) {
        snprintf(k->text, sizeof(k->text), "%s", mx);
        for (char *at = k->text, *end; at != NULL; at = end) {
            end = strchr(at, ' ');
            if (end != NULL)
                *end++ = '\0';
            assert_true(k->facts.n_hosts < HOSTS_MAX);
            k->hosts[k->facts.n_hosts++] = at;
        }
    }
    if (country[0] != '?')
        k->facts.country = country[0] == '-' ? ROUTE_FACT_NONE : ROUTE_FACT_KNOWN;
    if (k->facts.country == ROUTE_FACT_KNOWN)
        memcpy(k->facts.country_code, country, 3);
    if (k->facts.country != ROUTE_FACT_UNKNOWN)
        assert_true(ip_parse(SPAN("192.0.2.1"), &k->facts.address));
    return &k->facts;
}

static struct route_query
query_of(const char *domain, const struct route_facts *facts)
{
    return (struct route_query){.sender = SPAN("a@b.c"),
                                .sender_domain = SPAN("b.c"),
                                .rcpt_local = SPAN("x"),
                                .domain = span_str(domain),
                                .facts = facts};
}

/* "us jp", "reject", "facts mx country, may refuse"; what a recipient sees of it. */
static const char *
told(const struct config *config, const struct route_decision *d, char *buf, size_t n)
{
    struct strbuf text = STRBUF_INIT;
    if (d->action != ROUTE_DELIVER)
        strbuf_add_str(&text, route_action_name(d->action));
    for (size_t i = 0; i < d->n_routes; i++)
        strbuf_printf(&text, "%s%s", i == 0 ? "" : " ", config->routes[d->routes[i]].name);
    if ((d->needs & ROUTE_NEEDS_MX) != 0)
        strbuf_add_str(&text, " mx");
    if ((d->needs & ROUTE_NEEDS_COUNTRY) != 0)
        strbuf_add_str(&text, " country");
    if (d->may_refuse)
        strbuf_add_str(&text, ", may refuse");
    snprintf(buf, n, "%s", text.p);
    strbuf_release(&text);
    return buf;
}

struct fact_case {
    const char *domain, *mx, *country, *expected;
};

static void
check(const char *rules, const struct fact_case *cases, size_t n)
{
    struct config *config = load(rules);
    for (size_t i = 0; i < n; i++) {
        struct known k;
        struct route_decision d;
        char buf[200];
        struct route_query query =
            query_of(cases[i].domain, known(&k, cases[i].mx, cases[i].country));
        route_decide(config, &query, &d);
        if (strcmp(told(config, &d, buf, sizeof(buf)), cases[i].expected) != 0)
            fail_msg("%s%s, MX %s, country %s: %s, expected %s", rules, cases[i].domain,
                     cases[i].mx, cases[i].country, buf, cases[i].expected);
        assert_true((d.rule == NULL) == (d.action == ROUTE_FACTS || d.action == ROUTE_NONE));
        if (cases[i].mx[0] == '?' && cases[i].country[0] == '?') { /* the same as no facts at all */
            struct route_decision bare;
            query.facts = NULL;
            route_decide(config, &query, &bare);
            assert_memory_equal(&d, &bare, sizeof(d));
        }
    }
    config_free(config);
}

static void
any_mx_host_matches_and_none_does_not(void **state)
{
    (void)state;
    static const struct fact_case cases[] = {
        {"x.example", "mx.abc.com", "?", "us"},
        {"x.example", "other.net a.b.abc.com", "?", "us"},
        {"x.example", "abc.com", "?", "direct"}, /* *. is not the name itself */
        {"x.example", "mx1.def.com", "?", "us"},
        {"x.example", "a.mx1.def.com", "?", "direct"},
        {"x.example", "other.net", "?", "direct"},
        {"x.example", "-", "?", "direct"},
        {"[192.0.2.1]", "-", "?", "direct"},
        {"x.example", "?", "?", "facts mx"},
        {"x.example", "?", "US", "facts mx"},
    };
    check("  - {mx: ['*.abc.com', mx1.def.com], route: us}\n"
          "  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
}

static void
a_country_matches_when_there_is_one(void **state)
{
    (void)state;
    static const struct fact_case cases[] = {
        {"x.example", "?", "US", "us"},
        {"x.example", "?", "CA", "us"},
        {"x.example", "?", "CN", "direct"},
        {"x.example", "?", "-", "direct"},
        {"x.example", "-", "US", "us"},
        {"x.example", "?", "?", "facts country"},
        {"x.example", "a.b", "?", "facts country"},
    };
    check("  - {mx_country: [us, ca], route: us}\n"
          "  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
}

/* Two facts in one rule, with a matcher that needs none: every combination. */
static void
a_rule_with_an_unknown_matcher_neither_holds_nor_fails(void **state)
{
    (void)state;
    static const struct fact_case cases[] = {
        {"a.example", "mx.a.net", "US", "us"},
        {"a.example", "mx.a.net", "CN", "direct"},
        {"a.example", "mx.a.net", "-", "direct"},
        {"a.example", "mx.a.net", "?", "facts country"},
        {"a.example", "mx.b.net", "US", "direct"},
        {"a.example", "mx.b.net", "CN", "direct"},
        {"a.example", "mx.b.net", "?", "direct"}, /* one that fails is enough */
        {"a.example", "-", "US", "direct"},
        {"a.example", "-", "?", "direct"},
        {"a.example", "?", "US", "facts mx"},
        {"a.example", "?", "CN", "direct"},
        {"a.example", "?", "-", "direct"},
        {"a.example", "?", "?", "facts mx country"},
        {"b.example", "mx.a.net", "US", "direct"},
        {"b.example", "?", "?", "direct"}, /* no fact of it matters */
    };
    check("  - {domains: [a.example], mx: [mx.a.net], mx_country: [US], route: us}\n"
          "  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
}

static void
only_facts_that_can_matter_are_asked_for(void **state)
{
    (void)state;
    static const struct fact_case cases[] = {
        {"a.example", "?", "?", "us"},       /* a sure rule above */
        {"b.example", "?", "?", "facts mx"}, /* one between: the country is asked below it */
        {"b.example", "mx.a.net", "?", "jp"},
        {"b.example", "-", "?", "de"},
        {"c.example", "?", "?", "facts mx country"},
        {"c.example", "mx.a.net", "?", "jp"},
        {"c.example", "-", "?", "facts country"},
        {"c.example", "?", "US", "facts mx"},
        {"c.example", "-", "US", "us"},
        {"c.example", "-", "-", "direct"},
    };
    check("  - {domains: [a.example], route: us}\n"
          "  - {mx: [mx.a.net], route: jp}\n"
          "  - {domains: [b.example], route: de}\n"
          "  - {mx_country: [US], route: us}\n"
          "  - {default: true, route: direct}\n",
          cases, N_ELEMENTS(cases));
}

static void
whether_it_may_refuse_is_told(void **state)
{
    (void)state;
    static const struct fact_case rejected[] = {
        {"a.example", "?", "?", "facts country, may refuse"},
        {"a.example", "?", "KP", "reject"},
        {"a.example", "?", "-", "direct"},
        {"b.example", "?", "?", "us"},
    };
    check("  - {domains: [b.example], route: us}\n"
          "  - {mx_country: [KP], reject: '550 5.7.1 not there'}\n"
          "  - {default: true, route: direct}\n",
          rejected, N_ELEMENTS(rejected));
    static const struct fact_case none[] = {
        {"a.example", "?", "?", "facts mx, may refuse"},
        {"a.example", "-", "?", "none"},
        {"a.example", "mx.a.net", "?", "us"},
    };
    check("  - {mx: [mx.a.net], route: us}\n", none, N_ELEMENTS(none));
    static const struct fact_case held[] = {
        {"a.example", "?", "?", "facts mx country"},
        {"a.example", "-", "?", "facts country"},
        {"a.example", "-", "CN", "discard"},
        {"a.example", "mx.a.net", "?", "hold"},
    };
    check("  - {mx: [mx.a.net], hold: why}\n"
          "  - {mx_country: [CN], discard: true}\n"
          "  - {default: true, route: direct}\n",
          held, N_ELEMENTS(held));
}

static void
a_fence_by_facts_holds_wherever_it_stands(void **state)
{
    (void)state;
    static const struct fact_case cases[] = {
        {"a.example", "?", "?", "facts country"}, /* direct is left whatever it is */
        {"a.example", "?", "RU", "direct"},
        {"a.example", "?", "US", "us direct"},
        {"b.example", "?", "?", "facts country, may refuse"},
        {"b.example", "?", "RU", "fenced"},
        {"b.example", "?", "-", "us"},
        {"c.example", "?", "?", "direct"}, /* the same fence surely holds */
        {"d.example", "?", "?", "reject"}, /* no route, so no fence */
        {"e.example", "?", "?", "fenced"}, /* nothing is left to fence off */
    };
    check("  - {domains: [a.example, c.example], route: us, fallback: [direct]}\n"
          "  - {domains: [b.example, e.example], route: us}\n"
          "  - {domains: [c.example, e.example], never_via: [us]}\n"
          "  - {domains: [d.example], reject: '550 5.7.1 no'}\n"
          "  - {default: true, route: direct}\n"
          "  - {mx_country: [RU], never_via: [us]}\n",
          cases, N_ELEMENTS(cases));
    struct config *config = load("  - {default: true, route: us, fallback: [direct]}\n"
                                 "  - {mx: [mx.a.net], never_via: [us]}\n");
    struct known k;
    struct route_decision d;
    struct route_query query = query_of("a.example", known(&k, "mx.a.net", "?"));
    route_decide(config, &query, &d);
    assert_int_equal(d.n_fences, 1);
    assert_ptr_equal(d.fences[0], &config->rules[1]);
    assert_false(route_prefer(&d, 1));
    config_free(config);
}

/* ---- against the definition ---- */

static uint64_t random_state;

static unsigned
roll(unsigned n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % n;
}

static void
random_rule(struct strbuf *rules)
{
    static const char *const actions[] = {
        "route: direct",
        "route: us",
        "route: us, fallback: [direct]",
        "route: jp, fallback: [us]",
        "reject: '550 5.7.1 no'",
        "discard: true",
        "hold: why",
        "never_via: [us]",
        "never_via: [us, jp]",
        "never_via: [direct]",
        "route: direct, never_via: [us]",
    };
    unsigned matchers = 1 + roll(7);
    strbuf_add_str(rules, "  - {");
    if (matchers & 1)
        strbuf_printf(rules, "domains: [%s], ", roll(2) ? "x.example" : "y.example");
    if (matchers & 2)
        strbuf_printf(rules, "mx: [%s], ", roll(3) == 0 ? "'*.net'" : roll(2) ? "a.net" : "b.org");
    if (matchers & 4)
        strbuf_printf(rules, "mx_country: [%s], ", roll(3) == 0 ? "US, CN" : roll(2) ? "US" : "CN");
    const char *action = actions[roll(N_ELEMENTS(actions))];
    strbuf_printf(rules, "%s}\n", action);
}

static const char *const all_mx[] = {"-", "a.net", "b.org", "b.org a.net", "c.com", "?"};
static const char *const all_countries[] = {"-", "US", "CN", "DE", "?"};
#define N_MX (N_ELEMENTS(all_mx) - 1) /* of those that are known */
#define N_COUNTRIES (N_ELEMENTS(all_countries) - 1)

/* The rules read top down; all is known. */
static bool
holds(const struct rule *rule, const char *domain, const struct route_facts *f)
{
    bool mx = rule->n_mx == 0, country = rule->n_mx_country == 0;
    for (size_t i = 0; f->mx == ROUTE_FACT_KNOWN && i < f->n_hosts; i++)
        mx |= domain_patterns_find(rule->mx, rule->n_mx, span_str(f->hosts[i])) != NULL;
    for (size_t i = 0; f->country == ROUTE_FACT_KNOWN && i < rule->n_mx_country; i++)
        country |= strcmp(rule->mx_country[i], f->country_code) == 0;
    return mx && country &&
           (rule->n_domains == 0 ||
            domain_patterns_find(rule->domains, rule->n_domains, span_str(domain)) != NULL);
}

static void
agrees_with_a_walk(const struct config *config, const char *domain, const struct route_facts *f,
                   const struct route_decision *d)
{
    const struct rule *winner = NULL;
    route_mask fences = 0;
    for (size_t i = 0; i < config->n_rules; i++) {
        const struct rule *rule = &config->rules[i];
        if (!holds(rule, domain, f))
            continue;
        fences |= rule->never_via;
        if (winner == NULL && rule->action != RULE_FENCE)
            winner = rule;
    }
    assert_int_not_equal(d->action, ROUTE_FACTS);
    assert_ptr_equal(d->rule, winner);
    assert_int_equal(d->never_via, fences);
}

static bool
refuses(const struct route_decision *d)
{
    return d->action == ROUTE_REJECT || d->action == ROUTE_NONE || d->action == ROUTE_FENCED;
}

/* What is decided without all facts is what any value of the others would decide; with the facts
 * that are asked for it is decided. */
static void
check_unknown(const struct config *config, const char *rules, const char *domain, const char *mx,
              const char *country)
{
    struct known k;
    struct route_decision d;
    struct route_query query = query_of(domain, known(&k, mx, country));
    route_decide(config, &query, &d);
    unsigned unknown =
        (mx[0] == '?' ? ROUTE_NEEDS_MX : 0) | (country[0] == '?' ? ROUTE_NEEDS_COUNTRY : 0);
    assert_int_equal(d.needs & ~unknown, 0);
    assert_true((d.needs != 0) == (d.action == ROUTE_FACTS));
    for (size_t i = 0; i < N_MX * N_COUNTRIES; i++) {
        const char *now_mx = mx[0] == '?' ? all_mx[i % N_MX] : mx;
        const char *now_country = country[0] == '?' ? all_countries[i / N_MX] : country;
        struct known full, asked;
        struct route_decision whole, part;
        struct route_query q = query_of(domain, known(&full, now_mx, now_country));
        route_decide(config, &q, &whole);
        agrees_with_a_walk(config, domain, &full.facts, &whole);
        if (d.needs == 0) {
            part = d;
        } else {
            q.facts = known(&asked, (d.needs & ROUTE_NEEDS_MX) != 0 ? now_mx : mx,
                            (d.needs & ROUTE_NEEDS_COUNTRY) != 0 ? now_country : country);
            route_decide(config, &q, &part);
        }
        bool same = part.action == whole.action && part.rule == whole.rule &&
                    part.n_routes == whole.n_routes &&
                    memcmp(part.routes, whole.routes, part.n_routes * sizeof(part.routes[0])) == 0;
        if (part.action == ROUTE_DELIVER) /* where there is no route, fences do not matter */
            same = same && part.never_via == whole.never_via;
        if (!same || (d.action == ROUTE_FACTS && !d.may_refuse && refuses(&whole)))
            fail_msg("%s%s: MX %s, country %s, but then MX %s, country %s", rules, domain, mx,
                     country, now_mx, now_country);
    }
}

static void
whatever_is_unknown_the_map_reads_as_if_top_down(void **state)
{
    (void)state;
    random_state = 20;
    size_t n_facts = 0;
    for (int round = 0; round < 1500; round++) {
        struct strbuf rules = STRBUF_INIT;
        unsigned n = 1 + roll(6);
        for (unsigned i = 0; i < n; i++)
            random_rule(&rules);
        if (roll(2))
            strbuf_add_str(&rules, "  - {default: true, route: direct, fallback: [us]}\n");
        struct config *config = load(rules.p);
        for (size_t i = 0; i < N_ELEMENTS(all_mx) * N_ELEMENTS(all_countries); i++)
            check_unknown(config, rules.p, roll(2) ? "x.example" : "z.example",
                          all_mx[i % N_ELEMENTS(all_mx)], all_countries[i / N_ELEMENTS(all_mx)]);
        struct route_query query = query_of("x.example", NULL);
        struct route_decision d;
        route_decide(config, &query, &d);
        n_facts += d.action == ROUTE_FACTS;
        config_free(config);
        strbuf_release(&rules);
    }
    assert_true(n_facts > 500 && n_facts < 1400); /* both kinds were tried */
}

/* ---- explain ---- */

static void
collect(void *arg, const struct route_step *step)
{
    struct strbuf *out = arg;
    strbuf_printf(out, "%u %s: %s\n", step->rule->mark.line, route_verdict_name(step->verdict),
                  step->why);
}

static void
explained(const struct config *config, const char *mx, const char *country, const char *expected)
{
    struct known k;
    struct route_query query = query_of("a.example", known(&k, mx, country));
    struct route_decision d, decided;
    struct strbuf out = STRBUF_INIT;
    route_explain(config, &query, &d, collect, &out);
    if (strcmp(out.p, expected) != 0)
        fail_msg("%s\nexpected\n%s", out.p, expected);
    route_decide(config, &query, &decided);
    assert_memory_equal(&d, &decided, sizeof(d));
    strbuf_release(&out);
}

static void
explain_says_what_is_known_and_what_is_not(void **state)
{
    (void)state;
    struct config *config =
        load("  - {domains: [a.example], mx: ['*.example.com'], mx_country: [US], route: us}\n"
             "  - {mx_country: [CN], senders: ['*@none.example'], route: jp}\n"
             "  - {mx_country: [CN], route: jp}\n"
             "  - {default: true, route: direct}\n"
             "  - {mx: [mx.b.net], never_via: [us]}\n");
    explained(config, "?", "?",
              "6 unknown: domain a.example is in domains (a.example), MX not known, country not "
              "known\n"
              "7 missed: sender is not in senders\n"
              "8 unknown: country not known\n"
              "9 unknown: the default rule; it decides unless a rule above does\n"
              "10 unknown: MX not known\n");
    explained(config, "mx1.example.com", "US",
              "6 won: domain a.example is in domains (a.example), MX mx1.example.com is in mx "
              "(*.example.com), country US of 192.0.2.1 is in mx_country\n"
              "7 missed: sender is not in senders\n"
              "8 missed: country US of 192.0.2.1 is not in mx_country\n"
              "9 shadowed: the default rule; the rule at line 6 decided\n"
              "10 missed: MX mx1.example.com is not in mx\n");
    explained(config, "-", "-",
              "6 missed: domain a.example is in domains (a.example), the domain has no MX\n"
              "7 missed: sender is not in senders\n"
              "8 missed: 192.0.2.1 has no country\n"
              "9 won: the default rule\n"
              "10 missed: the domain has no MX\n");
    explained(
        config, "c.net d.net mx.b.net", "?",
        "6 missed: domain a.example is in domains (a.example), MX c.net is not in mx, nor are "
        "the 2 others\n"
        "7 missed: sender is not in senders\n"
        "8 unknown: country not known\n"
        "9 unknown: the default rule; it decides unless a rule above does\n"
        "10 fence: MX mx.b.net is in mx (mx.b.net)\n");
    config_free(config);
    config = load("  - {domains: [a.example], route: us}\n"
                  "  - {mx: [mx.b.net], route: jp}\n"
                  "  - {default: true, route: direct}\n");
    explained(config, "?", "?",
              "6 won: domain a.example is in domains (a.example)\n"
              "7 unknown: MX not known, not asked: a rule above decides\n"
              "8 shadowed: the default rule; the rule at line 6 decided\n");
    config_free(config);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_mx_host_matches_and_none_does_not),
        cmocka_unit_test(a_country_matches_when_there_is_one),
        cmocka_unit_test(a_rule_with_an_unknown_matcher_neither_holds_nor_fails),
        cmocka_unit_test(only_facts_that_can_matter_are_asked_for),
        cmocka_unit_test(whether_it_may_refuse_is_told),
        cmocka_unit_test(a_fence_by_facts_holds_wherever_it_stands),
        cmocka_unit_test(whatever_is_unknown_the_map_reads_as_if_top_down),
        cmocka_unit_test(explain_says_what_is_known_and_what_is_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
