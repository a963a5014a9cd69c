/* Addresses, blocks and their classes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include <cmocka.h>

#include "policy/base/ip.h"
#include "policy/base/mem.h"

static struct ip
ip_of(const char *text)
{
    struct ip ip;
    if (!ip_parse(span_str(text), &ip))
        fail_msg("%s is no address", text);
    return ip;
}

static void
an_address_has_one_canonical_text(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out; /* NULL: refused */
    } cases[] = {
        {"127.0.0.1", "127.0.0.1"},
        {"0.0.0.0", "0.0.0.0"},
        {"255.255.255.255", "255.255.255.255"},
        {"::1", "::1"},
        {"::", "::"},
        {"2001:DB8:0:0::0001", "2001:db8::1"},
        {"::ffff:192.0.2.1", "192.0.2.1"},
        {"::ffff:c000:201", "192.0.2.1"},
        {"::192.0.2.1", "::192.0.2.1"},
        {"", NULL},
        {"127.1", NULL},
        {"010.0.0.1", NULL},
        {"1.2.3.4.5", NULL},
        {"1.2.3.256", NULL},
        {" 1.2.3.4", NULL},
        {"1.2.3.4 ", NULL},
        {"0x7f.0.0.1", NULL},
        {"[::1]", NULL},
        {"fe80::1%eth0", NULL},
        {"1:2:3:4:5:6:7:8:9", NULL},
        {":::", NULL},
        {"localhost", NULL},
        {"1111:1111:1111:1111:1111:1111:111.111.111.1111111", NULL},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct ip ip;
        char buf[IP_TEXT_MAX];
        bool fine = ip_parse(span_str(cases[i].in), &ip);
        if (fine != (cases[i].out != NULL))
            fail_msg("%s: parsed=%d", cases[i].in, fine);
        if (fine)
            assert_string_equal(ip_format(&ip, buf), cases[i].out);
    }
    struct ip ip;
    assert_false(ip_parse(span_of("1.2.3.4\0x", 9), &ip));
}

static void
no_address_prints_nothing(void **state)
{
    (void)state;
    char buf[IP_TEXT_MAX] = "x";
    assert_string_equal(ip_format(&(struct ip){0}, buf), "");
}

static void
a_block_is_parsed_and_printed(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out, *error; /* out NULL: refused, with `error` in the sentence */
    } cases[] = {
        {"127.0.0.0/8", "127.0.0.0/8", NULL},
        {"192.0.2.7", "192.0.2.7/32", NULL},
        {"192.0.2.7/32", "192.0.2.7/32", NULL},
        {"0.0.0.0/0", "0.0.0.0/0", NULL},
        {"::/0", "::/0", NULL},
        {"2001:db8::/32", "2001:db8::/32", NULL},
        {"2001:db8::1", "2001:db8::1/128", NULL},
        {"::ffff:192.0.2.0/120", "192.0.2.0/24", NULL},
        {"::ffff:0:0/96", "0.0.0.0/0", NULL},
        {"192.0.2.7/24", NULL, "expected 192.0.2.0/24"},
        {"2001:db8::1/64", NULL, "expected 2001:db8::/64"},
        {"10.0.0.0/33", NULL, "0 to 32"},
        {"::/129", NULL, "0 to 128"},
        {"10.0.0.0/08", NULL, "0 to 32"},
        {"10.0.0.0/", NULL, "0 to 32"},
        {"10.0.0.0/-1", NULL, "0 to 32"},
        {"10.0.0.0/8/8", NULL, "0 to 32"},
        {"10/8", NULL, "no address block"},
        {"", NULL, "no address block"},
        {"example.com/8", NULL, "no address block"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct cidr c;
        struct err err = {0};
        char buf[CIDR_TEXT_MAX];
        enum err_code code = cidr_parse(span_str(cases[i].in), &c, &err);
        if (cases[i].out != NULL) {
            if (code != ERR_OK)
                fail_msg("%s: %s", cases[i].in, err.text);
            assert_string_equal(cidr_format(&c, buf), cases[i].out);
        } else {
            assert_int_equal(code, ERR_INVAL);
            if (strstr(err.text, cases[i].error) == NULL)
                fail_msg("%s: %s", cases[i].in, err.text);
        }
    }
}

static void
a_block_holds_its_addresses_and_no_others(void **state)
{
    (void)state;
    static const struct {
        const char *block, *address;
        bool inside;
    } cases[] = {
        {"127.0.0.0/8", "127.255.255.255", true},
        {"127.0.0.0/8", "126.255.255.255", false},
        {"127.0.0.0/8", "128.0.0.0", false},
        {"192.0.2.0/25", "192.0.2.127", true},
        {"192.0.2.0/25", "192.0.2.128", false},
        {"192.0.2.8/31", "192.0.2.9", true},
        {"192.0.2.8/31", "192.0.2.10", false},
        {"192.0.2.7", "192.0.2.7", true},
        {"192.0.2.7", "192.0.2.6", false},
        {"0.0.0.0/0", "203.0.113.9", true},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"::/0", "2001:db8::1", true},
        {"::/0", "203.0.113.9", false},
        /* a dual-stack socket's peer is the IPv4 address that it is */
        {"192.0.2.0/24", "::ffff:192.0.2.1", true},
        {"::/0", "::ffff:192.0.2.1", false},
        {"::ffff:192.0.2.0/120", "192.0.2.200", true},
        {"2001:db8::/33", "2001:db8:7fff::1", true},
        {"2001:db8::/33", "2001:db8:8000::1", false},
        {"2001:db8::1", "2001:db8::1", true},
        {"2001:db8::1", "2001:db8::2", false},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct cidr c;
        assert_int_equal(cidr_parse(span_str(cases[i].block), &c, NULL), ERR_OK);
        struct ip ip = ip_of(cases[i].address);
        if (cidr_has(&c, &ip) != cases[i].inside)
            fail_msg("%s in %s", cases[i].address, cases[i].block);
    }
    struct cidr all;
    assert_int_equal(cidr_parse(SPAN("0.0.0.0/0"), &all, NULL), ERR_OK);
    assert_false(cidr_has(&all, &(struct ip){0}));
    assert_false(cidr_has(&(struct cidr){0}, &(struct ip){0}));
}

static void
classes_of_addresses(void **state)
{
    (void)state;
    static const struct {
        const char *address, *name;
    } cases[] = {
        {"0.0.0.0", "unspecified"},
        {"0.1.2.3", "unspecified"},
        {"::", "unspecified"},
        {"127.0.0.1", "loopback"},
        {"127.9.9.9", "loopback"},
        {"::1", "loopback"},
        {"10.0.0.1", "private"},
        {"172.15.0.1", "public"},
        {"172.16.0.1", "private"},
        {"172.31.255.255", "private"},
        {"172.32.0.1", "public"},
        {"192.168.1.1", "private"},
        {"192.169.1.1", "public"},
        {"100.63.0.1", "public"},
        {"100.64.0.1", "private"},
        {"100.127.0.1", "private"},
        {"100.128.0.1", "public"},
        {"fc00::1", "private"},
        {"fdff::1", "private"},
        {"fe00::1", "public"},
        {"169.254.1.1", "link-local"},
        {"fe80::1", "link-local"},
        {"febf::1", "link-local"},
        {"fec0::1", "public"},
        {"224.0.0.1", "multicast"},
        {"239.255.255.255", "multicast"},
        {"240.0.0.1", "reserved"},
        {"255.255.255.255", "multicast"},
        {"ff02::1", "multicast"},
        {"192.0.2.1", "public"},
        {"2001:db8::1", "public"},
        {"8.8.8.8", "public"},
        {"::ffff:127.0.0.1", "loopback"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct ip ip = ip_of(cases[i].address);
        if (strcmp(ip_class_name(&ip), cases[i].name) != 0)
            fail_msg("%s is %s", cases[i].address, ip_class_name(&ip));
        assert_int_equal(ip_is_special(&ip), strcmp(cases[i].name, "public") != 0);
    }
    assert_true(ip_is_special(&(struct ip){0}));
}

static void
an_address_with_a_port(void **state)
{
    (void)state;
    static const struct {
        const char *in;
        uint16_t otherwise;
        const char *out;
    } cases[] = {
        {"127.0.0.1:25", 0, "127.0.0.1:25"},
        {"[::1]:25", 0, "[::1]:25"},
        {"[::]:65535", 0, "[::]:65535"},
        {"127.0.0.1", 53, "127.0.0.1:53"},
        {"::1", 53, "[::1]:53"},
        {"[::1]", 53, "[::1]:53"},
        {"127.0.0.1:5353", 53, "127.0.0.1:5353"},
        {"127.0.0.1", 0, NULL},
        {"::1", 0, NULL},
        {"127.0.0.1:0", 0, NULL},
        {"127.0.0.1:65536", 0, NULL},
        {"127.0.0.1:000025", 0, NULL},
        {"127.0.0.1:", 0, NULL},
        {"127.0.0.1:25x", 0, NULL},
        {":25", 0, NULL},
        {"[::1]25", 0, NULL},
        {"[::1", 0, NULL},
        {"[127.0.0.1]:25", 0, NULL},
        {"[]:25", 0, NULL},
        {"example.com:25", 0, NULL},
        {"", 0, NULL},
        {"", 53, NULL},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct ip ip;
        uint16_t port;
        struct err err;
        char buf[IP_PORT_TEXT_MAX];
        enum err_code code =
            ip_port_parse(span_str(cases[i].in), cases[i].otherwise, &ip, &port, &err);
        if ((code == ERR_OK) != (cases[i].out != NULL))
            fail_msg("\"%s\": %s", cases[i].in, err_code_name(code));
        if (code == ERR_OK)
            assert_string_equal(ip_port_format(&ip, port, buf), cases[i].out);
    }
}

static void
sockaddrs_go_there_and_back(void **state)
{
    (void)state;
    static const char *const addresses[] = {"192.0.2.1", "2001:db8::1", "::", "0.0.0.0"};
    for (size_t i = 0; i < N_ELEMENTS(addresses); i++) {
        struct sockaddr_storage ss;
        struct ip ip = ip_of(addresses[i]);
        unsigned n = ip_to_sockaddr(&ip, 2525, &ss);
        assert_int_equal(n,
                         ip.family == 4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
        uint16_t port;
        struct ip back = ip_from_sockaddr((struct sockaddr *)&ss, &port);
        assert_true(ip_eq(&ip, &back));
        assert_int_equal(port, 2525);
    }
    struct sockaddr_storage ss;
    assert_int_equal(ip_to_sockaddr(&(struct ip){0}, 1, &ss), 0);
    ss.ss_family = AF_UNIX;
    assert_int_equal(ip_from_sockaddr((struct sockaddr *)&ss, NULL).family, 0);
}

static void
a_mapped_sockaddr_is_ipv4(void **state)
{
    (void)state;
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(25)};
    assert_int_equal(inet_pton(AF_INET6, "::ffff:192.0.2.1", &in6.sin6_addr), 1);
    struct ip ip = ip_from_sockaddr((struct sockaddr *)&in6, NULL);
    struct ip same = ip_of("192.0.2.1");
    assert_true(ip_eq(&ip, &same));
    assert_int_equal(ip_cmp(&ip, &same), 0);
}

static void
prefixes_cut_at_every_bit(void **state)
{
    (void)state;
    struct ip ones = ip_of("255.255.255.255");
    for (unsigned bits = 0; bits <= 32; bits++) {
        struct ip cut = ip_prefix(&ones, bits);
        uint32_t word;
        memcpy(&word, cut.bytes, sizeof(word));
        uint32_t expected = bits == 0 ? 0 : ~(uint32_t)0 << (32 - bits);
        assert_int_equal(ntohl(word), expected);
    }
    struct ip v6 = ip_of("2001:db8:1:2:3:4:5:6"), net = ip_of("2001:db8:1:2::");
    struct ip cut = ip_prefix(&v6, 64);
    assert_true(ip_eq(&cut, &net));
    assert_true(ip_cmp(&v6, &net) > 0);
    assert_true(ip_cmp(&ones, &v6) < 0);
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_address_has_one_canonical_text),
        cmocka_unit_test(no_address_prints_nothing),
        cmocka_unit_test(a_block_is_parsed_and_printed),
        cmocka_unit_test(a_block_holds_its_addresses_and_no_others),
        cmocka_unit_test(classes_of_addresses),
        cmocka_unit_test(an_address_with_a_port),
        cmocka_unit_test(sockaddrs_go_there_and_back),
        cmocka_unit_test(a_mapped_sockaddr_is_ipv4),
        cmocka_unit_test(prefixes_cut_at_every_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
