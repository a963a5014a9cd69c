/*
 * How: a data file that was cut short would kill the process at the first access beyond its end.
 * LMDB may leave the file a few pages short by itself: pages that one transaction took and gave
 * back are in the free list and were never written. So a short file is stretched with zeros first
 * (reading is safe then), and is good only if every missing page is in the free list.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "queue/queue_impl.h"

#define FREE_TABLE 0 /* LMDB's own: transaction -> count and page numbers */

/* How many pages from `first` on are in the free list? */
static int
free_pages_from(MDB_txn *txn, size_t first, size_t *ret)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    *ret = 0;
    int rc = mdb_cursor_open(txn, FREE_TABLE, &cursor);
    if (rc != 0)
        return rc;
    while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
        size_t n, page;
        if (value.mv_size < sizeof(n))
            continue;
        memcpy(&n, value.mv_data, sizeof(n));
        for (size_t i = 1; i <= n && (i + 1) * sizeof(n) <= value.mv_size; i++) {
            memcpy(&page, (const char *)value.mv_data + i * sizeof(n), sizeof(page));
            *ret += page >= first;
        }
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static bool
missing_pages_are_free(struct queue *queue, size_t first, size_t n_missing)
{
    MDB_txn *txn;
    size_t n_free = 0;
    if (mdb_txn_begin(queue->env, NULL, MDB_RDONLY, &txn) != 0)
        return false;
    int rc = free_pages_from(txn, first, &n_free);
    mdb_txn_abort(txn);
    return rc == 0 && n_free == n_missing;
}

enum err_code
queue_length_check(struct queue *queue, struct err *err)
{
    char name[4096];
    struct stat st;
    MDB_envinfo info;
    snprintf(name, sizeof(name), "%s/" QUEUE_DATA_FILE, queue->path);
    mdb_env_info(queue->env, &info);
    int fd = open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        return queue_lmdb_err(queue, why, "cannot look at " QUEUE_DATA_FILE, err);
    }
    uint64_t need = ((uint64_t)info.me_last_pgno + 1) * queue->page_bytes;
    uint64_t have = (uint64_t)st.st_size;
    bool good = have >= need;
    if (!good && ftruncate(fd, (off_t)need) == 0) {
        size_t first = (size_t)(have / queue->page_bytes);
        good = missing_pages_are_free(queue, first, info.me_last_pgno + 1 - first);
        if (!good && ftruncate(fd, st.st_size) != 0)
            good = false; /* stays stretched; the next look finds pages of zeros */
    }
    close(fd);
    if (good)
        return ERR_OK;
    return err_set(err, ERR_CORRUPT,
                   "queue %s: " QUEUE_DATA_FILE " is cut short: it has %llu bytes and needs %llu",
                   queue->path, (unsigned long long)have, (unsigned long long)need);
}
