/*
 * queue/structure on what LMDB writes: after each commit of a busy queue the file is sound. Large
 * and small batches in turn make LMDB rewrite its free list in every way that it knows, also in
 * fewer bytes than the pages it lies in.
 *
 * STRUCTURE_COMMITS and STRUCTURE_SEED choose how many commits, and which.
 */
#include "tests/unit/queue/fixture.h"

#include <time.h>

#include "queue/structure.h"

#define COMMITS 200
#define WAITING_MAX 6000

static uint64_t waiting[WAITING_MAX];
static size_t n_waiting;

static unsigned
number(const char *name, unsigned otherwise)
{
    const char *text = getenv(name);
    return text == NULL ? otherwise : (unsigned)strtoul(text, NULL, 10);
}

static unsigned
below(unsigned n)
{
    return (unsigned)random() % n;
}

static void
add_some(struct fixture *f, struct queue_batch *batch, unsigned n)
{
    static char text[30000];
    for (; n > 0 && n_waiting < WAITING_MAX; n--) {
        char address[40];
        snprintf(address, sizeof(address), "u@d%u.test", below(300));
        struct queue_rcpt rcpt = recipient(0, address);
        struct span body = span_of(text, below(8) == 0 ? below(sizeof(text)) : below(3000));
        struct queue_msg msg = message(f, body.n);
        OK(queue_add(batch, &msg, &rcpt, 1, &body, 1, err));
        waiting[n_waiting++] = msg.id;
    }
}

static void
finish_some(struct queue_batch *batch, unsigned n)
{
    for (; n > 0 && n_waiting > 0; n--) {
        size_t i = below((unsigned)n_waiting);
        struct queue_change c = {.id = waiting[i],
                                 .revision = 1,
                                 .verb = QUEUE_FINISH,
                                 .result = QUEUE_DELIVERED,
                                 .finished_at = T0};
        OK(queue_apply(batch, &c, err));
        waiting[i] = waiting[--n_waiting];
    }
}

static void
run(struct fixture *f, unsigned seed, unsigned commits)
{
    char path[128];

    srandom(seed);
    n_waiting = 0;
    snprintf(path, sizeof(path), "%s/data.mdb", f->dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < commits; i++) {
        struct queue_batch *batch = begin(f);
        unsigned much = below(6) == 0 ? 1500 : 60;
        add_some(f, batch, below(much));
        finish_some(batch, below(much));
        if (below(4) == 0)
            OK(queue_history_trim(batch, T0 - 1, 100 + below(2000), 1 + below(2000), NULL, err));
        commit(batch);
        struct err err;
        if (queue_structure_check(fd, f->dir, &err) != ERR_OK)
            fail_msg("seed %u, commit %u: %s", seed, i, err.text);
    }
    close(fd);
    assert_sound(f);
}

static void
sound_after_every_commit(void **state)
{
    run(*state, number("STRUCTURE_SEED", (unsigned)time(NULL)),
        number("STRUCTURE_COMMITS", COMMITS));
}

/* Its 83rd commit leaves a free list in a page of its own that would fit into a leaf. */
static void
sound_with_a_list_that_became_small(void **state)
{
    run(*state, 2, 100);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sound_after_every_commit, fixture_setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(sound_with_a_list_that_became_small, fixture_setup,
                                        fixture_teardown),
    };
    RUN_TESTS(tests);
}
