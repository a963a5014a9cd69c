/*
 * record_log - what record.c writes down of a daemon's life, and replay.c reads.
 *
 * The log is a file that is mapped by both: a head, then records, each followed by its bytes and
 * padded to 8. Their order is the order in which things happened, over all threads and over several
 * lives of the daemon: the log of a second start goes on behind that of the first.
 */
#pragma once

#include <stdint.h>

#define RECORD_MAGIC "relayd-record-1"
#define RECORD_LOG_BYTES (4ull << 30) /* mapped, sparse: only what is recorded takes space */

struct record_head {
    char magic[16];
    uint64_t used; /* bytes of the file, this head included; moved when a record is whole */
};

enum record_kind {
    RECORD_START = 1,  /* a process began */
    RECORD_CREATE,     /* text: the name, `file` its inode */
    RECORD_RENAME,     /* text: "from\0to", `file` the inode that is moved */
    RECORD_UNLINK,     /* text: the name */
    RECORD_WRITE,      /* before the call: bytes for `file` at `offset` */
    RECORD_WRITE_SYNC, /* the same through a descriptor with O_DSYNC */
    RECORD_TRUNCATE,   /* before the call: `offset` is the new size */
    RECORD_DONE,       /* the WRITE_SYNC at `ref` has returned: it is durable */
    RECORD_SYNC_BEGIN, /* fsync or fdatasync of `file` is called (0: the directory) */
    RECORD_SYNC_END,   /* and the one that began at `ref` has returned 0 */
    RECORD_UNDONE,     /* the write at `ref` never happened: its process was killed before it */
    RECORD_FAILED,     /* a write was short, or a write or sync failed */
    RECORD_ACK,   /* before the call: the reply "... queued as ID" goes to a client; text: ID */
    RECORD_TAKEN, /* after the call: a reply "... took TEXT" was read from a remote; TEXT */
};

struct record {
    uint32_t kind; /* enum record_kind */
    uint32_t n;    /* bytes that follow */
    uint64_t file; /* inode */
    uint64_t offset;
    uint64_t ref; /* where in the log another record begins */
};
