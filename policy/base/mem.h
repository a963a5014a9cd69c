/*
 * mem - allocation that does not fail, arenas, and scoped clean-up.
 *
 * Small allocations abort when memory is out, with "relayd: out of memory": the queue is
 * crash-safe, and a process that limps is worse than one that restarts. No message is blamed for
 * it. Sizes that a peer chooses are capped before they come here.
 */
#pragma once

#include <stddef.h>
#include <string.h>

/* End the process as these do: for libraries that say so in their own way. */
_Noreturn void out_of_memory(void);

void *xmalloc(size_t n) __attribute__((malloc, alloc_size(1), returns_nonnull));
void *xcalloc(size_t n, size_t size) __attribute__((malloc, alloc_size(1, 2), returns_nonnull));
void *xrealloc(void *p, size_t n) __attribute__((alloc_size(2), returns_nonnull));
char *xstrdup(const char *s) __attribute__((malloc, returns_nonnull));
/* NUL-terminated copy of n bytes. */
char *xstrndup(const char *s, size_t n) __attribute__((malloc, returns_nonnull));
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Run fn(&local) when the local goes out of scope: CLEANUP(freep) char *s = ... */
#define CLEANUP(fn) __attribute__((cleanup(fn)))
/* free() for CLEANUP: takes the address of any pointer. */
void freep(void *pointer_address);
/* The same for a secret, a string: overwritten first. */
void wipe_freep(char **secret);

#define N_ELEMENTS(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/*
 * An arena: many small objects with one life. Nothing is freed alone. Memory is zeroed.
 */
struct arena;
struct arena *arena_new(void);
void arena_free(struct arena *a); /* NULL is fine */
void *arena_alloc(struct arena *a, size_t n) __attribute__((alloc_size(2), returns_nonnull));
char *arena_strndup(struct arena *a, const char *s, size_t n) __attribute__((returns_nonnull));
char *arena_strdup(struct arena *a, const char *s) __attribute__((returns_nonnull));
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Bytes handed out so far: for tests and reports. */
size_t arena_used(const struct arena *a);
