/*
 * H10: a fuzz target without memory. For each input, each allocation that the target makes fails
 * once, in a child of its own: the parser returns an error and keeps nothing, or the process ends
 * with "relayd: out of memory" (policy/base/mem.h). It never crashes, hangs or leaks.
 *
 *     nomem_NAME CASES SEED FILE...     at most CASES failing allocations of each file
 *     nomem_NAME =N FILE                only the N-th allocation, in this process: for a debugger
 *
 * The last line tells how many cases there were; the exit code is 1 when one was bad.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "policy/base/crypto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
bool fuzz_no_memory(void);

#define PATIENCE_SECONDS 20
#define TEXT_BYTES 4096
#define BAD_TOLD 5

enum { FINISHED = 0, LEAKED = 20 };

/* glibc's own, behind ours. */
extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t n);
extern void __libc_free(void *p);

static bool counting;
static long n_calls, fail_at; /* 0: none fails */
static long n_live;           /* blocks taken and not given back while counting */

static bool
fails(void)
{
    return counting && ++n_calls == fail_at;
}

bool
fuzz_no_memory(void)
{
    return fail_at > 0 && n_calls >= fail_at;
}

void *
malloc(size_t n)
{
    if (fails()) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = __libc_malloc(n);
    n_live += counting && p != NULL;
    return p;
}

void *
calloc(size_t n, size_t size)
{
    if (fails()) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = __libc_calloc(n, size);
    n_live += counting && p != NULL;
    return p;
}

void *
realloc(void *old, size_t n)
{
    /* No allocator fails to make a block smaller. */
    if ((old == NULL || n > malloc_usable_size(old)) && fails()) {
        errno = ENOMEM;
        return NULL;
    }
    void *p = __libc_realloc(old, n);
    n_live += counting && p != NULL && old == NULL;
    n_live -= counting && p == NULL && old != NULL && n == 0;
    return p;
}

void
free(void *p)
{
    n_live -= counting && p != NULL;
    __libc_free(p);
}

/* ------------------------------------------------------------------------------------- cases */

/* Allocations and blocks left of a run in which nothing fails. */
static void
measure(const uint8_t *data, size_t size, long *ret_calls, long *ret_live)
{
    n_calls = n_live = fail_at = 0;
    counting = true;
    LLVMFuzzerTestOneInput(data, size);
    counting = false;
    *ret_calls = n_calls;
    *ret_live = n_live;
}

static _Noreturn void
child(const uint8_t *data, size_t size, long at, long live, int err_fd)
{
    dup2(err_fd, STDERR_FILENO);
    dup2(err_fd, STDOUT_FILENO);
    alarm(PATIENCE_SECONDS);
    n_calls = n_live = 0;
    fail_at = at;
    counting = true;
    LLVMFuzzerTestOneInput(data, size);
    counting = false;
    if (n_live > live)
        fprintf(stderr, "%ld blocks are left, %ld without the fault\n", n_live, live);
    _exit(n_live > live ? LEAKED : FINISHED);
}

static bool
is_good(int status, const char *said)
{
    if (WIFEXITED(status))
        return WEXITSTATUS(status) == FINISHED;
    return WTERMSIG(status) == SIGABRT && strstr(said, "relayd: out of memory\n") != NULL;
}

static bool
one_case(const uint8_t *data, size_t size, long at, long live, const char *file)
{
    char said[TEXT_BYTES];
    int status, fd = memfd_create("said", MFD_CLOEXEC);
    pid_t pid = fork();
    if (pid == 0)
        child(data, size, at, live, fd);
    if (fd < 0 || pid < 0 || waitpid(pid, &status, 0) != pid)
        abort();
    ssize_t n = pread(fd, said, sizeof(said) - 1, 0);
    said[n < 0 ? 0 : n] = '\0';
    close(fd);
    if (is_good(status, said))
        return true;
    printf("%s: allocation %ld: %s %d: %s\n", file, at,
           WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "ended with",
           WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), said);
    fflush(stdout);
    return false;
}

static uint8_t *
read_file(const char *name, size_t *ret_size)
{
    struct stat st;
    int fd = open(name, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0)
        return NULL;
    uint8_t *data = malloc((size_t)st.st_size + 1);
    ssize_t n = read(fd, data, (size_t)st.st_size);
    close(fd);
    *ret_size = n < 0 ? 0 : (size_t)n;
    return data;
}

/* The case `at` of a file, here. */
static int
look(const char *file, long at)
{
    size_t size;
    long calls, live;
    uint8_t *data = read_file(file, &size);

    if (data == NULL)
        return 66;
    LLVMFuzzerTestOneInput(data, size);
    measure(data, size, &calls, &live);
    child(data, size, at, live, STDERR_FILENO);
}

int
main(int argc, char **argv)
{
    crypto_memory_setup(); /* as relayd does */
    if (argc == 3 && argv[1][0] == '=')
        return look(argv[2], atol(argv[1] + 1));
    long n_cases = 0, n_bad = 0, most = argc > 3 ? atol(argv[1]) : 0;
    srandom(argc > 3 ? (unsigned)atol(argv[2]) : 0);
    for (int i = 3; i < argc && n_bad < BAD_TOLD; i++) {
        size_t size;
        long calls, live;
        uint8_t *data = read_file(argv[i], &size);
        if (data == NULL)
            continue;
        LLVMFuzzerTestOneInput(data, size); /* what is made once is made */
        measure(data, size, &calls, &live);
        for (long k = 0; k < (calls < most ? calls : most) && n_bad < BAD_TOLD; k++) {
            long at = calls <= most ? k + 1 : 1 + random() % calls;
            n_cases++;
            n_bad += !one_case(data, size, at, live, argv[i]);
        }
        free(data);
    }
    printf("cases %ld bad %ld\n", n_cases, n_bad);
    return n_bad > 0;
}
