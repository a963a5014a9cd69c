/*
 * proxy - the PROXY protocol header, versions 1 and 2, that a load balancer puts before a
 * connection's bytes (HAProxy's proxy-protocol.txt, revision 2020/03/05).
 *
 * Pure: bytes in, addresses out. Whether a peer may send such a header is the caller's decision;
 * from anyone but a named proxy it must never be looked at.
 */
#pragma once

#include "policy/base/span.h"
#include "relayd/net/addr.h"

#define PROXY_V1_BYTES_MAX 107  /* by the specification, CRLF included */
#define PROXY_V2_BYTES_MAX 2048 /* 16 + addresses + TLVs; real ones stay under 300 */

enum proxy_status {
    PROXY_OK,   /* a whole header */
    PROXY_MORE, /* a header so far; more bytes needed */
    PROXY_BAD,  /* not a header, or a broken one: close without an answer */
};

struct proxy_info {
    uint8_t version; /* 1 or 2 */
    bool local; /* LOCAL or UNKNOWN, or a family we do not speak: the real peer stands, `source`
                   and `destination` are empty */
    struct net_addr source;      /* the client */
    struct net_addr destination; /* what it connected to */
};

/*
 * Look for a header at the start of `in`. On PROXY_OK sets *ret and *ret_len (bytes to consume;
 * what follows is the connection's own). Otherwise leaves both alone.
 */
enum proxy_status proxy_parse(struct span in, struct proxy_info *ret, size_t *ret_len);
