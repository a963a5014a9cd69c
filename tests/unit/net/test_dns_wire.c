/* What is made of an answer's bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "dns_message.h"
#include "policy/base/mem.h"
#include "relayd/net/dns_resolvconf.h"
#include "relayd/net/dns_wire.h"

static struct dns_message m;

/* Walk over `m`, expecting `walk`; the caller frees what is found. */
static struct dns_found *
walk_over(const char *name, uint16_t type, enum dns_walk walk)
{
    struct dns_found *found = NULL;
    int rcode = -1;
    /* A copy of exact size lets the sanitizer see a read behind the end. */
    char *exact = xmalloc(m.n);
    memcpy(exact, m.p, m.n);
    assert_int_equal(dns_walk(span_of(exact, m.n), name, type, &found, &rcode), walk);
    free(exact);
    return found;
}

static void
mx_records_come_with_preference_host_and_least_ttl(void **state)
{
    (void)state;
    put_header(&m, 1, 0x20, "example.test", DNS_MX);
    put_mx(&m, "example.test", 300, 20, "MX2.example.test");
    put_mx(&m, "Example.TEST", 60, 10, "mx1.example.test");
    put_mx(&m, "other.test", 1, 0, "evil.test"); /* not what was asked for */
    struct dns_found *f = walk_over("example.test", DNS_MX, DNS_WALK_ANSWER);
    assert_int_equal(f->status, DNS_OK);
    assert_int_equal(f->n_records, 2);
    assert_int_equal(f->records[0].preference, 20);
    assert_string_equal(f->records[0].host, "mx2.example.test");
    assert_true(f->records[0].host_ok);
    assert_int_equal(f->records[1].preference, 10);
    assert_int_equal(f->ttl_s, 60);
    assert_true(f->ad);
    assert_false(f->null_mx);
    free(f);
}

static void
null_mx_is_one_record_naming_the_root(void **state)
{
    (void)state;
    put_header(&m, 1, 0, "n.test", DNS_MX);
    put_mx(&m, "n.test", 60, 0, "");
    struct dns_found *f = walk_over("n.test", DNS_MX, DNS_WALK_ANSWER);
    assert_true(f->null_mx);
    assert_int_equal(f->n_records, 1);
    assert_string_equal(f->records[0].host, "");
    assert_false(f->records[0].host_ok);
    free(f);
    put_header(&m, 1, 0, "n.test", DNS_MX);
    put_mx(&m, "n.test", 60, 0, "");
    put_mx(&m, "n.test", 60, 10, "mx.n.test");
    f = walk_over("n.test", DNS_MX, DNS_WALK_ANSWER);
    assert_false(f->null_mx);
    free(f);
}

static void
hosts_that_are_no_host_names_are_marked(void **state)
{
    (void)state;
    static const char *const bad[] = {"sp ace.test", "se;mi.test", "10.0.0.1", "-dash.test"};
    for (size_t i = 0; i < N_ELEMENTS(bad); i++) {
        put_header(&m, 1, 0, "h.test", DNS_MX);
        put_mx(&m, "h.test", 60, 0, bad[i]);
        struct dns_found *f = walk_over("h.test", DNS_MX, DNS_WALK_ANSWER);
        assert_int_equal(f->n_records, 1);
        assert_false(f->records[0].host_ok);
        free(f);
    }
    put_header(&m, 1, 0, "h.test", DNS_MX);
    put_mx(&m, "h.test", 60, 0, "under_score.test");
    struct dns_found *f = walk_over("h.test", DNS_MX, DNS_WALK_ANSWER);
    assert_true(f->records[0].host_ok);
    free(f);
    /* Octets that would forge a dot or end the text are escaped. */
    put_header(&m, 1, 0, "h.test", DNS_MX);
    size_t at = begin_record(&m, 0, "h.test", DNS_MX, 60);
    put_u16(&m, 1);
    put_bytes(&m, "\4a.b\0\4test\0", 11);
    end_record(&m, at);
    f = walk_over("h.test", DNS_MX, DNS_WALK_ANSWER);
    assert_string_equal(f->records[0].host, "a\\046b\\000.test");
    assert_false(f->records[0].host_ok);
    free(f);
}

static void
addresses_are_read_and_their_length_checked(void **state)
{
    (void)state;
    char text[IP_TEXT_MAX];
    put_header(&m, 1, 0, "a.test", DNS_A);
    put_a(&m, "a.test", 60, 0xc0000201);
    struct dns_found *f = walk_over("a.test", DNS_A, DNS_WALK_ANSWER);
    assert_string_equal(ip_format(&f->records[0].ip, text), "192.0.2.1");
    free(f);
    put_header(&m, 1, 0, "a.test", DNS_AAAA);
    size_t at = begin_record(&m, 0, "a.test", DNS_AAAA, 60);
    put_bytes(&m, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    end_record(&m, at);
    f = walk_over("a.test", DNS_AAAA, DNS_WALK_ANSWER);
    assert_string_equal(ip_format(&f->records[0].ip, text), "2001:db8::1");
    free(f);
    put_header(&m, 1, 0, "a.test", DNS_A);
    at = begin_record(&m, 0, "a.test", DNS_A, 60);
    put_bytes(&m, "\1\2\3", 3);
    end_record(&m, at);
    walk_over("a.test", DNS_A, DNS_WALK_BROKEN);
}

static void
text_strings_are_joined(void **state)
{
    (void)state;
    put_header(&m, 1, 0, "t.test", DNS_TXT);
    size_t at = begin_record(&m, 0, "t.test", DNS_TXT, 60);
    put_bytes(&m, "\6v=spf1\5 -all", 13);
    end_record(&m, at);
    struct dns_found *f = walk_over("t.test", DNS_TXT, DNS_WALK_ANSWER);
    assert_true(span_eq(f->records[0].data, SPAN("v=spf1 -all")));
    free(f);
    put_header(&m, 1, 0, "t.test", DNS_TXT);
    at = begin_record(&m, 0, "t.test", DNS_TXT, 60);
    put_bytes(&m, "\7v=spf1", 7); /* a string longer than the record */
    end_record(&m, at);
    walk_over("t.test", DNS_TXT, DNS_WALK_BROKEN);
}

static void
tlsa_data_comes_as_it_is(void **state)
{
    (void)state;
    put_header(&m, 1, 0, "_25._tcp.mx.test", DNS_TLSA);
    size_t at = begin_record(&m, 0, "_25._tcp.mx.test", DNS_TLSA, 60);
    put_bytes(&m, "\3\1\1abc", 6);
    end_record(&m, at);
    struct dns_found *f = walk_over("_25._tcp.mx.test", DNS_TLSA, DNS_WALK_ANSWER);
    assert_true(span_eq(f->records[0].data, span_of("\3\1\1abc", 6)));
    free(f);
}

static void
nxdomain_nodata_and_failures_are_told_apart(void **state)
{
    (void)state;
    put_header(&m, 1, 3, "x.test", DNS_MX);
    put_soa(&m, "test", 100, 40);
    struct dns_found *f = walk_over("x.test", DNS_MX, DNS_WALK_ANSWER);
    assert_int_equal(f->status, DNS_NXDOMAIN);
    assert_int_equal(f->ttl_s, 40);
    free(f);
    put_header(&m, 1, 0, "x.test", DNS_MX);
    put_soa(&m, "test", 5000, 9000);
    f = walk_over("x.test", DNS_MX, DNS_WALK_ANSWER);
    assert_int_equal(f->status, DNS_NODATA);
    assert_int_equal(f->ttl_s, DNS_NEGATIVE_MAX_S);
    free(f);
    put_header(&m, 1, 0, "x.test", DNS_MX);
    f = walk_over("x.test", DNS_MX, DNS_WALK_ANSWER);
    assert_int_equal(f->ttl_s, DNS_NEGATIVE_DEFAULT_S);
    free(f);
    put_header(&m, 1, 2, "x.test", DNS_MX);
    walk_over("x.test", DNS_MX, DNS_WALK_FAILED);
    put_header(&m, 1, 5, "x.test", DNS_MX);
    walk_over("x.test", DNS_MX, DNS_WALK_FAILED);
    put_header(&m, 1, 1, "x.test", DNS_MX);
    walk_over("x.test", DNS_MX, DNS_WALK_FORMERR);
    size_t at;
    /* A referral is no proof, but only where nobody was asked for us. */
    for (unsigned flags = 0; flags < 4; flags++) {
        put_header(&m, 1, 0, "x.test", DNS_MX);
        m.p[2] = (uint8_t)((m.p[2] & ~4u) | (flags & 1 ? 4 : 0));
        m.p[3] = (uint8_t)((m.p[3] & ~0x80u) | (flags & 2 ? 0x80 : 0));
        at = begin_record(&m, 1, "test", 2, 100);
        put_name(&m, "ns.test");
        end_record(&m, at);
        f = walk_over("x.test", DNS_MX, flags == 0 ? DNS_WALK_REFERRAL : DNS_WALK_ANSWER);
        assert_true(f == NULL || f->status == DNS_NODATA);
        free(f);
    }
    /* BADVERS has its upper bits in the OPT: by the header alone it would be NODATA. */
    put_header(&m, 1, 0, "x.test", DNS_MX);
    at = begin_record(&m, 2, "", 41, 0x01000000);
    end_record(&m, at);
    walk_over("x.test", DNS_MX, DNS_WALK_FAILED);
}

static void
cname_chains_are_followed_within_bounds(void **state)
{
    (void)state;
    char owner[32], target[32];
    put_header(&m, 1, 0, "c0.test", DNS_MX);
    for (int i = 7; i >= 0; i--) { /* in the wrong order */
        snprintf(owner, sizeof(owner), "c%d.test", i);
        snprintf(target, sizeof(target), "c%d.test", i + 1);
        put_cname(&m, owner, i == 4 ? 33 : 300, target);
    }
    put_mx(&m, "c8.test", 300, 10, "mx.test");
    struct dns_found *f = walk_over("c0.test", DNS_MX, DNS_WALK_ANSWER);
    assert_int_equal(f->n_records, 1);
    assert_string_equal(f->name, "c8.test");
    assert_int_equal(f->n_cnames, 8);
    assert_int_equal(f->ttl_s, 33);
    free(f);

    put_header(&m, 1, 0, "a.test", DNS_A);
    put_cname(&m, "a.test", 60, "b.test");
    put_cname(&m, "b.test", 60, "a.test");
    walk_over("a.test", DNS_A, DNS_WALK_LOOP);

    put_header(&m, 1, 0, "a.test", DNS_A);
    put_cname(&m, "a.test", 60, "b.test");
    f = walk_over("a.test", DNS_A, DNS_WALK_CHASE);
    assert_string_equal(f->name, "b.test");
    free(f);

    put_header(&m, 1, 0, "a.test", DNS_A);
    put_cname(&m, "a.test", 60, "b.test");
    put_soa(&m, "test", 60, 60); /* says that b.test has none */
    f = walk_over("a.test", DNS_A, DNS_WALK_ANSWER);
    assert_int_equal(f->status, DNS_NODATA);
    assert_string_equal(f->name, "b.test");
    free(f);

    put_header(&m, 1, 3, "a.test", DNS_A);
    put_cname(&m, "a.test", 60, "b.test");
    f = walk_over("a.test", DNS_A, DNS_WALK_ANSWER);
    assert_int_equal(f->status, DNS_NXDOMAIN);
    free(f);
}

static void
many_records_are_cut_at_the_limit(void **state)
{
    (void)state;
    char host[32];
    put_header(&m, 1, 0, "many.test", DNS_MX);
    for (int i = 0; i < 300; i++) {
        snprintf(host, sizeof(host), "mx%d.many.test", i);
        put_mx(&m, "many.test", 60, (unsigned)i, host);
    }
    struct dns_found *f = walk_over("many.test", DNS_MX, DNS_WALK_ANSWER);
    assert_int_equal(f->n_records, DNS_RECORDS_MAX);
    assert_true(f->truncated);
    assert_string_equal(f->records[255].host, "mx255.many.test");
    free(f);
}

static void
of_too_many_mx_the_best_are_kept(void **state)
{
    (void)state;
    char host[32];
    unsigned seen = 0;
    put_header(&m, 1, 0, "many.test", DNS_MX);
    for (int i = 300; i-- > 0;) {
        snprintf(host, sizeof(host), "mx%d.many.test", i);
        put_mx(&m, "many.test", 60, (unsigned)i, host);
    }
    struct dns_found *f = walk_over("many.test", DNS_MX, DNS_WALK_ANSWER);
    assert_int_equal(f->n_records, DNS_RECORDS_MAX);
    assert_true(f->truncated);
    for (size_t i = 0; i < f->n_records; i++) {
        snprintf(host, sizeof(host), "mx%u.many.test", f->records[i].preference);
        assert_string_equal(f->records[i].host, host);
        assert_in_range(f->records[i].preference, 0, DNS_RECORDS_MAX - 1);
        seen += f->records[i].preference;
    }
    assert_int_equal(seen, DNS_RECORDS_MAX * (DNS_RECORDS_MAX - 1) / 2);
    free(f);
}

static void
compressed_names_may_only_lead_backwards(void **state)
{
    (void)state;
    /* The owner points to the question's name; the MX host ends with a pointer to its parent. */
    put_header(&m, 1, 0, "z.test", DNS_MX);
    count_one(&m, 0);
    put_u16(&m, 0xc00c);
    put_u16(&m, DNS_MX);
    put_u16(&m, 1);
    put_u32(&m, 60);
    put_u16(&m, 2 + 3 + 2);
    put_u16(&m, 10);
    put_bytes(&m, "\2mx\xc0\x0c", 5);
    struct dns_found *f = walk_over("z.test", DNS_MX, DNS_WALK_ANSWER);
    assert_string_equal(f->records[0].host, "mx.z.test");
    free(f);
    m.p[m.n - 1] = (uint8_t)(m.n - 2); /* to itself */
    walk_over("z.test", DNS_MX, DNS_WALK_BROKEN);
    m.p[m.n - 1] = (uint8_t)(m.n - 5); /* to its own label: a loop */
    walk_over("z.test", DNS_MX, DNS_WALK_BROKEN);
    m.p[m.n - 2] = 0xff; /* far behind the end */
    walk_over("z.test", DNS_MX, DNS_WALK_BROKEN);
    m.p[m.n - 2] = 0xc0;
    m.p[m.n - 1] = 2; /* into the header */
    walk_over("z.test", DNS_MX, DNS_WALK_BROKEN);
}

static void
every_cut_of_an_answer_is_refused_or_harmless(void **state)
{
    (void)state;
    put_header(&m, 1, 0, "cut.test", DNS_MX);
    put_cname(&m, "cut.test", 60, "cut2.test");
    put_mx(&m, "cut2.test", 60, 1, "mx.cut.test");
    put_soa(&m, "test", 60, 60);
    size_t whole = m.n;
    for (size_t n = 0; n < whole; n++) {
        m.n = n;
        assert_null(walk_over("cut.test", DNS_MX, DNS_WALK_BROKEN));
    }
}

static void
an_answer_to_another_question_is_refused(void **state)
{
    (void)state;
    put_header(&m, 1, 0, "a.test", DNS_MX);
    put_mx(&m, "a.test", 60, 1, "mx.test");
    walk_over("b.test", DNS_MX, DNS_WALK_BROKEN);
    walk_over("a.test", DNS_TXT, DNS_WALK_BROKEN);
    m.p[2] &= 0x7f; /* a question, no answer */
    walk_over("a.test", DNS_MX, DNS_WALK_BROKEN);
    put_header(&m, 1, 0x0200, "a.test", DNS_MX); /* TC */
    walk_over("a.test", DNS_MX, DNS_WALK_BROKEN);
}

static void
questions_are_written_and_names_checked(void **state)
{
    (void)state;
    char name[DNS_NAME_BYTES];
    uint8_t q[DNS_QUESTION_BYTES];
    static const uint8_t expected[] = {0x12, 0x34, 1,  0x20, 0,    1,   0,   0, 0, 0,  0, 1,
                                       1,    'a',  4,  't',  'e',  's', 't', 0, 0, 15, 0, 1,
                                       0,    0,    41, 4,    0xd0, 0,   0,   0, 0, 0,  0};
    assert_int_equal(dns_question(q, 0x1234, "a.test", DNS_MX, true), sizeof(expected));
    assert_memory_equal(q, expected, sizeof(expected));
    assert_int_equal(dns_question(q, 0x1234, "a.test", DNS_MX, false), sizeof(expected) - 11);
    assert_int_equal(q[11], 0);

    assert_true(dns_name_canonical("A.Test.", name));
    assert_string_equal(name, "a.test");
    char longest[300];
    memset(longest, 'a', sizeof(longest));
    longest[63] = longest[127] = longest[191] = '.';
    longest[253] = '\0';
    assert_true(dns_name_canonical(longest, name));
    assert_in_range(dns_question(q, 1, name, DNS_MX, true), 1, DNS_QUESTION_BYTES);
    longest[253] = 'a';
    longest[254] = '\0';
    assert_false(dns_name_canonical(longest, name));
    static const char *const bad[] = {
        "",
        ".",
        "a..b",
        ".a",
        "a b",
        "a\tb",
        "\xc3\xa9.test",
        "a\\b",
        "a\\25",
        "a\\256.test",
        "a\\2x5.test",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.t"};
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        assert_false(dns_name_canonical(bad[i], name));
}

/* A name may hold any octet (RFC 2181 section 11); as text they are escaped, in one way only. */
static void
odd_octets_are_asked_for(void **state)
{
    static const uint8_t expected[] = {5, 'a', ' ', '\\', 0xff, '.', 4, 't', 'e', 's', 't', 0};
    char name[DNS_NAME_BYTES], again[DNS_NAME_BYTES];
    uint8_t q[DNS_QUESTION_BYTES];

    (void)state;
    assert_true(dns_name_canonical("\\065\\032\\092\\255\\046.test", name));
    assert_string_equal(name, "a\\032\\092\\255\\046.test");
    assert_true(dns_name_canonical(name, again));
    assert_string_equal(again, name);
    dns_question(q, 1, name, DNS_A, false);
    assert_memory_equal(q + 12, expected, sizeof(expected));
    put_header(&m, 1, 0, "x", DNS_A); /* the server repeats the question as it came */
    m.n = 12;
    put_bytes(&m, q + 12, sizeof(expected) + 4);
    free(walk_over(name, DNS_A, DNS_WALK_ANSWER));

    CLEANUP(strbuf_release) struct strbuf longest = STRBUF_INIT;
    for (size_t i = 0; i < 253; i++)
        strbuf_add_str(&longest, i % 64 == 63 ? "." : "\\007");
    strbuf_add_byte(&longest, '\0');
    assert_true(dns_name_canonical(longest.p, name));
    assert_in_range(dns_question(q, 1, name, DNS_A, true), 253, DNS_QUESTION_BYTES);
    longest.p[longest.n - 1] = 'x';
    strbuf_add_byte(&longest, '\0');
    assert_false(dns_name_canonical(longest.p, name));
}

static void
resolv_conf_is_read_for_its_name_servers(void **state)
{
    (void)state;
    struct net_addr servers[DNS_SERVERS_MAX];
    char text[NET_ADDR_TEXT_BYTES];
    assert_int_equal(
        dns_resolvconf_parse(SPAN("# nameserver 1.1.1.1\nsearch a b\nnameserver 192.0.2.1\r\n"
                                  "nameserver\t2001:db8::53 # comment\nnameservers 9.9.9.9\n"
                                  "nameserver fe80::1%eth0\nnameserver nonsense\nnameserver"),
                             servers),
        2);
    assert_string_equal(net_addr_format(&servers[0], text), "192.0.2.1:53");
    assert_string_equal(net_addr_format(&servers[1], text), "[2001:db8::53]:53");
    assert_int_equal(dns_resolvconf_read("/does/not/exist", servers), 1);
    /* there, and cannot be opened: no reason to ask somebody else */
    char loop[] = "/tmp/resolvconf-XXXXXX";
    assert_non_null(mkdtemp(loop));
    assert_int_equal(rmdir(loop), 0);
    assert_int_equal(symlink(loop, loop), 0);
    assert_int_equal(dns_resolvconf_read(loop, servers), 0);
    assert_int_equal(unlink(loop), 0);
    assert_string_equal(net_addr_format(&servers[0], text), "127.0.0.1:53");
}

static void
reverse_names_are_made(void **state)
{
    (void)state;
    char buf[80];
    struct ip ip;
    assert_true(ip_parse(SPAN("192.0.2.5"), &ip));
    assert_string_equal(dns_reverse_name(&ip, buf), "5.2.0.192.in-addr.arpa");
    assert_true(ip_parse(SPAN("2001:db8::567:89ab"), &ip));
    assert_string_equal(dns_reverse_name(&ip, buf),
                        "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa");
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mx_records_come_with_preference_host_and_least_ttl),
        cmocka_unit_test(null_mx_is_one_record_naming_the_root),
        cmocka_unit_test(hosts_that_are_no_host_names_are_marked),
        cmocka_unit_test(addresses_are_read_and_their_length_checked),
        cmocka_unit_test(text_strings_are_joined),
        cmocka_unit_test(tlsa_data_comes_as_it_is),
        cmocka_unit_test(nxdomain_nodata_and_failures_are_told_apart),
        cmocka_unit_test(cname_chains_are_followed_within_bounds),
        cmocka_unit_test(many_records_are_cut_at_the_limit),
        cmocka_unit_test(of_too_many_mx_the_best_are_kept),
        cmocka_unit_test(compressed_names_may_only_lead_backwards),
        cmocka_unit_test(every_cut_of_an_answer_is_refused_or_harmless),
        cmocka_unit_test(an_answer_to_another_question_is_refused),
        cmocka_unit_test(questions_are_written_and_names_checked),
        cmocka_unit_test(odd_octets_are_asked_for),
        cmocka_unit_test(resolv_conf_is_read_for_its_name_servers),
        cmocka_unit_test(reverse_names_are_made),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
