/*
 * tls_private - what conn_tls.c needs of a context: an SSL made ready, and a handshake judged.
 */
#pragma once

#include <openssl/ssl.h>

#include "relayd/net/addr.h"
#include "relayd/net/tls.h"

/* For tests that need a peer of other habits. */
SSL_CTX *tls_ctx_openssl(struct tls_ctx *ctx);

bool tls_ctx_is_server(const struct tls_ctx *ctx);

/*
 * An SSL for one connection, in accept or connect state, without BIOs. A client's carries the name
 * to ask for and to verify, and a session of the same name and address if one is kept. NULL when
 * OpenSSL refuses the name (*ret_reason says why). Frees with SSL_free().
 */
SSL *tls_ssl_new(struct tls_ctx *ctx, const char *name, const struct net_addr *peer, msec_t now,
                 const char **ret_reason);

/* After SSL_do_handshake() succeeded: does the peer hold against the policy (a resumed handshake
 * has verified nothing)? False: *ret_text says why, and its session is forgotten. */
bool tls_peer_holds(SSL *ssl, struct tls_facts *ret_facts, const char **ret_text);

/* After an SSL_* call failed with SSL_ERROR_SSL or SYSCALL: what went wrong, one line. Empties the
 * error queue. */
enum tls_failure tls_failure_of(SSL *ssl, char *buf, size_t size);
