/*
 * How: the trees are walked with pread(), so that a sector that cannot be read is an error and not
 * a signal; one page buffer a level, one bit a page.
 *
 *   meta 0, meta 1 -> free list: transaction -> page numbers
 *                  -> main: name -> root of a table -> branches -> leaves -> overflow pages
 */
#include "queue/structure.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"
#include "queue/structure_impl.h"

_Static_assert(sizeof(struct head) == 16 && sizeof(struct node) == 8, "as in LMDB's file");
_Static_assert(sizeof(struct tree) == 48 && sizeof(struct meta) == 136, "as in LMDB's file");

/* Keys of the tables that have one size. */
static const size_t key_sizes[TABLES] = {
    [TABLE_MESSAGE] = KEY_ID_BYTES,   [TABLE_BODY] = KEY_ID_NO_BYTES,
    [TABLE_INCOMING] = KEY_ID_BYTES,  [TABLE_RECIPIENT] = KEY_ID_NO_BYTES,
    [TABLE_FRESH] = KEY_ID_NO_BYTES,  [TABLE_SCHEDULE] = KEY_SCHEDULE_BYTES,
    [TABLE_HISTORY] = KEY_PAST_BYTES,
};

/* ---------------------------------------------------------------------------------- reading */

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
        return structure_damaged(w, page, "there is no such page");
    for (uint64_t p = page; p < page + n; p++) {
        unsigned char bit = (unsigned char)(1u << (p & 7));
        if ((w->owned[p >> 3] & bit) != 0)
            return structure_damaged(w, p, "it is in use twice");
        w->owned[p >> 3] |= bit;
    }
    return ERR_OK;
}

/* ------------------------------------------------------------------------------------ values */

/* Page numbers that may be used again: a count, then numbers that descend. */
static enum err_code
free_numbers(struct walk *w, uint64_t pgno, struct span value)
{
    uint64_t n, before = NO_PAGE;
    if (value.n < sizeof(n) || value.n % sizeof(n) != 0)
        return structure_damaged(w, pgno, "a list of %zu bytes", value.n);
    memcpy(&n, value.p, sizeof(n));
    if (n > value.n / sizeof(n) - 1)
        return structure_damaged(w, pgno, "a list of %zu bytes with %" PRIu64 " numbers", value.n,
                                 n);
    for (size_t i = 1; i <= n; i++) {
        uint64_t page;
        memcpy(&page, value.p + i * sizeof(page), sizeof(page));
        if (page >= before)
            return structure_damaged(w, pgno, "a list whose numbers do not descend");
        enum err_code code = own(w, page, 1);
        if (code != ERR_OK)
            return code;
        before = page;
    }
    return ERR_OK;
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
                   : structure_damaged(w, pgno, "entry %zu lies where no page is", i);
        if (code == ERR_OK && (h.pgno != first || h.flags != PAGE_OVERFLOW || pages_of(h) < n))
            code = structure_damaged(w, first, "its head is wrong");
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
        return structure_damaged(w, pgno, "entry %zu has flags %x", i, node.flags);
    if (w->kind == FREE_LIST) {
        memcpy(&w->last_free_txn, key_of(page, i).p, sizeof(w->last_free_txn));
        if (w->last_free_txn > w->txn)
            return structure_damaged(w, pgno, "a transaction that was never made");
    }
    if (w->kind == MAIN)
        return value_bytes(node) == sizeof(struct tree)
                   ? table_walk(w, key_of(page, i), value_of(page, i), level)
                   : structure_damaged(w, pgno, "a root of %zu bytes", value_bytes(node));
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
        return structure_damaged(w, pgno, "it says to be page %" PRIu64 ", of kind %x", h.pgno,
                                 h.flags);
    code = structure_layout_check(w, pgno, page, leaf);
    if (code == ERR_OK)
        code = structure_keys_check(w, pgno, page, leaf, low, high);
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
        return structure_damaged(w, want->root, "its root is wrong");
    if (want->root != NO_PAGE)
        code = page_walk(w, want->root, 1, level, NULL, NULL);
    if (code != ERR_OK)
        return code;
    if (w->found.branches != want->branches || w->found.leaves != want->leaves ||
        w->found.overflows != want->overflows || w->found.entries != want->entries)
        return structure_damaged(w, want->root, "its tree has not the size that its root tells");
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
                          : structure_damaged(w, which, "it is no meta page");
    if (ret->version != LMDB_FORMAT)
        return err_set(w->err, ERR_VERSION,
                       "queue %s: " QUEUE_DATA_FILE " has format %u of LMDB; this relayd reads %d",
                       w->path, (unsigned)ret->version, LMDB_FORMAT);
    size_t bytes = ret->free.pad;
    if (bytes < PAGE_BYTES_MIN || bytes > PAGE_BYTES_MAX || (bytes & (bytes - 1)) != 0)
        return structure_damaged(w, which, "a page size of %zu", bytes);
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
        return structure_damaged(w, 1, "the meta pages contradict each other");
    bool virgin = m[0].txn == 0 && m[1].txn == 0;
    if (!virgin && (m[0].txn % 2 != 0 || m[1].txn % 2 != 1 ||
                    (m[0].txn + 1 != m[1].txn && m[1].txn + 1 != m[0].txn)))
        return structure_damaged(
            w, 0, "transactions %" PRIu64 " and %" PRIu64 " do not follow each other", m[0].txn,
            m[1].txn);
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
        return structure_damaged(w, meta.txn & 1, "the last page cannot be %" PRIu64,
                                 meta.last_page);
    w->owned = xcalloc(1, meta.last_page / 8 + 1);
    code = tree_walk(w, FREE_LIST, "free list", sizeof(uint64_t), &meta.free, 0);
    /* Every transaction frees the root that it replaces. */
    if (code == ERR_OK && meta.txn > 1 && w->last_free_txn != meta.txn)
        code = structure_damaged(w, meta.txn & 1, "its transaction freed nothing");
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
