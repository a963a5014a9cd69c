/*
 * Values of options: one small function a type, chosen by the table at the end. Each gets a node of
 * the tree, checks its kind, form and range, and writes the field; what is wrong is reported with
 * the node's own mark. A field whose value is wrong keeps its default.
 */
#include "policy/config_set.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define FORM_MAX 256
#define TEXT_MAX 1024
#define QUOTE_MAX 60 /* of a value in a message */

static const char *
form(const struct setting *s, char *buf)
{
    return config_schema_form(s->option, buf, FORM_MAX);
}

/* The scalar's text for a message, cut at a UTF-8 boundary. */
static struct span
quote(const struct config_node *node)
{
    struct span text = span_first(node->text, QUOTE_MAX);
    while (text.n > 0 && text.n < node->text.n &&
           ((unsigned char)node->text.p[text.n] & 0xc0) == 0x80)
        text.n--;
    return text;
}

void
setting_fault(const struct setting *s, const struct config_node *node, const char *fmt, ...)
{
    char why[256], expected[FORM_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    if (node->kind == CONFIG_SCALAR && node->text.n > 0)
        CONFIG_FAULT(s->b, node->mark, s->path, "\"%.*s\" %s, expected %s", SPAN_ARG(quote(node)),
                     why, form(s, expected));
    else
        CONFIG_FAULT(s->b, node->mark, s->path, "%s %s, expected %s", config_node_kind_name(node),
                     why, form(s, expected));
}

void
setting_refuse(const struct setting *s, const struct config_node *node, const char *sentence)
{
    CONFIG_FAULT(s->b, node->mark, s->path, "\"%.*s\": %s", SPAN_ARG(quote(node)), sentence);
}

bool
setting_has_text(const struct setting *s, const struct config_node *node)
{
    if (node->kind == CONFIG_SCALAR && node->text.n > 0)
        return true;
    setting_fault(s, node, "stands here");
    return false;
}

const char *
config_resolve(struct builder *b, struct config_mark mark, struct span text)
{
    const char *slash = mark.file == NULL ? NULL : strrchr(mark.file, '/');
    if (text.n == 0 || text.p[0] == '/' || slash == NULL)
        return arena_strndup(b->arena, text.p, text.n);
    return arena_printf(b->arena, "%.*s%.*s", (int)(slash + 1 - mark.file), mark.file,
                        SPAN_ARG(text));
}

bool
setting_has_line(const struct setting *s)
{
    if (!setting_has_text(s, s->node))
        return false;
    if (s->node->text.n > TEXT_MAX || span_has_control(s->node->text)) {
        setting_fault(s, s->node, "is no single line of at most %d bytes", TEXT_MAX);
        return false;
    }
    return true;
}

void
setting_put_text(const struct setting *s, struct span text)
{
    *SETTING_FIELD(s, const char *) = arena_strndup(s->b->arena, text.p, text.n);
}

static void
set_text(const struct setting *s)
{
    if (setting_has_line(s))
        setting_put_text(s, s->node->text);
}

static void
set_name(const struct setting *s)
{
    if (!setting_has_line(s))
        return;
    struct span text = s->node->text;
    bool fine = text.n <= 32 && text.p[0] != '-';
    for (size_t i = 0; i < text.n; i++)
        fine = fine && ((text.p[i] >= 'a' && text.p[i] <= 'z') || ascii_digit(text.p[i]) ||
                        text.p[i] == '-');
    if (!fine)
        setting_fault(s, s->node, "is no name of at most 32 characters");
    else
        setting_put_text(s, text);
}

bool
setting_domain(const struct setting *s, const struct config_node *node, const char **ret)
{
    char name[DOMAIN_BUF];
    struct err err;
    if (!setting_has_text(s, node))
        return false;
    if (domain_normalise(node->text, name, &err) != ERR_OK) {
        setting_refuse(s, node, err.text);
        return false;
    }
    *ret = arena_strdup(s->b->arena, name);
    return true;
}

static void
set_domain(const struct setting *s)
{
    setting_domain(s, s->node, SETTING_FIELD(s, const char *));
}

static void
set_bool(const struct setting *s)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    struct span text = s->node->text;
    if (s->node->kind == CONFIG_SCALAR && s->node->plain)
        for (size_t i = 0; i < N_ELEMENTS(words); i++)
            if (span_ieq(text, span_str(words[i]))) {
                *SETTING_FIELD(s, bool) = i % 2 == 1;
                return;
            }
    setting_fault(s, s->node, "is not true or false%s",
                  s->node->kind == CONFIG_SCALAR && !s->node->plain ? " (without quotes)" : "");
}

/* "default: true", "discard: true": their presence is what counts. */
static void
set_true(const struct setting *s)
{
    struct span text = s->node->text;
    if (s->node->kind != CONFIG_SCALAR || !s->node->plain ||
        !(span_ieq(text, SPAN("true")) || span_ieq(text, SPAN("yes")) ||
          span_ieq(text, SPAN("on"))))
        setting_fault(s, s->node, "has no meaning here");
    else if (s->option->at != OPTION_NO_FIELD)
        *SETTING_FIELD(s, bool) = true;
}

static bool
in_range(const struct setting *s, const struct config_node *node, uint64_t value)
{
    if (value >= s->option->min && value <= s->option->max)
        return true;
    setting_fault(s, node, "is out of range");
    return false;
}

static void
set_number(const struct setting *s)
{
    uint64_t value;
    if (!setting_has_text(s, s->node))
        return;
    if (number_parse(s->node->text, &value, NULL) != ERR_OK)
        setting_fault(s, s->node, "is no whole number");
    else if (in_range(s, s->node, value))
        *SETTING_FIELD(s, uint32_t) = (uint32_t)value;
}

bool
setting_port(const struct setting *s, const struct config_node *node, uint16_t *ret)
{
    uint64_t value;
    if (!setting_has_text(s, node))
        return false;
    if (number_parse(node->text, &value, NULL) != ERR_OK || value == 0 || value > 65535) {
        setting_fault(s, node, "is no port");
        return false;
    }
    *ret = (uint16_t)value;
    return true;
}

static void
set_port(const struct setting *s)
{
    setting_port(s, s->node, SETTING_FIELD(s, uint16_t));
}

static void
set_size(const struct setting *s)
{
    struct err err;
    uint64_t value;
    if (!setting_has_text(s, s->node))
        return;
    if (size_parse(s->node->text, &value, &err) != ERR_OK)
        setting_refuse(s, s->node, err.text);
    else if (in_range(s, s->node, value))
        *SETTING_FIELD(s, uint64_t) = value;
}

bool
setting_duration(const struct setting *s, const struct config_node *node, msec_t *ret)
{
    struct err err;
    if (!setting_has_text(s, node))
        return false;
    if (duration_parse(node->text, ret, &err) == ERR_OK)
        return true;
    setting_refuse(s, node, err.text);
    return false;
}

static void
set_duration(const struct setting *s)
{
    msec_t value;
    if (setting_duration(s, s->node, &value) && in_range(s, s->node, (uint64_t)value))
        *SETTING_FIELD(s, msec_t) = value;
}

static void
set_rate(const struct setting *s)
{
    struct err err;
    if (setting_has_text(s, s->node) &&
        rate_parse(s->node->text, SETTING_FIELD(s, struct rate), &err) != ERR_OK)
        setting_refuse(s, s->node, err.text);
}

static void
set_percent(const struct setting *s)
{
    if (setting_has_text(s, s->node) &&
        percent_parse(s->node->text, SETTING_FIELD(s, unsigned), NULL) != ERR_OK)
        setting_fault(s, s->node, "is no percentage");
}

bool
setting_word(const struct setting *s, const struct config_node *node, unsigned *ret)
{
    if (!setting_has_text(s, node))
        return false;
    size_t n = 0;
    for (const char *const *w = s->option->words; *w != NULL; w++, n++)
        if (span_eq(node->text, span_str(*w))) {
            *ret = (unsigned)n;
            return true;
        }
    const char *near = config_suggest(node->text, s->option->words, n);
    char expected[FORM_MAX];
    CONFIG_FAULT(s->b, node->mark, s->path, "\"%.*s\" is not known here, expected %s%s%s%s",
                 SPAN_ARG(quote(node)), form(s, expected), near == NULL ? "" : "; did you mean \"",
                 near == NULL ? "" : near, near == NULL ? "" : "\"?");
    return false;
}

static void
set_word(const struct setting *s)
{
    setting_word(s, s->node, SETTING_FIELD(s, unsigned));
}

static void
add_pending(const struct setting *s, const char *file, struct config_secret *secret)
{
    struct pending_file *p = arena_alloc(s->b->arena, sizeof(*p));
    *p = (struct pending_file){
        .option = s->option, .node = s->node, .path = s->path, .file = file, .secret = secret};
    *s->b->pending_tail = p;
    s->b->pending_tail = &p->next;
}

static void
set_path(const struct setting *s)
{
    if (setting_has_line(s))
        *SETTING_FIELD(s, const char *) = config_resolve(s->b, s->node->mark, s->node->text);
}

static void
set_file(const struct setting *s)
{
    if (!setting_has_line(s))
        return;
    set_path(s);
    add_pending(s, *SETTING_FIELD(s, const char *), NULL);
}

static void
set_secret(const struct setting *s)
{
    if (!setting_has_line(s))
        return;
    struct config_secret *secret = SETTING_FIELD(s, struct config_secret);
    secret->path = config_resolve(s->b, s->node->mark, s->node->text);
    add_pending(s, secret->path, secret);
}

bool
setting_route(const struct setting *s, const struct config_node *node, unsigned *ret)
{
    const struct config *config = s->b->config;
    if (!setting_has_text(s, node))
        return false;
    int found = config_route_find(config, node->text);
    if (found >= 0) {
        *ret = (unsigned)found;
        return true;
    }
    const char *names[CONFIG_ROUTES_MAX];
    struct strbuf known = STRBUF_INIT;
    for (size_t i = 0; i < config->n_routes; i++) {
        names[i] = config->routes[i].name;
        if (known.n < 200)
            strbuf_printf(&known, "%s%s", i == 0 ? "" : ", ", names[i]);
        else if (known.p[known.n - 1] != '.')
            strbuf_add_str(&known, ", ...");
    }
    const char *near = config_suggest(node->text, names, config->n_routes);
    CONFIG_FAULT(s->b, node->mark, s->path, "\"%.*s\" is no hop, expected one of %.*s%s%s%s",
                 SPAN_ARG(quote(node)), (int)known.n, known.p,
                 near == NULL ? "" : "; did you mean \"", near == NULL ? "" : near,
                 near == NULL ? "" : "\"?");
    strbuf_release(&known);
    return false;
}

static void
set_route(const struct setting *s)
{
    setting_route(s, s->node, SETTING_FIELD(s, unsigned));
}

static void
set_nodes(const struct setting *s)
{
    if (s->node->kind != CONFIG_SEQUENCE)
        setting_fault(s, s->node, "stands here");
    else
        *SETTING_FIELD(s, const struct config_node *) = s->node;
}

static setting_fn *const setters[] = {
    [OPT_TEXT] = set_text,   [OPT_NAME] = set_name,       [OPT_DOMAIN] = set_domain,
    [OPT_BOOL] = set_bool,   [OPT_TRUE] = set_true,       [OPT_NUMBER] = set_number,
    [OPT_PORT] = set_port,   [OPT_SIZE] = set_size,       [OPT_DURATION] = set_duration,
    [OPT_RATE] = set_rate,   [OPT_PERCENT] = set_percent, [OPT_WORD] = set_word,
    [OPT_PATH] = set_path,   [OPT_FILE] = set_file,       [OPT_SECRET] = set_secret,
    [OPT_ROUTE] = set_route, [OPT_NODES] = set_nodes,
};

void
config_set(struct builder *b, const struct option *option, const struct config_node *node,
           void *base, const char *path)
{
    const struct setting s = {.b = b, .option = option, .node = node, .path = path, .base = base};
    setting_fn *fn = setting_list_fn(option->type);
    if (fn == NULL)
        fn = setting_form_fn(option->type);
    if (fn == NULL && option->type < N_ELEMENTS(setters))
        fn = setters[option->type];
    assert(fn != NULL);
    fn(&s);
}

/* Text is never NULL. */
static void
set_nothing(const struct option *option, char *base)
{
    switch (option->type) {
    case OPT_TEXT:
    case OPT_NAME:
    case OPT_DOMAIN:
    case OPT_SELECTOR:
    case OPT_MAILBOX:
    case OPT_PATH:
    case OPT_FILE:
    case OPT_LISTEN:
    case OPT_REPLY:
        *(const char **)(void *)(base + option->at) = "";
        break;
    case OPT_SECRET:
        ((struct config_secret *)(void *)(base + option->at))->path = "";
        break;
    case OPT_ENDPOINT:
        ((struct hop *)(void *)base)->address = "";
        ((struct hop *)(void *)base)->host = "";
        break;
    default:
        break;
    }
}

void
config_set_default(struct builder *b, const struct option *option, void *base)
{
    if (option->value == NULL) {
        if (option->at != OPTION_NO_FIELD)
            set_nothing(option, base);
        return;
    }
    struct config_node **cached = &b->defaults[option - config_schema];
    if (*cached == NULL)
        *cached = config_parse(b->arena, "", span_str(option->value), b->problems);
    assert(*cached != NULL);
    config_set(b, option, *cached, base, option->path);
}
