/*
 * command - cuts the input into lines, and looks commands up in one table. What they do is in
 * verb_*.c and auth.c; content goes past this file, to body_step().
 */
#include "relayd/accept/internal.h"

#include "policy/base/mem.h"

#define ANY (SMTPD_HELLO | SMTPD_READY | SMTPD_MAIL | SMTPD_RCPT | SMTPD_BDAT)

#define ENDS_GROUP 1u  /* RFC 2920 section 3.1: nothing may be pipelined behind it */
#define TAKES_UTF8 2u  /* an address may stand in it (RFC 6531 section 3.7.4) */
#define SAYS_ITSELF 4u /* looks at what is pipelined behind it by itself */

static const struct verb {
    const char *name; /* verb= in logs; never rename */
    unsigned states;  /* in which it may be said */
    unsigned flags;
    void (*run)(struct smtpd *s, struct span arg);
    const char *otherwise; /* in another state, behind EHLO */
} verbs[] = {
    {"EHLO", ANY, ENDS_GROUP, verb_ehlo, NULL},
    {"HELO", ANY, ENDS_GROUP, verb_helo, NULL},
    {"MAIL", SMTPD_READY, TAKES_UTF8, verb_mail, "503 5.5.1 a transaction is open already"},
    {"RCPT", SMTPD_MAIL | SMTPD_RCPT, TAKES_UTF8, verb_rcpt, "503 5.5.1 RCPT needs MAIL before it"},
    {"DATA", SMTPD_MAIL | SMTPD_RCPT, ENDS_GROUP, verb_data, "503 5.5.1 DATA needs MAIL and RCPT"},
    {"BDAT", ANY, 0, verb_bdat, NULL}, /* in any state its octets have to be read */
    {"RSET", ANY, 0, verb_rset, NULL},
    {"NOOP", ANY, ENDS_GROUP | TAKES_UTF8, verb_noop, NULL},
    {"QUIT", ANY, 0, verb_quit, NULL},
    {"STARTTLS", SMTPD_READY, SAYS_ITSELF, verb_starttls, "503 5.5.1 not inside a transaction"},
    {"AUTH", SMTPD_READY, ENDS_GROUP, verb_auth, "503 5.5.1 not inside a transaction"},
    {"VRFY", ANY, ENDS_GROUP | TAKES_UTF8, verb_vrfy, NULL},
    {"EXPN", ANY, ENDS_GROUP | TAKES_UTF8, verb_expn, NULL},
    {"HELP", ANY, TAKES_UTF8, verb_help, NULL},
};

/* A browser that was made to post mail commands at us: the headers would only be errors, but the
 * body might be a whole dialog. */
static const char *const http_verbs[] = {"GET",     "POST",  "PUT",     "HEAD",  "DELETE",
                                         "CONNECT", "PATCH", "OPTIONS", "TRACE", "PRI"};

enum line { LINE_WHOLE, LINE_MORE, LINE_LONG, LINE_BARE };

/* Cut a line off *in. A CR or LF alone is looked for as far as it can be told. */
static enum line
take_line(struct span *in, size_t max, struct span *ret)
{
    size_t n = in->n < max ? in->n : max;
    const char *nl = n == 0 ? NULL : memchr(in->p, '\n', n);
    size_t text = nl == NULL ? n : (size_t)(nl - in->p);

    if (nl != NULL && (text == 0 || in->p[text - 1] != '\r'))
        return LINE_BARE;
    if (text > 1 && memchr(in->p, '\r', text - 1) != NULL)
        return LINE_BARE;
    if (nl == NULL)
        return in->n >= max ? LINE_LONG : LINE_MORE;
    *ret = span_of(in->p, text - 1);
    *in = span_from(*in, text + 1);
    return LINE_WHOLE;
}

static const struct verb *
verb_find(struct span name)
{
    for (size_t i = 0; i < N_ELEMENTS(verbs); i++)
        if (span_ieq(name, span_str(verbs[i].name)))
            return &verbs[i];
    return NULL;
}

static bool
is_http(struct span name)
{
    for (size_t i = 0; i < N_ELEMENTS(http_verbs); i++)
        if (span_ieq(name, span_str(http_verbs[i])))
            return true;
    return false;
}

static void
unknown_verb(struct smtpd *s, struct span name)
{
    s->verb = "unknown";
    if (is_http(name))
        smtpd_close(s, "http", "500 5.5.2 this is not HTTP");
    else
        smtpd_error(s, "500 5.5.1 command not known");
}

/* Octets follow a BDAT. When its line cannot be read nobody knows where they end, and what a
 * message holds would be obeyed as commands: then there is no going on. */
static bool
brings_octets(struct span line)
{
    return span_istarts(line, SPAN("BDAT"));
}

static void
unreadable(struct smtpd *s, struct span line, const char *text)
{
    smtpd_error(s, text);
    if (brings_octets(line))
        smtpd_close(s, "bad BDAT", NULL);
}

/* `more`: bytes are waiting behind the line. */
static void
command(struct smtpd *s, struct span line, bool more)
{
    struct span arg = line, name = span_cut(&arg, ' ');
    const struct verb *verb = verb_find(name);

    s->counts.commands++;
    s->verb = verb == NULL ? "unknown" : verb->name;
    if (span_has_control(line) || !mailbox_utf8_valid(line)) {
        unreadable(s, line, "500 5.5.2 control or broken characters in a command");
    } else if (verb == NULL) {
        unknown_verb(s, name);
    } else if ((verb->flags & ENDS_GROUP) != 0 && more) {
        s->counts.errors++;
        smtpd_close(s, "early talk", "554 5.5.0 wait for the reply to this command");
    } else if ((verb->flags & SAYS_ITSELF) != 0 && more) {
        s->counts.errors++;
        smtpd_close(s, "early talk", "501 5.5.4 nothing may follow this command");
    } else if ((verb->states & s->state) == 0) {
        smtpd_error(s, s->state == SMTPD_HELLO ? "503 5.5.1 EHLO or HELO comes first"
                                               : verb->otherwise);
    } else if ((verb->flags & TAKES_UTF8) == 0 && !span_is_ascii(arg)) {
        unreadable(s, line, "501 5.5.4 ASCII only");
    } else {
        verb->run(s, span_trim(arg));
    }
}

bool
line_step(struct smtpd *s, struct span *in)
{
    struct span line;
    bool auth = s->mode == MODE_AUTH;

    switch (take_line(in, auth ? SMTPD_AUTH_LINE_MAX : SMTPD_LINE_MAX, &line)) {
    case LINE_MORE:
        return false;
    case LINE_LONG:
        if (!auth && brings_octets(*in))
            smtpd_close(s, "bad BDAT", "500 5.5.2 line too long");
        else
            s->mode = MODE_LONG_LINE;
        return true;
    case LINE_BARE:
        s->verb = "unknown";
        s->counts.errors++;
        smtpd_close(s, "bare newline", "500 5.5.2 a line ends in CR LF, neither stands alone");
        return true;
    case LINE_WHOLE:
        break;
    }
    smtpd_rearm(s);
    if (!auth)
        command(s, line, in->n > 0);
    else if (in->n > 0)
        smtpd_close(s, "early talk", "554 5.5.0 wait for the reply to this line");
    else
        auth_line(s, line);
    return true;
}

bool
long_line_step(struct smtpd *s, struct span *in)
{
    const char *nl = in->n == 0 ? NULL : memchr(in->p, '\n', in->n);

    if (nl == NULL) {
        /* A last CR stays, to be seen with its LF. */
        size_t keep = in->n > 0 && in->p[in->n - 1] == '\r';
        *in = span_from(*in, in->n - keep);
        return false;
    }
    bool whole = nl > in->p && nl[-1] == '\r';
    *in = span_from(*in, (size_t)(nl - in->p) + 1);
    s->mode = MODE_COMMAND;
    s->verb = "unknown";
    auth_release(s);
    smtpd_rearm(s);
    smtpd_error(s, "500 5.5.2 line too long");
    if (!whole)
        smtpd_close(s, "bare newline", NULL);
    return true;
}
