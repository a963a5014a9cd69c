/*
 * How: a page is an array of offsets from its front and nodes from its end. Where nodes begin and
 * where they end are two sets of bits; without gap or overlap they are the same.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "queue/queue_impl.h"
#include "queue/structure_impl.h"

#define WORDS (PAGE_BYTES_MAX / 2 / 64)

enum err_code
structure_damaged(struct walk *w, uint64_t page, const char *fmt, ...)
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

enum err_code
structure_layout_check(struct walk *w, uint64_t pgno, const char *page, bool leaf)
{
    uint64_t begins[WORDS], ends[WORDS];
    struct head h = head_of(page);
    size_t words = w->page_bytes / 2 / 64;
    if (h.lower < sizeof(h) || (h.lower & 1) != 0 || h.lower > h.upper || (h.upper & 1) != 0 ||
        h.upper > w->page_bytes)
        return structure_damaged(w, pgno, "its head is wrong");
    size_t n = nodes_of(page);
    if (n < (leaf || w->kind == FREE_LIST ? 1 : 2))
        return structure_damaged(w, pgno, "it holds %zu entries", n);
    memset(begins, 0, words * sizeof(begins[0]));
    memset(ends, 0, words * sizeof(ends[0]));
    bit_is_new(ends, h.upper / 2 % (w->page_bytes / 2));
    for (size_t i = 0; i < n; i++) {
        size_t bytes = node_bytes(w, page, i, leaf), at = offset_of(page, i);
        if (bytes == 0)
            return structure_damaged(w, pgno, "entry %zu lies outside of it", i);
        bool good = bit_is_new(begins, at / 2);
        if (at + bytes < w->page_bytes)
            good = bit_is_new(ends, (at + bytes) / 2) && good;
        if (!good)
            return structure_damaged(w, pgno, "entry %zu overlaps another one", i);
    }
    return memcmp(begins, ends, words * sizeof(begins[0])) == 0
               ? ERR_OK
               : structure_damaged(w, pgno, "its entries overlap or leave gaps");
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

enum err_code
structure_keys_check(struct walk *w, uint64_t pgno, const char *page, bool leaf,
                     const struct span *low, const struct span *high)
{
    size_t n = nodes_of(page), first = leaf ? 0 : 1;
    for (size_t i = first; i < n; i++) {
        struct span key = key_of(page, i);
        if (key.n == 0 || key.n > KEY_MAX || (w->key_bytes != 0 && key.n != w->key_bytes))
            return structure_damaged(w, pgno, "a key of %zu bytes", key.n);
        if (i > first && key_cmp(w, key_of(page, i - 1), key) >= 0)
            return structure_damaged(w, pgno, "key %zu is out of order", i);
    }
    if ((low != NULL && n > first && key_cmp(w, key_of(page, first), *low) < 0) ||
        (high != NULL && n > first && key_cmp(w, key_of(page, n - 1), *high) >= 0))
        return structure_damaged(w, pgno, "its keys belong elsewhere");
    return ERR_OK;
}
