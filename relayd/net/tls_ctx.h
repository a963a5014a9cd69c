/*
 * tls_ctx - what tls.c (contexts) and tls_ssl.c (one connection) share. A context hangs on its
 * SSL_CTX, a peer on its SSL; OpenSSL frees both with them.
 */
#pragma once

#include "relayd/net/tls_pin.h"
#include "relayd/net/tls_private.h"
#include "relayd/net/tls_sessions.h"

#include <sys/types.h>
#include <time.h>

#define TLS_FILES_MAX 3

/* Whom a client's SSL speaks to: under what its sessions are kept. */
struct tls_peer {
    msec_t begun_at; /* monotonic */
    char key[];      /* "name|address" */
};

/* A file as it was when it was read. */
struct tls_stamp {
    char *path;
    struct timespec changed_at;
    off_t size_bytes;
    ino_t inode;
};

struct tls_ctx {
    SSL_CTX *ssl_ctx;
    bool server;
    enum tls_level level;
    struct tls_pin pins[TLS_PINS_MAX];
    size_t n_pins;
    struct tls_stamp files[TLS_FILES_MAX];
    size_t n_files;
    msec_t not_after;
    struct tls_sessions *sessions; /* client */
};

/* The context of the SSL_CTX that it was made from. */
struct tls_ctx *tls_ctx_of(const SSL *ssl);

/* NULL: it serves, or its sessions are not kept. */
struct tls_peer *tls_peer_of(const SSL *ssl);
void tls_peer_set(SSL *ssl, struct tls_peer *peer); /* the one before it is the caller's to free */

/* Is the certificate, or its key, one of the context's pins? NULL is none. */
bool tls_pins_match(const struct tls_ctx *ctx, X509 *cert);

/* The newest reason in OpenSSL's queue; empties it. */
const char *tls_last_reason(void);
