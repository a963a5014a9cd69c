/*
 * Look-ups in the index give the sets of rules whose matchers hold; their intersection, read from
 * the lowest rule up, is the map read top down. Facts that are not known split it in two:
 *
 *    sure    every matcher holds
 *    maybe   no matcher fails, but one asks for an unknown fact
 *
 * The map is decided when no rule of `maybe` stands above the first decider of `sure`, and none has
 * a fence that would add to those of `sure`. Called by accept at RCPT, by schedule at every
 * attempt, by explain (route_explain.c) and by `check --diff`.
 */
#include "policy/route_internal.h"

#include <assert.h>

#define LOCAL_MAX 512 /* longer local parts match no exact pattern (RFC 5321 allows 64) */

/* Without quotes and backslashes, so that "vip"@ and vip@ are one (RFC 5321 section 4.1.2). */
static struct span
unquote(struct span local, char buf[static LOCAL_MAX])
{
    if (local.n < 2 || local.p[0] != '"' || local.p[local.n - 1] != '"' || local.n > LOCAL_MAX)
        return local;
    size_t n = 0;
    for (size_t i = 1; i < local.n - 1; i++) {
        if (local.p[i] == '\\' && i + 2 < local.n)
            i++;
        buf[n++] = local.p[i];
    }
    return span_of(buf, n);
}

/* What stands before the last '@'. */
static struct span
local_part(struct span address)
{
    const char *at = address.n == 0 ? NULL : memrchr(address.p, '@', address.n);
    return at == NULL ? address : span_first(address, (size_t)(at - address.p));
}

/* What facts say of the rules, on top of `sure`, which so far holds what the other matchers say. */
static void
add_facts(const struct route_index *index, const struct route_facts *facts, struct hits *hits)
{
    static const struct route_facts nothing = {.mx = ROUTE_FACT_UNKNOWN};
    if (facts == NULL)
        facts = &nothing;
    bool mx = facts->mx != ROUTE_FACT_UNKNOWN, country = facts->country != ROUTE_FACT_UNKNOWN;
    hits->unknown = (mx ? 0 : ROUTE_NEEDS_MX) | (country ? 0 : ROUTE_NEEDS_COUNTRY);
    route_index_mx(index, facts->hosts, facts->mx == ROUTE_FACT_KNOWN ? facts->n_hosts : 0,
                   &hits->by[ROUTE_MATCH_MX]);
    route_index_country(index, facts->country == ROUTE_FACT_KNOWN ? facts->country_code : "",
                        &hits->by[ROUTE_MATCH_COUNTRY]);
    for (size_t w = 0; w < route_index_words(index); w++) {
        uint64_t by_mx =
            hits->by[ROUTE_MATCH_MX].words[w] | route_index_none(index, ROUTE_MATCH_MX)->words[w];
        uint64_t by_country = hits->by[ROUTE_MATCH_COUNTRY].words[w] |
                              route_index_none(index, ROUTE_MATCH_COUNTRY)->words[w];
        uint64_t open = hits->sure.words[w];
        open &= mx ? by_mx : ~(uint64_t)0;
        open &= country ? by_country : ~(uint64_t)0;
        hits->sure.words[w] &= by_mx & by_country;
        hits->maybe.words[w] = open & ~hits->sure.words[w];
    }
}

/* Does a rule that has not failed yet ask for a fact? */
static bool
asks_facts(const struct route_index *index, const struct hits *hits)
{
    const struct rule_set *no_mx = route_index_none(index, ROUTE_MATCH_MX);
    const struct rule_set *no_country = route_index_none(index, ROUTE_MATCH_COUNTRY);
    uint64_t asks = 0;
    for (size_t w = 0; w < route_index_words(index); w++)
        asks |= hits->sure.words[w] & ~(no_mx->words[w] & no_country->words[w]);
    return asks != 0;
}

void
route_hits_find(const struct config *config, const struct route_query *query, struct hits *hits)
{
    const struct route_index *index = config->index;
    char buf[LOCAL_MAX];

    route_index_domain(index, query->domain, &hits->by[ROUTE_MATCH_DOMAIN]);
    route_index_address(index, ROUTE_MATCH_RCPT, unquote(query->rcpt_local, buf), query->domain,
                        false, &hits->by[ROUTE_MATCH_RCPT]);
    route_index_address(index, ROUTE_MATCH_SENDER, unquote(local_part(query->sender), buf),
                        query->sender_domain, query->sender.n == 0, &hits->by[ROUTE_MATCH_SENDER]);
    hits->unknown = 0;
    for (size_t w = 0; w < route_index_words(index); w++) {
        hits->sure.words[w] = ~(uint64_t)0;
        hits->maybe.words[w] = 0;
        for (unsigned m = 0; m < ROUTE_MATCH_MX; m++)
            hits->sure.words[w] &= hits->by[m].words[w] | route_index_none(index, m)->words[w];
    }
    if (asks_facts(index, hits))
        add_facts(index, query->facts, hits);
}

bool
route_decides(const struct rule *rule)
{
    return rule->action != RULE_FENCE;
}

unsigned
route_rule_needs(const struct rule *rule, const struct hits *hits)
{
    unsigned asks =
        (rule->n_mx > 0 ? ROUTE_NEEDS_MX : 0) | (rule->n_mx_country > 0 ? ROUTE_NEEDS_COUNTRY : 0);
    return asks & hits->unknown;
}

static void
add_fence(struct route_decision *d, const struct rule *rule)
{
    d->never_via |= rule->never_via;
    if (d->n_fences < ROUTE_FENCES_MAX)
        d->fences[d->n_fences++] = rule;
}

static void
add_route(struct route_decision *d, unsigned route)
{
    if ((d->never_via >> route & 1) == 0)
        d->routes[d->n_routes++] = route;
}

/* The winner's action with the fences applied. */
static void
apply(struct route_decision *d)
{
    const struct rule *rule = d->rule;
    if (rule == NULL) {
        d->action = ROUTE_NONE;
        d->text = SPAN("550 5.4.4 no route to this recipient's domain");
        return;
    }
    switch (rule->action) {
    case RULE_ROUTE:
        add_route(d, rule->route);
        for (size_t i = 0; i < rule->n_fallback; i++)
            add_route(d, rule->fallback[i]);
        d->tls_given = rule->tls_given;
        d->tls = rule->tls;
        d->action = ROUTE_DELIVER;
        if (d->n_routes == 0) {
            d->action = ROUTE_FENCED;
            d->text = SPAN("550 5.7.1 every route to this recipient is forbidden here");
        }
        break;
    case RULE_REJECT:
        d->action = ROUTE_REJECT;
        d->text = span_str(rule->reject);
        break;
    case RULE_DISCARD:
        d->action = ROUTE_DISCARD;
        break;
    case RULE_HOLD:
        d->action = ROUTE_HOLD;
        d->text = span_str(rule->hold);
        break;
    case RULE_FENCE:
        assert(!"a fence never decides");
    }
}

/* The first rule of the set from number `from` on; NULL: none. */
static const struct rule *
next_rule(const struct config *config, const struct rule_set *set, size_t from)
{
    for (size_t w = from / 64; w < route_index_words(config->index); w++) {
        uint64_t bits = set->words[w];
        if (w == from / 64)
            bits &= ~(uint64_t)0 << from % 64;
        if (bits != 0)
            return &config->rules[w * 64 + (unsigned)__builtin_ctzll(bits)];
    }
    return NULL;
}

/* Does this winner (NULL: none) leave a route, were all these fences up? */
static bool
may_deliver(const struct rule *rule, route_mask fences)
{
    if (rule == NULL || rule->action != RULE_ROUTE)
        return false;
    route_mask routes = (route_mask)1 << rule->route;
    for (size_t i = 0; i < rule->n_fallback; i++)
        routes |= (route_mask)1 << rule->fallback[i];
    return (routes & ~fences) != 0;
}

/* Would it refuse the recipient? */
static bool
may_refuse(const struct rule *rule, route_mask fences)
{
    if (rule == NULL || rule->action == RULE_REJECT)
        return true;
    return rule->action == RULE_ROUTE && !may_deliver(rule, fences);
}

/*
 * The rules that may hold, with what surely holds decided already: ret->rule is the winner if none
 * of them does. Those above it may win; the fences of all count as long as some route may be taken.
 */
static void
weigh_unknown(const struct config *config, const struct hits *hits, struct route_decision *ret)
{
    size_t end = ret->rule == NULL ? config->n_rules : ret->rule->no;
    bool routes = may_deliver(ret->rule, ret->never_via);
    route_mask fences = ret->never_via;
    const struct rule *rule = NULL;

    for (size_t i = 0; (rule = next_rule(config, &hits->maybe, i)) != NULL; i = rule->no + 1) {
        fences |= rule->never_via;
        routes |= rule->no < end && may_deliver(rule, ret->never_via);
    }
    for (size_t i = 0; (rule = next_rule(config, &hits->maybe, i)) != NULL; i = rule->no + 1) {
        bool wins = rule->no < end && route_decides(rule);
        if (wins || (routes && (rule->never_via & ~ret->never_via) != 0))
            ret->needs |= route_rule_needs(rule, hits);
        ret->may_refuse |= wins && may_refuse(rule, fences);
    }
    ret->may_refuse |= may_refuse(ret->rule, fences);
}

void
route_hits_decide(const struct config *config, const struct hits *hits, struct route_decision *ret)
{
    bool open = false;
    *ret = (struct route_decision){.action = ROUTE_NONE};
    for (size_t w = 0; w < route_index_words(config->index); w++) {
        open |= hits->maybe.words[w] != 0;
        for (uint64_t bits = hits->sure.words[w]; bits != 0; bits &= bits - 1) {
            const struct rule *rule = &config->rules[w * 64 + (unsigned)__builtin_ctzll(bits)];
            if (rule->never_via != 0)
                add_fence(ret, rule);
            if (ret->rule == NULL && route_decides(rule))
                ret->rule = rule;
        }
    }
    if (open)
        weigh_unknown(config, hits, ret);
    if (ret->needs != 0) {
        ret->action = ROUTE_FACTS;
        ret->rule = NULL;
        return;
    }
    ret->may_refuse = false;
    apply(ret);
}

void
route_decide(const struct config *config, const struct route_query *query,
             struct route_decision *ret)
{
    struct hits hits;
    route_hits_find(config, query, &hits);
    route_hits_decide(config, &hits, ret);
}

void
route_decide_again(const struct config *config, unsigned rule, route_mask never_via,
                   struct route_decision *ret)
{
    assert(rule < config->n_rules && config->rules[rule].action == RULE_ROUTE);
    *ret = (struct route_decision){.rule = &config->rules[rule], .never_via = never_via};
    apply(ret);
}

bool
route_prefer(struct route_decision *decision, unsigned route)
{
    assert(decision->action == ROUTE_DELIVER && route < CONFIG_ROUTES_MAX);
    if (decision->never_via >> route & 1)
        return false;
    size_t at = 0;
    while (at < decision->n_routes && decision->routes[at] != route)
        at++;
    if (at == decision->n_routes)
        decision->n_routes++; /* there is room: each route stands there once at most */
    memmove(&decision->routes[1], &decision->routes[0], at * sizeof(decision->routes[0]));
    decision->routes[0] = route;
    return true;
}

/* The domain behind the last '@' into buf; an address literal stays as it is. */
static enum err_code
split(struct span address, const char *what, struct span *ret_local, char buf[static DOMAIN_BUF],
      struct span *ret_domain, struct err *err)
{
    const char *at = address.n == 0 ? NULL : memrchr(address.p, '@', address.n);
    if (at == NULL || at == address.p)
        return err_set(err, ERR_INVAL, "%s: expected an address local@domain", what);
    *ret_local = span_first(address, (size_t)(at - address.p));
    struct span domain = span_from(address, ret_local->n + 1);
    if (domain.n > 2 && domain.n < DOMAIN_BUF && domain.p[0] == '[') {
        for (size_t i = 0; i < domain.n; i++)
            buf[i] = ascii_lower(domain.p[i]);
        *ret_domain = span_of(buf, domain.n);
        return ERR_OK;
    }
    enum err_code code = domain_normalise(domain, buf, err);
    if (code != ERR_OK) {
        err_prefix(err, "%s", what);
        return code;
    }
    *ret_domain = span_str(buf);
    return ERR_OK;
}

enum err_code
route_query_set(struct route_query *query, struct span sender, struct span rcpt,
                char sender_domain[static DOMAIN_BUF], char rcpt_domain[static DOMAIN_BUF],
                struct err *err)
{
    struct route_query made = {0};
    if (sender.n > 0 && !span_eq(sender, SPAN("<>"))) {
        struct span local;
        enum err_code code =
            split(sender, "sender", &local, sender_domain, &made.sender_domain, err);
        if (code != ERR_OK)
            return code;
        made.sender = sender;
    }
    enum err_code code = split(rcpt, "recipient", &made.rcpt_local, rcpt_domain, &made.domain, err);
    if (code == ERR_OK)
        *query = made;
    return code;
}

enum config_tls
route_tls(const struct config *config, const struct route_decision *decision, unsigned route)
{
    assert(route < config->n_routes);
    const struct hop *hop = config->routes[route].hop;
    enum config_tls level = hop == NULL ? config->direct.tls : hop->tls;
    return decision->tls_given && decision->tls > level ? decision->tls : level;
}
