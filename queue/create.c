/*
 * How: a new queue is made under another name, synced, and put in its place by a rename, so that a
 * data file is either whole or not there. LMDB alone writes the first pages of a new file without
 * a sync: after a power cut at that moment it would be no database, and no start would mend it.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"

#define NEW_FILE QUEUE_DATA_FILE ".new"

static int
meta_put(MDB_txn *txn, MDB_dbi meta, const char *name, const void *p, size_t n)
{
    MDB_val key = {strlen(name), (void *)name}, value = {n, (void *)p};
    return mdb_put(txn, meta, &key, &value, 0);
}

/* All tables, the format and the secret behind the lanes. */
static int
tables_create(MDB_txn *txn, const unsigned char secret[static 16])
{
    MDB_dbi dbi[TABLES];
    unsigned char format[4];
    int rc = 0;
    for (size_t i = 0; i < sizeof(format); i++)
        format[i] = (unsigned char)((uint32_t)QUEUE_FORMAT >> (8 * i));
    for (enum table t = TABLE_META; rc == 0 && t < TABLES; t++)
        rc = mdb_dbi_open(txn, queue_table_names[t], MDB_CREATE, &dbi[t]);
    if (rc == 0)
        rc = meta_put(txn, dbi[TABLE_META], META_FORMAT, format, sizeof(format));
    if (rc == 0)
        rc = meta_put(txn, dbi[TABLE_META], META_LANE_SECRET, secret, 16);
    return rc;
}

static int
file_fill(MDB_env *env, const char *name, uint64_t map_bytes, const unsigned char *secret)
{
    MDB_txn *txn;
    int rc = mdb_env_set_mapsize(env, map_bytes);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(env, TABLES);
    if (rc == 0)
        rc = mdb_env_open(env, name, MDB_NOSUBDIR | MDB_NOLOCK, 0600); /* relayd.lock is held */
    if (rc == 0)
        rc = mdb_txn_begin(env, NULL, 0, &txn);
    if (rc != 0)
        return rc;
    rc = tables_create(txn, secret);
    if (rc == 0)
        return mdb_txn_commit(txn); /* synced */
    mdb_txn_abort(txn);
    return rc;
}

enum err_code
queue_create(struct queue *queue, struct err *err)
{
    char made[4096], name[4096];
    unsigned char secret[16];
    MDB_env *env;
    snprintf(made, sizeof(made), "%s/" NEW_FILE, queue->path);
    snprintf(name, sizeof(name), "%s/" QUEUE_DATA_FILE, queue->path);
    if (getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
        return err_set(err, ERR_IO, "queue %s: no random numbers: %s", queue->path,
                       strerror(errno));
    if (unlink(made) != 0 && errno != ENOENT)
        return queue_lmdb_err(queue, errno, "cannot remove " NEW_FILE, err);
    int rc = mdb_env_create(&env);
    if (rc == 0) {
        rc = file_fill(env, made, queue->map_bytes, secret);
        mdb_env_close(env);
    }
    if (rc != 0)
        return queue_lmdb_err(queue, rc, "cannot make " QUEUE_DATA_FILE, err);
    /* Its name becomes durable with the mark in the lock file: queue_lock_mark(). */
    if (rename(made, name) != 0)
        return queue_lmdb_err(queue, errno, "cannot rename " NEW_FILE, err);
    return ERR_OK;
}
