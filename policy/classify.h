/*
 * classify - what an SMTP refusal means, and what is to be done with the recipient.
 *
 * Rules are data (etc/replies.yaml, compiled in): the first rule whose conditions all hold gives
 * the class; the class gives the action unless the rule names another. Compiled once into PCRE2
 * with JIT; a set of rules is used by one thread at a time (it owns its match data).
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/outcome.h"
#include "policy/base/span.h"

struct config_node;
struct config_problems;

#define CLASSIFY_RULES_MAX 4096u
#define CLASSIFY_TEXT_MAX \
    640u /* octets of a reply that are looked at: reasons stand at its start */

enum reply_class {
    REPLY_OK_NOT_BOUNCE,
    REPLY_BAD_MAILBOX,
    REPLY_INACTIVE_MAILBOX,
    REPLY_BAD_DOMAIN,
    REPLY_RELAY_DENIED,
    REPLY_QUOTA_FULL,
    REPLY_MESSAGE_TOO_LARGE,
    REPLY_CONTENT_SPAM,
    REPLY_CONTENT_VIRUS,
    REPLY_CONTENT_POLICY,
    REPLY_IP_BLOCKLISTED,
    REPLY_IP_REPUTATION,
    REPLY_GEO_BLOCKED,
    REPLY_SPF_FAIL,
    REPLY_DKIM_FAIL,
    REPLY_DMARC_FAIL,
    REPLY_PTR_MISSING,
    REPLY_AUTH_REQUIRED,
    REPLY_TLS_REQUIRED,
    REPLY_TLS_FAILED,
    REPLY_RATE_LIMITED,
    REPLY_GREYLISTED,
    REPLY_SERVER_BUSY,
    REPLY_SERVER_CONFIG,
    REPLY_PROTOCOL_ERROR,
    REPLY_ROUTING_ERROR,
    REPLY_OTHER,
    REPLY_CLASS__COUNT
};

/* What is done with this recipient next when another route exists. */
enum reply_action {
    REPLY_ACTION_NONE,  /* no refusal: go on, or record the delivery */
    REPLY_ACTION_RETRY, /* later, the same way; a 5xx too, then for at most RETRY_SOFT_REJECT_MAX */
    REPLY_ACTION_SLOW,  /* later, and the site's rate is halved */
    REPLY_ACTION_REROUTE, /* now, by the next route; without one: retry a 4xx, bounce a 5xx */
    REPLY_ACTION_BOUNCE,  /* give up and tell the sender; a 4xx only where a rule says so: no class
                             does, nor does a rule of etc/replies.yaml */
};

/* Where in the session the reply came. */
enum reply_stage {
    REPLY_STAGE_UNKNOWN,
    REPLY_STAGE_CONNECT,
    REPLY_STAGE_HELO,
    REPLY_STAGE_MAIL,
    REPLY_STAGE_RCPT,
    REPLY_STAGE_DATA,
    REPLY_STAGE_DOT,
    REPLY_STAGE_TLS,
    REPLY_STAGE__COUNT
};

const char *reply_class_name(enum reply_class klass);    /* "ip-blocklisted" */
const char *reply_action_name(enum reply_action action); /* "reroute" */
const char *reply_stage_name(enum reply_stage stage);    /* "rcpt" */
bool reply_class_parse(struct span name, enum reply_class *ret);
bool reply_action_parse(struct span name, enum reply_action *ret);
bool reply_stage_parse(struct span name, enum reply_stage *ret);
/* The stage of an outcome's phase ("greeting", "ehlo", "body-end", ...). */
enum reply_stage reply_stage_of_phase(const char *phase);

/* -- rules ------------------------------------------------------------------------------------ */

/*
 * One rule as written. Spans may be empty (SPAN_NONE): no such condition. All given conditions must
 * hold. Values in lists are separated by blanks or commas.
 */
struct classify_rule {
    struct span name;     /* shown as `rule`; required, unique in its file */
    struct span klass;    /* class name; required */
    struct span action;   /* "retry", ...: instead of the class's own */
    struct span scope;    /* "ip": said of our address by the receiver as a whole, so that all its
                             domains would say it */
    struct span match;    /* PCRE2 regex on the reply's words (classify_normalise), case ignored */
    struct span unless;   /* likewise; the rule does not hold where this matches */
    struct span code;     /* "550", "4xx", "452 552"; "4xx" is also 4.x.x without a code */
    struct span enhanced; /* "5.1.1", "x.2.2", "5.7.51x" */
    struct span stage;    /* "rcpt dot unknown" */
    struct span mx;       /* "*.qq.com *.foxmail.com": the peer's host name */
};

struct classify_rules; /* opaque: compiled rules, in order */

struct classify_rules *classify_rules_new(void);        /* empty; owned by the caller */
void classify_rules_free(struct classify_rules *rules); /* NULL is fine */

/* Append one rule; texts are copied. ERR_INVAL with what is wrong; ERR_LIMIT: too many rules. */
MUST_CHECK enum err_code
classify_rules_add(struct classify_rules *rules, const struct classify_rule *rule, struct err *err);

/*
 * Append the rules of a YAML list (`classify.rules`, or the file's `rules:`), in its order. Every
 * mistake is added to `problems` with its place and under `path`; returns false when there was one.
 */
bool classify_rules_add_node(struct classify_rules *rules, const struct config_node *list,
                             const char *path, struct config_problems *problems);

/* The same for the text of a replies.yaml; `file` is its name for messages. */
bool classify_rules_parse(struct classify_rules *rules, struct span yaml, const char *file,
                          struct config_problems *problems);

/* The text of etc/replies.yaml as compiled in. */
struct span classify_builtin_text(void);

/* How many rules were read so far. */
size_t classify_rules_count(const struct classify_rules *rules);

/* -- use -------------------------------------------------------------------------------------- */

struct classify_reply {
    int code;       /* 0: none */
    struct enh enh; /* klass 0: none; one at the start of `text` is found too */
    struct span
        text; /* the reply's words, lines joined with a blank or LF; a leading code is fine */
    enum reply_stage stage;
    struct span mx; /* the peer's host name, or empty */
};

struct classify_verdict {
    enum reply_class klass;
    enum reply_action action;
    const char *rule; /* owned by the rules; "enhanced-code" or "reply-code" when no rule spoke and
                         the numbers decided, "none" when there were none */
    bool ip_keyed;    /* the limit or the block is on our address: another route helps at once */
    bool scope_ip;    /* ... and the rule knows that it holds for all domains of the receiver */
};

/*
 * Classify one reply. Always gives a verdict: when no rule fits, the enhanced code and then the
 * reply code decide, and `other` is the last resort.
 */
struct classify_verdict
classify_reply(struct classify_rules *rules, const struct classify_reply *reply);

/*
 * The same for a whole reply as text ("550-5.1.1 no\r\n550 5.1.1 such user", "smtp; 550 ..."): code
 * and enhanced code are taken from it. For relayctl classify.
 */
struct classify_verdict classify_text(struct classify_rules *rules, struct span response,
                                      enum reply_stage stage, struct span mx);

/*
 * The words that rules look at: the text without reply codes and enhanced codes at the start of its
 * lines, blanks and newlines squeezed, addresses as "#addr", IP addresses as "#ip", at most
 * CLASSIFY_TEXT_MAX octets. A code or an enhanced code that `reply` does not give and the text does
 * is written to *reply.
 */
void classify_normalise(struct classify_reply *reply, struct strbuf *out);

/* Whether the class may move a recipient to another route at all (never content or mailbox). */
bool reply_class_is_route_refusal(enum reply_class klass);
