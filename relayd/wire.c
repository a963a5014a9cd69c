/*
 * wire - joins the stages. One function an arrow of the picture in README.md:
 *
 *   accept ─▶ verdict_rcpt, intake ─▶ on_stored ─▶ schedule ─▶ link_* ─▶ delivery ─▶ on_attempted
 *     ─▶ record ─▶ on_reroute, on_recorded ─▶ schedule          (and notices: on_stored again)
 */
#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/blame.h"
#include "relayd/daemon.h"
#include "relayd/learned.h"

/* ---- settings ---- */

struct settings *
daemon_settings_take(void *daemon)
{
    struct daemon *d = daemon;
    d->settings->refs++;
    return d->settings;
}

struct free_job {
    struct job job;
    struct settings *settings;
};

static void
free_run(struct job *job, struct worker *worker)
{
    (void)worker;
    settings_free(CONTAINER_OF(job, struct free_job, job)->settings);
}

static void
free_done(struct job *job)
{
    struct free_job *f = CONTAINER_OF(job, struct free_job, job);
    if (job->dropped)
        settings_free(f->settings);
    free(f);
}

void
daemon_settings_give(void *daemon, struct settings *settings)
{
    struct daemon *d = daemon;
    assert(settings->refs > 0);
    if (--settings->refs > 0)
        return;
    for (size_t i = 0; i < d->n_all; i++)
        if (d->all[i] == settings)
            d->all[i] = d->all[--d->n_all];
    struct free_job *f = xcalloc(1, sizeof(*f));
    f->settings = settings;
    f->job.run = free_run;
    f->job.done = free_done;
    workers_submit(d->workers, &f->job);
}

void
daemon_settings_adopt(struct daemon *d, struct settings *settings)
{
    struct settings *old = d->settings;
    d->all = xrealloc(d->all, (d->n_all + 1) * sizeof(struct settings *));
    d->all[d->n_all++] = settings;
    d->settings = settings;
    settings->refs++; /* accept's, until daemon_config_done() */
    if (d->facts != NULL) {
        facts_set_config(d->facts, settings->config);
        trusted_use(d->trusted, d->dns, d->facts, settings->config);
    }
    if (old != NULL)
        daemon_settings_give(d, old);
}

void
daemon_config_done(void *daemon, const struct config *config)
{
    struct daemon *d = daemon;
    for (size_t i = 0; i < d->n_all; i++) {
        if (d->all[i]->config == config) {
            daemon_settings_give(d, d->all[i]);
            return;
        }
    }
}

static struct schedule_policy
policy_of(const struct settings *settings)
{
    return (struct schedule_policy){.config = settings->config, .geoip = settings->geoip};
}

void
daemon_policy_changed(struct daemon *d)
{
    const struct schedule_policy policy = policy_of(d->settings);
    learned_set_config(d->learned, &policy.config->learning);
    schedule_set_policy(d->schedule, &policy);
}

/* ---- the arrows ---- */

/* intake ─▶ blame. */
static bool
on_poison(void *arg, uint64_t print)
{
    const struct daemon *d = arg;
    return d->blame != NULL && blame_refuses(d->blame, print);
}

/* intake, record ─▶ schedule: a message is durable. */
static void
on_stored(void *arg, struct msg *msg, struct msg_body *body, struct rcpt *const *rcpts,
          size_t n_rcpts)
{
    struct daemon *d = arg;
    schedule_take(d->schedule, msg, body, rcpts, n_rcpts);
}

/* schedule ─▶ delivery. */
static void *
on_open(void *arg, struct site_link *link, const struct schedule_target *target)
{
    struct daemon *d = arg;
    return delivery_open(d->delivery, link, target);
}

static void
on_send(void *arg, void *conn, struct rcpt *const *rcpts, size_t n)
{
    (void)arg;
    delivery_send(conn, rcpts, n);
}

static void
on_quit(void *arg, void *conn)
{
    (void)arg;
    delivery_quit(conn);
}

static bool
on_ready(void *arg, void *conn)
{
    (void)arg;
    return delivery_ready(conn);
}

/* delivery, schedule ─▶ record. */
static void
on_attempted(void *arg, struct attempt *attempts, size_t n)
{
    struct daemon *d = arg;
    record_attempts(d->record, attempts, n);
}

static void
on_hold(void *arg, struct rcpt *rcpt, struct span reason)
{
    struct daemon *d = arg;
    record_hold(d->record, rcpt, reason);
}

static bool
on_curable(void *arg, const struct outcome *outcome, const char *host)
{
    struct daemon *d = arg;
    return record_curable(d->record, outcome, host);
}

static bool
on_overdue(void *arg, const struct rcpt *rcpt)
{
    struct daemon *d = arg;
    return record_overdue(d->record, rcpt);
}

/* record ─▶ schedule. */
static enum rerouted
on_reroute(void *arg, struct rcpt *rcpt, const struct reroute *why)
{
    struct daemon *d = arg;
    return schedule_reroute(d->schedule, rcpt, why);
}

static void
on_delivered(void *arg, struct rcpt *rcpt)
{
    struct daemon *d = arg;
    schedule_delivered(d->schedule, rcpt);
}

static bool
on_other_family(void *arg, struct rcpt *rcpt, uint8_t family, const struct outcome *refusal)
{
    struct daemon *d = arg;
    return schedule_other_family(d->schedule, rcpt, family, refusal);
}

static msec_t
on_fallback_after(void *arg, const struct rcpt *rcpt)
{
    const struct daemon *d = arg;
    return schedule_fallback_after(d->schedule, rcpt);
}

static bool
on_route_left(void *arg, const struct rcpt *rcpt)
{
    struct daemon *d = arg;
    return schedule_route_left(d->schedule, rcpt);
}

static msec_t
on_probe_at(void *arg, const struct rcpt *rcpt)
{
    struct daemon *d = arg;
    return schedule_probe_at(d->schedule, rcpt);
}

static void
on_slow(void *arg, const struct rcpt *rcpt)
{
    struct daemon *d = arg;
    schedule_slow(d->schedule, rcpt);
}

static void
on_recorded(void *arg, struct rcpt *rcpt, enum rcpt_fate fate, msec_t due_at, uint64_t txn)
{
    struct daemon *d = arg;
    schedule_recorded(d->schedule, rcpt, fate, due_at, txn);
}

static struct span
on_wanted_route(void *arg, const struct rcpt *rcpt)
{
    (void)arg;
    return record_wanted_route(rcpt);
}

static const struct schedule_ops schedule_ops = {
    .open = on_open,
    .send = on_send,
    .quit = on_quit,
    .ready = on_ready,
    .attempted = on_attempted,
    .curable = on_curable,
    .hold = on_hold,
    .wanted_route = on_wanted_route,
    .overdue = on_overdue,
};

void
wire_stages(struct daemon *d)
{
    const struct intake_env intake = {
        .loop = d->loop,
        .log = d->log,
        .store = d->store,
        .queue = d->queue,
        .workers = d->workers,
        .arg = d,
        .settings_take = daemon_settings_take,
        .settings_give = daemon_settings_give,
        .poison = on_poison,
        .stored = on_stored,
    };
    const struct delivery_env delivery = {
        .loop = d->loop,
        .log = d->log,
        .store = d->store,
        .arg = d,
        .settings_take = daemon_settings_take,
        .settings_give = daemon_settings_give,
        .attempted = on_attempted,
    };
    const struct record_env record = {
        .loop = d->loop,
        .log = d->log,
        .metrics = d->metrics,
        .store = d->store,
        .queue = d->queue,
        .workers = d->workers,
        .arg = d,
        .settings_take = daemon_settings_take,
        .settings_give = daemon_settings_give,
        .reroute = on_reroute,
        .delivered = on_delivered,
        .other_family = on_other_family,
        .fallback_after = on_fallback_after,
        .route_left = on_route_left,
        .probe_at = on_probe_at,
        .slow = on_slow,
        .recorded = on_recorded,
        .stored = on_stored,
    };
    const struct learned_env learned = {
        .loop = d->loop,
        .log = d->log,
        .metrics = d->metrics,
        .store = d->store,
        .config = &d->settings->config->learning,
    };
    d->learned = learned_new(&learned);
    const struct schedule_env schedule = {
        .loop = d->loop,
        .log = d->log,
        .store = d->store,
        .queue = d->queue,
        .facts = d->facts,
        .learned = d->learned,
        .policy = policy_of(d->settings),
        .max_connections = d->max_connections,
        .ops = &schedule_ops,
        .arg = d,
    };
    intake_start(d->intake, &intake);
    d->delivery = delivery_new(&delivery);
    d->record = record_new(&record);
    d->schedule = schedule_new(&schedule);
}

void
wire_accept(struct daemon *d, size_t max_sessions)
{
    d->intake = intake_new();
    d->trusted = trusted_new(d->loop, d->log);
    const struct accept_env env = {
        .loop = d->loop,
        .log = d->log,
        .workers = d->workers,
        .names = trusted_names(d->trusted),
        .rcpt_arg = d,
        .rcpt = verdict_rcpt,
        .rcpt_cancel = verdict_cancel,
        .sink_arg = d->intake,
        .sink = intake_sink(),
        .config_arg = d,
        .config_done = daemon_config_done,
        .max_sessions = max_sessions,
    };
    d->accept = accept_new(&env);
}

void
wire_free(struct daemon *d)
{
    schedule_free(d->schedule);
    learned_free(d->learned);
    delivery_free(d->delivery);
    record_free(d->record);
    intake_free(d->intake);
    d->schedule = NULL;
    d->learned = NULL;
    d->delivery = NULL;
    d->record = NULL;
    d->intake = NULL;
}
