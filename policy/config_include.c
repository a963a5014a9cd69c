/*
 * Files into one tree: the main file, then what its `include` names, depth first. Sections are
 * joined key by key, lists end to end; nodes keep the mark of the file they came from, so messages
 * and relative paths stay right. Called by config_load.c before anything is interpreted.
 */
#include "policy/config_build.h"

#include <assert.h>
#include <stdlib.h>

#define INCLUDE_DEPTH_MAX 8

struct include {
    struct builder *b;
    const struct config_node *by; /* the entry of `include`; NULL for the main file */
    unsigned depth;
    size_t n_found;
};

static void include_all(struct builder *b, const struct config_node *include, unsigned depth);

static void
cut_child(struct config_node *parent, struct config_node *child)
{
    struct config_node *before = NULL, *at = parent->first;
    while (at != child) {
        before = at;
        at = at->next;
    }
    if (before == NULL)
        parent->first = child->next;
    else
        before->next = child->next;
    if (parent->last == child)
        parent->last = before;
    parent->n_children--;
    child->next = NULL;
}

static void
append_child(struct config_node *parent, struct config_node *child)
{
    child->next = NULL;
    if (parent->last == NULL)
        parent->first = child;
    else
        parent->last->next = child;
    parent->last = child;
    parent->n_children++;
}

static void
report_twice(struct builder *b, const struct config_node *node, const struct config_node *old,
             const char *section)
{
    CONFIG_FAULT(b, node->key_mark, section, "key \"%.*s\" is set in two files, first at %s:%u",
                 (int)(node->key.n < 80 ? node->key.n : 80), node->key.p, old->key_mark.file,
                 old->key_mark.line);
}

/* Move all children of `from` to `into`; both are sections of the same name. */
static void
join_sections(struct builder *b, struct config_node *into, struct config_node *from)
{
    for (struct config_node *child = from->first, *next; child != NULL; child = next) {
        next = child->next;
        char *key = arena_strndup(b->arena, child->key.p, child->key.n);
        const struct config_node *old = config_node_get(into, key);
        if (old != NULL)
            report_twice(b, child, old, arena_printf(b->arena, "%.*s", SPAN_ARG(into->key)));
        else
            append_child(into, child);
    }
}

/* Move the top-level keys of a further file into the tree. */
static void
join_roots(struct builder *b, struct config_node *into, struct config_node *from)
{
    for (struct config_node *child = from->first, *next; child != NULL; child = next) {
        next = child->next;
        char *key = arena_strndup(b->arena, child->key.p, child->key.n);
        struct config_node *old = config_node_get(into, key);
        if (old == NULL) {
            append_child(into, child);
        } else if (old->kind == CONFIG_MAPPING && child->kind == CONFIG_MAPPING) {
            join_sections(b, old, child);
        } else if (old->kind == CONFIG_SEQUENCE && child->kind == CONFIG_SEQUENCE) {
            for (struct config_node *item = child->first, *after; item != NULL; item = after) {
                after = item->next;
                append_child(old, item);
            }
        } else {
            report_twice(b, child, old, "");
        }
    }
}

static void
report_unreadable(struct builder *b, const struct include *inc, const char *path,
                  enum err_code code, const struct err *err)
{
    const char *user = b->source->user;
    struct config_mark mark = inc->by == NULL ? (struct config_mark){path, 1, 1} : inc->by->mark;
    const char *option = inc->by == NULL ? "" : "include";
    if (code == ERR_PERM)
        CONFIG_FAULT(b, mark, option, "%s: %s; make it readable: chown %s %s", path, err->text,
                     user == NULL ? "relayd" : user, path);
    else
        CONFIG_FAULT(b, mark, option, "%s: %s", path, err->text);
}

/* Read and parse one file; NULL when that did not work (reported). */
static struct config_node *
read_yaml(struct builder *b, const struct include *inc, const char *path)
{
    struct config_blob blob;
    struct err err;
    enum err_code code = b->source->read(b->source->ctx, path, CONFIG_FILE_MAX, &blob, &err);
    if (code != ERR_OK) {
        report_unreadable(b, inc, path, code, &err);
        return NULL;
    }
    const char *file = arena_strdup(b->arena, path);
    b->files[b->n_files++] = file;
    struct config_node *root =
        config_parse(b->arena, file, span_of(blob.bytes, blob.n), b->problems);
    free(blob.bytes);
    if (root != NULL && root->kind != CONFIG_MAPPING) {
        CONFIG_FAULT(b, root->mark, "",
                     "%s stands here, expected a mapping with keys such as node:",
                     config_node_kind_name(root));
        return NULL;
    }
    return root;
}

/* Cut the `include` list out of a file's tree; NULL when there is none. */
static const struct config_node *
take_include(struct config_node *root)
{
    struct config_node *include = config_node_get(root, "include");
    if (include != NULL)
        cut_child(root, include);
    return include;
}

static void
on_found(void *arg, const char *path)
{
    struct include *inc = arg;
    struct builder *b = inc->b;
    inc->n_found++;
    for (size_t i = 0; i < b->n_files; i++) {
        if (strcmp(b->files[i], path) == 0) {
            CONFIG_FAULT(b, inc->by->mark, "include", "%s is read twice", path);
            return;
        }
    }
    if (b->n_files == CONFIG_FILES_MAX) {
        CONFIG_FAULT(b, inc->by->mark, "include", "%s: more than %d files", path, CONFIG_FILES_MAX);
        return;
    }
    struct config_node *root = read_yaml(b, inc, path);
    if (root == NULL)
        return;
    const struct config_node *include = take_include(root);
    join_roots(b, b->root, root);
    if (include != NULL)
        include_all(b, include, inc->depth + 1);
}

static void
include_one(struct builder *b, const struct config_node *entry, unsigned depth)
{
    if (entry->kind != CONFIG_SCALAR || entry->text.n == 0) {
        CONFIG_FAULT(b, entry->mark, "include", "%s stands here, expected a file name or pattern",
                     config_node_kind_name(entry));
        return;
    }
    struct include inc = {.b = b, .by = entry, .depth = depth};
    const char *pattern = config_resolve(b, entry->mark, entry->text);
    if (strpbrk(pattern, "*?[") == NULL) {
        on_found(&inc, pattern);
        return;
    }
    struct err err;
    if (b->source->glob(b->source->ctx, pattern, on_found, &inc, &err) != ERR_OK)
        CONFIG_FAULT(b, entry->mark, "include", "%s: %s", pattern, err.text);
}

static void
include_all(struct builder *b, const struct config_node *include, unsigned depth)
{
    if (include->kind != CONFIG_SEQUENCE) {
        CONFIG_FAULT(b, include->mark, "include",
                     "%s stands here, expected a list, such as [routes.d/*.yaml]",
                     config_node_kind_name(include));
        return;
    }
    if (depth > INCLUDE_DEPTH_MAX) {
        CONFIG_FAULT(b, include->mark, "include", "files include each other more than %d deep",
                     INCLUDE_DEPTH_MAX);
        return;
    }
    for (const struct config_node *entry = include->first; entry != NULL; entry = entry->next)
        include_one(b, entry, depth);
}

static bool
is_default_rule(const struct config_node *rule)
{
    return config_node_get(rule, "default") != NULL;
}

/*
 * The rules of other files go before the default rule: it stands for "what no rule matches", and
 * included rules would never be asked otherwise. Rules behind it in its own file stay there.
 */
static void
settle_default_rule(struct config_node *map)
{
    if (map == NULL || map->kind != CONFIG_SEQUENCE)
        return;
    struct config_node *default_rule = map->first;
    while (default_rule != NULL && !is_default_rule(default_rule))
        default_rule = default_rule->next;
    if (default_rule == NULL)
        return;
    struct config_node *child = map->first;
    struct config_node before = {.kind = CONFIG_SEQUENCE}, after = {.kind = CONFIG_SEQUENCE};
    bool seen = false;
    for (struct config_node *next; child != NULL; child = next) {
        next = child->next;
        seen = seen || child == default_rule;
        bool same_file = strcmp(child->mark.file, default_rule->mark.file) == 0;
        append_child(seen && same_file ? &after : &before, child);
    }
    map->first = map->last = NULL;
    map->n_children = 0;
    struct config_node *const parts[] = {before.first, after.first};
    for (size_t i = 0; i < N_ELEMENTS(parts); i++) {
        for (struct config_node *part = parts[i], *next; part != NULL; part = next) {
            next = part->next;
            append_child(map, part);
        }
    }
}

bool
config_read_tree(struct builder *b, const char *path)
{
    struct include main_file = {.b = b};
    b->root = read_yaml(b, &main_file, path);
    if (b->root == NULL)
        return false;
    const struct config_node *include = take_include(b->root);
    if (include != NULL)
        include_all(b, include, 1);
    settle_default_rule(config_node_get(b->root, "transport_map"));
    return true;
}
