/*
 * tls - contexts, policies, pins and certificates. The handshake itself runs in conn.h.
 *
 * A context is immutable once made: a reload makes a new one and drops the old one, and connections
 * keep what they began with. Contexts are made and dropped by any thread (they read files: by a
 * worker), and used by the loop.
 *
 * A client context keeps the sessions it may resume, by peer name and address. Resumption skips
 * verification, so a session never leaves its context: one made under another policy cannot be
 * offered, and pins, chain result and name are checked again after a resumed handshake.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>

#define TLS_PINS_MAX 16
#define TLS_PIN_TEXT_BYTES 72 /* "SHA256:" or "SPKI:", 64 hex digits, NUL */
#define TLS_SESSIONS_MAX 512  /* kept by one client context; about 3 KiB each */
#define TLS_SESSION_LIFE_MS (2 * HOUR)

struct tls_ctx; /* opaque; server or client */

/* ---- pins ---- */

enum tls_pin_kind { TLS_PIN_CERT, TLS_PIN_SPKI };

struct tls_pin {
    enum tls_pin_kind kind; /* SHA256:... of the DER certificate, SPKI:... of its public key info */
    uint8_t sha256[32];
};

/* "SHA256:" or "SPKI:" (any case), then 64 hex digits, colons between them allowed. */
MUST_CHECK enum err_code tls_pin_parse(struct span text, struct tls_pin *ret, struct err *err);
/* The one canonical text: lower-case hex, no colons. Returns buf. */
char *tls_pin_format(const struct tls_pin *pin, char buf[TLS_PIN_TEXT_BYTES]);
/* Pins of the first certificate in a PEM file. ERR_NOT_FOUND, ERR_INVAL, ERR_IO. */
MUST_CHECK enum err_code tls_pins_of_file(const char *path, struct tls_pin *ret_cert,
                                          struct tls_pin *ret_spki, struct err *err);

/* ---- contexts ---- */

struct tls_server_config {
    const char *certificate_file; /* PEM, leaf first, then the chain */
    const char *private_key_file; /* PEM, not encrypted */
    const char *min_version;      /* "1.0" .. "1.3"; NULL = "1.2" */
    bool ask_client_certificate;  /* taken as it is, unverified: the caller compares its pin */
    const char *session_scope;    /* tickets are good only within this name, e.g. "0.0.0.0:465";
                                     NULL = no resumption */
};

/* ERR_INVAL (unreadable PEM, key does not fit, unknown version), ERR_NOT_FOUND, ERR_PERM, ERR_IO;
 * the text names the file. Nothing is kept of `config`. */
MUST_CHECK enum err_code
tls_server_new(const struct tls_server_config *config, struct tls_ctx **ret, struct err *err);

enum tls_level {
    TLS_OFF,           /* never; no context is made for it */
    TLS_OPPORTUNISTIC, /* if offered; the certificate is not looked at */
    TLS_REQUIRE,       /* always; the certificate is not looked at */
    TLS_VERIFY,        /* always; chain and name (or IP address), or a pin */
};

struct tls_client_config {
    enum tls_level level;
    bool legacy;             /* TLS 1.0 and weak keys too: where plain text is the alternative */
    const char *min_version; /* NULL = "1.0" when legacy, else "1.2" */
    const char *ca_file;     /* TLS_VERIFY: PEM; NULL = the system's */
    const struct tls_pin
        *pins;     /* any one match suffices, whatever chain, name and dates say; with */
    size_t n_pins; /* pins none of those is looked at, at every level */
    const char *certificate_file; /* our client certificate, or NULL */
    const char *private_key_file;
};

/* As tls_server_new(); also ERR_LIMIT for more than TLS_PINS_MAX. Not for TLS_OFF. */
MUST_CHECK enum err_code
tls_client_new(const struct tls_client_config *config, struct tls_ctx **ret, struct err *err);

/* Drop the owner's hold; running connections keep theirs. NULL is fine. Any thread. */
void tls_ctx_free(struct tls_ctx *ctx);

enum tls_level tls_ctx_level(const struct tls_ctx *ctx); /* client contexts */
/* Has one of the files it was made from changed since? Stats files: not on the loop. */
bool tls_ctx_stale(const struct tls_ctx *ctx);
/* When our own certificate runs out (wall time); INT64_MAX without one. */
msec_t tls_ctx_not_after(const struct tls_ctx *ctx);
/* Sessions kept: for tests and metrics. */
size_t tls_ctx_n_sessions(const struct tls_ctx *ctx);

/* ---- what a handshake led to ---- */

struct tls_facts {
    char version[12]; /* "TLSv1.3" */
    char cipher[48];  /* "TLS_AES_256_GCM_SHA384" */
    int bits;         /* strength of the cipher */
    bool server;      /* we were the server */
    bool resumed;
    bool verified;                     /* chain and name, or a pin, were checked and held */
    char cert_pin[TLS_PIN_TEXT_BYTES]; /* the peer's certificate as tls_pin_format(); "" = none
                                          shown */
    char spki_pin[TLS_PIN_TEXT_BYTES];
    char verify_text[80]; /* "ok", "pin matches", "not checked", "no certificate" */
};

enum tls_failure {
    TLS_FAIL_NONE,
    TLS_FAIL_VERIFY,   /* certificate: chain, name, dates or pin. Never retried in clear */
    TLS_FAIL_PROTOCOL, /* alert, no common version or cipher, garbage */
    TLS_FAIL_CLOSED,   /* the connection ended in mid-handshake */
};

/* ---- making a certificate ---- */

/*
 * A P-256 key and a certificate signed by itself for `name` (host name, or IP address: SAN of that
 * kind), valid from one day ago for `days`. PEM text goes into *ret_cert and *ret_key, which the
 * caller releases (the key wiped with tls_wipe()). ERR_INVAL (name), ERR_IO (OpenSSL).
 */
struct strbuf;
MUST_CHECK enum err_code
tls_self_signed(const char *name, int days, struct strbuf *ret_cert, struct strbuf *ret_key,
                struct tls_pin *ret_pin, struct err *err);
/* Overwrite and release a strbuf that held a secret. */
void tls_wipe(struct strbuf *secret);
