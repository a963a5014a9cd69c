/*
 * body - the stream from stored bytes to what stands between 354 and the final dot.
 *
 * Lines that begin with a dot get another one (RFC 5321 section 4.5.2). What is stored is clean
 * CRLF text; should a bare CR or LF be in it after all, it leaves as CRLF (LF) or a space (CR), so
 * that no message can end early at a lenient host. The result does not depend on how the input is
 * cut. Nothing is copied: the pieces point into the input and into constants.
 */
#pragma once

#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>

struct body_stuffer {
    bool mid_line; /* zero-initialised: at the start of a line */
    bool cr_held;  /* a CR ended the last input; it has not been put out yet */
};

#define BODY_PIECES_MIN 6 /* so that one line always fits, whatever is in it */

/*
 * Take a prefix of `input` and describe its wire form by at most `max` (>= BODY_PIECES_MIN) pieces.
 * Returns the number of pieces; *ret_used is how much of the input they cover: all of it unless
 * `max` was reached, and some of it unless there is none. The pieces live as long as the input.
 */
size_t body_stuff(struct body_stuffer *b, struct span input, struct span *pieces, size_t max,
                  size_t *ret_used);

/* The end of the message: a missing line end, and the final dot. */
struct span body_end(struct body_stuffer *b);
