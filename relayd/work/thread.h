/*
 * thread - a helper thread of the daemon: it has a name, and signals do not come to it, but for
 * those of a crash (inhand.h), which ask no handler where they are blocked.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/mem.h"

#include <pthread.h>

/* Start it; `name` has at most 15 octets. ERR_AGAIN: the system has no thread for it. */
MUST_CHECK enum err_code
thread_start(pthread_t *ret, const char *name, void *(*run)(void *arg), void *arg, struct err *err);
