/* The driver over socket pairs with a stepped clock: sink, verdicts, limits, TLS, AUTH, stop. */
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

static void
on_rcpt(void *arg, struct accept_rcpt_request *req)
{
    struct world *w = arg;

    w->asked = req;
    if (!w->hold_verdict)
        accept_rcpt_accept(req, SPAN_NONE);
}

static void
on_rcpt_cancel(void *arg, struct accept_rcpt_request *req)
{
    struct world *w = arg;

    assert_ptr_equal(req, w->asked);
    w->asked = NULL;
    w->n_cancelled++;
}

static void
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

static void
on_taken(void *arg, struct accept_txn *t, const struct accept_rcpt *rcpt)
{
    (void)arg;
    assert_true(rcpt->address.n > 0);
    accept_answer(t, SPAN_NONE);
}

static bool
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

static void
on_end(void *arg, struct accept_txn *t)
{
    struct world *w = arg;

    w->n_ended++;
    assert_int_equal(t->body.size_bytes, w->body.n);
    if (!w->hold_end)
        accept_answer(t, SPAN("250 2.0.0 queued as test.1"));
}

static void
on_abort(void *arg, struct accept_txn *t)
{
    struct world *w = arg;

    assert_ptr_equal(t, w->txn);
    w->txn = NULL;
    w->n_aborted++;
}

static const struct accept_sink sink = {on_begin, on_taken, on_chunk, on_end, on_abort};

static void
on_config_done(void *arg, const struct config *config)
{
    struct world *w = arg;

    assert_non_null(config);
    w->n_configs_done++;
}

static void
write_file(const char *path, struct span text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text.p, text.n), text.n);
    close(fd);
}

static void
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

static void
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

static int
make_world(void **state)
{
    struct world *w = xcalloc(1, sizeof *w);

    w->loop = loop_new_stepped(1700000000000);
    w->log = log_new(NULL);
    log_set_level(w->log, getenv("TEST_LOG") ? LOG_DEBUG : LOG_ALERT);
    w->inbox = inbox_new(loop_base(w->loop));
    w->workers = workers_new(1, w->inbox, NULL, 0);
    workers_start(w->workers);
    strcpy(w->dir, "/tmp/relayd-session-XXXXXX");
    if (mkdtemp(w->dir) == NULL)
        return -1;
    make_certificate(w);
    make_config(w);
    *state = w;
    return 0;
}

/* Begin to work with the configuration as the test has changed it. */
static void
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

static int
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

static struct net_addr
address(const char *ip, uint16_t port)
{
    struct net_addr a = {.port = port};

    if (!ip_parse(span_str(ip), &a.ip))
        abort();
    return a;
}

static void
spin(struct world *w)
{
    for (int i = 0; i < 12; i++)
        loop_run_once(w->loop, 0);
}

/* Connect from `ip`, having said `early` before anything. Packets keep their borders, so that one
 * write of the server is one read here. */
static struct client
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

static struct client
stream_from(struct world *w, const char *ip)
{
    struct net_addr peer = address(ip, 4711), local = address("127.0.0.1", 2525);
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    session_open(w->accept, w->setup, 0, fds[1], &peer, &local);
    spin(w);
    return (struct client){fds[0]};
}

static void
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

static void
hear_nothing(struct client c)
{
    char byte;

    assert_int_equal(recv(c.fd, &byte, 1, MSG_PEEK), -1);
}

static void
hear_end(struct client c)
{
    char byte;

    assert_int_equal(recv(c.fd, &byte, 1, 0), 0);
    close(c.fd);
}

static struct client
greeted(struct world *w)
{
    struct client c = connect_from(w, "192.0.2.1", NULL);

    hear(c, "220 relay.test");
    say(w, c, "EHLO client.test\r\n");
    hear(c, "250-relay.test");
    return c;
}

static void
in_data(struct world *w, struct client c)
{
    say(w, c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\nDATA\r\n");
    hear(c, "250 2.1.0");
}

/* ---- tests ---- */

static void
test_a_pipelined_group_is_answered_by_one_write(void **state)
{
    struct world *w = *state;

    begin(w);
    struct client c = greeted(w);
    say(w, c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\nRCPT TO:<c@dst.test>\r\nDATA\r\n");
    assert_string_equal(hear(c, "250"), "250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n"
                                        "354 end with CR LF . CR LF\r\n");
    say(w, c, "Subject: x\r\n\r\n..hello\r\n.\r\nQUIT\r\n");
    assert_string_equal(hear(c, "250"),
                        "250 2.0.0 queued as test.1\r\n221 2.0.0 relay.test closing\r\n");
    hear_end(c);
    assert_string_equal(w->body.p, "Subject: x\r\n\r\n.hello\r\n");
    assert_string_equal(w->client.p, "192.0.2.1 ESMTP ");
    assert_int_equal(w->accept->stats.messages, 1);
    assert_int_equal(w->accept->stats.sessions, 0);
    assert_int_equal(w->accept->peers.n, 0);
}

static void
test_late_answers_come_in_order(void **state)
{
    struct world *w = *state;

    begin(w);
    struct client c = greeted(w);
    w->hold_begin = w->hold_verdict = w->hold_end = true;
    say(w, c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\nDATA\r\n");
    hear_nothing(c);
    accept_answer(w->txn, SPAN_NONE);
    hear_nothing(c); /* never inside the answer */
    spin(w);
    hear(c, "250 2.1.0");
    accept_rcpt_accept(w->asked, SPAN_NONE);
    spin(w);
    assert_string_equal(hear(c, "250"), "250 2.1.5 ok\r\n354 end with CR LF . CR LF\r\n");
    say(w, c, "x\r\n.\r\n");
    hear_nothing(c);
    accept_answer(w->txn, SPAN("250 2.0.0 queued as late.1"));
    spin(w);
    hear(c, "250 2.0.0 queued as late.1");
    close(c.fd);
    spin(w);
    assert_int_equal(w->n_aborted, 0);
}

static void
test_a_refused_begin_opens_nothing(void **state)
{
    struct world *w = *state;

    begin(w);
    struct client c = greeted(w);
    w->hold_begin = true;
    say(w, c, "MAIL FROM:<a@src.test>\r\n");
    accept_answer(w->txn, SPAN("452 4.3.1 no room"));
    spin(w);
    hear(c, "452 4.3.1 no room");
    close(c.fd);
    spin(w);
    assert_int_equal(w->n_aborted, 0);
    assert_int_equal(w->accept->stats.sessions, 0);
}

static void
test_a_client_that_goes_aborts_what_is_open(void **state)
{
    struct world *w = *state;

    begin(w);
    struct client c = greeted(w);
    in_data(w, c);
    say(w, c, "half a mess");
    close(c.fd);
    spin(w);
    assert_int_equal(w->n_aborted, 1);

    c = greeted(w);
    w->hold_verdict = true;
    say(w, c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\n");
    hear(c, "250 2.1.0");
    close(c.fd); /* in order: the answer might still be heard */
    spin(w);
    assert_int_equal(w->n_cancelled, 0);
    accept_rcpt_accept(w->asked, SPAN_NONE);
    spin(w);
    assert_int_equal(w->n_aborted, 2);
    assert_int_equal(w->accept->stats.sessions, 0);
}

static void
test_dropping_a_session_cancels_what_it_asked(void **state)
{
    struct world *w = *state;

    begin(w);
    w->hold_verdict = true;
    struct client c = greeted(w);
    say(w, c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\n");
    w->hold_end = true;
    accept_free(w->accept);
    w->accept = NULL;
    assert_int_equal(w->n_cancelled, 1);
    assert_int_equal(w->n_aborted, 1);
    assert_int_equal(w->n_configs_done, 1);
    close(c.fd);
}

static void
test_a_message_handed_over_is_only_detached(void **state)
{
    struct world *w = *state;

    begin(w);
    w->hold_end = true;
    struct client c = greeted(w);
    in_data(w, c);
    say(w, c, "x\r\n.\r\n");
    assert_int_equal(w->n_ended, 1);
    accept_free(w->accept);
    w->accept = NULL;
    assert_int_equal(w->n_aborted, 1);
    close(c.fd);
}

static void
test_who_closes_his_half_still_hears_the_reply(void **state)
{
    struct world *w = *state;

    begin(w);
    w->hold_end = true;
    struct client c = greeted(w);
    in_data(w, c);
    assert_int_equal(send(c.fd, "x\r\n.\r\n", 6, 0), 6);
    shutdown(c.fd, SHUT_WR);
    spin(w);
    accept_answer(w->txn, SPAN("250 2.0.0 queued as test.9"));
    spin(w);
    hear(c, "250 2.0.0 queued as test.9");
    hear_end(c);
    assert_int_equal(w->n_aborted, 0);
}

static void
test_a_slow_sink_stops_the_client(void **state)
{
    struct world *w = *state;
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    size_t sent = 0;

    begin(w);
    struct client c = stream_from(w, "192.0.2.1");
    say(w, c, "EHLO x\r\n");
    say(w, c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\nDATA\r\n");
    strbuf_add_str(&text, "Subject: big\r\n\r\n");
    while (text.n < 4 << 20)
        strbuf_add_str(&text, "a line of a big message, again and again and again\r\n");
    strbuf_add_str(&text, ".\r\n");
    w->hold_chunk = true;
    for (int round = 0; round < 20; round++) { /* until nothing more goes in */
        ssize_t n = send(c.fd, text.p + sent, text.n - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        spin(w);
    }
    assert_true(sent < text.n);
    assert_true(w->body.n <= CONN_INPUT_MAX);
    clock_step(loop_clock(w->loop), 10 * MINUTE); /* our slowness is not the client's */
    spin(w);
    w->hold_chunk = false;
    accept_resume(w->txn);
    while (sent < text.n) {
        ssize_t n = send(c.fd, text.p + sent, text.n - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        spin(w);
    }
    spin(w);
    assert_int_equal(w->n_ended, 1);
    assert_int_equal(w->body.n, text.n - 3);
    assert_memory_equal(w->body.p, text.p, w->body.n);
    close(c.fd);
    spin(w);
}

static void
test_a_sink_that_refuses_in_the_middle_is_heard_at_the_end(void **state)
{
    struct world *w = *state;

    begin(w);
    struct client c = greeted(w);
    in_data(w, c);
    w->refuse_chunk = "452 4.3.1 disk full";
    say(w, c, "Subject: x\r\n");
    hear_nothing(c);
    say(w, c, "more\r\n.\r\n");
    hear(c, "452 4.3.1 disk full");
    assert_int_equal(w->n_aborted, 0);
    assert_int_equal(w->n_ended, 0);
    w->refuse_chunk = NULL;
    in_data(w, c);
    say(w, c, "y\r\n.\r\n");
    hear(c, "250 2.0.0");
    close(c.fd);
    spin(w);
}

static void
test_idle_clients_are_told_and_closed(void **state)
{
    struct world *w = *state;

    begin(w);
    struct client c = greeted(w);
    clock_step(loop_clock(w->loop), 5 * MINUTE - 1);
    hear_nothing(c);
    clock_step(loop_clock(w->loop), 1);
    spin(w);
    hear(c, "421 4.4.2");
    hear_end(c);
}

static void
test_an_early_talker_is_closed(void **state)
{
    struct world *w = *state;

    begin(w);
    struct client c = connect_from(w, "192.0.2.1", "EHLO x\r\n");
    hear(c, "554 5.5.0");
    hear_end(c);
}

static void
test_strangers_are_refused(void **state)
{
    struct world *w = *state;

    begin(w);
    struct client c = connect_from(w, "203.0.113.1", NULL);
    hear(c, "220");
    say(w, c, "EHLO x\r\n");
    hear(c, "250");
    say(w, c, "MAIL FROM:<a@src.test>\r\nRCPT TO:<b@dst.test>\r\n");
    assert_non_null(strstr(hear(c, "250 2.1.0"), "554 5.7.1"));
    assert_int_equal(w->n_begun, 0);
    assert_int_equal(w->accept->stats.relay_denied, 1);
    assert_int_equal(w->accept->stats.rcpts_refused, 1);
    close(c.fd);
    spin(w);
}

static void
test_sessions_of_one_client_are_limited(void **state)
{
    struct world *w = *state;

    w->config.limits.sessions_per_client = 2;
    begin(w);
    struct client a = greeted(w), b = greeted(w);
    struct client c = connect_from(w, "192.0.2.1", NULL);
    hear(c, "421 4.3.2");
    hear_end(c);
    struct client d = connect_from(w, "192.0.2.2", NULL);
    hear(d, "220");
    close(a.fd);
    spin(w);
    a = greeted(w);
    close(a.fd);
    close(b.fd);
    close(d.fd);
    spin(w);
    assert_int_equal(w->accept->peers.n, 0);
}

static void
test_under_stress_idle_time_is_short(void **state)
{
    struct world *w = *state;
    struct client c[8];

    w->config.limits.sessions = 10;
    begin(w);
    for (int i = 0; i < 8; i++)
        c[i] = greeted(w);
    assert_true(w->accept->stressed);
    clock_step(loop_clock(w->loop), 10 * SECOND);
    spin(w);
    for (int i = 0; i < 8; i++) {
        hear(c[i], "421 4.4.2");
        hear_end(c[i]);
    }
    assert_false(w->accept->stressed);
    assert_int_equal(w->accept->stats.sessions, 0);
}

static void
test_a_proxy_tells_who_the_client_is(void **state)
{
    struct world *w = *state;

    w->listener.proxies = &w->proxy;
    w->listener.n_proxies = 1;
    begin(w);
    struct client c = connect_from(w, "192.0.2.1", NULL); /* trusted, but no proxy */
    hear_end(c);

    c = connect_from(w, "198.51.100.7", NULL);
    hear_nothing(c);
    say(w, c, "PROXY TCP4 192.0.2.9 127.0.0.1 999 25\r\n");
    hear(c, "220");
    say(w, c, "EHLO x\r\n");
    hear(c, "250");
    in_data(w, c);
    assert_string_equal(w->client.p, "192.0.2.9 ESMTP ");
    close(c.fd);
    spin(w);

    c = connect_from(w, "198.51.100.7", "PROXY TCP4 192.0.2.9 127.0.0.1 999 25\r\nEHLO x\r\n");
    hear(c, "554 5.5.0");
    hear_end(c);

    c = connect_from(w, "198.51.100.7", "EHLO x\r\n");
    hear_end(c);

    c = connect_from(w, "198.51.100.7", NULL);
    clock_step(loop_clock(w->loop), SESSION_PROXY_MS);
    spin(w);
    hear_end(c);
    assert_int_equal(w->accept->stats.sessions, 0);
}

static void
count_drained(void *arg)
{
    struct world *w = arg;

    w->n_drained++;
}

static void
test_a_stop_lets_messages_finish(void **state)
{
    struct world *w = *state;

    begin(w);
    w->hold_end = true;
    struct client idle = greeted(w), busy = greeted(w);
    in_data(w, busy);
    accept_drain(w->accept, count_drained, w);
    spin(w);
    hear(idle, "421 4.3.2");
    hear_end(idle);
    assert_int_equal(w->n_drained, 0);
    say(w, busy, "x\r\n.\r\n");
    accept_answer(w->txn, SPAN("250 2.0.0 queued as test.1"));
    spin(w);
    assert_non_null(strstr(hear(busy, "250 2.0.0 queued"), "421 4.3.2"));
    hear_end(busy);
    assert_int_equal(w->n_drained, 1);
}

static void
test_a_reload_leaves_sessions_their_configuration(void **state)
{
    static struct config next; /* in use until the world ends */
    struct world *w = *state;
    struct accept_setup *setup;
    char before[NET_ADDR_TEXT_BYTES], after[NET_ADDR_TEXT_BYTES];

    begin(w);
    next = w->config;
    next.limits.recipients_per_message = 7;
    struct client old = greeted(w);
    assert_true(accept_listener_text(w->accept, 0, before));
    assert_int_equal(accept_setup_new(&next, &setup, NULL), ERR_OK);
    assert_int_equal(accept_use(w->accept, setup, NULL), ERR_OK);
    assert_true(accept_listener_text(w->accept, 0, after));
    assert_string_equal(before, after); /* the socket stayed */
    w->setup = setup;
    struct client fresh = connect_from(w, "192.0.2.1", NULL);
    hear(fresh, "220");
    say(w, fresh, "EHLO x\r\n");
    assert_non_null(strstr(hear(fresh, "250"), "RCPTMAX=7"));
    say(w, old, "EHLO x\r\n");
    assert_non_null(strstr(hear(old, "250"), "RCPTMAX=100"));
    assert_int_equal(w->n_configs_done, 0);
    close(old.fd);
    spin(w);
    assert_int_equal(w->n_configs_done, 1);
    close(fresh.fd);
    spin(w);
}

static void
test_a_reload_that_cannot_bind_changes_nothing(void **state)
{
    struct world *w = *state;
    struct config next;
    struct config_listener listeners[2];
    struct accept_setup *setup;
    struct err err;

    begin(w);
    next = w->config;
    listeners[0] = listeners[1] = w->listener;
    listeners[0].port = 0;
    if (!ip_parse(SPAN("203.0.113.250"), &listeners[1].ip)) /* not ours */
        abort();
    next.listeners = listeners;
    next.n_listeners = 2;
    assert_int_equal(accept_setup_new(&next, &setup, NULL), ERR_OK);
    assert_int_equal(accept_use(w->accept, setup, &err), ERR_INVAL);
    accept_setup_free(setup);
    assert_int_equal(w->accept->n_listeners, 1);
    struct client c = greeted(w);
    close(c.fd);
    spin(w);
}

static void
test_an_idle_session_is_small(void **state)
{
    enum { N = 200 };
    struct world *w = *state;
    static struct client c[N];

    w->config.limits.sessions = 1000;
    w->config.limits.sessions_per_client = 1000;
    begin(w);
    for (int i = 0; i < 10; i++)
        c[i] = greeted(w);
    size_t before = mallinfo2().uordblks;
    for (int i = 10; i < N; i++)
        c[i] = greeted(w);
    size_t each = (mallinfo2().uordblks - before) / (N - 10);
    print_message("an idle session takes %zu octets, its connection among them\n", each);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(each <= 3072);
#endif
    for (int i = 0; i < N; i++)
        close(c[i].fd);
    spin(w);
    spin(w);
}

static void
test_a_client_that_reads_nothing_is_dropped(void **state)
{
    struct world *w = *state;
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    int small = 4096;

    begin(w);
    struct client c = stream_from(w, "192.0.2.1");
    setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    for (int i = 0; i < 400000; i++)
        strbuf_add_str(&text, "HELP\r\n");
    size_t sent = 0;
    for (int i = 0; i < 200 && sent < text.n; i++) {
        ssize_t n = send(c.fd, text.p + sent, text.n - sent, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        spin(w);
    }
    assert_true(sent < text.n); /* we stopped reading, too */
    assert_int_equal(w->accept->stats.sessions, 1);
    clock_step(loop_clock(w->loop), 5 * MINUTE);
    spin(w);
    assert_int_equal(w->accept->stats.sessions, 0);
    close(c.fd);
}

/* ---- TLS and AUTH: a client on the same loop ---- */

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

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_world, free_world)

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_pipelined_group_is_answered_by_one_write),
        TEST(test_late_answers_come_in_order),
        TEST(test_a_refused_begin_opens_nothing),
        TEST(test_a_client_that_goes_aborts_what_is_open),
        TEST(test_dropping_a_session_cancels_what_it_asked),
        TEST(test_a_message_handed_over_is_only_detached),
        TEST(test_who_closes_his_half_still_hears_the_reply),
        TEST(test_a_slow_sink_stops_the_client),
        TEST(test_a_sink_that_refuses_in_the_middle_is_heard_at_the_end),
        TEST(test_idle_clients_are_told_and_closed),
        TEST(test_an_early_talker_is_closed),
        TEST(test_strangers_are_refused),
        TEST(test_sessions_of_one_client_are_limited),
        TEST(test_under_stress_idle_time_is_short),
        TEST(test_a_proxy_tells_who_the_client_is),
        TEST(test_a_stop_lets_messages_finish),
        TEST(test_a_reload_leaves_sessions_their_configuration),
        TEST(test_a_reload_that_cannot_bind_changes_nothing),
        TEST(test_an_idle_session_is_small),
        TEST(test_a_client_that_reads_nothing_is_dropped),
        TEST(test_auth_inside_starttls_makes_a_stranger_trusted),
        TEST(test_five_failures_shut_an_address_out_for_ten_minutes),
        TEST(test_a_client_that_goes_while_his_password_is_checked),
        TEST(test_implicit_tls_greets_inside),
        TEST(test_a_changed_certificate_is_taken_and_a_bad_one_is_not),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
