/*
 * smtp_reply - one reply of an SMTP server (RFC 5321 section 4.2), parsed as its bytes arrive.
 *
 * The parser takes any chunking and gives the same result for each. It is bounded in line length,
 * number of lines and size, because the peer is not trusted; what it hands out is clean text: no
 * control character (NUL, CR, ESC, tab ...) survives but the LF between two lines.
 *
 * Invariants
 *  (1) A reply's code is 200..599.
 *  (2) `text` holds no code, and no enhanced code at the start of a line; lines are joined by LF.
 *  (3) After SMTP_REPLY_BAD the parser says BAD until it is reset: there is no way back in step.
 */
#pragma once

#include "policy/base/outcome.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>

#define SMTP_REPLY_LINE_MAX 2048 /* RFC 5321 says 512; real banners and policy texts are longer */
#define SMTP_REPLY_LINES_MAX 500 /* an EHLO answer has some 20 */
#define SMTP_REPLY_BYTES_MAX \
    65536 /* of one whole reply: what a peer can make one connection hold */

struct smtp_reply {
    int code;         /* 200..599; that of the last line */
    struct enh enh;   /* RFC 3463 code of the first line that has one; klass 0: none */
    struct span text; /* lines joined by LF; owned by the parser until its next call */
};

enum smtp_reply_status {
    SMTP_REPLY_MORE, /* all input used, the reply is not complete */
    SMTP_REPLY_DONE, /* *ret_reply is filled; input behind it is left alone */
    SMTP_REPLY_BAD,  /* not SMTP, or past a limit: `why` says what; close the connection */
};

struct smtp_reply_parser {
    struct strbuf text; /* of the lines seen so far */
    char line[SMTP_REPLY_LINE_MAX];
    size_t line_n;
    size_t n_lines, n_bytes;
    int code; /* of the lines before; 0: none yet */
    struct enh enh;
    bool done;       /* the last call completed a reply; the next one starts afresh */
    const char *why; /* static; not NULL: broken */
};

void smtp_reply_parser_init(struct smtp_reply_parser *p);
void smtp_reply_parser_release(struct smtp_reply_parser *p);
/* Forget a half-read reply and a BAD state: a new connection, or TLS starts. */
void smtp_reply_parser_reset(struct smtp_reply_parser *p);

/*
 * Feed bytes; stops behind the first complete reply. *ret_used is how many bytes were taken.
 *
 * Lines may end in CRLF or bare LF. "553" without text is a reply. Lines of one reply whose codes
 * differ in the first digit are BAD; otherwise the last line's code counts (RFC 5321 section
 * 4.2.1 wants them equal). `ret_reply->text` is valid until the next call on this parser.
 */
enum smtp_reply_status smtp_reply_parse(struct smtp_reply_parser *p, struct span input,
                                        size_t *ret_used, struct smtp_reply *ret_reply);

/* Some bytes of an incomplete reply are held. */
bool smtp_reply_partial(const struct smtp_reply_parser *p);

/* The whole text as one line, lines joined by a space, cut to `size` - 1 bytes at a UTF-8 boundary,
 * NUL-terminated. `size` > 0. Returns `buf`. */
char *smtp_reply_line(const struct smtp_reply *r, char *buf, size_t size);

/* The outcome that a reply means by its first digit alone: 2 delivered, 4 deferred, 5 failed; 3
 * (an intermediate reply where a final one was due) is deferred. `phase` is static text. */
void smtp_reply_outcome(const struct smtp_reply *r, const char *phase, struct outcome *ret);
