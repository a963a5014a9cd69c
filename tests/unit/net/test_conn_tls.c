/* TLS on connections: both ends are ours, on a socketpair. */
#include "net_test.h"

#include "relayd/net/tls_private.h"
#include "test_certs.h"

struct rig {
    struct loop *loop;
    char dir[64];
    struct test_cert ca, leaf, expired, self, self_ip, client;
    struct tls_ctx *server; /* shows `leaf` */
    struct driver s, c;     /* the two ends */
};

static struct tls_ctx *
server_ctx(const struct test_cert *cert, const char *min_version, bool ask, const char *scope)
{
    struct tls_ctx *ctx;
    struct err err;
    struct tls_server_config config = {cert->cert_file, cert->key_file, min_version, ask, scope};
    if (tls_server_new(&config, &ctx, &err) != ERR_OK)
        fail_msg("%s", err.text);
    return ctx;
}

static struct tls_ctx *
client_ctx(const struct tls_client_config *config)
{
    struct tls_ctx *ctx;
    struct err err;
    if (tls_client_new(config, &ctx, &err) != ERR_OK)
        fail_msg("%s", err.text);
    return ctx;
}

static int
setup(void **state)
{
    struct rig *rig = xcalloc(1, sizeof(*rig));
    rig->loop = loop_new_stepped(0);
    strcpy(rig->dir, "/tmp/relayd-tls-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    test_cert_make(&rig->ca, rig->dir, "ca", NULL, -1, 30, NULL);
    test_cert_make(&rig->leaf, rig->dir, "leaf", "DNS:mx.test,DNS:*.wild.test", -1, 30, &rig->ca);
    test_cert_make(&rig->expired, rig->dir, "expired", "DNS:mx.test", -30, -1, &rig->ca);
    test_cert_make(&rig->self, rig->dir, "self", "DNS:mx.test", -1, 30, NULL);
    test_cert_make(&rig->self_ip, rig->dir, "self_ip", "IP:192.0.2.7", -1, 30, NULL);
    test_cert_make(&rig->client, rig->dir, "client", "DNS:node.test", -1, 30, NULL);
    rig->server = server_ctx(&rig->leaf, NULL, false, "a");
    *state = rig;
    return 0;
}

static int
teardown(void **state)
{
    struct rig *rig = *state;
    tls_ctx_free(rig->server);
    test_cert_free(&rig->ca);
    test_cert_free(&rig->leaf);
    test_cert_free(&rig->expired);
    test_cert_free(&rig->self);
    test_cert_free(&rig->self_ip);
    test_cert_free(&rig->client);
    rmdir(rig->dir);
    loop_free(rig->loop);
    free(rig);
    return 0;
}

static void
pair_open(struct rig *rig)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    rig->s = (struct driver){.take_max = SIZE_MAX};
    rig->c = (struct driver){.take_max = SIZE_MAX};
    rig->s.conn = conn_accept(rig->loop, fds[0], NULL, NULL, &driver_ops, &rig->s);
    rig->c.conn = conn_accept(rig->loop, fds[1], NULL, NULL, &driver_ops, &rig->c);
}

static void
pair_close(struct rig *rig)
{
    conn_retire(rig->s.conn);
    conn_retire(rig->c.conn);
    driver_release(&rig->s);
    driver_release(&rig->c);
    loop_run_once(rig->loop, 0);
}

static void
start_tls(struct driver *d, struct tls_ctx *ctx, const char *name)
{
    d->in_call = true;
    assert_int_equal(conn_start_tls(d->conn, ctx, name, CONN_TLS_NO_INPUT), ERR_OK);
    d->in_call = false;
}

static void
handshake(struct rig *rig, struct tls_ctx *server, struct tls_ctx *client, const char *name)
{
    pair_open(rig);
    start_tls(&rig->s, server, "");
    start_tls(&rig->c, client, name);
    WAIT_FOR(rig->loop, rig->c.n_tls == 1 && rig->s.n_tls == 1);
}

static const struct tls_client_config opportunistic = {.level = TLS_OPPORTUNISTIC, .legacy = true};

static void
bytes_go_both_ways_and_facts_are_known(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    handshake(rig, rig->server, client, "mx.test");
    assert_int_equal(rig->c.failure, TLS_FAIL_NONE);
    assert_int_equal(rig->s.failure, TLS_FAIL_NONE);
    const struct tls_facts *facts = conn_tls_facts(rig->c.conn);
    char pin[TLS_PIN_TEXT_BYTES];
    assert_string_equal(facts->version, "TLSv1.3");
    assert_string_equal(facts->cert_pin, tls_pin_format(&rig->leaf.pin, pin));
    assert_string_equal(facts->spki_pin, tls_pin_format(&rig->leaf.spki, pin));
    assert_true(facts->bits >= 128);
    assert_false(facts->verified);
    assert_false(facts->resumed);
    assert_string_equal(facts->verify_text, "not checked");
    assert_string_equal(conn_tls_facts(rig->s.conn)->cert_pin, "");
    assert_true(conn_tls_facts(rig->s.conn)->server);
    conn_write(rig->c.conn, SPAN("EHLO x\r\n"));
    WAIT_FOR(rig->loop, rig->s.got.n == 8);
    assert_string_equal(rig->s.got.p, "EHLO x\r\n");
    conn_write(rig->s.conn, SPAN("250 ok\r\n"));
    WAIT_FOR(rig->loop, rig->c.got.n == 8);
    assert_int_equal(conn_bytes_in(rig->c.conn), 8);
    assert_int_equal(conn_bytes_out(rig->c.conn), 8);
    pair_close(rig);
    tls_ctx_free(client);
}

/* The server's half of STARTTLS as a session driver does it. */
static void
starttls_server(struct driver *d)
{
    struct rig *rig = d->extra;
    if (d->got.n < 10)
        return;
    conn_write(d->conn, SPAN("220 go\r\n"));
    d->on_data = NULL;
    d->text[0] = '\0';
    if (conn_start_tls(d->conn, rig->server, "", CONN_TLS_NO_INPUT) != ERR_OK)
        strcpy(d->text, "injected");
}

static void
starttls_client(struct driver *d)
{
    struct rig *rig = d->extra;
    assert_string_equal(d->got.p, "220 go\r\n");
    strbuf_reset(&d->got);
    d->on_data = NULL;
    struct tls_ctx *client = client_ctx(&opportunistic);
    assert_int_equal(conn_start_tls(d->conn, client, "mx.test", CONN_TLS_NO_INPUT), ERR_OK);
    tls_ctx_free(client); /* the connection keeps it */
    (void)rig;
}

static void
starttls_switches_both_ends_after_the_answer(void **state)
{
    struct rig *rig = *state;
    pair_open(rig);
    rig->s.extra = rig->c.extra = rig;
    rig->s.on_data = starttls_server;
    rig->c.on_data = starttls_client;
    conn_write(rig->c.conn, SPAN("STARTTLS\r\n"));
    WAIT_FOR(rig->loop, rig->c.n_tls == 1 && rig->s.n_tls == 1);
    assert_int_equal(rig->c.failure, TLS_FAIL_NONE);
    conn_write(rig->c.conn, SPAN("inside"));
    WAIT_FOR(rig->loop, rig->s.got.n == 16);
    assert_int_equal(rig->c.got.n, 0);
    pair_close(rig);
}

static void
plain_bytes_behind_starttls_are_detected(void **state)
{
    struct rig *rig = *state;
    pair_open(rig);
    rig->s.extra = rig;
    rig->s.on_data = starttls_server;
    rig->s.take_max = 10; /* takes its line, leaves the rest */
    conn_write(rig->c.conn, SPAN("STARTTLS\r\nRSET\r\n"));
    WAIT_FOR(rig->loop, rig->s.got.n == 10);
    assert_string_equal(rig->s.text, "injected");
    assert_null(conn_tls_facts(rig->s.conn));
    assert_true(span_eq(conn_input(rig->s.conn), SPAN("RSET\r\n")));
    conn_write(rig->s.conn, SPAN("501 5.5.4 no\r\n")); /* it is still a plain connection */
    WAIT_FOR(rig->loop, rig->c.got.n == 22);
    loop_run_once(rig->loop, 0);
    assert_int_equal(rig->s.n_tls, 0);
    pair_close(rig);
}

static void
bytes_before_the_handshake_can_be_fed_to_it(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    pair_open(rig);
    rig->s.take_max = 7;
    conn_write(rig->c.conn, SPAN("PROXY\r\n"));
    start_tls(&rig->c, client, "mx.test");
    WAIT_FOR(rig->loop, rig->s.got.n == 7 && conn_input(rig->s.conn).n > 100);
    rig->s.take_max = SIZE_MAX;
    assert_int_equal(conn_start_tls(rig->s.conn, rig->server, "", CONN_TLS_FEED_INPUT), ERR_OK);
    WAIT_FOR(rig->loop, rig->c.n_tls == 1 && rig->s.n_tls == 1);
    assert_int_equal(rig->s.failure, TLS_FAIL_NONE);
    pair_close(rig);
    tls_ctx_free(client);
}

static void
much_goes_through_under_back_pressure(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    size_t total = 3 * 1024 * 1024 + 5;
    char *bytes = xmalloc(total);
    pattern_fill(bytes, 0, total);
    handshake(rig, rig->server, client, "mx.test");
    rig->s.take_max = 50000; /* leaves something each time */
    for (size_t at = 0; at < total; at += 700001) {
        size_t n = total - at < 700001 ? total - at : 700001;
        conn_write(rig->c.conn, span_of(bytes + at, n));
    }
    assert_true(conn_out_pending(rig->c.conn) > 0);
    int rounds = 0;
    while (rig->s.got.n < total) {
        assert_true(++rounds < 5000);
        loop_run_once(rig->loop, 1);
        /* What it left is taken from outside of its callbacks. */
        struct span in = span_first(conn_input(rig->s.conn), 20000);
        strbuf_add_span(&rig->s.got, in);
        conn_consume(rig->s.conn, in.n);
    }
    assert_int_equal(rig->s.got.n, total);
    assert_true(pattern_holds(strbuf_span(&rig->s.got)));
    WAIT_FOR(rig->loop, rig->c.n_drained == 1);
    free(bytes);
    pair_close(rig);
    tls_ctx_free(client);
}

static void
bytes_written_during_the_handshake_wait_for_it(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    pair_open(rig);
    start_tls(&rig->s, rig->server, "");
    start_tls(&rig->c, client, "mx.test");
    conn_write(rig->c.conn, SPAN("secret"));
    assert_int_equal(conn_out_pending(rig->c.conn), 6);
    WAIT_FOR(rig->loop, rig->s.got.n == 6);
    assert_string_equal(rig->s.got.p, "secret");
    WAIT_FOR(rig->loop, rig->c.n_drained == 1);
    assert_int_equal(rig->s.n_data, 1);
    pair_close(rig);
    tls_ctx_free(client);
}

static void
pause_now(struct driver *d)
{
    conn_pause(d->conn);
}

static void
a_pause_holds_data_and_end_back(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    pair_open(rig);
    rig->s.on_event = pause_now; /* in on_tls */
    start_tls(&rig->s, rig->server, "");
    start_tls(&rig->c, client, "mx.test");
    conn_write(rig->c.conn, SPAN("QUIT\r\n"));
    WAIT_FOR(rig->loop, rig->s.n_tls == 1 && rig->c.n_tls == 1);
    conn_shutdown(rig->c.conn, true); /* close_notify and FIN */
    for (int i = 0; i < 5; i++)
        loop_run_once(rig->loop, 0);
    assert_int_equal(rig->s.n_data + rig->s.n_closed, 0);
    rig->s.on_event = NULL;
    conn_resume(rig->s.conn);
    WAIT_FOR(rig->loop, rig->s.n_closed == 1);
    assert_string_equal(rig->s.got.p, "QUIT\r\n");
    assert_int_equal(rig->s.end_kind, CONN_END_EOF);
    conn_retire(rig->s.conn);
    WAIT_FOR(rig->loop, conn_n_lingering(rig->loop) == 0);
    driver_release(&rig->s);
    driver_release(&rig->c);
    tls_ctx_free(client);
}

static void
an_end_with_close_notify_differs_from_a_cut(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    handshake(rig, rig->server, client, "mx.test");
    conn_write(rig->c.conn, SPAN("last"));
    conn_shutdown(rig->c.conn, false);
    WAIT_FOR(rig->loop, rig->s.n_closed == 1);
    assert_int_equal(rig->s.end_kind, CONN_END_EOF);
    assert_string_equal(rig->s.got.p, "last");
    conn_retire(rig->s.conn);
    driver_release(&rig->s);

    handshake(rig, rig->server, client, "mx.test");
    conn_write(rig->s.conn, SPAN("x"));
    WAIT_FOR(rig->loop, rig->c.got.n == 1); /* nothing is left unread that would make it a reset */
    conn_retire(rig->c.conn);               /* closes without a word */
    WAIT_FOR(rig->loop, rig->s.n_closed == 1);
    assert_int_equal(rig->s.end_kind, CONN_END_TRUNCATED);
    conn_write(rig->s.conn, SPAN("dropped"));
    conn_shutdown(rig->s.conn, true);
    driver_release(&rig->s);
    driver_release(&rig->c);
    tls_ctx_free(client);
}

static void
after_close_notify_the_way_back_still_works(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    handshake(rig, rig->server, client, "mx.test");
    conn_write(rig->s.conn, SPAN("from server"));
    conn_shutdown(rig->s.conn, true); /* its words, close_notify, FIN */
    WAIT_FOR(rig->loop, rig->c.n_closed == 1);
    assert_int_equal(rig->c.end_kind, CONN_END_EOF);
    conn_write(rig->c.conn, SPAN("thank you"));
    assert_int_equal(conn_out_pending(rig->c.conn), 0);
    assert_int_equal(conn_n_lingering(rig->loop), 1);
    conn_shutdown(rig->c.conn, true);
    WAIT_FOR(rig->loop, conn_n_lingering(rig->loop) == 0);
    driver_release(&rig->s);
    driver_release(&rig->c);
    tls_ctx_free(client);
}

static void
a_broken_record_ends_the_connection(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    handshake(rig, rig->server, client, "mx.test");
    loop_run_once(rig->loop, 0);
    static const char record[] = "\x17\x03\x03\x00\x20"
                                 "abcdefghijklmnopqrstuvwxyz012345";
    assert_int_equal(write(conn_fd(rig->c.conn), record, sizeof(record) - 1), sizeof(record) - 1);
    WAIT_FOR(rig->loop, rig->s.n_closed == 1);
    assert_int_equal(rig->s.end_kind, CONN_END_TLS);
    assert_true(strlen(rig->s.text) > 0);
    WAIT_FOR(rig->loop, rig->c.n_closed == 1); /* it got the alert */
    assert_int_equal(rig->c.end_kind, CONN_END_TLS);
    pair_close(rig);
    tls_ctx_free(client);
}

static void
a_handshake_with_garbage_fails_as_protocol(void **state)
{
    struct rig *rig = *state;
    int fd;
    driver_on_pair(&rig->s, rig->loop, &fd);
    start_tls(&rig->s, rig->server, "");
    fd_write(fd, "EHLO this is not TLS\r\n");
    WAIT_FOR(rig->loop, rig->s.n_tls == 1);
    assert_int_equal(rig->s.failure, TLS_FAIL_PROTOCOL);
    assert_true(strlen(rig->s.text) > 0);
    assert_int_equal(rig->s.n_data + rig->s.n_closed, 0);
    conn_write(rig->s.conn, SPAN("dropped"));
    conn_shutdown(rig->s.conn, true);
    close(fd);
    WAIT_FOR(rig->loop, conn_n_lingering(rig->loop) == 0);
    driver_release(&rig->s);
}

static void
a_peer_that_closes_in_mid_handshake_is_told_by_on_tls(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    int fd;
    driver_on_pair(&rig->c, rig->loop, &fd);
    start_tls(&rig->c, client, "mx.test");
    loop_run_once(rig->loop, 0);
    close(fd);
    WAIT_FOR(rig->loop, rig->c.n_tls == 1);
    assert_int_equal(rig->c.failure, TLS_FAIL_CLOSED);
    assert_int_equal(rig->c.n_closed, 0);
    conn_retire(rig->c.conn);
    driver_release(&rig->c);
    tls_ctx_free(client);
}

static void
retire_now(struct driver *d)
{
    conn_retire(d->conn);
}

static void
a_driver_may_retire_in_on_tls_and_before_it(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    pair_open(rig);
    rig->s.on_event = retire_now;
    start_tls(&rig->s, rig->server, "");
    start_tls(&rig->c, client, "mx.test");
    conn_write(rig->c.conn, SPAN("more"));
    WAIT_FOR(rig->loop, rig->s.n_tls == 1);
    conn_retire(rig->c.conn);
    loop_run_once(rig->loop, 0);
    assert_int_equal(rig->s.n_data, 0);
    pair_open(rig);
    start_tls(&rig->s, rig->server, "");
    conn_retire(rig->s.conn); /* its first step has not been made */
    start_tls(&rig->c, client, "mx.test");
    loop_run_once(rig->loop, 0);
    conn_retire(rig->c.conn);
    loop_run_once(rig->loop, 0);
    assert_int_equal(rig->s.n_tls, 0);
    tls_ctx_free(client);
}

/* ---- policies ---- */

static void
policies_accept_and_refuse(void **state)
{
    struct rig *rig = *state;
    struct tls_pin other = {TLS_PIN_CERT, {1, 2, 3}};
    struct tls_pin mixed[2] = {other, rig->self.spki};
    const struct {
        const char *what;
        const struct test_cert *shown;
        struct tls_client_config config;
        const char *name;
        enum tls_failure failure;
        const char *text; /* part of it */
    } cases[] = {
        {"verify with CA",
         &rig->leaf,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file},
         "mx.test",
         TLS_FAIL_NONE,
         "ok"},
        {"verify, any case",
         &rig->leaf,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file},
         "MX.test",
         TLS_FAIL_NONE,
         "ok"},
        {"verify by wildcard",
         &rig->leaf,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file},
         "a.wild.test",
         TLS_FAIL_NONE,
         "ok"},
        {"wildcard is one label",
         &rig->leaf,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file},
         "a.b.wild.test",
         TLS_FAIL_VERIFY,
         "ostname mismatch"},
        {"wrong name",
         &rig->leaf,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file},
         "mx2.test",
         TLS_FAIL_VERIFY,
         "ostname mismatch"},
        {"no name",
         &rig->leaf,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file},
         "",
         TLS_FAIL_VERIFY,
         "no name"},
        {"expired",
         &rig->expired,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file},
         "mx.test",
         TLS_FAIL_VERIFY,
         "expired"},
        {"self-signed",
         &rig->self,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file},
         "mx.test",
         TLS_FAIL_VERIFY,
         "self-signed"},
        {"self-signed against the system's CAs",
         &rig->self,
         {.level = TLS_VERIFY},
         "mx.test",
         TLS_FAIL_VERIFY,
         "self-signed"},
        {"self-signed as its own CA",
         &rig->self,
         {.level = TLS_VERIFY, .ca_file = rig->self.cert_file},
         "mx.test",
         TLS_FAIL_NONE,
         "ok"},
        {"the leaf as trust anchor",
         &rig->leaf,
         {.level = TLS_VERIFY, .ca_file = rig->leaf.cert_file},
         "mx.test",
         TLS_FAIL_NONE,
         "ok"},
        {"by address",
         &rig->self_ip,
         {.level = TLS_VERIFY, .ca_file = rig->self_ip.cert_file},
         "192.0.2.7",
         TLS_FAIL_NONE,
         "ok"},
        {"by other address",
         &rig->self_ip,
         {.level = TLS_VERIFY, .ca_file = rig->self_ip.cert_file},
         "192.0.2.8",
         TLS_FAIL_VERIFY,
         "IP address mismatch"},
        {"pin of certificate",
         &rig->self,
         {.level = TLS_VERIFY, .pins = &rig->self.pin, .n_pins = 1},
         "other.test",
         TLS_FAIL_NONE,
         "pin matches"},
        {"pin of key among others",
         &rig->self,
         {.level = TLS_VERIFY, .pins = mixed, .n_pins = 2},
         "mx.test",
         TLS_FAIL_NONE,
         "pin matches"},
        {"pin of an expired one",
         &rig->expired,
         {.level = TLS_VERIFY, .pins = &rig->expired.pin, .n_pins = 1},
         "mx.test",
         TLS_FAIL_NONE,
         "pin matches"},
        {"pin mismatch",
         &rig->leaf,
         {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file, .pins = &other, .n_pins = 1},
         "mx.test",
         TLS_FAIL_VERIFY,
         "no pin"},
        {"pin mismatch under require",
         &rig->leaf,
         {.level = TLS_REQUIRE, .pins = &other, .n_pins = 1},
         "mx.test",
         TLS_FAIL_VERIFY,
         "no pin"},
        {"opportunistic takes anything",
         &rig->expired,
         {.level = TLS_OPPORTUNISTIC},
         "x.test",
         TLS_FAIL_NONE,
         "not checked"},
        {"require takes anything",
         &rig->self,
         {.level = TLS_REQUIRE},
         "",
         TLS_FAIL_NONE,
         "not checked"},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct tls_ctx *server = server_ctx(cases[i].shown, NULL, false, "a");
        struct tls_ctx *client = client_ctx(&cases[i].config);
        print_message("policy: %s\n", cases[i].what);
        pair_open(rig);
        start_tls(&rig->s, server, "");
        start_tls(&rig->c, client, cases[i].name);
        WAIT_FOR(rig->loop, rig->c.n_tls == 1);
        assert_int_equal(rig->c.failure, cases[i].failure);
        const struct tls_facts *facts = conn_tls_facts(rig->c.conn);
        if (cases[i].failure == TLS_FAIL_NONE) {
            assert_non_null(strstr(facts->verify_text, cases[i].text));
            assert_int_equal(facts->verified, strcmp(cases[i].text, "not checked") != 0);
        } else {
            assert_null(facts);
            assert_non_null(strstr(rig->c.text, cases[i].text));
            assert_int_equal(tls_ctx_n_sessions(client), 0);
        }
        pair_close(rig);
        tls_ctx_free(client);
        tls_ctx_free(server);
    }
}

static void
versions_below_the_minimum_are_refused(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *server = server_ctx(&rig->leaf, "1.3", false, "a");
    struct tls_ctx *client = client_ctx(&opportunistic);
    handshake(rig, server, client, "mx.test");
    assert_string_equal(conn_tls_facts(rig->s.conn)->version, "TLSv1.3");
    pair_close(rig);
    struct tls_client_config strict = {.level = TLS_REQUIRE, .min_version = "1.3"};
    struct tls_ctx *client13 = client_ctx(&strict);
    struct tls_ctx *old = server_ctx(&rig->leaf, "1.0", false, "a");
    SSL_CTX_set_max_proto_version(tls_ctx_openssl(old), TLS1_2_VERSION);
    handshake(rig, old, client13, "mx.test");
    assert_int_equal(rig->c.failure, TLS_FAIL_PROTOCOL);
    assert_int_equal(rig->s.failure, TLS_FAIL_PROTOCOL);
    pair_close(rig);
    /* TLS 1.0 is spoken where plain text is the alternative, and only there. */
    SSL_CTX_set_max_proto_version(tls_ctx_openssl(old), TLS1_VERSION);
    handshake(rig, old, client, "mx.test");
    assert_int_equal(rig->c.failure, TLS_FAIL_NONE);
    assert_string_equal(conn_tls_facts(rig->c.conn)->version, "TLSv1");
    pair_close(rig);
    struct tls_client_config require = {.level = TLS_REQUIRE};
    struct tls_ctx *modern = client_ctx(&require);
    handshake(rig, old, modern, "mx.test");
    assert_int_equal(rig->c.failure, TLS_FAIL_PROTOCOL);
    pair_close(rig);
    tls_ctx_free(server);
    tls_ctx_free(old);
    tls_ctx_free(client);
    tls_ctx_free(client13);
    tls_ctx_free(modern);
}

static void
a_client_certificate_is_shown_by_its_pin(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *server = server_ctx(&rig->leaf, NULL, true, "a");
    struct tls_client_config config = {.level = TLS_REQUIRE,
                                       .certificate_file = rig->client.cert_file,
                                       .private_key_file = rig->client.key_file};
    struct tls_ctx *client = client_ctx(&config);
    char pin[TLS_PIN_TEXT_BYTES];
    for (int i = 0; i < 2; i++) { /* the second time resumed: still the same peer */
        handshake(rig, server, client, "mx.test");
        assert_int_equal(rig->s.failure, TLS_FAIL_NONE);
        const struct tls_facts *facts = conn_tls_facts(rig->s.conn);
        assert_string_equal(facts->cert_pin, tls_pin_format(&rig->client.pin, pin));
        assert_false(facts->verified);
        assert_int_equal(facts->resumed, i == 1);
        conn_write(rig->s.conn, SPAN("x")); /* lets the ticket arrive */
        WAIT_FOR(rig->loop, rig->c.got.n == 1);
        pair_close(rig);
    }
    struct tls_ctx *anonymous = client_ctx(&opportunistic);
    handshake(rig, server, anonymous, "mx.test");
    assert_int_equal(rig->s.failure, TLS_FAIL_NONE);
    assert_string_equal(conn_tls_facts(rig->s.conn)->cert_pin, "");
    pair_close(rig);
    tls_ctx_free(anonymous);
    tls_ctx_free(client);
    tls_ctx_free(server);
}

/* One connection that lives until its ticket has come; was it resumed? */
static bool
resumed(struct rig *rig, struct tls_ctx *server, struct tls_ctx *client, const char *name)
{
    handshake(rig, server, client, name);
    assert_int_equal(rig->c.failure, TLS_FAIL_NONE);
    bool is = conn_tls_facts(rig->c.conn)->resumed;
    conn_write(rig->s.conn, SPAN("x"));
    WAIT_FOR(rig->loop, rig->c.got.n == 1);
    pair_close(rig);
    return is;
}

static void
sessions_are_resumed_only_under_the_same_policy_and_name(void **state)
{
    struct rig *rig = *state;
    struct tls_client_config verify = {.level = TLS_VERIFY, .ca_file = rig->ca.cert_file};
    const int max_versions[] = {TLS1_3_VERSION, TLS1_2_VERSION};
    for (size_t i = 0; i < N_ELEMENTS(max_versions); i++) {
        struct tls_ctx *server = server_ctx(&rig->leaf, NULL, false, "a");
        SSL_CTX_set_max_proto_version(tls_ctx_openssl(server), max_versions[i]);
        struct tls_ctx *lax = client_ctx(&opportunistic), *strict = client_ctx(&verify);
        assert_false(resumed(rig, server, lax, "mx.test"));
        assert_true(resumed(rig, server, lax, "mx.test"));
        assert_false(resumed(rig, server, strict, "mx.test")); /* other policy */
        assert_true(resumed(rig, server, strict, "mx.test"));
        assert_false(resumed(rig, server, lax, "a.wild.test")); /* other name */
        assert_true(resumed(rig, server, lax, "mx.test"));
        struct tls_ctx *other = server_ctx(&rig->leaf, NULL, false, "b");
        SSL_CTX_set_max_proto_version(tls_ctx_openssl(other), max_versions[i]);
        assert_false(resumed(rig, other, lax, "mx.test")); /* another listener's ticket */
        struct tls_ctx *none = server_ctx(&rig->leaf, NULL, false, NULL);
        SSL_CTX_set_max_proto_version(tls_ctx_openssl(none), max_versions[i]);
        resumed(rig, none, lax, "wild.test");
        assert_false(resumed(rig, none, lax, "wild.test"));
        tls_ctx_free(other);
        tls_ctx_free(none);
        tls_ctx_free(lax);
        tls_ctx_free(strict);
        tls_ctx_free(server);
    }
}

static void
a_resumed_session_of_a_verified_peer_counts_as_verified(void **state)
{
    struct rig *rig = *state;
    struct tls_client_config pinned = {.level = TLS_VERIFY, .pins = &rig->leaf.pin, .n_pins = 1};
    struct tls_ctx *client = client_ctx(&pinned);
    assert_false(resumed(rig, rig->server, client, "mx.test"));
    handshake(rig, rig->server, client, "mx.test");
    const struct tls_facts *facts = conn_tls_facts(rig->c.conn);
    assert_true(facts->resumed);
    assert_true(facts->verified);
    assert_string_equal(facts->verify_text, "pin matches");
    pair_close(rig);
    tls_ctx_free(client);
}

static void
a_session_is_kept_for_a_time_only(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    assert_false(resumed(rig, rig->server, client, "mx.test"));
    clock_step(loop_clock(rig->loop), TLS_SESSION_LIFE_MS - 1);
    assert_true(resumed(rig, rig->server, client, "mx.test"));
    clock_step(loop_clock(rig->loop), TLS_SESSION_LIFE_MS);
    assert_false(resumed(rig, rig->server, client, "mx.test"));
    tls_ctx_free(client);
}

static void
kept_sessions_are_bounded(void **state)
{
    struct rig *rig = *state;
    struct tls_ctx *client = client_ctx(&opportunistic);
    char name[32];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "mx%d.test", i);
        resumed(rig, rig->server, client, name);
    }
    assert_in_range(tls_ctx_n_sessions(client), 30, 40);
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "mx%d.test", i);
        resumed(rig, rig->server, client, name);
    }
    assert_in_range(tls_ctx_n_sessions(client), 30, 40);
    tls_ctx_free(client);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_go_both_ways_and_facts_are_known),
        cmocka_unit_test(starttls_switches_both_ends_after_the_answer),
        cmocka_unit_test(plain_bytes_behind_starttls_are_detected),
        cmocka_unit_test(bytes_before_the_handshake_can_be_fed_to_it),
        cmocka_unit_test(much_goes_through_under_back_pressure),
        cmocka_unit_test(bytes_written_during_the_handshake_wait_for_it),
        cmocka_unit_test(a_pause_holds_data_and_end_back),
        cmocka_unit_test(an_end_with_close_notify_differs_from_a_cut),
        cmocka_unit_test(after_close_notify_the_way_back_still_works),
        cmocka_unit_test(a_broken_record_ends_the_connection),
        cmocka_unit_test(a_handshake_with_garbage_fails_as_protocol),
        cmocka_unit_test(a_peer_that_closes_in_mid_handshake_is_told_by_on_tls),
        cmocka_unit_test(a_driver_may_retire_in_on_tls_and_before_it),
        cmocka_unit_test(policies_accept_and_refuse),
        cmocka_unit_test(versions_below_the_minimum_are_refused),
        cmocka_unit_test(a_client_certificate_is_shown_by_its_pin),
        cmocka_unit_test(sessions_are_resumed_only_under_the_same_policy_and_name),
        cmocka_unit_test(a_resumed_session_of_a_verified_peer_counts_as_verified),
        cmocka_unit_test(a_session_is_kept_for_a_time_only),
        cmocka_unit_test(kept_sessions_are_bounded),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
