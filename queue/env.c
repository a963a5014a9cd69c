/*
 * How: lock, look whether what is there is whole (structure.c) and make what is not, open LMDB with
 * its default durability (never WRITEMAP, NOSYNC or NOMETASYNC), check length and format, open the
 * tables, sweep. Handles of tables are opened once here and are the same for every transaction.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"
#include "queue/structure.h"

#define DEFAULT_MAX_BYTES (64ull << 30)
#define DEFAULT_MIN_FREE_BYTES (1ull << 30)
#define MAP_FACTOR 4 /* so that the map is never full before the quota is */
#define MAP_MIN_BYTES (1u << 20)
/* Of the data file, when the quota was lowered below what is in it. Pages that a commit frees serve
 * from the next but one on, and a commit that fails brings none nearer: without pages to spare a
 * full map stays full, though every outcome would make room. */
#define MAP_FILE_FACTOR 2
#define READERS_MAX 126 /* LMDB's default: reader threads, relayctl, mdb_copy */

const char *const queue_table_names[TABLES] = {
    "meta", "message", "body", "incoming", "recipient", "fresh", "schedule", "state", "history"};

/* ---------------------------------------------------------------------------------- errors */

static enum err_code
lmdb_code(int rc)
{
    switch (rc) {
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ERR_FULL;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_INCOMPATIBLE:
        return ERR_CORRUPT;
    case MDB_VERSION_MISMATCH:
        return ERR_VERSION;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_PERM;
    case MDB_READERS_FULL:
        return ERR_LIMIT;
    case MDB_NOTFOUND:
    case ENOENT:
        return ERR_NOT_FOUND;
    default:
        return ERR_IO;
    }
}

enum err_code
queue_lmdb_err(const struct queue *queue, int rc, const char *what, struct err *err)
{
    return err_set(err, lmdb_code(rc), "queue %s: %s: %s", queue->path, what, mdb_strerror(rc));
}

/* ------------------------------------------------------------------------------- meta rows */

static int
meta_get(struct queue *queue, MDB_txn *txn, const char *name, MDB_val *ret)
{
    MDB_val key = {strlen(name), (void *)name};
    return mdb_get(txn, queue->dbi[TABLE_META], &key, ret);
}

static int
meta_put(struct queue *queue, MDB_txn *txn, const char *name, const void *p, size_t n)
{
    MDB_val key = {strlen(name), (void *)name}, value = {n, (void *)p};
    return mdb_put(txn, queue->dbi[TABLE_META], &key, &value, 0);
}

static uint64_t
from_little_endian(MDB_val v)
{
    uint64_t n = 0;
    for (size_t i = 0; i < v.mv_size && i < 8; i++)
        n |= (uint64_t)((const unsigned char *)v.mv_data)[i] << (8 * i);
    return n;
}

static enum err_code
format_check(struct queue *queue, MDB_txn *txn, struct queue_info *info, struct err *err)
{
    MDB_val v;
    int rc = meta_get(queue, txn, META_FORMAT, &v);
    if (rc == MDB_NOTFOUND || (rc == 0 && v.mv_size != 4))
        return err_set(err, ERR_CORRUPT, "queue %s: data.mdb is no queue: it has no format number",
                       queue->path);
    if (rc != 0)
        return queue_lmdb_err(queue, rc, "cannot read the format", err);
    info->format = (uint32_t)from_little_endian(v);
    if (info->format == 0)
        return err_set(err, ERR_CORRUPT, "queue %s: its format number is damaged", queue->path);
    if (info->format > QUEUE_FORMAT)
        return err_set(err, ERR_VERSION,
                       "queue %s: it has format %u, written by a newer relayd; this one reads up "
                       "to format %d",
                       queue->path, (unsigned)info->format, QUEUE_FORMAT);
    return ERR_OK;
}

/* The highest id at the end of a table whose keys start with one. */
static int
last_id_of(struct queue *queue, MDB_txn *txn, enum table table, uint64_t *top)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, queue->dbi[table], &cursor);
    if (rc != 0)
        return rc;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
    if (rc == 0 && key.mv_size >= KEY_ID_BYTES && key_number(key.mv_data, 8) > *top)
        *top = key_number(key.mv_data, 8);
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static enum err_code
meta_load(struct queue *queue, MDB_txn *txn, struct queue_info *info, struct err *err)
{
    MDB_val v;
    uint64_t top = 0;
    int rc = meta_get(queue, txn, META_LANE_SECRET, &v);
    if (rc != 0 || v.mv_size != 16)
        return err_set(err, ERR_CORRUPT, "queue %s: the secret of its lanes is missing",
                       queue->path);
    queue->lane_seed.k0 = key_number(v.mv_data, 8);
    queue->lane_seed.k1 = key_number((const char *)v.mv_data + 8, 8);
    if (meta_get(queue, txn, META_NODE, &v) == 0)
        snprintf(info->node, sizeof(info->node), "%.*s", (int)v.mv_size, (const char *)v.mv_data);
    if (meta_get(queue, txn, META_LAST_ID, &v) == 0)
        top = from_little_endian(v);
    queue->saved_id = top;
    for (enum table t = TABLE_MESSAGE; t <= TABLE_INCOMING; t++)
        if ((rc = last_id_of(queue, txn, t, &top)) != 0)
            return queue_lmdb_err(queue, rc, "cannot read", err);
    atomic_store(&queue->last_id, top);
    return ERR_OK;
}

/* ------------------------------------------------------------------------------------ open */

static enum err_code
tables_open(struct queue *queue, MDB_txn *txn, struct queue_info *info, struct err *err)
{
    /* The format first: a newer one may have other tables. */
    int rc = mdb_dbi_open(txn, queue_table_names[TABLE_META], 0, &queue->dbi[TABLE_META]);
    if (rc == MDB_NOTFOUND)
        return err_set(err, ERR_CORRUPT, "queue %s: data.mdb is no queue: it has no meta table",
                       queue->path);
    if (rc != 0)
        return queue_lmdb_err(queue, rc, "cannot open table meta", err);
    enum err_code code = format_check(queue, txn, info, err);
    for (enum table t = TABLE_META + 1; code == ERR_OK && t < TABLES; t++) {
        rc = mdb_dbi_open(txn, queue_table_names[t], 0, &queue->dbi[t]);
        if (rc == MDB_NOTFOUND)
            code = err_set(err, ERR_CORRUPT, "queue %s: table %s is missing", queue->path,
                           queue_table_names[t]);
        else if (rc != 0)
            code = queue_lmdb_err(queue, rc, "cannot open its tables", err);
    }
    return code;
}

static enum err_code
node_keep(struct queue *queue, MDB_txn *txn, const char *node, const struct queue_info *info,
          struct err *err)
{
    if (node == NULL || strcmp(node, info->node) == 0)
        return ERR_OK;
    int rc = meta_put(queue, txn, META_NODE, node, strlen(node));
    return rc == 0 ? ERR_OK : queue_lmdb_err(queue, rc, "cannot write the node's name", err);
}

static enum err_code
tables_load(struct queue *queue, const struct queue_options *options, struct queue_info *info,
            struct err *err)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(queue->env, NULL, queue->read_only ? MDB_RDONLY : 0, &txn);
    if (rc != 0)
        return queue_lmdb_err(queue, rc, "cannot begin", err);
    enum err_code code = tables_open(queue, txn, info, err);
    if (code == ERR_OK)
        code = meta_load(queue, txn, info, err);
    if (code == ERR_OK && !queue->read_only)
        code = node_keep(queue, txn, options->node, info, err);
    if (code != ERR_OK) {
        mdb_txn_abort(txn);
        return code;
    }
    rc = mdb_txn_commit(txn);
    return rc == 0 ? ERR_OK : queue_lmdb_err(queue, rc, "cannot commit", err);
}

/* A queue that was here must still be here, and whole; where none was, one is made. */
static enum err_code
data_file_ready(struct queue *queue, bool made_before, struct queue_info *info, struct err *err)
{
    char name[4096];
    struct stat st;
    snprintf(name, sizeof(name), "%s/" QUEUE_DATA_FILE, queue->path);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT)
        return queue_lmdb_err(queue, errno, "cannot open " QUEUE_DATA_FILE, err);
    bool there = fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0;
    enum err_code code = there ? queue_structure_check(fd, queue->path, err) : ERR_OK;
    if (fd >= 0)
        close(fd);
    if (code != ERR_OK)
        return code;
    if (!there && made_before)
        return err_set(err, ERR_CORRUPT,
                       "queue %s: it was here, but " QUEUE_DATA_FILE " is missing or empty: put "
                       "it back, or remove " QUEUE_LOCK_FILE " too to begin an empty queue",
                       queue->path);
    if (!there && queue->read_only)
        return err_set(err, ERR_NOT_FOUND, "queue %s: there is no queue in it", queue->path);
    info->created = !there;
    return there ? ERR_OK : queue_create(queue, err);
}

/* The map is for what is there, too. */
static void
map_fit_file(struct queue *queue)
{
    char name[4096];
    struct stat st;
    snprintf(name, sizeof(name), "%s/" QUEUE_DATA_FILE, queue->path);
    if (stat(name, &st) == 0 && queue->map_bytes / MAP_FILE_FACTOR < (uint64_t)st.st_size)
        queue->map_bytes = (uint64_t)st.st_size * MAP_FILE_FACTOR;
}

static enum err_code
env_open(struct queue *queue, struct err *err)
{
    MDB_stat stat;
    int dead;
    map_fit_file(queue);
    int rc = mdb_env_create(&queue->env);
    if (rc == 0)
        rc = mdb_env_set_mapsize(queue->env, queue->map_bytes);
    if (rc == 0)
        rc = mdb_env_set_maxdbs(queue->env, TABLES);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(queue->env, READERS_MAX);
    if (rc == 0)
        rc = mdb_env_open(queue->env, queue->path, MDB_NOTLS | (queue->read_only ? MDB_RDONLY : 0),
                          0600);
    if (rc != 0) {
        enum err_code code = queue_lmdb_err(queue, rc, "cannot open " QUEUE_DATA_FILE, err);
        return code == ERR_NOT_FOUND ? ERR_IO : code;
    }
    int fd;
    if (mdb_env_get_fd(queue->env, &fd) == 0)
        fcntl(fd, F_SETFD, FD_CLOEXEC); /* LMDB 0.9.24 forgets it */
    mdb_reader_check(queue->env, &dead);
    mdb_env_stat(queue->env, &stat);
    queue->page_bytes = stat.ms_psize;
    return ERR_OK;
}

static uint64_t
min_free_default(const char *path)
{
    struct statvfs fs;
    uint64_t most = DEFAULT_MIN_FREE_BYTES;
    if (statvfs(path, &fs) == 0 && (uint64_t)fs.f_blocks * fs.f_frsize / 20 < most)
        most = (uint64_t)fs.f_blocks * fs.f_frsize / 20;
    return most;
}

bool
queue_limits_set(struct queue *queue, uint64_t max_bytes, int64_t min_free_bytes)
{
    uint64_t most = queue->map_bytes / MAP_FACTOR;
    uint64_t wanted = max_bytes == 0 ? DEFAULT_MAX_BYTES : max_bytes;
    atomic_store(&queue->max_bytes, wanted > most ? most : wanted);
    atomic_store(&queue->min_free_bytes,
                 min_free_bytes < 0 ? min_free_default(queue->path) : (uint64_t)min_free_bytes);
    return wanted <= most;
}

static enum err_code
open_all(struct queue *queue, const struct queue_options *options, struct queue_info *info,
         struct err *err)
{
    bool made_before;
    enum err_code code = queue_lock(queue, !queue->read_only, info, &made_before, err);
    if (code == ERR_OK)
        code = data_file_ready(queue, made_before, info, err);
    if (code == ERR_OK)
        code = env_open(queue, err);
    if (code == ERR_OK)
        code = queue_length_check(queue, err);
    if (code == ERR_OK)
        code = tables_load(queue, options, info, err);
    if (code == ERR_OK && !made_before && !queue->read_only)
        code = queue_lock_mark(queue, err);
    if (code != ERR_OK)
        return code;
    queue_limits_set(queue, options->max_bytes, options->min_free_bytes);
    queue_map_find(queue);
    if (queue->read_only)
        return ERR_OK;
    code = queue_incoming_sweep(queue, &info->swept_incoming, err);
    return code == ERR_FULL ? ERR_OK : code; /* swept at a later start: a full disk may start */
}

enum err_code
queue_open(const struct queue_options *options, struct queue **ret_queue,
           struct queue_info *ret_info, struct err *err)
{
    struct queue_info info = {.created = false};
    struct queue *queue = xcalloc(1, sizeof(*queue));
    uint64_t max_bytes = options->max_bytes == 0 ? DEFAULT_MAX_BYTES : options->max_bytes;
    queue->path = xstrdup(options->path);
    queue->lock_fd = -1;
    queue->read_only = options->read_only;
    queue->map_bytes = options->map_bytes == 0 ? max_bytes * MAP_FACTOR : options->map_bytes;
    if (queue->map_bytes < MAP_MIN_BYTES)
        queue->map_bytes = MAP_MIN_BYTES;
    enum err_code code = open_all(queue, options, &info, err);
    if (code != ERR_OK) {
        queue_close(queue);
        return code;
    }
    *ret_queue = queue;
    if (ret_info != NULL)
        *ret_info = info;
    return ERR_OK;
}

void
queue_close(struct queue *queue)
{
    if (queue == NULL)
        return;
    if (queue->env != NULL)
        mdb_env_close(queue->env);
    if (queue->lock_fd >= 0)
        close(queue->lock_fd);
    free(queue->path);
    free(queue);
}

unsigned
queue_readers_check(struct queue *queue)
{
    int dead = 0;
    if (mdb_reader_check(queue->env, &dead) != 0)
        return 0;
    return (unsigned)dead;
}
