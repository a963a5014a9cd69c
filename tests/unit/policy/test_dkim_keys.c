/*
 * test_dkim_keys.c - private keys, which of them sign for whom, and their DNS records.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/dkim.h"

static struct dkim_key *
key_make(enum dkim_key_type type, struct strbuf *record)
{
    struct strbuf pem = STRBUF_INIT;
    struct dkim_key *key;
    struct err err;
    assert_int_equal(dkim_keygen(type, 0, &pem, &err), ERR_OK);
    assert_int_equal(dkim_key_parse(strbuf_span(&pem), &key, &err), ERR_OK);
    dkim_wipe(&pem);
    dkim_record_value(key, record);
    return key;
}

static void
ring_add(struct dkim_keyring *ring, const char *pattern, const char *domain, const char *selector,
         struct dkim_key *key)
{
    struct err err;
    char name[DOMAIN_BUF];
    struct domain_pattern p;
    assert_int_equal(domain_pattern_parse(span_str(pattern), name, &p, &err), ERR_OK);
    struct dkim_entry entry = {&p, 1, span_str(domain), span_str(selector)};
    assert_int_equal(dkim_keyring_add(ring, &entry, key, &err), ERR_OK);
}

/* -- keys, keyring ------------------------------------------------------------------------------
 */

static void
assert_key_refused(struct span pem, const char *reason)
{
    struct dkim_key *key = NULL;
    struct err err;
    assert_int_equal(dkim_key_parse(pem, &key, &err), ERR_INVAL);
    if (strstr(err.text, reason) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, reason);
    assert_null(key);
}

static struct strbuf
pem_of(EVP_PKEY *pkey, const EVP_CIPHER *cipher, bool traditional)
{
    struct strbuf pem = STRBUF_INIT;
    char *text;
    BIO *bio = BIO_new(BIO_s_mem());
    assert_non_null(pkey);
    if (traditional)
        assert_int_equal(PEM_write_bio_PrivateKey_traditional(bio, pkey, NULL, NULL, 0, NULL, NULL),
                         1);
    else
        assert_int_equal(PEM_write_bio_PKCS8PrivateKey(bio, pkey, cipher, "secret", 6, NULL, NULL),
                         1);
    long n = BIO_get_mem_data(bio, &text);
    strbuf_add(&pem, text, (size_t)n);
    BIO_free(bio);
    EVP_PKEY_free(pkey);
    return pem;
}

static void
keys_of_the_wrong_kind_are_refused_with_a_reason(void **state)
{
    (void)state;
    assert_key_refused(SPAN(""), "empty");
    assert_key_refused(SPAN("MIIEpAIBAAKCAQEA"), "no PEM");
    assert_key_refused(SPAN("-----BEGIN CERTIFICATE-----\nAAAA\n"), "something else");
    assert_key_refused(SPAN("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
                       "can't be read");
    struct strbuf pem = pem_of(EVP_EC_gen("P-256"), NULL, false);
    assert_key_refused(strbuf_span(&pem), "expected RSA or Ed25519");
    strbuf_release(&pem);
    pem = pem_of(EVP_RSA_gen(512), NULL, false);
    assert_key_refused(strbuf_span(&pem), "512 bits");
    strbuf_release(&pem);
    pem = pem_of(EVP_RSA_gen(1024), EVP_aes_128_cbc(), false);
    assert_key_refused(strbuf_span(&pem), "passphrase");
    strbuf_release(&pem);
}

static void
keys_in_pkcs1_and_pkcs8_are_read(void **state)
{
    (void)state;
    for (int traditional = 0; traditional < 2; traditional++) {
        struct strbuf pem = pem_of(EVP_RSA_gen(1024), NULL, traditional != 0);
        struct dkim_key *key;
        struct err err;
        assert_int_equal(dkim_key_parse(strbuf_span(&pem), &key, &err), ERR_OK);
        assert_int_equal(dkim_key_bits(key), 1024);
        assert_int_equal(dkim_key_type(key), DKIM_KEY_RSA);
        dkim_key_free(key);
        strbuf_release(&pem);
    }
}

static void
other_callers_still_get_the_real_key_reader(void **state)
{
    (void)state;
    struct strbuf pem = pem_of(EVP_EC_gen("P-256"), NULL, false);
    BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    EVP_PKEY *pkey = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    assert_non_null(pkey);
    assert_int_equal(EVP_PKEY_get_base_id(pkey), EVP_PKEY_EC);
    EVP_PKEY_free(pkey);
    BIO_free(bio);
    strbuf_release(&pem);
}

static void
expect_match(const struct dkim_keyring *ring, const char *from, const char *want)
{
    struct dkim_identity identities[DKIM_SIGNATURES_MAX];
    struct strbuf got = STRBUF_INIT;
    size_t n = dkim_keyring_match(ring, span_str(from), identities);
    for (size_t i = 0; i < n; i++)
        strbuf_printf(&got, "%s%s/%s", i == 0 ? "" : " ", identities[i].domain.p,
                      identities[i].selector.p);
    assert_string_equal(got.p == NULL ? "" : got.p, want);
    strbuf_release(&got);
}

static void
entries_match_by_name_and_wildcard_in_the_order_of_the_file(void **state)
{
    (void)state;
    struct strbuf record = STRBUF_INIT;
    struct dkim_keyring *ring = dkim_keyring_new();
    static const char *const entries[][3] = {
        {"*.example.org", "", "wild"},
        {"example.org", "", "exact"},
        {"a.example.org", "", "a"},
        {"a.example.org", "example.org", "a"},
        {"*.a.example.org", "a.test", "deep"},
        {"example.org", "", "exact"},
        {"b.example.org", "b.test", "b"},
    };
    for (size_t i = 0; i < N_ELEMENTS(entries); i++)
        ring_add(ring, entries[i][0], entries[i][1], entries[i][2],
                 key_make(DKIM_KEY_ED25519, &record));
    assert_int_equal(dkim_keyring_count(ring), N_ELEMENTS(entries));
    expect_match(ring, "example.org", "example.org/exact");
    expect_match(ring, "a.example.org", "example.org/wild a.example.org/a example.org/a");
    expect_match(ring, "x.a.example.org", "example.org/wild a.test/deep");
    expect_match(ring, "x.y.a.example.org", "example.org/wild a.test/deep");
    expect_match(ring, "b.example.org", "example.org/wild b.test/b");
    expect_match(ring, "notexample.org", "");
    expect_match(ring, "org", "");
    strbuf_release(&record);
    dkim_keyring_free(ring);
}

static void
one_entry_with_name_and_wildcard_signs_once(void **state)
{
    (void)state;
    struct strbuf record = STRBUF_INIT;
    struct err err;
    struct dkim_keyring *ring = dkim_keyring_new();
    struct domain_pattern patterns[] = {{"example.org", false},
                                        {"example.org", true},
                                        {"a.example.org", true},
                                        {"x.a.example.org", false}};
    struct dkim_entry entry = {patterns, 4, SPAN_NONE, SPAN("20230601")};
    assert_int_equal(dkim_keyring_add(ring, &entry, key_make(DKIM_KEY_ED25519, &record), &err),
                     ERR_OK);
    expect_match(ring, "example.org", "example.org/20230601");
    expect_match(ring, "x.a.example.org", "x.a.example.org/20230601");
    expect_match(ring, "y.a.example.org", "a.example.org/20230601");
    expect_match(ring, "b.example.org", "example.org/20230601");

    entry.selector = SPAN("a b");
    assert_int_equal(dkim_keyring_add(ring, &entry, key_make(DKIM_KEY_ED25519, &record), &err),
                     ERR_INVAL);
    entry.selector = SPAN("a;d=x");
    assert_int_equal(dkim_keyring_add(ring, &entry, key_make(DKIM_KEY_ED25519, &record), &err),
                     ERR_INVAL);
    entry.selector = SPAN("ok");
    entry.domain = SPAN("not a domain");
    assert_int_equal(dkim_keyring_add(ring, &entry, key_make(DKIM_KEY_ED25519, &record), &err),
                     ERR_INVAL);
    strbuf_release(&record);
    dkim_keyring_free(ring);
}

/* -- DNS records --------------------------------------------------------------------------------
 */

static void
a_zone_line_has_strings_of_at_most_255_octets_that_join_to_the_value(void **state)
{
    (void)state;
    struct strbuf value = STRBUF_INIT, line = STRBUF_INIT, joined = STRBUF_INIT;
    struct dkim_key *key = key_make(DKIM_KEY_RSA, &value);
    dkim_record_zone_line(SPAN("example.org"), SPAN("cn"), key, &line);
    assert_true(span_starts(strbuf_span(&line), SPAN("cn._domainkey.example.org. IN TXT ( \"")));
    struct span rest = strbuf_span(&line);
    span_cut(&rest, '"');
    for (unsigned strings = 0; rest.n > 3; strings++) {
        struct span string = span_cut(&rest, '"');
        assert_true(string.n <= 255 && strings < 3);
        strbuf_add_span(&joined, string);
        span_cut(&rest, '"');
    }
    assert_string_equal(joined.p, value.p);
    assert_true(value.n > 255);
    strbuf_release(&joined);
    strbuf_release(&line);
    strbuf_release(&value);
    dkim_key_free(key);
}

static void
expect_record(const char *txt, const struct dkim_key *key, const char *reason)
{
    struct err err = {.text = ""};
    char note[160];
    enum err_code code = dkim_record_check(span_str(txt), key, note, &err);
    assert_int_equal(code, reason == NULL ? ERR_OK : ERR_INVAL);
    if (reason != NULL && strstr(err.text, reason) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", err.text, reason);
}

static void
a_record_is_checked_as_a_verifier_would(void **state)
{
    (void)state;
    struct strbuf rsa = STRBUF_INIT, ed = STRBUF_INIT;
    struct dkim_key *rsa_key = key_make(DKIM_KEY_RSA, &rsa);
    struct dkim_key *ed_key = key_make(DKIM_KEY_ED25519, &ed);
    struct strbuf other_rsa = STRBUF_INIT, other_ed = STRBUF_INIT;
    dkim_key_free(key_make(DKIM_KEY_RSA, &other_rsa));
    dkim_key_free(key_make(DKIM_KEY_ED25519, &other_ed));
    const char *p = strstr(rsa.p, "p=");
    char text[1000], note[160];
    struct err err;

    expect_record(rsa.p, rsa_key, NULL);
    expect_record(ed.p, ed_key, NULL);
    expect_record(p, rsa_key, NULL); /* v= and k= have defaults */
    expect_record(other_rsa.p, rsa_key, "another key");
    expect_record(other_ed.p, ed_key, "another key");
    expect_record(ed.p, rsa_key, "k=ed25519");
    expect_record(rsa.p, ed_key, "k=rsa");
    expect_record("v=DKIM1; k=rsa; p=", rsa_key, "revoked");
    expect_record("v=spf1 -all", rsa_key, "v= is not DKIM1");
    expect_record("hello", rsa_key, "no p=");
    expect_record("v=DKIM1; p=@@@@", rsa_key, "not base64");
    expect_record("v=DKIM1; p=AAAA", rsa_key, "no RSA public key");
    snprintf(text, sizeof(text), "k=rsa; %s; v=DKIM1", p);
    expect_record(text, rsa_key, "not the first");
    snprintf(text, sizeof(text), "v=DKIM1; h=sha1; %s", p);
    expect_record(text, rsa_key, "sha256");
    snprintf(text, sizeof(text), "v=DKIM1; h=sha1 : sha256; s=email; n=note; %s;", p);
    expect_record(text, rsa_key, NULL);
    snprintf(text, sizeof(text), "v=DKIM1; s=tlsrpt; %s", p);
    expect_record(text, rsa_key, "mail");
    snprintf(text, sizeof(text), "v=DKIM1; t=y:s; p= %.40s \t %s", p + 2, p + 42);
    assert_int_equal(dkim_record_check(span_str(text), rsa_key, note, &err), ERR_OK);
    assert_non_null(strstr(note, "test"));

    dkim_key_free(rsa_key);
    dkim_key_free(ed_key);
    strbuf_release(&rsa);
    strbuf_release(&ed);
    strbuf_release(&other_rsa);
    strbuf_release(&other_ed);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_of_the_wrong_kind_are_refused_with_a_reason),
        cmocka_unit_test(keys_in_pkcs1_and_pkcs8_are_read),
        cmocka_unit_test(other_callers_still_get_the_real_key_reader),
        cmocka_unit_test(entries_match_by_name_and_wildcard_in_the_order_of_the_file),
        cmocka_unit_test(one_entry_with_name_and_wildcard_signs_once),
        cmocka_unit_test(a_zone_line_has_strings_of_at_most_255_octets_that_join_to_the_value),
        cmocka_unit_test(a_record_is_checked_as_a_verifier_would),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
