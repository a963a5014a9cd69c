/*
 * verb_data - DATA and BDAT, and what flows behind them. Called by smtpd.c.
 *
 * A message that is refused in its middle (by a rule of ours, by the sink, or because it is too
 * large) is lost to the sink at once, but is read to its real end before the client is told, for at
 * most SMTPD_DRAIN_MS: only then will it read the reply. `txn->refusal` is that reply, and says
 * that we drain. The octets of a BDAT that has no transaction are dropped the same way.
 */
#include "relayd/accept/internal.h"

#include "policy/base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void
filter_init(struct smtpd *s, bool dots)
{
    struct data_limits limits = {
        .message_bytes = s->txn->max_bytes,
        .header_bytes = s->conf->header_bytes,
        .reject_newlines = s->conf->reject_newlines,
        .dots = dots,
    };
    data_init(&s->txn->data, &limits);
}

void
verb_data(struct smtpd *s, struct span arg)
{
    struct smtpd_txn *t = s->txn;

    if (arg.n > 0) {
        smtpd_error(s, "501 5.5.4 DATA takes no parameter");
    } else if (t->refusal != NULL) {
        body_ended(s, span_str(t->refusal));
    } else if (s->state == SMTPD_MAIL && t->n_refused > 0) {
        smtpd_refusal(s, "554 5.5.1 no valid recipients"); /* a pipelining client cannot know */
    } else if (s->state == SMTPD_MAIL) {
        smtpd_error(s, "503 5.5.1 DATA needs RCPT before it");
    } else {
        filter_init(s, true);
        smtpd_reply(s, "354 end with CR LF . CR LF");
        s->mode = MODE_DATA;
    }
}

/* May this chunk be taken? NULL, or the reply once its octets are dropped. */
static const char *
chunk_refusal(struct smtpd *s, struct span rest)
{
    struct smtpd_txn *t = s->txn;

    s->chunk_last = span_ieq(rest, SPAN("LAST"));
    if (rest.n > 0 && !s->chunk_last)
        return "501 5.5.4 BDAT takes a size and LAST";
    if (t == NULL)
        return "503 5.5.1 BDAT needs MAIL and RCPT";
    if (s->state == SMTPD_MAIL)
        return t->n_refused > 0 ? "554 5.5.1 no valid recipients"
                                : "503 5.5.1 BDAT needs RCPT before it";
    return NULL;
}

void
verb_bdat(struct smtpd *s, struct span arg)
{
    struct smtpd_txn *t = s->txn;
    struct span size = span_cut(&arg, ' ');

    if (!span_u64(size, &s->chunk_left)) {
        /* Without its size a chunk has no end: what follows could be data or commands. */
        s->counts.errors++;
        smtpd_tell(s, SMTPD_EVENT_REFUSED, SPAN("501 5.5.4 bad BDAT size"), false);
        smtpd_close(s, "bad BDAT", "501 5.5.4 bad BDAT size");
        return;
    }
    s->chunk_refusal = chunk_refusal(s, span_trim(arg));
    s->mode = MODE_CHUNK;
    if (s->chunk_refusal != NULL)
        return;
    if (s->state == SMTPD_RCPT) {
        filter_init(s, false);
        smtpd_set_state(s, SMTPD_BDAT);
    }
    if (t->refusal == NULL &&
        (s->chunk_left > t->max_bytes || t->data.n_bytes > t->max_bytes - s->chunk_left)) {
        body_refuse(s, SPAN("552 5.3.4 message too large"), true);
    }
}

void
body_refuse(struct smtpd *s, struct span reply, bool tell_sink)
{
    struct smtpd_txn *t = s->txn;

    assert(t->refusal == NULL && reply.n > 0);
    t->refusal = xstrndup(reply.p, reply.n);
    if (t->has_sink && tell_sink)
        s->abort_due = true;
    t->has_sink = false;
    smtpd_rearm(s);
}

static const char *
fault_text(enum data_fault fault)
{
    switch (fault) {
    case DATA_FAULT_NUL:
        return "550 5.6.0 the message holds a NUL octet";
    case DATA_FAULT_NEWLINE:
        return "550 5.5.2 the message holds a CR or LF alone";
    case DATA_FAULT_SIZE:
        return "552 5.3.4 message too large";
    case DATA_FAULT_HEADER:
        return "554 5.6.0 header block too large";
    case DATA_FAULT_NONE:
        break;
    }
    return NULL;
}

static void
check_fault(struct smtpd *s)
{
    const char *text = fault_text((enum data_fault)s->txn->data.fault);

    if (text != NULL && s->txn->refusal == NULL)
        body_refuse(s, span_str(text), true);
}

/* The last octet of the message has come. */
static void
whole(struct smtpd *s)
{
    struct smtpd_txn *t = s->txn;

    s->mode = MODE_COMMAND;
    s->verb = "dot";
    smtpd_rearm(s);
    t->body = (struct accept_body){.size_bytes = t->data.n_out,
                                   .newlines_fixed = t->data.newlines_fixed,
                                   .lines_broken = t->data.lines_broken};
    if (t->refusal != NULL) {
        body_ended(s, span_str(t->refusal));
    } else {
        assert(t->has_sink);
        s->want = SMTPD_WANT_END;
    }
}

void
body_ended(struct smtpd *s, struct span reply)
{
    struct smtpd_txn *t = s->txn;
    bool ours = t->refusal != NULL;

    smtpd_reply_foreign(s, reply, ours ? "45" : "245");
    struct span said = smtpd_last_reply(s);
    bool accepted = said.p[0] == '2' && !ours;
    if (accepted) {
        s->counts.messages++;
        s->counts.bytes += t->body.size_bytes;
    } else {
        s->counts.messages_refused++;
    }
    t->rcpt = (struct accept_rcpt){.notify = 0};
    smtpd_tell(s, accepted ? SMTPD_EVENT_ACCEPTED : SMTPD_EVENT_REFUSED, said, false);
    t->has_sink = false;
    smtpd_txn_end(s);
}

static void
chunk_want(struct smtpd *s, struct span bytes)
{
    s->chunk = bytes;
    s->txn->chunk_at = s->now;
    s->want = SMTPD_WANT_CHUNK;
}

static bool
data_step(struct smtpd *s, struct span *in)
{
    struct span out;

    switch (data_next(&s->txn->data, in, s->scratch, &out)) {
    case DATA_OUT:
        if (s->txn->refusal == NULL)
            chunk_want(s, out);
        check_fault(s);
        return true;
    case DATA_NEED:
        check_fault(s);
        return s->abort_due;
    case DATA_END:
        check_fault(s);
        whole(s);
        return true;
    }
    return false;
}

/* The octets of a BDAT that could not be taken have been dropped. */
static void
chunk_dropped(struct smtpd *s)
{
    const char *text = s->chunk_refusal;

    s->chunk_refusal = NULL;
    s->mode = MODE_COMMAND;
    s->verb = "BDAT";
    smtpd_rearm(s);
    if (text[0] == '5' && text[1] == '0')
        smtpd_error(s, text);
    else
        smtpd_refusal(s, text);
    if (s->state & (SMTPD_RCPT | SMTPD_BDAT))
        smtpd_txn_end(s); /* the message would have a hole (RFC 3030 section 4.2) */
}

/* All octets of this BDAT are here. */
static void
chunk_end(struct smtpd *s)
{
    struct smtpd_txn *t = s->txn;

    if (s->chunk_refusal != NULL) {
        chunk_dropped(s);
    } else if (t->refusal != NULL || data_ended(&t->data)) {
        whole(s);
    } else if (s->chunk_last) {
        struct span rest = data_finish(&t->data, s->scratch);
        check_fault(s);
        if (rest.n > 0)
            chunk_want(s, rest);
    } else {
        s->mode = MODE_COMMAND;
        smtpd_rearm(s);
        smtpd_reply(s, "250 2.0.0 chunk taken");
    }
}

static bool
chunk_step(struct smtpd *s, struct span *in)
{
    struct smtpd_txn *t = s->txn;
    struct span part = *in, out;
    size_t n;

    if (s->chunk_left == 0) {
        chunk_end(s);
        return true;
    }
    if (in->n == 0)
        return false;
    if (part.n > s->chunk_left)
        part.n = (size_t)s->chunk_left;
    n = part.n;
    if (s->chunk_refusal == NULL && t->refusal == NULL) {
        if (data_next(&t->data, &part, s->scratch, &out) == DATA_OUT)
            chunk_want(s, out);
        n -= part.n;
        check_fault(s);
    }
    *in = span_from(*in, n);
    s->chunk_left -= n;
    return true;
}

bool
body_step(struct smtpd *s, struct span *in)
{
    return s->mode == MODE_DATA ? data_step(s, in) : chunk_step(s, in);
}

bool
body_draining(const struct smtpd *s)
{
    return s->chunk_refusal != NULL || (s->txn != NULL && s->txn->refusal != NULL);
}

void
body_timeout(struct smtpd *s)
{
    msec_t window_ms = s->stressed ? s->conf->idle_stressed_ms : s->conf->idle_ms;

    if (window_ms > s->now - s->armed_at)
        window_ms = s->now - s->armed_at;
    if (body_draining(s)) {
        if (s->chunk_refusal != NULL)
            chunk_dropped(s);
        else
            whole(s);
        smtpd_close(s, "drain", NULL);
        return;
    }
    if ((msec_t)(s->txn->data.n_bytes - s->txn->window_bytes) * SECOND >=
        SMTPD_RATE_MIN * window_ms)
        return; /* it comes in, if slowly: another window */
    s->verb = "dot";
    smtpd_replyf(s, "421 4.4.2 %s the message came in too slowly", s->conf->hostname);
    smtpd_tell(s, SMTPD_EVENT_REFUSED, smtpd_last_reply(s), false);
    smtpd_close(s, "slow", NULL);
}
