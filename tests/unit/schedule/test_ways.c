/* In which order a recipient's routes are tried: the map, the administrator, SPF and SRS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "relayd/schedule/ways.h"
#include "tests/unit/policy/config_text.h"

#define HEAD                                                 \
    "node: {name: cn, hostname: cn.example}\n"               \
    "trusted_clients: [{cidr: 127.0.0.0/8}]\n"               \
    "local_domains: [ours.example]\n"                        \
    "direct: {egress: {v4: 192.0.2.1, v6: '2001:db8::1'}}\n" \
    "hops: {us: {address: us.example, egress: {v4: 192.0.2.2}}, jp: {address: jp.example}}\n"
#define MAP                                                                                  \
    "transport_map:\n"                                                                       \
    "  - {domains: [soft.example], route: direct, fallback: [us, jp], spf_softfail: true}\n" \
    "  - {domains: [fenced.example], route: direct, fallback: [us], never_via: [jp]}\n"      \
    "  - {domains: [one.example], route: direct}\n"                                          \
    "  - {domains: [no.example], reject: '550 5.7.1 no'}\n"                                  \
    "  - {default: true, route: direct, fallback: [us, jp], learn: true}\n"
#define DIRECT ((route_mask)1)
#define US ((route_mask)2)

struct fixture {
    struct config *config;
    struct ways_ask ask;
    struct ways ways;
    char sender_domain[DOMAIN_BUF], domain[DOMAIN_BUF];
};

static void
load(struct fixture *f, const char *more)
{
    struct strbuf text = STRBUF_INIT, out = STRBUF_INIT;
    strbuf_printf(&text, HEAD "%s" MAP, more);
    const struct text_file files[] = {
        {.path = "c.yaml", .text = text.p},
        {.path = "srs.secret", .text = "a secret of sufficient length\n"},
    };
    f->config = text_load(files, N_ELEMENTS(files), 0, &out);
    if (f->config == NULL)
        fail_msg("%s", out.p);
    strbuf_release(&text);
    strbuf_release(&out);
    f->ask = (struct ways_ask){.config = f->config};
}

/* "direct us jp" for this recipient, in the caller's buffer. */
static const char *
order(struct fixture *f, const char *sender, const char *rcpt, char buf[static 200])
{
    struct err err;
    size_t used = 0;

    if (route_query_set(&f->ask.query, span_str(sender), span_str(rcpt), f->sender_domain,
                        f->domain, &err) != ERR_OK)
        fail_msg("%s", err.text);
    ways_find(&f->ask, &f->ways);
    buf[0] = '\0';
    for (size_t i = 0; i < f->ways.n; i++)
        used += (size_t)snprintf(buf + used, 200 - used, "%s%s", i == 0 ? "" : " ",
                                 f->config->routes[f->ways.list[i].route].name);
    return buf;
}

static void
the_administrator_goes_before_the_map_and_everything_else(void **state)
{
    struct fixture f;
    char buf[200];
    (void)state;
    load(&f, "");
    assert_string_equal(order(&f, "a@ours.example", "b@x.example", buf), "direct us jp");
    f.ask.pinned = SPAN("jp");
    assert_string_equal(order(&f, "a@ours.example", "b@x.example", buf), "jp direct us");
    assert_true(f.ways.pinned);
    f.ask.wanted = SPAN("us");
    f.ask.spf = (struct rcpt_spf){.known = true, .fail = US};
    assert_string_equal(order(&f, "a@ours.example", "b@x.example", buf), "us direct jp");
    assert_true(f.ways.wanted && !f.ways.pinned);
    f.ask.wanted = f.ask.pinned = SPAN("jp");
    f.ask.spf = (struct rcpt_spf){0};
    assert_string_equal(order(&f, "a@ours.example", "b@fenced.example", buf), "direct us");
    assert_false(f.ways.wanted || f.ways.pinned);
    f.ask.wanted = SPAN("gone"); /* with an older configuration */
    f.ask.pinned = SPAN_NONE;
    assert_string_equal(order(&f, "a@ours.example", "b@x.example", buf), "direct us jp");
    assert_string_equal(order(&f, "a@ours.example", "b@no.example", buf), "");
    assert_int_equal(f.ways.decision.action, ROUTE_REJECT);
    config_free(f.config);
}

static void
a_route_that_spf_does_not_let_send_goes_behind_the_others(void **state)
{
    struct fixture f;
    char buf[200];
    (void)state;
    load(&f, "");
    f.ask.spf = (struct rcpt_spf){.known = true, .fail = DIRECT, .softfail = US};
    assert_string_equal(order(&f, "a@ours.example", "b@x.example", buf), "us jp direct");
    assert_true(f.ways.list[2].spf_fails && !f.ways.list[0].spf_fails);
    assert_string_equal(order(&f, "a@ours.example", "b@soft.example", buf), "jp direct us");
    f.ask.spf = (struct rcpt_spf){.known = true, .fail = DIRECT | US};
    assert_string_equal(order(&f, "a@ours.example", "b@fenced.example", buf), "direct us");
    assert_string_equal(order(&f, "a@ours.example", "b@one.example", buf), "direct");
    config_free(f.config);
}

static void
a_rewritten_sender_is_not_judged_by_its_spf_record(void **state)
{
    struct fixture f;
    char buf[200];
    struct ip ips[WAYS_SPF_MAX];
    unsigned routes[WAYS_SPF_MAX];
    (void)state;
    load(&f, "srs: {domain: fwd.ours.example, secret_file: srs.secret}\n");
    f.ask.spf = (struct rcpt_spf){.known = true, .fail = DIRECT};
    assert_string_equal(order(&f, "a@foreign.example", "b@x.example", buf), "direct us jp");
    assert_true(f.ways.srs);
    assert_int_equal(ways_spf_ips(f.config, &f.ways, ips, routes), 0);
    assert_string_equal(order(&f, "a@ours.example", "b@x.example", buf), "us jp direct");
    assert_false(f.ways.srs);
    config_free(f.config);
}

static void
spf_is_asked_for_addresses_that_are_known_and_among_several_routes(void **state)
{
    struct fixture f;
    char buf[200];
    struct ip ips[WAYS_SPF_MAX];
    unsigned routes[WAYS_SPF_MAX];
    (void)state;
    load(&f, "");
    order(&f, "a@ours.example", "b@x.example", buf);
    assert_int_equal(ways_spf_ips(f.config, &f.ways, ips, routes), 3);
    assert_int_equal(ips[0].family, 4);
    assert_int_equal(ips[1].family, 6);
    assert_int_equal(routes[1], 0);
    assert_int_equal(routes[2], 1);
    order(&f, "a@ours.example", "b@one.example", buf);
    assert_int_equal(ways_spf_ips(f.config, &f.ways, ips, routes), 0);
    config_free(f.config);
}

static void
a_route_fails_when_all_its_addresses_do(void **state)
{
    (void)state;
    static const unsigned routes[] = {0, 0, 1, 1, 2, 3};
    const enum spf_result results[] = {SPF_FAIL, SPF_PASS,     SPF_FAIL,
                                       SPF_FAIL, SPF_SOFTFAIL, SPF_TEMPERROR};
    struct rcpt_spf spf = ways_spf(results, routes, N_ELEMENTS(routes));
    assert_true(spf.known);
    assert_int_equal(spf.fail, 1 << 1);
    assert_int_equal(spf.softfail, 1 << 2);
    static const unsigned one[] = {4, 4};
    const enum spf_result mixed[] = {SPF_SOFTFAIL, SPF_FAIL};
    spf = ways_spf(mixed, one, 2);
    assert_int_equal(spf.fail, 0);
    assert_int_equal(spf.softfail, 1 << 4);
}

/* A pin, or what has been learned, may come while DNS is being asked. */
static void
what_spf_says_is_told_by_address_not_by_place(void **state)
{
    struct fixture f;
    (void)state;
    load(&f, "");
    const struct config_pair *direct = &f.config->direct.egress;
    const struct config_pair *us = &f.config->routes[1].hop->egress;
    const struct ip ips[] = {us->v4, direct->v4, direct->v6};
    const enum spf_result results[] = {SPF_SOFTFAIL, SPF_FAIL, SPF_FAIL};
    struct rcpt_spf spf = ways_spf_found(f.config, ips, results, N_ELEMENTS(ips));
    assert_true(spf.asked && spf.known);
    assert_int_equal(spf.fail, DIRECT);
    assert_int_equal(spf.softfail, US);
    spf = ways_spf_found(f.config, ips, results, 1);
    assert_true(spf.known && spf.fail == 0 && spf.softfail == US);
    config_free(f.config);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_administrator_goes_before_the_map_and_everything_else),
        cmocka_unit_test(a_route_that_spf_does_not_let_send_goes_behind_the_others),
        cmocka_unit_test(a_rewritten_sender_is_not_judged_by_its_spf_record),
        cmocka_unit_test(spf_is_asked_for_addresses_that_are_known_and_among_several_routes),
        cmocka_unit_test(a_route_fails_when_all_its_addresses_do),
        cmocka_unit_test(what_spf_says_is_told_by_address_not_by_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
