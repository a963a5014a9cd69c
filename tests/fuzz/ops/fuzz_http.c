/*
 * The HTTP parser on arbitrary bytes: the first byte says in which pieces they come. Whatever the
 * pieces, the result must be the one of the whole, spans must lie in the request's own text, and a
 * request that is taken must not hold what http.h excludes.
 */
#include "relayd/ops/http.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_span(const struct http_request *request, struct span s, size_t total)
{
    if (s.n > 0)
        assert(s.p >= request->text && s.p + s.n <= request->text + total);
}

static void
check_request(const struct http_request *request, size_t used)
{
    check_span(request, request->path, used);
    check_span(request, request->host, used);
    check_span(request, request->authorization, used);
    check_span(request, request->body, used);
    assert(request->path.n > 0 && request->path.p[0] == '/');
    assert(utf8_valid(request->path));
    assert(span_find_byte(request->path, '\0') == SIZE_MAX);
    assert(span_find(request->path, SPAN("//")) == SIZE_MAX);
    for (size_t i = 0; i < request->n_query; i++) {
        check_span(request, request->query[i].name, used);
        check_span(request, request->query[i].value, used);
        assert(utf8_valid(request->query[i].value));
    }
    assert(request->method == HTTP_POST || request->body.n == 0);
}

static enum http_result
run(struct span input, size_t piece, int *ret_status, size_t *ret_used)
{
    struct http_parser parser;
    struct http_request request;
    enum http_result result = HTTP_MORE;
    http_parser_init(&parser);
    *ret_used = 0;
    for (size_t n = piece < input.n ? piece : input.n; result == HTTP_MORE;
         n = input.n - n < piece ? input.n : n + piece) {
        /* A copy of the exact size, so that a read behind it is seen. */
        char *copy = xmalloc(n);
        memcpy(copy, input.p, n);
        result = http_parse(&parser, span_of(copy, n), &request, ret_used);
        free(copy);
        if (n == input.n)
            break;
    }
    *ret_status = parser.status;
    if (result == HTTP_READY) {
        check_request(&request, *ret_used);
        http_request_release(&request);
    }
    return result;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct span input = span_of(data + 1, size - 1);
    int status, status_whole;
    size_t used, used_whole;
    enum http_result whole = run(input, input.n, &status_whole, &used_whole);
    enum http_result pieces = run(input, data[0] % 64 + 1, &status, &used);
    assert(whole == pieces && status == status_whole && used == used_whole);
    return 0;
}
