/*
 * client - one HTTP request over a unix socket and its answer, blocking.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/span.h"

/* Of silence: looking is quick unless DNS is slow (explain); what changes something may take as
 * long as the daemon gives its handlers, 60 s. */
#define CLIENT_LOOK_SECONDS 15
#define CLIENT_CHANGE_SECONDS 75
#define CLIENT_ANSWER_MAX ((size_t)256 << 20)

/*
 * Send the request and feed the answer's body, piece by piece, to `take` (when the status is 200 to
 * 299) or into `ret_other` (all others). `*ret_status` is the HTTP status.
 *
 * ERR_NOT_FOUND: nobody listens there. ERR_PERM: no permission for the socket. ERR_AGAIN: no answer
 * in time. ERR_IO: the answer broke off or is no HTTP. An error of `take` is passed on.
 */
MUST_CHECK enum err_code
client_request(const char *socket, const char *method, const char *path, struct span body,
               int *ret_status,
               enum err_code (*take)(void *arg, struct span piece, struct err *err), void *arg,
               struct strbuf *ret_other, struct err *err);
