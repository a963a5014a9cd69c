/*
 * sign - runs policy/dkim on a worker. A body that is not in memory is read back from the queue in
 * pieces, so that a 50 MiB message costs one buffer.
 */
#include "relayd/sign.h"

#include <stdlib.h>

#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "policy/header.h"
#include "relayd/work/inhand.h"

#define CHUNK_BYTES ((size_t)QUEUE_CHUNK_BYTES * 8)

static void *
signer_make(void *arg)
{
    struct dkim_signer *signer = NULL;
    struct err err;
    (void)arg;
    if (dkim_signer_new(&signer, &err) != ERR_OK)
        return NULL;
    return signer;
}

static void
signer_free(void *value)
{
    dkim_signer_free(value);
}

struct worker_slot
sign_worker_slot(void)
{
    return (struct worker_slot){.make = signer_make, .free = signer_free};
}

static enum err_code
next_from_memory(struct sign_job *job, struct span *ret)
{
    *ret = job->body_given ? SPAN_NONE : job->body;
    job->body_given = true;
    return ERR_OK;
}

static enum err_code
body_next(void *arg, struct span *ret, struct err *err)
{
    struct sign_job *job = arg;
    size_t n;

    if (job->queue == NULL)
        return next_from_memory(job, ret);
    if (job->reader == NULL) {
        enum err_code code = queue_reader_new(job->queue, &job->reader, err);
        if (code != ERR_OK)
            return code;
        job->chunk = xmalloc(CHUNK_BYTES);
    }
    enum err_code code =
        queue_read_body(job->reader, job->queue_id, job->offset, job->chunk, CHUNK_BYTES, &n, err);
    if (code != ERR_OK)
        return code;
    job->offset += n;
    *ret = span_of(job->chunk, n);
    return ERR_OK;
}

static void
sign_run(struct job *j, struct worker *worker)
{
    struct sign_job *job = CONTAINER_OF(j, struct sign_job, job);
    struct dkim_signer *signer = worker_local(worker, SIGN_SLOT);
    IN_HAND(job->msg_id);
    inhand_print(job->print);
    const struct dkim_message message = {
        .id = job->id,
        .head = job->head,
        .n_head = job->n_head,
        .body = {body_next, job},
        .now = job->now,
    };

    if (signer == NULL)
        job->code = err_set(&job->err, ERR_IO, "libopendkim does not start");
    else
        job->code =
            dkim_signer_sign(signer, job->settings->keyring, &message, &job->result, &job->err);
    queue_reader_free(job->reader);
    job->reader = NULL;
    free(job->chunk);
    job->chunk = NULL;
}

static void
sign_done(struct job *j)
{
    struct sign_job *job = CONTAINER_OF(j, struct sign_job, job);
    if (j->dropped)
        job->code = err_set(&job->err, ERR_AGAIN, "the daemon is stopping");
    job->done(job);
}

bool
sign_wanted(const struct settings *settings, struct span from_value)
{
    char raw[HEADER_DOMAIN_MAX + 1], domain[DOMAIN_BUF];
    struct dkim_identity identities[DKIM_SIGNATURES_MAX];

    if (dkim_keyring_count(settings->keyring) == 0 || !header_from_domain(from_value, raw) ||
        domain_normalise(span_str(raw), domain, NULL) != ERR_OK)
        return false;
    return dkim_keyring_match(settings->keyring, span_str(domain), identities) > 0;
}

void
sign_start(struct workers *workers, struct sign_job *job)
{
    job->job.job_class = JOB_NORMAL;
    job->job.run = sign_run;
    job->job.done = sign_done;
    job->reader = NULL;
    job->chunk = NULL;
    job->body_given = false;
    memset(&job->result, 0, sizeof(job->result));
    workers_submit(workers, &job->job);
}
