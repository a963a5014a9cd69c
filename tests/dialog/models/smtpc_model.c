/*
 * How it works: replies are read octet by octet; each goes to what on_reply() knows of the oldest
 * command without one. Whatever ends a session ends in leave(), whatever decides about recipients
 * in tell().
 */
#include "tests/dialog/models/smtpc_model.h"

#include "policy/base/mem.h"

#include <assert.h>

static void ready(struct smtpc_model *m);
static void group_go(struct smtpc_model *m);

/* ---- recipients ---- */

static void
tell(struct smtpc_model *m, unsigned rcpt, struct model_told told)
{
    assert(m->fates[rcpt] != FATE_TOLD);
    m->fates[rcpt] = FATE_TOLD;
    m->told[rcpt] = told;
}

/* All in that state; who has an answer of his own keeps it. */
static void
tell_all(struct smtpc_model *m, enum model_fate fate, struct model_told told)
{
    for (unsigned i = 0; i < m->message.n_rcpts; i++)
        if (m->fates[i] == fate)
            tell(m, i, fate == FATE_AGAIN || fate == FATE_REFUSED ? m->told[i] : told);
}

static void
tell_rest(struct smtpc_model *m, struct model_told told)
{
    tell_all(m, FATE_TAKEN, told);
    tell_all(m, FATE_ASK, told);
    tell_all(m, FATE_AGAIN, told);
    tell_all(m, FATE_REFUSED, told);
}

/* A session that ends before DATA was answered may have been out of step all along. */
static void
doubt(struct smtpc_model *m)
{
    for (unsigned i = 0; i < m->message.n_rcpts; i++)
        if (m->fates[i] == FATE_REFUSED)
            m->fates[i] = FATE_ASK;
}

static bool
all_told(const struct smtpc_model *m)
{
    for (unsigned i = 0; i < m->message.n_rcpts; i++)
        if (m->fates[i] != FATE_TOLD)
            return false;
    return true;
}

static const struct model_told deferred = {.kind = OUTCOME_DEFERRED};
static const struct model_told deferred_path = {.kind = OUTCOME_DEFERRED, .path = true};

/* What a refusal means for a recipient, from MAIL on. */
static struct model_told
refusal(const struct smtpc_model *m)
{
    int code = m->code;
    bool hops = m->conf.hop && (code == 530 || code == 535 || code == 538 || code == 454 ||
                                (code >= 400 && m->trouble));

    return (struct model_told){
        .kind = hops || code < 500 ? OUTCOME_DEFERRED : OUTCOME_FAILED, .code = code, .path = hops};
}

/* ---- sessions ---- */

static void
leave(struct smtpc_model *m, enum smtpc_end end)
{
    m->want = SMTPC_WANT_CLOSE;
    m->end = end;
    m->n_waiting = m->n_sent = 0;
    strbuf_reset(&m->said); /* what did not leave never will */
    if (end == SMTPC_END_OVER)
        m->busy = false;
}

static void
say(struct smtpc_model *m, enum model_command command, unsigned rcpt)
{
    static const char *const names[] = {"",           "EHLO", "HELO",     "STARTTLS", "AUTH PLAIN",
                                        "AUTH LOGIN", "user", "password", "RSET",     "MAIL",
                                        "RCPT",       "DATA", ".",        "",         "QUIT"};

    if (command == SAYS_RCPT)
        strbuf_printf(&m->said, "RCPT %u\n", rcpt);
    else if (names[command][0] != '\0')
        strbuf_printf(&m->said, "%s\n", names[command]);
    assert(m->n_waiting < MODEL_COMMANDS_MAX);
    m->waiting[m->n_waiting].command = command;
    m->waiting[m->n_waiting++].rcpt = rcpt;
    m->want = SMTPC_WANT_REPLY;
}

/* Opportunistic TLS went wrong: the same host would do in clear. */
static bool
clear_will_do(const struct smtpc_model *m)
{
    bool starttls =
        m->answered == SAYS_STARTTLS ||
        (m->answered == SAYS_NOTHING && m->n_waiting > 0 && m->waiting[0].command == SAYS_STARTTLS);
    bool about_tls = m->shaking || (m->tls && !m->tls_heard) || starttls;

    return about_tls && m->conf.tls == TLS_OPPORTUNISTIC && !m->host.implicit_tls && !m->conf.auth;
}

/* The session is gone without the reply that was due: whose fault it is decides who is told. */
static void
broken_off(struct smtpc_model *m, struct model_told told, bool may_go_on)
{
    bool served = m->n_txns > 0 || m->idled; /* else it is a host that failed */

    doubt(m);
    if ((m->want == SMTPC_WANT_TXN && served) ||
        (m->n_waiting > 0 && m->waiting[0].command == SAYS_QUIT) || (m->busy && all_told(m))) {
        leave(m, SMTPC_END_OVER);
    } else if (!m->busy || m->n_txns == 0) { /* before MAIL */
        leave(m, clear_will_do(m) ? SMTPC_END_CLEAR : SMTPC_END_NEXT);
    } else if (m->at_dot) {
        struct model_told twice = told;
        twice.path = false;
        twice.twice = true;
        tell_all(m, FATE_TAKEN, twice);
        tell_rest(m, deferred);
        leave(m, SMTPC_END_OVER);
    } else if (may_go_on) {
        leave(m, SMTPC_END_NEXT);
    } else {
        tell_rest(m, told);
        leave(m, SMTPC_END_OVER);
    }
}

static void
violation(struct smtpc_model *m)
{
    broken_off(m, deferred, false);
}

static void
setup_next(struct smtpc_model *m)
{
    bool gone = m->conf.gone_is_path && m->host.tls_was_there;

    if (!m->tls && m->conf.tls != TLS_OFF && !m->host.in_clear) {
        if (m->offers.starttls)
            say(m, SAYS_STARTTLS, 0);
        else if (m->conf.tls >= TLS_REQUIRE || gone)
            leave(m, SMTPC_END_NEXT);
        if (m->offers.starttls || m->conf.tls >= TLS_REQUIRE || gone)
            return;
    }
    if (!m->conf.auth)
        ready(m);
    else if (m->tls && m->offers.auth_plain)
        say(m, SAYS_AUTH_PLAIN, 0);
    else if (m->tls && m->offers.auth_login)
        say(m, SAYS_AUTH_LOGIN, 0);
    else
        leave(m, SMTPC_END_NEXT);
}

/* The keywords of an EHLO answer that the dialogues use. */
static void
offers_take(struct smtpc_model *m)
{
    struct span text = strbuf_span(&m->text);

    m->offers = (struct smtpc_offers){.pipelining = false};
    span_cut(&text, '\n');
    while (text.n > 0) {
        struct span line = span_cut(&text, '\n');
        m->offers.pipelining |= span_eq(line, SPAN("PIPELINING"));
        m->offers.smtputf8 |= span_eq(line, SPAN("SMTPUTF8"));
        m->offers.starttls |= span_eq(line, SPAN("STARTTLS"));
        m->offers.auth_plain |=
            span_eq(line, SPAN("AUTH PLAIN")) || span_eq(line, SPAN("AUTH=LOGIN PLAIN"));
        m->offers.auth_login |=
            span_eq(line, SPAN("AUTH LOGIN")) || span_eq(line, SPAN("AUTH=LOGIN PLAIN"));
        m->offers.size_max = span_eq(line, SPAN("SIZE 500")) ? 500 : m->offers.size_max;
        m->offers.rcpt_max = span_eq(line, SPAN("LIMITS RCPTMAX=2")) ? 2 : m->offers.rcpt_max;
    }
}

static void
on_ehlo(struct smtpc_model *m, bool helo)
{
    bool unknown = m->code == 500 || m->code == 501 || m->code == 502 || m->code == 504 ||
                   (m->code == 550 && m->enh.klass == 0);
    bool gone = m->conf.gone_is_path && m->host.tls_was_there && !m->host.in_clear;

    if (m->code / 100 == 3) {
        violation(m);
    } else if (m->code / 100 == 2) {
        offers_take(m);
        if (helo)
            m->offers = (struct smtpc_offers){.pipelining = false};
        setup_next(m);
    } else if (!helo && unknown && m->conf.tls < TLS_REQUIRE && !m->conf.auth && !gone) {
        say(m, SAYS_HELO, 0);
    } else {
        leave(m, SMTPC_END_NEXT);
    }
}

static void
on_starttls(struct smtpc_model *m)
{
    if (m->code == 220) {
        m->shaking = true;
        m->want = SMTPC_WANT_TLS;
    } else if (m->code < 400) {
        violation(m);
    } else if (m->conf.tls >= TLS_REQUIRE || m->code == 421 ||
               (m->conf.gone_is_path && m->host.tls_was_there)) {
        leave(m, SMTPC_END_NEXT);
    } else {
        m->host.in_clear = true;
        setup_next(m);
    }
}

static void
on_auth(struct smtpc_model *m, enum model_command command)
{
    bool login = command == SAYS_AUTH_LOGIN || command == SAYS_USER;

    if (command == SAYS_AUTH_PLAIN && m->code == 504 && m->offers.auth_login)
        say(m, SAYS_AUTH_LOGIN, 0);
    else if (login && m->code == 334)
        say(m, command == SAYS_USER ? SAYS_PASSWORD : SAYS_USER, 0);
    else if (m->code / 100 == 3 || (login && m->code < 400))
        violation(m);
    else if (m->code < 400)
        ready(m);
    else
        leave(m, m->code >= 500 ? SMTPC_END_STOP : SMTPC_END_NEXT);
}

/* ---- transactions ---- */

static unsigned
next_rcpt(const struct smtpc_model *m)
{
    unsigned i = m->group.next_rcpt;

    if (m->offers.rcpt_max > 0 && m->group.n_asked >= m->offers.rcpt_max)
        return m->message.n_rcpts;
    while (i < m->message.n_rcpts && m->fates[i] != FATE_ASK)
        i++;
    return i;
}

static void
group_say(struct smtpc_model *m)
{
    unsigned rcpt = next_rcpt(m);

    if (m->group.next == NEXT_RSET) {
        say(m, SAYS_RSET, 0);
        m->needs_rset = false;
        m->group.next = NEXT_MAIL;
    } else if (m->group.next == NEXT_MAIL) {
        say(m, SAYS_MAIL, 0);
        m->group.next = NEXT_RCPT;
    } else if (m->group.next == NEXT_RCPT) {
        say(m, SAYS_RCPT, rcpt);
        m->group.next_rcpt = rcpt + 1;
        m->group.n_asked++;
        m->group.next = next_rcpt(m) < m->message.n_rcpts ? NEXT_RCPT : NEXT_DATA;
    } else {
        say(m, SAYS_DATA, 0);
        m->group.next = NEXT_NONE;
    }
}

static void
group_begin(struct smtpc_model *m)
{
    memset(&m->group, 0, sizeof m->group);
    m->group.next = m->needs_rset ? NEXT_RSET : NEXT_MAIL;
    m->heard = false;
    m->n_txns++;
    do {
        group_say(m);
    } while (m->offers.pipelining && m->group.next != NEXT_NONE);
}

static void
group_end(struct smtpc_model *m)
{
    bool more = false;

    tell_all(m, FATE_REFUSED, deferred);
    m->needs_rset = m->group.mail_ok && !m->group.ended;
    for (unsigned i = 0; i < m->message.n_rcpts; i++) {
        if (m->fates[i] == FATE_AGAIN && !m->group.delivered)
            tell(m, i, m->told[i]);
        if (m->fates[i] == FATE_AGAIN)
            m->fates[i] = FATE_ASK;
        more = more || m->fates[i] == FATE_ASK;
    }
    if (more) {
        m->reused = true;
        group_begin(m);
    } else {
        m->busy = m->idled = false;
        m->want = SMTPC_WANT_TXN;
    }
}

static void
group_go(struct smtpc_model *m)
{
    bool refused = !m->group.mail_ok && m->group.next > NEXT_MAIL;
    bool nobody = m->group.next == NEXT_DATA && m->group.n_taken == 0;

    m->want = SMTPC_WANT_REPLY;
    if (m->n_waiting > 0)
        return;
    if (m->group.next == NEXT_NONE || refused || nobody)
        group_end(m);
    else
        group_say(m);
}

static void
txn_begin(struct smtpc_model *m)
{
    bool too_large = m->offers.size_max > 0 && m->message.size_bytes > m->offers.size_max;

    m->reused = m->n_txns > 0 || m->idled;
    m->heard = false;
    if (too_large || (m->message.utf8 && !m->offers.smtputf8)) {
        tell_rest(m, (struct model_told){.kind = OUTCOME_FAILED});
        m->busy = false;
        m->want = SMTPC_WANT_TXN;
    } else {
        group_begin(m);
    }
}

static void
ready(struct smtpc_model *m)
{
    m->want = SMTPC_WANT_TXN;
    if (m->busy)
        txn_begin(m);
}

/* 421 at a command of the transaction: it is over for all who wait. */
static void
shut_down(struct smtpc_model *m)
{
    doubt(m);
    tell_rest(m, refusal(m));
    leave(m, SMTPC_END_OVER);
}

static void
on_mail(struct smtpc_model *m)
{
    struct model_told told = refusal(m);

    if ((m->code == 421 && m->reused) || (m->code / 100 >= 4 && m->took_mail)) {
        leave(m, SMTPC_END_AGAIN);
    } else if (m->code / 100 == 3) {
        violation(m);
    } else if (m->code / 100 == 2) {
        m->heard = m->took_mail = m->group.mail_ok = true;
        group_go(m);
    } else if (told.kind == OUTCOME_DEFERRED && !m->conf.hop) {
        leave(m, SMTPC_END_NEXT);
    } else {
        m->heard = true;
        tell_rest(m, told);
        if (m->code == 421)
            leave(m, SMTPC_END_OVER);
        else
            group_go(m);
    }
}

static void
on_rcpt(struct smtpc_model *m, unsigned rcpt)
{
    struct model_told told = refusal(m);
    bool too_many =
        m->code == 452 ||
        (m->code == 552 && (m->enh.klass == 0 || (m->enh.subject == 5 && m->enh.detail == 3)));

    if (m->code == 421) {
        shut_down(m);
        return;
    }
    if (!m->group.mail_ok) {
        group_go(m);
        return;
    }
    if (m->code / 100 == 3) {
        violation(m);
        return;
    }
    if (m->code / 100 == 2) {
        m->fates[rcpt] = FATE_TAKEN;
        m->group.n_taken++;
    } else if (too_many && !told.path) {
        told.kind = OUTCOME_DEFERRED;
        m->fates[rcpt] = FATE_AGAIN;
        m->told[rcpt] = told;
    } else if (m->reused) {
        m->fates[rcpt] = FATE_REFUSED;
        m->told[rcpt] = told;
    } else {
        tell(m, rcpt, told);
    }
    group_go(m);
}

static void
on_data(struct smtpc_model *m)
{
    if (m->code == 354)
        tell_all(m, FATE_REFUSED, deferred);
    if (m->code == 421) {
        shut_down(m);
    } else if (m->code == 354 && m->group.n_taken > 0) {
        m->in_body = true;
        m->want = SMTPC_WANT_BODY;
    } else if (m->code == 354) {
        say(m, SAYS_EMPTY_DOT, 0);
    } else if (m->code < 400) {
        violation(m);
    } else if (m->group.n_taken > 0 && m->reused) {
        leave(m, SMTPC_END_AGAIN); /* perhaps it is the answer to another command */
    } else {
        tell_all(m, FATE_TAKEN, refusal(m));
        group_go(m);
    }
}

static void
on_dot(struct smtpc_model *m)
{
    if (m->code / 100 == 3 || (m->code / 100 == 2 && m->early)) {
        violation(m);
    } else if (m->code == 421) {
        m->at_dot = false;
        shut_down(m);
    } else {
        m->at_dot = false;
        m->group.ended = true;
        m->group.delivered = m->code / 100 == 2;
        struct model_told told = refusal(m);
        if (m->group.delivered)
            told.kind = OUTCOME_DELIVERED;
        tell_all(m, FATE_TAKEN, told);
        group_end(m);
    }
}

/* ---- replies ---- */

/* A reply while content is being sent. */
static void
on_early_reply(struct smtpc_model *m)
{
    struct model_told told = refusal(m);

    if (m->code < 400) {
        violation(m);
        return;
    }
    tell_all(m, FATE_TAKEN, told);
    told.kind = OUTCOME_DEFERRED;
    tell_rest(m, told);
    leave(m, SMTPC_END_OVER);
}

static void
dispatch(struct smtpc_model *m, enum model_command command, unsigned rcpt)
{
    int first = m->code / 100;

    switch (command) {
    case SAYS_NOTHING:
        if (first == 2)
            say(m, SAYS_EHLO, 0);
        else if (first == 3)
            violation(m);
        else
            leave(m, SMTPC_END_NEXT);
        return;
    case SAYS_EHLO:
    case SAYS_HELO:
        on_ehlo(m, command == SAYS_HELO);
        return;
    case SAYS_STARTTLS:
        on_starttls(m);
        return;
    case SAYS_AUTH_PLAIN:
    case SAYS_AUTH_LOGIN:
    case SAYS_USER:
    case SAYS_PASSWORD:
        on_auth(m, command);
        return;
    case SAYS_RSET:
        if (first == 2)
            group_go(m);
        else
            leave(m, SMTPC_END_AGAIN);
        return;
    case SAYS_MAIL:
        on_mail(m);
        return;
    case SAYS_RCPT:
        on_rcpt(m, rcpt);
        return;
    case SAYS_DATA:
        on_data(m);
        return;
    case SAYS_EMPTY_DOT:
        if (m->code == 421) {
            shut_down(m);
        } else {
            m->group.ended = true;
            group_go(m);
        }
        return;
    case SAYS_DOT:
        on_dot(m);
        return;
    case SAYS_QUIT:
        leave(m, SMTPC_END_OVER);
        return;
    }
}

static void
on_reply(struct smtpc_model *m)
{
    if (m->in_body) {
        on_early_reply(m);
        return;
    }
    enum model_command command = m->waiting[0].command;
    unsigned rcpt = m->waiting[0].rcpt;
    m->n_waiting--;
    m->n_sent--;
    memmove(m->waiting, m->waiting + 1, m->n_waiting * sizeof m->waiting[0]);
    m->tls_heard |= m->tls;
    m->answered = command;
    dispatch(m, command, rcpt);
    m->answered = SAYS_NOTHING;
}

static void
reply_forget(struct smtpc_model *m)
{
    m->line_n = m->reply_n = m->n_lines = 0;
    m->code = 0;
    m->enh = (struct enh){.klass = 0};
    m->trouble = false;
    strbuf_reset(&m->text);
}

/* A whole line of a reply (RFC 5321 section 4.2): false when it is none. */
static bool
line_take(struct smtpc_model *m, bool *ret_last)
{
    struct span line = span_of(m->line, m->line_n);
    uint64_t code;
    struct enh enh;
    size_t n;

    if (span_ends(line, SPAN("\r")))
        line.n--;
    m->line_n = 0;
    if (line.n < 3 || !span_u64(span_first(line, 3), &code) || code < 200 || code > 599)
        return false;
    if (line.n > 3 && strchr(" -\t", line.p[3]) == NULL)
        return false;
    if (m->n_lines > 0 && m->code / 100 != (int)code / 100)
        return false;
    struct span text = span_trim(span_from(line, 4));
    if (enh_parse(text, &enh, &n) && (n == text.n || text.p[n] == ' ')) {
        m->enh = m->enh.klass == 0 ? enh : m->enh;
        text = span_trim(span_from(text, n));
    }
    strbuf_add_str(&m->text, m->n_lines > 0 ? "\n" : "");
    strbuf_add_span(&m->text, text);
    m->code = (int)code;
    m->trouble = span_find(strbuf_span(&m->text), SPAN("relay")) != SIZE_MAX;
    *ret_last = line.n == 3 || line.p[3] != '-';
    return ++m->n_lines <= SMTP_REPLY_LINES_MAX;
}

static void
octet(struct smtpc_model *m, char c)
{
    bool last = false;

    if (m->shaking || (!m->in_body && m->n_sent == 0) || ++m->reply_n > SMTP_REPLY_BYTES_MAX ||
        (c != '\n' && m->line_n == SMTP_REPLY_LINE_MAX)) {
        violation(m);
        return;
    }
    if (c != '\n') {
        m->line[m->line_n++] = c;
        return;
    }
    if (!line_take(m, &last)) {
        violation(m);
    } else if (last) {
        on_reply(m);
        reply_forget(m);
    }
}

/* ---- events ---- */

void
smtpc_model_init(struct smtpc_model *m, const struct smtpc_model_conf *conf)
{
    *m = (struct smtpc_model){.conf = *conf, .want = SMTPC_WANT_CLOSE};
}

void
smtpc_model_release(struct smtpc_model *m)
{
    strbuf_release(&m->said);
    strbuf_release(&m->text);
}

/* The greeting is due, without anything said. */
static void
greeting(struct smtpc_model *m)
{
    say(m, SAYS_NOTHING, 0);
    m->n_sent = m->n_waiting;
}

void
smtpc_model_open(struct smtpc_model *m, const struct smtpc_host *host)
{
    m->host = *host;
    m->tls = m->tls_heard = m->shaking = m->in_body = m->at_dot = m->needs_rset = m->idled =
        m->took_mail = false;
    m->offers = (struct smtpc_offers){.pipelining = false};
    m->n_txns = 0;
    reply_forget(m);
    for (unsigned i = 0; i < m->message.n_rcpts; i++)
        if (m->fates[i] != FATE_TOLD)
            m->fates[i] = FATE_ASK;
    m->shaking = host->implicit_tls;
    m->want = SMTPC_WANT_TLS;
    if (!m->shaking)
        greeting(m);
}

void
smtpc_model_tls_up(struct smtpc_model *m)
{
    m->shaking = false;
    m->tls = true;
    m->offers = (struct smtpc_offers){.pipelining = false};
    reply_forget(m);
    if (m->host.implicit_tls)
        greeting(m);
    else
        say(m, SAYS_EHLO, 0);
}

void
smtpc_model_input(struct smtpc_model *m, struct span bytes)
{
    for (size_t i = 0; i < bytes.n && m->want != SMTPC_WANT_CLOSE; i++)
        octet(m, bytes.p[i]);
}

void
smtpc_model_lost(struct smtpc_model *m, enum smtpc_loss loss)
{
    bool waited = m->busy && m->n_txns > 0 && m->reused && !m->heard && !m->in_body && !m->at_dot;

    if (waited && loss != SMTPC_LOSS_TIMEOUT && !all_told(m))
        leave(m, SMTPC_END_AGAIN);
    else
        broken_off(m, deferred_path, true);
}

void
smtpc_model_start(struct smtpc_model *m, const struct model_message *message)
{
    m->message = *message;
    m->busy = true;
    memset(m->fates, 0, sizeof m->fates);
    txn_begin(m);
}

void
smtpc_model_idle(struct smtpc_model *m)
{
    m->idled = true;
}

void
smtpc_model_body_sent(struct smtpc_model *m)
{
    m->early = m->line_n > 0 || m->n_lines > 0;
    m->in_body = false;
    m->at_dot = true;
    say(m, SAYS_DOT, 0);
}

void
smtpc_model_body_failed(struct smtpc_model *m)
{
    tell_rest(m, deferred);
    leave(m, SMTPC_END_OVER);
}

void
smtpc_model_decide(struct smtpc_model *m)
{
    tell_rest(m, deferred);
    m->busy = false;
}

void
smtpc_model_quit(struct smtpc_model *m)
{
    say(m, SAYS_QUIT, 0);
}

void
smtpc_model_flushed(struct smtpc_model *m)
{
    m->n_sent = m->n_waiting;
    strbuf_reset(&m->said);
}
