/*
 * control - the daemon's HTTP/1.1 server for administration: a router over conn.h.
 *
 * relayctl reaches it through a unix socket whose file mode (0660) is the access control; browsers
 * and Prometheus reach it over TCP when http.address is set, with a token unless the address is
 * loopback. Handlers run on the loop, get a parsed request, and answer now or later.
 *
 *     static void status_get(struct control_call *call, void *arg)
 *     {
 *         cJSON *json = cJSON_CreateObject();
 *         ...
 *         control_json(call, 200, json);
 *     }
 *     static const struct control_route routes[] = {
 *         {"GET", API_STATUS, status_get},
 *         {"GET", API_QUEUE "/{id}", queue_show}, // control_segment(call) is the id
 *     };
 *     control_routes(control, routes, N_ELEMENTS(routes), daemon);
 *
 * Invariants
 *  (1) Every call is completed exactly once: by control_json(), control_text(), control_error(),
 *      control_stream_end() or control_stream_abort(). The handle is invalid afterwards.
 *  (2) A client that goes away does not end its call: the handle stays valid, control_gone() says
 *      so, what is answered is dropped. on_gone lets a streaming handler stop early.
 *  (3) One request at a time is worked on for each connection; the next is parsed after the answer.
 *  (4) No callback of the caller runs inside a control_*() function that the caller called.
 *
 * Loop thread only.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/msec.h"
#include "policy/base/span.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

#define CONTROL_CONNS_MAX 64             /* connections, unix and TCP together; TCP at most half */
#define CONTROL_REQUEST_MS (10 * SECOND) /* from the first byte to the last of a request */
#define CONTROL_IDLE_MS (60 * SECOND)    /* between requests of a connection */
#define CONTROL_ANSWER_MS (60 * SECOND)  /* a handler that has not answered: 504 */
/* Without the client taking anything: closed. The kernel tells of what is taken in pieces of up to
 * 37 KB, so who takes less than that in this time may look like one who takes nothing. */
#define CONTROL_WRITE_MS (30 * SECOND)
#define CONTROL_OUT_MAX ((size_t)256 << 10) /* unsent bytes above which a stream has to wait */
#define CONTROL_JSON_DEPTH 16               /* nesting of a request's JSON */

struct listener;
struct log;
struct loop;
struct control;
struct control_call;

typedef void control_handler(struct control_call *call, void *arg);

/*
 * One row of the routing table. `path` is exact, or has "{id}" in the place of one segment, which
 * control_segment() gives: "/v1/queue/{id}/body". An exact row wins over one with {id}. GET rows
 * answer HEAD too. `open` rows need no token (/healthz).
 */
struct control_route {
    const char *method; /* "GET" or "POST" */
    const char *path;
    control_handler *run;
    bool open;
};

struct control_env {
    struct loop *loop;
    struct log *log; /* who changed what */
};

struct control *control_new(const struct control_env *env);
/* Closes listeners and connections and frees calls that are still open: their handles are invalid
 * then, and no on_gone is called. NULL is fine. */
void control_free(struct control *control);

/* Add rows; the table is static and outlives the control. `arg` goes to their handlers. */
void
control_routes(struct control *control, const struct control_route *routes, size_t n, void *arg);

/*
 * Serve a unix listener, made by listener_open_unix(path, 0660) and listener_chown() before
 * privileges were dropped. Control owns it from now on.
 */
void control_serve_unix(struct control *control, struct listener *listener);
/*
 * Serve a TCP listener (http.address). Every request but those to `open` routes must carry
 * "Authorization: Bearer TOKEN" (compared in constant time; also as the password of Basic, for
 * browsers). With an empty token only connections to loopback addresses are served, and Host must
 * name one or localhost (against DNS rebinding). POST needs "Content-Type: application/json" and no
 * Origin in any case (against forms of other sites).
 */
void control_serve_tcp(struct control *control, struct listener *listener, struct span token);
/* A new token after a reload (copied); empty for none. Open connections must show it from their
 * next request on. */
void control_set_token(struct control *control, struct span token);

/* Serve one connected descriptor as a unix client (tests, socket pairs). */
void control_attach(struct control *control, int fd);

/* Clients connected now. */
size_t control_connections(const struct control *control);

/* ---- what a handler may ask of its call ---- */

/* The segment that the route's {id} stands for. Empty when the route has none. */
struct span control_segment(const struct control_call *call);
/* A query parameter; p == NULL when it is not there. */
struct span control_query(const struct control_call *call, const char *name);
/* The JSON object of a POST; an empty object when there was no body. Never NULL. */
const cJSON *control_body(const struct control_call *call);
/* The string member `name` of the body, or NULL. */
const char *control_body_str(const struct control_call *call, const char *name);
/* Who asks, for the log: "uid=0 pid=123" over the unix socket, "192.0.2.1:5000" over TCP. */
const char *control_who(const struct control_call *call);
bool control_gone(const struct control_call *call);

/* ---- answering ---- */

/* Answer with a JSON document; takes ownership of `json`. */
void control_json(struct control_call *call, int status, cJSON *json);
/* Answer with bytes, copied. */
void
control_text(struct control_call *call, int status, const char *content_type, struct span body);
/* Answer {"error":{"code":CODE,"text":TEXT}} with the status that fits the code. */
void control_error(struct control_call *call, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The status that control_error() uses: 400, 404, 409, 413, 403, 503, 507, 500 ... */
int control_status(enum err_code code);

/*
 * Answer in pieces (chunked, or closed at the end for HTTP/1.0). `on_ready` runs when what
 * was written has drained after control_stream() returned false, `on_gone` once if the client
 * leaves before the end; the call has to be completed also then. Both run from the loop, never from
 * inside these functions; either may be NULL. There is no answer deadline for a stream.
 */
void control_stream_begin(struct control_call *call, int status, const char *content_type,
                          void (*on_ready)(struct control_call *call, void *arg),
                          void (*on_gone)(struct control_call *call, void *arg), void *arg);
/* Send a copy of `bytes`; false: wait for on_ready before the next piece. */
bool control_stream(struct control_call *call, struct span bytes);
void control_stream_end(struct control_call *call);
/* Something failed in the middle: the connection is cut, so that the client sees it. */
void control_stream_abort(struct control_call *call);
