/* The driver with TLS and AUTH; the client is on the same loop. */
#include "tests/unit/accept/session_rig.h"

struct tls_client {
    struct world *w;
    struct conn *conn;
    struct strbuf heard;
    bool up, failed, closed;
};

static void
client_data(void *arg)
{
    struct tls_client *c = arg;
    struct span in = conn_input(c->conn);

    strbuf_add_span(&c->heard, in);
    conn_consume(c->conn, in.n);
}

static void
client_tls(void *arg, const struct conn_tls_result *result)
{
    struct tls_client *c = arg;

    c->up = result->failure == TLS_FAIL_NONE;
    c->failed = !c->up;
}

static void
client_closed(void *arg, const struct conn_end *end)
{
    struct tls_client *c = arg;

    (void)end;
    c->closed = true;
}

static const struct conn_ops client_ops = {
    .on_data = client_data, .on_tls = client_tls, .on_closed = client_closed};

static void
tls_say(struct tls_client *c, const char *text)
{
    conn_write(c->conn, span_str(text));
    for (int i = 0; i < 20; i++)
        spin(c->w);
}

static void
tls_hear(struct tls_client *c, const char *want)
{
    if (c->heard.n < strlen(want) || strncmp(c->heard.p, want, strlen(want)) != 0)
        fail_msg("expected %s, got %.*s", want, SPAN_ARG(strbuf_span(&c->heard)));
    strbuf_reset(&c->heard);
}

/* Password checks come back from another thread. */
static void
tls_wait(struct tls_client *c)
{
    for (int i = 0; i < 2000 && c->heard.n == 0; i++)
        loop_run_once(c->w->loop, 5);
    spin(c->w);
}

static void
tls_connect(struct world *w, struct tls_client *c, const char *ip)
{
    struct net_addr peer = address(ip, 4711), local = address("127.0.0.1", 2525);
    int fds[2];

    *c = (struct tls_client){.w = w};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    c->conn = conn_accept(w->loop, fds[0], NULL, NULL, &client_ops, c);
    session_open(w->accept, w->setup, 0, fds[1], &peer, &local);
    spin(w);
}

static void
tls_up(struct tls_client *c)
{
    struct tls_client_config config = {.level = TLS_REQUIRE};
    struct tls_ctx *ctx;

    assert_int_equal(tls_client_new(&config, &ctx, NULL), ERR_OK);
    assert_int_equal(conn_start_tls(c->conn, ctx, "relay.test", CONN_TLS_NO_INPUT), ERR_OK);
    tls_ctx_free(ctx);
    for (int i = 0; i < 200 && !c->up && !c->failed; i++)
        spin(c->w);
    assert_true(c->up);
}

static void
tls_close(struct tls_client *c)
{
    conn_retire(c->conn);
    strbuf_release(&c->heard);
    spin(c->w);
}

static void
starttls(struct world *w, struct tls_client *c, const char *ip)
{
    tls_connect(w, c, ip);
    tls_hear(c, "220 relay.test");
    tls_say(c, "EHLO x\r\n");
    assert_non_null(strstr(c->heard.p, "250-STARTTLS"));
    strbuf_reset(&c->heard);
    tls_say(c, "STARTTLS\r\n");
    tls_hear(c, "220 2.0.0");
    tls_up(c);
    tls_say(c, "EHLO x\r\n");
    assert_null(strstr(c->heard.p, "STARTTLS"));
    tls_hear(c, "250-relay.test");
}

static void
with_users(struct world *w)
{
    char hash[USERS_HASH_BUF];

    assert_int_equal(users_hash(SPAN("secret"), hash, NULL), ERR_OK);
    strbuf_printf(&w->users_text, "alice:%s\n", hash);
    w->trusted[1] =
        (struct config_trust){.kind = CONFIG_TRUST_USERS,
                              .users = {.path = "users", .bytes = strbuf_span(&w->users_text)}};
    w->config.n_trusted = 2;
    w->config.has_users = true;
    w->listener.tls = CONFIG_LISTENER_STARTTLS;
}

static void
test_auth_inside_starttls_makes_a_stranger_trusted(void **state)
{
    struct world *w = *state;
    struct tls_client c;

    with_users(w);
    begin(w);
    starttls(w, &c, "203.0.113.5");
    tls_say(&c, "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n");
    tls_wait(&c);
    tls_hear(&c, "235 2.7.0");
    tls_say(&c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\n");
    tls_hear(&c, "250 2.1.0 ok\r\n250 2.1.5 ok\r\n");
    assert_string_equal(w->client.p, "203.0.113.5 ESMTPSA alice");
    assert_int_equal(w->accept->stats.sessions_tls, 1);
    tls_close(&c);
    assert_int_equal(w->accept->stats.sessions_tls, 0);
    assert_int_equal(guard_entries(w->accept->guard), 0);
}

static void
test_five_failures_shut_an_address_out_for_ten_minutes(void **state)
{
    struct world *w = *state;
    struct tls_client c;

    with_users(w);
    begin(w);
    starttls(w, &c, "203.0.113.5");
    for (int i = 0; i < 5; i++) {
        tls_say(&c, i % 2 ? "AUTH PLAIN AGJvYgBzZWNyZXQ=\r\n" : "AUTH PLAIN AGFsaWNlAHdyb25n\r\n");
        tls_wait(&c);
        tls_hear(&c, "535 5.7.8");
    }
    tls_say(&c, "AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n");
    tls_wait(&c);
    tls_hear(&c, "421 4.7.0");
    assert_true(c.closed);
    tls_close(&c);

    struct client again = connect_from(w, "203.0.113.5", NULL);
    hear(again, "421 4.7.0");
    hear_end(again);
    struct client other = connect_from(w, "203.0.113.6", NULL);
    hear(other, "220");
    close(other.fd);
    clock_step(loop_clock(w->loop), 10 * MINUTE);
    spin(w);
    again = connect_from(w, "203.0.113.5", NULL);
    hear(again, "220");
    close(again.fd);
    spin(w);
    assert_int_equal(w->accept->stats.auth_failed, 5);
    assert_int_equal(w->accept->stats.auth_throttled, 1);
}

static void
test_a_client_that_goes_while_his_password_is_checked(void **state)
{
    struct world *w = *state;
    struct tls_client c;

    with_users(w);
    begin(w);
    starttls(w, &c, "203.0.113.5");
    conn_write(c.conn, SPAN("AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n"));
    for (int i = 0; i < 5 && w->accept->checks == NULL; i++)
        loop_run_once(w->loop, 0);
    accept_free(w->accept); /* the job is with a worker, or back in the inbox */
    w->accept = NULL;
    conn_retire(c.conn);
    strbuf_release(&c.heard);
    workers_stop(w->workers);
    inbox_run(w->inbox);
    assert_int_equal(w->n_configs_done, 1);
}

static void
test_implicit_tls_greets_inside(void **state)
{
    struct world *w = *state;
    struct tls_client c;

    w->listener.tls = CONFIG_LISTENER_IMPLICIT;
    begin(w);
    tls_connect(w, &c, "192.0.2.5");
    assert_int_equal(c.heard.n, 0);
    tls_up(&c);
    tls_say(&c, "");
    tls_hear(&c, "220 relay.test");
    tls_say(&c, "EHLO x\r\n");
    tls_hear(&c, "250");
    tls_say(&c, "MAIL FROM:<a@src.test>\r\n");
    assert_string_equal(w->client.p, "192.0.2.5 ESMTPS ");
    tls_close(&c);

    struct client plain = stream_from(w, "192.0.2.5");
    say(w, plain, "EHLO x\r\n");
    spin(w);
    assert_int_equal(w->accept->stats.tls_failed, 1);
    assert_int_equal(w->accept->stats.sessions, 0);
    close(plain.fd);

    plain = stream_from(w, "192.0.2.5"); /* says nothing at all */
    clock_step(loop_clock(w->loop), SESSION_HANDSHAKE_MS);
    spin(w);
    assert_int_equal(w->accept->stats.sessions, 0);
    close(plain.fd);
}

static void
test_a_changed_certificate_is_taken_and_a_bad_one_is_not(void **state)
{
    struct world *w = *state;
    const struct listener_setup *l;
    struct tls_ctx *first;

    w->listener.tls = CONFIG_LISTENER_STARTTLS;
    begin(w);
    l = &w->accept->setup->listeners[0];
    first = l->tls;
    write_file(w->certificate, SPAN("garbage, longer than nothing\n"));
    accept_refresh_certificates(w->accept);
    for (int i = 0; i < 2000 && w->accept->certs_job != NULL; i++)
        loop_run_once(w->loop, 5);
    assert_ptr_equal(l->tls, first);
    assert_int_equal(log_alerts_total(w->log), 1);

    make_certificate(w);
    clock_step(loop_clock(w->loop), HOUR);
    for (int i = 0; i < 2000 && (w->accept->certs_job != NULL || i == 0); i++)
        loop_run_once(w->loop, 5);
    assert_ptr_not_equal(l->tls, first);
    assert_true(accept_certificate_not_after(w->accept) < INT64_MAX);
    struct tls_client c;
    starttls(w, &c, "192.0.2.5");
    tls_close(&c);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_auth_inside_starttls_makes_a_stranger_trusted),
        TEST(test_five_failures_shut_an_address_out_for_ten_minutes),
        TEST(test_a_client_that_goes_while_his_password_is_checked),
        TEST(test_implicit_tls_greets_inside),
        TEST(test_a_changed_certificate_is_taken_and_a_bad_one_is_not),
    };
    RUN_TESTS(tests);
}
