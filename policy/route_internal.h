/*
 * route_internal - what route.c and route_explain.c share; nobody else includes this.
 */
#pragma once

#include "policy/route.h"
#include "policy/route_index.h"

/* The rules that hold by each matcher, and by all of them. */
struct hits {
    struct rule_set by[ROUTE_MATCH__COUNT]; /* the facts' are set only where a rule asks for them */
    struct rule_set sure, maybe;            /* see route.c */
    unsigned unknown; /* ROUTE_NEEDS_*: what some rule asks for and is not known */
};

void
route_hits_find(const struct config *config, const struct route_query *query, struct hits *ret);
/* route_decide() from the hits. */
void
route_hits_decide(const struct config *config, const struct hits *hits, struct route_decision *ret);
/* The unknown facts that the rule asks for. */
unsigned route_rule_needs(const struct rule *rule, const struct hits *hits);
/* A pure fence decides nothing. */
bool route_decides(const struct rule *rule);
