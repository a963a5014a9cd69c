/*
 * learn_internal - what the files of learn share.
 *
 *   learn.c        the rules: advice and results        learn_table.c  rows by name, by time, by
 * site learn_count.c  failed paths, reroutes of a pair     learn_row.c    rows as bytes
 */
#pragma once

#include "policy/learn.h"

/* Of an entry in the table. */
struct learn_row {
    struct learn_entry e;
    size_t heap_at;
    struct learn_row *of_site, **of_site_prev; /* domains of one site that avoid the same route */
    struct {
        uint64_t id, no; /* who probes; id 0: nobody */
        msec_t at;       /* since when */
    } slot;
    size_t key_bytes;
    char key[]; /* scope, route, NUL, name; then the label of a site */
};

/* The domains of one site that avoid one route. */
struct learn_group {
    struct learn_row *first;
    size_t key_bytes;
    char key[]; /* the site's hash, route */
};

/* Failed paths of a site, and moves between two routes (learn_count.c). */
struct learn_counter;

struct learn {
    struct config_learning config;
    void (*changed)(void *arg, enum learn_change change, const struct learn_entry *e);
    void *arg;
    struct map rows, groups;
    struct learn_row **heap; /* the row whose time ends first is on top */
    size_t n, heap_cap;
    struct map counters;
    struct learn_counter *newest, *oldest; /* by their last failure */
    struct map pairs;
};

static inline bool
learn_span_fits(struct span s, size_t max)
{
    return s.n > 0 && s.n <= max && memchr(s.p, '\0', s.n) == NULL;
}

/* Which site, for entries of its domains and for keys of rows: the same in every run. Two sites
 * that strangers made collide are taken for one when domains have to agree, and no more. */
uint64_t learn_site_hash(struct span site);

/* ---- learn_table.c ---- */

/* NULL when there is none; `name` may be empty. */
struct learn_row *
learn_row_find(const struct learn *l, enum learn_scope scope, struct span name, struct span route);
/* Add a copy of `e`; puts out another one when the table is full. It is not there yet. NULL when
 * its names are beyond the limits. */
struct learn_row *learn_row_add(struct learn *l, const struct learn_entry *e);
/* Tell, and free. */
void learn_row_remove(struct learn *l, struct learn_row *row, enum learn_change why);
void learn_row_set_until(struct learn *l, struct learn_row *row, msec_t until_at);
void learn_row_set_site(struct learn *l, struct learn_row *row, uint64_t site_hash);
/* Is there another domain of this site where `route` is avoided at the moment? */
bool learn_row_agreed(const struct learn *l, uint64_t site_hash, struct span route,
                      struct span domain, msec_t now);
void learn_table_free(struct learn *l);

/* ---- learn_count.c ---- */

/* Count an attempt that failed on the path; true when they are enough, and then starts anew. */
bool learn_path_count(struct learn *l, struct span site, struct span route, msec_t now);
void learn_path_reset(struct learn *l, struct span site, struct span route);
void learn_counts_free(struct learn *l);

/* ---- learn_row.c ---- */

/* Copy at most LEARN_TEXT_MAX octets, without half a character at the end. */
void learn_put_text(char out[static LEARN_TEXT_MAX + 1], struct span text);
/* The class's static name; "other" for those of a newer program. */
const char *learn_class(struct span name);
