/*
 * verbs - what only some groups of verbs share.
 */
#pragma once

#include "relayd/ctl/ctl.h"

/* The options that choose recipients: rows of an option table. */
#define CTL_FILTER_OPTIONS                                                                    \
    {"--domain", "DOMAIN", "recipients at this domain"},                                      \
        {"--state", "STATE", "scheduled, in_hand or held"},                                   \
        {"--sender", "ADDRESS", "messages from this envelope sender; <> is the null sender"}, \
    {                                                                                         \
        "--older", "DURATION", "accepted longer ago than this, as 1h or 2d"                   \
    }

struct ctl_filter {
    char domain[256];           /* canonical; "" when not given, as the next */
    char older_ms[24];          /* digits */
    const char *state, *sender; /* NULL when not given */
    bool any;                   /* something was given */
};

/* The filter that the options say; exits with usage when one is malformed. */
void ctl_filter_get(struct ctl *ctl, struct ctl_filter *ret);

/* Ask until the job `name` has ended; *ret is its last state. Returns an exit code. */
int ctl_job_wait(struct ctl *ctl, const char *name, cJSON **ret);

/* GET base/ID, and print it with `print` or as JSON. Returns the exit code. */
int ctl_show(struct ctl *ctl, const char *base, const char *id,
             void (*print)(const struct ctl *ctl, const cJSON *json));

/* A table of routes with their state. */
void ctl_print_routes(const struct ctl *ctl, const cJSON *routes);
