/*
 * Memory that is out for a moment. Preloaded into relayd: allocation NOMEM_AT, and NOMEM_TIMES in
 * all from there, fail; with NOMEM_FILTER it is counted from where libseccomp begins. Told in the
 * log as event=nomem. The C library's look-up of users is spared:
 * glibc 2.36 does not survive it (nss_database.c goes through a NULL, or asserts), and relayd asks
 * it at its start alone.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* glibc's own, behind ours. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);

static atomic_long n_calls, at, times;
static int spared; /* set before there are threads */

__attribute__((constructor)) static void
setup(void)
{
    const char *first = getenv("NOMEM_AT"), *count = getenv("NOMEM_TIMES");
    if (first == NULL || count == NULL)
        return;
    times = atol(count);
    if (getenv("NOMEM_FILTER") == NULL)
        at = atomic_load(&n_calls) + atol(first);
}

static int
fails(void)
{
    static const char text[] = "event=nomem\n";
    if (spared)
        return 0;
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

struct passwd *
getpwnam(const char *name)
{
    struct passwd *(*real)(const char *) = dlsym(RTLD_NEXT, "getpwnam");
    spared = 1;
    struct passwd *pw = real(name);
    spared = 0;
    return pw;
}

int
getgrouplist(const char *name, gid_t group, gid_t *groups, int *n)
{
    int (*real)(const char *, gid_t, gid_t *, int *) = dlsym(RTLD_NEXT, "getgrouplist");
    spared = 1;
    int found = real(name, group, groups, n);
    spared = 0;
    return found;
}

void *
seccomp_init(uint32_t action)
{
    void *(*real)(uint32_t) = dlsym(RTLD_NEXT, "seccomp_init");
    if (getenv("NOMEM_FILTER") != NULL)
        at = atomic_load(&n_calls) + atol(getenv("NOMEM_AT"));
    return real(action);
}
