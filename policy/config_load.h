/*
 * config_load - from files to struct config, or to the list of everything that is wrong with them.
 *
 * Pure but for the source: files are read through struct config_source, so that tests feed text and
 * the daemon feeds the file system (config_files_source()). No globals: a worker may load while the
 * loop uses the old configuration.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/span.h"
#include "policy/config.h"

#include <stdbool.h>
#include <stdint.h>

#define CONFIG_FILE_MAX ((size_t)4 << 20)           /* YAML; larger is not a configuration */
#define CONFIG_DOMAINS_FILE_MAX ((size_t)256 << 20) /* a few million names */
#define CONFIG_SECRET_MAX ((size_t)1 << 20)
#define CONFIG_FILES_MAX 256     /* the main file and all includes */
#define CONFIG_PROBLEMS_MAX 1000 /* more are counted, not kept */

/* What reading a file gives. */
struct config_blob {
    char *bytes; /* malloc'd, the reader's caller frees; NUL behind the n bytes */
    size_t n;
    uint32_t mode; /* permission bits as in st_mode */
};

struct config_source {
    void *ctx;
    /*
     * Read the whole of the regular file `path` (at most `max` bytes). ERR_NOT_FOUND, ERR_PERM (may
     * not be read), ERR_LIMIT (longer), ERR_INVAL (no regular file), ERR_IO; err says it in words.
     */
    enum err_code (*read)(void *ctx, const char *path, size_t max, struct config_blob *ret,
                          struct err *err);
    /* Call found() for each file that matches the glob pattern, in byte order of their names. */
    enum err_code (*glob)(void *ctx, const char *pattern,
                          void (*found)(void *arg, const char *path), void *arg, struct err *err);
    /* The user in the chown line for secrets that cannot be read; NULL: the `user` option. */
    const char *user;
};

/* Why open(2) for reading failed, by errno: ERR_NOT_FOUND, ERR_PERM or ERR_IO, and in words. Also
 * when the sandbox of a running daemon refuses a file that permissions allow (ERR_IO). */
enum err_code config_open_failed(const char *path, int number, struct err *err);

/* The file system. */
const struct config_source *config_files_source(void);

enum config_severity { CONFIG_ERROR, CONFIG_WARNING };

struct config_problem {
    enum config_severity severity;
    struct config_mark mark;
    char *path; /* "hops.us.tls", "transport_map[2].route"; "" when the file as a whole */
    char *text; /* what is wrong, what was expected */
};

/* All zero is an empty list. Sorted by file (in the order they were read), line and column. */
struct config_problems {
    struct config_problem *items;
    size_t n;
    size_t n_errors, n_warnings; /* including those beyond CONFIG_PROBLEMS_MAX */
};

void config_problems_release(struct config_problems *problems);
/* "FILE:LINE:COL: path: text", for warnings "FILE:LINE:COL: path: warning: text"; no newline. What
 * is about no place in a file (mark line 0) begins with its path. */
void config_problem_format(const struct config_problem *problem, struct strbuf *out);

/* Flags of config_load(). */
enum {
    /*
     * Only what a start needs before it gives up root: no secret is read or checked, no
     * domains_file is read. Listeners, user, paths and everything else are there.
     */
    CONFIG_LOAD_OUTLINE = 1,
};

/*
 * Load `path` and what it includes.
 *
 * ERR_OK: *ret is the configuration (config_free() it), and `problems` may hold warnings.
 * ERR_INVAL: `problems` holds at least one error, *ret is untouched. Problems are appended; a NULL
 * source is config_files_source().
 */
MUST_CHECK enum err_code
config_load(const char *path, const struct config_source *source, unsigned flags,
            struct config **ret, struct config_problems *problems);
