/*
 * How it works: the server side reads the commands that the core puts out and answers them as the
 * tape says, well or badly, cut into pieces. It keeps its own account of who was taken: the truth
 * that outcomes are held against, besides the model.
 */
#include "tests/dialog/models/smtpc_dialogue.h"

#include "policy/base/mem.h"
#include "tests/dialog/models/smtpc_model.h"

#include <stdio.h>

#define SESSIONS_MAX 6
#define TXNS_MAX 3

struct play {
    struct tape tape;
    struct smtpc_config config;
    struct smtpc_host host;
    struct smtpc *core;
    enum smtpc_want want;
    struct smtpc_model model;
    struct deliver_txn txn;
    struct deliver_rcpt rcpts[MODEL_RCPTS_MAX];
    struct model_message message;
    unsigned n_txns, n_sessions, n_outcomes;
    struct model_told told[MODEL_RCPTS_MAX];
    bool is_told[MODEL_RCPTS_MAX], done;
    struct strbuf bytes, log;
    const char *broken;
    struct smtpc_reached *reached;

    /* The server's account. */
    struct {
        enum model_command command;
        unsigned rcpt;
    } asked[MODEL_COMMANDS_MAX];
    unsigned n_asked;
    bool mail_ok, taken[MODEL_RCPTS_MAX], accepted[MODEL_RCPTS_MAX];
};

/* ---- around the core ---- */

static void
on_outcome(void *arg, struct deliver_txn *txn, size_t rcpt, const struct outcome *o)
{
    struct play *p = arg;

    if (txn != &p->txn || rcpt >= txn->n_rcpts || p->is_told[rcpt]) {
        p->broken = "an outcome that nobody waits for";
        return;
    }
    p->is_told[rcpt] = true;
    p->told[rcpt] = (struct model_told){o->kind, o->code, o->path, o->maybe_twice};
    p->n_outcomes++;
    p->reached->kinds[o->kind]++;
    p->reached->path += o->path;
    p->reached->twice += o->maybe_twice;
    strbuf_printf(&p->log, "    %zu is told: %s %d%s%s\n", rcpt, outcome_kind_name(o->kind),
                  o->code, o->path ? " path" : "", o->maybe_twice ? " twice" : "");
    if (o->kind == OUTCOME_DELIVERED && !p->accepted[rcpt])
        p->broken = "delivered, says the client; the server did not take it";
}

static void
on_txn_done(void *arg, struct deliver_txn *txn)
{
    struct play *p = arg;

    if (txn != &p->txn || p->done || p->n_outcomes != p->txn.n_rcpts)
        p->broken = "a transaction is done that is not";
    p->done = true;
}

static bool
hop_trouble(void *arg, const struct smtp_reply *reply, const char *phase)
{
    (void)arg;
    (void)phase;
    return span_find(reply->text, SPAN("relay")) != SIZE_MAX;
}

/* ---- the server ---- */

static void
ask(struct play *p, enum model_command command, unsigned rcpt)
{
    if (p->n_asked == MODEL_COMMANDS_MAX) {
        p->broken = "too many commands without a reply";
        return;
    }
    p->asked[p->n_asked].command = command;
    p->asked[p->n_asked++].rcpt = rcpt;
}

/* One line of the client, as the server reads it; its name goes to `names`. */
static void
read_command(struct play *p, struct span line, struct strbuf *names)
{
    static const struct {
        const char *start, *name;
        enum model_command command;
    } known[] = {{"EHLO relay.test", "EHLO", SAYS_EHLO},
                 {"HELO relay.test", "HELO", SAYS_HELO},
                 {"STARTTLS", "STARTTLS", SAYS_STARTTLS},
                 {"AUTH PLAIN AHVzZXIAcGFzcw==", "AUTH PLAIN", SAYS_AUTH_PLAIN},
                 {"AUTH LOGIN", "AUTH LOGIN", SAYS_AUTH_LOGIN},
                 {"dXNlcg==", "user", SAYS_USER},
                 {"cGFzcw==", "password", SAYS_PASSWORD},
                 {"RSET", "RSET", SAYS_RSET},
                 {"MAIL FROM:<a@src.test>", "MAIL", SAYS_MAIL},
                 {"DATA", "DATA", SAYS_DATA},
                 {".", ".", SAYS_EMPTY_DOT},
                 {"QUIT", "QUIT", SAYS_QUIT}};

    strbuf_printf(&p->log, "C %.*s\n", SPAN_ARG(line));
    if (span_starts(line, SPAN("RCPT TO:<r")) && line.n > 11) {
        unsigned rcpt = (unsigned)(line.p[10] - '0');
        if (rcpt >= p->txn.n_rcpts || p->is_told[rcpt])
            p->broken = "RCPT for one who is told already";
        strbuf_printf(names, "RCPT %u\n", rcpt);
        ask(p, SAYS_RCPT, rcpt);
        return;
    }
    for (size_t i = 0; i < N_ELEMENTS(known); i++)
        if (span_starts(line, span_str(known[i].start))) {
            strbuf_printf(names, "%s\n", known[i].name);
            ask(p, known[i].command, 0);
            return;
        }
    p->broken = "a command of a bad form";
}

/* What the client put out reaches the server. */
static void
read_output(struct play *p)
{
    struct strbuf names = STRBUF_INIT;
    struct span out = smtpc_output(p->core);

    while (out.n > 0 && p->broken == NULL) {
        struct span line = span_cut(&out, '\n');
        if (!span_ends(line, SPAN("\r")))
            p->broken = "a command without CR LF";
        read_command(p, span_first(line, line.n - 1), &names);
    }
    if (p->broken == NULL && !span_eq(strbuf_span(&names), strbuf_span(&p->model.said))) {
        strbuf_printf(&p->log, "the model would have said:\n%.*s",
                      SPAN_ARG(strbuf_span(&p->model.said)));
        p->broken = "they say different things";
    }
    strbuf_release(&names);
    smtpc_output_taken(p->core);
    smtpc_model_flushed(&p->model);
}

/* What the server's reply does to its own account. */
static void
account(struct play *p, enum model_command command, unsigned rcpt, int code)
{
    if (command == SAYS_MAIL) {
        p->mail_ok = code / 100 == 2;
        memset(p->taken, 0, sizeof p->taken);
    } else if (command == SAYS_RCPT) {
        p->taken[rcpt] = p->mail_ok && code / 100 == 2;
    } else if (command == SAYS_DOT && code / 100 == 2) {
        for (unsigned i = 0; i < MODEL_RCPTS_MAX; i++)
            p->accepted[i] |= p->taken[i];
    }
    if (command == SAYS_DOT || command == SAYS_RSET || command == SAYS_EMPTY_DOT)
        p->mail_ok = false;
}

static void
add_offers(struct play *p)
{
    static const char *const offers[] = {"PIPELINING", "STARTTLS", "AUTH PLAIN",       "AUTH LOGIN",
                                         "SMTPUTF8",   "SIZE 500", "LIMITS RCPTMAX=2", "8BITMIME"};
    unsigned bits = tape_byte(&p->tape);

    bits ^= 1; /* nothing said: it pipelines */
    for (size_t i = 0; i < N_ELEMENTS(offers); i++)
        if ((bits >> i & 1) != 0)
            strbuf_printf(&p->bytes, "250-%s\r\n", offers[i]);
    if (tape_chance(&p->tape, 20))
        strbuf_add_str(&p->bytes, "250-AUTH=LOGIN PLAIN\n");
}

static int
usual_code(enum model_command command)
{
    switch (command) {
    case SAYS_NOTHING:
    case SAYS_STARTTLS:
        return 220;
    case SAYS_AUTH_PLAIN:
    case SAYS_PASSWORD:
        return 235;
    case SAYS_AUTH_LOGIN:
    case SAYS_USER:
        return 334;
    case SAYS_DATA:
        return 354;
    case SAYS_QUIT:
        return 221;
    default:
        return 250;
    }
}

/* The reply to one command, good or not, in `bytes`. */
static void
add_reply(struct play *p, enum model_command command, unsigned rcpt)
{
    static const int odd[] = {421, 450, 451, 452, 454, 500, 501, 502, 504, 530, 535, 538, 550,
                              550, 552, 552, 553, 554, 554, 250, 250, 220, 334, 354, 399, 599};
    static const char *const texts[] = {
        "ok", "5.5.3 too many", "5.2.2 full", "4.7.1 no relay", "relay denied", "", "5.3.4 large"};
    int code =
        tape_chance(&p->tape, 60) ? odd[tape_pick(&p->tape, N_ELEMENTS(odd))] : usual_code(command);
    const char *text = texts[code < 400 ? 0 : tape_pick(&p->tape, N_ELEMENTS(texts))];

    if (command == SAYS_EHLO && code == 250) {
        strbuf_add_str(&p->bytes, "250-mx.test\r\n");
        add_offers(p);
    } else if (tape_chance(&p->tape, 20)) {
        strbuf_printf(&p->bytes, "%d-first %s\r\n", code, text);
    }
    strbuf_printf(&p->bytes, "%d%s%s%s", code, text[0] == '\0' ? "" : " ", text,
                  tape_chance(&p->tape, 20) ? "\n" : "\r\n");
    account(p, command, rcpt, code);
}

static void
add_garbage(struct play *p)
{
    static const struct span lines[] = {
        SPAN("hello\r\n"),
        SPAN("\r\n"),
        SPAN("99 x\r\n"),
        SPAN("199 x\r\n"),
        SPAN("600 x\r\n"),
        SPAN("250-a\r\n550 b\r\n"),
        SPAN("250x\r\n"),
        SPAN("2 0 x\r\n"),
        SPAN("\0\0\0\r\n"),
        SPAN("250\x1b[31m\r\n"),
        SPAN("HTTP/1.1 400 Bad\r\n"),
        SPAN("250-a\r\n2"),
    };
    unsigned what = tape_pick(&p->tape, 64);

    if (what == 63)
        for (unsigned i = 0; i < 2030 + tape_pick(&p->tape, 40); i++)
            strbuf_add_byte(&p->bytes, '2');
    else if (what == 62)
        for (unsigned i = 0; i < 490 + tape_pick(&p->tape, 20); i++)
            strbuf_add_str(&p->bytes, "250-x\r\n");
    else if (what == 61)
        for (unsigned i = 0; i < 70; i++)
            strbuf_printf(&p->bytes, "250-%0990d\r\n", 0);
    else
        strbuf_add_span(&p->bytes, lines[what % N_ELEMENTS(lines)]);
}

/* ---- both sides ---- */

static bool
told_same(const struct model_told *a, const struct model_told *b)
{
    return a->kind == b->kind && a->code == b->code && a->path == b->path && a->twice == b->twice;
}

static void
compare(struct play *p)
{
    const struct smtpc_model *m = &p->model;

    if (p->broken != NULL)
        return;
    for (unsigned i = 0; i < p->txn.n_rcpts; i++) {
        bool told = m->fates[i] == FATE_TOLD;
        if (told != p->is_told[i] || (told && !told_same(&m->told[i], &p->told[i]))) {
            strbuf_printf(&p->log, "by the model %u is %s: %d %d%s%s\n", i,
                          told ? "told" : "not told", (int)m->told[i].kind, m->told[i].code,
                          m->told[i].path ? " path" : "", m->told[i].twice ? " twice" : "");
            p->broken = "the outcomes differ";
        }
    }
    if (p->n_txns > 0 && p->done == m->busy)
        p->broken = "one of them has a transaction in hand";
    else if (p->want != m->want)
        p->broken = "they want different things";
    else if (p->want == SMTPC_WANT_CLOSE && smtpc_end(p->core) != m->end)
        p->broken = "the sessions end differently";
    else if (smtpc_in_tls(p->core) != m->tls && p->want != SMTPC_WANT_CLOSE)
        p->broken = "one of them is in TLS";
    if (p->broken != NULL)
        strbuf_printf(&p->log, "core wants %d, model wants %d end %d\n", (int)p->want, (int)m->want,
                      (int)m->end);
    else
        read_output(p);
}

/* What is in `bytes` goes to the client, cut as the tape says. */
static void
send_bytes(struct play *p)
{
    unsigned cut = tape_pick(&p->tape, 4);
    struct span rest = strbuf_span(&p->bytes);

    strbuf_printf(&p->log, "S %.*s", (int)(rest.n < 300 ? rest.n : 300), rest.p);
    while (rest.n > 0 && p->want != SMTPC_WANT_CLOSE && p->broken == NULL) {
        size_t n = cut == 0 ? rest.n : cut == 1 && rest.n < 300 ? 1 : 1u + tape_byte(&p->tape) * 2u;
        struct span piece = span_first(rest, n);
        CLEANUP(freep) char *own = xmalloc(piece.n); /* reads beyond it are seen */
        memcpy(own, piece.p, piece.n);
        p->want = smtpc_input(p->core, span_of(own, piece.n));
        smtpc_model_input(&p->model, span_of(own, piece.n));
        compare(p);
        rest = span_from(rest, piece.n);
    }
    strbuf_reset(&p->bytes);
}

static void
lose(struct play *p)
{
    static const enum smtpc_loss losses[] = {SMTPC_LOSS_CLOSED, SMTPC_LOSS_TIMEOUT, SMTPC_LOSS_TLS};
    enum smtpc_loss loss = losses[tape_pick(&p->tape, p->want == SMTPC_WANT_TLS ? 3 : 2)];

    strbuf_printf(&p->log, "lost (%d)\n", (int)loss);
    p->want = smtpc_lost(p->core, loss, "lost");
    smtpc_model_lost(&p->model, loss);
    compare(p);
}

static void
open_session(struct play *p)
{
    strbuf_printf(&p->log, "-- session: implicit=%d clear=%d was_there=%d\n", p->host.implicit_tls,
                  p->host.in_clear, p->host.tls_was_there);
    p->n_sessions++;
    p->n_asked = 0;
    p->mail_ok = false;
    if (!p->host.implicit_tls)
        ask(p, SAYS_NOTHING, 0);
    p->want = smtpc_open(p->core, &p->host);
    smtpc_model_open(&p->model, &p->host);
    compare(p);
}

/* ---- what happens ---- */

static void
on_want_reply(struct play *p)
{
    unsigned what = tape_byte(&p->tape), n;

    if (what >= 248) {
        lose(p);
        return;
    }
    if (what >= 240)
        add_garbage(p);
    n = what >= 200 ? 1 : p->n_asked;
    if (n > p->n_asked)
        n = p->n_asked;
    for (unsigned i = 0; i < n; i++)
        add_reply(p, p->asked[i].command, p->asked[i].rcpt);
    p->n_asked -= n;
    memmove(p->asked, p->asked + n, p->n_asked * sizeof p->asked[0]);
    if (what >= 190 && what < 196)
        add_garbage(p); /* behind what was asked for */
    send_bytes(p);
}

static void
on_want_tls(struct play *p)
{
    unsigned what = tape_byte(&p->tape);

    if (what >= 235) {
        lose(p);
    } else if (what >= 225) {
        strbuf_add_str(&p->bytes, "250 injected\r\n");
        send_bytes(p);
    } else {
        strbuf_add_str(&p->log, "tls is up\n");
        p->reached->in_tls++;
        p->n_asked = 0;
        if (p->host.implicit_tls)
            ask(p, SAYS_NOTHING, 0);
        p->want = smtpc_tls_up(p->core);
        smtpc_model_tls_up(&p->model);
        compare(p);
    }
}

static void
on_want_body(struct play *p)
{
    unsigned what = tape_byte(&p->tape);

    if (what >= 240) {
        lose(p);
    } else if (what >= 225) {
        p->reached->early++;
        add_reply(p, SAYS_NOTHING, 0);
        send_bytes(p);
    } else if (what >= 215) {
        strbuf_add_str(&p->log, "the body cannot be read\n");
        p->want = smtpc_body_failed(p->core, "unreadable");
        smtpc_model_body_failed(&p->model);
        compare(p);
    } else {
        strbuf_add_str(&p->log, "C (content)\n");
        p->reached->bodies++;
        if (!p->mail_ok)
            p->broken = "content outside of a transaction";
        p->want = smtpc_body_sent(p->core);
        smtpc_model_body_sent(&p->model);
        ask(p, SAYS_DOT, 0);
        compare(p);
    }
}

static void
start_txn(struct play *p)
{
    unsigned bits = tape_byte(&p->tape);

    p->n_txns++;
    p->message = (struct model_message){.n_rcpts = 1 + bits % 5,
                                        .size_bytes = (bits & 0xf0) == 0xf0 ? 600 : 400,
                                        .utf8 = (bits & 0xf0) == 0xe0};
    p->txn.n_rcpts = p->message.n_rcpts;
    p->txn.size_bytes = p->message.size_bytes;
    p->txn.needs_smtputf8 = p->message.utf8;
    p->n_outcomes = 0;
    p->done = false;
    memset(p->is_told, 0, sizeof p->is_told);
    memset(p->accepted, 0, sizeof p->accepted);
    strbuf_printf(&p->log, "transaction of %u recipients\n", p->message.n_rcpts);
    p->want = smtpc_txn_start(p->core, &p->txn);
    smtpc_model_start(&p->model, &p->message);
    compare(p);
}

static void
on_want_txn(struct play *p)
{
    unsigned what = tape_byte(&p->tape);

    if (what >= 235) {
        lose(p);
    } else if (what >= 225) {
        strbuf_add_str(&p->bytes, "421 bye\r\n");
        send_bytes(p);
    } else if (what >= 160 && p->n_txns < TXNS_MAX) {
        smtpc_idle(p->core);
        smtpc_model_idle(&p->model);
        start_txn(p);
    } else if (p->n_txns < TXNS_MAX) {
        start_txn(p);
    } else {
        p->want = smtpc_quit(p->core);
        smtpc_model_quit(&p->model);
        compare(p);
    }
}

/* A session has ended: go on as the driver does. False: that was the last one. */
static bool
on_want_close(struct play *p)
{
    enum smtpc_end end = smtpc_end(p->core);
    bool busy = smtpc_txn(p->core) != NULL;

    p->reached->ends[end]++;
    strbuf_printf(&p->log, "-- ended (%d)\n", (int)end);
    if (p->n_sessions >= SESSIONS_MAX || end == SMTPC_END_STOP ||
        (!busy && (p->n_txns >= TXNS_MAX || p->tape.n == 0))) {
        if (busy) {
            struct outcome o;
            outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_NET, "connect", NULL, "no more hosts");
            smtpc_txn_decide(p->core, &o);
            smtpc_model_decide(&p->model);
            compare(p);
        }
        return false;
    }
    if (end == SMTPC_END_CLEAR) {
        if (p->config.tls != TLS_OPPORTUNISTIC)
            p->broken = "in clear where TLS is required";
        p->host.in_clear = true;
    } else if (end != SMTPC_END_AGAIN) {
        unsigned bits = tape_byte(&p->tape);
        p->host =
            (struct smtpc_host){.implicit_tls = (bits & 0x30) == 0x30 && p->config.tls != TLS_OFF,
                                .tls_was_there = (bits & 1) != 0};
    }
    open_session(p);
    return true;
}

/* ---- the whole ---- */

static void
run(struct play *p)
{
    open_session(p);
    while (p->broken == NULL) {
        if (p->want == SMTPC_WANT_CLOSE) {
            if (!on_want_close(p))
                return;
        } else if (p->want == SMTPC_WANT_TLS) {
            on_want_tls(p);
        } else if (p->want == SMTPC_WANT_TXN) {
            on_want_txn(p);
        } else if (p->want == SMTPC_WANT_BODY) {
            on_want_body(p);
        } else {
            on_want_reply(p);
        }
    }
}

static void
init(struct play *p, unsigned flags)
{
    static const char *const addresses[MODEL_RCPTS_MAX] = {"r0@d.test", "r1@d.test", "r2@d.test",
                                                           "r3@d.test", "r4@d.test", "r5@d.test"};
    struct smtpc_ops ops = {.on_outcome = on_outcome, .on_txn_done = on_txn_done};

    p->config = (struct smtpc_config){.ehlo_name = "relay.test",
                                      .hop = (flags & 1) != 0,
                                      .tls = (enum tls_level)(flags >> 1 & 3),
                                      .tls_gone_is_path = (flags & 8) != 0,
                                      .timeouts = deliver_timeouts_default,
                                      .hop_trouble = hop_trouble};
    if ((flags & 0x30) == 0x30) {
        p->config.auth_username = "user";
        p->config.auth_password = "pass";
    }
    p->host =
        (struct smtpc_host){.implicit_tls = (flags & 0xc0) == 0xc0 && p->config.tls != TLS_OFF,
                            .tls_was_there = (flags & 0x40) != 0};
    for (unsigned i = 0; i < MODEL_RCPTS_MAX; i++)
        p->rcpts[i].address = span_str(addresses[i]);
    p->txn = (struct deliver_txn){.sender = SPAN("a@src.test"), .rcpts = p->rcpts};
    p->core = smtpc_new(&p->config, &ops, p);
    struct smtpc_model_conf mc = {.hop = p->config.hop,
                                  .gone_is_path = p->config.tls_gone_is_path,
                                  .auth = p->config.auth_username != NULL,
                                  .tls = p->config.tls};
    smtpc_model_init(&p->model, &mc);
}

bool
smtpc_dialogue(struct tape tape, struct smtpc_reached *reached, struct strbuf *why)
{
    static struct smtpc_reached ignored;
    struct play p = {.tape = tape, .reached = reached == NULL ? &ignored : reached};
    unsigned flags = tape_byte(&p.tape);

    init(&p, flags);
    run(&p);
    bool ok = p.broken == NULL;
    if (!ok) {
        strbuf_printf(why, "%s\nhop=%d tls=%d auth=%d gone_is_path=%d\n", p.broken, p.config.hop,
                      (int)p.config.tls, p.config.auth_username != NULL, p.config.tls_gone_is_path);
        strbuf_add_span(why, strbuf_span(&p.log));
    }
    smtpc_free(p.core);
    smtpc_model_release(&p.model);
    strbuf_release(&p.bytes);
    strbuf_release(&p.log);
    return ok;
}
