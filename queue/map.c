/*
 * How: the data file is mapped as a whole, and pages that were looked at count as memory of this
 * process until the kernel wants them back. They are clean and shared, so dropping them costs a
 * minor fault each at the next look. LMDB does not tell where it mapped the file; /proc does.
 */
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "queue/queue_impl.h"

void
queue_map_find(struct queue *queue)
{
    struct stat st;
    char line[4352];
    int fd;
    if (mdb_env_get_fd(queue->env, &fd) != 0 || fstat(fd, &st) != 0)
        return;
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
        unsigned long long start, end, inode;
        if (sscanf(line, "%llx-%llx %*s %*s %*s %llu", &start, &end, &inode) == 3 &&
            inode == (unsigned long long)st.st_ino && strstr(line, QUEUE_DATA_FILE) != NULL) {
            queue->map = (char *)(uintptr_t)start;
            queue->map_seen_bytes = (size_t)(end - start);
            break;
        }
    }
    if (maps != NULL)
        fclose(maps);
}

bool
queue_map_trim(struct queue *queue, size_t max_bytes)
{
    unsigned long size, resident, shared;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm == NULL)
        return false;
    int n = fscanf(statm, "%lu %lu %lu", &size, &resident, &shared);
    fclose(statm);
    if (n != 3 || queue->map == NULL || shared * queue->page_bytes <= max_bytes)
        return false;
    /* Clean pages of a shared file mapping: they stay in the page cache and fault in again. */
    return madvise(queue->map, queue->map_seen_bytes, MADV_DONTNEED) == 0;
}
