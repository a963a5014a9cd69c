#include "relayd/net/addr.h"

#include <stdio.h>
#include <string.h>

struct net_addr
net_addr_from_sockaddr(const struct sockaddr *sa)
{
    struct net_addr addr = {0};
    addr.ip = ip_from_sockaddr(sa, &addr.port);
    if (addr.ip.family == 0)
        addr.port = 0;
    return addr;
}

socklen_t
net_addr_to_sockaddr(const struct net_addr *addr, struct sockaddr_storage *ret)
{
    return ip_to_sockaddr(&addr->ip, addr->port, ret);
}

char *
net_addr_format(const struct net_addr *addr, char buf[NET_ADDR_TEXT_BYTES])
{
    if (addr->ip.family != 0)
        return ip_port_format(&addr->ip, addr->port, buf);
    snprintf(buf, NET_ADDR_TEXT_BYTES, "local");
    return buf;
}

bool
net_addr_eq(const struct net_addr *a, const struct net_addr *b)
{
    return a->port == b->port && ip_eq(&a->ip, &b->ip);
}
