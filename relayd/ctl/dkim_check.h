/*
 * dkim_check - the verb `dkim check`; its row is in dkim.c.
 */
#pragma once

struct ctl;

/* Runs it; returns the exit code (verbs.h). */
int ctl_dkim_check_run(struct ctl *ctl);
