/*
 * dns - jobs: one question under way for all who asked it, over servers and rounds.
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
#include "relayd/net/dns.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>

#include "policy/base/mem.h"
#include "relayd/net/dns_cache.h"
#include "relayd/net/dns_channel.h"
#include "relayd/net/dns_resolvconf.h"
#include "relayd/net/dns_wire.h"

#define TIMEOUT_MS (5 * SECOND)
#define CACHE_MAX 100000
#define ROUNDS 2
#define BAD_AFTER 3 /* time-outs in a row */
#define BAD_FOR_MS                                                                \
    (30 * SECOND) /* a dead first server must not cost each question its time-out \
                   */
#define NO_EDNS_FOR_MS HOUR
#define IN_LINE_TIMEOUTS 4 /* how long a question waits for a place, in time-outs */
#define TEXT_BYTES 160

struct server {
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
    char text[TEXT_BYTES]; /* of the last failure */

    unsigned n_cnames; /* of links that led out of a message */
    uint32_t ttl_max_s;
    bool ad;         /* so far on the chain */
    char *name;      /* asked now; key's name until a CNAME leads elsewhere */
    struct span key; /* in `bytes` */
    char bytes[];
};

struct dns {
    struct loop *loop;
    struct server servers[DNS_SERVERS_MAX];
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

static void job_next(struct dns_job *job);

static msec_t
now_of(const struct dns *dns)
{
    return clock_now(loop_clock(dns->loop));
}

/* ---- jobs: end ---- */

static void
job_free(struct dns_job *job)
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

    dns_entry_age(job->result, now_of(dns));
    dns->telling = true;
    while ((q = TAILQ_FIRST(&job->queries)) != NULL) {
        struct dns_query ended = *q;
        TAILQ_REMOVE(&job->queries, q, link);
        free(q);
        ended.cb(ended.arg, &job->result->answer);
    }
    dns->telling = false;
    job_free(job);
}

/* Takes over the reference of `result`. */
static void
job_done(struct dns_job *job, struct dns_entry *result)
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
    struct dns_entry *e = dns_entry_new(job->key, found, found->status, ttl_s, now_of(dns), text);
    dns->stats.answers++;
    dns_cache_put(dns->cache, e);
    job_done(job, e);
}

static void
job_failed(struct dns_job *job, enum dns_status status, const char *text)
{
    struct dns *dns = job->dns;
    struct dns_entry *e =
        dns_entry_new(job->key, NULL, status, DNS_FAILURE_TTL_S, now_of(dns), text);
    if (status == DNS_TIMEOUT)
        dns->stats.timeouts++;
    else if (status == DNS_SERVFAIL)
        dns->stats.servfails++;
    if (job->joinable)
        dns_cache_put(dns->cache, e);
    job_done(job, e);
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
    struct server *server = &job->dns->servers[job->server];

    dns_try_abandon(job->try);
    job->try = NULL;
    job->timed_out = true;
    job->tried |= 1u << job->server;
    failure_note(job, "timeout");
    if (++server->n_timeouts >= BAD_AFTER)
        server->bad_until = now_of(job->dns) + BAD_FOR_MS;
    job_next(job);
}

static void
job_send(struct dns_job *job, size_t i)
{
    struct dns *dns = job->dns;
    struct server *server = &dns->servers[i];
    uint8_t question[DNS_QUESTION_BYTES];
    uint16_t id, type = (uint16_t)((uint8_t)job->key.p[0] << 8 | (uint8_t)job->key.p[1]);

    if (getrandom(&id, sizeof(id), 0) != sizeof(id))
        abort();
    job->server = i;
    job->state = JOB_TRYING;
    job->with_edns = server->no_edns_until <= now_of(dns);
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
    msec_t now = now_of(dns);
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

static void
line_leave(struct dns_job *job)
{
    TAILQ_REMOVE(&job->dns->line, job, line_link);
    job->dns->n_line--;
}

static void
on_line_timeout(void *arg)
{
    struct dns_job *job = arg;
    line_leave(job);
    job_failed(job, DNS_TIMEOUT, "timeout (too many questions wait for the resolver)");
}

static void
line_join(struct dns_job *job)
{
    struct dns *dns = job->dns;
    if (dns->n_line >= DNS_WAITING_MAX) {
        job_failed(job, DNS_SERVFAIL, "too many questions wait for the resolver");
        return;
    }
    job->state = JOB_WAITING;
    TAILQ_INSERT_TAIL(&dns->line, job, line_link);
    dns->n_line++;
    timer_set(loop_clock(dns->loop), &job->timer, IN_LINE_TIMEOUTS * dns->timeout_ms,
              on_line_timeout, job);
}

/* Ask the next server, or give up. */
static void
job_next(struct dns_job *job)
{
    int i = job_pick(job);
    if (i < 0)
        job_failed(job, job->timed_out && job->heard == 0 ? DNS_TIMEOUT : DNS_SERVFAIL, job->text);
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
        job_failed(job, DNS_SERVFAIL, "CNAME chain too long or a loop");
        return;
    }
    char *name = xmalloc(DNS_NAME_BYTES);
    if (!dns_name_canonical(found->name, name)) {
        free(name);
        free(found);
        job_failed(job, DNS_SERVFAIL, "CNAME to a name that cannot be asked for");
        return;
    }
    if (found->ttl_s < job->ttl_max_s)
        job->ttl_max_s = found->ttl_s;
    job->ad = job->ad && found->ad && job->dns->servers[job->server].loopback;
    free(found);
    free(job->name);
    job->name = xrealloc(name, strlen(name) + 1);
    job->heard = job->tried = job->round = 0;
    job_next(job);
}

static void
job_message(struct dns_job *job, struct span message)
{
    struct dns *dns = job->dns;
    struct server *server = &dns->servers[job->server];
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
        job_failed(job, DNS_SERVFAIL, "CNAME chain too long or a loop");
        return;
    case DNS_WALK_FORMERR:
        if (job->with_edns) {
            server->no_edns_until = now_of(dns) + NO_EDNS_FOR_MS;
            job_next(job); /* the same server: neither heard nor tried */
            return;
        }
        failure_note(job, "FORMERR");
        break;
    case DNS_WALK_FAILED:
        failure_note(job, dns_rcode_name(rcode));
        break;
    case DNS_WALK_BROKEN:
        failure_note(job, "malformed answer");
        break;
    }
    job->heard |= 1u << job->server;
    job_next(job);
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
    job_next(job);
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
        line_leave(job);
        job_send(job, (size_t)i);
    }
}

static const struct dns_channel_ops channel_ops = {on_try, on_room};

/* ---- questions ---- */

static struct dns_job *
job_new(struct dns *dns, struct span key, const char *name)
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

static struct dns_query *
query_add(struct dns_job *job, void (*cb)(void *arg, const struct dns_answer *answer), void *arg)
{
    struct dns_query *q = xcalloc(1, sizeof(*q));
    q->job = job;
    q->cb = cb;
    q->arg = arg;
    TAILQ_INSERT_TAIL(&job->queries, q, link);
    return q;
}

struct dns_query *
dns_query(struct dns *dns, const char *name, enum dns_type type,
          void (*cb)(void *arg, const struct dns_answer *answer), void *arg)
{
    char canonical[DNS_NAME_BYTES], key_buf[DNS_KEY_BYTES];
    struct dns_job *job;
    struct dns_entry *e;

    dns->stats.questions++;
    if (!dns_name_canonical(name, canonical)) {
        job = job_new(dns, dns_key(key_buf, "", (uint16_t)type), "");
        job_failed(job, DNS_BADNAME, "not a name that can be asked for");
        return query_add(job, cb, arg);
    }
    struct span key = dns_key(key_buf, canonical, (uint16_t)type);
    if ((e = dns_cache_get(dns->cache, key, now_of(dns))) != NULL) {
        dns->stats.cache_hits++;
        dns_entry_ref(e);
        job = job_new(dns, key, canonical);
        job_done(job, e);
        return query_add(job, cb, arg);
    }
    if ((job = map_get(&dns->jobs, key)) == NULL) {
        job = job_new(dns, key, canonical);
        job->joinable = true;
        map_put(&dns->jobs, job->key, job);
        job_next(job);
    }
    return query_add(job, cb, arg);
}

void
dns_cancel(struct dns_query *query)
{
    TAILQ_REMOVE(&query->job->queries, query, link);
    free(query);
}

const struct dns_answer *
dns_cached(struct dns *dns, const char *name, enum dns_type type)
{
    char canonical[DNS_NAME_BYTES], key_buf[DNS_KEY_BYTES];
    if (!dns_name_canonical(name, canonical))
        return NULL;
    struct dns_entry *e =
        dns_cache_get(dns->cache, dns_key(key_buf, canonical, (uint16_t)type), now_of(dns));
    if (e == NULL)
        return NULL;
    dns->stats.cache_hits++;
    return &e->answer;
}

void
dns_flush(struct dns *dns)
{
    assert(!dns->telling);
    dns_cache_clear(dns->cache);
}

/* ---- configuration ---- */

static void
servers_free(struct server *servers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dns_channel_free(servers[i].channel);
}

static enum err_code
servers_make(struct dns *dns, const struct net_addr *addrs, size_t n, msec_t timeout_ms,
             struct server *ret, struct err *err)
{
    char text[NET_ADDR_TEXT_BYTES];
    const char *reason = "";
    for (size_t i = 0; i < n; i++) {
        ret[i] = (struct server){.addr = addrs[i], .loopback = ip_is_loopback(&addrs[i].ip)};
        /* Ours comes first and counts; c-ares's own frees the place soon after. */
        ret[i].channel =
            dns_channel_new(dns->loop, &addrs[i], timeout_ms + 200, &channel_ops, dns, &reason);
        if (ret[i].channel == NULL) {
            servers_free(ret, i);
            return err_set(err, ERR_INVAL, "resolver %s: %s", net_addr_format(&addrs[i], text),
                           reason);
        }
    }
    return ERR_OK;
}

static bool
servers_same(const struct dns *dns, const struct net_addr *addrs, size_t n)
{
    if (n != dns->n_servers)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!net_addr_eq(&addrs[i], &dns->servers[i].addr))
            return false;
    return true;
}

/* Ask again what is under way: the servers have changed. */
static void
jobs_restart(struct dns *dns)
{
    struct dns_job *job;
    TAILQ_FOREACH(job, &dns->all, link)
    {
        if (job->state == JOB_DONE)
            continue;
        job->heard = job->tried = job->round = 0;
        job->timed_out = false;
        job_next(job);
    }
}

static void
jobs_halt(struct dns *dns)
{
    struct dns_job *job;
    TAILQ_FOREACH(job, &dns->all, link)
    {
        timer_cancel(loop_clock(dns->loop), &job->timer);
        if (job->state == JOB_WAITING)
            line_leave(job);
        else if (job->state == JOB_TRYING)
            dns_try_abandon(job->try);
        job->try = NULL;
    }
}

enum err_code
dns_reconfigure(struct dns *dns, const struct dns_config *config, struct err *err)
{
    struct net_addr of_file[DNS_SERVERS_MAX];
    struct server servers[DNS_SERVERS_MAX];
    const struct net_addr *addrs = config->servers;
    size_t n = config->n_servers;
    msec_t timeout_ms = config->timeout_ms > 0 ? config->timeout_ms : TIMEOUT_MS;

    assert(!dns->telling);
    if (n > DNS_SERVERS_MAX)
        return err_set(err, ERR_INVAL, "more than %d resolvers", DNS_SERVERS_MAX);
    if (n == 0) {
        n = dns_resolvconf_read("/etc/resolv.conf", of_file);
        addrs = of_file;
    }
    bool same = servers_same(dns, addrs, n);
    if (!same || timeout_ms != dns->timeout_ms) {
        enum err_code code = servers_make(dns, addrs, n, timeout_ms, servers, err);
        if (code != ERR_OK)
            return code;
        jobs_halt(dns);
        for (size_t i = 0; i < dns->n_servers; i++)
            dns->stats.tcp += dns_channel_n_tcp(dns->servers[i].channel);
        servers_free(dns->servers, dns->n_servers);
        memcpy(dns->servers, servers, n * sizeof(servers[0]));
        dns->n_servers = n;
        dns->timeout_ms = timeout_ms;
        jobs_restart(dns);
    }
    if (!same)
        dns_cache_clear(dns->cache);
    dns_cache_set_max(dns->cache, config->cache_max > 0 ? config->cache_max : CACHE_MAX);
    return ERR_OK;
}

enum err_code
dns_new(struct loop *loop, const struct dns_config *config, struct dns **ret, struct err *err)
{
    struct dns *dns = xcalloc(1, sizeof(*dns));
    struct map_seed seed;

    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        abort();
    dns->loop = loop;
    dns->cache = dns_cache_new(CACHE_MAX);
    map_init(&dns->jobs, seed);
    TAILQ_INIT(&dns->all);
    TAILQ_INIT(&dns->line);
    enum err_code code = dns_reconfigure(dns, config, err);
    if (code == ERR_OK)
        *ret = dns;
    else
        dns_free(dns);
    return code;
}

void
dns_free(struct dns *dns)
{
    struct dns_job *job;
    if (dns == NULL)
        return;
    assert(!dns->telling);
    jobs_halt(dns);
    servers_free(dns->servers, dns->n_servers);
    while ((job = TAILQ_FIRST(&dns->all)) != NULL)
        job_free(job);
    map_release(&dns->jobs);
    dns_cache_free(dns->cache);
    free(dns);
}

/* ---- facts ---- */

struct dns_stats
dns_stats(const struct dns *dns)
{
    struct dns_stats stats = dns->stats;
    stats.waiting = dns->n_line;
    stats.cached = dns_cache_n(dns->cache);
    for (size_t i = 0; i < dns->n_servers; i++) {
        stats.in_flight += dns_channel_n(dns->servers[i].channel);
        stats.tcp += dns_channel_n_tcp(dns->servers[i].channel);
    }
    return stats;
}

const char *
dns_status_name(enum dns_status status)
{
    static const char *const names[] = {
        [DNS_OK] = "ok",           [DNS_NXDOMAIN] = "nxdomain",
        [DNS_NODATA] = "nodata",   [DNS_SERVFAIL] = "servfail",
        [DNS_TIMEOUT] = "timeout", [DNS_BADNAME] = "badname",
    };
    return names[status];
}

bool
dns_status_temporary(enum dns_status status)
{
    return status == DNS_SERVFAIL || status == DNS_TIMEOUT;
}

char *
dns_reverse_name(const struct ip *ip, char *buf)
{
    char *p = buf;
    *p = '\0';
    if (ip->family == 4)
        sprintf(p, "%u.%u.%u.%u.in-addr.arpa", ip->bytes[3], ip->bytes[2], ip->bytes[1],
                ip->bytes[0]);
    if (ip->family != 6)
        return buf;
    for (int i = 15; i >= 0; i--)
        p += sprintf(p, "%x.%x.", ip->bytes[i] & 15u, ip->bytes[i] >> 4);
    strcpy(p, "ip6.arpa");
    return buf;
}
