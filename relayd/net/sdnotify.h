/*
 * sdnotify - telling systemd how the service does (sd_notify(3) without libsystemd).
 *
 * Each call sends one datagram to $NOTIFY_SOCKET and never waits; without that variable nothing
 * happens. Failures are not reported: there is nobody to tell. Loop thread only.
 */
#pragma once

#include "policy/base/msec.h"

#include <stdbool.h>

/* Remember $NOTIFY_SOCKET and $WATCHDOG_USEC and take them out of the environment. Call first, in
 * main, before threads. Returns whether systemd listens. */
bool sdnotify_init(void);
void sdnotify_ready(const char *status);    /* READY=1 and a STATUS line (NULL: none) */
void sdnotify_reloading(void);              /* RELOADING=1 with MONOTONIC_USEC; then ready again */
void sdnotify_stopping(const char *status); /* STOPPING=1 */
void sdnotify_status(const char *status);   /* one line for `systemctl status` */
void sdnotify_watchdog(void);               /* WATCHDOG=1: still alive */
void sdnotify_extend_ms(msec_t ms); /* EXTEND_TIMEOUT_USEC: starting or stopping takes longer */
/* How often sdnotify_watchdog() is due (half of what systemd waits); 0 = no watchdog. */
msec_t sdnotify_watchdog_ms(void);
