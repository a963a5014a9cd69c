/*
 * Jobs of the daemon: verbs on many recipients and `verify` answer with the name of one, and it is
 * asked again until it is done.
 */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ctl/verbs.h"
#include "relayd/ops/api.h"
#include "relayd/ops/http.h"

#define POLL_FIRST_MS 20
#define POLL_MAX_MS 500

static void
show_progress(const cJSON *job, bool done)
{
    double total = api_num(job, "total", 0), n = api_num(job, "done", 0);
    if (!isatty(STDERR_FILENO))
        return;
    if (done)
        fprintf(stderr, "\r\033[K");
    else if (total > 0)
        fprintf(stderr, "\r%.0f of %.0f (%.0f %%)\033[K", n, total, n * 100 / total);
    else
        fprintf(stderr, "\r%.0f\033[K", n);
}

int
ctl_job_wait(struct ctl *ctl, const char *name, cJSON **ret)
{
    CLEANUP(strbuf_release) struct strbuf path = STRBUF_INIT;
    strbuf_add_str(&path, API_JOBS "/");
    http_escape(&path, span_str(name));
    for (long wait_ms = POLL_FIRST_MS;;
         wait_ms = wait_ms * 2 > POLL_MAX_MS ? POLL_MAX_MS : wait_ms * 2) {
        cJSON *job;
        int code = ctl_call(ctl, "GET", path.p, NULL, &job);
        if (code != 0)
            return code;
        bool done = strcmp(api_str(job, "state", "failed"), "running") != 0;
        show_progress(job, done);
        if (done) {
            *ret = job;
            return 0;
        }
        cJSON_Delete(job);
        struct timespec pause = {.tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
}
