/* The body filter, against a simple model of its rules, however the input is cut. */
#include "policy/base/mem.h"
#include "relayd/accept/data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define ROUNDS 5000
#define CUTS 4

/* ---- the model: one rule after the other over the whole text ---- */

/* Returns where the final dot ends, SIZE_MAX when there is none. */
static size_t
model_unstuff(struct span in, struct strbuf *out)
{
    for (size_t i = 0; i < in.n; i++) {
        bool line_start = i == 0 || (i >= 2 && in.p[i - 1] == '\n' && in.p[i - 2] == '\r');
        if (line_start && span_starts(span_from(in, i), SPAN(".\r\n")))
            return i + 3;
        if (!line_start || in.p[i] != '.')
            strbuf_add_byte(out, in.p[i]);
    }
    return SIZE_MAX;
}

/* Returns the number of bare CRs and LFs. */
static unsigned
model_newlines(struct span in, struct strbuf *out)
{
    unsigned bare = 0;

    for (size_t i = 0; i < in.n; i++) {
        bool crlf = in.p[i] == '\r' && i + 1 < in.n && in.p[i + 1] == '\n';
        bare += !crlf && (in.p[i] == '\r' || in.p[i] == '\n');
        if (crlf || in.p[i] == '\n')
            strbuf_add_str(out, "\r\n");
        else
            strbuf_add_byte(out, in.p[i] == '\r' ? ' ' : in.p[i]);
        i += crlf;
    }
    return bare;
}

static bool
model_is_field(struct span line)
{
    size_t i = 0;

    while (i < line.n && i < 995 && line.p[i] > 32 && line.p[i] < 127 && line.p[i] != ':')
        i++;
    bool named = i > 0;
    while (i < line.n && i < 995 && (line.p[i] == ' ' || line.p[i] == '\t'))
        i++;
    return named && i < line.n && line.p[i] == ':';
}

static void
model_break(struct span in, struct strbuf *out)
{
    bool first = true, body = false;

    while (in.n > 0) {
        struct span line = span_first(in, span_find(in, SPAN("\r\n")));
        size_t column = 0;
        in = span_from(in, line.n + 2);
        body = body || line.n == 0 || (first && !model_is_field(line));
        first = false;
        while (body && column + line.n > 998) {
            size_t fits = 998 - column, cut = fits;
            for (size_t k = 1; k <= 3 && ((unsigned char)line.p[fits] & 0xc0) == 0x80; k++) {
                unsigned char c = (unsigned char)line.p[fits - k];
                if (c >= 0xc0)
                    cut = fits - k;
                if (c >= 0xc0 || c < 0x80)
                    break;
            }
            strbuf_add_span(out, span_first(line, cut));
            strbuf_add_str(out, "\r\n ");
            line = span_from(line, cut);
            column = 1;
        }
        strbuf_add_span(out, line);
        strbuf_add_str(out, "\r\n");
    }
}

/* ---- random mail ---- */

static uint64_t seed = 88172645463325252u;

static size_t
random_below(size_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (size_t)(seed % n);
}

static void
random_text(struct strbuf *out, bool dirty)
{
    static const char *const pieces[] = {
        "A: b",       "x",    "\r\n",  "\r\n",  "\r\n\r\n", ".",    "..",   "\r\n.",  "\r\n..",
        "hello you ", ": y ", "\r\n ", " ",     "中文",     "\xff", "\xc3", "q",      "From x",
        "\n",         "\r",   "\r\r",  "\n.\n", "\r\n.\n",  ".\r",  "\n\n", "\r\n.\r"};
    size_t n = dirty ? N_ELEMENTS(pieces) : N_ELEMENTS(pieces) - 8;

    for (size_t left = random_below(30); left > 0; left--) {
        if (random_below(12) == 0) {
            const char *unit = random_below(2) ? "abcdefg" : "文";
            for (size_t i = 140 + random_below(700); i > 0; i--)
                strbuf_add_str(out, unit);
        } else {
            strbuf_add_str(out, pieces[random_below(n)]);
        }
    }
}

/* ---- running the filter ---- */

static const struct data_limits no_limits = {.message_bytes = 1 << 30, .header_bytes = 1 << 30};

/* Feed `in` in pieces of at most `max` octets; returns what was left behind the end. */
static struct span
run(struct data *d, struct span in, size_t max, struct strbuf *out)
{
    char scratch[DATA_SCRATCH_BYTES];

    while (in.n > 0) {
        /* A copy of its own size, so that the sanitizer sees what is read beyond it. */
        size_t n = 1 + random_below(max < in.n ? max : in.n);
        CLEANUP(freep) char *copy = xstrndup(in.p, n);
        memcpy(copy, in.p, n);
        struct span piece = span_of(copy, n), chunk;
        enum data_event event;
        while ((event = data_next(d, &piece, scratch, &chunk)) == DATA_OUT) {
            assert_true(chunk.n > 0);
            strbuf_add_span(out, chunk);
        }
        in = span_from(in, n - piece.n);
        if (event == DATA_END)
            return in;
        assert_int_equal(piece.n, 0);
    }
    return SPAN_NONE;
}

static void
assert_text(struct span got, struct span want, struct span in)
{
    if (span_eq(got, want))
        return;
    print_error("in   \"%.*s\"\nwant \"%.*s\"\ngot  \"%.*s\"\n", SPAN_ARG(in), SPAN_ARG(want),
                SPAN_ARG(got));
    fail();
}

static void
test_agrees_with_the_model_however_cut(void **state)
{
    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        CLEANUP(strbuf_release)
        struct strbuf in = STRBUF_INIT, plain = STRBUF_INIT, lines = STRBUF_INIT,
                      want = STRBUF_INIT;
        random_text(&in, round % 2 == 0);
        strbuf_add_str(&in, "\r\n.\r\nQUIT\r\n");
        size_t end = model_unstuff(strbuf_span(&in), &plain);
        assert_true(end != SIZE_MAX);
        unsigned bare = model_newlines(strbuf_span(&plain), &lines);
        model_break(strbuf_span(&lines), &want);

        for (unsigned cut = 0; cut < CUTS; cut++) {
            static const size_t sizes[CUTS] = {1, 3, 100, 100000};
            CLEANUP(strbuf_release) struct strbuf got = STRBUF_INIT;
            struct data_limits limits = no_limits;
            struct data d;
            limits.dots = true;
            data_init(&d, &limits);
            struct span rest = run(&d, strbuf_span(&in), sizes[cut], &got);
            assert_text(strbuf_span(&got), strbuf_span(&want), strbuf_span(&in));
            assert_int_equal(d.fault, DATA_FAULT_NONE);
            assert_int_equal(rest.n, in.n - end);
            assert_int_equal(d.newlines_fixed, bare);
            assert_int_equal(d.n_bytes, lines.n);
            assert_int_equal(d.n_out, got.n);
        }
    }
}

static void
test_bdat_agrees_with_the_model(void **state)
{
    char scratch[DATA_SCRATCH_BYTES];

    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        CLEANUP(strbuf_release)
        struct strbuf in = STRBUF_INIT, lines = STRBUF_INIT, want = STRBUF_INIT, got = STRBUF_INIT;
        struct data_limits limits = no_limits;
        struct data d;
        random_text(&in, round % 2 == 0);
        model_newlines(strbuf_span(&in), &lines);
        if (lines.n > 0 && !span_ends(strbuf_span(&lines), SPAN("\r\n")))
            strbuf_add_str(&lines, "\r\n");
        model_break(strbuf_span(&lines), &want);
        data_init(&d, &limits);
        run(&d, strbuf_span(&in), 1 + random_below(200), &got);
        strbuf_add_span(&got, data_finish(&d, scratch));
        assert_text(strbuf_span(&got), strbuf_span(&want), strbuf_span(&in));
        assert_true(data_ended(&d));
    }
}

static void
test_no_line_of_the_body_is_longer_than_998_octets(void **state)
{
    (void)state;
    for (size_t n = 990; n < 3010; n++) {
        CLEANUP(strbuf_release)
        struct strbuf in = STRBUF_INIT, got = STRBUF_INIT, joined = STRBUF_INIT;
        struct data_limits limits = no_limits;
        struct data d;
        strbuf_add_str(&in, "\r\n");
        for (size_t i = 0; i < n; i++)
            strbuf_add_byte(&in, 'x');
        strbuf_add_str(&in, "\r\n.\r\n");
        limits.dots = true;
        data_init(&d, &limits);
        run(&d, strbuf_span(&in), n, &got);
        struct span rest = span_from(strbuf_span(&got), 2);
        while (rest.n > 0) {
            struct span line = span_first(rest, span_find(rest, SPAN("\r\n")));
            assert_true(line.n <= 998);
            rest = span_from(rest, line.n + 2);
            strbuf_add_span(&joined, line.p[0] == ' ' ? span_from(line, 1) : line);
        }
        assert_int_equal(joined.n, n);
        assert_int_equal(d.lines_broken, n <= 998 ? 0 : (n - 998 + 996) / 997);
    }
}

static void
test_clean_input_is_handed_on_in_place(void **state)
{
    CLEANUP(strbuf_release) struct strbuf in = STRBUF_INIT;
    struct data_limits limits = no_limits;
    char scratch[DATA_SCRATCH_BYTES];
    struct span rest, chunk;
    struct data d;
    size_t n_chunks = 0, copied = 0;

    (void)state;
    strbuf_add_str(&in, "Subject: clean\r\n\r\n");
    for (int i = 0; i < 1000; i++)
        strbuf_add_str(&in, "sixty-four kilobytes of ordinary lines as mail has them...\r\n");
    strbuf_add_str(&in, ".\r\n");
    limits.dots = true;
    data_init(&d, &limits);
    rest = strbuf_span(&in);
    while (data_next(&d, &rest, scratch, &chunk) == DATA_OUT) {
        n_chunks++;
        if (chunk.p < in.p || chunk.p >= in.p + in.n)
            copied += chunk.n;
    }
    assert_true(data_ended(&d));
    assert_true(n_chunks <= 3);
    assert_true(copied < 512);
    assert_int_equal(d.n_out, in.n - 3);
}

/* Dirty input must not make crumbs of the output, nor look at the rest of a block again and again.
 */
static void
test_dirty_input_goes_out_in_good_pieces(void **state)
{
    CLEANUP(strbuf_release) struct strbuf in = STRBUF_INIT;
    struct data_limits limits = no_limits;
    char scratch[DATA_SCRATCH_BYTES];
    struct span rest, chunk;
    struct data d;
    size_t n_chunks = 0;

    (void)state;
    for (int i = 0; i < 30000; i++)
        strbuf_add_str(&in, "\n\r");
    limits.dots = true;
    data_init(&d, &limits);
    rest = strbuf_span(&in);
    while (data_next(&d, &rest, scratch, &chunk) == DATA_OUT)
        n_chunks++;
    assert_true(n_chunks < 100);
}

/* What follows a fault is only read to its end: a long line of it was watched for its end all the
 * same, and the daemon fell over its own assertion. */
static void
test_long_lines_behind_a_fault_are_passed_over(void **state)
{
    (void)state;
    for (size_t n = 990; n < 2100; n += 3) {
        CLEANUP(strbuf_release) struct strbuf in = STRBUF_INIT, out = STRBUF_INIT;
        struct data_limits limits = no_limits;
        struct data d;
        strbuf_add(&in, "\r\n\0", 3);
        for (size_t i = 0; i < n; i++)
            strbuf_add_byte(&in, 'x');
        strbuf_add_str(&in, "\r+++++\r\n.\r\nQUIT");
        limits.dots = true;
        data_init(&d, &limits);
        struct span rest = run(&d, strbuf_span(&in), in.n, &out);
        assert_int_equal(d.fault, DATA_FAULT_NUL);
        assert_true(span_eq(rest, SPAN("QUIT")));
    }
}

struct fault_case {
    struct span in;
    uint64_t message_bytes, header_bytes;
    bool reject_newlines;
    enum data_fault want;
};

static void
test_faults_are_found_and_the_end_is_still_seen(void **state)
{
    static const struct fault_case cases[] = {
        {SPAN("a\0"
              "b\r\n.\r\nQUIT"),
         99, 99, false, DATA_FAULT_NUL},
        {SPAN("a\nb\r\n.\r\nQUIT"), 99, 99, false, DATA_FAULT_NONE},
        {SPAN("a\nb\r\n.\r\nQUIT"), 99, 99, true, DATA_FAULT_NEWLINE},
        {SPAN("a\rb\r\n.\r\nQUIT"), 99, 99, true, DATA_FAULT_NEWLINE},
        {SPAN("a\r\n.\rb\r\n.\r\nQUIT"), 99, 99, true, DATA_FAULT_NEWLINE},
        {SPAN("a\nb\0\r\n.\r\nQUIT"), 99, 99, true, DATA_FAULT_NEWLINE},
        {SPAN("12345678\r\n.\r\nQUIT"), 10, 99, false, DATA_FAULT_NONE},
        {SPAN("123456789\r\n.\r\nQUIT"), 10, 99, false, DATA_FAULT_SIZE},
        {SPAN("A: b\r\n\r\nlong body\r\n.\r\nQUIT"), 99, 8, false, DATA_FAULT_NONE},
        {SPAN("A: bc\r\n\r\nlong body\r\n.\r\nQUIT"), 99, 8, false, DATA_FAULT_HEADER},
        {SPAN("no field, all of it body\r\n.\r\nQUIT"), 99, 8, false, DATA_FAULT_NONE},
        {SPAN("A: b\r\nsize before header\r\n.\r\nQUIT"), 9, 10, false, DATA_FAULT_SIZE},
    };

    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        for (size_t max = 1; max < 40; max++) {
            CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
            struct data d;
            struct data_limits limits = {.message_bytes = cases[i].message_bytes,
                                         .header_bytes = cases[i].header_bytes,
                                         .reject_newlines = cases[i].reject_newlines,
                                         .dots = true};
            data_init(&d, &limits);
            struct span rest = run(&d, cases[i].in, max, &out);
            assert_int_equal(d.fault, cases[i].want);
            assert_true(span_eq(rest, SPAN("QUIT")));
        }
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agrees_with_the_model_however_cut),
        cmocka_unit_test(test_bdat_agrees_with_the_model),
        cmocka_unit_test(test_no_line_of_the_body_is_longer_than_998_octets),
        cmocka_unit_test(test_clean_input_is_handed_on_in_place),
        cmocka_unit_test(test_dirty_input_goes_out_in_good_pieces),
        cmocka_unit_test(test_faults_are_found_and_the_end_is_still_seen),
        cmocka_unit_test(test_long_lines_behind_a_fault_are_passed_over),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
