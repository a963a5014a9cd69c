/* inet_pton() and inet_ntop() do the text; what is added is one form per address and no surprises:
 * inet_pton() refuses "127.1" and octal already, the zone "%eth0" is not passed to it. */
#include "policy/base/ip.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool
is_mapped(const uint8_t bytes[16])
{
    return memcmp(bytes, mapped_prefix, sizeof(mapped_prefix)) == 0;
}

static struct ip
from_v6_bytes(const uint8_t bytes[16])
{
    struct ip ip = {0};
    if (is_mapped(bytes)) {
        ip.family = 4;
        memcpy(ip.bytes, bytes + 12, 4);
    } else {
        ip.family = 6;
        memcpy(ip.bytes, bytes, 16);
    }
    return ip;
}

/* Parse without turning mapped addresses into IPv4, for cidr_parse(). */
static bool
parse_raw(struct span text, struct ip *ret)
{
    char buf[IP_TEXT_MAX];
    if (text.n == 0 || text.n >= sizeof(buf) || memchr(text.p, '\0', text.n) != NULL)
        return false;
    memcpy(buf, text.p, text.n);
    buf[text.n] = '\0';
    struct ip ip = {0};
    if (inet_pton(AF_INET, buf, ip.bytes) == 1)
        ip.family = 4;
    else if (inet_pton(AF_INET6, buf, ip.bytes) == 1)
        ip.family = 6;
    else
        return false;
    *ret = ip;
    return true;
}

bool
ip_parse(struct span text, struct ip *ret)
{
    struct ip ip;
    if (!parse_raw(text, &ip))
        return false;
    *ret = ip.family == 6 ? from_v6_bytes(ip.bytes) : ip;
    return true;
}

/* As inet_ntop(), which is a sprintf(); several lines of every message name an address. */
static void
format_v4(const uint8_t bytes[static 4], char *buf)
{
    for (int i = 0; i < 4; i++) {
        unsigned b = bytes[i];
        if (i > 0)
            *buf++ = '.';
        if (b >= 100)
            *buf++ = (char)('0' + b / 100);
        if (b >= 10)
            *buf++ = (char)('0' + b / 10 % 10);
        *buf++ = (char)('0' + b % 10);
    }
    *buf = '\0';
}

char *
ip_format(const struct ip *ip, char buf[static IP_TEXT_MAX])
{
    buf[0] = '\0';
    if (ip->family == 4) {
        format_v4(ip->bytes, buf);
    } else if (ip->family == 6) {
        const char *done = inet_ntop(AF_INET6, ip->bytes, buf, IP_TEXT_MAX);
        assert(done != NULL);
    }
    return buf;
}

bool
ip_eq(const struct ip *a, const struct ip *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

int
ip_cmp(const struct ip *a, const struct ip *b)
{
    return memcmp(a, b, sizeof(*a));
}

static unsigned
width(const struct ip *ip)
{
    return ip->family == 4 ? 32 : ip->family == 6 ? 128 : 0;
}

struct ip
ip_prefix(const struct ip *ip, unsigned bits)
{
    struct ip out = *ip;
    unsigned n_bytes = width(ip) / 8;
    for (unsigned i = 0; i < n_bytes; i++) {
        if (bits >= 8) {
            bits -= 8;
            continue;
        }
        out.bytes[i] = (uint8_t)(out.bytes[i] & (0xff00u >> bits));
        bits = 0;
    }
    return out;
}

enum err_code
ip_port_parse(struct span text, uint16_t default_port, struct ip *ret_ip, uint16_t *ret_port,
              struct err *err)
{
    static const char expected[] = "expected ADDRESS:PORT, such as 127.0.0.1:25 or [::1]:25";
    struct span host = text, port = SPAN_NONE;
    bool has_port = false;

    if (text.n > 0 && text.p[0] == '[') {
        size_t end = span_find_byte(text, ']');
        if (end == SIZE_MAX)
            return err_set(err, ERR_INVAL, "']' is missing, %s", expected);
        host = span_of(text.p + 1, end - 1);
        struct span rest = span_from(text, end + 1);
        if (rest.n > 0 && rest.p[0] != ':')
            return err_set(err, ERR_INVAL, "text behind ']', %s", expected);
        has_port = rest.n > 0;
        port = span_from(rest, 1);
    } else if (span_find_byte(text, ':') != SIZE_MAX &&
               memchr(text.p, ':', text.n) == memrchr(text.p, ':', text.n)) {
        port = text; /* one colon: ADDRESS:PORT; more are an IPv6 address without brackets */
        host = span_cut(&port, ':');
        has_port = true;
    }
    struct ip ip;
    if (!ip_parse(host, &ip))
        return err_set(err, ERR_INVAL, "no IP address, %s", expected);
    if (text.p[0] == '[' && host.n > 0 && span_find_byte(host, ':') == SIZE_MAX)
        return err_set(err, ERR_INVAL, "brackets are for IPv6 addresses, %s", expected);
    uint64_t number = default_port;
    if (has_port && (!span_u64(port, &number) || number == 0 || number > 65535 || port.n > 5))
        return err_set(err, ERR_INVAL, "no port from 1 to 65535, %s", expected);
    if (!has_port && default_port == 0)
        return err_set(err, ERR_INVAL, "the port is missing, %s", expected);
    *ret_ip = ip;
    *ret_port = (uint16_t)number;
    return ERR_OK;
}

char *
ip_port_format(const struct ip *ip, uint16_t port, char buf[static IP_PORT_TEXT_MAX])
{
    char text[IP_TEXT_MAX];
    ip_format(ip, text);
    snprintf(buf, IP_PORT_TEXT_MAX, ip->family == 6 ? "[%s]:%u" : "%s:%u", text, (unsigned)port);
    return buf;
}

/* ::ffff:192.0.2.0/120 means 192.0.2.0/24; shorter prefixes than 96 are IPv6 as they stand. */
static void
unmap(struct ip *ip, uint64_t *bits)
{
    if (ip->family == 6 && *bits >= 96 && is_mapped(ip->bytes)) {
        *ip = from_v6_bytes(ip->bytes);
        *bits -= 96;
    }
}

enum err_code
cidr_parse(struct span text, struct cidr *ret, struct err *err)
{
    struct span rest = text, host = span_cut(&rest, '/');
    bool has_bits = host.n < text.n;
    struct ip ip;
    if (!parse_raw(host, &ip))
        return err_set(err, ERR_INVAL,
                       "no address block, expected one such as 192.0.2.0/24 or 2001:db8::/32");
    uint64_t bits = width(&ip);
    if (has_bits && (!span_u64(rest, &bits) || bits > width(&ip) || rest.n > 3 ||
                     (rest.n > 1 && rest.p[0] == '0')))
        return err_set(err, ERR_INVAL, "the part behind '/' is no number from 0 to %u", width(&ip));
    unmap(&ip, &bits);
    struct cidr c = {.ip = ip_prefix(&ip, (unsigned)bits), .bits = (uint8_t)bits};
    if (!ip_eq(&c.ip, &ip)) {
        char buf[CIDR_TEXT_MAX];
        return err_set(err, ERR_INVAL,
                       "bits behind the prefix are set, expected %s, or the address alone",
                       cidr_format(&c, buf));
    }
    *ret = c;
    return ERR_OK;
}

char *
cidr_format(const struct cidr *c, char buf[static CIDR_TEXT_MAX])
{
    char text[IP_TEXT_MAX];
    snprintf(buf, CIDR_TEXT_MAX, "%s/%u", ip_format(&c->ip, text), (unsigned)c->bits);
    return buf;
}

bool
cidr_has(const struct cidr *c, const struct ip *ip)
{
    if (c->ip.family != ip->family || ip->family == 0)
        return false;
    struct ip cut = ip_prefix(ip, c->bits);
    return ip_eq(&cut, &c->ip);
}

bool
ip_is_unspecified(const struct ip *ip)
{
    static const uint8_t zero[16];
    return (ip->family == 4 && ip->bytes[0] == 0) ||
           (ip->family == 6 && memcmp(ip->bytes, zero, 16) == 0);
}

bool
ip_is_loopback(const struct ip *ip)
{
    static const uint8_t one[16] = {[15] = 1};
    return (ip->family == 4 && ip->bytes[0] == 127) ||
           (ip->family == 6 && memcmp(ip->bytes, one, 16) == 0);
}

bool
ip_is_private(const struct ip *ip)
{
    const uint8_t *b = ip->bytes;
    if (ip->family == 4)
        return b[0] == 10 || (b[0] == 172 && (b[1] & 0xf0) == 16) || (b[0] == 192 && b[1] == 168) ||
               (b[0] == 100 && (b[1] & 0xc0) == 64);
    return ip->family == 6 && (b[0] & 0xfe) == 0xfc;
}

bool
ip_is_link_local(const struct ip *ip)
{
    const uint8_t *b = ip->bytes;
    return (ip->family == 4 && b[0] == 169 && b[1] == 254) ||
           (ip->family == 6 && b[0] == 0xfe && (b[1] & 0xc0) == 0x80);
}

bool
ip_is_multicast(const struct ip *ip)
{
    static const uint8_t broadcast[4] = {255, 255, 255, 255};
    if (ip->family == 4)
        return (ip->bytes[0] & 0xf0) == 224 || memcmp(ip->bytes, broadcast, 4) == 0;
    return ip->family == 6 && ip->bytes[0] == 0xff;
}

const char *
ip_class_name(const struct ip *ip)
{
    if (ip->family == 0)
        return "none";
    if (ip_is_unspecified(ip))
        return "unspecified";
    if (ip_is_loopback(ip))
        return "loopback";
    if (ip_is_private(ip))
        return "private";
    if (ip_is_link_local(ip))
        return "link-local";
    if (ip_is_multicast(ip))
        return "multicast";
    if (ip->family == 4 && ip->bytes[0] >= 240)
        return "reserved";
    return "public";
}

bool
ip_is_special(const struct ip *ip)
{
    return strcmp(ip_class_name(ip), "public") != 0;
}

struct ip
ip_from_sockaddr(const struct sockaddr *sa, uint16_t *ret_port)
{
    struct ip ip = {0};
    uint16_t port = 0;
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        ip.family = 4;
        memcpy(ip.bytes, &in.sin_addr, 4);
        port = ntohs(in.sin_port);
    } else if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof(in6));
        ip = from_v6_bytes(in6.sin6_addr.s6_addr);
        port = ntohs(in6.sin6_port);
    }
    if (ret_port != NULL)
        *ret_port = port;
    return ip;
}

unsigned
ip_to_sockaddr(const struct ip *ip, uint16_t port, struct sockaddr_storage *ss)
{
    memset(ss, 0, sizeof(*ss));
    if (ip->family == 4) {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
        memcpy(&in.sin_addr, ip->bytes, 4);
        memcpy(ss, &in, sizeof(in));
        return sizeof(in);
    }
    if (ip->family == 6) {
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
        memcpy(&in6.sin6_addr, ip->bytes, 16);
        memcpy(ss, &in6, sizeof(in6));
        return sizeof(in6);
    }
    return 0;
}
