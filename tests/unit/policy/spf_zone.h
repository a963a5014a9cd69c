/*
 * spf_zone - cases of the SPF check as text: a zone, who sends, what comes out.
 *
 *     section TITLE                 forget the zone
 *     NAME TYPE DATA                a record: TXT, A, AAAA, MX (host alone), PTR, CNAME, or
 *                                   TIMEOUT: types that the name does not have are not answered
 *     case SENTENCE                 what the questions that follow show
 *     ask IP SENDER HELO RESULT     SENDER <>: the null one; RESULT: one word or several with |
 *     why TEXT                      of the question above, exactly
 *     asks N                        so many questions were asked for the question above
 *
 * \xHH is an octet, also a blank within a word. Lines with # and empty ones say nothing.
 */
#pragma once

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "policy/base/mem.h"
#include "policy/spf.h"

#define ZONE_RECORDS 4096
#define ZONE_ROUNDS 300 /* calls of spf_check() for one question: far beyond what may be needed */

struct zone_record {
    char *name, *type; /* name as in struct spf_question */
    char *data;
    size_t n_data;
};

static struct zone {
    struct zone_record records[ZONE_RECORDS];
    size_t n;
} zone;

/* Octets of a text with \xHH. malloc'd. */
static char *
zone_octets(struct span text, size_t *ret_n)
{
    char *out = xmalloc(text.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++) {
        char hex[3] = "";
        if (text.p[i] == '\\' && i + 3 < text.n && text.p[i + 1] == 'x') {
            memcpy(hex, text.p + i + 2, 2);
            out[n++] = (char)strtoul(hex, NULL, 16);
            i += 3;
        } else {
            out[n++] = text.p[i];
        }
    }
    out[n] = '\0';
    *ret_n = n;
    return out;
}

/* A name as in struct spf_question. */
static char *
zone_name(struct span text)
{
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    size_t n;
    CLEANUP(freep) char *octets = zone_octets(text, &n);
    if (n > 0 && octets[n - 1] == '.')
        n--;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)octets[i];
        if (c > ' ' && c < 0x7f && c != '\\')
            strbuf_add_byte(&out, ascii_lower((char)c));
        else
            strbuf_printf(&out, "\\%03u", c);
    }
    strbuf_add_byte(&out, '\0');
    return strbuf_take(&out);
}

static void
zone_clear(void)
{
    for (size_t i = 0; i < zone.n; i++) {
        free(zone.records[i].name);
        free(zone.records[i].type);
        free(zone.records[i].data);
    }
    zone.n = 0;
}

static void
zone_add(struct span name, struct span type, struct span data)
{
    assert(zone.n < ZONE_RECORDS);
    struct zone_record *r = &zone.records[zone.n++];
    r->name = zone_name(name);
    r->type = xstrndup(type.p, type.n);
    if (span_eq(type, SPAN("TXT"))) {
        r->data = zone_octets(data, &r->n_data);
    } else {
        r->data = span_eq(type, SPAN("A")) || span_eq(type, SPAN("AAAA")) ? xstrndup(data.p, data.n)
                                                                          : zone_name(data);
        r->n_data = strlen(r->data);
    }
}

/* Answer one question, CNAMEs followed. */
static void
zone_answer(struct spf_answers *answers, const struct spf_question *q, uint32_t ttl_s)
{
    static const char *const types[] = {"TXT", "A", "AAAA", "MX", "PTR"};
    static struct spf_record found[ZONE_RECORDS];
    const char *name = q->name;
    enum spf_status status = SPF_VOID;
    size_t n = 0;

    for (int links = 0; name != NULL; links++) {
        const char *next = NULL;
        for (size_t i = 0; i < zone.n; i++) {
            const struct zone_record *r = &zone.records[i];
            if (strcmp(r->name, name) != 0)
                continue;
            if (strcmp(r->type, "CNAME") == 0)
                next = r->data;
            if (strcmp(r->type, "TIMEOUT") == 0 && n == 0)
                status = SPF_ERROR;
            if (strcmp(r->type, types[q->type]) != 0)
                continue;
            status = SPF_FOUND;
            found[n] = (struct spf_record){.text = span_of(r->data, r->n_data)};
            if (q->type == SPF_A || q->type == SPF_AAAA)
                assert(ip_parse(span_str(r->data), &found[n].ip));
            n++;
        }
        name = next;
        if (links == 8) {
            status = SPF_ERROR;
            break;
        }
    }
    spf_answers_add(answers, q->type, q->name, status, ttl_s, found, n);
}

/* Ask until it is decided. Returns the number of questions. */
static size_t
zone_check(const struct spf_query *query, struct spf_answers *answers, struct spf_verdict *ret)
{
    for (int round = 0; round < ZONE_ROUNDS; round++) {
        if (spf_check(query, answers, ret))
            return spf_answers_count(answers);
        assert(ret->n_questions > 0 && ret->n_questions <= SPF_ASK_MAX);
        for (size_t i = 0; i < ret->n_questions; i++) {
            size_t before = spf_answers_count(answers);
            zone_answer(answers, &ret->questions[i], 300);
            assert(spf_answers_count(answers) == before + 1); /* never asked twice */
        }
    }
    fprintf(stderr, "%.*s: no end\n", SPAN_ARG(query->sender));
    abort();
}

struct zone_file {
    const char *path;
    unsigned line;
    char sentence[200];
    struct spf_verdict verdict;
    size_t n_asked;
    size_t n_asks, n_wrong;
};

static void
zone_wrong(struct zone_file *f, const char *what, struct span expected, const char *got)
{
    f->n_wrong++;
    fprintf(stderr, "%s:%u: %s: %s is \"%s\", expected \"%.*s\" (%s)\n", f->path, f->line,
            f->sentence, what, got, SPAN_ARG(expected), f->verdict.why);
}

static void
zone_ask(struct zone_file *f, struct span rest)
{
    struct span ip = span_cut(&rest, ' '), sender = span_cut(&rest, ' '),
                helo = span_cut(&rest, ' ');
    size_t n_sender, n_helo;
    CLEANUP(freep) char *sender_octets = zone_octets(sender, &n_sender);
    CLEANUP(freep) char *helo_octets = zone_octets(helo, &n_helo);
    struct spf_query query = {.sender = span_of(sender_octets, n_sender),
                              .helo = span_of(helo_octets, n_helo)};
    struct spf_answers *answers = spf_answers_new((struct map_seed){1, 2});
    bool right = false;

    if (span_eq(sender, SPAN("<>")))
        query.sender = SPAN("");
    assert(ip_parse(ip, &query.ip));
    f->n_asked = zone_check(&query, answers, &f->verdict);
    f->n_asks++;
    const char *got = spf_result_name(f->verdict.result);
    for (struct span words = rest; words.n > 0;)
        right |= span_eq(span_cut(&words, '|'), span_str(got));
    if (!right)
        zone_wrong(f, "the result", rest, got);
    spf_answers_free(answers);
}

static void
zone_line(struct zone_file *f, struct span line)
{
    struct span rest = line, first = span_cut(&rest, ' ');
    char number[24];

    if (span_eq(first, SPAN("section"))) {
        zone_clear();
    } else if (span_eq(first, SPAN("case"))) {
        snprintf(f->sentence, sizeof(f->sentence), "%.*s", SPAN_ARG(rest));
    } else if (span_eq(first, SPAN("ask"))) {
        zone_ask(f, rest);
    } else if (span_eq(first, SPAN("why"))) {
        if (!span_eq(rest, span_str(f->verdict.why)))
            zone_wrong(f, "the reason", rest, f->verdict.why);
    } else if (span_eq(first, SPAN("asks"))) {
        snprintf(number, sizeof(number), "%zu", f->n_asked);
        if (!span_eq(rest, span_str(number)))
            zone_wrong(f, "the number of questions", rest, number);
    } else {
        struct span type = span_cut(&rest, ' ');
        zone_add(first, type, rest);
    }
}

/* Run the cases of a file; *ret_asks: how many. Returns how many went wrong. */
static size_t
zone_run(const char *path, size_t *ret_asks)
{
    FILE *in = fopen(path, "r");
    struct zone_file f = {.path = path};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    if (in == NULL) {
        perror(path);
        abort();
    }
    while ((n = getline(&line, &cap, in)) >= 0) {
        f.line++;
        struct span text = span_of(line, (size_t)n - (n > 0 && line[n - 1] == '\n'));
        if (text.n > 0 && text.p[0] != '#')
            zone_line(&f, text);
    }
    free(line);
    fclose(in);
    zone_clear();
    *ret_asks = f.n_asks;
    return f.n_wrong;
}
