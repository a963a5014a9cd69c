#include "relayd/ops/api.h"

#include <stdlib.h>
#include <time.h>

#include "policy/base/mem.h"
#include "relayd/ops/log.h"
#include "relayd/ops/utf8.h"

void
api_add_time(cJSON *object, const char *name, msec_t at)
{
    char buf[LOG_TIME_BYTES];
    if (at <= 0)
        cJSON_AddNullToObject(object, name);
    else
        cJSON_AddStringToObject(object, name, log_time_format(at, buf));
}

void
api_add_span(cJSON *object, const char *name, struct span value)
{
    CLEANUP(strbuf_release) struct strbuf text = STRBUF_INIT;
    strbuf_reserve(&text, value.n);
    text.p[0] = '\0';
    while (value.n > 0) {
        uint32_t cp;
        size_t n = utf8_next(value, &cp);
        if (n == 0 || cp == 0)
            strbuf_add(&text, "\xef\xbf\xbd", 3);
        else
            strbuf_add(&text, value.p, n);
        value = span_from(value, n == 0 ? 1 : n);
    }
    cJSON_AddStringToObject(object, name, text.p);
}

/* `n` digits at `at`, which move it on; false when there are others. */
static bool
take_number(const char **at, int n, int *ret)
{
    *ret = 0;
    for (; n > 0; n--, (*at)++) {
        if (!ascii_digit(**at))
            return false;
        *ret = *ret * 10 + (**at - '0');
    }
    return true;
}

static bool
take_byte(const char **at, char c)
{
    return *(*at)++ == c;
}

bool
api_time_parse(const char *text, msec_t *ret)
{
    struct tm tm = {0};
    const char *at = text;
    int ms;
    if (strlen(text) != LOG_TIME_BYTES - 1)
        return false;
    if (!take_number(&at, 4, &tm.tm_year) || !take_byte(&at, '-') ||
        !take_number(&at, 2, &tm.tm_mon) || !take_byte(&at, '-') ||
        !take_number(&at, 2, &tm.tm_mday) || !take_byte(&at, 'T') ||
        !take_number(&at, 2, &tm.tm_hour) || !take_byte(&at, ':') ||
        !take_number(&at, 2, &tm.tm_min) || !take_byte(&at, ':') ||
        !take_number(&at, 2, &tm.tm_sec) || !take_byte(&at, '.') || !take_number(&at, 3, &ms) ||
        !take_byte(&at, 'Z'))
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    *ret = (msec_t)timegm(&tm) * 1000 + ms;
    return true;
}

void
api_json_setup(void)
{
    cJSON_Hooks hooks = {.malloc_fn = xmalloc, .free_fn = free};
    cJSON_InitHooks(&hooks);
}

const char *
api_str(const cJSON *object, const char *name, const char *otherwise)
{
    const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    return value == NULL ? otherwise : value;
}

double
api_num(const cJSON *object, const char *name, double otherwise)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNumber(item) ? item->valuedouble : otherwise;
}

bool
api_bool(const cJSON *object, const char *name)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, name));
}
