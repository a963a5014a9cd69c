/*
 * Runs the scripts tests/dialog/deliver/NAME.txt against the protocol core in virtual time, each
 * twice: with the server's lines in one piece and byte by byte. `test_smtpc_dialog 'NAME*'` runs
 * some. One command a line, `#` begins a comment line, ` | ` separates lines of S and C:
 *
 *   target [hop] [tls=off|opportunistic|require|verify] [auth=USER:PASSWORD] [gone_is_path]
 *          [trouble=TEXT]      the configuration; default: an MX, tls=off
 *   host [implicit] [clear] [was_there]   what is known of the endpoint that is opened next
 *   job [from=A] rcpt=B[,notify=success+delay][,orcpt=rfc822;B] ... [size=N] [8bit] [smtputf8]
 *       [ret=FULL] [envid=X]   a transaction, started when the session is ready for it
 *   S LINE | LINE     the server says          S*N LINE   the same line N times
 *   raw "TEXT"        bytes without a line end; \r \n \t \0 \xHH \\ \"
 *   C LINE | LINE     exactly this has been said by the client since the last look
 *   C body            content may be sent; it is, with its dot
 *   want reply|tls|txn|body|close
 *   wait 9m           time passes; a deadline that passes loses the session
 *   tls ok|fail       the handshake that is wanted        close, reset   the connection is lost
 *   idle, quit        the driver has no transaction; the driver ends the session
 *   next, clear, again   the session is over in this way; another one is opened
 *   over, stop        the session is over in this way
 *   last              this host failed and was the last endpoint of the walk
 *   polite yes|no     may QUIT be said before closing
 *   outcome R KIND [phase=P] [code=N] [enh=E] [origin=O] [path] [twice] [text=WORDS...]
 *                     the oldest outcome of recipient R (local part) that was not looked at;
 *                     what is not given must be 0 or no, except phase, enh, origin and text
 *   failed KIND ...   the sum of the walk, where there is no transaction
 *   done              the transaction is done         trouble   the hop was in trouble
 *
 * Before the next thing happens all that the client said must have been looked at. At the end
 * nothing may be left: no output or outcome that was not looked at, no transaction.
 */
#include "policy/base/mem.h"
#include "relayd/deliver/body.h"
#include "relayd/deliver/smtpc.h"
#include "relayd/deliver/walk.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define RUN_RCPTS_MAX 128
#define RUN_JOBS_MAX 4
#define RUN_OUTCOMES_MAX 400

struct told {
    struct span rcpt;
    struct outcome outcome;
    bool looked_at;
};

struct run {
    const char *path;
    bool bytewise;
    unsigned line_no;
    struct arena *arena;
    struct smtpc_config config;
    struct smtpc_host host;
    const char *trouble;
    struct smtpc *core;
    enum smtpc_want want;
    bool open;
    msec_t now, deadline;
    unsigned wait_no;
    struct deliver_txn jobs[RUN_JOBS_MAX];
    size_t n_jobs, n_started, n_done;
    struct told told[RUN_OUTCOMES_MAX];
    size_t n_told;
    struct walk walk;
    struct outcome sum;
    bool has_sum;
    struct strbuf out; /* said by the client, not looked at */
};

__attribute__((format(printf, 2, 3), noreturn)) static void
broken(struct run *r, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "%s:%u%s: ", r->path, r->line_no, r->bytewise ? " (byte by byte)" : "");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    fail();
    abort();
}

/* ---- the core's surroundings ---- */

static void
on_outcome(void *arg, struct deliver_txn *txn, size_t rcpt, const struct outcome *outcome)
{
    struct run *r = arg;
    assert_true(rcpt < txn->n_rcpts);
    assert_true(r->n_told < RUN_OUTCOMES_MAX);
    r->told[r->n_told++] =
        (struct told){.rcpt = txn->rcpts[rcpt].address, .outcome = *outcome, .looked_at = false};
}

static void
on_txn_done(void *arg, struct deliver_txn *txn)
{
    struct run *r = arg;
    assert_ptr_equal(txn, &r->jobs[r->n_started - 1]);
    r->n_done++;
}

static bool
hop_trouble(void *arg, const struct smtp_reply *reply, const char *phase)
{
    struct run *r = arg;
    assert_non_null(phase);
    return r->trouble != NULL && span_ifind(reply->text, span_str(r->trouble)) != SIZE_MAX;
}

/* What the driver does by itself: start transactions, send commands, set deadlines. */
static void
settle(struct run *r)
{
    while (r->want == SMTPC_WANT_TXN && r->n_started < r->n_jobs && smtpc_txn(r->core) == NULL) {
        struct deliver_txn *txn = &r->jobs[r->n_started++];
        r->want = smtpc_txn_start(r->core, txn);
    }
    strbuf_add_span(&r->out, smtpc_output(r->core));
    smtpc_output_taken(r->core);
    if (smtpc_wait_no(r->core) != r->wait_no && r->want != SMTPC_WANT_CLOSE) {
        r->wait_no = smtpc_wait_no(r->core);
        r->deadline = r->now + smtpc_timeout_ms(r->core);
    }
}

static void
open_session(struct run *r)
{
    r->want = smtpc_open(r->core, &r->host);
    r->open = true;
    settle(r);
}

static void
feed(struct run *r, struct span bytes)
{
    if (!r->open)
        broken(r, "the server speaks without a session");
    if (r->bytewise)
        for (size_t i = 0; i < bytes.n; i++)
            r->want = smtpc_input(r->core, span_of(bytes.p + i, 1));
    else
        r->want = smtpc_input(r->core, bytes);
    settle(r);
}

/* ---- words ---- */

static bool
take_word(struct span *line, struct span *ret)
{
    *line = span_trim(*line);
    if (line->n == 0)
        return false;
    *ret = span_cut(line, ' ');
    return true;
}

static bool
key(struct span word, const char *name, struct span *ret_value)
{
    struct span k = span_str(name);
    if (!span_starts(word, k) || word.n <= k.n || word.p[k.n] != '=')
        return false;
    *ret_value = span_from(word, k.n + 1);
    return true;
}

static uint64_t
number(struct run *r, struct span s)
{
    uint64_t n;
    if (!span_u64(s, &n))
        broken(r, "not a number: %.*s", SPAN_ARG(s));
    return n;
}

/* " | " becomes CRLF, and CRLF at the end. */
static void
lines_add(struct strbuf *sb, struct span text)
{
    for (;;) {
        size_t bar = span_find(text, SPAN(" | "));
        strbuf_add_span(sb, bar == SIZE_MAX ? text : span_first(text, bar));
        strbuf_add_str(sb, "\r\n");
        if (bar == SIZE_MAX)
            return;
        text = span_from(text, bar + 3);
    }
}

static int
hex(char c)
{
    return ascii_digit(c) ? c - '0' : ascii_lower(c) - 'a' + 10;
}

static void
raw_add(struct run *r, struct strbuf *sb, struct span text)
{
    if (text.n < 2 || text.p[0] != '"' || text.p[text.n - 1] != '"')
        broken(r, "raw wants \"...\"");
    for (size_t i = 1; i + 1 < text.n; i++) {
        char c = text.p[i];
        if (c == '\\') {
            c = text.p[++i];
            if (c == 'x') {
                c = (char)(hex(text.p[i + 1]) * 16 + hex(text.p[i + 2]));
                i += 2;
            } else {
                c = c == 'r' ? '\r' : c == 'n' ? '\n' : c == 't' ? '\t' : c == '0' ? '\0' : c;
            }
        }
        strbuf_add_byte(sb, c);
    }
}

/* ---- one function a verb ---- */

static void
verb_target(struct run *r, struct span rest)
{
    struct span word, value;
    while (take_word(&rest, &word)) {
        if (span_eq(word, SPAN("hop"))) {
            r->config.hop = true;
        } else if (span_eq(word, SPAN("gone_is_path"))) {
            r->config.tls_gone_is_path = true;
        } else if (key(word, "tls", &value)) {
            static const char *const names[] = {"off", "opportunistic", "require", "verify"};
            size_t i = 0;
            while (i < 4 && !span_eq(value, span_str(names[i])))
                i++;
            if (i == 4)
                broken(r, "unknown TLS level");
            r->config.tls = (enum tls_level)i;
        } else if (key(word, "auth", &value)) {
            struct span user = span_cut(&value, ':');
            r->config.auth_username = arena_strndup(r->arena, user.p, user.n);
            r->config.auth_password = arena_strndup(r->arena, value.p, value.n);
        } else if (key(word, "trouble", &value)) {
            r->trouble = arena_strndup(r->arena, value.p, value.n);
        } else {
            broken(r, "target: unknown word %.*s", SPAN_ARG(word));
        }
    }
    smtpc_free(r->core);
    struct smtpc_ops ops = {.on_outcome = on_outcome, .on_txn_done = on_txn_done};
    r->core = smtpc_new(&r->config, &ops, r);
}

static void
verb_host(struct run *r, struct span rest)
{
    struct span word;
    r->host = (struct smtpc_host){.in_clear = false};
    while (take_word(&rest, &word)) {
        if (span_eq(word, SPAN("implicit")))
            r->host.implicit_tls = true;
        else if (span_eq(word, SPAN("clear")))
            r->host.in_clear = true;
        else if (span_eq(word, SPAN("was_there")))
            r->host.tls_was_there = true;
        else
            broken(r, "host: unknown word %.*s", SPAN_ARG(word));
    }
}

static void
rcpt_parse(struct run *r, struct span text, struct deliver_rcpt *rcpt)
{
    struct span part, value;
    rcpt->address = span_cut(&text, ',');
    while (text.n > 0) {
        part = span_cut(&text, ',');
        if (key(part, "orcpt", &value)) {
            rcpt->orcpt = value;
        } else if (key(part, "notify", &value)) {
            while (value.n > 0) {
                struct span name = span_cut(&value, '+');
                rcpt->notify |= span_eq(name, SPAN("never"))     ? DELIVER_NOTIFY_NEVER
                                : span_eq(name, SPAN("success")) ? DELIVER_NOTIFY_SUCCESS
                                : span_eq(name, SPAN("failure")) ? DELIVER_NOTIFY_FAILURE
                                                                 : DELIVER_NOTIFY_DELAY;
            }
        } else {
            broken(r, "rcpt: unknown part %.*s", SPAN_ARG(part));
        }
    }
}

static void
verb_job(struct run *r, struct span rest)
{
    struct span word, value;
    assert_true(r->n_jobs < RUN_JOBS_MAX);
    struct deliver_txn *txn = &r->jobs[r->n_jobs];
    struct deliver_rcpt *rcpts = arena_alloc(r->arena, RUN_RCPTS_MAX * sizeof(*rcpts));
    *txn = (struct deliver_txn){.rcpts = rcpts, .size_bytes = 100};
    while (take_word(&rest, &word)) {
        if (key(word, "from", &value))
            txn->sender = value;
        else if (key(word, "rcpt", &value))
            rcpt_parse(r, value, &rcpts[txn->n_rcpts++]);
        else if (key(word, "size", &value))
            txn->size_bytes = number(r, value);
        else if (key(word, "ret", &value))
            txn->ret = value;
        else if (key(word, "envid", &value))
            txn->envid = value;
        else if (span_eq(word, SPAN("8bit")))
            txn->is_8bit = true;
        else if (span_eq(word, SPAN("smtputf8")))
            txn->needs_smtputf8 = true;
        else
            broken(r, "job: unknown word %.*s", SPAN_ARG(word));
    }
    r->n_jobs++;
    if (r->open)
        settle(r);
}

static void
verb_server(struct run *r, struct span rest, size_t times)
{
    CLEANUP(strbuf_release) struct strbuf sb = STRBUF_INIT;
    for (size_t i = 0; i < times; i++)
        lines_add(&sb, rest);
    feed(r, strbuf_span(&sb));
}

static void
verb_raw(struct run *r, struct span rest)
{
    CLEANUP(strbuf_release) struct strbuf sb = STRBUF_INIT;
    raw_add(r, &sb, rest);
    feed(r, strbuf_span(&sb));
}

static void
verb_client(struct run *r, struct span rest)
{
    if (span_eq(rest, SPAN("body"))) {
        if (r->want != SMTPC_WANT_BODY || r->out.n > 0)
            broken(r, "no content is wanted");
        r->want = smtpc_body_sent(r->core);
        settle(r);
        return;
    }
    CLEANUP(strbuf_release) struct strbuf sb = STRBUF_INIT;
    lines_add(&sb, rest);
    if (!span_eq(strbuf_span(&sb), strbuf_span(&r->out)))
        broken(r, "the client was to say\n%.*sbut said\n%.*s", SPAN_ARG(strbuf_span(&sb)),
               SPAN_ARG(strbuf_span(&r->out)));
    strbuf_reset(&r->out);
}

static const char *const want_names[] = {"reply", "tls", "txn", "body", "close"};

static void
verb_want(struct run *r, struct span rest)
{
    if (!span_eq(rest, span_str(want_names[r->want])))
        broken(r, "wanted is %s", want_names[r->want]);
}

static void
lost(struct run *r, enum smtpc_loss loss, const char *text)
{
    if (!r->open)
        broken(r, "there is no session");
    r->want = smtpc_lost(r->core, loss, text);
    settle(r);
}

static void
verb_wait(struct run *r, struct span rest)
{
    if (rest.n < 2)
        broken(r, "wait wants a duration");
    msec_t unit = rest.p[rest.n - 1] == 'm' ? MINUTE : SECOND;
    r->now += (msec_t)number(r, span_first(rest, rest.n - 1)) * unit;
    bool waits = r->want == SMTPC_WANT_REPLY || r->want == SMTPC_WANT_TLS;
    if (waits && r->now >= r->deadline)
        lost(r, SMTPC_LOSS_TIMEOUT, "timeout: no reply in time");
}

static void
verb_tls(struct run *r, struct span rest)
{
    if (r->want != SMTPC_WANT_TLS)
        broken(r, "no handshake is wanted");
    if (span_eq(rest, SPAN("ok"))) {
        r->want = smtpc_tls_up(r->core);
        settle(r);
    } else {
        lost(r, SMTPC_LOSS_TLS, "TLS handshake failed");
    }
}

/* The session ended as `end`. */
static void
ended(struct run *r, enum smtpc_end end)
{
    static const char *const names[] = {"over", "next", "stop", "clear", "again"};
    if (r->want != SMTPC_WANT_CLOSE)
        broken(r, "the session is not over: wanted is %s", want_names[r->want]);
    if (smtpc_end(r->core) != end)
        broken(r, "it ended by '%s'", names[smtpc_end(r->core)]);
    r->open = false;
    if (end == SMTPC_END_NEXT || end == SMTPC_END_STOP) {
        if (end == SMTPC_END_STOP)
            walk_init(&r->walk);
        walk_add(&r->walk, 0, smtpc_failure(r->core));
    }
}

static void
walk_ended(struct run *r)
{
    walk_sum(&r->walk, r->config.hop, &r->sum);
    r->has_sum = smtpc_txn(r->core) == NULL;
    if (!r->has_sum)
        smtpc_txn_decide(r->core, &r->sum);
}

static void
outcome_check(struct run *r, const struct outcome *o, struct span rest)
{
    struct span word, value;
    int code = 0;
    bool path = false, twice = false;
    char enh[16];
    if (!take_word(&rest, &word) || !span_eq(word, span_str(outcome_kind_name(o->kind))))
        broken(r, "it is %s: phase %s code %d %s", outcome_kind_name(o->kind), o->phase, o->code,
               o->text);
    while (take_word(&rest, &word)) {
        if (key(word, "text", &value)) {
            struct span all = span_of(value.p, value.n + rest.n);
            if (rest.n > 0)
                all.n++;
            if (span_find(span_str(o->text), all) == SIZE_MAX)
                broken(r, "its text is: %s", o->text);
            break;
        }
        if (key(word, "code", &value))
            code = (int)number(r, value);
        else if (key(word, "phase", &value) && !span_eq(value, span_str(o->phase)))
            broken(r, "its phase is %s", o->phase);
        else if (key(word, "enh", &value) && !span_eq(value, span_str(enh_format(o->enh, enh))))
            broken(r, "its enhanced code is %s", enh);
        else if (key(word, "origin", &value) &&
                 !span_eq(value, span_str(outcome_origin_name(o->origin))))
            broken(r, "its origin is %s", outcome_origin_name(o->origin));
        path |= span_eq(word, SPAN("path"));
        twice |= span_eq(word, SPAN("twice"));
    }
    if (code != o->code || path != o->path || twice != o->maybe_twice)
        broken(r, "it has code %d%s%s: %s", o->code, o->path ? " path" : "",
               o->maybe_twice ? " twice" : "", o->text);
}

static void
verb_outcome(struct run *r, struct span rest)
{
    struct span name;
    if (!take_word(&rest, &name))
        broken(r, "outcome of whom?");
    for (size_t i = 0; i < r->n_told; i++) {
        struct told *t = &r->told[i];
        struct span local = t->rcpt;
        local = span_cut(&local, '@');
        if (t->looked_at || !span_eq(local, name))
            continue;
        t->looked_at = true;
        outcome_check(r, &t->outcome, rest);
        return;
    }
    broken(r, "%.*s has no outcome", SPAN_ARG(name));
}

static void
verb_failed(struct run *r, struct span rest)
{
    if (!r->has_sum)
        broken(r, "the walk has no sum");
    r->has_sum = false;
    outcome_check(r, &r->sum, rest);
}

static void
verb_polite(struct run *r, struct span rest)
{
    if (r->want != SMTPC_WANT_CLOSE || smtpc_end_polite(r->core) != span_eq(rest, SPAN("yes")))
        broken(r, "it is otherwise");
}

/* Verbs without words behind them; false: unknown. */
static bool
simple_verb(struct run *r, struct span verb)
{
    if (span_eq(verb, SPAN("close"))) {
        lost(r, SMTPC_LOSS_CLOSED, "the peer closed the connection");
    } else if (span_eq(verb, SPAN("reset"))) {
        lost(r, SMTPC_LOSS_CLOSED, "the peer reset the connection");
    } else if (span_eq(verb, SPAN("idle"))) {
        smtpc_idle(r->core);
    } else if (span_eq(verb, SPAN("quit"))) {
        r->want = smtpc_quit(r->core);
        settle(r);
    } else if (span_eq(verb, SPAN("next"))) {
        ended(r, SMTPC_END_NEXT);
        open_session(r);
    } else if (span_eq(verb, SPAN("clear"))) {
        ended(r, SMTPC_END_CLEAR);
        r->host.in_clear = true;
        open_session(r);
    } else if (span_eq(verb, SPAN("again"))) {
        ended(r, SMTPC_END_AGAIN);
        walk_init(&r->walk);
        open_session(r);
    } else if (span_eq(verb, SPAN("over"))) {
        ended(r, SMTPC_END_OVER);
    } else if (span_eq(verb, SPAN("stop"))) {
        ended(r, SMTPC_END_STOP);
        walk_ended(r);
    } else if (span_eq(verb, SPAN("last"))) {
        ended(r, SMTPC_END_NEXT);
        walk_ended(r);
    } else if (span_eq(verb, SPAN("done"))) {
        if (r->n_done == 0 || r->n_done != r->n_started || smtpc_txn(r->core) != NULL)
            broken(r, "it is not done");
    } else if (span_eq(verb, SPAN("trouble"))) {
        if (!smtpc_hop_trouble(r->core))
            broken(r, "the hop was in no trouble");
    } else {
        return false;
    }
    return true;
}

/* What happens, as opposed to what is looked at: before it, all output must have been looked at. */
static bool
is_event(struct span verb)
{
    static const char *const events[] = {"S",     "raw",  "wait", "tls",  "close",
                                         "reset", "idle", "quit", "next", "clear",
                                         "again", "over", "stop", "last"};
    for (size_t i = 0; i < N_ELEMENTS(events); i++)
        if (span_eq(verb, span_str(events[i])))
            return true;
    return span_starts(verb, SPAN("S*"));
}

static void
command(struct run *r, struct span line)
{
    struct span rest = line, verb = span_cut(&rest, ' ');
    if (!r->open && r->n_started + r->n_done == 0 && r->walk.n == 0 &&
        !span_eq(verb, SPAN("target")) && !span_eq(verb, SPAN("host")) &&
        !span_eq(verb, SPAN("job")) && !span_eq(verb, SPAN("failed")))
        open_session(r);
    if (is_event(verb) && r->out.n > 0)
        broken(r, "the client said, and nobody looked:\n%.*s", SPAN_ARG(strbuf_span(&r->out)));
    if (span_eq(verb, SPAN("target")))
        verb_target(r, rest);
    else if (span_eq(verb, SPAN("host")))
        verb_host(r, rest);
    else if (span_eq(verb, SPAN("job")))
        verb_job(r, rest);
    else if (span_eq(verb, SPAN("S")))
        verb_server(r, rest, 1);
    else if (span_starts(verb, SPAN("S*")))
        verb_server(r, rest, number(r, span_from(verb, 2)));
    else if (span_eq(verb, SPAN("raw")))
        verb_raw(r, rest);
    else if (span_eq(verb, SPAN("C")))
        verb_client(r, rest);
    else if (span_eq(verb, SPAN("want")))
        verb_want(r, rest);
    else if (span_eq(verb, SPAN("wait")))
        verb_wait(r, rest);
    else if (span_eq(verb, SPAN("tls")))
        verb_tls(r, rest);
    else if (span_eq(verb, SPAN("outcome")))
        verb_outcome(r, rest);
    else if (span_eq(verb, SPAN("failed")))
        verb_failed(r, rest);
    else if (span_eq(verb, SPAN("polite")))
        verb_polite(r, rest);
    else if (!simple_verb(r, verb))
        broken(r, "unknown verb %.*s", SPAN_ARG(verb));
}

static void
nothing_left(struct run *r)
{
    if (r->out.n > 0)
        broken(r, "left over: the client said\n%.*s", SPAN_ARG(strbuf_span(&r->out)));
    for (size_t i = 0; i < r->n_told; i++)
        if (!r->told[i].looked_at)
            broken(r, "left over: an outcome of %.*s: %s", SPAN_ARG(r->told[i].rcpt),
                   r->told[i].outcome.text);
    if (r->has_sum)
        broken(r, "left over: the sum of the walk");
    if (r->n_done != r->n_jobs)
        broken(r, "left over: a transaction without its end");
}

static char *
file_read(const char *path)
{
    CLEANUP(strbuf_release) struct strbuf sb = STRBUF_INIT;
    FILE *f = fopen(path, "r");
    char buf[4096];
    size_t n;
    assert_non_null(f);
    while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
        strbuf_add(&sb, buf, n);
    fclose(f);
    return strbuf_take(&sb);
}

static void
run_script(const char *path, bool bytewise)
{
    struct run *r = xcalloc(1, sizeof(*r));
    CLEANUP(freep) char *text = file_read(path);
    struct span rest = span_str(text);
    r->path = path;
    r->bytewise = bytewise;
    r->arena = arena_new();
    r->config = (struct smtpc_config){
        .ehlo_name = "relay.test",
        .timeouts = deliver_timeouts_default,
        .hop_trouble = hop_trouble,
        .hop_trouble_arg = r,
    };
    walk_init(&r->walk);
    verb_target(r, SPAN_NONE);
    while (rest.n > 0) {
        struct span line = span_trim(span_cut(&rest, '\n'));
        r->line_no++;
        if (line.n > 0 && line.p[0] != '#')
            command(r, line);
    }
    nothing_left(r);
    smtpc_free(r->core);
    strbuf_release(&r->out);
    arena_free(r->arena);
    free(r);
}

static void
in_one_piece_and_byte_by_byte(void **state)
{
    run_script(*state, false);
    run_script(*state, true);
}

static int
by_name(const void *a, const void *b)
{
    const struct CMUnitTest *x = a, *y = b;
    return strcmp(x->name, y->name);
}

int
main(int argc, char **argv)
{
    static struct CMUnitTest tests[512];
    size_t n = 0;
    const char *dir = TESTS_DIR "/dialog/deliver";
    DIR *d = opendir(dir);
    if (d == NULL)
        return 1;
    for (struct dirent *e; (e = readdir(d)) != NULL && n < N_ELEMENTS(tests);) {
        struct span name = span_str(e->d_name);
        if (!span_ends(name, SPAN(".txt")))
            continue;
        tests[n].name = xstrndup(name.p, name.n - 4);
        tests[n].test_func = in_one_piece_and_byte_by_byte;
        tests[n++].initial_state = xasprintf("%s/%s", dir, e->d_name);
    }
    closedir(d);
    qsort(tests, n, sizeof(tests[0]), by_name);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    int failed = n < 60 ? 1 : _cmocka_run_group_tests("smtpc dialogs", tests, n, NULL, NULL);
    for (size_t i = 0; i < n; i++) {
        free((char *)tests[i].name);
        free(tests[i].initial_state);
    }
    return failed;
}
