/*
 * How it works: everything that came and was not used is in `in`; run() takes from it line by line
 * or body by body until it needs more or an answer. Replies and the sink's log are texts, to be
 * compared with those of the core.
 */
#include "tests/dialog/models/smtpd_model.h"

#include "policy/base/mailbox.h"
#include "policy/base/mem.h"
#include "relayd/accept/smtpd.h"

#include <assert.h>
#include <stdio.h>

static void run(struct smtpd_model *m);

/* ---- replies, the sink ---- */

static void
say(struct smtpd_model *m, int code)
{
    strbuf_printf(&m->replies, "%d\n", code);
}

/* An error of the client's. */
static void
error(struct smtpd_model *m, int code)
{
    m->errors++;
    say(m, code);
}

static int
code_of(struct span reply)
{
    return (reply.p[0] - '0') * 100 + (reply.p[1] - '0') * 10 + reply.p[2] - '0';
}

static void
sink_abort(struct smtpd_model *m)
{
    if (m->txn.sink)
        strbuf_add_str(&m->sink, "abort\n");
    m->txn.sink = false;
}

static void
txn_end(struct smtpd_model *m)
{
    sink_abort(m);
    strbuf_release(&m->txn.raw);
    m->txn = (struct model_txn){.open = false};
}

static void
hang_up(struct smtpd_model *m, int code)
{
    if (code != 0)
        say(m, code);
    txn_end(m);
    m->closed = true;
}

/* ---- MAIL ---- */

/* The path at the start of `arg`, which is moved behind it. */
static const struct world_path *
path_take(struct span *arg, const char *prefix)
{
    if (!span_istarts(*arg, span_str(prefix)))
        return world_path(SPAN(""));
    *arg = span_trim(span_from(*arg, strlen(prefix)));
    for (unsigned i = 0; i < world_n_paths; i++) {
        struct span text = span_str(world_paths[i].text);
        if (text.n > 0 && span_starts(*arg, text) && (arg->n == text.n || arg->p[text.n] == ' ')) {
            *arg = span_from(*arg, text.n);
            return &world_paths[i];
        }
    }
    return world_path(SPAN(""));
}

/* Judge the parameters of MAIL (or RCPT): 0, or the reply. */
static int
params_judge(struct smtpd_model *m, struct span rest, bool mail, bool *ret_utf8, uint64_t *ret_size)
{
    char seen[N_ELEMENTS(m->txn.rcpts) * 64] = ""; /* keys, each between blanks */

    while ((rest = span_trim(rest)).n > 0) {
        struct span word = span_cut(&rest, ' '), value = word, key = span_cut(&value, '=');
        const struct world_param *p = NULL;
        for (unsigned i = 0; i < world_n_params && p == NULL; i++)
            if (span_eq(word, span_str(world_params[i].text)))
                p = &world_params[i];
        assert(p != NULL);
        unsigned code = mail ? p->mail : p->rcpt;
        if (mail && strcmp(p->key, "AUTH") == 0 && !m->conf.auth)
            code = 555;
        char mark[32];
        snprintf(mark, sizeof mark, " %s ", p->key);
        if (code != 555 && strstr(seen, mark) != NULL)
            code = 501;
        if (code != 0)
            return (int)code;
        strncat(seen, mark, sizeof seen - strlen(seen) - 1);
        *ret_utf8 = *ret_utf8 || strcmp(p->key, "SMTPUTF8") == 0;
        if (span_ieq(key, SPAN("SIZE")) && !span_u64(value, ret_size))
            *ret_size = UINT64_MAX;
    }
    return 0;
}

static void
on_mail(struct smtpd_model *m, struct span arg)
{
    bool utf8 = false;
    uint64_t size = 0;

    if (m->conf.require_auth && !m->user) {
        error(m, 530);
        return;
    }
    const struct world_path *path = path_take(&arg, "FROM:");
    bool bad = path->address == NULL || strcmp(path->text, "<postmaster>") == 0;
    int code = bad ? 501 : params_judge(m, arg, true, &utf8, &size);
    if (code == 0 && path->utf8 && !utf8)
        code = 553;
    if (code != 0) {
        error(m, code);
    } else if (size > m->conf.message_bytes) {
        say(m, 552);
    } else {
        m->txn = (struct model_txn){.open = true,
                                    .sender = path,
                                    .size = size,
                                    .max_bytes = m->conf.message_bytes,
                                    .utf8 = utf8};
        if (m->trusted)
            m->ask = ASK_BEGIN;
        else
            say(m, 250);
    }
}

/* ---- RCPT ---- */

/* Refused by us, or by others: only strangers are charged, never for a 452. */
static void
rcpt_refuse(struct smtpd_model *m, int code)
{
    m->txn.n_refused++;
    if (!m->trusted && code != 452)
        m->errors++;
    say(m, code);
}

static struct span
local_of(struct span address)
{
    const char *at = memrchr(address.p, '@', address.n);

    return span_of(address.p, (size_t)(at - address.p));
}

/* Was he taken before, or is he one too many? */
static bool
rcpt_counted(struct smtpd_model *m)
{
    for (unsigned i = 0; i < m->txn.n_rcpts; i++)
        if (span_eq(m->txn.rcpts[i].domain, m->txn.rcpt.domain) &&
            span_eq(local_of(m->txn.rcpts[i].address), local_of(m->txn.rcpt.address))) {
            say(m, 250);
            return true;
        }
    if (m->txn.n_rcpts < m->conf.max_rcpts)
        return false;
    m->txn.n_refused++;
    say(m, 452);
    return true;
}

static void
on_rcpt(struct smtpd_model *m, struct span arg)
{
    struct model_txn *t = &m->txn;
    bool utf8 = false;
    uint64_t size = 0;

    if (t->refusal != 0) {
        rcpt_refuse(m, t->refusal);
        return;
    }
    const struct world_path *path = path_take(&arg, "TO:");
    bool bad = path->address == NULL || path->address[0] == '\0';
    int code = bad ? 501 : params_judge(m, arg, false, &utf8, &size);
    if (code == 0 && path->utf8 && !t->utf8)
        code = 553;
    if (code != 0) {
        error(m, code);
        return;
    }
    t->rcpt.address = span_str(path->address);
    t->rcpt.domain = span_str(path->domain);
    bool back = m->conf.srs && strcmp(path->domain, WORLD_SRS_DOMAIN) == 0;
    if (!m->trusted && !back) {
        rcpt_refuse(m, 554);
        return;
    }
    if (!m->trusted && t->size > m->conf.stranger_bytes) {
        rcpt_refuse(m, 552);
        return;
    }
    if (!m->trusted && t->max_bytes > m->conf.stranger_bytes)
        t->max_bytes = m->conf.stranger_bytes;
    if (path->inside)
        rcpt_refuse(m, 550);
    else if (!rcpt_counted(m))
        m->ask = ASK_VERDICT;
}

static void
verdict_given(struct smtpd_model *m)
{
    struct model_txn *t = &m->txn;
    struct span instead, refusal = world_verdict(t->rcpt.address, &instead);

    if (refusal.n == 0 && t->refusal != 0) { /* the sink gave up meanwhile */
        rcpt_refuse(m, t->refusal);
        return;
    }
    if (refusal.n > 0) {
        rcpt_refuse(m, code_of(refusal));
        return;
    }
    if (span_eq(instead, SPAN("x@[127.0.0.1]"))) {
        rcpt_refuse(m, 550);
        return;
    }
    if (instead.n > 0) {
        t->rcpt.address = instead;
        t->rcpt.domain = span_from(instead, span_find_byte(instead, '@') + 1);
        if (rcpt_counted(m))
            return;
    }
    m->ask = t->sink ? ASK_RCPT : ASK_BEGIN;
}

/* The sink was asked to begin, for MAIL or for a stranger's first recipient. */
static void
begun(struct smtpd_model *m)
{
    struct model_txn *t = &m->txn;
    struct span sender = span_str(t->sender->address), refusal = world_begin(sender);

    strbuf_printf(&m->sink, "begin <%.*s> %s\n", SPAN_ARG(sender), refusal.n > 0 ? "no" : "yes");
    t->sink = refusal.n == 0;
    if (t->rcpt.address.p != NULL) {
        if (t->sink)
            m->ask = ASK_RCPT;
        else
            rcpt_refuse(m, code_of(refusal));
    } else if (t->sink) {
        say(m, 250);
    } else {
        say(m, code_of(refusal));
        txn_end(m);
    }
}

static void
rcpt_asked(struct smtpd_model *m)
{
    struct model_txn *t = &m->txn;
    struct span refusal = world_rcpt(t->rcpt.address);

    strbuf_printf(&m->sink, "rcpt <%.*s> %s\n", SPAN_ARG(t->rcpt.address),
                  refusal.n > 0 ? "no" : "yes");
    if (refusal.n > 0) {
        rcpt_refuse(m, code_of(refusal));
        return;
    }
    t->rcpts[t->n_rcpts].address = t->rcpt.address;
    t->rcpts[t->n_rcpts++].domain = t->rcpt.domain;
    say(m, 250);
}

/* ---- the message ---- */

static int
fault_code(enum data_fault fault)
{
    static const int codes[] = {[DATA_FAULT_NUL] = 550,
                                [DATA_FAULT_NEWLINE] = 550,
                                [DATA_FAULT_SIZE] = 552,
                                [DATA_FAULT_HEADER] = 554};

    return codes[fault];
}

/* What has come of it; `last`: there is no more. Refuses it as soon as that can be told. */
static struct data_model
body_look(struct smtpd_model *m, struct span raw, bool dots, bool last)
{
    struct data_limits limits = {.message_bytes = m->txn.max_bytes,
                                 .header_bytes = m->conf.header_bytes,
                                 .reject_newlines = m->conf.reject_newlines,
                                 .dots = dots};
    struct data_model d;

    data_model(&limits, raw, last, &d);
    if (m->txn.refusal == 0 && d.fault != DATA_FAULT_NONE) {
        m->txn.refusal = fault_code(d.fault);
        sink_abort(m);
    }
    return d;
}

static void
body_whole(struct smtpd_model *m, struct span message)
{
    m->mode = IN_COMMANDS;
    if (m->txn.refusal != 0) {
        say(m, m->txn.refusal);
        txn_end(m);
        return;
    }
    strbuf_printf(&m->sink, "end %u rcpts, %zu bytes: ", m->txn.n_rcpts, message.n);
    strbuf_add_span(&m->sink, message);
    strbuf_add_str(&m->sink, "\n");
    m->ask = ASK_END;
}

static void
body_answered(struct smtpd_model *m)
{
    struct span reply = world_end(span_str(m->txn.sender->address));

    strbuf_printf(&m->sink, "%s\n", reply.p[0] == '2' ? "queued" : "not queued");
    say(m, code_of(reply));
    m->txn.sink = false;
    txn_end(m);
}

static void
on_data(struct smtpd_model *m, struct span arg)
{
    if (arg.n > 0) {
        error(m, 501);
    } else if (m->txn.refusal != 0) {
        say(m, m->txn.refusal);
        txn_end(m);
    } else if (m->txn.n_rcpts == 0 && m->txn.n_refused > 0) {
        say(m, 554);
    } else if (m->txn.n_rcpts == 0) {
        error(m, 503);
    } else {
        say(m, 354);
        m->mode = IN_DATA;
    }
}

static bool
data_step(struct smtpd_model *m)
{
    struct data_model d = body_look(m, strbuf_span(&m->in), true, false);

    if (d.ended) {
        strbuf_consume(&m->in, d.used);
        body_whole(m, strbuf_span(&d.out));
    }
    strbuf_release(&d.out);
    return d.ended;
}

static void
on_bdat(struct smtpd_model *m, struct span arg)
{
    struct model_txn *t = &m->txn;
    struct span size = span_cut(&arg, ' ');

    arg = span_trim(arg);
    if (!span_u64(size, &m->chunk_left)) {
        m->errors++;
        hang_up(m, 501);
        return;
    }
    m->chunk_last = span_ieq(arg, SPAN("LAST"));
    m->chunk_refusal = arg.n > 0 && !m->chunk_last ? 501
                       : !t->open                  ? 503
                       : t->n_rcpts > 0            ? 0
                       : t->n_refused > 0          ? 554
                                                   : 503;
    m->mode = IN_CHUNK;
    if (m->chunk_refusal != 0)
        return;
    t->bdat = true;
    struct data_model d = body_look(m, strbuf_span(&t->raw), false, false);
    if (t->refusal == 0 && d.n_bytes + m->chunk_left > t->max_bytes) {
        t->refusal = 552;
        sink_abort(m);
    }
    strbuf_release(&d.out);
}

static void
chunk_dropped(struct smtpd_model *m)
{
    m->mode = IN_COMMANDS;
    if (m->chunk_refusal / 10 == 50)
        m->errors++;
    say(m, m->chunk_refusal);
    if (m->txn.n_rcpts > 0)
        txn_end(m);
}

static bool
chunk_step(struct smtpd_model *m)
{
    struct model_txn *t = &m->txn;
    struct span part = span_first(strbuf_span(&m->in), m->chunk_left);

    m->chunk_left -= part.n;
    if (m->chunk_refusal == 0)
        strbuf_add_span(&t->raw, part);
    strbuf_consume(&m->in, part.n);
    bool whole = m->chunk_left == 0;
    if (m->chunk_refusal != 0) {
        if (whole)
            chunk_dropped(m);
        return whole;
    }
    struct data_model d = body_look(m, strbuf_span(&t->raw), false, whole && m->chunk_last);
    if (whole && (m->chunk_last || t->refusal != 0)) {
        body_whole(m, strbuf_span(&d.out));
    } else if (whole) {
        m->mode = IN_COMMANDS;
        say(m, 250);
    }
    strbuf_release(&d.out);
    return whole;
}

/* ---- AUTH ---- */

/* Is it base64 by chance, as "RSET" is? */
static bool
is_base64(struct span text)
{
    for (size_t i = 0; i < text.n; i++)
        if (!ascii_alpha(text.p[i]) && !ascii_digit(text.p[i]))
            return false;
    return text.n % 4 == 0;
}

static void
on_response(struct smtpd_model *m, struct span text)
{
    const char *plain = is_base64(text) ? "?" : NULL;

    m->mode = IN_COMMANDS;
    for (unsigned i = 0; i < world_n_responses; i++)
        if (span_eq(text, span_str(world_responses[i].text)))
            plain = world_responses[i].plain;
    struct span rest = span_str(plain), as = span_cut(&rest, '/'), name = span_cut(&rest, '/');
    if (plain == NULL) {
        error(m, 501);
    } else if (!m->plain && !m->has_name) {
        m->has_name = true;
        m->mode = IN_AUTH;
        say(m, 334);
    } else if (!m->plain) {
        m->good = strcmp(plain, "p") == 0;
        m->ask = ASK_AUTH;
    } else if (name.n == 0 || rest.n == 0) { /* no response of the world has an empty password */
        error(m, 501);
    } else if (as.n > 0 && !span_eq(as, name)) {
        error(m, 535);
    } else {
        m->good = world_password(rest);
        m->ask = ASK_AUTH;
    }
}

static void
on_auth(struct smtpd_model *m, struct span arg)
{
    struct span mechanism = span_cut(&arg, ' ');

    m->plain = span_ieq(mechanism, SPAN("PLAIN"));
    if (!m->conf.auth) {
        error(m, 502);
    } else if (!m->tls) {
        error(m, 538);
    } else if (m->user) {
        error(m, 503);
    } else if (!m->plain && !span_ieq(mechanism, SPAN("LOGIN"))) {
        error(m, 504);
    } else {
        m->has_name = false;
        if (arg.n > 0) {
            on_response(m, span_eq(arg, SPAN("=")) ? SPAN("") : arg);
        } else {
            m->mode = IN_AUTH;
            say(m, 334);
        }
    }
}

static void
auth_answered(struct smtpd_model *m)
{
    if (m->good) {
        m->user = m->trusted = true;
        say(m, 235);
    } else {
        error(m, 535);
    }
}

/* ---- the other verbs ---- */

static void
on_hello(struct smtpd_model *m, struct span arg)
{
    for (size_t i = 0; i < arg.n; i++)
        if (memchr(" ()<>@,;\\\"", arg.p[i], 10) != NULL)
            arg = SPAN_NONE;
    if (arg.n == 0) {
        error(m, 501);
        return;
    }
    txn_end(m);
    m->hello = true;
    say(m, 250);
}

static void
on_starttls(struct smtpd_model *m, struct span arg)
{
    if (m->tls) {
        error(m, 503);
    } else if (!m->conf.starttls) {
        error(m, 502);
    } else if (arg.n > 0) {
        error(m, 501);
    } else {
        say(m, 220);
        m->ask = ASK_TLS;
    }
}

static void
on_rset(struct smtpd_model *m, struct span arg)
{
    if (arg.n > 0) {
        error(m, 501);
        return;
    }
    txn_end(m);
    say(m, 250);
}

static void
on_quit(struct smtpd_model *m, struct span arg)
{
    if (arg.n > 0)
        error(m, 501);
    else
        hang_up(m, 221);
}

static void
on_noop(struct smtpd_model *m, struct span arg)
{
    (void)arg;
    say(m, 250);
}

static void
on_vrfy(struct smtpd_model *m, struct span arg)
{
    if (arg.n == 0)
        error(m, 501);
    else
        say(m, 252);
}

static void
on_expn(struct smtpd_model *m, struct span arg)
{
    (void)arg;
    say(m, 502);
}

static void
on_help(struct smtpd_model *m, struct span arg)
{
    (void)arg;
    say(m, 214);
}

enum need { ANY_TIME, AFTER_HELLO, NO_TXN, IN_TXN };

static const struct model_verb {
    const char *name;
    enum need need;
    bool last; /* of a pipelined group (RFC 2920 section 3.1, RFC 3207, RFC 4954) */
    bool utf8; /* may hold an address */
    void (*run)(struct smtpd_model *m, struct span arg);
} verbs[] = {
    {"EHLO", ANY_TIME, true, false, on_hello}, {"HELO", ANY_TIME, true, false, on_hello},
    {"MAIL", NO_TXN, false, true, on_mail},    {"RCPT", IN_TXN, false, true, on_rcpt},
    {"DATA", IN_TXN, true, false, on_data},    {"BDAT", ANY_TIME, false, false, on_bdat},
    {"RSET", ANY_TIME, false, false, on_rset}, {"NOOP", ANY_TIME, true, true, on_noop},
    {"QUIT", ANY_TIME, false, false, on_quit}, {"STARTTLS", NO_TXN, true, false, on_starttls},
    {"AUTH", NO_TXN, true, false, on_auth},    {"VRFY", ANY_TIME, true, true, on_vrfy},
    {"EXPN", ANY_TIME, true, true, on_expn},   {"HELP", ANY_TIME, false, true, on_help},
};

static bool
in_order(const struct smtpd_model *m, const struct model_verb *verb)
{
    if (verb->need == IN_TXN)
        return m->txn.open && !m->txn.bdat;
    return verb->need == ANY_TIME || (m->hello && !m->txn.open);
}

static void
command(struct smtpd_model *m, struct span line, bool more)
{
    static const char *const http[] = {"GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT"};
    struct span arg = line, name = span_cut(&arg, ' ');
    const struct model_verb *verb = NULL;
    bool text = mailbox_utf8_valid(line), ascii = true, web = false;

    for (size_t i = 0; i < line.n; i++)
        text = text && (unsigned char)line.p[i] >= 32 && line.p[i] != 127;
    for (size_t i = 0; i < arg.n; i++)
        ascii = ascii && (unsigned char)arg.p[i] < 128;
    for (size_t i = 0; i < N_ELEMENTS(verbs) && verb == NULL; i++)
        verb = span_ieq(name, span_str(verbs[i].name)) ? &verbs[i] : NULL;
    for (size_t i = 0; i < N_ELEMENTS(http); i++)
        web = web || span_ieq(name, span_str(http[i]));
    bool octets = span_istarts(line, SPAN("BDAT")); /* nobody knows where they end */
    if (!text && octets)
        hang_up(m, 500);
    else if (!text || (verb == NULL && !web))
        error(m, 500);
    else if (verb == NULL)
        hang_up(m, 500);
    else if (verb->last && more)
        hang_up(m, strcmp(verb->name, "STARTTLS") == 0 ? 501 : 554);
    else if (!in_order(m, verb))
        error(m, 503);
    else if (!verb->utf8 && !ascii && octets)
        hang_up(m, 501);
    else if (!verb->utf8 && !ascii)
        error(m, 501);
    else
        verb->run(m, span_trim(arg));
}

/* ---- lines ---- */

/* Octet by octet, as they come: where the line ends, or where it goes wrong. */
static bool
line_step(struct smtpd_model *m)
{
    bool auth = m->mode == IN_AUTH;
    size_t max = auth ? SMTPD_AUTH_LINE_MAX : SMTPD_LINE_MAX;
    char before = '\0';

    for (size_t i = 0; i < m->in.n && i < max; before = m->in.p[i++]) {
        if ((m->in.p[i] == '\n') != (before == '\r')) {
            m->errors++;
            hang_up(m, 500); /* RFC 5321 section 2.3.8 */
            return true;
        }
        if (m->in.p[i] != '\n')
            continue;
        char line[SMTPD_AUTH_LINE_MAX];
        memcpy(line, m->in.p, i - 1);
        strbuf_consume(&m->in, i + 1);
        if (!auth)
            command(m, span_of(line, i - 1), m->in.n > 0);
        else if (m->in.n > 0)
            hang_up(m, 554);
        else
            on_response(m, span_of(line, i - 1));
        return true;
    }
    if (m->in.n < max)
        return false;
    if (!auth && span_istarts(strbuf_span(&m->in), SPAN("BDAT")))
        hang_up(m, 500);
    else
        m->mode = IN_LONG_LINE;
    return true;
}

static bool
long_line_step(struct smtpd_model *m)
{
    size_t lf = span_find_byte(strbuf_span(&m->in), '\n');

    if (lf == SIZE_MAX)
        return false;
    bool bare = lf == 0 || m->in.p[lf - 1] != '\r';
    strbuf_consume(&m->in, lf + 1);
    m->mode = IN_COMMANDS;
    error(m, 500);
    if (bare)
        hang_up(m, 0);
    return true;
}

static void
run(struct smtpd_model *m)
{
    bool more = true;

    while (more && !m->closed && m->ask == ASK_NOTHING) {
        if (m->mode == IN_COMMANDS && m->errors >= MODEL_ERRORS_MAX)
            hang_up(m, 421);
        else if (m->mode == IN_COMMANDS && m->stopping && !m->txn.bdat)
            hang_up(m, 421);
        else if (m->mode == IN_LONG_LINE)
            more = long_line_step(m);
        else if (m->mode == IN_DATA)
            more = data_step(m);
        else if (m->mode == IN_CHUNK)
            more = chunk_step(m);
        else
            more = line_step(m);
    }
}

/* ---- events ---- */

void
smtpd_model_init(struct smtpd_model *m, const struct smtpd_model_conf *conf)
{
    *m = (struct smtpd_model){.conf = *conf, .trusted = conf->trusted};
    say(m, 220);
}

void
smtpd_model_release(struct smtpd_model *m)
{
    strbuf_release(&m->in);
    strbuf_release(&m->replies);
    strbuf_release(&m->sink);
    strbuf_release(&m->txn.raw);
}

void
smtpd_model_input(struct smtpd_model *m, struct span bytes)
{
    strbuf_add_span(&m->in, bytes);
    run(m);
}

void
smtpd_model_answer(struct smtpd_model *m)
{
    enum model_ask ask = m->ask;

    m->ask = ASK_NOTHING;
    if (ask == ASK_TLS) {
        m->tls = true;
        m->hello = m->user = false;
    } else if (ask == ASK_AUTH) {
        auth_answered(m);
    } else if (ask == ASK_VERDICT) {
        verdict_given(m);
    } else if (ask == ASK_BEGIN) {
        begun(m);
    } else if (ask == ASK_RCPT) {
        rcpt_asked(m);
    } else if (ask == ASK_END) {
        body_answered(m);
    }
    run(m);
}

void
smtpd_model_timeout(struct smtpd_model *m)
{
    if (m->mode == IN_CHUNK && m->chunk_refusal != 0) {
        chunk_dropped(m);
        hang_up(m, 0);
    } else if ((m->mode == IN_DATA || m->mode == IN_CHUNK) && m->txn.refusal != 0) {
        hang_up(m, m->txn.refusal);
    } else {
        hang_up(m, 421);
    }
}

void
smtpd_model_stop(struct smtpd_model *m)
{
    m->stopping = true;
    run(m);
}

void
smtpd_model_give_up(struct smtpd_model *m)
{
    m->txn.sink = false;
    m->txn.refusal = code_of(SPAN(WORLD_GIVE_UP));
}
