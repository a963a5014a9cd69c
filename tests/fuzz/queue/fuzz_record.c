/*
 * Every decoder of queue/record.h, with bytes as they come and with bytes whose checksum was put
 * right (a checksum keeps a fuzzer out, not an attacker who writes the file). What decodes must
 * encode again into a record that decodes to the same.
 *
 * Input: kind (1 byte), whether to seal (1 byte), then the record.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "queue/checksum.h"
#include "queue/record.h"

#define ID 0x0102030405060708u
#define NO 9u
#define FINISHED_AT ((msec_t)1700000000000)

#define MUST(condition)   \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static size_t
little(uint8_t *to, uint64_t v, size_t width)
{
    for (size_t i = 0; i < width; i++)
        to[i] = (uint8_t)(v >> (8 * i));
    return width;
}

/* Put the right checksum at offset 1 of the first `n` bytes; `key` as record.c has it. */
static void
seal(uint8_t *record, size_t n, const uint8_t *key, size_t key_n)
{
    if (n < 5)
        return;
    uint32_t sum = checksum(checksum(0, key, key_n), record, 1);
    little(record + 1, checksum(sum, record + 5, n - 5), 4);
}

static void
message(uint8_t *bytes, size_t n, bool sealed)
{
    uint8_t key[12];
    struct record_msg r, again;
    little(key + little(key, ID, 8), 0, 4);
    if (sealed && n >= 9) {
        size_t head = 9 + (bytes[5] | (size_t)bytes[6] << 8) % (n - 8);
        little(bytes + 5, head, 4);
        seal(bytes, head, key, sizeof(key));
    }
    if (record_msg_decode(ID, span_of(bytes, n), &r, NULL) != ERR_OK)
        return;
    (void)!record_body_check(&r, NULL);
    size_t size = record_msg_size(&r);
    char *out = xmalloc(size + r.msg.body.n + 1);
    record_msg_encode(&r, out, size);
    if (r.msg.body.n > 0)
        memcpy(out + size, r.msg.body.p, r.msg.body.n);
    MUST(record_msg_decode(ID, span_of(out, size + r.msg.body.n), &again, NULL) == ERR_OK);
    MUST(again.version == r.version && span_eq(again.unknown, r.unknown) &&
         span_eq(again.msg.sender, r.msg.sender) && span_eq(again.msg.body, r.msg.body) &&
         again.msg.n_signatures == r.msg.n_signatures);
    free(out);
}

static void
recipient(uint8_t *bytes, size_t n, bool sealed)
{
    uint8_t key[12];
    struct record_rcpt r, again;
    little(key + little(key, ID, 8), NO, 4);
    if (sealed)
        seal(bytes, n, key, sizeof(key));
    if (record_rcpt_decode(ID, NO, span_of(bytes, n), &r, NULL) != ERR_OK)
        return;
    size_t size = record_rcpt_size(&r);
    char *out = xmalloc(size);
    record_rcpt_encode(&r, out, size);
    MUST(record_rcpt_decode(ID, NO, span_of(out, size), &again, NULL) == ERR_OK);
    MUST(again.version == r.version && span_eq(again.unknown, r.unknown) &&
         span_eq(again.rcpt.address, r.rcpt.address) &&
         span_eq(again.rcpt.attempts, r.rcpt.attempts) && again.rcpt.due_at == r.rcpt.due_at);
    free(out);
}

static void
history(uint8_t *bytes, size_t n, bool sealed)
{
    uint8_t key[20];
    struct record_past r, again;
    size_t at = little(key, (uint64_t)FINISHED_AT, 8);
    at += little(key + at, ID, 8);
    little(key + at, NO, 4);
    if (sealed)
        seal(bytes, n, key, sizeof(key));
    if (record_past_decode(FINISHED_AT, ID, NO, span_of(bytes, n), &r, NULL) != ERR_OK)
        return;
    size_t size = record_past_size(&r);
    char *out = xmalloc(size);
    record_past_encode(&r, out, size);
    MUST(record_past_decode(FINISHED_AT, ID, NO, span_of(out, size), &again, NULL) == ERR_OK);
    MUST(span_eq(again.past.detail, r.past.detail) && again.past.result == r.past.result);
    free(out);
}

static void
fact(uint8_t *bytes, size_t n, bool sealed)
{
    struct span key = SPAN("space:name");
    struct record_fact r, again;
    if (sealed)
        seal(bytes, n, (const uint8_t *)key.p, key.n);
    if (record_fact_decode(key, span_of(bytes, n), &r, NULL) != ERR_OK)
        return;
    size_t size = record_fact_size(&r);
    char *out = xmalloc(size);
    record_fact_encode(key, &r, out, size);
    MUST(record_fact_decode(key, span_of(out, size), &again, NULL) == ERR_OK);
    MUST(span_eq(again.value, r.value) && span_eq(again.unknown, r.unknown));
    free(out);
}

static void
chunk(uint8_t *bytes, size_t n, bool sealed)
{
    struct span out;
    if (sealed && n > RECORD_SUM_BYTES)
        little(bytes + n - 4, record_chunk_sum(ID, NO, span_of(bytes, n - 4)), 4);
    if (record_chunk_decode(ID, NO, span_of(bytes, n), &out, NULL) == ERR_OK)
        MUST(out.n == n - RECORD_SUM_BYTES && out.n > 0 && out.n <= QUEUE_CHUNK_BYTES);
}

static void
id_text(const uint8_t *bytes, size_t n)
{
    uint64_t id, again;
    char text[QUEUE_ID_TEXT + 1];
    if (queue_id_parse(span_of(bytes, n), &id))
        MUST(queue_id_parse(span_str(queue_id_format(id, text)), &again) && again == id);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 2)
        return 0;
    /* A copy of exactly this size, so that reading beyond it is noticed. */
    uint8_t *bytes = xmalloc(n - 2 + (n == 2));
    memcpy(bytes, data + 2, n - 2);
    bool sealed = data[1] & 1;
    switch (data[0] % 6) {
    case 0:
        message(bytes, n - 2, sealed);
        break;
    case 1:
        recipient(bytes, n - 2, sealed);
        break;
    case 2:
        history(bytes, n - 2, sealed);
        break;
    case 3:
        fact(bytes, n - 2, sealed);
        break;
    case 4:
        chunk(bytes, n - 2, sealed);
        break;
    default:
        id_text(bytes, n - 2);
        break;
    }
    free(bytes);
    return 0;
}
