/*
 * learn_rig - a table of what is learned, what it told, and short ways to meet a fate: `direct` to
 * a domain or through a hop, refused, delivered, with a path that failed.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "policy/learn.h"

#define RIG_UNUSED __attribute__((unused))
#define T0 ((msec_t)1700000000000)
#define TTL (6 * HOUR)
#define MAX_TTL (7 * DAY)
#define SITE "mx1.qq.example mx2.qq.example 2/00"

/* What the table told, newest last; `entry` is the last one's. */
static struct {
    struct learn *l;
    msec_t now;
    size_t n[LEARN_CHANGE__COUNT];
    struct learn_entry last;
    char last_name[LEARN_NAME_MAX + 1];
    struct config_learning config;
} t;

RIG_UNUSED static void
on_changed(void *arg, enum learn_change change, const struct learn_entry *e)
{
    assert_ptr_equal(arg, &t);
    t.n[change]++;
    t.last = *e;
    snprintf(t.last_name, sizeof(t.last_name), "%.*s", SPAN_ARG(e->name));
}

RIG_UNUSED static void
table_new(void)
{
    t.l = learn_new((struct map_seed){1, 2}, &t.config, on_changed, &t);
}

RIG_UNUSED static int
setup(void **state)
{
    (void)state;
    memset(&t, 0, sizeof(t));
    t.now = T0;
    t.config = (struct config_learning){.ttl_ms = TTL,
                                        .max_ttl_ms = MAX_TTL,
                                        .path_errors_count = 3,
                                        .path_errors_within_ms = HOUR,
                                        .max_reroutes = {200, HOUR}};
    table_new();
    return 0;
}

RIG_UNUSED static int
teardown(void **state)
{
    (void)state;
    learn_free(t.l);
    return 0;
}

/* Directly to a domain of the site; recipient 0 of message `id`. */
RIG_UNUSED static struct learn_way
direct(const char *domain, uint64_t id)
{
    return (struct learn_way){.domain = span_str(domain),
                              .site = SPAN(SITE),
                              .label = SPAN("mx1.qq.example"),
                              .route = SPAN("direct"),
                              .key = {id, 0}};
}

RIG_UNUSED static struct learn_way
through_hop(const char *domain, uint64_t id)
{
    return (struct learn_way){.domain = span_str(domain), .route = SPAN("us"), .key = {id, 0}};
}

RIG_UNUSED static const struct learn_reply at_rcpt = {.to = {"us", 2},
                                                      .klass = {"ip-blocklisted", 14},
                                                      .code = 550,
                                                      .enh = {5, 7, 1},
                                                      .text = {"blocked", 7}};

RIG_UNUSED static struct learn_reply
early(void)
{
    struct learn_reply reply = at_rcpt;
    reply.early = true;
    return reply;
}

RIG_UNUSED static void
refuse(struct learn_way way)
{
    learn_refused(t.l, &way, &at_rcpt, t.now);
}

RIG_UNUSED static void
refuse_early(struct learn_way way)
{
    const struct learn_reply reply = early();
    learn_refused(t.l, &way, &reply, t.now);
}

RIG_UNUSED static void
path_failed(struct learn_way way)
{
    const struct learn_reply reply = {.to = SPAN("us"), .text = SPAN("timed out")};
    learn_path_failed(t.l, &way, &reply, t.now);
}

RIG_UNUSED static void
deliver(struct learn_way way)
{
    learn_delivered(t.l, &way, t.now);
}

RIG_UNUSED static bool
probe(struct learn_way way)
{
    return learn_probe(t.l, &way, t.now);
}

static enum learn_advice
advice(struct learn_way way)
{
    return learn_advise(t.l, &way, t.now, NULL);
}

static enum learn_scope
scope_that_decides(struct learn_way way)
{
    const struct learn_entry *why;
    assert_int_not_equal(learn_advise(t.l, &way, t.now, &why), LEARN_FREE);
    assert_non_null(why);
    return why->scope;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#define RUN_TESTS(tests)                                  \
    do {                                                  \
        if (argc > 1)                                     \
            cmocka_set_test_filter(argv[1]);              \
        return cmocka_run_group_tests(tests, NULL, NULL); \
    } while (0)
