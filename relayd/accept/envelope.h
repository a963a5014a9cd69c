/*
 * envelope - what a client said about a message, as values: from the protocol core to the rules and
 * to the sink.
 *
 * All spans live as long as the transaction that they describe (from MAIL until its end or abort);
 * they are not NUL-terminated. Every text has passed its grammar: no field holds CR, LF, NUL
 * or another control character.
 */
#pragma once

#include "policy/base/ip.h"
#include "policy/base/mailbox.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>

/* RFC 3461 section 4.1; 0: the client did not say, which means failure and, at our choice, delay.
 */
#define ACCEPT_NOTIFY_NEVER 1u
#define ACCEPT_NOTIFY_SUCCESS 2u
#define ACCEPT_NOTIFY_FAILURE 4u
#define ACCEPT_NOTIFY_DELAY 8u

#define ACCEPT_ENVID_MAX 100 /* octets of ENVID as sent (RFC 3461 section 4.4) */
#define ACCEPT_ORCPT_MAX 500 /* octets of ORCPT as sent (RFC 3461 section 4.2) */

/* Who speaks; the same for all messages of a session, but for what TLS and AUTH change. */
struct accept_client {
    uint64_t session; /* number of the session since the start, for `conn=` in logs */
    struct ip ip;     /* behind a PROXY: what the proxy said */
    uint16_t port;
    struct span listener;    /* "127.0.0.1:2525" */
    struct span helo;        /* as the client said it */
    struct span tls_version; /* "TLSv1.3"; empty in clear */
    struct span tls_cipher;
    struct span user;     /* name proved by AUTH; empty: none */
    struct span protocol; /* RFC 3848, RFC 6531: "SMTP", "ESMTPSA", "UTF8SMTPS", ... */
    bool trusted;         /* may relay, by trusted_clients */
};

struct accept_mail {
    const struct accept_client *client;
    struct span sender; /* "" or local part as given, "@", domain with U-labels as A-labels */
    struct span
        sender_domain;   /* canonical (domain.h); a literal as written; "" with the null sender */
    uint64_t size_bytes; /* what SIZE= declared; 0: nothing */
    bool body_8bit;      /* BODY=8BITMIME */
    bool smtputf8;       /* the client asked for SMTPUTF8 */
    struct span ret;     /* "FULL", "HDRS" or "" */
    struct span envid;   /* xtext as given, valid; or "" */
};

struct accept_rcpt {
    struct span address;    /* local part as given, "@", domain with U-labels as A-labels */
    struct mailbox mailbox; /* `address` parsed: views into it */
    struct span domain; /* canonical; of a literal its text "[192.0.2.1]", "[IPv6:2001:db8::1]" */
    struct ip literal;  /* family 0: `domain` is a name */
    unsigned notify;    /* ACCEPT_NOTIFY_*, or 0 */
    struct span orcpt;  /* "rfc822;" and xtext as given, valid; or "" */
};

/* To a literal of our own address, or of one that is not on the Internet. */
#define ACCEPT_LITERAL_REPLY "550 5.1.2 no mail is taken for this address literal"

/* What became of the bytes, known when the message has ended. */
struct accept_body {
    uint64_t size_bytes;     /* of the message as handed on */
    uint64_t newlines_fixed; /* bare CRs and LFs that were normalised */
    uint64_t lines_broken;   /* breaks put into body lines of more than 998 octets */
};
