/*
 * dkim_record.c - making keys, and the DNS records that go with them (RFC 6376 section 3.6.1).
 *
 * For `relayctl dkim` and for the check of the configuration against DNS.
 */
#include "policy/dkim_internal.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdlib.h>

#include "policy/base/mem.h"

#define RSA_BITS_DEFAULT 2048u
#define TXT_STRING_MAX 255u /* RFC 1035 section 3.3 */
#define ED25519_BYTES 32u

void
dkim_wipe(struct strbuf *secret)
{
    if (secret->p != NULL)
        OPENSSL_cleanse(secret->p, secret->cap);
    strbuf_release(secret);
}

static enum err_code
openssl_error(const char *what, struct err *err)
{
    char reason[160];
    return err_set(err, ERR_IO, "%s failed: %s", what, dkim_openssl_reason(reason));
}

enum err_code
dkim_keygen(enum dkim_key_type type, unsigned bits, struct strbuf *ret_pem, struct err *err)
{
    EVP_PKEY *pkey;
    if (bits == 0)
        bits = RSA_BITS_DEFAULT;
    if (type == DKIM_KEY_RSA && (bits < DKIM_RSA_BITS_MIN || bits > DKIM_RSA_BITS_MAX))
        return err_set(err, ERR_INVAL, "an RSA key has %u to %u bits", DKIM_RSA_BITS_MIN,
                       DKIM_RSA_BITS_MAX);
    pkey = type == DKIM_KEY_RSA ? EVP_RSA_gen(bits) : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (pkey == NULL)
        return openssl_error("making the key", err);

    enum err_code code = ERR_OK;
    char *text;
    BIO *bio = BIO_new(BIO_s_mem());
    if (bio == NULL || PEM_write_bio_PKCS8PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL) != 1) {
        code = openssl_error("writing the key", err);
    } else {
        long n = BIO_get_mem_data(bio, &text);
        strbuf_add(ret_pem, text, (size_t)n);
        OPENSSL_cleanse(text, (size_t)n);
    }
    BIO_free(bio);
    EVP_PKEY_free(pkey);
    return code;
}

enum err_code
dkim_selector_normalise(struct span in, char ret[static DOMAIN_BUF], struct err *err)
{
    CLEANUP(strbuf_release) struct strbuf longer = STRBUF_INIT; /* it has a last label of letters */
    strbuf_add_span(&longer, in);
    strbuf_add_str(&longer, ".x");
    enum err_code code = domain_normalise(strbuf_span(&longer), ret, err);
    if (code == ERR_OK)
        ret[strlen(ret) - 2] = '\0';
    return code;
}

void
dkim_record_name(struct span domain, struct span selector, struct strbuf *out)
{
    strbuf_add_span(out, selector);
    strbuf_add_str(out, "._domainkey.");
    strbuf_add_span(out, domain);
}

/*
 * The public key as p= has it: the SubjectPublicKeyInfo of an RSA key, the 32 bare octets of an
 * Ed25519 one (RFC 8463 section 4.2). Returns malloc'd octets.
 */
static unsigned char *
public_key(const struct dkim_key *key, size_t *ret_n)
{
    if (key->type == DKIM_KEY_ED25519) {
        unsigned char *raw = xmalloc(ED25519_BYTES);
        *ret_n = ED25519_BYTES;
        if (EVP_PKEY_get_raw_public_key(key->pkey, raw, ret_n) != 1)
            abort(); /* a checked key has its public part */
        return raw;
    }
    unsigned char *der = NULL;
    int n = i2d_PUBKEY(key->pkey, &der);
    if (n <= 0)
        abort();
    unsigned char *copy = xmalloc((size_t)n);
    memcpy(copy, der, (size_t)n);
    OPENSSL_free(der);
    *ret_n = (size_t)n;
    return copy;
}

void
dkim_record_value(const struct dkim_key *key, struct strbuf *out)
{
    size_t n;
    CLEANUP(freep) unsigned char *der = public_key(key, &n);
    CLEANUP(freep) unsigned char *base64 = xmalloc(n / 3 * 4 + 8);

    EVP_EncodeBlock(base64, der, (int)n);
    strbuf_printf(out, "v=DKIM1; k=%s; p=%s", dkim_key_type_name(key->type), base64);
}

void
dkim_record_zone_line(struct span domain, struct span selector, const struct dkim_key *key,
                      struct strbuf *out)
{
    CLEANUP(strbuf_release) struct strbuf value = STRBUF_INIT;
    dkim_record_value(key, &value);
    dkim_record_name(domain, selector, out);
    strbuf_add_str(out, ". IN TXT (");
    for (struct span rest = strbuf_span(&value); rest.n > 0;) {
        struct span piece = span_first(rest, TXT_STRING_MAX);
        strbuf_printf(out, " \"%.*s\"", SPAN_ARG(piece));
        rest = span_from(rest, piece.n);
    }
    strbuf_add_str(out, " )");
}

/* -- checking a record ------------------------------------------------------------------------- */

struct record {
    struct span version, hashes, key_type, services, flags, public_key;
    bool has_public_key;
};

static void
record_tag(struct record *record, struct span name, struct span value)
{
    if (span_eq(name, SPAN("v")))
        record->version = value;
    else if (span_eq(name, SPAN("h")))
        record->hashes = value;
    else if (span_eq(name, SPAN("k")))
        record->key_type = value;
    else if (span_eq(name, SPAN("s")))
        record->services = value;
    else if (span_eq(name, SPAN("t")))
        record->flags = value;
    else if (span_eq(name, SPAN("p"))) {
        record->public_key = value;
        record->has_public_key = true;
    }
}

/* Whether a colon-separated list holds a word. */
static bool
list_has(struct span list, struct span word)
{
    while (list.n > 0)
        if (span_ieq(span_trim(span_cut(&list, ':')), word))
            return true;
    return false;
}

/* Base64 with blanks anywhere, as p= may have; returns malloc'd octets, NULL when it is none. */
static unsigned char *
base64_decode(struct span text, size_t *ret_n)
{
    EVP_ENCODE_CTX *ctx = EVP_ENCODE_CTX_new();
    CLEANUP(freep) char *plain = xmalloc(text.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++)
        if (text.p[i] != ' ' && text.p[i] != '\t' && text.p[i] != '\r' && text.p[i] != '\n')
            plain[n++] = text.p[i];

    unsigned char *out = xmalloc(n + 64);
    int first = 0, last = 0;
    bool fine = ctx != NULL && n > 0 && n % 4 == 0;
    if (fine) {
        EVP_DecodeInit(ctx);
        fine = EVP_DecodeUpdate(ctx, out, &first, (unsigned char *)plain, (int)n) >= 0 &&
               EVP_DecodeFinal(ctx, out + first, &last) >= 0;
    }
    EVP_ENCODE_CTX_free(ctx);
    if (!fine) {
        free(out);
        return NULL;
    }
    *ret_n = (size_t)first + (size_t)last;
    return out;
}

static enum err_code
public_key_check(struct span p, const struct dkim_key *key, struct err *err)
{
    size_t n, own_n;
    CLEANUP(freep) unsigned char *own = public_key(key, &own_n);
    CLEANUP(freep) unsigned char *octets = base64_decode(p, &n);
    if (octets == NULL)
        return err_set(err, ERR_INVAL, "p= is not base64");
    if (key->type == DKIM_KEY_ED25519) {
        if (n != own_n || memcmp(octets, own, n) != 0)
            return err_set(err, ERR_INVAL, "p= is another key");
        return ERR_OK;
    }
    /* Compared as keys: old records hold a bare RSAPublicKey, and encodings may differ. */
    const unsigned char *at = octets;
    EVP_PKEY *theirs = d2i_PUBKEY(NULL, &at, (long)n);
    if (theirs == NULL) {
        at = octets;
        theirs = d2i_PublicKey(EVP_PKEY_RSA, NULL, &at, (long)n);
    }
    bool same = theirs != NULL && EVP_PKEY_eq(theirs, key->pkey) == 1;
    EVP_PKEY_free(theirs);
    char reason[160];
    (void)dkim_openssl_reason(reason);
    if (theirs == NULL)
        return err_set(err, ERR_INVAL, "p= is no RSA public key");
    return same ? ERR_OK : err_set(err, ERR_INVAL, "p= is another key");
}

enum err_code
dkim_record_check(struct span txt, const struct dkim_key *key, char ret_note[160], struct err *err)
{
    struct record record = {
        .key_type = SPAN("rsa"), .hashes = SPAN("sha256"), .services = SPAN("*")};
    bool first = true;

    ret_note[0] = '\0';
    for (struct span rest = txt; rest.n > 0; first = false) {
        struct span value = span_cut(&rest, ';');
        struct span name = span_trim(span_cut(&value, '='));
        value = span_trim(value);
        if (!first && span_eq(name, SPAN("v")))
            return err_set(err, ERR_INVAL, "v= is not the first tag");
        record_tag(&record, name, value);
    }
    if (record.version.p != NULL && !span_eq(record.version, SPAN("DKIM1")))
        return err_set(err, ERR_INVAL, "v= is not DKIM1");
    if (!record.has_public_key)
        return err_set(err, ERR_INVAL, "not a DKIM record: no p=");
    if (record.public_key.n == 0)
        return err_set(err, ERR_INVAL, "the key is revoked: p= is empty");
    if (!span_eq(record.key_type, span_str(dkim_key_type_name(key->type))))
        return err_set(err, ERR_INVAL, "k=%.*s, the key file holds %s", SPAN_ARG(record.key_type),
                       dkim_key_type_name(key->type));
    if (!list_has(record.hashes, SPAN("sha256")))
        return err_set(err, ERR_INVAL, "h= does not allow sha256");
    if (!list_has(record.services, SPAN("*")) && !list_has(record.services, SPAN("email")))
        return err_set(err, ERR_INVAL, "s= does not allow mail");
    enum err_code code = public_key_check(record.public_key, key, err);
    if (code == ERR_OK && list_has(record.flags, SPAN("y")))
        snprintf(ret_note, 160, "t=y: verifiers treat signatures with this key as a test");
    return code;
}
