/* What becomes of an outcome: real queue and store, the schedule's side is the test's own. */
#include "tests/unit/queue/fixture.h"

#include "policy/dsn.h"
#include "relayd/message.h"
#include "relayd/net/loop.h"
#include "relayd/ops/log.h"
#include "relayd/ops/metrics.h"
#include "relayd/record/attempts.h"
#include "relayd/record/detail.h"
#include "relayd/record/record.h"
#include "relayd/work/workers.h"
#include "tests/unit/policy/config_text.h"

#define RCPTS 8

/* One notice that record handed on. */
struct told {
    char to[128], text[32768];
    uint64_t id;
    uint32_t flags;
};

static struct {
    struct fixture f;
    struct loop *loop;
    struct clock *clock;
    struct inbox *inbox;
    struct log *log;
    struct metrics *metrics;
    struct workers *workers;
    struct store *store;
    struct record *record;
    struct settings settings;
    struct msg *msg;
    struct rcpt *rcpts[RCPTS]; /* in hand */
    size_t n_rcpts, n_recorded;
    enum rcpt_fate fates[RCPTS];
    msec_t due_at[RCPTS];
    struct told told[4];
    size_t n_told;
    enum rerouted rerouted; /* what the schedule answers */
    bool route_left;
    struct reroute why; /* it was asked with */
    msec_t fallback_after;
    int n_reroutes, n_delivered, n_slow;
    msec_t probe_at;
} t;

/* ---- the schedule's side ---- */

static struct settings *
settings_take(void *arg)
{
    assert_ptr_equal(arg, &t);
    t.settings.refs++;
    return &t.settings;
}

static void
settings_give(void *arg, struct settings *settings)
{
    assert_ptr_equal(arg, &t);
    assert_true(settings->refs > 0);
    settings->refs--;
}

static enum rerouted
on_reroute(void *arg, struct rcpt *rcpt, const struct reroute *why)
{
    (void)arg;
    assert_int_equal(rcpt->stage, STAGE_RECORDING);
    t.n_reroutes++;
    t.why = *why;
    if (t.rerouted == REROUTED)
        rcpt->stage = STAGE_READY;
    return t.rerouted;
}

static void
on_delivered(void *arg, struct rcpt *rcpt)
{
    (void)arg;
    assert_int_equal(rcpt->stage, STAGE_RECORDING);
    t.n_delivered++;
}

static bool
on_other_family(void *arg, struct rcpt *rcpt, uint8_t family, const struct outcome *refusal)
{
    (void)arg;
    (void)rcpt;
    (void)family;
    (void)refusal;
    return false;
}

static msec_t
on_fallback_after(void *arg, const struct rcpt *rcpt)
{
    (void)arg;
    (void)rcpt;
    return t.fallback_after;
}

static bool
on_route_left(void *arg, const struct rcpt *rcpt)
{
    (void)arg;
    (void)rcpt;
    return t.route_left;
}

static msec_t
on_probe_at(void *arg, const struct rcpt *rcpt)
{
    (void)arg;
    (void)rcpt;
    return t.probe_at;
}

static void
on_slow(void *arg, const struct rcpt *rcpt)
{
    (void)arg;
    (void)rcpt;
    t.n_slow++;
}

/* Out of hand, as the schedule does it: the last one takes the message along. */
static void
on_recorded(void *arg, struct rcpt *rcpt, enum rcpt_fate fate, msec_t due_at, uint64_t txn)
{
    struct msg *msg = rcpt->msg;
    size_t no = rcpt->key.no;
    (void)arg;
    assert_true(txn > 0);
    assert_int_equal(rcpt->stage, STAGE_RECORDING);
    assert_ptr_equal(t.rcpts[no], rcpt);
    t.rcpts[no] = NULL;
    t.fates[no] = fate;
    t.due_at[no] = due_at;
    t.n_recorded++;
    struct rcpt **link = &msg->rcpts;
    while (*link != rcpt)
        link = &(*link)->next_of_msg;
    *link = rcpt->next_of_msg;
    rcpt_free(rcpt);
    if (msg->rcpts == NULL) {
        msg_free(msg);
        t.msg = NULL;
    }
}

static void
on_stored(void *arg, struct msg *msg, struct msg_body *body, struct rcpt *const *rcpts,
          size_t n_rcpts)
{
    (void)arg;
    assert_int_equal(n_rcpts, 1);
    assert_true(t.n_told < N_ELEMENTS(t.told));
    assert_true(msg->loaded);
    assert_int_equal(msg->q.sender.n, 0);
    assert_true(msg->q.flags & QUEUE_MSG_NOTICE);
    assert_int_equal(rcpts[0]->notify, QUEUE_NOTIFY_NEVER);
    struct told *told = &t.told[t.n_told++];
    told->id = msg->q.id;
    told->flags = msg->q.flags;
    snprintf(told->to, sizeof(told->to), "%.*s", SPAN_ARG(rcpts[0]->address));
    assert_true(body->n < sizeof(told->text));
    memcpy(told->text, body->bytes, body->n);
    told->text[body->n] = '\0';
    msg_free(msg);
    rcpt_free(rcpts[0]);
    free(body);
}

/* ---- life ---- */

static void
settings_make(const char *extra)
{
    struct strbuf text = STRBUF_INIT, out = STRBUF_INIT;
    struct config_problems problems = {0};
    strbuf_printf(&text,
                  "node: {name: cn, hostname: cn.example, postmaster: pm@cn.example}\n"
                  "listeners: [{address: '127.0.0.1:2525'}]\n"
                  "trusted_clients: [{cidr: 127.0.0.0/8}]\n"
                  "transport_map: [{default: true, route: direct}]\n%s",
                  extra);
    const struct text_file files[] = {{.path = "c.yaml", .text = text.p}};
    struct config *config = text_load(files, 1, 0, &out);
    if (config == NULL)
        fail_msg("%s", out.p);
    strbuf_release(&text);
    strbuf_release(&out);
    t.settings = (struct settings){.config = config,
                                   .keyring = dkim_keyring_new(),
                                   .rules = classify_rules_new(),
                                   .retry = *retry_policy_default()};
    classify_rules_parse(t.settings.rules, classify_builtin_text(), "built-in", &problems);
    assert_int_equal(problems.n_errors, 0);
    config_problems_release(&problems);
}

static int
setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    fixture_make_dir(&t.f);
    fixture_open(&t.f);
    t.loop = loop_new_stepped(T0);
    t.clock = loop_clock(t.loop);
    t.inbox = inbox_new(loop_base(t.loop));
    t.log = log_new(NULL);
    OK(log_set_target(t.log, "/dev/null", err));
    t.metrics = metrics_new();
    t.workers = workers_new(1, t.inbox, NULL, 0);
    workers_start(t.workers);
    settings_make("");
    const struct store_options options = {.queue = t.f.queue, .inbox = t.inbox};
    OK(store_new(&options, &t.store, err));
    const struct record_env env = {
        .loop = t.loop,
        .log = t.log,
        .metrics = t.metrics,
        .store = t.store,
        .queue = t.f.queue,
        .workers = t.workers,
        .arg = &t,
        .settings_take = settings_take,
        .settings_give = settings_give,
        .reroute = on_reroute,
        .delivered = on_delivered,
        .other_family = on_other_family,
        .route_left = on_route_left,
        .fallback_after = on_fallback_after,
        .probe_at = on_probe_at,
        .slow = on_slow,
        .recorded = on_recorded,
        .stored = on_stored,
    };
    t.record = record_new(&env);
    return 0;
}

static int
teardown(void **state)
{
    (void)state;
    store_stop(t.store);
    workers_stop(t.workers);
    inbox_run(t.inbox);
    if (t.msg != NULL)
        msg_free(t.msg);
    record_free(t.record);
    store_free(t.store);
    assert_int_equal(t.settings.refs, 0);
    dkim_keyring_free(t.settings.keyring);
    classify_rules_free(t.settings.rules);
    config_free(t.settings.config);
    workers_free(t.workers);
    inbox_free(t.inbox);
    metrics_free(t.metrics);
    loop_free(t.loop);
    log_free(t.log);
    assert_sound(&t.f);
    fixture_close(&t.f);
    remove_dir(t.f.dir);
    return 0;
}

/* ---- mail and attempts ---- */

#define TEXT "From: alice@src.test\r\nSubject: hello\r\n\r\nthe body\r\n"

struct mail {
    const char *sender; /* NULL: alice@src.test */
    uint8_t notify;
    uint32_t flags;
    const char *ret;
    bool in_memory;
};

/* A message in the queue and in hand, with `n` recipients who are being recorded. */
static uint64_t
mail_make(const struct mail *m, size_t n)
{
    struct queue_rcpt rows[RCPTS];
    char addresses[RCPTS][32];
    struct span body = SPAN(TEXT);
    struct queue_msg q = message(&t.f, body.n);
    struct queue_batch *batch = begin(&t.f);

    if (m->sender != NULL)
        q.sender = span_str(m->sender);
    q.flags = m->flags;
    q.n_signatures = 1;
    q.signatures[0] = (struct queue_signature){SPAN("src.test"), SPAN("cn"),
                                               SPAN("DKIM-Signature: v=1; b=x\r\n")};
    q.size_bytes = q.received.n + q.signatures[0].field.n + body.n; /* as intake counts */
    q.arrived_at = clock_wall(t.clock);
    q.ret = m->ret == NULL ? SPAN_NONE : span_str(m->ret);
    for (size_t i = 0; i < n; i++) {
        snprintf(addresses[i], sizeof(addresses[i]), "rcpt%zu@one.test", i);
        rows[i] = recipient((uint32_t)i, addresses[i]);
        rows[i].notify = m->notify;
    }
    OK(queue_add(batch, &q, rows, n, &body, 1, err));
    commit(batch);
    t.msg = msg_new(&q, "cn");
    t.msg->loaded = m->in_memory;
    if (m->in_memory) {
        t.msg->body = xmalloc(sizeof(struct msg_body) + body.n);
        t.msg->body->n = body.n;
        memcpy(t.msg->body->bytes, body.p, body.n);
    }
    t.n_rcpts = n;
    t.n_recorded = 0;
    for (size_t i = 0; i < n; i++) {
        rows[i].id = q.id;
        rows[i].revision = 1;
        struct rcpt *rcpt = t.rcpts[i] = rcpt_new(&rows[i], 0);
        rcpt->msg = t.msg;
        rcpt->next_of_msg = t.msg->rcpts;
        t.msg->rcpts = rcpt;
        rcpt->stage = STAGE_RECORDING;
        rcpt->begun_at = clock_wall(t.clock);
    }
    return q.id;
}

/* Into hand again what the queue holds: one recipient, some time later. */
static void
mail_again(uint64_t id)
{
    struct queue_mail mail = mail_of(&t.f, id);
    assert_int_equal(mail.n_rcpts, 1);
    assert_null(t.msg);
    t.msg = msg_new(&mail.msg, "cn");
    struct rcpt *rcpt = t.rcpts[mail.rcpts[0].no] = rcpt_new(&mail.rcpts[0], 0);
    rcpt->msg = t.msg;
    t.msg->rcpts = rcpt;
    rcpt->stage = STAGE_RECORDING;
    rcpt->begun_at = clock_wall(t.clock);
    t.n_rcpts = 1;
    t.n_recorded = 0;
    queue_mail_release(&mail);
}

static struct outcome
reply(int code, const char *enh, const char *text)
{
    struct outcome o;
    outcome_set(&o,
                code < 300   ? OUTCOME_DELIVERED
                : code < 500 ? OUTCOME_DEFERRED
                             : OUTCOME_FAILED,
                ORIGIN_PEER, "rcpt", enh, "%s", text);
    o.code = code;
    return o;
}

static struct attempt
attempt_of(size_t no, const struct outcome *o)
{
    return (struct attempt){.rcpt = t.rcpts[no],
                            .outcome = *o,
                            .route = "direct",
                            .site = "mx.one.test",
                            .peer = "192.0.2.1:25",
                            .host = "mx.one.test",
                            .tls = ""};
}

static void
wait_recorded(size_t n)
{
    for (int i = 0; i < 5000 && t.n_recorded < n; i++)
        loop_run_once(t.loop, 2);
    assert_int_equal(t.n_recorded, n);
}

/* The same outcome for all of them, in one transaction, and what comes of it. */
static void
record_all(const struct outcome *o)
{
    struct attempt attempts[RCPTS];
    size_t n = 0;
    for (size_t i = 0; i < RCPTS; i++)
        if (t.rcpts[i] != NULL)
            attempts[n++] = attempt_of(i, o);
    record_attempts(t.record, attempts, n);
    assert_int_equal(t.n_recorded, 0); /* not before it is durable */
    wait_recorded(n);
}

static struct attempts
attempts_in_queue(uint64_t id, struct queue_mail *mail)
{
    struct attempts a;
    *mail = mail_of(&t.f, id);
    assert_int_equal(mail->n_rcpts, 1);
    OK(attempts_decode(mail->rcpts[0].attempts, &a, err));
    return a;
}

static void
assert_told(size_t i, const char *part)
{
    if (i >= t.n_told || strstr(t.told[i].text, part) == NULL)
        fail_msg("not told: %s", part);
}

/* ---- delivered, deferred ---- */

static void
a_delivery_ends_in_history(void **state)
{
    (void)state;
    struct outcome ok = reply(250, "2.0.0", "queued as 77");
    uint64_t id = mail_make(&(struct mail){0}, 1);
    record_all(&ok);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 0);
    assert_int_equal(stats_of(&t.f).recipients, 0);
    struct queue_past_key after = {0};
    struct queue_history past;
    struct detail d;
    OK(queue_read_history(t.f.reader, id, &after, 10, &past, err));
    assert_int_equal(past.n_rows, 1);
    assert_int_equal(past.rows[0].result, QUEUE_DELIVERED);
    OK(detail_decode(past.rows[0].detail, &d, err));
    assert_int_equal(d.code, 250);
    assert_int_equal(d.attempts, 1);
    assert_span(d.route, "direct");
    assert_span(d.klass, "ok");
    assert_span(d.text, "queued as 77");
    queue_history_release(&past);
    struct record_numbers n;
    record_numbers(t.record, &n);
    assert_int_equal(n.delivered, 1);
}

static void
deferrals_follow_the_schedule_and_stay_together(void **state)
{
    (void)state;
    static const int minutes[] = {5, 10, 20, 40, 60, 120, 240, 240};
    struct outcome later = reply(451, "4.3.0", "queue busy");
    uint64_t id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_NEVER}, 3);
    record_all(&later);
    for (int i = 0; i < 3; i++)
        assert_int_equal(t.fates[i], FATE_DEFERRED);
    assert_int_equal(t.due_at[0], t.due_at[1]); /* jitter is the message's */
    assert_int_equal(t.due_at[0], t.due_at[2]);

    id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_NEVER}, 1);
    for (size_t i = 0; i < N_ELEMENTS(minutes); i++) {
        record_all(&later);
        assert_int_equal(t.fates[0], FATE_DEFERRED);
        msec_t wait = t.due_at[0] - clock_wall(t.clock);
        assert_in_range(wait, minutes[i] * MINUTE * 8 / 10, minutes[i] * MINUTE * 12 / 10);
        clock_step(t.clock, wait);
        mail_again(id);
        assert_int_equal(t.rcpts[0]->due_at, clock_wall(t.clock));
    }
    assert_int_equal(t.n_told, 0);
}

static void
greylisting_waits_at_least_its_time_once(void **state)
{
    (void)state;
    struct outcome grey = reply(451, "4.7.1", "Greylisted, please come back later");
    for (int i = 0; i < 10; i++) {
        uint64_t id = mail_make(&(struct mail){0}, 1);
        record_all(&grey);
        msec_t wait = t.due_at[0] - clock_wall(t.clock);
        assert_in_range(wait, 6 * MINUTE, 6 * MINUTE);
        clock_step(t.clock, wait);
        mail_again(id);
        record_all(&grey);
        assert_in_range(t.due_at[0] - clock_wall(t.clock), 8 * MINUTE, 12 * MINUTE);
    }
}

static void
who_met_a_dead_hop_waits_for_its_probe(void **state)
{
    (void)state;
    struct outcome dead;
    outcome_set(&dead, OUTCOME_DEFERRED, ORIGIN_NET, "connect", "4.4.1", "connection refused");
    dead.path = true;
    mail_make(&(struct mail){0}, 1);
    t.probe_at = clock_wall(t.clock) + MINUTE;
    record_all(&dead);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    assert_int_equal(t.due_at[0], t.probe_at);
    assert_int_equal(t.n_reroutes, 1);
}

static void
only_an_attempt_past_the_deadline_expires(void **state)
{
    (void)state;
    struct outcome later = reply(451, "4.3.0", "queue busy");
    uint64_t id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_FAILURE}, 1);
    clock_step(t.clock, 5 * DAY - HOUR);
    t.rcpts[0]->begun_at = clock_wall(t.clock);
    clock_step(t.clock, 2 * HOUR); /* a long transaction, or a clock that jumped */
    record_all(&later);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    assert_int_equal(t.n_told, 0);
    clock_step(t.clock, t.due_at[0] - clock_wall(t.clock));
    mail_again(id);
    assert_true(record_overdue(t.record, t.rcpts[0]));
    record_all(&later);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_string_equal(t.told[0].to, "alice@src.test");
    assert_told(0, "Status: 5.4.7");
    assert_told(0, "Action: failed");
    assert_told(0, "queue busy");
}

static void
the_last_attempt_is_made_at_the_deadline(void **state)
{
    (void)state;
    struct outcome later = reply(451, "4.3.0", "queue busy");
    mail_make(&(struct mail){.notify = QUEUE_NOTIFY_NEVER}, 1);
    msec_t deadline = record_expires_at(t.record, &t.msg->q);
    assert_int_equal(deadline, T0 + 5 * DAY);
    clock_step(t.clock, 5 * DAY - MINUTE);
    t.rcpts[0]->begun_at = clock_wall(t.clock);
    record_all(&later);
    assert_int_equal(t.due_at[0], deadline);
    mail_make(&(struct mail){.sender = ""}, 1);
    assert_int_equal(record_expires_at(t.record, &t.msg->q), t.msg->q.arrived_at + 2 * DAY);
}

static void
a_5xx_that_means_later_is_deferred_for_a_day(void **state)
{
    (void)state;
    struct outcome soft = reply(550, "5.7.1", "Greylisted, see the web page");
    uint64_t id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_FAILURE}, 1);
    for (;;) {
        record_all(&soft);
        if (t.fates[0] != FATE_DEFERRED)
            break;
        assert_true(clock_wall(t.clock) - T0 < 24 * HOUR);
        clock_step(t.clock, t.due_at[0] - clock_wall(t.clock));
        mail_again(id);
    }
    assert_in_range(clock_wall(t.clock) - T0, 24 * HOUR, 29 * HOUR);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Greylisted, see the web page");
}

static void
a_rate_limit_slows_the_site(void **state)
{
    (void)state;
    struct outcome fast = reply(452, "4.7.28", "message rate exceeded, slow down");
    mail_make(&(struct mail){0}, 1);
    record_all(&fast);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    assert_int_equal(t.n_slow, 1);
}

/* ---- another route ---- */

static void
a_reroute_keeps_the_refusal_for_the_report(void **state)
{
    (void)state;
    struct outcome listed =
        reply(554, "5.7.1", "Client host blocked using zen.spamhaus.org, see the page");
    struct outcome unknown = reply(550, "5.1.1", "no such user here");
    mail_make(&(struct mail){.in_memory = true}, 1);
    t.rerouted = REROUTED;
    struct attempt a = attempt_of(0, &listed);
    record_attempts(t.record, &a, 1);
    assert_int_equal(t.n_reroutes, 1);
    assert_int_equal(t.n_recorded, 0);
    assert_true(t.rcpts[0]->attempts_bytes > 0);
    assert_true(t.rcpts[0]->attempts_new);
    t.rcpts[0]->stage = STAGE_RECORDING;
    a = attempt_of(0, &unknown);
    a.route = "us";
    a.host = "mx2.one.test";
    record_attempts(t.record, &a, 1);
    wait_recorded(1);
    assert_int_equal(t.n_reroutes, 1); /* a mailbox is unknown by every route */
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "no such user here");
    assert_told(0, "zen.spamhaus.org");
    assert_told(0, "Status: 5.1.1");
}

static void
a_refusal_that_no_route_cures_is_final_unless_one_was_out_of_reach(void **state)
{
    (void)state;
    struct outcome listed =
        reply(554, "5.7.1", "Client host blocked using zen.spamhaus.org, see the page");
    mail_make(&(struct mail){0}, 1);
    t.route_left = true;
    record_all(&listed);
    assert_int_equal(t.fates[0], FATE_DEFERRED);
    mail_make(&(struct mail){0}, 1);
    t.route_left = false;
    record_all(&listed);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
}

static void
a_failure_of_all_hosts_is_judged_like_an_attempt(void **state)
{
    (void)state;
    struct outcome o = reply(554, "5.7.1", "blocked using zen.spamhaus.org");
    assert_true(record_curable(t.record, &o, "mx.one.test"));
    o = reply(421, "4.3.2", "try again later");
    assert_false(record_curable(t.record, &o, "mx.one.test"));
    o.path = true;
    assert_true(record_curable(t.record, &o, ""));
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_DNS, "dns", "4.4.3", "SERVFAIL");
    assert_false(record_curable(t.record, &o, ""));
}

/* ---- notices ---- */

static void
recipients_who_fail_together_share_a_notice(void **state)
{
    (void)state;
    struct outcome no = reply(550, "5.1.1", "no such user");
    struct outcome ok = reply(250, "2.0.0", "ok");
    uint64_t id = mail_make(&(struct mail){0}, 3); /* neither loaded nor in memory: it is read */
    struct attempt attempts[3] = {attempt_of(0, &no), attempt_of(1, &ok), attempt_of(2, &no)};
    record_attempts(t.record, attempts, 3);
    wait_recorded(3);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Final-Recipient: rfc822; rcpt0@one.test");
    assert_told(0, "Final-Recipient: rfc822; rcpt2@one.test");
    assert_null(strstr(t.told[0].text, "rcpt1@one.test"));
    assert_told(0, "Auto-Submitted: auto-replied");
    assert_told(0, "Subject: hello");
    assert_told(0, "DKIM-Signature: v=1");
    assert_told(0, "the body");
    assert_int_equal(stats_of(&t.f).messages, 1); /* the notice, in the same commit */
    struct queue_mail mail = mail_of(&t.f, t.told[0].id);
    assert_int_equal(mail.n_rcpts, 1);
    assert_span(mail.rcpts[0].address, "alice@src.test");
    assert_int_equal(mail.rcpts[0].state, QUEUE_FRESH);
    assert_true(mail.msg.id != id);
    queue_mail_release(&mail);
}

static void
notify_is_honoured(void **state)
{
    (void)state;
    static const struct {
        const char *sender;
        uint8_t notify;
        int code;
        size_t n_told;
        bool passed_on;
    } cases[] = {
        {NULL, 0, 550, 1, false},
        {NULL, QUEUE_NOTIFY_NEVER, 550, 0, false},
        {NULL, QUEUE_NOTIFY_SUCCESS, 550, 0, false},
        {NULL, QUEUE_NOTIFY_FAILURE, 550, 1, false},
        {"", QUEUE_NOTIFY_FAILURE, 550, 0, false},
        {NULL, 0, 250, 0, false},
        {NULL, QUEUE_NOTIFY_SUCCESS, 250, 1, false},
        {NULL, QUEUE_NOTIFY_SUCCESS, 250, 0, true}, /* the next host will tell */
        {"", QUEUE_NOTIFY_SUCCESS, 250, 0, false},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        struct outcome o = reply(cases[i].code, cases[i].code == 250 ? "2.0.0" : "5.1.1", "text");
        mail_make(&(struct mail){.sender = cases[i].sender, .notify = cases[i].notify}, 1);
        struct attempt a = attempt_of(0, &o);
        a.dsn_passed_on = cases[i].passed_on;
        t.n_told = 0;
        record_attempts(t.record, &a, 1);
        wait_recorded(1);
        assert_int_equal(t.fates[0], FATE_FINISHED);
        if (t.n_told != cases[i].n_told)
            fail_msg("case %zu: %zu notices", i, t.n_told);
        if (cases[i].code == 250 && t.n_told == 1)
            assert_told(0, "Action: relayed");
    }
}

static void
the_sender_is_warned_once_for_each_age(void **state)
{
    (void)state;
    struct outcome later = reply(550, "5.7.1", "Greylisted: a 5xx that is not one");
    uint64_t id = mail_make(&(struct mail){0}, 1);
    clock_step(t.clock, 4 * HOUR - MINUTE);
    assert_false(record_overdue(t.record, t.rcpts[0]));
    record_all(&later);
    assert_int_equal(t.n_told, 0);
    clock_step(t.clock, 2 * MINUTE);
    mail_again(id);
    assert_true(record_overdue(t.record, t.rcpts[0]));
    record_all(&later);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Action: delayed");
    assert_told(0, "Status: 4.7.1"); /* of a delay, whatever the reply was */
    assert_told(0, "Will-Retry-Until: ");
    mail_again(id);
    assert_false(record_overdue(t.record, t.rcpts[0]));
    record_all(&later);
    assert_int_equal(t.n_told, 1);
    struct queue_mail mail;
    struct attempts a = attempts_in_queue(id, &mail);
    assert_int_equal(a.count, 3);
    assert_int_equal(a.warned, 1);
    queue_mail_release(&mail);
}

static void
a_notice_that_fails_goes_to_the_postmaster_and_is_held_then(void **state)
{
    (void)state;
    struct outcome no = reply(550, "5.1.1", "no such user");
    mail_make(&(struct mail){.sender = "", .flags = QUEUE_MSG_NOTICE}, 1);
    record_all(&no);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_string_equal(t.told[0].to, "pm@cn.example");
    assert_string_equal(t.told[0].text, TEXT); /* as it was */
    assert_true(t.told[0].flags & MSG_POSTMASTER);
    assert_int_equal(log_alerts_total(t.log), 1);

    mail_make(&(struct mail){.sender = "", .flags = QUEUE_MSG_NOTICE | MSG_POSTMASTER}, 1);
    record_all(&no);
    assert_int_equal(t.fates[0], FATE_HELD);
    assert_int_equal(t.n_told, 1);
    assert_int_equal(stats_of(&t.f).held, 1);
    assert_int_equal(log_alerts_total(t.log), 2);
}

/* A verb makes the recipient's revision another one. */
static void
change_behind(uint64_t id, uint32_t no, enum queue_verb verb)
{
    struct queue_change c = {.id = id, .no = no, .revision = 1, .verb = verb, .due_at = T0};
    c.result = QUEUE_REMOVED;
    c.finished_at = T0;
    assert_int_equal(apply_one(&t.f, &c), ERR_OK);
}

static void
a_verb_that_was_faster_wins_and_the_others_are_told_of(void **state)
{
    (void)state;
    struct outcome no = reply(550, "5.1.1", "no such user");
    uint64_t id = mail_make(&(struct mail){0}, 3);
    change_behind(id, 1, QUEUE_HOLD);
    record_all(&no);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.fates[1], FATE_CHANGED);
    assert_int_equal(t.fates[2], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "rcpt0@one.test");
    assert_told(0, "rcpt2@one.test");
    assert_null(strstr(t.told[0].text, "rcpt1@one.test"));
    assert_int_equal(stats_of(&t.f).held, 1);
    assert_int_equal(stats_of(&t.f).messages, 2);
}

static void
a_delivery_is_told_of_whatever_a_verb_did_to_others(void **state)
{
    (void)state;
    struct outcome ok = reply(250, "2.0.0", "ok"), no = reply(550, "5.1.1", "no such user");
    uint64_t id =
        mail_make(&(struct mail){.notify = QUEUE_NOTIFY_SUCCESS | QUEUE_NOTIFY_FAILURE}, 4);
    change_behind(id, 1, QUEUE_HOLD);
    change_behind(id, 3, QUEUE_FINISH); /* delivered and removed at once */
    struct attempt attempts[] = {attempt_of(0, &ok), attempt_of(1, &no), attempt_of(2, &no),
                                 attempt_of(3, &ok)};
    record_attempts(t.record, attempts, 4);
    wait_recorded(4);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.fates[1], FATE_CHANGED);
    assert_int_equal(t.fates[2], FATE_FINISHED);
    assert_int_equal(t.fates[3], FATE_CHANGED);
    assert_int_equal(t.n_told, 2);
    assert_told(0, "Final-Recipient: rfc822; rcpt2@one.test");
    assert_told(1, "Action: relayed");
    assert_told(1, "Final-Recipient: rfc822; rcpt0@one.test");
    assert_told(1, "Final-Recipient: rfc822; rcpt3@one.test");
    for (size_t i = 0; i < 2; i++)
        assert_null(strstr(t.told[i].text, "rcpt1@one.test"));
    assert_int_equal(stats_of(&t.f).held, 1);
    assert_int_equal(stats_of(&t.f).messages, 3); /* the one on hold, and two notices */

    /* Nothing but the notice remains. */
    id = mail_make(&(struct mail){.notify = QUEUE_NOTIFY_SUCCESS | QUEUE_NOTIFY_FAILURE}, 2);
    change_behind(id, 1, QUEUE_HOLD);
    t.n_told = 0;
    record_attempts(t.record, (struct attempt[]){attempt_of(0, &ok), attempt_of(1, &no)}, 2);
    wait_recorded(2);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.fates[1], FATE_CHANGED);
    assert_int_equal(t.n_told, 1);
    assert_told(0, "Final-Recipient: rfc822; rcpt0@one.test");
}

static void
a_delivery_counts_whatever_a_verb_did(void **state)
{
    (void)state;
    struct outcome ok = reply(250, "2.0.0", "ok"), later = reply(451, "4.3.0", "busy");
    uint64_t id = mail_make(&(struct mail){0}, 3);
    for (uint32_t i = 0; i < 2; i++)
        change_behind(id, i, QUEUE_HOLD);
    change_behind(id, 2, QUEUE_FINISH);
    struct attempt attempts[] = {attempt_of(0, &ok), attempt_of(1, &later), attempt_of(2, &ok)};
    record_attempts(t.record, attempts, 3);
    wait_recorded(3);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.fates[1], FATE_CHANGED);
    assert_int_equal(t.fates[2], FATE_CHANGED);
    assert_int_equal(stats_of(&t.f).recipients, 1);
    assert_int_equal(stats_of(&t.f).held, 1);
}

/* ---- the end ---- */

static void
a_delivery_that_still_reads_its_original_survives_a_stop(void **state)
{
    (void)state;
    struct outcome ok = reply(250, "2.0.0", "ok");
    mail_make(&(struct mail){.notify = QUEUE_NOTIFY_SUCCESS}, 1); /* neither loaded nor in memory */
    struct attempt a = attempt_of(0, &ok);
    record_attempts(t.record, &a, 1);
    /* As the daemon ends. */
    assert_true(store_settle(t.store, STORE_SETTLE_MS));
    workers_stop(t.workers);
    assert_true(store_settle(t.store, STORE_SETTLE_MS));
    store_stop(t.store);
    assert_int_equal(t.n_recorded, 1);
    assert_int_equal(t.fates[0], FATE_FINISHED);
    assert_int_equal(t.n_told, 1);
    assert_int_equal(stats_of(&t.f).messages, 1); /* the notice */
}

/* ---- hold, damage ---- */

static void
a_hold_keeps_its_reason(void **state)
{
    (void)state;
    uint64_t id = mail_make(&(struct mail){0}, 1);
    record_hold(t.record, t.rcpts[0], SPAN("a rule says so"));
    wait_recorded(1);
    assert_int_equal(t.fates[0], FATE_HELD);
    struct queue_mail mail;
    struct attempts a = attempts_in_queue(id, &mail);
    assert_int_equal(mail.rcpts[0].state, QUEUE_HELD);
    assert_int_equal(a.n_refusals, 1);
    assert_span(a.refusals[0].text, "held: a rule says so");
    assert_int_equal(a.count, 0);
    queue_mail_release(&mail);
}

static void
a_damaged_record_of_attempts_is_begun_anew(void **state)
{
    (void)state;
    struct outcome later = reply(451, "4.3.0", "busy");
    uint64_t id = mail_make(&(struct mail){0}, 1);
    t.rcpts[0]->attempts = xstrdup("\1garbage");
    t.rcpts[0]->attempts_bytes = 8;
    assert_int_equal(record_wanted_route(t.rcpts[0]).n, 0);
    record_all(&later);
    struct queue_mail mail;
    struct attempts a = attempts_in_queue(id, &mail);
    assert_int_equal(a.count, 1);
    queue_mail_release(&mail);
}

static void
fields_of_a_newer_program_are_kept_while_there_is_room(void **state)
{
    (void)state;
    struct outcome later = reply(451, "4.3.0", "busy");
    static const size_t sizes[] = {100, QUEUE_ATTEMPTS_MAX - 100};
    for (size_t i = 0; i < N_ELEMENTS(sizes); i++) {
        char *unknown = body_bytes(sizes[i], 7);
        struct attempts a = {.unknown = span_of(unknown, sizes[i]), .route = SPAN("us")};
        struct strbuf bytes = STRBUF_INIT;
        uint64_t id = mail_make(&(struct mail){0}, 1);
        attempts_encode(&a, &bytes);
        t.rcpts[0]->attempts_bytes = bytes.n;
        t.rcpts[0]->attempts = strbuf_take(&bytes);
        assert_span(record_wanted_route(t.rcpts[0]), "us");
        record_all(&later);
        assert_int_equal(t.fates[0], FATE_DEFERRED);
        struct queue_mail mail;
        a = attempts_in_queue(id, &mail);
        assert_int_equal(a.unknown.n, i == 0 ? sizes[i] : 0);
        assert_span(a.route, "us");
        queue_mail_release(&mail);
        free(unknown);
    }
}

int
main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_delivery_ends_in_history),
        T(deferrals_follow_the_schedule_and_stay_together),
        T(greylisting_waits_at_least_its_time_once),
        T(who_met_a_dead_hop_waits_for_its_probe),
        T(only_an_attempt_past_the_deadline_expires),
        T(the_last_attempt_is_made_at_the_deadline),
        T(a_5xx_that_means_later_is_deferred_for_a_day),
        T(a_rate_limit_slows_the_site),
        T(a_reroute_keeps_the_refusal_for_the_report),
        T(a_refusal_that_no_route_cures_is_final_unless_one_was_out_of_reach),
        T(a_failure_of_all_hosts_is_judged_like_an_attempt),
        T(recipients_who_fail_together_share_a_notice),
        T(notify_is_honoured),
        T(the_sender_is_warned_once_for_each_age),
        T(a_notice_that_fails_goes_to_the_postmaster_and_is_held_then),
        T(a_verb_that_was_faster_wins_and_the_others_are_told_of),
        T(a_delivery_is_told_of_whatever_a_verb_did_to_others),
        T(a_delivery_counts_whatever_a_verb_did),
        T(a_delivery_that_still_reads_its_original_survives_a_stop),
        T(a_hold_keeps_its_reason),
        T(a_damaged_record_of_attempts_is_begun_anew),
        T(fields_of_a_newer_program_are_kept_while_there_is_room),
    };
    RUN_TESTS(tests);
}
