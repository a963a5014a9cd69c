/*
 * data - what lies between 354 and the final dot (or inside BDAT), turned into a message.
 *
 * Only CRLF "." CRLF ends DATA (RFC 5321 section 4.1.1.4); nothing that merely looks like it does.
 * Output has dot-stuffing removed (section 4.5.2), CRLF line ends only, no NUL, and no body line
 * over 998 octets: longer ones are broken with CRLF SP, between UTF-8 characters. Lines of the
 * header block are left as long as they are.
 *
 * Clean input is handed on in place, without a copy: data_next() returns views into it. What has to
 * change goes through a small scratch buffer. The result does not depend on how the input is cut.
 */
#pragma once

#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>

#define DATA_LINE_MAX 998 /* octets without CRLF (RFC 5321 section 4.5.3.1.6) */
#define DATA_SCRATCH_BYTES 4096

enum data_fault {
    DATA_FAULT_NONE,
    DATA_FAULT_NUL,     /* 550 5.6.0 */
    DATA_FAULT_NEWLINE, /* a bare CR or LF where the listener rejects them: 550 5.5.2 */
    DATA_FAULT_SIZE,    /* 552 5.3.4 */
    DATA_FAULT_HEADER,  /* the header block is too large: 554 5.6.0 */
};

enum data_event {
    DATA_NEED, /* all input is taken: more, please */
    DATA_OUT,  /* *ret_out holds bytes of the message, until the next call */
    DATA_END,  /* the final dot was read; what is left of the input is not data */
};

struct data_limits {
    uint64_t message_bytes; /* octets of the message before long lines are broken */
    uint64_t header_bytes;
    bool reject_newlines; /* bare CR and LF are a fault; else they become SP and CRLF */
    bool dots; /* DATA; false: BDAT, where dots mean nothing and only data_finish() ends */
};

struct data {
    struct data_limits limits;
    uint64_t n_bytes;        /* so far, without what line breaking adds */
    uint64_t n_header_bytes; /* of these: the header block */
    uint64_t n_out;          /* handed on */
    uint64_t newlines_fixed, lines_broken;
    uint32_t column; /* octets of the current line of the message */
    uint8_t state, part;
    uint8_t fault; /* enum data_fault, the first one. Nothing is handed on any more, but the end is
                      still looked for */
    uint8_t n_tail;
    char tail[3]; /* octets 996 to 998 of a body line, until it is known whether it is longer */
};

void data_init(struct data *d, const struct data_limits *limits);

/*
 * Go on over *in, which is moved past what was taken. After DATA_OUT call again with the rest (even
 * when it is empty). `scratch` has DATA_SCRATCH_BYTES; it may differ from call to call.
 */
enum data_event data_next(struct data *d, struct span *in, char *scratch, struct span *ret_out);

/* The end of the last BDAT chunk: what is still due, a last CRLF included; maybe nothing. */
struct span data_finish(struct data *d, char *scratch);
/* The final dot was read, or data_finish() was called. */
bool data_ended(const struct data *d);
