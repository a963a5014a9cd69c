/*
 * The protocol core of accept against its model: the input is a tape that a dialogue is decoded
 * from (tests/dialog/models/smtpd_dialogue.c), so that mutations stay within the grammar.
 */
#include "tests/dialog/models/smtpd_dialogue.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct strbuf why = STRBUF_INIT;

    if (!smtpd_dialogue((struct tape){bytes, n}, NULL, &why)) {
        fwrite(why.p, 1, why.n, stderr);
        abort();
    }
    return 0;
}
