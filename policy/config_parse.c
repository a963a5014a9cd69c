/*
 * libyaml's event API, and what it lets pass: duplicate keys, aliases, several documents, depth
 * without end, positions of reader errors. The text is checked for UTF-8 and control characters
 * first, because libyaml reports those at 1:1. Called by config_load.c and by whoever else reads
 * YAML; no other file includes yaml.h.
 *
 * A frame for each open sequence or mapping; in a mapping scalars are key, value, key, value.
 */
#include "policy/config_node.h"

#include <assert.h>
#include <stdio.h>
#include <yaml.h>

#include "policy/base/map.h"
#include "policy/base/mem.h"

struct frame {
    struct config_node *node;
    struct map keys; /* of a mapping: key -> child, to find duplicates */
    struct span key; /* the key read last, when have_key */
    struct config_mark key_mark;
    bool have_key;
};

struct parser {
    struct arena *arena;
    const char *file;
    struct config_problems *problems;
    struct frame frames[CONFIG_DEPTH_MAX];
    size_t depth;
    struct config_node *root;
    unsigned n_documents;
    bool stop; /* the rest would only produce follow-up errors */
};

static struct config_mark
mark_of(const struct parser *p, yaml_mark_t mark)
{
    return (struct config_mark){p->file, (unsigned)mark.line + 1, (unsigned)mark.column + 1};
}

#define FAULT(p, mark, ...) config_problem_add((p)->problems, CONFIG_ERROR, mark, "", __VA_ARGS__)

/* Length of the UTF-8 sequence at p (1..4), 0 when it is not valid (RFC 3629). */
static size_t
utf8_length(const unsigned char *p, size_t n)
{
    static const struct {
        unsigned char low, high, second_low, second_high, length;
    } forms[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t f = 0; f < N_ELEMENTS(forms); f++) {
        if (p[0] < forms[f].low || p[0] > forms[f].high)
            continue;
        size_t length = forms[f].length;
        if (length > n ||
            (length > 1 && (p[1] < forms[f].second_low || p[1] > forms[f].second_high)))
            return 0;
        for (size_t i = 2; i < length; i++)
            if ((p[i] & 0xc0) != 0x80)
                return 0;
        return length;
    }
    return 0;
}

/* Report the first byte that may not stand in a configuration. */
static bool
check_bytes(struct parser *p, struct span text)
{
    struct config_mark at = {p->file, 1, 1};
    const unsigned char *bytes = (const unsigned char *)text.p;
    for (size_t i = 0; i < text.n;) {
        size_t length = utf8_length(bytes + i, text.n - i);
        unsigned char c = bytes[i];
        if (length == 0) {
            FAULT(p, at, "byte 0x%02x is not UTF-8, expected UTF-8 text", c);
            return false;
        }
        if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f) {
            FAULT(p, at, "control character 0x%02x, expected text", c);
            return false;
        }
        at.col++;
        if (c == '\n') {
            at.line++;
            at.col = 1;
        }
        i += length;
    }
    return true;
}

static struct config_node *
node_new(struct parser *p, enum config_node_kind kind, const yaml_event_t *event)
{
    struct config_node *node = arena_alloc(p->arena, sizeof(*node));
    node->kind = kind;
    node->mark = mark_of(p, event->start_mark);
    return node;
}

/* Hang `node` into the open frame as the value of its key or as its next element. */
static void
attach(struct parser *p, struct config_node *node)
{
    if (p->depth == 0) {
        p->root = node;
        return;
    }
    struct frame *f = &p->frames[p->depth - 1];
    if (f->node->kind == CONFIG_MAPPING) {
        node->key = f->key;
        node->key_mark = f->key_mark;
        f->have_key = false;
        const struct config_node *old = map_get(&f->keys, node->key);
        if (old != NULL) { /* parsed on, but not part of the tree: its keys are unique */
            FAULT(p, node->key_mark, "key \"%.*s\" is set twice, first at line %u",
                  (int)(node->key.n < 80 ? node->key.n : 80), node->key.p, old->key_mark.line);
            return;
        }
        map_put(&f->keys, node->key, node);
    }
    if (f->node->last == NULL)
        f->node->first = node;
    else
        f->node->last->next = node;
    f->node->last = node;
    f->node->n_children++;
}

/* True when a node that is no scalar stands where a mapping wants a key. */
static bool
wants_key(const struct parser *p)
{
    const struct frame *f = p->depth == 0 ? NULL : &p->frames[p->depth - 1];
    return f != NULL && f->node->kind == CONFIG_MAPPING && !f->have_key;
}

static void
refuse_properties(struct parser *p, const yaml_event_t *e, const yaml_char_t *anchor,
                  const yaml_char_t *tag)
{
    if (anchor != NULL)
        FAULT(p, mark_of(p, e->start_mark), "anchors (&name) are not supported, write it out");
    if (tag != NULL)
        FAULT(p, mark_of(p, e->start_mark), "tags (!name) are not supported, expected plain YAML");
}

static void
on_scalar(struct parser *p, const yaml_event_t *e)
{
    const char *value = (const char *)e->data.scalar.value;
    size_t n = e->data.scalar.length;
    struct config_mark mark = mark_of(p, e->start_mark);

    refuse_properties(p, e, e->data.scalar.anchor, e->data.scalar.tag);
    if (memchr(value, '\0', n) != NULL) {
        FAULT(p, mark, "text with a NUL (\\0)");
        n = strlen(value);
    }
    struct span text = span_of(arena_strndup(p->arena, value, n), n);
    if (wants_key(p)) {
        struct frame *f = &p->frames[p->depth - 1];
        if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && span_eq(text, SPAN("<<")))
            FAULT(p, mark, "merge keys (<<) are not supported, write it out");
        f->key = text;
        f->key_mark = mark;
        f->have_key = true;
        return;
    }
    struct config_node *node = node_new(p, CONFIG_SCALAR, e);
    node->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->text = text;
    attach(p, node);
}

static void
on_open(struct parser *p, const yaml_event_t *e, enum config_node_kind kind)
{
    struct config_mark mark = mark_of(p, e->start_mark);
    if (wants_key(p)) {
        FAULT(p, mark, "%s stands where a key is expected",
              kind == CONFIG_MAPPING ? "a mapping" : "a list");
        p->stop = true;
        return;
    }
    if (p->depth == CONFIG_DEPTH_MAX) {
        FAULT(p, mark, "nested more than %d levels deep", CONFIG_DEPTH_MAX);
        p->stop = true;
        return;
    }
    struct config_node *node = node_new(p, kind, e);
    attach(p, node);
    struct frame *f = &p->frames[p->depth++];
    *f = (struct frame){.node = node};
    map_init(&f->keys, (struct map_seed){0, 0});
}

static void
on_close(struct parser *p)
{
    assert(p->depth > 0);
    map_release(&p->frames[--p->depth].keys);
}

static void
on_event(struct parser *p, const yaml_event_t *e)
{
    switch (e->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (++p->n_documents > 1) {
            FAULT(p, mark_of(p, e->start_mark), "a second document (---), expected one in a file");
            p->stop = true;
        }
        break;
    case YAML_ALIAS_EVENT:
        FAULT(p, mark_of(p, e->start_mark), "aliases (*name) are not supported, write it out");
        p->stop = true;
        break;
    case YAML_SCALAR_EVENT:
        on_scalar(p, e);
        break;
    case YAML_SEQUENCE_START_EVENT:
        refuse_properties(p, e, e->data.sequence_start.anchor, e->data.sequence_start.tag);
        on_open(p, e, CONFIG_SEQUENCE);
        break;
    case YAML_MAPPING_START_EVENT:
        refuse_properties(p, e, e->data.mapping_start.anchor, e->data.mapping_start.tag);
        on_open(p, e, CONFIG_MAPPING);
        break;
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        on_close(p);
        break;
    default:
        break;
    }
}

static void
report_syntax(struct parser *p, const yaml_parser_t *yaml)
{
    if (yaml->error == YAML_MEMORY_ERROR)
        out_of_memory();
    const char *problem = yaml->problem == NULL ? "no valid YAML" : yaml->problem;
    struct config_mark mark = mark_of(p, yaml->problem_mark);
    if (yaml->context != NULL)
        FAULT(p, mark, "%s (%s at line %zu)", problem, yaml->context, yaml->context_mark.line + 1);
    else
        FAULT(p, mark, "%s", problem);
    p->stop = true;
}

static void
run(struct parser *p, struct span text)
{
    yaml_parser_t yaml;
    if (!yaml_parser_initialize(&yaml))
        out_of_memory();
    yaml_parser_set_input_string(&yaml, (const unsigned char *)text.p, text.n);
    bool done = false;
    while (!done && !p->stop) {
        yaml_event_t event;
        if (!yaml_parser_parse(&yaml, &event)) {
            report_syntax(p, &yaml);
            break;
        }
        done = event.type == YAML_STREAM_END_EVENT;
        on_event(p, &event);
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&yaml);
    while (p->depth > 0)
        on_close(p);
}

struct config_node *
config_parse(struct arena *arena, const char *file, struct span text,
             struct config_problems *problems)
{
    struct parser p = {.arena = arena, .file = file, .problems = problems};
    if (text.n > CONFIG_FILE_MAX) {
        FAULT(&p, ((struct config_mark){file, 1, 1}), "the file is larger than %zu MiB",
              CONFIG_FILE_MAX >> 20);
        return NULL;
    }
    if (!check_bytes(&p, text))
        return NULL;
    run(&p, text);
    if (p.stop)
        return NULL;
    if (p.root == NULL || config_node_is_empty(p.root)) {
        p.root = arena_alloc(arena, sizeof(*p.root));
        p.root->kind = CONFIG_MAPPING;
        p.root->mark = (struct config_mark){file, 1, 1};
    }
    return p.root;
}

struct config_node *
config_node_get(const struct config_node *node, const char *key)
{
    if (node == NULL || node->kind != CONFIG_MAPPING)
        return NULL;
    for (struct config_node *child = node->first; child != NULL; child = child->next)
        if (span_eq(child->key, span_str(key)))
            return child;
    return NULL;
}

bool
config_node_is_empty(const struct config_node *node)
{
    return node->kind == CONFIG_SCALAR && node->plain && node->text.n == 0;
}

const char *
config_node_kind_name(const struct config_node *node)
{
    if (config_node_is_empty(node))
        return "nothing";
    switch (node->kind) {
    case CONFIG_SCALAR:
        return "one value";
    case CONFIG_SEQUENCE:
        return "a list";
    case CONFIG_MAPPING:
        return "a mapping";
    }
    return "";
}
