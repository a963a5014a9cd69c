/*
 * verdict - may this recipient be taken? The transport map is walked at RCPT, so that `reject` and
 * recipients that no rule takes are answered there and not by a bounce.
 *
 *   decided ────────────────────────────────▶ taken, or refused
 *   asks for facts, none of which refuses ──▶ taken at once: the way is decided later
 *   asks for facts that might refuse ───────▶ waits for DNS ─▶ decided, or after 5 s taken
 */
#include <stdlib.h>

#include "policy/base/mem.h"
#include "policy/route.h"
#include "relayd/daemon.h"
#include "relayd/verdict_srs.h"

/* How long a client waits for the facts that a rule by MX or country may refuse by. What is not
 * known by then is taken, and bounced should the rule say so: a client gives RCPT 5 minutes (RFC
 * 5321 section 4.5.3.2.3), but it may send hundreds of them one after the other. */
#define VERDICT_FACTS_MS (5 * SECOND)

/* A question about a recipient; in req->data while it waits. */
struct verdict {
    struct daemon *d;
    struct accept_rcpt_request *req;
    struct accept_rcpt *decoded; /* whom it is really for, owned; NULL: as req says */
    struct facts_query *facts;
    struct timer timer;
};

static const struct accept_rcpt *
rcpt_of(const struct verdict *v)
{
    return v->decoded != NULL ? v->decoded : v->req->rcpt;
}

static void
decide(const struct verdict *v, const struct route_facts *facts, struct route_decision *ret)
{
    const struct accept_mail *mail = v->req->mail;
    const struct accept_rcpt *rcpt = rcpt_of(v);
    const struct route_query query = {
        .sender = mail->sender,
        .sender_domain = mail->sender_domain,
        .rcpt_local = rcpt->mailbox.local,
        .domain = rcpt->domain,
        .facts = facts,
    };
    route_decide(v->d->settings->config, &query, ret);
}

static void
take(struct verdict *v)
{
    accept_rcpt_accept(v->req, v->decoded != NULL ? v->decoded->address : SPAN_NONE);
    free(v->decoded);
}

static void
refuse(struct verdict *v, struct span reply)
{
    accept_rcpt_refuse(v->req, reply);
    free(v->decoded);
}

static void
answer(struct verdict *v, const struct route_decision *decision)
{
    switch (decision->action) {
    case ROUTE_REJECT:
    case ROUTE_NONE:
    case ROUTE_FENCED:
        refuse(v, decision->text);
        break;
    case ROUTE_DELIVER:
    case ROUTE_DISCARD:
    case ROUTE_HOLD:
    case ROUTE_FACTS: /* decided before the first attempt */
        take(v);
        break;
    }
}

/* It waits no more: its block goes, and what is in it comes back. */
static struct verdict
verdict_end(struct verdict *waiting)
{
    struct verdict v = *waiting;

    timer_cancel(loop_clock(v.d->loop), &waiting->timer);
    facts_cancel(v.facts);
    v.req->data = NULL;
    free(waiting);
    return v;
}

static void
on_facts(void *arg, const struct facts_domain *domain)
{
    struct verdict *waiting = arg;
    struct route_decision decision;

    waiting->facts = NULL;
    decide(waiting, &domain->route, &decision);
    struct verdict v = verdict_end(waiting);
    answer(&v, &decision);
}

static void
on_facts_late(void *arg)
{
    struct verdict v = verdict_end(arg);
    take(&v);
}

/* The map asks for facts by which it may refuse: from the cache, or by a look-up. */
static void
ask_facts(struct verdict *asked, struct route_decision *decision)
{
    struct daemon *d = asked->d;
    const struct accept_rcpt *rcpt = rcpt_of(asked);
    CLEANUP(freep) char *name = xstrndup(rcpt->domain.p, rcpt->domain.n);
    struct geoip *geoip = d->settings->geoip;
    struct facts_domain domain;

    if (facts_domain_cached(d->facts, geoip, name, decision->needs, &domain)) {
        decide(asked, &domain.route, decision);
        answer(asked, decision);
        return;
    }
    struct verdict *v = xmalloc(sizeof(*v));
    *v = *asked;
    v->req->data = v;
    v->facts = facts_domain_start(d->facts, geoip, name, decision->needs, on_facts, v);
    timer_set(loop_clock(d->loop), &v->timer, VERDICT_FACTS_MS, on_facts_late, v);
}

void
verdict_rcpt(void *daemon, struct accept_rcpt_request *req)
{
    struct verdict v = {.d = daemon, .req = req};
    struct route_decision decision;

    if (!verdict_srs(v.d, req, &v.decoded))
        return;
    const struct ip *literal = &rcpt_of(&v)->literal;
    if (literal->family != 0 && facts_literal_refused(v.d->facts, literal)) {
        refuse(&v, SPAN(ACCEPT_LITERAL_REPLY));
        return;
    }
    decide(&v, NULL, &decision);
    if (decision.action == ROUTE_FACTS && decision.may_refuse)
        ask_facts(&v, &decision);
    else
        answer(&v, &decision);
}

void
verdict_cancel(void *daemon, struct accept_rcpt_request *req)
{
    (void)daemon;
    if (req->data != NULL)
        free(verdict_end(req->data).decoded);
}
