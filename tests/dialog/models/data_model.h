/*
 * data_model - what lies between 354 and the final dot, turned into a message: written down a
 * second time, without any state that a cut of the input could disturb. For tests of
 * relayd/accept/data.c, which must agree with it however its input is cut.
 */
#pragma once

#include "relayd/accept/data.h"

struct data_model {
    struct strbuf out;     /* the message; what a fault leaves of it means nothing */
    enum data_fault fault; /* the first one */
    uint64_t n_bytes;      /* of the message, without what line breaking adds */
    size_t used;           /* octets of the input, the final dot included */
    bool ended;            /* the final dot was there, or `last` was said */
};

/*
 * Of `in`, all that came so far; `last`: nothing follows (the end of a BDAT). What cannot be told
 * yet, a CR at the end, is left out. `limits->header_bytes` is at least DATA_LINE_MAX + 2: what a
 * first line that is no field adds to the header block is not modelled. Release ret->out.
 */
void
data_model(const struct data_limits *limits, struct span in, bool last, struct data_model *ret);
