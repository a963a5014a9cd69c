/*
 * Memory that is out for a moment. Preloaded into relayd: allocation NOMEM_AT, and NOMEM_TIMES in
 * all from there, fail. Told in the log as event=nomem.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's own, behind ours. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);

static atomic_long n_calls, at, times;

__attribute__((constructor)) static void
setup(void)
{
    const char *first = getenv("NOMEM_AT"), *count = getenv("NOMEM_TIMES");
    if (first == NULL || count == NULL)
        return;
    times = atol(count);
    at = atomic_load(&n_calls) + atol(first);
}

static int
fails(void)
{
    static const char text[] = "event=nomem\n";
    long n = atomic_fetch_add(&n_calls, 1), from = atomic_load(&at);
    if (from == 0 || n < from || n >= from + atomic_load(&times))
        return 0;
    if (n == from && syscall(SYS_write, 2, text, sizeof(text) - 1) < 0)
        return 0; /* a fault that nobody hears of proves nothing */
    errno = ENOMEM;
    return 1;
}

void *
malloc(size_t n)
{
    return fails() ? NULL : __libc_malloc(n);
}

void *
calloc(size_t n, size_t size)
{
    return fails() ? NULL : __libc_calloc(n, size);
}

void *
realloc(void *p, size_t n)
{
    return fails() ? NULL : __libc_realloc(p, n);
}
