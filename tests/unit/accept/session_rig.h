/*
 * session_rig - sessions over socket pairs with a stepped clock. The sink and the verdicts are the
 * test's own and can be slow; a client is one end of a socket pair.
 */
#pragma once

#include "policy/base/mem.h"
#include "policy/config.h"
#include "policy/users.h"
#include "relayd/accept/accept.h"
#include "relayd/accept/session.h"
#include "relayd/net/conn.h"
#include "relayd/net/tls.h"
#include "relayd/ops/log.h"
#include "relayd/work/inbox.h"
#include "relayd/work/workers.h"

#include <fcntl.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define RIG_UNUSED __attribute__((unused))

/* ---- the world: a loop, an accept, a sink that can be slow ---- */

struct world {
    struct loop *loop;
    struct log *log;
    struct inbox *inbox;
    struct workers *workers;
    struct accept *accept;
    struct accept_setup *setup;
    struct config config;
    struct config_listener listener;
    struct config_trust trusted[3];
    struct cidr cidr, proxy;
    char dir[64], certificate[96], key[96];
    struct strbuf users_text;

    struct accept_rcpt_request *asked; /* verdict held back */
    struct accept_txn *txn;            /* of the last begin */
    bool hold_verdict, hold_begin, hold_end, hold_chunk;
    const char *refuse_chunk;
    struct strbuf body, client;
    size_t n_begun, n_ended, n_aborted, n_cancelled, n_configs_done, n_drained;
};

RIG_UNUSED static void
on_rcpt(void *arg, struct accept_rcpt_request *req)
{
    struct world *w = arg;

    w->asked = req;
    if (!w->hold_verdict)
        accept_rcpt_accept(req, SPAN_NONE);
}

RIG_UNUSED static void
on_rcpt_cancel(void *arg, struct accept_rcpt_request *req)
{
    struct world *w = arg;

    assert_ptr_equal(req, w->asked);
    w->asked = NULL;
    w->n_cancelled++;
}

RIG_UNUSED static void
on_begin(void *arg, struct accept_txn *t)
{
    struct world *w = arg;
    char ip[IP_TEXT_MAX];

    w->txn = t;
    w->n_begun++;
    strbuf_reset(&w->body);
    strbuf_reset(&w->client);
    strbuf_printf(&w->client, "%s %.*s %.*s", ip_format(&t->mail->client->ip, ip),
                  SPAN_ARG(t->mail->client->protocol), SPAN_ARG(t->mail->client->user));
    if (!w->hold_begin)
        accept_answer(t, SPAN_NONE);
}

RIG_UNUSED static void
on_taken(void *arg, struct accept_txn *t, const struct accept_rcpt *rcpt)
{
    (void)arg;
    assert_true(rcpt->address.n > 0);
    accept_answer(t, SPAN_NONE);
}

RIG_UNUSED static bool
on_chunk(void *arg, struct accept_txn *t, struct span bytes)
{
    struct world *w = arg;

    strbuf_add_span(&w->body, bytes);
    if (w->refuse_chunk != NULL) {
        accept_refuse(t, span_str(w->refuse_chunk));
        w->txn = NULL;
        return true;
    }
    return !w->hold_chunk;
}

RIG_UNUSED static void
on_end(void *arg, struct accept_txn *t)
{
    struct world *w = arg;

    w->n_ended++;
    assert_int_equal(t->body.size_bytes, w->body.n);
    if (!w->hold_end)
        accept_answer(t, SPAN("250 2.0.0 queued as test.1"));
}

RIG_UNUSED static void
on_abort(void *arg, struct accept_txn *t)
{
    struct world *w = arg;

    assert_ptr_equal(t, w->txn);
    w->txn = NULL;
    w->n_aborted++;
}

static const struct accept_sink sink = {on_begin, on_taken, on_chunk, on_end, on_abort};

RIG_UNUSED static void
on_config_done(void *arg, const struct config *config)
{
    struct world *w = arg;

    assert_non_null(config);
    w->n_configs_done++;
}

RIG_UNUSED static void
write_file(const char *path, struct span text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text.p, text.n), text.n);
    close(fd);
}

RIG_UNUSED static void
make_certificate(struct world *w)
{
    struct strbuf cert = STRBUF_INIT, key = STRBUF_INIT;
    struct tls_pin pin;

    snprintf(w->certificate, sizeof w->certificate, "%s/cert.pem", w->dir);
    snprintf(w->key, sizeof w->key, "%s/key.pem", w->dir);
    assert_int_equal(tls_self_signed("relay.test", 30, &cert, &key, &pin, NULL), ERR_OK);
    write_file(w->certificate, strbuf_span(&cert));
    write_file(w->key, strbuf_span(&key));
    tls_wipe(&key);
    strbuf_release(&cert);
}

RIG_UNUSED static void
make_config(struct world *w)
{
    if (!ip_parse(SPAN("127.0.0.1"), &w->listener.ip) ||
        cidr_parse(SPAN("192.0.2.0/24"), &w->cidr, NULL) != ERR_OK ||
        cidr_parse(SPAN("198.51.100.7/32"), &w->proxy, NULL) != ERR_OK)
        abort();
    w->listener.text = "127.0.0.1:2525";
    w->trusted[0] =
        (struct config_trust){.kind = CONFIG_TRUST_CIDR, .cidrs = &w->cidr, .n_cidrs = 1};
    w->config = (struct config){.listeners = &w->listener,
                                .n_listeners = 1,
                                .trusted = w->trusted,
                                .n_trusted = 1,
                                .node = {"t", "relay.test", "", ""},
                                .limits = {.message_size_bytes = 8 << 20,
                                           .recipients_per_message = 100,
                                           .sessions = 100,
                                           .sessions_per_client = 50}};
    w->config.srs.domain = "";
    w->config.tls.certificate_file = w->certificate;
    w->config.tls.private_key.path = w->key;
    w->config.tls.min_version = CONFIG_TLS_1_2;
}

RIG_UNUSED static int
make_world(void **state)
{
    struct world *w = xcalloc(1, sizeof *w);

    w->loop = loop_new_stepped(1700000000000);
    w->log = log_new(NULL);
    log_set_level(w->log, getenv("TEST_LOG") ? LOG_DEBUG : LOG_ALERT);
    w->inbox = inbox_new(loop_base(w->loop));
    w->workers = workers_new(1, w->inbox, NULL, 0);
    assert_int_equal(workers_start(w->workers, NULL), ERR_OK);
    strcpy(w->dir, "/tmp/relayd-session-XXXXXX");
    if (mkdtemp(w->dir) == NULL)
        return -1;
    make_certificate(w);
    make_config(w);
    *state = w;
    return 0;
}

/* Begin to work with the configuration as the test has changed it. */
RIG_UNUSED static void
begin(struct world *w)
{
    struct accept_env env = {.loop = w->loop,
                             .log = w->log,
                             .workers = w->workers,
                             .rcpt_arg = w,
                             .rcpt = on_rcpt,
                             .rcpt_cancel = on_rcpt_cancel,
                             .sink_arg = w,
                             .sink = &sink,
                             .config_arg = w,
                             .config_done = on_config_done};
    struct err err = {.text = ""};

    w->accept = accept_new(&env);
    assert_int_equal(accept_bind(w->accept, &w->config, &err), ERR_OK);
    if (accept_setup_new(&w->config, &w->setup, &err) != ERR_OK)
        fail_msg("%s", err.text);
    assert_int_equal(accept_use(w->accept, w->setup, &err), ERR_OK);
}

RIG_UNUSED static int
free_world(void **state)
{
    struct world *w = *state;
    CLEANUP(freep) char *command = NULL;

    accept_free(w->accept);
    workers_stop(w->workers);
    inbox_run(w->inbox);
    workers_free(w->workers);
    loop_run_once(w->loop, 0);
    inbox_free(w->inbox);
    loop_free(w->loop);
    log_free(w->log);
    strbuf_release(&w->body);
    strbuf_release(&w->client);
    strbuf_release(&w->users_text);
    unlink(w->certificate);
    unlink(w->key);
    rmdir(w->dir);
    free(w);
    return 0;
}

/* ---- a client: the other end of a socket pair ---- */

struct client {
    int fd;
};

RIG_UNUSED static struct net_addr
address(const char *ip, uint16_t port)
{
    struct net_addr a = {.port = port};

    if (!ip_parse(span_str(ip), &a.ip))
        abort();
    return a;
}

RIG_UNUSED static void
spin(struct world *w)
{
    for (int i = 0; i < 12; i++)
        loop_run_once(w->loop, 0);
}

/* Connect from `ip`, having said `early` before anything. Packets keep their borders, so that one
 * write of the server is one read here. */
RIG_UNUSED static struct client
connect_from(struct world *w, const char *ip, const char *early)
{
    struct net_addr peer = address(ip, 4711), local = address("127.0.0.1", 2525);
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
    if (early != NULL)
        assert_int_equal(send(fds[0], early, strlen(early), 0), strlen(early));
    session_open(w->accept, w->setup, 0, fds[1], &peer, &local);
    spin(w);
    return (struct client){fds[0]};
}

RIG_UNUSED static struct client
stream_from(struct world *w, const char *ip)
{
    struct net_addr peer = address(ip, 4711), local = address("127.0.0.1", 2525);
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    session_open(w->accept, w->setup, 0, fds[1], &peer, &local);
    spin(w);
    return (struct client){fds[0]};
}

RIG_UNUSED static void
say(struct world *w, struct client c, const char *text)
{
    assert_int_equal(send(c.fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
    spin(w);
}

/* The next packet begins with `want`. Returns it. */
static const char *
hear(struct client c, const char *want)
{
    static char text[70000];
    ssize_t n = recv(c.fd, text, sizeof text - 1, 0);

    text[n < 0 ? 0 : n] = '\0';
    if (strncmp(text, want, strlen(want)) != 0)
        fail_msg("expected %s, got %zd: %s", want, n, text);
    return text;
}

RIG_UNUSED static void
hear_nothing(struct client c)
{
    char byte;

    assert_int_equal(recv(c.fd, &byte, 1, MSG_PEEK), -1);
}

RIG_UNUSED static void
hear_end(struct client c)
{
    char byte;

    assert_int_equal(recv(c.fd, &byte, 1, 0), 0);
    close(c.fd);
}

RIG_UNUSED static struct client
greeted(struct world *w)
{
    struct client c = connect_from(w, "192.0.2.1", NULL);

    hear(c, "220 relay.test");
    say(w, c, "EHLO client.test\r\n");
    hear(c, "250-relay.test");
    return c;
}

RIG_UNUSED static void
in_data(struct world *w, struct client c)
{
    say(w, c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\nDATA\r\n");
    hear(c, "250 2.1.0");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_world, free_world)

#define RUN_TESTS(tests)                                  \
    do {                                                  \
        if (argc > 1)                                     \
            cmocka_set_test_filter(argv[1]);              \
        return cmocka_run_group_tests(tests, NULL, NULL); \
    } while (0)
