/*
 * The resolver against scripted servers on loopback, on the same loop. Each server looks at the
 * first label of the name asked and does what it says; time is stepped.
 */
#include "net_test.h"

#include <netinet/in.h>
#include <stdio.h>

#include <event2/event.h>

#include "dns_message.h"
#include "relayd/net/dns.h"

#define TIMEOUT (5 * SECOND)

struct fake {
    struct loop *loop;
    int udp, tcp;
    struct event *udp_ev, *tcp_ev;
    struct net_addr addr;
    int n_udp, n_tcp, n_edns;
    int n_left;       /* questions left unanswered */
    bool silent;      /* answers nothing at all */
    bool servfail;    /* answers SERVFAIL to everything */
    bool no_edns;     /* FORMERR to an OPT */
    uint16_t ids[64]; /* seen */
    char last_name[300];
};

struct question {
    uint16_t id, type;
    char name[300];
    bool edns;
};

static void
question_read(struct question *q, const uint8_t *p, size_t n)
{
    size_t at = 12, out = 0;
    assert_true(n > 16);
    q->id = (uint16_t)(p[0] << 8 | p[1]);
    assert_true((p[3] & 0x20) != 0); /* AD */
    while (p[at] != 0) {
        if (out > 0)
            q->name[out++] = '.';
        memcpy(q->name + out, p + at + 1, p[at]);
        out += p[at];
        at += 1u + p[at];
    }
    q->name[out] = '\0';
    q->type = (uint16_t)(p[at + 1] << 8 | p[at + 2]);
    q->edns = p[11] == 1;
}

static bool
is(const struct question *q, const char *label)
{
    size_t n = strlen(label);
    return strncmp(q->name, label, n) == 0 && q->name[n] == '.';
}

static void
many_mx(struct dns_message *m, const char *name)
{
    char host[64];
    for (int i = 0; i < 120; i++) {
        snprintf(host, sizeof(host), "a-rather-long-host-name-%d.many.test", i);
        put_mx(m, name, 300, (unsigned)i, host);
    }
}

/* Fills `m`; false: no answer. */
static bool
answer_make(struct fake *f, const struct question *q, bool tcp, struct dns_message *m)
{
    unsigned id = q->id;
    if (f->silent || is(q, "drop"))
        return false;
    put_header(m, id, 0, q->name, q->type);
    if (f->no_edns && q->edns) {
        put_header(m, id, 1, q->name, q->type);
    } else if (f->servfail || is(q, "servfail")) {
        put_header(m, id, 2, q->name, q->type);
    } else if (is(q, "refused")) {
        put_header(m, id, 5, q->name, q->type);
    } else if (is(q, "nx")) {
        put_header(m, id, 3, q->name, q->type);
        put_soa(m, "test", 600, 50);
    } else if (is(q, "nodata")) {
        put_soa(m, "test", 600, 50);
    } else if (is(q, "null")) {
        put_mx(m, q->name, 300, 0, "");
    } else if (is(q, "many")) {
        if (tcp)
            many_mx(m, q->name);
        else
            put_header(m, id, 0x0200, q->name, q->type);
    } else if (is(q, "chain")) {
        put_cname(m, q->name, 300, "one.test");
        put_cname(m, "one.test", 20, "two.test");
        put_mx(m, "two.test", 300, 10, "mx.test");
    } else if (is(q, "chase")) {
        put_cname(m, q->name, 40, "ok.test");
    } else if (is(q, "loop")) {
        put_cname(m, q->name, 40, "pool.test");
    } else if (is(q, "pool")) {
        put_cname(m, q->name, 40, "loop.test");
    } else if (is(q, "garbage")) {
        put_bytes(m, "garbage", 7);
        m->p[7] = 200; /* two hundred answers */
    } else if (is(q, "ad")) {
        put_header(m, id, 0x20, q->name, q->type);
        put_mx(m, q->name, 300, 10, "mx.test");
    } else {
        put_mx(m, q->name, 100, 10, "mx.test");
    }
    return true;
}

static void
on_udp(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct fake *f = arg;
    static struct dns_message m;
    struct question q;
    uint8_t buf[600];
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);
    if (n < 0)
        return;
    question_read(&q, buf, (size_t)n);
    f->ids[f->n_udp++ % 64] = q.id;
    f->n_edns += q.edns;
    strcpy(f->last_name, q.name);
    if (is(&q, "wrongid")) { /* first a forged answer, then the true one */
        put_header(&m, q.id ^ 1u, 0, q.name, q.type);
        put_mx(&m, q.name, 300, 10, "evil.test");
        sendto(fd, m.p, m.n, 0, (struct sockaddr *)&from, len);
        put_header(&m, q.id, 0, "other.test", q.type);
        put_mx(&m, "other.test", 300, 10, "evil.test");
        sendto(fd, m.p, m.n, 0, (struct sockaddr *)&from, len);
    }
    if (answer_make(f, &q, false, &m))
        assert_int_equal(sendto(fd, m.p, m.n, 0, (struct sockaddr *)&from, len), m.n);
    else
        f->n_left++;
}

/* One TCP connection with one question. */
struct tcp_client {
    struct fake *fake;
    struct event *ev;
    uint8_t buf[600];
    size_t n;
};

static void
on_tcp_data(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct tcp_client *client = arg;
    static struct dns_message m;
    struct question q;
    uint8_t head[2];
    ssize_t n = read(fd, client->buf + client->n, sizeof(client->buf) - client->n);
    assert_true(n > 0);
    client->n += (size_t)n;
    if (client->n < 2 || client->n < 2u + (size_t)(client->buf[0] << 8 | client->buf[1]))
        return;
    question_read(&q, client->buf + 2, client->n - 2);
    client->fake->n_tcp++;
    assert_true(answer_make(client->fake, &q, true, &m));
    head[0] = (uint8_t)(m.n >> 8);
    head[1] = (uint8_t)m.n;
    assert_int_equal(write(fd, head, 2), 2);
    assert_int_equal(write(fd, m.p, m.n), m.n);
    event_free(client->ev);
    close(fd);
    free(client);
}

static void
on_tcp(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct tcp_client *client = xcalloc(1, sizeof(*client));
    client->fake = arg;
    int conn = accept4(fd, NULL, NULL, SOCK_NONBLOCK);
    assert_true(conn >= 0);
    client->ev =
        event_new(loop_base(client->fake->loop), conn, EV_READ | EV_PERSIST, on_tcp_data, client);
    event_add(client->ev, NULL);
}

static void
fake_open(struct fake *f, struct loop *loop)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sa);
    int one = 1, buffer = 400000; /* a burst of all places must fit */
    *f = (struct fake){.loop = loop};
    for (int tries = 0; tries < 50; tries++) { /* one port for both */
        sa.sin_port = 0;
        f->udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        f->tcp = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(f->udp, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
        setsockopt(f->tcp, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        assert_int_equal(bind(f->udp, (struct sockaddr *)&sa, sizeof(sa)), 0);
        getsockname(f->udp, (struct sockaddr *)&sa, &len);
        if (bind(f->tcp, (struct sockaddr *)&sa, sizeof(sa)) == 0)
            break;
        close(f->udp);
        close(f->tcp);
    }
    assert_int_equal(listen(f->tcp, 10), 0);
    f->addr = net_addr_from_sockaddr((struct sockaddr *)&sa);
    f->udp_ev = event_new(loop_base(loop), f->udp, EV_READ | EV_PERSIST, on_udp, f);
    f->tcp_ev = event_new(loop_base(loop), f->tcp, EV_READ | EV_PERSIST, on_tcp, f);
    event_add(f->udp_ev, NULL);
    event_add(f->tcp_ev, NULL);
}

static void
fake_close(struct fake *f)
{
    event_free(f->udp_ev);
    event_free(f->tcp_ev);
    close(f->udp);
    close(f->tcp);
}

/* What one question led to. */
struct asked {
    int n;
    enum dns_status status;
    bool ad, null_mx, truncated;
    uint32_t ttl_s;
    size_t n_records;
    char name[300], text[200], first_host[300];
    struct dns_query *cancel; /* in the callback */
};

struct rig {
    struct loop *loop;
    struct fake fakes[2];
    struct dns *dns;
};

static void
on_answer(void *arg, const struct dns_answer *a)
{
    struct asked *asked = arg;
    assert_int_equal(asked->n, 0);
    asked->n++;
    asked->status = a->status;
    asked->ad = a->ad;
    asked->null_mx = a->null_mx;
    asked->truncated = a->truncated;
    asked->ttl_s = a->ttl_s;
    asked->n_records = a->n_records;
    snprintf(asked->name, sizeof(asked->name), "%s", a->name);
    snprintf(asked->text, sizeof(asked->text), "%s", a->text);
    if (a->n_records > 0 && a->type == DNS_MX)
        snprintf(asked->first_host, sizeof(asked->first_host), "%s", a->records[0].host);
    if (asked->cancel != NULL)
        dns_cancel(asked->cancel);
}

static int
setup(void **state)
{
    struct rig *rig = xcalloc(1, sizeof(*rig));
    struct err err;
    rig->loop = loop_new_stepped(0);
    fake_open(&rig->fakes[0], rig->loop);
    fake_open(&rig->fakes[1], rig->loop);
    struct net_addr servers[] = {rig->fakes[0].addr, rig->fakes[1].addr};
    struct dns_config config = {servers, 2, TIMEOUT, 0};
    if (dns_new(rig->loop, &config, &rig->dns, &err) != ERR_OK)
        return -1;
    *state = rig;
    return 0;
}

static int
teardown(void **state)
{
    struct rig *rig = *state;
    dns_free(rig->dns);
    fake_close(&rig->fakes[0]);
    fake_close(&rig->fakes[1]);
    loop_free(rig->loop);
    free(rig);
    return 0;
}

static struct asked
ask(struct rig *rig, const char *name)
{
    struct asked asked = {0};
    dns_query(rig->dns, name, DNS_MX, on_answer, &asked);
    assert_int_equal(asked.n, 0);
    WAIT_FOR(rig->loop, asked.n == 1);
    return asked;
}

static void
an_answer_arrives_and_is_kept(void **state)
{
    struct rig *rig = *state;
    assert_null(dns_cached(rig->dns, "ok.test", DNS_MX));
    struct asked a = ask(rig, "OK.test.");
    assert_int_equal(a.status, DNS_OK);
    assert_string_equal(a.first_host, "mx.test");
    assert_string_equal(a.name, "ok.test");
    assert_int_equal(a.ttl_s, 100);
    assert_false(a.ad);
    assert_int_equal(rig->fakes[0].n_udp, 1);
    assert_int_equal(rig->fakes[0].n_edns, 1);
    a = ask(rig, "ok.test");
    assert_int_equal(a.status, DNS_OK);
    assert_int_equal(rig->fakes[0].n_udp, 1);
    const struct dns_answer *known = dns_cached(rig->dns, "ok.test", DNS_MX);
    assert_non_null(known);
    clock_step(loop_clock(rig->loop), 60 * SECOND);
    known = dns_cached(rig->dns, "ok.test", DNS_MX);
    assert_int_equal(known->ttl_s, 40);
    clock_step(loop_clock(rig->loop), 40 * SECOND);
    assert_null(dns_cached(rig->dns, "ok.test", DNS_MX));
    ask(rig, "ok.test");
    assert_int_equal(rig->fakes[0].n_udp, 2);
    struct dns_stats stats = dns_stats(rig->dns);
    assert_int_equal(stats.questions, 3);
    assert_int_equal(stats.sent, 2);
    assert_int_equal(stats.cache_hits, 3);
    assert_int_equal(stats.cached, 1);
    assert_int_equal(stats.in_flight, 0);
}

static void
negative_answers_differ_and_are_kept_for_the_soas_time(void **state)
{
    struct rig *rig = *state;
    struct asked a = ask(rig, "nx.test");
    assert_int_equal(a.status, DNS_NXDOMAIN);
    assert_int_equal(a.ttl_s, 50);
    assert_string_equal(a.text, "NXDOMAIN");
    a = ask(rig, "nodata.test");
    assert_int_equal(a.status, DNS_NODATA);
    assert_false(dns_status_temporary(a.status));
    assert_int_equal(rig->fakes[0].n_udp, 2);
    assert_int_equal(rig->fakes[1].n_udp, 0); /* definite: no other server is asked */
    clock_step(loop_clock(rig->loop), 49 * SECOND);
    assert_non_null(dns_cached(rig->dns, "nx.test", DNS_MX));
    clock_step(loop_clock(rig->loop), 1 * SECOND);
    assert_null(dns_cached(rig->dns, "nx.test", DNS_MX));
}

static void
servfail_goes_to_the_next_server(void **state)
{
    struct rig *rig = *state;
    rig->fakes[0].servfail = true;
    struct asked a = ask(rig, "ok.test");
    assert_int_equal(a.status, DNS_OK);
    assert_int_equal(rig->fakes[0].n_udp, 1);
    assert_int_equal(rig->fakes[1].n_udp, 1);
}

static void
servfail_of_all_is_servfail_and_kept_shortly(void **state)
{
    struct rig *rig = *state;
    char text[200], addr[NET_ADDR_TEXT_BYTES];
    struct asked a = ask(rig, "servfail.test");
    assert_int_equal(a.status, DNS_SERVFAIL);
    assert_true(dns_status_temporary(a.status));
    snprintf(text, sizeof(text), "SERVFAIL (%s)", net_addr_format(&rig->fakes[1].addr, addr));
    assert_string_equal(a.text, text);
    assert_int_equal(rig->fakes[0].n_udp + rig->fakes[1].n_udp, 2);
    a = ask(rig, "servfail.test");
    assert_int_equal(rig->fakes[0].n_udp + rig->fakes[1].n_udp, 2);
    clock_step(loop_clock(rig->loop), DNS_FAILURE_TTL_S * SECOND);
    a = ask(rig, "servfail.test");
    assert_int_equal(rig->fakes[0].n_udp + rig->fakes[1].n_udp, 4);
    a = ask(rig, "refused.test");
    assert_int_equal(a.status, DNS_SERVFAIL);
    a = ask(rig, "garbage.test");
    assert_int_equal(a.status, DNS_SERVFAIL);
}

static void
a_silent_server_times_out_and_the_next_is_asked(void **state)
{
    struct rig *rig = *state;
    struct asked a = {0};
    rig->fakes[0].silent = true;
    dns_query(rig->dns, "ok.test", DNS_MX, on_answer, &a);
    WAIT_FOR(rig->loop, rig->fakes[0].n_left == 1);
    clock_step(loop_clock(rig->loop), TIMEOUT - 1);
    loop_run_once(rig->loop, 0);
    assert_int_equal(rig->fakes[1].n_udp, 0);
    clock_step(loop_clock(rig->loop), 1);
    WAIT_FOR(rig->loop, a.n == 1);
    assert_int_equal(a.status, DNS_OK);
    assert_int_equal(rig->fakes[1].n_udp, 1);
}

static void
silence_of_all_is_a_timeout_after_two_rounds(void **state)
{
    struct rig *rig = *state;
    struct asked a = {0};
    dns_query(rig->dns, "drop.test", DNS_MX, on_answer, &a);
    for (int i = 0; i < 4; i++) {
        WAIT_FOR(rig->loop, rig->fakes[0].n_left + rig->fakes[1].n_left == i + 1);
        assert_int_equal(a.n, 0);
        clock_step(loop_clock(rig->loop), TIMEOUT);
    }
    WAIT_FOR(rig->loop, a.n == 1);
    assert_int_equal(a.status, DNS_TIMEOUT);
    assert_true(strncmp(a.text, "timeout (127.0.0.1:", 19) == 0);
    assert_int_equal(rig->fakes[0].n_udp, 2);
    assert_int_equal(rig->fakes[1].n_udp, 2);
}

static void
a_server_that_keeps_silent_comes_last_for_a_while(void **state)
{
    struct rig *rig = *state;
    char name[32];
    rig->fakes[0].silent = true;
    for (int i = 0; i < 3; i++) {
        struct asked a = {0};
        snprintf(name, sizeof(name), "n%d.test", i);
        dns_query(rig->dns, name, DNS_MX, on_answer, &a);
        WAIT_FOR(rig->loop, rig->fakes[0].n_left == i + 1);
        clock_step(loop_clock(rig->loop), TIMEOUT);
        WAIT_FOR(rig->loop, a.n == 1);
    }
    ask(rig, "n4.test");
    assert_int_equal(rig->fakes[0].n_udp, 3); /* not asked any more */
    clock_step(loop_clock(rig->loop), 30 * SECOND);
    rig->fakes[0].silent = false;
    ask(rig, "n5.test");
    assert_int_equal(rig->fakes[0].n_udp, 4);
    ask(rig, "n6.test");
    assert_int_equal(rig->fakes[0].n_udp, 5);
}

static void
a_dead_server_is_passed_over_at_once(void **state)
{
    struct rig *rig = *state;
    struct err err;
    struct fake dead;
    fake_open(&dead, rig->loop);
    fake_close(&dead);
    struct net_addr servers[] = {dead.addr, rig->fakes[1].addr};
    struct dns_config config = {servers, 2, TIMEOUT, 0};
    assert_int_equal(dns_reconfigure(rig->dns, &config, &err), ERR_OK);
    struct asked a = ask(rig, "ok.test"); /* without a step of the clock */
    assert_int_equal(a.status, DNS_OK);
    config.n_servers = 1;
    assert_int_equal(dns_reconfigure(rig->dns, &config, &err), ERR_OK);
    a = ask(rig, "ok.test");
    assert_int_equal(a.status, DNS_SERVFAIL);
}

static void
a_truncated_answer_is_fetched_over_tcp(void **state)
{
    struct rig *rig = *state;
    struct asked a = ask(rig, "many.test");
    assert_int_equal(a.status, DNS_OK);
    assert_int_equal(a.n_records, 120);
    assert_false(a.truncated);
    assert_string_equal(a.first_host, "a-rather-long-host-name-0.many.test");
    assert_int_equal(rig->fakes[0].n_udp, 1);
    assert_int_equal(rig->fakes[0].n_tcp, 1);
    assert_int_equal(dns_stats(rig->dns).tcp, 1);
}

static void
cname_chains_inside_and_outside_of_a_message_are_followed(void **state)
{
    struct rig *rig = *state;
    struct asked a = ask(rig, "chain.test");
    assert_int_equal(a.status, DNS_OK);
    assert_string_equal(a.name, "two.test");
    assert_int_equal(a.ttl_s, 20);
    assert_int_equal(rig->fakes[0].n_udp, 1);
    a = ask(rig, "chase.test");
    assert_int_equal(a.status, DNS_OK);
    assert_string_equal(a.name, "ok.test");
    assert_int_equal(a.ttl_s, 40);
    assert_int_equal(rig->fakes[0].n_udp, 3);
    a = ask(rig, "loop.test");
    assert_int_equal(a.status, DNS_SERVFAIL);
    assert_non_null(strstr(a.text, "loop"));
    assert_in_range(rig->fakes[0].n_udp, 5, 3 + DNS_CNAME_MAX + 1);
}

static void
forged_answers_are_ignored(void **state)
{
    struct rig *rig = *state;
    struct asked a = ask(rig, "wrongid.test");
    assert_int_equal(a.status, DNS_OK);
    assert_string_equal(a.first_host, "mx.test");
}

static void
null_mx_and_authenticated_data_are_told(void **state)
{
    struct rig *rig = *state;
    struct asked a = ask(rig, "null.test");
    assert_int_equal(a.status, DNS_OK);
    assert_true(a.null_mx);
    a = ask(rig, "ad.test");
    assert_true(a.ad); /* the server is on loopback */
}

static void
a_server_without_edns_is_asked_without(void **state)
{
    struct rig *rig = *state;
    rig->fakes[0].no_edns = rig->fakes[1].no_edns = true;
    struct asked a = ask(rig, "ok1.test"); /* c-ares itself takes the OPT out, once */
    assert_int_equal(a.status, DNS_OK);
    a = ask(rig, "ok2.test");
    assert_int_equal(a.status, DNS_OK);
    int n_edns = rig->fakes[0].n_edns;
    a = ask(rig, "ok3.test");
    assert_int_equal(a.status, DNS_OK);
    assert_int_equal(rig->fakes[0].n_edns, n_edns);
    assert_int_equal(rig->fakes[1].n_udp, 0);
}

static void
same_questions_are_joined(void **state)
{
    struct rig *rig = *state;
    struct asked a[3] = {{0}};
    for (int i = 0; i < 3; i++)
        dns_query(rig->dns, i == 1 ? "OK.TEST" : "ok.test", DNS_MX, on_answer, &a[i]);
    WAIT_FOR(rig->loop, a[0].n == 1);
    assert_int_equal(a[1].n + a[2].n, 2);
    assert_int_equal(rig->fakes[0].n_udp, 1);
}

static void
a_cancelled_question_is_not_told_but_kept(void **state)
{
    struct rig *rig = *state;
    struct asked a = {0}, b = {0}, c = {0};
    struct dns_query *q = dns_query(rig->dns, "ok.test", DNS_MX, on_answer, &a);
    dns_cancel(q);
    WAIT_FOR(rig->loop, dns_cached(rig->dns, "ok.test", DNS_MX) != NULL);
    dns_query(rig->dns, "ok.test", DNS_MX, on_answer, &b); /* a cache hit may be cancelled too */
    q = dns_query(rig->dns, "ok.test", DNS_MX, on_answer, &c);
    dns_cancel(q);
    WAIT_FOR(rig->loop, b.n == 1);
    /* From inside the callback of one that shares the question. */
    struct asked d = {0}, e = {0};
    dns_query(rig->dns, "ok2.test", DNS_MX, on_answer, &d);
    d.cancel = dns_query(rig->dns, "ok2.test", DNS_MX, on_answer, &e);
    WAIT_FOR(rig->loop, d.n == 1);
    loop_run_once(rig->loop, 0);
    assert_int_equal(a.n + c.n + e.n, 0);
}

static void
names_that_cannot_be_asked_for_are_told_later(void **state)
{
    struct rig *rig = *state;
    struct asked a = ask(rig, "two..dots.test");
    assert_int_equal(a.status, DNS_BADNAME);
    a = ask(rig, "");
    assert_int_equal(a.status, DNS_BADNAME);
    assert_int_equal(rig->fakes[0].n_udp, 0);
}

static void
questions_beyond_the_limit_wait_for_a_place(void **state)
{
    struct rig *rig = *state;
    static struct asked a[DNS_IN_FLIGHT_MAX + 50];
    char name[32];
    memset(a, 0, sizeof(a));
    for (size_t i = 0; i < N_ELEMENTS(a); i++) {
        snprintf(name, sizeof(name), "q%zu.test", i);
        dns_query(rig->dns, name, DNS_MX, on_answer, &a[i]);
    }
    struct dns_stats stats = dns_stats(rig->dns);
    assert_int_equal(stats.in_flight, DNS_IN_FLIGHT_MAX);
    assert_int_equal(stats.waiting, 50);
    for (size_t i = 0; i < N_ELEMENTS(a); i++) {
        WAIT_FOR(rig->loop, a[i].n == 1);
        assert_int_equal(a[i].status, DNS_OK);
    }
    assert_int_equal(dns_stats(rig->dns).waiting, 0);
}

static void
waiting_in_line_ends_in_a_timeout(void **state)
{
    struct rig *rig = *state;
    static struct asked a[DNS_IN_FLIGHT_MAX + 1];
    char name[32];
    rig->fakes[0].silent = rig->fakes[1].silent = true;
    memset(a, 0, sizeof(a));
    for (size_t i = 0; i < N_ELEMENTS(a); i++) {
        snprintf(name, sizeof(name), "q%zu.test", i);
        dns_query(rig->dns, name, DNS_MX, on_answer, &a[i]);
    }
    /* At worst: a try at each server, then the line, whose limit is four time-outs. */
    for (int i = 0; i < 6; i++)
        clock_step(loop_clock(rig->loop), TIMEOUT);
    for (size_t i = 0; i < N_ELEMENTS(a); i++) {
        WAIT_FOR(rig->loop, a[i].n == 1);
        assert_int_equal(a[i].status, DNS_TIMEOUT);
    }
}

static void
the_cache_forgets_the_least_used(void **state)
{
    struct rig *rig = *state;
    struct err err;
    struct net_addr servers[] = {rig->fakes[0].addr, rig->fakes[1].addr};
    struct dns_config config = {servers, 2, TIMEOUT, 3};
    assert_int_equal(dns_reconfigure(rig->dns, &config, &err), ERR_OK);
    ask(rig, "a.test");
    ask(rig, "b.test");
    ask(rig, "c.test");
    ask(rig, "a.test");
    ask(rig, "d.test");
    assert_int_equal(dns_stats(rig->dns).cached, 3);
    assert_non_null(dns_cached(rig->dns, "a.test", DNS_MX));
    assert_null(dns_cached(rig->dns, "b.test", DNS_MX));
    dns_flush(rig->dns);
    assert_null(dns_cached(rig->dns, "a.test", DNS_MX));
}

static void
new_servers_get_the_questions_under_way(void **state)
{
    struct rig *rig = *state;
    struct asked a = {0};
    struct err err;
    rig->fakes[0].silent = true;
    dns_query(rig->dns, "ok.test", DNS_MX, on_answer, &a);
    WAIT_FOR(rig->loop, rig->fakes[0].n_left == 1);
    struct dns_config config = {&rig->fakes[1].addr, 1, TIMEOUT, 0};
    assert_int_equal(dns_reconfigure(rig->dns, &config, &err), ERR_OK);
    WAIT_FOR(rig->loop, a.n == 1);
    assert_int_equal(a.status, DNS_OK);
    config.n_servers = DNS_SERVERS_MAX + 1;
    assert_int_equal(dns_reconfigure(rig->dns, &config, &err), ERR_INVAL);
    assert_int_equal(ask(rig, "still.test").status, DNS_OK);
}

static void
freeing_it_drops_what_is_under_way(void **state)
{
    struct rig *rig = *state;
    struct asked a = {0};
    struct err err;
    dns_query(rig->dns, "drop.test", DNS_MX, on_answer, &a);
    dns_query(rig->dns, "bad..name", DNS_MX, on_answer, &a);
    loop_run_once(rig->loop, 0);
    a = (struct asked){0};
    dns_query(rig->dns, "ok.test", DNS_MX, on_answer, &a);
    dns_free(rig->dns);
    loop_run_once(rig->loop, 5);
    assert_int_equal(a.n, 0);
    struct dns_config config = {&rig->fakes[1].addr, 1, TIMEOUT, 0};
    assert_int_equal(dns_new(rig->loop, &config, &rig->dns, &err), ERR_OK);
}

static void
ids_are_not_predictable_from_the_last(void **state)
{
    struct rig *rig = *state;
    char name[32];
    int n_steps = 0;
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "i%d.test", i);
        ask(rig, name);
    }
    for (int i = 1; i < 40; i++) {
        int step = abs((int)rig->fakes[0].ids[i] - (int)rig->fakes[0].ids[i - 1]);
        n_steps += step < 256;
    }
    assert_true(n_steps < 10); /* of 39; by chance about 0.3 */
}

int
main(int argc, char **argv)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(an_answer_arrives_and_is_kept),
        T(negative_answers_differ_and_are_kept_for_the_soas_time),
        T(servfail_goes_to_the_next_server),
        T(servfail_of_all_is_servfail_and_kept_shortly),
        T(a_silent_server_times_out_and_the_next_is_asked),
        T(silence_of_all_is_a_timeout_after_two_rounds),
        T(a_server_that_keeps_silent_comes_last_for_a_while),
        T(a_dead_server_is_passed_over_at_once),
        T(a_truncated_answer_is_fetched_over_tcp),
        T(cname_chains_inside_and_outside_of_a_message_are_followed),
        T(forged_answers_are_ignored),
        T(null_mx_and_authenticated_data_are_told),
        T(a_server_without_edns_is_asked_without),
        T(same_questions_are_joined),
        T(a_cancelled_question_is_not_told_but_kept),
        T(names_that_cannot_be_asked_for_are_told_later),
        T(questions_beyond_the_limit_wait_for_a_place),
        T(waiting_in_line_ends_in_a_timeout),
        T(the_cache_forgets_the_least_used),
        T(new_servers_get_the_questions_under_way),
        T(freeing_it_drops_what_is_under_way),
        T(ids_are_not_predictable_from_the_last),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
