/*
 * How: check the form, ask for room, then write: the message record with its head encoded and its
 * body copied straight into the page that LMDB reserved, or the body as chunks; then a row a
 * recipient and its place in fresh or schedule.
 */
#include <assert.h>

#include "queue/checksum.h"
#include "queue/queue_impl.h"

/* Whatever is stored of one recipient beside its record: index keys and LMDB's node headers. */
#define RCPT_OVERHEAD_BYTES 128

/* ----------------------------------------------------------------------------------- checks */

static enum err_code
field_check(const char *name, struct span s, size_t max, struct err *err)
{
    if (s.n > max)
        return err_set(err, ERR_LIMIT, "%s of %zu bytes: %zu are allowed", name, s.n, max);
    return ERR_OK;
}

static enum err_code
rcpt_check(const struct queue_rcpt *r, const struct queue_rcpt *before, struct err *err)
{
    if (before != NULL && r->no <= before->no)
        return err_set(err, ERR_INVAL, "recipient numbers do not ascend (%u after %u)",
                       (unsigned)r->no, (unsigned)before->no);
    if (r->state < QUEUE_FRESH || r->state > QUEUE_HELD || r->due_at < 0)
        return err_set(err, ERR_INVAL, "recipient %u: state %d, due %lld", (unsigned)r->no,
                       (int)r->state, (long long)r->due_at);
    enum err_code code = field_check("recipient address", r->address, QUEUE_FIELD_MAX, err);
    if (code == ERR_OK)
        code = field_check("recipient domain", r->domain, QUEUE_FIELD_MAX, err);
    if (code == ERR_OK)
        code = field_check("ORCPT", r->orcpt, QUEUE_FIELD_MAX, err);
    if (code == ERR_OK)
        code = field_check("attempt record", r->attempts, QUEUE_ATTEMPTS_MAX, err);
    return code;
}

static enum err_code
head_check(const struct queue_msg *m, struct err *err)
{
    const struct record_msg r = {.msg = *m};
    if (m->id == 0 || m->id == UINT64_MAX)
        return err_set(err, ERR_INVAL, "a message without an id");
    if (m->n_signatures > QUEUE_SIGNATURES_MAX)
        return err_set(err, ERR_LIMIT, "%zu signatures: %d are allowed", m->n_signatures,
                       QUEUE_SIGNATURES_MAX);
    enum err_code code = field_check("sender", m->sender, QUEUE_FIELD_MAX, err);
    if (code == ERR_OK)
        code = field_check("client", m->client, QUEUE_FIELD_MAX, err);
    if (code == ERR_OK)
        code = field_check("ENVID", m->envid, QUEUE_FIELD_MAX, err);
    if (code == ERR_OK && record_msg_size(&r) > QUEUE_HEAD_MAX)
        code = err_set(err, ERR_LIMIT, "a head of more than %d bytes", QUEUE_HEAD_MAX);
    return code;
}

enum err_code
queue_msg_check(const struct queue_msg *msg, const struct queue_rcpt *rcpts, size_t n_rcpts,
                struct err *err)
{
    if (n_rcpts == 0)
        return err_set(err, ERR_INVAL, "a message without recipients");
    if (n_rcpts > QUEUE_RCPTS_MAX)
        return err_set(err, ERR_LIMIT, "%zu recipients: %d are allowed", n_rcpts, QUEUE_RCPTS_MAX);
    enum err_code code = head_check(msg, err);
    for (size_t i = 0; code == ERR_OK && i < n_rcpts; i++)
        code = rcpt_check(&rcpts[i], i == 0 ? NULL : &rcpts[i - 1], err);
    return code;
}

/* ---------------------------------------------------------------------------------- writing */

static enum err_code
index_put(struct queue_batch *batch, const struct queue_rcpt *r, struct err *err)
{
    void *to;
    int rc = 0;
    struct key key;
    if (r->state == QUEUE_FRESH) {
        key = key_id_no(r->id, r->no);
        rc = queue_batch_put(batch, TABLE_FRESH, &key, 0, false, &to);
    } else if (r->state == QUEUE_SCHEDULED) {
        key = key_schedule(queue_lane(batch->queue, r->domain), r->due_at, r->id, r->no);
        rc = queue_batch_put(batch, TABLE_SCHEDULE, &key, 0, false, &to);
    }
    return rc == 0 ? ERR_OK : queue_batch_fail(batch, rc, "cannot index a recipient", err);
}

static enum err_code
rcpt_put(struct queue_batch *batch, uint64_t id, const struct queue_rcpt *given, struct err *err)
{
    void *to;
    struct record_rcpt r = {.rcpt = *given};
    r.rcpt.id = id;
    r.rcpt.revision = 1;
    if (r.rcpt.state == QUEUE_FRESH)
        r.rcpt.due_at = 0;
    size_t size = record_rcpt_size(&r);
    struct key key = key_id_no(id, r.rcpt.no);
    int rc = queue_batch_put(batch, TABLE_RECIPIENT, &key, size, false, &to);
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot add a recipient", err);
    record_rcpt_encode(&r, to, size);
    return index_put(batch, &r.rcpt, err);
}

/* Copy up to `n` bytes out of the pieces at (*piece, *at). */
static size_t
gather(char *to, size_t n, const struct span *pieces, size_t n_pieces, size_t *piece, size_t *at)
{
    size_t done = 0;
    while (done < n && *piece < n_pieces) {
        struct span rest = span_first(span_from(pieces[*piece], *at), n - done);
        if (rest.n > 0)
            memcpy(to + done, rest.p, rest.n);
        done += rest.n;
        *at += rest.n;
        if (*at == pieces[*piece].n) {
            ++*piece;
            *at = 0;
        }
    }
    return done;
}

static size_t
total_of(const struct span *pieces, size_t n_pieces)
{
    size_t n = 0;
    for (size_t i = 0; i < n_pieces; i++)
        n += pieces[i].n;
    return n;
}

enum err_code
queue_add_chunks(struct queue_batch *batch, uint64_t id, uint32_t chunk, const struct span *body,
                 size_t n_body, struct err *err)
{
    size_t left = total_of(body, n_body), piece = 0, at = 0;
    while (left > 0) {
        size_t n = left < QUEUE_CHUNK_BYTES ? left : QUEUE_CHUNK_BYTES;
        struct key key = key_id_no(id, chunk);
        void *to;
        int rc = queue_batch_put(batch, TABLE_BODY, &key, n + RECORD_SUM_BYTES, false, &to);
        if (rc != 0)
            return queue_batch_fail(batch, rc, "cannot add to a body", err);
        char *bytes = to;
        gather(bytes, n, body, n_body, &piece, &at);
        uint32_t sum = record_chunk_sum(id, chunk, span_of(bytes, n));
        for (size_t i = 0; i < RECORD_SUM_BYTES; i++)
            bytes[n + i] = (char)(sum >> (8 * i));
        left -= n;
        chunk++;
    }
    return ERR_OK;
}

/* Encode head and body into the reserved row. The body is summed where it now lies. */
static void
record_fill(struct record_msg *r, char *to, size_t head, const struct span *body, size_t n_body)
{
    size_t piece = 0, at = 0, n = (size_t)r->msg.body_bytes;
    bool inline_body = (r->msg.flags & QUEUE_MSG_CHUNKED) == 0;
    if (inline_body) {
        gather(to + head, n, body, n_body, &piece, &at);
        r->body_sum = checksum(0, to + head, n);
    }
    record_msg_encode(r, to, head);
}

enum err_code
queue_add_rows(struct queue_batch *batch, const struct record_msg *given,
               const struct queue_rcpt *rcpts, size_t n_rcpts, const struct span *body,
               size_t n_body, struct err *err)
{
    struct record_msg r = *given;
    void *to;
    size_t head = record_msg_size(&r);
    size_t inline_bytes = (r.msg.flags & QUEUE_MSG_CHUNKED) != 0 ? 0 : (size_t)r.msg.body_bytes;
    struct key key = key_id(r.msg.id);
    int rc = queue_batch_put(batch, TABLE_MESSAGE, &key, head + inline_bytes, false, &to);
    if (rc == MDB_KEYEXIST)
        return err_set(err, ERR_EXISTS, "a message with this id is in the queue");
    if (rc != 0)
        return queue_batch_fail(batch, rc, "cannot add a message", err);
    record_fill(&r, to, head, body, n_body);
    enum err_code code = ERR_OK;
    for (size_t i = 0; code == ERR_OK && i < n_rcpts; i++)
        code = rcpt_put(batch, r.msg.id, &rcpts[i], err);
    return code;
}

enum err_code
queue_add(struct queue_batch *batch, const struct queue_msg *msg, const struct queue_rcpt *rcpts,
          size_t n_rcpts, const struct span *body, size_t n_body, struct err *err)
{
    if (batch->dead != ERR_OK)
        return queue_batch_dead_err(batch, err);
    enum err_code code = queue_msg_check(msg, rcpts, n_rcpts, err);
    if (code != ERR_OK)
        return code;
    if (total_of(body, n_body) != msg->body_bytes)
        return err_set(err, ERR_INVAL, "a body of %zu bytes is announced with %llu",
                       total_of(body, n_body), (unsigned long long)msg->body_bytes);
    if ((msg->flags & QUEUE_MSG_NOTICE) == 0 &&
        !queue_batch_room(batch, msg->body_bytes + n_rcpts * RCPT_OVERHEAD_BYTES, err))
        return ERR_FULL;
    struct record_msg r = {.msg = *msg};
    r.msg.flags &= ~QUEUE_MSG_CHUNKED;
    if (record_msg_size(&r) + msg->body_bytes > QUEUE_INLINE_BYTES && msg->body_bytes > 0)
        r.msg.flags |= QUEUE_MSG_CHUNKED;
    code = queue_add_rows(batch, &r, rcpts, n_rcpts, body, n_body, err);
    if (code == ERR_OK && (r.msg.flags & QUEUE_MSG_CHUNKED) != 0)
        code = queue_add_chunks(batch, msg->id, 0, body, n_body, err);
    return code;
}
