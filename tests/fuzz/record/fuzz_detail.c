/* How a recipient ended, as history keeps it: what decodes is encoded again and means the same. */
#include "relayd/record/detail.h"
#include "tests/fuzz/check.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    struct detail d, again;
    struct err err = {.text = ""};

    if (detail_decode(span_of(copy, n), &d, &err) != ERR_OK) {
        CHECK(err.text[0] != '\0');
        return 0;
    }
    detail_encode(&d, &out);
    CHECK(detail_decode(strbuf_span(&out), &again, NULL) == ERR_OK);
    CHECK(d.code == again.code && d.attempts == again.attempts && d.enh.klass == again.enh.klass);
    CHECK(span_starts(d.route, again.route) && span_starts(d.peer, again.peer));
    CHECK(span_starts(d.text, again.text) && again.text.n <= DETAIL_TEXT_MAX);
    return 0;
}
