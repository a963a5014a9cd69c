/*
 * header_from.c - the domain of the first mailbox in a From field (RFC 5322 section 3.4, with the
 * obsolete forms of section 4.4 that still come in).
 *
 * A lexer of six kinds of tokens feeds one loop without recursion:
 *
 *   phrase words ──'<'──▶ angle ──'@'──▶ domain ──'>'──▶ found
 *        └──'@'──▶ bare domain, kept; found at ',' ';' or the end, unless '<' comes first
 *        └──':'──▶ group name: forgotten
 *
 * Real mail has `a@b <c@d>` and `Doe, John <c@d>`: an address in angle brackets wins over a bare
 * one of the same element, and an element without an address is passed over.
 */
#include "policy/header.h"

enum token_kind { TOKEN_END, TOKEN_ATOM, TOKEN_QUOTED, TOKEN_LITERAL, TOKEN_SPECIAL };

struct token {
    enum token_kind kind;
    struct span text; /* of TOKEN_SPECIAL one octet */
};

static bool
is_white(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool
is_special(char c)
{
    return c == '<' || c == '>' || c == '@' || c == ',' || c == ';' || c == ':' || c == '(' ||
           c == ')' || c == '"' || c == '[' || c == ']';
}

/* Octets up to and including the `close` that matches s.p[0]; all of it when it is not closed.
 * Comments nest, quoted strings and literals don't. */
static size_t
bracketed(struct span s, char open, char close, bool nests)
{
    size_t depth = 1, i = 1;
    for (; i < s.n && depth > 0; i++) {
        if (s.p[i] == '\\' && i + 1 < s.n)
            i++;
        else if (s.p[i] == close)
            depth--;
        else if (nests && s.p[i] == open)
            depth++;
    }
    return i;
}

/* Octets of an encoded word (RFC 2047) at the start of `s`, or 0. Some mailers leave specials in
 * it, which must not be taken for structure. */
static size_t
encoded_word(struct span s)
{
    if (!span_starts(s, SPAN("=?")))
        return 0;
    unsigned marks = 0;
    for (size_t i = 2; i < s.n && !is_white(s.p[i]); i++) {
        if (s.p[i] != '?')
            continue;
        if (++marks == 3)
            return i + 1 < s.n && s.p[i + 1] == '=' ? i + 2 : 0;
    }
    return 0;
}

static struct token
token_cut(struct span *rest, enum token_kind kind, size_t n)
{
    struct token token = {kind, span_first(*rest, n)};
    *rest = span_from(*rest, n);
    return token;
}

static struct token
token_next(struct span *rest)
{
    while (rest->n > 0 && (is_white(rest->p[0]) || rest->p[0] == '('))
        *rest = span_from(*rest, rest->p[0] == '(' ? bracketed(*rest, '(', ')', true) : 1);
    if (rest->n == 0)
        return (struct token){TOKEN_END, SPAN_NONE};
    if (rest->p[0] == '"')
        return token_cut(rest, TOKEN_QUOTED, bracketed(*rest, '"', '"', false));
    if (rest->p[0] == '[')
        return token_cut(rest, TOKEN_LITERAL, bracketed(*rest, '[', ']', false));
    if (is_special(rest->p[0]))
        return token_cut(rest, TOKEN_SPECIAL, 1);
    size_t n = encoded_word(*rest);
    if (n == 0)
        while (n < rest->n && !is_white(rest->p[n]) && !is_special(rest->p[n]))
            n++;
    return token_cut(rest, TOKEN_ATOM, n);
}

/* A domain as it is put together from atoms: `example . com` is one domain. */
struct domain {
    char *text;
    size_t n;
    bool complete; /* the next atom does not belong to it */
    bool bad;      /* too long, or an address literal */
};

static void
domain_start(struct domain *domain)
{
    domain->n = 0;
    domain->complete = domain->bad = false;
}

static void
domain_add(struct domain *domain, struct span atom)
{
    bool joins = domain->n == 0 || domain->text[domain->n - 1] == '.' || atom.p[0] == '.';
    if (domain->complete || !joins) {
        domain->complete = true;
    } else if (domain->n + atom.n > HEADER_DOMAIN_MAX || span_find_byte(atom, '\0') != SIZE_MAX) {
        domain->bad = true;
    } else {
        memcpy(domain->text + domain->n, atom.p, atom.n);
        domain->n += atom.n;
    }
}

static bool
domain_finish(struct domain *domain)
{
    if (domain->n > 0 && domain->text[domain->n - 1] == '.')
        domain->n--;
    domain->text[domain->n] = '\0';
    return domain->n > 0 && !domain->bad;
}

/* Inside angle brackets, behind '<': [route:] local-part @ domain '>'. */
static bool
angle_domain(struct span *rest, struct domain *domain)
{
    bool in_domain = false;
    for (;;) {
        struct token token = token_next(rest);
        char special = token.kind == TOKEN_SPECIAL ? token.text.p[0] : '\0';
        if (token.kind == TOKEN_END || special == '>')
            return in_domain && domain_finish(domain);
        if (special == '@') {
            domain_start(domain);
            in_domain = true;
        } else if (special == ':' || special == ',') {
            in_domain = false; /* what came before was a source route */
        } else if (in_domain && token.kind == TOKEN_ATOM) {
            domain_add(domain, token.text);
        } else if (in_domain) {
            domain->bad = true; /* a literal, or a quoted string */
        }
    }
}

bool
header_from_domain(struct span from_value, char ret_domain[HEADER_DOMAIN_MAX + 1])
{
    struct domain domain = {.text = ret_domain};
    struct span rest = from_value;
    bool in_domain = false;

    ret_domain[0] = '\0';
    for (;;) {
        struct token token = token_next(&rest);
        char special = token.kind == TOKEN_SPECIAL ? token.text.p[0] : '\0';
        if (special == '<') {
            domain_start(&domain);
            return angle_domain(&rest, &domain);
        }
        if (token.kind == TOKEN_END || special == ',' || special == ';') {
            if (in_domain || token.kind == TOKEN_END)
                return in_domain && domain_finish(&domain);
        } else if (special == '@') {
            domain_start(&domain);
            in_domain = true;
        } else if (special == ':') {
            in_domain = false;
        } else if (in_domain && token.kind == TOKEN_ATOM) {
            domain_add(&domain, token.text);
        } else if (in_domain && token.kind == TOKEN_LITERAL) {
            domain.bad = true;
        }
    }
}
