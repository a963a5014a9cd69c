/*
 * classify_yaml.c - rules from YAML nodes (config_node.h is the door to libyaml), and the built-in
 * file.
 */
#include "policy/classify_internal.h"

#include "policy/base/mem.h"
#include "policy/config_node.h"

/* etc/replies.yaml as it was at compile time; the assembler looks for it along -I. */
__asm__(".pushsection .rodata\n"
        ".hidden classify_builtin_start, classify_builtin_end\n"
        ".globl classify_builtin_start, classify_builtin_end\n"
        "classify_builtin_start: .incbin \"etc/replies.yaml\"\n"
        "classify_builtin_end: .byte 0\n"
        ".popsection\n");
extern const char classify_builtin_start[] __attribute__((visibility("hidden")));
extern const char classify_builtin_end[] __attribute__((visibility("hidden")));

struct span
classify_builtin_text(void)
{
    return span_of(classify_builtin_start, (size_t)(classify_builtin_end - classify_builtin_start));
}

/* Text of a rule; the lists among them own memory in the arena. */
struct reader {
    struct arena *arena;
    struct config_problems *problems;
    const char *path;
    unsigned no; /* of the rule, from 0 */
    bool failed;
};

static void
problem(struct reader *r, const struct config_node *node, const char *key, const char *text)
{
    CLEANUP(freep)
    char *path = xasprintf("%s[%u]%s%s", r->path, r->no, key[0] == '\0' ? "" : ".", key);
    config_problem_add(r->problems, CONFIG_ERROR, node->mark, path, "%s", text);
    r->failed = true;
}

/* A scalar, or a list of scalars joined by `separator`; each of them between `open` and `close`. */
static struct span
joined(struct reader *r, const struct config_node *node, const char *key, const char *separator,
       const char *open, const char *close)
{
    if (node->kind == CONFIG_SCALAR)
        return node->text;
    char *text = arena_strdup(r->arena, "");
    if (node->kind == CONFIG_MAPPING)
        problem(r, node, key, "expected text or a list of texts");
    for (const struct config_node *item = node->first; item != NULL; item = item->next) {
        if (item->kind != CONFIG_SCALAR) {
            problem(r, item, key, "expected text");
            return SPAN_NONE;
        }
        text = arena_printf(r->arena, "%s%s%s%.*s%s", text, text[0] == '\0' ? "" : separator, open,
                            SPAN_ARG(item->text), close);
    }
    return span_str(text);
}

static void
rule_read(struct reader *r, const struct config_node *node, struct classify_rule *ret)
{
    static const struct {
        const char *key;
        size_t offset;
        bool is_list, is_regex;
    } keys[] = {
        {"name", offsetof(struct classify_rule, name), false, false},
        {"class", offsetof(struct classify_rule, klass), false, false},
        {"action", offsetof(struct classify_rule, action), false, false},
        {"scope", offsetof(struct classify_rule, scope), false, false},
        {"match", offsetof(struct classify_rule, match), true, true},
        {"unless", offsetof(struct classify_rule, unless), true, true},
        {"code", offsetof(struct classify_rule, code), true, false},
        {"enhanced", offsetof(struct classify_rule, enhanced), true, false},
        {"stage", offsetof(struct classify_rule, stage), true, false},
        {"mx", offsetof(struct classify_rule, mx), true, false},
    };
    for (const struct config_node *child = node->first; child != NULL; child = child->next) {
        size_t i = 0;
        while (i < N_ELEMENTS(keys) && !span_eq(child->key, span_str(keys[i].key)))
            i++;
        if (i == N_ELEMENTS(keys)) {
            problem(
                r, child, "",
                "unknown key, expected name, class, action, scope, match, unless, code, enhanced, "
                "stage or mx");
            continue;
        }
        if (child->kind != CONFIG_SCALAR && !keys[i].is_list) {
            problem(r, child, keys[i].key, "expected text");
            continue;
        }
        struct span value = keys[i].is_regex ? joined(r, child, keys[i].key, "|", "(?:", ")")
                                             : joined(r, child, keys[i].key, " ", "", "");
        memcpy((char *)ret + keys[i].offset, &value, sizeof(value));
    }
}

static bool
add_list(struct classify_rules *rules, const struct config_node *list, const char *path,
         struct config_problems *problems, struct arena *arena)
{
    struct reader r = {.arena = arena, .problems = problems, .path = path};
    struct err err;
    if (list->kind != CONFIG_SEQUENCE) {
        if (config_node_is_empty(list))
            return true;
        config_problem_add(problems, CONFIG_ERROR, list->mark, path, "expected a list of rules");
        return false;
    }
    for (const struct config_node *node = list->first; node != NULL; node = node->next, r.no++) {
        struct classify_rule rule = {.name = SPAN_NONE};
        if (node->kind != CONFIG_MAPPING) {
            problem(&r, node, "", "expected a rule: a mapping with name, class and conditions");
            continue;
        }
        bool failed_before = r.failed;
        r.failed = false;
        rule_read(&r, node, &rule);
        if (!r.failed && classify_rules_add(rules, &rule, &err) != ERR_OK)
            problem(&r, node, "", err.text);
        r.failed |= failed_before;
    }
    return !r.failed;
}

bool
classify_rules_add_node(struct classify_rules *rules, const struct config_node *list,
                        const char *path, struct config_problems *problems)
{
    struct arena *arena = arena_new();
    bool fine = add_list(rules, list, path, problems, arena);
    arena_free(arena);
    return fine;
}

bool
classify_rules_parse(struct classify_rules *rules, struct span yaml, const char *file,
                     struct config_problems *problems)
{
    struct arena *arena = arena_new();
    size_t n_errors = problems->n_errors;
    const struct config_node *root = config_parse(arena, file, yaml, problems);
    const struct config_node *list = config_node_get(root, "rules");
    bool fine = false;
    if (root != NULL && (list == NULL || root->n_children != 1))
        config_problem_add(problems, CONFIG_ERROR, root->mark, "",
                           "expected `rules:` with a list, and nothing else");
    else if (root != NULL)
        fine = add_list(rules, list, "rules", problems, arena);
    arena_free(arena);
    return fine && problems->n_errors == n_errors;
}
