/* The list of everything that is wrong. It owns its text, for it outlives the arena of a
 * configuration that did not load. */
#include "policy/config_node.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"

/* A problem is one line of text, whatever is quoted from a file, keys and names of files too. */
static char *
one_line(char *text)
{
    for (char *c = text; *c != '\0'; c++)
        if (ascii_control(*c))
            *c = '?';
    return text;
}

void
config_problem_add(struct config_problems *problems, enum config_severity severity,
                   struct config_mark mark, const char *path, const char *fmt, ...)
{
    if (severity == CONFIG_ERROR)
        problems->n_errors++;
    else
        problems->n_warnings++;
    if (problems->n >= CONFIG_PROBLEMS_MAX)
        return;
    if ((problems->n & (problems->n - 1)) == 0) { /* grow at each power of two */
        size_t room = problems->n == 0 ? 1 : problems->n * 2;
        problems->items = xrealloc(problems->items, room * sizeof(*problems->items));
    }
    va_list ap;
    va_start(ap, fmt);
    char *text;
    if (vasprintf(&text, fmt, ap) < 0)
        out_of_memory();
    va_end(ap);
    problems->items[problems->n++] = (struct config_problem){
        .severity = severity,
        .mark = {one_line(xstrdup(mark.file == NULL ? "" : mark.file)), mark.line, mark.col},
        .path = one_line(xstrdup(path)),
        .text = one_line(text),
    };
}

void
config_problems_release(struct config_problems *problems)
{
    for (size_t i = 0; i < problems->n; i++) {
        free((char *)problems->items[i].mark.file);
        free(problems->items[i].path);
        free(problems->items[i].text);
    }
    free(problems->items);
    *problems = (struct config_problems){0};
}

void
config_problem_format(const struct config_problem *problem, struct strbuf *out)
{
    if (problem->mark.line > 0)
        strbuf_printf(out, "%s:%u:%u: ", problem->mark.file, problem->mark.line, problem->mark.col);
    if (problem->path[0] != '\0')
        strbuf_printf(out, "%s: ", problem->path);
    if (problem->severity == CONFIG_WARNING)
        strbuf_add_str(out, "warning: ");
    strbuf_add_str(out, problem->text);
}
