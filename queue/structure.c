/*
 * How: the trees are walked with pread(), so that a sector that cannot be read is an error and not
 * a signal; one page buffer a level, one bit a page. The structures are those of LMDB's file format
 * 1 (all of 0.9) for 64-bit little-endian machines.
 *
 *   meta 0, meta 1 -> free list: transaction -> page numbers
 *                  -> main: name -> root of a table -> branches -> leaves -> overflow pages
 */
#include "queue/structure.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"

#define MAGIC 0xBEEFC0DEu
#define LMDB_FORMAT 1
#define PAGE_BRANCH 0x01
#define PAGE_LEAF 0x02
#define PAGE_OVERFLOW 0x04
#define PAGE_META 0x08
#define PAGE_DIRTY 0x10   /* changed in a transaction that is not committed: never in the file */
#define NODE_BIG 0x01     /* the value lies in overflow pages */
#define NODE_TABLE 0x02   /* the value is the root of a table */
#define FLAG_FIXED 0x01   /* of the environment: the file tells where to map it; never ours */
#define FLAG_INTEGER 0x08 /* of the free list: keys are numbers */
#define NO_PAGE UINT64_MAX
#define FIRST_PAGE 2 /* behind the meta pages */
#define PAGE_BYTES_MIN 512
#define PAGE_BYTES_MAX 65536
#define DEPTH_MAX 32           /* LMDB's own limit */
#define LEVELS (2 * DEPTH_MAX) /* a table's tree hangs below the main one */
#define KEY_MAX 511            /* LMDB's own limit */
#define NODES_PER_LEAF_MIN 2   /* LMDB's own: larger values go to overflow pages */
#define WORDS (PAGE_BYTES_MAX / 2 / 64)

struct head {
    uint64_t pgno;
    uint16_t pad, flags;
    uint16_t lower, upper; /* overflow: together the number of pages */
};

struct node {
    uint16_t lo, hi, flags, key_bytes; /* leaf: size of the value; branch: page number */
};

struct tree {
    uint32_t pad; /* of the free list: page size */
    uint16_t flags, depth;
    uint64_t branches, leaves, overflows, entries, root;
};

struct meta {
    uint32_t magic, version;
    uint64_t address, map_bytes;
    struct tree free, main;
    uint64_t last_page, txn;
};

_Static_assert(sizeof(struct head) == 16 && sizeof(struct node) == 8, "as in LMDB's file");
_Static_assert(sizeof(struct tree) == 48 && sizeof(struct meta) == 136, "as in LMDB's file");

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

/* Keys of the tables that have one size. */
static const size_t key_sizes[TABLES] = {
    [TABLE_MESSAGE] = KEY_ID_BYTES,   [TABLE_BODY] = KEY_ID_NO_BYTES,
    [TABLE_INCOMING] = KEY_ID_BYTES,  [TABLE_RECIPIENT] = KEY_ID_NO_BYTES,
    [TABLE_FRESH] = KEY_ID_NO_BYTES,  [TABLE_SCHEDULE] = KEY_SCHEDULE_BYTES,
    [TABLE_HISTORY] = KEY_PAST_BYTES,
};

/* ---------------------------------------------------------------------------------- reading */

static enum err_code __attribute__((format(printf, 3, 4)))
damaged(struct walk *w, uint64_t page, const char *fmt, ...)
{
    char what[128];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    return err_set(w->err, ERR_CORRUPT,
                   "queue %s: " QUEUE_DATA_FILE " is damaged: page %" PRIu64 " (%s): %s", w->path,
                   page, w->name, what);
}

static enum err_code
read_at(struct walk *w, void *to, size_t n, uint64_t page)
{
    ssize_t got = pread(w->fd, to, n, (off_t)(page * w->page_bytes));
    if (got == (ssize_t)n)
        return ERR_OK;
    if (got >= 0)
        return err_set(w->err, ERR_CORRUPT,
                       "queue %s: " QUEUE_DATA_FILE " is cut short: it ends before page %" PRIu64
                       " (%s)",
                       w->path, page, w->name);
    return err_set(w->err, ERR_IO,
                   "queue %s: cannot read page %" PRIu64 " (%s) of " QUEUE_DATA_FILE ": %s",
                   w->path, page, w->name, strerror(errno));
}

/* These pages belong to the tree that is walked, and to nobody else. */
static enum err_code
own(struct walk *w, uint64_t page, uint64_t n)
{
    if (page < FIRST_PAGE || page > w->last_page || n > w->last_page - page + 1)
        return damaged(w, page, "there is no such page");
    for (uint64_t p = page; p < page + n; p++) {
        unsigned char bit = (unsigned char)(1u << (p & 7));
        if ((w->owned[p >> 3] & bit) != 0)
            return damaged(w, p, "it is in use twice");
        w->owned[p >> 3] |= bit;
    }
    return ERR_OK;
}

static struct head
head_of(const char *page)
{
    struct head h;
    memcpy(&h, page, sizeof(h));
    return h;
}

static size_t
nodes_of(const char *page)
{
    return (head_of(page).lower - sizeof(struct head)) / 2;
}

static size_t
offset_of(const char *page, size_t i)
{
    uint16_t offset;
    memcpy(&offset, page + sizeof(struct head) + 2 * i, sizeof(offset));
    return offset;
}

static struct node
node_of(const char *page, size_t i)
{
    struct node n;
    memcpy(&n, page + offset_of(page, i), sizeof(n));
    return n;
}

static struct span
key_of(const char *page, size_t i)
{
    return span_of(page + offset_of(page, i) + sizeof(struct node), node_of(page, i).key_bytes);
}

static const char *
value_of(const char *page, size_t i)
{
    struct span key = key_of(page, i);
    return key.p + key.n;
}

static size_t
value_bytes(struct node n)
{
    return (size_t)n.lo | (size_t)n.hi << 16;
}

static uint64_t
child_of(struct node n)
{
    return (uint64_t)n.lo | (uint64_t)n.hi << 16 | (uint64_t)n.flags << 32;
}

/* A node that is larger than this has its value in overflow pages. */
static size_t
node_max(size_t page_bytes)
{
    return (((page_bytes - sizeof(struct head)) / NODES_PER_LEAF_MIN) & ~(size_t)1) - 2;
}

static size_t
overflow_pages(size_t bytes, size_t page_bytes)
{
    return (sizeof(struct head) - 1 + bytes) / page_bytes + 1;
}

/* ----------------------------------------------------------------------------- inside a page */

static bool
bit_is_new(uint64_t words[WORDS], size_t i)
{
    uint64_t bit = (uint64_t)1 << (i & 63);
    bool is_new = (words[i >> 6] & bit) == 0;
    words[i >> 6] |= bit;
    return is_new;
}

/* Bytes of a node on its page; 0 when it does not fit there. */
static size_t
node_bytes(const struct walk *w, const char *page, size_t i, bool leaf)
{
    size_t at = offset_of(page, i);
    if ((at & 1) != 0 || at < head_of(page).upper || at + sizeof(struct node) > w->page_bytes)
        return 0;
    struct node n = node_of(page, i);
    size_t bytes = sizeof(n) + n.key_bytes;
    if (leaf)
        bytes += (n.flags & NODE_BIG) != 0 ? sizeof(uint64_t) : value_bytes(n);
    bytes = (bytes + 1) & ~(size_t)1;
    return bytes <= w->page_bytes - at ? bytes : 0;
}

/* The nodes fill the page's end without gap or overlap: each begins where another one ends. */
static enum err_code
layout_check(struct walk *w, uint64_t pgno, const char *page, bool leaf)
{
    uint64_t begins[WORDS], ends[WORDS];
    struct head h = head_of(page);
    size_t words = w->page_bytes / 2 / 64;
    if (h.lower < sizeof(h) || (h.lower & 1) != 0 || h.lower > h.upper || (h.upper & 1) != 0 ||
        h.upper > w->page_bytes)
        return damaged(w, pgno, "its head is wrong");
    size_t n = nodes_of(page);
    if (n < (leaf || w->kind == FREE_LIST ? 1 : 2))
        return damaged(w, pgno, "it holds %zu entries", n);
    memset(begins, 0, words * sizeof(begins[0]));
    memset(ends, 0, words * sizeof(ends[0]));
    bit_is_new(ends, h.upper / 2 % (w->page_bytes / 2));
    for (size_t i = 0; i < n; i++) {
        size_t bytes = node_bytes(w, page, i, leaf), at = offset_of(page, i);
        if (bytes == 0)
            return damaged(w, pgno, "entry %zu lies outside of it", i);
        bool good = bit_is_new(begins, at / 2);
        if (at + bytes < w->page_bytes)
            good = bit_is_new(ends, (at + bytes) / 2) && good;
        if (!good)
            return damaged(w, pgno, "entry %zu overlaps another one", i);
    }
    return memcmp(begins, ends, words * sizeof(begins[0])) == 0
               ? ERR_OK
               : damaged(w, pgno, "its entries overlap or leave gaps");
}

static int
key_cmp(const struct walk *w, struct span a, struct span b)
{
    if (w->kind != FREE_LIST)
        return span_cmp(a, b);
    uint64_t x, y;
    memcpy(&x, a.p, sizeof(x));
    memcpy(&y, b.p, sizeof(y));
    return x < y ? -1 : x > y;
}

/* The keys ascend, from `low` on and below `high` (NULL: no bound). A branch's first is not read.
 */
static enum err_code
keys_check(struct walk *w, uint64_t pgno, const char *page, bool leaf, const struct span *low,
           const struct span *high)
{
    size_t n = nodes_of(page), first = leaf ? 0 : 1;
    for (size_t i = first; i < n; i++) {
        struct span key = key_of(page, i);
        if (key.n == 0 || key.n > KEY_MAX || (w->key_bytes != 0 && key.n != w->key_bytes))
            return damaged(w, pgno, "a key of %zu bytes", key.n);
        if (i > first && key_cmp(w, key_of(page, i - 1), key) >= 0)
            return damaged(w, pgno, "key %zu is out of order", i);
    }
    if ((low != NULL && n > first && key_cmp(w, key_of(page, first), *low) < 0) ||
        (high != NULL && n > first && key_cmp(w, key_of(page, n - 1), *high) >= 0))
        return damaged(w, pgno, "its keys belong elsewhere");
    return ERR_OK;
}

/* ------------------------------------------------------------------------------------ values */

/* Page numbers that may be used again: a count, then numbers that descend. */
static enum err_code
free_numbers(struct walk *w, uint64_t pgno, struct span value)
{
    uint64_t n, before = NO_PAGE;
    if (value.n < sizeof(n) || value.n % sizeof(n) != 0)
        return damaged(w, pgno, "a list of %zu bytes", value.n);
    memcpy(&n, value.p, sizeof(n));
    if (n > value.n / sizeof(n) - 1)
        return damaged(w, pgno, "a list of %zu bytes with %" PRIu64 " numbers", value.n, n);
    for (size_t i = 1; i <= n; i++) {
        uint64_t page;
        memcpy(&page, value.p + i * sizeof(page), sizeof(page));
        if (page >= before)
            return damaged(w, pgno, "a list whose numbers do not descend");
        enum err_code code = own(w, page, 1);
        if (code != ERR_OK)
            return code;
        before = page;
    }
    return ERR_OK;
}

/* How many pages the head of a value in overflow pages says it has. */
static size_t
pages_of(struct head h)
{
    return h.lower | (size_t)h.upper << 16;
}

/*
 * The value of a node that lies in overflow pages. Of mail these are not read: there are too many
 * (queue_structure_value). A value that is put again in the same transaction, as LMDB does with its
 * free list, stays in the pages that it has, however small it has become.
 */
static enum err_code
big_value(struct walk *w, uint64_t pgno, const char *page, size_t i)
{
    uint64_t first;
    struct node node = node_of(page, i);
    struct head h;
    memcpy(&first, value_of(page, i), sizeof(first));
    size_t bytes = value_bytes(node), n = overflow_pages(bytes, w->page_bytes);
    enum err_code code = ERR_OK;
    if (!w->heads_later) {
        code = first >= FIRST_PAGE && first <= w->last_page
                   ? read_at(w, &h, sizeof(h), first)
                   : damaged(w, pgno, "entry %zu lies where no page is", i);
        if (code == ERR_OK && (h.pgno != first || h.flags != PAGE_OVERFLOW || pages_of(h) < n))
            code = damaged(w, first, "its head is wrong");
        if (code == ERR_OK)
            n = pages_of(h);
    }
    if (code == ERR_OK)
        code = own(w, first, n);
    w->found.overflows += n;
    if (code != ERR_OK || w->kind != FREE_LIST)
        return code;
    size_t read_bytes = sizeof(h) + bytes;
    CLEANUP(freep) char *list = xmalloc(read_bytes);
    code = read_at(w, list, read_bytes, first);
    return code == ERR_OK ? free_numbers(w, first, span_of(list + sizeof(h), bytes)) : code;
}

static enum err_code table_walk(struct walk *w, struct span name, const char *root, unsigned level);

static enum err_code
value_check(struct walk *w, uint64_t pgno, const char *page, size_t i, unsigned level)
{
    struct node node = node_of(page, i);
    w->found.entries++;
    if (node.flags != (w->kind == MAIN ? NODE_TABLE : node.flags & NODE_BIG))
        return damaged(w, pgno, "entry %zu has flags %x", i, node.flags);
    if (w->kind == FREE_LIST) {
        memcpy(&w->last_free_txn, key_of(page, i).p, sizeof(w->last_free_txn));
        if (w->last_free_txn > w->txn)
            return damaged(w, pgno, "a transaction that was never made");
    }
    if (w->kind == MAIN)
        return value_bytes(node) == sizeof(struct tree)
                   ? table_walk(w, key_of(page, i), value_of(page, i), level)
                   : damaged(w, pgno, "a root of %zu bytes", value_bytes(node));
    if ((node.flags & NODE_BIG) != 0)
        return big_value(w, pgno, page, i);
    return w->kind == FREE_LIST
               ? free_numbers(w, pgno, span_of(value_of(page, i), value_bytes(node)))
               : ERR_OK;
}

/* ------------------------------------------------------------------------------------- trees */

static enum err_code page_walk(struct walk *w, uint64_t pgno, unsigned depth, unsigned level,
                               const struct span *low, const struct span *high);

static enum err_code
branch_walk(struct walk *w, const char *page, unsigned depth, unsigned level,
            const struct span *low, const struct span *high)
{
    size_t n = nodes_of(page);
    w->found.branches++;
    for (size_t i = 0; i < n; i++) {
        struct span begin = key_of(page, i), end = i + 1 < n ? key_of(page, i + 1) : SPAN_NONE;
        enum err_code code = page_walk(w, child_of(node_of(page, i)), depth + 1, level + 1,
                                       i == 0 ? low : &begin, i + 1 < n ? &end : high);
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}

static enum err_code
page_walk(struct walk *w, uint64_t pgno, unsigned depth, unsigned level, const struct span *low,
          const struct span *high)
{
    bool leaf = depth == w->want.depth;
    enum err_code code = own(w, pgno, 1);
    if (w->pages[level] == NULL)
        w->pages[level] = xmalloc(w->page_bytes);
    const char *page = w->pages[level];
    if (code == ERR_OK)
        code = read_at(w, w->pages[level], w->page_bytes, pgno);
    if (code != ERR_OK)
        return code;
    struct head h = head_of(page);
    if (h.pgno != pgno || h.flags != (leaf ? PAGE_LEAF : PAGE_BRANCH))
        return damaged(w, pgno, "it says to be page %" PRIu64 ", of kind %x", h.pgno, h.flags);
    code = layout_check(w, pgno, page, leaf);
    if (code == ERR_OK)
        code = keys_check(w, pgno, page, leaf, low, high);
    if (code == ERR_OK && !leaf)
        return branch_walk(w, page, depth, level, low, high);
    w->found.leaves++;
    for (size_t i = 0; code == ERR_OK && i < nodes_of(page); i++)
        code = value_check(w, pgno, page, i, level);
    return code;
}

/* Walk the tree `want`; its root record must tell what is found. */
static enum err_code
tree_walk(struct walk *w, enum kind kind, const char *name, size_t key_bytes,
          const struct tree *want, unsigned level)
{
    enum err_code code = ERR_OK;
    w->kind = kind;
    w->name = name;
    w->key_bytes = key_bytes;
    w->want = *want;
    w->found = (struct tree){.root = want->root, .depth = want->depth};
    if (want->depth > DEPTH_MAX || (want->depth == 0) != (want->root == NO_PAGE) ||
        (kind != FREE_LIST && want->flags != 0))
        return damaged(w, want->root, "its root is wrong");
    if (want->root != NO_PAGE)
        code = page_walk(w, want->root, 1, level, NULL, NULL);
    if (code != ERR_OK)
        return code;
    if (w->found.branches != want->branches || w->found.leaves != want->leaves ||
        w->found.overflows != want->overflows || w->found.entries != want->entries)
        return damaged(w, want->root, "its tree has not the size that its root tells");
    return ERR_OK;
}

/* A table of the main tree, in the middle of walking that. A name that is not ours is left alone:
 * a newer format may have it, and the format is looked at later. */
static enum err_code
table_walk(struct walk *w, struct span name, const char *root, unsigned level)
{
    struct tree want;
    const struct tree main_want = w->want, main_found = w->found;
    enum err_code code = ERR_OK;
    memcpy(&want, root, sizeof(want));
    for (enum table t = 0; code == ERR_OK && t < TABLES; t++) {
        if (!span_eq(name, span_str(queue_table_names[t])))
            continue;
        w->heads_later = t == TABLE_MESSAGE || t == TABLE_BODY;
        code = tree_walk(w, OURS, queue_table_names[t], key_sizes[t], &want, level + 1);
    }
    if (code != ERR_OK)
        return code;
    w->heads_later = false;
    w->kind = MAIN;
    w->name = "list of tables";
    w->key_bytes = 0;
    w->want = main_want;
    w->found = main_found;
    return ERR_OK;
}

/* -------------------------------------------------------------------------------- meta pages */

static enum err_code
meta_read(struct walk *w, uint64_t which, struct meta *ret)
{
    char page[sizeof(struct head) + sizeof(struct meta)];
    enum err_code code = read_at(w, page, sizeof(page), which);
    if (code != ERR_OK)
        return code;
    struct head h = head_of(page);
    memcpy(ret, page + sizeof(h), sizeof(*ret));
    if (ret->magic != MAGIC || h.flags != PAGE_META || h.pgno != which)
        return which == 0 ? err_set(w->err, ERR_CORRUPT,
                                    "queue %s: " QUEUE_DATA_FILE
                                    " is no queue, or its first page is damaged",
                                    w->path)
                          : damaged(w, which, "it is no meta page");
    if (ret->version != LMDB_FORMAT)
        return err_set(w->err, ERR_VERSION,
                       "queue %s: " QUEUE_DATA_FILE " has format %u of LMDB; this relayd reads %d",
                       w->path, (unsigned)ret->version, LMDB_FORMAT);
    size_t bytes = ret->free.pad;
    if (bytes < PAGE_BYTES_MIN || bytes > PAGE_BYTES_MAX || (bytes & (bytes - 1)) != 0)
        return damaged(w, which, "a page size of %zu", bytes);
    w->page_bytes = bytes;
    return ERR_OK;
}

/*
 * Transactions write the two meta pages by turns, so their numbers follow each other. Which of them
 * is the newer one decides what the queue holds: a number that cannot be right is never guessed.
 */
static enum err_code
metas_check(struct walk *w, struct meta *ret)
{
    struct meta m[2];
    w->name = "meta";
    w->page_bytes = PAGE_BYTES_MIN;
    enum err_code code = meta_read(w, 0, &m[0]);
    size_t page_bytes = w->page_bytes;
    if (code == ERR_OK)
        code = meta_read(w, 1, &m[1]);
    if (code != ERR_OK)
        return code;
    if (w->page_bytes != page_bytes || m[0].free.flags != m[1].free.flags ||
        (m[0].free.flags & (FLAG_INTEGER | FLAG_FIXED)) != FLAG_INTEGER)
        return damaged(w, 1, "the meta pages contradict each other");
    bool virgin = m[0].txn == 0 && m[1].txn == 0;
    if (!virgin && (m[0].txn % 2 != 0 || m[1].txn % 2 != 1 ||
                    (m[0].txn + 1 != m[1].txn && m[1].txn + 1 != m[0].txn)))
        return damaged(w, 0, "transactions %" PRIu64 " and %" PRIu64 " do not follow each other",
                       m[0].txn, m[1].txn);
    *ret = m[m[1].txn > m[0].txn];
    return ERR_OK;
}

static enum err_code
check(struct walk *w)
{
    struct meta meta;
    struct stat st;
    enum err_code code = metas_check(w, &meta);
    if (code != ERR_OK)
        return code;
    /* A few pages at the end may never have been written, but not most of the file. */
    if (fstat(w->fd, &st) != 0)
        return err_set(w->err, ERR_IO, "queue %s: cannot look at " QUEUE_DATA_FILE, w->path);
    w->last_page = meta.last_page;
    w->txn = meta.txn;
    if (meta.last_page < 1 || meta.last_page / 8 > (uint64_t)st.st_size)
        return damaged(w, meta.txn & 1, "the last page cannot be %" PRIu64, meta.last_page);
    w->owned = xcalloc(1, meta.last_page / 8 + 1);
    code = tree_walk(w, FREE_LIST, "free list", sizeof(uint64_t), &meta.free, 0);
    /* Every transaction frees the root that it replaces. */
    if (code == ERR_OK && meta.txn > 1 && w->last_free_txn != meta.txn)
        code = damaged(w, meta.txn & 1, "its transaction freed nothing");
    if (code == ERR_OK)
        code = tree_walk(w, MAIN, "list of tables", 0, &meta.main, 0);
    return code;
}

enum err_code
queue_structure_check(int fd, const char *path, struct err *err)
{
    struct walk w = {.fd = fd, .path = path, .err = err};
    enum err_code code = check(&w);
    for (size_t i = 0; i < N_ELEMENTS(w.pages); i++)
        free(w.pages[i]);
    free(w.owned);
    return code;
}

bool
queue_structure_value(const void *value, size_t bytes, size_t key_bytes, size_t page_bytes,
                      const char *map, size_t map_bytes)
{
    const char *at = (const char *)value - sizeof(struct head);
    if (sizeof(struct node) + key_bytes + bytes <= node_max(page_bytes))
        return true;
    struct head h = head_of(at);
    bool mapped = map != NULL && at >= map && at < map + map_bytes;
    return (h.flags == PAGE_OVERFLOW || (!mapped && h.flags == (PAGE_OVERFLOW | PAGE_DIRTY))) &&
           pages_of(h) == overflow_pages(bytes, page_bytes) &&
           (!mapped || h.pgno == (uint64_t)(at - map) / page_bytes);
}
