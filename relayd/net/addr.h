/*
 * addr - an IP address with a port: who is at the other end of a socket.
 *
 * A zero `ip.family` means no IP address: a unix socket, or not known.
 */
#pragma once

#include "policy/base/ip.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define NET_ADDR_TEXT_BYTES 64 /* "[v6]:port" and a NUL fit */

struct net_addr {
    struct ip ip;
    uint16_t port; /* host byte order */
};

/* IPv4-mapped IPv6 becomes IPv4; families other than AF_INET and AF_INET6 give family 0. */
struct net_addr net_addr_from_sockaddr(const struct sockaddr *sa);
/* Returns the length for bind() and connect(); 0 when there is no IP address. */
socklen_t net_addr_to_sockaddr(const struct net_addr *addr, struct sockaddr_storage *ret);
/* "192.0.2.1:25", "[2001:db8::1]:25", or "local" without an address. Returns buf. */
char *net_addr_format(const struct net_addr *addr, char buf[NET_ADDR_TEXT_BYTES]);
bool net_addr_eq(const struct net_addr *a, const struct net_addr *b);
