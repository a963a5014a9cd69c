/* TLS without a connection: pins, files and what is wrong with them, self-signed certificates. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "policy/base/mem.h"
#include "relayd/net/tls.h"
#include "test_certs.h"

static char dir[64];
static struct test_cert leaf, other;

static int
setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/relayd-tls-XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    test_cert_make(&leaf, dir, "leaf", "DNS:mx.test", -1, 30, NULL);
    test_cert_make(&other, dir, "other", "DNS:mx.test", -1, 30, NULL);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    test_cert_free(&leaf);
    test_cert_free(&other);
    rmdir(dir);
    return 0;
}

#define HEX64 "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void
pins_are_read_in_every_usual_form(void **state)
{
    (void)state;
    struct tls_pin pin;
    struct err err;
    char text[TLS_PIN_TEXT_BYTES];
    assert_int_equal(tls_pin_parse(SPAN("SHA256:" HEX64), &pin, &err), ERR_OK);
    assert_int_equal(pin.kind, TLS_PIN_CERT);
    assert_int_equal(pin.sha256[1], 0x11);
    assert_string_equal(tls_pin_format(&pin, text), "SHA256:" HEX64);
    assert_int_equal(
        tls_pin_parse(SPAN("sha256:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:"
                           "55:66:77:88:99:AA:BB:CC:DD:EE:FF"),
                      &pin, &err),
        ERR_OK);
    assert_string_equal(tls_pin_format(&pin, text), "SHA256:" HEX64);
    assert_int_equal(tls_pin_parse(SPAN("spki:" HEX64), &pin, &err), ERR_OK);
    assert_string_equal(tls_pin_format(&pin, text), "SPKI:" HEX64);
    static const char *const bad[] = {"",
                                      HEX64,
                                      "SHA1:" HEX64,
                                      "SHA256:",
                                      "SHA256:00",
                                      "SHA256:" HEX64 "0",
                                      "SHA256:" HEX64 ":",
                                      "SHA256::" HEX64,
                                      "SHA256:0:0112233445566778899aabbccddeeff0011223344556677889"
                                      "9aabbccddeeff",
                                      "SHA256:g0112233445566778899aabbccddeeff00112233445566778899"
                                      "aabbccddeeff"};
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        assert_int_equal(tls_pin_parse(span_str(bad[i]), &pin, &err), ERR_INVAL);
}

static enum err_code
server(const char *cert, const char *key, const char *version, struct err *err)
{
    struct tls_ctx *ctx = NULL;
    struct tls_server_config config = {cert, key, version, false, NULL};
    enum err_code code = tls_server_new(&config, &ctx, err);
    tls_ctx_free(ctx);
    return code;
}

static void
what_is_wrong_with_files_is_said(void **state)
{
    (void)state;
    struct err err;
    struct tls_ctx *ctx;
    assert_int_equal(server(leaf.cert_file, leaf.key_file, NULL, &err), ERR_OK);
    assert_int_equal(server("/no/such/file", leaf.key_file, NULL, &err), ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "/no/such/file"));
    assert_int_equal(server(leaf.cert_file, other.key_file, NULL, &err), ERR_INVAL);
    assert_non_null(strstr(err.text, "not the key of the certificate"));
    assert_int_equal(server(leaf.key_file, leaf.key_file, NULL, &err), ERR_INVAL);
    assert_non_null(strstr(err.text, "no usable certificate"));
    assert_int_equal(server(leaf.cert_file, leaf.cert_file, NULL, &err), ERR_INVAL);
    assert_non_null(strstr(err.text, "no usable private key"));
    assert_int_equal(server(leaf.cert_file, leaf.key_file, "1.4", &err), ERR_INVAL);
    assert_non_null(strstr(err.text, "1.4"));
    struct tls_client_config config = {.level = TLS_VERIFY, .ca_file = leaf.key_file};
    assert_int_equal(tls_client_new(&config, &ctx, &err), ERR_INVAL);
    assert_non_null(strstr(err.text, "no usable CA"));
    struct tls_pin pins[TLS_PINS_MAX + 1] = {{0}};
    config =
        (struct tls_client_config){.level = TLS_VERIFY, .pins = pins, .n_pins = N_ELEMENTS(pins)};
    assert_int_equal(tls_client_new(&config, &ctx, &err), ERR_LIMIT);
}

static void
an_encrypted_key_is_refused_and_asks_nobody(void **state)
{
    (void)state;
    char path[TEST_PATH_BYTES];
    struct err err;
    snprintf(path, sizeof(path), "%s/encrypted.key", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(
        PEM_write_PKCS8PrivateKey(f, leaf.key, EVP_aes_256_cbc(), "secret", 6, NULL, NULL), 1);
    fclose(f);
    assert_int_equal(server(leaf.cert_file, path, NULL, &err), ERR_INVAL);
    unlink(path);
}

static void
a_context_knows_when_its_files_changed(void **state)
{
    (void)state;
    struct tls_ctx *ctx;
    struct err err;
    struct tls_server_config config = {leaf.cert_file, leaf.key_file, NULL, false, NULL};
    assert_int_equal(tls_server_new(&config, &ctx, &err), ERR_OK);
    assert_false(tls_ctx_stale(ctx));
    msec_t left_ms = tls_ctx_not_after(ctx) - (msec_t)time(NULL) * 1000;
    assert_in_range(left_ms, 30 * DAY - MINUTE, 30 * DAY);
    struct timespec times[2] = {{0, UTIME_OMIT}, {1000, 0}};
    assert_int_equal(utimensat(AT_FDCWD, leaf.key_file, times, 0), 0);
    assert_true(tls_ctx_stale(ctx));
    tls_ctx_free(ctx);
    struct tls_client_config plain = {.level = TLS_REQUIRE};
    assert_int_equal(tls_client_new(&plain, &ctx, &err), ERR_OK);
    assert_false(tls_ctx_stale(ctx));
    assert_true(tls_ctx_not_after(ctx) == INT64_MAX);
    assert_int_equal(tls_ctx_level(ctx), TLS_REQUIRE);
    tls_ctx_free(ctx);
}

static void
write_file(const char *path, const struct strbuf *sb)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(sb->p, 1, sb->n, f), sb->n);
    fclose(f);
}

static void
a_self_signed_certificate_can_be_used_and_verified(void **state)
{
    (void)state;
    static const char *const names[] = {"mail-us.mydomain.com", "192.0.2.1", "2001:db8::1"};
    char cert_path[TEST_PATH_BYTES], key_path[TEST_PATH_BYTES];
    snprintf(cert_path, sizeof(cert_path), "%s/node.crt", dir);
    snprintf(key_path, sizeof(key_path), "%s/node.key", dir);
    for (size_t i = 0; i < N_ELEMENTS(names); i++) {
        struct strbuf cert = STRBUF_INIT, key = STRBUF_INIT;
        struct tls_pin pin, of_file, spki;
        struct err err;
        assert_int_equal(tls_self_signed(names[i], 3650, &cert, &key, &pin, &err), ERR_OK);
        write_file(cert_path, &cert);
        write_file(key_path, &key);
        assert_int_equal(tls_pins_of_file(cert_path, &of_file, &spki, &err), ERR_OK);
        assert_memory_equal(&pin, &of_file, sizeof(pin));
        assert_int_equal(server(cert_path, key_path, NULL, &err), ERR_OK);
        FILE *f = fopen(cert_path, "r");
        X509 *x = PEM_read_X509(f, NULL, NULL, NULL);
        fclose(f);
        if (i == 0)
            assert_int_equal(X509_check_host(x, names[i], 0, 0, NULL), 1);
        else
            assert_int_equal(X509_check_ip_asc(x, names[i], 0), 1);
        assert_int_equal(X509_check_host(x, "other.test", 0, 0, NULL), 0);
        X509_free(x);
        strbuf_release(&cert);
        tls_wipe(&key);
        assert_null(key.p);
    }
    unlink(cert_path);
    unlink(key_path);
}

static void
names_that_fit_no_certificate_are_refused(void **state)
{
    (void)state;
    struct strbuf cert = STRBUF_INIT, key = STRBUF_INIT;
    struct tls_pin pin;
    struct err err;
    static const char *const bad[] = {"", "two words", "a,DNS:b.test", "x..y", "1.2.3"};
    for (size_t i = 0; i < N_ELEMENTS(bad); i++)
        assert_int_equal(tls_self_signed(bad[i], 30, &cert, &key, &pin, &err), ERR_INVAL);
    assert_int_equal(tls_self_signed("a.test", 0, &cert, &key, &pin, &err), ERR_INVAL);
    assert_int_equal(cert.n + key.n, 0);
    assert_int_equal(tls_pins_of_file(leaf.key_file, &pin, &pin, &err), ERR_INVAL);
    assert_int_equal(tls_pins_of_file("/no/such", &pin, &pin, &err), ERR_NOT_FOUND);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pins_are_read_in_every_usual_form),
        cmocka_unit_test(what_is_wrong_with_files_is_said),
        cmocka_unit_test(an_encrypted_key_is_refused_and_asks_nobody),
        cmocka_unit_test(a_context_knows_when_its_files_changed),
        cmocka_unit_test(a_self_signed_certificate_can_be_used_and_verified),
        cmocka_unit_test(names_that_fit_no_certificate_are_refused),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
