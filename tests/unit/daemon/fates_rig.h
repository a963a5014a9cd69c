/*
 * fates_rig - outcomes and what record makes of them: real queue and store, the schedule's side is
 * the test's own.
 */
#pragma once

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

FIXTURE_UNUSED static struct settings *
settings_take(void *arg)
{
    assert_ptr_equal(arg, &t);
    t.settings.refs++;
    return &t.settings;
}

FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static void
on_delivered(void *arg, struct rcpt *rcpt)
{
    (void)arg;
    assert_int_equal(rcpt->stage, STAGE_RECORDING);
    t.n_delivered++;
}

FIXTURE_UNUSED static bool
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

FIXTURE_UNUSED static bool
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

FIXTURE_UNUSED static void
on_slow(void *arg, const struct rcpt *rcpt)
{
    (void)arg;
    (void)rcpt;
    t.n_slow++;
}

/* Out of hand, as the schedule does it: the last one takes the message along. */
FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static int
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
    assert_int_equal(workers_start(t.workers, NULL), ERR_OK);
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

FIXTURE_UNUSED static int
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
FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static struct outcome
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

FIXTURE_UNUSED static struct attempt
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

FIXTURE_UNUSED static void
wait_recorded(size_t n)
{
    for (int i = 0; i < 5000 && t.n_recorded < n; i++)
        loop_run_once(t.loop, 2);
    assert_int_equal(t.n_recorded, n);
}

/* The same outcome for all of them, in one transaction, and what comes of it. */
FIXTURE_UNUSED static void
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

FIXTURE_UNUSED static struct attempts
attempts_in_queue(uint64_t id, struct queue_mail *mail)
{
    struct attempts a;
    *mail = mail_of(&t.f, id);
    assert_int_equal(mail->n_rcpts, 1);
    OK(attempts_decode(mail->rcpts[0].attempts, &a, err));
    return a;
}

FIXTURE_UNUSED static void
assert_told(size_t i, const char *part)
{
    if (i >= t.n_told || strstr(t.told[i].text, part) == NULL)
        fail_msg("not told: %s", part);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
