/* The driver: sink, verdicts, limits, reload, stop. */
#include "tests/unit/accept/session_rig.h"

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

/* Says HELP, `at_once` octets before each turn of the loop, and reads nothing. */
static void
drop_who_reads_nothing(struct world *w, size_t at_once)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    int small = 4096;

    begin(w);
    struct client c = stream_from(w, "192.0.2.1");
    setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    for (int i = 0; i < 400000; i++)
        strbuf_add_str(&text, "HELP\r\n");
    size_t sent = 0;
    for (int full = 0; full < 20 && sent < text.n;) {
        size_t more = text.n - sent < at_once ? text.n - sent : at_once;
        ssize_t n = send(c.fd, text.p + sent, more, MSG_NOSIGNAL);
        sent += n > 0 ? (size_t)n : 0;
        full = n > 0 ? 0 : full + 1;
        spin(w);
    }
    assert_true(sent < text.n); /* we stopped reading, too */
    assert_int_equal(w->accept->stats.sessions, 1);
    clock_step(loop_clock(w->loop), 5 * MINUTE);
    spin(w);
    assert_int_equal(w->accept->stats.sessions, 0);
    close(c.fd);
}

static void
test_a_client_that_reads_nothing_is_dropped(void **state)
{
    drop_who_reads_nothing(*state, SIZE_MAX);
}

static void
test_a_client_that_asks_little_at_a_time_and_reads_nothing_is_dropped(void **state)
{
    drop_who_reads_nothing(*state, 900); /* answered in 3,000 octets: less than is worth a flush */
}

static void
test_who_closes_his_half_hears_all_of_what_waits_for_him(void **state)
{
    struct world *w = *state;
    CLEANUP(strbuf_release) struct strbuf group = STRBUF_INIT;
    char buf[65536];
    size_t n_commands = 0, n_replies = 0;
    ssize_t n;

    begin(w);
    struct client c = stream_from(w, "192.0.2.1");
    for (int i = 0; i < 150; i++)
        strbuf_add_str(&group, "HELP\r\n");
    hear(c, "220");
    while (send(c.fd, group.p, group.n, MSG_NOSIGNAL) == (ssize_t)group.n) {
        n_commands += 150;
        spin(w);
        assert_true(n_commands < 1000000);
    }
    shutdown(c.fd, SHUT_WR);
    spin(w);
    for (int idle = 0; idle < 20; spin(w)) {
        n = read(c.fd, buf, sizeof buf);
        for (ssize_t i = 0; i < n; i++)
            n_replies += buf[i] == '\n';
        idle = n > 0 ? 0 : idle + 1;
    }
    assert_in_range(n_replies, n_commands, n_commands + 150); /* the last group came in part */
    assert_int_equal(w->accept->stats.sessions, 0);
    close(c.fd);
}

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
        TEST(test_a_client_that_asks_little_at_a_time_and_reads_nothing_is_dropped),
        TEST(test_who_closes_his_half_hears_all_of_what_waits_for_him),
    };
    RUN_TESTS(tests);
}
