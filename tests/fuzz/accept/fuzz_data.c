/*
 * The body filter under arbitrary bytes: whatever the pieces are, the result is that of the model
 * (tests/dialog/models/data_model.c), and clean.
 * First octet: bit 0 DATA or BDAT, bit 1 reject bare newlines, bits 2-7 seed of the cutting, bits
 * 2 and 3 together a small limit.
 */
#include "policy/base/mem.h"
#include "tests/dialog/models/data_model.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

struct result {
    struct strbuf out;
    enum data_fault fault;
    size_t left;
    bool ended;
};

static void
run(const struct data_limits *limits, struct span in, uint32_t seed, struct result *ret)
{
    char scratch[DATA_SCRATCH_BYTES];
    struct data d;

    data_init(&d, limits);
    while (in.n > 0 && !ret->ended) {
        seed = seed * 1664525u + 1013904223u;
        size_t piece = seed == 0 ? in.n : 1 + (seed >> 16) % 40;
        if (piece > in.n)
            piece = in.n;
        CLEANUP(freep) char *copy = xmalloc(piece); /* its own block: reads beyond are seen */
        memcpy(copy, in.p, piece);
        struct span rest = span_of(copy, piece), chunk;
        enum data_event event;
        while ((event = data_next(&d, &rest, scratch, &chunk)) == DATA_OUT) {
            CHECK(chunk.n > 0);
            strbuf_add_span(&ret->out, chunk);
        }
        CHECK(event == DATA_END || rest.n == 0);
        ret->ended = event == DATA_END;
        in = span_from(in, piece - rest.n);
    }
    if (!limits->dots) {
        strbuf_add_span(&ret->out, data_finish(&d, scratch));
        ret->ended = true;
    }
    CHECK(d.n_out == ret->out.n);
    ret->fault = (enum data_fault)d.fault;
    ret->left = in.n;
}

/* CRLF only, no NUL, the last line whole; no long line behind the header. */
static void
check_clean(struct span text, bool ended)
{
    bool body = false;
    size_t line = 0;

    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        CHECK(c != '\0');
        CHECK(c != '\n' || (i > 0 && text.p[i - 1] == '\r'));
        CHECK(c != '\r' || i + 1 == text.n || text.p[i + 1] == '\n');
        if (c == '\n') {
            body = body || line == 0;
            line = 0;
        } else if (c != '\r') {
            line++;
            CHECK(!body || line <= DATA_LINE_MAX);
        }
    }
    if (ended)
        CHECK(text.n == 0 || span_ends(text, SPAN("\r\n")));
}

/* What was handed on before the end is the beginning of what would be if it ended here. */
static void
check_model(const struct data_limits *limits, struct span in, const struct result *r)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    struct data_model model;

    strbuf_add_span(&text, in);
    if (!r->ended)
        strbuf_add_str(&text, "\r\n.\r\n");
    data_model(limits, strbuf_span(&text), !limits->dots, &model);
    CHECK(model.ended);
    if (r->ended)
        CHECK(in.n - r->left == model.used && r->fault == model.fault);
    else
        CHECK(r->fault == DATA_FAULT_NONE || r->fault == model.fault);
    if (r->fault == DATA_FAULT_NONE && r->ended)
        CHECK(span_eq(strbuf_span(&r->out), strbuf_span(&model.out)));
    else if (r->fault == DATA_FAULT_NONE)
        CHECK(span_starts(strbuf_span(&model.out), strbuf_span(&r->out)));
    strbuf_release(&model.out);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct result whole = {.out = STRBUF_INIT}, cut = {.out = STRBUF_INIT};

    if (n == 0)
        return 0;
    struct data_limits limits = {.message_bytes = (bytes[0] & 12) == 12 ? 4000 : 1 << 20,
                                 .header_bytes = 2000,
                                 .dots = (bytes[0] & 1) == 0,
                                 .reject_newlines = (bytes[0] & 2) != 0};
    struct span in = span_of(bytes + 1, n - 1);
    run(&limits, in, 0, &whole);
    run(&limits, in, (uint32_t)bytes[0] * 2654435761u + 1, &cut);
    CHECK(whole.fault == cut.fault && whole.ended == cut.ended && whole.left == cut.left);
    check_model(&limits, in, &whole);
    check_model(&limits, in, &cut);
    if (whole.fault == DATA_FAULT_NONE) {
        CHECK(!whole.ended || span_eq(strbuf_span(&whole.out), strbuf_span(&cut.out)));
        check_clean(strbuf_span(&whole.out), whole.ended);
        check_clean(strbuf_span(&cut.out), cut.ended);
    }
    strbuf_release(&whole.out);
    strbuf_release(&cut.out);
    return 0;
}
