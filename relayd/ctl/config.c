/*
 * What relayctl wants from the configuration: the control socket, and whole configurations for the
 * verbs that work without the daemon.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/config.h"
#include "policy/config_load.h"
#include "relayd/ctl/ctl.h"

#define DEFAULT_CONFIG "/etc/relayd/relayd.yaml"
#define DEFAULT_SOCKET "/run/relayd/control.sock"

const char *
ctl_config_file(const struct ctl *ctl)
{
    return ctl->config_file == NULL ? DEFAULT_CONFIG : ctl->config_file;
}

static void
print_problems(const struct config_problems *problems)
{
    for (size_t i = 0; i < problems->n; i++) {
        CLEANUP(strbuf_release) struct strbuf line = STRBUF_INIT;
        config_problem_format(&problems->items[i], &line);
        fprintf(stderr, "%s\n", line.p);
    }
}

struct config *
ctl_config(const struct ctl *ctl, bool outline, int *ret_exit)
{
    CLEANUP(config_problems_release) struct config_problems problems = {0};
    struct config *config = NULL;
    enum err_code code = config_load(ctl_config_file(ctl), NULL, outline ? CONFIG_LOAD_OUTLINE : 0,
                                     &config, &problems);
    print_problems(&problems);
    if (code == ERR_OK)
        return config;
    *ret_exit = EX_CONFIG;
    return NULL;
}

const char *
ctl_socket(struct ctl *ctl)
{
    CLEANUP(config_problems_release) struct config_problems problems = {0};
    struct config *config = NULL;
    if (ctl->socket != NULL)
        return ctl->socket;
    if (ctl->socket_found != NULL)
        return ctl->socket_found;
    /* A configuration that is broken now is no reason not to reach the daemon that runs. */
    if (config_load(ctl_config_file(ctl), NULL, CONFIG_LOAD_OUTLINE, &config, &problems) ==
        ERR_OK) {
        ctl->socket_found = xstrdup(config->control_socket);
        config_free(config);
    } else {
        ctl->socket_found = xstrdup(DEFAULT_SOCKET);
        if (ctl->config_file != NULL) {
            print_problems(&problems);
            ctl_complain("%s has errors, so the socket is taken to be " DEFAULT_SOCKET,
                         ctl->config_file);
        }
    }
    return ctl->socket_found;
}
