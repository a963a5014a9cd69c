/*
 * Any bytes on the control socket: HTTP, JSON, the router, and the filter that says what a verb
 * acts on. Whatever comes, every request is answered or the connection closed, and a filter holds
 * everything that was named: what is not understood is refused, never left out. The first octet:
 * whether it comes over TCP, where nobody gets to a handler without the token.
 */
#include "relayd/api_internal.h"
#include "relayd/ops/control_impl.h"
#include "tests/fuzz/check.h"

#include <sys/socket.h>
#include <unistd.h>

#define WALL ((msec_t)1789887600000)

static struct daemon the_daemon;
static struct api the_api = {.d = &the_daemon};
static bool over_tcp;
static struct span whole; /* the input */

static bool
named(const struct control_call *call, bool from_body, const char *name)
{
    return from_body ? cJSON_GetObjectItemCaseSensitive(control_body(call), name) != NULL
                     : control_query(call, name).p != NULL;
}

static void
check_filter(const struct control_call *call, bool from_body, const struct api_filter *f)
{
    CHECK(!named(call, from_body, API_F_ID) || f->filter.id != 0);
    CHECK(!named(call, from_body, API_F_DOMAIN) || f->filter.domain.n > 0);
    CHECK(!named(call, from_body, API_F_STATE) || f->state != API_ANY_STATE);
    CHECK(!named(call, from_body, API_F_SENDER) || f->filter.sender.n > 0 || f->filter.sender_null);
    CHECK(f->filter.arrived_before >= 0 && f->filter.arrived_before < WALL);
    CHECK(!f->any_field || f->filter.id != 0 || f->filter.domain.n > 0 ||
          f->state != API_ANY_STATE || f->filter.sender.n > 0 || f->filter.sender_null ||
          f->filter.arrived_before > 0);
}

static void
run(struct control_call *call, bool from_body)
{
    struct api_filter f;

    if (over_tcp) /* by itself, or in base64 behind a colon at any of three places */
        CHECK(span_ifind(whole, SPAN("authorization")) != SIZE_MAX &&
              (span_find(whole, SPAN("token")) != SIZE_MAX ||
               span_find(whole, SPAN("b2tl")) != SIZE_MAX ||
               span_find(whole, SPAN("9rZW")) != SIZE_MAX ||
               span_find(whole, SPAN("2tlb")) != SIZE_MAX));
    if (!api_filter_parse(&the_api, call, from_body, &f))
        return; /* answered */
    check_filter(call, from_body, &f);
    control_text(call, 200, "text/plain", f.any_field ? SPAN("some") : SPAN("all"));
}

static void
list(struct control_call *call, void *arg)
{
    (void)arg;
    run(call, false);
}

static void
act(struct control_call *call, void *arg)
{
    (void)arg;
    run(call, true);
}

static void
one(struct control_call *call, void *arg)
{
    uint64_t id;

    (void)arg;
    if (api_id(call, &id))
        control_text(call, 200, "text/plain", control_segment(call));
}

static const struct control_route routes[] = {
    {"GET", API_QUEUE, list, false},
    {"GET", API_QUEUE "/{id}", one, false},
    {"POST", API_QUEUE_REMOVE, act, false},
};

/* What was answered so far; each answer begins with a status line. */
static bool
hear(int fd)
{
    char buf[65536];
    ssize_t n = read(fd, buf, sizeof buf);

    if (n > 0)
        CHECK(n > 12 && memcmp(buf, "HTTP/1.1 ", 9) == 0 && ascii_digit(buf[9]));
    return n == 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static struct control *control;
    int fds[2];

    if (n == 0 || n > 60000)
        return 0;
    over_tcp = (bytes[0] & 1) != 0;
    whole = span_of(bytes + 1, n - 1);
    if (control == NULL) {
        the_daemon.loop = loop_new_stepped(WALL);
        the_daemon.log = log_new(NULL);
        log_set_level(the_daemon.log, LOG_ALERT);
        struct control_env env = {.loop = the_daemon.loop, .log = the_daemon.log};
        control = control_new(&env);
        control_routes(control, routes, N_ELEMENTS(routes), NULL);
        control_set_token(control, SPAN("token"));
    }
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    control_attach(control, fds[0]);
    LIST_FIRST(&control->conns)->tcp = over_tcp;
    control->n_tcp += over_tcp;
    CHECK(write(fds[1], whole.p, whole.n) == (ssize_t)whole.n);
    shutdown(fds[1], SHUT_WR);
    bool closed = false;
    for (int i = 0; i < 100 && (!closed || control_connections(control) > 0); i++) {
        loop_run_once(the_daemon.loop, 0);
        closed = hear(fds[1]) || closed;
    }
    CHECK(closed && control_connections(control) == 0);
    close(fds[1]);
    return 0;
}
