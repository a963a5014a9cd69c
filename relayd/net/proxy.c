/*
 * proxy - both header versions told apart by their first byte: 'P' of "PROXY " or the CR of the
 * binary signature, neither of which can begin the other.
 */
#include "relayd/net/proxy.h"

#include <netinet/in.h>
#include <string.h>

#define V2_HEAD_BYTES 16
#define V2_SIGNATURE SPAN("\r\n\r\n\0\r\nQUIT\n")

/* A port as the specification writes it: decimal, no leading zero. */
static bool
port_parse(struct span text, uint16_t *ret)
{
    uint64_t port;
    if (text.n == 0 || text.n > 5 || (text.n > 1 && text.p[0] == '0') || !span_u64(text, &port) ||
        port > UINT16_MAX)
        return false;
    *ret = (uint16_t)port;
    return true;
}

/* An address of the family that the header named. An IPv4-mapped one becomes IPv4 and is fine. */
static bool
address_parse(struct span text, bool v6, struct ip *ret)
{
    return (span_find_byte(text, ':') != SIZE_MAX) == v6 && ip_parse(text, ret);
}

/* What stands between "PROXY " and CRLF. */
static enum proxy_status
v1_fields(struct span line, struct proxy_info *info)
{
    struct span family = span_cut(&line, ' ');
    if (span_eq(family, SPAN("UNKNOWN"))) {
        info->local = true; /* the rest of such a line is to be ignored */
        return PROXY_OK;
    }
    bool v6 = span_eq(family, SPAN("TCP6"));
    if (!v6 && !span_eq(family, SPAN("TCP4")))
        return PROXY_BAD;
    struct span source = span_cut(&line, ' ');
    struct span destination = span_cut(&line, ' ');
    struct span source_port = span_cut(&line, ' ');
    if (!address_parse(source, v6, &info->source.ip) ||
        !address_parse(destination, v6, &info->destination.ip) ||
        !port_parse(source_port, &info->source.port) || !port_parse(line, &info->destination.port))
        return PROXY_BAD;
    return PROXY_OK;
}

static enum proxy_status
v1_parse(struct span in, struct proxy_info *info, size_t *ret_len)
{
    struct span magic = SPAN("PROXY ");
    if (!span_starts(in, span_first(magic, in.n)))
        return PROXY_BAD;
    size_t end = span_find(span_first(in, PROXY_V1_BYTES_MAX), SPAN("\r\n"));
    if (end == SIZE_MAX)
        return in.n < PROXY_V1_BYTES_MAX ? PROXY_MORE : PROXY_BAD;
    *ret_len = end + 2;
    return v1_fields(span_from(span_first(in, end), magic.n), info);
}

static struct net_addr
v2_address(const char *ip, const char *port, bool v6)
{
    struct net_addr addr;
    if (v6) {
        struct sockaddr_in6 sa = {.sin6_family = AF_INET6};
        memcpy(&sa.sin6_addr, ip, 16);
        memcpy(&sa.sin6_port, port, 2);
        addr = net_addr_from_sockaddr((const struct sockaddr *)&sa);
    } else {
        struct sockaddr_in sa = {.sin_family = AF_INET};
        memcpy(&sa.sin_addr, ip, 4);
        memcpy(&sa.sin_port, port, 2);
        addr = net_addr_from_sockaddr((const struct sockaddr *)&sa);
    }
    return addr;
}

static enum proxy_status
v2_parse(struct span in, struct proxy_info *info, size_t *ret_len)
{
    struct span signature = V2_SIGNATURE;
    if (!span_starts(in, span_first(signature, in.n)))
        return PROXY_BAD;
    if (in.n < V2_HEAD_BYTES)
        return PROXY_MORE;
    const unsigned char *head = (const unsigned char *)in.p;
    unsigned version = head[12] >> 4, command = head[12] & 15, family = head[13];
    size_t length = (size_t)head[14] << 8 | head[15];
    if (version != 2 || command > 1 || V2_HEAD_BYTES + length > PROXY_V2_BYTES_MAX)
        return PROXY_BAD;
    if (in.n < V2_HEAD_BYTES + length)
        return PROXY_MORE;
    *ret_len = V2_HEAD_BYTES + length;
    const char *body = in.p + V2_HEAD_BYTES;
    info->version = 2;
    if (command == 0) {
        info->local = true;      /* the proxy's own health check */
    } else if (family == 0x11) { /* TCP over IPv4 */
        if (length < 12)
            return PROXY_BAD;
        info->source = v2_address(body, body + 8, false);
        info->destination = v2_address(body + 4, body + 10, false);
    } else if (family == 0x21) { /* TCP over IPv6 */
        if (length < 36)
            return PROXY_BAD;
        info->source = v2_address(body, body + 32, true);
        info->destination = v2_address(body + 16, body + 34, true);
    } else {
        info->local = true; /* UNSPEC, datagrams, unix sockets: the addresses are to be ignored */
    }
    return PROXY_OK;
}

enum proxy_status
proxy_parse(struct span in, struct proxy_info *ret, size_t *ret_len)
{
    struct proxy_info info = {.version = 1};
    size_t len = 0;
    enum proxy_status status;

    if (in.n == 0)
        return PROXY_MORE;
    status = in.p[0] == '\r' ? v2_parse(in, &info, &len) : v1_parse(in, &info, &len);
    if (status == PROXY_OK) {
        *ret = info;
        *ret_len = len;
    }
    return status;
}
