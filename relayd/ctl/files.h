/*
 * files - new files that hold keys.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/span.h"

#include <sys/types.h>

/*
 * Make the file `path`, which must not be there yet, with exactly this mode, and put `bytes` into
 * it, synced. ERR_EXISTS, ERR_NOT_FOUND (the directory), ERR_PERM, ERR_IO; nothing is left behind.
 */
MUST_CHECK enum err_code
ctl_file_create(const char *path, mode_t mode, struct span bytes, struct err *err);

/* Take a file away again that ctl_file_create() just made. */
void ctl_file_discard(const char *path);

/* Read a file of at most `max` bytes. ERR_NOT_FOUND, ERR_PERM, ERR_LIMIT, ERR_IO. */
MUST_CHECK enum err_code
ctl_file_read(const char *path, size_t max, struct strbuf *ret, struct err *err);
