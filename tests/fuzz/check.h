/*
 * check - what the fuzz targets share: CHECK(), and input in a block of its own, so that a read
 * beyond its end is seen.
 */
#pragma once

#include "policy/base/mem.h"
#include "policy/base/span.h"

#include <stdint.h>
#include <stdlib.h>

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

/* In nomem.c: has an allocation failed? Then an error is a good answer to good input. */
bool fuzz_no_memory(void);
__attribute__((weak)) bool
fuzz_no_memory(void)
{
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* A copy without a NUL behind it; free() it. */
static inline char *
fuzz_copy(const void *bytes, size_t n)
{
    char *copy = xmalloc(n);

    if (n > 0)
        memcpy(copy, bytes, n);
    return copy;
}

/* Text that goes to a log, a page or a peer: no control character. */
static inline bool
fuzz_is_printable(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < 32 || s.p[i] == 127)
            return false;
    return true;
}
