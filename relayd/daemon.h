/*
 * daemon - everything a running relayd consists of. Declares only; start.c makes and stop.c ends
 * it, wire.c joins the stages, reload.c swaps settings, api_*.c answer relayctl.
 */
#pragma once

#include "relayd/accept/accept.h"
#include "relayd/delivery.h"
#include "relayd/facts.h"
#include "relayd/intake.h"
#include "relayd/net/dns.h"
#include "relayd/net/loop.h"
#include "relayd/ops/control.h"
#include "relayd/ops/log.h"
#include "relayd/ops/metrics.h"
#include "relayd/record/record.h"
#include "relayd/sandbox.h"
#include "relayd/schedule/schedule.h"
#include "relayd/settings.h"
#include "relayd/store/store.h"
#include "relayd/trusted.h"
#include "relayd/work/inhand.h"
#include "relayd/work/workers.h"

struct api;
struct blame;
struct daemon_gauges;
struct reload;
struct listener;

enum daemon_phase { DAEMON_STARTING, DAEMON_RUNNING, DAEMON_STOPPING };

struct daemon {
    const char *config_file; /* absolute */
    msec_t drain_ms;
    enum daemon_phase phase;
    int exit_code;
    msec_t started_at; /* wall */
    struct loop *loop;
    struct inbox *inbox;
    struct workers *workers;
    struct log *log;
    struct metrics *metrics;
    struct queue *queue;
    struct store *store;
    struct dns *dns;
    struct facts *facts;
    struct learned *learned;
    struct trusted *trusted;
    struct accept *accept;
    struct intake *intake;
    struct schedule *schedule;
    struct delivery *delivery;
    struct record *record;
    struct control *control;
    struct listener *control_socket, *http_socket; /* bound, not served yet; NULL: none */
    struct {
        char *node, *user, *queue_path, *control_socket, *http_address;
    } started;                 /* with what a reload cannot change */
    struct settings *settings; /* in force */
    struct settings **all;     /* those that somebody holds, the one in force too */
    size_t n_all;
    struct reload *reload;  /* under way, and behind it those that wait */
    msec_t reloaded_at;     /* wall */
    char reload_error[512]; /* of the last reload that failed; "" */
    size_t max_connections; /* outbound, that the descriptors allow */
    bool accept_drained, schedule_drained;
    struct timer drain_timer, upkeep_timer, watchdog_timer;
    struct daemon_gauges *gauges;
    struct api *api;
    struct blame *blame;       /* NULL: not started yet */
    struct inhand_mark *marks; /* what the last run's crash left */
    size_t n_marks;
    bool accepting, blamed; /* the schedule starts when both are true */
    struct sandbox sandbox; /* what of it is in force */
};

/* wire.c: make the stages and join them. accept comes first, since it binds ports as root; the
 * others when settings, queue and store are there. */
void wire_accept(struct daemon *d, size_t max_sessions);
void wire_stages(struct daemon *d);
void wire_free(struct daemon *d); /* all but accept */
/* The settings in force go to schedule and to what is learned. */
void daemon_policy_changed(struct daemon *d);
/* Settings in use are counted; the last one to give one back frees it on a worker. */
struct settings *daemon_settings_take(void *daemon);
void daemon_settings_give(void *daemon, struct settings *settings);
void daemon_settings_adopt(struct daemon *d, struct settings *settings);
void daemon_config_done(void *daemon, const struct config *config);

/* verdict.c: may this recipient be taken? (accept_env.rcpt) */
void verdict_rcpt(void *daemon, struct accept_rcpt_request *req);
void verdict_cancel(void *daemon, struct accept_rcpt_request *req);

/* reload.c */
/* Load the configuration anew on a worker and swap it in, all or nothing. `done` (may be NULL) is
 * called with the problems when it is over. */
void
daemon_reload(struct daemon *d,
              void (*done)(void *arg, bool ok, const struct config_problems *problems), void *arg);
struct dns_config;
/* The resolver part of a configuration; `servers` has room for DNS_SERVERS_MAX. */
void
daemon_dns_config(const struct config *config, struct net_addr *servers, struct dns_config *ret);
void daemon_log_problems(struct daemon *d, const struct config_problems *problems);
MUST_CHECK enum err_code
daemon_log_config(struct daemon *d, const struct config *config, struct err *err);

/* Destinations in trouble that /metrics names, the worst ones; it counts all. Recipients choose the
 * names, and each would be a series that whoever collects keeps. */
#define GAUGES_SITES_MAX 50
/* gauges.c: what /metrics tells beside the counters of record. */
void gauges_new(struct daemon *d);

/* api.c: the routes of the control socket. */
void api_new(struct daemon *d);
void api_stop(struct daemon *d);
void api_free(struct daemon *d); /* every read and operation has come back */
