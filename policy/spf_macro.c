/*
 * spf_macro.c - macro strings and domain-specs (RFC 7208 section 7), and names as octets.
 *
 * One reader, piece_next(), serves the check of the grammar, the question which letters occur, and
 * the expansion. An expansion keeps only its end: labels on the left are dropped anyway
 * (section 7.3), so that no record can make it large.
 */
#include "policy/spf_internal.h"

#include <stdio.h>

#include "policy/base/mem.h"

#define EXPANSION_KEEP 512 /* octets of an unfinished expansion that may still count */
#define EXPANSION_MAX 4096 /* cut back to EXPANSION_KEEP beyond it */
#define LABEL_MAX 63

enum piece_kind { PIECE_TEXT, PIECE_MACRO, PIECE_END, PIECE_BROKEN };

struct piece {
    enum piece_kind kind;
    struct span text; /* TEXT, as it goes out */
    bool escape;      /* TEXT: written as %%, %_ or %- */
    char letter;      /* MACRO, lower case */
    bool url, reverse;
    size_t n_parts; /* on the right that are kept; 0: all */
    struct span delimiters;
};

static bool
is_literal(char c)
{
    return c >= 0x21 && c <= 0x7e && c != '%';
}

/* "{ir-}": what stands behind the '%', with *rest at the brace. */
static bool
macro_read(struct span *rest, struct piece *ret)
{
    size_t end = span_find_byte(*rest, '}'), at = 1;
    struct span s = span_first(*rest, end == SIZE_MAX ? 0 : end);

    if (s.n < 2)
        return false;
    char c = s.p[at++];
    *ret = (struct piece){.kind = PIECE_MACRO, .letter = ascii_lower(c), .url = c < 'a'};
    if (!ascii_alpha(c) || span_find_byte(SPAN("slodiphcrtv"), ret->letter) == SIZE_MAX)
        return false;
    if (at < s.n && ascii_digit(s.p[at])) {
        for (; at < s.n && ascii_digit(s.p[at]); at++)
            if (ret->n_parts < SPF_SENDER_MAX)
                ret->n_parts = ret->n_parts * 10 + (size_t)(s.p[at] - '0');
        if (ret->n_parts == 0)
            return false;
    }
    if (at < s.n && ascii_lower(s.p[at]) == 'r') {
        ret->reverse = true;
        at++;
    }
    ret->delimiters = span_from(s, at);
    for (; at < s.n; at++)
        if (span_find_byte(SPAN(".-+,/_="), s.p[at]) == SIZE_MAX)
            return false;
    *rest = span_from(*rest, end + 1);
    return true;
}

/* The next piece of a macro-string: text as long as possible, or one macro. */
static enum piece_kind
piece_next(struct span *rest, struct piece *ret)
{
    size_t n = 0;

    if (rest->n == 0)
        return PIECE_END;
    while (n < rest->n && is_literal(rest->p[n]))
        n++;
    if (n > 0) {
        *ret = (struct piece){.kind = PIECE_TEXT, .text = span_first(*rest, n)};
        *rest = span_from(*rest, n);
        return PIECE_TEXT;
    }
    if (rest->p[0] != '%' || rest->n < 2)
        return PIECE_BROKEN;
    char c = rest->p[1];
    if (c == '{') {
        *rest = span_from(*rest, 1);
        return macro_read(rest, ret) ? PIECE_MACRO : PIECE_BROKEN;
    }
    if (c != '%' && c != '_' && c != '-')
        return PIECE_BROKEN;
    *ret = (struct piece){.kind = PIECE_TEXT,
                          .escape = true,
                          .text = c == '%'   ? SPAN("%")
                                  : c == '_' ? SPAN(" ")
                                             : SPAN("%20")};
    *rest = span_from(*rest, 2);
    return PIECE_TEXT;
}

/* ---- the grammar ---- */

/* "." toplabel [ "." ] at the end of a text. */
static bool
ends_in_top_label(struct span text)
{
    if (span_ends(text, SPAN(".")))
        text = span_first(text, text.n - 1);
    size_t at = text.n;
    bool letter_or_hyphen = false;
    while (at > 0 &&
           (ascii_alpha(text.p[at - 1]) || ascii_digit(text.p[at - 1]) || text.p[at - 1] == '-')) {
        at--;
        letter_or_hyphen |= !ascii_digit(text.p[at]);
    }
    return at > 0 && at < text.n && text.p[at - 1] == '.' && letter_or_hyphen &&
           text.p[at] != '-' && text.p[text.n - 1] != '-';
}

bool
spf_domain_spec_valid(struct span spec)
{
    struct piece last = {.kind = PIECE_TEXT};
    enum piece_kind kind;

    while ((kind = piece_next(&spec, &last)) != PIECE_END) {
        if (kind == PIECE_BROKEN)
            return false;
        if (kind == PIECE_MACRO && span_find_byte(SPAN("crt"), last.letter) != SIZE_MAX)
            return false; /* section 7.2: in explanations only */
    }
    return last.kind == PIECE_MACRO || last.escape || ends_in_top_label(last.text);
}

bool
spf_macro_string_valid(struct span text)
{
    struct piece piece;
    enum piece_kind kind;
    while ((kind = piece_next(&text, &piece)) != PIECE_END)
        if (kind == PIECE_BROKEN)
            return false;
    return true;
}

unsigned
spf_domain_spec_uses(struct span spec)
{
    struct piece piece;
    enum piece_kind kind;
    unsigned uses = 0;

    while ((kind = piece_next(&spec, &piece)) != PIECE_END && kind != PIECE_BROKEN) {
        if (kind != PIECE_MACRO)
            continue;
        if (piece.letter == 's' || piece.letter == 'l')
            uses |= SPF_USES_LOCAL;
        if (piece.letter == 'h')
            uses |= SPF_USES_HELO;
        if (piece.letter == 'p')
            uses |= SPF_USES_VALIDATED;
    }
    return uses;
}

/* ---- expansion ---- */

/* %{i}: "192.0.2.1", or 32 hexadecimal digits with dots between them. */
static void
address_macro(const struct ip *ip, struct strbuf *out)
{
    char text[IP_TEXT_MAX];
    if (ip->family == 4) {
        strbuf_add_str(out, ip_format(ip, text));
        return;
    }
    for (size_t i = 0; i < 16; i++)
        strbuf_printf(out, "%s%x.%x", i > 0 ? "." : "", ip->bytes[i] >> 4, ip->bytes[i] & 15);
}

static void
macro_value(const struct spf_macros *m, char letter, struct strbuf *out)
{
    switch (letter) {
    case 's':
        strbuf_add_span(out, m->local);
        strbuf_add_byte(out, '@');
        strbuf_add_span(out, m->sender_domain);
        break;
    case 'l':
        strbuf_add_span(out, m->local);
        break;
    case 'o':
        strbuf_add_span(out, m->sender_domain);
        break;
    case 'd':
        strbuf_add_span(out, m->domain);
        break;
    case 'i':
        address_macro(m->ip, out);
        break;
    case 'p':
        strbuf_add_span(out, m->validated);
        break;
    case 'h':
        strbuf_add_span(out, m->helo);
        break;
    case 'v':
        strbuf_add_str(out, m->ip->family == 4 ? "in-addr" : "ip6");
        break;
    default: /* c, r and t do not occur in a domain-spec */
        break;
    }
}

static bool
is_unreserved(char c)
{
    return ascii_alpha(c) || ascii_digit(c) || (c != '\0' && strchr("-._~", c) != NULL);
}

static void
part_add(struct strbuf *out, struct span part, bool url)
{
    for (size_t i = 0; i < part.n; i++) {
        if (!url || is_unreserved(part.p[i]))
            strbuf_add_byte(out, part.p[i]);
        else
            strbuf_printf(out, "%%%02X", (unsigned char)part.p[i]);
    }
}

/* The end of the part that begins at `at`. */
static size_t
part_end(struct span value, size_t at, struct span delimiters)
{
    while (at < value.n && span_find_byte(delimiters, value.p[at]) == SIZE_MAX)
        at++;
    return at;
}

/* The beginning of the part that ends at `end`. */
static size_t
part_begin(struct span value, size_t end, struct span delimiters)
{
    while (end > 0 && span_find_byte(delimiters, value.p[end - 1]) == SIZE_MAX)
        end--;
    return end;
}

/*
 * The transformers of section 7.3: split at the delimiters, reverse, keep the parts on the right,
 * join with dots. Reversed, the parts on the right are the first ones, the last of them in front.
 */
static void
macro_expand(const struct piece *piece, const struct spf_macros *m, struct strbuf *out)
{
    CLEANUP(strbuf_release) struct strbuf buf = STRBUF_INIT;
    struct span delimiters = piece->delimiters.n > 0 ? piece->delimiters : SPAN(".");
    size_t n_parts = 1, skip;

    strbuf_reserve(&buf, 1); /* so that an empty value has an address */
    macro_value(m, piece->letter, &buf);
    struct span value = strbuf_span(&buf);
    for (size_t i = 0; i < value.n; i++)
        n_parts += span_find_byte(delimiters, value.p[i]) != SIZE_MAX;
    skip = piece->n_parts > 0 && piece->n_parts < n_parts ? n_parts - piece->n_parts : 0;

    size_t begin = 0, end = value.n;
    for (size_t i = 0; i < n_parts; i++) {
        struct span part;
        if (piece->reverse) {
            size_t at = part_begin(value, end, delimiters);
            part = span_of(value.p + at, end - at);
            end = at > 0 ? at - 1 : 0;
        } else {
            size_t at = part_end(value, begin, delimiters);
            part = span_of(value.p + begin, at - begin);
            begin = at + 1;
        }
        if (i < skip)
            continue;
        if (i > skip)
            strbuf_add_byte(out, '.');
        part_add(out, part, piece->url);
    }
}

static struct span
without_final_dot(struct span name)
{
    return span_ends(name, SPAN(".")) ? span_first(name, name.n - 1) : name;
}

/* Labels of 1..63 octets, SPF_DOMAIN_MAX in all. */
static bool
name_set(struct span octets, struct spf_name *ret)
{
    size_t label = 0;

    if (octets.n == 0 || octets.n > SPF_DOMAIN_MAX)
        return false;
    for (size_t i = 0; i < octets.n; i++) {
        label = octets.p[i] == '.' ? 0 : label + 1;
        if (label > LABEL_MAX || (label == 0 && (i == 0 || octets.p[i - 1] == '.')))
            return false;
    }
    memcpy(ret->octets, octets.p, octets.n);
    ret->n = octets.n;
    return label > 0;
}

bool
spf_name_make(struct span octets, struct spf_name *ret)
{
    return name_set(without_final_dot(octets), ret);
}

bool
spf_domain_spec_expand(struct span spec, const struct spf_macros *m, struct spf_name *ret)
{
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    struct piece piece;
    enum piece_kind kind;

    while ((kind = piece_next(&spec, &piece)) != PIECE_END && kind != PIECE_BROKEN) {
        if (kind == PIECE_TEXT)
            strbuf_add_span(&out, piece.text);
        else
            macro_expand(&piece, m, &out);
        if (out.n > EXPANSION_MAX)
            strbuf_consume(&out, out.n - EXPANSION_KEEP);
    }
    struct span name = without_final_dot(strbuf_span(&out));
    while (name.n > SPF_DOMAIN_MAX)
        span_cut(&name, '.');
    return name_set(name, ret);
}

void
spf_name_reverse(const struct ip *ip, struct spf_name *ret)
{
    struct spf_macros m = {.ip = ip};
    bool made = spf_domain_spec_expand(SPAN("%{ir}.%{v}.arpa"), &m, ret);
    (void)made; /* always: at most 73 octets, no empty label */
}

void
spf_name_format(const struct spf_name *name, char ret[static SPF_NAME_BYTES])
{
    size_t n = 0;
    for (size_t i = 0; i < name->n; i++) {
        unsigned char c = (unsigned char)name->octets[i];
        if (c > ' ' && c < 0x7f && c != '\\')
            ret[n++] = ascii_lower((char)c);
        else
            n += (size_t)snprintf(ret + n, 5, "\\%03u", c);
    }
    ret[n] = '\0';
}
