/*
 * fuzz_dkim - any octets as a message to sign with an Ed25519 and an RSA key, and as a DNS record.
 * The first octet is the size of the body's pieces. Signatures must not depend on the pieces.
 */
#include <assert.h>
#include <stdlib.h>

#include "policy/dkim.h"
#include "policy/header.h"
#include "tests/fuzz/check.h"

struct feed {
    struct span rest;
    size_t piece;
};

static enum err_code
feed_next(void *arg, struct span *ret, struct err *err)
{
    struct feed *feed = arg;
    (void)err;
    *ret = span_first(feed->rest, feed->piece);
    feed->rest = span_from(feed->rest, ret->n);
    return ERR_OK;
}

static struct {
    struct dkim_signer *signer;
    struct dkim_keyring *ring;
    struct dkim_key *key; /* for records */
} fx;

static struct dkim_key *
key_make(enum dkim_key_type type)
{
    struct strbuf pem = STRBUF_INIT;
    struct dkim_key *key = NULL;
    struct err err;
    if (dkim_keygen(type, type == DKIM_KEY_RSA ? 1024 : 0, &pem, &err) != ERR_OK ||
        dkim_key_parse(strbuf_span(&pem), &key, &err) != ERR_OK)
        abort();
    dkim_wipe(&pem);
    return key;
}

static void
setup(void)
{
    struct err err;
    struct domain_pattern pattern = {"a.b", false};
    fx.ring = dkim_keyring_new();
    for (enum dkim_key_type type = DKIM_KEY_RSA; type <= DKIM_KEY_ED25519; type++) {
        struct dkim_entry entry = {&pattern, 1, SPAN_NONE, span_str(dkim_key_type_name(type))};
        if (dkim_keyring_add(fx.ring, &entry, key_make(type), &err) != ERR_OK)
            abort();
    }
    fx.key = key_make(DKIM_KEY_ED25519);
    if (dkim_signer_new(&fx.signer, &err) != ERR_OK)
        abort();
}

/* False: there was no memory for it. */
static bool
sign(struct span head, struct span body, size_t piece, struct dkim_result *result)
{
    struct feed feed = {body, piece};
    struct dkim_message message = {SPAN("fuzz"), &head, 1, {feed_next, &feed}, 1700000000000};
    struct err err;
    enum err_code code = dkim_signer_sign(fx.signer, fx.ring, &message, result, &err);
    assert(code == ERR_OK || fuzz_no_memory());
    return code == ERR_OK;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (fx.signer == NULL)
        setup();
    if (n == 0)
        return 0;
    struct strbuf text = STRBUF_INIT;
    strbuf_add_str(&text, "From: x@a.b\r\n");
    strbuf_add(&text, data + 1, n - 1);
    size_t end = header_block_end(strbuf_span(&text), 0);
    struct span head = span_first(strbuf_span(&text), end == SIZE_MAX ? text.n : end - 2);
    struct span body = span_from(strbuf_span(&text), end);
    struct dkim_result one, whole;

    bool both = sign(head, body, (size_t)data[0] + 1, &one);
    both = sign(head, body, SIZE_MAX / 2, &whole) && both;
    if (!both)
        goto done;
    assert(one.verdict == whole.verdict && one.n_signatures == whole.n_signatures);
    for (size_t i = 0; i < one.n_signatures; i++)
        assert(strcmp(one.signatures[i].field, whole.signatures[i].field) == 0);
done:
    dkim_result_release(&one);
    dkim_result_release(&whole);

    char note[160];
    struct err err;
    (void)!dkim_record_check(span_of(data, n), fx.key, note, &err);
    strbuf_release(&text);
    return 0;
}
