/*
 * pause - suspensions (of a domain, a site or a route, until a moment) and domains on hold. Both
 * are rows of the queue's state, read at the start:
 *
 *    suspend:KIND:NAME -> version byte 1, u64 until (wall ms, big-endian), reason
 *    hold:DOMAIN       -> the reason
 *
 * Recipients of a suspended or held domain stay in the queue and are not taken in hand (those that
 * are in a transaction finish it); those of a suspended site or route wait in its ready list, while
 * the hand has room for them.
 */
#include "relayd/schedule/internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/codec.h"
#include "policy/base/mem.h"
#include "relayd/ops/log.h"

#define PAUSE_ROWS_MAX 1000
#define SUSPENSION_VERSION 1
#define SUSPENSION_FIXED_BYTES 9

const char *
pause_kind_name(enum pause_kind kind)
{
    static const char *const names[] = {"domain", "site", "route"};
    return names[kind];
}

const struct pause *
schedule_pauses(const struct schedule *s)
{
    return s->pauses;
}

const struct pause *
schedule_paused(const struct schedule *s, enum pause_kind kind, struct span name)
{
    for (const struct pause *p = s->pauses; p != NULL; p = p->next)
        if (p->kind == kind && span_ieq(span_str(p->name), name))
            return p;
    return NULL;
}

const struct pause *
schedule_site_paused(const struct schedule *s, const char *route, const char *site)
{
    const struct pause *p = schedule_paused(s, PAUSE_SITE, span_str(site));
    return p != NULL ? p : schedule_paused(s, PAUSE_ROUTE, span_str(route));
}

bool
pause_domain(const struct schedule *s, struct span domain)
{
    return map_get(&s->held_domains, domain) != NULL ||
           schedule_paused(s, PAUSE_DOMAIN, domain) != NULL;
}

static void
pause_free(struct pause *p)
{
    free(p->name);
    free(p->reason);
    free(p);
}

void
sites_pump(struct schedule *s)
{
    size_t pos = 0;
    struct span key;
    void *value;
    while (map_next(&s->sites, &pos, &key, &value))
        site_pump(value);
}

/* Who waits in hand for a domain that has just been held or suspended goes back to the queue. */
static void
domain_out(struct schedule *s)
{
    size_t pos = 0, n = 0;
    struct span key;
    void *value;
    struct rcpt **out = xcalloc(s->hand.n_live + 1, sizeof(*out));

    while (map_next(&s->hand.rcpts, &pos, &key, &value)) {
        struct rcpt *rcpt = value;
        if ((rcpt->stage == STAGE_READY || rcpt->stage == STAGE_FACTS) &&
            pause_domain(s, rcpt->domain))
            out[n++] = rcpt;
    }
    for (size_t i = 0; i < n; i++)
        schedule_drop(s, out[i]);
    free(out);
}

static void
on_pause_over(void *arg)
{
    struct schedule *s = arg;
    msec_t now = clock_wall(s->clock);
    bool ended = false;

    for (struct pause **link = &s->pauses; *link != NULL;) {
        struct pause *p = *link;
        if (p->until_at > now) {
            link = &p->next;
            continue;
        }
        log_text(s->env.log, LOG_INFO, "resumed", "%s %s: its time is over",
                 pause_kind_name(p->kind), p->name);
        *link = p->next;
        pause_free(p);
        ended = true;
    }
    if (ended) {
        schedule_rescan(s);
        sites_pump(s);
    }
    pauses_arm(s);
}

void
pauses_arm(struct schedule *s)
{
    msec_t first = INT64_MAX;
    for (const struct pause *p = s->pauses; p != NULL; p = p->next)
        if (p->until_at < first)
            first = p->until_at;
    if (first == INT64_MAX)
        timer_cancel(s->clock, &s->pause_timer);
    else
        timer_set(s->clock, &s->pause_timer, first - clock_wall(s->clock), on_pause_over, s);
}

void
schedule_suspend(struct schedule *s, enum pause_kind kind, struct span name, msec_t until_at,
                 struct span reason)
{
    struct pause *p = (struct pause *)(uintptr_t)schedule_paused(s, kind, name);
    if (p == NULL) {
        p = xcalloc(1, sizeof(*p));
        p->kind = kind;
        p->name = xstrndup(name.p, name.n);
        p->next = s->pauses;
        s->pauses = p;
    }
    free(p->reason);
    p->reason = xstrndup(reason.p, reason.n);
    p->until_at = until_at;
    pauses_arm(s);
    if (kind == PAUSE_DOMAIN)
        domain_out(s);
}

struct span
schedule_suspension_value(char buf[static SUSPENSION_VALUE_MAX], msec_t until_at,
                          struct span reason)
{
    assert(reason.n <= SUSPENSION_VALUE_MAX - SUSPENSION_FIXED_BYTES);
    buf[0] = SUSPENSION_VERSION;
    write_number(buf + 1, (uint64_t)until_at, 8);
    if (reason.n > 0)
        memcpy(buf + SUSPENSION_FIXED_BYTES, reason.p, reason.n);
    return span_of(buf, SUSPENSION_FIXED_BYTES + reason.n);
}

void
pause_load(struct schedule *s, struct span name, struct span value)
{
    struct reader r = {.left = value};
    struct span kind = span_cut(&name, ':');
    bool known = take_number(&r, 1) == SUSPENSION_VERSION;
    msec_t until_at = (msec_t)take_number(&r, 8);
    if (!known || r.bad || until_at < 0)
        return; /* a newer program's */
    for (int k = PAUSE_DOMAIN; k <= PAUSE_ROUTE; k++)
        if (span_eq(kind, span_str(pause_kind_name((enum pause_kind)k))))
            schedule_suspend(s, (enum pause_kind)k, name, until_at, r.left);
}

size_t
schedule_resume(struct schedule *s, struct span name)
{
    size_t n = 0;
    for (struct pause **link = &s->pauses; *link != NULL;) {
        struct pause *p = *link;
        if (!span_ieq(span_str(p->name), name)) {
            link = &p->next;
            continue;
        }
        *link = p->next;
        pause_free(p);
        n++;
    }
    if (n > 0) {
        pauses_arm(s);
        schedule_rescan(s);
        sites_pump(s);
    }
    return n;
}

/* A domain on hold: its name and, behind that, the reason. */
void
schedule_hold_domain(struct schedule *s, struct span domain, struct span reason)
{
    char *text = xmalloc(domain.n + reason.n + 2);
    memcpy(text, domain.p, domain.n);
    text[domain.n] = '\0';
    if (reason.n > 0)
        memcpy(text + domain.n + 1, reason.p, reason.n);
    text[domain.n + 1 + reason.n] = '\0';
    char *old = map_put(&s->held_domains, span_of(text, domain.n), text);
    if (old == NULL)
        domain_out(s);
    free(old);
}

void
schedule_release_domain(struct schedule *s, struct span domain)
{
    char *old = map_remove(&s->held_domains, domain);
    if (old == NULL)
        return;
    free(old);
    schedule_rescan(s);
}

const char *
schedule_hold_reason(const struct schedule *s, struct span domain)
{
    const char *text = map_get(&s->held_domains, domain);
    return text == NULL ? NULL : text + strlen(text) + 1;
}

void
pauses_free(struct schedule *s)
{
    size_t pos = 0;
    struct span key;
    void *value;

    timer_cancel(s->clock, &s->pause_timer);
    while (s->pauses != NULL) {
        struct pause *p = s->pauses;
        s->pauses = p->next;
        pause_free(p);
    }
    while (map_next(&s->held_domains, &pos, &key, &value)) {
        map_remove(&s->held_domains, key);
        free(value);
        pos--;
    }
    map_release(&s->held_domains);
}

/* ---- reading them at the start ---- */

struct state_read {
    struct store_read read;
    struct schedule *schedule;
    void (*then)(struct schedule *s);
    char after[QUEUE_STATE_KEY_MAX];
};

static void state_done(struct store_read *read);

static void
state_read(struct state_read *sr, struct span prefix, struct span after)
{
    size_t n = after.n;
    assert(n <= sizeof(sr->after));
    if (n > 0)
        memcpy(sr->after, after.p, n);
    sr->read.kind = STORE_READ_STATE;
    sr->read.done = state_done;
    sr->read.state.prefix = prefix;
    sr->read.state.after = span_of(sr->after, n);
    sr->read.state.max = PAUSE_ROWS_MAX;
    store_read(sr->schedule->env.store, &sr->read);
}

static void
state_done(struct store_read *read)
{
    struct state_read *sr = CONTAINER_OF(read, struct state_read, read);
    struct schedule *s = sr->schedule;
    struct span prefix = read->state.prefix;
    bool holds = span_eq(prefix, SPAN(QUEUE_HOLD_SPACE));
    bool pins = span_eq(prefix, SPAN(SCHEDULE_PIN_SPACE));

    if (read->code != ERR_OK) {
        log_alert(s->env.log, "queue_damaged", "the state rows %.*s cannot be read: %s",
                  SPAN_ARG(prefix), read->err.text);
    } else {
        struct queue_facts *facts = &read->state.facts;
        for (size_t i = 0; i < facts->n_rows; i++) {
            struct span name = span_from(facts->rows[i].key, prefix.n);
            if (holds)
                schedule_hold_domain(s, name, facts->rows[i].value);
            else if (pins)
                pin_load(s, name, facts->rows[i].value);
            else
                pause_load(s, name, facts->rows[i].value);
        }
        if (facts->more && facts->n_rows > 0) {
            struct queue_facts page = *facts;
            state_read(sr, prefix, page.rows[page.n_rows - 1].key);
            queue_facts_release(&page);
            return;
        }
        queue_facts_release(facts);
    }
    if (!pins) {
        state_read(sr, holds ? SPAN(SCHEDULE_SUSPEND_SPACE) : SPAN(SCHEDULE_PIN_SPACE), SPAN_NONE);
        return;
    }
    void (*then)(struct schedule *) = sr->then;
    free(sr);
    then(s);
}

void
pauses_load(struct schedule *s, void (*then)(struct schedule *s))
{
    struct state_read *sr = xcalloc(1, sizeof(*sr));
    sr->schedule = s;
    sr->then = then;
    state_read(sr, SPAN(QUEUE_HOLD_SPACE), SPAN_NONE);
}
