/*
 * delivery_outcome - what hosts decided about recipients becomes their attempts, and goes to
 * record: at the end of the transaction, or before it for who has his 250 while it goes on with
 * others.
 */
#include "relayd/delivery_private.h"

#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"

void
delivery_deciders_free(struct decider *d)
{
    while (d != NULL) {
        struct decider *before = d->before;
        free(d);
        d = before;
    }
}

/* Who decides now: the newest of those known, unless it is another host or session. */
static const struct decider *
decider_of(struct connection *c)
{
    const struct deliver_peer *peer = deliver_peer(c->conn);
    struct decider *d = c->deciders;

    if (d != NULL && d->endpoint == peer->endpoint && d->family == peer->ip.family &&
        d->dsn_offered == peer->dsn_offered && strcmp(d->tls, peer->tls) == 0)
        return d;
    d = xmalloc(sizeof(*d));
    d->before = c->deciders;
    c->deciders = d;
    d->endpoint = peer->endpoint;
    d->family = peer->ip.family;
    d->dsn_offered = peer->dsn_offered;
    d->peer[0] = '\0';
    if (d->family != 0)
        ip_port_format(&peer->ip, peer->port, d->peer);
    snprintf(d->host, sizeof(d->host), "%s", peer->host == NULL ? "" : peer->host);
    snprintf(d->tls, sizeof(d->tls), "%s", peer->tls);
    return d;
}

/* The other family of addresses that a direct site's hosts have besides this one; 0: none. */
static uint8_t
other_family(const struct connection *c, uint8_t family)
{
    if (family == 4 && c->has_v6)
        return 6;
    return family == 6 && c->has_v4 ? 4 : 0;
}

/* Of the first `n` attempts: what the connection knows of them all. */
static void
fill_attempts(const struct connection *c, struct attempt *attempts, size_t n, msec_t connect_ms,
              msec_t transfer_ms)
{
    for (size_t i = 0; i < n; i++) {
        attempts[i].route = schedule_link_route(c->link);
        attempts[i].site = schedule_link_site(c->link);
        attempts[i].srs = strbuf_span(&c->srs);
        attempts[i].connect_ms = connect_ms;
        attempts[i].transfer_ms = transfer_ms;
        attempts[i].hop = c->hop != NULL;
    }
}

static bool
is_decided(const struct attempt *a)
{
    return a->peer != NULL;
}

/*
 * Somebody has his 250, and the transaction goes on with the others: to a host that takes few
 * recipients at a time, or to the next host, which may take minutes. Who is decided is recorded
 * now, or a crash in that time would deliver to him again.
 */
static void
record_part(struct deferred *d)
{
    struct connection *c = CONTAINER_OF(d, struct connection, part);
    size_t n = 0, left = 0, total = c->txn.n_rcpts;

    for (size_t i = 0; i < total; i++)
        left += c->attempts[i].rcpt != NULL && !is_decided(&c->attempts[i]);
    if (left == 0)
        return; /* its end is near */
    CLEANUP(freep) struct attempt *part = xcalloc(total, sizeof(*part));
    for (size_t i = 0; i < total; i++) {
        struct attempt *a = &c->attempts[i];
        if (a->rcpt == NULL || !is_decided(a))
            continue;
        part[n++] = *a;
        if (a->outcome.path) {
            free(c->path_trouble);
            c->path_trouble = xmalloc(sizeof(*c->path_trouble));
            *c->path_trouble = a->outcome;
        }
        schedule_link_decided(c->link, a->rcpt);
        a->rcpt = NULL;
        c->rcpts[i] = (struct deliver_rcpt){.address = SPAN("")}; /* the real one may go */
    }
    fill_attempts(c, part, n, c->connect_ms, clock_now(loop_clock(c->d->env.loop)) - c->sent_at);
    c->d->env.attempted(c->d->env.arg, part, n);
}

/* The host is noted now: the transaction may go on to the next one with those who are left. */
void
delivery_on_outcome(void *arg, struct deliver_txn *txn, size_t rcpt, const struct outcome *outcome)
{
    struct connection *c = arg;
    struct attempt *a = &c->attempts[rcpt];
    const struct decider *by = decider_of(c);
    (void)txn;
    a->outcome = *outcome;
    a->peer = by->peer;
    a->host = by->host;
    a->tls = by->tls;
    a->other_family = other_family(c, by->family);
    a->dsn_passed_on = by->dsn_offered;
    if (outcome->kind == OUTCOME_DELIVERED)
        loop_defer(c->d->env.loop, &c->part, record_part); /* unless that was the end of it */
}

void
delivery_on_txn_done(void *arg, struct deliver_txn *txn, const struct deliver_report *report)
{
    struct connection *c = arg;
    struct attempt *attempts = c->attempts;
    struct decider *deciders = c->deciders;
    size_t n = 0;
    CLEANUP(freep) struct outcome *before = c->path_trouble;
    const struct outcome *trouble = report->hop_trouble ? before : NULL;

    loop_defer_cancel(&c->part);
    for (size_t i = 0; i < txn->n_rcpts; i++) {
        if (attempts[i].rcpt == NULL)
            continue; /* recorded before */
        attempts[n++] = attempts[i];
        if (report->hop_trouble && attempts[n - 1].outcome.path)
            trouble = &attempts[n - 1].outcome;
    }
    fill_attempts(c, attempts, n, report->connect_ms, report->transfer_ms);
    c->msg = NULL;
    c->path_trouble = NULL;
    c->attempts = NULL;
    c->deciders = NULL;
    free(c->rcpts);
    c->rcpts = NULL;
    schedule_link_sent(c->link, trouble);
    c->d->env.attempted(c->d->env.arg, attempts, n);
    free(attempts);
    delivery_deciders_free(deciders);
}
