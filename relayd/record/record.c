/*
 * record - decides each recipient's fate. See record.h; batch.c stores it.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"
#include "relayd/record/detail.h"
#include "relayd/record/internal.h"
#include "relayd/work/inhand.h"

struct record *
record_new(const struct record_env *env)
{
    struct record *r = xcalloc(1, sizeof(*r));
    r->env = *env;
    STAILQ_INIT(&r->waiting);
    maillog_metrics(r);
    return r;
}

void
record_free(struct record *r)
{
    if (r != NULL)
        batches_drop(r);
    free(r);
}

/* ---- what it means ---- */

static struct verdict
judge(const struct settings *settings, const struct outcome *o, const char *host)
{
    struct verdict v = {.klass = "other", .action = REPLY_ACTION_BOUNCE};

    if (o->kind == OUTCOME_DELIVERED) {
        v.klass = "ok";
        v.action = REPLY_ACTION_NONE;
        return v;
    }
    if (o->kind == OUTCOME_DEFERRED)
        v.action = REPLY_ACTION_RETRY;
    if (o->origin == ORIGIN_PEER) {
        /* Without a code the words are ours, about what the peer offers (SIZE, SMTPUTF8): the rules
         * know receivers' words. */
        bool said = o->code != 0;
        const struct classify_reply reply = {.code = o->code,
                                             .enh = o->enh,
                                             .text = said ? span_str(o->text) : SPAN_NONE,
                                             .stage = reply_stage_of_phase(o->phase),
                                             .mx = span_str(host)};
        const struct classify_verdict c = classify_reply(settings->rules, &reply);
        v.klass = reply_class_name(c.klass);
        if (said)
            v.action = c.action;
        v.greylisted = c.klass == REPLY_GREYLISTED;
        v.rate_limited = c.klass == REPLY_RATE_LIMITED;
        v.ip_keyed = c.ip_keyed;
        v.scope_ip = c.scope_ip;
        v.spf_fail = c.klass == REPLY_SPF_FAIL;
        v.same_everywhere = c.klass == REPLY_GREYLISTED || c.klass == REPLY_QUOTA_FULL;
    } else if (o->origin == ORIGIN_DNS) {
        v.klass =
            reply_class_name(o->kind == OUTCOME_FAILED ? REPLY_BAD_DOMAIN : REPLY_ROUTING_ERROR);
    } else if (o->origin == ORIGIN_TLS) {
        v.klass = reply_class_name(REPLY_TLS_FAILED);
    } else if (o->origin == ORIGIN_NET) {
        v.klass = reply_class_name(REPLY_ROUTING_ERROR);
    }
    return v;
}

/* Another route may cure it: the path failed, or the refusal is about where we come from. */
static bool
curable(const struct outcome *o, const struct verdict *v)
{
    return o->kind != OUTCOME_DELIVERED &&
           (o->path || (o->origin == ORIGIN_PEER && v->action == REPLY_ACTION_REROUTE));
}

/* A 4xx whose rule gives the recipient up: the administrator's, as no class and no built-in rule
 * does. What speaks of the hop is no verdict even so. */
static bool
ruled_out(const struct outcome *o, const struct verdict *v)
{
    return o->kind == OUTCOME_DEFERRED && o->origin == ORIGIN_PEER && !o->path &&
           o->code / 100 == 4 && v->action == REPLY_ACTION_BOUNCE;
}

/* A receiver that has said nothing but 4xx for as long as the rule is patient. */
static bool
patience_over(struct record *r, const struct rcpt *rcpt, const struct outcome *o,
              const struct verdict *v, const struct attempts *a, msec_t now)
{
    if (o->kind != OUTCOME_DEFERRED || o->origin != ORIGIN_PEER || o->code / 100 != 4 ||
        v->same_everywhere || o->greylisted || ruled_out(o, v))
        return false;
    msec_t after = r->env.fallback_after(r->env.arg, rcpt);
    return after > 0 && now - a->first_deferral_at >= after;
}

/* A 5xx that is known to mean "later" waits, for at most a day from the first one. So does a rate
 * limit that another route would have cured, had there been one. */
static bool
soft_reject(const struct outcome *o, const struct verdict *v)
{
    return o->kind == OUTCOME_FAILED && o->origin == ORIGIN_PEER &&
           (v->action == REPLY_ACTION_RETRY || v->action == REPLY_ACTION_SLOW || v->rate_limited);
}

/* It was refused for where it came from, and a route that could have taken it was only out of
 * reach: that is no verdict yet. */
static bool
may_be_cured(struct record *r, const struct rcpt *rcpt, const struct outcome *o,
             const struct verdict *v)
{
    return curable(o, v) && r->env.route_left(r->env.arg, rcpt);
}

/* ---- one recipient ---- */

static void
encode_attempts(struct item *item, const struct attempts *a)
{
    struct strbuf out = STRBUF_INIT;
    attempts_encode(a, &out);
    if (out.n > QUEUE_ATTEMPTS_MAX) {
        /* A newer program's fields left no room for ours: a record that the queue refuses would
         * have the recipient tried again at once, for ever. */
        struct attempts ours = *a;
        ours.unknown = SPAN_NONE;
        strbuf_reset(&out);
        attempts_encode(&ours, &out);
    }
    item->attempts_bytes = out.n;
    item->attempts = strbuf_take(&out);
}

static void
encode_detail(struct item *item, const struct attempt *a, const struct verdict *v, uint32_t count)
{
    const struct detail d = {
        .code = a->outcome.code,
        .enh = a->outcome.enh,
        .attempts = count,
        .route = span_str(a->route),
        .site = span_str(a->site),
        .peer = span_str(a->peer),
        .host = span_str(a->host),
        .tls = span_str(a->tls),
        .phase = span_str(a->outcome.phase),
        .klass = span_str(v->klass),
        .text = span_str(a->outcome.text),
    };
    struct strbuf out = STRBUF_INIT;
    detail_encode(&d, &out);
    item->detail_bytes = out.n;
    item->detail = strbuf_take(&out);
}

static void
tell(struct item *item, const struct msg *msg, enum dsn_kind kind, enum dsn_action action)
{
    bool null_sender = msg->q.sender.n == 0;
    if (!dsn_wanted(kind, item->rcpt->notify, null_sender))
        return;
    item->tell = true;
    item->kind = kind;
    item->action = action;
}

static void
finish_delivered(struct item *item, const struct attempt *a)
{
    item->fate = FATE_FINISHED;
    item->delivered = true;
    if (!a->dsn_passed_on && !a->discarded)
        tell(item, item->rcpt->msg, DSN_SUCCESS, DSN_ACTION_RELAYED);
}

/*
 * Our own notice that cannot be delivered goes to the postmaster, and when that fails too, it is
 * held. A client's message with a null sender is given up in silence (RFC 5321 section 6.1).
 */
static void
finish_failed(struct record *r, struct item *item, const struct settings *settings)
{
    const struct msg *msg = item->rcpt->msg;
    bool notice = msg->q.flags & QUEUE_MSG_NOTICE;

    if (notice && (msg->q.flags & MSG_POSTMASTER || settings->config->node.postmaster[0] == '\0')) {
        item->fate = FATE_HELD;
        log_alert(r->env.log, "notice_held",
                  "%s: a notice for %.*s cannot be delivered and is held", msg->id_text,
                  SPAN_ARG(item->rcpt->address));
        return;
    }
    item->fate = FATE_FINISHED;
    if (notice) {
        item->tell = true; /* notices_start() sends the notice itself on */
        item->kind = DSN_FAILED;
    } else {
        tell(item, msg, DSN_FAILED, DSN_ACTION_FAILED);
    }
}

static void
defer(struct record *r, struct item *item, const struct settings *settings, struct attempts *a,
      const struct verdict *v, const struct outcome *o, msec_t now, msec_t until)
{
    msec_t probe_at = r->env.probe_at(r->env.arg, item->rcpt);
    const struct msg *msg = item->rcpt->msg;
    bool grey = v->greylisted || o->greylisted;

    item->fate = FATE_DEFERRED;
    item->retry_until = until;
    item->due_at = retry_due_at(&settings->retry, msg->q.id, a->count, grey, now, until);
    /* A hop's trouble is no verdict: whoever met it waits for the hop like all the others. */
    if (probe_at > 0 && probe_at < item->due_at)
        item->due_at = probe_at;
    unsigned warnings = retry_warnings_due(&settings->retry, msg->q.arrived_at, now);
    if (warnings > a->warned) {
        a->warned = warnings;
        if (item->status.klass == 5)
            item->status.klass = 4; /* it is only late so far (RFC 3464 section 2.3.4) */
        tell(item, msg, DSN_DELAYED, DSN_ACTION_DELAYED);
    }
}

msec_t
record_expires_at(struct record *r, const struct queue_msg *q)
{
    struct settings *settings = r->env.settings_take(r->env.arg);
    msec_t at = retry_expires_at(&settings->retry, q->arrived_at, q->sender.n == 0);
    r->env.settings_give(r->env.arg, settings);
    return at;
}

/* Keep what this attempt taught, for the next route's attempt or the report. */
static void
remember(struct attempts *a, const struct attempt *attempt, const struct verdict *v,
         struct span peer, msec_t now)
{
    attempts_add(a, &attempt->outcome, span_str(attempt->route), peer, now);
    if (a->first_deferral_at == 0)
        a->first_deferral_at = now;
    a->klass = span_str(v->klass);
}

/* What this attempt says, and what is known of those before it. */
struct judged {
    const struct attempt *attempt;
    const struct outcome *outcome; /* that counts: the attempt's, or one that it did not better */
    struct verdict verdict;
    struct attempts attempts, before;
    char *replaced; /* what the spans of `attempts` point to by now; malloc'd */
    msec_t now, expires_at;
    bool exceeded; /* another route could have it, but has been given its share */
};

/* The refusal goes with the recipient to the next route, which may fail it at once. */
static void
carry_attempts(struct rcpt *rcpt, struct judged *j)
{
    struct strbuf bytes = STRBUF_INIT;

    attempts_encode(&j->attempts, &bytes);
    j->replaced = rcpt->attempts;
    rcpt->attempts_bytes = bytes.n;
    rcpt->attempts = strbuf_take(&bytes);
    rcpt->attempts_new = true;
}

/* The receiver knew nothing of the recipient yet. */
static bool
is_early(const char *phase)
{
    enum reply_stage stage = reply_stage_of_phase(phase);
    return stage == REPLY_STAGE_CONNECT || stage == REPLY_STAGE_HELO || stage == REPLY_STAGE_TLS ||
           stage == REPLY_STAGE_MAIL;
}

/* Is it on its way by another route, or by the other family of addresses? */
static bool
sent_elsewhere(struct record *r, struct rcpt *rcpt, struct judged *j)
{
    const struct outcome *o = j->outcome;
    const struct verdict *v = &j->verdict;
    bool cured = curable(o, v);
    const struct reroute why = {
        .outcome = o,
        .klass = v->klass,
        .refused = !o->path,
        .spf = v->spf_fail,
        .learn = cured && !o->path && !v->rate_limited,
        .scope_ip = v->scope_ip,
        .early = is_early(o->phase),
    };

    if (!cured && !patience_over(r, rcpt, o, v, &j->attempts, j->now))
        return false;
    carry_attempts(rcpt, j);
    enum rerouted way = REROUTED_NOT;
    if (v->ip_keyed && j->attempt->other_family != 0 &&
        r->env.other_family(r->env.arg, rcpt, j->attempt->other_family, o))
        way = REROUTED;
    else
        way = r->env.reroute(r->env.arg, rcpt, &why);
    j->exceeded = way == REROUTED_TOO_OFTEN;
    if (way == REROUTED)
        maillog_attempt(r, j->attempt, v, &j->before, MAILLOG_REROUTED, 0);
    return way == REROUTED;
}

/* It stays with us: it has failed, has waited too long, or waits. */
static void
settle(struct record *r, const struct settings *settings, struct item *item, struct judged *j)
{
    struct rcpt *rcpt = item->rcpt;
    const struct outcome *o = j->outcome;
    const struct verdict *v = &j->verdict;
    struct attempts *a = &j->attempts;
    bool final = o->kind == OUTCOME_FAILED && !j->exceeded && !may_be_cured(r, rcpt, o, v);
    msec_t until = j->expires_at;

    a->count++;
    if (final && soft_reject(o, v)) {
        if (a->soft_since == 0 || a->soft_since > j->now) /* or a clock ran back */
            a->soft_since = j->now;
        msec_t soft_until = a->soft_since + RETRY_SOFT_REJECT_MAX;
        until = soft_until < until ? soft_until : until;
        final = j->now >= soft_until;
    }
    if (final || ruled_out(o, v)) {
        finish_failed(r, item, settings);
    } else if (retry_expired(j->expires_at, rcpt->begun_at)) {
        item->expired = true;
        item->status = (struct enh){5, 4, 7};
        finish_failed(r, item, settings);
    } else {
        defer(r, item, settings, a, v, o, j->now, until);
    }
    encode_attempts(item, a);
    if (item->fate == FATE_FINISHED)
        encode_detail(item, j->attempt, v, a->count);
    enum maillog_outcome logged = item->fate == FATE_DEFERRED ? MAILLOG_DEFERRED
                                  : item->fate == FATE_HELD   ? MAILLOG_HELD
                                                              : MAILLOG_FAILED;
    maillog_attempt(r, j->attempt, v, &j->before, logged, item->due_at);
}

static void
settle_delivered(struct record *r, struct item *item, const struct judged *j)
{
    r->env.delivered(r->env.arg, item->rcpt);
    finish_delivered(item, j->attempt);
    encode_detail(item, j->attempt, &j->verdict, j->attempts.count + 1);
    maillog_attempt(r, j->attempt, &j->verdict, &j->before,
                    j->attempt->discarded ? MAILLOG_DISCARDED : MAILLOG_DELIVERED, 0);
}

/* Decide for one recipient; false: it goes by another route and is not of this batch. */
static bool
decide(struct record *r, const struct settings *settings, const struct attempt *attempt,
       struct item *item)
{
    struct rcpt *rcpt = attempt->rcpt;
    const struct queue_msg *q = &rcpt->msg->q;
    /* The other family of addresses led nowhere: what the first one was told counts. */
    bool back = rcpt->refusal != NULL && attempt->outcome.path;
    struct judged j = {
        .attempt = attempt,
        .outcome = back ? rcpt->refusal : &attempt->outcome,
        .now = clock_wall(loop_clock(r->env.loop)),
        .expires_at = retry_expires_at(&settings->retry, q->arrived_at, q->sender.n == 0),
    };
    struct err err;
    char peer[400];

    j.verdict = judge(settings, j.outcome, attempt->host);
    if (attempts_decode(span_of(rcpt->attempts, rcpt->attempts_bytes), &j.attempts, &err) != ERR_OK)
        log_text(r->env.log, LOG_ERROR, "attempts", "%s: %s", rcpt->msg->id_text, err.text);
    j.before = j.attempts;
    item->rcpt = rcpt;
    item->status = outcome_status(j.outcome);
    if (j.outcome->kind == OUTCOME_DELIVERED) {
        settle_delivered(r, item, &j);
        return true;
    }
    snprintf(peer, sizeof(peer), "%s %s", attempt->host, attempt->peer);
    if (!back)
        remember(&j.attempts, attempt, &j.verdict, span_str(peer), j.now);
    if (j.verdict.action == REPLY_ACTION_SLOW || j.verdict.rate_limited)
        r->env.slow(r->env.arg, rcpt);
    bool ours = !sent_elsewhere(r, rcpt, &j);
    if (ours)
        settle(r, settings, item, &j);
    free(j.replaced);
    return ours;
}

void
record_attempts(struct record *r, struct attempt *attempts, size_t n)
{
    assert(n > 0);
    struct msg *msg = attempts[0].rcpt->msg;
    IN_HAND(msg->q.id);
    struct batch *b = batch_new(r, msg, n);

    for (size_t i = 0; i < n; i++) {
        assert(attempts[i].rcpt->stage == STAGE_RECORDING && attempts[i].rcpt->msg == msg);
        if (decide(r, b->settings, &attempts[i], &b->items[b->n_items]))
            b->n_items++;
        else
            b->items[b->n_items] = (struct item){0};
    }
    batch_start(b);
}

void
record_hold(struct record *r, struct rcpt *rcpt, struct span reason)
{
    struct batch *b = batch_new(r, rcpt->msg, 1);
    struct attempts a;
    struct outcome o;
    struct log_line line;
    msec_t now = clock_wall(loop_clock(r->env.loop));

    if (attempts_decode(span_of(rcpt->attempts, rcpt->attempts_bytes), &a, NULL) != ERR_OK)
        a = (struct attempts){0};
    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_LOCAL, "route", "4.2.0", "held: %.*s",
                SPAN_ARG(reason));
    attempts_add(&a, &o, SPAN_NONE, SPAN_NONE, now);
    b->items[0].rcpt = rcpt;
    b->items[0].fate = FATE_HELD;
    encode_attempts(&b->items[0], &a);
    b->n_items = 1;
    log_begin(r->env.log, &line, LOG_WARNING, "held");
    log_cstr(&line, "msg", rcpt->msg->id_text);
    log_str(&line, "rcpt", rcpt->address);
    log_str(&line, "reason", reason);
    log_end(&line);
    batch_start(b);
}

struct span
record_wanted_route(const struct rcpt *rcpt)
{
    struct attempts a;
    if (rcpt->attempts_bytes == 0 ||
        attempts_decode(span_of(rcpt->attempts, rcpt->attempts_bytes), &a, NULL) != ERR_OK)
        return SPAN_NONE;
    return a.route;
}

bool
record_curable(struct record *r, const struct outcome *o, const char *host)
{
    struct settings *settings = r->env.settings_take(r->env.arg);
    struct verdict v = judge(settings, o, host);
    r->env.settings_give(r->env.arg, settings);
    return curable(o, &v);
}

bool
record_overdue(struct record *r, const struct rcpt *rcpt)
{
    struct settings *settings = r->env.settings_take(r->env.arg);
    const struct queue_msg *q = &rcpt->msg->q;
    msec_t now = clock_wall(loop_clock(r->env.loop));
    struct attempts a;

    bool due = now >= retry_expires_at(&settings->retry, q->arrived_at, q->sender.n == 0);
    if (!due && q->sender.n > 0 &&
        attempts_decode(span_of(rcpt->attempts, rcpt->attempts_bytes), &a, NULL) == ERR_OK)
        due = now >= retry_next_warning_at(&settings->retry, q->arrived_at, a.warned);
    r->env.settings_give(r->env.arg, settings);
    return due;
}
