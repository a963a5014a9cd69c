/*
 * Linear probing over a power-of-two table. An entry lies at its home slot or behind it without a
 * gap; removing moves later entries of the run back into the hole, so no tombstones pile up. The
 * hash is kept: growing does not read the keys, and a probe compares bytes only on equal hashes.
 */
#include "policy/base/map.h"

#include "policy/base/mem.h"

#include <assert.h>
#include <stdlib.h>

#define SLOTS_MIN 16

struct map_slot {
    uint64_t hash;
    struct span key;
    void *value; /* NULL: free */
};

static uint64_t
rotl(uint64_t x, int b)
{
    return (x << b) | (x >> (64 - b));
}

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline void
sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v1 = rotl(s->v1, 13) ^ s->v0;
    s->v0 = rotl(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotl(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotl(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotl(s->v1, 17) ^ s->v2;
    s->v2 = rotl(s->v2, 32);
}

static uint64_t
load_le64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

uint64_t
map_hash(struct map_seed seed, struct span key)
{
    struct sip s = {seed.k0 ^ 0x736f6d6570736575u, seed.k1 ^ 0x646f72616e646f6du,
                    seed.k0 ^ 0x6c7967656e657261u, seed.k1 ^ 0x7465646279746573u};
    size_t whole = key.n / 8 * 8;
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t m = load_le64(key.p + i);
        s.v3 ^= m;
        sip_round(&s);
        s.v0 ^= m;
    }
    uint64_t tail = (uint64_t)key.n << 56;
    for (size_t i = whole; i < key.n; i++)
        tail |= (uint64_t)(unsigned char)key.p[i] << (8 * (i - whole));
    s.v3 ^= tail;
    sip_round(&s);
    s.v0 ^= tail;
    s.v2 ^= 0xff;
    sip_round(&s);
    sip_round(&s);
    sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

void
map_init(struct map *map, struct map_seed seed)
{
    *map = (struct map){.seed = seed};
}

void
map_release(struct map *map)
{
    free(map->slots);
    *map = (struct map){.seed = map->seed};
}

/* The slot that holds `key`, or the free one where it belongs. The table has a free slot. */
static struct map_slot *
find_slot(const struct map *map, struct span key, uint64_t hash)
{
    size_t mask = map->n_slots - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct map_slot *slot = &map->slots[i];
        if (slot->value == NULL || (slot->hash == hash && span_eq(slot->key, key)))
            return slot;
    }
}

static void
grow(struct map *map)
{
    struct map_slot *old = map->slots;
    size_t n_old = map->n_slots;
    map->n_slots = n_old == 0 ? SLOTS_MIN : n_old * 2;
    map->slots = xcalloc(map->n_slots, sizeof(*map->slots));
    size_t mask = map->n_slots - 1;
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].value == NULL)
            continue;
        size_t at = old[i].hash & mask;
        while (map->slots[at].value != NULL)
            at = (at + 1) & mask;
        map->slots[at] = old[i];
    }
    free(old);
}

void *
map_get(const struct map *map, struct span key)
{
    if (map->n == 0)
        return NULL;
    return find_slot(map, key, map_hash(map->seed, key))->value;
}

void *
map_put(struct map *map, struct span key, void *value)
{
    assert(value != NULL);
    if (map->n + 1 > map->n_slots / 8 * 7)
        grow(map);
    uint64_t hash = map_hash(map->seed, key);
    struct map_slot *slot = find_slot(map, key, hash);
    void *old = slot->value;
    if (old == NULL)
        map->n++;
    *slot = (struct map_slot){.hash = hash, .key = key, .value = value};
    return old;
}

/* Close the hole at `hole`: move back every later entry of the run that may lie there. */
static void
close_hole(struct map *map, size_t hole)
{
    size_t mask = map->n_slots - 1;
    for (size_t i = (hole + 1) & mask; map->slots[i].value != NULL; i = (i + 1) & mask) {
        size_t home = map->slots[i].hash & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            map->slots[hole] = map->slots[i];
            hole = i;
        }
    }
    map->slots[hole] = (struct map_slot){0};
}

void *
map_remove(struct map *map, struct span key)
{
    if (map->n == 0)
        return NULL;
    struct map_slot *slot = find_slot(map, key, map_hash(map->seed, key));
    void *value = slot->value;
    if (value == NULL)
        return NULL;
    close_hole(map, (size_t)(slot - map->slots));
    map->n--;
    return value;
}

bool
map_next(const struct map *map, size_t *pos, struct span *ret_key, void **ret_value)
{
    while (*pos < map->n_slots) {
        const struct map_slot *slot = &map->slots[(*pos)++];
        if (slot->value == NULL)
            continue;
        if (ret_key != NULL)
            *ret_key = slot->key;
        if (ret_value != NULL)
            *ret_value = slot->value;
        return true;
    }
    return false;
}
