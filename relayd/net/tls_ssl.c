/*
 * tls_ssl - TLS of one connection: an SSL made ready for its handshake, and the peer judged after
 * it. Used by conn_tls.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "policy/base/ip.h"
#include "policy/base/mem.h"
#include "relayd/net/tls_ctx.h"

/* Ask for `name`, and let OpenSSL check it where the chain is checked. */
static const char *
name_set(const struct tls_ctx *ctx, SSL *ssl, const char *name)
{
    bool verify = ctx->level == TLS_VERIFY && ctx->n_pins == 0;
    struct ip ip;
    if (*name == '\0')
        return verify ? "no name to verify" : NULL;
    if (ip_parse(span_str(name), &ip)) { /* SNI is for host names only (RFC 6066 section 3) */
        if (verify && X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) != 1)
            return "unusable address to verify";
        return NULL;
    }
    if (SSL_set_tlsext_host_name(ssl, name) != 1)
        return verify ? "unusable name to verify" : NULL;
    if (!verify)
        return NULL;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1 ? NULL : "unusable name to verify";
}

static struct tls_peer *
peer_new(const char *name, const struct net_addr *addr, msec_t now)
{
    char text[NET_ADDR_TEXT_BYTES];
    size_t size = strlen(name) + 1 + sizeof(text);
    struct tls_peer *peer = xmalloc(sizeof(*peer) + size);
    peer->begun_at = now;
    snprintf(peer->key, size, "%s|%s", name, net_addr_format(addr, text));
    return peer;
}

SSL *
tls_ssl_new(struct tls_ctx *ctx, const char *name, const struct net_addr *peer, msec_t now,
            const char **ret_reason)
{
    ERR_clear_error();
    SSL *ssl = SSL_new(ctx->ssl_ctx);
    if (ssl == NULL)
        abort(); /* out of memory */
    if (ctx->server) {
        SSL_set_accept_state(ssl);
        return ssl;
    }
    SSL_set_connect_state(ssl);
    const char *reason = name_set(ctx, ssl, name);
    if (reason != NULL) {
        SSL_free(ssl);
        *ret_reason = reason;
        return NULL;
    }
    struct tls_peer *known = peer_new(name, peer, now);
    tls_peer_set(ssl, known);
    SSL_SESSION *session = tls_sessions_take(ctx->sessions, known->key, now);
    if (session != NULL) {
        SSL_set_session(ssl, session);
        SSL_SESSION_free(session);
    }
    return ssl;
}

static void
facts_fill(SSL *ssl, struct tls_facts *facts)
{
    struct tls_pin cert_pin, spki_pin;
    X509 *cert = SSL_get0_peer_certificate(ssl);

    snprintf(facts->version, sizeof(facts->version), "%s", SSL_get_version(ssl));
    snprintf(facts->cipher, sizeof(facts->cipher), "%s", SSL_get_cipher_name(ssl));
    facts->bits = SSL_get_cipher_bits(ssl, NULL);
    facts->server = SSL_is_server(ssl);
    facts->resumed = SSL_session_reused(ssl);
    if (cert != NULL && tls_pins_of_cert(cert, &cert_pin, &spki_pin)) {
        tls_pin_format(&cert_pin, facts->cert_pin);
        tls_pin_format(&spki_pin, facts->spki_pin);
    }
}

bool
tls_peer_holds(SSL *ssl, struct tls_facts *ret_facts, const char **ret_text)
{
    struct tls_ctx *ctx = tls_ctx_of(ssl);
    struct tls_facts facts = {0};
    X509 *cert = SSL_get0_peer_certificate(ssl);
    long result = SSL_get_verify_result(ssl);
    const char *wrong = NULL, *text = cert == NULL ? "no certificate" : "not checked";

    if (!ctx->server && ctx->n_pins > 0) {
        if (tls_pins_match(ctx, cert))
            text = "pin matches";
        else
            wrong = "the certificate matches no pin";
    } else if (!ctx->server && ctx->level == TLS_VERIFY) {
        text = "ok";
        if (cert == NULL)
            wrong = "no certificate";
        else if (result != X509_V_OK)
            wrong = X509_verify_cert_error_string(result);
    }
    if (wrong != NULL) {
        struct tls_peer *peer = tls_peer_of(ssl);
        tls_sessions_drop(ctx->sessions, peer->key);
        free(peer);
        tls_peer_set(ssl, NULL); /* a ticket that still comes is not kept */
        *ret_text = wrong;
        return false;
    }
    facts_fill(ssl, &facts);
    facts.verified = !ctx->server && (ctx->n_pins > 0 || ctx->level == TLS_VERIFY);
    snprintf(facts.verify_text, sizeof(facts.verify_text), "%s", text);
    *ret_facts = facts;
    return true;
}

enum tls_failure
tls_failure_of(SSL *ssl, char *buf, size_t size)
{
    const struct tls_ctx *ctx = tls_ctx_of(ssl);
    long result = SSL_get_verify_result(ssl);
    bool checked = !ctx->server && (ctx->n_pins > 0 || ctx->level == TLS_VERIFY);

    if (checked && result != X509_V_OK) {
        ERR_clear_error();
        snprintf(buf, size, "%s",
                 ctx->n_pins > 0 ? "the certificate matches no pin"
                                 : X509_verify_cert_error_string(result));
        return TLS_FAIL_VERIFY;
    }
    snprintf(buf, size, "%s", tls_last_reason());
    return TLS_FAIL_PROTOCOL;
}
