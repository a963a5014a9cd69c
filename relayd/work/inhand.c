/*
 * How: stores to a shared mapping survive the process, so nothing is written at the crash but one
 * word and a line on stderr, which is all that a signal handler may do. It puts back what was there
 * before (the default, or a sanitizer's handler) and returns: the faulting instruction runs again
 * and the signal takes that way; abort() raises again by itself. A refused system call does not run
 * again, so its signal is raised here.
 */
#include "relayd/work/inhand.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct slot {
    _Atomic uint64_t id, print;
    _Atomic uint32_t signal; /* 0: no crash */
    uint32_t unused;
};

struct file {
    char magic[16];
    struct slot slots[INHAND_SLOTS];
};

static const char magic[16] = "relayd-in-hand-1";

#define CRASHED(signal) "relayd: crashed by " signal "\n"

static const struct {
    int signal;
    const char *text; /* NULL: who aborts has said why; of a system call there is more to say */
} signals[] = {
    {SIGSEGV, CRASHED("SIGSEGV")},
    {SIGBUS, CRASHED("SIGBUS")},
    {SIGFPE, CRASHED("SIGFPE")},
    {SIGABRT, NULL},
    {SIGSYS, NULL},
};

/* Globals, for a signal handler has no argument; set once before there are threads. */
static struct file *mapped;
static struct sigaction others[N_ELEMENTS(signals)];
static atomic_uint n_taken;
static _Thread_local struct slot *slot;

/* By the instruction that runs, or by abort(): not by kill(2) from whoever. */
static bool
is_our_own(int signal, const siginfo_t *info)
{
    if (signal == SIGABRT)
        return info->si_code == SI_TKILL && info->si_pid == getpid();
    return info->si_code > 0;
}

static void
tell(const char *text, size_t n)
{
    ssize_t written = write(STDERR_FILENO, text, n);
    (void)written; /* nobody else is there to be told */
}

/* "relayd: system call 59 is refused" */
static void
refused_tell(int call)
{
    static const char before[] = "relayd: system call ", after[] = " is refused\n";
    char text[sizeof(before) + sizeof(after) + 10];
    size_t n = sizeof(text) - (sizeof(after) - 1);

    memcpy(text + n, after, sizeof(after) - 1);
    do
        text[--n] = (char)('0' + call % 10);
    while ((call /= 10) > 0 && n > sizeof(before) - 1);
    n -= sizeof(before) - 1;
    memcpy(text + n, before, sizeof(before) - 1);
    tell(text + n, sizeof(text) - n);
}

static void
on_crash(int signal, siginfo_t *info, void *context)
{
    bool own = is_our_own(signal, info);
    (void)context;
    if (slot != NULL && own)
        atomic_store(&slot->signal, (uint32_t)signal);
    for (size_t i = 0; i < N_ELEMENTS(signals); i++) {
        if (signals[i].signal != signal)
            continue;
        sigaction(signal, &others[i], NULL);
        if (own && signals[i].text != NULL)
            tell(signals[i].text, strlen(signals[i].text));
    }
    if (own && signal == SIGSYS)
        refused_tell(info->si_syscall);
    if (!own || signal == SIGSYS)
        raise(signal); /* no instruction will fault again */
}

void
inhand_watch(void)
{
    struct sigaction action = {.sa_sigaction = on_crash,
                               .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        sigaction(signals[i].signal, &action, &others[i]);
}

void
inhand_unblock(sigset_t *blocked)
{
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        sigdelset(blocked, signals[i].signal);
}

/* What is in the file; anything but our own is as good as nothing. */
static size_t
take_marks(const struct file *file, struct inhand_mark *ret)
{
    size_t n = 0;
    if (memcmp(file->magic, magic, sizeof(magic)) != 0)
        return 0;
    for (size_t i = 0; i < INHAND_SLOTS; i++) {
        const struct slot *s = &file->slots[i];
        if (s->signal != 0 && (s->id != 0 || s->print != 0))
            ret[n++] = (struct inhand_mark){s->id, s->print, (int)s->signal};
    }
    return n;
}

/* Clear the file. It is written, not only made longer: a store to a page of the map for which the
 * disk has no block would kill us. */
static enum err_code
file_clear(int fd, const char *path, struct err *err)
{
    struct file empty;
    memset(&empty, 0, sizeof(empty));
    memcpy(empty.magic, magic, sizeof(magic));
    ssize_t n = pwrite(fd, &empty, sizeof(empty), 0);
    if (n == (ssize_t)sizeof(empty))
        return ERR_OK;
    if (n >= 0)
        errno = ENOSPC; /* a part of it found room */
    return err_set(err, errno == ENOSPC || errno == EDQUOT ? ERR_FULL : ERR_IO, "%s: %m", path);
}

static enum err_code
file_open(int fd, const char *path, struct inhand_mark *ret, size_t *ret_n, struct err *err)
{
    struct file before;
    ssize_t n = pread(fd, &before, sizeof(before), 0);
    if (n < 0)
        return err_set(err, ERR_IO, "%s: %m", path);
    if (n == (ssize_t)sizeof(before))
        *ret_n = take_marks(&before, ret);
    enum err_code code = file_clear(fd, path, err);
    if (code != ERR_OK)
        return code;
    void *map = mmap(NULL, sizeof(struct file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return err_set(err, ERR_IO, "%s: cannot be mapped: %m", path);
    mapped = map;
    return ERR_OK;
}

enum err_code
inhand_open(const char *path, struct inhand_mark *ret, size_t *ret_n, struct err *err)
{
    *ret_n = 0;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err,
                       errno == EACCES || errno == EROFS    ? ERR_PERM
                       : errno == ENOSPC || errno == EDQUOT ? ERR_FULL
                                                            : ERR_IO,
                       "%s: %m", path);
    enum err_code code = file_open(fd, path, ret, ret_n, err);
    close(fd);
    return code;
}

uint64_t
inhand_enter(uint64_t id)
{
    if (mapped == NULL)
        return 0;
    if (slot == NULL) {
        static _Thread_local struct slot none; /* for threads that find no place */
        unsigned i = atomic_fetch_add(&n_taken, 1);
        slot = i < INHAND_SLOTS ? &mapped->slots[i] : &none;
    }
    return atomic_exchange_explicit(&slot->id, id, memory_order_relaxed);
}

void
inhand_leave(uint64_t before)
{
    if (mapped == NULL || slot == NULL)
        return;
    atomic_store_explicit(&slot->id, before, memory_order_relaxed);
    if (before == 0)
        atomic_store_explicit(&slot->print, 0, memory_order_relaxed);
}

void
inhand_print(uint64_t print)
{
    if (mapped != NULL && slot != NULL)
        atomic_store_explicit(&slot->print, print, memory_order_relaxed);
}

void
inhand_leavep(const uint64_t *before)
{
    inhand_leave(*before);
}

uint64_t
inhand_hash(const char *bytes, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a: stable, and fooling it only hurts oneself */
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001b3u;
    return hash == 0 ? 1 : hash;
}
