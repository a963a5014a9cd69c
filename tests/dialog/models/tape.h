/*
 * tape - bytes that decide what happens: of a fuzzer, or of a seeded generator.
 *
 * A dialogue is decoded from a tape, so that whatever a mutation does to it is again a dialogue. An
 * empty tape gives zeros: the choice listed first is the one that ends things.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tape {
    const uint8_t *p;
    size_t n;
};

static inline unsigned
tape_byte(struct tape *t)
{
    if (t->n == 0)
        return 0;
    t->n--;
    return *t->p++;
}

/* 0 .. n-1; n is at most 256. */
static inline unsigned
tape_pick(struct tape *t, unsigned n)
{
    return tape_byte(t) % n;
}

/* True in `of` of 256 cases. */
static inline bool
tape_chance(struct tape *t, unsigned of)
{
    return tape_byte(t) >= 256 - of;
}

/* The next state of a generator, for filling tapes (Vigna's splitmix64). */
static inline uint64_t
tape_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
