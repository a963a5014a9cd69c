/*
 * conn_tls - TLS on a connection: an SSL between the socket's bytes and the driver's.
 *
 * OpenSSL never sees the socket. Its BIO is ours: reading takes from `source`, the cipher text at
 * hand, and says "later" when that is used up; writing appends to a buffer of the loop, which is
 * sent after each call. Nothing is buffered in BIOs between two calls, so an idle connection keeps
 * no cipher text, and what was read before STARTTLS can not slip into the session.
 *
 * One feed: cipher text -> handshake step or records -> plain text behind the unread bytes in
 * loop->input -> the driver. It is told only when OpenSSL is done with the cipher text.
 */
#include "relayd/net/conn_private.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/bio.h>
#include <openssl/err.h>

#include "policy/base/mem.h"

#define SEND_BYTES 65536 /* encrypted together before it is sent */

static pthread_once_t method_once = PTHREAD_ONCE_INIT;
static BIO_METHOD *method;

static int
bio_read(BIO *bio, char *buf, int size)
{
    struct conn *c = BIO_get_data(bio);
    struct span part = span_first(c->tls->source, (size_t)size);
    BIO_clear_retry_flags(bio);
    if (part.n == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    memcpy(buf, part.p, part.n);
    c->tls->source = span_from(c->tls->source, part.n);
    return (int)part.n;
}

static int
bio_write(BIO *bio, const char *buf, int n)
{
    struct conn *c = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    strbuf_add(&c->loop->cipher_out, buf, (size_t)n);
    return n;
}

static long
bio_ctrl(BIO *bio, int cmd, long num, void *ptr)
{
    (void)bio, (void)num, (void)ptr;
    return cmd == BIO_CTRL_FLUSH;
}

static int
bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

static void
method_make(void)
{
    int type = BIO_get_new_index();
    method = type < 0 ? NULL : BIO_meth_new(type | BIO_TYPE_SOURCE_SINK, "relayd conn");
    if (method == NULL || BIO_meth_set_read(method, bio_read) != 1 ||
        BIO_meth_set_write(method, bio_write) != 1 || BIO_meth_set_ctrl(method, bio_ctrl) != 1 ||
        BIO_meth_set_create(method, bio_create) != 1)
        abort();
}

static void
bio_attach(struct conn *c)
{
    pthread_once(&method_once, method_make);
    BIO *bio = BIO_new(method);
    if (bio == NULL)
        abort(); /* out of memory */
    BIO_set_data(bio, c);
    SSL_set_bio(c->tls->ssl, bio, bio);
}

/* After every SSL_* call: send what it wrote. */
static void
cipher_send(struct conn *c)
{
    struct strbuf *out = &c->loop->cipher_out;
    struct iovec iov = {out->p, out->n};
    conn_raw_send(c, &iov, 1);
    if (out->cap > 2 * SEND_BYTES + LOOP_RECORD_BYTES)
        strbuf_release(out);
    else
        strbuf_reset(out);
}

void
conn_tls_free(struct conn_tls *tls)
{
    if (tls == NULL)
        return;
    /* OpenSSL forgets the session of an SSL that is freed without a shutdown, as RFC 2246 once
     * wanted; a peer that hangs up would cost us every resumption. */
    if (tls->facts.version[0] != '\0' && !(tls->ended && tls->end_kind == CONN_END_TLS))
        SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(tls->ssl);
    strbuf_release(&tls->early);
    free(tls);
}

enum err_code
conn_start_tls(struct conn *c, struct tls_ctx *ctx, const char *name, enum conn_tls_input input)
{
    const char *reason = "";

    assert(c->state == CONN_OPEN && c->tls == NULL);
    if (c->unread.n > 0 && input == CONN_TLS_NO_INPUT)
        return ERR_INVAL;
    conn_gather_flush(c);
    c->tls = xcalloc(1, sizeof(*c->tls));
    c->tls->ssl = tls_ssl_new(ctx, name, &c->peer, clock_now(loop_clock(c->loop)), &reason);
    if (c->tls->ssl == NULL)
        snprintf(c->tls->text, sizeof(c->tls->text), "%s", reason);
    else
        bio_attach(c);
    conn_tls_set_secret(c);
    if (c->unread.n > 0) {
        strbuf_add_span(&c->tls->early, c->unread);
        conn_consume(c, c->unread.n);
    }
    c->state = CONN_HANDSHAKE;
    conn_reading_start(c); /* also when the driver has paused: a handshake reads */
    conn_later(c);
    return ERR_OK;
}

void
conn_tls_set_secret(struct conn *c)
{
    if (c->tls == NULL || c->tls->ssl == NULL)
        return;
    if (c->secret)
        SSL_set_options(c->tls->ssl, SSL_OP_CLEANSE_PLAINTEXT);
    else
        SSL_clear_options(c->tls->ssl, SSL_OP_CLEANSE_PLAINTEXT);
}

const struct tls_facts *
conn_tls_facts(const struct conn *c)
{
    return c->tls != NULL && c->tls->facts.version[0] != '\0' ? &c->tls->facts : NULL;
}

/* No record will come any more. */
static void
input_ended(struct conn_tls *tls, enum conn_end_kind kind)
{
    if (tls->ended)
        return;
    tls->ended = true;
    tls->end_kind = kind;
}

/* One step of the handshake; true when it is done and the peer holds. */
static bool
handshake_step(struct conn *c)
{
    struct conn_tls *tls = c->tls;
    char text[sizeof(tls->text)];
    const char *wrong;

    ERR_clear_error();
    int done = SSL_do_handshake(tls->ssl);
    int error = SSL_get_error(tls->ssl, done);
    if (done == 1) {
        if (tls_peer_holds(tls->ssl, &tls->facts, &wrong)) {
            cipher_send(c);
            return true;
        }
        cipher_send(c);
        conn_tls_failed(c, TLS_FAIL_VERIFY, wrong);
        return false;
    }
    if (error == SSL_ERROR_WANT_READ) {
        cipher_send(c);
        return false;
    }
    enum tls_failure failure = tls_failure_of(tls->ssl, text, sizeof(text));
    cipher_send(c); /* the alert */
    conn_tls_failed(c, failure, text);
    return false;
}

/* Decrypt what there is behind the unread bytes. */
static void
records_read(struct conn *c)
{
    struct conn_tls *tls = c->tls;
    size_t used = conn_unread_to_front(c), n_old = used, n;
    int error = SSL_ERROR_NONE;

    while (!tls->ended) {
        ERR_clear_error();
        /* Room is left for all that one read of cipher text can hold (loop_private.h). */
        if (SSL_read_ex(tls->ssl, c->loop->input + used, sizeof(c->loop->input) - used, &n) == 1) {
            used += n;
            continue;
        }
        error = SSL_get_error(tls->ssl, 0);
        if (error == SSL_ERROR_ZERO_RETURN) {
            input_ended(tls, CONN_END_EOF);
        } else if (error != SSL_ERROR_WANT_READ) {
            tls_failure_of(tls->ssl, tls->text, sizeof(tls->text));
            input_ended(tls, CONN_END_TLS);
        }
        break;
    }
    cipher_send(c);
    if (used > n_old) {
        c->bytes_in += used - n_old;
        c->unread = span_of(c->loop->input, used);
    } else {
        conn_wipe_input(c, n_old);
    }
}

/* Go on with `cipher`, which need not last longer than this call. */
static void
feed(struct conn *c, struct span cipher)
{
    struct conn_tls *tls = c->tls;
    bool finished = false;
    uint64_t bytes_before = c->bytes_in;

    tls->source = cipher;
    if (c->state == CONN_HANDSHAKE) {
        finished = handshake_step(c);
        if (!finished) {
            assert(c->state >= CONN_ENDED || tls->source.n == 0);
            return;
        }
    }
    records_read(c);
    if (finished)
        conn_tls_done(c);
    if (c->state == CONN_OPEN && c->bytes_in > bytes_before && !c->paused)
        conn_deliver(c);
    else
        conn_keep_unread(c);
    if (c->state == CONN_OPEN && tls->ended && !c->paused)
        conn_end(c, tls->end_kind, 0, tls->end_kind == CONN_END_TLS ? tls->text : NULL);
}

void
conn_tls_begin(struct conn *c)
{
    struct strbuf early = c->tls->early;

    c->tls->begun = true;
    if (c->tls->ssl == NULL) {
        char text[sizeof(c->tls->text)];
        memcpy(text, c->tls->text, sizeof(text));
        conn_tls_failed(c, TLS_FAIL_VERIFY, text);
        return;
    }
    c->tls->early = STRBUF_INIT;
    feed(c, strbuf_span(&early));
    strbuf_release(&early);
}

bool
conn_tls_readable(struct conn *c)
{
    if (!c->tls->begun) {
        conn_tls_begin(c);
        return false; /* the event is still there */
    }
    ssize_t n = read(c->fd, c->loop->cipher_in, sizeof(c->loop->cipher_in));
    if (n > 0) {
        feed(c, span_of(c->loop->cipher_in, (size_t)n));
        return true;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n < 0)
        conn_end_errno(c, errno);
    else
        conn_end(c, CONN_END_TRUNCATED, 0, NULL);
    return false;
}

void
conn_tls_send(struct conn *c, const struct iovec *iov, size_t n)
{
    struct conn_tls *tls = c->tls;
    for (size_t i = 0; i < n; i++) {
        const char *p = iov[i].iov_base;
        size_t left = iov[i].iov_len, done;
        while (left > 0) {
            ERR_clear_error();
            if (SSL_write_ex(tls->ssl, p, left, &done) != 1) {
                tls_failure_of(tls->ssl, tls->text, sizeof(tls->text));
                input_ended(tls, CONN_END_TLS);
                cipher_send(c);
                conn_later(c);
                return;
            }
            p += done;
            left -= done;
            if (c->loop->cipher_out.n >= SEND_BYTES)
                cipher_send(c);
        }
    }
    cipher_send(c);
}

void
conn_tls_close_notify(struct conn *c)
{
    if (c->tls->ssl == NULL || (c->tls->ended && c->tls->end_kind == CONN_END_TLS))
        return;
    ERR_clear_error();
    if (SSL_shutdown(c->tls->ssl) < 0)
        ERR_clear_error();
    cipher_send(c);
}
