/*
 * UTF-8: the decoder agrees with the table of the standard and with the check that addresses get
 * (mailbox.h), and what goes to a terminal is harmless there.
 */
#include "policy/base/mailbox.h"
#include "relayd/ops/utf8.h"
#include "tests/fuzz/check.h"

/* Well-formed sequences, by the table of the Unicode standard (3-7): ranges of the first and of the
 * second octet, and the length; the octets behind are 80..BF. */
static size_t
table_next(struct span s, uint32_t *ret)
{
    static const uint8_t rows[][5] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    const uint8_t *p = (const uint8_t *)s.p;

    for (size_t i = 0; i < N_ELEMENTS(rows); i++) {
        const uint8_t *row = rows[i];
        size_t n = row[4];
        if (p[0] < row[0] || p[0] > row[1] || s.n < n)
            continue;
        if (n > 1 && (p[1] < row[2] || p[1] > row[3]))
            continue;
        uint32_t cp = n == 1 ? p[0] : p[0] & (0x7fu >> n);
        bool good = true;
        for (size_t k = 1; k < n; k++) {
            good = good && (p[k] & 0xc0) == 0x80;
            cp = cp << 6 | (p[k] & 0x3f);
        }
        *ret = cp;
        return good ? n : 0;
    }
    return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    struct span text = span_of(copy, n);
    bool valid = true;

    for (struct span rest = text; rest.n > 0;) {
        uint32_t cp = 0, other = 0;
        size_t used = utf8_next(rest, &cp);
        CHECK(used == table_next(rest, &other) && (used == 0 || cp == other));
        valid = valid && used > 0;
        rest = span_from(rest, used == 0 ? 1 : used);
    }
    CHECK(utf8_valid(text) == valid && mailbox_utf8_valid(text) == valid);
    utf8_add_printable(&out, text);
    CHECK(utf8_valid(strbuf_span(&out)));
    size_t n_chars = 0;
    for (struct span rest = strbuf_span(&out); rest.n > 0; n_chars++) {
        uint32_t cp;
        rest = span_from(rest, utf8_next(rest, &cp));
        CHECK(!utf8_unsafe(cp));
    }
    CHECK(utf8_width(text) <= 2 * n_chars);
    return 0;
}
