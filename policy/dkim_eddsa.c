/*
 * dkim_eddsa.c - Ed25519 signatures (RFC 8463) by EVP.
 *
 * The libopendkim of bookworm leaks a key and its buffers, about 560 octets, with each of these, so
 * they are made here: over the same fields, in the same relaxed form, as those that libopendkim
 * makes. The signature is over the SHA-256 of the header, not over the header.
 */
#include "policy/dkim_internal.h"

#include <openssl/evp.h>

#include "policy/base/mem.h"

#define DIGEST_BYTES 32
#define FIELD_LINE_MAX 76 /* of the field we write, as far as its parts can be broken */

struct dkim_eddsa {
    EVP_MD *sha256;
    EVP_MD_CTX *hash, *sign;
    struct dkim_canon_body body;
    char body_hash[DIGEST_BYTES * 2]; /* base64 */
    struct strbuf names;              /* memory kept between messages */
    struct strbuf header;
};

void
dkim_eddsa_free(struct dkim_eddsa *eddsa)
{
    if (eddsa == NULL)
        return;
    EVP_MD_free(eddsa->sha256);
    EVP_MD_CTX_free(eddsa->hash);
    EVP_MD_CTX_free(eddsa->sign);
    strbuf_release(&eddsa->names);
    strbuf_release(&eddsa->header);
    free(eddsa);
}

static enum err_code
openssl_error(const char *what, struct err *err)
{
    char reason[160];
    return err_set(err, ERR_IO, "%s failed: %s", what, dkim_openssl_reason(reason));
}

enum err_code
dkim_eddsa_new(struct dkim_eddsa **ret, struct err *err)
{
    struct dkim_eddsa *eddsa = xcalloc(1, sizeof(*eddsa));
    eddsa->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    eddsa->hash = EVP_MD_CTX_new();
    eddsa->sign = EVP_MD_CTX_new();
    if (eddsa->sha256 == NULL || eddsa->hash == NULL || eddsa->sign == NULL) {
        dkim_eddsa_free(eddsa);
        return openssl_error("setting up SHA-256", err);
    }
    *ret = eddsa;
    return ERR_OK;
}

enum err_code
dkim_eddsa_body_start(struct dkim_eddsa *eddsa, struct err *err)
{
    if (EVP_DigestInit_ex2(eddsa->hash, eddsa->sha256, NULL) != 1)
        return openssl_error("SHA-256", err);
    dkim_canon_body_start(&eddsa->body, eddsa->hash);
    return ERR_OK;
}

void
dkim_eddsa_body_add(struct dkim_eddsa *eddsa, struct span piece)
{
    dkim_canon_body_add(&eddsa->body, piece);
}

enum err_code
dkim_eddsa_body_finish(struct dkim_eddsa *eddsa, struct err *err)
{
    unsigned char digest[DIGEST_BYTES];
    if (!dkim_canon_body_finish(&eddsa->body) || EVP_DigestFinal_ex(eddsa->hash, digest, NULL) != 1)
        return openssl_error("SHA-256", err);
    EVP_EncodeBlock((unsigned char *)eddsa->body_hash, digest, DIGEST_BYTES);
    return ERR_OK;
}

/* One name of h=, on a new line when this one is full. */
static void
name_add(struct strbuf *field, size_t *line_start, struct span name, bool first)
{
    if (!first)
        strbuf_add_byte(field, ':');
    if (field->n - *line_start + name.n + 1 > FIELD_LINE_MAX) {
        strbuf_add_str(field, "\r\n\t ");
        *line_start = field->n - 2;
    }
    for (size_t i = 0; i < name.n; i++)
        strbuf_add_byte(field, ascii_lower(name.p[i]));
}

/*
 * The field up to "b=". Fields are listed and hashed from the last one to the first: a verifier
 * takes the lowest field of a name first (RFC 6376 section 5.4.2).
 */
static void
field_start(const struct dkim_eddsa *eddsa, const struct dkim_selection *selection,
            const struct dkim_identity *identity, msec_t now, struct strbuf *out)
{
    strbuf_printf(out,
                  "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n\td=%.*s;"
                  "\r\n\ts=%.*s; t=%lld;\r\n\th=",
                  SPAN_ARG(identity->domain), SPAN_ARG(identity->selector),
                  (long long)(now / SECOND));
    size_t line_start = out->n - 3;
    for (size_t i = selection->n_fields; i-- > 0;)
        name_add(out, &line_start,
                 span_first(selection->fields[i].text, selection->fields[i].name_length),
                 i + 1 == selection->n_fields);
    for (size_t i = 0; dkim_oversigned[i] != NULL; i++)
        name_add(out, &line_start, span_str(dkim_oversigned[i]), false);
    strbuf_printf(out, ";\r\n\tbh=%s;\r\n\tb=", eddsa->body_hash);
}

/* The SHA-256 of the canonical fields and of our own one with an empty b= (section 3.7). */
static bool
header_hash(struct dkim_eddsa *eddsa, const struct dkim_selection *selection, struct span own,
            unsigned char digest[static DIGEST_BYTES])
{
    struct dkim_field signature = {own, strlen("DKIM-Signature")};
    struct strbuf *text = &eddsa->header;

    strbuf_reset(text);
    for (size_t i = selection->n_fields; i-- > 0;) {
        dkim_canon_header(&selection->fields[i], text);
        strbuf_add_str(text, "\r\n");
    }
    dkim_canon_header(&signature, text);
    return EVP_DigestInit_ex2(eddsa->hash, eddsa->sha256, NULL) == 1 &&
           EVP_DigestUpdate(eddsa->hash, text->p, text->n) == 1 &&
           EVP_DigestFinal_ex(eddsa->hash, digest, NULL) == 1;
}

enum err_code
dkim_eddsa_sign(struct dkim_eddsa *eddsa, const struct dkim_selection *selection,
                const struct dkim_identity *identity, msec_t now, struct strbuf *out,
                struct err *err)
{
    unsigned char digest[DIGEST_BYTES], signature[64];
    char base64[sizeof(signature) * 2];
    size_t start = out->n, n = sizeof(signature);

    field_start(eddsa, selection, identity, now, out);
    struct span own = span_from(strbuf_span(out), start);
    if (!header_hash(eddsa, selection, own, digest) || EVP_MD_CTX_reset(eddsa->sign) != 1 ||
        EVP_DigestSignInit(eddsa->sign, NULL, NULL, NULL, identity->key->pkey) != 1 ||
        EVP_DigestSign(eddsa->sign, signature, &n, digest, sizeof(digest)) != 1) {
        strbuf_truncate(out, start);
        return openssl_error("the Ed25519 signature", err);
    }
    EVP_EncodeBlock((unsigned char *)base64, signature, (int)n);
    strbuf_printf(out, "%.64s\r\n\t %s\r\n", base64, base64 + 64);
    return ERR_OK;
}
