/*
 * ip - IP addresses and CIDR blocks as values.
 *
 * An IPv4 address that arrives inside IPv6 (::ffff:192.0.2.1) is always turned into IPv4, by
 * parsing and by ip_from_sockaddr() alike, so that one peer has one form and a rule for
 * 192.0.2.0/24 cannot be passed by a dual-stack socket. Bytes that a family does not use are zero:
 * two equal addresses are equal as memory.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>

struct sockaddr;
struct sockaddr_storage;

struct ip {
    uint8_t family; /* 4, 6, or 0: no address */
    uint8_t bytes[16];
};

/* A block of addresses: the first `bits` bits of `ip`; the others are zero. */
struct cidr {
    struct ip ip;
    uint8_t bits; /* 0..32 or 0..128 */
};

#define IP_TEXT_MAX 46      /* longest text of an address, with its NUL */
#define CIDR_TEXT_MAX 50    /* and of a block */
#define IP_PORT_TEXT_MAX 54 /* and of [address]:port */

/* Plain text of one address: no brackets, zone, port, leading zeros or short forms (127.1). */
MUST_CHECK bool ip_parse(struct span text, struct ip *ret);
/* RFC 5952 text; "" for family 0. Returns buf. */
char *ip_format(const struct ip *ip, char buf[static IP_TEXT_MAX]);

bool ip_eq(const struct ip *a, const struct ip *b);
/* A total order: by family, then by bytes. */
int ip_cmp(const struct ip *a, const struct ip *b);
/* The address with everything behind its first `bits` bits cleared: /32 or /64 as a throttle key.
 */
struct ip ip_prefix(const struct ip *ip, unsigned bits);

/*
 * "192.0.2.1:25" or "[2001:db8::1]:25". Without a port *ret_port is `default_port`; with
 * default_port 0 a port is required. An IPv6 address without brackets is taken when it has no port.
 * Returns ERR_INVAL with what was expected.
 */
MUST_CHECK enum err_code ip_port_parse(struct span text, uint16_t default_port, struct ip *ret_ip,
                                       uint16_t *ret_port, struct err *err);
char *ip_port_format(const struct ip *ip, uint16_t port, char buf[static IP_PORT_TEXT_MAX]);

/*
 * "192.0.2.0/24", "2001:db8::/32", or an address alone (one host). Host bits that are set are an
 * error that names the block probably meant: a typing error here would trust strangers.
 */
MUST_CHECK enum err_code cidr_parse(struct span text, struct cidr *ret, struct err *err);
char *cidr_format(const struct cidr *c, char buf[static CIDR_TEXT_MAX]);
/* Is `ip` inside? An IPv4 address is never inside an IPv6 block, so ::/0 is "all of IPv6". */
bool cidr_has(const struct cidr *c, const struct ip *ip);

bool ip_is_unspecified(const struct ip *ip); /* 0.0.0.0/8, :: */
bool ip_is_loopback(const struct ip *ip);    /* 127.0.0.0/8, ::1 */
bool ip_is_private(const struct ip *ip);     /* RFC 1918, 100.64.0.0/10 (RFC 6598), fc00::/7 */
bool ip_is_link_local(const struct ip *ip);  /* 169.254.0.0/16, fe80::/10 */
bool ip_is_multicast(const struct ip *ip);   /* 224.0.0.0/4, ff00::/8, and 255.255.255.255 */
/*
 * Not an address of the public Internet: any class above, and the reserved, documentation-free
 * rest that nobody can serve mail at (240.0.0.0/4; family 0). Documentation blocks (192.0.2.0/24,
 * 2001:db8::/32) do not count: labs and tests use them.
 */
bool ip_is_special(const struct ip *ip);
/* The class in one word for logs and errors: "loopback", "private", ..., "public". */
const char *ip_class_name(const struct ip *ip);

/* From AF_INET or AF_INET6; anything else gives family 0. *ret_port may be NULL. */
struct ip ip_from_sockaddr(const struct sockaddr *sa, uint16_t *ret_port);
/* Fills *ss and returns its length as a socklen_t value; 0 for family 0. */
unsigned ip_to_sockaddr(const struct ip *ip, uint16_t port, struct sockaddr_storage *ss);
