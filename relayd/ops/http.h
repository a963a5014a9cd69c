/*
 * http - HTTP/1.1 requests, as much as an administration API needs: a parser without I/O.
 *
 * Strict (RFC 9112): CRLF only, no obsolete folding, no chunked requests, one Content-Length, no
 * Transfer-Encoding at all, one Host. What is not understood is refused and the connection is
 * closed, so there is nothing to smuggle. The parser is fed the unread input from its beginning and
 * remembers how far it has looked, so that input byte by byte is linear.
 */
#pragma once

#include "policy/base/err.h"
#include "policy/base/span.h"

#include <stdbool.h>
#include <stdint.h>

#define HTTP_HEAD_MAX ((size_t)16 << 10)  /* request line and fields */
#define HTTP_FIELDS_MAX 64                /* fields of a request */
#define HTTP_TARGET_MAX ((size_t)4 << 10) /* path and query */
#define HTTP_BODY_MAX ((size_t)32 << 10)  /* a JSON request; with the head below CONN_INPUT_MAX */
#define HTTP_QUERY_MAX 16                 /* parameters of a query */

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST, HTTP_OTHER };

struct http_param {
    struct span name, value; /* percent-decoded, UTF-8, no control bytes; '+' stays '+' */
};

/*
 * A parsed request. Every span points into `text`, which the request owns; the input may go.
 */
struct http_request {
    enum http_method method;
    struct span path; /* percent-decoded; starts with '/', no "//", "." or ".." segments, UTF-8
                         without control bytes; an encoded slash is refused */
    struct http_param query[HTTP_QUERY_MAX];
    size_t n_query;
    struct span host;          /* as sent */
    struct span authorization; /* empty when not sent */
    struct span content_type;
    struct span origin;
    struct span body;
    bool keep_alive; /* HTTP/1.1 without "Connection: close" */
    bool http11;
    bool expect_continue;
    char *text;
};

enum http_result {
    HTTP_MORE,  /* not complete yet */
    HTTP_READY, /* *request is filled, consume ret_used bytes */
    HTTP_ERROR, /* answer parser->status and close */
};

struct http_parser {
    size_t start;        /* empty lines skipped */
    size_t seen;         /* bytes already looked at */
    size_t head_bytes;   /* from the first byte of input; 0 until the head is complete */
    size_t body_bytes;   /* from Content-Length */
    bool wants_continue; /* the head is complete, the client waits for "100 Continue" (RFC 9110
                            section 10.1.1); the caller answers once and clears it */
    int status;          /* after HTTP_ERROR: 400, 413, 414, 417, 431, 501, 505 */
    const char *reason;  /* a sentence for the client, static */
};

void http_parser_init(struct http_parser *parser);

/*
 * Look at `input`, all unread bytes since the request's first. HTTP_READY fills *ret (release it
 * with http_request_release()) and sets *ret_used; what is behind belongs to the next request,
 * for which http_parser_init() is called again. Empty lines before a request line are skipped
 * (RFC 9112 section 2.2), two at most.
 */
enum http_result http_parse(struct http_parser *parser, struct span input, struct http_request *ret,
                            size_t *ret_used);

void http_request_release(struct http_request *request);

/* The value of the parameter `name`, or a span with p == NULL. Duplicates were refused. */
struct span http_query(const struct http_request *request, const char *name);

/* "OK", "Not Found", ... for a status code. */
const char *http_status_text(int status);

/* Append `text` percent-encoded, everything but unreserved characters (RFC 3986 section 2.3). */
void http_escape(struct strbuf *out, struct span text);
