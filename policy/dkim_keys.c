/*
 * dkim_keys.c - private keys: reading, checking, and lending them to libopendkim.
 *
 * libopendkim takes a key only as text and decodes it for every signature, which costs more than
 * the signature (333 us of decoding and 270 us of setting up the fresh key, against 285 us). It
 * decodes by calling PEM_read_bio_PrivateKey(), so this file defines that function: it knows one
 * text, our token, and answers with the key that dkim.c lends to its thread; everything else goes
 * to the real function, the next one in the search order. For this to work programs export their
 * symbols (ENABLE_EXPORTS).
 */
#include "policy/dkim_internal.h"

#include <assert.h>
#include <dlfcn.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>

#include "policy/base/mem.h"

static const char key_token[] = "-----relayd lends the key of this thread-----";

/* The only variable outside a struct: libopendkim has no argument that would carry it. */
static __thread EVP_PKEY *lent_key;

const char *
dkim_key_token(void)
{
    return key_token;
}

void
dkim_key_lend(const struct dkim_key *key)
{
    assert(lent_key == NULL);
    EVP_PKEY_up_ref(key->pkey);
    lent_key = key->pkey;
}

void
dkim_key_unlend(bool failed)
{
    assert(lent_key != NULL);
    if (!failed)
        EVP_PKEY_free(lent_key);
    lent_key = NULL;
}

EVP_PKEY *
PEM_read_bio_PrivateKey(BIO *bio, EVP_PKEY **ret, pem_password_cb *cb, void *arg)
{
    typedef EVP_PKEY *read_fn(BIO *, EVP_PKEY **, pem_password_cb *, void *);
    static _Atomic(read_fn *) real;

    char *text = NULL;
    long n = BIO_method_type(bio) == BIO_TYPE_MEM ? BIO_get_mem_data(bio, &text) : 0;
    if (n == (long)strlen(key_token) && memcmp(text, key_token, (size_t)n) == 0) {
        if (lent_key == NULL)
            return NULL;
        EVP_PKEY_up_ref(lent_key);
        if (ret != NULL)
            *ret = lent_key;
        return lent_key;
    }

    read_fn *next = real;
    if (next == NULL) {
        /* ISO C has no cast from an object to a function pointer; POSIX says this copy works. */
        void *symbol = dlsym(RTLD_NEXT, "PEM_read_bio_PrivateKey");
        assert(symbol != NULL);
        memcpy(&next, &symbol, sizeof(next));
        real = next;
    }
    return next(bio, ret, cb, arg);
}

const char *
dkim_openssl_reason(char buf[static 160])
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);
    ERR_clear_error();
    snprintf(buf, 160, "%s", reason == NULL ? "no reason given" : reason);
    return buf;
}

/* A signature with the private part must verify with the public part: finds damaged key files, and
 * keys that would make libopendkim fail in the middle. */
static bool
makes_signatures(const struct dkim_key *key)
{
    static const unsigned char text[] = "relayd tries this key";
    unsigned char signature[DKIM_RSA_BITS_MAX / 8];
    size_t n = sizeof(signature);
    const EVP_MD *hash = key->type == DKIM_KEY_RSA ? EVP_sha256() : NULL;

    EVP_MD_CTX *sign = EVP_MD_CTX_new(), *verify = EVP_MD_CTX_new();
    bool fine = sign != NULL && verify != NULL &&
                EVP_DigestSignInit(sign, NULL, hash, NULL, key->pkey) == 1 &&
                EVP_DigestSign(sign, signature, &n, text, sizeof(text)) == 1 &&
                EVP_DigestVerifyInit(verify, NULL, hash, NULL, key->pkey) == 1 &&
                EVP_DigestVerify(verify, signature, n, text, sizeof(text)) == 1;
    EVP_MD_CTX_free(sign);
    EVP_MD_CTX_free(verify);
    return fine;
}

static enum err_code
key_check(struct dkim_key *key, struct err *err)
{
    key->bits = (unsigned)EVP_PKEY_get_bits(key->pkey);
    switch (EVP_PKEY_get_base_id(key->pkey)) {
    case EVP_PKEY_RSA:
        key->type = DKIM_KEY_RSA;
        if (key->bits < DKIM_RSA_BITS_MIN || key->bits > DKIM_RSA_BITS_MAX)
            return err_set(err, ERR_INVAL, "an RSA key of %u bits, expected %u to %u", key->bits,
                           DKIM_RSA_BITS_MIN, DKIM_RSA_BITS_MAX);
        break;
    case EVP_PKEY_ED25519:
        key->type = DKIM_KEY_ED25519;
        key->bits = 256;
        break;
    default:
        return err_set(err, ERR_INVAL, "a key of type %s, expected RSA or Ed25519",
                       EVP_PKEY_get0_type_name(key->pkey));
    }
    if (!makes_signatures(key))
        return err_set(err, ERR_INVAL, "the key is damaged: its signatures do not verify");
    return ERR_OK;
}

enum err_code
dkim_key_from_pkey(EVP_PKEY *pkey, struct dkim_key **ret, struct err *err)
{
    struct dkim_key *key = xcalloc(1, sizeof(*key));
    key->pkey = pkey;
    enum err_code code = key_check(key, err);
    ERR_clear_error();
    if (code != ERR_OK) {
        dkim_key_free(key);
        return code;
    }
    *ret = key;
    return ERR_OK;
}

/* A key with a passphrase must fail and not ask on the terminal. */
static int
no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf, (void)size, (void)writing, (void)arg;
    return -1;
}

enum err_code
dkim_key_parse(struct span pem, struct dkim_key **ret, struct err *err)
{
    char reason[160];
    if (pem.n == 0)
        return err_set(err, ERR_INVAL, "the key file is empty, expected a private key in PEM form");
    if (span_find(pem, SPAN("-----BEGIN ")) == SIZE_MAX)
        return err_set(err, ERR_INVAL,
                       "no PEM text, expected \"-----BEGIN PRIVATE KEY-----\" and what follows");
    if (span_find(pem, SPAN("PRIVATE KEY-----")) == SIZE_MAX)
        return err_set(err, ERR_INVAL, "PEM text of something else, expected a private key");

    BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    EVP_PKEY *pkey = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL);
    BIO_free(bio);
    if (pkey == NULL)
        return err_set(err, ERR_INVAL, "the private key can't be read%s: %s",
                       span_find(pem, SPAN("ENCRYPTED")) == SIZE_MAX ? "" : " (has a passphrase)",
                       dkim_openssl_reason(reason));
    return dkim_key_from_pkey(pkey, ret, err);
}

void
dkim_key_free(struct dkim_key *key)
{
    if (key == NULL)
        return;
    EVP_PKEY_free(key->pkey);
    free(key);
}

enum dkim_key_type
dkim_key_type(const struct dkim_key *key)
{
    return key->type;
}

unsigned
dkim_key_bits(const struct dkim_key *key)
{
    return key->bits;
}

static const char *const type_names[] = {[DKIM_KEY_RSA] = "rsa", [DKIM_KEY_ED25519] = "ed25519"};

const char *
dkim_key_type_name(enum dkim_key_type type)
{
    return type_names[type];
}

bool
dkim_key_type_parse(struct span name, enum dkim_key_type *ret)
{
    for (size_t i = 0; i < N_ELEMENTS(type_names); i++) {
        if (span_ieq(name, span_str(type_names[i]))) {
            *ret = (enum dkim_key_type)i;
            return true;
        }
    }
    return false;
}
