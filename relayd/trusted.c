/*
 * trusted - one timer and two questions a name. Called by start.c, reload (wire.c) and gauges.c.
 *
 *   timer ─▶ ask A, AAAA ─▶ both answered ─▶ settle: take or keep ─▶ publish ─▶ timer
 *
 * The timer is set for the earlier of the next question and the end of stale_max, also while a
 * question is under way: a resolver that never answers cannot prolong anything.
 */
#include "relayd/trusted.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/facts.h"
#include "relayd/net/dns.h"
#include "relayd/net/loop.h"
#include "relayd/ops/log.h"

#define ADDRESSES_MAX (2 * TRUST_ADDRESSES_MAX) /* one family kept, the other new */

struct addresses {
    struct ip list[ADDRESSES_MAX];
    size_t n;
};

/* One family of one name. */
struct lookup {
    struct trusted_name *name;
    enum dns_type type;
    struct dns_query *query; /* NULL: answered */
    enum dns_status status;  /* of the last answer, with what came along */
    struct addresses found;
    uint32_t ttl_s;
    char text[128];
    struct addresses kept; /* what is trusted of it */
    msec_t failing_since;  /* monotonic; 0: the last answer holds */
    bool answered;         /* since it came, DNS has said which addresses it has, or that none */
};

struct trusted_name {
    struct trusted *t;
    char *host;
    msec_t stale_max_ms;
    bool allow_private, wanted;
    bool told;                        /* a line has been logged since it came */
    struct lookup lookups[2];         /* A, AAAA */
    struct addresses current;         /* both families: what sessions see */
    struct addresses refused;         /* at the last answer, so that a refusal is logged once */
    msec_t came_at, asked_at, ask_at; /* monotonic */
    unsigned unknown;                 /* as sessions see it (unknown_of) */
    unsigned n_failures;              /* in a row */
    struct timer timer;
};

struct trusted {
    struct clock *clock;
    struct log *log;
    struct dns *dns;
    const struct facts *facts;
    struct trusted_name **list;
    size_t n;
    struct trust_name *view; /* as `list`, for sessions */
    struct trust_names names;
};

/* ---- sets of addresses ---- */

static bool
addresses_has(const struct addresses *set, const struct ip *ip)
{
    for (size_t i = 0; i < set->n; i++)
        if (ip_eq(&set->list[i], ip))
            return true;
    return false;
}

static void
addresses_add(struct addresses *set, const struct ip *ip)
{
    if (set->n < ADDRESSES_MAX && !addresses_has(set, ip))
        set->list[set->n++] = *ip;
}

/* Those of `a` that are not in `b`, as text in *ret. Returns how many. */
static size_t
addresses_minus(const struct addresses *a, const struct addresses *b, struct strbuf *ret)
{
    char text[IP_TEXT_MAX];
    size_t n = 0;
    for (size_t i = 0; i < a->n; i++)
        if (!addresses_has(b, &a->list[i]))
            strbuf_printf(ret, "%s%s", n++ == 0 ? "" : " ", ip_format(&a->list[i], text));
    return n;
}

/* ---- what sessions see ---- */

/* The families, as bits, of which DNS has said nothing yet. Without a word until stale_max is over
 * they are nobody. */
static unsigned
unknown_of(const struct trusted_name *name)
{
    bool over = clock_now(name->t->clock) - name->came_at >= name->stale_max_ms;
    unsigned bits = 0;
    for (unsigned i = 0; i < 2; i++)
        if (!name->lookups[i].answered && !over)
            bits |= 1u << i;
    return bits;
}

static void
publish(struct trusted *t)
{
    t->view = xrealloc(t->view, (t->n + 1) * sizeof(*t->view));
    for (size_t i = 0; i < t->n; i++) {
        struct trusted_name *name = t->list[i];
        name->unknown = unknown_of(name);
        t->view[i] = (struct trust_name){.host = name->host,
                                         .addresses = name->current.list,
                                         .n_addresses = name->current.n,
                                         .v4_unknown = (name->unknown & 1u) != 0,
                                         .v6_unknown = (name->unknown & 2u) != 0};
    }
    t->names.list = t->view;
    t->names.n = t->n;
    t->names.version++;
}

/* Bring the set into line with what is kept of both families. A change, and whatever the first
 * answer is, is logged with its reason. */
static void
update(struct trusted_name *name, const char *reason)
{
    struct addresses old = name->current;
    CLEANUP(strbuf_release) struct strbuf added = STRBUF_INIT, removed = STRBUF_INIT;
    struct log_line line;

    name->current.n = 0;
    for (size_t family = 0; family < 2; family++)
        for (size_t i = 0; i < name->lookups[family].kept.n; i++)
            addresses_add(&name->current, &name->lookups[family].kept.list[i]);
    size_t n_changes = addresses_minus(&name->current, &old, &added);
    n_changes += addresses_minus(&old, &name->current, &removed);
    if (n_changes == 0 && name->told)
        return;
    name->told = true;
    publish(name->t);
    log_begin(name->t->log, &line, name->current.n == 0 ? LOG_WARNING : LOG_INFO, "trusted_name");
    log_cstr(&line, "name", name->host);
    log_str(&line, "added", strbuf_span(&added));
    log_str(&line, "removed", strbuf_span(&removed));
    log_uint(&line, "addresses", name->current.n);
    log_cstr(&line, "reason", reason);
    log_end(&line);
}

/* ---- answers ---- */

static bool
lookup_failed(const struct lookup *l)
{
    return dns_status_temporary(l->status);
}

/* Why this address of an answer is not taken; NULL: it is. */
static const char *
fault_of(const struct trusted_name *name, const struct ip *ip)
{
    const char *fault = trust_address_fault(ip, name->allow_private);
    if (fault == NULL && !ip_is_loopback(ip) && facts_is_here(name->t->facts, ip))
        return "our own";
    return fault;
}

/* What is good of an answer is trusted; the rest goes into name->refused and, once, into the log.
 */
static void
take(struct lookup *l, const struct addresses *refused_before)
{
    struct trusted_name *name = l->name;
    struct log_line line;
    char text[IP_TEXT_MAX];

    l->failing_since = 0;
    l->answered = true;
    l->kept.n = 0;
    for (size_t i = 0; i < l->found.n; i++) {
        const struct ip *ip = &l->found.list[i];
        const char *fault = fault_of(name, ip);
        if (fault == NULL) {
            addresses_add(&l->kept, ip);
            continue;
        }
        addresses_add(&name->refused, ip);
        if (addresses_has(refused_before, ip))
            continue;
        log_begin(name->t->log, &line, LOG_WARNING, "trusted_name_refused");
        log_cstr(&line, "name", name->host);
        log_cstr(&line, "address", ip_format(ip, text));
        log_cstr(&line, "reason", fault);
        log_end(&line);
    }
}

/* DNS says nothing usable: what was known stays for a while. */
static void
keep(struct lookup *l)
{
    if (l->failing_since == 0)
        l->failing_since = l->name->asked_at;
}

/* The end of stale_max; INT64_MAX: it does not run. */
static msec_t
stale_until(const struct lookup *l)
{
    return l->failing_since == 0 || l->kept.n == 0 ? INT64_MAX
                                                   : l->failing_since + l->name->stale_max_ms;
}

static void
drop_stale(struct trusted_name *name)
{
    msec_t now = clock_now(name->t->clock);
    bool dropped = false;
    for (size_t i = 0; i < 2; i++) {
        struct lookup *l = &name->lookups[i];
        if (stale_until(l) > now)
            continue;
        l->kept.n = 0;
        dropped = true;
    }
    if (!dropped)
        return;
    update(name, "stale_max is over");
    log_alert(name->t->log, "trusted_name", "%s: stale_max is over, %s", name->host,
              name->current.n == 0 ? "nobody is trusted by this name"
                                   : "only the addresses of one family are trusted");
}

static void
complain(const struct trusted_name *name, const char *reason)
{
    const char *rest = "nobody is trusted by this name";
    if (name->current.n > 0)
        rest = "the other family's addresses are trusted";
    for (size_t i = 0; i < 2; i++)
        if (stale_until(&name->lookups[i]) != INT64_MAX)
            rest = "the last answer is kept for stale_max";
    log_alert(name->t->log, "trusted_name", "%s: %s; %s", name->host, reason, rest);
}

/* When to ask again after an answer. */
static msec_t
refresh_ms(const struct trusted_name *name)
{
    msec_t ms = TRUSTED_REFRESH_MAX_MS;
    for (size_t i = 0; i < 2; i++) {
        msec_t ttl_ms = (msec_t)name->lookups[i].ttl_s * SECOND;
        if (!lookup_failed(&name->lookups[i]) && ttl_ms < ms)
            ms = ttl_ms;
    }
    return ms < TRUSTED_REFRESH_MIN_MS ? TRUSTED_REFRESH_MIN_MS : ms;
}

static msec_t
retry_ms(unsigned n_failures)
{
    msec_t ms = TRUSTED_RETRY_MIN_MS;
    for (unsigned i = 1; i < n_failures && ms < TRUSTED_RETRY_MAX_MS; i++)
        ms *= 2;
    return ms < TRUSTED_RETRY_MAX_MS ? ms : TRUSTED_RETRY_MAX_MS;
}

static void set_timer(struct trusted_name *name);

/* Take or keep what the two answers say. Returns what failed, NULL when nothing did; *ret_answer
 * says what the others are. */
static const char *
take_answers(struct trusted_name *name, const char **ret_answer)
{
    struct addresses refused_before = name->refused;
    size_t n_found = name->lookups[0].found.n + name->lookups[1].found.n;
    const char *failure = NULL;

    *ret_answer = "answer";
    if (n_found > TRUST_ADDRESSES_MAX) {
        keep(&name->lookups[0]);
        keep(&name->lookups[1]);
        name->lookups[0].answered = name->lookups[1].answered = true;
        return "too many addresses, the answer is refused";
    }
    name->refused.n = 0;
    for (size_t i = 0; i < 2; i++) {
        struct lookup *l = &name->lookups[i];
        if (lookup_failed(l)) {
            failure = l->text;
            keep(l);
            continue;
        }
        take(l, &refused_before);
        if (n_found == 0)
            *ret_answer = l->text; /* NXDOMAIN, NODATA */
    }
    return failure;
}

/* Both answers are there. */
static void
settle(struct trusted_name *name)
{
    const char *answer, *failure = take_answers(name, &answer);
    msec_t after_ms = refresh_ms(name);

    update(name, failure != NULL ? failure : answer);
    drop_stale(name);
    if (unknown_of(name) != name->unknown)
        publish(name->t);
    if (failure != NULL) {
        complain(name, failure);
        msec_t again_ms = retry_ms(++name->n_failures);
        after_ms = again_ms < after_ms ? again_ms : after_ms;
    } else if (name->n_failures > 0) {
        name->n_failures = 0;
        log_text(name->t->log, LOG_INFO, "trusted_name_resolves", "%s: DNS answers again",
                 name->host);
    }
    name->ask_at = clock_now(name->t->clock) + after_ms;
    set_timer(name);
}

static void
on_answer(void *arg, const struct dns_answer *answer)
{
    struct lookup *l = arg;
    struct trusted_name *name = l->name;

    l->query = NULL;
    l->status = answer->status;
    l->ttl_s = answer->ttl_s;
    snprintf(l->text, sizeof(l->text), "%s", answer->text);
    l->found.n = 0;
    for (size_t i = 0; answer->status == DNS_OK && i < answer->n_records; i++)
        addresses_add(&l->found, &answer->records[i].ip);
    if (name->lookups[0].query == NULL && name->lookups[1].query == NULL)
        settle(name);
}

/* ---- questions ---- */

static bool
is_asking(const struct trusted_name *name)
{
    return name->lookups[0].query != NULL || name->lookups[1].query != NULL;
}

static void
ask(struct trusted_name *name)
{
    struct trusted *t = name->t;

    assert(!is_asking(name));
    name->asked_at = clock_now(t->clock);
    for (size_t i = 0; i < 2; i++) {
        struct lookup *l = &name->lookups[i];
        dns_forget(t->dns, name->host, l->type);
        l->query = dns_query(t->dns, name->host, l->type, on_answer, l);
    }
}

static void
on_timer(void *arg)
{
    struct trusted_name *name = arg;

    drop_stale(name);
    if (!is_asking(name) && name->ask_at <= clock_now(name->t->clock))
        ask(name);
    set_timer(name);
}

static void
set_timer(struct trusted_name *name)
{
    msec_t at = is_asking(name) ? INT64_MAX : name->ask_at;
    for (size_t i = 0; i < 2; i++) {
        msec_t until = stale_until(&name->lookups[i]);
        at = until < at ? until : at;
    }
    if (at == INT64_MAX)
        timer_cancel(name->t->clock, &name->timer);
    else
        timer_set_at(name->t->clock, &name->timer, at, on_timer, name);
}

/* ---- life ---- */

static struct trusted_name *
name_new(struct trusted *t, const char *host)
{
    struct trusted_name *name = xcalloc(1, sizeof(*name));
    name->t = t;
    name->host = xstrdup(host);
    name->came_at = clock_now(t->clock);
    name->lookups[0] = (struct lookup){.name = name, .type = DNS_A};
    name->lookups[1] = (struct lookup){.name = name, .type = DNS_AAAA};
    t->list = xrealloc(t->list, (t->n + 1) * sizeof(struct trusted_name *));
    t->list[t->n++] = name;
    return name;
}

static void
name_free(struct trusted_name *name)
{
    timer_cancel(name->t->clock, &name->timer);
    for (size_t i = 0; i < 2; i++)
        if (name->lookups[i].query != NULL)
            dns_cancel(name->lookups[i].query);
    free(name->host);
    free(name);
}

static struct trusted_name *
name_find(const struct trusted *t, const char *host)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->list[i]->host, host) == 0)
            return t->list[i];
    return NULL;
}

struct trusted *
trusted_new(struct loop *loop, struct log *log)
{
    struct trusted *t = xcalloc(1, sizeof(*t));
    t->clock = loop_clock(loop);
    t->log = log;
    return t;
}

void
trusted_free(struct trusted *t)
{
    if (t == NULL)
        return;
    for (size_t i = 0; i < t->n; i++)
        name_free(t->list[i]);
    free(t->list);
    free(t->view);
    free(t);
}

/* A name that stays may have got other rules: what they refuse goes at once. */
static void
judge_kept(struct trusted_name *name)
{
    for (size_t i = 0; i < 2; i++) {
        struct addresses *kept = &name->lookups[i].kept, before = *kept;
        kept->n = 0;
        for (size_t j = 0; j < before.n; j++)
            if (fault_of(name, &before.list[j]) == NULL)
                addresses_add(kept, &before.list[j]);
    }
    if (name->told)
        update(name, "reload");
}

static void
forget_unwanted(struct trusted *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        struct trusted_name *name = t->list[i];
        if (name->wanted || name->current.n == 0)
            continue;
        name->lookups[0].kept.n = name->lookups[1].kept.n = 0;
        update(name, "no longer in trusted_clients");
    }
    for (size_t i = 0; i < t->n; i++) {
        if (t->list[i]->wanted)
            t->list[n++] = t->list[i];
        else
            name_free(t->list[i]);
    }
    t->n = n;
}

void
trusted_use(struct trusted *t, struct dns *dns, const struct facts *facts,
            const struct config *config)
{
    t->dns = dns;
    t->facts = facts;
    for (size_t i = 0; i < t->n; i++)
        t->list[i]->wanted = false;
    for (size_t i = 0; i < config->n_trusted; i++) {
        const struct config_trust *entry = &config->trusted[i];
        if (entry->kind != CONFIG_TRUST_HOST)
            continue;
        struct trusted_name *name = name_find(t, entry->host);
        if (name == NULL)
            name = name_new(t, entry->host);
        name->wanted = true;
        name->stale_max_ms = entry->stale_max_ms;
        name->allow_private = entry->allow_private;
    }
    forget_unwanted(t);
    publish(t);
    for (size_t i = 0; i < t->n; i++) {
        judge_kept(t->list[i]);
        if (!is_asking(t->list[i]))
            ask(t->list[i]);
        set_timer(t->list[i]);
    }
}

const struct trust_names *
trusted_names(const struct trusted *t)
{
    return &t->names;
}

void
trusted_each(const struct trusted *t, void (*fn)(void *arg, const struct trusted_info *info),
             void *arg)
{
    msec_t now = clock_now(t->clock);
    for (size_t i = 0; i < t->n; i++) {
        const struct trusted_name *name = t->list[i];
        struct trusted_info info = {.host = name->host, .n_addresses = name->current.n};
        for (size_t family = 0; family < 2; family++) {
            msec_t since = name->lookups[family].failing_since;
            msec_t stale_ms = since == 0 ? 0 : now > since ? now - since : 1;
            info.stale_ms = stale_ms > info.stale_ms ? stale_ms : info.stale_ms;
        }
        fn(arg, &info);
    }
}
