/*
 * log_impl - what log.c (ring, thread, alerts), log_line.c (one line) and log_sink.c (targets)
 * share. Nobody else includes it, but for the tests.
 */
#pragma once

#include "relayd/ops/log.h"

#include <pthread.h>
#include <stdatomic.h>

/* ---- log_sink.c: a target, used by one thread at a time ---- */

enum log_sink_kind { SINK_STDERR, SINK_SYSLOG, SINK_FILE };

#define LOG_SINK_OUT_BYTES ((size_t)64 << 10)

struct log_sink {
    enum log_sink_kind kind;
    int fd;        /* SINK_STDERR borrows 2; the others own theirs, -1 when not connected */
    char *path;    /* SINK_FILE; the socket of SINK_SYSLOG */
    bool journal;  /* stderr is the journal: lines begin with <N> */
    bool slow;     /* not a regular file: poll before writing, at most PIPE_BUF at once */
    bool mid_line; /* the last write stopped inside a line */
    size_t n_out;  /* bytes of `out` not yet written */
    char *out;     /* LOG_SINK_OUT_BYTES; lines gathered for one write */
};

/* Opens the target named in the configuration; ERR_IO with the path and the reason. */
MUST_CHECK enum err_code log_sink_new(const char *target, struct log_sink **ret, struct err *err);
void log_sink_free(struct log_sink *sink);
/* SINK_FILE: open the path anew; on failure the old file is kept. */
MUST_CHECK enum err_code log_sink_reopen(struct log_sink *sink, struct err *err);
/* Take one line (with its final LF). Returns the number of lines that were lost by it. */
size_t log_sink_line(struct log_sink *sink, enum log_level level, struct span line,
                     const _Atomic int64_t *give_up_at);
/* Write out what was gathered. Gives up when the monotonic time passes *give_up_at (0: never).
 * Returns the number of lines lost. */
size_t log_sink_flush(struct log_sink *sink, const _Atomic int64_t *give_up_at);

/* ---- log.c ---- */

/* Lines in the order they came: [uint16 length][uint8 level] bytes. Fixed size. */
struct log_buffer {
    size_t n;
    uint64_t lines;
    char *bytes; /* LOG_RING_BYTES */
};

struct log {
    _Atomic int level, format;
    char node[64];

    pthread_mutex_t lock; /* all below up to the blank line */
    pthread_cond_t wake;  /* for the log thread */
    pthread_cond_t drained;
    struct log_buffer *filling, *draining; /* swapped by the thread, which owns `draining` */
    struct log_sink *next_sink;            /* takes the place of `sink` */
    bool running, stop, idle, urgent, reopen;
    uint64_t n_taken, n_done; /* lines put into a buffer; lines that left it, written or lost */
    uint64_t drops_reported;

    struct log_sink *sink; /* the thread's while it runs, under `lock` otherwise */
    pthread_t thread;
    bool joinable;              /* main's: a thread was started and not yet joined */
    _Atomic int64_t give_up_at; /* monotonic ms */
    _Atomic uint64_t n_dropped, n_written;

    pthread_mutex_t alert_lock;
    struct log_alert_entry alerts[LOG_ALERTS_KEPT]; /* the first n_alerts, newest first */
    msec_t alert_logged_at[LOG_ALERTS_KEPT];
    size_t n_alerts;
    _Atomic uint64_t n_alerts_total;
};

/* A finished line with its LF. Any thread; never blocks once the thread runs. */
void log_submit(struct log *log, enum log_level level, struct span line);

int64_t log_monotonic_ms(void);
msec_t log_wall_ms(void);
