/*
 * stop - see stop.c.
 */
#pragma once

#include "relayd/daemon.h"

/* Run until a signal, or a failed disk, ends it; d->exit_code says how. */
void daemon_run(struct daemon *d);
/* End everything that was begun and commit what was handed over; `d` itself stays. */
void daemon_end(struct daemon *d);
/* store_options.on_failed: the queue cannot be written any more. */
void daemon_store_failed(void *daemon, const struct err *err);
