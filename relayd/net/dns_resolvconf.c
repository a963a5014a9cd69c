/*
 * dns_resolvconf - the name servers of /etc/resolv.conf (resolv.conf(5)), nothing else of it.
 */
#include "relayd/net/dns_resolvconf.h"

#include <errno.h>
#include <stdio.h>

#include "policy/base/ip.h"

#define LINE_BYTES 256

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t';
}

size_t
dns_resolvconf_parse(struct span text, struct net_addr ret[DNS_SERVERS_MAX])
{
    struct span keyword = SPAN("nameserver");
    size_t n = 0;

    while (text.n > 0 && n < DNS_SERVERS_MAX) {
        struct span line = span_trim(span_cut(&text, '\n'));
        if (!span_starts(line, keyword) || line.n == keyword.n || !is_blank(line.p[keyword.n]))
            continue;
        line = span_trim(span_from(line, keyword.n));
        size_t end = 0;
        while (end < line.n && !is_blank(line.p[end]))
            end++;
        ret[n] = (struct net_addr){.port = 53};
        if (ip_parse(span_first(line, end), &ret[n].ip))
            n++;
    }
    return n;
}

size_t
dns_resolvconf_read(const char *path, struct net_addr ret[DNS_SERVERS_MAX])
{
    struct strbuf text = STRBUF_INIT;
    char line[LINE_BYTES];
    FILE *file = fopen(path, "re");

    if (file == NULL && errno != ENOENT)
        return 0;
    while (file != NULL && text.n < 65536 && fgets(line, sizeof(line), file) != NULL)
        strbuf_add_str(&text, line);
    if (file != NULL)
        fclose(file);
    size_t n = dns_resolvconf_parse(strbuf_span(&text), ret);
    strbuf_release(&text);
    if (n == 0) {
        ret[0] = (struct net_addr){.port = 53};
        n = ip_parse(SPAN("127.0.0.1"), &ret[0].ip) ? 1 : 0;
    }
    return n;
}
