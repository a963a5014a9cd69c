/*
 * Asking the daemon: JSON in and out, and what its errors mean for the exit code.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "relayd/ctl/client.h"
#include "relayd/ctl/ctl.h"
#include "relayd/ops/api.h"
#include "relayd/ops/http.h"
#include "relayd/ops/utf8.h"

void
ctl_complain(const char *fmt, ...)
{
    CLEANUP(strbuf_release) struct strbuf safe = STRBUF_INIT;
    va_list ap;
    char *text;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        abort();
    va_end(ap);
    strbuf_add_str(&safe, "relayctl: ");
    utf8_add_printable(&safe, span_str(text));
    fprintf(stderr, "%s\n", safe.p);
    free(text);
}

int
ctl_exit_of(enum err_code code)
{
    switch (code) {
    case ERR_OK:
        return EX_OK;
    case ERR_INVAL:
    case ERR_LIMIT:
    case ERR_CORRUPT:
        return EX_DATAERR;
    case ERR_NOT_FOUND:
        return EX_NOINPUT;
    case ERR_PERM:
        return EX_NOPERM;
    case ERR_BUSY:
    case ERR_AGAIN:
    case ERR_FULL:
        return EX_TEMPFAIL;
    case ERR_EXISTS:
    case ERR_STALE:
        return CTL_REFUSED;
    case ERR_VERSION:
        return EX_CONFIG;
    case ERR_IO:
        return EX_IOERR;
    }
    return EX_SOFTWARE;
}

int
ctl_fail(const struct err *err)
{
    ctl_complain("%s", err->text);
    return ctl_exit_of(err->code);
}

void
ctl_query_add(struct strbuf *path, const char *name, const char *value)
{
    if (value == NULL)
        return;
    strbuf_add_byte(path, strchr(path->p, '?') == NULL ? '?' : '&');
    strbuf_add_str(path, name);
    strbuf_add_byte(path, '=');
    http_escape(path, span_str(value));
}

static enum err_code
take_json(void *arg, struct span piece, struct err *err)
{
    struct strbuf *answer = arg;
    if (answer->n + piece.n > CLIENT_ANSWER_MAX)
        return err_set(err, ERR_LIMIT, "the answer is too large");
    strbuf_add_span(answer, piece);
    return ERR_OK;
}

static enum err_code
take_stdout(void *arg, struct span piece, struct err *err)
{
    (void)arg;
    if (fwrite(piece.p, 1, piece.n, stdout) != piece.n)
        return err_set(err, ERR_IO, "standard output: %s", strerror(errno));
    return ERR_OK;
}

/* The exit code for {"error":{"code":...,"text":...}}, which is told on stderr. */
static int
refused(const struct ctl *ctl, int status, const struct strbuf *answer)
{
    cJSON *json = answer->n == 0 ? NULL : cJSON_ParseWithLength(answer->p, answer->n);
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(json, "error");
    const char *name = api_str(error, "code", "");
    int exit_code = CTL_REFUSED;
    for (int code = ERR_INVAL; code <= ERR_IO; code++)
        if (strcmp(name, err_code_name((enum err_code)code)) == 0)
            exit_code = ctl_exit_of((enum err_code)code);
    const char *text = api_str(error, "text", http_status_text(status));
    const cJSON *problems = cJSON_GetObjectItemCaseSensitive(json, "problems"), *problem;
    cJSON_ArrayForEach(problem, problems) if (cJSON_IsString(problem))
        ctl_complain("%s", problem->valuestring);
    if (cJSON_IsArray(problems))
        exit_code = EX_CONFIG;
    ctl_complain("%s", text);
    if (ctl->json && json != NULL)
        ctl_print_json(json);
    cJSON_Delete(json);
    return exit_code;
}

static int
call(struct ctl *ctl, const char *method, const char *path, cJSON *body, cJSON **ret, bool quiet)
{
    CLEANUP(strbuf_release) struct strbuf answer = STRBUF_INIT, other = STRBUF_INIT;
    CLEANUP(freep) char *text = body == NULL ? NULL : cJSON_PrintUnformatted(body);
    struct err err;
    int status;
    cJSON_Delete(body);
    enum err_code code = client_request(ctl_socket(ctl), method, path, span_str(text), &status,
                                        take_json, &answer, &other, &err);
    if (code == ERR_NOT_FOUND && quiet)
        return EX_UNAVAILABLE;
    if (code != ERR_OK) {
        ctl_complain("%s", err.text);
        return code == ERR_NOT_FOUND ? EX_UNAVAILABLE : ctl_exit_of(code);
    }
    if (status < 200 || status > 299)
        return refused(ctl, status, &other);
    *ret = answer.n == 0 ? cJSON_CreateObject() : cJSON_ParseWithLength(answer.p, answer.n);
    if (*ret != NULL)
        return 0;
    ctl_complain("the answer of relayd is not JSON");
    return EX_PROTOCOL;
}

int
ctl_call(struct ctl *ctl, const char *method, const char *path, cJSON *body, cJSON **ret)
{
    return call(ctl, method, path, body, ret, false);
}

int
ctl_call_quiet(struct ctl *ctl, const char *method, const char *path, cJSON *body, cJSON **ret)
{
    return call(ctl, method, path, body, ret, true);
}

int
ctl_copy(struct ctl *ctl, const char *path)
{
    CLEANUP(strbuf_release) struct strbuf other = STRBUF_INIT;
    struct err err;
    int status;
    enum err_code code = client_request(ctl_socket(ctl), "GET", path, SPAN_NONE, &status,
                                        take_stdout, NULL, &other, &err);
    if (code == ERR_NOT_FOUND) {
        ctl_complain("%s", err.text);
        return EX_UNAVAILABLE;
    }
    if (code != ERR_OK)
        return ctl_fail(&err);
    if (status < 200 || status > 299)
        return refused(ctl, status, &other);
    return ctl_finish();
}
