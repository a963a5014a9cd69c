#include "policy/base/mem.h"

#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ARENA_BLOCK_BYTES 16384
#define ARENA_ALIGN 16

/* No message is to blame for it: the handler that notes what was in hand at a crash of our own
 * (relayd/work/inhand.h) is left out. */
void
out_of_memory(void)
{
    static const char text[] = "relayd: out of memory\n";
    signal(SIGABRT, SIG_DFL);
    if (write(STDERR_FILENO, text, sizeof(text) - 1) != (ssize_t)sizeof(text) - 1)
        abort(); /* nobody reads it: the core file tells as much */
    abort();
}

void *
xmalloc(size_t n)
{
    void *p = malloc(n == 0 ? 1 : n);
    if (p == NULL)
        out_of_memory();
    return p;
}

void *
xcalloc(size_t n, size_t size)
{
    void *p = calloc(n == 0 ? 1 : n, size == 0 ? 1 : size);
    if (p == NULL)
        out_of_memory();
    return p;
}

void *
xrealloc(void *p, size_t n)
{
    void *q = realloc(p, n == 0 ? 1 : n);
    if (q == NULL)
        out_of_memory();
    return q;
}

char *
xstrndup(const char *s, size_t n)
{
    char *p = xmalloc(n + 1);
    if (n > 0)
        memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *
xstrdup(const char *s)
{
    return xstrndup(s, strlen(s));
}

char *
xasprintf(const char *fmt, ...)
{
    va_list ap;
    char *s;
    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        out_of_memory();
    va_end(ap);
    return s;
}

void
freep(void *pointer_address)
{
    void *p;
    memcpy(&p, pointer_address, sizeof(p));
    free(p);
}

void
wipe_freep(char **secret)
{
    if (*secret != NULL)
        explicit_bzero(*secret, strlen(*secret));
    free(*secret);
}

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(ARENA_ALIGN) char bytes[];
};

struct arena {
    struct arena_block *blocks; /* the first one is being filled */
    size_t used;
};

struct arena *
arena_new(void)
{
    return xcalloc(1, sizeof(struct arena));
}

void
arena_free(struct arena *a)
{
    if (a == NULL)
        return;
    for (struct arena_block *b = a->blocks, *next; b != NULL; b = next) {
        next = b->next;
        free(b);
    }
    free(a);
}

static struct arena_block *
block_new(size_t size)
{
    struct arena_block *b = xmalloc(sizeof(*b) + size); /* zeroed as it is given out */
    b->next = NULL;
    b->used = 0;
    b->size = size;
    return b;
}

void *
arena_alloc(struct arena *a, size_t n)
{
    if (n > SIZE_MAX - ARENA_ALIGN - sizeof(struct arena_block))
        out_of_memory();
    size_t want = (n + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    if (want == 0)
        want = ARENA_ALIGN;
    a->used += want;
    struct arena_block *b = a->blocks;
    if (b == NULL || b->size - b->used < want) {
        if (want > ARENA_BLOCK_BYTES / 4 && b != NULL) {
            /* Big objects get a block of their own behind the one being filled. */
            struct arena_block *own = block_new(want);
            own->used = want;
            own->next = b->next;
            b->next = own;
            return memset(own->bytes, 0, want);
        }
        b = block_new(want > ARENA_BLOCK_BYTES ? want : ARENA_BLOCK_BYTES);
        b->next = a->blocks;
        a->blocks = b;
    }
    void *p = b->bytes + b->used;
    b->used += want;
    return memset(p, 0, want);
}

char *
arena_strndup(struct arena *a, const char *s, size_t n)
{
    char *p = arena_alloc(a, n + 1);
    if (n > 0)
        memcpy(p, s, n);
    return p;
}

char *
arena_strdup(struct arena *a, const char *s)
{
    return arena_strndup(a, s, strlen(s));
}

char *
arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        out_of_memory();
    char *p = arena_alloc(a, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

size_t
arena_used(const struct arena *a)
{
    return a->used;
}
