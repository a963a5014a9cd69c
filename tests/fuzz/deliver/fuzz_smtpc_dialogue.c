/*
 * The protocol core of deliver against its model and against the server's own account: the input is
 * a tape that a dialogue is decoded from (tests/dialog/models/smtpc_dialogue.c), so that mutations
 * stay within the grammar.
 */
#include "tests/dialog/models/smtpc_dialogue.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct strbuf why = STRBUF_INIT;

    if (!smtpc_dialogue((struct tape){bytes, n}, NULL, &why)) {
        fwrite(why.p, 1, why.n, stderr);
        abort();
    }
    return 0;
}
