/*
 * A hostile server against the protocol core. The input is a program: a byte says what happens next
 * (bytes of the server, lost, TLS up or failed, content sent, a new transaction, quit), bytes of
 * the server follow. Checked: no crash, each recipient gets exactly one outcome, content only after
 * a 354, credentials only inside TLS, MAIL never in clear where TLS is required.
 */
#include "relayd/deliver/smtpc.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(what)  \
    do {             \
        if (!(what)) \
            abort(); \
    } while (0)

#define N_RCPTS 3

struct run {
    struct span in;
    struct smtpc_config config;
    struct smtpc_host host;
    struct smtpc *core;
    enum smtpc_want want;
    struct deliver_txn txn;
    unsigned outcomes[N_RCPTS];
    unsigned n_sessions;
};

static void
on_outcome(void *arg, struct deliver_txn *txn, size_t rcpt, const struct outcome *o)
{
    struct run *r = arg;
    CHECK(txn == &r->txn && rcpt < N_RCPTS);
    CHECK(++r->outcomes[rcpt] == 1);
    CHECK(o->phase != NULL && o->phase[0] != '\0');
    CHECK(o->kind != OUTCOME_DELIVERED || (o->code >= 200 && o->code <= 299));
    CHECK(!o->maybe_twice || o->kind == OUTCOME_DEFERRED);
    CHECK(!r->config.hop || !o->path || o->kind == OUTCOME_DEFERRED);
    for (const char *p = o->text; *p != '\0'; p++)
        CHECK((unsigned char)*p >= 0x20);
}

static void
on_txn_done(void *arg, struct deliver_txn *txn)
{
    struct run *r = arg;
    CHECK(txn == &r->txn);
    for (size_t i = 0; i < N_RCPTS; i++) {
        CHECK(r->outcomes[i] == 1);
        r->outcomes[i] = 0;
    }
}

static unsigned
byte(struct run *r)
{
    if (r->in.n == 0)
        return 0;
    unsigned b = (unsigned char)r->in.p[0];
    r->in = span_from(r->in, 1);
    return b;
}

static void
take_output(struct run *r)
{
    struct span out = smtpc_output(r->core);
    if (!smtpc_in_tls(r->core)) {
        CHECK(span_find(out, SPAN("AUTH ")) == SIZE_MAX);
        CHECK(r->config.tls < TLS_REQUIRE || span_find(out, SPAN("MAIL FROM")) == SIZE_MAX);
    }
    smtpc_output_taken(r->core);
}

static bool
hop_trouble(void *arg, const struct smtp_reply *reply, const char *phase)
{
    (void)arg;
    (void)phase;
    return span_ifind(reply->text, SPAN("relay")) != SIZE_MAX;
}

/* The session is over: go on as the driver would. False: enough. */
static bool
closed(struct run *r)
{
    enum smtpc_end end = smtpc_end(r->core);
    struct outcome o;
    if (end == SMTPC_END_OVER)
        CHECK(smtpc_txn(r->core) == NULL);
    if (end == SMTPC_END_CLEAR) {
        CHECK(r->config.tls == TLS_OPPORTUNISTIC);
        r->host.in_clear = true;
    }
    if (end == SMTPC_END_STOP || ++r->n_sessions > 4) {
        outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_NET, "connect", NULL, "walk over");
        if (smtpc_txn(r->core) != NULL)
            smtpc_txn_decide(r->core, &o);
        return false;
    }
    r->want = smtpc_open(r->core, &r->host);
    return true;
}

static void
server_bytes(struct run *r)
{
    struct span text = span_first(r->in, 1 + byte(r));
    text = span_first(r->in, text.n);
    r->in = span_from(r->in, text.n);
    r->want = smtpc_input(r->core, text);
}

static void
step(struct run *r, unsigned what)
{
    if (what < 200) {
        server_bytes(r);
    } else if (what < 205) {
        r->want = smtpc_lost(r->core, (enum smtpc_loss)(what % 3), "lost");
    } else if (r->want == SMTPC_WANT_TLS) {
        r->want = smtpc_tls_up(r->core);
    } else if (r->want == SMTPC_WANT_BODY) {
        r->want = what < 250 ? smtpc_body_sent(r->core) : smtpc_body_failed(r->core, "unreadable");
    } else if (r->want == SMTPC_WANT_TXN) {
        if (what < 245)
            r->want = smtpc_txn_start(r->core, &r->txn);
        else if (what < 250)
            smtpc_idle(r->core);
        else
            r->want = smtpc_quit(r->core);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct deliver_rcpt rcpts[N_RCPTS] = {
        {.address = {"x@d.test", 8}, .notify = DELIVER_NOTIFY_SUCCESS},
        {.address = {"y@d.test", 8}, .orcpt = {"rfc822;y@d.test", 15}},
        {.address = {"z@d.test", 8}},
    };
    struct run r = {.in = span_of(data, size)};
    unsigned flags = byte(&r);
    r.config = (struct smtpc_config){
        .ehlo_name = "relay.test",
        .hop = (flags & 1) != 0,
        .tls = (enum tls_level)(flags >> 1 & 3),
        .tls_gone_is_path = (flags & 8) != 0,
        .auth_username = (flags & 16) != 0 ? "user" : NULL,
        .auth_password = (flags & 16) != 0 ? "password" : NULL,
        .timeouts = deliver_timeouts_default,
        .hop_trouble = hop_trouble,
    };
    r.host = (struct smtpc_host){
        .implicit_tls = (flags & 32) != 0 && r.config.tls != TLS_OFF,
        .tls_was_there = (flags & 64) != 0,
    };
    r.txn = (struct deliver_txn){.sender = SPAN("a@src.test"),
                                 .size_bytes = 1000,
                                 .needs_smtputf8 = (flags & 128) != 0,
                                 .rcpts = rcpts,
                                 .n_rcpts = N_RCPTS};
    struct smtpc_ops ops = {.on_outcome = on_outcome, .on_txn_done = on_txn_done};
    r.core = smtpc_new(&r.config, &ops, &r);
    r.want = smtpc_open(r.core, &r.host);
    for (;;) {
        if (r.want == SMTPC_WANT_CLOSE && !closed(&r))
            break;
        take_output(&r);
        if (r.in.n == 0)
            break;
        step(&r, byte(&r));
    }
    smtpc_free(r.core);
    return 0;
}
