#include "relayd/record/attempts.h"

#include <assert.h>

#include "policy/base/codec.h"

#define ATTEMPTS_VERSION 1

static void
take_refusal(struct reader *r, struct refusal *f)
{
    f->at = (msec_t)take_number(r, 8);
    f->code = (int)take_number(r, 2);
    f->enh.klass = (uint8_t)take_number(r, 1);
    f->enh.subject = (uint16_t)take_number(r, 2);
    f->enh.detail = (uint16_t)take_number(r, 2);
    f->route = take_string(r, 2);
    f->phase = take_string(r, 2);
    f->peer = take_string(r, 2);
    f->text = take_string(r, 2);
}

enum err_code
attempts_decode(struct span bytes, struct attempts *ret, struct err *err)
{
    struct attempts a = {0};
    struct reader r = {bytes, false};

    *ret = a;
    if (bytes.n == 0)
        return ERR_OK;
    if (take_number(&r, 1) < ATTEMPTS_VERSION)
        return err_set(err, ERR_CORRUPT, "attempt record: version 0");
    size_t known = take_number(&r, 2);
    if (r.bad || r.left.n < known)
        return err_set(err, ERR_CORRUPT, "attempt record: cut short");
    a.unknown = span_from(r.left, known);
    r.left = span_first(r.left, known);
    a.count = (uint32_t)take_number(&r, 4);
    a.warned = (uint32_t)take_number(&r, 4);
    a.first_deferral_at = (msec_t)take_number(&r, 8);
    a.soft_since = (msec_t)take_number(&r, 8);
    a.klass = take_string(&r, 1);
    a.route = take_string(&r, 1);
    a.n_refusals = (int)take_number(&r, 1);
    if (r.bad || a.n_refusals > ATTEMPTS_REFUSALS_MAX)
        return err_set(err, ERR_CORRUPT, "attempt record: %d refusals, at most %d", a.n_refusals,
                       ATTEMPTS_REFUSALS_MAX);
    for (int i = 0; i < a.n_refusals; i++)
        take_refusal(&r, &a.refusals[i]);
    if (r.bad || r.left.n != 0)
        return err_set(err, ERR_CORRUPT, "attempt record: lengths do not add up");
    *ret = a;
    return ERR_OK;
}

static void
put_refusal(struct strbuf *out, const struct refusal *f)
{
    put_number(out, (uint64_t)f->at, 8);
    put_number(out, (uint64_t)f->code, 2);
    put_number(out, f->enh.klass, 1);
    put_number(out, f->enh.subject, 2);
    put_number(out, f->enh.detail, 2);
    put_string(out, f->route, 2, OUTCOME_TEXT_MAX);
    put_string(out, f->phase, 2, OUTCOME_TEXT_MAX);
    put_string(out, f->peer, 2, OUTCOME_TEXT_MAX);
    put_string(out, f->text, 2, OUTCOME_TEXT_MAX);
}

void
attempts_encode(const struct attempts *a, struct strbuf *out)
{
    assert(a->n_refusals >= 0 && a->n_refusals <= ATTEMPTS_REFUSALS_MAX);
    put_number(out, ATTEMPTS_VERSION, 1);
    size_t length_at = out->n;
    put_number(out, 0, 2);
    put_number(out, a->count, 4);
    put_number(out, a->warned, 4);
    put_number(out, (uint64_t)a->first_deferral_at, 8);
    put_number(out, (uint64_t)a->soft_since, 8);
    put_string(out, a->klass, 1, UINT8_MAX);
    put_string(out, a->route, 1, UINT8_MAX);
    put_number(out, (uint64_t)a->n_refusals, 1);
    for (int i = 0; i < a->n_refusals; i++)
        put_refusal(out, &a->refusals[i]);
    size_t known = out->n - length_at - 2;
    out->p[length_at] = (char)(known >> 8);
    out->p[length_at + 1] = (char)known;
    strbuf_add_span(out, a->unknown);
}

void
attempts_add(struct attempts *a, const struct outcome *o, struct span route, struct span peer,
             msec_t now)
{
    int at = 0;
    while (at < a->n_refusals && !span_eq(a->refusals[at].route, route))
        at++;
    if (at == ATTEMPTS_REFUSALS_MAX)
        at = 0;
    if (at < a->n_refusals) {
        memmove(&a->refusals[at], &a->refusals[at + 1],
                (size_t)(a->n_refusals - at - 1) * sizeof(a->refusals[0]));
        a->n_refusals--;
    }
    a->refusals[a->n_refusals++] = (struct refusal){
        .at = now,
        .code = o->code,
        .enh = o->enh,
        .route = route,
        .phase = span_str(o->phase),
        .peer = peer,
        .text = span_str(o->text),
    };
}
