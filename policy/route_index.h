/*
 * route_index - which rules have a matcher that holds: domains, recipients, senders, MX hosts and
 * countries of all rules in one hash table. Built with the configuration, read by route.c; see
 * route.h for what matches.
 *
 * An answer is a set of rules, one bit each. `none` of a matcher is the set of rules that do not
 * have it: for those it holds by itself.
 *
 *     candidates = (domain hits | no domains) & (recipient hits | no recipients) & (sender ...)
 */
#pragma once

#include "policy/base/span.h"
#include "policy/config.h"

#include <stdbool.h>
#include <stdint.h>

#define ROUTE_WORDS (CONFIG_RULES_MAX / 64)

struct builder;
struct route_index;

/* A set of rules; only the first words that the configuration needs are used. */
struct rule_set {
    uint64_t words[ROUTE_WORDS];
};

enum route_matcher {
    ROUTE_MATCH_DOMAIN,
    ROUTE_MATCH_RCPT,
    ROUTE_MATCH_SENDER,
    ROUTE_MATCH_MX, /* from here on: facts, which may be unknown */
    ROUTE_MATCH_COUNTRY,
    ROUTE_MATCH__COUNT,
};

/* Build from b->config->rules; reads their files (but not for CONFIG_LOAD_OUTLINE) and reports what
 * is wrong in them. Lives in the configuration's arena. */
const struct route_index *route_index_build(struct builder *b);

/* Words of a rule_set in use. */
size_t route_index_words(const struct route_index *index);

/* Set in *ret the rules whose `domains` or `domains_file` hold for the canonical domain. */
void route_index_domain(const struct route_index *index, struct span domain, struct rule_set *ret);
/* The rules whose `recipients` (or `senders`) hold for this address; an address without a domain
 * (the null sender) is asked with `null_sender`. `local` is unquoted here. */
void
route_index_address(const struct route_index *index, enum route_matcher matcher, struct span local,
                    struct span domain, bool null_sender, struct rule_set *ret);
/* The rules whose `mx` holds for one of these canonical host names. */
void route_index_mx(const struct route_index *index, const char *const *hosts, size_t n_hosts,
                    struct rule_set *ret);
/* The rules whose `mx_country` has this code; "": none. */
void route_index_country(const struct route_index *index, const char *code, struct rule_set *ret);
/* The rules that do not have this matcher. */
const struct rule_set *
route_index_none(const struct route_index *index, enum route_matcher matcher);
