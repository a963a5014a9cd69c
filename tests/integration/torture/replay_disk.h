/*
 * replay_disk - what a disk may hold when the power fails, worked out from a recorded run.
 *
 * The model. What was written before a sync of that file began is durable when the sync has ended;
 * a write through O_DSYNC is durable when it has returned. A name (created, renamed, removed) is
 * durable when a sync of the directory that began after it has ended: fsync(2) of the file alone
 * does not promise it. Of everything else any 512-octet sector may be there or not, in its newest
 * or an older form, and the file may be as long as any of it needs.
 */
#pragma once

#include "record_log.h"

#include <stdbool.h>
#include <stddef.h>

#define DISK_SECTOR 512
#define DISK_NAMES 16

struct disk_file {
    uint64_t inode;
    char *bytes; /* the durable ones */
    size_t n, cap;
    struct disk_file *next;
};

struct disk_name {
    char text[64];
    struct disk_file *file;
};

/* A write or change of names that is not durable yet. */
struct disk_pending {
    const struct record *record; /* in the log */
    struct disk_file *file;
    uint64_t at; /* of the record */
};

struct disk {
    struct disk_file *files;
    struct disk_name names[DISK_NAMES]; /* the durable ones; empty text: free */
    struct disk_pending *pending;
    size_t n_pending, cap_pending;
    bool failed; /* the recording has a failed write or sync: it says nothing */
};

/* What becomes of the pending ones. */
enum disk_fate { DISK_NONE, DISK_ALL, DISK_RANDOM };

void disk_init(struct disk *disk);
void disk_free(struct disk *disk);

/* One more record has happened. */
void disk_step(struct disk *disk, const struct record *record, uint64_t at);

/* Write what is left after a power cut now into the directory, which is emptied first. The same
 * seed gives the same state. False (errno) when it cannot be written. */
bool disk_rebuild(const struct disk *disk, enum disk_fate fate, uint64_t seed, const char *dir);

/* A number below `n` (at least 1) from the stream at *state. */
uint64_t disk_random(uint64_t *state, uint64_t n);
