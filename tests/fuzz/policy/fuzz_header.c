/*
 * fuzz_header - any octets as a header block, a From value and a long line. Checks that the walk
 * covers the text exactly and that folding can be undone.
 */
#include <assert.h>

#include "policy/header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void
walk(struct span text)
{
    struct header_field field;
    struct span rest = text;
    while (header_field_next(&rest, &field)) {
        assert(field.name.n > 0 && field.whole.n > field.name.n);
        assert(field.whole.p + field.whole.n == rest.p);
        assert(field.value.p >= field.name.p + field.name.n);
        assert(field.value.p + field.value.n <= rest.p);
    }
}

static void
fold(struct span line)
{
    struct strbuf out = STRBUF_INIT;
    if (span_find_byte(line, '\n') == SIZE_MAX && header_line_fold(line, &out)) {
        size_t at = 0;
        for (struct span rest = strbuf_span(&out); rest.n > 0;) {
            struct span piece = span_cut(&rest, '\n');
            assert(piece.n > 0 && piece.p[piece.n - 1] == '\r' && piece.n - 1 <= HEADER_LINE_MAX);
            assert(memcmp(line.p + at, piece.p, piece.n - 1) == 0);
            at += piece.n - 1;
        }
        assert(at == line.n);
    }
    strbuf_release(&out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct span text = span_of(data, n);
    struct header_facts facts;
    char domain[HEADER_DOMAIN_MAX + 1];
    struct strbuf out = STRBUF_INIT;
    struct err err;

    walk(text);
    if (header_scan(text, SPAN("relay.example.org"), &facts, &err) == ERR_OK) {
        assert(facts.head_bytes <= facts.body_at && facts.body_at <= n);
        size_t end = header_block_end(text, 0);
        assert(end == SIZE_MAX || end <= n);
    }
    if (header_from_domain(text, domain))
        assert(domain[0] != '\0' && strlen(domain) <= HEADER_DOMAIN_MAX);
    header_received_is_ours(text, SPAN("relay.example.org"));
    fold(text);

    struct header_received received = {.helo = text,
                                       .client_ip = SPAN("192.0.2.1"),
                                       .by = SPAN("h"),
                                       .protocol = SPAN("SMTP"),
                                       .id = SPAN("x"),
                                       .rcpt = span_first(text, 300)};
    header_received_format(&received, &out);
    assert(header_scan(strbuf_span(&out), SPAN("h"), &facts, &err) == ERR_OK);
    assert(facts.n_fields == 1 && facts.n_received_ours == 1 && !facts.broken);
    strbuf_release(&out);
    return 0;
}
