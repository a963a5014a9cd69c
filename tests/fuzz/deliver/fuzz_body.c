/*
 * The stream between 354 and the final dot: whatever is stored, and however it is cut, a receiver
 * finds the end where we put it and nowhere else, and gets the message back.
 */
#include "relayd/deliver/body.h"
#include "tests/fuzz/check.h"

static void
stuff(struct span in, uint32_t seed, struct strbuf *out)
{
    struct body_stuffer b = {.mid_line = false};

    while (in.n > 0) {
        seed = seed * 1664525u + 1013904223u;
        struct span chunk = span_first(in, seed == 0 ? in.n : 1 + (seed >> 16) % 30);
        in = span_from(in, chunk.n);
        CLEANUP(freep) char *own = fuzz_copy(chunk.p, chunk.n);
        chunk.p = own;
        while (chunk.n > 0) {
            struct span pieces[BODY_PIECES_MIN + 2];
            size_t used, max = BODY_PIECES_MIN + seed % 3;
            size_t n = body_stuff(&b, chunk, pieces, max, &used);
            CHECK(n <= max && used <= chunk.n && (used > 0 || n > 0));
            for (size_t i = 0; i < n; i++)
                strbuf_add_span(out, pieces[i]);
            chunk = span_from(chunk, used);
        }
    }
    strbuf_add_span(out, body_end(&b));
}

/* What should arrive: LF alone ends a line, CR alone is a blank, the last line is whole. */
static void
clean(struct span in, struct strbuf *out)
{
    for (size_t i = 0; i < in.n; i++) {
        bool crlf = in.p[i] == '\r' && i + 1 < in.n && in.p[i + 1] == '\n';
        if (crlf || in.p[i] == '\n')
            strbuf_add_str(out, "\r\n");
        else if (in.p[i] == '\r' && i + 1 == in.n)
            break; /* ends its line at the end of the message */
        else
            strbuf_add_byte(out, in.p[i] == '\r' ? ' ' : in.p[i]);
        i += crlf;
    }
    bool whole = span_ends(strbuf_span(out), SPAN("\r\n"));
    if ((out->n > 0 && !whole) || (in.n > 0 && in.p[in.n - 1] == '\r'))
        strbuf_add_str(out, "\r\n");
}

/* RFC 5321 section 4.5.2, the receiver's side; false when the end is not at the end. */
static bool
receive(struct span in, struct strbuf *out)
{
    while (in.n > 0) {
        size_t n = span_find(in, SPAN("\r\n"));
        struct span line = span_first(in, n);
        if (n == SIZE_MAX || memchr(line.p, '\n', line.n) != NULL ||
            memchr(line.p, '\r', line.n) != NULL)
            return false;
        in = span_from(in, n + 2);
        if (span_eq(line, SPAN(".")))
            return in.n == 0;
        strbuf_add_span(out, span_from(line, span_starts(line, SPAN(".")) ? 1 : 0));
        strbuf_add_str(out, "\r\n");
    }
    return false;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct strbuf whole = STRBUF_INIT, cut = STRBUF_INIT, want = STRBUF_INIT, got = STRBUF_INIT;
    struct span in = n == 0 ? SPAN_NONE : span_of(bytes + 1, n - 1);

    stuff(in, 0x12345, &whole);
    stuff(in, n == 0 ? 1 : bytes[0] * 2654435761u + 1, &cut);
    CHECK(span_eq(strbuf_span(&whole), strbuf_span(&cut)));
    clean(in, &want);
    CHECK(receive(strbuf_span(&whole), &got));
    CHECK(span_eq(strbuf_span(&want), strbuf_span(&got)));
    strbuf_release(&whole);
    strbuf_release(&cut);
    strbuf_release(&want);
    strbuf_release(&got);
    return 0;
}
