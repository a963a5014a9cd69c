/*
 * AUTH in a session inside TLS: the input's lines are the client's responses. What reaches the
 * password check is what OpenSSL decodes from them; anything else is refused.
 */
#include "relayd/accept/data.h"
#include "relayd/accept/smtpd.h"
#include "tests/fuzz/check.h"

#include <openssl/evp.h>

/* By somebody else's hand; false when it is no base64 of whole groups. */
static bool
decode(struct span text, struct strbuf *ret)
{
    strbuf_reserve(ret, text.n + 4);
    int n = EVP_DecodeBlock((unsigned char *)ret->p, (const unsigned char *)text.p, (int)text.n);
    if (n < 0)
        return false;
    ret->n = (size_t)n;
    for (size_t i = 0; i < 2 && i < text.n && text.p[text.n - 1 - i] == '='; i++)
        ret->n--;
    return true;
}

static void
check_auth(const struct smtpd_auth *auth, struct span first, struct span second)
{
    CLEANUP(strbuf_release) struct strbuf a = STRBUF_INIT;
    CLEANUP(strbuf_release) struct strbuf b = STRBUF_INIT;

    CHECK(decode(first, &a));
    if (strcmp(auth->mechanism, "LOGIN") == 0) {
        CHECK(decode(second, &b));
        CHECK(span_eq(auth->name, strbuf_span(&a)) && span_eq(auth->password, strbuf_span(&b)));
        return;
    }
    struct span rest = strbuf_span(&a), as = span_cut(&rest, '\0'), name = span_cut(&rest, '\0');
    CHECK(name.n > 0 && span_eq(auth->name, name) && span_eq(auth->password, rest));
    CHECK(as.n == 0 || span_eq(as, name));
}

/* Say `line`; what the core wants then. Its replies are thrown away. */
static enum smtpd_want
say(struct smtpd *s, struct span line)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;

    strbuf_add_span(&text, line);
    strbuf_add_str(&text, "\r\n");
    struct span in = strbuf_span(&text);
    enum smtpd_want want = smtpd_step(s, 1000, &in);
    strbuf_release(smtpd_out(s));
    return want;
}

static void
session(struct smtpd *s, bool plain, struct span first, struct span second)
{
    CHECK(say(s, plain ? SPAN("AUTH PLAIN") : SPAN("AUTH LOGIN")) == SMTPD_WANT_INPUT);
    enum smtpd_want want = say(s, first);
    if (!plain && want == SMTPD_WANT_INPUT)
        want = say(s, second);
    if (want == SMTPD_WANT_AUTH) {
        check_auth(smtpd_auth(s), first, second);
        smtpd_auth_done(s, SMTPD_AUTH_OK);
        CHECK(say(s, SPAN("MAIL FROM:<a@b.test>")) == SMTPD_WANT_INPUT);
    } else {
        CHECK(want == SMTPD_WANT_INPUT || want == SMTPD_WANT_CLOSE);
        CHECK(smtpd_client(s)->user.n == 0);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static char scratch[DATA_SCRATCH_BYTES];
    struct accept_client client = {.session = 1, .listener = SPAN("x")};
    struct smtpd_conf conf = {.hostname = "relay.test",
                              .postmaster = "postmaster@relay.test",
                              .srs_domain = "",
                              .auth = true,
                              .message_bytes = 1000,
                              .header_bytes = 1000,
                              .max_rcpts = 1,
                              .idle_ms = MINUTE,
                              .idle_stressed_ms = SECOND};
    if (n == 0 || memchr(bytes, '\r', n) != NULL)
        return 0;
    CLEANUP(freep) char *copy = fuzz_copy(bytes + 1, n - 1);
    struct span second = span_of(copy, n - 1), first = span_cut(&second, '\n');
    second = span_cut(&second, '\n');
    struct smtpd *s = smtpd_new(&conf, &client, scratch, NULL);
    smtpd_tls_done(s, SPAN("TLSv1.3"), SPAN("X"));
    smtpd_start(s, 1000, false);
    say(s, SPAN("EHLO x.test"));
    session(s, (bytes[0] & 1) != 0, first, second);
    smtpd_free(s);
    return 0;
}
