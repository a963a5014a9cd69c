/*
 * trust - may this client relay through us? (trusted_clients)
 *
 * Pure. Any one entry suffices; nobody else may. Rules look at the real peer: the caller passes the
 * address of the socket, or what a PROXY header said on a listener that names the proxy.
 */
#pragma once

#include "policy/base/ip.h"
#include "policy/base/span.h"
#include "policy/config.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Addresses that the name of a host entry may have. An office has one or two, with IPv6 and a
 * second line perhaps six; a name with many more is a pool of somebody else's (a CDN, a cloud), and
 * whoever rents there would relay through us.
 */
#define TRUST_ADDRESSES_MAX 16

/* What the name of a host entry stands for at the moment; relayd/trusted.h keeps it. */
struct trust_name {
    const char *host; /* canonical */
    const struct ip *addresses;
    size_t n_addresses;
    bool v4_unknown, v6_unknown; /* DNS has not yet said which addresses of the family it has */
};
struct trust_names {
    const struct trust_name *list;
    size_t n;
    uint64_t version; /* another one: something has changed since */
};

/* What is known of the session when it asks, normally at RCPT. */
struct trust_query {
    struct ip peer;
    bool tls;              /* the session is inside TLS */
    struct span auth_user; /* who authenticated against a users_file; empty: nobody */
    /* SHA-256 of the client's certificate and of its public key (SPKI); NULL: none was shown. The
     * TLS library has checked that the client holds the key; the chain does not matter. */
    const uint8_t *cert_digest, *spki_digest;
    const struct trust_names *names; /* NULL: host entries stand for nobody */
};

struct trust_decision {
    bool relay;
    const struct config_trust *entry; /* what granted it; NULL when refused */
    bool undecided; /* refused, but a name that is not known yet may turn out to be this client */
    /* For the log: "cidr 127.0.0.0/8", "host office.example", "user alice", "client certificate",
     * or why not: "no entry of trusted_clients matches", "cidr 10.0.0.0/8 asks for auth". */
    char why[320]; /* the longest name, and what it asks for */
};

/* Decide. Returns ret->relay. */
bool trust_check(const struct config *config, const struct trust_query *query,
                 struct trust_decision *ret);

/*
 * May the name of a host entry have this address? NULL: yes. Else why not, in a word: never
 * "unspecified", "multicast", "reserved"; "loopback", "private" and "link-local" only with
 * allow_private.
 */
const char *trust_address_fault(const struct ip *ip, bool allow_private);
