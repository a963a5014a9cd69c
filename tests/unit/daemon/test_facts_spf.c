/* What a sender's SPF record says of our addresses, by a name server on loopback: what is asked,
 * what is kept, and that nobody waits for long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/facts.h"
#include "relayd/net/clock.h"
#include "relayd/net/dns.h"
#include "relayd/net/loop.h"
#include "tests/unit/net/dns_message.h"

#define TTL_S 300
#define NOW 1760000000000
#define SILENT "silent" /* as data: no answer at all */
#define FAILS "fails"   /* SERVFAIL */

struct entry {
    const char *name;
    enum dns_type type;
    const char *data;
};

static struct {
    struct loop *loop;
    struct clock *clock;
    struct dns *dns;
    struct facts *facts;
    int fd;
    struct event *event;
    const struct entry *zone;
    size_t n_zone;
    int n_questions;
    char last_name[300]; /* octets as they came, labels joined by dots */

    bool told;
    size_t n;
    enum spf_result results[FACTS_SPF_ADDRESSES_MAX];
    char why[FACTS_SPF_ADDRESSES_MAX][SPF_WHY_BYTES];
    struct facts_query *query;
} r;

/* ---- the name server ---- */

static void
put_data(struct dns_message *m, const struct entry *e)
{
    uint8_t ip[16];
    size_t at = begin_record(m, 0, e->name, e->type, TTL_S);

    switch (e->type) {
    case DNS_A:
    case DNS_AAAA:
        assert_int_equal(inet_pton(e->type == DNS_A ? AF_INET : AF_INET6, e->data, ip), 1);
        put_bytes(m, ip, e->type == DNS_A ? 4 : 16);
        break;
    case DNS_TXT:
        for (struct span rest = span_str(e->data); rest.n > 0;) { /* in strings of ten octets */
            struct span piece = span_first(rest, 10);
            put_u8(m, (unsigned)piece.n);
            put_bytes(m, piece.p, piece.n);
            rest = span_from(rest, piece.n);
        }
        break;
    case DNS_MX:
        put_u16(m, 10);
        put_name(m, e->data);
        break;
    default:
        put_name(m, e->data);
        break;
    }
    end_record(m, at);
}

static void
answer(const uint8_t *question, const struct sockaddr_in *from)
{
    static struct dns_message m;
    size_t at = 12, out = 0;
    bool found = false;
    char *name = r.last_name;

    for (; question[at] != 0; at += 1u + question[at]) {
        if (out > 0)
            name[out++] = '.';
        memcpy(name + out, question + at + 1, question[at]);
        out += question[at];
    }
    name[out] = '\0';
    unsigned type = (unsigned)(question[at + 1] << 8 | question[at + 2]);
    r.n_questions++;
    put_header(&m, (unsigned)(question[0] << 8 | question[1]), 0, name, type);
    for (size_t i = 0; i < r.n_zone; i++) {
        const struct entry *e = &r.zone[i];
        if (e->type != type || strcmp(e->name, name) != 0)
            continue;
        if (strcmp(e->data, SILENT) == 0)
            return;
        found = true;
        if (strcmp(e->data, FAILS) == 0)
            m.p[3] |= 2;
        else
            put_data(&m, e);
    }
    if (!found)
        put_soa(&m, "test", TTL_S, TTL_S);
    assert_int_equal(sendto(r.fd, m.p, m.n, 0, (const struct sockaddr *)from, sizeof(*from)), m.n);
}

static void
on_question(evutil_socket_t fd, short what, void *arg)
{
    uint8_t buf[600];
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    (void)what;
    (void)arg;
    while (recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len) > 16)
        answer(buf, &from);
}

static int
setup(void **state)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sin);
    struct net_addr server;
    struct err err;

    (void)state;
    memset(&r, 0, sizeof(r));
    r.loop = loop_new_stepped(NOW);
    r.clock = loop_clock(r.loop);
    r.fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(r.fd >= 0);
    int big = 1 << 20; /* DNS_IN_FLIGHT_MAX questions that nobody has read yet */
    setsockopt(r.fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof(big));
    assert_int_equal(bind(r.fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    assert_int_equal(getsockname(r.fd, (struct sockaddr *)&sin, &len), 0);
    server.ip = ip_from_sockaddr((struct sockaddr *)&sin, &server.port);
    r.event = event_new(loop_base(r.loop), r.fd, EV_READ | EV_PERSIST, on_question, NULL);
    event_add(r.event, NULL);
    struct dns_config config = {.servers = &server, .n_servers = 1};
    assert_int_equal(dns_new(r.loop, &config, &r.dns, &err), ERR_OK);
    r.facts = facts_new(r.dns);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    facts_free(r.facts);
    dns_free(r.dns);
    event_free(r.event);
    close(r.fd);
    loop_run_once(r.loop, 0);
    assert_int_equal(clock_n_timers(r.clock), 0);
    loop_free(r.loop);
    return 0;
}

#define ZONE(entries) (r.zone = (entries), r.n_zone = N_ELEMENTS(entries))

/* ---- asking ---- */

static void
on_done(void *arg, const enum spf_result *results)
{
    assert_ptr_equal(arg, &r);
    assert_false(r.told);
    r.told = true;
    memcpy(r.results, results, r.n * sizeof(results[0]));
    for (size_t i = 0; i < r.n; i++)
        snprintf(r.why[i], sizeof(r.why[i]), "%s", facts_spf_why(r.query, i));
}

static size_t
addresses(const char *text, struct ip ips[FACTS_SPF_ADDRESSES_MAX])
{
    size_t n = 0;
    for (struct span rest = span_str(text); rest.n > 0; n++) {
        struct span word = span_cut(&rest, ' ');
        ips[n] = (struct ip){0};
        assert_true(ip_parse(word, &ips[n]) || span_eq(word, SPAN("-")));
    }
    return n;
}

static void
start(const char *sender, const char *ips_text)
{
    struct ip ips[FACTS_SPF_ADDRESSES_MAX];
    r.told = false;
    r.n = addresses(ips_text, ips);
    r.query = facts_spf_start(r.facts, sender, "relay.test", ips, r.n, on_done, &r);
    assert_false(r.told);
}

/* Run the loop until `condition`; the clock stands still. */
#define until(condition)                                  \
    do {                                                  \
        for (int k_ = 0; k_ < 5000 && !(condition); k_++) \
            loop_run_once(r.loop, 1);                     \
        assert_true(condition);                           \
    } while (0)

static void
ask(const char *sender, const char *ips)
{
    start(sender, ips);
    until(r.told);
}

/* Nothing more happens by itself. */
static void
settle(void)
{
    for (int i = 0; i < 20; i++)
        loop_run_once(r.loop, 1);
}

static bool
cached(const char *sender, const char *ips_text, enum spf_result expected)
{
    struct ip ips[FACTS_SPF_ADDRESSES_MAX];
    enum spf_result results[FACTS_SPF_ADDRESSES_MAX];
    size_t n = addresses(ips_text, ips);
    if (!facts_spf_cached(r.facts, sender, "relay.test", ips, n, results))
        return false;
    for (size_t i = 0; i < n; i++)
        assert_int_equal(results[i], expected);
    return true;
}

static const struct entry usual[] = {
    {"one.test", DNS_TXT, "v=spf1 include:net.test mx ptr:in.test ip6:2001:db8::/64 -all"},
    {"one.test", DNS_TXT, "not of interest, and longer than one string of a TXT record may be"},
    {"net.test", DNS_TXT, "v=spf1 a ?all"},
    {"net.test", DNS_A, "192.0.2.1"},
    {"net.test", DNS_AAAA, "2001:db8:1::1"},
    {"one.test", DNS_MX, "mx.one.test"},
    {"mx.one.test", DNS_A, "192.0.2.2"},
    {"3.2.0.192.in-addr.arpa", DNS_PTR, "Host.IN.test"},
    {"host.in.test", DNS_A, "192.0.2.3"},
    {"soft.test", DNS_TXT, "v=spf1 ~all"},
};

static void
each_address_gets_its_result(void **state)
{
    (void)state;
    ZONE(usual);
    ask("me@one.test", "192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 2001:db8::5 2001:db8:1::1 -");
    assert_int_equal(r.results[0], SPF_PASS);
    assert_int_equal(r.results[1], SPF_PASS);
    assert_int_equal(r.results[2], SPF_PASS);
    assert_int_equal(r.results[3], SPF_FAIL);
    assert_int_equal(r.results[4], SPF_PASS);
    assert_int_equal(r.results[5], SPF_PASS);
    assert_int_equal(r.results[6], SPF_NONE);
    assert_string_equal(r.why[0], "include:net.test at one.test (a at net.test)");
    assert_string_equal(r.why[3], "-all at one.test");
    assert_string_equal(r.why[6], "no address");
    /* Two records, A and AAAA of net.test, MX, A and AAAA of the MX, six PTR, A of the host. */
    assert_in_range(r.n_questions, 1, 14);
    ask("me@soft.test", "192.0.2.1");
    assert_int_equal(r.results[0], SPF_SOFTFAIL);
    ask("me@nothing.test", "192.0.2.1");
    assert_int_equal(r.results[0], SPF_NONE);
}

static void
the_null_sender_has_no_domain_to_ask(void **state)
{
    (void)state;
    ZONE(usual);
    assert_true(cached("", "192.0.2.1 2001:db8::1", SPF_NONE));
    ask("", "192.0.2.1 2001:db8::1");
    assert_int_equal(r.results[0], SPF_NONE);
    assert_int_equal(r.results[1], SPF_NONE);
    assert_string_equal(r.why[0], "null sender");
    assert_int_equal(r.n_questions, 0);
}

static void
results_are_kept_as_long_as_their_records_hold(void **state)
{
    (void)state;
    ZONE(usual);
    assert_false(cached("me@one.test", "192.0.2.4", SPF_FAIL));
    ask("me@one.test", "192.0.2.4 192.0.2.5");
    assert_true(cached("me@one.test", "192.0.2.4 192.0.2.5", SPF_FAIL));
    assert_true(cached("other@One.Test", "192.0.2.5 192.0.2.4", SPF_FAIL));
    assert_false(cached("me@one.test", "192.0.2.4 192.0.2.6", SPF_FAIL));
    assert_false(cached("me@two.test", "192.0.2.4", SPF_FAIL));
    assert_true(cached("me@two.test", "-", SPF_NONE));
    clock_step(r.clock, (TTL_S - 1) * SECOND);
    assert_true(cached("me@one.test", "192.0.2.4 192.0.2.5", SPF_FAIL));
    clock_step(r.clock, SECOND);
    assert_false(cached("me@one.test", "192.0.2.4", SPF_FAIL));
    assert_false(cached("me@one.test", "192.0.2.4", SPF_FAIL));
}

static void
what_the_local_part_has_a_say_in_is_not_kept(void **state)
{
    static const struct entry zone[] = {
        {"one.test", DNS_TXT, "v=spf1 ip4:192.0.2.1 exists:%{l}.one.test -all"},
        {"me.one.test", DNS_A, "127.0.0.2"},
        {"two.test", DNS_TXT, "v=spf1 a:%{h} -all"},
        {"relay.test", DNS_A, "192.0.2.1"},
    };
    (void)state;
    ZONE(zone);
    ask("me@one.test", "192.0.2.1 192.0.2.2");
    assert_int_equal(r.results[0], SPF_PASS);
    assert_int_equal(r.results[1], SPF_PASS);
    assert_true(cached("you@one.test", "192.0.2.1", SPF_PASS));
    assert_false(cached("me@one.test", "192.0.2.2", SPF_PASS));
    ask("you@one.test", "192.0.2.2");
    assert_int_equal(r.results[0], SPF_FAIL);
    ask("me@two.test", "192.0.2.1");
    assert_int_equal(r.results[0], SPF_PASS); /* the HELO name is told */
    assert_false(cached("me@two.test", "192.0.2.1", SPF_PASS));
}

static void
odd_local_parts_reach_dns_as_they_are(void **state)
{
    static const struct entry zone[] = {{"one.test", DNS_TXT, "v=spf1 exists:%{l}.one.test -all"},
                                        {"a b\\c.one.test", DNS_A, "127.0.0.2"}};
    (void)state;
    ZONE(zone);
    ask("a b\\c@one.test", "192.0.2.1");
    assert_string_equal(r.last_name, "a b\\c.one.test");
    assert_int_equal(r.results[0], SPF_PASS);
}

static void
dns_in_trouble_is_no_verdict(void **state)
{
    static const struct entry zone[] = {
        {"one.test", DNS_TXT, FAILS},
        {"two.test", DNS_TXT, "v=spf1 ip4:192.0.2.1 mx -all"},
        {"two.test", DNS_MX, FAILS},
    };
    (void)state;
    ZONE(zone);
    ask("me@one.test", "192.0.2.1");
    assert_int_equal(r.results[0], SPF_TEMPERROR);
    ask("me@two.test", "192.0.2.1 192.0.2.2");
    assert_int_equal(r.results[0], SPF_PASS);
    assert_int_equal(r.results[1], SPF_TEMPERROR);
    assert_string_equal(r.why[1], "no answer from DNS about two.test, for mx at two.test");
    /* Kept for a moment, so that a burst of messages does not ask again for each. */
    assert_true(cached("me@one.test", "192.0.2.1", SPF_TEMPERROR));
    clock_step(r.clock, FACTS_SPF_FAILURE_TTL_S * SECOND);
    assert_false(cached("me@one.test", "192.0.2.1", SPF_TEMPERROR));
    assert_true(cached("me@two.test", "192.0.2.1", SPF_PASS));
}

static void
nobody_waits_longer_than_the_bound(void **state)
{
    static const struct entry zone[] = {
        {"one.test", DNS_TXT, "v=spf1 ip4:192.0.2.1 a:far.test -all"},
        {"far.test", DNS_A, SILENT},
    };
    (void)state;
    ZONE(zone);
    start("me@one.test", "192.0.2.1 192.0.2.2");
    until(r.n_questions == 2);
    settle();
    clock_step(r.clock, FACTS_SPF_WAIT_MS - 1);
    settle();
    assert_false(r.told);
    clock_step(r.clock, 1);
    until(r.told);
    assert_int_equal(r.results[0], SPF_PASS);
    assert_int_equal(r.results[1], SPF_TEMPERROR);
    assert_string_equal(r.why[1], "DNS took too long to answer");
    assert_true(cached("me@one.test", "192.0.2.2", SPF_TEMPERROR));
    clock_step(r.clock, FACTS_SPF_FAILURE_TTL_S * SECOND);
    assert_false(cached("me@one.test", "192.0.2.2", SPF_TEMPERROR));
}

static void
a_question_asked_ahead_holds_up_nothing(void **state)
{
    static const struct entry zone[] = {
        {"one.test", DNS_TXT, "v=spf1 include:two.test a:far.test -all"},
        {"two.test", DNS_TXT, "v=spf1 ip4:192.0.2.1 -all"},
        {"far.test", DNS_A, SILENT},
    };
    (void)state;
    ZONE(zone);
    ask("me@one.test", "192.0.2.1"); /* the clock stands still */
    assert_int_equal(r.results[0], SPF_PASS);
    assert_int_equal(r.n_questions, 3);
}

static void
what_is_cancelled_never_answers(void **state)
{
    (void)state;
    ZONE(usual);
    start("me@one.test", "192.0.2.1");
    facts_cancel(r.query);
    settle();
    start("me@one.test", "192.0.2.1 192.0.2.4");
    until(r.n_questions == 1);
    facts_cancel(r.query);
    clock_step(r.clock, FACTS_SPF_WAIT_MS);
    settle();
    assert_false(r.told);
    assert_false(cached("me@one.test", "192.0.2.4", SPF_FAIL));
}

static void
questions_are_limited_whatever_a_record_makes_of_addresses(void **state)
{
    static const struct entry zone[] = {
        {"one.test", DNS_TXT,
         "v=spf1 exists:%{i}.a.test exists:%{i}.b.test exists:%{i}.c.test exists:%{i}.d.test "
         "exists:%{i}.e.test -all"},
    };
    CLEANUP(strbuf_release) struct strbuf ips = STRBUF_INIT;
    size_t n_given_up = 0;

    (void)state;
    ZONE(zone);
    for (int i = 0; i < FACTS_SPF_ADDRESSES_MAX; i++)
        strbuf_printf(&ips, "%s192.0.2.%d", i > 0 ? " " : "", i);
    strbuf_add_byte(&ips, '\0');
    ask("me@one.test", ips.p);
    assert_int_equal(r.n_questions, FACTS_SPF_QUESTIONS_MAX);
    for (size_t i = 0; i < r.n; i++) {
        n_given_up += r.results[i] == SPF_TEMPERROR;
        assert_string_equal(r.why[i], r.results[i] == SPF_TEMPERROR
                                          ? "too many questions to DNS"
                                          : "more than 2 terms find nothing in DNS");
    }
    assert_in_range(n_given_up, 1, FACTS_SPF_ADDRESSES_MAX - 1);
}

static void
results_kept_are_limited(void **state)
{
    CLEANUP(strbuf_release) struct strbuf ips = STRBUF_INIT;
    char sender[32];
    int n_senders = FACTS_SPF_CACHE_MAX / 100;

    (void)state;
    for (int i = 0; i < 100; i++)
        strbuf_printf(&ips, "%s192.0.2.%d", i > 0 ? " " : "", i);
    strbuf_add_byte(&ips, '\0');
    for (int i = 0; i < n_senders; i++) { /* names of one label: decided without DNS */
        snprintf(sender, sizeof(sender), "me@n%d", i);
        ask(sender, ips.p);
    }
    assert_true(cached("me@n0", "192.0.2.0", SPF_NONE)); /* used, so not the oldest any more */
    assert_true(cached("me@n0", "192.0.2.2", SPF_NONE));
    ask("me@more", "192.0.2.0 192.0.2.1");
    assert_true(cached("me@more", "192.0.2.0 192.0.2.1", SPF_NONE));
    assert_true(cached("me@n0", "192.0.2.0", SPF_NONE));
    assert_false(cached("me@n0", "192.0.2.1", SPF_NONE));
    assert_true(cached("me@n0", "192.0.2.2", SPF_NONE));
    assert_false(cached("me@n0", "192.0.2.3", SPF_NONE));
    assert_true(cached("me@n0", "192.0.2.4", SPF_NONE));
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(each_address_gets_its_result),
        T(the_null_sender_has_no_domain_to_ask),
        T(results_are_kept_as_long_as_their_records_hold),
        T(what_the_local_part_has_a_say_in_is_not_kept),
        T(odd_local_parts_reach_dns_as_they_are),
        T(dns_in_trouble_is_no_verdict),
        T(nobody_waits_longer_than_the_bound),
        T(a_question_asked_ahead_holds_up_nothing),
        T(what_is_cancelled_never_answers),
        T(questions_are_limited_whatever_a_record_makes_of_addresses),
        T(results_kept_are_limited),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
