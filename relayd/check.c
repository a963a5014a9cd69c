#include "relayd/check.h"

#include <unistd.h>

#include "policy/config.h"
#include "policy/config_node.h"
#include "relayd/ops/privs.h"
#include "relayd/settings.h"

/* Become the user that would read the secrets. A start needs him to be there; the default one may
 * be made later, on another machine. */
static void
become_user(const struct config *outline, struct config_problems *problems)
{
    const struct config_node *given = config_node_get(outline->root, "user");
    const struct config_mark mark = given == NULL ? outline->root->mark : given->mark;
    struct privs_user user;
    struct err err;

    if (geteuid() != 0)
        return;
    if (privs_find_user(outline->user, &user, &err) != ERR_OK)
        config_problem_add(problems, given == NULL ? CONFIG_WARNING : CONFIG_ERROR, mark, "user",
                           "%s, so a start as root would fail", err.text);
    else if (privs_drop(&user, false, &err) != ERR_OK)
        config_problem_add(problems, CONFIG_WARNING, mark, "user", "checked as root: %s", err.text);
}

/* A file whose outline is wrong is read as a whole all the same: everything is told at once. */
bool
check_config(const char *file, struct config_problems *problems)
{
    CLEANUP(config_problems_release) struct config_problems ignored = {0};
    struct settings *settings = NULL;
    struct config *outline;

    if (config_load(file, NULL, CONFIG_LOAD_OUTLINE, &outline, &ignored) == ERR_OK) {
        become_user(outline, problems);
        config_free(outline);
    }
    if (settings_load(file, &settings, problems) != ERR_OK)
        return false;
    settings_free(settings);
    return problems->n_errors == 0;
}
