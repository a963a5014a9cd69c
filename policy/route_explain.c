/*
 * route_explain - the decision once more, with a sentence for every rule. Called by explain
 * (relayd/api_route.c) and by tests.
 */
#include "policy/route_internal.h"

#include <stdio.h>

static bool
has_bit(const struct rule_set *set, unsigned rule)
{
    return (set->words[rule / 64] >> rule % 64 & 1) != 0;
}

/* Which entry of `domains` holds, or that it came from the file. */
static void
explain_domain(const struct rule *rule, struct span domain, struct strbuf *why)
{
    const struct domain_pattern *p = domain_patterns_find(rule->domains, rule->n_domains, domain);
    if (p != NULL)
        strbuf_printf(why, "domain %.*s is in domains (%s%s)", SPAN_ARG(domain),
                      p->subdomains ? "*." : "", p->name);
    else
        strbuf_printf(why, "domain %.*s is in %s", SPAN_ARG(domain), rule->domains_file);
}

static void
explain_mx(const struct rule *rule, const struct route_facts *facts, struct strbuf *why)
{
    if (facts->mx == ROUTE_FACT_NONE) {
        strbuf_add_str(why, "the domain has no MX");
        return;
    }
    for (size_t i = 0; i < facts->n_hosts; i++) {
        const struct domain_pattern *p =
            domain_patterns_find(rule->mx, rule->n_mx, span_str(facts->hosts[i]));
        if (p == NULL)
            continue;
        strbuf_printf(why, "MX %s is in mx (%s%s)", facts->hosts[i], p->subdomains ? "*." : "",
                      p->name);
        return;
    }
    strbuf_printf(why, "MX %s is not in mx", facts->n_hosts == 0 ? "(no host)" : facts->hosts[0]);
    if (facts->n_hosts > 1)
        strbuf_printf(why, ", nor are the %zu others", facts->n_hosts - 1);
}

static void
explain_country(const struct route_facts *facts, bool holds, struct strbuf *why)
{
    char ip[IP_TEXT_MAX];
    const char *address =
        facts->address.family == 0 ? "the domain" : ip_format(&facts->address, ip);
    if (facts->country == ROUTE_FACT_NONE)
        strbuf_printf(why, "%s has no country", address);
    else
        strbuf_printf(why, "country %s of %s is %sin mx_country", facts->country_code, address,
                      holds ? "" : "not ");
}

/* One matcher that the rule has; false when it fails. */
static bool
explain_matcher(const struct route_query *query, const struct hits *hits, const struct rule *rule,
                enum route_matcher m, struct strbuf *why)
{
    static const char *const subjects[] = {"domain", "recipient", "sender", "MX", "country"};
    static const char *const lists[] = {"domains", "recipients", "senders"};
    static const unsigned needs[ROUTE_MATCH__COUNT] = {
        [ROUTE_MATCH_MX] = ROUTE_NEEDS_MX, [ROUTE_MATCH_COUNTRY] = ROUTE_NEEDS_COUNTRY};
    bool holds = has_bit(&hits->by[m], rule->no);

    if ((needs[m] & hits->unknown) != 0) {
        strbuf_printf(why, "%s not known", subjects[m]);
        return true;
    }
    if (m == ROUTE_MATCH_MX)
        explain_mx(rule, query->facts, why);
    else if (m == ROUTE_MATCH_COUNTRY)
        explain_country(query->facts, holds, why);
    else if (m == ROUTE_MATCH_DOMAIN && holds)
        explain_domain(rule, query->domain, why);
    else
        strbuf_printf(why, "%s is %sin %s", subjects[m], holds ? "" : "not ",
                      m == ROUTE_MATCH_DOMAIN && rule->n_domains == 0 ? rule->domains_file
                                                                      : lists[m]);
    return holds;
}

/* The matchers that the rule has, one after the other, up to the first that does not hold. */
static void
explain_matchers(const struct config *config, const struct route_query *query,
                 const struct hits *hits, const struct rule *rule, struct strbuf *why)
{
    bool holds = true;
    for (unsigned m = 0; m < ROUTE_MATCH__COUNT && holds; m++) {
        if (has_bit(route_index_none(config->index, m), rule->no))
            continue;
        if (why->n > 0)
            strbuf_add_str(why, ", ");
        holds = explain_matcher(query, hits, rule, m, why);
    }
    if (why->n == 0)
        strbuf_add_str(why, rule->is_default ? "the default rule" : "no matcher");
}

/* The first rule that surely holds and decides: it wins unless one above turns out to hold. */
static const struct rule *
first_decider(const struct config *config, const struct hits *hits)
{
    for (size_t i = 0; i < config->n_rules; i++)
        if (has_bit(&hits->sure, (unsigned)i) && route_decides(&config->rules[i]))
            return &config->rules[i];
    return NULL;
}

/* What became of a rule; `first` is the first decider. */
static enum route_verdict
explain_verdict(const struct hits *hits, const struct route_decision *decision,
                const struct rule *first, const struct rule *rule, struct strbuf *why)
{
    if (has_bit(&hits->maybe, rule->no)) {
        if ((decision->needs & route_rule_needs(rule, hits)) == 0)
            strbuf_printf(why, ", not asked: %s",
                          first != NULL && first->no < rule->no ? "a rule above decides"
                                                                : "it changes nothing");
        return ROUTE_RULE_UNKNOWN;
    }
    if (!has_bit(&hits->sure, rule->no))
        return ROUTE_RULE_MISSED;
    if (!route_decides(rule))
        return ROUTE_RULE_FENCED;
    if (rule != first) {
        strbuf_printf(why, "; the rule at line %u decided", first->mark.line);
        return ROUTE_RULE_SHADOWED;
    }
    if (rule == decision->rule)
        return ROUTE_RULE_WON;
    strbuf_add_str(why, "; it decides unless a rule above does");
    return ROUTE_RULE_UNKNOWN;
}

static void
make_step(const struct config *config, const struct route_query *query, const struct hits *hits,
          const struct route_decision *decision, const struct rule *first, const struct rule *rule,
          struct route_step *step)
{
    struct strbuf why = STRBUF_INIT;
    explain_matchers(config, query, hits, rule, &why);
    step->rule = rule;
    step->verdict = explain_verdict(hits, decision, first, rule, &why);
    snprintf(step->why, sizeof(step->why), "%s", why.p);
    strbuf_release(&why);
}

void
route_explain(const struct config *config, const struct route_query *query,
              struct route_decision *ret, void (*step)(void *arg, const struct route_step *),
              void *arg)
{
    struct hits hits;
    route_hits_find(config, query, &hits);
    route_hits_decide(config, &hits, ret);
    const struct rule *first = first_decider(config, &hits);
    for (size_t i = 0; i < config->n_rules; i++) {
        struct route_step made;
        make_step(config, query, &hits, ret, first, &config->rules[i], &made);
        step(arg, &made);
    }
}

const char *
route_verdict_name(enum route_verdict verdict)
{
    static const char *const names[] = {"missed", "won", "fence", "shadowed", "unknown"};
    return (size_t)verdict < N_ELEMENTS(names) ? names[verdict] : "unknown";
}

const char *
route_action_name(enum route_action action)
{
    static const char *const names[] = {"deliver", "reject", "discard", "hold",
                                        "none",    "fenced", "facts"};
    return (size_t)action < N_ELEMENTS(names) ? names[action] : "unknown";
}
