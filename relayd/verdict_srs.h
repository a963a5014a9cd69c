/*
 * verdict_srs - a recipient at srs.domain: whom is it really for?
 */
#pragma once

#include "relayd/accept/accept.h"

#include <stdbool.h>

struct daemon;

/*
 * True: ask the map. About the recipient in *ret_decoded when that is not NULL: what an SRS address
 * of ours stands for, to be taken by accept_rcpt_accept() with its address as `instead`; without
 * the parameters of the RCPT, in one block that the caller free()s.
 * False: refused, and `req` is dead. That is every address at srs.domain which is no SRS address of
 * ours and of these days, whoever asks; and whatever else a stranger asks for.
 */
bool
verdict_srs(struct daemon *d, struct accept_rcpt_request *req, struct accept_rcpt **ret_decoded);
