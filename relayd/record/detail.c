#include "relayd/record/detail.h"

#include "policy/base/mem.h"
#include "policy/base/codec.h"

#define DETAIL_VERSION 1

void
detail_encode(const struct detail *d, struct strbuf *out)
{
    const struct span strings[] = {
        d->route, d->site,  d->peer,  d->host,
        d->tls,   d->phase, d->klass, span_first(d->text, DETAIL_TEXT_MAX)};
    put_number(out, DETAIL_VERSION, 1);
    put_number(out, (uint64_t)d->code, 2);
    put_number(out, d->enh.klass, 1);
    put_number(out, d->enh.subject, 2);
    put_number(out, d->enh.detail, 2);
    put_number(out, d->attempts, 4);
    for (size_t i = 0; i < N_ELEMENTS(strings); i++)
        put_string(out, strings[i], 2, OUTCOME_TEXT_MAX);
}

enum err_code
detail_decode(struct span bytes, struct detail *ret, struct err *err)
{
    struct reader r = {bytes, false};
    struct detail d = {0};

    *ret = d;
    if (bytes.n == 0)
        return ERR_OK;
    uint64_t version = take_number(&r, 1);
    d.code = (int)take_number(&r, 2);
    d.enh.klass = (uint8_t)take_number(&r, 1);
    d.enh.subject = (uint16_t)take_number(&r, 2);
    d.enh.detail = (uint16_t)take_number(&r, 2);
    d.attempts = (uint32_t)take_number(&r, 4);
    struct span *const strings[] = {&d.route, &d.site,  &d.peer,  &d.host,
                                    &d.tls,   &d.phase, &d.klass, &d.text};
    for (size_t i = 0; i < N_ELEMENTS(strings); i++)
        *strings[i] = take_string(&r, 2);
    if (r.bad || version < DETAIL_VERSION)
        return err_set(err, ERR_CORRUPT, "history record: cut short");
    *ret = d;
    return ERR_OK;
}
