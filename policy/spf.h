/*
 * spf - may this address send mail of that domain? check_host() of RFC 7208, all of it.
 *
 * Pure: nothing is looked up here. spf_check() walks over what DNS is known to have said and gives
 * either the result or the questions that it is short of; the caller adds the answers and calls
 * again. Each call begins at the top, so there is no state between calls but the answers, and one
 * set of answers serves any number of addresses.
 *
 *     struct spf_answers *answers = spf_answers_new(seed);
 *     while (!spf_check(&query, answers, &verdict))
 *         for (size_t i = 0; i < verdict.n_questions; i++)
 *             ... look verdict.questions[i] up, spf_answers_add() ...
 *
 * Looking ahead: while something is unknown the walk goes on as if the term did not match, so that
 * the questions of several terms go out together. It asks for nothing that the rules could not
 * need.
 *
 * Limits, all of them "permerror" (RFC 7208 section 4.6.4): SPF_TERMS_MAX terms that need DNS,
 * includes and redirects counted through; SPF_VOIDS_MAX terms with a look-up that finds nothing;
 * SPF_MX_MAX hosts of an mx. Of PTR names the first SPF_PTR_MAX count, the others are ignored.
 *
 * Chosen where the RFC leaves it open: a target name that no DNS question can be made of (an empty
 * label, one over 63 octets) does not match and is no void look-up; a term is void at most once,
 * whatever number of its look-ups is; a term that matches is not void; an mx of more than
 * SPF_MX_MAX hosts is an error before any of them is looked up; %{p} is no term by itself.
 */
#pragma once

#include "policy/base/ip.h"
#include "policy/base/map.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPF_TERMS_MAX 10 /* that need DNS: RFC 7208 section 4.6.4 */
#define SPF_VOIDS_MAX 2  /* likewise */
#define SPF_MX_MAX 10    /* likewise */
#define SPF_PTR_MAX 10   /* likewise */
#define SPF_RECORD_MAX                                                                            \
    8192                    /* octets of a record; a longer one is "permerror". Section 3.4 wants \
                               them to fit into 512 */
#define SPF_SENDER_MAX 1024 /* octets of a sender or a HELO name; no path of SMTP is longer */
#define SPF_ASK_MAX 16      /* questions given at once: mx with its hosts, and some ahead */
#define SPF_AHEAD_MAX 64    /* with so many answers known nothing is asked ahead any more */
#define SPF_NAME_BYTES 1024 /* of a name as text: 253 octets, odd ones as \DDD, and a NUL */
#define SPF_WHY_BYTES 240

enum spf_result {
    SPF_NONE,      /* no record, or no domain to look for one */
    SPF_NEUTRAL,   /* the domain says nothing about this address */
    SPF_PASS,      /* it may */
    SPF_FAIL,      /* it may not */
    SPF_SOFTFAIL,  /* probably not */
    SPF_TEMPERROR, /* DNS in trouble: perhaps later */
    SPF_PERMERROR, /* the record is wrong, or passes a limit */
};

/* "softfail", the words of RFC 7208 section 2.6. */
const char *spf_result_name(enum spf_result result);

struct spf_query {
    struct ip ip;       /* who would send; a mapped IPv4 address is IPv4 (ip.h) */
    struct span sender; /* local@domain; without a local part it is postmaster. Empty, the null
                           sender: postmaster@HELO (section 2.4) */
    struct span helo;   /* what the client would say after EHLO, for %{h} */
};

enum spf_type { SPF_TXT, SPF_A, SPF_AAAA, SPF_MX, SPF_PTR };

struct spf_question {
    enum spf_type type;
    char name[SPF_NAME_BYTES]; /* lower case, no final dot; odd octets as \DDD, as in zone files */
};

/* What became of the check. */
struct spf_verdict {
    /* Decided */
    enum spf_result result;
    bool personal;           /* the local part or the HELO name had a say: not the domain's alone */
    uint32_t ttl_s;          /* least TTL of what it rests on; UINT32_MAX: on nothing in DNS */
    char why[SPF_WHY_BYTES]; /* printable: "-all at example.com", "include:_spf.x.net at example.com
                                (ip4:192.0.2.0/24 at _spf.x.net)", "no SPF record at example.com" */
    /* Not decided: at least one, each once, none of them answered yet */
    size_t n_questions;
    struct spf_question questions[SPF_ASK_MAX];
};

/* What DNS said, by question. */
struct spf_answers;

/* `seed` is random in a daemon: the names are chosen by strangers. */
struct spf_answers *spf_answers_new(struct map_seed seed);
void spf_answers_free(struct spf_answers *answers); /* NULL is fine */
size_t spf_answers_count(const struct spf_answers *answers);

enum spf_status {
    SPF_FOUND, /* records; none of them is the same as SPF_VOID */
    SPF_VOID,  /* the name does not exist, or has no such record, or cannot be asked for */
    SPF_ERROR, /* no answer: SERVFAIL, timeout and the like */
};

struct spf_record {
    struct span text; /* TXT: its strings joined without blanks (section 3.3). MX, PTR: the host,
                         as in struct spf_question; empty = the root */
    struct ip ip;     /* A, AAAA */
};

/* Add what the question (type, name) led to, CNAMEs followed. Everything is copied; what is beyond
 * the limits above is left out. A question answered already keeps its answer. */
void spf_answers_add(struct spf_answers *answers, enum spf_type type, const char *name,
                     enum spf_status status, uint32_t ttl_s, const struct spf_record *records,
                     size_t n_records);

/*
 * check_host(). True when it is decided: ret->result and what belongs to it are set. False: the
 * questions are. Asks at most a few hundred questions until it is decided, whatever is answered.
 */
bool spf_check(const struct spf_query *query, const struct spf_answers *answers,
               struct spf_verdict *ret);
