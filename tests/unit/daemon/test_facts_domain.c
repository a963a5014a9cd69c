/* What rules by MX and country see of a domain, by a name server on loopback. */
#include "tests/unit/daemon/schedule_rig.h"
#include "tests/unit/policy/mmdb_write.h"

#include "policy/geoip.h"

#define BOTH (ROUTE_NEEDS_MX | ROUTE_NEEDS_COUNTRY)

static const struct mmdb_row rows[] = {
    {"198.51.100.0/25", "US", NULL},
    {"198.51.100.128/25", "CN", NULL},
    {"10.0.0.0/8", "KP", NULL},
    {"2001:db8::/32", "JP", NULL},
};

#define US 0xc6336405u /* 198.51.100.5 */
#define US_HIGHER 0xc6336406u
#define CN 0xc6336485u
#define NOWHERE 0xc0000201u
#define PRIVATE 0x0a000001u
static const uint8_t jp[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};

static struct geoip *geoip;

static struct {
    unsigned n_answers, ttl_s;
    bool ok;
    struct outcome outcome;
    struct route_facts route;
    char hosts[8][64], note[200];
} got;

static int
setup(void **state)
{
    char path[] = "/tmp/test_facts_domain.XXXXXX";
    struct strbuf bytes = STRBUF_INIT;
    struct err err;
    int fd = mkstemp(path);
    if (fd < 0 || close(fd) != 0)
        return -1;
    mmdb_make(&bytes, "Test-Country", rows, N_ELEMENTS(rows));
    mmdb_save(path, strbuf_span(&bytes));
    strbuf_release(&bytes);
    enum err_code code = geoip_open(path, &geoip, &err);
    unlink(path);
    return code == ERR_OK ? rig_setup(state) : -1;
}

static int
teardown(void **state)
{
    geoip_close(geoip);
    return rig_teardown(state);
}

static void
keep(const struct facts_domain *domain)
{
    got.n_answers++;
    got.ok = domain->ok;
    got.outcome = domain->outcome;
    got.route = domain->route;
    snprintf(got.note, sizeof(got.note), "%s", domain->note);
    got.ttl_s = domain->ttl_s;
    for (size_t i = 0; i < domain->route.n_hosts; i++) {
        assert_true(i < N_ELEMENTS(got.hosts));
        assert_ptr_equal(domain->route.hosts, domain->hosts);
        snprintf(got.hosts[i], sizeof(got.hosts[i]), "%s", domain->hosts[i]);
    }
}

static void
on_domain(void *arg, const struct facts_domain *domain)
{
    assert_ptr_equal(arg, &got);
    keep(domain);
}

/* Looked up, and then once more from the cache alone, with the same answer. */
static void
ask(const char *domain, unsigned needs)
{
    struct facts_domain cached;
    memset(&got, 0, sizeof(got));
    facts_domain_start(r.facts, geoip, domain, needs, on_domain, &got);
    assert_int_equal(got.n_answers, 0);
    for (int i = 0; i < 5000 && got.n_answers == 0; i++)
        loop_run_once(r.loop, 1);
    assert_int_equal(got.n_answers, 1);
    if (!facts_domain_cached(r.facts, geoip, domain, needs, &cached))
        fail_msg("%s is not in the cache", domain);
    struct route_facts route = got.route;
    bool ok = got.ok;
    keep(&cached);
    assert_true(ok == cached.ok && route.mx == cached.route.mx);
    assert_int_equal(route.n_hosts, cached.route.n_hosts);
    assert_int_equal(route.country, cached.route.country);
    assert_string_equal(route.country_code, cached.route.country_code);
    assert_true(ip_eq(&route.address, &cached.route.address));
}

static void
country_is(const char *code, const char *address)
{
    char text[IP_TEXT_MAX];
    assert_true(got.ok);
    assert_int_equal(got.route.country, code[0] == '\0' ? ROUTE_FACT_NONE : ROUTE_FACT_KNOWN);
    assert_string_equal(got.route.country_code, code);
    assert_string_equal(ip_format(&got.route.address, text), address);
}

static void
hosts_come_best_first_and_nothing_else_is_asked_for_them(void **state)
{
    (void)state;
    struct rig_name *n = rig_mx("one.test", "z.big.test"), *host = rig_name("z.big.test");
    n->mx[1] = "b.big.test";
    n->mx[2] = "a.big.test";
    struct facts_domain cached;
    assert_false(facts_domain_cached(r.facts, geoip, "one.test", ROUTE_NEEDS_MX, &cached));
    ask("one.test", ROUTE_NEEDS_MX);
    assert_true(got.ok);
    assert_int_equal(got.route.mx, ROUTE_FACT_KNOWN);
    assert_int_equal(got.route.n_hosts, 3);
    assert_string_equal(got.hosts[0], "z.big.test");
    assert_string_equal(got.hosts[2], "a.big.test");
    assert_int_equal(got.route.country, ROUTE_FACT_UNKNOWN);
    assert_int_equal(host->asked, 0);
    assert_false(facts_domain_cached(r.facts, geoip, "one.test", BOTH, &cached));
    n->ttl_s = 60;
    dns_flush(r.dns);
    ask("one.test", BOTH); /* as long as the shortest-lived answer; the address has 300 s */
    assert_in_range(got.ttl_s, 55, 60);
}

static void
the_country_is_that_of_the_best_hosts_lowest_address(void **state)
{
    (void)state;
    rig_mx("one.test", "best.test")->mx[1] = "other.test";
    struct rig_name *best = rig_name("best.test"), *other = rig_name("other.test");
    best->ip = CN;
    best->ip2 = US_HIGHER; /* the lower one, though it comes second */
    memcpy(best->ip6, jp, sizeof(jp));
    ask("one.test", BOTH);
    country_is("US", "198.51.100.6");
    assert_int_equal(best->asked, 1); /* IPv4 is enough */
    assert_int_equal(other->asked, 0);
    rig_mx("two.test", "unknown.test");
    rig_name("unknown.test")->ip = NOWHERE;
    ask("two.test", ROUTE_NEEDS_COUNTRY);
    country_is("", "192.0.2.1");
    assert_int_equal(got.route.mx, ROUTE_FACT_KNOWN); /* it had to be asked for anyway */
}

static void
a_host_without_ipv4_is_asked_for_ipv6_and_then_the_next_host(void **state)
{
    (void)state;
    rig_mx("six.test", "best.test")->mx[1] = "other.test";
    struct rig_name *best = rig_name("best.test");
    best->no_address = true;
    memcpy(best->ip6, jp, sizeof(jp));
    ask("six.test", BOTH);
    country_is("JP", "2001:db8::1");
    struct rig_name *n = rig_mx("none.test", "none1.test");
    n->mx[1] = "none2.test";
    n->mx[2] = "third.test";
    rig_name("none1.test")->no_address = true;
    rig_name("none2.test")->rcode = 3;
    rig_name("third.test")->ip = CN;
    ask("none.test", BOTH);
    country_is("CN", "198.51.100.133");
    rig_name("third.test")->no_address = true;
    dns_flush(r.dns);
    ask("none.test", BOTH);
    country_is("", "");
    assert_non_null(strstr(got.note, "none of the 3 best hosts has an address"));
}

/* It has addresses, so the next host is not asked in its place. */
static void
private_addresses_have_no_country(void **state)
{
    (void)state;
    rig_mx("one.test", "best.test")->mx[1] = "other.test";
    struct rig_name *best = rig_name("best.test"), *other = rig_name("other.test");
    best->ip = PRIVATE;
    other->ip = US;
    ask("one.test", BOTH);
    country_is("", "");
    assert_string_equal(got.note, "best.test has private addresses only");
    assert_int_equal(other->asked, 0);
    best->ip2 = CN; /* a public one beside it counts */
    dns_flush(r.dns);
    ask("one.test", BOTH);
    country_is("CN", "198.51.100.133");
}

static void
without_mx_the_domains_own_address_has_the_country(void **state)
{
    (void)state;
    struct rig_name *n = rig_name("one.test");
    n->no_mx = true;
    n->ip = US;
    ask("one.test", BOTH);
    country_is("US", "198.51.100.5");
    assert_int_equal(got.route.mx, ROUTE_FACT_NONE);
    n = rig_name("two.test");
    n->no_mx = n->no_address = true;
    ask("two.test", BOTH);
    country_is("", "");
}

static void
where_no_mail_is_taken_there_are_no_facts(void **state)
{
    (void)state;
    rig_mx("null.test", "");
    rig_name("gone.test")->rcode = 3;
    static const char *const cases[][2] = {{"null.test", "null MX"},
                                           {"gone.test", "the domain does not exist"}};
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        ask(cases[i][0], BOTH);
        country_is("", "");
        assert_int_equal(got.route.mx, ROUTE_FACT_NONE);
        assert_string_equal(got.note, cases[i][1]);
    }
}

static void
trouble_with_dns_leaves_open_what_was_needed(void **state)
{
    (void)state;
    struct rig_name *n = rig_mx("one.test", "best.test");
    n->rcode = 2;
    ask("one.test", BOTH);
    assert_false(got.ok);
    assert_int_equal(got.route.mx, ROUTE_FACT_UNKNOWN);
    assert_int_equal(got.route.country, ROUTE_FACT_UNKNOWN);
    assert_int_equal(got.outcome.kind, OUTCOME_DEFERRED);
    assert_int_equal(got.outcome.origin, ORIGIN_DNS);
    assert_non_null(strstr(got.outcome.text, "looking up MX of one.test: SERVFAIL"));
    n->rcode = 0;
    rig_name("best.test")->rcode = 2;
    dns_flush(r.dns);
    ask("one.test", ROUTE_NEEDS_MX); /* which needs no address */
    assert_true(got.ok);
    ask("one.test", BOTH);
    assert_false(got.ok);
    assert_int_equal(got.route.mx, ROUTE_FACT_KNOWN);
    assert_int_equal(got.route.country, ROUTE_FACT_UNKNOWN);
    assert_non_null(strstr(got.outcome.text, "looking up the address of best.test: SERVFAIL"));
}

static void
an_address_in_brackets_has_a_country_and_no_mx(void **state)
{
    (void)state;
    ask("[198.51.100.200]", BOTH);
    country_is("CN", "198.51.100.200");
    assert_int_equal(got.route.mx, ROUTE_FACT_NONE);
    ask("[ipv6:2001:db8::1]", BOTH);
    country_is("JP", "2001:db8::1");
    ask("[10.0.0.1]", BOTH);
    country_is("", "10.0.0.1");
    ask("[x]", BOTH);
    country_is("", "");
}

static void
a_look_up_holds_the_database_and_can_be_cancelled(void **state)
{
    (void)state;
    rig_name("mx.one.test")->ip = US;
    memset(&got, 0, sizeof(got));
    facts_domain_start(r.facts, geoip, "one.test", BOTH, on_domain, &got);
    struct facts_query *cancelled[] = {
        facts_domain_start(r.facts, geoip, "two.test", BOTH, on_domain, &got),
        facts_domain_start(r.facts, geoip, "[10.0.0.1]", BOTH, on_domain, &got),
    };
    for (size_t i = 0; i < N_ELEMENTS(cancelled); i++)
        facts_cancel(cancelled[i]);
    geoip_close(geoip); /* a reload */
    geoip = NULL;
    for (int i = 0; i < 200; i++)
        loop_run_once(r.loop, 1);
    assert_int_equal(got.n_answers, 1);
    country_is("US", "198.51.100.5");
    /* And without a database nothing has a country, and no address is asked for. */
    struct rig_name *host = rig_name("mx.three.test");
    ask("three.test", BOTH);
    country_is("", "");
    assert_int_equal(host->asked, 0);
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(hosts_come_best_first_and_nothing_else_is_asked_for_them),
        T(the_country_is_that_of_the_best_hosts_lowest_address),
        T(a_host_without_ipv4_is_asked_for_ipv6_and_then_the_next_host),
        T(private_addresses_have_no_country),
        T(without_mx_the_domains_own_address_has_the_country),
        T(where_no_mail_is_taken_there_are_no_facts),
        T(trouble_with_dns_leaves_open_what_was_needed),
        T(an_address_in_brackets_has_a_country_and_no_mx),
        T(a_look_up_holds_the_database_and_can_be_cancelled),
    };
    RUN_TESTS(tests);
}
