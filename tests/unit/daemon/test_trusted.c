/* What the names of trusted_clients stand for, hour by hour: a name server on loopback answers from
 * a table, the clock is stepped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "relayd/facts.h"
#include "relayd/net/dns.h"
#include "relayd/ops/log.h"
#include "relayd/trusted.h"
#include "tests/unit/net/dns_message.h"
#include "tests/unit/policy/config_text.h"

#define OFFICE "office.test"
#define T0 ((msec_t)1790000000000)
#define OK_OR_DIE(call)               \
    do {                              \
        struct err err;               \
        if ((call) != ERR_OK)         \
            fail_msg("%s", err.text); \
    } while (0)

static struct {
    struct loop *loop;
    struct clock *clock;
    struct log *log;
    char log_file[40];
    struct dns *dns;
    struct facts *facts;
    struct trusted *trusted;
    struct config *config, *old_config;
    int fd;
    struct event *event;
    /* What the name server says of office.test; every other name is NXDOMAIN. */
    int rcode, rcode_v6; /* -1: no answer at all */
    uint32_t ttl_s;
    const char *v4[40];
    const char *v6;
    int asked; /* for A */
} r;

/* ---- the name server ---- */

static void
answer_office(struct dns_message *m, uint16_t id, uint16_t type)
{
    int rcode = type == DNS_A ? r.rcode : r.rcode_v6;
    struct ip ip;
    bool any = false;

    put_header(m, id, (unsigned)rcode, OFFICE, type);
    for (size_t i = 0; rcode == 0 && type == DNS_A && r.v4[i] != NULL; i++) {
        assert_true(ip_parse(span_str(r.v4[i]), &ip));
        put_a(m, OFFICE, r.ttl_s,
              (uint32_t)ip.bytes[0] << 24 | (uint32_t)ip.bytes[1] << 16 |
                  (uint32_t)ip.bytes[2] << 8 | ip.bytes[3]);
        any = true;
    }
    if (rcode == 0 && type == DNS_AAAA && r.v6 != NULL) {
        assert_true(ip_parse(span_str(r.v6), &ip));
        size_t at = begin_record(m, 0, OFFICE, DNS_AAAA, r.ttl_s);
        put_bytes(m, ip.bytes, 16);
        end_record(m, at);
        any = true;
    }
    if (!any && rcode != 2)
        put_soa(m, "test", r.ttl_s, r.ttl_s);
}

static void
on_question(evutil_socket_t fd, short what, void *arg)
{
    static struct dns_message m;
    uint8_t buf[600];
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    (void)what;
    (void)arg;
    while (recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len) > 16) {
        size_t at = 12;
        while (buf[at] != 0)
            at += 1u + buf[at];
        uint16_t id = (uint16_t)(buf[0] << 8 | buf[1]), type = buf[at + 2];
        bool office = at == 12 + sizeof(OFFICE) && memcmp(buf + 13, "office", 6) == 0;
        r.asked += office && type == DNS_A;
        if (office && (type == DNS_A ? r.rcode : r.rcode_v6) < 0)
            continue;
        if (office) {
            answer_office(&m, id, type);
        } else {
            put_header(&m, id, 3, "other.test", type);
            put_soa(&m, "test", 60, 60);
        }
        assert_int_equal(sendto(fd, m.p, m.n, 0, (struct sockaddr *)&from, sizeof(from)), m.n);
    }
}

/* ---- the rig ---- */

/* Let what is under way come in, without the clock moving. */
static void
turn(void)
{
    for (int i = 0; i < 20 && (i < 3 || dns_stats(r.dns).in_flight > 0); i++)
        loop_run_once(r.loop, dns_stats(r.dns).in_flight > 0 ? 1 : 0);
}

/* `ms` later, from timer to timer, so that each question can be answered. */
static void
pass(msec_t ms)
{
    msec_t until = clock_now(r.clock) + ms;
    while (clock_now(r.clock) < until) {
        msec_t at = clock_next_at(r.clock);
        at = at < until ? at : until;
        clock_step(r.clock, at > clock_now(r.clock) ? at - clock_now(r.clock) : 0);
        turn();
    }
}

static void
use(const char *entries)
{
    CLEANUP(strbuf_release) struct strbuf yaml = STRBUF_INIT, out = STRBUF_INIT;
    strbuf_printf(&yaml,
                  "node: {name: cn, hostname: cn.example}\n"
                  "listeners: [{address: '203.0.113.9:2525'}]\n"
                  "trusted_clients: [%s]\n"
                  "transport_map: [{default: true, route: direct}]\n",
                  entries);
    const struct text_file files[] = {{.path = "c.yaml", .text = yaml.p}};
    config_free(r.old_config);
    r.old_config = r.config;
    r.config = text_load(files, N_ELEMENTS(files), 0, &out);
    if (r.config == NULL)
        fail_msg("%s", out.p);
    facts_set_config(r.facts, r.config);
    trusted_use(r.trusted, r.dns, r.facts, r.config);
}

static void
says(const char *a, const char *b)
{
    memset(r.v4, 0, sizeof(r.v4));
    r.rcode = r.rcode_v6 = 0;
    r.v4[0] = a;
    r.v4[1] = b;
}

static bool
trusts(const char *address)
{
    struct trust_query q = {.names = trusted_names(r.trusted)};
    struct trust_decision d;
    assert_true(ip_parse(span_str(address), &q.peer));
    return trust_check(r.config, &q, &d);
}

/* How often the log has a line with both. */
static int
logged(const char *event, const char *with)
{
    char line[LOG_LINE_MAX];
    int n = 0;
    FILE *f = fopen(r.log_file, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL)
        n += strstr(line, event) != NULL && strstr(line, with) != NULL;
    fclose(f);
    return n;
}

static void
take_info(void *arg, const struct trusted_info *info)
{
    *(struct trusted_info *)arg = *info;
}

static struct trusted_info
info(void)
{
    struct trusted_info ret = {0};
    trusted_each(r.trusted, take_info, &ret);
    return ret;
}

static int
setup(void **state)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sin);
    struct net_addr addr;

    (void)state;
    memset(&r, 0, sizeof(r));
    r.ttl_s = 60;
    r.loop = loop_new_stepped(T0);
    r.clock = loop_clock(r.loop);
    r.log = log_new(NULL);
    snprintf(r.log_file, sizeof(r.log_file), "/tmp/test-trusted-XXXXXX");
    int fd = mkstemp(r.log_file);
    assert_true(fd >= 0);
    close(fd);
    OK_OR_DIE(log_set_target(r.log, r.log_file, &err));
    r.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(r.fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    assert_int_equal(getsockname(r.fd, (struct sockaddr *)&sin, &len), 0);
    addr.ip = ip_from_sockaddr((struct sockaddr *)&sin, &addr.port);
    r.event = event_new(loop_base(r.loop), r.fd, EV_READ | EV_PERSIST, on_question, NULL);
    event_add(r.event, NULL);
    const struct dns_config dns = {.servers = &addr, .n_servers = 1, .timeout_ms = 50};
    OK_OR_DIE(dns_new(r.loop, &dns, &r.dns, &err));
    r.facts = facts_new(r.dns);
    r.trusted = trusted_new(r.loop, r.log);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    trusted_free(r.trusted);
    facts_free(r.facts);
    dns_free(r.dns);
    event_free(r.event);
    close(r.fd);
    config_free(r.config);
    config_free(r.old_config);
    log_free(r.log);
    unlink(r.log_file);
    loop_free(r.loop);
    return 0;
}

/* ---- tests ---- */

static void
an_address_is_trusted_while_it_is_in_the_answer(void **state)
{
    (void)state;
    says("198.51.100.1", "198.51.100.2");
    r.v6 = "2001:db8::1";
    use("{host: " OFFICE "}");
    assert_false(trusts("198.51.100.1")); /* not before it is known */
    turn();
    assert_true(trusts("198.51.100.1") && trusts("198.51.100.2") && trusts("2001:db8::1"));
    assert_int_equal(info().n_addresses, 3);
    assert_int_equal(
        logged("event=trusted_name ", "added=\"198.51.100.1 198.51.100.2 2001:db8::1\""), 1);
    uint64_t version = trusted_names(r.trusted)->version;
    pass(50 * SECOND);
    assert_int_equal(r.asked, 1); /* while its TTL lasts */
    says("198.51.100.2", "198.51.100.3");
    pass(11 * SECOND);
    assert_int_equal(r.asked, 2);
    assert_false(trusts("198.51.100.1"));
    assert_true(trusts("198.51.100.2") && trusts("198.51.100.3"));
    assert_true(trusted_names(r.trusted)->version != version);
    assert_int_equal(logged("event=trusted_name ", "added=198.51.100.3 removed=198.51.100.1"), 1);
    version = trusted_names(r.trusted)->version;
    pass(5 * MINUTE);
    assert_true(r.asked >= 6);
    assert_true(trusted_names(r.trusted)->version == version); /* nothing has changed */
    assert_int_equal(logged("event=trusted_name ", ""), 2);
}

static void
a_ttl_is_held_to_within_bounds(void **state)
{
    (void)state;
    says("198.51.100.1", NULL);
    r.ttl_s = 0;
    use("{host: " OFFICE "}");
    turn();
    r.asked = 0;
    pass(MINUTE);
    assert_in_range(r.asked, 11, 12);
    r.ttl_s = 86400;
    r.v6 = "2001:db8::1"; /* that there is none would be asked for again after 15 minutes */
    pass(10 * SECOND);
    says("198.51.100.2", NULL);
    r.asked = 0;
    pass(TRUSTED_REFRESH_MAX_MS);
    assert_int_equal(r.asked, 1);
    assert_false(trusts("198.51.100.1"));
    assert_true(trusts("198.51.100.2"));
}

static void
that_there_is_no_such_name_is_an_answer(void **state)
{
    (void)state;
    static const int rcodes[] = {3, 0}; /* NXDOMAIN, NODATA */
    use("{host: " OFFICE "}");
    turn();
    for (size_t i = 0; i < N_ELEMENTS(rcodes); i++) {
        says("198.51.100.1", NULL);
        pass(61 * SECOND);
        assert_true(trusts("198.51.100.1"));
        says(NULL, NULL);
        r.rcode = r.rcode_v6 = rcodes[i];
        pass(61 * SECOND);
        assert_false(trusts("198.51.100.1"));
        assert_int_equal(info().stale_ms, 0);
    }
    assert_int_equal(logged("event=trusted_name ", "removed=198.51.100.1"), 2);
    assert_int_equal(logged("level=alert", ""), 0);
}

static void
a_failure_keeps_the_last_answer_for_stale_max(void **state)
{
    (void)state;
    static const int rcodes[] = {2, -1}; /* SERVFAIL, no answer */
    use("{host: " OFFICE ", stale_max: 10m}");
    turn();
    for (size_t i = 0; i < N_ELEMENTS(rcodes); i++) {
        says("198.51.100.1", NULL);
        pass(6 * MINUTE); /* the longest between two tries */
        assert_true(trusts("198.51.100.1"));
        assert_int_equal(info().stale_ms, 0);
        pass(MINUTE);
        r.rcode = r.rcode_v6 = rcodes[i];
        pass(9 * MINUTE);
        assert_true(trusts("198.51.100.1"));
        assert_true(info().stale_ms > 7 * MINUTE);
        pass(2 * MINUTE);
        assert_false(trusts("198.51.100.1"));
        assert_int_equal(info().n_addresses, 0);
    }
    assert_int_equal(logged("event=trusted_name ", "reason=\"stale_max is over\""), 2);
    assert_true(logged("level=alert", "is kept for stale_max") >= 1);
    assert_true(logged("level=alert", "stale_max is over, nobody") >= 1);
    says("198.51.100.7", NULL);
    pass(TRUSTED_RETRY_MAX_MS);
    assert_true(trusts("198.51.100.7"));
    assert_true(logged("event=trusted_name_resolves", OFFICE) >= 1);
}

static void
failures_are_tried_again_less_and_less_often(void **state)
{
    (void)state;
    says("198.51.100.1", NULL);
    r.rcode = r.rcode_v6 = 2;
    use("{host: " OFFICE "}");
    turn();
    assert_false(trusts("198.51.100.1"));
    assert_int_equal(logged("level=alert", "nobody is trusted by this name"), 1);
    r.asked = 0;
    pass(35 * SECOND);
    int soon = r.asked;
    pass(HOUR);
    int in_an_hour = r.asked - soon;
    assert_true(soon >= 2); /* after 10 s and 20 s more */
    assert_in_range(in_an_hour, 12, 3 * 18);
    says("198.51.100.1", NULL);
    pass(TRUSTED_RETRY_MAX_MS);
    assert_true(trusts("198.51.100.1"));
}

static void
one_family_that_fails_leaves_the_other_alone(void **state)
{
    (void)state;
    says("198.51.100.1", NULL);
    r.v6 = "2001:db8::1";
    use("{host: " OFFICE ", stale_max: 5m}");
    turn();
    says("198.51.100.2", NULL);
    r.rcode_v6 = 2;
    pass(2 * MINUTE);
    assert_true(trusts("198.51.100.2") && trusts("2001:db8::1"));
    assert_false(trusts("198.51.100.1"));
    pass(5 * MINUTE);
    assert_true(trusts("198.51.100.2"));
    assert_false(trusts("2001:db8::1"));
    says("198.51.100.3", NULL);
    r.rcode_v6 = 2;
    pass(MINUTE + TRUSTED_RETRY_MIN_MS);
    assert_true(trusts("198.51.100.3"));
    assert_false(trusts("198.51.100.2"));
}

static void
addresses_that_nobody_comes_from_are_refused_one_by_one(void **state)
{
    (void)state;
    static const char *const refused[] = {"127.0.0.5", "10.1.2.3",   "169.254.1.1", "0.0.0.0",
                                          "224.0.0.1", "203.0.113.9" /* our listener */};
    for (size_t i = 0; i < N_ELEMENTS(refused); i++)
        r.v4[i] = refused[i];
    r.v4[N_ELEMENTS(refused)] = "198.51.100.1";
    r.v6 = "::1";
    use("{host: " OFFICE "}");
    turn();
    assert_true(trusts("198.51.100.1"));
    assert_int_equal(info().n_addresses, 1);
    for (size_t i = 0; i < N_ELEMENTS(refused); i++) {
        assert_false(trusts(refused[i]));
        assert_int_equal(logged("event=trusted_name_refused", refused[i]), 1);
    }
    assert_int_equal(logged("event=trusted_name_refused", "reason=\"our own\""), 1);
    pass(10 * MINUTE); /* told once, not at each look */
    assert_int_equal(logged("event=trusted_name_refused", ""), N_ELEMENTS(refused) + 1);
    use("{host: " OFFICE ", allow_private: true}");
    turn();
    assert_true(trusts("127.0.0.5") && trusts("10.1.2.3") && trusts("::1"));
    assert_false(trusts("0.0.0.0") || trusts("224.0.0.1") || trusts("203.0.113.9"));
    use("{host: " OFFICE "}");
    assert_false(trusts("127.0.0.5") || trusts("10.1.2.3") || trusts("::1")); /* at once */
    assert_true(trusts("198.51.100.1"));
}

static void
a_crowd_is_refused_whole(void **state)
{
    (void)state;
    static char text[40][20];
    says("198.51.100.1", NULL);
    use("{host: " OFFICE ", stale_max: 10m}");
    turn();
    for (size_t i = 0; i < TRUST_ADDRESSES_MAX; i++) {
        snprintf(text[i], sizeof(text[i]), "198.51.100.%zu", 100 + i);
        r.v4[i] = text[i];
    }
    pass(61 * SECOND);
    assert_int_equal(info().n_addresses, TRUST_ADDRESSES_MAX);
    r.v6 = "2001:db8::1"; /* one more, though of the other family */
    r.v4[0] = "198.51.100.200";
    pass(61 * SECOND);
    assert_int_equal(info().n_addresses, TRUST_ADDRESSES_MAX);
    assert_true(trusts("198.51.100.100"));
    assert_false(trusts("198.51.100.200") || trusts("2001:db8::1"));
    assert_int_equal(logged("level=alert", "too many addresses"), 1);
    pass(10 * MINUTE);
    assert_int_equal(info().n_addresses, 0); /* as with any failure */
    r.v6 = NULL;
    pass(TRUSTED_RETRY_MAX_MS);
    assert_true(trusts("198.51.100.200"));
}

static void
a_reload_keeps_what_is_known_of_names_that_stay(void **state)
{
    (void)state;
    says("198.51.100.1", NULL);
    use("{host: gone.test}, {host: " OFFICE "}, {host: " OFFICE
        ", require: []}, {host: lost.test}");
    turn();
    assert_int_equal(trusted_names(r.trusted)->n, 3);
    assert_true(trusts("198.51.100.1"));
    r.rcode = r.rcode_v6 = -1;
    use("{host: " OFFICE "}, {host: new.test}");
    assert_true(trusts("198.51.100.1"));
    turn();
    assert_int_equal(trusted_names(r.trusted)->n, 2);
    assert_true(trusts("198.51.100.1"));
    use("{cidr: 127.0.0.0/8}"); /* with a question under way */
    assert_int_equal(trusted_names(r.trusted)->n, 0);
    assert_false(trusts("198.51.100.1"));
    assert_int_equal(logged("event=trusted_name ", "no longer in trusted_clients"), 1);
    pass(MINUTE);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(an_address_is_trusted_while_it_is_in_the_answer),
        TEST(a_ttl_is_held_to_within_bounds),
        TEST(that_there_is_no_such_name_is_an_answer),
        TEST(a_failure_keeps_the_last_answer_for_stale_max),
        TEST(failures_are_tried_again_less_and_less_often),
        TEST(one_family_that_fails_leaves_the_other_alone),
        TEST(addresses_that_nobody_comes_from_are_refused_one_by_one),
        TEST(a_crowd_is_refused_whole),
        TEST(a_reload_keeps_what_is_known_of_names_that_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
