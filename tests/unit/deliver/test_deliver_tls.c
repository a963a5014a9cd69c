/* The driver over loopback with real TLS: opportunistic fallback, verification, ladders, AUTH. */
#include "rig.h"

#include "policy/base/mem.h"

#include <sys/stat.h>

#define STARTTLS "250-mx\r\n250 STARTTLS\r\n"

/* A certificate for mx.test, its files, and contexts. */
struct pki {
    char dir[64], cert[96], key[96];
    struct tls_pin pin;
    struct tls_ctx *server;
};

static struct pki pki;

static void
file_write(const char *path, const struct strbuf *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text->p, 1, text->n, f), text->n);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(chmod(path, 0600), 0);
}

static int
pki_make(void **state)
{
    (void)state;
    CLEANUP(strbuf_release) struct strbuf cert = STRBUF_INIT;
    CLEANUP(strbuf_release) struct strbuf key = STRBUF_INIT;
    struct err err;
    strcpy(pki.dir, "/tmp/deliver-tls-XXXXXX");
    assert_non_null(mkdtemp(pki.dir));
    assert_int_equal(tls_self_signed("mx.test", 2, &cert, &key, &pki.pin, &err), ERR_OK);
    snprintf(pki.cert, sizeof(pki.cert), "%s/cert.pem", pki.dir);
    snprintf(pki.key, sizeof(pki.key), "%s/key.pem", pki.dir);
    file_write(pki.cert, &cert);
    file_write(pki.key, &key);
    struct tls_server_config config = {.certificate_file = pki.cert, .private_key_file = pki.key};
    assert_int_equal(tls_server_new(&config, &pki.server, &err), ERR_OK);
    return 0;
}

static int
pki_remove(void **state)
{
    (void)state;
    tls_ctx_free(pki.server);
    unlink(pki.cert);
    unlink(pki.key);
    rmdir(pki.dir);
    return 0;
}

static struct tls_ctx *
client(enum tls_level level, const struct tls_pin *pin, const char *ca_file)
{
    struct err err;
    struct tls_ctx *ctx;
    struct tls_client_config config = {.level = level,
                                       .legacy = level == TLS_OPPORTUNISTIC,
                                       .pins = pin,
                                       .n_pins = pin != NULL,
                                       .ca_file = ca_file};
    if (tls_client_new(&config, &ctx, &err) != ERR_OK)
        fail_msg("%s", err.text);
    return ctx;
}

static void
target_tls(struct rig *r, struct tls_ctx *ctx)
{
    r->target.tls = tls_ctx_level(ctx);
    r->target.tls_ctx = ctx;
}

static void
peer_starttls(struct rig *r, struct peer *p)
{
    peer_hear(r, p, "STARTTLS\r\n");
    peer_say(p, "220 go\r\n");
    assert_int_equal(conn_start_tls(p->conn, pki.server, "", CONN_TLS_NO_INPUT), ERR_OK);
}

static void
opportunistic_tls_is_used_and_remembered(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_OPPORTUNISTIC, NULL, NULL);
    target_tls(r, ctx);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, STARTTLS);
    peer_starttls(r, &p);
    peer_hear(r, &p, "EHLO relay.test\r\n");
    peer_say(&p, PIPELINING);
    peer_take(r, &p);
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DELIVERED);
    assert_string_equal(r->report_tls, "TLSv1.3 TLS_AES_256_GCM_SHA384");
    assert_false(r->report.peer.tls_verified);
    msec_t now = clock_now(loop_clock(r->loop));
    assert_true(tls_memory_was_there(r->env.tls_memory, SPAN("mx.test"), now));
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
failed_handshake_once_more_in_clear_and_remembered(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1), again = rig_message(1);
    struct peer p, clear, next;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_OPPORTUNISTIC, NULL, NULL);
    target_tls(r, ctx);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, STARTTLS);
    peer_hear(r, &p, "STARTTLS\r\n");
    peer_say(&p, "220 go\r\n");
    rig_settle(r);
    peer_say(&p, "this is no TLS record at all, not by far\r\n");
    peer_accept(r, s, &clear);
    peer_say(&clear, "220 mx\r\n");
    peer_hear(r, &clear, "EHLO relay.test\r\n");
    peer_say(&clear, "250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
    peer_take(r, &clear);
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DELIVERED);
    assert_string_equal(r->report_tls, "");
    msec_t now = clock_now(loop_clock(r->loop));
    assert_true(tls_memory_in_clear(r->env.tls_memory, SPAN("mx.test"), now));
    deliver_abort(r->conn);

    r->on_ready_txn = &again; /* another connection does not even ask */
    rig_start(r);
    peer_greet(r, s, &next, "250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n");
    peer_take(r, &next);
    rig_until(r, &r->n_done, 2);
    peer_free(&p);
    peer_free(&clear);
    peer_free(&next);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
handshake_that_hangs_meets_its_deadline(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p, clear;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_OPPORTUNISTIC, NULL, NULL);
    target_tls(r, ctx);
    rig_start(r);
    peer_greet(r, s, &p, STARTTLS);
    peer_hear(r, &p, "STARTTLS\r\n");
    peer_say(&p, "220 go\r\n");
    rig_step(r, 59 * SECOND);
    assert_false(p.closed);
    rig_step(r, SECOND);
    peer_greet(r, s, &clear, PIPELINING);
    rig_until(r, &r->n_ready, 1);
    peer_free(&p);
    peer_free(&clear);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
injected_reply_is_not_obeyed(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_REQUIRE, NULL, NULL);
    target_tls(r, ctx);
    rig_start(r);
    peer_greet(r, s, &p, STARTTLS);
    peer_hear(r, &p, "STARTTLS\r\n");
    peer_say(&p, "220 go\r\n250-mx\r\n250 AUTH PLAIN\r\n");
    rig_until(r, &r->n_failed, 1);
    assert_string_equal(r->failure.phase, "starttls");
    assert_int_equal(r->failure.kind, OUTCOME_DEFERRED);
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
unverified_certificate_is_never_answered_with_mail(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_VERIFY, NULL, NULL);
    target_tls(r, ctx);
    rig_start(r);
    peer_greet(r, s, &p, STARTTLS);
    peer_starttls(r, &p);
    rig_until(r, &r->n_failed, 1);
    assert_int_equal(r->failure.origin, ORIGIN_TLS);
    assert_int_equal(r->failure.kind, OUTCOME_DEFERRED);
    assert_true(r->failure.path);
    peer_hear_end(r, &p);
    assert_int_equal(p.in.n, 0); /* neither EHLO nor MAIL */
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
verified_by_ca_and_name(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_VERIFY, NULL, pki.cert);
    target_tls(r, ctx);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, STARTTLS);
    peer_starttls(r, &p);
    peer_hear(r, &p, "EHLO relay.test\r\n");
    peer_say(&p, PIPELINING);
    peer_take(r, &p);
    rig_until(r, &r->n_done, 1);
    assert_true(r->report.peer.tls_verified);
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
wrong_name_is_refused(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_VERIFY, NULL, pki.cert);
    target_tls(r, ctx);
    r->target.tls_name = "other.test";
    rig_start(r);
    peer_greet(r, s, &p, STARTTLS);
    peer_starttls(r, &p);
    rig_until(r, &r->n_failed, 1);
    assert_int_equal(r->failure.origin, ORIGIN_TLS);
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

/* 465 is dead, 587 (here: the second endpoint) speaks STARTTLS; AUTH comes only inside. */
static void
hop_ladder_with_pin_and_auth(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    rig_server(r, true);
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_VERIFY, &pki.pin, NULL);
    target_tls(r, ctx);
    r->endpoints[0].implicit_tls = true;
    r->target.hop = true;
    r->target.auth_username = "cn";
    r->target.auth_password = "secret";
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, "250-hop\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n");
    peer_starttls(r, &p);
    peer_hear(r, &p, "EHLO relay.test\r\n");
    peer_say(&p, "250-hop\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n");
    peer_hear(r, &p, "AUTH PLAIN AGNuAHNlY3JldA==\r\n");
    peer_say(&p, "235 2.7.0 ok\r\n");
    peer_take(r, &p);
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->report.peer.endpoint, 1);
    assert_true(r->report.peer.tls_verified);
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
implicit_tls_greets_inside(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_VERIFY, &pki.pin, NULL);
    target_tls(r, ctx);
    r->target.hop = true;
    r->endpoints[0].implicit_tls = true;
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_accept(r, s, &p);
    assert_int_equal(conn_start_tls(p.conn, pki.server, "", CONN_TLS_FEED_INPUT), ERR_OK);
    peer_say(&p, "220 hop\r\n");
    peer_hear(r, &p, "EHLO relay.test\r\n");
    peer_say(&p, PIPELINING);
    peer_take(r, &p);
    rig_until(r, &r->n_done, 1);
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
bad_password_is_tried_at_one_port_only(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *one = rig_server(r, false), *two = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_VERIFY, &pki.pin, NULL);
    target_tls(r, ctx);
    r->target.hop = true;
    r->target.auth_username = "cn";
    r->target.auth_password = "wrong";
    rig_start(r);
    peer_greet(r, one, &p, STARTTLS);
    peer_starttls(r, &p);
    peer_hear(r, &p, "EHLO relay.test\r\n");
    peer_say(&p, "250-hop\r\n250 AUTH PLAIN\r\n");
    peer_hear(r, &p, "AUTH PLAIN AGNuAHdyb25n\r\n");
    peer_say(&p, "535 5.7.8 no\r\n");
    rig_until(r, &r->n_failed, 1);
    assert_int_equal(r->failure.code, 535);
    assert_true(r->failure.path);
    assert_int_equal(accept4(two->fd, NULL, NULL, SOCK_NONBLOCK), -1);
    assert_int_equal(errno, EAGAIN);
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

static void
big_body_through_tls(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    struct tls_ctx *ctx = client(TLS_REQUIRE, NULL, NULL);
    size_t n = 3 << 20;
    CLEANUP(freep) char *body = xmalloc(n);
    memset(body, 'x', n);
    for (size_t i = 77; i < n; i += 78)
        memcpy(body + i - 1, "\r\n", 2);
    memcpy(body + n - 2, "\r\n", 2);
    target_tls(r, ctx);
    r->body = span_of(body, n);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, STARTTLS);
    peer_starttls(r, &p);
    peer_hear(r, &p, "EHLO relay.test\r\n");
    peer_say(&p, PIPELINING);
    peer_hear(r, &p, GROUP);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    size_t heads_n = sizeof("Subject: t\r\n\r\n") - 1;
    for (int quiet = 0; p.in.n < heads_n + n + 3; quiet++) {
        size_t before = p.in.n;
        loop_run_once(r->loop, 10);
        quiet = p.in.n > before ? 0 : quiet;
        assert_true(quiet < RIG_PATIENCE);
    }
    assert_memory_equal(p.in.p + heads_n, body, n);
    assert_string_equal(p.in.p + heads_n + n, ".\r\n");
    peer_say(&p, "250 ok\r\n");
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DELIVERED);
    peer_free(&p);
    rig_free(r);
    tls_ctx_free(ctx);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opportunistic_tls_is_used_and_remembered),
        cmocka_unit_test(failed_handshake_once_more_in_clear_and_remembered),
        cmocka_unit_test(handshake_that_hangs_meets_its_deadline),
        cmocka_unit_test(injected_reply_is_not_obeyed),
        cmocka_unit_test(unverified_certificate_is_never_answered_with_mail),
        cmocka_unit_test(verified_by_ca_and_name),
        cmocka_unit_test(wrong_name_is_refused),
        cmocka_unit_test(hop_ladder_with_pin_and_auth),
        cmocka_unit_test(implicit_tls_greets_inside),
        cmocka_unit_test(bad_password_is_tried_at_one_port_only),
        cmocka_unit_test(big_body_through_tls),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, pki_make, pki_remove);
}
