/*
 * dkim_check - the verb `dkim check`; its row is in dkim.c.
 */
#pragma once

struct ctl;

int ctl_dkim_check_run(struct ctl *ctl);
