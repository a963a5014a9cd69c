/*
 * tls_memory - what opportunistic TLS did at a host lately: failed, or worked.
 *
 * A host whose handshake failed gets mail in clear for 3 days without being asked again; a host
 * whose TLS worked within 7 days and that stops to offer it looks like somebody in between
 * (behaviour.md). Owned by the daemon, shared by all connections, bounded: the oldest goes first.
 * Host names come from strangers' DNS, so the table is keyed. Loop thread only.
 */
#pragma once

#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>

#define TLS_MEMORY_MAX 20000 /* hosts; about 100 bytes each */
#define TLS_MEMORY_FAILED_MS (3 * DAY)
#define TLS_MEMORY_WORKED_MS (7 * DAY)

struct tls_memory;

/* `max` hosts, at least 1. */
struct tls_memory *tls_memory_new(size_t max);
void tls_memory_free(struct tls_memory *m); /* NULL is fine */

/* `host` in lower case; `now` on any clock that does not run back (the monotonic one). */
void tls_memory_failed(struct tls_memory *m, struct span host, msec_t now);
void tls_memory_worked(struct tls_memory *m, struct span host, msec_t now);

/* Failed less than TLS_MEMORY_FAILED_MS ago and did not work since. */
bool tls_memory_in_clear(const struct tls_memory *m, struct span host, msec_t now);
/* Worked less than TLS_MEMORY_WORKED_MS ago. */
bool tls_memory_was_there(const struct tls_memory *m, struct span host, msec_t now);
size_t tls_memory_count(const struct tls_memory *m);
