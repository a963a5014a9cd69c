/*
 * dkim_internal - what the dkim_*.c files share; nobody else includes this.
 */
#pragma once

#include "policy/dkim.h"

#include <openssl/evp.h>

/* -- dkim_keys.c ------------------------------------------------------------------------------- */

struct dkim_key {
    EVP_PKEY *pkey;
    enum dkim_key_type type;
    unsigned bits;
};

/* A key as a value: it takes over `pkey`, also when the checks fail. */
MUST_CHECK enum err_code dkim_key_from_pkey(EVP_PKEY *pkey, struct dkim_key **ret, struct err *err);

/* The text that stands for a private key inside libopendkim; the key itself never goes there. */
const char *dkim_key_token(void);

/*
 * While a key is lent, this thread's libopendkim gets it when it reads dkim_key_token(). Lent keys
 * carry one more reference until dkim_key_unlend(): after a failed signature libopendkim frees its
 * reference twice, so then (`failed`) that one is left to it.
 */
void dkim_key_lend(const struct dkim_key *key);
void dkim_key_unlend(bool failed);

/* OpenSSL's reason for the latest failure in this thread, as one line; clears the queue. */
const char *dkim_openssl_reason(char buf[static 160]);

/* -- dkim_select.c ----------------------------------------------------------------------------- */

struct dkim_field {
    struct span text;   /* the field without its final CRLF */
    size_t name_length; /* octets before the colon and the blanks before that */
};

/* The fields of one message that will be signed, and what speaks against signing. */
struct dkim_selection {
    size_t n_fields;
    struct dkim_field fields[DKIM_SIGNED_FIELDS_MAX]; /* in the order of the message */
    struct span from;                                 /* value of the first From field */
    const char *refusal; /* why no signature can cover this header block, or NULL */
};

/* Oversigned names, as they go to the end of h=; NULL at the end. */
extern const char *const dkim_oversigned[];

void dkim_select(const struct dkim_message *message, struct dkim_selection *ret);

/* Whether a DKIM-Signature of the message has these d= and s=. */
bool
dkim_is_signed_by(const struct dkim_message *message, struct span domain, struct span selector);

/* Watches the body as it goes by: only CRLF, no NUL, a CRLF at the end. */
struct dkim_body_check {
    bool after_cr; /* the last octet was CR */
    bool any, ends_with_newline;
    const char *refusal;
};
void dkim_body_check(struct dkim_body_check *check, struct span piece);
/* NULL when the body can be signed. */
const char *dkim_body_refusal(const struct dkim_body_check *check);

/* -- dkim_canon.c ------------------------------------------------------------------------------ */

/* Append the relaxed form of one field, without a final CRLF (RFC 6376 section 3.4.2). */
void dkim_canon_header(const struct dkim_field *field, struct strbuf *out);

/* The relaxed body (section 3.4.4) on its way into a hash. */
struct dkim_canon_body {
    EVP_MD_CTX *hash;
    uint64_t n_newlines; /* CRLFs that are written only when something follows */
    bool blank;          /* blanks that are written as one when something follows on the line */
    bool any;            /* something was written */
    bool failed;
    size_t n;
    char buf[256]; /* short pieces are hashed together, long ones where they are */
};
void dkim_canon_body_start(struct dkim_canon_body *body, EVP_MD_CTX *hash);
void dkim_canon_body_add(struct dkim_canon_body *body, struct span piece);
/* Writes what is left; false when hashing failed. The caller ends the hash. */
bool dkim_canon_body_finish(struct dkim_canon_body *body);

/* -- dkim_eddsa.c ------------------------------------------------------------------------------ */

struct dkim_eddsa; /* makes Ed25519 signatures; one for each signer */
MUST_CHECK enum err_code dkim_eddsa_new(struct dkim_eddsa **ret, struct err *err);
void dkim_eddsa_free(struct dkim_eddsa *eddsa);
/* One body hash serves every signature of a message. */
MUST_CHECK enum err_code dkim_eddsa_body_start(struct dkim_eddsa *eddsa, struct err *err);
void dkim_eddsa_body_add(struct dkim_eddsa *eddsa, struct span piece);
MUST_CHECK enum err_code dkim_eddsa_body_finish(struct dkim_eddsa *eddsa, struct err *err);
/* Append "DKIM-Signature: ..." and its CRLF. */
MUST_CHECK enum err_code
dkim_eddsa_sign(struct dkim_eddsa *eddsa, const struct dkim_selection *selection,
                const struct dkim_identity *identity, msec_t now, struct strbuf *out,
                struct err *err);
