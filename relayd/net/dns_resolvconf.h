/*
 * dns_resolvconf - the name servers of /etc/resolv.conf.
 */
#pragma once

#include "relayd/net/dns.h"

/* The servers named in `text`, at port 53; lines that cannot be read are passed over. */
size_t dns_resolvconf_parse(struct span text, struct net_addr ret[DNS_SERVERS_MAX]);
/* Those of a file; 127.0.0.1 when it names none or is not there, as resolv.conf(5) says. 0, and
 * errno, when it is there and cannot be opened: that says nothing of the servers. */
size_t dns_resolvconf_read(const char *path, struct net_addr ret[DNS_SERVERS_MAX]);
