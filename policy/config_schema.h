/*
 * config_schema - the table of all options: one row is the whole definition of an option.
 *
 * The loader, the messages, the manual relayd.yaml(5) and the test of etc/relayd.yaml all read this
 * table. A new option is a row here, a field in config.h, its use, and a test.
 */
#pragma once

#include "policy/base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* What an option holds. The field's C type is fixed by it; see config_set.c. */
enum option_type {
    /* Structure. A section's fields lie in the struct around it; a list or table has its own. */
    OPT_SECTION,  /* mapping with fixed keys */
    OPT_SECTIONS, /* list of mappings: pointer at `at`, size_t at `at_n`, elements of `size` */
    OPT_TABLE,    /* mapping from names to mappings: the same; the name goes to `at_extra` */
    OPT_INCLUDE,  /* handled before the walk */
    /* One value. */
    OPT_TEXT,     /* const char * */
    OPT_NAME,     /* const char *: [a-z0-9-] */
    OPT_DOMAIN,   /* const char *, canonical */
    OPT_SELECTOR, /* const char *: DKIM selector */
    OPT_MAILBOX,  /* const char *: local@domain, domain canonical */
    OPT_BOOL,     /* bool */
    OPT_TRUE,     /* bool: true is the only sensible value */
    OPT_NUMBER,   /* uint32_t, within min..max */
    OPT_PORT,     /* uint16_t */
    OPT_SIZE,     /* uint64_t, bytes within min..max */
    OPT_DURATION, /* msec_t within min..max */
    OPT_RATE,     /* struct rate */
    OPT_PERCENT,  /* unsigned */
    OPT_WORD,     /* an enum: the index in `words` */
    OPT_PATH,     /* const char *, resolved */
    OPT_FILE,     /* the same, and it must be readable */
    OPT_SECRET,   /* struct config_secret */
    OPT_LISTEN,   /* const char * at `at`, struct ip at `at_n`, uint16_t at `at_extra` */
    OPT_ENDPOINT, /* host[:port] of a struct hop */
    OPT_IP4,      /* struct ip */
    OPT_IP6,      /* struct ip */
    OPT_PIN,      /* struct config_pin */
    OPT_REPLY,    /* const char *: "5xx 5.x.y text" */
    OPT_LOG_TARGET,
    OPT_ROUTE, /* unsigned: index in config.routes */
    /* Lists: pointer at `at`, size_t at `at_n`, min..max elements. */
    OPT_DURATIONS, /* msec_t */
    OPT_PORTS,     /* uint16_t */
    OPT_CIDRS,     /* struct cidr; one alone may stand without a list */
    OPT_DOMAINS,   /* const char * */
    OPT_PATTERNS,  /* struct domain_pattern */
    OPT_ADDRESSES, /* struct address_pattern */
    OPT_COUNTRIES, /* const char * */
    OPT_SERVERS,   /* struct config_server */
    OPT_WORDS,     /* an enum */
    OPT_FLAGS,     /* bools, one a word, from `at` on; no count */
    OPT_ROUTES,    /* unsigned */
    OPT_FENCES,    /* route_mask at `at`, no count */
    OPT_NODES,     /* const struct config_node *: kept as it stands */
};

#define OPTION_NO_FIELD ((size_t)-1) /* `at` of an option that only its presence counts for */

struct option {
    const char *path; /* "limits.sessions", "listeners[].tls", "hops.*.tls" */
    enum option_type type;
    const char *value;        /* default, as YAML; NULL: none */
    const char *example;      /* for the manual and messages; NULL: the default is one */
    const char *doc;          /* one line */
    const char *const *words; /* of OPT_WORD, OPT_WORDS, OPT_FLAGS; ends with NULL */
    uint64_t min, max;        /* both 0: the type's own range */
    size_t at, at_n, at_extra, size;
    bool required;
};

extern const struct option config_schema[];
extern const size_t config_schema_n;

/* The row of that path, or NULL. */
const struct option *config_schema_find(const char *path);
/* The last part of a path: "tls" of "listeners[].tls". */
const char *config_schema_leaf(const struct option *option);
/* Is this row directly inside the section `parent` ("" for the top)? */
bool config_schema_is_child(const struct option *option, const char *parent);
/* The value's form in words: "a duration from 1s to 1h", "one of off, starttls, implicit". Writes
 * at most n bytes and returns buf. */
char *config_schema_form(const struct option *option, char *buf, size_t n);

/* Print relayd.yaml(5) in roff, rendered from the table. */
void config_schema_print_man(FILE *out);
