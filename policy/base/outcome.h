/*
 * outcome - what became of one attempt for one recipient: a value, never an error.
 *
 * The peer's refusal, a dead port 25, a failed TLS handshake and a DNS answer all end here. Fields
 * are never NULL; text that is not there is empty.
 */
#pragma once

#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <stdbool.h>

enum outcome_kind {
    OUTCOME_DELIVERED, /* the next host took responsibility (RFC 5321 section 4.2.5) */
    OUTCOME_DEFERRED,  /* not now; try again */
    OUTCOME_FAILED,    /* never; tell the sender */
};

/* Who said so. */
enum outcome_origin {
    ORIGIN_PEER,  /* an SMTP reply of the next host */
    ORIGIN_LOCAL, /* we: expiry, the administrator, a rule */
    ORIGIN_DNS,
    ORIGIN_NET, /* connect, reset, timeout, closed */
    ORIGIN_TLS,
};

/* RFC 3463 enhanced status code; class 0 means none was given. */
struct enh {
    uint8_t klass; /* 2, 4, 5 or 0 */
    uint16_t subject, detail;
};

#define OUTCOME_TEXT_MAX 512 /* longer reply texts are cut: enough for any human explanation */

struct outcome {
    enum outcome_kind kind;
    enum outcome_origin origin;
    const char *phase; /* static: "connect", "greeting", "ehlo", "starttls", "auth", "mail", "rcpt",
                          "data", "body-end", "dns", "route", "queue" */
    int code;          /* SMTP reply code, 0 when the peer sent none */
    struct enh enh;
    bool path; /* the path failed, not the recipient: unreachable, timeout, reset, TLS or AUTH
                  refused by a hop; another route may work */
    bool maybe_twice; /* lost after the final dot: the retry may deliver it twice (RFC 1047) */
    bool greylisted;  /* the peer asks to come back later from the same address */
    char text[OUTCOME_TEXT_MAX +
              1]; /* one line, the peer's words or ours; not yet escaped for logs */
};

const char *outcome_kind_name(enum outcome_kind kind);       /* "delivered", "deferred", "failed" */
const char *outcome_origin_name(enum outcome_origin origin); /* "peer", "local", ... */

/* An outcome of our own making; `code` 0 and `enh` like "5.4.4" (or NULL). */
void outcome_set(struct outcome *o, enum outcome_kind kind, enum outcome_origin origin,
                 const char *phase, const char *enh, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));

/* A copy that takes the memory of its own text only, for those who keep many; free() it. */
struct outcome_kept;
struct outcome_kept *outcome_keep(const struct outcome *o);
void outcome_recall(const struct outcome_kept *kept, struct outcome *ret);
const char *outcome_kept_text(const struct outcome_kept *kept); /* valid as long as `kept` */

/* "5.7.1" at the start of `s` as an RFC 3463 code; false when there is none. Writes its length. */
bool enh_parse(struct span s, struct enh *ret, size_t *ret_len);
/* Writes "5.7.1" (or "" when klass is 0); `buf` holds at least 16 bytes. Returns buf. */
char *enh_format(struct enh e, char *buf);
/* The code that a report carries for this outcome: its own, or X.0.0 of the right class. */
struct enh outcome_status(const struct outcome *o);
