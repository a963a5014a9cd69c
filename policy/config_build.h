/*
 * config_build - what the files that build a configuration share (config_load.c, config_set.c,
 * config_read.c, config_derive.c, config_check.c, config_container.c). Nobody else includes it.
 */
#pragma once

#include "policy/base/mem.h"
#include "policy/config.h"
#include "policy/config_load.h"
#include "policy/config_node.h"
#include "policy/config_schema.h"

/* A file to read once everything is known that its messages need (the user). */
struct pending_file {
    struct pending_file *next;
    const struct option *option;
    const struct config_node *node;
    const char *path;             /* of the option, for messages */
    const char *file;             /* resolved */
    struct config_secret *secret; /* where a secret's bytes go; NULL: it only must be readable */
};

struct builder {
    struct arena *arena; /* config->arena */
    struct config *config;
    const struct config_source *source;
    unsigned flags;
    struct config_problems *problems;
    const char *files[CONFIG_FILES_MAX]; /* in the order they were read */
    size_t n_files;
    struct config_node *root;
    struct config_node **defaults; /* one a row of the schema, parsed when first needed */
    struct pending_file *pending, **pending_tail;
};

#define CONFIG_FAULT(b, mark, path, ...) \
    config_problem_add((b)->problems, CONFIG_ERROR, mark, path, __VA_ARGS__)
#define CONFIG_WARN(b, mark, path, ...) \
    config_problem_add((b)->problems, CONFIG_WARNING, mark, path, __VA_ARGS__)

/* config_set.c: turn `node` into the value of `option` in the struct at `base`. */
void config_set(struct builder *b, const struct option *option, const struct config_node *node,
                void *base, const char *path);
/* The default, or "" and nothing for an option without one. */
void config_set_default(struct builder *b, const struct option *option, void *base);
/* A path as it stands in `mark`'s file, made relative to that file's directory. */
const char *config_resolve(struct builder *b, struct config_mark mark, struct span text);

/* The candidate that `word` is probably a misspelling of, or NULL. */
const char *config_suggest(struct span word, const char *const *candidates, size_t n);

/* config_include.c: read the main file and all it includes into b->root; false when there is no
 * usable tree. */
bool config_read_tree(struct builder *b, const char *path);

/* config_read.c: the files that options name; then what was in them. */
void config_read_files(struct builder *b);
/* config_derive.c: routes, default listeners, rules, inherited values. */
void config_name_routes(struct builder *b); /* before the walk: names only */
void config_derive(struct builder *b);
/* config_check.c: what no single option can know. */
void config_check(struct builder *b);
void config_check_rules(struct builder *b); /* config_check_rules.c */
void config_check_map(struct builder *b);   /* config_check_map.c: after all faults */
/* config_container.c: trusted blocks that hold the default gateway of a container. */
void config_check_gateway(struct builder *b);

/* The node of an option given in the file, by keys from the top ("tls", "certificate_file"). */
const struct config_node *
config_given(const struct builder *b, const char *section, const char *key);
