/*
 * structure_impl - one look at a data file, shared by structure.c (the trees) and structure_page.c
 * (one page).
 */
#pragma once

#include "policy/base/err.h"
#include "queue/lmdb_format.h"

#include <stdbool.h>

#define FIRST_PAGE 2           /* behind the meta pages */
#define DEPTH_MAX 32           /* LMDB's own limit */
#define LEVELS (2 * DEPTH_MAX) /* a table's tree hangs below the main one */

enum kind { FREE_LIST, MAIN, OURS };

struct walk {
    int fd;
    const char *path;
    struct err *err;
    size_t page_bytes;
    uint64_t last_page, txn;
    unsigned char *owned; /* a bit a page */
    char *pages[LEVELS];
    /* of the tree that is walked */
    enum kind kind;
    const char *name;
    size_t key_bytes; /* of all its keys; 0: they differ */
    bool heads_later; /* overflow pages are looked at when they are read, not now */
    struct tree want, found;
    uint64_t last_free_txn;
};

/* Sets w->err: the page, the tree that it is in, and what is wrong. Returns ERR_CORRUPT. */
enum err_code __attribute__((format(printf, 3, 4)))
structure_damaged(struct walk *w, uint64_t page, const char *fmt, ...);

/* The nodes fill the page's end without gap or overlap: each begins where another one ends. */
MUST_CHECK enum err_code
structure_layout_check(struct walk *w, uint64_t pgno, const char *page, bool leaf);

/* The keys ascend, from `low` on and below `high` (NULL: no bound). A branch's first is not read.
 * Only for a page whose layout is right. */
MUST_CHECK enum err_code
structure_keys_check(struct walk *w, uint64_t pgno, const char *page, bool leaf,
                     const struct span *low, const struct span *high);
