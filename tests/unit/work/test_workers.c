#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/work/workers.h"

struct task {
    struct job job;
    unsigned number;
    bool ran;
};

static struct inbox *box;
static unsigned n_done, n_dropped;
static atomic_uint hashes, hashes_most, made, freed;
static atomic_bool signals_open;

static void
on_done(struct job *job)
{
    n_done++;
    n_dropped += job->dropped;
}

static void
wait_for(unsigned n)
{
    while (n_done < n) {
        assert_true(inbox_wait(box, 20000));
        inbox_run(box);
    }
}

static void
setup_box(void)
{
    n_done = n_dropped = 0;
    box = inbox_new(NULL);
}

static void
run_plain(struct job *job, struct worker *worker)
{
    struct task *task = CONTAINER_OF(job, struct task, job);
    sigset_t blocked;
    (void)worker;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    if (!sigismember(&blocked, SIGTERM) || !sigismember(&blocked, SIGHUP))
        signals_open = true;
    task->ran = true;
}

static void
each_job_is_run_and_done_once_with_signals_blocked(void **state)
{
    (void)state;
    enum { N = 2000 };
    struct task *tasks = xcalloc(N, sizeof(*tasks));
    setup_box();
    signals_open = false;
    struct workers *w = workers_new(3, box, NULL, 0);
    assert_int_equal(workers_start(w, NULL), ERR_OK);
    assert_int_equal(workers_count(w), 3);
    for (unsigned i = 0; i < N; i++) {
        tasks[i].job = (struct job){.run = run_plain, .done = on_done};
        workers_submit(w, &tasks[i].job);
    }
    wait_for(N);
    for (unsigned i = 0; i < N; i++)
        assert_true(tasks[i].ran);
    assert_int_equal(n_dropped, 0);
    assert_int_equal(workers_waiting(w), 0);
    assert_false(signals_open);
    workers_free(w);
    inbox_free(box);
    free(tasks);
}

static void
run_hash(struct job *job, struct worker *worker)
{
    (void)job;
    (void)worker;
    unsigned now = atomic_fetch_add(&hashes, 1) + 1;
    unsigned most = hashes_most;
    while (now > most && !atomic_compare_exchange_weak(&hashes_most, &most, now))
        ;
    for (volatile unsigned i = 0; i < 20000; i++)
        ;
    atomic_fetch_sub(&hashes, 1);
}

static void
at_most_one_hash_runs_at_a_time_and_none_is_forgotten(void **state)
{
    (void)state;
    enum { N = 300 };
    struct task *tasks = xcalloc(2 * N, sizeof(*tasks));
    setup_box();
    hashes = hashes_most = 0;
    struct workers *w = workers_new(4, box, NULL, 0);
    assert_int_equal(workers_start(w, NULL), ERR_OK);
    for (unsigned i = 0; i < 2 * N; i++) {
        bool hash = i % 2 == 0;
        tasks[i].job = (struct job){.run = hash ? run_hash : run_plain,
                                    .done = on_done,
                                    .job_class = hash ? JOB_HASH : JOB_NORMAL};
        workers_submit(w, &tasks[i].job);
    }
    wait_for(2 * N);
    assert_int_equal(hashes_most, 1);
    workers_free(w);
    inbox_free(box);
    free(tasks);
}

static unsigned order[64], n_order; /* one worker only writes these */

static void
run_note_order(struct job *job, struct worker *worker)
{
    (void)worker;
    order[n_order++] = (unsigned)job->job_class;
}

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void
run_behind_gate(struct job *job, struct worker *worker)
{
    (void)job;
    (void)worker;
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

static void
the_two_classes_take_turns_on_one_worker(void **state)
{
    (void)state;
    struct task tasks[20], first = {.job = {.run = run_behind_gate, .done = on_done}};
    setup_box();
    n_order = 0;
    memset(tasks, 0, sizeof(tasks));
    pthread_mutex_lock(&gate);
    struct workers *w = workers_new(1, box, NULL, 0);
    assert_int_equal(workers_start(w, NULL), ERR_OK);
    workers_submit(w, &first.job);
    while (workers_waiting(w) > 0)
        sched_yield();
    for (unsigned i = 0; i < 20; i++) {
        tasks[i].job = (struct job){
            .run = run_note_order, .done = on_done, .job_class = i < 10 ? JOB_HASH : JOB_NORMAL};
        workers_submit(w, &tasks[i].job);
    }
    assert_int_equal(workers_waiting(w), 20);
    pthread_mutex_unlock(&gate);
    wait_for(21);
    for (unsigned i = 1; i < 20; i++)
        assert_int_not_equal(order[i], order[i - 1]);
    workers_free(w);
    inbox_free(box);
}

static void *
slot_make(void *arg)
{
    atomic_fetch_add(&made, 1);
    return xstrdup(arg);
}

static void
slot_free(void *value)
{
    atomic_fetch_add(&freed, 1);
    free(value);
}

static void
run_with_slot(struct job *job, struct worker *worker)
{
    struct task *task = CONTAINER_OF(job, struct task, job);
    const char *value = worker_local(worker, 1);
    task->ran =
        strcmp(value, "one") == 0 && value == worker_local(worker, 1) && worker_index(worker) < 2;
}

static void
a_slot_is_made_once_a_worker_and_freed_at_its_end(void **state)
{
    (void)state;
    enum { N = 500 };
    static char zero[] = "zero", one[] = "one";
    struct task *tasks = xcalloc(N, sizeof(*tasks));
    const struct worker_slot slots[] = {{slot_make, slot_free, zero}, {slot_make, slot_free, one}};
    setup_box();
    made = freed = 0;
    struct workers *w = workers_new(2, box, slots, 2);
    assert_int_equal(workers_start(w, NULL), ERR_OK);
    for (unsigned i = 0; i < N; i++) {
        tasks[i].job = (struct job){.run = run_with_slot, .done = on_done};
        workers_submit(w, &tasks[i].job);
    }
    wait_for(N);
    for (unsigned i = 0; i < N; i++)
        assert_true(tasks[i].ran);
    workers_free(w);
    assert_in_range(made, 1, 2); /* slot 0 is never asked for */
    assert_int_equal(freed, made);
    inbox_free(box);
    free(tasks);
}

static void *
stop_thread(void *arg)
{
    workers_stop(arg);
    return NULL;
}

static void
a_stop_finishes_what_runs_and_drops_what_waits(void **state)
{
    (void)state;
    struct task running = {.job = {.run = run_behind_gate, .done = on_done}};
    struct task waiting[3], late = {.job = {.run = run_plain, .done = on_done}};
    pthread_t stopper;
    setup_box();
    memset(waiting, 0, sizeof(waiting));
    pthread_mutex_lock(&gate);
    struct workers *w = workers_new(1, box, NULL, 0);
    assert_int_equal(workers_start(w, NULL), ERR_OK);
    workers_submit(w, &running.job);
    while (workers_waiting(w) > 0)
        sched_yield();
    for (unsigned i = 0; i < 3; i++) {
        waiting[i].job = (struct job){
            .run = run_plain, .done = on_done, .job_class = i == 1 ? JOB_HASH : JOB_NORMAL};
        workers_submit(w, &waiting[i].job);
    }
    assert_int_equal(pthread_create(&stopper, NULL, stop_thread, w), 0);
    while (workers_waiting(w) > 0) /* the stop has taken the list */
        sched_yield();
    pthread_mutex_unlock(&gate);
    pthread_join(stopper, NULL);
    workers_submit(w, &late.job);
    while (inbox_run(box) > 0)
        ;
    assert_int_equal(n_done, 5);
    assert_int_equal(n_dropped, 4);
    assert_false(running.job.dropped);
    for (unsigned i = 0; i < 3; i++)
        assert_true(waiting[i].job.dropped && !waiting[i].ran);
    assert_true(late.job.dropped);
    workers_free(w);
    inbox_free(box);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_job_is_run_and_done_once_with_signals_blocked),
        cmocka_unit_test(at_most_one_hash_runs_at_a_time_and_none_is_forgotten),
        cmocka_unit_test(the_two_classes_take_turns_on_one_worker),
        cmocka_unit_test(a_slot_is_made_once_a_worker_and_freed_at_its_end),
        cmocka_unit_test(a_stop_finishes_what_runs_and_drops_what_waits),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
