/* The body stream: dot-stuffing, clean line ends, and that chunking never matters. */
#include "policy/base/mem.h"
#include "relayd/deliver/body.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* The wire form of `in`, fed `step` bytes at a time with room for `max` pieces. */
static void
stuff(struct span in, size_t step, size_t max, struct strbuf *out, size_t *ret_pieces)
{
    struct body_stuffer b = {.mid_line = false};
    struct span pieces[32];
    *ret_pieces = 0;
    assert_true(max <= N_ELEMENTS(pieces));
    for (size_t at = 0; at < in.n;) {
        struct span chunk = span_first(span_from(in, at), step);
        while (chunk.n > 0) {
            size_t used, n = body_stuff(&b, chunk, pieces, max, &used);
            assert_true(n <= max);
            assert_true(used > 0 && used <= chunk.n);
            for (size_t i = 0; i < n; i++)
                strbuf_add_span(out, pieces[i]);
            *ret_pieces += n;
            chunk = span_from(chunk, used);
            at += used;
        }
    }
    strbuf_add_span(out, body_end(&b));
}

static const struct {
    struct span in, out;
} cases[] = {
    {SPAN(""), SPAN(".\r\n")},
    {SPAN("a\r\n"), SPAN("a\r\n.\r\n")},
    {SPAN("a"), SPAN("a\r\n.\r\n")},
    {SPAN(".\r\n"), SPAN("..\r\n.\r\n")},
    {SPAN("."), SPAN("..\r\n.\r\n")},
    {SPAN("..a\r\n.b\r\nc.\r\n"), SPAN("...a\r\n..b\r\nc.\r\n.\r\n")},
    {SPAN("\r\n\r\n"), SPAN("\r\n\r\n.\r\n")},
    {SPAN("\r\n.\r\n\r\n.\r\n"), SPAN("\r\n..\r\n\r\n..\r\n.\r\n")},
    /* Stray line ends never end a message early at a lenient host. */
    {SPAN("a\n.\nb"), SPAN("a\r\n..\r\nb\r\n.\r\n")},
    {SPAN("a\r.\rb\r\n"), SPAN("a . b\r\n.\r\n")},
    {SPAN("a\r\n.\rb"), SPAN("a\r\n.. b\r\n.\r\n")},
    {SPAN("a\r\r\n"), SPAN("a \r\n.\r\n")},
    {SPAN("a\r"), SPAN("a\r\n.\r\n")},
    {SPAN("\r\r\r\n"), SPAN("  \r\n.\r\n")},
    {SPAN("\n\n.\n"), SPAN("\r\n\r\n..\r\n.\r\n")},
    {SPAN("a\n.\r\nb\r\n.\nc"), SPAN("a\r\n..\r\nb\r\n..\r\nc\r\n.\r\n")},
};

static void
any_chunking_gives_the_same(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(cases); i++)
        for (size_t step = 1; step <= 20; step++)
            for (size_t max = BODY_PIECES_MIN; max <= 32; max += 7) {
                CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
                size_t pieces;
                stuff(cases[i].in, step, max, &out, &pieces);
                assert_int_equal(out.n, cases[i].out.n);
                assert_memory_equal(out.p, cases[i].out.p, out.n);
            }
}

static void
clean_text_is_one_piece(void **state)
{
    (void)state;
    CLEANUP(strbuf_release) struct strbuf in = STRBUF_INIT;
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    for (int i = 0; i < 1000; i++)
        strbuf_add_str(&in, "a line. with dots... but none at its start\r\n");
    size_t pieces;
    stuff(strbuf_span(&in), in.n, 16, &out, &pieces);
    assert_int_equal(pieces, 1);
    assert_int_equal(out.n, in.n + 3);
}

/* Byte by byte, as plainly as it can be said. */
static void
reference(struct span in, struct strbuf *out)
{
    bool start = true;
    for (size_t i = 0; i < in.n; i++) {
        char c = in.p[i];
        if (c == '\r') {
            if (i + 1 == in.n || in.p[i + 1] == '\n')
                continue; /* the LF, or the end of the message, writes both */
            strbuf_add_byte(out, ' ');
            start = false;
        } else if (c == '\n') {
            strbuf_add_str(out, "\r\n");
            start = true;
        } else {
            if (start && c == '.')
                strbuf_add_byte(out, '.');
            strbuf_add_byte(out, c);
            start = false;
        }
    }
    if (!start || (in.n > 0 && in.p[in.n - 1] == '\r'))
        strbuf_add_str(out, "\r\n");
    strbuf_add_str(out, ".\r\n");
}

static void
random_text_equals_the_reference(void **state)
{
    (void)state;
    uint32_t seed = 1;
    for (int round = 0; round < 20000; round++) {
        char text[24];
        seed = seed * 1664525 + 1013904223;
        size_t n = (seed >> 16) % (sizeof(text) + 1);
        for (size_t i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            text[i] = "\r\n.a"[seed >> 30];
        }
        CLEANUP(strbuf_release) struct strbuf want = STRBUF_INIT;
        CLEANUP(strbuf_release) struct strbuf got = STRBUF_INIT;
        size_t pieces;
        reference(span_of(text, n), &want);
        stuff(span_of(text, n), 1 + seed % 7, BODY_PIECES_MIN + seed % 5, &got, &pieces);
        assert_string_equal(got.p, want.p);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_chunking_gives_the_same),
        cmocka_unit_test(clean_text_is_one_piece),
        cmocka_unit_test(random_text_equals_the_reference),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
