/*
 * Addresses, blocks and address:port. What is taken the C library takes too, and it means the same;
 * what is written is taken again.
 */
#include "policy/base/ip.h"
#include "tests/fuzz/check.h"

#include <arpa/inet.h>

static void
check_address(struct span text)
{
    struct ip ip = {.family = 0}, again;
    char buf[IP_TEXT_MAX], plain[64];
    unsigned char raw[16];
    bool taken = ip_parse(text, &ip);

    if (text.n >= sizeof plain || memchr(text.p, '\0', text.n) != NULL) {
        CHECK(!taken);
        return;
    }
    memcpy(plain, text.p, text.n);
    plain[text.n] = '\0';
    if (!taken) {
        CHECK(ip.family == 0);
        CHECK(inet_pton(AF_INET, plain, raw) != 1 && inet_pton(AF_INET6, plain, raw) != 1);
        return;
    }
    if (inet_pton(AF_INET, plain, raw) == 1) {
        CHECK(ip.family == 4 && memcmp(raw, ip.bytes, 4) == 0);
    } else {
        static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
        CHECK(inet_pton(AF_INET6, plain, raw) == 1);
        bool v4 = memcmp(raw, mapped, 12) == 0;
        CHECK(ip.family == (v4 ? 4 : 6) && memcmp(v4 ? raw + 12 : raw, ip.bytes, v4 ? 4 : 16) == 0);
    }
    CHECK(ip_parse(span_str(ip_format(&ip, buf)), &again) && ip_eq(&ip, &again));
    CHECK(ip_class_name(&ip)[0] != '\0');
}

static void
check_block(struct span text)
{
    struct cidr c, again;
    char buf[CIDR_TEXT_MAX];
    struct err err = {.text = ""};

    if (cidr_parse(text, &c, &err) != ERR_OK) {
        CHECK(err.text[0] != '\0');
        return;
    }
    CHECK(c.bits <= (c.ip.family == 4 ? 32 : 128) && cidr_has(&c, &c.ip));
    struct ip masked = ip_prefix(&c.ip, c.bits);
    CHECK(ip_eq(&masked, &c.ip));
    CHECK(cidr_parse(span_str(cidr_format(&c, buf)), &again, NULL) == ERR_OK &&
          ip_eq(&again.ip, &c.ip) && again.bits == c.bits);
}

static void
check_port(struct span text, uint16_t otherwise)
{
    struct ip ip, again;
    uint16_t port, port_again;
    char buf[IP_PORT_TEXT_MAX];

    if (ip_port_parse(text, otherwise, &ip, &port, NULL) != ERR_OK)
        return;
    CHECK(port > 0);
    CHECK(ip_port_parse(span_str(ip_port_format(&ip, port, buf)), 0, &again, &port_again, NULL) ==
          ERR_OK);
    CHECK(ip_eq(&ip, &again) && port == port_again);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    struct span text = span_of(copy, n);

    check_address(text);
    check_block(text);
    check_port(text, 0);
    check_port(text, 25);
    return 0;
}
