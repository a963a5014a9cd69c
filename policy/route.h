/*
 * route - which way does this recipient go? (transport_map)
 *
 * Pure and fast: domains, recipients and senders of all rules, lists in files included, are one
 * hash table (route_index), so a decision costs the same for ten names and for a million. The
 * result is as if the rules were read top down:
 *  (1) Of the rules that decide (route, reject, discard, hold) the first whose matchers all hold
 *      wins. The default rule matches everything that reaches it.
 *  (2) The never_via of every rule whose matchers hold applies, wherever the rule stands and
 *      whatever else it says. A fenced route is never used, also when nothing is left.
 *  (3) Domains compare in canonical form. "*.abc.com" is any depth below abc.com, not abc.com.
 *  (4) Local parts compare with ASCII case ignored and without their quotes, since nobody gives
 *      a fence or a reject to "vip" and means that "VIP" may pass; bytes above ASCII compare
 *      exactly.
 *  (5) A sender pattern never matches the null sender, but for "<>", which matches only that.
 *  (6) A matcher of a fact that is not known (mx, mx_country) holds neither nor fails: where such a
 *      rule could change the decision there is none (ROUTE_FACTS), and never a later rule's. Once
 *      the facts asked for are known the decision is the one of (1) and (2).
 *
 * Maps without such rules cost nothing for them.
 */
#pragma once

#include "policy/base/mem.h"
#include "policy/base/span.h"
#include "policy/config.h"

#include <stdbool.h>
#include <stddef.h>

/* What is known of a fact. NONE: it is known that there is none (no MX; no country). */
enum route_known { ROUTE_FACT_UNKNOWN, ROUTE_FACT_NONE, ROUTE_FACT_KNOWN };

/* What DNS and geoip say about the recipient's domain; relayd/facts.h finds it out. */
struct route_facts {
    enum route_known mx;
    const char *const *hosts; /* KNOWN: canonical names of its MX hosts, the best one first */
    size_t n_hosts;
    enum route_known country; /* of the best MX's address, or without MX of the domain's own */
    char country_code[3];     /* KNOWN: "US" */
    struct ip address;        /* that the country is of, for explain; family 0: there is none */
};

/* Which facts a decision asks for. */
#define ROUTE_NEEDS_MX 1u
#define ROUTE_NEEDS_COUNTRY 2u

struct route_query {
    struct span sender;        /* address of MAIL FROM without brackets; empty: the null sender */
    struct span sender_domain; /* its canonical domain; empty for the null sender */
    struct span rcpt_local;    /* as given, quotes and all */
    struct span domain;        /* canonical; for an address literal the text with its brackets */
    const struct route_facts *facts; /* NULL: nothing is known */
};

enum route_action {
    ROUTE_DELIVER,
    ROUTE_REJECT,  /* `text` is the reply */
    ROUTE_DISCARD, /* accept and drop */
    ROUTE_HOLD,    /* accept and hold; `text` is the reason */
    ROUTE_NONE,    /* no rule matches; `text` is 550 5.4.4 ... */
    ROUTE_FENCED,  /* every route of the rule is fenced off; `text` is 550 5.7.1 ... */
    ROUTE_FACTS,   /* undecided until the facts of `needs` are known */
};

#define ROUTE_FENCES_MAX 16 /* how many fences a decision names; all of them hold */

struct route_decision {
    enum route_action action;
    const struct rule *rule; /* the one that won; NULL for ROUTE_NONE and ROUTE_FACTS */
    /* DELIVER: indices into config.routes, in the order to try: the rule's route and fallbacks
     * without the fenced ones. n_routes >= 1. */
    unsigned routes[CONFIG_ROUTES_MAX];
    size_t n_routes;
    route_mask never_via;                        /* union of the fences that apply */
    const struct rule *fences[ROUTE_FENCES_MAX]; /* the rules that gave them, top down */
    size_t n_fences;
    bool tls_given; /* the rule asks for at least `tls` on whichever route is taken */
    enum config_tls tls;
    struct span text; /* REJECT, NONE, FENCED: a whole SMTP reply "550 5.4.4 ..."; HOLD: reason */
    /* FACTS: the unknown facts (ROUTE_NEEDS_*) of rules that could still win, and of those whose
     * never_via would forbid more than the fences above do. 0 for every other action. */
    unsigned needs;
    bool may_refuse; /* FACTS: it may end as REJECT, NONE or FENCED; false: it cannot */
};

/* Decide for one recipient. The decision points into `config`. */
void route_decide(const struct config *config, const struct route_query *query,
                  struct route_decision *ret);

/* The DELIVER decision that `rule` (of config.rules) made with these fences, without its facts
 * being known any more; `fences` stays empty, `never_via` holds. */
void route_decide_again(const struct config *config, unsigned rule, route_mask never_via,
                        struct route_decision *ret);

/* Put `route` in front of the routes of a DELIVER decision, whether the rule names it or not. False
 * when a fence forbids it: nothing is changed. */
bool route_prefer(struct route_decision *decision, unsigned route);

/* Split sender and recipient at their last '@' and canonicalise the domains into the buffers.
 * For callers that have only text (relayctl explain, records). Returns ERR_INVAL with why not. */
MUST_CHECK enum err_code route_query_set(struct route_query *query, struct span sender,
                                         struct span rcpt, char sender_domain[static DOMAIN_BUF],
                                         char rcpt_domain[static DOMAIN_BUF], struct err *err);

/* The level that holds on routes[route]: the route's own, or the rule's when that is stricter. */
enum config_tls
route_tls(const struct config *config, const struct route_decision *decision, unsigned route);

enum route_verdict {
    ROUTE_RULE_MISSED,   /* some matcher does not hold: `why` says which */
    ROUTE_RULE_WON,      /* it decides */
    ROUTE_RULE_FENCED,   /* it matches and only fences */
    ROUTE_RULE_SHADOWED, /* it matches, but one above had decided (its fences hold) */
    ROUTE_RULE_UNKNOWN,  /* a fact that it asks for, or a rule above it does, is not known */
};

struct route_step {
    const struct rule *rule;
    enum route_verdict verdict;
    char why[512]; /* "domain abc.com is in domains", "sender is not in senders", "MX mx.abc.com is
                      in mx (*.abc.com)", "MX not known", ... */
};

/*
 * The same decision, and for every rule, top down, step() with why it matched or not. The step is
 * valid during the call only.
 */
void route_explain(const struct config *config, const struct route_query *query,
                   struct route_decision *ret, void (*step)(void *arg, const struct route_step *),
                   void *arg);

/* "won", "missed", "fence", "shadowed", "unknown" */
const char *route_verdict_name(enum route_verdict verdict);
/* "deliver", "reject", "discard", "hold", "none", "fenced", "facts" */
const char *route_action_name(enum route_action action);
