/*
 * config_node - a YAML file as a tree of text with marks; the only door to libyaml.
 *
 * Scalars stay text ("no" is Norway until an option of type boolean asks), mappings keep their
 * order. Refused: anchors, aliases, tags, merge keys, duplicate keys, more than one document, more
 * than CONFIG_DEPTH_MAX levels, NUL, control characters and text that is not UTF-8. JSON is YAML.
 */
#pragma once

#include "policy/base/mem.h"
#include "policy/base/span.h"
#include "policy/config.h"
#include "policy/config_load.h"

#include <stdbool.h>

#define CONFIG_DEPTH_MAX 32

enum config_node_kind { CONFIG_SCALAR, CONFIG_SEQUENCE, CONFIG_MAPPING };

struct config_node {
    enum config_node_kind kind;
    bool plain; /* scalar without quotes */
    struct config_mark mark;
    struct span key; /* of a mapping's child; empty otherwise */
    struct config_mark key_mark;
    struct span text;                        /* scalar; also a C string */
    struct config_node *first, *last, *next; /* children, and the next child of the same parent */
    size_t n_children;
};

/*
 * Parse one document. Nodes, text and `file` live in `arena`. Everything wrong is added to
 * `problems`. Returns NULL when there is no usable tree (an empty file is an empty mapping).
 */
struct config_node *config_parse(struct arena *arena, const char *file, struct span text,
                                 struct config_problems *problems);

/* The mapping's child with that key, or NULL; also NULL when `node` is NULL or no mapping. */
struct config_node *config_node_get(const struct config_node *node, const char *key);

/* An empty plain scalar ("key:" and nothing behind it). */
bool config_node_is_empty(const struct config_node *node);
/* "a list", "a mapping", "text": for messages. */
const char *config_node_kind_name(const struct config_node *node);

/* Add one problem; `path` may be "". */
void config_problem_add(struct config_problems *problems, enum config_severity severity,
                        struct config_mark mark, const char *path, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
