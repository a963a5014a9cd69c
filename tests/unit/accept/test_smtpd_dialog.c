/*
 * Runs the scripts in tests/dialog/accept/ against the protocol core in virtual time. Each script
 * is played several times: with each group of client lines in one piece, one octet at a time, one
 * octet at a time with every answer given late, and cut in two at every position.
 *
 * The script language is described in tests/dialog/accept/README.md.
 */
#include "policy/base/mem.h"
#include "policy/base/units.h"
#include "relayd/accept/data.h"
#include "relayd/accept/smtpd.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define MESSAGES_MAX 64
#define RULES_MAX 64
#define CUTS_MAX 500 /* cut positions tried of one script; longer ones are sampled */

enum pieces { WHOLE, OCTETS, LATE, CUT };

/* What reached the sink as one message. */
struct message {
    char *envelope; /* "from=... to=... proto=..." */
    struct strbuf body;
};

/* What the script said about an address or a stage: "verdict a@b 550 ..." */
struct rule {
    struct span stage, who, text;
};

struct play {
    const char *file;
    unsigned line;
    enum pieces pieces;
    size_t cut_at, n_sent; /* CUT: the piece ends where n_sent passes cut_at */

    struct smtpd_conf conf;
    struct ip own[4];
    struct smtpd *s;
    bool trusted, closed, stressed;
    msec_t now;
    struct strbuf in, replies, last;
    struct rule rules[RULES_MAX];
    size_t n_rules;

    struct strbuf envelope, body; /* of the transaction in the sink */
    bool sink_open;
    uint64_t sink_bytes;
    struct message messages[MESSAGES_MAX];
    size_t n_messages, n_checked, n_aborts, n_events[4];
    char scratch[DATA_SCRATCH_BYTES];
};

static void __attribute__((format(printf, 2, 3), noreturn))
die(const struct play *p, const char *fmt, ...)
{
    static const char *const names[] = {"whole", "octets", "late", "cut"};
    char text[4096];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fail_msg("%s:%u [%s %zu]: %s", p->file, p->line, names[p->pieces], p->cut_at, text);
    abort();
}

/* ---- the sink and the verdicts ---- */

static const struct rule *
rule_find(const struct play *p, const char *stage, struct span who)
{
    for (size_t i = p->n_rules; i-- > 0;)
        if (span_eq(p->rules[i].stage, span_str(stage)) &&
            (span_eq(p->rules[i].who, who) || span_eq(p->rules[i].who, SPAN("*"))))
            return &p->rules[i];
    return NULL;
}

static struct span
rule_text(const struct play *p, const char *stage, struct span who)
{
    const struct rule *rule = rule_find(p, stage, who);

    return rule == NULL ? SPAN_NONE : rule->text;
}

static void
sink_begin(struct play *p)
{
    const struct accept_mail *mail = smtpd_mail(p->s);
    struct span refusal = rule_text(p, "begin", mail->sender);

    assert_false(p->sink_open);
    assert_true(smtpd_has_sink(p->s));
    if (refusal.n == 0) {
        p->sink_open = true;
        strbuf_reset(&p->envelope);
        strbuf_reset(&p->body);
        strbuf_printf(&p->envelope, "from=%.*s domain=%.*s proto=%.*s helo=%.*s user=%.*s tls=%.*s",
                      SPAN_ARG(mail->sender), SPAN_ARG(mail->sender_domain),
                      SPAN_ARG(mail->client->protocol), SPAN_ARG(mail->client->helo),
                      SPAN_ARG(mail->client->user), SPAN_ARG(mail->client->tls_version));
        strbuf_printf(&p->envelope, " size=%llu 8bit=%d utf8=%d ret=%.*s envid=%.*s to=",
                      (unsigned long long)mail->size_bytes, mail->body_8bit, mail->smtputf8,
                      SPAN_ARG(mail->ret), SPAN_ARG(mail->envid));
    }
    smtpd_answer(p->s, refusal);
}

static void
sink_rcpt(struct play *p)
{
    const struct accept_rcpt *r = smtpd_rcpt(p->s);
    struct span refusal = rule_text(p, "rcpt", r->address);

    assert_true(p->sink_open);
    if (refusal.n == 0) {
        strbuf_printf(&p->envelope, "%s%.*s", p->envelope.p[p->envelope.n - 1] == '=' ? "" : ",",
                      SPAN_ARG(r->address));
        if (!span_ends(r->address, r->domain))
            strbuf_printf(&p->envelope, "(%.*s)", SPAN_ARG(r->domain));
        if (r->notify != 0)
            strbuf_printf(&p->envelope, "/notify:%u", r->notify);
        if (r->orcpt.n > 0)
            strbuf_printf(&p->envelope, "/orcpt:%.*s", SPAN_ARG(r->orcpt));
    }
    smtpd_answer(p->s, refusal);
}

static void
sink_chunk(struct play *p)
{
    struct span bytes = smtpd_chunk(p->s);
    const struct rule *rule = rule_find(p, "refuse-after", SPAN("*"));

    assert_true(p->sink_open);
    assert_true(bytes.n > 0);
    strbuf_add_span(&p->body, bytes);
    if (rule != NULL && p->body.n >= strtoul(rule->text.p, NULL, 10)) {
        struct span text = rule->text;
        span_cut(&text, ' ');
        smtpd_refuse(p->s, p->now, text);
        p->sink_open = false;
    }
}

static void
sink_end(struct play *p)
{
    struct span refusal = rule_text(p, "end", smtpd_mail(p->s)->sender);
    struct message *m = &p->messages[p->n_messages];
    char text[64];

    assert_true(p->sink_open);
    assert_true(smtpd_n_rcpts(p->s) > 0);
    assert_int_equal(smtpd_body(p->s)->size_bytes, p->body.n);
    p->sink_open = false;
    if (refusal.n == 0) {
        if (p->n_messages == MESSAGES_MAX)
            die(p, "too many messages");
        const struct accept_body *body = smtpd_body(p->s);
        strbuf_printf(&p->envelope, " fixed=%llu broken=%llu",
                      (unsigned long long)body->newlines_fixed,
                      (unsigned long long)body->lines_broken);
        m->envelope = strbuf_take(&p->envelope);
        m->body = p->body;
        p->body = STRBUF_INIT;
        snprintf(text, sizeof text, "250 2.0.0 queued as test.%zu", ++p->n_messages);
        refusal = span_str(text);
    }
    smtpd_answer(p->s, refusal);
}

static void
answer_verdict(struct play *p)
{
    const struct accept_rcpt *r = smtpd_rcpt(p->s);
    struct span text = rule_text(p, "verdict", r->address);

    assert_true(smtpd_client(p->s)->trusted || smtpd_rcpt_is_strangers(p->s));
    if (span_starts(text, SPAN("-> ")))
        smtpd_verdict(p->s, SPAN_NONE, span_from(text, 3));
    else
        smtpd_verdict(p->s, text, SPAN_NONE);
}

static void
answer_auth(struct play *p)
{
    const struct smtpd_auth *a = smtpd_auth(p->s);
    struct span text = rule_text(p, "user", a->name);
    bool ok = text.n > 0 && span_eq(text, a->password);

    if (rule_find(p, "auth", SPAN("busy")) != NULL) {
        smtpd_auth_done(p->s, SMTPD_AUTH_BUSY);
    } else if (rule_find(p, "auth", SPAN("throttled")) != NULL) {
        smtpd_auth_done(p->s, SMTPD_AUTH_THROTTLED);
    } else {
        smtpd_set_trusted(p->s, p->trusted || ok);
        smtpd_auth_done(p->s, ok ? SMTPD_AUTH_OK : SMTPD_AUTH_BAD);
    }
}

static void
on_event(void *arg, const struct smtpd_event *e)
{
    struct play *p = arg;

    assert_true(e->kind < 4);
    assert_non_null(e->verb);
    p->n_events[e->kind]++;
    for (size_t i = 0; i < e->text.n; i++)
        assert_true((unsigned char)e->text.p[i] >= 32);
}

/* ---- driving the core ---- */

static void
take_replies(struct play *p)
{
    struct strbuf *out = smtpd_out(p->s);

    strbuf_add_span(&p->replies, strbuf_span(out));
    strbuf_consume(out, out->n);
}

/* Step until it wants more input or time. `answer`: give the answers it asks for. */
static void
drive(struct play *p, bool answer)
{
    for (;;) {
        struct span in = strbuf_span(&p->in);
        enum smtpd_want want = smtpd_step(p->s, p->now, &in);
        if (want == SMTPD_WANT_CHUNK)
            sink_chunk(p); /* it points into p->in */
        strbuf_consume(&p->in, p->in.n - in.n);
        switch (want) {
        case SMTPD_WANT_INPUT:
            assert_true(p->in.n <= SMTPD_INPUT_MIN);
            take_replies(p);
            return;
        case SMTPD_WANT_FLUSH:
            take_replies(p);
            break;
        case SMTPD_WANT_CLOSE:
            assert_false(p->sink_open);
            take_replies(p);
            p->closed = true;
            return;
        case SMTPD_WANT_TLS:
            take_replies(p);
            return;
        case SMTPD_WANT_ABORT:
            assert_true(p->sink_open);
            p->sink_open = false;
            p->n_aborts++;
            break;
        case SMTPD_WANT_CHUNK:
            break;
        default:
            if (!answer)
                return;
            if (want == SMTPD_WANT_AUTH)
                answer_auth(p);
            else if (want == SMTPD_WANT_VERDICT)
                answer_verdict(p);
            else if (want == SMTPD_WANT_BEGIN)
                sink_begin(p);
            else if (want == SMTPD_WANT_RCPT)
                sink_rcpt(p);
            else
                sink_end(p);
        }
    }
}

static void
start(struct play *p)
{
    struct accept_client client = {.session = 1, .port = 4711, .listener = SPAN("127.0.0.1:2525")};

    if (p->s != NULL)
        return;
    if (!ip_parse(SPAN("203.0.113.9"), &client.ip))
        abort();
    p->s = smtpd_new(&p->conf, &client, p->scratch, p);
    smtpd_set_trusted(p->s, p->trusted);
    smtpd_start(p->s, p->now, p->in.n > 0);
    drive(p, true);
}

static void
feed(struct play *p, struct span bytes)
{
    if (p->closed)
        return; /* written into a closed connection: legal, lost */
    strbuf_add_span(&p->in, bytes);
    drive(p, p->pieces != LATE);
}

static void
send_bytes(struct play *p, struct span bytes)
{
    start(p);
    size_t sent = p->n_sent;
    p->n_sent += bytes.n;
    if (p->pieces == OCTETS || p->pieces == LATE) {
        for (size_t i = 0; i < bytes.n; i++)
            feed(p, span_of(bytes.p + i, 1));
    } else if (p->pieces == CUT && sent < p->cut_at && p->cut_at < p->n_sent) {
        feed(p, span_first(bytes, p->cut_at - sent));
        feed(p, span_from(bytes, p->cut_at - sent));
    } else {
        feed(p, bytes);
    }
    if (!p->closed)
        drive(p, true);
}

static void
pass_time(struct play *p, msec_t ms)
{
    msec_t until = p->now + ms;

    start(p);
    while (!p->closed && smtpd_deadline(p->s) <= until) {
        if (smtpd_deadline(p->s) > p->now)
            p->now = smtpd_deadline(p->s);
        smtpd_timeout(p->s, p->now);
        drive(p, true);
    }
    p->now = until;
}

/* ---- the script ---- */

static int
hex(char c)
{
    return ascii_digit(c)                                   ? c - '0'
           : ascii_lower(c) >= 'a' && ascii_lower(c) <= 'f' ? ascii_lower(c) - 'a' + 10
                                                            : -1;
}

/* \r \n \t \0 \\ \xHH */
static void
unescape(const struct play *p, struct span s, struct strbuf *out)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != '\\') {
            strbuf_add_byte(out, s.p[i]);
            continue;
        }
        char c = ++i < s.n ? s.p[i] : '?';
        if (c == 'x' && i + 2 < s.n && hex(s.p[i + 1]) >= 0 && hex(s.p[i + 2]) >= 0) {
            strbuf_add_byte(out, (char)(hex(s.p[i + 1]) << 4 | hex(s.p[i + 2])));
            i += 2;
        } else if (strchr("rnt0\\s", c) != NULL) {
            strbuf_add_byte(out, c == 'r'   ? '\r'
                                 : c == 'n' ? '\n'
                                 : c == 't' ? '\t'
                                 : c == '0' ? '\0'
                                 : c == 's' ? ' '
                                            : '\\');
        } else {
            die(p, "bad escape");
        }
    }
}

/* "a | b | c": each item unescaped, followed by `end`. */
static void
items(const struct play *p, struct span s, const char *end, struct strbuf *out)
{
    while (s.n > 0) {
        size_t at = span_find(s, SPAN(" | "));
        struct span item = at == SIZE_MAX ? s : span_first(s, at);
        s = at == SIZE_MAX ? SPAN_NONE : span_from(s, at + 3);
        unescape(p, item, out);
        strbuf_add_str(out, end);
    }
}

/* Take one whole reply (all its lines) off p->replies into p->last. */
static void
next_reply(struct play *p)
{
    strbuf_reset(&p->last);
    for (;;) {
        size_t nl = span_find(strbuf_span(&p->replies), SPAN("\r\n"));
        if (nl == SIZE_MAX)
            die(p, "no reply (have \"%.*s\")", SPAN_ARG(strbuf_span(&p->replies)));
        struct span line = span_of(p->replies.p, nl);
        if (line.n < 3 || line.n > 510 || span_find_byte(line, '\n') != SIZE_MAX)
            die(p, "a reply line of the wrong form: %.*s", SPAN_ARG(line));
        bool more = line.n > 3 && line.p[3] == '-';
        strbuf_add_span(&p->last, line);
        strbuf_add_byte(&p->last, '\n');
        strbuf_consume(&p->replies, nl + 2);
        if (!more)
            return;
    }
}

static void
expect_replies(struct play *p, struct span s)
{
    start(p);
    while (s.n > 0) {
        size_t at = span_find(s, SPAN(" | "));
        struct span item = at == SIZE_MAX ? s : span_first(s, at);
        s = at == SIZE_MAX ? SPAN_NONE : span_from(s, at + 3);
        next_reply(p);
        if (!span_starts(strbuf_span(&p->last), item))
            die(p, "expected \"%.*s\", got \"%.*s\"", SPAN_ARG(item),
                SPAN_ARG(strbuf_span(&p->last)));
    }
}

static void
expect_message(struct play *p, struct span s)
{
    CLEANUP(strbuf_release) struct strbuf body = STRBUF_INIT;
    size_t at = span_find(s, SPAN("body="));
    struct span keys = at == SIZE_MAX ? s : span_first(s, at);

    if (p->n_checked == p->n_messages)
        die(p, "no message reached the sink");
    struct message *m = &p->messages[p->n_checked++];
    while ((keys = span_trim(keys)).n > 0) {
        struct span word = span_cut(&keys, ' ');
        CLEANUP(freep) char *inside = xasprintf(" %.*s ", SPAN_ARG(word));
        CLEANUP(freep) char *all = xasprintf(" %s ", m->envelope);
        if (strstr(all, inside) == NULL)
            die(p, "expected %.*s in \"%s\"", SPAN_ARG(word), m->envelope);
    }
    if (at == SIZE_MAX)
        return;
    unescape(p, span_from(s, at + 5), &body);
    if (!span_eq(strbuf_span(&body), strbuf_span(&m->body)))
        die(p, "body is \"%.*s\"", SPAN_ARG(strbuf_span(&m->body)));
}

static void
expect(struct play *p, struct span s)
{
    struct span what = span_cut(&s, ' ');

    start(p);
    if (span_eq(what, SPAN("message"))) {
        expect_message(p, s);
    } else if (span_eq(what, SPAN("lines"))) { /* the next message: size and longest line */
        uint64_t longest = 0, want = strtoul(s.p, NULL, 10);
        if (p->n_checked == p->n_messages)
            die(p, "no message reached the sink");
        struct span body = strbuf_span(&p->messages[p->n_checked].body);
        while (body.n > 0) {
            struct span line = span_cut(&body, '\n');
            longest = line.n > longest + 1 ? line.n - 1 : longest;
        }
        if (longest != want)
            die(p, "the longest line has %llu octets", (unsigned long long)longest);
    } else if (span_eq(what, SPAN("nothing"))) {
        if (p->n_checked < p->n_messages)
            die(p, "a message reached the sink: %s", p->messages[p->n_checked].envelope);
    } else if (span_eq(what, SPAN("aborts"))) {
        if (p->n_aborts != strtoul(s.p, NULL, 10))
            die(p, "%zu aborts", p->n_aborts);
    } else if (span_eq(what, SPAN("errors"))) {
        if (smtpd_counts(p->s)->errors != strtoul(s.p, NULL, 10))
            die(p, "%u errors", smtpd_counts(p->s)->errors);
    } else if (span_eq(what, SPAN("closed"))) {
        if (!p->closed || !span_eq(span_str(smtpd_close_reason(p->s)), s))
            die(p, "closed=%d reason=%s", p->closed, smtpd_close_reason(p->s));
    } else if (span_eq(what, SPAN("open"))) {
        if (p->closed)
            die(p, "closed: %s", smtpd_close_reason(p->s));
    } else if (span_eq(what, SPAN("sink"))) {
        if (p->sink_open != span_eq(s, SPAN("open")))
            die(p, "the sink is %s", p->sink_open ? "open" : "idle");
    } else {
        die(p, "expect what?");
    }
}

static bool
flag(const struct play *p, struct span s)
{
    if (!span_eq(s, SPAN("yes")) && !span_eq(s, SPAN("no")))
        die(p, "yes or no?");
    return span_eq(s, SPAN("yes"));
}

static void
configure(struct play *p, struct span s)
{
    struct span key = span_cut(&s, ' ');

    if (p->s != NULL)
        die(p, "conf comes before the first line of the dialog");
    if (span_eq(key, SPAN("size")))
        p->conf.message_bytes = strtoull(s.p, NULL, 10);
    else if (span_eq(key, SPAN("header")))
        p->conf.header_bytes = strtoull(s.p, NULL, 10);
    else if (span_eq(key, SPAN("rcpts")))
        p->conf.max_rcpts = (uint32_t)strtoul(s.p, NULL, 10);
    else if (span_eq(key, SPAN("stranger_size")))
        p->conf.stranger_bytes = strtoull(s.p, NULL, 10);
    else if (span_eq(key, SPAN("starttls")))
        p->conf.starttls = flag(p, s);
    else if (span_eq(key, SPAN("auth")))
        p->conf.auth = flag(p, s);
    else if (span_eq(key, SPAN("require_auth")))
        p->conf.require_auth = flag(p, s);
    else if (span_eq(key, SPAN("reject_newlines")))
        p->conf.reject_newlines = flag(p, s);
    else if (span_eq(key, SPAN("srs")))
        p->conf.srs_domain = "fwd.test";
    else if (span_eq(key, SPAN("own")) && ip_parse(s, &p->own[p->conf.n_own]))
        p->conf.n_own++;
    else
        die(p, "conf what?");
}

static void
add_rule(struct play *p, struct span stage, struct span s)
{
    if (p->n_rules == RULES_MAX)
        die(p, "too many rules");
    struct rule *rule = &p->rules[p->n_rules++];
    rule->stage = stage;
    rule->who = span_cut(&s, ' ');
    rule->text = s;
}

/* "R*3000 text": the text so many times. */
static void
send_raw(struct play *p, struct span word, struct span s)
{
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    unsigned long n = word.n > 2 ? strtoul(word.p + 2, NULL, 10) : 1;

    for (unsigned long i = 0; i < n; i++)
        unescape(p, s, &bytes);
    send_bytes(p, strbuf_span(&bytes));
}

static void
do_tls(struct play *p)
{
    start(p);
    struct span none = SPAN_NONE;
    if (smtpd_step(p->s, p->now, &none) != SMTPD_WANT_TLS)
        die(p, "TLS is not wanted");
    if (p->in.n > 0)
        die(p, "plain bytes wait behind STARTTLS");
    smtpd_set_trusted(p->s, p->trusted);
    smtpd_tls_done(p->s, SPAN("TLSv1.3"), SPAN("TLS_AES_256_GCM_SHA384"));
    drive(p, true);
}

static void
directive(struct play *p, struct span line)
{
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    struct span s = line, word = span_cut(&s, ' ');
    msec_t ms;

    if (span_eq(word, SPAN("S"))) {
        expect_replies(p, s);
    } else if (span_eq(word, SPAN("S+")) || span_eq(word, SPAN("S-"))) {
        bool found = span_find(strbuf_span(&p->last), s) != SIZE_MAX;
        if (found != (word.p[1] == '+'))
            die(p, "the last reply is \"%.*s\"", SPAN_ARG(strbuf_span(&p->last)));
    } else if (span_eq(word, SPAN("C"))) {
        items(p, s, "\r\n", &bytes);
        if (s.n == 0)
            strbuf_add_str(&bytes, "\r\n");
        send_bytes(p, strbuf_span(&bytes));
    } else if (span_starts(word, SPAN("R"))) {
        send_raw(p, word, s);
    } else if (span_eq(word, SPAN("early"))) {
        unescape(p, s, &p->in);
    } else if (span_eq(word, SPAN("conf"))) {
        configure(p, s);
    } else if (span_eq(word, SPAN("trusted"))) {
        p->trusted = flag(p, s);
        if (p->s != NULL)
            smtpd_set_trusted(p->s, p->trusted);
    } else if (span_eq(word, SPAN("tls"))) {
        do_tls(p);
    } else if (span_eq(word, SPAN("wait"))) {
        if (duration_parse(s, &ms, NULL) != ERR_OK)
            die(p, "wait how long?");
        pass_time(p, ms);
    } else if (span_eq(word, SPAN("stop"))) {
        start(p);
        smtpd_stop(p->s);
        drive(p, true);
    } else if (span_eq(word, SPAN("stress"))) {
        start(p);
        smtpd_set_stressed(p->s, p->now, flag(p, s));
    } else if (span_eq(word, SPAN("expect"))) {
        expect(p, s);
    } else if (span_eq(word, SPAN("forget"))) {
        p->n_rules = 0;
    } else if (span_eq(word, SPAN("verdict")) || span_eq(word, SPAN("begin")) ||
               span_eq(word, SPAN("rcpt")) || span_eq(word, SPAN("end")) ||
               span_eq(word, SPAN("refuse-after")) || span_eq(word, SPAN("user")) ||
               span_eq(word, SPAN("auth"))) {
        add_rule(p, word, s);
    } else {
        die(p, "what is %.*s?", SPAN_ARG(word));
    }
}

/* Play the script once; returns the number of octets the client sent. */
static size_t
play_once(const char *file, struct span script, enum pieces pieces, size_t cut_at)
{
    struct play *p = xcalloc(1, sizeof *p);

    p->file = file;
    p->pieces = pieces;
    p->cut_at = cut_at;
    p->now = 1000;
    p->trusted = true;
    p->conf = (struct smtpd_conf){.hostname = "relay.test",
                                  .postmaster = "postmaster@relay.test",
                                  .srs_domain = "",
                                  .seed = {1, 2},
                                  .own = p->own,
                                  .message_bytes = 10000,
                                  .stranger_bytes = 1000,
                                  .header_bytes = 5000,
                                  .max_rcpts = 5,
                                  .idle_ms = 5 * MINUTE,
                                  .idle_stressed_ms = 10 * SECOND,
                                  .event = on_event};
    while (script.n > 0) {
        struct span line = span_cut(&script, '\n');
        p->line++;
        if (line.n > 0 && line.p[0] != '#' && !span_eq(line, SPAN("atomic")))
            directive(p, line);
    }
    if (p->replies.n > 0)
        die(p, "unexpected reply \"%.*s\"", SPAN_ARG(strbuf_span(&p->replies)));
    if (p->n_checked < p->n_messages)
        die(p, "a message nobody asked for: %s", p->messages[p->n_checked].envelope);

    size_t n_sent = p->n_sent;
    smtpd_free(p->s);
    for (size_t i = 0; i < p->n_messages; i++) {
        free(p->messages[i].envelope);
        strbuf_release(&p->messages[i].body);
    }
    strbuf_release(&p->in);
    strbuf_release(&p->replies);
    strbuf_release(&p->last);
    strbuf_release(&p->envelope);
    strbuf_release(&p->body);
    free(p);
    return n_sent;
}

static void
test_script(void **state)
{
    const char *file = *state;
    CLEANUP(strbuf_release) struct strbuf script = STRBUF_INIT;
    char block[4096];
    size_t n;
    FILE *f = fopen(file, "r");

    assert_non_null(f);
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        strbuf_add(&script, block, n);
    fclose(f);

    struct span text = strbuf_span(&script);
    size_t n_octets = play_once(file, text, WHOLE, 0);
    if (span_find(text, SPAN("\natomic\n")) != SIZE_MAX ||
        span_starts(text, SPAN("atomic\n"))) /* it is about what comes in one piece */
        return;
    play_once(file, text, OCTETS, 0);
    play_once(file, text, LATE, 0);
    for (size_t at = 1; at < n_octets; at += 1 + n_octets / CUTS_MAX)
        play_once(file, text, CUT, at);
}

static int
is_script(const struct dirent *entry)
{
    return span_ends(span_str(entry->d_name), SPAN(".txt"));
}

int
main(int argc, char **argv)
{
    static const char dir[] = TESTS_DIR "/dialog/accept";
    struct dirent **entries;
    int n = scandir(dir, &entries, is_script, alphasort);

    if (n <= 0)
        return 1;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    struct CMUnitTest *tests = xcalloc((size_t)n, sizeof *tests);
    for (int i = 0; i < n; i++) {
        tests[i].name = xstrdup(entries[i]->d_name);
        tests[i].test_func = test_script;
        tests[i].initial_state = xasprintf("%s/%s", dir, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    int failed = _cmocka_run_group_tests("smtpd_dialog", tests, (size_t)n, NULL, NULL);
    for (int i = 0; i < n; i++) {
        free((char *)tests[i].name);
        free(tests[i].initial_state);
    }
    free(tests);
    return failed;
}
