/*
 * srs - the sender rewriting scheme: an envelope sender of somebody else's domain becomes an
 * address at our own, which SPF lets us use and which holds the way back for a bounce.
 *
 *   SRS0=HHHHHH=TT=domain=local@srs.domain               of local@domain
 *   SRS1=HHHHHH=first==HHHH=TT=domain=local@srs.domain   of SRS0=HHHH=TT=domain=local@first
 *
 * The wire form, the stamp and the input of the hash are those of libsrs2 and postsrsd: TT is the
 * day (UTC) modulo 1024 in base32; H is the beginning of the base64 text of HMAC-SHA1 over stamp,
 * domain and local part (SRS1: first hop and what follows it) in lower case. Relays in between may
 * have changed the case, so it never matters; behind the tag "+" and "-" stand for "=", too. The
 * first secret signs, all verify.
 *
 * The hash knows no borders between its parts, so who holds an address for x@abc.com may turn it
 * into one for mx@abc.co; that gains nothing over the one he has.
 *
 * Every address made here expires. The stamp of an SRS1 is the first hop's; a foreign SRS address
 * whose stamp cannot be read, or has run out, is wrapped in an SRS0 like any other sender.
 *
 * Pure; secrets are never copied. The scheme has no RFC.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/mailbox.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <stdbool.h>

struct config;

/*
 * Characters of the hash. Anybody may try addresses at srs.domain, and with case ignored a guess
 * hits with 2^-5 a character: the usual four are found in a million RCPTs, six in 2^30. More would
 * cost octets of the local part, of which only 64 are safe everywhere.
 */
#define SRS_HASH_CHARS 6
/* Each secret more makes guessing as much easier; a rotation needs two. */
#define SRS_SECRETS_MAX 16
/* 128 bits when random. Below, the secret is easier to find than an address. */
#define SRS_SECRET_MIN 16
#define SRS_DAYS_VALID 21 /* the default of libsrs2 and postsrsd; counted in days of UTC */
#define SRS_DAYS_SKEW 1   /* of a stamp that is ahead of our clock */
/*
 * Octets of a rewritten local part and of a whole address: what we take in a RCPT ourselves, so
 * that each address given out can come back. More than 64 (RFC 5321 section 4.5.3.1.1) is what
 * forwarders send and most servers take.
 */
#define SRS_LOCAL_MAX MAILBOX_LOCAL_MAX
#define SRS_ADDRESS_MAX (MAILBOX_PATH_MAX - 2)

/* A view of the configuration, lives as long as that. */
struct srs {
    struct span domain;         /* canonical; empty: srs is not configured */
    const struct span *secrets; /* at least one */
    size_t n_secrets;
};

/* The `srs` section, or what applies to nobody when there is none. */
struct srs srs_of(const struct config *config);

/*
 * Would mail from this sender leave with another one? `sender` as in the envelope ("" the null
 * sender), `sender_domain` canonical, or an address literal. Not the null sender, not local_domains
 * (their subdomains are not local), not srs.domain itself.
 */
bool srs_applies(const struct srs *srs, struct span sender, struct span sender_domain,
                 const struct config *config);

/*
 * Append the address that replaces `sender` to `out`, for mail that arrived at `arrived_at` (wall):
 * the same one for every attempt. The caller has asked srs_applies().
 * False, with `out` as it was, when it would be longer than SRS_LOCAL_MAX or SRS_ADDRESS_MAX: the
 * mail goes with the sender it has.
 */
MUST_CHECK bool srs_forward(const struct srs *srs, struct span sender, struct span sender_domain,
                            msec_t arrived_at, struct strbuf *out);

enum srs_fault {
    SRS_OK = 0,
    SRS_NONE,    /* no SRS address at all */
    SRS_FORGED,  /* not signed with a secret of ours, or not whole */
    SRS_EXPIRED, /* ours, and too old; or from the future */
};

/*
 * Append to `out` where mail to `rcpt` goes, an address of srs.domain. What is appended is a valid
 * mailbox whose domain is not srs.domain. `out` is as it was with any fault.
 */
enum srs_fault
srs_reverse(const struct srs *srs, const struct mailbox *rcpt, msec_t now, struct strbuf *out);
