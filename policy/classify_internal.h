/*
 * classify_internal - what the classify*.c files share; nobody else includes this.
 */
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8

#include <pcre2.h>

#include "policy/classify.h"

#define CLASSIFY_MATCH_MAX 16384u /* octets of one regex */
#define CLASSIFY_LIST_MAX 32u     /* values in one list of codes, enhanced codes or hosts */
#define CLASSIFY_ANY -1
#define CLASSIFY_PIECES_MAX 65536u /* branches of all expressions */
#define CLASSIFY_LITERAL_MIN 3u    /* octets; what is shorter stands in nearly every text */
#define CLASSIFY_LITERAL_MAX 23u   /* octets of a literal that are compared */
#define CLASSIFY_LITERALS_MAX 24u  /* literals of which a branch needs one */

/* "55x": from 550 to 559. */
struct code_range {
    int first, last;
};

/* "5.1.x". */
struct enh_pattern {
    struct code_range klass, subject, detail;
};

struct compiled_rule {
    char *name;
    enum reply_class klass;
    bool scope_ip;
    int action;         /* enum reply_action, or CLASSIFY_ANY: the class's own */
    pcre2_code *unless; /* NULL: no such condition */
    struct code_range codes[CLASSIFY_LIST_MAX];
    struct enh_pattern enhs[CLASSIFY_LIST_MAX];
    char *mx[CLASSIFY_LIST_MAX]; /* lower case, maybe with "*." in front */
    size_t n_codes, n_enhs, n_mx;
    unsigned stages; /* bits 1 << stage; 0: any */
};

/* One branch of a rule's `match`: the rule's text condition holds when one of its pieces matches.
 */
struct piece {
    const struct compiled_rule *rule;
    pcre2_code *match; /* NULL: a rule without one */
};

struct classify_index; /* opaque: which pieces a text may match */

struct classify_rules {
    struct compiled_rule **items;
    size_t n, cap;
    struct piece *pieces; /* in the order of the rules */
    size_t n_pieces, cap_pieces;
    uint64_t *always, *hits; /* a bit for each piece: tried on every text; tried on this one */
    struct classify_index *index;
    pcre2_match_data *match_data;
    pcre2_compile_context *compile; /* newline and time limits */
    pcre2_match_context *context;
    struct strbuf text; /* the words of the reply in hand */
};

/* The first rule whose conditions all hold, or NULL. `words` are normalised. */
const struct compiled_rule *
classify_rules_find(struct classify_rules *rules, const struct classify_reply *reply,
                    struct span words);

/* -- literals (classify_literals.c) ----------------------------------------------------------- */

/* A text in lower case that must stand in what a branch matches. */
struct classify_literal {
    char text[CLASSIFY_LITERAL_MAX];
    uint8_t n;
};

/* One branch, and `n` literals of which at least one is in every text that it matches; 0: none is
 * known. */
typedef void classify_branch_fn(struct span branch, const struct classify_literal *literals,
                                size_t n, void *arg);

/* Call `fn` for the branches of an expression that PCRE2 takes, in order: a text matches the
 * expression when it matches one of them. */
void classify_branches(struct span regex, classify_branch_fn *fn, void *arg);

/* -- index (classify_index.c) ----------------------------------------------------------------- */

struct classify_index *classify_index_new(void);
void classify_index_free(struct classify_index *index); /* NULL is fine */

/* Texts with this literal hit `piece`. */
void classify_index_add(struct classify_index *index, const struct classify_literal *literal,
                        uint32_t piece);

/* Set the bits of all pieces of which a literal is in `text` (its first CLASSIFY_TEXT_MAX octets).
 */
void classify_index_find(const struct classify_index *index, struct span text, uint64_t *hits);
