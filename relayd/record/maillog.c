/*
 * maillog - the one line of each attempt, and its counters. Field names are fixed: people grep
 * them.
 */
#include <stdio.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"
#include "relayd/record/internal.h"

static const struct {
    const char *name; /* in the log */
    const char *metric, *help;
} outcomes[] = {
    [MAILLOG_DELIVERED] = {"delivered", "relayd_recipients_delivered_total",
                           "Recipients whose next host took responsibility."},
    [MAILLOG_DEFERRED] = {"deferred", "relayd_recipients_deferred_total",
                          "Attempts that ended in a deferral."},
    [MAILLOG_FAILED] = {"failed", "relayd_recipients_failed_total", "Recipients given up."},
    [MAILLOG_REROUTED] = {"rerouted", "relayd_recipients_rerouted_total",
                          "Recipients that went on by their next route."},
    [MAILLOG_HELD] = {"held", "relayd_recipients_held_total",
                      "Recipients that an attempt put on hold."},
    [MAILLOG_DISCARDED] = {"discarded", "relayd_recipients_discarded_total",
                           "Recipients dropped by a rule."},
};

void
maillog_metrics(struct record *r)
{
    for (size_t i = 0; i < N_ELEMENTS(outcomes); i++)
        r->outcomes[i] = metrics_family(r->env.metrics, METRIC_COUNTER, outcomes[i].metric,
                                        outcomes[i].help, "route", "class", NULL);
    r->notices = metric_only(metrics_family(r->env.metrics, METRIC_COUNTER, "relayd_notices_total",
                                            "Delivery status notifications made.", NULL));
}

void
record_numbers(const struct record *r, struct record_numbers *ret)
{
    *ret = (struct record_numbers){.delivered = r->totals[MAILLOG_DELIVERED],
                                   .deferred = r->totals[MAILLOG_DEFERRED],
                                   .failed = r->totals[MAILLOG_FAILED],
                                   .rerouted = r->totals[MAILLOG_REROUTED]};
}

void
maillog_attempt(struct record *r, const struct attempt *a, const struct verdict *v,
                const struct attempts *before, enum maillog_outcome outcome, msec_t due_at)
{
    const struct rcpt *rcpt = a->rcpt;
    const struct msg *msg = rcpt->msg;
    const struct outcome *o = &a->outcome;
    msec_t now = clock_wall(loop_clock(r->env.loop));
    msec_t delay = now - msg->q.arrived_at;
    msec_t queue = delay - a->connect_ms - a->transfer_ms;
    char enh[16];
    struct log_line line;

    r->totals[outcome]++;
    metric_inc(
        metric_with(r->outcomes[outcome], a->route[0] == '\0' ? "none" : a->route, v->klass));
    log_begin(r->env.log, &line, LOG_INFO, "attempt");
    log_cstr(&line, "msg", msg->id_text);
    log_str(&line, "rcpt", rcpt->address);
    log_str(&line, "sender", msg->q.sender);
    if (a->srs.n > 0)
        log_str(&line, "srs", a->srs);
    log_cstr(&line, "outcome", outcomes[outcome].name);
    log_cstr(&line, "route", a->route);
    log_cstr(&line, "site", a->site);
    log_cstr(&line, "peer", a->peer);
    log_cstr(&line, "host", a->host);
    log_cstr(&line, "tls", a->tls);
    log_cstr(&line, "phase", o->phase);
    log_int(&line, "code", o->code);
    log_cstr(&line, "enh", enh_format(o->enh, enh));
    log_cstr(&line, "class", v->klass);
    log_cstr(&line, "origin", outcome_origin_name(o->origin));
    log_uint(&line, "attempt", before->count + 1);
    log_ms(&line, "delay", delay < 0 ? 0 : delay);
    log_ms(&line, "queue", queue < 0 ? 0 : queue);
    log_ms(&line, "connect", a->connect_ms);
    log_ms(&line, "transfer", a->transfer_ms);
    if (due_at > 0)
        log_at(&line, "due", due_at);
    if (o->maybe_twice)
        log_bool(&line, "maybe_twice", true);
    log_cstr(&line, "text", o->text);
    log_end(&line);
}

void
maillog_notice(struct record *r, const struct notice *n, const struct queue_msg *stored,
               const char *id_text, const char *original)
{
    char signed_by[512] = "";
    size_t used = 0;
    struct log_line line;

    for (size_t i = 0; i < stored->n_signatures && used < sizeof(signed_by); i++)
        used += (size_t)snprintf(signed_by + used, sizeof(signed_by) - used, "%s%.*s/%.*s",
                                 i == 0 ? "" : " ", SPAN_ARG(stored->signatures[i].domain),
                                 SPAN_ARG(stored->signatures[i].selector));
    log_begin(r->env.log, &line, LOG_INFO, "received");
    log_cstr(&line, "msg", id_text);
    log_cstr(&line, "sender", "");
    log_uint(&line, "rcpts", 1);
    log_str(&line, "rcpt", n->rcpt.address);
    log_uint(&line, "size", stored->body_bytes);
    log_cstr(&line, "client", "notice");
    log_cstr(&line, "notice", n->about);
    log_cstr(&line, "original", original);
    log_cstr(&line, "signed", signed_by);
    log_end(&line);
}
