#include "policy/base/crypto.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"

static void *
crypto_malloc(size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return xmalloc(n);
}

static void *
crypto_realloc(void *p, size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return xrealloc(p, n);
}

static void
crypto_free(void *p, const char *file, int line)
{
    (void)file;
    (void)line;
    free(p);
}

void
crypto_memory_setup(void)
{
    if (!CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free)) {
        fputs("relayd: libcrypto took memory before the program began\n", stderr);
        abort();
    }
}
