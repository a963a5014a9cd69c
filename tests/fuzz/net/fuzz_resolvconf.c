/* /etc/resolv.conf: at most as many servers as there is room for, all of them addresses. */
#include "relayd/net/dns_resolvconf.h"
#include "tests/fuzz/check.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    struct net_addr servers[DNS_SERVERS_MAX];
    size_t found = dns_resolvconf_parse(span_of(copy, n), servers);

    CHECK(found <= DNS_SERVERS_MAX);
    for (size_t i = 0; i < found; i++)
        CHECK(servers[i].port == 53 && servers[i].ip.family != 0);
    return 0;
}
