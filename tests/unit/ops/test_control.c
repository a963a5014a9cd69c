#include "relayd/ops/control.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/net/addr.h"
#include "relayd/net/listener.h"
#include "relayd/net/loop.h"
#include "relayd/ops/log.h"

#define HOST "Host: localhost\r\n"
#define JSON "Content-Type: application/json\r\n"

/* A control server on a loop with stepped time, and what its handlers saw. */
struct rig {
    struct loop *loop;
    struct log *log;
    struct control *control;
    struct control_call *later; /* parked by a handler */
    int n_run, n_ready, n_gone;
    char seen[256];
};

static void
echo_get(struct control_call *call, void *arg)
{
    struct rig *rig = arg;
    struct span x = control_query(call, "x"), id = control_segment(call);
    rig->n_run++;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "id", "");
    snprintf(rig->seen, sizeof(rig->seen), "id=%.*s x=%.*s", SPAN_ARG(id), SPAN_ARG(x));
    control_json(call, 200, json);
}

static void
exact_get(struct control_call *call, void *arg)
{
    (void)arg;
    control_text(call, 200, "text/plain", SPAN("exact"));
}

static void
echo_post(struct control_call *call, void *arg)
{
    struct rig *rig = arg;
    const char *name = control_body_str(call, "name");
    rig->n_run++;
    if (name == NULL)
        control_error(call, ERR_INVAL, "name is missing");
    else
        control_text(call, 200, "text/plain", span_str(name));
}

static void
later_get(struct control_call *call, void *arg)
{
    struct rig *rig = arg;
    rig->n_run++;
    rig->later = call;
}

static void
on_ready(struct control_call *call, void *arg)
{
    (void)call;
    ((struct rig *)arg)->n_ready++;
}

static void
on_gone(struct control_call *call, void *arg)
{
    (void)call;
    ((struct rig *)arg)->n_gone++;
}

static void
stream_get(struct control_call *call, void *arg)
{
    struct rig *rig = arg;
    rig->later = call;
    control_stream_begin(call, 200, "message/rfc822", on_ready, on_gone, rig);
}

static const struct control_route routes[] = {
    {"GET", "/v1/thing/{id}", echo_get, false},
    {"GET", "/v1/thing/exact", exact_get, false},
    {"GET", "/v1/thing/{id}/part", echo_get, false},
    {"POST", "/v1/thing", echo_post, false},
    {"GET", "/v1/later", later_get, false},
    {"GET", "/v1/stream", stream_get, false},
    {"GET", "/healthz", exact_get, true},
};

static struct rig *
rig_new(void)
{
    struct rig *rig = xcalloc(1, sizeof(*rig));
    rig->loop = loop_new_stepped(1789887600000);
    rig->log = log_new(NULL);
    log_set_level(rig->log, LOG_ALERT);
    struct control_env env = {.loop = rig->loop, .log = rig->log};
    rig->control = control_new(&env);
    control_routes(rig->control, routes, N_ELEMENTS(routes), rig);
    return rig;
}

static void
rig_free(struct rig *rig)
{
    control_free(rig->control);
    loop_free(rig->loop);
    log_free(rig->log);
    free(rig);
}

static void
turn(struct rig *rig)
{
    for (int i = 0; i < 20; i++)
        loop_run_once(rig->loop, 0);
}

static int
attach(struct rig *rig)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    control_attach(rig->control, fds[0]);
    return fds[1];
}

static void
say(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

/* What can be read now; *closed when the other side has ended. */
static char *
hear(struct rig *rig, int fd, bool *closed)
{
    struct strbuf text = STRBUF_INIT;
    char buf[65536];
    ssize_t n;
    *closed = false;
    for (int quiet = 0; quiet < 3; quiet++) {
        turn(rig);
        while ((n = read(fd, buf, sizeof(buf))) > 0) {
            strbuf_add(&text, buf, (size_t)n);
            quiet = 0;
        }
        if (n == 0)
            *closed = true;
    }
    return strbuf_take(&text);
}

/* One request on a connection of its own; the answer must begin with `want`. */
static void
ask(struct rig *rig, const char *request, const char *want, const char *body)
{
    bool closed;
    int fd = attach(rig);
    say(fd, request);
    CLEANUP(freep) char *answer = hear(rig, fd, &closed);
    if (strncmp(answer, want, strlen(want)) != 0)
        fail_msg("%s gave %s", request, answer);
    if (body != NULL && strstr(answer, body) == NULL)
        fail_msg("%s gave %s", request, answer);
    close(fd);
    turn(rig);
}

static void
requests_find_their_handler(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    ask(rig, "GET /v1/thing/a%20b?x=1%262 HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 200 OK\r\n", "{");
    assert_string_equal(rig->seen, "id=a b x=1&2");
    ask(rig, "GET /v1/thing/7/part HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 200 OK\r\n", NULL);
    assert_string_equal(rig->seen, "id=7 x=");
    ask(rig, "GET /v1/thing/exact HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 200", "\r\n\r\nexact");
    ask(rig, "POST /v1/thing HTTP/1.1\r\n" HOST "Content-Length: 14\r\n\r\n{\"name\":\"you\"}",
        "HTTP/1.1 200", "\r\n\r\nyou");
    ask(rig, "POST /v1/thing HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 400",
        "{\"error\":{\"code\":\"inval\",\"text\":\"name is missing\"}}");
    ask(rig, "GET /v1/nothing HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 404", "not_found");
    ask(rig, "GET /v1/thing HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 405", "Allow: POST\r\n");
    ask(rig, "DELETE /v1/thing/1 HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 405", NULL);
    rig_free(rig);
}

static void
head_answers_without_a_body(void **state)
{
    (void)state;
    bool closed;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    say(fd, "HEAD /v1/thing/exact HTTP/1.1\r\n" HOST "\r\n");
    CLEANUP(freep) char *answer = hear(rig, fd, &closed);
    assert_non_null(strstr(answer, "Content-Length: 5\r\n"));
    assert_true(span_ends(span_str(answer), SPAN("\r\n\r\n")));
    close(fd);
    rig_free(rig);
}

static const char *const bad_bodies[] = {
    "[]",
    "1",
    "{",
    "{} x",
    "{\"a\":\"\\u0000\"}",
    "{\"a\":\"\xff\"}",
    "{\"a\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}",
};

static void
a_body_that_is_no_json_object_is_refused(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    for (size_t i = 0; i < N_ELEMENTS(bad_bodies); i++) {
        char request[512];
        snprintf(request, sizeof(request),
                 "POST /v1/thing HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n%s",
                 strlen(bad_bodies[i]), bad_bodies[i]);
        ask(rig, request, "HTTP/1.1 400", "inval");
    }
    assert_int_equal(rig->n_run, 0);
    rig_free(rig);
}

static void
a_broken_request_is_answered_and_the_connection_ends(void **state)
{
    (void)state;
    bool closed;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    say(fd, "POST /v1/thing HTTP/1.1\r\n" HOST
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/thing/1 HTTP/1.1\r\n\r\n");
    CLEANUP(freep) char *answer = hear(rig, fd, &closed);
    assert_true(strncmp(answer, "HTTP/1.1 501", 12) == 0);
    assert_non_null(strstr(answer, "Connection: close\r\n"));
    assert_null(strstr(answer + 1, "HTTP/1.1")); /* what was smuggled behind is not looked at */
    assert_true(closed);
    assert_int_equal(rig->n_run, 0);
    assert_int_equal(control_connections(rig->control), 0);
    close(fd);
    rig_free(rig);
}

static void
pipelined_requests_are_answered_in_order_one_at_a_time(void **state)
{
    (void)state;
    bool closed;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    say(fd, "GET /v1/thing/exact HTTP/1.1\r\n" HOST "\r\n"
            "GET /v1/later HTTP/1.1\r\n" HOST "\r\n"
            "GET /v1/thing/2 HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"
            "GET /v1/thing/3 HTTP/1.1\r\n" HOST "\r\n");
    CLEANUP(freep) char *first = hear(rig, fd, &closed);
    assert_non_null(strstr(first, "exact"));
    assert_non_null(rig->later);
    assert_int_equal(rig->n_run, 1); /* the third waits for the second's answer */
    control_text(rig->later, 200, "text/plain", SPAN("late"));
    CLEANUP(freep) char *rest = hear(rig, fd, &closed);
    char *late = strstr(rest, "late");
    assert_non_null(late);
    assert_non_null(strstr(late, "HTTP/1.1 200 OK"));
    assert_int_equal(rig->n_run, 2);
    assert_string_equal(rig->seen, "id=2 x="); /* nothing behind Connection: close */
    assert_true(closed);
    close(fd);
    rig_free(rig);
}

static void
a_client_may_leave_before_its_answer(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    say(fd, "GET /v1/later HTTP/1.1\r\n" HOST "\r\n");
    turn(rig);
    assert_false(control_gone(rig->later));
    close(fd);
    turn(rig);
    assert_true(control_gone(rig->later));
    assert_int_equal(control_connections(rig->control), 0);
    control_json(rig->later, 200, cJSON_CreateObject());
    rig_free(rig);
}

static void
a_handler_that_never_answers_gives_504(void **state)
{
    (void)state;
    bool closed;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    say(fd, "GET /v1/later HTTP/1.1\r\n" HOST "\r\n");
    turn(rig);
    clock_step(loop_clock(rig->loop), CONTROL_ANSWER_MS + 1);
    CLEANUP(freep) char *answer = hear(rig, fd, &closed);
    assert_true(strncmp(answer, "HTTP/1.1 504", 12) == 0);
    assert_true(control_gone(rig->later));
    control_error(rig->later, ERR_AGAIN, "too late");
    close(fd);
    rig_free(rig);
}

static void
slow_and_idle_clients_are_closed(void **state)
{
    (void)state;
    bool closed;
    struct rig *rig = rig_new();
    int slow = attach(rig), idle = attach(rig);
    say(slow, "GET /v1/thing/1 HTT");
    turn(rig);
    for (int i = 0; i < 9; i++) { /* a byte now and then does not help */
        clock_step(loop_clock(rig->loop), SECOND);
        say(slow, "P");
        turn(rig);
    }
    clock_step(loop_clock(rig->loop), SECOND + 1);
    CLEANUP(freep) char *answer = hear(rig, slow, &closed);
    assert_true(strncmp(answer, "HTTP/1.1 408", 12) == 0);
    clock_step(loop_clock(rig->loop), CONTROL_IDLE_MS);
    CLEANUP(freep) char *nothing = hear(rig, idle, &closed);
    assert_string_equal(nothing, "");
    assert_true(closed);
    assert_int_equal(control_connections(rig->control), 0);
    close(slow);
    close(idle);
    rig_free(rig);
}

static void
connections_are_limited(void **state)
{
    (void)state;
    bool closed;
    struct rig *rig = rig_new();
    int fds[CONTROL_CONNS_MAX];
    for (int i = 0; i < CONTROL_CONNS_MAX; i++)
        fds[i] = attach(rig);
    int extra = attach(rig);
    CLEANUP(freep) char *answer = hear(rig, extra, &closed);
    assert_true(strncmp(answer, "HTTP/1.1 503", 12) == 0);
    assert_true(closed);
    assert_int_equal(control_connections(rig->control), CONTROL_CONNS_MAX);
    close(fds[0]);
    turn(rig);
    ask(rig, "GET /v1/thing/exact HTTP/1.1\r\n" HOST "\r\n", "HTTP/1.1 200", "exact");
    for (int i = 1; i < CONTROL_CONNS_MAX; i++)
        close(fds[i]);
    close(extra);
    turn(rig);
    assert_int_equal(control_connections(rig->control), 0);
    rig_free(rig);
}

static void
a_stream_is_chunked_and_waits_for_its_reader(void **state)
{
    (void)state;
    bool closed;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    char *piece = xmalloc(65536);
    size_t sent = 0;
    memset(piece, 'x', 65536);
    say(fd, "GET /v1/stream HTTP/1.1\r\n" HOST "\r\n");
    turn(rig);
    assert_true(control_stream(rig->later, SPAN("hello")));
    while (control_stream(rig->later, span_of(piece, 65536)))
        assert_true((sent += 65536) < (size_t)64 << 20); /* the reader does not read */
    sent += 65536;
    assert_int_equal(rig->n_ready, 0);
    CLEANUP(freep) char *answer = hear(rig, fd, &closed);
    assert_int_equal(rig->n_ready, 1);
    assert_non_null(strstr(answer, "Transfer-Encoding: chunked\r\n"));
    assert_non_null(strstr(answer, "\r\n\r\n5\r\nhello\r\n10000\r\nxxx"));
    assert_true(strlen(answer) > sent);
    control_stream_end(rig->later);
    CLEANUP(freep) char *end = hear(rig, fd, &closed);
    assert_string_equal(end, "0\r\n\r\n");
    assert_false(closed);
    say(fd, "GET /v1/thing/exact HTTP/1.1\r\n" HOST "\r\n");
    CLEANUP(freep) char *next = hear(rig, fd, &closed);
    assert_non_null(strstr(next, "exact"));
    free(piece);
    close(fd);
    rig_free(rig);
}

static void
a_stream_that_breaks_off_has_no_end_mark(void **state)
{
    (void)state;
    bool closed;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    say(fd, "GET /v1/stream HTTP/1.1\r\n" HOST "\r\n");
    turn(rig);
    control_stream(rig->later, SPAN("half"));
    turn(rig);
    control_stream_abort(rig->later);
    CLEANUP(freep) char *answer = hear(rig, fd, &closed);
    assert_null(strstr(answer, "\r\n0\r\n"));
    assert_true(closed);
    assert_int_equal(rig->n_gone, 0);
    close(fd);
    rig_free(rig);
}

static void
a_streaming_handler_hears_that_its_reader_left(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    say(fd, "GET /v1/stream HTTP/1.1\r\n" HOST "\r\n");
    turn(rig);
    close(fd);
    turn(rig);
    assert_int_equal(rig->n_gone, 1);
    assert_true(control_stream(rig->later, SPAN("into the void")));
    control_stream_end(rig->later);
    rig_free(rig);
}

static void
a_reader_that_stops_reading_is_cut(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    char *piece = xcalloc(1, 65536);
    say(fd, "GET /v1/stream HTTP/1.1\r\n" HOST "\r\n");
    turn(rig);
    while (control_stream(rig->later, span_of(piece, 65536)))
        ;
    turn(rig);
    clock_step(loop_clock(rig->loop), CONTROL_WRITE_MS + 1);
    turn(rig);
    clock_step(loop_clock(rig->loop), CONTROL_WRITE_MS + 1);
    turn(rig);
    assert_int_equal(rig->n_gone, 1);
    assert_int_equal(control_connections(rig->control), 0);
    control_stream_abort(rig->later);
    free(piece);
    close(fd);
    rig_free(rig);
}

static void
a_reader_that_is_slow_is_not_cut(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    int fd = attach(rig);
    char *piece = xcalloc(1, 65536);
    size_t sent = 0, got = 0;
    say(fd, "GET /v1/stream HTTP/1.1\r\n" HOST "\r\n");
    turn(rig);
    do
        sent += 65536;
    while (control_stream(rig->later, span_of(piece, 65536)));
    /* 40 KB each time: what the kernel holds alone is enough for several times. */
    while (got < sent && rig->n_ready == 0) {
        turn(rig);
        for (size_t part = 0; part < 40000;) {
            ssize_t n = read(fd, piece, 2000);
            if (n <= 0)
                fail_msg("cut after %zu of %zu octets", got, sent);
            part += (size_t)n;
            got += (size_t)n;
        }
        clock_step(loop_clock(rig->loop), CONTROL_WRITE_MS + 1);
    }
    assert_true(got > CONTROL_OUT_MAX);
    assert_int_equal(rig->n_ready, 1);
    assert_int_equal(rig->n_gone, 0);
    control_stream_end(rig->later);
    free(piece);
    close(fd);
    rig_free(rig);
}

/* ---- TCP ---- */

static uint16_t
serve_tcp(struct rig *rig, struct span token)
{
    struct listener *listener;
    struct err err;
    struct net_addr addr = {.port = 0};
    assert_true(ip_parse(SPAN("127.0.0.1"), &addr.ip));
    assert_int_equal(listener_open(&addr, &listener, &err), ERR_OK);
    uint16_t port = listener_addr(listener)->port;
    control_serve_tcp(rig->control, listener, token);
    return port;
}

static char *
ask_tcp(struct rig *rig, uint16_t port, const char *request)
{
    bool closed;
    struct sockaddr_storage ss;
    struct net_addr addr = {.port = port};
    assert_true(ip_parse(SPAN("127.0.0.1"), &addr.ip));
    socklen_t n = net_addr_to_sockaddr(&addr, &ss);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&ss, n), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    say(fd, request);
    char *answer = hear(rig, fd, &closed);
    close(fd);
    turn(rig);
    return answer;
}

static const struct {
    const char *request;
    int status;
} tokens[] = {
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\n\r\n", 401},
    {"GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n", 401}, /* paths are not told to strangers */
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cre\r\n\r\n", 401},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3crett\r\n\r\n", 401},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer\r\n\r\n", 401},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: s3cret\r\n\r\n", 401},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer s3cret\r\n\r\n", 200},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: bearer  s3cret \r\n\r\n", 200},
    /* x:s3cret, x:wrong, rubbish */
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: Basic eDpzM2NyZXQ=\r\n\r\n", 200},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: Basic eDp3cm9uZw==\r\n\r\n", 401},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: a\r\nAuthorization: Basic !!!!\r\n\r\n", 401},
    {"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 200}, /* open */
};

static void
over_tcp_the_token_is_asked_for(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    uint16_t port = serve_tcp(rig, SPAN("s3cret"));
    for (size_t i = 0; i < N_ELEMENTS(tokens); i++) {
        CLEANUP(freep) char *answer = ask_tcp(rig, port, tokens[i].request);
        if (atoi(answer + 9) != tokens[i].status)
            fail_msg("%s gave %s", tokens[i].request, answer);
    }
    control_set_token(rig->control, SPAN("n3w"));
    CLEANUP(freep) char *answer = ask_tcp(rig, port, tokens[6].request);
    assert_int_equal(atoi(answer + 9), 401);
    rig_free(rig);
}

static const struct {
    const char *request;
    int status;
} browsers[] = {
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: localhost:8025\r\n\r\n", 200},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: 127.0.0.1:8025\r\n\r\n", 200},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: [::1]:8025\r\n\r\n", 200},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: [::1]\r\n\r\n", 200},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: evil.example:8025\r\n\r\n", 421},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 421},
    {"GET /v1/thing/exact HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", 421},
    {"POST /v1/thing HTTP/1.1\r\nHost: localhost\r\n" JSON
     "Content-Length: 12\r\n\r\n{\"name\":\"x\"}",
     200},
    {"POST /v1/thing HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
     "Content-Length: 12\r\n\r\n{\"name\":\"x\"}",
     415},
    {"POST /v1/thing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\n{\"name\":\"x\"}",
     415},
    {"POST /v1/thing HTTP/1.1\r\nHost: localhost\r\n" JSON
     "Origin: http://evil.example\r\nContent-Length: 12\r\n\r\n{\"name\":\"x\"}",
     403},
};

static void
without_a_token_web_pages_of_others_get_nothing(void **state)
{
    (void)state;
    struct rig *rig = rig_new();
    uint16_t port = serve_tcp(rig, SPAN_NONE);
    for (size_t i = 0; i < N_ELEMENTS(browsers); i++) {
        CLEANUP(freep) char *answer = ask_tcp(rig, port, browsers[i].request);
        if (atoi(answer + 9) != browsers[i].status)
            fail_msg("%s gave %s", browsers[i].request, answer);
    }
    assert_int_equal(rig->n_run, 1);
    rig_free(rig);
}

static void
the_unix_socket_is_0660_and_names_its_clients(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_control.XXXXXX", want[64];
    bool closed;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct listener *listener;
    struct err err;
    struct stat st;
    struct rig *rig = rig_new();
    assert_non_null(mkdtemp(dir));
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/control.sock", dir);
    assert_int_equal(listener_open_unix(addr.sun_path, 0660, &listener, &err), ERR_OK);
    control_serve_unix(rig->control, listener);
    assert_int_equal(stat(addr.sun_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    say(fd, "GET /v1/later HTTP/1.1\r\nHost: evil.example\r\n\r\n"); /* no browser gets here */
    turn(rig);
    assert_non_null(rig->later);
    snprintf(want, sizeof(want), "uid=%u pid=%d", (unsigned)getuid(), (int)getpid());
    assert_string_equal(control_who(rig->later), want);
    control_json(rig->later, 200, cJSON_CreateObject());
    CLEANUP(freep) char *answer = hear(rig, fd, &closed);
    assert_true(strncmp(answer, "HTTP/1.1 200", 12) == 0);
    close(fd);
    rig_free(rig);
    assert_int_not_equal(stat(addr.sun_path, &st), 0);
    rmdir(dir);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_find_their_handler),
        cmocka_unit_test(head_answers_without_a_body),
        cmocka_unit_test(a_body_that_is_no_json_object_is_refused),
        cmocka_unit_test(a_broken_request_is_answered_and_the_connection_ends),
        cmocka_unit_test(pipelined_requests_are_answered_in_order_one_at_a_time),
        cmocka_unit_test(a_client_may_leave_before_its_answer),
        cmocka_unit_test(a_handler_that_never_answers_gives_504),
        cmocka_unit_test(slow_and_idle_clients_are_closed),
        cmocka_unit_test(connections_are_limited),
        cmocka_unit_test(a_stream_is_chunked_and_waits_for_its_reader),
        cmocka_unit_test(a_stream_that_breaks_off_has_no_end_mark),
        cmocka_unit_test(a_streaming_handler_hears_that_its_reader_left),
        cmocka_unit_test(a_reader_that_is_slow_is_not_cut),
        cmocka_unit_test(a_reader_that_stops_reading_is_cut),
        cmocka_unit_test(over_tcp_the_token_is_asked_for),
        cmocka_unit_test(without_a_token_web_pages_of_others_get_nothing),
        cmocka_unit_test(the_unix_socket_is_0660_and_names_its_clients),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
