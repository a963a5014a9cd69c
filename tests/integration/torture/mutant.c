/*
 * mutant - LD_PRELOAD library that takes from a daemon what makes its queue durable, one thing at a
 * time: MUTANT=nometasync, nosync (LMDB's flags) or early (a commit says that it is done and is
 * made when the next one begins). A test of durability that passes with any of these is no test.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

static int
is(const char *name)
{
    const char *mutant = getenv("MUTANT");
    return mutant != NULL && strcmp(mutant, name) == 0;
}

EXPORT int
mdb_env_open(MDB_env *env, const char *path, unsigned flags, mdb_mode_t mode)
{
    int (*real)(MDB_env *, const char *, unsigned, mdb_mode_t);
    *(void **)&real = dlsym(RTLD_NEXT, "mdb_env_open");
    if (is("nometasync"))
        flags |= MDB_NOMETASYNC;
    if (is("nosync"))
        flags |= MDB_NOSYNC;
    return real(env, path, flags, mode);
}

/* The writer's transaction that was said to be committed; only the thread that began it may. */
static _Thread_local MDB_txn *owed, *writing;

EXPORT int
mdb_txn_commit(MDB_txn *txn)
{
    int (*real)(MDB_txn *);
    *(void **)&real = dlsym(RTLD_NEXT, "mdb_txn_commit");
    if (!is("early") || txn != writing || gettid() == getpid())
        return real(txn);
    owed = txn;
    return 0;
}

EXPORT int
mdb_txn_begin(MDB_env *env, MDB_txn *parent, unsigned flags, MDB_txn **ret)
{
    int (*real)(MDB_env *, MDB_txn *, unsigned, MDB_txn **);
    int (*commit)(MDB_txn *);
    *(void **)&real = dlsym(RTLD_NEXT, "mdb_txn_begin");
    *(void **)&commit = dlsym(RTLD_NEXT, "mdb_txn_commit");
    if ((flags & MDB_RDONLY) == 0 && owed != NULL) {
        int rc = commit(owed);
        owed = NULL;
        if (rc != 0)
            return rc;
    }
    int rc = real(env, parent, flags, ret);
    if (rc == 0 && (flags & MDB_RDONLY) == 0)
        writing = *ret;
    return rc;
}
