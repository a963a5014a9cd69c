/*
 * users - names and password hashes for SMTP AUTH, one "name:hash" a line.
 *
 * Hashes are crypt(3) strings; we write yescrypt ("$y$"), and take every method that libcrypt calls
 * good. Empty lines and lines that begin with "#" are skipped (and kept by the rewriting calls). A
 * table is immutable, so any thread may verify against it. Names are compared byte for byte.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>

#define USERS_NAME_MAX 128     /* a name is a login or a mail address */
#define USERS_PASSWORD_MAX 511 /* what crypt(3) takes (CRYPT_MAX_PASSPHRASE_SIZE less its NUL) */
#define USERS_MAX 100000       /* lines with a user; a relay has a handful */
#define USERS_FILE_MAX (32u << 20)
#define USERS_HASH_BUF 384     /* CRYPT_OUTPUT_SIZE */
#define USERS_GENERATED_MAX 32 /* a generated password with its NUL fits */

struct users; /* opaque */

/*
 * Read the text of a users file; `file` is its name for messages. Errors name FILE:LINE:
 * ERR_INVAL (no colon, a bad name, a name twice, a hash that no method of libcrypt knows or that is
 * a weak one), ERR_LIMIT. Hashes are never part of a message. Free with users_free().
 */
MUST_CHECK enum err_code
users_parse(struct span text, const char *file, struct users **ret, struct err *err);
/*
 * users_parse() of what is in the file. Also ERR_NOT_FOUND, ERR_IO, and ERR_PERM when others than
 * owner and group can read it, or when we cannot (the message holds the chown line then).
 */
MUST_CHECK enum err_code users_load(const char *path, struct users **ret, struct err *err);
void users_free(struct users *u); /* NULL is fine; the hashes are wiped */

/* How many users there are. */
size_t users_count(const struct users *u);
/* Is there a user of this name? (Not for a client to know.) */
bool users_has(const struct users *u, struct span name);

/*
 * Is this the user's password? Takes as long as the hash was made to take (20 to 100 ms), so it
 * belongs into a worker; an unknown name takes as long as a wrong password. Thread-safe. Needs a
 * heap block of 32 KiB for its run, wiped afterwards.
 */
bool users_verify(const struct users *u, struct span name, struct span password);

/*
 * Set the user's password in the file, which is made when it is not there. The file is replaced
 * as a whole (a temporary file beside it, fsync, rename), with mode 0600 and its old owner.
 * ERR_INVAL: a name with ":", white space or controls, or one too long; an empty or too long
 * password. Two callers at once wait for each other (a lock on the directory).
 */
MUST_CHECK enum err_code
users_add(const char *path, struct span name, struct span password, struct err *err);
/* Take the user out of the file; ERR_NOT_FOUND when he is not in it. Replaces as users_add(). */
MUST_CHECK enum err_code users_remove(const char *path, struct span name, struct err *err);

/* What may be a user's name: 1..USERS_NAME_MAX octets of UTF-8, no ":", blanks or controls, no "#"
 * in front. */
bool users_name_valid(struct span name);
/* A fresh yescrypt hash of the password. ERR_INVAL: empty, too long, or with a NUL. */
MUST_CHECK enum err_code
users_hash(struct span password, char ret[USERS_HASH_BUF], struct err *err);

/* A random password of 24 letters and digits (142 bits). Returns buf. */
char *users_generate(char buf[USERS_GENERATED_MAX]);
