/*
 * tls_sessions - the sessions that one client context may resume.
 *
 * A direct-mapped table: a key has one place, and the newest session in a place wins. That bounds
 * memory without any list to keep, and losing a session costs one full handshake. Loop thread only.
 */
#pragma once

#include <openssl/ssl.h>

#include <stddef.h>

#include "policy/base/msec.h"

struct tls_sessions;

struct tls_sessions *tls_sessions_new(void);
void tls_sessions_free(struct tls_sessions *s); /* NULL is fine */

/* Keep `session` for `key` (copied), made at monotonic `made_at`; takes over the caller's
 * reference. */
void
tls_sessions_put(struct tls_sessions *s, const char *key, SSL_SESSION *session, msec_t made_at);
/* A session to offer, with a reference for the caller; NULL when there is none or it is older than
 * TLS_SESSION_LIFE_MS. A
 * TLS 1.3 ticket is given once only (RFC 8446 appendix C.4). */
SSL_SESSION *tls_sessions_take(struct tls_sessions *s, const char *key, msec_t now);
void tls_sessions_drop(struct tls_sessions *s, const char *key);
size_t tls_sessions_n(const struct tls_sessions *s);
