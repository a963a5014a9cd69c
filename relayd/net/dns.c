/*
 * dns - questions from callers, and the configuration. How a question is answered: dns_job.c.
 */
#include "relayd/net/dns_private.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "policy/base/mem.h"
#include "relayd/net/dns_resolvconf.h"
#include "relayd/net/dns_wire.h"

#define TIMEOUT_MS (5 * SECOND)
#define CACHE_MAX 100000

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
        job = dns_job_new(dns, dns_key(key_buf, "", (uint16_t)type), "");
        dns_job_failed(job, DNS_BADNAME, "not a name that can be asked for");
        return query_add(job, cb, arg);
    }
    struct span key = dns_key(key_buf, canonical, (uint16_t)type);
    if ((e = dns_cache_get(dns->cache, key, dns_now(dns))) != NULL) {
        dns->stats.cache_hits++;
        dns_entry_ref(e);
        job = dns_job_new(dns, key, canonical);
        dns_job_done(job, e);
        return query_add(job, cb, arg);
    }
    if ((job = map_get(&dns->jobs, key)) == NULL) {
        job = dns_job_new(dns, key, canonical);
        job->joinable = true;
        map_put(&dns->jobs, job->key, job);
        dns_job_next(job);
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
        dns_cache_get(dns->cache, dns_key(key_buf, canonical, (uint16_t)type), dns_now(dns));
    if (e == NULL)
        return NULL;
    dns->stats.cache_hits++;
    return &e->answer;
}

void
dns_forget(struct dns *dns, const char *name, enum dns_type type)
{
    char canonical[DNS_NAME_BYTES], key_buf[DNS_KEY_BYTES];
    assert(!dns->telling);
    if (dns_name_canonical(name, canonical))
        dns_cache_forget(dns->cache, dns_key(key_buf, canonical, (uint16_t)type));
}

void
dns_flush(struct dns *dns)
{
    assert(!dns->telling);
    dns_cache_clear(dns->cache);
}

/* ---- configuration ---- */

static void
servers_free(struct dns_server *servers, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dns_channel_free(servers[i].channel);
}

static enum err_code
servers_make(struct dns *dns, const struct net_addr *addrs, size_t n, msec_t timeout_ms,
             struct dns_server *ret, struct err *err)
{
    char text[NET_ADDR_TEXT_BYTES];
    const char *reason = "";
    for (size_t i = 0; i < n; i++) {
        ret[i] = (struct dns_server){.addr = addrs[i], .loopback = ip_is_loopback(&addrs[i].ip)};
        /* Ours comes first and counts; c-ares's own frees the place soon after. */
        ret[i].channel = dns_channel_new(dns->loop, &addrs[i], timeout_ms + 200,
                                         &dns_job_channel_ops, dns, &reason);
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
        dns_job_next(job);
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
            dns_job_leave_line(job);
        else if (job->state == JOB_TRYING)
            dns_try_abandon(job->try);
        job->try = NULL;
    }
}

enum err_code
dns_reconfigure(struct dns *dns, const struct dns_config *config, struct err *err)
{
    struct net_addr of_file[DNS_SERVERS_MAX];
    struct dns_server servers[DNS_SERVERS_MAX];
    const struct net_addr *addrs = config->servers;
    size_t n = config->n_servers;
    msec_t timeout_ms = config->timeout_ms > 0 ? config->timeout_ms : TIMEOUT_MS;

    assert(!dns->telling);
    if (n > DNS_SERVERS_MAX)
        return err_set(err, ERR_INVAL, "more than %d resolvers", DNS_SERVERS_MAX);
    if (n == 0) {
        n = dns_resolvconf_read("/etc/resolv.conf", of_file);
        if (n == 0)
            return err_set(err, ERR_IO,
                           "/etc/resolv.conf: %s; if it leads to another directory than when "
                           "relayd started, restart relayd",
                           strerror(errno));
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

struct loop *
dns_loop(const struct dns *dns)
{
    return dns->loop;
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
        dns_job_free(job);
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
dns_reverse_name(const struct ip *ip, char buf[DNS_REVERSE_BYTES])
{
    static const char hex[] = "0123456789abcdef", root[] = "ip6.arpa";
    char *p = buf;
    *p = '\0';
    if (ip->family == 4)
        snprintf(p, DNS_REVERSE_BYTES, "%u.%u.%u.%u.in-addr.arpa", ip->bytes[3], ip->bytes[2],
                 ip->bytes[1], ip->bytes[0]);
    if (ip->family != 6)
        return buf;
    for (int i = 15; i >= 0; i--) {
        *p++ = hex[ip->bytes[i] & 15];
        *p++ = '.';
        *p++ = hex[ip->bytes[i] >> 4];
        *p++ = '.';
    }
    memcpy(p, root, sizeof(root));
    return buf;
}
