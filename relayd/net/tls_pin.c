#include "relayd/net/tls_pin.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "policy/base/mem.h"

static int
hex_digit(char c)
{
    if (ascii_digit(c))
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

enum err_code
tls_pin_parse(struct span text, struct tls_pin *ret, struct err *err)
{
    struct tls_pin pin = {.kind = TLS_PIN_CERT};
    struct span hex = text, kind = span_cut(&hex, ':');
    size_t n = 0;

    if (span_ieq(kind, SPAN("SPKI")))
        pin.kind = TLS_PIN_SPKI;
    else if (!span_ieq(kind, SPAN("SHA256")))
        return err_set(err, ERR_INVAL, "expected SHA256: or SPKI: and 64 hex digits");
    for (size_t i = 0; i < hex.n; i++) {
        if (hex.p[i] == ':' && n % 2 == 0 && n > 0 && i + 1 < hex.n && hex.p[i - 1] != ':')
            continue;
        int digit = hex_digit(hex.p[i]);
        if (digit < 0)
            return err_set(err, ERR_INVAL, "fingerprint: a character that is no hex digit");
        if (n == 64)
            return err_set(err, ERR_INVAL, "fingerprint: more than 64 hex digits");
        pin.sha256[n / 2] = (uint8_t)(pin.sha256[n / 2] << 4 | digit);
        n++;
    }
    if (n != 64)
        return err_set(err, ERR_INVAL, "fingerprint: expected 64 hex digits, found %zu", n);
    *ret = pin;
    return ERR_OK;
}

char *
tls_pin_format(const struct tls_pin *pin, char buf[TLS_PIN_TEXT_BYTES])
{
    static const char hex[] = "0123456789abcdef";
    char *p = buf + snprintf(buf, TLS_PIN_TEXT_BYTES, "%s",
                             pin->kind == TLS_PIN_SPKI ? "SPKI:" : "SHA256:");
    for (size_t i = 0; i < sizeof(pin->sha256); i++) {
        *p++ = hex[pin->sha256[i] >> 4];
        *p++ = hex[pin->sha256[i] & 15];
    }
    *p = '\0';
    return buf;
}

bool
tls_pins_of_cert(X509 *cert, struct tls_pin *ret_cert, struct tls_pin *ret_spki)
{
    unsigned char *spki = NULL;
    unsigned n = 0;
    int spki_bytes = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &spki);

    ret_cert->kind = TLS_PIN_CERT;
    ret_spki->kind = TLS_PIN_SPKI;
    bool ok = spki_bytes > 0 && X509_digest(cert, EVP_sha256(), ret_cert->sha256, &n) == 1 &&
              EVP_Digest(spki, (size_t)spki_bytes, ret_spki->sha256, &n, EVP_sha256(), NULL) == 1;
    OPENSSL_free(spki);
    return ok;
}

enum err_code
tls_pins_of_file(const char *path, struct tls_pin *ret_cert, struct tls_pin *ret_spki,
                 struct err *err)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return err_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path,
                       strerror(errno));
    ERR_clear_error();
    X509 *cert = PEM_read_X509(file, NULL, NULL, NULL);
    fclose(file);
    bool ok = cert != NULL && tls_pins_of_cert(cert, ret_cert, ret_spki);
    X509_free(cert);
    ERR_clear_error();
    if (!ok)
        return err_set(err, ERR_INVAL, "%s: no certificate in PEM form", path);
    return ERR_OK;
}
