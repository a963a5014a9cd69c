/*
 * fuzz_learn_row - rows of learned routes as a damaged queue might hold them. What decodes is
 * within its limits, encodes to the same again, and can be loaded, asked for, refused and
 * forgotten.
 *
 * Input: the row's value. Its key is made of the names in it.
 */
#include "policy/base/mem.h"
#include "policy/learn.h"

#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) \
            abort();      \
    } while (0)

#define NOW ((msec_t)1700591100000)

static const struct config_learning config = {.ttl_ms = 6 * HOUR,
                                              .max_ttl_ms = 7 * DAY,
                                              .path_errors_count = 3,
                                              .path_errors_within_ms = HOUR,
                                              .max_reroutes = {200, HOUR}};

static void
on_changed(void *arg, enum learn_change change, const struct learn_entry *e)
{
    (void)change;
    CHECK(arg == NULL && e->name.n > 0);
}

/* The scope, name and route that a sound row holds, as its key. */
static size_t
guess_key(struct span value, char key[static LEARN_ROW_KEY_MAX])
{
    enum { NAME_AT = 3 + 1 + 3 * 8 + 2 * 4 + 8 + 2 + 1 + 2 + 2 };
    struct span strings[3] = {SPAN_NONE, SPAN_NONE, SPAN_NONE}, rest = span_from(value, NAME_AT);

    for (size_t i = 0; i < N_ELEMENTS(strings) && rest.n >= 2; i++) {
        size_t n = (size_t)(unsigned char)rest.p[0] << 8 | (unsigned char)rest.p[1];
        strings[i] = span_first(span_from(rest, 2), n);
        rest = span_from(rest, 2 + n);
    }
    struct learn_entry e = {.scope = value.n > 3 && value.p[3] == 1 ? LEARN_SITE : LEARN_DOMAIN,
                            .name = span_first(strings[0], 253),
                            .route = span_first(strings[2], LEARN_ROUTE_MAX)};
    if (e.scope == LEARN_SITE)
        e.name = span_first(strings[0], LEARN_NAME_MAX);
    return learn_row_key(&e, key);
}

static void
use(struct span key, struct span value, const struct learn_entry *e)
{
    struct learn *l = learn_new((struct map_seed){1, 2}, &config, on_changed, NULL);
    bool site = e->scope == LEARN_SITE;
    const struct learn_way way = {.domain = site ? SPAN("a.test") : e->name,
                                  .site = site ? e->name : SPAN("mx.test 1/00"),
                                  .label = e->label,
                                  .route = e->route,
                                  .key = {1, 2}};
    const struct learn_reply reply = {.klass = SPAN("geo-blocked"), .text = span_str(e->text)};
    const struct learn_entry *why;

    CHECK(learn_load(l, key, value, NOW, NULL) == ERR_OK && learn_count(l) == 1);
    enum learn_advice advice = learn_advise(l, &way, NOW, &why);
    CHECK(advice != LEARN_FREE && why->until_at <= NOW + config.max_ttl_ms);
    CHECK(learn_probe(l, &way, NOW) == (advice == LEARN_PROBE));
    learn_refused(l, &way, &reply, NOW);
    CHECK(learn_advise(l, &way, NOW, &why) == LEARN_AVOID);
    CHECK(why->ttl_ms > 0 && why->ttl_ms <= config.max_ttl_ms);
    CHECK(learn_sweep(l, NOW + 2 * config.max_ttl_ms, 9) >= 1 && learn_count(l) == 0);
    learn_free(l);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct span value = span_of(data, n);
    char own[LEARN_ROW_KEY_MAX];
    struct span key = span_of(own, guess_key(value, own));
    struct learn_entry e, again;

    if (learn_row_decode(key, value, &e, NULL) != ERR_OK)
        return 0;
    CHECK(e.name.n > 0 && e.name.n <= LEARN_NAME_MAX && e.route.n > 0);
    CHECK(strlen(e.to) <= LEARN_ROUTE_MAX && strlen(e.text) <= LEARN_TEXT_MAX);
    CLEANUP(strbuf_release) struct strbuf out = STRBUF_INIT;
    learn_row_value(&e, &out);
    CHECK(out.n <= LEARN_ROW_VALUE_MAX);
    CHECK(learn_row_decode(key, strbuf_span(&out), &again, NULL) == ERR_OK);
    CHECK(again.until_at == e.until_at && again.ttl_ms == e.ttl_ms && again.good == e.good);
    CHECK(strcmp(again.text, e.text) == 0 && strcmp(again.to, e.to) == 0);
    CHECK(again.klass == e.klass && again.site_hash == e.site_hash);
    use(key, value, &e);
    return 0;
}
