/*
 * dns_name - domain names as text and as octets (RFC 1035 section 3.1, 4.1.4). Pure.
 *
 * As text they are lower case, without a final dot; blanks, dots inside a label, and what is not
 * printable ASCII are \DDD, so that no two names look alike.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_NAME_BYTES 1024 /* a name as text: 255 octets, odd ones as \DDD */
#define DNS_HEADER_BYTES 12 /* of a message: no name begins in it */

/* The canonical text of a name to ask for; odd octets are \DDD, and only that, in `name` too.
 * False when it is none. */
bool dns_name_canonical(const char *name, char ret[DNS_NAME_BYTES]);

/* The name at `at` of a message of `n` octets, as text. Returns the offset behind it, or 0 when it
 * is malformed. Compression pointers may only lead backwards, so this ends. */
size_t dns_name_read(const uint8_t *message, size_t n, size_t at, char ret[DNS_NAME_BYTES]);

/* Write a canonical name: 255 octets at most. Returns where it ends. */
uint8_t *dns_name_write(uint8_t *p, const char *name);
