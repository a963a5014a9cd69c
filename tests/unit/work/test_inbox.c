#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <event2/event.h>

#include "policy/base/mem.h"
#include "relayd/work/inbox.h"

#define THREADS 4
#define PER_THREAD 20000

struct note {
    struct inbox_node node;
    unsigned thread, number;
};

static unsigned seen[THREADS], total;
static struct inbox *box;

static void
note_done(struct inbox_node *node)
{
    struct note *note = CONTAINER_OF(node, struct note, node);
    assert_int_equal(note->number, seen[note->thread]);
    seen[note->thread]++;
    total++;
}

static void *
poster(void *arg)
{
    struct note *notes = arg;
    for (unsigned i = 0; i < PER_THREAD; i++) {
        notes[i].node.done = note_done;
        inbox_post(box, &notes[i].node);
    }
    return NULL;
}

static void
every_node_of_many_threads_arrives_once_and_in_order(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    struct note *notes[THREADS];
    total = 0;
    box = inbox_new(NULL);
    for (unsigned t = 0; t < THREADS; t++) {
        seen[t] = 0;
        notes[t] = xcalloc(PER_THREAD, sizeof(struct note));
        for (unsigned i = 0; i < PER_THREAD; i++)
            notes[t][i] = (struct note){.thread = t, .number = i};
        assert_int_equal(pthread_create(&threads[t], NULL, poster, notes[t]), 0);
    }
    while (total < THREADS * PER_THREAD) {
        assert_true(inbox_wait(box, 20000)); /* a lost wake-up ends here */
        inbox_run(box);
    }
    for (unsigned t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        assert_int_equal(seen[t], PER_THREAD);
        free(notes[t]);
    }
    assert_int_equal(inbox_run(box), 0);
    inbox_free(box);
}

static unsigned calls;
static struct note late;

static void
post_again(struct inbox_node *node)
{
    calls++;
    if (calls < 3)
        inbox_post(box, node);
}

static void
a_node_posted_inside_done_waits_for_the_next_run(void **state)
{
    (void)state;
    calls = 0;
    box = inbox_new(NULL);
    late.node.done = post_again;
    inbox_post(box, &late.node);
    assert_int_equal(inbox_run(box), 1);
    assert_int_equal(calls, 1);
    assert_true(inbox_wait(box, 0));
    assert_int_equal(inbox_run(box), 1);
    assert_int_equal(inbox_run(box), 1);
    assert_int_equal(inbox_run(box), 0);
    assert_int_equal(calls, 3);
    assert_false(inbox_wait(box, 0));
    inbox_free(box);
}

static void
a_chain_arrives_in_its_order_with_one_wake_up(void **state)
{
    (void)state;
    struct note notes[5];
    seen[0] = 0;
    box = inbox_new(NULL);
    inbox_post_chain(box, NULL);
    assert_false(inbox_wait(box, 0));
    for (unsigned i = 0; i < 5; i++) {
        notes[i] = (struct note){.number = i, .node.done = note_done};
        notes[i].node.next = i == 4 ? NULL : &notes[i + 1].node;
    }
    inbox_post_chain(box, &notes[0].node);
    assert_int_equal(inbox_run(box), 5);
    assert_int_equal(seen[0], 5);
    inbox_free(box);
}

static struct event_base *base;

static void
stop_loop(struct inbox_node *node)
{
    (void)node;
    calls++;
    event_base_loopbreak(base);
}

static void *
post_late(void *arg)
{
    inbox_post(box, arg);
    return NULL;
}

static void
the_event_loop_is_woken(void **state)
{
    (void)state;
    pthread_t thread;
    calls = 0;
    base = event_base_new();
    box = inbox_new(base);
    late.node.done = stop_loop;
    assert_int_equal(pthread_create(&thread, NULL, post_late, &late.node), 0);
    event_base_dispatch(base);
    pthread_join(thread, NULL);
    assert_int_equal(calls, 1);
    inbox_free(box);
    event_base_free(base);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_node_of_many_threads_arrives_once_and_in_order),
        cmocka_unit_test(a_node_posted_inside_done_waits_for_the_next_run),
        cmocka_unit_test(a_chain_arrives_in_its_order_with_one_wake_up),
        cmocka_unit_test(the_event_loop_is_woken),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
