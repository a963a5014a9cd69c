/* Any bytes as a DKIM key file, and as the record that DNS has for a key. */
#include "policy/dkim.h"
#include "tests/fuzz/check.h"

static const struct dkim_key *
our_key(void)
{
    static struct dkim_key *key;
    struct strbuf pem = STRBUF_INIT;

    if (key == NULL) {
        CHECK(dkim_keygen(DKIM_KEY_ED25519, 0, &pem, NULL) == ERR_OK);
        CHECK(dkim_key_parse(strbuf_span(&pem), &key, NULL) == ERR_OK);
        strbuf_release(&pem);
    }
    return key;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    struct dkim_key *key = NULL;
    struct err err = {.text = ""};
    char note[160];

    if (dkim_key_parse(span_of(copy, n), &key, &err) == ERR_OK) {
        CHECK(dkim_key_bits(key) >= (dkim_key_type(key) == DKIM_KEY_RSA ? DKIM_RSA_BITS_MIN : 256));
        CLEANUP(strbuf_release) struct strbuf value = STRBUF_INIT;
        dkim_record_value(key, &value);
        CHECK(dkim_record_check(strbuf_span(&value), key, note, &err) == ERR_OK);
    } else {
        CHECK(err.text[0] != '\0');
    }
    dkim_key_free(key);
    note[0] = '\0';
    if (dkim_record_check(span_of(copy, n), our_key(), note, &err) == ERR_OK)
        CHECK(memchr(note, '\0', sizeof note) != NULL);
    return 0;
}
