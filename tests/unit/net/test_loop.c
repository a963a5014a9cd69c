/* Deferred work and retired objects: order, cancel, yielding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/net/loop.h"

struct work {
    struct deferred deferred;
    struct loop *loop;
    struct work *other; /* what the callback does to it: */
    enum { NOTHING, DEFER_ITSELF, DEFER_OTHER, CANCEL_OTHER, RETIRE_ITSELF } act;
    int n_runs;
    int order;
};

static int order;
static int n_freed;

static void
work_free(void *object)
{
    n_freed++;
    free(object);
}

static void
on_work(struct deferred *d)
{
    struct work *w = CONTAINER_OF(d, struct work, deferred);
    w->n_runs++;
    w->order = ++order;
    switch (w->act) {
    case NOTHING:
        break;
    case DEFER_ITSELF:
        loop_defer(w->loop, &w->deferred, on_work);
        break;
    case DEFER_OTHER:
        loop_defer(w->loop, &w->other->deferred, on_work);
        break;
    case CANCEL_OTHER:
        loop_defer_cancel(&w->other->deferred);
        break;
    case RETIRE_ITSELF:
        loop_retire(w->loop, w, work_free);
        break;
    }
}

static void
deferred_work_runs_once_in_order_and_not_at_once(void **state)
{
    (void)state;
    struct loop *loop = loop_new_stepped(0);
    struct work a = {.loop = loop}, b = {.loop = loop};
    order = 0;
    loop_defer(loop, &b.deferred, on_work);
    loop_defer(loop, &a.deferred, on_work);
    loop_defer(loop, &b.deferred, on_work);
    assert_int_equal(a.n_runs + b.n_runs, 0);
    loop_run_once(loop, 0);
    loop_run_once(loop, 0);
    assert_int_equal(a.n_runs, 1);
    assert_int_equal(b.n_runs, 1);
    assert_true(b.order < a.order);
    loop_free(loop);
}

static void
cancelled_work_does_not_run(void **state)
{
    (void)state;
    struct loop *loop = loop_new_stepped(0);
    struct work a = {.loop = loop}, b = {.loop = loop}, c = {.loop = loop};
    loop_defer(loop, &a.deferred, on_work);
    loop_defer_cancel(&a.deferred);
    loop_defer_cancel(&a.deferred);
    b.act = CANCEL_OTHER; /* from inside the round, of the round's last */
    b.other = &c;
    loop_defer(loop, &b.deferred, on_work);
    loop_defer(loop, &c.deferred, on_work);
    loop_run_once(loop, 0);
    assert_int_equal(a.n_runs, 0);
    assert_int_equal(b.n_runs, 1);
    assert_int_equal(c.n_runs, 0);
    loop_defer(loop, &c.deferred, on_work); /* and is usable again */
    loop_run_once(loop, 0);
    assert_int_equal(c.n_runs, 1);
    loop_free(loop);
}

static void
work_that_defers_itself_yields_to_the_next_tick(void **state)
{
    (void)state;
    struct loop *loop = loop_new_stepped(0);
    struct work a = {.loop = loop, .act = DEFER_ITSELF}, b = {.loop = loop};
    loop_defer(loop, &a.deferred, on_work);
    loop_run_once(loop, 0);
    assert_int_equal(a.n_runs, 1);
    loop_defer(loop, &b.deferred, on_work);
    for (int i = 0; i < 3; i++)
        loop_run_once(loop, 10);
    assert_true(a.n_runs >= 2 && a.n_runs <= 4);
    assert_int_equal(b.n_runs, 1);
    loop_defer_cancel(&a.deferred);
    loop_free(loop);
}

static void
retired_objects_are_freed_after_the_deferred_work(void **state)
{
    (void)state;
    struct loop *loop = loop_new_stepped(0);
    struct work *a = xcalloc(1, sizeof(*a)), *b = xcalloc(1, sizeof(*b));
    struct work c = {.loop = loop, .act = CANCEL_OTHER, .other = b};
    n_freed = 0;
    *a = (struct work){.loop = loop, .act = RETIRE_ITSELF};
    *b = (struct work){.loop = loop};
    loop_defer(loop, &a->deferred, on_work);
    loop_defer(loop, &b->deferred, on_work);
    loop_defer(loop, &c.deferred, on_work);
    loop_retire(loop, b, work_free); /* its work still runs, in the same round */
    assert_int_equal(n_freed, 0);
    loop_run_once(loop, 0);
    assert_int_equal(n_freed, 2);
    assert_int_equal(c.n_runs, 1);
    loop_free(loop);
}

static void
freeing_the_loop_runs_what_waits(void **state)
{
    (void)state;
    struct loop *loop = loop_new_stepped(0);
    struct work a = {.loop = loop};
    struct work chain = {.loop = loop, .act = DEFER_OTHER, .other = &a};
    n_freed = 0;
    loop_defer(loop, &chain.deferred, on_work);
    loop_retire(loop, xmalloc(1), work_free);
    loop_free(loop);
    assert_int_equal(a.n_runs, 1);
    assert_int_equal(n_freed, 1);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deferred_work_runs_once_in_order_and_not_at_once),
        cmocka_unit_test(cancelled_work_does_not_run),
        cmocka_unit_test(work_that_defers_itself_yields_to_the_next_tick),
        cmocka_unit_test(retired_objects_are_freed_after_the_deferred_work),
        cmocka_unit_test(freeing_the_loop_runs_what_waits),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
