/*
 * Answers: a status line, our few header fields, the body at once or in chunks.
 */
#include "relayd/ops/control.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "policy/base/mem.h"
#include "relayd/ops/control_impl.h"

#define JSON_TYPE "application/json"
#define LENGTH_UNKNOWN SIZE_MAX

/* RFC 9110 section 5.6.7: Sun, 06 Nov 1994 08:49:37 GMT */
static void
add_date(struct strbuf *out, msec_t at)
{
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    time_t seconds = (time_t)(at / 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    strbuf_printf(out, "Date: %s, %02d %s %d %02d:%02d:%02d GMT\r\n", days[tm.tm_wday % 7],
                  tm.tm_mday, months[tm.tm_mon % 12], tm.tm_year + 1900, tm.tm_hour, tm.tm_min,
                  tm.tm_sec);
}

struct answer_head {
    int status;
    const char *content_type;
    const char *extra; /* more header lines, or NULL */
    size_t length;     /* LENGTH_UNKNOWN: a stream */
    bool chunked, close;
};

static void
add_head(struct strbuf *out, const struct control *control, const struct answer_head *head)
{
    strbuf_printf(out, "HTTP/1.1 %d %s\r\n", head->status, http_status_text(head->status));
    add_date(out, clock_wall(loop_clock(control->loop)));
    strbuf_printf(out, "Content-Type: %s\r\n", head->content_type);
    if (head->length != LENGTH_UNKNOWN)
        strbuf_printf(out, "Content-Length: %zu\r\n", head->length);
    else if (head->chunked)
        strbuf_add_str(out, "Transfer-Encoding: chunked\r\n");
    strbuf_add_str(out, "Cache-Control: no-store\r\n"
                        "X-Content-Type-Options: nosniff\r\n"
                        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; "
                        "frame-ancestors 'none'\r\n");
    if (head->extra != NULL)
        strbuf_add_str(out, head->extra);
    strbuf_add_str(out, head->close ? "Connection: close\r\n\r\n" : "\r\n");
}

static char *
error_json(const char *code, const char *text)
{
    cJSON *json = cJSON_CreateObject();
    cJSON *error = cJSON_AddObjectToObject(json, "error");
    cJSON_AddStringToObject(error, "code", code);
    cJSON_AddStringToObject(error, "text", text);
    char *printed = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    return printed;
}

void
control_refuse(struct control *control, struct conn *conn, int status, const char *reason)
{
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    CLEANUP(freep) char *body = error_json(status == 503 ? "again" : "inval", reason);
    struct answer_head head = {
        .status = status, .content_type = JSON_TYPE, .length = strlen(body), .close = true};
    add_head(&out, control, &head);
    strbuf_add_str(&out, body);
    conn_write(conn, strbuf_span(&out));
    conn_shutdown(conn, true);
}

/* The whole answer of a call, which ends with it. */
static void
answer(struct control_call *call, int status, const char *content_type, const char *extra,
       struct span body)
{
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    assert(!call->streaming && call->status == 0);
    call->status = status;
    if (call->cc != NULL) {
        struct answer_head head = {.status = status,
                                   .content_type = content_type,
                                   .extra = extra,
                                   .length = body.n,
                                   .close = call->cc->close_after};
        add_head(&out, call->control, &head);
        struct span pieces[2] = {strbuf_span(&out), body};
        conn_writev(call->cc->conn, pieces,
                    call->request.method == HTTP_HEAD || body.n == 0 ? 1 : 2);
    }
    control_call_done(call);
}

void
control_refuse_call(struct control_call *call, int status, const char *code, const char *extra,
                    const char *reason)
{
    CLEANUP(freep) char *body = error_json(code, reason);
    answer(call, status, JSON_TYPE, extra, span_str(body));
}

void
control_json(struct control_call *call, int status, cJSON *json)
{
    CLEANUP(freep) char *text = cJSON_PrintUnformatted(json);
    cJSON_Delete(json);
    if (text == NULL)
        control_refuse_call(call, 500, "io", NULL, "the answer could not be printed");
    else
        answer(call, status, JSON_TYPE, NULL, span_str(text));
}

void
control_text(struct control_call *call, int status, const char *content_type, struct span body)
{
    answer(call, status, content_type, NULL, body);
}

int
control_status(enum err_code code)
{
    switch (code) {
    case ERR_OK:
        return 200;
    case ERR_INVAL:
        return 400;
    case ERR_LIMIT:
        return 413;
    case ERR_NOT_FOUND:
        return 404;
    case ERR_EXISTS:
    case ERR_BUSY:
    case ERR_STALE:
        return 409;
    case ERR_FULL:
        return 507;
    case ERR_AGAIN:
        return 503;
    case ERR_PERM:
        return 403;
    case ERR_VERSION:
    case ERR_CORRUPT:
    case ERR_IO:
        return 500;
    }
    return 500;
}

void
control_error(struct control_call *call, enum err_code code, const char *fmt, ...)
{
    char text[sizeof(((struct err *)0)->text)];
    va_list ap;
    assert(code != ERR_OK);
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    control_refuse_call(call, control_status(code), err_code_name(code), NULL, text);
}

/* ---- streams ---- */

void
control_stream_begin(struct control_call *call, int status, const char *content_type,
                     void (*on_ready)(struct control_call *call, void *arg),
                     void (*on_gone)(struct control_call *call, void *arg), void *arg)
{
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    assert(!call->streaming && call->status == 0);
    call->streaming = true;
    call->status = status;
    call->on_ready = on_ready;
    call->on_gone = on_gone;
    call->stream_arg = arg;
    call->chunked = call->request.http11;
    if (call->cc == NULL)
        return;
    if (!call->chunked)
        call->cc->close_after = true;
    struct answer_head head = {.status = status,
                               .content_type = content_type,
                               .length = LENGTH_UNKNOWN,
                               .chunked = call->chunked,
                               .close = call->cc->close_after};
    add_head(&out, call->control, &head);
    conn_write(call->cc->conn, strbuf_span(&out));
    control_watch_output(call->cc);
}

bool
control_stream(struct control_call *call, struct span bytes)
{
    assert(call->streaming);
    if (call->cc == NULL || call->request.method == HTTP_HEAD)
        return true;
    struct conn *conn = call->cc->conn;
    if (bytes.n > 0 && call->chunked) {
        char size[24];
        int n = snprintf(size, sizeof(size), "%zx\r\n", bytes.n);
        struct span pieces[3] = {span_of(size, (size_t)n), bytes, SPAN("\r\n")};
        conn_writev(conn, pieces, 3);
    } else if (bytes.n > 0) {
        conn_write(conn, bytes);
    }
    call->wants_ready = conn_out_pending(conn) > CONTROL_OUT_MAX;
    if (!timer_is_set(&call->cc->timer))
        control_watch_output(call->cc);
    return !call->wants_ready;
}

void
control_stream_end(struct control_call *call)
{
    assert(call->streaming);
    if (call->cc != NULL && call->chunked && call->request.method != HTTP_HEAD)
        conn_write(call->cc->conn, SPAN("0\r\n\r\n"));
    control_call_done(call);
}

void
control_stream_abort(struct control_call *call)
{
    assert(call->streaming);
    struct control_conn *cc = call->cc;
    call->cc = NULL;
    control_call_done(call);
    if (cc != NULL) {
        cc->call = NULL;
        cc->abort_after = true;
        if (!cc->dispatching)
            control_conn_cut(cc);
    }
}
