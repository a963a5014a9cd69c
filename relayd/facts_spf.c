/*
 * facts_spf - policy/spf fed by relayd/net/dns, against the clock.
 *
 *   start ─▶ go ─▶ spf_check() for each address ─▶ all decided ─▶ done()
 *             ▲         │ questions
 *             └─ answer ◀┘                 FACTS_SPF_WAIT_MS over ─▶ the rest is temperror, done()
 *
 * All addresses of one look-up share what DNS said. Each answer leads to another look, not only the
 * last one: a question asked ahead that hangs holds up nothing it has no part in.
 * Called by relayd/schedule/plan.c and by `explain`.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/random.h>

#include "policy/base/mem.h"
#include "relayd/facts_private.h"
#include "relayd/net/clock.h"
#include "relayd/net/loop.h"

/* ---- results kept ---- */

struct kept {
    TAILQ_ENTRY(kept) link; /* the least recently used first */
    msec_t expires_at;
    enum spf_result result;
    size_t n_key;
    char key[]; /* domain, NUL, address */
};

struct spf_cache {
    struct map by_key;
    TAILQ_HEAD(, kept) used;
    struct map_seed seed;
};

#define KEY_BYTES (SPF_SENDER_MAX + 1 + sizeof(struct ip))

static msec_t
now_of(const struct facts *facts)
{
    return clock_now(loop_clock(dns_loop(facts->dns)));
}

static struct spf_cache *
cache_of(struct facts *facts)
{
    struct spf_cache *c = facts->spf;
    if (c != NULL)
        return c;
    c = facts->spf = xcalloc(1, sizeof(*c));
    if (getrandom(&c->seed, sizeof(c->seed), 0) != sizeof(c->seed))
        abort();
    map_init(&c->by_key, c->seed);
    TAILQ_INIT(&c->used);
    return c;
}

static void
kept_drop(struct spf_cache *c, struct kept *k)
{
    map_remove(&c->by_key, span_of(k->key, k->n_key));
    TAILQ_REMOVE(&c->used, k, link);
    free(k);
}

void
facts_spf_cache_free(struct spf_cache *c)
{
    struct kept *k;
    if (c == NULL)
        return;
    while ((k = TAILQ_FIRST(&c->used)) != NULL)
        kept_drop(c, k);
    map_release(&c->by_key);
    free(c);
}

static struct span
key_of(char buf[KEY_BYTES], const char *sender, const struct ip *ip)
{
    const char *at = strrchr(sender, '@');
    size_t n = 0;
    for (const char *p = at == NULL ? sender : at + 1; *p != '\0' && n < SPF_SENDER_MAX; p++)
        buf[n++] = ascii_lower(*p);
    buf[n++] = '\0';
    memcpy(buf + n, ip, sizeof(*ip));
    return span_of(buf, n + sizeof(*ip));
}

static bool
cache_get(struct facts *facts, const char *sender, const struct ip *ip, enum spf_result *ret)
{
    char buf[KEY_BYTES];
    struct spf_cache *c = cache_of(facts);
    struct kept *k = map_get(&c->by_key, key_of(buf, sender, ip));
    if (k == NULL)
        return false;
    if (k->expires_at <= now_of(facts)) {
        kept_drop(c, k);
        return false;
    }
    TAILQ_REMOVE(&c->used, k, link);
    TAILQ_INSERT_TAIL(&c->used, k, link);
    *ret = k->result;
    return true;
}

static void
cache_put(struct facts *facts, const char *sender, const struct ip *ip, enum spf_result result,
          uint32_t ttl_s)
{
    char buf[KEY_BYTES];
    struct spf_cache *c = cache_of(facts);
    struct span key = key_of(buf, sender, ip);
    struct kept *k = map_get(&c->by_key, key);

    if (k == NULL) {
        if (c->by_key.n == FACTS_SPF_CACHE_MAX)
            kept_drop(c, TAILQ_FIRST(&c->used));
        k = xcalloc(1, sizeof(*k) + key.n);
        memcpy(k->key, key.p, key.n);
        k->n_key = key.n;
        map_put(&c->by_key, span_of(k->key, k->n_key), k);
    } else {
        TAILQ_REMOVE(&c->used, k, link);
    }
    TAILQ_INSERT_TAIL(&c->used, k, link);
    k->result = result;
    k->expires_at = now_of(facts) + ttl_s * SECOND;
}

bool
facts_spf_cached(struct facts *facts, const char *sender, const char *helo, const struct ip *ips,
                 size_t n, enum spf_result *ret)
{
    (void)helo; /* what it has a say in is not kept */
    for (size_t i = 0; i < n; i++) {
        ret[i] = SPF_NONE;
        if (sender[0] != '\0' && ips[i].family != 0 && !cache_get(facts, sender, &ips[i], &ret[i]))
            return false;
    }
    return true;
}

/* ---- a look-up ---- */

/* One question to DNS under way. */
struct asked {
    TAILQ_ENTRY(asked) link;
    struct spf_lookup *lookup;
    struct dns_query *query;
    enum spf_type type;
    char name[];
};

/* What is to be found out about one address. */
struct checked {
    struct ip ip;
    bool decided;
    bool personal; /* not to be kept */
    uint32_t ttl_s;
    char why[SPF_WHY_BYTES];
};

struct spf_lookup {
    struct facts_query *query;
    void (*done)(void *arg, const enum spf_result *results);
    char *sender, *helo;
    struct spf_answers *answers;
    TAILQ_HEAD(, asked) asked;
    size_t n_asked; /* ever */
    struct timer timer;
    struct deferred go;
    size_t n;
    struct checked *checks;   /* [n] */
    enum spf_result *results; /* [n] */
};

void
facts_spf_free(struct spf_lookup *l)
{
    struct asked *a;
    if (l == NULL)
        return;
    while ((a = TAILQ_FIRST(&l->asked)) != NULL) {
        TAILQ_REMOVE(&l->asked, a, link);
        dns_cancel(a->query);
        free(a);
    }
    timer_cancel(loop_clock(dns_loop(l->query->facts->dns)), &l->timer);
    loop_defer_cancel(&l->go);
    spf_answers_free(l->answers);
    free(l->sender);
    free(l->helo);
    free(l->checks);
    free(l->results);
    free(l);
}

const struct ip *
facts_spf_ip(const struct facts_query *query, size_t i)
{
    return i < query->spf->n ? &query->spf->checks[i].ip : NULL;
}

const char *
facts_spf_why(const struct facts_query *query, size_t i)
{
    assert(i < query->spf->n);
    return query->spf->checks[i].why;
}

/* Everything is decided: keep what others may use, and tell. */
static void
finish(struct spf_lookup *l)
{
    struct facts_query *q = l->query;
    for (size_t i = 0; i < l->n; i++) {
        const struct checked *c = &l->checks[i];
        uint32_t max_s =
            l->results[i] == SPF_TEMPERROR ? FACTS_SPF_FAILURE_TTL_S : FACTS_SPF_TTL_MAX_S;
        if (!c->personal && c->ip.family != 0)
            cache_put(q->facts, l->sender, &c->ip, l->results[i],
                      c->ttl_s < max_s ? c->ttl_s : max_s);
    }
    l->done(q->arg, l->results);
    facts_query_free(q);
}

/* No more waiting: what is open has no answer. */
static void
give_up(struct spf_lookup *l, const char *why)
{
    for (size_t i = 0; i < l->n; i++) {
        struct checked *c = &l->checks[i];
        if (c->decided)
            continue;
        l->results[i] = SPF_TEMPERROR;
        c->ttl_s = FACTS_SPF_FAILURE_TTL_S;
        snprintf(c->why, sizeof(c->why), "%s", why);
    }
    finish(l);
}

static void
on_timeout(void *arg)
{
    give_up(arg, "DNS took too long to answer");
}

static void on_go(struct deferred *d);

/* The answer in the evaluator's words. */
static void
take_answer(struct spf_answers *answers, enum spf_type type, const char *name,
            const struct dns_answer *answer)
{
    struct spf_record records[DNS_RECORDS_MAX];
    size_t n = 0;
    enum spf_status status = answer->status == DNS_OK               ? SPF_FOUND
                             : dns_status_temporary(answer->status) ? SPF_ERROR
                                                                    : SPF_VOID;

    for (; n < answer->n_records && n < DNS_RECORDS_MAX; n++) {
        const struct dns_record *r = &answer->records[n];
        records[n] =
            (struct spf_record){.text = type == SPF_TXT                     ? r->data
                                        : type == SPF_MX || type == SPF_PTR ? span_str(r->host)
                                                                            : SPAN_NONE,
                                .ip = r->ip};
    }
    spf_answers_add(answers, type, name, status, answer->ttl_s, records, n);
}

static void
on_answer(void *arg, const struct dns_answer *answer)
{
    struct asked *a = arg;
    struct spf_lookup *l = a->lookup;

    take_answer(l->answers, a->type, a->name, answer);
    TAILQ_REMOVE(&l->asked, a, link);
    free(a);
    loop_defer(dns_loop(l->query->facts->dns), &l->go, on_go);
}

/* Ask DNS, unless this is being asked already or it is enough. */
static void
ask(struct spf_lookup *l, const struct spf_question *q)
{
    static const enum dns_type types[] = {
        [SPF_TXT] = DNS_TXT, [SPF_A] = DNS_A,     [SPF_AAAA] = DNS_AAAA,
        [SPF_MX] = DNS_MX,   [SPF_PTR] = DNS_PTR,
    };
    struct asked *a;

    TAILQ_FOREACH(a, &l->asked, link)
    if (a->type == q->type && strcmp(a->name, q->name) == 0)
        return;
    if (l->n_asked == FACTS_SPF_QUESTIONS_MAX)
        return;
    l->n_asked++;
    size_t n = strlen(q->name) + 1;
    a = xcalloc(1, sizeof(*a) + n);
    a->lookup = l;
    a->type = q->type;
    memcpy(a->name, q->name, n);
    TAILQ_INSERT_TAIL(&l->asked, a, link);
    a->query = dns_query(l->query->facts->dns, a->name, types[q->type], on_answer, a);
}

/* True when the address is decided. */
static bool
check(struct spf_lookup *l, size_t i)
{
    struct checked *c = &l->checks[i];
    const struct spf_query query = {
        .ip = c->ip, .sender = span_str(l->sender), .helo = span_str(l->helo)};
    struct spf_verdict v;

    c->decided = spf_check(&query, l->answers, &v);
    c->personal = v.personal;
    if (!c->decided) {
        for (size_t k = 0; k < v.n_questions; k++)
            ask(l, &v.questions[k]);
        return false;
    }
    l->results[i] = v.result;
    c->ttl_s = v.ttl_s;
    memcpy(c->why, v.why, sizeof(c->why));
    return true;
}

static void
on_go(struct deferred *d)
{
    struct spf_lookup *l = CONTAINER_OF(d, struct spf_lookup, go);
    bool open = false;

    for (size_t i = 0; i < l->n; i++)
        open |= !l->checks[i].decided && !check(l, i);
    if (!open)
        finish(l);
    else if (TAILQ_EMPTY(&l->asked))
        give_up(l, "too many questions to DNS");
}

struct facts_query *
facts_spf_start(struct facts *facts, const char *sender, const char *helo, const struct ip *ips,
                size_t n, void (*done)(void *arg, const enum spf_result *results), void *arg)
{
    assert(n <= FACTS_SPF_ADDRESSES_MAX);
    struct facts_query *q = facts_query_new(facts, "", arg);
    struct spf_lookup *l = q->spf = xcalloc(1, sizeof(*l));
    struct loop *loop = dns_loop(facts->dns);

    l->query = q;
    l->done = done;
    l->sender = xstrdup(sender);
    l->helo = xstrdup(helo);
    l->answers = spf_answers_new(cache_of(facts)->seed);
    TAILQ_INIT(&l->asked);
    l->n = n;
    l->checks = xcalloc(n + 1, sizeof(l->checks[0]));
    l->results = xcalloc(n + 1, sizeof(l->results[0]));
    for (size_t i = 0; i < n; i++) {
        struct checked *c = &l->checks[i];
        c->ip = ips[i];
        if (sender[0] != '\0')
            continue;
        c->decided = c->personal = true; /* SPF_NONE; there is no domain to keep it for */
        snprintf(c->why, sizeof(c->why), "null sender");
    }
    timer_set(loop_clock(loop), &l->timer, FACTS_SPF_WAIT_MS, on_timeout, l);
    loop_defer(loop, &l->go, on_go);
    return q;
}
