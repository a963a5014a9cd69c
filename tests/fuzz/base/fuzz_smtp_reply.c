/*
 * Any bytes, cut in two ways, give the same replies; and what comes out keeps the promises of
 * smtp_reply.h. The first byte seeds the cutting.
 */
#include "policy/base/smtp_reply.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(what)  \
    do {             \
        if (!(what)) \
            abort(); \
    } while (0)

static void
check_reply(const struct smtp_reply *r)
{
    char line[64];
    CHECK(r->code >= 200 && r->code <= 599);
    for (size_t i = 0; i < r->text.n; i++)
        CHECK((unsigned char)r->text.p[i] >= 0x20 || r->text.p[i] == '\n');
    smtp_reply_line(r, line, sizeof(line));
    CHECK(strlen(line) < sizeof(line));
    CHECK(strchr(line, '\n') == NULL);
}

/* A digest of all replies in `in`, read in pieces of 1..step bytes. */
static uint64_t
digest(struct span in, unsigned step)
{
    struct smtp_reply_parser p;
    uint64_t d = 0;
    smtp_reply_parser_init(&p);
    for (size_t at = 0, n = 0; at < in.n; n++) {
        size_t used;
        struct smtp_reply r;
        struct span chunk = span_first(span_from(in, at), 1 + n % step);
        enum smtp_reply_status status = smtp_reply_parse(&p, chunk, &used, &r);
        CHECK(used <= chunk.n);
        at += used;
        if (status == SMTP_REPLY_DONE) {
            check_reply(&r);
            d = d * 31 + (uint64_t)r.code + r.enh.detail + span_hash(r.text);
        } else if (status == SMTP_REPLY_BAD) {
            CHECK(p.why != NULL);
            d = d * 31 + span_hash(span_str(p.why));
            break;
        } else {
            CHECK(used == chunk.n);
        }
    }
    smtp_reply_parser_release(&p);
    return d;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct span in = span_of(data + 1, size - 1);
    CHECK(digest(in, 1) == digest(in, 1 + data[0] % 64));
    return 0;
}
