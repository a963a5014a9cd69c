/*
 * test_certs - certificates for tests, made afresh in a temporary directory.
 */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "relayd/net/tls.h"

#define TEST_PATH_BYTES 128

/* A certificate and its key, in memory and as files. */
struct test_cert {
    X509 *cert;
    EVP_PKEY *key;
    char cert_file[TEST_PATH_BYTES], key_file[TEST_PATH_BYTES];
    struct tls_pin pin, spki;
};

static inline void
test_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, cert, cert, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(ext);
    assert_int_equal(X509_add_ext(cert, ext, -1), 1);
    X509_EXTENSION_free(ext);
}

/* `san` like "DNS:mx.test"; NULL makes a CA. `issuer` NULL: signed by itself. Days from now. */
static inline void
test_cert_make(struct test_cert *c, const char *dir, const char *file, const char *san,
               int from_days, int to_days, const struct test_cert *issuer)
{
    static long serial;
    struct err err;
    c->key = EVP_EC_gen("P-256");
    c->cert = X509_new();
    assert_non_null(c->key);
    X509_set_version(c->cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(c->cert), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(c->cert), from_days * 86400L);
    X509_gmtime_adj(X509_getm_notAfter(c->cert), to_days * 86400L);
    X509_set_pubkey(c->cert, c->key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(c->cert), "CN", MBSTRING_ASC,
                               (const unsigned char *)file, -1, -1, 0);
    X509_set_issuer_name(c->cert, X509_get_subject_name(issuer == NULL ? c->cert : issuer->cert));
    if (san != NULL)
        test_extension(c->cert, NID_subject_alt_name, san);
    test_extension(c->cert, NID_basic_constraints, san == NULL ? "critical,CA:TRUE" : "CA:FALSE");
    assert_true(X509_sign(c->cert, issuer == NULL ? c->key : issuer->key, EVP_sha256()) > 0);
    snprintf(c->cert_file, sizeof(c->cert_file), "%s/%s.crt", dir, file);
    snprintf(c->key_file, sizeof(c->key_file), "%s/%s.key", dir, file);
    FILE *f = fopen(c->cert_file, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_X509(f, c->cert), 1);
    fclose(f);
    f = fopen(c->key_file, "w");
    assert_non_null(f);
    assert_int_equal(PEM_write_PrivateKey(f, c->key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(f);
    assert_int_equal(tls_pins_of_file(c->cert_file, &c->pin, &c->spki, &err), ERR_OK);
}

static inline void
test_cert_free(struct test_cert *c)
{
    if (c->cert == NULL)
        return;
    X509_free(c->cert);
    EVP_PKEY_free(c->key);
    unlink(c->cert_file);
    unlink(c->key_file);
}
