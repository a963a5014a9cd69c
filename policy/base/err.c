#include "policy/base/err.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum err_code
err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    assert(code != ERR_OK);
    if (err == NULL)
        return code;
    err->code = code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    return code;
}

enum err_code
err_prefix(struct err *err, const char *fmt, ...)
{
    if (err == NULL)
        return ERR_INVAL;
    char old[sizeof(err->text)];
    memcpy(old, err->text, sizeof(old));
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used < sizeof(err->text))
        snprintf(err->text + used, sizeof(err->text) - used, ": %s", old);
    return err->code;
}

const char *
err_code_name(enum err_code code)
{
    static const char *const names[] = {
        [ERR_OK] = "ok",           [ERR_INVAL] = "inval",
        [ERR_LIMIT] = "limit",     [ERR_NOT_FOUND] = "not_found",
        [ERR_EXISTS] = "exists",   [ERR_FULL] = "full",
        [ERR_BUSY] = "busy",       [ERR_AGAIN] = "again",
        [ERR_STALE] = "stale",     [ERR_VERSION] = "version",
        [ERR_CORRUPT] = "corrupt", [ERR_PERM] = "perm",
        [ERR_IO] = "io",
    };
    return (size_t)code < sizeof(names) / sizeof(names[0]) ? names[code] : "unknown";
}
