/*
 * relayctl against a control server with canned answers: what it asks for, how it prints, how it
 * exits. The server runs in a child; a POST is answered with what came, as "got".
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/prctl.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "relayd/net/listener.h"
#include "relayd/net/loop.h"
#include "relayd/ops/api.h"
#include "relayd/ops/control.h"
#include "relayd/ops/log.h"
#include "run_ctl.h"

#define BODY_BYTES ((size_t)3 << 20)
#define ITEMS 2500 /* three pages */

static char dir[64], socket_path[100];
static struct listener *listener;
static pid_t server;

/* ---- the server ---- */

static void
status_get(struct control_call *call, void *arg)
{
    (void)arg;
    control_json(
        call, 200,
        cJSON_Parse("{\"version\":\"0.1.0\",\"node\":\"cn\",\"state\":\"running\",\"pid\":7,"
                    "\"uptime_ms\":93784000,\"config\":{\"file\":\"/etc/r.yaml\"},"
                    "\"queue\":{\"messages\":3,\"recipients\":4,\"bytes\":1536,\"max_bytes\":2048},"
                    "\"rates\":{\"accepted\":{\"minute\":5,\"hour\":60}},"
                    "\"routes\":[{\"name\":\"us\",\"kind\":\"hop\",\"state\":\"down\","
                    "\"waiting\":9,\"connections\":1,\"detail\":\"refused\\u001b[31m\"}],"
                    "\"suspended\":[{\"target\":\"two.test\",\"kind\":\"domain\","
                    "\"reason\":\"they asked\"}],"
                    "\"alerts\":[{\"at\":\"2020-01-01T00:00:00.000Z\",\"kind\":\"hop_down\","
                    "\"text\":\"us: refused\",\"count\":2}]}"));
}

static void
list_get(struct control_call *call, void *arg)
{
    (void)arg;
    uint64_t limit = 0, after = 0;
    span_u64(control_query(call, API_F_LIMIT), &limit);
    span_u64(control_query(call, API_F_AFTER), &after);
    cJSON *json = cJSON_CreateObject(), *items = cJSON_AddArrayToObject(json, "items");
    uint64_t i = after;
    for (; i < ITEMS && i < after + limit; i++) {
        char text[32];
        cJSON *item = cJSON_CreateObject();
        snprintf(text, sizeof(text), "cn.%013d", (int)i);
        cJSON_AddStringToObject(item, "id", text);
        api_add_span(item, "rcpt", control_query(call, API_F_DOMAIN));
        cJSON_AddStringToObject(item, "state", "held");
        cJSON_AddStringToObject(item, "sender", "");
        cJSON_AddStringToObject(item, "last_reply", "550 evil\x1b]0;x\x07 \xe4\xb8\xad");
        cJSON_AddItemToArray(items, item);
    }
    char next[24];
    snprintf(next, sizeof(next), "%d", (int)i);
    if (i < ITEMS)
        cJSON_AddStringToObject(json, "next", next);
    else
        cJSON_AddNullToObject(json, "next");
    control_json(call, 200, json);
}

struct body {
    size_t sent;
};

static void
body_more(struct control_call *call, void *arg)
{
    struct body *body = arg;
    char piece[10000];
    memset(piece, 'b', sizeof(piece));
    while (body->sent < BODY_BYTES) {
        size_t n =
            BODY_BYTES - body->sent < sizeof(piece) ? BODY_BYTES - body->sent : sizeof(piece);
        body->sent += n;
        if (!control_stream(call, span_of(piece, n)))
            return;
    }
    control_stream_end(call);
    free(body);
}

static void
body_get(struct control_call *call, void *arg)
{
    (void)arg;
    if (span_eq(control_segment(call), SPAN("cn.broken"))) {
        control_stream_begin(call, 200, "message/rfc822", NULL, NULL, NULL);
        control_stream(call, SPAN("half a mess"));
        control_stream_abort(call);
    } else if (span_eq(control_segment(call), SPAN("cn.none"))) {
        control_error(call, ERR_NOT_FOUND, "no message cn.none\x1b[31m");
    } else {
        struct body *body = xcalloc(1, sizeof(*body));
        control_stream_begin(call, 200, "message/rfc822", body_more, NULL, body);
        body_more(call, body);
    }
}

static void
echo_post(struct control_call *call, void *arg)
{
    (void)arg;
    cJSON *json = cJSON_CreateObject();
    bool none = control_body_str(call, "id") != NULL &&
                strcmp(control_body_str(call, "id"), "cn.none") == 0;
    cJSON_AddNumberToObject(json, "matched", none ? 0 : 12);
    cJSON_AddStringToObject(json, "job", "j1");
    cJSON_AddItemToObject(json, "got", cJSON_Duplicate(control_body(call), true));
    control_json(call, 200, json);
}

static void
job_get(struct control_call *call, void *arg)
{
    int *polls = arg;
    bool done = ++*polls % 3 == 0;
    cJSON *json = cJSON_CreateObject();
    cJSON_AddStringToObject(json, "state", done ? "done" : "running");
    cJSON_AddNumberToObject(json, "done", 12);
    cJSON_AddNumberToObject(json, "findings", 0);
    control_json(call, 200, json);
}

static void
reload_post(struct control_call *call, void *arg)
{
    (void)arg;
    control_json(call, 400,
                 cJSON_Parse("{\"error\":{\"code\":\"inval\",\"text\":\"not applied\"},"
                             "\"problems\":[\"f.yaml:1:2: x: wrong\"]}"));
}

static void
explain_get(struct control_call *call, void *arg)
{
    (void)arg;
    cJSON *json = cJSON_CreateObject();
    api_add_span(json, "rcpt", control_query(call, "rcpt"));
    api_add_span(json, "sender", control_query(call, "from"));
    cJSON_AddStringToObject(json, "rule", "relayd.yaml:42");
    cJSON_AddStringToObject(json, "route", "us");
    cJSON *steps = cJSON_AddArrayToObject(json, "steps");
    cJSON_AddItemToArray(steps, cJSON_CreateString("relayd.yaml:42 won"));
    control_json(call, 200, json);
}

static const struct control_route routes[] = {
    {"GET", API_STATUS, status_get, false},           {"GET", API_QUEUE, list_get, false},
    {"GET", API_QUEUE "/{id}/body", body_get, false}, {"POST", API_QUEUE "/{id}", echo_post, false},
    {"POST", API_SUSPEND, echo_post, false},          {"POST", API_ROUTES_PIN, echo_post, false},
    {"POST", API_VERIFY, echo_post, false},           {"POST", API_RELOAD, reload_post, false},
    {"GET", API_EXPLAIN, explain_get, false},         {"GET", API_JOBS "/{id}", job_get, false},
};

static void
serve(void)
{
    int polls = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct loop *loop = loop_new();
    struct log *log = log_new(NULL);
    log_set_level(log, LOG_ALERT);
    struct control_env env = {.loop = loop, .log = log};
    struct control *control = control_new(&env);
    control_routes(control, routes, N_ELEMENTS(routes), &polls);
    control_serve_unix(control, listener);
    loop_run(loop);
}

static int
setup(void **state)
{
    (void)state;
    struct err err;
    snprintf(dir, sizeof(dir), "/tmp/test_online.XXXXXX");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(socket_path, sizeof(socket_path), "%s/s", dir);
    /* It listens before the child runs, so nobody has to wait for it. */
    if (listener_open_unix(socket_path, 0600, &listener, &err) != ERR_OK)
        return -1;
    server = fork();
    if (server == 0) {
        serve();
        _exit(0);
    }
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    kill(server, SIGKILL);
    waitpid(server, NULL, 0);
    listener_close(listener); /* removes the socket */
    return rmdir(dir);
}

static struct run
ask(const char *command)
{
    char full[512];
    snprintf(full, sizeof(full), "-s %s %s", socket_path, command);
    return run_ctl(NULL, full, NULL);
}

/* ---- the tests ---- */

static void
status_fits_a_screen_and_no_text_drives_the_terminal(void **state)
{
    (void)state;
    struct run run = ask("status");
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.out.p, "cn  running for 1d02h, relayd 0.1.0, pid 7\n"));
    assert_non_null(strstr(run.out.p, "1.5 KiB of 2.0 KiB"));
    assert_non_null(strstr(run.out.p, "they asked"));
    assert_non_null(strstr(run.out.p, "hop_down"));
    assert_non_null(strstr(run.out.p, "refused\\x1b[31m"));
    assert_null(strchr(run.out.p, '\033'));
    run_release(&run);
    run = ask("--json status");
    cJSON *json = cJSON_Parse(run.out.p);
    assert_string_equal(api_str(json, "node", ""), "cn");
    cJSON_Delete(json);
    run_release(&run);
}

static void
a_list_follows_its_pages_up_to_the_limit(void **state)
{
    (void)state;
    static const struct {
        const char *command;
        int n;
    } cases[] = {
        {"queue list --json", 100},
        {"queue list --json --limit 2000", 2000},
        {"queue list --json --limit 1000000", ITEMS},
        {"queue list --json --limit 1", 1},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct run run = ask(cases[i].command);
        assert_int_equal(run.status, 0);
        cJSON *list = cJSON_Parse(run.out.p);
        assert_true(cJSON_IsArray(list));
        assert_int_equal(cJSON_GetArraySize(list), cases[i].n);
        cJSON_Delete(list);
        run_release(&run);
    }
}

static void
filters_reach_the_daemon_and_rows_are_aligned(void **state)
{
    (void)state;
    struct run run = ask("queue list --domain EXAMPLE.com --limit 2");
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.out.p, "example.com"));
    assert_null(strpbrk(run.out.p, "\033\007"));
    struct span out = strbuf_span(&run.out), title = span_cut(&out, '\n');
    struct span row = span_cut(&out, '\n');
    assert_int_equal(span_find(title, SPAN("state")), span_find(row, SPAN("held")));
    assert_non_null(strstr(run.err.p, "there are more"));
    run_release(&run);
}

static const struct {
    const char *command, *got;
} posts[] = {
    {"--json queue retry cn.1", "{\"id\":\"cn.1\"}"},
    {"--json queue remove --all", "{\"all\":true}"},
    {"--json queue hold --domain a.example --reason why",
     "{\"domain\":\"a.example\",\"reason\":\"why\"}"},
    {"--json queue bounce --sender <> --older 1h", "{\"sender\":\"<>\",\"older_ms\":3600000}"},
    {"--json queue reroute --state held --to us", "{\"state\":\"held\",\"route\":\"us\"}"},
    {"--json queue reroute cn.1", "{\"id\":\"cn.1\"}"},
    {"--json suspend mx.example --for 2h --reason x",
     "{\"target\":\"mx.example\",\"for_ms\":7200000,\"reason\":\"x\"}"},
    {"--json routes pin B.example us --for 7d",
     "{\"domain\":\"b.example\",\"route\":\"us\",\"for_ms\":604800000}"},
};

static void
verbs_send_what_the_api_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(posts); i++) {
        struct run run = ask(posts[i].command);
        assert_int_equal(run.status, 0);
        cJSON *json = cJSON_Parse(run.out.p);
        CLEANUP(freep)
        char *got = cJSON_PrintUnformatted(cJSON_GetObjectItem(json, "got"));
        assert_string_equal(got, posts[i].got);
        cJSON_Delete(json);
        run_release(&run);
    }
}

static void
acting_says_how_many_and_may_wait(void **state)
{
    (void)state;
    struct run run = ask("queue release --domain a.example");
    assert_int_equal(run.status, 0);
    assert_string_equal(run.out.p, "12 recipients released, being worked through\n");
    run_release(&run);
    run = ask("queue release --domain a.example --wait");
    assert_int_equal(run.status, 0);
    assert_string_equal(run.out.p, "12 recipients released\n");
    run_release(&run);
    run = ask("queue remove cn.none");
    assert_int_equal(run.status, 66);
    assert_true(run.err.n > 0);
    run_release(&run);
    run = ask("verify");
    assert_int_equal(run.status, 0);
    assert_string_equal(run.out.p, "the queue is sound, 12 records checked\n");
    run_release(&run);
}

static void
a_body_is_copied_whole_or_the_exit_says_otherwise(void **state)
{
    (void)state;
    struct run run = ask("queue body cn.1");
    assert_int_equal(run.status, 0);
    assert_int_equal(run.out.n, BODY_BYTES);
    run_release(&run);
    run = ask("queue body cn.broken");
    assert_int_equal(run.status, 74);
    assert_non_null(strstr(run.err.p, "broke off"));
    run_release(&run);
    run = ask("queue body cn.none");
    assert_int_equal(run.status, 66);
    assert_string_equal(run.err.p, "relayctl: no message cn.none\\x1b[31m\n");
    assert_string_equal(run.out.p, "");
    run_release(&run);
}

static void
a_refused_reload_shows_every_problem_and_exits_78(void **state)
{
    (void)state;
    struct run run = ask("reload");
    assert_int_equal(run.status, 78);
    assert_string_equal(run.err.p, "relayctl: f.yaml:1:2: x: wrong\nrelayctl: not applied\n");
    run_release(&run);
}

static void
explain_passes_addresses_as_they_are(void **state)
{
    (void)state;
    struct run run = ask("explain --from a+b=c&d@x.example r%41+\xe4\xb8\xad@y.example");
    assert_int_equal(run.status, 0);
    assert_non_null(strstr(run.out.p, "a+b=c&d@x.example"));
    assert_non_null(strstr(run.out.p, "r%41+\xe4\xb8\xad@y.example"));
    assert_non_null(strstr(run.out.p, "relayd.yaml:42"));
    run_release(&run);
}

static void
an_unknown_path_is_an_error_in_one_line(void **state)
{
    (void)state;
    struct run run = ask("trace cn.1"); /* this server has no trace */
    assert_int_equal(run.status, 66);
    assert_string_equal(run.err.p, "relayctl: no such path\n");
    run_release(&run);
}

static void
a_full_standard_output_is_an_error(void **state)
{
    (void)state;
    char command[400];
    snprintf(command, sizeof(command), "%s -s %s queue body cn.1 > /dev/full 2>/dev/null",
             run_program, socket_path);
    int status = system(command);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 74);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_fits_a_screen_and_no_text_drives_the_terminal),
        cmocka_unit_test(a_list_follows_its_pages_up_to_the_limit),
        cmocka_unit_test(filters_reach_the_daemon_and_rows_are_aligned),
        cmocka_unit_test(verbs_send_what_the_api_says),
        cmocka_unit_test(acting_says_how_many_and_may_wait),
        cmocka_unit_test(a_body_is_copied_whole_or_the_exit_says_otherwise),
        cmocka_unit_test(a_refused_reload_shows_every_problem_and_exits_78),
        cmocka_unit_test(explain_passes_addresses_as_they_are),
        cmocka_unit_test(an_unknown_path_is_an_error_in_one_line),
        cmocka_unit_test(a_full_standard_output_is_an_error),
    };
    run_find();
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
