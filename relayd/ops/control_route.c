/*
 * From a request to its handler: the token, the rules for browsers, the table, the JSON body.
 */
#include "relayd/ops/control.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/ip.h"
#include "policy/base/mem.h"
#include "relayd/ops/control_impl.h"
#include "relayd/ops/log.h"
#include "relayd/ops/utf8.h"

#define TOKEN_MAX 1024

/* ---- who may ---- */

/* Takes the same time whatever `given` holds. */
static bool
token_equal(struct span given, const char *token)
{
    size_t n = strlen(token);
    unsigned char diff = given.n != n;
    for (size_t i = 0; i < n; i++)
        diff |= (unsigned char)((i < given.n ? given.p[i] : 0) ^ token[i]);
    return diff == 0;
}

static int
base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits);
}

/* The password in Basic credentials (RFC 7617): behind the first colon. */
static struct span
basic_password(struct span encoded, char buf[TOKEN_MAX])
{
    size_t n = 0;
    unsigned bits = 0, n_bits = 0;
    while (encoded.n > 0 && encoded.p[encoded.n - 1] == '=')
        encoded.n--;
    for (size_t i = 0; i < encoded.n && n < TOKEN_MAX; i++) {
        int value = base64_value(encoded.p[i]);
        if (value < 0)
            return SPAN_NONE;
        bits = (bits << 6 | (unsigned)value) & 0xffffff;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            buf[n++] = (char)(bits >> n_bits & 0xff);
        }
    }
    struct span password = span_of(buf, n);
    span_cut(&password, ':');
    return password;
}

static bool
token_shown(const struct control_call *call, const char *token)
{
    struct span credentials = call->request.authorization;
    struct span scheme = span_cut(&credentials, ' ');
    char buf[TOKEN_MAX];
    credentials = span_trim(credentials);
    if (span_ieq(scheme, SPAN("Bearer")))
        return token_equal(credentials, token);
    if (!span_ieq(scheme, SPAN("Basic")))
        return false;
    bool equal = token_equal(basic_password(credentials, buf), token);
    explicit_bzero(buf, sizeof(buf));
    return equal;
}

/* "localhost", "127.0.0.1:8025", "[::1]" */
static bool
host_is_loopback(struct span host)
{
    struct ip ip;
    uint16_t port;
    struct span name = host;
    if (span_ieq(span_cut(&name, ':'), SPAN("localhost")))
        return true;
    if (host.n > 2 && host.p[0] == '[' && host.p[host.n - 1] == ']')
        host = span_of(host.p + 1, host.n - 2);
    return ip_port_parse(host, 80, &ip, &port, NULL) == ERR_OK && ip_is_loopback(&ip);
}

static bool
is_json(struct span content_type)
{
    return span_ieq(span_trim(span_cut(&content_type, ';')), SPAN("application/json"));
}

/* Requests over TCP. True when the handler may run; else the call has been answered. */
static bool
tcp_allowed(struct control_call *call)
{
    const struct http_request *request = &call->request;
    const char *token = call->control->token;
    bool open = call->route != NULL && call->route->open;
    if (token != NULL && !open && !token_shown(call, token)) {
        if (request->authorization.n > 0) {
            struct log_line line;
            log_begin(call->control->log, &line, LOG_WARNING, "control_denied");
            log_cstr(&line, "who", call->who);
            log_str(&line, "path", request->path);
            log_cstr(&line, "text", "wrong token");
            log_end(&line);
        }
        control_refuse_call(call, 401, "perm",
                            "WWW-Authenticate: Bearer realm=\"relayd\"\r\n"
                            "WWW-Authenticate: Basic realm=\"relayd\"\r\n",
                            "the token of http.token_file is needed");
        return false;
    }
    if (token == NULL && !call->cc->loopback) {
        control_refuse_call(call, 403, "perm", NULL, "without a token only loopback is served");
        return false;
    }
    if (token == NULL && request->host.n > 0 && !host_is_loopback(request->host)) {
        control_refuse_call(call, 421, "perm", NULL, "Host must be a loopback address");
        return false;
    }
    if (request->method != HTTP_POST)
        return true;
    if (request->origin.n > 0) {
        control_refuse_call(call, 403, "perm", NULL, "requests from web pages are not taken");
        return false;
    }
    if (!is_json(request->content_type)) {
        control_refuse_call(call, 415, "inval", NULL, "Content-Type must be application/json");
        return false;
    }
    return true;
}

/* ---- the table ---- */

/* Does `path` fit the pattern? Sets *segment to what {id} stands for. */
static bool
path_match(struct span pattern, struct span path, struct span *segment)
{
    *segment = SPAN_NONE;
    while (pattern.n > 0 && path.n > 0) {
        struct span want = span_cut(&pattern, '/'), have = span_cut(&path, '/');
        if (span_eq(want, SPAN("{id}")) && have.n > 0)
            *segment = have;
        else if (!span_eq(want, have))
            return false;
    }
    return pattern.n == 0 && path.n == 0;
}

static enum http_method
route_method(const struct control_route *route)
{
    return strcmp(route->method, "POST") == 0 ? HTTP_POST : HTTP_GET;
}

/* Sets call->route and segment; *ret_arg for its handler; *ret_path_known when only the method was
 * wrong. An exact path wins over one with {id}. */
static void
route_find(struct control_call *call, void **ret_arg, bool *ret_path_known)
{
    const struct control *control = call->control;
    enum http_method method = call->request.method == HTTP_HEAD ? HTTP_GET : call->request.method;
    *ret_path_known = false;
    for (size_t t = 0; t < control->n_tables; t++) {
        for (size_t i = 0; i < control->tables[t].n; i++) {
            const struct control_route *route = &control->tables[t].routes[i];
            struct span segment;
            if (!path_match(span_str(route->path), call->request.path, &segment))
                continue;
            *ret_path_known = true;
            if (route_method(route) != method || (call->route != NULL && segment.n > 0))
                continue;
            call->route = route;
            call->segment = segment;
            *ret_arg = control->tables[t].arg;
        }
    }
}

/* ---- the body ---- */

static bool
json_too_deep(struct span text)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == '{' || c == '[') && ++depth > CONTROL_JSON_DEPTH)
            return true;
        else if (!in_string && (c == '}' || c == ']'))
            depth--;
    }
    return false;
}

static const char *
body_parse(struct control_call *call)
{
    struct span text = span_trim(call->request.body);
    const char *end;
    if (text.n == 0) {
        call->body = cJSON_CreateObject();
        return NULL;
    }
    if (!utf8_valid(text) || span_ifind(text, SPAN("\\u0000")) != SIZE_MAX)
        return "the body is not UTF-8, or holds a NUL";
    if (json_too_deep(text))
        return "the JSON is nested too deep";
    call->body = cJSON_ParseWithLengthOpts(text.p, text.n, &end, false);
    if (call->body == NULL || end != text.p + text.n)
        return "the body is not JSON";
    if (!cJSON_IsObject(call->body))
        return "the body must be a JSON object";
    return NULL;
}

void
control_dispatch(struct control_call *call)
{
    void *arg = NULL;
    bool path_known;
    route_find(call, &arg, &path_known);
    if (call->cc->tcp && !tcp_allowed(call))
        return;
    if (call->route == NULL) {
        if (path_known)
            control_refuse_call(call, 405, "inval",
                                call->request.method == HTTP_POST ? "Allow: GET, HEAD\r\n"
                                                                  : "Allow: POST\r\n",
                                "this path does not take that method");
        else
            control_refuse_call(call, 404, "not_found", NULL, "no such path");
        return;
    }
    const char *problem = body_parse(call);
    if (problem != NULL) {
        control_refuse_call(call, 400, "inval", NULL, problem);
        return;
    }
    call->route->run(call, arg);
}
