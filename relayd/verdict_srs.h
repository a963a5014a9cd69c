/*
 * verdict_srs - a recipient at srs.domain: whom is it really for?
 */
#pragma once

#include "policy/base/domain.h"
#include "policy/srs.h"
#include "relayd/accept/accept.h"

struct daemon;

/* A recipient taken from an SRS address. Its spans point into the struct, which does not move. */
struct verdict_srs {
    struct accept_rcpt rcpt; /* without the parameters of the RCPT */
    char address[SRS_ADDRESS_MAX], domain[DOMAIN_BUF];
};

/*
 * The recipient that the map is to be asked about: req->rcpt itself, or, when that is an SRS
 * address of ours, the one decoded into *decoded; taking it means accept_rcpt_accept() with its
 * address as `instead`. NULL: refused already, `req` is dead. That is every address at srs.domain
 * that is no SRS address of ours and of these days, whoever asks; and anything else of a stranger.
 */
const struct accept_rcpt *
verdict_srs(struct daemon *d, struct accept_rcpt_request *req, struct verdict_srs *decoded);
