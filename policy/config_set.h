/* config_set - shared by config_set.c (single values), config_set_form.c (those with a form of
 * their own) and config_set_list.c (lists) only. */
#pragma once

#include "policy/config_build.h"

/* One value to be set: where it comes from and where it goes. */
struct setting {
    struct builder *b;
    const struct option *option;
    const struct config_node *node;
    const char *path; /* for messages */
    char *base;       /* the struct that `option->at` counts from */
};

#define SETTING_FIELD(s, type) ((type *)(void *)((s)->base + (s)->option->at))

/* Report `node` as wrong for the option: "VALUE": WHY, expected FORM. `why` ends up as it is. */
void setting_fault(const struct setting *s, const struct config_node *node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Report: "VALUE" SENTENCE, where the sentence says what was expected. */
void setting_refuse(const struct setting *s, const struct config_node *node, const char *sentence);

/* Is `node` a scalar with text? Reports it otherwise. */
bool setting_has_text(const struct setting *s, const struct config_node *node);

/* Is the setting's own node text of one line? Reports it otherwise. */
bool setting_has_line(const struct setting *s);
/* Write a copy of `text` to the field, a const char *. */
void setting_put_text(const struct setting *s, struct span text);

/* Each turns one scalar into one value, or reports it and returns false. */
bool setting_duration(const struct setting *s, const struct config_node *node, msec_t *ret);
bool setting_port(const struct setting *s, const struct config_node *node, uint16_t *ret);
bool setting_domain(const struct setting *s, const struct config_node *node, const char **ret);
bool setting_word(const struct setting *s, const struct config_node *node, unsigned *ret);
bool setting_route(const struct setting *s, const struct config_node *node, unsigned *ret);

/* The setter of a type; NULL for a type that the other file does not do. */
typedef void setting_fn(const struct setting *s);
setting_fn *setting_form_fn(enum option_type type);
setting_fn *setting_list_fn(enum option_type type);
