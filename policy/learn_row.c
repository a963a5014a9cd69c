/*
 * learn_row - learned routes as rows of the queue's state. The form is in learn.h.
 */
#include <assert.h>
#include <stdio.h>

#include "policy/base/codec.h"
#include "policy/base/domain.h"
#include "policy/classify.h"
#include "policy/learn_internal.h"

#define ROW_VERSION 1

void
learn_put_text(char out[static LEARN_TEXT_MAX + 1], struct span text)
{
    size_t n = text.n < LEARN_TEXT_MAX ? text.n : LEARN_TEXT_MAX;

    while (n > 0 && n < text.n && ((unsigned char)text.p[n] & 0xC0) == 0x80)
        n--;
    for (size_t i = 0; i < n; i++)
        out[i] = text.p[i] == '\0' ? ' ' : text.p[i];
    out[n] = '\0';
}

const char *
learn_class(struct span name)
{
    enum reply_class klass;
    return reply_class_name(reply_class_parse(name, &klass) ? klass : REPLY_OTHER);
}

/* A site's key may be longer than a key of the queue: its hash stands for it, and the value tells
 * it in full. */
size_t
learn_row_key(const struct learn_entry *e, char buf[static LEARN_ROW_KEY_MAX])
{
    int n = e->scope == LEARN_SITE
                ? snprintf(buf, LEARN_ROW_KEY_MAX, LEARN_ROW_SPACE "site:%016llx:%.*s",
                           (unsigned long long)learn_site_hash(e->name), SPAN_ARG(e->route))
                : snprintf(buf, LEARN_ROW_KEY_MAX, LEARN_ROW_SPACE "domain:%.*s:%.*s",
                           SPAN_ARG(e->name), SPAN_ARG(e->route));
    assert(n > 0 && (size_t)n < LEARN_ROW_KEY_MAX);
    return (size_t)n;
}

/* ---- out ---- */

void
learn_row_value(const struct learn_entry *e, struct strbuf *out)
{
    size_t start = out->n;

    put_number(out, ROW_VERSION, 1);
    put_number(out, 0, 2);
    put_number(out, e->scope == LEARN_SITE, 1);
    put_number(out, (uint64_t)e->since_at, 8);
    put_number(out, (uint64_t)e->until_at, 8);
    put_number(out, (uint64_t)e->ttl_ms, 8);
    put_number(out, e->renewals, 4);
    put_number(out, e->good, 4);
    put_number(out, e->site_hash, 8);
    put_number(out, (uint64_t)e->code, 2);
    put_number(out, e->enh.klass, 1);
    put_number(out, e->enh.subject, 2);
    put_number(out, e->enh.detail, 2);
    put_string(out, e->name, 2, UINT16_MAX);
    put_string(out, e->label, 2, UINT16_MAX);
    put_string(out, e->route, 2, UINT16_MAX);
    put_string(out, span_str(e->to), 2, UINT16_MAX);
    put_string(out, span_str(e->klass), 2, UINT16_MAX);
    put_string(out, span_str(e->text), 2, UINT16_MAX);
    size_t known = out->n - start - 3;
    assert(known <= LEARN_ROW_VALUE_MAX - 3);
    out->p[start + 1] = (char)(known >> 8);
    out->p[start + 2] = (char)known;
}

/* ---- in ---- */

static msec_t
take_time(struct reader *r)
{
    uint64_t v = take_number(r, 8);
    if (v > INT64_MAX)
        r->bad = true;
    return r->bad ? 0 : (msec_t)v;
}

static struct span
take_name(struct reader *r, size_t max)
{
    struct span s = take_string(r, 2);
    if (s.n <= max)
        return s;
    r->bad = true;
    return SPAN_NONE;
}

static void
take_fields(struct reader *r, struct learn_entry *e)
{
    uint64_t scope = take_number(r, 1);
    if (scope > LEARN_SITE)
        r->bad = true;
    e->scope = scope == LEARN_SITE ? LEARN_SITE : LEARN_DOMAIN;
    e->since_at = take_time(r);
    e->until_at = take_time(r);
    e->ttl_ms = take_time(r);
    e->renewals = (uint32_t)take_number(r, 4);
    e->good = (uint32_t)take_number(r, 4);
    e->site_hash = take_number(r, 8);
    e->code = (int)take_number(r, 2);
    e->enh.klass = (uint8_t)take_number(r, 1);
    e->enh.subject = (uint16_t)take_number(r, 2);
    e->enh.detail = (uint16_t)take_number(r, 2);
    e->name = take_name(r, e->scope == LEARN_SITE ? LEARN_NAME_MAX : DOMAIN_MAX);
    e->label = take_name(r, LEARN_NAME_MAX);
    e->route = take_name(r, LEARN_ROUTE_MAX);
    struct span to = take_name(r, LEARN_ROUTE_MAX);
    snprintf(e->to, sizeof(e->to), "%.*s", SPAN_ARG(to));
    e->klass = learn_class(take_name(r, LEARN_TEXT_MAX));
    learn_put_text(e->text, take_name(r, LEARN_TEXT_MAX));
    if (!learn_span_fits(e->name, LEARN_NAME_MAX) || !learn_span_fits(e->route, LEARN_ROUTE_MAX))
        r->bad = true;
}

enum err_code
learn_row_decode(struct span key, struct span value, struct learn_entry *ret, struct err *err)
{
    struct learn_entry e = {0};
    struct reader r = {value, false};
    char own_key[LEARN_ROW_KEY_MAX];

    if (take_number(&r, 1) < ROW_VERSION)
        return err_set(err, ERR_CORRUPT, "learned route: version 0");
    size_t known = take_number(&r, 2);
    if (r.bad || r.left.n < known)
        return err_set(err, ERR_CORRUPT, "learned route: cut short");
    r.left = span_first(r.left, known);
    take_fields(&r, &e);
    if (r.bad || r.left.n != 0)
        return err_set(err, ERR_CORRUPT, "learned route: a field breaks its rules");
    if (e.ttl_ms == 0 || e.good >= LEARN_GOOD_PROBES)
        return err_set(err, ERR_CORRUPT, "learned route: learned for no time, or forgotten");
    if (!span_eq(key, span_of(own_key, learn_row_key(&e, own_key))))
        return err_set(err, ERR_CORRUPT, "learned route: its name is not its key's");
    *ret = e;
    return ERR_OK;
}

enum err_code
learn_load(struct learn *l, struct span key, struct span value, msec_t now, struct err *err)
{
    struct learn_entry e;

    enum err_code code = learn_row_decode(key, value, &e, err);
    if (code != ERR_OK)
        return code;
    if (learn_row_find(l, e.scope, e.name, e.route) != NULL)
        return err_set(err, ERR_EXISTS, "learned route: it is known already");
    if (e.since_at > now)
        e.since_at = now;
    if (e.ttl_ms > l->config.max_ttl_ms)
        e.ttl_ms = l->config.max_ttl_ms;
    bool far = e.until_at - now > l->config.max_ttl_ms;
    if (far)
        e.until_at = now + e.ttl_ms;
    const struct learn_row *row = learn_row_add(l, &e);
    assert(row != NULL); /* the decoder holds the same limits */
    if (far)
        l->changed(l->arg, LEARN_PULLED_IN, &row->e);
    return ERR_OK;
}
