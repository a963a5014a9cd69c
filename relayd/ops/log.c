/*
 * The ring is a pair of buffers: producers append to `filling` under a mutex held for one memcpy,
 * the thread swaps the two and writes the other out without the mutex. A sleeping thread is woken
 * by the first line and then waits GATHER_MS for more, so that a busy relay costs at most a hundred
 * wake-ups a second; errors, a half-full buffer, a flush and the stop do not wait.
 *
 *   idle --line--> gathering --10 ms or urgent--> draining --empty--> idle
 *                                                    |--stop, empty--> ended
 */
#include "relayd/ops/log.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "policy/base/mem.h"
#include "relayd/ops/log_impl.h"
#include "relayd/work/thread.h"

#define GATHER_MS 10
#define DIRECT_MS                                                                   \
    SECOND /* a line written by its own thread waits so long for the target at most \
            */

static const char *const level_names[] = {"alert", "error", "warning", "info", "debug"};

/* What comes before each line in a buffer. */
struct record {
    uint16_t n;
    uint8_t level;
};

int64_t
log_monotonic_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

msec_t
log_wall_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (msec_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static struct timespec
monotonic_timespec(int64_t ms)
{
    return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
}

static struct log_buffer *
buffer_new(void)
{
    struct log_buffer *buffer = xcalloc(1, sizeof(*buffer));
    buffer->bytes = xmalloc(LOG_RING_BYTES);
    return buffer;
}

static void
buffer_free(struct log_buffer *buffer)
{
    free(buffer->bytes);
    free(buffer);
}

static void
cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

struct log *
log_new(const char *node)
{
    struct log *log = xcalloc(1, sizeof(*log));
    struct err err;
    atomic_init(&log->level, LOG_INFO);
    atomic_init(&log->format, LOG_LOGFMT);
    pthread_mutex_init(&log->lock, NULL);
    pthread_mutex_init(&log->alert_lock, NULL);
    cond_init(&log->wake);
    cond_init(&log->drained);
    log->filling = buffer_new();
    log->draining = buffer_new();
    if (log_sink_new("stderr", &log->sink, &err) != ERR_OK)
        abort(); /* stderr is not opened, so it cannot fail */
    log_set_node(log, node);
    return log;
}

void
log_free(struct log *log)
{
    if (log == NULL)
        return;
    log_stop(log, SECOND);
    log_sink_free(log->sink);
    log_sink_free(log->next_sink);
    buffer_free(log->filling);
    buffer_free(log->draining);
    pthread_cond_destroy(&log->wake);
    pthread_cond_destroy(&log->drained);
    pthread_mutex_destroy(&log->lock);
    pthread_mutex_destroy(&log->alert_lock);
    free(log);
}

void
log_set_node(struct log *log, const char *node)
{
    assert(!log->joinable);
    snprintf(log->node, sizeof(log->node), "%s", node == NULL ? "" : node);
}

void
log_set_format(struct log *log, enum log_format format)
{
    atomic_store_explicit(&log->format, (int)format, memory_order_relaxed);
}

void
log_set_level(struct log *log, enum log_level level)
{
    atomic_store_explicit(&log->level, (int)level, memory_order_relaxed);
}

bool
log_enabled(const struct log *log, enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log->level, memory_order_relaxed);
}

const char *
log_level_name(enum log_level level)
{
    return level_names[level];
}

bool
log_level_parse(struct span name, enum log_level *ret)
{
    for (size_t i = 0; i < N_ELEMENTS(level_names); i++) {
        if (span_eq(name, span_str(level_names[i]))) {
            *ret = (enum log_level)i;
            return true;
        }
    }
    return false;
}

uint64_t
log_dropped(const struct log *log)
{
    return atomic_load_explicit(&log->n_dropped, memory_order_relaxed);
}

uint64_t
log_written(const struct log *log)
{
    return atomic_load_explicit(&log->n_written, memory_order_relaxed);
}

static void
count_lines(struct log *log, uint64_t lines, uint64_t lost)
{
    lost = lost < lines ? lost : lines;
    atomic_fetch_add_explicit(&log->n_dropped, lost, memory_order_relaxed);
    atomic_fetch_add_explicit(&log->n_written, lines - lost, memory_order_relaxed);
}

static void
buffer_add(struct log_buffer *buffer, enum log_level level, struct span line)
{
    struct record record = {.n = (uint16_t)line.n, .level = (uint8_t)level};
    memcpy(buffer->bytes + buffer->n, &record, sizeof(record));
    memcpy(buffer->bytes + buffer->n + sizeof(record), line.p, line.n);
    buffer->n += sizeof(record) + line.n;
    buffer->lines++;
}

void
log_submit(struct log *log, enum log_level level, struct span line)
{
    assert(line.n > 0 && line.n <= LOG_LINE_MAX);
    pthread_mutex_lock(&log->lock);
    if (!log->running) {
        atomic_store(&log->give_up_at, log_monotonic_ms() + DIRECT_MS);
        size_t lost = log_sink_line(log->sink, level, line, &log->give_up_at);
        lost += log_sink_flush(log->sink, &log->give_up_at);
        count_lines(log, 1, lost);
        pthread_mutex_unlock(&log->lock);
        return;
    }
    struct log_buffer *buffer = log->filling;
    bool wake = log->idle;
    if (LOG_RING_BYTES - buffer->n < sizeof(struct record) + line.n) {
        atomic_fetch_add_explicit(&log->n_dropped, 1, memory_order_relaxed);
        wake = true;
        log->urgent = true;
    } else {
        buffer_add(buffer, level, line);
        log->n_taken++;
        if (!log->urgent && (level <= LOG_ERROR || buffer->n > LOG_RING_BYTES / 2))
            wake = log->urgent = true;
    }
    log->idle = false;
    pthread_mutex_unlock(&log->lock);
    if (wake)
        pthread_cond_signal(&log->wake);
}

/* In the thread, without the lock. Returns the number of lines lost. */
static uint64_t
buffer_write(struct log *log, struct log_buffer *buffer)
{
    uint64_t lost = 0;
    for (size_t at = 0; at < buffer->n;) {
        struct record record;
        memcpy(&record, buffer->bytes + at, sizeof(record));
        at += sizeof(record);
        lost += log_sink_line(log->sink, (enum log_level)record.level,
                              span_of(buffer->bytes + at, record.n), &log->give_up_at);
        at += record.n;
    }
    return lost + log_sink_flush(log->sink, &log->give_up_at);
}

/* Under the lock, which is let go while files are opened. */
static void
target_change(struct log *log)
{
    struct log_sink *old = NULL;
    struct err err;
    enum err_code code = ERR_OK;
    bool reopen = log->reopen;
    log->reopen = false;
    if (log->next_sink != NULL) {
        old = log->sink;
        log->sink = log->next_sink;
        log->next_sink = NULL;
    }
    pthread_mutex_unlock(&log->lock);
    log_sink_free(old);
    if (reopen)
        code = log_sink_reopen(log->sink, &err);
    if (code != ERR_OK)
        log_text(log, LOG_ERROR, "log_reopen", "%s; the old file is kept", err.text);
    pthread_mutex_lock(&log->lock);
}

/* Under the lock. One line for all that was dropped since the last report, when there is room: else
 * the line would be dropped too, and there is a next time, since something waits. */
static void
drops_report(struct log *log)
{
    uint64_t dropped = log_dropped(log);
    if (LOG_RING_BYTES - log->filling->n < sizeof(struct record) + LOG_LINE_MAX)
        return;
    int64_t give_up_at = atomic_load(&log->give_up_at);
    if (dropped == log->drops_reported || (give_up_at != 0 && log_monotonic_ms() >= give_up_at))
        return;
    uint64_t count = dropped - log->drops_reported;
    log->drops_reported = dropped;
    pthread_mutex_unlock(&log->lock);
    struct log_line line;
    log_begin(log, &line, LOG_WARNING, "log_dropped");
    log_uint(&line, "count", count);
    log_uint(&line, "total", dropped);
    log_cstr(&line, "text", "log lines were lost: the log target is too slow or failed");
    log_end(&line);
    pthread_mutex_lock(&log->lock);
}

/* Under the lock: sleep until there is something to do, and then a moment for more to come. */
static void
wait_for_work(struct log *log)
{
    while (log->filling->n == 0 && !log->stop && !log->reopen && log->next_sink == NULL) {
        log->idle = true;
        log->urgent = false;
        pthread_cond_wait(&log->wake, &log->lock);
    }
    log->idle = false;
    struct timespec until = monotonic_timespec(log_monotonic_ms() + GATHER_MS);
    while (!log->urgent && !log->stop && !log->reopen && log->next_sink == NULL)
        if (pthread_cond_timedwait(&log->wake, &log->lock, &until) == ETIMEDOUT)
            break;
}

static void *
log_thread(void *arg)
{
    struct log *log = arg;
    pthread_mutex_lock(&log->lock);
    for (;;) {
        wait_for_work(log);
        log->urgent = false;
        struct log_buffer *buffer = log->filling;
        log->filling = log->draining;
        log->draining = buffer;
        pthread_mutex_unlock(&log->lock);

        uint64_t lost = buffer_write(log, buffer);
        count_lines(log, buffer->lines, lost);

        pthread_mutex_lock(&log->lock);
        log->n_done += buffer->lines;
        buffer->n = 0;
        buffer->lines = 0;
        pthread_cond_broadcast(&log->drained);
        drops_report(log);
        if (log->reopen || log->next_sink != NULL)
            target_change(log);
        if (log->stop && log->filling->n == 0)
            break;
    }
    log->running = false; /* from here on lines are written by their own threads */
    pthread_cond_broadcast(&log->drained);
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

enum err_code
log_start(struct log *log, struct err *err)
{
    pthread_mutex_lock(&log->lock);
    assert(!log->running && !log->joinable);
    log->running = true;
    log->stop = false;
    atomic_store(&log->give_up_at, 0);
    enum err_code code = thread_start(&log->thread, "relayd-log", log_thread, log, err);
    log->running = log->joinable = code == ERR_OK;
    pthread_mutex_unlock(&log->lock);
    return code;
}

void
log_stop(struct log *log, msec_t max_ms)
{
    if (!log->joinable)
        return;
    pthread_mutex_lock(&log->lock);
    atomic_store(&log->give_up_at, log_monotonic_ms() + max_ms);
    log->stop = true;
    pthread_cond_signal(&log->wake);
    pthread_mutex_unlock(&log->lock);
    pthread_join(log->thread, NULL);
    log->joinable = false;
}

bool
log_flush(struct log *log, msec_t max_ms)
{
    struct timespec until = monotonic_timespec(log_monotonic_ms() + max_ms);
    bool done = true;
    pthread_mutex_lock(&log->lock);
    uint64_t wanted = log->n_taken;
    log->urgent = log->running;
    pthread_cond_signal(&log->wake);
    while (log->running && log->n_done < wanted && done)
        done = pthread_cond_timedwait(&log->drained, &log->lock, &until) == 0;
    done = !log->running || log->n_done >= wanted;
    pthread_mutex_unlock(&log->lock);
    return done;
}

enum err_code
log_set_target(struct log *log, const char *target, struct err *err)
{
    struct log_sink *sink, *old;
    enum err_code code = log_sink_new(target, &sink, err);
    if (code != ERR_OK)
        return code;
    pthread_mutex_lock(&log->lock);
    if (log->running) {
        old = log->next_sink;
        log->next_sink = sink;
    } else {
        old = log->sink;
        log->sink = sink;
    }
    pthread_cond_signal(&log->wake);
    pthread_mutex_unlock(&log->lock);
    log_sink_free(old);
    return ERR_OK;
}

void
log_reopen(struct log *log)
{
    struct err err;
    enum err_code code = ERR_OK;
    pthread_mutex_lock(&log->lock);
    if (log->running) {
        log->reopen = true;
        pthread_cond_signal(&log->wake);
    } else {
        code = log_sink_reopen(log->sink, &err);
    }
    pthread_mutex_unlock(&log->lock);
    if (code != ERR_OK)
        log_text(log, LOG_ERROR, "log_reopen", "%s; the old file is kept", err.text);
}
