/* Pins as people write them, and certificates as peers show them. */
#include "relayd/net/tls_pin.h"
#include "tests/fuzz/check.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    const unsigned char *der = (const unsigned char *)copy;
    struct tls_pin pin, spki, again;
    char buf[TLS_PIN_TEXT_BYTES];
    struct err err = {.text = ""};

    if (tls_pin_parse(span_of(copy, n), &pin, &err) == ERR_OK) {
        CHECK(tls_pin_parse(span_str(tls_pin_format(&pin, buf)), &again, NULL) == ERR_OK);
        CHECK(again.kind == pin.kind && memcmp(again.sha256, pin.sha256, 32) == 0);
    } else {
        CHECK(err.text[0] != '\0');
    }
    X509 *cert = d2i_X509(NULL, &der, (long)n);
    if (cert != NULL && tls_pins_of_cert(cert, &pin, &spki))
        CHECK(pin.kind == TLS_PIN_CERT && spki.kind == TLS_PIN_SPKI);
    X509_free(cert);
    return 0;
}
