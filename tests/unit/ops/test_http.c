#include "relayd/ops/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/base/mem.h"

#define H "Host: x\r\n"

static void
a_request_is_the_same_byte_by_byte_as_at_once(void **state)
{
    (void)state;
    const struct span whole =
        SPAN("POST /v1/queue/retry?a=b%20c&d=%E4%B8%AD HTTP/1.1\r\nHost: localhost\r\n"
             "Content-Type: application/json\r\nContent-Length: 11\r\n"
             "Authorization: Bearer t\r\n\r\n{\"id\":\"x y\"GET /next HTTP/1.1\r\n");
    for (size_t piece = 1; piece <= whole.n; piece++) {
        struct http_parser parser;
        struct http_request request;
        size_t used = 0;
        enum http_result result = HTTP_MORE;
        http_parser_init(&parser);
        for (size_t n = piece; result == HTTP_MORE; n += piece)
            result = http_parse(&parser, span_first(whole, n), &request, &used);
        assert_int_equal(result, HTTP_READY);
        assert_true(span_starts(span_from(whole, used), SPAN("GET /next")));
        assert_int_equal(request.method, HTTP_POST);
        assert_true(span_eq(request.path, SPAN("/v1/queue/retry")));
        assert_true(span_eq(http_query(&request, "a"), SPAN("b c")));
        assert_true(span_eq(http_query(&request, "d"), SPAN("\xe4\xb8\xad")));
        assert_null(http_query(&request, "e").p);
        assert_true(span_eq(request.body, SPAN("{\"id\":\"x y\"")));
        assert_true(span_eq(request.authorization, SPAN("Bearer t")));
        assert_true(span_eq(request.content_type, SPAN("application/json")));
        assert_true(request.keep_alive);
        http_request_release(&request);
    }
}

static const struct {
    const char *what, *text;
    int status;
} refused[] = {
    {"not HTTP", "EHLO mail.example.org\r\n\r\n", 400},
    {"a TLS hello", "\x16\x03\x01\x02", 400},
    {"bare LF", "GET / HTTP/1.1\nHost: x\n\n", 400},
    {"bare CR", "GET / HTTP/1.1\rHost: x\r\n\r\n", 400},
    {"a control byte", "GET / HTTP/1.1\r\nX: a\x01\r\n\r\n", 400},
    {"a folded field", "GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n\r\n", 400},
    {"a blank before the colon", "GET / HTTP/1.1\r\n" H "X : a\r\n\r\n", 400},
    {"no colon", "GET / HTTP/1.1\r\n" H "X\r\n\r\n", 400},
    {"two blanks", "GET  / HTTP/1.1\r\n" H "\r\n", 400},
    {"a blank behind", "GET / HTTP/1.1 \r\n" H "\r\n", 400},
    {"no version", "GET /\r\n\r\n", 400},
    {"HTTP/2", "GET / HTTP/2.0\r\n" H "\r\n", 505},
    {"no Host", "GET / HTTP/1.1\r\n\r\n", 400},
    {"two Hosts", "GET / HTTP/1.1\r\n" H H "\r\n", 400},
    {"absolute form", "GET http://x/ HTTP/1.1\r\n" H "\r\n", 400},
    {"asterisk form", "GET * HTTP/1.1\r\n" H "\r\n", 400},
    {"dot segments", "GET /v1/../x HTTP/1.1\r\n" H "\r\n", 400},
    {"encoded dot segments", "GET /v1/%2e%2E/x HTTP/1.1\r\n" H "\r\n", 400},
    {"an encoded slash", "GET /v1/a%2Fb HTTP/1.1\r\n" H "\r\n", 400},
    {"an encoded NUL", "GET /v1/a%00 HTTP/1.1\r\n" H "\r\n", 400},
    {"an encoded LF", "GET /v1/a?x=%0a HTTP/1.1\r\n" H "\r\n", 400},
    {"bad UTF-8", "GET /v1/%ff HTTP/1.1\r\n" H "\r\n", 400},
    {"raw UTF-8", "GET /v1/\xe4\xb8\xad HTTP/1.1\r\n" H "\r\n", 400},
    {"half an escape", "GET /v1/a% HTTP/1.1\r\n" H "\r\n", 400},
    {"half an escape", "GET /v1/a%4 HTTP/1.1\r\n" H "\r\n", 400},
    {"a bad escape", "GET /v1/a%4g HTTP/1.1\r\n" H "\r\n", 400},
    {"double slash", "GET /v1//x HTTP/1.1\r\n" H "\r\n", 400},
    {"a slash at the end", "GET /v1/ HTTP/1.1\r\n" H "\r\n", 400},
    {"a parameter twice", "GET /?a=1&a=2 HTTP/1.1\r\n" H "\r\n", 400},
    {"chunked", "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n", 501},
    {"chunked and a length",
     "POST / HTTP/1.1\r\n" H "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 501},
    {"obscured chunked", "POST / HTTP/1.1\r\n" H "transfer-encoding: xchunked\r\n\r\n", 501},
    {"two lengths", "POST / HTTP/1.1\r\n" H "Content-Length: 4\r\nContent-Length: 4\r\n\r\n", 400},
    {"a list of lengths", "POST / HTTP/1.1\r\n" H "Content-Length: 4, 4\r\n\r\n", 400},
    {"a signed length", "POST / HTTP/1.1\r\n" H "Content-Length: +4\r\n\r\n", 400},
    {"a hex length", "POST / HTTP/1.1\r\n" H "Content-Length: 0x4\r\n\r\n", 400},
    {"an empty length", "POST / HTTP/1.1\r\n" H "Content-Length:\r\n\r\n", 400},
    {"a huge length", "POST / HTTP/1.1\r\n" H "Content-Length: 99999999999999999999999\r\n\r\n",
     400},
    {"a large length", "POST / HTTP/1.1\r\n" H "Content-Length: 1000000\r\n\r\n", 413},
    {"a GET with a body", "GET / HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabc", 400},
    {"an unknown expectation", "POST / HTTP/1.1\r\n" H "Expect: tea\r\n\r\n", 417},
    {"two credentials", "GET / HTTP/1.1\r\n" H "Authorization: a\r\nAuthorization: b\r\n\r\n", 400},
};

static void
what_is_not_understood_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(refused); i++) {
        struct http_parser parser;
        struct http_request request;
        size_t used;
        struct span text = span_str(refused[i].text);
        http_parser_init(&parser);
        if (http_parse(&parser, text, &request, &used) != HTTP_ERROR ||
            parser.status != refused[i].status)
            fail_msg("%s: status %d", refused[i].what, parser.status);
        assert_non_null(parser.reason);
        /* and byte by byte alike */
        enum http_result result = HTTP_MORE;
        http_parser_init(&parser);
        for (size_t n = 1; result == HTTP_MORE && n <= text.n; n++)
            result = http_parse(&parser, span_first(text, n), &request, &used);
        assert_int_equal(result, HTTP_ERROR);
        assert_int_equal(parser.status, refused[i].status);
    }
}

/* Feeds an endless input; returns the status it is refused with and how many bytes that took. */
static int
status_of_endless(const char *begin, const char *more, size_t *ret_bytes)
{
    CLEANUP(strbuf_release) struct strbuf input = STRBUF_INIT;
    struct http_parser parser;
    struct http_request request;
    size_t used;
    http_parser_init(&parser);
    strbuf_add_str(&input, begin);
    while (http_parse(&parser, strbuf_span(&input), &request, &used) == HTTP_MORE) {
        assert_true(input.n < HTTP_HEAD_MAX * 2);
        strbuf_add_str(&input, more);
    }
    *ret_bytes = input.n;
    return parser.status;
}

static void
endless_heads_are_cut_off(void **state)
{
    (void)state;
    size_t n;
    assert_int_equal(status_of_endless("GET /", "aaaaaaa", &n), 414);
    assert_true(n <= HTTP_HEAD_MAX + 16);
    assert_int_equal(status_of_endless("GET / HTTP/1.1\r\n", "X: yyyyyyyy\r\n", &n), 431);
    assert_true(n <= HTTP_HEAD_MAX + 16);
    assert_int_equal(status_of_endless("GET / HTTP/1.1\r\nX: ", "yyyy", &n), 431);
    assert_int_equal(status_of_endless("", "\r\n", &n), 400);
}

static void
many_small_fields_and_long_targets_are_refused(void **state)
{
    (void)state;
    CLEANUP(strbuf_release) struct strbuf input = STRBUF_INIT;
    struct http_parser parser;
    struct http_request request;
    size_t used;
    strbuf_add_str(&input, "GET / HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < HTTP_FIELDS_MAX; i++)
        strbuf_add_str(&input, "a: b\r\n");
    strbuf_add_str(&input, "\r\n");
    http_parser_init(&parser);
    assert_int_equal(http_parse(&parser, strbuf_span(&input), &request, &used), HTTP_ERROR);
    assert_int_equal(parser.status, 431);

    strbuf_reset(&input);
    strbuf_add_str(&input, "GET /");
    for (size_t i = 0; i < HTTP_TARGET_MAX; i++)
        strbuf_add_byte(&input, 'a');
    strbuf_add_str(&input, " HTTP/1.1\r\nHost: x\r\n\r\n");
    http_parser_init(&parser);
    assert_int_equal(http_parse(&parser, strbuf_span(&input), &request, &used), HTTP_ERROR);
    assert_int_equal(parser.status, 414);

    strbuf_reset(&input);
    strbuf_add_str(&input, "GET /?");
    for (int i = 0; i <= HTTP_QUERY_MAX; i++)
        strbuf_printf(&input, "p%d=1&", i);
    strbuf_add_str(&input, " HTTP/1.1\r\nHost: x\r\n\r\n");
    http_parser_init(&parser);
    assert_int_equal(http_parse(&parser, strbuf_span(&input), &request, &used), HTTP_ERROR);
    assert_int_equal(parser.status, 400);
}

static const struct {
    const char *text;
    bool keep_alive;
} connections[] = {
    {"GET / HTTP/1.1\r\n" H "\r\n", true},
    {"GET / HTTP/1.1\r\n" H "Connection: close\r\n\r\n", false},
    {"GET / HTTP/1.1\r\n" H "Connection: Upgrade, CLOSE\r\n\r\n", false},
    {"GET / HTTP/1.0\r\n\r\n", false},
    {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true},
    {"\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n", true}, /* RFC 9112 section 2.2 */
};

static void
connections_are_kept_as_rfc_9112_9_3_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ELEMENTS(connections); i++) {
        struct http_parser parser;
        struct http_request request;
        size_t used;
        http_parser_init(&parser);
        assert_int_equal(http_parse(&parser, span_str(connections[i].text), &request, &used),
                         HTTP_READY);
        assert_int_equal(request.keep_alive, connections[i].keep_alive);
        assert_int_equal(used, strlen(connections[i].text));
        http_request_release(&request);
    }
}

static void
a_plus_in_an_address_stays_a_plus(void **state)
{
    (void)state;
    struct http_parser parser;
    struct http_request request;
    size_t used;
    CLEANUP(strbuf_release) struct strbuf escaped = STRBUF_INIT;
    http_parser_init(&parser);
    assert_int_equal(
        http_parse(&parser, SPAN("GET /?rcpt=a+b@x%2By HTTP/1.0\r\n\r\n"), &request, &used),
        HTTP_READY);
    assert_true(span_eq(http_query(&request, "rcpt"), SPAN("a+b@x+y")));
    http_request_release(&request);
    http_escape(&escaped, SPAN("a+b@x y/\xe4~"));
    assert_string_equal(escaped.p, "a%2Bb%40x%20y%2F%E4~");
}

static void
a_client_that_waits_for_100_continue_is_told_once(void **state)
{
    (void)state;
    struct http_parser parser;
    struct http_request request;
    size_t used;
    const struct span text =
        SPAN("POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}");
    http_parser_init(&parser);
    assert_int_equal(http_parse(&parser, span_first(text, text.n - 2), &request, &used), HTTP_MORE);
    assert_true(parser.wants_continue);
    parser.wants_continue = false;
    assert_int_equal(http_parse(&parser, span_first(text, text.n - 1), &request, &used), HTTP_MORE);
    assert_false(parser.wants_continue);
    assert_int_equal(http_parse(&parser, text, &request, &used), HTTP_READY);
    http_request_release(&request);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_the_same_byte_by_byte_as_at_once),
        cmocka_unit_test(what_is_not_understood_is_refused),
        cmocka_unit_test(endless_heads_are_cut_off),
        cmocka_unit_test(many_small_fields_and_long_targets_are_refused),
        cmocka_unit_test(connections_are_kept_as_rfc_9112_9_3_says),
        cmocka_unit_test(a_plus_in_an_address_stays_a_plus),
        cmocka_unit_test(a_client_that_waits_for_100_continue_is_told_once),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
