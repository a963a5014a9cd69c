/*
 * listener - a listening socket that gives accepted connections to a callback.
 *
 * Opened (bound) early, as root if need be; started later on the loop. Accepts in bounded bursts.
 * When descriptors run out it pauses for LISTENER_PAUSE_MS instead of spinning: connections wait in
 * the backlog, and one for each pause is taken with a descriptor kept for that and may be told why.
 *
 * Accepted descriptors are non-blocking, close-on-exec, with TCP_NODELAY set.
 */
#pragma once

#include "policy/base/err.h"
#include "relayd/net/addr.h"
#include "relayd/net/loop.h"

#include <stdint.h>
#include <sys/types.h>

#define LISTENER_BURST 32     /* accepts in one tick, so that open sessions get their turn */
#define LISTENER_BACKLOG 4096 /* the kernel cuts it to net.core.somaxconn */
#define LISTENER_PAUSE_MS 200 /* after EMFILE and its kin */

struct listener; /* opaque; one owner */

struct listener_ops {
    /* A connection: `fd` is the callee's now (conn_accept() or close()). `peer` and `local` have
     * family 0 on unix sockets. May call listener_pause() and listener_close(). */
    void (*on_accept)(void *arg, int fd, const struct net_addr *peer, const struct net_addr *local);
    /* Descriptors ran out; `fd` is one waiting connection, to which a line may be written without
     * waiting. It is closed when this returns: do not keep it. NULL: nothing is said. `error` is
     * the errno: log it (at most once in LISTENER_PAUSE_MS). */
    void (*on_exhausted)(void *arg, int fd, int error);
};

/*
 * Bind and listen at `addr` (port 0: any). [::] means IPv6 only: 0.0.0.0 is a listener of its own.
 * No event loop is needed yet. ERR_BUSY (address in use), ERR_PERM (port below 1024), ERR_INVAL (no
 * such address here), ERR_IO; the text names the address.
 */
MUST_CHECK enum err_code
listener_open(const struct net_addr *addr, struct listener **ret, struct err *err);
/*
 * The same on a unix socket at `path`, made with `mode` and replacing a socket that nobody answers
 * on; ERR_BUSY when somebody does. The directory must exist. listener_close() removes the file.
 */
MUST_CHECK enum err_code
listener_open_unix(const char *path, mode_t mode, struct listener **ret, struct err *err);
/* Change owner and group of the unix socket's file, before privileges are dropped; -1 = leave. */
MUST_CHECK enum err_code listener_chown(struct listener *l, uid_t uid, gid_t gid, struct err *err);

/* Begin to accept. `ops` stays valid until listener_close(). Once only. */
void
listener_start(struct listener *l, struct loop *loop, const struct listener_ops *ops, void *arg);
/* Leave connections in the backlog / take them again. No-ops when already so. */
void listener_pause(struct listener *l);
void listener_resume(struct listener *l);
/* Stop and free; NULL is fine, and so is calling it from on_accept. No callback afterwards.
 * Connections still in the backlog are reset. */
void listener_close(struct listener *l);

/* Where it listens; with port 0 asked for, the real port. Valid until closed. */
const struct net_addr *listener_addr(const struct listener *l);
