/*
 * dsn_internal - what the dsn*.c files share; nobody else includes this.
 */
#pragma once

#include "policy/dsn.h"

/* Most octets of one value from outside; what is longer is cut, with " ..." behind it. */
#define DSN_REPLY_MAX OUTCOME_TEXT_MAX
#define DSN_ADDRESS_MAX 512u
#define DSN_NAME_MAX 255u

/* -- dsn_encode.c ------------------------------------------------------------------------------ */

enum dsn_charset { DSN_ASCII, DSN_UTF8 };

/*
 * Append `text` as part of one line: runs of blanks and newlines become one space, control
 * characters and (by the charset) what is not ASCII or not UTF-8 become \xHH, at most `max` octets
 * of it. Nothing that comes out can end a line.
 */
void dsn_clean(struct span text, size_t max, enum dsn_charset charset, struct strbuf *out);

/* Append the field "NAME: VALUE" folded at blanks; `value` is clean already. Words that no line
 * can hold are cut in two. */
void dsn_field(const char *name, struct span value, struct strbuf *out);

/* Append `text` (CRLF lines) as quoted-printable (RFC 2045 section 6.7). */
void dsn_quoted_printable(struct span text, struct strbuf *out);

/* Append UTF-8 text as encoded words (RFC 2047), folded; ASCII as it is. */
void dsn_encoded_words(struct span text, struct strbuf *out);

bool dsn_is_ascii(struct span text);

/* Append a refusal as it was said, "550 5.1.1 no such user", cleaned; our own words as they are. */
void
dsn_refusal_words(const struct dsn_refusal *refusal, enum dsn_charset charset, struct strbuf *out);

/* -- dsn_text.c -------------------------------------------------------------------------------- */

/* The subject in the first language, UTF-8. */
const char *dsn_subject(const struct dsn_report *report);

/* Append the part for people, in every language asked for: UTF-8, CRLF lines. `returned` says what
 * of the original follows: its headers only, or all of it. */
void dsn_text(const struct dsn_report *report, bool returned_full, struct strbuf *out);
