/*
 * config_text - files out of strings, for tests of the configuration: a struct config_source over a
 * table. A file's `code` other than ERR_OK is what reading it gives.
 */
#pragma once

#include "policy/config_load.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"

struct text_file {
    const char *path, *text;
    uint32_t mode; /* 0: 0600 */
    enum err_code code;
    size_t n; /* when the text holds a NUL; 0: strlen */
};

struct text_files {
    const struct text_file *files;
    size_t n;
    const struct text_file *more; /* a second table, ends with a NULL path; may be NULL */
};

static inline const struct text_file *
text_file_find(const struct text_files *all, const char *path)
{
    for (size_t i = 0; i < all->n; i++)
        if (all->files[i].path != NULL && strcmp(all->files[i].path, path) == 0)
            return &all->files[i];
    for (const struct text_file *f = all->more; f != NULL && f->path != NULL; f++)
        if (strcmp(f->path, path) == 0)
            return f;
    return NULL;
}

static inline enum err_code
text_read(void *ctx, const char *path, size_t max, struct config_blob *ret, struct err *err)
{
    const struct text_file *f = text_file_find(ctx, path);
    if (f == NULL)
        return err_set(err, ERR_NOT_FOUND, "No such file or directory");
    if (f->code != ERR_OK)
        return err_set(err, f->code, "%s", f->text);
    size_t n = f->n > 0 ? f->n : strlen(f->text);
    if (n > max)
        return err_set(err, ERR_LIMIT, "too long");
    *ret = (struct config_blob){
        .bytes = xstrndup(f->text, n), .n = n, .mode = f->mode == 0 ? 0600 : f->mode};
    return ERR_OK;
}

/* In the order of the table, which tests write in byte order. */
static inline enum err_code
text_glob(void *ctx, const char *pattern, void (*found)(void *arg, const char *path), void *arg,
          struct err *err)
{
    const struct text_files *all = ctx;
    (void)err;
    for (size_t i = 0; i < all->n; i++)
        if (all->files[i].path != NULL && fnmatch(pattern, all->files[i].path, FNM_PATHNAME) == 0)
            found(arg, all->files[i].path);
    return ERR_OK;
}

static inline struct config_source
text_source(struct text_files *all)
{
    return (struct config_source){.ctx = all, .read = text_read, .glob = text_glob};
}

/* Load c.yaml out of the table with flags; problems as lines of text into `out`. */
static inline struct config *
text_load(const struct text_file *files, size_t n, unsigned flags, struct strbuf *out)
{
    struct text_files all = {.files = files, .n = n};
    struct config_source source = text_source(&all);
    struct config_problems problems = {0};
    struct config *config = NULL;
    enum err_code code = config_load("c.yaml", &source, flags, &config, &problems);
    for (size_t i = 0; i < problems.n; i++) {
        config_problem_format(&problems.items[i], out);
        strbuf_add_byte(out, '\n');
    }
    if ((code == ERR_OK) != (config != NULL) || (code == ERR_OK) != (problems.n_errors == 0))
        abort();
    config_problems_release(&problems);
    return config;
}
