/* The interpreter of filters: each instruction, and programs that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "policy/base/mem.h"
#include "relayd/ops/bpf.h"

#define LOAD(field) \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
#define RET(k) BPF_STMT(BPF_RET | BPF_K, k)

static const struct seccomp_data call = {.nr = 5, .arch = 7, .args = {0x1100000003u}};

static void
every_instruction_does_its_own(void **state)
{
    (void)state;
    const struct {
        struct sock_filter test;
        uint32_t answer; /* 1: it holds */
    } cases[] = {
        {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 5, 0, 1), 1},
        {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, 1), 2},
        {BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 4, 0, 1), 1},
        {BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 5, 0, 1), 2},
        {BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 5, 0, 1), 1},
        {BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 6, 0, 1), 2},
        {BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 4, 0, 1), 1},
        {BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 2, 0, 1), 2},
        {BPF_STMT(BPF_JMP | BPF_JA, 0), 1},
        {BPF_STMT(BPF_JMP | BPF_JA, 1), 2},
    };
    for (size_t i = 0; i < N_ELEMENTS(cases); i++) {
        const struct sock_filter program[] = {LOAD(nr), cases[i].test, RET(1), RET(2)};
        uint32_t answer = 0;
        assert_true(bpf_answer(program, N_ELEMENTS(program), &call, &answer));
        assert_int_equal(answer, cases[i].answer);
    }
}

static void
arguments_are_read_by_halves_and_masked(void **state)
{
    (void)state;
    const struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 4),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x10),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x10, 0, 3),
        LOAD(args),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 1),
        RET(1),
        RET(2),
    };
    uint32_t answer = 0;
    assert_true(bpf_answer(program, N_ELEMENTS(program), &call, &answer));
    assert_int_equal(answer, 1);
}

static void
what_is_no_program_has_no_answer(void **state)
{
    (void)state;
    const struct sock_filter unknown[] = {BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 1), RET(1)};
    const struct sock_filter unended[] = {LOAD(nr)};
    const struct sock_filter far[] = {BPF_STMT(BPF_JMP | BPF_JA, UINT32_MAX), RET(1)};
    const struct sock_filter past[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, sizeof(struct seccomp_data) - 3), RET(1)};
    uint32_t answer;
    assert_false(bpf_answer(unknown, N_ELEMENTS(unknown), &call, &answer));
    assert_false(bpf_answer(unended, N_ELEMENTS(unended), &call, &answer));
    assert_false(bpf_answer(far, N_ELEMENTS(far), &call, &answer));
    assert_false(bpf_answer(past, N_ELEMENTS(past), &call, &answer));
    assert_false(bpf_answer(unended, 0, &call, &answer));
}

int
main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_does_its_own),
        cmocka_unit_test(arguments_are_read_by_halves_and_masked),
        cmocka_unit_test(what_is_no_program_has_no_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
