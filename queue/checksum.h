/*
 * checksum - CRC-32C of records and bodies: LMDB itself keeps none, and a flipped bit must set one
 * message aside instead of being delivered.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* CRC-32C of n bytes; `seed` is 0 or the result for the bytes before these. */
uint32_t checksum(uint32_t seed, const void *p, size_t n);

/* The same without help of the processor: what other machines use, for tests. */
uint32_t checksum_portable(uint32_t seed, const void *p, size_t n);
