/*
 * The protocol core against its model: random dialogues with servers of all kinds, decoded from
 * seeded tapes (see tests/dialog/models). RELAYD_DIALOGUES says how many; RELAYD_SEED begins with
 * another seed, to repeat one that failed.
 */
#include "policy/base/mem.h"
#include "tests/dialog/models/smtpc_dialogue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define DIALOGUES 20000
#define TAPE_MAX 300

static uint64_t
number(const char *name, uint64_t otherwise)
{
    uint64_t n = otherwise;
    const char *text = getenv(name);

    if (text != NULL)
        assert_true(span_u64(span_str(text), &n));
    return n;
}

static void
core_and_model_agree_in_random_dialogues(void **state)
{
    (void)state;
    static struct smtpc_reached r;
    uint64_t n = number("RELAYD_DIALOGUES", DIALOGUES), seed = number("RELAYD_SEED", 1);

    for (uint64_t end = seed + n; seed < end; seed++) {
        uint8_t bytes[TAPE_MAX];
        uint64_t random = seed;
        struct tape tape = {bytes, 20 + tape_random(&random) % (TAPE_MAX - 20)};
        for (size_t i = 0; i < tape.n; i++)
            bytes[i] = (uint8_t)(tape_random(&random) >> 56);
        CLEANUP(strbuf_release) struct strbuf why = STRBUF_INIT;
        if (!smtpc_dialogue(tape, &r, &why)) {
            fwrite(why.p, 1, why.n, stderr);
            fail_msg("RELAYD_SEED=%llu RELAYD_DIALOGUES=1 repeats it", (unsigned long long)seed);
        }
    }
    printf("%llu dialogues: recipients %llu delivered, %llu deferred, %llu failed\n",
           (unsigned long long)n, (unsigned long long)r.kinds[OUTCOME_DELIVERED],
           (unsigned long long)r.kinds[OUTCOME_DEFERRED],
           (unsigned long long)r.kinds[OUTCOME_FAILED]);
    if (n < DIALOGUES)
        return;
    /* All of it is reached, so that agreeing means something. */
    for (size_t i = 0; i < N_ELEMENTS(r.kinds); i++)
        assert_true(r.kinds[i] > n / 10);
    for (size_t i = 0; i < N_ELEMENTS(r.ends); i++)
        assert_true(r.ends[i] > n / 100);
    assert_true(r.path > n / 100 && r.twice > n / 100 && r.in_tls > n / 10);
    assert_true(r.bodies > n / 10 && r.early > n / 100);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(core_and_model_agree_in_random_dialogues),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
