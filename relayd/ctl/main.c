/*
 * relayctl - looks at relayd and tells it what to do.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "relayd/ctl/ctl.h"
#include "relayd/ops/api.h"

const struct ctl_verb *const ctl_tables[] = {
    ctl_status_verbs,
    ctl_queue_verbs,
    ctl_queue_act_verbs,
    ctl_route_verbs,
    ctl_trace_verbs,
    ctl_reload_verbs,
    ctl_dkim_verbs,
    ctl_tls_verbs,
    ctl_user_verbs,
    ctl_verify_verbs,
    ctl_classify_verbs,
    ctl_help_verbs,
    NULL,
};

int
main(int argc, char **argv)
{
    struct ctl ctl = {0};
    /* A closed pipe is seen as a failed write, so that the exit code says so. */
    signal(SIGPIPE, SIG_IGN);
    api_json_setup();
    ctl.color = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;
    ctl_parse(&ctl, argc - 1, argv + 1);
    int code = ctl.verb->run(&ctl);
    free(ctl.socket_found);
    return code;
}
