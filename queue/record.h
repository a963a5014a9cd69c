/*
 * record - what stands in the tables, byte by byte. Internal to queue/.
 *
 * A record is: version (1 byte), CRC-32C (4 bytes, over the key and all that follows; a message's
 * body has its own), then fields in a fixed order. Numbers are little-endian of fixed width, spans
 * are a LEB128 length and bytes. A newer program may append fields and raises the version; this
 * one keeps the bytes behind its last field (`unknown`) and the version when it rewrites a record.
 * Decoded spans point into the record.
 */
#pragma once

#include "policy/base/err.h"
#include "queue/queue.h"

#define RECORD_VERSION 1 /* of each kind, what this program writes */

struct record_msg {
    uint8_t version;
    struct queue_msg msg; /* msg.body set when the record holds it; msg.id is not in the record */
    uint32_t body_sum;    /* of that body */
    struct span unknown;
};

struct record_rcpt {
    uint8_t version;
    struct queue_rcpt rcpt; /* id and no are not in the record */
    struct span unknown;
};

struct record_past {
    uint8_t version;
    struct queue_past past; /* id, no and finished_at are not in the record */
    struct span unknown;
};

struct record_fact {
    uint8_t version;
    struct span value;
    struct span unknown;
};

/* Bytes of the record (of a message: of its head), and the record itself into `to`, which has room
 * for exactly that. The key (id, no, ...) goes into the checksum. */
size_t record_msg_size(const struct record_msg *r);
void record_msg_encode(const struct record_msg *r, void *to, size_t size);
size_t record_rcpt_size(const struct record_rcpt *r);
void record_rcpt_encode(const struct record_rcpt *r, void *to, size_t size);
size_t record_past_size(const struct record_past *r);
void record_past_encode(const struct record_past *r, void *to, size_t size);
size_t record_fact_size(const struct record_fact *r);
void record_fact_encode(struct span key, const struct record_fact *r, void *to, size_t size);

/*
 * Read a record; the key is given in the value (msg.id and so on) or as an argument. ERR_CORRUPT
 * with what is wrong. A message's inline body is not summed here: record_body_check() does it.
 */
MUST_CHECK enum err_code
record_msg_decode(uint64_t id, struct span bytes, struct record_msg *ret, struct err *err);
MUST_CHECK enum err_code record_body_check(const struct record_msg *r, struct err *err);
MUST_CHECK enum err_code record_rcpt_decode(uint64_t id, uint32_t no, struct span bytes,
                                            struct record_rcpt *ret, struct err *err);
MUST_CHECK enum err_code
record_past_decode(msec_t finished_at, uint64_t id, uint32_t no, struct span bytes,
                   struct record_past *ret, struct err *err);
MUST_CHECK enum err_code
record_fact_decode(struct span key, struct span bytes, struct record_fact *ret, struct err *err);

/* A body chunk is its bytes (1 to QUEUE_CHUNK_BYTES) and their checksum with the key. */
#define RECORD_SUM_BYTES 4
uint32_t record_chunk_sum(uint64_t id, uint32_t chunk, struct span bytes);
MUST_CHECK enum err_code record_chunk_decode(uint64_t id, uint32_t chunk, struct span record,
                                             struct span *ret_bytes, struct err *err);
