/*
 * tls_pin - pins of a certificate that OpenSSL holds (text and files: tls.h).
 */
#pragma once

#include <openssl/x509.h>

#include "relayd/net/tls.h"

/* False only when OpenSSL cannot encode the certificate. */
bool tls_pins_of_cert(X509 *cert, struct tls_pin *ret_cert, struct tls_pin *ret_spki);
