/*
 * loop_private - the loop as net/ itself sees it: buffers shared by all connections. A buffer
 * is used within one libevent callback and holds nothing between two.
 */
#pragma once

#include "policy/base/span.h"
#include "relayd/net/loop.h"

/* A record that OpenSSL holds in part can come out beside a full read; so the plain text of one
 * read may be that much longer than its cipher text. */
#define LOOP_RECORD_BYTES 16640

struct conn;

struct retired {
    void *object;
    void (*free_fn)(void *object);
};

struct loop {
    struct event_base *base;
    struct clock *clock;
    struct event *end_of_tick;
    bool asked;               /* end_of_tick is on its way */
    bool ending;              /* the end of a tick is being run */
    struct deferred deferred; /* head of the ring, in the order asked */
    struct retired *retired;  /* to be freed at the end of the tick */
    size_t n_retired, cap_retired;
    struct conn *lingering; /* connections that finish by themselves */
    size_t n_lingering;
    struct strbuf gather;     /* memory lent to the connection whose callback runs */
    struct strbuf cipher_out; /* what one OpenSSL call wrote */
    char cipher_in[LOOP_BUFFER_BYTES];
    char input[2 * LOOP_BUFFER_BYTES + LOOP_RECORD_BYTES]; /* unread bytes, then one read */
};
