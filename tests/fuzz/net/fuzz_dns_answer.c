/*
 * fuzz_dns_answer - any bytes as the answer to a question, walked over for each type. What comes
 * out must be whole: texts end, spans lie inside the block, limits hold.
 */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "relayd/net/dns_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check(const struct dns_found *f, enum dns_walk walk, uint16_t type)
{
    const char *block = (const char *)f, *end = block + f->bytes;
    assert(f->n_records <= DNS_RECORDS_MAX && f->n_cnames <= DNS_CNAME_MAX);
    assert(f->name >= block && f->name < end && memchr(f->name, '\0', (size_t)(end - f->name)));
    assert(f->ttl_s >= DNS_TTL_MIN_S && f->ttl_s <= DNS_TTL_MAX_S);
    if (walk == DNS_WALK_ANSWER)
        assert((f->status == DNS_OK) == (f->n_records > 0));
    for (size_t i = 0; i < f->n_records; i++) {
        const struct dns_record *r = &f->records[i];
        if (r->host != NULL)
            assert(r->host >= block && r->host < end &&
                   memchr(r->host, '\0', (size_t)(end - r->host)));
        if (r->data.p != NULL)
            assert(r->data.p >= block && r->data.p + r->data.n <= end);
        assert((r->host != NULL) == (type == DNS_MX || type == DNS_PTR || type == DNS_CNAME));
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint16_t types[] = {DNS_A,   DNS_AAAA, DNS_MX,   DNS_TXT,
                                     DNS_PTR, DNS_TLSA, DNS_CNAME};
    /* Header and question are ours, so that the fuzzer need not guess them: the first byte chooses
     * type and rcode, the next six are the counts, the rest is the records. */
    if (size < 8 || size > 60000)
        return 0;
    uint16_t type = types[(data[0] >> 4) % N_ELEMENTS(types)];
    uint8_t *message = xmalloc(size + 64);
    size_t n = dns_question(message, 1, "example.test", type, false);
    message[2] |= 0x80;
    message[3] = data[0] & 15;
    memcpy(message + 6, data + 1, 6);
    memcpy(message + n, data + 7, size - 7);
    struct dns_found *found = NULL;
    int rcode = 0;
    enum dns_walk walk =
        dns_walk(span_of(message, n + size - 7), "example.test", type, &found, &rcode);
    assert((found != NULL) == (walk == DNS_WALK_ANSWER || walk == DNS_WALK_CHASE));
    if (found != NULL)
        check(found, walk, type);
    free(found);
    free(message);
    /* And the bytes as they are. */
    found = NULL;
    (void)dns_walk(span_of(data, size), "example.test", DNS_MX, &found, &rcode);
    free(found);
    return 0;
}
