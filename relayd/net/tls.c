/*
 * tls - contexts on SSL_CTX.
 *
 * A tls_ctx hangs on its SSL_CTX as ex data, and OpenSSL counts the references: each SSL holds its
 * SSL_CTX and so our policy, and the last of them frees both. That makes it safe to drop a context
 * in a worker while the loop still serves connections made with it.
 *
 * Used by whoever builds configurations; connections by way of tls_ssl.c.
 */
#include "relayd/net/tls_ctx.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "policy/base/mem.h"

#define KEY_FILE_MAX 65536 /* a PEM key has a few KiB; perhaps its chain stands before it */

static pthread_once_t index_once = PTHREAD_ONCE_INIT;
static int ctx_index;  /* SSL_CTX -> struct tls_ctx */
static int peer_index; /* SSL -> struct tls_peer */

static void
ctx_destroy(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    struct tls_ctx *ctx = ptr;
    if (ctx == NULL)
        return;
    tls_sessions_free(ctx->sessions);
    for (size_t i = 0; i < ctx->n_files; i++)
        free(ctx->files[i].path);
    free(ctx);
}

static void
peer_destroy(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    free(ptr);
}

static void
indexes_make(void)
{
    ctx_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, ctx_destroy);
    peer_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, peer_destroy);
    if (ctx_index < 0 || peer_index < 0)
        abort();
}

struct tls_ctx *
tls_ctx_of(const SSL *ssl)
{
    return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), ctx_index);
}

struct tls_peer *
tls_peer_of(const SSL *ssl)
{
    return SSL_get_ex_data(ssl, peer_index);
}

void
tls_peer_set(SSL *ssl, struct tls_peer *peer)
{
    SSL_set_ex_data(ssl, peer_index, peer);
}

const char *
tls_last_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return reason == NULL ? "unknown reason" : reason;
}

/* ---- files ---- */

static bool
stamp_take(const char *path, struct tls_stamp *ret)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return false;
    ret->changed_at = st.st_mtim;
    ret->size_bytes = st.st_size;
    ret->inode = st.st_ino;
    return true;
}

/* Remember `path` as one of the context's files, and that it can be read at all. */
static enum err_code
file_add(struct tls_ctx *ctx, const char *path, struct err *err)
{
    struct tls_stamp *file = &ctx->files[ctx->n_files];
    assert(ctx->n_files < TLS_FILES_MAX);
    if (!stamp_take(path, file) || access(path, R_OK) != 0) {
        enum err_code code = errno == ENOENT ? ERR_NOT_FOUND : errno == EACCES ? ERR_PERM : ERR_IO;
        return err_set(err, code, "%s: %s", path, strerror(errno));
    }
    file->path = xstrdup(path);
    ctx->n_files++;
    return ERR_OK;
}

bool
tls_ctx_stale(const struct tls_ctx *ctx)
{
    for (size_t i = 0; i < ctx->n_files; i++) {
        const struct tls_stamp *was = &ctx->files[i];
        struct tls_stamp is;
        if (!stamp_take(was->path, &is) || is.inode != was->inode ||
            is.size_bytes != was->size_bytes || is.changed_at.tv_sec != was->changed_at.tv_sec ||
            is.changed_at.tv_nsec != was->changed_at.tv_nsec)
            return true;
    }
    return false;
}

/* ---- making contexts ---- */

/* An encrypted key must fail, not ask for its password on the terminal. */
static int
no_password(char *buf, int size, int rwflag, void *arg)
{
    (void)buf, (void)size, (void)rwflag, (void)arg;
    return 0;
}

static struct tls_ctx *
ctx_make(const SSL_METHOD *method, bool server)
{
    pthread_once(&index_once, indexes_make);
    struct tls_ctx *ctx = xcalloc(1, sizeof(*ctx));
    ctx->ssl_ctx = SSL_CTX_new(method);
    if (ctx->ssl_ctx == NULL || SSL_CTX_set_ex_data(ctx->ssl_ctx, ctx_index, ctx) != 1)
        abort(); /* out of memory */
    ctx->server = server;
    ctx->not_after = INT64_MAX;
    SSL_CTX_set_options(ctx->ssl_ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                          SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx->ssl_ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                       SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_default_passwd_cb(ctx->ssl_ctx, no_password);
    SSL_CTX_set_timeout(ctx->ssl_ctx, TLS_SESSION_LIFE_MS / 1000);
    return ctx;
}

void
tls_ctx_free(struct tls_ctx *ctx)
{
    if (ctx != NULL)
        SSL_CTX_free(ctx->ssl_ctx);
}

static void
ctx_freep(struct tls_ctx **ctx)
{
    tls_ctx_free(*ctx);
}

static enum err_code
min_version_set(struct tls_ctx *ctx, const char *version, struct err *err)
{
    static const struct {
        const char *name;
        int number;
    } versions[] = {{"1.0", TLS1_VERSION},
                    {"1.1", TLS1_1_VERSION},
                    {"1.2", TLS1_2_VERSION},
                    {"1.3", TLS1_3_VERSION}};
    for (size_t i = 0; i < N_ELEMENTS(versions); i++) {
        if (strcmp(version, versions[i].name) != 0)
            continue;
        /* OpenSSL's level 1 already refuses what TLS 1.0 and 1.1 sign with. */
        if (versions[i].number < TLS1_2_VERSION)
            SSL_CTX_set_security_level(ctx->ssl_ctx, 0);
        if (SSL_CTX_set_min_proto_version(ctx->ssl_ctx, versions[i].number) == 1)
            return ERR_OK;
        return err_set(err, ERR_INVAL, "TLS %s: %s", version, tls_last_reason());
    }
    return err_set(err, ERR_INVAL, "TLS version \"%s\": expected 1.0, 1.1, 1.2 or 1.3", version);
}

static msec_t
certificate_not_after(X509 *cert)
{
    struct tm tm;
    if (cert == NULL || ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
        return INT64_MAX;
    return (msec_t)timegm(&tm) * 1000;
}

/* SSL_CTX_use_PrivateKey_file() would leave the text of the key in a freed buffer. */
static bool
private_key_use(SSL_CTX *ssl_ctx, const char *path)
{
    char *text = xcalloc(1, KEY_FILE_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, KEY_FILE_MAX);
    BIO *bio = n <= 0 ? NULL : BIO_new_mem_buf(text, (int)n);
    EVP_PKEY *key = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    bool used = key != NULL && SSL_CTX_use_PrivateKey(ssl_ctx, key) == 1;
    EVP_PKEY_free(key);
    BIO_free(bio);
    if (fd >= 0)
        close(fd);
    OPENSSL_cleanse(text, KEY_FILE_MAX);
    free(text);
    return used;
}

static enum err_code
certificate_load(struct tls_ctx *ctx, const char *cert_file, const char *key_file, struct err *err)
{
    enum err_code code = file_add(ctx, cert_file, err);
    if (code == ERR_OK)
        code = file_add(ctx, key_file, err);
    if (code != ERR_OK)
        return code;
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(ctx->ssl_ctx, cert_file) != 1)
        return err_set(err, ERR_INVAL, "%s: no usable certificate: %s", cert_file,
                       tls_last_reason());
    if (!private_key_use(ctx->ssl_ctx, key_file)) {
        bool other = ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH ||
                     ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_TYPE_MISMATCH;
        if (other)
            return err_set(err, ERR_INVAL, "%s: not the key of the certificate in %s (%s)",
                           key_file, cert_file, tls_last_reason());
        return err_set(err, ERR_INVAL, "%s: no usable private key: %s", key_file,
                       tls_last_reason());
    }
    if (SSL_CTX_check_private_key(ctx->ssl_ctx) != 1)
        return err_set(err, ERR_INVAL, "%s: not the key of the certificate in %s (%s)", key_file,
                       cert_file, tls_last_reason());
    ctx->not_after = certificate_not_after(SSL_CTX_get0_certificate(ctx->ssl_ctx));
    return ERR_OK;
}

/* A client shows a certificate to prove that it holds a key; whose key that is the caller decides
 * by its pin. The signature over the handshake is checked by OpenSSL in any case. */
static int
client_certificate_taken(X509_STORE_CTX *store, void *arg)
{
    (void)arg;
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

static void
resumption_set(struct tls_ctx *ctx, const char *scope)
{
    unsigned char id[SSL_MAX_SID_CTX_LENGTH];
    unsigned n = 0;
    SSL_CTX_set_session_cache_mode(ctx->ssl_ctx, SSL_SESS_CACHE_OFF); /* tickets only */
    if (scope == NULL) {
        SSL_CTX_set_options(ctx->ssl_ctx, SSL_OP_NO_TICKET);
        SSL_CTX_set_num_tickets(ctx->ssl_ctx, 0);
        scope = "none"; /* a context id must be set where client certificates are asked for */
    } else {
        SSL_CTX_set_num_tickets(ctx->ssl_ctx, 1);
    }
    if (EVP_Digest(scope, strlen(scope), id, &n, EVP_sha256(), NULL) != 1 ||
        SSL_CTX_set_session_id_context(ctx->ssl_ctx, id, n) != 1)
        abort();
}

enum err_code
tls_server_new(const struct tls_server_config *config, struct tls_ctx **ret, struct err *err)
{
    CLEANUP(ctx_freep) struct tls_ctx *ctx = ctx_make(TLS_server_method(), true);
    enum err_code code =
        min_version_set(ctx, config->min_version == NULL ? "1.2" : config->min_version, err);
    if (code == ERR_OK)
        code = certificate_load(ctx, config->certificate_file, config->private_key_file, err);
    if (code != ERR_OK)
        return code;
    resumption_set(ctx, config->session_scope);
    if (config->ask_client_certificate) {
        SSL_CTX_set_verify(ctx->ssl_ctx, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_cert_verify_callback(ctx->ssl_ctx, client_certificate_taken, NULL);
    }
    *ret = ctx;
    ctx = NULL;
    return ERR_OK;
}

bool
tls_pins_match(const struct tls_ctx *ctx, X509 *cert)
{
    struct tls_pin is[2];
    if (cert == NULL || !tls_pins_of_cert(cert, &is[0], &is[1]))
        return false;
    for (size_t i = 0; i < ctx->n_pins; i++) {
        const struct tls_pin *got = &is[ctx->pins[i].kind == TLS_PIN_SPKI];
        if (memcmp(got->sha256, ctx->pins[i].sha256, sizeof(got->sha256)) == 0)
            return true;
    }
    return false;
}

/* In place of OpenSSL's chain check where pins are given. */
static int
pins_verify(X509_STORE_CTX *store, void *arg)
{
    bool match = tls_pins_match(arg, X509_STORE_CTX_get0_cert(store));
    X509_STORE_CTX_set_error(store, match ? X509_V_OK : X509_V_ERR_CERT_REJECTED);
    return match;
}

static enum err_code
trust_set(struct tls_ctx *ctx, const struct tls_client_config *config, struct err *err)
{
    if (config->n_pins > TLS_PINS_MAX)
        return err_set(err, ERR_LIMIT, "more than %d fingerprints", TLS_PINS_MAX);
    if (config->n_pins > 0) {
        ctx->n_pins = config->n_pins;
        memcpy(ctx->pins, config->pins, config->n_pins * sizeof(ctx->pins[0]));
        SSL_CTX_set_verify(ctx->ssl_ctx, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_cert_verify_callback(ctx->ssl_ctx, pins_verify, ctx);
        return ERR_OK;
    }
    SSL_CTX_set_verify(ctx->ssl_ctx,
                       config->level == TLS_VERIFY ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (config->level != TLS_VERIFY)
        return ERR_OK;
    ERR_clear_error();
    if (config->ca_file == NULL) {
        if (SSL_CTX_set_default_verify_paths(ctx->ssl_ctx) != 1)
            return err_set(err, ERR_IO, "the system's CA certificates: %s", tls_last_reason());
        return ERR_OK;
    }
    enum err_code code = file_add(ctx, config->ca_file, err);
    if (code != ERR_OK)
        return code;
    if (SSL_CTX_load_verify_file(ctx->ssl_ctx, config->ca_file) != 1)
        return err_set(err, ERR_INVAL, "%s: no usable CA certificate: %s", config->ca_file,
                       tls_last_reason());
    /* What is in the file is trusted, be it a root, an intermediate, or the very certificate. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx->ssl_ctx), X509_V_FLAG_PARTIAL_CHAIN);
    return ERR_OK;
}

static int
on_new_session(SSL *ssl, SSL_SESSION *session)
{
    const struct tls_peer *peer = tls_peer_of(ssl);
    if (peer == NULL)
        return 0;
    tls_sessions_put(tls_ctx_of(ssl)->sessions, peer->key, session, peer->begun_at);
    return 1; /* the reference is ours now */
}

enum err_code
tls_client_new(const struct tls_client_config *config, struct tls_ctx **ret, struct err *err)
{
    assert(config->level != TLS_OFF);
    CLEANUP(ctx_freep) struct tls_ctx *ctx = ctx_make(TLS_client_method(), false);
    ctx->level = config->level;
    ctx->sessions = tls_sessions_new();
    const char *version = config->min_version;
    if (version == NULL)
        version = config->legacy ? "1.0" : "1.2";
    enum err_code code = min_version_set(ctx, version, err);
    if (code == ERR_OK)
        code = trust_set(ctx, config, err);
    if (code == ERR_OK && config->certificate_file != NULL)
        code = certificate_load(ctx, config->certificate_file, config->private_key_file, err);
    if (code != ERR_OK)
        return code;
    if (config->legacy)
        SSL_CTX_set_security_level(ctx->ssl_ctx, 0);
    SSL_CTX_set_session_cache_mode(ctx->ssl_ctx,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx->ssl_ctx, on_new_session);
    *ret = ctx;
    ctx = NULL;
    return ERR_OK;
}

enum tls_level
tls_ctx_level(const struct tls_ctx *ctx)
{
    return ctx->level;
}

msec_t
tls_ctx_not_after(const struct tls_ctx *ctx)
{
    return ctx->not_after;
}

size_t
tls_ctx_n_sessions(const struct tls_ctx *ctx)
{
    return ctx->sessions == NULL ? 0 : tls_sessions_n(ctx->sessions);
}

SSL_CTX *
tls_ctx_openssl(struct tls_ctx *ctx)
{
    return ctx->ssl_ctx;
}

bool
tls_ctx_is_server(const struct tls_ctx *ctx)
{
    return ctx->server;
}
