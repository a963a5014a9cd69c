/*
 * Alerts: what somebody must act upon. They are lines like others, and are remembered for `status`,
 * newest first; a repeat within an hour only raises the count of the one that is there.
 */
#include "relayd/ops/log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>

#include "relayd/ops/log_impl.h"

#define ALERT_REPEAT_MS HOUR

/* Under alert_lock: moves the entry to the front, or makes it. True when a line is due. */
static bool
alert_raise(struct log *log, const char *kind, const char *text, msec_t now)
{
    size_t i = 0;
    while (i < log->n_alerts &&
           (strcmp(log->alerts[i].kind, kind) != 0 || strcmp(log->alerts[i].text, text) != 0))
        i++;
    struct log_alert_entry entry = {.first_at = now};
    msec_t logged_at = 0;
    if (i < log->n_alerts) {
        entry = log->alerts[i];
        logged_at = log->alert_logged_at[i];
    } else {
        snprintf(entry.kind, sizeof(entry.kind), "%s", kind);
        snprintf(entry.text, sizeof(entry.text), "%s", text);
        if (log->n_alerts < LOG_ALERTS_KEPT)
            log->n_alerts++;
        i = log->n_alerts - 1;
    }
    /* A clock that went back must not silence an alert. */
    bool due = entry.count == 0 || now - logged_at >= ALERT_REPEAT_MS || now < logged_at;
    entry.count++;
    entry.last_at = now;
    memmove(log->alerts + 1, log->alerts, i * sizeof(log->alerts[0]));
    memmove(log->alert_logged_at + 1, log->alert_logged_at, i * sizeof(log->alert_logged_at[0]));
    log->alerts[0] = entry;
    log->alert_logged_at[0] = due ? now : logged_at;
    return due;
}

void
log_alert(struct log *log, const char *kind, const char *fmt, ...)
{
    char text[sizeof(((struct log_alert_entry *)0)->text)];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    assert(strlen(kind) < sizeof(((struct log_alert_entry *)0)->kind));
    atomic_fetch_add_explicit(&log->n_alerts_total, 1, memory_order_relaxed);
    pthread_mutex_lock(&log->alert_lock);
    bool due = alert_raise(log, kind, text, log_wall_ms());
    pthread_mutex_unlock(&log->alert_lock);
    if (!due)
        return;
    struct log_line line;
    log_begin(log, &line, LOG_ALERT, "alert");
    log_cstr(&line, "alert", kind);
    log_cstr(&line, "text", text);
    log_end(&line);
}

size_t
log_alerts(struct log *log, struct log_alert_entry *ret, size_t max)
{
    pthread_mutex_lock(&log->alert_lock);
    size_t n = log->n_alerts < max ? log->n_alerts : max;
    if (n > 0)
        memcpy(ret, log->alerts, n * sizeof(*ret));
    pthread_mutex_unlock(&log->alert_lock);
    return n;
}

uint64_t
log_alerts_total(const struct log *log)
{
    return atomic_load_explicit(&log->n_alerts_total, memory_order_relaxed);
}
