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

/* How long a client waits for the facts that a rule by MX or country may refuse by. What is not
 * known by then is taken, and bounced should the rule say so: a client gives RCPT 5 minutes (RFC
 * 5321 section 4.5.3.2.3), but it may send hundreds of them one after the other. */
#define VERDICT_FACTS_MS (5 * SECOND)

/* A recipient that waits; in req->data. */
struct verdict {
    struct daemon *d;
    struct accept_rcpt_request *req;
    struct facts_query *facts;
    struct timer timer;
};

static bool
literal_refused(const struct daemon *d, const struct ip *ip)
{
    const struct config *config = d->settings->config;
    if (facts_is_own(d->facts, ip, config->direct.port))
        return true;
    return ip_is_special(ip) && !config->direct.allow_private;
}

static void
decide(const struct daemon *d, const struct accept_rcpt_request *req,
       const struct route_facts *facts, struct route_decision *ret)
{
    const struct route_query query = {
        .sender = req->mail->sender,
        .sender_domain = req->mail->sender_domain,
        .rcpt_local = req->rcpt->mailbox.local,
        .domain = req->rcpt->domain,
        .facts = facts,
    };
    route_decide(d->settings->config, &query, ret);
}

static void
answer(struct accept_rcpt_request *req, const struct route_decision *decision)
{
    switch (decision->action) {
    case ROUTE_REJECT:
    case ROUTE_NONE:
    case ROUTE_FENCED:
        accept_rcpt_refuse(req, decision->text);
        break;
    case ROUTE_DELIVER:
    case ROUTE_DISCARD:
    case ROUTE_HOLD:
    case ROUTE_FACTS: /* decided before the first attempt */
        accept_rcpt_accept(req, SPAN_NONE);
        break;
    }
}

static void
verdict_free(struct verdict *v)
{
    timer_cancel(loop_clock(v->d->loop), &v->timer);
    facts_cancel(v->facts);
    v->req->data = NULL;
    free(v);
}

static void
on_facts(void *arg, const struct facts_domain *domain)
{
    struct verdict *v = arg;
    struct accept_rcpt_request *req = v->req;
    struct route_decision decision;

    v->facts = NULL;
    decide(v->d, req, &domain->route, &decision);
    verdict_free(v);
    answer(req, &decision);
}

static void
on_facts_late(void *arg)
{
    struct verdict *v = arg;
    struct accept_rcpt_request *req = v->req;
    verdict_free(v);
    accept_rcpt_accept(req, SPAN_NONE);
}

/* The map asks for facts by which it may refuse: from the cache, or by a look-up. */
static void
ask_facts(struct daemon *d, struct accept_rcpt_request *req, struct route_decision *decision)
{
    CLEANUP(freep) char *name = xstrndup(req->rcpt->domain.p, req->rcpt->domain.n);
    struct geoip *geoip = d->settings->geoip;
    struct facts_domain domain;

    if (facts_domain_cached(d->facts, geoip, name, decision->needs, &domain)) {
        decide(d, req, &domain.route, decision);
        answer(req, decision);
        return;
    }
    struct verdict *v = xcalloc(1, sizeof(*v));
    *v = (struct verdict){.d = d, .req = req};
    req->data = v;
    v->facts = facts_domain_start(d->facts, geoip, name, decision->needs, on_facts, v);
    timer_set(loop_clock(d->loop), &v->timer, VERDICT_FACTS_MS, on_facts_late, v);
}

void
verdict_rcpt(void *daemon, struct accept_rcpt_request *req)
{
    struct daemon *d = daemon;
    struct route_decision decision;

    if (req->stranger) {
        accept_rcpt_refuse(req, SPAN("554 5.7.1 relaying denied"));
        return;
    }
    if (req->rcpt->literal.family != 0 && literal_refused(d, &req->rcpt->literal)) {
        accept_rcpt_refuse(req, SPAN("550 5.1.2 mail is not delivered to this address"));
        return;
    }
    decide(d, req, NULL, &decision);
    if (decision.action == ROUTE_FACTS && decision.may_refuse)
        ask_facts(d, req, &decision);
    else
        answer(req, &decision);
}

void
verdict_cancel(void *daemon, struct accept_rcpt_request *req)
{
    (void)daemon;
    if (req->data != NULL)
        verdict_free(req->data);
}
