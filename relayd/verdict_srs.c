/*
 * verdict_srs - see verdict_srs.h. Called by verdict.c before it asks the map.
 *
 * This is the only door through which a stranger's mail comes in: what is answered here holds
 * whatever accept has let through.
 */
#include "relayd/verdict_srs.h"

#include "policy/base/domain.h"
#include "policy/base/mem.h"
#include "policy/srs.h"
#include "relayd/daemon.h"

#include <stdio.h>
#include <stdlib.h>

/* A recipient and the texts that it is a view of. */
struct decoded {
    struct accept_rcpt rcpt; /* first: freed by its address */
    char address[SRS_ADDRESS_MAX], domain[DOMAIN_BUF];
};

static void
log_decoded(struct daemon *d, const struct accept_rcpt_request *req,
            const struct accept_rcpt *decoded)
{
    const struct accept_client *client = req->mail->client;
    char ip[IP_TEXT_MAX];
    struct log_line line;

    log_begin(d->log, &line, LOG_INFO, "srs_decoded");
    log_uint(&line, "conn", client->session);
    log_cstr(&line, "client", ip_format(&client->ip, ip));
    log_str(&line, "sender", req->mail->sender);
    log_str(&line, "srs", req->rcpt->address);
    log_str(&line, "rcpt", decoded->address);
    log_end(&line);
}

/* Make `ret` of `address`. False: no mail can go there, or it is an address at srs.domain again,
 * which we never sign. */
static bool
decoded_fill(struct decoded *ret, struct span address, const struct srs *srs)
{
    struct accept_rcpt *rcpt = &ret->rcpt;

    if (address.n > sizeof(ret->address))
        return false;
    rcpt->address = span_of(memcpy(ret->address, address.p, address.n), address.n);
    if (mailbox_parse(rcpt->address, MAILBOX_UTF8, &rcpt->mailbox) != MAILBOX_OK)
        return false;
    if (rcpt->mailbox.literal) {
        char ip[IP_TEXT_MAX];
        if (!ip_parse(mailbox_literal(&rcpt->mailbox), &rcpt->literal))
            return false;
        snprintf(ret->domain, sizeof(ret->domain), rcpt->literal.family == 6 ? "[IPv6:%s]" : "[%s]",
                 ip_format(&rcpt->literal, ip));
    } else if (domain_normalise(rcpt->mailbox.domain, ret->domain, NULL) != ERR_OK) {
        return false;
    }
    rcpt->domain = span_str(ret->domain);
    return !span_eq(rcpt->domain, srs->domain);
}

bool
verdict_srs(struct daemon *d, struct accept_rcpt_request *req, struct accept_rcpt **ret_decoded)
{
    CLEANUP(strbuf_release) struct strbuf address = STRBUF_INIT;
    const struct srs srs = srs_of(d->settings->config);
    msec_t now = clock_wall(loop_clock(d->loop));

    *ret_decoded = NULL;
    if (srs.domain.n == 0 || !span_eq(req->rcpt->domain, srs.domain)) {
        if (req->stranger)
            accept_rcpt_refuse(req, SPAN("554 5.7.1 relaying denied"));
        return !req->stranger;
    }
    enum srs_fault fault = srs_reverse(&srs, &req->rcpt->mailbox, now, &address);
    if (fault == SRS_OK) {
        struct decoded *decoded = xcalloc(1, sizeof(*decoded));
        if (decoded_fill(decoded, strbuf_span(&address), &srs)) {
            log_decoded(d, req, &decoded->rcpt);
            *ret_decoded = &decoded->rcpt;
            return true;
        }
        free(decoded);
    }
    accept_rcpt_refuse(req, fault == SRS_EXPIRED ? SPAN("550 5.1.1 this address has expired")
                                                 : SPAN("550 5.1.1 no such address"));
    return false;
}
