/*
 * certs - reads changed certificate files again, every hour and when told to. Called by accept.c.
 *
 * A worker looks at the files and makes new contexts; the loop swaps them in. Sessions that run
 * keep the context they began with. A file that is no good raises an alert and changes nothing.
 */
#include "relayd/accept/session.h"

#include "policy/base/mem.h"
#include "policy/config.h"
#include "relayd/net/tls.h"
#include "relayd/ops/log.h"
#include "relayd/work/workers.h"

#include <stdlib.h>
#include <sys/stat.h>

#define CERTS_EVERY_MS HOUR

struct certs_job {
    struct job job;
    struct accept *accept; /* NULL: gone */
    struct accept_setup *setup;
    struct err err;
    bool again;             /* asked for while it ran */
    struct tls_ctx **fresh; /* one a listener; NULL: unchanged */
};

/* A key that others can read is refused as it is at the start and at a reload (config.md). */
static enum err_code
check_key(const struct accept_setup *setup, struct err *err)
{
    const char *path = setup->config->tls.private_key.path;
    struct stat st;

    if (stat(path, &st) == 0 && (st.st_mode & (S_IROTH | S_IWOTH)) != 0)
        return err_set(err, ERR_PERM, "%s: others can read or write it (mode %04o)", path,
                       (unsigned)(st.st_mode & 07777));
    return ERR_OK; /* one that is not there is told by who reads it */
}

static void
certs_run(struct job *job, struct worker *worker)
{
    struct certs_job *c = CONTAINER_OF(job, struct certs_job, job);
    const struct accept_setup *setup = c->setup;

    (void)worker;
    for (size_t i = 0; i < setup->config->n_listeners; i++) {
        const struct tls_ctx *old = setup->listeners[i].tls;
        if (old == NULL || !tls_ctx_stale(old))
            continue;
        if (check_key(setup, &c->err) != ERR_OK ||
            setup_tls(setup, i, &c->fresh[i], &c->err) != ERR_OK)
            return;
    }
}

/* All or none: half of a change is a certificate without its key. */
static void
certs_swap(struct certs_job *c)
{
    struct accept_setup *setup = c->setup;
    size_t n = 0;

    for (size_t i = 0; i < setup->config->n_listeners; i++) {
        if (c->fresh[i] == NULL)
            continue;
        struct tls_ctx *old = setup->listeners[i].tls;
        setup->listeners[i].tls = c->fresh[i];
        c->fresh[i] = old; /* freed by certs_done() */
        n++;
    }
    if (n > 0)
        log_text(c->accept->env.log, LOG_INFO, "certificate_reloaded", "%s",
                 setup->config->tls.certificate_file);
}

static void
certs_done(struct job *job)
{
    struct certs_job *c = CONTAINER_OF(job, struct certs_job, job);
    struct accept *a = c->accept;
    bool again = a != NULL && c->again;

    if (a != NULL) {
        a->certs_job = NULL;
        if (c->err.code != ERR_OK)
            log_alert(a->env.log, "certificate", "%s; the old certificate stays", c->err.text);
        else if (!job->dropped)
            certs_swap(c);
    }
    for (size_t i = 0; i < c->setup->config->n_listeners; i++)
        tls_ctx_free(c->fresh[i]);
    setup_unref(c->setup);
    free(c->fresh);
    free(c);
    if (again)
        accept_refresh_certificates(a);
}

void
accept_refresh_certificates(struct accept *a)
{
    if (a->setup == NULL)
        return;
    if (a->certs_job != NULL) {
        a->certs_job->again = true;
        return;
    }
    struct certs_job *c = xcalloc(1, sizeof *c);
    c->accept = a;
    c->setup = a->setup;
    setup_ref(c->setup);
    c->fresh = xcalloc(c->setup->config->n_listeners + 1, sizeof(struct tls_ctx *));
    c->job = (struct job){.job_class = JOB_NORMAL, .run = certs_run, .done = certs_done};
    a->certs_job = c;
    workers_submit(a->env.workers, &c->job);
}

static void
on_hour(void *arg)
{
    accept_refresh_certificates(arg);
    certs_start(arg);
}

void
certs_start(struct accept *a)
{
    timer_set(a->clock, &a->certificate_timer, CERTS_EVERY_MS, on_hour, a);
}

void
certs_stop(struct accept *a)
{
    timer_cancel(a->clock, &a->certificate_timer);
    if (a->certs_job != NULL)
        a->certs_job->accept = NULL;
    a->certs_job = NULL;
}
