/*
 * dns_channel - one upstream server: sends a question, gives the bytes of the answer. c-ares is
 * behind this header and nowhere else.
 *
 * Nothing calls back before the function that began it returns. Single thread.
 */
#pragma once

#include "policy/base/span.h"
#include "relayd/net/addr.h"
#include "relayd/net/loop.h"

struct dns_channel;
struct dns_try; /* one question on its way */

enum dns_try_result {
    DNS_TRY_ANSWER,
    DNS_TRY_TIMEOUT,
    DNS_TRY_FAILED, /* the server cannot be reached, or closed the TCP connection */
};

/* What a channel tells; both may begin new tries, neither may free the channel. */
struct dns_channel_ops {
    /* Exactly once for each try that was not abandoned, which then is gone. `text`: why not. */
    void (*on_try)(void *arg, enum dns_try_result result, struct span message, const char *text);
    /* A place has become free: dns_channel_n() is smaller than before. */
    void (*on_room)(void *owner);
};

/* NULL when c-ares refuses, with *ret_reason. `timeout_ms` is c-ares's own, a last resort: callers
 * abandon a try earlier. */
struct dns_channel *
dns_channel_new(struct loop *loop, const struct net_addr *server, msec_t timeout_ms,
                const struct dns_channel_ops *ops, void *owner, const char **ret_reason);
/* All tries are gone without a callback. Not from on_try or on_room. */
void dns_channel_free(struct dns_channel *ch);

struct dns_try *
dns_channel_send(struct dns_channel *ch, const uint8_t *question, size_t n, void *arg);
/* No callback for it any more. Its place stays taken until c-ares gives up too. */
void dns_try_abandon(struct dns_try *t);

/* Places taken. */
size_t dns_channel_n(const struct dns_channel *ch);
/* TCP connections opened so far. */
uint64_t dns_channel_n_tcp(const struct dns_channel *ch);
