/* Which site serves a domain, and where it is reached (RFC 5321 section 5.1), by a name server on
 * loopback. */
#include "relayd/facts_private.h"
#include "tests/unit/daemon/schedule_rig.h"

#define DIRECT "transport_map: [{default: true, route: direct}]\n"

static struct {
    bool answered;
    struct facts_site site;
    bool ok, more;
    size_t n;
    struct ip ips[FACTS_ENDPOINTS_MAX];
    uint16_t ports[FACTS_ENDPOINTS_MAX];
    bool implicit[FACTS_ENDPOINTS_MAX];
    char hosts[FACTS_ENDPOINTS_MAX][64], key[FACTS_SITE_KEY_MAX];
    struct outcome outcome;
} got;

static void
on_site(void *arg, const struct facts_site *site)
{
    assert_ptr_equal(arg, &got);
    assert_false(got.answered);
    got.answered = true;
    got.site = *site;
}

static void
on_endpoints(void *arg, const struct facts_endpoints *e)
{
    assert_ptr_equal(arg, &got);
    assert_false(got.answered);
    got.answered = true;
    got.ok = e->ok;
    got.n = e->n;
    got.more = e->more;
    got.outcome = e->outcome;
    snprintf(got.key, sizeof(got.key), "%s", e->key);
    for (size_t i = 0; i < e->n; i++) {
        got.ips[i] = e->list[i].ip;
        got.ports[i] = e->list[i].port;
        got.implicit[i] = e->list[i].implicit_tls;
        snprintf(got.hosts[i], sizeof(got.hosts[i]), "%s", e->list[i].host);
    }
}

static void
wait_answer(void)
{
    for (int i = 0; i < 5000 && !got.answered; i++)
        loop_run_once(r.loop, 1);
    assert_true(got.answered);
}

static const struct facts_site *
site_of(const char *domain)
{
    memset(&got, 0, sizeof(got));
    facts_site_start(r.facts, domain, on_site, &got);
    assert_false(got.answered);
    wait_answer();
    return &got.site;
}

static void
direct(const char *domain)
{
    memset(&got, 0, sizeof(got));
    facts_direct_start(r.facts, domain, on_endpoints, &got);
    assert_false(got.answered);
    wait_answer();
}

static void
configure(const char *text)
{
    r.config = rig_config(text);
    facts_set_config(r.facts, r.config);
}

static void
the_same_hosts_are_the_same_site(void **state)
{
    (void)state;
    struct rig_name *n = rig_mx("one.test", "a.big.test");
    n->mx[1] = "b.big.test";
    n = rig_mx("two.test", "b.big.test"); /* other preferences */
    n->mx[1] = "a.big.test";
    rig_mx("three.test", "a.big.test");
    configure(DIRECT);
    struct facts_site one = *site_of("one.test"), two = *site_of("two.test"),
                      three = *site_of("three.test");
    assert_true(one.ok && two.ok && three.ok);
    assert_string_equal(one.key, two.key);
    assert_string_not_equal(one.key, three.key);
    assert_string_equal(one.name, "a.big.test"); /* the best one */
    assert_string_equal(two.name, "b.big.test");
    struct facts_site cached;
    assert_true(facts_site_cached(r.facts, "one.test", &cached));
    assert_string_equal(cached.key, one.key);
    assert_false(facts_site_cached(r.facts, "four.test", &cached));
    direct("one.test");
    assert_string_equal(got.key, one.key);
}

static void
without_mx_the_domain_is_its_own_host(void **state)
{
    (void)state;
    rig_name("one.test")->no_mx = true;
    configure(DIRECT);
    const struct facts_site *site = site_of("one.test");
    assert_true(site->ok && site->no_mx);
    assert_string_equal(site->key, "one.test");
    direct("one.test");
    assert_true(got.ok);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.hosts[0], "one.test");
    assert_string_equal(got.key, "one.test");
}

static void
what_dns_says_no_to_and_what_it_does_not_say(void **state)
{
    (void)state;
    static const struct {
        const char *domain;
        int rcode;
        const char *mx;
        enum outcome_kind kind;
        unsigned subject, detail;
    } cases[] = {
        {"nx.test", 3, NULL, OUTCOME_FAILED, 1, 2},
        {"broken.test", 2, NULL, OUTCOME_DEFERRED, 4, 3},
        {"null.test", 0, "", OUTCOME_FAILED, 1, 10},
    };
    configure(DIRECT);
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct rig_name *n = rig_mx(cases[i].domain, cases[i].mx);
        n->rcode = cases[i].rcode;
        const struct facts_site *site = site_of(cases[i].domain);
        assert_false(site->ok);
        assert_int_equal(site->outcome.kind, cases[i].kind);
        assert_int_equal(site->outcome.enh.subject, cases[i].subject);
        assert_int_equal(site->outcome.enh.detail, cases[i].detail);
        assert_false(site->outcome.path);
        direct(cases[i].domain);
        assert_false(got.ok);
        assert_int_equal(got.outcome.kind, cases[i].kind);
        assert_string_equal(got.key, "");
    }
}

static void
hosts_are_tried_by_preference_and_are_bounded(void **state)
{
    (void)state;
    struct rig_name *n = rig_mx("one.test", "first.test");
    n->mx[1] = "second.test";
    n->mx[2] = "third.test";
    rig_name("second.test")->no_address = true;
    configure(DIRECT);
    direct("one.test");
    assert_true(got.ok);
    assert_int_equal(got.n, 2);
    assert_string_equal(got.hosts[0], "first.test");
    assert_string_equal(got.hosts[1], "third.test");
    assert_int_equal(got.ports[0], 25);
    assert_false(got.implicit[0]);
    rig_name("first.test")->no_address = rig_name("third.test")->no_address = true;
    dns_flush(r.dns);
    direct("one.test");
    assert_false(got.ok);
    assert_int_equal(got.outcome.kind, OUTCOME_FAILED);
    assert_int_equal(got.outcome.enh.detail, 4); /* 5.4.4 */
    assert_string_not_equal(got.key, "");        /* it is still this site */
    rig_name("third.test")->rcode = 2;           /* one that may have an address */
    dns_flush(r.dns);
    direct("one.test");
    assert_int_equal(got.outcome.kind, OUTCOME_DEFERRED);
}

static void
we_are_no_mx_of_others(void **state)
{
    (void)state;
    struct rig_name *n = rig_mx("one.test", "other.test");
    n->mx[1] = "us.test";
    n->mx[2] = "worse.test";
    rig_name("us.test")->ip = 0x7f000001;
    rig_mx("ours.test", "us.test");
    rig_mx("private.test", "inner.test");
    rig_name("inner.test")->ip = 0x0a000001;
    configure("direct: {port: 2525, allow_private: true}\n" DIRECT);
    direct("one.test");
    assert_true(got.ok);
    assert_int_equal(got.n, 1); /* not us, and not who comes behind us */
    assert_string_equal(got.hosts[0], "other.test");
    direct("ours.test");
    assert_int_equal(got.outcome.kind, OUTCOME_FAILED);
    assert_int_equal(got.outcome.enh.detail, 6); /* 5.4.6: a loop */
    direct("private.test");
    assert_true(got.ok);
    config_free(r.config);
    configure("direct: {allow_private: false}\n" DIRECT);
    direct("private.test");
    assert_int_equal(got.outcome.kind, OUTCOME_FAILED);
}

static void
addresses_that_are_not_of_the_internet_hide_no_others(void **state)
{
    (void)state;
    struct rig_name *n = rig_mx("one.test", "inner.test");
    n->mx[1] = "mixed.test";
    n->mx[2] = "outer.test";
    rig_name("inner.test")->ip = 0x7f000001;
    n = rig_name("mixed.test");
    n->ip = 0x0a000001;
    n->ip2 = 0xc6336401; /* 198.51.100.1 */
    rig_name("outer.test")->ip = 0xc6336402;
    configure("direct: {allow_private: false}\n" DIRECT);
    direct("one.test");
    assert_true(got.ok);
    assert_int_equal(got.n, 2);
    assert_string_equal(got.hosts[0], "mixed.test");
    assert_true(ip_eq(&got.ips[0], &(struct ip){.family = 4, .bytes = {198, 51, 100, 1}}));
    assert_string_equal(got.hosts[1], "outer.test");
    config_free(r.config);
    /* A lab's addresses are not those that are nobody's. */
    configure("direct: {allow_private: true}\n" DIRECT);
    direct("one.test");
    assert_int_equal(got.n, 4);
    rig_mx("zero.test", "null.test");
    rig_name("null.test")->ip = 1; /* 0.0.0.1 */
    direct("zero.test");
    assert_int_equal(got.outcome.kind, OUTCOME_FAILED);
    assert_non_null(strstr(got.outcome.text, "unspecified"));
    direct("[0.0.0.0]");
    assert_int_equal(got.outcome.kind, OUTCOME_FAILED);
}

static void
an_address_in_brackets_needs_no_dns(void **state)
{
    (void)state;
    struct facts_site site;
    configure(DIRECT);
    assert_true(facts_site_cached(r.facts, "[198.51.100.9]", &site));
    assert_true(site.ok && site.literal);
    direct("[198.51.100.9]");
    assert_true(got.ok);
    assert_int_equal(got.n, 1);
    assert_string_equal(got.key, site.key);
    direct("[IPv6:2001:db8::7]");
    assert_true(got.ok);
    assert_int_equal(got.ips[0].family, 6);
    direct("[nonsense]");
    assert_int_equal(got.outcome.kind, OUTCOME_FAILED);
}

static void
a_hop_is_tried_on_every_port_the_last_good_one_first(void **state)
{
    (void)state;
    static const uint16_t in_order[] = {465, 587, 25}, good_first[] = {587, 465, 25};
    configure("hops: {us: {address: us.example}}\n" DIRECT);
    for (int good = 0; good < 2; good++) {
        memset(&got, 0, sizeof(got));
        facts_hop_start(r.facts, &r.config->hops[0], good ? 587 : 0, on_endpoints, &got);
        assert_false(got.answered);
        wait_answer();
        assert_true(got.ok);
        assert_int_equal(got.n, 3);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(got.ports[i], good ? good_first[i] : in_order[i]);
            assert_int_equal(got.implicit[i], got.ports[i] == 465);
            assert_string_equal(got.hosts[i], "us.example");
        }
    }
    /* No address is the path's fault, not the message's. */
    rig_name("us.example")->rcode = 3;
    dns_flush(r.dns);
    memset(&got, 0, sizeof(got));
    facts_hop_start(r.facts, &r.config->hops[0], 0, on_endpoints, &got);
    config_free(r.config); /* a reload: the look-up knows nothing of the old hop */
    configure(DIRECT);
    wait_answer();
    assert_false(got.ok);
    assert_int_equal(got.outcome.kind, OUTCOME_DEFERRED);
    assert_true(got.outcome.path);
    assert_non_null(strstr(got.outcome.text, "hop us"));
}

/* ---- more of them than an attempt tries ---- */

/* The addresses of each host by 1.. in the order of the zone: "third/2" is its 198.51.100.2. */
static bool
was_given(const char *host, unsigned last_byte)
{
    for (size_t i = 0; i < got.n; i++)
        if (strcmp(got.hosts[i], host) == 0 && got.ips[i].bytes[3] == last_byte)
            return true;
    return false;
}

static void
hop(void)
{
    memset(&got, 0, sizeof(got));
    facts_hop_start(r.facts, &r.config->hops[0], 0, on_endpoints, &got);
    wait_answer();
}

static void
each_address_of_a_host_gets_its_turn(void **state)
{
    (void)state;
    static const unsigned turns[] = {0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5}; /* that n addresses take */
    static const uint8_t six[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};
    configure("hops: {us: {address: 'us.example:25'}}\n" DIRECT);
    for (int by_hop = 0; by_hop < 2; by_hop++) {
        struct rig_name *n = rig_name(by_hop ? "us.example" : "mx.one.test");
        for (unsigned n_addresses = 1; n_addresses < N_ELEMENTS(turns); n_addresses++) {
            bool given[N_ELEMENTS(turns)] = {false};
            n->ip = 0xc6336401;
            n->n_more = n_addresses - 1;
            dns_flush(r.dns);
            facts_set_config(r.facts, r.config);
            for (unsigned t = 0; t < turns[n_addresses]; t++) {
                by_hop ? hop() : direct("one.test");
                assert_int_equal(got.n, n_addresses < 2 ? 1 : 2);
                assert_int_equal(got.more, n_addresses > 2);
                assert_true(t > 0 || was_given(got.hosts[0], 1)); /* in order at first */
                for (unsigned a = 1; a <= n_addresses; a++)
                    given[a] |= was_given(got.hosts[0], a);
                facts_next_turn(r.facts, by_hop, by_hop ? "us" : got.key);
            }
            for (unsigned a = 1; a <= n_addresses; a++)
                if (!given[a])
                    fail_msg("address %u of %u was never given", a, n_addresses);
            clock_step(r.clock, FACTS_TURN_KEEP_MS); /* forgotten */
        }
        /* With IPv6 besides, a host gets one of each family. */
        n->n_more = 3;
        memcpy(n->ip6, six, sizeof(six));
        dns_flush(r.dns);
        bool given[5] = {false};
        for (int t = 0; t < 4; t++) {
            by_hop ? hop() : direct("one.test");
            assert_int_equal(got.n, by_hop ? 3 : 2);
            assert_int_equal(got.ips[0].family, 4);
            assert_int_equal(got.ips[got.n - 1].family, 6);
            given[got.ips[0].bytes[3]] = true;
            facts_next_turn(r.facts, by_hop, by_hop ? "us" : got.key);
        }
        assert_true(given[1] && given[2] && given[3] && given[4]);
    }
}

static void
each_host_gets_its_turn(void **state)
{
    (void)state;
    static const char *const hosts[] = {"a.x.test", "b.x.test", "c.x.test", "d.x.test",
                                        "e.x.test", "f.x.test", "g.x.test"};
    struct rig_name *n = rig_mx("one.test", NULL);
    memcpy(n->mx, hosts, sizeof(hosts));
    rig_name("b.x.test")->no_address = true;
    rig_mx("two.test", "a.x.test")->mx[1] = "c.x.test";
    configure(DIRECT);
    direct("one.test");
    assert_int_equal(got.n, 5);
    assert_true(got.more);
    assert_string_equal(got.hosts[0], "a.x.test");
    assert_string_equal(got.hosts[4], "f.x.test");
    facts_next_turn(r.facts, false, got.key);
    direct("one.test");
    assert_int_equal(got.n, 5);
    assert_string_equal(got.hosts[0], "g.x.test");
    assert_string_equal(got.hosts[1], "a.x.test");
    direct("two.test"); /* another site */
    assert_string_equal(got.hosts[0], "a.x.test");
    assert_false(got.more);
    direct("one.test"); /* it has taken nobody's place */
    assert_string_equal(got.hosts[0], "g.x.test");
    clock_step(r.clock, FACTS_TURN_KEEP_MS);
    direct("one.test");
    assert_string_equal(got.hosts[0], "a.x.test");
}

/* However many hosts and addresses there are: each pair is given within a few turns. */
static void
every_pair_of_host_and_address_gets_its_turn(void **state)
{
    (void)state;
    for (size_t n_hosts = 1; n_hosts <= FACTS_HOSTS_MAX; n_hosts++) {
        for (size_t n_usable = 1; n_usable <= n_hosts; n_usable++) {
            for (size_t n = 1; n <= 9; n++) {
                bool first[FACTS_HOSTS_MAX][9] = {{false}};
                size_t n_first = 0, turns = (n_hosts + FACTS_TRY_HOSTS - 1) / FACTS_TRY_HOSTS * n;
                for (unsigned t = 0; t < turns; t++) {
                    size_t host = facts_first_host(t, n_hosts, n_usable);
                    size_t address = facts_first_address(t, n_hosts, n);
                    assert_true(host < n_usable && address < n);
                    for (size_t i = 0; i < FACTS_TRY_HOSTS && i < n_usable; i++)
                        first[(host + i) % n_usable][address] = true;
                }
                for (size_t h = 0; h < n_usable; h++)
                    for (size_t a = 0; a < n; a++)
                        n_first += first[h][a];
                if (n_first != n_usable * n)
                    fail_msg("%zu hosts, %zu of them with %zu addresses", n_hosts, n_usable, n);
            }
        }
    }
}

static void
what_is_cancelled_never_answers(void **state)
{
    (void)state;
    configure("hops: {us: {address: '198.51.100.1:25'}}\n" DIRECT);
    memset(&got, 0, sizeof(got));
    struct facts_query *queries[] = {
        facts_site_start(r.facts, "one.test", on_site, &got),
        facts_direct_start(r.facts, "one.test", on_endpoints, &got),
        facts_direct_start(r.facts, "[198.51.100.9]", on_endpoints, &got),
        facts_hop_start(r.facts, &r.config->hops[0], 0, on_endpoints, &got),
    };
    for (size_t i = N_ELEMENTS(queries); i-- > 0;)
        facts_cancel(queries[i]);
    facts_cancel(NULL);
    for (int i = 0; i < 50; i++)
        loop_run_once(r.loop, 1);
    assert_false(got.answered);
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
    const struct CMUnitTest tests[] = {
        T(the_same_hosts_are_the_same_site),
        T(without_mx_the_domain_is_its_own_host),
        T(what_dns_says_no_to_and_what_it_does_not_say),
        T(hosts_are_tried_by_preference_and_are_bounded),
        T(we_are_no_mx_of_others),
        T(addresses_that_are_not_of_the_internet_hide_no_others),
        T(an_address_in_brackets_needs_no_dns),
        T(a_hop_is_tried_on_every_port_the_last_good_one_first),
        T(each_address_of_a_host_gets_its_turn),
        T(each_host_gets_its_turn),
        T(every_pair_of_host_and_address_gets_its_turn),
        T(what_is_cancelled_never_answers),
    };
    RUN_TESTS(tests);
}
