/*
 * mailbox - addresses as SMTP writes them (RFC 5321 section 4.1.2, RFC 6531 section 3.3), and the
 * xtext of its parameters (RFC 3461 section 4).
 *
 * Nothing is repaired: what parses is passed on byte for byte, what does not is refused by name. A
 * parsed mailbox holds views into the caller's text and lives as long as that text.
 */
#pragma once

#include "policy/base/span.h"

#include <stdbool.h>

/*
 * RFC 5321 section 4.5.3.1.1 wants 64 octets to work. Bounce addresses that carry a recipient
 * (VERP) are longer in real life, so twice that is taken; section 4.5.3.1 asks not to limit
 * needlessly.
 */
#define MAILBOX_LOCAL_MAX 128
#define MAILBOX_DOMAIN_MAX 255 /* RFC 5321 section 4.5.3.1.2 */
#define MAILBOX_PATH_MAX 256   /* RFC 5321 section 4.5.3.1.3, with the brackets */
/* A path that was asked for with MAILBOX_UTF8: U-labels may be longer than what they become. */
#define MAILBOX_UTF8_PATH_MAX 512

struct mailbox {
    struct span local;  /* as written, a quoted one with its quotes; empty: the null path <> */
    struct span domain; /* as written, a literal with its brackets; empty: <> or <postmaster> */
    bool literal;       /* the domain is an address literal: mailbox_literal() gives its address */
    bool quoted;        /* the local part is a quoted string */
    bool utf8;          /* some byte is not ASCII */
};

enum mailbox_fault {
    MAILBOX_OK = 0,
    MAILBOX_BAD,       /* syntax: 501 5.1.3 (5.1.7 for a sender) */
    MAILBOX_TOO_LONG,  /* local part, domain or path over its limit: 501 5.1.3 */
    MAILBOX_ROUTE,     /* a source route <@a,@b:c@d>, obsolete since 1989: 501 5.1.3 */
    MAILBOX_NO_DOMAIN, /* a local part alone: 501 5.1.3 */
    MAILBOX_QUAD,      /* a bare dotted quad for a domain: 501 5.1.3 */
    MAILBOX_NEEDS_UTF8 /* valid, but only under SMTPUTF8: 553 5.6.7 (RFC 6531 section 3.5) */
};

/* What a caller admits besides LOCAL@DOMAIN in ASCII. */
#define MAILBOX_UTF8 1u       /* UTF-8 in the local part, U-labels in the domain */
#define MAILBOX_NULL 2u       /* the null reverse-path <> */
#define MAILBOX_POSTMASTER 4u /* <postmaster> without a domain, in any case (section 4.1.1.3) */

/*
 * Parse `text`, all of it, as one mailbox without brackets (MAILBOX_NULL: the empty text too).
 * Sets *ret only on MAILBOX_OK; the domain is checked by syntax, not looked up or normalised.
 */
enum mailbox_fault mailbox_parse(struct span text, unsigned admit, struct mailbox *ret);

/*
 * Parse the path "<...>" that `text` must begin with. On MAILBOX_OK *ret_len is its length with
 * the brackets: what follows (parameters) is the caller's business.
 */
enum mailbox_fault
mailbox_path_parse(struct span text, unsigned admit, struct mailbox *ret, size_t *ret_len);

/* What is wrong, for a reply: "source routes are not accepted". */
const char *mailbox_fault_text(enum mailbox_fault fault);

/*
 * The address in a literal's brackets, ready for ip_parse(): "192.0.2.1" of "[192.0.2.1]",
 * "2001:db8::1" of "[IPv6:2001:db8::1]". Empty when the mailbox has no literal.
 */
struct span mailbox_literal(const struct mailbox *m);

/* Append the local part as it is meant: without quotes and backslashes. */
void mailbox_local_plain(const struct mailbox *m, struct strbuf *out);

/* Is `text` valid UTF-8 (no overlong forms, no surrogates, at most U+10FFFF)? */
bool mailbox_utf8_valid(struct span text);

/* Append `text`, valid UTF-8, in ASCII: each other character as "\x{HEX}" (utf-8-addr-xtext of
 * RFC 6533 section 3). */
void utf8_addr_to_ascii(struct span text, struct strbuf *out);

/*
 * Decode xtext and append it to `out`. False, with `out` as it was, when a "+" has no two
 * upper-case hexadecimal digits behind it, when a byte must not stand there ("=", white space,
 * controls, 8-bit), or when it decodes to a control character: CR, LF and NUL never come in by this
 * door.
 */
bool xtext_decode(struct span text, struct strbuf *out);
/* Append `plain` as xtext. Every byte is representable. */
void xtext_encode(struct span plain, struct strbuf *out);
