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
    int action;                 /* enum reply_action, or CLASSIFY_ANY: the class's own */
    pcre2_code *match, *unless; /* NULL: no such condition */
    struct code_range codes[CLASSIFY_LIST_MAX];
    struct enh_pattern enhs[CLASSIFY_LIST_MAX];
    char *mx[CLASSIFY_LIST_MAX]; /* lower case, maybe with "*." in front */
    size_t n_codes, n_enhs, n_mx;
    unsigned stages; /* bits 1 << stage; 0: any */
};

struct classify_rules {
    struct compiled_rule **items;
    size_t n, cap;
    pcre2_match_data *match_data;
    pcre2_compile_context *compile; /* newline and time limits */
    pcre2_match_context *context;
    struct strbuf text; /* the words of the reply in hand */
};

/* The first rule whose conditions all hold, or NULL. `words` are normalised. */
const struct compiled_rule *
classify_rules_find(struct classify_rules *rules, const struct classify_reply *reply,
                    struct span words);
