/*
 * gauges - what /metrics tells beside the counters of record: read when somebody asks.
 */
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "relayd/daemon.h"

struct daemon_gauges {
    struct metric *up_since, *queue_messages, *queue_fresh, *queue_scheduled, *queue_held,
        *queue_used, *queue_free, *oldest, *blocked;
    struct metric *accepted, *accepted_bytes, *refused, *sessions, *connections, *auth_failed,
        *relay_denied, *tls_handshakes;
    struct metric *in_hand, *sites, *sites_down, *outbound, *signatures;
    struct metric *commits, *commit_ops, *commit_bytes, *sync_seconds, *apply_seconds, *stale;
    struct metric *dns_questions, *dns_hits, *dns_timeouts, *log_dropped, *alerts;
    struct metric *certificate, *pinned;
    struct metric_family *route_up, *sites_in_trouble, *site_state, *name_addresses, *name_stale;
};

/* As site_trouble_name() has them. */
static const char *const troubles[] = {"down", "probing", "suspended"};

static struct metric *
gauge(struct daemon *d, const char *name, const char *help)
{
    return metric_only(metrics_family(d->metrics, METRIC_GAUGE, name, help, NULL));
}

static struct metric *
counter(struct daemon *d, const char *name, const char *help)
{
    return metric_only(metrics_family(d->metrics, METRIC_COUNTER, name, help, NULL));
}

static void
collect_store(struct daemon *d, struct daemon_gauges *g)
{
    struct store_numbers n;
    store_numbers(d->store, &n);
    metric_set(g->queue_messages, (double)n.queue.messages);
    metric_set(g->queue_fresh, (double)n.queue.fresh);
    metric_set(g->queue_scheduled, (double)n.queue.scheduled);
    metric_set(g->queue_held, (double)n.queue.held);
    metric_set(g->queue_used, (double)n.queue.used_bytes);
    metric_set(g->queue_free, (double)n.queue.disk_free_bytes);
    msec_t age = n.queue.oldest_at == 0 ? 0 : clock_wall(loop_clock(d->loop)) - n.queue.oldest_at;
    metric_set(g->oldest, (double)(age < 0 ? 0 : age) / 1000);
    metric_set(g->blocked, (double)n.blocked);
    metric_set(g->commits, (double)n.commits);
    metric_set(g->commit_ops, (double)n.ops);
    metric_set(g->commit_bytes, (double)n.bytes);
    metric_set(g->sync_seconds, (double)n.sync_us / 1e6);
    metric_set(g->apply_seconds, (double)n.apply_us / 1e6);
    metric_set(g->stale, (double)n.stale);
}

static void
collect_accept(struct daemon *d, struct daemon_gauges *g)
{
    struct accept_stats a;
    struct intake_numbers n;
    accept_stats(d->accept, &a);
    intake_numbers(d->intake, &n);
    metric_set(g->sessions, a.sessions);
    metric_set(g->connections, (double)a.connections);
    metric_set(g->auth_failed, (double)a.auth_failed);
    metric_set(g->relay_denied, (double)a.relay_denied);
    metric_set(g->tls_handshakes, (double)a.tls_handshakes);
    metric_set(g->accepted, (double)n.messages);
    metric_set(g->accepted_bytes, (double)n.bytes);
    metric_set(g->refused, (double)a.messages_refused);
    metric_set(g->signatures, (double)n.signatures);
    msec_t until = accept_certificate_not_after(d->accept);
    if (until != INT64_MAX)
        metric_set(g->certificate, (double)until / 1000);
}

struct site_counts {
    const struct config *config;
    size_t n[CONFIG_ROUTES_MAX][N_ELEMENTS(troubles)];
    bool down[CONFIG_ROUTES_MAX];
};

static void
count_site(void *arg, const struct site_info *info)
{
    struct site_counts *counts = arg;
    int r = config_route_find(counts->config, span_str(info->route));

    if (r < 0 || !site_in_trouble(info))
        return; /* without its route nobody goes there */
    for (size_t i = 0; i < N_ELEMENTS(troubles); i++)
        counts->n[r][i] += strcmp(site_trouble_name(info), troubles[i]) == 0;
    counts->down[r] = counts->down[r] || info->state != SITE_UP;
}

static void
collect_routes(struct daemon *d, struct daemon_gauges *g)
{
    const struct config *config = d->settings->config;
    struct site_counts counts = {.config = config};
    msec_t since_at, probe_at;
    const char *text;

    metric_family_clear(g->route_up);
    metric_family_clear(g->sites_in_trouble);
    schedule_sites(d->schedule, count_site, &counts);
    /* A hop is its route's only site; direct has many. */
    counts.down[0] = schedule_direct_down(d->schedule, &since_at, &probe_at, &text);
    for (size_t r = 0; r < config->n_routes; r++) {
        const char *route = config->routes[r].name;
        metric_set(metric_with(g->route_up, route), counts.down[r] ? 0 : 1);
        for (size_t i = 0; i < N_ELEMENTS(troubles); i++)
            metric_set(metric_with(g->sites_in_trouble, route, troubles[i]),
                       (double)counts.n[r][i]);
    }
}

static void
collect_worst(struct daemon *d, struct daemon_gauges *g)
{
    struct site_info worst[GAUGES_SITES_MAX];
    size_t n = schedule_worst(d->schedule, worst, N_ELEMENTS(worst));

    metric_family_clear(g->site_state);
    for (size_t i = 0; i < n; i++)
        metric_set(
            metric_with(g->site_state, worst[i].name, worst[i].route, site_trouble_name(&worst[i])),
            1);
}

static void
collect_name(void *arg, const struct trusted_info *info)
{
    struct daemon_gauges *g = arg;
    metric_set(metric_with(g->name_addresses, info->host), (double)info->n_addresses);
    metric_set(metric_with(g->name_stale, info->host), (double)info->stale_ms / 1000);
}

static void
collect(void *arg)
{
    struct daemon *d = arg;
    struct daemon_gauges *g = d->gauges;
    struct schedule_numbers s;
    struct dns_stats dns = dns_stats(d->dns);

    collect_store(d, g);
    collect_accept(d, g);
    schedule_numbers(d->schedule, &s);
    metric_set(g->pinned, (double)schedule_pins(d->schedule, NULL, NULL));
    metric_set(g->in_hand, (double)s.in_hand);
    metric_set(g->sites, (double)s.sites);
    metric_set(g->sites_down, (double)s.sites_down);
    metric_set(g->outbound, (double)delivery_connections(d->delivery));
    metric_set(g->dns_questions, (double)dns.questions);
    metric_set(g->dns_hits, (double)dns.cache_hits);
    metric_set(g->dns_timeouts, (double)dns.timeouts);
    metric_set(g->log_dropped, (double)log_dropped(d->log));
    metric_set(g->alerts, (double)log_alerts_total(d->log));
    collect_routes(d, g);
    collect_worst(d, g);
    metric_family_clear(g->name_addresses);
    metric_family_clear(g->name_stale);
    trusted_each(d->trusted, collect_name, g);
}

static void
queue_gauges(struct daemon *d, struct daemon_gauges *g)
{
    g->queue_messages = gauge(d, "relayd_queue_messages", "Messages in the queue.");
    g->queue_fresh = gauge(d, "relayd_queue_fresh_recipients", "Recipients never deferred.");
    g->queue_scheduled =
        gauge(d, "relayd_queue_scheduled_recipients", "Recipients that wait for a retry.");
    g->queue_held = gauge(d, "relayd_queue_held_recipients", "Recipients on hold.");
    g->queue_used = gauge(d, "relayd_queue_used_bytes", "Pages of the queue that hold something.");
    g->queue_free = gauge(d, "relayd_queue_disk_free_bytes", "Free space of its file system.");
    g->oldest = gauge(d, "relayd_queue_oldest_age_seconds", "Age of the oldest message.");
    g->blocked = gauge(d, "relayd_queue_blocked_outcomes",
                       "Outcomes of attempts that wait for room on the disk of the queue.");
    g->commits = counter(d, "relayd_commits_total", "Transactions synced to the disk.");
    g->commit_ops = counter(d, "relayd_commit_operations_total", "Operations in them.");
    g->commit_bytes = counter(d, "relayd_commit_bytes_total", "Bytes put into them.");
    g->sync_seconds = counter(d, "relayd_commit_sync_seconds_total", "Time spent syncing.");
    g->apply_seconds =
        counter(d, "relayd_commit_apply_seconds_total", "Time spent filling transactions.");
    g->stale = counter(d, "relayd_stale_outcomes_total", "Changes dropped for their revision.");
}

static void
session_gauges(struct daemon *d, struct daemon_gauges *g)
{
    g->sessions = gauge(d, "relayd_sessions", "Clients connected.");
    g->connections = counter(d, "relayd_connections_total", "Client connections.");
    g->accepted = counter(d, "relayd_messages_accepted_total", "Messages answered with 250.");
    g->accepted_bytes = counter(d, "relayd_accepted_bytes_total", "Bytes of accepted messages.");
    g->refused = counter(d, "relayd_messages_refused_total", "Messages refused after MAIL.");
    g->auth_failed = counter(d, "relayd_auth_failures_total", "Failed AUTH attempts.");
    g->relay_denied = counter(d, "relayd_relay_denied_total", "Recipients refused to strangers.");
    g->tls_handshakes = counter(d, "relayd_tls_handshakes_total", "TLS sessions of clients.");
    g->signatures = counter(d, "relayd_dkim_signatures_total", "DKIM signatures made.");
    g->certificate = gauge(d, "relayd_certificate_expiry_timestamp_seconds",
                           "When the certificate in use runs out; 0 without one.");
}

void
gauges_new(struct daemon *d)
{
    struct daemon_gauges *g = d->gauges = xcalloc(1, sizeof(*g));

    g->up_since = gauge(d, "relayd_start_timestamp_seconds", "When this process started.");
    metric_set(g->up_since, (double)d->started_at / 1000);
    queue_gauges(d, g);
    session_gauges(d, g);
    g->in_hand = gauge(d, "relayd_recipients_in_hand", "Recipients being worked on.");
    g->sites = gauge(d, "relayd_sites", "Destinations known at the moment.");
    g->sites_down = gauge(d, "relayd_sites_down", "Destinations that cannot be reached.");
    g->route_up =
        metrics_family(d->metrics, METRIC_GAUGE, "relayd_route_up",
                       "1; 0 while a hop, or the direct route as a whole, is down.", "route", NULL);
    g->sites_in_trouble =
        metrics_family(d->metrics, METRIC_GAUGE, "relayd_sites_in_trouble",
                       "Destinations that are down, probing or suspended.", "route", "state", NULL);
    g->site_state = metrics_family(d->metrics, METRIC_GAUGE, "relayd_site_in_trouble",
                                   "1 for the worst destinations that are down, probing or "
                                   "suspended; relayd_sites_in_trouble counts them all.",
                                   "site", "route", "state", NULL);
    g->pinned = gauge(d, "relayd_pinned_domains",
                      "Domains that the administrator sends by a route of his choice.");
    g->name_addresses =
        metrics_family(d->metrics, METRIC_GAUGE, "relayd_trusted_name_addresses",
                       "Addresses trusted by each name of trusted_clients.", "name", NULL);
    g->name_stale = metrics_family(d->metrics, METRIC_GAUGE, "relayd_trusted_name_stale_seconds",
                                   "For how long DNS has not answered for this name; 0: it does.",
                                   "name", NULL);
    g->outbound = gauge(d, "relayd_outbound_connections", "Connections to destinations.");
    g->dns_questions = counter(d, "relayd_dns_questions_total", "Questions asked of the resolver.");
    g->dns_hits = counter(d, "relayd_dns_cache_hits_total", "Questions answered from the cache.");
    g->dns_timeouts = counter(d, "relayd_dns_timeouts_total", "Questions without an answer.");
    g->log_dropped = counter(d, "relayd_log_dropped_total", "Log lines dropped.");
    g->alerts = counter(d, "relayd_alerts_total", "Alerts raised.");
    metrics_on_collect(d->metrics, collect, d);
}
