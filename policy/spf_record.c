/*
 * spf_record.c - the grammar of a record (RFC 7208 sections 4.5, 4.6.1, 5, 6 and 12).
 *
 * A record is parsed once, as a whole, before anything of it is evaluated: a mistake in its last
 * term is a mistake even when the first one matches (section 4.6).
 */
#include "policy/spf_internal.h"

#include <stdlib.h>

#include "policy/base/mem.h"

/* What may follow a mechanism's name. */
enum argument { ARG_NONE, ARG_DOMAIN, ARG_DOMAIN_OPTIONAL, ARG_BLOCK };

static const struct mechanism {
    struct span name;
    enum spf_kind kind;
    enum argument argument;
    bool dual_cidr;
} mechanisms[] = {
    {SPAN("all"), SPF_KIND_ALL, ARG_NONE, false},
    {SPAN("include"), SPF_KIND_INCLUDE, ARG_DOMAIN, false},
    {SPAN("a"), SPF_KIND_A, ARG_DOMAIN_OPTIONAL, true},
    {SPAN("mx"), SPF_KIND_MX, ARG_DOMAIN_OPTIONAL, true},
    {SPAN("ptr"), SPF_KIND_PTR, ARG_DOMAIN_OPTIONAL, false},
    {SPAN("ip4"), SPF_KIND_IP4, ARG_BLOCK, false},
    {SPAN("ip6"), SPF_KIND_IP6, ARG_BLOCK, false},
    {SPAN("exists"), SPF_KIND_EXISTS, ARG_DOMAIN, false},
};

bool
spf_record_is(struct span text)
{
    return span_istarts(text, SPAN("v=spf1")) && (text.n == 6 || text.p[6] == ' ');
}

/* ---- CIDR lengths ---- */

/* "0" or digits without a zero in front, `max` at the most. */
static bool
length_parse(struct span digits, unsigned max, uint8_t *ret)
{
    uint64_t bits;
    if (digits.n == 0 || digits.n > 3 || (digits.p[0] == '0' && digits.n > 1) ||
        !span_u64(digits, &bits) || bits > max)
        return false;
    *ret = (uint8_t)bits;
    return true;
}

/*
 * Cut `slashes` and a number off the end of *text. 1: done, 0: it does not end so, -1: the number
 * is no length. A domain-spec never ends in slash and digits, so nothing is taken from one.
 */
static int
cut_length(struct span *text, struct span slashes, unsigned max, uint8_t *ret)
{
    size_t at = text->n;
    while (at > 0 && ascii_digit(text->p[at - 1]))
        at--;
    if (at == text->n || !span_ends(span_first(*text, at), slashes))
        return 0;
    if (!length_parse(span_from(*text, at), max, ret))
        return -1;
    *text = span_first(*text, at - slashes.n);
    return 1;
}

/* dual-cidr-length = [ ip4-cidr-length ] [ "/" ip6-cidr-length ] at the end of *text. */
static const char *
cut_dual_length(struct span *text, struct spf_term *term)
{
    if (cut_length(text, SPAN("//"), 128, &term->bits6) < 0)
        return "no IPv6 prefix length";
    if (cut_length(text, SPAN("/"), 32, &term->bits4) < 0)
        return "no IPv4 prefix length";
    return NULL;
}

/* ip4-network and ip6-network with their lengths. */
static const char *
block_parse(struct span text, bool six, struct spf_term *term)
{
    uint8_t bits = six ? 128 : 32;
    struct span length = text, address = span_cut(&length, '/');
    struct ip ip;

    if (six != (span_find_byte(address, ':') != SIZE_MAX) || !ip_parse(address, &ip))
        return six ? "no IPv6 address" : "no IPv4 address";
    if (address.n < text.n && !length_parse(length, bits, &bits))
        return "no prefix length";
    if (six && ip.family == 4) {
        /* An ip6 of a mapped address is IPv6 still; clients never are (section 5). */
        struct ip mapped = {.family = 6, .bytes = {[10] = 0xff, [11] = 0xff}};
        memcpy(mapped.bytes + 12, ip.bytes, 4);
        ip = mapped;
    }
    term->block = (struct cidr){.ip = ip_prefix(&ip, bits), .bits = bits};
    return NULL;
}

/* ---- terms ---- */

static const struct mechanism *
find_mechanism(struct span name)
{
    for (size_t i = 0; i < N_ELEMENTS(mechanisms); i++)
        if (span_ieq(mechanisms[i].name, name))
            return &mechanisms[i];
    return NULL;
}

/* directive = [ qualifier ] mechanism */
static const char *
directive_parse(struct span text, struct spf_term *term)
{
    static const struct {
        char sign;
        enum spf_result result;
    } qualifiers[] = {{'+', SPF_PASS}, {'-', SPF_FAIL}, {'~', SPF_SOFTFAIL}, {'?', SPF_NEUTRAL}};
    size_t n_name = 0;

    *term = (struct spf_term){.text = text, .result = SPF_PASS, .bits4 = 32, .bits6 = 128};
    for (size_t i = 0; i < N_ELEMENTS(qualifiers); i++) {
        if (text.p[0] == qualifiers[i].sign) {
            term->result = qualifiers[i].result;
            text = span_from(text, 1);
            break;
        }
    }
    while (n_name < text.n && text.p[n_name] != ':' && text.p[n_name] != '/')
        n_name++;
    const struct mechanism *m = find_mechanism(span_first(text, n_name));
    if (m == NULL)
        return "no such mechanism";
    term->kind = m->kind;
    struct span rest = span_from(text, n_name);
    if (m->dual_cidr) {
        const char *fault = cut_dual_length(&rest, term);
        if (fault != NULL)
            return fault;
    }
    if (rest.n == 0)
        return m->argument == ARG_DOMAIN || m->argument == ARG_BLOCK ? "argument missing" : NULL;
    if (m->argument == ARG_NONE || rest.p[0] != ':')
        return "argument not allowed";
    if (m->argument == ARG_BLOCK)
        return block_parse(span_from(rest, 1), m->kind == SPF_KIND_IP6, term);
    term->domain = span_from(rest, 1);
    return spf_domain_spec_valid(term->domain) ? NULL : "no domain";
}

/* The length of a modifier's name, which '=' follows; 0: this is a directive. */
static size_t
modifier_name(struct span text)
{
    size_t n = 0;
    while (n < text.n && (ascii_alpha(text.p[n]) || ascii_digit(text.p[n]) || text.p[n] == '-' ||
                          text.p[n] == '_' || text.p[n] == '.'))
        n++;
    return n > 0 && n < text.n && text.p[n] == '=' && ascii_alpha(text.p[0]) ? n : 0;
}

static const char *
modifier_parse(struct span name, struct span value, struct spf_policy *policy, bool *has_exp)
{
    bool redirect = span_ieq(name, SPAN("redirect"));
    bool exp = span_ieq(name, SPAN("exp"));

    if (!redirect && !exp)
        return spf_macro_string_valid(value) ? NULL : "no macro string";
    if (!spf_domain_spec_valid(value))
        return "no domain";
    if (exp ? *has_exp : policy->redirect.n > 0)
        return "given twice";
    if (exp)
        *has_exp = true;
    else
        policy->redirect = value;
    return NULL;
}

/*
 * Keep a term, unless the walk never comes to it: behind `all`, and behind one term more that needs
 * DNS than there may be.
 */
static void
keep_term(struct spf_policy *policy, const struct spf_term *term, size_t *n_dns)
{
    if (policy->has_all || *n_dns > SPF_TERMS_MAX)
        return;
    if ((policy->n_terms & (policy->n_terms - 1)) == 0) /* full: 0, 1, 2, 4, 8, ... */
        policy->terms =
            xrealloc(policy->terms, (2 * policy->n_terms + 1) * sizeof(policy->terms[0]));
    policy->terms[policy->n_terms++] = *term;
    policy->has_all = term->kind == SPF_KIND_ALL;
    *n_dns +=
        term->kind != SPF_KIND_ALL && term->kind != SPF_KIND_IP4 && term->kind != SPF_KIND_IP6;
}

struct spf_policy *
spf_policy_parse(struct span text)
{
    struct spf_policy *policy = xcalloc(1, sizeof(*policy));
    bool has_exp = false;
    size_t n_dns = 0;

    if (text.n > SPF_RECORD_MAX) {
        policy->fault = "the record is too long";
        return policy;
    }
    policy->text = xstrndup(text.p, text.n);
    struct span rest = span_from(span_of(policy->text, text.n), 6);
    while (rest.n > 0 && policy->fault == NULL) {
        struct span word = span_cut(&rest, ' ');
        struct spf_term term;
        if (word.n == 0)
            continue;
        size_t n_name = modifier_name(word);
        policy->culprit = word;
        if (n_name > 0) {
            policy->fault = modifier_parse(span_first(word, n_name), span_from(word, n_name + 1),
                                           policy, &has_exp);
            continue;
        }
        policy->fault = directive_parse(word, &term);
        if (policy->fault == NULL)
            keep_term(policy, &term, &n_dns);
    }
    return policy;
}

void
spf_policy_free(struct spf_policy *policy)
{
    if (policy == NULL)
        return;
    free(policy->terms);
    free(policy->text);
    free(policy);
}
