/*
 * The answer is read into a small buffer and cut: head, then the body by its length, in chunks, or
 * up to the end of the connection. An answer that ends early is an error, never a short result.
 */
#include "relayd/ctl/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "policy/base/mem.h"

#define HEAD_MAX ((size_t)64 << 10)

struct client {
    int fd;
    const char *socket;
    int timeout_seconds;
    struct strbuf in; /* read and not yet used */
    int status;
    bool chunked, has_length;
    uint64_t length;
    enum err_code (*take)(void *arg, struct span piece, struct err *err);
    void *arg;
    struct strbuf *other;
};

static void
closep(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static enum err_code
client_connect(const char *path, int timeout_seconds, int *ret_fd, struct err *err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct timeval timeout = {.tv_sec = timeout_seconds};
    CLEANUP(closep) int fd = -1;
    if (strlen(path) >= sizeof(addr.sun_path))
        return err_set(err, ERR_INVAL, "%s: the path of a socket is at most %zu characters long",
                       path, sizeof(addr.sun_path) - 1);
    memcpy(addr.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, ERR_IO, "socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
        *ret_fd = fd;
        fd = -1;
        return ERR_OK;
    }
    switch (errno) {
    case EACCES:
    case EPERM:
        return err_set(err, ERR_PERM,
                       "no permission for %s: run as root or as a member of its group", path);
    case EAGAIN:
        return err_set(err, ERR_AGAIN, "relayd does not take connections at %s", path);
    default:
        return err_set(err, ERR_NOT_FOUND, "relayd is not running (%s: %s)", path, strerror(errno));
    }
}

static enum err_code
send_all(struct client *c, struct span bytes, struct err *err)
{
    while (bytes.n > 0) {
        ssize_t n = send(c->fd, bytes.p, bytes.n, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) /* it may have answered already, and why */
            return errno == EPIPE ? ERR_OK
                                  : err_set(err, ERR_IO, "%s: %s", c->socket, strerror(errno));
        bytes = span_from(bytes, (size_t)n);
    }
    return ERR_OK;
}

/* More bytes into c->in; *ret_end at the end of the connection. */
static enum err_code
read_more(struct client *c, bool *ret_end, struct err *err)
{
    char buf[32768];
    for (;;) {
        ssize_t n = recv(c->fd, buf, sizeof(buf), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return err_set(err, ERR_AGAIN, "relayd did not answer in %d s", c->timeout_seconds);
        if (n < 0 && errno != ECONNRESET)
            return err_set(err, ERR_IO, "%s: %s", c->socket, strerror(errno));
        *ret_end = n <= 0;
        if (n > 0)
            strbuf_add(&c->in, buf, (size_t)n);
        return ERR_OK;
    }
}

static enum err_code
broke_off(struct err *err)
{
    return err_set(err, ERR_IO, "the answer broke off");
}

/* Have at least `n` bytes in c->in. */
static enum err_code
need(struct client *c, size_t n, struct err *err)
{
    bool end = false;
    while (c->in.n < n) {
        enum err_code code = read_more(c, &end, err);
        if (code != ERR_OK)
            return code;
        if (end)
            return broke_off(err);
    }
    return ERR_OK;
}

/* Have a whole line in c->in; *ret is it without CRLF, and is to be consumed with its CRLF. */
static enum err_code
need_line(struct client *c, struct span *ret, struct err *err)
{
    for (size_t n = 1;; n = c->in.n + 1) {
        enum err_code code = need(c, n, err);
        if (code != ERR_OK)
            return code;
        size_t at = span_find(strbuf_span(&c->in), SPAN("\r\n"));
        if (at != SIZE_MAX) {
            *ret = span_of(c->in.p, at);
            return ERR_OK;
        }
        if (c->in.n > HEAD_MAX)
            return err_set(err, ERR_IO, "%s does not speak HTTP", c->socket);
    }
}

static enum err_code
read_head(struct client *c, struct err *err)
{
    struct span line;
    for (bool first = true;; first = false) {
        enum err_code code = need_line(c, &line, err);
        if (code != ERR_OK)
            return code;
        uint64_t status;
        struct span value = line, name = span_cut(&value, ':');
        value = span_trim(value);
        if (first && (!span_starts(line, SPAN("HTTP/1.")) || line.n < 12 ||
                      !span_u64(span_of(line.p + 9, 3), &status)))
            return err_set(err, ERR_IO, "%s does not speak HTTP", c->socket);
        if (first)
            c->status = (int)status;
        else if (span_ieq(name, SPAN("Transfer-Encoding")))
            c->chunked = span_ieq(value, SPAN("chunked"));
        else if (span_ieq(name, SPAN("Content-Length")))
            c->has_length = span_u64(value, &c->length);
        strbuf_consume(&c->in, line.n + 2);
        if (line.n == 0)
            return ERR_OK;
    }
}

static enum err_code
pass_on(struct client *c, size_t n, struct err *err)
{
    enum err_code code = ERR_OK;
    if (c->status >= 200 && c->status <= 299)
        code = c->take(c->arg, span_of(c->in.p, n), err);
    else if (c->other->n + n <= CLIENT_ANSWER_MAX)
        strbuf_add(c->other, c->in.p, n);
    strbuf_consume(&c->in, n);
    return code;
}

/* `n` bytes of body as they come. */
static enum err_code
read_piece(struct client *c, uint64_t n, struct err *err)
{
    while (n > 0) {
        enum err_code code = need(c, 1, err);
        size_t have = c->in.n < n ? c->in.n : (size_t)n;
        if (code == ERR_OK)
            code = pass_on(c, have, err);
        if (code != ERR_OK)
            return code;
        n -= have;
    }
    return ERR_OK;
}

static enum err_code
read_chunks(struct client *c, struct err *err)
{
    for (;;) {
        struct span line;
        enum err_code code = need_line(c, &line, err);
        if (code != ERR_OK)
            return code;
        uint64_t n = 0;
        for (size_t i = 0; i < line.n; i++) {
            size_t digit = span_find_byte(SPAN("0123456789abcdef"), ascii_lower(line.p[i]));
            if (digit == SIZE_MAX || line.n > 8)
                return err_set(err, ERR_IO, "a bad chunk in the answer");
            n = n << 4 | digit;
        }
        strbuf_consume(&c->in, line.n + 2);
        code = read_piece(c, n, err);
        if (code == ERR_OK)
            code = need(c, 2, err); /* the CRLF behind it */
        if (code != ERR_OK || n == 0)
            return code;
        strbuf_consume(&c->in, 2);
    }
}

static enum err_code
read_to_end(struct client *c, struct err *err)
{
    for (bool end = false; !end;) {
        enum err_code code = c->in.n > 0 ? pass_on(c, c->in.n, err) : ERR_OK;
        if (code == ERR_OK)
            code = read_more(c, &end, err);
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}

enum err_code
client_request(const char *socket_path, const char *method, const char *path, struct span body,
               int *ret_status,
               enum err_code (*take)(void *arg, struct span piece, struct err *err), void *arg,
               struct strbuf *ret_other, struct err *err)
{
    CLEANUP(closep) int fd = -1;
    CLEANUP(strbuf_release) struct strbuf head = STRBUF_INIT;
    bool looks = strcmp(method, "GET") == 0;
    struct client c = {.socket = socket_path,
                       .timeout_seconds = looks ? CLIENT_LOOK_SECONDS : CLIENT_CHANGE_SECONDS,
                       .take = take,
                       .arg = arg,
                       .other = ret_other};
    enum err_code code = client_connect(socket_path, c.timeout_seconds, &fd, err);
    if (code != ERR_OK)
        return code;
    c.fd = fd;
    strbuf_printf(&head, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", method,
                  path);
    if (strcmp(method, "POST") == 0)
        strbuf_printf(&head, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body.n);
    strbuf_add_str(&head, "\r\n");
    strbuf_add_span(&head, body);
    code = send_all(&c, strbuf_span(&head), err);
    if (code == ERR_OK)
        code = read_head(&c, err);
    if (code == ERR_OK)
        code = c.chunked      ? read_chunks(&c, err)
               : c.has_length ? read_piece(&c, c.length, err)
                              : read_to_end(&c, err);
    strbuf_release(&c.in);
    *ret_status = c.status;
    return code;
}
