/*
 * How it works: bytes are gathered to a line (memchr for LF), the line is judged whole, its text is
 * added to `text`. The last line of a reply has a space, or nothing, behind its code.
 */
#include "policy/base/smtp_reply.h"

#include <assert.h>
#include <stdio.h>

#define TEXT_KEEP_BYTES 1024 /* of a finished reply's buffer; the rest is given back */

void
smtp_reply_parser_init(struct smtp_reply_parser *p)
{
    memset(p, 0, sizeof(*p));
}

void
smtp_reply_parser_release(struct smtp_reply_parser *p)
{
    strbuf_release(&p->text);
}

void
smtp_reply_parser_reset(struct smtp_reply_parser *p)
{
    if (p->text.cap > TEXT_KEEP_BYTES)
        strbuf_release(&p->text);
    else
        strbuf_reset(&p->text);
    p->line_n = p->n_lines = p->n_bytes = 0;
    p->code = 0;
    p->enh = (struct enh){0};
    p->done = false;
    p->why = NULL;
}

bool
smtp_reply_partial(const struct smtp_reply_parser *p)
{
    return !p->done && (p->line_n > 0 || p->n_lines > 0);
}

static bool
bad(struct smtp_reply_parser *p, const char *why)
{
    p->why = why;
    return false;
}

/* Control characters become spaces: what is logged, mailed and matched later has none. */
static void
text_add_clean(struct strbuf *sb, struct span text)
{
    size_t start = sb->n;
    strbuf_add_span(sb, text);
    for (size_t i = start; i < sb->n; i++)
        if (ascii_control(sb->p[i]))
            sb->p[i] = ' ';
}

/* The text of a line without its enhanced code; the first code seen is that of the reply. */
static struct span
enh_take(struct smtp_reply_parser *p, struct span text)
{
    struct enh enh;
    size_t n;
    if (!enh_parse(text, &enh, &n) || (n < text.n && text.p[n] != ' ' && text.p[n] != '\t'))
        return text;
    if (p->enh.klass == 0)
        p->enh = enh;
    return span_trim(span_from(text, n));
}

/* One line without its line end. False: BAD. *ret_last: the reply is complete. */
static bool
line_take(struct smtp_reply_parser *p, struct span line, bool *ret_last)
{
    if (line.n > 0 && line.p[line.n - 1] == '\r')
        line.n--;
    if (line.n < 3 || !ascii_digit(line.p[0]) || !ascii_digit(line.p[1]) || !ascii_digit(line.p[2]))
        return bad(p, "a line that is no SMTP reply");
    if (line.p[0] < '2' || line.p[0] > '5')
        return bad(p, "a reply code out of range");
    if (line.n > 3 && line.p[3] != ' ' && line.p[3] != '-' && line.p[3] != '\t')
        return bad(p, "a line that is no SMTP reply");
    int code = (line.p[0] - '0') * 100 + (line.p[1] - '0') * 10 + (line.p[2] - '0');
    if (p->code != 0 && p->code / 100 != code / 100)
        return bad(p, "a reply with contradicting codes");
    if (++p->n_lines > SMTP_REPLY_LINES_MAX)
        return bad(p, "a reply of too many lines");
    p->code = code;
    if (p->n_lines > 1)
        strbuf_add_byte(&p->text, '\n');
    text_add_clean(&p->text, enh_take(p, span_trim(span_from(line, 4))));
    *ret_last = line.n == 3 || line.p[3] != '-';
    return true;
}

enum smtp_reply_status
smtp_reply_parse(struct smtp_reply_parser *p, struct span input, size_t *ret_used,
                 struct smtp_reply *ret_reply)
{
    *ret_used = 0;
    if (p->done)
        smtp_reply_parser_reset(p);
    while (p->why == NULL && *ret_used < input.n) {
        struct span rest = span_from(input, *ret_used);
        size_t eol = span_find_byte(rest, '\n');
        size_t n = eol == SIZE_MAX ? rest.n : eol;
        size_t used = eol == SIZE_MAX ? n : n + 1;
        if (n > sizeof(p->line) - p->line_n) {
            bad(p, "a reply line that is too long");
            break;
        }
        p->n_bytes += used;
        *ret_used += used;
        if (p->n_bytes > SMTP_REPLY_BYTES_MAX) {
            bad(p, "a reply that is too long");
            break;
        }
        memcpy(p->line + p->line_n, rest.p, n);
        p->line_n += n;
        if (eol == SIZE_MAX)
            break;
        bool last = false;
        struct span line = span_of(p->line, p->line_n);
        p->line_n = 0;
        if (line_take(p, line, &last) && last) {
            p->done = true;
            *ret_reply =
                (struct smtp_reply){.code = p->code, .enh = p->enh, .text = strbuf_span(&p->text)};
            return SMTP_REPLY_DONE;
        }
    }
    return p->why == NULL ? SMTP_REPLY_MORE : SMTP_REPLY_BAD;
}

/* Bytes of a UTF-8 sequence that begins at the end of the text but does not end in it. */
static size_t
utf8_tail(const char *text, size_t n)
{
    size_t tail = 1;
    while (tail < 4 && tail < n && ((unsigned char)text[n - tail] & 0xc0) == 0x80)
        tail++;
    unsigned char lead = n == 0 ? 0 : (unsigned char)text[n - tail];
    size_t want = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    return tail < want ? tail : 0;
}

char *
smtp_reply_line(const struct smtp_reply *r, char *buf, size_t size)
{
    assert(size > 0);
    size_t n = 0;
    for (size_t i = 0; i < r->text.n && n + 1 < size; i++) {
        char c = r->text.p[i] == '\n' ? ' ' : r->text.p[i];
        if (c == ' ' && (n == 0 || buf[n - 1] == ' '))
            continue;
        buf[n++] = c;
    }
    if (n + 1 == size)
        n -= utf8_tail(buf, n);
    buf[n] = '\0';
    return buf;
}

void
smtp_reply_outcome(const struct smtp_reply *r, const char *phase, struct outcome *ret)
{
    *ret = (struct outcome){.kind = OUTCOME_DEFERRED, .origin = ORIGIN_PEER, .phase = phase};
    ret->code = r->code;
    ret->enh = r->enh;
    if (r->code / 100 == 2)
        ret->kind = OUTCOME_DELIVERED;
    else if (r->code / 100 == 5)
        ret->kind = OUTCOME_FAILED;
    smtp_reply_line(r, ret->text, sizeof(ret->text));
}
