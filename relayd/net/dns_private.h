/*
 * dns_private - what dns.c (questions, configuration) and dns_job.c (tries, fail-over) share.
 */
#pragma once

#include <sys/queue.h>

#include "relayd/net/dns.h"
#include "relayd/net/dns_cache.h"
#include "relayd/net/dns_channel.h"

#define DNS_TEXT_BYTES 160

struct dns_server {
    struct net_addr addr;
    struct dns_channel *channel;
    bool loopback;
    msec_t no_edns_until; /* it answered FORMERR to an OPT */
    unsigned n_timeouts;  /* in a row */
    msec_t bad_until;
};

enum job_state { JOB_WAITING, JOB_TRYING, JOB_DONE };

struct dns_query {
    TAILQ_ENTRY(dns_query) link;
    struct dns_job *job;
    void (*cb)(void *arg, const struct dns_answer *answer);
    void *arg;
};

struct dns_job {
    struct dns *dns;
    TAILQ_ENTRY(dns_job) link;      /* all jobs */
    TAILQ_ENTRY(dns_job) line_link; /* WAITING */
    TAILQ_HEAD(, dns_query) queries;
    enum job_state state;
    bool joinable; /* it is in dns->jobs */
    struct timer timer;
    struct deferred done;
    struct dns_entry *result;

    struct dns_try *try; /* TRYING */
    size_t server;       /* asked now */
    bool with_edns;
    unsigned heard, tried; /* bits: servers that answered; servers asked in this round */
    unsigned round;
    bool timed_out;
    char text[DNS_TEXT_BYTES]; /* of the last failure */

    unsigned n_cnames; /* of links that led out of a message */
    uint32_t ttl_max_s;
    bool ad;         /* so far on the chain */
    char *name;      /* asked now; key's name until a CNAME leads elsewhere */
    struct span key; /* in `bytes` */
    char bytes[];
};

struct dns {
    struct loop *loop;
    struct dns_server servers[DNS_SERVERS_MAX];
    size_t n_servers;
    msec_t timeout_ms;
    struct dns_cache *cache;
    struct map jobs; /* by key, joinable ones */
    TAILQ_HEAD(, dns_job) all;
    TAILQ_HEAD(, dns_job) line;
    size_t n_line;
    bool telling; /* a callback runs */
    struct dns_stats stats;
};

msec_t dns_now(const struct dns *dns);

/* A job for `name`, not begun. */
struct dns_job *dns_job_new(struct dns *dns, struct span key, const char *name);
void dns_job_free(struct dns_job *job);
/* Ask the next server, or give up. */
void dns_job_next(struct dns_job *job);
/* It is over; all who asked are told at the end of the tick. Takes over the reference. */
void dns_job_done(struct dns_job *job, struct dns_entry *result);
void dns_job_failed(struct dns_job *job, enum dns_status status, const char *text);
/* WAITING: it no longer does. */
void dns_job_leave_line(struct dns_job *job);

extern const struct dns_channel_ops dns_job_channel_ops;
