/*
 * stop - running until a signal says otherwise, and the end: what is under way may finish, and what
 * was promised is committed.
 *
 *   RUNNING ──SIGTERM──▶ STOPPING ──drained, --drain over, or SIGTERM again──▶ daemon_end
 */
#include "relayd/stop.h"

#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <sysexits.h>

#include "policy/base/mem.h"
#include "relayd/blame.h"
#include "relayd/learned.h"
#include "relayd/net/listener.h"
#include "relayd/net/sdnotify.h"

static void
stop_now(struct daemon *d)
{
    timer_cancel(loop_clock(d->loop), &d->drain_timer);
    loop_stop(d->loop);
}

static void
on_drain_over(void *arg)
{
    struct daemon *d = arg;
    log_text(d->log, LOG_WARNING, "drain_over",
             "work was still under way: the queue keeps it for the next start");
    stop_now(d);
}

static void
maybe_stopped(struct daemon *d)
{
    if (d->accept_drained && d->schedule_drained)
        stop_now(d);
}

static void
on_accept_drained(void *arg)
{
    struct daemon *d = arg;
    d->accept_drained = true;
    maybe_stopped(d);
}

static void
on_schedule_drained(void *arg)
{
    struct daemon *d = arg;
    d->schedule_drained = true;
    maybe_stopped(d);
}

static void
on_stop_signal(evutil_socket_t signal, short what, void *arg)
{
    struct daemon *d = arg;
    (void)what;
    if (d->phase == DAEMON_STOPPING) {
        stop_now(d);
        return;
    }
    d->phase = DAEMON_STOPPING;
    log_text(d->log, LOG_INFO, "stopping", "%s", signal == SIGINT ? "SIGINT" : "SIGTERM");
    sdnotify_stopping("draining");
    timer_set(loop_clock(d->loop), &d->drain_timer, d->drain_ms, on_drain_over, d);
    accept_drain(d->accept, on_accept_drained, d);
    schedule_drain(d->schedule, on_schedule_drained, d);
}

static void
on_hangup(evutil_socket_t signal, short what, void *arg)
{
    struct daemon *d = arg;
    (void)signal;
    (void)what;
    if (d->phase == DAEMON_RUNNING)
        daemon_reload(d, NULL, NULL);
}

void
daemon_store_failed(void *arg, const struct err *err)
{
    struct daemon *d = arg;
    log_alert(d->log, "store_failed", "the queue cannot be written, stopping: %s", err->text);
    d->exit_code = EX_IOERR;
    loop_stop(d->loop);
}

static void
on_watchdog(void *arg)
{
    struct daemon *d = arg;
    sdnotify_watchdog();
    timer_set(loop_clock(d->loop), &d->watchdog_timer, sdnotify_watchdog_ms(), on_watchdog, d);
}

/* Block or unblock what daemon_run() answers. */
static void
signals_mask(int how)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (pthread_sigmask(how, &set, NULL) != 0)
        abort();
}

void
daemon_signals_hold(void)
{
    signals_mask(SIG_BLOCK);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, SIG_IGN);
}

void
daemon_run(struct daemon *d)
{
    struct event *signals[3] = {
        evsignal_new(loop_base(d->loop), SIGTERM, on_stop_signal, d),
        evsignal_new(loop_base(d->loop), SIGINT, on_stop_signal, d),
        evsignal_new(loop_base(d->loop), SIGHUP, on_hangup, d),
    };
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        event_add(signals[i], NULL);
    d->phase = DAEMON_RUNNING;
    if (sdnotify_watchdog_ms() > 0)
        on_watchdog(d);
    sdnotify_ready("running");
    signals_mask(SIG_UNBLOCK);
    loop_run(d->loop);
    signals_mask(SIG_BLOCK); /* commits are still to come: not even a third one may cut them off */
    for (size_t i = 0; i < N_ELEMENTS(signals); i++)
        event_free(signals[i]);
}

/* A completion may start something new, which comes back at once now that its helper has stopped.
 */
static void
inbox_drain(struct inbox *inbox)
{
    while (inbox_run(inbox) > 0)
        continue;
}

/* Outcomes that are on their way (original ─▶ signature ─▶ operation) reach the disk: one that does
 * not is a delivery made twice. */
static void
settle(struct daemon *d)
{
    if (!store_settle(d->store, STORE_SETTLE_MS))
        log_text(d->log, LOG_WARNING, "not_settled",
                 "reads or commits were still under way: what they were for is done again");
}

/* Everything that was handed over is finished; nothing new begins. */
void
daemon_end(struct daemon *d)
{
    d->phase = DAEMON_STOPPING; /* the disk may have failed: verbs must not go on slice by slice */
    if (d->store != NULL) {
        if (d->schedule != NULL)
            schedule_stop(d->schedule);
        accept_free(d->accept);
        d->accept = NULL;
        if (d->delivery != NULL)
            delivery_stop(d->delivery);
        api_stop(d);
        settle(d); /* while workers still sign */
        workers_stop(d->workers);
        if (d->learned != NULL)
            learned_stop(d->learned);
        settle(d); /* what they gave back */
        store_stop(d->store);
        inbox_drain(d->inbox);
        control_free(d->control);
        api_free(d);
        blame_free(d->blame);
        store_free(d->store);
        queue_close(d->queue);
    }
    accept_free(d->accept);
    listener_close(d->control_socket);
    listener_close(d->http_socket);
    wire_free(d);
    for (size_t i = 0; i < d->n_all; i++)
        settings_free(d->all[i]);
    free(d->all);
    trusted_free(d->trusted);
    facts_free(d->facts);
    dns_free(d->dns);
    workers_free(d->workers);
    inbox_drain(d->inbox);
    inbox_free(d->inbox);
    metrics_free(d->metrics);
    free(d->gauges);
    free(d->marks);
    free(d->started.node);
    free(d->started.user);
    free(d->started.queue_path);
    free(d->started.control_socket);
    free(d->started.http_address);
    loop_free(d->loop);
    if (d->exit_code == 0)
        log_text(d->log, LOG_INFO, "stopped", "bye");
    log_stop(d->log, SECOND);
    log_free(d->log);
}
