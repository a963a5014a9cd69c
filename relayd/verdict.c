/*
 * verdict - may this recipient be taken? The transport map is walked at RCPT, so that `reject` and
 * recipients that no rule takes are answered there and not by a bounce.
 */
#include "policy/route.h"
#include "relayd/daemon.h"
#include "relayd/verdict_srs.h"

static bool
literal_refused(const struct daemon *d, const struct ip *ip)
{
    const struct config *config = d->settings->config;
    if (facts_is_own(d->facts, ip, config->direct.port))
        return true;
    return ip_is_special(ip) && !config->direct.allow_private;
}

void
verdict_rcpt(void *daemon, struct accept_rcpt_request *req)
{
    struct daemon *d = daemon;
    struct verdict_srs decoded;
    const struct accept_rcpt *rcpt = verdict_srs(d, req, &decoded);
    if (rcpt == NULL)
        return;
    const struct route_query query = {
        .sender = req->mail->sender,
        .sender_domain = req->mail->sender_domain,
        .rcpt_local = rcpt->mailbox.local,
        .domain = rcpt->domain,
    };
    struct route_decision decision;

    if (rcpt->literal.family != 0 && literal_refused(d, &rcpt->literal)) {
        accept_rcpt_refuse(req, SPAN("550 5.1.2 mail is not delivered to this address"));
        return;
    }
    route_decide(d->settings->config, &query, &decision);
    switch (decision.action) {
    case ROUTE_REJECT:
    case ROUTE_NONE:
    case ROUTE_FENCED:
        accept_rcpt_refuse(req, decision.text);
        break;
    case ROUTE_DELIVER:
    case ROUTE_DISCARD:
    case ROUTE_HOLD:
        accept_rcpt_accept(req, rcpt == req->rcpt ? SPAN_NONE : rcpt->address);
        break;
    }
}

/* Every verdict is given at once, so none can be cancelled. */
void
verdict_cancel(void *daemon, struct accept_rcpt_request *req)
{
    (void)daemon;
    (void)req;
}
