/*
 * Three look-ups in the index give the sets of rules whose matchers hold; their intersection, read
 * from the lowest rule up, is the map read top down. Called by accept at RCPT, by schedule at every
 * attempt, by explain and by `check --diff`.
 */
#include "policy/route.h"

#include <assert.h>
#include <stdio.h>

#include "policy/route_index.h"

#define LOCAL_MAX 512 /* longer local parts match no exact pattern (RFC 5321 allows 64) */

/* The rules that hold by each matcher, and by all of them. */
struct hits {
    struct rule_set by[ROUTE_MATCH__COUNT];
    struct rule_set all;
};

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

static void
find_hits(const struct config *config, const struct route_query *query, struct hits *hits)
{
    const struct route_index *index = config->index;
    char buf[LOCAL_MAX];

    route_index_domain(index, query->domain, &hits->by[ROUTE_MATCH_DOMAIN]);
    route_index_address(index, ROUTE_MATCH_RCPT, unquote(query->rcpt_local, buf), query->domain,
                        false, &hits->by[ROUTE_MATCH_RCPT]);
    route_index_address(index, ROUTE_MATCH_SENDER, unquote(local_part(query->sender), buf),
                        query->sender_domain, query->sender.n == 0, &hits->by[ROUTE_MATCH_SENDER]);
    for (size_t w = 0; w < route_index_words(index); w++) {
        hits->all.words[w] = ~(uint64_t)0;
        for (unsigned m = 0; m < ROUTE_MATCH__COUNT; m++)
            hits->all.words[w] &= hits->by[m].words[w] | route_index_none(index, m)->words[w];
    }
}

/* A pure fence decides nothing. */
static bool
decides(const struct rule *rule)
{
    return rule->action != RULE_FENCE;
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

static void
decide(const struct config *config, const struct hits *hits, struct route_decision *ret)
{
    *ret = (struct route_decision){.action = ROUTE_NONE};
    for (size_t w = 0; w < route_index_words(config->index); w++) {
        for (uint64_t bits = hits->all.words[w]; bits != 0; bits &= bits - 1) {
            const struct rule *rule = &config->rules[w * 64 + (unsigned)__builtin_ctzll(bits)];
            if (rule->never_via != 0)
                add_fence(ret, rule);
            if (ret->rule == NULL && decides(rule))
                ret->rule = rule;
        }
    }
    apply(ret);
}

void
route_decide(const struct config *config, const struct route_query *query,
             struct route_decision *ret)
{
    struct hits hits;
    find_hits(config, query, &hits);
    decide(config, &hits, ret);
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

/* The matchers that the rule has, one after the other, up to the first that does not hold. */
static void
explain_matchers(const struct config *config, const struct route_query *query,
                 const struct hits *hits, const struct rule *rule, struct strbuf *why)
{
    static const char *const subjects[] = {"domain", "recipient", "sender"};
    static const char *const lists[] = {"domains", "recipients", "senders"};
    for (unsigned m = 0; m < ROUTE_MATCH__COUNT; m++) {
        if (has_bit(route_index_none(config->index, m), rule->no))
            continue;
        if (why->n > 0)
            strbuf_add_str(why, ", ");
        bool holds = has_bit(&hits->by[m], rule->no);
        if (m == ROUTE_MATCH_DOMAIN && holds)
            explain_domain(rule, query->domain, why);
        else
            strbuf_printf(why, "%s is %sin %s", subjects[m], holds ? "" : "not ",
                          m == ROUTE_MATCH_DOMAIN && rule->n_domains == 0 ? rule->domains_file
                                                                          : lists[m]);
        if (!holds)
            return;
    }
    if (why->n == 0)
        strbuf_add_str(why, rule->is_default ? "the default rule" : "no matcher");
}

static void
make_step(const struct config *config, const struct route_query *query, const struct hits *hits,
          const struct route_decision *decision, const struct rule *rule, struct route_step *step)
{
    struct strbuf why = STRBUF_INIT;
    explain_matchers(config, query, hits, rule, &why);
    step->rule = rule;
    if (!has_bit(&hits->all, rule->no)) {
        step->verdict = ROUTE_RULE_MISSED;
    } else if (rule == decision->rule) {
        step->verdict = ROUTE_RULE_WON;
    } else if (!decides(rule)) {
        step->verdict = ROUTE_RULE_FENCED;
    } else {
        step->verdict = ROUTE_RULE_SHADOWED;
        strbuf_printf(&why, "; the rule at line %u decided", decision->rule->mark.line);
    }
    snprintf(step->why, sizeof(step->why), "%s", why.p);
    strbuf_release(&why);
}

void
route_explain(const struct config *config, const struct route_query *query,
              struct route_decision *ret, void (*step)(void *arg, const struct route_step *),
              void *arg)
{
    struct hits hits;
    find_hits(config, query, &hits);
    decide(config, &hits, ret);
    for (size_t i = 0; i < config->n_rules; i++) {
        struct route_step made;
        make_step(config, query, &hits, ret, &config->rules[i], &made);
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
