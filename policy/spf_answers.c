/*
 * spf_answers.c - what DNS said, by question; records are parsed when they come in, once.
 */
#include "policy/spf_internal.h"

#include <assert.h>
#include <stdlib.h>

#include "policy/base/mem.h"

#define KEY_BYTES (SPF_NAME_BYTES + 1)

struct spf_answers {
    struct map by_key; /* struct spf_answer, owned */
};

struct spf_answers *
spf_answers_new(struct map_seed seed)
{
    struct spf_answers *answers = xcalloc(1, sizeof(*answers));
    map_init(&answers->by_key, seed);
    return answers;
}

static void
answer_free(struct spf_answer *a)
{
    for (size_t i = 0; a->hosts != NULL && i < a->n; i++)
        free(a->hosts[i]);
    free(a->hosts);
    free(a->ips);
    spf_policy_free(a->policy);
    free(a);
}

void
spf_answers_free(struct spf_answers *answers)
{
    struct span key;
    void *value;

    if (answers == NULL)
        return;
    for (size_t pos = 0; map_next(&answers->by_key, &pos, &key, &value);)
        answer_free(value);
    map_release(&answers->by_key);
    free(answers);
}

size_t
spf_answers_count(const struct spf_answers *answers)
{
    return answers->by_key.n;
}

/* Type and name, lower case, in `buf`. */
static struct span
make_key(char buf[KEY_BYTES], enum spf_type type, const char *name)
{
    size_t n = 0;
    buf[n++] = (char)('0' + type);
    for (; *name != '\0' && n < KEY_BYTES; name++)
        buf[n++] = ascii_lower(*name);
    return span_of(buf, n);
}

const struct spf_answer *
spf_answers_find(const struct spf_answers *answers, enum spf_type type, const char *name)
{
    char buf[KEY_BYTES];
    return map_get(&answers->by_key, make_key(buf, type, name));
}

static void
take_texts(struct spf_answer *a, const struct spf_record *records, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!spf_record_is(records[i].text))
            continue;
        if (a->n_policies++ == 0)
            a->policy = spf_policy_parse(records[i].text);
    }
}

/* The host as it can be asked for; "" like the root when it cannot. malloc'd. */
static char *
host_name(struct span text)
{
    if (span_ends(text, SPAN(".")))
        text = span_first(text, text.n - 1);
    char *name = xstrndup(text.p, text.n < SPF_NAME_BYTES ? text.n : 0);
    for (size_t i = 0; name[i] != '\0'; i++) {
        bool dot = name[i] == '.' && (i == 0 || name[i - 1] == '.' || name[i + 1] == '\0');
        if (dot || name[i] <= ' ' || name[i] >= 0x7f)
            name[0] = '\0';
        else
            name[i] = ascii_lower(name[i]);
    }
    return name;
}

static void
take_hosts(struct spf_answer *a, size_t max, const struct spf_record *records, size_t n)
{
    a->n = n < max ? n : max;
    a->hosts = xcalloc(a->n + 1, sizeof(a->hosts[0]));
    for (size_t i = 0; i < a->n; i++)
        a->hosts[i] = host_name(records[i].text);
}

static void
take_addresses(struct spf_answer *a, const struct spf_record *records, size_t n)
{
    a->n = n;
    a->ips = xcalloc(n + 1, sizeof(a->ips[0]));
    for (size_t i = 0; i < n; i++)
        a->ips[i] = records[i].ip;
}

void
spf_answers_add(struct spf_answers *answers, enum spf_type type, const char *name,
                enum spf_status status, uint32_t ttl_s, const struct spf_record *records,
                size_t n_records)
{
    char buf[KEY_BYTES];
    struct span key = make_key(buf, type, name);

    if (map_get(&answers->by_key, key) != NULL)
        return;
    struct spf_answer *a = xcalloc(1, sizeof(*a) + key.n);
    memcpy(a->key, key.p, key.n);
    a->n_key = key.n;
    a->status = status == SPF_FOUND && n_records == 0 ? SPF_VOID : status;
    a->ttl_s = ttl_s;
    if (a->status == SPF_FOUND) {
        if (type == SPF_TXT)
            take_texts(a, records, n_records);
        else if (type == SPF_MX)
            take_hosts(a, SPF_MX_MAX + 1, records, n_records);
        else if (type == SPF_PTR)
            take_hosts(a, SPF_PTR_MAX, records, n_records);
        else
            take_addresses(a, records, n_records);
    }
    map_put(&answers->by_key, span_of(a->key, a->n_key), a);
}
