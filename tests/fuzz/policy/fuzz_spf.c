/*
 * fuzz_spf - any records and answers for the SPF check. The input is lines: the first is the
 * sender, the second the HELO name, the rest are what DNS says, handed out to the questions as they
 * come: the first octet of a line chooses what it is (below), its rest is the data. When there are
 * none left, they begin anew. Whatever they say, the check ends within its limits, asks nothing
 * twice and gives a printable reason.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "policy/spf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The longest way: a record, and ten terms of a look-up with ten hosts each; and what was asked
 * ahead until that stops. */
#define QUESTIONS_MAX (SPF_AHEAD_MAX + SPF_ASK_MAX + 1 + (SPF_TERMS_MAX + 1) * (SPF_MX_MAX + 2))
#define RECORDS_MAX 12

static struct {
    struct span all, rest;
} says;

static struct span
next_line(void)
{
    if (says.rest.n == 0)
        says.rest = says.all;
    return span_cut(&says.rest, '\n');
}

static void
check_question(const struct spf_question *q)
{
    size_t n = strlen(q->name);
    assert(n > 0 && n < SPF_NAME_BYTES && q->name[0] != '.' && q->name[n - 1] != '.');
    for (size_t i = 0; i < n; i++) {
        assert(q->name[i] > ' ' && q->name[i] < 0x7f);
        assert(q->name[i] < 'A' || q->name[i] > 'Z');
    }
    assert(strstr(q->name, "..") == NULL);
}

/* One line: 'e' an error, 'v' nothing, a digit: so many records more than one, and this is the
 * first of them. */
static void
answer(struct spf_answers *answers, const struct spf_question *q, const struct ip *client)
{
    struct spf_record records[RECORDS_MAX] = {{{0}, {0}}};
    struct span line = next_line();
    char kind = line.n > 0 ? line.p[0] : 'v';
    size_t n = 1 + (kind >= '0' && kind <= '9' ? (size_t)(kind - '0') : 0);
    char name[64];

    if (kind == 'v' || kind == 'e') {
        spf_answers_add(answers, q->type, q->name, kind == 'v' ? SPF_VOID : SPF_ERROR, 1, NULL, 0);
        return;
    }
    n = n > 9 ? RECORDS_MAX : n;
    for (size_t i = 0; i < n; i++) {
        records[i].text = i == 0 || q->type == SPF_TXT ? span_from(line, 1) : next_line();
        records[i].ip = *client;
        if (!ip_parse(records[i].text, &records[i].ip))
            records[i].ip.bytes[3] ^= (uint8_t)(records[i].text.n & 1);
    }
    if (kind == '1' && q->type != SPF_TXT) { /* a name below the one asked for */
        snprintf(name, sizeof(name), "x.%.60s", q->name);
        records[0].text = span_str(name);
    }
    spf_answers_add(answers, q->type, q->name, SPF_FOUND, (uint32_t)n, records,
                    q->type == SPF_TXT && kind != '2' ? 1 : n);
}

static void
check(const struct spf_query *query)
{
    static struct spf_verdict v;
    struct spf_answers *answers = spf_answers_new((struct map_seed){3, 4});

    while (!spf_check(query, answers, &v)) {
        assert(v.n_questions > 0 && v.n_questions <= SPF_ASK_MAX);
        for (size_t i = 0; i < v.n_questions; i++) {
            size_t before = spf_answers_count(answers);
            check_question(&v.questions[i]);
            answer(answers, &v.questions[i], &query->ip);
            assert(spf_answers_count(answers) == before + 1);
        }
        assert(spf_answers_count(answers) <= QUESTIONS_MAX);
    }
    assert(spf_result_name(v.result)[0] != '\0' && v.why[0] != '\0');
    for (const char *p = v.why; *p != '\0'; p++)
        assert(*p >= ' ' && *p < 0x7f);
    /* What is known decides, every time anew. */
    enum spf_result result = v.result;
    assert(spf_check(query, answers, &v) && v.result == result);
    spf_answers_free(answers);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct span all = span_of(data, n);
    struct spf_query query = {.sender = span_cut(&all, '\n')};
    query.helo = span_cut(&all, '\n');
    says.all = all;
    says.rest = SPAN_NONE;

    assert(ip_parse(SPAN("192.0.2.1"), &query.ip));
    check(&query);
    says.rest = SPAN_NONE;
    assert(ip_parse(SPAN("2001:db8::1"), &query.ip));
    check(&query);
    return 0;
}
