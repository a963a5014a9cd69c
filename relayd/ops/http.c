/*
 * The head is checked byte by byte as it comes, so garbage is refused before it is complete. When
 * it is complete it is parsed once to learn about the body, and once more into the copy that the
 * request keeps; percent-decoding happens in place there, it never makes text longer.
 */
#include "relayd/ops/http.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "relayd/ops/utf8.h"

#define EMPTY_LINES_MAX 2

/* The head of a request as found, before anything is decoded. */
struct head {
    struct http_request request; /* path and query empty */
    struct span target;
    uint64_t content_length;
    bool has_length, has_host, has_authorization, has_type, has_origin, wants_close;
    bool wants_keep_alive;
};

static enum http_result
fail(struct http_parser *parser, int status, const char *reason)
{
    parser->status = status;
    parser->reason = reason;
    return HTTP_ERROR;
}

void
http_parser_init(struct http_parser *parser)
{
    *parser = (struct http_parser){0};
}

/* RFC 9110 section 5.6.2 */
static bool
is_token(struct span s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!ascii_alpha(c) && !ascii_digit(c) && (c == '\0' || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return s.n > 0;
}

/* ---- the end of the head ---- */

static bool
skip_empty_lines(struct http_parser *parser, struct span input)
{
    while (parser->start < EMPTY_LINES_MAX * 2 && parser->seen == parser->start &&
           input.n >= parser->start + 2 && memcmp(input.p + parser->start, "\r\n", 2) == 0)
        parser->seen = parser->start += 2;
    return input.n - parser->start >= 2 ||
           (input.n > parser->start && input.p[parser->start] != '\r');
}

/* HTTP_READY when the head is complete. */
static enum http_result
find_head(struct http_parser *parser, struct span input)
{
    if (parser->head_bytes > 0)
        return HTTP_READY;
    if (!skip_empty_lines(parser, input))
        return HTTP_MORE;
    bool in_first_line = true;
    size_t i = parser->start;
    if (parser->seen > i) {
        in_first_line = memchr(input.p + i, '\n', parser->seen - i) == NULL;
        i = parser->seen;
    }
    for (; i < input.n; i++) {
        unsigned char c = (unsigned char)input.p[i];
        bool after_cr = i > parser->start && input.p[i - 1] == '\r';
        if (i - parser->start >= HTTP_HEAD_MAX)
            return in_first_line ? fail(parser, 414, "the request line is too long")
                                 : fail(parser, 431, "the header is too large");
        if (after_cr != (c == '\n'))
            return fail(parser, 400, "a line does not end in CRLF");
        if ((c < 0x20 && c != '\t' && c != '\r' && c != '\n') || c == 0x7f)
            return fail(parser, 400, "a control character in the header");
        if (c != '\n')
            continue;
        in_first_line = false;
        if (i - parser->start >= 3 && memcmp(input.p + i - 3, "\r\n\r\n", 4) == 0) {
            parser->head_bytes = i + 1;
            return HTTP_READY;
        }
    }
    parser->seen = i;
    return HTTP_MORE;
}

/* ---- the lines of the head ---- */

static enum http_result
parse_request_line(struct http_parser *parser, struct span line, struct head *head)
{
    struct span method = span_cut(&line, ' ');
    head->target = span_cut(&line, ' ');
    if (!is_token(method))
        return fail(parser, 400, "this is not an HTTP request");
    head->request.method = span_eq(method, SPAN("GET"))    ? HTTP_GET
                           : span_eq(method, SPAN("HEAD")) ? HTTP_HEAD
                           : span_eq(method, SPAN("POST")) ? HTTP_POST
                                                           : HTTP_OTHER;
    if (line.n != 8 || !span_starts(line, SPAN("HTTP/")))
        return fail(parser, 400, "this is not an HTTP request");
    if (!span_eq(line, SPAN("HTTP/1.1")) && !span_eq(line, SPAN("HTTP/1.0")))
        return fail(parser, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    head->request.http11 = line.p[7] == '1';
    if (head->target.n > HTTP_TARGET_MAX)
        return fail(parser, 414, "the target is too long");
    if (head->target.n == 0 || head->target.p[0] != '/')
        return fail(parser, 400, "the target must be a path");
    for (size_t i = 0; i < head->target.n; i++)
        if (head->target.p[i] <= ' ' || head->target.p[i] == '#' || head->target.p[i] >= 0x7f)
            return fail(parser, 400, "a character in the target must be percent-encoded");
    return HTTP_READY;
}

/* The value of a field that may come once. */
static bool
take_once(bool *seen, struct span *field, struct span value)
{
    if (*seen)
        return false;
    *seen = true;
    *field = value;
    return true;
}

static enum http_result
parse_length(struct http_parser *parser, struct span value, struct head *head)
{
    if (head->has_length || !span_u64(value, &head->content_length))
        return fail(parser, 400, "bad Content-Length");
    head->has_length = true;
    if (head->content_length > HTTP_BODY_MAX)
        return fail(parser, 413, "the request is too large");
    return HTTP_READY;
}

static void
parse_connection(struct span value, struct head *head)
{
    while (value.n > 0) {
        struct span option = span_trim(span_cut(&value, ','));
        if (span_ieq(option, SPAN("close")))
            head->wants_close = true;
        if (span_ieq(option, SPAN("keep-alive")))
            head->wants_keep_alive = true;
    }
}

static enum http_result
parse_field(struct http_parser *parser, struct span line, struct head *head)
{
    struct http_request *request = &head->request;
    struct span value = line, name = span_cut(&value, ':');
    bool ok = true;
    if (name.n == line.n || !is_token(name))
        return fail(parser, 400, "a bad header field"); /* a folded line ends here too */
    value = span_trim(value);
    if (span_ieq(name, SPAN("Transfer-Encoding")))
        return fail(parser, 501, "requests with Transfer-Encoding are not taken");
    if (span_ieq(name, SPAN("Content-Length")))
        return parse_length(parser, value, head);
    if (span_ieq(name, SPAN("Host")))
        ok = take_once(&head->has_host, &request->host, value);
    else if (span_ieq(name, SPAN("Authorization")))
        ok = take_once(&head->has_authorization, &request->authorization, value);
    else if (span_ieq(name, SPAN("Content-Type")))
        ok = take_once(&head->has_type, &request->content_type, value);
    else if (span_ieq(name, SPAN("Origin")))
        ok = take_once(&head->has_origin, &request->origin, value);
    else if (span_ieq(name, SPAN("Connection")))
        parse_connection(value, head);
    else if (span_ieq(name, SPAN("Expect")) && !span_ieq(value, SPAN("100-continue")))
        return fail(parser, 417, "only Expect: 100-continue is known");
    else if (span_ieq(name, SPAN("Expect")))
        request->expect_continue = request->http11;
    return ok ? HTTP_READY : fail(parser, 400, "a header field that may come only once came twice");
}

/* `text` is the whole head with its final empty line. */
static enum http_result
parse_head(struct http_parser *parser, struct span text, struct head *head)
{
    *head = (struct head){0};
    size_t n_fields = 0;
    bool first = true;
    text.n -= 2; /* the empty line */
    while (text.n > 0) {
        struct span line = span_cut(&text, '\n');
        line.n--; /* its CR: find_head() has seen to that */
        if (!first && ++n_fields > HTTP_FIELDS_MAX)
            return fail(parser, 431, "too many header fields");
        enum http_result result =
            first ? parse_request_line(parser, line, head) : parse_field(parser, line, head);
        if (result != HTTP_READY)
            return result;
        first = false;
    }
    struct http_request *request = &head->request;
    if (request->http11 && !head->has_host)
        return fail(parser, 400, "no Host");
    if (request->method != HTTP_POST && head->content_length > 0)
        return fail(parser, 400, "only POST may have a body");
    request->keep_alive = !head->wants_close && (request->http11 || head->wants_keep_alive);
    return HTTP_READY;
}

/* ---- path and query ---- */

static int
hex_digit(char c)
{
    if (ascii_digit(c))
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decode in place; false for a bad escape, a control character or what is no UTF-8. */
static bool
percent_decode(struct span *s, bool in_path)
{
    char *to = (char *)(uintptr_t)s->p; /* the request's own copy */
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        char c = s->p[i];
        if (c == '%') {
            int high = s->n - i > 2 ? hex_digit(s->p[i + 1]) : -1;
            int low = s->n - i > 2 ? hex_digit(s->p[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (char)(high << 4 | low);
            if (in_path && c == '/')
                return false;
            i += 2;
        }
        to[n++] = c;
    }
    s->n = n;
    for (struct span rest = *s; rest.n > 0;) {
        uint32_t cp;
        size_t used = utf8_next(rest, &cp);
        if (used == 0 || cp < 0x20 || (cp >= 0x7f && cp <= 0x9f))
            return false;
        rest = span_from(rest, used);
    }
    return true;
}

static bool
path_ok(struct span path)
{
    struct span rest = span_from(path, 1);
    while (rest.n > 0) {
        bool last = span_find_byte(rest, '/') == SIZE_MAX;
        struct span segment = span_cut(&rest, '/');
        if (segment.n == 0 || span_eq(segment, SPAN(".")) || span_eq(segment, SPAN("..")))
            return false;
        if (!last && rest.n == 0)
            return false; /* a slash at the end */
    }
    return true;
}

static bool
parse_query(struct http_request *request, struct span text)
{
    while (text.n > 0) {
        struct span value = span_cut(&text, '&');
        if (value.n == 0)
            continue;
        struct http_param param = {.name = span_cut(&value, '='), .value = value};
        if (!percent_decode(&param.name, false) || !percent_decode(&param.value, false) ||
            param.name.n == 0 || request->n_query == HTTP_QUERY_MAX)
            return false;
        for (size_t i = 0; i < request->n_query; i++)
            if (span_eq(request->query[i].name, param.name))
                return false;
        request->query[request->n_query++] = param;
    }
    return true;
}

enum http_result
http_parse(struct http_parser *parser, struct span input, struct http_request *ret,
           size_t *ret_used)
{
    struct head head;
    bool known = parser->head_bytes > 0;
    assert(parser->status == 0);
    enum http_result result = find_head(parser, input);
    if (result != HTTP_READY)
        return result;
    size_t head_n = parser->head_bytes - parser->start;
    if (!known) {
        result = parse_head(parser, span_of(input.p + parser->start, head_n), &head);
        if (result != HTTP_READY)
            return result;
        parser->body_bytes = (size_t)head.content_length;
        parser->wants_continue = head.request.expect_continue && head.content_length > 0 &&
                                 input.n == parser->head_bytes;
    }
    size_t total = parser->head_bytes + parser->body_bytes;
    if (input.n < total)
        return HTTP_MORE;
    char *text = xstrndup(input.p + parser->start, total - parser->start);
    result = parse_head(parser, span_of(text, head_n), &head);
    assert(result == HTTP_READY);
    struct http_request *request = &head.request;
    request->text = text;
    request->body = span_of(text + head_n, parser->body_bytes);
    struct span query = head.target;
    request->path = span_cut(&query, '?');
    if (!percent_decode(&request->path, true) || !path_ok(request->path) ||
        !parse_query(request, query)) {
        free(text);
        return fail(parser, 400, "a bad path or query");
    }
    *ret = *request;
    *ret_used = total;
    return HTTP_READY;
}

void
http_request_release(struct http_request *request)
{
    if (request->authorization.n > 0) /* inside `text`, ours to write */
        explicit_bzero((char *)request->authorization.p, request->authorization.n);
    free(request->text);
    *request = (struct http_request){0};
}

struct span
http_query(const struct http_request *request, const char *name)
{
    for (size_t i = 0; i < request->n_query; i++)
        if (span_eq(request->query[i].name, span_str(name)))
            return request->query[i].value;
    return SPAN_NONE;
}

const char *
http_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } texts[] = {
        {100, "Continue"},
        {200, "OK"},
        {202, "Accepted"},
        {204, "No Content"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < N_ELEMENTS(texts); i++)
        if (texts[i].status == status)
            return texts[i].text;
    return "Unknown";
}

void
http_escape(struct strbuf *out, struct span text)
{
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        if (ascii_alpha(c) || ascii_digit(c) || c == '-' || c == '.' || c == '_' || c == '~')
            strbuf_add_byte(out, c);
        else
            strbuf_printf(out, "%%%02X", (unsigned)(unsigned char)c);
    }
}
