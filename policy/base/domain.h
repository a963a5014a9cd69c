/*
 * domain - host and mail domain names in one canonical form, and patterns of them.
 *
 * Canonical means: lower-case ASCII, U-labels turned into A-labels (UTS 46, non-transitional), no
 * trailing dot, at most 253 octets, labels of 1..63. Everything that compares, hashes or stores a
 * domain does so in this form. libidn2 is used in domain.c and nowhere else.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/span.h"

#include <stdbool.h>

#define DOMAIN_MAX 253
#define DOMAIN_BUF 256 /* room for any canonical name and its NUL */

/*
 * The canonical form of `in` (any case, A- or U-labels, one trailing dot allowed), NUL-terminated.
 *
 * Letters, digits, '-' and '_' are allowed; a label neither starts nor ends with '-'; the last
 * label is not all digits, so that an address is never taken for a name (RFC 5321 section 4.1.3 has
 * literals for those). A name in ASCII is only lowered: an "xn--" label is not decoded.
 * Returns ERR_INVAL with a sentence that does not repeat the name (callers know where it stood).
 */
MUST_CHECK enum err_code
domain_normalise(struct span in, char out[static DOMAIN_BUF], struct err *err);
/*
 * Is this canonical-or-upper-case ASCII name fit to be asked of DNS and given to a TLS library:
 * letters, digits, '-', '_', labels 1..63, total 253, no trailing dot, not an address.
 */
bool domain_valid_host(struct span name);

/* Is `name` a proper subdomain of `base`, at any depth? Both canonical. */
bool domain_is_under(struct span name, struct span base);
/* What stands behind the first dot; empty for a single label. */
struct span domain_parent(struct span name);

/* "abc.com": exactly that name. "*.abc.com": any depth of subdomains, abc.com itself not. */
struct domain_pattern {
    const char *name; /* canonical, without "*." */
    bool subdomains;
};

/*
 * Parse a pattern; the name is written to `out` and ret->name points there.
 * Returns ERR_INVAL: as domain_normalise(), or for a '*' anywhere else than in front.
 */
MUST_CHECK enum err_code domain_pattern_parse(struct span text, char out[static DOMAIN_BUF],
                                              struct domain_pattern *ret, struct err *err);
bool domain_pattern_matches(const struct domain_pattern *p, struct span name);
/* The first of n patterns that matches the canonical `name`, or NULL. */
const struct domain_pattern *
domain_patterns_find(const struct domain_pattern *patterns, size_t n, struct span name);
