/*
 * structure - is the data file still a forest of pages that LMDB can walk?
 *
 * LMDB 0.9 keeps no checksums and believes every page number, offset and length that it reads: one
 * flipped bit in a page of a tree can crash it, make it run in circles, or let it write new pages
 * over mail. So before it opens the file, all pages that hold order (the two meta pages, branches,
 * leaves, the free list) are read once and held against each other; every page belongs to one owner
 * at the most. What records and bodies say is not looked at: they have checksums of their own.
 *
 * Costs one read of each such page at an open: little for a file of large messages, nearly the
 * whole file where messages are so small that they lie in the leaves.
 */
#pragma once

#include "policy/base/err.h"

#include <stdbool.h>
#include <stddef.h>

/*
 * Check the data file behind `fd`; `path` is the queue's, for the text. Nobody may write it.
 * ERR_CORRUPT: damaged, cut short, or no queue; ERR_VERSION: another format of LMDB; ERR_IO.
 */
MUST_CHECK enum err_code queue_structure_check(int fd, const char *path, struct err *err);

/*
 * Is the head of the pages right that hold a value of `bytes` outside its leaf? LMDB does not look
 * at it when it reads, but gives as many pages back as it says when the value is deleted. True for
 * values that lie in their leaf. `map` is where the file is mapped, NULL when it is not known.
 */
bool queue_structure_value(const void *value, size_t bytes, size_t key_bytes, size_t page_bytes,
                           const char *map, size_t map_bytes);
