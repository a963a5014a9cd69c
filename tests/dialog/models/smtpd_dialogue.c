/*
 * How it works: the tape fills `group`, the bytes of a pipelined group; then it is cut into chunks,
 * and each goes to the core and to the model. After each chunk and each event both must have given
 * the same replies, told the sink the same, and wait for the same thing.
 */
#include "tests/dialog/models/smtpd_dialogue.h"

#include "policy/base/mem.h"
#include "relayd/accept/data.h"
#include "relayd/accept/smtpd.h"
#include "tests/dialog/models/smtpd_model.h"

#include <stdio.h>

#define GROUP_MAX 16384 /* octets of a client's group; a longer one is sent at once */

struct play {
    struct tape tape;
    struct smtpd *core;
    struct smtpd_model model;
    struct strbuf group, in, replies, sink, body, said;
    msec_t now;
    bool trusted, closed, holding;
    enum smtpd_want asked; /* SMTPD_WANT_INPUT: nothing */
    const char *broken;
    struct smtpd_reached *reached;
};

/* ---- the core's side ---- */

static void
take_replies(struct play *p)
{
    struct strbuf *out = smtpd_out(p->core);
    struct span text = strbuf_span(out);

    while (text.n > 0) {
        struct span line = span_cut(&text, '\n');
        if (!span_ends(line, SPAN("\r")) || line.n < 4 || line.n > 511)
            p->broken = "a reply line of a bad form";
        else if (line.p[3] != '-')
            strbuf_printf(&p->replies, "%.3s\n", line.p);
    }
    strbuf_release(out);
}

static const char *
yes_no(struct span refusal)
{
    return refusal.n > 0 ? "no" : "yes";
}

/* The message is whole. */
static void
take_end(struct play *p)
{
    strbuf_printf(&p->sink, "end %u rcpts, %zu bytes: ", smtpd_n_rcpts(p->core), p->body.n);
    strbuf_add_span(&p->sink, strbuf_span(&p->body));
    strbuf_add_str(&p->sink, "\n");
    if (smtpd_body(p->core)->size_bytes != p->body.n)
        p->broken = "the size of the body is not the size of its chunks";
}

/* Answer what the core asks, by the rules of the world. */
static void
answer(struct play *p)
{
    struct span text, instead;

    switch (p->asked) {
    case SMTPD_WANT_TLS:
        smtpd_set_trusted(p->core, p->trusted);
        smtpd_tls_done(p->core, SPAN("TLSv1.3"), SPAN("X"));
        break;
    case SMTPD_WANT_AUTH: {
        bool good = world_password(smtpd_auth(p->core)->password);
        if (good)
            smtpd_set_trusted(p->core, true);
        smtpd_auth_done(p->core, good ? SMTPD_AUTH_OK : SMTPD_AUTH_BAD);
        break;
    }
    case SMTPD_WANT_VERDICT:
        text = world_verdict(smtpd_rcpt(p->core)->address, &instead);
        smtpd_verdict(p->core, text, instead);
        break;
    case SMTPD_WANT_BEGIN:
        text = smtpd_mail(p->core)->sender;
        strbuf_printf(&p->sink, "begin <%.*s> %s\n", SPAN_ARG(text), yes_no(world_begin(text)));
        strbuf_reset(&p->body);
        smtpd_answer(p->core, world_begin(text));
        break;
    case SMTPD_WANT_RCPT:
        text = smtpd_rcpt(p->core)->address;
        strbuf_printf(&p->sink, "rcpt <%.*s> %s\n", SPAN_ARG(text), yes_no(world_rcpt(text)));
        smtpd_answer(p->core, world_rcpt(text));
        break;
    default:
        text = world_end(smtpd_mail(p->core)->sender);
        strbuf_printf(&p->sink, "%s\n", text.p[0] == '2' ? "queued" : "not queued");
        smtpd_answer(p->core, text);
        break;
    }
    p->asked = SMTPD_WANT_INPUT;
}

/* Step until the core needs bytes, or an answer that is held back. */
static void
drive(struct play *p)
{
    while (!p->closed && p->broken == NULL) {
        struct span in = strbuf_span(&p->in);
        enum smtpd_want want = smtpd_step(p->core, p->now, &in);
        if (want == SMTPD_WANT_CHUNK)
            strbuf_add_span(&p->body, smtpd_chunk(p->core));
        strbuf_consume(&p->in, p->in.n - in.n);
        take_replies(p);
        if (want == SMTPD_WANT_ABORT) {
            strbuf_add_str(&p->sink, "abort\n");
        } else if (want == SMTPD_WANT_CLOSE) {
            p->closed = true;
        } else if (want == SMTPD_WANT_INPUT) {
            return;
        } else if (want != SMTPD_WANT_CHUNK && want != SMTPD_WANT_FLUSH) {
            if (want == SMTPD_WANT_END && p->asked != want)
                take_end(p);
            p->asked = want;
            if (p->holding && want != SMTPD_WANT_TLS)
                return;
            answer(p);
        }
    }
}

/* ---- both sides ---- */

static bool
same(const struct strbuf *a, const struct strbuf *b)
{
    return span_eq(strbuf_span(a), strbuf_span(b));
}

static void
compare(struct play *p)
{
    struct smtpd_model *m = &p->model;

    if (p->broken != NULL)
        return;
    if (!same(&p->replies, &m->replies))
        p->broken = "the replies differ";
    else if (!same(&p->sink, &m->sink))
        p->broken = "what the sink was told differs";
    else if (p->closed != m->closed)
        p->broken = "one of them hangs up";
    else if (!p->closed && (p->asked == SMTPD_WANT_INPUT) != (m->ask == ASK_NOTHING))
        p->broken = "one of them waits for an answer";
    else if (!p->closed && m->ask == ASK_NOTHING && smtpd_has_sink(p->core) != m->txn.sink)
        p->broken = "one of them has a transaction in the sink";
}

static void
model_settle(struct play *p)
{
    while (p->model.ask != ASK_NOTHING && (!p->holding || p->model.ask == ASK_TLS))
        smtpd_model_answer(&p->model);
}

static void
deliver(struct play *p, struct span bytes)
{
    if (p->closed || p->broken != NULL)
        return;
    strbuf_add_span(&p->in, bytes);
    drive(p);
    smtpd_model_input(&p->model, bytes);
    model_settle(p);
    compare(p);
}

/* The group leaves, cut as the tape says. */
static void
flush(struct play *p)
{
    unsigned cut = tape_pick(&p->tape, 4);
    struct span rest = strbuf_span(&p->group);

    strbuf_add_span(&p->said, rest);
    while (rest.n > 0) {
        size_t n = rest.n;
        if (cut == 1 && rest.n < 400)
            n = 1;
        else if (cut >= 2 && p->tape.n > 0)
            n = 1 + tape_byte(&p->tape) * (cut == 2 ? 1u : 1u + rest.n / 200);
        struct span piece = span_first(rest, n);
        CLEANUP(freep) char *own = xmalloc(piece.n); /* reads beyond it are seen */
        memcpy(own, piece.p, piece.n);
        deliver(p, span_of(own, piece.n));
        rest = span_from(rest, piece.n);
    }
    strbuf_reset(&p->group);
}

/* ---- what happens besides bytes ---- */

static void
let_go(struct play *p)
{
    p->holding = false;
    if (p->asked != SMTPD_WANT_INPUT) {
        p->reached->late++;
        answer(p);
        drive(p);
    }
    model_settle(p);
    compare(p);
}

static void
time_out(struct play *p)
{
    if (smtpd_deadline(p->core) == INT64_MAX)
        return;
    p->reached->timeouts++;
    p->now = smtpd_deadline(p->core);
    smtpd_timeout(p->core, p->now);
    drive(p);
    smtpd_model_timeout(&p->model);
    compare(p);
}

static void
give_up(struct play *p)
{
    if (!smtpd_has_sink(p->core) ||
        (p->asked != SMTPD_WANT_INPUT && p->asked != SMTPD_WANT_VERDICT))
        return;
    p->reached->given_up++;
    smtpd_refuse(p->core, p->now, SPAN(WORLD_GIVE_UP));
    drive(p);
    smtpd_model_give_up(&p->model);
    compare(p);
}

static void
stop(struct play *p)
{
    p->reached->stops++;
    smtpd_stop(p->core);
    drive(p);
    smtpd_model_stop(&p->model);
    compare(p);
}

static void
event(struct play *p)
{
    flush(p);
    if (p->closed || p->broken != NULL)
        return;
    switch (tape_pick(&p->tape, 16)) {
    case 0:
        time_out(p);
        break;
    case 1:
        stop(p);
        break;
    case 2:
    case 3:
    case 4:
    case 5:
        give_up(p);
        break;
    case 6:
        p->now += 3 * SECOND;
        break;
    default:
        if (p->holding)
            let_go(p);
        else
            p->holding = true;
        break;
    }
}

/* ---- what the client says ---- */

static void
add_path(struct play *p, bool usual)
{
    static const unsigned char usual_senders[] = {0, 0, 1, 5, 2, 11, 12, 10}; /* in world_paths */
    unsigned i = tape_byte(&p->tape);

    if (i < 160)
        i = usual ? usual_senders[i % N_ELEMENTS(usual_senders)] : 1 + i % 4;
    strbuf_add_str(&p->group, world_paths[i % world_n_paths].text);
    while (tape_chance(&p->tape, 40)) {
        unsigned n = tape_pick(&p->tape, world_n_params);
        strbuf_printf(&p->group, " %s", world_params[n].text);
    }
}

static void
say_mail(struct play *p)
{
    strbuf_add_str(&p->group, tape_chance(&p->tape, 30) ? "mail from: " : "MAIL FROM:");
    add_path(p, true);
    strbuf_add_str(&p->group, "\r\n");
}

static void
say_rcpt(struct play *p)
{
    strbuf_add_str(&p->group, tape_chance(&p->tape, 30) ? "Rcpt To: " : "RCPT TO:");
    add_path(p, false);
    strbuf_add_str(&p->group, "\r\n");
}

static void
say_auth(struct play *p)
{
    static const char *const mechanisms[] = {"PLAIN", "LOGIN", "CRAM-MD5"};
    unsigned mechanism = tape_pick(&p->tape, 5), with = tape_pick(&p->tape, 3);
    const char *text = world_responses[tape_pick(&p->tape, world_n_responses)].text;

    strbuf_printf(&p->group, "AUTH %s%s%s\r\n", mechanisms[mechanism < 3 ? mechanism : 0],
                  with == 0 ? "" : " ", with == 0 ? "" : text);
}

/* Pieces of messages, ordinary and not. */
static void
add_content(struct play *p, bool dots)
{
    static const struct span pieces[] = {
        {"line\r\n", 6},
        {"Subject: x\r\n", 12},
        {"\r\n", 2},
        {"..\r\n", 4},
        {". a\r\n", 5},
        {"\n", 1},
        {"\r", 1},
        {"\n.\n", 3},
        {"\n.\r\n", 4},
        {"\r.\r", 3},
        {"\r\n.\r", 4},
        {"\0", 1},
        {"\xe7\x94\xa8", 3},
        {".", 1},
        {"\xff", 1},
        {"\r\n.\n", 4},
        {"a : b\r\n", 7},
        {" folded\r\n", 9},
        {"no field\r\n", 10},
    };
    unsigned n = tape_pick(&p->tape, 12);

    if (tape_chance(&p->tape, 200))
        strbuf_add_str(&p->group, "From: a@src.test\r\n\r\n");
    while (n-- > 0) {
        unsigned i = tape_pick(&p->tape, 64);
        if (i < 2 * N_ELEMENTS(pieces)) {
            strbuf_add_span(&p->group, pieces[i < N_ELEMENTS(pieces) ? i : i % 3]);
            continue;
        }
        size_t length = i < 60 ? i : 900 + tape_byte(&p->tape);
        for (size_t k = 0; k < length; k++)
            strbuf_add_byte(&p->group, i == 63 ? "\xe7\x94\xa8"[k % 3] : 'x');
    }
    if (dots && !tape_chance(&p->tape, 20))
        strbuf_add_str(&p->group, "\r\n.\r\n");
}

static void
say_bdat(struct play *p)
{
    static const char *const bad[] = {
        "BDAT 3 \xc3\xbc\r\n", "BDAT 3\x01\r\n", "BDAT 3\xff LAST\r\n",          "BDAT x\r\n",
        "BDAT -1 LAST\r\n",    "BDAT\r\n",       "BDAT 18446744073709551616\r\n"};
    static const char *const tails[] = {" LAST", "", " last", " JUNK", "  LAST"};

    if (tape_chance(&p->tape, 6)) {
        strbuf_add_str(&p->group, bad[tape_pick(&p->tape, N_ELEMENTS(bad))]);
        return;
    }
    struct strbuf before = p->group;
    p->group = STRBUF_INIT;
    add_content(p, false);
    struct strbuf content = p->group;
    p->group = before;
    size_t n = content.n + (tape_chance(&p->tape, 10) ? 2u + tape_byte(&p->tape) * 20u : 0);
    strbuf_printf(&p->group, "BDAT %zu%s\r\n", n, tails[tape_byte(&p->tape) % 8 % 5]);
    strbuf_add_span(&p->group, strbuf_span(&content));
    strbuf_release(&content);
}

static void
say_other(struct play *p)
{
    static const struct span lines[] = {
        SPAN("EHLO client.test\r\n"),
        SPAN("HELO client.test\r\n"),
        SPAN("RSET\r\n"),
        SPAN("NOOP\r\n"),
        SPAN("QUIT\r\n"),
        SPAN("STARTTLS\r\n"),
        SPAN("DATA\r\n"),
        SPAN("VRFY x\r\n"),
        SPAN("VRFY\r\n"),
        SPAN("EXPN list\r\n"),
        SPAN("HELP\r\n"),
        SPAN("EHLO [192.0.2.9]\r\n"),
        SPAN("EHLO\r\n"),
        SPAN("EHLO a b\r\n"),
        SPAN("HELO evil(x\r\n"),
        SPAN("RSET now\r\n"),
        SPAN("NOOP  any \xc3\xbc\r\n"),
        SPAN("STARTTLS x\r\n"),
        SPAN("DATA x\r\n"),
        SPAN("QUIT x\r\n"),
        SPAN("\r\n"),
        SPAN("FOO\r\n"),
        SPAN("MAIL\r\n"),
        SPAN("RCPT <x@dst.test>\r\n"),
        SPAN(" NOOP\r\n"),
        SPAN("NOOP \xff\r\n"),
        SPAN("NO\0OP\r\n"),
        SPAN("RSET \x1b[\r\n"),
        SPAN("RSET \xc3\xbc\r\n"),
        SPAN("noop\r\n"),
        SPAN("ehlo X\r\n"),
        SPAN("DATA\r\n"),
        SPAN("RSET\r\n"),
        SPAN("HELP\r\n"),
    };
    static const struct span rare[] = {
        SPAN("GET / HTTP/1.1\r\n"), SPAN("NOOP\n"), SPAN("NO\rOP\r\n"),
        SPAN("NOOP\r\r\n"),         SPAN("\n"),     SPAN("post / HTTP/1.0\r\n"),
        SPAN("half a line"),        SPAN("NOOP\r"),
    };
    unsigned i = tape_byte(&p->tape);

    if (i < 240) {
        strbuf_add_span(&p->group, lines[i % N_ELEMENTS(lines)]);
    } else if (i < 250) {
        strbuf_add_span(&p->group, rare[tape_pick(&p->tape, N_ELEMENTS(rare))]);
    } else {
        strbuf_add_str(&p->group, i == 254 ? "BDAT 1" : "");
        for (unsigned n = 2040 + tape_pick(&p->tape, 16); n > 0; n--)
            strbuf_add_byte(&p->group, 'N');
        strbuf_add_str(&p->group, i == 255 ? "\n" : "\r\n");
    }
}

/* What a client says that wants to get a message through. */
static void
say_next(struct play *p)
{
    const struct smtpd_model *m = &p->model;
    bool wants_tls = m->conf.starttls && !m->tls && tape_chance(&p->tape, 60);

    if (!m->hello)
        strbuf_add_str(&p->group, "EHLO client.test\r\n");
    else if (!m->txn.open && wants_tls)
        strbuf_add_str(&p->group, "STARTTLS\r\n");
    else if (!m->txn.open && m->tls && !m->user && tape_chance(&p->tape, 128))
        say_auth(p);
    else if (!m->txn.open)
        say_mail(p);
    else if (!m->txn.bdat && (m->txn.n_rcpts == 0 || tape_chance(&p->tape, 100)))
        say_rcpt(p);
    else if (m->txn.bdat || tape_chance(&p->tape, 80))
        say_bdat(p);
    else
        strbuf_add_str(&p->group, "DATA\r\n");
}

static void
step(struct play *p)
{
    unsigned what = tape_byte(&p->tape);

    if (p->model.mode == IN_DATA && p->group.n == 0 && what < 240)
        add_content(p, true);
    else if (p->model.mode == IN_AUTH && p->group.n == 0 && what < 240)
        strbuf_printf(&p->group, "%s\r\n",
                      world_responses[tape_pick(&p->tape, world_n_responses)].text);
    else if (what < 150)
        say_next(p);
    else if (what < 170)
        say_mail(p);
    else if (what < 190)
        say_rcpt(p);
    else if (what < 200)
        say_bdat(p);
    else if (what < 206)
        say_auth(p);
    else if (what < 236)
        say_other(p);
    else
        event(p);
    if (p->group.n > GROUP_MAX || !tape_chance(&p->tape, 70))
        flush(p);
}

/* ---- the whole ---- */

static void
count(const struct play *p)
{
    struct span text = strbuf_span(&p->model.replies);
    const struct span log = strbuf_span(&p->model.sink);
    struct smtpd_reached *r = p->reached;

    while (text.n > 0) {
        uint64_t code;
        if (span_u64(span_cut(&text, '\n'), &code) && code < N_ELEMENTS(r->replies))
            r->replies[code]++;
    }
    r->in_tls += p->model.tls;
    r->by_bdat += span_find(strbuf_span(&p->said), SPAN("BDAT")) != SIZE_MAX;
    for (struct span at = log; at.n > 0;) {
        struct span line = span_cut(&at, '\n');
        r->queued += span_eq(line, SPAN("queued"));
        r->not_queued += span_eq(line, SPAN("not queued"));
        r->aborted += span_eq(line, SPAN("abort"));
    }
}

static void
explain(const struct play *p, struct strbuf *why)
{
    const struct smtpd_model_conf *c = &p->model.conf;

    strbuf_printf(why, "%s\ntrusted=%d starttls=%d auth=%d require_auth=%d reject=%d srs=%d\n",
                  p->broken, c->trusted, c->starttls, c->auth, c->require_auth, c->reject_newlines,
                  c->srs);
    strbuf_add_str(why, "---- the client\n");
    strbuf_add_span(why, strbuf_span(&p->said));
    strbuf_add_str(why, "\n---- replies of the core\n");
    strbuf_add_span(why, strbuf_span(&p->replies));
    strbuf_add_str(why, "---- replies of the model\n");
    strbuf_add_span(why, strbuf_span(&p->model.replies));
    strbuf_add_str(why, "---- sink of the core\n");
    strbuf_add_span(why, strbuf_span(&p->sink));
    strbuf_add_str(why, "---- sink of the model\n");
    strbuf_add_span(why, strbuf_span(&p->model.sink));
}

static void
release(struct play *p)
{
    smtpd_free(p->core);
    smtpd_model_release(&p->model);
    strbuf_release(&p->group);
    strbuf_release(&p->in);
    strbuf_release(&p->replies);
    strbuf_release(&p->sink);
    strbuf_release(&p->body);
    strbuf_release(&p->said);
}

/* The client is gone: whatever is in the sink is aborted, never queued. */
static void
leave(struct play *p)
{
    flush(p);
    if (!p->closed && p->broken == NULL)
        let_go(p);
}

bool
smtpd_dialogue(struct tape tape, struct smtpd_reached *reached, struct strbuf *why)
{
    static char scratch[DATA_SCRATCH_BYTES];
    static const struct ip own = {.family = 4, .bytes = {192, 0, 2, 1}};
    struct accept_client client = {.session = 1, .ip = own, .listener = SPAN("x")};
    static struct smtpd_reached ignored;
    struct play p = {.tape = tape, .now = 1000, .reached = reached == NULL ? &ignored : reached};
    unsigned flags = tape_byte(&p.tape);
    struct smtpd_model_conf mc = {.trusted = flags % 4 != 3,
                                  .starttls = (flags & 4) != 0,
                                  .auth = (flags & 8) != 0,
                                  .require_auth = (flags & 0x30) == 0x30,
                                  .reject_newlines = (flags & 0x40) != 0,
                                  .srs = (flags & 0x80) != 0,
                                  .message_bytes = 3000,
                                  .stranger_bytes = 500,
                                  .header_bytes = 1200,
                                  .max_rcpts = 3};
    struct smtpd_conf conf = {.hostname = "relay.test",
                              .postmaster = "postmaster@relay.test",
                              .srs_domain = mc.srs ? WORLD_SRS_DOMAIN : "",
                              .own = &own,
                              .n_own = 1,
                              .message_bytes = mc.message_bytes,
                              .stranger_bytes = mc.stranger_bytes,
                              .header_bytes = mc.header_bytes,
                              .max_rcpts = mc.max_rcpts,
                              .starttls = mc.starttls,
                              .auth = mc.auth,
                              .require_auth = mc.require_auth,
                              .reject_newlines = mc.reject_newlines,
                              .idle_ms = 5 * MINUTE,
                              .idle_stressed_ms = 10 * SECOND};

    p.trusted = mc.trusted;
    p.core = smtpd_new(&conf, &client, scratch, NULL);
    smtpd_set_trusted(p.core, p.trusted);
    smtpd_start(p.core, p.now, false);
    smtpd_model_init(&p.model, &mc);
    drive(&p);
    while (p.tape.n > 0 && !p.closed && p.broken == NULL)
        step(&p);
    leave(&p);
    if (p.broken == NULL)
        count(&p);
    else
        explain(&p, why);
    bool ok = p.broken == NULL;
    release(&p);
    return ok;
}
