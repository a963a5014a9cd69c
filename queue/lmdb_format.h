/*
 * lmdb_format - what a data file consists of: LMDB's file format 1 (all of 0.9), as on 64-bit
 * little-endian machines. What a page says is taken as it is: structure_page.c says whether it can
 * be believed.
 */
#pragma once

#include "policy/base/span.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

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
#define PAGE_BYTES_MIN 512
#define PAGE_BYTES_MAX 65536
#define KEY_MAX 511          /* LMDB's own limit */
#define NODES_PER_LEAF_MIN 2 /* LMDB's own: larger values go to overflow pages */

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

static inline struct head
head_of(const char *page)
{
    struct head h;
    memcpy(&h, page, sizeof(h));
    return h;
}

static inline size_t
nodes_of(const char *page)
{
    return (head_of(page).lower - sizeof(struct head)) / 2;
}

static inline size_t
offset_of(const char *page, size_t i)
{
    uint16_t offset;
    memcpy(&offset, page + sizeof(struct head) + 2 * i, sizeof(offset));
    return offset;
}

static inline struct node
node_of(const char *page, size_t i)
{
    struct node n;
    memcpy(&n, page + offset_of(page, i), sizeof(n));
    return n;
}

static inline struct span
key_of(const char *page, size_t i)
{
    return span_of(page + offset_of(page, i) + sizeof(struct node), node_of(page, i).key_bytes);
}

static inline const char *
value_of(const char *page, size_t i)
{
    struct span key = key_of(page, i);
    return key.p + key.n;
}

static inline size_t
value_bytes(struct node n)
{
    return (size_t)n.lo | (size_t)n.hi << 16;
}

static inline uint64_t
child_of(struct node n)
{
    return (uint64_t)n.lo | (uint64_t)n.hi << 16 | (uint64_t)n.flags << 32;
}

/* A node that is larger than this has its value in overflow pages. */
static inline size_t
node_max(size_t page_bytes)
{
    return (((page_bytes - sizeof(struct head)) / NODES_PER_LEAF_MIN) & ~(size_t)1) - 2;
}

static inline size_t
overflow_pages(size_t bytes, size_t page_bytes)
{
    return (sizeof(struct head) - 1 + bytes) / page_bytes + 1;
}

/* How many pages the head of a value in overflow pages says it has. */
static inline size_t
pages_of(struct head h)
{
    return h.lower | (size_t)h.upper << 16;
}
