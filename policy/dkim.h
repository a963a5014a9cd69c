/*
 * dkim - signing outgoing mail (RFC 6376, RFC 8463) with libopendkim; DNS records for the keys.
 *
 * A keyring is built with the configuration and is immutable: any number of threads may use it. A
 * signer belongs to one worker thread (it holds one DKIM_LIB, which must not be shared) and keeps
 * no state between messages. Private keys never enter libopendkim: see dkim_keys.c.
 *
 * Signatures are relaxed/relaxed, rsa-sha256 or ed25519-sha256, with t=, without l=. Signed are the
 * fields of RFC 6376 section 5.4.1, the MIME fields, Message-ID and List-*; From, To, Cc, Subject,
 * Date and Reply-To are oversigned (section 8.15). Strangers' mail is never verified here.
 */
#pragma once

#include "policy/base/domain.h"
#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#define DKIM_SIGNATURES_MAX 8u      /* of one message: an RSA and an Ed25519 key for four names */
#define DKIM_FIELD_NAMES_MAX 3500u  /* octets of h=: libopendkim cuts the list at 4,096 */
#define DKIM_SIGNED_FIELDS_MAX 400u /* signed fields of one message */
#define DKIM_RSA_BITS_MIN 1024u     /* RFC 8301 section 3.2; less than 2048 is warned of */
#define DKIM_RSA_BITS_MAX 8192u     /* a bigger one costs more than 20 ms a signature */

/* -- keys ------------------------------------------------------------------------------------- */

enum dkim_key_type { DKIM_KEY_RSA, DKIM_KEY_ED25519 };

struct dkim_key; /* opaque: one private key, checked and ready to sign */

/*
 * Read a private key from PEM text (PKCS#1 or PKCS#8, not encrypted). The key is checked: type,
 * size, that private and public part belong together, and by one signature. The caller owns it.
 * ERR_INVAL with a sentence that says what was expected instead.
 */
MUST_CHECK enum err_code dkim_key_parse(struct span pem, struct dkim_key **ret, struct err *err);
void dkim_key_free(struct dkim_key *key); /* NULL is fine */
enum dkim_key_type dkim_key_type(const struct dkim_key *key);
unsigned dkim_key_bits(const struct dkim_key *key);      /* 2048, or 256 for Ed25519 */
const char *dkim_key_type_name(enum dkim_key_type type); /* "rsa", "ed25519": k= of the record */
/* "rsa" or "ed25519"; false for anything else. */
bool dkim_key_type_parse(struct span name, enum dkim_key_type *ret);

/* -- keyring ---------------------------------------------------------------------------------- */

/* One entry of `dkim:` in the configuration. */
struct dkim_entry {
    const struct domain_pattern *domains;
    size_t n_domains;
    struct span domain;   /* d=, canonical; empty: the name that matched, of a wildcard its base */
    struct span selector; /* s= */
};

struct dkim_keyring; /* opaque */

struct dkim_keyring *dkim_keyring_new(void);
void dkim_keyring_free(struct dkim_keyring *ring); /* NULL is fine; wipes the keys */

/*
 * Add an entry; texts are copied and the ring takes the key, also on an error. A d= that is neither
 * the matched domain nor a parent of it is allowed (third-party signing), as is one key in several
 * entries by parsing it again. ERR_INVAL: an empty selector, or domain and selector that can't
 * stand in a signature.
 */
MUST_CHECK enum err_code dkim_keyring_add(struct dkim_keyring *ring, const struct dkim_entry *entry,
                                          struct dkim_key *key, struct err *err);
size_t dkim_keyring_count(const struct dkim_keyring *ring); /* entries */

/* A signature that would be made: for `explain`, `dkim check` and the doctor. */
struct dkim_identity {
    struct span domain, selector; /* owned by the ring; also C strings */
    const struct dkim_key *key;
};

/*
 * The signatures for mail from `from_domain` (normalised), in the order of the configuration, at
 * most DKIM_SIGNATURES_MAX; a pair of d= and s= comes once. Returns how many were written to `ret`.
 */
size_t dkim_keyring_match(const struct dkim_keyring *ring, struct span from_domain,
                          struct dkim_identity ret[DKIM_SIGNATURES_MAX]);

/* -- signing ---------------------------------------------------------------------------------- */

struct dkim_signer; /* opaque; one for each worker thread */

/* ERR_IO when libopendkim does not start or lacks SHA-256. */
MUST_CHECK enum err_code dkim_signer_new(struct dkim_signer **ret, struct err *err);
void dkim_signer_free(struct dkim_signer *signer); /* NULL is fine */

/*
 * The body, piece by piece: each call gives the next piece, an empty one at the end. The piece
 * stays valid until the next call. Any error ends the signing and is returned as it is.
 */
struct dkim_body {
    enum err_code (*next)(void *arg, struct span *ret, struct err *err);
    void *arg;
};

/* A message as it will be sent. */
struct dkim_message {
    struct span id;          /* for error texts */
    const struct span *head; /* blocks of whole fields, in the order sent: our Received, fields we
                                added, the client's; none holds the empty line */
    size_t n_head;
    struct dkim_body body;
    msec_t now; /* wall time, for t= */
};

enum dkim_verdict {
    DKIM_VERDICT_SIGNED,   /* at least one signature was made */
    DKIM_VERDICT_NO_KEY,   /* no entry fits the From domain */
    DKIM_VERDICT_PRESENT,  /* every fitting entry has signed it already */
    DKIM_VERDICT_UNSIGNED, /* entries fit, but the message can't be signed by its form: log `reason`
                            */
};

struct dkim_signature {
    char domain[256];   /* d= */
    char selector[256]; /* s= */
    char *field;        /* "DKIM-Signature: ..." with its final CRLF */
    size_t field_bytes;
};

struct dkim_result {
    enum dkim_verdict verdict;
    char from_domain[256]; /* normalised, or empty */
    char reason[160];      /* of DKIM_VERDICT_UNSIGNED: one sentence */
    size_t n_signatures;
    struct dkim_signature signatures[DKIM_SIGNATURES_MAX];
};

const char *dkim_verdict_name(enum dkim_verdict verdict); /* "signed", "no_key", ... */

/*
 * Sign a message with every entry of `ring` that fits the domain of its first From mailbox.
 *
 * An entry whose d= and s= are in a DKIM-Signature of the message already is left out. The body is
 * read once, whatever the number of signatures, and not at all when nothing will be signed. On
 * ERR_OK `ret` is filled and goes to dkim_result_release(). ERR_IO: a key or the library failed
 * (`dkim_failure` decides); any error of body.next is passed on. Blocks for the CPU time of the
 * signatures: for workers, never for the loop.
 */
MUST_CHECK enum err_code
dkim_signer_sign(struct dkim_signer *signer, const struct dkim_keyring *ring,
                 const struct dkim_message *message, struct dkim_result *ret, struct err *err);
void dkim_result_release(struct dkim_result *result);

/* -- DNS records (dkim_record.c) -------------------------------------------------------------- */

/*
 * Make a key. `bits` is for RSA (0 means 2048). Writes PKCS#8 PEM text; wipe it after use with
 * dkim_wipe().
 */
MUST_CHECK enum err_code
dkim_keygen(enum dkim_key_type type, unsigned bits, struct strbuf *ret_pem, struct err *err);
void dkim_wipe(struct strbuf *secret); /* zeroes and releases */

/*
 * The canonical form of a selector. It is made of labels like a domain (RFC 6376 section 3.1), but
 * may end in one of digits only: "20240601". ERR_INVAL as domain_normalise().
 */
MUST_CHECK enum err_code
dkim_selector_normalise(struct span in, char ret[static DOMAIN_BUF], struct err *err);

/* "selector._domainkey.domain". */
void dkim_record_name(struct span domain, struct span selector, struct strbuf *out);

/* The TXT value as one string: "v=DKIM1; k=rsa; p=MIIB..." (RFC 6376 section 3.6.1). */
void dkim_record_value(const struct dkim_key *key, struct strbuf *out);

/*
 * A line for a zone file: NAME. IN TXT ( "..." "..." ), the value cut into strings of at most 255
 * octets (RFC 1035 section 3.3.14).
 */
void dkim_record_zone_line(struct span domain, struct span selector, const struct dkim_key *key,
                           struct strbuf *out);

/*
 * Check a TXT value (its strings joined) against a key, as a verifier would (RFC 6376 section
 * 3.6.1): v=, k=, h=, s=, t=, p=. ERR_OK: signatures made with `key` verify; a record in test mode
 * (t=y) gives a sentence in `ret_note`, else it is empty. ERR_INVAL with what is wrong: not a DKIM
 * record, revoked, another key, another type, hashes without sha256, not for mail.
 */
MUST_CHECK enum err_code
dkim_record_check(struct span txt, const struct dkim_key *key, char ret_note[160], struct err *err);
