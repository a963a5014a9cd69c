/*
 * How: one put function a kind, run twice: first with no memory behind it to count, then into the
 * page that LMDB reserved. Reading is sticky: a field beyond the end marks the whole as bad.
 */
#include "queue/record.h"

#include <assert.h>
#include <string.h>

#include "queue/checksum.h"

#define SUM_AT 1 /* behind the version */
#define FIELDS_AT (SUM_AT + RECORD_SUM_BYTES)

/* ------------------------------------------------------------------------------ primitives */

struct out {
    unsigned char *p; /* NULL: only count */
    size_t n;
};

static void
put(struct out *o, const void *p, size_t n)
{
    if (o->p != NULL && n > 0)
        memcpy(o->p + o->n, p, n);
    o->n += n;
}

static void
put_number(struct out *o, uint64_t v, size_t width)
{
    unsigned char b[8];
    for (size_t i = 0; i < width; i++)
        b[i] = (unsigned char)(v >> (8 * i));
    put(o, b, width);
}

static void
put_length(struct out *o, size_t v)
{
    unsigned char b[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        b[n++] = (unsigned char)(v | 0x80);
    b[n++] = (unsigned char)v;
    put(o, b, n);
}

static void
put_span(struct out *o, struct span s)
{
    put_length(o, s.n);
    put(o, s.p, s.n);
}

struct in {
    const unsigned char *p, *end;
    bool bad;
};

static uint64_t
get_number(struct in *in, size_t width)
{
    uint64_t v = 0;
    if ((size_t)(in->end - in->p) < width) {
        in->bad = true;
        return 0;
    }
    for (size_t i = 0; i < width; i++)
        v |= (uint64_t)in->p[i] << (8 * i);
    in->p += width;
    return v;
}

static size_t
get_length(struct in *in)
{
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 35; shift += 7) {
        uint64_t b = get_number(in, 1);
        v |= (b & 0x7f) << shift;
        if ((b & 0x80) == 0)
            return in->bad ? 0 : (size_t)v;
    }
    in->bad = true;
    return 0;
}

static struct span
get_span(struct in *in)
{
    size_t n = get_length(in);
    if ((size_t)(in->end - in->p) < n)
        in->bad = true;
    if (in->bad)
        return SPAN_NONE;
    struct span s = span_of(in->p, n);
    in->p += n;
    return s;
}

static struct span
get_rest(struct in *in)
{
    struct span s = span_of(in->p, (size_t)(in->end - in->p));
    in->p = in->end;
    return s;
}

/* ---------------------------------------------------------------------------- the checksum */

struct key_bytes {
    unsigned char b[20];
    size_t n;
};

static struct key_bytes
key_of(uint64_t a, uint64_t b, bool with_b, uint32_t no)
{
    struct key_bytes k = {.n = 0};
    struct out o = {k.b, 0};
    put_number(&o, a, 8);
    if (with_b)
        put_number(&o, b, 8);
    put_number(&o, no, 4);
    k.n = o.n;
    return k;
}

static uint32_t
sum_of(struct span key, uint8_t version, const void *fields, size_t n)
{
    uint32_t sum = checksum(0, key.p, key.n);
    sum = checksum(sum, &version, 1);
    return checksum(sum, fields, n);
}

static void
seal(struct span key, unsigned char *record, size_t size)
{
    struct out o = {record + SUM_AT, 0};
    put_number(&o, sum_of(key, record[0], record + FIELDS_AT, size - FIELDS_AT), RECORD_SUM_BYTES);
}

/* Checks version and checksum of `bytes`; the fields are left in *in. */
static enum err_code
unseal(const char *kind, struct span key, struct span bytes, uint8_t *ret_version, struct in *in,
       struct err *err)
{
    const unsigned char *p = (const unsigned char *)bytes.p;
    if (bytes.n < FIELDS_AT)
        return err_set(err, ERR_CORRUPT, "%s record of %zu bytes is cut short", kind, bytes.n);
    if (p[0] == 0)
        return err_set(err, ERR_CORRUPT, "%s record has version 0", kind);
    *in = (struct in){p + SUM_AT, p + bytes.n, false};
    uint32_t stored = (uint32_t)get_number(in, RECORD_SUM_BYTES);
    uint32_t found = sum_of(key, p[0], p + FIELDS_AT, bytes.n - FIELDS_AT);
    if (stored != found)
        return err_set(err, ERR_CORRUPT, "%s record has a wrong checksum (%08x, not %08x)", kind,
                       (unsigned)found, (unsigned)stored);
    *ret_version = p[0];
    return ERR_OK;
}

/* After the last field: nothing may be wrong, and only a newer record may go on. */
static enum err_code
finish(const char *kind, struct in *in, uint8_t version, struct span *ret_unknown, struct err *err)
{
    if (in->bad)
        return err_set(err, ERR_CORRUPT, "%s record has a field beyond its end", kind);
    *ret_unknown = get_rest(in);
    if (version <= RECORD_VERSION && ret_unknown->n > 0)
        return err_set(err, ERR_CORRUPT, "%s record has %zu bytes behind its last field", kind,
                       ret_unknown->n);
    return ERR_OK;
}

static uint8_t
version_to_write(uint8_t version)
{
    return version > RECORD_VERSION ? version : RECORD_VERSION;
}

/* --------------------------------------------------------------------------------- message */

/* version, sum, head bytes, body sum, numbers, spans, signatures, unknown; then the body */
static void
msg_put(struct out *o, const struct record_msg *r, size_t head_bytes)
{
    const struct queue_msg *m = &r->msg;
    put_number(o, version_to_write(r->version), 1);
    put_number(o, 0, RECORD_SUM_BYTES);
    put_number(o, head_bytes, 4);
    put_number(o, r->body_sum, 4);
    put_number(o, (uint64_t)m->arrived_at, 8);
    put_number(o, m->size_bytes, 8);
    put_number(o, m->body_bytes, 8);
    put_number(o, m->flags, 4);
    put_span(o, m->sender);
    put_span(o, m->client);
    put_span(o, m->ret);
    put_span(o, m->envid);
    put_span(o, m->received);
    put_span(o, m->added);
    put_length(o, m->n_signatures);
    for (size_t i = 0; i < m->n_signatures; i++) {
        put_span(o, m->signatures[i].domain);
        put_span(o, m->signatures[i].selector);
        put_span(o, m->signatures[i].field);
    }
    put(o, r->unknown.p, r->unknown.n);
}

static struct span
msg_key(struct key_bytes *k, uint64_t id)
{
    *k = key_of(id, 0, false, 0);
    return span_of(k->b, k->n);
}

size_t
record_msg_size(const struct record_msg *r)
{
    struct out o = {NULL, 0};
    msg_put(&o, r, 0);
    return o.n;
}

void
record_msg_encode(const struct record_msg *r, void *to, size_t size)
{
    struct key_bytes k;
    struct out o = {to, 0};
    msg_put(&o, r, size);
    assert(o.n == size);
    seal(msg_key(&k, r->msg.id), to, size);
}

static void
signatures_get(struct in *in, struct queue_msg *m)
{
    m->n_signatures = get_length(in);
    if (m->n_signatures > QUEUE_SIGNATURES_MAX) {
        m->n_signatures = 0;
        in->bad = true;
    }
    for (size_t i = 0; i < m->n_signatures; i++) {
        m->signatures[i].domain = get_span(in);
        m->signatures[i].selector = get_span(in);
        m->signatures[i].field = get_span(in);
    }
}

/* Where the head ends: it must be known before the checksum can be. */
static bool
head_bytes_get(struct span bytes, size_t *ret)
{
    if (bytes.n < FIELDS_AT + 4)
        return false;
    struct in in = {(const unsigned char *)bytes.p + FIELDS_AT,
                    (const unsigned char *)bytes.p + bytes.n, false};
    *ret = get_number(&in, 4);
    return *ret >= FIELDS_AT + 4 && *ret <= bytes.n;
}

enum err_code
record_msg_decode(uint64_t id, struct span bytes, struct record_msg *ret, struct err *err)
{
    size_t head;
    struct key_bytes k;
    struct in in;
    struct queue_msg *m = &ret->msg;
    ret->unknown = SPAN_NONE;
    if (!head_bytes_get(bytes, &head))
        return err_set(err, ERR_CORRUPT, "message record of %zu bytes is cut short", bytes.n);
    enum err_code code =
        unseal("message", msg_key(&k, id), span_first(bytes, head), &ret->version, &in, err);
    if (code != ERR_OK)
        return code;
    get_number(&in, 4); /* head bytes again */
    ret->body_sum = (uint32_t)get_number(&in, 4);
    m->id = id;
    m->arrived_at = (msec_t)get_number(&in, 8);
    m->size_bytes = get_number(&in, 8);
    m->body_bytes = get_number(&in, 8);
    m->flags = (uint32_t)get_number(&in, 4);
    m->sender = get_span(&in);
    m->client = get_span(&in);
    m->ret = get_span(&in);
    m->envid = get_span(&in);
    m->received = get_span(&in);
    m->added = get_span(&in);
    signatures_get(&in, m);
    m->body = span_from(bytes, head);
    size_t want = (m->flags & QUEUE_MSG_CHUNKED) != 0 ? 0 : m->body_bytes;
    if (!in.bad && m->body.n != want)
        return err_set(err, ERR_CORRUPT, "message record holds %zu bytes of body, not %zu",
                       m->body.n, want);
    return finish("message", &in, ret->version, &ret->unknown, err);
}

enum err_code
record_body_check(const struct record_msg *r, struct err *err)
{
    if (checksum(0, r->msg.body.p, r->msg.body.n) != r->body_sum)
        return err_set(err, ERR_CORRUPT, "the body has a wrong checksum");
    return ERR_OK;
}

/* ------------------------------------------------------------------------------- recipient */

static void
rcpt_put(struct out *o, const struct record_rcpt *r)
{
    put_number(o, version_to_write(r->version), 1);
    put_number(o, 0, RECORD_SUM_BYTES);
    put_number(o, r->rcpt.revision, 4);
    put_number(o, (uint8_t)r->rcpt.state, 1);
    put_number(o, (uint64_t)r->rcpt.due_at, 8);
    put_number(o, r->rcpt.notify, 1);
    put_span(o, r->rcpt.address);
    put_span(o, r->rcpt.domain);
    put_span(o, r->rcpt.orcpt);
    put_span(o, r->rcpt.attempts);
    put(o, r->unknown.p, r->unknown.n);
}

size_t
record_rcpt_size(const struct record_rcpt *r)
{
    struct out o = {NULL, 0};
    rcpt_put(&o, r);
    return o.n;
}

void
record_rcpt_encode(const struct record_rcpt *r, void *to, size_t size)
{
    struct key_bytes k = key_of(r->rcpt.id, 0, false, r->rcpt.no);
    struct out o = {to, 0};
    rcpt_put(&o, r);
    assert(o.n == size);
    seal(span_of(k.b, k.n), to, size);
}

enum err_code
record_rcpt_decode(uint64_t id, uint32_t no, struct span bytes, struct record_rcpt *ret,
                   struct err *err)
{
    struct key_bytes k = key_of(id, 0, false, no);
    struct in in;
    struct queue_rcpt *r = &ret->rcpt;
    ret->unknown = SPAN_NONE;
    enum err_code code = unseal("recipient", span_of(k.b, k.n), bytes, &ret->version, &in, err);
    if (code != ERR_OK)
        return code;
    r->id = id;
    r->no = no;
    r->revision = (uint32_t)get_number(&in, 4);
    unsigned state = (unsigned)get_number(&in, 1);
    r->state = (enum queue_state)state;
    r->due_at = (msec_t)get_number(&in, 8);
    r->notify = (uint8_t)get_number(&in, 1);
    r->address = get_span(&in);
    r->domain = get_span(&in);
    r->orcpt = get_span(&in);
    r->attempts = get_span(&in);
    if (!in.bad && (state < QUEUE_FRESH || state > QUEUE_HELD))
        return err_set(err, ERR_CORRUPT, "recipient record has state %u", state);
    if (!in.bad && r->due_at < 0)
        return err_set(err, ERR_CORRUPT, "recipient record is due before 1970");
    return finish("recipient", &in, ret->version, &ret->unknown, err);
}

/* --------------------------------------------------------------------------------- history */

static void
past_put(struct out *o, const struct record_past *r)
{
    put_number(o, version_to_write(r->version), 1);
    put_number(o, 0, RECORD_SUM_BYTES);
    put_number(o, (uint64_t)r->past.arrived_at, 8);
    put_number(o, (uint8_t)r->past.result, 1);
    put_span(o, r->past.sender);
    put_span(o, r->past.address);
    put_span(o, r->past.detail);
    put(o, r->unknown.p, r->unknown.n);
}

size_t
record_past_size(const struct record_past *r)
{
    struct out o = {NULL, 0};
    past_put(&o, r);
    return o.n;
}

void
record_past_encode(const struct record_past *r, void *to, size_t size)
{
    struct key_bytes k = key_of((uint64_t)r->past.finished_at, r->past.id, true, r->past.no);
    struct out o = {to, 0};
    past_put(&o, r);
    assert(o.n == size);
    seal(span_of(k.b, k.n), to, size);
}

enum err_code
record_past_decode(msec_t finished_at, uint64_t id, uint32_t no, struct span bytes,
                   struct record_past *ret, struct err *err)
{
    struct key_bytes k = key_of((uint64_t)finished_at, id, true, no);
    struct in in;
    struct queue_past *p = &ret->past;
    ret->unknown = SPAN_NONE;
    enum err_code code = unseal("history", span_of(k.b, k.n), bytes, &ret->version, &in, err);
    if (code != ERR_OK)
        return code;
    *p = (struct queue_past){.id = id, .no = no, .finished_at = finished_at};
    p->arrived_at = (msec_t)get_number(&in, 8);
    unsigned result = (unsigned)get_number(&in, 1);
    p->result = (enum queue_result)result;
    p->sender = get_span(&in);
    p->address = get_span(&in);
    p->detail = get_span(&in);
    if (!in.bad && (result < QUEUE_DELIVERED || result > QUEUE_REPLACED))
        return err_set(err, ERR_CORRUPT, "history record has result %u", result);
    return finish("history", &in, ret->version, &ret->unknown, err);
}

/* ----------------------------------------------------------------------------------- state */

static void
fact_put(struct out *o, const struct record_fact *r)
{
    put_number(o, version_to_write(r->version), 1);
    put_number(o, 0, RECORD_SUM_BYTES);
    put_span(o, r->value);
    put(o, r->unknown.p, r->unknown.n);
}

size_t
record_fact_size(const struct record_fact *r)
{
    struct out o = {NULL, 0};
    fact_put(&o, r);
    return o.n;
}

void
record_fact_encode(struct span key, const struct record_fact *r, void *to, size_t size)
{
    struct out o = {to, 0};
    fact_put(&o, r);
    assert(o.n == size);
    seal(key, to, size);
}

enum err_code
record_fact_decode(struct span key, struct span bytes, struct record_fact *ret, struct err *err)
{
    struct in in;
    ret->unknown = SPAN_NONE;
    enum err_code code = unseal("state", key, bytes, &ret->version, &in, err);
    if (code != ERR_OK)
        return code;
    ret->value = get_span(&in);
    return finish("state", &in, ret->version, &ret->unknown, err);
}

/* ----------------------------------------------------------------------------------- chunk */

uint32_t
record_chunk_sum(uint64_t id, uint32_t chunk, struct span bytes)
{
    struct key_bytes k = key_of(id, 0, false, chunk);
    return checksum(checksum(0, k.b, k.n), bytes.p, bytes.n);
}

enum err_code
record_chunk_decode(uint64_t id, uint32_t chunk, struct span record, struct span *ret_bytes,
                    struct err *err)
{
    if (record.n <= RECORD_SUM_BYTES || record.n > QUEUE_CHUNK_BYTES + RECORD_SUM_BYTES)
        return err_set(err, ERR_CORRUPT, "body chunk %u has %zu bytes", (unsigned)chunk, record.n);
    struct span bytes = span_first(record, record.n - RECORD_SUM_BYTES);
    struct in in = {(const unsigned char *)record.p + bytes.n,
                    (const unsigned char *)record.p + record.n, false};
    if (get_number(&in, RECORD_SUM_BYTES) != record_chunk_sum(id, chunk, bytes))
        return err_set(err, ERR_CORRUPT, "body chunk %u has a wrong checksum", (unsigned)chunk);
    *ret_bytes = bytes;
    return ERR_OK;
}
