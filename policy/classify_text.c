/*
 * classify_text.c - from a reply as it came to the words that rules look at.
 *
 * Addresses and IP addresses become #addr and #ip: what stands in them must not be taken for the
 * peer's words (spam@, relay@), and rules can ask whether a reply speaks of an address at all.
 */
#include "policy/classify_internal.h"

#include <arpa/inet.h>

static bool
is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* "550", "550-" or "550 " at the start of a line; the code, or 0. */
static int
code_at(struct span line, size_t *ret_n)
{
    if (line.n < 3 || line.p[0] < '2' || line.p[0] > '5' || !ascii_digit(line.p[1]) ||
        !ascii_digit(line.p[2]))
        return 0;
    if (line.n > 3 && line.p[3] != ' ' && line.p[3] != '-')
        return 0;
    *ret_n = line.n > 3 ? 4 : 3;
    return (line.p[0] - '0') * 100 + (line.p[1] - '0') * 10 + (line.p[2] - '0');
}

/* "5.1.1", "#5.1.1" or "(#5.1.1)" at the start of `s`: its length, or 0. */
static size_t
enh_at(struct span s, struct enh *ret)
{
    size_t hash = s.n > 0 && s.p[0] == '#' ? 1 : 0, n;
    if (!enh_parse(span_from(s, hash), ret, &n))
        return 0;
    n += hash;
    /* "5.1.1" and not "5.1.1foo". */
    return n < s.n && (ascii_alpha(s.p[n]) || s.p[n] == '-') ? 0 : n;
}

/* Strip codes from the front of one line, and note them. Gateways put their own in front of the
 * code that they were told: "550 5.0.0 550 5.1.1 ...". */
static struct span
line_strip(struct span line, struct classify_reply *reply)
{
    struct enh enh;
    size_t n_code, n_enh;
    line = span_trim(line);
    if (span_istarts(line, SPAN("smtp;")))
        line = span_trim(span_from(line, 5));
    do {
        n_code = n_enh = 0;
        int code = code_at(line, &n_code);
        if (code != 0 && reply->code == 0)
            reply->code = code;
        line = span_trim(span_from(line, n_code));
        if ((n_enh = enh_at(line, &enh)) > 0 && reply->enh.klass == 0)
            reply->enh = enh;
        line = span_trim(span_from(line, n_enh));
    } while (n_code > 0);
    return line;
}

static bool
is_ip(struct span word)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char address[16];
    if (word.n < 2 || word.n >= sizeof(text))
        return false;
    memcpy(text, word.p, word.n);
    text[word.n] = '\0';
    return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

static bool
is_address_octet(char c)
{
    static const bool other[256] = {
        ['<'] = true, ['>'] = true,  ['('] = true,  [')'] = true, ['['] = true, [']'] = true,
        ['{'] = true, ['}'] = true,  [','] = true,  [';'] = true, [':'] = true, ['"'] = true,
        ['`'] = true, ['?'] = true,  ['&'] = true,  ['='] = true, ['/'] = true, ['|'] = true,
        ['!'] = true, ['\''] = true, ['\\'] = true,
    };
    return (unsigned char)c > ' ' && !other[(unsigned char)c];
}

/* Octets of an IP address at the start of `s`; 0: none. */
static size_t
ip_length(struct span s)
{
    size_t n = 0;
    while (n < s.n && (ascii_digit(s.p[n]) || s.p[n] == '.' || s.p[n] == ':' ||
                       (ascii_lower(s.p[n]) >= 'a' && ascii_lower(s.p[n]) <= 'f')))
        n++;
    if (n < s.n && (ascii_alpha(s.p[n]) || s.p[n] == '-' || s.p[n] == '@' || s.p[n] == '_'))
        return 0;
    while (n > 0 && (s.p[n - 1] == '.' || s.p[n - 1] == ':'))
        n--;
    return is_ip(span_first(s, n)) ? n : 0;
}

/* Octets of a mail address at the start of `s`; 0: none. */
static size_t
address_length(struct span s)
{
    size_t n = 0, at = 0;
    while (n < s.n && is_address_octet(s.p[n])) {
        if (s.p[n] == '@')
            at = n;
        n++;
    }
    while (n > 0 && s.p[n - 1] == '.')
        n--;
    return at > 0 && n > at + 1 ? n : 0;
}

/* Copy words, one blank between them, addresses replaced. */
static void
words_add(struct span line, struct strbuf *out)
{
    bool at_start = true; /* of something that may be an address */
    for (size_t i = 0; i < line.n && out->n < CLASSIFY_TEXT_MAX;) {
        struct span rest = span_from(line, i);
        size_t n = at_start ? ip_length(rest) : 0;
        if (n > 0) {
            strbuf_add_str(out, "#ip");
        } else if (at_start && (n = address_length(rest)) > 0) {
            strbuf_add_str(out, "#addr");
        } else if (is_blank(rest.p[0])) {
            for (n = 0; n < rest.n && is_blank(rest.p[n]);)
                n++;
            strbuf_add_byte(out, ' ');
        } else {
            n = 1;
            strbuf_add_byte(out, rest.p[0]);
        }
        i += n;
        at_start = i > 0 && i < line.n && !is_address_octet(line.p[i - 1]);
    }
}

/* qmail puts its enhanced code at the end: "(#5.1.1)". */
static void
enh_inside(struct classify_reply *reply, struct span words)
{
    for (struct span rest = words; reply->enh.klass == 0 && rest.n > 0;) {
        struct enh enh;
        span_cut(&rest, '#');
        if (enh_at(rest, &enh) > 0 && (reply->code == 0 || reply->code / 100 == enh.klass))
            reply->enh = enh;
    }
}

void
classify_normalise(struct classify_reply *reply, struct strbuf *out)
{
    struct span rest = span_first(reply->text, CLASSIFY_TEXT_MAX * 2);
    strbuf_reset(out);
    while (rest.n > 0) {
        struct span line = line_strip(span_cut(&rest, '\n'), reply);
        if (line.n == 0)
            continue;
        if (out->n > 0)
            strbuf_add_byte(out, ' ');
        words_add(line, out);
    }
    if (out->n > CLASSIFY_TEXT_MAX)
        strbuf_truncate(out, CLASSIFY_TEXT_MAX);
    enh_inside(reply, strbuf_span(out));
}
