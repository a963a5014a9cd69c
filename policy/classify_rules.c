/*
 * classify_rules.c - compiling rules and finding the first one that holds.
 *
 *   words ─▶ index: the pieces that may match ─▶ in order: codes, stage, host ─▶ regex ─▶ unless
 *
 * An expression is compiled piece by piece (classify_literals.c), so that of hundreds a reply is
 * matched with the few whose literals are in it. Regexes are the operator's own text, so matching
 * is bounded: a runaway one counts as no match.
 */
#include "policy/classify_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"

#define MATCH_LIMIT 100000 /* PCRE2's default is a hundred times as much */

struct classify_rules *
classify_rules_new(void)
{
    struct classify_rules *rules = xcalloc(1, sizeof(*rules));
    rules->match_data = pcre2_match_data_create(1, NULL);
    rules->compile = pcre2_compile_context_create(NULL);
    rules->context = pcre2_match_context_create(NULL);
    rules->index = classify_index_new();
    if (rules->match_data == NULL || rules->compile == NULL || rules->context == NULL)
        out_of_memory();
    pcre2_set_match_limit(rules->context, MATCH_LIMIT);
    return rules;
}

static void
rule_free(struct compiled_rule *rule)
{
    free(rule->name);
    pcre2_code_free(rule->unless);
    for (size_t i = 0; i < rule->n_mx; i++)
        free(rule->mx[i]);
    free(rule);
}

void
classify_rules_free(struct classify_rules *rules)
{
    if (rules == NULL)
        return;
    for (size_t i = 0; i < rules->n; i++)
        rule_free(rules->items[i]);
    for (size_t i = 0; i < rules->n_pieces; i++)
        pcre2_code_free(rules->pieces[i].match);
    free(rules->items);
    free(rules->pieces);
    free(rules->always);
    free(rules->hits);
    classify_index_free(rules->index);
    pcre2_match_data_free(rules->match_data);
    pcre2_compile_context_free(rules->compile);
    pcre2_match_context_free(rules->context);
    strbuf_release(&rules->text);
    free(rules);
}

size_t
classify_rules_count(const struct classify_rules *rules)
{
    return rules->n;
}

/* -- reading conditions --------------------------------------------------------------------------
 */

/* Cut the next word off a list separated by blanks or commas; empty at the end. */
static struct span
list_next(struct span *list)
{
    while (list->n > 0 && (list->p[0] == ' ' || list->p[0] == ',' || list->p[0] == '\t'))
        *list = span_from(*list, 1);
    size_t n = 0;
    while (n < list->n && list->p[n] != ' ' && list->p[n] != ',' && list->p[n] != '\t')
        n++;
    struct span word = span_first(*list, n);
    *list = span_from(*list, n);
    return word;
}

/* "550", "55x" or "5xx". */
static bool
code_parse(struct span word, struct code_range *ret)
{
    struct code_range range = {0, 0};
    bool wild = false;
    if (word.n != 3)
        return false;
    for (size_t i = 0; i < 3; i++) {
        bool x = ascii_lower(word.p[i]) == 'x';
        if ((!x && !ascii_digit(word.p[i])) || (x && i == 0) || (wild && !x))
            return false;
        wild |= x;
        range.first = range.first * 10 + (x ? 0 : word.p[i] - '0');
        range.last = range.last * 10 + (x ? 9 : word.p[i] - '0');
    }
    *ret = range;
    return true;
}

/* "7", "x" (any), or with x for its last digits: "51x" is 510 to 519. */
static bool
enh_part(struct span word, struct code_range *ret)
{
    struct code_range range = {0, 0};
    bool wild = false;
    if (word.n == 0 || word.n > 3)
        return false;
    for (size_t i = 0; i < word.n; i++) {
        bool x = ascii_lower(word.p[i]) == 'x';
        if ((!x && !ascii_digit(word.p[i])) || (wild && !x))
            return false;
        wild |= x;
        range.first = range.first * 10 + (x ? 0 : word.p[i] - '0');
        range.last = range.last * 10 + (x ? 9 : word.p[i] - '0');
    }
    if (ascii_lower(word.p[0]) == 'x')
        range = (struct code_range){0, 999};
    *ret = range;
    return true;
}

static bool
enh_pattern_parse(struct span word, struct enh_pattern *ret)
{
    struct span klass = span_cut(&word, '.'), subject = span_cut(&word, '.');
    return enh_part(klass, &ret->klass) && enh_part(subject, &ret->subject) &&
           enh_part(word, &ret->detail);
}

static enum err_code
lists_compile(struct compiled_rule *out, const struct classify_rule *rule, struct err *err)
{
    struct span word, rest = rule->code;
    while ((word = list_next(&rest)).n > 0)
        if (out->n_codes == CLASSIFY_LIST_MAX || !code_parse(word, &out->codes[out->n_codes++]))
            return err_set(err, ERR_INVAL,
                           "code: expected at most %u like 550 or 4xx, found \"%.*s\"",
                           CLASSIFY_LIST_MAX, SPAN_ARG(span_first(word, 40)));
    rest = rule->enhanced;
    while ((word = list_next(&rest)).n > 0)
        if (out->n_enhs == CLASSIFY_LIST_MAX || !enh_pattern_parse(word, &out->enhs[out->n_enhs++]))
            return err_set(err, ERR_INVAL,
                           "enhanced: expected at most %u like 5.1.1 or x.2.2, found \"%.*s\"",
                           CLASSIFY_LIST_MAX, SPAN_ARG(span_first(word, 40)));
    rest = rule->stage;
    while ((word = list_next(&rest)).n > 0) {
        enum reply_stage stage;
        if (!reply_stage_parse(word, &stage))
            return err_set(err, ERR_INVAL,
                           "stage: expected connect, helo, mail, rcpt, data, dot, tls or unknown, "
                           "found \"%.*s\"",
                           SPAN_ARG(span_first(word, 40)));
        out->stages |= 1u << stage;
    }
    rest = rule->mx;
    while ((word = list_next(&rest)).n > 0) {
        if (out->n_mx == CLASSIFY_LIST_MAX || word.n > DOMAIN_MAX)
            return err_set(err, ERR_INVAL, "mx: expected at most %u host names", CLASSIFY_LIST_MAX);
        out->mx[out->n_mx++] = xstrndup(word.p, word.n);
    }
    return ERR_OK;
}

/* -- compiling
 * ------------------------------------------------------------------------------------- */

static enum err_code
regex_compile(const struct classify_rules *rules, const char *what, struct span text,
              pcre2_code **ret, struct err *err)
{
    int code;
    size_t at;
    if (text.n == 0)
        return ERR_OK;
    pcre2_code *regex = pcre2_compile((PCRE2_SPTR)text.p, text.n,
                                      PCRE2_CASELESS | PCRE2_NEVER_UTF | PCRE2_NO_AUTO_CAPTURE |
                                          PCRE2_NEVER_BACKSLASH_C,
                                      &code, &at, rules->compile);
    if (regex == NULL) {
        char reason[120];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof(reason));
        return err_set(err, ERR_INVAL, "%s: %s, at character %zu of the expression", what, reason,
                       at + 1);
    }
    *ret = regex;
    return ERR_OK;
}

/* Without JIT (a hardened kernel) matching is slower and otherwise the same. */
static void
regex_speed_up(pcre2_code *regex)
{
    if (regex != NULL)
        (void)pcre2_jit_compile(regex, PCRE2_JIT_COMPLETE);
}

/* A whole `match` is compiled first, alone for what there is to say about it. */
static enum err_code
regex_check(const struct classify_rules *rules, const char *what, struct span text, struct err *err)
{
    pcre2_code *regex = NULL;
    if (text.n > CLASSIFY_MATCH_MAX)
        return err_set(err, ERR_INVAL, "%s: longer than %u octets", what, CLASSIFY_MATCH_MAX);
    enum err_code code = regex_compile(rules, what, text, &regex, err);
    pcre2_code_free(regex);
    return code;
}

static enum err_code
rule_compile(const struct classify_rules *rules, const struct classify_rule *rule,
             struct compiled_rule *out, struct err *err)
{
    enum reply_action action;
    if (rule->name.n == 0)
        return err_set(err, ERR_INVAL, "a rule needs a name");
    out->name = xstrndup(rule->name.p, rule->name.n);
    for (size_t i = 0; i < rules->n; i++)
        if (span_eq(span_str(rules->items[i]->name), rule->name))
            return err_set(err, ERR_INVAL, "another rule is named \"%.*s\"",
                           SPAN_ARG(span_first(rule->name, 80)));
    if (!reply_class_parse(rule->klass, &out->klass))
        return err_set(err, ERR_INVAL, "class: no class is named \"%.*s\"",
                       SPAN_ARG(span_first(rule->klass, 40)));
    if (out->klass == REPLY_OK_NOT_BOUNCE)
        return err_set(err, ERR_INVAL, "class: rules judge refusals, and \"%.*s\" is none",
                       SPAN_ARG(rule->klass));
    out->action = CLASSIFY_ANY;
    if (rule->action.n > 0) {
        if (!reply_action_parse(rule->action, &action) || action == REPLY_ACTION_NONE)
            return err_set(err, ERR_INVAL,
                           "action: expected retry, slow, reroute or bounce, found \"%.*s\"",
                           SPAN_ARG(span_first(rule->action, 40)));
        out->action = (int)action;
    }
    out->scope_ip = rule->scope.n > 0;
    if (out->scope_ip && !span_eq(rule->scope, SPAN("ip")))
        return err_set(err, ERR_INVAL, "scope: expected ip, found \"%.*s\"",
                       SPAN_ARG(span_first(rule->scope, 40)));
    enum err_code code = lists_compile(out, rule, err);
    if (code == ERR_OK)
        code = regex_check(rules, "match", rule->match, err);
    if (code == ERR_OK)
        code = regex_check(rules, "unless", rule->unless, err);
    if (code == ERR_OK)
        code = regex_compile(rules, "unless", rule->unless, &out->unless, err);
    regex_speed_up(out->unless);
    if (code == ERR_OK && rule->match.n == 0 && out->n_codes == 0 && out->n_enhs == 0 &&
        out->n_mx == 0)
        code = err_set(err, ERR_INVAL, "a rule needs match, code, enhanced or mx");
    return code;
}

static void
piece_add(struct classify_rules *rules, const struct piece *piece, bool always)
{
    size_t i = rules->n_pieces;
    if (i == rules->cap_pieces) {
        rules->cap_pieces = i == 0 ? 1024 : i * 2;
        rules->pieces = xrealloc(rules->pieces, rules->cap_pieces * sizeof(rules->pieces[0]));
        rules->always = xrealloc(rules->always, rules->cap_pieces / 8);
        rules->hits = xrealloc(rules->hits, rules->cap_pieces / 8);
        memset(rules->always + i / 64, 0, (rules->cap_pieces - i) / 8);
    }
    rules->pieces[i] = *piece;
    rules->always[i / 64] |= (uint64_t)always << i % 64;
    rules->n_pieces++;
}

struct piece_adder {
    struct classify_rules *rules;
    const struct compiled_rule *rule;
    struct err *err;
    enum err_code code;
};

static void
branch_add(struct span branch, const struct classify_literal *literals, size_t n, void *arg)
{
    struct piece_adder *adder = arg;
    struct classify_rules *rules = adder->rules;
    struct piece piece = {.rule = adder->rule};
    if (adder->code != ERR_OK)
        return;
    if (rules->n_pieces == CLASSIFY_PIECES_MAX)
        adder->code = err_set(adder->err, ERR_LIMIT, "more than %u alternatives in all rules",
                              CLASSIFY_PIECES_MAX);
    else
        adder->code = regex_compile(rules, "match", branch, &piece.match, adder->err);
    if (adder->code != ERR_OK)
        return;
    regex_speed_up(piece.match);
    for (size_t i = 0; i < n; i++)
        classify_index_add(rules->index, &literals[i], (uint32_t)rules->n_pieces);
    piece_add(rules, &piece, n == 0);
}

/* Literals of pieces that are taken back stay in the index: they only cost a try. */
static void
pieces_cut(struct classify_rules *rules, size_t n)
{
    for (; rules->n_pieces > n; rules->n_pieces--) {
        size_t i = rules->n_pieces - 1;
        pcre2_code_free(rules->pieces[i].match);
        rules->always[i / 64] &= ~(UINT64_C(1) << i % 64);
    }
}

static enum err_code
pieces_add(struct classify_rules *rules, const struct compiled_rule *rule, struct span match,
           struct err *err)
{
    struct piece_adder adder = {rules, rule, err, ERR_OK};
    size_t n_before = rules->n_pieces;
    if (match.n == 0) {
        piece_add(rules, &(struct piece){.rule = rule}, true);
        return ERR_OK;
    }
    classify_branches(match, branch_add, &adder);
    if (adder.code != ERR_OK)
        pieces_cut(rules, n_before);
    return adder.code;
}

enum err_code
classify_rules_add(struct classify_rules *rules, const struct classify_rule *rule, struct err *err)
{
    if (rules->n == CLASSIFY_RULES_MAX)
        return err_set(err, ERR_LIMIT, "more than %u rules", CLASSIFY_RULES_MAX);
    struct compiled_rule *compiled = xcalloc(1, sizeof(*compiled));
    enum err_code code = rule_compile(rules, rule, compiled, err);
    if (code == ERR_OK)
        code = pieces_add(rules, compiled, rule->match, err);
    if (code != ERR_OK) {
        rule_free(compiled);
        return code;
    }
    if (rules->n == rules->cap) {
        rules->cap = rules->cap == 0 ? 64 : rules->cap * 2;
        rules->items = xrealloc(rules->items, rules->cap * sizeof(rules->items[0]));
    }
    rules->items[rules->n++] = compiled;
    return ERR_OK;
}

/* -- finding ---------------------------------------------------------------------------------- */

static bool
regex_matches(struct classify_rules *rules, const pcre2_code *regex, struct span words)
{
    return pcre2_match(regex, (PCRE2_SPTR)(words.p == NULL ? "" : words.p), words.n, 0, 0,
                       rules->match_data, rules->context) >= 0;
}

static bool
in_range(const struct code_range *range, int value)
{
    return value >= range->first && value <= range->last;
}

/* Of a reply without a code, its enhanced code says whether it is one of 4xx or of 5xx. */
static bool
codes_hold(const struct compiled_rule *rule, int code, struct enh enh)
{
    for (size_t i = 0; i < rule->n_codes; i++) {
        const struct code_range *range = &rule->codes[i];
        bool all = range->first == enh.klass * 100 && range->last == range->first + 99;
        if (in_range(range, code) || (code == 0 && all))
            return true;
    }
    return rule->n_codes == 0;
}

static bool
enhs_hold(const struct compiled_rule *rule, struct enh enh)
{
    for (size_t i = 0; i < rule->n_enhs && enh.klass != 0; i++) {
        const struct enh_pattern *p = &rule->enhs[i];
        if (in_range(&p->klass, enh.klass) && in_range(&p->subject, enh.subject) &&
            in_range(&p->detail, enh.detail))
            return true;
    }
    return rule->n_enhs == 0;
}

static bool
mx_holds(const struct compiled_rule *rule, struct span mx)
{
    for (size_t i = 0; i < rule->n_mx; i++) {
        struct span pattern = span_str(rule->mx[i]);
        if (span_starts(pattern, SPAN("*."))
                ? mx.n > pattern.n - 1 && span_iends(mx, span_from(pattern, 1))
                : span_ieq(mx, pattern))
            return true;
    }
    return rule->n_mx == 0;
}

/* All conditions but the text. */
static bool
numbers_hold(const struct compiled_rule *rule, const struct classify_reply *reply)
{
    return codes_hold(rule, reply->code, reply->enh) && enhs_hold(rule, reply->enh) &&
           (rule->stages == 0 || (rule->stages >> reply->stage & 1) != 0) &&
           mx_holds(rule, reply->mx);
}

const struct compiled_rule *
classify_rules_find(struct classify_rules *rules, const struct classify_reply *reply,
                    struct span words)
{
    const struct compiled_rule *failed = NULL; /* no further piece of it is tried */
    size_t n_words = (rules->n_pieces + 63) / 64;
    for (size_t i = 0; i < n_words; i++)
        rules->hits[i] = rules->always[i];
    classify_index_find(rules->index, words, rules->hits);
    for (size_t i = 0; i < n_words; i++) {
        for (uint64_t bits = rules->hits[i]; bits != 0; bits &= bits - 1) {
            const struct piece *piece = &rules->pieces[i * 64 + (size_t)__builtin_ctzll(bits)];
            const struct compiled_rule *rule = piece->rule;
            if (rule == failed)
                continue;
            if (!numbers_hold(rule, reply))
                failed = rule;
            else if (piece->match == NULL || regex_matches(rules, piece->match, words)) {
                if (rule->unless == NULL || !regex_matches(rules, rule->unless, words))
                    return rule;
                failed = rule;
            }
        }
    }
    return NULL;
}
