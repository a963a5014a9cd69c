/*
 * err - what a program could not do, in one code for the caller and one sentence for the human.
 *
 * A peer's refusal, a timeout or a TLS mismatch is not an error but an outcome (outcome.h).
 * Codes are few and are named by what the caller does next.
 */
#pragma once

#include <stddef.h>

#define MUST_CHECK __attribute__((warn_unused_result))

enum err_code {
    ERR_OK = 0,
    ERR_INVAL,     /* the input is wrong: tell whoever wrote it */
    ERR_LIMIT,     /* a stated limit would be passed */
    ERR_NOT_FOUND, /* no such thing */
    ERR_EXISTS,    /* it is there already */
    ERR_FULL,      /* no room: disk, quota or map; try again when there is */
    ERR_BUSY,      /* somebody else holds it */
    ERR_AGAIN,     /* not now; the same call may succeed later */
    ERR_STALE,     /* the thing changed since the caller looked */
    ERR_VERSION,   /* written by a newer program */
    ERR_CORRUPT,   /* stored data breaks its own rules */
    ERR_PERM,      /* not allowed, or a secret that others can read */
    ERR_IO,        /* the system or a library failed; do not trust what was being written */
};

struct err {
    enum err_code code;
    char text[512];
};

/* Fill `err` (may be NULL) with `code` and a printf sentence, and return `code`. */
enum err_code err_set(struct err *err, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "PREFIX: " before the sentence already in `err`; returns its code. */
enum err_code
err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The code's short name, as logged: "ok", "inval", ... */
const char *err_code_name(enum err_code code);
