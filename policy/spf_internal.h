/*
 * spf_internal - what the files of policy/spf share: a parsed record, macros, known answers.
 */
#pragma once

#include "policy/spf.h"

enum spf_kind {
    SPF_KIND_ALL,
    SPF_KIND_INCLUDE,
    SPF_KIND_A,
    SPF_KIND_MX,
    SPF_KIND_PTR,
    SPF_KIND_IP4,
    SPF_KIND_IP6,
    SPF_KIND_EXISTS,
};

/* One directive of a record. */
struct spf_term {
    enum spf_kind kind;
    enum spf_result result; /* of the qualifier, when it matches */
    struct span text;       /* as written */
    struct span domain;     /* the domain-spec, empty: that of the record */
    struct cidr block;      /* ip4, ip6 */
    uint8_t bits4, bits6;   /* a, mx */
};

/* A record, checked as a whole: terms in order, modifiers apart. */
struct spf_policy {
    const char *fault;      /* what is wrong with it, NULL: nothing */
    struct span culprit;    /* the term that is */
    struct spf_term *terms; /* those that can be reached */
    size_t n_terms;
    bool has_all;         /* then redirect has no effect (section 5.1) */
    struct span redirect; /* its domain-spec, empty: none */
    char *text;
};

/* Is this TXT record one of ours? "v=spf1" alone or before a blank (section 4.5). */
bool spf_record_is(struct span text);
/* Parse a record that spf_record_is(); the text is copied. Never NULL: look at `fault`. */
struct spf_policy *spf_policy_parse(struct span text);
void spf_policy_free(struct spf_policy *policy); /* NULL is fine */

/* ---- macros (section 7) ---- */

/* Is this a domain-spec: macro-string, and at its end a top label or a macro? */
bool spf_domain_spec_valid(struct span spec);
/* Is this a macro-string? Those of explanations only (c, r, t) are fine. */
bool spf_macro_string_valid(struct span text);

/* What the letters stand for; empty where unknown. */
struct spf_macros {
    struct span local, sender_domain, helo, domain, validated;
    const struct ip *ip;
};

#define SPF_USES_LOCAL 1u     /* s, l */
#define SPF_USES_HELO 2u      /* h */
#define SPF_USES_VALIDATED 4u /* p */
/* Which of these does a domain-spec name? */
unsigned spf_domain_spec_uses(struct span spec);

#define SPF_DOMAIN_MAX 253 /* octets of a name without its final dot */

/* A name as its octets; labels are what is between dots. */
struct spf_name {
    size_t n;
    char octets[SPF_DOMAIN_MAX];
};

/* The name that a valid domain-spec means: macros replaced, a final dot dropped, labels on the left
 * dropped until it fits. False when no question can be made of it. */
bool spf_domain_spec_expand(struct span spec, const struct spf_macros *m, struct spf_name *ret);
/* The same without macros. */
bool spf_name_make(struct span octets, struct spf_name *ret);
/* "4.3.2.1.in-addr.arpa" */
void spf_name_reverse(const struct ip *ip, struct spf_name *ret);
/* As in struct spf_question. */
void spf_name_format(const struct spf_name *name, char ret[static SPF_NAME_BYTES]);

/* ---- answers ---- */

struct spf_answer {
    enum spf_status status;
    uint32_t ttl_s;
    unsigned n_policies;       /* TXT: SPF records; of several only their number counts */
    struct spf_policy *policy; /* TXT: the first */
    size_t n;                  /* of one of these: */
    struct ip *ips;            /* A, AAAA */
    char **hosts;              /* MX (one more than SPF_MX_MAX), PTR (SPF_PTR_MAX) */
    size_t n_key;
    char key[]; /* type, name */
};

/* NULL: not known. */
const struct spf_answer *
spf_answers_find(const struct spf_answers *answers, enum spf_type type, const char *name);
