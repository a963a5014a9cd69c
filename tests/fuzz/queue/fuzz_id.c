/* Message ids as people and programs write them. */
#include "queue/queue.h"
#include "tests/fuzz/check.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    CLEANUP(freep) char *copy = fuzz_copy(bytes, n);
    char text[QUEUE_ID_TEXT + 1];
    uint64_t id, again;

    if (queue_id_parse(span_of(copy, n), &id))
        CHECK(queue_id_parse(span_str(queue_id_format(id, text)), &again) && again == id);
    if (n >= sizeof id) {
        memcpy(&id, copy, sizeof id);
        CHECK(queue_id_parse(span_str(queue_id_format(id, text)), &again) && again == id);
    }
    return 0;
}
