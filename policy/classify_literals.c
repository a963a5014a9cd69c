/*
 * classify_literals.c - an expression cut at its outermost "|" into branches, each with literals of
 * which one stands in every text that it matches.
 *
 *   (ip|host) (is )?(black|block)listed|(refus|reject)ed by
 *     branch 1 needs "listed", branch 2 needs "refus" or "reject"
 *
 * Understands the common part of PCRE2; whatever else stands in an expression (options, back
 * references, \Q) makes it one branch without literals, which is tried on every reply.
 */
#include "policy/classify_internal.h"

#define GROUP_DEPTH_MAX 32 /* groups in groups; deeper ones are not looked into */
#define LITERAL_ENOUGH 6   /* octets; a longer literal rules out hardly more */

struct parser {
    struct span text;
    size_t at;
    unsigned depth;
    bool given_up; /* something that is not understood stands here */
};

/* The literals of a part; none: the part may match without any. */
struct needs {
    struct classify_literal items[CLASSIFY_LITERALS_MAX];
    size_t n;
};

static void group_needs(struct parser *p, struct needs *ret);

static bool
more(const struct parser *p)
{
    return p->at < p->text.n && !p->given_up;
}

static bool
eat(struct parser *p, const char *what)
{
    bool there = span_starts(span_from(p->text, p->at), span_str(what));
    p->at += there ? strlen(what) : 0;
    return there;
}

static size_t
shortest(const struct needs *needs)
{
    size_t n = needs->n == 0 ? 0 : LITERAL_ENOUGH;
    for (size_t i = 0; i < needs->n; i++)
        n = needs->items[i].n < n ? needs->items[i].n : n;
    return n;
}

/* Of two parts that both must be there the one that rules out more. */
static void
keep_better(struct needs *best, const struct needs *other)
{
    size_t a = shortest(best), b = shortest(other);
    if (b >= CLASSIFY_LITERAL_MIN && (b > a || (b == a && other->n < best->n)))
        *best = *other;
}

/* What one of two parts needs. */
static void
either(struct needs *all, const struct needs *other)
{
    if (all->n == 0 || other->n == 0 || all->n + other->n > CLASSIFY_LITERALS_MAX) {
        all->n = 0;
        return;
    }
    memcpy(&all->items[all->n], other->items, other->n * sizeof(other->items[0]));
    all->n += other->n;
}

/* A run of plain characters that must be there in this order. */
static void
run_end(struct classify_literal *run, struct needs *best)
{
    struct needs one = {.items = {*run}, .n = 1};
    keep_better(best, &one);
    run->n = 0;
}

static void
run_add(struct classify_literal *run, char c, struct needs *best)
{
    if (run->n == sizeof(run->text))
        run_end(run, best);
    run->text[run->n++] = ascii_lower(c);
}

/* "[...]". */
static void
skip_class(struct parser *p)
{
    p->at++;
    eat(p, "^");
    bool first = true;
    for (; more(p) && (first || p->text.p[p->at] != ']'); first = false) {
        if (span_starts(span_from(p->text, p->at), SPAN("[:")))
            p->given_up = true;
        p->at += p->text.p[p->at] == '\\' ? 2 : 1;
    }
    p->given_up |= !eat(p, "]");
}

/* The lower bound of the quantifier here, 1 without one; *ret_any: there is one. */
static unsigned
quantifier(struct parser *p, bool *ret_any)
{
    unsigned least = 1;
    size_t start = p->at;
    if (eat(p, "?") || eat(p, "*")) {
        least = 0;
    } else if (eat(p, "{")) {
        least = 0;
        while (more(p) && ascii_digit(p->text.p[p->at]))
            least |= p->text.p[p->at++] != '0';
        while (more(p) && (ascii_digit(p->text.p[p->at]) || p->text.p[p->at] == ','))
            p->at++;
        p->given_up |= !eat(p, "}"); /* "{" that is no quantifier */
    } else {
        eat(p, "+");
    }
    *ret_any = p->at > start;
    if (*ret_any && !eat(p, "?"))
        eat(p, "+");
    return least;
}

/* "(...)": to behind it. Look-arounds need nothing. */
static void
group(struct parser *p, struct needs *ret)
{
    p->at++;
    bool around = eat(p, "?=") || eat(p, "?!") || eat(p, "?<=") || eat(p, "?<!");
    if (!around && !eat(p, "?:") && more(p) && (p->text.p[p->at] == '?' || p->text.p[p->at] == '*'))
        p->given_up = true;
    group_needs(p, ret);
    p->given_up |= !eat(p, ")");
    if (around)
        ret->n = 0;
}

/* "\": a class or an assertion (false), or a character that stands for itself. */
static bool
escaped(struct parser *p, char *ret)
{
    p->at++;
    *ret = p->at < p->text.n ? p->text.p[p->at++] : '\0';
    if (!ascii_alpha(*ret) && !ascii_digit(*ret))
        return *ret != '\0';
    p->given_up |= strchr("dDwWsSbBAzZhHvVnrt", *ret) == NULL;
    return false;
}

/* One branch: to the next "|" or ")" or the end. */
static void
branch_needs(struct parser *p, struct needs *best)
{
    struct classify_literal run = {.n = 0};
    struct needs inner;
    best->n = 0;
    while (more(p) && p->text.p[p->at] != '|' && p->text.p[p->at] != ')') {
        char c = p->text.p[p->at];
        bool plain = false, many;
        inner.n = 0;
        if (c == '(')
            group(p, &inner);
        else if (c == '[')
            skip_class(p);
        else if (c == '\\')
            plain = escaped(p, &c);
        else
            plain = strchr(".^$", p->text.p[p->at++]) == NULL;
        unsigned least = quantifier(p, &many);
        if (plain && least > 0)
            run_add(&run, c, best);
        if (!plain || many)
            run_end(&run, best);
        if (least > 0)
            keep_better(best, &inner);
    }
    run_end(&run, best);
}

static void
group_needs(struct parser *p, struct needs *ret)
{
    struct needs other;
    if (++p->depth > GROUP_DEPTH_MAX)
        p->given_up = true;
    branch_needs(p, ret);
    while (more(p) && eat(p, "|")) {
        branch_needs(p, &other);
        either(ret, &other);
    }
    p->depth--;
}

/* Whether it is "(?:...)" and nothing else; then *text becomes what is in it. */
static bool
unwrap(struct span *text)
{
    struct parser p = {.text = *text};
    struct needs needs;
    if (!span_starts(*text, SPAN("(?:")))
        return false;
    group(&p, &needs);
    if (p.given_up || p.at < text->n)
        return false;
    *text = span_first(span_from(*text, 3), text->n - 4);
    return true;
}

static void
branches(struct span regex, unsigned depth, classify_branch_fn *fn, void *arg)
{
    struct parser p = {.text = regex};
    do {
        size_t start = p.at;
        struct needs needs;
        branch_needs(&p, &needs);
        struct span branch = span_first(span_from(regex, start), p.at - start);
        if (depth < GROUP_DEPTH_MAX && unwrap(&branch))
            branches(branch, depth + 1, fn, arg);
        else
            fn(branch, needs.items, needs.n, arg);
    } while (eat(&p, "|"));
}

void
classify_branches(struct span regex, classify_branch_fn *fn, void *arg)
{
    struct parser p = {.text = regex};
    struct needs needs;
    group_needs(&p, &needs);
    if (p.given_up || p.at < regex.n)
        fn(regex, NULL, 0, arg);
    else
        branches(regex, 0, fn, arg);
}
