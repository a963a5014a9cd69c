/*
 * stop - see stop.c.
 */
#pragma once

#include "relayd/daemon.h"

/* Keep SIGTERM, SIGINT and SIGHUP back until daemon_run() answers them, and again from when it is
 * over: a start that is reloaded, or an end that is told to hurry, must not die by them. What came
 * at the start is done as soon as it serves. SIGUSR1 and SIGUSR2 mean nothing here and are ignored.
 * Called before there are threads. */
void daemon_signals_hold(void);
/* Run until a signal, or a failed disk, ends it; d->exit_code says how. */
void daemon_run(struct daemon *d);
/* End everything that was begun and commit what was handed over; `d` itself stays. */
void daemon_end(struct daemon *d);
/* store_options.on_failed: the queue cannot be written any more. */
void daemon_store_failed(void *daemon, const struct err *err);
