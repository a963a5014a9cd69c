#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "policy/learn.h"

#define T0 ((msec_t)1700000000000)

static const struct config_learning config = {.ttl_ms = 6 * HOUR,
                                              .max_ttl_ms = 7 * DAY,
                                              .path_errors_count = 3,
                                              .path_errors_within_ms = HOUR,
                                              .max_reroutes = {200, HOUR}};

static const struct learn_entry sample = {
    .scope = LEARN_DOMAIN,
    .name = {"a.test", 6},
    .label = {"a.test", 6},
    .route = {"direct", 6},
    .to = "us",
    .klass = "ip-blocklisted",
    .code = 550,
    .enh = {5, 7, 606},
    .text = "Mail from 192.0.2.1 is blocked \xe4\xb8\xad",
    .since_at = T0 - DAY,
    .until_at = T0 + HOUR,
    .ttl_ms = 12 * HOUR,
    .renewals = 1,
    .good = 2,
    .site_hash = 0x0123456789abcdef,
};

/* A row, as the queue holds it. */
struct row {
    char key[LEARN_ROW_KEY_MAX];
    size_t key_bytes;
    struct strbuf value;
};

static struct row
row_of(const struct learn_entry *e)
{
    struct row row = {.value = STRBUF_INIT};
    row.key_bytes = learn_row_key(e, row.key);
    learn_row_value(e, &row.value);
    return row;
}

static enum err_code
decode(const struct row *row, struct learn_entry *ret)
{
    struct err err = {.text = ""};
    enum err_code code =
        learn_row_decode(span_of(row->key, row->key_bytes), strbuf_span(&row->value), ret, &err);
    assert_true((code == ERR_OK) == (err.text[0] == '\0'));
    return code;
}

static void
assert_same(const struct learn_entry *a, const struct learn_entry *b)
{
    assert_int_equal(a->scope, b->scope);
    assert_true(span_eq(a->name, b->name));
    assert_true(span_eq(a->label, b->label));
    assert_true(span_eq(a->route, b->route));
    assert_string_equal(a->to, b->to);
    assert_string_equal(a->klass, b->klass);
    assert_int_equal(a->code, b->code);
    assert_int_equal(a->enh.klass, b->enh.klass);
    assert_int_equal(a->enh.subject, b->enh.subject);
    assert_int_equal(a->enh.detail, b->enh.detail);
    assert_string_equal(a->text, b->text);
    assert_int_equal(a->since_at, b->since_at);
    assert_int_equal(a->until_at, b->until_at);
    assert_int_equal(a->ttl_ms, b->ttl_ms);
    assert_int_equal(a->renewals, b->renewals);
    assert_int_equal(a->good, b->good);
    assert_int_equal(a->site_hash, b->site_hash);
}

static void
a_row_says_all_of_its_entry(void **state)
{
    (void)state;
    struct row row = row_of(&sample);
    struct learn_entry got;
    assert_string_equal(row.key, "learned:domain:a.test:direct");
    assert_int_equal(decode(&row, &got), ERR_OK);
    assert_same(&got, &sample);
    strbuf_release(&row.value);
}

static void
the_longest_names_fit_a_row(void **state)
{
    (void)state;
    static char x[LEARN_NAME_MAX];
    struct learn_entry e = sample, got;
    memset(x, 'x', sizeof(x));
    e.route = span_of(x, LEARN_ROUTE_MAX);
    e.name = e.label = span_of(x, 253);
    memset(e.to, 'y', LEARN_ROUTE_MAX);
    memset(e.text, 'z', LEARN_TEXT_MAX);
    struct row row = row_of(&e);
    assert_int_equal(decode(&row, &got), ERR_OK);
    assert_same(&got, &e);
    strbuf_release(&row.value);
    e.scope = LEARN_SITE;
    e.name = e.label = span_of(x, LEARN_NAME_MAX);
    row = row_of(&e);
    assert_true(row.value.n <= LEARN_ROW_VALUE_MAX);
    assert_int_equal(decode(&row, &got), ERR_OK);
    assert_same(&got, &e);
    strbuf_release(&row.value);
}

static void
sites_with_the_same_best_host_have_rows_of_their_own(void **state)
{
    (void)state;
    struct learn_entry e = sample;
    e.scope = LEARN_SITE;
    e.label = SPAN("mx1.test");
    e.name = SPAN("mx1.test mx2.test 2/00");
    struct row one = row_of(&e);
    e.name = SPAN("mx1.test mx3.test 2/00");
    struct row two = row_of(&e);
    assert_string_not_equal(one.key, two.key);
    /* and the key is the same in every run and on every machine */
    assert_string_equal(one.key, "learned:site:4b6fe9faa79e0cec:direct");
    strbuf_release(&one.value);
    strbuf_release(&two.value);
}

static void
a_cut_or_damaged_row_is_refused_and_a_newer_one_is_read(void **state)
{
    (void)state;
    struct row row = row_of(&sample);
    struct learn_entry got;
    size_t n = row.value.n;
    for (row.value.n = 0; row.value.n < n; row.value.n++)
        assert_int_equal(decode(&row, &got), ERR_CORRUPT);
    row.value.p[0] = 0; /* no such version */
    assert_int_equal(decode(&row, &got), ERR_CORRUPT);
    row.value.p[0] = 2;
    strbuf_add_str(&row.value, "what a newer program knows");
    assert_int_equal(decode(&row, &got), ERR_OK);
    assert_same(&got, &sample);
    row.value.p[3] = 2; /* no such scope */
    assert_int_equal(decode(&row, &got), ERR_CORRUPT);
    row.value.p[3] = 0;
    row.value.p[4] = (char)0x80; /* a moment before 1970 */
    assert_int_equal(decode(&row, &got), ERR_CORRUPT);
    row.value.p[4] = 0;
    assert_int_equal(decode(&row, &got), ERR_OK);
    row.key[row.key_bytes - 1] = 'x'; /* another route's */
    assert_int_equal(decode(&row, &got), ERR_CORRUPT);
    strbuf_release(&row.value);
}

static void
a_class_of_a_newer_program_is_other(void **state)
{
    (void)state;
    struct learn_entry e = sample, got;
    e.klass = "moon-phase";
    struct row row = row_of(&e);
    assert_int_equal(decode(&row, &got), ERR_OK);
    assert_string_equal(got.klass, "other");
    strbuf_release(&row.value);
}

/* ---- a restart ---- */

#define ROWS 16
static struct row rows[ROWS];
static size_t n_rows, n_told;

/* The queue's state, as learned.c keeps it. */
static void
keep(void *arg, enum learn_change change, const struct learn_entry *e)
{
    struct row row = row_of(e);
    size_t i = 0;
    (void)arg;
    n_told++;
    while (i < n_rows && strcmp(rows[i].key, row.key) != 0)
        i++;
    if (i < n_rows)
        strbuf_release(&rows[i].value);
    else
        assert_in_range(n_rows++, 0, ROWS - 1);
    rows[i] = row;
    if (learn_change_removes(change)) {
        strbuf_release(&rows[i].value);
        rows[i] = rows[--n_rows];
    }
}

static struct learn *
restart(struct learn *l, msec_t now)
{
    learn_free(l);
    l = learn_new((struct map_seed){(uint64_t)now, 5}, &config, keep, NULL);
    for (size_t i = 0; i < n_rows; i++) {
        struct err err;
        assert_int_equal(learn_load(l, span_of(rows[i].key, rows[i].key_bytes),
                                    strbuf_span(&rows[i].value), now, &err),
                         ERR_OK);
        assert_int_equal(learn_load(l, span_of(rows[i].key, rows[i].key_bytes),
                                    strbuf_span(&rows[i].value), now, &err),
                         ERR_EXISTS);
    }
    return l;
}

static int
forget_rows(void **state)
{
    (void)state;
    while (n_rows > 0)
        strbuf_release(&rows[--n_rows].value);
    n_told = 0;
    return 0;
}

static struct learn_way
way_of(const char *domain, uint64_t id)
{
    return (struct learn_way){.domain = span_str(domain),
                              .site = SPAN("mx1.test mx2.test 2/00"),
                              .label = SPAN("mx1.test"),
                              .route = SPAN("direct"),
                              .key = {id, 0}};
}

static const struct learn_reply reply = {.to = {"us", 2}, .klass = {"geo-blocked", 11}};

static void
what_was_learned_goes_on_behind_a_restart(void **state)
{
    (void)state;
    msec_t now = T0;
    struct learn *l = restart(NULL, now);
    struct learn_way a = way_of("a.test", 1), b = way_of("b.test", 2);

    learn_refused(l, &a, &reply, now);
    l = restart(l, now += HOUR);
    assert_int_equal(learn_advise(l, &a, now, NULL), LEARN_AVOID);
    learn_refused(l, &b, &reply, now); /* two domains agree over the restart */
    assert_int_equal(n_rows, 3);
    now += 6 * HOUR;
    assert_true(learn_probe(l, &a, now));
    learn_refused(l, &a, &reply, now);
    l = restart(l, now);
    assert_int_equal(learn_count(l), 3);
    const struct learn_entry *why;
    assert_int_equal(learn_advise(l, &a, now, &why), LEARN_AVOID);
    assert_int_equal(why->ttl_ms, 12 * HOUR);
    assert_int_equal(why->renewals, 1);
    now += 12 * HOUR;
    for (int i = 0; i < 3; i++) { /* good probes are counted over restarts, slots are not kept */
        assert_true(learn_probe(l, &b, now));
        l = restart(l, now);
        assert_true(learn_probe(l, &a, now));
        learn_delivered(l, &a, now);
    }
    assert_int_equal(n_rows, 1);
    l = restart(l, now);
    assert_int_equal(learn_advise(l, &a, now, NULL), LEARN_FREE);
    assert_int_equal(learn_advise(l, &b, now, NULL), LEARN_PROBE);
    learn_free(l);
}

static void
moments_that_cannot_be_are_pulled_in_when_read(void **state)
{
    (void)state;
    struct learn_entry e = sample;
    struct learn_way way = way_of("a.test", 1);
    const struct learn_entry *why;

    e.since_at = T0 + 100 * DAY;
    e.until_at = INT64_MAX;
    e.ttl_ms = INT64_MAX;
    rows[n_rows++] = row_of(&e);
    struct learn *l = restart(NULL, T0);
    assert_int_equal(n_told, 1); /* so that it is stored as it is now */
    assert_int_equal(learn_advise(l, &way, T0, &why), LEARN_AVOID);
    assert_int_equal(why->until_at, T0 + 7 * DAY);
    assert_int_equal(why->since_at, T0);
    assert_int_equal(why->ttl_ms, 7 * DAY);
    assert_int_equal(why->good, 2);
    l = restart(l, T0 + DAY);
    assert_int_equal(n_told, 1);
    assert_int_equal(learn_advise(l, &way, T0 + 7 * DAY, NULL), LEARN_PROBE);
    /* one from long ago is there until it is swept */
    e.until_at = 0;
    strbuf_release(&rows[0].value);
    rows[0] = row_of(&e);
    l = restart(l, T0);
    assert_int_equal(learn_sweep(l, T0, 9), 1);
    assert_int_equal(n_rows, 0);
    learn_free(l);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_says_all_of_its_entry),
        cmocka_unit_test(the_longest_names_fit_a_row),
        cmocka_unit_test(sites_with_the_same_best_host_have_rows_of_their_own),
        cmocka_unit_test(a_cut_or_damaged_row_is_refused_and_a_newer_one_is_read),
        cmocka_unit_test(a_class_of_a_newer_program_is_other),
        cmocka_unit_test_teardown(what_was_learned_goes_on_behind_a_restart, forget_rows),
        cmocka_unit_test_teardown(moments_that_cannot_be_are_pulled_in_when_read, forget_rows),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
