/*
 * map - hash map from byte strings to pointers, safe to fill with what strangers send.
 *
 * The hash is SipHash-1-3 with a secret key given at init, so nobody outside can choose keys that
 * collide. Open addressing, at most 7/8 full; removing leaves no tombstones. Keys are not copied:
 * the bytes belong to the caller and stay unchanged and alive while the entry is in the map
 * (usually they are part of the value). Values are never freed here. Not thread-safe.
 */
#pragma once

#include "policy/base/span.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct map_seed {
    uint64_t k0, k1;
};

struct map_slot;

struct map {
    struct map_slot *slots;
    size_t n;       /* entries */
    size_t n_slots; /* 0 or a power of two */
    struct map_seed seed;
};

/* SipHash-1-3 of the bytes of `key`. */
uint64_t map_hash(struct map_seed seed, struct span key);

/* An empty map; no memory is taken before the first put. Daemons pass a random seed. */
void map_init(struct map *map, struct map_seed seed);
/* Give back the table (not keys or values); the map is empty and usable afterwards. */
void map_release(struct map *map);

/* The value, or NULL when there is none. */
void *map_get(const struct map *map, struct span key);
/* Add or replace; `value` is not NULL. Returns the value replaced, or NULL. A replaced entry's key
 * bytes are replaced too, so the old value may be freed. */
void *map_put(struct map *map, struct span key, void *value);
/* Take the entry out. Returns its value, or NULL when there was none. */
void *map_remove(struct map *map, struct span key);

/*
 * Walk all entries in no order: start with *pos = 0; false at the end. Between two calls the map
 * may not change, except that the entry just returned may be removed when *pos is set back by one
 * (the walk then may meet an entry twice, but never misses one).
 */
bool map_next(const struct map *map, size_t *pos, struct span *ret_key, void **ret_value);
