#include "relayd/ops/bpf.h"

#include <string.h>

/* Where the program goes on behind a jump, from the next instruction on. */
static size_t
jump(const struct sock_filter *i, uint32_t a)
{
    bool holds = false;

    switch (BPF_OP(i->code)) {
    case BPF_JA:
        return i->k;
    case BPF_JEQ:
        holds = a == i->k;
        break;
    case BPF_JGT:
        holds = a > i->k;
        break;
    case BPF_JGE:
        holds = a >= i->k;
        break;
    default:
        holds = (a & i->k) != 0; /* BPF_JSET */
    }
    return holds ? i->jt : i->jf;
}

bool
bpf_answer(const struct sock_filter *program, size_t n, const struct seccomp_data *call,
           uint32_t *ret)
{
    uint32_t a = 0;

    for (size_t at = 0; at < n; at++) {
        const struct sock_filter *i = &program[at];
        switch (i->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            if (i->k > sizeof(*call) - sizeof(a))
                return false;
            memcpy(&a, (const char *)call + i->k, sizeof(a));
            break;
        case BPF_ALU | BPF_AND | BPF_K:
            a &= i->k;
            break;
        case BPF_JMP | BPF_JA:
        case BPF_JMP | BPF_JEQ | BPF_K:
        case BPF_JMP | BPF_JGT | BPF_K:
        case BPF_JMP | BPF_JGE | BPF_K:
        case BPF_JMP | BPF_JSET | BPF_K:
            at += jump(i, a);
            break;
        case BPF_RET | BPF_K:
            *ret = i->k;
            return true;
        default:
            return false;
        }
    }
    return false;
}
