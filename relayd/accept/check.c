/*
 * check - a password goes to a worker and comes back as a verdict. Called by session.c.
 *
 *   session ─▶ guard: shut out? two waiting already? ─▶ job (JOB_HASH: one at a time) ─▶ session
 *
 * The job owns copies of name and password and holds the setup with its users; a session that ends
 * meanwhile only detaches.
 */
#include "relayd/accept/session.h"

#include "policy/base/mem.h"
#include "relayd/net/conn.h"
#include "relayd/work/workers.h"

#include <stdlib.h>

struct check {
    struct job job;
    struct check *next, **link; /* of accept.checks; NULL link: accept is gone */
    struct accept *accept;
    struct session *session; /* NULL: gone */
    struct accept_setup *setup;
    struct ip client;
    const struct users *users;
    struct span name, password; /* in `text` */
    size_t n_text;
    bool ok;
    char text[];
};

static void
check_run(struct job *job, struct worker *worker)
{
    struct check *c = CONTAINER_OF(job, struct check, job);

    (void)worker;
    c->ok = users_verify(c->users, c->name, c->password);
}

static void
check_unlink(struct check *c)
{
    if (c->link == NULL)
        return;
    *c->link = c->next;
    if (c->next != NULL)
        c->next->link = c->link;
    c->link = NULL;
}

static void
check_done(struct job *job)
{
    struct check *c = CONTAINER_OF(job, struct check, job);
    struct session *s = c->session;

    if (c->link != NULL)
        guard_leave(c->accept->guard, &c->client);
    check_unlink(c);
    if (s != NULL) {
        bool ok = c->ok && !job->dropped;
        s->check = NULL;
        if (ok) {
            session_judge(s, c->name);
            conn_read_secret(s->conn, false);
        }
        smtpd_auth_done(s->smtpd, job->dropped ? SMTPD_AUTH_BUSY
                                  : ok         ? SMTPD_AUTH_OK
                                               : SMTPD_AUTH_BAD);
        session_wake(s);
    }
    setup_unref(c->setup);
    explicit_bzero(c->text, c->n_text);
    free(c);
}

static struct check *
check_new(struct session *s, const struct smtpd_auth *auth, const struct users *users)
{
    size_t n = auth->name.n + auth->password.n;
    struct check *c = xcalloc(1, sizeof *c + n);

    c->accept = s->accept;
    c->session = s;
    c->setup = s->setup;
    setup_ref(s->setup);
    c->client = s->client.ip;
    c->users = users;
    c->n_text = n;
    if (auth->name.n > 0)
        memcpy(c->text, auth->name.p, auth->name.n);
    if (auth->password.n > 0)
        memcpy(c->text + auth->name.n, auth->password.p, auth->password.n);
    c->name = span_of(c->text, auth->name.n);
    c->password = span_of(c->text + auth->name.n, auth->password.n);
    c->job = (struct job){.job_class = JOB_HASH, .run = check_run, .done = check_done};
    c->next = s->accept->checks;
    c->link = &s->accept->checks;
    if (c->next != NULL)
        c->next->link = &c->next;
    s->accept->checks = c;
    return c;
}

void
session_check_start(struct session *s)
{
    struct accept *a = s->accept;
    const struct smtpd_auth *auth = smtpd_auth(s->smtpd);
    const struct users *users = setup_users(s->setup, auth->name);

    if (guard_blocks(a->guard, &s->client.ip, clock_now(a->clock))) {
        a->stats.auth_throttled++;
        smtpd_auth_done(s->smtpd, SMTPD_AUTH_THROTTLED);
    } else if (users == NULL || !guard_enter(a->guard, &s->client.ip)) {
        smtpd_auth_done(s->smtpd, SMTPD_AUTH_BUSY);
    } else {
        s->check = check_new(s, auth, users);
        workers_submit(a->env.workers, &s->check->job);
    }
}

void
session_check_detach(struct session *s)
{
    if (s->check != NULL)
        s->check->session = NULL;
    s->check = NULL;
}

void
check_detach_all(struct accept *a)
{
    while (a->checks != NULL) {
        a->checks->session = NULL;
        check_unlink(a->checks);
    }
}
