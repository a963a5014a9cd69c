/*
 * check - the judgement of a configuration that `relayd --check` and `relayctl check` give: what it
 * accepts, a start accepts.
 */
#pragma once

#include "policy/config_load.h"

/*
 * Go the way of a start as far as that goes without binding or opening anything: load `file` and
 * build all that it names. Called as root, the process becomes the user that would read the
 * secrets, for good. `problems` says all that is wrong, with places, and may hold warnings
 * when true is returned.
 */
bool check_config(const char *file, struct config_problems *problems);
