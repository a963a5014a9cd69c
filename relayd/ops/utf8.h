/*
 * utf8 - strict decoding (RFC 3629), and which characters must not reach a terminal as they are.
 */
#pragma once

#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Length of the character at the start of `s` (not empty), its code point in *ret; 0 when the
 * bytes are no UTF-8 (overlong forms, surrogates and values above U+10FFFF included).
 */
size_t utf8_next(struct span s, uint32_t *ret);

/* Is every byte of `s` part of a character that utf8_next() takes? */
bool utf8_valid(struct span s);

/*
 * Control characters (C0, DEL, C1), line separators, bidirectional and other invisible formatting:
 * what could end a line, drive a terminal, or make text look like other text.
 */
bool utf8_unsafe(uint32_t cp);

/* Append `s` for a human at a terminal: unsafe characters as \xNN or \u{NNNN}, bytes that are no
 * UTF-8 as \xNN. */
void utf8_add_printable(struct strbuf *out, struct span s);

/* Columns that `s` takes in a terminal, after utf8_add_printable(): East Asian wide characters
 * count two, combining marks none. */
size_t utf8_width(struct span s);
