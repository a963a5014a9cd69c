/*
 * fuzz_attempts - any octets as the record of a recipient's attempts and as that of how it ended.
 * What decodes lies inside the record, and is the same after it was written again; another refusal
 * can always be remembered. The first octet chooses the record.
 */
#include "policy/base/mem.h"
#include "relayd/record/attempts.h"
#include "relayd/record/detail.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

static void
check_inside(struct span whole, struct span part)
{
    CHECK(part.n == 0 || (part.p >= whole.p && part.p + part.n <= whole.p + whole.n));
}

/* `again` was written from `was`: the same, but for the end of what is longer than `max`. */
static void
check_same(struct span was, struct span again, size_t max)
{
    CHECK(span_eq(again, span_first(was, max)));
}

static void
check_refusal(struct span whole, const struct refusal *was, const struct refusal *again)
{
    check_inside(whole, was->route);
    check_inside(whole, was->phase);
    check_inside(whole, was->peer);
    check_inside(whole, was->text);
    CHECK(was->at == again->at && was->code == again->code);
    CHECK(was->enh.klass == again->enh.klass && was->enh.subject == again->enh.subject &&
          was->enh.detail == again->enh.detail);
    check_same(was->route, again->route, OUTCOME_TEXT_MAX);
    check_same(was->phase, again->phase, OUTCOME_TEXT_MAX);
    check_same(was->peer, again->peer, OUTCOME_TEXT_MAX);
    check_same(was->text, again->text, OUTCOME_TEXT_MAX);
}

static void
one_more(struct attempts *a)
{
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    struct attempts again;
    struct outcome o;

    outcome_set(&o, OUTCOME_DEFERRED, ORIGIN_PEER, "rcpt", "4.7.1", "come back later");
    attempts_add(a, &o, SPAN("direct"), SPAN("192.0.2.1:25"), 1);
    CHECK(a->n_refusals > 0 && a->n_refusals <= ATTEMPTS_REFUSALS_MAX);
    attempts_encode(a, &bytes);
    CHECK(attempts_decode(strbuf_span(&bytes), &again, NULL) == ERR_OK);
    CHECK(again.n_refusals == a->n_refusals);
    CHECK(span_eq(again.refusals[again.n_refusals - 1].text, SPAN("come back later")));
}

static void
attempts(struct span text)
{
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    struct attempts a, again;

    if (attempts_decode(text, &a, NULL) != ERR_OK)
        return;
    check_inside(text, a.klass);
    check_inside(text, a.route);
    check_inside(text, a.unknown);
    attempts_encode(&a, &bytes);
    CHECK(attempts_decode(strbuf_span(&bytes), &again, NULL) == ERR_OK);
    CHECK(a.count == again.count && a.warned == again.warned);
    CHECK(a.first_deferral_at == again.first_deferral_at && a.soft_since == again.soft_since);
    CHECK(span_eq(a.klass, again.klass) && span_eq(a.route, again.route));
    CHECK(span_eq(a.unknown, again.unknown));
    CHECK(a.n_refusals == again.n_refusals);
    for (int i = 0; i < a.n_refusals; i++)
        check_refusal(text, &a.refusals[i], &again.refusals[i]);
    one_more(&a);
}

static void
detail(struct span text)
{
    CLEANUP(strbuf_release) struct strbuf bytes = STRBUF_INIT;
    struct detail d, again;

    if (detail_decode(text, &d, NULL) != ERR_OK)
        return;
    const struct span was[] = {d.route, d.site, d.peer, d.host, d.tls, d.phase, d.klass, d.text};
    detail_encode(&d, &bytes);
    CHECK(detail_decode(strbuf_span(&bytes), &again, NULL) == ERR_OK);
    const struct span is[] = {again.route, again.site,  again.peer,  again.host,
                              again.tls,   again.phase, again.klass, again.text};
    for (size_t i = 0; i < N_ELEMENTS(was); i++) {
        check_inside(text, was[i]);
        check_same(was[i], is[i], i + 1 < N_ELEMENTS(was) ? OUTCOME_TEXT_MAX : DETAIL_TEXT_MAX);
    }
    CHECK(d.code == again.code && d.attempts == again.attempts);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0)
        return 0;
    CLEANUP(freep) char *copy = xmalloc(n); /* a block of its own: reads beyond are seen */
    memcpy(copy, data + 1, n - 1);
    if (data[0] & 1)
        detail(span_of(copy, n - 1));
    else
        attempts(span_of(copy, n - 1));
    return 0;
}
