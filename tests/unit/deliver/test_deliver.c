/* The driver over loopback sockets: the walk, reuse, deadlines, content, life. No TLS here. */
#include "rig.h"

/* ---- the walk ---- */

static void
first_dead_second_554_third_good(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p2, p3;
    rig_server(r, true);
    struct server *two = rig_server(r, false), *three = rig_server(r, false);
    rig_start(r);
    peer_accept(r, two, &p2);
    peer_say(&p2, "554 5.7.1 not you\r\n");
    peer_hear(r, &p2, "QUIT\r\n");
    peer_greet(r, three, &p3, PIPELINING);
    rig_until(r, &r->n_ready, 1);
    assert_int_equal(deliver_peer(r->conn)->endpoint, 2);
    rig_txn(r, &txn);
    peer_take(r, &p3);
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->n_outcomes, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DELIVERED);
    assert_string_equal(r->outcomes[0].text, "queued");
    assert_int_equal(r->report.peer.endpoint, 2);
    assert_int_equal(r->report.peer.port, three->port);
    assert_string_equal(r->report.peer.host, "mx.test");
    assert_false(r->report.peer.reused);
    assert_int_equal(r->n_failed + r->n_closed, 0);
    peer_free(&p2);
    peer_free(&p3);
    rig_free(r);
}

static void
all_endpoints_dead_is_the_path(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    rig_server(r, true);
    rig_server(r, true);
    rig_start(r);
    rig_until(r, &r->n_failed, 1);
    assert_int_equal(r->failure.kind, OUTCOME_DEFERRED);
    assert_int_equal(r->failure.origin, ORIGIN_NET);
    assert_string_equal(r->failure.phase, "connect");
    assert_true(r->failure.path);
    rig_free(r);
}

static void
the_sum_names_the_host_that_is_quoted(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *one = rig_server(r, false);
    rig_server(r, true);
    rig_start(r);
    peer_accept(r, one, &p);
    peer_say(&p, "554 5.7.1 blocked\r\n");
    rig_until(r, &r->n_failed, 1);
    assert_int_equal(r->failure.kind, OUTCOME_DEFERRED);
    assert_int_equal(r->failure.code, 554);
    assert_false(r->failure.path);
    assert_int_equal(r->failure_endpoint, 0);
    peer_free(&p);
    rig_free(r);
}

/* A listener whose queue is full drops the SYN: the connection never comes about. */
static void
connect_has_a_deadline(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct server *s = rig_server(r, false);
    struct sockaddr_in sin = {.sin_family = AF_INET,
                              .sin_port = htons(s->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fill[4];
    assert_int_equal(listen(s->fd, 0), 0);
    for (size_t i = 0; i < N_ELEMENTS(fill); i++) {
        fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)connect(fill[i], (struct sockaddr *)&sin, sizeof(sin));
    }
    rig_start(r);
    rig_step(r, 29 * SECOND);
    assert_int_equal(r->n_failed, 0);
    rig_step(r, SECOND);
    assert_int_equal(r->n_failed, 1);
    assert_string_equal(r->failure.phase, "connect");
    assert_true(r->failure.path);
    for (size_t i = 0; i < N_ELEMENTS(fill); i++)
        close(fill[i]);
    rig_free(r);
}

static void
mail_4xx_takes_the_transaction_to_the_next_endpoint(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p1, p2;
    struct server *one = rig_server(r, false), *two = rig_server(r, false);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, one, &p1, PIPELINING);
    peer_hear(r, &p1, GROUP);
    peer_say(&p1, "451 4.7.1 later\r\n");
    peer_hear(r, &p1, "QUIT\r\n");
    peer_greet(r, two, &p2, PIPELINING);
    peer_take(r, &p2);
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DELIVERED);
    assert_int_equal(r->report.peer.endpoint, 1);
    assert_int_equal(r->n_closed, 0);
    peer_free(&p1);
    peer_free(&p2);
    rig_free(r);
}

static void
mail_4xx_everywhere_defers_and_closes(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(2);
    struct peer p;
    struct server *one = rig_server(r, false);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, one, &p, PIPELINING);
    peer_hear(r, &p,
              "MAIL FROM:<a@src.test>\r\nRCPT TO:<x@d.test>\r\nRCPT TO:<y@d.test>\r\n"
              "DATA\r\n");
    peer_say(&p, "451 4.7.1 later\r\n");
    rig_until(r, &r->n_closed, 1);
    assert_int_equal(r->n_done, 1);
    assert_int_equal(r->n_outcomes, 2);
    assert_int_equal(r->outcomes[1].code, 451);
    assert_int_equal(r->n_failed, 0);
    peer_free(&p);
    rig_free(r);
}

/* ---- reuse ---- */

static void
reused_connection_closed_meanwhile_costs_nothing(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn first = rig_message(1), second = rig_message(1);
    struct peer p1, p2;
    struct server *s = rig_server(r, false);
    r->on_ready_txn = &first;
    rig_start(r);
    peer_greet(r, s, &p1, PIPELINING);
    peer_take(r, &p1);
    rig_until(r, &r->n_ready, 2);
    rig_txn(r, &second);
    peer_hear(r, &p1, GROUP);
    peer_free(&p1); /* closed without a word */
    peer_greet(r, s, &p2, PIPELINING);
    peer_take(r, &p2);
    rig_until(r, &r->n_done, 2);
    assert_int_equal(r->n_outcomes, 2);
    assert_int_equal(r->outcomes[1].kind, OUTCOME_DELIVERED);
    assert_int_equal(r->n_closed + r->n_failed, 0);
    peer_free(&p2);
    rig_free(r);
}

static void
second_message_on_a_session_is_reported_as_reused(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn first = rig_message(1), second = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->on_ready_txn = &first;
    rig_start(r);
    peer_accept(r, s, &p);
    rig_step(r, 200);
    peer_say(&p, "220 mx\r\n");
    peer_hear(r, &p, "EHLO relay.test\r\n");
    peer_say(&p, "250-mx\r\n250-DSN\r\n250 PIPELINING\r\n");
    peer_hear(r, &p, GROUP);
    rig_step(r, 300);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    peer_hear(r, &p, CONTENT);
    peer_say(&p, "250 ok\r\n");
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->report.connect_ms, 200);
    assert_int_equal(r->report.transfer_ms, 300);
    assert_true(r->report.peer.dsn_offered);
    assert_int_equal(r->report.peer.n_messages, 1);
    rig_until(r, &r->n_ready, 2);
    rig_txn(r, &second);
    peer_take(r, &p);
    rig_until(r, &r->n_done, 2);
    assert_true(r->report.peer.reused);
    assert_int_equal(r->report.connect_ms, 0);
    assert_int_equal(r->report.peer.n_messages, 2);
    peer_free(&p);
    rig_free(r);
}

static void
max_messages_then_quit(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->target.max_messages = 1;
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_take(r, &p);
    peer_hear(r, &p, "QUIT\r\n");
    peer_say(&p, "221 bye\r\n");
    rig_until(r, &r->n_closed, 1);
    assert_int_equal(r->n_ready, 1);
    peer_hear_end(r, &p);
    peer_free(&p);
    rig_free(r);
}

static void
idle_connection_quits_after_its_time(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *s = rig_server(r, false);
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    rig_until(r, &r->n_ready, 1);
    rig_step(r, 9 * SECOND);
    assert_true(deliver_is_ready(r->conn));
    rig_step(r, SECOND);
    assert_false(deliver_is_ready(r->conn));
    peer_hear(r, &p, "QUIT\r\n");
    rig_step(r, 10 * SECOND); /* no reply to QUIT */
    assert_int_equal(r->n_closed, 1);
    peer_free(&p);
    rig_free(r);
}

static void
session_has_an_age(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->target.idle_ms = HOUR;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    rig_until(r, &r->n_ready, 1);
    rig_step(r, 299 * SECOND);
    rig_txn(r, &txn);
    peer_hear(r, &p, GROUP);
    rig_step(r, SECOND);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    peer_hear(r, &p, CONTENT);
    peer_say(&p, "250 ok\r\n");
    peer_hear(r, &p, "QUIT\r\n");
    assert_int_equal(r->n_done, 1);
    assert_int_equal(r->n_ready, 1);
    peer_free(&p);
    rig_free(r);
}

static void
peer_closing_an_idle_connection_closes_it(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *s = rig_server(r, false);
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    rig_until(r, &r->n_ready, 1);
    peer_say(&p, "421 4.4.2 idle\r\n");
    rig_until(r, &r->n_closed, 1);
    assert_int_equal(r->n_failed, 0);
    peer_free(&p);
    rig_free(r);
}

/* ---- deadlines ---- */

static void
dripped_greeting_meets_its_deadline(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *s = rig_server(r, false);
    rig_start(r);
    peer_accept(r, s, &p);
    for (int i = 0; i < 29; i++) {
        peer_say(&p, "220-x\r\n");
        rig_step(r, 10 * SECOND);
    }
    assert_int_equal(r->n_failed, 0);
    peer_say(&p, "220-x\r\n");
    rig_step(r, 10 * SECOND);
    assert_int_equal(r->n_failed, 1);
    assert_string_equal(r->failure.phase, "greeting");
    assert_true(r->failure.path);
    peer_free(&p);
    rig_free(r);
}

static void
dripped_dot_reply_may_mean_twice(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p, GROUP);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    peer_hear(r, &p, CONTENT);
    peer_say(&p, "250-");
    rig_step(r, 9 * MINUTE);
    peer_say(&p, "queue");
    assert_int_equal(r->n_done, 0);
    rig_step(r, MINUTE);
    assert_int_equal(r->n_done, 1);
    assert_true(r->outcomes[0].maybe_twice);
    assert_int_equal(r->n_closed, 1);
    peer_free(&p);
    rig_free(r);
}

/* ---- content ---- */

static void
small_message_is_two_writes(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(2);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    p.n_reads = 0;
    peer_hear(r, &p,
              "MAIL FROM:<a@src.test>\r\nRCPT TO:<x@d.test>\r\nRCPT TO:<y@d.test>\r\n"
              "DATA\r\n");
    assert_int_equal(p.n_reads, 1);
    peer_say(&p, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    peer_hear(r, &p, CONTENT);
    assert_int_equal(p.n_reads, 2);
    peer_free(&p);
    rig_free(r);
}

/* A body of lines of all lengths, many beginning with dots. */
static char *
long_body(size_t n)
{
    char *body = xmalloc(n + 1);
    size_t at = 0;
    for (unsigned line = 0; at < n; line++) {
        size_t want = line % 79;
        for (size_t i = 0; i < want && at + 2 < n; i++)
            body[at++] = i < line % 3 ? '.' : (char)('a' + line % 26);
        if (at + 2 > n)
            break;
        body[at++] = '\r';
        body[at++] = '\n';
    }
    body[n - 2] = '\r';
    body[n - 1] = '\n';
    body[n] = '\0';
    return body;
}

/* What the peer got, without heads, stuffing and the final dot, is `body`. */
static void
assert_content(const struct strbuf *in, struct span body)
{
    static const char heads[] = "Subject: t\r\n\r\n";
    struct span rest = strbuf_span(in);
    assert_true(span_starts(rest, span_str(heads)));
    rest = span_from(rest, sizeof(heads) - 1);
    CLEANUP(strbuf_release) struct strbuf plain = STRBUF_INIT;
    while (rest.n > 0) {
        struct span line = span_cut(&rest, '\n');
        if (span_eq(line, SPAN(".\r")))
            break;
        if (line.n > 0 && line.p[0] == '.')
            line = span_from(line, 1);
        strbuf_add_span(&plain, line);
        strbuf_add_byte(&plain, '\n');
    }
    assert_int_equal(rest.n, 0);
    assert_int_equal(plain.n, body.n);
    assert_memory_equal(plain.p, body.p, body.n);
}

static void
big_body(size_t n, size_t piece, bool later)
{
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    CLEANUP(freep) char *body = long_body(n);
    r->body = span_of(body, n);
    r->piece = piece;
    r->answer_later = later;
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p, GROUP);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    unsigned answered = 0;
    for (int quiet = 0; !span_ends(strbuf_span(&p.in), SPAN("\r\n.\r\n")); quiet++) {
        size_t before = p.in.n;
        loop_run_once(r->loop, 10);
        while (later && r->n_wants > answered) {
            uint64_t offset = r->wanted;
            answered++;
            rig_answer(r, &txn, offset);
            rig_answer(r, &txn, offset); /* a second answer is ignored */
            quiet = 0;
        }
        if (p.in.n > before)
            quiet = 0;
        assert_true(quiet < RIG_PATIENCE);
    }
    assert_content(&p.in, r->body);
    peer_say(&p, "250 ok\r\n");
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DELIVERED);
    peer_free(&p);
    rig_free(r);
}

static void
big_body_arrives_whole(void **state)
{
    (void)state;
    big_body(8 << 20, DELIVER_CHUNK_MAX, false);
}

static void
big_body_answered_later_arrives_whole(void **state)
{
    (void)state;
    big_body(3 << 20, 100001, true);
}

static void
tiny_pieces_arrive_whole(void **state)
{
    (void)state;
    big_body(20000, 1, false);
}

/* The peer takes nothing: what is pulled stays bounded, and the rate ends it. */
static void
peer_that_does_not_read_is_given_up(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    size_t n = 64 << 20;
    CLEANUP(freep) char *body = long_body(n);
    r->body = span_of(body, n);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p, GROUP);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    conn_pause(p.conn);
    rig_settle(r);
    uint64_t pulled = r->wanted;
    assert_true(pulled > 0 && pulled < 16 << 20); /* the kernel's buffers and ours */
    rig_step(r, 179 * SECOND);
    assert_int_equal(r->wanted, pulled);
    assert_int_equal(r->n_done, 0);
    /* The first window saw what the kernel took; the second one sees nothing move. */
    rig_step(r, SECOND);
    rig_step(r, 3 * MINUTE);
    assert_int_equal(r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DEFERRED);
    assert_string_equal(r->outcomes[0].phase, "data");
    assert_true(r->outcomes[0].path);
    assert_false(r->outcomes[0].maybe_twice);
    peer_free(&p);
    rig_free(r);
}

/* 200 octets a second for ever: below the rate, although something moves in every minute. */
static void
slow_reader_is_given_up(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    int small = 4096;
    assert_int_equal(setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
    size_t n = 32 << 20;
    CLEANUP(freep) char *body = long_body(n);
    r->body = span_of(body, n);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p, GROUP);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    conn_pause(p.conn);
    rig_step(r, 3 * MINUTE);
    char buf[200];
    for (int i = 0; i < 179 && r->n_done == 0; i++) {
        (void)!read(conn_fd(p.conn), buf, sizeof(buf));
        rig_step(r, SECOND);
    }
    assert_int_equal(r->n_done, 0);
    rig_step(r, SECOND);
    assert_int_equal(r->n_done, 1);
    assert_string_equal(r->outcomes[0].phase, "data");
    peer_free(&p);
    rig_free(r);
}

static void
slow_store_is_not_the_peers_fault(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->answer_later = true;
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p, GROUP);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    rig_until(r, &r->n_wants, 1);
    rig_step(r, 20 * MINUTE);
    assert_int_equal(r->n_done, 0);
    rig_answer(r, &txn, 0);
    peer_hear(r, &p, CONTENT);
    peer_say(&p, "250 ok\r\n");
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DELIVERED);
    peer_free(&p);
    rig_free(r);
}

static void
unreadable_body_never_ends_in_a_dot(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    CLEANUP(freep) char *body = long_body(300000);
    r->body = span_of(body, 300000);
    r->answer_later = true;
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p, GROUP);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    rig_until(r, &r->n_wants, 1);
    rig_answer(r, &txn, 0);
    rig_until(r, &r->n_wants, 2);
    deliver_body_failed(r->conn, &txn, "the store cannot read it");
    assert_int_equal(r->n_closed, 1);
    assert_int_equal(r->outcomes[0].origin, ORIGIN_LOCAL);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_DEFERRED);
    peer_hear_end(r, &p);
    assert_false(span_ends(strbuf_span(&p.in), SPAN("\r\n.\r\n")));
    peer_free(&p);
    rig_free(r);
}

static void
refusal_in_mid_content_stops_it(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    CLEANUP(freep) char *body = long_body(300000);
    r->body = span_of(body, 300000);
    r->answer_later = true;
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p, GROUP);
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    rig_until(r, &r->n_wants, 1);
    rig_answer(r, &txn, 0);
    rig_until(r, &r->n_wants, 2);
    peer_say(&p, "550 5.7.1 spam\r\n");
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_FAILED);
    assert_string_equal(r->outcomes[0].phase, "data");
    assert_int_equal(r->n_closed, 1);
    peer_hear_end(r, &p);
    assert_false(span_ends(strbuf_span(&p.in), SPAN("\r\n.\r\n")));
    peer_free(&p);
    rig_free(r);
}

static void
rest_after_452_gets_the_body_from_its_start(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(2);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p,
              "MAIL FROM:<a@src.test>\r\nRCPT TO:<x@d.test>\r\nRCPT TO:<y@d.test>\r\n"
              "DATA\r\n");
    peer_say(&p, "250 ok\r\n250 ok\r\n452 4.5.3 one\r\n354 go\r\n");
    peer_hear(r, &p, CONTENT);
    peer_say(&p, "250 ok\r\n");
    peer_hear(r, &p, "MAIL FROM:<a@src.test>\r\nRCPT TO:<y@d.test>\r\nDATA\r\n");
    peer_say(&p, "250 ok\r\n250 ok\r\n354 go\r\n");
    peer_hear(r, &p, CONTENT);
    peer_say(&p, "250 ok\r\n");
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->n_outcomes, 2);
    assert_int_equal(r->outcomes[1].kind, OUTCOME_DELIVERED);
    assert_int_equal(r->outcome_rcpts[1], 1);
    peer_free(&p);
    rig_free(r);
}

/* ---- life ---- */

static void
transaction_that_does_not_fit_is_decided_after_the_start_returned(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1), small = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    txn.size_bytes = 1001;
    rig_start(r);
    peer_greet(r, s, &p, "250-mx\r\n250-PIPELINING\r\n250 SIZE 1000\r\n");
    rig_until(r, &r->n_ready, 1);
    rig_txn(r, &txn); /* rig_on_outcome asserts that it is not called in here */
    rig_until(r, &r->n_done, 1);
    assert_int_equal(r->outcomes[0].kind, OUTCOME_FAILED);
    assert_int_equal(r->outcomes[0].enh.detail, 4);
    rig_until(r, &r->n_ready, 2);
    rig_txn(r, &small);
    peer_hear(r, &p, "MAIL FROM:<a@src.test> SIZE=21\r\nRCPT TO:<x@d.test>\r\nDATA\r\n");
    peer_free(&p);
    rig_free(r);
}

static void
quit_while_walking_closes(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *s = rig_server(r, false);
    rig_start(r);
    peer_accept(r, s, &p);
    rig_quit(r);
    rig_until(r, &r->n_closed, 1);
    assert_int_equal(r->n_failed, 0);
    peer_hear_end(r, &p);
    peer_free(&p);
    rig_free(r);
}

static void
quit_while_idle_says_quit(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct peer p;
    struct server *s = rig_server(r, false);
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    rig_until(r, &r->n_ready, 1);
    rig_quit(r);
    peer_hear(r, &p, "QUIT\r\n");
    peer_say(&p, "221 bye\r\n");
    rig_until(r, &r->n_closed, 1);
    peer_free(&p);
    rig_free(r);
}

static void
quit_inside_the_last_outcome(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->on_ready_txn = &txn;
    r->quit_on_done = true;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_take(r, &p);
    peer_hear(r, &p, "QUIT\r\n");
    assert_int_equal(r->n_ready, 1);
    peer_say(&p, "221 bye\r\n");
    rig_until(r, &r->n_closed, 1);
    peer_free(&p);
    rig_free(r);
}

static void
abort_calls_nothing_back(void **state)
{
    (void)state;
    struct rig *r = rig_new();
    struct deliver_txn txn = rig_message(1);
    struct peer p;
    struct server *s = rig_server(r, false);
    r->on_ready_txn = &txn;
    rig_start(r);
    peer_greet(r, s, &p, PIPELINING);
    peer_hear(r, &p, GROUP);
    deliver_abort(r->conn);
    r->conn = NULL;
    peer_hear_end(r, &p);
    rig_settle(r);
    assert_int_equal(r->n_done + r->n_outcomes + r->n_closed + r->n_failed, 0);
    peer_free(&p);
    rig_free(r);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_dead_second_554_third_good),
        cmocka_unit_test(all_endpoints_dead_is_the_path),
        cmocka_unit_test(the_sum_names_the_host_that_is_quoted),
        cmocka_unit_test(connect_has_a_deadline),
        cmocka_unit_test(mail_4xx_takes_the_transaction_to_the_next_endpoint),
        cmocka_unit_test(mail_4xx_everywhere_defers_and_closes),
        cmocka_unit_test(reused_connection_closed_meanwhile_costs_nothing),
        cmocka_unit_test(second_message_on_a_session_is_reported_as_reused),
        cmocka_unit_test(max_messages_then_quit),
        cmocka_unit_test(idle_connection_quits_after_its_time),
        cmocka_unit_test(session_has_an_age),
        cmocka_unit_test(peer_closing_an_idle_connection_closes_it),
        cmocka_unit_test(dripped_greeting_meets_its_deadline),
        cmocka_unit_test(dripped_dot_reply_may_mean_twice),
        cmocka_unit_test(small_message_is_two_writes),
        cmocka_unit_test(big_body_arrives_whole),
        cmocka_unit_test(big_body_answered_later_arrives_whole),
        cmocka_unit_test(tiny_pieces_arrive_whole),
        cmocka_unit_test(peer_that_does_not_read_is_given_up),
        cmocka_unit_test(slow_reader_is_given_up),
        cmocka_unit_test(slow_store_is_not_the_peers_fault),
        cmocka_unit_test(unreadable_body_never_ends_in_a_dot),
        cmocka_unit_test(refusal_in_mid_content_stops_it),
        cmocka_unit_test(rest_after_452_gets_the_body_from_its_start),
        cmocka_unit_test(transaction_that_does_not_fit_is_decided_after_the_start_returned),
        cmocka_unit_test(quit_while_walking_closes),
        cmocka_unit_test(quit_while_idle_says_quit),
        cmocka_unit_test(quit_inside_the_last_outcome),
        cmocka_unit_test(abort_calls_nothing_back),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
