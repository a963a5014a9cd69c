/*
 * classify.c - names, what each class means for the recipient, and the verdict.
 *
 *   reply ─▶ words (classify_text.c) ─▶ first rule that holds ─▶ else enhanced code ─▶ else code
 *                                             │
 *                     action of the rule, or of the class by 4xx and 5xx
 *
 * Used by relayd for every refusal, and by `relayctl classify`.
 */
#include "policy/classify_internal.h"

#include <assert.h>

#include "policy/base/mem.h"

/* What is done by default with a 4xx, a 5xx, and a failure that came without a reply. No class
 * gives up at a 4xx: the receiver asks for another attempt (RFC 5321 section 4.2.1). */
static const struct class_row {
    const char *name;
    enum reply_action on_4xx, on_5xx, on_none;
} class_rows[REPLY_CLASS__COUNT] = {
#define ROW(name, a4, a5, a0)                                         \
    {                                                                 \
        name, REPLY_ACTION_##a4, REPLY_ACTION_##a5, REPLY_ACTION_##a0 \
    }
    [REPLY_OK_NOT_BOUNCE] = ROW("ok-not-bounce", NONE, NONE, NONE),
    [REPLY_BAD_MAILBOX] = ROW("bad-mailbox", RETRY, BOUNCE, BOUNCE),
    [REPLY_INACTIVE_MAILBOX] = ROW("inactive-mailbox", RETRY, BOUNCE, BOUNCE),
    [REPLY_BAD_DOMAIN] = ROW("bad-domain", RETRY, BOUNCE, BOUNCE),
    [REPLY_RELAY_DENIED] = ROW("relay-denied", RETRY, BOUNCE, BOUNCE),
    [REPLY_QUOTA_FULL] = ROW("quota-full", RETRY, RETRY, RETRY),
    [REPLY_MESSAGE_TOO_LARGE] = ROW("message-too-large", RETRY, BOUNCE, BOUNCE),
    [REPLY_CONTENT_SPAM] = ROW("content-spam", SLOW, BOUNCE, BOUNCE),
    [REPLY_CONTENT_VIRUS] = ROW("content-virus", RETRY, BOUNCE, BOUNCE),
    [REPLY_CONTENT_POLICY] = ROW("content-policy", RETRY, BOUNCE, BOUNCE),
    [REPLY_IP_BLOCKLISTED] = ROW("ip-blocklisted", REROUTE, REROUTE, REROUTE),
    [REPLY_IP_REPUTATION] = ROW("ip-reputation", REROUTE, REROUTE, REROUTE),
    [REPLY_GEO_BLOCKED] = ROW("geo-blocked", REROUTE, REROUTE, REROUTE),
    [REPLY_SPF_FAIL] = ROW("spf-fail", REROUTE, REROUTE, REROUTE),
    [REPLY_DKIM_FAIL] = ROW("dkim-fail", RETRY, BOUNCE, BOUNCE),
    [REPLY_DMARC_FAIL] = ROW("dmarc-fail", RETRY, BOUNCE, BOUNCE),
    [REPLY_PTR_MISSING] = ROW("ptr-missing", REROUTE, REROUTE, REROUTE),
    [REPLY_AUTH_REQUIRED] = ROW("auth-required", RETRY, BOUNCE, RETRY),
    [REPLY_TLS_REQUIRED] = ROW("tls-required", RETRY, RETRY, RETRY),
    [REPLY_TLS_FAILED] = ROW("tls-failed", RETRY, RETRY, RETRY),
    [REPLY_RATE_LIMITED] = ROW("rate-limited", SLOW, SLOW, SLOW),
    [REPLY_GREYLISTED] = ROW("greylisted", RETRY, RETRY, RETRY),
    [REPLY_SERVER_BUSY] = ROW("server-busy", RETRY, RETRY, RETRY),
    [REPLY_SERVER_CONFIG] = ROW("server-config", RETRY, BOUNCE, BOUNCE),
    [REPLY_PROTOCOL_ERROR] = ROW("protocol-error", RETRY, BOUNCE, BOUNCE),
    [REPLY_ROUTING_ERROR] = ROW("routing-error", RETRY, BOUNCE, RETRY),
    [REPLY_OTHER] = ROW("other", RETRY, BOUNCE, RETRY),
#undef ROW
};

static const char *const action_names[] = {
    [REPLY_ACTION_NONE] = "none",     [REPLY_ACTION_RETRY] = "retry",
    [REPLY_ACTION_SLOW] = "slow",     [REPLY_ACTION_REROUTE] = "reroute",
    [REPLY_ACTION_BOUNCE] = "bounce",
};

static const char *const stage_names[REPLY_STAGE__COUNT] = {
    [REPLY_STAGE_UNKNOWN] = "unknown", [REPLY_STAGE_CONNECT] = "connect",
    [REPLY_STAGE_HELO] = "helo",       [REPLY_STAGE_MAIL] = "mail",
    [REPLY_STAGE_RCPT] = "rcpt",       [REPLY_STAGE_DATA] = "data",
    [REPLY_STAGE_DOT] = "dot",         [REPLY_STAGE_TLS] = "tls",
};

const char *
reply_class_name(enum reply_class klass)
{
    return class_rows[klass].name;
}

const char *
reply_action_name(enum reply_action action)
{
    return action_names[action];
}

const char *
reply_stage_name(enum reply_stage stage)
{
    return stage_names[stage];
}

bool
reply_class_parse(struct span name, enum reply_class *ret)
{
    for (int i = 0; i < REPLY_CLASS__COUNT; i++) {
        if (span_ieq(name, span_str(class_rows[i].name))) {
            *ret = (enum reply_class)i;
            return true;
        }
    }
    return false;
}

static bool
name_find(struct span name, const char *const *names, size_t n, size_t *ret)
{
    for (size_t i = 0; i < n; i++) {
        if (span_ieq(name, span_str(names[i]))) {
            *ret = i;
            return true;
        }
    }
    return false;
}

bool
reply_action_parse(struct span name, enum reply_action *ret)
{
    size_t i;
    if (!name_find(name, action_names, N_ELEMENTS(action_names), &i))
        return false;
    *ret = (enum reply_action)i;
    return true;
}

bool
reply_stage_parse(struct span name, enum reply_stage *ret)
{
    size_t i;
    if (!name_find(name, stage_names, N_ELEMENTS(stage_names), &i))
        return false;
    *ret = (enum reply_stage)i;
    return true;
}

enum reply_stage
reply_stage_of_phase(const char *phase)
{
    static const struct {
        const char *phase;
        enum reply_stage stage;
    } phases[] = {
        {"connect", REPLY_STAGE_CONNECT}, {"greeting", REPLY_STAGE_CONNECT},
        {"ehlo", REPLY_STAGE_HELO},       {"helo", REPLY_STAGE_HELO},
        {"starttls", REPLY_STAGE_TLS},    {"tls", REPLY_STAGE_TLS},
        {"mail", REPLY_STAGE_MAIL},       {"rcpt", REPLY_STAGE_RCPT},
        {"data", REPLY_STAGE_DATA},       {"body-end", REPLY_STAGE_DOT},
    };
    for (size_t i = 0; i < N_ELEMENTS(phases); i++)
        if (strcmp(phase, phases[i].phase) == 0)
            return phases[i].stage;
    return REPLY_STAGE_UNKNOWN;
}

bool
reply_class_is_route_refusal(enum reply_class klass)
{
    return klass == REPLY_IP_BLOCKLISTED || klass == REPLY_IP_REPUTATION ||
           klass == REPLY_GEO_BLOCKED || klass == REPLY_PTR_MISSING || klass == REPLY_SPF_FAIL;
}

/* -- the numbers, when no rule speaks ------------------------------------------------------------
 */

/* RFC 3463 and its registry; detail CLASSIFY_ANY fits the rest of a subject. */
static const struct enh_row {
    int subject, detail;
    enum reply_class klass;
} enh_rows[] = {
    {1, 1, REPLY_BAD_MAILBOX},
    {1, 2, REPLY_BAD_DOMAIN},
    {1, 3, REPLY_PROTOCOL_ERROR},
    {1, 4, REPLY_BAD_MAILBOX},
    {1, 6, REPLY_INACTIVE_MAILBOX},
    {1, 7, REPLY_CONTENT_POLICY},
    {1, 8, REPLY_CONTENT_POLICY},
    {1, 10, REPLY_BAD_DOMAIN},
    {2, 1, REPLY_INACTIVE_MAILBOX},
    {2, 2, REPLY_QUOTA_FULL},
    {2, 3, REPLY_MESSAGE_TOO_LARGE},
    {2, 4, REPLY_SERVER_CONFIG},
    {3, 0, REPLY_OTHER}, /* what a local rule of Sendmail says when it says no number */
    {3, 4, REPLY_MESSAGE_TOO_LARGE},
    {3, 5, REPLY_SERVER_CONFIG},
    {3, CLASSIFY_ANY, REPLY_SERVER_BUSY},
    {4, 1, REPLY_ROUTING_ERROR},
    {4, 2, REPLY_ROUTING_ERROR},
    {4, 4, REPLY_BAD_DOMAIN},
    {4, 5, REPLY_SERVER_BUSY},
    {4, 6, REPLY_SERVER_CONFIG},
    {4, 7, REPLY_ROUTING_ERROR},
    {4, CLASSIFY_ANY, REPLY_ROUTING_ERROR},
    {5, 3, REPLY_RATE_LIMITED},
    {5, CLASSIFY_ANY, REPLY_PROTOCOL_ERROR},
    {6, CLASSIFY_ANY, REPLY_PROTOCOL_ERROR},
    {7, 0, REPLY_OTHER},
    {7, 1, REPLY_OTHER},
    {7, 3, REPLY_OTHER},
    {7, 4, REPLY_OTHER},
    {7, 5, REPLY_OTHER},
    {7, 6, REPLY_OTHER},
    {7, 8, REPLY_AUTH_REQUIRED},
    {7, 9, REPLY_AUTH_REQUIRED},
    {7, 10, REPLY_TLS_REQUIRED},
    {7, 11, REPLY_TLS_REQUIRED},
    {7, 12, REPLY_AUTH_REQUIRED},
    {7, 13, REPLY_INACTIVE_MAILBOX},
    {7, 14, REPLY_AUTH_REQUIRED},
    {7, 20, REPLY_DKIM_FAIL},
    {7, 21, REPLY_DKIM_FAIL},
    {7, 22, REPLY_DKIM_FAIL},
    {7, 23, REPLY_SPF_FAIL},
    {7, 24, REPLY_SPF_FAIL},
    {7, 25, REPLY_PTR_MISSING},
    {7, 26, REPLY_DMARC_FAIL},
    {7, 27, REPLY_CONTENT_POLICY},
    {7, 28, REPLY_RATE_LIMITED},
    {7, 29, REPLY_DKIM_FAIL},
    {7, 30, REPLY_TLS_REQUIRED},
    {7, CLASSIFY_ANY, REPLY_CONTENT_POLICY},
};

/* With a code of 4xx or 5xx, 2.x.x means nothing: the reply code is what counts. */
static bool
class_of_enh(int code, struct enh enh, enum reply_class *ret)
{
    if (enh.klass == 0 || (enh.klass == 2 && code != 0))
        return false;
    if (enh.klass == 2) {
        *ret = REPLY_OK_NOT_BOUNCE;
        return true;
    }
    for (size_t i = 0; i < N_ELEMENTS(enh_rows); i++) {
        const struct enh_row *row = &enh_rows[i];
        if (row->subject == enh.subject &&
            (row->detail == enh.detail || row->detail == CLASSIFY_ANY)) {
            *ret = row->klass;
            return row->klass != REPLY_OTHER;
        }
    }
    return false;
}

/* 5xx that says nothing: at the greeting it can only be about us, at MAIL about the sender, and at
 * RCPT 550 means what RFC 5321 section 4.2.3 says, mailbox unavailable. */
static enum reply_class
class_of_5xx(int code, enum reply_stage stage)
{
    if (stage == REPLY_STAGE_CONNECT)
        return REPLY_IP_BLOCKLISTED;
    if (stage == REPLY_STAGE_MAIL)
        return REPLY_CONTENT_POLICY;
    if (stage == REPLY_STAGE_RCPT && (code == 550 || code == 551 || code == 553))
        return REPLY_BAD_MAILBOX;
    return REPLY_OTHER;
}

static enum reply_class
class_of_code(int code, enum reply_stage stage)
{
    switch (code) {
    case 500 ... 504:
    case 555:
        return REPLY_PROTOCOL_ERROR;
    case 510:
    case 511:
        return REPLY_BAD_MAILBOX;
    case 512:
    case 521:
    case 556:
        return REPLY_BAD_DOMAIN;
    case 523:
        return REPLY_MESSAGE_TOO_LARGE;
    case 525:
        return REPLY_INACTIVE_MAILBOX;
    case 530:
    case 534:
    case 535:
    case 538:
        return REPLY_AUTH_REQUIRED;
    case 552:
        return stage == REPLY_STAGE_RCPT ? REPLY_QUOTA_FULL : REPLY_MESSAGE_TOO_LARGE;
    case 571:
        return REPLY_CONTENT_POLICY;
    default:
        return code < 400   ? REPLY_OK_NOT_BOUNCE
               : code < 500 ? REPLY_SERVER_BUSY
                            : class_of_5xx(code, stage);
    }
}

/* -- the verdict
 * ----------------------------------------------------------------------------------- */

static enum reply_action
action_of(enum reply_class klass, const struct classify_reply *reply)
{
    int first_digit = reply->code != 0 ? reply->code / 100 : reply->enh.klass;
    const struct class_row *row = &class_rows[klass];
    return first_digit == 4 ? row->on_4xx : first_digit == 5 ? row->on_5xx : row->on_none;
}

static struct classify_verdict
verdict_of(struct classify_rules *rules, struct classify_reply reply)
{
    struct classify_verdict verdict = {.klass = REPLY_OTHER, .rule = "none"};
    int action = CLASSIFY_ANY;

    classify_normalise(&reply, &rules->text);
    const struct compiled_rule *rule =
        reply.code >= 200 && reply.code < 400
            ? NULL /* whatever its words, it is no refusal */
            : classify_rules_find(rules, &reply, strbuf_span(&rules->text));
    if (rule != NULL) {
        verdict.klass = rule->klass;
        verdict.rule = rule->name;
        action = rule->action;
    } else if ((reply.code < 200 || reply.code >= 400) &&
               class_of_enh(reply.code, reply.enh, &verdict.klass)) {
        verdict.rule = "enhanced-code";
    } else if (reply.code != 0) {
        verdict.klass = class_of_code(reply.code, reply.stage);
        verdict.rule = "reply-code";
    }
    verdict.action =
        action == CLASSIFY_ANY ? action_of(verdict.klass, &reply) : (enum reply_action)action;
    verdict.ip_keyed =
        verdict.action == REPLY_ACTION_REROUTE &&
        (verdict.klass == REPLY_RATE_LIMITED ||
         (reply_class_is_route_refusal(verdict.klass) && verdict.klass != REPLY_SPF_FAIL));
    verdict.scope_ip = verdict.ip_keyed && rule != NULL && rule->scope_ip;
    return verdict;
}

struct classify_verdict
classify_reply(struct classify_rules *rules, const struct classify_reply *reply)
{
    return verdict_of(rules, *reply);
}

struct classify_verdict
classify_text(struct classify_rules *rules, struct span response, enum reply_stage stage,
              struct span mx)
{
    return verdict_of(rules, (struct classify_reply){.text = response, .stage = stage, .mx = mx});
}
