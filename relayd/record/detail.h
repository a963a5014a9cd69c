/*
 * detail - how a recipient ended: what the queue's history keeps for `trace`.
 *
 * Encoded, version 1: u8 version, u16 code, u8 enh class, u16 subject, u16 detail, u32 attempts,
 * then strings (u16 length): route, site, peer, host, tls, phase, class, text.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/outcome.h"

#define DETAIL_TEXT_MAX 200 /* history is long: the end of a long reply is left out */

struct detail {
    int code;
    struct enh enh;
    uint32_t attempts;
    struct span route, site, peer, host, tls, phase, klass, text;
};

void detail_encode(const struct detail *d, struct strbuf *out);
/* The spans point into `bytes`. ERR_CORRUPT when it breaks its own rules. */
MUST_CHECK enum err_code detail_decode(struct span bytes, struct detail *ret, struct err *err);
