/*
 * What the transport map as a whole does not do, though somebody wrote it: rules that never decide,
 * rules whose every route is fenced off, hops that nothing uses. All of them are warnings.
 *
 * A rule is taken apart into cases, one for each combination of its patterns (a domain, a
 * recipient, a sender, an MX host, a country). For each case the index says which rules hold for
 * *everything* that the pattern stands for: it is asked with a name below "*.abc.com", or a local
 * part for "*@abc.com", that no pattern can spell out. What is found for every case of a rule is
 * true of the rule. A rule with a domains_file is not taken apart, but counts where it covers
 * others.
 */
#include "policy/config_build.h"

#include "policy/route_index.h"

#define CASES_MAX 100000 /* of one rule; one with more is not looked at */
/* Cases times rules of a whole map, for a case costs a step for each rule that it may meet: about a
 * second on maps made to be slow. What is left then is not looked at. */
#define STEPS_MAX 20000000

#define ANY_LABEL "?"        /* of a domain, and no pattern has it */
#define ANY_LOCAL SPAN("\r") /* likewise of a local part */

/* One combination of a rule's patterns; NULL: the rule does not ask for it. */
struct map_case {
    const struct domain_pattern *domain, *mx;
    const struct address_pattern *rcpt, *sender;
    const char *country;
};

/* What is true of all cases looked at so far. */
struct map_verdict {
    size_t n_cases;
    bool shadowed, fenced, several;
    const struct rule *above; /* decides the first case */
    const struct rule *fence; /* of another rule, that it takes; NULL: its own will do */
};

/* ---- which rules hold for a case ---- */

static size_t
or_one(size_t n)
{
    return n == 0 ? 1 : n;
}

static size_t
count_cases(const struct rule *rule)
{
    const size_t counts[] = {rule->n_domains, rule->n_recipients, rule->n_senders, rule->n_mx,
                             rule->n_mx_country};
    size_t n = 1;
    for (size_t i = 0; i < N_ELEMENTS(counts); i++) {
        if (or_one(counts[i]) > CASES_MAX / n)
            return 0;
        n *= or_one(counts[i]);
    }
    return n;
}

/* Case number `no` of the rule, counted as on a clock. */
static struct map_case
case_at(const struct rule *rule, size_t no)
{
    struct map_case c = {0};
    if (rule->n_domains > 0)
        c.domain = &rule->domains[no % rule->n_domains];
    no /= or_one(rule->n_domains);
    if (rule->n_recipients > 0)
        c.rcpt = &rule->recipients[no % rule->n_recipients];
    no /= or_one(rule->n_recipients);
    if (rule->n_senders > 0)
        c.sender = &rule->senders[no % rule->n_senders];
    no /= or_one(rule->n_senders);
    if (rule->n_mx > 0)
        c.mx = &rule->mx[no % rule->n_mx];
    no /= or_one(rule->n_mx);
    if (rule->n_mx_country > 0)
        c.country = rule->mx_country[no % rule->n_mx_country];
    return c;
}

/* Does `a` match everything that `b` does? */
static bool
covers(const struct domain_pattern *a, const struct domain_pattern *b)
{
    struct span base = span_str(a->name), name = span_str(b->name);
    if (!b->subdomains)
        return domain_pattern_matches(a, name);
    return a->subdomains && (span_eq(name, base) || domain_is_under(name, base));
}

/* The recipients' domains: those of the domain and of the recipient pattern. False: none is both.
 * *ret is NULL when any will do. */
static bool
case_domain(const struct map_case *c, const struct domain_pattern **ret)
{
    const struct domain_pattern *of_rcpt = c->rcpt == NULL ? NULL : &c->rcpt->domain;
    *ret = c->domain == NULL ? of_rcpt : c->domain;
    if (c->domain == NULL || of_rcpt == NULL || covers(of_rcpt, c->domain))
        return true;
    *ret = of_rcpt;
    return covers(c->domain, of_rcpt);
}

/* A name that stands for all that the pattern matches. */
static struct span
specimen(const struct domain_pattern *p, char buf[static DOMAIN_BUF + 2])
{
    int n = snprintf(buf, DOMAIN_BUF + 2, "%s%s", p->subdomains ? ANY_LABEL "." : "", p->name);
    return span_of(buf, (size_t)n);
}

/* Leave in `set` the rules that do not have this matcher, and those in `hits` (NULL: none). */
static void
keep(const struct route_index *index, struct rule_set *set, enum route_matcher matcher,
     const struct rule_set *hits)
{
    const struct rule_set *none = route_index_none(index, matcher);
    for (size_t i = 0; i < route_index_words(index); i++)
        set->words[i] &= none->words[i] | (hits == NULL ? 0 : hits->words[i]);
}

static void
keep_address(const struct route_index *index, struct rule_set *set, enum route_matcher matcher,
             const struct address_pattern *p, const struct domain_pattern *domain)
{
    char buf[DOMAIN_BUF + 2];
    struct rule_set hits;
    struct span local = p == NULL || p->local.p == NULL ? ANY_LOCAL : p->local;
    if (p != NULL && p->null_sender)
        route_index_address(index, matcher, SPAN_NONE, SPAN_NONE, true, &hits);
    else if (domain != NULL)
        route_index_address(index, matcher, local, specimen(domain, buf), false, &hits);
    keep(index, set, matcher, (p != NULL && p->null_sender) || domain != NULL ? &hits : NULL);
}

/* The rules that hold for all of a case. False: the case is empty. */
static bool
find_rules(const struct route_index *index, const struct map_case *c, struct rule_set *ret)
{
    char buf[DOMAIN_BUF + 2];
    const struct domain_pattern *domain;
    struct rule_set hits;

    bool no_mailbox = c->rcpt != NULL && c->rcpt->null_sender;
    if (no_mailbox || !case_domain(c, &domain))
        return false;
    memset(ret, 0xff, sizeof(*ret));
    if (domain != NULL)
        route_index_domain(index, specimen(domain, buf), &hits);
    keep(index, ret, ROUTE_MATCH_DOMAIN, domain != NULL ? &hits : NULL);
    keep_address(index, ret, ROUTE_MATCH_RCPT, c->rcpt, domain);
    keep_address(index, ret, ROUTE_MATCH_SENDER, c->sender,
                 c->sender == NULL ? NULL : &c->sender->domain);
    if (c->mx != NULL) {
        const char *host = specimen(c->mx, buf).p;
        route_index_mx(index, &host, 1, &hits);
    }
    keep(index, ret, ROUTE_MATCH_MX, c->mx != NULL ? &hits : NULL);
    if (c->country != NULL)
        route_index_country(index, c->country, &hits);
    keep(index, ret, ROUTE_MATCH_COUNTRY, c->country != NULL ? &hits : NULL);
    return true;
}

/* ---- what that makes of a rule ---- */

/* The first rule of the set from `no` on; n_rules: none. */
static size_t
next_in(const struct rule_set *set, const struct config *config, size_t no)
{
    while (no < config->n_rules) {
        uint64_t rest = set->words[no / 64] >> no % 64;
        if (rest != 0)
            return no + (size_t)__builtin_ctzll(rest);
        no = (no / 64 + 1) * 64;
    }
    return config->n_rules;
}

static route_mask
routes_of(const struct rule *rule)
{
    route_mask routes = (route_mask)1 << rule->route;
    for (size_t i = 0; i < rule->n_fallback; i++)
        routes |= (route_mask)1 << rule->fallback[i];
    return routes;
}

/* One case more: which rule above decides it, and what do the fences leave? */
static void
judge_case(const struct config *config, const struct rule *rule, const struct rule_set *set,
           struct map_verdict *v)
{
    const struct rule *above = NULL;
    route_mask left = routes_of(rule) & ~rule->never_via;
    for (size_t i = next_in(set, config, 0); i < config->n_rules; i = next_in(set, config, i + 1)) {
        const struct rule *other = &config->rules[i];
        if (above == NULL && i < rule->no && other->action != RULE_FENCE)
            above = other;
        if ((left & other->never_via) != 0 && v->fence == NULL)
            v->fence = other;
        left &= ~other->never_via;
    }
    v->several = v->several || (v->n_cases > 0 && above != v->above);
    v->above = v->n_cases == 0 ? above : v->above;
    v->shadowed = v->shadowed && above != NULL;
    v->fenced = v->fenced && left == 0;
    v->n_cases++;
}

/* `steps` are what is left of STEPS_MAX. */
static struct map_verdict
judge(const struct config *config, const struct rule *rule, size_t *steps)
{
    struct map_verdict v = {.shadowed = true, .fenced = rule->action == RULE_ROUTE};
    size_t n = count_cases(rule), i;
    for (i = 0; i < n && *steps >= config->n_rules && (v.shadowed || v.fenced); i++) {
        struct map_case c = case_at(rule, i);
        struct rule_set set;
        *steps -= config->n_rules;
        if (find_rules(config->index, &c, &set))
            judge_case(config, rule, &set, &v);
    }
    if (n == 0 || (i < n && (v.shadowed || v.fenced))) /* not seen to its end */
        v = (struct map_verdict){.n_cases = 1};
    return v;
}

static void
tell(struct builder *b, const struct rule *rule, const struct map_verdict *v, const char *path)
{
    if (v->n_cases == 0)
        CONFIG_WARN(b, rule->mark, path,
                    "matches nobody, for none of its recipients is in one of its domains");
    else if (v->shadowed && v->several)
        CONFIG_WARN(b, rule->mark, path,
                    "never decides, for rules above match all that it does, the first at %s:%u",
                    v->above->mark.file, v->above->mark.line);
    else if (v->shadowed)
        CONFIG_WARN(b, rule->mark, path,
                    "never decides, for the rule at %s:%u matches all that it does",
                    v->above->mark.file, v->above->mark.line);
    else if (v->fenced && v->fence != NULL)
        CONFIG_WARN(b, rule->mark, path,
                    "every recipient of this rule will be refused with 550 5.7.1, for fences "
                    "forbid all its routes, the one at %s:%u among them",
                    v->fence->mark.file, v->fence->mark.line);
    else if (v->fenced)
        CONFIG_WARN(b, rule->mark, path,
                    "every recipient of this rule will be refused with 550 5.7.1, for its "
                    "never_via forbids all its routes");
}

static void
check_rule(struct builder *b, const struct rule *rule, size_t *steps)
{
    const char *path = arena_printf(b->arena, "transport_map[%u]", rule->no);
    struct map_verdict v = {.n_cases = 1};
    if (rule->action == RULE_FENCE)
        return;
    if (rule->domains_file[0] == '\0')
        v = judge(b->config, rule, steps);
    else
        v.fenced = rule->action == RULE_ROUTE && (routes_of(rule) & ~rule->never_via) == 0;
    tell(b, rule, &v, path);
}

static void
check_hop_use(struct builder *b)
{
    const struct config *config = b->config;
    route_mask used = 0;
    for (size_t i = 0; i < config->n_rules; i++)
        if (config->rules[i].action == RULE_ROUTE)
            used |= routes_of(&config->rules[i]);
    for (size_t i = 0; i < config->n_hops; i++)
        if ((used >> config->hops[i].route & 1) == 0)
            CONFIG_WARN(b, config->hops[i].mark,
                        arena_printf(b->arena, "hops.%.40s", config->hops[i].name),
                        "no rule sends anything there, by route or fallback");
}

/* Has the map itself been faulted? Then what it was read as says nothing. */
static bool
is_faulty(const struct config_problems *problems)
{
    for (size_t i = 0; i < problems->n; i++) {
        struct span path = span_str(problems->items[i].path);
        if (problems->items[i].severity == CONFIG_ERROR &&
            (span_starts(path, SPAN("transport_map")) || span_starts(path, SPAN("hops"))))
            return true;
    }
    return problems->n_errors + problems->n_warnings > problems->n;
}

void
config_check_map(struct builder *b)
{
    const struct config *config = b->config;
    size_t steps = STEPS_MAX;
    if (is_faulty(b->problems))
        return;
    for (size_t i = 0; i < config->n_rules; i++) {
        check_rule(b, &config->rules[i], &steps);
        if (config->rules[i].is_default)
            break; /* those behind it have been told so */
    }
    check_hop_use(b);
}
