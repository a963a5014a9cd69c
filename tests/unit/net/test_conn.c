/* Connections in clear: what the driver is told, when, and what it costs the peer. */
#include "net_test.h"

#include <netinet/in.h>
#include <stdio.h>
#include <sys/ioctl.h>

#include "relayd/net/listener.h"
#include "relayd/net/loop_private.h"

static int
setup(void **state)
{
    *state = loop_new_stepped(0);
    return 0;
}

static int
teardown(void **state)
{
    struct loop *loop = *state;
    loop_free(loop);
    return 0;
}

/* Two rounds without waiting: whatever was going to happen now has happened. */
static void
settle(struct loop *loop)
{
    for (int i = 0; i < 4; i++)
        loop_run_once(loop, 0);
}

static bool
text_is(const struct strbuf *sb, const char *text)
{
    return span_eq(strbuf_span(sb), span_str(text));
}

static void
bytes_go_both_ways(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    struct strbuf seen = STRBUF_INIT;
    int fd;

    driver_on_pair(&d, loop, &fd);
    d.in_call = true;
    conn_write(d.conn, SPAN("220 hello\r\n"));
    assert_true(fd_read(fd, &seen)); /* written at once, not at the next tick */
    assert_true(text_is(&seen, "220 hello\r\n"));
    assert_int_equal(conn_out_pending(d.conn), 0);
    d.in_call = false;
    fd_write(fd, "EHLO x\r\n");
    WAIT_FOR(loop, d.n_data > 0);
    assert_true(text_is(&d.got, "EHLO x\r\n"));
    assert_int_equal(conn_bytes_in(d.conn), 8);
    assert_int_equal(conn_bytes_out(d.conn), 11);
    assert_int_equal(d.n_drained, 0);
    conn_retire(d.conn);
    close(fd);
    strbuf_release(&seen);
    driver_release(&d);
}

static void
bytes_not_consumed_are_shown_again_with_the_next(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    int fd;

    driver_on_pair(&d, loop, &fd);
    d.take_max = 0;
    fd_write(fd, "MAIL FR");
    WAIT_FOR(loop, d.n_data == 1);
    assert_true(span_eq(conn_input(d.conn), SPAN("MAIL FR")));
    settle(loop);
    assert_int_equal(d.n_data, 1); /* not called over old bytes */
    fd_write(fd, "OM:<>\r\n");
    WAIT_FOR(loop, d.n_data == 2);
    assert_true(span_eq(conn_input(d.conn), SPAN("MAIL FROM:<>\r\n")));
    conn_consume(d.conn, 5);
    assert_true(span_eq(conn_input(d.conn), SPAN("FROM:<>\r\n")));
    d.take_max = SIZE_MAX;
    fd_write(fd, "RSET\r\n");
    WAIT_FOR(loop, d.n_data == 3);
    assert_true(text_is(&d.got, "FROM:<>\r\nRSET\r\n"));
    conn_retire(d.conn);
    close(fd);
    driver_release(&d);
}

static bool
loop_holds(const struct loop *loop, const char *text)
{
    return memmem(loop->input, sizeof(loop->input), text, strlen(text)) != NULL;
}

static void
secret_bytes_are_overwritten_once_consumed(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    int fd;

    driver_on_pair(&d, loop, &fd);
    fd_write(fd, "open-words\r\n");
    WAIT_FOR(loop, d.n_data == 1);
    assert_true(loop_holds(loop, "open-words"));
    conn_read_secret(d.conn, true);
    d.take_max = 0;
    fd_write(fd, "AUTH secret-");
    WAIT_FOR(loop, d.n_data == 2);
    assert_true(span_eq(conn_input(d.conn), SPAN("AUTH secret-"))); /* kept, and not in the loop */
    assert_false(loop_holds(loop, "secret-"));
    d.take_max = SIZE_MAX;
    fd_write(fd, "words\r\n");
    WAIT_FOR(loop, d.n_data == 3);
    assert_true(text_is(&d.got, "open-words\r\nAUTH secret-words\r\n"));
    assert_false(loop_holds(loop, "secret-") || loop_holds(loop, "words"));
    conn_read_secret(d.conn, false);
    fd_write(fd, "again-open\r\n");
    WAIT_FOR(loop, d.n_data == 4);
    assert_true(loop_holds(loop, "again-open"));
    conn_retire(d.conn);
    close(fd);
    driver_release(&d);
}

static void
write_three_answers(struct driver *d)
{
    conn_write(d->conn, SPAN("250 a\r\n"));
    conn_write(d->conn, SPAN("250 b\r\n"));
    const struct span pieces[] = {SPAN("354 "), SPAN(""), SPAN("go\r\n")};
    conn_writev(d->conn, pieces, 3);
    int waiting = 0, fd = *(int *)d->extra;
    assert_int_equal(ioctl(fd, FIONREAD, &waiting), 0);
    assert_int_equal(waiting, 0); /* gathered until the callback returns */
}

static void
answers_written_in_one_callback_leave_together(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    struct strbuf seen = STRBUF_INIT;
    int fds[2];
    char buf[100];

    /* A packet socket keeps the borders between writes. */
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
    d = (struct driver){.take_max = SIZE_MAX, .on_data = write_three_answers, .extra = &fds[1]};
    d.conn = conn_accept(loop, fds[0], NULL, NULL, &driver_ops, &d);
    fd_write(fds[1], "MAIL\r\nRCPT\r\nDATA\r\n");
    WAIT_FOR(loop, d.n_data == 1);
    assert_int_equal(read(fds[1], buf, sizeof(buf)), 22);
    assert_memory_equal(buf, "250 a\r\n250 b\r\n354 go\r\n", 22);
    conn_cork(d.conn);
    conn_write(d.conn, SPAN("one "));
    conn_write(d.conn, SPAN("two"));
    assert_int_equal(read(fds[1], buf, sizeof(buf)), -1);
    conn_uncork(d.conn);
    assert_int_equal(read(fds[1], buf, sizeof(buf)), 7);
    conn_retire(d.conn);
    close(fds[1]);
    strbuf_release(&seen);
    driver_release(&d);
}

static void
what_the_kernel_does_not_take_is_sent_later_in_order(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    struct strbuf seen = STRBUF_INIT;
    size_t total = 3 * 1024 * 1024 + 17, chunk = 100000, sent = 0;
    char *bytes = xmalloc(total);
    int fd;

    pattern_fill(bytes, 0, total);
    driver_on_pair(&d, loop, &fd);
    while (sent < total) {
        size_t n = total - sent < chunk ? total - sent : chunk;
        const struct span pieces[] = {span_of(bytes + sent, n / 3),
                                      span_of(bytes + sent + n / 3, n - n / 3)};
        conn_writev(d.conn, pieces, 2);
        sent += n;
    }
    assert_true(conn_out_pending(d.conn) > 0);
    assert_int_equal(d.n_drained, 0);
    WAIT_FOR(loop, (fd_read(fd, &seen), seen.n == total && d.n_drained == 1));
    assert_true(pattern_holds(strbuf_span(&seen)));
    assert_int_equal(conn_out_pending(d.conn), 0);
    settle(loop);
    assert_int_equal(d.n_drained, 1);
    conn_retire(d.conn);
    close(fd);
    free(bytes);
    strbuf_release(&seen);
    driver_release(&d);
}

static void
input_is_bounded_while_nobody_consumes(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    char block[4096];
    size_t written = 0, offset = 0;
    ssize_t n;
    int fd;

    driver_on_pair(&d, loop, &fd);
    d.take_max = 0;
    for (int i = 0; i < 400; i++) {
        pattern_fill(block, written, sizeof(block));
        while ((n = write(fd, block, sizeof(block))) > 0) {
            written += (size_t)n;
            pattern_fill(block, written, sizeof(block));
        }
        settle(loop);
    }
    assert_true(conn_input(d.conn).n >= CONN_INPUT_MAX);
    assert_true(conn_input(d.conn).n < CONN_INPUT_MAX + LOOP_BUFFER_BYTES);
    assert_true(written > conn_input(d.conn).n); /* the rest waits in the kernel */
    /* Taking it piece by piece lets the rest in, and nothing is lost or turned round. */
    while (offset < written) {
        struct span in = conn_input(d.conn);
        size_t take = in.n > 10000 ? 10000 : in.n;
        for (size_t i = 0; i < take; i++)
            assert_int_equal(in.p[i], pattern_byte(offset + i));
        conn_consume(d.conn, take);
        offset += take;
        loop_run_once(loop, 0);
    }
    assert_int_equal(conn_bytes_in(d.conn), written);
    conn_retire(d.conn);
    close(fd);
    driver_release(&d);
}

static void
pause_in_callback(struct driver *d)
{
    conn_pause(d->conn);
}

static void
a_paused_connection_is_left_alone_until_resumed(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    int fd;

    driver_on_pair(&d, loop, &fd);
    d.take_max = 4;
    d.on_data = pause_in_callback;
    fd_write(fd, "one two ");
    WAIT_FOR(loop, d.n_data == 1);
    fd_write(fd, "six ");
    shutdown(fd, SHUT_WR);
    settle(loop);
    assert_int_equal(d.n_data, 1);
    assert_int_equal(d.n_closed, 0);
    d.in_call = true;
    conn_resume(d.conn); /* brings the bytes it left, later */
    d.in_call = false;
    settle(loop);
    assert_int_equal(d.n_data, 2);
    assert_true(text_is(&d.got, "one two "));
    assert_int_equal(d.n_closed, 0);
    d.on_data = NULL;
    conn_resume(d.conn);
    WAIT_FOR(loop, d.n_closed == 1);
    assert_int_equal(d.n_data, 3);
    assert_true(text_is(&d.got, "one two six "));
    assert_int_equal(d.end_kind, CONN_END_EOF);
    conn_retire(d.conn);
    close(fd);
    driver_release(&d);
}

static void
after_the_peers_fin_an_answer_still_gets_out(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    struct strbuf seen = STRBUF_INIT;
    int fd;

    driver_on_pair(&d, loop, &fd);
    fd_write(fd, "QUIT\r\n");
    shutdown(fd, SHUT_WR);
    WAIT_FOR(loop, d.n_closed == 1);
    assert_int_equal(d.end_kind, CONN_END_EOF);
    assert_true(text_is(&d.got, "QUIT\r\n")); /* told before the end */
    conn_write(d.conn, SPAN("221 bye\r\n"));
    conn_shutdown(d.conn, true);
    assert_false(fd_read(fd, &seen));
    assert_true(text_is(&seen, "221 bye\r\n"));
    settle(loop);
    assert_int_equal(conn_n_lingering(loop), 0);
    close(fd);
    strbuf_release(&seen);
    driver_release(&d);
}

static void
retire_in_callback(struct driver *d)
{
    conn_write(d->conn, SPAN("lost"));
    conn_retire(d->conn);
    d->conn = NULL;
}

static void
a_driver_may_retire_in_any_callback(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    struct strbuf seen = STRBUF_INIT;
    int fd;

    driver_on_pair(&d, loop, &fd);
    d.on_data = retire_in_callback;
    fd_write(fd, "x");
    WAIT_FOR(loop, d.n_data == 1);
    assert_false(fd_read(fd, &seen)); /* closed at once */
    assert_int_equal(seen.n, 0);
    settle(loop);
    assert_int_equal(d.n_closed, 0); /* and nothing is told any more */
    close(fd);
    driver_release(&d);

    driver_on_pair(&d, loop, &fd);
    d.on_event = retire_in_callback;
    close(fd);
    WAIT_FOR(loop, d.n_closed == 1);
    settle(loop);
    driver_release(&d);
    strbuf_release(&seen);
}

static void
a_write_into_a_closed_connection_is_told_later_and_once(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    int fd;

    driver_on_pair(&d, loop, &fd);
    fd_write(fd, "554 go away\r\n");
    close(fd);
    d.in_call = true;
    conn_write(d.conn, SPAN("EHLO x\r\n"));
    conn_write(d.conn, SPAN("MAIL\r\n"));
    assert_int_equal(conn_out_pending(d.conn), 0);
    d.in_call = false;
    WAIT_FOR(loop, d.n_closed == 1);
    assert_true(text_is(&d.got, "554 go away\r\n")); /* its last words come first */
    conn_write(d.conn, SPAN("dropped"));
    settle(loop);
    conn_retire(d.conn);
    driver_release(&d);
}

static void
a_write_error_is_told_even_while_paused(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    int fd;

    driver_on_pair(&d, loop, &fd);
    conn_pause(d.conn);
    close(fd);
    settle(loop);
    assert_int_equal(d.n_closed, 0);
    conn_write(d.conn, SPAN("250 ok\r\n"));
    settle(loop);
    assert_int_equal(d.n_closed, 1);
    assert_int_equal(d.end_kind, CONN_END_RESET);
    assert_int_equal(d.end_error, EPIPE);
    conn_retire(d.conn);
    driver_release(&d);
}

static void
shutdown_sends_what_is_pending_and_gives_up_in_time(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    struct strbuf seen = STRBUF_INIT;
    size_t total = 2 * 1024 * 1024;
    char *bytes = xmalloc(total);
    int fd;

    pattern_fill(bytes, 0, total);
    driver_on_pair(&d, loop, &fd);
    conn_write(d.conn, span_of(bytes, total));
    conn_shutdown(d.conn, false);
    assert_int_equal(conn_n_lingering(loop), 1);
    WAIT_FOR(loop, !fd_read(fd, &seen));
    assert_int_equal(seen.n, total);
    assert_true(pattern_holds(strbuf_span(&seen)));
    settle(loop);
    assert_int_equal(conn_n_lingering(loop), 0);
    close(fd);
    driver_release(&d);

    driver_on_pair(&d, loop, &fd); /* nobody reads this one */
    conn_write(d.conn, span_of(bytes, total));
    conn_shutdown(d.conn, true);
    clock_step(loop_clock(loop), CONN_FLUSH_MS - 1);
    assert_int_equal(conn_n_lingering(loop), 1);
    clock_step(loop_clock(loop), 1);
    assert_int_equal(conn_n_lingering(loop), 0);
    assert_int_equal(d.n_closed, 0);
    close(fd);
    driver_release(&d);
    strbuf_release(&seen);
    free(bytes);
}

static void
lingering_reads_and_drops_until_the_peer_closes(void **state)
{
    struct loop *loop = *state;
    struct driver d;
    struct strbuf seen = STRBUF_INIT;
    int fd;

    driver_on_pair(&d, loop, &fd);
    fd_write(fd, "early talk");
    conn_write(d.conn, SPAN("554 no\r\n"));
    conn_shutdown(d.conn, true);
    assert_false(fd_read(fd, &seen)); /* FIN is sent at once */
    assert_true(text_is(&seen, "554 no\r\n"));
    fd_write(fd, "still talking");
    settle(loop);
    assert_int_equal(conn_n_lingering(loop), 1);
    close(fd);
    WAIT_FOR(loop, conn_n_lingering(loop) == 0);
    assert_int_equal(d.n_data, 0);
    driver_release(&d);

    driver_on_pair(&d, loop, &fd); /* and no longer than CONN_LINGER_MS */
    conn_shutdown(d.conn, true);
    clock_step(loop_clock(loop), CONN_LINGER_MS);
    assert_int_equal(conn_n_lingering(loop), 0);
    close(fd);
    driver_release(&d);
    strbuf_release(&seen);
}

static void
a_loop_may_be_freed_with_connections_lingering(void **state)
{
    (void)state;
    struct loop *loop = loop_new_stepped(0);
    struct driver d;
    int fd;
    driver_on_pair(&d, loop, &fd);
    conn_shutdown(d.conn, true);
    loop_free(loop);
    char c;
    assert_int_equal(read(fd, &c, 1), 0);
    close(fd);
    driver_release(&d);
}

/* ---- connecting ---- */

struct server {
    struct listener *listener;
    int fd;
    struct net_addr peer;
};

static void
on_server_accept(void *arg, int fd, const struct net_addr *peer, const struct net_addr *local)
{
    struct server *s = arg;
    (void)local;
    s->fd = fd;
    s->peer = *peer;
}

static const struct listener_ops server_ops = {on_server_accept, NULL};

static void
server_open(struct server *s, struct loop *loop)
{
    struct err err;
    struct net_addr addr = {0};
    *s = (struct server){.fd = -1};
    assert_true(ip_parse(SPAN("127.0.0.1"), &addr.ip));
    assert_int_equal(listener_open(&addr, &s->listener, &err), ERR_OK);
    listener_start(s->listener, loop, &server_ops, s);
}

static void
connecting_completes_and_binds_the_source(void **state)
{
    struct loop *loop = *state;
    struct server s;
    struct driver d = {.take_max = SIZE_MAX, .in_call = true};
    struct conn_connect how = {.user_timeout_ms = 30000};
    struct strbuf seen = STRBUF_INIT;
    char text[NET_ADDR_TEXT_BYTES];

    server_open(&s, loop);
    how.to = *listener_addr(s.listener);
    assert_true(ip_parse(SPAN("127.0.0.9"), &how.source));
    d.conn = conn_connect(loop, &how, &driver_ops, &d);
    conn_write(d.conn, SPAN("early ")); /* waits for the connection */
    d.in_call = false;
    WAIT_FOR(loop, d.n_connected == 1 && s.fd >= 0);
    conn_write(d.conn, SPAN("bird"));
    WAIT_FOR(loop, (fd_read(s.fd, &seen), seen.n == 10));
    assert_true(text_is(&seen, "early bird"));
    assert_true(net_addr_eq(&s.peer, conn_local(d.conn)));
    assert_true(net_addr_eq(&how.to, conn_peer(d.conn)));
    assert_memory_equal(net_addr_format(&s.peer, text), "127.0.0.9:", 10);
    conn_retire(d.conn);
    close(s.fd);
    listener_close(s.listener);
    strbuf_release(&seen);
    driver_release(&d);
}

static void
connect_and_end(struct loop *loop, const struct conn_connect *how, enum conn_end_kind kind)
{
    struct driver d = {.take_max = SIZE_MAX, .in_call = true};
    d.conn = conn_connect(loop, how, &driver_ops, &d);
    conn_write(d.conn, SPAN("never sent"));
    d.in_call = false;
    WAIT_FOR(loop, d.n_closed == 1);
    assert_int_equal(d.end_kind, kind);
    assert_int_equal(d.n_connected, 0);
    assert_true(strlen(d.text) > 0);
    settle(loop);
    conn_retire(d.conn);
    driver_release(&d);
}

static void
connecting_fails_with_its_kind(void **state)
{
    struct loop *loop = *state;
    struct server s;
    struct conn_connect how = {0};

    server_open(&s, loop);
    how.to = *listener_addr(s.listener);
    listener_close(s.listener);
    connect_and_end(loop, &how, CONN_END_REFUSED);
    assert_true(ip_parse(SPAN("192.0.2.77"), &how.source)); /* not an address of ours */
    connect_and_end(loop, &how, CONN_END_LOCAL);
    how = (struct conn_connect){0}; /* no address at all */
    connect_and_end(loop, &how, CONN_END_LOCAL);
}

static void
a_connect_may_be_given_up_before_it_completes(void **state)
{
    struct loop *loop = *state;
    struct server s;
    struct driver d = {.take_max = SIZE_MAX};
    server_open(&s, loop);
    struct conn_connect how = {.to = *listener_addr(s.listener)};
    d.conn = conn_connect(loop, &how, &driver_ops, &d);
    conn_retire(d.conn);
    d.conn = conn_connect(loop, &how, &driver_ops, &d);
    conn_shutdown(d.conn, true);
    settle(loop);
    assert_int_equal(d.n_connected + d.n_closed, 0);
    if (s.fd >= 0)
        close(s.fd);
    listener_close(s.listener);
    driver_release(&d);
}

static void
a_reset_is_told_as_one(void **state)
{
    struct loop *loop = *state;
    struct server s;
    struct driver d = {.take_max = SIZE_MAX};
    struct linger hard = {1, 0};
    server_open(&s, loop);
    struct conn_connect how = {.to = *listener_addr(s.listener)};
    d.conn = conn_connect(loop, &how, &driver_ops, &d);
    WAIT_FOR(loop, d.n_connected == 1 && s.fd >= 0);
    assert_int_equal(setsockopt(s.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
    close(s.fd);
    WAIT_FOR(loop, d.n_closed == 1);
    assert_int_equal(d.end_kind, CONN_END_RESET);
    assert_string_equal(conn_end_name(d.end_kind), "reset");
    conn_retire(d.conn);
    listener_close(s.listener);
    driver_release(&d);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_go_both_ways),
        cmocka_unit_test(bytes_not_consumed_are_shown_again_with_the_next),
        cmocka_unit_test(secret_bytes_are_overwritten_once_consumed),
        cmocka_unit_test(answers_written_in_one_callback_leave_together),
        cmocka_unit_test(what_the_kernel_does_not_take_is_sent_later_in_order),
        cmocka_unit_test(input_is_bounded_while_nobody_consumes),
        cmocka_unit_test(a_paused_connection_is_left_alone_until_resumed),
        cmocka_unit_test(after_the_peers_fin_an_answer_still_gets_out),
        cmocka_unit_test(a_driver_may_retire_in_any_callback),
        cmocka_unit_test(a_write_into_a_closed_connection_is_told_later_and_once),
        cmocka_unit_test(a_write_error_is_told_even_while_paused),
        cmocka_unit_test(shutdown_sends_what_is_pending_and_gives_up_in_time),
        cmocka_unit_test(lingering_reads_and_drops_until_the_peer_closes),
        cmocka_unit_test(a_loop_may_be_freed_with_connections_lingering),
        cmocka_unit_test(connecting_completes_and_binds_the_source),
        cmocka_unit_test(connecting_fails_with_its_kind),
        cmocka_unit_test(a_connect_may_be_given_up_before_it_completes),
        cmocka_unit_test(a_reset_is_told_as_one),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
