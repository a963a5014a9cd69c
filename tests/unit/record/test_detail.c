/* How a recipient ended, as history keeps it: written and read back, cut, damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/record/detail.h"

static const struct detail sample = {
    .code = 550,
    .enh = {5, 1, 1},
    .attempts = 12,
    .route = SPAN("us"),
    .site = SPAN("mx.one.test"),
    .peer = SPAN("192.0.2.1:25"),
    .host = SPAN("mx1.one.test"),
    .tls = SPAN("TLSv1.3 TLS_AES_256_GCM_SHA384"),
    .phase = SPAN("rcpt"),
    .klass = SPAN("mailbox-unknown"),
    .text = SPAN("no such user"),
};

static void
assert_span_eq(struct span a, struct span b)
{
    assert_int_equal(a.n, b.n);
    assert_memory_equal(a.p, b.p, a.n);
}

static void
what_is_written_is_read_back(void **state)
{
    (void)state;
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    struct detail d;
    struct err err;
    detail_encode(&sample, &bytes);
    assert_int_equal(detail_decode(strbuf_span(&bytes), &d, &err), ERR_OK);
    assert_int_equal(d.code, 550);
    assert_int_equal(d.enh.klass, 5);
    assert_int_equal(d.enh.subject, 1);
    assert_int_equal(d.enh.detail, 1);
    assert_int_equal(d.attempts, 12);
    assert_span_eq(d.route, sample.route);
    assert_span_eq(d.site, sample.site);
    assert_span_eq(d.peer, sample.peer);
    assert_span_eq(d.host, sample.host);
    assert_span_eq(d.tls, sample.tls);
    assert_span_eq(d.phase, sample.phase);
    assert_span_eq(d.klass, sample.klass);
    assert_span_eq(d.text, sample.text);
}

static void
a_long_reply_is_cut(void **state)
{
    (void)state;
    static char text[600];
    struct detail long_one = sample, d;
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    memset(text, 'x', sizeof(text));
    long_one.text = span_of(text, sizeof(text));
    detail_encode(&long_one, &bytes);
    assert_int_equal(detail_decode(strbuf_span(&bytes), &d, NULL), ERR_OK);
    assert_int_equal(d.text.n, DETAIL_TEXT_MAX);
}

static void
what_is_cut_short_anywhere_is_damage(void **state)
{
    (void)state;
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    struct detail d;
    struct err err;
    detail_encode(&sample, &bytes);
    for (size_t n = 1; n < bytes.n; n++) {
        char *copy = xstrndup(bytes.p, n); /* so that a sanitizer sees a read past the end */
        assert_int_equal(detail_decode(span_of(copy, n), &d, &err), ERR_CORRUPT);
        assert_int_equal(d.code, 0); /* nothing half read */
        free(copy);
    }
    bytes.p[0] = 0; /* no such version */
    assert_int_equal(detail_decode(strbuf_span(&bytes), &d, &err), ERR_CORRUPT);
}

static void
nothing_is_an_end_without_details(void **state)
{
    (void)state;
    struct detail d;
    assert_int_equal(detail_decode(SPAN_NONE, &d, NULL), ERR_OK);
    assert_int_equal(d.route.n, 0);
}

static void
a_newer_version_is_read_as_far_as_it_is_known(void **state)
{
    (void)state;
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    struct detail d;
    detail_encode(&sample, &bytes);
    bytes.p[0] = 2;
    strbuf_add_str(&bytes, "and more");
    assert_int_equal(detail_decode(strbuf_span(&bytes), &d, NULL), ERR_OK);
    assert_span_eq(d.text, sample.text);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(a_long_reply_is_cut),
        cmocka_unit_test(what_is_cut_short_anywhere_is_damage),
        cmocka_unit_test(nothing_is_an_end_without_details),
        cmocka_unit_test(a_newer_version_is_read_as_far_as_it_is_known),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
