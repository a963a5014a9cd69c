/*
 * The protocol core against its model: random dialogues, decoded from seeded tapes (see
 * tests/dialog/models). RELAYD_DIALOGUES says how many; RELAYD_SEED begins with another seed, to
 * repeat one that failed.
 */
#include "policy/base/mem.h"
#include "tests/dialog/models/smtpd_dialogue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#define DIALOGUES 20000
#define TAPE_MAX 400 /* octets: some 60 commands */

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
    static struct smtpd_reached r;
    uint64_t n = number("RELAYD_DIALOGUES", DIALOGUES), seed = number("RELAYD_SEED", 1);

    for (uint64_t end = seed + n; seed < end; seed++) {
        uint8_t bytes[TAPE_MAX];
        uint64_t random = seed;
        struct tape tape = {bytes, 20 + tape_random(&random) % (TAPE_MAX - 20)};
        for (size_t i = 0; i < tape.n; i++)
            bytes[i] = (uint8_t)(tape_random(&random) >> 56);
        CLEANUP(strbuf_release) struct strbuf why = STRBUF_INIT;
        if (!smtpd_dialogue(tape, &r, &why)) {
            fwrite(why.p, 1, why.n, stderr);
            fail_msg("RELAYD_SEED=%llu RELAYD_DIALOGUES=1 repeats it", (unsigned long long)seed);
        }
    }
    printf("%llu dialogues: %llu messages queued, %llu not, %llu transactions aborted\n",
           (unsigned long long)n, (unsigned long long)r.queued, (unsigned long long)r.not_queued,
           (unsigned long long)r.aborted);
    if (n < DIALOGUES)
        return;
    /* The grammar reaches all of it, so that agreeing means something. */
    static const int codes[] = {214, 220, 221, 235, 250, 252, 334, 354, 421, 450, 451, 452, 500,
                                501, 502, 503, 504, 530, 535, 538, 550, 552, 553, 554, 555};
    for (size_t i = 0; i < N_ELEMENTS(codes); i++)
        if (r.replies[codes[i]] == 0)
            fail_msg("no dialogue led to a %d", codes[i]);
    assert_true(r.queued > n / 10 && r.not_queued > n / 100 && r.aborted > n / 10);
    assert_true(r.by_bdat > n / 10 && r.in_tls > n / 100 && r.timeouts > 0 && r.stops > 0);
    assert_true(r.given_up > 0 && r.late > 0);
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
