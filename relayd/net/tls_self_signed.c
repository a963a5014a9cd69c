/*
 * tls_self_signed - a key and certificate for a node whose peers know it by its pin.
 */
#include "relayd/net/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "policy/base/domain.h"
#include "policy/base/ip.h"
#include "policy/base/mem.h"
#include "relayd/net/tls_pin.h"

#define DAY_S 86400L
#define COMMON_NAME_MAX 64 /* ub-common-name of X.520: a longer name is in the SAN only */

static bool
extension_add(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = ext != NULL && X509_add_ext(cert, ext, -1) == 1;
    X509_EXTENSION_free(ext);
    return ok;
}

static bool
serial_set(X509 *cert)
{
    unsigned char bytes[16];
    if (RAND_bytes(bytes, sizeof(bytes)) != 1)
        return false;
    bytes[0] = (bytes[0] & 0x7f) | 0x40; /* positive, and of full length */
    BIGNUM *n = BN_bin2bn(bytes, sizeof(bytes), NULL);
    bool ok = n != NULL && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(cert)) != NULL;
    BN_free(n);
    return ok;
}

static bool
fields_fill(X509 *cert, EVP_PKEY *key, const char *name, bool is_ip, int days)
{
    char san[DOMAIN_BUF + 8];
    snprintf(san, sizeof(san), "%s:%s", is_ip ? "IP" : "DNS", name);
    const char *common = strlen(name) <= COMMON_NAME_MAX ? name : "relayd";
    X509_NAME *subject = X509_get_subject_name(cert);
    return X509_set_version(cert, X509_VERSION_3) == 1 && serial_set(cert) &&
           X509_gmtime_adj(X509_getm_notBefore(cert), -DAY_S) != NULL &&
           X509_time_adj_ex(X509_getm_notAfter(cert), days, 0, NULL) != NULL &&
           X509_set_pubkey(cert, key) == 1 &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)common,
                                      -1, -1, 0) == 1 &&
           X509_set_issuer_name(cert, subject) == 1 &&
           extension_add(cert, NID_subject_alt_name, san) &&
           extension_add(cert, NID_basic_constraints, "critical,CA:FALSE") &&
           extension_add(cert, NID_key_usage, "critical,digitalSignature") &&
           extension_add(cert, NID_ext_key_usage, "serverAuth,clientAuth") &&
           extension_add(cert, NID_subject_key_identifier, "hash");
}

static void
bio_take(BIO *bio, struct strbuf *ret)
{
    char *p;
    long n = BIO_get_mem_data(bio, &p);
    strbuf_reset(ret);
    strbuf_add(ret, p, n < 0 ? 0 : (size_t)n);
}

static bool
pem_write(X509 *cert, EVP_PKEY *key, struct strbuf *ret_cert, struct strbuf *ret_key)
{
    BIO *cert_bio = BIO_new(BIO_s_mem());
    BIO *key_bio = BIO_new(BIO_s_secmem());
    bool ok = cert_bio != NULL && key_bio != NULL && PEM_write_bio_X509(cert_bio, cert) == 1 &&
              PEM_write_bio_PKCS8PrivateKey(key_bio, key, NULL, NULL, 0, NULL, NULL) == 1;
    if (ok) {
        bio_take(cert_bio, ret_cert);
        bio_take(key_bio, ret_key);
    }
    BIO_free(cert_bio);
    BIO_free(key_bio);
    return ok;
}

enum err_code
tls_self_signed(const char *name, int days, struct strbuf *ret_cert, struct strbuf *ret_key,
                struct tls_pin *ret_pin, struct err *err)
{
    struct ip ip;
    struct tls_pin spki;
    bool is_ip = ip_parse(span_str(name), &ip);

    if (!is_ip && !domain_valid_host(span_str(name)))
        return err_set(err, ERR_INVAL, "\"%.100s\" is neither a host name nor an IP address", name);
    if (days < 1 || days > 36500)
        return err_set(err, ERR_INVAL, "a certificate for %d days: expected 1 to 36500", days);
    ERR_clear_error();
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    bool ok = key != NULL && cert != NULL && fields_fill(cert, key, name, is_ip, days) &&
              X509_sign(cert, key, EVP_sha256()) > 0 && tls_pins_of_cert(cert, ret_pin, &spki) &&
              pem_write(cert, key, ret_cert, ret_key);
    X509_free(cert);
    EVP_PKEY_free(key);
    if (ok)
        return ERR_OK;
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return err_set(err, ERR_IO, "making a certificate: %s", reason == NULL ? "unknown" : reason);
}

void
tls_wipe(struct strbuf *secret)
{
    if (secret->p != NULL)
        OPENSSL_cleanse(secret->p, secret->cap);
    strbuf_release(secret);
}
