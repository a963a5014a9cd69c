/*
 * test_dkim.c - signatures, judged by two verifiers that share nothing with the signer: libopendkim
 * (in this process, key records by callback) and dkimpy (verify_dkim.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <malloc.h>
#include <opendkim/dkim.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "policy/base/mem.h"
#include "policy/dkim.h"

#define NOW ((msec_t)1700000000000)

/* -- a signer with an RSA and an Ed25519 key for example.org ------------------------------------
 */

static struct dkim_key *
key_make(enum dkim_key_type type, struct strbuf *record)
{
    struct strbuf pem = STRBUF_INIT;
    struct dkim_key *key;
    struct err err;
    assert_int_equal(dkim_keygen(type, 0, &pem, &err), ERR_OK);
    assert_int_equal(dkim_key_parse(strbuf_span(&pem), &key, &err), ERR_OK);
    dkim_wipe(&pem);
    dkim_record_value(key, record);
    return key;
}

static struct fixture {
    struct dkim_signer *signer;
    struct dkim_keyring *ring, *rsa_ring;
    struct strbuf rsa_record, ed_record;
} fx;

static void
ring_add(struct dkim_keyring *ring, const char *pattern, const char *domain, const char *selector,
         struct dkim_key *key)
{
    struct err err;
    char name[DOMAIN_BUF];
    struct domain_pattern p;
    assert_int_equal(domain_pattern_parse(span_str(pattern), name, &p, &err), ERR_OK);
    struct dkim_entry entry = {&p, 1, span_str(domain), span_str(selector)};
    assert_int_equal(dkim_keyring_add(ring, &entry, key, &err), ERR_OK);
}

static int
setup(void **state)
{
    struct err err;
    (void)state;
    fx = (struct fixture){.ring = dkim_keyring_new(), .rsa_ring = dkim_keyring_new()};
    ring_add(fx.ring, "example.org", "", "rsa1", key_make(DKIM_KEY_RSA, &fx.rsa_record));
    ring_add(fx.ring, "example.org", "", "ed1", key_make(DKIM_KEY_ED25519, &fx.ed_record));
    return dkim_signer_new(&fx.signer, &err) == ERR_OK ? 0 : -1;
}

static int
teardown(void **state)
{
    (void)state;
    dkim_signer_free(fx.signer);
    dkim_keyring_free(fx.ring);
    dkim_keyring_free(fx.rsa_ring);
    strbuf_release(&fx.rsa_record);
    strbuf_release(&fx.ed_record);
    return 0;
}

/* A body that comes in pieces of `piece` octets. */
struct feed {
    struct span rest;
    size_t piece;
    unsigned calls;
    enum err_code fail;
};

static enum err_code
feed_next(void *arg, struct span *ret, struct err *err)
{
    struct feed *feed = arg;
    feed->calls++;
    if (feed->fail != ERR_OK)
        return err_set(err, feed->fail, "the feed fails");
    *ret = span_first(feed->rest, feed->piece);
    feed->rest = span_from(feed->rest, ret->n);
    return ERR_OK;
}

static enum err_code
sign_feed(const struct dkim_keyring *ring, struct span head, struct feed *feed,
          struct dkim_result *result, struct err *err)
{
    struct dkim_message message = {SPAN("test"), &head, 1, {feed_next, feed}, NOW};
    return dkim_signer_sign(fx.signer, ring, &message, result, err);
}

static void
sign_ok(const struct dkim_keyring *ring, struct span head, struct span body, size_t piece,
        struct dkim_result *result)
{
    struct feed feed = {.rest = body, .piece = piece};
    struct err err = {.text = ""};
    enum err_code code = sign_feed(ring, head, &feed, result, &err);
    if (code != ERR_OK)
        fail_msg("%s", err.text);
}

/* -- messages -----------------------------------------------------------------------------------
 */

#define FROM "From: Joe SixPack <joe@example.org>\r\n"
#define COMMON                                                                   \
    FROM "To: Suzie Q <suzie@shopping.example>\r\nSubject: Is dinner ready?\r\n" \
         "Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\nMessage-ID: <2003@example.org>\r\n"

static const struct sample {
    const char *name;
    struct span head, body;
} samples[] = {
    {"plain", SPAN(COMMON), SPAN("Hi.\r\n\r\nWe lost the game.\r\n")},
    {"empty-body", SPAN(COMMON), SPAN("")},
    {"one-empty-line", SPAN(COMMON), SPAN("\r\n")},
    {"only-blank-lines", SPAN(COMMON), SPAN("\r\n\r\n \t\r\n\r\n")},
    {"blank-lines-at-the-end", SPAN(COMMON), SPAN("text\r\n\r\n\r\n\r\n")},
    {"blanks-at-the-end", SPAN(COMMON), SPAN("text  \t \r\n \r\n\t\r\n")},
    {"blank-lines-first", SPAN(COMMON), SPAN("\r\n\r\n  text\r\n")},
    {"blanks-inside", SPAN(COMMON), SPAN("a  b\t\tc \t d\r\n\tindented\r\n  two\r\n")},
    {"dots", SPAN(COMMON), SPAN(".\r\n..\r\n.text\r\n")},
    {"8-bit", SPAN(COMMON), SPAN("gr\xc3\xbc\xc3\x9f \xff\xfe\x80\r\n")},
    {"folded",
     SPAN(FROM "Subject: one\r\n two\r\n\tthree  four\r\n   \r\n end\r\nTo: a@b.c,\r\n d@e.f\r\n"),
     SPAN("x\r\n")},
    {"folded-at-the-colon", SPAN("From:\r\n joe@example.org\r\nSubject:\r\n\tlate\r\n"),
     SPAN("x\r\n")},
    {"empty-fields", SPAN(FROM "Subject:\r\nTo: \r\nCc:\t\r\n"), SPAN("x\r\n")},
    {"case", SPAN("fROM: joe@EXAMPLE.org\r\nSUBJECT: Big\r\nmessage-id: <A@B>\r\n"), SPAN("x\r\n")},
    {"utf-8",
     SPAN("From: \xe4\xb8\xad\xe6\x96\x87 <joe@example.org>\r\nSubject: "
          "\xe4\xbd\xa0\xe5\xa5\xbd\r\n"),
     SPAN("x\r\n")},
    {"two-from",
     SPAN(FROM "From: other@example.net\r\nSubject: a\r\nSubject: b\r\nTo: x@y.z\r\nTo: y@z.a\r\n"),
     SPAN("x\r\n")},
    {"trace-and-unknown",
     SPAN("Received: from a by b; c\r\nX-Mailer: x\r\nReturn-Path: <a@b>\r\n" COMMON
          "Comments: c\r\nBcc: hidden@b.c\r\nAuthentication-Results: none\r\n"),
     SPAN("x\r\n")},
    {"list",
     SPAN(COMMON "List-Unsubscribe: <https://example.org/u>\r\nList-Unsubscribe-Post: "
                 "List-Unsubscribe=One-Click\r\nList-Id: <l.example.org>\r\nMIME-Version: 1.0\r\n"
                 "Content-Type: text/plain;\r\n\tcharset=utf-8\r\n"
                 "Content-Transfer-Encoding: 8bit\r\nReply-To: a@b.c\r\nCc: c@d.e\r\n"
                 "Sender: s@example.org\r\nIn-Reply-To: <1@2>\r\nReferences: <1@2>\r\n <3@4>\r\n"),
     SPAN("x\r\n")},
    {"foreign-signature",
     SPAN("DKIM-Signature: v=1; a=rsa-sha256; d=example.net; s=rsa1;\r\n\th=from; bh=; b=\r\n"
          "DKIM-Signature: total nonsense\r\n" COMMON),
     SPAN("x\r\n")},
};

static const size_t pieces[] = {1, 2, 3, 7, 100000};

/* -- libopendkim as a verifier --------------------------------------------------------------------
 */

static DKIM_CBSTAT
key_lookup(DKIM *dkim, DKIM_SIGINFO *sig, unsigned char *buf, size_t size)
{
    (void)dkim;
    bool rsa = strncmp((const char *)dkim_sig_getselector(sig), "rsa", 3) == 0;
    snprintf((char *)buf, size, "%s", rsa ? fx.rsa_record.p : fx.ed_record.p);
    return DKIM_CBSTAT_CONTINUE;
}

/* How many signatures by example.org libopendkim finds good. */
static int
count_good(DKIM_LIB *lib, struct span message)
{
    DKIM_STAT status;
    DKIM_SIGINFO **sigs;
    int n = 0, good = 0;

    DKIM *dkim = dkim_verify(lib, (const unsigned char *)"test", NULL, &status);
    assert_non_null(dkim);
    dkim_chunk(dkim, (unsigned char *)message.p, message.n);
    dkim_chunk(dkim, NULL, 0);
    dkim_eom(dkim, NULL);
    if (dkim_getsiglist(dkim, &sigs, &n) == DKIM_STAT_OK)
        for (int i = 0; i < n; i++) {
            const char *domain = (const char *)dkim_sig_getdomain(sigs[i]);
            if (domain != NULL && strcmp(domain, "example.org") == 0 &&
                dkim_sig_process(dkim, sigs[i]) == DKIM_STAT_OK &&
                (dkim_sig_getflags(sigs[i]) & DKIM_SIGFLAG_PASSED) != 0 &&
                dkim_sig_getbh(sigs[i]) == DKIM_SIGBH_MATCH)
                good++;
        }
    dkim_free(dkim);
    return good;
}

static DKIM_LIB *
verifier_new(void)
{
    DKIM_LIB *lib = dkim_init(NULL, NULL);
    unsigned flags = DKIM_LIBFLAGS_BADSIGHANDLES;
    uint64_t now = NOW / SECOND;
    assert_non_null(lib);
    assert_int_equal(dkim_options(lib, DKIM_OP_SETOPT, DKIM_OPTS_FIXEDTIME, &now, sizeof(now)),
                     DKIM_STAT_OK);
    assert_int_equal(dkim_options(lib, DKIM_OP_SETOPT, DKIM_OPTS_FLAGS, &flags, sizeof(flags)),
                     DKIM_STAT_OK);
    assert_int_equal(dkim_set_key_lookup(lib, key_lookup), DKIM_STAT_OK);
    return lib;
}

static void
message_build(const struct dkim_result *result, struct span head, struct span body,
              struct strbuf *out)
{
    for (size_t i = 0; i < result->n_signatures; i++)
        strbuf_add(out, result->signatures[i].field, result->signatures[i].field_bytes);
    strbuf_add_span(out, head);
    strbuf_add_str(out, "\r\n");
    strbuf_add_span(out, body);
}

static void
file_write(const char *dir, const char *name, const char *suffix, struct span text)
{
    CLEANUP(freep) char *path = xasprintf("%s/%s%s", dir, name, suffix);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text.p, 1, text.n, f), text.n);
    assert_int_equal(fclose(f), 0);
}

static void
both_verifiers_accept_every_sample_in_any_pieces(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_dkim.XXXXXX";
    assert_non_null(mkdtemp(dir));
    DKIM_LIB *lib = verifier_new();

    for (size_t i = 0; i < N_ELEMENTS(samples); i++) {
        for (size_t j = 0; j < N_ELEMENTS(pieces); j++) {
            struct dkim_result result;
            struct strbuf message = STRBUF_INIT;
            char name[100];
            sign_ok(fx.ring, samples[i].head, samples[i].body, pieces[j], &result);
            assert_int_equal(result.verdict, DKIM_VERDICT_SIGNED);
            assert_int_equal(result.n_signatures, 2);
            message_build(&result, samples[i].head, samples[i].body, &message);
            if (count_good(lib, strbuf_span(&message)) != 2)
                fail_msg("libopendkim refuses %s in pieces of %zu:\n%s", samples[i].name, pieces[j],
                         message.p);
            snprintf(name, sizeof(name), "%s-%zu", samples[i].name, pieces[j]);
            /* dkimpy gives up on the obsolete syntax of RFC 5322 section 4.5. */
            if (strcmp(samples[i].name, "blank-before-colon") != 0) {
                file_write(dir, name, ".eml", strbuf_span(&message));
                file_write(dir, name, ".count", SPAN("2"));
            }
            strbuf_release(&message);
            dkim_result_release(&result);
        }
    }
    dkim_close(lib);

    struct strbuf keys = STRBUF_INIT;
    strbuf_printf(&keys, "rsa1._domainkey.example.org %s\ned1._domainkey.example.org %s\n",
                  fx.rsa_record.p, fx.ed_record.p);
    file_write(dir, "keys", "", strbuf_span(&keys));
    strbuf_release(&keys);
    CLEANUP(freep)
    char *command = xasprintf("/usr/bin/python3 %s/unit/policy/verify_dkim.py %s", TESTS_DIR, dir);
    int status = system(command);
    CLEANUP(freep) char *clean = xasprintf("rm -r %s", dir);
    if (status == 0)
        assert_int_equal(system(clean), 0);
    else
        fail_msg("dkimpy refuses; the messages are in %s", dir);
}

static void
the_verifier_in_this_test_sees_a_changed_body(void **state)
{
    (void)state;
    struct dkim_result result;
    struct strbuf message = STRBUF_INIT;
    DKIM_LIB *lib = verifier_new();
    sign_ok(fx.ring, SPAN(COMMON), SPAN("text\r\n"), 100, &result);
    message_build(&result, SPAN(COMMON), SPAN("texT\r\n"), &message);
    assert_int_equal(count_good(lib, strbuf_span(&message)), 0);
    strbuf_release(&message);
    dkim_result_release(&result);
    dkim_close(lib);
}

/* -- what a signature says ----------------------------------------------------------------------
 */

/* The value of a tag without white space; the caller frees it. */
static char *
tag(const struct dkim_signature *signature, const char *name)
{
    struct strbuf value = STRBUF_INIT;
    struct span rest = span_from(span_str(signature->field), strlen("DKIM-Signature:"));
    while (rest.n > 0) {
        struct span v = span_cut(&rest, ';');
        struct span n = span_trim(span_cut(&v, '='));
        if (!span_eq(n, span_str(name)))
            continue;
        for (size_t i = 0; i < v.n; i++)
            if (strchr(" \t\r\n", v.p[i]) == NULL)
                strbuf_add_byte(&value, ascii_lower(v.p[i]));
        return strbuf_take(&value);
    }
    return NULL;
}

static void
assert_tag(const struct dkim_signature *signature, const char *name, const char *want)
{
    CLEANUP(freep) char *value = tag(signature, name);
    assert_non_null(value);
    assert_string_equal(value, want);
}

static unsigned
h_count(const struct dkim_signature *signature, const char *name)
{
    CLEANUP(freep) char *h = tag(signature, "h");
    unsigned n = 0;
    assert_non_null(h);
    for (struct span rest = span_str(h); rest.n > 0;)
        n += span_eq(span_cut(&rest, ':'), span_str(name));
    return n;
}

static void
a_signature_has_t_and_no_l_and_oversigns(void **state)
{
    (void)state;
    struct dkim_result result;
    struct span head = SPAN(COMMON "Reply-To: a@b.c\r\nCc: d@e.f\r\nMIME-Version: 1.0\r\n"
                                   "List-Unsubscribe-Post: x\r\nX-Other: y\r\nReceived: z\r\n");
    sign_ok(fx.ring, head, SPAN("x\r\n"), 100, &result);
    assert_int_equal(result.n_signatures, 2);
    for (size_t i = 0; i < 2; i++) {
        const struct dkim_signature *s = &result.signatures[i];
        assert_tag(s, "a", i == 0 ? "rsa-sha256" : "ed25519-sha256");
        assert_tag(s, "c", "relaxed/relaxed");
        assert_tag(s, "t", "1700000000");
        assert_tag(s, "d", "example.org");
        assert_tag(s, "s", i == 0 ? "rsa1" : "ed1");
        assert_null(tag(s, "l"));
        assert_null(tag(s, "x"));
        assert_null(tag(s, "z"));
        static const char *const twice[] = {"from", "to", "cc", "subject", "date", "reply-to"};
        for (size_t j = 0; j < N_ELEMENTS(twice); j++)
            assert_int_equal(h_count(s, twice[j]), 2);
        assert_int_equal(h_count(s, "message-id"), 1);
        assert_int_equal(h_count(s, "mime-version"), 1);
        assert_int_equal(h_count(s, "list-unsubscribe-post"), 1);
        assert_int_equal(h_count(s, "x-other"), 0);
        assert_int_equal(h_count(s, "received"), 0);
        assert_int_equal(strlen(s->field), s->field_bytes);
        assert_true(span_ends(span_str(s->field), SPAN("\r\n")));
        for (struct span rest = span_str(s->field); rest.n > 0;)
            assert_true(span_cut(&rest, '\n').n <= 80);
    }
    dkim_result_release(&result);
}

static void
head_blocks_are_signed_as_one_header(void **state)
{
    (void)state;
    struct span blocks[] = {SPAN("Received: from a by b; c\r\n"), SPAN("Date: today\r\n"),
                            SPAN_NONE, SPAN(FROM "Subject: s\r\n")};
    struct feed feed = {.rest = SPAN("x\r\n"), .piece = 100};
    struct dkim_message message = {SPAN("id"), blocks, 4, {feed_next, &feed}, NOW};
    struct dkim_result result;
    struct strbuf text = STRBUF_INIT;
    struct err err;
    assert_int_equal(dkim_signer_sign(fx.signer, fx.ring, &message, &result, &err), ERR_OK);
    DKIM_LIB *lib = verifier_new();
    message_build(&result,
                  SPAN("Received: from a by b; c\r\nDate: today\r\n" FROM "Subject: s\r\n"),
                  SPAN("x\r\n"), &text);
    assert_int_equal(count_good(lib, strbuf_span(&text)), 2);
    dkim_close(lib);
    strbuf_release(&text);
    dkim_result_release(&result);
}

/* -- what is not signed
 * ---------------------------------------------------------------------------- */

static struct strbuf
many(const char *field, unsigned n)
{
    struct strbuf head = STRBUF_INIT;
    for (unsigned i = 0; i < n; i++)
        strbuf_add_str(&head, field);
    strbuf_add_str(&head, COMMON);
    return head;
}

static void
assert_unsigned(struct span head, struct span body, const char *reason)
{
    for (size_t j = 0; j < N_ELEMENTS(pieces); j++) {
        struct dkim_result result;
        sign_ok(fx.ring, head, body, pieces[j], &result);
        assert_int_equal(result.verdict, DKIM_VERDICT_UNSIGNED);
        assert_int_equal(result.n_signatures, 0);
        if (strstr(result.reason, reason) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", result.reason, reason);
    }
}

static void
names_that_would_not_fit_in_h_leave_a_message_unsigned(void **state)
{
    (void)state;
    /* 700 Subject fields: libopendkim would drop From from h= and say that all is well. */
    struct strbuf head = many("Subject: again\r\n", 700);
    assert_unsigned(strbuf_span(&head), SPAN("x\r\n"), "too many fields");
    strbuf_release(&head);
    head = many("To: a@b\r\n", 401);
    assert_unsigned(strbuf_span(&head), SPAN("x\r\n"), "too many fields");
    strbuf_release(&head);
}

static void
many_fields_within_the_limit_are_signed_and_verify(void **state)
{
    (void)state;
    DKIM_LIB *lib = verifier_new();
    /* 390 fields of 3 octets a name; 300 of 8; and any number that is not signed. */
    struct strbuf heads[] = {many("To: a@b\r\n", 390), many("Subject: again\r\n", 300),
                             many("X-Whatever: again\r\n", 5000)};
    for (size_t i = 0; i < N_ELEMENTS(heads); i++) {
        struct dkim_result result;
        struct strbuf message = STRBUF_INIT;
        sign_ok(fx.ring, strbuf_span(&heads[i]), SPAN("x\r\n"), 100, &result);
        assert_int_equal(result.n_signatures, 2);
        message_build(&result, strbuf_span(&heads[i]), SPAN("x\r\n"), &message);
        assert_int_equal(count_good(lib, strbuf_span(&message)), 2);
        strbuf_release(&message);
        strbuf_release(&heads[i]);
        dkim_result_release(&result);
    }
    dkim_close(lib);
}

static void
a_field_of_a_hundred_thousand_octets_is_signed(void **state)
{
    (void)state;
    struct strbuf head = STRBUF_INIT;
    struct dkim_result result;
    strbuf_add_str(&head, FROM "References:");
    for (unsigned i = 0; i < 5000; i++)
        strbuf_add_str(&head, "\r\n <message-id@host>");
    strbuf_add_str(&head, "\r\n");
    sign_ok(fx.ring, strbuf_span(&head), SPAN("x\r\n"), 100, &result);
    assert_int_equal(result.n_signatures, 2);
    strbuf_release(&head);
    dkim_result_release(&result);
}

static void
text_that_is_not_canonical_leaves_a_message_unsigned(void **state)
{
    (void)state;
    assert_unsigned(SPAN(COMMON), SPAN("no newline"), "does not end with CRLF");
    assert_unsigned(SPAN(COMMON), SPAN("x\r\nno newline"), "does not end with CRLF");
    assert_unsigned(SPAN(COMMON), SPAN("cr at the end\r"), "does not end with CRLF");
    assert_unsigned(SPAN(COMMON), SPAN("bare\nLF\r\n"), "bare");
    assert_unsigned(SPAN(COMMON), SPAN("\nLF first\r\n"), "bare");
    assert_unsigned(SPAN(COMMON), SPAN("bare\rCR\r\n"), "bare");
    assert_unsigned(SPAN(COMMON), SPAN("two\r\r\n"), "bare");
    assert_unsigned(SPAN(COMMON), SPAN("nul\0nul\r\n"), "NUL");
    assert_unsigned(SPAN(FROM "Subject: a\0b\r\n"), SPAN("x\r\n"), "NUL");
    assert_unsigned(SPAN(FROM "Subject: a\rb\r\n"), SPAN("x\r\n"), "bare CR");
    assert_unsigned(SPAN(FROM "Subject: a\n b\r\n"), SPAN("x\r\n"), "bare LF");
    assert_unsigned(SPAN(FROM "Subject: a\vb\r\n"), SPAN("x\r\n"), "vertical tab");
    assert_unsigned(SPAN(FROM "Subject: a \f\r\n"), SPAN("x\r\n"), "form feed");
    assert_unsigned(SPAN(FROM "no field at all\r\nSubject: a\r\n"), SPAN("x\r\n"), "no field");
    assert_unsigned(SPAN(FROM "To\t: a@b.c\r\n"), SPAN("x\r\n"), "before the colon");
    assert_unsigned(SPAN(FROM "Subject : odd\r\n"), SPAN("x\r\n"), "before the colon");
    assert_unsigned(SPAN(FROM "X-Odd : y\r\n"), SPAN("x\r\n"), "before the colon");
    assert_unsigned(SPAN(FROM "\xc3\xbc: a\r\n"), SPAN("x\r\n"), "no field");
}

static void
verdict_of(struct span head, enum dkim_verdict want)
{
    struct dkim_result result;
    struct feed feed = {.rest = SPAN("x\r\n"), .piece = 100};
    struct err err;
    assert_int_equal(sign_feed(fx.ring, head, &feed, &result, &err), ERR_OK);
    assert_int_equal(result.verdict, want);
    assert_int_equal(feed.calls > 0, want == DKIM_VERDICT_SIGNED);
    dkim_result_release(&result);
}

static void
a_message_without_a_fitting_from_is_left_alone_and_its_body_is_not_read(void **state)
{
    (void)state;
    verdict_of(SPAN("From: a@example.net\r\n"), DKIM_VERDICT_NO_KEY);
    verdict_of(SPAN("From: a@sub.example.org\r\n"), DKIM_VERDICT_NO_KEY);
    verdict_of(SPAN("From: nobody\r\n"), DKIM_VERDICT_NO_KEY);
    verdict_of(SPAN("From: a@[192.0.2.1]\r\n"), DKIM_VERDICT_NO_KEY);
    verdict_of(SPAN("Subject: no from\r\n"), DKIM_VERDICT_NO_KEY);
    verdict_of(SPAN("Sender: a@example.org\r\n"), DKIM_VERDICT_NO_KEY);
    verdict_of(SPAN("From: a@Example.ORG.\r\n"), DKIM_VERDICT_SIGNED);
    verdict_of(SPAN("From: x@example.net <a@example.org>\r\n"), DKIM_VERDICT_SIGNED);
    /* Not ours: a broken header is nobody's business then. */
    verdict_of(SPAN("From: a@example.net\r\nbroken\r\n"), DKIM_VERDICT_NO_KEY);
}

#define SIG(d, s) "DKIM-Signature: v=1; a=rsa-sha256;\r\n\t" d ";\r\n " s "; bh=; b=\r\n"

static void
an_entry_whose_signature_is_there_is_left_out(void **state)
{
    (void)state;
    struct dkim_result result;
    sign_ok(fx.ring, SPAN(SIG("d=example.org", "s=rsa1") COMMON), SPAN("x\r\n"), 100, &result);
    assert_int_equal(result.n_signatures, 1);
    assert_string_equal(result.signatures[0].selector, "ed1");
    dkim_result_release(&result);

    verdict_of(SPAN(SIG("d = Example.ORG ", "s =\r\n RSA1") COMMON SIG("d=example.org", "s=ed1")),
               DKIM_VERDICT_PRESENT);
    verdict_of(SPAN(SIG("d=example.net", "s=rsa1") SIG("d=example.org", "s=other") COMMON),
               DKIM_VERDICT_SIGNED);
}

static void
an_error_of_the_body_feed_is_passed_on(void **state)
{
    (void)state;
    struct feed feed = {.fail = ERR_CORRUPT};
    struct dkim_result result;
    struct err err;
    assert_int_equal(sign_feed(fx.ring, SPAN(COMMON), &feed, &result, &err), ERR_CORRUPT);
    assert_string_equal(err.text, "the feed fails");
    assert_int_equal(result.n_signatures, 0);
}

static void
signing_takes_no_memory_with_it(void **state)
{
    (void)state;
    struct dkim_result result;
    size_t before = 0;
    for (unsigned i = 0; i < 300; i++) {
        if (i == 100)
            before = mallinfo2().uordblks;
        sign_ok(fx.ring, SPAN(COMMON), SPAN("text\r\n"), 100, &result);
        assert_int_equal(result.n_signatures, 2);
        dkim_result_release(&result);
    }
    assert_true(mallinfo2().uordblks <= before + 2000);
}

static void *
sign_many(void *arg)
{
    unsigned *n_signed = arg;
    struct dkim_signer *signer;
    struct span head = SPAN(COMMON);
    struct err err;
    if (dkim_signer_new(&signer, &err) != ERR_OK)
        return NULL;
    for (unsigned i = 0; i < 50; i++) {
        struct feed feed = {.rest = SPAN("text\r\n"), .piece = 100};
        struct dkim_message message = {SPAN("thread"), &head, 1, {feed_next, &feed}, NOW};
        struct dkim_result result;
        if (dkim_signer_sign(signer, fx.ring, &message, &result, &err) == ERR_OK) {
            *n_signed += (unsigned)result.n_signatures;
            dkim_result_release(&result);
        }
    }
    dkim_signer_free(signer);
    return NULL;
}

static void
signers_of_two_threads_share_a_keyring(void **state)
{
    (void)state;
    pthread_t threads[2];
    unsigned n_signed[2] = {0, 0};
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, sign_many, &n_signed[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(n_signed[i], 100);
    }
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_verifiers_accept_every_sample_in_any_pieces),
        cmocka_unit_test(the_verifier_in_this_test_sees_a_changed_body),
        cmocka_unit_test(a_signature_has_t_and_no_l_and_oversigns),
        cmocka_unit_test(head_blocks_are_signed_as_one_header),
        cmocka_unit_test(names_that_would_not_fit_in_h_leave_a_message_unsigned),
        cmocka_unit_test(many_fields_within_the_limit_are_signed_and_verify),
        cmocka_unit_test(a_field_of_a_hundred_thousand_octets_is_signed),
        cmocka_unit_test(text_that_is_not_canonical_leaves_a_message_unsigned),
        cmocka_unit_test(a_message_without_a_fitting_from_is_left_alone_and_its_body_is_not_read),
        cmocka_unit_test(an_entry_whose_signature_is_there_is_left_out),
        cmocka_unit_test(an_error_of_the_body_feed_is_passed_on),
        cmocka_unit_test(signing_takes_no_memory_with_it),
        cmocka_unit_test(signers_of_two_threads_share_a_keyring),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown);
}
