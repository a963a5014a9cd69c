/*
 * guard - slows down who guesses passwords: failures and waiting checks by network address.
 *
 * One IPv4 address, or one IPv6 /64, is one client here. Memory is bounded: the entry that was
 * touched longest ago is forgotten first, so that an attacker needs GUARD_ENTRIES_MAX networks to
 * make us forget one of his.
 */
#pragma once

#include "policy/base/ip.h"
#include "policy/base/map.h"
#include "policy/base/msec.h"

#include <stdbool.h>

#define GUARD_FAILURES 5              /* so many ... */
#define GUARD_WINDOW_MS (10 * MINUTE) /* ... within this time ... */
#define GUARD_BLOCK_MS (10 * MINUTE)  /* ... shut the client out for so long */
#define GUARD_WAITING_MAX 2           /* password checks of one client that wait or run */
#define GUARD_ENTRIES_MAX 65536

struct guard; /* opaque */

struct guard *guard_new(struct map_seed seed);
void guard_free(struct guard *g); /* NULL is fine */

/* Is the client shut out at monotonic `now`? */
bool guard_blocks(struct guard *g, const struct ip *client, msec_t now);
/* A password check begins; false: enough of them wait already. Each true needs a guard_leave(). */
bool guard_enter(struct guard *g, const struct ip *client);
void guard_leave(struct guard *g, const struct ip *client);
/* An AUTH of this client failed. True: that was one too many, the client is shut out from now on.
 */
bool guard_failed(struct guard *g, const struct ip *client, msec_t now);

size_t guard_entries(const struct guard *g); /* for tests */
