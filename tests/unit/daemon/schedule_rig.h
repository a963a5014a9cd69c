/*
 * schedule_rig - a schedule at work: real queue, store, loop and resolver; the clock is stepped, a
 * name server on loopback answers from a table, and connections, outcomes and the record are the
 * test's own.
 *
 * Unless the table says else, DOMAIN has one MX, mx.DOMAIN, and every host has one address. A
 * connection waits for the test to say ready, failed or closed, and a transaction for its end,
 * unless `auto_ready` and `auto_end` are set.
 */
#pragma once

#include "tests/unit/queue/fixture.h"

#include <arpa/inet.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "relayd/facts.h"
#include "relayd/net/dns.h"
#include "relayd/ops/log.h"
#include "relayd/message.h"
#include "relayd/schedule/internal.h"
#include "relayd/store/store.h"
#include "tests/unit/net/dns_message.h"
#include "tests/unit/policy/config_text.h"

#define RIG_CONNS 4096
#define RIG_NAMES 16

/* What the name server says of one name instead of the usual. */
struct rig_name {
    const char *name;
    const char *mx[FACTS_HOSTS_MAX + 1]; /* in order of preference, 10, 20, 30 ... */
    int rcode;        /* 0: fine, 2: SERVFAIL, 3: NXDOMAIN, -1: no answer at all */
    uint32_t ttl_s;   /* 0: 0; only with mx */
    bool no_address;  /* it is a host without A */
    bool no_mx;       /* it is a domain without MX */
    uint32_t ip, ip2; /* its addresses; 0: some public one, and no second one */
    unsigned n_more;  /* addresses behind `ip` and up from it */
    uint8_t ip6[16];  /* its AAAA; zero: none */
    int asked;
};

enum rig_state { RIG_OPENING, RIG_READY, RIG_BUSY, RIG_CLOSING, RIG_GONE };

struct rig_conn {
    struct deferred deferred;
    struct site_link *link;
    enum rig_state state;
    char route[32], site[256];
    bool is_hop, has_fallback, quit;
    enum config_tls tls;
    struct ip ip;
    uint16_t port;
    size_t n_rcpts, n_txns;
    struct rcpt *rcpts[100];
};

/* The outcomes of one transaction on their way into the store. */
struct rig_batch {
    struct store_op op;
    size_t n;
    struct rcpt *rcpts[100];
    struct queue_change changes[100];
    enum rcpt_fate fates[100];
};

static struct {
    struct fixture f;
    struct loop *loop;
    struct clock *clock;
    struct inbox *inbox;
    struct log *log;
    struct store *store;
    struct dns *dns;
    struct facts *facts;
    struct config *config;
    struct schedule *schedule;
    int dns_fd;
    struct event *dns_event;
    struct net_addr dns_addr;
    struct rig_name names[RIG_NAMES];
    size_t n_names;
    struct rig_conn *conns[RIG_CONNS]; /* in the order they were opened */
    size_t n_conns, n_open, most_open;
    bool auto_ready, auto_end;
    struct outcome end; /* of automatic transactions */
    bool reroute;       /* record asks for another route at a path failure */
    bool overdue;       /* every recipient is */
    const char *wanted; /* route that the administrator wants */
    msec_t defer_ms;    /* how long a deferral is */
    size_t most_in_hand, n_sends;
    size_t n_accepting, n_batches, n_delivered, n_deferred, n_failed, n_rerouted, n_held, n_twice;
    char last_text[OUTCOME_TEXT_MAX + 1], last_route[32], last_site[256];
    msec_t last_probe_at, last_begun_at; /* of the recipient: as record sees them */
    bool drained;
} r;

/* ---- the name server ---- */

static struct rig_name *
rig_name(const char *name)
{
    for (size_t i = 0; i < r.n_names; i++)
        if (strcmp(r.names[i].name, name) == 0)
            return &r.names[i];
    assert_true(r.n_names < RIG_NAMES);
    r.names[r.n_names] = (struct rig_name){.name = name, .ttl_s = 300};
    return &r.names[r.n_names++];
}

FIXTURE_UNUSED static struct rig_name *
rig_mx(const char *domain, const char *host)
{
    struct rig_name *n = rig_name(domain);
    memset(n->mx, 0, sizeof(n->mx));
    n->mx[0] = host;
    return n;
}

static void
rig_answer(struct dns_message *m, uint16_t id, const char *name, uint16_t type)
{
    const struct rig_name *n = NULL;
    char host[300];
    for (size_t i = 0; i < r.n_names; i++)
        if (strcmp(r.names[i].name, name) == 0)
            n = &r.names[i];
    put_header(m, id, n == NULL ? 0 : (unsigned)n->rcode, name, type);
    if (n != NULL && n->rcode != 0) {
        if (n->rcode == 3)
            put_soa(m, "test", 60, 60);
    } else if (type == DNS_MX && n != NULL && n->mx[0] != NULL) {
        for (unsigned i = 0; n->mx[i] != NULL; i++) /* "" is the root: null MX */
            put_mx(m, name, n->ttl_s, 10 * (i + 1), n->mx[i]);
    } else if (type == DNS_MX && (n == NULL || !n->no_mx)) {
        snprintf(host, sizeof(host), "mx.%s", name);
        put_mx(m, name, 300, 10, host);
    } else if (type == DNS_A && (n == NULL || !n->no_address)) {
        put_a(m, name, 300, n != NULL && n->ip != 0 ? n->ip : 0xc6336401u + (uint32_t)strlen(name));
        if (n != NULL && n->ip2 != 0)
            put_a(m, name, 300, n->ip2);
        for (unsigned i = 1; n != NULL && i <= n->n_more; i++)
            put_a(m, name, 300, n->ip + i);
    } else if (type == DNS_AAAA && n != NULL && n->ip6[0] != 0) {
        put_aaaa(m, name, 300, n->ip6);
    } else {
        put_soa(m, "test", 300, 300);
    }
}

static void
rig_question(const uint8_t *buf, const struct sockaddr_in *from)
{
    static struct dns_message m;
    char name[300];
    size_t at = 12, out = 0;
    for (; buf[at] != 0; at += 1u + buf[at]) {
        if (out > 0)
            name[out++] = '.';
        memcpy(name + out, buf + at + 1, buf[at]);
        out += buf[at];
    }
    name[out] = '\0';
    for (size_t i = 0; i < r.n_names; i++) {
        if (strcmp(r.names[i].name, name) != 0)
            continue;
        r.names[i].asked++;
        if (r.names[i].rcode < 0)
            return;
    }
    rig_answer(&m, (uint16_t)(buf[0] << 8 | buf[1]), name,
               (uint16_t)(buf[at + 1] << 8 | buf[at + 2]));
    assert_int_equal(sendto(r.dns_fd, m.p, m.n, 0, (const struct sockaddr *)from, sizeof(*from)),
                     m.n);
}

static void
rig_on_question(evutil_socket_t fd, short what, void *arg)
{
    uint8_t buf[600];
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    (void)what;
    (void)arg;
    while (recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len) > 16)
        rig_question(buf, &from);
}

static void
rig_dns_open(void)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(sin);
    int big = 1 << 20;
    r.dns_fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_true(r.dns_fd >= 0);
    setsockopt(r.dns_fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof(big));
    assert_int_equal(bind(r.dns_fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    assert_int_equal(getsockname(r.dns_fd, (struct sockaddr *)&sin, &len), 0);
    r.dns_addr.ip = ip_from_sockaddr((struct sockaddr *)&sin, &r.dns_addr.port);
    r.dns_event =
        event_new(loop_base(r.loop), r.dns_fd, EV_READ | EV_PERSIST, rig_on_question, NULL);
    event_add(r.dns_event, NULL);
}

/* ---- the record ---- */

static void
rig_recorded(struct store_op *op)
{
    struct rig_batch *b = CONTAINER_OF(op, struct rig_batch, op);
    for (size_t i = 0; i < b->n; i++) {
        enum err_code code = op->code != ERR_OK ? op->code : b->changes[i].code;
        r.n_twice += code == ERR_NOT_FOUND && b->fates[i] == FATE_FINISHED;
        schedule_recorded(r.schedule, b->rcpts[i], code == ERR_OK ? b->fates[i] : FATE_CHANGED,
                          b->changes[i].due_at, op->txn_id);
    }
    free(b);
}

static void
rig_batch_add(struct rig_batch *b, struct rcpt *rcpt, enum rcpt_fate fate, enum queue_verb verb,
              enum queue_result result)
{
    assert_int_equal(rcpt->stage, STAGE_RECORDING);
    b->rcpts[b->n] = rcpt;
    b->fates[b->n] = fate;
    b->changes[b->n++] = (struct queue_change){.id = rcpt->key.id,
                                               .no = (uint32_t)rcpt->key.no,
                                               .revision = rcpt->revision,
                                               .verb = verb,
                                               .result = result,
                                               .finished_at = clock_wall(r.clock),
                                               .due_at = clock_wall(r.clock) + r.defer_ms};
}

static void
rig_submit(struct rig_batch *b)
{
    if (b->n == 0) {
        free(b);
        return;
    }
    b->op.kind = STORE_OUTCOMES;
    b->op.done = rig_recorded;
    b->op.outcomes.changes = b->changes;
    b->op.outcomes.n_changes = b->n;
    store_submit(r.store, &b->op);
}

static void
rig_attempted(void *arg, struct attempt *attempts, size_t n)
{
    struct rig_batch *b = xcalloc(1, sizeof(*b));
    (void)arg;
    r.n_batches++;
    for (size_t i = 0; i < n; i++) {
        const struct outcome *o = &attempts[i].outcome;
        struct rcpt *rcpt = attempts[i].rcpt;
        assert_ptr_equal(rcpt->msg, attempts[0].rcpt->msg);
        snprintf(r.last_text, sizeof(r.last_text), "%s", o->text);
        snprintf(r.last_route, sizeof(r.last_route), "%s", attempts[i].route);
        snprintf(r.last_site, sizeof(r.last_site), "%s", attempts[i].site);
        r.last_probe_at = schedule_probe_at(r.schedule, rcpt);
        r.last_begun_at = rcpt->begun_at;
        const struct reroute why = {.outcome = o, .klass = "routing-error", .early = true};
        if (o->kind == OUTCOME_DELIVERED)
            schedule_delivered(r.schedule, rcpt);
        if (o->path && r.reroute && schedule_reroute(r.schedule, rcpt, &why) == REROUTED) {
            r.n_rerouted++;
        } else if (o->kind == OUTCOME_DEFERRED) {
            r.n_deferred++;
            rig_batch_add(b, rcpt, FATE_DEFERRED, QUEUE_DEFER, 0);
        } else {
            r.n_delivered += o->kind == OUTCOME_DELIVERED;
            r.n_failed += o->kind == OUTCOME_FAILED;
            rig_batch_add(b, rcpt, FATE_FINISHED, QUEUE_FINISH,
                          o->kind == OUTCOME_DELIVERED ? QUEUE_DELIVERED : QUEUE_FAILED);
        }
    }
    rig_submit(b);
}

static bool
rig_curable(void *arg, const struct outcome *o, const char *host)
{
    (void)host;
    (void)arg;
    return o->path;
}

static void
rig_hold(void *arg, struct rcpt *rcpt, struct span reason)
{
    struct rig_batch *b = xcalloc(1, sizeof(*b));
    (void)arg;
    (void)reason;
    r.n_held++;
    rig_batch_add(b, rcpt, FATE_HELD, QUEUE_HOLD, 0);
    rig_submit(b);
}

static struct span
rig_wanted(void *arg, const struct rcpt *rcpt)
{
    (void)arg;
    (void)rcpt;
    return r.wanted == NULL ? SPAN_NONE : span_str(r.wanted);
}

static bool
rig_overdue(void *arg, const struct rcpt *rcpt)
{
    (void)arg;
    (void)rcpt;
    return r.overdue;
}

/* ---- connections ---- */

static void rig_auto(struct deferred *d);

static void
rig_wake(struct rig_conn *c)
{
    bool wake = c->state == RIG_OPENING ? r.auto_ready || c->quit
                : c->state == RIG_BUSY  ? r.auto_end
                                        : c->quit && c->state != RIG_GONE;
    if (wake)
        loop_defer(r.loop, &c->deferred, rig_auto);
}

static void *
rig_open(void *arg, struct site_link *link, const struct schedule_target *t)
{
    struct rig_conn *c = xcalloc(1, sizeof(*c));
    (void)arg;
    assert_true(r.n_conns < RIG_CONNS);
    assert_true(t->endpoints->ok && t->endpoints->n > 0);
    r.conns[r.n_conns++] = c;
    if (++r.n_open > r.most_open)
        r.most_open = r.n_open;
    c->link = link;
    snprintf(c->route, sizeof(c->route), "%s", t->route);
    snprintf(c->site, sizeof(c->site), "%s", t->site);
    c->is_hop = t->hop != NULL;
    c->has_fallback = t->has_fallback;
    c->tls = t->tls;
    c->ip = t->endpoints->list[0].ip;
    c->port = t->endpoints->list[0].port;
    rig_wake(c);
    return c;
}

static void
rig_send(void *arg, void *conn, struct rcpt *const *rcpts, size_t n)
{
    struct rig_conn *c = conn;
    (void)arg;
    assert_int_equal(c->state, RIG_READY);
    assert_false(c->quit);
    assert_true(n > 0 && n <= 100);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(rcpts[i]->stage, STAGE_BUSY);
        assert_ptr_equal(rcpts[i]->msg, rcpts[0]->msg);
        assert_true(rcpts[i]->msg->loaded);
        c->rcpts[i] = rcpts[i];
    }
    c->n_rcpts = n;
    c->n_txns++;
    r.n_sends++;
    c->state = RIG_BUSY;
    rig_wake(c);
}

static void
rig_quit(void *arg, void *conn)
{
    struct rig_conn *c = conn;
    (void)arg;
    assert_int_not_equal(c->state, RIG_GONE);
    c->quit = true;
    if (c->state == RIG_READY)
        c->state = RIG_CLOSING;
    rig_wake(c);
}

static bool
rig_ready(void *arg, void *conn)
{
    const struct rig_conn *c = conn;
    (void)arg;
    return c->state == RIG_READY && !c->quit;
}

static void
conn_ready(struct rig_conn *c)
{
    assert_false(c->quit);
    c->state = RIG_READY;
    schedule_link_ready(c->link);
}

static void
conn_gone(struct rig_conn *c)
{
    loop_defer_cancel(&c->deferred);
    c->state = RIG_GONE;
    r.n_open--;
}

static void
conn_closed(struct rig_conn *c)
{
    conn_gone(c);
    schedule_link_closed(c->link);
}

FIXTURE_UNUSED static void
conn_failed(struct rig_conn *c, const struct outcome *o)
{
    assert_int_equal(c->state, RIG_OPENING);
    conn_gone(c);
    schedule_link_failed(c->link, o);
}

/* The transaction under way ends so for all its recipients; `trouble`: the hop is to blame. */
static void
conn_end(struct rig_conn *c, const struct outcome *o, bool trouble)
{
    struct attempt attempts[100];
    size_t n = c->n_rcpts;
    assert_int_equal(c->state, RIG_BUSY);
    for (size_t i = 0; i < n; i++)
        attempts[i] = (struct attempt){.rcpt = c->rcpts[i],
                                       .outcome = *o,
                                       .route = schedule_link_route(c->link),
                                       .site = schedule_link_site(c->link),
                                       .peer = "",
                                       .host = "",
                                       .tls = ""};
    c->n_rcpts = 0;
    schedule_link_sent(c->link, trouble ? o : NULL);
    rig_attempted(NULL, attempts, n);
    if (c->quit)
        conn_closed(c);
    else
        conn_ready(c);
}

static void
rig_auto(struct deferred *d)
{
    struct rig_conn *c = CONTAINER_OF(d, struct rig_conn, deferred);
    if (c->state == RIG_BUSY)
        conn_end(c, &r.end, false);
    else if (c->quit)
        conn_closed(c);
    else if (c->state == RIG_OPENING)
        conn_ready(c);
}

static const struct schedule_ops rig_ops = {
    .open = rig_open,
    .send = rig_send,
    .quit = rig_quit,
    .ready = rig_ready,
    .attempted = rig_attempted,
    .curable = rig_curable,
    .hold = rig_hold,
    .wanted_route = rig_wanted,
    .overdue = rig_overdue,
};

/* ---- life ---- */

#define RIG_HEAD                                 \
    "node: {name: cn, hostname: cn.example}\n"   \
    "listeners: [{address: '127.0.0.1:2525'}]\n" \
    "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
static struct config *
rig_config(const char *text)
{
    struct strbuf all = STRBUF_INIT, out = STRBUF_INIT;
    strbuf_printf(&all, RIG_HEAD "%s%s%s",
                  strstr(text, "shaping:") == NULL ? "shaping: {default: {max_rate: none}}\n" : "",
                  strstr(text, "direct: {") == NULL ? "direct: {allow_private: true}\n" : "", text);
    const struct text_file files[] = {{.path = "c.yaml", .text = all.p}};
    struct config *config = text_load(files, N_ELEMENTS(files), 0, &out);
    if (config == NULL)
        fail_msg("%s", out.p);
    strbuf_release(&all);
    strbuf_release(&out);
    return config;
}

/* Everything but store and schedule; the queue may be filled now. */
static void
rig_open_queue(void)
{
    memset(&r, 0, sizeof(r));
    r.defer_ms = 5 * MINUTE;
    outcome_set(&r.end, OUTCOME_DELIVERED, ORIGIN_PEER, "body-end", "2.0.0", "ok");
    fixture_make_dir(&r.f);
    fixture_open(&r.f);
    r.loop = loop_new_stepped(T0);
    r.clock = loop_clock(r.loop);
    r.inbox = inbox_new(loop_base(r.loop));
    r.log = log_new(NULL);
    OK(log_set_target(r.log, "/dev/null", err));
    rig_dns_open();
    const struct dns_config dns = {.servers = &r.dns_addr, .n_servers = 1};
    OK(dns_new(r.loop, &dns, &r.dns, err));
    r.facts = facts_new(r.dns);
}

FIXTURE_UNUSED static void
rig_schedule(const char *config, size_t max_connections)
{
    r.config = rig_config(config);
    facts_set_config(r.facts, r.config);
    const struct store_options store = {.queue = r.f.queue, .inbox = r.inbox};
    OK(store_new(&store, &r.store, err));
    const struct schedule_env env = {
        .loop = r.loop,
        .log = r.log,
        .store = r.store,
        .queue = r.f.queue,
        .facts = r.facts,
        .policy = {.config = r.config},
        .max_connections = max_connections,
        .ops = &rig_ops,
    };
    r.schedule = schedule_new(&env);
    schedule_start(r.schedule);
}

static void
rig_run(void)
{
    struct schedule_numbers n;
    clock_step(r.clock, 0); /* timers that are due already */
    loop_run_once(r.loop, 1);
    schedule_numbers(r.schedule, &n);
    if (n.in_hand > r.most_in_hand)
        r.most_in_hand = n.in_hand;
}

/* Run the loop until `condition`; a test that gets stuck fails here instead of hanging. */
#define RIG_WAIT(condition)                                     \
    do {                                                        \
        int rounds_ = 0;                                        \
        while (!(condition)) {                                  \
            if (++rounds_ > 20000)                              \
                fail_msg("it never came true: %s", #condition); \
            rig_run();                                          \
        }                                                       \
    } while (0)

/* Everything that was begun has come back: nothing changes any more without the clock. Questions
 * that the name server leaves unanswered are not waited for. */
static void
rig_settle(void)
{
    struct store_numbers n;
    uint64_t answers = 0;
    for (int quiet = 0; quiet < 25; quiet++) {
        rig_run();
        store_numbers(r.store, &n);
        struct dns_stats d = dns_stats(r.dns);
        if (n.waiting_ops > 0 || n.waiting_reads > 0 || d.answers != answers)
            quiet = 0;
        answers = d.answers;
        if (quiet == 0)
            continue;
        if (quiet >= 5 && d.in_flight == 0 && d.waiting == 0)
            return;
    }
}

/* Let `ms` pass in steps of at most `step`, with all that happens meanwhile. */
FIXTURE_UNUSED static void
rig_pass(msec_t ms, msec_t step)
{
    while (ms > 0) {
        clock_step(r.clock, ms < step ? ms : step);
        ms -= step;
        rig_settle();
    }
}

static void
rig_stop(void)
{
    schedule_stop(r.schedule);
    for (size_t i = 0; i < r.n_conns; i++)
        loop_defer_cancel(&r.conns[i]->deferred);
    store_stop(r.store);
    inbox_run(r.inbox);
    schedule_free(r.schedule);
    store_free(r.store);
    r.schedule = NULL;
    r.store = NULL;
    for (size_t i = 0; i < r.n_conns; i++)
        free(r.conns[i]);
    r.n_conns = r.n_open = r.most_open = 0;
}

static int
rig_setup(void **state)
{
    (void)state;
    rig_open_queue();
    return 0;
}

static int
rig_teardown(void **state)
{
    (void)state;
    if (r.schedule != NULL)
        rig_stop();
    assert_int_equal(r.n_twice, 0);
    assert_sound(&r.f);
    facts_free(r.facts);
    dns_free(r.dns);
    event_free(r.dns_event);
    close(r.dns_fd);
    inbox_run(r.inbox);
    inbox_free(r.inbox);
    loop_free(r.loop);
    log_free(r.log);
    config_free(r.config);
    fixture_close(&r.f);
    remove_dir(r.f.dir);
    return 0;
}

/* ---- mail ---- */

/* `n` messages with one recipient each in the fresh table; before rig_schedule(). */
FIXTURE_UNUSED static void
rig_fill(size_t n, const char *address)
{
    struct queue_batch *batch = begin(&r.f);
    for (size_t i = 0; i < n; i++)
        add_to(&r.f, batch, (const char *const[]){address, NULL});
    commit(batch);
}

struct rig_mail {
    struct store_op op;
    struct queue_rcpt rcpts[64];
    size_t n;
    struct span body;
    bool done;
};

static void
rig_mail_done(struct store_op *op)
{
    struct rig_mail *m = CONTAINER_OF(op, struct rig_mail, op);
    struct rcpt *rcpts[64];
    assert_int_equal(op->code, ERR_OK);
    r.n_accepting--;
    struct msg *msg = msg_new(&op->add.msg, "cn");
    struct msg_body *body = xmalloc(sizeof(*body) + m->body.n);
    msg->loaded = true;
    body->n = m->body.n;
    memcpy(body->bytes, m->body.p, m->body.n);
    for (size_t i = 0; i < m->n; i++)
        rcpts[i] = rcpt_new(&m->rcpts[i], queue_lane(r.f.queue, m->rcpts[i].domain));
    schedule_take(r.schedule, msg, body, rcpts, m->n);
    free(m);
}

/* Stored, and the schedule is not told: as if there had been no room in hand. */
FIXTURE_UNUSED static void
rig_mail_lost(struct store_op *op)
{
    assert_int_equal(op->code, ERR_OK);
    free(CONTAINER_OF(op, struct rig_mail, op));
}

/* Accept one message, as intake does. Ends with NULL. Returns its id. */
FIXTURE_UNUSED static uint64_t
rig_accept(const char *const *addresses)
{
    struct rig_mail *m = xcalloc(1, sizeof(*m));
    m->body = SPAN("Subject: x\r\n\r\nhello\r\n");
    m->op.add.msg = message(&r.f, m->body.n);
    uint64_t id = m->op.add.msg.id;
    for (; addresses[m->n] != NULL; m->n++) {
        m->rcpts[m->n] = recipient((uint32_t)m->n, addresses[m->n]);
        m->rcpts[m->n].id = id;
        m->rcpts[m->n].revision = 1;
    }
    m->op.kind = STORE_ADD;
    m->op.done = rig_mail_done;
    m->op.add.rcpts = m->rcpts;
    m->op.add.n_rcpts = m->n;
    m->op.add.body = &m->body;
    m->op.add.n_body = 1;
    r.n_accepting++;
    store_submit(r.store, &m->op);
    return id;
}

FIXTURE_UNUSED static uint64_t
rig_accept_one(const char *address)
{
    return rig_accept((const char *const[]){address, NULL});
}

FIXTURE_UNUSED static void
rig_op_ignored(struct store_op *op)
{
    assert_int_equal(op->code, ERR_OK);
}

/* ---- verbs ---- */

struct rig_verb {
    struct store_op op;
    struct queue_touched touched[64];
    bool done;
};

static void
rig_verb_done(struct store_op *op)
{
    struct rig_verb *v = CONTAINER_OF(op, struct rig_verb, op);
    assert_int_equal(op->code, ERR_OK);
    schedule_touched(r.schedule, v->touched, op->admin.n_touched, op->txn_id);
    if (op->admin.change.verb == QUEUE_DEFER)
        schedule_retried(r.schedule, v->touched, op->admin.n_touched);
    v->done = true;
}

/* One verb on a message, or on all (0), as the control socket does it. How many it touched. */
FIXTURE_UNUSED static size_t
rig_verb(uint64_t id, enum queue_verb verb)
{
    static struct rig_verb v;
    msec_t now = clock_wall(r.clock);
    int rounds = 0;
    v = (struct rig_verb){.op = {.kind = STORE_ADMIN, .done = rig_verb_done}};
    v.op.admin.filter.id = id;
    v.op.admin.change = (struct queue_change){
        .verb = verb, .due_at = now, .result = QUEUE_REMOVED, .finished_at = now};
    v.op.admin.touched = v.touched;
    v.op.admin.max = N_ELEMENTS(v.touched);
    store_submit(r.store, &v.op);
    while (!v.done && rounds++ < 5000)
        rig_run();
    assert_true(v.done);
    return v.op.admin.n_touched;
}

/* ---- looking ---- */

FIXTURE_UNUSED static struct rig_conn *
conn_to(const char *site, enum rig_state state)
{
    for (size_t i = r.n_conns; i-- > 0;)
        if (r.conns[i]->state == state && strcmp(r.conns[i]->site, site) == 0)
            return r.conns[i];
    return NULL;
}

FIXTURE_UNUSED static size_t
conns_in(enum rig_state state)
{
    size_t n = 0;
    for (size_t i = 0; i < r.n_conns; i++)
        n += r.conns[i]->state == state;
    return n;
}

/* Counted in the file, by a snapshot of its own. */
FIXTURE_UNUSED static struct queue_stats
rig_stats(void)
{
    return stats_of(&r.f);
}

FIXTURE_UNUSED static struct schedule_numbers
rig_numbers(void)
{
    struct schedule_numbers n;
    schedule_numbers(r.schedule, &n);
    return n;
}

FIXTURE_UNUSED static struct outcome
path_failure(const char *text)
{
    struct outcome o;
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_NET, "connect", "4.4.1", "%s", text);
    o.path = true;
    return o;
}

/* Nothing is left of all that was accepted. */
FIXTURE_UNUSED static bool
rig_finished(void)
{
    return r.n_accepting == 0 && rig_stats().recipients == 0 && rig_numbers().in_hand == 0;
}
