/*
 * dns_wire - questions and answers as bytes (RFC 1035, 3597, 6891). Pure: no sockets, no time.
 *
 * Everything read is checked against the message's end.
 */
#pragma once

#include "policy/base/span.h"
#include "relayd/net/dns.h"
#include "relayd/net/dns_name.h"

#define DNS_QUESTION_BYTES 300    /* header, one question, OPT */
#define DNS_WALK_RECORDS_MAX 2048 /* of one message looked at */

/*
 * Write a question with RD and AD set, with an OPT of 1232 octets if `edns`. `name` is canonical.
 * Returns its length.
 */
size_t dns_question(uint8_t ret[DNS_QUESTION_BYTES], uint16_t id, const char *name, uint16_t type,
                    bool edns);

enum dns_walk {
    DNS_WALK_ANSWER,   /* status is OK, NXDOMAIN or NODATA */
    DNS_WALK_CHASE,    /* a CNAME chain that leads out of the message: ask for `name` */
    DNS_WALK_LOOP,     /* a CNAME chain that is too long or leads back */
    DNS_WALK_FORMERR,  /* the server did not understand: perhaps EDNS */
    DNS_WALK_FAILED,   /* SERVFAIL, REFUSED, and the rest of them: `rcode` */
    DNS_WALK_REFERRAL, /* no answer: the server does not know, and asks nobody for us */
    DNS_WALK_BROKEN,   /* not an answer to this question, or malformed */
};

/* An answer in one block of memory, made by dns_walk(); free() it. */
struct dns_found {
    enum dns_status status;
    bool ad, null_mx, truncated;
    int rcode;
    uint32_t ttl_s; /* the least on the way, or the SOA's; clamped */
    unsigned n_cnames;
    size_t n_records;
    const char *name; /* the end of the chain */
    struct dns_record *records;
    size_t bytes; /* of the whole block */
};

/* Walk over `message`, the answer to (`name`, `type`). *ret_found is set on ANSWER and CHASE (then
 * without records). */
enum dns_walk dns_walk(struct span message, const char *name, uint16_t type,
                       struct dns_found **ret_found, int *ret_rcode);

const char *dns_rcode_name(int rcode); /* "SERVFAIL" */
