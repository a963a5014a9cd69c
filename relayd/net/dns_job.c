/*
 * dns_job - one question under way for all who asked it, over servers and rounds.
 *
 *   dns_query --> [cache] --hit---------------------------------------> done
 *        |
 *        '-> job --> waiting (a server's places are taken) --> trying --> done
 *                                                               |  ^
 *                               SERVFAIL, timeout: next server -'  '- CNAME out of the message
 *
 * A try that ends with an answer of any kind marks its server as heard (SERVFAIL is not asked again
 * there); a time-out allows one more in a second round. A server with three time-outs in a row
 * comes last for half a minute. All who asked are told at the end of a tick.
 */
#include "relayd/net/dns_private.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "policy/base/mem.h"
#include "relayd/net/dns_wire.h"

#define ROUNDS 2
#define BAD_AFTER 3 /* time-outs in a row */
/* A dead first server must not cost each question its time-out. */
#define BAD_FOR_MS (30 * SECOND)
#define NO_EDNS_FOR_MS HOUR
#define IN_LINE_TIMEOUTS 4 /* how long a question waits for a place, in time-outs */

msec_t
dns_now(const struct dns *dns)
{
    return clock_now(loop_clock(dns->loop));
}

struct dns_job *
dns_job_new(struct dns *dns, struct span key, const char *name)
{
    struct dns_job *job = xcalloc(1, sizeof(*job) + key.n);
    job->dns = dns;
    memcpy(job->bytes, key.p, key.n);
    job->key = span_of(job->bytes, key.n);
    job->name = xstrdup(name);
    job->ttl_max_s = DNS_TTL_MAX_S;
    job->ad = true;
    TAILQ_INIT(&job->queries);
    TAILQ_INSERT_TAIL(&dns->all, job, link);
    return job;
}

/* ---- jobs: end ---- */

void
dns_job_free(struct dns_job *job)
{
    struct dns_query *q;
    TAILQ_REMOVE(&job->dns->all, job, link);
    while ((q = TAILQ_FIRST(&job->queries)) != NULL) {
        TAILQ_REMOVE(&job->queries, q, link);
        free(q);
    }
    timer_cancel(loop_clock(job->dns->loop), &job->timer);
    loop_defer_cancel(&job->done);
    dns_entry_unref(job->result);
    free(job->name);
    free(job);
}

static void
on_job_done(struct deferred *d)
{
    struct dns_job *job = CONTAINER_OF(d, struct dns_job, done);
    struct dns *dns = job->dns;
    struct dns_query *q;

    dns_entry_age(job->result, dns_now(dns));
    dns->telling = true;
    while ((q = TAILQ_FIRST(&job->queries)) != NULL) {
        struct dns_query ended = *q;
        TAILQ_REMOVE(&job->queries, q, link);
        free(q);
        ended.cb(ended.arg, &job->result->answer);
    }
    dns->telling = false;
    dns_job_free(job);
}

/* Takes over the reference of `result`. */
void
dns_job_done(struct dns_job *job, struct dns_entry *result)
{
    job->state = JOB_DONE;
    job->result = result;
    timer_cancel(loop_clock(job->dns->loop), &job->timer);
    if (job->joinable)
        map_remove(&job->dns->jobs, job->key);
    job->joinable = false;
    loop_defer(job->dns->loop, &job->done, on_job_done);
}

static void
job_answered(struct dns_job *job, struct dns_found *found)
{
    struct dns *dns = job->dns;
    uint32_t ttl_s = found->ttl_s < job->ttl_max_s ? found->ttl_s : job->ttl_max_s;
    const char *text = found->status == DNS_OK         ? "ok"
                       : found->status == DNS_NXDOMAIN ? "NXDOMAIN"
                                                       : "no such record";
    found->ad = found->ad && job->ad && dns->servers[job->server].loopback;
    struct dns_entry *e = dns_entry_new(job->key, found, found->status, ttl_s, dns_now(dns), text);
    dns->stats.answers++;
    dns_cache_put(dns->cache, e);
    dns_job_done(job, e);
}

void
dns_job_failed(struct dns_job *job, enum dns_status status, const char *text)
{
    struct dns *dns = job->dns;
    struct dns_entry *e =
        dns_entry_new(job->key, NULL, status, DNS_FAILURE_TTL_S, dns_now(dns), text);
    if (status == DNS_TIMEOUT)
        dns->stats.timeouts++;
    else if (status == DNS_SERVFAIL)
        dns->stats.servfails++;
    if (job->joinable)
        dns_cache_put(dns->cache, e);
    dns_job_done(job, e);
}

static void
failure_note(struct dns_job *job, const char *what)
{
    char addr[NET_ADDR_TEXT_BYTES];
    snprintf(job->text, sizeof(job->text), "%s (%s)", what,
             net_addr_format(&job->dns->servers[job->server].addr, addr));
}

/* ---- jobs: tries ---- */

static void
on_job_timeout(void *arg)
{
    struct dns_job *job = arg;
    struct dns_server *server = &job->dns->servers[job->server];

    dns_try_abandon(job->try);
    job->try = NULL;
    job->timed_out = true;
    job->tried |= 1u << job->server;
    failure_note(job, "timeout");
    if (++server->n_timeouts >= BAD_AFTER)
        server->bad_until = dns_now(job->dns) + BAD_FOR_MS;
    dns_job_next(job);
}

static void
job_send(struct dns_job *job, size_t i)
{
    struct dns *dns = job->dns;
    struct dns_server *server = &dns->servers[i];
    uint8_t question[DNS_QUESTION_BYTES];
    uint16_t id, type = (uint16_t)((uint8_t)job->key.p[0] << 8 | (uint8_t)job->key.p[1]);

    if (getrandom(&id, sizeof(id), 0) != sizeof(id))
        abort();
    job->server = i;
    job->state = JOB_TRYING;
    job->with_edns = server->no_edns_until <= dns_now(dns);
    size_t n = dns_question(question, id, job->name, type, job->with_edns);
    dns->stats.sent++;
    job->try = dns_channel_send(server->channel, question, n, job);
    timer_set(loop_clock(dns->loop), &job->timer, dns->timeout_ms, on_job_timeout, job);
}

/* The server to ask now, or -1: none is left. */
static int
job_pick(struct dns_job *job)
{
    struct dns *dns = job->dns;
    msec_t now = dns_now(dns);
    for (; job->round < ROUNDS; job->round++, job->tried = 0) {
        int bad = -1;
        for (size_t i = 0; i < dns->n_servers; i++) {
            if (((job->heard | job->tried) & 1u << i) != 0)
                continue;
            if (dns->servers[i].bad_until <= now)
                return (int)i;
            if (bad < 0)
                bad = (int)i;
        }
        if (bad >= 0)
            return bad;
    }
    return -1;
}

void
dns_job_leave_line(struct dns_job *job)
{
    TAILQ_REMOVE(&job->dns->line, job, line_link);
    job->dns->n_line--;
}

static void
on_line_timeout(void *arg)
{
    struct dns_job *job = arg;
    dns_job_leave_line(job);
    dns_job_failed(job, DNS_TIMEOUT, "timeout (too many questions wait for the resolver)");
}

static void
line_join(struct dns_job *job)
{
    struct dns *dns = job->dns;
    if (dns->n_line >= DNS_WAITING_MAX) {
        dns_job_failed(job, DNS_SERVFAIL, "too many questions wait for the resolver");
        return;
    }
    job->state = JOB_WAITING;
    TAILQ_INSERT_TAIL(&dns->line, job, line_link);
    dns->n_line++;
    timer_set(loop_clock(dns->loop), &job->timer, IN_LINE_TIMEOUTS * dns->timeout_ms,
              on_line_timeout, job);
}

/* Ask the next server, or give up. */
void
dns_job_next(struct dns_job *job)
{
    int i = job_pick(job);
    if (i < 0)
        dns_job_failed(job, job->timed_out && job->heard == 0 ? DNS_TIMEOUT : DNS_SERVFAIL,
                       job->text);
    else if (dns_channel_n(job->dns->servers[i].channel) >= DNS_IN_FLIGHT_MAX)
        line_join(job);
    else
        job_send(job, (size_t)i);
}

/* A CNAME leads out of the message: ask for where it leads. */
static void
job_chase(struct dns_job *job, struct dns_found *found)
{
    job->n_cnames += found->n_cnames;
    if (job->n_cnames > DNS_CNAME_MAX || strlen(found->name) > 253) {
        free(found);
        dns_job_failed(job, DNS_SERVFAIL, "CNAME chain too long or a loop");
        return;
    }
    char *name = xmalloc(DNS_NAME_BYTES);
    if (!dns_name_canonical(found->name, name)) {
        free(name);
        free(found);
        dns_job_failed(job, DNS_SERVFAIL, "CNAME to a name that cannot be asked for");
        return;
    }
    if (found->ttl_s < job->ttl_max_s)
        job->ttl_max_s = found->ttl_s;
    job->ad = job->ad && found->ad && job->dns->servers[job->server].loopback;
    free(found);
    free(job->name);
    job->name = xrealloc(name, strlen(name) + 1);
    job->heard = job->tried = job->round = 0;
    dns_job_next(job);
}

static void
job_message(struct dns_job *job, struct span message)
{
    struct dns *dns = job->dns;
    struct dns_server *server = &dns->servers[job->server];
    struct dns_found *found = NULL;
    uint16_t type = (uint16_t)((uint8_t)job->key.p[0] << 8 | (uint8_t)job->key.p[1]);
    int rcode = 0;

    server->n_timeouts = 0;
    server->bad_until = 0;
    switch (dns_walk(message, job->name, type, &found, &rcode)) {
    case DNS_WALK_ANSWER:
        job_answered(job, found);
        return;
    case DNS_WALK_CHASE:
        job_chase(job, found);
        return;
    case DNS_WALK_LOOP:
        dns_job_failed(job, DNS_SERVFAIL, "CNAME chain too long or a loop");
        return;
    case DNS_WALK_FORMERR:
        if (job->with_edns) {
            server->no_edns_until = dns_now(dns) + NO_EDNS_FOR_MS;
            dns_job_next(job); /* the same server: neither heard nor tried */
            return;
        }
        failure_note(job, "FORMERR");
        break;
    case DNS_WALK_FAILED:
        failure_note(job, dns_rcode_name(rcode));
        break;
    case DNS_WALK_REFERRAL:
        failure_note(job, "a referral, no recursion");
        break;
    case DNS_WALK_BROKEN:
        failure_note(job, "malformed answer");
        break;
    }
    job->heard |= 1u << job->server;
    dns_job_next(job);
}

static void
on_try(void *arg, enum dns_try_result result, struct span message, const char *text)
{
    struct dns_job *job = arg;

    assert(job->state == JOB_TRYING);
    job->try = NULL;
    timer_cancel(loop_clock(job->dns->loop), &job->timer);
    if (result == DNS_TRY_ANSWER) {
        job_message(job, message);
        return;
    }
    job->timed_out = job->timed_out || result == DNS_TRY_TIMEOUT;
    job->tried |= 1u << job->server;
    failure_note(job, text);
    dns_job_next(job);
}

static void
on_room(void *owner)
{
    struct dns *dns = owner;
    struct dns_job *job;
    while ((job = TAILQ_FIRST(&dns->line)) != NULL) {
        int i = job_pick(job);
        assert(i >= 0);
        if (dns_channel_n(dns->servers[i].channel) >= DNS_IN_FLIGHT_MAX)
            return;
        dns_job_leave_line(job);
        job_send(job, (size_t)i);
    }
}

const struct dns_channel_ops dns_job_channel_ops = {on_try, on_room};
