/*
 * dsn_encode.c - making text from outside harmless, and the encodings of RFC 2045 and 2047.
 */
#include "policy/dsn_internal.h"

#include "policy/base/mailbox.h"

#define FOLD_AT 76u         /* where a field is folded when a blank allows it */
#define WORD_MAX 900u       /* a longer word is cut: RFC 5322 allows no line beyond 998 */
#define QP_LINE_MAX 76u     /* RFC 2045 section 6.7 (5) */
#define ENCODED_TEXT_MAX 45 /* octets of one encoded word: 60 in base64, 72 with its frame */

bool
dsn_is_ascii(struct span text)
{
    for (size_t i = 0; i < text.n; i++)
        if ((unsigned char)text.p[i] > 126)
            return false;
    return true;
}

/* Octets of the valid UTF-8 character at the start of `text` that may be shown, or 0. The controls
 * U+0080 to U+009F and those that change the direction of what follows are not shown. */
static size_t
utf8_length(struct span text)
{
    unsigned char c = (unsigned char)text.p[0];
    size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc2 ? 2 : 0;
    if (n == 0 || text.n < n || !mailbox_utf8_valid(span_first(text, n)))
        return 0;
    unsigned char second = (unsigned char)text.p[1], last = (unsigned char)text.p[n - 1];
    if (c == 0xc2 && second < 0xa0)
        return 0;
    if (c == 0xe2 && second == 0x80 &&
        ((last >= 0xaa && last <= 0xae) || last == 0xa8 || last == 0xa9))
        return 0;
    if (c == 0xe2 && second == 0x81 && last >= 0xa6 && last <= 0xa9)
        return 0;
    return n;
}

static bool
is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

void
dsn_clean(struct span text, size_t max, enum dsn_charset charset, struct strbuf *out)
{
    text = span_trim(text);
    for (size_t i = 0; i < text.n;) {
        unsigned char c = (unsigned char)text.p[i];
        size_t n = c > 126 && charset == DSN_UTF8 ? utf8_length(span_from(text, i)) : 1;
        if (i + (n == 0 ? 1 : n) > max) {
            strbuf_add_str(out, " ...");
            return;
        }
        if (is_space((char)c)) {
            strbuf_add_byte(out, ' ');
            while (i < text.n && is_space(text.p[i]))
                i++;
            continue;
        }
        if (n == 0 || (n == 1 && (c < ' ' || c > 126))) {
            strbuf_printf(out, "\\x%02X", c);
            n = 1;
        } else {
            strbuf_add(out, text.p + i, n);
        }
        i += n;
    }
}

/* Octets of `word` that go on one line: not through the middle of a UTF-8 character. */
static size_t
word_cut(struct span word)
{
    if (word.n <= WORD_MAX)
        return word.n;
    size_t n = WORD_MAX;
    while (((unsigned char)word.p[n] & 0xc0) == 0x80)
        n--;
    return n;
}

void
dsn_field(const char *name, struct span value, struct strbuf *out)
{
    size_t line_start = out->n;
    bool first = true;
    strbuf_add_str(out, name);
    strbuf_add_byte(out, ':');
    while (value.n > 0) {
        struct span word = span_first(value, span_find_byte(value, ' '));
        size_t n = word_cut(word);
        if (!first && out->n - line_start + 1 + n > FOLD_AT) {
            strbuf_add_str(out, "\r\n");
            line_start = out->n;
        }
        strbuf_add_byte(out, ' ');
        strbuf_add(out, value.p, n);
        first = false;
        value = span_from(value, n);
        if (value.n > 0 && value.p[0] == ' ')
            value = span_from(value, 1);
    }
    strbuf_add_str(out, "\r\n");
}

void
dsn_quoted_printable(struct span text, struct strbuf *out)
{
    size_t line_start = out->n;
    for (size_t i = 0; i < text.n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        if (span_starts(span_from(text, i), SPAN("\r\n"))) {
            strbuf_add_str(out, "\r\n");
            line_start = out->n;
            i++;
            continue;
        }
        bool last_blank = (c == ' ' || c == '\t') &&
                          (i + 1 == text.n || span_starts(span_from(text, i + 1), SPAN("\r\n")));
        bool plain = (c == ' ' || c == '\t' || (c > ' ' && c < 127)) && c != '=' && !last_blank;
        if (out->n - line_start + (plain ? 1 : 3) > QP_LINE_MAX - 1) {
            strbuf_add_str(out, "=\r\n");
            line_start = out->n;
        }
        if (plain)
            strbuf_add_byte(out, (char)c);
        else
            strbuf_printf(out, "=%02X", c);
    }
}

static void
base64(struct span text, struct strbuf *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < text.n; i += 3) {
        size_t n = text.n - i < 3 ? text.n - i : 3;
        uint32_t bits = 0;
        for (size_t j = 0; j < 3; j++)
            bits = bits << 8 | (j < n ? (unsigned char)text.p[i + j] : 0);
        for (size_t j = 0; j < 4; j++)
            strbuf_add_byte(out, j <= n ? digits[bits >> (18 - 6 * j) & 63] : '=');
    }
}

void
dsn_encoded_words(struct span text, struct strbuf *out)
{
    if (dsn_is_ascii(text)) {
        strbuf_add_span(out, text);
        return;
    }
    while (text.n > 0) {
        size_t n = text.n < ENCODED_TEXT_MAX ? text.n : ENCODED_TEXT_MAX;
        while (n < text.n && ((unsigned char)text.p[n] & 0xc0) == 0x80)
            n--; /* each encoded word holds whole characters (RFC 2047 section 5) */
        strbuf_add_str(out, "=?utf-8?B?");
        base64(span_first(text, n), out);
        strbuf_add_str(out, "?=");
        text = span_from(text, n);
        if (text.n > 0)
            strbuf_add_str(out, "\r\n ");
    }
}

void
dsn_refusal_words(const struct dsn_refusal *refusal, enum dsn_charset charset, struct strbuf *out)
{
    char enh[16];
    struct enh said;
    size_t len;
    if (refusal->code != 0)
        strbuf_printf(out, "%d ", refusal->code);
    /* Who took the reply apart may have left the enhanced code in its text. */
    if (refusal->code != 0 && refusal->enh.klass != 0 && !enh_parse(refusal->text, &said, &len))
        strbuf_printf(out, "%s ", enh_format(refusal->enh, enh));
    dsn_clean(refusal->text, DSN_REPLY_MAX, charset, out);
}
