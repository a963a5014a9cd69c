/*
 * The protocol core under arbitrary bytes, answers and times.
 *
 * First octet: the listener (bits: trusted, starttls, auth, require_auth, reject_newlines, srs).
 * Then pieces: an octet N, then N octets of the client; N = 0 is followed by an octet that says
 * what else happens (time passes, stress, stop, answers held back or refused, the sink gives up).
 *
 * Checked all along: the order of the sink's calls, the form of every reply, clean message bytes,
 * strangers get nobody, and nothing of a message survives its end.
 */
#include "policy/base/mem.h"
#include "relayd/accept/data.h"
#include "relayd/accept/smtpd.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

enum { HOLD = 1, REFUSE = 2, GIVE_UP = 4 };

struct world {
    struct smtpd *s;
    msec_t now;
    struct strbuf in;
    unsigned mood; /* HOLD, REFUSE, GIVE_UP */
    bool trusted, sink, ending, closed, srs;
    uint32_t n_rcpts;
    char last; /* octet of the message */
};

/* Each line: three digits, blank or "-", printable text. */
static void
check_replies(struct world *w)
{
    struct strbuf *out = smtpd_out(w->s);
    struct span text = strbuf_span(out);

    while (text.n > 0) {
        size_t end = span_find(text, SPAN("\r\n"));
        CHECK(end != SIZE_MAX && end >= 3 && end <= 510);
        CHECK(strchr("2345", text.p[0]) != NULL && ascii_digit(text.p[1]) &&
              ascii_digit(text.p[2]));
        CHECK(end == 3 || text.p[3] == ' ' || text.p[3] == '-');
        for (size_t i = 0; i < end; i++)
            CHECK((unsigned char)text.p[i] >= 32 && text.p[i] != 127);
        text = span_from(text, end + 2);
    }
    strbuf_release(out);
}

static void
take_chunk(struct world *w)
{
    struct span bytes = smtpd_chunk(w->s);

    CHECK(w->sink && w->n_rcpts > 0 && bytes.n > 0);
    for (size_t i = 0; i < bytes.n; i++) {
        CHECK(bytes.p[i] != '\0');
        CHECK((bytes.p[i] == '\n') == (w->last == '\r'));
        w->last = bytes.p[i];
    }
    if (w->mood & GIVE_UP) {
        smtpd_refuse(w->s, w->now, SPAN("452 4.3.1 no room\nfor you"));
        w->sink = false;
    }
}

static void
answer(struct world *w, enum smtpd_want want)
{
    struct span refusal = w->mood & REFUSE ? SPAN("451 4.3.0 not now") : SPAN_NONE;

    switch (want) {
    case SMTPD_WANT_AUTH: {
        bool ok = smtpd_auth(w->s)->password.n == 1;
        w->trusted = w->trusted || ok;
        smtpd_set_trusted(w->s, w->trusted);
        smtpd_auth_done(w->s, ok ? SMTPD_AUTH_OK : SMTPD_AUTH_BAD);
        return;
    }
    case SMTPD_WANT_VERDICT:
        CHECK(w->trusted || (w->srs && smtpd_rcpt_is_strangers(w->s) &&
                             span_eq(smtpd_rcpt(w->s)->domain, SPAN("fwd.test"))));
        smtpd_verdict(w->s, refusal, w->mood & GIVE_UP ? SPAN("x@y.test") : SPAN_NONE);
        return;
    case SMTPD_WANT_BEGIN:
        CHECK(!w->sink);
        w->sink = refusal.n == 0;
        w->n_rcpts = 0;
        w->last = '\n';
        smtpd_answer(w->s, refusal);
        return;
    case SMTPD_WANT_RCPT:
        CHECK(w->sink && smtpd_rcpt(w->s)->address.n > 0);
        w->n_rcpts += refusal.n == 0;
        smtpd_answer(w->s, refusal);
        return;
    case SMTPD_WANT_END:
        CHECK(w->sink && w->n_rcpts == smtpd_n_rcpts(w->s));
        CHECK(smtpd_body(w->s)->size_bytes == 0 || w->last == '\n');
        w->sink = false;
        smtpd_answer(w->s, refusal.n > 0 ? refusal : SPAN("250 2.0.0 queued as x"));
        return;
    default:
        abort();
    }
}

static void
drive(struct world *w)
{
    for (unsigned steps = 0; !w->closed; steps++) {
        struct span in = strbuf_span(&w->in);
        CHECK(steps < 100000);
        enum smtpd_want want = smtpd_step(w->s, w->now, &in);
        if (want == SMTPD_WANT_CHUNK)
            take_chunk(w);
        strbuf_consume(&w->in, w->in.n - in.n);
        if (want == SMTPD_WANT_INPUT)
            CHECK(w->in.n <= SMTPD_INPUT_MIN && smtpd_deadline(w->s) >= w->now);
        check_replies(w);
        if (want == SMTPD_WANT_ABORT) {
            CHECK(w->sink);
            w->sink = false;
        } else if (want == SMTPD_WANT_TLS) {
            CHECK(w->in.n == 0);
            smtpd_tls_done(w->s, SPAN("TLSv1.3"), SPAN("X"));
        } else if (want == SMTPD_WANT_CLOSE) {
            CHECK(!w->sink && !smtpd_has_sink(w->s));
            w->closed = true;
        } else if (want == SMTPD_WANT_INPUT) {
            return;
        } else if (want != SMTPD_WANT_CHUNK && want != SMTPD_WANT_FLUSH) {
            if (w->mood & HOLD)
                return;
            answer(w, want);
        }
    }
}

static void
happen(struct world *w, uint8_t what)
{
    w->mood = what & 7;
    if (what & 8) {
        w->now += (what & 0xf0) * SECOND;
        if (smtpd_deadline(w->s) <= w->now)
            smtpd_timeout(w->s, w->now);
    } else if (what & 16) {
        smtpd_set_stressed(w->s, w->now, (what & 32) != 0);
    } else if (what == 128) {
        smtpd_stop(w->s);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static char scratch[DATA_SCRATCH_BYTES];
    struct ip own = {.family = 4, .bytes = {192, 0, 2, 1}};
    struct accept_client client = {.session = 1, .ip = own, .listener = SPAN("x")};

    if (n == 0)
        return 0;
    struct world w = {.now = 1000, .trusted = bytes[0] & 1, .srs = (bytes[0] & 32) != 0};
    struct smtpd_conf conf = {.hostname = "relay.test",
                              .postmaster = "postmaster@relay.test",
                              .srs_domain = w.srs ? "fwd.test" : "",
                              .own = &own,
                              .n_own = 1,
                              .message_bytes = 3000,
                              .stranger_bytes = 500,
                              .header_bytes = 1000,
                              .max_rcpts = 4,
                              .starttls = (bytes[0] & 2) != 0,
                              .auth = (bytes[0] & 4) != 0,
                              .require_auth = (bytes[0] & 8) != 0,
                              .reject_newlines = (bytes[0] & 16) != 0,
                              .idle_ms = 5 * MINUTE,
                              .idle_stressed_ms = 10 * SECOND};
    w.s = smtpd_new(&conf, &client, scratch, NULL);
    smtpd_set_trusted(w.s, w.trusted);
    smtpd_start(w.s, w.now, false);
    for (size_t i = 1; i < n && !w.closed;) {
        size_t piece = bytes[i++];
        if (piece == 0 && i < n) {
            happen(&w, bytes[i++]);
        } else {
            piece = piece < n - i ? piece : n - i;
            strbuf_add(&w.in, bytes + i, piece);
            i += piece;
        }
        drive(&w);
    }
    w.mood = 0;
    drive(&w);
    smtpd_free(w.s);
    strbuf_release(&w.in);
    return 0;
}
