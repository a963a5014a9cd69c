/*
 * header - the header block of a message: one pass over its fields, the facts intake and the signer
 * need, and the fields that we add ourselves.
 *
 * Input is what accept hands on: lines end in CRLF, no bare CR or LF, no NUL (RFC 5322
 * section 2.1). Nothing here changes a message; spans point into the text that was scanned.
 * Scanning works at the speed of memchr and is bounded by HEADER_BYTES_MAX.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#define HEADER_BYTES_MAX \
    (1u << 20)                 /* a header block beyond this is refused at intake (554 5.6.0) */
#define HEADER_LINE_MAX 998u   /* octets of a line without its CRLF (RFC 5322 section 2.1.1) */
#define HEADER_DOMAIN_MAX 255u /* a From domain beyond this is no domain */

/* One field. `name` has no white space before the colon; `value` is all behind the colon, folds
 * kept, without the final CRLF; `whole` is the field with its final CRLF. */
struct header_field {
    struct span name, value, whole;
};

/*
 * Cut the next field off the front of *rest.
 *
 * A field is a name of printable ASCII (RFC 5322 section 3.6.8; blanks before the colon are let
 * pass, section 4.5.8) and every following line that starts with a blank. Returns false, with *rest
 * unmoved, at the empty line, at the end of the text, and at a line that is no field.
 */
bool header_field_next(struct span *rest, struct header_field *ret);

/*
 * Where the header block ends: the number of octets up to and including the empty line, or SIZE_MAX
 * when it has not been seen yet. `seen` says how many octets were looked at in earlier calls on the
 * same growing text, so that a block that comes in pieces is not scanned again and again. A text
 * that starts with CRLF has an empty block (the result is 2).
 */
size_t header_block_end(struct span text, size_t seen);

/* True when the first line of a message cannot be a field: an empty line has to go before it
 * (behaviour: "a message whose first line is no field gets an empty line first"). */
bool header_first_line_is_body(struct span text);

/* What one pass over a header block finds. All of it is zero or empty when it is not there. */
struct header_facts {
    uint32_t n_fields;
    uint32_t n_received;      /* hops so far (RFC 5321 section 6.3) */
    uint32_t n_received_ours; /* of these: written by this node, see header_received_is_ours() */
    bool has_date, has_message_id, has_dkim_signature;
    bool has_8bit;          /* an octet above 127 in any field: needs SMTPUTF8 or is raw 8-bit */
    bool broken;            /* a line inside the block is no field; the message can't be signed */
    bool has_nul;           /* never from accept; the message can't be signed */
    struct span from;       /* value of the first From field */
    struct span subject;    /* value of the first Subject field */
    struct span message_id; /* value of the first Message-ID field */
    size_t head_bytes;      /* the fields, without the empty line */
    size_t body_at;         /* first octet behind the empty line, or the end of the text */
};

/*
 * Scan a header block: `text` starts at the first field and may go on into the body. `hostname` is
 * our own name (node.hostname) for n_received_ours. Returns ERR_OK; ERR_LIMIT when the block passes
 * HEADER_BYTES_MAX (answer 554 5.6.0).
 */
MUST_CHECK enum err_code
header_scan(struct span text, struct span hostname, struct header_facts *ret, struct err *err);

/*
 * Whether the value of a Received field was written by this host: its `by` clause names `hostname`
 * and no other mail program says in a comment that the line is its own (a Postfix on the same
 * machine may share the name).
 */
bool header_received_is_ours(struct span value, struct span hostname);

/*
 * The domain of the first mailbox in the value of a From field, as written, without comments and
 * blanks: `a@b`, `"x, y" <a@b>`, `=?utf-8?q?..?= <a@b>`, groups (RFC 5322 section 3.4), source
 * routes (section 4.4), comments in any place, UTF-8 (RFC 6532). An address literal has no domain.
 * Writes a NUL-terminated name; false when there is none. Not normalised: use domain_normalise().
 */
bool header_from_domain(struct span from_value, char ret_domain[HEADER_DOMAIN_MAX + 1]);

/*
 * Append one header line (without its CRLF) to `out` so that no line is longer than
 * HEADER_LINE_MAX, by putting CRLF before blanks that are there already (RFC 5322 section 2.2.3); a
 * CRLF follows. No line of blanks alone is made. Returns false, with `out` as it was, when some
 * part of the line has no blank to fold at (answer 550 5.6.0). A line that is short enough is
 * copied as it is.
 */
bool header_line_fold(struct span line, struct strbuf *out);

/* What a Received field says (RFC 5321 section 4.4). Texts from the peer are cleaned here. */
struct header_received {
    struct span helo;        /* what the client called itself */
    struct span client_ip;   /* "192.0.2.1" or "2001:db8::1" */
    struct span by;          /* node.hostname */
    struct span node;        /* node.name, in the comment behind `by` */
    struct span protocol;    /* "SMTP", "ESMTP", "ESMTPS", "ESMTPA", "ESMTPSA", "UTF8SMTPSA" ... */
    struct span tls_version; /* "TLSv1.3", or empty */
    struct span tls_cipher;
    struct span id;   /* queue id as shown to people */
    struct span rcpt; /* the only recipient, or empty */
    msec_t now;       /* wall time */
};

/* Append a whole Received field, folded, with its final CRLF. */
void header_received_format(const struct header_received *received, struct strbuf *out);

/* Append "Tue, 21 Nov 2023 18:25:00 +0000" (RFC 5322 section 3.3), always UTC. */
void header_date_format(msec_t at, struct strbuf *out);

/* Append a Date field for `at`, with its final CRLF. */
void header_add_date(msec_t at, struct strbuf *out);

/* Append a Message-ID field `<id@host>`, with its final CRLF. */
void header_add_message_id(struct span id, struct span host, struct strbuf *out);
