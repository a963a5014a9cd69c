/*
 * mailbox - a scanner of RFC 5321's Path and Mailbox.
 *
 * One cursor walks over the text; each scan_ function steps over one piece of the grammar and says
 * whether it was there. UTF-8 is taken for letters at first (RFC 6531 section 3.3) and judged at
 * the end, so that a sender learns "needs SMTPUTF8" instead of "syntax error". Used by
 * relayd/accept, policy (address patterns, reports) and relayctl.
 */
#include "policy/base/mailbox.h"

#include <arpa/inet.h>

#define LABEL_MAX 63 /* RFC 1035 section 2.3.4, of an ASCII label */

struct cursor {
    const char *p, *end;
};

static bool
at(const struct cursor *c, char want)
{
    return c->p < c->end && *c->p == want;
}

/* Length of the well-formed UTF-8 sequence at `p` (RFC 3629 section 4), 0 when there is none. */
static size_t
utf8_length(const char *p, const char *end)
{
    const unsigned char *u = (const unsigned char *)p;
    size_t left = (size_t)(end - p);

    if (left == 0)
        return 0;
    if (u[0] < 0x80)
        return 1;
    size_t n = u[0] >= 0xc2 && u[0] <= 0xdf   ? 2
               : u[0] >= 0xe0 && u[0] <= 0xef ? 3
               : u[0] >= 0xf0 && u[0] <= 0xf4 ? 4
                                              : 0;
    if (n == 0 || left < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((u[i] & 0xc0) != 0x80)
            return 0;
    if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) ||
        (u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f))
        return 0;
    return n;
}

bool
mailbox_utf8_valid(struct span text)
{
    const char *p = text.p, *end = text.p + text.n;

    while (p < end) {
        size_t n = utf8_length(p, end);
        if (n == 0)
            return false;
        p += n;
    }
    return true;
}

/* C1 controls (U+0080..U+009F) are valid UTF-8 and no letters: a terminal may obey them. */
static size_t
scan_utf8_letter(const struct cursor *c)
{
    size_t n = utf8_length(c->p, c->end);

    if (n < 2 || ((unsigned char)c->p[0] == 0xc2 && (unsigned char)c->p[1] < 0xa0))
        return 0;
    return n;
}

/* RFC 5322 section 3.2.3. */
static bool
is_atext(char c)
{
    return ascii_alpha(c) || ascii_digit(c) ||
           (c != '\0' && strchr("!#$%&'*+-/=?^_`{|}~", c) != NULL);
}

static bool
scan_atom(struct cursor *c)
{
    const char *start = c->p;

    while (c->p < c->end) {
        size_t n = is_atext(*c->p) ? 1 : scan_utf8_letter(c);
        if (n == 0)
            break;
        c->p += n;
    }
    return c->p > start;
}

static bool
scan_quoted(struct cursor *c)
{
    c->p++; /* the opening quote */
    while (c->p < c->end && *c->p != '"') {
        if (*c->p == '\\') {
            c->p++;
            if (c->p == c->end || *c->p < 32 || *c->p > 126)
                return false;
            c->p++;
            continue;
        }
        size_t n = *c->p >= 32 && *c->p <= 126 ? 1 : scan_utf8_letter(c);
        if (n == 0)
            return false;
        c->p += n;
    }
    if (!at(c, '"'))
        return false;
    c->p++;
    return true;
}

static bool
scan_local(struct cursor *c, struct mailbox *m)
{
    const char *start = c->p;

    m->quoted = at(c, '"');
    if (m->quoted) {
        if (!scan_quoted(c))
            return false;
    } else {
        if (!scan_atom(c))
            return false;
        while (at(c, '.')) {
            c->p++;
            if (!scan_atom(c))
                return false;
        }
    }
    m->local = span_of(start, (size_t)(c->p - start));
    return true;
}

static bool
literal_valid(struct span inner)
{
    char text[INET6_ADDRSTRLEN];
    unsigned char address[16];
    struct span tag = SPAN("IPv6:");
    bool v6 = span_istarts(inner, tag);

    if (v6)
        inner = span_from(inner, tag.n);
    if (inner.n == 0 || inner.n >= sizeof text || memchr(inner.p, '\0', inner.n) != NULL)
        return false;
    memcpy(text, inner.p, inner.n);
    text[inner.n] = '\0';
    return inet_pton(v6 ? AF_INET6 : AF_INET, text, address) == 1;
}

static bool
scan_literal(struct cursor *c, struct mailbox *m)
{
    const char *start = c->p;
    const char *close = memchr(start, ']', (size_t)(c->end - start));

    if (close == NULL || !literal_valid(span_of(start + 1, (size_t)(close - start - 1))))
        return false;
    c->p = close + 1;
    m->domain = span_of(start, (size_t)(c->p - start));
    m->literal = true;
    return true;
}

/* One label; *ret_digits says whether it was of digits only. */
static bool
scan_label(struct cursor *c, bool *ret_digits)
{
    const char *start = c->p;
    bool ascii = true;

    *ret_digits = true;
    while (c->p < c->end) {
        size_t n = ascii_alpha(*c->p) || ascii_digit(*c->p) || *c->p == '-' || *c->p == '_'
                       ? 1
                       : scan_utf8_letter(c);
        if (n == 0)
            break;
        ascii = ascii && n == 1;
        *ret_digits = *ret_digits && ascii_digit(*c->p);
        c->p += n;
    }
    size_t length = (size_t)(c->p - start);
    return length > 0 && (!ascii || length <= LABEL_MAX) && *start != '-' && c->p[-1] != '-';
}

static enum mailbox_fault
scan_domain(struct cursor *c, struct mailbox *m)
{
    const char *start = c->p;
    size_t n_labels = 0, n_numbers = 0;
    bool digits;

    if (at(c, '['))
        return scan_literal(c, m) ? MAILBOX_OK : MAILBOX_BAD;
    do {
        if (n_labels++ > 0)
            c->p++; /* the dot */
        if (!scan_label(c, &digits))
            return MAILBOX_BAD;
        n_numbers += digits;
    } while (at(c, '.'));

    m->domain = span_of(start, (size_t)(c->p - start));
    if (n_labels == 4 && n_numbers == 4)
        return MAILBOX_QUAD;
    return digits ? MAILBOX_BAD : MAILBOX_OK; /* no top-level domain is a number */
}

static bool
has_8bit(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] >= 0x80)
            return true;
    return false;
}

/* Step over Local-part "@" ( Domain / address-literal ); limits of the parts, not of the path. */
static enum mailbox_fault
scan_mailbox(struct cursor *c, unsigned admit, struct mailbox *m)
{
    if (at(c, '@'))
        return MAILBOX_ROUTE;
    if (!scan_local(c, m))
        return MAILBOX_BAD;
    if (at(c, '@')) {
        c->p++;
        enum mailbox_fault fault = scan_domain(c, m);
        if (fault != MAILBOX_OK)
            return fault;
    } else if (c->p < c->end && *c->p != '>') {
        return MAILBOX_BAD;
    } else if ((admit & MAILBOX_POSTMASTER) == 0 || !span_ieq(m->local, SPAN("postmaster"))) {
        return MAILBOX_NO_DOMAIN;
    }
    m->utf8 = has_8bit(m->local) || has_8bit(m->domain);
    if (m->local.n > MAILBOX_LOCAL_MAX || m->domain.n > MAILBOX_DOMAIN_MAX)
        return MAILBOX_TOO_LONG;
    if (m->utf8 && (admit & MAILBOX_UTF8) == 0)
        return MAILBOX_NEEDS_UTF8;
    return MAILBOX_OK;
}

static enum mailbox_fault
check_path_length(const struct mailbox *m, size_t n)
{
    return n > (m->utf8 ? MAILBOX_UTF8_PATH_MAX : MAILBOX_PATH_MAX) ? MAILBOX_TOO_LONG : MAILBOX_OK;
}

enum mailbox_fault
mailbox_parse(struct span text, unsigned admit, struct mailbox *ret)
{
    struct cursor c = {text.p, text.p + text.n};
    struct mailbox m = {.quoted = false};
    enum mailbox_fault fault = MAILBOX_OK;

    if (text.n == 0) {
        if ((admit & MAILBOX_NULL) == 0)
            return MAILBOX_BAD;
    } else {
        fault = scan_mailbox(&c, admit, &m);
        if (fault == MAILBOX_OK && c.p != c.end)
            fault = MAILBOX_BAD;
        if (fault == MAILBOX_OK)
            fault = check_path_length(&m, text.n + 2);
    }
    if (fault == MAILBOX_OK)
        *ret = m;
    return fault;
}

enum mailbox_fault
mailbox_path_parse(struct span text, unsigned admit, struct mailbox *ret, size_t *ret_len)
{
    struct cursor c = {text.p, text.p + text.n};
    struct mailbox m = {.quoted = false};

    if (!at(&c, '<'))
        return MAILBOX_BAD;
    c.p++;
    if (at(&c, '>')) {
        if ((admit & MAILBOX_NULL) == 0)
            return MAILBOX_BAD;
    } else {
        enum mailbox_fault fault = scan_mailbox(&c, admit, &m);
        if (fault != MAILBOX_OK)
            return fault;
        if (!at(&c, '>'))
            return MAILBOX_BAD;
    }
    c.p++;
    size_t length = (size_t)(c.p - text.p);
    if (check_path_length(&m, length) != MAILBOX_OK)
        return MAILBOX_TOO_LONG;
    *ret = m;
    *ret_len = length;
    return MAILBOX_OK;
}

const char *
mailbox_fault_text(enum mailbox_fault fault)
{
    static const char *const texts[] = {
        [MAILBOX_OK] = "ok",
        [MAILBOX_BAD] = "bad address syntax",
        [MAILBOX_TOO_LONG] = "address too long",
        [MAILBOX_ROUTE] = "source routes are not accepted",
        [MAILBOX_NO_DOMAIN] = "address has no domain",
        [MAILBOX_QUAD] = "an IP address for a domain needs brackets",
        [MAILBOX_NEEDS_UTF8] = "non-ASCII address needs SMTPUTF8",
    };
    return texts[fault];
}

struct span
mailbox_literal(const struct mailbox *m)
{
    struct span tag = SPAN("IPv6:");

    if (!m->literal)
        return SPAN_NONE;
    struct span inner = span_of(m->domain.p + 1, m->domain.n - 2);
    return span_istarts(inner, tag) ? span_from(inner, tag.n) : inner;
}

void
mailbox_local_plain(const struct mailbox *m, struct strbuf *out)
{
    if (!m->quoted) {
        strbuf_add_span(out, m->local);
        return;
    }
    for (size_t i = 1; i + 1 < m->local.n; i++) {
        if (m->local.p[i] == '\\')
            i++;
        strbuf_add_byte(out, m->local.p[i]);
    }
}

/* RFC 3461 section 4: hexchar is "+" and two hexadecimal digits, upper-case. */
static int
hex_value(char c)
{
    if (ascii_digit(c))
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

void
utf8_addr_to_ascii(struct span text, struct strbuf *out)
{
    const char *p = text.p, *end = text.p + text.n;

    while (p < end) {
        size_t n = utf8_length(p, end);
        if (n < 2) {
            strbuf_add_byte(out, n == 1 ? *p : '?');
            p++;
            continue;
        }
        unsigned value = (unsigned char)*p & (0x7fu >> n);
        for (size_t i = 1; i < n; i++)
            value = value << 6 | ((unsigned char)p[i] & 0x3fu);
        strbuf_printf(out, "\\x{%X}", value);
        p += n;
    }
}

bool
xtext_decode(struct span text, struct strbuf *out)
{
    size_t before = out->n;

    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        if (c < 33 || c > 126 || c == '=')
            goto bad;
        if (c == '+') {
            if (text.n - i < 3)
                goto bad;
            int high = hex_value(text.p[i + 1]), low = hex_value(text.p[i + 2]);
            if (high < 0 || low < 0 || high < 2 || (high == 7 && low == 15))
                goto bad; /* no hex, or a control character */
            c = (char)(high << 4 | low);
            i += 2;
        }
        strbuf_add_byte(out, c);
    }
    return true;
bad:
    if (out->n > before)
        strbuf_truncate(out, before);
    return false;
}

void
xtext_encode(struct span plain, struct strbuf *out)
{
    for (size_t i = 0; i < plain.n; i++) {
        char c = plain.p[i];
        if (c < 33 || c > 126 || c == '+' || c == '=')
            strbuf_printf(out, "+%02X", (unsigned)(unsigned char)c);
        else
            strbuf_add_byte(out, c);
    }
}
