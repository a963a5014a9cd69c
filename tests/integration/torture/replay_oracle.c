/*
 * How: the queue's own library opens, verifies and lists. Reports are read first, so that each
 * absent recipient can be looked up among those that they name.
 */
#include "replay_oracle.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "policy/base/mem.h"
#include "queue/queue.h"

#define FINAL_RECIPIENT "Final-Recipient: rfc822; "

/* --------------------------------------------------------------------------------- ledger */

static int
id_order(const void *a, const void *b)
{
    const struct promise *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int
address_order(const void *a, const void *b)
{
    const struct promise_rcpt *const *x = a, *const *y = b;
    return span_cmp((*x)->address, (*y)->address);
}

static bool
word_take(struct span *from, struct span *ret)
{
    size_t n = 0;
    while (from->n > 0 && from->p[0] == ' ')
        *from = span_from(*from, 1);
    while (n < from->n && from->p[n] != ' ')
        n++;
    *ret = span_first(*from, n);
    *from = span_from(*from, n);
    return n > 0;
}

static char *
file_slurp(const char *path, size_t *ret_n)
{
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return NULL;
    fseek(f, 0, SEEK_END);
    *ret_n = (size_t)ftell(f);
    rewind(f);
    char *bytes = xmalloc(*ret_n + 1);
    size_t n = fread(bytes, 1, *ret_n, f);
    fclose(f);
    bytes[n] = '\0';
    return n == *ret_n ? bytes : NULL;
}

static bool
promise_read(struct ledger *l, struct span *rest)
{
    const char *eol = memchr(rest->p, '\n', rest->n);
    if (eol == NULL)
        return false;
    struct span line = span_first(*rest, (size_t)(eol - rest->p)), word;
    *rest = span_from(*rest, line.n + 1);
    l->promises = xrealloc(l->promises, (l->n + 1) * sizeof(l->promises[0]));
    struct promise *p = &l->promises[l->n++];
    *p = (struct promise){.id = 0};
    if (!word_take(&line, &word) || !queue_id_parse(word, &p->id) || !word_take(&line, &word))
        return false;
    size_t n = strtoul(word.p, NULL, 10);
    while (word_take(&line, &word)) {
        p->rcpts = xrealloc(p->rcpts, (p->n_rcpts + 1) * sizeof(p->rcpts[0]));
        p->rcpts[p->n_rcpts++] = (struct promise_rcpt){.address = word};
    }
    p->bytes = span_first(*rest, n);
    *rest = span_from(*rest, n);
    l->n_rcpts += p->n_rcpts;
    return p->bytes.n == n;
}

bool
ledger_read(const char *path, struct ledger *l)
{
    size_t n = 0, at = 0;
    *l = (struct ledger){.memory = file_slurp(path, &n)};
    if (l->memory == NULL)
        return false;
    struct span rest = span_of(l->memory, n);
    while (rest.n > 0)
        if (!promise_read(l, &rest))
            return false;
    qsort(l->promises, l->n, sizeof(l->promises[0]), id_order);
    l->by_address = xcalloc(l->n_rcpts + 1, sizeof(struct promise_rcpt *));
    for (size_t i = 0; i < l->n; i++)
        for (size_t k = 0; k < l->promises[i].n_rcpts; k++)
            l->by_address[at++] = &l->promises[i].rcpts[k];
    qsort(l->by_address, l->n_rcpts, sizeof(struct promise_rcpt *), address_order);
    return true;
}

void
ledger_free(struct ledger *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->promises[i].rcpts);
    free(l->promises);
    free(l->by_address);
    free(l->memory);
}

static struct promise *
promise_of(struct ledger *l, uint64_t id)
{
    struct promise key = {.id = id};
    return bsearch(&key, l->promises, l->n, sizeof(key), id_order);
}

static struct promise_rcpt *
rcpt_of(struct ledger *l, struct span address)
{
    struct promise_rcpt rcpt = {.address = address}, *key = &rcpt;
    struct promise_rcpt **found =
        bsearch(&key, l->by_address, l->n_rcpts, sizeof(key), address_order);
    return found == NULL ? NULL : *found;
}

static void
promise_ack(struct ledger *l, struct promise *p)
{
    l->n_acked += !p->acked;
    p->acked = true;
    if (p->id > l->top_id)
        l->top_id = p->id;
}

void
ledger_ack(struct ledger *l, struct span text)
{
    uint64_t id;
    struct promise *p = queue_id_parse(text, &id) ? promise_of(l, id) : NULL;
    if (p == NULL)
        l->n_unknown++;
    else
        promise_ack(l, p);
}

void
ledger_ack_all(struct ledger *l)
{
    for (size_t i = 0; i < l->n; i++)
        promise_ack(l, &l->promises[i]);
}

void
ledger_taken(struct ledger *l, struct span words)
{
    struct span word;
    while (word_take(&words, &word)) {
        bool is_report = span_starts(word, SPAN("dsn="));
        struct promise_rcpt *r = rcpt_of(l, is_report ? span_from(word, 4) : word);
        if (r != NULL && is_report)
            r->told = true;
        else if (r != NULL)
            r->taken = true;
    }
}

/* --------------------------------------------------------------------------------- judging */

struct judge {
    struct ledger *ledger;
    struct queue_reader *reader;
    char *why;
    size_t n;
    uint64_t seen; /* the message looked at last */
    bool good;
};

static void wrong(struct judge *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The first one is told. */
static void
wrong(struct judge *j, const char *fmt, ...)
{
    va_list ap;
    if (!j->good)
        return;
    j->good = false;
    va_start(ap, fmt);
    vsnprintf(j->why, j->n, fmt, ap);
    va_end(ap);
}

static void
verify(struct judge *j)
{
    struct queue_verify_result result = {.finished = false};
    struct queue_verify *v = queue_verify_new();
    struct err err;
    while (!result.finished)
        if (queue_verify_step(v, j->reader, &result, &err) != ERR_OK) {
            wrong(j, "verify: %s", err.text);
            break;
        }
    if (result.n_findings > 0)
        wrong(j, "verify: %llu findings, the first: %s", (unsigned long long)result.n_findings,
              result.texts[0]);
    queue_verify_free(v);
}

/* Is the body of this message `bytes`? With `bytes` empty: only that it can be read. */
static void
body_compare(struct judge *j, const struct queue_mail *mail, struct span bytes)
{
    static char part[QUEUE_PAGE_BYTES];
    uint64_t at = 0;
    size_t n;
    struct err err;
    if (mail->msg.body_bytes != bytes.n) {
        wrong(j, "message %llx has %llu bytes, %zu were sent", (unsigned long long)mail->msg.id,
              (unsigned long long)mail->msg.body_bytes, bytes.n);
        return;
    }
    for (; at < bytes.n; at += n) {
        if (queue_read_body(j->reader, mail->msg.id, at, part, sizeof(part), &n, &err) != ERR_OK) {
            wrong(j, "message %llx at %llu: %s", (unsigned long long)mail->msg.id,
                  (unsigned long long)at, err.text);
            return;
        }
        if (n == 0 || n > bytes.n - at || memcmp(part, bytes.p + at, n) != 0) {
            wrong(j, "message %llx is another one at %llu", (unsigned long long)mail->msg.id,
                  (unsigned long long)at);
            return;
        }
    }
}

/* A report: note whom it names. */
static void
report_read(struct judge *j, uint64_t id)
{
    static char text[QUEUE_PAGE_BYTES];
    size_t n = 0, mark = strlen(FINAL_RECIPIENT);
    struct err err;
    if (queue_read_body(j->reader, id, 0, text, sizeof(text), &n, &err) != ERR_OK) {
        wrong(j, "report %llx: %s", (unsigned long long)id, err.text);
        return;
    }
    for (const char *p = text, *end = text + n;
         (p = memmem(p, (size_t)(end - p), FINAL_RECIPIENT, mark)) != NULL;) {
        p += mark;
        const char *eol = memchr(p, '\r', (size_t)(end - p));
        struct promise_rcpt *r =
            eol == NULL ? NULL : rcpt_of(j->ledger, span_of(p, (size_t)(eol - p)));
        if (r != NULL)
            r->reported = true;
    }
}

static void
row_look(struct judge *j, const struct queue_row *row)
{
    struct queue_mail mail;
    struct err err;
    struct promise *p = promise_of(j->ledger, row->rcpt.id);
    struct promise_rcpt *r = rcpt_of(j->ledger, row->rcpt.address);
    if (r != NULL && p != NULL && r >= p->rcpts && r < p->rcpts + p->n_rcpts)
        r->present = true;
    if (row->rcpt.id == j->seen)
        return;
    j->seen = row->rcpt.id;
    if ((row->msg_flags & QUEUE_MSG_NOTICE) != 0) {
        report_read(j, row->rcpt.id);
        return;
    }
    if (p == NULL)
        return; /* its acknowledgement was not read: verify has read it */
    if (queue_read_mail(j->reader, row->rcpt.id, &mail, &err) != ERR_OK) {
        wrong(j, "message %llx: %s", (unsigned long long)row->rcpt.id, err.text);
        return;
    }
    body_compare(j, &mail, p->bytes);
    queue_mail_release(&mail);
}

static void
rows_look(struct judge *j)
{
    struct queue_key after = {0, 0};
    struct queue_page page = {.more = true};
    struct queue_filter filter = {.id = 0};
    struct err err;
    while (page.more) {
        if (queue_list(j->reader, &filter, &after, 1000, &page, &err) != ERR_OK) {
            wrong(j, "list: %s", err.text);
            return;
        }
        if (page.n_bad > 0)
            wrong(j, "list: %u rows cannot be read", (unsigned)page.n_bad);
        for (size_t i = 0; i < page.n_rows; i++)
            row_look(j, &page.rows[i]);
        queue_page_release(&page);
    }
}

static void
promises_look(struct judge *j)
{
    struct ledger *l = j->ledger;
    char text[QUEUE_ID_TEXT + 1];
    for (size_t i = 0; i < l->n; i++) {
        const struct promise *p = &l->promises[i];
        for (size_t k = 0; p->acked && k < p->n_rcpts; k++) {
            const struct promise_rcpt *r = &p->rcpts[k];
            if (!r->present && !r->taken && !r->told && !r->reported)
                wrong(j, "%s for %.*s was acknowledged and is lost", queue_id_format(p->id, text),
                      (int)r->address.n, r->address.p);
        }
    }
}

/* Open, look, close. False when it does not open. */
static bool
with_queue(struct judge *j, const char *dir, bool read_only, void (*look)(struct judge *j))
{
    const struct queue_options options = {.path = dir,
                                          .node = read_only ? NULL : "cn",
                                          .max_bytes = 1ull << 30,
                                          .min_free_bytes = 0,
                                          .read_only = read_only};
    struct queue *queue = NULL;
    struct err err;
    enum err_code code = queue_open(&options, &queue, NULL, &err);
    if (code == ERR_NOT_FOUND && read_only && j->ledger->n_acked == 0)
        return true; /* it was never made */
    if (code != ERR_OK || queue_reader_new(queue, &j->reader, &err) != ERR_OK) {
        wrong(j, "does not open%s: %s", read_only ? " for a look" : "", err.text);
        queue_close(queue);
        return false;
    }
    look(j);
    if (!read_only && queue_id_new(queue, 0) <= j->ledger->top_id)
        wrong(j, "an id that was acknowledged would be given out again");
    queue_reader_free(j->reader);
    queue_close(queue);
    return true;
}

static void
look_as_daemon(struct judge *j)
{
    rows_look(j);
    promises_look(j);
    verify(j);
}

bool
oracle_judge(struct ledger *l, const char *dir, char *why, size_t n)
{
    struct judge j = {.ledger = l, .why = why, .n = n, .good = true};
    for (size_t i = 0; i < l->n_rcpts; i++)
        l->by_address[i]->present = l->by_address[i]->reported = false;
    if (with_queue(&j, dir, true, verify))
        with_queue(&j, dir, false, look_as_daemon);
    return j.good;
}
