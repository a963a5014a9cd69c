/*
 * The walk: the tree of nodes along the schema table into struct config.
 *
 *   config_include.c   files -> one tree            config_parse.c, a source
 *   here               tree -> fields               config_schema.c, config_set*.c
 *   config_read.c      the files that fields name   secrets, certificates
 *   config_derive.c    what follows from the fields
 *   route_index.c      domains of all rules, their files read
 *   config_check*.c    what no single option can know
 *
 * Every step reports what it finds and the next still runs, so that one run shows all problems.
 */
#include "policy/config_build.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/route_index.h"

#define SCHEMA_PATH_MAX 128

static void walk_section(struct builder *b, const struct config_node *node, const char *schema_path,
                         const char *path, void *base);

/* All defaults of the struct that begins at `schema_path`, sections inside it included. */
static void
set_defaults(struct builder *b, const char *schema_path, void *base)
{
    size_t n = strlen(schema_path);
    for (size_t i = 0; i < config_schema_n; i++) {
        const struct option *option = &config_schema[i];
        const char *rest = option->path;
        if (n > 0) {
            if (strncmp(rest, schema_path, n) != 0 || rest[n] != '.')
                continue;
            rest += n + 1;
        }
        bool own = strstr(rest, "[]") == NULL && strchr(rest, '*') == NULL;
        if (own && option->type > OPT_INCLUDE)
            config_set_default(b, option, base);
    }
}

static const char *
join_path(struct builder *b, const char *parent, struct span key)
{
    return arena_printf(b->arena, "%s%s%.*s", parent, parent[0] == '\0' ? "" : ".",
                        (int)(key.n < 80 ? key.n : 80), key.p);
}

static void
report_unknown(struct builder *b, const struct config_node *node, const char *schema_path,
               const char *path)
{
    const char *siblings[64] = {NULL};
    const char *elsewhere = NULL;
    size_t n = 0;
    for (size_t i = 0; i < config_schema_n; i++) {
        const struct option *option = &config_schema[i];
        if (config_schema_is_child(option, schema_path) && n < N_ELEMENTS(siblings))
            siblings[n++] = config_schema_leaf(option);
        else if (span_eq(node->key, span_str(config_schema_leaf(option))))
            elsewhere = option->path;
    }
    const char *near = config_suggest(node->key, siblings, n);
    if (near == NULL && elsewhere != NULL)
        CONFIG_FAULT(b, node->key_mark, path, "unknown key; did you mean %s?", elsewhere);
    else if (near != NULL)
        CONFIG_FAULT(b, node->key_mark, path, "unknown key; did you mean \"%s\"?", near);
    else
        CONFIG_FAULT(b, node->key_mark, path,
                     "unknown key, expected one of those in relayd.yaml(5)");
}

/* The elements' array goes into the struct around the list; the marks come first in each. */
static char *
make_elements(const struct option *option, struct builder *b, size_t n, char *base)
{
    char *elements = arena_alloc(b->arena, n * option->size);
    memcpy(base + option->at, &elements, sizeof(elements));
    memcpy(base + option->at_n, &n, sizeof(n));
    return elements;
}

static bool
count_fits(struct builder *b, const struct option *option, const struct config_node *node,
           const char *path)
{
    if (option->max == 0 || node->n_children <= option->max)
        return true;
    CONFIG_FAULT(b, node->mark, path, "%zu entries, expected at most %zu", node->n_children,
                 (size_t)option->max);
    return false;
}

static void
walk_element(struct builder *b, const struct config_node *node, const char *schema_path,
             const char *path, char *element)
{
    memcpy(element, &node->mark, sizeof(node->mark));
    set_defaults(b, schema_path, element);
    walk_section(b, node, schema_path, path, element);
}

static void
walk_list(struct builder *b, const struct option *option, const struct config_node *node,
          const char *path, char *base)
{
    if (config_node_is_empty(node))
        return; /* every entry is commented out */
    if (node->kind != CONFIG_SEQUENCE) {
        CONFIG_FAULT(b, node->mark, path, "%s stands here, expected a list of mappings",
                     config_node_kind_name(node));
        return;
    }
    if (!count_fits(b, option, node, path))
        return;
    char schema_path[SCHEMA_PATH_MAX];
    snprintf(schema_path, sizeof(schema_path), "%s[]", option->path);
    char *element = make_elements(option, b, node->n_children, base);
    size_t i = 0;
    for (const struct config_node *child = node->first; child != NULL; child = child->next, i++) {
        walk_element(b, child, schema_path, arena_printf(b->arena, "%s[%zu]", path, i), element);
        element += option->size;
    }
}

static bool
is_table_name(struct span name)
{
    bool fine = name.n > 0 && name.n <= 32;
    for (size_t i = 0; i < name.n; i++)
        fine = fine && ((name.p[i] >= 'a' && name.p[i] <= 'z') || ascii_digit(name.p[i]) ||
                        (name.p[i] == '-' && i > 0));
    return fine && !span_eq(name, SPAN(CONFIG_DIRECT));
}

static void
walk_table(struct builder *b, const struct option *option, const struct config_node *node,
           const char *path, char *base)
{
    if (config_node_is_empty(node))
        return;
    if (node->kind != CONFIG_MAPPING) {
        CONFIG_FAULT(b, node->mark, path, "%s stands here, expected names with a mapping each",
                     config_node_kind_name(node));
        return;
    }
    if (!count_fits(b, option, node, path))
        return;
    char schema_path[SCHEMA_PATH_MAX];
    snprintf(schema_path, sizeof(schema_path), "%s.*", option->path);
    char *element = make_elements(option, b, node->n_children, base);
    for (const struct config_node *child = node->first; child != NULL; child = child->next) {
        const char *name = arena_strndup(b->arena, child->key.p, child->key.n);
        const char *child_path = join_path(b, path, child->key);
        if (!is_table_name(child->key))
            CONFIG_FAULT(b, child->key_mark, child_path,
                         "no usable name, expected up to 32 of a-z, 0-9 and -, and not \"direct\"");
        memcpy(element + option->at_extra, &name, sizeof(name));
        walk_element(b, child, schema_path, child_path, element);
        memcpy(element, &child->key_mark, sizeof(child->key_mark));
        element += option->size;
    }
}

static void
walk_option(struct builder *b, const struct option *option, const struct config_node *node,
            const char *path, void *base)
{
    switch (option->type) {
    case OPT_INCLUDE:
        return;
    case OPT_SECTION:
        walk_section(b, node, option->path, path, base);
        break;
    case OPT_SECTIONS:
        walk_list(b, option, node, path, base);
        break;
    case OPT_TABLE:
        walk_table(b, option, node, path, base);
        break;
    default:
        config_set(b, option, node, base, path);
        break;
    }
}

static void
check_required(struct builder *b, const struct config_node *node, const char *schema_path,
               const char *path)
{
    for (size_t i = 0; i < config_schema_n; i++) {
        const struct option *option = &config_schema[i];
        const char *leaf = config_schema_leaf(option);
        if (option->required && config_schema_is_child(option, schema_path) &&
            config_node_get(node, leaf) == NULL)
            CONFIG_FAULT(b, node->mark, join_path(b, path, span_str(leaf)),
                         "is missing, expected %s%s%s",
                         option->type == OPT_SECTION ? "a section" : "a value",
                         option->example == NULL ? "" : " such as ",
                         option->example == NULL ? "" : option->example);
    }
}

/* The row for a key in a section. Dots, "[]" and "*" belong to the table's paths, not to keys. */
static const struct option *
find_option(const char *schema_path, struct span key)
{
    char path[SCHEMA_PATH_MAX];
    for (size_t i = 0; i < key.n; i++)
        if (strchr(".[]*", key.p[i]) != NULL)
            return NULL;
    int n = snprintf(path, sizeof(path), "%s%s%.*s", schema_path, schema_path[0] == '\0' ? "" : ".",
                     SPAN_ARG(key));
    return n < 0 || (size_t)n >= sizeof(path) ? NULL : config_schema_find(path);
}

static void
walk_section(struct builder *b, const struct config_node *node, const char *schema_path,
             const char *path, void *base)
{
    if (node->kind != CONFIG_MAPPING && !config_node_is_empty(node)) {
        CONFIG_FAULT(b, node->mark, path, "%s stands here, expected a mapping (key: value)",
                     config_node_kind_name(node));
        return;
    }
    for (const struct config_node *child = node->first; child != NULL; child = child->next) {
        const char *child_path = join_path(b, path, child->key);
        const struct option *option = find_option(schema_path, child->key);
        if (option == NULL)
            report_unknown(b, child, schema_path, child_path);
        else
            walk_option(b, option, child, child_path, base);
    }
    check_required(b, node, schema_path, path);
}

const struct config_node *
config_given(const struct builder *b, const char *section, const char *key)
{
    const struct config_node *node = config_node_get(b->root, section);
    return key == NULL ? node : config_node_get(node, key);
}

struct problem_order {
    size_t file;
    struct config_problem problem;
    size_t no;
};

static int
compare_problems(const void *va, const void *vb)
{
    const struct problem_order *a = va, *b = vb;
    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    if (a->problem.mark.line != b->problem.mark.line)
        return a->problem.mark.line < b->problem.mark.line ? -1 : 1;
    if (a->problem.mark.col != b->problem.mark.col)
        return a->problem.mark.col < b->problem.mark.col ? -1 : 1;
    return a->no < b->no ? -1 : a->no > b->no;
}

/* In the order in which somebody would fix them: by file as read, then from top to bottom. */
static void
sort_problems(const struct builder *b, size_t first)
{
    size_t n = b->problems->n - first;
    struct problem_order *order = xcalloc(n, sizeof(*order));
    for (size_t i = 0; i < n; i++) {
        order[i].problem = b->problems->items[first + i];
        order[i].no = i;
        while (order[i].file < b->n_files &&
               strcmp(b->files[order[i].file], order[i].problem.mark.file) != 0)
            order[i].file++;
    }
    qsort(order, n, sizeof(*order), compare_problems);
    for (size_t i = 0; i < n; i++)
        b->problems->items[first + i] = order[i].problem;
    free(order);
}

static void
build(struct builder *b, const char *path)
{
    if (!config_read_tree(b, path))
        return;
    b->config->root = b->root;
    config_name_routes(b);
    set_defaults(b, "", b->config);
    walk_section(b, b->root, "", "", b->config);
    config_derive(b);
    config_read_files(b);
    b->config->index = route_index_build(b);
    config_check(b);
}

enum err_code
config_load(const char *path, const struct config_source *source, unsigned flags,
            struct config **ret, struct config_problems *problems)
{
    struct arena *arena = arena_new();
    struct builder b = {
        .arena = arena,
        .config = arena_alloc(arena, sizeof(struct config)),
        .source = source == NULL ? config_files_source() : source,
        .flags = flags,
        .problems = problems,
        .defaults = arena_alloc(arena, config_schema_n * sizeof(struct config_node *)),
    };
    b.pending_tail = &b.pending;
    b.config->arena = arena;
    b.config->file = arena_strdup(arena, path);
    size_t first = problems->n, n_errors = problems->n_errors;

    build(&b, path);
    sort_problems(&b, first);
    if (problems->n_errors > n_errors) {
        config_free(b.config);
        return ERR_INVAL;
    }
    *ret = b.config;
    return ERR_OK;
}
