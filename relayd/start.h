/*
 * start - see start.c.
 */
#pragma once

#include "relayd/daemon.h"
#include "relayd/ops/privs.h"

/* Start serving d->config_file. -1: it serves; else the exit code, and why is on stderr. What was
 * begun is ended by daemon_end() either way. */
int daemon_start(struct daemon *d);

/* "relayd: ..." on stderr; returns `code`. */
int start_fail(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Every problem of a configuration on stderr, a line each. */
void start_print_problems(const struct config_problems *problems);
/* What a start needs to know before it gives up root. -1: *ret is the caller's; else the exit code,
 * and the problems are on stderr. */
int start_load_outline(const char *file, struct config **ret);
